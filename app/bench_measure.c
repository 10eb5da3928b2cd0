/* Measuring: a prompt through an empty session, then streams that decode, in turn, the first round
 * a warm-up.
 *
 * Streams are filled to their depth once and go on from there in each run.  For a diffusion model
 * "decode" is denoising: forwards of one open block with all its logits, counted in rows. */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/rng.h"
#include "bench.h"

/* ---- one run of each ---- */

/* Keeps the most memory that this process has held at such a look; on Linux. */
static void look_at_memory(bench *b)
{
    unsigned long long all, resident = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    if (!f)
        return;
    if (fscanf(f, "%llu %llu", &all, &resident) != 2)
        resident = 0;
    fclose(f);
    resident *= (unsigned long long)sysconf(_SC_PAGESIZE);
    b->resident = resident > b->resident ? resident : b->resident;
}

static mr_status prefill_once(bench *b, double *rate)
{
    mr_session *s;
    MR_TRY(mr_session_new(&s, b->e));
    double begin = mr_clock_seconds();
    mr_status st = mr_advance(s, b->ids, b->p, MR_WANT_LAST, NULL, 0, b->logits);
    *rate = (double)b->p / (mr_clock_seconds() - begin);
    look_at_memory(b); /* while this session is there beside the streams */
    mr_session_free(s);
    return st;
}

static int64_t rows_at_once(const bench *b)
{
    const mr_engine_info *i = mr_engine_facts(b->e);
    return i->diffusion ? i->block_length : 1;
}

/* Different ids for each stream, lest a mixture's experts all be the same. */
static const int32_t *ids_of(const bench *b, int64_t stream, int64_t at)
{
    return b->ids + (stream * 131 + at) % (b->n_ids - b->depth - rows_at_once(b));
}

static mr_status decode_once(bench *b, double *rate)
{
    int64_t rows = rows_at_once(b), steps = (b->n + rows - 1) / rows;
    bool commits = !mr_engine_facts(b->e)->diffusion;
    double begin = mr_clock_seconds();
    for (int64_t k = 0; k < steps; k++) {
        for (int64_t i = 0; i < b->batch; i++)
            b->feed[i].ids = ids_of(b, i, mr_session_length(b->stream[i]));
        MR_TRY(mr_advance_many(b->feed, (int)b->batch));
        for (int64_t i = 0; commits && i < b->batch; i++)
            MR_TRY(mr_commit(b->stream[i], rows));
    }
    b->decode.rows = b->batch * steps * rows;
    *rate = (double)b->decode.rows / (mr_clock_seconds() - begin);
    return MR_STATUS_OK;
}

/* ---- streams ---- */

static mr_status open_streams(bench *b)
{
    const mr_engine_info *i = mr_engine_facts(b->e);
    int64_t rows = rows_at_once(b);
    b->stream = mr_zalloc(MR_MEM_OTHER, (size_t)b->batch * sizeof *b->stream);
    b->feed = mr_zalloc(MR_MEM_OTHER, (size_t)b->batch * sizeof *b->feed);
    if (!b->stream || !b->feed)
        return MR_STATUS_MEMORY;
    for (int64_t k = 0; k < b->batch; k++) {
        MR_TRY(mr_session_new(&b->stream[k], b->e));
        b->feed[k] = (mr_feed){.session = b->stream[k],
                               .n = rows,
                               .want = MR_WANT_ALL,
                               .logits = b->logits + k * rows * i->vocab};
        if (!b->depth)
            continue;
        MR_TRY(mr_advance(b->stream[k], ids_of(b, k, 0), b->depth, MR_WANT_NONE, NULL, 0, NULL));
        MR_TRY(mr_commit(b->stream[k], b->depth));
    }
    return MR_STATUS_OK;
}

/* ---- all runs ---- */

static void keep(bench_series *s, bool warm_up, double rate)
{
    if (!warm_up)
        s->rate[s->n++] = rate;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void settle(bench_series *s)
{
    if (!s->n)
        return;
    qsort(s->rate, (size_t)s->n, sizeof *s->rate, by_value);
    s->median = s->n % 2 ? s->rate[s->n / 2] : 0.5 * (s->rate[s->n / 2 - 1] + s->rate[s->n / 2]);
    s->low = s->rate[0];
    s->high = s->rate[s->n - 1];
}

static double more(double a, double b)
{
    return a > b ? a : b;
}

static void take_more(mr_limit *a, mr_limit b)
{
    a->one = more(a->one, b.one);
    a->all = more(a->all, b.all);
}

/* Of two looks, before and after, the better one: others may have been at work during one. */
static mr_status take_limits(bench *b)
{
    mr_limits l;
    MR_TRY(mr_engine_limits(b->e, &l));
    take_more(&b->limits.read, l.read);
    take_more(&b->limits.int8, l.int8);
    take_more(&b->limits.f32, l.f32);
    take_more(&b->limits.bf16, l.bf16);
    return MR_STATUS_OK;
}

double bench_limit_seconds(const mr_limits *l, const mr_profile_row *r)
{
    const uint64_t ops[3] = {r->int8_ops, r->f32_ops, r->bf16_ops};
    const double peaks[3] = {l->int8.all, l->f32.all, l->bf16.all};
    double products = 0;
    if (!l->read.all)
        return 0;
    for (int i = 0; i < 3; i++) {
        if (ops[i] && !peaks[i])
            return 0;
        products += ops[i] ? (double)ops[i] / peaks[i] : 0;
    }
    return more((double)r->bytes / l->read.all, products);
}

/* One run of a kind under the profile; its rows are added to b's. */
static mr_status profile_one(bench *b, mr_status (*once)(bench *b, double *rate), bench_series *s)
{
    double rate;
    mr_profile_row *rows;
    int n;
    MR_TRY(mr_profile_start(b->e));
    MR_TRY(once(b, &rate));
    MR_TRY(mr_profile_rows(b->e, &rows, &n));
    mr_profile_row *all = mr_realloc(MR_MEM_OTHER, b->rows, (size_t)(b->n_rows + n) * sizeof *all);
    if (!all) {
        mr_memory_free(rows);
        return MR_STATUS_MEMORY;
    }
    b->rows = all;
    for (int i = 0; i < n; i++) {
        rows[i].plan = s == &b->prefill ? "prefill" : "decode"; /* what is done, on either plan */
        s->limit_seconds += bench_limit_seconds(&b->limits, &rows[i]);
        all[b->n_rows++] = rows[i];
    }
    mr_memory_free(rows);
    mr_profile_stop(b->e);
    return MR_STATUS_OK;
}

static mr_status profile(bench *b)
{
    MR_TRY(take_limits(b));
    if (b->p)
        MR_TRY(profile_one(b, prefill_once, &b->prefill));
    if (b->n)
        MR_TRY(profile_one(b, decode_once, &b->decode));
    return MR_STATUS_OK;
}

mr_status bench_measure(bench *b)
{
    if (b->profile)
        MR_TRY(take_limits(b));
    if (b->n)
        MR_TRY(open_streams(b));
    b->prefill.rows = b->p;
    for (int64_t k = 0; k <= b->r; k++) {
        double rate;
        if (b->p) {
            MR_TRY(prefill_once(b, &rate));
            keep(&b->prefill, !k, rate);
        }
        if (b->n) {
            MR_TRY(decode_once(b, &rate));
            keep(&b->decode, !k, rate);
        }
    }
    settle(&b->prefill);
    settle(&b->decode);
    look_at_memory(b);
    return b->profile ? profile(b) : MR_STATUS_OK;
}

/* ---- open, close ---- */

mr_status bench_open(bench *b, const char *model)
{
    mr_engine_opts o = {.sessions = b->batch + 1};
    /* Warm-up, runs and profile, with blocks to spare. */
    int64_t decode = b->depth + (b->r + 2) * b->n + 256 + 2 * b->engine.block_length;
    b->n_ids = b->p > decode ? b->p : decode;
    b->engine.context = b->n_ids;
    MR_TRY(app_engine_open(&b->engine, model, &o, &b->e));
    const mr_engine_info *i = mr_engine_facts(b->e);
    int64_t rows = rows_at_once(b);
    b->depth = (b->depth + rows - 1) / rows * rows;
    b->ids = mr_alloc(MR_MEM_OTHER, (size_t)b->n_ids * sizeof *b->ids);
    b->logits = mr_alloc(MR_MEM_OTHER, (size_t)(b->batch * rows * i->vocab) * sizeof *b->logits);
    if (!b->ids || !b->logits)
        return MR_STATUS_MEMORY;
    for (int64_t k = 0; k < b->n_ids; k++)
        b->ids[k] = (int32_t)(mr_uniform(1, (uint64_t)k, 0) * (double)i->vocab);
    return MR_STATUS_OK;
}

void bench_close(bench *b)
{
    for (int64_t k = 0; b->stream && k < b->batch; k++)
        mr_session_free(b->stream[k]);
    mr_engine_close(b->e);
    mr_free(b->stream);
    mr_free(b->feed);
    mr_free(b->rows);
    mr_free(b->ids);
    mr_free(b->logits);
}
