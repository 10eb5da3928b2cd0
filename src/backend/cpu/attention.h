/* Attention over KV tiles, and the writing of the tiles.
 *
 * Why:     one numeric form (docs/numerics.md) for decode, prefill, GQA, MQA and MLA: bands of 256
 *          absolute positions, each summed by itself, merged in ascending order per (row, query
 *          head).
 * Use:     k = mr_attention(isa); fill an mr_attend: at most mr_att_pairs pairs (row, query head of
 *          one KV head); then either k->all(a, scratch), or, spread over threads,
 *          k->band(a, s, part, scratch) for every band s it meets, k->merge(a, s, total, part) for
 *          each, ascending, and k->finish(a, total).
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

/* Pairs of a task at most, and of which it is best a multiple: whole register tiles. */
enum { MR_ATT_PAIRS = 192, MR_ATT_UNIT = 12, MR_ATT_BAND = 4 * MR_TILE };

/* The positions [lo, hi) that a row sees; none if lo >= hi. */
typedef struct mr_range {
    int32_t lo, hi;
} mr_range;

/* Pairs of one KV head of one session. */
typedef struct mr_attend {
    const mr_kv_cache *cache;
    bool bf16;
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

/* Unnormalised sums of pairs over some bands: the largest score, the sum of the weights and of the
 * weighted values.  m and l have room for whole vectors. */
typedef struct mr_att_part {
    float *m, *l; /* [n] */
    float *y;     /* [n][mr_up32(dv)] */
} mr_att_part;

typedef struct mr_attention_kernels {
    void (*all)(const mr_attend *a, void *scratch);
    /* What the pairs see of band s, of those that see any of it. */
    void (*band)(const mr_attend *a, int64_t s, const mr_att_part *part, void *scratch);
    /* Adds the part of band s to the total of the bands before it. */
    void (*merge)(const mr_attend *a, int64_t s, const mr_att_part *total, const mr_att_part *part);
    void (*finish)(const mr_attend *a, const mr_att_part *total);
    /* Writes n rows of one head at consecutive positions that lie in one panel of keys (32
     * positions), from lane on; y: the panel, its element size by bf16. */
    void (*keys)(void *y, bool bf16, int lane, int n, const float *k, int64_t ldk, int dk);
    /* Writes one row of values; y: element 0 of its tile's first panel, at that key. */
    void (*values)(void *y, bool bf16, const float *v, int dv);
} mr_attention_kernels;

const mr_attention_kernels *mr_attention(mr_isa isa);

extern const mr_attention_kernels mr_attention_c, mr_attention_avx2, mr_attention_avx512,
    mr_attention_neon;

/* Bytes per thread, of which a task's own at the start, and of the part of n pairs. */
enum { MR_ATT_TASK_BYTES = 2560 };
size_t mr_attend_scratch(int dk, int dv);
size_t mr_att_part_bytes(int n, int dv);

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

static inline mr_att_part mr_att_part_at(void *p, int n)
{
    int64_t n16 = (n + 15) / 16 * 16;
    float *f = p;
    return (mr_att_part){f, f + n16, f + 2 * n16};
}

/* The bands that pair range r meets: *first .. *last, empty if it sees nothing. */
static inline void mr_att_bands(mr_range r, int64_t *first, int64_t *last)
{
    *first = r.lo / MR_ATT_BAND;
    *last = r.lo < r.hi ? (r.hi - 1) / MR_ATT_BAND : *first - 1;
}

#endif
