/* Sessions: whatever way a position is reached, its logits have the same bytes; what cannot be
 * reached is refused; steady decoding allocates nothing; rings hold no more than they say. */
#include "run_test.h"

#include "base/mem.h"
#include "run/session.h"

static const char gemma[] = "models/gemma3-stories"; /* five layers in six slide, window 64 */
static const char deepseek[] = "models/deepseek-v3-stories";
static const char llada[] = "models/llada2-stories";

enum { N = 300, VOCAB = 4096, BLOCK = 32 };
static int32_t ids[1024], other[1024];

/* Logits of the last of ids[0..n), fed whole to a fresh session. */
static float *fresh(mr_engine *e, const int32_t *p, int64_t n)
{
    float *l = malloc(VOCAB * sizeof *l);
    mr_session *s = new_session(e);
    assert_ok(mr_advance(s, p, n, MR_WANT_LAST, NULL, 0, l));
    mr_session_free(s);
    return l;
}

static void assert_same(const float *a, const float *b, int64_t rows)
{
    assert_memory_equal(a, b, (size_t)(rows * VOCAB) * sizeof *a);
}

/* The session's next logits, against a fresh session's. */
static void assert_next(mr_session *s, mr_engine *e, const int32_t *p, int64_t n)
{
    static float got[VOCAB];
    float *want = fresh(e, p, n);
    int64_t from = mr_session_length(s);
    assert_true(from < n);
    assert_ok(mr_advance(s, p + from, n - from, MR_WANT_LAST, NULL, 0, got));
    assert_same(got, want, 1);
    free(want);
}

/* ---- one verb ---- */

static void roll_back_and_on(const char *dir)
{
    mr_engine *e = open_engine(dir, &(mr_engine_opts){0});
    mr_session *s = new_session(e);
    float l[VOCAB];
    assert_ok(mr_advance(s, ids, 100, MR_WANT_LAST, NULL, 0, l));
    assert_int_equal(mr_session_length(s), 0);
    assert_ok(mr_commit(s, 100));
    assert_ok(mr_advance(s, other, 16, MR_WANT_LAST, NULL, 0, l)); /* rolled back by the next */
    assert_next(s, e, ids, 130);
    assert_ok(mr_commit(s, 20)); /* of 30: as if the others had never been */
    assert_int_equal(mr_session_length(s), 120);
    assert_next(s, e, ids, 121);
    assert_ok(mr_commit(s, 1));
    assert_ok(mr_advance(s, other, 5, MR_WANT_LAST, NULL, 0, l));
    assert_ok(mr_commit(s, 0)); /* rolled back by name */
    assert_next(s, e, ids, N);
    mr_session_free(s);
    mr_engine_close(e);
}

static void test_advance_roll_back_advance(void **state)
{
    (void)state;
    roll_back_and_on(gemma);
    roll_back_and_on(deepseek);
}

static void test_truncate(void **state)
{
    (void)state;
    mr_engine *e = open_engine(deepseek, &(mr_engine_opts){0});
    mr_session *s = new_session(e);
    float l[VOCAB];
    assert_ok(mr_advance(s, other, N, MR_WANT_LAST, NULL, 0, l));
    assert_ok(mr_commit(s, N));
    assert_refused(mr_truncate(s, N + 1), MR_STATUS_USAGE, "301");
    assert_refused(mr_truncate(s, -1), MR_STATUS_USAGE, "-1");
    memcpy(ids, other, 90 * sizeof *ids); /* a common beginning */
    assert_ok(mr_truncate(s, 90));
    assert_int_equal(mr_session_length(s), 90);
    assert_next(s, e, ids, 200);
    assert_ok(mr_truncate(s, 0));
    assert_next(s, e, ids, 40);
    mr_session_free(s);
    mr_engine_close(e);
    some_ids(ids, 1024, VOCAB);
}

/* Pieces of every size around the caps of both plans, through the window's edge. */
static void test_pieces_do_not_show(void **state)
{
    (void)state;
    static const int64_t sizes[] = {1, 15, 16, 17, 63, 64, 65, 200};
    mr_engine *e = open_engine(gemma, &(mr_engine_opts){.chunk = 64});
    float *want = malloc(N * VOCAB * sizeof *want), *got = malloc(N * VOCAB * sizeof *got);
    mr_session *s = new_session(e);
    assert_ok(mr_advance(s, ids, N, MR_WANT_ALL, NULL, 0, want));
    mr_session_free(s);
    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
        s = new_session(e);
        memset(got, 0, N * VOCAB * sizeof *got);
        for (int64_t at = 0; at < N; at += sizes[k]) {
            int64_t n = N - at < sizes[k] ? N - at : sizes[k];
            assert_ok(mr_advance(s, ids + at, n, MR_WANT_ALL, NULL, 0, got + at * VOCAB));
            assert_ok(mr_commit(s, n));
        }
        assert_same(got, want, N);
        mr_session_free(s);
    }
    free(want);
    free(got);
    mr_engine_close(e);
}

static void test_wanted_rows(void **state)
{
    (void)state;
    static const int32_t list[] = {0, 1, 62, 63, 64, 130, 299};
    mr_engine *e = open_engine(deepseek, &(mr_engine_opts){.chunk = 64});
    float *all = malloc(N * VOCAB * sizeof *all), *some = malloc(7 * VOCAB * sizeof *some);
    mr_session *s = new_session(e);
    assert_ok(mr_advance(s, ids, N, MR_WANT_ALL, NULL, 0, all));
    assert_ok(mr_advance(s, ids, N, MR_WANT_LIST, list, 7, some));
    for (int k = 0; k < 7; k++)
        assert_same(some + k * VOCAB, all + list[k] * VOCAB, 1);
    assert_ok(mr_advance(s, ids, N, MR_WANT_LAST, NULL, 0, some));
    assert_same(some, all + (N - 1) * VOCAB, 1);
    assert_ok(mr_advance(s, ids, N, MR_WANT_NONE, NULL, 0, NULL));
    assert_ok(mr_advance(s, ids, N, MR_WANT_LIST, list, 0, NULL));
    assert_refused(mr_advance(s, ids, 64, MR_WANT_LIST, list, 5, some), MR_STATUS_USAGE, "0..63");
    assert_refused(mr_advance(s, ids, N, MR_WANT_LIST, (int32_t[]){3, 3}, 2, some), MR_STATUS_USAGE,
                   "ascend");
    assert_refused(mr_advance(s, ids, N, MR_WANT_LAST, NULL, 0, NULL), MR_STATUS_USAGE, "place");
    assert_refused(mr_advance(s, ids, N, (mr_want)9, NULL, 0, some), MR_STATUS_USAGE, "9");
    mr_session_free(s);
    free(all);
    free(some);
    mr_engine_close(e);
}

/* ---- refusals ---- */

static void test_a_refused_call_changes_nothing(void **state)
{
    (void)state;
    mr_engine *e = open_engine(deepseek, &(mr_engine_opts){.context = 100});
    mr_session *s = new_session(e);
    float l[VOCAB];
    int32_t bad[] = {1, 2, VOCAB};
    assert_refused(mr_commit(s, 1), MR_STATUS_USAGE, "0 are open");
    assert_ok(mr_advance(s, ids, 50, MR_WANT_LAST, NULL, 0, l));
    assert_refused(mr_advance(s, bad, 3, MR_WANT_LAST, NULL, 0, l), MR_STATUS_FORMAT, "id 4096");
    bad[1] = -7;
    assert_refused(mr_advance(s, bad, 3, MR_WANT_LAST, NULL, 0, l), MR_STATUS_FORMAT, "id -7");
    assert_refused(mr_advance(s, ids, 0, MR_WANT_LAST, NULL, 0, l), MR_STATUS_USAGE, "no ids");
    assert_refused(mr_advance(s, ids, -5, MR_WANT_LAST, NULL, 0, l), MR_STATUS_USAGE, "no ids");
    assert_refused(mr_advance(s, ids, 101, MR_WANT_LAST, NULL, 0, l), MR_STATUS_LIMIT, "100");
    assert_refused(mr_advance(s, ids, INT64_MAX, MR_WANT_LAST, NULL, 0, l), MR_STATUS_LIMIT, "100");
    assert_refused(mr_commit(s, 51), MR_STATUS_USAGE, "50 are open");
    assert_refused(mr_commit(s, -1), MR_STATUS_USAGE, "-1");
    assert_ok(mr_commit(s, 50)); /* still open */
    assert_refused(mr_advance(s, ids, 51, MR_WANT_LAST, NULL, 0, l), MR_STATUS_LIMIT, "100");
    assert_next(s, e, ids, 100);
    mr_session_free(s);
    mr_engine_close(e);
}

/* More rows open at once than a ring keeps: what they wrote over cannot be gone back to. */
static void test_ring_floor(void **state)
{
    (void)state;
    mr_engine *e = open_engine(gemma, &(mr_engine_opts){.chunk = 64});
    mr_session *s = new_session(e);
    float l[VOCAB];
    assert_ok(mr_advance(s, ids, 200, MR_WANT_LAST, NULL, 0, l));
    assert_ok(mr_commit(s, 200));
    assert_refused(mr_truncate(s, 135), MR_STATUS_LIMIT, "135");
    assert_ok(mr_truncate(s, 136)); /* 200 less the largest piece */
    assert_next(s, e, ids, 260);
    assert_refused(mr_commit(s, 10), MR_STATUS_LIMIT, "146");
    assert_refused(mr_advance(s, ids, 10, MR_WANT_LAST, NULL, 0, l), MR_STATUS_LIMIT, "136");
    assert_ok(mr_commit(s, 124));
    assert_next(s, e, ids, N);
    assert_ok(mr_truncate(s, 0)); /* nothing lies before it */
    assert_next(s, e, other, 150);
    mr_session_free(s);
    mr_engine_close(e);
}

/* mr_generate on a session that holds something else, more than a ring keeps: starts again. */
static void test_generate_keeps_a_prefix(void **state)
{
    (void)state;
    mr_engine *e = open_engine(gemma, &(mr_engine_opts){.chunk = 64});
    mr_session *s = new_session(e);
    mr_generate_opts o;
    mr_result r;
    float l[VOCAB];
    mr_generate_defaults(&o);
    o.max_new = 1;
    assert_ok(mr_advance(s, other, N, MR_WANT_NONE, NULL, 0, NULL));
    assert_ok(mr_commit(s, N));
    assert_ok(mr_generate(s, ids, 20, &o, &r));
    assert_int_equal(mr_session_length(s), 20);
    uint64_t rows = mr_engine_counts(e).rows;
    assert_ok(mr_generate(s, ids, 30, &o, &r)); /* feeds the ten new ones */
    assert_int_equal(mr_engine_counts(e).rows - rows, 10);
    rows = mr_engine_counts(e).rows;
    assert_ok(mr_generate(s, ids, 30, &o, &r)); /* the last one's logits again */
    assert_int_equal(mr_engine_counts(e).rows - rows, 1);
    float *want = fresh(e, ids, 31);
    assert_ok(mr_advance(s, ids + 30, 1, MR_WANT_LAST, NULL, 0, l));
    assert_same(l, want, 1);
    free(want);
    mr_session_free(s);
    mr_engine_close(e);
}

/* ---- diffusion ---- */

static void test_blocks(void **state)
{
    (void)state;
    mr_engine *e = open_engine(llada, &(mr_engine_opts){.chunk = 48}); /* pieces of one block */
    mr_session *s = new_session(e);
    float *whole = malloc(128 * VOCAB * sizeof *whole), *got = malloc(BLOCK * VOCAB * sizeof *got);
    assert_ok(mr_advance(s, ids, 4 * BLOCK, MR_WANT_ALL, NULL, 0, whole));
    mr_session_free(s);
    s = new_session(e);
    for (int b = 0; b < 4; b++) {
        assert_ok(mr_advance(s, other, BLOCK, MR_WANT_NONE, NULL, 0, NULL)); /* a step before */
        assert_ok(mr_advance(s, ids + b * BLOCK, BLOCK, MR_WANT_ALL, NULL, 0, got));
        assert_same(got, whole + b * BLOCK * VOCAB, BLOCK);
        assert_ok(mr_commit(s, BLOCK));
    }
    assert_ok(mr_truncate(s, BLOCK));
    assert_ok(mr_advance(s, ids + BLOCK, BLOCK, MR_WANT_ALL, NULL, 0, got));
    assert_same(got, whole + BLOCK * VOCAB, BLOCK);
    assert_ok(mr_commit(s, 5)); /* half a block: nothing can follow it */
    assert_refused(mr_advance(s, ids, BLOCK, MR_WANT_NONE, NULL, 0, NULL), MR_STATUS_USAGE,
                   "position 37");
    mr_session_free(s);
    mr_engine_close(e);
    free(whole);
    free(got);
}

/* A block's rows see each other, so a block is never cut, however large: one of 256 rows gives
 * other logits than 8 of 32, and the same ones whether all rows are wanted or a few. */
static void test_a_large_block_is_whole(void **state)
{
    (void)state;
    static const int32_t list[] = {0, 100, 255};
    mr_engine *e = open_engine(llada, &(mr_engine_opts){.block_length = 256, .chunk = 16});
    float *all = malloc(256 * VOCAB * sizeof *all), *some = malloc(3 * VOCAB * sizeof *some);
    mr_session *s = new_session(e);
    assert_true(e->decode.plan->out_cap >= 256 && e->prefill.plan->row_cap >= 256);
    assert_ok(mr_advance(s, ids, 256, MR_WANT_ALL, NULL, 0, all));
    assert_ok(mr_advance(s, ids, 256, MR_WANT_LIST, list, 3, some));
    for (int k = 0; k < 3; k++)
        assert_same(some + k * VOCAB, all + list[k] * VOCAB, 1);
    mr_session_free(s);
    mr_engine_close(e);
    e = open_engine(llada, &(mr_engine_opts){0});
    s = new_session(e);
    assert_ok(mr_advance(s, ids, 256, MR_WANT_LIST, list, 1, some));
    assert_memory_not_equal(some, all, VOCAB * sizeof *all);
    mr_session_free(s);
    mr_engine_close(e);
    free(all);
    free(some);
    mr_model_info m = {.vocab = 157184, .diffusion = true, .block_length = 256};
    assert_int_equal(mr_engine_out_cap(&m, 512), 256); /* 24 MiB would hold 40 rows */
    m.diffusion = false;
    assert_int_equal(mr_engine_out_cap(&m, 512), 40);
    assert_int_equal(mr_engine_out_cap(&m, 16), 16);
}

/* ---- memory ---- */

static void decode_without_allocating(const char *dir, int64_t step)
{
    mr_engine *e = open_engine(dir, &(mr_engine_opts){0});
    mr_session *s = new_session(e);
    float *l = malloc((size_t)(step * VOCAB) * sizeof *l);
    int64_t from = 64; /* blocks of 64 positions: the next 64 are reserved at once */
    assert_ok(mr_advance(s, ids, from, MR_WANT_NONE, NULL, 0, NULL));
    assert_ok(mr_commit(s, from));
    assert_ok(mr_advance(s, ids + from, step, MR_WANT_ALL, NULL, 0, l));
    uint64_t before = mr_mem_allocations();
    for (int64_t at = from; at < 128; at += step) {
        assert_ok(mr_advance(s, ids + at, step, MR_WANT_ALL, NULL, 0, l));
        assert_ok(mr_commit(s, step));
    }
    assert_int_equal(mr_mem_allocations() - before, 0);
    free(l);
    mr_session_free(s);
    mr_engine_close(e);
}

static void test_steady_decoding_allocates_nothing(void **state)
{
    (void)state;
    decode_without_allocating(gemma, 1);
    decode_without_allocating(deepseek, 1);
    decode_without_allocating(deepseek, 8);
    decode_without_allocating(llada, BLOCK);
}

/* Sliding layers hold window + chunk, rounded up to blocks of 64, however long the text; the one
 * layer that does not slide holds it all. */
static void test_ring_size(void **state)
{
    (void)state;
    enum { HEADS = 1, DIM = 64, LAYERS = 5, WINDOW = 64 };
    static const int64_t chunks[] = {64, 128, 200, 512};
    for (size_t k = 0; k < 4; k++) {
        mr_engine *e = open_engine(gemma, &(mr_engine_opts){.chunk = chunks[k]});
        mr_session *s = new_session(e);
        assert_ok(mr_advance(s, ids, 1024, MR_WANT_NONE, NULL, 0, NULL));
        int64_t row = 2 * HEADS * DIM * 2; /* keys and values in bf16 */
        int64_t ring = (WINDOW + chunks[k] + 63) / 64 * 64;
        if (chunks[k] < 128)
            ring += 64; /* too small to give a block of it to the alignment */
        int64_t tables = 6 * (16 * 8 + 128) + 128;
        int64_t bound = (LAYERS * ring + 1024) * row + tables;
        int64_t held = (int64_t)mr_engine_counts(e).kv_bytes;
        assert_true(held >= 1024 * row);
        if (held > bound)
            fail_msg("chunk %d: %d bytes held, %d expected", (int)chunks[k], (int)held, (int)bound);
        mr_session_free(s);
        assert_int_equal(mr_engine_counts(e).kv_bytes, 0);
        assert_int_equal(mr_engine_counts(e).kv_peak_bytes, held);
        mr_engine_close(e);
    }
}

/* The need told beforehand covers what a full session then holds. */
static void test_need_covers_kv(void **state)
{
    (void)state;
    static const char *const dirs[] = {gemma, deepseek, llada};
    for (int k = 0; k < 3; k++) {
        mr_engine *e = open_engine(dirs[k], &(mr_engine_opts){0});
        mr_need need;
        assert_ok(mr_need_count(&need, e->backend, e->graph, e->decode.plan, e->prefill.plan, 1024,
                                e->prefill.plan->row_cap, 1));
        mr_session *s = new_session(e);
        assert_ok(mr_advance(s, ids, 1024, MR_WANT_NONE, NULL, 0, NULL));
        assert_true(mr_engine_counts(e).kv_bytes <= need.kv);
        assert_true(need.weights == mr_engine_facts(e)->weight_bytes);
        mr_session_free(s);
        mr_engine_close(e);
    }
}

/* Two sessions of one engine, in turn, do not touch each other. */
static void test_sessions_are_apart(void **state)
{
    (void)state;
    mr_engine *e = open_engine(gemma, &(mr_engine_opts){0});
    mr_session *a = new_session(e), *b = new_session(e);
    for (int64_t at = 0; at < 60; at += 20) {
        assert_ok(mr_advance(a, ids + at, 20, MR_WANT_NONE, NULL, 0, NULL));
        assert_ok(mr_advance(b, other + at, 20, MR_WANT_NONE, NULL, 0, NULL));
        assert_ok(mr_commit(b, 20));
        assert_ok(mr_commit(a, 20));
    }
    assert_next(a, e, ids, 61);
    assert_next(b, e, other, 61);
    mr_session_free(a);
    mr_session_free(b);
    mr_engine_close(e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_advance_roll_back_advance),
        cmocka_unit_test(test_truncate),
        cmocka_unit_test(test_pieces_do_not_show),
        cmocka_unit_test(test_wanted_rows),
        cmocka_unit_test(test_a_refused_call_changes_nothing),
        cmocka_unit_test(test_ring_floor),
        cmocka_unit_test(test_generate_keeps_a_prefix),
        cmocka_unit_test(test_blocks),
        cmocka_unit_test(test_a_large_block_is_whole),
        cmocka_unit_test(test_steady_decoding_allocates_nothing),
        cmocka_unit_test(test_ring_size),
        cmocka_unit_test(test_need_covers_kv),
        cmocka_unit_test(test_sessions_are_apart),
    };
    some_ids(ids, 1024, VOCAB);
    for (int i = 0; i < 1024; i++)
        other[i] = (ids[i] * 3 + 11) % VOCAB;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
