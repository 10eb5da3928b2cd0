/* Saved states: going on from one gives the bytes of never having stopped, whatever the engine that
 * goes on; what is cut short, damaged or of another model is refused and changes nothing. */
#include "saved_state.h"

#include <unistd.h>

#include "base/mem.h"

static const char gemma[] = "models/gemma3-stories"; /* five layers in six slide, window 64 */
static const char deepseek[] = "models/deepseek-v3-stories";
static const char llada[] = "models/llada2-stories";

/* ---- the same bits ---- */

/* Both sessions go on alike from where they are. */
static void assert_alike(mr_session *a, mr_session *b, const int32_t *ids, int64_t n, int64_t step)
{
    int64_t vocab = mr_engine_facts(a->engine)->vocab;
    size_t bytes = (size_t)(step * vocab) * sizeof(float);
    float *la = malloc(bytes), *lb = malloc(bytes);
    for (int64_t at = mr_session_length(a); at + step <= n; at += step) {
        assert_int_equal(mr_session_length(b), at);
        assert_ok(mr_advance(a, ids + at, step, MR_WANT_ALL, NULL, 0, la));
        assert_ok(mr_advance(b, ids + at, step, MR_WANT_ALL, NULL, 0, lb));
        assert_memory_equal(la, lb, bytes);
        assert_ok(mr_commit(a, step));
        assert_ok(mr_commit(b, step));
    }
    free(la);
    free(lb);
}

/* n ids, then a state; another engine goes on for some more. */
static void goes_on(const char *dir, const char *precision, int64_t n)
{
    mr_engine *a = open_engine(dir, &(mr_engine_opts){.precision = precision, .threads = 1}),
              *b = open_engine(dir, &(mr_engine_opts){.precision = precision,
                                                      .threads = 3,
                                                      .cpu = "c",
                                                      .chunk = 64,
                                                      .context = 256});
    const mr_engine_info *i = mr_engine_facts(a);
    int64_t step = i->diffusion ? i->block_length : 1, end = n + (step > 1 ? 2 * step : 10);
    int32_t ids[400];
    some_ids(ids, 400, i->vocab);
    n = n / step * step;
    mr_session *s = new_session(a), *t = new_session(b);
    feed(t, ids + 7, 2 * step); /* something else, to be replaced */
    feed(s, ids, n);
    assert_ok(mr_advance(s, ids + 5, step, MR_WANT_NONE, NULL, 0, NULL)); /* open: not saved */
    saved k = take_state(s);
    assert_ok(mr_state_read(t, k.data, k.bytes));
    assert_int_equal(mr_session_length(t), n);
    assert_memory_equal(mr_session_ids(t), ids, (size_t)n * sizeof *ids);
    assert_alike(s, t, ids, end, step);
    saved again = take_state(t); /* and a state of what came of it */
    mr_session *u = new_session(a);
    assert_ok(mr_state_read(u, again.data, again.bytes));
    assert_alike(t, u, ids, end + step, step);
    mr_session_free(s);
    mr_session_free(t);
    mr_session_free(u);
    mr_engine_close(a);
    mr_engine_close(b);
    free(k.data);
    free(again.data);
}

static void test_goes_on(void **state)
{
    (void)state;
    goes_on(gemma, "fast", 150); /* through the window */
    goes_on(gemma, "exact", 64);
    goes_on(deepseek, "fast", 70); /* latents */
    goes_on(deepseek, "exact", 1);
    goes_on(llada, "fast", 96);
    goes_on("tests/vectors/gemma3-1b", "exact", 40); /* window 8 */
    goes_on("tests/vectors/gemma2-2b", "fast", 40);
    goes_on("tests/vectors/gemma4-e2b", "exact", 40); /* layers that share caches */
    goes_on("tests/vectors/qwen3-next", "exact", 40); /* recurrent states */
    goes_on("tests/vectors/qwen3.5-moe", "fast", 40);
    goes_on("tests/vectors/llama3", "exact", 65);
}

/* What was fed in other pieces, rolled back or cut off leaves no trace. */
static void test_the_way_does_not_show(void **state)
{
    (void)state;
    mr_engine *e = open_engine(gemma, &(mr_engine_opts){.chunk = 64});
    int32_t ids[200];
    some_ids(ids, 200, 4096);
    mr_session *s = new_session(e), *t = new_session(e);
    feed(s, ids, 120);
    for (int64_t at = 0; at < 130; at += 10)
        feed(t, ids + at, 10);
    assert_ok(mr_truncate(t, 120));
    assert_ok(mr_advance(t, ids, 10, MR_WANT_NONE, NULL, 0, NULL));
    saved a = take_state(s), b = take_state(t);
    assert_true(a.bytes == b.bytes);
    assert_memory_equal(a.data, b.data, a.bytes);
    free(a.data);
    free(b.data);
    mr_session_free(s);
    mr_session_free(t);
    mr_engine_close(e);
}

/* A sliding session can go back a little after loading, and says so where it cannot. */
static void test_going_back(void **state)
{
    (void)state;
    mr_engine *e = open_engine(gemma, &(mr_engine_opts){.chunk = 64});
    int32_t ids[200];
    some_ids(ids, 200, 4096);
    mr_session *s = new_session(e), *t = new_session(e);
    feed(s, ids, 150);
    saved k = take_state(s);
    assert_ok(mr_state_read(t, k.data, k.bytes));
    assert_refused(mr_truncate(t, 133), MR_STATUS_LIMIT, "let go");
    assert_ok(mr_truncate(t, 134));
    assert_ok(mr_truncate(s, 134));
    assert_alike(s, t, ids, 160, 1);
    assert_ok(mr_truncate(t, 0));
    saved none = take_state(t);
    assert_ok(mr_state_read(s, none.data, none.bytes));
    assert_int_equal(mr_session_length(s), 0);
    assert_alike(s, t, ids, 5, 1);
    free(k.data);
    free(none.data);
    mr_session_free(s);
    mr_session_free(t);
    mr_engine_close(e);
}

/* ---- files ---- */

static void test_files(void **state)
{
    (void)state;
    char path[] = "/tmp/mr-state-XXXXXX", part[64];
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    mr_engine *e = open_engine(deepseek, &(mr_engine_opts){0});
    int32_t ids[100];
    some_ids(ids, 100, 4096);
    mr_session *s = new_session(e), *t = new_session(e);
    feed(s, ids, 70);
    assert_ok(mr_state_save(s, path));
    assert_ok(mr_state_load(t, path));
    assert_alike(s, t, ids, 75, 1);
    snprintf(part, sizeof part, "%s.half", path);
    saved k = take_state(s);
    FILE *f = fopen(part, "wb");
    assert_true(f && fwrite(k.data, 1, k.bytes / 2, f) == k.bytes / 2);
    fclose(f);
    assert_refused(mr_state_load(t, part), MR_STATUS_FORMAT, "cut short");
    assert_int_equal(mr_session_length(t), 75);
    assert_refused(mr_state_load(t, "tests/run/none"), MR_STATUS_IO, "tests/run/none");
    assert_refused(mr_state_load(t, "README.md"), MR_STATUS_FORMAT, "not a saved state");
    assert_refused(mr_state_save(s, "/nowhere/x"), MR_STATUS_IO, "/nowhere");
    for (uint64_t nth = 1; nth < 200; nth++) { /* each read failing: refused, or empty */
        mr_file_fail_after(nth);
        mr_status st = mr_state_load(t, path);
        mr_file_fail_after(0);
        if (!st)
            break;
        assert_int_equal(st, MR_STATUS_IO);
        assert_true(mr_session_length(t) == 75 || mr_session_length(t) == 0);
    }
    assert_int_equal(mr_session_length(t), 70);
    unlink(path);
    unlink(part);
    free(k.data);
    mr_session_free(s);
    mr_session_free(t);
    mr_engine_close(e);
}

/* ---- refusals ---- */

static void test_damage(void **state)
{
    (void)state;
    mr_engine *e = open_engine("tests/vectors/gemma3-1b", &(mr_engine_opts){0});
    int32_t ids[60];
    some_ids(ids, 60, mr_engine_facts(e)->vocab);
    mr_session *s = new_session(e), *t = new_session(e), *u = new_session(e);
    feed(s, ids, 40);
    feed(t, ids + 3, 20);
    feed(u, ids + 3, 20);
    saved k = take_state(s);
    for (uint64_t n = 0; n < k.bytes; n += n < 300 ? 1 : 997)
        assert_int_not_equal(mr_state_read(t, k.data, n), MR_STATUS_OK);
    uint8_t *longer = calloc(1, k.bytes + 1);
    memcpy(longer, k.data, k.bytes);
    assert_refused(mr_state_read(t, longer, k.bytes + 1), MR_STATUS_FORMAT, "bytes");
    for (uint64_t i = 0; i < k.bytes; i += i < 300 ? 1 : 997) {
        k.data[i] ^= 0x41;
        assert_int_not_equal(mr_state_read(t, k.data, k.bytes), MR_STATUS_OK);
        k.data[i] ^= 0x41;
    }
    k.data[k.bytes / 2] ^= 1;
    assert_refused(mr_state_read(t, k.data, k.bytes), MR_STATUS_FORMAT, "checksum");
    k.data[k.bytes / 2] ^= 1;
    k.data[8] = 2;
    assert_refused(mr_state_read(t, k.data, k.bytes), MR_STATUS_UNSUPPORTED, "version 2");
    k.data[8] = 1;
    assert_alike(t, u, ids + 3, 30, 1); /* all that changed nothing */
    assert_ok(mr_state_read(t, k.data, k.bytes));
    assert_refused(mr_state_write(s, k.data, k.bytes - 1), MR_STATUS_USAGE, "buffer");
    free(longer);
    free(k.data);
    mr_session_free(s);
    mr_session_free(t);
    mr_session_free(u);
    mr_engine_close(e);
}

static void refuse_in(const char *dir, const mr_engine_opts *o, const saved *k, mr_status code,
                      const char *text)
{
    mr_engine *e = open_engine(dir, o);
    mr_session *s = new_session(e);
    assert_refused(mr_state_read(s, k->data, k->bytes), code, text);
    mr_session_free(s);
    mr_engine_close(e);
}

static void test_other_models(void **state)
{
    (void)state;
    mr_engine *e = open_engine(llada, &(mr_engine_opts){0});
    int32_t ids[100];
    some_ids(ids, 100, 4096);
    mr_session *s = new_session(e);
    feed(s, ids, 96);
    saved k = take_state(s);
    refuse_in(gemma, &(mr_engine_opts){0}, &k, MR_STATUS_USAGE, "blocks of 32");
    refuse_in(llada, &(mr_engine_opts){.precision = "exact"}, &k, MR_STATUS_USAGE,
              "saved in precision fast; this engine has exact");
    refuse_in(llada, &(mr_engine_opts){.block_length = 16}, &k, MR_STATUS_USAGE, "blocks of 32");
    refuse_in(llada, &(mr_engine_opts){.context = 64}, &k, MR_STATUS_LIMIT, "context of 64");
    free(k.data);
    mr_session_free(s);
    mr_engine_close(e);
    e = open_engine(deepseek, &(mr_engine_opts){0});
    s = new_session(e);
    feed(s, ids, 10);
    k = take_state(s);
    refuse_in(gemma, &(mr_engine_opts){0}, &k, MR_STATUS_FORMAT, "its graph differs");
    e->fingerprint_weights ^= 2; /* as of a model of the same shape with other weights */
    assert_refused(mr_state_read(s, k.data, k.bytes), MR_STATUS_FORMAT, "its weights differ");
    free(k.data);
    mr_session_free(s);
    mr_engine_close(e);
}

static void test_out_of_memory(void **state)
{
    (void)state;
    mr_engine *e = open_engine(deepseek, &(mr_engine_opts){0});
    int32_t ids[100];
    some_ids(ids, 100, 4096);
    mr_session *s = new_session(e);
    feed(s, ids, 70);
    saved k = take_state(s);
    int failed = 0;
    for (uint64_t nth = 1;; nth++) {
        mr_session *t = new_session(e);
        feed(t, ids + 1, 5);
        mr_mem_fail_after(nth);
        mr_status st = mr_state_read(t, k.data, k.bytes);
        mr_mem_fail_after(0);
        assert_int_equal(mr_session_length(t), st ? 5 : 70);
        mr_session_free(t);
        if (!st)
            break;
        failed++;
        assert_int_equal(st, MR_STATUS_MEMORY);
    }
    assert_true(failed > 3);
    free(k.data);
    mr_session_free(s);
    mr_engine_close(e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_goes_on),      cmocka_unit_test(test_the_way_does_not_show),
        cmocka_unit_test(test_going_back),   cmocka_unit_test(test_files),
        cmocka_unit_test(test_damage),       cmocka_unit_test(test_other_models),
        cmocka_unit_test(test_out_of_memory)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
