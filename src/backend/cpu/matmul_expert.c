/* Products of routed rows: every row meets the experts it chose.
 *
 * Pairs (row, choice) are sorted by expert, keeping their order (a counting sort), so an expert's
 * weights are read once for all of its rows.  Every pair's output is a value of its own; the
 * combine sums them in order of choice.
 */
#include "backend/cpu/matmul.h"

#include <assert.h>
#include <string.h>

#include "backend/cpu/matmul_job.h"
#include "backend/cpu/vec.h"

static size_t round_line(size_t bytes)
{
    return (bytes + 63) & ~(size_t)63;
}

static size_t list_bytes(int64_t experts, int64_t pairs)
{
    return round_line((size_t)(experts + 1 + pairs) * sizeof(int32_t));
}

/* first[e] .. first[e+1] are the places in `pairs` of expert e. */
static void sort_pairs(const int32_t *ids, int64_t n, int64_t experts, int32_t *first,
                       int32_t *pairs)
{
    memset(first, 0, (size_t)(experts + 1) * sizeof *first);
    for (int64_t i = 0; i < n; i++) {
        assert(ids[i] >= 0 && ids[i] < experts);
        first[ids[i]]++;
    }
    for (int64_t e = 0, sum = 0; e <= experts; e++) {
        int32_t count = first[e];
        first[e] = (int32_t)sum;
        sum += count;
    }
    for (int64_t i = 0; i < n; i++)
        pairs[first[ids[i]]++] = (int32_t)i;
    memmove(first + 1, first,
            (size_t)experts * sizeof *first); /* each start has moved to its end */
    first[0] = 0;
}

static mr_job routed_job(const mr_mm *mm, const mr_matrix *w, const float *x, int64_t x_row,
                         int64_t x_choice, float *y, int64_t rows, int64_t k_top,
                         const int32_t *first, const int32_t *pairs, void *scratch)
{
    return (mr_job){.mm = mm,
                    .w = {w, NULL},
                    .fn = MR_OP_LINEAR,
                    .x = x,
                    .x_row = x_row,
                    .x_choice = x_choice,
                    .y = y,
                    .y_row = k_top * w->n,
                    .y_choice = w->n,
                    .rows = rows,
                    .choices = k_top,
                    .together = rows * k_top,
                    .pairs = pairs,
                    .first = first,
                    .scratch = scratch};
}

size_t mr_expert_scratch(const mr_mm *mm, mr_fmt fmt, int64_t experts, int64_t n, int64_t k,
                         int64_t rows, int64_t k_top, bool each_j)
{
    int64_t pairs = rows * k_top;
    mr_layout l;
    mr_err err = mr_layout_of(fmt, &l);
    (void)n;
    assert(err == MR_OK);
    if (err != MR_OK)
        return 0;
    return list_bytes(experts, pairs) + mr_job_scratch(mm, &l, each_j ? pairs : rows, pairs, k);
}

void mr_expert_linear(const mr_mm *mm, const mr_matrix *w, const float *x, int64_t ldx,
                      int64_t ldx_j, bool each_j, const int32_t *ids, int64_t rows, int64_t k_top,
                      float *y, void *scratch)
{
    int32_t *first = scratch, *pairs = first + w->e + 1;
    uint8_t *rest = (uint8_t *)scratch + list_bytes(w->e, rows * k_top);
    mr_job job = routed_job(mm, w, x, ldx, each_j ? ldx_j : 0, y, rows, k_top, first, pairs, rest);
    sort_pairs(ids, rows * k_top, w->e, first, pairs);
    mr_job_prepare(&job);
    mr_job_run(&job);
}

size_t mr_moe_scratch(const mr_mm *mm, mr_fmt gate_up, mr_fmt down, int64_t experts, int64_t h,
                      int64_t f, int64_t rows, int64_t k_top)
{
    int64_t pairs = rows * k_top;
    mr_layout lg, ld;
    mr_err err = mr_layout_of(gate_up, &lg);
    assert(err == MR_OK);
    err = mr_layout_of(down, &ld);
    assert(err == MR_OK);
    if (err != MR_OK)
        return 0;
    size_t one = mr_job_scratch(mm, &lg, rows, pairs, h),
           two = mr_job_scratch(mm, &ld, pairs, pairs, f);
    return list_bytes(experts, pairs) + round_line((size_t)(pairs * f) * sizeof(float)) +
           round_line((size_t)(pairs * h) * sizeof(float)) + (one > two ? one : two);
}

typedef struct combine_task {
    const mr_vec_kernels *vec;
    const float *out, *weights;
    float *y;
    int64_t ldy, n, k_top;
} combine_task;

static void combine_row(void *ctx, int task, int worker)
{
    const combine_task *t = ctx;
    (void)worker;
    t->vec->combine(t->y + task * t->ldy, t->out + task * t->k_top * t->n, t->n,
                    t->weights + task * t->k_top, t->k_top, t->n);
}

void mr_moe(const mr_mm *mm, const mr_matrix *wg, const mr_matrix *wu, const mr_matrix *wd,
            mr_op fn, const float *x, int64_t ldx, const int32_t *ids, const float *weights,
            int64_t rows, int64_t k_top, float *y, int64_t ldy, void *scratch,
            void (*last)(const void *ctx), const void *ctx)
{
    int64_t pairs_n = rows * k_top, f = wg->n, h = wd->n;
    int32_t *first = scratch, *pairs = first + wg->e + 1;
    uint8_t *at = (uint8_t *)scratch + list_bytes(wg->e, pairs_n);
    float *inner = (float *)(void *)at, *out;
    at += round_line((size_t)(pairs_n * f) * sizeof(float));
    out = (float *)(void *)at;
    at += round_line((size_t)(pairs_n * h) * sizeof(float));
    assert(wu->n == f && wd->k == f && wu->e == wg->e && wd->e == wg->e &&
           mr_job_same_form(mm, wg, wu));
    sort_pairs(ids, pairs_n, wg->e, first, pairs);

    mr_job up = routed_job(mm, wg, x, ldx, 0, inner, rows, k_top, first, pairs, at);
    up.w[1] = wu;
    up.fn = fn;
    mr_job down = routed_job(mm, wd, inner, k_top * f, f, out, rows, k_top, first, pairs, at);
    mr_job_tell(&down);
    mr_job_prepare(&up);
    mr_job_run(&up);
    mr_job_prepare(&down);
    if (last)
        last(ctx);
    mr_job_run(&down);

    combine_task t = {mr_vec(mm->isa), out, weights, y, ldy, h, k_top};
    if (rows > 0)
        mr_pool_run(mm->pool, (int)rows, combine_row, &t);
}
