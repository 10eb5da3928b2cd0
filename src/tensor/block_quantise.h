/* Quantising rows to GGUF's simple block formats.
 *
 * Why:    `convert` writes what other programs' quantisers write, to the byte.
 * Use:    if (mr_block_quantisable(t)) mr_block_quantise(t, x, k, out);
 * Source of the maths: ggml's quantize_row_*_ref.
 */
#ifndef MR_TENSOR_BLOCK_QUANTISE_H
#define MR_TENSOR_BLOCK_QUANTISE_H

#include "tensor/tensor.h"

/* Q4_0 Q4_1 Q5_0 Q5_1 Q8_0. */
bool mr_block_quantisable(mr_dtype t);
/* One row of k finite numbers, k a multiple of 32; out: mr_row_bytes(t, 0, k) bytes. */
void mr_block_quantise(mr_dtype t, const float *x, int64_t k, uint8_t *out);

#endif
