/* From the sums of a block of rows at one column to the product's outputs.
 *
 * Part of matmul_lanes.h.  Why: scaling, biases, the gate and its function in one pass, as each pass
 * of its own reads and writes everything again.  Each row of y lies on its own page, far away: its
 * lines are asked for while rows before it are written.
 */
#include "backend/cpu/math_lanes.h"

enum { FINISH_AHEAD = 12, FINISH_AT_ONCE = 2 };

/* NaN differs between ISAs in sign and payload; outputs carry one. */
INLINE v16f one_nan(v16f a)
{
    return v16f_select(v16f_eq(a, a), a, v16f_bits(v16i_set1(MR_NAN_BITS)));
}

/* Outputs i.. of a row, up to 16 of `left`; the sums, of whose parts each is `rows` on, become zero. */
INLINE v16f finished(float *sums, const float *by, int parts, int rows, const float *bias, int i,
                     int left)
{
    v16f t = v16f_mul(v16f_load(sums + i), v16f_set1(by[0]));
    v16f_store(sums + i, v16f_zero());
    for (int p = 1; p < parts; p++) {
        sums += rows * MR_TILE_OUT;
        t = v16f_fma(v16f_load(sums + i), v16f_set1(by[p * rows]), t);
        v16f_store(sums + i, v16f_zero());
    }
    return bias ? v16f_add(t, v16f_loadn(bias + i, left)) : t;
}

INLINE void gate(mr_op fn, v16f *a, int of)
{
    if (fn == MR_OP_SILU)
        silu_each(a, of);
    else if (fn == MR_OP_GELU_TANH)
        gelu_tanh_each(a, of);
    else
        gelu_each(a, of);
}

/* Outputs i.. of row r: `of` times 16, or up to 16 of `left`. */
INLINE void finish_some(const mr_finish *f, mr_op fn, int parts, int r, int i, int of, int left)
{
    size_t at = (size_t)r * MR_TILE_OUT;
    const float *by = f->by + r;
    float *y = f->y[r] + f->first + i;
    v16f t[FINISH_AT_ONCE];
    foreach (v, of)
        t[v] = finished(f->sums[0] + at, by, parts, f->rows, f->bias[0], i + 16 * v, left - 16 * v);
    if (fn != MR_OP_LINEAR) {
        gate(fn, t, of);
        foreach (v, of) {
            v16f u = f->sums[1] ? finished(f->sums[1] + at, by, parts, f->rows, f->bias[1],
                                           i + 16 * v, left - 16 * v)
                                : v16f_loadn(y + 16 * v, left - 16 * v);
            t[v] = v16f_mul(t[v], u);
        }
    }
    foreach (v, of) {
        if (left - 16 * v >= 16)
            v16f_store(y + 16 * v, one_nan(t[v]));
        else
            v16f_storen(y + 16 * v, one_nan(t[v]), left - 16 * v);
    }
}

INLINE void finish_rows(const mr_finish *f, mr_op fn, int parts)
{
    for (int r = -FINISH_AHEAD; r < f->rows; r++) {
        for (int i = 0; r + FINISH_AHEAD < f->rows && i < f->n; i += 16)
            __builtin_prefetch(f->y[r + FINISH_AHEAD] + f->first + i, 1, 3);
        int i = 0;
        for (; r >= 0 && i + 16 * FINISH_AT_ONCE <= f->n; i += 16 * FINISH_AT_ONCE)
            finish_some(f, fn, parts, r, i, FINISH_AT_ONCE, 16 * FINISH_AT_ONCE);
        for (; r >= 0 && i < f->n; i += 16)
            finish_some(f, fn, parts, r, i, 1, f->n - i);
    }
}

/* One part and no bias is what most products are: then little is left beside the arithmetic. */
INLINE void finish_of(const mr_finish *f, mr_op fn)
{
    mr_finish own = *f; /* which the stores to y cannot change */
    if (f->parts == 1 && !f->bias[0] && !f->bias[1]) {
        own.bias[0] = own.bias[1] = NULL;
        finish_rows(&own, fn, 1);
    } else {
        finish_rows(&own, fn, f->parts);
    }
}

static void finish(const mr_finish *f)
{
    if (f->fn == MR_OP_LINEAR)
        finish_of(f, MR_OP_LINEAR);
    else if (f->fn == MR_OP_SILU)
        finish_of(f, MR_OP_SILU);
    else if (f->fn == MR_OP_GELU_TANH)
        finish_of(f, MR_OP_GELU_TANH);
    else
        finish_of(f, MR_OP_GELU);
}
