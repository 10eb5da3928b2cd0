/* Attention over 16 lanes: template of attention_*.c (see attention.h, lanes.h, docs/numerics.md).
 *
 * For each band of 256 positions:
 *   scores   S[pair][256] = q . K, q scaled beforehand and interleaved by groups of rows
 *   weights  cap, mask, m = the largest, p = e^(s - m), l = sum p
 *   values   y = P V, which joins the bands before
 * With dots q and p are rounded to bf16 before they meet K and V (docs/numerics.md, `native`).
 * Scores are independent of each other, values too, column by column: threads may share a band by
 * panels.  Many groups of pairs share panels of keys and of values, widened once; each pair keeps its
 * own chains, so the bits are those of a pair alone. */
#include "backend/cpu/attention_tile_lanes.h"
#include "backend/cpu/math_lanes.h"

#include <math.h>

/* What a thread works with; lies at the start of its scratch, the arrays after it. */
typedef struct task {
    const mr_attend *a;                         /* first: see mr_att_forget */
    int groups;                                 /* of at most TILE_ROWS pairs */
    int packed;                                 /* groups whose queries are there */
    int first[MR_ATT_PAIRS / TILE_ROWS + 2];    /* group g: pairs first[g] .. first[g + 1] - 1 */
    int32_t lo[MR_ATT_PAIRS], hi[MR_ATT_PAIRS]; /* of each pair */
    int64_t lines;                              /* of a group's queries: dk, with dots of pairs */
    float *q;                                   /* group g: [lines][rows], from its first pair on */
    float *k_panel;                             /* widened: [lines][32] */
    float *v_panel;                             /* widened or turned: [MR_ATT_BAND][32] */
    float *y;                                   /* [TILE_ROWS][mr_up32(dv)]: of a group and band */
    mr_att_part part;                           /* the thread's own, or the one at hand */
    mr_att_total total;                         /* likewise */
} task;

_Static_assert(sizeof(task) <= MR_ATT_TASK_BYTES, "scratch has room for the task");
_Static_assert((int)TILE_ROWS <= (int)MR_ATT_UNIT, "and behind the queries for 15 lines more");

/* Where the ISA has none this is known. */
static inline bool dots_of(const mr_attend *a)
{
    return LANES_DOT && a->dots;
}

static void ranges(const mr_attend *a, int32_t *lo, int32_t *hi)
{
    int64_t row = a->pair0 / a->group;
    int in_row = (int)(a->pair0 % a->group);
    for (int p = 0; p < a->n; p++) {
        lo[p] = a->range[row].lo;
        hi[p] = a->range[row].hi;
        if (++in_row == a->group) {
            in_row = 0;
            row++;
        }
    }
}

/* Elements i .. i+15 of x: floats, with dots rounded, as halves of the pairs from x on. */
LANES_INLINE void put_halves(float *x, int i, v16f e, bool dots)
{
    if (dots)
        v16f_store_bf16((uint16_t *)x + i, e);
    else
        v16f_store(x + i, e);
}

/* ---- queries ---- */

static const float *query(const mr_attend *a, int p)
{
    int64_t pair = a->pair0 + p;
    return a->q + pair / a->group * a->q_row +
           (a->kv_head * a->group + pair % a->group) * a->q_head;
}

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

/* The scratch is as it was left if it was left by the same `a`. */
static task *begin(const mr_attend *a, void *scratch)
{
    task *t = scratch;
    if (t->a == a)
        return t;
    int pairs = mr_att_pairs(a->dk, a->dv);
    t->a = a;
    t->packed = 0;
    t->lines = query_lines(a->dk, dots_of(a));
    t->groups = (a->n + TILE_ROWS - 1) / TILE_ROWS;
    t->k_panel = (float *)((char *)scratch + MR_ATT_TASK_BYTES);
    t->v_panel = t->k_panel + MR_ATT_PANEL * (int64_t)a->dk;
    t->y = t->v_panel + MR_ATT_PANEL * MR_ATT_BAND;
    t->q = t->y + 16 * mr_up32(a->dv);
    char *own = (char *)(t->q + pairs * (int64_t)a->dk + MR_ATT_SPARE);
    t->part = mr_att_part_at(own, pairs);
    t->total = mr_att_total_at(own + mr_att_part_bytes(pairs), pairs);
    ranges(a, t->lo, t->hi);
    for (int g = 0; g <= t->groups; g++)
        t->first[g] = t->groups ? a->n * g / t->groups : 0;
    return t;
}

/* ---- weights ---- */

static inline float softmax_base(float m)
{
    return m == -INFINITY ? 0.0f : m; /* nothing but -inf so far: e^(-inf - 0) = 0, not NaN */
}

/* The lanes of the vector at i that lie in [from, to). */
static inline v16m inside(int i, int from, int to)
{
    return v16m_and(v16m_first(to - i), v16m_not(v16m_first(from - i)));
}

/* The largest of the scores s of positions [from, to) of the band, which are capped first. */
static float largest(float *s, int from, int to, float softcap)
{
    v16f low = v16f_set1(-INFINITY), top = low, cap = v16f_set1(softcap);
    for (int i = from / 16 * 16; softcap > 0 && i < to; i += 16)
        v16f_store(s + i, v16f_softcap(v16f_load(s + i), cap));
    for (int i = from / 16 * 16; i < to; i += 16) {
        v16f x = v16f_load(s + i);
        top = v16f_max(i < from || i + 16 > to ? v16f_select(inside(i, from, to), x, low) : x, top);
    }
    return v16f_reduce_max(top);
}

/* `of` vectors of scores from position i on become weights, none above 1; their sum, added in order.
 * As halves they lie where scores were read before. */
LANES_INLINE v16f weights(float *s, int i, int of, v16f base, v16f sum, bool dots)
{
    v16f e[4];
    LANES_UNROLL for (int j = 0; j < of; j++) e[j] = v16f_sub(v16f_load(s + i + 16 * j), base);
    exp_each(e, of);
    LANES_UNROLL for (int j = 0; j < of; j++)
    {
        put_halves(s, i + 16 * j, e[j], dots);
        sum = v16f_add(sum, e[j]);
    }
    return sum;
}

/* The same of a vector's lanes `in`; the others become 0, without the exponential of -inf, as a
 * result that underflows takes some CPUs longer than all the rest. */
static inline v16f some_weights(float *s, int i, v16m in, v16f base, v16f sum, bool dots)
{
    v16f e = v16f_select(in, v16f_sub(v16f_load(s + i), base), v16f_zero());
    exp_each(&e, 1);
    e = v16f_select(in, e, v16f_zero());
    put_halves(s, i, e, dots);
    return v16f_add(sum, e);
}

/* Scores of positions [from, to) whose largest is m become weights; their sum. */
LANES_INLINE float softmax(float *s, int from, int to, float m, bool dots)
{
    v16f sum = v16f_zero(), base = v16f_set1(softmax_base(m));
    int i = from / 16 * 16, whole = to / 16 * 16;
    if (i < from && i < to) {
        sum = some_weights(s, i, inside(i, from, to), base, sum, dots);
        i += 16;
    }
    for (; i + 64 <= whole; i += 64)
        sum = weights(s, i, 4, base, sum, dots);
    if (whole - i == 48)
        sum = weights(s, i, 3, base, sum, dots);
    else if (whole - i == 32)
        sum = weights(s, i, 2, base, sum, dots);
    else if (whole - i == 16)
        sum = weights(s, i, 1, base, sum, dots);
    if (i <= whole && whole < to)
        sum = some_weights(s, whole, inside(whole, from, to), base, sum, dots);
    return v16f_reduce_add(sum);
}

/* What is worked on: the pairs that meet a band, their groups, and what they meet of it. */
typedef struct piece {
    int64_t base;       /* the band's first position */
    int64_t i0, i1;     /* panels i0 .. i1-1 of keys */
    int64_t t0, t1;     /* tiles t0 .. t1-1 */
    int p0, p1, g0, g1; /* pairs p0 .. p1-1 and their groups */
} piece;

static inline int clamp(int64_t x, int most)
{
    return x < 0 ? 0 : x > most ? most : (int)x;
}

/* False if no pair meets band `number`. */
static bool meet(const task *t, int64_t number, piece *w)
{
    *w = (piece){.base = number * MR_ATT_BAND, .p0 = t->a->n, .g1 = t->groups};
    int lo = MR_ATT_BAND, hi = 0;
    for (int p = 0; p < t->a->n; p++) {
        int f = clamp(t->lo[p] - w->base, MR_ATT_BAND), e = clamp(t->hi[p] - w->base, MR_ATT_BAND);
        if (f >= e)
            continue;
        w->p0 = p < w->p0 ? p : w->p0;
        w->p1 = p + 1;
        lo = f < lo ? f : lo;
        hi = e > hi ? e : hi;
    }
    if (w->p0 >= w->p1)
        return false;
    while (t->first[w->g0 + 1] <= w->p0)
        w->g0++;
    while (t->first[w->g1 - 1] >= w->p1)
        w->g1--;
    w->i0 = (w->base + lo) / MR_ATT_PANEL;
    w->i1 = (w->base + hi + MR_ATT_PANEL - 1) / MR_ATT_PANEL;
    w->t0 = (w->base + lo) / MR_TILE;
    w->t1 = (w->base + hi + MR_TILE - 1) / MR_TILE;
    return true;
}

/* ---- joining bands ---- */

/* Where pair p's result goes. */
static float *result(const mr_attend *a, int p)
{
    int64_t pair = a->pair0 + p;
    return a->y + pair / a->group * a->y_row +
           (a->kv_head * a->group + pair % a->group) * a->y_head;
}

/* What the sums of a band and of those before it are multiplied by, and m and l of both. */
static void join_sums(const task *t, int64_t base, const mr_att_total *total,
                      const mr_att_part *part)
{
    float *before = part->before, *own = part->own;
    for (int p = 0; p < t->a->n; p++) {
        float m = part->m[p] > total->m[p] ? part->m[p] : total->m[p];
        before[p] = total->m[p] - softmax_base(m);
        own[p] = part->m[p] - softmax_base(m);
    }
    for (int p = 0; p < t->a->n; p += 16) {
        v16f_store(before + p, v16f_exp(v16f_load(before + p)));
        v16f_store(own + p, v16f_exp(v16f_load(own + p)));
    }
    for (int p = 0; p < t->a->n; p++) {
        if (t->lo[p] >= t->hi[p] || t->lo[p] >= base + MR_ATT_BAND || t->hi[p] <= base)
            continue;
        if (t->lo[p] >= base) { /* its first */
            total->m[p] = part->m[p];
            total->l[p] = part->l[p];
        } else {
            total->m[p] = part->m[p] > total->m[p] ? part->m[p] : total->m[p];
            total->l[p] = fmaf(total->l[p], before[p], part->l[p] * own[p]);
        }
    }
}

/* Sums x, of the first band if `first`, join y, `n` of each. */
static void join_row(float *y, const float *x, int64_t n, bool first, float before, float own)
{
    v16f o = v16f_set1(before), e = v16f_set1(own);
    for (int64_t d = 0; d < n; d += 16) {
        v16f v = v16f_load(x + d);
        v16f_store(y + d, first ? v : v16f_fma(v16f_load(y + d), o, v16f_mul(v, e)));
    }
}

/* y = x / l. */
static void finish_row(float *y, const float *x, int64_t n, float l)
{
    v16f inv = v16f_set1(l == 0 ? 0.0f : 1.0f / l);
    for (int64_t d = 0; d < n; d += 16) {
        v16f v = l == 0 ? v16f_zero() : v16f_mul(v16f_load(x + d), inv);
        if (n - d < 16)
            v16f_storen(y + d, v, (int)(n - d));
        else
            v16f_store(y + d, v);
    }
}

/* Columns [d, end) of a group: t->y joins the total, which after a pair's last band is the result. */
static void join_group(task *t, const piece *w, int g, int64_t d, int64_t end, int64_t ldy)
{
    const mr_attend *a = t->a;
    const float *x = t->y;
    int64_t dv = end < a->dv ? end : a->dv;
    for (int p = t->first[g]; p < t->first[g + 1]; p++, x += ldy) {
        float *y = t->total.y + p * mr_up32(a->dv) + d;
        if (t->lo[p] >= t->hi[p] || t->lo[p] >= w->base + MR_ATT_BAND || t->hi[p] <= w->base)
            continue;
        join_row(y, x, end - d, t->lo[p] >= w->base, t->part.before[p], t->part.own[p]);
        if (t->hi[p] <= w->base + MR_ATT_BAND)
            finish_row(result(a, p) + d, y, dv - d, t->total.l[p]);
    }
}

/* ---- what is read ---- */

static const char *stored_keys(const mr_attend *a, int64_t number)
{
    return (const char *)mr_kv_block(a->cache, number) + (size_t)a->kv_head * a->cache->head_bytes;
}

/* MLA's values are its keys. */
static const char *stored_values(const mr_attend *a, int64_t number)
{
    int64_t keys = a->cache->dv ? (int64_t)a->cache->dk * MR_TILE * (a->bf16 ? 2 : 4) : 0;
    return stored_keys(a, number) + keys;
}

/* What is read next, as up to 4 stretches of so many cache lines.  Each group of pairs asks for its
 * share, so that the lines come while products are made. */
typedef struct upcoming {
    const char *at[MR_ATT_BAND / MR_TILE];
    int n, lines;
} upcoming;

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

/* Panel i of the keys: positions 32i .. 32i+31. */
static upcoming key_panel(const mr_attend *a, int64_t i)
{
    int64_t bytes = (int64_t)a->dk * 32 * (a->bf16 ? 2 : 4);
    return (upcoming){{stored_keys(a, i / 2) + i % 2 * bytes}, 1, (int)(bytes / 64)};
}

/* Columns d .. d+31 of the values of tile i; MLA has none of its own. */
static upcoming value_panel(const mr_attend *a, int64_t i, int64_t d)
{
    int64_t bytes = MR_TILE * MR_ATT_PANEL * (a->bf16 ? 2 : 4);
    const char *at = stored_values(a, i) + (a->cache->dv ? d / MR_ATT_PANEL * bytes : 0);
    return (upcoming){{at}, 1, (int)(bytes / 64)};
}

/* The same of each tile. */
static upcoming value_panels(const mr_attend *a, const piece *w, int64_t d)
{
    upcoming u = value_panel(a, w->t0, d);
    for (int64_t i = w->t0 + 1; i < w->t1; i++)
        u.at[u.n++] = value_panel(a, i, d).at[0];
    return u;
}

/* So few take what is read as it lies. */
static bool few_groups(const piece *w)
{
    return w->g1 - w->g0 <= FEW_GROUPS;
}

/* ---- scores ---- */

/* Whether pairs of group g may see any of `n` panels from i on. */
static bool sees(const task *t, int g, int64_t i, int n)
{
    return t->lo[t->first[g]] < (i + n) * MR_ATT_PANEL &&
           t->hi[t->first[g + 1] - 1] > i * MR_ATT_PANEL;
}

/* Where the scores of group g go. */
static float *scores_of(const task *t, const piece *w, int g, int64_t i)
{
    return t->part.s + t->first[g] * MR_ATT_BAND + i * MR_ATT_PANEL - w->base;
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

/* ---- weights of a band ---- */

/* The next pair's maximum is looked for meanwhile, as it takes long to come out. */
LANES_INLINE void band_weights_as(task *t, const piece *w, bool dots)
{
    for (int p = w->p0 - 1; p < w->p1; p++) {
        if (p + 1 < w->p1) {
            const int q = p + 1;
            t->part.m[q] =
                largest(t->part.s + q * MR_ATT_BAND, clamp(t->lo[q] - w->base, MR_ATT_BAND),
                        clamp(t->hi[q] - w->base, MR_ATT_BAND), t->a->softcap);
        }
        if (p >= w->p0)
            t->part.l[p] =
                softmax(t->part.s + p * MR_ATT_BAND, clamp(t->lo[p] - w->base, MR_ATT_BAND),
                        clamp(t->hi[p] - w->base, MR_ATT_BAND), t->part.m[p], dots);
    }
}

static void band_weights(task *t, const piece *w)
{
#define CALL(dots) band_weights_as(t, w, dots)
    WITH_DOTS(t->a->dots, CALL);
#undef CALL
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

/* The sums are needed when the products are done. */
static void ask_total(const task *t, int g, int64_t d)
{
    for (int p = t->first[g]; p < t->first[g + 1]; p++) {
        const float *total = t->total.y + p * mr_up32(t->a->dv) + d;
        __builtin_prefetch(total);
        __builtin_prefetch(total + 16);
    }
}

/* Columns d .. d+31 of one group. */
static void group_values(task *t, const piece *w, int64_t d, int g)
{
    int p = t->first[g], n = t->first[g + 1] - p;
    run r[MOST_RUNS];
    int k = runs_of(t, g, w->base, MR_ATT_BAND, r);
    bool whole = k > 0 && r[0].rows == n && r[0].half == WHOLE, dots = dots_of(t->a);
    ask_total(t, g, d);
    panel_values(n, t->part.s + p * MR_ATT_BAND, whole ? r[0].from : 0, whole ? r[0].to : 0,
                 t->v_panel, dots, t->y, MR_ATT_PANEL, true);
    for (int i = whole; i < k; i++) {
        const float *s = t->part.s + r[i].p * MR_ATT_BAND;
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
                const float *s = t->part.s + r[j].p * MR_ATT_BAND + first;
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

/* ---- tasks ---- */

static void scores(const mr_attend *a, int64_t number, int first, int end, int likely,
                   const mr_att_part *part, void *scratch)
{
    task *t = begin(a, scratch);
    piece w;
    t->part = *part;
    if (meet(t, number, &w))
        some_scores(t, &w, w.base / MR_ATT_PANEL + first, w.base / MR_ATT_PANEL + end, likely);
}

static void weights_of(const mr_attend *a, int64_t number, const mr_att_part *part, void *scratch)
{
    task *t = begin(a, scratch);
    piece w;
    t->part = *part;
    if (meet(t, number, &w))
        band_weights(t, &w);
}

static void join(const mr_attend *a, int64_t number, const mr_att_total *total,
                 const mr_att_part *part, void *scratch)
{
    join_sums(begin(a, scratch), number * MR_ATT_BAND, total, part);
}

static void sums(const mr_attend *a, int64_t number, int d, int end, const mr_att_total *total,
                 const mr_att_part *part, void *scratch)
{
    task *t = begin(a, scratch);
    piece w;
    t->part = *part;
    t->total = *total;
    if (!meet(t, number, &w))
        return;
    bool more = w.t1 * MR_TILE < t->hi[a->n - 1];
    upcoming after = value_panel(a, more ? w.t1 : w.t1 - 1, d);
    after.n = more && a->cache->dv;
    some_values(t, &w, d, end, &after);
}

static void all(const mr_attend *a, void *scratch)
{
    mr_att_forget(scratch);
    task *t = begin(a, scratch);
    int64_t from = INT64_MAX, to = -1;
    for (int p = 0; p < a->n; p++) {
        int64_t f, e;
        mr_att_bands((mr_range){t->lo[p], t->hi[p]}, &f, &e);
        if (f > e) {
            memset(result(a, p), 0, (size_t)a->dv * sizeof(float));
            continue;
        }
        from = f < from ? f : from;
        to = e > to ? e : to;
    }
    for (int64_t number = from; number <= to; number++) {
        piece w;
        if (!meet(t, number, &w))
            continue;
        some_scores(t, &w, w.i0, w.i1, 0);
        band_weights(t, &w);
        join_sums(t, w.base, &t->total, &t->part);
        upcoming after = key_panel(a, number < to ? 2 * w.t1 : w.i1 - 1);
        after.n = number < to;
        some_values(t, &w, 0, mr_up32(a->dv), &after);
    }
}

const mr_attention_kernels LANES_FN(mr_attention) = {all,  scores, weights_of, join,
                                                     sums, keys,   values};
