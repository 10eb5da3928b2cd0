/* norm-offset: Gemma stores w and means 1 + w.  The sum is made once, when the weight is prepared,
 * instead of in every norm; it is one f32 addition, rounded once, in both places, so the bits are
 * the same. */
#include "compile/rewrite.h"

#include <string.h>

/* Every piece of a recipe with :plus1; NULL: out of memory, or *twice because a piece has it
 * already. */
static const char *plus_one(mr_arena *arena, const char *recipe, bool *twice)
{
    static const char joint[] = " + ", plus[] = " :plus1";
    size_t len = strlen(recipe), pieces = 1;
    *twice = strstr(recipe, ":plus1") != NULL;
    if (*twice)
        return NULL;
    for (const char *p = recipe; (p = strstr(p, joint)); p += sizeof joint - 1)
        pieces++;
    char *all = mr_arena_alloc(arena, len + pieces * (sizeof plus - 1) + 1), *to = all;
    for (const char *p = recipe; all && p;) {
        const char *end = strstr(p, joint);
        size_t n = end ? (size_t)(end - p) : strlen(p);
        memcpy(to, p, n);
        memcpy(to + n, plus, sizeof plus);
        to += n + sizeof plus - 1;
        if (end) {
            memcpy(to, joint, sizeof joint);
            to += sizeof joint - 1;
        }
        p = end ? end + sizeof joint - 1 : NULL;
    }
    return all;
}

typedef struct walk_state {
    mr_rewrite *rw;
    const char **recipe; /* per old weight value: its new recipe */
    int *fresh;          /* per old weight value: the new value once made, or MR_NONE */
    bool *convert;       /* per old node */
} walk_state;

static bool is_norm(mr_op op)
{
    return op == MR_OP_RMSNORM || op == MR_OP_ADD_RMSNORM;
}

static mr_err prepared_weight(const mr_rewrite *rw, mr_graph *g, int w, const char *recipe,
                              int *out)
{
    return mr_graph_weight(g, recipe, (mr_fmt){.dtype = MR_F32}, 1, mr_graph_value(rw->in, w)->dim,
                           out);
}

static void without_offset(const mr_node *n, mr_attr *attr)
{
    memcpy(attr, n->attr, sizeof n->attr);
    attr[mr_attr_index(n->op, "offset")].f = 0;
}

static mr_err ask(mr_rewrite *rw, const mr_node *n, int w, const char *recipe, bool *yes)
{
    mr_graph *probe;
    mr_attr attr[MR_MAX_ATTR];
    int in[MR_MAX_IN];
    MR_TRY(mr_probe_new(&probe));
    for (int i = 0; i < n->n_in; i++) {
        mr_err err = n->in[i] == w ? prepared_weight(rw, probe, w, recipe, &in[i])
                                   : mr_probe_operand(rw, probe, n->in[i], &in[i]);
        if (err != MR_OK) {
            mr_graph_free(probe);
            return err;
        }
    }
    without_offset(n, attr);
    return mr_probe_ask(rw, probe, n->op, in, attr, yes);
}

static mr_err decide(walk_state *s, int node)
{
    mr_rewrite *rw = s->rw;
    const mr_node *n = mr_graph_node(rw->in, node);
    char name[256];
    if (!is_norm(n->op) || mr_attr_f(n, "offset") == 0)
        return MR_OK;
    int w = mr_operand(n, "w");
    const char *what = mr_rewrite_name(rw, n->out[n->n_out - 1], name);
    if (mr_attr_f(n, "offset") != 1) {
        mr_rewrite_say(rw, "%s: left as it is: offset %g is not 1", what, mr_attr_f(n, "offset"));
        return MR_OK;
    }
    bool yes, twice;
    const mr_node *leaf = mr_rewrite_made_by(rw, w, MR_OP_WEIGHT);
    const char *recipe = plus_one(rw->arena, mr_attr_s(leaf, "recipe"), &twice);
    if (twice) {
        mr_rewrite_say(rw, "%s: left as it is: its weight has plus1 already", what);
        return MR_OK;
    }
    if (!recipe)
        return MR_ENOMEM;
    MR_TRY(ask(rw, n, w, recipe, &yes));
    if (!yes) {
        mr_rewrite_say(rw, "%s: left as it is: %s", what, mr_error());
        return MR_OK;
    }
    s->recipe[w] = recipe;
    s->convert[node] = true;
    rw->changes++;
    mr_rewrite_say(rw, "%s: 1 + w is made at load", what);
    if (--rw->uses[w] == 0)
        rw->skip[mr_rewrite_node_of(rw, w)] = true;
    return MR_OK;
}

static mr_err emit(walk_state *s, const mr_node *n)
{
    mr_rewrite *rw = s->rw;
    mr_attr attr[MR_MAX_ATTR];
    int in[MR_MAX_IN], first, w = mr_operand(n, "w");
    if (s->fresh[w] == MR_NONE) {
        MR_TRY(prepared_weight(rw, rw->out, w, s->recipe[w], &s->fresh[w]));
        if (rw->skip[mr_rewrite_node_of(rw, w)])
            mr_rewrite_becomes(rw, w, s->fresh[w]);
    }
    for (int i = 0; i < n->n_in; i++)
        if (n->in[i] == w)
            in[i] = s->fresh[w];
        else
            MR_TRY(mr_rewrite_value(rw, n->in[i], &in[i]));
    without_offset(n, attr);
    MR_TRY(mr_graph_add(rw->out, n->op, in, n->n_in, attr, &first));
    for (int i = 0; i < n->n_out; i++)
        mr_rewrite_becomes(rw, n->out[i], first + i);
    return MR_OK;
}

static mr_err walk(mr_rewrite *rw)
{
    size_t values = (size_t)mr_graph_values(rw->in), nodes = (size_t)mr_graph_nodes(rw->in);
    walk_state s = {.rw = rw,
                    .recipe = mr_arena_alloc(rw->arena, values * sizeof *s.recipe),
                    .fresh = mr_arena_alloc(rw->arena, values * sizeof *s.fresh),
                    .convert = mr_arena_alloc(rw->arena, nodes * sizeof *s.convert)};
    if (!s.recipe || !s.fresh || !s.convert)
        return MR_ENOMEM;
    for (size_t v = 0; v < values; v++)
        s.fresh[v] = MR_NONE;
    for (size_t i = 0; i < nodes; i++)
        MR_TRY(decide(&s, (int)i));
    for (size_t i = 0; i < nodes; i++)
        MR_TRY(s.convert[i] ? emit(&s, mr_graph_node(rw->in, (int)i))
                            : mr_rewrite_copy(rw, (int)i));
    return MR_OK;
}

static mr_err run(const mr_graph *in, mr_backend *b, mr_buf *report, int *changes, mr_graph **out)
{
    mr_rewrite rw;
    MR_TRY(mr_rewrite_open(&rw, "norm-offset", in, b, report));
    return mr_rewrite_close(&rw, walk(&rw), changes, out);
}

const mr_pass mr_pass_norm_offset = {"norm-offset",
                                     "rmsnorm's 1 + w is made when the weight is prepared", run};
