/* Recurrent layers: convolution, decay, delta rule.  Rows of one session go one by one, so the work is
 * spread over channels and over tiles of heads. */
#include "backend/cpu/cpu_backend.h"
#include "backend/cpu/recurrent.h"

#include <assert.h>
#include <math.h>

#include "base/real.h"

const mr_recurrent_kernels *mr_recurrent(mr_isa isa)
{
    switch (isa) {
#if defined(__x86_64__)
    case MR_ISA_AVX2:
        return &mr_recurrent_avx2;
    case MR_ISA_AVX512:
    case MR_ISA_AMX:
        return &mr_recurrent_avx512;
#elif defined(__aarch64__)
    case MR_ISA_NEON:
        return &mr_recurrent_neon;
#endif
    default:
        assert(isa == MR_ISA_C);
        return &mr_recurrent_c;
    }
}

/* Consecutive rows of one session, and the states they go from and to. */
typedef struct stretch {
    int64_t row, rows;
    const float *from; /* NULL: zeros */
    float *to;
} stretch;

size_t mr_recurrent_scratch(int64_t rows)
{
    return (size_t)rows * sizeof(stretch);
}

/* All of a run's, into the step's scratch; gives how many. */
static int64_t find_stretches(const mr_cpu_call *c, int cache, int64_t rows)
{
    const mr_run *run = c->run;
    stretch *s = (stretch *)c->scratch;
    int64_t n = 0;
    for (int64_t row = 0, end; row < rows; row = end) {
        for (end = row + 1; end < rows && run->slot[end] == run->slot[row];)
            end++;
        const mr_kv *kv = run->kv[run->slot[row]];
        float *const *state = kv->cache[cache].state;
        s[n] = (stretch){row, end - row, NULL, state[!kv->committed]};
        if (run->pos[row] > 0)
            s[n].from = kv->open ? s[n].to : state[kv->committed];
        n++;
    }
    return n;
}

/* ---- convolution ---- */

typedef struct convolved {
    const mr_cpu_call *c;
    mr_view x, y;
    int64_t width, vectors; /* of 16 channels */
} convolved;

static void run_channels(const void *ctx, int64_t first, int64_t last, int worker)
{
    (void)worker;
    const convolved *s = ctx;
    const mr_recurrent_kernels *kernels = mr_recurrent(s->c->cpu->base.opts.isa);
    for (int64_t i = first, end; i < last; i = end) { /* sessions, one after the other */
        const stretch *t = (const stretch *)s->c->scratch + i / s->vectors;
        int64_t from = i % s->vectors;
        end = last - i < s->vectors - from ? last : i + s->vectors - from;
        mr_conv conv = {.width = s->width,
                        .channels = s->x.dim,
                        .ld = 16 * s->vectors,
                        .w = mr_cpu_vector(s->c, 1),
                        .rows = t->rows,
                        .x = s->x.p + t->row * s->x.row,
                        .x_row = s->x.row,
                        .y = s->y.p + t->row * s->y.row,
                        .y_row = s->y.row,
                        .from = t->from,
                        .to = t->to};
        kernels->conv1d(&conv, 16 * from, 16 * (from + end - i));
    }
}

mr_err mr_run_conv1d(const mr_cpu_call *c)
{
    convolved s = {c, mr_cpu_in(c, 0), mr_cpu_out(c, 0), c->step->in[1].dim[1].n, 0};
    s.vectors = (s.x.dim + 15) / 16;
    int64_t n = find_stretches(c, c->step->in[2].index, s.x.rows);
    if (n)
        mr_cpu_split(c->cpu, n * s.vectors, 16 * s.width * s.x.rows / n, run_channels, &s);
    return MR_OK;
}

/* ---- decay ---- */

typedef struct decayed {
    mr_view x, y;
    const float *w, *b;
} decayed;

static void run_decay(const void *ctx, int64_t first, int64_t last, int worker)
{
    (void)worker;
    const decayed *s = ctx;
    for (int64_t r = first; r < last; r++)
        for (int64_t i = 0; i < s->x.dim; i++) {
            float z = s->x.p[r * s->x.row + i] + s->b[i];
            double soft = (z > 0 ? z : 0) + mr_log1p(mr_exp(-fabs((double)z)));
            s->y.p[r * s->y.row + i] = (float)mr_exp((double)s->w[i] * soft);
        }
}

mr_err mr_run_decay(const mr_cpu_call *c)
{
    decayed s = {mr_cpu_in(c, 0), mr_cpu_out(c, 0), mr_cpu_vector(c, 1), mr_cpu_vector(c, 2)};
    mr_cpu_split(c->cpu, s.x.rows, s.x.dim * 128, run_decay, &s);
    return MR_OK;
}

/* ---- delta rule ---- */

typedef struct ruled {
    const mr_cpu_call *c;
    mr_view q, k, v, decay, beta, y;
    int64_t dv16, tiles; /* of a head */
} ruled;

static void run_tiles(const void *ctx, int64_t first, int64_t last, int worker)
{
    (void)worker;
    const ruled *s = ctx;
    const mr_recurrent_kernels *kernels = mr_recurrent(s->c->cpu->base.opts.isa);
    int64_t group = s->v.heads / s->q.heads;
    for (int64_t i = first; i < last; i++) {
        const stretch *t = (const stretch *)s->c->scratch + i / s->tiles / s->v.heads;
        int64_t r = t->row, h = i / s->tiles % s->v.heads,
                column = i % s->tiles * MR_RECURRENT_TILE, kh = h / group;
        int64_t at = (h * s->dv16 + column) * s->q.dim, left = s->dv16 - column;
        mr_delta d = {.dk = s->q.dim,
                      .width = left < MR_RECURRENT_TILE ? left : MR_RECURRENT_TILE,
                      .n = s->v.dim - column,
                      .rows = t->rows,
                      .q = s->q.p + r * s->q.row + kh * s->q.head,
                      .q_row = s->q.row,
                      .k = s->k.p + r * s->k.row + kh * s->k.head,
                      .k_row = s->k.row,
                      .v = s->v.p + r * s->v.row + h * s->v.head + column,
                      .v_row = s->v.row,
                      .decay = s->decay.p + r * s->decay.row + h,
                      .decay_row = s->decay.row,
                      .beta = s->beta.p + r * s->beta.row + h,
                      .beta_row = s->beta.row,
                      .y = s->y.p + r * s->y.row + h * s->y.head + column,
                      .y_row = s->y.row,
                      .from = t->from ? t->from + at : NULL,
                      .to = t->to + at};
        kernels->delta_rule(&d);
    }
}

mr_err mr_run_delta_rule(const mr_cpu_call *c)
{
    ruled s = {.c = c,
               .q = mr_cpu_in(c, 0),
               .k = mr_cpu_in(c, 1),
               .v = mr_cpu_in(c, 2),
               .decay = mr_cpu_in(c, 3),
               .beta = mr_cpu_in(c, 4),
               .y = mr_cpu_out(c, 0)};
    s.dv16 = (s.v.dim + 15) / 16 * 16;
    s.tiles = (s.dv16 + MR_RECURRENT_TILE - 1) / MR_RECURRENT_TILE;
    int64_t cost = 6 * s.q.dim * (s.v.dim < MR_RECURRENT_TILE ? s.v.dim : MR_RECURRENT_TILE);
    int64_t n = find_stretches(c, c->step->in[5].index, s.v.rows);
    if (n)
        mr_cpu_split(c->cpu, n * s.v.heads * s.tiles, cost * s.v.rows / n, run_tiles, &s);
    return MR_OK;
}
