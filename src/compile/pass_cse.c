/* cse: equal pure ops of equal operands are one.  A hash table over the new graph's nodes: operands
 * are compared after they have been merged themselves, so chains of equal ops collapse in one walk.
 */
#include "compile/rewrite.h"

#include <string.h>

static uint64_t mix(uint64_t h, const void *p, size_t n)
{
    const unsigned char *s = p;
    for (size_t i = 0; i < n; i++)
        h = (h ^ s[i]) * 0x100000001b3u;
    return h;
}

static uint64_t hash(mr_op op, const int *in, int n_in, const mr_attr *attr)
{
    const mr_op_info *o = mr_op_get(op);
    uint64_t h = mix(0xcbf29ce484222325u, &op, sizeof op);
    h = mix(h, in, (size_t)n_in * sizeof *in);
    for (int i = 0; i < o->n_attr; i++)
        h = o->attr[i].kind == 's' ? mix(h, attr[i].s, strlen(attr[i].s))
                                   : mix(h, &attr[i], sizeof attr[i].i);
    return h ^ h >> 29;
}

static bool same(const mr_node *a, mr_op op, const int *in, const mr_attr *attr)
{
    const mr_op_info *o = mr_op_get(op);
    if (a->op != op || memcmp(a->in, in, (size_t)a->n_in * sizeof *in))
        return false;
    for (int i = 0; i < o->n_attr; i++)
        if (o->attr[i].kind == 's' ? strcmp(a->attr[i].s, attr[i].s)
                                   : memcmp(&a->attr[i], &attr[i], sizeof attr[i].i))
            return false;
    return true;
}

typedef struct table {
    int *slot; /* new node + 1, 0 free */
    size_t mask;
} table;

/* Copies a node, or finds its equal. */
static mr_err one(mr_rewrite *rw, table *t, int node)
{
    const mr_node *n = mr_graph_node(rw->in, node);
    int in[MR_MAX_IN];
    char name[256];
    for (int i = 0; i < n->n_in; i++)
        MR_TRY(mr_rewrite_value(rw, n->in[i], &in[i]));
    size_t at = hash(n->op, in, n->n_in, n->attr) & t->mask;
    for (; t->slot[at]; at = (at + 1) & t->mask) {
        const mr_node *old = mr_graph_node(rw->out, t->slot[at] - 1);
        if (!same(old, n->op, in, n->attr))
            continue;
        for (int i = 0; i < n->n_out; i++)
            mr_rewrite_becomes(rw, n->out[i], old->out[i]);
        const char *known = mr_graph_value(rw->out, old->out[0])->name;
        mr_rewrite_say(rw, "%s (%s) is computed before%s%s", mr_rewrite_name(rw, n->out[0], name),
                       mr_op_get(n->op)->name, known ? " as %" : "", known ? known : "");
        rw->changes++;
        return MR_OK;
    }
    MR_TRY(mr_rewrite_copy(rw, node));
    t->slot[at] = mr_graph_value(rw->out, rw->map[n->out[0]])->node + 1;
    return MR_OK;
}

static mr_err walk(mr_rewrite *rw)
{
    table t = {.mask = 16};
    while (t.mask < 2 * (size_t)mr_graph_nodes(rw->in))
        t.mask *= 2;
    t.slot = mr_arena_alloc(rw->arena, t.mask-- * sizeof *t.slot);
    if (!t.slot)
        return MR_ENOMEM;
    for (int i = 0; i < mr_graph_nodes(rw->in); i++)
        MR_TRY(mr_op_is_pure(mr_graph_node(rw->in, i)->op) ? one(rw, &t, i)
                                                           : mr_rewrite_copy(rw, i));
    return MR_OK;
}

static mr_err run(const mr_graph *in, mr_backend *b, mr_buf *report, int *changes, mr_graph **out)
{
    mr_rewrite rw;
    MR_TRY(mr_rewrite_open(&rw, "cse", in, b, report));
    return mr_rewrite_close(&rw, walk(&rw), changes, out);
}

const mr_pass mr_pass_cse = {"cse", "equal ops of equal operands are computed once", run};
