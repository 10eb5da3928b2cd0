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
#include <stdio.h>
#include <string.h>

#include "model/family.h"

/* Facts of the layers of one type: [0] sliding, [1] global. */
typedef struct layer_kind {
    int64_t head_dim, kv_heads;
    mr_rope_spec rope; /* dim 0: no rotation */
    bool used;
} layer_kind;

typedef struct gemma4 {
    mr_model_info info;
    int64_t inter, heads, window, first_shared, ple, ple_vocab, experts, top_k, expert_inter;
    double eps, softcap;
    mr_op act;
    bool tied, bias, k_eq_v, double_wide, vision;
    bool *global; /* per layer */
    layer_kind kind[2];
    int32_t pad, media[3]; /* ids of media, read as pad; -1: none */
} gemma4;

/* ---- config ---- */

static mr_err layer_types(mr_jval o, mr_arena *a, gemma4 *c)
{
    int64_t n = c->info.layers, shared;
    c->global = mr_arena_alloc(a, (size_t)n * sizeof *c->global);
    if (!c->global)
        return MR_ENOMEM;
    MR_TRY(mr_cfg_layer_types(o, 6, n, c->global));
    c->global[n - 1] = true; /* whatever the file says */
    MR_TRY(mr_cfg_int_or(o, "num_kv_shared_layers", 0, 0, n - 1, &shared));
    c->first_shared = n - shared;
    for (int64_t i = 0; i < n; i++) {
        layer_kind *k = &c->kind[c->global[i]];
        if (i >= c->first_shared && !k->used)
            return mr_jfail(mr_jget(o, "num_kv_shared_layers"),
                            "no layer before %lld has keys and values for %s layers",
                            (long long)c->first_shared, c->global[i] ? "global" : "sliding");
        k->used = true;
    }
    return MR_OK;
}

static mr_err head_sizes(mr_jval o, const gemma4 *c, layer_kind *k)
{
    MR_TRY(mr_cfg_int_or(o, "head_dim", k->head_dim, 2, MR_CFG_HEAD_DIM, &k->head_dim));
    if (k->head_dim % 2)
        return mr_jfail(mr_jget(o, "head_dim"), "%lld is odd", (long long)k->head_dim);
    MR_TRY(mr_cfg_int_or(o, "num_key_value_heads", k->kv_heads, 1, MR_CFG_HEADS, &k->kv_heads));
    if (c->heads % k->kv_heads)
        return mr_jfail(mr_jget(o, "num_key_value_heads"), "%lld does not divide %lld heads",
                        (long long)k->kv_heads, (long long)c->heads);
    return MR_OK;
}

/* per_layer_config: layer number -> what differs there.  Layers of one type must agree. */
static mr_err listed_sizes(mr_jval list, gemma4 *c)
{
    const layer_kind all = c->kind[0];
    bool seen[2] = {false, false};
    int64_t entries = 0;
    if (mr_jtype(list) != MR_JOBJECT)
        return mr_jfail(list, "an object is needed");
    for (int64_t i = 0; i < c->info.layers; i++) {
        char key[24];
        layer_kind k = all, *of_type = &c->kind[c->global[i]];
        snprintf(key, sizeof key, "%lld", (long long)i);
        mr_jval e = mr_jget(list, key);
        if (mr_jhas(e)) {
            if (mr_jtype(e) != MR_JOBJECT)
                return mr_jfail(e, "an object is needed");
            uint32_t known = (mr_jget(e, "head_dim").doc != NULL) +
                             (mr_jget(e, "num_key_value_heads").doc != NULL);
            if (mr_jcount(e) != known)
                return mr_cfg_refuse(e, "has other keys than head_dim and num_key_value_heads");
            MR_TRY(head_sizes(e, c, &k));
            entries++;
        }
        if (seen[c->global[i]] &&
            (k.head_dim != of_type->head_dim || k.kv_heads != of_type->kv_heads))
            return mr_cfg_refuse(list, "layer %lld differs from others of its type", (long long)i);
        seen[c->global[i]] = true;
        of_type->head_dim = k.head_dim;
        of_type->kv_heads = k.kv_heads;
    }
    return mr_jcount(list) == entries ? MR_OK : mr_jfail(list, "has keys that are no layer");
}

static mr_err sizes(mr_jval o, gemma4 *c)
{
    mr_jval list = mr_jget(o, "per_layer_config");
    layer_kind *local = &c->kind[0], *global = &c->kind[1];
    local->head_dim = 256;
    local->kv_heads = 4;
    MR_TRY(head_sizes(o, c, local));
    if (list.doc && mr_jtype(list) != MR_JNULL)
        return listed_sizes(list, c);
    global->kv_heads = local->kv_heads;
    MR_TRY(mr_cfg_int_or(o, "global_head_dim", 512, 2, MR_CFG_HEAD_DIM, &global->head_dim));
    if (global->head_dim % 2)
        return mr_jfail(mr_jget(o, "global_head_dim"), "%lld is odd", (long long)global->head_dim);
    if (c->k_eq_v) /* the key counts only then */
        MR_TRY(mr_cfg_int_or(o, "num_global_key_value_heads", local->kv_heads, 1, MR_CFG_HEADS,
                             &global->kv_heads));
    if (c->heads % global->kv_heads)
        return mr_jfail(mr_jget(o, "num_global_key_value_heads"), "%lld does not divide %lld heads",
                        (long long)global->kv_heads, (long long)c->heads);
    return MR_OK;
}

static mr_err one_rope(mr_jval o, mr_jval params, bool global, gemma4 *c)
{
    const mr_jval none = {0};
    layer_kind *k = &c->kind[global];
    double theta = global ? 1e6 : 1e4, factor, part;
    mr_jval type = mr_jhas(params) ? mr_jget(params, "rope_type") : none;
    if (mr_jhas(params) ? !mr_jis(type, "proportional") : !global) {
        MR_TRY(mr_cfg_rope_object(o, none, params, theta, c->info.max_positions, &k->rope, NULL));
        k->rope.dim = k->head_dim;
        MR_TRY(
            mr_cfg_num_in(mr_jhas(params) ? params : o, "partial_rotary_factor", 1, 0, 1, &part));
        if (part != 1 && mr_jhas(params))
            return mr_cfg_refuse(mr_jget(params, "partial_rotary_factor"),
                                 "only rope_type proportional turns a part of a head");
        return MR_OK;
    }
    mr_jval from = mr_jhas(params) ? params : o;
    MR_TRY(mr_cfg_num_in(from, "partial_rotary_factor", mr_jhas(params) ? 1 : 0.25, 0, 1, &part));
    MR_TRY(mr_cfg_num_in(from, "factor", 1, 1e-9, 1e18, &factor));
    MR_TRY(mr_cfg_num_in(from, "rope_theta", theta, 1e-9, 1e18, &theta));
    k->rope = (mr_rope_spec){.theta = theta,
                             .kind = MR_ROPE_PROPORTIONAL,
                             .factor = factor,
                             .mscale = 1,
                             .truncate = true,
                             .angles = (int64_t)floor(part * (double)k->head_dim / 2)};
    k->rope.dim = k->rope.angles ? k->head_dim : 0;
    return MR_OK;
}

static mr_err ropes(mr_jval o, gemma4 *c)
{
    mr_jval params = mr_jget(o, "rope_parameters"), none = {0};
    mr_jval full = none, sliding = none;
    if (mr_jhas(params)) {
        if (mr_jtype(params) != MR_JOBJECT)
            return mr_jfail(params, "an object is needed");
        full = mr_jget(params, "full_attention");
        sliding = mr_jget(params, "sliding_attention");
        if (mr_jcount(params) != (uint32_t)((full.doc != NULL) + (sliding.doc != NULL)))
            return mr_cfg_refuse(params,
                                 "has other keys than full_attention and sliding_attention");
    }
    MR_TRY(one_rope(o, full, true, c));
    return one_rope(o, sliding, false, c);
}

/* The class without "unified" in its name alone has per-layer embeddings and experts. */
static mr_err extras(mr_jval o, bool unified, gemma4 *c)
{
    bool moe;
    if (unified)
        return MR_OK;
    MR_TRY(mr_cfg_int_or(o, "hidden_size_per_layer_input", 256, 0, MR_CFG_WIDTH, &c->ple));
    MR_TRY(mr_cfg_int_or(o, "vocab_size_per_layer_input", 262144, 1, MR_CFG_VOCAB, &c->ple_vocab));
    MR_TRY(mr_cfg_bool_or(o, "enable_moe_block", false, &moe));
    if (!moe)
        return MR_OK;
    MR_TRY(mr_cfg_int(o, "num_experts", 1, MR_CFG_EXPERTS, &c->experts));
    MR_TRY(mr_cfg_int(o, "top_k_experts", 1, c->experts, &c->top_k));
    return mr_cfg_int(o, "moe_intermediate_size", 1, MR_CFG_WIDTH, &c->expert_inter);
}

static const int32_t published_media[] = {258880, 258884, 258881};

/* Media ids are read as the pad id; text classes know none, but their files may name them. */
static mr_err media_ids(mr_jval root, mr_jval o, bool nested, gemma4 *c)
{
    static const char *const key[] = {"image_token_id", "video_token_id", "audio_token_id"};
    MR_TRY(mr_cfg_id(o, "pad_token_id", 0, &c->pad));
    for (int i = 0; i < 3; i++) {
        bool null = mr_jtype(mr_jget(root, key[i])) == MR_JNULL;
        MR_TRY(mr_cfg_id(root, key[i], nested && !null ? published_media[i] : -1, &c->media[i]));
    }
    return MR_OK;
}

static mr_err facts(mr_jval root, mr_jval o, bool unified, gemma4 *c, mr_model_info *info)
{
    MR_TRY(mr_cfg_int_or(o, "vocab_size", 262144, 1, MR_CFG_VOCAB, &info->vocab));
    MR_TRY(mr_cfg_int(o, "hidden_size", 1, MR_CFG_HIDDEN, &info->hidden));
    MR_TRY(mr_cfg_int(o, "num_hidden_layers", 1, MR_CFG_LAYERS, &info->layers));
    MR_TRY(mr_cfg_int_or(o, "max_position_embeddings", unified ? 262144 : 131072, 1, INT32_MAX,
                         &info->max_positions));
    MR_TRY(mr_cfg_id(mr_jhas(mr_jget(root, "bos_token_id")) ? root : o, "bos_token_id", -1,
                     &info->bos));
    MR_TRY(mr_cfg_eos(mr_jhas(mr_jget(root, "eos_token_id")) ? root : o, info));
    info->images = true;
    c->info = *info;
    MR_TRY(mr_cfg_int(o, "intermediate_size", 1, MR_CFG_WIDTH, &c->inter));
    MR_TRY(mr_cfg_int_or(o, "num_attention_heads", 8, 1, MR_CFG_HEADS, &c->heads));
    MR_TRY(mr_cfg_num_in(o, "rms_norm_eps", 1e-6, 0, 1, &c->eps));
    MR_TRY(mr_cfg_act(o, "hidden_activation", "gelu_pytorch_tanh", &c->act));
    MR_TRY(mr_cfg_num_in(o, "final_logit_softcapping", 0, 1e-6, 1e9, &c->softcap));
    MR_TRY(mr_cfg_bool_or(o, "attention_bias", false, &c->bias));
    MR_TRY(mr_cfg_bool_or(o, "attention_k_eq_v", false, &c->k_eq_v));
    MR_TRY(mr_cfg_bool_or(o, "use_double_wide_mlp", false, &c->double_wide));
    return mr_cfg_bool_or(root, "tie_word_embeddings", true, &c->tied);
}

static mr_err config(mr_jval root, const mr_model_opts *opts, mr_arena *a, void **cfg,
                     mr_model_info *info)
{
    mr_jval type = mr_jget(root, "model_type");
    bool nested = mr_jis(type, "gemma4") || mr_jis(type, "gemma4_unified");
    bool unified = mr_jis(type, "gemma4_unified") || mr_jis(type, "gemma4_unified_text");
    mr_jval o = nested ? mr_jget(root, "text_config") : root;
    gemma4 *c = mr_arena_alloc(a, sizeof *c);
    (void)opts;
    if (!c)
        return MR_ENOMEM;
    if (mr_jtype(o) != MR_JOBJECT)
        return mr_jfail(o, o.doc ? "an object is needed" : "is missing");
    MR_TRY(facts(root, o, unified, c, info));
    MR_TRY(layer_types(o, a, c));
    MR_TRY(mr_cfg_window(o, unified ? 1024 : 512, &c->window));
    MR_TRY(sizes(o, c));
    MR_TRY(ropes(o, c));
    MR_TRY(extras(o, unified, c));
    MR_TRY(media_ids(root, o, nested, c));
    mr_jval both = mr_jget(o, "use_bidirectional_attention");
    c->vision = both.doc ? mr_jis(both, "vision") : unified;
    if (!c->vision)
        MR_TRY(mr_cfg_off(o, "use_bidirectional_attention"));
    *cfg = c;
    return MR_OK;
}

/* ---- graph ---- */

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
                           .rope = k->rope.dim ? &k->rope : NULL,
                           .mask = c->global[i] ? MR_MASK_CAUSAL : MR_MASK_WINDOW,
                           .window = c->window,
                           .span = c->vision && !c->global[i],
                           .scale = 1,
                           .v_from_k = c->k_eq_v && c->global[i],
                           .v_norm = true,
                           .shared = i >= c->first_shared};
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
    const char *p = mr_flow_name(f, "model.layers.%d", i);
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
    return mr_flow_scale_weight(f, x, mr_flow_name(f, "%s.layer_scalar", p));
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
    mr_head_spec head = {.norm_name = "model.norm.weight",
                         .norm = {.eps = c->eps},
                         .head_name = "lm_head.weight",
                         .embed_name = "model.embed_tokens.weight",
                         .tied = c->tied,
                         .vocab = c->info.vocab,
                         .softcap = c->softcap,
                         .act_f32 = true,
                         .wanted = c->first_shared < c->info.layers};
    return mr_flow_head(f, x, &head);
}

/* ---- GGUF ---- */

/* A list of one number per layer, or one number for all; false: absent. */
static bool gguf_per_layer(mr_gguf_config *c, const char *key, int64_t layers, int64_t *out)
{
    char full[160];
    mr_gguf_array a;
    snprintf(full, sizeof full, "gemma4.%s", key);
    if (c->err != MR_OK || mr_gguf_kind(c->g, full) == MR_GGUF_ABSENT)
        return false;
    if (mr_gguf_kind(c->g, full) != MR_GGUF_ARRAY) {
        if (!mr_gguf_config_get_int(c, key, out))
            return false;
        for (int64_t i = 1; i < layers; i++)
            out[i] = out[0];
        return true;
    }
    mr_err e = mr_gguf_arr(c->g, full, &a);
    if (e == MR_OK && a.count != (uint64_t)layers)
        e = mr_fail(MR_EFORMAT, "%s: \"%s\" has %llu entries for %lld layers", mr_gguf_path(c->g),
                    full, (unsigned long long)a.count, (long long)layers);
    for (int64_t i = 0; e == MR_OK && i < layers; i++)
        e = mr_gguf_arr_int(&a, &out[i]);
    c->err = e;
    return e == MR_OK;
}

/* Which pairs of global layers turn: those that the stored divisors leave as they are; the others
 * are divided by something huge.  Gives their part of the whole. */
static mr_err gguf_part(const mr_weights *w, double *part)
{
    const mr_winfo *t = mr_weights_find(w, "rope_freqs.weight");
    int64_t turning = 0, n = t ? t->dim[0] : 0;
    mr_rows rows;
    *part = 0.25;
    if (!t)
        return MR_OK;
    if (t->rank != 1 || t->dtype != MR_F32 || n > MR_CFG_HEAD_DIM)
        return mr_fail(MR_EUNSUPPORTED, "%s: tensor \"rope_freqs.weight\" is not f32 of a head",
                       mr_weights_file(w, t->data.file));
    float *f = mr_alloc(MR_MEM_COMPILE, 2 * (size_t)n * sizeof *f);
    if (!f)
        return MR_ENOMEM;
    mr_err e = mr_weights_read(w, t, 0, 1, f + n, &rows);
    if (e == MR_OK)
        mr_dequant_row(&rows, 0, f);
    while (e == MR_OK && turning < n && f[turning] == 1)
        turning++;
    for (int64_t i = turning; e == MR_OK && i < n; i++)
        if (!(f[i] >= 1e20F))
            e = mr_fail(MR_EUNSUPPORTED, "%s: tensor \"rope_freqs.weight\" is not ones, then huge",
                        mr_weights_file(w, t->data.file));
    mr_free(f);
    *part = (double)turning / (double)n;
    return e;
}

static void gguf_ropes(mr_gguf_config *c)
{
    int64_t dim, width;
    double theta, part;
    char type[32];
    if (mr_gguf_config_get_int(c, "rope.dimension_count_swa", &dim) &&
        mr_gguf_config_get_int(c, "attention.key_length_swa", &width) && dim != width)
        mr_gguf_config_refuse(c, "rope.dimension_count_swa", "only whole heads are rotated");
    mr_gguf_config_rope_type(c, type);
    if (strcmp(type, "none") != 0)
        mr_gguf_config_refuse(c, "rope.scaling.type", "only none is supported");
    mr_err e = gguf_part(c->w, &part);
    c->err = c->err == MR_OK ? e : c->err;
    if (c->err != MR_OK)
        return;
    mr_gguf_config_open(c, "rope_parameters");
    mr_gguf_config_open(c, "full_attention");
    mr_gguf_config_raw(c, "rope_type", "\"proportional\"");
    mr_gguf_config_num(c, "partial_rotary_factor", part);
    if (mr_gguf_config_get_num(c, "rope.freq_base", &theta))
        mr_gguf_config_num(c, "rope_theta", theta);
    mr_gguf_config_close(c);
    mr_gguf_config_open(c, "sliding_attention");
    mr_gguf_config_raw(c, "rope_type", "\"default\"");
    if (mr_gguf_config_get_num(c, "rope.freq_base_swa", &theta))
        mr_gguf_config_num(c, "rope_theta", theta);
    mr_gguf_config_close(c);
    mr_gguf_config_close(c);
}

/* Keys and values of global layers, and the width of the MLPs: lists where layers differ. */
static void gguf_layers(mr_gguf_config *c, const bool *global, int64_t layers, int64_t *list)
{
    char name[64];
    int64_t shared = 0;
    mr_gguf_config_get_int(c, "attention.shared_kv_layers", &shared);
    mr_gguf_config_int(c, "num_kv_shared_layers", shared);
    if (gguf_per_layer(c, "attention.head_count_kv", layers, list)) {
        int64_t of[2] = {0, 0};
        for (int64_t i = 0; i < layers; i++) {
            if (of[global[i]] && of[global[i]] != list[i])
                mr_gguf_config_refuse(c, "attention.head_count_kv", "differs within one type");
            of[global[i]] = list[i];
        }
        mr_gguf_config_int(c, "num_key_value_heads", of[0] ? of[0] : of[1]);
        mr_gguf_config_int(c, "num_global_key_value_heads", of[1]);
    }
    if (gguf_per_layer(c, "feed_forward_length", layers, list)) {
        bool wide = list[layers - 1] != list[0];
        for (int64_t i = 0; i < layers; i++)
            if (list[i] != list[0] * (wide && i >= layers - shared ? 2 : 1))
                mr_gguf_config_refuse(c, "feed_forward_length",
                                      "is neither of one width nor double in the last layers");
        mr_gguf_config_int(c, "intermediate_size", list[0]);
        mr_gguf_config_raw(c, "use_double_wide_mlp", wide ? "true" : "false");
    }
    for (int64_t i = 0; i < layers; i++)
        if (global[i]) {
            snprintf(name, sizeof name, "blk.%lld.attn_v.weight", (long long)i);
            bool v = mr_weights_find(c->w, name);
            mr_gguf_config_raw(c, "attention_k_eq_v", v ? "false" : "true");
            break;
        }
}

/* Media ids are the published ones: the file has no keys for them. */
static void gguf_media(mr_gguf_config *c)
{
    static const char key[] = "tokenizer.ggml.padding_token_id";
    const mr_winfo *table = mr_weights_find(c->w, "per_layer_token_embd.weight");
    int64_t width = 0, pad;
    mr_gguf_config_get_int(c, "embedding_length_per_layer_input", &width);
    mr_gguf_config_int(c, "hidden_size_per_layer_input", width);
    if (table && table->rank == 2)
        mr_gguf_config_int(c, "vocab_size_per_layer_input", table->dim[0]);
    mr_gguf_config_raw(c, "use_bidirectional_attention", width ? "null" : "\"vision\"");
    if (mr_gguf_kind(c->g, key) != MR_GGUF_ABSENT && mr_gguf_int(c->g, key, &pad) == MR_OK)
        mr_gguf_config_int(c, "pad_token_id", pad);
    mr_gguf_config_int(c, "image_token_id", published_media[0]);
    mr_gguf_config_int(c, "video_token_id", published_media[1]);
    mr_gguf_config_int(c, "audio_token_id", published_media[2]);
}

static mr_err gguf_config(const mr_weights *w, mr_buf *json)
{
    static const mr_gguf_row rows[] = {{"num_key_value_heads", NULL, 0},
                                       {"intermediate_size", NULL, 0},
                                       {"global_head_dim", "attention.key_length", 'i'},
                                       {"head_dim", "attention.key_length_swa", 'i'},
                                       {"sliding_window", "attention.sliding_window", 'i'},
                                       {"final_logit_softcapping", "final_logit_softcapping", 'n'},
                                       {"num_experts", "expert_count", 'i'},
                                       {"top_k_experts", "expert_used_count", 'i'},
                                       {"moe_intermediate_size", "expert_feed_forward_length", 'i'},
                                       {0}};
    mr_gguf_config c;
    int64_t layers = 0, experts = 0;
    mr_gguf_config_begin(&c, w, "gemma4", "gemma4_text", rows, json);
    mr_gguf_config_get_int(&c, "block_count", &layers);
    mr_gguf_config_get_int(&c, "expert_count", &experts);
    mr_gguf_config_raw(&c, "enable_moe_block", experts ? "true" : "false");
    if (layers < 1 || layers > MR_CFG_LAYERS) {
        mr_gguf_config_refuse(&c, "block_count", "is absent or out of range");
        return mr_gguf_config_end(&c);
    }
    int64_t *list = mr_zalloc(MR_MEM_COMPILE, 2 * (size_t)layers * sizeof *list);
    if (!list)
        return MR_ENOMEM;
    bool *global = (bool *)(list + layers);
    if (gguf_per_layer(&c, "attention.sliding_window_pattern", layers, list)) {
        mr_gguf_config_raw(&c, "layer_types", "[");
        for (int64_t i = 0; i < layers; i++) {
            global[i] = !list[i];
            mr_buf_printf(c.json, "%s\"%s\"", i ? ", " : "",
                          list[i] ? "sliding_attention" : "full_attention");
        }
        mr_buf_putc(c.json, ']');
        gguf_layers(&c, global, layers, list);
    } else {
        mr_gguf_config_refuse(&c, "attention.sliding_window_pattern", "is missing");
    }
    mr_free(list);
    gguf_media(&c);
    gguf_ropes(&c);
    return mr_gguf_config_end(&c);
}

#define BLOCK(hf, gguf, mod)                                                                       \
    {                                                                                              \
        "model.layers.{L}." hf, "blk.{L}." gguf, mod                                               \
    }
static const mr_name_row names[] = {
    {"model.embed_tokens.weight", "token_embd.weight", NULL},
    {"model.embed_tokens_per_layer.weight", "per_layer_token_embd.weight", NULL},
    {"model.per_layer_model_projection.weight", "per_layer_model_proj.weight", NULL},
    {"model.per_layer_projection_norm.weight", "per_layer_proj_norm.weight", NULL},
    {"model.norm.weight", "output_norm.weight", NULL},
    {"lm_head.weight", "output.weight", NULL},
    BLOCK("layer_scalar", "layer_output_scale.weight", NULL),
    BLOCK("input_layernorm.weight", "attn_norm.weight", NULL),
    BLOCK("post_attention_layernorm.weight", "post_attention_norm.weight", NULL),
    BLOCK("pre_feedforward_layernorm.weight", "ffn_norm.weight", NULL),
    BLOCK("pre_feedforward_layernorm_2.weight", "pre_ffw_norm_2.weight", NULL),
    BLOCK("post_feedforward_layernorm.weight", "post_ffw_norm.weight", NULL),
    BLOCK("post_feedforward_layernorm_1.weight", "post_ffw_norm_1.weight", NULL),
    BLOCK("post_feedforward_layernorm_2.weight", "post_ffw_norm_2.weight", NULL),
    BLOCK("per_layer_input_gate.weight", "inp_gate.weight", NULL),
    BLOCK("per_layer_projection.weight", "proj.weight", NULL),
    BLOCK("post_per_layer_input_norm.weight", "post_norm.weight", NULL),
    BLOCK("self_attn.q_norm.weight", "attn_q_norm.weight", NULL),
    BLOCK("self_attn.k_norm.weight", "attn_k_norm.weight", NULL),
    BLOCK("self_attn.q_proj.weight", "attn_q.weight", NULL),
    BLOCK("self_attn.k_proj.weight", "attn_k.weight", NULL),
    BLOCK("self_attn.v_proj.weight", "attn_v.weight", NULL),
    BLOCK("self_attn.o_proj.weight", "attn_output.weight", NULL),
    BLOCK("mlp.gate_proj.weight", "ffn_gate.weight", NULL),
    BLOCK("mlp.up_proj.weight", "ffn_up.weight", NULL),
    BLOCK("mlp.down_proj.weight", "ffn_down.weight", NULL),
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
                                   "*.self_attn.k_proj.weight",
                                   "*.self_attn.v_proj.weight",
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
    .gguf_config = gguf_config,
    .config = config,
    .build = build,
};
