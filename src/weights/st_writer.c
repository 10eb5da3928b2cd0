/* Writing safetensors as a stream.
 *
 * All tensors are declared first, so the header is complete before the first byte of data; nothing
 * but the declarations is held.  The header is padded with spaces so that data starts at a
 * multiple of 8.
 */
#include "weights/parse.h"

#include <assert.h>
#include <inttypes.h>
#include <string.h>

struct mr_st_writer {
    mr_out out;
    mr_buf header;
    char **names;
    size_t n, cap;
    mr_arena *arena;
    uint64_t declared, written;
    bool begun;
};

mr_err mr_st_writer_open(mr_st_writer **out, const char *path, const char *format)
{
    *out = NULL;
    mr_st_writer *w = mr_zalloc(MR_MEM_COMPILE, sizeof *w);
    if (!w)
        return MR_ENOMEM;
    mr_err e = mr_arena_new(&w->arena, MR_MEM_COMPILE);
    if (e == MR_OK) {
        mr_buf_puts(&w->header, "{\"__metadata__\":{\"format\":");
        mr_buf_json(&w->header, format, strlen(format));
        mr_buf_puts(&w->header, "}");
        e = mr_buf_check(&w->header);
    }
    if (e == MR_OK)
        e = mr_out_open(&w->out, path);
    if (e != MR_OK) {
        mr_buf_free(&w->header);
        mr_arena_free(w->arena);
        mr_free(w);
        return e;
    }
    *out = w;
    return MR_OK;
}

mr_err mr_st_writer_declare(mr_st_writer *w, const char *name, mr_dtype t, int rank,
                            const int64_t *dim)
{
    assert(!w->begun && rank >= 0 && rank <= 4);
    const char *dtype = mr_safetensors_dtype_name(t);
    MR_TRY(mr_wname_check(w->out.path, "tensor name", (mr_str){name, strlen(name)}));
    if (!dtype || !strcmp(name, "__metadata__"))
        return mr_fail(MR_EUSAGE,
                       "%s: tensor \"%." MR_WNAME_SHOWN "s\" of dtype %s cannot be in a "
                       "safetensors file",
                       w->out.path, name, mr_dtype_name(t));
    uint64_t bytes = (uint64_t)mr_dtype_block_bytes(t), end;
    for (int i = 0; i < rank; i++)
        if (dim[i] < 0 || __builtin_mul_overflow(bytes, (uint64_t)dim[i], &bytes))
            return mr_fail(MR_EUSAGE,
                           "%s: tensor \"%." MR_WNAME_SHOWN "s\": its shape is out of range",
                           w->out.path, name);
    if (__builtin_add_overflow(w->declared, bytes, &end))
        return mr_fail(MR_EUSAGE, "%s: its tensors are too large together", w->out.path);

    void *names = w->names;
    mr_err e = mr_wgrow(&names, w->n, &w->cap, sizeof *w->names);
    w->names = names;
    MR_TRY(e);
    w->names[w->n] = mr_arena_strdup(w->arena, name);
    if (!w->names[w->n])
        return MR_ENOMEM;
    w->n++;
    mr_buf_puts(&w->header, ",");
    mr_buf_json(&w->header, name, strlen(name));
    mr_buf_printf(&w->header, ":{\"dtype\":\"%s\",\"shape\":[", dtype);
    for (int i = 0; i < rank; i++)
        mr_buf_printf(&w->header, "%s%" PRId64, i ? "," : "", dim[i]);
    mr_buf_printf(&w->header, "],\"data_offsets\":[%" PRIu64 ",%" PRIu64 "]}", w->declared, end);
    w->declared = end;
    return mr_buf_check(&w->header);
}

static int by_text(const void *a, const void *b)
{
    return strcmp(a, b);
}

mr_err mr_st_writer_begin(mr_st_writer *w)
{
    assert(!w->begun);
    MR_TRY(mr_wsort((void **)w->names, w->n, by_text));
    for (size_t i = 1; i < w->n; i++)
        if (!strcmp(w->names[i - 1], w->names[i]))
            return mr_fail(MR_EUSAGE, "%s: tensor \"%." MR_WNAME_SHOWN "s\" is declared twice",
                           w->out.path, w->names[i]);
    mr_buf_puts(&w->header, "}");
    while (w->header.len % 8 && !w->header.failed)
        mr_buf_putc(&w->header, ' ');
    MR_TRY(mr_buf_check(&w->header));
    if (w->header.len > MR_ST_HEADER_MAX)
        return mr_fail(MR_ELIMIT, "%s: header of %zu bytes; at most %" PRIu64 " are allowed",
                       w->out.path, w->header.len, MR_ST_HEADER_MAX);
    uint8_t length[8];
    for (int i = 0; i < 8; i++)
        length[i] = (uint8_t)(w->header.len >> 8 * i);
    MR_TRY(mr_out_write(&w->out, length, sizeof length));
    MR_TRY(mr_out_write(&w->out, w->header.data, w->header.len));
    w->begun = true;
    return MR_OK;
}

mr_err mr_st_writer_data(mr_st_writer *w, const void *bytes, size_t len)
{
    assert(w->begun);
    if (len > w->declared - w->written)
        return mr_fail(MR_EUSAGE, "%s: more data than the %" PRIu64 " bytes declared", w->out.path,
                       w->declared);
    MR_TRY(mr_out_write(&w->out, bytes, len));
    w->written += len;
    return MR_OK;
}

static void free_writer(mr_st_writer *w)
{
    mr_buf_free(&w->header);
    mr_arena_free(w->arena);
    mr_free(w->names);
    mr_free(w);
}

mr_err mr_st_writer_commit(mr_st_writer *w)
{
    mr_err e;
    if (!w->begun || w->written != w->declared) {
        e = mr_fail(MR_EUSAGE, "%s: %" PRIu64 " bytes of data, %" PRIu64 " declared", w->out.path,
                    w->written, w->declared);
        mr_out_abort(&w->out);
    } else {
        e = mr_out_commit(&w->out);
    }
    free_writer(w);
    return e;
}

void mr_st_writer_abort(mr_st_writer *w)
{
    if (!w)
        return;
    mr_out_abort(&w->out);
    free_writer(w);
}
