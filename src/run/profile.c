/* Where a run's time goes: per step of each plan calls, time, bytes and products, summed on request
 * to a row per plan and kernel.
 *
 * The backend takes the time and counts the experts that were chosen; what else a step reads and
 * multiplies follows from its plan, the rows of the run and, for attention, from the keys that each
 * row sees. */
#include <stdlib.h>
#include <string.h>

#include "run/session.h"

/* ---- taking it ---- */

static void stop_lane(mr_lane *l)
{
    mr_free(l->trace);
    mr_free(l->sums);
    l->trace = NULL;
    l->sums = NULL;
}

static mr_err start_lane(mr_lane *l)
{
    size_t n = (size_t)l->plan->n_steps;
    stop_lane(l);
    l->trace = mr_zalloc(MR_MEM_OTHER, n * sizeof *l->trace);
    l->sums = mr_zalloc(MR_MEM_OTHER, n * sizeof *l->sums);
    return l->trace && l->sums ? MR_OK : MR_ENOMEM;
}

mr_status mr_profile_start(mr_engine *e)
{
    mr_err err = start_lane(&e->decode);
    if (!err)
        err = start_lane(&e->prefill);
    if (err)
        mr_profile_stop(e);
    return (mr_status)err;
}

void mr_profile_stop(mr_engine *e)
{
    stop_lane(&e->decode);
    stop_lane(&e->prefill);
}

/* ---- attention's work ---- */

static int64_t min64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int64_t max64(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

typedef struct keys {
    int64_t begin, end;
} keys;

/* What row r sees, image spans aside (they add keys of the same run). */
static keys keys_of(const mr_step *s, const mr_run *r, int64_t row)
{
    int64_t pos = r->pos[row], len = r->kv_len[r->slot[row]];
    const char *mask = mr_attr_s(s->node, "mask");
    if (strcmp(mask, "window") == 0)
        return (keys){max64(0, pos + 1 - mr_attr_i(s->node, "window")), pos + 1};
    if (strcmp(mask, "block") == 0) {
        int64_t block = mr_attr_i(s->node, "block");
        return (keys){0, min64(len, (pos / block + 1) * block)};
    }
    return (keys){0, strcmp(mask, "full") == 0 ? len : pos + 1};
}

/* Keys and values are read once for the rows of a session. */
static mr_work attention_work(const mr_engine *e, const mr_plan *p, const mr_step *s,
                              const mr_run *r, const int32_t *out_rows)
{
    const mr_cache_desc *c = &p->caches[s->in[mr_operand_index(s->op, "c")].index];
    const mr_operand_ref *rows = &s->in[mr_operand_index(s->op, "rows")];
    bool some = rows->where != MR_AT_NONE;
    int64_t n = some ? r->outs : r->rows, heads = s->in[0].dim[1].n;
    int64_t element = e->backend->opts.precision == MR_EXACT ? 4 : 2;
    int64_t position = element * c->heads * (c->dk + c->dv);
    int64_t product = heads * (c->dk + mr_attr_i(s->node, "dv"));
    mr_work w = {0};
    keys read = {0};
    for (int64_t i = 0; i < n; i++) {
        int64_t row = some ? out_rows[i] : i, before = i && some ? out_rows[i - 1] : i - 1;
        keys k = keys_of(s, r, row);
        w.macs += (uint64_t)((k.end - k.begin) * product);
        if (before < 0 || r->slot[before] != r->slot[row]) {
            w.bytes += (uint64_t)((read.end - read.begin) * position);
            read = k;
        }
        read = (keys){min64(read.begin, k.begin), max64(read.end, k.end)};
    }
    w.bytes += (uint64_t)((read.end - read.begin) * position);
    return w;
}

void mr_profile_add(const mr_engine *e, mr_lane *l, const mr_run *r, const int32_t *out_rows)
{
    const mr_plan *p = l->plan;
    for (int i = 0; i < p->n_steps; i++) {
        const mr_step *s = &p->steps[i];
        int64_t experts = (int64_t)(l->trace[i].experts - l->sums[i].experts);
        mr_work w = s->op == MR_OP_ATTENTION ? attention_work(e, p, s, r, out_rows)
                                             : mr_step_work(e, p, s, r->rows, r->outs, experts);
        l->sums[i].calls++;
        l->sums[i].bytes += w.bytes;
        l->sums[i].macs += w.macs;
        l->sums[i].experts = l->trace[i].experts;
    }
}

/* ---- giving it ---- */

static void add_step(mr_profile_row *row, const mr_lane *l, int i)
{
    uint64_t ops = 2 * l->sums[i].macs;
    row->calls += l->sums[i].calls;
    row->seconds += 1e-9 * (double)l->trace[i].ns;
    row->bytes += l->sums[i].bytes;
    switch (l->plan->steps[i].arith) {
    case MR_ARITH_F32:
        row->f32_ops += ops;
        break;
    case MR_ARITH_INT8:
        row->int8_ops += ops;
        break;
    case MR_ARITH_BF16:
        row->bf16_ops += ops;
        break;
    }
}

static int add_lane(const mr_lane *l, mr_profile_row *rows, int n)
{
    for (int i = 0; i < l->plan->n_steps; i++) {
        const char *kernel = l->plan->steps[i].kernel;
        int k = 0;
        if (!l->sums[i].calls)
            continue;
        while (k < n && (rows[k].plan != l->plan->name || strcmp(rows[k].kernel, kernel) != 0))
            k++;
        if (k == n)
            rows[n++] = (mr_profile_row){.plan = l->plan->name, .kernel = kernel};
        add_step(&rows[k], l, i);
    }
    return n;
}

static int longest_first(const void *a, const void *b)
{
    const mr_profile_row *x = a, *y = b;
    return (x->seconds < y->seconds) - (x->seconds > y->seconds);
}

mr_status mr_profile_rows(const mr_engine *e, mr_profile_row **rows, int *n)
{
    if (!e->decode.trace)
        return (mr_status)mr_fail(MR_EUSAGE, "no profile was started");
    size_t most = (size_t)e->decode.plan->n_steps + (size_t)e->prefill.plan->n_steps;
    mr_profile_row *r = mr_alloc(MR_MEM_OTHER, most * sizeof *r);
    if (!r)
        return MR_STATUS_MEMORY;
    *n = add_lane(&e->prefill, r, add_lane(&e->decode, r, 0));
    qsort(r, (size_t)*n, sizeof *r, longest_first);
    *rows = r;
    return MR_STATUS_OK;
}

mr_status mr_engine_limits(mr_engine *e, mr_limits *out)
{
    mr_peaks p;
    MR_TRY(e->backend->v->peaks(e->backend, &p));
    *out = (mr_limits){.read = {p.read.one, p.read.all},
                       .int8 = {p.int8.one, p.int8.all},
                       .f32 = {p.f32.one, p.f32.all},
                       .bf16 = {p.bf16.one, p.bf16.all}};
    return MR_STATUS_OK;
}
