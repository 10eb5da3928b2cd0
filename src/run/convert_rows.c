/* Rows through recipes, as f32, and what undoes the forms that files have.
 *
 * Rows are read by one thread and made into numbers, and those into another form, by all: each row
 * by itself, so that the bytes do not depend on how many there are.
 *
 * Files that hold -exp(w) come from files that held w: the logarithm is moved by single steps until
 * the exponential is the stored number again, so that nothing is lost on the way back. */
#include <assert.h>
#include <math.h>
#include <stdatomic.h>
#include <string.h>

#include "base/real.h"
#include "run/convert.h"
#include "tensor/block_quantise.h"

enum { BATCH_BYTES = 4 << 20, STEPS = 8 };

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

/* ---- batches ---- */

mr_err mr_row_batch_new(mr_row_batch *b, mr_pool *pool, const mr_row_form *f, int64_t rows,
                        int64_t k)
{
    int64_t most = BATCH_BYTES / (4 * k) + 1;
    most = most < rows ? most : rows;
    *b = (mr_row_batch){.pool = pool, .form = f, .k = k, .most = most};
    b->x = mr_alloc(MR_MEM_OTHER, (size_t)(most * k) * sizeof *b->x);
    b->out = mr_alloc(MR_MEM_OTHER, (size_t)most * f->bytes);
    return b->x && b->out ? MR_OK : MR_ENOMEM;
}

void mr_row_batch_free(mr_row_batch *b)
{
    mr_free(b->x);
    mr_free(b->out);
}

static void read_row(void *ctx, int i, int worker)
{
    mr_row_batch *b = ctx;
    (void)worker;
    mr_dequant_row(b->reading, i, b->x + (b->n + i) * b->k);
}

void mr_row_batch_read(mr_row_batch *b, const mr_rows *rows, int64_t n)
{
    assert(n <= b->most - b->n);
    b->reading = rows;
    mr_pool_run(b->pool, (int)n, read_row, b);
    b->n += n;
}

static void undo(const mr_row_source *s, float *x, int64_t k)
{
    for (int64_t j = 0; s->minus_one && j < k; j++)
        x[j] -= 1.0f;
    for (int64_t j = 0; s->plus_one && j < k; j++)
        x[j] += 1.0f;
    for (int64_t j = 0; s->neg_exp && j < k; j++)
        x[j] = log_of(x[j]);
}

static mr_err check_row(const mr_row_batch *b, int64_t i)
{
    return mr_convert_check(b->form->name, b->row + i, b->x + i * b->k, b->k, b->form->to);
}

static void make_row(void *ctx, int i, int worker)
{
    mr_row_batch *b = ctx;
    (void)worker;
    if (b->s)
        undo(b->s, b->x + i * b->k, b->k);
    if (check_row(b, i) == MR_OK) {
        b->form->write(b->form->ctx, b->row + i, b->x + i * b->k,
                       b->out + (size_t)i * b->form->bytes);
        return;
    }
    int64_t first = atomic_load(&b->refused);
    while (i < first && !atomic_compare_exchange_weak(&b->refused, &first, i))
        ;
}

mr_err mr_row_batch_put(mr_row_batch *b)
{
    atomic_store(&b->refused, b->n);
    mr_pool_run(b->pool, (int)b->n, make_row, b);
    if (b->refused < b->n) /* again, for the message: those are each thread's own */
        return check_row(b, b->refused);
    MR_TRY(b->form->put(b->form->ctx, b->out, (size_t)b->n * b->form->bytes));
    b->row += b->n;
    b->n = 0;
    return MR_OK;
}

/* ---- a source's rows ---- */

static mr_err stream(mr_model *m, const mr_row_source *s, mr_row_batch *b,
                     mr_recipe_scratch scratch[2])
{
    for (int64_t row = 0, n; row < s->rows; row += n) {
        mr_rows rows;
        mr_row_at at = s->from ? s->from(b->form->ctx, row) : (mr_row_at){0, row, s->rows - row};
        int64_t room = b->most - b->n;
        n = at.run < room ? at.run : room;
        MR_TRY(mr_recipe_rows(s->part[at.part], at.row, n, mr_model_read, m, &scratch[at.part],
                              &rows));
        mr_row_batch_read(b, &rows, n);
        if (b->n == b->most || row + n == s->rows)
            MR_TRY(mr_row_batch_put(b));
    }
    return MR_OK;
}

mr_err mr_convert_rows(mr_model *m, const mr_row_source *s, const mr_row_form *f, mr_pool *pool)
{
    mr_recipe_scratch scratch[2] = {{.run = 0}, {.run = 0}};
    mr_row_batch b;
    mr_err err = mr_row_batch_new(&b, pool, f, s->rows, mr_recipe_k(s->part[0]));
    b.s = s;
    if (!err)
        err = stream(m, s, &b, scratch);
    mr_row_batch_free(&b);
    mr_recipe_scratch_free(&scratch[0]);
    mr_recipe_scratch_free(&scratch[1]);
    return err;
}

/* ---- numbers ---- */

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
