/* Attention in `native` by tiles of AMX: bf16 queries and weights meet keys and values as pairs.
 *
 * How:    as attention_lanes.h does it for many groups of pairs: panels of keys and of values are made pairs
 *         once, and groups of up to 32 pairs meet them by tile products, 16 by 32 by 16 each.  Up to 16
 *         pairs, of which memory is the bound, take panels as they lie, without one in between.
 * Bits:   a score is one chain of tile products along d, a value one along the band's positions, of 32 each,
 *         for any number of rows.  A weight that its pair does not see is 0: times a value that is finite it
 *         adds nothing, and where one is not pairs take the values one by one, without those they do not
 *         see.
 */
#include <limits.h>

#include "backend/cpu/lanes_avx512.h"
#undef LANES_FN
#define LANES_FN(name) name##_amx

#include "backend/cpu/attention_form_lanes.h"
#include "backend/cpu/tiles_amx.h"

enum { TILE_ROWS = 16, DEPTH = 32 }; /* rows and depth of a tile product */
enum { GROUP_PAIRS = 2 * TILE_ROWS, WHOLE_BANDS = 1 };

/* As many pairs each, but for the last: so shapes of tiles seldom change, and none has few rows where others
 * have many. */
static int group_start(int n, int g, int groups)
{
    const int start = g * ((n + groups - 1) / groups);
    return start < n ? start : n;
}

static int products_of(int64_t dk)
{
    return (int)(dk + DEPTH - 1) / DEPTH;
}

/* Zeros fill up an odd number of tiles: see MR_ATT_ROW. */
static int64_t query_lines(int64_t dk, bool dots)
{
    (void)dots;
    return (products_of(dk) | 1) * (DEPTH / 2);
}

#include "backend/cpu/attention_bands_lanes.h"

/* ---- products ---- */

/* Tiles 0 to 3 are sums.  Of up to 16 rows: they, in 4, by 16 columns each, which are in 5 to 7; of more: rows 0 to
 * 15 and the others, in 4 and 5, by 16 columns and 16, in 6 and 7.  *shape: how many rows they are configured
 * for, 0 if not at all. */
static void configure(int rows, int *shape)
{
    tile_config c = {.palette = 1};
    const int upper = rows < TILE_ROWS ? rows : TILE_ROWS, lower = rows - upper;
    if (*shape == rows)
        return;
    *shape = rows;
    for (int t = 0; t < 8; t++) {
        const bool columns = t > (lower ? 5 : 4), low = lower && (t == 2 || t == 3 || t == 5);
        TILE_SHAPE(c, t, columns ? DEPTH / 2 : low ? lower : upper, 64);
    }
    tile_configure(&c);
}

/* Bytes of 32 pairs; of a tile product's lines of them, and of what those are made of. */
enum { LINE = 32 * sizeof(float), BLOCK = DEPTH / 2 * LINE, STORED = DEPTH * 64 };

/* y = x w, `depth` tile products of 32: x has rows of pairs, w lines of 32 pairs.  Rows of x and of y lie so many
 * bytes apart. */
typedef struct product {
    const char *x, *w;
    char *y;
    size_t x_row, y_row;
    int rows, depth;
} product;

static void many_rows(const product *p)
{
    const size_t x_row = p->x_row, y_row = p->y_row, line = LINE;
    const char *x = p->x, *w = p->w;
    TILE_ZERO(0);
    TILE_ZERO(1);
    TILE_ZERO(2);
    TILE_ZERO(3);
    for (int i = 0; i < p->depth; i++, x += 2 * DEPTH, w += BLOCK) {
        TILE_LOAD(4, x, x_row);
        TILE_LOAD(6, w, line);
        TILE_DOTS(bf16ps, 0, 4, 6);
        TILE_LOAD(7, w + 64, line);
        TILE_DOTS(bf16ps, 1, 4, 7);
        TILE_LOAD(5, x + TILE_ROWS * x_row, x_row);
        TILE_DOTS(bf16ps, 2, 5, 6);
        TILE_DOTS(bf16ps, 3, 5, 7);
    }
    char *low = p->y + TILE_ROWS * y_row;
    TILE_STORE(0, p->y, y_row);
    TILE_STORE(1, p->y + 64, y_row);
    TILE_STORE(2, low, y_row);
    TILE_STORE(3, low + 64, y_row);
}

static void few_rows(const product *p)
{
    const size_t x_row = p->x_row, y_row = p->y_row, line = LINE;
    const char *x = p->x, *w = p->w;
    TILE_ZERO(0);
    TILE_ZERO(1);
    for (int i = 0; i < p->depth; i++, x += 2 * DEPTH, w += BLOCK) {
        TILE_LOAD(4, x, x_row);
        TILE_LOAD(5, w, line);
        TILE_DOTS(bf16ps, 0, 4, 5);
        TILE_LOAD(6, w + 64, line);
        TILE_DOTS(bf16ps, 1, 4, 6);
    }
    TILE_STORE(0, p->y, y_row);
    TILE_STORE(1, p->y + 64, y_row);
}

static void multiply(const product *p, int *shape)
{
    configure(p->rows, shape);
    if (p->rows > TILE_ROWS)
        many_rows(p);
    else
        few_rows(p);
}

/* ---- stored lines ---- */

/* Two of them as pairs, or one and zeros, or zeros. */
LANES_INLINE void put_pairs(float *y, const char *x, int64_t lines)
{
    v16f low = v16f_zero(), high = low;
    if (lines > 0) {
        low = load_half(x, 0, 0, true, true, lines > 1);
        high = load_half(x, 0, 1, true, true, lines > 1);
    }
    v16f_store(y, low);
    v16f_store(y + 16, high);
}

/* A tile product's, of which there may be fewer; the lines at the same place in what is read next are asked for,
 * so that they come meanwhile. */
LANES_INLINE void put_block(float *y, const char *x, int64_t lines, const char *next)
{
    for (int i = 0; i < DEPTH; i += 2) {
        __builtin_prefetch(next + 64 * i, 0, 2);
        __builtin_prefetch(next + 64 * i + 64, 0, 2);
        put_pairs(y + 16 * i, x + 64 * i, lines - i);
    }
}

/* Stored lines of a panel, or of two one behind the other: `depth` tile products of them in stretches of
 * `stretch`; of the last one fewer lines, if they are fewer. */
typedef struct stored {
    const char *const *at;
    size_t panel; /* bytes to the second one */
    int64_t lines;
    int panels, stretch;
} stored;

static const char *block_at(const stored *s, int i)
{
    return s->at[i / s->stretch] + i % s->stretch * STORED;
}

static void put_blocks(float *y, const stored *s, int i, const stored *next)
{
    const char *then = block_at(next, i);
    for (int j = 0; j < s->panels; j++) {
        const char *x = block_at(s, i) + j * s->panel;
        if (s->lines >= (i + 1) * DEPTH)
            put_block(y, x, DEPTH, then);
        else
            put_block(y, x, s->lines - i * DEPTH, then);
        y += BLOCK / sizeof *y;
        then += next->panel;
    }
}

/* Up to 16 rows with panels as they lie: the lines of a product become pairs beside the product before. */
static void multiply_stored(const product *p, const stored *s, const stored *next, int *shape)
{
    float blocks[2][2 * BLOCK / sizeof(float)] __attribute__((aligned(64)));
    const size_t x_row = p->x_row, y_row = p->y_row, line = LINE;
    const char *x = p->x;
    const bool two = s->panels > 1;
    configure(p->rows, shape);
    TILE_ZERO(0);
    TILE_ZERO(1);
    TILE_ZERO(2);
    TILE_ZERO(3);
    put_blocks(blocks[0], s, 0, next);
    for (int i = 0; i < p->depth; i++, x += 2 * DEPTH) {
        const char *w = (const char *)blocks[i % 2];
        if (i + 1 < p->depth)
            put_blocks(blocks[(i + 1) % 2], s, i + 1, next);
        TILE_LOAD(4, x, x_row);
        TILE_LOAD(5, w, line);
        TILE_DOTS(bf16ps, 0, 4, 5);
        TILE_LOAD(6, w + 64, line);
        TILE_DOTS(bf16ps, 1, 4, 6);
        if (two) {
            TILE_LOAD(7, w + BLOCK, line);
            TILE_DOTS(bf16ps, 2, 4, 7);
            TILE_LOAD(5, w + BLOCK + 64, line);
            TILE_DOTS(bf16ps, 3, 4, 5);
        }
    }
    TILE_STORE(0, p->y, y_row);
    TILE_STORE(1, p->y + 64, y_row);
    if (two) {
        TILE_STORE(2, p->y + 128, y_row);
        TILE_STORE(3, p->y + 192, y_row);
    }
}

/* Whether pairs are so few that panels meet them as they lie. */
static bool few_pairs(const task *t)
{
    return t->a->n <= TILE_ROWS;
}

/* ---- scores ---- */

/* The queries of group g, times scale. */
static const float *queries(task *t, int g)
{
    const v16f scale = v16f_set1(t->a->scale);
    for (; t->packed <= g; t->packed++)
        for (int p = t->first[t->packed]; p < t->first[t->packed + 1]; p++) {
            const float *x = query(t->a, p);
            for (int d = 0; d < DEPTH * products_of(t->a->dk); d += 16)
                put_halves(t->q + p * t->lines, d, v16f_mul(v16f_loadn(x + d, t->a->dk - d), scale),
                           true);
        }
    return t->q + t->first[g] * t->lines;
}

/* Of group g, with the panel at hand, i. */
static product scores_product(task *t, const piece *w, int g, int64_t i)
{
    return (product){.x = (const char *)queries(t, g),
                     .w = (const char *)t->k_panel,
                     .y = (char *)scores_of(t, w, g, i),
                     .x_row = (size_t)t->lines * sizeof(float),
                     .y_row = MR_ATT_ROW * sizeof(float),
                     .rows = t->first[g + 1] - t->first[g],
                     .depth = products_of(t->a->dk)};
}

static void few_scores(task *t, const piece *w, int64_t i, int64_t end, const char *after)
{
    const int64_t dk = t->a->dk;
    int shape = 0;
    for (int n; i < end; i += n) {
        n = i % 2 == 0 && i + 1 < end ? 2 : 1;
        const char *at = key_panel(t->a, i).at[0],
                   *then = i + n < end ? key_panel(t->a, i + n).at[0] : after;
        const stored here = {&at, 64 * (size_t)dk, dk, n, INT_MAX},
                     next = {&then, 64 * (size_t)dk, dk, n, INT_MAX};
        const product p = scores_product(t, w, w->g0, i);
        multiply_stored(&p, &here, &next, &shape);
    }
}

static void many_scores(task *t, const piece *w, int64_t i, int64_t end, const char *after)
{
    const int64_t dk = t->a->dk;
    int shape = 0;
    for (; i < end; i++) {
        const char *at = key_panel(t->a, i).at[0],
                   *then = i + 1 < end ? key_panel(t->a, i + 1).at[0] : after;
        const stored here = {&at, 0, dk, 1, INT_MAX}, next = {&then, 0, dk, 1, INT_MAX};
        for (int j = 0; j < products_of(dk); j++)
            put_blocks(t->k_panel + j * (int)(BLOCK / sizeof(float)), &here, j, &next);
        for (int g = w->g0; g < w->g1; g++)
            if (sees(t, g, i, 1)) {
                const product p = scores_product(t, w, g, i);
                multiply(&p, &shape);
            }
    }
}

/* Of those panels i .. end-1 that pairs see; likely: the column of values that is read next, below 0
 * if it is more keys. */
static void some_scores(task *t, const piece *w, int64_t i, int64_t end, int likely)
{
    const mr_attend *a = t->a;
    i = i > w->i0 ? i : w->i0;
    end = end < w->i1 ? end : w->i1;
    const upcoming after =
        likely < 0 ? key_panel(a, end < w->i1 ? end : end - 1) : value_panel(a, w->t0, likely);
    if (few_pairs(t))
        few_scores(t, w, i, end, after.at[0]);
    else
        many_scores(t, w, i, end, after.at[0]);
    tile_release();
}

/* ---- values ---- */

/* What a band's values meet: tiles t0 .. t1-1 of the cache, `depth` tile products. */
typedef struct band {
    int from, depth; /* the first position's pair */
    bool seen;       /* all of them, by all pairs */
} band;

static band band_of(const task *t, const piece *w)
{
    return (band){(int)(w->t0 * MR_TILE - w->base) / 2, (int)(w->t1 - w->t0) * MR_TILE / DEPTH,
                  t->lo[w->p1 - 1] <= w->t0 * MR_TILE && t->hi[w->p0] >= w->t1 * MR_TILE};
}

static bool all_finite(const float *pairs, int64_t words)
{
    const __m512i exponent = _mm512_set1_epi16(0x7f80);
    __mmask32 none = 0;
    for (int64_t i = 0; i < words; i += 16)
        none |= _mm512_cmpeq_epi16_mask(_mm512_and_si512(_mm512_loadu_si512(pairs + i), exponent),
                                        exponent);
    return !none;
}

/* Weights of `rows` pairs from p on with the panel at hand. */
static product values_product(const task *t, const band *b, int p, int rows, float *y, int64_t ldy)
{
    return (product){.x = (const char *)(t->part.s + p * MR_ATT_ROW + b->from),
                     .w = (const char *)(t->v_panel + 32 * b->from),
                     .y = (char *)y,
                     .x_row = MR_ATT_ROW * sizeof(float),
                     .y_row = (size_t)ldy * sizeof(float),
                     .rows = rows,
                     .depth = b->depth};
}

/* Of one pair, which meets nothing that it does not see. */
static void values_alone(task *t, const piece *w, const band *b, int p, int *shape, float *y)
{
    float own[MR_ATT_BAND / 2 * 32] __attribute__((aligned(64)));
    product one = values_product(t, b, p, 1, y, 0);
    for (int j = b->from; j < b->from + b->depth * (DEPTH / 2); j++) {
        const int64_t at = w->base + 2 * j;
        const v16i in = v16i_set1((at >= t->lo[p] && at < t->hi[p] ? 0xffff : 0) |
                                  (at + 1 >= t->lo[p] && at + 1 < t->hi[p] ? ~0xffff : 0));
        for (int i = 32 * j; i < 32 * (j + 1); i += 16)
            v16f_store(own + i, v16f_bits(v16i_and(v16i_bits(v16f_load(t->v_panel + i)), in)));
    }
    one.w = (const char *)(own + 32 * b->from);
    multiply(&one, shape);
}

/* t->y, `n` columns of a group from d on, joins what there is.  Products with nothing but zeros, which follow in
 * a band's chain, make 0 of -0. */
static void join_values(task *t, const piece *w, int g, int64_t d, int n)
{
    const int rows = t->first[g + 1] - t->first[g];
    for (int i = 0; w->t1 * MR_TILE < w->base + MR_ATT_BAND && i < rows * n; i += 16)
        v16f_store(t->y + i, v16f_add(v16f_load(t->y + i), v16f_zero()));
    join_group(t, w, g, d, d + n, n);
}

/* Columns d .. d+31 of a band as pairs. */
static void fetch_values(task *t, const piece *w, int64_t d, const upcoming *after)
{
    const mr_attend *a = t->a;
    const upcoming here = value_panels(a, w, d);
    float *y = t->v_panel + (w->t0 * MR_TILE - w->base) / 2 * 32;
    for (int i = 0; i < here.n; i++, y += MR_TILE / 2 * 32) {
        if (!a->cache->dv) {
            values_of_keys(y, stored_keys(a, w->t0 + i), true, true, a->dk, a->dv, d);
            continue;
        }
        const stored x = {&here.at[i], 0, MR_TILE, 1, 2},
                     next = {&after->at[i < after->n ? i : 0], 0, MR_TILE, 1, 2};
        for (int j = 0; j < MR_TILE / DEPTH; j++)
            put_blocks(y + j * (int)(BLOCK / sizeof(float)), &x, j, &next);
    }
}

static void many_values(task *t, const piece *w, const band *b, int64_t d, const upcoming *after)
{
    int shape = 0;
    fetch_values(t, w, d, after);
    const bool clean =
        b->seen || all_finite(t->v_panel + 32 * b->from, (int64_t)b->depth * (DEPTH / 2) * 32);
    for (int g = w->g0; g < w->g1; g++) {
        const int p = t->first[g], rows = t->first[g + 1] - p;
        const product all = values_product(t, b, p, rows, t->y, MR_ATT_PANEL);
        ask_total(t, g, d);
        if (clean)
            multiply(&all, &shape);
        for (int r = 0; !clean && r < rows; r++)
            values_alone(t, w, b, p + r, &shape, t->y + r * MR_ATT_PANEL);
        join_values(t, w, g, d, MR_ATT_PANEL);
    }
}

/* Columns of two panels, or of one; false, and nothing is done, if a pair might meet what it does not see. */
static bool few_values(task *t, const piece *w, const band *b, int64_t d, int n,
                       const upcoming *after)
{
    const upcoming at = value_panels(t->a, w, d);
    const size_t panel = 64 * MR_TILE;
    const int64_t lines = (int64_t)at.n * MR_TILE;
    int shape = 0;
    for (int i = 0; !b->seen && i < at.n; i++)
        if (!all_finite((const float *)(const void *)at.at[i], 16 * (int64_t)n * MR_TILE))
            return false;
    const char *then[MR_ATT_BAND / MR_TILE];
    for (int i = 0; i < at.n; i++)
        then[i] = after->at[i < after->n ? i : 0];
    const stored here = {at.at, panel, lines, n, 2}, next = {then, panel, lines, n, 2};
    const product p =
        values_product(t, b, t->first[w->g0], t->first[w->g0 + 1] - t->first[w->g0], t->y, 32 * n);
    multiply_stored(&p, &here, &next, &shape);
    join_values(t, w, w->g0, d, 32 * n);
    return true;
}

/* Columns d .. end-1.  after: what is read next. */
static void some_values(task *t, const piece *w, int64_t d, int64_t end, const upcoming *after)
{
    const band b = band_of(t, w);
    for (int n; d < end; d += n) {
        n = few_pairs(t) && d + MR_ATT_PANEL < end ? 2 * MR_ATT_PANEL : MR_ATT_PANEL;
        const upcoming next = d + n < end ? value_panels(t->a, w, d + n) : *after;
        if (few_pairs(t) && t->a->cache->dv && few_values(t, w, &b, d, n / MR_ATT_PANEL, &next))
            continue;
        n = MR_ATT_PANEL;
        many_values(t, w, &b, d, &next);
    }
    tile_release();
}

#include "backend/cpu/attention_tasks_lanes.h"
