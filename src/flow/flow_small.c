/* Small blocks: a call or two each, and the rope table. */
#include "flow/flow.h"

#include <assert.h>
#include <string.h>

mr_val mr_flow_embed(mr_flow *f, const char *name, int64_t vocab, int64_t hidden, double scale)
{
    return mr_flow_lookup(f, mr_flow_ids(f), name, vocab, hidden, scale, false);
}

mr_val mr_flow_lookup(mr_flow *f, mr_val ids, const char *name, int64_t vocab, int64_t width,
                      double scale, bool given)
{
    mr_val table = mr_flow_weight(f, name, 2, (int64_t[]){vocab, width}), embeds = MR_NONE;
    mr_dim dim[2] = {{.n = 1, .sym = MR_SYM_ROWS}, {.n = width}};
    mr_attr attr = {.f = scale};
    if (given && f->err == MR_OK)
        mr_flow_keep(f, mr_graph_input(f->graph, "embeds", MR_V_F32, 2, dim, &embeds));
    return mr_flow_op(f, MR_OP_EMBED, (mr_val[]){ids, table, embeds}, given ? 3 : 2, &attr);
}

mr_val mr_flow_mix(mr_flow *f, const char *name, int64_t vocab, int64_t width, double scale)
{
    mr_val table = mr_flow_weight(f, name, 2, (int64_t[]){vocab, width}), probs = MR_NO_VAL;
    mr_dim dim[2] = {{.n = 1, .sym = MR_SYM_ROWS}, {.n = vocab}};
    mr_attr attr = {.f = scale};
    if (f->err == MR_OK)
        mr_flow_keep(f, mr_graph_input(f->graph, "probs", MR_V_F32, 2, dim, &probs));
    return mr_flow_op(f, MR_OP_MIX, (mr_val[]){probs, table}, 2, &attr);
}

mr_val mr_flow_alias(mr_flow *f, mr_val ids, int32_t to, const int32_t media[3])
{
    mr_attr attr[] = {{.i = to}, {.i = media[0]}, {.i = media[1]}, {.i = media[2]}};
    return mr_flow_op(f, MR_OP_ALIAS, &ids, 1, attr);
}

mr_val mr_flow_linear_act(mr_flow *f, mr_val x, const char *prefix, int64_t n_out, const char *bias,
                          const char *act)
{
    int64_t k = mr_flow_width(f, x);
    mr_val w = mr_flow_weight(f, mr_flow_name(f, "%s.weight", prefix), 2, (int64_t[]){n_out, k});
    mr_val b = bias ? mr_flow_weight(f, bias, 1, &n_out) : MR_NONE;
    mr_attr attr = {.s = act};
    return mr_flow_named(f, mr_flow_op(f, MR_OP_LINEAR, (mr_val[]){x, w, b}, 3, &attr), prefix);
}

mr_val mr_flow_linear(mr_flow *f, mr_val x, const char *prefix, int64_t n_out, bool bias)
{
    const char *b = bias ? mr_flow_name(f, "%s.bias", prefix) : NULL;
    return mr_flow_linear_act(f, x, prefix, n_out, b, "auto");
}

mr_val mr_flow_add(mr_flow *f, mr_val a, mr_val b)
{
    return mr_flow_op(f, MR_OP_ADD, (mr_val[]){a, b}, 2, NULL);
}

mr_val mr_flow_mul(mr_flow *f, mr_val a, mr_val b)
{
    return mr_flow_op(f, MR_OP_MUL, (mr_val[]){a, b}, 2, NULL);
}

mr_val mr_flow_scale(mr_flow *f, mr_val x, double by)
{
    mr_attr attr = {.f = by};
    return mr_flow_op(f, MR_OP_SCALE, &x, 1, &attr);
}

mr_val mr_flow_scale_weight(mr_flow *f, mr_val x, const char *name)
{
    mr_attr attr = {.f = 1};
    mr_val w = mr_flow_weight(f, name, 1, (int64_t[]){1});
    return mr_flow_op(f, MR_OP_SCALE, (mr_val[]){x, w}, 2, &attr);
}

mr_val mr_flow_wanted(mr_flow *f, mr_val x)
{
    return mr_flow_op(f, MR_OP_GATHER, (mr_val[]){x, mr_flow_out_rows(f)}, 2, NULL);
}

mr_val mr_flow_act(mr_flow *f, mr_val x, mr_act fn)
{
    static const mr_op op[] = {
        [MR_ACT_SILU] = MR_OP_SILU,           [MR_ACT_GELU] = MR_OP_GELU,
        [MR_ACT_GELU_TANH] = MR_OP_GELU_TANH, [MR_ACT_QUICK_GELU] = MR_OP_SIGMOID,
        [MR_ACT_RELU] = MR_OP_RELU,           [MR_ACT_RELU2] = MR_OP_RELU,
        [MR_ACT_SIGMOID] = MR_OP_SIGMOID,     [MR_ACT_TANH] = MR_OP_SOFTCAP};
    const mr_attr cap = {.f = 1}; /* of tanh as a softcap */
    if (fn == MR_ACT_LINEAR)
        return x;
    mr_val in = fn == MR_ACT_QUICK_GELU ? mr_flow_scale(f, x, 1.702) : x;
    mr_val y = mr_flow_op(f, op[fn], &in, 1, fn == MR_ACT_TANH ? &cap : NULL);
    if (fn == MR_ACT_QUICK_GELU)
        return mr_flow_mul(f, x, y);
    return fn == MR_ACT_RELU2 ? mr_flow_mul(f, y, y) : y;
}

mr_val mr_flow_heads(mr_flow *f, mr_val x, int64_t n)
{
    mr_attr attr = {.i = n};
    return mr_flow_op(f, MR_OP_HEADS, &x, 1, &attr);
}

mr_val mr_flow_slice(mr_flow *f, mr_val x, int64_t start, int64_t len)
{
    mr_attr attr[] = {{.i = start}, {.i = len}};
    return mr_flow_op(f, MR_OP_SLICE, &x, 1, attr);
}

mr_val mr_flow_concat(mr_flow *f, mr_val a, mr_val b)
{
    return mr_flow_op(f, MR_OP_CONCAT, (mr_val[]){a, b}, 2, NULL);
}

/* ---- rope ---- */

static const char *kind_name(mr_rope_kind k)
{
    static const char *const name[] = {"none", "linear", "llama3", "yarn", "proportional"};
    return name[k];
}

/* Equal in what the table depends on; interleaved is the rotation's affair. */
static bool same_table(const mr_rope_spec *a, const mr_rope_spec *b)
{
    if (!a->factors != !b->factors || (a->factors && strcmp(a->factors, b->factors)))
        return false;
    return a->theta == b->theta && a->dim == b->dim && a->kind == b->kind &&
           a->factor == b->factor && a->low == b->low && a->high == b->high && a->orig == b->orig &&
           a->beta_fast == b->beta_fast && a->beta_slow == b->beta_slow && a->mscale == b->mscale &&
           a->truncate == b->truncate && a->angles == b->angles;
}

/* Attributes that a kind does not use take their defaults, so that the graph does not show a spec's
 * leftovers. */
static mr_val make_table(mr_flow *f, const mr_rope_spec *r)
{
    enum { FACTOR = 3, LOW, HIGH, ORIG, FAST, SLOW };
    mr_attr attr[MR_MAX_ATTR];
    const mr_op_info *info = mr_op_get(MR_OP_ROPE_TABLE);
    for (int i = 0; i < info->n_attr; i++)
        attr[i] = info->attr[i].def;
    assert(mr_attr_index(MR_OP_ROPE_TABLE, "factor") == FACTOR &&
           mr_attr_index(MR_OP_ROPE_TABLE, "beta_slow") == SLOW);
    attr[mr_attr_index(MR_OP_ROPE_TABLE, "theta")].f = r->theta;
    attr[mr_attr_index(MR_OP_ROPE_TABLE, "dim")].i = r->dim;
    attr[mr_attr_index(MR_OP_ROPE_TABLE, "kind")].s = kind_name(r->kind);
    attr[mr_attr_index(MR_OP_ROPE_TABLE, "mscale")].f = r->mscale;
    if (r->kind != MR_ROPE_NONE)
        attr[FACTOR].f = r->factor;
    if (r->kind == MR_ROPE_LLAMA3 || r->kind == MR_ROPE_YARN)
        attr[ORIG].f = r->orig;
    if (r->kind == MR_ROPE_LLAMA3) {
        attr[LOW].f = r->low;
        attr[HIGH].f = r->high;
    }
    if (r->kind == MR_ROPE_YARN) {
        attr[FAST].f = r->beta_fast;
        attr[SLOW].f = r->beta_slow;
        attr[mr_attr_index(MR_OP_ROPE_TABLE, "truncate")].i = r->truncate;
    }
    if (r->kind == MR_ROPE_PROPORTIONAL)
        attr[mr_attr_index(MR_OP_ROPE_TABLE, "angles")].i = r->angles;
    int64_t half = (r->dim + 1) / 2;
    mr_val factors = r->factors ? mr_flow_weight_try(f, r->factors, 1, &half) : MR_NONE;
    return mr_flow_op(f, MR_OP_ROPE_TABLE, (mr_val[]){mr_flow_pos(f), factors}, 2, attr);
}

mr_val mr_flow_rope_table(mr_flow *f, const mr_rope_spec *r)
{
    for (int i = 0; i < f->n_ropes; i++)
        if (same_table(&f->ropes[i].spec, r))
            return f->err == MR_OK ? f->ropes[i].table : MR_NO_VAL;
    mr_val table = make_table(f, r);
    if (table != MR_NO_VAL && f->n_ropes < MR_FLOW_ROPES) {
        f->ropes[f->n_ropes].spec = *r;
        f->ropes[f->n_ropes++].table = table;
    }
    return table;
}

/* ---- head ---- */

/* The name of the head's matrix. */
static const char *head_matrix(mr_flow *f, const mr_head_spec *s)
{
    bool same = true;
    if (!s->tied)
        return s->head_name;
    if (f->source.same && f->err == MR_OK)
        mr_flow_keep(f, f->source.same(f->source.ctx, s->head_name, s->embed_name, &same));
    return same ? s->embed_name : s->head_name;
}

mr_val mr_flow_head(mr_flow *f, mr_val x, const mr_head_spec *spec)
{
    mr_head_spec own = *spec;
    const mr_head_spec *s = &own;
    own.norm_name = own.norm_name ? own.norm_name : "model.norm.weight";
    own.head_name = own.head_name ? own.head_name : "lm_head.weight";
    own.embed_name = own.embed_name ? own.embed_name : "model.embed_tokens.weight";
    mr_val y = s->wanted ? x : mr_flow_wanted(f, x);
    y = mr_flow_norm(f, y, s->norm_name, s->norm);
    int64_t dim[2] = {s->vocab, mr_flow_width(f, y)};
    mr_val w = mr_flow_weight(f, head_matrix(f, s), 2, dim), b = MR_NONE;
    if (s->bias) {
        int stem = (int)(strlen(s->head_name) - strlen(".weight"));
        b = mr_flow_weight(f, mr_flow_name(f, "%.*s.bias", stem, s->head_name), 1, dim);
    }
    mr_attr act = {.s = s->act_f32 ? "f32" : "auto"}, cap = {.f = s->softcap};
    y = mr_flow_op(f, MR_OP_LINEAR, (mr_val[]){y, w, b}, 3, &act);
    if (s->softcap > 0)
        y = mr_flow_op(f, MR_OP_SOFTCAP, &y, 1, &cap);
    return y;
}
