#include "backend/cpu/lanes_c.h"
#include "backend/cpu/recurrent_lanes.h"
