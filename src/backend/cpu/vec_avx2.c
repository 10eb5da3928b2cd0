#include "backend/cpu/lanes_avx2.h"
#include "backend/cpu/vec_lanes.h"
