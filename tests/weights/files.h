/* Helpers of the weights tests: a temporary folder and hand-made files in it. */
#ifndef TESTS_WEIGHTS_FILES_H
#define TESTS_WEIGHTS_FILES_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <dirent.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/mem.h"
#include "weights/weights.h"

static char files_dir[64];

static inline const char *files_at(const char *name)
{
    static char path[4][512];
    static int next;
    char *p = path[next++ % 4];
    snprintf(p, sizeof path[0], "%s/%s", files_dir, name);
    return p;
}

static inline int files_setup(void **state)
{
    (void)state;
    strcpy(files_dir, "/tmp/mr-weights-XXXXXX");
    return mkdtemp(files_dir) ? 0 : -1;
}

/* Removes what the folder holds. */
static inline void files_clear(void)
{
    DIR *d = opendir(files_dir);
    assert_non_null(d);
    struct dirent *e;
    while ((e = readdir(d)))
        if (strcmp(e->d_name, ".") && strcmp(e->d_name, ".."))
            assert_int_equal(remove(files_at(e->d_name)), 0);
    closedir(d);
}

static inline int files_teardown(void **state)
{
    (void)state;
    files_clear();
    return rmdir(files_dir);
}

static inline void files_put(const char *name, const void *bytes, size_t len)
{
    FILE *f = fopen(files_at(name), "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, len, f), len);
    assert_int_equal(fclose(f), 0);
}

static inline void files_text(const char *name, const char *text)
{
    files_put(name, text, strlen(text));
}

static inline void put_int(mr_buf *b, uint64_t v, int bytes)
{
    for (int i = 0; i < bytes; i++)
        mr_buf_putc(b, i < 8 ? (char)(v >> 8 * i) : 0);
}

/* A safetensors file: this header, then `data` bytes 0, 1, 2 ... */
static inline void st_build(mr_buf *b, const char *header, size_t data)
{
    mr_buf_clear(b);
    put_int(b, strlen(header), 8);
    mr_buf_puts(b, header);
    for (size_t i = 0; i < data; i++)
        mr_buf_putc(b, (char)i);
    assert_int_equal(mr_buf_check(b), MR_OK);
}

static inline void st_put(const char *name, const char *header, size_t data)
{
    mr_buf b = {0};
    st_build(&b, header, data);
    files_put(name, b.data, b.len);
    mr_buf_free(&b);
}

/* Appends a tensor of "DTYPE SHAPE" (NULL: none) to a header; where the next one begins. */
static inline size_t st_entry(mr_buf *h, const char *name, const char *spec, size_t at)
{
    static const struct {
        const char *dtype;
        size_t bytes;
    } sizes[] = {{"U32", 4}, {"F32", 4}, {"BF16", 2}, {"F16", 2},
                 {"U8", 1},  {"I32", 4}, {"I64", 8},  {"F8_E4M3", 1}};
    char dtype[8], shape[32] = "";
    if (!spec)
        return at;
    assert_true(sscanf(spec, "%7s %31s", dtype, shape) >= 1); /* no shape: a number */
    size_t bytes = 0;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        if (!strcmp(sizes[i].dtype, dtype))
            bytes = sizes[i].bytes;
    char copy[32];
    strcpy(copy, shape);
    for (char *p = strtok(copy, ","); p; p = strtok(NULL, ","))
        bytes *= strtoull(p, NULL, 10);
    mr_buf_printf(h, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[%s],\"data_offsets\":[%zu,%zu]}",
                  h->len > 1 ? "," : "", name, dtype, shape, at, at + bytes);
    return at + bytes;
}

/* GGUF pieces. */
static inline void g_head(mr_buf *b, uint32_t version, uint64_t tensors, uint64_t keys)
{
    mr_buf_clear(b);
    mr_buf_puts(b, "GGUF");
    put_int(b, version, 4);
    put_int(b, tensors, 8);
    put_int(b, keys, 8);
}

static inline void g_str(mr_buf *b, const char *s)
{
    put_int(b, strlen(s), 8);
    mr_buf_puts(b, s);
}

static inline void g_key(mr_buf *b, const char *key, uint32_t type, uint64_t value, int bytes)
{
    g_str(b, key);
    put_int(b, type, 4);
    put_int(b, value, bytes);
}

static inline void g_tensor(mr_buf *b, const char *name, uint32_t type, uint64_t offset,
                            uint32_t rank, uint64_t d0, uint64_t d1)
{
    g_str(b, name);
    put_int(b, rank, 4);
    for (uint32_t i = 0; i < rank && i < 8; i++)
        put_int(b, i == 0 ? d0 : i == 1 ? d1 : 1, 8);
    put_int(b, type, 4);
    put_int(b, offset, 8);
}

static inline void g_data(mr_buf *b, size_t alignment, size_t bytes)
{
    while (b->len % alignment)
        mr_buf_putc(b, 0);
    for (size_t i = 0; i < bytes; i++)
        mr_buf_putc(b, (char)i);
}

static inline bool contains(const char *text, const char *part)
{
    if (strstr(text, part))
        return true;
    print_error("message \"%s\" lacks \"%s\"\n", text, part);
    return false;
}

/* Opening fails with this code, a message that has `part` in it, and nothing left behind. */
static inline void refuse_path(const char *path, mr_jval q, mr_err code, const char *part)
{
    size_t held = mr_mem_held(MR_MEM_COMPILE) + mr_mem_held(MR_MEM_OTHER);
    mr_weights *w = NULL;
    mr_err e = mr_weights_open(&w, path, q);
    if (e == MR_OK)
        print_error("opened, should say \"%s\"\n", part);
    assert_int_not_equal(e, MR_OK);
    assert_null(w);
    assert_true(contains(mr_error(), part));
    assert_int_equal(e, code);
    assert_null(strchr(mr_error(), '\n'));
    assert_int_equal(mr_mem_held(MR_MEM_COMPILE) + mr_mem_held(MR_MEM_OTHER), held);
}

static inline void refuse_dir(mr_err code, const char *part)
{
    refuse_path(files_dir, (mr_jval){0}, code, part);
}

static inline mr_weights *open_ok(const char *path, mr_jval q)
{
    mr_weights *w;
    mr_err e = mr_weights_open(&w, path, q);
    if (e != MR_OK)
        print_error("%s\n", mr_error());
    assert_int_equal(e, MR_OK);
    return w;
}

/* config.json's "quantization"; free *doc and *text. */
static inline mr_jval read_quantization(const char *path, mr_json **doc, char **text)
{
    size_t len;
    assert_int_equal(mr_file_read_all(path, 1 << 20, MR_MEM_OTHER, text, &len), MR_OK);
    assert_int_equal(mr_json_parse(doc, path, *text, len), MR_OK);
    mr_jval q = mr_jget(mr_json_root(*doc), "quantization");
    assert_true(mr_jhas(q));
    return q;
}

/* All rows of all tensors in name order equal the stored f32, bit for bit. */
static inline void check_values(const mr_weights *w, const char *path)
{
    char *want;
    size_t len, at = 0;
    assert_int_equal(mr_file_read_all(path, 1 << 20, MR_MEM_OTHER, &want, &len), MR_OK);
    for (int i = 0; i < mr_weights_count(w); i++) {
        const mr_winfo *t = mr_weights_at(w, i);
        int64_t rows = mr_weights_rows(t);
        assert_int_equal(mr_weights_rows_bytes(t, rows), t->bytes);
        for (int64_t row = 0; row < rows; row++) {
            mr_rows r;
            void *buffer = mr_alloc(MR_MEM_OTHER, mr_weights_rows_bytes(t, 1));
            assert_int_equal(mr_weights_read(w, t, row, 1, buffer, &r), MR_OK);
            float *got = mr_alloc(MR_MEM_OTHER, (size_t)r.k * sizeof *got);
            mr_dequant_row(&r, 0, got);
            size_t bytes = (size_t)r.k * sizeof *got;
            assert_true(bytes <= len - at);
            assert_memory_equal(got, want + at, bytes);
            at += bytes;
            mr_free(got);
            mr_free(buffer);
        }
    }
    assert_int_equal(at, len);
    mr_free(want);
}

/* Every allocation of an open fails once.  `trims` of them (one per JSON text or GGUF header, when
 * a finished buffer gives back its slack) may fail unnoticed. */
static inline void check_no_memory(const char *path, mr_jval q, int trims)
{
    uint64_t before = mr_mem_allocations();
    mr_weights *w = open_ok(path, q);
    uint64_t n = mr_mem_allocations() - before;
    mr_weights_close(w);
    size_t held = mr_mem_held(MR_MEM_COMPILE) + mr_mem_held(MR_MEM_OTHER);
    assert_true(n > 3);
    for (uint64_t i = 1; i <= n; i++) {
        mr_mem_fail_after(i);
        mr_err e = mr_weights_open(&w, path, q);
        mr_mem_fail_after(0);
        if (e == MR_OK) {
            mr_weights_close(w);
            assert_true(trims-- > 0);
        } else {
            assert_int_equal(e, MR_ENOMEM);
            assert_true(contains(mr_error(), "memory"));
        }
        assert_int_equal(mr_mem_held(MR_MEM_COMPILE) + mr_mem_held(MR_MEM_OTHER), held);
    }
}

/* Every read of an open fails once. */
static inline void check_no_reads(const char *path, mr_jval q)
{
    mr_weights *w;
    size_t held = mr_mem_held(MR_MEM_COMPILE) + mr_mem_held(MR_MEM_OTHER);
    int failed = 0;
    for (uint64_t i = 1;; i++) {
        mr_file_fail_after(i);
        mr_err e = mr_weights_open(&w, path, q);
        mr_file_fail_after(0);
        if (e == MR_OK)
            break;
        failed++;
        assert_int_equal(e, MR_EIO);
        assert_true(contains(mr_error(), "cannot read"));
        assert_int_equal(mr_mem_held(MR_MEM_COMPILE) + mr_mem_held(MR_MEM_OTHER), held);
    }
    mr_weights_close(w);
    assert_true(failed >= 1);
}

#endif
