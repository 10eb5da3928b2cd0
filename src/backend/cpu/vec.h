/* Kernels over single rows: elementwise, norms, rotation, softmax scores, sums over experts.
 *
 * Why:    what is not a product and not attention, written once (vec_lanes.h), compiled per ISA.
 * Use:    const mr_vec_kernels *v = mr_vec(isa);  v->add(y, a, b, n)
 * Bits:   the order of every operation is in docs/numerics.md; equal on all ISAs.
 * Rules:  rows are contiguous; y may be x (or a or b) itself, never a shifted part of it.
 */
#ifndef MR_BACKEND_CPU_VEC_H
#define MR_BACKEND_CPU_VEC_H

#include <stdbool.h>
#include <stdint.h>

#include "base/cpu.h"
#include "ir/graph.h"

typedef struct mr_vec_kernels {
    void (*add)(float *y, const float *a, const float *b, int64_t n);
    void (*mul)(float *y, const float *a, const float *b, int64_t n);
    /* scale (p: by), softcap (p: cap), silu, gelu_tanh, gelu, sigmoid, relu */
    void (*map)(mr_op fn, float p, float *y, const float *x, int64_t n);
    /* y = (x inv) (w + offset), inv = 1 / sqrt(mean(x^2) + eps); w NULL: y = x inv */
    void (*rmsnorm)(float *y, const float *x, const float *w, float eps, float offset, int64_t n);
    /* y = (x inv) scale, inv = 1 / sqrt(sum(x^2) + eps) */
    void (*l2norm)(float *y, const float *x, float eps, float scale, int64_t n);
    /* Rotates `dim` values; table: dim/2 cosines, then dim/2 sines. */
    void (*rope)(float *y, const float *x, const float *table, int64_t dim, bool interleaved);
    /* y = sum over j ascending of w[j] x[j ldj ..] */
    void (*combine)(float *y, const float *x, int64_t ldj, const float *w, int64_t k, int64_t n);
    /* The same sum for each row of w, gone on with from what y holds:
     * y[r ldy ..] += sum over j ascending of w[r ldw + j] x[j ldx ..] */
    void (*accumulate)(float *y, int64_t ldy, const float *w, int64_t ldw, int64_t rows,
                       const float *x, int64_t ldx, int64_t k, int64_t n);
    void (*softmax)(float *y, const float *x, int64_t n);
    void (*to_bf16)(uint16_t *y, const float *x, int64_t n);
} mr_vec_kernels;

const mr_vec_kernels *mr_vec(mr_isa isa);

extern const mr_vec_kernels mr_vec_c, mr_vec_avx2, mr_vec_avx512, mr_vec_neon;

#endif
