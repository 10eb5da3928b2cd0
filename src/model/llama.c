/* Llama, and models of its shape (SmolLM2): pre-norm, grouped attention, gated MLP. */
#include <math.h>
#include <string.h>

#include "model/family.h"

typedef struct llama {
    mr_model_info info;
    int64_t inter;
    mr_cfg_head head;
    double eps;
    mr_act act;
    bool tied, attention_bias, mlp_bias;
    mr_rope_spec rope;
} llama;

static mr_err config(mr_jval o, const mr_model_opts *opts, mr_arena *a, void **cfg,
                     mr_model_info *info)
{
    llama *c = mr_arena_alloc(a, sizeof *c);
    (void)opts;
    if (!c)
        return MR_ENOMEM;
    MR_TRY(mr_cfg_common(o, 2048, info));
    MR_TRY(mr_cfg_int(o, "intermediate_size", 1, MR_CFG_WIDTH, &c->inter));
    MR_TRY(mr_cfg_heads(o, info->hidden, (mr_cfg_head){0}, &c->head));
    MR_TRY(mr_cfg_num_in(o, "rms_norm_eps", 1e-6, 0, 1, &c->eps));
    MR_TRY(mr_cfg_act(o, "hidden_act", "silu", &c->act));
    MR_TRY(mr_cfg_bool_or(o, "tie_word_embeddings", false, &c->tied));
    MR_TRY(mr_cfg_bool_or(o, "attention_bias", false, &c->attention_bias));
    MR_TRY(mr_cfg_bool_or(o, "mlp_bias", false, &c->mlp_bias));
    MR_TRY(mr_cfg_off(o, "rope_interleaved"));
    MR_TRY(mr_cfg_rope_whole(o, c->head.head_dim, info, &c->rope, NULL));
    if (c->rope.kind != MR_ROPE_LLAMA3) /* which a GGUF file keeps as divisors */
        c->rope.factors = "rope_freqs.weight";
    c->info = *info;
    *cfg = c;
    return MR_OK;
}

static mr_val layer(mr_flow *f, const llama *c, mr_val x, int i)
{
    const char *p = mr_flow_name(f, "model.layers.%d", i);
    const mr_norm_spec norm = {.eps = c->eps};
    mr_attention_spec attention = {.layer = i,
                                   .prefix = mr_flow_name(f, "%s.self_attn", p),
                                   .heads = c->head.heads,
                                   .kv_heads = c->head.kv_heads,
                                   .head_dim = c->head.head_dim,
                                   .qkv_bias = c->attention_bias,
                                   .o_bias = c->attention_bias,
                                   .rope = &c->rope,
                                   .mask = MR_MASK_CAUSAL,
                                   .scale = 1 / sqrt((double)c->head.head_dim)};
    mr_mlp_spec mlp = {.prefix = mr_flow_name(f, "%s.mlp", p),
                       .width = c->inter,
                       .fn = c->act,
                       .bias = c->mlp_bias};
    mr_val y = mr_flow_norm(f, x, mr_flow_name(f, "%s.input_layernorm.weight", p), norm);
    x = mr_flow_add(f, x, mr_flow_attention(f, y, &attention));
    y = mr_flow_norm(f, x, mr_flow_name(f, "%s.post_attention_layernorm.weight", p), norm);
    return mr_flow_add(f, x, mr_flow_mlp(f, y, &mlp));
}

static mr_val build(mr_flow *f, const void *cfg)
{
    const llama *c = cfg;
    mr_val x = mr_flow_embed(f, "model.embed_tokens.weight", c->info.vocab, c->info.hidden, 1);
    for (int i = 0; i < c->info.layers && !mr_flow_failed(f); i++)
        x = layer(f, c, x, i);
    mr_head_spec head = {
        .norm = {.eps = c->eps}, .tied = c->tied, .vocab = c->info.vocab, .act_f32 = true};
    return mr_flow_head(f, x, &head);
}

/* ---- GGUF ---- */

/* The scaling that the divisors in the file come from; if it is found they are not read again. */
static void gguf_llama3(mr_gguf_config *c, const float *f, int64_t n)
{
    mr_rope_spec r = {.theta = 1e4};
    mr_gguf_config_get_num(c, "rope.freq_base", &r.theta);
    if (!mr_llama3_find(&r, f, n))
        return;
    mr_gguf_config_open(c, "rope_scaling");
    mr_gguf_config_raw(c, "rope_type", "\"llama3\"");
    mr_gguf_config_num(c, "factor", r.factor);
    mr_gguf_config_num(c, "low_freq_factor", r.low);
    mr_gguf_config_num(c, "high_freq_factor", r.high);
    mr_gguf_config_num(c, "original_max_position_embeddings", r.orig);
    mr_gguf_config_close(c);
}

static void gguf_divisors(mr_gguf_config *c)
{
    char type[32];
    float f[MR_CFG_HEAD_DIM];
    mr_gguf_config_rope_type(c, type);
    int64_t n = strcmp(type, "none") == 0 ? mr_gguf_config_rope_freqs(c, f) : 0;
    if (n)
        gguf_llama3(c, f, n);
}

static mr_err gguf_config(const mr_weights *w, mr_buf *json)
{
    static const char *const others[] = {"expert_count", "attention.scale", "attention.clamp_kqv",
                                         "logit_scale"};
    mr_gguf_config c;
    int64_t dim, key;
    double v;
    mr_gguf_config_begin(&c, w, "llama", "llama", NULL, json);
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (mr_gguf_config_get_num(&c, others[i], &v) && v != 0)
            mr_gguf_config_refuse(&c, others[i], "not supported for this architecture");
    bool has_key = mr_gguf_config_get_int(&c, "attention.key_length", &key);
    mr_gguf_config_one_head_dim(&c);
    if (mr_gguf_config_get_int(&c, "rope.dimension_count", &dim)) {
        if (!has_key)
            mr_gguf_config_int(&c, "head_dim", dim);
        else if (dim != key)
            mr_gguf_config_refuse(&c, "rope.dimension_count", "only whole heads are rotated");
    }
    mr_gguf_config_rope_scaling(&c);
    gguf_divisors(&c);
    return mr_gguf_config_end(&c);
}

static const mr_rope_spec *gguf_rope(const void *cfg)
{
    const llama *c = cfg;
    return c->rope.kind == MR_ROPE_LLAMA3 ? &c->rope : NULL;
}

static const mr_name_row names[] = {
    {"rope_freqs.weight", "rope_freqs.weight", NULL},
    {"model.layers.{L}.self_attn.q_proj.weight", "blk.{L}.attn_q.weight", ":unrope(%q)"},
    {"model.layers.{L}.self_attn.k_proj.weight", "blk.{L}.attn_k.weight", ":unrope(%k)"},
    {"model.layers.{L}.self_attn.q_proj.bias", "blk.{L}.attn_q.bias", ":unrope_k(%q)"},
    {"model.layers.{L}.self_attn.k_proj.bias", "blk.{L}.attn_k.bias", ":unrope_k(%k)"},
    {0}};

const mr_family mr_family_llama = {
    .name = "llama",
    .model_types = (const char *const[]){"llama", NULL},
    .archs = (const char *const[]){"llama", NULL},
    .prefixes = (const char *const[]){"model.", NULL},
    .names = names,
    .skip =
        (const char *const[]){"*.rotary_emb.inv_freq", "lm_head.weight", "rope_freqs.weight", NULL},
    .gguf_config = gguf_config,
    .gguf_rope = gguf_rope,
    .config = config,
    .build = build,
};
