/* Routing, the experts' linears, and their weighted sum. */
#include "backend/ref/ref.h"

#include <math.h>
#include <string.h>

/* Scores are f32 by definition: the choice among them, ties included, is then the same on every
 * backend that rounds them alike. */
static void scores(const mr_node *n, const float *logits, int64_t experts, float *out)
{
    if (!strcmp(mr_attr_s(n, "score"), "sigmoid")) {
        for (int64_t e = 0; e < experts; e++)
            out[e] = (float)(1 / (1 + exp(-(double)logits[e])));
        return;
    }
    double most = -INFINITY, sum = 0;
    for (int64_t e = 0; e < experts; e++)
        most = fmax(most, logits[e]);
    for (int64_t e = 0; e < experts; e++)
        sum += exp(logits[e] - most);
    for (int64_t e = 0; e < experts; e++)
        out[e] = (float)(exp(logits[e] - most) / sum);
}

/* The first of the largest that is not taken yet; it is then.  NaN counts as smallest, so that the
 * choice is always k different ones. */
static int64_t take_largest(const float *x, int64_t n, bool *taken)
{
    int64_t best = -1;
    for (int64_t i = 0; i < n; i++)
        if (!taken[i] && (best < 0 || x[i] > x[best] || (isnan(x[best]) && !isnan(x[i]))))
            best = i;
    taken[best] = true;
    return best;
}

/* The sum of the two largest, or the largest alone. */
static float group_score(const float *x, int64_t n, bool two)
{
    float a = -INFINITY, b = -INFINITY;
    for (int64_t i = 0; i < n; i++) {
        if (x[i] > a) {
            b = a;
            a = x[i];
        } else if (x[i] > b) {
            b = x[i];
        }
    }
    return two ? a + b : a;
}

typedef struct workspace {
    float *score, *choice, *group; /* group: with blocks, each expert's largest choice */
    bool *taken, *kept;            /* kept: of the groups, or of the experts of a block */
} workspace;

/* All but the first `keep` groups become -inf. */
static void keep_groups(const mr_node *n, int64_t experts, workspace *w)
{
    int64_t groups = mr_attr_i(n, "groups"), keep = mr_attr_i(n, "keep"), size = experts / groups;
    if (groups == 1)
        return;
    for (int64_t g = 0; g < groups; g++)
        w->group[g] = group_score(w->choice + g * size, size, mr_attr_i(n, "group_sum") == 2);
    memset(w->kept, 0, (size_t)groups * sizeof *w->kept);
    for (int64_t i = 0; i < keep; i++)
        take_largest(w->group, groups, w->kept);
    for (int64_t e = 0; e < experts; e++)
        if (!w->kept[e / size])
            w->choice[e] = -INFINITY;
}

static void choices(const mr_node *n, const float *logits, const mr_weight *bias, int64_t experts,
                    workspace *w)
{
    scores(n, logits, experts, w->score);
    for (int64_t e = 0; e < experts; e++)
        w->choice[e] = bias ? w->score[e] + bias->data[e] : w->score[e];
}

/* Rows from r on that are of one block of positions. */
static int64_t block_rows(const mr_ref_array *pos, int64_t r, int64_t rows, int64_t block)
{
    int64_t n = 1;
    for (; r + n < rows; n++) {
        int32_t before = *mr_ref_ints(pos, r + n - 1), at = *mr_ref_ints(pos, r + n);
        if (at != before + 1 || at % block == 0)
            break;
    }
    return n;
}

/* Keeps the `capacity` experts that n rows from r on choose highest. */
static void keep_pool(const mr_ref_step *s, int64_t r, int64_t rows, workspace *w)
{
    int64_t experts = s->in[0].width;
    for (int64_t e = 0; e < experts; e++)
        w->group[e] = -INFINITY;
    for (int64_t i = r; i < r + rows; i++) {
        choices(s->node, mr_ref_row(&s->in[0], i, 0), s->in[1].w, experts, w);
        for (int64_t e = 0; e < experts; e++)
            w->group[e] = w->choice[e] > w->group[e] ? w->choice[e] : w->group[e];
    }
    memset(w->kept, 0, (size_t)experts * sizeof *w->kept);
    for (int64_t i = 0; i < mr_attr_i(s->node, "capacity"); i++)
        take_largest(w->group, experts, w->kept);
}

static void route_row(const mr_node *n, const float *logits, const mr_weight *bias,
                      const mr_weight *gain, int64_t experts, workspace *w, int32_t *ids,
                      float *weights)
{
    int64_t k = mr_attr_i(n, "k");
    double sum = 0, scale = mr_attr_f(n, "scale");
    choices(n, logits, bias, experts, w);
    if (mr_attr_i(n, "block") == 0)
        keep_groups(n, experts, w);
    else
        for (int64_t e = 0; e < experts; e++)
            w->choice[e] = w->kept[e] ? w->choice[e] : -INFINITY;
    memset(w->taken, 0, (size_t)experts * sizeof *w->taken);
    for (int64_t j = 0; j < k; j++) {
        ids[j] = (int32_t)take_largest(w->choice, experts, w->taken);
        sum += w->score[ids[j]];
    }
    double divisor = mr_attr_i(n, "norm") ? sum + mr_attr_f(n, "eps") : 1;
    for (int64_t j = 0; j < k; j++)
        weights[j] =
            (float)(w->score[ids[j]] / divisor * scale * (gain ? gain->data[ids[j]] : 1.0f));
}

mr_err mr_ref_ROUTE(const mr_ref_step *s)
{
    const mr_ref_array *x = &s->in[0], *ids = &s->out[0], *weights = &s->out[1];
    int64_t block = mr_attr_i(s->node, "block"), next = 0; /* where the next block begins */
    size_t n = (size_t)x->width;
    char *memory = mr_alloc(MR_MEM_ARENA, n * (3 * sizeof(float) + 2 * sizeof(bool)));
    if (!memory)
        return MR_ENOMEM;
    float *f = (float *)memory;
    bool *flags = (bool *)(f + 3 * n);
    workspace w = {f, f + n, f + 2 * n, flags, flags + n};
    for (int64_t r = 0; r < x->rows; r++) {
        if (block && r == next) {
            int64_t rows = block_rows(&s->in[3], r, x->rows, block);
            keep_pool(s, r, rows, &w);
            next = r + rows;
        }
        route_row(s->node, mr_ref_row(x, r, 0), s->in[1].w, s->in[2].w, x->width, &w,
                  ids->i + r * ids->row_stride, mr_ref_row(weights, r, 0));
    }
    mr_free(memory);
    return MR_OK;
}

mr_err mr_ref_EXPERT_LINEAR(const mr_ref_step *s)
{
    const mr_ref_array *x = &s->in[0], *ids = &s->in[2], *y = &s->out[0];
    const mr_weight *w = s->in[1].w;
    int64_t experts = w->rows / y->width;
    bool per_choice = x->heads > 1; /* rank 3; with k 1 the two forms are the same */
    for (int64_t r = 0; r < y->rows; r++)
        for (int64_t j = 0; j < y->heads; j++) {
            int32_t e = mr_ref_ints(ids, r)[j];
            if (e < 0 || e >= experts)
                return mr_fail(MR_EUSAGE, "expert %d of row %lld is not in 0..%lld", (int)e,
                               (long long)r, (long long)experts - 1);
            const float *from = mr_ref_row(x, r, per_choice ? j : 0);
            for (int64_t n = 0; n < y->width; n++) {
                const float *row = w->data + (e * y->width + n) * w->k;
                double sum = 0;
                for (int64_t i = 0; i < w->k; i++)
                    sum += (double)from[i] * row[i];
                mr_ref_row(y, r, j)[n] = (float)sum;
            }
        }
    return MR_OK;
}

mr_err mr_ref_COMBINE(const mr_ref_step *s)
{
    const mr_ref_array *x = &s->in[0], *weights = &s->in[1], *y = &s->out[0];
    for (int64_t r = 0; r < y->rows; r++)
        for (int64_t n = 0; n < y->width; n++) {
            double sum = 0;
            for (int64_t j = 0; j < x->heads; j++)
                sum += (double)mr_ref_row(weights, r, 0)[j] * mr_ref_row(x, r, j)[n];
            mr_ref_row(y, r, 0)[n] = (float)sum;
        }
    return MR_OK;
}
