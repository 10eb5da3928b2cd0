/* Whole-graph checks.  A pass that went wrong is found here and not as wrong numbers, so nothing is
 * taken on trust: indices are checked before they are followed, every shape is derived again. */
#include "ir/graph_internal.h"

#include <string.h>

typedef struct check {
    const mr_graph *g;
    int *taken; /* per value: 1 + the node that appended to this cache, 0 if none */
    mr_names inputs, caches, outputs;
    int values; /* values defined so far */
    bool effect;
} check;

static mr_err same_type(const mr_graph *g, int v, const mr_value *derived)
{
    const mr_value *x = &g->value[v]->v;
    bool same = x->type == derived->type && x->rank == derived->rank;
    for (int i = 0; same && i < x->rank; i++)
        same = mr_dim_equal(x->dim[i], derived->dim[i]);
    if (same && x->type == MR_V_WEIGHT)
        same = mr_fmt_equal(x->fmt, derived->fmt);
    return same ? MR_OK : mr_fail(MR_EFORMAT, "the type of value %d is not what its op gives", v);
}

static mr_err check_results(check *c, int i, const mr_shape *s)
{
    const mr_node *n = c->g->node[i];
    for (int r = 0; r < n->n_out; r++) {
        int v = n->out[r];
        if (v != c->values + r || v >= c->g->n_values)
            return mr_fail(MR_EFORMAT, "result %d is value %d, not %d", r, v, c->values + r);
        const graph_value *x = c->g->value[v];
        if (x->v.node != i || x->v.result != r)
            return mr_fail(MR_EFORMAT, "value %d says that node %d defines it", v, x->v.node);
        MR_TRY(same_type(c->g, v, &s->y[r]));
        if (x->cache != (x->v.type == MR_V_CACHE ? s->cache : MR_NONE))
            return mr_fail(MR_EFORMAT, "value %d belongs to another cache", v);
        if (x->v.name) {
            const mr_name_slot *slot = mr_names_find(&c->g->names, x->v.name, strlen(x->v.name));
            if (!slot || slot->value != v)
                return mr_fail(MR_EFORMAT, "the name %s is not value %d's alone", x->v.name, v);
        }
    }
    c->values += n->n_out;
    return MR_OK;
}

static mr_err once(mr_names *m, const char *name, const char *what)
{
    if (mr_names_find(m, name, strlen(name)))
        return mr_fail(MR_EFORMAT, "two %s are named \"%.200s\"", what, name);
    return mr_names_put(m, name, 0);
}

/* A cache is written in place: whoever reads a state must come before the append that ends it. */
static mr_err check_cache_use(check *c, int i)
{
    const mr_node *n = c->g->node[i];
    for (int k = 0; k < n->n_in; k++) {
        int v = n->in[k];
        if (v == MR_NONE || c->g->value[v]->v.type != MR_V_CACHE)
            continue;
        if (c->taken[v])
            return mr_fail(MR_EFORMAT, "%s: cache value %d is gone, node %d has appended to it",
                           mr_op_get(n->op)->name, v, c->taken[v] - 1);
        if (mr_op_has_effect(n->op)) {
            c->taken[v] = i + 1;
            c->effect = true;
        }
    }
    return MR_OK;
}

static mr_err check_node(check *c, int i)
{
    const mr_node *n = c->g->node[i];
    if ((unsigned)n->op >= MR_OP_COUNT)
        return mr_fail(MR_EFORMAT, "op %d does not exist", (int)n->op);
    const mr_op_info *o = mr_op_get(n->op);
    if (n->n_in != o->n_in || n->n_out != o->n_out)
        return mr_fail(MR_EFORMAT, "%s: %d operands and %d results, not %d and %d", o->name,
                       n->n_in, n->n_out, o->n_in, o->n_out);
    bool leaf = n->op == MR_OP_INPUT || n->op == MR_OP_WEIGHT;
    const mr_value *declared = NULL;
    if (leaf && c->values < c->g->n_values)
        declared = &c->g->value[c->values]->v;
    mr_shape s;
    MR_TRY(mr_graph_derive(c->g, i, c->values, n->op, n->in, n->n_in, n->attr, declared, &s));
    MR_TRY(check_results(c, i, &s));
    if (n->op == MR_OP_INPUT)
        MR_TRY(once(&c->inputs, mr_attr_s(n, "name"), "inputs"));
    if (n->op == MR_OP_CACHE || n->op == MR_OP_STATE)
        MR_TRY(once(&c->caches, mr_attr_s(n, "name"), "caches"));
    return check_cache_use(c, i);
}

static mr_err check_outputs(check *c)
{
    const mr_graph *g = c->g;
    for (int i = 0; i < g->n_outputs; i++) {
        int v = g->output[i].value;
        if (v < 0 || v >= g->n_values ||
            (g->value[v]->v.type != MR_V_F32 && g->value[v]->v.type != MR_V_I32))
            return mr_fail(MR_EFORMAT, "output \"%.200s\" is not a value of numbers",
                           g->output[i].name);
        MR_TRY(once(&c->outputs, g->output[i].name, "outputs"));
    }
    if (!g->n_outputs && !c->effect)
        return mr_fail(MR_EFORMAT, "no output and no append: it does nothing");
    return MR_OK;
}

static mr_err check_all(check *c)
{
    for (int i = 0; i < c->g->n_nodes; i++) {
        mr_err e = check_node(c, i);
        if (e != MR_OK)
            return mr_fail_in(e, "node %d", i);
    }
    if (c->values != c->g->n_values)
        return mr_fail(MR_EFORMAT, "%d values, the nodes define %d", c->g->n_values, c->values);
    return check_outputs(c);
}

mr_err mr_graph_verify(const mr_graph *g)
{
    MR_TRY(mr_graph_sound(g));
    mr_arena *arena;
    MR_TRY(mr_arena_new(&arena, MR_MEM_COMPILE));
    check c = {.g = g};
    mr_names_init(&c.inputs, arena);
    mr_names_init(&c.caches, arena);
    mr_names_init(&c.outputs, arena);
    c.taken = mr_arena_alloc(arena, ((size_t)g->n_values + 1) * sizeof *c.taken);
    mr_err e = c.taken ? check_all(&c) : MR_ENOMEM;
    mr_arena_free(arena);
    return e == MR_OK ? MR_OK : mr_fail_in(e, "graph %.200s", g->name);
}
