/* millrace bench: prefill and decode speed, load, packing and warm-up excluded.
 *
 * prefill: P ids through an empty session, the last one's logits.  decode: N ids one by one from an
 * empty session.  For a diffusion model "decode" is denoising: forwards of one open block with all
 * its logits, counted in rows. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "app.h"
#include "base/file.h"
#include "base/rng.h"

enum { MAX_RUNS = 1000 };

typedef struct series {
    double rate[MAX_RUNS]; /* tokens/s */
    int n;
    double median, low, high;
} series;

typedef struct job {
    app_engine engine;
    int64_t p, n, r;
    bool json;
    mr_engine *e;
    int32_t *ids;
    float *logits;
    series prefill, decode;
} job;

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void settle(series *s)
{
    qsort(s->rate, (size_t)s->n, sizeof *s->rate, by_value);
    s->median = s->n % 2 ? s->rate[s->n / 2] : 0.5 * (s->rate[s->n / 2 - 1] + s->rate[s->n / 2]);
    s->low = s->rate[0];
    s->high = s->rate[s->n - 1];
}

static mr_status prefill_once(job *j, double *rate)
{
    mr_session *s;
    MR_TRY(mr_session_new(&s, j->e));
    double begin = seconds();
    mr_status st = mr_advance(s, j->ids, j->p, MR_WANT_LAST, NULL, 0, j->logits);
    *rate = (double)j->p / (seconds() - begin);
    mr_session_free(s);
    return st;
}

static mr_status decode_once(job *j, double *rate)
{
    const mr_engine_info *i = mr_engine_facts(j->e);
    int64_t step = i->diffusion ? i->block_length : 1, done = 0;
    mr_session *s;
    MR_TRY(mr_session_new(&s, j->e));
    mr_status st = mr_advance(s, j->ids, step, MR_WANT_ALL, NULL, 0,
                              j->logits); /* warm: blocks reserved, pages touched */
    double begin = seconds();
    for (; !st && done < j->n; done += step) {
        st = mr_advance(s, j->ids + (i->diffusion ? 0 : done), step, MR_WANT_ALL, NULL, 0,
                        j->logits);
        if (!st && !i->diffusion)
            st = mr_commit(s, step);
    }
    *rate = (double)done / (seconds() - begin);
    mr_session_free(s);
    return st;
}

/* Prefill and decode in turn, the first round a warm-up. */
static mr_status measure(job *j)
{
    for (int64_t k = 0; k <= j->r; k++) {
        double rate;
        if (j->p) {
            MR_TRY(prefill_once(j, &rate));
            if (k)
                j->prefill.rate[j->prefill.n++] = rate;
        }
        if (j->n) {
            MR_TRY(decode_once(j, &rate));
            if (k)
                j->decode.rate[j->decode.n++] = rate;
        }
    }
    return MR_STATUS_OK;
}

static mr_status prepare(job *j, const char *model)
{
    mr_engine_opts o = {0};
    int64_t most = j->p > j->n ? j->p : j->n;
    j->engine.context = most + 64;
    MR_TRY(app_engine_open(&j->engine, model, &o, &j->e));
    const mr_engine_info *i = mr_engine_facts(j->e);
    int64_t rows = i->diffusion ? i->block_length : 1;
    most = most > rows ? most : rows;
    j->ids = mr_alloc(MR_MEM_OTHER, (size_t)most * sizeof *j->ids);
    j->logits = mr_alloc(MR_MEM_OTHER, (size_t)(rows * i->vocab) * sizeof *j->logits);
    if (!j->ids || !j->logits)
        return MR_STATUS_MEMORY;
    for (int64_t k = 0; k < most; k++)
        j->ids[k] = (int32_t)(mr_uniform(1, (uint64_t)k, 0) * (double)i->vocab);
    return MR_STATUS_OK;
}

/* A member of the JSON document, after others. */
static void put_series(mr_buf *b, const char *name, const series *s, uint64_t bytes, uint64_t macs)
{
    mr_buf_printf(b,
                  ", \"%s\": {\"tokens_per_s\": %.3f, \"min\": %.3f, \"max\": %.3f, \"gb_per_s\": "
                  "%.3f, \"gflop_per_s\": %.3f}",
                  name, s->median, s->low, s->high, 1e-9 * (double)bytes * s->median,
                  2e-9 * (double)macs * s->median);
}

static void print_line(mr_buf *b, const char *name, const series *s, uint64_t bytes, uint64_t macs)
{
    mr_buf_printf(b, "%-8s %10.1f tok/s  (%.1f to %.1f)", name, s->median, s->low, s->high);
    if (bytes)
        mr_buf_printf(b, "  %7.2f GB/s", 1e-9 * (double)bytes * s->median);
    mr_buf_printf(b, "  %8.1f GFLOP/s\n", 2e-9 * (double)macs * s->median);
}

static int report(job *j)
{
    const mr_engine_info *i = mr_engine_facts(j->e);
    uint64_t bytes = i->diffusion ? 0 : mr_engine_bytes_per_token(j->e),
             macs = mr_engine_macs_per_token(j->e);
    mr_buf b = {0};
    if (j->json) {
        mr_buf_printf(&b,
                      "{\"threads\": %d, \"cpu\": \"%s\", \"precision\": \"%s\", \"runs\": %lld",
                      i->threads, i->cpu, i->precision, (long long)j->r);
        mr_buf_printf(&b, ", \"weight_bytes_per_token\": %llu, \"macs_per_token\": %llu",
                      (unsigned long long)mr_engine_bytes_per_token(j->e),
                      (unsigned long long)macs);
        if (j->p)
            put_series(&b, "prefill", &j->prefill, 0, macs);
        if (j->n)
            put_series(&b, "decode", &j->decode, bytes, macs);
        mr_buf_puts(&b, "}\n");
    } else {
        mr_buf_printf(&b, "%d threads, %s, %s, median of %lld\n", i->threads, i->cpu, i->precision,
                      (long long)j->r);
        if (j->p)
            print_line(&b, "prefill", &j->prefill, 0, macs);
        if (j->n)
            print_line(&b, i->diffusion ? "denoise" : "decode", &j->decode, bytes, macs);
    }
    app_write(b.data, b.len);
    mr_buf_free(&b);
    return app_out_end(APP_OK);
}

int cmd_bench(int argc, char **argv)
{
    job *j = mr_zalloc(MR_MEM_OTHER, sizeof *j);
    const char *model;
    if (!j)
        return app_failed(MR_STATUS_MEMORY);
    j->p = 512;
    j->n = 64;
    j->r = 5;
    const app_opt opts[] = {
        {"--prefill", "-p", APP_INT, &j->p, 0, 1 << 20, "N",
         "ids to prefill (default 512; 0: none)", NULL},
        {"--n", "-n", APP_INT, &j->n, 0, 1 << 20, "N", "ids to decode (default 64; 0: none)", NULL},
        {"--repeat", "-r", APP_INT, &j->r, 1, MAX_RUNS, "R", "measured runs of each (default 5)",
         NULL},
        {"--json", NULL, APP_FLAG, &j->json, 0, 0, NULL, "one JSON document", NULL},
        {"--block-length", NULL, APP_INT, &j->engine.block_length, 1, 4096, "B",
         "diffusion: block length", NULL},
        APP_ENGINE_OPTS(j->engine),
        {0},
    };
    int code = app_parse(app_command("bench"), opts, argc, argv, &model, 1);
    if (code < 0) {
        mr_status s = prepare(j, model);
        if (!s)
            s = measure(j);
        if (s) {
            code = app_failed(s);
        } else {
            if (j->p)
                settle(&j->prefill);
            if (j->n)
                settle(&j->decode);
            code = report(j);
        }
    }
    mr_engine_close(j->e);
    mr_free(j->ids);
    mr_free(j->logits);
    mr_free(j);
    return code;
}
