/* The meaning of fused ops.  Each is a short program of primitive ops; whoever cannot run a fused
 * op runs this, and its kernels are tested against it. */
#include "ir/graph_internal.h"

#include <assert.h>
#include <string.h>

/* Adds the primitive nodes of n to g; `in` are its operands and `out` gets its results, as values
 * of g. */
typedef mr_err (*expand_fn)(mr_graph *g, const mr_node *n, const int *in, int *out);

#define PRIM(id, ...)
#define FUSED(id, ...)                                                                             \
    mr_err mr_expand_##id(mr_graph *g, const mr_node *n, const int *in, int *out);
#include "ir/ops.def"
#undef PRIM
#undef FUSED

static const expand_fn expansion[MR_OP_COUNT] = {
#define PRIM(id, ...) NULL,
#define FUSED(id, ...) mr_expand_##id,
#include "ir/ops.def"
#undef PRIM
#undef FUSED
};

static mr_err norm(mr_graph *g, const mr_node *n, int x, int w, int *y)
{
    mr_attr attr[] = {{.f = mr_attr_f(n, "eps")}, {.f = mr_attr_f(n, "offset")}};
    return mr_graph_add(g, MR_OP_RMSNORM, (int[]){x, w}, 2, attr, y);
}

static mr_err linear(mr_graph *g, const mr_node *n, int x, int w, int b, int *y)
{
    mr_attr act = {.s = mr_attr_s(n, "act")};
    return mr_graph_add(g, MR_OP_LINEAR, (int[]){x, w, b}, 3, &act, y);
}

static mr_err experts(mr_graph *g, const mr_node *n, int x, int w, int ids, int *y)
{
    mr_attr act = {.s = mr_attr_s(n, "act")};
    return mr_graph_add(g, MR_OP_EXPERT_LINEAR, (int[]){x, w, ids}, 3, &act, y);
}

/* y = fn(gate) * up */
static mr_err gate(mr_graph *g, const mr_node *n, int gate_in, int up, int *y)
{
    const char *fn = mr_attr_s(n, "fn");
    mr_op op = mr_op_find(fn, strlen(fn));
    assert(op != MR_OP_COUNT);
    int a;
    MR_TRY(mr_graph_add(g, op, &gate_in, 1, NULL, &a));
    return mr_graph_add(g, MR_OP_MUL, (int[]){a, up}, 2, NULL, y);
}

mr_err mr_expand_ADD_RMSNORM(mr_graph *g, const mr_node *n, const int *in, int *out)
{
    MR_TRY(mr_graph_add(g, MR_OP_ADD, in, 2, NULL, &out[0]));
    return norm(g, n, out[0], in[2], &out[1]);
}

mr_err mr_expand_GATED_LINEAR(mr_graph *g, const mr_node *n, const int *in, int *out)
{
    int a, b;
    MR_TRY(linear(g, n, in[0], in[1], in[3], &a));
    MR_TRY(linear(g, n, in[0], in[2], in[4], &b));
    return gate(g, n, a, b, out);
}

mr_err mr_expand_ROPE_APPEND(mr_graph *g, const mr_node *n, const int *in, int *out)
{
    int k;
    mr_attr attr[] = {{.i = mr_attr_i(n, "start")}, {.i = mr_attr_i(n, "interleaved")}};
    MR_TRY(mr_graph_add(g, MR_OP_ROPE, (int[]){in[1], in[3]}, 2, attr, &k));
    return mr_graph_add(g, MR_OP_APPEND, (int[]){in[0], k, in[2], in[4]}, 4, NULL, out);
}

mr_err mr_expand_MOE(mr_graph *g, const mr_node *n, const int *in, int *out)
{
    int a, b, y;
    MR_TRY(experts(g, n, in[0], in[3], in[1], &a));
    MR_TRY(experts(g, n, in[0], in[4], in[1], &b));
    MR_TRY(gate(g, n, a, b, &y));
    MR_TRY(experts(g, n, y, in[5], in[1], &y));
    return mr_graph_add(g, MR_OP_COMBINE, (int[]){y, in[2]}, 2, NULL, out);
}

static mr_err expand_node(mr_graph *to, const mr_graph *from, int i, int *map)
{
    const mr_node *n = mr_graph_node(from, i);
    int in[MR_MAX_IN], out[MR_MAX_OUT];
    if (!expansion[n->op]) {
        MR_TRY(mr_graph_copy_node(to, from, i, map, out));
        for (int r = 1; r < n->n_out; r++)
            out[r] = out[0] + r;
    } else {
        for (int k = 0; k < n->n_in; k++)
            in[k] = n->in[k] == MR_NONE ? MR_NONE : map[n->in[k]];
        MR_TRY(expansion[n->op](to, n, in, out));
    }
    for (int r = 0; r < n->n_out; r++) {
        const char *name = mr_graph_value(from, n->out[r])->name;
        if (name)
            mr_graph_name_value(to, out[r], name);
        map[n->out[r]] = out[r];
    }
    return mr_graph_sound(to);
}

static mr_err expand_all(mr_graph *to, const mr_graph *from, int *map)
{
    for (int i = 0; i < mr_graph_nodes(from); i++)
        MR_TRY(expand_node(to, from, i, map));
    for (int i = 0; i < mr_graph_outputs(from); i++)
        MR_TRY(mr_graph_output(to, map[mr_graph_output_value(from, i)],
                               mr_graph_output_name(from, i)));
    return MR_OK;
}

mr_err mr_graph_expand(const mr_graph *g, mr_graph **out)
{
    mr_graph *to;
    MR_TRY(mr_graph_sound(g));
    MR_TRY(mr_graph_new(&to, g->name));
    int *map = mr_alloc(MR_MEM_COMPILE, ((size_t)g->n_values + 1) * sizeof *map);
    mr_err e = map ? expand_all(to, g, map) : MR_ENOMEM;
    mr_free(map);
    if (e != MR_OK) {
        mr_graph_free(to);
        return mr_fail_in(e, "graph %.200s: expand", g->name);
    }
    *out = to;
    return MR_OK;
}
