/* GGUF: metadata as a config, names, what is undone, what is refused. */
#include <math.h>

#include "model/model_files.h"

static tensors t;

typedef struct shape {
    const char *name;
    int64_t a, b, c; /* b, c 0: absent */
} shape;

static void add_shapes(const shape *s)
{
    for (; s->name; s++)
        add_tensor(&t, s->name, 1 + (s->b > 0) + (s->c > 0), &s->a);
}

/* ---- llama ---- */

static const shape llama_tensors[] = {
    {"token_embd.weight", 96, 24, 0},     {"output_norm.weight", 24, 0, 0},
    {"blk.0.attn_norm.weight", 24, 0, 0}, {"blk.0.ffn_norm.weight", 24, 0, 0},
    {"blk.0.attn_q.weight", 24, 24, 0},   {"blk.0.attn_k.weight", 8, 24, 0},
    {"blk.0.attn_v.weight", 8, 24, 0},    {"blk.0.attn_output.weight", 24, 24, 0},
    {"blk.0.ffn_gate.weight", 40, 24, 0}, {"blk.0.ffn_up.weight", 40, 24, 0},
    {"blk.0.ffn_down.weight", 24, 40, 0}, {0}};

static void llama_meta(gguf_file *f)
{
    *f = (gguf_file){0};
    t.n = 0;
    add_shapes(llama_tensors);
    gg_str(f, "general.architecture", "llama");
    gg_int(f, "llama.block_count", 1);
    gg_int(f, "llama.context_length", 128);
    gg_int(f, "llama.embedding_length", 24);
    gg_int(f, "llama.feed_forward_length", 40);
    gg_int(f, "llama.attention.head_count", 3);
    gg_int(f, "llama.attention.head_count_kv", 1);
    gg_num(f, "llama.attention.layer_norm_rms_epsilon", 1e-5F);
    gg_num(f, "llama.rope.freq_base", 100000.0F);
    gg_int(f, "llama.rope.dimension_count", 8);
    gg_int(f, "llama.vocab_size", 90); /* rows of the table count, not this */
}

static mr_model *open_gguf(mr_graph **g)
{
    mr_model *m;
    if (open_folder(&m, g) != MR_OK)
        fail_msg("%s", mr_error());
    return m;
}

static void llama(void **state)
{
    gguf_file f;
    mr_graph *g;
    (void)state;
    llama_meta(&f);
    gg_int(&f, "tokenizer.ggml.eos_token_id", 2);
    gg_int(&f, "tokenizer.ggml.eot_token_id", 7);
    gg_int(&f, "tokenizer.ggml.eom_token_id", 2);
    gg_int(&f, "tokenizer.ggml.bos_token_id", 1);
    gg_write(&f, &t);
    mr_model *m = open_gguf(&g);
    const mr_model_info *info = mr_model_facts(m);
    assert_true(info->vocab == 96 && info->hidden == 24 && info->layers == 1);
    assert_true(info->max_positions == 128 && info->bos == 1);
    assert_true(info->n_eos == 2 && info->eos[0] == 2 && info->eos[1] == 7);
    assert_true(has_recipe(g, "blk.0.attn_q.weight :unrope(3)"));
    assert_true(has_recipe(g, "blk.0.attn_k.weight :unrope(1)"));
    assert_true(has_recipe(g, "blk.0.attn_v.weight"));
    assert_false(has_recipe(g, "output.weight"));
    /* the shortest decimal of the file's float, as the config.json had it */
    assert_true(mr_attr_f(find_node(g, MR_OP_RMSNORM, 0), "eps") == 1e-5);
    const mr_node *r = find_node(g, MR_OP_ROPE_TABLE, 0);
    assert_true(mr_attr_f(r, "theta") == 1e5 && mr_attr_i(r, "dim") == 8);
    assert_true(mr_operand(r, "factors") == MR_NONE);
    mr_graph_free(g);
    mr_model_close(m);
    /* the file by its own path */
    assert_int_equal(mr_model_open(&m, in_folder("model.gguf"), NULL), MR_OK);
    mr_model_close(m);
}

static void llama_extras(void **state)
{
    gguf_file f;
    mr_graph *g;
    (void)state;
    llama_meta(&f);
    add_tensor(&t, "output.weight", 2, (int64_t[]){96, 24});
    add_tensor(&t, "rope_freqs.weight", 1, (int64_t[]){4});
    gg_int(&f, "llama.attention.key_length", 8);
    gg_int(&f, "llama.attention.value_length", 8);
    gg_write(&f, &t);
    mr_model *m = open_gguf(&g);
    assert_true(has_recipe(g, "output.weight") && has_recipe(g, "rope_freqs.weight"));
    assert_true(mr_operand(find_node(g, MR_OP_ROPE_TABLE, 0), "factors") != MR_NONE);
    mr_graph_free(g);
    mr_model_close(m);
    find_tensor(&t, "rope_freqs.weight")->dim[0] = 3;
    llama_meta(&f);
    add_tensor(&t, "rope_freqs.weight", 1, (int64_t[]){3});
    gg_write(&f, &t);
    refuses(MR_EFORMAT, "model.gguf", "\"rope_freqs.weight\" is [3], the config asks for [4]");
    llama_meta(&f);
    gg_str(&f, "llama.rope.scaling.type", "yarn");
    gg_num(&f, "llama.rope.scaling.factor", 4);
    gg_int(&f, "llama.rope.scaling.original_context_length", 32);
    gg_write(&f, &t);
    m = open_gguf(&g);
    const mr_node *r = find_node(g, MR_OP_ROPE_TABLE, 0);
    assert_string_equal(mr_attr_s(r, "kind"), "yarn");
    assert_true(fabs(mr_attr_f(r, "mscale") - (0.1 * log(4) + 1)) < 1e-14);
    assert_true(mr_attr_f(r, "orig") == 32);
    mr_graph_free(g);
    mr_model_close(m);
}

/* A key of a wrong kind or value, added to a good file. */
static void llama_refusals(void **state)
{
    static const struct {
        const char *key;
        char kind;
        const char *text;
        uint32_t number;
        mr_err err;
        const char *says;
    } cases[] = {
        {"llama.expert_count", 'i', NULL, 8, MR_EUNSUPPORTED, "llama.expert_count"},
        {"llama.attention.scale", 'n', NULL, 1, MR_EUNSUPPORTED, "llama.attention.scale"},
        {"llama.rope.scale_linear", 'n', NULL, 4, MR_EUNSUPPORTED, "llama.rope.scale_linear"},
        {"llama.attention.causal", 'i', NULL, 0, MR_EUNSUPPORTED, "llama.attention.causal"},
        {"llama.rope.scaling.type", 's', "longrope", 0, MR_EUNSUPPORTED, "llama.rope.scaling.type"},
        {"llama.attention.key_length", 'i', NULL, 16, MR_EUNSUPPORTED, "rope.dimension_count"},
        {"llama.attention.key_length", 's', "8", 0, MR_EFORMAT, "llama.attention.key_length"},
        {"llama.nextn_predict_layers", 'i', NULL, 2, MR_EUNSUPPORTED, "nextn_predict_layers"},
        {"llama.nextn_predict_layers", 'i', NULL, 1, MR_EFORMAT, "num_hidden_layers"},
        {"tokenizer.ggml.eos_token_id", 's', "x", 0, MR_EFORMAT, "tokenizer.ggml.eos_token_id"},
        {"tokenizer.ggml.bos_token_id", 'i', NULL, 4294967295U, MR_EFORMAT, "bos_token_id"}};
    gguf_file f;
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        llama_meta(&f);
        if (cases[i].kind == 's')
            gg_str(&f, cases[i].key, cases[i].text);
        else if (cases[i].kind == 'n')
            gg_num(&f, cases[i].key, (float)cases[i].number);
        else
            gg_int(&f, cases[i].key, cases[i].number);
        gg_write(&f, &t);
        refuses(cases[i].err, "model.gguf", cases[i].says);
    }
    llama_meta(&f);
    drop_tensor(&t, "blk.0.attn_k.weight");
    gg_write(&f, &t);
    refuses(MR_EFORMAT, "model.gguf", "tensor \"blk.0.attn_k.weight\" is missing");
    llama_meta(&f);
    drop_tensor(&t, "token_embd.weight");
    gg_write(&f, &t);
    refuses(MR_EFORMAT, "model.gguf", "\"vocab_size\" is missing");
    llama_meta(&f);
    add_tensor(&t, "blk.0.attn_q.bias", 1, (int64_t[]){24}); /* then the others have one, too */
    gg_write(&f, &t);
    refuses(MR_EFORMAT, "model.gguf", "tensor \"blk.0.attn_k.bias\" is missing");
    llama_meta(&f);
    add_tensor(&t, "blk.0.attn_norm.bias", 1, (int64_t[]){24});
    gg_write(&f, &t);
    refuses(MR_EFORMAT, "model.gguf", "\"blk.0.attn_norm.bias\" is not used");
    f = (gguf_file){0};
    gg_str(&f, "general.architecture", "mamba");
    gg_write(&f, &t);
    refuses(MR_EUNSUPPORTED, "model.gguf", "\"mamba\" is not supported (known: llama");
    f = (gguf_file){0};
    gg_str(&f, "general.name", "x");
    gg_write(&f, &t);
    refuses(MR_EFORMAT, "model.gguf", "general.architecture");
    f = (gguf_file){0};
    gg_str(&f, "general.architecture", "llama");
    gg_write(&f, &t);
    refuses(MR_EFORMAT, "model.gguf", "\"hidden_size\" is missing");
}

/* One count per layer, as some converters write it: equal ones are one number. */
static void lists(void **state)
{
    gguf_file f;
    mr_graph *g;
    (void)state;
    for (int unlike = 0; unlike < 2; unlike++) {
        f = (gguf_file){0};
        t.n = 0;
        add_shapes(llama_tensors);
        gg_str(&f, "general.architecture", "llama");
        gg_int(&f, "llama.block_count", 1);
        gg_int(&f, "llama.embedding_length", 24);
        gg_int(&f, "llama.attention.head_count", 3);
        gg_int(&f, "llama.attention.head_count_kv", 1);
        gg_key(&f, "llama.feed_forward_length", 9);
        gg_u32(&f.meta, 4);
        gg_u64(&f.meta, 2);
        gg_u32(&f.meta, 40);
        gg_u32(&f.meta, unlike ? 41 : 40);
        gg_write(&f, &t);
        if (unlike) {
            refuses(MR_EUNSUPPORTED, "model.gguf",
                    "\"llama.feed_forward_length\" differs from layer to layer");
            continue;
        }
        mr_model *m = open_gguf(&g);
        mr_graph_free(g);
        mr_model_close(m);
    }
}

/* ---- gemma3 ---- */

static void gemma_meta(gguf_file *f, int layers, int64_t heads)
{
    static const shape block[] = {{"attn_norm", 32, 0, 0},  {"post_attention_norm", 32, 0, 0},
                                  {"ffn_norm", 32, 0, 0},   {"post_ffw_norm", 32, 0, 0},
                                  {"attn_q_norm", 8, 0, 0}, {"attn_k_norm", 8, 0, 0},
                                  {"attn_k", 8, 32, 0},     {"attn_v", 8, 32, 0},
                                  {"ffn_gate", 40, 32, 0},  {"ffn_up", 40, 32, 0},
                                  {"ffn_down", 32, 40, 0},  {0}};
    char name[64];
    *f = (gguf_file){0};
    t.n = 0;
    add_tensor(&t, "token_embd.weight", 2, (int64_t[]){64, 32});
    add_tensor(&t, "output_norm.weight", 1, (int64_t[]){32});
    for (int l = 0; l < layers; l++) {
        for (const shape *s = block; s->name; s++) {
            snprintf(name, sizeof name, "blk.%d.%s.weight", l, s->name);
            add_tensor(&t, name, 1 + (s->b > 0), &s->a);
        }
        snprintf(name, sizeof name, "blk.%d.attn_q.weight", l);
        add_tensor(&t, name, 2, (int64_t[]){8 * heads, 32});
        snprintf(name, sizeof name, "blk.%d.attn_output.weight", l);
        add_tensor(&t, name, 2, (int64_t[]){32, 8 * heads});
    }
    gg_str(f, "general.architecture", "gemma3");
    gg_int(f, "gemma3.block_count", (uint32_t)layers);
    gg_int(f, "gemma3.context_length", 128);
    gg_int(f, "gemma3.embedding_length", 32);
    gg_int(f, "gemma3.feed_forward_length", 40);
    gg_int(f, "gemma3.attention.head_count", (uint32_t)heads);
    gg_int(f, "gemma3.attention.head_count_kv", 1);
    gg_int(f, "gemma3.attention.key_length", 8);
    gg_int(f, "gemma3.attention.value_length", 8);
    gg_int(f, "gemma3.attention.sliding_window", 16);
    gg_num(f, "gemma3.attention.layer_norm_rms_epsilon", 1e-6F);
    gg_num(f, "gemma3.rope.freq_base", 1e6F);
}

static void gemma(void **state)
{
    gguf_file f;
    mr_graph *g;
    (void)state;
    gemma_meta(&f, 6, 2);
    gg_str(&f, "gemma3.rope.scaling.type", "linear");
    gg_num(&f, "gemma3.rope.scaling.factor", 8);
    gg_write(&f, &t);
    mr_model *m = open_gguf(&g);
    assert_string_equal(mr_model_facts(m)->model_type, "gemma3_text");
    /* the norms hold 1 + w already */
    for (int i = 0; i < mr_graph_nodes(g); i++)
        if (mr_graph_node(g, i)->op == MR_OP_RMSNORM)
            assert_true(mr_attr_f(mr_graph_node(g, i), "offset") == 0);
    assert_true(mr_attr_f(find_node(g, MR_OP_ATTENTION, 0), "scale") == 1 / sqrt(8.0));
    assert_true(mr_attr_i(find_node(g, MR_OP_ATTENTION, 0), "window") == 16);
    assert_true(mr_attr_f(find_node(g, MR_OP_ROPE_TABLE, 0), "theta") == 1e4);
    int global = 0;
    for (int i = 0; i < mr_graph_nodes(g); i++)
        if (mr_graph_node(g, i)->op == MR_OP_ROPE_TABLE)
            global += mr_attr_f(mr_graph_node(g, i), "factor") == 8;
    assert_int_equal(global, 1);
    mr_graph_free(g);
    mr_model_close(m);
}

/* A period or flags say which layers slide. */
static void gemma_patterns(void **state)
{
    gguf_file f;
    mr_graph *g;
    (void)state;
    for (int flags = 0; flags < 2; flags++) {
        gemma_meta(&f, 2, 2);
        if (flags) {
            gg_key(&f, "gemma3.attention.sliding_window_pattern", 9);
            gg_u32(&f.meta, 7);
            gg_u64(&f.meta, 2);
            mr_buf_add(&f.meta, "\1\0", 2);
        } else {
            gg_int(&f, "gemma3.attention.sliding_window_pattern", 2);
        }
        gg_write(&f, &t);
        mr_model *m = open_gguf(&g);
        int windows = 0;
        for (int i = 0; i < mr_graph_nodes(g); i++)
            if (mr_graph_node(g, i)->op == MR_OP_ATTENTION)
                windows += !strcmp(mr_attr_s(mr_graph_node(g, i), "mask"), "window");
        assert_int_equal(windows, 1);
        mr_graph_free(g);
        mr_model_close(m);
    }
    gemma_meta(&f, 2, 2);
    gg_str(&f, "gemma3.rope.scaling.type", "yarn");
    gg_write(&f, &t);
    refuses(MR_EUNSUPPORTED, "model.gguf", "gemma3.rope.scaling.type");
}

/* 62 layers are the 27B: its scores are scaled by hidden / heads. */
static void gemma_27b(void **state)
{
    gguf_file f;
    mr_model *m;
    (void)state;
    gemma_meta(&f, 1, 2);
    /* as many blocks as the 27B, without their tensors: the config is enough here */
    f.meta.len = 0;
    f.keys = 0;
    gg_str(&f, "general.architecture", "gemma3");
    gg_int(&f, "gemma3.block_count", 62);
    gg_int(&f, "gemma3.embedding_length", 84);
    gg_int(&f, "gemma3.feed_forward_length", 40);
    gg_int(&f, "gemma3.attention.head_count", 2);
    gg_int(&f, "gemma3.attention.head_count_kv", 1);
    gg_int(&f, "gemma3.attention.key_length", 8);
    gg_write(&f, &t);
    assert_int_equal(mr_model_open(&m, folder, NULL), MR_OK);
    int64_t scalar;
    assert_int_equal(mr_jint(mr_jget(mr_model_config(m), "query_pre_attn_scalar"), 1, 100, &scalar),
                     MR_OK);
    assert_int_equal(scalar, 42);
    mr_model_close(m);
}

/* ---- deepseek2 ---- */

static const shape deepseek_tensors[] = {{"token_embd.weight", 40, 32, 0},
                                         {"output_norm.weight", 32, 0, 0},
                                         {"output.weight", 40, 32, 0},
                                         {"blk.0.attn_norm.weight", 32, 0, 0},
                                         {"blk.0.ffn_norm.weight", 32, 0, 0},
                                         {"blk.0.attn_q.weight", 48, 32, 0},
                                         {"blk.0.attn_kv_a_mqa.weight", 24, 32, 0},
                                         {"blk.0.attn_kv_a_norm.weight", 16, 0, 0},
                                         {"blk.0.attn_output.weight", 32, 24, 0},
                                         {"blk.0.ffn_gate_inp.weight", 8, 32, 0},
                                         {"blk.0.exp_probs_b.bias", 8, 0, 0},
                                         {"blk.0.ffn_gate_exps.weight", 8, 12, 32},
                                         {"blk.0.ffn_up_exps.weight", 8, 12, 32},
                                         {"blk.0.ffn_down_exps.weight", 8, 32, 12},
                                         {"blk.0.ffn_gate_shexp.weight", 24, 32, 0},
                                         {"blk.0.ffn_up_shexp.weight", 24, 32, 0},
                                         {"blk.0.ffn_down_shexp.weight", 32, 24, 0},
                                         {0}};

static void deepseek_meta(gguf_file *f, bool old)
{
    *f = (gguf_file){0};
    t.n = 0;
    add_shapes(deepseek_tensors);
    if (old) {
        add_tensor(&t, "blk.0.attn_kv_b.weight", 2, (int64_t[]){2 * 28, 16});
    } else {
        add_tensor(&t, "blk.0.attn_k_b.weight", 3, (int64_t[]){2, 16, 16});
        add_tensor(&t, "blk.0.attn_v_b.weight", 3, (int64_t[]){2, 12, 16});
        gg_int(f, "deepseek2.attention.key_length_mla", 24);
        gg_int(f, "deepseek2.attention.value_length_mla", 12);
        gg_int(f, "deepseek2.expert_group_count", 2);
        gg_int(f, "deepseek2.expert_group_used_count", 1);
    }
    gg_str(f, "general.architecture", "deepseek2");
    gg_int(f, "deepseek2.block_count", 1);
    gg_int(f, "deepseek2.embedding_length", 32);
    gg_int(f, "deepseek2.feed_forward_length", 40);
    gg_int(f, "deepseek2.expert_feed_forward_length", 12);
    gg_int(f, "deepseek2.attention.head_count", 2);
    gg_int(f, "deepseek2.attention.head_count_kv", 1);
    gg_int(f, "deepseek2.attention.kv_lora_rank", 16);
    gg_int(f, "deepseek2.attention.key_length", old ? 24 : 576);
    gg_int(f, "deepseek2.attention.value_length", old ? 12 : 512);
    gg_int(f, "deepseek2.rope.dimension_count", 8);
    gg_int(f, "deepseek2.expert_count", 8);
    gg_int(f, "deepseek2.expert_used_count", 2);
    gg_int(f, "deepseek2.expert_shared_count", 2);
    gg_int(f, "deepseek2.leading_dense_block_count", 0);
    gg_num(f, "deepseek2.expert_weights_scale", 2.446F);
    gg_num(f, "deepseek2.rope.freq_base", 50000);
    gg_num(f, "deepseek2.attention.layer_norm_rms_epsilon", 1e-5F);
}

static void deepseek(void **state)
{
    gguf_file f;
    mr_graph *g;
    (void)state;
    deepseek_meta(&f, false);
    gg_int(&f, "deepseek2.expert_gating_func", 2);
    gg_bool(&f, "deepseek2.expert_weights_norm", true);
    gg_str(&f, "deepseek2.rope.scaling.type", "yarn");
    gg_num(&f, "deepseek2.rope.scaling.factor", 40);
    gg_int(&f, "deepseek2.rope.scaling.original_context_length", 64);
    gg_num(&f, "deepseek2.rope.scaling.yarn_log_multiplier", 0.0707F);
    gg_write(&f, &t);
    mr_model *m = open_gguf(&g);
    assert_true(has_recipe(g, "blk.0.attn_k_b.weight") && has_recipe(g, "blk.0.attn_v_b.weight"));
    assert_true(has_recipe(g, "blk.0.ffn_down_exps.weight"));
    const mr_node *r = find_node(g, MR_OP_ROUTE, 0), *a = find_node(g, MR_OP_ATTENTION, 0);
    assert_true(mr_attr_i(r, "groups") == 2 && mr_attr_i(r, "keep") == 1);
    assert_true(mr_attr_i(r, "norm") == 1 && mr_attr_f(r, "scale") == 2.446);
    double scale = pow(0.0707 * log(40) + 1, 2) / sqrt(24);
    assert_true(fabs(mr_attr_f(a, "scale") - scale) < 1e-12);
    const mr_node *table = find_node(g, MR_OP_ROPE_TABLE, 0);
    assert_true(mr_attr_f(table, "mscale") == 1 && mr_attr_f(table, "beta_fast") == 32);
    assert_true(mr_attr_i(find_node(g, MR_OP_ROPE, 0), "interleaved") == 1);
    mr_graph_free(g);
    mr_model_close(m);
}

static void deepseek_old(void **state)
{
    gguf_file f;
    mr_graph *g;
    (void)state;
    deepseek_meta(&f, true);
    gg_int(&f, "deepseek2.expert_gating_func", 2);
    gg_write(&f, &t);
    mr_model *m = open_gguf(&g);
    assert_true(has_recipe(g, "blk.0.attn_kv_b.weight :rows(28,0,16) :t(16)"));
    assert_true(has_recipe(g, "blk.0.attn_kv_b.weight :rows(28,16,12)"));
    const mr_node *r = find_node(g, MR_OP_ROUTE, 0);
    assert_true(mr_attr_i(r, "groups") == 1 && mr_attr_i(r, "norm") == 0);
    mr_graph_free(g);
    mr_model_close(m);
    /* V2 scores by softmax: by its key, or by having none */
    for (int keyed = 0; keyed < 2; keyed++) {
        deepseek_meta(&f, true);
        drop_tensor(&t, "blk.0.exp_probs_b.bias");
        if (keyed)
            gg_int(&f, "deepseek2.expert_gating_func", 1);
        gg_int(&f, "deepseek2.expert_group_count", 2);
        gg_int(&f, "deepseek2.expert_group_used_count", 1);
        gg_write(&f, &t);
        m = open_gguf(&g);
        r = find_node(g, MR_OP_ROUTE, 0);
        assert_string_equal(mr_attr_s(r, "score"), "softmax");
        assert_true(mr_operand(r, "bias") == MR_NONE && mr_attr_i(r, "norm") == 0);
        assert_true(mr_attr_i(r, "groups") == 2 && mr_attr_i(r, "group_sum") == 1);
        mr_graph_free(g);
        mr_model_close(m);
    }
    deepseek_meta(&f, true);
    gg_int(&f, "deepseek2.expert_gating_func", 3);
    gg_write(&f, &t);
    refuses(MR_EUNSUPPORTED, "model.gguf", "deepseek2.expert_gating_func");
    /* blocks past the count are multi-token prediction */
    deepseek_meta(&f, true);
    gg_int(&f, "deepseek2.expert_gating_func", 2);
    add_tensor(&t, "blk.1.nextn.eh_proj.weight", 2, (int64_t[]){2, 2});
    gg_write(&f, &t);
    m = open_gguf(&g);
    mr_graph_free(g);
    mr_model_close(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(llama),          cmocka_unit_test(llama_extras),
        cmocka_unit_test(llama_refusals), cmocka_unit_test(lists),
        cmocka_unit_test(gemma),          cmocka_unit_test(gemma_patterns),
        cmocka_unit_test(gemma_27b),      cmocka_unit_test(deepseek),
        cmocka_unit_test(deepseek_old)};
    return cmocka_run_group_tests(tests, folder_make, folder_remove);
}
