/* 16 lanes as one AVX-512 register.  See lanes.h for what each function means. */
#ifndef MR_BACKEND_CPU_LANES_AVX512_H
#define MR_BACKEND_CPU_LANES_AVX512_H

#include <immintrin.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define LANES_FN(name) name##_avx512
#define LANES_NAME "avx512"
enum { LANES_TILE_ROWS = 6, LANES_TILE_COLS = 4 };

typedef struct v16f {
    __m512 v;
} v16f;
typedef struct v16i {
    __m512i v;
} v16i;
typedef struct v16m {
    __mmask16 v;
} v16m;

/* One function over the registers. */
#define LANES_OP(type, name, args, expr)                                                           \
    static inline type name args                                                                   \
    {                                                                                              \
        return (type){expr};                                                                       \
    }

static inline v16m v16m_first(int n)
{
    return (v16m){(__mmask16)(n >= 16 ? 0xffffu : n <= 0 ? 0u : (1u << n) - 1u)};
}

LANES_OP(v16f, v16f_load, (const float *p), _mm512_loadu_ps(p))
LANES_OP(v16f, v16f_loadn, (const float *p, int n), _mm512_maskz_loadu_ps(v16m_first(n).v, p))
LANES_OP(v16i, v16i_load, (const int32_t *p), _mm512_loadu_si512(p))
LANES_OP(v16i, v16i_loadn, (const int32_t *p, int n), _mm512_maskz_loadu_epi32(v16m_first(n).v, p))
LANES_OP(v16i, v16i_load_u16, (const uint16_t *p),
         _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p)))
LANES_OP(v16i, v16i_load_u8, (const uint8_t *p),
         _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p)))
LANES_OP(v16i, v16i_load_i8, (const int8_t *p),
         _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p)))
LANES_OP(v16f, v16f_load_bf16, (const uint16_t *p),
         _mm512_castsi512_ps(_mm512_slli_epi32(v16i_load_u16(p).v, 16)))
LANES_OP(v16f, v16f_load_f16, (const uint16_t *p),
         _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p)))

static inline void v16f_store(float *p, v16f a)
{
    _mm512_storeu_ps(p, a.v);
}

static inline void v16f_storen(float *p, v16f a, int n)
{
    _mm512_mask_storeu_ps(p, v16m_first(n).v, a.v);
}

static inline void v16i_store(int32_t *p, v16i a)
{
    _mm512_storeu_si512(p, a.v);
}

static inline void v16i_storen(int32_t *p, v16i a, int n)
{
    _mm512_mask_storeu_epi32(p, v16m_first(n).v, a.v);
}

static inline void v16i_store_u16(uint16_t *p, v16i a)
{
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtepi32_epi16(a.v));
}

static inline void v16i_store_i8(int8_t *p, v16i a)
{
    _mm_storeu_si128((__m128i *)p, _mm512_cvtepi32_epi8(a.v));
}

LANES_OP(v16f, v16f_set1, (float a), _mm512_set1_ps(a))
LANES_OP(v16f, v16f_add, (v16f a, v16f b), _mm512_add_ps(a.v, b.v))
LANES_OP(v16f, v16f_sub, (v16f a, v16f b), _mm512_sub_ps(a.v, b.v))
LANES_OP(v16f, v16f_mul, (v16f a, v16f b), _mm512_mul_ps(a.v, b.v))
LANES_OP(v16f, v16f_div, (v16f a, v16f b), _mm512_div_ps(a.v, b.v))
LANES_OP(v16f, v16f_sqrt, (v16f a), _mm512_sqrt_ps(a.v))
LANES_OP(v16f, v16f_fma, (v16f a, v16f b, v16f c), _mm512_fmadd_ps(a.v, b.v, c.v))
LANES_OP(v16f, v16f_fnma, (v16f a, v16f b, v16f c), _mm512_fnmadd_ps(a.v, b.v, c.v))
LANES_OP(v16f, v16f_max, (v16f a, v16f b), _mm512_max_ps(a.v, b.v))
LANES_OP(v16f, v16f_min, (v16f a, v16f b), _mm512_min_ps(a.v, b.v))
LANES_OP(v16f, v16f_rint, (v16f a),
         _mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC))

#define LANES_HAS_LDEXP
LANES_OP(v16f, v16f_ldexp, (v16f a, v16f n), _mm512_scalef_ps(a.v, n.v))

LANES_OP(v16i, v16i_set1, (int32_t a), _mm512_set1_epi32(a))
LANES_OP(v16i, v16i_add, (v16i a, v16i b), _mm512_add_epi32(a.v, b.v))
LANES_OP(v16i, v16i_sub, (v16i a, v16i b), _mm512_sub_epi32(a.v, b.v))
LANES_OP(v16i, v16i_mul, (v16i a, v16i b), _mm512_mullo_epi32(a.v, b.v))
LANES_OP(v16i, v16i_and, (v16i a, v16i b), _mm512_and_si512(a.v, b.v))
LANES_OP(v16i, v16i_lookup, (const uint8_t *p, v16i q),
         _mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)p)), q.v))
/* One product of each byte with a matrix of bits, whose byte i makes bit 7 - i of the result; up
 * to 4 bits. */
#define LANES_HAS_FIELD
static inline v16i v16i_field(v16i a, int from, int bits, int to)
{
    const uint64_t row = (uint64_t)1 << (8 * (7 - to) + from), m = row | (bits > 1 ? row >> 7 : 0) |
                                                                   (bits > 2 ? row >> 14 : 0) |
                                                                   (bits > 3 ? row >> 21 : 0);
    if (from == to)
        return (v16i){_mm512_and_si512(a.v, _mm512_set1_epi8((char)(((1 << bits) - 1) << to)))};
    return (v16i){_mm512_gf2p8affine_epi64_epi8(a.v, _mm512_set1_epi64((long long)m), 0)};
}
LANES_OP(v16i, v16i_or, (v16i a, v16i b), _mm512_or_si512(a.v, b.v))
LANES_OP(v16i, v16i_xor, (v16i a, v16i b), _mm512_xor_si512(a.v, b.v))
/* By operators: the intrinsics would keep a constant count in a register. */
LANES_OP(v16i, v16i_shl, (v16i a, int n), (__m512i)((__v16su)a.v << n))
LANES_OP(v16i, v16i_shr, (v16i a, int n), (__m512i)((__v16su)a.v >> n))
LANES_OP(v16i, v16i_sar, (v16i a, int n), (__m512i)((__v16si)a.v >> n))
LANES_OP(v16i, v16i_max, (v16i a, v16i b), _mm512_max_epi32(a.v, b.v))
LANES_OP(v16i, v16i_min, (v16i a, v16i b), _mm512_min_epi32(a.v, b.v))

LANES_OP(v16i, v16i_from_f, (v16f a), _mm512_cvtps_epi32(a.v))
LANES_OP(v16f, v16f_from_i, (v16i a), _mm512_cvtepi32_ps(a.v))
LANES_OP(v16f, v16f_bits, (v16i a), _mm512_castsi512_ps(a.v))
LANES_OP(v16i, v16i_bits, (v16f a), _mm512_castps_si512(a.v))

LANES_OP(v16m, v16f_lt, (v16f a, v16f b), _mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ))
LANES_OP(v16m, v16f_le, (v16f a, v16f b), _mm512_cmp_ps_mask(a.v, b.v, _CMP_LE_OQ))
LANES_OP(v16m, v16f_eq, (v16f a, v16f b), _mm512_cmp_ps_mask(a.v, b.v, _CMP_EQ_OQ))
LANES_OP(v16m, v16f_gt, (v16f a, v16f b), _mm512_cmp_ps_mask(a.v, b.v, _CMP_GT_OQ))
LANES_OP(v16m, v16f_ge, (v16f a, v16f b), _mm512_cmp_ps_mask(a.v, b.v, _CMP_GE_OQ))
LANES_OP(v16m, v16i_eq, (v16i a, v16i b), _mm512_cmpeq_epi32_mask(a.v, b.v))
LANES_OP(v16m, v16i_gt, (v16i a, v16i b), _mm512_cmpgt_epi32_mask(a.v, b.v))
LANES_OP(v16m, v16m_and, (v16m a, v16m b), (__mmask16)(a.v &b.v))
LANES_OP(v16m, v16m_or, (v16m a, v16m b), (__mmask16)(a.v | b.v))
LANES_OP(v16m, v16m_not, (v16m a), (__mmask16)~a.v)
LANES_OP(v16f, v16f_select, (v16m m, v16f a, v16f b), _mm512_mask_blend_ps(m.v, b.v, a.v))
LANES_OP(v16i, v16i_select, (v16m m, v16i a, v16i b), _mm512_mask_blend_epi32(m.v, b.v, a.v))

/* As assembly: these files are compiled for CPUs without it. */
#define LANES_HAS_DOT
static inline v16f v16f_dot(v16f acc, v16i a, v16i b)
{
    __asm__("vdpbf16ps %2, %1, %0" : "+v"(acc.v) : "v"(a.v), "v"(b.v));
    return acc;
}

static inline bool v16m_any(v16m m)
{
    return m.v != 0;
}

static inline float v16f_reduce_add(v16f a)
{
    __m256 b = _mm256_add_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
    __m128 c = _mm_add_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
    c = _mm_add_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_add_ss(c, _mm_shuffle_ps(c, c, 1)));
}

static inline float v16f_reduce_max(v16f a)
{
    __m256 b = _mm256_max_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
    __m128 c = _mm_max_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
    c = _mm_max_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_max_ss(c, _mm_shuffle_ps(c, c, 1)));
}

/* Four values of 16 rows as the four quarters of four registers, turned within the quarters. */
static inline void lanes_turn4(float *y, int64_t ldy, const float *x, int64_t ldx)
{
    __m512 a[4];
    for (int k = 0; k < 4; k++) {
        const float *p = x + k * ldx;
        a[k] = _mm512_castps128_ps512(_mm_loadu_ps(p));
        a[k] = _mm512_insertf32x4(a[k], _mm_loadu_ps(p + 4 * ldx), 1);
        a[k] = _mm512_insertf32x4(a[k], _mm_loadu_ps(p + 8 * ldx), 2);
        a[k] = _mm512_insertf32x4(a[k], _mm_loadu_ps(p + 12 * ldx), 3);
    }
    __m512d s = _mm512_castps_pd(_mm512_unpacklo_ps(a[0], a[1]));
    __m512d t = _mm512_castps_pd(_mm512_unpackhi_ps(a[0], a[1]));
    __m512d u = _mm512_castps_pd(_mm512_unpacklo_ps(a[2], a[3]));
    __m512d v = _mm512_castps_pd(_mm512_unpackhi_ps(a[2], a[3]));
    _mm512_storeu_ps(y, _mm512_castpd_ps(_mm512_unpacklo_pd(s, u)));
    _mm512_storeu_ps(y + ldy, _mm512_castpd_ps(_mm512_unpackhi_pd(s, u)));
    _mm512_storeu_ps(y + 2 * ldy, _mm512_castpd_ps(_mm512_unpacklo_pd(t, v)));
    _mm512_storeu_ps(y + 3 * ldy, _mm512_castpd_ps(_mm512_unpackhi_pd(t, v)));
}

static inline void v16f_transpose(float *y, int64_t ldy, const float *x, int64_t ldx, int n)
{
    int i = n == 16 ? 16 : 0;
    if (n == 16)
        for (int j = 0; j < 16; j += 4)
            lanes_turn4(y + j * ldy, ldy, x + j, ldx);
    for (; i + 4 <= n; i += 4)
        for (int j = 0; j < 16; j += 4) {
            const float *p = x + i * ldx + j;
            float *q = y + j * ldy + i;
            __m128 a = _mm_loadu_ps(p), b = _mm_loadu_ps(p + ldx);
            __m128 c = _mm_loadu_ps(p + 2 * ldx), d = _mm_loadu_ps(p + 3 * ldx);
            _MM_TRANSPOSE4_PS(a, b, c, d);
            _mm_storeu_ps(q, a);
            _mm_storeu_ps(q + ldy, b);
            _mm_storeu_ps(q + 2 * ldy, c);
            _mm_storeu_ps(q + 3 * ldy, d);
        }
    for (; i < n; i++)
        for (int j = 0; j < 16; j++)
            y[j * ldy + i] = x[i * ldx + j];
}

#include "backend/cpu/lanes.h"

#endif
