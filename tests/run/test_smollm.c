/* A real model, when `make fetch` brought it: SmolLM2-135M-Instruct (Q4_1 GGUF) against transformers
 * on its dequantised weights (tests/run/smollm.json, made by tools/smollm_goldens.py). */
#include "run_test.h"

#include <math.h>

enum { VOCAB = 49152, IDS = 1024, PIECE = 64, CLOSE = 256 };

static char model[1024];
static int32_t *ids;
static test_doc golden;

/* Where tools/fetch.sh puts it. */
static bool find_model(void)
{
    const char *cache = getenv("MILLRACE_CACHE"), *xdg = getenv("XDG_CACHE_HOME");
    const char *home = getenv("HOME"), name[] = "SmolLM2-135M-Instruct.Q4_1.gguf";
    if (cache)
        snprintf(model, sizeof model, "%s/%s", cache, name);
    else if (xdg)
        snprintf(model, sizeof model, "%s/millrace/%s", xdg, name);
    else
        snprintf(model, sizeof model, "%s/.cache/millrace/%s", home ? home : "", name);
    return mr_file_exists(model) == 1;
}

static double log_sum(const float *l)
{
    double sum = 0, top = (double)l[0];
    for (int i = 1; i < VOCAB; i++)
        top = (double)l[i] > top ? (double)l[i] : top;
    for (int i = 0; i < VOCAB; i++)
        sum += exp((double)l[i] - top);
    return top + log(sum);
}

static void check_row(const float *got, const float *want, int row)
{
    for (int i = 0; i < VOCAB; i++)
        if (!(fabsf(got[i] - want[i]) <= 1e-4f * (1 + fabsf(want[i]))))
            fail_msg("row %d, id %d: %g, expected %g", row, i, (double)got[i], (double)want[i]);
}

/* Logits of the stored rows, and the loss over all of the text. */
static void test_exact(void **state)
{
    (void)state;
    int64_t n, n_rows;
    int32_t *rows = read_ids(mr_jget(golden.root, "rows"), &n_rows);
    float *want = read_npy("tests/run/smollm.npy", &n), *l = malloc(PIECE * VOCAB * sizeof *l);
    assert_int_equal(n, n_rows * VOCAB);
    mr_engine *e = open_engine(model, &(mr_engine_opts){.precision = "exact"});
    mr_session *s = new_session(e);
    double nll = 0;
    int seen = 0;
    for (int at = 0; at < IDS; at += PIECE) {
        assert_ok(mr_advance(s, ids + at, PIECE, MR_WANT_ALL, NULL, 0, l));
        assert_ok(mr_commit(s, PIECE));
        for (int i = 0; i < PIECE && at + i + 1 < IDS; i++)
            nll += log_sum(l + i * VOCAB) - (double)l[i * VOCAB + ids[at + i + 1]];
        for (int k = 0; k < n_rows; k++)
            if (rows[k] >= at && rows[k] < at + PIECE) {
                check_row(l + (rows[k] - at) * VOCAB, want + k * VOCAB, rows[k]);
                seen++;
            }
    }
    nll /= IDS - 1;
    print_message("nll %.6f, perplexity %.3f\n", nll, exp(nll));
    assert_int_equal(seen, n_rows);
    assert_float_equal(nll, read_num(golden.root, "nll"), 1e-4);
    mr_session_free(s);
    mr_engine_close(e);
    free(rows);
    free(want);
    free(l);
}

static int hear(void *ctx, const int32_t *p, size_t n)
{
    int32_t **at = ctx;
    for (size_t i = 0; i < n; i++)
        *(*at)++ = p[i];
    return 0;
}

static void test_greedy(void **state)
{
    (void)state;
    mr_jval g = mr_jget(golden.root, "greedy");
    int64_t n;
    int32_t *want = read_ids(mr_jget(g, "ids"), &n), got[256] = {0}, *at = got;
    mr_engine *e = open_engine(model, &(mr_engine_opts){.precision = "exact"});
    mr_session *s = new_session(e);
    mr_generate_opts o;
    mr_generate_defaults(&o);
    o.max_new = n;
    o.on_ids = hear;
    o.ctx = &at;
    assert_ok(mr_generate(s, ids, (size_t)read_num(g, "prompt_len"), &o, NULL));
    assert_int_equal(at - got, n);
    assert_memory_equal(got, want, (size_t)n * sizeof *want);
    mr_session_free(s);
    mr_engine_close(e);
    free(want);
}

/* How far `fast` is from `exact` over the first of the text. */
static void test_fast(void **state)
{
    (void)state;
    mr_engine *e = open_engine(model, &(mr_engine_opts){.precision = "exact"});
    mr_engine *f = open_engine(model, &(mr_engine_opts){0});
    mr_session *s = new_session(e), *t = new_session(f);
    float *a = malloc(PIECE * VOCAB * sizeof *a), *b = malloc(PIECE * VOCAB * sizeof *b);
    double kl = 0, nll_e = 0, nll_f = 0;
    for (int at = 0; at < CLOSE; at += PIECE) {
        assert_ok(mr_advance(s, ids + at, PIECE, MR_WANT_ALL, NULL, 0, a));
        assert_ok(mr_commit(s, PIECE));
        assert_ok(mr_advance(t, ids + at, PIECE, MR_WANT_ALL, NULL, 0, b));
        assert_ok(mr_commit(t, PIECE));
        for (int i = 0; i < PIECE; i++) {
            const float *x = a + i * VOCAB, *y = b + i * VOCAB;
            double zx = log_sum(x), zy = log_sum(y);
            for (int v = 0; v < VOCAB; v++)
                kl += exp((double)x[v] - zx) * (((double)x[v] - zx) - ((double)y[v] - zy));
            nll_e += zx - (double)x[ids[at + i + 1]];
            nll_f += zy - (double)y[ids[at + i + 1]];
        }
    }
    kl /= CLOSE;
    print_message("mean KL %.3g, perplexity %+.3f %%\n", kl,
                  100 * (exp((nll_f - nll_e) / CLOSE) - 1));
    assert_true(kl > 0 && kl <= 1e-3);
    assert_true(fabs(exp((nll_f - nll_e) / CLOSE) - 1) <= 0.005);
    mr_session_free(s);
    mr_session_free(t);
    mr_engine_close(e);
    mr_engine_close(f);
    free(a);
    free(b);
}

/* The program's tokenizer gives the ids of the `tokenizers` package: there and back. */
static void test_text(void **state)
{
    (void)state;
    mr_tokenizer *t;
    char *text;
    int32_t *again;
    size_t len, n;
    assert_ok(mr_text_open(&t, model));
    assert_ok(mr_decode(t, ids, 500, false, &text, &len));
    assert_memory_equal(text, "Alice was beginning to get very tired", 37);
    assert_ok(mr_encode(t, text, len, MR_ENCODE_SPECIAL, &again, &n));
    assert_int_equal(n, 500);
    assert_memory_equal(again, ids, 500 * sizeof *ids);
    mr_memory_free(text);
    mr_memory_free(again);
    mr_text_close(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_exact),
        cmocka_unit_test(test_greedy),
        cmocka_unit_test(test_fast),
        cmocka_unit_test(test_text),
    };
    if (!find_model()) {
        printf("skipped: SmolLM2 not fetched\n");
        return 0;
    }
    golden = read_doc("tests/run/smollm.json");
    int64_t n;
    ids = read_ids(mr_jget(golden.root, "ids"), &n);
    int failed = n == IDS ? cmocka_run_group_tests(tests, NULL, NULL) : 1;
    free(ids);
    free_doc(&golden);
    return failed;
}
