/* Activations to 8 bits: one row.
 *
 * The form (docs/numerics.md, "int8 activations"): per group of 32 or 64 one quad, the slot, may be
 * up to 128 times as large as the others (not in even rows); steps are D * 2^e with one D per row.
 * Two passes: first the quads' maxima give every group's d and the row's D, then values are rounded.
 * Magnitudes are compared as integers (the bits of |x| order as |x| does), so that a row with Inf
 * or NaN is seen by the same maximum; such a row gets D = NaN and zeros.
 */
#include "backend/cpu/matmul_core.h"

enum { QUANTISE_INF = 0x7f800000 };

static inline float bits_float(int32_t u)
{
    float f;
    memcpy(&f, &u, 4);
    return f;
}

static inline int32_t float_bits(float f)
{
    int32_t u;
    memcpy(&u, &f, 4);
    return u;
}

static bool any_not_finite(v16i most)
{
    return v16m_any(v16i_gt(most, v16i_set1(QUANTISE_INF - 1)));
}

/* The row's D and 1/D from the largest d, and the header; false: no finite row, all is done. */
static inline bool row_step(float largest, v16i most, const mr_qform *f, uint8_t *row, float *step,
                            float *inverse)
{
    *step = largest * (1.0f / 64.0f);
    if (*step < 0x1p-126f)
        *step = 0.0f; /* so small a row counts as zeros: 1/D would overflow */
    bool finite = !any_not_finite(most);
    if (!finite) {
        *step = bits_float(MR_NAN_BITS);
        memset(row + MR_QROW_HEADER, 0, (size_t)(f->k / f->group) * f->step);
    }
    *inverse = *step == 0.0f ? 0.0f : 1.0f / *step;
    memcpy(row, step, 4);
    return finite;
}

static const int8_t quad_of_element[16] = {0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3};

/* 16 values of a group in steps of 1/inv; quad holds their quads' numbers. */
static inline v16i rounded(v16f x, float inv, v16m in_slot)
{
    v16i limit = v16i_select(in_slot, v16i_set1(16319), v16i_set1(127));
    v16i v = v16i_from_f(v16f_mul(x, v16f_set1(inv)));
    return v16i_min(v16i_max(v, v16i_sub(v16i_zero(), limit)), limit);
}

/* rest = fma(-v, step, x); of rows that are not finite x itself. */
static void residue(const float *x, const mr_qform *f, const uint8_t *row, float *rest)
{
    const uint8_t *record = row + MR_QROW_HEADER;
    float largest;
    memcpy(&largest, row, sizeof largest);
    for (int64_t k = 0; k < f->k; k += f->group, record += f->step) {
        mr_qgroup g;
        memcpy(&g, record, sizeof g);
        float step = largest == largest ? largest * (float)(1 << g.e) : 0.0f;
        float inv = step == 0.0f ? 0.0f : 1.0f / step;
        v16i quad = v16i_load_i8(quad_of_element);
        for (int i = 0; i < f->group; i += 16, quad = v16i_add(quad, v16i_set1(4))) {
            v16f a = v16f_load(x + k + i);
            v16f v = v16f_from_i(rounded(a, inv, v16i_eq(quad, v16i_set1(g.p))));
            v16f_store(rest + k + i, v16f_fma(v, v16f_set1(-step), a));
        }
    }
}

#ifdef QUANTISE_OWN /* the header of a faster one */
#include QUANTISE_OWN
#else
/* Quad maxima of up to four vectors share one: lane 4*i + j holds quad i of vector j. */
static const int8_t quad_in_lane[16] = {0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15};
static const int8_t vector_of_lane[16] = {0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3};

/* The group's slot and d; *most collects magnitude bits. */
static inline float group_step(const float *x, int group, bool even, int32_t *p, v16i *most)
{
    v16i vector = v16i_load_i8(vector_of_lane);
    v16f rank = v16f_sub(v16f_set1(16.0f), v16f_from_i(v16i_load_i8(quad_in_lane)));
    v16f m = v16f_set1(-1.0f); /* lanes of vectors that a group of 32 lacks */
    for (int j = 0; j < group / 16; j++) {
        v16f a = v16f_abs(v16f_load(x + 16 * j));
        *most = v16i_max(*most, v16i_bits(a));
        m = v16f_select(v16i_eq(vector, v16i_set1(j)), quad_max(a), m);
    }
    float a = v16f_reduce_max(m);
    float best = v16f_reduce_max(v16f_select(v16f_eq(m, v16f_set1(a)), rank,
                                             v16f_zero())); /* the lowest quad ranks highest */
    float c = v16f_reduce_max(v16f_select(v16f_eq(rank, v16f_set1(best)), v16f_zero(), m));
    *p = even ? 0 : 16 - (int32_t)best;
    if (even)
        return a * (1.0f / 127.0f);
    a *= 1.0f / 16319.0f;
    c *= 1.0f / 127.0f;
    return c > a ? c : a;
}

#ifndef STORE_WIDE
static inline void store_wide(uint8_t *dst, v16i v)
{
    int32_t t[16];
    v16i_store(t, v);
    for (int q = 0; q < 4; q++) {
        int16_t h[4] = {(int16_t)t[4 * q], (int16_t)t[4 * q + 2], (int16_t)t[4 * q + 1],
                        (int16_t)t[4 * q + 3]};
        memcpy(dst + 8 * q, h, 8);
    }
}
#endif

/* Step, values and sums of a group with slot g->p and step d. No branch depends on the data. */
static inline void group_values(const float *x, const mr_qform *f, float d, float row,
                                float inverse, mr_qgroup *g, uint8_t *values)
{
    int32_t e = 0;
    int8_t high_bytes[64];
    float want = d * inverse, sum[2];
    for (int i = 0; i < 6; i++)
        e += (float)(1 << i) < want;
    float step = row * (float)(1 << e), inv = step == 0.0f ? 0.0f : 1.0f / step;
    v16i quad = v16i_load_i8(quad_of_element), half[2] = {v16i_zero(), v16i_zero()}, slot = half[0];
    const bool apart = f->halves && f->start_by < 0;
    for (int i = 0; i < f->group; i += 16, quad = v16i_add(quad, v16i_set1(4))) {
        v16m in_slot = v16i_eq(quad, v16i_set1(f->even ? -1 : g->p));
        v16i v = rounded(v16f_load(x + i), inv, in_slot);
        v16m large = v16i_gt(v16i_max(v, v16i_sub(v16i_zero(), v)), v16i_set1(127));
        v16i any = v16i_set1(-(int32_t)v16m_any(large)); /* in a slot alone */
        v16i high = v16i_sar(v16i_add(v, v16i_set1(64)), 7);
        high = v16i_select(in_slot, v16i_and(high, any), v16i_zero());
        v16i low = v16i_sub(v, v16i_shl(high, 7));
        v16i_store_i8(high_bytes + i, high);
        if (f->wide)
            store_wide(values + 2 * i, low);
        else
            v16i_store_i8((int8_t *)values + i, low);
        int at = 2 * i / f->group;
        half[at] = v16i_add(half[at], apart ? low : v);
        slot = v16i_add(slot, high);
    }
    for (int i = 0; i < 2; i++) /* below 2^24: exact in any order */
        sum[i] = v16f_reduce_add(v16f_from_i(half[i]));
    memcpy(&g->r, high_bytes + 4 * g->p, 4);
    g->e = e;
    int32_t last;
    if (f->halves) {
        g->start = f->start_by * (int32_t)sum[0];
        g->u.start_hi = f->start_by * (int32_t)sum[1];
        last = apart ? f->start_by * (int32_t)v16f_reduce_add(v16f_from_i(slot)) : 0;
    } else {
        g->start = f->start_by * (int32_t)(sum[0] + sum[1]);
        if (f->less)
            g->u.less = -(int32_t)(sum[0] + sum[1]);
        else
            g->u.a = (sum[0] + sum[1]) * (float)(1 << e);
        last = float_bits(MR_QROW_FLOAT * (float)(1 << e)) + g->start;
    }
    memcpy(values + f->group * (f->wide ? 2 : 1), &last, sizeof last);
}

static void quantise(const float *x, const mr_qform *f, uint8_t *row)
{
    int64_t groups = f->k / f->group;
    uint8_t *records = row + MR_QROW_HEADER;
    float largest = 0.0f, step, inverse;
    v16i most = v16i_zero();
    for (int64_t i = 0; i < groups; i++) {
        mr_qgroup g = {0};
        g.u.a = group_step(x + i * f->group, f->group, f->even, &g.p,
                           &most); /* d, for the second pass */
        largest = g.u.a > largest ? g.u.a : largest;
        memcpy(records + (size_t)i * f->step, &g, sizeof g);
    }
    if (!row_step(largest, most, f, row, &step, &inverse))
        return;
    for (int64_t i = 0; i < groups; i++) {
        uint8_t *at = records + (size_t)i * f->step;
        mr_qgroup g;
        memcpy(&g, at, sizeof g);
        group_values(x + i * f->group, f, g.u.a, step, inverse, &g, at + sizeof g);
        memcpy(at, &g, sizeof g);
    }
}
#endif
