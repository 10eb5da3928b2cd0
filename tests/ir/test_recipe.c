/* Recipes: parsing, binding, and rows compared with what the definition gives element by element.
 */
#include "ir_util.h"

#include <math.h>

#include "ir/recipe.h"

/* ---- a small file of tensors ---- */

typedef struct tensor {
    const char *name;
    mr_fmt fmt;
    int64_t rows, k;
    unsigned char *bytes; /* data, then for affine all scales, all biases */
} tensor;

static tensor file[24];
static int n_tensors, reads;
static int64_t rows_read;

static size_t scale_size(const tensor *t)
{
    return t->fmt.dtype == MR_AFFINE ? (size_t)(t->k / t->fmt.group) * 2 : 0;
}

static size_t data_size(const tensor *t)
{
    return mr_row_bytes(t->fmt.dtype, t->fmt.bits, t->k);
}

static void add_tensor(const char *name, const char *fmt, int64_t rows, int64_t k)
{
    tensor *t = &file[n_tensors++];
    *t = (tensor){.name = name, .rows = rows, .k = k};
    assert_true(mr_fmt_parse(fmt, &t->fmt));
    size_t n = (size_t)rows * (data_size(t) + 2 * scale_size(t));
    t->bytes = malloc(n);
    uint32_t seed = (uint32_t)n_tensors * 7919;
    for (size_t i = 0; i < n; i++) {
        seed = seed * 1664525 + 1013904223;
        t->bytes[i] = (unsigned char)(seed >> 24);
    }
    if (t->fmt.dtype == MR_F32)
        for (int64_t i = 0; i < rows * k; i++)
            ((float *)t->bytes)[i] = (float)(n_tensors * 10000 + i);
    if (t->fmt.dtype == MR_BF16)
        for (int64_t i = 0; i < rows * k; i++)
            ((uint16_t *)t->bytes)[i] = (uint16_t)(0x3f80 + i);
}

static int make_file(void **state)
{
    (void)state;
    add_tensor("a", "f32", 12, 4);
    add_tensor("b", "f32", 6, 4);
    add_tensor("q", "q4_1", 8, 32);
    add_tensor("q2", "q4_1", 4, 32);
    add_tensor("m", "affine4/32/bf16", 8, 64);
    add_tensor("m2", "affine4/32/bf16", 4, 64);
    add_tensor("n", "bf16", 1, 8);
    add_tensor("n2", "bf16", 1, 4);
    add_tensor("wide", "f32", 4, 5);
    add_tensor("ids", "i64", 4, 4);
    add_tensor("e.0.w", "f32", 2, 3);
    add_tensor("e.1.w", "f32", 2, 3);
    add_tensor("e.2.w", "f32", 2, 3);
    add_tensor("one", "f32", 1, 4);
    add_tensor("row", "f32", 1, 4);
    add_tensor("h", "bf16", 12, 4);
    add_tensor("w", "affine4/32/bf16", 4, 128);
    return 0;
}

static int drop_file(void **state)
{
    (void)state;
    while (n_tensors)
        free(file[--n_tensors].bytes);
    return 0;
}

static mr_err lookup(void *ctx, const char *name, mr_stored *out)
{
    (void)ctx;
    for (int i = 0; i < n_tensors; i++)
        if (!strcmp(file[i].name, name)) {
            *out = (mr_stored){.handle = &file[i],
                               .fmt = file[i].fmt,
                               .rows = file[i].rows,
                               .k = file[i].k,
                               .matrix = strcmp(name, "row") == 0};
            return MR_OK;
        }
    return mr_fail(MR_EFORMAT, "file: tensor %s is missing", name);
}

static mr_err reader(void *ctx, const mr_stored *s, int64_t row0, int64_t n, void *buf,
                     mr_rows *out)
{
    const tensor *t = s->handle;
    if (ctx && --*(int *)ctx < 0)
        return mr_fail(MR_EIO, "file: cannot read");
    assert_true(row0 >= 0 && n > 0 && row0 + n <= t->rows);
    reads++;
    rows_read += n;
    size_t d = data_size(t), sc = scale_size(t), rows = (size_t)n, from = (size_t)row0;
    const unsigned char *scales = t->bytes + (size_t)t->rows * d;
    unsigned char *dst = buf;
    assert_int_equal(mr_stored_bytes(s, n), rows * (d + 2 * sc));
    memcpy(dst, t->bytes + from * d, rows * d);
    *out = (mr_rows){.dtype = t->fmt.dtype,
                     .bits = t->fmt.bits,
                     .group = t->fmt.group,
                     .scale_dtype = t->fmt.scale_dtype,
                     .n = n,
                     .k = t->k,
                     .data = dst};
    if (sc) {
        memcpy(dst + rows * d, scales + from * sc, rows * sc);
        memcpy(dst + rows * (d + sc), scales + ((size_t)t->rows + from) * sc, rows * sc);
        out->scales = dst + rows * d;
        out->biases = dst + rows * (d + sc);
    }
    return MR_OK;
}

/* ---- the definition, on whole tensors ---- */

typedef struct matrix {
    int64_t rows, k;
    float *x;
} matrix;

static matrix matrix_new(int64_t rows, int64_t k)
{
    return (matrix){rows, k, malloc((size_t)(rows * k) * sizeof(float))};
}

static matrix whole(const char *name)
{
    mr_stored s;
    mr_rows in;
    assert_int_equal(lookup(NULL, name, &s), MR_OK);
    matrix m = matrix_new(s.rows, s.k);
    void *buf = malloc(mr_stored_bytes(&s, s.rows));
    assert_int_equal(reader(NULL, &s, 0, s.rows, buf, &in), MR_OK);
    for (int64_t r = 0; r < s.rows; r++)
        mr_dequant_row(&in, r, m.x + r * s.k);
    free(buf);
    return m;
}

static matrix rows_of(matrix a, int64_t period, int64_t from, int64_t len)
{
    matrix m = matrix_new(a.rows / period * len, a.k);
    int64_t at = 0;
    for (int64_t r = 0; r < a.rows; r++)
        if (r % period >= from && r % period < from + len)
            memcpy(m.x + at++ * a.k, a.x + r * a.k, (size_t)a.k * sizeof(float));
    free(a.x);
    return m;
}

static matrix unrope_of(matrix a, int64_t heads)
{
    matrix m = matrix_new(a.rows, a.k);
    int64_t d = a.rows / heads;
    for (int64_t h = 0; h < heads; h++)
        for (int64_t i = 0; i < d / 2; i++)
            for (int64_t j = 0; j < 2; j++)
                memcpy(m.x + (h * d + j * d / 2 + i) * a.k, a.x + (h * d + 2 * i + j) * a.k,
                       (size_t)a.k * sizeof(float));
    free(a.x);
    return m;
}

/* Tiles of `heads` heads of d rows: head k of tile r becomes head k*R+r. */
static matrix untile_of(matrix a, int64_t heads, int64_t d)
{
    matrix m = matrix_new(a.rows, a.k);
    int64_t tiles = a.rows / heads / d;
    for (int64_t r = 0; r < tiles; r++)
        for (int64_t k = 0; k < heads; k++)
            memcpy(m.x + (k * tiles + r) * d * a.k, a.x + (r * heads + k) * d * a.k,
                   (size_t)(d * a.k) * sizeof(float));
    free(a.x);
    return m;
}

static matrix t_of(matrix a, int64_t len)
{
    matrix m = matrix_new(a.rows / len * a.k, len);
    for (int64_t r = 0; r < a.rows; r++)
        for (int64_t c = 0; c < a.k; c++)
            m.x[(r / len * a.k + c) * len + r % len] = a.x[r * a.k + c];
    free(a.x);
    return m;
}

static matrix plus1_of(matrix a)
{
    for (int64_t i = 0; i < a.rows * a.k; i++)
        a.x[i] += 1.0f;
    return a;
}

static matrix negexp_of(matrix a)
{
    for (int64_t i = 0; i < a.rows * a.k; i++)
        a.x[i] = (float)-exp((double)a.x[i]);
    return a;
}

static matrix both(matrix a, matrix b)
{
    matrix m = matrix_new(a.rows + b.rows, a.k);
    assert_int_equal(a.k, b.k);
    memcpy(m.x, a.x, (size_t)(a.rows * a.k) * sizeof(float));
    memcpy(m.x + a.rows * a.k, b.x, (size_t)(b.rows * b.k) * sizeof(float));
    free(a.x);
    free(b.x);
    return m;
}

/* ---- checks ---- */

static mr_recipe *bound(const char *text, mr_arena *arena)
{
    mr_recipe *r = NULL;
    if (mr_recipe_parse(&r, text, arena) != MR_OK || mr_recipe_bind(r, lookup, NULL) != MR_OK)
        fail_msg("%s: %s", text, mr_error());
    return r;
}

/* Rows in pieces of every length are those of `want`, in format fmt. */
static void delivers(const char *text, const char *fmt, matrix want)
{
    mr_arena *arena;
    char name[32];
    assert_int_equal(mr_arena_new(&arena, MR_MEM_OTHER), MR_OK);
    mr_recipe *r = bound(text, arena);
    assert_int_equal(mr_recipe_total(r), want.rows);
    assert_int_equal(mr_recipe_k(r), want.k);
    assert_string_equal(mr_fmt_name(mr_recipe_fmt(r), name), fmt);
    mr_recipe_scratch scratch = {0};
    float *row = malloc((size_t)want.k * sizeof(float));
    for (int64_t n = 1; n <= want.rows; n++)
        for (int64_t row0 = 0; row0 + n <= want.rows; row0++) {
            mr_rows out;
            assert_int_equal(mr_recipe_rows(r, row0, n, reader, NULL, &scratch, &out), MR_OK);
            assert_int_equal(out.n, n);
            assert_int_equal(out.k, want.k);
            mr_fmt f = {.dtype = out.dtype,
                        .bits = out.bits,
                        .group = out.group,
                        .scale_dtype = out.scale_dtype,
                        .across = out.across};
            assert_string_equal(mr_fmt_name(f, name), fmt);
            for (int64_t i = 0; i < n; i++) {
                mr_dequant_row(&out, i, row);
                if (memcmp(row, want.x + (row0 + i) * want.k, (size_t)want.k * sizeof(float)))
                    fail_msg("%s: rows %d+%d: row %d differs", text, (int)row0, (int)n, (int)i);
            }
        }
    mr_recipe_scratch_free(&scratch);
    mr_arena_free(arena);
    free(row);
    free(want.x);
}

static void rows_are_delivered(void **state)
{
    (void)state;
    delivers("a", "f32", whole("a"));
    delivers(" m ", "affine4/32/bf16", whole("m"));
    delivers("a + b", "f32", both(whole("a"), whole("b")));
    delivers("q + q2", "q4_1", both(whole("q"), whole("q2")));
    delivers("m + m2 + m", "affine4/32/bf16", both(both(whole("m"), whole("m2")), whole("m")));
    delivers("e.{0..2}.w", "f32", both(both(whole("e.0.w"), whole("e.1.w")), whole("e.2.w")));
    delivers("n", "bf16", whole("n"));
    delivers("one + a", "f32", both(whole("one"), whole("a")));
}

static void rows_are_renumbered(void **state)
{
    (void)state;
    delivers("a :rows(6,0,4)", "f32", rows_of(whole("a"), 6, 0, 4));
    delivers("a :rows(6,4,2)", "f32", rows_of(whole("a"), 6, 4, 2));
    delivers("m :rows(4,1,2)", "affine4/32/bf16", rows_of(whole("m"), 4, 1, 2));
    delivers("q :unrope(2)", "q4_1", unrope_of(whole("q"), 2));
    delivers("m :unrope(1) + m2", "affine4/32/bf16", both(unrope_of(whole("m"), 1), whole("m2")));
    delivers("a :rows(6,0,4) :unrope(2)", "f32", unrope_of(rows_of(whole("a"), 6, 0, 4), 2));
    delivers("a :unrope(3) :rows(4,2,2)", "f32", rows_of(unrope_of(whole("a"), 3), 4, 2, 2));
    delivers("e.{0..1}.w :rows(2,1,1)", "f32",
             both(rows_of(whole("e.0.w"), 2, 1, 1), rows_of(whole("e.1.w"), 2, 1, 1)));
}

static void rows_are_widened(void **state)
{
    (void)state;
    delivers("n :plus1", "f32", plus1_of(whole("n")));
    delivers("q :plus1 + q2", "f32", both(plus1_of(whole("q")), whole("q2")));
    delivers("m :rows(4,1,2) :t(2) :plus1", "f32", plus1_of(t_of(rows_of(whole("m"), 4, 1, 2), 2)));
    delivers("a :t(6) :rows(4,1,2)", "f32", rows_of(t_of(whole("a"), 6), 4, 1, 2));
    delivers("a :plus1 :unrope(2) :t(6) :rows(4,0,3)", "f32",
             rows_of(t_of(unrope_of(plus1_of(whole("a")), 2), 6), 4, 0, 3));
    delivers("a :t(3) :unrope(2)", "f32", unrope_of(t_of(whole("a"), 3), 2));
    /* unlike formats meet as f32 once one piece is widened */
    delivers("h :plus1 + a", "f32", both(plus1_of(whole("h")), whole("a")));
    delivers("e.{0..2}.w :t(2)", "f32",
             both(both(t_of(whole("e.0.w"), 2), t_of(whole("e.1.w"), 2)), t_of(whole("e.2.w"), 2)));
}

static void rows_are_transposed(void **state)
{
    (void)state;
    delivers("a :t(3)", "f32", t_of(whole("a"), 3));
    delivers("h :t(12)", "bf16", t_of(whole("h"), 12));
    delivers("h :rows(4,1,2) :t(3)", "bf16", t_of(rows_of(whole("h"), 4, 1, 2), 3));
    delivers("h :t(3) + h :rows(4,0,3) :t(3)", "bf16",
             both(t_of(whole("h"), 3), t_of(rows_of(whole("h"), 4, 0, 3), 3)));
    delivers("q :t(4)", "q4_1/across", t_of(whole("q"), 4));
    delivers("q :t(4) + q2 :t(4) + q :t(4)", "q4_1/across",
             both(both(t_of(whole("q"), 4), t_of(whole("q2"), 4)), t_of(whole("q"), 4)));
    delivers("m :rows(4,1,2) :t(2)", "affine4/32/bf16/across",
             t_of(rows_of(whole("m"), 4, 1, 2), 2));
    delivers("m :unrope(1) :t(4)", "affine4/32/bf16/across", t_of(unrope_of(whole("m"), 1), 4));
    /* what is not transposed last, or meets another format or length of runs, is f32 */
    delivers("h :t(12) :rows(2,1,1)", "f32", rows_of(t_of(whole("h"), 12), 2, 1, 1));
    delivers("q :t(4) :rows(2,1,1)", "f32", rows_of(t_of(whole("q"), 4), 2, 1, 1));
    delivers("a :t(4) + h :t(4)", "f32", both(t_of(whole("a"), 4), t_of(whole("h"), 4)));
    delivers("m :t(4) + w :t(4)", "f32", both(t_of(whole("m"), 4), t_of(whole("w"), 4)));
    delivers("q :t(4) + a", "f32", both(t_of(whole("q"), 4), whole("a")));
}

/* GGUF's order, written as its converter writes it, is undone. */
/* Along the rows it is untile of the transpose, there and back. */
static matrix untile_k_of(matrix a, int64_t heads, int64_t d)
{
    int64_t rows = a.rows, k = a.k;
    return t_of(untile_of(t_of(a, rows), heads, d), k);
}

static matrix unrope_k_of(matrix a, int64_t heads)
{
    int64_t rows = a.rows, k = a.k;
    return t_of(unrope_of(t_of(a, rows), heads), k);
}

static void turns_within_rows_are_undone(void **state)
{
    (void)state;
    delivers("a :unrope_k(1)", "f32", unrope_k_of(whole("a"), 1));
    delivers("a :unrope_k(2)", "f32", unrope_k_of(whole("a"), 2));
    delivers("h :unrope_k(1) :unrope(2)", "bf16", unrope_of(unrope_k_of(whole("h"), 1), 2));
    delivers("n :unrope_k(1)", "bf16", unrope_k_of(whole("n"), 1));
    delivers("w :unrope_k(4)", "f32", unrope_k_of(whole("w"), 4));
    delivers("w :rows(2,1,1) :unrope_k(2) :plus1", "f32",
             plus1_of(unrope_k_of(rows_of(whole("w"), 2, 1, 1), 2)));
}

static void tiles_are_undone(void **state)
{
    (void)state;
    delivers("a :untile(2,2)", "f32", untile_of(whole("a"), 2, 2));
    delivers("a :untile(3,1)", "f32", untile_of(whole("a"), 3, 1));
    delivers("q :untile(2,1) + q2", "q4_1", both(untile_of(whole("q"), 2, 1), whole("q2")));
    delivers("a :rows(12,4,8) :untile(2,2)", "f32", untile_of(rows_of(whole("a"), 12, 4, 8), 2, 2));
    delivers("a :untile(12,1)", "f32", whole("a"));
    delivers("a :untile_k(2,1)", "f32", untile_k_of(whole("a"), 2, 1));
    delivers("h :untile_k(2,1) :untile(2,3)", "bf16",
             untile_of(untile_k_of(whole("h"), 2, 1), 2, 3));
    delivers("w :untile_k(2,32)", "affine4/32/bf16", untile_k_of(whole("w"), 2, 32));
    delivers("w :untile_k(2,16) :plus1", "f32", plus1_of(untile_k_of(whole("w"), 2, 16)));
    delivers("w :rows(2,1,1) :untile_k(4,8)", "f32",
             untile_k_of(rows_of(whole("w"), 2, 1, 1), 4, 8));
    delivers("n :untile_k(2,2)", "bf16", untile_k_of(whole("n"), 2, 2));
    delivers("n :negexp", "f32", negexp_of(whole("n")));
    delivers("n :negexp :untile_k(2,1)", "f32", negexp_of(untile_k_of(whole("n"), 2, 1)));
}

static void unrope_is_the_inverse(void **state)
{
    (void)state;
    enum { HEADS = 3, D = 4 };
    tensor *t = &file[0];
    float *x = (float *)t->bytes, saved[48], row[4];
    memcpy(saved, x, sizeof saved);
    for (int h = 0; h < HEADS; h++) /* reshape(HEADS, 2, D/2, K), swap axes 1 and 2 */
        for (int i = 0; i < D / 2; i++)
            for (int j = 0; j < 2; j++)
                memcpy(x + (h * D + 2 * i + j) * 4, saved + (h * D + j * D / 2 + i) * 4, 16);
    mr_arena *arena;
    assert_int_equal(mr_arena_new(&arena, MR_MEM_OTHER), MR_OK);
    mr_recipe *r = bound("a :unrope(3)", arena);
    mr_recipe_scratch scratch = {0};
    mr_rows out;
    assert_int_equal(mr_recipe_rows(r, 0, 12, reader, NULL, &scratch, &out), MR_OK);
    for (int i = 0; i < 12; i++) {
        mr_dequant_row(&out, i, row);
        assert_memory_equal(row, saved + 4 * i, 16);
    }
    memcpy(x, saved, sizeof saved);
    mr_recipe_scratch_free(&scratch);
    mr_arena_free(arena);
}

/* Vectors join end to end: the bias of q|k|v. */
static void vectors_join(void **state)
{
    (void)state;
    matrix a = whole("n"), b = whole("n2"), ab = matrix_new(1, 12);
    memcpy(ab.x, a.x, 32);
    memcpy(ab.x + 8, b.x, 16);
    delivers("n + n2", "bf16", ab);
    matrix aba = matrix_new(1, 20);
    memcpy(aba.x, a.x, 32);
    memcpy(aba.x + 8, b.x, 16);
    memcpy(aba.x + 12, a.x, 32);
    for (int i = 12; i < 20; i++)
        aba.x[i] += 1.0f;
    delivers("n + n2 + n :plus1", "f32", aba);
    delivers("row + row", "f32", both(whole("row"), whole("row"))); /* matrices of one row */
    free(a.x);
    free(b.x);
}

static void reads_are_few(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int reads, rows;
    } cases[] = {
        {"a", 1, 12},        {"a + b", 2, 18},          {"q :unrope(2)", 1, 8},
        {"a :plus1", 1, 12}, {"a :rows(12,3,4)", 1, 4}, {"a :rows(6,0,1)", 2, 2},
        {"a :t(3)", 4, 12},  {"a :t(12)", 1, 12},       {"e.{0..2}.w", 3, 6},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        mr_arena *arena;
        mr_rows out;
        mr_recipe_scratch scratch = {0};
        assert_int_equal(mr_arena_new(&arena, MR_MEM_OTHER), MR_OK);
        mr_recipe *r = bound(cases[i].text, arena);
        reads = 0;
        rows_read = 0;
        assert_int_equal(mr_recipe_rows(r, 0, mr_recipe_total(r), reader, NULL, &scratch, &out),
                         MR_OK);
        if (reads != cases[i].reads || rows_read != cases[i].rows)
            fail_msg("%s: %d reads of %d rows", cases[i].text, reads, (int)rows_read);
        mr_recipe_scratch_free(&scratch);
        mr_arena_free(arena);
    }
}

/* A transposed run is read once, also when its rows are asked for one by one; another recipe does
 * not get it by mistake. */
static void runs_are_kept(void **state)
{
    (void)state;
    mr_arena *arena;
    mr_rows out;
    mr_recipe_scratch scratch = {0};
    assert_int_equal(mr_arena_new(&arena, MR_MEM_OTHER), MR_OK);
    mr_recipe *r = bound("h :t(12)", arena), *other = bound("a :t(12)", arena);
    reads = 0;
    for (int64_t i = 0; i < 4; i++)
        assert_int_equal(mr_recipe_rows(r, i, 1, reader, NULL, &scratch, &out), MR_OK);
    assert_int_equal(reads, 1);
    assert_int_equal(mr_recipe_rows(other, 0, 1, reader, NULL, &scratch, &out), MR_OK);
    assert_int_equal(reads, 2);
    assert_true(((const float *)out.data)[1] == 10004.0f);
    int left = 0; /* a failed read leaves no run behind */
    assert_int_equal(mr_recipe_rows(r, 0, 1, reader, &left, &scratch, &out), MR_EIO);
    assert_int_equal(mr_recipe_rows(other, 0, 1, reader, NULL, &scratch, &out), MR_OK);
    assert_int_equal(reads, 3);
    mr_recipe_scratch_free(&scratch);
    mr_arena_free(arena);
}

static mr_err collect(void *ctx, const char *name)
{
    mr_buf_printf(ctx, "%s;", name);
    return strcmp(name, "stop") ? MR_OK : MR_ECANCEL;
}

static void names_are_expanded(void **state)
{
    (void)state;
    mr_arena *arena;
    mr_recipe *r;
    mr_buf b = {0};
    assert_int_equal(mr_arena_new(&arena, MR_MEM_OTHER), MR_OK);
    assert_int_equal(mr_recipe_parse(&r, "x.{8..11}.w :plus1 + y:z", arena), MR_OK);
    assert_int_equal(mr_recipe_names(r, collect, &b), MR_OK);
    assert_string_equal(b.data, "x.8.w;x.9.w;x.10.w;x.11.w;y:z;");
    assert_int_equal(mr_recipe_parse(&r, "a + stop + b", arena), MR_OK);
    mr_buf_clear(&b);
    assert_int_equal(mr_recipe_names(r, collect, &b), MR_ECANCEL);
    assert_string_equal(b.data, "a;stop;");
    mr_buf_free(&b);
    mr_arena_free(arena);
}

static void bad_texts(void **state)
{
    (void)state;
    static const char *const bad[][2] = {
        {"", "tensor name expected"},
        {"  ", "tensor name expected"},
        {"+ a", "tensor name expected"},
        {"a +", "tensor name expected"},
        {"a + + b", "tensor name expected"},
        {":plus1", "tensor name expected"},
        {"a b", "'+' or a modifier expected before b"},
        {"a :plus", "unknown modifier :plus"},
        {"a :plus1x", "unknown modifier :plus1x"},
        {"a :", "unknown modifier :"},
        {"a :t", "unknown modifier :t"},
        {"a :t(", "unknown modifier :t("},
        {"a :t()", "unknown modifier :t()"},
        {"a :t(1", "unknown modifier :t(1"},
        {"a :t(1,2)", "unknown modifier :t(1,2)"},
        {"a :t(-1)", "unknown modifier :t(-1)"},
        {"a :t(9999999999)", "unknown modifier"},
        {"a :t(0)", ":t(0) of 0"},
        {"a :unrope(0)", ":unrope(0) of 0"},
        {"a :rows(4,2)", "unknown modifier :rows(4,2)"},
        {"a :rows(4,0,0)", ":rows(4,0,0) keeps no rows within a period"},
        {"a :rows(4,2,3)", ":rows(4,2,3) keeps no rows"},
        {"a :untile(0,1)", ":untile(0,1) of 0"},
        {"a :unrope_k(0)", ":unrope_k(0) of 0"},
        {"a :untile_k(1,0)", ":untile_k(1,0) of 0"},
        {"a :untile(1)", "unknown modifier :untile(1)"},
        {"a :negexp :negexp", "modifier :negexp is given twice"},
        {"a :plus1 :plus1", "modifier :plus1 is given twice"},
        {"a.{0..1", "holds no range"},
        {"a.{0.1}", "holds no range"},
        {"a.{..1}", "holds no range"},
        {"a.{0..}", "holds no range"},
        {"a.0}", "holds no range"},
        {"a.{0..1}.{0..1}", "or more than one"},
        {"a.{2..1}", "bad range"},
        {"a.{0..65536}", "bad range"},
        {"a.{0..65535} + b", "over 65536 tensors"},
    };
    mr_arena *arena;
    mr_recipe *r;
    assert_int_equal(mr_arena_new(&arena, MR_MEM_OTHER), MR_OK);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        expect_error(mr_recipe_parse(&r, bad[i][0], arena), MR_EFORMAT, bad[i][1]);
    size_t len = (1 << 20) + 2;
    char *text = malloc(len);
    memset(text, 'a', len);
    text[513] = 0;
    expect_error(mr_recipe_parse(&r, text, arena), MR_EFORMAT, "a name of over 512 bytes");
    text[513] = 'a';
    text[len - 1] = 0;
    expect_error(mr_recipe_parse(&r, text, arena), MR_EFORMAT, "over 1048576 bytes");
    free(text);
    mr_arena_free(arena);
}

static mr_err odd_lookup(void *ctx, const char *name, mr_stored *out)
{
    (void)name;
    *out = *(const mr_stored *)ctx;
    return MR_OK;
}

static void bad_bindings(void **state)
{
    (void)state;
    static const char *const bad[][2] = {
        {"a + missing", "file: tensor missing is missing"},
        {"ids", "ids: format i64 is not one of weights"},
        {"a + h", "formats differ: f32 and bf16"},
        {"a + wide", "rows differ in length: 4 and 5"},
        {"a :rows(5,0,1)", "a: 12 rows are not a multiple of 5, as :rows needs"},
        {"a :unrope(4)", "a: 12 rows are not a multiple of 8, as :unrope needs"},
        {"a :t(5)", "a: 12 rows are not a multiple of 5, as :t needs"},
        {"n :unrope(1)", "n: 1 rows are not a multiple of 2"},
        {"a + n2", "formats differ"},
        {"a :untile(5,1)", "a: 12 rows are not a multiple of 5, as :untile needs"},
        {"a :untile_k(3,1)", "a: rows of 4 are no multiple of 3, as :untile_k needs"},
        {"a :untile_k(2,1) :t(2)", "a: :t and :untile_k do not go together"},
        {"a :unrope_k(3)", "a: rows of 4 are no multiple of 6, as :unrope_k needs"},
        {"a :t(2) :unrope_k(1)", "a: :t and :unrope_k do not go together"},
        {"a :unrope_k(1) :untile_k(2,1)", "a: :untile_k and :unrope_k do not go together"},
    };
    mr_arena *arena;
    mr_recipe *r;
    assert_int_equal(mr_arena_new(&arena, MR_MEM_OTHER), MR_OK);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(mr_recipe_parse(&r, bad[i][0], arena), MR_OK);
        expect_error(mr_recipe_bind(r, lookup, NULL), MR_EFORMAT, bad[i][1]);
    }
    static const struct {
        mr_stored s;
        const char *message;
    } odd[] = {
        {{.rows = 0, .k = 4}, "x has 0 rows of 4"},
        {{.rows = 4, .k = 0}, "x has 4 rows of 0"},
        {{.rows = (int64_t)1 << 39, .k = (int64_t)1 << 39}, "x has 549755813888 rows"},
        {{.fmt = {.dtype = MR_Q8_0}, .rows = 4, .k = 33}, "rows of 33 are not whole blocks"},
        {{.fmt = {.dtype = MR_AFFINE, .bits = 4}, .rows = 4, .k = 64}, "are not whole blocks"},
    };
    assert_int_equal(mr_recipe_parse(&r, "x", arena), MR_OK);
    for (size_t i = 0; i < sizeof odd / sizeof *odd; i++)
        expect_error(mr_recipe_bind(r, odd_lookup, (void *)&odd[i].s), MR_EFORMAT, odd[i].message);
    mr_stored big = {.rows = (int64_t)1 << 39, .k = 512};
    assert_int_equal(mr_recipe_parse(&r, "x + y", arena), MR_OK);
    expect_error(mr_recipe_bind(r, odd_lookup, &big), MR_EFORMAT, "the result is too large");
    mr_arena_free(arena);
}

static void fits_its_value(void **state)
{
    (void)state;
    mr_graph *g = parse_ok("graph \"g\" {\n%a: weight<f32>[3,6,4] = weight recipe=\"a + b\"\n"
                           "%b: weight<f32>[12] = weight recipe=\"\"\n"
                           "%c: weight<f32>[9,8] = weight recipe=\"\"\n"
                           "%d: weight<bf16>[18,4] = weight recipe=\"\"\n"
                           "%x: i32[1] = input name=\"x\" output %x as \"x\" }");
    mr_arena *arena;
    assert_int_equal(mr_arena_new(&arena, MR_MEM_OTHER), MR_OK);
    mr_recipe *r = bound("a + b", arena);
    assert_int_equal(mr_recipe_fits(r, g, 0), MR_OK);
    for (int v = 1; v < 4; v++)
        expect_error(mr_recipe_fits(r, g, v), MR_EFORMAT,
                     "recipe \"a + b\": gives 18 rows of 4 in f32, the graph has weight<");
    assert_int_equal(mr_recipe_fits(bound("n + n2 :plus1", arena), g, 1), MR_OK);
    mr_arena_free(arena);
    mr_graph_free(g);
}

static void failures_are_passed_on(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "a", "a + b", "m :unrope(2) + m2", "a :t(3) :plus1", "n + n2", "n + n2 :plus1", "a :plus1"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        for (uint64_t n = 1;; n++) { /* allocations */
            mr_arena *arena;
            mr_recipe *r = NULL;
            mr_rows out;
            mr_recipe_scratch scratch = {0};
            mr_mem_fail_after(n);
            mr_err e = mr_arena_new(&arena, MR_MEM_OTHER);
            if (e == MR_OK) {
                e = mr_recipe_parse(&r, texts[i], arena);
                if (e == MR_OK)
                    e = mr_recipe_bind(r, lookup, NULL);
                if (e == MR_OK)
                    e = mr_recipe_rows(r, 0, mr_recipe_total(r), reader, NULL, &scratch, &out);
                mr_mem_fail_after(0);
                mr_recipe_scratch_free(&scratch);
                mr_arena_free(arena);
            }
            mr_mem_fail_after(0);
            assert_true(e == MR_OK || e == MR_ENOMEM);
            if (e == MR_OK)
                break;
        }
        for (int n = 0;; n++) { /* reads */
            mr_arena *arena;
            mr_rows out;
            mr_recipe_scratch scratch = {0};
            int left = n;
            assert_int_equal(mr_arena_new(&arena, MR_MEM_OTHER), MR_OK);
            mr_recipe *r = bound(texts[i], arena);
            mr_err e = mr_recipe_rows(r, 0, mr_recipe_total(r), reader, &left, &scratch, &out);
            mr_recipe_scratch_free(&scratch);
            mr_arena_free(arena);
            assert_true(e == MR_OK || e == MR_EIO);
            if (e == MR_OK)
                break;
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_are_delivered),     cmocka_unit_test(rows_are_renumbered),
        cmocka_unit_test(tiles_are_undone),       cmocka_unit_test(turns_within_rows_are_undone),
        cmocka_unit_test(rows_are_widened),       cmocka_unit_test(rows_are_transposed),
        cmocka_unit_test(unrope_is_the_inverse),  cmocka_unit_test(vectors_join),
        cmocka_unit_test(reads_are_few),          cmocka_unit_test(runs_are_kept),
        cmocka_unit_test(names_are_expanded),     cmocka_unit_test(bad_texts),
        cmocka_unit_test(bad_bindings),           cmocka_unit_test(fits_its_value),
        cmocka_unit_test(failures_are_passed_on),
    };
    return cmocka_run_group_tests(tests, make_file, drop_file);
}
