/* Small configs of each family as lists of keys, so that a test can change one key and say so.
 *
 *     char *text = config_with(llama_keys, "head_dim", "\"16\"");   NULL: without that key
 */
#ifndef TESTS_MODEL_CONFIGS_H
#define TESTS_MODEL_CONFIGS_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "model/family.h"

typedef struct pair {
    const char *key, *value;
} pair;

static const pair llama_keys[] = {{"model_type", "\"llama\""},
                                  {"vocab_size", "320"},
                                  {"hidden_size", "64"},
                                  {"intermediate_size", "160"},
                                  {"num_hidden_layers", "2"},
                                  {"num_attention_heads", "4"},
                                  {"num_key_value_heads", "2"},
                                  {"head_dim", "16"},
                                  {"hidden_act", "\"silu\""},
                                  {"max_position_embeddings", "1024"},
                                  {"rms_norm_eps", "1e-05"},
                                  {"rope_theta", "10000.0"},
                                  {"bos_token_id", "2"},
                                  {"eos_token_id", "[1, 3]"},
                                  {0}};

static const pair gemma_keys[] = {{"model_type", "\"gemma3_text\""},
                                  {"vocab_size", "288"},
                                  {"hidden_size", "80"},
                                  {"intermediate_size", "128"},
                                  {"num_hidden_layers", "6"},
                                  {"num_attention_heads", "4"},
                                  {"num_key_value_heads", "2"},
                                  {"head_dim", "16"},
                                  {"sliding_window", "8"},
                                  {"query_pre_attn_scalar", "21"},
                                  {"hidden_activation", "\"gelu_pytorch_tanh\""},
                                  {"eos_token_id", "1"},
                                  {0}};

static const pair deepseek_keys[] = {{"model_type", "\"deepseek_v3\""},
                                     {"vocab_size", "320"},
                                     {"hidden_size", "64"},
                                     {"intermediate_size", "96"},
                                     {"moe_intermediate_size", "32"},
                                     {"num_hidden_layers", "2"},
                                     {"num_attention_heads", "4"},
                                     {"num_key_value_heads", "4"},
                                     {"q_lora_rank", "48"},
                                     {"kv_lora_rank", "32"},
                                     {"qk_nope_head_dim", "32"},
                                     {"qk_rope_head_dim", "16"},
                                     {"v_head_dim", "24"},
                                     {"n_routed_experts", "16"},
                                     {"n_shared_experts", "1"},
                                     {"num_experts_per_tok", "4"},
                                     {"n_group", "4"},
                                     {"topk_group", "2"},
                                     {"topk_method", "\"noaux_tc\""},
                                     {"scoring_func", "\"sigmoid\""},
                                     {"norm_topk_prob", "true"},
                                     {"routed_scaling_factor", "2.5"},
                                     {"first_k_dense_replace", "1"},
                                     {"moe_layer_freq", "1"},
                                     {"hidden_act", "\"silu\""},
                                     {"max_position_embeddings", "512"},
                                     {"rms_norm_eps", "1e-06"},
                                     {"rope_theta", "10000"},
                                     {"rope_scaling",
                                      "{\"type\": \"yarn\", \"factor\": 8, \"beta_fast\": 32, "
                                      "\"beta_slow\": 1, \"mscale\": 1.0, \"mscale_all_dim\": 0.6, "
                                      "\"original_max_position_embeddings\": 64}"},
                                     {0}};

static const pair llada_keys[] = {{"model_type", "\"llada2_moe\""},
                                  {"vocab_size", "300"},
                                  {"hidden_size", "64"},
                                  {"intermediate_size", "96"},
                                  {"moe_intermediate_size", "16"},
                                  {"num_hidden_layers", "2"},
                                  {"num_attention_heads", "4"},
                                  {"num_key_value_heads", "2"},
                                  {"head_dim", "16"},
                                  {"num_experts", "16"},
                                  {"num_experts_per_tok", "4"},
                                  {"num_shared_experts", "1"},
                                  {"n_group", "4"},
                                  {"topk_group", "2"},
                                  {"routed_scaling_factor", "2.5"},
                                  {"first_k_dense_replace", "1"},
                                  {"partial_rotary_factor", "0.5"},
                                  {"use_bias", "false"},
                                  {"use_qkv_bias", "false"},
                                  {"hidden_act", "\"silu\""},
                                  {"max_position_embeddings", "512"},
                                  {"rms_norm_eps", "1e-06"},
                                  {"rope_theta", "600000.0"},
                                  {0}};

/* A JSON object of the pairs, `key` changed, added or (value NULL) left out; free it. */
static inline char *config_with(const pair *p, const char *key, const char *value)
{
    size_t cap = 1 << 14, n = 0;
    char *out = malloc(cap);
    bool done = !key || !value;
    assert_non_null(out);
    n += (size_t)snprintf(out, cap, "{");
    for (; p->key; p++) {
        bool this = key && !strcmp(p->key, key);
        done = done || this;
        if (!this || value)
            n += (size_t)snprintf(out + n, cap - n, "%s\"%s\": %s", n > 1 ? ", " : "", p->key,
                                  this ? value : p->value);
    }
    if (!done)
        n += (size_t)snprintf(out + n, cap - n, ", \"%s\": %s", key, value);
    n += (size_t)snprintf(out + n, cap - n, "}");
    assert_true(n < cap);
    return out;
}

/* The whole of a small file; free it. */
static inline char *read_text(const char *path)
{
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    char *out = calloc(1, 1 << 18);
    assert_non_null(out);
    size_t n = fread(out, 1, (1 << 18) - 1, f);
    assert_true(n < (1 << 18) - 1);
    fclose(f);
    return out;
}

static inline mr_err open_with(mr_model **m, const pair *p, const char *key, const char *value)
{
    char *text = config_with(p, key, value);
    mr_err e = mr_model_open_text(m, "config.json", text, strlen(text), NULL);
    free(text);
    return e;
}

/* The first node of an op in a graph, from node `from` on. */
static inline const mr_node *find_node(const mr_graph *g, mr_op op, int from)
{
    for (int i = from; i < mr_graph_nodes(g); i++)
        if (mr_graph_node(g, i)->op == op)
            return mr_graph_node(g, i);
    return NULL;
}

static inline int count_nodes(const mr_graph *g, mr_op op)
{
    int n = 0;
    for (int i = 0; i < mr_graph_nodes(g); i++)
        n += mr_graph_node(g, i)->op == op;
    return n;
}

/* Builds a config's graph; the caller frees it. */
static inline mr_graph *graph_with(const pair *p, const char *key, const char *value)
{
    mr_model *m;
    mr_graph *g;
    mr_err e = open_with(&m, p, key, value);
    if (e == MR_OK) {
        e = mr_model_build(m, &g);
        mr_model_close(m);
    }
    if (e != MR_OK)
        fail_msg("%s", mr_error());
    return g;
}

#endif
