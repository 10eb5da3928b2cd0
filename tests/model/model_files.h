/* Model folders made for a test: safetensors or GGUF files with the tensors a config asks for, under
 * names and shapes that the test may change.  Element i of tensor n is (n + 1) * 1000 + i % 1000. */
#ifndef TESTS_MODEL_MODEL_FILES_H
#define TESTS_MODEL_MODEL_FILES_H

#include <unistd.h>

#include "base/file.h"
#include "model/configs.h"

typedef struct tensor {
    char name[200];
    int rank;
    int64_t dim[3];
    int fill; /* which numbers */
    mr_dtype type;
} tensor;

typedef struct tensors {
    tensor at[512];
    int n;
} tensors;

static char folder[64];

static inline const char *in_folder(const char *name)
{
    static char path[4][200];
    static int next;
    char *p = path[next++ % 4];
    snprintf(p, sizeof path[0], "%s/%s", folder, name);
    return p;
}

static inline int folder_make(void **state)
{
    (void)state;
    strcpy(folder, "/tmp/mr-model-XXXXXX");
    return mkdtemp(folder) ? 0 : -1;
}

static inline int folder_remove(void **state)
{
    static const char *const names[] = {"config.json", "model.safetensors", "model.gguf"};
    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        remove(in_folder(names[i]));
    return rmdir(folder);
}

static inline void put_file(const char *name, const void *bytes, size_t len)
{
    FILE *f = fopen(in_folder(name), "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, len, f), len);
    assert_int_equal(fclose(f), 0);
}

static inline tensor *add_tensor(tensors *t, const char *name, int rank, const int64_t *dim)
{
    assert_true(t->n < 512);
    tensor *x = &t->at[t->n];
    *x = (tensor){.rank = rank, .fill = t->n++};
    snprintf(x->name, sizeof x->name, "%s", name);
    memcpy(x->dim, dim, (size_t)rank * sizeof *dim);
    return x;
}

static inline tensor *find_tensor(tensors *t, const char *name)
{
    for (int i = 0; i < t->n; i++)
        if (!strcmp(t->at[i].name, name))
            return &t->at[i];
    fail_msg("no tensor %s", name);
    return NULL;
}

static inline void drop_tensor(tensors *t, const char *name)
{
    tensor *x = find_tensor(t, name);
    *x = t->at[--t->n];
}

/* What a config asks for; experts one by one. */
static inline void asked_tensors(tensors *t, const char *config)
{
    mr_model *m;
    mr_graph *g;
    t->n = 0;
    if (mr_model_open_text(&m, "config.json", config, strlen(config), NULL) != MR_OK)
        fail_msg("%s", mr_error());
    assert_int_equal(mr_model_build(m, &g), MR_OK);
    for (int i = 0; i < mr_model_asked(m); i++) {
        const mr_asked *a = mr_model_asked_at(m, i);
        const char *open = strchr(a->name, '{');
        int last;
        if (!open) {
            add_tensor(t, a->name, a->rank, a->dim);
            continue;
        }
        assert_int_equal(sscanf(open, "{0..%d}", &last), 1);
        for (int e = 0; e <= last; e++) {
            char name[200];
            snprintf(name, sizeof name, "%.*s%d%s", (int)(open - a->name), a->name, e,
                     strchr(open, '}') + 1);
            add_tensor(t, name, a->rank - 1, a->dim + 1);
        }
    }
    mr_graph_free(g);
    mr_model_close(m);
}

static inline int64_t elements(const tensor *t)
{
    int64_t n = 1;
    for (int i = 0; i < t->rank; i++)
        n *= t->dim[i];
    return n;
}

static inline float *numbers(const tensor *t)
{
    int64_t n = elements(t);
    float *x = malloc((size_t)n * sizeof *x);
    assert_non_null(x);
    for (int64_t i = 0; i < n; i++)
        x[i] = (float)((t->fill + 1) * 1000 + i % 1000);
    return x;
}

/* Writes config.json and model.safetensors; the bytes are f32 numbers whatever the type says. */
static inline void write_model(const tensors *t, const char *config)
{
    mr_st_writer *w;
    remove(in_folder("model.gguf"));
    put_file("config.json", config, strlen(config));
    assert_int_equal(mr_st_writer_open(&w, in_folder("model.safetensors"), "pt"), MR_OK);
    for (int i = 0; i < t->n; i++)
        assert_int_equal(
            mr_st_writer_declare(w, t->at[i].name, t->at[i].type, t->at[i].rank, t->at[i].dim),
            MR_OK);
    assert_int_equal(mr_st_writer_begin(w), MR_OK);
    for (int i = 0; i < t->n; i++) {
        float *x = numbers(&t->at[i]);
        assert_int_equal(
            mr_st_writer_data(w, x,
                              (size_t)(elements(&t->at[i]) * mr_dtype_block_bytes(t->at[i].type))),
            MR_OK);
        free(x);
    }
    if (mr_st_writer_commit(w) != MR_OK)
        fail_msg("%s", mr_error());
}

/* ---- GGUF ---- */

typedef struct gguf_file {
    mr_buf meta;
    uint64_t keys;
} gguf_file;

static inline void gg_u32(mr_buf *b, uint32_t v)
{
    mr_buf_add(b, &v, 4);
}

static inline void gg_u64(mr_buf *b, uint64_t v)
{
    mr_buf_add(b, &v, 8);
}

static inline void gg_text(mr_buf *b, const char *s)
{
    gg_u64(b, strlen(s));
    mr_buf_add(b, s, strlen(s));
}

static inline void gg_key(gguf_file *f, const char *key, uint32_t type)
{
    gg_text(&f->meta, key);
    gg_u32(&f->meta, type);
    f->keys++;
}

static inline void gg_int(gguf_file *f, const char *key, uint32_t v)
{
    gg_key(f, key, 4);
    gg_u32(&f->meta, v);
}

static inline void gg_num(gguf_file *f, const char *key, float v)
{
    gg_key(f, key, 6);
    mr_buf_add(&f->meta, &v, 4);
}

static inline void gg_bool(gguf_file *f, const char *key, bool v)
{
    gg_key(f, key, 7);
    mr_buf_putc(&f->meta, v);
}

static inline void gg_str(gguf_file *f, const char *key, const char *v)
{
    gg_key(f, key, 8);
    gg_text(&f->meta, v);
}

/* Writes model.gguf with the tensors in f32 and takes the folder's other files away. */
static inline void gg_write(gguf_file *f, const tensors *t)
{
    mr_buf out = {0};
    uint64_t offset = 0;
    mr_buf_puts(&out, "GGUF");
    gg_u32(&out, 3);
    gg_u64(&out, (uint64_t)t->n);
    gg_u64(&out, f->keys);
    mr_buf_add(&out, f->meta.data, f->meta.len);
    for (int i = 0; i < t->n; i++) {
        const tensor *x = &t->at[i];
        gg_text(&out, x->name);
        gg_u32(&out, (uint32_t)x->rank);
        for (int d = x->rank - 1; d >= 0; d--)
            gg_u64(&out, (uint64_t)x->dim[d]);
        gg_u32(&out, 0);
        gg_u64(&out, offset);
        offset += ((uint64_t)elements(x) * 4 + 31) / 32 * 32;
    }
    while (out.len % 32)
        mr_buf_putc(&out, 0);
    for (int i = 0; i < t->n; i++) {
        float *x = numbers(&t->at[i]);
        mr_buf_add(&out, x, (size_t)elements(&t->at[i]) * 4);
        free(x);
        while (out.len % 32)
            mr_buf_putc(&out, 0);
    }
    assert_int_equal(mr_buf_check(&out), MR_OK);
    remove(in_folder("config.json"));
    remove(in_folder("model.safetensors"));
    put_file("model.gguf", out.data, out.len);
    mr_buf_free(&out);
    mr_buf_free(&f->meta);
}

/* ---- opening ---- */

/* Opens the folder and builds; the recipe of the weight that `name` is asked as is looked up by the
 * caller in the graph. */
static inline mr_err open_folder(mr_model **m, mr_graph **g)
{
    *g = NULL;
    mr_err e = mr_model_open(m, folder, NULL);
    if (e != MR_OK)
        return e;
    e = mr_model_build(*m, g);
    if (e == MR_OK)
        e = mr_model_check_unused(*m);
    if (e != MR_OK) {
        mr_graph_free(*g);
        mr_model_close(*m);
        *g = NULL;
        *m = NULL;
    }
    return e;
}

static inline bool has_recipe(const mr_graph *g, const char *recipe)
{
    for (int i = 0; i < mr_graph_nodes(g); i++)
        if (mr_graph_node(g, i)->op == MR_OP_WEIGHT &&
            !strcmp(mr_graph_node(g, i)->attr[0].s, recipe))
            return true;
    return false;
}

static inline void opens_with(const char *recipe)
{
    mr_model *m;
    mr_graph *g;
    if (open_folder(&m, &g) != MR_OK)
        fail_msg("%s", mr_error());
    if (!has_recipe(g, recipe))
        fail_msg("no weight is \"%s\"", recipe);
    mr_graph_free(g);
    mr_model_close(m);
}

static inline void refuses(mr_err err, const char *file, const char *says)
{
    mr_model *m;
    mr_graph *g;
    mr_err e = open_folder(&m, &g);
    if (e != err || !strstr(mr_error(), says) || !strstr(mr_error(), file))
        fail_msg("error %d \"%s\", wanted %d \"%s\"", e, mr_error(), err, says);
}

#endif
