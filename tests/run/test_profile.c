/* The profile counts what ran, changes no bit and costs no allocation; limits are found. */
#include "run_test.h"

#include "base/mem.h"
#include "run/session.h"

static const char deepseek[] = "models/deepseek-v3-stories";
static const char gemma[] = "models/gemma3-stories"; /* five layers in six slide, window 64 */
enum { VOCAB = 4096 };

static mr_profile_row sum_of(const mr_engine *e, const char *plan, const char *kernel)
{
    mr_profile_row sum = {0}, *rows;
    int n;
    assert_ok(mr_profile_rows(e, &rows, &n));
    for (int i = 0; i < n; i++) {
        if (strcmp(rows[i].plan, plan) != 0 || !strstr(rows[i].kernel, kernel))
            continue;
        sum.calls += rows[i].calls;
        sum.seconds += rows[i].seconds;
        sum.bytes += rows[i].bytes;
        sum.int8_ops += rows[i].int8_ops;
        sum.f32_ops += rows[i].f32_ops;
    }
    mr_memory_free(rows);
    return sum;
}

static void test_counts(void **state)
{
    (void)state;
    mr_engine *e = open_engine(deepseek, &(mr_engine_opts){0});
    mr_session *s = new_session(e);
    mr_profile_row *rows;
    int n;
    float want[VOCAB], got[VOCAB];
    int32_t ids[80];
    some_ids(ids, 80, VOCAB);
    assert_refused(mr_profile_rows(e, &rows, &n), MR_STATUS_USAGE, "no profile");
    assert_ok(mr_advance(s, ids, 1, MR_WANT_LAST, NULL, 0, want)); /* both plans have their arena */
    assert_ok(mr_advance(s, ids, 80, MR_WANT_LAST, NULL, 0, want));
    assert_ok(mr_profile_start(e));
    uint64_t before = mr_engine_counts(e).weight_bytes, allocations = mr_mem_allocations();
    assert_ok(mr_advance(s, ids, 78, MR_WANT_LAST, NULL, 0, got));
    assert_ok(mr_commit(s, 78));
    assert_ok(mr_advance(s, ids + 78, 1, MR_WANT_LAST, NULL, 0, got));
    assert_ok(mr_commit(s, 1));
    assert_ok(mr_advance(s, ids + 79, 1, MR_WANT_LAST, NULL, 0, got));
    assert_int_equal(mr_mem_allocations(), allocations);
    assert_memory_equal(want, got, sizeof got);
    mr_profile_row decode = sum_of(e, "decode", ""), prefill = sum_of(e, "prefill", ""),
                   attention = sum_of(e, "decode", "attention");
    attention.bytes += sum_of(e, "prefill", "attention").bytes;
    assert_int_equal(decode.calls, 2 * e->decode.plan->n_steps);
    assert_int_equal(prefill.calls, e->prefill.plan->n_steps);
    assert_int_equal(decode.bytes + prefill.bytes - attention.bytes,
                     mr_engine_counts(e).weight_bytes - before);
    assert_true(decode.seconds > 0 && prefill.seconds > 0);
    assert_ok(mr_profile_start(e)); /* from zero */
    assert_int_equal(sum_of(e, "decode", "").calls, 0);
    mr_profile_stop(e);
    assert_refused(mr_profile_rows(e, &rows, &n), MR_STATUS_USAGE, "no profile");
    mr_session_free(s);
    mr_engine_close(e);
}

/* Keys that a row sees: its window's, or all; read once for the rows of a session. */
static void test_attention(void **state)
{
    (void)state;
    enum { LAYERS = 6, SLIDING = 5, WINDOW = 64, POSITION = 2 * 64 * 2 /* keys, values, bf16 */ };
    mr_engine *e = open_engine(gemma, &(mr_engine_opts){0});
    mr_session *s[2] = {new_session(e), new_session(e)};
    mr_feed f[2];
    float l[2][VOCAB];
    int32_t ids[200];
    some_ids(ids, 200, VOCAB);
    assert_int_equal(mr_engine_facts(e)->layers, LAYERS);
    for (int i = 0; i < 2; i++) {
        f[i] = (mr_feed){.session = s[i], .ids = ids, .n = 100 + 50 * i};
        assert_ok(mr_advance_many(f + i, 1));
        assert_ok(mr_commit(s[i], f[i].n));
        f[i] = (mr_feed){.session = s[i], .ids = ids, .n = 2, .want = MR_WANT_LAST, .logits = l[i]};
    }
    assert_ok(mr_profile_start(e));
    assert_ok(mr_advance_many(f, 2));
    mr_profile_row a = sum_of(e, "decode", "attention");
    uint64_t window = 2 * (WINDOW + 1), whole = 102 + 152; /* of two rows each */
    assert_int_equal(a.calls, LAYERS);
    assert_int_equal(a.bytes, (SLIDING * window + whole) * POSITION);
    uint64_t seen = SLIDING * 4 * WINDOW + 101 + 102 + 151 + 152;
    uint64_t heads = a.f32_ops / (2 * seen * 2 * 64); /* query heads */
    assert_true(heads >= 1 && a.f32_ops == heads * 2 * seen * 2 * 64);
    mr_session_free(s[0]);
    mr_session_free(s[1]);
    mr_engine_close(e);
}

/* An expert is read once for all rows that chose it: two sessions of the same ids read what one does. */
static void test_experts(void **state)
{
    (void)state;
    mr_engine *e = open_engine(deepseek, &(mr_engine_opts){0});
    mr_session *s[3] = {new_session(e), new_session(e), new_session(e)};
    mr_feed f[3];
    uint64_t bytes[3] = {0};
    static const int32_t ids[3] = {5, 5, 77};
    for (int i = 0; i < 3; i++)
        f[i] = (mr_feed){.session = s[i], .ids = &ids[i], .n = 1};
    for (int n = 1; n <= 3; n++) {
        assert_ok(mr_profile_start(e));
        assert_ok(mr_advance_many(f, n));
        mr_profile_row moe = sum_of(e, "decode", "moe");
        assert_true(moe.calls > 0);
        bytes[n - 1] = moe.bytes;
    }
    assert_true(bytes[0] > 0);
    assert_int_equal(bytes[1], bytes[0]);
    assert_true(bytes[2] > bytes[0] && bytes[2] <= 2 * bytes[0]);
    for (int i = 0; i < 3; i++)
        mr_session_free(s[i]);
    mr_engine_close(e);
}

static void test_limits(void **state)
{
    (void)state;
    mr_engine *e = open_engine(deepseek, &(mr_engine_opts){.threads = 2});
    mr_limits l;
    size_t held = mr_mem_held(MR_MEM_COUNT);
    assert_ok(mr_engine_limits(e, &l));
    assert_int_equal(mr_mem_held(MR_MEM_COUNT), held);
    assert_true(l.read.one > 1e8 && l.read.all > 1e8);
    if (strcmp(mr_engine_facts(e)->cpu, "c") != 0)
        assert_true(l.int8.one > l.f32.one && l.f32.one > 1e8);
    mr_engine_close(e);
    e = open_engine(deepseek, &(mr_engine_opts){.cpu = "c"});
    assert_ok(mr_engine_limits(e, &l));
    assert_true(l.read.one > 0 && l.int8.one == 0 && l.f32.all == 0);
    mr_engine_close(e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_counts),
        cmocka_unit_test(test_attention),
        cmocka_unit_test(test_experts),
        cmocka_unit_test(test_limits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
