/* Configs: what is refused and how the message names it; what absent keys mean. */
#include <math.h>

#include "model/configs.h"

/* ---- refusals ---- */

typedef struct bad {
    const pair *base;
    const char *key, *value; /* NULL: the key is left out */
    mr_err err;
    const char *says; /* part of the message */
} bad;

static void check_bad(const bad *b, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        mr_model *m = (mr_model *)1;
        mr_err e = open_with(&m, b[i].base, b[i].key, b[i].value);
        if (e != b[i].err || m || !strstr(mr_error(), b[i].says) ||
            strncmp(mr_error(), "config.json: ", 13) != 0)
            fail_msg("%s = %s: error %d \"%s\", wanted %d \"%s\"", b[i].key,
                     b[i].value ? b[i].value : "(absent)", e, mr_error(), b[i].err, b[i].says);
    }
}
#define CHECK_BAD(list) check_bad(list, sizeof(list) / sizeof *(list))

/* Sizes that no reader may guess: absent, null, a string, a fraction, zero, negative, absurd. */
static void required_sizes(void **state)
{
    static const struct {
        const pair *base;
        const char *keys[20];
    } families[] = {{llama_keys,
                     {"vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
                      "num_attention_heads"}},
                    {gemma_keys, {"hidden_size", "intermediate_size", "num_hidden_layers"}},
                    {deepseek_keys, {"vocab_size", "hidden_size", "num_hidden_layers"}},
                    {llada_keys,
                     {"vocab_size", "hidden_size", "intermediate_size", "moe_intermediate_size",
                      "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim",
                      "num_experts", "num_experts_per_tok", "n_group", "topk_group"}}};
    static const char *const values[] = {NULL,   "null", "\"64\"", "64.0", "6.4e1",
                                         "0",    "-4",   "true",   "[64]", "9223372036854775807",
                                         "1e30", "{}"};
    (void)state;
    for (size_t f = 0; f < sizeof families / sizeof *families; f++)
        for (int k = 0; families[f].keys[k]; k++)
            for (size_t v = 0; v < sizeof values / sizeof *values; v++) {
                char says[64];
                snprintf(says, sizeof says, "\"%s\"", families[f].keys[k]);
                bad b = {families[f].base, families[f].keys[k], values[v], MR_EFORMAT, says};
                check_bad(&b, 1);
            }
}

/* Keys with a default: null is absent, any other type is wrong. */
static void optional_keys(void **state)
{
    static const struct {
        const pair *base;
        const char *key, *wrong;
    } cases[] = {{llama_keys, "num_key_value_heads", "\"2\""},
                 {llama_keys, "head_dim", "16.5"},
                 {llama_keys, "rms_norm_eps", "\"1e-5\""},
                 {llama_keys, "rope_theta", "\"1e4\""},
                 {llama_keys, "tie_word_embeddings", "\"true\""},
                 {llama_keys, "attention_bias", "1"},
                 {llama_keys, "mlp_bias", "0"},
                 {llama_keys, "bos_token_id", "-1"},
                 {llama_keys, "eos_token_id", "\"</s>\""},
                 {llama_keys, "eos_token_id", "[1, null]"},
                 {llama_keys, "hidden_act", "3"},
                 {llama_keys, "rope_scaling", "[]"},
                 {llama_keys, "rope_parameters", "8"},
                 {gemma_keys, "vocab_size", "\"288\""},
                 {gemma_keys, "num_attention_heads", "4.0"},
                 {gemma_keys, "num_key_value_heads", "[]"},
                 {gemma_keys, "query_pre_attn_scalar", "{}"},
                 {gemma_keys, "layer_types", "\"full\""},
                 {gemma_keys, "sliding_window_pattern", "6.0"},
                 {gemma_keys, "rope_scaling", "\"x\""},
                 {gemma_keys, "rope_parameters", "1"},
                 {gemma_keys, "final_logit_softcapping", "\"30\""},
                 {gemma_keys, "attention_bias", "\"no\""},
                 {deepseek_keys, "intermediate_size", "96.0"},
                 {deepseek_keys, "moe_intermediate_size", "0"},
                 {deepseek_keys, "q_lora_rank", "-1"},
                 {deepseek_keys, "kv_lora_rank", "\"32\""},
                 {deepseek_keys, "qk_nope_head_dim", "true"},
                 {deepseek_keys, "qk_rope_head_dim", "[16]"},
                 {deepseek_keys, "v_head_dim", "1e30"},
                 {deepseek_keys, "n_routed_experts", "{}"},
                 {deepseek_keys, "rope_interleave", "1"},
                 {deepseek_keys, "norm_topk_prob", "1"},
                 {deepseek_keys, "first_k_dense_replace", "1.5"},
                 {deepseek_keys, "n_shared_experts", "\"1\""},
                 {deepseek_keys, "attention_bias", "[]"},
                 {llada_keys, "mask_token_id", "2.5"},
                 {llada_keys, "use_qk_norm", "\"yes\""},
                 {llada_keys, "block_size", "0"},
                 {llada_keys, "tie_word_embeddings", "2"}};
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        mr_model *m;
        char says[64];
        snprintf(says, sizeof says, "\"%s", cases[i].key);
        bad b = {cases[i].base, cases[i].key, cases[i].wrong, MR_EFORMAT, says};
        check_bad(&b, 1);
        if (open_with(&m, cases[i].base, cases[i].key, "null") != MR_OK)
            fail_msg("%s null: %s", cases[i].key, mr_error());
        mr_model_close(m);
    }
}

static void unknown_names(void **state)
{
    static const bad list[] = {
        {llama_keys, "model_type", "\"mamba\"", MR_EUNSUPPORTED,
         "\"mamba\" is not supported (known: llama"},
        {llama_keys, "model_type", NULL, MR_EFORMAT, "\"model_type\" is missing"},
        {llama_keys, "model_type", "7", MR_EFORMAT, "\"model_type\""},
        {llama_keys, "model_type", "\"l\\u006cama2\"", MR_EUNSUPPORTED, "\"llama2\""},
        {llama_keys, "hidden_act", "\"prelu\"", MR_EUNSUPPORTED,
         "\"hidden_act\": activation \"prelu\""},
        {gemma_keys, "hidden_activation", "\"gelu_10\"", MR_EUNSUPPORTED, "gelu_10"},
        {gemma_keys, "use_bidirectional_attention", "true", MR_EUNSUPPORTED,
         "use_bidirectional_attention"},
        {gemma_keys, "use_bidirectional_attention", "\"vision\"", MR_EUNSUPPORTED, "vision"},
        {gemma_keys, "layer_types",
         "[\"chunked_attention\", \"full_attention\", \"full_attention\", "
         "\"full_attention\", \"full_attention\", \"full_attention\"]",
         MR_EUNSUPPORTED, "layer_types[0]"},
        {gemma_keys, "layer_types", "[\"full_attention\"]", MR_EFORMAT, "1 types for 6 layers"},
        {gemma_keys, "sliding_window", "null", MR_EFORMAT, "sliding_window"},
        {gemma_keys, "sliding_window", "0", MR_EFORMAT, "sliding_window"},
        {gemma_keys, "final_logit_softcapping", "0", MR_EFORMAT, "final_logit_softcapping"},
        {gemma_keys, "head_dim", "15", MR_EFORMAT, "is odd"},
        {llama_keys, "head_dim", "17", MR_EFORMAT, "is odd"},
        {llama_keys, "num_key_value_heads", "3", MR_EFORMAT, "3 does not divide 4"},
        {llama_keys, "num_key_value_heads", "8", MR_EFORMAT, "num_key_value_heads"},
        {llama_keys, "rope_interleaved", "true", MR_EUNSUPPORTED, "rope_interleaved"},
        {llama_keys, "rope_parameters",
         "{\"rope_type\": \"linear\", \"factor\": 2, \"partial_rotary_factor\": 0.5}",
         MR_EUNSUPPORTED, "rope_parameters.partial_rotary_factor"},
        {llama_keys, "rms_norm_eps", "-1e-6", MR_EFORMAT, "rms_norm_eps"},
        {llama_keys, "rope_theta", "0", MR_EFORMAT, "rope_theta"},
        {llama_keys, "eos_token_id", "[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]", MR_EFORMAT,
         "more than 16"},
        {deepseek_keys, "topk_method", "\"greedy\"", MR_EUNSUPPORTED, "is not \"noaux_tc\""},
        {deepseek_keys, "scoring_func", "\"softmax\"", MR_EUNSUPPORTED, "is not \"sigmoid\""},
        {deepseek_keys, "moe_layer_freq", "0", MR_EFORMAT, "moe_layer_freq"},
        {deepseek_keys, "moe_layer_freq", "[0, 1]", MR_EFORMAT, "moe_layer_freq"},
        {deepseek_keys, "n_group", "3", MR_EFORMAT, "n_group"},
        {deepseek_keys, "n_group", "16", MR_EFORMAT, "n_group"},
        {deepseek_keys, "n_group", "null", MR_EFORMAT, "n_group"},
        {deepseek_keys, "topk_group", "5", MR_EFORMAT, "topk_group"},
        {deepseek_keys, "num_experts_per_tok", "9", MR_EFORMAT, "num_experts_per_tok"},
        {deepseek_keys, "num_experts_per_tok", "null", MR_EFORMAT, "num_experts_per_tok"},
        {deepseek_keys, "num_key_value_heads", "2", MR_EUNSUPPORTED, "num_key_value_heads"},
        {deepseek_keys, "qk_rope_head_dim", "15", MR_EFORMAT, "is odd"},
        {deepseek_keys, "partial_rotary_factor", "0.5", MR_EUNSUPPORTED, "partial_rotary_factor"},
        {gemma_keys, "num_key_value_heads", "3", MR_EFORMAT, "3 does not divide 4"},
        {gemma_keys, "rope_scaling",
         "{\"rope_type\": \"linear\", \"factor\": 2, \"partial_rotary_factor\": 0.5}",
         MR_EUNSUPPORTED, "partial_rotary_factor"},
        {llada_keys, "num_key_value_heads", "3", MR_EFORMAT, "3 does not divide 4"},
        {llada_keys, "expert_capacity", "3", MR_EFORMAT, "3 is not in 4..16"},
        {llada_keys, "expert_capacity", "17", MR_EFORMAT, "17 is not in 4..16"},
        {llada_keys, "use_sliding_window", "true", MR_EUNSUPPORTED, "use_sliding_window"},
        {llada_keys, "use_rmsnorm", "false", MR_EUNSUPPORTED, "use_rmsnorm"},
        {llada_keys, "use_bias", NULL, MR_EFORMAT, "\"use_bias\" is missing"},
        {llada_keys, "use_qkv_bias", NULL, MR_EFORMAT, "\"use_qkv_bias\" is missing"},
        {llada_keys, "partial_rotary_factor", NULL, MR_EFORMAT,
         "\"partial_rotary_factor\" is missing"},
        {llada_keys, "partial_rotary_factor", "0.05", MR_EFORMAT, "0.05 of 16"},
        {llada_keys, "partial_rotary_factor", "1.5", MR_EFORMAT, "partial_rotary_factor"},
        {llada_keys, "num_shared_experts", NULL, MR_EFORMAT, "\"num_shared_experts\" is missing"},
        {llada_keys, "rope_theta", NULL, MR_EFORMAT, "\"rope_theta\" is missing"},
        {llada_keys, "rms_norm_eps", NULL, MR_EFORMAT, "\"rms_norm_eps\" is missing"},
    };
    (void)state;
    CHECK_BAD(list);
}

static void quantisations(void **state)
{
    static const char *const methods[] = {"gptq", "awq",   "hqq",     "bitsandbytes", "quanto",
                                          "aqlm", "mxfp4", "torchao", "fbgemm_fp8",   "modelopt"};
    static const bad list[] = {
        {llama_keys, "quantization", "{\"bits\": 4, \"group_size\": 32, \"mode\": \"nf4\"}",
         MR_EUNSUPPORTED, "mode \"nf4\""},
        {llama_keys, "quantization", "4", MR_EFORMAT, "\"quantization\": an object"},
        {llama_keys, "quantization_config", "{\"load_in_8bit\": true}", MR_EUNSUPPORTED,
         "\"bitsandbytes\""},
        {llama_keys, "quantization_config", "{\"quant_algo\": \"NVFP4\"}", MR_EUNSUPPORTED,
         "quantization_config"}};
    mr_model *m;
    (void)state;
    for (size_t i = 0; i < sizeof methods / sizeof *methods; i++) {
        char value[80];
        snprintf(value, sizeof value, "{\"quant_method\": \"%s\", \"bits\": 4}", methods[i]);
        bad b = {llama_keys, "quantization_config", value, MR_EUNSUPPORTED, methods[i]};
        check_bad(&b, 1);
    }
    CHECK_BAD(list);
    static const char *const known[] = {
        "{\"bits\": 4, \"group_size\": 32, \"mode\": \"mxfp4\"}",
        "{\"quant_method\": \"fp8\", \"weight_block_size\": [128, 128]}",
        "{\"quant_method\": \"compressed-tensors\", \"format\": \"pack-quantized\"}"};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        assert_int_equal(open_with(&m, llama_keys, "quantization_config", known[i]), MR_OK);
        mr_model_close(m);
    }
    const char *affine = "{\"bits\": 4, \"group_size\": 64, \"mode\": \"affine\"}";
    assert_int_equal(open_with(&m, llama_keys, "quantization", affine), MR_OK);
    mr_model_close(m);
    assert_int_equal(open_with(&m, llama_keys, "quantization_config", affine), MR_OK);
    mr_model_close(m);
    const char *nested = "{\"quantization_config\": {\"quant_method\": \"awq\"}}";
    assert_int_equal(open_with(&m, llama_keys, "text_config", nested), MR_EUNSUPPORTED);
}

static void not_a_config(void **state)
{
    static const char *const texts[] = {"", "[]", "7", "{\"model_type\": \"llama\",}",
                                        "{\"model_type\": \"llama\", \"model_type\": \"llama\"}"};
    (void)state;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        mr_model *m;
        assert_int_equal(mr_model_open_text(&m, "c.json", texts[i], strlen(texts[i]), NULL),
                         MR_EFORMAT);
        assert_null(m);
        assert_non_null(strstr(mr_error(), "c.json"));
    }
    mr_model *m;
    char *twice = config_with(llama_keys, "hidden_size", "64, \"hidden_size\": 64");
    assert_int_equal(mr_model_open_text(&m, "c.json", twice, strlen(twice), NULL), MR_EFORMAT);
    assert_non_null(strstr(mr_error(), "hidden_size"));
    free(twice);
}

/* Sizes that are each in range and together too large: the graph says no, the file is named. */
static void too_large_together(void **state)
{
    pair keys[sizeof deepseek_keys / sizeof *deepseek_keys];
    mr_model *m;
    mr_graph *g = (mr_graph *)1;
    (void)state;
    memcpy(keys, deepseek_keys, sizeof keys);
    for (pair *p = keys; p->key; p++) {
        if (!strcmp(p->key, "hidden_size"))
            p->value = "1048576";
        if (!strcmp(p->key, "moe_intermediate_size"))
            p->value = "4194304";
    }
    assert_int_equal(open_with(&m, keys, "n_routed_experts", "16384"), MR_OK);
    assert_int_equal(mr_model_build(m, &g), MR_EFORMAT);
    assert_null(g);
    if (strncmp(mr_error(), "config.json: deepseek: weight: ", 31) != 0)
        fail_msg("%s", mr_error());
    mr_model_close(m);
}

static void block_length(void **state)
{
    mr_model_opts o = {.block_length = 8};
    mr_model *m;
    (void)state;
    char *text = config_with(llada_keys, NULL, NULL);
    assert_int_equal(mr_model_open_text(&m, "c", text, strlen(text), &o), MR_OK);
    assert_int_equal(mr_model_facts(m)->block_length, 8);
    mr_model_close(m);
    o.block_length = -1;
    assert_int_equal(mr_model_open_text(&m, "c", text, strlen(text), &o), MR_EUSAGE);
    o.block_length = INT64_MAX;
    assert_int_equal(mr_model_open_text(&m, "c", text, strlen(text), &o), MR_EUSAGE);
    free(text);
    text = config_with(llama_keys, NULL, NULL);
    o.block_length = 8;
    assert_int_equal(mr_model_open_text(&m, "c", text, strlen(text), &o), MR_EUSAGE);
    assert_non_null(strstr(mr_error(), "diffusion"));
    free(text);
    assert_int_equal(open_with(&m, llada_keys, "block_size", "16"), MR_OK);
    assert_int_equal(mr_model_facts(m)->block_length, 16);
    mr_model_close(m);
}

/* ---- rope ---- */

/* The rope table's attributes as text: "kind theta factor low high orig fast slow mscale trunc". */
static void rope_text(const mr_graph *g, char out[200])
{
    const mr_node *n = find_node(g, MR_OP_ROPE_TABLE, 0);
    assert_non_null(n);
    snprintf(out, 200, "%s %g %g %g %g %g %g %g %.9g %d", mr_attr_s(n, "kind"),
             mr_attr_f(n, "theta"), mr_attr_f(n, "factor"), mr_attr_f(n, "low"),
             mr_attr_f(n, "high"), mr_attr_f(n, "orig"), mr_attr_f(n, "beta_fast"),
             mr_attr_f(n, "beta_slow"), mr_attr_f(n, "mscale"), (int)mr_attr_i(n, "truncate"));
}

static void rope_forms(void **state)
{
    static const struct {
        const char *key, *value, *want;
    } cases[] = {
        {"rope_theta", "5e5", "none 500000 1 1 4 0 32 1 1 1"},
        {"rope_scaling", "{}", "none 10000 1 1 4 0 32 1 1 1"},
        {"rope_scaling", "{\"rope_type\": \"default\"}", "none 10000 1 1 4 0 32 1 1 1"},
        {"rope_scaling", "{\"type\": \"linear\", \"factor\": 4}", "linear 10000 4 1 4 0 32 1 1 1"},
        {"rope_parameters", "{\"rope_type\": \"linear\", \"factor\": 4.0, \"rope_theta\": 7000}",
         "linear 7000 4 1 4 0 32 1 1 1"},
        {"rope_parameters", "{\"rope_theta\": 7000}", "none 7000 1 1 4 0 32 1 1 1"},
        {"rope_scaling", "{\"type\": \"dynamic\", \"factor\": 4}", "none 10000 1 1 4 0 32 1 1 1"},
        /* read in scaled ropes alone */
        {"partial_rotary_factor", "0.5", "none 10000 1 1 4 0 32 1 1 1"},
        {"rope_scaling",
         "{\"rope_type\": \"llama3\", \"type\": \"ignored\", \"factor\": 8.0, \"low_freq_factor\": "
         "1.0, "
         "\"high_freq_factor\": 4.0, \"original_max_position_embeddings\": 64}",
         "llama3 10000 8 1 4 64 32 1 1 1"},
        {"rope_scaling",
         "{\"rope_type\": \"llama3\", \"factor\": 8.0, \"low_freq_factor\": 1.0, "
         "\"high_freq_factor\": 2}",
         "llama3 10000 8 1 2 1024 32 1 1 1"},
        {"rope_scaling",
         "{\"type\": \"yarn\", \"factor\": 40, \"original_max_position_embeddings\": 64}",
         "yarn 10000 40 1 4 64 32 1 1.36888795 1"},
        {"rope_scaling",
         "{\"type\": \"yarn\", \"factor\": 4, \"attention_factor\": 1.5, \"beta_fast\": 16, "
         "\"beta_slow\": 2, \"truncate\": false, \"original_max_position_embeddings\": 64}",
         "yarn 10000 4 1 4 64 16 2 1.5 0"},
        {"rope_scaling",
         "{\"type\": \"yarn\", \"factor\": 40, \"mscale\": 0.707, \"mscale_all_dim\": 0.707}",
         "yarn 10000 40 1 4 1024 32 1 1 1"},
        {"rope_scaling",
         "{\"type\": \"yarn\", \"factor\": 40, \"mscale\": 2, \"mscale_all_dim\": 1}",
         "yarn 10000 40 1 4 1024 32 1 1.26948002 1"},
        {"rope_scaling",
         "{\"type\": \"yarn\", \"factor\": null, \"original_max_position_embeddings\": 256}",
         "yarn 10000 4 1 4 256 32 1 1.13862944 1"},
        {"rope_scaling", "{\"type\": \"yarn\", \"factor\": 0.5}",
         "yarn 10000 0.5 1 4 1024 32 1 1 1"}};
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[200];
        mr_graph *g = graph_with(llama_keys, cases[i].key, cases[i].value);
        rope_text(g, text);
        if (strcmp(text, cases[i].want) != 0)
            fail_msg("%s: got %s, wanted %s", cases[i].value, text, cases[i].want);
        mr_graph_free(g);
    }
}

static void rope_refusals(void **state)
{
    static const struct {
        const char *value;
        mr_err err;
        const char *says;
    } cases[] = {
        {"{\"rope_type\": \"dynamic\"}", MR_EFORMAT, "rope_scaling.factor"},
        {"{\"rope_type\": \"longrope\"}", MR_EUNSUPPORTED, "rope type \"longrope\""},
        {"{\"type\": \"su\"}", MR_EUNSUPPORTED, "rope type \"su\""},
        {"{\"type\": \"mrope\"}", MR_EUNSUPPORTED, "rope type \"mrope\""},
        {"{\"type\": 3}", MR_EFORMAT, "rope_scaling.type"},
        {"{\"factor\": 2}", MR_EFORMAT, "without a rope_type"},
        {"{\"type\": \"linear\"}", MR_EFORMAT, "rope_scaling.factor"},
        {"{\"type\": \"linear\", \"factor\": null}", MR_EFORMAT, "rope_scaling.factor"},
        {"{\"type\": \"linear\", \"factor\": 0}", MR_EFORMAT, "rope_scaling.factor"},
        {"{\"type\": \"linear\", \"factor\": -2}", MR_EFORMAT, "rope_scaling.factor"},
        {"{\"type\": \"linear\", \"factor\": \"2\"}", MR_EFORMAT, "rope_scaling.factor"},
        {"{\"type\": \"llama3\", \"factor\": 2, \"high_freq_factor\": 4}", MR_EFORMAT,
         "low_freq_factor"},
        {"{\"type\": \"llama3\", \"factor\": 2, \"low_freq_factor\": 4, \"high_freq_factor\": 4}",
         MR_EFORMAT, "high_freq_factor"},
        {"{\"type\": \"yarn\", \"factor\": 2, \"original_max_position_embeddings\": 0}", MR_EFORMAT,
         "original_max_position_embeddings"},
        {"{\"type\": \"yarn\", \"factor\": 2, \"original_max_position_embeddings\": 64.5}",
         MR_EFORMAT, "original_max_position_embeddings"},
        {"{\"type\": \"yarn\", \"factor\": 2, \"rope_theta\": 1}", MR_EFORMAT, "above 1"},
        {"{\"type\": \"yarn\", \"factor\": 2, \"truncate\": 1}", MR_EFORMAT, "truncate"},
        {"{\"type\": \"yarn\", \"factor\": 2, \"beta_fast\": -1}", MR_EFORMAT, "beta_fast"},
        {"{\"rope_theta\": 1e300}", MR_EFORMAT, "rope_theta"}};
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        bad b = {llama_keys, "rope_scaling", cases[i].value, cases[i].err, cases[i].says};
        check_bad(&b, 1);
    }
    mr_model *m;
    const char *both =
        "{\"type\": \"linear\", \"factor\": 2}, \"rope_parameters\": {\"rope_type\": "
        "\"linear\", \"factor\": %s}";
    char value[200];
    snprintf(value, sizeof value, both, "2.0");
    assert_int_equal(open_with(&m, llama_keys, "rope_scaling", value), MR_OK);
    mr_model_close(m);
    snprintf(value, sizeof value, both, "3.0");
    assert_int_equal(open_with(&m, llama_keys, "rope_scaling", value), MR_EFORMAT);
    assert_non_null(strstr(mr_error(), "contradicts"));
}

/* The logarithm inside the yarn factor against the C library's. */
static void yarn_factor(void **state)
{
    (void)state;
    assert_true(mr_yarn_mscale(1, 5) == 1 && mr_yarn_mscale(0.25, 5) == 1);
    for (double x = 1.01; x < 1e15; x *= 1.37) {
        double want = 0.1 * 0.707 * log(x) + 1;
        assert_true(fabs(mr_yarn_mscale(x, 0.707) - want) <= 4e-16 * want);
    }
}

/* ---- allocation failures ---- */

/* Opens and builds while the n-th allocation fails (0: none does); gives how many were made. */
static uint64_t allocate(const char *text, uint64_t n, mr_err *e)
{
    uint64_t before = mr_mem_allocations();
    mr_model *m = NULL;
    mr_graph *g = NULL;
    mr_mem_fail_after(n);
    *e = mr_model_open_text(&m, "c", text, strlen(text), NULL);
    if (*e == MR_OK)
        *e = mr_model_build(m, &g);
    mr_mem_fail_after(0);
    assert_true((*e == MR_OK) == (g != NULL));
    mr_graph_free(g);
    mr_model_close(m);
    return mr_mem_allocations() - before;
}

/* A failure is an error and leaves nothing held; giving back spare room may fail unnoticed. */
static void allocations(void **state)
{
    static const pair *const bases[] = {llama_keys, gemma_keys, deepseek_keys, llada_keys};
    (void)state;
    for (size_t b = 0; b < sizeof bases / sizeof *bases; b++) {
        char *text = config_with(bases[b], NULL, NULL);
        size_t held = mr_mem_held(MR_MEM_COUNT);
        mr_err e;
        uint64_t all = allocate(text, 0, &e), refused = 0;
        assert_int_equal(e, MR_OK);
        for (uint64_t n = 1; n <= all; n++) {
            allocate(text, n, &e);
            assert_true(e == MR_OK || e == MR_ENOMEM);
            refused += e == MR_ENOMEM;
            assert_int_equal(mr_mem_held(MR_MEM_COUNT), held);
        }
        assert_true(refused + 2 >= all);
        free(text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(required_sizes),     cmocka_unit_test(optional_keys),
        cmocka_unit_test(unknown_names),      cmocka_unit_test(quantisations),
        cmocka_unit_test(not_a_config),       cmocka_unit_test(block_length),
        cmocka_unit_test(too_large_together), cmocka_unit_test(rope_forms),
        cmocka_unit_test(rope_refusals),      cmocka_unit_test(yarn_factor),
        cmocka_unit_test(allocations)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
