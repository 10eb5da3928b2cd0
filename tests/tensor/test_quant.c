/* Dequantised rows, bit for bit: GGUF blocks against stored values, MLX affine against the formula.
 *
 * data/TYPE.bin holds blocks, data/TYPE.npy what the gguf Python package makes of them.  MLX files
 * with stored values are under tests/weights/data.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/file.h"
#include "tensor/tensor.h"

static char *read_data(const char *name, const char *ext, size_t *len)
{
    char path[128], *text;
    snprintf(path, sizeof path, "tests/tensor/data/%s.%s", name, ext);
    assert_int_equal(mr_file_read_all(path, 1 << 20, MR_MEM_OTHER, &text, len), MR_OK);
    return text;
}

/* The same blocks as one row, and as many rows; at an odd address too. */
static void check_blocks(mr_dtype t)
{
    size_t len, npy_len;
    char *blocks = read_data(mr_dtype_name(t), "bin", &len);
    char *npy = read_data(mr_dtype_name(t), "npy", &npy_len);
    size_t head = 10 + (uint8_t)npy[8] + 256u * (uint8_t)npy[9];
    size_t n = (npy_len - head) / sizeof(float);
    assert_true(n >= 256);
    assert_int_equal(mr_row_bytes(t, 0, (int64_t)n), len);
    float *want = mr_alloc(MR_MEM_OTHER, n * sizeof *want);
    float *got = mr_alloc(MR_MEM_OTHER, n * sizeof *got);
    char *moved = mr_alloc(MR_MEM_OTHER, len + 1);
    memcpy(want, npy + head, n * sizeof *want);
    memcpy(moved + 1, blocks, len);

    mr_rows whole = {.dtype = t, .n = 1, .k = (int64_t)n, .data = blocks};
    mr_dequant_row(&whole, 0, got);
    assert_memory_equal(got, want, n * sizeof *want);

    int64_t k = mr_dtype_block(t);
    mr_rows split = {.dtype = t, .n = (int64_t)n / k, .k = k, .data = moved + 1};
    memset(got, 0xff, n * sizeof *got);
    for (int64_t r = split.n - 1; r >= 0; r--)
        mr_dequant_row(&split, r, got + r * k);
    assert_memory_equal(got, want, n * sizeof *want);
    mr_free(moved);
    mr_free(got);
    mr_free(want);
    mr_free(npy);
    mr_free(blocks);
}

static void gguf_blocks(void **state)
{
    (void)state;
    check_blocks(MR_Q4_0);
    check_blocks(MR_Q4_1);
    check_blocks(MR_Q8_0);
    check_blocks(MR_Q6_K);
}

static void plain_floats(void **state)
{
    (void)state;
    const float f32[4] = {1.5f, -0.0f, 3e38f, 1e-45f};
    const uint16_t f16[4] = {0x3c00, 0xc000, 0x0001, 0x7bff};
    const uint16_t bf16[4] = {0x3f80, 0xc000, 0x0001, 0x7f7f};
    float got[2];
    mr_rows r = {.dtype = MR_F32, .n = 2, .k = 2, .data = f32};
    mr_dequant_row(&r, 1, got);
    assert_memory_equal(got, f32 + 2, sizeof got);
    r.dtype = MR_F16;
    r.data = f16;
    mr_dequant_row(&r, 0, got);
    assert_true(got[0] == 1.0f && got[1] == -2.0f);
    mr_dequant_row(&r, 1, got);
    assert_true(got[0] == 0x1p-24f && got[1] == 65504.0f);
    r.dtype = MR_BF16;
    r.data = bf16;
    mr_dequant_row(&r, 1, got);
    assert_true(got[0] == 0x1p-133f && got[1] == 0x1.fep127f);
}

/* Codes 0, 1, 2 ... in two groups, with scales for which the product must round before the sum. */
static void check_affine(int bits, mr_dtype scale_dtype)
{
    enum { K = 64, GROUP = 32 };
    uint8_t data[2 * K] = {0};
    const float scale[4] = {0.1f, -0.3f, 1.0f / 3, 7e-3f}, bias[4] = {-1.7f, 0.2f, 1e-3f, 5.0f};
    uint16_t scales16[4], biases16[4];
    float s[4], b[4], got[K];
    for (int i = 0; i < 2 * K; i++) {
        int q = i * 37 & ((1 << bits) - 1);
        if (bits == 8)
            data[i] = (uint8_t)q;
        else
            data[i / 2] |= (uint8_t)(q << 4 * (i & 1));
    }
    for (int i = 0; i < 4; i++) {
        bool half = scale_dtype == MR_F16;
        scales16[i] = half ? mr_f32_to_f16(scale[i]) : mr_f32_to_bf16(scale[i]);
        biases16[i] = half ? mr_f32_to_f16(bias[i]) : mr_f32_to_bf16(bias[i]);
        s[i] = half ? mr_f16_to_f32(scales16[i]) : mr_bf16_to_f32(scales16[i]);
        b[i] = half ? mr_f16_to_f32(biases16[i]) : mr_bf16_to_f32(biases16[i]);
    }
    bool wide = scale_dtype == MR_F32;
    mr_rows r = {.dtype = MR_AFFINE,
                 .bits = bits,
                 .group = GROUP,
                 .scale_dtype = scale_dtype,
                 .n = 2,
                 .k = K,
                 .data = data,
                 .scales = wide ? (const void *)scale : scales16,
                 .biases = wide ? (const void *)bias : biases16};
    for (int row = 0; row < 2; row++) {
        mr_dequant_row(&r, row, got);
        for (int i = 0; i < K; i++) {
            int q = (row * K + i) * 37 & ((1 << bits) - 1), g = 2 * row + i / GROUP;
            volatile float product = (wide ? scale : s)[g] * (float)q;
            volatile float sum = product + (wide ? bias : b)[g];
            assert_true(got[i] == sum);
        }
    }
}

static void affine(void **state)
{
    (void)state;
    for (int bits = 4; bits <= 8; bits += 4) {
        check_affine(bits, MR_F32);
        check_affine(bits, MR_F16);
        check_affine(bits, MR_BF16);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gguf_blocks),
        cmocka_unit_test(plain_floats),
        cmocka_unit_test(affine),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
