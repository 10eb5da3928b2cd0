/* Tables of keys per architecture, and by hand what a table cannot say: rope, windows, score scales.
 * GGUF's readers infer some facts from others; where ours differ from what they infer, the model is
 * refused. */
#include "run/gguf_meta.h"

#include <stdio.h>
#include <string.h>

/* An integer of config.json.  Absent there: def; ABSENT: then there is no key; HEADS, WIDTH: as many
 * as heads, hidden / heads. */
typedef struct int_key {
    const char *config, *gguf;
    int64_t def;
} int_key;
enum { ABSENT = -1, HEADS = -2, WIDTH = -3 };
#define STILL 1e30f /* what a frequency that does not turn is divided by */

static const int_key common[] = {{"intermediate_size", "feed_forward_length", ABSENT}, {0}};
static const int_key llama[] = {{"num_attention_heads", "attention.head_count", ABSENT},
                                {"num_key_value_heads", "attention.head_count_kv", HEADS},
                                {"head_dim", "attention.key_length", WIDTH},
                                {"head_dim", "attention.value_length", WIDTH},
                                {"head_dim", "rope.dimension_count", WIDTH},
                                {0}};
static const int_key qwen3[] = {{"num_attention_heads", "attention.head_count", ABSENT},
                                {"num_key_value_heads", "attention.head_count_kv", HEADS},
                                {"head_dim", "attention.key_length", 128},
                                {"head_dim", "attention.value_length", 128},
                                {0}};
static const int_key qwen3moe[] = {{"num_attention_heads", "attention.head_count", ABSENT},
                                   {"num_key_value_heads", "attention.head_count_kv", 4},
                                   {"head_dim", "attention.key_length", 128},
                                   {"head_dim", "attention.value_length", 128},
                                   {"num_experts_per_tok", "expert_used_count", 8},
                                   {"moe_intermediate_size", "expert_feed_forward_length", 768},
                                   {0}};
static const int_key gemma[] = {{"num_attention_heads", "attention.head_count", ABSENT},
                                {"num_key_value_heads", "attention.head_count_kv", HEADS},
                                {"head_dim", "attention.key_length", 256},
                                {"head_dim", "attention.value_length", 256},
                                {0}};
static const int_key gemma23[] = {{"num_attention_heads", "attention.head_count", 8},
                                  {"num_key_value_heads", "attention.head_count_kv", 4},
                                  {"head_dim", "attention.key_length", 256},
                                  {"head_dim", "attention.value_length", 256},
                                  {"sliding_window", "attention.sliding_window", 4096},
                                  {0}};
static const struct {
    const char *model_type, *arch;
    const int_key *keys;
    double theta;
} archs[] = {{"llama", "llama", llama, 1e4},
             {"gemma", "gemma", gemma, 1e4},
             {"gemma2", "gemma2", gemma23, 1e4},
             {"gemma3", "gemma3", gemma23, 1e6},
             {"gemma3_text", "gemma3", gemma23, 1e6},
             {"qwen3", "qwen3", qwen3, 1e4},
             {"qwen3_moe", "qwen3moe", qwen3moe, 1e4},
             /* whose families write their own */
             {"gemma4", "gemma4", NULL, 0},
             {"gemma4_text", "gemma4", NULL, 0},
             {"gemma4_unified", "gemma4", NULL, 0},
             {"gemma4_unified_text", "gemma4", NULL, 0},
             {"qwen3_next", "qwen3next", NULL, 0},
             {"qwen3_5", "qwen35", NULL, 0},
             {"qwen3_5_text", "qwen35", NULL, 0},
             {"qwen3_5_moe", "qwen35moe", NULL, 0},
             {"qwen3_5_moe_text", "qwen35moe", NULL, 0},
             {"deepseek_v2", "deepseek2", NULL, 0},
             {"deepseek_v3", "deepseek2", NULL, 0},
             {"kimi_k2", "deepseek2", NULL, 0},
             {"kimi_k25", "deepseek2", NULL, 0}};
enum { ARCHS = sizeof archs / sizeof *archs };

typedef struct meta {
    mr_gguf_put put;
    const mr_model *m;
    mr_jval o; /* the text part of the config */
    int64_t layers, heads;
} meta;

static int row_of(const mr_model *m)
{
    for (int i = 0; i < ARCHS; i++)
        if (strcmp(archs[i].model_type, mr_model_facts(m)->model_type) == 0)
            return i;
    return -1;
}

mr_err mr_gguf_arch(const mr_model *m, const char **arch)
{
    int row = row_of(m);
    if (row < 0)
        return mr_fail(MR_EUNSUPPORTED,
                       "%s: model_type %s is not written as GGUF (llama, gemma, gemma2, gemma3, "
                       "gemma4, qwen3, qwen3_moe, qwen3_next, qwen3_5, qwen3_5_moe, deepseek_v2, "
                       "deepseek_v3, kimi_k2 are)",
                       mr_model_path(m), mr_model_facts(m)->model_type);
    *arch = archs[row].arch;
    return MR_OK;
}

/* ---- one key ---- */

static mr_err get(const meta *x, const char *key, int64_t def, int64_t *out)
{
    return mr_cfg_int_or(x->o, key, def, 0, INT32_MAX, out);
}

static mr_err put_keys(const meta *x, const int_key *k)
{
    for (; k->config; k++) {
        int64_t v, def = k->def;
        if (def == ABSENT && !mr_jhas(mr_jget(x->o, k->config)))
            continue;
        if (def == HEADS)
            def = x->heads;
        if (def == WIDTH)
            def = x->heads ? mr_model_facts(x->m)->hidden / x->heads : 0;
        MR_TRY(get(x, k->config, def < 0 ? 0 : def, &v));
        mr_gguf_put_int(&x->put, k->gguf, v);
    }
    return MR_OK;
}

/* ---- rope ---- */

static mr_err flat_rope(const meta *x, double theta)
{
    mr_rope_spec r;
    mr_model_info info = *mr_model_facts(x->m);
    MR_TRY(mr_cfg_rope(x->o, theta, &info, &r, NULL));
    return mr_gguf_put_rope(&x->put, &r, mr_yarn_mscale(r.factor, 1),
                            mr_jget(x->o, "rope_scaling"));
}

mr_err mr_gemma3_ropes(mr_jval o, const mr_model_info *facts, mr_rope_spec *global,
                       mr_rope_spec *local)
{
    mr_model_info info = *facts;
    mr_jval params = mr_jget(o, "rope_parameters"), scaling = mr_jget(o, "rope_scaling"),
            none = {0};
    double theta, swa;
    MR_TRY(mr_cfg_num_in(o, "rope_theta", 1e6, 1e-9, 1e18, &theta));
    MR_TRY(mr_cfg_num_in(o, "rope_local_base_freq", 1e4, 1e-9, 1e18, &swa));
    if (!mr_jhas(params) && mr_jtype(scaling) == MR_JOBJECT &&
        !mr_jhas(mr_jget(scaling, "rope_type")))
        scaling = none; /* as the reference reads it */
    MR_TRY(mr_cfg_rope_object(o, scaling, mr_jget(params, "full_attention"), theta, &info, global,
                              NULL));
    MR_TRY(
        mr_cfg_rope_object(o, none, mr_jget(params, "sliding_attention"), swa, &info, local, NULL));
    bool linear = global->kind == MR_ROPE_LINEAR;
    if (!info.most && local->kind == MR_ROPE_NONE && (global->kind == MR_ROPE_NONE || linear))
        return MR_OK;
    return mr_cfg_refuse(mr_jhas(params) ? params : scaling,
                         "only linear scaling of the global layers can be written");
}

/* Gemma 3: global layers as above, local ones by a key of their own and never scaled. */
static mr_err gemma3_rope(const meta *x)
{
    mr_rope_spec global, local;
    MR_TRY(mr_gemma3_ropes(x->o, mr_model_facts(x->m), &global, &local));
    mr_gguf_put_num(&x->put, "rope.freq_base", global.theta);
    mr_gguf_put_num(&x->put, "rope.freq_base_swa", local.theta);
    if (global.kind == MR_ROPE_LINEAR) {
        mr_gguf_put_str(&x->put, "rope.scaling.type", "linear");
        mr_gguf_put_num(&x->put, "rope.scaling.factor", global.factor);
    }
    return MR_OK;
}

mr_err mr_gguf_rope_factors(const mr_model *m, float **out, int64_t *n)
{
    const mr_rope_spec *r = mr_model_gguf_rope(m);
    *out = NULL;
    *n = r ? r->dim / 2 : 0;
    if (!*n)
        return MR_OK;
    *out = mr_alloc(MR_MEM_OTHER, (size_t)*n * sizeof **out);
    if (!*out)
        return MR_ENOMEM;
    for (int64_t i = 0; i < *n; i++) {
        if (r->kind == MR_ROPE_LLAMA3)
            (*out)[i] = (float)mr_llama3_divisor(r, i, *n);
        else
            (*out)[i] = i < r->angles ? 1.0f : STILL;
    }
    return MR_OK;
}

/* ---- what an architecture has of its own ---- */

/* Readers scale scores by the head's width, but one published size by hidden / heads. */
static mr_err check_query_scalar(const meta *x, int64_t layers_of_other)
{
    int64_t head_dim;
    double scalar;
    MR_TRY(get(x, "head_dim", 256, &head_dim));
    MR_TRY(mr_cfg_num_in(x->o, "query_pre_attn_scalar", 256, 1e-6, 1e9, &scalar));
    double read = x->layers == layers_of_other ? (double)(mr_model_facts(x->m)->hidden / x->heads)
                                               : (double)head_dim;
    if (scalar == read)
        return MR_OK;
    return mr_fail(MR_EUNSUPPORTED,
                   "%s: \"query_pre_attn_scalar\": GGUF's readers take %g, this model has %g",
                   mr_model_path(x->m), read, scalar);
}

int64_t mr_pattern_period(const bool *global, int64_t layers, bool *regular)
{
    int64_t period = 1;
    while (period <= layers && !global[period - 1])
        period++;
    *regular = true;
    for (int64_t i = 0; i < layers; i++)
        *regular &= global[i] == ((i + 1) % period == 0);
    return period;
}

/* A period where the pattern has one, else a flag per layer: 1 slides. */
static mr_err put_pattern(const meta *x)
{
    bool global[MR_CFG_LAYERS], regular;
    int64_t period;
    MR_TRY(mr_cfg_int_or(x->o, "sliding_window_pattern", 6, 1, INT32_MAX, &period));
    MR_TRY(mr_cfg_layer_types(x->o, period, x->layers, global));
    period = mr_pattern_period(global, x->layers, &regular);
    if (regular) {
        mr_gguf_put_int(&x->put, "attention.sliding_window_pattern", period);
        return MR_OK;
    }
    for (int64_t i = 0; i < x->layers; i++)
        global[i] = !global[i];
    mr_gguf_put_bools(&x->put, "attention.sliding_window_pattern", global, x->layers);
    return MR_OK;
}

static mr_err put_cap(const meta *x, const char *config, const char *key, double def)
{
    double cap;
    MR_TRY(mr_cfg_num_in(x->o, config, def, 0, 1e9, &cap));
    if (cap > 0)
        mr_gguf_put_num(&x->put, key, cap);
    return MR_OK;
}

static mr_err own_gemma2(const meta *x)
{
    MR_TRY(put_cap(x, "attn_logit_softcapping", "attn_logit_softcapping", 50));
    MR_TRY(put_cap(x, "final_logit_softcapping", "final_logit_softcapping", 30));
    return check_query_scalar(x, 46);
}

static mr_err own_gemma3(const meta *x)
{
    bool text = strcmp(mr_model_facts(x->m)->model_type, "gemma3_text") == 0;
    if (text) /* the other class never applies it */
        MR_TRY(put_cap(x, "final_logit_softcapping", "final_logit_softcapping", 0));
    MR_TRY(put_pattern(x));
    return check_query_scalar(x, 62);
}

static mr_err own_qwen3moe(const meta *x)
{
    int64_t experts, layers = x->layers;
    bool norm, sparse[MR_CFG_LAYERS];
    bool published = mr_jhas(mr_jget(x->o, "num_experts"));
    MR_TRY(get(x, published ? "num_experts" : "num_local_experts", 128, &experts));
    MR_TRY(mr_cfg_bool_or(x->o, "norm_topk_prob", false, &norm));
    MR_TRY(mr_cfg_sparse_layers(x->o, layers, sparse));
    for (int64_t i = 0; i < layers; i++)
        if (!sparse[i])
            return mr_fail(MR_EUNSUPPORTED, "%s: GGUF's qwen3moe has experts in every layer",
                           mr_model_path(x->m));
    if (!norm)
        return mr_fail(MR_EUNSUPPORTED,
                       "%s: \"norm_topk_prob\": GGUF's qwen3moe always divides by the sum",
                       mr_model_path(x->m));
    mr_gguf_put_int(&x->put, "expert_count", experts);
    return MR_OK;
}

static mr_err put_own(const meta *x)
{
    const char *arch = x->put.arch;
    if (strncmp(arch, "qwen3", strlen("qwen3")) == 0)
        MR_TRY(mr_cfg_off(x->o, "use_sliding_window")); /* the architecture has no windows */
    if (strcmp(arch, "gemma2") == 0)
        return own_gemma2(x);
    if (strcmp(arch, "gemma3") == 0)
        return own_gemma3(x);
    return strcmp(arch, "qwen3moe") == 0 ? own_qwen3moe(x) : MR_OK;
}

/* ---- the whole ---- */

static mr_err put_tables(meta *x, int row)
{
    double eps;
    MR_TRY(get(x, "num_attention_heads", 8, &x->heads));
    MR_TRY(put_keys(x, common));
    MR_TRY(put_keys(x, archs[row].keys));
    MR_TRY(mr_cfg_num_in(x->o, "rms_norm_eps", 1e-6, 0, 1, &eps));
    mr_gguf_put_num(&x->put, "attention.layer_norm_rms_epsilon", eps);
    MR_TRY(strcmp(x->put.arch, "gemma3") == 0 ? gemma3_rope(x) : flat_rope(x, archs[row].theta));
    return put_own(x);
}

mr_err mr_gguf_meta(mr_gguf_writer *w, const mr_model *m, const char *arch)
{
    bool done;
    const mr_model_info *info = mr_model_facts(m);
    mr_jval root = mr_model_config(m), text = mr_jget(root, "text_config");
    meta x = {.put = {w, arch}, .m = m, .layers = info->layers};
    x.o = mr_jtype(text) == MR_JOBJECT ? text : root;
    if (info->most)
        return mr_fail(MR_EUNSUPPORTED, "%s: GGUF cannot say a dynamic rope", mr_model_path(m));
    mr_gguf_writer_str(w, "general.architecture", arch);
    mr_gguf_put_int(&x.put, "context_length", info->max_positions);
    mr_gguf_put_int(&x.put, "vocab_size", info->vocab);
    mr_gguf_put_int(&x.put, "embedding_length", info->hidden);
    mr_gguf_put_int(&x.put, "block_count", info->layers);
    MR_TRY(mr_model_gguf_meta(m, &x.put, &done));
    return done ? MR_OK : put_tables(&x, row_of(m));
}

static void put_id(mr_gguf_writer *w, const char *key, int32_t id)
{
    if (id >= 0)
        mr_gguf_writer_u32(w, key, (uint32_t)id);
}

bool mr_gguf_has_vocab(const mr_gguf *g)
{
    static const char name[] = "tokenizer.ggml.model";
    mr_str model;
    if (mr_gguf_kind(g, name) != MR_GGUF_STRING)
        return false;
    return mr_gguf_str(g, name, &model) == MR_OK && !mr_str_is(model, MR_GGUF_NO_TOKENIZER);
}

void mr_gguf_meta_vocab(mr_gguf_writer *w, const mr_vocab *v)
{
    uint64_t n = (uint64_t)v->n_tokens;
    mr_gguf_writer_str(w, "tokenizer.ggml.model", v->model);
    if (v->pre)
        mr_gguf_writer_str(w, "tokenizer.ggml.pre", v->pre);
    mr_gguf_writer_strings(w, "tokenizer.ggml.tokens", n);
    for (uint64_t i = 0; i < n; i++)
        mr_gguf_writer_add_str(w, v->tokens[i].data, v->tokens[i].len);
    mr_gguf_writer_ints(w, "tokenizer.ggml.token_type", n);
    for (uint64_t i = 0; i < n; i++)
        mr_gguf_writer_add_int(w, v->types[i]);
    if (v->scores) {
        mr_gguf_writer_floats(w, "tokenizer.ggml.scores", n);
        for (uint64_t i = 0; i < n; i++)
            mr_gguf_writer_add_float(w, v->scores[i]);
    }
    if (v->n_merges >= 0) {
        mr_gguf_writer_strings(w, "tokenizer.ggml.merges", (uint64_t)v->n_merges);
        for (int32_t i = 0; i < v->n_merges; i++)
            mr_gguf_writer_add_str(w, v->merges[i].data, v->merges[i].len);
    }
    put_id(w, "tokenizer.ggml.bos_token_id", v->bos);
    put_id(w, "tokenizer.ggml.eos_token_id", v->eos);
    put_id(w, "tokenizer.ggml.unknown_token_id", v->unk);
    if (v->add_bos >= 0)
        mr_gguf_writer_bool(w, "tokenizer.ggml.add_bos_token", v->add_bos);
    if (v->add_eos >= 0)
        mr_gguf_writer_bool(w, "tokenizer.ggml.add_eos_token", v->add_eos);
    if (v->add_space_prefix >= 0)
        mr_gguf_writer_bool(w, "tokenizer.ggml.add_space_prefix", v->add_space_prefix);
    if (v->chat_template)
        mr_gguf_writer_str(w, "tokenizer.chat_template", v->chat_template);
}
