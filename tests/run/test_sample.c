/* The sampler: every filter at its edges, and that draws follow the distribution. */
#include "run_test.h"

#include <math.h>

#include "base/real.h"
#include "base/rng.h"
#include "run/sample.h"

enum { V = 8, DRAWS = 20000 };

static mr_generate_opts opts(double temperature)
{
    mr_generate_opts o;
    mr_generate_defaults(&o);
    o.temperature = temperature;
    return o;
}

static mr_pick pick_n(const mr_generate_opts *o, const float *l, int64_t n, const int32_t *history,
                      int64_t n_history, uint64_t position)
{
    mr_sampler *s;
    assert_ok(mr_sampler_new(&s, n, o, true));
    mr_pick p = mr_sample(s, l, history, n_history, position, 0);
    mr_sampler_free(s);
    return p;
}

static mr_pick pick(const mr_generate_opts *o, const float *l)
{
    return pick_n(o, l, V, NULL, 0, 1);
}

/* How often each id is drawn over DRAWS positions. */
static void draw(const mr_generate_opts *o, const float *l, int count[V])
{
    mr_sampler *s;
    memset(count, 0, V * sizeof *count);
    assert_ok(mr_sampler_new(&s, V, o, true));
    for (uint64_t i = 0; i < DRAWS; i++)
        count[mr_sample(s, l, NULL, 0, i, 0).id]++;
    mr_sampler_free(s);
}

/* Within five standard deviations of its share. */
static void assert_share(int count, double share)
{
    double spread = sqrt(DRAWS * share * (1 - share));
    if (fabs(count - DRAWS * share) > 5 * spread)
        fail_msg("%d of %d drawn, %.0f expected", count, DRAWS, DRAWS * share);
}

/* ---- argmax ---- */

static void test_argmax(void **state)
{
    (void)state;
    mr_generate_opts o = opts(0);
    const float ties[V] = {0, 3, 1, 3, 3, -1, 2, 0};
    assert_int_equal(pick(&o, ties).id, 1);
    const float same[V] = {0};
    assert_int_equal(pick(&o, same).id, 0);
    assert_float_equal(pick(&o, same).p, 1.0 / V, 1e-12);
    const float two[V] = {0, 1, -INFINITY, -INFINITY, -INFINITY, -INFINITY, -INFINITY, -INFINITY};
    assert_float_equal(pick(&o, two).p, 1 / (1 + exp(-1)), 1e-12);
    const float nan[V] = {NAN, -5, NAN, -4, -5, NAN, NAN, NAN};
    assert_int_equal(pick(&o, nan).id, 3);
    const float all[V] = {NAN, NAN, NAN, NAN, NAN, NAN, NAN, NAN};
    assert_int_equal(pick(&o, all).id, 0);
    const float inf[V] = {0, 1, INFINITY, 2, INFINITY, 0, 0, 0};
    assert_int_equal(pick(&o, inf).id, 2);
    o.temperature = 0.7;
    assert_int_equal(pick(&o, all).id, 0);
    for (uint64_t i = 0; i < 50; i++) {
        assert_true(isnan(nan[pick_n(&o, nan, V, NULL, 0, i).id]) == 0);
        int id = pick_n(&o, inf, V, NULL, 0, i).id;
        assert_true(id == 2 || id == 4);
    }
}

/* Any temperature above 0 is a softmax; a tiny one is argmax with ties shared. */
static void test_tiny_temperature(void **state)
{
    (void)state;
    static const double small[] = {1e-3, 1e-30, 1e-50, 1e-320};
    const float l[V] = {5, 7.5f, 7.25f, -3, 7.5f, 0, 1, 2};
    for (int k = 0; k < 4; k++) {
        int count[V];
        mr_generate_opts o = opts(small[k]);
        draw(&o, l, count);
        assert_int_equal(count[1] + count[4], DRAWS);
        assert_share(count[1], 0.5);
    }
}

/* ---- filters ---- */

static void test_top_k(void **state)
{
    (void)state;
    const float l[V] = {1, 2, 2, 0, 2, 3, -1, 1};
    int count[V];
    mr_generate_opts o = opts(1);
    o.top_k = 1;
    draw(&o, l, count);
    assert_int_equal(count[5], DRAWS);
    o.top_k = 2; /* ties with the second stay */
    draw(&o, l, count);
    assert_int_equal(count[5] + count[1] + count[2] + count[4], DRAWS);
    double e = exp(-1), sum = 1 + 3 * e;
    assert_share(count[5], 1 / sum);
    assert_share(count[1], e / sum);
    assert_share(count[4], e / sum);
    o.top_k = V + 5; /* more than there are */
    draw(&o, l, count);
    for (int i = 0; i < V; i++)
        assert_true(count[i] > 0);
}

static void test_top_p(void **state)
{
    (void)state;
    /* probabilities 0.5, 0.25, 0.125, 0.125 at ids 3, 0, 6, 1 */
    float l[V];
    int count[V];
    for (int i = 0; i < V; i++)
        l[i] = -INFINITY;
    l[3] = (float)log(0.5), l[0] = (float)log(0.25), l[6] = l[1] = (float)log(0.125);
    mr_generate_opts o = opts(1);
    o.top_p = 0.4; /* the one that crosses it stays */
    draw(&o, l, count);
    assert_int_equal(count[3], DRAWS);
    o.top_p = 0.6;
    draw(&o, l, count);
    assert_int_equal(count[3] + count[0], DRAWS);
    assert_share(count[3], 2.0 / 3);
    o.top_p = 0.8; /* of two alike, the lower id comes first */
    draw(&o, l, count);
    assert_int_equal(count[3] + count[0] + count[1], DRAWS);
    assert_share(count[1], 0.125 / 0.875);
    o.top_p = 1e-9;
    draw(&o, l, count);
    assert_int_equal(count[3], DRAWS);
}

static void test_min_p(void **state)
{
    (void)state;
    float l[V];
    int count[V];
    for (int i = 0; i < V; i++)
        l[i] = (float)(-0.5 * i); /* weights 1, 0.607, 0.368, 0.223, ... */
    mr_generate_opts o = opts(1);
    o.min_p = 0.36;
    draw(&o, l, count);
    assert_int_equal(count[0] + count[1] + count[2], DRAWS);
    assert_share(count[2], exp(-1) / (1 + exp(-0.5) + exp(-1)));
    o.min_p = 1;
    draw(&o, l, count);
    assert_int_equal(count[0], DRAWS);
    o.min_p = 0.36;
    o.temperature = 2; /* weights after temperature: 1, 0.779, 0.607, 0.472, 0.368, 0.287, ... */
    draw(&o, l, count);
    assert_int_equal(count[0] + count[1] + count[2] + count[3] + count[4], DRAWS);
}

/* All filters at once: top_k before top_p before min_p. */
static void test_order_of_filters(void **state)
{
    (void)state;
    const float l[V] = {4, 3, 2, 1, 0, -1, -2, -3};
    int count[V];
    mr_generate_opts o = opts(1);
    o.top_k = 3;   /* 4, 3, 2: of them 0.665, 0.245, 0.09 */
    o.top_p = 0.9; /* of what top_k left: the first two; of all eight it would take three */
    draw(&o, l, count);
    assert_int_equal(count[0] + count[1], DRAWS);
    o.min_p = 0.5;
    draw(&o, l, count);
    assert_int_equal(count[0], DRAWS);
}

/* ---- bias and penalty ---- */

static void test_bias(void **state)
{
    (void)state;
    const float l[V] = {4, 3, 2, 1, 0, -1, -2, -3};
    const mr_logit_bias bias[] = {{0, -INFINITY}, {1, -2}, {3, 1.5f}};
    mr_generate_opts o = opts(0);
    o.bias = bias;
    o.n_bias = 3;
    assert_int_equal(pick(&o, l).id, 3); /* 1 + 1.5 */
    o.temperature = 1;
    int count[V];
    draw(&o, l, count);
    assert_int_equal(count[0], 0);
    assert_true(count[3] > count[2] && count[2] > count[1]);
    mr_sampler *s;
    o.bias = &(mr_logit_bias){V, 1};
    o.n_bias = 1;
    assert_refused(mr_sampler_new(&s, V, &o, true), MR_STATUS_USAGE, "id 8");
}

static void test_repeat_penalty(void **state)
{
    (void)state;
    const float l[V] = {4, 3, 0, -1, -1.5f, -9, -9, -9};
    const int32_t once[] = {0}, twice[] = {0, 0, 0}, many[] = {0, 1, 2, 3};
    mr_generate_opts o = opts(0);
    o.repeat_penalty = 1.25; /* 4 -> 3.2 */
    assert_int_equal(pick_n(&o, l, V, once, 1, 1).id, 0);
    assert_int_equal(pick_n(&o, l, V, twice, 3, 1).id, 0); /* counts once */
    o.repeat_penalty = 1.5;                                /* 4 -> 2.67 */
    assert_int_equal(pick_n(&o, l, V, once, 1, 1).id, 1);
    o.repeat_penalty = 1e6; /* all of them down to about 0; -1 -> -1e6 */
    assert_int_equal(pick_n(&o, l, V, many, 4, 1).id, 0);
    const float negative[V] = {-1, -1.5f, -9, -9, -9, -9, -9, -9};
    o.repeat_penalty = 2; /* -1 -> -2: away from 0 */
    assert_int_equal(pick_n(&o, negative, V, once, 1, 1).id, 1);
    /* nothing is left over from one call to the next */
    mr_sampler *s;
    assert_ok(mr_sampler_new(&s, V, &o, true));
    assert_int_equal(mr_sample(s, negative, once, 1, 1, 0).id, 1);
    assert_int_equal(mr_sample(s, negative, NULL, 0, 1, 0).id, 0);
    mr_sampler_free(s);
}

/* ---- draws ---- */

static void test_distribution(void **state)
{
    (void)state;
    const float l[V] = {0, 1, 2, 3, -1, 2.5f, 0.5f, 1.5f};
    static const double temperatures[] = {0.5, 1, 3};
    for (int t = 0; t < 3; t++) {
        int count[V];
        double sum = 0;
        mr_generate_opts o = opts(temperatures[t]);
        draw(&o, l, count);
        for (int i = 0; i < V; i++)
            sum += exp((double)l[i] / temperatures[t]);
        for (int i = 0; i < V; i++)
            assert_share(count[i], exp((double)l[i] / temperatures[t]) / sum);
        mr_pick p = pick(&o, l);
        assert_float_equal(p.p, exp((double)l[p.id] / temperatures[t]) / sum, 1e-6);
    }
}

/* A sample is a function of seed, position and draw: of no other call, and of all three. */
static void test_seeds(void **state)
{
    (void)state;
    const float l[V] = {0};
    mr_generate_opts o = opts(1);
    mr_sampler *s, *t;
    assert_ok(mr_sampler_new(&s, V, &o, true));
    o.seed = 1;
    assert_ok(mr_sampler_new(&t, V, &o, true));
    int same_seed = 0, same_position = 0, same_draw = 0;
    for (uint64_t i = 0; i < 800; i++) {
        int id = mr_sample(s, l, NULL, 0, i, 0).id;
        assert_int_equal(id, (int)(mr_uniform(0, i, 0) * V)); /* ascending ids, alike */
        same_seed += id == mr_sample(t, l, NULL, 0, i, 0).id;
        same_position += id == mr_sample(s, l, NULL, 0, i + 1, 0).id;
        same_draw += id == mr_sample(s, l, NULL, 0, i, 1).id;
        assert_int_equal(id, mr_sample(s, l, NULL, 0, i, 0).id);
    }
    mr_sampler_free(s);
    mr_sampler_free(t);
    assert_in_range(same_seed, 50, 150); /* one in eight by chance */
    assert_in_range(same_position, 50, 150);
    assert_in_range(same_draw, 50, 150);
}

static void test_options_out_of_range(void **state)
{
    (void)state;
    mr_sampler *s;
    const struct {
        double temperature, top_p, min_p, penalty;
        int64_t top_k;
        const char *said;
    } bad[] = {{-1, 1, 0, 1, 0, "temperature"},
               {NAN, 1, 0, 1, 0, "temperature"},
               {INFINITY, 1, 0, 1, 0, "temperature"},
               {1, 0, 0, 1, 0, "top_p"},
               {1, 1.5, 0, 1, 0, "top_p"},
               {1, NAN, 0, 1, 0, "top_p"},
               {1, 1, -0.1, 1, 0, "min_p"},
               {1, 1, 1.1, 1, 0, "min_p"},
               {1, 1, 0, 0, 0, "repeat_penalty"},
               {1, 1, 0, NAN, 0, "repeat_penalty"},
               {1, 1, 0, 1, -1, "top_k"}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        mr_generate_opts o = opts(bad[i].temperature);
        o.top_p = bad[i].top_p;
        o.min_p = bad[i].min_p;
        o.repeat_penalty = bad[i].penalty;
        o.top_k = bad[i].top_k;
        assert_refused(mr_sampler_new(&s, V, &o, false), MR_STATUS_USAGE, bad[i].said);
        assert_null(s);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_argmax),
        cmocka_unit_test(test_tiny_temperature),
        cmocka_unit_test(test_top_k),
        cmocka_unit_test(test_top_p),
        cmocka_unit_test(test_min_p),
        cmocka_unit_test(test_order_of_filters),
        cmocka_unit_test(test_bias),
        cmocka_unit_test(test_repeat_penalty),
        cmocka_unit_test(test_distribution),
        cmocka_unit_test(test_seeds),
        cmocka_unit_test(test_options_out_of_range),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
