/* Recurrent blocks.
 *
 * The gated delta net as its families publish it: one product for q|k|v, whose channels go through a
 * causal convolution and an activation; queries and keys of unit length; per value head a decay
 * exp(-exp(A_log) softplus(a + dt_bias)) and a strength sigmoid(b).  What the rule gives is normed head
 * by head and gated by silu(z).  Files that group rows by head hold the same weights in another order,
 * which the source undoes. */
#include "flow/flow.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static mr_val state(mr_flow *f, const mr_delta_net_spec *s, const char *what, int64_t heads,
                    int64_t dk, int64_t dv)
{
    mr_attr attr[] = {
        {.s = mr_flow_name(f, "layers.%d.%s", s->layer, what)}, {.i = heads}, {.i = dk}, {.i = dv}};
    return mr_flow_op(f, MR_OP_STATE, NULL, 0, attr);
}

static const char *under(mr_flow *f, const mr_delta_net_spec *s, const char *name)
{
    return mr_flow_name(f, "%s.%s", s->prefix, name);
}

/* w of decay: -exp(A_log), made while loading unless the file holds that. */
static mr_val decay_weight(mr_flow *f, const mr_delta_net_spec *s)
{
    const char *name = under(f, s, "A_log");
    mr_found found;
    if (!mr_flow_find(f, name, 1, &s->v_heads, true, &found))
        return MR_NO_VAL;
    size_t n = strlen(found.recipe);
    if (!found.neg_exp) {
        int more = snprintf(found.recipe + n, sizeof found.recipe - n, " :negexp");
        if (more < 0 || (size_t)more >= sizeof found.recipe - n) {
            mr_flow_fail(f, MR_ELIMIT, "%s: the name \"%.60s...\" is too long", f->name, name);
            return MR_NO_VAL;
        }
        found.fmt = (mr_fmt){.dtype = MR_F32};
    }
    return mr_flow_recipe(f, name, &found, 1, &s->v_heads);
}

static mr_val convolve(mr_flow *f, mr_val x, const mr_delta_net_spec *s, int64_t channels)
{
    const char *name = under(f, s, "conv1d.weight");
    int64_t stored[3] = {channels, 1, s->width}, dim[2] = {channels, s->width};
    mr_found found;
    if (!mr_flow_find(f, name, 3, stored, true, &found))
        return MR_NO_VAL;
    mr_val w = mr_flow_recipe(f, name, &found, 2, dim);
    mr_val c = state(f, s, "conv", 1, s->width > 1 ? s->width - 1 : 1, channels);
    x = mr_flow_op(f, MR_OP_CONV1D, (mr_val[]){x, w, c}, 3, NULL);
    return mr_flow_act(f, x, s->act);
}

/* n heads of d channels from `start` on, each of unit length times `scale`. */
static mr_val unit_heads(mr_flow *f, mr_val x, int64_t start, int64_t n, int64_t d, double scale)
{
    mr_attr attr[] = {{.f = 1e-6}, {.f = scale}};
    x = mr_flow_heads(f, mr_flow_slice(f, x, start, n * d), n);
    return mr_flow_op(f, MR_OP_L2NORM, &x, 1, attr);
}

/* Router, decay and strength decide more than they weigh: their activations stay f32. */
static mr_val head_scalars(mr_flow *f, mr_val x, const mr_delta_net_spec *s, const char *name)
{
    return mr_flow_linear_act(f, x, under(f, s, name), s->v_heads, NULL, "f32");
}

mr_val mr_flow_delta_net(mr_flow *f, mr_val x, const mr_delta_net_spec *s)
{
    int64_t keys = s->k_heads * s->dk, values = s->v_heads * s->dv, n = mr_flow_width(f, x);
    mr_val y = mr_flow_linear(f, x, under(f, s, "in_proj_qkv"), 2 * keys + values, false);
    mr_val z = mr_flow_linear(f, x, under(f, s, "in_proj_z"), values, false);
    mr_val beta = head_scalars(f, x, s, "in_proj_b"), decay = head_scalars(f, x, s, "in_proj_a");
    beta = mr_flow_op(f, MR_OP_SIGMOID, &beta, 1, NULL);
    mr_val bias = mr_flow_weight(f, under(f, s, "dt_bias"), 1, &s->v_heads);
    decay = mr_flow_op(f, MR_OP_DECAY, (mr_val[]){decay, decay_weight(f, s), bias}, 3, NULL);

    y = convolve(f, y, s, 2 * keys + values);
    mr_val q = unit_heads(f, y, 0, s->k_heads, s->dk, 1 / sqrt((double)s->dk));
    mr_val k = unit_heads(f, y, keys, s->k_heads, s->dk, 1);
    mr_val v = mr_flow_heads(f, mr_flow_slice(f, y, 2 * keys, values), s->v_heads);
    mr_val c = state(f, s, "delta", s->v_heads, s->dk, s->dv);
    y = mr_flow_op(f, MR_OP_DELTA_RULE, (mr_val[]){q, k, v, decay, beta, c}, 6, NULL);

    y = mr_flow_norm(f, y, under(f, s, "norm.weight"), (mr_norm_spec){.eps = s->eps});
    z = mr_flow_act(f, mr_flow_heads(f, z, s->v_heads), MR_ACT_SILU);
    y = mr_flow_heads(f, mr_flow_mul(f, y, z), 0);
    return mr_flow_linear(f, y, under(f, s, "out_proj"), n, false);
}
