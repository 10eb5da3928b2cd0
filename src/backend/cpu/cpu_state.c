/* Recurrent layers: convolution, decay, delta rule.  Rows of one session go one by one, so the work is
 * spread over channels and over tiles of heads. */
#include "backend/cpu/cpu_backend.h"
#include "backend/cpu/state.h"

#include <assert.h>
#include <math.h>

#include "base/real.h"

const mr_state_kernels *mr_state(mr_isa isa)
{
    switch (isa) {
#if defined(__x86_64__)
    case MR_ISA_AVX2:
        return &mr_state_avx2;
    case MR_ISA_AVX512:
        return &mr_state_avx512;
#elif defined(__aarch64__)
    case MR_ISA_NEON:
        return &mr_state_neon;
#endif
    default:
        assert(isa == MR_ISA_C);
        return &mr_state_c;
    }
}

/* Consecutive rows of one session, and the states they go from and to. */
typedef struct stretch {
    int64_t row, rows;
    const float *from; /* NULL: zeros */
    float *to;
} stretch;

static stretch stretch_at(const mr_cpu_call *c, int cache, int64_t row, int64_t rows)
{
    const mr_run *run = c->run;
    int64_t end = row + 1;
    while (end < rows && run->slot[end] == run->slot[row])
        end++;
    const mr_kv *kv = run->kv[run->slot[row]];
    const mr_kv_cache *state = &kv->cache[cache];
    stretch s = {row, end - row, NULL, state->state[!kv->committed]};
    if (run->pos[row] > 0)
        s.from = kv->open ? s.to : state->state[kv->committed];
    return s;
}

/* ---- convolution ---- */

typedef struct convolved {
    const mr_cpu_call *c;
    mr_conv conv;
} convolved;

static void run_channels(const void *ctx, int64_t first, int64_t last, int worker)
{
    (void)worker;
    const convolved *s = ctx;
    mr_state(s->c->cpu->base.opts.isa)->conv1d(&s->conv, 16 * first, 16 * last);
}

mr_err mr_run_conv1d(const mr_cpu_call *c)
{
    mr_view x = mr_cpu_in(c, 0), y = mr_cpu_out(c, 0);
    int64_t width = c->step->in[1].dim[1].n, vectors = (x.dim + 15) / 16;
    for (int64_t row = 0; row < x.rows;) {
        stretch t = stretch_at(c, c->step->in[2].index, row, x.rows);
        convolved s = {c,
                       {.width = width,
                        .channels = x.dim,
                        .ld = 16 * vectors,
                        .w = mr_cpu_vector(c, 1),
                        .rows = t.rows,
                        .x = x.p + row * x.row,
                        .x_row = x.row,
                        .y = y.p + row * y.row,
                        .y_row = y.row,
                        .from = t.from,
                        .to = t.to}};
        mr_cpu_split(c->cpu, vectors, 16 * width * t.rows, run_channels, &s);
        row += t.rows;
    }
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
    stretch t;
    int64_t dv16, tiles; /* of a head */
} ruled;

static void run_tiles(const void *ctx, int64_t first, int64_t last, int worker)
{
    (void)worker;
    const ruled *s = ctx;
    const mr_state_kernels *kernels = mr_state(s->c->cpu->base.opts.isa);
    int64_t r = s->t.row, group = s->v.heads / s->q.heads;
    for (int64_t i = first; i < last; i++) {
        int64_t h = i / s->tiles, column = i % s->tiles * MR_STATE_TILE, kh = h / group;
        int64_t at = (h * s->dv16 + column) * s->q.dim, left = s->dv16 - column;
        mr_delta d = {.dk = s->q.dim,
                      .width = left < MR_STATE_TILE ? left : MR_STATE_TILE,
                      .n = s->v.dim - column,
                      .rows = s->t.rows,
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
                      .from = s->t.from ? s->t.from + at : NULL,
                      .to = s->t.to + at};
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
    s.tiles = (s.dv16 + MR_STATE_TILE - 1) / MR_STATE_TILE;
    int64_t cost = 6 * s.q.dim * (s.v.dim < MR_STATE_TILE ? s.v.dim : MR_STATE_TILE);
    for (int64_t row = 0; row < s.v.rows; row += s.t.rows) {
        s.t = stretch_at(c, c->step->in[5].index, row, s.v.rows);
        mr_cpu_split(c->cpu, s.v.heads * s.tiles, cost * s.t.rows, run_tiles, &s);
    }
    return MR_OK;
}
