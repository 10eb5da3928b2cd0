/* What the readers make of the published forms of a config, and the graphs as text.
 *
 * data/NAME.json has the keys of a real file in small sizes; data/NAME.ir is its graph: a change of
 * either is a diff. */
#include <math.h>

#include "model/configs.h"

static mr_graph *open_build(const char *name, mr_model **m)
{
    char path[128];
    mr_graph *g;
    snprintf(path, sizeof path, "tests/model/data/%s.json", name);
    if (mr_model_open(m, path, NULL) != MR_OK || mr_model_build(*m, &g) != MR_OK)
        fail_msg("%s", mr_error());
    return g;
}

/* ---- golden graphs ---- */

static void golden(void **state)
{
    static const char *const names[] = {"llama3",      "gemma3_text", "gemma3_nested",
                                        "deepseek_v3", "moonlight",   "llada2"};
    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char path[128];
        mr_model *m;
        mr_buf got = {0};
        mr_graph *g = open_build(names[i], &m);
        snprintf(path, sizeof path, "tests/model/data/%s.ir", names[i]);
        char *want = read_text(path);
        assert_int_equal(mr_graph_print(g, &got), MR_OK);
        if (strcmp(got.data, want) != 0) {
            size_t at = 0, line = 1;
            for (; got.data[at] == want[at]; at++)
                line += got.data[at] == '\n';
            while (at && got.data[at - 1] != '\n')
                at--;
            fail_msg("%s:%zu: the graph now has: %.*s", path, line,
                     (int)strcspn(got.data + at, "\n"), got.data + at);
        }
        free(want);
        mr_buf_free(&got);
        mr_graph_free(g);
        mr_model_close(m);
    }
}

/* ---- facts ---- */

static void llama_facts(void **state)
{
    mr_model *m;
    (void)state;
    mr_graph *g = open_build("llama3", &m);
    const mr_model_info *f = mr_model_facts(m);
    assert_string_equal(f->family, "llama");
    assert_string_equal(f->model_type, "llama");
    assert_true(f->vocab == 320 && f->hidden == 64 && f->layers == 2 && f->max_positions == 1024);
    assert_true(f->n_eos == 2 && f->eos[0] == 1 && f->eos[1] == 3 && f->bos == 2);
    assert_true(!f->diffusion && !mr_model_weights(m));
    assert_string_equal(mr_model_path(m), "tests/model/data/llama3.json");
    assert_true(mr_jis(mr_jget(mr_model_config(m), "model_type"), "llama"));
    assert_string_equal(mr_model_family(m)->name, "llama");
    assert_int_equal(mr_model_check_unused(m), MR_OK);
    const mr_node *a = find_node(g, MR_OP_ATTENTION, 0);
    assert_true(mr_attr_f(a, "scale") == 0.25);
    mr_graph_free(g);
    mr_model_close(m);
}

/* The defaults of LlamaConfig: all heads own keys, hidden / heads wide, eps 1e-6, untied. */
static void llama_defaults(void **state)
{
    static const pair few[] = {{"model_type", "\"llama\""},     {"vocab_size", "32"},
                               {"hidden_size", "48"},           {"intermediate_size", "64"},
                               {"num_hidden_layers", "1"},      {"num_attention_heads", "3"},
                               {"tie_word_embeddings", "null"}, {0}};
    mr_model *m;
    (void)state;
    mr_graph *g = graph_with(few, NULL, NULL);
    const mr_node *c = find_node(g, MR_OP_CACHE, 0), *t = find_node(g, MR_OP_ROPE_TABLE, 0);
    assert_true(mr_attr_i(c, "heads") == 3 && mr_attr_i(c, "dk") == 16);
    assert_true(mr_attr_f(t, "theta") == 1e4);
    assert_true(mr_attr_f(find_node(g, MR_OP_RMSNORM, 0), "eps") == 1e-6);
    assert_non_null(find_node(g, MR_OP_SILU, 0));
    mr_graph_free(g);
    assert_int_equal(open_with(&m, few, NULL, NULL), MR_OK);
    const mr_model_info *f = mr_model_facts(m);
    assert_true(f->max_positions == 2048 && f->n_eos == 0 && f->bos == -1);
    mr_model_close(m);
    assert_int_equal(open_with(&m, few, "num_attention_heads", "5"), MR_EFORMAT);
    assert_non_null(strstr(mr_error(), "num_attention_heads"));
}

static bool asks_for(const pair *base, const char *key, const char *value, const char *name)
{
    mr_model *m;
    mr_graph *g;
    bool found = false;
    assert_int_equal(open_with(&m, base, key, value), MR_OK);
    assert_int_equal(mr_model_build(m, &g), MR_OK);
    for (int i = 0; i < mr_model_asked(m); i++)
        found = found || !strcmp(mr_model_asked_at(m, i)->name, name);
    mr_graph_free(g);
    mr_model_close(m);
    return found;
}

static void biases_and_ties(void **state)
{
    static const struct {
        const pair *base;
        const char *key, *on, *off, *name;
    } cases[] = {
        {llama_keys, "attention_bias", "true", "false", "model.layers.1.self_attn.o_proj.bias"},
        {llama_keys, "attention_bias", "true", "null", "model.layers.0.self_attn.k_proj.bias"},
        {llama_keys, "mlp_bias", "true", "false", "model.layers.0.mlp.down_proj.bias"},
        {llama_keys, "tie_word_embeddings", "false", "true", "lm_head.weight"},
        {gemma_keys, "attention_bias", "true", "false", "model.layers.5.self_attn.q_proj.bias"},
        {gemma_keys, "tie_word_embeddings", "false", "true", "lm_head.weight"},
        {gemma_keys, "tie_word_embeddings", "false", "null", "lm_head.weight"},
        {deepseek_keys, "attention_bias", "true", "false",
         "model.layers.0.self_attn.q_a_proj.bias"},
        {deepseek_keys, "attention_bias", "true", "false",
         "model.layers.0.self_attn.kv_a_proj_with_mqa.bias"},
        {deepseek_keys, "tie_word_embeddings", "null", "true", "lm_head.weight"},
        {deepseek_keys, "q_lora_rank", "null", "48", "model.layers.0.self_attn.q_proj.weight"},
        {deepseek_keys, "n_shared_experts", "2", "0",
         "model.layers.1.mlp.shared_experts.up_proj.weight"},
        {deepseek_keys, "n_shared_experts", "2", "null",
         "model.layers.1.mlp.shared_experts.up_proj.weight"},
        {deepseek_keys, "first_k_dense_replace", "0", "2", "model.layers.0.mlp.gate.weight"},
        {llada_keys, "use_qkv_bias", "true", "false",
         "model.layers.0.attention.query_key_value.bias"},
        {llada_keys, "use_bias", "true", "false", "model.layers.0.attention.dense.bias"},
        {llada_keys, "use_qk_norm", "null", "false",
         "model.layers.0.attention.key_layernorm.weight"},
        {llada_keys, "num_shared_experts", "2", "null",
         "model.layers.1.mlp.shared_experts.up_proj.weight"},
        {llada_keys, "first_k_dense_replace", "0", "1",
         "model.layers.0.mlp.experts.{0..15}.up_proj.weight"},
        {llada_keys, "tie_word_embeddings", "null", "true", "lm_head.weight"}};
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        if (!asks_for(cases[i].base, cases[i].key, cases[i].on, cases[i].name))
            fail_msg("%s %s: %s is not asked for", cases[i].key, cases[i].on, cases[i].name);
        if (asks_for(cases[i].base, cases[i].key, cases[i].off, cases[i].name))
            fail_msg("%s %s: %s is asked for", cases[i].key, cases[i].off, cases[i].name);
    }
    assert_false(asks_for(deepseek_keys, "attention_bias", "true",
                          "model.layers.0.self_attn.q_b_proj.bias"));
    assert_true(
        asks_for(deepseek_keys, "attention_bias", "true", "model.layers.0.self_attn.o_proj.bias"));
}

/* Which of six layers see everything, by their masks. */
static void pattern_is(const char *key, const char *value, const char *want)
{
    mr_graph *g = graph_with(gemma_keys, key, value);
    int layer = 0;
    for (int i = 0; i < mr_graph_nodes(g); i++) {
        const mr_node *n = mr_graph_node(g, i);
        if (n->op != MR_OP_ATTENTION)
            continue;
        bool global = !strcmp(mr_attr_s(n, "mask"), "causal");
        assert_true(global || mr_attr_i(n, "window") == 8);
        if (global != (want[layer++] == 'g'))
            fail_msg("%s %s: layer %d", key, value, layer - 1);
    }
    assert_int_equal(layer, 6);
    assert_int_equal(count_nodes(g, MR_OP_ROPE_TABLE),
                     strchr(want, 'l') && strchr(want, 'g') ? 2 : 1);
    mr_graph_free(g);
}

static void gemma_layers(void **state)
{
    const char *types = "[\"full_attention\", \"sliding_attention\", \"full_attention\", "
                        "\"sliding_attention\", \"sliding_attention\", \"sliding_attention\"]";
    char both[400];
    (void)state;
    pattern_is(NULL, NULL, "lllllg");
    pattern_is("sliding_window_pattern", "3", "llgllg");
    pattern_is("sliding_window_pattern", "1", "gggggg");
    pattern_is("_sliding_window_pattern", "3", "lllllg"); /* the reference writes it, no more */
    pattern_is("layer_types", types, "glglll");
    snprintf(both, sizeof both, "%s, \"sliding_window_pattern\": 2", types);
    pattern_is("layer_types", both, "glglll");
    snprintf(both, sizeof both, "%s, \"_sliding_window_pattern\": 2", types);
    pattern_is("layer_types", both, "glglll");
}

/* The keys of global and local tables: global first, then local (or "-"). */
static void gemma_rope_is(const char *key, const char *value, double global, double factor,
                          double local)
{
    mr_graph *g = graph_with(gemma_keys, key, value);
    const mr_node *l = find_node(g, MR_OP_ROPE_TABLE, 0), *r = l;
    for (int i = 0; i < mr_graph_nodes(g); i++)
        if (mr_graph_node(g, i)->op == MR_OP_ROPE_TABLE)
            r = mr_graph_node(g, i);
    assert_ptr_not_equal(l, r);
    if (mr_attr_f(r, "theta") != global || mr_attr_f(r, "factor") != factor ||
        mr_attr_f(l, "theta") != local || mr_attr_f(l, "factor") != 1)
        fail_msg("%s: global %g / %g, local %g / %g", value, mr_attr_f(r, "theta"),
                 mr_attr_f(r, "factor"), mr_attr_f(l, "theta"), mr_attr_f(l, "factor"));
    mr_graph_free(g);
}

static void gemma_ropes(void **state)
{
    (void)state;
    gemma_rope_is(NULL, NULL, 1e6, 1, 1e4);
    gemma_rope_is("rope_theta", "5e5, \"rope_local_base_freq\": 2e4", 5e5, 1, 2e4);
    gemma_rope_is("rope_scaling", "{\"factor\": 8.0, \"rope_type\": \"linear\"}", 1e6, 8, 1e4);
    gemma_rope_is(
        "rope_parameters",
        "{\"full_attention\": {\"rope_type\": \"linear\", \"factor\": 4, \"rope_theta\": 3e5}, "
        "\"sliding_attention\": {\"rope_type\": \"default\", \"rope_theta\": 7000}}",
        3e5, 4, 7000);
    gemma_rope_is("rope_parameters",
                  "{\"full_attention\": {\"rope_type\": \"default\", \"rope_theta\": 3e5}}, "
                  "\"rope_scaling\": {\"rope_type\": \"linear\", \"factor\": 4}, \"rope_theta\": 9",
                  3e5, 4, 1e4);
    gemma_rope_is("rope_parameters", "{\"full_attention\": null}, \"rope_theta\": 3e5", 3e5, 1,
                  1e4);
    /* flat parameters are not read, nor is truncate beside one type's others */
    gemma_rope_is("rope_parameters", "{\"rope_type\": \"linear\", \"factor\": 4}", 1e6, 1, 1e4);
    mr_graph *g = graph_with(gemma_keys, "rope_parameters",
                             "{\"full_attention\": {\"rope_type\": \"yarn\", \"factor\": 4, "
                             "\"truncate\": false}}");
    for (int i = 0; i < mr_graph_nodes(g); i++)
        if (mr_graph_node(g, i)->op == MR_OP_ROPE_TABLE)
            assert_true(mr_attr_i(mr_graph_node(g, i), "truncate"));
    mr_graph_free(g);
}

static void gemma_scales(void **state)
{
    (void)state;
    mr_graph *g = graph_with(gemma_keys, "query_pre_attn_scalar", "168");
    assert_true(mr_attr_f(find_node(g, MR_OP_ATTENTION, 0), "scale") == 1 / sqrt(168.0));
    /* sqrt(80) as a float, not rounded to bf16 */
    assert_true(mr_attr_f(find_node(g, MR_OP_EMBED, 0), "scale") == (double)sqrtf(80.0F));
    assert_null(find_node(g, MR_OP_SOFTCAP, 0));
    mr_graph_free(g);
    g = graph_with(gemma_keys, "query_pre_attn_scalar", NULL);
    assert_true(mr_attr_f(find_node(g, MR_OP_ATTENTION, 0), "scale") == 1.0 / 16);
    mr_graph_free(g);
    g = graph_with(gemma_keys, "final_logit_softcapping", "20.0");
    assert_true(mr_attr_f(find_node(g, MR_OP_SOFTCAP, 0), "cap") == 20);
    mr_graph_free(g);
    g = graph_with(gemma_keys, "attn_logit_softcapping", "5.0");
    assert_true(mr_attr_f(find_node(g, MR_OP_ATTENTION, 0), "softcap") == 0);
    mr_graph_free(g);
}

/* The published 4B form: text_config with few keys, ids above it. */
static void gemma_nested(void **state)
{
    mr_model *m;
    (void)state;
    mr_graph *g = open_build("gemma3_nested", &m);
    const mr_model_info *f = mr_model_facts(m);
    assert_string_equal(f->family, "gemma3");
    assert_string_equal(f->model_type, "gemma3");
    assert_true(f->vocab == 262208 && f->max_positions == 131072);
    assert_true(f->n_eos == 2 && f->eos[1] == 106);
    const mr_node *c = find_node(g, MR_OP_CACHE, 0), *a = find_node(g, MR_OP_ATTENTION, 0);
    assert_true(mr_attr_i(c, "heads") == 4 && mr_attr_i(c, "dk") == 256);
    assert_true(mr_attr_f(a, "scale") == 1.0 / 16 && mr_attr_i(a, "window") == 1024);
    /* the cap of text_config is the text-only class's */
    assert_null(find_node(g, MR_OP_SOFTCAP, 0));
    mr_graph_free(g);
    mr_model_close(m);
    static const pair bare[] = {{"model_type", "\"gemma3\""}, {0}};
    assert_int_equal(open_with(&m, bare, NULL, NULL), MR_EFORMAT);
    assert_non_null(strstr(mr_error(), "text_config"));
    assert_int_equal(open_with(&m, bare, "text_config", "[]"), MR_EFORMAT);
    assert_int_equal(open_with(&m, bare, "text_config", "{}"), MR_EFORMAT);
    assert_non_null(strstr(mr_error(), "text_config.hidden_size"));
}

static void deepseek_scales(void **state)
{
    (void)state;
    mr_graph *g = graph_with(deepseek_keys, NULL, NULL);
    double m = 0.1 * 0.6 * log(8) + 1, all = 0.1 * log(8) + 1;
    const mr_node *a = find_node(g, MR_OP_ATTENTION, 0), *t = find_node(g, MR_OP_ROPE_TABLE, 0);
    assert_true(fabs(mr_attr_f(a, "scale") * sqrt(48) - m * m) < 1e-14);
    assert_true(fabs(mr_attr_f(t, "mscale") - all / m) < 1e-14);
    assert_true(mr_attr_i(find_node(g, MR_OP_ROPE, 0), "interleaved") == 1);
    const mr_node *r = find_node(g, MR_OP_ROUTE, 0);
    assert_true(mr_attr_i(r, "groups") == 4 && mr_attr_i(r, "keep") == 2 && mr_attr_i(r, "k") == 4);
    assert_true(mr_attr_i(r, "norm") == 1 && mr_attr_f(r, "eps") == 1e-20);
    /* the latents' own epsilon */
    mr_graph_free(g);
    g = graph_with(deepseek_keys, "rms_norm_eps", "1e-5");
    int own = 0, latent = 0;
    for (int i = 0; i < mr_graph_nodes(g); i++)
        if (mr_graph_node(g, i)->op == MR_OP_RMSNORM) {
            own += mr_attr_f(mr_graph_node(g, i), "eps") == 1e-5;
            latent += mr_attr_f(mr_graph_node(g, i), "eps") == 1e-6;
        }
    assert_true(own == 5 && latent == 4);
    mr_graph_free(g);
    g = graph_with(deepseek_keys, "rope_scaling", NULL);
    assert_true(mr_attr_f(find_node(g, MR_OP_ATTENTION, 0), "scale") == 1 / sqrt(48.0));
    mr_graph_free(g);
    g = graph_with(deepseek_keys, "rope_interleave", "false");
    assert_true(mr_attr_i(find_node(g, MR_OP_ROPE, 0), "interleaved") == 0);
    mr_graph_free(g);
    /* the class's groups when the keys are absent: 8, of which 4 are kept */
    g = graph_with(deepseek_keys, "n_group", NULL);
    assert_true(mr_attr_i(find_node(g, MR_OP_ROUTE, 0), "groups") == 8);
    mr_graph_free(g);
    g = graph_with(deepseek_keys, "topk_group", NULL);
    assert_true(mr_attr_i(find_node(g, MR_OP_ROUTE, 0), "keep") == 4);
    mr_graph_free(g);
}

static void llada_facts(void **state)
{
    mr_model *m;
    (void)state;
    mr_graph *g = open_build("llada2", &m);
    const mr_model_info *f = mr_model_facts(m);
    assert_true(f->diffusion && f->block_length == 32);
    assert_true(f->mask_id == 156895 && f->n_eos == 1 && f->eos[0] == 156892);
    const mr_node *a = find_node(g, MR_OP_ATTENTION, 0);
    assert_string_equal(mr_attr_s(a, "mask"), "block");
    assert_true(mr_attr_i(a, "block") == 32);
    assert_true(mr_attr_i(find_node(g, MR_OP_ROPE_TABLE, 0), "dim") == 8);
    mr_graph_free(g);
    mr_model_close(m);
    assert_int_equal(open_with(&m, llada_keys, "pad_token_id", "297"), MR_OK);
    assert_true(mr_model_facts(m)->eos[0] == 297);
    mr_model_close(m);
    assert_int_equal(open_with(&m, llada_keys, "eos_token_id", "5"), MR_OK);
    assert_true(mr_model_facts(m)->eos[0] == 5);
    mr_model_close(m);
    /* one expert: its weight is not normalised; other routing keys are not read, as upstream */
    g = graph_with(llada_keys, "num_experts_per_tok", "1");
    assert_true(mr_attr_i(find_node(g, MR_OP_ROUTE, 0), "norm") == 0);
    mr_graph_free(g);
    g = graph_with(llada_keys, "norm_topk_prob", "false, \"score_function\": \"softmax\"");
    assert_true(mr_attr_i(find_node(g, MR_OP_ROUTE, 0), "norm") == 1);
    assert_string_equal(mr_attr_s(find_node(g, MR_OP_ROUTE, 0), "score"), "sigmoid");
    mr_graph_free(g);
}

/* expert_capacity, and not the groups, says that a model routes by blocks of rows. */
static void llada_routes_by_blocks(void **state)
{
    mr_model *m;
    const char *both = "10, \"block_size\": 8", *ids = "10, \"delete_token_id\": 7, "
                                                       "\"split_token_id\": 9";
    (void)state;
    assert_int_equal(open_with(&m, llada_keys, NULL, NULL), MR_OK);
    assert_string_equal(mr_model_facts(m)->decoder, "llada2.0");
    assert_true(mr_model_facts(m)->delete_id == -1 && mr_model_facts(m)->split_id == -1);
    mr_model_close(m);
    assert_int_equal(open_with(&m, llada_keys, "expert_capacity", ids), MR_OK);
    assert_string_equal(mr_model_facts(m)->decoder, "llada2.2");
    assert_true(mr_model_facts(m)->delete_id == 7 && mr_model_facts(m)->split_id == 9);
    mr_model_close(m);
    assert_int_equal(open_with(&m, llada_keys, "expert_capacity", both), MR_OK);
    assert_true(mr_model_facts(m)->delete_id == 156930 && mr_model_facts(m)->split_id == 156931);
    assert_true(mr_model_facts(m)->block_length == 8);
    mr_model_close(m);
    mr_graph *g = graph_with(llada_keys, "expert_capacity", both);
    const mr_node *r = find_node(g, MR_OP_ROUTE, 0);
    assert_true(mr_attr_i(r, "block") == 8 && mr_attr_i(r, "capacity") == 10);
    assert_true(mr_attr_i(r, "groups") == 1 && mr_attr_i(r, "k") == 4 && r->in[3] != MR_NONE);
    mr_graph_free(g);
}

/* The router and the heads of models that go row by row keep f32 activations. */
static void f32_activations(void **state)
{
    static const struct {
        const pair *base;
        int f32;
    } cases[] = {{llama_keys, 1}, {gemma_keys, 1}, {deepseek_keys, 2}, {llada_keys, 1}};
    (void)state;
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        mr_graph *g = graph_with(cases[c].base, NULL, NULL);
        int n = 0;
        for (int i = 0; i < mr_graph_nodes(g); i++)
            if (mr_graph_node(g, i)->op == MR_OP_LINEAR)
                n += !strcmp(mr_attr_s(mr_graph_node(g, i), "act"), "f32");
        assert_int_equal(n, cases[c].f32);
        mr_graph_free(g);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(golden),
                                       cmocka_unit_test(llama_facts),
                                       cmocka_unit_test(llama_defaults),
                                       cmocka_unit_test(biases_and_ties),
                                       cmocka_unit_test(gemma_layers),
                                       cmocka_unit_test(gemma_ropes),
                                       cmocka_unit_test(gemma_scales),
                                       cmocka_unit_test(gemma_nested),
                                       cmocka_unit_test(deepseek_scales),
                                       cmocka_unit_test(llada_facts),
                                       cmocka_unit_test(llada_routes_by_blocks),
                                       cmocka_unit_test(f32_activations)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
