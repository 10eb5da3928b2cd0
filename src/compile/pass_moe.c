/* moe: the six ops of a mixture of gated experts are one, which may group rows by expert and never
 * holds the [R,k,N] values in between. */
#include "compile/rewrite.h"

#include <string.h>

typedef struct parts {
    const mr_node *combine, *down, *mul, *fn, *gate, *up;
} parts;

static const mr_node *expert(const mr_rewrite *rw, int v)
{
    return mr_rewrite_made_by(rw, v, MR_OP_EXPERT_LINEAR);
}

/* fn(expert_linear), or NULL. */
static const mr_node *gate_fn(const mr_rewrite *rw, int v)
{
    static const mr_op fns[] = {MR_OP_SILU, MR_OP_GELU_TANH, MR_OP_GELU};
    for (int i = 0; i < 3; i++) {
        const mr_node *n = mr_rewrite_made_by(rw, v, fns[i]);
        if (n && expert(rw, n->in[0]))
            return n;
    }
    return NULL;
}

static bool find(const mr_rewrite *rw, int node, parts *p)
{
    p->combine = mr_graph_node(rw->in, node);
    if (p->combine->op != MR_OP_COMBINE || !(p->down = expert(rw, mr_operand(p->combine, "x"))))
        return false;
    p->mul = mr_rewrite_made_by(rw, mr_operand(p->down, "x"), MR_OP_MUL);
    if (!p->mul)
        return false;
    int side = gate_fn(rw, p->mul->in[0]) ? 0 : 1;
    p->fn = gate_fn(rw, p->mul->in[side]);
    p->up = expert(rw, p->mul->in[1 - side]);
    p->gate = p->fn ? expert(rw, p->fn->in[0]) : NULL;
    return p->gate && p->up;
}

static const char *why_not(const mr_rewrite *rw, const parts *p)
{
    const mr_node *inner[] = {p->down, p->mul, p->fn, p->gate, p->up};
    for (int i = 0; i < 5; i++)
        if (!mr_rewrite_is_inner(rw, inner[i]->out[0]))
            return "a result in between is also used elsewhere";
    if (mr_operand(p->gate, "x") != mr_operand(p->up, "x"))
        return "gate and up read different values";
    int ids = mr_operand(p->gate, "ids");
    if (ids != mr_operand(p->up, "ids") || ids != mr_operand(p->down, "ids"))
        return "the experts are not the same ids";
    const char *act = mr_attr_s(p->gate, "act");
    if (strcmp(act, mr_attr_s(p->up, "act")) || strcmp(act, mr_attr_s(p->down, "act")))
        return "the linears differ in act";
    return NULL;
}

static bool match(mr_rewrite *rw, int node, mr_match *m)
{
    parts p;
    char name[256];
    if (!find(rw, node, &p))
        return false;
    const char *why = why_not(rw, &p);
    if (why) {
        mr_rewrite_say(rw, "%s: not fused: %s", mr_rewrite_name(rw, p.combine->out[0], name), why);
        return false;
    }
    *m = (mr_match){.op = MR_OP_MOE,
                    .in = {mr_operand(p.gate, "x"), mr_operand(p.gate, "ids"),
                           mr_operand(p.combine, "weights"), mr_operand(p.gate, "w"),
                           mr_operand(p.up, "w"), mr_operand(p.down, "w")},
                    .becomes = {p.combine->out[0]},
                    .at = node};
    const mr_node *all[] = {p.gate, p.up, p.fn, p.mul, p.down, p.combine};
    for (int i = 0; i < 6; i++)
        m->cover[m->n_cover++] = mr_rewrite_node_of(rw, all[i]->out[0]);
    m->attr[mr_attr_index(m->op, "fn")].s = mr_op_get(p.fn->op)->name;
    m->attr[mr_attr_index(m->op, "act")].s = mr_attr_s(p.gate, "act");
    return true;
}

static mr_err run(const mr_graph *in, mr_backend *b, mr_buf *report, int *changes, mr_graph **out)
{
    return mr_rewrite_fuse(in, b, report, "moe", match, changes, out);
}

const mr_pass mr_pass_moe = {"moe", "expert linears, gate and combine -> moe", run};
