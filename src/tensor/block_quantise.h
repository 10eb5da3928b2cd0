/* Quantising rows to GGUF's block formats.
 *
 * Why:    `convert` writes what other programs' quantisers write: blocks of 32 to the byte; K-quants
 *         by a search of our own (block_quantise_k.c), which loses no more than theirs.
 * Use:    if (mr_block_quantisable(t)) mr_block_quantise(t, x, k, out);
 * Source of the maths: of blocks of 32 ggml's quantize_row_*_ref.
 */
#ifndef MR_TENSOR_BLOCK_QUANTISE_H
#define MR_TENSOR_BLOCK_QUANTISE_H

#include "tensor/tensor.h"

/* Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K Q4_K Q5_K Q6_K. */
bool mr_block_quantisable(mr_dtype t);
/* What a GGUF tensor can be written as: f32 f16 bf16, one of these by its name, q4 (Q4_0) or q8
 * (Q8_0). MR_EUSAGE lists them. */
mr_err mr_block_parse(const char *name, mr_dtype *out);
/* One row of k finite numbers, k a multiple of the block; out: mr_row_bytes(t, 0, k) bytes. */
void mr_block_quantise(mr_dtype t, const float *x, int64_t k, uint8_t *out);

/* block_quantise_k.c: the K-quants; one super-block of 256 numbers. */
bool mr_super_quantisable(mr_dtype t);
void mr_super_quantise(mr_dtype t, const float *x, uint8_t *out);

#endif
