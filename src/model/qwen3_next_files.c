/* The Qwen hybrids' weights in other forms than the canonical ones, which are Qwen3.5's names.
 *
 * Qwen3-Next files hold q, k, v, z and b, a of one key head side by side; GGUF files of Qwen3.5 hold
 * value heads in tiles of one per key head. */
#include "model/qwen3_next.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

/* Rows per key head: d of q, as many of k, g of v and of z: p in all; f before z.  s of b and a, r
 * each.  In all: x of q and k, v of v, c together.  h key heads; a value head is w wide. */
int64_t mr_qwen3_next_number(const void *cfg, char letter)
{
    const hybrid *c = cfg;
    int64_t ratio = c->v_heads / c->k_heads, d = c->dk, g = ratio * c->dv;
    switch (letter) {
    case 'd':
        return d;
    case 'e':
        return 2 * d;
    case 'f':
        return 2 * d + g;
    case 'g':
        return g;
    case 'p':
        return 2 * d + 2 * g;
    case 'r':
        return ratio;
    case 's':
        return 2 * ratio;
    case 'x':
        return 2 * d * c->k_heads;
    case 'v':
        return g * c->k_heads;
    case 'c':
        return (2 * d + g) * c->k_heads;
    case 'h':
        return c->k_heads;
    default:
        assert(letter == 'w');
        return c->dv;
    }
}

#define LAYER(hf, there, mod)                                                                      \
    {                                                                                              \
        "model.layers.{L}." hf, there, mod                                                         \
    }
#define BLOCK(hf, gguf, mod) LAYER(hf, "blk.{L}." gguf, mod)
#define QKV "= :rows(%p,0,%d) + = :rows(%p,%d,%d) + = :rows(%p,%e,%g)"

const mr_name_row mr_qwen3_next_forms[] = {
    LAYER("linear_attn.in_proj_qkv.weight", "model.layers.{L}.linear_attn.in_proj_qkvz.weight",
          QKV),
    LAYER("linear_attn.in_proj_z.weight", "model.layers.{L}.linear_attn.in_proj_qkvz.weight",
          "= :rows(%p,%f,%g)"),
    LAYER("linear_attn.in_proj_b.weight", "model.layers.{L}.linear_attn.in_proj_ba.weight",
          "= :rows(%s,0,%r)"),
    LAYER("linear_attn.in_proj_a.weight", "model.layers.{L}.linear_attn.in_proj_ba.weight",
          "= :rows(%s,%r,%r)"),
    {0}};

/* ---- GGUF ---- */

mr_err mr_qwen3_next_gguf_config(const mr_weights *w, mr_buf *json)
{
    static const struct {
        const char *arch, *model_type;
    } known[] = {
        {"qwen3next", "qwen3_next"}, {"qwen35", "qwen3_5_text"}, {"qwen35moe", "qwen3_5_moe_text"}};
    static const mr_gguf_row rows[] = {
        {"moe_intermediate_size", "expert_feed_forward_length", 'i'},
        {"shared_expert_intermediate_size", "expert_shared_feed_forward_length", 'i'},
        {"num_experts", "expert_count", 'i'},
        {"num_experts_per_tok", "expert_used_count", 'i'},
        {"full_attention_interval", "full_attention_interval", 'i'},
        {"linear_conv_kernel_dim", "ssm.conv_kernel", 'i'},
        {"linear_key_head_dim", "ssm.state_size", 'i'},
        {"linear_num_key_heads", "ssm.group_count", 'i'},
        {"linear_num_value_heads", "ssm.time_step_rank", 'i'},
        {0}};
    mr_gguf_config c;
    mr_str arch;
    int i = 0;
    MR_TRY(mr_gguf_str(mr_weights_gguf(w), "general.architecture", &arch));
    while (!mr_str_is(arch, known[i].arch))
        i++;
    mr_gguf_config_begin(&c, w, known[i].arch, known[i].model_type, rows, json);
    int64_t inner, heads, key, rotated;
    if (mr_gguf_config_get_int(&c, "ssm.inner_size", &inner) &&
        mr_gguf_config_get_int(&c, "ssm.time_step_rank", &heads) && heads > 0)
        mr_gguf_config_int(&c, "linear_value_head_dim", inner / heads);
    if (mr_gguf_config_get_int(&c, "rope.dimension_count", &rotated) &&
        mr_gguf_config_get_int(&c, "attention.key_length", &key) && key > 0)
        mr_gguf_config_num(&c, "partial_rotary_factor", (double)rotated / (double)key);
    mr_gguf_config_layer_types(&c, "attention.recurrent_layers", "linear_attention", NULL);
    mr_gguf_config_one_head_dim(&c);
    mr_gguf_config_rope_scaling(&c);
    return mr_gguf_config_end(&c);
}

/* Positions of text are one number, whatever the parts that images divide a head into. */
static mr_err put_sections(mr_jval o, const mr_gguf_put *p)
{
    int64_t part[4] = {11, 11, 10, 0};
    mr_jval list = mr_jget(mr_jget(o, "rope_parameters"), "mrope_section");
    int i = 0;
    if (!mr_jhas(list))
        list = mr_jget(mr_jget(o, "rope_scaling"), "mrope_section");
    if (mr_jtype(list) == MR_JARRAY)
        for (mr_jval n = mr_jfirst(list); n.doc && i < 4; n = mr_jnext(n), i++)
            MR_TRY(mr_jint(n, 0, INT32_MAX, &part[i]));
    mr_gguf_put_ints(p, "rope.dimension_sections", part, 4);
    return MR_OK;
}

static mr_err put_experts(const hybrid *c, mr_jval o, const mr_gguf_put *p)
{
    for (int64_t i = 0; i < c->info.layers; i++)
        if (!c->sparse[i])
            return mr_cfg_refuse(o, "GGUF's %s has experts in every layer", p->arch);
    if (!c->norm_topk)
        return mr_cfg_refuse(mr_jget(o, "norm_topk_prob"), "GGUF's %s always divides by the sum",
                             p->arch);
    mr_gguf_put_int(p, "expert_count", c->experts);
    mr_gguf_put_int(p, "expert_used_count", c->top_k);
    mr_gguf_put_int(p, "expert_feed_forward_length", c->moe_inter);
    mr_gguf_put_int(p, "expert_shared_feed_forward_length", c->shared);
    return MR_OK;
}

mr_err mr_qwen3_next_gguf_meta(const void *cfg, mr_jval o, const mr_gguf_put *p)
{
    const hybrid *c = cfg;
    int64_t every = 1;
    bool recurrent[MR_CFG_LAYERS];
    for (int64_t i = 0; i < c->info.layers; i++)
        recurrent[i] = !c->full[i];
    while (every < c->info.layers && recurrent[every - 1])
        every++;
    mr_gguf_put_int(p, "attention.head_count", c->head.heads);
    mr_gguf_put_int(p, "attention.head_count_kv", c->head.kv_heads);
    mr_gguf_put_int(p, "attention.key_length", c->head.head_dim);
    mr_gguf_put_int(p, "attention.value_length", c->head.head_dim);
    mr_gguf_put_num(p, "attention.layer_norm_rms_epsilon", c->eps);
    mr_gguf_put_bools(p, "attention.recurrent_layers", recurrent, c->info.layers);
    mr_gguf_put_int(p, "full_attention_interval", every);
    mr_gguf_put_int(p, "ssm.conv_kernel", c->width);
    mr_gguf_put_int(p, "ssm.state_size", c->dk);
    mr_gguf_put_int(p, "ssm.group_count", c->k_heads);
    mr_gguf_put_int(p, "ssm.time_step_rank", c->v_heads);
    mr_gguf_put_int(p, "ssm.inner_size", c->v_heads * c->dv);
    mr_gguf_put_int(p, "rope.dimension_count", c->rope.dim);
    if (c->inter)
        mr_gguf_put_int(p, "feed_forward_length", c->inter);
    if (strncmp(p->arch, "qwen35", 6) == 0)
        MR_TRY(put_sections(o, p));
    if (c->experts)
        MR_TRY(put_experts(c, o, p));
    return mr_gguf_put_rope(p, &c->rope, mr_yarn_mscale(c->rope.factor, 1),
                            mr_jget(o, "rope_scaling"));
}

#define SHARED_ROWS                                                                                \
    {"model.norm.weight", "output_norm.weight", MR_ONE_PLUS_W},                                    \
        BLOCK("input_layernorm.weight", "attn_norm.weight", MR_ONE_PLUS_W),                        \
        BLOCK("post_attention_layernorm.weight", "post_attention_norm.weight", MR_ONE_PLUS_W),     \
        BLOCK("self_attn.q_norm.weight", "attn_q_norm.weight", MR_ONE_PLUS_W),                     \
        BLOCK("self_attn.k_norm.weight", "attn_k_norm.weight", MR_ONE_PLUS_W),                     \
        BLOCK("linear_attn.norm.weight", "ssm_norm.weight", NULL),                                 \
        BLOCK("mlp.shared_expert.gate_proj.weight", "ffn_gate_shexp.weight", NULL),                \
        BLOCK("mlp.shared_expert.up_proj.weight", "ffn_up_shexp.weight", NULL),                    \
        BLOCK("mlp.shared_expert.down_proj.weight", "ffn_down_shexp.weight", NULL),                \
        BLOCK("mlp.shared_expert_gate.weight", "ffn_gate_inp_shexp.weight", "=")

const mr_name_row mr_qwen3_next_names[] = {
    SHARED_ROWS,
    BLOCK("linear_attn.in_proj_qkv.weight", "attn_qkv.weight", NULL),
    BLOCK("linear_attn.in_proj_qkv.weight", "ssm_in.weight", QKV),
    BLOCK("linear_attn.in_proj_z.weight", "attn_gate.weight", NULL),
    BLOCK("linear_attn.in_proj_z.weight", "ssm_in.weight", "= :rows(%p,%f,%g)"),
    BLOCK("linear_attn.in_proj_b.weight", "ssm_ba.weight", "= :rows(%s,0,%r)"),
    BLOCK("linear_attn.in_proj_a.weight", "ssm_ba.weight", "= :rows(%s,%r,%r)"),
    BLOCK("linear_attn.conv1d.weight", "ssm_conv1d.weight", "="),
    BLOCK("linear_attn.A_log", "ssm_a", MR_NEG_EXP),
    BLOCK("linear_attn.dt_bias", "ssm_dt.bias", NULL),
    BLOCK("linear_attn.out_proj.weight", "ssm_out.weight", NULL),
    {0}};

#define UNTILE_V "= :rows(%c,0,%x) + = :rows(%c,%x,%v) :untile(%h,%w)"
const mr_name_row mr_qwen3_5_names[] = {
    SHARED_ROWS,
    BLOCK("linear_attn.in_proj_qkv.weight", "attn_qkv.weight", UNTILE_V),
    BLOCK("linear_attn.in_proj_z.weight", "attn_gate.weight", ":untile(%h,%w)"),
    BLOCK("linear_attn.in_proj_b.weight", "ssm_beta.weight", ":untile(%h,1)"),
    BLOCK("linear_attn.in_proj_a.weight", "ssm_alpha.weight", ":untile(%h,1)"),
    BLOCK("linear_attn.conv1d.weight", "ssm_conv1d.weight", UNTILE_V),
    BLOCK("linear_attn.A_log", "ssm_a", MR_NEG_EXP " :untile_k(%h,1)"),
    BLOCK("linear_attn.dt_bias", "ssm_dt.bias", ":untile_k(%h,1)"),
    BLOCK("linear_attn.out_proj.weight", "ssm_out.weight", ":untile_k(%h,%w)"),
    {0}};
