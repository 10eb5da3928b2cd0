/* `native` on whole models of bf16, where the CPU has dots or tile products of bf16 pairs, or dots can be
 * emulated: products and, by dots, attention take them, the bits are the same for any threads, pieces and
 * company, and near `exact`. */
#include <math.h>

#include "run_test.h"

#include "backend/emulate_bf16.h"
#include "run/session.h"

enum { VOCAB = 4096, MOST = 300 };

typedef struct model {
    const char *dir;
    int piece; /* fed at once, small; 1: any */
} model;

static const model models[] = {
    {"models/gemma3-stories", 1}, {"models/deepseek-v3-stories", 1}, {"models/llada2-stories", 32}};
static int64_t length = MOST;
static int32_t ids[MOST];
static mr_isa isa; /* of all engines */

static mr_engine *open_as(const model *m, const char *precision, int threads)
{
    return open_engine(
        m->dir,
        &(mr_engine_opts){.precision = precision, .threads = threads, .cpu = mr_isa_name(isa)});
}

/* Logits of all positions, fed in pieces of so many rows. */
static float *logits(mr_engine *e, int64_t piece)
{
    float *l = malloc((size_t)(length * VOCAB) * sizeof *l);
    mr_session *s = new_session(e);
    for (int64_t at = 0, n; at < length; at += n) {
        n = length - at < piece ? length - at : piece;
        assert_ok(mr_advance(s, ids + at, n, MR_WANT_ALL, NULL, 0, l + at * VOCAB));
        assert_ok(mr_commit(s, n));
    }
    mr_session_free(s);
    return l;
}

static float *logits_of(const model *m, const char *precision, int threads, int64_t piece)
{
    mr_engine *e = open_as(m, precision, threads);
    float *l = logits(e, piece);
    mr_engine_close(e);
    return l;
}

static void same(const model *m, const float *want, float *got, const char *how)
{
    for (int64_t i = 0; i < length; i++)
        if (memcmp(want + i * VOCAB, got + i * VOCAB, VOCAB * sizeof *got) != 0)
            fail_msg("%s: position %d has other bits %s", m->dir, (int)i, how);
    free(got);
}

/* Two sessions in one run, the second a piece ahead. */
static void together(const model *m, const float *want)
{
    mr_engine *e = open_as(m, "native", 2);
    mr_session *s[2] = {new_session(e), new_session(e)};
    const int64_t n = length / 2 / m->piece * m->piece;
    float *l = malloc((size_t)(2 * n * VOCAB) * sizeof *l);
    assert_ok(mr_advance(s[1], ids, m->piece, MR_WANT_LAST, NULL, 0, l));
    assert_ok(mr_commit(s[1], m->piece));
    mr_feed f[2] = {{.session = s[0], .ids = ids, .n = n, .want = MR_WANT_ALL, .logits = l},
                    {.session = s[1],
                     .ids = ids + m->piece,
                     .n = n,
                     .want = MR_WANT_ALL,
                     .logits = l + n * VOCAB}};
    assert_ok(mr_advance_many(f, 2));
    assert_memory_equal(l, want, (size_t)(n * VOCAB) * sizeof *l);
    assert_memory_equal(l + n * VOCAB, want + m->piece * VOCAB, (size_t)(n * VOCAB) * sizeof *l);
    mr_session_free(s[0]);
    mr_session_free(s[1]);
    mr_engine_close(e);
    free(l);
}

static double kl(const float *p, const float *q)
{
    double sum = 0, sp = 0, sq = 0, top_p = -INFINITY, top_q = -INFINITY;
    for (int i = 0; i < VOCAB; i++) {
        top_p = fmax(top_p, p[i]);
        top_q = fmax(top_q, q[i]);
    }
    for (int i = 0; i < VOCAB; i++) {
        sp += exp(p[i] - top_p);
        sq += exp(q[i] - top_q);
    }
    for (int i = 0; i < VOCAB; i++) {
        double lp = p[i] - top_p - log(sp), lq = q[i] - top_q - log(sq);
        sum += exp(lp) * (lp - lq);
    }
    return sum;
}

static double mean_kl(const float *p, const float *q)
{
    double sum = 0;
    for (int64_t i = 0; i < length; i++)
        sum += kl(p + i * VOCAB, q + i * VOCAB);
    return sum / (double)length;
}

static bool any_bf16(mr_isa one)
{
    return mr_isa_has_bf16(one) || (one == MR_ISA_AMX && mr_isa_have(one));
}

/* Which steps take dots, and what they are called. */
static void check_steps(const model *m)
{
    mr_engine *e = open_as(m, "native", 1);
    int attention = 0, products = 0;
    for (int i = 0; i < e->decode.plan->n_steps; i++) {
        const mr_step *s = &e->decode.plan->steps[i];
        bool dots = s->arith == MR_ARITH_BF16;
        assert_true(!dots || strstr(s->kernel, "bf16 "));
        if (s->op == MR_OP_ATTENTION)
            assert_int_equal(dots, any_bf16(isa));
        else
            assert_null(strstr(s->kernel, "no bf16 dots"));
        attention += dots && s->op == MR_OP_ATTENTION;
        products += dots && s->op != MR_OP_ATTENTION;
    }
    assert_true(products > 0 && (attention > 0) == any_bf16(isa));
    mr_engine_close(e);
}

static void check_model(const model *m)
{
    float *want = logits_of(m, "native", 1, length), *exact = logits_of(m, "exact", 2, length),
          *fast = logits_of(m, "fast", 2, length);
    same(m, want, logits_of(m, "native", 2, length), "on two threads");
    same(m, want, logits_of(m, "native", 3, m->piece), "row by row, or block by block");
    if (m->piece == 1)
        same(m, want, logits_of(m, "native", 2, 7), "in pieces of 7");
    together(m, want);
    double got = mean_kl(exact, want);
    print_message("%s: mean KL %.2e, of fast %.2e\n", m->dir, got, mean_kl(exact, fast));
    assert_true(got > 0 && got < 1e-3);
    assert_memory_not_equal(want, fast, (size_t)(length * VOCAB) * sizeof *want);
    free(want);
    free(exact);
    free(fast);
}

/* Without dots the bits are those of `fast`, and the names say why. */
static void test_without_dots(void **state)
{
    (void)state;
    mr_engine *e = open_engine(models[0].dir, &(mr_engine_opts){.precision = "native", .cpu = "c"});
    int told = 0;
    for (int i = 0; i < e->decode.plan->n_steps; i++) {
        const mr_step *s = &e->decode.plan->steps[i];
        assert_int_not_equal(s->arith, MR_ARITH_BF16);
        told += s->op == MR_OP_ATTENTION && strstr(s->kernel, "no bf16 dots");
    }
    assert_true(told > 0);
    mr_engine_close(e);
    for (isa = 0; isa < MR_ISA_COUNT; isa++) {
        if (!mr_isa_have(isa) || any_bf16(isa))
            continue;
        float *native = logits_of(&models[0], "native", 2, length);
        same(&models[0], native, logits_of(&models[0], "fast", 2, length), "in fast");
        free(native);
    }
}

static void test_models(void **state)
{
    (void)state;
    const bool slow = emulate_bf16();
    bool ran = false;
    for (isa = 0; isa < MR_ISA_COUNT; isa++) {
        const bool emulated = slow && isa == MR_ISA_AVX512;
        for (size_t i = 0; any_bf16(isa) && i < sizeof models / sizeof *models; i++) {
            length = emulated ? 8 : MOST / models[i].piece * models[i].piece;
            if (emulated && models[i].piece > 1)
                continue; /* some ten thousand dots a row */
            check_steps(&models[i]);
            check_model(&models[i]);
            ran = true;
        }
    }
    if (!ran)
        printf("skipped: native, as this CPU has no dots of bf16\n");
}

int main(void)
{
    some_ids(ids, MOST, VOCAB);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_without_dots), /* first: emulation stays */
        cmocka_unit_test(test_models),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
