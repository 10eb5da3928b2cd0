/* Gemma 4: E2B, E4B, 12B, 26B-A4B, 31B; text alone or the text part of the media models.
 *
 * On the line's sandwich of norms (of w, not 1 + w): global layers with heads of their own width
 * that may take their keys' projection for the values, a norm without weight on values, rotation of
 * a part of the pairs ("proportional"), a number per layer that scales the whole residual.  E-type
 * models add per-layer embeddings (PLE), and last layers without keys and values: these read the
 * cache of the last layer of their type before them, so only wanted rows pass through them.  26B-A4B
 * has routed experts beside the MLP in every layer.
 *
 * The maths is that of the reference's modeling_gemma4.py; image rows see each other in sliding
 * layers alone, for the 12B too (its class's forward disagrees with its own generate). */
#include <math.h>

#include "model/gemma4.h"

static mr_val norm(mr_flow *f, const gemma4 *c, mr_val x, const char *prefix, const char *name)
{
    return mr_flow_norm(f, x, mr_flow_name(f, "%s.%s.weight", prefix, name),
                        (mr_norm_spec){.eps = c->eps});
}

static mr_val attention(mr_flow *f, const gemma4 *c, mr_val x, int i, const char *p)
{
    const layer_kind *k = &c->kind[c->global[i]];
    mr_attention_spec s = {.layer = i,
                           .prefix = mr_flow_name(f, "%s.self_attn", p),
                           .q_norm = "q_norm",
                           .k_norm = "k_norm",
                           .norm = {.eps = c->eps},
                           .heads = c->heads,
                           .kv_heads = k->kv_heads,
                           .head_dim = k->head_dim,
                           .qkv_bias = c->bias,
                           .o_bias = c->bias,
                           .bias_prefix = mr_flow_name(f, "%s.%d.self_attn", c->own, i),
                           .rope = k->rope.dim ? &k->rope : NULL,
                           .mask = c->global[i] ? MR_MASK_CAUSAL : MR_MASK_WINDOW,
                           .window = c->window,
                           .span = c->vision && !c->global[i],
                           .scale = 1,
                           .v_from_k = c->k_eq_v && c->global[i],
                           .v_norm = true,
                           .shared = i >= c->first_shared};
    if (c->pass == GEMMA4_ENCODER)
        s.span = c->vision ? 2 : 0;
    if (c->pass == GEMMA4_CANVAS) {
        s.mask = MR_MASK_CANVAS;
        s.window = c->global[i] ? 0 : c->window;
        s.span = 2;
    }
    s.wanted = s.shared;
    for (int j = 0; j < c->first_shared; j++)
        if (c->global[j] == c->global[i])
            s.source = j;
    return mr_flow_attention(f, x, &s);
}

/* x is the residual before the MLP; the router reads it, the experts its norm. */
static mr_val experts(mr_flow *f, const gemma4 *c, mr_val x, const char *p)
{
    const mr_norm_spec plain = {.eps = c->eps};
    mr_moe_spec s = {.prefix = p,
                     .router = "router.proj",
                     .router_gain = "router.per_expert_scale",
                     .experts = c->experts,
                     .top_k = c->top_k,
                     .groups = 1,
                     .keep = 1,
                     .width = c->expert_inter,
                     .score = "softmax",
                     .norm = true,
                     .scale = 1,
                     .fn = c->act};
    mr_val r = mr_flow_norm(f, x, mr_flow_name(f, "%s.router.scale", p), plain);
    r = mr_flow_scale(f, r, (double)(float)(1 / sqrt((double)c->info.hidden)));
    mr_val y = norm(f, c, x, p, "pre_feedforward_layernorm_2");
    y = mr_flow_experts(f, y, mr_flow_route(f, r, &s), &s);
    return norm(f, c, y, p, "post_feedforward_layernorm_2");
}

static mr_val feed_forward(mr_flow *f, const gemma4 *c, mr_val x, int i, const char *p)
{
    bool wide = c->double_wide && i >= c->first_shared;
    mr_mlp_spec mlp = {
        .prefix = mr_flow_name(f, "%s.mlp", p), .width = c->inter * (wide ? 2 : 1), .fn = c->act};
    mr_val y = mr_flow_mlp(f, norm(f, c, x, p, "pre_feedforward_layernorm"), &mlp);
    if (c->experts) {
        y = norm(f, c, y, p, "post_feedforward_layernorm_1");
        y = mr_flow_add(f, y, experts(f, c, x, p));
    }
    return norm(f, c, y, p, "post_feedforward_layernorm");
}

/* ple: this layer's embeddings, or MR_NO_VAL. */
static mr_val layer(mr_flow *f, const gemma4 *c, mr_val x, mr_val ple, int i)
{
    const char *p = mr_flow_name(f, "%s.%d", c->layers, i);
    mr_val y = attention(f, c, norm(f, c, x, p, "input_layernorm"), i, p);
    x = mr_flow_add(f, x, norm(f, c, y, p, "post_attention_layernorm"));
    x = mr_flow_add(f, x, feed_forward(f, c, x, i, p));
    if (c->ple) {
        y = mr_flow_linear(f, x, mr_flow_name(f, "%s.per_layer_input_gate", p), c->ple, false);
        y = mr_flow_mul(f, mr_flow_act(f, y, c->act), ple);
        y = mr_flow_linear(f, y, mr_flow_name(f, "%s.per_layer_projection", p), c->info.hidden,
                           false);
        x = mr_flow_add(f, x, norm(f, c, y, p, "post_per_layer_input_norm"));
    }
    return mr_flow_scale_weight(f, x, mr_flow_name(f, "%s.%d.layer_scalar", c->own, i));
}

mr_val mr_gemma4_layer(mr_flow *f, const gemma4 *c, mr_val x, int i)
{
    return layer(f, c, x, MR_NO_VAL, i);
}

/* All layers' embeddings of each row [R, layers * ple]: of the id, and a projection of the row. */
static mr_val per_layer(mr_flow *f, const gemma4 *c, mr_val ids, mr_val x)
{
    int64_t all = c->info.layers * c->ple;
    mr_val e = mr_flow_lookup(f, ids, "model.embed_tokens_per_layer.weight", c->ple_vocab, all,
                              (double)sqrtf((float)c->ple), false);
    mr_val y = mr_flow_linear(f, x, "model.per_layer_model_projection", all, false);
    y = mr_flow_scale(f, y, (double)(float)(1 / sqrt((double)c->info.hidden)));
    y = norm(f, c, mr_flow_heads(f, y, c->info.layers), "model", "per_layer_projection_norm");
    return mr_flow_scale(f, mr_flow_add(f, mr_flow_heads(f, y, 0), e), (double)(float)sqrt(0.5));
}

static mr_val build(mr_flow *f, const void *cfg)
{
    const gemma4 *c = cfg;
    bool media = c->media[0] >= 0 || c->media[1] >= 0 || c->media[2] >= 0;
    mr_val ids = mr_flow_ids(f), all = MR_NO_VAL, ple = MR_NO_VAL;
    if (media)
        ids = mr_flow_alias(f, ids, c->pad, c->media);
    mr_val x = mr_flow_lookup(f, ids, "model.embed_tokens.weight", c->info.vocab, c->info.hidden,
                              (double)sqrtf((float)c->info.hidden), true);
    if (c->ple)
        all = per_layer(f, c, ids, x);
    for (int i = 0; i < c->info.layers && !mr_flow_failed(f); i++) {
        if (i == c->first_shared)
            x = mr_flow_wanted(f, x);
        if (c->ple)
            ple = mr_flow_slice(f, all, i * c->ple, c->ple);
        if (c->ple && i >= c->first_shared)
            ple = mr_flow_wanted(f, ple);
        x = layer(f, c, x, ple, i);
    }
    mr_head_spec head = {.norm = {.eps = c->eps},
                         .tied = c->tied,
                         .vocab = c->info.vocab,
                         .softcap = c->softcap,
                         .act_f32 = true,
                         .wanted = c->first_shared < c->info.layers};
    return mr_flow_head(f, x, &head);
}

/* ---- names ---- */

#define BLOCK(hf, gguf, mod)                                                                       \
    {                                                                                              \
        "model.layers.{L}." hf, "blk.{L}." gguf, mod                                               \
    }
static const mr_name_row names[] = {
    {"model.embed_tokens_per_layer.weight", "per_layer_token_embd.weight", NULL},
    {"model.per_layer_model_projection.weight", "per_layer_model_proj.weight", NULL},
    {"model.per_layer_projection_norm.weight", "per_layer_proj_norm.weight", NULL},
    BLOCK("layer_scalar", "layer_output_scale.weight", NULL),
    BLOCK("post_attention_layernorm.weight", "post_attention_norm.weight", NULL),
    BLOCK("pre_feedforward_layernorm.weight", "ffn_norm.weight", NULL),
    BLOCK("pre_feedforward_layernorm_2.weight", "pre_ffw_norm_2.weight", NULL),
    BLOCK("post_feedforward_layernorm.weight", "post_ffw_norm.weight", NULL),
    BLOCK("post_feedforward_layernorm_1.weight", "post_ffw_norm_1.weight", NULL),
    BLOCK("post_feedforward_layernorm_2.weight", "post_ffw_norm_2.weight", NULL),
    BLOCK("per_layer_input_gate.weight", "inp_gate.weight", NULL),
    BLOCK("per_layer_projection.weight", "proj.weight", NULL),
    BLOCK("post_per_layer_input_norm.weight", "post_norm.weight", NULL),
    BLOCK("router.proj.weight", "ffn_gate_inp.weight", NULL),
    BLOCK("router.scale", "ffn_gate_inp.scale", NULL),
    BLOCK("router.per_expert_scale", "ffn_down_exps.scale", NULL),
    BLOCK("experts.{E}.gate_proj.weight", "ffn_gate_up_exps.weight", MR_FIRST_HALF),
    BLOCK("experts.{E}.up_proj.weight", "ffn_gate_up_exps.weight", MR_SECOND_HALF),
    BLOCK("experts.{E}.gate_proj.weight", "ffn_gate_exps.weight", NULL),
    BLOCK("experts.{E}.up_proj.weight", "ffn_up_exps.weight", NULL),
    BLOCK("experts.{E}.down_proj.weight", "ffn_down_exps.weight", NULL),
    {0}};

/* Towers, and what some files hold of keys and values for layers that share them. */
static const char *const skip[] = {"vision_tower.*",
                                   "model.vision_tower.*",
                                   "audio_tower.*",
                                   "model.audio_tower.*",
                                   "vision_embedder.*",
                                   "model.vision_embedder.*",
                                   "embed_vision.*",
                                   "model.embed_vision.*",
                                   "embed_audio.*",
                                   "model.embed_audio.*",
                                   "*.self_attn.k_proj.*",
                                   "*.self_attn.v_proj.*",
                                   "*.self_attn.k_norm.*",
                                   "*.self_attn.v_norm.*",
                                   "blk.*.attn_k.weight",
                                   "blk.*.attn_v.weight",
                                   "blk.*.attn_k_norm.weight",
                                   "rope_freqs.weight",
                                   "*.rotary_emb.*",
                                   "lm_head.weight",
                                   "language_model.lm_head.weight",
                                   NULL};

const mr_family mr_family_gemma4 = {
    .name = "gemma4",
    .model_types = (const char *const[]){"gemma4", "gemma4_text", "gemma4_unified",
                                         "gemma4_unified_text", NULL},
    .archs = (const char *const[]){"gemma4", NULL},
    .prefixes =
        (const char *const[]){"model.", "model.language_model.", "language_model.model.", NULL},
    .names = names,
    .skip = skip,
    .gguf_config = mr_gemma4_gguf_config,
    .gguf_meta = mr_gemma4_gguf_meta,
    .gguf_rope = mr_gemma4_gguf_rope,
    .config = mr_gemma4_config,
    .build = build,
};
