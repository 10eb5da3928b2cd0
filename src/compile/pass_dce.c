/* dce: what no output needs goes.  An append is needed whoever reads it: later runs find its rows
 * in the cache. */
#include "compile/rewrite.h"

static mr_err walk(mr_rewrite *rw)
{
    bool *live = mr_arena_alloc(rw->arena, (size_t)mr_graph_values(rw->in));
    char name[256];
    if (!live)
        return MR_ENOMEM;
    for (int i = 0; i < mr_graph_outputs(rw->in); i++)
        live[mr_graph_output_value(rw->in, i)] = true;
    for (int i = mr_graph_nodes(rw->in) - 1; i >= 0; i--) {
        const mr_node *n = mr_graph_node(rw->in, i);
        bool keep = mr_op_has_effect(n->op);
        for (int k = 0; k < n->n_out; k++)
            keep |= live[n->out[k]];
        for (int k = 0; keep && k < n->n_in; k++)
            if (n->in[k] != MR_NONE)
                live[n->in[k]] = true;
        if (keep)
            continue;
        rw->skip[i] = true;
        rw->changes++;
        mr_rewrite_say(rw, "%s (%s) is not used", mr_rewrite_name(rw, n->out[0], name),
                       mr_op_get(n->op)->name);
    }
    return mr_rewrite_copy_all(rw);
}

static mr_err run(const mr_graph *in, mr_backend *b, mr_buf *report, int *changes, mr_graph **out)
{
    mr_rewrite rw;
    MR_TRY(mr_rewrite_open(&rw, "dce", in, b, report));
    return mr_rewrite_close(&rw, walk(&rw), changes, out);
}

const mr_pass mr_pass_dce = {"dce", "removes what no output and no cache needs", run};
