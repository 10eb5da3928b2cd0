/* Sharded models: the index and the files must say the same; and what a folder may hold. */
#include <sys/stat.h>

#include "weights/files.h"

#define T(name, begin, end)                                                                        \
    "\"" name "\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[" #begin "," #end "]}"

static const char index_file[] = "model.safetensors.index.json";

static void put_two_shards(void)
{
    st_put("s-1.safetensors", "{" T("a", 0, 2) "," T("c", 2, 4) "}", 4);
    st_put("s-2.safetensors", "{" T("b", 0, 2) "}", 2);
}

static void put_map(const char *map)
{
    char text[1024];
    snprintf(text, sizeof text, "{\"metadata\":{\"total_size\":6},\"weight_map\":{%s}}", map);
    files_text(index_file, text);
}

static const char good_map[] =
    "\"b\":\"s-2.safetensors\",\"c\":\"s-1.safetensors\",\"a\":\"s-1.safetensors\"";

static void check_open(void)
{
    mr_weights *w = open_ok(files_dir, (mr_jval){0});
    assert_int_equal(mr_weights_count(w), 3);
    assert_int_equal(mr_weights_files(w), 2);
    const mr_winfo *b = mr_weights_find(w, "b");
    assert_non_null(b);
    assert_true(contains(mr_weights_file(w, b->data.file), "s-2"));
    uint8_t v[2];
    mr_rows r;
    assert_int_equal(mr_weights_read(w, mr_weights_find(w, "c"), 0, 1, v, &r), MR_OK);
    assert_true(v[0] == 2 && v[1] == 3);
    mr_weights_close(w);
}

static void good(void **state)
{
    (void)state;
    put_two_shards();
    put_map(good_map);
    check_open();
    /* What else lies in the folder does not matter. */
    files_text("other.safetensors", "not one");
    files_text("tokenizer.json", "[]");
    check_open();
    files_clear();
}

static void symlinks(void **state)
{
    (void)state;
    st_put("blob1", "{" T("a", 0, 2) "," T("c", 2, 4) "}", 4);
    st_put("blob2", "{" T("b", 0, 2) "}", 2);
    assert_int_equal(symlink("blob1", files_at("s-1.safetensors")), 0);
    assert_int_equal(symlink(files_at("blob2"), files_at("s-2.safetensors")), 0);
    put_map(good_map);
    check_open();
    remove(files_at("blob2"));
    refuse_dir(MR_EFORMAT, "shard \"s-2.safetensors\" is missing");
    files_clear();
}

static void bad_maps(void **state)
{
    static const struct {
        const char *map, *message;
    } cases[] = {
        {"", "\"weight_map\" is empty"},
        {"\"a\":1", "weight_map"},
        {"\"\":\"s-1.safetensors\"", "tensor name in weight_map is empty"},
        {"\"a\":\"\"", "shard name is empty"},
        {"\"a\":\"/etc/passwd\"", "\"/etc/passwd\" is not a plain file name"},
        {"\"a\":\"x/../s-1.safetensors\"", "is not a plain file name"},
        {"\"a\":\"..\"", "is not a plain file name"},
        {"\"a\":\".\"", "is not a plain file name"},
        {"\"a\":\"a..b\"", "is not a plain file name"},
        {"\"a\":\"s-1\\u0000.safetensors\"", "control character 0x00"},
        {"\"a\":\"s-3.safetensors\"", "shard \"s-3.safetensors\" is missing"},
        {"\"a\":\"s-1.safetensors\",\"b\":\"s-2.safetensors\"",
         "\"c\" is not in model.safetensors.index"},
        {"\"a\":\"s-1.safetensors\",\"c\":\"s-1.safetensors\",\"b\":\"s-2.safetensors\","
         "\"bb\":\"s-2.safetensors\"",
         "tensor \"bb\" is not in s-2.safetensors"},
        {"\"a\":\"s-1.safetensors\",\"c\":\"s-1.safetensors\",\"b\":\"s-2.safetensors\","
         "\"d\":\"s-2.safetensors\"",
         "tensor \"d\" is not in s-2.safetensors"},
        {"\"a\":\"s-2.safetensors\",\"c\":\"s-1.safetensors\",\"b\":\"s-2.safetensors\"",
         "tensor \"a\" is in s-1.safetensors, not in s-2.safetensors"},
        {"\"a\":\"s-1.safetensors\",\"\\u0061\":\"s-1.safetensors\"", "a"},
    };
    (void)state;
    put_two_shards();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        put_map(cases[i].map);
        refuse_dir(MR_EFORMAT, cases[i].message);
        assert_true(contains(mr_error(), "model.safetensors.index"));
    }
    files_clear();
}

static void bad_indexes(void **state)
{
    (void)state;
    put_two_shards();
    files_text(index_file, "");
    refuse_dir(MR_EFORMAT, index_file);
    files_text(index_file, "[]");
    refuse_dir(MR_EFORMAT, "has no object \"weight_map\"");
    files_text(index_file, "{\"weight_map\":[]}");
    refuse_dir(MR_EFORMAT, "has no object \"weight_map\"");
    files_text(index_file, "{}");
    refuse_dir(MR_EFORMAT, "has no object \"weight_map\"");
    files_clear();
}

static void bad_shards(void **state)
{
    (void)state;
    /* The same tensor twice, wherever the index says it is. */
    st_put("s-1.safetensors", "{" T("a", 0, 2) "}", 2);
    st_put("s-2.safetensors", "{" T("a", 0, 2) "," T("b", 2, 4) "}", 4);
    put_map("\"a\":\"s-1.safetensors\",\"b\":\"s-2.safetensors\"");
    refuse_dir(MR_EFORMAT, "tensor \"a\" appears twice");
    /* A fault inside a shard names the shard. */
    st_put("s-2.safetensors", "{" T("b", 0, 2) "}", 3);
    refuse_dir(MR_EFORMAT, "s-2.safetensors: 3 bytes of data");
    remove(files_at("s-2.safetensors"));
    assert_int_equal(mkdir(files_at("s-2.safetensors"), 0700), 0);
    refuse_dir(MR_EFORMAT, "is missing");
    files_clear();
}

/* A single file may carry an index, but the two must agree. */
static void single_with_index(void **state)
{
    (void)state;
    st_put("model.safetensors", "{" T("a", 0, 2) "}", 2);
    put_map("\"a\":\"model.safetensors\"");
    mr_weights_close(open_ok(files_dir, (mr_jval){0}));
    put_two_shards();
    put_map(good_map);
    refuse_dir(MR_EFORMAT, "does not name model.safetensors");
    files_clear();
}

static void paths(void **state)
{
    (void)state;
    mr_weights_close(NULL);
    refuse_path(files_at("none"), (mr_jval){0}, MR_EIO, "no such file");
    refuse_dir(MR_EFORMAT, "holds no model.safetensors");
    files_text("a.safetensors", "x");
    refuse_path(files_at("a.safetensors"), (mr_jval){0}, MR_EFORMAT, "neither a directory nor");
    mr_buf b = {0};
    g_head(&b, 3, 0, 0);
    files_put("m.gguf", b.data, b.len);
    files_put("._m.gguf", "x", 1);
    mr_weights_close(open_ok(files_dir, (mr_jval){0}));
    mr_weights_close(open_ok(files_at("m.gguf"), (mr_jval){0}));
    files_put("n.gguf", b.data, b.len);
    refuse_dir(MR_EFORMAT, "holds 2 .gguf models");
    mr_buf_free(&b);
    files_clear();
}

static void faults(void **state)
{
    (void)state;
    put_two_shards();
    put_map(good_map);
    check_no_memory(files_dir, (mr_jval){0}, 3);
    check_no_reads(files_dir, (mr_jval){0});
    files_clear();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(good),       cmocka_unit_test(symlinks),
        cmocka_unit_test(bad_maps),   cmocka_unit_test(bad_indexes),
        cmocka_unit_test(bad_shards), cmocka_unit_test(single_with_index),
        cmocka_unit_test(paths),      cmocka_unit_test(faults),
    };
    return cmocka_run_group_tests(tests, files_setup, files_teardown);
}
