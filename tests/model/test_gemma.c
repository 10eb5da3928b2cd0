/* Gemma 1, 2 and 4: what their config keys mean, absent ones too, and what is refused; the graphs as
 * text; GGUF's lists.  Gemma 3 is in the tests of all families. */
#include <math.h>

#include "model/configs.h"
#include "model/model_files.h"

static const pair one[] = {{"model_type", "\"gemma\""},  {"vocab_size", "96"},
                           {"hidden_size", "48"},        {"intermediate_size", "64"},
                           {"num_hidden_layers", "2"},   {"num_attention_heads", "4"},
                           {"num_key_value_heads", "1"}, {"head_dim", "8"},
                           {"hidden_act", "\"gelu\""},   {0}};
static const pair two[] = {
    {"model_type", "\"gemma2\""}, {"hidden_size", "48"}, {"intermediate_size", "64"},
    {"num_hidden_layers", "4"},   {"head_dim", "8"},     {0}};
static const pair four[] = {{"model_type", "\"gemma4_text\""},
                            {"vocab_size", "96"},
                            {"hidden_size", "48"},
                            {"intermediate_size", "64"},
                            {"num_hidden_layers", "7"},
                            {"num_attention_heads", "4"},
                            {"num_key_value_heads", "2"},
                            {"head_dim", "8"},
                            {"hidden_size_per_layer_input", "0"},
                            {0}};

static const mr_node *attention(const mr_graph *g, int i)
{
    int seen = 0;
    for (int n = 0; n < mr_graph_nodes(g); n++)
        if (mr_graph_node(g, n)->op == MR_OP_ATTENTION && seen++ == i)
            return mr_graph_node(g, n);
    fail_msg("there is no attention %d", i);
    return NULL;
}

static int64_t width_of_heads(const mr_graph *g, int i)
{
    return mr_graph_value(g, mr_operand(attention(g, i), "q"))->dim[2].n;
}

/* ---- Gemma 1 and 2 ---- */

static void gemma1(void **state)
{
    (void)state;
    mr_graph *g = graph_with(one, NULL, NULL);
    assert_int_equal(count_nodes(g, MR_OP_GELU_TANH), 2); /* "gelu" is a legacy value */
    assert_int_equal(count_nodes(g, MR_OP_GELU), 0);
    assert_int_equal(count_nodes(g, MR_OP_RMSNORM), 5);
    assert_int_equal(count_nodes(g, MR_OP_SOFTCAP), 0);
    assert_true(mr_attr_f(attention(g, 0), "scale") == 1 / sqrt(8.0));
    assert_string_equal(mr_attr_s(attention(g, 1), "mask"), "causal");
    assert_true(mr_attr_f(find_node(g, MR_OP_EMBED, 0), "scale") == (double)sqrtf(48));
    mr_graph_free(g);
}

static void gemma2(void **state)
{
    (void)state;
    mr_graph *g = graph_with(two, NULL, NULL); /* the class's defaults */
    assert_true(mr_attr_f(attention(g, 0), "softcap") == 50);
    assert_true(mr_attr_f(attention(g, 0), "scale") == 0.0625);
    assert_int_equal(mr_attr_i(attention(g, 0), "window"), 4096);
    assert_string_equal(mr_attr_s(attention(g, 1), "mask"), "causal");
    assert_int_equal(mr_attr_i(attention(g, 2), "window"), 4096);
    assert_true(mr_attr_f(find_node(g, MR_OP_SOFTCAP, 0), "cap") == 30);
    assert_int_equal(mr_graph_value(g, mr_operand(attention(g, 0), "q"))->dim[1].n, 8);
    assert_int_equal(count_nodes(g, MR_OP_RMSNORM), 17);
    mr_graph_free(g);
    g = graph_with(two, "final_logit_softcapping", "null"); /* null is no cap */
    assert_int_equal(count_nodes(g, MR_OP_SOFTCAP), 0);
    mr_graph_free(g);
    g = graph_with(two, "attn_logit_softcapping", "null");
    assert_true(mr_attr_f(attention(g, 0), "softcap") == 0);
    mr_graph_free(g);
}

/* ---- Gemma 4 ---- */

static void gemma4_defaults(void **state)
{
    (void)state;
    mr_graph *g = graph_with(four, NULL, NULL);
    assert_int_equal(mr_attr_i(attention(g, 0), "window"), 512);
    assert_int_equal(width_of_heads(g, 4), 8);
    assert_int_equal(width_of_heads(g, 5), 512); /* every sixth is global, and the last */
    assert_int_equal(width_of_heads(g, 6), 512);
    assert_true(mr_attr_f(attention(g, 0), "scale") == 1);
    assert_int_equal(mr_attr_i(attention(g, 0), "span"), 0);
    assert_int_equal(count_nodes(g, MR_OP_SOFTCAP), 0);
    assert_int_equal(count_nodes(g, MR_OP_ALIAS), 0); /* the text class knows no media */
    int at = 0;
    while (strcmp(mr_attr_s(find_node(g, MR_OP_ROPE_TABLE, at), "kind"), "none") == 0)
        at++;
    const mr_node *t = find_node(g, MR_OP_ROPE_TABLE, at);
    assert_string_equal(mr_attr_s(t, "kind"), "proportional");
    assert_int_equal(mr_attr_i(t, "angles"), 64);
    assert_true(mr_attr_f(t, "theta") == 1e6);
    mr_graph_free(g);
    /* void: keys are not the values */
    g = graph_with(four, "num_global_key_value_heads", "1");
    assert_int_equal(mr_attr_i(mr_graph_cache(g, mr_operand(attention(g, 5), "c")), "heads"), 2);
    mr_graph_free(g);
    g = graph_with(four, "model_type", "\"gemma4_unified_text\"");
    assert_int_equal(mr_attr_i(attention(g, 0), "window"), 1024);
    assert_int_equal(mr_attr_i(attention(g, 0), "span"), 1); /* images in sliding layers */
    assert_int_equal(mr_attr_i(attention(g, 5), "span"), 0);
    mr_graph_free(g);
    g = graph_with(four, "per_layer_config",
                   "{\"5\": {\"head_dim\": 16, \"num_key_value_heads\": 1}, "
                   "\"6\": {\"num_key_value_heads\": 1, \"head_dim\": 16}}");
    assert_int_equal(width_of_heads(g, 4), 8);
    assert_int_equal(width_of_heads(g, 6), 16);
    mr_graph_free(g);
    g = graph_with(four, "per_layer_config", "null"); /* then global_head_dim is not read */
    assert_int_equal(width_of_heads(g, 6), 8);
    mr_graph_free(g);
}

/* The class's own ropes hold unless rope_parameters is there; then a part is read above it, too. */
static void gemma4_ropes(void **state)
{
    static const struct {
        const char *key, *value, *kind;
        double theta;
        int64_t angles;
    } cases[] = {
        {"rope_theta", "77, \"partial_rotary_factor\": 0.5", "proportional", 1e6, 64},
        {"rope_parameters",
         "{\"full_attention\": {\"type\": \"proportional\", \"rope_theta\": 300}}", "proportional",
         300, 256},
        {"partial_rotary_factor",
         "0.5, \"rope_parameters\": {\"full_attention\": {\"rope_type\": \"proportional\"}}",
         "proportional", 1e6, 128},
        {"rope_parameters",
         "{\"full_attention\": {\"rope_type\": \"default\", \"partial_rotary_factor\": 0.5}}",
         "none", 1e6, 0}};
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        mr_graph *g = graph_with(four, cases[i].key, cases[i].value);
        const mr_node *t = NULL;
        for (int n = 0; n < mr_graph_nodes(g); n++)
            if (mr_graph_node(g, n)->op == MR_OP_ROPE_TABLE &&
                mr_attr_f(mr_graph_node(g, n), "theta") != 1e4)
                t = mr_graph_node(g, n);
        assert_non_null(t);
        assert_string_equal(mr_attr_s(t, "kind"), cases[i].kind);
        assert_true(mr_attr_f(t, "theta") == cases[i].theta);
        assert_int_equal(mr_attr_i(t, "angles"), cases[i].angles);
        mr_graph_free(g);
    }
}

/* Layers that share keys and values read the last cache of their type, for wanted rows alone. */
static void gemma4_shares(void **state)
{
    (void)state;
    mr_graph *g = graph_with(four, "num_kv_shared_layers", "1");
    assert_int_equal(count_nodes(g, MR_OP_CACHE), 6);
    assert_ptr_equal(mr_graph_cache(g, mr_operand(attention(g, 6), "c")),
                     mr_graph_cache(g, mr_operand(attention(g, 5), "c")));
    assert_int_equal(mr_operand(attention(g, 5), "rows"), MR_NONE);
    assert_int_equal(mr_graph_value(g, attention(g, 6)->out[0])->dim[0].sym, MR_SYM_OUT);
    mr_graph_free(g);
}

static void refusals(void **state)
{
    static const struct {
        const pair *base;
        const char *key, *value;
        mr_err err;
        const char *says;
    } bad[] = {
        {one, "num_key_value_heads", "3", MR_EFORMAT, "3 does not divide 4"},
        {one, "head_dim", "7", MR_EFORMAT, "7 is odd"},
        {one, "use_bidirectional_attention", "true", MR_EUNSUPPORTED, "bidirectional"},
        {one, "rope_parameters",
         "{\"rope_type\": \"linear\", \"factor\": 2, \"partial_rotary_factor\": 0.5}",
         MR_EUNSUPPORTED, "whole heads"},
        {two, "attn_logit_softcapping", "0", MR_EFORMAT, "attn_logit_softcapping"},
        {two, "attn_logit_softcapping", "\"50\"", MR_EFORMAT, "attn_logit_softcapping"},
        {two, "sliding_window", "null", MR_EFORMAT, "sliding_window"},
        {two, "layer_types", "[\"full_attention\"]", MR_EFORMAT, "1 types for 4 layers"},
        {two, "query_pre_attn_scalar", "0", MR_EFORMAT, "query_pre_attn_scalar"},
        {four, "hidden_size", NULL, MR_EFORMAT, "hidden_size"},
        {four, "use_bidirectional_attention", "\"all\"", MR_EUNSUPPORTED, "all"},
        {four, "num_kv_shared_layers", "7", MR_EFORMAT, "num_kv_shared_layers"},
        {four, "num_kv_shared_layers", "2", MR_EFORMAT, "no layer before 5"},
        {four, "enable_moe_block", "true", MR_EFORMAT, "num_experts"},
        {four, "hidden_size_per_layer_input", "-1", MR_EFORMAT, "hidden_size_per_layer_input"},
        {four, "global_head_dim", "9", MR_EFORMAT, "9 is odd"},
        {four, "per_layer_config", "[]", MR_EFORMAT, "per_layer_config"},
        {four, "per_layer_config", "{\"7\": {}}", MR_EFORMAT, "no layer"},
        {four, "per_layer_config", "{\"5\": 1}", MR_EFORMAT, "per_layer_config.5"},
        {four, "per_layer_config", "{\"5\": {\"head_dim\": 16}}", MR_EUNSUPPORTED, "of its type"},
        {four, "per_layer_config", "{\"0\": {\"intermediate_size\": 16}}", MR_EUNSUPPORTED,
         "other keys"},
        {four, "rope_parameters", "{\"rope_theta\": 5.0}", MR_EUNSUPPORTED, "other keys"},
        {four, "rope_parameters", "{\"full_attention\": {\"rope_type\": \"funny\"}}",
         MR_EUNSUPPORTED, "funny"},
        {four, "rope_parameters",
         "{\"sliding_attention\": {\"type\": \"linear\", \"factor\": 2, "
         "\"partial_rotary_factor\": 0.5}}",
         MR_EUNSUPPORTED, "whole heads"},
        {four, "rope_parameters",
         "{\"full_attention\": {\"rope_type\": \"proportional\", \"partial_rotary_factor\": 2}}",
         MR_EFORMAT, "partial_rotary_factor"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        mr_model *m;
        mr_err e = open_with(&m, bad[i].base, bad[i].key, bad[i].value);
        if (e != bad[i].err || !strstr(mr_error(), bad[i].says))
            fail_msg("%s = %s: error %d \"%s\", wanted %d \"%s\"", bad[i].key,
                     bad[i].value ? bad[i].value : "(absent)", e, mr_error(), bad[i].err,
                     bad[i].says);
    }
}

static void golden(void **state)
{
    static const char *const names[] = {"gemma4_e", "gemma4_moe"};
    (void)state;
    for (int i = 0; i < 2; i++) {
        char path[128];
        mr_model *m;
        mr_graph *g;
        mr_buf got = {0};
        snprintf(path, sizeof path, "tests/model/data/%s.json", names[i]);
        if (mr_model_open(&m, path, NULL) != MR_OK || mr_model_build(m, &g) != MR_OK)
            fail_msg("%s", mr_error());
        snprintf(path, sizeof path, "tests/model/data/%s.ir", names[i]);
        char *want = read_text(path);
        assert_int_equal(mr_graph_print(g, &got), MR_OK);
        assert_string_equal(got.data, want);
        free(want);
        mr_buf_free(&got);
        mr_graph_free(g);
        mr_model_close(m);
    }
}

/* ---- GGUF ---- */

static void ints(gguf_file *f, const char *key, int n, const int *v)
{
    gg_key(f, key, 9);
    gg_u32(&f->meta, 4);
    gg_u64(&f->meta, (uint64_t)n);
    for (int i = 0; i < n; i++)
        gg_u32(&f->meta, (uint32_t)v[i]);
}

static void slides(gguf_file *f, int n, const char *flags)
{
    gg_key(f, "gemma4.attention.sliding_window_pattern", 9);
    gg_u32(&f->meta, 7);
    gg_u64(&f->meta, (uint64_t)n);
    mr_buf_add(&f->meta, flags, (size_t)n);
}

static tensors t;

/* Four layers, the second and the last global; one shares. */
static void meta(gguf_file *f, const int *kv, const int *ff, const char *flags)
{
    *f = (gguf_file){0};
    t.n = 0;
    add_tensor(&t, "token_embd.weight", 2, (int64_t[]){96, 48});
    add_tensor(&t, "blk.1.attn_v.weight", 2, (int64_t[]){8, 48});
    gg_str(f, "general.architecture", "gemma4");
    gg_int(f, "gemma4.block_count", 4);
    gg_int(f, "gemma4.embedding_length", 48);
    gg_int(f, "gemma4.attention.head_count", 4);
    ints(f, "gemma4.attention.head_count_kv", kv[3] ? 4 : 3, kv);
    ints(f, "gemma4.feed_forward_length", 4, ff);
    gg_int(f, "gemma4.attention.key_length", 8);
    gg_int(f, "gemma4.attention.key_length_swa", 6);
    gg_int(f, "gemma4.attention.shared_kv_layers", 1);
    if (flags)
        slides(f, 4, flags);
}

static void gguf_lists(void **state)
{
    gguf_file f;
    mr_model *m;
    int64_t v;
    (void)state;
    meta(&f, (int[]){2, 1, 2, 1}, (int[]){64, 64, 64, 128}, "\1\0\1\0");
    gg_write(&f, &t);
    if (mr_model_open(&m, folder, NULL) != MR_OK)
        fail_msg("%s", mr_error());
    mr_jval c = mr_model_config(m);
    assert_true(mr_jis(mr_jget(c, "model_type"), "gemma4_text"));
    assert_true(mr_jtype(mr_jget(c, "use_double_wide_mlp")) == MR_JTRUE);
    assert_true(mr_jtype(mr_jget(c, "attention_k_eq_v")) == MR_JFALSE);
    assert_true(mr_jis(mr_jget(c, "use_bidirectional_attention"), "vision"));
    assert_true(!mr_jint(mr_jget(c, "num_global_key_value_heads"), 1, 1, &v));
    assert_true(!mr_jint(mr_jget(c, "num_key_value_heads"), 2, 2, &v));
    assert_true(!mr_jint(mr_jget(c, "intermediate_size"), 64, 64, &v));
    mr_model_close(m);
}

static void gguf_refusals(void **state)
{
    static const struct {
        int kv[4], ff[4]; /* the last of kv 0: one is lacking */
        const char *flags;
        mr_err err;
        const char *says;
    } bad[] = {
        {{2, 1, 2, 1}, {64, 64, 64, 96}, "\1\0\1\0", MR_EUNSUPPORTED, "neither of one width"},
        {{2, 1, 2, 1}, {64, 64, 128, 128}, "\1\0\1\0", MR_EUNSUPPORTED, "neither of one width"},
        {{2, 1, 4, 1}, {64, 64, 64, 64}, "\1\0\1\0", MR_EUNSUPPORTED, "differs within one type"},
        {{2, 1, 2, 0}, {64, 64, 64, 64}, "\1\0\1\0", MR_EFORMAT, "3 entries for 4 layers"},
        {{2, 1, 2, 1}, {64, 64, 64, 64}, NULL, MR_EUNSUPPORTED, "pattern\": is missing"},
    };
    gguf_file f;
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        meta(&f, bad[i].kv, bad[i].ff, bad[i].flags);
        gg_write(&f, &t);
        refuses(bad[i].err, "model.gguf", bad[i].says);
    }
    meta(&f, (int[]){2, 1, 2, 1}, (int[]){64, 64, 64, 64}, "\1\0\1\0");
    add_tensor(&t, "rope_freqs.weight", 1, (int64_t[]){4});
    gg_write(&f, &t);
    refuses(MR_EUNSUPPORTED, "model.gguf", "not ones, then huge");
    meta(&f, (int[]){2, 1, 2, 1}, (int[]){64, 64, 64, 64}, "\1\0\1\0");
    gg_int(&f, "gemma4.rope.dimension_count_swa", 4);
    gg_write(&f, &t);
    refuses(MR_EUNSUPPORTED, "model.gguf", "only whole heads");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gemma1),          cmocka_unit_test(gemma2),
        cmocka_unit_test(gemma4_defaults), cmocka_unit_test(gemma4_shares),
        cmocka_unit_test(refusals),        cmocka_unit_test(golden),
        cmocka_unit_test(gguf_lists),      cmocka_unit_test(gguf_refusals),
        cmocka_unit_test(gemma4_ropes)};
    return cmocka_run_group_tests(tests, folder_make, folder_remove);
}
