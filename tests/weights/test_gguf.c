/* GGUF: each way a header can be wrong, truncation at every byte, metadata of every type, values.
 */
#include "weights/files.h"

static const char file[] = "m.gguf";

static void put(const mr_buf *b)
{
    assert_int_equal(mr_buf_check(b), MR_OK);
    files_put(file, b->data, b->len);
}

static void refuse(mr_buf *b, mr_err code, const char *message)
{
    put(b);
    refuse_path(files_at(file), (mr_jval){0}, code, message);
    assert_true(contains(mr_error(), file));
    mr_buf_clear(b);
}

enum { F32 = 0, Q4_0 = 2, Q5_K = 13, BF16 = 30 };
enum { U8 = 0, I8, U16, I16, U32, I32, TF32, BOOL, STRING, ARRAY, U64, I64, F64 };

static void bad_heads(void **state)
{
    static const struct {
        uint32_t version;
        uint64_t tensors, keys;
        mr_err code;
        const char *message;
    } cases[] = {
        {1, 0, 0, MR_EUNSUPPORTED, "GGUF version 1 is not supported"},
        {4, 0, 0, MR_EUNSUPPORTED, "GGUF version 4 is not supported"},
        {0x03000000, 0, 0, MR_EUNSUPPORTED, "big-endian"},
        {3, 1, 0, MR_EFORMAT, "1 tensors do not fit"},
        {3, 0, 1, MR_EFORMAT, "1 metadata keys do not fit"},
        {3, UINT64_C(1) << 60, 0, MR_EFORMAT, "tensors do not fit"},
        {3, 0, UINT64_MAX, MR_EFORMAT, "metadata keys do not fit"},
    };
    (void)state;
    mr_buf b = {0};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        g_head(&b, cases[i].version, cases[i].tensors, cases[i].keys);
        refuse(&b, cases[i].code, cases[i].message);
    }
    g_head(&b, 3, 0, 0);
    b.data[3] = 'V';
    refuse(&b, MR_EFORMAT, "does not begin with \"GGUF\"");
    /* More keys than any model has, in a file that has room for them. */
    g_head(&b, 3, 0, 65537);
    g_data(&b, 1, 65537 * 14);
    refuse(&b, MR_EFORMAT, "at most 65536");
    mr_buf_free(&b);
    files_clear();
}

static void bad_keys(void **state)
{
    (void)state;
    mr_buf b = {0};
    g_head(&b, 3, 0, 1);
    g_key(&b, "", U8, 1, 8);
    refuse(&b, MR_EFORMAT, "metadata key is empty");
    g_head(&b, 3, 0, 1);
    g_key(&b, "a\nb", U8, 1, 8);
    refuse(&b, MR_EFORMAT, "control character 0x0a");
    g_head(&b, 3, 0, 1);
    g_key(&b, "\xff", U8, 1, 8);
    refuse(&b, MR_EFORMAT, "not valid UTF-8");
    g_head(&b, 3, 0, 1);
    g_key(&b, "k", 13, 1, 8);
    refuse(&b, MR_EFORMAT, "\"k\": unknown value type 13");
    g_head(&b, 3, 0, 1);
    g_key(&b, "k", 0x80000000, 1, 8);
    refuse(&b, MR_EFORMAT, "unknown value type 2147483648");
    g_head(&b, 3, 0, 1);
    g_key(&b, "k", BOOL, 2, 1);
    refuse(&b, MR_EFORMAT, "\"k\": boolean of value 2");
    g_head(&b, 3, 0, 2);
    g_key(&b, "k", U8, 1, 1);
    g_key(&b, "k", U8, 1, 1);
    refuse(&b, MR_EFORMAT, "key \"k\" appears twice");
    g_head(&b, 3, 0, 1);
    put_int(&b, UINT64_MAX, 8);
    put_int(&b, 0, 8);
    refuse(&b, MR_EFORMAT, "ends inside a metadata key");
    g_head(&b, 3, 0, 1);
    put_int(&b, 65536, 8);
    g_data(&b, 1, 70000);
    refuse(&b, MR_EFORMAT, "metadata key of 65536 bytes");
    g_head(&b, 3, 0, 1);
    g_key(&b, "k", STRING, UINT64_C(1) << 62, 8);
    refuse(&b, MR_EFORMAT, "ends inside a string");
    g_head(&b, 3, 0, 1);
    g_key(&b, "k", U64, 1, 4);
    refuse(&b, MR_EFORMAT, "\"k\": file ends inside its value");
    /* A string that the (sparse) file does hold, but that no header needs. */
    g_head(&b, 3, 0, 1);
    g_key(&b, "k", STRING, UINT64_C(1) << 29, 8);
    put(&b);
    assert_int_equal(truncate(files_at(file), (off_t)1 << 30), 0);
    refuse_path(files_at(file), (mr_jval){0}, MR_EFORMAT, "tensor table exceed 268435456 bytes");
    mr_buf_free(&b);
    files_clear();
}

static void array_key(mr_buf *b, uint32_t elem, uint64_t count)
{
    g_head(b, 3, 0, 1);
    g_key(b, "k", ARRAY, elem, 4);
    put_int(b, count, 8);
}

static void bad_arrays(void **state)
{
    (void)state;
    mr_buf b = {0};
    array_key(&b, 13, 0);
    refuse(&b, MR_EFORMAT, "\"k\": unknown array element type 13");
    array_key(&b, ARRAY, 0);
    refuse(&b, MR_EFORMAT, "\"k\": arrays of arrays");
    array_key(&b, U32, UINT64_C(1) << 62);
    refuse(&b, MR_EFORMAT, "\"k\": file ends inside its value");
    array_key(&b, U64, UINT64_C(1) << 61);
    refuse(&b, MR_EFORMAT, "\"k\": file ends inside its value");
    array_key(&b, U8, 5);
    put_int(&b, 0, 4);
    refuse(&b, MR_EFORMAT, "\"k\": file ends inside its value");
    array_key(&b, STRING, UINT64_C(1) << 60);
    refuse(&b, MR_EFORMAT, "\"k\": file ends inside its value");
    array_key(&b, STRING, 2);
    g_str(&b, "12345678");
    refuse(&b, MR_EFORMAT, "file ends inside a string");
    array_key(&b, BOOL, 3);
    put_int(&b, 0x020001, 3);
    refuse(&b, MR_EFORMAT, "boolean of value 2");
    mr_buf_free(&b);
    files_clear();
}

static void one_tensor(mr_buf *b, const char *name, uint32_t type, uint64_t offset, uint32_t rank,
                       uint64_t d0, uint64_t d1)
{
    g_head(b, 3, 1, 0);
    g_tensor(b, name, type, offset, rank, d0, d1);
    g_data(b, 32, 64);
}

static void bad_tensors(void **state)
{
    static const struct {
        uint32_t type;
        uint64_t offset;
        uint32_t rank;
        uint64_t d0, d1;
        mr_err code;
        const char *message;
    } cases[] = {
        {F32, 0, 5, 1, 1, MR_EFORMAT, "\"t\": 5 dimensions"},
        {F32, 0, UINT32_MAX, 1, 1, MR_EFORMAT, "dimensions; at most 4"},
        {F32, 0, 1, 0, 0, MR_EFORMAT, "\"t\": a dimension is not positive"},
        {F32, 0, 2, 1, UINT64_MAX, MR_EFORMAT, "a dimension is not positive"},
        {F32, 0, 2, UINT64_C(1) << 32, UINT64_C(1) << 32, MR_EFORMAT, "overflows"},
        {F32, 0, 1, UINT64_C(1) << 62, 1, MR_EFORMAT, "size in bytes overflows"},
        {F32, 0, 1, 17, 1, MR_EFORMAT, "68 bytes at offset 0 do not fit"},
        {F32, 32, 1, 9, 1, MR_EFORMAT, "36 bytes at offset 32 do not fit"},
        {F32, UINT64_C(1) << 63, 1, 1, 1, MR_EFORMAT, "do not fit"},
        {F32, UINT64_MAX - 31, 1, 16, 1, MR_EFORMAT, "do not fit"},
        {F32, 16, 1, 1, 1, MR_EFORMAT, "offset 16 is not a multiple of the alignment 32"},
        {Q4_0, 0, 2, 33, 1, MR_EFORMAT, "rows of 33 are not whole blocks of 32"},
        {Q5_K, 0, 1, 128, 1, MR_EFORMAT, "rows of 128 are not whole blocks of 256"},
        {40, 0, 1, 32, 1, MR_EFORMAT, "rows of 32 are not whole blocks of 64"},
        {16, 0, 1, 256, 1, MR_EUNSUPPORTED, "\"t\": type IQ2_XXS (16) is not supported"},
        {4, 0, 1, 32, 1, MR_EUNSUPPORTED, "type Q4_2 (4)"},
        {26, 0, 1, 4, 1, MR_EUNSUPPORTED, "type I32 (26)"},
        {41, 0, 1, 128, 1, MR_EUNSUPPORTED, "type Q1_0 (41)"},
        {42, 0, 1, 4, 1, MR_EFORMAT, "\"t\": unknown type 42"},
        {UINT32_MAX, 0, 1, 4, 1, MR_EFORMAT, "unknown type 4294967295"},
    };
    (void)state;
    mr_buf b = {0};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        one_tensor(&b, "t", cases[i].type, cases[i].offset, cases[i].rank, cases[i].d0,
                   cases[i].d1);
        refuse(&b, cases[i].code, cases[i].message);
    }
    one_tensor(&b, "", F32, 0, 1, 1, 1);
    refuse(&b, MR_EFORMAT, "tensor name is empty");
    one_tensor(&b, "t\x01", F32, 0, 1, 1, 1);
    refuse(&b, MR_EFORMAT, "control character");
    g_head(&b, 3, 1, 0);
    put_int(&b, 65536, 8);
    g_data(&b, 1, 70000);
    refuse(&b, MR_EFORMAT, "tensor name of 65536 bytes");
    g_head(&b, 3, 2, 0);
    g_tensor(&b, "t", F32, 0, 1, 4, 0);
    g_tensor(&b, "t", F32, 32, 1, 4, 0);
    g_data(&b, 32, 64);
    refuse(&b, MR_EFORMAT, "tensor \"t\" appears twice");
    g_head(&b, 3, 2, 0);
    g_tensor(&b, "u", F32, 32, 1, 4, 0);
    g_tensor(&b, "t", F32, 0, 1, 9, 0);
    g_data(&b, 32, 64);
    refuse(&b, MR_EFORMAT, "tensors \"t\" and \"u\" overlap");
    mr_buf_free(&b);
    files_clear();
}

static void alignment_and_split(void **state)
{
    static const struct {
        const char *key;
        uint32_t type;
        uint64_t value;
        int bytes;
        mr_err code;
        const char *message;
    } cases[] = {
        {"general.alignment", U32, 0, 4, MR_EFORMAT, "\"general.alignment\": 0 is not a power"},
        {"general.alignment", U32, 24, 4, MR_EFORMAT, "24 is not a power of two"},
        {"general.alignment", U32, UINT64_C(1) << 31, 4, MR_EFORMAT, "is not a power of two"},
        {"general.alignment", TF32, 0x42000000, 4, MR_EFORMAT, "is not an integer"},
        {"general.alignment", I32, UINT32_MAX, 4, MR_EFORMAT, "-1 is not a power of two"},
        {"general.alignment", U32, 64, 4, MR_EFORMAT, "multiple of the alignment 64"},
        {"split.count", U16, 2, 2, MR_EFORMAT, "is one of 2 files of a split model"},
        {"split.count", BOOL, 1, 1, MR_OK, ""},
        {"split.count", TF32, 0, 4, MR_EFORMAT, "is not an integer"},
        {"general.alignment", U32, 8, 4, MR_OK, ""},
    };
    (void)state;
    mr_buf b = {0};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        g_head(&b, 2 + i % 2, 1, 1);
        g_key(&b, cases[i].key, cases[i].type, cases[i].value, cases[i].bytes);
        g_tensor(&b, "t", F32, 32, 1, 4, 0);
        g_data(&b, cases[i].code == MR_OK && cases[i].value == 8 ? 8 : 32, 48);
        if (cases[i].code != MR_OK) {
            refuse(&b, cases[i].code, cases[i].message);
            continue;
        }
        put(&b);
        mr_weights *w = open_ok(files_at(file), (mr_jval){0});
        float v[4];
        mr_rows r;
        assert_int_equal(mr_weights_read(w, mr_weights_at(w, 0), 0, 1, v, &r), MR_OK);
        for (int j = 0; j < 16; j++)
            assert_int_equal(((uint8_t *)v)[j], 32 + j);
        mr_weights_close(w);
    }
    mr_buf_free(&b);
    files_clear();
}

/* Part `no` (from 0) of `count`, with one tensor; the first also has a key of its own. */
static void put_part(const char *name, uint64_t no, uint64_t count, uint64_t total,
                     const char *tensor)
{
    mr_buf b = {0};
    g_head(&b, 3, 1, no ? 3 : 4);
    g_key(&b, "split.no", U16, no, 2);
    g_key(&b, "split.count", U16, count, 2);
    g_key(&b, "split.tensors.count", I32, total, 4);
    if (!no)
        g_key(&b, "k", U8, 7, 1);
    g_tensor(&b, tensor, F32, 0, 1, 1, 0);
    g_data(&b, 32, 3);
    mr_buf_putc(&b, (char)no);
    assert_int_equal(mr_buf_check(&b), MR_OK);
    files_put(name, b.data, b.len);
    mr_buf_free(&b);
}

static const char *const parts[] = {"m-00001-of-00003.gguf", "m-00002-of-00003.gguf",
                                    "m-00003-of-00003.gguf"};

static void put_parts(void)
{
    put_part(parts[0], 0, 3, 3, "b");
    put_part(parts[1], 1, 3, 3, "c");
    put_part(parts[2], 2, 3, 3, "a");
}

static void split(void **state)
{
    (void)state;
    put_parts();
    /* the folder, or any part */
    for (int i = -1; i < 3; i++) {
        const char *path = i < 0 ? files_dir : files_at(parts[i]);
        mr_weights *w = open_ok(path, (mr_jval){0});
        int64_t v;
        assert_int_equal(mr_weights_files(w), 3);
        assert_int_equal(mr_weights_count(w), 3);
        assert_int_equal(mr_gguf_int(mr_weights_gguf(w), "k", &v), MR_OK);
        assert_int_equal(v, 7);
        for (int t = 0; t < 3; t++) {
            static const char *const names[] = {"b", "c", "a"};
            uint8_t bytes[4];
            mr_rows r;
            const mr_winfo *x = mr_weights_find(w, names[t]);
            assert_int_equal(mr_weights_read(w, x, 0, 1, bytes, &r), MR_OK);
            assert_int_equal(bytes[3], t);
        }
        mr_weights_close(w);
        if (i < 0)
            continue;
        mr_gguf *g;
        assert_int_equal(mr_gguf_open(&g, path), MR_OK);
        assert_int_equal(mr_gguf_int(g, "k", &v), MR_OK);
        mr_gguf_close(g);
    }
    check_no_memory(files_dir, (mr_jval){0}, 3);
    check_no_reads(files_dir, (mr_jval){0});
    /* a whole model beside it: which one? */
    mr_buf b = {0};
    g_head(&b, 3, 0, 0);
    put(&b);
    refuse_dir(MR_EFORMAT, "holds 2 .gguf models; give the path of one");
    mr_buf_free(&b);
    files_clear();
}

static void bad_splits(void **state)
{
    (void)state;
    put_parts();
    put_part(parts[1], 2, 3, 3, "c");
    refuse_dir(MR_EFORMAT, "split.no 2 of split.count 3 in what is named part 2 of 3");
    put_part(parts[1], 1, 4, 3, "c");
    refuse_dir(MR_EFORMAT, "split.count 4 in what is named part 2 of 3");
    put_part(parts[1], 1, 3, 3, "a");
    refuse_dir(MR_EFORMAT, "tensor \"a\" appears twice");
    put_part(parts[1], 1, 3, 3, "c");
    put_part(parts[0], 0, 3, 4, "b");
    refuse_dir(MR_EFORMAT, "split.tensors.count 4, but the 3 files hold 3 tensors");
    mr_buf b = {0};
    g_head(&b, 3, 0, 0);
    files_put(parts[0], b.data, b.len);
    refuse_dir(MR_EFORMAT, "split.no -1 of split.count -1");
    mr_buf_free(&b);
    assert_int_equal(remove(files_at(parts[1])), 0);
    put_part(parts[0], 0, 3, 3, "b");
    refuse_dir(MR_EFORMAT, "m-00002-of-00003.gguf: part 2 of 3 is missing");
    assert_int_equal(remove(files_at(parts[0])), 0);
    refuse_dir(MR_EFORMAT, "m-00001-of-00003.gguf: part 1 of 3 is missing");
    mr_gguf *g;
    assert_int_equal(mr_gguf_open(&g, files_at(parts[2])), MR_EIO);
    /* names that only look like parts */
    files_clear();
    put_part("m-00004-of-00003.gguf", 0, 3, 1, "t");
    refuse_dir(MR_EFORMAT, "but is not named NAME-00001-of-00003.gguf");
    files_clear();
}

static void truncation(void **state)
{
    (void)state;
    mr_buf b = {0};
    g_head(&b, 3, 2, 3);
    g_str(&b, "list");
    put_int(&b, ARRAY, 4);
    put_int(&b, STRING, 4);
    put_int(&b, 2, 8);
    g_str(&b, "x");
    g_str(&b, "");
    g_key(&b, "n", U32, 5, 4);
    g_key(&b, "f", BOOL, 1, 1);
    g_tensor(&b, "q", Q4_0, 32, 2, 32, 2);
    g_tensor(&b, "s", BF16, 0, 0, 0, 0);
    g_data(&b, 32, 32 + 36);
    for (size_t n = 0; n < b.len; n++) {
        files_put(file, b.data, n);
        refuse_path(files_at(file), (mr_jval){0}, MR_EFORMAT, file);
    }
    put(&b);
    mr_weights *w = open_ok(files_at(file), (mr_jval){0});
    const mr_winfo *q = mr_weights_find(w, "q"), *s = mr_weights_find(w, "s");
    assert_true(q->rank == 2 && q->dim[0] == 2 && q->dim[1] == 32 && q->bytes == 36);
    assert_true(s->rank == 0 && s->bytes == 2 && mr_weights_rows(s) == 1);
    mr_weights_close(w);
    mr_buf_free(&b);
    files_clear();
}

/* Metadata larger than the first read; the tensor table lies behind it. */
static void long_metadata(void **state)
{
    enum { WORDS = 200000 };
    (void)state;
    mr_buf b = {0};
    g_head(&b, 3, 1, 1);
    g_str(&b, "words");
    put_int(&b, ARRAY, 4);
    put_int(&b, STRING, 4);
    put_int(&b, WORDS, 8);
    for (int i = 0; i < WORDS; i++) {
        char word[16];
        snprintf(word, sizeof word, "w%d", i);
        g_str(&b, word);
    }
    g_tensor(&b, "t", F32, 0, 1, 4, 0);
    g_data(&b, 32, 16);
    put(&b);
    mr_weights *w = open_ok(files_at(file), (mr_jval){0});
    mr_gguf_array a;
    assert_int_equal(mr_gguf_arr(mr_weights_gguf(w), "words", &a), MR_OK);
    assert_int_equal(a.elem, MR_GGUF_STRING);
    assert_int_equal(a.count, WORDS);
    for (int i = 0; i < WORDS; i++) {
        mr_str s;
        char word[16];
        snprintf(word, sizeof word, "w%d", i);
        assert_int_equal(mr_gguf_arr_str(&a, &s), MR_OK);
        assert_true(mr_str_is(s, word));
    }
    assert_true(a.next == a.count && a.at == a.end);
    mr_weights_close(w);
    check_no_reads(files_at(file), (mr_jval){0});
    /* Cut inside the part that only the second read sees. */
    files_put(file, b.data, b.len - 40);
    refuse_path(files_at(file), (mr_jval){0}, MR_EFORMAT, "file ends inside the tensor table");
    mr_buf_free(&b);
    files_clear();
}

static void metadata(void **state)
{
    static const struct {
        const char *key;
        int64_t value;
    } ints[] = {
        {"t.u8", 200},        {"t.i8", -100},          {"t.u16", 60000},
        {"t.i16", -30000},    {"t.u32", 4000000000},   {"t.i32", -2000000000},
        {"t.u64", 1LL << 40}, {"t.i64", -(1LL << 40)}, {"t.true", 1},
        {"t.false", 0},
    };
    (void)state;
    mr_gguf *g;
    int64_t i;
    double d;
    mr_str s;
    mr_gguf_array a;
    assert_int_equal(mr_gguf_open(&g, "tests/weights/data/gguf/model.gguf"), MR_OK);
    assert_int_equal(mr_gguf_keys(g), 18);
    assert_string_equal(mr_gguf_key(g, 0), "general.architecture");
    for (size_t n = 0; n < sizeof ints / sizeof *ints; n++) {
        assert_int_equal(mr_gguf_kind(g, ints[n].key), MR_GGUF_INT);
        assert_int_equal(mr_gguf_int(g, ints[n].key, &i), MR_OK);
        assert_true(i == ints[n].value);
        assert_int_equal(mr_gguf_num(g, ints[n].key, &d), MR_OK);
        assert_true(d == (double)ints[n].value);
    }
    assert_int_equal(mr_gguf_kind(g, "t.f32"), MR_GGUF_FLOAT);
    assert_int_equal(mr_gguf_num(g, "t.f32", &d), MR_OK);
    assert_true(d == (double)0.1f);
    assert_int_equal(mr_gguf_num(g, "t.f64", &d), MR_OK);
    assert_true(d == 0.1);
    assert_int_equal(mr_gguf_kind(g, "t.str"), MR_GGUF_STRING);
    assert_int_equal(mr_gguf_str(g, "t.str", &s), MR_OK);
    assert_true(mr_str_is(s, "gr\xc3\xbc\xc3\x9f dich"));
    assert_int_equal(mr_gguf_kind(g, "t.words"), MR_GGUF_ARRAY);
    assert_int_equal(mr_gguf_kind(g, "t.none"), MR_GGUF_ABSENT);

    assert_int_equal(mr_gguf_int(g, "t.none", &i), MR_EFORMAT);
    assert_true(contains(mr_error(), "key \"t.none\" is missing"));
    assert_int_equal(mr_gguf_int(g, "t.f32", &i), MR_EFORMAT);
    assert_true(contains(mr_error(), "key \"t.f32\" is not an integer"));
    assert_int_equal(mr_gguf_int(g, "t.u64.large", &i), MR_EFORMAT);
    assert_true(contains(mr_error(), "beyond 2^63-1"));
    assert_int_equal(mr_gguf_num(g, "t.u64.large", &d), MR_EFORMAT);
    assert_int_equal(mr_gguf_num(g, "t.str", &d), MR_EFORMAT);
    assert_true(contains(mr_error(), "is not a number"));
    assert_int_equal(mr_gguf_str(g, "t.u8", &s), MR_EFORMAT);
    assert_true(contains(mr_error(), "is not a string"));
    assert_int_equal(mr_gguf_arr(g, "t.u8", &a), MR_EFORMAT);
    assert_true(contains(mr_error(), "is not an array"));

    assert_int_equal(mr_gguf_arr(g, "t.ints", &a), MR_OK);
    assert_int_equal(a.elem, MR_GGUF_INT);
    assert_int_equal(a.count, 3);
    assert_int_equal(mr_gguf_arr_int(&a, &i), MR_OK);
    assert_true(i == 1);
    assert_int_equal(mr_gguf_arr_str(&a, &s), MR_EFORMAT);
    assert_true(contains(mr_error(), "key \"t.ints\": element 1 is not a string"));
    assert_int_equal(mr_gguf_arr_num(&a, &d), MR_OK);
    assert_true(d == -2);
    assert_int_equal(mr_gguf_arr(g, "t.floats", &a), MR_OK);
    assert_int_equal(mr_gguf_arr_int(&a, &i), MR_EFORMAT);
    assert_true(contains(mr_error(), "is not an integer"));
    assert_int_equal(mr_gguf_arr_num(&a, &d), MR_OK);
    assert_true(d == 0.5);
    assert_int_equal(mr_gguf_arr(g, "t.words", &a), MR_OK);
    assert_int_equal(mr_gguf_arr_num(&a, &d), MR_EFORMAT);
    assert_true(contains(mr_error(), "is not a number"));
    const char *const words[] = {"", "a", "\342\226\201b"};
    for (int n = 0; n < 3; n++) {
        assert_int_equal(mr_gguf_arr_str(&a, &s), MR_OK);
        assert_true(mr_str_is(s, words[n]));
    }
    mr_gguf_close(g);
}

static void numbers_out_of_range(void **state)
{
    (void)state;
    mr_buf b = {0};
    mr_gguf *g;
    mr_gguf_array a;
    double d;
    int64_t i;
    g_head(&b, 3, 0, 3);
    g_key(&b, "inf", TF32, 0x7f800000, 4);
    g_key(&b, "nan", F64, UINT64_C(0x7ff8000000000000), 8);
    g_key(&b, "big", ARRAY, U64, 4);
    put_int(&b, 1, 8);
    put_int(&b, UINT64_MAX, 8);
    put(&b);
    assert_int_equal(mr_gguf_open(&g, files_at(file)), MR_OK);
    assert_int_equal(mr_gguf_num(g, "inf", &d), MR_EFORMAT);
    assert_true(contains(mr_error(), "\"inf\" is not finite"));
    assert_int_equal(mr_gguf_num(g, "nan", &d), MR_EFORMAT);
    assert_int_equal(mr_gguf_arr(g, "big", &a), MR_OK);
    assert_int_equal(mr_gguf_arr_int(&a, &i), MR_EFORMAT);
    assert_true(contains(mr_error(), "element 0 is an integer beyond"));
    assert_int_equal(mr_gguf_arr_num(&a, &d), MR_EFORMAT);
    mr_gguf_close(g);
    mr_buf_free(&b);
    assert_int_equal(mr_gguf_open(&g, files_at("absent.gguf")), MR_EIO);
    assert_null(g);
    files_clear();
}

static void values(void **state)
{
    (void)state;
    mr_weights *w = open_ok("tests/weights/data/gguf", (mr_jval){0});
    assert_int_equal(mr_weights_count(w), 8);
    assert_int_equal(mr_weights_find(w, "q6_k.weight")->dtype, MR_Q6_K);
    const mr_winfo *t = mr_weights_find(w, "q4_1.weight");
    assert_true(t->rank == 3 && t->dim[0] == 2 && t->dim[1] == 2 && t->dim[2] == 64);
    check_values(w, "tests/weights/data/gguf/expected.f32");
    mr_weights_close(w);
    check_no_memory("tests/weights/data/gguf", (mr_jval){0}, 1);
    check_no_reads("tests/weights/data/gguf", (mr_jval){0});
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bad_heads),
        cmocka_unit_test(bad_keys),
        cmocka_unit_test(bad_arrays),
        cmocka_unit_test(bad_tensors),
        cmocka_unit_test(alignment_and_split),
        cmocka_unit_test(split),
        cmocka_unit_test(bad_splits),
        cmocka_unit_test(truncation),
        cmocka_unit_test(long_metadata),
        cmocka_unit_test(metadata),
        cmocka_unit_test(numbers_out_of_range),
        cmocka_unit_test(values),
    };
    return cmocka_run_group_tests(tests, files_setup, files_teardown);
}
