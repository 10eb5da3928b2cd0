/* The format table, and 16-bit floats: every half and every rounding boundary between two. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "tensor/tensor.h"

static uint32_t bits_of(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return u;
}

static float from_bits(uint32_t u)
{
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

static void table(void **state)
{
    (void)state;
    assert_string_equal(mr_dtype_name(MR_BF16), "bf16");
    assert_string_equal(mr_dtype_name(MR_Q6_K), "q6_k");
    assert_int_equal(mr_dtype_block(MR_Q4_1), 32);
    assert_int_equal(mr_dtype_block_bytes(MR_Q6_K), 210);
    assert_int_equal(mr_dtype_block(MR_AFFINE), 0);
    assert_true(mr_dtype_is_weight(MR_AFFINE, 4));
    assert_true(mr_dtype_is_weight(MR_AFFINE, 8));
    assert_false(mr_dtype_is_weight(MR_AFFINE, 7));
    assert_true(mr_dtype_is_weight(MR_F16, 0));
    assert_false(mr_dtype_is_weight(MR_I8, 0));
    assert_true(mr_dtype_is_quantised(MR_Q8_0));
    assert_true(mr_dtype_is_quantised(MR_AFFINE));
    assert_false(mr_dtype_is_quantised(MR_BF16));
}

static void row_bytes(void **state)
{
    (void)state;
    assert_int_equal(mr_row_bytes(MR_F32, 0, 3), 12);
    assert_int_equal(mr_row_bytes(MR_BF16, 0, 1), 2);
    assert_int_equal(mr_row_bytes(MR_Q4_0, 0, 64), 36);
    assert_int_equal(mr_row_bytes(MR_Q4_0, 0, 63), 0);
    assert_int_equal(mr_row_bytes(MR_Q6_K, 0, 512), 420);
    assert_int_equal(mr_row_bytes(MR_Q6_K, 0, 128), 0);
    assert_int_equal(mr_row_bytes(MR_AFFINE, 4, 96), 48);
    assert_int_equal(mr_row_bytes(MR_AFFINE, 8, 96), 96);
    assert_int_equal(mr_row_bytes(MR_AFFINE, 3, 32), 12);
    assert_int_equal(mr_row_bytes(MR_AFFINE, 4, 49), 0);
}

/* Every half against its definition, and there and back. */
static void halves_widen(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 0x10000; h++) {
        float f = mr_f16_to_f32((uint16_t)h);
        int exponent = h >> 10 & 31, fraction = h & 0x3ff;
        if (exponent == 31) {
            assert_true(fraction ? isnan(f) : isinf(f));
        } else {
            double v = exponent ? ldexp(1024 + fraction, exponent - 25) : ldexp(fraction, -24);
            assert_true(fabs((double)f) == v);
        }
        assert_int_equal(bits_of(f) >> 31, h >> 15);
        uint16_t back = mr_f32_to_f16(f);
        if (exponent == 31 && fraction)
            assert_int_equal(back, h | 0x200);
        else
            assert_int_equal(back, h);
    }
}

/* Between each pair of neighbouring halves: just below, at and just above the middle. */
static void halves_round(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 0x7bff; h++) {
        double low = mr_f16_to_f32((uint16_t)h), high = mr_f16_to_f32((uint16_t)(h + 1));
        float mid = (float)((low + high) / 2);
        assert_true((double)mid == (low + high) / 2);
        for (uint32_t sign = 0; sign <= 1; sign++) {
            float s = sign ? -1.0f : 1.0f;
            uint32_t top = sign << 15;
            assert_int_equal(mr_f32_to_f16(s * nextafterf(mid, 0)), h | top);
            assert_int_equal(mr_f32_to_f16(s * mid), (h + (h & 1)) | top);
            assert_int_equal(mr_f32_to_f16(s * nextafterf(mid, INFINITY)), (h + 1) | top);
        }
    }
    assert_int_equal(mr_f32_to_f16(65519.99f), 0x7bff);
    assert_int_equal(mr_f32_to_f16(65520.0f), 0x7c00);
    assert_int_equal(mr_f32_to_f16(-1e30f), 0xfc00);
    assert_int_equal(mr_f32_to_f16(from_bits(1)), 0);
    assert_int_equal(mr_f32_to_f16(from_bits(0x80000001)), 0x8000);
    assert_true(isnan(mr_f16_to_f32(mr_f32_to_f16(from_bits(0x7f800001)))));
}

static void bf16_round(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 0x7f80; h++) {
        for (uint32_t sign = 0; sign <= 1; sign++) {
            uint32_t u = (h | sign << 15) << 16;
            assert_int_equal(bits_of(mr_bf16_to_f32((uint16_t)(u >> 16))), u);
            assert_int_equal(mr_f32_to_bf16(from_bits(u)), u >> 16);
            assert_int_equal(mr_f32_to_bf16(from_bits(u + 0x7fff)), u >> 16);
            assert_int_equal(mr_f32_to_bf16(from_bits(u + 0x8000)), (u >> 16) + (h & 1));
            assert_int_equal(mr_f32_to_bf16(from_bits(u + 0x8001)), (u >> 16) + 1);
        }
    }
    assert_int_equal(mr_f32_to_bf16(INFINITY), 0x7f80);
    assert_int_equal(mr_f32_to_bf16(-INFINITY), 0xff80);
    for (uint32_t low = 1; low < 0x800000; low = low * 3 + 1) {
        assert_true(isnan(mr_bf16_to_f32(mr_f32_to_bf16(from_bits(0x7f800000 | low)))));
        assert_true(isnan(mr_bf16_to_f32(mr_f32_to_bf16(from_bits(0xff800000 | low)))));
    }
    assert_true(isnan(mr_bf16_to_f32(mr_f32_to_bf16(from_bits(0x7fffffff)))));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(table),        cmocka_unit_test(row_bytes),
        cmocka_unit_test(halves_widen), cmocka_unit_test(halves_round),
        cmocka_unit_test(bf16_round),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
