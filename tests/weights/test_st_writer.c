/* Written files are read back; misuse and faults leave no file behind. */
#include "weights/files.h"

static const char name[] = "model.safetensors";

static mr_err write_two(void)
{
    static const int64_t a[] = {2, 3}, b[] = {1};
    static const uint8_t bytes[13] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};
    mr_st_writer *w;
    MR_TRY(mr_st_writer_open(&w, files_at(name), "pt"));
    mr_err e = mr_st_writer_declare(w, "b\"\xc3\xa9", MR_BF16, 2, a);
    if (e == MR_OK)
        e = mr_st_writer_declare(w, "a", MR_F8_E4M3, 1, b);
    if (e == MR_OK)
        e = mr_st_writer_begin(w);
    if (e == MR_OK)
        e = mr_st_writer_data(w, bytes, 5);
    if (e == MR_OK)
        e = mr_st_writer_data(w, bytes + 5, 8);
    if (e == MR_OK)
        return mr_st_writer_commit(w);
    mr_st_writer_abort(w);
    return e;
}

static int count_files(void)
{
    int n = 0;
    DIR *d = opendir(files_dir);
    while (readdir(d))
        n++;
    closedir(d);
    return n - 2;
}

static void there_and_back(void **state)
{
    (void)state;
    assert_int_equal(write_two(), MR_OK);
    assert_int_equal(count_files(), 1);
    char *text;
    size_t len;
    assert_int_equal(mr_file_read_all(files_at(name), 4096, MR_MEM_OTHER, &text, &len), MR_OK);
    assert_int_equal((len - 13) % 8, 0);
    assert_memory_equal(text + 8, "{\"__metadata__\":{\"format\":\"pt\"}", 31);
    mr_free(text);
    mr_weights *w = open_ok(files_dir, (mr_jval){0});
    assert_int_equal(mr_weights_count(w), 2);
    const mr_winfo *t = mr_weights_find(w, "b\"\xc3\xa9");
    assert_true(t && t->dtype == MR_BF16 && t->rank == 2 && t->dim[0] == 2 && t->dim[1] == 3);
    uint8_t bytes[12];
    mr_rows r;
    assert_int_equal(mr_weights_read(w, t, 1, 1, bytes, &r), MR_OK);
    for (int i = 0; i < 6; i++)
        assert_int_equal(bytes[i], 6 + i);
    assert_int_equal(mr_weights_read(w, mr_weights_find(w, "a"), 0, 1, bytes, &r), MR_OK);
    assert_int_equal(bytes[0], 12);
    mr_weights_close(w);
    files_clear();
}

static void every_dtype(void **state)
{
    (void)state;
    static const int64_t one[] = {1};
    static const uint8_t zeros[64];
    size_t total = 0;
    mr_st_writer *s;
    assert_int_equal(mr_st_writer_open(&s, files_at(name), "mlx"), MR_OK);
    for (int t = 0; t < MR_DTYPE_COUNT; t++) {
        mr_err e = mr_st_writer_declare(s, mr_dtype_name(t), t, 1, one);
        assert_int_equal(e == MR_OK, !mr_dtype_is_quantised(t));
        if (e == MR_OK)
            total += (size_t)mr_dtype_block_bytes(t);
        else
            assert_true(contains(mr_error(), mr_dtype_name(t)));
    }
    assert_true(total <= sizeof zeros);
    assert_int_equal(mr_st_writer_begin(s), MR_OK);
    assert_int_equal(mr_st_writer_data(s, zeros, total), MR_OK);
    assert_int_equal(mr_st_writer_commit(s), MR_OK);
    mr_weights *w = open_ok(files_dir, (mr_jval){0});
    for (int i = 0; i < mr_weights_count(w); i++)
        assert_string_equal(mr_dtype_name(mr_weights_at(w, i)->dtype), mr_weights_at(w, i)->name);
    mr_weights_close(w);
    files_clear();
}

static mr_st_writer *begun(const int64_t *dim)
{
    mr_st_writer *w;
    assert_int_equal(mr_st_writer_open(&w, files_at(name), "pt"), MR_OK);
    assert_int_equal(mr_st_writer_declare(w, "a", MR_U8, 1, dim), MR_OK);
    assert_int_equal(mr_st_writer_begin(w), MR_OK);
    return w;
}

static void misuse(void **state)
{
    (void)state;
    static const int64_t dim[] = {4, INT64_MAX, -1};
    mr_st_writer *w = begun(dim);
    assert_int_equal(mr_st_writer_data(w, "abcde", 5), MR_EUSAGE);
    assert_true(contains(mr_error(), "more data than the 4 bytes declared"));
    mr_st_writer_abort(w);

    w = begun(dim);
    assert_int_equal(mr_st_writer_data(w, "abc", 3), MR_OK);
    assert_int_equal(mr_st_writer_commit(w), MR_EUSAGE);
    assert_true(contains(mr_error(), "3 bytes of data, 4 declared"));

    assert_int_equal(mr_st_writer_open(&w, files_at(name), "pt"), MR_OK);
    assert_int_equal(mr_st_writer_declare(w, "", MR_U8, 1, dim), MR_EFORMAT);
    assert_int_equal(mr_st_writer_declare(w, "__metadata__", MR_U8, 1, dim), MR_EUSAGE);
    assert_int_equal(mr_st_writer_declare(w, "big", MR_F32, 2, dim), MR_EUSAGE);
    assert_true(contains(mr_error(), "out of range"));
    assert_int_equal(mr_st_writer_declare(w, "minus", MR_F32, 1, dim + 2), MR_EUSAGE);
    for (int i = 0; i < 2; i++)
        assert_int_equal(mr_st_writer_declare(w, "b", MR_U8, 1, dim + 1), MR_OK);
    assert_int_equal(mr_st_writer_declare(w, "c", MR_U8, 1, dim + 1), MR_EUSAGE);
    assert_true(contains(mr_error(), "too large together"));
    assert_int_equal(mr_st_writer_begin(w), MR_EUSAGE);
    assert_true(contains(mr_error(), "\"b\" is declared twice"));
    mr_st_writer_abort(w);
    mr_st_writer_abort(NULL);

    assert_int_equal(mr_st_writer_open(&w, files_at("none/x"), "pt"), MR_EIO);
    assert_null(w);
    assert_int_equal(count_files(), 0);
}

static void no_memory(void **state)
{
    (void)state;
    uint64_t before = mr_mem_allocations();
    assert_int_equal(write_two(), MR_OK);
    uint64_t n = mr_mem_allocations() - before;
    files_clear();
    for (uint64_t i = 1; i <= n; i++) {
        mr_mem_fail_after(i);
        mr_err e = write_two();
        mr_mem_fail_after(0);
        assert_int_equal(e, MR_ENOMEM);
        assert_int_equal(count_files(), 0);
    }
    assert_int_equal(mr_mem_held(MR_MEM_COMPILE), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(there_and_back),
        cmocka_unit_test(every_dtype),
        cmocka_unit_test(misuse),
        cmocka_unit_test(no_memory),
    };
    return cmocka_run_group_tests(tests, files_setup, files_teardown);
}
