/* Attention over 16 lanes: template of attention_*.c (see attention.h, lanes.h, docs/numerics.md).
 *
 * Scores are independent of each other, values too, column by column: threads may share a band by
 * panels.  Many groups of pairs share panels of keys and of values, widened once; each pair keeps its
 * own chains, so the bits are those of a pair alone. */
#include "backend/cpu/attention_form_lanes.h"
#include "backend/cpu/attention_tile_lanes.h"

/* Groups of about as many pairs each. */
enum { GROUP_PAIRS = TILE_ROWS, WHOLE_BANDS = 0 };

static int group_start(int n, int g, int groups)
{
    return n * g / groups;
}

#include "backend/cpu/attention_bands_lanes.h"

_Static_assert((int)GROUP_PAIRS <= (int)MR_ATT_UNIT,
               "behind the queries there is room for 15 lines more");

/* ---- panels ---- */

LANES_INLINE void widen_as(float *y, const void *x, int64_t lines, bool dots)
{
    for (int64_t i = 0; i < lines; i += 1 + dots, y += 32) {
        v16f_store(y, load_half(x, i, 0, true, dots, i + 1 < lines));
        v16f_store(y + 16, load_half(x, i, 1, true, dots, i + 1 < lines));
    }
}

/* Lines of bf16 as floats, or two by two as pairs. */
static void widen(float *y, const void *x, int64_t lines, bool dots)
{
#define CALL(dots) widen_as(y, x, lines, dots)
    WITH_DOTS(dots, CALL);
#undef CALL
}

/* ---- queries ---- */

LANES_INLINE void pack_group_as(task *t, bool dots)
{
    const mr_attend *a = t->a;
    const float *x[TILE_ROWS], *next[TILE_ROWS];
    int p0 = t->first[t->packed], rows = t->first[++t->packed] - p0;
    float words[TILE_ROWS * 16], *to = t->q + p0 * t->lines;
    v16f scale = v16f_set1(a->scale);
    for (int r = 0; r < rows; r++) {
        x[r] = query(a, p0 + r);
        next[r] = query(a, p0 + r + rows < a->n ? p0 + r + rows : p0 + r);
    }
    for (int64_t d = 0; d < a->dk; d += 16 << dots, to += 16 * rows) {
        for (int r = 0; r < rows; r++)
            for (int i = 0; i < 16 << dots; i += 16) {
                v16f q = v16f_mul(v16f_loadn(x[r] + d + i, (int)(a->dk - d - i)), scale);
                __builtin_prefetch(next[r] + d + i, 0, 2);
                put_halves(words + 16 * r, i, q, dots);
            }
        v16f_transpose(to, rows, words, 16, rows);
    }
}

/* The queries of the next group, times scale, interleaved: [lines][rows], up to 15 lines more.  Those
 * of the group after it are asked for meanwhile. */
static void pack_group(task *t)
{
#define CALL(dots) pack_group_as(t, dots)
    WITH_DOTS(t->a->dots, CALL);
#undef CALL
}

/* Of group g. */
static inline const float *queries(task *t, int g)
{
    while (t->packed <= g)
        pack_group(t);
    return t->q + t->first[g] * t->lines;
}

/* So few take what is read as it lies. */
static bool few_groups(const piece *w)
{
    return w->g1 - w->g0 <= FEW_GROUPS;
}

/* ---- scores ---- */

static void ask(const upcoming *u, const piece *w, int g)
{
    int part = g - w->g0, of = w->g1 - w->g0;
    int from = u->lines * part / of, to = u->lines * (part + 1) / of;
    for (int i = 0; i < u->n; i++)
        for (int l = from; l < to; l++)
            __builtin_prefetch(u->at[i] + 64 * l, 0, 2);
}

/* All of it at once, where nothing before it asked. */
static void ask_all(const upcoming *u)
{
    for (int i = 0; i < u->n; i++)
        for (int l = 0; l < u->lines; l++)
            __builtin_prefetch(u->at[i] + 64 * l, 0, 2);
}

/* Of panels i .. end-1 as they lie, the two of a tile at once.  after: what is read next. */
static void scores_in_place(task *t, const piece *w, int64_t i, int64_t end, const char *after)
{
    const mr_attend *a = t->a;
    upcoming start = key_panel(a, i);
    ask_all(&start);
    for (int64_t n; i < end; i += n) {
        n = i % 2 == 0 && i + 1 < end ? 2 : 1;
        const char *k = key_panel(a, i).at[0];
        const char *next = i + n < end ? key_panel(a, i + n).at[0] : after;
        for (int g = w->g0; g < w->g1; g++)
            if (sees(t, g, i, (int)n))
                tile_scores(t->first[g + 1] - t->first[g], (int)n, queries(t, g), k, a->bf16,
                            dots_of(a), a->dk, scores_of(t, w, g, i), g == w->g0 ? next : k);
    }
}

static void scores_widened(task *t, const piece *w, int64_t i, int64_t end)
{
    const mr_attend *a = t->a;
    for (; i < end; i++) {
        upcoming here = key_panel(a, i), next = {{NULL}, 0, 0};
        if (i + 1 < end)
            next = key_panel(a, i + 1);
        else if (a->cache->dv)
            next = value_panels(a, w, 0);
        const float *k = (const float *)(const void *)here.at[0];
        if (a->bf16) {
            widen(t->k_panel, here.at[0], a->dk, dots_of(a));
            k = t->k_panel;
        }
        for (int g = w->g0; g < w->g1; g++) {
            ask(&next, w, g);
            if (sees(t, g, i, 1))
                panel_scores(t->first[g + 1] - t->first[g], queries(t, g), k, dots_of(a), a->dk,
                             scores_of(t, w, g, i));
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
    upcoming after =
        likely < 0 ? key_panel(a, end < w->i1 ? end : end - 1) : value_panel(a, w->t0, likely);
    if (few_groups(w))
        scores_in_place(t, w, i, end, after.at[0]);
    else
        scores_widened(t, w, i, end);
}

/* ---- values ---- */

/* Rows p .. p+rows-1 of pairs see positions [from, to) together; with dots pairs of positions, of the
 * first one's only what bits `half` hold unless these are all. */
typedef struct run {
    int p, rows, from, to;
    int32_t half;
} run;

enum { WHOLE = -1, LOW = 0xffff, HIGH = ~0xffff, MOST_RUNS = 4 * TILE_ROWS };

static int add_run(run *r, int p, int rows, int from, int to)
{
    if (from >= to)
        return 0;
    *r = (run){p, rows, from, to, WHOLE};
    return 1;
}

/* With dots a range may begin or end between the two: one of them alone, of pair p. */
static int add_half(run *r, int p, int position, int32_t half)
{
    *r = (run){p, 1, position / 2, position / 2 + 1, half};
    return 1;
}

/* What all of n pairs from p on see together, before it what they see one after the other begins, and
 * behind it one after the other ends. */
static int whole_runs(int p, int n, const int *from, const int *to, run *r)
{
    int k = 0;
    if (from[n - 1] >= to[0]) {
        for (int i = 0; i < n; i++)
            k += add_run(r + k, p + i, 1, from[i], to[i]);
        return k;
    }
    for (int i = 1; i < n; i++)
        k += add_run(r + k, p, i, from[i - 1], from[i]);
    k += add_run(r + k, p, n, from[n - 1], to[0]);
    for (int i = 1; i < n; i++)
        k += add_run(r + k, p + i, n - i, to[i - 1], to[i]);
    return k;
}

/* The runs of group g over `width` positions from base on; each pair's ascend. */
static int runs_of(const task *t, int g, int64_t base, int width, run *r)
{
    int p = t->first[g], n = t->first[g + 1] - p, k = 0;
    int from[TILE_ROWS] = {0}, to[TILE_ROWS] = {0}, last[TILE_ROWS];
    const int32_t *lo = t->lo + p, *hi = t->hi + p;
    const bool dots = dots_of(t->a);
    if (lo[n - 1] <= base && hi[0] >= base + width)
        return add_run(r, p, n, 0, width >> dots);
    for (int i = 0; i < n; i++) {
        from[i] = clamp(lo[i] - base, width);
        to[i] = last[i] = clamp(hi[i] - base, width);
        if (dots && from[i] % 2 && from[i] < to[i])
            k += add_half(r + k, p + i, from[i], HIGH);
        if (dots && (to[i] % 2 == 0 || from[i] >= to[i]))
            last[i] = 0;
        from[i] = (from[i] + dots) >> dots;
        to[i] >>= dots;
    }
    k += whole_runs(p, n, from, to, r + k);
    for (int i = 0; dots && i < n; i++)
        if (last[i])
            k += add_half(r + k, p + i, last[i], LOW);
    return k;
}

/* Columns d .. d+31 of one group. */
static void group_values(task *t, const piece *w, int64_t d, int g)
{
    int p = t->first[g], n = t->first[g + 1] - p;
    run r[MOST_RUNS];
    int k = runs_of(t, g, w->base, MR_ATT_BAND, r);
    bool whole = k > 0 && r[0].rows == n && r[0].half == WHOLE, dots = dots_of(t->a);
    ask_total(t, g, d);
    panel_values(n, t->part.s + p * MR_ATT_ROW, whole ? r[0].from : 0, whole ? r[0].to : 0,
                 t->v_panel, dots, t->y, MR_ATT_PANEL, true);
    for (int i = whole; i < k; i++) {
        const float *s = t->part.s + r[i].p * MR_ATT_ROW;
        float *y = t->y + (r[i].p - p) * MR_ATT_PANEL;
        if (r[i].half == WHOLE)
            panel_values(r[i].rows, s, r[i].from, r[i].to, t->v_panel, dots, y, MR_ATT_PANEL,
                         false);
        else
            half_values(s, r[i].from, r[i].half, t->v_panel, false, y, MR_ATT_PANEL);
    }
    join_group(t, w, g, d, d + MR_ATT_PANEL, MR_ATT_PANEL);
}

/* Columns d .. d+31 of the values as floats or pairs, the band's positions one after the other. */
static void fetch_values(task *t, const piece *w, const upcoming *here, int64_t d)
{
    const mr_attend *a = t->a;
    const bool dots = dots_of(a);
    for (int i = 0; i < here->n; i++) {
        float *to = t->v_panel + (((w->t0 + i) * MR_TILE - w->base) >> dots) * 32;
        if (!a->cache->dv)
            values_of_keys(to, stored_keys(a, w->t0 + i), a->bf16, dots, a->dk, a->dv, d);
        else if (a->bf16)
            widen(to, here->at[i], MR_TILE, dots);
        else
            memcpy(to, here->at[i], MR_TILE * 32 * sizeof(float));
    }
}

static void values_widened(task *t, const piece *w, int64_t d, int64_t end, const upcoming *after)
{
    const mr_attend *a = t->a;
    for (; d < end; d += MR_ATT_PANEL) {
        upcoming here = value_panels(a, w, d), next = {{NULL}, 0, 0};
        if (d + MR_ATT_PANEL >= end)
            next = *after;
        else if (a->cache->dv)
            next = value_panels(a, w, d + MR_ATT_PANEL);
        fetch_values(t, w, &here, d);
        for (int g = w->g0; g < w->g1; g++) {
            ask(&next, w, g);
            group_values(t, w, d, g);
        }
    }
}

/* As they lie. */
static void values_in_place(task *t, const piece *w, int64_t d, int64_t end, const upcoming *after)
{
    const mr_attend *a = t->a;
    const bool dots = dots_of(a);
    int64_t ldy = end - d;
    for (int g = w->g0; g < w->g1; g++) {
        int p = t->first[g], n = t->first[g + 1] - p;
        memset(t->y, 0, (size_t)(n * ldy) * sizeof(float));
        for (int64_t i = w->t0; i < w->t1; i++) {
            run r[MOST_RUNS];
            int k = runs_of(t, g, i * MR_TILE, MR_TILE, r), first = (i * MR_TILE - w->base) >> dots;
            const char *v = value_panel(a, i, d).at[0];
            const char *next = i + 1 < w->t1 ? value_panel(a, i + 1, d).at[0] : after->at[0];
            const char *ahead = g == w->g0 ? next : v;
            for (int j = 0; j < k; j++) {
                const float *s = t->part.s + r[j].p * MR_ATT_ROW + first;
                float *y = t->y + (r[j].p - p) * ldy;
                if (r[j].half == WHOLE) {
                    tile_values(r[j].rows, s, r[j].from, r[j].to, v, a->bf16, dots, y, ldy, ahead);
                    ahead = v;
                } else {
                    half_values(s, r[j].from, r[j].half, v, true, y, ldy);
                }
            }
        }
        join_group(t, w, g, d, end, ldy);
    }
}

/* Columns d .. end-1.  after: what is read next. */
static void some_values(task *t, const piece *w, int64_t d, int64_t end, const upcoming *after)
{
    if (few_groups(w) && t->a->cache->dv)
        values_in_place(t, w, d, end, after);
    else
        values_widened(t, w, d, end, after);
}

#include "backend/cpu/attention_tasks_lanes.h"
