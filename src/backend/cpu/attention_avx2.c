#include "backend/cpu/lanes_avx2.h"
#include "backend/cpu/attention_lanes.h"
