/* Rotary positions: inverse frequencies, tables, rotation; and appending to the caches.
 *
 * Frequencies follow the reference's float32 arithmetic step by step (theta^(2i/dim) in double,
 * rounded to f32, then f32 division and scaling), so they agree with it within one ulp.  Angles are
 * the f32 product pos * f; sine and cosine are taken of it in double and rounded once. */
#include "backend/cpu/cpu_backend.h"
#include "base/real.h"

#include <math.h>
#include <string.h>

static const double PI = 0x1.921fb54442d18p+1;

static float clamp01(float x)
{
    return x < 0 ? 0 : x > 1 ? 1 : x;
}

/* Long wavelengths are stretched by factor, short ones kept, those between blended. */
static void llama3(const mr_node *n, float *f, int64_t half)
{
    double orig = mr_attr_f(n, "orig"), low = mr_attr_f(n, "low"), high = mr_attr_f(n, "high");
    float factor = (float)mr_attr_f(n, "factor");
    float longest = (float)(orig / low), shortest = (float)(orig / high);
    for (int64_t i = 0; i < half; i++) {
        float wave = (float)(2 * PI) / f[i];
        if (wave > longest) {
            f[i] = f[i] / factor;
        } else if (!(wave < shortest)) {
            float t = ((float)orig / wave - (float)low) / (float)(high - low);
            float a = (1.0f - t) * f[i] / factor, b = t * f[i];
            f[i] = a + b;
        }
    }
}

/* Pair index at which `rotations` turns fit the original context. */
static double yarn_dim(double rotations, double dim, double theta, double orig)
{
    return dim * mr_log(orig / (rotations * 2 * PI)) / (2 * mr_log(theta));
}

/* Interpolates slow pairs by factor, keeps fast ones, with a ramp between lo and hi. */
static void yarn(const mr_node *n, const float *powers, float *f, int64_t half)
{
    double dim = 2.0 * (double)half, theta = mr_attr_f(n, "theta"), orig = mr_attr_f(n, "orig");
    double lo = yarn_dim(mr_attr_f(n, "beta_fast"), dim, theta, orig);
    double hi = yarn_dim(mr_attr_f(n, "beta_slow"), dim, theta, orig);
    if (mr_attr_i(n, "truncate")) {
        lo = floor(lo);
        hi = -floor(-hi);
    }
    lo = lo > 0 ? lo : 0;
    hi = hi < dim - 1 ? hi : dim - 1;
    if (lo == hi)
        hi += 0.001;
    float factor = (float)mr_attr_f(n, "factor");
    for (int64_t i = 0; i < half; i++) {
        float ramp = clamp01(((float)i - (float)lo) / (float)(hi - lo));
        float keep = 1.0f - ramp;
        float slow = 1.0f / (factor * powers[i]), fast = 1.0f / powers[i];
        float a = slow * (1.0f - keep), b = fast * keep;
        f[i] = a + b;
    }
}

void mr_rope_frequencies(const mr_node *n, float *freq)
{
    int64_t dim = mr_attr_i(n, "dim"), half = (dim + 1) / 2;
    const char *kind = mr_attr_s(n, "kind");
    double theta = (double)(float)mr_attr_f(n, "theta");
    for (int64_t i = 0; i < half; i++) {
        float e = (float)(2 * i) / (float)dim;
        freq[i] = (float)mr_pow(theta, (double)e);
    }
    if (!strcmp(kind, "yarn")) {
        yarn(n, freq, freq, half);
        return;
    }
    for (int64_t i = 0; i < half; i++)
        freq[i] = 1.0f / freq[i];
    if (!strcmp(kind, "linear") || !strcmp(kind, "proportional"))
        for (int64_t i = 0; i < half; i++)
            freq[i] = freq[i] / (float)mr_attr_f(n, "factor");
    if (!strcmp(kind, "proportional"))
        for (int64_t i = mr_attr_i(n, "angles"); i < half; i++)
            freq[i] = 0;
    if (!strcmp(kind, "llama3"))
        llama3(n, freq, half);
}

typedef struct table {
    const mr_cpu_step *prep;
    mr_view y;
    const int32_t *pos;
    const float *factors;
} table;

static void run_table(const void *ctx, int64_t first, int64_t last, int worker)
{
    (void)worker;
    const table *t = ctx;
    int64_t half = t->prep->table.half;
    for (int64_t r = first; r < last; r++) {
        float *y = t->y.p + r * t->y.row, at = (float)t->pos[r];
        for (int64_t i = 0; i < half; i++) {
            float f = t->prep->table.freq[i];
            if (t->factors)
                f = f / t->factors[i];
            double s, c;
            mr_sincos((double)(at * f), &s, &c);
            y[i] = (float)c * t->prep->table.mscale;
            y[half + i] = (float)s * t->prep->table.mscale;
        }
    }
}

mr_err mr_run_rope_table(const mr_cpu_call *c)
{
    table t = {c->prep, mr_cpu_out(c, 0), mr_cpu_ints(c, 0), mr_cpu_vector(c, 1)};
    mr_cpu_split(c->cpu, t.y.rows, t.y.dim * 50, run_table, &t);
    return MR_OK;
}

/* ---- rotation ---- */

/* One head of one row: rotates dim values from start on, copies the others. */
static void rotate(const mr_cpu_call *c, float *y, const float *x, int64_t n, const float *tab,
                   int64_t dim)
{
    int64_t start = c->prep->rope.start, end = start + dim;
    memcpy(y, x, (size_t)start * sizeof *y);
    c->cpu->vec->rope(y + start, x + start, tab, dim, c->prep->rope.interleaved);
    memcpy(y + end, x + end, (size_t)(n - end) * sizeof *y);
}

typedef struct turned {
    const mr_cpu_call *c;
    mr_view y, x, table;
} turned;

static void run_rope(const void *ctx, int64_t first, int64_t last, int worker)
{
    (void)worker;
    const turned *s = ctx;
    for (int64_t i = first; i < last; i++) {
        int64_t r = i / s->y.heads, h = i % s->y.heads;
        rotate(s->c, s->y.p + r * s->y.row + h * s->y.head, s->x.p + r * s->x.row + h * s->x.head,
               s->x.dim, s->table.p + r * s->table.row, s->table.dim);
    }
}

mr_err mr_run_rope(const mr_cpu_call *c)
{
    turned s = {c, mr_cpu_out(c, 0), mr_cpu_in(c, 0), mr_cpu_in(c, 1)};
    mr_cpu_split(c->cpu, s.y.rows * s.y.heads, s.y.dim * 2, run_rope, &s);
    return MR_OK;
}

/* ---- append ---- */

/* A unit of work is the rows of one session within one panel of keys, of one head: panels are
 * written whole or row by row, and never by two threads at once. */
enum { APPEND_ROWS = 32 };

typedef struct appended {
    const mr_cpu_call *c;
    mr_view k, v, table; /* p NULL: none */
    const int32_t *pos;
    int cache;
} appended;

size_t mr_append_scratch(int64_t dk)
{
    return (APPEND_ROWS * (size_t)dk * sizeof(float) + 63) / 64 * 64;
}

/* Rows r .. r+n-1 of one head, all of one panel. */
static void append_rows(const appended *s, int64_t r, int n, int64_t h, float *turned_rows)
{
    const float *k = s->k.p + r * s->k.row + h * s->k.head;
    int64_t ldk = s->k.row;
    if (s->table.p) {
        for (int i = 0; i < n; i++)
            rotate(s->c, turned_rows + i * s->k.dim, k + i * ldk, s->k.dim,
                   s->table.p + (r + i) * s->table.row, s->table.dim);
        k = turned_rows;
        ldk = s->k.dim;
    }
    const mr_kv *kv = s->c->run->kv[s->c->run->slot[r]];
    const mr_kv_cache *c = &kv->cache[s->cache];
    const mr_attention_kernels *kernels = s->c->cpu->attention;
    int64_t line = 32 * (kv->bf16 ? 2 : 4), at = s->pos[r] % MR_TILE;
    char *head = (char *)mr_kv_block(c, s->pos[r] / MR_TILE) + (size_t)h * c->head_bytes;
    kernels->keys(head + at / 32 * c->dk * line, kv->bf16, (int)(at % 32), n, k, ldk, c->dk);
    head += (int64_t)c->dk * MR_TILE / 32 * line + at * line;
    for (int64_t i = 0; s->v.p && i < n; i++)
        kernels->values(head + i * line, kv->bf16, s->v.p + (r + i) * s->v.row + h * s->v.head,
                        c->dv);
}

/* Whether row r is the first of its session's rows in its panel. */
static bool starts_unit(const appended *s, int64_t r)
{
    const int32_t *slot = s->c->run->slot;
    return r == 0 || slot[r] != slot[r - 1] || s->pos[r] % APPEND_ROWS == 0;
}

/* Item i is row i of head 0, then of head 1 ..: whoever has a unit's first row writes all of it. */
static void run_append(const void *ctx, int64_t first, int64_t last, int worker)
{
    const appended *s = ctx;
    float *own = (float *)(s->c->scratch + (size_t)worker * mr_append_scratch(s->k.dim));
    int64_t rows = s->k.rows;
    for (int64_t i = first; i < last; i++) {
        int64_t r = i % rows, n = 1;
        if (!starts_unit(s, r))
            continue;
        while (r + n < rows && !starts_unit(s, r + n))
            n++;
        append_rows(s, r, (int)n, i / rows, own);
    }
}

mr_err mr_run_append(const mr_cpu_call *c)
{
    bool turn = c->prep->op == MR_OP_ROPE_APPEND;
    appended s = {.c = c,
                  .k = mr_cpu_in(c, 1),
                  .cache = c->step->in[0].index,
                  .pos = mr_cpu_ints(c, turn ? 4 : 3)};
    if (c->step->in[2].where != MR_AT_NONE)
        s.v = mr_cpu_in(c, 2);
    if (turn)
        s.table = mr_cpu_in(c, 3);
    mr_cpu_split(c->cpu, s.k.rows * s.k.heads, (s.k.dim + s.v.dim) * 4, run_append, &s);
    return MR_OK;
}
