/* What the backend supports, and the decoding of a step's attributes: done once, when a plan is
 * made, so that running it looks nothing up. */
#include "backend/cpu/cpu_backend.h"

#include <assert.h>
#include <string.h>

static const mr_cpu_fn runners[MR_OP_COUNT] = {
    [MR_OP_ALIAS] = mr_run_alias,
    [MR_OP_EMBED] = mr_run_embed,
    [MR_OP_MIX] = mr_run_mix,
    [MR_OP_GATHER] = mr_run_gather,
    [MR_OP_LINEAR] = mr_run_linear,
    [MR_OP_LINEAR_HEADS] = mr_run_linear_heads,
    [MR_OP_RMSNORM] = mr_run_rmsnorm,
    [MR_OP_ADD] = mr_run_pairwise,
    [MR_OP_MUL] = mr_run_pairwise,
    [MR_OP_SCALE] = mr_run_map,
    [MR_OP_SOFTCAP] = mr_run_map,
    [MR_OP_SILU] = mr_run_map,
    [MR_OP_GELU_TANH] = mr_run_map,
    [MR_OP_GELU] = mr_run_map,
    [MR_OP_SIGMOID] = mr_run_map,
    [MR_OP_RELU] = mr_run_map,
    [MR_OP_CONCAT] = mr_run_concat,
    [MR_OP_ROPE_TABLE] = mr_run_rope_table,
    [MR_OP_ROPE] = mr_run_rope,
    [MR_OP_APPEND] = mr_run_append,
    [MR_OP_ATTENTION] = mr_run_attention,
    [MR_OP_L2NORM] = mr_run_rmsnorm,
    [MR_OP_CONV1D] = mr_run_conv1d,
    [MR_OP_DECAY] = mr_run_decay,
    [MR_OP_DELTA_RULE] = mr_run_delta_rule,
    [MR_OP_ROUTE] = mr_run_route,
    [MR_OP_EXPERT_LINEAR] = mr_run_expert_linear,
    [MR_OP_COMBINE] = mr_run_combine,
    [MR_OP_ADD_RMSNORM] = mr_run_add_rmsnorm,
    [MR_OP_GATED_LINEAR] = mr_run_gated_linear,
    [MR_OP_ROPE_APPEND] = mr_run_append,
    [MR_OP_MOE] = mr_run_moe,
};

mr_cpu_fn mr_cpu_runner(mr_op op)
{
    return runners[op];
}

/* ---- supports ---- */

enum { MAX_HEAD = 1024 }; /* a tile of f32 keys of this width is 256 KiB */

static mr_err refuse(mr_op op, const char *attr, const char *why)
{
    return mr_fail(MR_EUNSUPPORTED, "cpu: %s: %s %s", mr_op_get(op)->name, attr, why);
}

static mr_err check_attention(const mr_graph *g, const mr_node *n)
{
    if (mr_graph_value(g, n->in[0])->dim[2].n > MAX_HEAD)
        return refuse(n->op, "q", "has heads of more than 1024 values");
    if (mr_attr_i(n, "dv") > MAX_HEAD)
        return refuse(n->op, "dv", "is above 1024");
    return MR_OK;
}

/* Angles must be ones that sine and cosine can reduce: |pos f| < 2^40. */
static mr_err check_rope_table(const mr_node *n)
{
    if (mr_attr_f(n, "theta") < 1)
        return refuse(n->op, "theta", "is below 1");
    if (mr_attr_f(n, "factor") < 0x1p-8)
        return refuse(n->op, "factor", "is below 1/256");
    return MR_OK;
}

/* Weights of a convolution are read a channel at a time into 64 floats. */
static mr_err check_conv1d(const mr_graph *g, const mr_node *n)
{
    if (mr_graph_value(g, n->in[1])->dim[1].n > 64)
        return refuse(n->op, "w", "is of a width above 64");
    return MR_OK;
}

/* mr_moe prepares its rows once for gate and up. */
static mr_err check_moe(const mr_graph *g, const mr_node *n)
{
    if (!mr_fmt_equal(mr_graph_value(g, n->in[3])->fmt, mr_graph_value(g, n->in[4])->fmt))
        return refuse(n->op, "up", "is of another format than gate");
    return MR_OK;
}

mr_err mr_cpu_supports(const mr_backend *b, const mr_graph *g, const mr_node *n)
{
    (void)b;
    if (mr_op_is_leaf(n->op) || mr_op_is_view(n->op))
        return MR_OK;
    if (!runners[n->op])
        return mr_fail(MR_EUNSUPPORTED, "cpu: %s is not implemented", mr_op_get(n->op)->name);
    if (n->op == MR_OP_ATTENTION)
        return check_attention(g, n);
    if (n->op == MR_OP_ROPE_TABLE)
        return check_rope_table(n);
    if (n->op == MR_OP_CONV1D)
        return check_conv1d(g, n);
    if (n->op == MR_OP_MOE)
        return check_moe(g, n);
    return MR_OK;
}

/* ---- attributes ---- */

static mr_op activation(const mr_node *n)
{
    const char *s = mr_attr_s(n, "fn");
    return mr_op_find(s, strlen(s));
}

static mr_mask mask_named(const char *s)
{
    static const char *const names[] = {"causal", "window", "block", "full", "canvas"};
    int m = 0;
    while (strcmp(s, names[m]))
        m++;
    return (mr_mask)m;
}

static bool is_product(mr_op op)
{
    return op == MR_OP_LINEAR || op == MR_OP_GATED_LINEAR || op == MR_OP_LINEAR_HEADS ||
           op == MR_OP_EXPERT_LINEAR || op == MR_OP_MOE;
}

static void prepare_route(const mr_node *n, mr_cpu_step *p)
{
    p->route.k = mr_attr_i(n, "k");
    p->route.groups = mr_attr_i(n, "groups");
    p->route.keep = mr_attr_i(n, "keep");
    p->route.group_two = mr_attr_i(n, "group_sum") == 2;
    p->route.sigmoid = !strcmp(mr_attr_s(n, "score"), "sigmoid");
    p->route.norm = mr_attr_i(n, "norm") != 0;
    p->route.eps = (float)mr_attr_f(n, "eps");
    p->route.scale = (float)mr_attr_f(n, "scale");
    p->route.block = mr_attr_i(n, "block");
    p->route.capacity = mr_attr_i(n, "capacity");
}

static void prepare_attention(const mr_node *n, mr_cpu_step *p)
{
    p->att.mask = mask_named(mr_attr_s(n, "mask"));
    p->att.width = mr_attr_i(n, p->att.mask == MR_MASK_BLOCK ? "block" : "window");
    p->att.image = (int)mr_attr_i(n, "span");
    p->att.dv = (int)mr_attr_i(n, "dv");
    p->att.scale = (float)mr_attr_f(n, "scale");
    p->att.softcap = (float)mr_attr_f(n, "softcap");
}

static mr_err prepare_table(const mr_plan *plan, const mr_node *n, mr_cpu_step *p)
{
    p->table.half = (mr_attr_i(n, "dim") + 1) / 2;
    p->table.mscale = (float)mr_attr_f(n, "mscale");
    float *f = mr_arena_alloc(plan->memory, (size_t)p->table.half * sizeof *f);
    if (!f)
        return MR_ENOMEM;
    mr_rope_frequencies(n, f);
    p->table.freq = f;
    return MR_OK;
}

static mr_err prepare(const mr_cpu *cpu, const mr_plan *plan, const mr_step *s, mr_cpu_step *p)
{
    const mr_node *n = s->node;
    p->op = s->op;
    p->run = runners[s->op];
    assert(p->run);
    const mr_isa isa = cpu->base.opts.isa;
    const bool bf16 = mr_isa_has_bf16(isa) || isa == MR_ISA_AMX;
    if (is_product(s->op)) {
        bool f32 = !strcmp(mr_attr_s(n, "act"), "f32");
        p->mm = (mr_mm){cpu->pool, isa, plan->precision, f32, bf16};
    }
    switch (s->op) {
    case MR_OP_ALIAS:
        p->alias.to = (int32_t)mr_attr_i(n, "to");
        p->alias.id[0] = (int32_t)mr_attr_i(n, "a");
        p->alias.id[1] = (int32_t)mr_attr_i(n, "b");
        p->alias.id[2] = (int32_t)mr_attr_i(n, "c");
        break;
    case MR_OP_EMBED:
    case MR_OP_MIX:
        p->p = (float)mr_attr_f(n, "scale");
        break;
    case MR_OP_SCALE:
        p->p = (float)mr_attr_f(n, "by");
        break;
    case MR_OP_SOFTCAP:
        p->p = (float)mr_attr_f(n, "cap");
        break;
    case MR_OP_RMSNORM:
    case MR_OP_ADD_RMSNORM:
        p->eps = (float)mr_attr_f(n, "eps");
        p->offset = (float)mr_attr_f(n, "offset");
        break;
    case MR_OP_L2NORM:
        p->eps = (float)mr_attr_f(n, "eps");
        p->p = (float)mr_attr_f(n, "scale");
        break;
    case MR_OP_ROPE:
    case MR_OP_ROPE_APPEND:
        p->rope.start = mr_attr_i(n, "start");
        p->rope.interleaved = mr_attr_i(n, "interleaved") != 0;
        break;
    case MR_OP_GATED_LINEAR:
    case MR_OP_MOE:
        p->fn = activation(n);
        break;
    case MR_OP_ROUTE:
        prepare_route(n, p);
        break;
    case MR_OP_ATTENTION:
        prepare_attention(n, p);
        p->att.dots = bf16 && plan->precision == MR_NATIVE;
        break;
    case MR_OP_ROPE_TABLE:
        return prepare_table(plan, n, p);
    default:
        break;
    }
    return MR_OK;
}

/* ---- scratch ---- */

static mr_fmt fmt_of(const mr_plan *p, const mr_step *s, int i)
{
    return mr_graph_value(p->graph, s->node->in[i])->fmt;
}

static size_t matmul_scratch(const mr_plan *plan, const mr_step *s, const mr_cpu_step *p, int w,
                             int64_t rows)
{
    return mr_matmul_scratch(&p->mm, fmt_of(plan, s, w), rows, s->in[w].dim[1].n);
}

static size_t scratch_bytes(const mr_cpu *cpu, const mr_plan *plan, const mr_step *s,
                            const mr_cpu_step *p)
{
    const mr_operand_ref *in = s->in;
    size_t threads = (size_t)cpu->threads, gate, up;
    int64_t rows = mr_dim_bind(in[0].dim[0], plan->row_cap, plan->out_cap);
    switch (s->op) {
    case MR_OP_LINEAR:
        return matmul_scratch(plan, s, p, 1, rows);
    case MR_OP_GATED_LINEAR: /* gate and up may be of unlike formats */
        gate = matmul_scratch(plan, s, p, 1, rows);
        up = matmul_scratch(plan, s, p, 2, rows);
        return gate > up ? gate : up;
    case MR_OP_LINEAR_HEADS:
        return mr_matmul_scratch(&p->mm, fmt_of(plan, s, 1), rows * in[1].dim[0].n, in[1].dim[2].n);
    case MR_OP_EXPERT_LINEAR:
        return mr_expert_scratch(&p->mm, fmt_of(plan, s, 1), in[1].dim[0].n, in[1].dim[1].n,
                                 in[1].dim[2].n, rows, in[2].dim[1].n, in[0].rank == 3);
    case MR_OP_MOE:
        return mr_moe_scratch(&p->mm, fmt_of(plan, s, 3), fmt_of(plan, s, 5), in[3].dim[0].n,
                              in[3].dim[2].n, in[3].dim[1].n, rows, in[1].dim[1].n);
    case MR_OP_MIX:
        return mr_mix_scratch(cpu->threads, rows, in[1].dim[1].n);
    case MR_OP_ROUTE:
        return threads * mr_route_scratch(in[0].dim[1].n);
    case MR_OP_CONV1D:
    case MR_OP_DELTA_RULE:
        return mr_recurrent_scratch(rows);
    case MR_OP_ROPE_APPEND:
        return threads * mr_append_scratch(in[1].dim[2].n);
    case MR_OP_ATTENTION:
        return mr_attention_scratch(cpu->threads, rows,
                                    (int)in[0].dim[1].n / plan->caches[in[1].index].heads,
                                    (int)in[0].dim[2].n, p->att.dv);
    default:
        return 0;
    }
}

/* "linear int8 q4 avx512", "rmsnorm avx2" */
static const char *kernel_name(const mr_cpu *cpu, const mr_plan *plan, const mr_step *s,
                               const mr_cpu_step *p)
{
    const char *op = mr_op_get(s->op)->name;
    if (is_product(s->op)) {
        int w = s->op == MR_OP_MOE ? 3 : 1;
        return mr_arena_printf(plan->memory, "%s %s", op,
                               mr_matmul_kernel(&p->mm, fmt_of(plan, s, w)));
    }
    const char *isa = mr_isa_name(cpu->base.opts.isa);
    if (s->op == MR_OP_ATTENTION && plan->precision == MR_NATIVE)
        return mr_arena_printf(plan->memory, p->att.dots ? "%s bf16 %s" : "%s %s" MR_NO_DOTS, op,
                               isa);
    return mr_arena_printf(plan->memory, "%s %s", op, isa);
}

/* What mr_moe takes as plain rows must be plain rows. */
static mr_err check_strides(const mr_step *s)
{
    if (s->op == MR_OP_MOE && s->in[2].stride[0] != s->in[2].dim[1].n)
        return refuse(s->op, "weights", "is a slice");
    return MR_OK;
}

mr_err mr_cpu_step_plan(const mr_backend *b, const mr_plan *plan, mr_step *s)
{
    const mr_cpu *cpu = (const mr_cpu *)b;
    MR_TRY(check_strides(s));
    mr_cpu_step *p = mr_arena_alloc(plan->memory, sizeof *p);
    if (!p)
        return MR_ENOMEM;
    MR_TRY(prepare(cpu, plan, s, p));
    size_t bytes = scratch_bytes(cpu, plan, s, p);
    if (bytes > INT64_MAX / 2)
        return mr_fail(MR_ELIMIT, "cpu: the scratch of %s is too large", mr_op_get(s->op)->name);
    s->scratch_bytes = (int64_t)bytes;
    s->prep = p;
    s->kernel = kernel_name(cpu, plan, s, p);
    if (is_product(s->op))
        s->arith = mr_matmul_arith(&p->mm, fmt_of(plan, s, s->op == MR_OP_MOE ? 3 : 1));
    else if (s->op == MR_OP_ATTENTION && p->att.dots)
        s->arith = MR_ARITH_BF16;
    return s->kernel ? MR_OK : MR_ENOMEM;
}
