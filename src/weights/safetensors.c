/* Safetensors: u64 length, a JSON header, then the data that the header lays out.
 *
 * A header is accepted only if its tensors tile the data exactly: sorted by offset, each begins
 * where the one before ended, the first at 0 and the last at the end of the file.  That one rule
 * covers overlaps, gaps, truncation and trailing bytes.
 */
#include "weights/parse.h"

#include <assert.h>
#include <inttypes.h>
#include <string.h>

static const char *const dtype_names[MR_DTYPE_COUNT] = {
    [MR_BF16] = "BF16",       [MR_F16] = "F16",         [MR_F32] = "F32",
    [MR_F64] = "F64",         [MR_I8] = "I8",           [MR_U8] = "U8",
    [MR_I16] = "I16",         [MR_U16] = "U16",         [MR_I32] = "I32",
    [MR_U32] = "U32",         [MR_I64] = "I64",         [MR_U64] = "U64",
    [MR_BOOL] = "BOOL",       [MR_F8_E4M3] = "F8_E4M3", [MR_F8_E5M2] = "F8_E5M2",
    [MR_F8_E8M0] = "F8_E8M0",
};

const char *mr_safetensors_dtype_name(mr_dtype t)
{
    return dtype_names[t];
}

mr_err mr_safetensors_header_len(const char *file, const uint8_t first[8], uint64_t file_size,
                                 size_t *len)
{
    uint64_t n = mr_load_le(first, 8);
    if (n > MR_ST_HEADER_MAX)
        return mr_fail(MR_EFORMAT,
                       "%s: header of %" PRIu64 " bytes; at most %" PRIu64 " are allowed", file, n,
                       MR_ST_HEADER_MAX);
    if (n > file_size - 8)
        return mr_fail(MR_EFORMAT, "%s: header of %" PRIu64 " bytes in a file of %" PRIu64, file, n,
                       file_size);
    if (n < 2)
        return mr_fail(MR_EFORMAT, "%s: header of %" PRIu64 " bytes is too short", file, n);
    *len = (size_t)n;
    return MR_OK;
}

static mr_err read_dtype(mr_jval v, mr_dtype *out)
{
    for (int t = 0; t < MR_DTYPE_COUNT; t++) {
        if (dtype_names[t] && mr_jis(v, dtype_names[t])) {
            *out = (mr_dtype)t;
            return MR_OK;
        }
    }
    mr_str raw = mr_jraw(v);
    return mr_jfail(v, "unknown dtype %.*s", raw.len > 40 ? 40 : (int)raw.len, raw.data);
}

static mr_err read_shape(mr_jval v, mr_winfo *t)
{
    if (mr_jtype(v) != MR_JARRAY)
        return mr_jfail(v, "is not an array of sizes");
    uint32_t rank = mr_jcount(v);
    if (rank > MR_WRANK) {
        mr_jfail(v, "rank %" PRIu32 " is not supported (at most %d)", rank, MR_WRANK);
        return MR_EUNSUPPORTED;
    }
    t->rank = 0;
    for (mr_jval c = mr_jfirst(v); c.doc; c = mr_jnext(c))
        MR_TRY(mr_jint(c, 0, INT64_MAX, &t->dim[t->rank++]));
    return MR_OK;
}

static mr_err read_offsets(mr_jval v, uint64_t data_bytes, mr_winfo *t)
{
    int64_t at[2];
    if (mr_jtype(v) != MR_JARRAY || mr_jcount(v) != 2)
        return mr_jfail(v, "is not a pair of offsets");
    int i = 0;
    for (mr_jval c = mr_jfirst(v); c.doc; c = mr_jnext(c))
        MR_TRY(mr_jint(c, 0, INT64_MAX, &at[i++]));
    if (at[0] > at[1])
        return mr_jfail(v, "begin %" PRId64 " is after end %" PRId64, at[0], at[1]);
    if ((uint64_t)at[1] > data_bytes)
        return mr_jfail(v, "end %" PRId64 " is beyond the %" PRIu64 " bytes of data", at[1],
                        data_bytes);
    t->data.offset = (uint64_t)at[0];
    t->data.bytes = (uint64_t)(at[1] - at[0]);
    return MR_OK;
}

/* The stated shape and dtype must need exactly the bytes between the offsets.  Sizes of 0 are left
 * out of the overflow check's product: no later product of some of the sizes can then overflow. */
static mr_err check_size(mr_jval entry, const mr_winfo *t)
{
    int64_t product = mr_dtype_block_bytes(t->dtype);
    bool empty = false;
    for (int i = 0; i < t->rank; i++) {
        empty |= !t->dim[i];
        if (__builtin_mul_overflow(product, t->dim[i] ? t->dim[i] : 1, &product))
            return mr_jfail(entry, "the product of its shape overflows");
    }
    uint64_t bytes = empty ? 0 : (uint64_t)product;
    if (bytes != t->data.bytes)
        return mr_jfail(entry, "shape and dtype need %" PRIu64 " bytes, data_offsets give %" PRIu64,
                        bytes, t->data.bytes);
    return MR_OK;
}

static mr_err read_entry(mr_jval entry, uint64_t data_bytes, mr_buf *scratch, mr_winfo *t)
{
    enum { DTYPE = 1, SHAPE = 2, OFFSETS = 4 };
    int seen = 0;
    if (mr_jtype(entry) != MR_JOBJECT)
        return mr_jfail(entry, "is not an object");
    for (mr_jval c = mr_jfirst(entry); c.doc; c = mr_jnext(c)) {
        mr_str key;
        MR_TRY(mr_jkey(c, scratch, &key));
        if (mr_str_is(key, "dtype")) {
            seen |= DTYPE;
            MR_TRY(read_dtype(c, &t->dtype));
        } else if (mr_str_is(key, "shape")) {
            seen |= SHAPE;
            MR_TRY(read_shape(c, t));
        } else if (mr_str_is(key, "data_offsets")) {
            seen |= OFFSETS;
            MR_TRY(read_offsets(c, data_bytes, t));
        } else {
            return mr_jfail(c, "unknown key in a tensor's entry");
        }
    }
    if (seen != (DTYPE | SHAPE | OFFSETS))
        return mr_jfail(entry, "has no %s",
                        !(seen & DTYPE)   ? "dtype"
                        : !(seen & SHAPE) ? "shape"
                                          : "data_offsets");
    return check_size(entry, t);
}

static mr_err check_metadata(mr_jval v)
{
    if (mr_jtype(v) == MR_JNULL) /* as MLX writes none */
        return MR_OK;
    if (mr_jtype(v) != MR_JOBJECT)
        return mr_jfail(v, "is not an object");
    for (mr_jval c = mr_jfirst(v); c.doc; c = mr_jnext(c))
        if (mr_jtype(c) != MR_JSTRING)
            return mr_jfail(c, "is not a string");
    return MR_OK;
}

static int by_offset(const void *a, const void *b)
{
    const mr_wpart *x = &((const mr_winfo *)a)->data, *y = &((const mr_winfo *)b)->data;
    if (x->offset != y->offset)
        return x->offset < y->offset ? -1 : 1;
    /* An empty tensor may stand where the next one begins. */
    return x->bytes < y->bytes ? -1 : x->bytes > y->bytes;
}

static mr_err check_tiling(const char *file, mr_winfo **rows, size_t n, uint64_t data_bytes)
{
    uint64_t end = 0;
    MR_TRY(mr_wsort((void **)rows, n, by_offset));
    for (size_t i = 0; i < n; i++) {
        const mr_winfo *t = rows[i];
        if (t->data.offset != end)
            return mr_fail(MR_EFORMAT,
                           "%s: tensor \"%." MR_WNAME_SHOWN "s\" begins at %" PRIu64
                           ", but the data before it ends at %" PRIu64 " (%s)",
                           file, t->name, t->data.offset, end,
                           t->data.offset < end ? "overlap" : "gap");
        end += t->data.bytes;
    }
    if (end != data_bytes)
        return mr_fail(MR_EFORMAT, "%s: %" PRIu64 " bytes of data, but its tensors end at %" PRIu64,
                       file, data_bytes, end);
    return MR_OK;
}

static mr_err read_entries(const mr_json *doc, const char *file, uint64_t data_bytes, mr_wtable *t)
{
    mr_jval root = mr_json_root(doc);
    assert(mr_jtype(root) == MR_JOBJECT); /* the text begins with '{' */
    mr_buf scratch = {0};
    mr_err e = MR_OK;
    for (mr_jval c = mr_jfirst(root); c.doc && e == MR_OK; c = mr_jnext(c)) {
        mr_str name;
        mr_winfo *row;
        e = mr_jkey(c, &scratch, &name);
        if (e == MR_OK && mr_str_is(name, "__metadata__")) {
            e = check_metadata(c);
            continue;
        }
        if (e == MR_OK)
            e = mr_wtable_add(t, file, name, &row);
        if (e == MR_OK)
            e = read_entry(c, data_bytes, &scratch, row);
    }
    mr_buf_free(&scratch);
    return e;
}

mr_err mr_safetensors_parse_header(const char *file, int index, const char *header, size_t len,
                                   uint64_t data_bytes, mr_wtable *t)
{
    size_t first = t->n;
    mr_json *doc;
    if (header[0] != '{')
        return mr_fail(MR_EFORMAT, "%s: header does not begin with '{'", file);
    MR_TRY(mr_json_parse(&doc, file, header, len));
    mr_err e = read_entries(doc, file, data_bytes, t);
    mr_json_free(doc);
    MR_TRY(e);

    size_t n = t->n - first;
    mr_winfo **rows = mr_alloc(MR_MEM_COMPILE, n * sizeof *rows);
    if (!rows)
        return MR_ENOMEM;
    for (size_t i = 0; i < n; i++)
        rows[i] = &t->at[first + i];
    e = check_tiling(file, rows, n, data_bytes);
    mr_free(rows);
    MR_TRY(e);
    for (size_t i = first; i < t->n; i++) {
        t->at[i].data.file = index;
        t->at[i].data.offset += 8 + len;
        t->at[i].bytes = t->at[i].data.bytes;
    }
    return MR_OK;
}

mr_err mr_safetensors_add(mr_weights *w, const char *path)
{
    int index;
    uint8_t first[8];
    size_t len;
    MR_TRY(mr_weights_add_file(w, path, &index));
    const mr_file *f = &w->files[index];
    if (f->size < sizeof first)
        return mr_fail(MR_EFORMAT, "%s: %" PRIu64 " bytes are too few for a safetensors file", path,
                       f->size);
    MR_TRY(mr_file_pread(f, 0, first, sizeof first));
    MR_TRY(mr_safetensors_header_len(path, first, f->size, &len));
    char *header = mr_alloc(MR_MEM_COMPILE, len);
    if (!header)
        return MR_ENOMEM;
    mr_err e = mr_file_pread(f, 8, header, len);
    if (e == MR_OK)
        e = mr_safetensors_parse_header(path, index, header, len, f->size - 8 - len, &w->table);
    mr_free(header);
    return e;
}
