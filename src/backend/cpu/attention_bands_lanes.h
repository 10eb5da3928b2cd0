/* Bands of attention: part of the template of attention_*.c, between the products of queries with keys and
 * of weights with values, which are by register tiles (attention_lanes.h) or by AMX (attention_amx.c).
 *
 * For each band of 256 positions:
 *   scores   S[pair][256] = q . K, q scaled beforehand
 *   weights  cap, mask, m = the largest, p = e^(s - m), l = sum p
 *   values   y = P V, which joins the bands before
 * With dots q and p are rounded to bf16 before they meet K and V (docs/numerics.md, `native`).
 *
 * Whoever makes the products says in front of this
 *   GROUP_PAIRS  pairs that share products at most; group_start(n, g, groups), where group g of n pairs
 *                begins
 *   query_lines  words of a packed query
 *   WHOLE_BANDS  whether a band's weights are 0 wherever the pair sees nothing, or left undefined */
#include "backend/cpu/math_lanes.h"

#include <math.h>

/* What a thread works with; lies at the start of its scratch, the arrays after it. */
typedef struct task {
    const mr_attend *a;                         /* first: see mr_att_forget */
    int groups;                                 /* of at most GROUP_PAIRS pairs */
    int packed;                                 /* groups whose queries are there */
    int first[MR_ATT_PAIRS / GROUP_PAIRS + 2];  /* group g: pairs first[g] .. first[g + 1] - 1 */
    int32_t lo[MR_ATT_PAIRS], hi[MR_ATT_PAIRS]; /* of each pair */
    int64_t lines;                              /* query_lines */
    float *q;                                   /* `lines` words of each pair */
    float *k_panel;                             /* widened, or pairs: lines of 32 */
    float *v_panel;                             /* widened or turned: [MR_ATT_BAND][32] */
    float *y;                                   /* of a group and band */
    mr_att_part part;                           /* the thread's own, or the one at hand */
    mr_att_total total;                         /* likewise */
} task;

_Static_assert(sizeof(task) <= MR_ATT_TASK_BYTES, "scratch has room for the task");

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

/* The scratch is as it was left if it was left by the same `a`. */
static task *begin(const mr_attend *a, void *scratch)
{
    task *t = scratch;
    if (t->a == a)
        return t;
    const int pairs = mr_att_pairs(a->dk, a->dv);
    const int64_t width = mr_att_width(a->dk);
    t->a = a;
    t->packed = 0;
    t->lines = query_lines(a->dk, dots_of(a));
    t->groups = (a->n + GROUP_PAIRS - 1) / GROUP_PAIRS;
    t->k_panel = (float *)((char *)scratch + MR_ATT_TASK_BYTES);
    t->v_panel = t->k_panel + MR_ATT_PANEL * width;
    t->y = t->v_panel + MR_ATT_PANEL * MR_ATT_BAND;
    t->q = t->y + mr_att_sums(a->dv);
    char *own = (char *)(t->q + pairs * width + MR_ATT_SPARE);
    t->part = mr_att_part_at(own, pairs);
    t->total = mr_att_total_at(own + mr_att_part_bytes(pairs), pairs);
    ranges(a, t->lo, t->hi);
    for (int g = 0; g <= t->groups; g++)
        t->first[g] = t->groups ? group_start(a->n, g, t->groups) : 0;
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

/* Weights of bf16 of what lies beside the vectors of [from, to). */
static inline void clear_others(float *s, int from, int to)
{
    uint16_t *w = (uint16_t *)s;
    const int end = from < to ? (to + 15) / 16 * 16 : 0;
    memset(w, 0, (size_t)(from < to ? from / 16 * 16 : 0) * sizeof *w);
    memset(w + end, 0, (size_t)(MR_ATT_BAND - end) * sizeof *w);
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
    if (WHOLE_BANDS)
        clear_others(s, from, to);
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

/* Whether pairs of group g may see any of `n` panels from i on. */
static bool sees(const task *t, int g, int64_t i, int n)
{
    return t->lo[t->first[g]] < (i + n) * MR_ATT_PANEL &&
           t->hi[t->first[g + 1] - 1] > i * MR_ATT_PANEL;
}

/* Where the scores of group g go. */
static float *scores_of(const task *t, const piece *w, int g, int64_t i)
{
    return t->part.s + t->first[g] * MR_ATT_ROW + i * MR_ATT_PANEL - w->base;
}

/* ---- weights of a band ---- */

/* The next pair's maximum is looked for meanwhile, as it takes long to come out. */
LANES_INLINE void band_weights_as(task *t, const piece *w, bool dots)
{
    for (int p = w->p0 - 1; p < w->p1; p++) {
        if (p + 1 < w->p1) {
            const int q = p + 1;
            t->part.m[q] =
                largest(t->part.s + q * MR_ATT_ROW, clamp(t->lo[q] - w->base, MR_ATT_BAND),
                        clamp(t->hi[q] - w->base, MR_ATT_BAND), t->a->softcap);
        }
        if (p >= w->p0)
            t->part.l[p] =
                softmax(t->part.s + p * MR_ATT_ROW, clamp(t->lo[p] - w->base, MR_ATT_BAND),
                        clamp(t->hi[p] - w->base, MR_ATT_BAND), t->part.m[p], dots);
    }
}

static void band_weights(task *t, const piece *w)
{
#define CALL(dots) band_weights_as(t, w, dots)
    WITH_DOTS(t->a->dots, CALL);
#undef CALL
}

/* ---- values of a band ---- */

/* The sums are needed when the products are done. */
static void ask_total(const task *t, int g, int64_t d)
{
    for (int p = t->first[g]; p < t->first[g + 1]; p++) {
        const float *total = t->total.y + p * mr_up32(t->a->dv) + d;
        __builtin_prefetch(total);
        __builtin_prefetch(total + 16);
    }
}
