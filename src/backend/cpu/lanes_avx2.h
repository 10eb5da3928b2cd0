/* 16 lanes as two AVX2 registers (lanes 0..7 in v[0]).  See lanes.h for what each function means.
 */
#ifndef MR_BACKEND_CPU_LANES_AVX2_H
#define MR_BACKEND_CPU_LANES_AVX2_H

#include <immintrin.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define LANES_FN(name) name##_avx2
#define LANES_NAME "avx2"
enum { LANES_TILE_ROWS = 6, LANES_TILE_COLS = 1 };

typedef struct v16f {
    __m256 v[2];
} v16f;
typedef struct v16i {
    __m256i v[2];
} v16i;
typedef struct v16m {
    __m256i v[2]; /* all bits of a lane */
} v16m;

/* One function over half h = 0, 1. */
#define LANES_OP(type, name, args, expr)                                                           \
    static inline type name args                                                                   \
    {                                                                                              \
        type r;                                                                                    \
        {                                                                                          \
            enum { h = 0 };                                                                        \
            r.v[h] = (expr);                                                                       \
        }                                                                                          \
        {                                                                                          \
            enum { h = 1 };                                                                        \
            r.v[h] = (expr);                                                                       \
        }                                                                                          \
        return r;                                                                                  \
    }
#define CAST_I _mm256_castps_si256
#define CAST_F _mm256_castsi256_ps
#define LOAD8(p) _mm_loadl_epi64((const __m128i *)(p))
#define LOAD16(p) _mm_loadu_si128((const __m128i *)(p))

LANES_OP(v16m, v16m_first, (int n),
         _mm256_cmpgt_epi32(_mm256_set1_epi32(n - 8 * h),
                            _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)))

LANES_OP(v16f, v16f_load, (const float *p), _mm256_loadu_ps(p + 8 * h))
LANES_OP(v16f, v16f_loadn, (const float *p, int n),
         _mm256_maskload_ps(p + 8 * h, v16m_first(n).v[h]))
LANES_OP(v16i, v16i_load, (const int32_t *p), _mm256_loadu_si256((const __m256i *)(p + 8 * h)))
LANES_OP(v16i, v16i_loadn, (const int32_t *p, int n),
         _mm256_maskload_epi32(p + 8 * h, v16m_first(n).v[h]))
LANES_OP(v16i, v16i_load_u16, (const uint16_t *p), _mm256_cvtepu16_epi32(LOAD16(p + 8 * h)))
LANES_OP(v16i, v16i_load_u8, (const uint8_t *p), _mm256_cvtepu8_epi32(LOAD8(p + 8 * h)))
LANES_OP(v16i, v16i_load_i8, (const int8_t *p), _mm256_cvtepi8_epi32(LOAD8(p + 8 * h)))
LANES_OP(v16f, v16f_load_bf16, (const uint16_t *p),
         CAST_F(_mm256_slli_epi32(_mm256_cvtepu16_epi32(LOAD16(p + 8 * h)), 16)))
LANES_OP(v16f, v16f_load_f16, (const uint16_t *p), _mm256_cvtph_ps(LOAD16(p + 8 * h)))

static inline void v16f_store(float *p, v16f a)
{
    _mm256_storeu_ps(p, a.v[0]);
    _mm256_storeu_ps(p + 8, a.v[1]);
}

static inline void v16f_storen(float *p, v16f a, int n)
{
    v16m m = v16m_first(n);
    _mm256_maskstore_ps(p, m.v[0], a.v[0]);
    _mm256_maskstore_ps(p + 8, m.v[1], a.v[1]);
}

static inline void v16i_store(int32_t *p, v16i a)
{
    _mm256_storeu_si256((__m256i *)p, a.v[0]);
    _mm256_storeu_si256((__m256i *)(p + 8), a.v[1]);
}

static inline void v16i_storen(int32_t *p, v16i a, int n)
{
    v16m m = v16m_first(n);
    _mm256_maskstore_epi32(p, m.v[0], a.v[0]);
    _mm256_maskstore_epi32(p + 8, m.v[1], a.v[1]);
}

/* Packing works within 128-bit halves, so the quarters are put back in order. */
static inline void v16i_store_u16(uint16_t *p, v16i a)
{
    __m256i w = _mm256_packus_epi32(a.v[0], a.v[1]);
    _mm256_storeu_si256((__m256i *)p, _mm256_permute4x64_epi64(w, 0xd8));
}

static inline void v16i_store_i8(int8_t *p, v16i a)
{
    __m256i w = _mm256_permute4x64_epi64(_mm256_packs_epi32(a.v[0], a.v[1]), 0xd8);
    __m128i b = _mm_packs_epi16(_mm256_castsi256_si128(w), _mm256_extracti128_si256(w, 1));
    _mm_storeu_si128((__m128i *)p, b);
}

LANES_OP(v16f, v16f_set1, (float a), _mm256_set1_ps(a))
LANES_OP(v16f, v16f_add, (v16f a, v16f b), _mm256_add_ps(a.v[h], b.v[h]))
LANES_OP(v16f, v16f_sub, (v16f a, v16f b), _mm256_sub_ps(a.v[h], b.v[h]))
LANES_OP(v16f, v16f_mul, (v16f a, v16f b), _mm256_mul_ps(a.v[h], b.v[h]))
LANES_OP(v16f, v16f_div, (v16f a, v16f b), _mm256_div_ps(a.v[h], b.v[h]))
LANES_OP(v16f, v16f_sqrt, (v16f a), _mm256_sqrt_ps(a.v[h]))
LANES_OP(v16f, v16f_fma, (v16f a, v16f b, v16f c), _mm256_fmadd_ps(a.v[h], b.v[h], c.v[h]))
LANES_OP(v16f, v16f_fnma, (v16f a, v16f b, v16f c), _mm256_fnmadd_ps(a.v[h], b.v[h], c.v[h]))
LANES_OP(v16f, v16f_max, (v16f a, v16f b), _mm256_max_ps(a.v[h], b.v[h]))
LANES_OP(v16f, v16f_min, (v16f a, v16f b), _mm256_min_ps(a.v[h], b.v[h]))
LANES_OP(v16f, v16f_rint, (v16f a),
         _mm256_round_ps(a.v[h], _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC))

LANES_OP(v16i, v16i_set1, (int32_t a), _mm256_set1_epi32(a))
LANES_OP(v16i, v16i_add, (v16i a, v16i b), _mm256_add_epi32(a.v[h], b.v[h]))
LANES_OP(v16i, v16i_sub, (v16i a, v16i b), _mm256_sub_epi32(a.v[h], b.v[h]))
LANES_OP(v16i, v16i_mul, (v16i a, v16i b), _mm256_mullo_epi32(a.v[h], b.v[h]))
LANES_OP(v16i, v16i_and, (v16i a, v16i b), _mm256_and_si256(a.v[h], b.v[h]))
LANES_OP(v16i, v16i_lookup, (const uint8_t *p, v16i q),
         _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(LOAD16(p)), q.v[h]))
LANES_OP(v16i, v16i_or, (v16i a, v16i b), _mm256_or_si256(a.v[h], b.v[h]))
LANES_OP(v16i, v16i_xor, (v16i a, v16i b), _mm256_xor_si256(a.v[h], b.v[h]))
/* By operators: the intrinsics would keep a constant count in a register. */
LANES_OP(v16i, v16i_shl, (v16i a, int n), (__m256i)((__v8su)a.v[h] << n))
LANES_OP(v16i, v16i_shr, (v16i a, int n), (__m256i)((__v8su)a.v[h] >> n))
LANES_OP(v16i, v16i_sar, (v16i a, int n), (__m256i)((__v8si)a.v[h] >> n))
LANES_OP(v16i, v16i_max, (v16i a, v16i b), _mm256_max_epi32(a.v[h], b.v[h]))
LANES_OP(v16i, v16i_min, (v16i a, v16i b), _mm256_min_epi32(a.v[h], b.v[h]))

LANES_OP(v16i, v16i_from_f, (v16f a), _mm256_cvtps_epi32(a.v[h]))
LANES_OP(v16f, v16f_from_i, (v16i a), _mm256_cvtepi32_ps(a.v[h]))
LANES_OP(v16f, v16f_bits, (v16i a), CAST_F(a.v[h]))
LANES_OP(v16i, v16i_bits, (v16f a), CAST_I(a.v[h]))

LANES_OP(v16m, v16f_lt, (v16f a, v16f b), CAST_I(_mm256_cmp_ps(a.v[h], b.v[h], _CMP_LT_OQ)))
LANES_OP(v16m, v16f_le, (v16f a, v16f b), CAST_I(_mm256_cmp_ps(a.v[h], b.v[h], _CMP_LE_OQ)))
LANES_OP(v16m, v16f_eq, (v16f a, v16f b), CAST_I(_mm256_cmp_ps(a.v[h], b.v[h], _CMP_EQ_OQ)))
LANES_OP(v16m, v16f_gt, (v16f a, v16f b), CAST_I(_mm256_cmp_ps(a.v[h], b.v[h], _CMP_GT_OQ)))
LANES_OP(v16m, v16f_ge, (v16f a, v16f b), CAST_I(_mm256_cmp_ps(a.v[h], b.v[h], _CMP_GE_OQ)))
LANES_OP(v16m, v16i_eq, (v16i a, v16i b), _mm256_cmpeq_epi32(a.v[h], b.v[h]))
LANES_OP(v16m, v16i_gt, (v16i a, v16i b), _mm256_cmpgt_epi32(a.v[h], b.v[h]))
LANES_OP(v16m, v16m_and, (v16m a, v16m b), _mm256_and_si256(a.v[h], b.v[h]))
LANES_OP(v16m, v16m_or, (v16m a, v16m b), _mm256_or_si256(a.v[h], b.v[h]))
LANES_OP(v16m, v16m_not, (v16m a), _mm256_xor_si256(a.v[h], _mm256_set1_epi32(-1)))
LANES_OP(v16f, v16f_select, (v16m m, v16f a, v16f b),
         _mm256_blendv_ps(b.v[h], a.v[h], CAST_F(m.v[h])))
LANES_OP(v16i, v16i_select, (v16m m, v16i a, v16i b), _mm256_blendv_epi8(b.v[h], a.v[h], m.v[h]))

static inline bool v16m_any(v16m m)
{
    return _mm256_movemask_epi8(_mm256_or_si256(m.v[0], m.v[1])) != 0;
}

static inline float v16f_reduce_add(v16f a)
{
    __m256 b = _mm256_add_ps(a.v[0], a.v[1]);
    __m128 c = _mm_add_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
    c = _mm_add_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_add_ss(c, _mm_shuffle_ps(c, c, 1)));
}

static inline float v16f_reduce_max(v16f a)
{
    __m256 b = _mm256_max_ps(a.v[0], a.v[1]);
    __m128 c = _mm_max_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
    c = _mm_max_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_max_ss(c, _mm_shuffle_ps(c, c, 1)));
}

/* Squares of 4 by the SSE shuffle network. */
static inline void v16f_transpose(float *y, int64_t ldy, const float *x, int64_t ldx, int n)
{
    int i = 0;
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

#undef CAST_I
#undef CAST_F
#undef LOAD8
#undef LOAD16

#include "backend/cpu/lanes.h"

#endif
