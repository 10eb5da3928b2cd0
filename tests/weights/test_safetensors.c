/* Single safetensors files: each way a header can be wrong, truncation at every byte. */
#include "weights/files.h"

#define ONE "\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}"
#define META "\"__metadata__\":{\"format\":\"pt\"}"

static const char file[] = "model.safetensors";

static void bad_headers(void **state)
{
    static const struct {
        const char *header;
        size_t data;
        mr_err code;
        const char *message;
    } cases[] = {
        {"[]      ", 0, MR_EFORMAT, "does not begin with '{'"},
        {" {}     ", 0, MR_EFORMAT, "does not begin with '{'"},
        {"{", 0, MR_EFORMAT, "too short"},
        {"{\"a\":", 0, MR_EFORMAT, "model.safetensors"},
        {"{} x", 0, MR_EFORMAT, "model.safetensors"},
        {"{\"a\":1}", 0, MR_EFORMAT, "is not an object"},
        {"{\"\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[0,1]}}", 1, MR_EFORMAT,
         "is empty"},
        {"{\"a\\u0000b\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[0,1]}}", 1, MR_EFORMAT,
         "0x00"},
        {"{\"a\\nb\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[0,1]}}", 1, MR_EFORMAT,
         "0x0a"},
        {"{" ONE "," ONE "}", 8, MR_EFORMAT, "a"},
        {"{" ONE ",\"\\u0061\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[8,16]}}", 16,
         MR_EFORMAT, "a"},
        {"{\"a\":{\"shape\":[2],\"data_offsets\":[0,8]}}", 8, MR_EFORMAT, "has no dtype"},
        {"{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,8]}}", 8, MR_EFORMAT, "has no shape"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2]}}", 8, MR_EFORMAT, "has no data_offsets"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8],\"order\":1}}", 8,
         MR_EFORMAT, "unknown key"},
        {"{\"a\":{\"dtype\":\"F31\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8, MR_EFORMAT,
         "unknown dtype \"F31\""},
        {"{\"a\":{\"dtype\":\"Q4_0\",\"shape\":[32],\"data_offsets\":[0,18]}}", 18, MR_EFORMAT,
         "unknown dtype"},
        {"{\"a\":{\"dtype\":4,\"shape\":[2],\"data_offsets\":[0,8]}}", 8, MR_EFORMAT,
         "unknown dtype 4"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":2,\"data_offsets\":[0,8]}}", 8, MR_EFORMAT,
         "is not an array"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1,1,1,1,1,2],\"data_offsets\":[0,8]}}", 8,
         MR_EUNSUPPORTED, "rank 6"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[-2],\"data_offsets\":[0,8]}}", 8, MR_EFORMAT,
         "shape"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2.0],\"data_offsets\":[0,8]}}", 8, MR_EFORMAT,
         "shape"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[99999999999999999999],\"data_offsets\":[0,8]}}", 8,
         MR_EFORMAT, "shape"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":8}}", 8, MR_EFORMAT,
         "is not a pair"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8,8]}}", 8, MR_EFORMAT,
         "is not a pair"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[-1,7]}}", 8, MR_EFORMAT,
         "data_offsets"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[8,0]}}", 8, MR_EFORMAT,
         "is after"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 7, MR_EFORMAT,
         "is beyond the 7 bytes"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[3],\"data_offsets\":[0,8]}}", 8, MR_EFORMAT,
         "need 12 bytes, data_offsets give 8"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,8]}}", 8,
         MR_EFORMAT, "overflows"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[0,4294967296,4294967296],\"data_offsets\":[0,0]}}", 0,
         MR_EFORMAT, "overflows"},
        {"{" ONE ",\"b\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[4,12]}}", 12,
         MR_EFORMAT, "\"b\" begins at 4, but the data before it ends at 8 (overlap)"},
        {"{" ONE ",\"b\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8, MR_EFORMAT,
         "overlap"},
        {"{" ONE ",\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[9,13]}}", 13,
         MR_EFORMAT, "\"b\" begins at 9, but the data before it ends at 8 (gap)"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}", 8, MR_EFORMAT, "gap"},
        {"{" ONE "}", 9, MR_EFORMAT, "9 bytes of data, but its tensors end at 8"},
        {"{}", 1, MR_EFORMAT, "tensors end at 0"},
        {"{\"__metadata__\":[]," ONE "}", 8, MR_EFORMAT, "is not an object"},
        {"{\"__metadata__\":{\"n\":1}," ONE "}", 8, MR_EFORMAT, "is not a string"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        st_put(file, cases[i].header, cases[i].data);
        refuse_dir(cases[i].code, cases[i].message);
        assert_true(contains(mr_error(), file));
    }
    files_clear();
}

static void bad_lengths(void **state)
{
    static const struct {
        uint64_t len;
        const char *message;
    } cases[] = {
        {0, "too short"},
        {1, "too short"},
        {9, "header of 9 bytes in a file of 16"},
        {99999999, "in a file of 16"},
        {100000001, "at most 100000000"},
        {UINT64_C(1) << 60, "at most"},
        {UINT64_MAX, "at most"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        mr_buf b = {0};
        put_int(&b, cases[i].len, 8);
        mr_buf_puts(&b, "{}      ");
        files_put(file, b.data, b.len);
        mr_buf_free(&b);
        refuse_dir(MR_EFORMAT, cases[i].message);
    }
    files_clear();
}

static void truncation(void **state)
{
    (void)state;
    mr_buf b = {0};
    st_build(&b,
             "{" META "," ONE ",\"b\":{\"dtype\":\"BF16\",\"shape\":[2,3],"
             "\"data_offsets\":[8,20]}}",
             20);
    for (size_t n = 0; n < b.len; n++) {
        files_put(file, b.data, n);
        refuse_dir(MR_EFORMAT, file);
    }
    files_put(file, b.data, b.len);
    mr_weights_close(open_ok(files_dir, (mr_jval){0}));
    mr_buf_free(&b);
    files_clear();
}

/* Out of order, unaligned, empty and scalar tensors, padding and every dtype are all right. */
static void good_headers(void **state)
{
    (void)state;
    st_put(file,
           "{" META ",\"z\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[0,1]},"
           "\"y\":{\"shape\":[1,2],\"data_offsets\":[9,17],\"dtype\":\"F32\"},"
           "\"empty\":{\"dtype\":\"I64\",\"shape\":[0,7],\"data_offsets\":[9,9]},"
           "\"x\":{\"dtype\":\"F64\",\"shape\":[1],\"data_offsets\":[1,9]}}  ",
           17);
    mr_weights *w = open_ok(files_dir, (mr_jval){0});
    assert_int_equal(mr_weights_count(w), 4);
    assert_string_equal(mr_weights_at(w, 0)->name, "empty");
    assert_string_equal(mr_weights_at(w, 3)->name, "z");
    assert_int_equal(mr_weights_files(w), 1);
    assert_true(contains(mr_weights_file(w, 0), file));
    assert_null(mr_weights_gguf(w));
    assert_null(mr_weights_find(w, "yy"));
    const mr_winfo *z = mr_weights_find(w, "z"), *empty = mr_weights_find(w, "empty");
    assert_int_equal(z->rank, 0);
    assert_int_equal(mr_weights_rows(z), 1);
    assert_int_equal(mr_weights_rows_bytes(z, 1), 1);
    assert_int_equal(mr_weights_rows(empty), 0);
    uint8_t bytes[8];
    mr_rows r;
    assert_int_equal(mr_weights_read(w, mr_weights_find(w, "y"), 0, 1, bytes, &r), MR_OK);
    for (int i = 0; i < 8; i++)
        assert_int_equal(bytes[i], 9 + i);
    assert_int_equal(mr_weights_read(w, empty, 0, 0, bytes, &r), MR_OK);
    mr_weights_close(w);

    static const struct {
        const char *name;
        mr_dtype dtype;
    } all[] = {
        {"BOOL", MR_BOOL},       {"U8", MR_U8},           {"I8", MR_I8},
        {"U16", MR_U16},         {"I16", MR_I16},         {"U32", MR_U32},
        {"I32", MR_I32},         {"U64", MR_U64},         {"I64", MR_I64},
        {"F16", MR_F16},         {"BF16", MR_BF16},       {"F32", MR_F32},
        {"F64", MR_F64},         {"F8_E4M3", MR_F8_E4M3}, {"F8_E5M2", MR_F8_E5M2},
        {"F8_E8M0", MR_F8_E8M0},
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        char header[128];
        int bytes_each = mr_dtype_block_bytes(all[i].dtype);
        snprintf(header, sizeof header,
                 "{\"t\":{\"dtype\":\"%s\",\"shape\":[1,1,1,3],\"data_offsets\":[0,%d]}}",
                 all[i].name, 3 * bytes_each);
        st_put(file, header, 3 * (size_t)bytes_each);
        w = open_ok(files_dir, (mr_jval){0});
        assert_int_equal(mr_weights_find(w, "t")->dtype, all[i].dtype);
        mr_weights_close(w);
    }
    files_clear();
}

/* Many tensors, in no order: sorted, found, and none mistaken. */
static void many(void **state)
{
    enum { N = 3000 };
    (void)state;
    mr_buf h = {0};
    mr_buf_puts(&h, "{");
    for (int i = 0; i < N; i++)
        mr_buf_printf(&h, "%s\"t%d\":{\"dtype\":\"U16\",\"shape\":[1],\"data_offsets\":[%d,%d]}",
                      i ? "," : "", i * 1009 % N, 2 * i, 2 * i + 2);
    mr_buf_puts(&h, "}");
    st_put(file, h.data, 2 * N);
    mr_buf_free(&h);
    mr_weights *w = open_ok(files_dir, (mr_jval){0});
    assert_int_equal(mr_weights_count(w), N);
    for (int i = 0; i < N; i++) {
        char name[16];
        snprintf(name, sizeof name, "t%d", i * 1009 % N);
        const mr_winfo *t = mr_weights_find(w, name);
        assert_non_null(t);
        uint8_t bytes[2];
        mr_rows r;
        assert_int_equal(mr_weights_read(w, t, 0, 1, bytes, &r), MR_OK);
        assert_int_equal(bytes[0], 2 * i & 255);
        if (i)
            assert_true(strcmp(mr_weights_at(w, i - 1)->name, mr_weights_at(w, i)->name) < 0);
    }
    mr_weights_close(w);
    files_clear();
}

/* The file is cut after it was opened: an error, not a signal. */
static void cut_later(void **state)
{
    (void)state;
    st_put(file, "{" ONE "}", 8);
    mr_weights *w = open_ok(files_dir, (mr_jval){0});
    assert_int_equal(truncate(files_at(file), 60), 0);
    float v[2];
    mr_rows r;
    assert_int_equal(mr_weights_read(w, mr_weights_find(w, "a"), 0, 1, v, &r), MR_EFORMAT);
    assert_true(contains(mr_error(), file));
    mr_file_fail_after(1);
    assert_int_equal(mr_weights_read(w, mr_weights_find(w, "a"), 0, 1, v, &r), MR_EIO);
    mr_file_fail_after(0);
    mr_weights_close(w);
    files_clear();
}

static void faults(void **state)
{
    (void)state;
    st_put(file,
           "{" META "," ONE ",\"b\\u00e9\":{\"dtype\":\"U8\",\"shape\":[1],"
           "\"data_offsets\":[8,9]}}",
           9);
    check_no_memory(files_dir, (mr_jval){0}, 1);
    check_no_reads(files_dir, (mr_jval){0});
    files_clear();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bad_headers),  cmocka_unit_test(bad_lengths), cmocka_unit_test(truncation),
        cmocka_unit_test(good_headers), cmocka_unit_test(many),        cmocka_unit_test(cut_later),
        cmocka_unit_test(faults),
    };
    return cmocka_run_group_tests(tests, files_setup, files_teardown);
}
