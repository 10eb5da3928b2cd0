/* Activations to 8 bits: one row.
 *
 * The form (docs/numerics.md, "int8 activations"): per group of 32 or 64 one quad, the slot, may be
 * up to 128 times as large as the others; steps are D * 2^e with one D per row.  Two passes: first
 * the quads' maxima give every group's d and the row's D, then values are rounded.
 * Magnitudes are compared as integers (the bits of |x| order as |x| does), so that a row with Inf
 * or NaN is seen by the same maximum; such a row gets D = NaN and zeros.
 */
#include "backend/cpu/matmul_core.h"

enum { QUANTISE_QUADS = 16, QUANTISE_INF = 0x7f800000 };

static inline float bits_float(int32_t u)
{
    float f;
    memcpy(&f, &u, 4);
    return f;
}

/* Magnitude bits of the n/4 quads of x. */
static inline void quad_maxima(const float *x, int n, int32_t *m)
{
    for (int i = 0; i < n; i += 16) {
        int32_t t[16];
        v16i_store(t, v16i_and(v16i_bits(v16f_load(x + i)), v16i_set1(0x7fffffff)));
        for (int q = 0; q < 4; q++) {
            int32_t a = t[4 * q] > t[4 * q + 1] ? t[4 * q] : t[4 * q + 1];
            int32_t b = t[4 * q + 2] > t[4 * q + 3] ? t[4 * q + 2] : t[4 * q + 3];
            m[i / 4 + q] = a > b ? a : b;
        }
    }
}

/* The group's slot and d; returns the largest magnitude bits. */
static inline int32_t group_step(const float *x, int group, mr_qgroup *g, float *d)
{
    int32_t m[QUANTISE_QUADS], most = -1, next = 0;
    quad_maxima(x, group, m);
    for (int i = 0; i < group / 4; i++) {
        if (m[i] > most) {
            next = most > next ? most : next;
            most = m[i];
            g->p = i;
        } else {
            next = m[i] > next ? m[i] : next;
        }
    }
    float a = bits_float(most) * (1.0f / 16319.0f), c = bits_float(next) * (1.0f / 127.0f);
    *d = c > a ? c : a;
    return most;
}

static inline void store_values(v16i v, bool wide, uint8_t *dst)
{
    if (!wide) {
        v16i_store_i8((int8_t *)dst, v);
        return;
    }
    int32_t t[16];
    v16i_store(t, v);
    for (int q = 0; q < 4; q++) {
        int16_t h[4] = {(int16_t)t[4 * q], (int16_t)t[4 * q + 2], (int16_t)t[4 * q + 1],
                        (int16_t)t[4 * q + 3]};
        memcpy(dst + 8 * q, h, 8);
    }
}

static inline int32_t lanes_sum(v16i v)
{
    int32_t t[16], sum = 0;
    v16i_store(t, v);
    for (int i = 0; i < 16; i++)
        sum += t[i];
    return sum;
}

/* Step, values and sums of a group whose slot is known. */
static inline void group_values(const float *x, const mr_qform *f, float d, float row,
                                float inverse, mr_qgroup *g, uint8_t *values)
{
    int32_t e = 0, sum[2] = {0, 0}, slot[4];
    float want = d * inverse;
    while (e < 6 && (float)(1 << e) < want)
        e++;
    float step = row * (float)(1 << e), inv = step == 0.0f ? 0.0f : 1.0f / step;
    for (int i = 0; i < f->group; i += 16) {
        v16i v = v16i_from_f(v16f_mul(v16f_load(x + i), v16f_set1(inv)));
        v16i high = v16i_zero();
        if (g->p / 4 == i / 16) {
            v16m in_slot =
                v16m_and(v16m_first(g->p % 4 * 4 + 4), v16m_not(v16m_first(g->p % 4 * 4)));
            v = v16i_min(v16i_max(v, v16i_set1(-16319)), v16i_set1(16319));
            high = v16i_select(in_slot, v16i_sar(v16i_add(v, v16i_set1(64)), 7), high);
            int32_t t[16];
            v16i_store(t, high);
            memcpy(slot, t + g->p % 4 * 4, sizeof slot);
        }
        v16i low = v16i_sub(v, v16i_shl(high, 7));
        low = v16i_min(v16i_max(low, v16i_set1(-127)), v16i_set1(127));
        store_values(low, f->wide, values + (f->wide ? 2 : 1) * i);
        sum[i * 2 / f->group] += lanes_sum(v16i_add(low, v16i_shl(high, 7)));
    }
    g->r = (int32_t)((uint32_t)(slot[0] & 255) | (uint32_t)(slot[1] & 255) << 8 |
                     (uint32_t)(slot[2] & 255) << 16 | (uint32_t)(slot[3] & 255) << 24);
    g->e = e;
    if (f->halves) {
        g->start = f->start_by * sum[0];
        g->u.start_hi = f->start_by * sum[1];
    } else {
        g->start = f->start_by * (sum[0] + sum[1]);
        g->u.a = (float)((sum[0] + sum[1]) * (1 << e));
    }
}

static void quantise(const float *x, const mr_qform *f, uint8_t *row)
{
    int64_t groups = f->k / f->group;
    uint8_t *records = row + MR_QROW_HEADER;
    float largest = 0.0f, step, inverse;
    int32_t most = 0;
    for (int64_t i = 0; i < groups; i++) {
        mr_qgroup g = {0};
        float d;
        int32_t m = group_step(x + i * f->group, f->group, &g, &d);
        most = m > most ? m : most;
        largest = d > largest ? d : largest;
        g.u.a = d; /* kept here for the second pass */
        memcpy(records + (size_t)i * f->step, &g, sizeof g);
    }
    step = largest * (1.0f / 64.0f);
    if (step < 0x1p-126f)
        step = 0.0f; /* so small a row counts as zeros: 1/D would overflow */
    if (most >= QUANTISE_INF) {
        step = bits_float(MR_NAN_BITS);
        memset(records, 0, (size_t)groups * f->step);
        memcpy(row, &step, 4);
        return;
    }
    inverse = step == 0.0f ? 0.0f : 1.0f / step;
    for (int64_t i = 0; i < groups; i++) {
        uint8_t *at = records + (size_t)i * f->step;
        mr_qgroup g;
        memcpy(&g, at, sizeof g);
        group_values(x + i * f->group, f, g.u.a, step, inverse, &g, at + sizeof g);
        memcpy(at, &g, sizeof g);
    }
    memcpy(row, &step, 4);
}
