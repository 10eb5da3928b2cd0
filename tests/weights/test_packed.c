/* FP8 blocks and compressed-tensors: values, and every way config and file disagree. */
#include "weights/files.h"

/* Tensors "m.SUFFIX", and what the config says of them. */
typedef struct packed {
    const char *a, *b, *c; /* dtype and shape, NULL: absent */
    const char *quantization, *message;
    mr_err code;
} packed;

static mr_err open_packed(const packed *p, const char *const suffix[3], mr_weights **w)
{
    mr_buf h = {0};
    size_t at = 0;
    mr_buf_puts(&h, "{");
    at = st_entry(&h, suffix[0], p->a, at);
    at = st_entry(&h, suffix[1], p->b, at);
    at = st_entry(&h, suffix[2], p->c, at);
    mr_buf_puts(&h, "}");
    st_put("model.safetensors", h.data, at);
    mr_buf_free(&h);
    mr_json *doc;
    assert_int_equal(mr_json_parse(&doc, "config.json", p->quantization, strlen(p->quantization)),
                     MR_OK);
    mr_err e = mr_weights_open(w, files_dir, mr_json_root(doc));
    mr_json_free(doc);
    return e;
}

static void check_cases(const packed *cases, size_t n, const char *const suffix[3])
{
    size_t held = mr_mem_held(MR_MEM_COMPILE) + mr_mem_held(MR_MEM_OTHER);
    for (size_t i = 0; i < n; i++) {
        mr_weights *w;
        mr_err e = open_packed(&cases[i], suffix, &w);
        if (e != MR_OK && cases[i].code != MR_OK)
            assert_true(contains(mr_error(), cases[i].message));
        else if (e != cases[i].code)
            print_error("case %zu: %s\n", i, e ? mr_error() : "opened");
        assert_int_equal(e, cases[i].code);
        mr_weights_close(w);
        assert_int_equal(mr_mem_held(MR_MEM_COMPILE) + mr_mem_held(MR_MEM_OTHER), held);
    }
    files_clear();
}

/* ---- fp8 ---- */

#define FP8(rest) "{\"quant_method\":\"fp8\",\"fmt\":\"e4m3\"" rest "}"
#define BLOCK ",\"weight_block_size\":[128,128]"

static const char *const fp8_names[] = {"m.weight", "m.weight_scale_inv", "norm.weight"};

static void fp8_refused(void **state)
{
    static const packed cases[] = {
        {"F8_E4M3 2,3", "F32 1,1", "F32 4", FP8(BLOCK), NULL, MR_OK},
        {"F8_E4M3 2,129,3", "F32 2,2,1", NULL, FP8(BLOCK ",\"activation_scheme\":\"dynamic\""),
         NULL, MR_OK},
        {"F8_E4M3 2,3", NULL, NULL, FP8(BLOCK), NULL, MR_OK},   /* unused or refused by the model */
        {"F8_E4M3 2,3", "F32 1,1", NULL, FP8(""), NULL, MR_OK}, /* one for all */
        {"F8_E4M3 2,3", "F32", NULL, FP8(",\"weight_block_size\":null"), NULL, MR_OK},
        {"F8_E4M3 2,3", "F32 2,1", NULL, FP8(""), NULL, MR_OK}, /* one per row */
        {"F8_E4M3 2,3", "F32 3", NULL, FP8(""), "neither one per matrix nor one per row",
         MR_EFORMAT},
        {"F8_E4M3 2,2,3", "F32 1", NULL, FP8(""), "neither one per matrix", MR_EFORMAT},
        {"F8_E4M3 0,3", "F32", NULL, FP8(""), "has scales but no numbers", MR_EFORMAT},
        {"F8_E4M3 2,3", "F32 1,1", NULL, FP8(",\"weight_block_size\":[128]"),
         "two numbers are needed", MR_EFORMAT},
        {"F8_E4M3 2,3", "F32 1,1", NULL, FP8(",\"weight_block_size\":[0,64]"), "[0]", MR_EFORMAT},
        {"F8_E4M3 2,66", "F32 1,2", NULL, FP8(",\"weight_block_size\":[128,64]"), NULL, MR_OK},
        {"F8_E4M3 2,66", "F32 1,1", NULL, FP8(",\"weight_block_size\":[128,64]"),
         "one per block of the config", MR_EFORMAT},
        {"F8_E4M3 2,3", "F32 1,1", NULL, FP8(BLOCK ",\"expert_dtype\":\"fp4\""),
         "expert_dtype\": only fp8", MR_EUNSUPPORTED},
        {"F8_E4M3 2,3", "F32 1,1", NULL, FP8(",\"weight_block_size\":[128,\"x\"]"), "[1]",
         MR_EFORMAT},
        {"F8_E4M3 2,3", "F32 1,1", NULL,
         "{\"quant_method\":\"fp8\",\"fmt\":\"e5m2\",\"weight_block_size\":[128,128]}",
         "only e4m3 is supported", MR_EFORMAT},
        {"F8_E4M3 2,3", "F32 1,1", NULL, FP8(BLOCK ",\"activation_scheme\":\"static\""), NULL,
         MR_OK},
        {"F8_E4M3 2,3", "F32 1,1", NULL, FP8(BLOCK ",\"activation_scheme\":\"loose\""),
         "neither dynamic nor static", MR_EFORMAT},
        {NULL, "F32 1,1", NULL, FP8(BLOCK), "\"m.weight_scale_inv\": has no matrix", MR_EFORMAT},
        {"BF16 2,3", "F32 1,1", NULL, FP8(BLOCK), "is not an f8_e4m3 matrix", MR_EFORMAT},
        {"F8_E4M3 3", "F32 1", NULL, FP8(BLOCK), "is not an f8_e4m3 matrix", MR_EFORMAT},
        {"F8_E4M3 2,3", "BF16 1,1", NULL, FP8(BLOCK), NULL, MR_OK},
        {"F8_E4M3 2,3", "U8 1,1", NULL, FP8(BLOCK), "scale_inv\": is not f32", MR_EFORMAT},
        {"F8_E4M3 2,129", "F32 1,1", NULL, FP8(BLOCK), "one per block of the config", MR_EFORMAT},
        {"F8_E4M3 129,2", "F32 1,1", NULL, FP8(BLOCK), "one per block of the config", MR_EFORMAT},
        {"F8_E4M3 2,2", "F32 1", NULL, FP8(BLOCK), "one per block of the config", MR_EFORMAT},
        {"F8_E4M3 3,2,2", "F32 2,1,1", NULL, FP8(BLOCK), "one per block of the config", MR_EFORMAT},
    };
    (void)state;
    check_cases(cases, sizeof cases / sizeof *cases, fp8_names);
}

/* The scale of block i of all, exact in 16 bits. */
static float fp8_scale(int i)
{
    return 0.375f * (float)(i + 1);
}

/* Two matrices of 130 x 140: four blocks each, those at the edges cut short; every row by itself and
 * all rows from 100 on at once. */
static void fp8_values_of(const char *name, const char *dtype, const void *stored, size_t size)
{
    enum { E = 2, N = 130, K = 140, ROWS = E * N, FROM = 100 };
    char header[300];
    static const packed p = {.quantization = FP8(BLOCK)};
    uint8_t *codes = mr_alloc(MR_MEM_OTHER, ROWS * K);
    mr_buf b = {0};
    for (int i = 0; i < ROWS * K; i++)
        codes[i] = (uint8_t)(i * 31 % 126 | (i & 1) << 7);
    snprintf(header, sizeof header,
             "{\"%s\":{\"dtype\":\"F8_E4M3\",\"shape\":[2,130,140],\"data_offsets\":[0,36400]},"
             "\"%s_scale_inv\":{\"dtype\":\"%s\",\"shape\":[2,2,2],\"data_offsets\":[36400,%zu]}}",
             name, name, dtype, 36400 + size);
    st_build(&b, header, 0);
    mr_buf_add(&b, codes, ROWS * K);
    mr_buf_add(&b, stored, size);
    files_put("model.safetensors", b.data, b.len);
    mr_buf_free(&b);
    mr_json *doc;
    assert_int_equal(mr_json_parse(&doc, "c", p.quantization, strlen(p.quantization)), MR_OK);
    mr_weights *w = open_ok(files_dir, mr_json_root(doc));
    const mr_winfo *t = mr_weights_find(w, name);
    assert_true(t->dtype == MR_FP && t->bits == 8 && t->group == 128 && t->block_rows == 128);
    assert_int_equal(mr_weights_count(w), 1);
    assert_int_equal(mr_weights_rows_bytes(t, 3), 3 * (K + 8));
    void *one = mr_alloc(MR_MEM_OTHER, mr_weights_rows_bytes(t, 1)),
         *many = mr_alloc(MR_MEM_OTHER, mr_weights_rows_bytes(t, ROWS - FROM));
    mr_rows single, rest;
    assert_int_equal(mr_weights_read(w, t, FROM, ROWS - FROM, many, &rest), MR_OK);
    for (int r = 0; r < ROWS; r++) {
        float got[K], again[K];
        assert_int_equal(mr_weights_read(w, t, r, 1, one, &single), MR_OK);
        mr_dequant_row(&single, 0, got);
        for (int k = 0; k < K; k++) {
            volatile float want =
                mr_e4m3_to_f32(codes[r * K + k]) * fp8_scale(r / N * 4 + r % N / 128 * 2 + k / 128);
            assert_true(got[k] == want);
        }
        if (r >= FROM) {
            mr_dequant_row(&rest, r - FROM, again);
            assert_memory_equal(got, again, sizeof got);
        }
    }
    check_no_memory(files_dir, mr_json_root(doc), 1);
    check_no_reads(files_dir, mr_json_root(doc));
    mr_free(one);
    mr_free(many);
    mr_free(codes);
    mr_weights_close(w);
    mr_json_free(doc);
    files_clear();
}

static void fp8_values(void **state)
{
    float f32[8];
    uint16_t f16[8], bf16[8];
    (void)state;
    for (int i = 0; i < 8; i++) {
        f32[i] = fp8_scale(i);
        f16[i] = mr_f32_to_f16(f32[i]);
        bf16[i] = mr_f32_to_bf16(f32[i]);
    }
    fp8_values_of("m.weight", "F32", f32, sizeof f32);
    fp8_values_of("m.weight", "BF16", bf16, sizeof bf16);
    fp8_values_of("experts.gate_up_proj", "F16", f16, sizeof f16); /* experts fused, no .weight */
}

/* ---- compressed-tensors ---- */

#define WEIGHTS(rest)                                                                              \
    "{\"quant_method\":\"compressed-tensors\",\"format\":\"pack-quantized\",\"config_groups\":"    \
    "{\"group_0\":{\"input_activations\":null,\"targets\":[\"Linear\"],\"weights\":{" rest         \
    "}}},\"ignore\":[\"lm_head\"]}"
#define INT4                                                                                       \
    "\"num_bits\":4,\"group_size\":32,\"type\":\"int\",\"strategy\":\"group\",\"symmetric\":true," \
    "\"actorder\":null"

static const char *const packed_names[] = {"m.weight_packed", "m.weight_scale", "m.weight_shape"};

static void packed_refused(void **state)
{
    static const packed cases[] = {
        {"I32 2,8", "BF16 2,2", NULL, WEIGHTS(INT4), "has no .weight_shape", MR_EFORMAT},
        {"I32 2,8", NULL, "I32 2", WEIGHTS(INT4), "has no .weight_scale", MR_EFORMAT},
        {NULL, "BF16 2,2", "I32 2", WEIGHTS(INT4), NULL, MR_OK},
        {"U32 2,8", "BF16 2,2", "I32 2", WEIGHTS(INT4), "is not an i32 matrix", MR_EFORMAT},
        {"I32 16", "BF16 2,2", "I32 2", WEIGHTS(INT4), "is not an i32 matrix", MR_EFORMAT},
        {"I32 2,8", "U8 2,2", "I32 2", WEIGHTS(INT4), "is not a matrix of f32", MR_EFORMAT},
        {"I32 2,8", "BF16 1,2,2", "I32 2", WEIGHTS(INT4), "is not a matrix of f32", MR_EFORMAT},
        {"I32 2,8", "BF16 4", "I32 2", WEIGHTS(INT4), "fit no group of the config", MR_EFORMAT},
        {"I32 2,8", "BF16 2,2", "I32 3", WEIGHTS(INT4), "is not two integers", MR_EFORMAT},
        {"I32 2,8", "BF16 2,2", "F32 2", WEIGHTS(INT4), "is not two integers", MR_EFORMAT},
        /* the shape's bytes are 72, 73 ... */
        {"I32 2,8", "BF16 2,2", "I32 2", WEIGHTS(INT4), "fit no group of the config", MR_EFORMAT},
        {"I32 2,8", "BF16 2,2", "I64 2", WEIGHTS(INT4), "fit no group of the config", MR_EFORMAT},
        {NULL, NULL, NULL, "{\"quant_method\":\"compressed-tensors\"}", "has no format",
         MR_EFORMAT},
        {NULL, NULL, NULL,
         "{\"quant_method\":\"compressed-tensors\",\"format\":\"nvfp4-pack-quantized\"}",
         "\"nvfp4-pack-quantized\" is not supported", MR_EUNSUPPORTED},
        {NULL, NULL, NULL,
         "{\"quant_method\":\"compressed-tensors\",\"format\":\"pack-quantized\","
         "\"config_groups\":{},\"sparsity_config\":{\"format\":\"sparse-24-bitmask\"}}",
         "sparsity_config\": is not supported", MR_EUNSUPPORTED},
        {NULL, NULL, NULL,
         "{\"quant_method\":\"compressed-tensors\",\"format\":\"pack-quantized\"}",
         "has no object \"config_groups\"", MR_EFORMAT},
        {NULL, NULL, NULL,
         "{\"quant_method\":\"compressed-tensors\",\"format\":\"pack-quantized\","
         "\"config_groups\":{\"a\":{}}}",
         "has no object \"weights\"", MR_EFORMAT},
        {NULL, NULL, NULL,
         "{\"quant_method\":\"compressed-tensors\",\"format\":\"pack-quantized\","
         "\"config_groups\":{},\"kv_cache_scheme\":{\"num_bits\":8}}",
         "kv_cache_scheme\": is not supported", MR_EUNSUPPORTED},
        {NULL, NULL, NULL, WEIGHTS("\"type\":\"odd\""), "\"odd\" is not supported",
         MR_EUNSUPPORTED},
        {NULL, NULL, NULL, WEIGHTS("\"type\":\"int\""), "has no strategy", MR_EFORMAT},
        {NULL, NULL, NULL, WEIGHTS("\"type\":\"float\",\"strategy\":\"tensor\",\"num_bits\":4"),
         "floats of 4 bits are not supported", MR_EUNSUPPORTED},
        {NULL, NULL, NULL, WEIGHTS("\"type\":\"float\",\"strategy\":\"block\",\"num_bits\":8"),
         "has no block_structure", MR_EFORMAT},
        {NULL, NULL, NULL, WEIGHTS("\"type\":\"int\",\"strategy\":\"tensor_group\""),
         "\"tensor_group\" is not supported", MR_EUNSUPPORTED},
        {NULL, NULL, NULL, WEIGHTS("\"type\":\"int\",\"strategy\":\"group\",\"num_bits\":4"),
         "has no group_size", MR_EFORMAT},
        {NULL, NULL, NULL, WEIGHTS("\"type\":\"int\",\"strategy\":\"group\",\"group_size\":32"),
         "has no num_bits", MR_EFORMAT},
        {NULL, NULL, NULL,
         WEIGHTS("\"type\":\"int\",\"strategy\":\"group\",\"num_bits\":1,\"group_size\":32"),
         "1 bits in groups of 32 are not supported", MR_EUNSUPPORTED},
        {"I32 2,8", "BF16 2,2", "I32 2",
         WEIGHTS("\"type\":\"int\",\"strategy\":\"group\",\"num_bits\":4,\"group_size\":32,"
                 "\"symmetric\":false"),
         "fit no group of the config", MR_EFORMAT}, /* and no zero points */
        {NULL, NULL, NULL,
         WEIGHTS("\"type\":\"int\",\"strategy\":\"group\",\"actorder\":\"group\""),
         "actorder\": is not supported", MR_EUNSUPPORTED},
    };
    (void)state;
    check_cases(cases, sizeof cases / sizeof *cases, packed_names);
}

/* Codes 0..15 as words, two groups a row, beside a tensor that sorts between the names. */
static void packed_values(void **state)
{
    enum { N = 3, K = 64 };
    static const char header[] =
        "{\"m.weight_packed\":{\"dtype\":\"I32\",\"shape\":[3,8],\"data_offsets\":[0,96]},"
        "\"m.weight_scale\":{\"dtype\":\"BF16\",\"shape\":[3,2],\"data_offsets\":[96,108]},"
        "\"m.weight_shape\":{\"dtype\":\"I32\",\"shape\":[2],\"data_offsets\":[108,116]},"
        "\"m.weight_a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[116,120]}}";
    static const char config[] = WEIGHTS(INT4);
    uint8_t codes[N * K / 2], buffer[N * K];
    uint16_t scales[N * 2];
    float got[K];
    mr_buf b = {0};
    (void)state;
    for (int i = 0; i < N * K / 2; i++)
        codes[i] = (uint8_t)(i * 37);
    for (int i = 0; i < N * 2; i++)
        scales[i] = mr_f32_to_bf16(0.3f * (float)(i - 2));
    st_build(&b, header, 0);
    mr_buf_add(&b, codes, sizeof codes);
    mr_buf_add(&b, scales, sizeof scales);
    put_int(&b, N, 4);
    put_int(&b, K, 4);
    put_int(&b, 0, 4);
    files_put("model.safetensors", b.data, b.len);
    mr_buf_free(&b);
    mr_json *doc;
    assert_int_equal(mr_json_parse(&doc, "c", config, strlen(config)), MR_OK);
    mr_weights *w = open_ok(files_dir, mr_json_root(doc));
    const mr_winfo *t = mr_weights_find(w, "m.weight");
    assert_non_null(t);
    assert_true(t->dtype == MR_INT && t->bits == 4 && t->group == 32);
    assert_true(t->rank == 2 && t->dim[0] == N && t->dim[1] == K);
    assert_int_equal(mr_weights_count(w), 2);
    assert_string_equal(mr_weights_at(w, 0)->name, "m.weight");
    mr_rows r;
    assert_int_equal(mr_weights_read(w, t, 1, 2, buffer, &r), MR_OK);
    for (int row = 0; row < 2; row++) {
        mr_dequant_row(&r, row, got);
        for (int k = 0; k < K; k++) {
            int at = (row + 1) * K + k, q = codes[at / 2] >> at % 2 * 4 & 15;
            assert_true(got[k] == mr_bf16_to_f32(scales[at / 32]) * (float)(q - 8));
        }
    }
    check_no_memory(files_dir, mr_json_root(doc), 2);
    check_no_reads(files_dir, mr_json_root(doc));
    mr_weights_close(w);
    mr_json_free(doc);
    files_clear();
}

/* ---- what their own packages make of them ---- */

/* tools/packed_weights.py: X.weight is to be what want.X says, read by rows of all and one by one. */
static void check_tensor(const mr_weights *w, const mr_winfo *t, const mr_winfo *want)
{
    int64_t n = mr_weights_rows(want), k = want->dim[want->rank - 1];
    assert_true(t->rank == want->rank && !memcmp(t->dim, want->dim, sizeof t->dim));
    float *right = mr_alloc(MR_MEM_OTHER, (size_t)(n * k) * 4),
          *got = mr_alloc(MR_MEM_OTHER, (size_t)k * 4);
    void *buffer = mr_alloc(MR_MEM_OTHER, mr_weights_rows_bytes(t, n));
    mr_rows rows;
    assert_int_equal(mr_weights_read(w, want, 0, n, right, &rows), MR_OK);
    for (int64_t step = 1; step <= n; step += n > 1 ? n - 1 : 1)
        for (int64_t r = 0; r + step <= n; r += step) {
            assert_int_equal(mr_weights_read(w, t, r, step, buffer, &rows), MR_OK);
            for (int64_t j = 0; j < step; j++) {
                mr_dequant_row(&rows, j, got);
                assert_memory_equal(got, right + (r + j) * k, (size_t)k * 4);
            }
        }
    mr_free(right);
    mr_free(got);
    mr_free(buffer);
}

/* Tensors beside X.weight and want.X: `others`. */
static void check_folder(const char *name, int others)
{
    char dir[128], config[160];
    char *text = NULL;
    size_t len;
    mr_json *doc = NULL;
    int checked = 0;
    snprintf(dir, sizeof dir, "tests/weights/data/packed/%s", name);
    snprintf(config, sizeof config, "%s/config.json", dir);
    if (mr_file_exists(config)) {
        assert_int_equal(mr_file_read_all(config, 1 << 20, MR_MEM_OTHER, &text, &len), MR_OK);
        assert_int_equal(mr_json_parse(&doc, config, text, len), MR_OK);
    }
    mr_jval q = doc ? mr_json_root(doc) : (mr_jval){0};
    mr_weights *w = open_ok(dir, q);
    for (int i = 0; i < mr_weights_count(w); i++) {
        char other[64];
        const mr_winfo *want = mr_weights_at(w, i), *t;
        if (strncmp(want->name, "want.", 5) != 0)
            continue;
        snprintf(other, sizeof other, "%s.weight", want->name + 5);
        assert_non_null(t = mr_weights_find(w, other));
        check_tensor(w, t, want);
        checked++;
    }
    assert_int_equal(mr_weights_count(w), 2 * checked + others);
    assert_true(checked > 0);
    mr_weights_close(w);
    check_no_memory(dir, q, 1);
    check_no_reads(dir, q);
    mr_json_free(doc);
    mr_free(text);
}

static void packages(void **state)
{
    static const char *const folders[] = {"ints",
                                          "bytes",
                                          "mixed",
                                          "floats-tensor",
                                          "floats-channel",
                                          "floats-block",
                                          "floats-small-block",
                                          "fp8-tensor",
                                          "fp8-row",
                                          "fp8-16x64",
                                          "fp8-32x128",
                                          "fp8-1x256",
                                          "mlx-nvfp4",
                                          "gguf-nvfp4"};
    (void)state;
    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++)
        check_folder(folders[i], 0);
    check_folder("gguf-nvfp4-gains", 1); /* of experts, for the router */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fp8_refused),    cmocka_unit_test(fp8_values),
        cmocka_unit_test(packed_refused), cmocka_unit_test(packed_values),
        cmocka_unit_test(packages),
    };
    return cmocka_run_group_tests(tests, files_setup, files_teardown);
}
