/* Attention over 16 lanes: template of attention_*.c (see attention.h, lanes.h, docs/numerics.md).
 *
 * For each band of 256 positions:
 *   scores   S[pair][256] = q . K, q scaled beforehand and interleaved by groups of rows
 *   softmax  cap, mask, m = the largest, p = e^(s - m), l = sum p
 *   values   y = P V, which joins the bands before
 * Several groups of pairs share panels of keys and of values, widened once; each pair keeps its own
 * chains, so the bits are those of a pair alone. */
#include "backend/cpu/attention_tile_lanes.h"
#include "backend/cpu/math_lanes.h"

#include <math.h>

/* What a thread works with; lies at the start of its scratch, the arrays after it. */
typedef struct task {
    const mr_attend *a;
    int groups;                                 /* of at most TILE_ROWS pairs */
    int packed;                                 /* groups whose queries are there */
    int first[MR_ATT_PAIRS / TILE_ROWS + 2];    /* group g: pairs first[g] .. first[g + 1] - 1 */
    int32_t lo[MR_ATT_PAIRS], hi[MR_ATT_PAIRS]; /* of each pair */
    float *q;                                   /* group g: [dk][rows], from its first pair on */
    float *s;                                   /* [n][MR_ATT_BAND] */
    float *k_panel;                             /* widened: [dk][32] */
    float *v_panel;                             /* widened or turned: [MR_ATT_BAND][32] */
    mr_att_part part;                           /* the band's; y only if it is kept */
    bool joins;                                 /* y joins total at once, group by group */
    float *y;                                   /* [TILE_ROWS][mr_up32(dv)]: a group's until then */
    float *old, *new;                           /* [n]: the factors of what was and of what joins */
    mr_att_part total;
} task;

_Static_assert(sizeof(task) <= MR_ATT_TASK_BYTES, "scratch has room for the task");

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

/* ---- queries ---- */

static const float *query(const mr_attend *a, int p)
{
    int64_t pair = a->pair0 + p;
    return a->q + pair / a->group * a->q_row +
           (a->kv_head * a->group + pair % a->group) * a->q_head;
}

/* The queries of the next group, times scale, interleaved: [dk][rows], up to 15 lines more.  Those
 * of the group after it are asked for meanwhile. */
static void pack_group(task *t)
{
    const mr_attend *a = t->a;
    const float *x[TILE_ROWS], *next[TILE_ROWS];
    int p0 = t->first[t->packed], rows = t->first[++t->packed] - p0;
    float scaled[TILE_ROWS * 16], *to = t->q + (int64_t)p0 * a->dk;
    v16f scale = v16f_set1(a->scale);
    for (int r = 0; r < rows; r++) {
        x[r] = query(a, p0 + r);
        next[r] = query(a, p0 + r + rows < a->n ? p0 + r + rows : p0 + r);
    }
    for (int64_t d = 0; d < a->dk; d += 16) {
        int n = a->dk - d < 16 ? (int)(a->dk - d) : 16;
        for (int r = 0; r < rows; r++) {
            v16f_store(scaled + 16 * r, v16f_mul(v16f_loadn(x[r] + d, n), scale));
            __builtin_prefetch(next[r] + d, 0, 2);
        }
        v16f_transpose(to + d * rows, rows, scaled, 16, rows);
    }
}

/* Of group g. */
static inline const float *queries(task *t, int g)
{
    while (t->packed <= g)
        pack_group(t);
    return t->q + (int64_t)t->first[g] * t->a->dk;
}

static task *begin(const mr_attend *a, void *scratch)
{
    task *t = scratch;
    int64_t pairs = mr_att_pairs(a->dk, a->dv), n16 = (pairs + 15) / 16 * 16;
    t->a = a;
    t->packed = 0;
    t->groups = (a->n + TILE_ROWS - 1) / TILE_ROWS;
    t->s = (float *)((char *)scratch + MR_ATT_TASK_BYTES);
    t->k_panel = t->s + pairs * MR_ATT_BAND;
    t->v_panel = t->k_panel + 32 * (int64_t)a->dk;
    t->y = t->v_panel + 32 * MR_ATT_BAND;
    t->part.m = t->y + 16 * mr_up32(a->dv);
    t->part.l = t->part.m + n16;
    t->old = t->part.l + n16;
    t->new = t->old + n16;
    t->total = mr_att_part_at(t->new + n16, (int)pairs);
    t->q = t->total.y + pairs * mr_up32(a->dv);
    ranges(a, t->lo, t->hi);
    for (int g = 0; g <= t->groups; g++)
        t->first[g] = t->groups ? a->n * g / t->groups : 0;
    return t;
}

/* ---- softmax ---- */

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

/* `of` vectors of scores become weights, none above 1; their sum, added in order. */
LANES_INLINE v16f weights(float *s, int of, v16f base, v16f sum)
{
    v16f e[4];
    LANES_UNROLL for (int i = 0; i < of; i++) e[i] = v16f_sub(v16f_load(s + 16 * i), base);
    exp_each(e, of);
    LANES_UNROLL for (int i = 0; i < of; i++)
    {
        v16f_store(s + 16 * i, e[i]);
        sum = v16f_add(sum, e[i]);
    }
    return sum;
}

/* The same of a vector's lanes `in`; the others become 0, without the exponential of -inf, as a
 * result that underflows takes some CPUs longer than all the rest. */
static inline v16f some_weights(float *s, v16m in, v16f base, v16f sum)
{
    v16f e = v16f_select(in, v16f_sub(v16f_load(s), base), v16f_zero());
    exp_each(&e, 1);
    e = v16f_select(in, e, v16f_zero());
    v16f_store(s, e);
    return v16f_add(sum, e);
}

/* Scores of positions [from, to) whose largest is m become weights; their sum. */
static float softmax(float *s, int from, int to, float m)
{
    v16f sum = v16f_zero(), base = v16f_set1(softmax_base(m));
    int i = from / 16 * 16, whole = to / 16 * 16;
    if (i < from && i < to) {
        sum = some_weights(s + i, inside(i, from, to), base, sum);
        i += 16;
    }
    for (; i + 64 <= whole; i += 64)
        sum = weights(s + i, 4, base, sum);
    if (whole - i == 48)
        sum = weights(s + i, 3, base, sum);
    else if (whole - i == 32)
        sum = weights(s + i, 2, base, sum);
    else if (whole - i == 16)
        sum = weights(s + i, 1, base, sum);
    if (i <= whole && whole < to)
        sum = some_weights(s + whole, inside(whole, from, to), base, sum);
    return v16f_reduce_add(sum);
}

/* What is worked on: the groups that meet a band, and its tiles that they meet. */
typedef struct piece {
    int64_t base, t0, t1; /* the band's first position; tiles t0 .. t1-1 */
    int p0, p1, g0, g1;   /* pairs p0 .. p1-1 and their groups */
} piece;

/* ---- joining bands ---- */

/* Where pair p's result goes. */
static float *result(const mr_attend *a, int p)
{
    int64_t pair = a->pair0 + p;
    return a->y + pair / a->group * a->y_row +
           (a->kv_head * a->group + pair % a->group) * a->y_head;
}

/* What the sums of a band and of those before it are multiplied by, and m and l of both. */
static void join(const mr_attend *a, int64_t number, const int32_t *lo, const int32_t *hi,
                 const mr_att_part *total, const mr_att_part *part, float *old, float *new)
{
    int64_t base = number * MR_ATT_BAND;
    for (int p = 0; p < a->n; p++) {
        float m = part->m[p] > total->m[p] ? part->m[p] : total->m[p];
        old[p] = total->m[p] - softmax_base(m);
        new[p] = part->m[p] - softmax_base(m);
    }
    for (int p = 0; p < a->n; p += 16) {
        v16f_store(old + p, v16f_exp(v16f_load(old + p)));
        v16f_store(new + p, v16f_exp(v16f_load(new + p)));
    }
    for (int p = 0; p < a->n; p++) {
        if (lo[p] >= hi[p] || lo[p] >= base + MR_ATT_BAND || hi[p] <= base)
            continue;
        if (lo[p] >= base) { /* its first */
            total->m[p] = part->m[p];
            total->l[p] = part->l[p];
        } else {
            total->m[p] = part->m[p] > total->m[p] ? part->m[p] : total->m[p];
            total->l[p] = fmaf(total->l[p], old[p], part->l[p] * new[p]);
        }
    }
}

/* Sums x, of the first band if `first`, join y, `n` of each. */
static void join_row(float *y, const float *x, int64_t n, bool first, float old, float new)
{
    v16f o = v16f_set1(old), e = v16f_set1(new);
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
        join_row(y, x, end - d, t->lo[p] >= w->base, t->old[p], t->new[p]);
        if (t->hi[p] <= w->base + MR_ATT_BAND)
            finish_row(result(a, p) + d, y, dv - d, t->total.l[p]);
    }
}

static void merge(const mr_attend *a, int64_t number, const mr_att_part *total,
                  const mr_att_part *part)
{
    int32_t lo[MR_ATT_PAIRS], hi[MR_ATT_PAIRS];
    float old[MR_ATT_PAIRS] = {0}, new[MR_ATT_PAIRS] = {0};
    int64_t base = number * MR_ATT_BAND, ldy = mr_up32(a->dv);
    ranges(a, lo, hi);
    join(a, number, lo, hi, total, part, old, new);
    for (int p = 0; p < a->n; p++)
        if (lo[p] < hi[p] && lo[p] < base + MR_ATT_BAND && hi[p] > base)
            join_row(total->y + p * ldy, part->y + p * ldy, ldy, lo[p] >= base, old[p], new[p]);
}

/* A pair that saw nothing gives zeros. */
static void finish(const mr_attend *a, const mr_att_part *total)
{
    for (int p = 0; p < a->n; p++)
        finish_row(result(a, p), total->y + p * mr_up32(a->dv), a->dv, total->l[p]);
}

/* ---- one band of several groups ---- */

static inline int clamp(int64_t x, int most)
{
    return x < 0 ? 0 : x > most ? most : (int)x;
}

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

/* Panel i of the keys: positions 32i .. 32i+31. */
static upcoming key_panel(const mr_attend *a, int64_t i)
{
    int64_t bytes = (int64_t)a->dk * 32 * (a->bf16 ? 2 : 4);
    return (upcoming){{stored_keys(a, i / 2) + i % 2 * bytes}, 1, (int)(bytes / 64)};
}

/* Columns d .. d+31 of the values of each tile. */
static upcoming value_panels(const mr_attend *a, const piece *w, int64_t d)
{
    int64_t bytes = MR_TILE * 32 * (a->bf16 ? 2 : 4);
    upcoming u = {{NULL}, 0, (int)(bytes / 64)};
    for (int64_t i = w->t0; i < w->t1; i++)
        u.at[u.n++] = stored_values(a, i) + d / 32 * bytes;
    return u;
}

static void band_scores(task *t, const piece *w)
{
    const mr_attend *a = t->a;
    for (int64_t i = 2 * w->t0; i < 2 * w->t1; i++) {
        upcoming here = key_panel(a, i), next = {{NULL}, 0, 0};
        if (i + 1 < 2 * w->t1)
            next = key_panel(a, i + 1);
        else if (a->cache->dv)
            next = value_panels(a, w, 0);
        const float *k = (const float *)(const void *)here.at[0];
        if (a->bf16) {
            widen(t->k_panel, here.at[0], a->dk);
            k = t->k_panel;
        }
        for (int g = w->g0; g < w->g1; g++) {
            int p = t->first[g], end = t->first[g + 1];
            ask(&next, w, g);
            if (t->lo[p] < 32 * i + 32 && t->hi[end - 1] > 32 * i)
                panel_scores(end - p, queries(t, g), k, a->dk,
                             t->s + p * MR_ATT_BAND + 32 * i - w->base);
        }
    }
}

/* The next pair's maximum is looked for meanwhile, as it takes long to come out. */
static void band_softmax(task *t, const piece *w)
{
    for (int p = w->p0 - 1; p < w->p1; p++) {
        if (p + 1 < w->p1) {
            const int q = p + 1;
            t->part.m[q] = largest(t->s + q * MR_ATT_BAND, clamp(t->lo[q] - w->base, MR_ATT_BAND),
                                   clamp(t->hi[q] - w->base, MR_ATT_BAND), t->a->softcap);
        }
        if (p >= w->p0)
            t->part.l[p] = softmax(t->s + p * MR_ATT_BAND, clamp(t->lo[p] - w->base, MR_ATT_BAND),
                                   clamp(t->hi[p] - w->base, MR_ATT_BAND), t->part.m[p]);
    }
}

/* Pairs p .. p+rows-1 see positions [from, to) together. */
typedef struct run {
    int p, rows, from, to;
} run;

static int add_run(run *r, int p, int rows, int from, int to)
{
    *r = (run){p, rows, from, to};
    return from < to;
}

/* The runs of group g over `width` positions from base on, as a pair must take them: before what
 * all its pairs see one after the other begins, and behind it one after the other ends. */
static int runs_of(const task *t, int g, int64_t base, int width, run *r)
{
    int p = t->first[g], n = t->first[g + 1] - p, k = 0;
    const int32_t *lo = t->lo + p, *hi = t->hi + p;
    if (lo[n - 1] <= base && hi[0] >= base + width)
        return add_run(r, p, n, 0, width);
    int from = clamp(lo[n - 1] - base, width), to = clamp(hi[0] - base, width);
    if (from >= to) {
        for (int i = 0; i < n; i++)
            k += add_run(r + k, p + i, 1, clamp(lo[i] - base, width), clamp(hi[i] - base, width));
        return k;
    }
    for (int i = 1; i < n; i++)
        k += add_run(r + k, p, i, clamp(lo[i - 1] - base, width), clamp(lo[i] - base, width));
    k += add_run(r + k, p, n, from, to);
    for (int i = 1; i < n; i++)
        k += add_run(r + k, p + i, n - i, clamp(hi[i - 1] - base, width),
                     clamp(hi[i] - base, width));
    return k;
}

/* Columns d .. d+31 of one group. */
static void group_values(task *t, const piece *w, int64_t d, int g)
{
    int p = t->first[g], n = t->first[g + 1] - p;
    int64_t ldy = t->joins ? 32 : mr_up32(t->a->dv);
    float *y = t->joins ? t->y : t->part.y + p * ldy + d;
    run r[2 * TILE_ROWS];
    int k = runs_of(t, g, w->base, MR_ATT_BAND, r);
    bool whole = k > 0 && r[0].rows == n;
    for (int i = 0; t->joins && i < n; i++) { /* needed when the products are done */
        const float *total = t->total.y + (p + i) * mr_up32(t->a->dv) + d;
        __builtin_prefetch(total);
        __builtin_prefetch(total + 16);
    }
    panel_values(n, t->s + p * MR_ATT_BAND, whole ? r[0].from : 0, whole ? r[0].to : 0, t->v_panel,
                 y, ldy, true);
    for (int i = whole; i < k; i++)
        panel_values(r[i].rows, t->s + r[i].p * MR_ATT_BAND, r[i].from, r[i].to, t->v_panel,
                     y + (r[i].p - p) * ldy, ldy, false);
    if (t->joins)
        join_group(t, w, g, d, d + 32, ldy);
}

/* Columns d .. d+31 of the values as floats, the band's positions one after the other. */
static void fetch_values(task *t, const piece *w, const upcoming *here, int64_t d)
{
    const mr_attend *a = t->a;
    for (int i = 0; i < here->n; i++) {
        float *to = t->v_panel + ((w->t0 + i) * MR_TILE - w->base) * 32;
        if (!a->cache->dv)
            values_of_keys(to, stored_keys(a, w->t0 + i), a->bf16, a->dk, a->dv, d);
        else if (a->bf16)
            widen(to, here->at[i], MR_TILE);
        else
            memcpy(to, here->at[i], MR_TILE * 32 * sizeof(float));
    }
}

static void band_values(task *t, const piece *w)
{
    const mr_attend *a = t->a;
    for (int64_t d = 0; d < a->dv; d += 32) {
        upcoming here = value_panels(a, w, d), next = {{NULL}, 0, 0};
        if (d + 32 < a->dv && a->cache->dv)
            next = value_panels(a, w, d + 32);
        else if (d + 32 >= a->dv && w->t1 * MR_TILE < t->hi[a->n - 1])
            next = key_panel(a, 2 * w->t1);
        fetch_values(t, w, &here, d);
        for (int g = w->g0; g < w->g1; g++) {
            ask(&next, w, g);
            group_values(t, w, d, g);
        }
    }
}

/* ---- one band of one group, which reads each tile as it lies ---- */

static void scores_in_place(task *t, const piece *w)
{
    const mr_attend *a = t->a;
    for (int64_t i = w->t0; i < w->t1; i++) {
        const char *next = i + 1 < w->t1 ? stored_keys(a, i + 1) : stored_values(a, w->t0);
        tile_scores(a->n, queries(t, 0), stored_keys(a, i), a->bf16, a->dk,
                    t->s + i * MR_TILE - w->base, next);
    }
}

static void values_in_place(task *t, const piece *w)
{
    const mr_attend *a = t->a;
    int64_t ldy = mr_up32(a->dv);
    float *y = t->joins ? t->y : t->part.y;
    memset(y, 0, (size_t)(a->n * ldy) * sizeof(float));
    for (int64_t i = w->t0; i < w->t1; i++) {
        run r[2 * TILE_ROWS];
        int k = runs_of(t, 0, i * MR_TILE, MR_TILE, r);
        for (int j = 0; j < k; j++)
            tile_values(r[j].rows, t->s + r[j].p * MR_ATT_BAND + i * MR_TILE - w->base, r[j].from,
                        r[j].to, stored_values(a, i), a->bf16, y + r[j].p * ldy, ldy,
                        stored_values(a, i + 1 < w->t1 ? i + 1 : i));
    }
    if (t->joins)
        join_group(t, w, 0, 0, ldy, ldy);
}

/* ---- one band ---- */

/* The part of band `number` into t->part, or joined to t->total. */
static void one_band(task *t, int64_t number)
{
    const mr_attend *a = t->a;
    piece w = {.base = number * MR_ATT_BAND, .p0 = a->n, .g1 = t->groups};
    int lo = MR_ATT_BAND, hi = 0;
    for (int p = 0; p < a->n; p++) {
        int f = clamp(t->lo[p] - w.base, MR_ATT_BAND), e = clamp(t->hi[p] - w.base, MR_ATT_BAND);
        if (f >= e)
            continue;
        w.p0 = p < w.p0 ? p : w.p0;
        w.p1 = p + 1;
        lo = f < lo ? f : lo;
        hi = e > hi ? e : hi;
    }
    if (w.p0 >= w.p1)
        return;
    while (t->first[w.g0 + 1] <= w.p0)
        w.g0++;
    while (t->first[w.g1 - 1] >= w.p1)
        w.g1--;
    w.t0 = (w.base + lo) / MR_TILE;
    w.t1 = (w.base + hi + MR_TILE - 1) / MR_TILE;
    bool in_place = t->groups == 1;
    if (in_place)
        scores_in_place(t, &w);
    else
        band_scores(t, &w);
    band_softmax(t, &w);
    if (t->joins)
        join(a, number, t->lo, t->hi, &t->total, &t->part, t->old, t->new);
    if (in_place && a->cache->dv)
        values_in_place(t, &w);
    else
        band_values(t, &w);
}

/* ---- tasks ---- */

static void band(const mr_attend *a, int64_t number, const mr_att_part *part, void *scratch)
{
    task *t = begin(a, scratch);
    t->part = *part;
    t->joins = false;
    one_band(t, number);
}

static void all(const mr_attend *a, void *scratch)
{
    task *t = begin(a, scratch);
    int64_t from = INT64_MAX, to = -1;
    t->joins = true;
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
    for (int64_t number = from; number <= to; number++)
        one_band(t, number);
}

const mr_attention_kernels LANES_FN(mr_attention) = {all, band, merge, finish, keys, values};
