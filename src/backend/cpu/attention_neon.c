#include "backend/cpu/lanes_neon.h"
#include "backend/cpu/attention_lanes.h"
