/* The DeepSeek line's GGUF files, as config.json and published names.
 *
 * The architecture is one, deepseek2: how experts are scored tells V2 from V3.  Files differ by age:
 * old ones have kv_b whole and no keys for groups, lengths of heads and YaRN's bounds. */
#include "model/deepseek.h"

#include <assert.h>
#include <string.h>

/* The file's yarn_log_multiplier is 0.1 * mscale_all_dim; mscale itself is not stored, but the published
 * models have cos and sin unscaled, so it is the same. */
static void gguf_rope(mr_gguf_config *c)
{
    char type[32];
    double v;
    mr_gguf_config_rope_type(c, type);
    if (!strcmp(type, "none"))
        return;
    if (strcmp(type, "yarn") != 0) {
        mr_gguf_config_refuse(c, "rope.scaling.type", "only none and yarn are supported");
        return;
    }
    mr_gguf_config_open(c, "rope_scaling");
    mr_gguf_config_raw(c, "rope_type", "\"yarn\"");
    mr_gguf_config_rows(c, mr_gguf_rope_scaling);
    if (mr_gguf_config_get_num(c, "rope.scaling.yarn_log_multiplier", &v) && v != 0) {
        mr_gguf_config_num(c, "mscale", v * 10);
        mr_gguf_config_num(c, "mscale_all_dim", v * 10);
    } else {
        mr_gguf_config_raw(c, "attention_factor", "1.0");
    }
    mr_gguf_config_close(c);
}

/* Files older than the group keys: the published models that have groups are known by their experts. */
static void gguf_groups(mr_gguf_config *c, bool softmax)
{
    int64_t experts = 0, groups, keep;
    mr_gguf_config_get_int(c, "expert_count", &experts);
    int64_t known = experts == (softmax ? 160 : 256) ? 8 : 1;
    if (!mr_gguf_config_get_int(c, "expert_group_count", &groups))
        groups = known;
    if (!mr_gguf_config_get_int(c, "expert_group_used_count", &keep))
        keep = known == groups && known == 8 ? (softmax ? 3 : 4) : groups;
    mr_gguf_config_int(c, "n_group", groups);
    mr_gguf_config_int(c, "topk_group", keep);
    if (softmax && groups > 1)
        mr_gguf_config_raw(c, "topk_method", "\"group_limited_greedy\"");
}

static void gguf_heads(mr_gguf_config *c)
{
    int64_t key = 0, value = 0, dim = 0;
    bool has_key = mr_gguf_config_get_int(c, "attention.key_length_mla", &key) ||
                   mr_gguf_config_get_int(c, "attention.key_length", &key);
    bool has_value = mr_gguf_config_get_int(c, "attention.value_length_mla", &value) ||
                     mr_gguf_config_get_int(c, "attention.value_length", &value);
    bool has_dim = mr_gguf_config_get_int(c, "rope.dimension_count", &dim);
    if (has_dim)
        mr_gguf_config_int(c, "qk_rope_head_dim", dim);
    if (has_dim && has_key && dim > 0 && key > dim)
        mr_gguf_config_int(c, "qk_nope_head_dim", key - dim);
    if (has_value)
        mr_gguf_config_int(c, "v_head_dim", value);
}

mr_err mr_deepseek_gguf_config(const mr_weights *w, mr_buf *json)
{
    static const mr_gguf_row rows[] = {{"num_key_value_heads", NULL, 0},
                                       {"head_dim", NULL, 0},
                                       {"kv_lora_rank", "attention.kv_lora_rank", 'i'},
                                       {"moe_intermediate_size", "expert_feed_forward_length", 'i'},
                                       {"n_routed_experts", "expert_count", 'i'},
                                       {"num_experts_per_tok", "expert_used_count", 'i'},
                                       {"routed_scaling_factor", "expert_weights_scale", 'n'},
                                       {"first_k_dense_replace", "leading_dense_block_count", 'i'},
                                       {0}};
    mr_gguf_config c;
    int64_t v;
    double scale;
    const mr_gguf *g = mr_weights_gguf(w);
    int64_t gating = 1; /* softmax; files without the key are DeepSeek-V2's */
    if (mr_gguf_kind(g, "deepseek2.expert_gating_func") != MR_GGUF_ABSENT)
        MR_TRY(mr_gguf_int(g, "deepseek2.expert_gating_func", &gating));
    mr_gguf_config_begin(&c, w, "deepseek2", gating == 1 ? "deepseek_v2" : "deepseek_v3", rows,
                         json);
    if (gating != 1 && gating != 2)
        mr_gguf_config_refuse(&c, "expert_gating_func",
                              "only softmax (1) and sigmoid (2) are supported");
    if (mr_gguf_config_get_int(&c, "attention.q_lora_rank", &v))
        mr_gguf_config_int(&c, "q_lora_rank", v);
    else
        mr_gguf_config_raw(&c, "q_lora_rank", "null");
    v = 0;
    mr_gguf_config_get_int(&c, "expert_shared_count", &v);
    mr_gguf_config_int(&c, "n_shared_experts", v);
    v = 0; /* written only when true */
    mr_gguf_config_get_int(&c, "expert_weights_norm", &v);
    mr_gguf_config_raw(&c, "norm_topk_prob", v ? "true" : "false");
    if (!mr_gguf_config_get_num(&c, "expert_weights_scale", &scale))
        mr_gguf_config_num(&c, "routed_scaling_factor", 1);
    gguf_heads(&c);
    gguf_groups(&c, gating == 1);
    gguf_rope(&c);
    return mr_gguf_config_end(&c);
}

/* ---- and back ---- */

/* Of a head: n numbers of keys that are not rotated, v of values; h heads. */
int64_t mr_deepseek_number(const void *cfg, char letter)
{
    const deepseek *c = cfg;
    assert(letter == 'h' || letter == 'n' || letter == 'v');
    return letter == 'h' ? c->heads : letter == 'n' ? c->nope : c->v_dim;
}

mr_err mr_deepseek_gguf_meta(const void *cfg, mr_jval o, const mr_gguf_put *p)
{
    const deepseek *c = cfg;
    mr_gguf_put_int(p, "feed_forward_length", c->inter);
    mr_gguf_put_int(p, "attention.head_count", c->heads);
    mr_gguf_put_int(p, "attention.head_count_kv", 1); /* the latent */
    mr_gguf_put_num(p, "attention.layer_norm_rms_epsilon", c->eps);
    if (c->q_lora)
        mr_gguf_put_int(p, "attention.q_lora_rank", c->q_lora);
    mr_gguf_put_int(p, "attention.kv_lora_rank", c->kv_lora);
    mr_gguf_put_int(p, "attention.key_length", c->kv_lora + c->rope_dim);
    mr_gguf_put_int(p, "attention.value_length", c->kv_lora);
    mr_gguf_put_int(p, "attention.key_length_mla", c->nope + c->rope_dim);
    mr_gguf_put_int(p, "attention.value_length_mla", c->v_dim);
    mr_gguf_put_int(p, "rope.dimension_count", c->rope_dim);
    mr_gguf_put_int(p, "leading_dense_block_count", c->dense_layers);
    mr_gguf_put_int(p, "expert_count", c->experts);
    mr_gguf_put_int(p, "expert_used_count", c->route.k);
    mr_gguf_put_int(p, "expert_shared_count", c->shared / c->moe_inter);
    mr_gguf_put_int(p, "expert_feed_forward_length", c->moe_inter);
    mr_gguf_put_int(p, "expert_group_count", c->route.groups);
    mr_gguf_put_int(p, "expert_group_used_count", c->route.keep);
    mr_gguf_put_int(p, "expert_gating_func", c->line->v3 ? 2 : 1);
    mr_gguf_put_num(p, "expert_weights_scale", c->routed_scale);
    if (c->norm_topk)
        mr_gguf_put_bool(p, "expert_weights_norm", true);
    if (c->rope.kind == MR_ROPE_YARN && c->all_dim != 0)
        mr_gguf_put_num(p, "rope.scaling.yarn_log_multiplier", 0.1 * c->all_dim);
    return mr_gguf_put_rope(p, &c->rope, 1, mr_jget(o, "rope_scaling"));
}

#define BLOCK(hf, gguf)                                                                            \
    {                                                                                              \
        "model.layers.{L}." hf, "blk.{L}." gguf, NULL                                              \
    }
const mr_name_row mr_deepseek_names[] = {
    BLOCK("self_attn.q_a_proj.weight", "attn_q_a.weight"),
    BLOCK("self_attn.q_a_layernorm.weight", "attn_q_a_norm.weight"),
    BLOCK("self_attn.q_b_proj.weight", "attn_q_b.weight"),
    BLOCK("self_attn.kv_a_proj_with_mqa.weight", "attn_kv_a_mqa.weight"),
    BLOCK("self_attn.kv_a_layernorm.weight", "attn_kv_a_norm.weight"),
    BLOCK("self_attn.kv_b_proj.weight", "attn_kv_b.weight"),
    BLOCK("self_attn.embed_q.weight", "attn_k_b.weight"),
    BLOCK("self_attn.unembed_out.weight", "attn_v_b.weight"),
    BLOCK("mlp.gate.e_score_correction_bias", "exp_probs_b.bias"),
    BLOCK("mlp.shared_experts.gate_proj.weight", "ffn_gate_shexp.weight"),
    BLOCK("mlp.shared_experts.up_proj.weight", "ffn_up_shexp.weight"),
    BLOCK("mlp.shared_experts.down_proj.weight", "ffn_down_shexp.weight"),
    {0}};
