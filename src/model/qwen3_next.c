/* Qwen hybrids: Qwen3-Next and Qwen3.5 (3.6), dense and with experts.  Most layers are gated delta nets,
 * every fourth is attention whose result is gated; norms are zero-centred; experts come with a shared
 * one behind a gate.  The vision tower and multi-token layers are not run. */
#include <math.h>
#include <string.h>

#include "model/qwen3_next.h"

/* What the classes of the line do not share: where their keys are, and defaults; 0: has none. */
typedef struct line {
    const char *model_type;
    bool nested; /* under text_config */
    int64_t kv_heads, inter, experts, top_k;
} line;

static const line lines[] = {{"qwen3_next", false, 2, 5632, 512, 10},
                             {"qwen3_5", true, 4, 12288, 0, 0},
                             {"qwen3_5_text", false, 4, 12288, 0, 0},
                             {"qwen3_5_moe", true, 2, 0, 256, 8},
                             {"qwen3_5_moe_text", false, 2, 0, 256, 8}};

/* ---- config ---- */

static mr_err layer_types(mr_jval o, hybrid *c)
{
    mr_jval list = mr_jget(o, "layer_types");
    int64_t every, i = 0;
    MR_TRY(mr_cfg_int_or(o, "full_attention_interval", 4, 1, INT32_MAX, &every));
    for (int64_t k = 0; k < c->info.layers; k++)
        c->full[k] = (k + 1) % every == 0;
    if (!mr_jhas(list))
        return MR_OK;
    if (mr_jtype(list) != MR_JARRAY)
        return mr_jfail(list, "a list is needed");
    if (mr_jcount(list) != c->info.layers)
        return mr_jfail(list, "%u types for %lld layers", mr_jcount(list),
                        (long long)c->info.layers);
    for (mr_jval t = mr_jfirst(list); t.doc; t = mr_jnext(t)) {
        c->full[i] = mr_jis(t, "full_attention");
        if (!c->full[i++] && !mr_jis(t, "linear_attention"))
            return mr_cfg_refuse(t, "is neither linear_attention nor full_attention");
    }
    return MR_OK;
}

static mr_err linear_config(mr_jval o, hybrid *c)
{
    MR_TRY(mr_cfg_int_or(o, "linear_num_key_heads", 16, 1, MR_CFG_HEADS, &c->k_heads));
    MR_TRY(mr_cfg_int_or(o, "linear_num_value_heads", 32, 1, MR_CFG_HEADS, &c->v_heads));
    if (c->v_heads % c->k_heads)
        return mr_jfail(mr_jget(o, "linear_num_value_heads"),
                        "%lld is no multiple of %lld key heads", (long long)c->v_heads,
                        (long long)c->k_heads);
    MR_TRY(mr_cfg_int_or(o, "linear_key_head_dim", 128, 1, MR_CFG_HEAD_DIM, &c->dk));
    MR_TRY(mr_cfg_int_or(o, "linear_value_head_dim", 128, 1, MR_CFG_HEAD_DIM, &c->dv));
    return mr_cfg_int_or(o, "linear_conv_kernel_dim", 4, 1, 64, &c->width);
}

/* The reference has no attn_output_gate: its attention is gated whatever the key says, and a file whose
 * queries have no gates is refused by their shape. */
static mr_err attention_config(mr_jval o, const line *l, hybrid *c)
{
    MR_TRY(mr_cfg_heads(o, c->info.hidden, (mr_cfg_head){16, l->kv_heads, 256}, &c->head));
    MR_TRY(mr_cfg_bool_or(o, "attention_bias", false, &c->bias));
    return mr_cfg_rope_part(o, 0.25, c->head.head_dim, &c->info, &c->rope);
}

/* Qwen3-Next has dense layers by its keys and may leave weights undivided; Qwen3.5 has neither. */
static mr_err feed_forward_config(mr_jval o, const line *l, hybrid *c)
{
    bool both = l->inter && l->experts;
    c->norm_topk = true;
    if (l->inter)
        MR_TRY(mr_cfg_int_or(o, "intermediate_size", l->inter, 1, MR_CFG_WIDTH, &c->inter));
    if (l->experts)
        MR_TRY(mr_cfg_int_or(o, "num_experts", l->experts, !both, MR_CFG_EXPERTS, &c->experts));
    if (!c->experts)
        return MR_OK;
    MR_TRY(mr_cfg_int_or(o, "num_experts_per_tok", l->top_k, 1, c->experts, &c->top_k));
    MR_TRY(mr_cfg_int_or(o, "moe_intermediate_size", 512, 1, MR_CFG_WIDTH, &c->moe_inter));
    MR_TRY(mr_cfg_int_or(o, "shared_expert_intermediate_size", 512, 1, MR_CFG_WIDTH, &c->shared));
    for (int64_t i = 0; i < c->info.layers; i++)
        c->sparse[i] = true;
    if (!both)
        return MR_OK;
    MR_TRY(mr_cfg_bool_or(o, "norm_topk_prob", true, &c->norm_topk));
    return mr_cfg_sparse_layers(o, c->info.layers, c->sparse);
}

/* What the wrapper of a multi-modal config says of the whole. */
static mr_err wrapper(mr_jval root, hybrid *c)
{
    if (mr_jhas(mr_jget(root, "eos_token_id")))
        MR_TRY(mr_cfg_eos(root, &c->info));
    MR_TRY(mr_cfg_id(root, "bos_token_id", c->info.bos, &c->info.bos));
    return mr_cfg_bool_or(root, "tie_word_embeddings", c->tied, &c->tied);
}

static mr_err config(mr_jval root, const mr_model_opts *opts, mr_arena *a, void **cfg,
                     mr_model_info *info)
{
    const line *l = lines;
    while (strcmp(l->model_type, info->model_type) != 0)
        l++;
    mr_jval o = l->nested ? mr_jget(root, "text_config") : root;
    hybrid *c = mr_arena_alloc(a, sizeof *c);
    (void)opts;
    if (!c)
        return MR_ENOMEM;
    if (mr_jtype(o) != MR_JOBJECT)
        return mr_jfail(o, o.doc ? "an object is needed" : "is missing");
    MR_TRY(mr_cfg_common(o, 32768, info));
    c->info = *info;
    c->sparse = mr_arena_alloc(a, (size_t)info->layers * sizeof *c->sparse);
    c->full = mr_arena_alloc(a, (size_t)info->layers * sizeof *c->full);
    if (!c->sparse || !c->full)
        return MR_ENOMEM;
    MR_TRY(layer_types(o, c));
    MR_TRY(attention_config(o, l, c));
    MR_TRY(linear_config(o, c));
    MR_TRY(feed_forward_config(o, l, c));
    MR_TRY(mr_cfg_num_in(o, "rms_norm_eps", 1e-6, 0, 1, &c->eps));
    MR_TRY(mr_cfg_act(o, "hidden_act", "silu", &c->act));
    MR_TRY(mr_cfg_bool_or(o, "tie_word_embeddings", false, &c->tied));
    if (l->nested)
        MR_TRY(wrapper(root, c));
    *info = c->info;
    *cfg = c;
    return MR_OK;
}

/* ---- graph ---- */

static mr_val feed_forward(mr_flow *f, const hybrid *c, mr_val x, const char *prefix, int i)
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
                       .fn = c->act,
                       .shared_width = c->shared,
                       .shared = "shared_expert",
                       .shared_gate = "shared_expert_gate"};
    return c->sparse[i] ? mr_flow_moe(f, x, &moe) : mr_flow_mlp(f, x, &mlp);
}

static mr_val mix_tokens(mr_flow *f, const hybrid *c, mr_val x, const char *p, int i)
{
    mr_delta_net_spec net = {.layer = i,
                             .prefix = mr_flow_name(f, "%s.linear_attn", p),
                             .k_heads = c->k_heads,
                             .v_heads = c->v_heads,
                             .dk = c->dk,
                             .dv = c->dv,
                             .width = c->width,
                             .eps = c->eps,
                             .act = c->act};
    mr_attention_spec attention = {.layer = i,
                                   .prefix = mr_flow_name(f, "%s.self_attn", p),
                                   .q_norm = "q_norm",
                                   .k_norm = "k_norm",
                                   .norm = {.eps = c->eps, .offset = 1},
                                   .heads = c->head.heads,
                                   .kv_heads = c->head.kv_heads,
                                   .head_dim = c->head.head_dim,
                                   .qkv_bias = c->bias,
                                   .o_bias = c->bias,
                                   .gated = true,
                                   .rope = &c->rope,
                                   .mask = MR_MASK_CAUSAL,
                                   .scale = 1 / sqrt((double)c->head.head_dim)};
    return c->full[i] ? mr_flow_attention(f, x, &attention) : mr_flow_delta_net(f, x, &net);
}

static mr_val layer(mr_flow *f, const hybrid *c, mr_val x, int i)
{
    const char *p = mr_flow_name(f, "model.layers.%d", i);
    const mr_norm_spec norm = {.eps = c->eps, .offset = 1};
    mr_val y = mr_flow_norm(f, x, mr_flow_name(f, "%s.input_layernorm.weight", p), norm);
    x = mr_flow_add(f, x, mix_tokens(f, c, y, p, i));
    y = mr_flow_norm(f, x, mr_flow_name(f, "%s.post_attention_layernorm.weight", p), norm);
    return mr_flow_add(f, x, feed_forward(f, c, y, mr_flow_name(f, "%s.mlp", p), i));
}

static mr_val build(mr_flow *f, const void *cfg)
{
    const hybrid *c = cfg;
    mr_val x = mr_flow_embed(f, "model.embed_tokens.weight", c->info.vocab, c->info.hidden, 1);
    for (int i = 0; i < c->info.layers && !mr_flow_failed(f); i++)
        x = layer(f, c, x, i);
    mr_head_spec head = {.norm = {.eps = c->eps, .offset = 1},
                         .tied = c->tied,
                         .vocab = c->info.vocab,
                         .act_f32 = true};
    return mr_flow_head(f, x, &head);
}

#define SKIPPED                                                                                    \
    "*.rotary_emb.inv_freq", "lm_head.weight", "language_model.lm_head.weight", "mtp.*",           \
        "*.mtp.*", "model.visual.*", "visual.*", "vision_tower.*", "blk.{L}.*", NULL

const mr_family mr_family_qwen3_next = {
    .name = "qwen3_next",
    .model_types = (const char *const[]){"qwen3_next", NULL},
    .archs = (const char *const[]){"qwen3next", NULL},
    .prefixes = (const char *const[]){"model.", NULL},
    .names = mr_qwen3_next_names,
    .forms = mr_qwen3_next_forms,
    .number = mr_qwen3_next_number,
    .skip = (const char *const[]){SKIPPED},
    .gguf_config = mr_qwen3_next_gguf_config,
    .gguf_meta = mr_qwen3_next_gguf_meta,
    .config = config,
    .build = build,
};

const mr_family mr_family_qwen3_5 = {
    .name = "qwen3_5",
    .model_types =
        (const char *const[]){"qwen3_5", "qwen3_5_text", "qwen3_5_moe", "qwen3_5_moe_text", NULL},
    .archs = (const char *const[]){"qwen35", "qwen35moe", NULL},
    .prefixes =
        (const char *const[]){"model.", "model.language_model.", "language_model.model.", NULL},
    .names = mr_qwen3_5_names,
    .number = mr_qwen3_next_number,
    .skip = (const char *const[]){SKIPPED},
    .gguf_config = mr_qwen3_next_gguf_config,
    .gguf_meta = mr_qwen3_next_gguf_meta,
    .config = config,
    .build = build,
};
