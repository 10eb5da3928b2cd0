/* Product kernels for NEON with sdot.  Both sides are signed: 4-bit and Q6_K weights are as they
 * are, bytes lose 128, which the start of every group's sum makes up for. */
#include "backend/cpu/lanes_neon.h"

#include <stddef.h>

#define LANES_ISA MR_ISA_NEON
#define TILE_NV 1
#define TILE_F32_ROWS 6
#define U8_OFFSET 128
#define TAKES_U4 0
#define U8_WIDE 0
#define ROW_STREAMS 1
#define FEW_CODES 4
#define DIRECT_F32 4
#define FEW_F32 4
#define DIRECT_I8 4
#define DIRECT_CODES 4
#define I8_MANY_ROWS(c, units, f, x, rows, slots, out) ((void)(slots), 0)

typedef int8x16_t x8, x4;
typedef v16i w8;

static inline x8 x_u8(const uint8_t *p)
{
    int32_t quad;
    memcpy(&quad, p, 4);
    return vreinterpretq_s8_s32(vdupq_n_s32(quad));
}

static inline x8 slot_u8(int32_t r)
{
    return vreinterpretq_s8_s32(vdupq_n_s32(r));
}

#define x_u4 x_u8
#define slot_u4 slot_u8

static inline w8 w_u8(v16i line)
{
    return v16i_xor(line, v16i_set1((int32_t)0x80808080));
}

static inline v16i dot_u4(v16i acc, v16i line, x4 x)
{
    for (int h = 0; h < 4; h++)
        acc.v[h] = vdotq_s32(acc.v[h], vreinterpretq_s8_s32(line.v[h]), x);
    return acc;
}

#define dot_u8 dot_u4

#define shift_up v16i_shl

static inline v16f quad_max(v16f a)
{
    for (int h = 0; h < 4; h++)
        a.v[h] = vdupq_n_f32(vmaxvq_f32(a.v[h]));
    return a;
}

static inline v16f number_u4(const uint8_t *line, int j)
{
    v16i q = v16i_shr(v16i_load((const int32_t *)(const void *)line), j % 4 * 8 + j / 4 * 4);
    return v16f_from_i(v16i_and(q, v16i_set1(15)));
}

static inline v16f number_u8(const uint8_t *line, int j)
{
    v16i q = v16i_shr(v16i_load((const int32_t *)(const void *)line), j * 8);
    return v16f_from_i(v16i_and(q, v16i_set1(255)));
}

#define NIBBLE_TABLES false
#define NUMBER_NIBBLE(line, j, floats) ((void)(floats), number_u4(line, j))
#define NUMBER_MORE 0.0f
#define NUMBER_NEAR number_u8
#define NUMBER_BYTE(bits, line, j) number_u8(line, j)

#include "backend/cpu/matmul_lanes.h"
