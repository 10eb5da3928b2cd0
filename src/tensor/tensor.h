/* Formats of stored numbers, and rows of them.
 *
 * Why:     a weight is rows of K numbers in some format, wherever it came from. Everything that
 *          reads weights (packing, the ref backend, inspect) sees mr_rows and nothing of the file.
 * Source of the maths: GGUF block layouts as ggml defines them (codes.h has each). Grouped formats:
 *          elements of `bits` bits in one little-endian bit stream per row, a scale s (AFFINE: and a
 *          bias b) per `group` values of a row:
 *            AFFINE  s*q + b, q unsigned           MLX's "affine"
 *            INT     s*(q - 2^(bits-1))            compressed-tensors, symmetric
 *            FP 4    s*e2m1                        mxfp4 (32, E8M0), nvfp4 (16, E4M3)
 *            FP 8    s*e4m3                        mxfp8 (32, E8M0), FP8 blocks of 128 (F32)
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
int mr_dtype_block(mr_dtype t);       /* elements per block; 0 for grouped formats */
int mr_dtype_block_bytes(mr_dtype t); /* 0 for grouped formats */
bool mr_dtype_is_grouped(mr_dtype t);
/* A format whose rows mr_dequant_row reads: F32 F16 BF16, every block format, and grouped formats of
 * these bits: AFFINE 2 3 4 5 6 8, INT and FP 4 8. */
bool mr_dtype_is_weight(mr_dtype t, int bits);
bool mr_dtype_is_quantised(mr_dtype t);
/* Grouped formats: whether files have such groups and scales. */
bool mr_group_known(mr_dtype t, int bits, int group, mr_dtype scale_dtype);

/* n rows of k numbers.  Row-major; rows are contiguous and whole blocks.  Or, with `across`, columns of
 * what is stored, which is runs of k rows of `across` numbers each: row i is number
 * (first + i) % across of every stored row of run (first + i) / across. */
typedef struct mr_rows {
    mr_dtype dtype;
    int bits, group;      /* grouped formats only */
    mr_dtype scale_dtype; /* grouped formats only */
    int64_t n, k;
    const void *data;            /* n * mr_row_bytes */
    const void *scales, *biases; /* grouped: [n, ceil(k/group)] of scale_dtype; biases: AFFINE */
    int64_t across, first;       /* quantised formats only; 0 */
} mr_rows;
/* What is stored of rows with `across`. */
static inline mr_rows mr_rows_stored(const mr_rows *r)
{
    mr_rows s = *r;
    s.n = (r->first + r->n + r->across - 1) / r->across * r->k;
    s.k = r->across;
    s.across = s.first = 0;
    return s;
}

/* Rows are multiples of this many elements: a block; a group, but 1 for FP of 8 bits, whose last
 * group may be cut short, and 32 for the groups of 16. */
int64_t mr_row_unit(mr_dtype t, int bits, int group);
/* Bytes of one row's data part; 0 if k is not whole blocks (grouped: not whole bytes). */
size_t mr_row_bytes(mr_dtype t, int bits, int64_t k);
/* Bytes of one row's scales; 0 unless t is grouped. */
size_t mr_row_scale_bytes(mr_dtype t, int group, mr_dtype scale_dtype, int64_t k);
/* Bytes of one row's scales and biases. */
static inline size_t mr_row_side_bytes(mr_dtype t, int group, mr_dtype scale_dtype, int64_t k)
{
    return mr_row_scale_bytes(t, group, scale_dtype, k) * (t == MR_AFFINE ? 2 : 1);
}
/* One row as f32, each weight rounded as the reference dequantises it: product rounded, then sum
 * rounded (d*q + m; scale*q + bias), bf16 and f16 widened exactly. */
void mr_dequant_row(const mr_rows *r, int64_t row, float *dst);

float mr_f16_to_f32(uint16_t h);
uint16_t mr_f32_to_f16(float f);  /* nearest even */
uint16_t mr_f32_to_bf16(float f); /* nearest even; NaN stays NaN */
float mr_e4m3_to_f32(uint8_t v);  /* 0x7f and 0xff are NaN */
float mr_e8m0_to_f32(uint8_t v);  /* 2^(v-127); 255 is NaN */
static inline float mr_bf16_to_f32(uint16_t h)
{
    union {
        uint32_t u;
        float f;
    } v = {(uint32_t)h << 16};
    return v.f;
}

#endif
