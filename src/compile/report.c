/* What a plan will do, in numbers: which kernel runs how often, and how many weight bytes a row
 * reads. */
#include "compile/plan_internal.h"

#include <string.h>

static bool same_kind(const mr_step *a, const mr_step *b)
{
    return a->op == b->op && !strcmp(a->kernel ? a->kernel : "", b->kernel ? b->kernel : "");
}

mr_err mr_plan_report(const mr_plan *p, mr_buf *out)
{
    enum { MAX_KINDS = 512 }; /* ops times formats stays far below */
    int first[MAX_KINDS], count[MAX_KINDS], n = 0;
    for (int i = 0; i < p->n_steps; i++) {
        int k = 0;
        while (k < n && !same_kind(&p->steps[first[k]], &p->steps[i]))
            k++;
        if (k == n && n == MAX_KINDS)
            return mr_fail(MR_ELIMIT, "plan %s: more than %d kinds of steps", p->name, MAX_KINDS);
        if (k == n) {
            first[n] = i;
            count[n++] = 0;
        }
        count[k]++;
    }
    for (int k = 0; k < n; k++) {
        const mr_step *s = &p->steps[first[k]];
        mr_buf_printf(out, "%6d  %-14s %s\n", count[k], mr_op_get(s->op)->name,
                      s->kernel ? s->kernel : "");
    }
    return mr_buf_check(out);
}

/* How many of a weight's parts one row reads: all of a matrix, one row of an embedding, k of E
 * experts. */
static void parts_read(const mr_graph *g, const mr_node *n, int operand, int64_t *num, int64_t *den)
{
    const mr_value *w = mr_graph_value(g, n->in[operand]);
    *num = *den = 1;
    if (n->op == MR_OP_EMBED) {
        *den = w->dim[0].n;
    } else if (n->op == MR_OP_EXPERT_LINEAR || n->op == MR_OP_MOE) {
        *num = mr_graph_value(g, mr_operand(n, "ids"))->dim[1].n;
        *den = w->dim[0].n;
    }
    if (*num > *den)
        *num = *den;
}

/* Where several ops read one weight, the one that reads most of it counts: the bytes come from
 * memory once. */
mr_err mr_plan_bytes_per_row(const mr_plan *p, mr_backend *b, uint64_t *out)
{
    const mr_graph *g = p->graph;
    uint64_t *most = mr_zalloc(MR_MEM_COMPILE, (size_t)mr_graph_values(g) * sizeof *most);
    mr_err err = most ? MR_OK : MR_ENOMEM;
    *out = 0;
    for (int i = 0; err == MR_OK && i < mr_graph_nodes(g); i++) {
        const mr_node *n = mr_graph_node(g, i);
        for (int k = 0; err == MR_OK && k < n->n_in; k++) {
            int64_t num, den;
            size_t bytes;
            if (n->in[k] == MR_NONE || mr_graph_value(g, n->in[k])->type != MR_V_WEIGHT)
                continue;
            parts_read(g, n, k, &num, &den);
            err = b->v->weight_bytes(b, g, n->in[k], &bytes);
            uint64_t part =
                err == MR_OK ? (uint64_t)((double)bytes / (double)den * (double)num + 0.5) : 0;
            if (part > most[n->in[k]]) {
                *out += part - most[n->in[k]];
                most[n->in[k]] = part;
            }
        }
    }
    mr_free(most);
    return err;
}
