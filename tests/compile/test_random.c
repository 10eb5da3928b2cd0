/* Random graphs: whatever the passes do, with all of them and with each one off, no bit of the
 * results changes: on ref, where fused ops are expanded again, and on the cpu backend, where they
 * run. */
#include "random_graph.h"
#include "op/backends.h"

#include <math.h>

enum { GRAPHS = 40 };

/* Bits: every number is computed as before. */
static void same_bits(const float *a, int n, const float *b, int n2, uint64_t seed, const char *off)
{
    assert_int_equal(n, n2);
    for (int i = 0; i < n; i++)
        if (!isfinite(a[i]) || memcmp(&a[i], &b[i], sizeof a[i]))
            fail_msg("graph %d without %s: element %d: %.9g and %.9g", (int)seed, off, i,
                     (double)a[i], (double)b[i]);
}

static void same_as_unfused(mr_backend *ref, const mr_graph *g, const mr_pass_opts *o,
                            const float *want, int n, uint64_t seed, int *changed)
{
    picky k;
    mr_graph *fused, *plain;
    int count;
    OK(mr_passes_run(g, open_picky(&k, MR_OP_COUNT), o, &fused, NULL));
    OK(mr_graph_expand(fused, &plain));
    float *got = random_results(ref, plain, &count);
    same_bits(want, n, got, count, seed, o->n_off ? o->off[0] : "nothing");
    for (int i = 0; i < mr_graph_nodes(fused); i++)
        *changed += mr_op_get(mr_graph_node(fused, i)->op)->fused;
    free(got);
    mr_graph_free(fused);
    mr_graph_free(plain);
}

static void passes_keep_results(void **state)
{
    (void)state;
    mr_backend *ref = open_ref();
    int fused = 0;
    for (uint64_t seed = 1; seed <= GRAPHS; seed++) {
        int n;
        mr_graph *g = random_graph(seed);
        float *want = random_results(ref, g, &n);
        same_as_unfused(ref, g, &(mr_pass_opts){.verify = true}, want, n, seed, &fused);
        for (int i = 0; mr_passes[i]; i++) {
            mr_pass_opts o = {.off = {mr_passes[i]->name}, .n_off = 1, .verify = true};
            same_as_unfused(ref, g, &o, want, n, seed, &fused);
        }
        free(want);
        mr_graph_free(g);
    }
    assert_true(fused > 10 * GRAPHS);
    ref->v->close(ref);
}

/* The cpu rows agree with each other to the bit, with or without passes, and with ref closely. */
static void backends_agree(void **state)
{
    (void)state;
    mr_backend *ref = open_ref();
    for (uint64_t seed = 1; seed <= GRAPHS; seed++) {
        int n, n_cpu = 0, count;
        mr_graph *g = random_graph(seed);
        float *want = random_results(ref, g, &n), *cpu = NULL;
        for (int i = 0; i < BACKENDS; i++) {
            mr_backend *b = backend_rows[i].tolerance ? open_row(&backend_rows[i]) : NULL;
            if (!b)
                continue;
            for (int off = -2; off < (i == 1 ? MR_MAX_PASSES : -1) && (off < 0 || mr_passes[off]);
                 off++) {
                mr_pass_opts o = {.verify = true};
                mr_graph *fused;
                for (int k = 0; mr_passes[k] && off != -2; k++) /* -2: all passes; -1: none */
                    if (off == -1 || k == off)
                        o.off[o.n_off++] = mr_passes[k]->name;
                OK(mr_passes_run(g, b, &o, &fused, NULL));
                float *got = random_results(b, fused, &count);
                if (!cpu) {
                    cpu = got;
                    n_cpu = count;
                } else {
                    same_bits(cpu, n_cpu, got, count, seed, backend_rows[i].name);
                    free(got);
                }
                mr_graph_free(fused);
            }
            b->v->close(b);
        }
        assert_int_equal(n, n_cpu);
        for (int k = 0; k < n; k++)
            if (!(fabs((double)cpu[k] - want[k]) <= 1e-4 * (1 + fabs((double)want[k]))))
                fail_msg("graph %d: element %d is %.9g on cpu, %.9g on ref", (int)seed, k,
                         (double)cpu[k], (double)want[k]);
        free(cpu);
        free(want);
        mr_graph_free(g);
    }
    ref->v->close(ref);
}

/* The list as a whole: a second run changes nothing, and the graph's text is a complete description
 * of it. */
static void the_second_run_changes_nothing(void **state)
{
    (void)state;
    picky k;
    mr_backend *b = open_picky(&k, MR_OP_COUNT);
    for (uint64_t seed = 1; seed <= GRAPHS; seed++) {
        mr_graph *g = random_graph(seed), *once, *twice;
        mr_buf a = {0}, c = {0};
        OK(mr_passes_run(g, b, NULL, &once, NULL));
        OK(mr_graph_print(once, &a));
        mr_graph *read = graph_of_text("once", a.data);
        OK(mr_passes_run(read, b, NULL, &twice, NULL));
        OK(mr_graph_print(twice, &c));
        assert_string_equal(a.data, c.data);
        mr_buf_free(&a);
        mr_buf_free(&c);
        mr_graph_free(g);
        mr_graph_free(once);
        mr_graph_free(read);
        mr_graph_free(twice);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(passes_keep_results),
        cmocka_unit_test(backends_agree),
        cmocka_unit_test(the_second_run_changes_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
