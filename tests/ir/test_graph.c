/* Building by hand: the op table, names, symbols, operands, accessors, formats. */
#include "ir_util.h"

#include <math.h>

static const mr_dim rows = {.n = 1, .sym = MR_SYM_ROWS};

static mr_dim num(int64_t n)
{
    return (mr_dim){.n = n};
}

static void op_table(void **state)
{
    (void)state;
    const mr_op_info *o = mr_op_get(MR_OP_APPEND);
    assert_string_equal(o->name, "append");
    assert_false(o->fused);
    assert_int_equal(o->n_in, 4);
    assert_int_equal(o->n_required, 4);
    assert_string_equal(o->in_name[2], "v");
    assert_true(o->in_optional[2] && !o->in_optional[3]);
    o = mr_op_get(MR_OP_GATED_LINEAR);
    assert_true(o->fused);
    assert_int_equal(o->n_required, 3);
    assert_int_equal(o->attr[0].kind, 's');
    assert_true(o->attr[0].required && !o->attr[1].required);
    assert_string_equal(o->attr[1].def.s, "auto");
    o = mr_op_get(MR_OP_ROPE_TABLE);
    assert_int_equal(o->n_attr, 12);
    assert_true(o->attr[mr_attr_index(MR_OP_ROPE_TABLE, "beta_fast")].def.f == 32);
    assert_string_equal(o->attr[2].def.s, "none");
    assert_int_equal(mr_op_get(MR_OP_ROUTE)->n_out, 2);
    assert_string_equal(mr_op_get(MR_OP_ROUTE)->out_name[1], "weights");
    for (int i = 0; i < MR_OP_COUNT; i++) {
        const char *name = mr_op_get((mr_op)i)->name;
        assert_int_equal(mr_op_find(name, strlen(name)), i);
    }
    assert_int_equal(mr_op_find("linea", 5), MR_OP_COUNT);
    assert_int_equal(mr_op_find("linear_head", 11), MR_OP_COUNT);
    assert_true(mr_op_is_view(MR_OP_SLICE) && mr_op_is_view(MR_OP_HEADS));
    assert_false(mr_op_is_view(MR_OP_CONCAT));
    assert_true(mr_op_is_pure(MR_OP_ATTENTION) && !mr_op_is_pure(MR_OP_APPEND));
    assert_false(mr_op_is_pure(MR_OP_ROPE_APPEND) || mr_op_is_pure(MR_OP_WEIGHT));
}

static void by_hand(void **state)
{
    (void)state;
    mr_graph *g;
    assert_int_equal(mr_graph_new(&g, "hand"), MR_OK);
    assert_string_equal(mr_graph_name(g), "hand");
    int x, w, y;
    assert_int_equal(mr_graph_input(g, "x", MR_V_F32, 2, (mr_dim[]){rows, num(32)}, &x), MR_OK);
    mr_fmt fmt = {.dtype = MR_Q8_0};
    assert_int_equal(mr_graph_weight(g, "w", fmt, 2, (mr_dim[]){num(5), num(32)}, &w), MR_OK);
    mr_attr act = {.s = "auto"};
    assert_int_equal(mr_graph_add(g, MR_OP_LINEAR, (int[]){x, w}, 2, &act, &y), MR_OK);
    const mr_node *n = mr_graph_node(g, 2);
    assert_int_equal(n->n_in, 3); /* the absent b is counted */
    assert_int_equal(n->in[2], MR_NONE);
    assert_int_equal(mr_operand(n, "w"), w);
    assert_int_equal(mr_operand(n, "b"), MR_NONE);
    assert_string_equal(mr_attr_s(n, "act"), "auto");
    assert_int_equal(mr_operand_index(MR_OP_LINEAR, "b"), 2);
    const mr_value *v = mr_graph_value(g, y);
    assert_int_equal(v->node, 2);
    assert_int_equal(v->rank, 2);
    assert_true(mr_dim_equal(v->dim[0], rows) && mr_dim_equal(v->dim[1], num(5)));
    assert_string_equal(mr_graph_value(g, x)->name, "x");
    assert_null(v->name);
    assert_null(mr_graph_cache(g, y));
    assert_int_equal(mr_graph_output(g, y, "y"), MR_OK);
    assert_int_equal(mr_graph_outputs(g), 1);
    assert_int_equal(mr_graph_output_value(g, 0), y);
    assert_string_equal(mr_graph_output_name(g, 0), "y");
    assert_int_equal(mr_graph_verify(g), MR_OK);
    mr_graph_free(g);
    mr_graph_free(NULL);
}

static void wrong_operands(void **state)
{
    (void)state;
    mr_graph *g;
    assert_int_equal(mr_graph_new(&g, "bad"), MR_OK);
    int x, y = 77;
    assert_int_equal(mr_graph_input(g, "x", MR_V_F32, 2, (mr_dim[]){rows, num(32)}, &x), MR_OK);
    expect_error(mr_graph_add(g, MR_OP_SILU, (int[]){5}, 1, NULL, &y), MR_EFORMAT,
                 "silu: operand x is value 5, only 1 are defined here");
    expect_error(mr_graph_add(g, MR_OP_SILU, (int[]){-2}, 1, NULL, &y), MR_EFORMAT, "value -2");
    expect_error(mr_graph_add(g, MR_OP_SILU, (int[]){MR_NONE}, 1, NULL, &y), MR_EFORMAT,
                 "operand x is absent");
    expect_error(mr_graph_add(g, MR_OP_ADD, (int[]){x}, 1, NULL, &y), MR_EFORMAT,
                 "add: 1 operands given, it takes 2 to 2");
    mr_attr by = {.f = (double)INFINITY};
    expect_error(mr_graph_add(g, MR_OP_SCALE, (int[]){x}, 1, &by, &y), MR_EFORMAT,
                 "scale: attribute by is not a finite number");
    expect_error(mr_graph_input(g, "s", MR_V_I32, 1, (mr_dim[]){{1, MR_NONE}}, &y), MR_EFORMAT,
                 "axis 0 has no valid symbol");
    expect_error(mr_graph_input(g, "s", MR_V_I32, 1, (mr_dim[]){{1, MR_SYM_USER}}, &y), MR_EFORMAT,
                 "axis 0 has no valid symbol");
    expect_error(mr_graph_weight(g, "s", (mr_fmt){0}, 0, NULL, &y), MR_EFORMAT, "has rank 0");
    expect_error(mr_graph_output(g, 9, "o"), MR_EFORMAT, "output \"o\" is value 9 of 1");
    assert_int_equal(y, 77);
    assert_int_equal(mr_graph_nodes(g), 1); /* a refused node leaves nothing behind */
    assert_int_equal(mr_graph_values(g), 1);
    mr_graph_free(g);
}

static void names(void **state)
{
    (void)state;
    mr_graph *g;
    assert_int_equal(mr_graph_new(&g, "names"), MR_OK);
    for (int i = 0; i < 6; i++) {
        int x;
        char name[16];
        snprintf(name, sizeof name, "in%d", i);
        assert_int_equal(mr_graph_input(g, name, MR_V_I32, 1, &rows, &x), MR_OK);
    }
    mr_graph_name_value(g, 0, "q");
    mr_graph_name_value(g, 1, "q");
    mr_graph_name_value(g, 2, "q");
    mr_graph_name_value(g, 3, "q.2");
    mr_graph_name_value(g, 4, "12");
    mr_graph_name_value(g, 5, "a b/\xc3\xa9");
    static const char *const want[] = {"q", "q.2", "q.3", "q.2.2", "v12", "a_b___"};
    for (int i = 0; i < 6; i++)
        assert_string_equal(mr_graph_value(g, i)->name, want[i]);
    mr_graph_name_value(g, 0, "q"); /* its own name */
    assert_string_equal(mr_graph_value(g, 0)->name, "q");
    mr_graph_name_value(g, 0, "r");
    mr_graph_name_value(g, 4, "q"); /* free again */
    assert_string_equal(mr_graph_value(g, 4)->name, "q");
    mr_graph_name_value(g, 4, "");
    assert_string_equal(mr_graph_value(g, 4)->name, "v");
    char name[301] = "";
    memset(name, '7', 300);
    mr_graph_name_value(g, 4, name);
    assert_int_equal(strlen(mr_graph_value(g, 4)->name), 200);
    memset(name, 'n', 300);
    mr_graph_name_value(g, 4, name);
    mr_graph_name_value(g, 5, name);
    assert_true(strlen(mr_graph_value(g, 5)->name) <= 200);
    assert_int_equal(mr_graph_output(g, 0, "o"), MR_OK);
    assert_int_equal(mr_graph_verify(g), MR_OK);
    mr_graph_free(g);
}

static void symbols(void **state)
{
    (void)state;
    mr_graph *g;
    assert_int_equal(mr_graph_new(&g, "symbols"), MR_OK);
    assert_int_equal(mr_graph_symbol(g, "ROWS"), MR_SYM_ROWS);
    assert_int_equal(mr_graph_symbol(g, "PAST"), MR_SYM_PAST);
    assert_int_equal(mr_graph_symbol(g, ""), MR_SYM_NONE);
    assert_int_equal(mr_graph_symbol(g, "frames"), MR_SYM_USER);
    assert_int_equal(mr_graph_symbol(g, "patches"), MR_SYM_USER + 1);
    assert_int_equal(mr_graph_symbol(g, "frames"), MR_SYM_USER);
    assert_string_equal(mr_graph_symbol_name(g, MR_SYM_USER + 1), "patches");
    assert_string_equal(mr_graph_symbol_name(g, MR_SYM_OUT), "OUT");
    assert_int_equal(mr_graph_symbol(g, "a.b"), MR_NONE);
    assert_int_equal(mr_graph_symbol(g, "2a"), MR_NONE);
    assert_int_equal(mr_graph_symbol(g, "a b"), MR_NONE);
    mr_dim d = {.n = 4, .sym = MR_SYM_ROWS};
    assert_int_equal(mr_dim_bind(d, 3, 5), 12);
    d.sym = MR_SYM_OUT;
    assert_int_equal(mr_dim_bind(d, 3, 5), 20);
    d.sym = MR_SYM_NONE;
    assert_int_equal(mr_dim_bind(d, 3, 5), 4);
    d.sym = MR_SYM_SEQ;
    assert_int_equal(mr_dim_bind(d, 3, 5), -1);
    mr_graph_free(g);
}

static void formats(void **state)
{
    (void)state;
    static const char *const good[] = {"f32",
                                       "bf16",
                                       "q4_1",
                                       "q6_k",
                                       "affine4/64/bf16",
                                       "affine8/128/f32",
                                       "affine4/32/f16",
                                       "affine3/64/f16",
                                       "int4/32/bf16",
                                       "fp4/16/f8_e4m3",
                                       "fp8/128/f32",
                                       "iq4_xs",
                                       "q4_1/across",
                                       "affine4/128/bf16/across",
                                       "fp4/16/f8_e4m3/across"};
    char buf[32];
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        mr_fmt f, same;
        assert_true(mr_fmt_parse(good[i], &f));
        assert_string_equal(mr_fmt_name(f, buf), good[i]);
        assert_true(mr_fmt_parse(good[i], &same) && mr_fmt_equal(f, same));
    }
    static const char *const bad[] = {"",
                                      "f31",
                                      "affine",
                                      "affine4",
                                      "affine4/64",
                                      "affine7/64/f16",
                                      "fp4/32/f8_e4m3",
                                      "bf4/64/f16",
                                      "affine4/64/f64",
                                      "affine4/64/bf16 ",
                                      "affine04/64/bf16",
                                      "f32/across",
                                      "/across",
                                      "affine4/64/bf16/acros",
                                      "affine4/64/bf16/across/across",
                                      "affine4/64/bf16/across                "};
    mr_fmt f, h;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_false(mr_fmt_parse(bad[i], &f));
    assert_true(mr_fmt_parse("affine4/64/bf16", &f) && mr_fmt_parse("affine8/64/bf16", &h));
    assert_false(mr_fmt_equal(f, h));
    assert_true(mr_fmt_parse("q4_0", &h) && !mr_fmt_equal(f, h));
    assert_true(mr_fmt_parse("affine4/64/bf16/across", &h) && !mr_fmt_equal(f, h));
}

static void formats_transpose(void **state)
{
    (void)state;
    static const struct {
        const char *fmt, *turned;
        int64_t k;
    } cases[] = {{"f32", "f32", 5},
                 {"bf16", "bf16", 5},
                 {"q4_1", "q4_1/across", 64},
                 {"affine4/64/bf16", "affine4/64/bf16/across", 128},
                 {"fp8/128/f32", "fp8/128/f32/across", 256},
                 {"fp8/128/f32", "f32", 200}, /* a group is cut short */
                 {"q4_1/across", "f32", 64}};
    char buf[32];
    mr_fmt f;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_true(mr_fmt_parse(cases[i].fmt, &f));
        assert_string_equal(mr_fmt_name(mr_fmt_transposed(f, cases[i].k), buf), cases[i].turned);
    }
}

static void caches_are_found(void **state)
{
    (void)state;
    mr_graph *g = parse_ok(EVERY_OP);
    int seen = 0;
    for (int v = 0; v < mr_graph_values(g); v++) {
        const mr_node *c = mr_graph_cache(g, v);
        assert_int_equal(c != NULL, mr_graph_value(g, v)->type == MR_V_CACHE);
        if (c) {
            seen++;
            const char *name = mr_graph_value(g, v)->name;
            assert_int_equal(c->op, name[0] == 's' ? MR_OP_STATE : MR_OP_CACHE);
            if (c->op == MR_OP_STATE) /* s0: conv, s1: delta */
                assert_int_equal(mr_attr_s(c, "name")[0], name[1] == '0' ? 'c' : 'd');
            else
                assert_int_equal(mr_attr_s(c, "name")[0], name[1]);
        }
    }
    assert_int_equal(seen, 8);
    mr_graph_free(g);
}

static void copies_node_by_node(void **state)
{
    (void)state;
    mr_graph *g = parse_ok(EVERY_OP), *to;
    assert_int_equal(mr_graph_new(&to, mr_graph_name(g)), MR_OK);
    int map[128];
    assert_true(mr_graph_values(g) <= 128);
    for (int i = 0; i < mr_graph_nodes(g); i++) {
        int first;
        const mr_node *n = mr_graph_node(g, i);
        assert_int_equal(mr_graph_copy_node(to, g, i, map, &first), MR_OK);
        for (int r = 0; r < n->n_out; r++)
            map[n->out[r]] = first + r;
    }
    for (int i = 0; i < mr_graph_outputs(g); i++)
        assert_int_equal(
            mr_graph_output(to, map[mr_graph_output_value(g, i)], mr_graph_output_name(g, i)),
            MR_OK);
    mr_buf a = text_of(g), b = text_of(to);
    assert_string_equal(a.data, b.data);
    mr_buf_free(&a);
    mr_buf_free(&b);
    mr_graph_free(g);
    mr_graph_free(to);
}

static void symbols_are_copied_by_name(void **state)
{
    (void)state;
    mr_graph *g = parse_ok("graph \"g\" {%a: f32[p,2] = input name=\"a\"\n"
                           "%b: f32[q,2] = input name=\"b\" output %b as \"b\" }");
    mr_graph *to;
    int v;
    assert_int_equal(mr_graph_new(&to, "to"), MR_OK);
    assert_int_equal(mr_graph_symbol(to, "q"), MR_SYM_USER);
    assert_int_equal(mr_graph_copy_node(to, g, 1, NULL, &v), MR_OK);
    assert_int_equal(mr_graph_value(to, v)->dim[0].sym, MR_SYM_USER);
    assert_int_equal(mr_graph_copy_node(to, g, 0, NULL, &v), MR_OK);
    assert_int_equal(mr_graph_value(to, v)->dim[0].sym, MR_SYM_USER + 1);
    mr_graph_free(g);
    mr_graph_free(to);
}

/* Where no error can be returned, the graph remembers it. */
static void lost_names_are_reported(void **state)
{
    (void)state;
    mr_graph *g;
    mr_buf b = {0};
    bool failed = false;
    assert_int_equal(mr_graph_new(&g, "lost"), MR_OK);
    int x;
    assert_int_equal(mr_graph_input(g, "x", MR_V_I32, 1, &rows, &x), MR_OK);
    assert_int_equal(mr_graph_output(g, x, "x"), MR_OK);
    for (int i = 0; i < 4000 && !failed; i++) {
        char name[32];
        snprintf(name, sizeof name, "name%d", i);
        mr_mem_fail_after(1);
        mr_graph_name_value(g, x, name);
        mr_mem_fail_after(0);
        failed = mr_graph_verify(g) != MR_OK;
    }
    assert_true(failed);
    expect_error(mr_graph_verify(g), MR_ENOMEM, "graph \"lost\" is incomplete");
    expect_error(mr_graph_print(g, &b), MR_ENOMEM, "incomplete");
    expect_error(mr_graph_output(g, x, "y"), MR_ENOMEM, "incomplete");
    expect_error(mr_graph_input(g, "z", MR_V_I32, 1, &rows, &x), MR_ENOMEM, "incomplete");
    mr_graph_free(g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(op_table),
        cmocka_unit_test(by_hand),
        cmocka_unit_test(wrong_operands),
        cmocka_unit_test(names),
        cmocka_unit_test(symbols),
        cmocka_unit_test(formats),
        cmocka_unit_test(formats_transpose),
        cmocka_unit_test(caches_are_found),
        cmocka_unit_test(copies_node_by_node),
        cmocka_unit_test(symbols_are_copied_by_name),
        cmocka_unit_test(lost_names_are_reported),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
