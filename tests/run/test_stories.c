/* The bundled models against what their reference implementation says of them
 * (tests/vectors/stories, made by tools/demo_goldens.py): logits, loss, greedy ids; and how far
 * `fast` is from `exact`.
 *
 * The diffusion generations of the goldens hang on router margins of 1e-5, on which no two
 * implementations agree; of that model logits and loss are tested. */
#include "run_test.h"

#include <math.h>

enum { VOCAB = 4096, ROW = 256 };

static double log_sum(const float *l)
{
    double sum = 0, top = (double)l[0];
    for (int i = 1; i < VOCAB; i++)
        top = (double)l[i] > top ? (double)l[i] : top;
    for (int i = 0; i < VOCAB; i++)
        sum += exp((double)l[i] - top);
    return top + log(sum);
}

static test_doc goldens(const char *name)
{
    char path[256];
    snprintf(path, sizeof path, "tests/vectors/stories/%s.json", name);
    return read_doc(path);
}

static mr_engine *story(const char *name, const char *precision)
{
    char dir[256];
    snprintf(dir, sizeof dir, "models/%s", name);
    return open_engine(dir, &(mr_engine_opts){.precision = precision});
}

static float *logits_of(mr_engine *e, const int32_t *ids, int64_t n)
{
    float *l = malloc((size_t)(n * VOCAB) * sizeof *l);
    mr_session *s = new_session(e);
    assert_ok(mr_advance(s, ids, n, MR_WANT_ALL, NULL, 0, l));
    mr_session_free(s);
    return l;
}

static void check_logits(const char *name, mr_engine *e, mr_jval golden)
{
    char path[256];
    int64_t n, n_want;
    int32_t *ids = read_ids(mr_jget(mr_jget(golden, "logits"), "ids"), &n);
    snprintf(path, sizeof path, "tests/vectors/stories/%s.npy", name);
    float *want = read_npy(path, &n_want), *got = logits_of(e, ids, n);
    assert_int_equal(n, 64);
    assert_int_equal(n_want, n * VOCAB);
    for (int64_t i = 0; i < n_want; i++)
        if (!(fabsf(got[i] - want[i]) <= 1e-4f * (1 + fabsf(want[i]))))
            fail_msg("row %d, id %d: %g, expected %g", (int)(i / VOCAB), (int)(i % VOCAB),
                     (double)got[i], (double)want[i]);
    free(ids);
    free(want);
    free(got);
}

/* ---- loss ---- */

typedef struct loss {
    double nll, kl; /* sums */
    int64_t n;
} loss;

/* One prediction: row a of a precision, the same row of another or NULL. */
static void add(loss *l, const float *a, const float *exact, int32_t next)
{
    double za = log_sum(a), ze;
    l->nll += za - (double)a[next];
    l->n++;
    if (!exact)
        return;
    ze = log_sum(exact);
    for (int i = 0; i < VOCAB; i++) {
        double le = (double)exact[i] - ze;
        l->kl += exp(le) * (le - ((double)a[i] - za));
    }
}

static loss causal_loss(mr_engine *e, mr_engine *exact, mr_jval golden)
{
    loss sum = {0};
    mr_jval rows = mr_jget(mr_jget(golden, "perplexity"), "ids");
    for (mr_jval r = mr_jfirst(rows); r.doc; r = mr_jnext(r)) {
        int64_t n;
        int32_t *ids = read_ids(r, &n);
        float *a = logits_of(e, ids, n), *b = exact ? logits_of(exact, ids, n) : NULL;
        for (int64_t i = 0; i + 1 < n; i++)
            add(&sum, a + i * VOCAB, b ? b + i * VOCAB : NULL, ids[i + 1]);
        free(ids);
        free(a);
        free(b);
    }
    return sum;
}

/* Each block in turn: its masked positions are predicted, with the blocks before it clean. */
static void block_row(loss *sum, mr_engine *e, mr_engine *exact, const int32_t *clean,
                      const bool *masked, int32_t mask)
{
    enum { BLOCK = 32 };
    mr_engine *engine[2] = {e, exact};
    mr_session *s[2] = {new_session(e), exact ? new_session(exact) : NULL};
    static float l[2][BLOCK * VOCAB];
    for (int64_t at = 0; at < ROW; at += BLOCK) {
        int32_t open[BLOCK];
        for (int i = 0; i < BLOCK; i++)
            open[i] = masked[at + i] ? mask : clean[at + i];
        for (int k = 0; k < 2 && engine[k]; k++) {
            assert_ok(mr_advance(s[k], open, BLOCK, MR_WANT_ALL, NULL, 0, l[k]));
            assert_ok(mr_advance(s[k], clean + at, BLOCK, MR_WANT_NONE, NULL, 0, NULL));
            assert_ok(mr_commit(s[k], BLOCK));
        }
        for (int i = 0; i < BLOCK; i++)
            if (masked[at + i])
                add(sum, l[0] + i * VOCAB, exact ? l[1] + i * VOCAB : NULL, clean[at + i]);
    }
    mr_session_free(s[0]);
    mr_session_free(s[1]);
}

static loss block_loss(mr_engine *e, mr_engine *exact, mr_jval golden)
{
    loss sum = {0};
    mr_jval p = mr_jget(golden, "perplexity"), m = mr_jfirst(mr_jget(p, "masked"));
    int32_t mask = (int32_t)read_num(p, "mask_id");
    for (mr_jval r = mr_jfirst(mr_jget(p, "clean")); r.doc; r = mr_jnext(r), m = mr_jnext(m)) {
        int64_t n, n_masked;
        int32_t *clean = read_ids(r, &n), *at = read_ids(m, &n_masked);
        bool masked[ROW] = {false};
        assert_int_equal(n, ROW);
        for (int64_t i = 0; i < n_masked; i++)
            masked[at[i]] = true;
        block_row(&sum, e, exact, clean, masked, mask);
        free(clean);
        free(at);
    }
    return sum;
}

/* ---- a model ---- */

static int hear(void *ctx, const int32_t *ids, size_t n)
{
    int32_t **at = ctx;
    for (size_t i = 0; i < n; i++)
        *(*at)++ = ids[i];
    return 0;
}

static void check_greedy(mr_engine *e, mr_jval golden)
{
    int runs = 0;
    for (mr_jval g = mr_jfirst(mr_jget(golden, "greedy")); g.doc; g = mr_jnext(g), runs++) {
        int64_t n, n_want;
        int32_t *ids = read_ids(mr_jget(g, "ids"), &n);
        int32_t *want = read_ids(mr_jget(g, "output"), &n_want), got[256] = {0}, *at = got;
        mr_session *s = new_session(e);
        mr_generate_opts o;
        mr_generate_defaults(&o);
        o.max_new = n_want;
        o.on_ids = hear;
        o.ctx = &at;
        assert_ok(mr_generate(s, ids, (size_t)n, &o, NULL));
        assert_int_equal(at - got, n_want);
        assert_memory_equal(got, want, (size_t)n_want * sizeof *want);
        mr_session_free(s);
        free(ids);
        free(want);
    }
    assert_int_equal(runs, 2);
}

static void check_story(const char *name)
{
    test_doc d = goldens(name);
    mr_engine *exact = story(name, "exact"), *fast = story(name, "fast");
    bool diffusion = mr_engine_facts(exact)->diffusion;
    mr_jval p = mr_jget(d.root, "perplexity");
    check_logits(name, exact, d.root);
    if (!diffusion)
        check_greedy(exact, d.root);
    loss e = diffusion ? block_loss(exact, NULL, d.root) : causal_loss(exact, NULL, d.root);
    loss f = diffusion ? block_loss(fast, exact, d.root) : causal_loss(fast, exact, d.root);
    double nll = e.nll / (double)e.n, fast_nll = f.nll / (double)f.n, kl = f.kl / (double)f.n;
    print_message("%s: nll exact %.6f fast %.6f, mean KL %.3g\n", name, nll, fast_nll, kl);
    assert_int_equal(e.n, (int64_t)read_num(p, "predicted"));
    assert_float_equal(nll, read_num(p, "nll"), 1e-4);
    assert_true(kl >= 0 && kl <= 1e-3);
    assert_true(fabs(exp(fast_nll - nll) - 1) <= 0.005);
    mr_engine_close(exact);
    mr_engine_close(fast);
    free_doc(&d);
}

static void test_gemma3(void **state)
{
    (void)state;
    check_story("gemma3-stories");
}

static void test_deepseek_v3(void **state)
{
    (void)state;
    check_story("deepseek-v3-stories");
}

static void test_llada2(void **state)
{
    (void)state;
    check_story("llada2-stories");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gemma3),
        cmocka_unit_test(test_deepseek_v3),
        cmocka_unit_test(test_llada2),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
