/* Saving sessions and going on from them, in a file or a caller's buffer.
 *
 * Rows of the caches go through the backend in a form that knows nothing of blocks, rings and
 * threads, so another engine of the same model and precision may have another chunk, context, thread
 * count or instruction set.  A sliding layer keeps what the last few positions can look at, so that
 * they can still be gone back to.
 *
 * Loading checks everything, the checksum included, before it touches the session. */
#include "run/state.h"

#include <string.h>

#include "base/crc.h"
#include "base/file.h"
#include "run/session.h"

enum {
    BACK = 16,       /* positions that a sliding session can go back after loading */
    PIECE = 1 << 16, /* bytes checked at once */
    ROWS = 64,       /* rows moved at once */
    SAMPLES = 1024,  /* tensors whose beginning is in the fingerprint */
    SAMPLE_BYTES = 64
};

static int64_t max64(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* ---- which model ---- */

static uint64_t mix(uint64_t h, const void *bytes, size_t n)
{
    const uint8_t *p = bytes;
    for (size_t i = 0; i < n; i++)
        h = (h ^ p[i]) * 0x100000001b3u; /* FNV-1a */
    return h;
}

static const uint64_t start = 0xcbf29ce484222325u;

mr_err mr_graph_fingerprint(const mr_graph *g, uint64_t *out)
{
    mr_buf text = {0};
    mr_err err = mr_graph_print(g, &text);
    if (!err)
        err = mr_buf_check(&text);
    if (!err)
        *out = mix(start, text.data, text.len);
    mr_buf_free(&text);
    return err;
}

/* Two models of one shape differ in their weights: the first bytes of a row of each tensor, or of
 * evenly spread ones. */
static mr_err weights_fingerprint(mr_engine *e)
{
    const mr_weights *w = mr_model_weights(e->model);
    int n = mr_weights_count(w), step = (n + SAMPLES - 1) / SAMPLES;
    uint64_t h = start;
    for (int i = 0; i < n && !e->fingerprint_weights; i += step) {
        const mr_winfo *t = mr_weights_at(w, i);
        size_t bytes = mr_weights_rows_bytes(t, 1);
        mr_rows rows;
        void *row = mr_alloc(MR_MEM_OTHER, bytes);
        if (!row)
            return MR_ENOMEM;
        mr_err err = mr_weights_rows(t) ? mr_weights_read(w, t, 0, 1, row, &rows) : MR_OK;
        h = mix(h, t->name, strlen(t->name));
        if (!err && mr_weights_rows(t))
            h = mix(h, row, bytes < SAMPLE_BYTES ? bytes : SAMPLE_BYTES);
        mr_free(row);
        MR_TRY(err);
    }
    if (!e->fingerprint_weights)
        e->fingerprint_weights = h | 1;
    return MR_OK;
}

/* ---- the head ---- */

/* The first position of cache i that is kept. */
static int64_t first_row(const mr_cache_desc *c, int64_t floor)
{
    return c->window ? max64(0, floor - c->window) : 0;
}

/* Everything before the CRC; false if it overflows. */
static bool body_bytes(const mr_session *s, int64_t length, int64_t floor, uint64_t *out)
{
    const mr_engine *e = s->engine;
    const mr_plan *p = e->prefill.plan;
    uint64_t sum = MR_STATE_HEAD + 4 * (uint64_t)length;
    for (int i = 0; i < p->n_caches && length; i++) {
        uint64_t row = e->backend->v->kv_row_bytes(e->backend, s->kv, i), part;
        uint64_t rows =
            p->caches[i].state ? 1 : (uint64_t)(length - first_row(&p->caches[i], floor));
        if (__builtin_mul_overflow(row, rows, &part) || __builtin_add_overflow(sum, part, &sum))
            return false;
    }
    *out = sum;
    return sum < UINT64_MAX / 2;
}

static mr_err make_head(const mr_session *s, mr_state_head *h)
{
    mr_engine *e = s->engine;
    MR_TRY(mr_session_check_floor(s, s->length));
    MR_TRY(weights_fingerprint(e));
    *h = (mr_state_head){.version = MR_STATE_VERSION,
                         .precision = (uint32_t)e->backend->opts.precision,
                         .element = e->backend->opts.precision == MR_EXACT ? 4 : 2,
                         .caches = (uint32_t)e->prefill.plan->n_caches,
                         .graph = e->fingerprint_graph,
                         .weights = e->fingerprint_weights,
                         .vocab = (uint64_t)e->info.vocab,
                         .block = e->info.diffusion ? (uint64_t)e->info.block_length : 0,
                         .length = (uint64_t)s->length,
                         .plain = (uint64_t)s->plain};
    if (s->sliding && s->length)
        h->floor = (uint64_t)max64(s->floor, s->length - BACK);
    if (!body_bytes(s, s->length, (int64_t)h->floor, &h->bytes))
        return mr_fail(MR_ELIMIT, "a state of %lld positions is too large", (long long)s->length);
    h->bytes += MR_STATE_CRC;
    return MR_OK;
}

/* ---- saving ---- */

/* Where bytes go: a file, or memory that is large enough. */
typedef struct sink {
    mr_out *out;
    uint8_t *at;
    mr_crc crc;
} sink;

static mr_err put(sink *k, const void *bytes, size_t n)
{
    mr_crc_add(&k->crc, bytes, n);
    if (k->out)
        return mr_out_write(k->out, bytes, n);
    memcpy(k->at, bytes, n);
    k->at += n;
    return MR_OK;
}

static mr_err alloc_rows(const mr_session *s, void **rows)
{
    const mr_engine *e = s->engine;
    size_t most = 1, bytes;
    for (int i = 0; i < e->prefill.plan->n_caches; i++) {
        bool state = e->prefill.plan->caches[i].state;
        bytes = e->backend->v->kv_row_bytes(e->backend, s->kv, i) * (state ? 1 : ROWS);
        most = bytes > most ? bytes : most;
    }
    *rows = mr_alloc(MR_MEM_OTHER, most);
    return *rows ? MR_OK : MR_ENOMEM;
}

static mr_err put_caches(const mr_session *s, int64_t floor, void *rows, sink *k)
{
    const mr_engine *e = s->engine;
    const mr_backend_vtable *v = e->backend->v;
    for (int i = 0; i < e->prefill.plan->n_caches; i++) {
        const mr_cache_desc *c = &e->prefill.plan->caches[i];
        size_t row = v->kv_row_bytes(e->backend, s->kv, i);
        int64_t end = c->state ? 1 : s->length;
        for (int64_t at = c->state ? 0 : first_row(c, floor); at < end; at += ROWS) {
            int64_t n = end - at < ROWS ? end - at : ROWS;
            v->kv_get(e->backend, s->kv, i, at, n, rows);
            MR_TRY(put(k, rows, row * (size_t)n));
        }
    }
    return MR_OK;
}

static mr_err save(const mr_session *s, const mr_state_head *h, sink *k)
{
    uint8_t head[MR_STATE_HEAD], crc[MR_STATE_CRC];
    void *rows;
    mr_crc_begin(&k->crc);
    mr_state_head_write(h, head);
    MR_TRY(put(k, head, sizeof head));
    MR_TRY(put(k, s->ids, (size_t)s->length * sizeof *s->ids));
    if (s->length) {
        MR_TRY(alloc_rows(s, &rows));
        mr_err err = put_caches(s, (int64_t)h->floor, rows, k);
        mr_free(rows);
        MR_TRY(err);
    }
    for (int i = 0; i < MR_STATE_CRC; i++)
        crc[i] = (uint8_t)(mr_crc_value(&k->crc) >> 8 * i);
    return put(k, crc, sizeof crc);
}

mr_status mr_state_save(const mr_session *s, const char *path)
{
    mr_state_head h;
    mr_out out;
    MR_TRY(make_head(s, &h));
    MR_TRY(mr_out_open(&out, path));
    mr_err err = save(s, &h, &(sink){.out = &out});
    if (err) {
        mr_out_abort(&out);
        return (mr_status)err;
    }
    return (mr_status)mr_out_commit(&out);
}

mr_status mr_state_bytes(const mr_session *s, uint64_t *bytes)
{
    mr_state_head h;
    MR_TRY(make_head(s, &h));
    *bytes = h.bytes;
    return MR_STATUS_OK;
}

mr_status mr_state_write(const mr_session *s, void *buffer, uint64_t bytes)
{
    mr_state_head h;
    MR_TRY(make_head(s, &h));
    if (bytes < h.bytes)
        return (mr_status)mr_fail(MR_EUSAGE, "the state takes %llu bytes, the buffer has %llu",
                                  (unsigned long long)h.bytes, (unsigned long long)bytes);
    return (mr_status)save(s, &h, &(sink){.at = buffer});
}

/* ---- loading ---- */

typedef struct source {
    const mr_file *file; /* or: */
    const uint8_t *data;
    const char *name; /* for messages */
    uint64_t size, at;
} source;

static mr_err take(source *k, void *to, size_t n)
{
    if (n > k->size - k->at)
        return mr_fail(MR_EFORMAT, "%s: ends after %llu bytes", k->name,
                       (unsigned long long)k->size);
    if (k->file)
        MR_TRY(mr_file_pread(k->file, k->at, to, n));
    else
        memcpy(to, k->data + k->at, n);
    k->at += n;
    return MR_OK;
}

static mr_err check_crc(source *k)
{
    uint8_t *piece = mr_alloc(MR_MEM_OTHER, PIECE), last[MR_STATE_CRC];
    if (!piece)
        return MR_ENOMEM;
    mr_crc crc;
    mr_crc_begin(&crc);
    mr_err err = MR_OK;
    for (k->at = 0; !err && k->at < k->size - MR_STATE_CRC;) {
        uint64_t left = k->size - MR_STATE_CRC - k->at;
        size_t n = left < PIECE ? (size_t)left : PIECE;
        err = take(k, piece, n);
        if (!err)
            mr_crc_add(&crc, piece, n);
    }
    mr_free(piece);
    MR_TRY(err);
    MR_TRY(take(k, last, sizeof last));
    uint32_t want = 0;
    for (int i = 0; i < MR_STATE_CRC; i++)
        want |= (uint32_t)last[i] << 8 * i;
    return want == mr_crc_value(&crc)
               ? MR_OK
               : mr_fail(MR_EFORMAT, "%s: the checksum differs: it is damaged", k->name);
}

/* A state of this very model, in this precision, that this session can hold. */
static mr_err check_head(const mr_session *s, const mr_state_head *h, const char *name)
{
    const mr_engine *e = s->engine;
    mr_precision precision = e->backend->opts.precision;
    uint64_t body, block = e->info.diffusion ? (uint64_t)e->info.block_length : 0;
    if (h->block != block)
        return mr_fail(MR_EUSAGE, "%s: saved with blocks of %llu; this engine has %llu", name,
                       (unsigned long long)h->block, (unsigned long long)block);
    if (h->graph != e->fingerprint_graph || h->vocab != (uint64_t)e->info.vocab ||
        h->caches != (uint32_t)e->prefill.plan->n_caches)
        return mr_fail(MR_EFORMAT, "%s: saved from another model than %s (its graph differs)", name,
                       e->info.path);
    if (h->weights != e->fingerprint_weights)
        return mr_fail(MR_EFORMAT, "%s: saved from another model than %s (its weights differ)",
                       name, e->info.path);
    if (h->precision != (uint32_t)precision || h->element != (precision == MR_EXACT ? 4 : 2))
        return mr_fail(MR_EUSAGE, "%s: saved in precision %s; this engine has %s", name,
                       h->precision <= MR_NATIVE ? mr_precision_name((mr_precision)h->precision)
                                                 : "unknown",
                       mr_precision_name(precision));
    if (h->length > (uint64_t)mr_session_capacity(e))
        return mr_fail(MR_ELIMIT, "%s: %llu positions do not fit the context of %lld", name,
                       (unsigned long long)h->length, (long long)e->info.context);
    if (s->sliding ? h->length && h->floor + BACK < h->length : h->floor != 0)
        return mr_fail(MR_EFORMAT, "%s: its floor of %llu cannot be", name,
                       (unsigned long long)h->floor);
    if (!body_bytes(s, (int64_t)h->length, (int64_t)h->floor, &body) ||
        h->bytes != body + MR_STATE_CRC)
        return mr_fail(MR_EFORMAT, "%s: %llu bytes do not hold %llu positions", name,
                       (unsigned long long)h->bytes, (unsigned long long)h->length);
    return MR_OK;
}

static mr_err take_ids(source *k, const mr_session *s, int64_t n, int32_t **out)
{
    int32_t *ids = mr_alloc(MR_MEM_OTHER, (size_t)n * sizeof *ids);
    if (!ids)
        return MR_ENOMEM;
    k->at = MR_STATE_HEAD;
    mr_err err = take(k, ids, (size_t)n * sizeof *ids);
    for (int64_t i = 0; !err && i < n; i++)
        if (ids[i] < 0 || ids[i] >= s->engine->info.vocab)
            err = mr_fail(MR_EFORMAT, "%s: id %d is not in the vocabulary", k->name, ids[i]);
    if (err)
        mr_free(ids);
    else
        *out = ids;
    return err;
}

static mr_err take_caches(source *k, mr_session *s, int64_t length, int64_t floor, void *rows)
{
    const mr_engine *e = s->engine;
    const mr_backend_vtable *v = e->backend->v;
    for (int i = 0; i < e->prefill.plan->n_caches; i++) {
        const mr_cache_desc *c = &e->prefill.plan->caches[i];
        size_t row = v->kv_row_bytes(e->backend, s->kv, i);
        int64_t end = c->state ? 1 : length;
        for (int64_t at = c->state ? 0 : first_row(c, floor); at < end; at += ROWS) {
            int64_t n = end - at < ROWS ? end - at : ROWS;
            MR_TRY(take(k, rows, row * (size_t)n));
            v->kv_put(e->backend, s->kv, i, at, n, rows);
        }
    }
    return MR_OK;
}

/* The session takes what the checks have let through. */
static mr_err replace(source *k, mr_session *s, const mr_state_head *h, const int32_t *ids,
                      void *rows)
{
    int64_t length = (int64_t)h->length, floor = (int64_t)h->floor;
    mr_session_settle(s, 0);
    if (!length)
        return MR_OK;
    MR_TRY(take_caches(k, s, length, floor, rows));
    memcpy(s->ids, ids, (size_t)length * sizeof *ids);
    s->length = s->written = length;
    s->floor = floor;
    s->plain = h->plain > INT64_MAX ? INT64_MAX : (int64_t)h->plain;
    return MR_OK;
}

static mr_err load(source *k, mr_session *s)
{
    uint8_t head[MR_STATE_HEAD] = {0};
    mr_state_head h;
    int32_t *ids = NULL;
    void *rows = NULL;
    MR_TRY(take(k, head, k->size < sizeof head ? (size_t)k->size : sizeof head));
    MR_TRY(mr_state_head_read(&h, k->name, head, k->size));
    MR_TRY(weights_fingerprint(s->engine));
    MR_TRY(check_head(s, &h, k->name));
    MR_TRY(check_crc(k));
    mr_err err = take_ids(k, s, (int64_t)h.length, &ids);
    if (!err && h.length)
        err = alloc_rows(s, &rows);
    if (!err && h.length)
        err = mr_session_reserve(s, (int64_t)h.length);
    if (!err)
        err = replace(k, s, &h, ids, rows);
    mr_free(rows);
    mr_free(ids);
    return err;
}

mr_status mr_state_load(mr_session *s, const char *path)
{
    mr_file f;
    MR_TRY(mr_file_open(&f, path));
    mr_err err = load(&(source){.file = &f, .name = path, .size = f.size}, s);
    mr_file_close(&f);
    return (mr_status)err;
}

mr_status mr_state_read(mr_session *s, const void *buffer, uint64_t bytes)
{
    return (mr_status)load(&(source){.data = buffer, .name = "state", .size = bytes}, s);
}

const int32_t *mr_session_ids(const mr_session *s)
{
    return s->ids;
}
