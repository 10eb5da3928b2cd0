/* Written GGUF files are read back; misuse and faults leave no file behind. */
#include "weights/files.h"

static const char name[] = "model.gguf";

static mr_err write_two(int64_t spare)
{
    static const int64_t a[] = {2, 32}, b[] = {3};
    uint8_t bytes[2 * 18 + 12];
    mr_gguf_writer *w;
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (uint8_t)(i + 1);
    MR_TRY(mr_gguf_writer_open(&w, files_at(name)));
    mr_gguf_writer_str(w, "general.architecture", "none");
    mr_gguf_writer_u32(w, "none.count", 4000000000u);
    mr_gguf_writer_f32(w, "none.number", 0.25f);
    mr_gguf_writer_bool(w, "none.yes", true);
    mr_gguf_writer_strings(w, "none.names", 2);
    mr_gguf_writer_add_str(w, "", 0);
    mr_gguf_writer_add_str(w, "x\0y", 3);
    mr_gguf_writer_ints(w, "none.numbers", 1);
    mr_gguf_writer_add_int(w, -7);
    mr_gguf_writer_strings(w, "none.nothing", 0);
    mr_err e = mr_gguf_writer_declare(w, "q", MR_Q4_0, 2, a);
    if (e == MR_OK)
        e = mr_gguf_writer_declare(w, "f", MR_F32, 1, b);
    if (e == MR_OK)
        e = mr_gguf_writer_begin(w);
    if (e == MR_OK) /* across the end of the first one */
        e = mr_gguf_writer_data(w, bytes, 40);
    if (e == MR_OK)
        e = mr_gguf_writer_data(w, bytes + 40, (size_t)(8 + spare));
    if (e == MR_OK)
        return mr_gguf_writer_commit(w);
    mr_gguf_writer_abort(w);
    return e;
}

static void there_and_back(void **state)
{
    (void)state;
    assert_int_equal(write_two(0), MR_OK);
    mr_weights *w = open_ok(files_at(name), (mr_jval){0});
    const mr_gguf *g = mr_weights_gguf(w);
    int64_t v;
    double d;
    mr_gguf_array a;
    mr_str s;
    assert_int_equal(mr_gguf_int(g, "none.count", &v), MR_OK);
    assert_true(v == 4000000000);
    assert_int_equal(mr_gguf_num(g, "none.number", &d), MR_OK);
    assert_true(d == 0.25);
    assert_int_equal(mr_gguf_int(g, "none.yes", &v), MR_OK);
    assert_true(v == 1);
    assert_int_equal(mr_gguf_arr(g, "none.names", &a), MR_OK);
    assert_int_equal(a.count, 2);
    assert_int_equal(mr_gguf_arr_str(&a, &s), MR_OK);
    assert_int_equal(s.len, 0);
    assert_int_equal(mr_gguf_arr_str(&a, &s), MR_OK);
    assert_true(s.len == 3 && memcmp(s.data, "x\0y", 3) == 0);
    assert_int_equal(mr_gguf_arr(g, "none.numbers", &a), MR_OK);
    assert_int_equal(mr_gguf_arr_int(&a, &v), MR_OK);
    assert_true(v == -7);
    assert_int_equal(mr_gguf_arr(g, "none.nothing", &a), MR_OK);
    assert_int_equal(a.count, 0);
    const mr_winfo *t = mr_weights_find(w, "q");
    assert_true(t && t->dtype == MR_Q4_0 && t->rank == 2 && t->dim[0] == 2 && t->dim[1] == 32);
    uint8_t bytes[64];
    mr_rows r;
    assert_int_equal(mr_weights_read(w, t, 1, 1, bytes, &r), MR_OK);
    for (int i = 0; i < 18; i++)
        assert_int_equal(bytes[i], 19 + i);
    assert_int_equal(mr_weights_read(w, mr_weights_find(w, "f"), 0, 1, bytes, &r), MR_OK);
    for (int i = 0; i < 12; i++)
        assert_int_equal(bytes[i], 37 + i);
    mr_weights_close(w);
    files_clear();
}

static void assert_no_file(void)
{
    assert_int_equal(mr_file_exists(files_at(name)), 0);
}

static void misuse(void **state)
{
    (void)state;
    static const int64_t odd[] = {2, 33}, none[] = {0};
    assert_int_equal(write_two(1), MR_EUSAGE);
    assert_no_file();
    assert_int_equal(write_two(-1), MR_EUSAGE);
    assert_no_file();
    mr_gguf_writer *w;
    assert_int_equal(mr_gguf_writer_open(&w, files_at(name)), MR_OK);
    assert_int_equal(mr_gguf_writer_declare(w, "q", MR_Q4_0, 2, odd), MR_EUSAGE);
    assert_int_equal(mr_gguf_writer_declare(w, "n", MR_F32, 1, none), MR_EUSAGE);
    assert_int_equal(mr_gguf_writer_declare(w, "u", MR_U32, 1, odd), MR_EUSAGE);
    mr_gguf_writer_abort(w);
    assert_no_file();
    files_clear();
}

static void faults(void **state)
{
    (void)state;
    int failed = 0;
    for (uint64_t nth = 1;; nth++) {
        mr_mem_fail_after(nth);
        mr_err e = write_two(0);
        mr_mem_fail_after(0);
        if (e == MR_OK)
            break;
        failed++;
        assert_int_equal(e, MR_ENOMEM);
        assert_no_file();
    }
    assert_true(failed > 3);
    files_clear();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(there_and_back),
        cmocka_unit_test(misuse),
        cmocka_unit_test(faults),
    };
    return cmocka_run_group_tests(tests, files_setup, files_teardown);
}
