/* Each pass against stored graphs: PASS.before.ir becomes PASS.after.ir; PASS.near.ir stays as it
 * is and gives the lines of PASS.near.report.  What a pass makes must mean the same: both are run
 * on ref. */
#include "harness.h"

#include <dirent.h>
#include <math.h>

static const mr_pass *find_pass(const char *name)
{
    for (int i = 0; mr_passes[i]; i++)
        if (!strcmp(mr_passes[i]->name, name))
            return mr_passes[i];
    return NULL;
}

static char *path_of(const char *pass, const char *kind)
{
    static char path[2][256];
    static int turn;
    turn = !turn;
    snprintf(path[turn], sizeof path[turn], "tests/compile/%s.%s", pass, kind);
    return path[turn];
}

static mr_buf text_of(const mr_graph *g)
{
    mr_buf b = {0};
    OK(mr_graph_print(g, &b));
    return b;
}

static mr_graph *run_pass(const mr_pass *p, const mr_graph *g, mr_op refused, mr_buf *report,
                          int *changes)
{
    picky k;
    mr_graph *out = NULL;
    OK(p->run(g, open_picky(&k, refused), report, changes, &out));
    OK(mr_graph_verify(out));
    return out;
}

static void same_text(const mr_graph *g, const mr_graph *h)
{
    mr_buf a = text_of(g), b = text_of(h);
    assert_string_equal(a.data, b.data);
    mr_buf_free(&a);
    mr_buf_free(&b);
}

/* All outputs of a graph over three runs of made-up ids; free with free(). */
static float *results(const mr_graph *g, int *n)
{
    static const int32_t ids[8] = {3, 1, 4, 1, 5, 9, 2, 6}, pos[8] = {0, 1, 2, 3, 4, 5, 6, 7};
    float *all = malloc(1 << 16), extra[32] = {0.25f, -1, 2};
    mr_backend *b = open_ref();
    mr_graph *plain;
    machine m;
    OK(mr_graph_expand(g, &plain));
    machine_open(&m, b, plain, 5, 0, NULL);
    *n = 0;
    for (int from = 0, rows = 5; from < 8; from += rows, rows = from == 5 ? 1 : 2) {
        named in[] = {{"ids", ids + from}, {"pos", pos + from}, {"extra", extra}};
        OK(machine_try(&m, rows, 0, pos + from, NULL, in, 3));
        for (int i = 0; i < m.plan->n_outputs; i++) {
            int64_t count;
            const float *y = machine_output(&m, i, &count);
            memcpy(all + *n, y, (size_t)count * sizeof *y);
            *n += (int)count;
        }
    }
    machine_close(&m);
    mr_graph_free(plain);
    b->v->close(b);
    return all;
}

static void same_meaning(const mr_graph *g, const mr_graph *h)
{
    int n, n2;
    float *a = results(g, &n), *b = results(h, &n2);
    assert_int_equal(n, n2);
    assert_true(n > 0);
    for (int i = 0; i < n; i++)
        if (!(fabs((double)a[i] - b[i]) <= 1e-6 * (1 + fabs((double)a[i]))))
            fail_msg("element %d: %.9g and %.9g", i, (double)a[i], (double)b[i]);
    free(a);
    free(b);
}

static void every_pass_has_its_files(void **state)
{
    (void)state;
    static const char *const kinds[] = {"before.ir", "after.ir", "near.ir", "near.report"};
    int n = 0, files = 0;
    for (; mr_passes[n]; n++) {
        assert_non_null(mr_passes[n]->what);
        for (int k = 0; k < 4; k++)
            if (mr_file_exists(path_of(mr_passes[n]->name, kinds[k])) != 1)
                fail_msg("%s is missing", path_of(mr_passes[n]->name, kinds[k]));
    }
    DIR *d = opendir("tests/compile");
    assert_non_null(d);
    for (struct dirent *e; (e = readdir(d));) {
        char *dot = strstr(e->d_name, ".before.ir");
        if (!dot)
            continue;
        *dot = 0;
        files++;
        if (!find_pass(e->d_name))
            fail_msg("files of a pass %s, which is not in the list", e->d_name);
    }
    closedir(d);
    assert_int_equal(files, n);
    assert_true(n < MR_MAX_PASSES);
}

static void before_becomes_after(void **state)
{
    (void)state;
    for (int i = 0; mr_passes[i]; i++) {
        const mr_pass *p = mr_passes[i];
        mr_buf report = {0};
        int changes = 0;
        mr_graph *before = graph_of_file(path_of(p->name, "before.ir"));
        mr_graph *after = run_pass(p, before, MR_OP_COUNT, &report, &changes);
        mr_graph *want = graph_of_file(path_of(p->name, "after.ir"));
        same_text(want, after);
        assert_true(changes > 0);
        assert_non_null(strstr(report.data, p->name));
        same_meaning(before, after);
        mr_buf_free(&report);
        mr_graph_free(before);
        mr_graph_free(after);
        mr_graph_free(want);
    }
}

static void twice_is_once(void **state)
{
    (void)state;
    for (int i = 0; mr_passes[i]; i++) {
        int changes = 0;
        mr_graph *before = graph_of_file(path_of(mr_passes[i]->name, "before.ir"));
        mr_graph *once = run_pass(mr_passes[i], before, MR_OP_COUNT, NULL, &changes);
        mr_graph *twice = run_pass(mr_passes[i], once, MR_OP_COUNT, NULL, &changes);
        assert_int_equal(changes, 0);
        same_text(once, twice);
        mr_graph_free(before);
        mr_graph_free(once);
        mr_graph_free(twice);
    }
}

static void near_misses_are_told(void **state)
{
    (void)state;
    for (int i = 0; mr_passes[i]; i++) {
        const mr_pass *p = mr_passes[i];
        mr_buf report = {0};
        int changes = 0;
        mr_graph *g = graph_of_file(path_of(p->name, "near.ir"));
        mr_graph *h = run_pass(p, g, MR_OP_COUNT, &report, &changes);
        char *want = read_file(path_of(p->name, "near.report"));
        assert_int_equal(changes, 0);
        same_text(g, h);
        assert_string_equal(report.data ? report.data : "", want);
        mr_free(want);
        mr_buf_free(&report);
        mr_graph_free(g);
        mr_graph_free(h);
    }
}

/* A pass fires only where the backend says yes to what it would make. */
static void refused_ops_are_not_made(void **state)
{
    (void)state;
    static const struct {
        const char *pass;
        mr_op refused;
    } cases[] = {
        {"norm-offset", MR_OP_RMSNORM},       {"qkv", MR_OP_LINEAR},
        {"residual-norm", MR_OP_ADD_RMSNORM}, {"gated-mlp", MR_OP_GATED_LINEAR},
        {"rope-append", MR_OP_ROPE_APPEND},   {"moe", MR_OP_MOE},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        mr_buf report = {0};
        int changes;
        mr_graph *g = graph_of_file(path_of(cases[i].pass, "before.ir"));
        mr_graph *h = run_pass(find_pass(cases[i].pass), g, cases[i].refused, &report, &changes);
        if (cases[i].refused == MR_OP_RMSNORM)
            assert_int_equal(changes, 1); /* add_rmsnorm is still liked */
        else {
            assert_int_equal(changes, 0);
            same_text(g, h);
        }
        assert_non_null(strstr(report.data, "backend picky does not like it"));
        mr_buf_free(&report);
        mr_graph_free(g);
        mr_graph_free(h);
    }
}

/* Where gated_linear is refused, gate and up are linears of one x like others. */
static void gate_and_up_merge_without_gated_linear(void **state)
{
    (void)state;
    int changes;
    mr_graph *g = graph_of_file("tests/compile/qkv.before.ir");
    mr_graph *h = run_pass(find_pass("qkv"), g, MR_OP_GATED_LINEAR, NULL, &changes);
    assert_int_equal(changes, 3);
    same_meaning(g, h);
    mr_graph_free(g);
    mr_graph_free(h);
}

/* Two norms of one sum: the first one gets it. */
static void a_sum_is_fused_once(void **state)
{
    (void)state;
    int changes;
    mr_buf report = {0};
    mr_graph *g =
        graph_of_text("g", "graph \"g\" { %x: f32[ROWS,8] = input name=\"x\"\n"
                           "%n: weight<f32>[8] = weight recipe=\"n@1x8\" %s = add(%x, %x)\n"
                           "%a = rmsnorm(%s, %n) eps=1e-5 %b = rmsnorm(%s, %n) eps=1e-6\n"
                           "%y = mul(%a, %b) output %y as \"y\" }");
    mr_graph *h = run_pass(find_pass("residual-norm"), g, MR_OP_COUNT, &report, &changes);
    assert_int_equal(changes, 1);
    assert_non_null(strstr(report.data, "%b: not fused: the sum went with an earlier norm"));
    mr_buf_free(&report);
    mr_graph_free(g);
    mr_graph_free(h);
}

static void unknown_pass_is_a_usage_error(void **state)
{
    (void)state;
    mr_pass_opts o = {.off = {"cse", "fuse-all"}, .n_off = 2};
    assert_int_equal(mr_passes_check(&o), MR_EUSAGE);
    assert_non_null(
        strstr(mr_error(), "no pass \"fuse-all\"; the passes are cse, dce, norm-offset, qkv"));
    picky k;
    mr_graph *g = graph_of_file("tests/compile/cse.before.ir"), *h = NULL;
    assert_int_equal(mr_passes_run(g, open_picky(&k, MR_OP_COUNT), &o, &h, NULL), MR_EUSAGE);
    assert_null(h);
    o.n_off = 1;
    OK(mr_passes_check(&o));
    mr_graph_free(g);
}

/* All passes: fused ops appear, each can be left out by name, all left out gives the graph itself.
 */
static void passes_can_be_left_out(void **state)
{
    (void)state;
    picky k;
    mr_backend *b = open_picky(&k, MR_OP_COUNT);
    for (int i = 0; mr_passes[i]; i++) {
        mr_pass_opts o = {.n_off = 1, .verify = true, .off = {mr_passes[i]->name}};
        mr_buf report = {0};
        char line[64];
        mr_graph *g = graph_of_file(path_of(mr_passes[i]->name, "before.ir")), *h;
        OK(mr_passes_run(g, b, &o, &h, &report));
        snprintf(line, sizeof line, "%s: off\n", mr_passes[i]->name);
        assert_non_null(strstr(report.data, line));
        same_meaning(g, h);
        mr_graph_free(h);
        o.n_off = 0;
        for (int j = 0; mr_passes[j]; j++)
            o.off[o.n_off++] = mr_passes[j]->name;
        OK(mr_passes_run(g, b, &o, &h, NULL));
        same_text(g, h);
        mr_graph_free(h);
        mr_graph_free(g);
        mr_buf_free(&report);
    }
}

/* A fused graph given to a backend without fused ops is taken apart, and the report says so. */
static void fused_graphs_run_everywhere(void **state)
{
    (void)state;
    mr_backend *ref = open_ref();
    static const char *const passes[] = {"residual-norm", "gated-mlp", "rope-append", "moe"};
    for (int i = 0; i < 4; i++) {
        mr_buf report = {0};
        mr_graph *g = graph_of_file(path_of(passes[i], "after.ir")), *h;
        OK(mr_passes_run(g, ref, NULL, &h, &report));
        assert_non_null(strstr(report.data, "expand: all fused ops are taken apart: "));
        for (int n = 0; n < mr_graph_nodes(h); n++)
            assert_false(mr_op_get(mr_graph_node(h, n)->op)->fused);
        same_meaning(g, h);
        mr_buf_free(&report);
        mr_graph_free(g);
        mr_graph_free(h);
    }
    ref->v->close(ref);
}

/* Every allocation failing once: an error, no leak, no crash. */
static void failed_allocations_are_errors(void **state)
{
    (void)state;
    picky k;
    mr_backend *b = open_picky(&k, MR_OP_COUNT);
    for (int i = 0; mr_passes[i]; i++) {
        mr_graph *g = graph_of_file(path_of(mr_passes[i]->name, "before.ir"));
        size_t held = mr_mem_held(MR_MEM_COUNT);
        for (uint64_t n = 1;; n++) {
            mr_buf report = {0};
            mr_graph *h = NULL;
            mr_mem_fail_after(n);
            mr_err err = mr_passes_run(g, b, &(mr_pass_opts){.verify = true}, &h, &report);
            mr_mem_fail_after(0);
            mr_buf_free(&report);
            mr_graph_free(h);
            assert_int_equal(mr_mem_held(MR_MEM_COUNT), held);
            if (err == MR_OK)
                break;
            assert_int_equal(err, MR_ENOMEM);
            assert_null(h);
        }
        mr_graph_free(g);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_pass_has_its_files),
        cmocka_unit_test(before_becomes_after),
        cmocka_unit_test(twice_is_once),
        cmocka_unit_test(near_misses_are_told),
        cmocka_unit_test(refused_ops_are_not_made),
        cmocka_unit_test(gate_and_up_merge_without_gated_linear),
        cmocka_unit_test(a_sum_is_fused_once),
        cmocka_unit_test(unknown_pass_is_a_usage_error),
        cmocka_unit_test(passes_can_be_left_out),
        cmocka_unit_test(fused_graphs_run_everywhere),
        cmocka_unit_test(failed_allocations_are_errors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
