/* The CPU backend: open and close, weights, and the loop over steps. */
#include "backend/cpu/cpu_backend.h"

#include <assert.h>
#include <string.h>

#include "backend/cpu/matmul_job.h"
#include "backend/cpu/peaks.h"
#include "base/clock.h"

/* ---- operands of a step ---- */

static char *address(const mr_cpu_call *c, const mr_operand_ref *r)
{
    if (r->where == MR_AT_INPUT)
        return (char *)c->run->inputs[r->index] + r->offset;
    assert(r->where == MR_AT_ARENA);
    return (char *)c->run->arena + r->offset;
}

mr_view mr_cpu_view(const mr_cpu_call *c, const mr_operand_ref *r)
{
    mr_view v = {.p = (float *)address(c, r),
                 .rows = mr_dim_bind(r->dim[0], c->run->rows, c->run->outs),
                 .heads = 1,
                 .dim = 1,
                 .row = r->stride[0]};
    if (r->rank == 2)
        v.dim = r->dim[1].n;
    if (r->rank == 3) {
        v.heads = r->dim[1].n;
        v.dim = r->dim[2].n;
        v.head = r->stride[1];
    }
    return v;
}

const int32_t *mr_cpu_ints(const mr_cpu_call *c, int i)
{
    return (const int32_t *)address(c, &c->step->in[i]);
}

bool mr_cpu_given(const mr_cpu_call *c, int i)
{
    const mr_operand_ref *r = &c->step->in[i];
    return r->where == MR_AT_INPUT && c->run->inputs[r->index];
}

const float *mr_cpu_vector(const mr_cpu_call *c, int i)
{
    const mr_operand_ref *r = &c->step->in[i];
    return r->where == MR_AT_NONE ? NULL : c->run->weights[r->index]->vector;
}

const mr_matrix *mr_cpu_matrix(const mr_cpu_call *c, int i)
{
    return c->run->weights[c->step->in[i].index]->matrix;
}

/* ---- work over the pool ---- */

enum { TASK_COST = 16384 }; /* float operations worth the handing out */

typedef struct stretches {
    mr_stretch_fn fn;
    const void *ctx;
    int64_t units;
    int tasks;
} stretches;

static void run_stretch(void *ctx, int task, int worker)
{
    const stretches *s = ctx;
    s->fn(s->ctx, s->units * task / s->tasks, s->units * (task + 1) / s->tasks, worker);
}

void mr_cpu_split(const mr_cpu *cpu, int64_t units, int64_t cost, mr_stretch_fn fn, const void *ctx)
{
    int64_t tasks = cost < TASK_COST ? units * cost / TASK_COST : units, most = 4 * cpu->threads;
    tasks = tasks < most ? tasks : most;
    tasks = tasks < units ? tasks : units;
    if (tasks < 2 || cpu->threads == 1) {
        fn(ctx, 0, units, 0);
        return;
    }
    stretches s = {fn, ctx, units, (int)tasks};
    mr_pool_run(cpu->pool, (int)tasks, run_stretch, &s);
}

/* ---- weights ---- */

typedef struct weight_shape {
    mr_fmt fmt;
    int64_t e, n, k; /* n 0: a vector of k */
    int64_t taps;    /* above 0: a convolution's, k channels of so many numbers */
} weight_shape;

static bool is_convolution(const mr_graph *g, int value)
{
    for (int i = 0; i < mr_graph_nodes(g); i++) {
        const mr_node *n = mr_graph_node(g, i);
        if (n->op == MR_OP_CONV1D && n->in[1] == value)
            return true;
    }
    return false;
}

static weight_shape shape_of(const mr_graph *g, int value)
{
    const mr_value *v = mr_graph_value(g, value);
    weight_shape s = {.fmt = v->fmt, .e = 1, .k = v->dim[v->rank - 1].n};
    if (v->rank > 1)
        s.n = v->dim[v->rank - 2].n;
    if (v->rank > 2)
        s.e = v->dim[0].n;
    if (v->rank == 2 && is_convolution(g, value))
        s = (weight_shape){.fmt = v->fmt, .k = s.n, .taps = s.k};
    return s;
}

static size_t convolution_floats(const weight_shape *s)
{
    return (size_t)s->taps * ((size_t)(s->k + 15) / 16 * 16);
}

static mr_err weight_bytes(const mr_backend *b, const mr_graph *g, int value, size_t *bytes)
{
    (void)b;
    weight_shape s = shape_of(g, value);
    *bytes = (size_t)s.k * sizeof(float);
    if (s.taps)
        *bytes = convolution_floats(&s) * sizeof(float);
    if (s.n)
        MR_TRY(mr_matrix_bytes(s.fmt, s.e, s.n, s.k, bytes));
    *bytes += sizeof(mr_weight);
    return MR_OK;
}

/* A vector may come as one row or as many short ones. */
static mr_err load_vector(const mr_recipe *r, int64_t k, mr_reader_fn read, void *ctx, float *out)
{
    int64_t rows = mr_recipe_total(r), width = mr_recipe_k(r);
    if (rows < 1 || width < 1 || rows > k || rows * width != k)
        return mr_fail(MR_EFORMAT, "a vector of %lld numbers is made of %lld x %lld", (long long)k,
                       (long long)rows, (long long)width);
    mr_recipe_scratch scratch = {0};
    mr_rows got;
    mr_err e = mr_recipe_rows(r, 0, rows, read, ctx, &scratch, &got);
    for (int64_t i = 0; e == MR_OK && i < rows; i++)
        mr_dequant_row(&got, i, out + i * width);
    mr_recipe_scratch_free(&scratch);
    return e;
}

/* Transposed: [taps][channels, rounded up to 16]. */
static mr_err load_convolution(const weight_shape *s, const mr_recipe *r, mr_reader_fn read,
                               void *ctx, float *out)
{
    enum { MOST = 64 };
    int64_t ld = (s->k + 15) / 16 * 16;
    float row[MOST];
    if (s->taps > MOST || mr_recipe_total(r) != s->k || mr_recipe_k(r) != s->taps)
        return mr_fail(MR_EFORMAT, "a convolution of %lld x %lld is made of %lld x %lld",
                       (long long)s->k, (long long)s->taps, (long long)mr_recipe_total(r),
                       (long long)mr_recipe_k(r));
    mr_recipe_scratch scratch = {0};
    mr_rows got;
    mr_err e = mr_recipe_rows(r, 0, s->k, read, ctx, &scratch, &got);
    for (int64_t i = 0; e == MR_OK && i < s->k; i++) {
        mr_dequant_row(&got, i, row);
        for (int64_t j = 0; j < s->taps; j++)
            out[j * ld + i] = row[j];
    }
    mr_recipe_scratch_free(&scratch);
    return e;
}

static void weight_free(mr_backend *b, mr_weight *w)
{
    (void)b;
    if (!w)
        return;
    if (w->matrix)
        mr_matrix_free(w->matrix);
    mr_free(w->vector);
    mr_free(w);
}

static mr_err weight_load(mr_backend *b, const mr_graph *g, int value, const mr_recipe *r,
                          mr_reader_fn read, void *ctx, mr_weight **out)
{
    weight_shape s = shape_of(g, value);
    mr_weight *w = mr_zalloc(MR_MEM_WEIGHTS, sizeof *w);
    if (!w)
        return MR_ENOMEM;
    mr_err e;
    if (s.n) {
        e = mr_matrix_pack(&w->matrix, r, s.e, s.n, s.k, ((mr_cpu *)b)->pool, read, ctx);
    } else if (s.taps) {
        w->vector = mr_zalloc(MR_MEM_WEIGHTS, convolution_floats(&s) * sizeof(float));
        e = w->vector ? load_convolution(&s, r, read, ctx, w->vector) : MR_ENOMEM;
    } else {
        w->vector = mr_alloc(MR_MEM_WEIGHTS, (size_t)s.k * sizeof(float));
        e = w->vector ? load_vector(r, s.k, read, ctx, w->vector) : MR_ENOMEM;
    }
    if (e != MR_OK) {
        weight_free(b, w);
        return e;
    }
    *out = w;
    return MR_OK;
}

/* ---- running ---- */

/* The blocks that this run's steps will touch are there. */
static mr_err check_kv(const mr_plan *p, const mr_run *r)
{
    for (int64_t i = 0; p->n_caches && i < r->rows; i++) {
        if (i && r->slot[i] == r->slot[i - 1])
            continue;
        const mr_kv *kv = r->kv[r->slot[i]];
        int64_t last = i;
        while (last + 1 < r->rows && r->slot[last + 1] == r->slot[i])
            last++;
        int64_t end = r->pos[last] + 1, len = r->kv_len[r->slot[i]];
        if (r->pos[i] < 0 || end > kv->len || len > kv->len)
            return mr_fail(MR_ELIMIT, "positions up to %lld are not reserved (%lld are)",
                           (long long)(end > len ? end : len) - 1, (long long)kv->len);
        if (end - r->pos[i] > kv->max_advance)
            return mr_fail(MR_ELIMIT, "%lld rows of a session at once, %lld at most",
                           (long long)(end - r->pos[i]), (long long)kv->max_advance);
    }
    return MR_OK;
}

static bool is_product(mr_op op)
{
    return op == MR_OP_LINEAR || op == MR_OP_GATED_LINEAR || op == MR_OP_LINEAR_HEADS;
}

static bool is_routed(mr_op op)
{
    return op == MR_OP_MOE || op == MR_OP_EXPERT_LINEAR;
}

/* Behind the last step comes the first.  Which experts will be chosen nobody knows. */
void mr_cpu_tell_next(const void *call)
{
    const mr_cpu_call *c = call;
    const mr_plan *p = c->plan;
    const mr_step *s = c->step;
    do
        s = s + 1 < p->steps + p->n_steps ? s + 1 : p->steps;
    while (!is_product(s->op) && !is_routed(s->op));
    if (is_routed(s->op)) {
        for (int t = 0; t < c->cpu->threads; t++)
            mr_pool_tell(c->cpu->pool, t, &(mr_ahead){.bytes = 0});
        return;
    }
    mr_weight *const *w = c->run->weights;
    const mr_matrix *m = w[s->in[1].index]->matrix;
    mr_job_tell(&(mr_job){.mm = &((const mr_cpu_step *)s->prep)->mm,
                          .w = {m, s->op == MR_OP_GATED_LINEAR ? w[s->in[2].index]->matrix : NULL},
                          .rows = c->run->rows,
                          .choices = m->e});
}

static mr_err run(mr_backend *b, const mr_plan *p, const mr_run *r, int first, int last)
{
    assert(first >= 0 && last <= p->n_steps);
    assert(r->rows <= p->row_cap && r->outs <= p->out_cap);
    if (first == 0)
        MR_TRY(check_kv(p, r));
    for (int i = first; i < last; i++) {
        const mr_step *s = &p->steps[i];
        mr_cpu_call c = {.cpu = (const mr_cpu *)b,
                         .plan = p,
                         .run = r,
                         .step = s,
                         .prep = s->prep,
                         .scratch = (char *)r->arena + s->scratch_offset};
        if (is_product(s->op) || s->op == MR_OP_EXPERT_LINEAR)
            mr_cpu_tell_next(&c);
        uint64_t start = r->trace ? mr_clock_ns() : 0;
        MR_TRY(c.prep->run(&c));
        if (r->trace)
            r->trace[i].ns += mr_clock_ns() - start;
    }
    for (int64_t i = 0; p->n_caches && last == p->n_steps && i < r->rows; i++)
        r->kv[r->slot[i]]->open = true;
    return MR_OK;
}

static void split(mr_backend *b, int64_t units, mr_stretch_fn fn, const void *ctx)
{
    mr_cpu_split((const mr_cpu *)b, units, TASK_COST, fn, ctx);
}

static mr_err peaks(mr_backend *b, mr_peaks *out)
{
    return mr_cpu_peaks(b->opts.isa, ((const mr_cpu *)b)->pool, out);
}

static const float *output(mr_backend *b, const mr_plan *p, const mr_run *r, int index)
{
    (void)b;
    assert(index >= 0 && index < p->n_outputs);
    mr_cpu_call c = {.run = r};
    return (const float *)address(&c, &p->outputs[index]);
}

static void *arena_alloc(mr_backend *b, size_t bytes)
{
    (void)b;
    return mr_zalloc_streamed(MR_MEM_ARENA, bytes);
}

static void arena_free(mr_backend *b, void *p)
{
    (void)b;
    mr_free(p);
}

/* ---- open, close ---- */

static void close_backend(mr_backend *b)
{
    mr_cpu *cpu = (mr_cpu *)b;
    if (!cpu)
        return;
    mr_pool_free(cpu->pool);
    mr_free(cpu);
}

static const mr_backend_vtable vtable = {
    .name = "cpu",
    .close = close_backend,
    .supports = mr_cpu_supports,
    .weight_bytes = weight_bytes,
    .weight_load = weight_load,
    .weight_free = weight_free,
    .step_plan = mr_cpu_step_plan,
    .arena_alloc = arena_alloc,
    .arena_free = arena_free,
    .kv_new = mr_cpu_kv_new,
    .kv_reserve = mr_cpu_kv_reserve,
    .kv_bytes = mr_cpu_kv_bytes,
    .kv_need = mr_cpu_kv_need,
    .kv_free = mr_cpu_kv_free,
    .kv_settle = mr_cpu_kv_settle,
    .kv_row_bytes = mr_cpu_kv_row_bytes,
    .kv_get = mr_cpu_kv_get,
    .kv_put = mr_cpu_kv_put,
    .run = run,
    .split = split,
    .peaks = peaks,
    .output = output,
};

const mr_vec_kernels *mr_vec(mr_isa isa)
{
    switch (isa) {
#if defined(__x86_64__)
    case MR_ISA_AVX2:
        return &mr_vec_avx2;
    case MR_ISA_AVX512:
    case MR_ISA_AMX:
        return &mr_vec_avx512;
#elif defined(__aarch64__)
    case MR_ISA_NEON:
        return &mr_vec_neon;
#endif
    default:
        assert(isa == MR_ISA_C);
        return &mr_vec_c;
    }
}

mr_err mr_backend_cpu(mr_backend **out, const mr_backend_opts *o)
{
    if (!mr_isa_have(o->isa))
        return mr_fail(MR_EUSAGE, "this CPU does not run %s", mr_isa_name(o->isa));
    mr_cpu *cpu = mr_zalloc(MR_MEM_OTHER, sizeof *cpu);
    if (!cpu)
        return MR_ENOMEM;
    cpu->base = (mr_backend){&vtable, *o};
    cpu->threads = o->threads;
    cpu->vec = mr_vec(o->isa);
    cpu->attention = mr_attention(o->isa, false);
    mr_err e = mr_pool_new(&cpu->pool, o->threads);
    if (e != MR_OK) {
        mr_free(cpu);
        return e;
    }
    *out = &cpu->base;
    return MR_OK;
}
