/* GGUF's blocks of 32: the bytes that ggml's own quantisers give (data/quantise.*, made with the gguf
 * package from data/quantise.f32).  K-quants: the error, beside that of ggml's on the same kind of
 * numbers, and what must come back exactly. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/file.h"
#include "tensor/block_quantise.h"

#define DATA "tests/tensor/data/"

static void same_bytes(void **state)
{
    (void)state;
    static const struct {
        mr_dtype t;
        const char *file;
    } all[] = {{MR_Q4_0, DATA "quantise.q4_0"},
               {MR_Q4_1, DATA "quantise.q4_1"},
               {MR_Q5_0, DATA "quantise.q5_0"},
               {MR_Q5_1, DATA "quantise.q5_1"},
               {MR_Q8_0, DATA "quantise.q8_0"}};
    char *x, *want;
    size_t len, n;
    assert_int_equal(mr_file_read_all(DATA "quantise.f32", 1 << 20, MR_MEM_OTHER, &x, &len), MR_OK);
    int64_t k = (int64_t)(len / 4);
    uint8_t *got = malloc(len);
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        assert_true(mr_block_quantisable(all[i].t));
        assert_int_equal(mr_file_read_all(all[i].file, 1 << 20, MR_MEM_OTHER, &want, &n), MR_OK);
        assert_int_equal(n, (size_t)(k / 32) * (size_t)mr_dtype_block_bytes(all[i].t));
        mr_block_quantise(all[i].t, (const float *)(const void *)x, k, got);
        assert_memory_equal(got, want, n);
        mr_free(want);
    }
    assert_false(mr_block_quantisable(MR_IQ4_XS));
    free(got);
    mr_free(x);
}

/* ---- K-quants ---- */

enum { BLOCKS = 400, N = 256 * BLOCKS };

/* Normal numbers of deviation 1, near enough: sums of twelve uniform ones. */
static float *normal_numbers(void)
{
    float *x = malloc(N * sizeof *x);
    uint64_t s = 1;
    for (int i = 0; i < N; i++) {
        x[i] = -6;
        for (int j = 0; j < 12; j++) {
            s = s * 6364136223846793005u + 1442695040888963407u;
            x[i] += (float)(s >> 40) * 0x1p-24f;
        }
    }
    return x;
}

/* Relative error of x after a round trip, which `y` holds then. */
static double round_trip(mr_dtype t, const float *x, float *y)
{
    uint8_t *bytes = malloc(N * sizeof *x);
    double err = 0, sum = 0;
    mr_block_quantise(t, x, N, bytes);
    mr_rows r = {.dtype = t, .n = 1, .k = N, .data = bytes};
    mr_dequant_row(&r, 0, y);
    for (int i = 0; i < N; i++) {
        err += ((double)x[i] - y[i]) * ((double)x[i] - y[i]);
        sum += (double)x[i] * x[i];
    }
    free(bytes);
    return sqrt(err / sum);
}

static void small_errors(void **state)
{
    (void)state;
    static const struct {
        mr_dtype t;
        double ggml; /* on a million normal numbers */
    } all[] = {{MR_Q2_K, 0.297},
               {MR_Q3_K, 0.151},
               {MR_Q4_K, 0.0714},
               {MR_Q5_K, 0.0361},
               {MR_Q6_K, 0.0178}};
    float *x = normal_numbers(), *y = malloc(N * sizeof *y), *z = malloc(N * sizeof *z);
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        double first = round_trip(all[i].t, x, y), again = round_trip(all[i].t, y, z);
        assert_true(first > all[i].ggml / 2 && first < 1.02 * all[i].ggml);
        assert_true(again < first / 2); /* what a block holds, it can hold again */
    }
    free(x);
    free(y);
    free(z);
}

/* Zeros, one number alone, all equal, and the largest and least that f16 scales reach. */
static void extremes(void **state)
{
    (void)state;
    static const mr_dtype all[] = {MR_Q2_K, MR_Q3_K, MR_Q4_K, MR_Q5_K, MR_Q6_K};
    float *x = calloc(N, sizeof *x), *y = malloc(N * sizeof *y);
    for (size_t k = 0; k < sizeof all / sizeof *all; k++) {
        memset(x, 0, N * sizeof *x);
        x[256 + 77] = -3.5f;
        for (int i = 512; i < 768; i++)
            x[i] = 0.25f;
        for (int i = 768; i < 1024; i++)
            x[i] = i % 2 ? 65000.0f : -65000.0f;
        for (int i = 1024; i < 1280; i++)
            x[i] = i % 3 ? 1e-30f : -1e-38f;
        round_trip(all[k], x, y);
        for (int i = 0; i < 256; i++)
            assert_true(y[i] == 0);
        for (int i = 256; i < 512; i++)
            assert_true(fabsf(y[i] - x[i]) < 1e-2f);
        for (int i = 512; i < 1024; i++)
            assert_true(fabsf(y[i] / x[i] - 1) < 0.4f);
        for (int i = 1024; i < N; i++)
            assert_true(fabsf(y[i]) < 1e-6f);
    }
    free(x);
    free(y);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(same_bytes),
        cmocka_unit_test(small_errors),
        cmocka_unit_test(extremes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
