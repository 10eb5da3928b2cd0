/* Ops of the CPU backend run as plans: routing and rope tables against plain computations, fused
 * ops against their parts, views with strides, and what the backend refuses. */
#include "plan_run.h"

#include "backend/cpu/vec.h"

/* A graph with inputs named by letters. */
static int input(mr_graph *g, const char *name, mr_vtype type, int rank, int64_t a, int64_t b)
{
    int v;
    mr_dim d[3] = {rows_dim(), dim_of(a), dim_of(b)};
    must(mr_graph_input(g, name, type, rank, d, &v), name);
    return v;
}

static int add(mr_graph *g, mr_op op, const int *in, int n_in, const mr_attr *attr)
{
    int v;
    must(mr_graph_add(g, op, in, n_in, attr, &v), mr_op_get(op)->name);
    return v;
}

static mr_graph *new_graph(void)
{
    mr_graph *g;
    must(mr_graph_new(&g, "ops"), "graph");
    return g;
}

/* ---- route ---- */

typedef struct route_case {
    int experts, k;
    bool sigmoid, norm;
    int groups, keep;
    double eps, scale;
    bool group_max;
} route_case;

static const route_case routes[] = {
    {8, 1, true, true, 1, 1, 0, 1, false},        {8, 2, false, true, 1, 1, 1e-20, 1, false},
    {64, 6, false, false, 1, 1, 0, 16, false},    {256, 8, true, true, 8, 4, 1e-20, 2.5, false},
    {16, 16, true, false, 1, 1, 0, 1, false},     {12, 3, true, true, 4, 2, 1e-20, 1, false},
    {160, 6, false, false, 8, 3, 0, 16.0, false}, {1, 1, false, true, 1, 1, 0, 1, false},
    {160, 6, false, false, 8, 3, 0, 16, true},    {6, 2, false, true, 6, 3, 0, 1, true},
};

static float minus_inf_if_nan(float x)
{
    return x == x ? x : -INFINITY;
}

/* The choice alone, from scores and bias, by its definition. */
static void choose(const route_case *c, const float *s, const float *bias, int *ids)
{
    float b[256];
    bool taken[256] = {0}, kept[256] = {0};
    int size = c->experts / c->groups;
    for (int e = 0; e < c->experts; e++)
        b[e] = minus_inf_if_nan(bias ? s[e] + bias[e] : s[e]);
    for (int i = 0; i < c->keep && c->groups > 1; i++) {
        int best = -1;
        float most = 0;
        for (int g = 0; g < c->groups; g++) {
            float one = -INFINITY, two = -INFINITY;
            for (int e = g * size; e < (g + 1) * size; e++) {
                two = b[e] > one ? one : b[e] > two ? b[e] : two;
                one = b[e] > one ? b[e] : one;
            }
            two = c->group_max ? 0 : two;
            if (!kept[g] && (best < 0 || minus_inf_if_nan(one + two) > most)) {
                best = g;
                most = minus_inf_if_nan(one + two);
            }
        }
        kept[best] = true;
    }
    for (int e = 0; e < c->experts && c->groups > 1; e++)
        if (!kept[e / size])
            b[e] = -INFINITY;
    for (int j = 0; j < c->k; j++) {
        int best = -1;
        for (int e = 0; e < c->experts; e++)
            if (!taken[e] && (best < 0 || b[e] > b[best]))
                best = e;
        taken[best] = true;
        ids[j] = best;
    }
}

static mr_graph *route_graph(const route_case *c, bool bias)
{
    mr_graph *g = new_graph();
    int x = input(g, "x", MR_V_F32, 2, c->experts, 0), b = MR_NONE, y;
    if (bias) {
        mr_dim d = dim_of(c->experts);
        must(mr_graph_weight(g, "bias", (mr_fmt){.dtype = MR_F32}, 1, &d, &b), "bias");
    }
    mr_attr at[] = {{.i = c->k},      {.s = c->sigmoid ? "sigmoid" : "softmax"},
                    {.i = c->groups}, {.i = c->keep},
                    {.i = c->norm},   {.f = c->eps},
                    {.f = c->scale},  {.i = c->group_max ? 1 : 2},
                    {.i = 0},         {.i = 0}};
    y = add(g, MR_OP_ROUTE, (int[]){x, b, MR_NONE, MR_NONE}, 4, at);
    must(mr_graph_output(g, y + 1, "weights"), "output");
    return g;
}

/* Where the plan keeps the ids of its only route step. */
static const int32_t *ids_of(const test_case *t)
{
    for (int i = 0; i < t->plan->n_steps; i++)
        if (t->plan->steps[i].op == MR_OP_ROUTE)
            return (const int32_t *)((char *)t->arena + t->plan->steps[i].out[0].offset);
    return NULL;
}

static mr_err lookup(void *ctx, const char *name, mr_stored *out)
{
    (void)name;
    *out = (mr_stored){.handle = ctx, .fmt = {.dtype = MR_F32}, .rows = 1, .k = *(int64_t *)ctx};
    return MR_OK;
}

/* The tensor behind a reader's context: its length, then its numbers. */
typedef struct stored {
    int64_t k;
    float x[512];
} stored;

static mr_err read_rows(void *ctx, const mr_stored *s, int64_t row0, int64_t n, void *buf,
                        mr_rows *out)
{
    (void)ctx;
    (void)row0;
    const stored *v = s->handle;
    memcpy(buf, v->x, (size_t)v->k * sizeof(float));
    *out = (mr_rows){.dtype = MR_F32, .n = n, .k = v->k, .data = buf};
    return MR_OK;
}

static void load_vector(test_case *t, const mr_graph *g, int slot, stored *v)
{
    mr_arena *arena;
    mr_recipe *r;
    must(mr_arena_new(&arena, MR_MEM_OTHER), "arena");
    must(mr_recipe_parse(&r, "tensor", arena), "recipe");
    must(mr_recipe_bind(r, lookup, v), "bind");
    must(t->b->v->weight_load(t->b, g, t->plan->weights[slot], r, read_rows, NULL,
                              &t->weights[slot]),
         "weight");
    mr_arena_free(arena);
}

static void check_route(const route_case *c, bool bias, ck_kind kind, mr_isa isa, int threads)
{
    enum { ROWS = 70 };
    mr_graph *g = route_graph(c, bias);
    test_case t;
    stored v = {.k = c->experts};
    float *x = ck_floats(ROWS * c->experts), *score = ck_floats(c->experts);
    ck_fill(x, ROWS * c->experts, kind);
    ck_fill(v.x, c->experts, CK_PLAIN);
    for (int i = 0; i < c->experts; i++)
        v.x[i] *= 0.1f;
    for (int i = 1; i < c->experts && kind == CK_PLAIN; i += 2)
        x[i] = x[i - 1]; /* ties in row 0 */
    case_open(&t, g, isa, threads, MR_EXACT, ROWS);
    if (bias)
        load_vector(&t, g, 0, &v);
    case_bind(&t, "x", x);
    must(case_run(&t, ROWS, 0, NULL, NULL), "run");
    const float *w = case_output(&t, 0);
    const int32_t *ids = ids_of(&t);
    const mr_vec_kernels *vec = mr_vec(isa);
    for (int r = 0; r < ROWS; r++) {
        int want[256];
        double sum = 0;
        if (c->sigmoid)
            vec->map(MR_OP_SIGMOID, 0, score, x + r * c->experts, c->experts);
        else
            vec->softmax(score, x + r * c->experts, c->experts);
        choose(c, score, bias ? v.x : NULL, want);
        bool ok = true;
        for (int j = 0; j < c->k; j++) {
            ok &= ids[r * c->k + j] == want[j];
            sum += score[want[j]];
        }
        CK(ok, "route %d of %d, row %d: other experts", c->k, c->experts, r);
        for (int j = 0; j < c->k && ok && kind == CK_PLAIN; j++) {
            double ref = score[want[j]] * c->scale / (c->norm ? sum + c->eps : 1);
            CK(fabs(w[r * c->k + j] - ref) < 1e-5 * (1 + ref), "route %d of %d: weight %g not %g",
               c->k, c->experts, (double)w[r * c->k + j], ref);
        }
    }
    case_close(&t);
    mr_graph_free(g);
    ck_free_all();
}

/* ---- rope tables ---- */

typedef struct table_case {
    const char *kind;
    double theta, factor, low, high, orig, fast, slow, mscale;
    int dim, truncate;
} table_case;

static const table_case tables[] = {
    {"none", 10000, 1, 1, 4, 0, 32, 1, 1, 128, 1},
    {"linear", 1e6, 8, 1, 4, 0, 32, 1, 1, 256, 1},
    {"llama3", 500000, 8, 1, 4, 8192, 32, 1, 1, 64, 1},
    {"yarn", 10000, 40, 1, 4, 4096, 32, 1, 1, 64, 1},
    {"yarn", 50000, 32, 1, 4, 4096, 1, 1, 1.2, 64, 1},
    {"yarn", 150000, 32, 1, 4, 4096, 32, 1, 1.3465735902799727, 64, 0},
};

static double yarn_at(const table_case *c, double turns)
{
    return c->dim * log(c->orig / (turns * 2 * M_PI)) / (2 * log(c->theta));
}

static double frequency(const table_case *c, int i)
{
    double e = pow(c->theta, -2.0 * i / c->dim);
    if (!strcmp(c->kind, "linear"))
        return e / c->factor;
    if (!strcmp(c->kind, "llama3")) {
        double wave = 2 * M_PI / e, t = (c->orig / wave - c->low) / (c->high - c->low);
        if (wave < c->orig / c->high)
            return e;
        return wave > c->orig / c->low ? e / c->factor : e * ((1 - t) / c->factor + t);
    }
    if (!strcmp(c->kind, "yarn")) {
        double lo = yarn_at(c, c->fast), hi = yarn_at(c, c->slow);
        if (c->truncate) {
            lo = floor(lo);
            hi = ceil(hi);
        }
        lo = fmax(lo, 0);
        hi = fmin(hi, c->dim - 1);
        double ramp = fmin(fmax((i - lo) / (hi - lo + (hi == lo ? 0.001 : 0)), 0), 1);
        return e / c->factor * ramp + e * (1 - ramp);
    }
    return e;
}

static void check_table(const table_case *c, bool factors)
{
    enum { ROWS = 9 };
    static const int32_t pos[ROWS] = {0, 1, 2, 100, 1000, 4095, 65536, 131071, 7};
    mr_graph *g = new_graph();
    mr_dim r = rows_dim(), half = dim_of(c->dim / 2);
    int p, w = MR_NONE;
    must(mr_graph_input(g, "pos", MR_V_I32, 1, &r, &p), "pos");
    if (factors)
        must(mr_graph_weight(g, "f", (mr_fmt){.dtype = MR_F32}, 1, &half, &w), "factors");
    mr_attr at[] = {{.f = c->theta}, {.i = c->dim},    {.s = c->kind},     {.f = c->factor},
                    {.f = c->low},   {.f = c->high},   {.f = c->orig},     {.f = c->fast},
                    {.f = c->slow},  {.f = c->mscale}, {.i = c->truncate}, {.i = 0}};
    must(mr_graph_output(g, add(g, MR_OP_ROPE_TABLE, (int[]){p, w}, 2, at), "y"), "output");
    test_case t;
    stored v = {.k = c->dim / 2};
    for (int i = 0; i < c->dim / 2; i++)
        v.x[i] = 1.0f + (float)i / 4;
    case_open(&t, g, MR_ISA_C, 2, MR_EXACT, ROWS);
    if (factors)
        load_vector(&t, g, 0, &v);
    case_bind(&t, "pos", pos);
    must(case_run(&t, ROWS, 0, pos, NULL), "run");
    const float *y = case_output(&t, 0);
    double worst = 0;
    for (int k = 0; k < ROWS; k++)
        for (int i = 0; i < c->dim / 2; i++) {
            /* the angle's own f32 rounding: pos f 2^-23 and an ulp or two of f */
            double a = pos[k] * frequency(c, i) / (factors ? v.x[i] : 1), slack = 1e-7 + a * 4e-7;
            double e = fabs(y[k * c->dim + i] - cos(a) * c->mscale) / slack;
            double f = fabs(y[k * c->dim + c->dim / 2 + i] - sin(a) * c->mscale) / slack;
            worst = fmax(worst, fmax(e, f));
        }
    CK(worst < 1.5, "rope table %s theta %g: %g of what f32 angles allow", c->kind, c->theta,
       worst);
    case_close(&t);
    mr_graph_free(g);
    ck_free_all();
}

/* ---- fused ops, views ---- */

/* x [R,H*D] -> the middle of each head, normed, rotated; the same by parts on copies. */
static void check_views(mr_isa isa, int threads)
{
    enum { ROWS = 37, H = 3, D = 24, FROM = 5, LEN = 16 };
    mr_graph *g = new_graph();
    int x = input(g, "x", MR_V_F32, 2, H * D, 0), b = input(g, "b", MR_V_F32, 3, 1, 7);
    int table = input(g, "t", MR_V_F32, 2, 8, 0);
    int heads = add(g, MR_OP_HEADS, &x, 1, (mr_attr[]){{.i = H}});
    int part = add(g, MR_OP_SLICE, &heads, 1, (mr_attr[]){{.i = FROM}, {.i = LEN}});
    int n = add(g, MR_OP_RMSNORM, &part, 1, (mr_attr[]){{.f = 1e-6}, {.f = 0}});
    int turned = add(g, MR_OP_ROPE, (int[]){part, table}, 2, (mr_attr[]){{.i = 3}, {.i = 1}});
    int joined = add(g, MR_OP_CONCAT, (int[]){part, b}, 2, NULL);
    int sum = add(g, MR_OP_ADD, (int[]){part, n}, 2, NULL);
    int act = add(g, MR_OP_SILU, &part, 1, NULL);
    const int out[] = {n, turned, joined, sum, act};
    for (int i = 0; i < 5; i++)
        must(mr_graph_output(g, out[i], (const char *[]){"n", "r", "j", "s", "a"}[i]), "output");
    float *xs = ck_floats(ROWS * H * D), *bs = ck_floats(ROWS * 7), *ts = ck_floats(ROWS * 8);
    ck_fill(xs, ROWS * H * D, CK_PLAIN);
    ck_fill(bs, ROWS * 7, CK_PLAIN);
    ck_fill(ts, ROWS * 8, CK_PLAIN);
    test_case t;
    case_open(&t, g, isa, threads, MR_EXACT, ROWS);
    case_bind(&t, "x", xs);
    case_bind(&t, "b", bs);
    case_bind(&t, "t", ts);
    must(case_run(&t, ROWS, 0, NULL, NULL), "run");
    const mr_vec_kernels *c = mr_vec(MR_ISA_C);
    float want[LEN + 7], norm[LEN];
    for (int r = 0; r < ROWS; r++)
        for (int h = 0; h < H; h++) {
            const float *p = xs + r * H * D + h * D + FROM;
            int64_t at = (r * H + h) * LEN;
            c->rmsnorm(norm, p, NULL, 1e-6f, 0, LEN);
            CK(ck_same(case_output(&t, 0) + at, norm, LEN), "norm of a slice");
            memcpy(want, p, LEN * sizeof *want);
            c->rope(want + 3, p + 3, ts + r * 8, 8, true);
            CK(ck_same(case_output(&t, 1) + at, want, LEN), "rope of a slice");
            memcpy(want, p, LEN * sizeof *want);
            memcpy(want + LEN, bs + r * 7, 7 * sizeof *want);
            CK(ck_same(case_output(&t, 2) + (r * H + h) * (LEN + 7), want, LEN + 7), "concat");
            c->add(want, p, norm, LEN);
            CK(ck_same(case_output(&t, 3) + at, want, LEN), "add of a slice");
            c->map(MR_OP_SILU, 0, want, p, LEN);
            CK(ck_same(case_output(&t, 4) + at, want, LEN), "silu of a slice");
        }
    case_close(&t);
    mr_graph_free(g);
    ck_free_all();
}

/* rope_append is rope, then append; add_rmsnorm is add, then rmsnorm: by bits. */
static void check_fused(mr_isa isa, int threads)
{
    enum { ROWS = 90, H = 2, D = 32, DV = 20 };
    float *y[2] = {0};
    float *q = ck_floats(ROWS * H * D), *k = ck_floats(ROWS * H * D), *v = ck_floats(ROWS * H * DV);
    float *ts = ck_floats(ROWS * 16), *a = ck_floats(ROWS * 64), *b = ck_floats(ROWS * 64);
    int32_t pos[ROWS];
    ck_fill(q, ROWS * H * D, CK_PLAIN);
    ck_fill(k, ROWS * H * D, CK_PLAIN);
    ck_fill(v, ROWS * H * DV, CK_PLAIN);
    ck_fill(ts, ROWS * 16, CK_PLAIN);
    ck_fill(a, ROWS * 64, CK_PLAIN);
    ck_fill(b, ROWS * 64, CK_PLAIN);
    for (int i = 0; i < ROWS; i++)
        pos[i] = i;
    mr_graph *g = new_graph();
    mr_dim r = rows_dim(), n64 = dim_of(64);
    int p, w, x, c;
    must(mr_graph_input(g, "pos", MR_V_I32, 1, &r, &p), "pos");
    must(mr_graph_weight(g, "w", (mr_fmt){.dtype = MR_F32}, 1, &n64, &w), "weight");
    int vq = input(g, "q", MR_V_F32, 3, H, D), vk = input(g, "k", MR_V_F32, 3, H, D);
    int vv = input(g, "v", MR_V_F32, 3, H, DV), vt = input(g, "t", MR_V_F32, 2, 16, 0);
    int va = input(g, "a", MR_V_F32, 2, 64, 0), vb = input(g, "b", MR_V_F32, 2, 64, 0);
    c = add(g, MR_OP_CACHE, NULL, 0,
            (mr_attr[]){{.s = "kv"}, {.i = H}, {.i = D}, {.i = DV}, {.i = 0}});
    c = add(g, MR_OP_ROPE_APPEND, (int[]){c, vk, vv, vt, p}, 5, (mr_attr[]){{.i = 9}, {.i = 0}});
    x = add(g, MR_OP_ATTENTION, (int[]){vq, c, p}, 3,
            (mr_attr[]){
                {.s = "causal"}, {.i = 0}, {.i = 0}, {.f = 0.2}, {.f = 0}, {.i = DV}, {.i = 0}});
    must(mr_graph_output(g, x, "x"), "output");
    x = add(g, MR_OP_ADD_RMSNORM, (int[]){va, vb, w}, 3, (mr_attr[]){{.f = 1e-6}, {.f = 1}});
    must(mr_graph_output(g, x, "s"), "output");
    must(mr_graph_output(g, x + 1, "n"), "output");
    mr_graph *parts;
    must(mr_graph_expand(g, &parts), "expand");
    stored weight = {.k = 64};
    ck_fill(weight.x, 64, CK_PLAIN);
    int64_t len = ROWS * (H * DV + 64 + 64);
    for (int i = 0; i < 2; i++) {
        test_case t;
        const mr_graph *one = i ? parts : g;
        y[i] = ck_floats(len);
        case_open(&t, one, isa, threads, MR_FAST, ROWS);
        load_vector(&t, one, 0, &weight);
        case_bind(&t, "pos", pos);
        case_bind(&t, "q", q);
        case_bind(&t, "k", k);
        case_bind(&t, "v", v);
        case_bind(&t, "t", ts);
        case_bind(&t, "a", a);
        case_bind(&t, "b", b);
        must(t.b->v->kv_new(t.b, t.plan->caches, 1, ROWS, ROWS, &t.kv[0]), "kv");
        must(t.b->v->kv_reserve(t.b, t.kv[0], ROWS), "reserve");
        t.kv_len[0] = ROWS;
        must(case_run(&t, ROWS, 0, pos, NULL), "run");
        memcpy(y[i], case_output(&t, 0), ROWS * H * DV * sizeof(float));
        memcpy(y[i] + ROWS * H * DV, case_output(&t, 1), ROWS * 64 * sizeof(float));
        memcpy(y[i] + ROWS * (H * DV + 64), case_output(&t, 2), ROWS * 64 * sizeof(float));
        case_close(&t);
    }
    CK(ck_same(y[0], y[1], len), "fused ops and their parts differ on %s", mr_isa_name(isa));
    mr_graph_free(g);
    mr_graph_free(parts);
    ck_free_all();
}

/* ---- refusals ---- */

static void check_refusals(void)
{
    mr_backend *b;
    mr_backend_opts o = {.threads = 1, .isa = MR_ISA_C, .precision = MR_EXACT};
    must(mr_backend_cpu(&b, &o), "open");
    mr_graph *g = new_graph();
    int q = input(g, "q", MR_V_F32, 3, 1, 2048), p;
    mr_dim r = rows_dim();
    must(mr_graph_input(g, "pos", MR_V_I32, 1, &r, &p), "pos");
    int c = add(g, MR_OP_CACHE, NULL, 0,
                (mr_attr[]){{.s = "kv"}, {.i = 1}, {.i = 2048}, {.i = 0}, {.i = 0}});
    int x = add(
        g, MR_OP_ATTENTION, (int[]){q, c, p}, 3,
        (mr_attr[]){{.s = "causal"}, {.i = 0}, {.i = 0}, {.f = 1}, {.f = 0}, {.i = 8}, {.i = 0}});
    must(mr_graph_output(g, x, "x"), "output");
    mr_plan *plan;
    CK(mr_plan_compile(&plan, g, b, "p", 1, 1) == MR_EUNSUPPORTED, "heads of 2048 are accepted");
    CK(strstr(mr_error(), "cpu") && strstr(mr_error(), "attention"), "message: %s", mr_error());
    mr_graph_free(g);

    mr_kv *kv;
    mr_cache_desc ring = {.name = "kv", .heads = 1, .dk = 16, .dv = 16, .window = 100};
    must(b->v->kv_new(b, &ring, 1, 1 << 20, 10, &kv), "kv");
    must(b->v->kv_reserve(b, kv, 1 << 20), "reserve");
    CK(b->v->kv_bytes(b, kv) < 64 * 64 * 3 * 4, "a ring of 110 positions holds %zu bytes",
       b->v->kv_bytes(b, kv));
    CK(b->v->kv_reserve(b, kv, (1 << 20) + 1) == MR_ELIMIT, "more than max_len is reserved");
    b->v->kv_free(b, kv);
    kv = NULL;
    mr_mem_fail_after(4);
    CK(b->v->kv_new(b, &ring, 1, 1 << 20, 10, &kv) != MR_OK ||
           b->v->kv_reserve(b, kv, 1000) == MR_ENOMEM,
       "a failed allocation goes unnoticed");
    mr_mem_fail_after(0);
    b->v->kv_free(b, kv);
    b->v->close(b);
}

/* Rows asked for by number must exist. */
static void check_numbers(void)
{
    mr_graph *g = new_graph();
    int x = input(g, "x", MR_V_F32, 2, 8, 0), rows;
    mr_dim out = {1, MR_SYM_OUT};
    must(mr_graph_input(g, "out_rows", MR_V_I32, 1, &out, &rows), "out_rows");
    must(mr_graph_output(g, add(g, MR_OP_GATHER, (int[]){x, rows}, 2, NULL), "y"), "output");
    float xs[5 * 8];
    ck_fill(xs, 40, CK_PLAIN);
    test_case t;
    case_open(&t, g, MR_ISA_C, 1, MR_EXACT, 5);
    case_bind(&t, "x", xs);
    int32_t ids[3] = {4, 0, 4};
    case_bind(&t, "out_rows", ids);
    must(case_run(&t, 5, 3, NULL, NULL), "run");
    for (int i = 0; i < 3; i++)
        CK(ck_same(case_output(&t, 0) + 8 * i, xs + 8 * ids[i], 8), "gather row %d", i);
    ids[1] = 5;
    CK(case_run(&t, 5, 3, NULL, NULL) == MR_EUSAGE, "row 5 of 5 is read");
    ids[1] = -1;
    CK(case_run(&t, 5, 3, NULL, NULL) == MR_EUSAGE, "row -1 is read");
    case_close(&t);
    mr_graph_free(g);
    ck_free_all();
}

int main(int argc, char **argv)
{
    ck_begin(argc, argv);
    mr_isa isa[MR_ISA_COUNT];
    int isas = ck_isas(isa);
    for (size_t i = 0; i < sizeof routes / sizeof *routes; i++)
        for (int k = 0; k < isas; k++)
            for (int bias = 0; bias < 2; bias++) {
                check_route(&routes[i], bias, CK_PLAIN, isa[k], 1 + k % 2);
                check_route(&routes[i], bias, CK_WILD, isa[k], 1 + k % 2);
            }
    for (size_t i = 0; i < sizeof tables / sizeof *tables; i++) {
        check_table(&tables[i], false);
        check_table(&tables[i], true);
    }
    for (int k = 0; k < isas; k++)
        for (int threads = 1; threads <= 4; threads *= 2) {
            check_views(isa[k], threads);
            check_fused(isa[k], threads);
        }
    check_refusals();
    check_numbers();
    return ck_end("cpu ops");
}
