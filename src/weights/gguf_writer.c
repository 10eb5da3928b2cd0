/* Writing GGUF (version 3) as a stream.
 *
 * Metadata and tensors are declared first, so the head of the file is complete before the first byte
 * of data; nothing but the declarations is held.  Counts stand before what they count, so both
 * parts are kept apart until mr_gguf_writer_begin.  Data of each tensor starts at a multiple of 32.
 */
#include "weights/parse.h"

#include <assert.h>
#include <inttypes.h>
#include <string.h>

enum { VERSION = 3, ALIGNMENT = 32 };
/* Types of metadata values. */
enum { TYPE_U32 = 4, TYPE_I32 = 5, TYPE_F32 = 6, TYPE_BOOL = 7, TYPE_STRING = 8, TYPE_ARRAY = 9 };

struct mr_gguf_writer {
    mr_out out;
    mr_buf meta, table;
    uint64_t keys, items_left;
    uint64_t *end; /* per tensor: where its data ends */
    size_t n, cap, at;
    uint64_t declared, written; /* offsets within the data */
    bool begun;
};

/* Integers are little-endian, as on every machine this builds for but said all the same. */
static void put(mr_buf *b, uint64_t v, int bytes)
{
    for (int i = 0; i < bytes; i++)
        mr_buf_putc(b, (char)(v >> 8 * i & 255));
}

static void put_str(mr_buf *b, const char *s, size_t len)
{
    put(b, len, 8);
    mr_buf_add(b, s, len);
}

static void put_f32(mr_buf *b, float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    put(b, u, 4);
}

mr_err mr_gguf_writer_open(mr_gguf_writer **out, const char *path)
{
    *out = NULL;
    mr_gguf_writer *w = mr_zalloc(MR_MEM_COMPILE, sizeof *w);
    if (!w)
        return MR_ENOMEM;
    mr_err e = mr_out_open(&w->out, path);
    if (e != MR_OK) {
        mr_free(w);
        return e;
    }
    *out = w;
    return MR_OK;
}

/* ---- metadata; a failed append is said by begin ---- */

static void key(mr_gguf_writer *w, const char *name, int type)
{
    assert(!w->begun && !w->items_left);
    put_str(&w->meta, name, strlen(name));
    put(&w->meta, (uint64_t)type, 4);
    w->keys++;
}

void mr_gguf_writer_str(mr_gguf_writer *w, const char *name, const char *value)
{
    key(w, name, TYPE_STRING);
    put_str(&w->meta, value, strlen(value));
}

void mr_gguf_writer_u32(mr_gguf_writer *w, const char *name, uint32_t value)
{
    key(w, name, TYPE_U32);
    put(&w->meta, value, 4);
}

void mr_gguf_writer_f32(mr_gguf_writer *w, const char *name, float value)
{
    key(w, name, TYPE_F32);
    put_f32(&w->meta, value);
}

void mr_gguf_writer_bool(mr_gguf_writer *w, const char *name, bool value)
{
    key(w, name, TYPE_BOOL);
    put(&w->meta, value, 1);
}

static void array(mr_gguf_writer *w, const char *name, int type, uint64_t count)
{
    key(w, name, TYPE_ARRAY);
    put(&w->meta, (uint64_t)type, 4);
    put(&w->meta, count, 8);
    w->items_left = count;
}

void mr_gguf_writer_strings(mr_gguf_writer *w, const char *name, uint64_t count)
{
    array(w, name, TYPE_STRING, count);
}

void mr_gguf_writer_ints(mr_gguf_writer *w, const char *name, uint64_t count)
{
    array(w, name, TYPE_I32, count);
}

void mr_gguf_writer_floats(mr_gguf_writer *w, const char *name, uint64_t count)
{
    array(w, name, TYPE_F32, count);
}

void mr_gguf_writer_bools(mr_gguf_writer *w, const char *name, uint64_t count)
{
    array(w, name, TYPE_BOOL, count);
}

void mr_gguf_writer_add_str(mr_gguf_writer *w, const char *s, size_t len)
{
    assert(w->items_left);
    put_str(&w->meta, s, len);
    w->items_left--;
}

void mr_gguf_writer_add_int(mr_gguf_writer *w, int32_t v)
{
    assert(w->items_left);
    put(&w->meta, (uint32_t)v, 4);
    w->items_left--;
}

void mr_gguf_writer_add_float(mr_gguf_writer *w, float v)
{
    assert(w->items_left);
    put_f32(&w->meta, v);
    w->items_left--;
}

void mr_gguf_writer_add_bool(mr_gguf_writer *w, bool v)
{
    assert(w->items_left);
    put(&w->meta, v, 1);
    w->items_left--;
}

void mr_gguf_writer_copy(mr_gguf_writer *w, const mr_gguf *g, int i)
{
    const mr_gguf_kv *kv = &g->kv[i];
    key(w, kv->key, kv->type);
    if (kv->type == MR_RAW_ARRAY) {
        put(&w->meta, (uint64_t)kv->elem_type, 4);
        put(&w->meta, kv->count, 8);
    }
    mr_buf_add(&w->meta, g->bytes + kv->at, kv->bytes);
}

/* ---- tensors ---- */

static uint64_t aligned(uint64_t at)
{
    return (at + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

static mr_err tensor_bytes(const mr_gguf_writer *w, const char *name, mr_dtype t, int rank,
                           const int64_t *dim, uint64_t *bytes)
{
    uint64_t numbers = 1;
    int block = mr_dtype_block(t);
    for (int i = 0; i < rank; i++)
        if (dim[i] < 1 || __builtin_mul_overflow(numbers, (uint64_t)dim[i], &numbers))
            return mr_fail(MR_EUSAGE,
                           "%s: tensor \"%." MR_WNAME_SHOWN "s\": its shape is out of range",
                           w->out.path, name);
    if (rank && dim[rank - 1] % block)
        return mr_fail(MR_EUSAGE,
                       "%s: tensor \"%." MR_WNAME_SHOWN "s\": rows of %" PRId64
                       " are not whole blocks of %d",
                       w->out.path, name, dim[rank - 1], block);
    if (__builtin_mul_overflow(numbers / (uint64_t)block, (uint64_t)mr_dtype_block_bytes(t),
                               bytes) ||
        *bytes > UINT64_MAX / 2 - w->declared)
        return mr_fail(MR_EUSAGE, "%s: its tensors are too large together", w->out.path);
    return MR_OK;
}

mr_err mr_gguf_writer_declare(mr_gguf_writer *w, const char *name, mr_dtype t, int rank,
                              const int64_t *dim)
{
    assert(!w->begun && rank >= 1 && rank <= 4);
    int type = mr_gguf_type_id(t);
    uint64_t bytes = 0;
    if (type < 0)
        return mr_fail(MR_EUSAGE,
                       "%s: tensor \"%." MR_WNAME_SHOWN "s\" of dtype %s cannot be in a GGUF file",
                       w->out.path, name, mr_dtype_name(t));
    MR_TRY(tensor_bytes(w, name, t, rank, dim, &bytes));
    void *end = w->end;
    mr_err e = mr_wgrow(&end, w->n, &w->cap, sizeof *w->end);
    w->end = end;
    MR_TRY(e);
    put_str(&w->table, name, strlen(name));
    put(&w->table, (uint64_t)rank, 4);
    for (int i = rank - 1; i >= 0; i--)
        put(&w->table, (uint64_t)dim[i], 8);
    put(&w->table, (uint64_t)type, 4);
    put(&w->table, aligned(w->declared), 8);
    w->declared = aligned(w->declared) + bytes;
    w->end[w->n++] = w->declared;
    return mr_buf_check(&w->table);
}

static mr_err pad(mr_gguf_writer *w, uint64_t at)
{
    static const char zeros[ALIGNMENT];
    return mr_out_write(&w->out, zeros, (size_t)(aligned(at) - at));
}

mr_err mr_gguf_writer_begin(mr_gguf_writer *w)
{
    assert(!w->begun && !w->items_left);
    mr_buf head = {0};
    mr_buf_add(&head, "GGUF", 4);
    put(&head, VERSION, 4);
    put(&head, w->n, 8);
    put(&head, w->keys, 8);
    mr_err e = mr_buf_check(&head);
    if (e == MR_OK)
        e = mr_buf_check(&w->meta);
    if (e == MR_OK)
        e = mr_out_write(&w->out, head.data, head.len);
    if (e == MR_OK)
        e = mr_out_write(&w->out, w->meta.data ? w->meta.data : "", w->meta.len);
    if (e == MR_OK)
        e = mr_out_write(&w->out, w->table.data ? w->table.data : "", w->table.len);
    if (e == MR_OK)
        e = pad(w, head.len + w->meta.len + w->table.len);
    mr_buf_free(&head);
    w->begun = true;
    return e;
}

mr_err mr_gguf_writer_data(mr_gguf_writer *w, const void *bytes, size_t len)
{
    assert(w->begun);
    for (const char *p = bytes; len;) {
        if (w->at == w->n)
            return mr_fail(MR_EUSAGE, "%s: more data than the %" PRIu64 " bytes declared",
                           w->out.path, w->declared);
        uint64_t room = w->end[w->at] - w->written;
        size_t part = len < room ? len : (size_t)room;
        MR_TRY(mr_out_write(&w->out, p, part));
        p += part;
        len -= part;
        w->written += part;
        if (w->written < w->end[w->at])
            continue;
        MR_TRY(pad(w, w->written));
        w->written = aligned(w->written);
        w->at++;
    }
    return MR_OK;
}

static void free_writer(mr_gguf_writer *w)
{
    mr_buf_free(&w->meta);
    mr_buf_free(&w->table);
    mr_free(w->end);
    mr_free(w);
}

mr_err mr_gguf_writer_commit(mr_gguf_writer *w)
{
    mr_err e;
    if (!w->begun || w->at != w->n) {
        e = mr_fail(MR_EUSAGE, "%s: data of %zu tensors, %zu declared", w->out.path, w->at, w->n);
        mr_out_abort(&w->out);
    } else {
        e = mr_out_commit(&w->out);
    }
    free_writer(w);
    return e;
}

void mr_gguf_writer_abort(mr_gguf_writer *w)
{
    if (!w)
        return;
    mr_out_abort(&w->out);
    free_writer(w);
}
