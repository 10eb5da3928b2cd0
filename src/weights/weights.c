/* Opening a model's weights, finding tensors, reading rows.
 *
 * open: files -> table of rows (safetensors.c, shards.c, gguf.c) -> sort by name, refuse
 * duplicates -> join what quantised modules store apart.  Files stay open; reads are positioned, so threads share them.
 */
#include "tensor/codes.h"
#include "weights/parse.h"

#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <string.h>

mr_err mr_weights_add_file(mr_weights *w, const char *path, int *index)
{
    void *files = w->files;
    size_t cap = (size_t)w->cap_files;
    mr_err e = mr_wgrow(&files, (size_t)w->n_files, &cap, sizeof *w->files);
    w->files = files;
    w->cap_files = (int)cap;
    MR_TRY(e);
    MR_TRY(mr_file_open(&w->files[w->n_files], path));
    *index = w->n_files++;
    return MR_OK;
}

mr_err mr_weights_sort(mr_weights *w)
{
    const mr_winfo *twice;
    if (w->table.n > INT_MAX)
        return mr_fail(MR_ELIMIT, "%s: %zu tensors are too many", mr_weights_file(w, 0),
                       w->table.n);
    MR_TRY(mr_wtable_sort(&w->table, &twice));
    if (twice)
        return mr_fail(MR_EFORMAT, "%s: tensor \"%." MR_WNAME_SHOWN "s\" appears twice",
                       mr_weights_file(w, twice->data.file), twice->name);
    return MR_OK;
}

/* The only model among the *.gguf of a directory, as dir/name in *out.  Of a split one its first file
 * counts; if that is missing, another stands for it and opening says what is not there. */
static mr_err find_gguf(const char *dir, mr_buf *out)
{
    DIR *d = opendir(dir);
    if (!d)
        return mr_fail_errno("open", dir);
    size_t models = 0, parts = 0;
    struct dirent *entry;
    while (errno = 0, (entry = readdir(d))) {
        if (!mr_ends_with(entry->d_name, ".gguf") || entry->d_name[0] == '.')
            continue;
        mr_gguf_part part;
        if (mr_gguf_part_of(entry->d_name, &part) && part.number != 1) {
            if (parts++ || models)
                continue;
        } else if (models++) {
            continue;
        }
        mr_buf_clear(out);
        mr_buf_printf(out, "%s/%s", dir, entry->d_name);
    }
    int err = errno;
    closedir(d);
    if (err) {
        errno = err;
        return mr_fail_errno("list", dir);
    }
    if (!models && !parts)
        return mr_fail(MR_EFORMAT,
                       "%s: holds no model.safetensors, no model.safetensors.index.json "
                       "and no .gguf file",
                       dir);
    if (models > 1)
        return mr_fail(MR_EFORMAT, "%s: holds %zu .gguf models; give the path of one", dir, models);
    return mr_buf_check(out);
}

static mr_err open_index(mr_weights *w, const char *dir, const char *index, const char *single)
{
    MR_TRY(mr_shards_add(w, dir, index));
    if (mr_file_exists(single) != 1)
        return MR_OK;
    for (int i = 0; i < w->n_files; i++)
        if (!strcmp(w->files[i].path, single))
            return MR_OK;
    return mr_fail(MR_EFORMAT, "%s: does not name model.safetensors, which stands beside it",
                   index);
}

static mr_err open_paths(mr_weights *w, const char *dir, mr_jval quantization, mr_buf *single,
                         mr_buf *index)
{
    mr_buf_printf(single, "%s/model.safetensors", dir);
    mr_buf_printf(index, "%s/model.safetensors.index.json", dir);
    MR_TRY(mr_buf_check(single));
    MR_TRY(mr_buf_check(index));
    if (mr_file_exists(index->data) == 1) {
        MR_TRY(open_index(w, dir, index->data, single->data));
    } else if (mr_file_exists(single->data) == 1) {
        MR_TRY(mr_safetensors_add(w, single->data));
        MR_TRY(mr_weights_sort(w));
    } else {
        mr_buf_clear(single);
        MR_TRY(find_gguf(dir, single));
        return mr_gguf_add(w, single->data);
    }
    return mr_quant_join(w, quantization);
}

static mr_err open_any(mr_weights *w, const char *path, mr_jval quantization)
{
    int kind = mr_file_exists(path);
    if (!kind)
        return mr_fail(MR_EIO, "%s: no such file or directory", path);
    if (kind == 1) {
        if (!mr_ends_with(path, ".gguf"))
            return mr_fail(MR_EFORMAT, "%s: neither a directory nor a .gguf file", path);
        return mr_gguf_add(w, path);
    }
    mr_buf single = {0}, index = {0};
    mr_err e = open_paths(w, path, quantization, &single, &index);
    mr_buf_free(&single);
    mr_buf_free(&index);
    return e;
}

mr_err mr_weights_open(mr_weights **out, const char *path, mr_jval quantization)
{
    *out = NULL;
    mr_weights *w = mr_zalloc(MR_MEM_COMPILE, sizeof *w);
    if (!w)
        return MR_ENOMEM;
    mr_err e = open_any(w, path, quantization);
    if (e != MR_OK) {
        mr_weights_close(w);
        return e;
    }
    *out = w;
    return MR_OK;
}

void mr_weights_close(mr_weights *w)
{
    if (!w)
        return;
    for (int i = 0; i < w->n_files; i++)
        mr_file_close(&w->files[i]);
    mr_free(w->files);
    mr_wtable_free(&w->table);
    mr_gguf_close(w->gguf);
    mr_free(w);
}

int mr_weights_count(const mr_weights *w)
{
    return (int)w->table.n;
}

const mr_winfo *mr_weights_at(const mr_weights *w, int i)
{
    assert(i >= 0 && (size_t)i < w->table.n);
    return &w->table.at[i];
}

const mr_winfo *mr_weights_find(const mr_weights *w, const char *name)
{
    return mr_wtable_find(&w->table, name);
}

const char *mr_weights_file(const mr_weights *w, int file)
{
    assert(file >= 0 && file < w->n_files);
    return w->files[file].path;
}

int mr_weights_files(const mr_weights *w)
{
    return w->n_files;
}

const mr_gguf *mr_weights_gguf(const mr_weights *w)
{
    return w->gguf;
}

static int64_t row_length(const mr_winfo *t)
{
    return t->rank ? t->dim[t->rank - 1] : 1;
}

int64_t mr_weights_rows(const mr_winfo *t)
{
    int64_t rows = 1;
    for (int i = 0; i + 1 < t->rank; i++)
        rows *= t->dim[i];
    return rows;
}

size_t mr_weights_rows_bytes(const mr_winfo *t, int64_t rows)
{
    assert(rows >= 0);
    int64_t k = row_length(t);
    return (size_t)rows * (mr_row_bytes(t->dtype, t->bits, k) +
                           mr_row_side_bytes(t->dtype, t->group, t->scale_dtype, k));
}

static mr_err read_part(const mr_weights *w, const mr_wpart *part, int64_t row0, int64_t rows,
                        size_t row_bytes, void *dst)
{
    uint64_t skip = (uint64_t)row0 * row_bytes, bytes = (uint64_t)rows * row_bytes;
    assert(skip + bytes <= part->bytes);
    return bytes ? mr_file_pread(&w->files[part->file], part->offset + skip, dst, bytes) : MR_OK;
}

/* A scale per group of each row: blocks are read to the end of the buffer, then spread from its
 * start, widened to f32.  Behind group g of row i are at least as many groups as scales, so none is
 * written over unread. */
static mr_err read_scales(const mr_weights *w, const mr_winfo *t, int64_t row0, int64_t rows,
                          size_t row_bytes, uint8_t *dst)
{
    if (!t->block_cols || !rows)
        return read_part(w, &t->scales, row0, rows, row_bytes, dst);
    int64_t k = row_length(t), first = mr_weights_scale_row(t, row0),
            n = mr_weights_scale_row(t, row0 + rows - 1) - first + 1;
    size_t groups = row_bytes / sizeof(float), size = (size_t)mr_dtype_block_bytes(t->block_scale);
    size_t numbers = (size_t)(k / t->block_cols + (k % t->block_cols != 0));
    uint8_t *blocks = dst + (size_t)rows * row_bytes - (size_t)n * numbers * size;
    MR_TRY(read_part(w, &t->scales, first, n, numbers * size, blocks));
    for (int64_t i = 0; i < rows; i++) {
        const uint8_t *from =
            blocks + (size_t)(mr_weights_scale_row(t, row0 + i) - first) * numbers * size;
        for (size_t g = 0; g < groups; g++) {
            size_t at = g * (size_t)t->group / (size_t)t->block_cols;
            float s = mr_number_load(t->block_scale, from + at * size);
            memcpy(dst + (size_t)i * row_bytes + g * sizeof s, &s, sizeof s);
        }
    }
    return MR_OK;
}

static bool holds(const uint8_t *p, size_t n, int mask, int byte)
{
    bool found = false;
    for (size_t i = 0; i < n; i++)
        found |= (p[i] & mask) == byte;
    return found;
}

/* The kernels know no NaN in 8 bits; no sound file holds one. */
static mr_err check_nan(const mr_weights *w, const mr_winfo *t, const mr_rows *r, size_t data,
                        size_t scales)
{
    bool bad = (t->bits == 8 && holds(r->data, data, 0x7f, 0x7f)) ||
               (t->scale_dtype == MR_F8_E8M0 && holds(r->scales, scales, 0xff, 0xff)) ||
               (t->scale_dtype == MR_F8_E4M3 && holds(r->scales, scales, 0x7f, 0x7f));
    return bad ? mr_fail(MR_EFORMAT, "%s: tensor \"%." MR_WNAME_SHOWN "s\" holds NaN",
                         mr_weights_file(w, t->data.file), t->name)
               : MR_OK;
}

mr_err mr_weights_read(const mr_weights *w, const mr_winfo *t, int64_t row0, int64_t rows,
                       void *buffer, mr_rows *out)
{
    assert(row0 >= 0 && rows >= 0 && rows <= mr_weights_rows(t) - row0);
    int64_t k = row_length(t);
    if (t->wide.dtype != MR_F32) {
        *out = (mr_rows){.dtype = MR_F32, .n = rows, .k = k, .data = buffer};
        return mr_wide_read(w, t, row0, rows, buffer);
    }
    size_t data = mr_row_bytes(t->dtype, t->bits, k),
           scale = mr_row_scale_bytes(t->dtype, t->group, t->scale_dtype, k);
    uint8_t *scales = (uint8_t *)buffer + (size_t)rows * data;
    uint8_t *biases = scales + (size_t)rows * scale;
    MR_TRY(read_part(w, &t->data, row0, rows, data, buffer));
    *out = (mr_rows){.dtype = t->dtype, .n = rows, .k = k, .data = buffer};
    if (!mr_dtype_is_grouped(t->dtype))
        return MR_OK;
    MR_TRY(read_scales(w, t, row0, rows, scale, scales));
    out->bits = t->bits;
    out->group = t->group;
    out->scale_dtype = t->scale_dtype;
    out->scales = scales;
    if (t->dtype == MR_AFFINE) {
        MR_TRY(read_part(w, &t->biases, row0, rows, scale, biases));
        out->biases = biases;
    }
    return t->dtype == MR_FP ? check_nan(w, t, out, (size_t)rows * data, (size_t)rows * scale)
                             : MR_OK;
}
