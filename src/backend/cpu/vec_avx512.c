#include "backend/cpu/lanes_avx512.h"
#include "backend/cpu/vec_lanes.h"
