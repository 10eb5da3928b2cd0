#include "backend/cpu/lanes_neon.h"
#include "backend/cpu/recurrent_lanes.h"
