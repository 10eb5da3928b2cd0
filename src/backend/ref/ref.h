/* The reference backend: every primitive op as plainly as it can be written.
 *
 * Why:     it is what the ops mean. Other backends are compared with it, and it with stored vectors
 *          of a reference framework; speed, memory and equal bits are no aim (it is compared by
 *          tolerance).
 * Use:     mr_backend *b;
 *          MR_TRY(mr_backend_ref(&b, &(mr_backend_opts){.threads = 1, .precision = MR_EXACT}));
 * Owns:    weights as f32; caches as plain arrays of all positions (a window is only a mask here).
 * Threads: none.
 * Fails:   ids, rows and positions out of range are errors naming them, since they may come from a
 *          caller.
 * Rules:   1. Sums are kept in double and rounded once, when they are stored.
 *          2. Fused ops are refused; their expansion is what this backend runs.
 *          3. libm is used freely.
 */
#ifndef MR_BACKEND_REF_H
#define MR_BACKEND_REF_H

#include "backend/backend.h"

struct mr_weight {
    int64_t rows, k; /* a tensor of rank 3 lies flat: [E * N, K] */
    float *data;
};

typedef struct mr_ref_cache {
    int heads, dk, dv;
    float *k, *v;    /* [position][heads * dk], [position][heads * dv] */
    float *state[2]; /* a state: committed and open, or the other way round; [heads][dk][dv] */
} mr_ref_cache;

struct mr_kv {
    int n;
    int64_t max_len;
    int64_t len; /* positions 0..len-1 have memory */
    mr_ref_cache *cache;
    bool open;     /* there are rows since the last settling */
    int committed; /* which of a state's two */
};

/* An operand of a step as rows, heads and width; arrays of rank 2 have one head, of rank 1 also a
 * width of 1. */
typedef struct mr_ref_array {
    bool there;
    float *f;   /* f32 arrays: the first element */
    int32_t *i; /* i32 arrays */
    int64_t rows, heads, width;
    int64_t row_stride, head_stride;
    const mr_weight *w; /* weights */
    int cache;          /* caches: which of the session's */
} mr_ref_array;

typedef struct mr_ref_step {
    const mr_node *node;
    const mr_run *run;
    mr_ref_array in[MR_MAX_IN], out[MR_MAX_OUT];
} mr_ref_step;

typedef mr_err (*mr_ref_fn)(const mr_ref_step *s);

/* Row r, head h of a f32 array; row r of an i32 array. */
static inline float *mr_ref_row(const mr_ref_array *a, int64_t r, int64_t h)
{
    return a->f + r * a->row_stride + h * a->head_stride;
}
static inline const int32_t *mr_ref_ints(const mr_ref_array *a, int64_t r)
{
    return a->i + r * a->row_stride;
}
/* The operand of that name. */
static inline const mr_ref_array *mr_ref_in(const mr_ref_step *s, const char *name)
{
    return &s->in[mr_operand_index(s->node->op, name)];
}

/* ref_kv.c */
mr_err mr_ref_kv_new(mr_backend *b, const mr_cache_desc *caches, int n, int64_t max_len,
                     int64_t max_advance, mr_kv **out);
mr_err mr_ref_kv_reserve(mr_backend *b, mr_kv *kv, int64_t len);
size_t mr_ref_kv_bytes(const mr_backend *b, const mr_kv *kv);
size_t mr_ref_kv_need(const mr_backend *b, const mr_cache_desc *caches, int n, int64_t len,
                      int64_t max_advance);
void mr_ref_kv_free(mr_backend *b, mr_kv *kv);
size_t mr_ref_kv_row_bytes(const mr_backend *b, const mr_kv *kv, int cache);
void mr_ref_kv_get(const mr_backend *b, const mr_kv *kv, int cache, int64_t pos, int64_t n,
                   void *rows);
void mr_ref_kv_put(mr_backend *b, mr_kv *kv, int cache, int64_t pos, int64_t n, const void *rows);
void mr_ref_kv_settle(mr_backend *b, mr_kv *kv, bool commit);

/* One function per primitive op. */
#define PRIM(id, name, in, out, attrs, doc) mr_err mr_ref_##id(const mr_ref_step *s);
#define FUSED(id, name, in, out, attrs, doc)
#include "ir/ops.def"
#undef PRIM
#undef FUSED

#endif
