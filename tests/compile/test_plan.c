/* Plans: views folded, copies where they cannot be, every refusal, and all the ways to look at a
 * plan. */
#include "random_graph.h"

#include "base/json.h"

static mr_plan *plan_of(mr_backend *b, const mr_graph *g, int64_t rows, int64_t outs)
{
    mr_plan *p = NULL;
    OK(mr_plan_compile(&p, g, b, "decode", rows, outs));
    return p;
}

static void prints_what_will_run(void **state)
{
    (void)state;
    mr_backend *b = open_ref();
    mr_graph *g = graph_of_file("tests/compile/qkv.after.ir");
    mr_plan *p = plan_of(b, g, 3, 0);
    mr_buf text = {0};
    OK(mr_plan_print(p, &text));
    char *want = read_file("tests/compile/qkv.plan.txt");
    assert_string_equal(text.data, want);
    mr_free(want);
    mr_buf_free(&text);
    mr_plan_free(p);
    mr_graph_free(g);
    b->v->close(b);
}

/* Heads of a slice of a longer row: offsets and strides, no step. */
static void views_are_strides(void **state)
{
    (void)state;
    mr_backend *b = open_ref();
    mr_graph *g =
        graph_of_text("g", "graph \"g\" { %x: f32[ROWS,24] = input name=\"x\"\n"
                           "%y = silu(%x) %a = slice(%y) start=4 len=12 %h = heads(%a) n=3\n"
                           "%p = slice(%h) start=1 len=2 %z = scale(%p) by=2 %f = heads(%z) n=0\n"
                           "output %f as \"f\" }");
    mr_plan *p = plan_of(b, g, 2, 0);
    assert_int_equal(p->n_steps, 2);
    const mr_operand_ref *in = &p->steps[1].in[0];
    assert_int_equal(in->where, MR_AT_ARENA);
    assert_int_equal(in->offset, p->steps[0].out[0].offset + 4 * (4 + 1));
    assert_int_equal(in->rank, 3);
    assert_int_equal(in->dim[1].n, 3);
    assert_int_equal(in->dim[2].n, 2);
    assert_int_equal(in->stride[0], 24);
    assert_int_equal(in->stride[1], 4);
    assert_int_equal(in->stride[2], 1);
    assert_int_equal(p->outputs[0].stride[0], 6);
    mr_plan_free(p);
    mr_graph_free(g);
    b->v->close(b);
}

/* A slice of an input, and outputs that are views or inputs: copied by "scale by=1". */
static void copies_where_views_do_not_fold(void **state)
{
    (void)state;
    mr_backend *b = open_ref();
    mr_graph *g = graph_of_text(
        "g", "graph \"g\" { %x: f32[ROWS,4] = input name=\"x\"\n"
             "%s = slice(%x) start=1 len=2 %y = add(%s, %s) %v = slice(%y) start=1 len=1\n"
             "output %y as \"y\" output %v as \"v\" output %v as \"v2\" output %x as \"x\" }");
    static const float x[2][4] = {{1, 2, 3, 4}, {5, 6, 7, 8}};
    static const int32_t pos[2] = {0, 1};
    static const float want[4][8] = {{4, 6, 12, 14}, {6, 14}, {6, 14}, {1, 2, 3, 4, 5, 6, 7, 8}};
    named in[] = {{"x", x}};
    machine m;
    machine_open(&m, b, g, 2, 0, NULL);
    OK(machine_try(&m, 2, 0, pos, NULL, in, 1));
    for (int i = 0; i < 4; i++) {
        int64_t n;
        const float *y = machine_output(&m, i, &n);
        assert_int_equal(n, i == 0 ? 4 : i == 3 ? 8 : 2);
        assert_memory_equal(y, want[i], (size_t)n * sizeof *y);
    }
    assert_int_equal(m.plan->n_steps, 3); /* x (its copy is the output, too), add, v */
    for (int i = 0; i < 3; i++)
        if (i != 1) {
            assert_int_equal(m.plan->steps[i].op, MR_OP_SCALE);
            assert_true(mr_attr_f(m.plan->steps[i].node, "by") == 1);
        }
    machine_close(&m);
    mr_graph_free(g);
    b->v->close(b);
}

static void caches_are_one_through_their_appends(void **state)
{
    (void)state;
    mr_backend *b = open_ref();
    mr_graph *g = graph_of_file("tests/compile/cse.near.ir");
    mr_plan *p = plan_of(b, g, 2, 0);
    assert_int_equal(p->n_caches, 2);
    assert_string_equal(p->caches[1].name, "1");
    assert_int_equal(p->caches[1].dk, 8);
    int seen = 0;
    for (int i = 0; i < p->n_steps; i++) {
        const mr_step *s = &p->steps[i];
        if (s->op == MR_OP_APPEND) {
            assert_int_equal(s->in[0].where, MR_AT_CACHE);
            assert_int_equal(s->in[0].index, seen);
            assert_int_equal(s->out[0].where, MR_AT_CACHE);
            assert_int_equal(s->out[0].index, seen++);
        }
    }
    assert_int_equal(seen, 2);
    mr_plan_free(p);
    mr_graph_free(g);
    b->v->close(b);
}

static void refused(const char *text, int64_t rows, int64_t outs, mr_err want, const char *message)
{
    mr_backend *b = open_ref();
    mr_plan *p = NULL;
    mr_graph *g = graph_of_text("g", text);
    size_t held = mr_mem_held(MR_MEM_COUNT);
    mr_err err = mr_plan_compile(&p, g, b, "decode", rows, outs);
    if (err != want || !strstr(mr_error(), message))
        fail_msg("error %d \"%s\", not %d with \"%s\"", err, mr_error(), want, message);
    assert_null(p);
    assert_int_equal(mr_mem_held(MR_MEM_COUNT), held);
    mr_graph_free(g);
    b->v->close(b);
}

#define G "graph \"g\" { %x: f32[ROWS,8] = input name=\"x\" "

static void refusals(void **state)
{
    (void)state;
    refused(G "%n: weight<f32>[8] = weight recipe=\"n\" %s, %y = add_rmsnorm(%x, %x, %n) eps=1e-5 "
              "output %y as \"y\" }",
            1, 1, MR_EUNSUPPORTED, "add_rmsnorm: backend ref has no fused ops");
    refused("graph \"g\" { %x: f32[SEQ,8] = input name=\"x\" %y = silu(%x) output %y as \"y\" }", 1,
            1, MR_EUNSUPPORTED,
            "plan decode: input: axis 0 of value 0 has size SEQ, which a run does not bind");
    refused(
        "graph \"g\" { %x: f32[2*frames,8] = input name=\"x\" %y = silu(%x) output %y as \"y\" }",
        1, 1, MR_EUNSUPPORTED, "size frames");
    refused("graph \"g\" { %x: i32[ROWS] = input name=\"x\" output %x as \"y\" }", 1, 1,
            MR_EUNSUPPORTED, "value 0 (i32) is an input and an output");
    refused(G "%y = silu(%x) output %y as \"y\" }", 0, 1, MR_EUSAGE,
            "caps of 0 rows and 1 wanted rows");
    refused(G "%y = silu(%x) output %y as \"y\" }", 1, -1, MR_EUSAGE,
            "caps of 1 rows and -1 wanted rows");
    refused(G "%y = silu(%x) output %y as \"y\" }", (int64_t)1 << 31, 1, MR_EUSAGE,
            "caps of 2147483648 rows");
    refused("graph \"g\" { %x: f32[1000000000*ROWS,1000] = input name=\"x\" %y = silu(%x) output "
            "%y as \"y\" }",
            INT32_MAX, 1, MR_ELIMIT, "a result of silu does not fit an address space");
}

static void long_graphs_are_refused_fast(void **state)
{
    (void)state;
    for (int n = 16384; n <= 16385; n++) {
        mr_graph *g;
        mr_plan *p = NULL;
        mr_backend *b = open_ref();
        mr_dim dim[2] = {{.n = 1, .sym = MR_SYM_ROWS}, {.n = 8}};
        int v;
        OK(mr_graph_new(&g, "long"));
        OK(mr_graph_input(g, "x", MR_V_F32, 2, dim, &v));
        for (int i = 0; i < n - 1; i++)
            OK(mr_graph_add(g, MR_OP_SILU, &v, 1, NULL, &v));
        OK(mr_graph_output(g, v, "y")); /* counted: it might need a copy */
        mr_err err = mr_plan_compile(&p, g, b, "long", 1, 1);
        if (n == 16384) {
            OK(err);
            assert_int_equal(p->arena_bytes, 2 * 64);
        } else {
            assert_int_equal(err, MR_ELIMIT);
        }
        mr_plan_free(p);
        mr_graph_free(g);
        b->v->close(b);
    }
}

static void failed_allocations_are_errors(void **state)
{
    (void)state;
    mr_backend *b = open_ref();
    mr_graph *g = random_graph(3);
    size_t held = mr_mem_held(MR_MEM_COUNT);
    for (uint64_t n = 1;; n++) {
        mr_plan *p = NULL;
        mr_mem_fail_after(n);
        mr_err err = mr_plan_compile(&p, g, b, "decode", 4, 4);
        mr_mem_fail_after(0);
        mr_plan_free(p);
        assert_int_equal(mr_mem_held(MR_MEM_COUNT), held);
        if (err == MR_OK)
            break;
        assert_int_equal(err, MR_ENOMEM);
        assert_null(p);
    }
    mr_graph_free(g);
    b->v->close(b);
}

/* ---- looking at plans ---- */

static int count(const char *text, const char *word)
{
    int n = 0;
    for (const char *p = text; (p = strstr(p, word)); p += strlen(word))
        n++;
    return n;
}

static void json_tells_all(void **state)
{
    (void)state;
    mr_backend *b = open_ref();
    for (uint64_t seed = 1; seed <= 10; seed++) {
        mr_graph *g = random_graph(seed);
        mr_plan *p = plan_of(b, g, 4, 2);
        mr_buf text = {0};
        mr_json *doc;
        int64_t bytes;
        OK(mr_plan_json(p, &text));
        OK(mr_json_parse(&doc, "plan", text.data, text.len));
        mr_jval root = mr_json_root(doc), steps = mr_jget(root, "steps");
        OK(mr_jint(mr_jget(root, "arena_bytes"), 0, INT64_MAX, &bytes));
        assert_int_equal(bytes, p->arena_bytes);
        assert_int_equal(mr_jcount(steps), p->n_steps);
        assert_int_equal(mr_jcount(mr_jget(root, "weights")), p->n_weights);
        assert_int_equal(mr_jcount(mr_jget(root, "caches")), p->n_caches);
        assert_int_equal(mr_jcount(mr_jget(root, "outputs")), p->n_outputs);
        int i = 0;
        for (mr_jval s = mr_jfirst(steps); s.doc; s = mr_jnext(s), i++) {
            assert_true(mr_jis(mr_jget(s, "op"), mr_op_get(p->steps[i].op)->name));
            assert_int_equal(mr_jcount(mr_jget(s, "in")), p->steps[i].n_in);
            assert_int_equal(mr_jcount(mr_jget(s, "out")), p->steps[i].n_out);
        }
        mr_json_free(doc);
        mr_buf_free(&text);
        mr_plan_free(p);
        mr_graph_free(g);
    }
    b->v->close(b);
}

static void pictures_show_steps_and_memory(void **state)
{
    (void)state;
    mr_backend *b = open_ref();
    mr_graph *g = graph_of_file("tests/compile/gated-mlp.before.ir");
    mr_plan *p = plan_of(b, g, 4, 0);
    mr_buf dot = {0}, svg = {0};
    OK(mr_plan_dot(p, &dot));
    OK(mr_plan_svg(p, &svg));
    assert_int_equal(count(dot.data, " [label="), p->n_steps);
    assert_non_null(strstr(dot.data, "  i0 -> s0;\n"));              /* embed */
    assert_non_null(strstr(dot.data, "  s1 -> s3;\n"));              /* g, silu */
    assert_non_null(strstr(dot.data, "  s3 -> s4;\n  s2 -> s4;\n")); /* silu, u, mul */
    assert_int_equal(count(dot.data, " -> "), 1 + 2 + 1 + 2 + 1 + 2 + 1 + 2 + 1);
    assert_int_equal(count(svg.data, "<title>"), p->n_steps); /* one result each, no scratch */
    assert_int_equal(count(svg.data, "<rect") - count(svg.data, "<title>"), 2);
    assert_non_null(
        strstr(svg.data, "<title>step 0 embed: 256 bytes at 768, until step 2</title>"));
    assert_string_equal(svg.data + svg.len - 7, "</svg>\n");
    mr_buf_free(&dot);
    mr_buf_free(&svg);
    mr_plan_free(p);
    mr_graph_free(g);
    b->v->close(b);
}

static void report_counts_kernels(void **state)
{
    (void)state;
    mr_backend *b = open_ref();
    mr_graph *g = graph_of_file("tests/compile/gated-mlp.before.ir");
    mr_plan *p = plan_of(b, g, 4, 0);
    mr_buf text = {0};
    OK(mr_plan_report(p, &text));
    assert_string_equal(
        text.data,
        "     1  embed          ref\n     6  linear         ref\n     1  silu           ref\n"
        "     2  mul            ref\n     1  gelu_tanh      ref\n");
    mr_buf_free(&text);
    mr_plan_free(p);
    mr_graph_free(g);
    b->v->close(b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(prints_what_will_run),
        cmocka_unit_test(views_are_strides),
        cmocka_unit_test(copies_where_views_do_not_fold),
        cmocka_unit_test(caches_are_one_through_their_appends),
        cmocka_unit_test(refusals),
        cmocka_unit_test(long_graphs_are_refused_fast),
        cmocka_unit_test(failed_allocations_are_errors),
        cmocka_unit_test(json_tells_all),
        cmocka_unit_test(pictures_show_steps_and_memory),
        cmocka_unit_test(report_counts_kernels),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
