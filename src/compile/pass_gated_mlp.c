/* gated-mlp: fn(linear(x, wg)) * linear(x, wu) -> gated_linear, so that x is read and quantised
 * once and the two halves never go to memory. */
#include "compile/rewrite.h"

#include <string.h>

static bool is_fn(mr_op op)
{
    return op == MR_OP_SILU || op == MR_OP_GELU_TANH || op == MR_OP_GELU;
}

/* The activation that makes v, or NULL. */
static const mr_node *made_by_fn(const mr_rewrite *rw, int v)
{
    const mr_node *n = mr_graph_node(rw->in, mr_rewrite_node_of(rw, v));
    return is_fn(n->op) ? n : NULL;
}

/* Why the two linears under fn and mul are no gated_linear, or NULL. */
static const char *why_not(const mr_rewrite *rw, const mr_node *fn, const mr_node *gate,
                           const mr_node *up)
{
    if (!mr_rewrite_is_inner(rw, fn->out[0]) || !mr_rewrite_is_inner(rw, gate->out[0]) ||
        !mr_rewrite_is_inner(rw, up->out[0]))
        return "a result in between is also used elsewhere";
    if (mr_operand(gate, "x") != mr_operand(up, "x"))
        return "the two linears read different values";
    if (strcmp(mr_attr_s(gate, "act"), mr_attr_s(up, "act")))
        return "the two linears differ in act";
    return NULL;
}

bool mr_match_gated(mr_rewrite *rw, int node, mr_match *m, bool quiet)
{
    const mr_node *mul = mr_graph_node(rw->in, node);
    char name[256];
    if (mul->op != MR_OP_MUL)
        return false;
    const mr_node *fn = made_by_fn(rw, mul->in[0]);
    int other = fn ? mul->in[1] : mul->in[0];
    if (!fn)
        fn = made_by_fn(rw, mul->in[1]);
    if (!fn)
        return false;
    const mr_node *gate = mr_rewrite_made_by(rw, fn->in[0], MR_OP_LINEAR);
    const mr_node *up = mr_rewrite_made_by(rw, other, MR_OP_LINEAR);
    if (!gate || !up)
        return false;
    const char *why = why_not(rw, fn, gate, up);
    if (why) {
        if (!quiet)
            mr_rewrite_say(rw, "%s: not fused: %s", mr_rewrite_name(rw, mul->out[0], name), why);
        return false;
    }
    *m = (mr_match){.op = MR_OP_GATED_LINEAR,
                    .in = {mr_operand(gate, "x"), mr_operand(gate, "w"), mr_operand(up, "w"),
                           mr_operand(gate, "b"), mr_operand(up, "b")},
                    .becomes = {mul->out[0]},
                    .cover = {mr_rewrite_node_of(rw, gate->out[0]),
                              mr_rewrite_node_of(rw, up->out[0]),
                              mr_rewrite_node_of(rw, fn->out[0]), node},
                    .n_cover = 4,
                    .at = node};
    m->attr[mr_attr_index(m->op, "fn")].s = mr_op_get(fn->op)->name;
    m->attr[mr_attr_index(m->op, "act")].s = mr_attr_s(gate, "act");
    return true;
}

static bool match(mr_rewrite *rw, int node, mr_match *m)
{
    return mr_match_gated(rw, node, m, false);
}

static mr_err run(const mr_graph *in, mr_backend *b, mr_buf *report, int *changes, mr_graph **out)
{
    return mr_rewrite_fuse(in, b, report, "gated-mlp", match, changes, out);
}

const mr_pass mr_pass_gated_mlp = {"gated-mlp", "fn(linear) * linear of one x -> gated_linear",
                                   run};
