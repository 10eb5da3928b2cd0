/* Faults: each allocation and each read of opening an engine and generating a few tokens fails once.
 * Every time there must be a clean error and nothing left over; at last all of it succeeds.
 *
 * The n-th failure is tried for n = 1, 2, 3, ... in full up to 64 and then in steps that grow, so
 * that the end is reached in a few hundred runs; the last 16 before success are tried one by one. */
#include "run_test.h"

#include "base/mem.h"

typedef struct scene {
    const char *dir;
    const char *text; /* a prompt, which needs the tokenizer; or NULL */
    const char *precision;
} scene;

static const int32_t prompt[] = {5, 9, 2, 7, 1, 4, 8, 3, 6, 10, 12, 11, 14, 13, 16, 15, 18, 17, 20};

static int take(void *ctx, const int32_t *ids, size_t n)
{
    int32_t *sum = ctx;
    for (size_t i = 0; i < n; i++)
        *sum = *sum * 31 + ids[i];
    return 0;
}

static mr_status generate(mr_engine *e, const scene *c, int32_t *sum)
{
    mr_session *s = NULL;
    mr_tokenizer *t;
    int32_t *ids = NULL;
    size_t n = sizeof prompt / sizeof *prompt;
    mr_generate_opts o;
    mr_generate_defaults(&o);
    o.max_new = 3;
    o.temperature = 0.5;
    o.on_ids = take;
    o.ctx = sum;
    mr_status st = mr_session_new(&s, e);
    if (!st && c->text)
        st = mr_engine_text(e, &t);
    if (!st && c->text)
        st = mr_encode(t, c->text, strlen(c->text), MR_ENCODE_SPECIAL, &ids, &n);
    if (!st)
        st = mr_generate(s, ids ? ids : prompt, n, &o, NULL);
    mr_memory_free(ids);
    mr_session_free(s);
    return st;
}

/* One act; *sum is of the ids generated. */
static mr_status play(const scene *c, int32_t *sum)
{
    static const int32_t eos[] = {0};
    mr_engine_opts o = {.threads = 2, .precision = c->precision, .eos = eos, .n_eos = 1};
    o.has_mask_id = strstr(c->dir, "llada2") != NULL;
    o.mask_id = 3;
    mr_engine *e = NULL;
    *sum = 0;
    mr_status s = mr_engine_open(&e, c->dir, &o);
    if (s) {
        assert_null(e);
        return s;
    }
    s = generate(e, c, sum);
    mr_engine_close(e);
    return s;
}

/* Fails the n-th; true if that was past the end. */
static bool act(const scene *c, void (*fail_after)(uint64_t), uint64_t n, mr_status expected,
                int32_t sum)
{
    size_t held = mr_mem_held(MR_MEM_COUNT);
    int32_t got;
    fail_after(n);
    mr_status s = play(c, &got);
    fail_after(0);
    if (mr_mem_held(MR_MEM_COUNT) != held)
        fail_msg("%s: failure %d leaves %zu bytes (%s)", c->dir, (int)n,
                 mr_mem_held(MR_MEM_COUNT) - held, s ? mr_error_text() : "no error");
    if (s && (s != expected || !*mr_error_text()))
        fail_msg("%s: failure %d gives %d \"%s\"", c->dir, (int)n, s, mr_error_text());
    if (!s)
        assert_int_equal(got, sum);
    return !s;
}

/* Reads of one act: by doubling and halving, since each of them matters. */
static uint64_t count_reads(const scene *c, int32_t sum)
{
    uint64_t low = 0, high = 1;
    while (!act(c, mr_file_fail_after, high, MR_STATUS_IO, sum))
        low = high, high *= 2;
    while (high - low > 1) {
        uint64_t mid = low + (high - low) / 2;
        if (act(c, mr_file_fail_after, mid, MR_STATUS_IO, sum))
            high = mid;
        else
            low = mid;
    }
    return low;
}

/* A few allocations may fail without harm, such as the shrinking of a block. */
static void check(const scene *c, bool reads, uint64_t dense)
{
    int32_t sum, again;
    assert_ok(play(c, &sum)); /* also lets what is made once in a process be made */
    uint64_t before = mr_mem_allocations();
    assert_ok(play(c, &again));
    uint64_t n = reads ? count_reads(c, sum) : mr_mem_allocations() - before;
    uint64_t tried = 0, harmless = 0;
    assert_int_equal(sum, again);
    assert_int_not_equal(sum, 0);
    for (uint64_t k = 1; k <= n; k += k < dense || k + 16 > n ? 1 : 1 + k / 48, tried++)
        harmless += act(c, reads ? mr_file_fail_after : mr_mem_fail_after, k,
                        reads ? MR_STATUS_IO : MR_STATUS_MEMORY, sum);
    print_message("%s: %d %s, %d of them failed\n", c->dir, (int)n, reads ? "reads" : "allocations",
                  (int)tried);
    assert_true(tried > 10 && harmless <= (reads ? 0 : tried / 10));
    assert_true(act(c, reads ? mr_file_fail_after : mr_mem_fail_after, n + 1, MR_STATUS_OK, sum));
}

static const scene scenes[] = {
    {"tests/vectors/gemma3-1b", NULL, "fast"},
    {"tests/vectors/mlx-dsv3-4bit", NULL, "fast"},
    {"tests/vectors/llada2-base", NULL, "exact"},
    {"tests/vectors/gguf-llama-q8_0/model.gguf", NULL, "exact"},
    {"models/gemma3-stories", "Once upon a time", "fast"},
};

static void test_allocations(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof scenes / sizeof *scenes; i++)
        check(&scenes[i], false, i ? 8 : 64);
}

static void test_reads(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof scenes / sizeof *scenes; i++)
        check(&scenes[i], true, i ? 8 : 64);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_allocations),
        cmocka_unit_test(test_reads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
