/* 16 lanes in plain C: the definition that the other ISAs must equal bit by bit.
 * See lanes.h for what each function means.
 *
 * Four quarters of four lanes in the compiler's vector types: it makes any machine's 128-bit
 * instructions of them, where 16 lanes in an array cost it half a minute a file and live in memory.
 * Nothing here is an instruction of one machine. */
#ifndef MR_BACKEND_CPU_LANES_C_H
#define MR_BACKEND_CPU_LANES_C_H

#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define LANES_FN(name) name##_c
#define LANES_NAME "c"
#define LANES_ROLLED
enum { LANES_TILE_ROWS = 2, LANES_TILE_COLS = 1 };

typedef float quarter_f __attribute__((vector_size(16)));
typedef int32_t quarter_i __attribute__((vector_size(16)));
typedef uint32_t quarter_u __attribute__((vector_size(16)));
typedef int8_t quarter_i8 __attribute__((vector_size(4)));
typedef uint8_t quarter_u8 __attribute__((vector_size(4)));
typedef uint16_t quarter_u16 __attribute__((vector_size(8)));

typedef struct v16f {
    quarter_f v[4];
} v16f;
typedef struct v16i {
    quarter_i v[4];
} v16i;
typedef struct v16m {
    quarter_i v[4]; /* lanes 0 or -1 */
} v16m;

/* One function over quarter h = 0..3. */
#define LANES_OP(type, name, args, expr)                                                           \
    static inline type name args                                                                   \
    {                                                                                              \
        type r;                                                                                    \
        _Pragma("GCC unroll 4") for (int h = 0; h < 4; h++) r.v[h] = (expr);                       \
        return r;                                                                                  \
    }

/* Integers wrap. */
#define LANES_WRAP(a, op, b) ((quarter_i)((quarter_u)(a)op(quarter_u)(b)))

static inline quarter_f lanes_pick(quarter_i m, quarter_f a, quarter_f b)
{
    return (quarter_f)(((quarter_i)a & m) | ((quarter_i)b & ~m));
}

#define LANES_LOAD(type, name, from, lanes)                                                        \
    static inline type name(const from *p)                                                         \
    {                                                                                              \
        type r;                                                                                    \
        for (int h = 0; h < 4; h++) {                                                              \
            lanes t;                                                                               \
            memcpy(&t, p + 4 * h, sizeof t);                                                       \
            r.v[h] = __builtin_convertvector(t, quarter_i);                                        \
        }                                                                                          \
        return r;                                                                                  \
    }
LANES_LOAD(v16i, v16i_load, int32_t, quarter_i)
LANES_LOAD(v16i, v16i_load_u8, uint8_t, quarter_u8)
LANES_LOAD(v16i, v16i_load_i8, int8_t, quarter_i8)
LANES_LOAD(v16i, v16i_load_u16, uint16_t, quarter_u16)

static inline v16f v16f_load(const float *p)
{
    v16f r;
    memcpy(&r, p, sizeof r);
    return r;
}

static inline size_t lanes_bytes(int n)
{
    return n <= 0 ? 0 : 4 * (size_t)(n < 16 ? n : 16);
}

static inline v16f v16f_loadn(const float *p, int n)
{
    v16f r = {0};
    memcpy(&r, p, lanes_bytes(n));
    return r;
}

static inline v16i v16i_loadn(const int32_t *p, int n)
{
    v16i r = {0};
    memcpy(&r, p, lanes_bytes(n));
    return r;
}

static inline void v16f_store(float *p, v16f a)
{
    memcpy(p, &a, sizeof a);
}

static inline void v16f_storen(float *p, v16f a, int n)
{
    memcpy(p, &a, lanes_bytes(n));
}

static inline void v16i_store(int32_t *p, v16i a)
{
    memcpy(p, &a, sizeof a);
}

static inline void v16i_storen(int32_t *p, v16i a, int n)
{
    memcpy(p, &a, lanes_bytes(n));
}

static inline void v16i_store_u16(uint16_t *p, v16i a)
{
    for (int h = 0; h < 4; h++) {
        quarter_u16 t = __builtin_convertvector(a.v[h], quarter_u16);
        memcpy(p + 4 * h, &t, sizeof t);
    }
}

static inline void v16i_store_i8(int8_t *p, v16i a)
{
    for (int h = 0; h < 4; h++) {
        quarter_i8 t = __builtin_convertvector(a.v[h], quarter_i8);
        memcpy(p + 4 * h, &t, sizeof t);
    }
}

static inline v16f v16f_set1(float a)
{
    quarter_f q = {a, a, a, a};
    return (v16f){{q, q, q, q}};
}

static inline v16i v16i_set1(int32_t a)
{
    quarter_i q = {a, a, a, a};
    return (v16i){{q, q, q, q}};
}

LANES_OP(v16f, v16f_add, (v16f a, v16f b), a.v[h] + b.v[h])
LANES_OP(v16f, v16f_sub, (v16f a, v16f b), a.v[h] - b.v[h])
LANES_OP(v16f, v16f_mul, (v16f a, v16f b), a.v[h] * b.v[h])
LANES_OP(v16f, v16f_div, (v16f a, v16f b), a.v[h] / b.v[h])
LANES_OP(v16f, v16f_max, (v16f a, v16f b), lanes_pick(a.v[h] > b.v[h], a.v[h], b.v[h]))
LANES_OP(v16f, v16f_min, (v16f a, v16f b), lanes_pick(a.v[h] < b.v[h], a.v[h], b.v[h]))
LANES_OP(v16f, v16f_bits, (v16i a), (quarter_f)a.v[h])
LANES_OP(v16i, v16i_bits, (v16f a), (quarter_i)a.v[h])

static inline v16f v16f_sqrt(v16f a)
{
    for (int i = 0; i < 16; i++)
        a.v[i / 4][i % 4] = sqrtf(a.v[i / 4][i % 4]);
    return a;
}

/* c = a*b + c.  Out of line: it is 16 calls where the target has no fused instruction. */
static __attribute__((noinline)) void lanes_fma(const v16f *a, const v16f *b, v16f *c)
{
    for (int h = 0; h < 4; h++)
        for (int i = 0; i < 4; i++)
            c->v[h][i] = fmaf(a->v[h][i], b->v[h][i], c->v[h][i]);
}

static inline v16f v16f_fma(v16f a, v16f b, v16f c)
{
    lanes_fma(&a, &b, &c);
    return c;
}

/* Below 2^23 adding 2^23 leaves no room for a fraction; above there is none. */
static inline quarter_f lanes_rint(quarter_f a)
{
    quarter_i sign = (quarter_i)a & INT32_MIN;
    quarter_f size = (quarter_f)((quarter_i)a & INT32_MAX), whole = (size + 0x1p23f) - 0x1p23f;
    return lanes_pick(size < 0x1p23f, (quarter_f)((quarter_i)whole | sign), a);
}

LANES_OP(v16f, v16f_rint, (v16f a), lanes_rint(a.v[h]))
LANES_OP(v16i, v16i_from_f, (v16f a), __builtin_convertvector(lanes_rint(a.v[h]), quarter_i))
LANES_OP(v16f, v16f_from_i, (v16i a), __builtin_convertvector(a.v[h], quarter_f))

LANES_OP(v16i, v16i_add, (v16i a, v16i b), LANES_WRAP(a.v[h], +, b.v[h]))
LANES_OP(v16i, v16i_sub, (v16i a, v16i b), LANES_WRAP(a.v[h], -, b.v[h]))
LANES_OP(v16i, v16i_mul, (v16i a, v16i b), LANES_WRAP(a.v[h], *, b.v[h]))
LANES_OP(v16i, v16i_and, (v16i a, v16i b), a.v[h] & b.v[h])
static inline v16i v16i_lookup(const uint8_t *p, v16i q)
{
    uint8_t bytes[64];
    memcpy(bytes, &q, sizeof bytes);
    for (int i = 0; i < 64; i++)
        bytes[i] = p[bytes[i]];
    memcpy(&q, bytes, sizeof bytes);
    return q;
}
LANES_OP(v16i, v16i_or, (v16i a, v16i b), a.v[h] | b.v[h])
LANES_OP(v16i, v16i_xor, (v16i a, v16i b), a.v[h] ^ b.v[h])
LANES_OP(v16i, v16i_shl, (v16i a, int n), (quarter_i)((quarter_u)a.v[h] << n))
LANES_OP(v16i, v16i_shr, (v16i a, int n), (quarter_i)((quarter_u)a.v[h] >> n))
LANES_OP(v16i, v16i_sar, (v16i a, int n), a.v[h] >> n)

LANES_OP(v16m, v16f_lt, (v16f a, v16f b), a.v[h] < b.v[h])
LANES_OP(v16m, v16f_le, (v16f a, v16f b), a.v[h] <= b.v[h])
LANES_OP(v16m, v16f_eq, (v16f a, v16f b), a.v[h] == b.v[h])
LANES_OP(v16m, v16f_gt, (v16f a, v16f b), a.v[h] > b.v[h])
LANES_OP(v16m, v16f_ge, (v16f a, v16f b), a.v[h] >= b.v[h])
LANES_OP(v16m, v16i_eq, (v16i a, v16i b), a.v[h] == b.v[h])
LANES_OP(v16m, v16i_gt, (v16i a, v16i b), a.v[h] > b.v[h])
LANES_OP(v16m, v16m_and, (v16m a, v16m b), a.v[h] & b.v[h])
LANES_OP(v16m, v16m_or, (v16m a, v16m b), a.v[h] | b.v[h])
LANES_OP(v16m, v16m_not, (v16m a), ~a.v[h])
LANES_OP(v16f, v16f_select, (v16m m, v16f a, v16f b), lanes_pick(m.v[h], a.v[h], b.v[h]))
LANES_OP(v16i, v16i_select, (v16m m, v16i a, v16i b), (a.v[h] & m.v[h]) | (b.v[h] & ~m.v[h]))

static inline v16i v16i_max(v16i a, v16i b)
{
    return v16i_select(v16i_gt(a, b), a, b);
}

static inline v16i v16i_min(v16i a, v16i b)
{
    return v16i_select(v16i_gt(b, a), a, b);
}

static inline v16f v16f_fnma(v16f a, v16f b, v16f c)
{
    return v16f_fma(v16f_bits(v16i_xor(v16i_bits(a), v16i_set1(INT32_MIN))), b, c);
}

static inline v16f v16f_load_bf16(const uint16_t *p)
{
    return v16f_bits(v16i_shl(v16i_load_u16(p), 16));
}

/* Moved to their place the bits of a half are its value times 2^-112, denormals too. */
static inline v16f v16f_load_f16(const uint16_t *p)
{
    v16i half = v16i_load_u16(p), size = v16i_and(half, v16i_set1(0x7fff)), up = v16i_shl(size, 13);
    v16i sign = v16i_shl(v16i_and(half, v16i_set1(0x8000)), 16);
    v16i finite = v16i_bits(v16f_mul(v16f_bits(up), v16f_set1(0x1p112f)));
    v16i quiet = v16i_select(v16i_gt(size, v16i_set1(0x7c00)), v16i_set1(0x7fc00000),
                             v16i_set1(0x7f800000)); /* NaN, infinity */
    v16i r = v16i_select(v16i_gt(size, v16i_set1(0x7bff)), v16i_or(up, quiet), finite);
    return v16f_bits(v16i_or(r, sign));
}

static inline v16m v16m_first(int n)
{
    static const int32_t lane[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    return v16i_gt(v16i_set1(n), v16i_load(lane));
}

static inline bool v16m_any(v16m m)
{
    quarter_i a = m.v[0] | m.v[1] | m.v[2] | m.v[3];
    return (a[0] | a[1] | a[2] | a[3]) != 0;
}

static inline float v16f_reduce_add(v16f a)
{
    quarter_f s = (a.v[0] + a.v[2]) + (a.v[1] + a.v[3]);
    return (s[0] + s[2]) + (s[1] + s[3]);
}

static inline quarter_f lanes_max4(quarter_f a, quarter_f b)
{
    return lanes_pick(a > b, a, b);
}

static inline float v16f_reduce_max(v16f a)
{
    quarter_f s = lanes_max4(lanes_max4(a.v[0], a.v[2]), lanes_max4(a.v[1], a.v[3]));
    float x = s[0] > s[2] ? s[0] : s[2], y = s[1] > s[3] ? s[1] : s[3];
    return x > y ? x : y;
}

static inline void v16f_transpose(float *y, int64_t ldy, const float *x, int64_t ldx, int n)
{
    for (int i = 0; i < n; i++)
        for (int j = 0; j < 16; j++)
            y[j * ldy + i] = x[i * ldx + j];
}

#include "backend/cpu/lanes.h"

#endif
