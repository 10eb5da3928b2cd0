/* From the sums of a block of rows at one column to the product's outputs.
 *
 * Part of matmul_lanes.h.  Why: scaling, biases, the gate and its function in one pass, as each pass
 * of its own reads and writes everything again.  Each row of y lies on its own page, far away: its
 * lines are asked for while rows before it are written.
 */
#include "backend/cpu/math_lanes.h"

enum { FINISH_AHEAD = 12 };

/* NaN differs between ISAs in sign and payload; outputs carry one. */
INLINE v16f one_nan(v16f a)
{
    return v16f_select(v16f_eq(a, a), a, v16f_bits(v16i_set1(MR_NAN_BITS)));
}

/* Outputs i.. of a row, up to 16 of `left`; the sums become zero. */
INLINE v16f finished(float *sums, const float *by, int parts, const float *bias, int i, int left)
{
    v16f t = v16f_mul(v16f_load(sums + i), v16f_set1(by[0]));
    v16f_store(sums + i, v16f_zero());
    for (int p = 1; p < parts; p++) {
        sums += MR_TILE_OUT;
        t = v16f_fma(v16f_load(sums + i), v16f_set1(by[p]), t);
        v16f_store(sums + i, v16f_zero());
    }
    if (bias)
        t = v16f_add(t, v16f_loadn(bias + i, left));
    return one_nan(t);
}

INLINE v16f gate(mr_op fn, v16f a)
{
    return fn == MR_OP_SILU        ? v16f_silu(a)
           : fn == MR_OP_GELU_TANH ? v16f_gelu_tanh(a)
                                   : v16f_gelu(a);
}

INLINE void finish_16(const mr_finish *f, mr_op fn, int r, int i, int left)
{
    size_t at = (size_t)(r * f->parts) * MR_TILE_OUT;
    const float *by = f->by + r * f->parts;
    float *y = f->y[r] + f->first + i;
    v16f t = finished(f->sums[0] + at, by, f->parts, f->bias[0], i, left);
    if (fn != MR_OP_LINEAR) {
        v16f u = f->sums[1] ? finished(f->sums[1] + at, by, f->parts, f->bias[1], i, left)
                            : v16f_loadn(y, left);
        t = v16f_mul(gate(fn, t), u);
    }
    if (left >= 16)
        v16f_store(y, t);
    else
        v16f_storen(y, t, left);
}

INLINE void finish_rows(const mr_finish *f, mr_op fn)
{
    for (int r = -FINISH_AHEAD; r < f->rows; r++) {
        for (int i = 0; r + FINISH_AHEAD < f->rows && i < f->n; i += 16)
            __builtin_prefetch(f->y[r + FINISH_AHEAD] + f->first + i, 1, 3);
        for (int i = 0; r >= 0 && i < f->n; i += 16)
            finish_16(f, fn, r, i, f->n - i);
    }
}

static void finish(const mr_finish *f)
{
    if (f->fn == MR_OP_LINEAR)
        finish_rows(f, MR_OP_LINEAR);
    else if (f->fn == MR_OP_SILU)
        finish_rows(f, MR_OP_SILU);
    else if (f->fn == MR_OP_GELU_TANH)
        finish_rows(f, MR_OP_GELU_TANH);
    else
        finish_rows(f, MR_OP_GELU);
}
