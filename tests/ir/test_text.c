/* The text form: equal text after print, parse, print; every syntax error; allocation failures. */
#include "ir_util.h"

static void every_op_is_there(void **state)
{
    (void)state;
    mr_graph *g = parse_ok(EVERY_OP);
    bool seen[MR_OP_COUNT] = {false};
    for (int i = 0; i < mr_graph_nodes(g); i++)
        seen[mr_graph_node(g, i)->op] = true;
    for (int i = 0; i < MR_OP_COUNT; i++)
        if (!seen[i])
            fail_msg("%s is not in the graph of every op", mr_op_get((mr_op)i)->name);
    mr_graph_free(g);
}

static void prints_and_parses_back(void **state)
{
    (void)state;
    mr_graph *g = parse_ok(EVERY_OP);
    mr_buf a = text_of(g);
    mr_graph *h = parse_ok(a.data);
    mr_buf b = text_of(h);
    assert_string_equal(a.data, b.data);
    assert_int_equal(mr_graph_verify(h), MR_OK);
    mr_buf_free(&a);
    mr_buf_free(&b);
    mr_graph_free(g);
    mr_graph_free(h);
}

static void prints_as_documented(void **state)
{
    (void)state;
    mr_graph *g = parse_ok("graph \"llama\" { # a comment\n"
                           "%ids:i32[ROWS]=input name=\"ids\"%99:weight<q4_1>[576,576]=weight\n"
                           "recipe=\"a\" %98: weight<f32>[576] = weight recipe=\"n\"\n"
                           "%n: f32[4*ROWS,576] = input name=\"extra\"\n"
                           "%c0 = cache name=\"0\" heads=3 dk=64 dv=64\n"
                           "%e = embed(%ids,%99)\n"
                           "%7 = linear(%e, %99)\n"
                           "%1, %2 = add_rmsnorm(%e, %7, %98) eps=1e-5 output %1 as\"logits\"}");
    mr_buf a = text_of(g);
    assert_string_equal(
        a.data, "graph \"llama\" {\n"
                "  %ids: i32[ROWS] = input name=\"ids\"\n"
                "  %1: weight<q4_1>[576,576] = weight recipe=\"a\"\n"
                "  %2: weight<f32>[576] = weight recipe=\"n\"\n"
                "  %n: f32[4*ROWS,576] = input name=\"extra\"\n"
                "  %c0: cache = cache name=\"0\" heads=3 dk=64 dv=64 window=0\n"
                "  %e: f32[ROWS,576] = embed(%ids, %1, _) scale=1\n"
                "  %6: f32[ROWS,576] = linear(%e, %1, _) act=\"auto\"\n"
                "  %7: f32[ROWS,576], %8: f32[ROWS,576] = add_rmsnorm(%e, %6, %2) eps=1e-05 "
                "offset=0\n"
                "  output %7 as \"logits\"\n"
                "}\n");
    mr_buf_free(&a);
    mr_graph_free(g);
}

#define X "graph \"g\" {\n%x: f32[ROWS,8] = input name=\"x\"\n"

static void floats_read_back(void **state)
{
    (void)state;
    static const char *const numbers[] = {
        "0.1",    "1e-05", "-0",       "0.08838834764831845", "1e+300", "5e-324", "3",
        "500000", "1e+15", "-70000.5", "0.30000000000000004"};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        char text[256], want[64];
        snprintf(text, sizeof text, "%s%%y = scale(%%x) by=%s output %%y as \"y\" }", X,
                 numbers[i]);
        snprintf(want, sizeof want, " by=%s\n", numbers[i]);
        mr_graph *g = parse_ok(text);
        mr_buf b = text_of(g);
        if (!strstr(b.data, want))
            fail_msg("%s not in %s", want, b.data);
        mr_buf_free(&b);
        mr_graph_free(g);
    }
}

static void strings_read_back(void **state)
{
    (void)state;
    mr_graph *g = parse_ok(
        X "output %x as \"\\\"\\\\\\/\\b\\f\\n\\r\\t\\u0041\\u00E9\\ud83d\\ude00 \xc3\xa9\" }");
    const char *want = "\"\\/\b\f\n\r\tA\xc3\xa9\xf0\x9f\x98\x80 \xc3\xa9";
    assert_string_equal(mr_graph_output_name(g, 0), want);
    mr_buf b = text_of(g);
    mr_graph *h = parse_ok(b.data);
    assert_string_equal(mr_graph_output_name(h, 0), want);
    mr_buf_free(&b);
    mr_graph_free(g);
    mr_graph_free(h);
}

static void symbols_read_back(void **state)
{
    (void)state;
    mr_graph *g = parse_ok("graph \"g\" { %a: f32[BATCH,2] = input name=\"a\"\n"
                           "%b: f32[SEQ,2] = input name=\"b\"\n%c: f32[PAST,2] = input name=\"c\"\n"
                           "%d: f32[3*frames,2] = input name=\"d\" output %d as \"d\" }");
    mr_dim d = mr_graph_value(g, 3)->dim[0];
    assert_int_equal(d.n, 3);
    assert_int_equal(d.sym, MR_SYM_USER);
    mr_buf b = text_of(g);
    assert_non_null(strstr(b.data, "%d: f32[3*frames,2] = input"));
    mr_buf_free(&b);
    mr_graph_free(g);
}

static void syntax_errors(void **state)
{
    (void)state;
    static const struct {
        const char *text, *message;
    } bad[] = {
        {"", "t:1:1: graph expected"},
        {"grap \"g\" {}", "t:1:1: graph expected"},
        {"graph g {}", "t:1:7: '\"' expected"},
        {"graph \"g\" ", "'{' expected"},
        {"graph \"g\" {\n  x = y }", "t:2:3: a statement or '}' expected"},
        {X, "a statement or '}' expected"},
        {X "} x", "text after the graph"},
        {X "%x = silu(%x) }", "t:3:1: %x is defined twice"},
        {X "%a, %a = silu(%x) }", "%a is defined twice"},
        {X "%a, %b, %c = silu(%x) }", "over 2 results"},
        {X "%a, %b = silu(%x) }", "silu gives 1 results"},
        {X "%a silu(%x) }", "'=' expected"},
        {X "%a = (%x) }", "op expected"},
        {X "%a = sulu(%x) }", "t:3:6: unknown op sulu"},
        {X "%a = silu(%y) }", "t:3:11: %y is not defined before this"},
        {X "%a = silu(x) }", "'%' expected"},
        {X "%a = silu(% ) }", "name expected"},
        {X "%a = silu(%x }", "')' expected"},
        {X "%a = silu() }", "'%' expected"},
        {X "%a = silu(%x,%x,%x,%x,%x,%x,%x) }", "over 6 operands"},
        {X "%a = silu(%x,%x) }", "t:3:6: silu: 2 operands given, it takes 1 to 1"},
        {X "%a = silu }", "0 operands given"},
        {X "%a = silu(_) }", "operand x is absent"},
        {X "%a = silu(%x) by=1 }", "silu has no attribute by"},
        {X "%a = scale(%x) by=1 by=1 }", "attribute by is given twice"},
        {X "%a = softcap(%x) }", "t:3:6: softcap needs attribute cap"},
        {X "%a = scale(%x) by=\"1\" }", "number expected"},
        {X "%a = scale(%x) by=1e999 }", "number expected"},
        {X "%a = scale(%x) by=1.2.3 }", "number expected"},
        {X "%a = slice(%x) start=1.5 len=2 }", "integer expected"},
        {X "%a = slice(%x) start=99999999999999999999 len=2 }", "integer out of range"},
        {X "%a = slice(%x) start= len=2 }", "integer expected"},
        {X "%a: f32[ROWS,9] = silu(%x) }", "%a is declared f32[ROWS,9], it is f32[ROWS,8]"},
        {X "%a: f32[ROWS] = silu(%x) }", "%a is declared f32[ROWS], it is"},
        {X "%a: i32[ROWS,8] = silu(%x) }", "%a is declared i32[ROWS,8], it is"},
        {X "%a: f64[ROWS,8] = silu(%x) }", "type f64 is none of f32"},
        {X "%a: f32 = silu(%x) }", "'[' expected"},
        {X "%a: f32[] = silu(%x) }", "size expected"},
        {X "%a: f32[1,2,3,4] = silu(%x) }", "over 3 axes"},
        {X "%a: f32[1,2 = silu(%x) }", "']' expected"},
        {X "%a: f32[99999999999999999999] = silu(%x) }", "integer out of range"},
        {X "%a: f32[4*9] = silu(%x) }", "bad symbol 9"},
        {X "%a: f32[R.S] = silu(%x) }", "bad symbol R.S"},
        {X "%a: f32[a23456789012345678901234567890123] = silu(%x) }", "bad symbol"},
        {X "%a: weight[2] = weight recipe=\"a\" }", "'<' expected"},
        {X "%a: weight<q9>[2] = weight recipe=\"a\" }", "unknown format q9"},
        {X "%a: weight<affine4/48/bf16>[2] = weight recipe=\"a\" }", "unknown format affine4/48"},
        {X "%a = weight recipe=\"a\" }", "weight needs a type"},
        {X "%a = input name=\"a\" }", "input needs a type"},
        {X "%a: f32[1] = input }", "input needs attribute name"},
        {X "%a: f32[1] = input name=a }", "'\"' expected"},
        {X "output x as \"x\" }", "'%' expected"},
        {X "output %x \"x\" }", "as expected"},
        {X "output %x at \"x\" }", "as expected"},
        {X "outputs %x as \"x\" }", "output expected"},
        {X "output %x as x }", "'\"' expected"},
        {X "output %x as \"x }", "string without an end"},
        {X "output %x as \"a\\q\" }", "bad escape"},
        {X "output %x as \"a\\u12\" }", "bad escape"},
        {X "output %x as \"a\\u0000\" }", "bad escape"},
        {X "output %x as \"a\\u12\"", "bad escape"},
        {X "output %x as \"a\\ud800\" }", "unpaired surrogate"},
        {X "output %x as \"a\\ud800\\u0041\" }", "unpaired surrogate"},
        {X "output %x as \"a\\udc00\" }", "unpaired surrogate"},
        {X "output %x as \"a\nb\" }", "control character"},
        {X "output %x as \"a\\", "string without an end"},
        {X "output %x as \"\xff\" }", "t:3:15: not UTF-8 text"},
        {X "%c = cache name=\"c\" heads=1 dk=1 dv=1 output %c as \"c\" }",
         "output \"c\" is of type cache"},
        {X "%w: weight<f32>[1] = weight recipe=\"c\" output %w as \"c\" }",
         "output \"c\" is of type weight<f32>[1]"},
        {X "}", "t: graph g: no output and no append"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        parse_bad(bad[i].text, bad[i].message);
}

static void nul_is_refused(void **state)
{
    (void)state;
    static const char text[] = X "\0output %x as \"x\" }";
    mr_graph *g = NULL;
    expect_error(mr_graph_parse(&g, "t", text, sizeof text - 1), MR_EFORMAT, "t:3:1: not UTF-8");
}

static void long_things(void **state)
{
    (void)state;
    char name[256], text[1024];
    mr_graph *g = NULL;
    memset(name, 'n', 255);
    name[200] = 0;
    snprintf(text, sizeof text, "%s%%%s = silu(%%x) output %%x as \"x\" }", X, name);
    g = parse_ok(text);
    assert_string_equal(mr_graph_value(g, 1)->name, name);
    mr_graph_free(g);
    name[200] = 'n';
    name[201] = 0;
    snprintf(text, sizeof text, "%s%%%s = silu(%%x) }", X, name);
    parse_bad(text, "name of over 200 bytes");
    size_t len = (1 << 24) + 1;
    char *big = malloc(len);
    memset(big, ' ', len);
    expect_error(mr_graph_parse(&g, "t", big, len), MR_ELIMIT, "at most 16777216 bytes");
    free(big);
}

static void too_many_symbols(void **state)
{
    (void)state;
    mr_buf b = {0};
    mr_buf_puts(&b, "graph \"g\" {");
    for (int i = 0; i < 65; i++)
        mr_buf_printf(&b, "%%x%d: f32[s%d,2] = input name=\"%d\"\n", i, i, i);
    mr_buf_puts(&b, "}");
    parse_bad(b.data, "bad symbol s64, or over 64 symbols");
    mr_buf_free(&b);
}

/* Half a million nodes, chained slices among them, take well under the five seconds. */
static void long_graphs_are_quick(void **state)
{
    (void)state;
    mr_buf b = {0};
    mr_buf_puts(&b, "graph \"g\" {%0: f32[ROWS,4,8] = input name=\"x\"\n"
                    "%c0 = cache name=\"c\" heads=4 dk=8 dv=8 %p: i32[ROWS] = input name=\"p\"\n");
    for (int i = 0; i < 40000; i++) {
        mr_buf_printf(&b, "%%%d = slice(%%%d) start=0 len=8\n", i + 1, i);
        mr_buf_printf(&b, "%%h%d = heads(%%%d) n=0\n", i, i + 1);
        mr_buf_printf(&b, "%%c%d = append(%%c%d, %%0, %%0, %%p)\n", i + 1, i);
    }
    mr_buf_puts(&b, "}");
    mr_graph *g = parse_ok(b.data);
    mr_buf a = text_of(g);
    mr_graph *h = parse_ok(a.data);
    assert_int_equal(mr_graph_nodes(h), 120003);
    mr_buf_free(&a);
    mr_buf_free(&b);
    mr_graph_free(g);
    mr_graph_free(h);
}

/* Memory comes in blocks; a name of growing length moves the place where one is full. */
static void allocations_fail_anywhere(void **state)
{
    (void)state;
    enum { BLOCK = 1 << 16, STEP = 131 };
    size_t held = mr_mem_held(MR_MEM_COMPILE), len = strlen(EVERY_OP);
    char *text = malloc(BLOCK + len + 16);
    for (size_t n = 0; n < BLOCK; n += STEP) {
        memcpy(text, "graph \"", 7);
        memset(text + 7, 'g', n);
        const char *rest = strstr(EVERY_OP, "\" {");
        strcpy(text + 7 + n, rest);
        mr_err e = MR_ENOMEM;
        for (uint64_t k = 2; e != MR_OK; k++) {
            mr_graph *g = NULL;
            mr_mem_fail_after(k);
            e = mr_graph_parse(&g, "t", text, strlen(text));
            mr_mem_fail_after(0);
            assert_true(e == MR_OK || e == MR_ENOMEM);
            if (e == MR_OK)
                mr_graph_free(g);
            assert_int_equal(mr_mem_held(MR_MEM_COMPILE), held);
        }
    }
    free(text);
}

static void every_allocation_may_fail(void **state)
{
    (void)state;
    size_t before = mr_mem_held(MR_MEM_COMPILE);
    for (uint64_t n = 1;; n++) {
        mr_graph *g = NULL;
        mr_mem_fail_after(n);
        mr_err e = mr_graph_parse(&g, "t", EVERY_OP, strlen(EVERY_OP));
        mr_mem_fail_after(0);
        if (e == MR_OK) {
            mr_graph_free(g);
            assert_true(n > 3);
            break;
        }
        assert_int_equal(e, MR_ENOMEM);
        assert_int_equal(mr_mem_held(MR_MEM_COMPILE), before);
    }
    assert_int_equal(mr_mem_held(MR_MEM_COMPILE), before);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_op_is_there),
        cmocka_unit_test(prints_and_parses_back),
        cmocka_unit_test(prints_as_documented),
        cmocka_unit_test(floats_read_back),
        cmocka_unit_test(strings_read_back),
        cmocka_unit_test(symbols_read_back),
        cmocka_unit_test(syntax_errors),
        cmocka_unit_test(nul_is_refused),
        cmocka_unit_test(long_things),
        cmocka_unit_test(too_many_symbols),
        cmocka_unit_test(long_graphs_are_quick),
        cmocka_unit_test(every_allocation_may_fail),
        cmocka_unit_test(allocations_fail_anywhere),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
