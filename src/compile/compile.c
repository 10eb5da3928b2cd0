/* The list of passes, and running them.  The cleaning passes come first, so that all others see
 * each value once and no dead one; then weight preparation, because it decides which ops exist;
 * fusion last, from the most local to the widest. */
#include "compile/rewrite.h"

#include <string.h>

const mr_pass *const mr_passes[] = {
    &mr_pass_cse,         &mr_pass_dce,           &mr_pass_norm_offset,
    &mr_pass_qkv,         &mr_pass_residual_norm, &mr_pass_gated_mlp,
    &mr_pass_rope_append, &mr_pass_moe,           NULL,
};

static bool is_off(const mr_pass_opts *o, const char *name)
{
    for (int i = 0; o && i < o->n_off; i++)
        if (!strcmp(o->off[i], name))
            return true;
    return false;
}

mr_err mr_passes_check(const mr_pass_opts *o)
{
    for (int i = 0; i < o->n_off; i++) {
        bool known = false;
        char list[256] = "";
        for (int k = 0; mr_passes[k]; k++) {
            known |= !strcmp(mr_passes[k]->name, o->off[i]);
            if (k)
                strcat(list, ", ");
            strcat(list, mr_passes[k]->name);
        }
        if (!known)
            return mr_fail(MR_EUSAGE, "no pass \"%.64s\"; the passes are %s", o->off[i], list);
    }
    return MR_OK;
}

static mr_err copy(const mr_graph *g, mr_backend *b, mr_graph **out)
{
    mr_rewrite rw;
    int changes;
    MR_TRY(mr_rewrite_open(&rw, "copy", g, b, NULL));
    return mr_rewrite_close(&rw, mr_rewrite_copy_all(&rw), &changes, out);
}

/* A graph given in fused form to a backend without that op is taken apart first: the expansion is
 * what the fused op means, and whatever the backend does have is fused again below. */
static mr_err start(const mr_graph *g, mr_backend *b, mr_graph **out, mr_buf *report)
{
    for (int i = 0; i < mr_graph_nodes(g); i++) {
        const mr_node *n = mr_graph_node(g, i);
        if (!mr_op_get(n->op)->fused)
            continue;
        mr_err err = b->v->supports(b, g, n);
        if (err == MR_OK)
            continue;
        if (err != MR_EUNSUPPORTED)
            return err;
        if (report)
            mr_buf_printf(report, "expand: all fused ops are taken apart: %s\n", mr_error());
        return mr_graph_expand(g, out);
    }
    return copy(g, b, out);
}

static mr_err run_all(mr_graph **g, mr_backend *b, const mr_pass_opts *o, mr_buf *report)
{
    for (int i = 0; mr_passes[i]; i++) {
        const mr_pass *p = mr_passes[i];
        if (is_off(o, p->name)) {
            if (report)
                mr_buf_printf(report, "%s: off\n", p->name);
            continue;
        }
        mr_graph *next;
        int changes;
        MR_TRY(p->run(*g, b, report, &changes, &next));
        mr_graph_free(*g);
        *g = next;
        if (report)
            mr_buf_printf(report, "%s: %d change%s\n", p->name, changes, changes == 1 ? "" : "s");
        if (o && o->verify) {
            mr_err err = mr_graph_verify(*g);
            if (err != MR_OK)
                return mr_fail_in(err, "after pass %s", p->name);
        }
    }
    return mr_graph_verify(*g);
}

mr_err mr_passes_run(const mr_graph *g, mr_backend *b, const mr_pass_opts *o, mr_graph **out,
                     mr_buf *report)
{
    mr_graph *now;
    if (o)
        MR_TRY(mr_passes_check(o));
    MR_TRY(start(g, b, &now, report));
    mr_err err = run_all(&now, b, o, report);
    if (err == MR_OK && report)
        err = mr_buf_check(report);
    if (err != MR_OK) {
        mr_graph_free(now);
        return err;
    }
    *out = now;
    return MR_OK;
}
