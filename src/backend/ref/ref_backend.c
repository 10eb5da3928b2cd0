/* The backend's table of functions: support, weights, running steps. */
#include "backend/ref/ref.h"

#include <assert.h>
#include <string.h>

#include "base/clock.h"

static const mr_ref_fn functions[MR_OP_COUNT] = {
#define PRIM(id, name, in, out, attrs, doc) mr_ref_##id,
#define FUSED(id, name, in, out, attrs, doc) NULL,
#include "ir/ops.def"
#undef PRIM
#undef FUSED
};

static void close_backend(mr_backend *b)
{
    mr_free(b);
}

/* The shape rules have checked every attribute, and all their values are implemented. */
static mr_err supports(const mr_backend *b, const mr_graph *g, const mr_node *n)
{
    (void)b;
    (void)g;
    if (!functions[n->op])
        return mr_fail(MR_EUNSUPPORTED, "%s: backend ref has no fused ops, only their expansion",
                       mr_op_get(n->op)->name);
    return MR_OK;
}

/* ---- weights ---- */

static mr_err weight_elements(const mr_graph *g, int value, size_t *n)
{
    const mr_value *v = mr_graph_value(g, value);
    *n = 1;
    for (int i = 0; i < v->rank; i++)
        if (!mr_mul_size(*n, (size_t)v->dim[i].n, n))
            return mr_fail(MR_ELIMIT, "weight \"%.200s\" does not fit an address space",
                           mr_attr_s(mr_graph_node(g, v->node), "recipe"));
    return MR_OK;
}

static mr_err weight_bytes(const mr_backend *b, const mr_graph *g, int value, size_t *bytes)
{
    (void)b;
    MR_TRY(weight_elements(g, value, bytes));
    if (!mr_mul_size(*bytes, sizeof(float), bytes))
        return mr_fail(MR_ELIMIT, "weight %d does not fit an address space", value);
    return MR_OK;
}

static mr_err read_rows(mr_weight *w, const mr_recipe *r, mr_reader_fn read, void *ctx)
{
    enum { ROWS_AT_ONCE = 64 };
    mr_recipe_scratch scratch = {0};
    mr_err err = MR_OK;
    for (int64_t row = 0; err == MR_OK && row < w->rows; row += ROWS_AT_ONCE) {
        int64_t n = w->rows - row < ROWS_AT_ONCE ? w->rows - row : ROWS_AT_ONCE;
        mr_rows rows;
        err = mr_recipe_rows(r, row, n, read, ctx, &scratch, &rows);
        for (int64_t i = 0; err == MR_OK && i < n; i++)
            mr_dequant_row(&rows, i, w->data + (row + i) * w->k);
    }
    mr_recipe_scratch_free(&scratch);
    return err;
}

static void weight_free(mr_backend *b, mr_weight *w)
{
    (void)b;
    if (w)
        mr_free(w->data);
    mr_free(w);
}

static mr_err weight_load(mr_backend *b, const mr_graph *g, int value, const mr_recipe *r,
                          mr_reader_fn read, void *ctx, mr_weight **out)
{
    size_t bytes;
    MR_TRY(mr_recipe_fits(r, g, value));
    MR_TRY(weight_bytes(b, g, value, &bytes));
    mr_weight *w = mr_zalloc(MR_MEM_WEIGHTS, sizeof *w);
    if (!w)
        return MR_ENOMEM;
    w->rows = mr_recipe_total(r);
    w->k = mr_recipe_k(r);
    w->data = mr_alloc(MR_MEM_WEIGHTS, bytes);
    mr_err err = w->data ? read_rows(w, r, read, ctx) : MR_ENOMEM;
    if (err != MR_OK) {
        weight_free(b, w);
        return err;
    }
    *out = w;
    return MR_OK;
}

/* ---- steps ---- */

static mr_err step_plan(const mr_backend *b, const mr_plan *p, mr_step *s)
{
    (void)b;
    (void)p;
    s->scratch_bytes = 0;
    s->kernel = "ref";
    return MR_OK;
}

static void *arena_alloc(mr_backend *b, size_t bytes)
{
    (void)b;
    return mr_alloc(MR_MEM_ARENA, bytes);
}

static void arena_free(mr_backend *b, void *p)
{
    (void)b;
    mr_free(p);
}

static void *address(const mr_run *run, const mr_operand_ref *o)
{
    if (o->where == MR_AT_ARENA)
        return (char *)run->arena + o->offset;
    return (void *)(uintptr_t)run->inputs[o->index]; /* steps do not write to inputs */
}

static mr_ref_array bind(const mr_run *run, const mr_operand_ref *o)
{
    mr_ref_array a = {.there = o->where != MR_AT_NONE, .heads = 1, .width = 1};
    if (o->where == MR_AT_CACHE)
        a.cache = o->index;
    else if (o->where == MR_AT_WEIGHT)
        a.w = run->weights[o->index];
    if (o->where != MR_AT_ARENA && o->where != MR_AT_INPUT)
        return a;
    *(o->type == MR_V_I32 ? (void **)&a.i : (void **)&a.f) = address(run, o);
    a.rows = mr_dim_bind(o->dim[0], run->rows, run->outs);
    a.row_stride = o->stride[0];
    if (o->rank > 1)
        a.width = o->dim[o->rank - 1].n;
    if (o->rank == 3) {
        a.heads = o->dim[1].n;
        a.head_stride = o->stride[1];
    }
    return a;
}

static mr_err run_steps(mr_backend *b, const mr_plan *p, const mr_run *r, int first, int last)
{
    (void)b;
    assert(r->rows >= 0 && r->rows <= p->row_cap && r->outs >= 0 && r->outs <= p->out_cap);
    assert(first >= 0 && last <= p->n_steps);
    for (int i = first; i < last; i++) {
        const mr_step *step = &p->steps[i];
        mr_ref_step s = {.node = step->node, .run = r};
        for (int k = 0; k < step->n_in; k++)
            s.in[k] = bind(r, &step->in[k]);
        for (int k = 0; k < step->n_out; k++)
            s.out[k] = bind(r, &step->out[k]);
        mr_err err = functions[step->op](&s);
        if (err != MR_OK)
            return mr_fail_in(err, "step %d (%s)", i, mr_op_get(step->op)->name);
    }
    for (int64_t i = 0; p->n_caches && last == p->n_steps && i < r->rows; i++)
        r->kv[r->slot[i]]->open = true;
    return MR_OK;
}

static void split(mr_backend *b, int64_t units, mr_stretch_fn fn, const void *ctx)
{
    (void)b;
    fn(ctx, 0, units, 0);
}

static mr_err peaks(mr_backend *b, mr_peaks *out)
{
    (void)b;
    (void)out;
    return mr_fail(MR_EUNSUPPORTED, "backend ref has no speed to measure");
}

static const float *output(mr_backend *b, const mr_plan *p, const mr_run *r, int i)
{
    (void)b;
    assert(i >= 0 && i < p->n_outputs);
    return address(r, &p->outputs[i]);
}

static const mr_backend_vtable table = {
    .name = "ref",
    .close = close_backend,
    .supports = supports,
    .weight_bytes = weight_bytes,
    .weight_load = weight_load,
    .weight_free = weight_free,
    .step_plan = step_plan,
    .arena_alloc = arena_alloc,
    .arena_free = arena_free,
    .kv_new = mr_ref_kv_new,
    .kv_reserve = mr_ref_kv_reserve,
    .kv_bytes = mr_ref_kv_bytes,
    .kv_need = mr_ref_kv_need,
    .kv_free = mr_ref_kv_free,
    .kv_settle = mr_ref_kv_settle,
    .kv_row_bytes = mr_ref_kv_row_bytes,
    .kv_get = mr_ref_kv_get,
    .kv_put = mr_ref_kv_put,
    .run = run_steps,
    .split = split,
    .peaks = peaks,
    .output = output,
};

mr_err mr_backend_ref(mr_backend **out, const mr_backend_opts *o)
{
    if (o->precision != MR_EXACT)
        return mr_fail(MR_EUNSUPPORTED, "backend ref: precision %s; it has exact only",
                       mr_precision_name(o->precision));
    mr_backend *b = mr_zalloc(MR_MEM_OTHER, sizeof *b);
    if (!b)
        return MR_ENOMEM;
    b->v = &table;
    b->opts = *o;
    *out = b;
    return MR_OK;
}
