/* Gemma 1 and 2: norms of 1 + w, a scaled embedding that is also the head, a gated MLP with gelu.
 *
 * Gemma 2 adds norms behind attention and MLP, windows in every other layer, and caps on scores and
 * logits.  The maths is that of the reference's modeling_gemma.py and modeling_gemma2.py; absent keys
 * take its classes' defaults, and a cap of null is no cap. */
#include <math.h>
#include <string.h>

#include "model/family.h"

typedef struct gemma {
    mr_model_info info;
    int64_t inter, heads, kv_heads, head_dim, window;
    double eps, scale, cap, logit_cap; /* caps: 0 is none */
    mr_act act;
    bool tied, bias, sandwich;
    bool *global; /* per layer: sees everything */
    mr_rope_spec rope;
} gemma;

/* ---- config ---- */

/* Absent: the default; null: none. */
static mr_err cap_of(mr_jval o, const char *key, double def, double *out)
{
    bool null = mr_jtype(mr_jget(o, key)) == MR_JNULL;
    return mr_cfg_num_in(o, key, null ? 0 : def, 1e-6, 1e9, out);
}

static mr_err shape(mr_jval o, int64_t heads, int64_t kv_heads, gemma *c)
{
    MR_TRY(mr_cfg_int(o, "intermediate_size", 1, MR_CFG_WIDTH, &c->inter));
    MR_TRY(mr_cfg_int_or(o, "num_attention_heads", heads, 1, MR_CFG_HEADS, &c->heads));
    MR_TRY(mr_cfg_int_or(o, "num_key_value_heads", kv_heads, 1, MR_CFG_HEADS, &c->kv_heads));
    if (c->heads % c->kv_heads)
        return mr_jfail(mr_jget(o, "num_key_value_heads"), "%lld does not divide %lld heads",
                        (long long)c->kv_heads, (long long)c->heads);
    MR_TRY(mr_cfg_int_or(o, "head_dim", 256, 2, MR_CFG_HEAD_DIM, &c->head_dim));
    MR_TRY(mr_cfg_num_in(o, "rms_norm_eps", 1e-6, 0, 1, &c->eps));
    MR_TRY(mr_cfg_bool_or(o, "attention_bias", false, &c->bias));
    MR_TRY(mr_cfg_bool_or(o, "tie_word_embeddings", true, &c->tied));
    MR_TRY(mr_cfg_causal(o));
    return mr_cfg_rope_whole(o, c->head_dim, &c->info, &c->rope, NULL);
}

static mr_err begin(mr_jval o, mr_arena *a, mr_model_info *info, gemma **out)
{
    gemma *c = *out = mr_arena_alloc(a, sizeof *c);
    if (!c)
        return MR_ENOMEM;
    MR_TRY(mr_cfg_int_or(o, "vocab_size", 256000, 1, MR_CFG_VOCAB, &info->vocab));
    MR_TRY(mr_cfg_int(o, "hidden_size", 1, MR_CFG_HIDDEN, &info->hidden));
    MR_TRY(mr_cfg_int(o, "num_hidden_layers", 1, MR_CFG_LAYERS, &info->layers));
    MR_TRY(mr_cfg_int_or(o, "max_position_embeddings", 8192, 1, INT32_MAX, &info->max_positions));
    MR_TRY(mr_cfg_id(o, "bos_token_id", -1, &info->bos));
    MR_TRY(mr_cfg_eos(o, info));
    c->info = *info;
    c->global = mr_arena_alloc(a, (size_t)info->layers * sizeof *c->global);
    return c->global ? MR_OK : MR_ENOMEM;
}

static mr_err config1(mr_jval o, const mr_model_opts *opts, mr_arena *a, void **cfg,
                      mr_model_info *info)
{
    gemma *c;
    (void)opts;
    MR_TRY(begin(o, a, info, &c));
    MR_TRY(shape(o, 16, 16, c));
    MR_TRY(mr_cfg_act(o, "hidden_act", "gelu_pytorch_tanh", &c->act));
    if (mr_jis(mr_jget(o, "hidden_act"), "gelu")) /* a legacy value of the published files */
        c->act = MR_ACT_GELU_TANH;
    for (int64_t i = 0; i < info->layers; i++)
        c->global[i] = true;
    c->scale = 1 / sqrt((double)c->head_dim);
    *info = c->info;
    *cfg = c;
    return MR_OK;
}

static mr_err config2(mr_jval o, const mr_model_opts *opts, mr_arena *a, void **cfg,
                      mr_model_info *info)
{
    gemma *c;
    double scalar;
    (void)opts;
    MR_TRY(begin(o, a, info, &c));
    MR_TRY(shape(o, 8, 4, c));
    MR_TRY(mr_cfg_act(o, "hidden_activation", "gelu_pytorch_tanh", &c->act));
    MR_TRY(mr_cfg_num_in(o, "query_pre_attn_scalar", 256, 1e-6, 1e9, &scalar));
    MR_TRY(cap_of(o, "attn_logit_softcapping", 50, &c->cap));
    MR_TRY(cap_of(o, "final_logit_softcapping", 30, &c->logit_cap));
    MR_TRY(mr_cfg_layer_types(o, 2, c->info.layers, c->global));
    MR_TRY(mr_cfg_window(o, 4096, &c->window));
    c->scale = 1 / sqrt(scalar);
    c->sandwich = true;
    *info = c->info;
    *cfg = c;
    return MR_OK;
}

/* ---- graph ---- */

static mr_val layer(mr_flow *f, const gemma *c, mr_val x, int i)
{
    const char *p = mr_flow_name(f, "model.layers.%d", i);
    const mr_norm_spec norm = {.eps = c->eps, .offset = 1};
    mr_attention_spec attention = {.layer = i,
                                   .prefix = mr_flow_name(f, "%s.self_attn", p),
                                   .heads = c->heads,
                                   .kv_heads = c->kv_heads,
                                   .head_dim = c->head_dim,
                                   .qkv_bias = c->bias,
                                   .o_bias = c->bias,
                                   .rope = &c->rope,
                                   .mask = c->global[i] ? MR_MASK_CAUSAL : MR_MASK_WINDOW,
                                   .window = c->window,
                                   .scale = c->scale,
                                   .softcap = c->cap};
    mr_mlp_spec mlp = {.prefix = mr_flow_name(f, "%s.mlp", p), .width = c->inter, .fn = c->act};
    /* in Gemma 1 the norm named post_attention_layernorm is the one before the MLP */
    const char *behind = mr_flow_name(f, "%s.post_attention_layernorm.weight", p);
    const char *before = mr_flow_name(f, "%s.pre_feedforward_layernorm.weight", p);
    mr_val y = mr_flow_norm(f, x, mr_flow_name(f, "%s.input_layernorm.weight", p), norm);
    y = mr_flow_attention(f, y, &attention);
    x = mr_flow_add(f, x, c->sandwich ? mr_flow_norm(f, y, behind, norm) : y);
    y = mr_flow_mlp(f, mr_flow_norm(f, x, c->sandwich ? before : behind, norm), &mlp);
    if (c->sandwich)
        y = mr_flow_norm(f, y, mr_flow_name(f, "%s.post_feedforward_layernorm.weight", p), norm);
    return mr_flow_add(f, x, y);
}

static mr_val build(mr_flow *f, const void *cfg)
{
    const gemma *c = cfg;
    double scale = (double)sqrtf((float)c->info.hidden);
    mr_val x = mr_flow_embed(f, "model.embed_tokens.weight", c->info.vocab, c->info.hidden, scale);
    for (int i = 0; i < c->info.layers && !mr_flow_failed(f); i++)
        x = layer(f, c, x, i);
    mr_head_spec head = {.norm = {.eps = c->eps, .offset = 1},
                         .tied = c->tied,
                         .vocab = c->info.vocab,
                         .softcap = c->logit_cap,
                         .act_f32 = true};
    return mr_flow_head(f, x, &head);
}

/* ---- GGUF ---- */

static void gguf_common(mr_gguf_config *c)
{
    mr_gguf_config_one_head_dim(c);
    mr_gguf_config_rope_scaling(c);
}

static const mr_gguf_row rows[] = {{"sliding_window", "attention.sliding_window", 'i'},
                                   {"attn_logit_softcapping", "attn_logit_softcapping", 'n'},
                                   {"final_logit_softcapping", "final_logit_softcapping", 'n'},
                                   {0}};

static mr_err gguf_config1(const mr_weights *w, mr_buf *json)
{
    mr_gguf_config c;
    mr_gguf_config_begin(&c, w, "gemma", "gemma", rows, json);
    gguf_common(&c);
    return mr_gguf_config_end(&c);
}

static mr_err gguf_config2(const mr_weights *w, mr_buf *json)
{
    mr_gguf_config c;
    mr_gguf_config_begin(&c, w, "gemma2", "gemma2", rows, json);
    gguf_common(&c);
    mr_gguf_config_query_scalar(&c, 46); /* the 27B */
    return mr_gguf_config_end(&c);
}

#define BLOCK(hf, gguf)                                                                            \
    {                                                                                              \
        "model.layers.{L}." hf ".weight", "blk.{L}." gguf ".weight", MR_ONE_PLUS_W                 \
    }
#define SHARED                                                                                     \
    {"model.norm.weight", "output_norm.weight", MR_ONE_PLUS_W},                                    \
        BLOCK("input_layernorm", "attn_norm")

static const mr_name_row names1[] = {SHARED, BLOCK("post_attention_layernorm", "ffn_norm"), {0}};
static const mr_name_row names2[] = {SHARED,
                                     BLOCK("post_attention_layernorm", "post_attention_norm"),
                                     BLOCK("pre_feedforward_layernorm", "ffn_norm"),
                                     BLOCK("post_feedforward_layernorm", "post_ffw_norm"),
                                     {0}};

static const char *const prefixes[] = {"model.", NULL};
static const char *const skip[] = {"*.rotary_emb.inv_freq", "lm_head.weight", NULL};

const mr_family mr_family_gemma = {
    .name = "gemma",
    .model_types = (const char *const[]){"gemma", NULL},
    .archs = (const char *const[]){"gemma", NULL},
    .prefixes = prefixes,
    .names = names1,
    .skip = skip,
    .gguf_config = gguf_config1,
    .config = config1,
    .build = build,
};

const mr_family mr_family_gemma2 = {
    .name = "gemma2",
    .model_types = (const char *const[]){"gemma2", NULL},
    .archs = (const char *const[]){"gemma2", NULL},
    .prefixes = prefixes,
    .names = names2,
    .skip = skip,
    .gguf_config = gguf_config2,
    .config = config2,
    .build = build,
};
