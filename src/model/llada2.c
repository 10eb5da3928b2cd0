/* LLaDA2: a block-diffusion mixture of experts.  Rows see their whole block and all blocks before.
 *
 * The published class has wrong defaults for its own models (biases on, another pad id), so its
 * keys are demanded; only use_qk_norm and the two ids, which the published files leave out, have
 * defaults.  The reference never reads norm_topk_prob, score_function, router_dtype,
 * moe_router_enable_expert_bias and rotary_dim: scores are sigmoids, with bias, in f32, weights are
 * normalised unless one expert is chosen.  Neither does this.
 *
 * 2.2 (known by expert_capacity) routes by blocks of rows and leaves the groups that its config still
 * has unused; a generation's block is then a whole number of them. */
#include <math.h>

#include "model/family.h"

typedef struct llada2 {
    mr_model_info info;
    int64_t inter, moe_inter, shared, heads, kv_heads, head_dim, dense_layers;
    int64_t experts, top_k, groups, keep;
    int64_t route_block, capacity; /* 2.2; else 0 */
    double eps, routed_scale;
    mr_act act;
    bool tied, qkv_bias, o_bias, qk_norm;
    mr_rope_spec rope;
} llada2;

enum {
    EOS = 156892,
    MASK = 156895,
    DELETE = 156930,
    SPLIT = 156931,
    BLOCK = 32,
    BLOCK_MAX = 1 << 20
};

/* ---- config ---- */

static mr_err block_config(mr_jval o, const mr_model_opts *opts, llada2 *c, mr_model_info *info)
{
    MR_TRY(mr_cfg_int_or(o, "expert_capacity", 0, 0, MR_CFG_EXPERTS, &c->capacity));
    MR_TRY(mr_cfg_int_or(o, "block_size", BLOCK, 1, BLOCK_MAX, &info->block_length));
    if (c->capacity)
        c->route_block = info->block_length;
    if (opts->block_length < 0 || opts->block_length > BLOCK_MAX)
        return mr_fail(MR_EUSAGE, "block length %lld is not in 1..%d",
                       (long long)opts->block_length, BLOCK_MAX);
    if (opts->block_length)
        info->block_length = opts->block_length;
    if (c->capacity && info->block_length % c->route_block)
        return mr_fail(MR_EUSAGE,
                       "block length %lld is no multiple of the %lld rows that are routed "
                       "together (block_size)",
                       (long long)info->block_length, (long long)c->route_block);
    return MR_OK;
}

/* Absent ids: the pad is the end in every published file, else the published numbers. */
static mr_err id_config(mr_jval o, const llada2 *c, mr_model_info *info)
{
    info->decoder = c->capacity ? "llada2.2" : "llada2.0";
    MR_TRY(mr_cfg_id(o, "delete_token_id", c->capacity ? DELETE : -1, &info->delete_id));
    MR_TRY(mr_cfg_id(o, "split_token_id", c->capacity ? SPLIT : -1, &info->split_id));
    if (!mr_jhas(mr_jget(o, "eos_token_id"))) {
        MR_TRY(mr_cfg_id(o, "pad_token_id", EOS, &info->eos[0]));
        info->n_eos = 1;
    }
    return mr_cfg_id(o, "mask_token_id", MASK, &info->mask_id);
}

static mr_err attention_config(mr_jval o, llada2 *c)
{
    double partial;
    MR_TRY(mr_cfg_int(o, "num_attention_heads", 1, MR_CFG_HEADS, &c->heads));
    MR_TRY(mr_cfg_int(o, "num_key_value_heads", 1, MR_CFG_HEADS, &c->kv_heads));
    if (c->heads % c->kv_heads)
        return mr_jfail(mr_jget(o, "num_key_value_heads"), "%lld does not divide %lld heads",
                        (long long)c->kv_heads, (long long)c->heads);
    MR_TRY(mr_cfg_int(o, "head_dim", 2, MR_CFG_HEAD_DIM, &c->head_dim));
    MR_TRY(mr_cfg_bool(o, "use_qkv_bias", &c->qkv_bias));
    MR_TRY(mr_cfg_bool(o, "use_bias", &c->o_bias));
    MR_TRY(mr_cfg_bool_or(o, "use_qk_norm", true, &c->qk_norm));
    MR_TRY(mr_cfg_off(o, "use_sliding_window"));
    MR_TRY(mr_cfg_partial(o, -1, &partial));
    if (partial < 0)
        return mr_jnum(mr_jget(o, "partial_rotary_factor"), &partial);
    return mr_cfg_rope_part(o, partial, c->head_dim, &c->info, &c->rope);
}

static mr_err moe_config(mr_jval o, llada2 *c)
{
    mr_jval shared = mr_jget(o, "num_shared_experts"); /* null: none; it must be said */
    int64_t n = 0;
    MR_TRY(mr_cfg_int(o, "first_k_dense_replace", 0, INT32_MAX, &c->dense_layers));
    MR_TRY(mr_cfg_int(o, "moe_intermediate_size", 1, MR_CFG_WIDTH, &c->moe_inter));
    MR_TRY(mr_cfg_int(o, "num_experts", 1, MR_CFG_EXPERTS, &c->experts));
    if (!c->capacity) {
        mr_cfg_route route;
        MR_TRY(mr_cfg_router(o, c->experts, false, (mr_cfg_route){0}, &route));
        c->top_k = route.k;
        c->groups = route.groups;
        c->keep = route.keep;
    } else {
        c->groups = c->keep = 1;
        MR_TRY(mr_cfg_int(o, "num_experts_per_tok", 1, c->experts, &c->top_k));
        if (c->capacity < c->top_k || c->capacity > c->experts)
            return mr_jfail(mr_jget(o, "expert_capacity"), "%lld is not in %lld..%lld",
                            (long long)c->capacity, (long long)c->top_k, (long long)c->experts);
    }
    if (mr_jtype(shared) != MR_JNULL)
        MR_TRY(mr_jint(shared, 0, 1024, &n));
    c->shared = n * c->moe_inter;
    return mr_cfg_num(o, "routed_scaling_factor", 1e-9, 1e9, &c->routed_scale);
}

static mr_err config(mr_jval o, const mr_model_opts *opts, mr_arena *a, void **cfg,
                     mr_model_info *info)
{
    bool rms;
    double theta;
    llada2 *c = mr_arena_alloc(a, sizeof *c);
    if (!c)
        return MR_ENOMEM;
    info->diffusion = true;
    MR_TRY(mr_cfg_common(o, 32768, info));
    MR_TRY(block_config(o, opts, c, info));
    MR_TRY(id_config(o, c, info));
    c->info = *info;
    MR_TRY(mr_cfg_int(o, "intermediate_size", 1, MR_CFG_WIDTH, &c->inter));
    if (!mr_jhas(mr_jget(o, "rope_parameters")))
        MR_TRY(mr_cfg_num(o, "rope_theta", 1e-9, 1e18, &theta));
    MR_TRY(attention_config(o, c));
    MR_TRY(moe_config(o, c));
    MR_TRY(mr_cfg_num(o, "rms_norm_eps", 0, 1, &c->eps));
    MR_TRY(mr_cfg_act(o, "hidden_act", "silu", &c->act));
    MR_TRY(mr_cfg_bool_or(o, "tie_word_embeddings", false, &c->tied));
    MR_TRY(mr_cfg_bool_or(o, "use_rmsnorm", true, &rms));
    if (!rms)
        return mr_cfg_refuse(mr_jget(o, "use_rmsnorm"), "false is not supported");
    *info = c->info;
    *cfg = c;
    return MR_OK;
}

/* ---- graph ---- */

static mr_val feed_forward(mr_flow *f, const llada2 *c, mr_val x, const char *prefix, int i)
{
    if (i < c->dense_layers) {
        mr_mlp_spec mlp = {.prefix = prefix, .width = c->inter, .fn = c->act};
        return mr_flow_mlp(f, x, &mlp);
    }
    mr_moe_spec moe = {.prefix = prefix,
                       .router = "gate",
                       .router_bias = "gate.expert_bias",
                       .experts = c->experts,
                       .top_k = c->top_k,
                       .groups = c->groups,
                       .keep = c->keep,
                       .block = c->route_block,
                       .capacity = c->capacity,
                       .width = c->moe_inter,
                       .score = "sigmoid",
                       .norm = c->top_k > 1,
                       .norm_eps = 1e-20,
                       .scale = c->routed_scale,
                       .fn = c->act,
                       .shared_width = c->shared,
                       .shared = "shared_experts"};
    return mr_flow_moe(f, x, &moe);
}

static mr_val layer(mr_flow *f, const llada2 *c, mr_val x, int i)
{
    const char *p = mr_flow_name(f, "model.layers.%d", i);
    const mr_norm_spec norm = {.eps = c->eps};
    mr_attention_spec attention = {.layer = i,
                                   .prefix = mr_flow_name(f, "%s.attention", p),
                                   .qkv = "query_key_value",
                                   .o = "dense",
                                   .q_norm = c->qk_norm ? "query_layernorm" : NULL,
                                   .k_norm = c->qk_norm ? "key_layernorm" : NULL,
                                   .norm = norm,
                                   .heads = c->heads,
                                   .kv_heads = c->kv_heads,
                                   .head_dim = c->head_dim,
                                   .qkv_bias = c->qkv_bias,
                                   .o_bias = c->o_bias,
                                   .rope = &c->rope,
                                   .mask = MR_MASK_BLOCK,
                                   .block = c->info.block_length,
                                   .scale = 1 / sqrt((double)c->head_dim)};
    mr_val y = mr_flow_norm(f, x, mr_flow_name(f, "%s.input_layernorm.weight", p), norm);
    x = mr_flow_add(f, x, mr_flow_attention(f, y, &attention));
    y = mr_flow_norm(f, x, mr_flow_name(f, "%s.post_attention_layernorm.weight", p), norm);
    return mr_flow_add(f, x, feed_forward(f, c, y, mr_flow_name(f, "%s.mlp", p), i));
}

static mr_val build(mr_flow *f, const void *cfg)
{
    const llada2 *c = cfg;
    const char *embed = "model.word_embeddings.weight";
    mr_val x = mr_flow_embed(f, embed, c->info.vocab, c->info.hidden, 1);
    for (int i = 0; i < c->info.layers && !mr_flow_failed(f); i++)
        x = layer(f, c, x, i);
    mr_head_spec head = {
        .norm = {.eps = c->eps}, .embed_name = embed, .tied = c->tied, .vocab = c->info.vocab};
    return mr_flow_head(f, x, &head);
}

const mr_family mr_family_llada2 = {
    .name = "llada2",
    .model_types = (const char *const[]){"llada2_moe", NULL},
    .archs = (const char *const[]){NULL},
    .prefixes = (const char *const[]){"model.", NULL},
    .skip = (const char *const[]){"*.rotary_emb.inv_freq", "lm_head.weight", NULL},
    .config = config,
    .build = build,
};
