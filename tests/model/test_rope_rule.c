/* The llama3 rule is found again from the divisors that a file keeps of it; others have none. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "model/family.h"

enum { MOST = 128 };

static void fill(const mr_rope_spec *r, float *f, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        f[i] = (float)mr_llama3_divisor(r, i, n);
}

static void found(double theta, double factor, double low, double high, double orig, int64_t n)
{
    mr_rope_spec r = {.theta = theta, .factor = factor, .low = low, .high = high, .orig = orig},
                 got = {.theta = theta};
    float f[MOST], again[MOST];
    fill(&r, f, n);
    assert_true(mr_llama3_find(&got, f, n));
    assert_true(got.factor == factor);
    fill(&got, again, n);
    assert_memory_equal(f, again, (size_t)n * sizeof *f);
}

static void published(void **state)
{
    (void)state;
    found(5e5, 8, 1, 4, 8192, 64);
    found(5e5, 32, 1, 4, 8192, 32);
    found(5e5, 16, 1, 4, 8192, 64);
}

static void odd(void **state)
{
    (void)state;
    found(1e4, 8, 1, 4, 64, 8);
    found(1e4, 4, 2, 8, 100, 64);
    found(1e6, 2, 1.5, 6, 30, 128);
    found(1e4, 8, 1, 4, 64, 3); /* one or none between the ends */
    found(1e8, 8, 1, 4, 1024, 4);
}

static void none(void **state)
{
    (void)state;
    float f[] = {1, 1.5F, 1.25F, 3, 2, 8, 4, 8}, bad[] = {1, 0, -1, 2},
          nan[] = {1, 2, __builtin_nanf(""), 8};
    mr_rope_spec r = {.theta = 1e4};
    assert_false(mr_llama3_find(&r, f, 8));
    assert_false(mr_llama3_find(&r, bad, 4));
    assert_false(mr_llama3_find(&r, nan, 4));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(published),
        cmocka_unit_test(odd),
        cmocka_unit_test(none),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
