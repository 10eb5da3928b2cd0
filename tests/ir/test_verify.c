/* The verifier: each kind of damage that a wrong pass could do is found, by name. */
#include "ir_util.h"

#include "ir/graph_internal.h"

/* A node or value to damage. */
static mr_node *node_of(const mr_graph *g, const char *op)
{
    for (int i = 0; i < mr_graph_nodes(g); i++)
        if (!strcmp(mr_op_get(mr_graph_node(g, i)->op)->name, op))
            return (mr_node *)mr_graph_node(g, i);
    fail_msg("no %s", op);
    return NULL;
}

static int node_index(const mr_graph *g, const char *op)
{
    return mr_graph_value(g, node_of(g, op)->out[0])->node;
}

static mr_value *value_of(const mr_graph *g, const char *op)
{
    return (mr_value *)mr_graph_value(g, node_of(g, op)->out[0]);
}

typedef void (*damage)(const mr_graph *g);

static void bad_op(const mr_graph *g)
{
    node_of(g, "softcap")->op = MR_OP_COUNT;
}

static void few_operands(const mr_graph *g)
{
    node_of(g, "softcap")->n_in = 0;
}

static void many_results(const mr_graph *g)
{
    node_of(g, "softcap")->n_out = 2;
}

static void absent_operand(const mr_graph *g)
{
    node_of(g, "softcap")->in[0] = MR_NONE;
}

static void wild_operand(const mr_graph *g)
{
    node_of(g, "softcap")->in[0] = 1 << 30;
}

static void own_result(const mr_graph *g)
{
    node_of(g, "softcap")->in[0] = node_of(g, "softcap")->out[0];
}

static void bad_attribute(const mr_graph *g)
{
    node_of(g, "softcap")->attr[0].f = 0;
}

static void wild_result(const mr_graph *g)
{
    node_of(g, "softcap")->out[0] = -7;
}

static void wrong_definer(const mr_graph *g)
{
    value_of(g, "softcap")->node = 0;
}

static void wrong_dim(const mr_graph *g)
{
    value_of(g, "softcap")->dim[1].n = 63;
}

static void wrong_rank(const mr_graph *g)
{
    value_of(g, "softcap")->rank = 1;
}

static void wrong_type(const mr_graph *g)
{
    value_of(g, "softcap")->type = MR_V_I32;
}

static void bad_format(const mr_graph *g)
{
    value_of(g, "weight")->fmt.dtype = MR_I64;
}

static void other_cache(const mr_graph *g)
{
    mr_node *n = node_of(g, "append");
    n->in[0] = node_of(g, "rope_append")->out[0]; /* of other sizes */
}

static void cache_of_another(const mr_graph *g)
{
    ((graph_value *)value_of(g, "append"))->cache = node_index(g, "rope_append");
}

static void wild_output(const mr_graph *g)
{
    ((mr_graph *)g)->output[0].value = 1 << 30;
}

static void value_of_nobody(const mr_graph *g)
{
    ((mr_graph *)g)->n_nodes--;
    ((mr_graph *)g)->n_outputs = 0;
}

static void same_name(const mr_graph *g)
{
    value_of(g, "softcap")->name = "x";
}

static void unknown_name(const mr_graph *g)
{
    value_of(g, "softcap")->name = "nobody";
}

static void damage_is_found(void **state)
{
    (void)state;
    static const struct {
        damage f;
        const char *message;
    } cases[] = {
        {bad_op, "does not exist"},
        {few_operands, "softcap: 0 operands and 1 results, not 1 and 1"},
        {many_results, "softcap: 1 operands and 2 results"},
        {absent_operand, "softcap: operand x is absent"},
        {wild_operand, "softcap: operand x is value 1073741824, only"},
        {own_result, "softcap: operand x is value"},
        {bad_attribute, "softcap: cap 0 is not above 0"},
        {wild_result, "result 0 is value -7"},
        {wrong_definer, "says that node 0 defines it"},
        {wrong_dim, "is not what its op gives"},
        {wrong_rank, "is not what its op gives"},
        {wrong_type, "is not what its op gives"},
        {bad_format, "weight: format i64 is not one of weights"},
        {other_cache, "append: k is not [R,2,16]"},
        {cache_of_another, "belongs to another cache"},
        {wild_output, "output \"logits\" is not a value of numbers"},
        {value_of_nobody, "values, the nodes define"},
        {same_name, "the name x is not value"},
        {unknown_name, "the name nobody is not value"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        mr_graph *g = parse_ok(EVERY_OP);
        cases[i].f(g);
        expect_error(mr_graph_verify(g), MR_EFORMAT, cases[i].message);
        if (!strstr(mr_error(), "graph every \"op\""))
            fail_msg("no graph name: %s", mr_error());
        mr_graph_free(g);
    }
}

#define C                                                                                          \
    "graph \"g\" {\n%p: i32[ROWS] = input name=\"pos\"\n%x: f32[ROWS,1,4] = input name=\"x\"\n"    \
    "%t: f32[ROWS,4] = input name=\"t\"\n"                                                         \
    "%c = cache name=\"0\" heads=1 dk=4 dv=0\n"

static void caches_are_linear(void **state)
{
    (void)state;
    parse_bad(C "%a = append(%c, %x, _, %p)\n%b = append(%c, %x, _, %p)\n}",
              "t: graph g: node 5: append: cache value 3 is gone, node 4 has appended to it");
    parse_bad(C "%a = append(%c, %x, _, %p)\n%b = rope_append(%c, %x, _, %t, %p)\n}",
              "node 5: rope_append: cache value 3 is gone");
    parse_bad(C "%a = append(%c, %x, _, %p)\n"
                "%b = attention(%x, %c, %p) mask=\"full\" scale=1 dv=4\n}",
              "node 5: attention: cache value 3 is gone");
    mr_graph_free(parse_ok(C "%b = attention(%x, %c, %p) mask=\"full\" scale=1 dv=4\n"
                             "%a = append(%c, %x, _, %p)\n%d = append(%a, %x, _, %p)\n}"));
}

static void names_of_the_outside_are_unique(void **state)
{
    (void)state;
    parse_bad(C "%y: i32[ROWS] = input name=\"x\"\noutput %y as \"y\"\n}",
              "node 4: two inputs are named \"x\"");
    parse_bad(C "%y = cache name=\"0\" heads=1 dk=1 dv=1\noutput %p as \"y\"\n}",
              "node 4: two caches are named \"0\"");
    parse_bad(C "output %p as \"y\"\noutput %x as \"y\"\n}",
              "graph g: two outputs are named \"y\"");
}

static void something_must_come_out(void **state)
{
    (void)state;
    parse_bad(C "%a = silu(%x)\n}", "graph g: no output and no append: it does nothing");
    mr_graph_free(parse_ok(C "%a = rope_append(%c, %x, _, %t, %p)\n}"));
    mr_graph *g = parse_ok(C "output %x as \"x\"\n}");
    ((mr_value *)mr_graph_value(g, 1))->type = MR_V_WEIGHT;
    assert_int_equal(mr_graph_verify(g), MR_EFORMAT);
    mr_graph_free(g);
}

static void every_allocation_may_fail(void **state)
{
    (void)state;
    mr_graph *g = parse_ok(EVERY_OP);
    uint64_t n = 1;
    for (;; n++) {
        mr_mem_fail_after(n);
        mr_err e = mr_graph_verify(g);
        mr_mem_fail_after(0);
        if (e == MR_OK)
            break;
        assert_int_equal(e, MR_ENOMEM);
    }
    assert_true(n > 1);
    mr_graph_free(g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(damage_is_found),
        cmocka_unit_test(caches_are_linear),
        cmocka_unit_test(names_of_the_outside_are_unique),
        cmocka_unit_test(something_must_come_out),
        cmocka_unit_test(every_allocation_may_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
