/* Matrix products of the CPU backend.
 *
 * Why:    all weights are read here and nowhere else: packed once for 16 output lanes, read by two
 *         kernel shapes with equal bits (few rows: straight from the packed form; many rows: a
 *         block of k unpacked to a panel first).
 * Use:    pack:   mr_matrix_bytes / mr_matrix_pack (E matrices of [n,k]: experts or heads; 1 for a
 *                 plain linear)
 *         run:    mr_linear and its kin, with mr_matmul_scratch (mr_expert_, mr_moe_) bytes
 * Bits:   `exact`: y = one FMA chain along k ascending, weights rounded to f32 as
 *         mr_dequant_row gives them.  `fast` on quantised weights: int8 activations with one
 *         outlier quad per group and power-of-two group scales; act f32 as three of those,
 *         which leave out 2^-21 of a group's largest value.  docs/numerics.md has every
 *         formula.  The same bits for any row count, tile, thread count and ISA.  `native` on bf16
 *         weights: bf16 activations and the CPU's dots, if it has them; its bits are that CPU's.
 * Threads: outputs are split over the pool's threads, never k.
 */
#ifndef MR_BACKEND_CPU_MATMUL_H
#define MR_BACKEND_CPU_MATMUL_H

#include "backend/backend.h"
#include "base/pool.h"

typedef struct mr_matrix mr_matrix; /* E packed matrices of [n,k] */

/* Packed size in bytes (everything it allocates). */
mr_err mr_matrix_bytes(mr_fmt fmt, int64_t e, int64_t n, int64_t k, size_t *bytes);
/* Rows of all E matrices come one after the other from the recipe; `read` is called by all threads. */
mr_err mr_matrix_pack(mr_matrix **out, const mr_recipe *r, int64_t e, int64_t n, int64_t k,
                      mr_pool *pool, mr_reader_fn read, void *ctx);
void mr_matrix_free(mr_matrix *m);
int64_t mr_matrix_n(const mr_matrix *m);
int64_t mr_matrix_k(const mr_matrix *m);
bool mr_matrix_int8(const mr_matrix *m, mr_precision p,
                    bool act_f32); /* would it run on int8 activations? */
/* Row `row` of matrix e as f32 (embedding rows come from the packed form: there is one copy). */
void mr_matrix_row(const mr_matrix *m, int64_t e, int64_t row, float *dst);

/* Behind a kernel's name where `native` is as `fast` although all else would let it use dots. */
#define MR_NO_DOTS " (no bf16 dots)"

/* How a product runs. */
typedef struct mr_mm {
    mr_pool *pool;
    mr_isa isa;
    mr_precision precision;
    bool act_f32;   /* act="f32" */
    bool bf16_dots; /* the CPU has them for this isa: `native` uses them */
} mr_mm;

/* Bytes of scratch for `rows` rows of k: rows prepared for int8 or bf16 (none if it runs on f32),
 * and from 5 rows on a panel per thread, with AMX also rows by sixteens.  Heads: rows * heads.  Gated, with two formats: the larger
 * of both. */
size_t mr_matmul_scratch(const mr_mm *mm, mr_fmt fmt, int64_t rows, int64_t k);
/* Name of the kernel for reports, such as "int8 q4 avx512", "f32 bf16 avx2". */
const char *mr_matmul_kernel(const mr_mm *mm, mr_fmt fmt);
mr_arith mr_matmul_arith(const mr_mm *mm, mr_fmt fmt); /* f32 activations in parts count as f32 */

/* y[r, 0..n) = x[r] w^T (+ bias).  ldx, ldy in floats.  scratch: mr_matmul_scratch bytes, 64-byte
 * aligned. */
void mr_linear(const mr_mm *mm, const mr_matrix *w, const float *bias, const float *x, int64_t ldx,
               int64_t rows, float *y, int64_t ldy, void *scratch);
/* y = fn(x wg^T + bg) * (x wu^T + bu); fn as MR_OP_SILU, MR_OP_GELU_TANH, MR_OP_GELU. */
void mr_gated_linear(const mr_mm *mm, const mr_matrix *wg, const mr_matrix *wu, const float *bg,
                     const float *bu, mr_op fn, const float *x, int64_t ldx, int64_t rows, float *y,
                     int64_t ldy, void *scratch);
/* y[r,h] = x[r,h] w[h]^T. */
void mr_linear_heads(const mr_mm *mm, const mr_matrix *w, const float *x, int64_t ldx_row,
                     int64_t ldx_head, int64_t rows, float *y, int64_t ldy_row, int64_t ldy_head,
                     void *scratch);
/* y[r,j] = x[r (,j)] w[ids[r,j]]^T; x has row stride ldx and, if each_j, choice stride ldx_j.  Rows
 * are grouped by expert.  Scratch is told sizes, as plans are made before weights are packed. */
size_t mr_expert_scratch(const mr_mm *mm, mr_fmt fmt, int64_t experts, int64_t n, int64_t k,
                         int64_t rows, int64_t k_top, bool each_j);
void mr_expert_linear(const mr_mm *mm, const mr_matrix *w, const float *x, int64_t ldx,
                      int64_t ldx_j, bool each_j, const int32_t *ids, int64_t rows, int64_t k_top,
                      float *y, void *scratch);
/* The whole expert MLP: gate, up, fn, product, down per group of rows; outputs summed in selection
 * order.  Gate and up need activations of one form (int8 groups and zero, or f32).  last: called
 * before the last product runs, to tell the pool what follows; or NULL. */
size_t mr_moe_scratch(const mr_mm *mm, mr_fmt gate_up, mr_fmt down, int64_t experts, int64_t h,
                      int64_t f, int64_t rows, int64_t k_top);
void mr_moe(const mr_mm *mm, const mr_matrix *wg, const mr_matrix *wu, const mr_matrix *wd,
            mr_op fn, const float *x, int64_t ldx, const int32_t *ids, const float *weights,
            int64_t rows, int64_t k_top, float *y, int64_t ldy, void *scratch,
            void (*last)(const void *ctx), const void *ctx);

#endif
