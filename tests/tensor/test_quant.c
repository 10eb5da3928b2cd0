/* Dequantised rows, bit for bit: GGUF blocks against stored values, grouped formats against the formula.
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
    for (int t = 0; t < MR_DTYPE_COUNT; t++)
        if (mr_dtype_block((mr_dtype)t) > 1)
            check_blocks((mr_dtype)t);
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

/* Element i of a little-endian bit stream of rows of k. */
static void put_code(uint8_t *data, int bits, int i, int q)
{
    for (int j = 0; j < bits; j++)
        data[(i * bits + j) / 8] |= (uint8_t)((q >> j & 1) << (i * bits + j) % 8);
}

enum { K = 128, GROUP = 64, ROWS = 2, SCALES = ROWS * K / GROUP };

/* Codes of all values in four groups, with scales for which the product must round before the sum;
 * without a bias (INT) codes are signed. */
static void check_grouped(mr_dtype type, int bits, mr_dtype scale_dtype)
{
    uint8_t data[ROWS * K] = {0};
    const float scale[SCALES] = {0.1f, -0.3f, 1.0f / 3, 7e-3f};
    const float bias[SCALES] = {-1.7f, 0.2f, 1e-3f, 5.0f};
    uint16_t scales16[SCALES], biases16[SCALES];
    float s[SCALES], b[SCALES], got[K];
    for (int i = 0; i < ROWS * K; i++)
        put_code(data, bits, i, i * 37 & ((1 << bits) - 1));
    for (int i = 0; i < SCALES; i++) {
        bool half = scale_dtype == MR_F16, wide = scale_dtype == MR_F32;
        scales16[i] = half ? mr_f32_to_f16(scale[i]) : mr_f32_to_bf16(scale[i]);
        biases16[i] = half ? mr_f32_to_f16(bias[i]) : mr_f32_to_bf16(bias[i]);
        s[i] = half ? mr_f16_to_f32(scales16[i]) : mr_bf16_to_f32(scales16[i]);
        b[i] = half ? mr_f16_to_f32(biases16[i]) : mr_bf16_to_f32(biases16[i]);
        s[i] = wide ? scale[i] : s[i];
        b[i] = wide ? bias[i] : b[i];
    }
    bool wide = scale_dtype == MR_F32;
    mr_rows r = {.dtype = type,
                 .bits = bits,
                 .group = GROUP,
                 .scale_dtype = scale_dtype,
                 .n = ROWS,
                 .k = K,
                 .data = data,
                 .scales = wide ? (const void *)scale : scales16,
                 .biases = type != MR_AFFINE ? NULL
                           : wide            ? (const void *)bias
                                             : biases16};
    for (int row = 0; row < ROWS; row++) {
        mr_dequant_row(&r, row, got);
        for (int i = 0; i < K; i++) {
            int q = (row * K + i) * 37 & ((1 << bits) - 1), g = 2 * row + i / GROUP;
            volatile float product = s[g] * (float)(type == MR_INT ? q - (1 << (bits - 1)) : q);
            volatile float sum = product + b[g];
            assert_true(got[i] == (type == MR_INT ? product : sum));
        }
    }
}

static void integer_groups(void **state)
{
    static const int bits[] = {2, 3, 4, 5, 6, 8};
    static const mr_dtype scales[] = {MR_F32, MR_F16, MR_BF16};
    (void)state;
    for (int s = 0; s < 3; s++) {
        for (int i = 0; i < 6; i++)
            check_grouped(MR_AFFINE, bits[i], scales[s]);
        check_grouped(MR_INT, 4, scales[s]);
        check_grouped(MR_INT, 8, scales[s]);
    }
}

/* E2M1 and E4M3 elements: two groups of a row, the last one of E4M3 cut short. */
static void float_groups(void **state)
{
    static const float e2m1[16] = {0,     0.5f,  1,     1.5f,  2,  3,  4,  6,
                                   -0.0f, -0.5f, -1.0f, -1.5f, -2, -3, -4, -6};
    static const uint8_t e8m0[2] = {0, 130}, e4m3[4] = {0x01, 0x38, 0x7e, 0xb9};
    static const float values[4] = {0x1p-9f, 1, 448, -1.125f}, f32[2] = {0.1f, -3};
    uint8_t data[64];
    float got[144];
    (void)state;
    for (int i = 0; i < 32; i++)
        data[i] = (uint8_t)((2 * i & 15) | (2 * i + 1) % 16 << 4);
    mr_rows r = {.dtype = MR_FP, .bits = 4, .group = 32, .scale_dtype = MR_F8_E8M0};
    r.n = 1;
    r.k = 64;
    r.data = data;
    r.scales = e8m0;
    mr_dequant_row(&r, 0, got);
    for (int i = 0; i < 64; i++)
        assert_true(got[i] == e2m1[i % 16] * (i < 32 ? 0x1p-127f : 8.0f));
    r.group = 16;
    r.scale_dtype = MR_F8_E4M3;
    r.scales = e4m3;
    mr_dequant_row(&r, 0, got);
    for (int i = 0; i < 64; i++)
        assert_true(got[i] == e2m1[i % 16] * values[i / 16]);

    uint8_t bytes[144];
    for (int i = 0; i < 144; i++)
        bytes[i] = e4m3[i % 4];
    r = (mr_rows){.dtype = MR_FP, .bits = 8, .group = 128, .scale_dtype = MR_F32, .n = 1, .k = 144};
    r.data = bytes;
    r.scales = f32;
    mr_dequant_row(&r, 0, got);
    for (int i = 0; i < 144; i++) {
        volatile float product = values[i % 4] * f32[i / 128];
        assert_true(got[i] == product);
    }
}

static void small_floats(void **state)
{
    (void)state;
    assert_true(mr_e4m3_to_f32(0x7f) != mr_e4m3_to_f32(0x7f));
    assert_true(mr_e4m3_to_f32(0xff) != mr_e4m3_to_f32(0xff));
    for (int v = 0; v < 256; v++) {
        int exponent = v >> 3 & 15, fraction = v & 7;
        float x = exponent ? (float)(8 + fraction) : (float)fraction;
        for (int e = exponent ? exponent : 1; e < 10; e++)
            x *= 0.5f;
        for (int e = 10; e < exponent; e++)
            x *= 2;
        if ((v & 0x7f) != 0x7f)
            assert_true(mr_e4m3_to_f32((uint8_t)v) == (v & 0x80 ? -x : x));
    }
    assert_true(mr_e8m0_to_f32(0) == 0x1p-127f && mr_e8m0_to_f32(1) == 0x1p-126f);
    assert_true(mr_e8m0_to_f32(127) == 1 && mr_e8m0_to_f32(254) == 0x1p127f);
    assert_true(mr_e8m0_to_f32(255) != mr_e8m0_to_f32(255));
}

/* What group sizes and scales files have, and rows that are no whole blocks. */
static void facts(void **state)
{
    (void)state;
    assert_true(mr_group_known(MR_AFFINE, 3, 128, MR_BF16));
    assert_false(mr_group_known(MR_AFFINE, 7, 64, MR_BF16));
    assert_false(mr_group_known(MR_AFFINE, 4, 48, MR_BF16));
    assert_false(mr_group_known(MR_AFFINE, 4, 64, MR_F8_E8M0));
    assert_true(mr_group_known(MR_INT, 4, 32, MR_BF16) && !mr_group_known(MR_INT, 5, 32, MR_BF16));
    assert_true(mr_group_known(MR_FP, 4, 16, MR_F8_E4M3));
    assert_false(mr_group_known(MR_FP, 4, 16, MR_F8_E8M0));
    assert_true(mr_group_known(MR_FP, 8, 128, MR_F32) && !mr_group_known(MR_FP, 8, 64, MR_F32));
    assert_int_equal(mr_row_unit(MR_FP, 4, 16), 32);
    assert_int_equal(mr_row_unit(MR_FP, 8, 128), 1);
    assert_int_equal(mr_row_unit(MR_AFFINE, 4, 128), 128);
    assert_int_equal(mr_row_unit(MR_Q4_K, 0, 0), 256);
    assert_int_equal(mr_row_bytes(MR_AFFINE, 3, 64), 24);
    assert_int_equal(mr_row_bytes(MR_AFFINE, 3, 12), 0);
    assert_int_equal(mr_row_bytes(MR_FP, 8, 130), 130);
    assert_int_equal(mr_row_bytes(MR_Q4_K, 0, 128), 0);
    assert_int_equal(mr_row_scale_bytes(MR_FP, 128, MR_F32, 130), 8);
    assert_int_equal(mr_row_side_bytes(MR_AFFINE, 64, MR_BF16, 128), 8);
    assert_int_equal(mr_row_scale_bytes(MR_Q4_K, 0, MR_F32, 256), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gguf_blocks),    cmocka_unit_test(plain_floats),
        cmocka_unit_test(integer_groups), cmocka_unit_test(float_groups),
        cmocka_unit_test(small_floats),   cmocka_unit_test(facts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
