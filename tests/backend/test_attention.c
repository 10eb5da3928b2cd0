/* Attention and KV caches of the CPU backend: against a plain double computation, and by bits over
 * ISAs, threads, chunks of the prompt and the company of other sessions. */
#include "bench_peak.h"
#include "plan_run.h"

#include "tensor/tensor.h"

typedef struct shape {
    const char *name, *mask;
    int heads, group, dk, dv; /* dv 0: the first `out` of the keys */
    int out;
    int window, block; /* of the mask; window: of the cache too */
    float softcap;
    int n; /* positions */
} shape;

static const shape shapes[] = {
    {"mha", "causal", 3, 1, 16, 16, 16, 0, 0, 0, 150},
    {"gqa", "causal", 2, 4, 64, 64, 64, 0, 0, 0, 203},
    {"gqa 7", "causal", 1, 7, 80, 48, 48, 0, 0, 0, 130},
    {"mqa odd", "causal", 1, 5, 20, 23, 23, 0, 0, 0, 70},
    {"softcap", "causal", 2, 2, 32, 32, 32, 0, 0, 5.0f, 100},
    {"mla", "causal", 1, 9, 72, 0, 61, 0, 0, 0, 140},
    {"mla full size", "causal", 1, 3, 576, 0, 512, 0, 0, 0, 80},
    {"window 1", "window", 1, 2, 16, 16, 16, 1, 0, 0, 140},
    {"window 5", "window", 2, 3, 16, 16, 16, 5, 0, 0, 300},
    {"window 64", "window", 1, 2, 32, 32, 32, 64, 0, 0, 400},
    {"window 65", "window", 1, 2, 32, 32, 32, 65, 0, 0, 333},
    {"window mla", "window", 1, 2, 24, 0, 16, 33, 0, 0, 200},
    {"block 32", "block", 2, 2, 32, 32, 32, 0, 32, 0, 160},
    {"block 7", "block", 1, 2, 16, 32, 32, 0, 7, 0, 140},
    {"full", "full", 2, 2, 32, 16, 16, 0, 0, 0, 135},
    {"spans", "causal", 1, 4, 64, 96, 96, 0, 0, 0, 700},
    {"spans of 13", "causal", 1, 13, 16, 40, 40, 0, 0, 0, 530},
    {"spans mla", "causal", 1, 16, 40, 0, 32, 0, 0, 0, 520},
    {"spans full", "full", 2, 3, 16, 16, 16, 0, 0, 0, 515},
    {"window of spans", "window", 3, 1, 16, 16, 16, 300, 0, 30.0f, 600},
};

/* The input of a case, for all positions. */
typedef struct data {
    const shape *s;
    float *q, *k, *v;
    int32_t *pos;
    float *y; /* what the first run gave */
} data;

static mr_graph *graph_of(const shape *s)
{
    mr_graph *g;
    int q, k, v = MR_NONE, pos, c, y;
    mr_dim r = rows_dim();
    must(mr_graph_new(&g, s->name), "graph");
    mr_dim dq[] = {r, dim_of(s->heads * s->group), dim_of(s->dk)};
    mr_dim dk[] = {r, dim_of(s->heads), dim_of(s->dk)};
    mr_dim dv[] = {r, dim_of(s->heads), dim_of(s->dv)};
    must(mr_graph_input(g, "pos", MR_V_I32, 1, &r, &pos), "pos");
    must(mr_graph_input(g, "q", MR_V_F32, 3, dq, &q), "q");
    must(mr_graph_input(g, "k", MR_V_F32, 3, dk, &k), "k");
    if (s->dv)
        must(mr_graph_input(g, "v", MR_V_F32, 3, dv, &v), "v");
    mr_attr cache[] = {{.s = "kv"}, {.i = s->heads}, {.i = s->dk}, {.i = s->dv}, {.i = s->window}};
    must(mr_graph_add(g, MR_OP_CACHE, NULL, 0, cache, &c), "cache");
    must(mr_graph_add(g, MR_OP_APPEND, (int[]){c, k, v, pos}, 4, NULL, &c), "append");
    mr_attr at[] = {{.s = s->mask},    {.i = s->window}, {.i = s->block}, {.f = 0.17},
                    {.f = s->softcap}, {.i = s->out},    {.i = 0}};
    must(mr_graph_add(g, MR_OP_ATTENTION, (int[]){q, c, pos}, 3, at, &y), "attention");
    must(mr_graph_output(g, y, "y"), "output");
    return g;
}

static data make_data(const shape *s, ck_kind kind)
{
    int64_t n = s->n;
    data d = {.s = s};
    d.q = ck_floats(n * s->heads * s->group * s->dk);
    d.k = ck_floats(n * s->heads * s->dk);
    d.v = ck_floats(n * s->heads * s->dv);
    d.y = ck_floats(n * s->heads * s->group * s->out);
    d.pos = ck_guard((size_t)n * sizeof *d.pos, sizeof *d.pos);
    ck_fill(d.q, n * s->heads * s->group * s->dk, kind);
    ck_fill(d.k, n * s->heads * s->dk, kind);
    ck_fill(d.v, n * s->heads * s->dv, kind);
    for (int64_t i = 0; i < n; i++)
        d.pos[i] = (int32_t)i;
    return d;
}

/* Row i of the inputs and of the output, in floats. */
static int64_t q_row(const shape *s)
{
    return (int64_t)s->heads * s->group * s->dk;
}

static int64_t y_row(const shape *s)
{
    return (int64_t)s->heads * s->group * s->out;
}

/* Feeds positions [from, to) of d into a session. */
static void feed(test_case *t, const data *d, int slot, int64_t from, int64_t to, float *y)
{
    const shape *s = d->s;
    int32_t slots[1 << 10];
    for (int64_t i = 0; i < to - from; i++)
        slots[i] = slot;
    t->kv_len[slot] = to;
    must(t->b->v->kv_reserve(t->b, t->kv[slot], to), "reserve");
    case_bind(t, "pos", d->pos + from);
    case_bind(t, "q", d->q + from * q_row(s));
    case_bind(t, "k", d->k + from * s->heads * s->dk);
    case_bind(t, "v", d->v + from * s->heads * s->dv);
    must(case_run(t, to - from, 0, d->pos + from, slots), "run");
    memcpy(y + from * y_row(s), case_output(t, 0),
           (size_t)((to - from) * y_row(s)) * sizeof(float));
}

static void new_kv(test_case *t, int slot, int64_t max_len, int64_t max_advance)
{
    must(t->b->v->kv_new(t->b, t->plan->caches, t->plan->n_caches, max_len, max_advance,
                         &t->kv[slot]),
         "kv");
}

/* All positions in chunks. */
static void run_chunks(const data *d, const mr_graph *g, mr_isa isa, int threads, mr_precision p,
                       int64_t chunk, float *y)
{
    test_case t;
    case_open(&t, g, isa, threads, p, chunk);
    new_kv(&t, 0, d->s->n, chunk);
    for (int64_t i = 0; i < d->s->n; i += chunk)
        feed(&t, d, 0, i, i + chunk < d->s->n ? i + chunk : d->s->n, y);
    size_t need = t.b->v->kv_need(t.b, t.plan->caches, 1, d->s->n, chunk);
    CK(t.b->v->kv_bytes(t.b, t.kv[0]) == need, "%s: kv holds %zu, needs %zu", d->s->name,
       t.b->v->kv_bytes(t.b, t.kv[0]), need);
    case_close(&t);
}

static double stored(float x, mr_precision p)
{
    return p == MR_EXACT ? x : mr_bf16_to_f32(mr_f32_to_bf16(x));
}

static void naive_range(const shape *s, int64_t pos, int64_t *lo, int64_t *hi)
{
    *lo = 0;
    *hi = s->n;
    if (!strcmp(s->mask, "causal") || s->window)
        *hi = pos + 1;
    if (s->window && pos >= s->window)
        *lo = pos - s->window + 1;
    if (s->block && (pos / s->block + 1) * s->block < s->n)
        *hi = (pos / s->block + 1) * s->block;
}

/* One (row, query head), in double. */
static void naive(const data *d, mr_precision p, int64_t r, int64_t h, double *y)
{
    const shape *s = d->s;
    static double w[1 << 10];
    int64_t lo, hi, kh = h / s->group;
    double top = -INFINITY, sum = 0;
    naive_range(s, r, &lo, &hi);
    for (int64_t j = lo; j < hi; j++) {
        const float *q = d->q + r * q_row(s) + h * s->dk, *k = d->k + (j * s->heads + kh) * s->dk;
        double dot = 0;
        for (int i = 0; i < s->dk; i++)
            dot += q[i] * stored(k[i], p);
        dot *= (float)0.17;
        w[j] = s->softcap > 0 ? s->softcap * tanh(dot / s->softcap) : dot;
        top = w[j] > top ? w[j] : top;
    }
    memset(y, 0, (size_t)s->out * sizeof *y);
    for (int64_t j = lo; j < hi; j++) {
        double e = exp(w[j] - top);
        const float *v =
            s->dv ? d->v + (j * s->heads + kh) * s->dv : d->k + (j * s->heads + kh) * s->dk;
        sum += e;
        for (int i = 0; i < s->out; i++)
            y[i] += e * stored(v[i], p);
    }
    for (int i = 0; i < s->out; i++)
        y[i] /= sum;
}

static void check_naive(const data *d, mr_precision p)
{
    const shape *s = d->s;
    double y[1 << 10], worst = 0;
    for (int64_t r = 0; r < s->n; r++)
        for (int64_t h = 0; h < s->heads * s->group; h++) {
            naive(d, p, r, h, y);
            for (int i = 0; i < s->out; i++) {
                double e = fabs(d->y[r * y_row(s) + h * s->out + i] - y[i]) / (1 + fabs(y[i]));
                worst = e > worst || e != e ? e : worst;
            }
        }
    CK(worst < 5e-6 * (1 + s->dk / 100.0), "%s %s: %g from the plain computation", s->name,
       mr_precision_name(p), worst);
}

/* Chunks that show every row what the whole prompt shows it. */
static bool chunk_is_equal(const shape *s, int64_t chunk)
{
    if (!strcmp(s->mask, "full"))
        return chunk >= s->n;
    return !s->block || chunk % s->block == 0 || chunk >= s->n;
}

static void check_shape(const shape *s, mr_precision p, ck_kind kind)
{
    mr_isa isa[MR_ISA_COUNT];
    int isas = ck_isas(isa);
    mr_graph *g = graph_of(s);
    data d = make_data(s, kind);
    float *y = ck_floats(s->n * y_row(s));
    run_chunks(&d, g, MR_ISA_C, 1, p, s->n, d.y);
    if (kind == CK_PLAIN)
        check_naive(&d, p);
    const int64_t chunks[] = {1, 7, 32, 64, s->n};
    for (int i = 0; i < isas; i++)
        for (int threads = 1; threads <= 4; threads *= 2)
            for (int c = 0; c < 5; c++) {
                if (ck_small && (threads != 2 || c % 3 != 1))
                    continue;
                if (!chunk_is_equal(s, chunks[c]) || (isa[i] == MR_ISA_C && threads > 1))
                    continue;
                run_chunks(&d, g, isa[i], threads, p, chunks[c], y);
                CK(ck_same(y, d.y, s->n * y_row(s)),
                   "%s %s %s: other bits with %d threads, chunk %d", s->name, mr_precision_name(p),
                   mr_isa_name(isa[i]), threads, (int)chunks[c]);
            }
    mr_graph_free(g);
    ck_free_all();
}

/* Two sessions in one run, each at its own position, equal each alone; and rolling back rows and
 * feeding them again changes nothing. */
static void check_company(const shape *s, mr_isa isa)
{
    mr_graph *g = graph_of(s);
    data d = make_data(s, CK_PLAIN);
    int64_t n = s->n, w = y_row(s), kw = (int64_t)s->heads * s->dk, vw = (int64_t)s->heads * s->dv;
    run_chunks(&d, g, isa, 2, MR_FAST, n, d.y);
    float *y = ck_floats(n * w);
    test_case t;
    case_open(&t, g, isa, 2, MR_FAST, 32);
    for (int slot = 0; slot < 2; slot++)
        new_kv(&t, slot, n, 16);
    feed(&t, &d, 0, 0, 16, y);
    feed(&t, &d, 1, 0, 10, y);
    feed(&t, &d, 1, 5, 15, y); /* rows 5..9 again */
    /* rows 16..19 of session 0 beside rows 15..22 of session 1 */
    float *q = ck_floats(12 * q_row(s)), *k = ck_floats(12 * kw), *v = ck_floats(12 * vw);
    int32_t pos[12], slot[12];
    for (int i = 0; i < 12; i++) {
        slot[i] = i >= 4;
        pos[i] = i < 4 ? 16 + i : 15 + i - 4;
        memcpy(q + i * q_row(s), d.q + pos[i] * q_row(s), (size_t)q_row(s) * sizeof *q);
        memcpy(k + i * kw, d.k + pos[i] * kw, (size_t)kw * sizeof *k);
        memcpy(v + i * vw, d.v + pos[i] * vw, (size_t)vw * sizeof *v);
    }
    t.kv_len[0] = 20;
    t.kv_len[1] = 23;
    must(t.b->v->kv_reserve(t.b, t.kv[0], 20), "reserve");
    must(t.b->v->kv_reserve(t.b, t.kv[1], 23), "reserve");
    case_bind(&t, "pos", pos);
    case_bind(&t, "q", q);
    case_bind(&t, "k", k);
    case_bind(&t, "v", v);
    must(case_run(&t, 12, 0, pos, slot), "run");
    for (int i = 0; i < 12; i++)
        CK(ck_same(case_output(&t, 0) + i * w, d.y + pos[i] * w, w),
           "%s: row %d of session %d has other bits in company", s->name, (int)pos[i],
           (int)slot[i]);
    t.kv_len[0] = 40;
    CK(case_run(&t, 12, 0, pos, slot) == MR_ELIMIT, "%s: unreserved positions are read", s->name);
    case_close(&t);
    mr_graph_free(g);
    ck_free_all();
}

/* The last `rows` positions of a session of s->n, on one thread. */
static void bench_isa(const shape *s, const mr_graph *g, const data *d, float *y, int64_t rows,
                      mr_isa isa)
{
    test_case t;
    case_open(&t, g, isa, 1, MR_FAST, 512);
    new_kv(&t, 0, s->n, 512);
    for (int64_t at = 0; at < s->n; at += 512)
        feed(&t, d, 0, at, at + 512 < s->n ? at + 512 : s->n, y);
    double peak = bench_peak(isa, false), best = 1e9, t0 = ck_now(), start = t0;
    do {
        feed(&t, d, 0, s->n - rows, s->n, y);
        double t1 = ck_now();
        best = t1 - t0 < best ? t1 - t0 : best;
        t0 = t1;
    } while (t0 - start < 0.3);
    double keys = (double)rows * ((double)s->n - 0.5 * (double)(rows - 1));
    double flop = 2 * keys * s->heads * s->group * (s->dk + s->out);
    double bytes = 2.0 * (double)s->n * s->heads * (s->dk + s->dv);
    printf("%-16s %-7s %4d rows of %5d: %9.1f us  %6.1f GFLOP/s (%3.0f%% of peak)  %6.2f GB/s\n",
           s->name, mr_isa_name(isa), (int)rows, s->n, 1e6 * best, 1e-9 * flop / best,
           peak > 0 ? 100 * flop / best / peak : 0, 1e-9 * bytes / best);
    fflush(stdout);
    case_close(&t);
}

static void bench(const shape *s, int64_t rows)
{
    mr_isa isa[MR_ISA_COUNT];
    int isas = ck_isas(isa);
    mr_graph *g = graph_of(s);
    data d = make_data(s, CK_PLAIN);
    float *y = ck_floats(s->n * y_row(s));
    for (int i = 1; i < isas; i++)
        bench_isa(s, g, &d, y, rows, isa[i]);
    mr_graph_free(g);
    ck_free_all();
}

/* Shapes of the families: SmolLM2 and Qwen3, Llama, Gemma, Gemma's global heads, DeepSeek. */
static void bench_all(const char *only)
{
    static const shape kinds[] = {
        {"gqa 9/3x64", "causal", 3, 3, 64, 64, 64, 0, 0, 0, 2048},
        {"gqa 32/4x128", "causal", 4, 8, 128, 128, 128, 0, 0, 0, 2048},
        {"gqa 4/1x256", "causal", 1, 4, 256, 256, 256, 0, 0, 0, 2048},
        {"gqa 8/1x512", "causal", 1, 8, 512, 512, 512, 0, 0, 0, 2048},
        {"softcap 8/4x256", "causal", 4, 2, 256, 256, 256, 0, 0, 50, 1024},
        {"mla 16x576", "causal", 1, 16, 576, 0, 512, 0, 0, 0, 1024},
        {"mla 128x576", "causal", 1, 128, 576, 0, 512, 0, 0, 0, 512},
    };
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        for (int64_t rows = 1; rows <= 256; rows *= 256)
            if (!only || strstr(kinds[i].name, only))
                bench(&kinds[i], rows);
}

int main(int argc, char **argv)
{
    ck_begin(argc, argv);
    if (ck_bench) {
        bench_all(argc > 2 ? argv[2] : NULL);
        return 0;
    }
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        if (ck_small && shapes[i].dk > 100)
            continue;
        check_shape(&shapes[i], MR_EXACT, CK_PLAIN);
        check_shape(&shapes[i], MR_FAST, CK_PLAIN);
        check_shape(&shapes[i], MR_FAST, CK_WILD);
    }
    mr_isa isa[MR_ISA_COUNT];
    int isas = ck_isas(isa);
    for (int i = 0; i < isas; i++) {
        check_company(&shapes[1], isa[i]);
        check_company(&shapes[5], isa[i]);
        check_company(&shapes[8], isa[i]);
    }
    return ck_end("attention");
}
