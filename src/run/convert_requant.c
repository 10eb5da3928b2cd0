/* A GGUF file from GGUF files: the metadata as it is, the matrices in another type.
 *
 * Nothing is taken apart: names, order of rows, tensors that no run uses and a tokenizer that GGUF
 * alone can say all stay.  Parts of a split model become one file.  Vectors, norms, routers and
 * convolutions keep their type, as other programs want them. */
#include <string.h>

#include "run/convert.h"

enum { READ_BYTES = 4 << 20 };

typedef struct requant {
    const mr_convert_opts *o;
    const mr_weights *w;
    mr_gguf_writer *to;
    mr_dtype as; /* of matrices; MR_DTYPE_COUNT: as they are */
    uint64_t done, total;
} requant;

static int64_t row_length(const mr_winfo *t)
{
    return t->rank ? t->dim[t->rank - 1] : 1;
}

static bool is_matrix(const mr_winfo *t)
{
    return t->rank >= 2 && mr_ends_with(t->name, ".weight") && !strstr(t->name, "_norm.") &&
           !strstr(t->name, "ffn_gate_inp") && !strstr(t->name, "conv1d");
}

static mr_dtype type_of(const requant *r, const mr_winfo *t)
{
    if (r->as == MR_DTYPE_COUNT || !is_matrix(t))
        return t->dtype;
    return mr_convert_fitting(r->as, row_length(t));
}

static uint64_t row_bytes(const mr_winfo *t, mr_dtype type)
{
    return (uint64_t)(row_length(t) / mr_dtype_block(type)) * (uint64_t)mr_dtype_block_bytes(type);
}

static mr_err note(const requant *r, const mr_winfo *t)
{
    mr_buf line = {0};
    if (!r->o->note || !is_matrix(t) || type_of(r, t) == r->as || r->as == MR_DTYPE_COUNT)
        return MR_OK;
    mr_buf_printf(&line, "%s becomes %s: %lld is no multiple of %d", t->name,
                  mr_dtype_name(type_of(r, t)), (long long)row_length(t), mr_dtype_block(r->as));
    mr_err err = mr_buf_check(&line);
    if (!err)
        r->o->note(r->o->ctx, line.data);
    mr_buf_free(&line);
    return err;
}

static mr_err declare(requant *r)
{
    for (int i = 0; i < mr_weights_count(r->w); i++) {
        const mr_winfo *t = mr_weights_at(r->w, i);
        int64_t one = 1;
        MR_TRY(note(r, t));
        MR_TRY(mr_gguf_writer_declare(r->to, t->name, type_of(r, t), t->rank ? t->rank : 1,
                                      t->rank ? t->dim : &one));
        r->total += row_bytes(t, type_of(r, t)) * (uint64_t)mr_weights_rows(t);
    }
    return MR_OK;
}

static mr_err put(requant *r, const void *bytes, size_t n)
{
    MR_TRY(mr_gguf_writer_data(r->to, bytes, n));
    r->done += n;
    if (r->o->progress && r->o->progress(r->o->ctx, r->done, r->total))
        return mr_fail(MR_ECANCEL, "stopped by the caller");
    return MR_OK;
}

static mr_err put_rows(requant *r, const mr_winfo *t, int64_t first, const mr_rows *rows, int64_t n,
                       float *x, uint8_t *out)
{
    mr_dtype type = type_of(r, t);
    int64_t k = row_length(t);
    for (int64_t i = 0; i < n; i++) {
        mr_dequant_row(rows, i, x);
        MR_TRY(mr_convert_check(t->name, first + i, x, k, type));
        MR_TRY(put(r, out, mr_convert_narrow(x, k, type, out)));
    }
    return MR_OK;
}

static mr_err copy_tensor(requant *r, const mr_winfo *t)
{
    int64_t k = row_length(t), total = mr_weights_rows(t);
    int64_t step = READ_BYTES / (int64_t)(row_bytes(t, t->dtype) + 1) + 1;
    step = step < total ? step : total;
    void *in = mr_alloc(MR_MEM_OTHER, mr_weights_rows_bytes(t, step));
    float *x = mr_alloc(MR_MEM_OTHER, (size_t)k * sizeof *x);
    uint8_t *out = mr_alloc(MR_MEM_OTHER, (size_t)k * sizeof *x);
    mr_err err = in && x && out ? MR_OK : MR_ENOMEM;
    for (int64_t row = 0; !err && row < total; row += step) {
        mr_rows rows;
        int64_t n = total - row < step ? total - row : step;
        err = mr_weights_read(r->w, t, row, n, in, &rows);
        if (!err && type_of(r, t) == t->dtype)
            err = put(r, in, mr_weights_rows_bytes(t, n));
        else if (!err)
            err = put_rows(r, t, row, &rows, n, x, out);
    }
    mr_free(in);
    mr_free(x);
    mr_free(out);
    return err;
}

/* What the keys say of the file they stood in. */
static bool is_kept(const requant *r, const char *key)
{
    static const char *const types[] = {"general.file_type", "general.quantization_version"};
    if (strncmp(key, "split.", 6) == 0 || strcmp(key, "general.alignment") == 0)
        return false;
    return r->as == MR_DTYPE_COUNT || (strcmp(key, types[0]) != 0 && strcmp(key, types[1]) != 0);
}

static void copy_keys(requant *r)
{
    const mr_gguf *g = mr_weights_gguf(r->w);
    for (int i = 0; i < mr_gguf_keys(g); i++)
        if (is_kept(r, mr_gguf_key(g, i)))
            mr_gguf_writer_copy(r->to, g, i);
    if (r->as != MR_DTYPE_COUNT)
        mr_convert_gguf_said(r->to, r->as);
}

mr_err mr_convert_requant(const mr_model *m, const char *path, const mr_convert_opts *o)
{
    requant r = {.o = o, .w = mr_model_weights(m)};
    MR_TRY(mr_convert_gguf_type(o, &r.as));
    MR_TRY(mr_gguf_writer_open(&r.to, path));
    copy_keys(&r);
    mr_err err = declare(&r);
    if (!err)
        err = mr_gguf_writer_begin(r.to);
    for (int i = 0; !err && i < mr_weights_count(r.w); i++)
        err = copy_tensor(&r, mr_weights_at(r.w, i));
    if (!err)
        return mr_gguf_writer_commit(r.to);
    mr_gguf_writer_abort(r.to);
    return err;
}
