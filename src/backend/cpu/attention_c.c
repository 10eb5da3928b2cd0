#include "backend/cpu/lanes_c.h"
#include "backend/cpu/attention_lanes.h"
