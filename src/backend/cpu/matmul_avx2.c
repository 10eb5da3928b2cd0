/* Product kernels for AVX2.
 *
 * 4-bit weights and Q6_K (at most 63) multiply as unsigned by signed bytes: pairs of products fit
 * int16 (63*127*2 = 16002).  8-bit ones do not (255*127*2), so their even and odd bytes go to int16
 * and the values are prepared as int16 in the same order. */
#include "backend/cpu/lanes_avx2.h"

#include <stddef.h>

#define LANES_ISA MR_ISA_AVX2
#define TILE_NV 1
#define TILE_F32_ROWS 6
#define U8_OFFSET 0
#define TAKES_U4 0
#define U8_WIDE 1
#define ROW_STREAMS 1
#define FEW_CODES 4
#define DIRECT_F32 4
#define FEW_F32 4
#define DIRECT_I8 4
#define DIRECT_CODES 4
#define I8_MANY_ROWS(c, units, f, x, rows, slots, out) ((void)(slots), 0)

typedef struct x8 {
    __m256i even, odd;
} x8;
typedef struct x4 {
    __m256i v;
} x4;
typedef struct w8 {
    v16i even, odd;
} w8;

static inline __m256i broadcast4(const uint8_t *p)
{
    int32_t quad;
    memcpy(&quad, p, 4);
    return _mm256_set1_epi32(quad);
}

static inline x8 x_u8(const uint8_t *p)
{
    return (x8){broadcast4(p), broadcast4(p + 4)};
}

static inline x4 x_u4(const uint8_t *p)
{
    return (x4){broadcast4(p)};
}

static inline x4 slot_u4(int32_t r)
{
    return (x4){_mm256_set1_epi32(r)};
}

static inline x8 slot_u8(int32_t r)
{
    __m256i v = _mm256_set1_epi32(r);
    return (x8){_mm256_srai_epi16(_mm256_slli_epi16(v, 8), 8), _mm256_srai_epi16(v, 8)};
}

static inline w8 w_u8(v16i line)
{
    w8 w;
    for (int h = 0; h < 2; h++) {
        w.even.v[h] = _mm256_and_si256(line.v[h], _mm256_set1_epi16(255));
        w.odd.v[h] = _mm256_srli_epi16(line.v[h], 8);
    }
    return w;
}

static inline v16i dot_u8(v16i acc, w8 w, x8 x)
{
    for (int h = 0; h < 2; h++) {
        acc.v[h] = _mm256_add_epi32(acc.v[h], _mm256_madd_epi16(w.even.v[h], x.even));
        acc.v[h] = _mm256_add_epi32(acc.v[h], _mm256_madd_epi16(w.odd.v[h], x.odd));
    }
    return acc;
}

static inline v16i dot_u4(v16i acc, v16i line, x4 x)
{
    for (int h = 0; h < 2; h++) {
        __m256i pairs = _mm256_maddubs_epi16(line.v[h], x.v);
        acc.v[h] = _mm256_add_epi32(acc.v[h], _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
    }
    return acc;
}

/* Two quads share the widening: 2*63*127*2 = 32004 fits int16. */
#define DOTS_U4
static inline v16i dots_u4(v16i acc, v16i w0, x4 x0, v16i w1, x4 x1)
{
    for (int h = 0; h < 2; h++) {
        __m256i pairs = _mm256_add_epi16(_mm256_maddubs_epi16(w0.v[h], x0.v),
                                         _mm256_maddubs_epi16(w1.v[h], x1.v));
        acc.v[h] = _mm256_add_epi32(acc.v[h], _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
    }
    return acc;
}

static inline v16i shift_up(v16i a, int32_t n)
{
    __m256i by = _mm256_set1_epi32(n);
    return (v16i){{_mm256_sllv_epi32(a.v[0], by), _mm256_sllv_epi32(a.v[1], by)}};
}

static inline v16f quad_max(v16f a)
{
    for (int h = 0; h < 2; h++) {
        __m256 b = _mm256_max_ps(a.v[h], _mm256_permute_ps(a.v[h], 0xb1));
        a.v[h] = _mm256_max_ps(b, _mm256_permute_ps(b, 0x4e));
    }
    return a;
}

#define STORE_WIDE
static inline void store_wide(uint8_t *dst, v16i v)
{
    for (int h = 0; h < 2; h++)
        v.v[h] = _mm256_shuffle_epi32(v.v[h], 0xd8);
    __m256i w = _mm256_permute4x64_epi64(_mm256_packs_epi32(v.v[0], v.v[1]), 0xd8);
    _mm256_storeu_si256((__m256i *)(void *)dst, w);
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
