/* Expansion: each fused op becomes exactly the primitives that ops.def says. */
#include "ir_util.h"

static void expands_to(const char *text, const char *want)
{
    mr_graph *g = parse_ok(text), *h;
    assert_int_equal(mr_graph_expand(g, &h), MR_OK);
    assert_int_equal(mr_graph_verify(h), MR_OK);
    mr_buf b = text_of(h);
    const char *ops = strstr(b.data, "  %x: ");
    ops = strchr(ops, '\n') + 1;
    assert_string_equal(ops, want);
    mr_buf_free(&b);
    mr_graph_free(g);
    mr_graph_free(h);
}

static void add_rmsnorm(void **state)
{
    (void)state;
    expands_to("graph \"g\" {\n%w: weight<f32>[8] = weight recipe=\"w\"\n"
               "%x: f32[ROWS,8] = input name=\"x\"\n"
               "%s, %y = add_rmsnorm(%x, %x, %w) eps=0.5 offset=1\n"
               "output %y as \"y\" output %s as \"s\" }",
               "  %s: f32[ROWS,8] = add(%x, %x)\n"
               "  %y: f32[ROWS,8] = rmsnorm(%s, %w) eps=0.5 offset=1\n"
               "  output %y as \"y\"\n  output %s as \"s\"\n}\n");
}

static void gated_linear(void **state)
{
    (void)state;
    expands_to("graph \"g\" {\n%w: weight<f32>[8,4] = weight recipe=\"w\"\n"
               "%v: weight<bf16>[8,4] = weight recipe=\"v\"\n"
               "%b: weight<f32>[8] = weight recipe=\"b\"\n"
               "%x: f32[ROWS,4] = input name=\"x\"\n"
               "%y = gated_linear(%x, %w, %v, _, %b) fn=\"gelu\" act=\"f32\"\n"
               "output %y as \"y\" }",
               "  %4: f32[ROWS,8] = linear(%x, %w, _) act=\"f32\"\n"
               "  %5: f32[ROWS,8] = linear(%x, %v, %b) act=\"f32\"\n"
               "  %6: f32[ROWS,8] = gelu(%4)\n"
               "  %y: f32[ROWS,8] = mul(%6, %5)\n"
               "  output %y as \"y\"\n}\n");
}

static void rope_append(void **state)
{
    (void)state;
    expands_to("graph \"g\" {\n%p: i32[ROWS] = input name=\"p\"\n"
               "%t: f32[ROWS,4] = input name=\"t\"\n"
               "%c = cache name=\"c\" heads=1 dk=8 dv=8\n"
               "%m = cache name=\"m\" heads=1 dk=8 dv=0\n"
               "%x: f32[ROWS,1,8] = input name=\"x\"\n"
               "%d = rope_append(%c, %x, %x, %t, %p) start=2 interleaved=1\n"
               "%n = rope_append(%m, %x, _, %t, %p)\n }",
               "  %5: f32[ROWS,1,8] = rope(%x, %t) start=2 interleaved=1\n"
               "  %d: cache = append(%c, %5, %x, %p)\n"
               "  %7: f32[ROWS,1,8] = rope(%x, %t) start=0 interleaved=0\n"
               "  %n: cache = append(%m, %7, _, %p)\n}\n");
}

static void moe(void **state)
{
    (void)state;
    expands_to("graph \"g\" {\n%g: weight<f32>[3,8,4] = weight recipe=\"g\"\n"
               "%u: weight<f32>[3,8,4] = weight recipe=\"u\"\n"
               "%d: weight<f32>[3,4,8] = weight recipe=\"d\"\n"
               "%i: i32[ROWS,2] = input name=\"i\"\n%w: f32[ROWS,2] = input name=\"w\"\n"
               "%x: f32[ROWS,4] = input name=\"x\"\n"
               "%y = moe(%x, %i, %w, %g, %u, %d) fn=\"silu\"\noutput %y as \"y\" }",
               "  %6: f32[ROWS,2,8] = expert_linear(%x, %g, %i) act=\"auto\"\n"
               "  %7: f32[ROWS,2,8] = expert_linear(%x, %u, %i) act=\"auto\"\n"
               "  %8: f32[ROWS,2,8] = silu(%6)\n"
               "  %9: f32[ROWS,2,8] = mul(%8, %7)\n"
               "  %10: f32[ROWS,2,4] = expert_linear(%9, %d, %i) act=\"auto\"\n"
               "  %y: f32[ROWS,4] = combine(%10, %w)\n"
               "  output %y as \"y\"\n}\n");
}

static void nothing_fused_is_left(void **state)
{
    (void)state;
    mr_graph *g = parse_ok(EVERY_OP), *h, *again;
    assert_int_equal(mr_graph_expand(g, &h), MR_OK);
    assert_int_equal(mr_graph_verify(h), MR_OK);
    for (int i = 0; i < mr_graph_nodes(h); i++)
        assert_false(mr_op_get(mr_graph_node(h, i)->op)->fused);
    assert_int_equal(mr_graph_expand(h, &again), MR_OK);
    mr_buf a = text_of(h), b = text_of(again);
    assert_string_equal(a.data, b.data);
    mr_buf_free(&a);
    mr_buf_free(&b);
    mr_graph_free(g);
    mr_graph_free(h);
    mr_graph_free(again);
}

static void every_allocation_may_fail(void **state)
{
    (void)state;
    mr_graph *g = parse_ok(EVERY_OP), *h;
    uint64_t n = 1;
    for (;; n++) {
        size_t held = mr_mem_held(MR_MEM_COMPILE);
        mr_mem_fail_after(n);
        mr_err e = mr_graph_expand(g, &h);
        mr_mem_fail_after(0);
        if (e == MR_OK)
            break;
        assert_int_equal(e, MR_ENOMEM);
        assert_int_equal(mr_mem_held(MR_MEM_COMPILE), held);
    }
    assert_true(n > 2);
    mr_graph_free(g);
    mr_graph_free(h);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(add_rmsnorm),           cmocka_unit_test(gated_linear),
        cmocka_unit_test(rope_append),           cmocka_unit_test(moe),
        cmocka_unit_test(nothing_fused_is_left), cmocka_unit_test(every_allocation_may_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
