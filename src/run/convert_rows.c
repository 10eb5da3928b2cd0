/* Rows through recipes, as f32, and what undoes the forms that files have.
 *
 * Files that hold -exp(w) come from files that held w: the logarithm is moved by single steps until
 * the exponential is the stored number again, so that nothing is lost on the way back. */
#include <math.h>
#include <string.h>

#include "base/real.h"
#include "run/convert.h"
#include "tensor/block_quantise.h"

enum { ROWS_BYTES = 4 << 20, STEPS = 8 };

static float neg_exp(float w)
{
    return (float)-mr_exp(w);
}

/* The w whose -exp(w) is x, as near as there is one. */
static float log_of(float x)
{
    float w = (float)mr_log(-(double)x), up = w, down = w;
    for (int i = 0; i < STEPS; i++) {
        if (neg_exp(up) == x)
            return up;
        if (neg_exp(down) == x)
            return down;
        up = nextafterf(up, INFINITY);
        down = nextafterf(down, -INFINITY);
    }
    return w;
}

static mr_err give(const mr_row_source *s, const mr_rows *rows, int64_t i, int64_t row,
                   mr_row_fn *fn, void *ctx, float *x)
{
    int64_t k = mr_recipe_k(s->part[0]);
    mr_dequant_row(rows, i, x);
    for (int64_t j = 0; s->minus_one && j < k; j++)
        x[j] -= 1.0f;
    for (int64_t j = 0; s->plus_one && j < k; j++)
        x[j] += 1.0f;
    for (int64_t j = 0; s->neg_exp && j < k; j++)
        x[j] = log_of(x[j]);
    return fn(ctx, row, x);
}

static mr_err stream(mr_model *m, const mr_row_source *s, mr_row_fn *fn, void *ctx,
                     mr_recipe_scratch scratch[2], float *x)
{
    int64_t k = mr_recipe_k(s->part[0]), most = ROWS_BYTES / (4 * k) + 1;
    for (int64_t row = 0, n; row < s->rows; row += n) {
        mr_rows rows;
        mr_row_at at = s->from ? s->from(ctx, row) : (mr_row_at){0, row, s->rows - row};
        n = at.run < most ? at.run : most;
        MR_TRY(mr_recipe_rows(s->part[at.part], at.row, n, mr_model_read, m, &scratch[at.part],
                              &rows));
        for (int64_t i = 0; i < n; i++)
            MR_TRY(give(s, &rows, i, row + i, fn, ctx, x));
    }
    return MR_OK;
}

mr_err mr_convert_rows(mr_model *m, const mr_row_source *s, mr_row_fn *fn, void *ctx)
{
    mr_recipe_scratch scratch[2] = {{.run = 0}, {.run = 0}};
    float *x = mr_alloc(MR_MEM_OTHER, (size_t)mr_recipe_k(s->part[0]) * sizeof *x);
    mr_err err = x ? stream(m, s, fn, ctx, scratch, x) : MR_ENOMEM;
    mr_free(x);
    mr_recipe_scratch_free(&scratch[0]);
    mr_recipe_scratch_free(&scratch[1]);
    return err;
}

mr_err mr_convert_check(const char *name, int64_t row, const float *x, int64_t k, mr_dtype to)
{
    bool quantised = mr_dtype_is_quantised(to), wide = to == MR_F32 || to == MR_BF16;
    float limit = wide || to == MR_AFFINE ? INFINITY : 65520; /* rounds to infinity in f16 */
    for (int64_t i = 0; i < k; i++) {
        if (x[i] - x[i] != 0 ? quantised : fabsf(x[i]) >= limit)
            return mr_fail(MR_EFORMAT, "convert: \"%s\" holds %g in row %lld, which %s cannot hold",
                           name, (double)x[i], (long long)row, mr_dtype_name(to));
    }
    return MR_OK;
}

size_t mr_convert_narrow(const float *x, int64_t k, mr_dtype to, uint8_t *out)
{
    size_t bytes = (size_t)(k / mr_dtype_block(to)) * (size_t)mr_dtype_block_bytes(to);
    if (mr_block_quantisable(to)) {
        mr_block_quantise(to, x, k, out);
        return bytes;
    }
    if (to == MR_F32) {
        memcpy(out, x, bytes);
        return bytes;
    }
    for (int64_t i = 0; i < k; i++) {
        uint16_t h = to == MR_F16 ? mr_f32_to_f16(x[i]) : mr_f32_to_bf16(x[i]);
        memcpy(out + 2 * i, &h, 2);
    }
    return bytes;
}

/* Of K-quants: blocks of 32. */
static mr_dtype smaller_blocks(mr_dtype t)
{
    switch (t) {
    case MR_Q2_K:
    case MR_Q3_K:
        return MR_Q4_0;
    case MR_Q4_K:
        return MR_Q5_0;
    case MR_Q5_K:
        return MR_Q5_1;
    default:
        return MR_Q8_0;
    }
}

mr_dtype mr_convert_fitting(mr_dtype to, int64_t k)
{
    if (k % mr_dtype_block(to) == 0)
        return to;
    return k % mr_dtype_block(MR_Q8_0) == 0 ? smaller_blocks(to) : MR_F16;
}
