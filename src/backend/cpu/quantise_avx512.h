/* Activations to 8 bits on AVX-512: 256 values at once.
 *
 * Why:    a row is prepared once per product.  At two dots a cycle the general form, group by group
 *         with its reductions, took a tenth of a product of 1,152 outputs.
 * How:    four vectors of 16 quads, transposed by blocks of four quads, so that largest quad, second
 *         largest and place are found lane by lane for all groups (4 of 64 or 8 of 32), lower quads
 *         first.  Values become bytes by saturating packs (other than the slot's they are within
 *         +-127 by the choice of the step); their sums come by dots with 1, the slots of four groups
 *         are rounded side by side.
 * Use:    QUANTISE_OWN of quantise_lanes.h, the same bits; not for the wide form, which is AVX2's.
 */
#include "backend/cpu/matmul_core.h"

enum { QUANTISE_AT_ONCE = 256, QUANTISE_GROUPS = 8 };

/* Of 16 ranges of quads: the largest quad, the next and the place of the largest. */
typedef struct top_quads {
    __m512i most, next, place;
} top_quads;

/* b are ranges of higher quads: they win only if larger. */
static inline top_quads higher(top_quads a, top_quads b)
{
    __mmask16 up = _mm512_cmpgt_epi32_mask(b.most, a.most);
    return (top_quads){
        _mm512_max_epi32(a.most, b.most),
        _mm512_max_epi32(_mm512_max_epi32(a.next, b.next), _mm512_min_epi32(a.most, b.most)),
        _mm512_mask_mov_epi32(a.place, up, b.place)};
}

#define SHUFFLED(t, how)                                                                           \
    (top_quads)                                                                                    \
    {                                                                                              \
        _mm512_shuffle_epi32((t).most, how), _mm512_shuffle_epi32((t).next, how),                  \
            _mm512_shuffle_epi32((t).place, how)                                                   \
    }

static inline __m512i larger_halves(__m512i a, __m512i b)
{
    return _mm512_max_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
}

/* Bits of the largest |x| of each quad of 64 values: dword 4*i + j has quad 4*j + i. */
static inline __m512i quads_of_64(const float *x)
{
    const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
    __m512i a[4];
    LANES_UNROLL
    for (int j = 0; j < 4; j++)
        a[j] = _mm512_and_si512(_mm512_loadu_si512(x + 16 * j), magnitude);
    __m512i low = larger_halves(a[0], a[1]), high = larger_halves(a[2], a[3]);
    return _mm512_max_epi32(_mm512_unpacklo_epi64(low, high), _mm512_unpackhi_epi64(low, high));
}

/* Slots p and d of 256 values' groups; *most collects the largest magnitudes. */
LANES_INLINE void steps_of_256(const float *x, int group, bool even, __m256i *p, __m256 *d,
                               __m512i *most)
{
    const __m512i quad = _mm512_setr_epi32(0, 4, 8, 12, 0, 4, 8, 12, 0, 4, 8, 12, 0, 4, 8, 12);
    const __m512i none = _mm512_set1_epi32(-1);
    __m512i m[4];
    LANES_UNROLL
    for (int c = 0; c < 4; c++)
        m[c] = quads_of_64(x + 64 * c);
    __m512i s = _mm512_shuffle_i32x4(m[0], m[1], 0x44), t = _mm512_shuffle_i32x4(m[2], m[3], 0x44),
            u = _mm512_shuffle_i32x4(m[0], m[1], 0xee), v = _mm512_shuffle_i32x4(m[2], m[3], 0xee);
    m[0] =
        _mm512_shuffle_i32x4(s, t, 0x88); /* now block c of m[i]: quads i, 4+i, 8+i, 12+i of x[c] */
    m[1] = _mm512_shuffle_i32x4(s, t, 0xdd);
    m[2] = _mm512_shuffle_i32x4(u, v, 0x88);
    m[3] = _mm512_shuffle_i32x4(u, v, 0xdd);
    top_quads top = {m[0], none, quad};
    LANES_UNROLL
    for (int i = 1; i < 4; i++)
        top = higher(top, (top_quads){m[i], none, _mm512_add_epi32(quad, _mm512_set1_epi32(i))});
    top = higher(top, SHUFFLED(top, 0xb1));
    if (group == 64)
        top = higher(top, SHUFFLED(top, 0x4e));
    *most = _mm512_max_epi32(*most, top.most);
    __m512 a = _mm512_mul_ps(_mm512_castsi512_ps(top.most), _mm512_set1_ps(1.0f / 16319.0f)),
           b = _mm512_mul_ps(_mm512_castsi512_ps(top.next), _mm512_set1_ps(1.0f / 127.0f));
    const __m512i lanes =
        group == 64 ? _mm512_setr_epi32(0, 4, 8, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
                    : _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 0, 0, 0, 0, 0, 0, 0, 0);
    if (even)
        a = _mm512_mul_ps(_mm512_castsi512_ps(top.most), _mm512_set1_ps(1.0f / 127.0f));
    *d = _mm512_castps512_ps256(_mm512_permutexvar_ps(lanes, even ? a : _mm512_max_ps(a, b)));
    *p = _mm256_and_si256(
        _mm512_castsi512_si256(_mm512_permutexvar_epi32(lanes, top.place)),
        _mm256_set1_epi32(even ? 0 : group / 4 - 1)); /* of the second 32 values: quads 8 to 15 */
}

/* The slots of four groups: low and high parts as bytes, and the sums of each. */
static inline void round_slots(const float *const x[4], __m128 inv, __m128i *low, __m128i *high,
                               __m128i *sum_low, __m128i *sum_high)
{
    const __m512i limit = _mm512_set1_epi32(16319),
                  each = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
    __m512 a = _mm512_castps128_ps512(_mm_loadu_ps(x[0]));
    a = _mm512_insertf32x4(a, _mm_loadu_ps(x[1]), 1);
    a = _mm512_insertf32x4(a, _mm_loadu_ps(x[2]), 2);
    a = _mm512_insertf32x4(a, _mm_loadu_ps(x[3]), 3);
    a = _mm512_mul_ps(a, _mm512_permutexvar_ps(each, _mm512_castps128_ps512(inv)));
    __m512i v = _mm512_min_epi32(_mm512_cvtps_epi32(a), limit);
    v = _mm512_max_epi32(v, _mm512_sub_epi32(_mm512_setzero_si512(), limit));
    uint32_t large = _mm512_cmpgt_epi32_mask(_mm512_abs_epi32(v), _mm512_set1_epi32(127));
    large |= large >> 1;
    large = ((large | large >> 2) & 0x1111) * 15; /* all four of a slot that has one */
    __m512i r =
        _mm512_maskz_srai_epi32((__mmask16)large, _mm512_add_epi32(v, _mm512_set1_epi32(64)), 7);
    *high = _mm512_cvtepi32_epi8(r);
    *low = _mm512_cvtepi32_epi8(_mm512_sub_epi32(v, _mm512_slli_epi32(r, 7)));
    *sum_low = _mm_dpbusd_epi32(_mm_setzero_si128(), _mm_set1_epi8(1), *low);
    *sum_high = _mm_dpbusd_epi32(_mm_setzero_si128(), _mm_set1_epi8(1), *high);
}

/* 64 values as bytes; `inv` of the first and the last 32. */
static inline __m512i round_64(const float *x, __m512 inv0, __m512 inv1)
{
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    __m512i v[4];
    LANES_UNROLL
    for (int j = 0; j < 4; j++)
        v[j] = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x + 16 * j), j < 2 ? inv0 : inv1));
    /* packs work within 128 bits: dword 4*i + j has quad i of vector j */
    return _mm512_permutexvar_epi32(
        order, _mm512_packs_epi16(_mm512_packs_epi32(v[0], v[1]), _mm512_packs_epi32(v[2], v[3])));
}

/* Dword 4*i + c: the sum of dwords 4*i .. 4*i + 3 of a[c]. */
static inline __m512i sums_of_four(const __m512i a[4])
{
    __m512i s = _mm512_add_epi32(_mm512_unpacklo_epi32(a[0], a[1]),
                                 _mm512_unpackhi_epi32(a[0], a[1])),
            t = _mm512_add_epi32(_mm512_unpacklo_epi32(a[2], a[3]),
                                 _mm512_unpackhi_epi32(a[2], a[3]));
    return _mm512_add_epi32(_mm512_unpacklo_epi64(s, t), _mm512_unpackhi_epi64(s, t));
}

/* The powers of two of up to 8 groups and the inverses of their steps; step is D. */
static inline __m256i powers_of(__m256 d, float step, float inverse, __m256 *inv)
{
    __m256i want = _mm256_castps_si256(_mm256_mul_ps(d, _mm256_set1_ps(inverse)));
    /* the exponent of the float below: 2^e is the next power from `want` on */
    __m256i e =
        _mm256_sub_epi32(_mm256_srai_epi32(_mm256_sub_epi32(want, _mm256_set1_epi32(1)), 23),
                         _mm256_set1_epi32(126));
    e = _mm256_min_epi32(_mm256_max_epi32(e, _mm256_setzero_si256()), _mm256_set1_epi32(6));
    __m256 power =
        _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(e, _mm256_set1_epi32(127)), 23));
    *inv = step == 0.0f
               ? _mm256_setzero_ps()
               : _mm256_div_ps(_mm256_set1_ps(1.0f), _mm256_mul_ps(_mm256_set1_ps(step), power));
    return e;
}

/* Between the passes d and p of 256 values lie where their first records will be: 40 bytes. */
LANES_INLINE void keep_found(uint8_t *at, __m256 d, __m256i places)
{
    _mm256_storeu_ps((float *)(void *)at, d);
    _mm_storel_epi64((__m128i *)(void *)(at + 32), _mm256_cvtepi32_epi8(places));
}

LANES_INLINE __m256i found_places(const uint8_t *at)
{
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)(at + 32)));
}

/* Sums of the first and the last half of each group, from quarters (64) or halves (32) of vectors. */
LANES_INLINE void half_sums(__m512i a, int group, __m256i *first, __m256i *last)
{
    __m128i q0 = _mm512_castsi512_si128(a), q1 = _mm512_extracti32x4_epi32(a, 1),
            q2 = _mm512_extracti32x4_epi32(a, 2), q3 = _mm512_extracti32x4_epi32(a, 3);
    if (group == 64) {
        *first = _mm256_zextsi128_si256(_mm_add_epi32(q0, q1));
        *last = _mm256_zextsi128_si256(_mm_add_epi32(q2, q3));
    } else { /* even groups in q0 and q1, odd ones in q2 and q3 */
        *first = _mm256_set_m128i(_mm_unpackhi_epi32(q0, q2), _mm_unpacklo_epi32(q0, q2));
        *last = _mm256_set_m128i(_mm_unpackhi_epi32(q1, q3), _mm_unpacklo_epi32(q1, q3));
    }
}

LANES_INLINE void store_8(int32_t *to, __m256i a)
{
    _mm256_storeu_si256((__m256i *)(void *)to, a);
}

/* The values and records of n groups, n * group <= 256. */
LANES_INLINE void values_of_256(const float *x, const mr_qform *f, int group, bool even, int n,
                                float step, float inverse, uint8_t *records)
{
    const int each = QUANTISE_AT_ONCE / group;
    float inv[QUANTISE_GROUPS];
    int32_t low[QUANTISE_GROUPS], high[QUANTISE_GROUPS], p[QUANTISE_GROUPS], e[QUANTISE_GROUPS],
        start[QUANTISE_GROUPS], more[QUANTISE_GROUPS], after[QUANTISE_GROUPS];
    __m128i slot_low[2] = {_mm_setzero_si128(), _mm_setzero_si128()};
    __m128i slot_high[2] = {_mm_setzero_si128(), _mm_setzero_si128()};
    __m256 by;
    __m256i places = found_places(records), first, last;
    __m256i powers =
        powers_of(_mm256_loadu_ps((const float *)(const void *)records), step, inverse, &by);
    store_8(p, places);
    store_8(e, powers);
    _mm256_storeu_ps(inv, by);
    LANES_UNROLL
    for (int g = 0; g < each && !even; g += 4) {
        const float *slots[4];
        __m128i a, b;
        LANES_UNROLL
        for (int i = 0; i < 4; i++)
            slots[i] = x + (g + i) * group + 4 * p[g + i];
        round_slots(slots, _mm_loadu_ps(inv + g), &a, &b, &slot_low[g / 4], &slot_high[g / 4]);
        _mm_storeu_si128((__m128i *)(void *)(low + g), a);
        _mm_storeu_si128((__m128i *)(void *)(high + g), b);
    }
    __m512i part[4];
    LANES_UNROLL
    for (int c = 0; c < 4; c++) {
        int g0 = c * each / 4, g1 = g0 + each / 8; /* the groups of the first and the last 32 */
        uint8_t *to0 = records + (size_t)g0 * f->step + sizeof(mr_qgroup),
                *to1 = records + (size_t)g1 * f->step + sizeof(mr_qgroup);
        __m512i q = round_64(x + 64 * c, _mm512_set1_ps(inv[g0]), _mm512_set1_ps(inv[g1]));
        uint32_t slots = even ? 0 : 1u << p[g0] | (g1 > g0 ? 256u << p[g1] : 0);
        part[c] = _mm512_mask_dpbusd_epi32(_mm512_setzero_si512(), (__mmask16)~slots,
                                           _mm512_set1_epi8(1), q);
        if (group == 64 && g0 < n)
            _mm512_storeu_si512(to0, q);
        if (group == 32 && g0 < n)
            _mm256_storeu_si256((__m256i *)(void *)to0, _mm512_castsi512_si256(q));
        if (group == 32 && g1 < n)
            _mm256_storeu_si256((__m256i *)(void *)to1, _mm512_extracti64x4_epi64(q, 1));
    }
    half_sums(sums_of_four(part), group, &first, &last);
    const bool apart =
        f->halves && f->start_by < 0; /* the slots' high parts start sums of their own */
    __m256i slot = _mm256_set_m128i(slot_low[1], slot_low[0]),
            slot_more = _mm256_set_m128i(slot_high[1], slot_high[0]),
            by_start = _mm256_set1_epi32(f->start_by);
    if (!apart)
        slot = _mm256_add_epi32(slot, _mm256_slli_epi32(slot_more, 7));
    __mmask8 early = _mm256_cmplt_epi32_mask(places, _mm256_set1_epi32(group / 8));
    first = _mm256_mask_add_epi32(first, early, first, slot);
    last = _mm256_mask_add_epi32(last, (__mmask8)~early, last, slot);
    __m256i all = _mm256_add_epi32(first, last);
    if (f->halves) {
        store_8(start, _mm256_mullo_epi32(first, by_start));
        store_8(more, _mm256_mullo_epi32(last, by_start));
        store_8(after, apart ? _mm256_mullo_epi32(slot_more, by_start) : _mm256_setzero_si256());
    } else {
        __m256i starts = _mm256_mullo_epi32(all, by_start);
        store_8(start, starts);
        store_8(after, _mm256_add_epi32(_mm256_add_epi32(_mm256_slli_epi32(powers, 23), starts),
                                        _mm256_set1_epi32(float_bits(MR_QROW_FLOAT))));
        if (f->less)
            store_8(more, _mm256_sub_epi32(_mm256_setzero_si256(), all));
        else /* A: exact */
            store_8(more, _mm256_castps_si256(_mm256_cvtepi32_ps(_mm256_sllv_epi32(all, powers))));
    }
    for (int g = 0; g < n; g++) {
        uint8_t *at = records + (size_t)g * f->step;
        int32_t *record = (int32_t *)(void *)at;
        record[0] = even ? 0 : high[g];
        record[1] = p[g];
        record[2] = e[g];
        record[3] = start[g];
        record[4] = more[g];
        if (!even)
            memcpy(at + sizeof(mr_qgroup) + 4 * p[g], &low[g], 4);
        memcpy(at + sizeof(mr_qgroup) + group, &after[g], 4);
    }
}

/* A row that is not whole 256s ends in one that overlaps the one before and writes the same; one
 * shorter than that is copied and ends in zeros. */
LANES_INLINE void quantise_groups(const float *x, const mr_qform *f, int group, bool even,
                                  uint8_t *row)
{
    const int64_t each = QUANTISE_AT_ONCE / group, groups = f->k / group;
    const int64_t last = groups > each ? groups - each : 0;
    const int n = groups < each ? (int)groups : (int)each;
    uint8_t *records = row + MR_QROW_HEADER;
    float copy[QUANTISE_AT_ONCE], step, inverse;
    __m256 largest = _mm256_setzero_ps();
    __m512i most = _mm512_setzero_si512();
    if (groups < each) {
        memset(copy, 0, sizeof copy);
        memcpy(copy, x, (size_t)f->k * sizeof *copy);
        x = copy;
    }
    for (int64_t g = 0; g < groups; g += each) {
        int64_t at = g < last ? g : last;
        __m256i places;
        __m256 d;
        steps_of_256(x + at * group, group, even, &places, &d, &most);
        largest = _mm256_max_ps(largest, d);
        keep_found(records + (size_t)at * f->step, d, places);
    }
    if (!row_step(_mm512_reduce_max_ps(_mm512_zextps256_ps512(largest)), (v16i){most}, f, row,
                  &step, &inverse))
        return;
    /* the last first: what was found of it lies within the one before */
    values_of_256(x + last * group, f, group, even, n, step, inverse,
                  records + (size_t)last * f->step);
    for (int64_t g = 0; g < last; g += each)
        values_of_256(x + g * group, f, group, even, n, step, inverse,
                      records + (size_t)g * f->step);
}

static void quantise(const float *x, const mr_qform *f, uint8_t *row)
{
    if (f->group == 64 && f->even)
        quantise_groups(x, f, 64, true, row);
    else if (f->group == 64)
        quantise_groups(x, f, 64, false, row);
    else if (f->even)
        quantise_groups(x, f, 32, true, row);
    else
        quantise_groups(x, f, 32, false, row);
}
