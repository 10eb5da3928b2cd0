/* Fuzzing GGUF: the input is a whole file.
 *
 * Parsed whole, and again from half its bytes, as the loader does with long metadata.  Accepted
 * metadata is read to its end through every accessor; accepted tensors must lie inside the file
 * and apart, and their rows can be dequantised where they stand.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "weights/parse.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(int holds)
{
    if (!holds)
        abort();
}

static void read_array(const mr_gguf *g, const char *key)
{
    mr_gguf_array a;
    mr_str s;
    double d;
    require(mr_gguf_arr(g, key, &a) == MR_OK);
    while (a.next < a.count) {
        uint64_t before = a.next;
        if (a.elem == MR_GGUF_STRING)
            require(mr_gguf_arr_str(&a, &s) == MR_OK);
        else if (mr_gguf_arr_num(&a, &d) != MR_OK)
            return; /* a u64 beyond int64 */
        require(a.next == before + 1);
    }
    require(a.at == a.end);
}

static void read_metadata(const mr_gguf *g)
{
    for (int i = 0; i < mr_gguf_keys(g); i++) {
        const char *key = mr_gguf_key(g, i);
        int64_t n;
        double d;
        mr_str s;
        mr_gguf_type kind = mr_gguf_kind(g, key);
        require(kind != MR_GGUF_ABSENT);
        if (kind == MR_GGUF_ARRAY)
            read_array(g, key);
        require((mr_gguf_str(g, key, &s) == MR_OK) == (kind == MR_GGUF_STRING));
        if (mr_gguf_int(g, key, &n) == MR_OK)
            require(kind == MR_GGUF_INT && mr_gguf_num(g, key, &d) == MR_OK);
    }
}

static void check_tensor(const mr_winfo *t, const uint8_t *data, size_t size)
{
    int64_t k = t->rank ? t->dim[t->rank - 1] : 1, rows = mr_weights_rows(t);
    require(t->data.file == 7 && t->data.offset <= size && t->bytes <= size - t->data.offset);
    require(rows > 0 && k > 0 && mr_weights_rows_bytes(t, rows) == t->bytes);
    float values[4096];
    mr_rows r = {.dtype = t->dtype, .n = rows, .k = k, .data = data + t->data.offset};
    if (k <= 4096)
        mr_dequant_row(&r, rows - 1, values);
}

/* Blocks and the numbers that they are times become one tensor, which comes as f32. */
static void check_join(mr_wtable *t, mr_gguf *g, const uint8_t *data, size_t size)
{
    char path[] = "input";
    int fd = memfd_create("input", 0);
    require(fd >= 0 && write(fd, data, size) == (ssize_t)size);
    mr_file files[8] = {[7] = {.fd = fd, .size = size, .path = path}};
    mr_weights w = {.files = files, .n_files = 8, .table = *t, .gguf = g};
    mr_err e = mr_gguf_join(&w);
    for (size_t i = 0; e == MR_OK && i < w.table.n; i++) {
        const mr_winfo *x = &w.table.at[i];
        int64_t k = x->rank ? x->dim[x->rank - 1] : 1;
        float values[4096];
        mr_rows r;
        if (x->wide.dtype != MR_F32 && k <= 4096)
            require(mr_weights_read(&w, x, mr_weights_rows(x) - 1, 1, values, &r) != MR_EIO);
    }
    *t = w.table;
    close(fd);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    mr_gguf *g, *half;
    mr_wtable t = {0}, t_half = {0};
    uint64_t want, want_half;
    mr_err e = mr_gguf_parse(&g, "input", 7, data, size, size, &t, &want);
    require(want == 0);
    require(e == MR_OK || (mr_error()[0] && !strchr(mr_error(), '\n')));
    if (e == MR_OK) {
        const mr_winfo *twice;
        require(mr_wtable_sort(&t, &twice) == MR_OK);
        read_metadata(g);
        for (size_t i = 0; i < t.n; i++)
            check_tensor(&t.at[i], data, size);
        if (!twice)
            check_join(&t, g, data, size);
    }
    /* From half the bytes: the same outcome, or a plain wish for more. */
    mr_err e_half = mr_gguf_parse(&half, "input", 7, data, size / 2, size, &t_half, &want_half);
    if (want_half)
        require(e_half == MR_ELIMIT && !half && want_half > size / 2 && want_half <= size);
    else
        require(e_half == e);
    mr_gguf_close(half);
    mr_gguf_close(g);
    mr_wtable_free(&t_half);
    mr_wtable_free(&t);
    return 0;
}
