/* mr_inspect: what a model is made of, as text or JSON. */
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "run/engine.h"

typedef struct look {
    mr_model *model;
    mr_backend *backend;
    mr_graph *built, *fused;
    mr_plan *decode, *prefill;
    mr_need need;
    int64_t context;
    uint64_t by_type[MR_DTYPE_COUNT], total, skipped_bytes;
    int tensors, skipped;
    char tokenizer[128];
} look;

static mr_err count_skipped(void *ctx, const mr_winfo *t)
{
    look *l = ctx;
    l->skipped++;
    l->skipped_bytes += t->bytes;
    return MR_OK;
}

/* A tokenizer that cannot be read is a fact to show, not a reason to show nothing. */
static void look_at_tokenizer(look *l, const char *path)
{
    mr_tokenizer *t;
    if (mr_text_open(&t, path) != MR_STATUS_OK) {
        snprintf(l->tokenizer, sizeof l->tokenizer, "none: %s", mr_error());
        return;
    }
    snprintf(l->tokenizer, sizeof l->tokenizer, "%s, %d ids", mr_tokenizer_kind(t),
             mr_tokenizer_size(t));
    mr_text_close(t);
}

static mr_err look_at_memory(look *l, int64_t context)
{
    const mr_model_info *m = mr_model_facts(l->model);
    l->context = mr_engine_context(m, &(mr_engine_opts){.context = context});
    int64_t rows = mr_engine_decode_rows(m);
    mr_pass_opts passes = {0};
    MR_TRY(mr_passes_run(l->built, l->backend, &passes, &l->fused, NULL));
    MR_TRY(mr_plan_compile(&l->decode, l->fused, l->backend, "decode", rows,
                           mr_engine_out_cap(m, rows)));
    rows = mr_engine_prefill_rows(l->decode, 0, l->context);
    MR_TRY(mr_plan_compile(&l->prefill, l->fused, l->backend, "prefill", rows,
                           mr_engine_out_cap(m, rows)));
    return mr_need_count(&l->need, l->backend, l->fused, l->decode, l->prefill, l->context, rows,
                         1);
}

static mr_err make_look(look *l, const char *path, int64_t context)
{
    mr_engine_opts eo = {0};
    mr_model_opts mo = {0};
    MR_TRY(mr_model_open(&l->model, path, &mo));
    MR_TRY(mr_engine_backend(&eo, &l->backend));
    MR_TRY(mr_model_build(l->model, &l->built));
    const mr_weights *w = mr_model_weights(l->model);
    if (w) {
        MR_TRY(mr_model_check_unused(l->model));
        l->tensors = mr_weights_count(w);
        for (int i = 0; i < l->tensors; i++) {
            const mr_winfo *t = mr_weights_at(w, i);
            l->by_type[t->dtype] += t->bytes;
            l->total += t->bytes;
        }
        MR_TRY(mr_model_skipped(l->model, count_skipped, l));
    }
    MR_TRY(look_at_memory(l, context));
    look_at_tokenizer(l, path);
    return MR_OK;
}

/* ---- text ---- */

static void put_shape(mr_buf *b, const mr_winfo *t)
{
    mr_buf_putc(b, '[');
    for (int i = 0; i < t->rank; i++)
        mr_buf_printf(b, "%s%lld", i ? "," : "", (long long)t->dim[i]);
    mr_buf_putc(b, ']');
}

static void type_name(const mr_winfo *t, char out[32])
{
    mr_fmt f = {
        .dtype = t->dtype, .bits = t->bits, .group = t->group, .scale_dtype = t->scale_dtype};
    mr_fmt_name(f, out);
}

static mr_err text_skipped(void *ctx, const mr_winfo *t)
{
    mr_buf_printf(ctx, "  %-60s %12llu bytes\n", t->name, (unsigned long long)t->bytes);
    return MR_OK;
}

static void text_facts(const look *l, const char *path, mr_buf *b)
{
    const mr_model_info *m = mr_model_facts(l->model);
    mr_buf_printf(b, "model       %s\n", path);
    mr_buf_printf(b, "model_type  %s (family %s, %s)\n", m->model_type, m->family,
                  m->diffusion ? "block diffusion" : "autoregressive");
    mr_buf_printf(b, "shape       %lld layers, hidden %lld, vocabulary %lld, positions %lld\n",
                  (long long)m->layers, (long long)m->hidden, (long long)m->vocab,
                  (long long)m->max_positions);
    if (m->diffusion)
        mr_buf_printf(b, "diffusion   block %lld, mask id %d\n", (long long)m->block_length,
                      m->mask_id);
    mr_buf_puts(b, "end ids    ");
    for (int i = 0; i < m->n_eos; i++)
        mr_buf_printf(b, " %d", m->eos[i]);
    mr_buf_printf(b, "\ntokenizer   %s\n", l->tokenizer);
}

static void text_memory(const look *l, mr_buf *b)
{
    const double mib = 1024.0 * 1024.0;
    mr_buf_printf(b,
                  "memory      %.1f MiB for a context of %lld: weights %.1f, KV %.1f, activations "
                  "%.1f; available %.1f\n",
                  (double)(l->need.weights + l->need.kv + l->need.arenas) / mib,
                  (long long)l->context, (double)l->need.weights / mib, (double)l->need.kv / mib,
                  (double)l->need.arenas / mib, (double)l->need.available / mib);
}

static mr_err put_text(const look *l, const char *path, mr_buf *b)
{
    text_facts(l, path, b);
    text_memory(l, b);
    const mr_weights *w = mr_model_weights(l->model);
    if (!w)
        return MR_OK;
    mr_buf_printf(b, "\n%d tensors, %llu bytes\n", l->tensors, (unsigned long long)l->total);
    for (int t = 0; t < MR_DTYPE_COUNT; t++)
        if (l->by_type[t])
            mr_buf_printf(b, "  %-10s %14llu bytes\n", mr_dtype_name((mr_dtype)t),
                          (unsigned long long)l->by_type[t]);
    if (l->skipped) {
        mr_buf_printf(b, "\nskipped (known, not used): %d tensors, %llu bytes\n", l->skipped,
                      (unsigned long long)l->skipped_bytes);
        MR_TRY(mr_model_skipped(l->model, text_skipped, b));
    }
    mr_buf_puts(b, "\ntensors\n");
    for (int i = 0; i < l->tensors; i++) {
        const mr_winfo *t = mr_weights_at(w, i);
        char type[32];
        type_name(t, type);
        mr_buf_printf(b, "  %-60s %-18s ", t->name, type);
        put_shape(b, t);
        mr_buf_putc(b, '\n');
    }
    return MR_OK;
}

/* ---- JSON ---- */

static void put_z(mr_buf *b, const char *z)
{
    mr_buf_json(b, z, strlen(z));
}

static void json_tensor(mr_buf *b, const mr_winfo *t)
{
    char type[32];
    type_name(t, type);
    mr_buf_puts(b, "{\"name\": ");
    put_z(b, t->name);
    mr_buf_printf(b, ", \"dtype\": \"%s\", \"shape\": ", type);
    put_shape(b, t);
    mr_buf_printf(b, ", \"bytes\": %llu}", (unsigned long long)t->bytes);
}

typedef struct json_list {
    mr_buf *b;
    int n;
} json_list;

static mr_err json_skipped(void *ctx, const mr_winfo *t)
{
    json_list *l = ctx;
    mr_buf_puts(l->b, l->n++ ? ", " : "");
    json_tensor(l->b, t);
    return MR_OK;
}

static void json_facts(const look *l, const char *path, mr_buf *b)
{
    const mr_model_info *m = mr_model_facts(l->model);
    mr_buf_puts(b, "{\"path\": ");
    put_z(b, path);
    mr_buf_puts(b, ", \"model_type\": ");
    put_z(b, m->model_type);
    mr_buf_puts(b, ", \"family\": ");
    put_z(b, m->family);
    mr_buf_printf(b,
                  ", \"diffusion\": %s, \"layers\": %lld, \"hidden\": %lld, \"vocab\": %lld, "
                  "\"max_positions\": %lld",
                  m->diffusion ? "true" : "false", (long long)m->layers, (long long)m->hidden,
                  (long long)m->vocab, (long long)m->max_positions);
    if (m->diffusion)
        mr_buf_printf(b, ", \"block_length\": %lld, \"mask_id\": %d", (long long)m->block_length,
                      m->mask_id);
    mr_buf_puts(b, ", \"eos\": [");
    for (int i = 0; i < m->n_eos; i++)
        mr_buf_printf(b, "%s%d", i ? ", " : "", m->eos[i]);
    mr_buf_puts(b, "], \"tokenizer\": ");
    put_z(b, l->tokenizer);
    mr_buf_printf(
        b,
        ", \"memory\": {\"context\": %lld, \"weights\": %llu, \"kv\": %llu, \"activations\": %llu, "
        "\"available\": %llu}",
        (long long)l->context, (unsigned long long)l->need.weights, (unsigned long long)l->need.kv,
        (unsigned long long)l->need.arenas, (unsigned long long)l->need.available);
}

static mr_err put_json(const look *l, const char *path, mr_buf *b)
{
    json_facts(l, path, b);
    const mr_weights *w = mr_model_weights(l->model);
    mr_str config = mr_jraw(mr_model_config(l->model));
    mr_buf_puts(b, ", \"bytes_by_dtype\": {");
    int n = 0;
    for (int t = 0; t < MR_DTYPE_COUNT; t++)
        if (l->by_type[t])
            mr_buf_printf(b, "%s\"%s\": %llu", n++ ? ", " : "", mr_dtype_name((mr_dtype)t),
                          (unsigned long long)l->by_type[t]);
    mr_buf_puts(b, "}, \"skipped\": [");
    json_list list = {b, 0};
    if (w)
        MR_TRY(mr_model_skipped(l->model, json_skipped, &list));
    mr_buf_puts(b, "], \"tensors\": [");
    for (int i = 0; i < l->tensors; i++) {
        mr_buf_puts(b, i ? ", " : "");
        json_tensor(b, mr_weights_at(w, i));
    }
    mr_buf_puts(b, "], \"config\": ");
    mr_buf_add(b, config.data, config.len);
    mr_buf_puts(b, "}\n");
    return MR_OK;
}

mr_status mr_inspect(const char *model, int64_t context, bool json, char **text, size_t *len)
{
    look *l = mr_zalloc(MR_MEM_OTHER, sizeof *l);
    mr_buf b = {0};
    *text = NULL;
    if (!l)
        return MR_ENOMEM;
    mr_err err = make_look(l, model, context);
    if (!err)
        err = json ? put_json(l, model, &b) : put_text(l, model, &b);
    if (!err)
        err = mr_buf_check(&b);
    if (l->decode)
        mr_plan_free(l->decode);
    if (l->prefill)
        mr_plan_free(l->prefill);
    mr_graph_free(l->fused);
    mr_graph_free(l->built);
    mr_model_close(l->model);
    if (l->backend)
        l->backend->v->close(l->backend);
    mr_free(l);
    if (err) {
        mr_buf_free(&b);
        return (mr_status)err;
    }
    *text = b.data;
    *len = b.len;
    return MR_OK;
}

/* A type of blocks, by its name in any case. */
static bool find_type(const char *name, mr_dtype *out)
{
    for (int t = 0; t < MR_DTYPE_COUNT; t++)
        if (!strcasecmp(name, mr_dtype_name((mr_dtype)t)) && !mr_dtype_is_grouped((mr_dtype)t) &&
            mr_dtype_is_weight((mr_dtype)t, 0)) {
            *out = (mr_dtype)t;
            return true;
        }
    return false;
}

mr_status mr_dequantise(const char *type, const void *blocks, size_t len, float **values,
                        int64_t *n)
{
    mr_dtype t;
    *values = NULL;
    *n = 0;
    if (!find_type(type, &t))
        return (mr_status)mr_fail(MR_EUSAGE, "no type of blocks is called \"%.60s\"", type);
    size_t size = (size_t)mr_dtype_block_bytes(t), count;
    if (len % size)
        return (mr_status)mr_fail(MR_EFORMAT, "%zu bytes are not whole %s blocks of %zu", len,
                                  mr_dtype_name(t), size);
    if (!mr_mul_size(len / size, (size_t)mr_dtype_block(t) * sizeof **values, &count))
        return (mr_status)mr_fail(MR_ELIMIT, "%zu bytes are too many", len);
    *values = mr_alloc(MR_MEM_OTHER, count);
    if (!*values)
        return MR_STATUS_MEMORY;
    *n = (int64_t)(count / sizeof **values);
    mr_rows r = {.dtype = t, .n = 1, .k = *n, .data = blocks};
    mr_dequant_row(&r, 0, *values);
    return MR_STATUS_OK;
}
