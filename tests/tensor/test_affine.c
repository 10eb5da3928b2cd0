/* Affine quantisation: every number within half a step, extremes hit, zero kept, bit streams as the
 * reader reads them. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "base/rng.h"
#include "tensor/affine.h"
#include "tensor/tensor.h"

enum { K = 256 };

static void back(const uint8_t *q, const uint16_t *s, const uint16_t *b, int bits, int group,
                 float *y)
{
    mr_rows r = {.dtype = MR_AFFINE,
                 .bits = bits,
                 .group = group,
                 .scale_dtype = MR_BF16,
                 .n = 1,
                 .k = K,
                 .data = q,
                 .scales = s,
                 .biases = b};
    mr_dequant_row(&r, 0, y);
}

static void fill(float *x, int kind, uint64_t seed)
{
    for (int i = 0; i < K; i++) {
        float u = (float)mr_uniform(seed, (uint64_t)i, 0);
        x[i] = kind == 0   ? u - 0.5f
               : kind == 1 ? u * u * u * 8 - 1
               : kind == 2 ? -u - 3
               : kind == 3 ? 0
                           : 1e-30f * u;
    }
}

/* Half a step, beyond the grid's end (zero being a grid point costs up to a step of range) the
 * way to it, and what bf16 moves the range: 2^-8 of bias and of all steps. */
static void check(float x, float y, int bits, float step, float bias)
{
    float span = step * (float)((1 << bits) - 1), low = fminf(bias, bias + span),
          high = fmaxf(bias, bias + span), out = fmaxf(0, fmaxf(low - x, x - high));
    float most = fmaxf(0.5f * fabsf(step), out) + (fabsf(bias) + fabsf(span)) * 0x1p-8f + 1e-7f;
    if (!(fabsf(x - y) <= most) || out > fabsf(step) + fabsf(bias) * 0x1p-8f)
        fail_msg("%d bits: %g is %g, step %g bias %g", bits, x, y, step, bias);
}

static void within_half_a_step(void **state)
{
    (void)state;
    static const int widths[] = {2, 3, 4, 5, 6, 8}, groups[] = {32, 64, 128};
    float x[K], y[K];
    uint8_t q[K];
    uint16_t s[K], b[K];
    for (int w = 0; w < 6; w++)
        for (int g = 0; g < 3; g++)
            for (int kind = 0; kind < 5; kind++) {
                int bits = widths[w], group = groups[g];
                fill(x, kind, (uint64_t)(w * 100 + g * 10 + kind));
                mr_affine_quantise(x, K, bits, group, q, s, b);
                back(q, s, b, bits, group, y);
                for (int i = 0; i < K; i++)
                    check(x[i], y[i], bits, mr_bf16_to_f32(s[i / group]),
                          mr_bf16_to_f32(b[i / group]));
            }
}

/* A group that straddles zero keeps zeros; numbers on a grid that bf16 holds come back as they are. */
static void exact_where_it_can_be(void **state)
{
    (void)state;
    float x[K], y[K];
    uint8_t q[K];
    uint16_t s[K], b[K];
    for (int i = 0; i < K; i++)
        x[i] = (float)(i % 16 - 8) * 0.25f;
    mr_affine_quantise(x, K, 4, 64, q, s, b);
    back(q, s, b, 4, 64, y);
    assert_memory_equal(x, y, sizeof x);
    for (int i = 0; i < K; i++)
        x[i] = i % 7 ? (float)mr_uniform(3, (uint64_t)i, 0) - 0.4f : 0;
    mr_affine_quantise(x, K, 8, 32, q, s, b);
    back(q, s, b, 8, 32, y);
    for (int i = 0; i < K; i += 7)
        assert_true(fabsf(y[i]) <= 0.01f * fabsf(mr_bf16_to_f32(s[i / 32])) * 255);
}

static void known(void **state)
{
    (void)state;
    assert_true(mr_affine_known(4, 64) && mr_affine_known(2, 32) && mr_affine_known(8, 128));
    assert_false(mr_affine_known(7, 64) || mr_affine_known(1, 64) || mr_affine_known(4, 16) ||
                 mr_affine_known(9, 64));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(within_half_a_step),
        cmocka_unit_test(exact_where_it_can_be),
        cmocka_unit_test(known),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
