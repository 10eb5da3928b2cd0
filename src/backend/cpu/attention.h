/* Attention over KV tiles, and the writing of the tiles.
 *
 * Why:     one numeric form (docs/numerics.md) for decode, prefill, GQA, MQA and MLA: bands of 256
 *          absolute positions, each summed by itself, merged in ascending order per (row, query
 *          head).
 * Use:     k = mr_attention(isa, dots); fill an mr_attend: at most mr_att_pairs pairs (row, query head of
 *          one KV head); then either k->all(a, scratch), or, spread over threads, for every band:
 *          k->scores of all its panels, in any order; k->weights; k->join, band after band; and
 *          k->sums of all columns, in any order, but band after band for each column.
 * Owns:    nothing; scratch is mr_attend_scratch bytes per thread, 64-byte aligned.
 * Rules:   1. Pair p is row p / group, query head kv_head * group + p % group.
 *          2. A pair's bits depend on nothing but its query, its keys and its range [lo, hi): the
 *             kernel knows no masks, the caller turns every kind of mask into ranges.
 *          3. Neither lo nor hi falls from one row to the next, so the pairs that meet a band or a
 *             tile are consecutive.
 */
#ifndef MR_BACKEND_CPU_ATTENTION_H
#define MR_BACKEND_CPU_ATTENTION_H

#include "backend/cpu/cpu_kv.h"

/* Pairs of a task at most, and of which it is best a multiple: whole register tiles.  Positions of a
 * band, positions or columns of a panel. */
enum { MR_ATT_PAIRS = 192, MR_ATT_UNIT = 12, MR_ATT_BAND = 4 * MR_TILE, MR_ATT_PANEL = 32 };

/* From one pair's scores to the next one's: a line more, as lines a power of two apart share few places of a
 * cache. */
enum { MR_ATT_ROW = MR_ATT_BAND + 16 };

/* The positions [lo, hi) that a row sees; none if lo >= hi. */
typedef struct mr_range {
    int32_t lo, hi;
} mr_range;

/* Pairs of one KV head of one session. */
typedef struct mr_attend {
    const mr_kv_cache *cache;
    bool bf16, dots; /* what the cache holds; with dots (not every CPU has them) it is bf16 */
    int kv_head, group, dk, dv;
    float scale, softcap;
    int64_t pair0; /* pairs pair0 .. pair0 + n - 1 */
    int n;
    const mr_range *range; /* of each row */
    const float *q;        /* first row; strides in floats */
    int64_t q_row, q_head;
    float *y;
    int64_t y_row, y_head;
} mr_attend;

/* What pairs have of one band: scores, which become weights, the largest and the sum of these, and by
 * what the sums before it and its own are multiplied where they join.  All but s have room for whole
 * vectors. */
typedef struct mr_att_part {
    float *s;                    /* [n][MR_ATT_ROW] */
    float *m, *l, *before, *own; /* [n] */
} mr_att_part;

/* Of the bands so far: the largest score, the sum of the weights and, not normalised, of the weighted
 * values. */
typedef struct mr_att_total {
    float *m, *l; /* [n] */
    float *y;     /* [n][mr_up32(dv)] */
} mr_att_total;

typedef struct mr_attention_kernels {
    void (*all)(const mr_attend *a, void *scratch);
    /* Panels first .. end-1 of the 8 of band s, those that no pair sees left out; likely: the column
     * from which on the thread is likely to take values next, below 0 if it takes more keys first. */
    void (*scores)(const mr_attend *a, int64_t s, int first, int end, int likely,
                   const mr_att_part *part, void *scratch);
    void (*weights)(const mr_attend *a, int64_t s, const mr_att_part *part, void *scratch);
    void (*join)(const mr_attend *a, int64_t s, const mr_att_total *total, const mr_att_part *part,
                 void *scratch);
    /* Columns d .. end-1, whole panels; a pair's last band makes them the result. */
    void (*sums)(const mr_attend *a, int64_t s, int d, int end, const mr_att_total *total,
                 const mr_att_part *part, void *scratch);
    /* Writes n rows of one head at consecutive positions that lie in one panel of keys (32
     * positions), from lane on; y: the panel, its element size by bf16. */
    void (*keys)(void *y, bool bf16, int lane, int n, const float *k, int64_t ldk, int dk);
    /* Writes one row of values; y: element 0 of its tile's first panel, at that key. */
    void (*values)(void *y, bool bf16, const float *v, int dv);
} mr_attention_kernels;

/* dots: for an mr_attend with them. */
const mr_attention_kernels *mr_attention(mr_isa isa, bool dots);

extern const mr_attention_kernels mr_attention_c, mr_attention_avx2, mr_attention_avx512,
    mr_attention_amx, mr_attention_neon;

/* Bytes per thread, of which a task's own at the start, and of the part and the total of n pairs.
 * Spare: floats behind the queries, which are written 16 lines at a time. */
enum { MR_ATT_TASK_BYTES = 2560, MR_ATT_SPARE = 16 * MR_ATT_UNIT };
size_t mr_attend_scratch(int dk, int dv);
size_t mr_att_part_bytes(int n);
size_t mr_att_total_bytes(int n, int dv);

/* A thread's scratch keeps what it holds of the mr_attend at hand, its queries above all, until another
 * one comes or it is told to forget; so it must be, before one at an address used before. */
static inline void mr_att_forget(void *scratch)
{
    *(const mr_attend **)scratch = NULL;
}

/* Pairs of a task at most: many, as its tiles are widened once for all; few enough that what it
 * works with stays in the second-level cache. */
static inline int mr_att_pairs(int64_t dk, int64_t dv)
{
    return dk + dv <= 640 ? MR_ATT_PAIRS : MR_ATT_PAIRS / 2;
}

static inline int64_t mr_up32(int64_t n)
{
    return (n + 31) / 32 * 32;
}

static inline int64_t mr_up16(int64_t n)
{
    return (n + 15) / 16 * 16;
}

/* Floats of room for a query or a line of keys: those, or two lines of bf16 filled up to whole tiles of 32; and
 * for sums of a group of pairs: all columns, or 32 of 32 pairs. */
static inline int64_t mr_att_width(int64_t dk)
{
    return mr_up32(dk);
}

static inline int64_t mr_att_sums(int64_t dv)
{
    return dv < 64 ? 1024 : 16 * mr_up32(dv);
}

static inline mr_att_part mr_att_part_at(void *p, int n)
{
    int64_t n16 = mr_up16(n);
    float *s = p, *m = s + (int64_t)n * MR_ATT_ROW;
    return (mr_att_part){s, m, m + n16, m + 2 * n16, m + 3 * n16};
}

static inline mr_att_total mr_att_total_at(void *p, int n)
{
    int64_t n16 = mr_up16(n);
    float *f = p;
    return (mr_att_total){f, f + n16, f + 2 * n16};
}

/* The bands that pair range r meets: *first .. *last, empty if it sees nothing. */
static inline void mr_att_bands(mr_range r, int64_t *first, int64_t *last)
{
    *first = r.lo / MR_ATT_BAND;
    *last = r.lo < r.hi ? (r.hi - 1) / MR_ATT_BAND : *first - 1;
}

#endif
