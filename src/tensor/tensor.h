/* Formats of stored numbers, and rows of them.
 *
 * Why:     a weight is rows of K numbers in some format, wherever it came from. Everything that
 *          reads weights (packing, the ref backend, inspect) sees mr_rows and nothing of the file.
 * Source of the maths: GGUF block layouts as ggml defines them; MLX affine: w = scale*q + bias with
 *          q an unsigned little-endian bit stream per row, one scale and bias per `group` values of
 *          a row.
 */
#ifndef MR_TENSOR_TENSOR_H
#define MR_TENSOR_TENSOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

typedef enum mr_dtype {
#define D(id, name, elems, bytes) MR_##id,
#include "tensor/dtypes.def"
#undef D
    MR_DTYPE_COUNT
} mr_dtype;

const char *mr_dtype_name(mr_dtype t);
int mr_dtype_block(mr_dtype t);       /* elements per block; 0 for MR_AFFINE */
int mr_dtype_block_bytes(mr_dtype t); /* 0 for MR_AFFINE */
/* A format whose rows mr_dequant_row reads: F32 F16 BF16 Q4_0 Q4_1 Q8_0 Q6_K AFFINE(4, 8 bits). */
bool mr_dtype_is_weight(mr_dtype t, int bits);
bool mr_dtype_is_quantised(mr_dtype t);

/* n rows of k numbers.  Row-major; rows are contiguous and whole blocks. */
typedef struct mr_rows {
    mr_dtype dtype;
    int bits, group;      /* MR_AFFINE only */
    mr_dtype scale_dtype; /* MR_AFFINE only: F32 F16 BF16 */
    int64_t n, k;
    const void *data;            /* n * mr_row_bytes */
    const void *scales, *biases; /* MR_AFFINE: [n, k/group] of scale_dtype, else NULL */
} mr_rows;

/* Bytes of one row's data part; 0 if k is not a whole number of blocks (or of `group`). */
size_t mr_row_bytes(mr_dtype t, int bits, int64_t k);
/* One row as f32, each weight rounded as the reference dequantises it: product rounded, then sum
 * rounded (d*q + m; scale*q + bias), bf16 and f16 widened exactly. */
void mr_dequant_row(const mr_rows *r, int64_t row, float *dst);

float mr_f16_to_f32(uint16_t h);
uint16_t mr_f32_to_f16(float f);  /* nearest even */
uint16_t mr_f32_to_bf16(float f); /* nearest even; NaN stays NaN */
static inline float mr_bf16_to_f32(uint16_t h)
{
    union {
        uint32_t u;
        float f;
    } v = {(uint32_t)h << 16};
    return v.f;
}

#endif
