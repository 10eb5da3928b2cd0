/* Feed-forward blocks: the gated MLP and the mixture of such MLPs. */
#include "flow/flow.h"

mr_val mr_flow_mlp(mr_flow *f, mr_val x, const mr_mlp_spec *s)
{
    int64_t n = mr_flow_width(f, x);
    const char *p = s->prefix;
    mr_val g = mr_flow_linear(f, x, mr_flow_name(f, "%s.gate_proj", p), s->width, s->bias);
    mr_val u = mr_flow_linear(f, x, mr_flow_name(f, "%s.up_proj", p), s->width, s->bias);
    mr_val h = mr_flow_mul(f, mr_flow_act(f, g, s->fn), u);
    return mr_flow_linear(f, h, mr_flow_name(f, "%s.down_proj", p), n, s->bias);
}

/* All experts' matrices [E, out, in] as one weight. */
static mr_val expert_weight(mr_flow *f, const mr_moe_spec *s, const char *what, int64_t out,
                            int64_t in)
{
    const char *name = mr_flow_name(f, "%s.experts.{0..%lld}.%s.weight", s->prefix,
                                    (long long)s->experts - 1, what);
    return mr_flow_weight(f, name, 3, (int64_t[]){s->experts, out, in});
}

static mr_val expert_linear(mr_flow *f, mr_val x, mr_val w, mr_val ids)
{
    mr_attr attr = {.s = "auto"};
    return mr_flow_op(f, MR_OP_EXPERT_LINEAR, (mr_val[]){x, w, ids}, 3, &attr);
}

/* The router's activations stay f32 in every precision: a rounding there changes the choice of
 * experts. */
mr_val mr_flow_route(mr_flow *f, mr_val x, const mr_moe_spec *s)
{
    const char *router = mr_flow_name(f, "%s.%s", s->prefix, s->router);
    mr_val logits = mr_flow_linear_act(f, x, router, s->experts, NULL, "f32");
    mr_val bias = MR_NONE, gain = MR_NONE;
    if (s->router_bias)
        bias =
            mr_flow_weight(f, mr_flow_name(f, "%s.%s", s->prefix, s->router_bias), 1, &s->experts);
    mr_attr attr[] = {
        {.i = s->top_k}, {.s = s->score},    {.i = s->groups}, {.i = s->keep},
        {.i = s->norm},  {.f = s->norm_eps}, {.f = s->scale},  {.i = s->group_max ? 1 : 2},
        {.i = s->block}, {.i = s->capacity}};
    mr_val pos = s->block ? mr_flow_pos(f) : MR_NONE;
    if (s->router_gain)
        gain =
            mr_flow_weight(f, mr_flow_name(f, "%s.%s", s->prefix, s->router_gain), 1, &s->experts);
    return mr_flow_op(f, MR_OP_ROUTE, (mr_val[]){logits, bias, gain, pos}, 4, attr);
}

/* The expert that all rows go through; with a gate, weighted by sigmoid(w x): a sum over one expert. */
static mr_val shared_expert(mr_flow *f, mr_val x, const mr_moe_spec *s)
{
    const char *prefix = mr_flow_name(f, "%s.%s", s->prefix, s->shared);
    mr_mlp_spec mlp = {
        .prefix = prefix, .width = s->shared_width, .fn = s->fn, .bias = s->shared_bias};
    mr_val y = mr_flow_mlp(f, x, &mlp);
    if (!s->shared_gate)
        return y;
    const char *name = mr_flow_name(f, "%s.%s", s->prefix, s->shared_gate);
    mr_val gate = mr_flow_linear_act(f, x, name, 1, NULL, "f32");
    gate = mr_flow_op(f, MR_OP_SIGMOID, &gate, 1, NULL);
    return mr_flow_op(f, MR_OP_COMBINE, (mr_val[]){mr_flow_heads(f, y, 1), gate}, 2, NULL);
}

mr_val mr_flow_experts(mr_flow *f, mr_val x, mr_val ids, const mr_moe_spec *s)
{
    int64_t n = mr_flow_width(f, x);
    mr_val weights = ids == MR_NO_VAL ? MR_NO_VAL : ids + 1;
    mr_val wg = expert_weight(f, s, "gate_proj", s->width, n);
    mr_val wu = expert_weight(f, s, "up_proj", s->width, n);
    mr_val wd = expert_weight(f, s, "down_proj", n, s->width);
    mr_val g = expert_linear(f, x, wg, ids), u = expert_linear(f, x, wu, ids);
    mr_val h = mr_flow_mul(f, mr_flow_act(f, g, s->fn), u);
    mr_val y = expert_linear(f, h, wd, ids);
    return mr_flow_op(f, MR_OP_COMBINE, (mr_val[]){y, weights}, 2, NULL);
}

mr_val mr_flow_moe(mr_flow *f, mr_val x, const mr_moe_spec *s)
{
    mr_val y = mr_flow_experts(f, x, mr_flow_route(f, x, s), s);
    return s->shared_width ? mr_flow_add(f, y, shared_expert(f, x, s)) : y;
}
