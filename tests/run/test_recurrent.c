/* Sessions of models with a recurrent state: whatever way a position is reached (advanced, rolled back,
 * committed in part, truncated, beside other sessions), its logits have the bytes of a fresh session. */
#include "run_test.h"

#include "base/mem.h"
#include "run/session.h"

static const char *const models[] = {"tests/vectors/qwen3-next", "tests/vectors/qwen3.5"};
enum { MODELS = 2, N = 90, VOCAB_MAX = 320 };

static int32_t ids[N], other[N];

typedef struct stand {
    mr_engine *e;
    mr_session *s;
    int64_t vocab;
} stand;

static stand open_stand(const char *dir, int64_t chunk)
{
    stand t = {.e = open_engine(dir, &(mr_engine_opts){.chunk = chunk})};
    t.vocab = mr_engine_facts(t.e)->vocab;
    assert_true(t.vocab <= VOCAB_MAX);
    t.s = new_session(t.e);
    for (int i = 0; i < N; i++)
        other[i] = (int32_t)(t.vocab - 1 - ids[i] % t.vocab);
    return t;
}

static void close_stand(stand *t)
{
    mr_session_free(t->s);
    mr_engine_close(t->e);
}

static void feed(const stand *t, const int32_t *p, int64_t n, float *logits)
{
    assert_ok(mr_advance(t->s, p, n, logits ? MR_WANT_LAST : MR_WANT_NONE, NULL, 0, logits));
}

/* Feeds ids up to n; the last logits are those of a fresh session that was fed them whole. */
static void assert_next(const stand *t, int64_t n)
{
    float got[VOCAB_MAX], want[VOCAB_MAX];
    stand fresh = {t->e, new_session(t->e), t->vocab};
    feed(&fresh, ids, n, want);
    mr_session_free(fresh.s);
    int64_t from = mr_session_length(t->s);
    assert_true(from < n);
    feed(t, ids + from, n - from, got);
    assert_memory_equal(got, want, (size_t)t->vocab * sizeof *got);
}

static void test_commits(void **state)
{
    (void)state;
    for (int m = 0; m < MODELS; m++) {
        stand t = open_stand(models[m], 16);
        assert_next(&t, 40);
        assert_ok(mr_commit(t.s, 40));
        feed(&t, other, 25, NULL); /* rolled back by the next */
        assert_next(&t, 43);
        assert_ok(mr_commit(t.s, 2)); /* of 3 */
        assert_int_equal(mr_session_length(t.s), 42);
        assert_next(&t, 43);
        assert_ok(mr_commit(t.s, 0));
        feed(&t, other, 1, NULL);
        assert_next(&t, 80);
        assert_ok(mr_commit(t.s, 1));
        assert_next(&t, 44);
        assert_ok(mr_commit(t.s, 1));
        assert_next(&t, N);
        close_stand(&t);
    }
}

static void test_truncate(void **state)
{
    (void)state;
    for (int m = 0; m < MODELS; m++) {
        stand t = open_stand(models[m], 16);
        assert_next(&t, 70);
        assert_ok(mr_commit(t.s, 70));
        assert_next(&t, 75);
        assert_ok(mr_truncate(t.s, 50));
        assert_int_equal(mr_session_length(t.s), 50);
        assert_next(&t, 60);
        assert_ok(mr_truncate(t.s, 50)); /* open rows alone */
        assert_next(&t, 51);
        assert_ok(mr_truncate(t.s, 0));
        assert_int_equal(mr_session_length(t.s), 0);
        assert_next(&t, 7);
        close_stand(&t);
    }
}

/* What a failed call leaves behind is what had been committed. */
static void test_failures(void **state)
{
    (void)state;
    stand t = open_stand(models[0], 16);
    assert_next(&t, 30);
    assert_ok(mr_commit(t.s, 30));
    const int32_t bad[2] = {1, (int32_t)t.vocab};
    assert_refused(mr_advance(t.s, bad, 2, MR_WANT_NONE, NULL, 0, NULL), MR_STATUS_FORMAT,
                   "not in the vocabulary");
    assert_next(&t, 31);
    assert_refused(mr_commit(t.s, 2), MR_STATUS_USAGE, "1 are open");
    assert_refused(mr_truncate(t.s, 31), MR_STATUS_USAGE, "holds 30");
    assert_ok(mr_commit(t.s, 1));
    assert_next(&t, 33);
    close_stand(&t);
}

/* A common prefix is fed again from the start: the state cannot go back to it. */
static void test_sync(void **state)
{
    (void)state;
    stand t = open_stand(models[1], 16);
    assert_next(&t, 30);
    assert_ok(mr_commit(t.s, 30));
    mr_session_sync(t.s, ids, 40);
    assert_int_equal(mr_session_length(t.s), 30);
    assert_next(&t, 40);
    memcpy(other, ids, 20 * sizeof *ids);
    mr_session_sync(t.s, other, 40);
    assert_int_equal(mr_session_length(t.s), 0);
    assert_next(&t, 22);
    close_stand(&t);
}

/* Three sessions at unlike positions share runs. */
static void test_together(void **state)
{
    (void)state;
    for (int m = 0; m < MODELS; m++) {
        stand t = open_stand(models[m], 64);
        mr_session *s[3] = {t.s, new_session(t.e), new_session(t.e)};
        static const int64_t ends[3][4] = {{5, 6, 20, 21}, {1, 2, 3, 40}, {30, 31, 33, 34}};
        float got[3][VOCAB_MAX];
        for (int round = 0; round < 4; round++) {
            mr_feed f[3];
            for (int i = 0; i < 3; i++) {
                int64_t from = mr_session_length(s[i]);
                f[i] = (mr_feed){.session = s[i],
                                 .ids = ids + from,
                                 .n = ends[i][round] - from,
                                 .want = MR_WANT_LAST,
                                 .logits = got[i]};
            }
            assert_ok(mr_advance_many(f, 3));
            for (int i = 0; i < 3; i++) {
                float want[VOCAB_MAX];
                stand fresh = {t.e, new_session(t.e), t.vocab};
                feed(&fresh, ids, ends[i][round], want);
                mr_session_free(fresh.s);
                assert_memory_equal(got[i], want, (size_t)t.vocab * sizeof *want);
                assert_ok(mr_commit(s[i], i == 1 && round == 3 ? 1 : f[i].n));
            }
        }
        t.s = s[1]; /* committed in part */
        assert_next(&t, 5);
        mr_session_free(s[2]);
        mr_session_free(s[0]);
        close_stand(&t);
    }
}

/* One model as the published files have it and as GGUF re-tiles it, in both precisions. */
static void test_forms_agree(void **state)
{
    (void)state;
    static const char *const precisions[] = {"exact", "fast"};
    for (int p = 0; p < 2; p++) {
        float logits[2][VOCAB_MAX];
        static const char *const dirs[] = {"tests/vectors/qwen3.5-moe",
                                           "tests/vectors/gguf-qwen35moe-bf16"};
        int64_t vocab = 0;
        for (int i = 0; i < 2; i++) {
            stand t = {.e = open_engine(dirs[i], &(mr_engine_opts){.precision = precisions[p]})};
            t.s = new_session(t.e);
            vocab = mr_engine_facts(t.e)->vocab;
            assert_true(vocab <= VOCAB_MAX);
            feed(&t, ids, N, logits[i]);
            close_stand(&t);
        }
        assert_memory_equal(logits[0], logits[1], (size_t)vocab * sizeof **logits);
    }
}

/* What a session holds is what it was said to need. */
static void test_memory(void **state)
{
    (void)state;
    stand t = open_stand(models[0], 16);
    const mr_plan *p = t.e->prefill.plan;
    const mr_backend_vtable *v = t.e->backend->v;
    size_t need = v->kv_need(t.e->backend, p->caches, p->n_caches, N, 16);
    feed(&t, ids, N, NULL);
    size_t held = v->kv_bytes(t.e->backend, t.s->kv);
    size_t states = 0;
    for (int i = 0; i < p->n_caches; i++)
        if (p->caches[i].state)
            states += 2 * 4 * (size_t)(p->caches[i].heads * p->caches[i].dk * p->caches[i].dv);
    assert_true(states > 0 && held >= states);
    assert_true(held <= need + 4096 * (size_t)p->n_caches);
    uint64_t before = mr_mem_held(MR_MEM_COUNT);
    assert_ok(mr_commit(t.s, N / 2));
    feed(&t, ids, 1, NULL);
    assert_int_equal(mr_mem_held(MR_MEM_COUNT), before);
    close_stand(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_commits),     cmocka_unit_test(test_truncate),
        cmocka_unit_test(test_failures),    cmocka_unit_test(test_sync),
        cmocka_unit_test(test_together),    cmocka_unit_test(test_memory),
        cmocka_unit_test(test_forms_agree),
    };
    some_ids(ids, N, 280);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
