/* Gemma 3: sandwich norms of 1 + w, norms on queries and keys, windows in most layers, a scaled
 * embedding.  Takes the text models (gemma3_text) and the text part of the vision models (gemma3).
 *
 * Absent keys take the class's defaults, on which the published 4B and 12B files rely.  The
 * attention cap is a key that the reference stores and never applies; the final cap is applied by
 * the text-only class alone. */
#include <math.h>
#include <string.h>

#include "model/family.h"

typedef struct gemma3 {
    mr_model_info info;
    int64_t inter, heads, kv_heads, head_dim, window;
    double eps, scale, softcap;
    mr_act act;
    bool tied, bias;
    bool *global; /* per layer: sees everything */
    mr_rope_spec rope_global, rope_local;
} gemma3;

/* ---- config ---- */

/* layer_types wins; without it every pattern-th layer is global.  The reference writes the pattern
 * with a leading underscore too, and does not read that. */
static mr_err layer_types(mr_jval o, mr_arena *a, gemma3 *c)
{
    int64_t pattern;
    c->global = mr_arena_alloc(a, (size_t)c->info.layers * sizeof *c->global);
    if (!c->global)
        return MR_ENOMEM;
    MR_TRY(mr_cfg_int_or(o, "sliding_window_pattern", 6, 1, INT32_MAX, &pattern));
    MR_TRY(mr_cfg_layer_types(o, pattern, c->info.layers, c->global));
    return mr_cfg_window(o, 4096, &c->window);
}

static mr_err one_rope(mr_jval o, mr_jval over, mr_jval params, const char *theta_key, double theta,
                       gemma3 *c, mr_rope_spec *out)
{
    const mr_jval none = {0};
    MR_TRY(mr_cfg_num_in(o, theta_key, theta, 1e-9, 1e18, &theta));
    MR_TRY(mr_cfg_rope_object(none, over, params, theta, &c->info, out, NULL));
    out->dim = c->head_dim;
    MR_TRY(mr_cfg_whole_heads(params, out));
    return mr_cfg_whole_heads(over, out);
}

/* rope_scaling, the old key, is laid over the new parameters of global layers.  Where there are none
 * the reference lays it over {"rope_type": "default"}, so that a rope_scaling whose kind is under
 * the older name "type" has no effect. */
static mr_err ropes(mr_jval o, gemma3 *c)
{
    mr_jval params = mr_jget(o, "rope_parameters"), scaling = mr_jget(o, "rope_scaling");
    mr_jval none = {0};
    mr_jval full = none, sliding = none;
    if (mr_jhas(params)) {
        if (mr_jtype(params) != MR_JOBJECT)
            return mr_jfail(params, "an object is needed");
        full = mr_jget(params, "full_attention");
        sliding = mr_jget(params, "sliding_attention"); /* other keys have no effect */
    }
    if (!mr_jhas(params) && mr_jtype(scaling) == MR_JOBJECT &&
        !mr_jhas(mr_jget(scaling, "rope_type")) && !mr_jhas(mr_jget(scaling, "rope_theta")) &&
        mr_jhas(mr_jget(scaling, "type")))
        scaling = none;
    MR_TRY(one_rope(o, scaling, full, "rope_theta", 1e6, c, &c->rope_global));
    return one_rope(o, none, sliding, "rope_local_base_freq", 1e4, c, &c->rope_local);
}

static mr_err facts(mr_jval root, mr_jval o, gemma3 *c, mr_model_info *info)
{
    MR_TRY(mr_cfg_int_or(o, "vocab_size", 262208, 1, MR_CFG_VOCAB, &info->vocab));
    MR_TRY(mr_cfg_int(o, "hidden_size", 1, MR_CFG_HIDDEN, &info->hidden));
    MR_TRY(mr_cfg_int(o, "num_hidden_layers", 1, MR_CFG_LAYERS, &info->layers));
    MR_TRY(mr_cfg_int_or(o, "max_position_embeddings", 131072, 1, INT32_MAX, &info->max_positions));
    MR_TRY(mr_cfg_id(mr_jhas(mr_jget(root, "bos_token_id")) ? root : o, "bos_token_id", -1,
                     &info->bos));
    MR_TRY(mr_cfg_eos(mr_jhas(mr_jget(root, "eos_token_id")) ? root : o, info));
    info->images = true;
    c->info = *info;
    MR_TRY(mr_cfg_int(o, "intermediate_size", 1, MR_CFG_WIDTH, &c->inter));
    MR_TRY(mr_cfg_int_or(o, "num_attention_heads", 8, 1, MR_CFG_HEADS, &c->heads));
    MR_TRY(mr_cfg_int_or(o, "num_key_value_heads", 4, 1, MR_CFG_HEADS, &c->kv_heads));
    if (c->heads % c->kv_heads)
        return mr_jfail(mr_jget(o, "num_key_value_heads"), "%lld does not divide %lld heads",
                        (long long)c->kv_heads, (long long)c->heads);
    MR_TRY(mr_cfg_int_or(o, "head_dim", 256, 2, MR_CFG_HEAD_DIM, &c->head_dim));
    if (c->head_dim % 2)
        return mr_jfail(mr_jget(o, "head_dim"), "%lld is odd", (long long)c->head_dim);
    return MR_OK;
}

static mr_err config(mr_jval root, const mr_model_opts *opts, mr_arena *a, void **cfg,
                     mr_model_info *info)
{
    bool nested = mr_jis(mr_jget(root, "model_type"), "gemma3");
    mr_jval o = nested ? mr_jget(root, "text_config") : root;
    double scalar;
    gemma3 *c = mr_arena_alloc(a, sizeof *c);
    (void)opts;
    if (!c)
        return MR_ENOMEM;
    if (mr_jtype(o) != MR_JOBJECT)
        return mr_jfail(o, o.doc ? "an object is needed" : "is missing");
    MR_TRY(facts(root, o, c, info));
    MR_TRY(mr_cfg_num_in(o, "rms_norm_eps", 1e-6, 0, 1, &c->eps));
    MR_TRY(mr_cfg_num_in(o, "query_pre_attn_scalar", 256, 1e-6, 1e9, &scalar));
    c->scale = 1 / sqrt(scalar);
    MR_TRY(mr_cfg_act(o, "hidden_activation", "gelu_pytorch_tanh", &c->act));
    MR_TRY(mr_cfg_bool_or(o, "attention_bias", false, &c->bias));
    MR_TRY(mr_cfg_bool_or(root, "tie_word_embeddings", true, &c->tied));
    MR_TRY(mr_cfg_causal(o));
    if (!nested)
        MR_TRY(mr_cfg_num_in(o, "final_logit_softcapping", 0, 1e-6, 1e9, &c->softcap));
    MR_TRY(layer_types(o, a, c));
    MR_TRY(ropes(o, c));
    *info = c->info;
    *cfg = c;
    return MR_OK;
}

/* ---- graph ---- */

static mr_val layer(mr_flow *f, const gemma3 *c, mr_val x, int i)
{
    const char *p = mr_flow_name(f, "model.layers.%d", i);
    const mr_norm_spec norm = {.eps = c->eps, .offset = 1};
    mr_attention_spec attention = {.layer = i,
                                   .prefix = mr_flow_name(f, "%s.self_attn", p),
                                   .q_norm = "q_norm",
                                   .k_norm = "k_norm",
                                   .norm = norm,
                                   .heads = c->heads,
                                   .kv_heads = c->kv_heads,
                                   .head_dim = c->head_dim,
                                   .qkv_bias = c->bias,
                                   .o_bias = c->bias,
                                   .rope = c->global[i] ? &c->rope_global : &c->rope_local,
                                   .mask = c->global[i] ? MR_MASK_CAUSAL : MR_MASK_WINDOW,
                                   .window = c->window,
                                   .span = 1, /* an image's rows see each other in every layer */
                                   .scale = c->scale};
    mr_mlp_spec mlp = {.prefix = mr_flow_name(f, "%s.mlp", p), .width = c->inter, .fn = c->act};
    mr_val y = mr_flow_norm(f, x, mr_flow_name(f, "%s.input_layernorm.weight", p), norm);
    y = mr_flow_attention(f, y, &attention);
    y = mr_flow_norm(f, y, mr_flow_name(f, "%s.post_attention_layernorm.weight", p), norm);
    x = mr_flow_add(f, x, y);
    y = mr_flow_norm(f, x, mr_flow_name(f, "%s.pre_feedforward_layernorm.weight", p), norm);
    y = mr_flow_mlp(f, y, &mlp);
    y = mr_flow_norm(f, y, mr_flow_name(f, "%s.post_feedforward_layernorm.weight", p), norm);
    return mr_flow_add(f, x, y);
}

static mr_val build(mr_flow *f, const void *cfg)
{
    const gemma3 *c = cfg;
    double scale =
        (double)sqrtf((float)c->info.hidden); /* rounded to f32, not to the file's bf16 */
    mr_val x = mr_flow_lookup(f, mr_flow_ids(f), "model.embed_tokens.weight", c->info.vocab,
                              c->info.hidden, scale, true);
    for (int i = 0; i < c->info.layers && !mr_flow_failed(f); i++)
        x = layer(f, c, x, i);
    mr_head_spec head = {.norm = {.eps = c->eps, .offset = 1},
                         .tied = c->tied,
                         .vocab = c->info.vocab,
                         .softcap = c->softcap,
                         .act_f32 = true};
    return mr_flow_head(f, x, &head);
}

/* ---- GGUF ---- */

/* A period, or a list of flags: true slides. */
static void gguf_pattern(mr_gguf_config *c)
{
    static const char key[] = "attention.sliding_window_pattern";
    int64_t period;
    if (!mr_gguf_config_layer_types(c, key, "sliding_attention", NULL) &&
        mr_gguf_config_get_int(c, key, &period))
        mr_gguf_config_int(c, "sliding_window_pattern", period);
}

static mr_err gguf_config(const mr_weights *w, mr_buf *json)
{
    static const mr_gguf_row rows[] = {{"sliding_window", "attention.sliding_window", 'i'},
                                       {"rope_local_base_freq", "rope.freq_base_swa", 'n'},
                                       {"final_logit_softcapping", "final_logit_softcapping", 'n'},
                                       {0}};
    mr_gguf_config c;
    char type[32];
    double factor;
    mr_gguf_config_begin(&c, w, "gemma3", "gemma3_text", rows, json);
    mr_gguf_config_one_head_dim(&c);
    gguf_pattern(&c);
    mr_gguf_config_query_scalar(&c, 62); /* the 27B */
    mr_gguf_config_rope_type(&c, type);
    if (!strcmp(type, "linear") && mr_gguf_config_get_num(&c, "rope.scaling.factor", &factor)) {
        mr_gguf_config_open(&c, "rope_scaling");
        mr_gguf_config_raw(&c, "rope_type", "\"linear\"");
        mr_gguf_config_num(&c, "factor", factor);
        mr_gguf_config_close(&c);
    } else if (strcmp(type, "none") != 0) {
        mr_gguf_config_refuse(&c, "rope.scaling.type", "only none and linear are supported");
    }
    return mr_gguf_config_end(&c);
}

#define BLOCK(hf, gguf)                                                                            \
    {                                                                                              \
        "model.layers.{L}." hf ".weight", "blk.{L}." gguf ".weight", MR_ONE_PLUS_W                 \
    }
static const mr_name_row names[] = {{"model.norm.weight", "output_norm.weight", MR_ONE_PLUS_W},
                                    BLOCK("input_layernorm", "attn_norm"),
                                    BLOCK("post_attention_layernorm", "post_attention_norm"),
                                    BLOCK("pre_feedforward_layernorm", "ffn_norm"),
                                    BLOCK("post_feedforward_layernorm", "post_ffw_norm"),
                                    BLOCK("self_attn.q_norm", "attn_q_norm"),
                                    BLOCK("self_attn.k_norm", "attn_k_norm"),
                                    {0}};

const mr_family mr_family_gemma3 = {
    .name = "gemma3",
    .model_types = (const char *const[]){"gemma3", "gemma3_text", NULL},
    .archs = (const char *const[]){"gemma3", NULL},
    .prefixes =
        (const char *const[]){"model.", "language_model.model.", "model.language_model.", NULL},
    .names = names,
    .skip =
        (const char *const[]){"vision_tower.*", "model.vision_tower.*", "multi_modal_projector.*",
                              "model.multi_modal_projector.*", "*.rotary_emb.inv_freq",
                              "lm_head.weight", "language_model.lm_head.weight", NULL},
    .gguf_config = gguf_config,
    .config = config,
    .build = build,
};
