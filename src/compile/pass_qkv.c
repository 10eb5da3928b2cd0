/* qkv: linears of one x become one linear over the rows of all their weights, and views of its
 * result.  x is then read and quantised once, and one long matrix keeps the threads evenly busy. An
 * output row's bits do not depend on which rows stand beside it, so nothing changes but speed. */
#include "compile/rewrite.h"

#include <stdio.h>
#include <string.h>

/* Nothing real has more; the joined recipe is written anew for each member. */
enum { MAX_MEMBERS = 16 };

typedef struct group {
    int first;         /* node where the merged linear will stand; its first member */
    int n;             /* members */
    int64_t rows;      /* of all members together */
    const char *w, *b; /* joined recipes; b NULL: no bias */
    int merged;        /* the new linear's value */
} group;

typedef struct walk_state {
    mr_rewrite *rw;
    bool *gated;    /* per node: a linear that gated_linear will take */
    int *next;      /* per node: the next linear of the same x */
    int *group_of;  /* per node, or MR_NONE */
    int64_t *start; /* per node: its first row in the merged linear */
    group *groups;
    int n_groups;
} walk_state;

/* Linears whose weights could be part of a longer one: nobody else reads weight or bias, the result
 * is no output, and there are rows to join (a recipe joins tensors of one row end to end). */
static bool can_join(const walk_state *s, int node)
{
    const mr_rewrite *rw = s->rw;
    const mr_node *n = mr_graph_node(rw->in, node);
    int w = mr_operand(n, "w"), b = mr_operand(n, "b");
    return !s->gated[node] && !rw->is_output[n->out[0]] && rw->uses[w] == 1 &&
           (b == MR_NONE || rw->uses[b] == 1) && mr_graph_value(rw->in, w)->dim[0].n > 1;
}

/* Why two linears of one x cannot be one, or NULL. */
static const char *why_not(const mr_rewrite *rw, const mr_node *p, const mr_node *q, char buf[160])
{
    mr_fmt fp = mr_graph_value(rw->in, mr_operand(p, "w"))->fmt,
           fq = mr_graph_value(rw->in, mr_operand(q, "w"))->fmt;
    char np[32], nq[32];
    if (!mr_fmt_equal(fp, fq)) {
        snprintf(buf, 160, "formats differ (%s, %s)", mr_fmt_name(fp, np), mr_fmt_name(fq, nq));
        return buf;
    }
    if (strcmp(mr_attr_s(p, "act"), mr_attr_s(q, "act")))
        return "they differ in act";
    int bp = mr_operand(p, "b"), bq = mr_operand(q, "b");
    if ((bp == MR_NONE) != (bq == MR_NONE))
        return "only one has a bias";
    if (bp != MR_NONE &&
        !mr_fmt_equal(mr_graph_value(rw->in, bp)->fmt, mr_graph_value(rw->in, bq)->fmt))
        return "formats of the biases differ";
    return NULL;
}

static mr_err join(mr_rewrite *rw, const char **all, int value)
{
    const mr_node *leaf = mr_rewrite_made_by(rw, value, MR_OP_WEIGHT);
    *all = mr_arena_printf(rw->arena, "%s%s%s", *all ? *all : "", *all ? " + " : "",
                           mr_attr_s(leaf, "recipe"));
    return *all ? MR_OK : MR_ENOMEM;
}

/* Everyone on the list from `node` on who can go with it. */
static mr_err gather(walk_state *s, int node)
{
    mr_rewrite *rw = s->rw;
    const mr_node *p = mr_graph_node(rw->in, node);
    group *g = &s->groups[s->n_groups];
    *g = (group){.first = node, .merged = MR_NONE};
    char a[256], b[256], buf[160];
    for (int i = node; i != MR_NONE && g->n < MAX_MEMBERS; i = s->next[i]) {
        const mr_node *q = mr_graph_node(rw->in, i);
        if (s->group_of[i] != MR_NONE || !can_join(s, i))
            continue;
        const char *why = why_not(rw, p, q, buf);
        if (why) {
            mr_rewrite_say(rw, "%s and %s: not merged: %s", mr_rewrite_name(rw, p->out[0], a),
                           mr_rewrite_name(rw, q->out[0], b), why);
            continue;
        }
        s->group_of[i] = s->n_groups;
        s->start[i] = g->rows;
        g->rows += mr_graph_value(rw->in, mr_operand(q, "w"))->dim[0].n;
        g->n++;
        MR_TRY(join(rw, &g->w, mr_operand(q, "w")));
        if (mr_operand(q, "b") != MR_NONE)
            MR_TRY(join(rw, &g->b, mr_operand(q, "b")));
    }
    return MR_OK;
}

/* The merged weight and bias in graph g. */
static mr_err add_weights(const mr_rewrite *rw, mr_graph *g, const group *m, int *w, int *b)
{
    const mr_node *n = mr_graph_node(rw->in, m->first);
    const mr_value *old = mr_graph_value(rw->in, mr_operand(n, "w"));
    mr_dim dim[2] = {{.n = m->rows}, old->dim[1]};
    MR_TRY(mr_graph_weight(g, m->w, old->fmt, 2, dim, w));
    *b = MR_NONE;
    if (m->b)
        MR_TRY(
            mr_graph_weight(g, m->b, mr_graph_value(rw->in, mr_operand(n, "b"))->fmt, 1, dim, b));
    return MR_OK;
}

static mr_err ask(mr_rewrite *rw, const group *m, bool *yes)
{
    const mr_node *n = mr_graph_node(rw->in, m->first);
    mr_graph *probe;
    int in[3];
    MR_TRY(mr_probe_new(&probe));
    mr_err err = mr_probe_operand(rw, probe, mr_operand(n, "x"), &in[0]);
    if (err == MR_OK)
        err = add_weights(rw, probe, m, &in[1], &in[2]);
    if (err == MR_OK)
        return mr_probe_ask(rw, probe, MR_OP_LINEAR, in, n->attr, yes);
    mr_graph_free(probe);
    return err;
}

static void disband(walk_state *s, int node)
{
    for (int i = node; i != MR_NONE; i = s->next[i])
        if (s->group_of[i] == s->n_groups)
            s->group_of[i] = MR_NONE;
}

static mr_err decide(walk_state *s, int node)
{
    mr_rewrite *rw = s->rw;
    const group *g = &s->groups[s->n_groups];
    char name[256];
    bool yes;
    if (s->group_of[node] != MR_NONE || s->next[node] == MR_NONE || !can_join(s, node))
        return MR_OK;
    MR_TRY(gather(s, node));
    if (g->n < 2) {
        disband(s, node);
        return MR_OK;
    }
    MR_TRY(ask(rw, g, &yes));
    const char *what = mr_rewrite_name(rw, mr_graph_node(rw->in, node)->out[0], name);
    if (!yes) {
        mr_rewrite_say(rw, "%s: not merged: %s", what, mr_error());
        disband(s, node);
        return MR_OK;
    }
    for (int i = node; i != MR_NONE; i = s->next[i])
        if (s->group_of[i] == s->n_groups) {
            const mr_node *n = mr_graph_node(rw->in, i);
            rw->skip[mr_rewrite_node_of(rw, mr_operand(n, "w"))] = true;
            if (mr_operand(n, "b") != MR_NONE)
                rw->skip[mr_rewrite_node_of(rw, mr_operand(n, "b"))] = true;
        }
    mr_rewrite_say(rw, "%s: %d linears of one x are one of %lld rows", what, g->n,
                   (long long)g->rows);
    rw->changes++;
    s->n_groups++;
    return MR_OK;
}

static mr_err emit(walk_state *s, int node)
{
    mr_rewrite *rw = s->rw;
    const mr_node *n = mr_graph_node(rw->in, node);
    group *g = &s->groups[s->group_of[node]];
    int in[3], y;
    if (g->merged == MR_NONE) {
        MR_TRY(mr_rewrite_value(rw, mr_operand(n, "x"), &in[0]));
        MR_TRY(add_weights(rw, rw->out, g, &in[1], &in[2]));
        MR_TRY(mr_graph_add(rw->out, MR_OP_LINEAR, in, 3, n->attr, &g->merged));
    }
    mr_attr view[2] = {{.i = s->start[node]}, {.i = mr_graph_value(rw->in, n->out[0])->dim[1].n}};
    MR_TRY(mr_graph_add(rw->out, MR_OP_SLICE, &g->merged, 1, view, &y));
    mr_rewrite_becomes(rw, n->out[0], y);
    return MR_OK;
}

/* Chains the linears of each x in order, and marks those that gated_linear will take. */
static mr_err survey(walk_state *s)
{
    mr_rewrite *rw = s->rw;
    int *last = mr_arena_alloc(rw->arena, (size_t)mr_graph_values(rw->in) * sizeof *last);
    if (!last)
        return MR_ENOMEM;
    for (int v = 0; v < mr_graph_values(rw->in); v++)
        last[v] = MR_NONE;
    for (int i = 0; i < mr_graph_nodes(rw->in); i++) {
        const mr_node *n = mr_graph_node(rw->in, i);
        mr_match m;
        bool yes = false;
        s->next[i] = s->group_of[i] = MR_NONE;
        if (n->op == MR_OP_LINEAR) {
            int x = mr_operand(n, "x");
            if (last[x] != MR_NONE)
                s->next[last[x]] = i;
            last[x] = i;
        }
        if (mr_match_gated(rw, i, &m, true))
            MR_TRY(mr_match_supported(rw, &m, &yes));
        for (int k = 0; yes && k < m.n_cover; k++)
            s->gated[m.cover[k]] = true;
    }
    return MR_OK;
}

static mr_err walk(mr_rewrite *rw)
{
    size_t nodes = (size_t)mr_graph_nodes(rw->in);
    walk_state s = {.rw = rw,
                    .gated = mr_arena_alloc(rw->arena, nodes * sizeof *s.gated),
                    .next = mr_arena_alloc(rw->arena, nodes * sizeof *s.next),
                    .group_of = mr_arena_alloc(rw->arena, nodes * sizeof *s.group_of),
                    .start = mr_arena_alloc(rw->arena, nodes * sizeof *s.start),
                    .groups = mr_arena_alloc(rw->arena, nodes * sizeof *s.groups)};
    if (!s.gated || !s.next || !s.group_of || !s.start || !s.groups)
        return MR_ENOMEM;
    MR_TRY(survey(&s));
    for (size_t i = 0; i < nodes; i++)
        if (mr_graph_node(rw->in, (int)i)->op == MR_OP_LINEAR)
            MR_TRY(decide(&s, (int)i));
    for (size_t i = 0; i < nodes; i++)
        MR_TRY(s.group_of[i] != MR_NONE ? emit(&s, (int)i) : mr_rewrite_copy(rw, (int)i));
    return MR_OK;
}

static mr_err run(const mr_graph *in, mr_backend *b, mr_buf *report, int *changes, mr_graph **out)
{
    mr_rewrite rw;
    MR_TRY(mr_rewrite_open(&rw, "qkv", in, b, report));
    return mr_rewrite_close(&rw, walk(&rw), changes, out);
}

const mr_pass mr_pass_qkv = {"qkv", "linears of one x -> one linear and views of its result", run};
