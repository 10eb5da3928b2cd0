/* Names of tensors: roots, stacked experts, ties, what is skipped, missing, misshapen or left over. */
#include "model/model_files.h"

static tensors t;

static void rename_all(const char *from, const char *to)
{
    for (int i = 0; i < t.n; i++)
        if (!strncmp(t.at[i].name, from, strlen(from))) {
            char rest[200];
            strcpy(rest, t.at[i].name + strlen(from));
            snprintf(t.at[i].name, sizeof t.at[i].name, "%s%s", to, rest);
        }
}

static void start(const pair *keys, const char *key, const char *value, char **config)
{
    *config = config_with(keys, key, value);
    asked_tensors(&t, *config);
}

static void roots(void **state)
{
    static const char *const heads[] = {"lm_head.weight", "language_model.lm_head.weight"};
    char *config;
    (void)state;
    start(gemma_keys, "tie_word_embeddings", "false", &config);
    write_model(&t, config);
    opens_with("model.layers.5.self_attn.q_proj.weight");
    rename_all("model.", "language_model.model.");
    write_model(&t, config);
    opens_with("language_model.model.layers.5.self_attn.q_proj.weight");
    opens_with(heads[0]);
    rename_all("lm_head", "language_model.lm_head");
    write_model(&t, config);
    opens_with(heads[1]);
    rename_all("language_model.model.", "model.language_model.");
    write_model(&t, config);
    opens_with("model.language_model.embed_tokens.weight");
    opens_with(heads[1]);
    free(config);
    /* a family without such roots does not know them */
    start(llama_keys, NULL, NULL, &config);
    rename_all("model.", "language_model.model.");
    write_model(&t, config);
    refuses(MR_EFORMAT, "model.safetensors", "tensor \"model.embed_tokens.weight\" is missing");
    free(config);
}

static void missing_and_misshapen(void **state)
{
    char *config;
    (void)state;
    start(llama_keys, NULL, NULL, &config);
    drop_tensor(&t, "model.layers.1.mlp.up_proj.weight");
    write_model(&t, config);
    refuses(MR_EFORMAT, "model.safetensors",
            "tensor \"model.layers.1.mlp.up_proj.weight\" is missing");
    asked_tensors(&t, config);
    find_tensor(&t, "model.layers.1.mlp.up_proj.weight")->dim[1] = 60;
    write_model(&t, config);
    refuses(MR_EFORMAT, "model.safetensors",
            "\"model.layers.1.mlp.up_proj.weight\" is [160,60], the config asks for [160,64]");
    asked_tensors(&t, config);
    *find_tensor(&t, "model.norm.weight") =
        (tensor){.name = "model.norm.weight", .rank = 2, .dim = {1, 64}};
    write_model(&t, config);
    refuses(MR_EFORMAT, "model.safetensors", "is [1,64], the config asks for [64]");
    free(config);
}

static void left_over(void **state)
{
    char *config;
    (void)state;
    start(llama_keys, NULL, NULL, &config);
    add_tensor(&t, "model.layers.0.self_attn.q_proj.bias", 1, (int64_t[]){64});
    write_model(&t, config);
    refuses(MR_EFORMAT, "model.safetensors",
            "\"model.layers.0.self_attn.q_proj.bias\" is not used by a llama model");
    add_tensor(&t, "model.layers.1.self_attn.q_proj.bias", 1, (int64_t[]){64});
    add_tensor(&t, "model.layers.2.self_attn.q_proj.bias", 1, (int64_t[]){64});
    write_model(&t, config);
    refuses(MR_EFORMAT, "model.safetensors", "nor are 2 others");
    free(config);
}

static mr_err count_skipped(void *ctx, const mr_winfo *w)
{
    assert_non_null(w->name);
    ++*(int *)ctx;
    return MR_OK;
}

static void skipped_is(int want)
{
    mr_model *m;
    mr_graph *g;
    int n = 0;
    if (open_folder(&m, &g) != MR_OK)
        fail_msg("%s", mr_error());
    assert_int_equal(mr_model_skipped(m, count_skipped, &n), MR_OK);
    assert_int_equal(n, want);
    mr_graph_free(g);
    mr_model_close(m);
}

static void known_and_skipped(void **state)
{
    char *config;
    (void)state;
    start(gemma_keys, NULL, NULL, &config);
    write_model(&t, config);
    skipped_is(0);
    add_tensor(&t, "vision_tower.vision_model.encoder.layers.0.mlp.fc1.bias", 1, (int64_t[]){3});
    add_tensor(&t, "model.multi_modal_projector.mm_soft_emb_norm.weight", 1, (int64_t[]){3});
    add_tensor(&t, "model.layers.0.self_attn.rotary_emb.inv_freq", 1, (int64_t[]){3});
    write_model(&t, config);
    skipped_is(3);
    add_tensor(&t, "vision_towers.x", 1, (int64_t[]){3});
    write_model(&t, config);
    refuses(MR_EFORMAT, "model.safetensors", "\"vision_towers.x\" is not used");
    free(config);
    /* multi-token layers: numbers from num_hidden_layers on */
    start(deepseek_keys, NULL, NULL, &config);
    add_tensor(&t, "model.layers.2.eh_proj.weight", 2, (int64_t[]){2, 3});
    add_tensor(&t, "model.layers.2.mlp.experts.0.up_proj.weight", 2, (int64_t[]){2, 3});
    add_tensor(&t, "model.layers.10.enorm.weight", 1, (int64_t[]){2});
    add_tensor(&t, "model.layers.99999999999999999999.enorm.weight", 1, (int64_t[]){2});
    write_model(&t, config);
    skipped_is(4);
    add_tensor(&t, "model.layers.1.eh_proj.weight", 2, (int64_t[]){2, 3});
    write_model(&t, config);
    refuses(MR_EFORMAT, "model.safetensors", "\"model.layers.1.eh_proj.weight\" is not used");
    drop_tensor(&t, "model.layers.1.eh_proj.weight");
    add_tensor(&t, "model.layers.x.eh_proj.weight", 2, (int64_t[]){2, 3});
    write_model(&t, config);
    refuses(MR_EFORMAT, "model.safetensors", "\"model.layers.x.eh_proj.weight\" is not used");
    free(config);
}

/* A tied model whose file has a head too: a copy is skipped, another matrix is the head. */
static void tied_heads(void **state)
{
    char *config;
    (void)state;
    start(llama_keys, "tie_word_embeddings", "true", &config);
    tensor *head = add_tensor(&t, "lm_head.weight", 2, (int64_t[]){320, 64});
    head->fill = find_tensor(&t, "model.embed_tokens.weight")->fill;
    write_model(&t, config);
    skipped_is(1);
    find_tensor(&t, "lm_head.weight")->fill = 77;
    write_model(&t, config);
    skipped_is(0);
    opens_with("lm_head.weight");
    find_tensor(&t, "lm_head.weight")->dim[0] = 300;
    write_model(&t, config);
    refuses(MR_EFORMAT, "model.safetensors", "is [300,64], the config asks for [320,64]");
    free(config);
    start(gemma_keys, NULL, NULL, &config);
    head = add_tensor(&t, "language_model.lm_head.weight", 2, (int64_t[]){288, 80});
    head->fill = find_tensor(&t, "model.embed_tokens.weight")->fill;
    write_model(&t, config);
    skipped_is(1);
    find_tensor(&t, "language_model.lm_head.weight")->fill = 78;
    write_model(&t, config);
    opens_with("language_model.lm_head.weight");
    free(config);
}

/* Layer 1's experts under other names: shapes of gate, up (NULL: with the gate) and down. */
static void replace_experts(const char *const name[3], const int64_t dim[3][3])
{
    static const char *const what[] = {"gate_proj", "up_proj", "down_proj"};
    char old[200];
    for (int w = 0; w < 3; w++) {
        for (int e = 0; e < 16; e++) {
            snprintf(old, sizeof old, "model.layers.1.mlp.experts.%d.%s.weight", e, what[w]);
            drop_tensor(&t, old);
        }
        if (name[w])
            add_tensor(&t, name[w], 3, dim[w]);
    }
}

/* Experts fused as transformers has them: gate above up in one tensor, no ".weight". */
static void fused_experts(void **state)
{
    static const char *const name[] = {"model.layers.1.mlp.experts.gate_up_proj", NULL,
                                       "model.layers.1.mlp.experts.down_proj"};
    static const int64_t dim[3][3] = {{16, 64, 64}, {0}, {16, 64, 32}};
    char *config;
    (void)state;
    start(deepseek_keys, NULL, NULL, &config);
    replace_experts(name, dim);
    write_model(&t, config);
    opens_with("model.layers.1.mlp.experts.gate_up_proj :rows(64,0,32)");
    opens_with("model.layers.1.mlp.experts.gate_up_proj :rows(64,32,32)");
    opens_with("model.layers.1.mlp.experts.down_proj");
    find_tensor(&t, name[0])->dim[1] = 62;
    write_model(&t, config);
    refuses(MR_EFORMAT, "model.safetensors", "is [16,62,64], the config asks for [16,64,64]");
    free(config);
}

/* Experts one by one, then stacked. */
static void experts(void **state)
{
    static const char *const stacked[] = {"model.layers.1.mlp.switch_mlp.gate_proj.weight",
                                          "model.layers.1.mlp.switch_mlp.up_proj.weight",
                                          "model.layers.1.mlp.switch_mlp.down_proj.weight"};
    static const char *const glu[] = {"model.layers.1.mlp.experts.switch_glu.gate_proj.weight",
                                      "model.layers.1.mlp.experts.switch_glu.up_proj.weight",
                                      "model.layers.1.mlp.experts.switch_glu.down_proj.weight"};
    static const int64_t dim[3][3] = {{16, 32, 64}, {16, 32, 64}, {16, 64, 32}};
    char *config;
    (void)state;
    start(deepseek_keys, NULL, NULL, &config);
    write_model(&t, config);
    opens_with("model.layers.1.mlp.experts.{0..15}.up_proj.weight");
    drop_tensor(&t, "model.layers.1.mlp.experts.7.up_proj.weight");
    write_model(&t, config);
    refuses(MR_EFORMAT, "model.safetensors",
            "tensor \"model.layers.1.mlp.experts.7.up_proj.weight\" is missing");
    drop_tensor(&t, "model.layers.1.mlp.experts.0.up_proj.weight");
    write_model(&t, config);
    refuses(MR_EFORMAT, "model.safetensors",
            "tensor \"model.layers.1.mlp.experts.{0..15}.up_proj.weight\" is missing");
    asked_tensors(&t, config);
    find_tensor(&t, "model.layers.1.mlp.experts.15.up_proj.weight")->dim[0] = 31;
    write_model(&t, config);
    refuses(MR_EFORMAT, "model.safetensors", "experts.15.up_proj.weight\" is [31,64]");
    asked_tensors(&t, config);
    replace_experts(glu, dim);
    write_model(&t, config);
    opens_with(glu[2]);
    asked_tensors(&t, config);
    replace_experts(stacked, dim);
    write_model(&t, config);
    opens_with("model.layers.1.mlp.switch_mlp.down_proj.weight");
    find_tensor(&t, "model.layers.1.mlp.switch_mlp.up_proj.weight")->dim[0] = 15;
    write_model(&t, config);
    refuses(MR_EFORMAT, "model.safetensors", "is [15,32,64], the config asks for [16,32,64]");
    free(config);
}

/* Formats: what is no weight, a quantised vector, experts unlike each other. */
static void formats(void **state)
{
    char *config;
    (void)state;
    start(llama_keys, NULL, NULL, &config);
    find_tensor(&t, "model.layers.0.mlp.up_proj.weight")->type = MR_I32;
    write_model(&t, config);
    refuses(MR_EUNSUPPORTED, "model.safetensors",
            "\"model.layers.0.mlp.up_proj.weight\": format i32 is not supported");
    asked_tensors(&t, config);
    find_tensor(&t, "model.norm.weight")->type = MR_U32;
    write_model(&t, config);
    refuses(MR_EUNSUPPORTED, "model.safetensors", "format u32 is not supported for a vector");
    free(config);
    start(deepseek_keys, NULL, NULL, &config);
    tensor *odd = find_tensor(&t, "model.layers.1.mlp.experts.3.up_proj.weight");
    odd->type = MR_BF16;
    write_model(&t, config);
    refuses(MR_EUNSUPPORTED, "model.safetensors",
            "experts.3.up_proj.weight\" is of another format than expert 0's");
    free(config);
}

/* kv_b whole, or its halves with K transposed. */
static void latent_halves(void **state)
{
    char *config, name[200];
    (void)state;
    start(deepseek_keys, NULL, NULL, &config);
    write_model(&t, config);
    opens_with("model.layers.0.self_attn.kv_b_proj.weight :rows(56,0,32) :t(32)");
    opens_with("model.layers.0.self_attn.kv_b_proj.weight :rows(56,32,24)");
    for (int l = 0; l < 2; l++) {
        snprintf(name, sizeof name, "model.layers.%d.self_attn.kv_b_proj.weight", l);
        drop_tensor(&t, name);
        snprintf(name, sizeof name, "model.layers.%d.self_attn.embed_q.weight", l);
        add_tensor(&t, name, 3, (int64_t[]){4, 32, 32});
        snprintf(name, sizeof name, "model.layers.%d.self_attn.unembed_out.weight", l);
        add_tensor(&t, name, 3, (int64_t[]){4, 24, 32});
    }
    write_model(&t, config);
    opens_with("model.layers.1.self_attn.embed_q.weight");
    drop_tensor(&t, "model.layers.1.self_attn.unembed_out.weight");
    write_model(&t, config);
    refuses(MR_EFORMAT, "model.safetensors",
            "tensor \"model.layers.1.self_attn.unembed_out.weight\" is missing");
    free(config);
}

/* Rows by recipe, as packing reads them. */
static void lookup_and_read(void **state)
{
    char *config;
    mr_model *m;
    mr_graph *g;
    mr_stored s;
    mr_rows rows;
    float buf[2 * 64];
    (void)state;
    start(llama_keys, NULL, NULL, &config);
    write_model(&t, config);
    assert_int_equal(open_folder(&m, &g), MR_OK);
    assert_int_equal(mr_model_lookup(m, "model.embed_tokens.weight", &s), MR_OK);
    assert_true(s.rows == 320 && s.k == 64 && s.fmt.dtype == MR_F32);
    assert_int_equal(mr_model_read(m, &s, 318, 2, buf, &rows), MR_OK);
    float *want = numbers(find_tensor(&t, "model.embed_tokens.weight"));
    assert_memory_equal(rows.data, want + 318 * 64, sizeof buf);
    free(want);
    assert_int_equal(mr_model_lookup(m, "model.norm.weight", &s), MR_OK);
    assert_true(s.rows == 1 && s.k == 64);
    assert_int_equal(mr_model_lookup(m, "model.norm", &s), MR_EFORMAT);
    assert_non_null(strstr(mr_error(), "tensor \"model.norm\" is missing"));
    mr_graph_free(g);
    /* built again: the same asks */
    int asked = mr_model_asked(m);
    assert_int_equal(mr_model_build(m, &g), MR_OK);
    assert_int_equal(mr_model_asked(m), asked);
    assert_int_equal(mr_model_check_unused(m), MR_OK);
    mr_graph_free(g);
    mr_model_close(m);
    assert_int_equal(open_with(&m, llama_keys, NULL, NULL), MR_OK);
    assert_int_equal(mr_model_lookup(m, "model.norm.weight", &s), MR_EFORMAT);
    mr_model_close(m);
    free(config);
}

static void paths(void **state)
{
    mr_model *m;
    char *config;
    (void)state;
    start(llama_keys, NULL, NULL, &config);
    write_model(&t, config);
    free(config);
    assert_int_equal(mr_model_open(&m, in_folder("model.safetensors"), NULL), MR_EUSAGE);
    assert_non_null(strstr(mr_error(), "directory"));
    assert_int_equal(mr_model_open(&m, in_folder("config.json"), NULL), MR_OK);
    assert_null(mr_model_weights(m));
    mr_model_close(m);
    assert_int_equal(mr_model_open(&m, in_folder("none"), NULL), MR_EIO);
    assert_int_equal(mr_model_open(&m, in_folder("none.gguf"), NULL), MR_EIO);
    assert_null(m);
    remove(in_folder("config.json"));
    assert_int_equal(mr_model_open(&m, folder, NULL), MR_EIO);
    assert_non_null(strstr(mr_error(), "config.json"));
    remove(in_folder("model.safetensors"));
    assert_int_not_equal(mr_model_open(&m, folder, NULL), MR_OK);
}

/* Opens, builds and checks while the n-th allocation or read fails; gives the allocations made. */
static uint64_t open_failing(uint64_t alloc, uint64_t read, mr_err *e)
{
    uint64_t before = mr_mem_allocations();
    mr_model *m;
    mr_graph *g;
    mr_mem_fail_after(alloc);
    mr_file_fail_after(read);
    *e = open_folder(&m, &g);
    mr_mem_fail_after(0);
    mr_file_fail_after(0);
    if (*e == MR_OK) {
        mr_graph_free(g);
        mr_model_close(m);
    }
    return mr_mem_allocations() - before;
}

/* Every allocation and every read fails once: an error, and nothing held after. */
static void failures(void **state)
{
    char *config;
    mr_err e;
    (void)state;
    start(llama_keys, "tie_word_embeddings", "true", &config);
    tensor *head = add_tensor(&t, "lm_head.weight", 2, (int64_t[]){320, 64});
    head->fill = find_tensor(&t, "model.embed_tokens.weight")->fill;
    write_model(&t, config);
    free(config);
    size_t held = mr_mem_held(MR_MEM_COUNT);
    uint64_t all = open_failing(0, 0, &e), refused = 0;
    assert_int_equal(e, MR_OK);
    for (uint64_t n = 1; n <= all; n++) {
        open_failing(n, 0, &e);
        assert_true(e == MR_OK || e == MR_ENOMEM); /* spare room may stay */
        refused += e == MR_ENOMEM;
        assert_int_equal(mr_mem_held(MR_MEM_COUNT), held);
    }
    assert_true(refused + 3 >= all);
    int reads = 0;
    do {
        open_failing(0, (uint64_t)++reads, &e);
        assert_true(e == MR_OK || e == MR_EIO);
        assert_int_equal(mr_mem_held(MR_MEM_COUNT), held);
    } while (e != MR_OK);
    assert_true(reads > 4); /* config, header, rows of embedding and head */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(roots),         cmocka_unit_test(missing_and_misshapen),
        cmocka_unit_test(left_over),     cmocka_unit_test(known_and_skipped),
        cmocka_unit_test(tied_heads),    cmocka_unit_test(experts),
        cmocka_unit_test(fused_experts), cmocka_unit_test(formats),
        cmocka_unit_test(latent_halves), cmocka_unit_test(lookup_and_read),
        cmocka_unit_test(paths),         cmocka_unit_test(failures)};
    return cmocka_run_group_tests(tests, folder_make, folder_remove);
}
