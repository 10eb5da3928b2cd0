/* Pictures: dot, JSON and SVG are well formed, complete, escaped, the same each time. */
#include "ir_util.h"

#include "base/json.h"

typedef mr_err (*draw_fn)(const mr_graph *g, mr_buf *out);

static mr_buf drawn(const mr_graph *g, draw_fn f)
{
    mr_buf b = {0};
    if (f(g, &b) != MR_OK)
        fail_msg("%s", mr_error());
    return b;
}

static int count(const char *s, const char *what)
{
    int n = 0;
    for (; (s = strstr(s, what)); s++)
        n++;
    return n;
}

static void dot(void **state)
{
    (void)state;
    mr_graph *g = parse_ok("graph \"a\\\"b\\\\\\n\" {\n%x: f32[ROWS,8] = input name=\"x\\\"<y>\"\n"
                           "%y = scale(%x) by=2\n%z = add(%y, %x)\noutput %z as \"o\\\"\" }");
    mr_buf b = drawn(g, mr_graph_dot);
    assert_string_equal(
        b.data,
        "digraph \"a\\\"b\\\\ \" {\n  node [fontname=\"sans-serif\" fontsize=10];\n"
        "  n0 [shape=plaintext label=\"input\\nname \\\"x\\\\\\\"<y>\\\"\\nf32[ROWS,8]\"];\n"
        "  n1 [shape=box label=\"scale\\nby 2\\nf32[ROWS,8]\"];\n"
        "  n0 -> n1 [label=\"x\"];\n"
        "  n2 [shape=box label=\"add\\nf32[ROWS,8]\"];\n"
        "  n1 -> n2 [label=\"a\"];\n  n0 -> n2 [label=\"b\"];\n"
        "  o0 [shape=ellipse label=\"o\\\"\"];\n  n2 -> o0;\n}\n");
    mr_buf_free(&b);
    mr_graph_free(g);
    g = parse_ok(EVERY_OP);
    b = drawn(g, mr_graph_dot);
    assert_int_equal(count(b.data, "[shape="), mr_graph_nodes(g) + mr_graph_outputs(g));
    mr_buf_free(&b);
    mr_graph_free(g);
}

static void json(void **state)
{
    (void)state;
    mr_graph *g = parse_ok(EVERY_OP);
    mr_buf b = drawn(g, mr_graph_json);
    mr_json *doc;
    if (mr_json_parse(&doc, "graph", b.data, b.len) != MR_OK)
        fail_msg("%s", mr_error());
    mr_jval root = mr_json_root(doc), nodes = mr_jget(root, "nodes");
    assert_true(mr_jis(mr_jget(root, "graph"), "every \"op\" \xc3\xa9"));
    assert_int_equal(mr_jcount(nodes), mr_graph_nodes(g));
    assert_int_equal(mr_jcount(mr_jget(root, "outputs")), 2);
    int i = 0;
    for (mr_jval n = mr_jfirst(nodes); n.doc; n = mr_jnext(n), i++) {
        const mr_op_info *o = mr_op_get(mr_graph_node(g, i)->op);
        assert_true(mr_jis(mr_jget(n, "op"), o->name));
        assert_int_equal(mr_jcount(mr_jget(n, "attr")), o->n_attr);
        assert_int_equal(mr_jcount(mr_jget(n, "out")), o->n_out);
    }
    mr_jval table =
        mr_jfirst(mr_jget(mr_jnext(mr_jnext(mr_jnext(mr_jnext(mr_jfirst(nodes))))), "out"));
    assert_true(mr_jis(mr_jget(table, "format"), "affine4/64/bf16"));
    mr_jval ids = mr_jfirst(mr_jget(mr_jfirst(nodes), "out"));
    assert_true(mr_jis(mr_jfirst(mr_jget(ids, "shape")), "ROWS"));
    mr_json_free(doc);
    mr_buf_free(&b);
    mr_graph_free(g);
}

/* Tags open and close in order and every attribute is quoted: enough of XML for what we write. */
static void check_xml(const char *s)
{
    char stack[64][16];
    int depth = 0;
    while (*s) {
        if (*s == '&') {
            if (strncmp(s, "&amp;", 5) && strncmp(s, "&lt;", 4) && strncmp(s, "&gt;", 4))
                fail_msg("bare & at %.20s", s);
        }
        if (*s++ != '<')
            continue;
        bool closing = *s == '/';
        s += closing;
        size_t n = strspn(s, "abcdefghijklmnopqrstuvwxyz");
        assert_true(n > 0 && n < 16);
        if (closing) {
            assert_true(depth > 0 && strlen(stack[depth - 1]) == n);
            assert_memory_equal(stack[--depth], s, n);
            s += n;
            assert_int_equal(*s, '>');
            continue;
        }
        assert_true(depth < 64);
        memcpy(stack[depth], s, n);
        stack[depth++][n] = 0;
        for (s += n; *s && *s != '>'; s++)
            if (*s == '"') {
                s = strchr(s + 1, '"');
                assert_non_null(s);
            } else if (*s == '/') {
                depth--;
            }
        assert_int_equal(*s, '>');
    }
    assert_int_equal(depth, 0);
}

static void svg(void **state)
{
    (void)state;
    mr_graph *g = parse_ok(EVERY_OP);
    mr_buf a = drawn(g, mr_graph_svg), b = drawn(g, mr_graph_svg);
    assert_string_equal(a.data, b.data);
    check_xml(a.data);
    int boxes = 0;
    for (int i = 0; i < mr_graph_nodes(g); i++)
        boxes += !mr_op_is_leaf(mr_graph_node(g, i)->op);
    assert_int_equal(count(a.data, "<rect "), boxes + 1);
    assert_non_null(strstr(a.data, ">attention  %a<"));
    assert_non_null(strstr(a.data, ">f32[ROWS,4,16]<"));
    assert_non_null(strstr(a.data, ">logits<"));
    mr_buf_free(&a);
    mr_buf_free(&b);
    mr_graph_free(g);
}

static void svg_escapes_and_cuts(void **state)
{
    (void)state;
    mr_graph *g = parse_ok("graph \"<&>\\n\xc3\xa9 0123456789 0123456789 0123456789 0123456789 "
                           "0123456789 0123456789\" {\n%x: f32[ROWS,8] = input name=\"x\"\n"
                           "%y = silu(%x)\noutput %y as \"<\" output %x as \"x\" }");
    mr_buf b = drawn(g, mr_graph_svg);
    check_xml(b.data);
    assert_non_null(strstr(b.data, ">&lt;&amp;&gt; \xc3\xa9 0123456789"));
    assert_non_null(strstr(b.data, "...</text>"));
    assert_non_null(strstr(b.data, ">&lt;</text>"));
    mr_buf_free(&b);
    mr_graph_free(g);
}

/* No box lies on another; nothing to draw is a picture too. */
static void svg_of_leaves(void **state)
{
    (void)state;
    mr_graph *g = parse_ok("graph \"g\" {%x: f32[ROWS,8] = input name=\"x\" output %x as \"x\" }");
    mr_buf b = drawn(g, mr_graph_svg);
    check_xml(b.data);
    assert_int_equal(count(b.data, "<rect "), 1);
    mr_buf_free(&b);
    mr_graph_free(g);
}

static void boxes_are_apart(void **state)
{
    (void)state;
    mr_graph *g = parse_ok(EVERY_OP);
    mr_buf b = drawn(g, mr_graph_svg);
    int x[128], y[128], n = 0;
    for (const char *s = b.data; (s = strstr(s, "<rect x=")); s++) {
        assert_true(n < 128);
        assert_int_equal(sscanf(s, "<rect x=\"%d\" y=\"%d\"", &x[n], &y[n]), 2);
        n++;
    }
    for (int i = 0; i < n; i++)
        for (int j = 0; j < i; j++)
            assert_true(y[i] != y[j] ? abs(y[i] - y[j]) > 52 : abs(x[i] - x[j]) > 230);
    mr_buf_free(&b);
    mr_graph_free(g);
}

/* Two values that live at the same time run in two lanes; a third, later one takes a free lane. */
static void lanes_are_shared_in_turn(void **state)
{
    (void)state;
    mr_graph *g = parse_ok("graph \"g\" {%x: f32[ROWS,8] = input name=\"x\"\n"
                           "%a = silu(%x)\n%b = silu(%a)\n%c = silu(%b)\n%d = add(%c, %a)\n"
                           "%e = add(%d, %b)\n%f = silu(%e)\n%h = add(%f, %e)\n"
                           "output %h as \"h\" }");
    mr_buf b = drawn(g, mr_graph_svg);
    int lanes[8], n = 0;
    for (const char *s = b.data; (s = strstr(s, "<path d=")); s++) {
        int x0, y0, y1, x, y2;
        if (sscanf(s, "<path d=\"M%d %dV%dH%dV%d\"", &x0, &y0, &y1, &x, &y2) == 5)
            lanes[n++] = x;
    }
    assert_int_equal(n, 3); /* a, b, e */
    assert_int_not_equal(lanes[0], lanes[1]);
    assert_int_equal(lanes[2], lanes[0]);
    mr_buf_free(&b);
    mr_graph_free(g);
}

static void too_large_a_picture(void **state)
{
    (void)state;
    mr_buf b = {0}, out = {0};
    mr_buf_puts(&b, "graph \"big\" {%0: f32[ROWS,8] = input name=\"x\"\n");
    for (int i = 0; i < 8193; i++)
        mr_buf_printf(&b, "%%%d = silu(%%%d)\n", i + 1, i);
    mr_buf_puts(&b, "output %1 as \"y\" }");
    mr_graph *g = parse_ok(b.data);
    expect_error(mr_graph_svg(g, &out), MR_ELIMIT, "graph big: 8193 nodes, a picture holds 8192");
    mr_buf_free(&b);
    mr_buf_free(&out);
    mr_graph_free(g);
}

static void every_allocation_may_fail(void **state)
{
    (void)state;
    static const draw_fn draws[] = {mr_graph_print, mr_graph_dot, mr_graph_json, mr_graph_svg};
    mr_graph *g = parse_ok(EVERY_OP);
    for (int d = 0; d < 4; d++) {
        uint64_t n = 1;
        for (;; n++) {
            mr_buf b = {0};
            mr_mem_fail_after(n);
            mr_err e = draws[d](g, &b);
            mr_mem_fail_after(0);
            mr_buf_free(&b);
            if (e == MR_OK)
                break;
            assert_int_equal(e, MR_ENOMEM);
        }
        assert_true(n > 1);
    }
    mr_graph_free(g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(dot),
        cmocka_unit_test(json),
        cmocka_unit_test(svg),
        cmocka_unit_test(svg_escapes_and_cuts),
        cmocka_unit_test(svg_of_leaves),
        cmocka_unit_test(boxes_are_apart),
        cmocka_unit_test(lanes_are_shared_in_turn),
        cmocka_unit_test(too_large_a_picture),
        cmocka_unit_test(every_allocation_may_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
