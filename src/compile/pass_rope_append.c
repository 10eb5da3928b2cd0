/* rope-append: a rope whose result only goes into the cache is done on the way there. */
#include "compile/rewrite.h"

static bool match(mr_rewrite *rw, int node, mr_match *m)
{
    const mr_node *append = mr_graph_node(rw->in, node);
    char name[256];
    if (append->op != MR_OP_APPEND)
        return false;
    int k = mr_operand(append, "k");
    const mr_node *rope = mr_rewrite_made_by(rw, k, MR_OP_ROPE);
    if (!rope)
        return false;
    if (!mr_rewrite_is_inner(rw, k)) {
        mr_rewrite_say(rw, "%s: not fused: the rotated keys are also used elsewhere",
                       mr_rewrite_name(rw, append->out[0], name));
        return false;
    }
    *m = (mr_match){.op = MR_OP_ROPE_APPEND,
                    .in = {mr_operand(append, "c"), mr_operand(rope, "x"), mr_operand(append, "v"),
                           mr_operand(rope, "table"), mr_operand(append, "pos")},
                    .becomes = {append->out[0]},
                    .cover = {mr_rewrite_node_of(rw, k), node},
                    .n_cover = 2,
                    .at = node};
    m->attr[mr_attr_index(m->op, "start")].i = mr_attr_i(rope, "start");
    m->attr[mr_attr_index(m->op, "interleaved")].i = mr_attr_i(rope, "interleaved");
    return true;
}

static mr_err run(const mr_graph *in, mr_backend *b, mr_buf *report, int *changes, mr_graph **out)
{
    return mr_rewrite_fuse(in, b, report, "rope-append", match, changes, out);
}

const mr_pass mr_pass_rope_append = {"rope-append", "rope that only append reads -> rope_append",
                                     run};
