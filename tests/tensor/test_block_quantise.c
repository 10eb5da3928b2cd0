/* GGUF's simple blocks: the bytes that ggml's own quantisers give (data/quantise.*, made with the gguf
 * package from data/quantise.f32). */
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
    assert_false(mr_block_quantisable(MR_Q6_K));
    free(got);
    mr_free(x);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(same_bytes)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
