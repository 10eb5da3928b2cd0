/* Canvases: draws read from a trace, steps written as one, and fed-back logits. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "app.h"
#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "base/real.h"

enum { MAX_TRACE = 1 << 28 };

/* ---- draws ---- */

static bool same_prompt(mr_jval list, const app_ids *prompt)
{
    size_t i = 0;
    int64_t id;
    if (mr_jtype(list) != MR_JARRAY || mr_jcount(list) != prompt->n)
        return false;
    for (mr_jval v = mr_jfirst(list); v.doc; v = mr_jnext(v))
        if (mr_jint(v, 0, INT32_MAX, &id) || id != prompt->id[i++])
            return false;
    return true;
}

/* The run's blocks. */
static mr_err find_blocks(mr_jval root, const app_ids *prompt, mr_jval *blocks)
{
    mr_jval run = root;
    if (mr_jtype(root) == MR_JARRAY)
        for (run = mr_jfirst(root); run.doc; run = mr_jnext(run))
            if (mr_jtype(run) == MR_JOBJECT && same_prompt(mr_jget(run, "prompt"), prompt))
                break;
    if (!run.doc)
        return mr_jfail(root, "no run has this prompt");
    if (mr_jtype(run) != MR_JOBJECT)
        return mr_jfail(run, "an object with \"blocks\" is needed");
    *blocks = mr_jget(run, "blocks");
    if (mr_jtype(*blocks) != MR_JARRAY || mr_jcount(*blocks) == 0)
        return mr_jfail(*blocks, "a list of blocks is needed");
    return MR_OK;
}

static mr_err read_ids(mr_jval list, int64_t n, int32_t *out)
{
    int64_t i = 0, id;
    if (mr_jtype(list) != MR_JARRAY || mr_jcount(list) != n)
        return mr_jfail(list, "a list of %lld ids is needed", (long long)n);
    for (mr_jval v = mr_jfirst(list); v.doc; v = mr_jnext(v)) {
        MR_TRY(mr_jint(v, 0, INT32_MAX, &id));
        out[i++] = (int32_t)id;
    }
    return MR_OK;
}

static mr_err read_uniforms(mr_jval list, int64_t n, double *out)
{
    int64_t i = 0;
    if (mr_jtype(list) != MR_JARRAY || mr_jcount(list) != n)
        return mr_jfail(list, "a list of %lld numbers is needed", (long long)n);
    for (mr_jval v = mr_jfirst(list); v.doc; v = mr_jnext(v)) {
        MR_TRY(mr_jnum(v, &out[i]));
        if (!(out[i] >= 0 && out[i] < 1))
            return mr_jfail(v, "%g is not in [0, 1)", out[i]);
        i++;
    }
    return MR_OK;
}

static mr_err read_block(app_draws *d, mr_jval block, int64_t at)
{
    int64_t c = d->canvas;
    MR_TRY(read_ids(mr_jget(block, "canvas"), c, d->ids + at * c));
    for (mr_jval s = mr_jfirst(mr_jget(block, "steps")); s.doc; s = mr_jnext(s)) {
        at++;
        if (mr_jtype(s) != MR_JOBJECT)
            return mr_jfail(s, "an object is needed");
        MR_TRY(read_ids(mr_jget(s, "noise"), c, d->ids + at * c));
        mr_jval u = mr_jget(s, "u");
        if (!mr_jhas(u))
            d->samples = false;
        else
            MR_TRY(read_uniforms(u, c, d->u + at * c));
    }
    return MR_OK;
}

static mr_err read_draws(app_draws *d, const char *file, const app_ids *prompt)
{
    size_t len;
    mr_jval blocks;
    MR_TRY(mr_file_read_all(file, MAX_TRACE, MR_MEM_OTHER, &d->text, &len));
    MR_TRY(mr_json_parse(&d->json, file, d->text, len));
    MR_TRY(find_blocks(mr_json_root(d->json), prompt, &blocks));
    d->blocks = mr_jcount(blocks);
    d->first = mr_alloc(MR_MEM_OTHER, ((size_t)d->blocks + 1) * sizeof *d->first);
    if (!d->first)
        return MR_ENOMEM;
    int64_t all = 0, k = 0;
    for (mr_jval b = mr_jfirst(blocks); b.doc; b = mr_jnext(b)) {
        if (mr_jtype(b) != MR_JOBJECT || mr_jtype(mr_jget(b, "canvas")) != MR_JARRAY ||
            mr_jtype(mr_jget(b, "steps")) != MR_JARRAY)
            return mr_jfail(b, "an object with \"canvas\" and \"steps\" is needed");
        if (!d->canvas)
            d->canvas = mr_jcount(mr_jget(b, "canvas"));
        d->first[k++] = all;
        all += 1 + (int64_t)mr_jcount(mr_jget(b, "steps"));
    }
    d->first[k] = all;
    size_t n = (size_t)all * (size_t)d->canvas; /* either is less than the file has bytes */
    d->ids = mr_alloc(MR_MEM_OTHER, n * sizeof *d->ids);
    d->u = mr_zalloc(MR_MEM_OTHER, n * sizeof *d->u);
    if (!d->ids || !d->u)
        return MR_ENOMEM;
    d->samples = true;
    k = 0;
    for (mr_jval b = mr_jfirst(blocks); b.doc; b = mr_jnext(b))
        MR_TRY(read_block(d, b, d->first[k++]));
    return MR_OK;
}

mr_status app_draws_read(app_draws *d, const char *file, const app_ids *prompt)
{
    *d = (app_draws){0};
    return (mr_status)read_draws(d, file, prompt);
}

void app_draws_free(app_draws *d)
{
    mr_json_free(d->json);
    mr_free(d->text);
    mr_free(d->ids);
    mr_free(d->u);
    mr_free(d->first);
}

mr_status app_draws_give(const app_draws *d, int64_t block, int64_t step, int32_t *ids, double *u)
{
    if (block >= d->blocks || d->first[block] + 1 + step >= d->first[block + 1])
        return (mr_status)mr_fail(MR_EFORMAT,
                                  "--draws: nothing is recorded for step %lld of block %lld",
                                  (long long)step, (long long)block);
    size_t n = (size_t)d->canvas, at = (size_t)(d->first[block] + 1 + step) * n;
    memcpy(ids, d->ids + at, n * sizeof *ids);
    if (u)
        memcpy(u, d->u + at, n * sizeof *u);
    return MR_STATUS_OK;
}

/* ---- traces ---- */

static void put_ids(mr_buf *b, const char *name, const int32_t *ids, int64_t n)
{
    mr_buf_printf(b, ", \"%s\": ", name);
    app_json_ids(b, ids, (size_t)n);
}

static void put_numbers(mr_buf *b, const char *name, const char *format, const double *x, int64_t n)
{
    mr_buf_printf(b, ", \"%s\": [", name);
    for (int64_t i = 0; i < n; i++) {
        char text[40];
        snprintf(text, sizeof text, format, isfinite(x[i]) ? x[i] : 1e308);
        mr_buf_printf(b, "%s%s", i ? ", " : "", text);
    }
    mr_buf_putc(b, ']');
}

void app_canvas_step(mr_buf *b, const mr_canvas_step *s)
{
    if (s->step == 0) {
        mr_buf_printf(b, "{\"start\": %lld", (long long)s->start);
        put_ids(b, "canvas", s->canvas, s->n);
        mr_buf_puts(b, ", \"steps\": [");
    }
    mr_buf_printf(b, "%s{\"temperature\": %.17g", s->step ? ", " : "", s->temperature);
    put_ids(b, "ids", s->next, s->n);
    put_ids(b, "sampled", s->sampled, s->n);
    put_ids(b, "argmax", s->best, s->n);
    put_numbers(b, "entropy", "%.6f", s->entropy, s->n);
    mr_buf_puts(b, ", \"accepted\": [");
    for (int64_t i = 0; i < s->n; i++)
        mr_buf_printf(b, "%s%d", i ? ", " : "", s->accepted[i]);
    mr_buf_putc(b, ']');
    if (s->u)
        put_numbers(b, "u", "%.17g", s->u, s->n);
    put_ids(b, "noise", s->noise, s->n);
    put_ids(b, "next", s->next, s->n);
    mr_buf_printf(b, ", \"mean_entropy\": %.6f, \"stop\": %s}",
                  isfinite(s->mean_entropy) ? s->mean_entropy : 1e308, s->stop ? "true" : "false");
}

/* ---- fed-back logits ---- */

void app_soften(float *logits, int64_t rows, int64_t vocab, double temperature)
{
    float t = (float)temperature;
    for (int64_t r = 0; r < rows; r++) {
        float *l = logits + r * vocab, top = -INFINITY;
        double sum = 0;
        for (int64_t v = 0; v < vocab; v++) {
            l[v] = l[v] / t;
            top = l[v] > top ? l[v] : top;
        }
        for (int64_t v = 0; v < vocab; v++)
            sum += mr_exp((double)l[v] - (double)top);
        for (int64_t v = 0; v < vocab; v++)
            l[v] = (float)(mr_exp((double)l[v] - (double)top) / sum);
    }
}
