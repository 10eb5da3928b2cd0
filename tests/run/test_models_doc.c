/* docs/models.md says which vector proves which family in which format; `test_models_doc --print`
 * writes its tables from tests/vectors and its README. */
#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/file.h"
#include "model/family.h"

#define VECTORS "tests/vectors"
enum { MAX_CASES = 400, NAME = 80, WHAT = 400 };

static const char begin[] = "<!-- tables: by tests/run/test_models_doc --print -->\n";
static const char end[] = "<!-- end of tables -->\n";

#define F(name) extern const mr_family mr_family_##name;
#include "model/families.def"
#undef F
static const mr_family *const families[] = {
#define F(name) &mr_family_##name,
#include "model/families.def"
#undef F
};
enum { FAMILIES = sizeof families / sizeof *families };

/* Columns of formats; a model counts for each that one of its tensors has. */
static const char *const columns[] = {"f32 f16 bf16", "FP8",  "int4",   "MLX affine", "MLX mx, nv",
                                      "GGUF floats",  "Q8_0", "Q4, Q5", "K-quants",   "IQ4, FP4"};
enum { COLUMNS = sizeof columns / sizeof *columns };

typedef struct vector {
    char name[NAME], type[NAME], what[WHAT];
    const mr_family *family;
    bool in[COLUMNS];
    char affine[NAME]; /* "4 g64, 8 g64" */
} vector;

static vector cases[MAX_CASES];
static int n_cases;

static void add_affine(vector *v, const mr_winfo *t)
{
    char one[24];
    snprintf(one, sizeof one, "%d g%d", t->bits, t->group);
    if (strstr(v->affine, one))
        return;
    size_t n = strlen(v->affine);
    snprintf(v->affine + n, sizeof v->affine - n, "%s%s", n ? ", " : "", one);
}

static int column_of(const mr_winfo *t, bool gguf)
{
    switch (t->dtype) {
    case MR_F32:
    case MR_F16:
    case MR_BF16:
        return gguf ? 5 : 0;
    case MR_INT:
        return 2;
    case MR_AFFINE:
        return 3;
    case MR_FP:
        return t->scale_dtype == MR_F32 || t->scale_dtype == MR_BF16 ? 1 : 4;
    case MR_Q8_0:
        return 6;
    case MR_Q4_0:
    case MR_Q4_1:
    case MR_Q5_0:
    case MR_Q5_1:
        return 7;
    case MR_Q2_K:
    case MR_Q3_K:
    case MR_Q4_K:
    case MR_Q5_K:
    case MR_Q6_K:
        return 8;
    default:
        return 9;
    }
}

/* Floats count only where nothing is quantised: beside quantised matrices they are norms. */
static void formats_of(vector *v, const mr_weights *w)
{
    bool gguf = mr_weights_gguf(w) != NULL, quantised = false;
    for (int i = 0; i < mr_weights_count(w); i++) {
        const mr_winfo *t = mr_weights_at(w, i);
        quantised |= mr_dtype_is_quantised(t->dtype);
        v->in[column_of(t, gguf)] = true;
        if (t->dtype == MR_AFFINE)
            add_affine(v, t);
    }
    if (quantised)
        v->in[0] = v->in[5] = false;
}

static void add_case(const char *name)
{
    char path[300];
    vector *v = &cases[n_cases];
    mr_model *m;
    mr_model_opts o = {0};
    snprintf(path, sizeof path, VECTORS "/%s/case.json", name);
    if (mr_file_exists(path) != 1)
        return;
    snprintf(path, sizeof path, VECTORS "/%s", name);
    if (mr_model_open(&m, path, &o)) {
        fprintf(stderr, "%s\n", mr_error());
        abort();
    }
    snprintf(v->name, sizeof v->name, "%s", name);
    snprintf(v->type, sizeof v->type, "%s", mr_model_facts(m)->model_type);
    v->family = mr_model_family(m);
    formats_of(v, mr_model_weights(m));
    mr_model_close(m);
    n_cases++;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const vector *)a)->name, ((const vector *)b)->name);
}

/* "| name | what |" of the README. */
static bool described(vector *v, const char *readme)
{
    mr_buf start = {0};
    mr_buf_printf(&start, "\n| %s | ", v->name);
    const char *at = start.failed ? NULL : strstr(readme, start.data);
    at = at ? at + start.len : NULL;
    mr_buf_free(&start);
    if (!at)
        return false;
    const char *stop = strstr(at, " |\n");
    snprintf(v->what, sizeof v->what, "%.*s", stop ? (int)(stop - at) : 0, at);
    return stop != NULL;
}

static void read_cases(void)
{
    DIR *d = opendir(VECTORS);
    char *readme;
    size_t len;
    if (!d || mr_file_read_all(VECTORS "/README.md", 1 << 20, MR_MEM_OTHER, &readme, &len))
        abort();
    for (struct dirent *e; (e = readdir(d));)
        if (e->d_name[0] != '.' && n_cases < MAX_CASES)
            add_case(e->d_name);
    closedir(d);
    qsort(cases, (size_t)n_cases, sizeof *cases, by_name);
    for (int i = 0; i < n_cases; i++)
        if (!described(&cases[i], readme))
            snprintf(cases[i].what, WHAT, "NOT DESCRIBED in " VECTORS "/README.md");
    mr_free(readme);
}

static void list(mr_buf *out, const char *const *names)
{
    for (int i = 0; names[i]; i++)
        mr_buf_printf(out, "%s%s", i ? ", " : "", names[i]);
}

static void grid(mr_buf *out)
{
    mr_buf_puts(out, "| family | model_type | GGUF |");
    for (int c = 0; c < COLUMNS; c++)
        mr_buf_printf(out, " %s |", columns[c]);
    mr_buf_puts(out, "\n|---|---|---|");
    for (int c = 0; c < COLUMNS; c++)
        mr_buf_puts(out, "---|");
    mr_buf_puts(out, "\n");
    for (int f = 0; f < FAMILIES; f++) {
        mr_buf_printf(out, "| %s | ", families[f]->name);
        list(out, families[f]->model_types);
        mr_buf_puts(out, " | ");
        list(out, families[f]->archs);
        mr_buf_puts(out, " |");
        for (int c = 0; c < COLUMNS; c++) {
            int n = 0;
            for (int i = 0; i < n_cases; i++)
                n += cases[i].family == families[f] && cases[i].in[c];
            if (n)
                mr_buf_printf(out, " %d |", n);
            else
                mr_buf_puts(out, " |");
        }
        mr_buf_puts(out, "\n");
    }
}

static void vectors_of(mr_buf *out, const mr_family *f)
{
    mr_buf_printf(
        out, "\n### %s\n\n| vector | model_type | formats | what it proves |\n|---|---|---|---|\n",
        f->name);
    for (int i = 0; i < n_cases; i++) {
        const vector *v = &cases[i];
        bool first = true;
        if (v->family != f)
            continue;
        mr_buf_printf(out, "| %s | %s | ", v->name, v->type);
        for (int c = 0; c < COLUMNS; c++) {
            if (!v->in[c])
                continue;
            mr_buf_printf(out, "%s%s", first ? "" : ", ", columns[c]);
            if (c == 3)
                mr_buf_printf(out, " (%s)", v->affine);
            first = false;
        }
        mr_buf_printf(out, " | %s |\n", v->what);
    }
}

static void tables(mr_buf *out)
{
    read_cases();
    mr_buf_puts(out, begin);
    grid(out);
    for (int f = 0; f < FAMILIES; f++)
        vectors_of(out, families[f]);
    mr_buf_puts(out, end);
}

static void docs_are_up_to_date(void **state)
{
    (void)state;
    char *text;
    size_t len;
    mr_buf want = {0};
    if (mr_file_read_all("docs/models.md", 1 << 20, MR_MEM_OTHER, &text, &len) != MR_OK)
        fail_msg("%s", mr_error());
    tables(&want);
    const char *at = strstr(text, begin);
    assert_non_null(at);
    const char *stop = strstr(at, end);
    assert_non_null(stop);
    size_t n = (size_t)(stop - at) + strlen(end);
    if (n != want.len || memcmp(at, want.data, n))
        fail_msg("docs/models.md is out of date: test_models_doc --print gives its tables");
    assert_null(strstr(want.data, "NOT DESCRIBED"));
    mr_buf_free(&want);
    mr_free(text);
}

int main(int argc, char **argv)
{
    if (argc == 2 && !strcmp(argv[1], "--print")) {
        mr_buf b = {0};
        tables(&b);
        fputs(b.data, stdout);
        mr_buf_free(&b);
        return 0;
    }
    const struct CMUnitTest tests[] = {cmocka_unit_test(docs_are_up_to_date)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
