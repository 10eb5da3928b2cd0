#include "backend/cpu/lanes_avx512.h"
#include "backend/cpu/recurrent_lanes.h"
