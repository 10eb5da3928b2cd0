/* What bench prints: lines for people, or one JSON document. */
#include "base/str.h"
#include "bench.h"

static uint64_t all_ops(const mr_profile_row *r)
{
    return r->int8_ops + r->f32_ops + r->bf16_ops;
}

static double of_limit(const bench_series *s)
{
    return s->limit_seconds * s->median / (double)s->rows;
}

/* Of steps that multiply: the others move what lies in the caches. */
static double row_limit(const bench *b, const mr_profile_row *r)
{
    return r->seconds > 0 && all_ops(r) > 0 ? bench_limit_seconds(&b->limits, r) / r->seconds : 0;
}

static double per_second(uint64_t n, double seconds)
{
    return seconds > 0 ? 1e-9 * (double)n / seconds : 0;
}

/* Of all the rows of its kind. */
static double part(const bench *b, const mr_profile_row *r)
{
    double all = 0;
    for (int i = 0; i < b->n_rows; i++)
        if (b->rows[i].plan == r->plan)
            all += b->rows[i].seconds;
    return all > 0 ? r->seconds / all : 0;
}

/* Weights, activations and the KV there was. */
static uint64_t planned(const bench *b)
{
    const mr_engine_info *i = mr_engine_facts(b->e);
    return i->weight_bytes + i->arena_bytes + mr_engine_counts(b->e).kv_peak_bytes;
}

/* ---- JSON ---- */

static void put_series(mr_buf *o, const char *name, const bench *b, const bench_series *s,
                       uint64_t bytes, uint64_t macs)
{
    mr_buf_printf(o,
                  ", \"%s\": {\"tokens_per_s\": %.3f, \"min\": %.3f, \"max\": %.3f, "
                  "\"gflop_per_s\": %.3f",
                  name, s->median, s->low, s->high, 2e-9 * (double)macs * s->median);
    if (bytes)
        mr_buf_printf(o, ", \"gb_per_s\": %.3f", 1e-9 * (double)bytes * s->median);
    if (s == &b->decode)
        mr_buf_printf(o, ", \"tokens_per_s_and_stream\": %.3f", s->median / (double)b->batch);
    if (b->profile)
        mr_buf_printf(o, ", \"share_of_limit\": %.4f", of_limit(s));
    mr_buf_puts(o, "}");
}

static void put_limit(mr_buf *o, const char *name, mr_limit l, const char *end)
{
    mr_buf_printf(o, "\"%s\": {\"one_thread\": %.3f, \"all_threads\": %.3f}%s", name, 1e-9 * l.one,
                  1e-9 * l.all, end);
}

static void put_profile(mr_buf *o, const bench *b)
{
    mr_buf_puts(o, ", \"limits\": {");
    put_limit(o, "read_gb_per_s", b->limits.read, ", ");
    put_limit(o, "int8_gop_per_s", b->limits.int8, ", ");
    put_limit(o, "f32_gflop_per_s", b->limits.f32, ", ");
    put_limit(o, "bf16_gflop_per_s", b->limits.bf16, "}, \"profile\": [");
    for (int i = 0; i < b->n_rows; i++) {
        const mr_profile_row *r = &b->rows[i];
        mr_buf_printf(o,
                      "%s{\"of\": \"%s\", \"kernel\": \"%s\", \"calls\": %llu, \"seconds\": %.6f, "
                      "\"share\": %.4f, \"gb_per_s\": %.3f, \"gop_per_s\": %.3f, "
                      "\"share_of_limit\": %.4f}",
                      i ? ", " : "", r->plan, r->kernel, (unsigned long long)r->calls, r->seconds,
                      part(b, r), per_second(r->bytes, r->seconds),
                      per_second(all_ops(r), r->seconds), row_limit(b, r));
    }
    mr_buf_puts(o, "]");
}

static void put_json(mr_buf *o, const bench *b, uint64_t bytes, uint64_t macs)
{
    const mr_engine_info *i = mr_engine_facts(b->e);
    mr_buf_printf(o,
                  "{\"threads\": %d, \"cpu\": \"%s\", \"precision\": \"%s\", \"runs\": %lld, "
                  "\"batch\": %lld, \"depth\": %lld",
                  i->threads, i->cpu, i->precision, (long long)b->r, (long long)b->batch,
                  (long long)b->depth);
    mr_buf_printf(o, ", \"weight_bytes_per_token\": %llu, \"macs_per_token\": %llu",
                  (unsigned long long)mr_engine_bytes_per_token(b->e), (unsigned long long)macs);
    mr_buf_printf(o, ", \"resident_bytes\": %llu, \"planned_bytes\": %llu",
                  (unsigned long long)b->resident, (unsigned long long)planned(b));
    if (b->p)
        put_series(o, "prefill", b, &b->prefill, 0, macs);
    if (b->n)
        put_series(o, "decode", b, &b->decode, bytes, macs);
    if (b->profile)
        put_profile(o, b);
    mr_buf_puts(o, "}\n");
}

/* ---- lines ---- */

static void print_series(mr_buf *o, const char *name, const bench *b, const bench_series *s,
                         uint64_t bytes, uint64_t macs)
{
    mr_buf_printf(o, "%-8s %10.1f tok/s  (%.1f to %.1f)", name, s->median, s->low, s->high);
    if (s == &b->decode && b->batch > 1)
        mr_buf_printf(o, "  %.1f a stream", s->median / (double)b->batch);
    if (bytes)
        mr_buf_printf(o, "  %7.2f GB/s", 1e-9 * (double)bytes * s->median);
    mr_buf_printf(o, "  %8.1f GFLOP/s", 2e-9 * (double)macs * s->median);
    if (b->profile)
        mr_buf_printf(o, "  %.1f %% of the limit", 100 * of_limit(s));
    mr_buf_puts(o, "\n");
}

static void print_rows(mr_buf *o, const bench *b, const char *name, const bench_series *s)
{
    mr_buf_printf(o, "\n%-44s %8s %9s %7s %8s %9s %9s\n", name, "calls", "us each", "time", "GB/s",
                  "GOP/s", "of limit");
    for (int i = 0; i < b->n_rows; i++) {
        const mr_profile_row *r = &b->rows[i];
        if ((r->plan[0] == 'p') != (s == &b->prefill))
            continue;
        mr_buf_printf(o, "%-44s %8llu %9.1f %5.1f %%", r->kernel, (unsigned long long)r->calls,
                      1e6 * r->seconds / (double)r->calls, 100 * part(b, r));
        if (r->bytes || all_ops(r))
            mr_buf_printf(o, " %8.2f %9.1f", per_second(r->bytes, r->seconds),
                          per_second(all_ops(r), r->seconds));
        if (row_limit(b, r) > 0)
            mr_buf_printf(o, " %7.1f %%", 100 * row_limit(b, r));
        mr_buf_puts(o, "\n");
    }
}

static void print_limits(mr_buf *o, int threads, const mr_limits *l)
{
    mr_buf_printf(o,
                  "limits of 1 and %d threads: read %.1f, %.1f GB/s; int8 %.0f, %.0f GOP/s; "
                  "f32 %.0f, %.0f GFLOP/s",
                  threads, 1e-9 * l->read.one, 1e-9 * l->read.all, 1e-9 * l->int8.one,
                  1e-9 * l->int8.all, 1e-9 * l->f32.one, 1e-9 * l->f32.all);
    if (l->bf16.all > 0)
        mr_buf_printf(o, "; bf16 %.0f, %.0f GFLOP/s", 1e-9 * l->bf16.one, 1e-9 * l->bf16.all);
    mr_buf_puts(o, "\n");
}

static void print_lines(mr_buf *o, const bench *b, uint64_t bytes, uint64_t macs)
{
    const mr_engine_info *i = mr_engine_facts(b->e);
    const char *decode = i->diffusion ? "denoise" : "decode";
    mr_buf_printf(o, "%d threads, %s, %s, median of %lld\n", i->threads, i->cpu, i->precision,
                  (long long)b->r);
    if (b->profile)
        print_limits(o, i->threads, &b->limits);
    if (b->p)
        print_series(o, "prefill", b, &b->prefill, 0, macs);
    if (b->n)
        print_series(o, decode, b, &b->decode, bytes, macs);
    if (b->profile && b->p)
        print_rows(o, b, "prefill", &b->prefill);
    if (b->profile && b->n)
        print_rows(o, b, decode, &b->decode);
}

int bench_report(const bench *b)
{
    /* A batch reads the weights once for all its streams, a block for all its rows. */
    bool alone = b->batch == 1 && !mr_engine_facts(b->e)->diffusion;
    uint64_t bytes = alone ? mr_engine_bytes_per_token(b->e) : 0,
             macs = mr_engine_macs_per_token(b->e);
    mr_buf o = {0};
    if (b->json)
        put_json(&o, b, bytes, macs);
    else
        print_lines(&o, b, bytes, macs);
    app_write(o.data, o.len);
    mr_buf_free(&o);
    return app_out_end(APP_OK);
}
