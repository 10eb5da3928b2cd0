/* Counting a run's work from its plan: weight bytes read and multiply-adds.
 *
 * A dense weight is read once per run; of the experts those chosen or, where that is not known
 * (-1), rows * top_k at most; an embedding only the rows asked for.  Steps after the gather count
 * only when logits are wanted. */
#include "run/session.h"

static int64_t min64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int64_t elements(const mr_operand_ref *o)
{
    int64_t n = 1;
    for (int i = 0; i < o->rank; i++)
        n *= o->dim[i].n;
    return n;
}

static mr_work weight_work(const mr_engine *e, const mr_plan *p, const mr_step *s,
                           const mr_operand_ref *w, int64_t rows, int64_t chosen)
{
    int value = p->weights[w->index];
    uint64_t bytes = p->graph == e->canvas_graph ? e->canvas_bytes[value] : e->weight_bytes[value];
    int64_t all = elements(w);
    switch (s->op) {
    case MR_OP_EMBED:
        return (mr_work){bytes / (uint64_t)w->dim[0].n * (uint64_t)min64(rows, w->dim[0].n), 0};
    case MR_OP_EXPERT_LINEAR:
    case MR_OP_MOE: {
        int64_t experts = w->dim[0].n;
        const mr_operand_ref *ids = &s->in[mr_operand_index(s->op, "ids")];
        int64_t picks = rows * ids->dim[1].n;
        if (chosen < 0)
            chosen = min64(picks, experts);
        return (mr_work){bytes / (uint64_t)experts * (uint64_t)chosen,
                         (uint64_t)(all / experts * picks)};
    }
    default:
        return (mr_work){bytes, w->rank >= 2 ? (uint64_t)(all * rows) : 0};
    }
}

mr_work mr_step_work(const mr_engine *e, const mr_plan *p, const mr_step *s, int64_t rows,
                     int64_t outs, int64_t chosen)
{
    mr_work sum = {0};
    int64_t n = mr_dim_bind(s->out[0].rank ? s->out[0].dim[0] : (mr_dim){1, 0}, rows, outs);
    for (int k = 0; n && k < s->n_in; k++) {
        if (s->in[k].where != MR_AT_WEIGHT)
            continue;
        mr_work w = weight_work(e, p, s, &s->in[k], n, chosen);
        sum.bytes += w.bytes;
        sum.macs += w.macs;
    }
    return sum;
}

mr_work mr_work_of(const mr_engine *e, const mr_plan *p, int64_t rows, int64_t outs)
{
    mr_work sum = {0};
    for (int i = 0; i < p->n_steps; i++) {
        mr_work w = mr_step_work(e, p, &p->steps[i], rows, outs, -1);
        sum.bytes += w.bytes;
        sum.macs += w.macs;
    }
    return sum;
}

uint64_t mr_engine_macs_per_token(const mr_engine *e)
{
    return mr_work_of(e, e->decode.plan, 1, 1).macs;
}

uint64_t mr_engine_bytes_per_token(const mr_engine *e)
{
    return mr_work_of(e, e->decode.plan, 1, 1).bytes;
}
