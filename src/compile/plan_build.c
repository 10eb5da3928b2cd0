/* Graph -> plan.
 *
 * Every value gets a place: an input, a weight, a cache, or a stretch of the arena under strides.
 * Views are folded into the place of what they view.  Each other node is a step; a buffer lives
 * from its step to the last one that reads any view of it.  Two views cannot be folded, because a
 * backend knows an input's address but no offset into it, and because outputs are handed out as
 * plain rows: a slice of an input, and an output that is not contiguous.  There the value is first
 * copied by a step "scale by=1", which is exact and which every backend has. */
#include "compile/plan_internal.h"

#include <assert.h>
#include <string.h>

typedef struct builder {
    const mr_graph *g;
    mr_backend *b;
    mr_plan *p;
    mr_operand_ref *at; /* per value; ARENA: index = buffer, offset = bytes within it */
    mr_buffer *buf;     /* results, then scratch */
    int n_buf;
    int cap_steps;
} builder;

int64_t mr_plan_elements(const mr_plan *p, const mr_operand_ref *r)
{
    int64_t n = 1;
    for (int i = 0; i < r->rank; i++) {
        int64_t d = mr_dim_bind(r->dim[i], p->row_cap, p->out_cap);
        if (d < 0 || __builtin_mul_overflow(n, d, &n))
            return -1;
    }
    return n;
}

static int64_t element_stride(const mr_operand_ref *r, int axis)
{
    int64_t n = 1;
    for (int i = axis + 1; i < r->rank; i++)
        n *= r->dim[i].n;
    return n;
}

/* A place of the value's type and size, contiguous. */
static mr_operand_ref place(const mr_value *v, mr_where where, int index)
{
    mr_operand_ref r = {.where = where, .type = v->type, .rank = v->rank, .index = index};
    for (int i = 0; i < v->rank; i++)
        r.dim[i] = v->dim[i];
    for (int i = 0; i < v->rank; i++)
        r.stride[i] = element_stride(&r, i);
    return r;
}

static bool is_contiguous(const mr_operand_ref *r)
{
    for (int i = 0; i < r->rank; i++)
        if (r->stride[i] != element_stride(r, i))
            return false;
    return true;
}

/* ---- before the steps ---- */

static mr_err check_support(const builder *s)
{
    for (int i = 0; i < mr_graph_nodes(s->g); i++)
        MR_TRY(s->b->v->supports(s->b, s->g, mr_graph_node(s->g, i)));
    return MR_OK;
}

/* Sizes a run binds: rows by ROWS or OUT, all others numbers. */
static mr_err check_sizes(const builder *s)
{
    for (int v = 0; v < mr_graph_values(s->g); v++) {
        const mr_value *x = mr_graph_value(s->g, v);
        for (int i = 0; i < x->rank; i++) {
            int sym = x->dim[i].sym;
            if (sym == MR_SYM_NONE || (i == 0 && (sym == MR_SYM_ROWS || sym == MR_SYM_OUT)))
                continue;
            return mr_fail(
                MR_EUNSUPPORTED,
                "plan %s: %s: axis %d of value %d has size %s, which a run does not bind",
                s->p->name, mr_op_get(mr_graph_node(s->g, x->node)->op)->name, i, v,
                mr_graph_symbol_name(s->g, sym));
        }
    }
    return MR_OK;
}

static mr_err allocate(builder *s)
{
    mr_plan *p = s->p;
    int inputs = 0, weights = 0, caches = 0, steps = mr_graph_outputs(s->g);
    for (int i = 0; i < mr_graph_nodes(s->g); i++) {
        mr_op op = mr_graph_node(s->g, i)->op;
        inputs += op == MR_OP_INPUT;
        weights += op == MR_OP_WEIGHT;
        caches += op == MR_OP_CACHE || op == MR_OP_STATE;
        steps += !mr_op_is_leaf(op);
    }
    if (steps > MR_MAX_STEPS)
        return mr_fail(MR_ELIMIT, "plan %s: %d steps, at most %d", p->name, steps, MR_MAX_STEPS);
    s->cap_steps = steps;
    size_t outputs = (size_t)mr_graph_outputs(s->g), values = (size_t)mr_graph_values(s->g);
    p->steps = mr_arena_alloc(p->memory, (size_t)steps * sizeof *p->steps);
    p->inputs = mr_arena_alloc(p->memory, (size_t)inputs * sizeof *p->inputs);
    p->weights = mr_arena_alloc(p->memory, (size_t)weights * sizeof *p->weights);
    p->caches = mr_arena_alloc(p->memory, (size_t)caches * sizeof *p->caches);
    p->outputs = mr_arena_alloc(p->memory, outputs * sizeof *p->outputs);
    p->output_names = mr_arena_alloc(p->memory, outputs * sizeof *p->output_names);
    s->at = mr_zalloc(MR_MEM_COMPILE, values * sizeof *s->at);
    s->buf = mr_zalloc(MR_MEM_COMPILE, (size_t)steps * (MR_MAX_OUT + 1) * sizeof *s->buf);
    bool ok = p->steps && p->inputs && p->weights && p->caches && p->outputs && p->output_names;
    return ok && s->at && s->buf ? MR_OK : MR_ENOMEM;
}

static mr_err leaf(builder *s, const mr_node *n)
{
    mr_plan *p = s->p;
    int v = n->out[0];
    const mr_value *x = mr_graph_value(s->g, v);
    if (n->op == MR_OP_INPUT) {
        p->inputs[p->n_inputs] = mr_arena_strdup(p->memory, mr_attr_s(n, "name"));
        s->at[v] = place(x, MR_AT_INPUT, p->n_inputs);
        return p->inputs[p->n_inputs++] ? MR_OK : MR_ENOMEM;
    }
    if (n->op == MR_OP_WEIGHT) {
        p->weights[p->n_weights] = v;
        s->at[v] = place(x, MR_AT_WEIGHT, p->n_weights++);
        return MR_OK;
    }
    bool state = n->op == MR_OP_STATE;
    p->caches[p->n_caches] =
        (mr_cache_desc){.name = mr_arena_strdup(p->memory, mr_attr_s(n, "name")),
                        .heads = (int)mr_attr_i(n, "heads"),
                        .dk = (int)mr_attr_i(n, "dk"),
                        .dv = (int)mr_attr_i(n, "dv"),
                        .window = state ? 0 : (int)mr_attr_i(n, "window"),
                        .state = state};
    s->at[v] = place(x, MR_AT_CACHE, p->n_caches);
    return p->caches[p->n_caches++].name ? MR_OK : MR_ENOMEM;
}

/* ---- steps ---- */

static void read_by(builder *s, const mr_operand_ref *r, int step)
{
    if (r->where == MR_AT_ARENA)
        s->buf[r->index].last = step;
}

/* A new buffer of the arena, written by `step`. */
static mr_err new_result(builder *s, const mr_value *v, int step, mr_operand_ref *out)
{
    int64_t bytes;
    *out = place(v, MR_AT_ARENA, s->n_buf);
    int64_t n = mr_plan_elements(s->p, out);
    if (n < 0 || __builtin_mul_overflow(n, (int64_t)sizeof(float), &bytes) ||
        bytes > INT64_MAX - MR_ARENA_ALIGN)
        return mr_fail(MR_ELIMIT, "plan %s: a result of %s does not fit an address space",
                       s->p->name, mr_op_get(mr_graph_node(s->g, v->node)->op)->name);
    bytes = bytes ? (bytes + MR_ARENA_ALIGN - 1) / MR_ARENA_ALIGN * MR_ARENA_ALIGN : MR_ARENA_ALIGN;
    s->buf[s->n_buf++] = (mr_buffer){.bytes = bytes, .first = step, .last = step};
    return MR_OK;
}

static mr_err add_step(builder *s, const mr_node *n)
{
    mr_plan *p = s->p;
    int index = p->n_steps++;
    mr_step *step = &p->steps[index];
    *step = (mr_step){.op = n->op, .node = n, .n_in = n->n_in, .n_out = n->n_out};
    for (int i = 0; i < n->n_in; i++)
        if (n->in[i] != MR_NONE) {
            step->in[i] = s->at[n->in[i]];
            read_by(s, &step->in[i], index);
        }
    for (int i = 0; i < n->n_out; i++) {
        const mr_value *v = mr_graph_value(s->g, n->out[i]);
        if (v->type == MR_V_CACHE)
            step->out[i] = s->at[mr_operand(n, "c")];
        else
            MR_TRY(new_result(s, v, index, &step->out[i]));
        s->at[n->out[i]] = step->out[i];
    }
    return MR_OK;
}

/* Copies the value v, which lies at `from`, to a contiguous place of its own. */
static mr_err add_copy(builder *s, int v, const mr_operand_ref *from, mr_operand_ref *to)
{
    mr_plan *p = s->p;
    if (from->type != MR_V_F32)
        return mr_fail(MR_EUNSUPPORTED, "plan %s: value %d (i32) is an input and an output",
                       p->name, v);
    mr_node *n = mr_arena_alloc(p->memory, sizeof *n);
    if (!n)
        return MR_ENOMEM;
    *n = (mr_node){.op = MR_OP_SCALE, .n_in = 1, .n_out = 1, .in = {v}, .out = {v}};
    n->attr[mr_attr_index(MR_OP_SCALE, "by")].f = 1;
    int index = p->n_steps++;
    mr_step *step = &p->steps[index];
    *step = (mr_step){.op = n->op, .node = n, .n_in = 1, .n_out = 1, .in = {*from}};
    read_by(s, from, index);
    MR_TRY(new_result(s, mr_graph_value(s->g, v), index, &step->out[0]));
    *to = step->out[0];
    return MR_OK;
}

/* The place of a view: its operand's under other sizes and strides. */
static mr_err fold_view(builder *s, const mr_node *n)
{
    int x = n->in[0], y = n->out[0];
    const mr_value *v = mr_graph_value(s->g, y);
    int64_t start = n->op == MR_OP_SLICE ? mr_attr_i(n, "start") : 0;
    mr_operand_ref from = s->at[x];
    /* The shape rule refuses to flatten heads with gaps between them. */
    assert(v->rank != 2 || from.rank != 3 || from.dim[1].n == 1 || from.stride[1] == from.dim[2].n);
    if (start && from.where == MR_AT_INPUT) {
        MR_TRY(add_copy(s, x, &from, &from));
        s->at[x] = from;
    }
    mr_operand_ref r = place(v, from.where, from.index);
    r.offset = from.offset + start * (int64_t)sizeof(float);
    r.stride[0] = from.stride[0];
    if (n->op == MR_OP_SLICE)
        memcpy(r.stride, from.stride, sizeof r.stride);
    s->at[y] = r;
    return MR_OK;
}

static mr_err build_steps(builder *s)
{
    for (int i = 0; i < mr_graph_nodes(s->g); i++) {
        const mr_node *n = mr_graph_node(s->g, i);
        if (mr_op_is_leaf(n->op))
            MR_TRY(leaf(s, n));
        else if (mr_op_is_view(n->op))
            MR_TRY(fold_view(s, n));
        else
            MR_TRY(add_step(s, n));
    }
    return MR_OK;
}

static mr_err build_outputs(builder *s)
{
    mr_plan *p = s->p;
    for (int i = 0; i < mr_graph_outputs(s->g); i++) {
        int v = mr_graph_output_value(s->g, i);
        mr_operand_ref *o = &p->outputs[i];
        *o = s->at[v];
        if (o->where != MR_AT_ARENA || !is_contiguous(o)) {
            MR_TRY(add_copy(s, v, o, o));
            s->at[v] = *o; /* a second output of this value shares the copy */
        }
        p->output_names[i] = mr_arena_strdup(p->memory, mr_graph_output_name(s->g, i));
        if (!p->output_names[i])
            return MR_ENOMEM;
        p->n_outputs++;
    }
    for (int i = 0; i < p->n_outputs; i++)
        s->buf[p->outputs[i].index].last = p->n_steps;
    return MR_OK;
}

/* ---- memory ---- */

static void resolve(const builder *s, mr_operand_ref *r)
{
    if (r->where != MR_AT_ARENA)
        return;
    r->offset += s->buf[r->index].offset;
    r->index = 0;
}

static mr_err assign_memory(builder *s)
{
    mr_plan *p = s->p;
    int scratch = s->n_buf;
    for (int i = 0; i < p->n_steps; i++) {
        MR_TRY(s->b->v->step_plan(s->b, p, &p->steps[i]));
        int64_t bytes = p->steps[i].scratch_bytes;
        if (bytes <= 0)
            continue;
        if (bytes > INT64_MAX - MR_ARENA_ALIGN)
            return mr_fail(MR_ELIMIT, "plan %s: the scratch of %s does not fit an address space",
                           p->name, mr_op_get(p->steps[i].op)->name);
        bytes = (bytes + MR_ARENA_ALIGN - 1) / MR_ARENA_ALIGN * MR_ARENA_ALIGN;
        s->buf[s->n_buf++] = (mr_buffer){.bytes = bytes, .first = i, .last = i};
    }
    MR_TRY(mr_memory_place(s->buf, s->n_buf, &p->arena_bytes));
    for (int i = 0; i < p->n_steps; i++) {
        mr_step *step = &p->steps[i];
        for (int k = 0; k < step->n_in; k++)
            resolve(s, &step->in[k]);
        for (int k = 0; k < step->n_out; k++)
            resolve(s, &step->out[k]);
        if (step->scratch_bytes > 0)
            step->scratch_offset = s->buf[scratch++].offset;
    }
    for (int i = 0; i < p->n_outputs; i++)
        resolve(s, &p->outputs[i]);
    return MR_OK;
}

/* ---- the whole ---- */

static mr_err build(builder *s)
{
    MR_TRY(check_support(s));
    MR_TRY(check_sizes(s));
    MR_TRY(allocate(s));
    MR_TRY(build_steps(s));
    MR_TRY(build_outputs(s));
    return assign_memory(s);
}

mr_err mr_plan_compile(mr_plan **out, const mr_graph *g, mr_backend *b, const char *name,
                       int64_t row_cap, int64_t out_cap)
{
    if (row_cap < 1 || row_cap > INT32_MAX || out_cap < 0 || out_cap > INT32_MAX)
        return mr_fail(MR_EUSAGE,
                       "plan %s: caps of %lld rows and %lld wanted rows are out of range", name,
                       (long long)row_cap, (long long)out_cap);
    mr_arena *arena;
    MR_TRY(mr_arena_new(&arena, MR_MEM_COMPILE));
    mr_plan *p = mr_arena_alloc(arena, sizeof *p);
    if (!p || !(p->name = mr_arena_strdup(arena, name))) {
        mr_arena_free(arena);
        return MR_ENOMEM;
    }
    p->memory = arena;
    p->graph = g;
    p->precision = b->opts.precision;
    p->row_cap = row_cap;
    p->out_cap = out_cap;
    builder s = {.g = g, .b = b, .p = p};
    mr_err err = build(&s);
    mr_free(s.at);
    mr_free(s.buf);
    if (err != MR_OK) {
        mr_arena_free(arena);
        return err;
    }
    *out = p;
    return MR_OK;
}

void mr_plan_free(mr_plan *p)
{
    if (p)
        mr_arena_free(p->memory);
}
