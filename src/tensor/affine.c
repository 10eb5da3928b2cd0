/* Affine quantisation, group by group.
 *
 * The step is (max - min) / (2^bits - 1), negative unless |min| > |max|, so that the extreme of the
 * larger magnitude ("edge") is at q0 * step with an integer q0 and bias = edge: zero is then a grid
 * point whenever the group straddles it. */
#include "tensor/affine.h"

#include <math.h>
#include <string.h>

#include "tensor/tensor.h"

bool mr_affine_known(int bits, int group)
{
    return bits >= 2 && bits <= 8 && bits != 7 && (group == 32 || group == 64 || group == 128);
}

static void scale_and_bias(const float *x, int group, int bits, uint16_t *scale, uint16_t *bias)
{
    float low = x[0], high = x[0];
    for (int i = 1; i < group; i++) {
        low = x[i] < low ? x[i] : low;
        high = x[i] > high ? x[i] : high;
    }
    float s = (high - low) / (float)((1 << bits) - 1);
    bool down = fabsf(low) > fabsf(high);
    s = s > 1e-7f ? s : 1e-7f;
    s = down ? s : -s;
    float edge = down ? low : high, q0 = rintf(edge / s);
    if (q0 != 0)
        s = edge / q0;
    *scale = mr_f32_to_bf16(s);
    *bias = mr_f32_to_bf16(q0 != 0 ? edge : 0);
}

void mr_affine_quantise(const float *x, int64_t k, int bits, int group, uint8_t *q,
                        uint16_t *scales, uint16_t *biases)
{
    uint32_t held = 0;
    int have = 0;
    const float top = (float)((1 << bits) - 1);
    for (int64_t g = 0; g < k / group; g++) {
        scale_and_bias(x + g * group, group, bits, &scales[g], &biases[g]);
        float s = mr_bf16_to_f32(scales[g]), b = mr_bf16_to_f32(biases[g]);
        for (int i = 0; i < group; i++) {
            float v = rintf((x[g * group + i] - b) / s);
            v = v < 0 ? 0 : v > top ? top : v;
            held |= (uint32_t)v << have;
            for (have += bits; have >= 8; have -= 8, held >>= 8)
                *q++ = (uint8_t)held;
        }
    }
}
