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
    mr_pool *pool;
    const mr_winfo *now; /* being written */
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

static mr_err put(void *ctx, const void *bytes, size_t n)
{
    requant *r = ctx;
    MR_TRY(mr_gguf_writer_data(r->to, bytes, n));
    r->done += n;
    if (r->o->progress && r->o->progress(r->o->ctx, r->done, r->total))
        return mr_fail(MR_ECANCEL, "stopped by the caller");
    return MR_OK;
}

static void write_row(const void *ctx, int64_t row, float *x, uint8_t *out)
{
    const mr_winfo *t = ((const requant *)ctx)->now;
    (void)row;
    mr_convert_narrow(x, row_length(t), type_of(ctx, t), out);
}

/* Rows as they are, or through the batch. */
static mr_err put_tensor(requant *r, const mr_winfo *t, mr_row_batch *b, int64_t step, void *in)
{
    int64_t total = mr_weights_rows(t);
    for (int64_t row = 0; row < total; row += step) {
        mr_rows rows;
        int64_t n = total - row < step ? total - row : step;
        MR_TRY(mr_weights_read(r->w, t, row, n, in, &rows));
        if (!b) {
            MR_TRY(put(r, in, mr_weights_rows_bytes(t, n)));
            continue;
        }
        mr_row_batch_read(b, &rows, n);
        MR_TRY(mr_row_batch_put(b));
    }
    return MR_OK;
}

static mr_err copy_tensor(requant *r, const mr_winfo *t)
{
    mr_dtype type = type_of(r, t);
    bool same = type == t->dtype;
    int64_t total = mr_weights_rows(t);
    mr_row_form form = {.name = t->name,
                        .to = type,
                        .bytes = (size_t)row_bytes(t, type),
                        .write = write_row,
                        .put = put,
                        .ctx = r};
    mr_row_batch b = {0};
    mr_err err = same ? MR_OK : mr_row_batch_new(&b, r->pool, &form, total, row_length(t));
    int64_t step = same ? READ_BYTES / (int64_t)(row_bytes(t, type) + 1) + 1 : b.most;
    step = step < total ? step : total;
    void *in = err ? NULL : mr_alloc(MR_MEM_OTHER, mr_weights_rows_bytes(t, step));
    r->now = t;
    if (!err)
        err = in ? put_tensor(r, t, same ? NULL : &b, step, in) : MR_ENOMEM;
    mr_free(in);
    mr_row_batch_free(&b);
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

mr_err mr_convert_requant(const mr_model *m, const char *path, const mr_convert_opts *o,
                          mr_pool *pool)
{
    requant r = {.o = o, .w = mr_model_weights(m), .pool = pool};
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
