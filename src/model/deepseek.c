/* The DeepSeek line: latent attention and, but for the first layers, a mixture of experts with shared
 * ones.  V2 scores experts by softmax and takes the best (V2-Lite) or the best of the groups with the
 * largest scores; V3 and what is of its class (R1, Cogito v2, Moonlight, Kimi-K2) by sigmoid, with a
 * correction bias and groups by the sum of two.  Kimi-K2.5 is K2 under text_config.
 *
 * The norms of the latents have an epsilon of their own, 1e-6, whatever rms_norm_eps says.  Layers
 * from num_hidden_layers on are multi-token prediction and are not run. */
#include <math.h>
#include <string.h>

#include "model/family.h"

typedef struct deepseek {
    mr_model_info info;
    int64_t inter, moe_inter, shared, heads, dense_layers;
    int64_t q_lora, kv_lora, nope, rope_dim, v_dim;
    int64_t experts;
    mr_cfg_route route;
    double eps, scale, routed_scale;
    mr_op act;
    bool tied, bias, mlp_bias, norm_topk, correction, group_max;
    const char *score;
    mr_rope_spec rope;
} deepseek;

/* What the two classes of the line do not share: how experts are scored, and defaults. */
typedef struct line {
    const char *score, *method, *experts_too; /* another name of n_routed_experts */
    bool v3;
    int64_t max_positions, heads, inter, dense_layers, experts, moe_inter, shared;
    mr_cfg_route route;
    double scale;
} line;

static const line v2 = {.score = "softmax",
                        .method = "greedy",
                        .experts_too = "num_experts",
                        .max_positions = 2048,
                        .heads = 32,
                        .inter = 11008,
                        .experts = 64,
                        .moe_inter = 1407,
                        .shared = 2,
                        .scale = 1};
static const line v3 = {.score = "sigmoid",
                        .method = "noaux_tc",
                        .experts_too = "num_local_experts",
                        .v3 = true,
                        .max_positions = 4096,
                        .heads = 128,
                        .inter = 18432,
                        .dense_layers = 3,
                        .experts = 256,
                        .moe_inter = 2048,
                        .shared = 1,
                        .route = {8, 8, 4},
                        .scale = 2.5};

/* ---- config ---- */

/* Absent, or one of the two values that are implemented (b may be NULL); *is_b: it is b. */
static mr_err only(mr_jval o, const char *key, const char *a, const char *b, bool *is_b)
{
    mr_jval v = mr_jget(o, key);
    mr_str raw = mr_jraw(v);
    *is_b = b && mr_jhas(v) && mr_jis(v, b);
    if (!mr_jhas(v) || mr_jis(v, a) || *is_b)
        return MR_OK;
    return mr_cfg_refuse(v, "%.*s is not supported, only \"%s\"%s%s%s",
                         raw.len > 60 ? 60 : (int)raw.len, raw.data, a, b ? " and \"" : "",
                         b ? b : "", b ? "\"" : "");
}

/* On unless said otherwise; null is false to the reference. */
static mr_err on_or_null(mr_jval o, const char *key, bool *out)
{
    *out = false;
    return mr_jtype(mr_jget(o, key)) == MR_JNULL ? MR_OK : mr_cfg_bool_or(o, key, true, out);
}

static mr_err attention_config(mr_jval o, const line *l, deepseek *c)
{
    int64_t kv_heads;
    MR_TRY(mr_cfg_int_or(o, "num_attention_heads", l->heads, 1, MR_CFG_HEADS, &c->heads));
    MR_TRY(mr_cfg_int_or(o, "num_key_value_heads", c->heads, 1, MR_CFG_HEADS, &kv_heads));
    if (kv_heads != c->heads)
        return mr_cfg_refuse(mr_jget(o, "num_key_value_heads"),
                             "%lld with %lld heads: latent attention has as many",
                             (long long)kv_heads, (long long)c->heads);
    if (mr_jtype(mr_jget(o, "q_lora_rank")) != MR_JNULL) /* null: none */
        MR_TRY(mr_cfg_int_or(o, "q_lora_rank", 1536, 1, MR_CFG_HIDDEN, &c->q_lora));
    MR_TRY(mr_cfg_int_or(o, "kv_lora_rank", 512, 1, MR_CFG_HEAD_DIM, &c->kv_lora));
    MR_TRY(mr_cfg_int_or(o, "qk_nope_head_dim", 128, 1, MR_CFG_HEAD_DIM, &c->nope));
    MR_TRY(mr_cfg_int_or(o, "qk_rope_head_dim", 64, 2, MR_CFG_HEAD_DIM, &c->rope_dim));
    if (c->rope_dim % 2)
        return mr_jfail(mr_jget(o, "qk_rope_head_dim"), "%lld is odd", (long long)c->rope_dim);
    MR_TRY(mr_cfg_int_or(o, "v_head_dim", 128, 1, MR_CFG_HEAD_DIM, &c->v_dim));
    return mr_cfg_bool_or(o, "attention_bias", false, &c->bias);
}

/* V2 always turns neighbours. */
static mr_err rope_config(mr_jval o, const line *l, deepseek *c)
{
    double all_dim;
    MR_TRY(mr_cfg_rope_whole(o, c->rope_dim, c->info.max_positions, &c->rope, &all_dim));
    c->rope.interleaved = true;
    if (l->v3)
        MR_TRY(on_or_null(o, "rope_interleave", &c->rope.interleaved));
    double m = all_dim != 0 ? mr_yarn_mscale(c->rope.factor, all_dim) : 1;
    c->scale = m * m / sqrt((double)(c->nope + c->rope_dim));
    return MR_OK;
}

/* V2's router looks at its groups only when told to, and never divides by the sum. */
static mr_err router_config(mr_jval o, const line *l, deepseek *c)
{
    bool grouped, unused;
    const char *limited = l->v3 ? NULL : "group_limited_greedy";
    MR_TRY(only(o, "topk_method", l->method, limited, &grouped));
    MR_TRY(only(o, "scoring_func", l->score, NULL, &unused));
    c->score = l->score;
    c->correction = l->v3;
    c->group_max = !l->v3;
    c->route.groups = c->route.keep = 1;
    if (l->v3 || grouped)
        MR_TRY(mr_cfg_router(o, c->experts, c->group_max, l->route, &c->route));
    else
        MR_TRY(mr_cfg_int(o, "num_experts_per_tok", 1, c->experts, &c->route.k));
    return l->v3 ? on_or_null(o, "norm_topk_prob", &c->norm_topk) : MR_OK;
}

static mr_err moe_config(mr_jval o, const line *l, deepseek *c)
{
    int64_t freq, shared;
    mr_jval every = mr_jget(o, "moe_layer_freq"), n_shared = mr_jget(o, "n_shared_experts");
    MR_TRY(
        mr_cfg_int_or(o, "first_k_dense_replace", l->dense_layers, 0, INT32_MAX, &c->dense_layers));
    if (mr_jtype(every) == MR_JARRAY)
        return mr_cfg_refuse(every, "a list is not supported, only 1");
    MR_TRY(mr_cfg_int_or(o, "moe_layer_freq", 1, 1, INT32_MAX, &freq));
    if (freq != 1)
        return mr_cfg_refuse(every, "%lld is not supported, only 1", (long long)freq);
    const char *experts = mr_jhas(mr_jget(o, l->experts_too)) ? l->experts_too : "n_routed_experts";
    MR_TRY(mr_cfg_int_or(o, "moe_intermediate_size", l->moe_inter, 1, MR_CFG_WIDTH, &c->moe_inter));
    MR_TRY(mr_cfg_int_or(o, experts, l->experts, 1, MR_CFG_EXPERTS, &c->experts));
    MR_TRY(router_config(o, l, c));
    MR_TRY(mr_cfg_int_or(o, "n_shared_experts", n_shared.doc ? 0 : l->shared, 0, 1024, &shared));
    c->shared = shared * c->moe_inter;
    return mr_cfg_num_in(o, "routed_scaling_factor", l->scale, 1e-9, 1e9, &c->routed_scale);
}

static mr_err config(mr_jval root, const mr_model_opts *opts, mr_arena *a, void **cfg,
                     mr_model_info *info)
{
    const line *l = strcmp(info->model_type, "deepseek_v2") ? &v3 : &v2;
    mr_jval text = mr_jget(root, "text_config"), o = root;
    deepseek *c = mr_arena_alloc(a, sizeof *c);
    (void)opts;
    if (!c)
        return MR_ENOMEM;
    if (!strcmp(info->model_type, "kimi_k25")) {
        if (mr_jtype(text) != MR_JOBJECT)
            return mr_jfail(text, text.doc ? "an object is needed" : "is missing");
        o = text;
    }
    MR_TRY(mr_cfg_common(o, l->max_positions, info));
    c->info = *info;
    MR_TRY(mr_cfg_int_or(o, "intermediate_size", l->inter, 1, MR_CFG_WIDTH, &c->inter));
    MR_TRY(attention_config(o, l, c));
    MR_TRY(rope_config(o, l, c));
    MR_TRY(moe_config(o, l, c));
    if (!l->v3)
        MR_TRY(mr_cfg_bool_or(o, "mlp_bias", false, &c->mlp_bias));
    MR_TRY(mr_cfg_num_in(o, "rms_norm_eps", 1e-6, 0, 1, &c->eps));
    MR_TRY(mr_cfg_act(o, "hidden_act", "silu", &c->act));
    MR_TRY(mr_cfg_bool_or(o, "tie_word_embeddings", false, &c->tied));
    *cfg = c;
    return MR_OK;
}

/* ---- graph ---- */

static mr_val feed_forward(mr_flow *f, const deepseek *c, mr_val x, const char *prefix, int i)
{
    if (i < c->dense_layers) {
        mr_mlp_spec mlp = {.prefix = prefix, .width = c->inter, .fn = c->act, .bias = c->mlp_bias};
        return mr_flow_mlp(f, x, &mlp);
    }
    mr_moe_spec moe = {.prefix = prefix,
                       .router = "gate",
                       .router_bias = c->correction ? "gate.e_score_correction_bias" : NULL,
                       .experts = c->experts,
                       .top_k = c->route.k,
                       .groups = c->route.groups,
                       .keep = c->route.keep,
                       .width = c->moe_inter,
                       .score = c->score,
                       .group_max = c->group_max,
                       .norm = c->norm_topk,
                       .norm_eps = 1e-20,
                       .scale = c->routed_scale,
                       .fn = c->act,
                       .shared_width = c->shared,
                       .shared = "shared_experts",
                       .shared_bias = c->mlp_bias};
    return mr_flow_moe(f, x, &moe);
}

static mr_val layer(mr_flow *f, const deepseek *c, mr_val x, int i)
{
    const char *p = mr_flow_name(f, "model.layers.%d", i);
    const mr_norm_spec norm = {.eps = c->eps};
    mr_mla_spec mla = {.layer = i,
                       .prefix = mr_flow_name(f, "%s.self_attn", p),
                       .heads = c->heads,
                       .q_lora = c->q_lora,
                       .kv_lora = c->kv_lora,
                       .nope = c->nope,
                       .rope_dim = c->rope_dim,
                       .v_dim = c->v_dim,
                       .bias = c->bias,
                       .latent_eps = 1e-6,
                       .rope = &c->rope,
                       .scale = c->scale};
    mr_val y = mr_flow_norm(f, x, mr_flow_name(f, "%s.input_layernorm.weight", p), norm);
    x = mr_flow_add(f, x, mr_flow_mla(f, y, &mla));
    y = mr_flow_norm(f, x, mr_flow_name(f, "%s.post_attention_layernorm.weight", p), norm);
    return mr_flow_add(f, x, feed_forward(f, c, y, mr_flow_name(f, "%s.mlp", p), i));
}

static mr_val build(mr_flow *f, const void *cfg)
{
    const deepseek *c = cfg;
    mr_val x = mr_flow_embed(f, "model.embed_tokens.weight", c->info.vocab, c->info.hidden, 1);
    for (int i = 0; i < c->info.layers && !mr_flow_failed(f); i++)
        x = layer(f, c, x, i);
    mr_head_spec head = {.norm_name = "model.norm.weight",
                         .norm = {.eps = c->eps},
                         .head_name = "lm_head.weight",
                         .embed_name = "model.embed_tokens.weight",
                         .tied = c->tied,
                         .vocab = c->info.vocab,
                         .act_f32 = true};
    return mr_flow_head(f, x, &head);
}

/* ---- GGUF ---- */

/* The file's yarn_log_multiplier is 0.1 * mscale_all_dim; mscale itself is not stored, and the
 * published models have cos and sin unscaled. */
static void gguf_rope(mr_gguf_config *c)
{
    static const mr_gguf_row rows[] = {
        {"factor", "rope.scaling.factor", 'n'},
        {"original_max_position_embeddings", "rope.scaling.original_context_length", 'i'},
        {"beta_fast", "rope.scaling.yarn_beta_fast", 'n'},
        {"beta_slow", "rope.scaling.yarn_beta_slow", 'n'},
        {0}};
    char type[32];
    double v;
    int64_t n;
    mr_gguf_config_rope_type(c, type);
    if (!strcmp(type, "none"))
        return;
    if (strcmp(type, "yarn") != 0) {
        mr_gguf_config_refuse(c, "rope.scaling.type", "only none and yarn are supported");
        return;
    }
    mr_gguf_config_open(c, "rope_scaling");
    mr_gguf_config_raw(c, "rope_type", "\"yarn\"");
    mr_gguf_config_raw(c, "attention_factor", "1.0");
    for (const mr_gguf_row *r = rows; r->key; r++) {
        if (r->kind == 'i' && mr_gguf_config_get_int(c, r->gguf, &n))
            mr_gguf_config_int(c, r->key, n);
        else if (r->kind == 'n' && mr_gguf_config_get_num(c, r->gguf, &v))
            mr_gguf_config_num(c, r->key, v);
    }
    if (mr_gguf_config_get_num(c, "rope.scaling.yarn_log_multiplier", &v))
        mr_gguf_config_num(c, "mscale_all_dim", v * 10);
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

static mr_err gguf_config(const mr_weights *w, mr_buf *json)
{
    static const mr_gguf_row rows[] = {{"kv_lora_rank", "attention.kv_lora_rank", 'i'},
                                       {"moe_intermediate_size", "expert_feed_forward_length", 'i'},
                                       {"n_routed_experts", "expert_count", 'i'},
                                       {"num_experts_per_tok", "expert_used_count", 'i'},
                                       {"routed_scaling_factor", "expert_weights_scale", 'n'},
                                       {"first_k_dense_replace", "leading_dense_block_count", 'i'},
                                       {"rope_theta", "rope.freq_base", 'n'},
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

#define BLOCK(hf, gguf)                                                                            \
    {                                                                                              \
        "model.layers.{L}." hf, "blk.{L}." gguf, NULL                                              \
    }
static const mr_name_row names[] = {
    {"model.embed_tokens.weight", "token_embd.weight", NULL},
    {"model.norm.weight", "output_norm.weight", NULL},
    {"lm_head.weight", "output.weight", NULL},
    BLOCK("input_layernorm.weight", "attn_norm.weight"),
    BLOCK("post_attention_layernorm.weight", "ffn_norm.weight"),
    BLOCK("self_attn.q_proj.weight", "attn_q.weight"),
    BLOCK("self_attn.q_a_proj.weight", "attn_q_a.weight"),
    BLOCK("self_attn.q_a_layernorm.weight", "attn_q_a_norm.weight"),
    BLOCK("self_attn.q_b_proj.weight", "attn_q_b.weight"),
    BLOCK("self_attn.kv_a_proj_with_mqa.weight", "attn_kv_a_mqa.weight"),
    BLOCK("self_attn.kv_a_layernorm.weight", "attn_kv_a_norm.weight"),
    BLOCK("self_attn.kv_b_proj.weight", "attn_kv_b.weight"),
    BLOCK("self_attn.embed_q.weight", "attn_k_b.weight"),
    BLOCK("self_attn.unembed_out.weight", "attn_v_b.weight"),
    BLOCK("self_attn.o_proj.weight", "attn_output.weight"),
    BLOCK("mlp.gate_proj.weight", "ffn_gate.weight"),
    BLOCK("mlp.up_proj.weight", "ffn_up.weight"),
    BLOCK("mlp.down_proj.weight", "ffn_down.weight"),
    BLOCK("mlp.gate.weight", "ffn_gate_inp.weight"),
    BLOCK("mlp.gate.e_score_correction_bias", "exp_probs_b.bias"),
    BLOCK("mlp.experts.{E}.gate_proj.weight", "ffn_gate_exps.weight"),
    BLOCK("mlp.experts.{E}.up_proj.weight", "ffn_up_exps.weight"),
    BLOCK("mlp.experts.{E}.down_proj.weight", "ffn_down_exps.weight"),
    BLOCK("mlp.shared_experts.gate_proj.weight", "ffn_gate_shexp.weight"),
    BLOCK("mlp.shared_experts.up_proj.weight", "ffn_up_shexp.weight"),
    BLOCK("mlp.shared_experts.down_proj.weight", "ffn_down_shexp.weight"),
    {0}};

const mr_family mr_family_deepseek = {
    .name = "deepseek",
    .model_types = (const char *const[]){"deepseek_v2", "deepseek_v3", "kimi_k2", "kimi_k25", NULL},
    .archs = (const char *const[]){"deepseek2", NULL},
    .prefixes = (const char *const[]){"model.", "language_model.model.", NULL},
    .names = names,
    .skip = (const char *const[]){"model.layers.{L}.*", "language_model.model.layers.{L}.*",
                                  "blk.{L}.*", "*.rotary_emb.inv_freq", "lm_head.weight",
                                  "language_model.lm_head.weight", "vision_tower.*",
                                  "mm_projector.*", NULL},
    .gguf_config = gguf_config,
    .config = config,
    .build = build,
};
