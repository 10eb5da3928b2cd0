/* Gemma 4: GGUF metadata as a config.json.
 *
 * What the file has no key for is told by its tensors: whether keys are values, by the lack of
 * attn_v in global layers; which pairs of a global head turn, by rope_freqs.weight. */
#include <stdio.h>
#include <string.h>

#include "model/gemma4.h"

/* Which pairs of global layers turn: those that the stored divisors leave as they are; the others
 * are divided by something huge.  Gives their part of the whole. */
static double gguf_part(mr_gguf_config *c)
{
    float f[MR_CFG_HEAD_DIM];
    int64_t turning = 0, n = mr_gguf_config_rope_freqs(c, f);
    while (turning < n && f[turning] == 1)
        turning++;
    for (int64_t i = turning; i < n; i++)
        if (!(f[i] >= 1e20F) && c->err == MR_OK)
            c->err =
                mr_fail(MR_EUNSUPPORTED, "%s: tensor \"rope_freqs.weight\" is not ones, then huge",
                        mr_gguf_path(c->g));
    double part = n ? (double)turning / (double)n : 0.25;
    if (n && (int64_t)(part * (double)n) != turning)
        part = ((double)turning + 0.5) / (double)n; /* the config's reader drops the half */
    return part;
}

static void gguf_ropes(mr_gguf_config *c)
{
    int64_t dim, width;
    double theta;
    char type[32];
    if (mr_gguf_config_get_int(c, "rope.dimension_count_swa", &dim) &&
        mr_gguf_config_get_int(c, "attention.key_length_swa", &width) && dim != width)
        mr_gguf_config_refuse(c, "rope.dimension_count_swa", "only whole heads are rotated");
    mr_gguf_config_rope_type(c, type);
    if (strcmp(type, "none") != 0)
        mr_gguf_config_refuse(c, "rope.scaling.type", "only none is supported");
    mr_gguf_config_open(c, "rope_parameters");
    mr_gguf_config_open(c, "full_attention");
    mr_gguf_config_raw(c, "rope_type", "\"proportional\"");
    mr_gguf_config_num(c, "partial_rotary_factor", gguf_part(c));
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

static const char pattern_key[] = "attention.sliding_window_pattern";

/* Types of layers, keys and values of global ones, the width of the MLPs. */
static void gguf_layers(mr_gguf_config *c)
{
    char name[64];
    bool global[MR_CFG_LAYERS];
    int64_t shared = 0, list[MR_CFG_LAYERS],
            layers = mr_gguf_config_layer_types(c, pattern_key, "sliding_attention", global);
    if (!layers) {
        mr_gguf_config_refuse(c, pattern_key, "is missing");
        return;
    }
    mr_gguf_config_get_int(c, "attention.shared_kv_layers", &shared);
    mr_gguf_config_int(c, "num_kv_shared_layers", shared);
    if (mr_gguf_config_get_ints(c, "attention.head_count_kv", layers, list)) {
        int64_t of[2] = {0, 0};
        for (int64_t i = 0; i < layers; i++) {
            if (of[global[i]] && of[global[i]] != list[i])
                mr_gguf_config_refuse(c, "attention.head_count_kv", "differs within one type");
            of[global[i]] = list[i];
        }
        mr_gguf_config_int(c, "num_key_value_heads", of[0] ? of[0] : of[1]);
        mr_gguf_config_int(c, "num_global_key_value_heads", of[1]);
    }
    if (mr_gguf_config_get_ints(c, "feed_forward_length", layers, list)) {
        bool wide = list[layers - 1] != list[0];
        for (int64_t i = 0; i < layers; i++)
            if (wide && i >= layers - shared ? list[i] % 2 || list[i] / 2 != list[0]
                                             : list[i] != list[0])
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

/* Other programs' files say nothing of media: ids are the published ones, and models without
 * per-layer embeddings have the mask of images.  Files of models where that is not so say it. */
static const char media_key[] = "media_token_ids", spans_key[] = "attention.image_spans";

static void gguf_media_ids(mr_gguf_config *c)
{
    static const char *const key[] = {"image_token_id", "video_token_id", "audio_token_id"};
    int64_t ids[3] = {mr_gemma4_media[0], mr_gemma4_media[1], mr_gemma4_media[2]};
    mr_gguf_config_get_ints(c, media_key, 3, ids);
    for (int i = 0; i < 3; i++)
        if (ids[i] >= 0)
            mr_gguf_config_int(c, key[i], ids[i]);
}

static void gguf_media(mr_gguf_config *c)
{
    static const char key[] = "tokenizer.ggml.padding_token_id";
    int64_t spans;
    const mr_winfo *table = mr_weights_find(c->w, "per_layer_token_embd.weight");
    int64_t width = 0, pad;
    mr_gguf_config_get_int(c, "embedding_length_per_layer_input", &width);
    mr_gguf_config_int(c, "hidden_size_per_layer_input", width);
    if (table && table->rank == 2)
        mr_gguf_config_int(c, "vocab_size_per_layer_input", table->dim[0]);
    if (!mr_gguf_config_get_int(c, spans_key, &spans))
        spans = !width;
    mr_gguf_config_raw(c, "use_bidirectional_attention", spans ? "\"vision\"" : "null");
    if (mr_gguf_kind(c->g, key) != MR_GGUF_ABSENT && mr_gguf_int(c->g, key, &pad) == MR_OK)
        mr_gguf_config_int(c, "pad_token_id", pad);
    gguf_media_ids(c);
}

mr_err mr_gemma4_gguf_config(const mr_weights *w, mr_buf *json)
{
    static const mr_gguf_row rows[] = {{"num_key_value_heads", NULL, 0},
                                       {"rope_theta", NULL, 0},
                                       {"intermediate_size", NULL, 0},
                                       {"global_head_dim", "attention.key_length", 'i'},
                                       {"head_dim", "attention.key_length_swa", 'i'},
                                       {"sliding_window", "attention.sliding_window", 'i'},
                                       {"num_experts", "expert_count", 'i'},
                                       {"top_k_experts", "expert_used_count", 'i'},
                                       {"moe_intermediate_size", "expert_feed_forward_length", 'i'},
                                       {0}};
    mr_gguf_config c;
    double cap;
    int64_t experts = 0;
    mr_gguf_config_begin(&c, w, "gemma4", "gemma4_text", rows, json);
    mr_gguf_config_get_int(&c, "expert_count", &experts);
    if (mr_gguf_config_get_num(&c, "final_logit_softcapping", &cap) && cap != 0)
        mr_gguf_config_num(&c, "final_logit_softcapping", cap);
    mr_gguf_config_raw(&c, "enable_moe_block", experts ? "true" : "false");
    gguf_layers(&c);
    gguf_media(&c);
    gguf_ropes(&c);
    return mr_gguf_config_end(&c);
}

/* ---- and back ---- */

const mr_rope_spec *mr_gemma4_gguf_rope(const void *cfg)
{
    const mr_rope_spec *r = &((const gemma4 *)cfg)->kind[1].rope;
    return r->kind == MR_ROPE_PROPORTIONAL ? r : NULL;
}

/* Lists where layers differ. */
static void put_layers(const gemma4 *c, const mr_gguf_put *p)
{
    int64_t n = c->info.layers, kv[MR_CFG_LAYERS], inter[MR_CFG_LAYERS];
    bool slides[MR_CFG_LAYERS];
    for (int64_t i = 0; i < n; i++) {
        slides[i] = !c->global[i];
        kv[i] = c->kind[c->global[i]].kv_heads;
        inter[i] = c->inter * (c->double_wide && i >= c->first_shared ? 2 : 1);
    }
    mr_gguf_put_bools(p, pattern_key, slides, n);
    mr_gguf_put_layers(p, "attention.head_count_kv", kv, n);
    mr_gguf_put_layers(p, "feed_forward_length", inter, n);
}

static void put_media(const gemma4 *c, const mr_gguf_put *p)
{
    int64_t ids[3];
    bool published = true;
    for (int i = 0; i < 3; i++) {
        ids[i] = c->media[i];
        published &= c->media[i] == mr_gemma4_media[i];
    }
    if (!published)
        mr_gguf_put_ints(p, media_key, ids, 3);
    if (c->vision == (c->ple != 0))
        mr_gguf_put_bool(p, spans_key, c->vision);
    mr_gguf_writer_u32(p->w, "tokenizer.ggml.padding_token_id", (uint32_t)c->pad);
}

mr_err mr_gemma4_gguf_meta(const void *cfg, mr_jval o, const mr_gguf_put *p)
{
    const gemma4 *c = cfg;
    mr_gguf_put_int(p, "attention.head_count", c->heads);
    mr_gguf_put_int(p, "attention.key_length", c->kind[1].head_dim);
    mr_gguf_put_int(p, "attention.value_length", c->kind[1].head_dim);
    mr_gguf_put_int(p, "attention.key_length_swa", c->kind[0].head_dim);
    mr_gguf_put_int(p, "attention.value_length_swa", c->kind[0].head_dim);
    mr_gguf_put_int(p, "rope.dimension_count", c->kind[1].head_dim);
    mr_gguf_put_int(p, "rope.dimension_count_swa", c->kind[0].head_dim);
    mr_gguf_put_num(p, "attention.layer_norm_rms_epsilon", c->eps);
    mr_gguf_put_int(p, "attention.sliding_window", c->window);
    mr_gguf_put_int(p, "attention.shared_kv_layers", c->info.layers - c->first_shared);
    mr_gguf_put_int(p, "embedding_length_per_layer_input", c->ple);
    mr_gguf_put_num(p, "final_logit_softcapping", c->softcap); /* readers take no key for 30 */
    mr_gguf_put_num(p, "rope.freq_base_swa", c->kind[0].rope.theta);
    if (c->experts) {
        mr_gguf_put_int(p, "expert_count", c->experts);
        mr_gguf_put_int(p, "expert_used_count", c->top_k);
        mr_gguf_put_int(p, "expert_feed_forward_length", c->expert_inter);
    }
    put_media(c, p);
    put_layers(c, p);
    return mr_gguf_put_rope(p, &c->kind[1].rope, 1, mr_jget(o, "rope_parameters"));
}
