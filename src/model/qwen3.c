/* Qwen3, dense and with experts: Llama's shape with norms on the queries and keys of each head, head
 * dims that need not divide hidden_size, and in some layers a softmax router over experts. */
#include <math.h>
#include <string.h>

#include "model/family.h"

typedef struct qwen3 {
    mr_model_info info;
    int64_t inter, window;
    mr_cfg_head head;
    int64_t experts, top_k, moe_inter;
    double eps;
    mr_act act;
    bool tied, bias, norm_topk;
    bool *sparse, *slides; /* per layer: holds experts; sees `window` positions */
    mr_rope_spec rope;
} qwen3;

/* ---- config ---- */

static mr_err experts_config(mr_jval o, qwen3 *c)
{
    mr_jval published = mr_jget(o, "num_experts"), saved = mr_jget(o, "num_local_experts");
    const char *key = mr_jhas(published) ? "num_experts" : "num_local_experts";
    MR_TRY(mr_cfg_int_or(o, key, 128, 0, MR_CFG_EXPERTS, &c->experts));
    if (mr_jhas(published) && mr_jhas(saved)) {
        int64_t other;
        MR_TRY(mr_jint(saved, 0, MR_CFG_EXPERTS, &other));
        if (other != c->experts)
            return mr_jfail(saved, "contradicts \"num_experts\"");
    }
    if (!c->experts)
        return MR_OK;
    MR_TRY(mr_cfg_int_or(o, "num_experts_per_tok", 8, 1, c->experts, &c->top_k));
    MR_TRY(mr_cfg_int_or(o, "moe_intermediate_size", 768, 1, MR_CFG_WIDTH, &c->moe_inter));
    MR_TRY(mr_cfg_bool_or(o, "norm_topk_prob", false, &c->norm_topk));
    return mr_cfg_sparse_layers(o, c->info.layers, c->sparse);
}

/* Layers from max_window_layers on slide; with experts all do. */
static mr_err window_config(mr_jval o, bool moe, qwen3 *c)
{
    mr_jval window = mr_jget(o, "sliding_window"), list = mr_jget(o, "layer_types");
    bool on;
    int64_t from = 0;
    MR_TRY(mr_cfg_bool_or(o, "use_sliding_window", false, &on));
    if (on && mr_jtype(window) != MR_JNULL)
        MR_TRY(mr_cfg_window(o, 4096, &c->window));
    if (!moe)
        MR_TRY(mr_cfg_int_or(o, "max_window_layers", 28, 0, INT32_MAX, &from));
    for (int64_t i = 0; i < c->info.layers; i++)
        c->slides[i] = c->window && i >= from;
    if (moe || !mr_jhas(list))
        return MR_OK;
    MR_TRY(mr_cfg_layer_types(o, 1, c->info.layers, c->slides));
    for (int64_t i = 0; i < c->info.layers; i++) {
        c->slides[i] = !c->slides[i];
        if (c->slides[i] && !c->window)
            return mr_jfail(list, "layer %lld slides, but sliding_window is not in use",
                            (long long)i);
    }
    return MR_OK;
}

static mr_err config(mr_jval o, const mr_model_opts *opts, mr_arena *a, void **cfg,
                     mr_model_info *info)
{
    bool moe = !strcmp(info->model_type, "qwen3_moe");
    const mr_cfg_head dense_heads = {32, 32, 128}, moe_heads = {32, 4, 0};
    qwen3 *c = mr_arena_alloc(a, sizeof *c);
    (void)opts;
    if (!c)
        return MR_ENOMEM;
    MR_TRY(mr_cfg_common(o, 32768, info));
    c->info = *info;
    c->sparse = mr_arena_alloc(a, (size_t)info->layers * sizeof *c->sparse);
    c->slides = mr_arena_alloc(a, (size_t)info->layers * sizeof *c->slides);
    if (!c->sparse || !c->slides)
        return MR_ENOMEM;
    MR_TRY(mr_cfg_int_or(o, "intermediate_size", moe ? 6144 : 22016, 1, MR_CFG_WIDTH, &c->inter));
    MR_TRY(mr_cfg_heads(o, info->hidden, moe ? moe_heads : dense_heads, &c->head));
    MR_TRY(mr_cfg_num_in(o, "rms_norm_eps", 1e-6, 0, 1, &c->eps));
    MR_TRY(mr_cfg_act(o, "hidden_act", "silu", &c->act));
    MR_TRY(mr_cfg_bool_or(o, "tie_word_embeddings", false, &c->tied));
    MR_TRY(mr_cfg_bool_or(o, "attention_bias", false, &c->bias));
    MR_TRY(window_config(o, moe, c));
    MR_TRY(mr_cfg_rope_whole(o, c->head.head_dim, info, &c->rope, NULL));
    if (moe)
        MR_TRY(experts_config(o, c));
    *cfg = c;
    return MR_OK;
}

/* ---- graph ---- */

static mr_val feed_forward(mr_flow *f, const qwen3 *c, mr_val x, const char *prefix, int i)
{
    mr_mlp_spec mlp = {.prefix = prefix, .width = c->inter, .fn = c->act};
    mr_moe_spec moe = {.prefix = prefix,
                       .router = "gate",
                       .experts = c->experts,
                       .top_k = c->top_k,
                       .groups = 1,
                       .keep = 1,
                       .width = c->moe_inter,
                       .score = "softmax",
                       .norm = c->norm_topk,
                       .scale = 1,
                       .fn = c->act};
    return c->sparse[i] ? mr_flow_moe(f, x, &moe) : mr_flow_mlp(f, x, &mlp);
}

static mr_val layer(mr_flow *f, const qwen3 *c, mr_val x, int i)
{
    const char *p = mr_flow_name(f, "model.layers.%d", i);
    const mr_norm_spec norm = {.eps = c->eps};
    mr_attention_spec attention = {.layer = i,
                                   .prefix = mr_flow_name(f, "%s.self_attn", p),
                                   .q_norm = "q_norm",
                                   .k_norm = "k_norm",
                                   .norm = norm,
                                   .heads = c->head.heads,
                                   .kv_heads = c->head.kv_heads,
                                   .head_dim = c->head.head_dim,
                                   .qkv_bias = c->bias,
                                   .o_bias = c->bias,
                                   .rope = &c->rope,
                                   .mask = c->slides[i] ? MR_MASK_WINDOW : MR_MASK_CAUSAL,
                                   .window = c->window,
                                   .scale = 1 / sqrt((double)c->head.head_dim)};
    mr_val y = mr_flow_norm(f, x, mr_flow_name(f, "%s.input_layernorm.weight", p), norm);
    x = mr_flow_add(f, x, mr_flow_attention(f, y, &attention));
    y = mr_flow_norm(f, x, mr_flow_name(f, "%s.post_attention_layernorm.weight", p), norm);
    return mr_flow_add(f, x, feed_forward(f, c, y, mr_flow_name(f, "%s.mlp", p), i));
}

static mr_val build(mr_flow *f, const void *cfg)
{
    const qwen3 *c = cfg;
    mr_val x = mr_flow_embed(f, "model.embed_tokens.weight", c->info.vocab, c->info.hidden, 1);
    for (int i = 0; i < c->info.layers && !mr_flow_failed(f); i++)
        x = layer(f, c, x, i);
    mr_head_spec head = {
        .norm = {.eps = c->eps}, .tied = c->tied, .vocab = c->info.vocab, .act_f32 = true};
    return mr_flow_head(f, x, &head);
}

/* ---- GGUF ---- */

static mr_err gguf_config(const mr_weights *w, mr_buf *json)
{
    static const mr_gguf_row rows[] = {{"moe_intermediate_size", "expert_feed_forward_length", 'i'},
                                       {"num_experts", "expert_count", 'i'},
                                       {"num_experts_per_tok", "expert_used_count", 'i'},
                                       {0}};
    mr_gguf_config c;
    mr_str arch;
    MR_TRY(mr_gguf_str(mr_weights_gguf(w), "general.architecture", &arch));
    bool moe = mr_str_is(arch, "qwen3moe");
    mr_gguf_config_begin(&c, w, moe ? "qwen3moe" : "qwen3", moe ? "qwen3_moe" : "qwen3", rows,
                         json);
    if (moe) /* not in the file: whatever runs the architecture divides by the sum */
        mr_gguf_config_raw(&c, "norm_topk_prob", "true");
    mr_gguf_config_one_head_dim(&c);
    mr_gguf_config_rope_scaling(&c);
    return mr_gguf_config_end(&c);
}

const mr_family mr_family_qwen3 = {
    .name = "qwen3",
    .model_types = (const char *const[]){"qwen3", "qwen3_moe", NULL},
    .archs = (const char *const[]){"qwen3", "qwen3moe", NULL},
    .prefixes = (const char *const[]){"model.", NULL},
    .skip = (const char *const[]){"*.rotary_emb.inv_freq", "lm_head.weight", NULL},
    .gguf_config = gguf_config,
    .config = config,
    .build = build,
};
