/* A pass in two walks: the first only reads and decides, the second builds the new graph in the old
 * order.  Deciding first means that no op has to be taken back out of a graph, which has no such
 * operation. */
#include "compile/rewrite.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static void count_uses(mr_rewrite *rw)
{
    for (int i = 0; i < mr_graph_nodes(rw->in); i++) {
        const mr_node *n = mr_graph_node(rw->in, i);
        for (int k = 0; k < n->n_in; k++)
            if (n->in[k] != MR_NONE) {
                rw->uses[n->in[k]]++;
                rw->user[n->in[k]] = i;
            }
    }
    for (int i = 0; i < mr_graph_outputs(rw->in); i++) {
        int v = mr_graph_output_value(rw->in, i);
        rw->uses[v]++;
        rw->is_output[v] = true;
    }
}

mr_err mr_rewrite_open(mr_rewrite *rw, const char *pass, const mr_graph *in, mr_backend *b,
                       mr_buf *report)
{
    *rw = (mr_rewrite){.pass = pass, .in = in, .backend = b, .report = report};
    size_t values = (size_t)mr_graph_values(in), nodes = (size_t)mr_graph_nodes(in);
    MR_TRY(mr_arena_new(&rw->arena, MR_MEM_COMPILE));
    rw->map = mr_arena_alloc(rw->arena, values * sizeof *rw->map);
    rw->uses = mr_arena_alloc(rw->arena, values * sizeof *rw->uses);
    rw->user = mr_arena_alloc(rw->arena, values * sizeof *rw->user);
    rw->is_output = mr_arena_alloc(rw->arena, values * sizeof *rw->is_output);
    rw->skip = mr_arena_alloc(rw->arena, nodes * sizeof *rw->skip);
    if (!rw->map || !rw->uses || !rw->user || !rw->is_output || !rw->skip ||
        mr_graph_new(&rw->out, mr_graph_name(in)) != MR_OK) {
        mr_arena_free(rw->arena);
        return MR_ENOMEM;
    }
    for (size_t v = 0; v < values; v++)
        rw->map[v] = rw->user[v] = MR_NONE;
    count_uses(rw);
    return MR_OK;
}

static mr_err carry_outputs(mr_rewrite *rw)
{
    for (int i = 0; i < mr_graph_outputs(rw->in); i++) {
        int now;
        MR_TRY(mr_rewrite_value(rw, mr_graph_output_value(rw->in, i), &now));
        MR_TRY(mr_graph_output(rw->out, now, mr_graph_output_name(rw->in, i)));
    }
    return MR_OK;
}

mr_err mr_rewrite_close(mr_rewrite *rw, mr_err err, int *changes, mr_graph **out)
{
    if (err == MR_OK)
        err = carry_outputs(rw);
    mr_arena_free(rw->arena);
    if (err != MR_OK) {
        mr_graph_free(rw->out);
        return err;
    }
    *changes = rw->changes;
    *out = rw->out;
    return MR_OK;
}

mr_err mr_rewrite_copy(mr_rewrite *rw, int node)
{
    const mr_node *n = mr_graph_node(rw->in, node);
    int first;
    if (rw->skip[node] || rw->map[n->out[0]] != MR_NONE)
        return MR_OK;
    for (int i = 0; i < n->n_in; i++) {
        int unused;
        MR_TRY(mr_rewrite_value(rw, n->in[i], &unused));
    }
    MR_TRY(mr_graph_copy_node(rw->out, rw->in, node, rw->map, &first));
    for (int i = 0; i < n->n_out; i++)
        rw->map[n->out[i]] = first + i;
    return MR_OK;
}

mr_err mr_rewrite_copy_all(mr_rewrite *rw)
{
    for (int i = 0; i < mr_graph_nodes(rw->in); i++)
        MR_TRY(mr_rewrite_copy(rw, i));
    return MR_OK;
}

mr_err mr_rewrite_value(mr_rewrite *rw, int v, int *now)
{
    *now = MR_NONE;
    if (v == MR_NONE)
        return MR_OK;
    int node = mr_rewrite_node_of(rw, v);
    if (rw->map[v] == MR_NONE && mr_op_is_leaf(mr_graph_node(rw->in, node)->op))
        MR_TRY(mr_rewrite_copy(rw, node));
    assert(rw->map[v] != MR_NONE && "rule 3");
    *now = rw->map[v];
    return MR_OK;
}

void mr_rewrite_becomes(mr_rewrite *rw, int v, int now)
{
    const char *name = mr_graph_value(rw->in, v)->name;
    rw->map[v] = now;
    if (name && !mr_graph_value(rw->out, now)->name)
        mr_graph_name_value(rw->out, now, name);
}

int mr_rewrite_node_of(const mr_rewrite *rw, int v)
{
    return mr_graph_value(rw->in, v)->node;
}

const mr_node *mr_rewrite_made_by(const mr_rewrite *rw, int v, mr_op op)
{
    if (v == MR_NONE)
        return NULL;
    const mr_node *n = mr_graph_node(rw->in, mr_rewrite_node_of(rw, v));
    return n->op == op ? n : NULL;
}

bool mr_rewrite_is_inner(const mr_rewrite *rw, int v)
{
    return rw->uses[v] == 1 && !rw->is_output[v];
}

/* ---- report ---- */

void mr_rewrite_say(mr_rewrite *rw, const char *fmt, ...)
{
    if (!rw->report)
        return;
    char line[MR_ERR_MAX + 512];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    mr_buf_printf(rw->report, "%s: %s\n", rw->pass, line);
}

const char *mr_rewrite_name(const mr_rewrite *rw, int v, char buf[256])
{
    const char *name = mr_graph_value(rw->in, v)->name;
    if (name)
        snprintf(buf, 256, "%%%s", name);
    else
        snprintf(buf, 256, "%%%d", v);
    return buf;
}

/* ---- asking the backend ---- */

mr_err mr_probe_new(mr_graph **out)
{
    return mr_graph_new(out, "probe");
}

mr_err mr_probe_operand(const mr_rewrite *rw, mr_graph *probe, int v, int *out)
{
    const mr_value *x = mr_graph_value(rw->in, v);
    const mr_node *n = mr_graph_node(rw->in, x->node);
    if (x->type == MR_V_CACHE)
        n = mr_graph_cache(rw->in, v);
    if (mr_op_is_leaf(n->op) && n->op != MR_OP_INPUT)
        return mr_graph_copy_node(probe, rw->in, mr_rewrite_node_of(rw, n->out[0]), NULL, out);
    mr_dim dim[MR_MAX_RANK];
    for (int i = 0; i < x->rank; i++) {
        dim[i] = x->dim[i];
        dim[i].sym = mr_graph_symbol(probe, mr_graph_symbol_name(rw->in, x->dim[i].sym));
    }
    return mr_graph_input(probe, "operand", x->type, x->rank, dim, out);
}

mr_err mr_probe_ask(mr_rewrite *rw, mr_graph *probe, mr_op op, const int *in, const mr_attr *attr,
                    bool *yes)
{
    int first;
    mr_err err = mr_graph_add(probe, op, in, mr_op_get(op)->n_in, attr, &first);
    if (err == MR_OK) {
        const mr_node *n = mr_graph_node(probe, mr_graph_value(probe, first)->node);
        err = rw->backend->v->supports(rw->backend, probe, n);
    }
    mr_graph_free(probe);
    *yes = err == MR_OK;
    return err == MR_EUNSUPPORTED || err == MR_EFORMAT ? MR_OK : err;
}

mr_err mr_match_supported(mr_rewrite *rw, const mr_match *m, bool *yes)
{
    mr_graph *probe;
    int in[MR_MAX_IN];
    MR_TRY(mr_probe_new(&probe));
    for (int i = 0; i < mr_op_get(m->op)->n_in; i++) {
        in[i] = MR_NONE;
        mr_err err = m->in[i] == MR_NONE ? MR_OK : mr_probe_operand(rw, probe, m->in[i], &in[i]);
        if (err != MR_OK) {
            mr_graph_free(probe);
            return err;
        }
    }
    return mr_probe_ask(rw, probe, m->op, in, m->attr, yes);
}

/* ---- fusing ---- */

static mr_err decide(mr_rewrite *rw, mr_match_fn match, mr_match **at)
{
    char name[256];
    for (int i = 0; i < mr_graph_nodes(rw->in); i++) {
        mr_match m = {0};
        if (rw->skip[i] || !match(rw, i, &m))
            continue;
        bool yes, taken = false;
        for (int k = 0; k < m.n_cover; k++)
            taken |= rw->skip[m.cover[k]];
        if (taken)
            continue;
        const char *what = mr_rewrite_name(rw, m.becomes[0], name);
        MR_TRY(mr_match_supported(rw, &m, &yes));
        if (!yes) {
            mr_rewrite_say(rw, "%s: not fused: %s", what, mr_error());
            continue;
        }
        at[m.at] = mr_arena_alloc(rw->arena, sizeof m);
        if (!at[m.at])
            return MR_ENOMEM;
        *at[m.at] = m;
        for (int k = 0; k < m.n_cover; k++)
            rw->skip[m.cover[k]] = true;
        rw->changes++;
        mr_rewrite_say(rw, "%s: %d ops are one %s", what, m.n_cover, mr_op_get(m.op)->name);
    }
    return MR_OK;
}

static mr_err emit(mr_rewrite *rw, const mr_match *m)
{
    const mr_op_info *o = mr_op_get(m->op);
    int in[MR_MAX_IN], first;
    for (int i = 0; i < o->n_in; i++)
        MR_TRY(mr_rewrite_value(rw, m->in[i], &in[i]));
    MR_TRY(mr_graph_add(rw->out, m->op, in, o->n_in, m->attr, &first));
    for (int i = 0; i < o->n_out; i++)
        mr_rewrite_becomes(rw, m->becomes[i], first + i);
    return MR_OK;
}

static mr_err fuse(mr_rewrite *rw, mr_match_fn match)
{
    size_t nodes = (size_t)mr_graph_nodes(rw->in);
    mr_match **at = mr_arena_alloc(rw->arena, nodes * sizeof *at);
    if (!at)
        return MR_ENOMEM;
    MR_TRY(decide(rw, match, at));
    for (size_t i = 0; i < nodes; i++)
        MR_TRY(at[i] ? emit(rw, at[i]) : mr_rewrite_copy(rw, (int)i));
    return MR_OK;
}

mr_err mr_rewrite_fuse(const mr_graph *in, mr_backend *b, mr_buf *report, const char *pass,
                       mr_match_fn match, int *changes, mr_graph **out)
{
    mr_rewrite rw;
    MR_TRY(mr_rewrite_open(&rw, pass, in, b, report));
    return mr_rewrite_close(&rw, fuse(&rw, match), changes, out);
}
