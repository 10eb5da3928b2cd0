#include "backend/cpu/lanes_avx512.h"
#include "backend/cpu/attention_lanes.h"
