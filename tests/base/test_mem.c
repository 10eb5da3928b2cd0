/* Memory: alignment, accounts, injected failures, arenas; and the random numbers, which are as
 * small. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/mem.h"
#include "base/rng.h"

static bool is_zero(const char *p, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if (p[i])
            return false;
    return true;
}

static void test_blocks_are_aligned_and_accounted(void **state)
{
    (void)state;
    static const size_t sizes[] = {0, 1, 63, 64, 65, 4096, 1 << 20};
    void *p[7];
    size_t sum = 0, held = mr_mem_held(MR_MEM_KV), all = mr_mem_held(MR_MEM_COUNT);
    for (int i = 0; i < 7; i++) {
        p[i] = i % 2 ? mr_zalloc(MR_MEM_KV, sizes[i]) : mr_alloc(MR_MEM_KV, sizes[i]);
        assert_non_null(p[i]);
        assert_int_equal((uintptr_t)p[i] % 64, 0);
        if (i % 2)
            assert_true(is_zero(p[i], sizes[i]));
        memset(p[i], 0xa5, sizes[i]);
        sum += sizes[i];
        assert_int_equal(mr_mem_held(MR_MEM_KV), held + sum);
        assert_int_equal(mr_mem_held(MR_MEM_COUNT), all + sum);
    }
    assert_true(mr_mem_peak(MR_MEM_KV) >= held + sum);
    assert_true(mr_mem_peak(MR_MEM_COUNT) >= mr_mem_peak(MR_MEM_KV));
    for (int i = 0; i < 7; i++)
        mr_free(p[i]);
    mr_free(NULL);
    assert_int_equal(mr_mem_held(MR_MEM_KV), held);
    assert_int_equal(mr_mem_held(MR_MEM_COUNT), all);
    assert_true(mr_mem_peak(MR_MEM_KV) >= held + sum);
}

/* Sizes on both sides of malloc's threshold for mappings, so that blocks move and shift. */
static void test_realloc_keeps_bytes(void **state)
{
    (void)state;
    size_t all = mr_mem_held(MR_MEM_COUNT);
    size_t size = 0;
    unsigned char *p = NULL;
    srand(7);
    for (int round = 0; round < 300; round++) {
        size_t next = (size_t)rand() % (round % 3 ? 5000 : 600000);
        p = mr_realloc(round % 2 ? MR_MEM_ARENA : MR_MEM_OTHER, p, next);
        assert_non_null(p);
        assert_int_equal((uintptr_t)p % 64, 0);
        for (size_t i = 0; i < size && i < next; i++)
            if (p[i] != (unsigned char)(i * 31))
                fail_msg("byte %zu lost in round %d", i, round);
        for (size_t i = 0; i < next; i++)
            p[i] = (unsigned char)(i * 31);
        size = next;
        assert_int_equal(mr_mem_held(MR_MEM_COUNT), all + size);
    }
    assert_int_equal(mr_mem_held(MR_MEM_ARENA), size);
    mr_free(p);
    assert_int_equal(mr_mem_held(MR_MEM_COUNT), all);
}

/* Sizes of a small block, of several to a slab and of one alone; two rounds, the second in what the
 * first gave back. */
static void test_streamed_blocks(void **state)
{
    (void)state;
    static const size_t sizes[] = {100, 128 << 10, 1000001, 9 << 20, 40 << 20, 300000, 5 << 20};
    enum { N = sizeof sizes / sizeof sizes[0] };
    size_t held = mr_mem_held(MR_MEM_WEIGHTS), sum = 0;
    for (int round = 0; round < 2; round++) {
        char *p[N];
        for (int i = 0; i < N; i++) {
            p[i] = mr_zalloc_streamed(MR_MEM_WEIGHTS, sizes[i]);
            assert_non_null(p[i]);
            assert_int_equal((uintptr_t)p[i] % 64, 0);
            assert_true(is_zero(p[i], sizes[i]));
            memset(p[i], i + 1, sizes[i]);
            sum += sizes[i];
            assert_int_equal(mr_mem_held(MR_MEM_WEIGHTS), held + sum);
        }
        for (int j = 0; j < N; j++) { /* every block keeps its bytes while others go */
            int i = j * 3 % N;
            for (size_t b = 0; b < sizes[i]; b++)
                if (p[i][b] != i + 1)
                    fail_msg("byte %zu of block %d is lost", b, i);
            mr_free(p[i]);
            sum -= sizes[i];
        }
    }
    assert_int_equal(mr_mem_held(MR_MEM_WEIGHTS), held);
    mr_mem_fail_after(1);
    assert_null(mr_zalloc_streamed(MR_MEM_WEIGHTS, 1 << 20));
    assert_string_equal(mr_error(), "out of memory: 1048576 bytes for weights");
    assert_null(mr_zalloc_streamed(MR_MEM_WEIGHTS, SIZE_MAX));
    assert_null(mr_zalloc_streamed(MR_MEM_WEIGHTS, SIZE_MAX - 200));
    assert_null(mr_zalloc_streamed(MR_MEM_WEIGHTS, SIZE_MAX / 4));
    assert_int_equal(mr_mem_held(MR_MEM_WEIGHTS), held);
}

/* The system collects a slab's pages into huge ones in its own time; this asks for it now.  A
 * refusal (an older system, or one without huge pages) leaves all as it was. */
static void collect(char *from, const char *end)
{
    enum { COLLAPSE = 25 }; /* MADV_COLLAPSE, younger than some headers */
    const uintptr_t huge = (uintptr_t)2 << 20;
    for (from -= (uintptr_t)from % huge; from < end; from += huge)
        (void)madvise(from, huge, COLLAPSE);
}

/* A freed block holds none of its own pages while its slab lives on. */
static void test_streamed_given_back(void **state)
{
    (void)state;
    enum { BYTES = 1000001, MOST = BYTES / 4096 + 2 };
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    unsigned char there[MOST];
    char *p = mr_zalloc_streamed(MR_MEM_WEIGHTS, BYTES);
    char *other = mr_zalloc_streamed(MR_MEM_WEIGHTS, BYTES);
    assert_non_null(p);
    assert_non_null(other);
    memset(p, 1, BYTES);
    memset(other, 1, BYTES);
    char *from = p + (page - (uintptr_t)p % page) % page;
    const size_t pages = (size_t)(p + BYTES - from) / page;
    assert_int_equal(mincore(from, pages * page, there), 0);
    for (size_t i = 0; i < pages; i++)
        assert_true(there[i] & 1);
    mr_free(p);
    collect(p, other + BYTES);
    assert_int_equal(mincore(from, pages * page, there), 0);
    for (size_t i = 0; i < pages; i++)
        assert_false(there[i] & 1);
    mr_free(other);
}

static void test_injected_failure(void **state)
{
    (void)state;
    size_t all = mr_mem_held(MR_MEM_COUNT);
    uint64_t made = mr_mem_allocations();
    char *p = mr_alloc(MR_MEM_OTHER, 4);
    memcpy(p, "abc", 4);
    mr_mem_fail_after(2);
    void *q = mr_alloc(MR_MEM_OTHER, 8);
    assert_non_null(q);
    assert_null(mr_realloc(MR_MEM_TOKENIZER, p, 100));
    assert_string_equal(mr_error(), "out of memory: 100 bytes for tokenizer");
    assert_string_equal(p, "abc");
    void *r = mr_zalloc(MR_MEM_OTHER, 8); /* it fails once */
    assert_non_null(r);
    mr_mem_fail_after(1);
    assert_null(mr_zalloc(MR_MEM_WEIGHTS, 3));
    mr_mem_fail_after(1);
    mr_mem_fail_after(0);
    void *s = mr_alloc(MR_MEM_OTHER, 1);
    assert_non_null(s);
    assert_int_equal(mr_mem_allocations(), made + 6);
    mr_free(p);
    mr_free(q);
    mr_free(r);
    mr_free(s);
    assert_int_equal(mr_mem_held(MR_MEM_COUNT), all);
}

static void test_impossible_sizes(void **state)
{
    (void)state;
    assert_null(mr_alloc(MR_MEM_WEIGHTS, SIZE_MAX));
    assert_string_equal(mr_error(), "out of memory: 18446744073709551615 bytes for weights");
    assert_null(mr_zalloc(MR_MEM_WEIGHTS, SIZE_MAX - 50));
    char *p = mr_alloc(MR_MEM_OTHER, 3);
    assert_null(mr_realloc(MR_MEM_OTHER, p, SIZE_MAX));
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    assert_null(mr_alloc(MR_MEM_WEIGHTS, SIZE_MAX / 4)); /* malloc itself refuses these */
    assert_null(mr_zalloc(MR_MEM_WEIGHTS, SIZE_MAX / 4));
    assert_null(mr_realloc(MR_MEM_OTHER, p, SIZE_MAX / 4));
#endif
    mr_free(p);
    size_t out;
    assert_true(mr_mul_size(1u << 31, 1u << 31, &out) && out == (size_t)1 << 62);
    assert_false(mr_mul_size((size_t)1 << 32, (size_t)1 << 32, &out));
    assert_true(mr_add_size(SIZE_MAX - 1, 1, &out) && out == SIZE_MAX);
    assert_false(mr_add_size(SIZE_MAX, 1, &out));
}

static void test_names(void **state)
{
    (void)state;
    static const char *const names[] = {"weights", "kv",    "arena", "tokenizer",
                                        "compile", "other", "all"};
    for (int i = 0; i <= MR_MEM_COUNT; i++)
        assert_string_equal(mr_mem_name((mr_mem)i), names[i]);
}

static void *churn(void *arg)
{
    (void)arg;
    for (int i = 0; i < 5000; i++) {
        char *p = mr_alloc(MR_MEM_KV, (size_t)(i % 700));
        p = mr_realloc(MR_MEM_KV, p, (size_t)(i % 900));
        mr_free(p);
    }
    return NULL;
}

static void test_accounts_from_threads(void **state)
{
    (void)state;
    pthread_t t[4];
    size_t held = mr_mem_held(MR_MEM_KV);
    uint64_t made = mr_mem_allocations();
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&t[i], NULL, churn, NULL), 0);
    for (int i = 0; i < 4; i++)
        pthread_join(t[i], NULL);
    assert_int_equal(mr_mem_held(MR_MEM_KV), held);
    assert_int_equal(mr_mem_allocations(), made + 4 * 5000 * 2);
}

/* ---- arenas ---- */

static void test_arena_blocks(void **state)
{
    (void)state;
    size_t before = mr_mem_held(MR_MEM_COMPILE);
    mr_arena *a;
    assert_int_equal(mr_arena_new(&a, MR_MEM_COMPILE), MR_OK);
    enum { N = 3000 };
    static unsigned char *p[N];
    static size_t len[N];
    srand(3);
    for (int i = 0; i < N; i++) {
        len[i] = (size_t)rand() % (i % 100 ? 300 : 200000);
        p[i] = mr_arena_alloc(a, len[i]);
        assert_non_null(p[i]);
        assert_int_equal((uintptr_t)p[i] % 16, 0);
        assert_true(is_zero((char *)p[i], len[i]));
        memset(p[i], i & 0xff, len[i]);
    }
    for (int i = 0; i < N; i++)
        for (size_t j = 0; j < len[i]; j++)
            if (p[i][j] != (i & 0xff))
                fail_msg("block %d was overwritten at %zu", i, j);
    mr_arena_free(a);
    mr_arena_free(NULL);
    assert_int_equal(mr_mem_held(MR_MEM_COMPILE), before);
}

/* A large block must not throw away the rest of the present chunk. */
static void test_arena_large_block_keeps_chunk(void **state)
{
    (void)state;
    mr_arena *a;
    assert_int_equal(mr_arena_new(&a, MR_MEM_COMPILE), MR_OK);
    char *small = mr_arena_alloc(a, 16);
    size_t one = mr_mem_held(MR_MEM_COMPILE);
    assert_true(one < 70000);
    assert_non_null(mr_arena_alloc(a, 1000000));
    assert_ptr_equal(mr_arena_alloc(a, 16), small + 16);
    assert_in_range(mr_mem_held(MR_MEM_COMPILE) - one, 1000000, 1000200);
    mr_arena_free(a);
}

static void test_arena_text(void **state)
{
    (void)state;
    mr_arena *a;
    assert_int_equal(mr_arena_new(&a, MR_MEM_OTHER), MR_OK);
    assert_string_equal(mr_arena_strdup(a, "abc"), "abc");
    assert_string_equal(mr_arena_strndup(a, "abcdef", 4), "abcd");
    assert_string_equal(mr_arena_strndup(a, NULL, 0), "");
    assert_string_equal(mr_arena_printf(a, "%s.%d.weight", "layers", 12), "layers.12.weight");
    mr_arena_free(a);
}

static void test_arena_failures(void **state)
{
    (void)state;
    size_t before = mr_mem_held(MR_MEM_COUNT);
    mr_arena *a;
    mr_mem_fail_after(1);
    assert_int_equal(mr_arena_new(&a, MR_MEM_OTHER), MR_ENOMEM);
    assert_null(a);
    assert_int_equal(mr_arena_new(&a, MR_MEM_OTHER), MR_OK);
    assert_null(mr_arena_alloc(a, SIZE_MAX));
    assert_null(mr_arena_alloc(a, SIZE_MAX - 40));
    assert_null(mr_arena_strndup(a, "x", SIZE_MAX));
    mr_mem_fail_after(1);
    assert_null(mr_arena_printf(a, "%d", 1));
    assert_non_null(mr_arena_alloc(a, 1));
    mr_mem_fail_after(1);
    assert_null(mr_arena_alloc(a, 70000));     /* a chunk of its own */
    assert_non_null(mr_arena_alloc(a, 70000)); /* after a failure it goes on */
    mr_mem_fail_after(1);
    assert_null(mr_arena_strdup(a, mr_arena_printf(a, "%65000d", 1))); /* the next chunk */
    mr_mem_fail_after(0);
    assert_non_null(mr_arena_alloc(a, 70000));
    mr_arena_free(a);
    assert_int_equal(mr_mem_held(MR_MEM_COUNT), before);
}

/* ---- random numbers ---- */

/* The known answers published with the generator (Random123, kat_vectors). */
static void test_philox_known_answers(void **state)
{
    (void)state;
    static const struct {
        uint64_t seed, position, draw;
        uint32_t out[4];
    } rows[] = {
        {0, 0, 0, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {UINT64_MAX, UINT64_MAX, UINT64_MAX, {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {0x299f31d0a4093822,
         0x85a308d3243f6a88,
         0x0370734413198a2e,
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (size_t i = 0; i < 3; i++) {
        uint32_t out[4];
        mr_philox(rows[i].seed, rows[i].position, rows[i].draw, out);
        assert_memory_equal(out, rows[i].out, sizeof out);
    }
}

static void test_uniform(void **state)
{
    (void)state;
    assert_true(mr_uniform(0, 0, 0) == (double)(0xe169c58d6627e8d5u >> 11) * 0x1p-53);
    double sum = 0, least = 1, most = 0;
    for (uint64_t i = 0; i < 100000; i++) {
        double x = mr_uniform(42, i, 0);
        assert_true(x >= 0 && x < 1);
        sum += x;
        least = x < least ? x : least;
        most = x > most ? x : most;
    }
    assert_true(sum > 49500 && sum < 50500 && least < 1e-3 && most > 0.999);
    assert_true(mr_uniform(1, 2, 3) != mr_uniform(1, 3, 2));
    assert_true(mr_uniform(1, 2, 3) != mr_uniform(2, 2, 3));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_blocks_are_aligned_and_accounted),
        cmocka_unit_test(test_realloc_keeps_bytes),
        cmocka_unit_test(test_streamed_blocks),
        cmocka_unit_test(test_streamed_given_back),
        cmocka_unit_test(test_injected_failure),
        cmocka_unit_test(test_impossible_sizes),
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_accounts_from_threads),
        cmocka_unit_test(test_arena_blocks),
        cmocka_unit_test(test_arena_large_block_keeps_chunk),
        cmocka_unit_test(test_arena_text),
        cmocka_unit_test(test_arena_failures),
        cmocka_unit_test(test_philox_known_answers),
        cmocka_unit_test(test_uniform),
    };
    return cmocka_run_group_tests_name("base/mem, base/rng", tests, NULL, NULL);
}
