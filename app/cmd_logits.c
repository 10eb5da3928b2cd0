/* millrace logits: float32 .npy [n_ids, vocab], row i = logits after id i. */
#include <stdio.h>
#include <string.h>

#include "app.h"
#include "base/file.h"

enum { MIN_CHUNK = 448, SLACK = 64 };

typedef struct job {
    app_engine engine;
    const char *ids_list, *ids_file, *out, *graph, *embeds_file, *spans_list, *canvas_file,
        *fed_file;
    int64_t chunk;
    double fed_temperature;
    bool has_fed_temperature;
    app_ids ids, canvas;
    float *embeds; /* or NULL */
    app_spans spans;
} job;

/* Rows fed at once: what was asked for, but no more than 256 MiB of logits hold (the bits are the
 * same); whole blocks for diffusion. */
static int64_t rows_at_once(const job *j, const mr_engine_info *i)
{
    int64_t rows = ((int64_t)64 << 20) / i->vocab;
    if (j->chunk && rows > j->chunk)
        rows = j->chunk;
    if (rows > (int64_t)j->ids.n)
        rows = (int64_t)j->ids.n;
    if (i->diffusion)
        rows = (rows + i->block_length - 1) / i->block_length * i->block_length;
    return rows < 1 ? 1 : rows;
}

/* Rows [from, to), with the spans there; to does not cut one. */
static mr_status feed_rows(const job *j, mr_session *s, int64_t hidden, int64_t from, int64_t to,
                           mr_span *spans, float *logits)
{
    mr_feed f = {.session = s,
                 .ids = j->ids.id + from,
                 .n = to - from,
                 .embeds = j->embeds ? j->embeds + from * hidden : NULL,
                 .spans = spans,
                 .want = logits ? MR_WANT_ALL : MR_WANT_NONE,
                 .logits = logits};
    for (int64_t k = 0; k < j->spans.n; k++)
        if (j->spans.span[k].begin >= from && j->spans.span[k].end <= to)
            spans[f.n_spans++] =
                (mr_span){j->spans.span[k].begin - from, j->spans.span[k].end - from};
    MR_TRY(mr_advance_many(&f, 1));
    return mr_commit(s, to - from);
}

/* Where rows from `from` on end: an image is fed whole. */
static int64_t end_of_rows(const job *j, int64_t from, int64_t at_once)
{
    int64_t n = (int64_t)j->ids.n, to = n - from < at_once ? n : from + at_once;
    for (int64_t k = 0; k < j->spans.n; k++)
        if (j->spans.span[k].begin < to && to < j->spans.span[k].end)
            return j->spans.span[k].end;
    return to;
}

/* The rows of a prompt, then one canvas after them. */
static mr_status feed_canvas(const job *j, mr_session *s, const mr_engine_info *i, mr_out *o)
{
    int64_t n = (int64_t)j->ids.n, at_once = j->chunk && j->chunk < n ? j->chunk : n;
    mr_span *spans = mr_alloc(MR_MEM_OTHER, ((size_t)j->spans.n + 1) * sizeof *spans);
    float *logits = mr_alloc(MR_MEM_OTHER, (size_t)(i->canvas * i->vocab) * sizeof *logits),
          *fed = NULL;
    mr_status st = logits && spans ? MR_STATUS_OK : MR_STATUS_MEMORY;
    if (!st && j->fed_file)
        st = app_npy_read(j->fed_file, i->canvas, i->vocab, &fed);
    if (!st && fed)
        app_soften(fed, i->canvas, i->vocab, j->fed_temperature);
    for (int64_t at = 0, to; !st && at < n; at = to) {
        to = end_of_rows(j, at, at_once);
        st = feed_rows(j, s, i->hidden, at, to, spans, NULL);
    }
    if (!st)
        st = mr_denoise(s, j->canvas.id, fed, logits);
    if (!st)
        st = (mr_status)mr_out_write(o, logits, (size_t)(i->canvas * i->vocab) * sizeof *logits);
    mr_free(fed);
    mr_free(logits);
    mr_free(spans);
    return st;
}

static mr_status feed(const job *j, mr_session *s, const mr_engine_info *i, mr_out *o)
{
    int64_t n = (int64_t)j->ids.n, at_once = rows_at_once(j, i), most = at_once + j->spans.longest;
    most = most < n || i->diffusion ? most : n;
    float *logits = mr_alloc(MR_MEM_OTHER, (size_t)(most * i->vocab) * sizeof *logits);
    mr_span *spans = mr_alloc(MR_MEM_OTHER, ((size_t)j->spans.n + 1) * sizeof *spans);
    mr_status st = logits && spans ? MR_STATUS_OK : MR_STATUS_MEMORY;
    for (int64_t at = 0, to; !st && at < n; at = to) {
        to = end_of_rows(j, at, at_once);
        int64_t rows = to - at;
        st = feed_rows(j, s, i->hidden, at, to, spans, logits);
        if (!st)
            st = (mr_status)mr_out_write(o, logits, (size_t)(rows * i->vocab) * sizeof *logits);
        if (!st && app_interrupted())
            st = (mr_status)mr_fail(MR_ECANCEL, "interrupted: %s is not written", j->out);
    }
    mr_free(logits);
    mr_free(spans);
    return st;
}

static mr_status write_logits(const job *j, mr_engine *e)
{
    mr_session *s = NULL;
    mr_out o;
    const mr_engine_info *i = mr_engine_facts(e);
    MR_TRY(mr_session_new(&s, e));
    app_catch_interrupt();
    mr_status st = (mr_status)mr_out_open(&o, j->out);
    if (!st) {
        st = app_npy_head(&o, i->canvas ? i->canvas : (int64_t)j->ids.n, i->vocab);
        if (!st)
            st = i->canvas ? feed_canvas(j, s, i, &o) : feed(j, s, i, &o);
        if (!st)
            st = (mr_status)mr_out_commit(&o);
        else
            mr_out_abort(&o);
    }
    mr_session_free(s);
    return st;
}

/* Before the weights are read. */
static mr_status accept_model(void *ctx, const mr_engine_info *i)
{
    const job *j = ctx;
    if (!i->canvas && j->canvas_file)
        return (mr_status)mr_fail(MR_EUSAGE, "--canvas-file does not apply: %s has no canvas",
                                  i->model_type);
    if (i->canvas && !j->canvas_file)
        return (mr_status)mr_fail(MR_EUSAGE, "%s gives logits of a canvas: --canvas-file is needed",
                                  i->model_type);
    if (i->canvas && (int64_t)j->canvas.n != i->canvas)
        return (mr_status)mr_fail(MR_EUSAGE, "%s: %zu ids, a canvas has %lld", j->canvas_file,
                                  j->canvas.n, (long long)i->canvas);
    return MR_STATUS_OK;
}

int cmd_logits(int argc, char **argv)
{
    job j = {.fed_temperature = 1};
    const char *model;
    const app_opt opts[] = {
        {"--ids", NULL, APP_STR, &j.ids_list, 0, 0, "LIST", "ids as 1,2,3", NULL},
        {"--ids-file", NULL, APP_STR, &j.ids_file, 0, 0, "F", "a JSON array of ids", NULL},
        {"--out", "-o", APP_STR, &j.out, 0, 0, "F.npy", "where the logits go (required)", NULL},
        {"--embeds", NULL, APP_STR, &j.embeds_file, 0, 0, "F.npy",
         "float32 [ids, hidden]: what the embedding gives, after its scale", NULL},
        {"--image-spans", NULL, APP_STR, &j.spans_list, 0, 0, "LIST",
         "rows of images as 5-12,30-37, ends not counted", NULL},
        {"--canvas-file", NULL, APP_STR, &j.canvas_file, 0, 0, "F",
         "a JSON array of ids: the logits are of this canvas after the ids", NULL},
        {"--feedback", NULL, APP_STR, &j.fed_file, 0, 0, "F.npy",
         "float32 [canvas, vocab]: logits that the canvas is given of the step before", NULL},
        {"--feedback-temperature", NULL, APP_NUM, &j.fed_temperature, 1e-6, 1e6, "T",
         "divides them (default 1)", &j.has_fed_temperature},
        {"--chunk", NULL, APP_INT, &j.chunk, 1, 1 << 30, "N",
         "feed N ids at a time through the cache", NULL},
        {"--block-length", NULL, APP_INT, &j.engine.block_length, 1, 4096, "B",
         "diffusion: block length", NULL},
        {"--graph", NULL, APP_STR, &j.graph, 0, 0, "FILE",
         "run this text graph on the model's weights", NULL},
        APP_ENGINE_OPTS(j.engine),
        {0},
    };
    int code = app_parse(app_command("logits"), opts, argc, argv, &model, 1);
    if (code >= 0)
        return code;
    if (!j.out)
        return app_usage("logits", "--out F.npy is needed");
    if ((j.fed_file && !j.canvas_file) || (j.has_fed_temperature && !j.fed_file))
        return app_usage("logits",
                         "--feedback needs --canvas-file, and its temperature --feedback");
    if (!j.ids_list == !j.ids_file)
        return app_usage("logits", "give either --ids LIST or --ids-file F");
    mr_status st = j.ids_list ? app_ids_list("--ids", j.ids_list, &j.ids)
                              : app_ids_file(j.ids_file, false, &j.ids);
    mr_engine *e = NULL;
    mr_engine_opts o = {.graph_file = j.graph, .accept = accept_model, .ctx = &j};
    if (!st && j.canvas_file)
        st = app_ids_file(j.canvas_file, false, &j.canvas);
    if (!st && j.spans_list)
        st = app_spans_list("--image-spans", j.spans_list, (int64_t)j.ids.n, &j.spans);
    if (j.spans.longest >
        MIN_CHUNK) /* images are not cut; some of a chunk goes to a ring's slack */
        o.chunk = j.spans.longest + SLACK;
    if (!st) /* also beyond the model's positions, as the reference runs */
        j.engine.context = (int64_t)(j.ids.n + j.canvas.n);
    if (!st)
        st = app_engine_open(&j.engine, model, &o, &e);
    if (!st && j.embeds_file)
        st = app_npy_read(j.embeds_file, (int64_t)j.ids.n, mr_engine_facts(e)->hidden, &j.embeds);
    if (!st)
        st = write_logits(&j, e);
    code = st ? app_failed(st) : APP_OK;
    if (st == MR_STATUS_CANCELLED)
        code = app_interrupted();
    mr_engine_close(e);
    mr_free(j.embeds);
    mr_free(j.spans.span);
    app_ids_free(&j.ids);
    app_ids_free(&j.canvas);
    return code;
}
