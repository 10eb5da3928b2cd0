#include "backend/cpu/lanes_avx512.h"
#include "backend/cpu/state_lanes.h"
