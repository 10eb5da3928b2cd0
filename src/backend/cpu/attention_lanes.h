/* Attention over 16 lanes: template of attention_*.c (see attention.h, lanes.h, docs/numerics.md).
 *
 * For each tile of 64 keys, ascending:
 *   scores   S[pair][64] = q . K, a register tile of pairs x lanes; one FMA chain along d per key
 *   softmax  scale, cap, mask, new maximum m, p = e^(S - m), alpha = e^(m_old - m), l = l alpha +
 * sum p values   y = y alpha + P V, a register tile of pairs x values; one FMA chain along the keys
 * Several pairs share one pass over the tile; each keeps its own chains, so the bits are those of a
 * pair alone.  Many pairs read a bf16 tile widened once; few read it in place. */
#include "backend/cpu/attention.h"
#include "backend/cpu/math_lanes.h"

#include <math.h>

enum { VECS = MR_TILE / 16 };

/* A task's state, in its thread's scratch. */
typedef struct task {
    const mr_attend *a;
    int n;
    const float *q[MR_ATT_PAIRS];
    float *y[MR_ATT_PAIRS];
    int64_t lo[MR_ATT_PAIRS], hi[MR_ATT_PAIRS];
    float m[MR_ATT_PAIRS], l[MR_ATT_PAIRS];
    float alpha[MR_ATT_PAIRS]; /* a whole number of vectors */
    float s[MR_ATT_PAIRS * MR_TILE];
    float *k_tile, *v_tile; /* widened or transposed copies */
} task;

_Static_assert(sizeof(task) <= MR_ATT_STATE, "a task's scratch must hold its state");
_Static_assert(MR_ATT_PAIRS % 16 == 0, "alpha is computed by whole vectors");

/* 16 cache elements from index i on. */
LANES_INLINE v16f load_kv(const void *p, int64_t i, bool bf16)
{
    return bf16 ? v16f_load_bf16((const uint16_t *)p + i) : v16f_load((const float *)p + i);
}

/* ---- scores ---- */

/* `rows` pairs from p on: S = q . K for all 64 lanes; what is masked is computed and not used. */
LANES_INLINE void scores_tile(task *t, int p, int rows, const void *k, bool bf16)
{
    const float *q[LANES_TILE_ROWS];
    LANES_UNROLL for (int r = 0; r < rows; r++) q[r] = t->q[p + r];
    for (int col = 0; col < VECS; col += LANES_TILE_COLS) {
        v16f acc[LANES_TILE_ROWS][LANES_TILE_COLS];
        LANES_UNROLL for (int r = 0; r < rows; r++)
            LANES_UNROLL for (int c = 0; c < LANES_TILE_COLS; c++) acc[r][c] = v16f_zero();
        for (int64_t d = 0; d < t->a->dk; d++) {
            v16f key[LANES_TILE_COLS];
            LANES_UNROLL for (int c = 0; c < LANES_TILE_COLS; c++) key[c] =
                load_kv(k, d * MR_TILE + 16 * (col + c), bf16);
            LANES_UNROLL for (int r = 0; r < rows; r++)
            {
                v16f x = v16f_set1(q[r][d]);
                LANES_UNROLL for (int c = 0; c < LANES_TILE_COLS; c++) acc[r][c] =
                    v16f_fma(x, key[c], acc[r][c]);
            }
        }
        LANES_UNROLL for (int r = 0; r < rows; r++)
            LANES_UNROLL for (int c = 0; c < LANES_TILE_COLS; c++)
                v16f_store(t->s + (p + r) * MR_TILE + 16 * (col + c), acc[r][c]);
    }
}

/* ---- values ---- */

/* `rows` pairs, `cols` vectors of values from column d on (the last `last` numbers wide), keys
 * [from, to) of the tile. */
LANES_INLINE void values_tile(task *t, int p, int rows, int cols, int64_t d, int last, int from,
                              int to, const void *v, int64_t ldv, bool bf16)
{
    v16f acc[LANES_TILE_ROWS][LANES_TILE_COLS];
    LANES_UNROLL for (int r = 0; r < rows; r++)
    {
        v16f alpha = v16f_set1(t->alpha[p + r]);
        const float *y = t->y[p + r] + d;
        LANES_UNROLL for (int c = 0; c < cols; c++)
        {
            v16f old =
                last == 16 || c + 1 < cols ? v16f_load(y + 16 * c) : v16f_loadn(y + 16 * c, last);
            acc[r][c] = v16f_mul(old, alpha);
        }
    }
    for (int64_t j = from; j < to; j++) {
        v16f val[LANES_TILE_COLS];
        LANES_UNROLL for (int c = 0; c < cols; c++) val[c] = load_kv(v, j * ldv + d + 16 * c, bf16);
        LANES_UNROLL for (int r = 0; r < rows; r++)
        {
            v16f x = v16f_set1(t->s[(p + r) * MR_TILE + j]);
            LANES_UNROLL for (int c = 0; c < cols; c++) acc[r][c] = v16f_fma(x, val[c], acc[r][c]);
        }
    }
    LANES_UNROLL for (int r = 0; r < rows; r++)
    {
        float *y = t->y[p + r] + d;
        LANES_UNROLL for (int c = 0; c < cols; c++)
        {
            if (last == 16 || c + 1 < cols)
                v16f_store(y + 16 * c, acc[r][c]);
            else
                v16f_storen(y + 16 * c, acc[r][c], last);
        }
    }
}

LANES_INLINE void values_rows(task *t, int p, int rows, int from, int to, const void *v,
                              int64_t ldv, bool bf16)
{
    int64_t d = 0, dv = t->a->dv;
    for (; d + 16 * LANES_TILE_COLS <= dv; d += 16 * LANES_TILE_COLS)
        values_tile(t, p, rows, LANES_TILE_COLS, d, 16, from, to, v, ldv, bf16);
    for (; d < dv; d += 16)
        values_tile(t, p, rows, 1, d, dv - d < 16 ? (int)(dv - d) : 16, from, to, v, ldv, bf16);
}

/* ---- pairs p0 .. p1-1 in register tiles ---- */

#define EACH_TILE(CALL)                                                                            \
    for (int p = p0; p < p1;) {                                                                    \
        int rows = p1 - p < LANES_TILE_ROWS ? p1 - p : LANES_TILE_ROWS;                            \
        switch (rows) {                                                                            \
        case 6:                                                                                    \
            CALL(6);                                                                               \
            break;                                                                                 \
        case 5:                                                                                    \
            CALL(5);                                                                               \
            break;                                                                                 \
        case 4:                                                                                    \
            CALL(4);                                                                               \
            break;                                                                                 \
        case 3:                                                                                    \
            CALL(3);                                                                               \
            break;                                                                                 \
        case 2:                                                                                    \
            CALL(2);                                                                               \
            break;                                                                                 \
        default:                                                                                   \
            CALL(1);                                                                               \
            rows = 1;                                                                              \
            break;                                                                                 \
        }                                                                                          \
        p += rows;                                                                                 \
    }

/* A case beyond the tile is never reached; it is clipped so that it compiles to the largest one. */
#define CLIP(n) ((n) < LANES_TILE_ROWS ? (n) : LANES_TILE_ROWS)

static void scores(task *t, int p0, int p1, const void *k, bool bf16)
{
#define F32(n) scores_tile(t, p, CLIP(n), k, false)
#define BF16(n) scores_tile(t, p, CLIP(n), k, true)
    if (bf16)
        EACH_TILE(BF16)
    else
        EACH_TILE(F32)
#undef F32
#undef BF16
}

static void values(task *t, int p0, int p1, int from, int to, const void *v, int64_t ldv, bool bf16)
{
#define F32(n) values_rows(t, p, CLIP(n), from, to, v, ldv, false)
#define BF16(n) values_rows(t, p, CLIP(n), from, to, v, ldv, true)
    if (bf16)
        EACH_TILE(BF16)
    else
        EACH_TILE(F32)
#undef F32
#undef BF16
}

/* ---- softmax ---- */

/* Lanes j of the tile's vector i with from <= 16 i + j < to. */
static inline v16m inside(int i, int from, int to)
{
    return v16m_and(v16m_not(v16m_first(from - 16 * i)), v16m_first(to - 16 * i));
}

static inline float softmax_base(float m)
{
    return m == -INFINITY ? 0.0f : m; /* nothing but -inf so far: e^(-inf - 0) = 0, not NaN */
}

/* Scale, cap, mask and the new maximum; alpha gets the exponent m_old - m. */
static void softmax_max(task *t, int p, int from, int to)
{
    v16f top = v16f_set1(-INFINITY), low = top;
    v16f scale = v16f_set1(t->a->scale), cap = v16f_set1(t->a->softcap);
    float *s = t->s + p * MR_TILE;
    for (int i = 0; i < VECS; i++) {
        v16f x = v16f_mul(v16f_load(s + 16 * i), scale);
        if (t->a->softcap > 0)
            x = v16f_softcap(x, cap);
        x = v16f_select(inside(i, from, to), x, low);
        v16f_store(s + 16 * i, x);
        top = v16f_max(x, top);
    }
    float old = t->m[p], tile = v16f_reduce_max(top), m = tile > old ? tile : old;
    t->m[p] = m;
    t->alpha[p] = old - softmax_base(m);
}

/* p = e^(s - m), 0 outside; l = fma(l, alpha, sum p). */
static void softmax_exp(task *t, int p, int from, int to)
{
    v16f base = v16f_set1(softmax_base(t->m[p])), sum = v16f_zero();
    float *s = t->s + p * MR_TILE;
    for (int i = 0; i < VECS; i++) {
        v16f e = v16f_exp(v16f_sub(v16f_load(s + 16 * i), base));
        e = v16f_select(inside(i, from, to), e, v16f_zero());
        v16f_store(s + 16 * i, e);
        sum = v16f_add(sum, e);
    }
    t->l[p] = fmaf(t->l[p], t->alpha[p], v16f_reduce_add(sum));
}

/* ---- one tile ---- */

/* The keys of the tile at `base` that pair p sees: [*from, *to); false if none. */
static inline bool meets(const task *t, int p, int64_t base, int *from, int *to)
{
    int64_t lo = t->lo[p] - base, hi = t->hi[p] - base;
    *from = lo < 0 ? 0 : lo > MR_TILE ? MR_TILE : (int)lo;
    *to = hi > MR_TILE ? MR_TILE : hi < 0 ? 0 : (int)hi;
    return *from < *to;
}

static void widen(float *y, const void *x, int64_t n)
{
    for (int64_t i = 0; i < n; i += 16)
        v16f_store(y + i, load_kv(x, i, true));
}

/* Values are the first dv of each key: [dk][64] -> [64][dv16], in blocks that stay in cache. */
static void transpose(float *y, int64_t ldy, const float *k, int64_t dv)
{
    for (int64_t d0 = 0; d0 < dv; d0 += 16)
        for (int j0 = 0; j0 < MR_TILE; j0 += 16)
            v16f_transpose(y + j0 * ldy + d0, ldy, k + d0 * MR_TILE + j0, MR_TILE,
                           dv - d0 < 16 ? (int)(dv - d0) : 16);
}

static void one_tile(task *t, int64_t tile)
{
    const mr_attend *a = t->a;
    const mr_kv_cache *c = a->cache;
    int64_t base = tile * MR_TILE, ldv = c->dv16;
    int p0 = 0, p1, from, to;
    while (p0 < t->n && !meets(t, p0, base, &from, &to))
        p0++;
    for (p1 = p0; p1 < t->n && meets(t, p1, base, &from, &to);)
        p1++;
    if (p0 == p1)
        return;

    const char *block = mr_kv_block(c, tile);
    int64_t size = a->bf16 ? 2 : 4, k_at = (int64_t)a->kv_head * c->dk * MR_TILE;
    const void *k = block + k_at * size;
    const void *v = block + ((int64_t)c->v_at + a->kv_head * MR_TILE * ldv) * size;
    bool wide = a->bf16 && (p1 - p0 > LANES_TILE_ROWS || !c->dv), bf16 = a->bf16 && !wide;
    if (wide) {
        widen(t->k_tile, k, (int64_t)c->dk * MR_TILE);
        k = t->k_tile;
    }
    if (!c->dv) {
        ldv = (a->dv + 15) / 16 * 16;
        transpose(t->v_tile, ldv, k, a->dv);
        v = t->v_tile;
    } else if (wide) {
        widen(t->v_tile, v, MR_TILE * ldv);
        v = t->v_tile;
    }

    scores(t, p0, p1, k, bf16);
    for (int p = p0; p < p1; p++) {
        meets(t, p, base, &from, &to);
        softmax_max(t, p, from, to);
    }
    for (int p = p0 / 16 * 16; p < p1; p += 16)
        v16f_store(t->alpha + p, v16f_exp(v16f_load(t->alpha + p)));
    for (int p = p0, q; p < p1; p = q) { /* runs of pairs with the same keys */
        meets(t, p, base, &from, &to);
        for (q = p; q < p1; q++) {
            int f, e;
            meets(t, q, base, &f, &e);
            if (f != from || e != to)
                break;
            softmax_exp(t, q, from, to);
        }
        values(t, p, q, from, to, v, ldv, bf16);
    }
}

static void begin(task *t, const mr_attend *a, int64_t pair0, int n)
{
    t->a = a;
    t->n = n;
    t->k_tile = (float *)((char *)t + MR_ATT_STATE);
    t->v_tile = t->k_tile + (size_t)a->dk * MR_TILE;
    for (int p = 0; p < MR_ATT_PAIRS; p++)
        t->alpha[p] = 0;
    for (int p = 0; p < n; p++) {
        int64_t row = (pair0 + p) / a->group, head = a->kv_head * a->group + (pair0 + p) % a->group;
        t->q[p] = a->q + row * a->q_row + head * a->q_head;
        t->y[p] = a->y + row * a->y_row + head * a->y_head;
        t->lo[p] = a->range[row].lo;
        t->hi[p] = a->range[row].hi;
        t->m[p] = -INFINITY;
        t->l[p] = 0;
        memset(t->y[p], 0, (size_t)a->dv * sizeof(float));
    }
}

/* y / l; a row that saw nothing stays 0. */
static void finish(task *t)
{
    for (int p = 0; p < t->n; p++) {
        if (t->l[p] == 0)
            continue;
        v16f l = v16f_set1(t->l[p]);
        float *y = t->y[p];
        int64_t d = 0, dv = t->a->dv;
        for (; d + 16 <= dv; d += 16)
            v16f_store(y + d, v16f_div(v16f_load(y + d), l));
        if (d < dv)
            v16f_storen(y + d, v16f_div(v16f_loadn(y + d, (int)(dv - d)), l), (int)(dv - d));
    }
}

void LANES_FN(mr_attend)(const mr_attend *a, int64_t pair0, int n, void *scratch)
{
    task *t = scratch;
    begin(t, a, pair0, n);
    int64_t first = INT64_MAX, last = -1; /* tiles */
    for (int p = 0; p < n; p++) {
        if (t->lo[p] >= t->hi[p])
            continue;
        if (t->lo[p] / MR_TILE < first)
            first = t->lo[p] / MR_TILE;
        if ((t->hi[p] - 1) / MR_TILE > last)
            last = (t->hi[p] - 1) / MR_TILE;
    }
    for (int64_t tile = first; tile <= last; tile++)
        one_tile(t, tile);
    finish(t);
}
