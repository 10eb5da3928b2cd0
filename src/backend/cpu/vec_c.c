#include "backend/cpu/lanes_c.h"
#include "backend/cpu/vec_lanes.h"
