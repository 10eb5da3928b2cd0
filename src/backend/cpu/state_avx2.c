#include "backend/cpu/lanes_avx2.h"
#include "backend/cpu/state_lanes.h"
