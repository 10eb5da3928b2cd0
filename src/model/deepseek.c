/* The DeepSeek line: latent attention and, but for the first layers, a mixture of experts with shared
 * ones.  V2 scores experts by softmax and takes the best (V2-Lite) or the best of the groups with the
 * largest scores; V3 and what is of its class (R1, Cogito v2, Moonlight, Kimi-K2) by sigmoid, with a
 * correction bias and groups by the sum of two.  Kimi-K2.5 is K2 under text_config.
 *
 * The latents' norms have an epsilon of their own.  Layers for multi-token prediction are not run. */
#include <math.h>
#include <string.h>

#include "model/deepseek.h"

static const deepseek_line v2 = {.score = "softmax",
                                 .method = "greedy",
                                 .experts_too = "num_experts",
                                 .max_positions = 2048,
                                 .heads = 32,
                                 .inter = 11008,
                                 .experts = 64,
                                 .moe_inter = 1407,
                                 .shared = 2,
                                 .scale = 1};
static const deepseek_line v3 = {.score = "sigmoid",
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
    *is_b = b && mr_jis(v, b);
    if (!mr_jhas(v) || mr_jis(v, a) || *is_b)
        return MR_OK;
    return b ? mr_cfg_refuse(v, "is neither \"%s\" nor \"%s\"", a, b)
             : mr_cfg_refuse(v, "is not \"%s\"", a);
}

/* On unless said otherwise; null is false to the reference. */
static mr_err on_or_null(mr_jval o, const char *key, bool *out)
{
    *out = false;
    return mr_jtype(mr_jget(o, key)) == MR_JNULL ? MR_OK : mr_cfg_bool_or(o, key, true, out);
}

static mr_err attention_config(mr_jval o, const deepseek_line *l, deepseek *c)
{
    int64_t kv_heads;
    MR_TRY(mr_cfg_int_or(o, "num_attention_heads", l->heads, 1, MR_CFG_HEADS, &c->heads));
    MR_TRY(mr_cfg_int_or(o, "num_key_value_heads", c->heads, 1, MR_CFG_HEADS, &kv_heads));
    if (kv_heads != c->heads)
        return mr_cfg_refuse(mr_jget(o, "num_key_value_heads"),
                             "%lld: latent attention has as many as heads", (long long)kv_heads);
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
static mr_err rope_config(mr_jval o, const deepseek_line *l, deepseek *c)
{
    MR_TRY(mr_cfg_rope_whole(o, c->rope_dim, &c->info, &c->rope, &c->all_dim));
    c->rope.interleaved = true;
    if (l->v3)
        MR_TRY(on_or_null(o, "rope_interleave", &c->rope.interleaved));
    double m = c->all_dim != 0 ? mr_yarn_mscale(c->rope.factor, c->all_dim) : 1;
    c->scale = m * m / sqrt((double)(c->nope + c->rope_dim));
    return MR_OK;
}

/* V2's router looks at its groups only when told to, and never divides by the sum. */
static mr_err router_config(mr_jval o, const deepseek_line *l, deepseek *c)
{
    bool grouped, unused;
    const char *limited = l->v3 ? NULL : "group_limited_greedy";
    MR_TRY(only(o, "topk_method", l->method, limited, &grouped));
    MR_TRY(only(o, "scoring_func", l->score, NULL, &unused));
    c->route.groups = c->route.keep = 1;
    if (l->v3 || grouped)
        MR_TRY(mr_cfg_router(o, c->experts, !l->v3, l->route, &c->route));
    else
        MR_TRY(mr_cfg_int(o, "num_experts_per_tok", 1, c->experts, &c->route.k));
    return l->v3 ? on_or_null(o, "norm_topk_prob", &c->norm_topk) : MR_OK;
}

static mr_err moe_config(mr_jval o, const deepseek_line *l, deepseek *c)
{
    int64_t shared;
    mr_jval n_shared = mr_jget(o, "n_shared_experts");
    MR_TRY(
        mr_cfg_int_or(o, "first_k_dense_replace", l->dense_layers, 0, INT32_MAX, &c->dense_layers));
    MR_TRY(mr_cfg_int_or(o, "moe_layer_freq", 1, 1, INT32_MAX, &c->sparse_every));
    const char *experts = mr_jhas(mr_jget(o, l->experts_too)) ? l->experts_too : "n_routed_experts";
    MR_TRY(mr_cfg_int_or(o, "moe_intermediate_size", l->moe_inter, 1, MR_CFG_WIDTH, &c->moe_inter));
    MR_TRY(mr_cfg_int_or(o, experts, l->experts, 1, MR_CFG_EXPERTS, &c->experts));
    if (c->dense_layers < c->info.layers) /* else nothing is routed */
        MR_TRY(router_config(o, l, c));
    MR_TRY(mr_cfg_int_or(o, "n_shared_experts", n_shared.doc ? 0 : l->shared, 0, 1024, &shared));
    c->shared = shared * c->moe_inter;
    return mr_cfg_num_in(o, "routed_scaling_factor", l->scale, 1e-9, 1e9, &c->routed_scale);
}

static mr_err config(mr_jval root, const mr_model_opts *opts, mr_arena *a, void **cfg,
                     mr_model_info *info)
{
    const deepseek_line *l = strcmp(info->model_type, "deepseek_v2") ? &v3 : &v2;
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
    c->line = l;
    MR_TRY(mr_cfg_int_or(o, "intermediate_size", l->inter, 1, MR_CFG_WIDTH, &c->inter));
    MR_TRY(attention_config(o, l, c));
    MR_TRY(rope_config(o, l, c));
    MR_TRY(moe_config(o, l, c));
    if (!l->v3)
        MR_TRY(mr_cfg_bool_or(o, "mlp_bias", false, &c->mlp_bias));
    MR_TRY(mr_cfg_num_in(o, "rms_norm_eps", 1e-6, 0, 1, &c->eps));
    MR_TRY(mr_cfg_act(o, "hidden_act", "silu", &c->act));
    MR_TRY(mr_cfg_bool_or(o, "tie_word_embeddings", false, &c->tied));
    *info = c->info;
    *cfg = c;
    return MR_OK;
}

/* ---- graph ---- */

/* Of the layers behind the first ones, those that are no multiples of moe_layer_freq are dense to the
 * published code; this reference does not read the key.  The file says which of them wrote it. */
static bool is_dense(mr_flow *f, const deepseek *c, const char *prefix, int i)
{
    const char *gate = mr_flow_name(f, "%s.gate_proj.weight", prefix);
    if (i < c->dense_layers || i % c->sparse_every == 0)
        return i < c->dense_layers;
    return mr_flow_weight_try(f, gate, 2, (int64_t[]){c->inter, c->info.hidden}) != MR_NO_VAL;
}

static mr_val feed_forward(mr_flow *f, const deepseek *c, mr_val x, const char *prefix, int i)
{
    if (is_dense(f, c, prefix, i)) {
        mr_mlp_spec mlp = {.prefix = prefix, .width = c->inter, .fn = c->act, .bias = c->mlp_bias};
        return mr_flow_mlp(f, x, &mlp);
    }
    mr_moe_spec moe = {.prefix = prefix,
                       .router = "gate",
                       .router_bias = c->line->v3 ? "gate.e_score_correction_bias" : NULL,
                       .experts = c->experts,
                       .top_k = c->route.k,
                       .groups = c->route.groups,
                       .keep = c->route.keep,
                       .width = c->moe_inter,
                       .score = c->line->score,
                       .group_max = !c->line->v3,
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
                       .latent_eps = 1e-6, /* whatever rms_norm_eps says */
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
    mr_head_spec head = {
        .norm = {.eps = c->eps}, .tied = c->tied, .vocab = c->info.vocab, .act_f32 = true};
    return mr_flow_head(f, x, &head);
}

const mr_family mr_family_deepseek = {
    .name = "deepseek",
    .model_types = (const char *const[]){"deepseek_v2", "deepseek_v3", "kimi_k2", "kimi_k25", NULL},
    .archs = (const char *const[]){"deepseek2", NULL},
    .prefixes = (const char *const[]){"model.", "language_model.model.", NULL},
    .names = mr_deepseek_names,
    .number = mr_deepseek_number,
    .skip = (const char *const[]){"model.layers.{L}.*", "language_model.model.layers.{L}.*",
                                  "blk.{L}.*", "*.rotary_emb.inv_freq", "lm_head.weight",
                                  "language_model.lm_head.weight", "vision_tower.*",
                                  "mm_projector.*", NULL},
    .gguf_config = mr_deepseek_gguf_config,
    .gguf_meta = mr_deepseek_gguf_meta,
    .config = config,
    .build = build,
};
