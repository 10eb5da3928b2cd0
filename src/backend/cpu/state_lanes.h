/* Recurrent kernels over 16 lanes: template of state_*.c (see state.h, lanes.h).
 *
 * Lanes run along channels and value columns.  The delta rule reads a tile twice per row: once for
 * what the state says of the key, once to change it and to read it with the query.  The decayed
 * state is computed in both walks instead of being stored in between. */
#include <math.h>

#include "backend/cpu/state.h"

/* Vectors of columns that go along the keys side by side: enough to hide a chain's latency. */
enum { GROUP = LANES_TILE_COLS > 2 ? 4 : 2 };

LANES_INLINE v16f load(const float *p, int64_t n)
{
    return n >= 16 ? v16f_load(p) : v16f_loadn(p, (int)n);
}

LANES_INLINE void store(float *p, v16f a, int64_t n)
{
    if (n >= 16)
        v16f_store(p, a);
    else
        v16f_storen(p, a, (int)n);
}

/* Input row t of the convolution, also before the first; channels [i, i+16). */
LANES_INLINE v16f input(const mr_conv *c, int64_t t, int64_t i)
{
    if (t >= 0)
        return load(c->x + t * c->x_row + i, c->channels - i);
    return c->from ? v16f_load(c->from + (c->width - 1 + t) * c->ld + i) : v16f_zero();
}

static void conv1d(const mr_conv *c, int64_t first, int64_t last)
{
    int64_t past = c->width - 1;
    for (int64_t t = 0; t < c->rows; t++)
        for (int64_t i = first; i < last; i += 16) {
            v16f y = v16f_zero();
            for (int64_t j = 0; j <= past; j++)
                y = v16f_fma(v16f_load(c->w + j * c->ld + i), input(c, t - past + j, i), y);
            store(c->y + t * c->y_row + i, y, c->channels - i);
        }
    for (int64_t j = 0; j < past; j++) /* what is read lies behind what has been written */
        for (int64_t i = first; i < last; i += 16)
            v16f_store(c->to + j * c->ld + i, input(c, c->rows - past + j, i));
}

/* `count` vectors of columns from column `at` on, all rows; count is a constant. */
LANES_INLINE void columns(const mr_delta *d, int64_t at, const int count)
{
    for (int64_t t = 0; t < d->rows; t++) {
        const float *from = t ? d->to : d->from, *q = d->q + t * d->q_row, *k = d->k + t * d->k_row;
        v16f decay = v16f_set1(d->decay[t * d->decay_row]);
        v16f beta = v16f_set1(d->beta[t * d->beta_row]);
        v16f u[GROUP], y[GROUP];
        LANES_UNROLL
        for (int j = 0; j < count; j++)
            u[j] = y[j] = v16f_zero();
        for (int64_t i = 0; from && i < d->dk; i++) {
            v16f key = v16f_set1(k[i]);
            const float *s = from + i * d->width + at;
            LANES_UNROLL
            for (int j = 0; j < count; j++)
                u[j] = v16f_fma(v16f_mul(v16f_load(s + 16 * j), decay), key, u[j]);
        }
        LANES_UNROLL
        for (int j = 0; j < count; j++) {
            int64_t c = at + 16 * j;
            u[j] = v16f_mul(v16f_sub(load(d->v + t * d->v_row + c, d->n - c), u[j]), beta);
        }
        for (int64_t i = 0; i < d->dk; i++) {
            v16f key = v16f_set1(k[i]), query = v16f_set1(q[i]);
            const float *s = from ? from + i * d->width + at : NULL;
            float *to = d->to + i * d->width + at;
            LANES_UNROLL
            for (int j = 0; j < count; j++) {
                v16f old = s ? v16f_mul(v16f_load(s + 16 * j), decay) : v16f_zero();
                v16f now = v16f_fma(key, u[j], old);
                v16f_store(to + 16 * j, now);
                y[j] = v16f_fma(now, query, y[j]);
            }
        }
        LANES_UNROLL
        for (int j = 0; j < count; j++)
            store(d->y + t * d->y_row + at + 16 * j, y[j], d->n - at - 16 * j);
    }
}

static void delta_rule(const mr_delta *d)
{
    int64_t at = 0;
    for (; at + 16 * GROUP <= d->width; at += 16 * GROUP)
        columns(d, at, GROUP);
    for (; at < d->width; at += 16)
        columns(d, at, 1);
}

const mr_state_kernels LANES_FN(mr_state) = {conv1d, delta_rule};
