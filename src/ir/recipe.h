/* Recipes: how a prepared weight is made from the tensors of a file.
 *
 * Why:    concatenation, 1+w, row permutations and transposes are carried out while a weight is
 *         packed (at load, or under the read of a streamed expert), never as a folded tensor in
 *         memory.
 * Text:   pieces joined by " + ", each a tensor name and modifiers, one after the other along the
 *         rows:
 *             model.layers.0.self_attn.q_proj.weight + model.layers.0.self_attn.k_proj.weight
 *             model.layers.3.mlp.experts.{0..255}.gate_proj.weight       256 tensors in order
 *             blk.0.attn_q.weight :unrope(9)
 *             model.layers.0.self_attn.kv_b_proj.weight :rows(56,0,32) :t(32)
 *         :rows(P,O,L)   of every P rows keep L from O on
 *         :unrope(H)     undo GGUF's order of q and k rows: in each of H heads of d rows, row
 *                        2i+j becomes row j*d/2+i
 *         :unrope_k(H)   the same along each row (as f32 where the format has blocks)
 *         :t(L)          transpose each run of L rows [L,K] -> [K,L]: written last, in the format of
 *                        mr_fmt_transposed; else, or beside pieces of another format, as f32
 *         :untile(H,D)   rows lie as tiles of H heads of D rows; of R tiles, head k of tile r becomes
 *                        head k*R+r
 *         :untile_k(H,D) the same along each row (as f32 where D is not whole blocks of the format)
 *         :plus1         add 1 (as f32)
 *         :negexp        x becomes -exp(x), rounded once (as f32)
 *         Modifiers apply in the order written, each at most once, to every tensor of a range.
 *         Tensors of one row each (biases, norms), if all are, join end to end into one row.
 * Result: a matrix of rows; the weight value's shape [.., N, K] must have as many rows in all.
 *
 * Use:    mr_recipe *r; MR_TRY(mr_recipe_parse(&r, text, arena));
 *         MR_TRY(mr_recipe_bind(r, lookup, ctx));    finds every tensor; knows rows, k, fmt
 *         MR_TRY(mr_recipe_rows(r, row0, n, reader, ctx, &scratch, &rows));
 * Owns:   a recipe lies in the caller's arena; it keeps what lookup gave, also for handles.
 * Threads: immutable after bind; one scratch per thread.
 * Fails:  MR_EFORMAT naming recipe, tensor and reason; what lookup and reader return.
 */
#ifndef MR_IR_RECIPE_H
#define MR_IR_RECIPE_H

#include "ir/graph.h"

typedef struct mr_recipe mr_recipe;

/* Facts of a stored tensor, flattened to rows x k. */
typedef struct mr_stored {
    const void *handle; /* whatever the reader wants back */
    mr_fmt fmt;
    int64_t rows, k;
    bool matrix; /* of two axes or more: one row of it is no vector */
} mr_stored;
/* Fills *out; an error names the tensor ("FILE: tensor NAME is missing"). */
typedef mr_err (*mr_lookup_fn)(void *ctx, const char *name, mr_stored *out);
/* Bytes of n of its rows: all data, then (grouped formats) all scales, then (MR_AFFINE) all biases. */
size_t mr_stored_bytes(const mr_stored *t, int64_t n);
/* Reads rows [row0, row0+n) of a stored tensor into buf (mr_stored_bytes(t, n) large). */
typedef mr_err (*mr_reader_fn)(void *ctx, const mr_stored *t, int64_t row0, int64_t n, void *buf,
                               mr_rows *out);

mr_err mr_recipe_parse(mr_recipe **out, const char *text, mr_arena *arena);
mr_err mr_recipe_bind(mr_recipe *r, mr_lookup_fn lookup, void *ctx);
/* After bind: total rows, k, and the format rows come in (the common format of the pieces; F32 for
 * all if a piece comes as f32; else pieces of unlike formats are an error). */
int64_t mr_recipe_total(const mr_recipe *r);
int64_t mr_recipe_k(const mr_recipe *r);
mr_fmt mr_recipe_fmt(const mr_recipe *r);
/* After bind: the recipe gives what a weight value is declared to be: rows, k and format. */
mr_err mr_recipe_fits(const mr_recipe *r, const mr_graph *g, int value);
/* Calls fn for each tensor name, ranges expanded. */
mr_err mr_recipe_names(const mr_recipe *r, mr_err (*fn)(void *ctx, const char *name), void *ctx);
/* Prepared rows [row0, row0+n); buffers grow in `scratch`, which starts as {0} (caller frees it
 * with mr_recipe_scratch_free), and *out points into them until the next call. */
typedef struct mr_recipe_scratch {
    void *buf[3]; /* result, stored rows, one run of a transpose */
    size_t cap[3];
    uint64_t run_of; /* whose run buf[2] holds: number of the binding, 0 none; tensor; run */
    int64_t run_source, run;
} mr_recipe_scratch;
mr_err mr_recipe_rows(const mr_recipe *r, int64_t row0, int64_t n, mr_reader_fn read, void *ctx,
                      mr_recipe_scratch *scratch, mr_rows *out);
void mr_recipe_scratch_free(mr_recipe_scratch *s);

#endif
