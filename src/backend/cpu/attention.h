/* Attention over KV tiles.
 *
 * Why:     one numeric form (docs/numerics.md) for decode, prefill, GQA, MQA and MLA: tiles of 64
 *          absolute positions in ascending order, an online softmax per (row, query head).
 * Use:     fill mr_attend, split its pairs (row, query head of one KV head) into tasks of at most
 *          MR_ATT_PAIRS, and call mr_attend_kernel(isa)(a, pair0, n, scratch) for each, in any
 *          order.
 * Owns:    nothing; scratch is mr_attend_scratch bytes per thread, 64-byte aligned.
 * Rules:   1. Pair p is row p / group, query head kv_head * group + p % group.
 *          2. A pair's bits depend on nothing but its query, its keys and its range [lo, hi): the
 *             kernel knows no masks, the caller turns every kind of mask into ranges.
 *          3. Neither lo nor hi falls from one row to the next, so the pairs that meet a tile are
 *             consecutive.
 */
#ifndef MR_BACKEND_CPU_ATTENTION_H
#define MR_BACKEND_CPU_ATTENTION_H

#include "backend/cpu/cpu_kv.h"

enum { MR_ATT_PAIRS = 96 };

/* Bytes of a task's state before its tiles: two pointers, two bounds, three floats and 64 scores per
 * pair, and some for the rest (attention_lanes.h asserts it). */
enum { MR_ATT_STATE = MR_ATT_PAIRS * (8 * 4 + 4 * 3 + 4 * MR_TILE) + 256 };

/* The positions [lo, hi) that a row sees; none if lo >= hi. */
typedef struct mr_range {
    int32_t lo, hi;
} mr_range;

/* One KV head of one session, and the rows that look at it. */
typedef struct mr_attend {
    const mr_kv_cache *cache;
    bool bf16;
    int kv_head, group, dk, dv;
    float scale, softcap;
    const mr_range *range; /* of each row */
    const float *q;        /* first row; strides in floats */
    int64_t q_row, q_head;
    float *y;
    int64_t y_row, y_head;
} mr_attend;

typedef void (*mr_attend_fn)(const mr_attend *a, int64_t pair0, int n, void *scratch);

/* Bytes per thread for keys of dk and values of dv numbers. */
size_t mr_attend_scratch(int dk, int dv);
mr_attend_fn mr_attend_kernel(mr_isa isa);

void mr_attend_c(const mr_attend *a, int64_t pair0, int n, void *scratch);
void mr_attend_avx2(const mr_attend *a, int64_t pair0, int n, void *scratch);
void mr_attend_avx512(const mr_attend *a, int64_t pair0, int n, void *scratch);
void mr_attend_neon(const mr_attend *a, int64_t pair0, int n, void *scratch);

#endif
