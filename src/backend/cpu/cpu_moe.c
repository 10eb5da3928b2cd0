/* Products (by matmul.h), routing and the sum over experts. */
#include "backend/cpu/cpu_backend.h"

#include <math.h>
#include <string.h>

mr_err mr_run_linear(const mr_cpu_call *c)
{
    mr_view x = mr_cpu_in(c, 0), y = mr_cpu_out(c, 0);
    mr_linear(&c->prep->mm, mr_cpu_matrix(c, 1), mr_cpu_vector(c, 2), x.p, x.row, x.rows, y.p,
              y.row, c->scratch);
    return MR_OK;
}

mr_err mr_run_gated_linear(const mr_cpu_call *c)
{
    mr_view x = mr_cpu_in(c, 0), y = mr_cpu_out(c, 0);
    mr_gated_linear(&c->prep->mm, mr_cpu_matrix(c, 1), mr_cpu_matrix(c, 2), mr_cpu_vector(c, 3),
                    mr_cpu_vector(c, 4), c->prep->fn, x.p, x.row, x.rows, y.p, y.row, c->scratch);
    return MR_OK;
}

mr_err mr_run_linear_heads(const mr_cpu_call *c)
{
    mr_view x = mr_cpu_in(c, 0), y = mr_cpu_out(c, 0);
    mr_linear_heads(&c->prep->mm, mr_cpu_matrix(c, 1), x.p, x.row, x.head, x.rows, y.p, y.row,
                    y.head, c->scratch);
    return MR_OK;
}

static uint64_t count_different(const int32_t *id, int64_t n, int64_t experts, char *seen)
{
    uint64_t sum = 0;
    memset(seen, 0, (size_t)experts);
    for (int64_t i = 0; i < n; i++) {
        sum += !seen[id[i]];
        seen[id[i]] = 1;
    }
    return sum;
}

/* Expert numbers are indices of weights: a graph may take them from an input, so they are checked.
 * The scratch holds more than a byte for each. */
static mr_err check_experts(const mr_cpu_call *c, int ids, int weight, int64_t n)
{
    const int32_t *id = mr_cpu_ints(c, ids);
    int64_t experts = c->step->in[weight].dim[0].n;
    for (int64_t i = 0; i < n; i++)
        if (id[i] < 0 || id[i] >= experts)
            return mr_fail(MR_EUSAGE, "%s: expert %d of 0..%lld", mr_op_get(c->prep->op)->name,
                           (int)id[i], (long long)experts - 1);
    if (c->run->trace)
        c->run->trace[c->step - c->plan->steps].experts +=
            count_different(id, n, experts, c->scratch);
    return MR_OK;
}

mr_err mr_run_expert_linear(const mr_cpu_call *c)
{
    mr_view x = mr_cpu_in(c, 0), y = mr_cpu_out(c, 0);
    MR_TRY(check_experts(c, 2, 1, y.rows * y.heads));
    bool each_j = c->step->in[0].rank == 3;
    mr_expert_linear(&c->prep->mm, mr_cpu_matrix(c, 1), x.p, x.row, each_j ? x.head : 0, each_j,
                     mr_cpu_ints(c, 2), y.rows, y.heads, y.p, c->scratch);
    return MR_OK;
}

mr_err mr_run_moe(const mr_cpu_call *c)
{
    mr_view x = mr_cpu_in(c, 0), y = mr_cpu_out(c, 0), w = mr_cpu_in(c, 2);
    MR_TRY(check_experts(c, 1, 3, w.rows * w.dim));
    mr_moe(&c->prep->mm, mr_cpu_matrix(c, 3), mr_cpu_matrix(c, 4), mr_cpu_matrix(c, 5), c->prep->fn,
           x.p, x.row, mr_cpu_ints(c, 1), w.p, x.rows, w.dim, y.p, y.row, c->scratch,
           mr_cpu_tell_next, c);
    return MR_OK;
}

/* ---- combine ---- */

typedef struct combined {
    const mr_cpu_call *c;
    mr_view y, x, w;
} combined;

static void run_combine(const void *ctx, int64_t first, int64_t last, int worker)
{
    (void)worker;
    const combined *s = ctx;
    for (int64_t r = first; r < last; r++)
        s->c->cpu->vec->combine(s->y.p + r * s->y.row, s->x.p + r * s->x.row, s->x.head,
                                s->w.p + r * s->w.row, s->w.dim, s->y.dim);
}

mr_err mr_run_combine(const mr_cpu_call *c)
{
    combined s = {c, mr_cpu_out(c, 0), mr_cpu_in(c, 0), mr_cpu_in(c, 1)};
    mr_cpu_split(c->cpu, s.y.rows, s.y.dim * s.w.dim, run_combine, &s);
    return MR_OK;
}

/* ---- route ---- */

typedef struct routed {
    const mr_cpu_call *c;
    mr_view x, w;
    int32_t *ids;
    const float *bias, *gain;
    const int32_t *pos; /* with blocks */
} routed;

/* Per expert: score, choice, room for a group's sum or a block's largest choice, two marks. */
size_t mr_route_scratch(int64_t experts)
{
    return ((size_t)experts * (3 * sizeof(float) + 2) + 63) / 64 * 64;
}

/* NaN counts as the worst choice, so that a broken row still gets k distinct experts. */
static float choice_of(float x)
{
    return x == x ? x : -INFINITY;
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
    return two ? choice_of(a + b) : a;
}

/* The unmarked entry with the largest value, the first of equals; marks it. */
static int64_t take_largest(const float *x, int64_t n, char *mark)
{
    int64_t best = -1;
    for (int64_t i = 0; i < n; i++)
        if (!mark[i] && (best < 0 || x[i] > x[best]))
            best = i;
    mark[best] = 1;
    return best;
}

/* All but the `keep` best groups become -inf. */
static void mask_groups(const mr_cpu_step *p, float *choice, int64_t n, char *mark, float *sums)
{
    int64_t size = n / p->route.groups;
    for (int64_t g = 0; g < p->route.groups; g++) {
        sums[g] = group_score(choice + g * size, size, p->route.group_two);
        mark[g] = 0;
    }
    for (int64_t i = 0; i < p->route.keep; i++)
        take_largest(sums, p->route.groups, mark);
    for (int64_t g = 0; g < p->route.groups; g++)
        for (int64_t e = 0; !mark[g] && e < size; e++)
            choice[g * size + e] = -INFINITY;
}

static void choose(const routed *s, int64_t r, float *score, float *choice)
{
    const mr_vec_kernels *vec = s->c->cpu->vec;
    int64_t n = s->x.dim;
    if (s->c->prep->route.sigmoid)
        vec->map(MR_OP_SIGMOID, 0, score, s->x.p + r * s->x.row, n);
    else
        vec->softmax(score, s->x.p + r * s->x.row, n);
    for (int64_t e = 0; e < n; e++)
        choice[e] = choice_of(s->bias ? score[e] + s->bias[e] : score[e]);
}

static void route_row(const routed *s, int64_t r, float *score)
{
    const mr_cpu_step *p = s->c->prep;
    int64_t n = s->x.dim, k = p->route.k;
    float *choice = score + n, *sums = choice + n, sum = 0, *w = s->w.p + r * s->w.row;
    int32_t *ids = s->ids + r * k;
    char *mark = (char *)(sums + n), *pool = mark + n;
    choose(s, r, score, choice);
    if (p->route.groups > 1)
        mask_groups(p, choice, n, mark, sums);
    for (int64_t e = 0; p->route.block && e < n; e++)
        choice[e] = pool[e] ? choice[e] : -INFINITY;
    memset(mark, 0, (size_t)n);
    for (int64_t j = 0; j < k; j++) {
        ids[j] = (int32_t)take_largest(choice, n, mark);
        w[j] = score[ids[j]];
        sum = sum + w[j];
    }
    for (int64_t j = 0; j < k; j++)
        w[j] = (p->route.norm ? w[j] / (sum + p->route.eps) : w[j]) * p->route.scale;
    for (int64_t j = 0; s->gain && j < k; j++)
        w[j] = w[j] * s->gain[ids[j]];
}

/* Whether row r is of the same block of positions as the one before. */
static bool continues(const routed *s, int64_t r)
{
    return r > 0 && r < s->x.rows && s->pos[r] == s->pos[r - 1] + 1 &&
           s->pos[r] % s->c->prep->route.block != 0;
}

/* Marks the experts that the block beginning at row r chooses highest; gives where it ends. */
static int64_t mark_pool(const routed *s, int64_t r, float *score)
{
    int64_t n = s->x.dim;
    float *choice = score + n, *most = choice + n;
    char *pool = (char *)(most + n) + n;
    for (int64_t e = 0; e < n; e++)
        most[e] = -INFINITY;
    do {
        choose(s, r, score, choice);
        for (int64_t e = 0; e < n; e++)
            most[e] = choice[e] > most[e] ? choice[e] : most[e];
    } while (continues(s, ++r));
    memset(pool, 0, (size_t)n);
    for (int64_t i = 0; i < s->c->prep->route.capacity; i++)
        take_largest(most, n, pool);
    return r;
}

/* With blocks a stretch routes those that begin in it. */
static void run_route(const void *ctx, int64_t first, int64_t last, int worker)
{
    const routed *s = ctx;
    float *own = (float *)(s->c->scratch + (size_t)worker * mr_route_scratch(s->x.dim));
    bool blocks = s->c->prep->route.block > 0;
    while (blocks && first < last && continues(s, first))
        first++;
    for (int64_t end, r = first; r < last; r = end) {
        end = blocks ? mark_pool(s, r, own) : last;
        for (int64_t i = r; i < end; i++)
            route_row(s, i, own);
    }
}

mr_err mr_run_route(const mr_cpu_call *c)
{
    routed s = {c,
                mr_cpu_in(c, 0),
                mr_cpu_out(c, 1),
                (int32_t *)mr_cpu_view(c, &c->step->out[0]).p,
                mr_cpu_vector(c, 1),
                mr_cpu_vector(c, 2),
                c->prep->route.block ? mr_cpu_ints(c, 3) : NULL};
    mr_cpu_split(c->cpu, s.x.rows, s.x.dim * (8 + c->prep->route.k), run_route, &s);
    return MR_OK;
}
