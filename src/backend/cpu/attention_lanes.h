/* Attention over 16 lanes: template of attention_*.c (see attention.h, lanes.h, docs/numerics.md).
 *
 * For each band of 256 positions:
 *   scores   S[pair][256] = q . K tile by tile, q scaled beforehand and interleaved by groups of
 *            rows
 *   softmax  cap, mask, m = the largest, p = e^(s - m), l = sum p
 *   values   y = P V tile by tile
 * and the bands' (m, l, y) are merged in ascending order.  Several pairs share one pass over a
 * tile; each keeps its own chains, so the bits are those of a pair alone. */
#include "backend/cpu/attention_tile_lanes.h"
#include "backend/cpu/math_lanes.h"

#include <math.h>

/* What a thread works with; lies at the start of its scratch, the arrays after it. */
typedef struct task {
    const mr_attend *a;
    int groups;                                 /* of at most TILE_ROWS pairs */
    int32_t lo[MR_ATT_PAIRS], hi[MR_ATT_PAIRS]; /* of each pair */
    float *q;                                   /* group g: [dk][rows], from pair first(g) on */
    float *s;                                   /* [n][MR_ATT_BAND] */
    float *k_tile, *v_tile;                     /* widened or turned copies */
    mr_att_part part, total;
} task;

_Static_assert(sizeof(task) <= MR_ATT_TASK_BYTES, "scratch has room for the task");

/* The pairs of group g are first(g) .. first(g + 1) - 1. */
static inline int first(const task *t, int g)
{
    return t->a->n * g / t->groups;
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

/* ---- queries ---- */

/* The queries of one group, times scale, interleaved: [dk][rows]. */
static void pack_group(task *t, int p0, int rows)
{
    const mr_attend *a = t->a;
    const float *x[TILE_ROWS];
    float rows_of[TILE_ROWS * 16], turned[16 * 16], *to = t->q + (int64_t)p0 * a->dk;
    v16f scale = v16f_set1(a->scale);
    for (int r = 0; r < rows; r++) {
        int64_t pair = a->pair0 + p0 + r;
        x[r] = a->q + pair / a->group * a->q_row +
               (a->kv_head * a->group + pair % a->group) * a->q_head;
    }
    for (int64_t d = 0; d < a->dk; d += 16) {
        int n = a->dk - d < 16 ? (int)(a->dk - d) : 16;
        for (int r = 0; r < rows; r++)
            v16f_store(rows_of + 16 * r, v16f_mul(v16f_loadn(x[r] + d, n), scale));
        v16f_transpose(turned, 16, rows_of, 16, rows);
        for (int i = 0; i < n; i++)
            memcpy(to + (d + i) * rows, turned + 16 * i, (size_t)rows * sizeof *to);
    }
}

static task *begin(const mr_attend *a, void *scratch)
{
    task *t = scratch;
    int64_t dv32 = mr_up32(a->dv);
    int pairs = mr_att_pairs(a->dk, a->dv);
    t->a = a;
    t->groups = (a->n + TILE_ROWS - 1) / TILE_ROWS;
    t->q = (float *)((char *)scratch + MR_ATT_TASK_BYTES);
    t->s = t->q + (int64_t)pairs * a->dk;
    t->k_tile = t->s + pairs * MR_ATT_BAND;
    t->v_tile = t->k_tile + (int64_t)MR_TILE * a->dk;
    char *parts = (char *)(t->v_tile + MR_TILE * dv32);
    t->part = mr_att_part_at(parts, pairs);
    t->total = mr_att_part_at(parts + mr_att_part_bytes(pairs, a->dv), pairs);
    ranges(a, t->lo, t->hi);
    for (int g = 0; g < t->groups; g++)
        pack_group(t, first(t, g), first(t, g + 1) - first(t, g));
    return t;
}

/* ---- softmax ---- */

static inline float softmax_base(float m)
{
    return m == -INFINITY ? 0.0f : m; /* nothing but -inf so far: e^(-inf - 0) = 0, not NaN */
}

/* Positions [from, to) of the band, scores s: *m, *l, and s becomes p, 0 in the vectors' other
 * lanes. */
static void softmax(float *s, int from, int to, float softcap, float *m, float *l)
{
    v16f low = v16f_set1(-INFINITY), top = low, sum = v16f_zero(), cap = v16f_set1(softcap);
    int v0 = from / 16 * 16, v1 = (to + 15) / 16 * 16;
    for (int i = v0; softcap > 0 && i < v1; i += 16)
        v16f_store(s + i, v16f_softcap(v16f_load(s + i), cap));
    if (from > v0)
        v16f_store(s + v0, v16f_select(v16m_first(from - v0), low, v16f_load(s + v0)));
    if (to < v1)
        v16f_store(s + v1 - 16, v16f_keep(v16f_load(s + v1 - 16), to - v1 + 16, low));
    for (int i = v0; i < v1; i += 16)
        top = v16f_max(v16f_load(s + i), top);
    *m = v16f_reduce_max(top);
    v16f base = v16f_set1(softmax_base(*m));
    for (int i = v0; i < v1; i += 16) {
        v16f e = v16f_exp(v16f_sub(v16f_load(s + i), base));
        v16f_store(s + i, e);
        sum = v16f_add(sum, e);
    }
    *l = v16f_reduce_add(sum);
}

/* ---- one band ---- */

static inline int clamp(int64_t x, int most)
{
    return x < 0 ? 0 : x > most ? most : (int)x;
}

static const char *stored_keys(const mr_attend *a, int64_t number)
{
    return (const char *)mr_kv_block(a->cache, number) + (size_t)a->kv_head * a->cache->head_bytes;
}

static const char *stored_values(const mr_attend *a, int64_t number)
{
    return stored_keys(a, number) + (int64_t)a->cache->dk * MR_TILE * (a->bf16 ? 2 : 4);
}

/* Few rows read what is stored; many a widened copy. */
static bool in_place(const task *t)
{
    return !t->a->bf16 || t->groups == 1;
}

static void tile_scores(task *t, int64_t number, const char *ahead, int g0, int g1)
{
    const mr_attend *a = t->a;
    const void *k = stored_keys(a, number);
    bool bf16 = a->bf16 && in_place(t);
    if (!in_place(t)) {
        widen(t->k_tile, k, 2 * (int64_t)a->dk);
        k = t->k_tile;
    }
    float *s = t->s + number % (MR_ATT_BAND / MR_TILE) * MR_TILE;
    for (int g = g0; g < g1; g++) {
        int p = first(t, g), rows = first(t, g + 1) - p;
        const float *q = t->q + (int64_t)p * a->dk;
        if (bf16)
            scores_bf16(rows, q, k, a->dk, s + p * MR_ATT_BAND, ahead);
        else
            scores_f32(rows, q, k, a->dk, s + p * MR_ATT_BAND);
    }
}

/* A tile's values as they are read. */
typedef struct tile {
    const void *v;
    bool bf16;
    const char *ahead; /* what is read next */
} tile;

/* Pairs p .. p+rows-1 over positions [from, to) of the tile whose scores begin at s. */
static void add_values(task *t, const tile *v, const float *s, int p, int rows, int from, int to)
{
    int64_t ldy = mr_up32(t->a->dv);
    if (from >= to)
        return;
    if (v->bf16)
        values_bf16(rows, s + p * MR_ATT_BAND, from, to, v->v, t->part.y + p * ldy, ldy, v->ahead);
    else
        values_f32(rows, s + p * MR_ATT_BAND, from, to, v->v, t->part.y + p * ldy, ldy);
}

/* A group: what all its pairs see together, what only some see before and after that one by one. */
static void group_values(task *t, const tile *v, const float *s, int64_t base, int g)
{
    int p0 = first(t, g), p1 = first(t, g + 1), from[TILE_ROWS], to[TILE_ROWS];
    int lo = 0, hi = MR_TILE, least = MR_TILE, most = 0;
    for (int p = p0; p < p1; p++) {
        int f = clamp(t->lo[p] - base, MR_TILE), e = clamp(t->hi[p] - base, MR_TILE);
        from[p - p0] = f;
        to[p - p0] = e;
        lo = f > lo ? f : lo;
        hi = e < hi ? e : hi;
        least = f < least ? f : least;
        most = e > most ? e : most;
    }
    bool common = lo < hi;
    for (int p = p0; (!common || least < lo) && p < p1; p++)
        add_values(t, v, s, p, 1, from[p - p0], common ? lo : to[p - p0]);
    if (!common)
        return;
    add_values(t, v, s, p0, p1 - p0, lo, hi);
    for (int p = p0; hi < most && p < p1; p++)
        add_values(t, v, s, p, 1, hi, to[p - p0]);
}

static void tile_values(task *t, int64_t number, const char *ahead, int g0, int g1)
{
    const mr_attend *a = t->a;
    tile v = {t->v_tile, false, ahead};
    if (!a->cache->dv) {
        values_of_keys(t->v_tile, stored_keys(a, number), a->bf16, a->dk, a->dv);
    } else if (in_place(t)) {
        v.v = stored_values(a, number);
        v.bf16 = a->bf16;
    } else {
        widen(t->v_tile, (const uint16_t *)(const void *)stored_values(a, number),
              2 * mr_up32(a->dv));
    }
    const float *s = t->s + number % (MR_ATT_BAND / MR_TILE) * MR_TILE;
    for (int g = g0; g < g1; g++)
        group_values(t, &v, s, number * MR_TILE, g);
}

/* The part of band `number` into t->part. */
static void one_band(task *t, int64_t number)
{
    const mr_attend *a = t->a;
    int64_t base = number * MR_ATT_BAND, lo = MR_ATT_BAND, hi = 0, ldy = mr_up32(a->dv);
    int p0 = -1, p1 = 0;
    for (int p = 0; p < a->n; p++) {
        int f = clamp(t->lo[p] - base, MR_ATT_BAND), e = clamp(t->hi[p] - base, MR_ATT_BAND);
        if (f >= e)
            continue;
        p0 = p0 < 0 ? p : p0;
        p1 = p + 1;
        lo = f < lo ? f : lo;
        hi = e > hi ? e : hi;
    }
    if (p0 < 0)
        return;
    int g0 = 0, g1 = t->groups;
    while (first(t, g0 + 1) <= p0)
        g0++;
    while (first(t, g1 - 1) >= p1)
        g1--;
    int64_t t0 = (base + lo) / MR_TILE, t1 = (base + hi + MR_TILE - 1) / MR_TILE;
    for (int64_t i = t0; i < t1; i++) {
        const char *ahead = i + 1 < t1 ? stored_keys(a, i + 1) : stored_values(a, t0);
        tile_scores(t, i, ahead, g0, g1);
    }
    for (int p = p0; p < p1; p++) {
        int f = clamp(t->lo[p] - base, MR_ATT_BAND), e = clamp(t->hi[p] - base, MR_ATT_BAND);
        softmax(t->s + p * MR_ATT_BAND, f, e, a->softcap, &t->part.m[p], &t->part.l[p]);
    }
    memset(t->part.y + p0 * ldy, 0, (size_t)((p1 - p0) * ldy) * sizeof(float));
    for (int64_t i = t0; i < t1; i++) {
        const char *ahead = stored_values(a, i + 1 < t1 ? i + 1 : i);
        tile_values(t, i, ahead, g0, g1);
    }
}

/* ---- merging ---- */

static void merge_pairs(const mr_attend *a, int64_t number, const int32_t *lo, const int32_t *hi,
                        const mr_att_part *total, const mr_att_part *part)
{
    float old[MR_ATT_PAIRS], new[MR_ATT_PAIRS]; /* the exponents, then the factors */
    int64_t base = number * MR_ATT_BAND, ldy = mr_up32(a->dv);
    memset(old, 0, sizeof old);
    memset(new, 0, sizeof new);
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
        float *y = total->y + p * ldy;
        const float *x = part->y + p * ldy;
        if (lo[p] >= hi[p] || lo[p] >= base + MR_ATT_BAND || hi[p] <= base)
            continue;
        if (lo[p] >= base) { /* its first */
            total->m[p] = part->m[p];
            total->l[p] = part->l[p];
            memcpy(y, x, (size_t)ldy * sizeof *y);
            continue;
        }
        total->m[p] = part->m[p] > total->m[p] ? part->m[p] : total->m[p];
        total->l[p] = fmaf(total->l[p], old[p], part->l[p] * new[p]);
        v16f o = v16f_set1(old[p]), n = v16f_set1(new[p]);
        for (int64_t d = 0; d < ldy; d += 16)
            v16f_store(y + d, v16f_fma(v16f_load(y + d), o, v16f_mul(v16f_load(x + d), n)));
    }
}

static void merge(const mr_attend *a, int64_t number, const mr_att_part *total,
                  const mr_att_part *part)
{
    int32_t lo[MR_ATT_PAIRS], hi[MR_ATT_PAIRS];
    ranges(a, lo, hi);
    merge_pairs(a, number, lo, hi, total, part);
}

/* y / l; a pair that saw nothing gives zeros. */
static void finish(const mr_attend *a, const mr_att_part *total)
{
    int64_t ldy = mr_up32(a->dv), dv = a->dv;
    for (int p = 0; p < a->n; p++) {
        int64_t pair = a->pair0 + p;
        float *y = a->y + pair / a->group * a->y_row +
                   (a->kv_head * a->group + pair % a->group) * a->y_head;
        const float *x = total->y + p * ldy;
        if (total->l[p] == 0) {
            memset(y, 0, (size_t)dv * sizeof *y);
            continue;
        }
        v16f inv = v16f_set1(1.0f / total->l[p]);
        int64_t d = 0;
        for (; d + 16 <= dv; d += 16)
            v16f_store(y + d, v16f_mul(v16f_load(x + d), inv));
        if (d < dv)
            v16f_storen(y + d, v16f_mul(v16f_load(x + d), inv), (int)(dv - d));
    }
}

/* ---- tasks ---- */

static void band(const mr_attend *a, int64_t number, const mr_att_part *part, void *scratch)
{
    task *t = begin(a, scratch);
    t->part = *part;
    one_band(t, number);
}

static void all(const mr_attend *a, void *scratch)
{
    task *t = begin(a, scratch);
    int64_t from = INT64_MAX, to = -1;
    for (int p = 0; p < a->n; p++) {
        int64_t f, e;
        mr_att_bands((mr_range){t->lo[p], t->hi[p]}, &f, &e);
        t->total.l[p] = 0;
        if (f > e)
            continue;
        from = f < from ? f : from;
        to = e > to ? e : to;
    }
    for (int64_t number = from; number <= to; number++) {
        one_band(t, number);
        merge_pairs(a, number, t->lo, t->hi, &t->total, &t->part);
    }
    finish(a, &t->total);
}

const mr_attention_kernels LANES_FN(mr_attention) = {all, band, merge, finish, keys, values};
