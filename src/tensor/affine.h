/* Quantising rows to MLX's affine form: w = scale * q + bias, one scale and bias per group.
 *
 * Why:     `convert` makes what mlx-lm's own quantiser makes: the larger extreme of a group is hit
 *          exactly and so, if it lies on the grid, is zero.
 * Use:     mr_affine_quantise(x, k, 4, 64, q, scales, biases)
 * Source of the maths: mlx's affine_quantize.  The integers are chosen for the scale and bias as they
 *          are stored, which is bf16.
 */
#ifndef MR_TENSOR_AFFINE_H
#define MR_TENSOR_AFFINE_H

#include <stdbool.h>
#include <stdint.h>

/* Whether MLX has such integers and groups: bits 2 3 4 5 6 8, groups 32 64 128. */
bool mr_affine_known(int bits, int group);
/* One row of k finite numbers, k a multiple of group.  q: k*bits/8 bytes, a little-endian bit stream;
 * scales, biases: k/group bf16 numbers. */
void mr_affine_quantise(const float *x, int64_t k, int bits, int group, uint8_t *q,
                        uint16_t *scales, uint16_t *biases);

#endif
