/* KV caches of one session on the CPU backend.
 *
 * Why:     attention reads whole tiles of 64 absolute positions; a cache is a table of such blocks.
 *          Layout: a block holds per head keys [2][dk][32], two panels of 32 positions, then
 *          values [dv/32][64][32], panels of 32 columns, the last filled up with zeros; dv 0 has no
 *          values (they are the first of the keys). Elements are f32, or bf16 outside `exact`; a
 *          line of 32 bf16 holds its elements i and 16 + i in its i-th pair, so that both are
 *          widened by one shift or mask.
 * Rules:   1. Block b holds positions 64b .. 64b+63; in a ring it lives in slot b modulo `ring`.
 *          2. A ring has ceil((window + max_advance) / 64) + 1 blocks: whatever an open row may
 *             look at is still there, also after a roll back of max_advance rows.
 *          3. A state is there twice, since a run must not change what was committed; both are made at the
 *             first reserve.
 *          4. Blocks are zeroed when made and never given back before the session ends.
 */
#ifndef MR_BACKEND_CPU_KV_H
#define MR_BACKEND_CPU_KV_H

#include "backend/backend.h"

enum { MR_TILE = 64 };

typedef struct mr_kv_cache {
    int heads, dk, dv;
    int64_t slots; /* blocks at most */
    int64_t ring;  /* slots if it is a ring, else 0 */
    int64_t held;  /* slots 0..held-1 have blocks */
    size_t head_bytes, block_bytes;
    void **block; /* [slots] */
    /* A recurrent state, else NULL: the committed and the open one, or the other way round, each of
     * block_bytes; see recurrent.h. */
    float *state[2];
} mr_kv_cache;

struct mr_kv {
    bool bf16;
    int n;
    int64_t max_len, max_advance;
    int64_t len;    /* positions 0..len-1 have blocks */
    int64_t blocks; /* 0..blocks-1 have been made, for the caches that have as many */
    size_t bytes;
    mr_kv_cache *cache; /* [n] */
    bool open;          /* states: rows have been run since the last settling */
    int committed;      /* which of a state's two */
};

/* Where element i of a line of 32 lies in it. */
static inline int mr_kv_place(bool bf16, int i)
{
    return !bf16 ? i : i < 16 ? 2 * i : 2 * (i - 16) + 1;
}

/* The block of absolute positions 64b .. 64b+63. */
static inline void *mr_kv_block(const mr_kv_cache *c, int64_t b)
{
    return c->block[c->ring ? b % c->ring : b];
}

mr_err mr_cpu_kv_new(mr_backend *b, const mr_cache_desc *caches, int n, int64_t max_len,
                     int64_t max_advance, mr_kv **out);
mr_err mr_cpu_kv_reserve(mr_backend *b, mr_kv *kv, int64_t len);
size_t mr_cpu_kv_bytes(const mr_backend *b, const mr_kv *kv);
size_t mr_cpu_kv_need(const mr_backend *b, const mr_cache_desc *caches, int n, int64_t len,
                      int64_t max_advance);
void mr_cpu_kv_free(mr_backend *b, mr_kv *kv);
size_t mr_cpu_kv_row_bytes(const mr_backend *b, const mr_kv *kv, int cache);
void mr_cpu_kv_get(const mr_backend *b, const mr_kv *kv, int cache, int64_t pos, int64_t n,
                   void *rows);
void mr_cpu_kv_put(mr_backend *b, mr_kv *kv, int cache, int64_t pos, int64_t n, const void *rows);
void mr_cpu_kv_settle(mr_backend *b, mr_kv *kv, bool commit);

#endif
