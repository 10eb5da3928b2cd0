/* MLX weights: stored values of a Python-made file, and every way config and file disagree.
 */
#include "weights/files.h"

/* One module "m": rows of `words` u32 and `groups` bf16 scales; then what the config says of it. */
typedef struct module {
    const char *weight, *scales, *biases; /* dtype and shape, NULL: absent */
    const char *quantization, *message;
    mr_err code;
} module;

static mr_err open_module(const module *m, mr_weights **w)
{
    mr_buf h = {0};
    mr_buf_puts(&h, "{");
    size_t at = st_entry(&h, "m.weight", m->weight, 0);
    at = st_entry(&h, "m.scales", m->scales, at);
    at = st_entry(&h, "m.biases", m->biases, at);
    mr_buf_puts(&h, "}");
    st_put("model.safetensors", h.data, at);
    mr_buf_free(&h);
    mr_json *doc = NULL;
    mr_jval q = {0};
    if (m->quantization) {
        assert_int_equal(
            mr_json_parse(&doc, "config.json", m->quantization, strlen(m->quantization)), MR_OK);
        q = mr_json_root(doc);
    }
    mr_err e = mr_weights_open(w, files_dir, q);
    mr_json_free(doc);
    return e;
}

#define MODE(bits, group, mode)                                                                    \
    "{\"bits\":" #bits ",\"group_size\":" #group ",\"mode\":\"" mode "\"}"
#define Q44 "{\"group_size\":64,\"bits\":4}"

static void disagree(void **state)
{
    static const module cases[] = {
        {"U32 2,16", "BF16 2,2", "BF16 2,2", NULL, "is quantised, but config.json has no",
         MR_EFORMAT},
        {"U32 2,16", "BF16 2,2", "BF16 2,2", "null", "is quantised, but", MR_EFORMAT},
        {"U32 2,16", "BF16 2,2", "BF16 2,2", "4", "is not an object", MR_EFORMAT},
        {"U32 2,16", "BF16 2,2", "BF16 2,2", "{\"group_size\":64}", "has no bits", MR_EFORMAT},
        {"U32 2,16", "BF16 2,2", "BF16 2,2", "{\"bits\":4}", "has no group_size", MR_EFORMAT},
        {"U32 2,16", "BF16 2,2", "BF16 2,2", "{\"bits\":\"4\",\"group_size\":64}", "bits",
         MR_EFORMAT},
        {"U32 2,16", "BF16 2,2", "BF16 2,2", "{\"bits\":4,\"group_size\":-64}", "group_size",
         MR_EFORMAT},
        {"U32 2,16", "BF16 2,2", "BF16 2,2", "{\"bits\":4,\"group_size\":64,\"mode\":4}",
         "is not a string", MR_EFORMAT},
        {"U32 2,16", "BF16 2,2", "BF16 2,2", "{\"bits\":4,\"group_size\":64,\"quick\":4}",
         "\"quick\": is neither a known setting", MR_EFORMAT},
        {"U32 2,16", "BF16 2,2", "BF16 2,2", "{\"bits\":7,\"group_size\":64}",
         "no affine format has 7 bits", MR_EFORMAT},
        {"U32 2,16", "BF16 2,2", "BF16 2,2", "{\"bits\":16,\"group_size\":64}",
         "no affine format has 16 bits", MR_EFORMAT},
        {"U32 2,12", "BF16 2,2", "BF16 2,2", "{\"bits\":3,\"group_size\":64}", NULL, MR_OK},
        {"U32 2,24", "BF16 2,2", "BF16 2,2", "{\"bits\":6,\"group_size\":64}", NULL, MR_OK},
        {"U32 2,16", "BF16 2,2", "BF16 2,2", "{\"bits\":5,\"group_size\":64}",
         "are not 5 bits in groups of 64", MR_EFORMAT},
        {"U32 2,16", "U8 2,4", NULL, MODE(4, 32, "mxfp4"), NULL, MR_OK},
        {"U32 2,16", "U8 2,8", NULL, MODE(4, 16, "nvfp4"), NULL, MR_OK},
        {"U32 2,16", "U8 2,2", NULL, MODE(8, 32, "mxfp8"), NULL, MR_OK},
        {"U32 2,16", "U8 2,4", NULL, MODE(4, 32, "nf4"),
         "\"m.weight\": quantization mode \"nf4\" is not supported", MR_EUNSUPPORTED},
        {"U32 2,16", "U8 2,4", NULL, MODE(4, 16, "mxfp4"),
         "mode mxfp4 has 4 bits in groups of 32, the config says 4 in 16", MR_EFORMAT},
        {"U32 2,16", "U8 2,4", NULL, MODE(8, 32, "mxfp4"), "the config says 8 in 32", MR_EFORMAT},
        {"U32 2,16", "U8 2,4", "U8 2,4", MODE(4, 32, "mxfp4"), "has .biases, which its mode",
         MR_EFORMAT},
        {"U32 2,16", "BF16 2,4", NULL, MODE(4, 32, "mxfp4"), "its .scales are not u8", MR_EFORMAT},
        {"U32 2,16", "U8 2,3", NULL, MODE(4, 32, "mxfp4"), "words and 3 scales", MR_EFORMAT},
        {"U32 2,16", "BF16 2,2", "BF16 2,2", Q44, NULL, MR_OK},
        {"U32 2,16", "BF16 2,8", "BF16 2,8", "{\"bits\":4,\"group_size\":16}",
         "group size 16 is not 32, 64 or 128", MR_EFORMAT},
        {"U32 2,16", "BF16 2,2", NULL, Q44, "has .scales but no .biases", MR_EFORMAT},
        {NULL, "BF16 2,2", "BF16 2,2", Q44, "\"m.scales\": has no .weight", MR_EFORMAT},
        {"BF16 2,128", "BF16 2,2", "BF16 2,2", Q44, "is not a u32 matrix", MR_EFORMAT},
        {"U32 16", "BF16 2", "BF16 2", Q44, "is not a u32 matrix", MR_EFORMAT},
        {"U32 2,16", "U8 2,2", "U8 2,2", Q44, "are not f32, f16 or bf16", MR_EFORMAT},
        {"U32 2,16", "BF16 2,2", "F16 2,2", Q44, "differ in dtype or shape", MR_EFORMAT},
        {"U32 2,16", "BF16 2,2", "BF16 2,3", Q44, "differ in dtype or shape", MR_EFORMAT},
        {"U32 2,16", "BF16 2,2", "BF16 1,2", Q44, "differ in dtype or shape", MR_EFORMAT},
        {"U32 2,16", "BF16 2,2", "BF16 4", Q44, "differ in dtype or shape", MR_EFORMAT},
        {"U32 2,16", "BF16 3,2", "BF16 3,2", Q44, "does not fit that of its .scales", MR_EFORMAT},
        {"U32 2,16", "BF16 4", "BF16 4", Q44, "does not fit that of its .scales", MR_EFORMAT},
        {"U32 2,16", "BF16 2,4", "BF16 2,4", Q44,
         "rows of 16 words and 4 scales are not 4 bits in groups of 64", MR_EFORMAT},
        {"U32 2,16", "BF16 2,2", "BF16 2,2", "{\"bits\":8,\"group_size\":64}",
         "are not 8 bits in groups of 64", MR_EFORMAT},
        {"U32 2,16", "BF16 2,2", "BF16 2,2", "{\"bits\":4,\"group_size\":64,\"m\":false}",
         "\"m\": is false, but the file holds \"m.scales\"", MR_EFORMAT},
        {"U32 2,16", "BF16 2,2", "BF16 2,2", "{\"bits\":4,\"group_size\":64,\"m\":{\"bits\":8}}",
         "has no group_size", MR_EFORMAT},
        {"U32 2,16", "BF16 2,2", "BF16 2,2",
         "{\"bits\":4,\"group_size\":64,\"m\":{\"bits\":4,\"group_size\":64,\"x\":1}}",
         "unknown setting", MR_EFORMAT},
        {"U32 2,16", "BF16 2,2", "BF16 2,2",
         "{\"bits\":4,\"group_size\":64,\"m\":{\"bits\":4,\"group_size\":64,\"mode\":\"nvfp4\"}}",
         "mode nvfp4 has 4 bits in groups of 16", MR_EFORMAT},
        {"U32 0,1152921504606846976", "BF16 0,1", "BF16 0,1", Q44, "words and 1 scales",
         MR_EFORMAT},
    };
    (void)state;
    size_t held = mr_mem_held(MR_MEM_COMPILE) + mr_mem_held(MR_MEM_OTHER);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        mr_weights *w;
        mr_err e = open_module(&cases[i], &w);
        assert_int_equal(e, cases[i].code);
        if (e == MR_OK) {
            mr_weights_close(w);
        } else {
            assert_null(w);
            assert_true(contains(mr_error(), cases[i].message));
        }
        assert_int_equal(mr_mem_held(MR_MEM_COMPILE) + mr_mem_held(MR_MEM_OTHER), held);
    }
    files_clear();
}

/* An override rules its module; without a mode it is affine under any default. */
static void overrides(void **state)
{
    static const module cases[] = {
        {"U32 2,16", "BF16 2,2", "BF16 2,2",
         "{\"bits\":8,\"group_size\":32,\"mode\":\"mxfp4\",\"m\":{\"bits\":4,\"group_size\":64}}",
         NULL, MR_OK},
        {"U32 2,16", "BF16 2,2", "BF16 2,2",
         "{\"zz\":false,\"m\":true,\"aa\":{},\"bits\":4,\"group_size\":64,\"mode\":\"affine\"}",
         NULL, MR_OK},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        mr_weights *w;
        assert_int_equal(open_module(&cases[i], &w), MR_OK);
        assert_int_equal(mr_weights_count(w), 1);
        const mr_winfo *t = mr_weights_find(w, "m.weight");
        assert_int_equal(t->dtype, MR_AFFINE);
        assert_int_equal(t->bits, 4);
        assert_int_equal(t->group, 64);
        assert_int_equal(t->scale_dtype, MR_BF16);
        assert_true(t->rank == 2 && t->dim[0] == 2 && t->dim[1] == 128);
        assert_int_equal(t->bytes, 2 * 64 + 2 * 2 * 2 * 2);
        mr_weights_close(w);
    }
    files_clear();
}

/* A mode's facts, and its override beside an affine default. */
static void modes(void **state)
{
    static const struct {
        module m;
        int bits, group;
        mr_dtype scales;
        size_t scale_bytes;
    } cases[] = {
        {{"U32 2,16", "U8 2,4", NULL, MODE(4, 32, "mxfp4"), NULL, MR_OK}, 4, 32, MR_F8_E8M0, 8},
        {{"U32 2,16", "U8 2,8", NULL, MODE(4, 16, "nvfp4"), NULL, MR_OK}, 4, 16, MR_F8_E4M3, 16},
        {{"U32 2,32", "U8 2,4", NULL,
          "{\"bits\":4,\"group_size\":64,\"m\":" MODE(8, 32, "mxfp8") "}", NULL, MR_OK},
         8,
         32,
         MR_F8_E8M0,
         8},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        mr_weights *w;
        mr_rows r;
        uint8_t buffer[300];
        assert_int_equal(open_module(&cases[i].m, &w), MR_OK);
        const mr_winfo *t = mr_weights_find(w, "m.weight");
        assert_true(t->dtype == MR_FP && t->bits == cases[i].bits && t->group == cases[i].group);
        assert_int_equal(t->scale_dtype, cases[i].scales);
        assert_int_equal(t->dim[1], 128);
        size_t data = (size_t)(256 * t->bits / 8);
        assert_int_equal(mr_weights_rows_bytes(t, 2), data + cases[i].scale_bytes);
        /* bytes 0, 1, 2 ...: the second row's data and scales */
        mr_err e = mr_weights_read(w, t, 1, 1, buffer, &r);
        if (t->bits == 8) {
            assert_int_equal(e, MR_EFORMAT); /* 0xff */
            assert_true(contains(mr_error(), "\"m.weight\" holds NaN"));
        } else {
            assert_int_equal(e, MR_OK);
            assert_int_equal(*(const uint8_t *)r.data, data / 2);
            assert_int_equal(*(const uint8_t *)r.scales, data + cases[i].scale_bytes / 2);
            assert_null(r.biases);
        }
        mr_weights_close(w);
    }
    files_clear();
}

/* Tensors that only look like parts are left alone when nothing is quantised. */
static void plain_names(void **state)
{
    (void)state;
    st_put("model.safetensors",
           "{\"m.scales\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},"
           "\".scales\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]},"
           "\"n.weight\":{\"dtype\":\"BF16\",\"shape\":[1],\"data_offsets\":[8,10]},"
           "\"n.scales\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[10,12]}}",
           12);
    mr_weights *w = open_ok(files_dir, (mr_jval){0});
    assert_int_equal(mr_weights_count(w), 4);
    mr_weights_close(w);
    files_clear();
}

static void values(void **state)
{
    (void)state;
    mr_json *doc;
    char *text;
    mr_jval q = read_quantization("tests/weights/data/mlx/config.json", &doc, &text);
    mr_weights *w = open_ok("tests/weights/data/mlx", q);
    assert_int_equal(mr_weights_count(w), 7);
    const mr_winfo *e = mr_weights_find(w, "experts.weight");
    assert_true(e->rank == 3 && e->dim[0] == 2 && e->dim[1] == 3 && e->dim[2] == 64);
    assert_int_equal(mr_weights_find(w, "b.deep.weight")->scale_dtype, MR_F16);
    assert_int_equal(mr_weights_find(w, "c.weight")->bits, 8);
    check_values(w, "tests/weights/data/mlx/expected.f32");

    /* Several rows at once: parts follow each other in the buffer. */
    const mr_winfo *a = mr_weights_find(w, "a.weight");
    void *buffer = mr_alloc(MR_MEM_OTHER, mr_weights_rows_bytes(a, 3));
    float one[128], many[128];
    mr_rows three, last;
    assert_int_equal(mr_weights_read(w, a, 0, 3, buffer, &three), MR_OK);
    mr_dequant_row(&three, 2, many);
    assert_int_equal(mr_weights_read(w, a, 2, 1, buffer, &last), MR_OK);
    mr_dequant_row(&last, 0, one);
    assert_memory_equal(one, many, sizeof one);
    /* Each of the three parts' reads can fail. */
    for (uint64_t i = 1; i <= 3; i++) {
        mr_file_fail_after(i);
        assert_int_equal(mr_weights_read(w, a, 0, 3, buffer, &three), MR_EIO);
        mr_file_fail_after(0);
    }
    mr_free(buffer);
    mr_weights_close(w);
    check_no_memory("tests/weights/data/mlx", q, 2);
    check_no_reads("tests/weights/data/mlx", q);
    mr_json_free(doc);
    mr_free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(disagree),    cmocka_unit_test(overrides), cmocka_unit_test(modes),
        cmocka_unit_test(plain_names), cmocka_unit_test(values),
    };
    return cmocka_run_group_tests(tests, files_setup, files_teardown);
}
