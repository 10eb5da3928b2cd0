/* Attention and KV caches of the CPU backend: against a plain double computation, and by bits over
 * ISAs, threads, chunks of the prompt and the company of other sessions. */
#include "bench_peak.h"
#include "emulate_bf16.h"
#include "plan_run.h"

#include "backend/cpu/lanes_c.h"
#include "backend/cpu/math_lanes.h"
#include "backend/cpu/tiles_amx.h"

#include "tensor/tensor.h"

static bool slow; /* dots of bf16 are emulated */

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
    {"tiny", "causal", 1, 6, 3, 5, 5, 0, 0, 0, 128},
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
    double most = p == MR_NATIVE ? 0.05 : 5e-6; /* two factors of 9 bits */
    CK(worst < most * (1 + s->dk / 100.0), "%s %s: %g from the plain computation", s->name,
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

/* ---- native: dots of bf16 pairs, and tile products ---- */

/* Each lane's dot, by the CPU's instruction: what it rounds is its own. */
static void lane_dots(float *acc, uint32_t x, const uint32_t *y)
{
#if defined(__x86_64__)
    __asm__ volatile("vpbroadcastd %1, %%zmm1\n\tvmovups %2, %%zmm2\n\tvmovups %0, %%zmm3\n\t"
                     "vdpbf16ps %%zmm2, %%zmm1, %%zmm3\n\tvmovups %%zmm3, %0"
                     : "+m"(*(float(*)[16])acc)
                     : "m"(x), "m"(*(const uint32_t(*)[16])y)
                     : "xmm1", "xmm2", "xmm3");
#elif defined(__aarch64__)
    for (int i = 0; i < 16; i += 4)
        __asm__ volatile(".arch_extension bf16\n\tld1r {v1.4s}, %1\n\tldr q2, %2\n\tldr q3, %0\n\t"
                         "bfdot v3.4s, v1.8h, v2.8h\n\tstr q3, %0"
                         : "+Q"(*(float(*)[4])(acc + i))
                         : "Q"(x), "Q"(*(const uint32_t(*)[4])(y + i))
                         : "v1", "v2", "v3");
#else
    (void)acc, (void)x, (void)y;
#endif
}

/* One row times 16 columns: 16 pairs of each, y's lines one after the other. */
static void tile_dots(float *acc, const uint32_t *x, const uint32_t *y)
{
#if defined(__x86_64__)
    tile_config c = {.palette = 1};
    TILE_SHAPE(c, 0, 1, 64);
    TILE_SHAPE(c, 1, 1, 64);
    TILE_SHAPE(c, 2, 16, 64);
    tile_configure(&c);
    const size_t line = 64;
    TILE_LOAD(0, acc, line);
    TILE_LOAD(1, x, line);
    TILE_LOAD(2, y, line);
    TILE_DOTS(bf16ps, 0, 1, 2);
    TILE_STORE(0, acc, line);
    tile_release();
#else
    (void)acc, (void)x, (void)y;
#endif
}

/* 16 columns' chains on from acc: of the n pairs of x and the lines y, `stride` words apart. */
static void dots(mr_isa isa, float *acc, const uint32_t *x, const uint32_t *y, int64_t stride,
                 int n)
{
    if (isa != MR_ISA_AMX) {
        for (int i = 0; i < n; i++)
            lane_dots(acc, x[i], y + i * stride);
        return;
    }
    for (int i = 0; i < n; i += 16) { /* filled up with zeros */
        uint32_t some[16] = {0}, lines[16][16] = {{0}};
        for (int j = 0; j < 16 && i + j < n; j++) {
            some[j] = x[i + j];
            memcpy(lines[j], y + (i + j) * stride, sizeof lines[j]);
        }
        tile_dots(acc, some, lines[0]);
    }
}

static uint32_t pair(float low, float high)
{
    return mr_f32_to_bf16(low) | (uint32_t)mr_f32_to_bf16(high) << 16;
}

static float exp_of(float x)
{
    float e[16];
    v16f_store(e, v16f_exp(v16f_set1(x)));
    return e[0];
}

/* Keys and values as pairs, zeros beyond their ends: of elements 2i and 2i + 1 of each position's key,
 * and of positions 2j and 2j + 1 of each value. */
typedef struct pairs {
    int64_t n, d, out; /* positions, pairs of a key, values: rounded up to 16 */
    uint32_t *k, *v;   /* [heads][d][n], [heads][n / 2][out] */
} pairs;

static float element(const float *x, int64_t row, int i, int width, bool there)
{
    return there && i < width ? x[row * width + i] : 0;
}

static pairs make_pairs(const data *d)
{
    const shape *s = d->s;
    const float *v = s->dv ? d->v : d->k;
    const int dv = s->dv ? s->dv : s->dk;
    pairs p = {(s->n + 15) / 16 * 16, (s->dk + 1) / 2, (s->out + 15) / 16 * 16, NULL, NULL};
    p.k = malloc((size_t)(s->heads * p.d * p.n) * sizeof *p.k);
    p.v = malloc((size_t)(s->heads * p.n / 2 * p.out) * sizeof *p.v);
    for (int64_t h = 0; h < s->heads; h++) {
        for (int64_t j = 0; j < p.n; j++)
            for (int i = 0; i < p.d; i++)
                p.k[(h * p.d + i) * p.n + j] =
                    pair(element(d->k, j * s->heads + h, 2 * i, s->dk, j < s->n),
                         element(d->k, j * s->heads + h, 2 * i + 1, s->dk, j < s->n));
        for (int64_t j = 0; j < p.n; j += 2)
            for (int i = 0; i < p.out; i++)
                p.v[(h * p.n + j) / 2 * p.out + i] =
                    pair(element(v, j * s->heads + h, i, dv, j < s->n),
                         element(v, (j + 1) * s->heads + h, i, dv, j + 1 < s->n));
    }
    return p;
}

/* What docs/numerics.md says of one band, positions [from, to): m, l and the weighted values. */
enum { BAND = 256 };
typedef struct twin {
    float m, l, y[1 << 10];
} twin;

static void twin_band(const data *d, const pairs *x, mr_isa isa, int64_t r, int64_t h, int64_t from,
                      int64_t to, twin *t)
{
    const shape *s = d->s;
    const float *q = d->q + r * q_row(s) + h * s->dk;
    int64_t base = from / 16 * 16, band = from / BAND * BAND, kh = h / s->group;
    float score[BAND + 16] = {0};
    uint32_t words[600], values[BAND / 2][16];
    v16f sum = v16f_zero();
    for (int i = 0; i < x->d; i++)
        words[i] = pair(q[2 * i] * (float)0.17, 2 * i + 1 < s->dk ? q[2 * i + 1] * (float)0.17 : 0);
    for (int64_t j = base; j < to; j += 16)
        dots(isa, score + j - base, words, x->k + kh * x->d * x->n + j, x->n, (int)x->d);
    t->m = -INFINITY;
    for (int64_t j = 0; s->softcap > 0 && j < to - base; j += 16)
        v16f_store(score + j, v16f_softcap(v16f_load(score + j), v16f_set1(s->softcap)));
    for (int64_t j = from; j < to; j++)
        t->m = score[j - base] > t->m ? score[j - base] : t->m;
    v16f b = v16f_set1(t->m == -INFINITY ? 0 : t->m);
    for (int64_t j = 0; j < to - base; j += 16) {
        v16f_store(score + j, v16f_exp(v16f_sub(v16f_load(score + j), b)));
        for (int64_t lane = j; lane < j + 16; lane++)
            score[lane] = lane >= from - base && lane < to - base ? score[lane] : 0;
        sum = v16f_add(sum, v16f_load(score + j));
    }
    t->l = v16f_reduce_add(sum);
    memset(t->y, 0, sizeof t->y);
    /* Tiles take the whole band, zeros where nothing is seen; dots only what is. */
    const int64_t first = isa == MR_ISA_AMX ? band : from / 2 * 2,
                  end = isa == MR_ISA_AMX ? band + BAND : to;
    for (int64_t j = first; j < end; j += 2)
        words[(j - first) / 2] = pair(j < from ? 0 : score[j - base],
                                      j + 1 < from || j + 1 >= to ? 0 : score[j + 1 - base]);
    for (int i = 0; i < x->out; i += 16) {
        for (int64_t j = first; j < end; j += 2) {
            const uint32_t in = (j < from || j >= to ? 0 : 0xffff) |
                                (j + 1 < from || j + 1 >= to ? 0 : 0xffff0000u);
            for (int lane = 0; lane < 16; lane++)
                values[(j - first) / 2][lane] =
                    in ? x->v[(kh * x->n + j) / 2 * x->out + i + lane] & in : 0;
        }
        dots(isa, t->y + i, words, values[0], 16, (int)(end - first + 1) / 2);
    }
}

/* One (row, query head). */
static void twin_pair(const data *d, const pairs *x, mr_isa isa, int64_t r, int64_t h, float *y)
{
    static twin t, u;
    int64_t lo, hi;
    naive_range(d->s, r, &lo, &hi);
    for (int64_t band = lo / BAND; band * BAND < hi; band++) {
        int64_t from = band * BAND, to = from + BAND;
        if (from <= lo) {
            twin_band(d, x, isa, r, h, lo, to < hi ? to : hi, &t);
            continue;
        }
        twin_band(d, x, isa, r, h, from, to < hi ? to : hi, &u);
        float m = u.m > t.m ? u.m : t.m, b = m == -INFINITY ? 0 : m;
        float before = exp_of(t.m - b), own = exp_of(u.m - b);
        t.l = fmaf(t.l, before, u.l * own);
        for (int i = 0; i < d->s->out; i++)
            t.y[i] = fmaf(t.y[i], before, u.y[i] * own);
        t.m = m;
    }
    for (int i = 0; i < d->s->out; i++)
        y[i] = t.l == 0 ? 0 : t.y[i] * (1 / t.l);
}

/* Positions [a, b) of keys and values become NaN: the bits of rows that do not see them stay. */
static void check_unseen(const data *d, const mr_graph *g, mr_isa isa, int64_t chunk, int64_t a,
                         int64_t b, float *y)
{
    const shape *s = d->s;
    data other = *d;
    int64_t w = y_row(s), kw = (int64_t)s->heads * s->dk, vw = (int64_t)s->heads * s->dv;
    other.k = ck_floats(s->n * kw);
    other.v = ck_floats(s->n * vw);
    memcpy(other.k, d->k, (size_t)(s->n * kw) * sizeof(float));
    memcpy(other.v, d->v, (size_t)(s->n * vw) * sizeof(float));
    for (int64_t i = a * kw; i < b * kw; i++)
        other.k[i] = NAN;
    for (int64_t i = a * vw; i < b * vw; i++)
        other.v[i] = NAN;
    run_chunks(&other, g, isa, 2, MR_NATIVE, chunk, y);
    for (int64_t r = 0, lo, hi; r < s->n; r++) {
        naive_range(s, r, &lo, &hi);
        CK((lo < b && a < hi) || ck_same(y + r * w, d->y + r * w, w),
           "%s native %s: row %d, in chunks of %d, meets NaN of positions %d to %d", s->name,
           mr_isa_name(isa), (int)r, (int)chunk, (int)a, (int)b - 1);
    }
}

static void check_native(const shape *s, mr_isa isa, bool few)
{
    mr_graph *g = graph_of(s);
    data d = make_data(s, CK_PLAIN);
    pairs x = make_pairs(&d);
    float *y = ck_floats(s->n * y_row(s));
    for (int64_t r = 0; r < s->n; r++)
        for (int64_t h = 0; h < s->heads * s->group; h++)
            twin_pair(&d, &x, isa, r, h, d.y + r * y_row(s) + h * s->out);
    check_naive(&d, MR_NATIVE);
    const int64_t chunks[] = {s->n, 1, 7, 32, 64};
    for (int threads = 1; threads <= 3; threads++)
        for (int c = 0; c < 5; c++) {
            if (few ? c != threads - 1 || threads > 2 : ck_small && c % 3 != threads - 1)
                continue;
            if (!chunk_is_equal(s, chunks[c]))
                continue;
            run_chunks(&d, g, isa, threads, MR_NATIVE, chunks[c], y);
            CK(ck_same(y, d.y, s->n * y_row(s)),
               "%s native %s: other bits than stated with %d threads, chunk %d", s->name,
               mr_isa_name(isa), threads, (int)chunks[c]);
        }
    free(x.k);
    free(x.v);
    for (int64_t a = s->n / 2; a < s->n / 2 + (few ? 1 : 2); a++) {
        check_unseen(&d, g, isa, s->n, a, a + 3, y);
        if (chunk_is_equal(s, 4) && !few)
            check_unseen(&d, g, isa, 4, a, a + 3, y);
    }
    mr_graph_free(g);
    ck_free_all();
}

/* Sums that cancel to less than the least normal number: tile products make it a zero with its sign, which what
 * other rows see must not change. */
static void check_least(mr_isa isa)
{
    static const shape least = {"native least", "causal", 1, 2, 16, 32, 32, 0, 0, 0, 200};
    mr_graph *g = graph_of(&least);
    data d = make_data(&least, CK_PLAIN);
    float *y = ck_floats(least.n * y_row(&least));
    memset(d.k, 0, (size_t)(least.n * least.dk) * sizeof(float));
    memset(d.v, 0, (size_t)(least.n * least.dv) * sizeof(float));
    for (int i = 0; i < least.dv; i++) {
        d.v[i] = (float)0x1.8p-126;
        d.v[32 * least.dv + i] = (float)-0x1.cp-126;
    }
    for (int64_t chunk = 1; chunk <= least.n; chunk += 33) {
        run_chunks(&d, g, isa, 2, MR_NATIVE, chunk, chunk == 1 ? d.y : y);
        CK(chunk == 1 || ck_same(y, d.y, least.n * y_row(&least)),
           "native %s: other zeros in chunks of %d", mr_isa_name(isa), (int)chunk);
    }
    mr_graph_free(g);
    ck_free_all();
}

/* Sizes that are no whole pairs, lines or tiles; few and many groups of pairs. */
static void check_all_native(void)
{
    static const shape own[] = {
        {"native gqa", "causal", 2, 4, 64, 64, 64, 0, 0, 0, 90},
        {"native one head", "causal", 1, 1, 16, 48, 48, 0, 0, 0, 300},
        {"native odd", "causal", 1, 5, 21, 23, 23, 0, 0, 3.0f, 75},
        {"native one wide", "causal", 2, 1, 1, 33, 33, 0, 0, 0, 70},
        {"native mla", "causal", 1, 9, 72, 0, 61, 0, 0, 0, 80},
        {"native mla odd", "causal", 1, 16, 37, 0, 17, 0, 0, 0, 66},
        {"native spans mla", "causal", 1, 3, 18, 0, 16, 0, 0, 0, 290},
        {"native window 1", "window", 1, 2, 16, 16, 16, 1, 0, 0, 140},
        {"native window 5", "window", 2, 3, 16, 16, 16, 5, 0, 0, 270},
        {"native window 64", "window", 1, 2, 18, 32, 32, 64, 0, 0, 290},
        {"native window 65", "window", 1, 7, 16, 32, 32, 65, 0, 0, 150},
        {"native block 7", "block", 1, 6, 16, 32, 32, 0, 7, 0, 100},
        {"native full", "full", 2, 3, 16, 16, 16, 0, 0, 0, 75},
        {"native spans", "causal", 1, 13, 16, 40, 40, 0, 0, 0, 268},
    };
    static const mr_isa isas[] = {MR_ISA_AVX512, MR_ISA_AMX, MR_ISA_NEON};
    for (size_t i = 0; i < sizeof isas / sizeof *isas; i++) {
        const bool tiles = isas[i] == MR_ISA_AMX, emulated = slow && !tiles;
        if (!mr_isa_have(isas[i]) || (!tiles && !mr_isa_has_bf16(isas[i]))) {
            printf("skipped: native %s, which this CPU has not\n", mr_isa_name(isas[i]));
            continue;
        }
        if (!emulated)
            check_least(isas[i]);
        for (size_t j = 0; j < sizeof own / sizeof *own; j++)
            if (!emulated || own[j].n * own[j].heads * own[j].group < 2000)
                check_native(&own[j], isas[i], emulated);
        for (size_t j = 0; !emulated && !ck_small && j < sizeof shapes / sizeof *shapes; j++)
            check_native(&shapes[j], isas[i], false);
    }
}

/* The last `rows` positions of a session of s->n, on one thread. */
static void bench_isa(const shape *s, const mr_graph *g, const data *d, float *y, int64_t rows,
                      mr_isa isa, mr_precision p)
{
    test_case t;
    case_open(&t, g, isa, 1, p, 512);
    new_kv(&t, 0, s->n, 512);
    for (int64_t at = 0; at < s->n; at += 512)
        feed(&t, d, 0, at, at + 512 < s->n ? at + 512 : s->n, y);
    double peak = bench_peak(isa, p == MR_NATIVE ? MR_ARITH_BF16 : MR_ARITH_F32), best = 1e9,
           t0 = ck_now(), start = t0;
    do {
        feed(&t, d, 0, s->n - rows, s->n, y);
        double t1 = ck_now();
        best = t1 - t0 < best ? t1 - t0 : best;
        t0 = t1;
    } while (t0 - start < 0.3);
    double keys = (double)rows * ((double)s->n - 0.5 * (double)(rows - 1));
    double flop = 2 * keys * s->heads * s->group * (s->dk + s->out);
    double bytes = 2.0 * (double)s->n * s->heads * (s->dk + s->dv);
    printf(
        "%-16s %-7s %-6s %4d rows of %5d: %9.1f us  %6.1f GFLOP/s (%3.0f%% of peak)  %6.2f GB/s\n",
        s->name, mr_isa_name(isa), mr_precision_name(p), (int)rows, s->n, 1e6 * best,
        1e-9 * flop / best, peak > 0 ? 100 * flop / best / peak : 0, 1e-9 * bytes / best);
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
    for (int i = 1; i < isas; i++) {
        bench_isa(s, g, &d, y, rows, isa[i], MR_FAST);
        if (isa[i] == MR_ISA_AMX || (mr_isa_has_bf16(isa[i]) && !slow))
            bench_isa(s, g, &d, y, rows, isa[i], MR_NATIVE);
    }
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
    slow = emulate_bf16();
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
    check_all_native();
    return ck_end("attention");
}
