/* 16 lanes in plain C: the definition that the other ISAs must equal bit by bit.
 * See lanes.h for what each function means. */
#ifndef MR_BACKEND_CPU_LANES_C_H
#define MR_BACKEND_CPU_LANES_C_H

#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define LANES_FN(name) name##_c
#define LANES_NAME "c"
enum { LANES_TILE_ROWS = 2, LANES_TILE_COLS = 1 };

typedef struct v16f {
    float v[16];
} v16f;
typedef struct v16i {
    int32_t v[16];
} v16i;
typedef struct v16m {
    int32_t v[16]; /* 0 or -1 */
} v16m;

/* One lane-wise function: type, name, parameters, lane expression over i. */
#define LANES_MAP(type, name, args, expr)                                                          \
    static inline type name args                                                                   \
    {                                                                                              \
        type r;                                                                                    \
        for (int i = 0; i < 16; i++)                                                               \
            r.v[i] = (expr);                                                                       \
        return r;                                                                                  \
    }

static inline float lanes_f16(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, e = (h >> 10) & 31, m = h & 0x3ff, u;
    float f;
    if (e == 0) { /* zero or denormal: m * 2^-24 is exact */
        f = (float)m * 0x1p-24f;
        memcpy(&u, &f, 4);
        u |= sign;
    } else if (e == 31) {
        u = sign | 0x7f800000u | m << 13 | (m ? 0x400000u : 0);
    } else {
        u = sign | (e + 112) << 23 | m << 13;
    }
    memcpy(&f, &u, 4);
    return f;
}

static inline float lanes_bits_f(int32_t u)
{
    float f;
    memcpy(&f, &u, 4);
    return f;
}

static inline int32_t lanes_bits_i(float f)
{
    int32_t u;
    memcpy(&u, &f, 4);
    return u;
}

LANES_MAP(v16f, v16f_load, (const float *p), p[i])
LANES_MAP(v16f, v16f_loadn, (const float *p, int n), i < n ? p[i] : 0.0f)
LANES_MAP(v16i, v16i_load, (const int32_t *p), p[i])
LANES_MAP(v16i, v16i_loadn, (const int32_t *p, int n), i < n ? p[i] : 0)
LANES_MAP(v16f, v16f_load_bf16, (const uint16_t *p), lanes_bits_f((int32_t)((uint32_t)p[i] << 16)))
LANES_MAP(v16f, v16f_load_f16, (const uint16_t *p), lanes_f16(p[i]))
LANES_MAP(v16i, v16i_load_u8, (const uint8_t *p), p[i])
LANES_MAP(v16i, v16i_load_i8, (const int8_t *p), p[i])
LANES_MAP(v16i, v16i_load_u16, (const uint16_t *p), p[i])

static inline void v16f_store(float *p, v16f a)
{
    memcpy(p, a.v, 64);
}

static inline void v16f_storen(float *p, v16f a, int n)
{
    for (int i = 0; i < 16 && i < n; i++)
        p[i] = a.v[i];
}

static inline void v16i_store(int32_t *p, v16i a)
{
    memcpy(p, a.v, 64);
}

static inline void v16i_storen(int32_t *p, v16i a, int n)
{
    for (int i = 0; i < 16 && i < n; i++)
        p[i] = a.v[i];
}

static inline void v16i_store_u16(uint16_t *p, v16i a)
{
    for (int i = 0; i < 16; i++)
        p[i] = (uint16_t)a.v[i];
}

static inline void v16i_store_i8(int8_t *p, v16i a)
{
    for (int i = 0; i < 16; i++)
        p[i] = (int8_t)a.v[i];
}

LANES_MAP(v16f, v16f_set1, (float a), a)
LANES_MAP(v16f, v16f_add, (v16f a, v16f b), a.v[i] + b.v[i])
LANES_MAP(v16f, v16f_sub, (v16f a, v16f b), a.v[i] - b.v[i])
LANES_MAP(v16f, v16f_mul, (v16f a, v16f b), a.v[i] * b.v[i])
LANES_MAP(v16f, v16f_div, (v16f a, v16f b), a.v[i] / b.v[i])
LANES_MAP(v16f, v16f_sqrt, (v16f a), sqrtf(a.v[i]))
LANES_MAP(v16f, v16f_fma, (v16f a, v16f b, v16f c), fmaf(a.v[i], b.v[i], c.v[i]))
LANES_MAP(v16f, v16f_fnma, (v16f a, v16f b, v16f c), fmaf(-a.v[i], b.v[i], c.v[i]))
LANES_MAP(v16f, v16f_max, (v16f a, v16f b), a.v[i] > b.v[i] ? a.v[i] : b.v[i])
LANES_MAP(v16f, v16f_min, (v16f a, v16f b), a.v[i] < b.v[i] ? a.v[i] : b.v[i])
LANES_MAP(v16f, v16f_rint, (v16f a), rintf(a.v[i]))

LANES_MAP(v16i, v16i_set1, (int32_t a), a)
LANES_MAP(v16i, v16i_add, (v16i a, v16i b), (int32_t)((uint32_t)a.v[i] + (uint32_t)b.v[i]))
LANES_MAP(v16i, v16i_sub, (v16i a, v16i b), (int32_t)((uint32_t)a.v[i] - (uint32_t)b.v[i]))
LANES_MAP(v16i, v16i_mul, (v16i a, v16i b), (int32_t)((uint32_t)a.v[i] * (uint32_t)b.v[i]))
LANES_MAP(v16i, v16i_and, (v16i a, v16i b), a.v[i] & b.v[i])
LANES_MAP(v16i, v16i_or, (v16i a, v16i b), a.v[i] | b.v[i])
LANES_MAP(v16i, v16i_xor, (v16i a, v16i b), a.v[i] ^ b.v[i])
LANES_MAP(v16i, v16i_shl, (v16i a, int n), (int32_t)((uint32_t)a.v[i] << n))
LANES_MAP(v16i, v16i_shr, (v16i a, int n), (int32_t)((uint32_t)a.v[i] >> n))
LANES_MAP(v16i, v16i_sar, (v16i a, int n), a.v[i] >> n)
LANES_MAP(v16i, v16i_max, (v16i a, v16i b), a.v[i] > b.v[i] ? a.v[i] : b.v[i])
LANES_MAP(v16i, v16i_min, (v16i a, v16i b), a.v[i] < b.v[i] ? a.v[i] : b.v[i])

LANES_MAP(v16i, v16i_from_f, (v16f a), (int32_t)rintf(a.v[i]))
LANES_MAP(v16f, v16f_from_i, (v16i a), (float)a.v[i])
LANES_MAP(v16f, v16f_bits, (v16i a), lanes_bits_f(a.v[i]))
LANES_MAP(v16i, v16i_bits, (v16f a), lanes_bits_i(a.v[i]))

LANES_MAP(v16m, v16f_lt, (v16f a, v16f b), -(a.v[i] < b.v[i]))
LANES_MAP(v16m, v16f_le, (v16f a, v16f b), -(a.v[i] <= b.v[i]))
LANES_MAP(v16m, v16f_eq, (v16f a, v16f b), -(a.v[i] == b.v[i]))
LANES_MAP(v16m, v16f_gt, (v16f a, v16f b), -(a.v[i] > b.v[i]))
LANES_MAP(v16m, v16f_ge, (v16f a, v16f b), -(a.v[i] >= b.v[i]))
LANES_MAP(v16m, v16i_eq, (v16i a, v16i b), -(a.v[i] == b.v[i]))
LANES_MAP(v16m, v16i_gt, (v16i a, v16i b), -(a.v[i] > b.v[i]))
LANES_MAP(v16m, v16m_and, (v16m a, v16m b), a.v[i] & b.v[i])
LANES_MAP(v16m, v16m_or, (v16m a, v16m b), a.v[i] | b.v[i])
LANES_MAP(v16m, v16m_not, (v16m a), ~a.v[i])
LANES_MAP(v16m, v16m_first, (int n), -(i < n))
LANES_MAP(v16f, v16f_select, (v16m m, v16f a, v16f b), m.v[i] ? a.v[i] : b.v[i])
LANES_MAP(v16i, v16i_select, (v16m m, v16i a, v16i b), m.v[i] ? a.v[i] : b.v[i])

static inline bool v16m_any(v16m m)
{
    int32_t r = 0;
    for (int i = 0; i < 16; i++)
        r |= m.v[i];
    return r != 0;
}

static inline float v16f_reduce_add(v16f a)
{
    for (int s = 8; s > 0; s /= 2)
        for (int i = 0; i < s; i++)
            a.v[i] = a.v[i] + a.v[i + s];
    return a.v[0];
}

static inline float v16f_reduce_max(v16f a)
{
    for (int s = 8; s > 0; s /= 2)
        for (int i = 0; i < s; i++)
            a.v[i] = a.v[i] > a.v[i + s] ? a.v[i] : a.v[i + s];
    return a.v[0];
}

static inline void v16f_transpose(float *y, int64_t ldy, const float *x, int64_t ldx, int n)
{
    for (int i = 0; i < n; i++)
        for (int j = 0; j < 16; j++)
            y[j * ldy + i] = x[i * ldx + j];
}

#include "backend/cpu/lanes.h"

#endif
