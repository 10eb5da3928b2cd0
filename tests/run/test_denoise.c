/* Diffusion over sessions: blocks forwarded together have the bytes of each alone; a canvas leaves
 * nothing behind, whatever was written, rolled back or dropped around it; whole generations are the
 * same from a used session. */
#include "run_test.h"

static const char llada[] = "models/llada2-stories", canvas[] = "tests/vectors/diffusion-gemma";

enum { N = 90, C = 16, V = 272 };
static int32_t ids[256], x[C], y[C];

typedef struct heard {
    int32_t id[512];
    size_t n;
    int64_t steps;
} heard;

static int on_ids(void *ctx, const int32_t *p, size_t n)
{
    heard *h = ctx;
    memcpy(h->id + h->n, p, n * sizeof *p);
    h->n += n;
    return 0;
}

static heard generate(mr_session *s, int64_t prompt, const mr_generate_opts *with)
{
    heard h = {.n = 0};
    mr_generate_opts o = *with;
    mr_result r;
    o.on_ids = on_ids;
    o.ctx = &h;
    assert_ok(mr_generate(s, ids, (size_t)prompt, &o, &r));
    h.steps = r.steps;
    return h;
}

static void assert_heard(const heard *a, const heard *b)
{
    assert_int_equal(a->n, b->n);
    assert_int_equal(a->steps, b->steps);
    assert_memory_equal(a->id, b->id, a->n * sizeof *a->id);
}

/* ---- blocks ---- */

/* A chunk of one block cuts what is otherwise one run: finished block and next one. */
static void two_blocks_at_once(void **state)
{
    (void)state;
    static const char *const decoders[] = {"llada2.0", "llada2.1", "dinfer-threshold",
                                           "dinfer-credit", "dinfer-hierarchy"};
    const int32_t no_end = 4095;
    some_ids(ids, N, 4096);
    for (size_t d = 0; d < sizeof decoders / sizeof *decoders; d++) {
        heard h[2];
        uint64_t runs[2];
        for (int together = 0; together < 2; together++) {
            mr_engine *e = open_engine(
                llada, &(mr_engine_opts){.chunk = together ? 0 : 32, .eos = &no_end, .n_eos = 1});
            mr_session *s = new_session(e);
            mr_generate_opts o;
            mr_generate_defaults(&o);
            o.decoder = decoders[d];
            o.max_new = 100;
            uint64_t before = mr_engine_counts(e).runs;
            h[together] = generate(s, 40, &o);
            runs[together] = mr_engine_counts(e).runs - before;
            mr_session_free(s);
            mr_engine_close(e);
        }
        assert_heard(&h[0], &h[1]);
        if (strcmp(decoders[d], "llada2.1") == 0) /* its blocks leave K and V behind */
            assert_int_equal(runs[1], runs[0]);
        else
            assert_true(runs[1] < runs[0]);
    }
}

/* 2.1's blocks end at a step that changed nothing: no forward is made for their K and V. */
static void a_fixpoint_needs_no_commit(void **state)
{
    (void)state;
    const int32_t no_end = 4095;
    mr_engine *e = open_engine(llada, &(mr_engine_opts){.eos = &no_end, .n_eos = 1});
    mr_session *s = new_session(e);
    mr_generate_opts o;
    mr_generate_defaults(&o);
    some_ids(ids, N, 4096);
    o.decoder = "llada2.1";
    o.max_new = 128;
    heard h = generate(s, 32, &o);
    mr_counts c = mr_engine_counts(e);
    assert_int_equal(c.runs, 1 + h.steps); /* the prompt, then the steps */
    assert_int_equal(c.rows, 32 * (1 + h.steps));
    mr_session_free(s);
    mr_engine_close(e);
}

/* ---- canvases ---- */

static float *denoise(mr_session *s, const int32_t *ids16, const float *probs)
{
    float *l = malloc(sizeof *l * C * V);
    assert_ok(mr_denoise(s, ids16, probs, l));
    return l;
}

static void feed(mr_session *s, int64_t from, int64_t to)
{
    assert_ok(mr_advance(s, ids + from, to - from, MR_WANT_NONE, NULL, 0, NULL));
    assert_ok(mr_commit(s, to - from));
}

/* The canvas x after ids[0..n), from a fresh session. */
static void assert_canvas(mr_session *s, mr_engine *e, int64_t n)
{
    mr_session *f = new_session(e);
    feed(f, 0, n);
    float *want = denoise(f, x, NULL), *got = denoise(s, x, NULL);
    assert_int_equal(mr_session_length(s), n);
    assert_memory_equal(got, want, sizeof *got * C * V);
    mr_session_free(f);
    free(want);
    free(got);
}

static mr_engine *open_canvas(int64_t chunk)
{
    some_ids(ids, 256, V);
    for (int i = 0; i < C; i++) {
        x[i] = (int32_t)(i * 37 % V);
        y[i] = (int32_t)(i * 51 + 9) % V;
    }
    return open_engine(canvas, &(mr_engine_opts){.chunk = chunk, .context = 200});
}

static void nothing_stays(void **state)
{
    (void)state;
    mr_engine *e = open_canvas(0);
    mr_session *s = new_session(e);
    feed(s, 0, 27);
    assert_canvas(s, e, 27);
    free(denoise(s, y, NULL)); /* another canvas in between */
    assert_canvas(s, e, 27);
    assert_refused(mr_commit(s, 1), MR_STATUS_USAGE, "0 are open");
    assert_ok(mr_advance(s, ids + 40, 9, MR_WANT_NONE, NULL, 0, NULL)); /* open rows go, too */
    assert_canvas(s, e, 27);
    assert_refused(mr_commit(s, 9), MR_STATUS_USAGE, "0 are open");
    feed(s, 27, 28);
    assert_canvas(s, e, 28);
    feed(s, 28, 60);
    assert_canvas(s, e, 60);
    assert_ok(mr_truncate(s, 0));
    feed(s, 0, 5);
    assert_canvas(s, e, 5);
    mr_session_free(s);
    mr_engine_close(e);
}

/* However small the chunk, the rings hold a canvas behind the window. */
static void small_chunks(void **state)
{
    (void)state;
    mr_engine *e = open_canvas(1), *big = open_canvas(0);
    mr_session *s = new_session(e);
    for (int64_t n = 0; n < 160; n += C) {
        feed(s, n, n + C);
        assert_canvas(s, big, n + C);
    }
    mr_session_free(s);
    mr_engine_close(e);
    mr_engine_close(big);
}

static void what_is_refused(void **state)
{
    (void)state;
    mr_engine *e = open_canvas(0), *other = open_engine(llada, &(mr_engine_opts){0});
    mr_session *s = new_session(e), *t = new_session(other);
    static float l[C * V];
    int32_t bad[C];
    memcpy(bad, x, sizeof bad);
    bad[15] = V;
    feed(s, 0, 27);
    assert_refused(mr_denoise(s, bad, NULL, l), MR_STATUS_FORMAT, "id 272 (number 15)");
    assert_canvas(s, e, 27);
    assert_refused(mr_denoise(t, x, NULL, l), MR_STATUS_USAGE, "has no canvas");
    assert_refused(mr_advance(s, ids, 1, MR_WANT_LAST, NULL, 0, l), MR_STATUS_USAGE,
                   "canvases alone");
    feed(s, 27, 185);
    assert_refused(mr_denoise(s, x, NULL, l), MR_STATUS_LIMIT, "context of 200");
    mr_session_free(s);
    mr_session_free(t);
    mr_engine_close(e);
    mr_engine_close(other);
}

/* The first canvas comes from no step: no probabilities are none, and not those of nothing. */
static void what_is_fed_back_counts(void **state)
{
    (void)state;
    mr_engine *e = open_canvas(0);
    mr_session *s = new_session(e);
    float *zero = calloc(C * V, sizeof *zero), *some = calloc(C * V, sizeof *some);
    feed(s, 0, 27);
    for (int i = 0; i < C; i++)
        some[i * V + 7 * i % V] = 1;
    float *a = denoise(s, x, NULL), *b = denoise(s, x, zero), *c = denoise(s, x, some);
    assert_memory_equal(a, b, sizeof *a * C * V); /* their mixture is zero either way */
    assert_memory_not_equal(a, c, sizeof *a * C * V);
    free(zero);
    free(some);
    free(a);
    free(b);
    free(c);
    mr_session_free(s);
    mr_engine_close(e);
}

static void generations(void **state)
{
    (void)state;
    mr_engine *e = open_canvas(0);
    mr_session *used = new_session(e);
    for (int temperature = 0; temperature < 2; temperature++) {
        mr_generate_opts o;
        mr_generate_defaults(&o);
        o.max_new = 40;
        o.steps = 5;
        o.temperature = temperature;
        o.seed = 3;
        for (int64_t n = 50; n > 10; n -= 19) { /* shorter prompts, then longer ones again */
            mr_session *s = new_session(e);
            heard a = generate(s, n, &o), b = generate(used, n, &o);
            assert_heard(&a, &b);
            assert_true(a.n == 48 && a.steps == 15);
            heard c = generate(used, n, &o);
            assert_heard(&a, &c);
            mr_session_free(s);
        }
    }
    mr_session_free(used);
    mr_engine_close(e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(two_blocks_at_once), cmocka_unit_test(a_fixpoint_needs_no_commit),
        cmocka_unit_test(nothing_stays),      cmocka_unit_test(small_chunks),
        cmocka_unit_test(what_is_refused),    cmocka_unit_test(what_is_fed_back_counts),
        cmocka_unit_test(generations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
