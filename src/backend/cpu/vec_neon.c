#include "backend/cpu/lanes_neon.h"
#include "backend/cpu/vec_lanes.h"
