/* Product kernels in plain C: the definition of the bits. */
#include "backend/cpu/lanes_c.h"

#include <stddef.h>

#define LANES_ISA MR_ISA_C
#define TILE_NV 1
#define TILE_F32_ROWS 4
#define U8_OFFSET 0
#define TAKES_U4 0
#define U8_WIDE 0
#define ROW_STREAMS 1
#define FEW_CODES 1
#define DIRECT_F32 4
#define FEW_F32 4
#define DIRECT_I8 4
#define DIRECT_CODES 4
#define I8_MANY_ROWS(c, units, f, x, rows, slots, out) ((void)(slots), 0)

typedef int16_t quarter_i16 __attribute__((vector_size(16)));
typedef struct x8 {
    quarter_i16 even, odd; /* values 0, 2 and 1, 3 of the quad, for every lane */
} x8, x4;
typedef v16i w8;

static inline x8 slot_u8(int32_t r)
{
    quarter_i quad = {r, r, r, r};
    return (x8){(quarter_i16)(quad << 8) >> 8, (quarter_i16)quad >> 8};
}

static inline x8 x_u8(const uint8_t *p)
{
    int32_t quad;
    memcpy(&quad, p, 4);
    return slot_u8(quad);
}

#define x_u4 x_u8
#define slot_u4 slot_u8

static inline w8 w_u8(v16i line)
{
    return line;
}

/* Both values of each lane. */
static inline quarter_i add_pairs(quarter_i16 a)
{
    return ((quarter_i)a << 16 >> 16) + ((quarter_i)a >> 16);
}

/* 255 * 127 fits 16 bits. */
static inline v16i dot_u8(v16i acc, w8 w, x8 x)
{
    for (int h = 0; h < 4; h++) {
        quarter_i16 even = (quarter_i16)(w.v[h] & 0x00ff00ff);
        quarter_i16 odd = (quarter_i16)((quarter_u)w.v[h] >> 8 & 0x00ff00ff);
        acc.v[h] += add_pairs(even * x.even) + add_pairs(odd * x.odd);
    }
    return acc;
}

#define dot_u4 dot_u8

#define shift_up v16i_shl

static inline v16f quad_max(v16f a)
{
    for (int h = 0; h < 4; h++) {
        quarter_f q = a.v[h];
        float x = q[0] > q[1] ? q[0] : q[1], y = q[2] > q[3] ? q[2] : q[3];
        float most = x > y ? x : y;
        a.v[h] = (quarter_f){most, most, most, most};
    }
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
