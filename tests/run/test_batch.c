/* Several sessions in one call: each stream's logits have the same bytes as alone, whatever shares
 * its runs; a refused or failed call moves none of them. */
#include "run_test.h"

#include "base/mem.h"
#include "run/session.h"

static const char gemma[] = "models/gemma3-stories";
static const char deepseek[] = "models/deepseek-v3-stories";
static const char llada[] = "models/llada2-stories";

enum { VOCAB = 4096, STREAMS = 24, LENGTH = 200, BLOCK = 32 };
static int32_t ids[STREAMS][LENGTH];

/* Logits of every position of a stream, fed whole to a session of its own. */
static float *alone(mr_engine *e, const int32_t *p, int64_t n)
{
    float *l = malloc((size_t)(n * VOCAB) * sizeof *l);
    mr_session *s = new_session(e);
    assert_ok(mr_advance(s, p, n, MR_WANT_ALL, NULL, 0, l));
    mr_session_free(s);
    return l;
}

/* A step of pseudo-random size for stream i: mostly one row, now and then many. */
static int64_t some_rows(int i, int step, int64_t most)
{
    static const int64_t sizes[] = {1, 1, 1, 2, 1, 17, 1, 70};
    int64_t n = sizes[(i * 5 + step * 3 + i * step) % 8];
    return n < most ? n : most;
}

/* Streams of unlike lengths advance together until all are through. */
static void together(const char *dir, int streams, const mr_engine_opts *o)
{
    mr_engine *e = open_engine(dir, o);
    mr_session *s[STREAMS];
    float *want[STREAMS], *got = malloc((size_t)STREAMS * 80 * VOCAB * sizeof *got);
    int64_t len[STREAMS];
    for (int i = 0; i < streams; i++) {
        s[i] = new_session(e);
        len[i] = LENGTH - 3 * i;
        want[i] = alone(e, ids[i], len[i]);
    }
    for (int step = 0, live = streams; live; step++) {
        mr_feed f[STREAMS];
        float *to = got;
        live = 0;
        for (int i = 0; i < streams; i++) {
            int64_t at = mr_session_length(s[i]), n = some_rows(i, step, len[i] - at);
            if (!n)
                continue;
            f[live++] = (mr_feed){
                .session = s[i], .ids = ids[i] + at, .n = n, .want = MR_WANT_ALL, .logits = to};
            to += n * VOCAB;
        }
        if (live)
            assert_ok(mr_advance_many(f, live));
        for (int k = 0; k < live; k++) {
            int i = 0;
            while (s[i] != f[k].session)
                i++;
            assert_memory_equal(f[k].logits, want[i] + mr_session_length(s[i]) * VOCAB,
                                (size_t)(f[k].n * VOCAB) * sizeof *got);
            assert_ok(mr_commit(s[i], f[k].n));
        }
    }
    for (int i = 0; i < streams; i++) {
        mr_session_free(s[i]);
        free(want[i]);
    }
    free(got);
    mr_engine_close(e);
}

static void test_streams_do_not_touch(void **state)
{
    (void)state;
    together(gemma, 6, &(mr_engine_opts){.chunk = 64});
    together(deepseek, STREAMS, &(mr_engine_opts){.precision = "exact"});
    together(deepseek, 9, &(mr_engine_opts){.chunk = 32, .threads = 3});
}

/* Open blocks of several diffusion sessions: a block is never cut by who comes before it. */
static void test_blocks_together(void **state)
{
    (void)state;
    mr_engine *e = open_engine(llada, &(mr_engine_opts){.chunk = 80}); /* two blocks and a half */
    mr_session *s[3];
    mr_feed f[3];
    float *want[3], *got = malloc((size_t)3 * 2 * BLOCK * VOCAB * sizeof *got), *to = got;
    for (int i = 0; i < 3; i++) {
        int64_t n = i == 1 ? 2 * BLOCK : BLOCK;
        s[i] = new_session(e);
        want[i] = alone(e, ids[i], n);
        f[i] = (mr_feed){.session = s[i], .ids = ids[i], .n = n, .want = MR_WANT_ALL, .logits = to};
        to += n * VOCAB;
    }
    assert_ok(mr_advance_many(f, 3));
    for (int i = 0; i < 3; i++) {
        assert_memory_equal(f[i].logits, want[i], (size_t)(f[i].n * VOCAB) * sizeof *got);
        mr_session_free(s[i]);
        free(want[i]);
    }
    free(got);
    mr_engine_close(e);
}

/* Streams of one row share a run, up to the chunk. */
static void test_one_run_for_all(void **state)
{
    (void)state;
    mr_engine *e = open_engine(deepseek, &(mr_engine_opts){0});
    mr_session *s[STREAMS];
    mr_feed f[STREAMS];
    float *l = malloc((size_t)STREAMS * VOCAB * sizeof *l);
    for (int i = 0; i < STREAMS; i++) {
        s[i] = new_session(e);
        f[i] = (mr_feed){
            .session = s[i], .ids = ids[i], .n = 1, .want = MR_WANT_LAST, .logits = l + i * VOCAB};
    }
    mr_counts before = mr_engine_counts(e);
    assert_ok(mr_advance_many(f, STREAMS));
    mr_counts after = mr_engine_counts(e);
    assert_int_equal(after.runs - before.runs, 1);
    assert_int_equal(after.rows - before.rows, STREAMS);
    assert_int_equal(after.outs - before.outs, STREAMS);
    assert_true(after.kv_bytes > 0);
    uint64_t allocations = mr_mem_allocations();
    for (int i = 0; i < STREAMS; i++) {
        assert_ok(mr_commit(s[i], 1));
        f[i].ids = ids[i] + 1;
    }
    assert_ok(mr_advance_many(f, STREAMS));
    assert_int_equal(mr_mem_allocations() - allocations, 0);
    for (int i = 0; i < STREAMS; i++)
        mr_session_free(s[i]);
    assert_int_equal(mr_engine_counts(e).kv_bytes, 0);
    free(l);
    mr_engine_close(e);
}

/* ---- refusals and failures ---- */

/* All sessions stand where they stood: their next logits are those of a fresh one. */
static void assert_stand(mr_engine *e, mr_session **s, int n, int64_t at)
{
    float *got = malloc(VOCAB * sizeof *got);
    for (int i = 0; i < n; i++) {
        float *want = alone(e, ids[i], at + 1);
        assert_int_equal(mr_session_length(s[i]), at);
        assert_ok(mr_advance(s[i], ids[i] + at, 1, MR_WANT_LAST, NULL, 0, got));
        assert_memory_equal(got, want + at * VOCAB, VOCAB * sizeof *got);
        assert_ok(mr_commit(s[i], 0));
        free(want);
    }
    free(got);
}

static void test_refused_together(void **state)
{
    (void)state;
    enum { N = 3, AT = 40 };
    mr_engine *e = open_engine(gemma, &(mr_engine_opts){.context = 100}),
              *e2 = open_engine(deepseek, &(mr_engine_opts){0});
    mr_session *s[N], *strange = new_session(e2);
    float l[N * VOCAB];
    mr_feed f[N];
    for (int i = 0; i < N; i++) {
        s[i] = new_session(e);
        assert_ok(mr_advance(s[i], ids[i], AT, MR_WANT_NONE, NULL, 0, NULL));
        assert_ok(mr_commit(s[i], AT));
        f[i] = (mr_feed){.session = s[i],
                         .ids = ids[i] + AT,
                         .n = 7,
                         .want = MR_WANT_LAST,
                         .logits = l + i * VOCAB};
    }
    assert_ok(mr_advance_many(f, N)); /* open rows: a refused call leaves them open */
    mr_feed good = f[2];
    int32_t bad[] = {1, VOCAB};
    mr_span spans[] = {{0, 3}, {2, 5}};
    float embeds[1] = {0};
    assert_refused(mr_advance_many(f, 0), MR_STATUS_USAGE, "no session");
    f[2].ids = bad, f[2].n = 2;
    assert_refused(mr_advance_many(f, N), MR_STATUS_FORMAT, "feed 2: id 4096");
    f[2] = good, f[2].n = 61;
    assert_refused(mr_advance_many(f, N), MR_STATUS_LIMIT, "feed 2: 61 ids after 40");
    f[2] = good, f[2].session = s[0];
    assert_refused(mr_advance_many(f, N), MR_STATUS_USAGE, "feeds 0 and 2");
    f[2] = good, f[2].session = strange;
    assert_refused(mr_advance_many(f, N), MR_STATUS_USAGE, "another engine");
    f[2] = good, f[2].want = (mr_want)7;
    assert_refused(mr_advance_many(f, N), MR_STATUS_USAGE, "feed 2: wanted rows: 7");
    f[2] = good, f[2].embeds = embeds;
    f[2].session = strange;
    assert_refused(mr_advance_many(f + 2, 1), MR_STATUS_UNSUPPORTED, "takes no embeds");
    f[2].embeds = NULL, f[2].spans = spans, f[2].n_spans = 1;
    assert_refused(mr_advance_many(f + 2, 1), MR_STATUS_UNSUPPORTED, "takes no span");
    for (int i = 0; i < N; i++)
        assert_ok(mr_commit(s[i], 0));
    assert_stand(e, s, N, AT);
    for (int i = 0; i < N; i++)
        mr_session_free(s[i]);
    mr_session_free(strange);
    mr_engine_close(e);
    mr_engine_close(e2);
}

/* Whichever allocation fails, none moves, and what was open before still is. */
static void test_out_of_memory_together(void **state)
{
    (void)state;
    enum { N = 3 };
    mr_engine *e = open_engine(deepseek, &(mr_engine_opts){0});
    float l[N * VOCAB];
    int failed = 0;
    for (uint64_t nth = 1;; nth++) {
        mr_session *s[N];
        mr_feed f[N];
        for (int i = 0; i < N; i++) {
            s[i] = new_session(e);
            assert_ok(mr_advance(s[i], ids[i], 60, MR_WANT_NONE, NULL, 0, NULL));
            assert_ok(mr_commit(s[i], 58));
            f[i] = (mr_feed){.session = s[i],
                             .ids = ids[i] + 58,
                             .n = 10, /* into a second block of 64 positions */
                             .want = MR_WANT_LAST,
                             .logits = l + i * VOCAB};
        }
        assert_ok(mr_advance(s[1], ids[1] + 58, 1, MR_WANT_NONE, NULL, 0, NULL));
        mr_mem_fail_after(nth);
        mr_status st = mr_advance_many(f, N);
        mr_mem_fail_after(0);
        if (st) {
            failed++;
            assert_int_equal(st, MR_STATUS_MEMORY);
            assert_ok(mr_commit(s[1], 1));
            assert_ok(mr_truncate(s[1], 58));
            assert_stand(e, s, N, 58);
        }
        for (int i = 0; i < N; i++)
            mr_session_free(s[i]);
        if (!st)
            break;
    }
    assert_true(failed >= N); /* at least a block for each */
    mr_engine_close(e);
}

/* Memory is asked for as many sessions as are said. */
static void test_sessions_are_counted(void **state)
{
    (void)state;
    mr_engine *e;
    assert_refused(
        mr_engine_open(&e, deepseek, &(mr_engine_opts){.sessions = 1 << 20, .context = 8192}),
        MR_STATUS_LIMIT, "KV of 1048576 sessions of 8192 positions");
    assert_refused(mr_engine_open(&e, deepseek, &(mr_engine_opts){.sessions = -1}), MR_STATUS_USAGE,
                   "sessions: -1");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_streams_do_not_touch),   cmocka_unit_test(test_blocks_together),
        cmocka_unit_test(test_one_run_for_all),        cmocka_unit_test(test_refused_together),
        cmocka_unit_test(test_out_of_memory_together), cmocka_unit_test(test_sessions_are_counted),
    };
    for (int i = 0; i < STREAMS; i++) {
        some_ids(ids[i], LENGTH, VOCAB);
        for (int k = 0; k < LENGTH; k++)
            ids[i][k] = (ids[i][k] * (i + 1) + 13 * i) % VOCAB;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
