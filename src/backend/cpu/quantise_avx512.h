/* The two steps of quantise_lanes.h for one group on AVX-512, without their detours.
 *
 * Why:    a row is prepared once per product, but at two dots a cycle the general form took a tenth
 *         of a product of 3,072 outputs.
 * How:    maxima of quads by unpacking four vectors into each other; the largest quad by a
 *         compare's mask; bytes by saturating packs (values other than the slot's are within +-127
 *         by the choice of the step); sums of v by dots with 1, of the slot's high parts by 128.
 * Use:    GROUP_STEP and GROUP_VALUES of quantise_lanes.h.
 */
#include "backend/cpu/matmul_core.h"

static inline __m512 max_halves(__m512 a, __m512 b)
{
    return _mm512_max_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
}

static inline float largest_lane(__m512 a)
{
    __m256 b = _mm256_max_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    __m128 c = _mm_max_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
    c = _mm_max_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_max_ss(c, _mm_movehdup_ps(c)));
}

#define GROUP_STEP group_step_avx512
static inline float group_step_avx512(const float *x, int group, int32_t *p, v16i *most)
{
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    __m512 a[4] = {_mm512_set1_ps(-1.0f), _mm512_set1_ps(-1.0f), _mm512_set1_ps(-1.0f),
                   _mm512_set1_ps(-1.0f)};
    a[0] = _mm512_abs_ps(_mm512_loadu_ps(x));
    a[1] = _mm512_abs_ps(_mm512_loadu_ps(x + 16));
    *most = v16i_max(
        *most, (v16i){_mm512_max_epi32(_mm512_castps_si512(a[0]), _mm512_castps_si512(a[1]))});
    if (group == 64) {
        a[2] = _mm512_abs_ps(_mm512_loadu_ps(x + 32));
        a[3] = _mm512_abs_ps(_mm512_loadu_ps(x + 48));
        *most = v16i_max(
            *most, (v16i){_mm512_max_epi32(_mm512_castps_si512(a[2]), _mm512_castps_si512(a[3]))});
    }
    __m512d low = _mm512_castps_pd(max_halves(a[0], a[1])),
            high = _mm512_castps_pd(max_halves(a[2], a[3]));
    /* lane 4*i + j: quad i of vector j */
    __m512 m = _mm512_max_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(low, high)),
                             _mm512_castpd_ps(_mm512_unpackhi_pd(low, high)));
    m = _mm512_permutexvar_ps(order, m);
    float best = largest_lane(m), rest;
    unsigned equal = _mm512_cmp_ps_mask(m, _mm512_set1_ps(best), _CMP_EQ_OQ) | 0x10000u;
    *p = __builtin_ctz(equal) & 15;
    rest = largest_lane(_mm512_mask_mov_ps(m, (__mmask16)(1u << *p), _mm512_setzero_ps()));
    best *= 1.0f / 16319.0f;
    rest *= 1.0f / 127.0f;
    return rest > best ? rest : best;
}

static inline int32_t low_bytes(__m128i v)
{
    return _mm_cvtsi128_si32(_mm_cvtepi32_epi8(v));
}

static inline __m512i round_values(const float *x, __m512 inv)
{
    return _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x), inv));
}

static inline int32_t sum_bytes(int32_t r)
{
    return (int8_t)r + (int8_t)(r >> 8) + (int8_t)(r >> 16) + (r >> 24);
}

/* The sums of four quads each. */
static inline void start_halves(__m512i sums, const mr_qform *f, mr_qgroup *g)
{
    __m128i s = _mm_hadd_epi32(_mm512_castsi512_si128(sums), _mm512_extracti32x4_epi32(sums, 1));
    s = _mm_hadd_epi32(s, s);
    g->start = f->start_by * _mm_cvtsi128_si32(s);
    g->u.start_hi = f->start_by * _mm_extract_epi32(s, 1);
}

/* False: a form of its own, nothing done. */
#define GROUP_VALUES group_values_avx512
static inline bool group_values_avx512(const float *x, const mr_qform *f, float d, float row,
                                       float inverse, mr_qgroup *g, uint8_t *values)
{
    if (f->wide || (f->halves && f->group != 32))
        return false;
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    const __m256 powers = _mm256_setr_ps(1, 2, 4, 8, 16, 32, 0x1p99f, 0x1p99f);
    const __m128i limit = _mm_set1_epi32(16319);
    int32_t e =
        __builtin_popcount(_mm256_cmp_ps_mask(powers, _mm256_set1_ps(d * inverse), _CMP_LT_OQ));
    float step = row * (float)(1 << e), inv = step == 0.0f ? 0.0f : 1.0f / step;
    __m512 by = _mm512_set1_ps(inv);
    __m128i v = _mm_cvtps_epi32(_mm_mul_ps(_mm_loadu_ps(x + 4 * g->p), _mm_set1_ps(inv)));
    v = _mm_max_epi32(_mm_min_epi32(v, limit), _mm_sub_epi32(_mm_setzero_si128(), limit));
    __m128i high = _mm_srai_epi32(_mm_add_epi32(v, _mm_set1_epi32(64)), 7);
    g->r = low_bytes(high);
    int32_t low = low_bytes(_mm_sub_epi32(v, _mm_slli_epi32(high, 7)));
    __mmask16 slot = (__mmask16)(1u << g->p);
    __m512i a = _mm512_packs_epi32(round_values(x, by), round_values(x + 16, by)),
            b = _mm512_setzero_si512();
    if (f->group == 64)
        b = _mm512_packs_epi32(round_values(x + 32, by), round_values(x + 48, by));
    /* packs work within 128 bits: dword 4*i + j has quad i of vector j */
    a = _mm512_permutexvar_epi32(order, _mm512_packs_epi16(a, b));
    a = _mm512_mask_set1_epi32(a, slot, low);
    if (f->group == 64)
        _mm512_storeu_si512(values, a);
    else
        _mm256_storeu_si256((__m256i *)(void *)values, _mm512_castsi512_si256(a));
    __m512i sums = _mm512_dpbusd_epi32(_mm512_setzero_si512(), _mm512_set1_epi8(1), a);
    g->e = e;
    if (f->halves && f->start_by < 0) {
        start_halves(sums, f, g);
        int32_t own = f->start_by * sum_bytes(g->r);
        memcpy(values + 32, &own, sizeof own);
        return true;
    }
    sums =
        _mm512_dpbusd_epi32(sums, _mm512_set1_epi8((char)128), _mm512_maskz_set1_epi32(slot, g->r));
    if (f->halves) {
        start_halves(sums, f, g);
        memset(values + 32, 0, 4);
        return true;
    }
    int32_t sum = _mm512_reduce_add_epi32(sums);
    g->start = f->start_by * sum;
    if (f->less)
        g->u.less = -sum;
    else
        g->u.a = (float)sum * (float)(1 << e);
    return true;
}
