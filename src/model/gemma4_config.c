/* Gemma 4: keys of config.json, published and saved forms.
 *
 * Absent keys take the classes' defaults; those of the "unified" classes differ.  The last layer is
 * global whatever the file says, and num_global_key_value_heads counts only where keys are values. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "model/gemma4.h"

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
    if (mr_jtype(list) != MR_JOBJECT && mr_jtype(list) != MR_JNULL)
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
    if (list.doc) /* the sizes of global layers are then its alone; null: there are none */
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

/* Without rope_parameters the class's own hold, whatever other keys of rope the file has. */
static mr_err one_rope(mr_jval o, mr_jval params, bool global, gemma4 *c)
{
    const mr_jval none = {0};
    layer_kind *k = &c->kind[global];
    double theta = global ? 1e6 : 1e4, factor, part = 0.25;
    mr_jval type = mr_jget(params, "rope_type");
    if (!mr_jhas(type))
        type = mr_jget(params, "type");
    if (mr_jhas(params) ? !mr_jis(type, "proportional") : !global) {
        MR_TRY(mr_cfg_rope_object(none, none, params, theta, &c->info, &k->rope, NULL));
        k->rope.dim = k->head_dim;
        return mr_cfg_whole_heads(params, &k->rope);
    }
    if (mr_jhas(params)) {
        MR_TRY(mr_cfg_num_in(o, "partial_rotary_factor", 1, 0, 1, &part));
        MR_TRY(mr_cfg_num_in(params, "partial_rotary_factor", part, 0, 1, &part));
    }
    MR_TRY(mr_cfg_num_in(params, "factor", 1, 1e-9, 1e18, &factor));
    MR_TRY(mr_cfg_num_in(params, "rope_theta", theta, 1e-9, 1e18, &theta));
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

mr_err mr_gemma4_shape(mr_jval o, mr_arena *a, int64_t def_window, gemma4 *c)
{
    MR_TRY(layer_types(o, a, c));
    MR_TRY(mr_cfg_window(o, def_window, &c->window));
    MR_TRY(sizes(o, c));
    return ropes(o, c);
}

mr_err mr_gemma4_experts(mr_jval o, gemma4 *c)
{
    MR_TRY(mr_cfg_int(o, "num_experts", 1, MR_CFG_EXPERTS, &c->experts));
    MR_TRY(mr_cfg_int(o, "top_k_experts", 1, c->experts, &c->top_k));
    return mr_cfg_int(o, "moe_intermediate_size", 1, MR_CFG_WIDTH, &c->expert_inter);
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
    return moe ? mr_gemma4_experts(o, c) : MR_OK;
}

const int32_t mr_gemma4_media[3] = {258880, 258884, 258881};

/* Media ids are read as the pad id; text classes know none, but their files may name them. */
static mr_err media_ids(mr_jval root, mr_jval o, bool nested, gemma4 *c)
{
    static const char *const key[] = {"image_token_id", "video_token_id", "audio_token_id"};
    MR_TRY(mr_cfg_id(o, "pad_token_id", 0, &c->pad));
    for (int i = 0; i < 3; i++) {
        bool null = mr_jtype(mr_jget(root, key[i])) == MR_JNULL;
        MR_TRY(mr_cfg_id(root, key[i], nested && !null ? mr_gemma4_media[i] : -1, &c->media[i]));
    }
    return MR_OK;
}

mr_err mr_gemma4_facts(mr_jval root, mr_jval o, int64_t def_positions, gemma4 *c,
                       mr_model_info *info)
{
    MR_TRY(mr_cfg_int_or(o, "vocab_size", 262144, 1, MR_CFG_VOCAB, &info->vocab));
    MR_TRY(mr_cfg_int(o, "hidden_size", 1, MR_CFG_HIDDEN, &info->hidden));
    MR_TRY(mr_cfg_int(o, "num_hidden_layers", 1, MR_CFG_LAYERS, &info->layers));
    MR_TRY(mr_cfg_int_or(o, "max_position_embeddings", def_positions, 1, INT32_MAX,
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
    return mr_cfg_bool_or(root, "tie_word_embeddings", true, &c->tied);
}

mr_err mr_gemma4_config(mr_jval root, const mr_model_opts *opts, mr_arena *a, void **cfg,
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
    MR_TRY(mr_gemma4_facts(root, o, unified ? 262144 : 131072, c, info));
    MR_TRY(mr_cfg_bool_or(o, "attention_k_eq_v", false, &c->k_eq_v));
    MR_TRY(mr_cfg_bool_or(o, "use_double_wide_mlp", false, &c->double_wide));
    MR_TRY(mr_gemma4_shape(o, a, unified ? 1024 : 512, c));
    c->layers = c->own = "model.layers";
    MR_TRY(extras(o, unified, c));
    MR_TRY(media_ids(root, o, nested, c));
    mr_jval both = mr_jget(o, "use_bidirectional_attention");
    c->vision = both.doc ? mr_jis(both, "vision") : unified;
    if (!c->vision)
        MR_TRY(mr_cfg_causal(o));
    *info = c->info;
    *cfg = c;
    return MR_OK;
}
