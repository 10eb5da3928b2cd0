#include "backend/cpu/lanes_c.h"
#include "backend/cpu/state_lanes.h"
