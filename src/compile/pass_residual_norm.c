/* residual-norm: add and the rmsnorm of the sum are one pass over the row.  The sum stays a result,
 * so it may have other readers; the fused op stands where the add stood. */
#include "compile/rewrite.h"

static bool match(mr_rewrite *rw, int node, mr_match *m)
{
    const mr_node *norm = mr_graph_node(rw->in, node);
    char name[256];
    if (norm->op != MR_OP_RMSNORM)
        return false;
    int s = mr_operand(norm, "x"), w = mr_operand(norm, "w"), y = norm->out[0];
    const mr_node *add = mr_rewrite_made_by(rw, s, MR_OP_ADD);
    if (!add)
        return false;
    int at = mr_rewrite_node_of(rw, s);
    if (w == MR_NONE) {
        mr_rewrite_say(rw, "%s: not fused: the norm has no weight", mr_rewrite_name(rw, y, name));
        return false;
    }
    if (rw->skip[at]) {
        mr_rewrite_say(rw, "%s: not fused: the sum went with an earlier norm",
                       mr_rewrite_name(rw, y, name));
        return false;
    }
    *m = (mr_match){.op = MR_OP_ADD_RMSNORM,
                    .in = {mr_operand(add, "a"), mr_operand(add, "b"), w},
                    .becomes = {s, y},
                    .cover = {at, node},
                    .n_cover = 2,
                    .at = at};
    m->attr[mr_attr_index(m->op, "eps")].f = mr_attr_f(norm, "eps");
    m->attr[mr_attr_index(m->op, "offset")].f = mr_attr_f(norm, "offset");
    return true;
}

static mr_err run(const mr_graph *in, mr_backend *b, mr_buf *report, int *changes, mr_graph **out)
{
    return mr_rewrite_fuse(in, b, report, "residual-norm", match, changes, out);
}

const mr_pass mr_pass_residual_norm = {"residual-norm",
                                       "add and the rmsnorm of the sum -> add_rmsnorm", run};
