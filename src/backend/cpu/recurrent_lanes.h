/* Recurrent kernels over 16 lanes: template of recurrent_*.c (see recurrent.h, lanes.h).
 *
 * Lanes run along channels and value columns.  The delta rule needs the state twice per row: for what
 * it says of the key, then to change it and to read it with the query.  The second walk of a row is also
 * the first of the next. */
#include <math.h>

#include "backend/cpu/recurrent.h"

enum { GROUP = LANES_TILE_COLS }; /* vectors of columns that go along the keys side by side */

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

/* The next row's inputs are far apart in memory: they are asked for a row ahead. */
LANES_INLINE void fetch_row(const mr_delta *d, int64_t t, int64_t at, int count)
{
    for (int64_t i = 0; i < d->dk; i += 16) {
        __builtin_prefetch(d->q + t * d->q_row + i);
        __builtin_prefetch(d->k + t * d->k_row + i);
    }
    for (int j = 0; j < count; j++)
        __builtin_prefetch(d->v + t * d->v_row + at + 16 * j);
}

/* What the state says of the first row's key: u = sum of (S g) k. */
LANES_INLINE void first_look(const mr_delta *d, int64_t at, const int count, v16f *u)
{
    v16f g = v16f_set1(d->decay[0]);
    for (int64_t i = 0; d->from && i < d->dk; i++) {
        v16f key = v16f_set1(d->k[i]);
        LANES_UNROLL
        for (int j = 0; j < count; j++)
            u[j] =
                v16f_fma(v16f_mul(v16f_load(d->from + i * d->width + at + 16 * j), g), key, u[j]);
    }
}

/* One walk for row t: changes the state, reads it with the query, decays it for the next row and looks
 * at it with that row's key.  The first row finds it undecayed, the last leaves it so (times 1). */
LANES_INLINE void walk(const mr_delta *d, int64_t t, int64_t at, const int count, const bool first,
                       const v16f *u, v16f *y, v16f *seen)
{
    bool more = t + 1 < d->rows;
    const float *q = d->q + t * d->q_row, *k = d->k + t * d->k_row, *next = more ? k + d->k_row : k;
    v16f g = v16f_set1(d->decay[0]);
    v16f decay = v16f_set1(more ? d->decay[(t + 1) * d->decay_row] : 1.0f);
    for (int64_t i = 0; i < d->dk; i++) {
        v16f key = v16f_set1(k[i]), query = v16f_set1(q[i]), later = v16f_set1(next[i]);
        float *to = d->to + i * d->width + at;
        const float *from = first ? d->from + i * d->width + at : to;
        LANES_UNROLL
        for (int j = 0; j < count; j++) {
            v16f old = v16f_load(from + 16 * j);
            v16f now = v16f_fma(key, u[j], first ? v16f_mul(old, g) : old);
            y[j] = v16f_fma(now, query, y[j]);
            now = v16f_mul(now, decay);
            v16f_store(to + 16 * j, now);
            seen[j] = v16f_fma(now, later, seen[j]);
        }
    }
}

/* `count` vectors of columns from column `at` on, all rows; count is a constant. */
LANES_INLINE void columns(const mr_delta *d, int64_t at, const int count)
{
    v16f seen[GROUP], u[GROUP], y[GROUP];
    LANES_UNROLL
    for (int j = 0; j < count; j++)
        seen[j] = v16f_zero();
    if (d->from)
        first_look(d, at, count, seen);
    else
        for (int64_t i = 0; i < d->dk; i++)
            for (int j = 0; j < count; j++)
                v16f_store(d->to + i * d->width + at + 16 * j, v16f_zero());
    for (int64_t t = 0; t < d->rows; t++) {
        v16f beta = v16f_set1(d->beta[t * d->beta_row]);
        if (t + 1 < d->rows)
            fetch_row(d, t + 1, at, count);
        LANES_UNROLL
        for (int j = 0; j < count; j++) {
            int64_t c = at + 16 * j;
            u[j] = v16f_mul(v16f_sub(load(d->v + t * d->v_row + c, d->n - c), seen[j]), beta);
            y[j] = seen[j] = v16f_zero();
        }
        if (t == 0 && d->from)
            walk(d, t, at, count, true, u, y, seen);
        else
            walk(d, t, at, count, false, u, y, seen);
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

const mr_recurrent_kernels LANES_FN(mr_recurrent) = {conv1d, delta_rule};
