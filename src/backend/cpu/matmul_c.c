/* Product kernels in plain C: the definition of the bits. */
#include "backend/cpu/lanes_c.h"

#include <stddef.h>

#define LANES_ISA MR_ISA_C
#define TILE_NV 1
#define TILE_F32_ROWS 4
#define U8_OFFSET 0
#define U8_WIDE 0
#define DIRECT_F32 4
#define DIRECT_U4 4
#define I8_MANY_ROWS(...) 0

typedef struct x8 {
    int8_t v[4];
} x8, x4;
typedef v16i w8;

static inline x8 x_u8(const uint8_t *p)
{
    x8 x;
    memcpy(x.v, p, 4);
    return x;
}

static inline x8 slot_u8(int32_t r)
{
    x8 x;
    for (int j = 0; j < 4; j++)
        x.v[j] = (int8_t)((uint32_t)r >> 8 * j);
    return x;
}

#define x_u4 x_u8
#define slot_u4 slot_u8

static inline w8 w_u8(v16i line)
{
    return line;
}

static inline v16i dot_u8(v16i acc, w8 w, x8 x)
{
    for (int i = 0; i < 16; i++) {
        uint32_t q = (uint32_t)w.v[i];
        acc.v[i] += (int32_t)(q & 255) * x.v[0] + (int32_t)(q >> 8 & 255) * x.v[1] +
                    (int32_t)(q >> 16 & 255) * x.v[2] + (int32_t)(q >> 24) * x.v[3];
    }
    return acc;
}

#define dot_u4 dot_u8

#define shift_up v16i_shl

static inline v16f quad_max(v16f a)
{
    v16f r;
    for (int i = 0; i < 16; i++) {
        const float *q = a.v + i / 4 * 4;
        float x = q[0] > q[1] ? q[0] : q[1], y = q[2] > q[3] ? q[2] : q[3];
        r.v[i] = x > y ? x : y;
    }
    return r;
}

#include "backend/cpu/matmul_lanes.h"
