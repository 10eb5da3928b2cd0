#include "backend/cpu/lanes_neon.h"
#include "backend/cpu/state_lanes.h"
