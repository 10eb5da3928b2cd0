#include "backend/cpu/lanes_avx2.h"
#include "backend/cpu/recurrent_lanes.h"
