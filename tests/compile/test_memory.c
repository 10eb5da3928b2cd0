/* Where results lie: no two that live at one time overlap, and reuse changes no number. */
#include "random_graph.h"

#include "compile/plan_internal.h"

static void check_placed(const mr_buffer *b, int n, int64_t total)
{
    int64_t sum = 0, top = 0;
    for (int i = 0; i < n; i++) {
        sum += b[i].bytes;
        assert_true(b[i].offset >= 0 && b[i].offset % MR_ARENA_ALIGN == 0);
        if (b[i].offset + b[i].bytes > top)
            top = b[i].offset + b[i].bytes;
        for (int k = 0; k < i; k++) {
            bool together = b[i].first <= b[k].last && b[k].first <= b[i].last;
            bool apart =
                b[i].offset + b[i].bytes <= b[k].offset || b[k].offset + b[k].bytes <= b[i].offset;
            assert_true(!together || apart);
        }
    }
    assert_int_equal(total, top);
    assert_true(total <= sum);
}

static void random_buffers_never_overlap(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 200; seed++) {
        dice d = {.seed = seed};
        mr_buffer b[64];
        int64_t total;
        int n = roll(&d, 65);
        for (int i = 0; i < n; i++) {
            int first = roll(&d, 40);
            b[i] = (mr_buffer){.bytes = MR_ARENA_ALIGN * (1 + roll(&d, 50)),
                               .first = first,
                               .last = first + roll(&d, 12)};
        }
        OK(mr_memory_place(b, n, &total));
        check_placed(b, n, total);
    }
}

/* A chain needs room for two results, however long it is. */
static void a_chain_needs_two(void **state)
{
    (void)state;
    mr_buffer b[50];
    int64_t total;
    for (int i = 0; i < 50; i++)
        b[i] = (mr_buffer){.bytes = 640, .first = i, .last = i + 1};
    OK(mr_memory_place(b, 50, &total));
    assert_int_equal(total, 2 * 640);
}

/* Where the largest first would leave a hole that nothing fills, another order does not. */
static void the_peak_is_reached(void **state)
{
    (void)state;
    static const struct {
        int n, peak, b[5][3]; /* units of MR_ARENA_ALIGN, first, last */
    } cases[] = {{4, 9, {{2, 5, 5}, {4, 2, 5}, {4, 1, 3}, {3, 4, 5}}},
                 {4, 7, {{3, 4, 5}, {2, 2, 4}, {4, 0, 2}, {2, 4, 5}}},
                 {4, 5, {{1, 2, 4}, {2, 0, 2}, {4, 3, 5}, {3, 0, 0}}},
                 {5, 9, {{2, 1, 3}, {3, 5, 5}, {3, 3, 5}, {3, 5, 5}, {4, 1, 4}}}};
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        mr_buffer b[5];
        int64_t total;
        for (int i = 0; i < cases[c].n; i++)
            b[i] = (mr_buffer){.bytes = (int64_t)MR_ARENA_ALIGN * cases[c].b[i][0],
                               .first = cases[c].b[i][1],
                               .last = cases[c].b[i][2]};
        OK(mr_memory_place(b, cases[c].n, &total));
        check_placed(b, cases[c].n, total);
        assert_int_equal(total, (int64_t)MR_ARENA_ALIGN * cases[c].peak);
    }
}

static void sums_that_overflow_are_refused(void **state)
{
    (void)state;
    mr_buffer b[2] = {{.bytes = INT64_MAX - 63, .first = 0, .last = 0},
                      {.bytes = 64, .first = 1, .last = 1}};
    int64_t total;
    assert_int_equal(mr_memory_place(b, 2, &total), MR_ELIMIT);
}

/* A plan's operands, step by step: nothing that is still to be read is written over.  Each arena
 * byte carries the number of the result that it belongs to; a reader must find the one that its
 * graph value says. */
typedef struct owner {
    int *of; /* per 4 bytes: step * MR_MAX_OUT + result + 1 */
    int64_t n;
} owner;

static void stamp(const mr_plan *p, owner *o, const mr_operand_ref *r, int id)
{
    int64_t n = mr_plan_elements(p, r);
    assert_true(r->offset % 4 == 0 && r->offset / 4 + n <= o->n);
    for (int64_t i = 0; i < n; i++)
        o->of[r->offset / 4 + i] = id;
}

static bool in_arena(const mr_plan *p, const mr_operand_ref *r)
{
    return r->where == MR_AT_ARENA && mr_plan_elements(p, r) > 0;
}

/* Whose bytes an operand reads, all of them at the caps; 0 if they are not one result's. */
static int whose(const mr_plan *p, const owner *o, const mr_operand_ref *r)
{
    int id = o->of[r->offset / 4];
    int64_t rows = mr_dim_bind(r->dim[0], p->row_cap, p->out_cap),
            heads = r->rank == 3 ? r->dim[1].n : 1;
    for (int64_t i = 0; i < rows; i++)
        for (int64_t h = 0; h < heads; h++)
            for (int64_t k = 0; k < r->dim[r->rank - 1].n && r->rank > 1; k++)
                if (o->of[r->offset / 4 + i * r->stride[0] + h * r->stride[1] * (r->rank == 3) +
                          k] != id)
                    return 0;
    return id;
}

static void check_plan(const mr_plan *p)
{
    owner o = {.n = p->arena_bytes / 4};
    int *made_by = calloc((size_t)mr_graph_values(p->graph) + 1, sizeof *made_by);
    o.of = calloc((size_t)o.n + 1, sizeof *o.of);
    for (int i = 0; i < p->n_steps; i++) {
        const mr_step *s = &p->steps[i];
        for (int k = 0; k < s->n_in; k++)
            if (in_arena(p, &s->in[k])) {
                int v = s->node->in[k], id = whose(p, &o, &s->in[k]);
                assert_true(id > 0);
                while (
                    mr_op_is_view(mr_graph_node(p->graph, mr_graph_value(p->graph, v)->node)->op) &&
                    !made_by[v])
                    v = mr_graph_node(p->graph, mr_graph_value(p->graph, v)->node)->in[0];
                assert_int_equal(id, made_by[v]);
            }
        if (s->scratch_bytes)
            for (int64_t b = 0; b < (s->scratch_bytes + 3) / 4; b++)
                o.of[s->scratch_offset / 4 + b] = -1;
        for (int k = 0; k < s->n_in;
             k++) /* results and scratch must have left the operands alone */
            if (in_arena(p, &s->in[k]))
                assert_true(whose(p, &o, &s->in[k]) > 0);
        for (int k = 0; k < s->n_out; k++)
            if (s->out[k].where == MR_AT_ARENA) {
                int id = i * MR_MAX_OUT + k + 1;
                stamp(p, &o, &s->out[k], id);
                made_by[s->node->out[k]] = id;
            }
        for (int k = 0; k < s->n_in; k++)
            if (in_arena(p, &s->in[k]))
                assert_true(whose(p, &o, &s->in[k]) > 0 &&
                            whose(p, &o, &s->in[k]) <= i * MR_MAX_OUT);
    }
    for (int i = 0; i < p->n_outputs; i++)
        assert_true(!in_arena(p, &p->outputs[i]) || whose(p, &o, &p->outputs[i]) > 0);
    free(o.of);
    free(made_by);
}

static mr_err (*real_step_plan)(const mr_backend *b, const mr_plan *p, mr_step *s);

/* Some scratch for every third op. */
static mr_err step_plan_with_scratch(const mr_backend *b, const mr_plan *p, mr_step *s)
{
    MR_TRY(real_step_plan(b, p, s));
    s->scratch_bytes = (int)s->op % 3 == 0 ? 100 * (int)s->op : 0;
    return MR_OK;
}

static void plans_never_write_over_what_is_needed(void **state)
{
    (void)state;
    mr_backend *ref = open_ref();
    mr_backend_vtable v = *ref->v;
    mr_backend wrapped = {.v = &v, .opts = ref->opts};
    real_step_plan = v.step_plan;
    v.step_plan = step_plan_with_scratch;
    static const int64_t caps[][2] = {{1, 1}, {1, 0}, {7, 2}, {64, 64}};
    for (uint64_t seed = 1; seed <= 40; seed++)
        for (int c = 0; c < 4; c++) {
            mr_plan *p;
            mr_graph *g = random_graph(seed);
            OK(mr_plan_compile(&p, g, &wrapped, "test", caps[c][0], caps[c][1]));
            assert_int_equal(p->arena_bytes % MR_ARENA_ALIGN, 0);
            check_plan(p);
            mr_plan_free(p);
            mr_graph_free(g);
        }
    ref->v->close(ref);
}

/* The same graph with every float value an output: then no byte is used twice. */
static mr_graph *without_reuse(const mr_graph *g)
{
    mr_graph *h;
    int *map = calloc((size_t)mr_graph_values(g), sizeof *map);
    OK(mr_graph_new(&h, "no reuse"));
    for (int i = 0; i < mr_graph_nodes(g); i++) {
        int first;
        OK(mr_graph_copy_node(h, g, i, map, &first));
        for (int k = 0; k < mr_graph_node(g, i)->n_out; k++)
            map[mr_graph_node(g, i)->out[k]] = first + k;
    }
    for (int i = 0; i < mr_graph_outputs(g); i++)
        OK(mr_graph_output(h, map[mr_graph_output_value(g, i)], mr_graph_output_name(g, i)));
    for (int v = 0; v < mr_graph_values(h); v++)
        if (mr_graph_value(h, v)->type == MR_V_F32) {
            char name[32];
            snprintf(name, sizeof name, "all%d", v);
            OK(mr_graph_output(h, v, name));
        }
    free(map);
    return h;
}

static void reuse_changes_no_bit(void **state)
{
    (void)state;
    mr_backend *ref = open_ref();
    for (uint64_t seed = 1; seed <= 40; seed++) {
        static const int32_t ids[6] = {3, 1, 4, 1, 5, 9}, pos[6] = {0, 1, 2, 3, 4, 5},
                             rows[2] = {5, 0};
        named in[] = {{"ids", ids}, {"pos", pos}, {"out_rows", rows}};
        mr_graph *g = random_graph(seed), *h = without_reuse(g);
        machine m, all;
        machine_open(&m, ref, g, 6, 2, NULL);
        machine_open(&all, ref, h, 6, 2, NULL);
        assert_true(m.plan->arena_bytes < all.plan->arena_bytes);
        OK(machine_try(&m, 6, 2, pos, NULL, in, 3));
        OK(machine_try(&all, 6, 2, pos, NULL, in, 3));
        for (int i = 0; i < m.plan->n_outputs; i++) {
            int64_t n, n2;
            const float *a = machine_output(&m, i, &n), *b = machine_output(&all, i, &n2);
            assert_int_equal(n, n2);
            assert_memory_equal(a, b, (size_t)n * sizeof *a);
        }
        machine_close(&m);
        machine_close(&all);
        mr_graph_free(g);
        mr_graph_free(h);
    }
    ref->v->close(ref);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_buffers_never_overlap),
        cmocka_unit_test(a_chain_needs_two),
        cmocka_unit_test(the_peak_is_reached),
        cmocka_unit_test(sums_that_overflow_are_refused),
        cmocka_unit_test(plans_never_write_over_what_is_needed),
        cmocka_unit_test(reuse_changes_no_bit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
