/* Construction and access.  Nodes and values are allocated one by one in the arena and found
 * through growing tables of pointers, so a pointer to one stays valid while the graph grows. */
#include "ir/graph_internal.h"
#include "ir/shape.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

static const char *const built_in[MR_SYM_USER] = {"", "ROWS", "OUT", "BATCH", "SEQ", "PAST"};

mr_err mr_graph_new(mr_graph **out, const char *name)
{
    mr_arena *arena;
    MR_TRY(mr_arena_new(&arena, MR_MEM_COMPILE));
    mr_graph *g = mr_arena_alloc(arena, sizeof *g);
    if (g) {
        g->arena = arena;
        g->name = mr_arena_strdup(arena, name);
        mr_names_init(&g->names, arena);
    }
    if (!g || !g->name) {
        mr_arena_free(arena);
        return MR_ENOMEM;
    }
    *out = g;
    return MR_OK;
}

void mr_graph_free(mr_graph *g)
{
    if (g)
        mr_arena_free(g->arena);
}

const char *mr_graph_name(const mr_graph *g)
{
    return g->name;
}

int mr_graph_nodes(const mr_graph *g)
{
    return g->n_nodes;
}

const mr_node *mr_graph_node(const mr_graph *g, int i)
{
    assert(i >= 0 && i < g->n_nodes);
    return g->node[i];
}

int mr_graph_values(const mr_graph *g)
{
    return g->n_values;
}

const mr_value *mr_graph_value(const mr_graph *g, int v)
{
    assert(v >= 0 && v < g->n_values);
    return &g->value[v]->v;
}

const mr_node *mr_graph_cache(const mr_graph *g, int value)
{
    assert(value >= 0 && value < g->n_values);
    int node = g->value[value]->cache;
    return node == MR_NONE ? NULL : g->node[node];
}

mr_err mr_graph_sound(const mr_graph *g)
{
    return g->failed ? mr_fail(MR_ENOMEM, "out of memory: graph \"%s\" is incomplete", g->name)
                     : MR_OK;
}

/* Room for one more element; tables double, the old ones stay in the arena. */
static mr_err make_room(mr_graph *g, void *table, int used, int *cap, size_t size)
{
    if (used < *cap)
        return MR_OK;
    if (used >= MR_MAX_NODES)
        return mr_fail(MR_ELIMIT, "graph \"%s\": more than %d nodes, values or outputs", g->name,
                       MR_MAX_NODES);
    int bigger = *cap ? 2 * *cap : 64;
    void *p = mr_arena_alloc(g->arena, (size_t)bigger * size);
    if (!p)
        return MR_ENOMEM;
    void *old;
    memcpy(&old, table, sizeof old);
    if (used)
        memcpy(p, old, (size_t)used * size);
    memcpy(table, &p, sizeof p);
    *cap = bigger;
    return MR_OK;
}

static mr_err take_operands(mr_shape *s, const int *in, int n_in, int limit)
{
    const mr_op_info *o = s->info;
    if (n_in < o->n_required || n_in > o->n_in)
        return mr_fail(MR_EFORMAT, "%s: %d operands given, it takes %d to %d", o->name, n_in,
                       o->n_required, o->n_in);
    for (int i = 0; i < o->n_in; i++) {
        int v = i < n_in ? in[i] : MR_NONE;
        s->in[i] = v;
        if (v == MR_NONE && !o->in_optional[i])
            return mr_fail(MR_EFORMAT, "%s: operand %s is absent", o->name, o->in_name[i]);
        if (v != MR_NONE && (v < 0 || v >= limit))
            return mr_fail(MR_EFORMAT, "%s: operand %s is value %d, only %d are defined here",
                           o->name, o->in_name[i], v, limit);
        s->x[i] = v == MR_NONE ? NULL : &s->g->value[v]->v;
    }
    return MR_OK;
}

static mr_err check_attrs(const mr_op_info *o, const mr_attr *attr)
{
    assert(o->n_attr == 0 || attr);
    for (int i = 0; i < o->n_attr; i++) {
        assert(o->attr[i].kind != 's' || attr[i].s);
        if (o->attr[i].kind == 'f' && !isfinite(attr[i].f))
            return mr_fail(MR_EFORMAT, "%s: attribute %s is not a finite number", o->name,
                           o->attr[i].name);
    }
    return MR_OK;
}

mr_err mr_graph_derive(const mr_graph *g, int node, int limit, mr_op op, const int *in, int n_in,
                       const mr_attr *attr, const mr_value *declared, mr_shape *s)
{
    *s = (mr_shape){.g = g, .op = op, .info = mr_op_get(op), .attr = attr};
    s->cache = op == MR_OP_CACHE || op == MR_OP_STATE ? node : MR_NONE;
    if (declared)
        s->y[0] = *declared;
    MR_TRY(take_operands(s, in, n_in, limit));
    MR_TRY(check_attrs(s->info, attr));
    return mr_shape_rule(op)(s);
}

static mr_err make_node(mr_graph *g, const mr_shape *s, mr_node **out)
{
    mr_node *n = mr_arena_alloc(g->arena, sizeof *n);
    if (!n)
        return MR_ENOMEM;
    n->op = s->op;
    n->n_in = s->info->n_in;
    n->n_out = s->info->n_out;
    memcpy(n->in, s->in, sizeof n->in);
    for (int i = 0; i < s->info->n_attr; i++) {
        n->attr[i] = s->attr[i];
        if (s->info->attr[i].kind == 's' &&
            !(n->attr[i].s = mr_arena_strdup(g->arena, s->attr[i].s)))
            return MR_ENOMEM;
    }
    *out = n;
    return MR_OK;
}

mr_err mr_graph_add_any(mr_graph *g, mr_op op, const int *in, int n_in, const mr_attr *attr,
                        const mr_value *declared, int *first)
{
    mr_shape s;
    MR_TRY(mr_graph_sound(g));
    MR_TRY(mr_graph_derive(g, g->n_nodes, g->n_values, op, in, n_in, attr, declared, &s));

    mr_node *n;
    MR_TRY(make_room(g, &g->node, g->n_nodes, &g->cap_nodes, sizeof *g->node));
    MR_TRY(make_node(g, &s, &n));
    graph_value *v[MR_MAX_OUT];
    for (int i = 0; i < n->n_out; i++) {
        MR_TRY(make_room(g, &g->value, g->n_values + i, &g->cap_values, sizeof *g->value));
        v[i] = mr_arena_alloc(g->arena, sizeof *v[i]);
        if (!v[i])
            return MR_ENOMEM;
    }
    for (int i = 0; i < n->n_out; i++) {
        v[i]->v = s.y[i];
        v[i]->v.node = g->n_nodes;
        v[i]->v.result = i;
        v[i]->v.name = NULL;
        v[i]->cache = s.y[i].type == MR_V_CACHE ? s.cache : MR_NONE;
        v[i]->gaps = i == 0 && s.gaps;
        n->out[i] = g->n_values;
        g->value[g->n_values++] = v[i];
    }
    g->node[g->n_nodes++] = n;
    *first = n->out[0];
    return MR_OK;
}

mr_err mr_graph_add(mr_graph *g, mr_op op, const int *in, int n_in, const mr_attr *attr, int *first)
{
    assert(op != MR_OP_INPUT && op != MR_OP_WEIGHT);
    return mr_graph_add_any(g, op, in, n_in, attr, NULL, first);
}

static mr_err add_leaf(mr_graph *g, mr_op op, const char *text, mr_value declared, int rank,
                       const mr_dim *dim, int *out)
{
    mr_attr attr = {.s = text};
    assert(rank >= 0 && rank <= MR_MAX_RANK);
    declared.rank = rank;
    for (int i = 0; i < rank; i++)
        declared.dim[i] = dim[i];
    return mr_graph_add_any(g, op, NULL, 0, &attr, &declared, out);
}

mr_err mr_graph_input(mr_graph *g, const char *name, mr_vtype type, int rank, const mr_dim *dim,
                      int *out)
{
    MR_TRY(add_leaf(g, MR_OP_INPUT, name, (mr_value){.type = type}, rank, dim, out));
    mr_graph_name_value(g, *out, name);
    return mr_graph_sound(g);
}

mr_err mr_graph_weight(mr_graph *g, const char *recipe, mr_fmt fmt, int rank, const mr_dim *dim,
                       int *out)
{
    return add_leaf(g, MR_OP_WEIGHT, recipe, (mr_value){.type = MR_V_WEIGHT, .fmt = fmt}, rank, dim,
                    out);
}

mr_err mr_graph_copy_node(mr_graph *to, const mr_graph *from, int node, const int *map, int *first)
{
    const mr_node *n = mr_graph_node(from, node);
    int in[MR_MAX_IN];
    for (int i = 0; i < n->n_in; i++)
        in[i] = n->in[i] == MR_NONE ? MR_NONE : map[n->in[i]];
    mr_value declared = *mr_graph_value(from, n->out[0]);
    for (int i = 0; i < declared.rank; i++) {
        declared.dim[i].sym = mr_graph_symbol(to, mr_graph_symbol_name(from, declared.dim[i].sym));
        MR_TRY(mr_graph_sound(to));
    }
    MR_TRY(mr_graph_add_any(to, n->op, in, n->n_in, n->attr, &declared, first));
    for (int i = 0; i < n->n_out; i++)
        if (mr_graph_value(from, n->out[i])->name)
            mr_graph_name_value(to, *first + i, mr_graph_value(from, n->out[i])->name);
    return mr_graph_sound(to);
}

/* ---- names ---- */

bool mr_name_char(char c)
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' ||
           c == '.';
}

/* A name as the text form can hold it: not only digits, which would be a number. */
static char *clean_name(mr_graph *g, const char *name)
{
    size_t len = strnlen(name, MR_MAX_NAME);
    bool digits = strspn(name, "0123456789") >= len;
    len -= digits && len == MR_MAX_NAME;
    char *s = mr_arena_alloc(g->arena, len + 2);
    if (!s)
        return NULL;
    char *p = s;
    if (digits)
        *p++ = 'v';
    for (size_t i = 0; i < len; i++)
        *p++ = mr_name_char(name[i]) ? name[i] : '_';
    return s;
}

/* The name itself, or the first of name.2, name.3, ... that is free. */
static const char *free_name(mr_graph *g, const char *name)
{
    mr_name_slot *s = mr_names_find(&g->names, name, strlen(name));
    if (!s || s->value == MR_NONE)
        return name;
    for (;;) {
        char try[MR_MAX_NAME + 1];
        snprintf(try, sizeof try, "%.*s.%d", MR_MAX_NAME - 12, name, s->next++);
        const mr_name_slot *t = mr_names_find(&g->names, try, strlen(try));
        if (!t || t->value == MR_NONE)
            return mr_arena_strdup(g->arena, try);
    }
}

void mr_graph_name_value(mr_graph *g, int v, const char *name)
{
    assert(v >= 0 && v < g->n_values);
    mr_value *x = &g->value[v]->v;
    const char *s = clean_name(g, name);
    if (s && x->name) {
        if (!strcmp(s, x->name))
            return;
        mr_names_find(&g->names, x->name, strlen(x->name))->value = MR_NONE;
        x->name = NULL;
    }
    if (s)
        s = free_name(g, s);
    if (!s || mr_names_put(&g->names, s, v) != MR_OK)
        g->failed = true;
    else
        x->name = s;
}

mr_err mr_graph_output(mr_graph *g, int v, const char *name)
{
    MR_TRY(mr_graph_sound(g));
    if (v < 0 || v >= g->n_values)
        return mr_fail(MR_EFORMAT, "graph \"%s\": output \"%s\" is value %d of %d", g->name, name,
                       v, g->n_values);
    if (g->value[v]->v.type != MR_V_F32 && g->value[v]->v.type != MR_V_I32) {
        char type[MR_TYPE_TEXT];
        return mr_fail(MR_EFORMAT, "graph \"%s\": output \"%s\" is of type %s", g->name, name,
                       mr_type_text(g, &g->value[v]->v, type));
    }
    MR_TRY(make_room(g, &g->output, g->n_outputs, &g->cap_outputs, sizeof *g->output));
    graph_output o = {v, mr_arena_strdup(g->arena, name)};
    if (!o.name)
        return MR_ENOMEM;
    g->output[g->n_outputs++] = o;
    return MR_OK;
}

int mr_graph_outputs(const mr_graph *g)
{
    return g->n_outputs;
}

int mr_graph_output_value(const mr_graph *g, int i)
{
    assert(i >= 0 && i < g->n_outputs);
    return g->output[i].value;
}

const char *mr_graph_output_name(const mr_graph *g, int i)
{
    assert(i >= 0 && i < g->n_outputs);
    return g->output[i].name;
}

/* ---- symbols ---- */

int mr_graph_symbol(mr_graph *g, const char *name)
{
    for (int i = 0; i < MR_SYM_USER; i++)
        if (!strcmp(name, built_in[i]))
            return i;
    for (int i = 0; i < g->n_symbols; i++)
        if (!strcmp(name, g->symbol[i]))
            return MR_SYM_USER + i;
    size_t len = 0;
    while (mr_name_char(name[len]) && name[len] != '.')
        len++;
    if (name[len] || len > MR_MAX_SYMBOL_NAME || (name[0] >= '0' && name[0] <= '9') ||
        g->n_symbols == MR_MAX_SYMBOLS)
        return MR_NONE;
    const char *s = mr_arena_strdup(g->arena, name);
    if (!s) {
        g->failed = true;
        return MR_NONE;
    }
    g->symbol[g->n_symbols] = s;
    return MR_SYM_USER + g->n_symbols++;
}

const char *mr_graph_symbol_name(const mr_graph *g, int sym)
{
    assert(sym >= 0 && sym < MR_SYM_USER + g->n_symbols);
    return sym < MR_SYM_USER ? built_in[sym] : g->symbol[sym - MR_SYM_USER];
}
