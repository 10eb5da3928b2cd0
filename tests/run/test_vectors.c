/* Family vectors: tiny random models against what their reference implementation says
 * (tests/vectors/README.md).
 *
 *     test_vectors [--cpu NAME] [--dir DIR] [--quick] [CASE...]
 *
 * For every case: logits in exact precision for the whole prompt, in chunks of 1 and 7, within
 * 1e-4 * (1 + |reference|); greedy continuations; for diffusion the block's ids after every
 * denoising step.  Then the bits: logits must be byte-identical for chunks of 1, 7 and all, for 1,
 * 2 and 4 threads, and for every instruction set this CPU has, within exact and within fast; within
 * native for the one that has dots of bf16 pairs; where they are emulated, of cases that are named.
 * --quick: one instruction set, logits only, and the bits of native.
 * No cmocka: this test also runs on emulated machines. */
#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cpu.h"
#include "base/file.h"
#include "base/json.h"
#include "backend/emulate_bf16.h"
#include "millrace.h"

static int failed, passed;
static const char *case_name;

#define CHECK(ok, ...)                                                                             \
    do {                                                                                           \
        if (ok) {                                                                                  \
            passed++;                                                                              \
        } else {                                                                                   \
            failed++;                                                                              \
            printf("FAILED %s: ", case_name);                                                      \
            printf(__VA_ARGS__);                                                                   \
            printf("\n");                                                                          \
        }                                                                                          \
    } while (0)

typedef struct doc {
    char *text;
    mr_json *json;
} doc;

static bool doc_open(doc *d, const char *path)
{
    size_t len;
    *d = (doc){0};
    return mr_file_exists(path) == 1 &&
           !mr_file_read_all(path, 1 << 28, MR_MEM_OTHER, &d->text, &len) &&
           !mr_json_parse(&d->json, path, d->text, len);
}

static void doc_close(doc *d)
{
    mr_json_free(d->json);
    mr_free(d->text);
}

static int32_t *ints(mr_jval v, int64_t *n)
{
    *n = mr_jcount(v);
    int32_t *out = calloc((size_t)*n + 1, sizeof *out);
    int64_t i = 0, x;
    for (mr_jval c = mr_jfirst(v); c.doc; c = mr_jnext(c))
        if (!mr_jint(c, INT32_MIN, INT32_MAX, &x))
            out[i++] = (int32_t)x;
    return out;
}

static int64_t get_int(mr_jval o, const char *key, int64_t def)
{
    int64_t x;
    return mr_jhas(mr_jget(o, key)) && !mr_jint(mr_jget(o, key), INT32_MIN, INT32_MAX, &x) ? x
                                                                                           : def;
}

/* float32 .npy as numpy writes it, version 1. */
static float *npy(const char *path, int64_t *n)
{
    char *data;
    size_t len;
    if (mr_file_read_all(path, 1 << 28, MR_MEM_OTHER, &data, &len))
        return NULL;
    size_t head = 10 + (size_t)(uint8_t)data[8] + 256 * (size_t)(uint8_t)data[9];
    *n = (int64_t)((len - head) / 4);
    float *out = malloc((size_t)*n * 4 + 4);
    memcpy(out, data + head, (size_t)*n * 4);
    mr_free(data);
    return out;
}

/* ---- logits ---- */

enum { NATIVE = 2, PRECISIONS };
static const char *const precisions[PRECISIONS] = {"exact", "fast", "native"};

static bool slow; /* dots are emulated, each by a signal: too long for all cases */

/* Native without dots is as fast. */
static bool has(mr_isa isa, int precision)
{
    return mr_isa_have(isa) &&
           (precision != NATIVE || isa == MR_ISA_AMX || (mr_isa_has_bf16(isa) && !slow));
}

typedef struct setup {
    const char *dir, *precision, *cpu;
    int threads;
    int64_t block;
} setup;

static mr_engine *open_engine(const setup *s, int32_t mask, const int32_t *eos, int n_eos)
{
    mr_engine_opts o = {.threads = s->threads,
                        .cpu = s->cpu,
                        .precision = s->precision,
                        .block_length = s->block,
                        .has_mask_id = mask >= 0,
                        .mask_id = mask,
                        .eos = eos,
                        .n_eos = n_eos};
    mr_engine *e = NULL;
    if (mr_engine_open(&e, s->dir, &o)) {
        CHECK(false, "open (%s, %s): %s", s->precision, s->cpu ? s->cpu : "best", mr_error_text());
        return NULL;
    }
    return e;
}

enum { MAX_SPANS = 16 };

/* What a case feeds: ids, and for image cases the rows as embeddings and the images' spans. */
typedef struct feed_of {
    int32_t *ids;
    int64_t n;
    float *embeds;
    mr_span span[MAX_SPANS];
    int n_spans;
} feed_of;

static void read_feed(feed_of *f, mr_jval c, const char *dir)
{
    char path[1100];
    int64_t n;
    *f = (feed_of){0};
    f->ids = ints(mr_jget(c, "ids"), &f->n);
    if (mr_jhas(mr_jget(c, "embeds"))) {
        snprintf(path, sizeof path, "%s/embeds.npy", dir);
        f->embeds = npy(path, &n);
        CHECK(f->embeds, "no %s", path);
    }
    for (mr_jval s = mr_jfirst(mr_jget(c, "image_spans")); s.doc && f->n_spans < MAX_SPANS;
         s = mr_jnext(s)) {
        int32_t *ends = ints(s, &n);
        f->span[f->n_spans++] = (mr_span){ends[0], ends[1]};
        free(ends);
    }
}

static void free_feed(feed_of *f)
{
    free(f->ids);
    free(f->embeds);
}

/* Rows [at, at + chunk), and as many more as the last one's image has. */
static int64_t chunk_end(const feed_of *f, int64_t at, int64_t chunk)
{
    int64_t to = at + chunk < f->n ? at + chunk : f->n;
    for (int k = 0; k < f->n_spans; k++)
        if (f->span[k].begin < to && to < f->span[k].end)
            to = f->span[k].end;
    return to;
}

static mr_status advance(mr_session *s, int64_t hidden, const feed_of *f, int64_t at, int64_t to,
                         float *logits)
{
    mr_span span[MAX_SPANS];
    mr_feed feed = {.session = s,
                    .ids = f->ids + at,
                    .n = to - at,
                    .embeds = f->embeds ? f->embeds + at * hidden : NULL,
                    .spans = span,
                    .want = MR_WANT_ALL,
                    .logits = logits};
    for (int k = 0; k < f->n_spans; k++)
        if (f->span[k].begin >= at && f->span[k].end <= to)
            span[feed.n_spans++] = (mr_span){f->span[k].begin - at, f->span[k].end - at};
    return mr_advance_many(&feed, 1);
}

static float *run_logits(mr_engine *e, const feed_of *f, int64_t chunk)
{
    const int64_t n = f->n;
    const mr_engine_info *i = mr_engine_facts(e);
    float *out = malloc((size_t)(n * i->vocab) * sizeof *out);
    mr_session *s;
    if (i->diffusion)
        chunk = (chunk + i->block_length - 1) / i->block_length * i->block_length;
    mr_status st = mr_session_new(&s, e);
    for (int64_t at = 0, to; !st && at < n; at = to) {
        to = chunk_end(f, at, chunk);
        st = advance(s, i->hidden, f, at, to, out + at * i->vocab);
        if (!st)
            st = mr_commit(s, to - at);
    }
    if (st)
        CHECK(false, "run: %s", mr_error_text());
    mr_session_free(s);
    return out;
}

static void compare(const float *got, const float *ref, int64_t n, int64_t n_ref, int64_t vocab,
                    const char *what)
{
    double worst = 0;
    int64_t at = 0;
    if (n != n_ref) {
        CHECK(false, "%s: %lld logits, %lld expected", what, (long long)n, (long long)n_ref);
        return;
    }
    for (int64_t i = 0; i < n; i++) {
        double err = fabs((double)got[i] - (double)ref[i]) / (1 + fabs((double)ref[i]));
        if (!(err <= worst)) {
            worst = isnan(err) ? INFINITY : err;
            at = i;
        }
    }
    CHECK(worst <= 1e-4, "%s: error %.3g at row %lld id %lld (got %g, expected %g)", what, worst,
          (long long)(at / vocab), (long long)(at % vocab), (double)got[at], (double)ref[at]);
}

static void check_logits(const setup *base, const feed_of *f, const char *ref_path)
{
    const int64_t n = f->n;
    int64_t n_ref = 0;
    float *ref = npy(ref_path, &n_ref);
    mr_engine *e = open_engine(base, -1, NULL, 0);
    if (!ref || !e) {
        CHECK(ref, "no %s", ref_path);
    } else {
        static const int64_t chunks[] = {1 << 20, 1, 7};
        for (int c = 0; c < 3; c++) {
            char what[64];
            snprintf(what, sizeof what, "exact, chunk %lld", (long long)chunks[c]);
            float *got = run_logits(e, f, chunks[c] < n ? chunks[c] : n);
            compare(got, ref, n * mr_engine_facts(e)->vocab, n_ref, mr_engine_facts(e)->vocab,
                    what);
            free(got);
        }
    }
    free(ref);
    mr_engine_close(e);
}

/* Bytes of one way of running against the first. */
static void check_same(const setup *s, const feed_of *f, int64_t chunk, float **first)
{
    const int64_t n = f->n;
    mr_engine *e = open_engine(s, -1, NULL, 0);
    if (!e)
        return;
    float *got = run_logits(e, f, chunk);
    size_t bytes = (size_t)(n * mr_engine_facts(e)->vocab) * sizeof *got;
    if (!*first) {
        *first = got;
    } else {
        CHECK(memcmp(got, *first, bytes) == 0, "bits differ: %s, %s, %d threads, chunk %lld",
              s->precision, s->cpu, s->threads, (long long)chunk);
        free(got);
    }
    mr_engine_close(e);
}

static void check_bits(const setup *base, const feed_of *f, int from)
{
    for (int p = from; p < PRECISIONS; p++) {
        float *first = NULL;
        for (int isa = 0; isa < MR_ISA_COUNT; isa++) {
            if (!has((mr_isa)isa, p))
                continue;
            if (p == NATIVE) { /* each has bits of its own */
                free(first);
                first = NULL;
            }
            setup s = *base;
            s.cpu = mr_isa_name((mr_isa)isa);
            s.precision = precisions[p];
            s.threads = 1;
            check_same(&s, f, f->n, &first);
            s.threads = 2;
            check_same(&s, f, 7, &first);
            s.threads = 4;
            check_same(&s, f, 1, &first);
            check_same(&s, f, 64, &first);
        }
        free(first);
    }
}

/* ---- generation ---- */

typedef struct heard {
    int32_t *id;
    int64_t n, cap;
    mr_jval block, step; /* next expected */
    bool wrong;
} heard;

static int hear_ids(void *ctx, const int32_t *ids, size_t n)
{
    heard *h = ctx;
    for (size_t i = 0; i < n && h->n < h->cap; i++)
        h->id[h->n++] = ids[i];
    return 0;
}

static void check_ids(const int32_t *got, int64_t n_got, const int32_t *want, int64_t n,
                      const char *what)
{
    int64_t same = 0;
    while (same < n && same < n_got && got[same] == want[same])
        same++;
    CHECK(same == n && n_got == n, "%s: ids differ from number %lld on (%lld given, %lld expected)",
          what, (long long)same, (long long)n_got, (long long)n);
}

static bool is_eos(const mr_engine *e, int32_t id)
{
    const mr_engine_info *i = mr_engine_facts(e);
    for (int k = 0; k < i->n_eos; k++)
        if (i->eos[k] == id)
            return true;
    return false;
}

static void check_greedy(const setup *s, mr_jval c, const int32_t *ids)
{
    mr_engine *e = open_engine(s, -1, NULL, 0);
    for (mr_jval g = mr_jfirst(mr_jget(c, "greedy")); e && g.doc; g = mr_jnext(g)) {
        int64_t n_prompt, n_want;
        int32_t *prompt, *want;
        if (mr_jhas(mr_jget(g, "prompt_len"))) {
            n_prompt = get_int(g, "prompt_len", 0);
            prompt = memcpy(calloc((size_t)n_prompt + 1, 4), ids, (size_t)n_prompt * 4);
            want = ints(mr_jget(g, "ids"), &n_want);
        } else {
            prompt = ints(mr_jget(g, "ids"), &n_prompt);
            want = ints(mr_jhas(mr_jget(g, "out")) ? mr_jget(g, "out") : mr_jget(g, "output"),
                        &n_want);
        }
        heard h = {.id = calloc((size_t)n_want + 1, 4), .cap = n_want};
        mr_generate_opts o;
        mr_generate_defaults(&o);
        o.max_new = n_want;
        o.on_ids = hear_ids;
        o.ctx = &h;
        mr_session *session = NULL;
        mr_status st = mr_session_new(&session, e);
        if (!st)
            st = mr_generate(session, prompt, (size_t)n_prompt, &o, NULL);
        CHECK(!st, "generate: %s", mr_error_text());
        /* the reference went on past end ids: only there may we have stopped short */
        if (h.n > 0 && h.n < n_want && is_eos(e, h.id[h.n - 1]))
            n_want = h.n;
        check_ids(h.id, h.n, want, n_want, "greedy");
        CHECK(h.n > 0, "greedy: nothing generated");
        mr_session_free(session);
        free(h.id);
        free(prompt);
        free(want);
    }
    mr_engine_close(e);
}

static int hear_step(void *ctx, int64_t start, const int32_t *block, int64_t n)
{
    heard *h = ctx;
    int64_t n_want;
    if (!h->step.doc) {
        h->block = h->block.doc ? mr_jnext(h->block) : h->block;
        h->step = mr_jfirst(mr_jget(h->block, "steps"));
    }
    int32_t *want = ints(mr_jget(h->step, "ids"), &n_want);
    bool ok = h->step.doc && get_int(h->block, "start", -1) == start && n == n_want &&
              memcmp(want, block, (size_t)n * 4) == 0;
    if (!ok && !h->wrong)
        CHECK(false, "denoising: block at %lld differs", (long long)start);
    h->wrong |= !ok;
    free(want);
    h->step = mr_jnext(h->step);
    return h->wrong;
}

static void get_num(mr_jval o, const char *key, double *out)
{
    if (mr_jhas(mr_jget(o, key)))
        CHECK(!mr_jnum(mr_jget(o, key), out), "%s: %s", key, mr_error_text());
}

static void diffusion_opts(mr_generate_opts *o, mr_jval args)
{
    mr_generate_defaults(o);
    o->max_new = get_int(args, "gen_length", 0);
    o->steps = get_int(args, "steps", 0);
    o->minimal_topk = get_int(args, "minimal_topk", 0);
    o->max_post_steps = get_int(args, "max_post_steps", -1);
    o->num_to_transfer = get_int(args, "num_to_transfer", 0);
    o->max_steps_per_block = get_int(args, "max_steps_per_block", 0);
    get_num(args, "threshold", &o->threshold);
    get_num(args, "editing_threshold", &o->editing_threshold);
    get_num(args, "low_threshold", &o->low_threshold);
    get_num(args, "alpha", &o->credit_alpha);
    get_num(args, "gamma", &o->credit_gamma);
    get_num(args, "beta", &o->credit_decay);
    if (mr_jhas(mr_jget(args, "eos_early_stop")))
        mr_jbool(mr_jget(args, "eos_early_stop"), &o->eos_early_stop);
}

static void check_trace_run(const setup *base, mr_jval run)
{
    int64_t n_prompt, n_want, n_eos;
    int32_t *prompt = ints(mr_jget(run, "prompt"), &n_prompt),
            *eos = ints(mr_jget(run, "eos_ids"), &n_eos);
    int32_t *want = ints(mr_jget(run, "final"), &n_want);
    mr_jval args = mr_jget(run, "args");
    setup s = *base;
    s.block = get_int(args, "block_length", 32);
    mr_engine *e = open_engine(&s, (int32_t)get_int(run, "mask_id", -1), eos, (int)n_eos);
    mr_session *session = NULL;
    if (e && !mr_session_new(&session, e)) {
        heard h = {.id = calloc((size_t)n_want + 64, 4), .cap = n_want + 64};
        mr_jval blocks = mr_jget(run, "blocks");
        h.block = mr_jfirst(blocks);
        h.step = mr_jfirst(mr_jget(h.block, "steps"));
        mr_generate_opts o;
        char decoder[32] = "";
        mr_buf scratch = {0};
        mr_str name;
        if (!mr_jstr(mr_jget(run, "decoder"), &scratch, &name))
            snprintf(decoder, sizeof decoder, "%.*s", (int)name.len, name.data);
        mr_buf_free(&scratch);
        diffusion_opts(&o, args);
        o.decoder = decoder;
        o.on_ids = hear_ids;
        o.on_step = hear_step;
        o.ctx = &h;
        mr_result r;
        mr_status st = mr_generate(session, prompt, (size_t)n_prompt, &o, &r);
        CHECK(!st || h.wrong, "generate: %s", mr_error_text());
        CHECK(h.wrong || r.steps == get_int(run, "forwards", -1),
              "%lld denoising steps, %lld expected", (long long)r.steps,
              (long long)get_int(run, "forwards", -1));
        if (!h.wrong)
            check_ids(h.id, h.n, want, n_want, "diffusion");
        free(h.id);
    }
    mr_session_free(session);
    mr_engine_close(e);
    free(prompt);
    free(want);
    free(eos);
}

static void check_trace(const setup *base, const char *path)
{
    doc d;
    bool read = doc_open(&d, path);
    CHECK(read || mr_file_exists(path) != 1, "%s: %s", path, mr_error_text());
    if (read)
        for (mr_jval r = mr_jfirst(mr_jget(mr_json_root(d.json), "runs")); r.doc; r = mr_jnext(r))
            check_trace_run(base, r);
    doc_close(&d);
}

/* ---- canvases ---- */

/* logits[n] / by, as the probabilities that the next step is given. */
static void soften(float *logits, int64_t rows, int64_t vocab, double by)
{
    for (int64_t r = 0; r < rows; r++) {
        float *l = logits + r * vocab;
        double top = -INFINITY, sum = 0;
        for (int64_t v = 0; v < vocab; v++)
            top = fmax(top, (double)l[v] / by);
        for (int64_t v = 0; v < vocab; v++)
            sum += exp((double)l[v] / by - top);
        for (int64_t v = 0; v < vocab; v++)
            l[v] = (float)(exp((double)l[v] / by - top) / sum);
    }
}

/* Feeds the prompt in pieces, then denoises both canvases: the second is given the reference's
 * logits of the first. */
static float *canvas_logits(mr_engine *e, mr_jval c, int64_t chunk, const float *fed)
{
    const mr_engine_info *i = mr_engine_facts(e);
    int64_t n, n_canvas, n_canvas2, all = i->canvas * i->vocab;
    int32_t *ids = ints(mr_jget(c, "ids"), &n), *one = ints(mr_jget(c, "canvas"), &n_canvas),
            *two = ints(mr_jget(c, "canvas2"), &n_canvas2);
    float *out = calloc(2 * (size_t)all, sizeof *out), *probs = malloc((size_t)all * sizeof *probs);
    mr_session *s;
    mr_status st = mr_session_new(&s, e);
    for (int64_t at = 0; !st && at < n; at += chunk) {
        int64_t rows = n - at < chunk ? n - at : chunk;
        st = mr_advance(s, ids + at, rows, MR_WANT_NONE, NULL, 0, NULL);
        if (!st)
            st = mr_commit(s, rows);
    }
    memcpy(probs, fed, (size_t)all * sizeof *probs);
    double by = 1;
    get_num(c, "sc_temperature", &by);
    soften(probs, i->canvas, i->vocab, by);
    CHECK(n_canvas == i->canvas && n_canvas2 == i->canvas, "canvases of another length");
    for (int again = 0; again < 2 && !st; again++) { /* nothing stays behind */
        st = mr_denoise(s, one, NULL, out);
        if (!st)
            st = mr_denoise(s, two, probs, out + all);
    }
    CHECK(!st && mr_session_length(s) == n, "canvas: %s", mr_error_text());
    mr_session_free(s);
    free(ids);
    free(one);
    free(two);
    free(probs);
    return out;
}

static void check_canvas_logits(const setup *base, mr_jval c, const char *dir, bool bits)
{
    char path[1100];
    int64_t n_one = 0, n_two = 0;
    snprintf(path, sizeof path, "%s/logits.npy", dir);
    float *one = npy(path, &n_one), *first[PRECISIONS] = {NULL};
    snprintf(path, sizeof path, "%s/logits_sc.npy", dir);
    float *two = npy(path, &n_two);
    static const int64_t chunks[] = {1 << 20, 1, 7};
    for (int isa = 0; one && two && isa < MR_ISA_COUNT; isa++) {
        if (!mr_isa_have((mr_isa)isa) || (!bits && isa))
            continue;
        for (int k = 0; k < 3 * PRECISIONS; k++) {
            setup s = *base;
            if (!has((mr_isa)isa, k / 3))
                continue;
            if (k == 3 * NATIVE) { /* each has bits of its own */
                free(first[NATIVE]);
                first[NATIVE] = NULL;
            }
            s.cpu = bits ? mr_isa_name((mr_isa)isa) : base->cpu;
            s.threads = k % 3 == 2 ? 4 : 1 + k % 3;
            s.precision = precisions[k / 3];
            mr_engine *e = open_engine(&s, -1, NULL, 0);
            if (!e)
                break;
            int64_t vocab = mr_engine_facts(e)->vocab;
            float *got = canvas_logits(e, c, chunks[k % 3], one);
            if (k < 3) {
                compare(got, one, n_one, n_one, vocab, "canvas");
                compare(got + n_one, two, n_two, n_two, vocab, "canvas, fed back");
            }
            if (!first[k / 3])
                first[k / 3] = got;
            CHECK(memcmp(got, first[k / 3], (size_t)(n_one + n_two) * sizeof *got) == 0,
                  "bits differ: canvas, %s, %s", s.precision, s.cpu ? s.cpu : "best");
            if (got != first[k / 3])
                free(got);
            mr_engine_close(e);
        }
    }
    CHECK(one && two, "%s: no logits", dir);
    free(one);
    free(two);
    for (int p = 0; p < PRECISIONS; p++)
        free(first[p]);
}

typedef struct canvas_run {
    mr_jval blocks, block, step;
    int64_t steps; /* heard */
    bool argmax;
    int32_t *out;
    int64_t n;
} canvas_run;

static mr_jval item(mr_jval list, int64_t i)
{
    mr_jval v = mr_jfirst(list);
    while (i-- > 0 && v.doc)
        v = mr_jnext(v);
    return v;
}

static mr_status give_draws(void *ctx, int64_t block, int64_t step, int32_t *ids, double *u)
{
    canvas_run *r = ctx;
    int64_t n;
    r->block = item(r->blocks, block);
    r->step = step < 0 ? r->block : item(mr_jget(r->block, "steps"), step);
    int32_t *drawn = ints(mr_jget(r->step, step < 0 ? "canvas" : "noise"), &n);
    memcpy(ids, drawn, (size_t)n * 4);
    int64_t i = 0;
    for (mr_jval v = mr_jfirst(mr_jget(r->step, "u")); u && v.doc; v = mr_jnext(v))
        CHECK(!mr_jnum(v, &u[i++]), "u: %s", mr_error_text());
    free(drawn);
    return MR_STATUS_OK;
}

static bool same_ints(mr_jval want, const int32_t *got, int64_t n)
{
    int64_t n_want;
    int32_t *ids = ints(want, &n_want);
    bool same = n == n_want && memcmp(ids, got, (size_t)n * 4) == 0;
    free(ids);
    return same;
}

static int hear_canvas(void *ctx, const mr_canvas_step *s)
{
    canvas_run *r = ctx;
    double temperature = 0, mean = 0, worst = 0, h;
    bool stop = false, accepted = true;
    get_num(r->step, "temperature", &temperature);
    get_num(r->step, "mean_entropy", &mean);
    mr_jbool(mr_jget(r->step, "stop"), &stop);
    for (int64_t i = 0; i < s->n; i++) {
        mr_jnum(item(mr_jget(r->step, "entropy"), i), &h);
        worst = fmax(worst, fabs(h - s->entropy[i]));
        int64_t a = -1;
        mr_jint(item(mr_jget(r->step, "accepted"), i), 0, 1, &a);
        accepted &= a == s->accepted[i];
    }
    bool ok = worst <= 1e-3 && fabs(mean - s->mean_entropy) <= 1e-3 && accepted &&
              fabs(temperature - s->temperature) < 1e-12 && stop == s->stop &&
              same_ints(mr_jget(r->step, "argmax"), s->best, s->n) &&
              same_ints(mr_jget(r->step, "sampled"), s->sampled, s->n) &&
              same_ints(mr_jget(r->step, "next"), s->next, s->n);
    CHECK(ok, "canvas at %lld, step %lld differs (entropies by %.2g)", (long long)s->start,
          (long long)s->step, worst);
    r->steps++;
    return !ok;
}

static int hear_canvas_ids(void *ctx, const int32_t *ids, size_t n)
{
    canvas_run *r = ctx;
    memcpy(r->out + r->n, ids, n * sizeof *ids);
    r->n += (int64_t)n;
    return 0;
}

/* An id that is not in the list stands for "no end id". */
static int32_t unused_id(const int32_t *ids, int64_t n)
{
    for (int32_t id = 0;; id++) {
        bool found = false;
        for (int64_t i = 0; i < n; i++)
            found |= ids[i] == id;
        if (!found)
            return id;
    }
}

static void check_canvas_run(const setup *base, mr_jval run)
{
    int64_t n_prompt, n_all, steps = 0;
    int32_t *prompt = ints(mr_jget(run, "prompt"), &n_prompt),
            *all = ints(mr_jget(run, "sequence"), &n_all);
    mr_jval set = mr_jget(run, "settings");
    canvas_run r = {.blocks = mr_jget(run, "blocks"),
                    .argmax = mr_jis(mr_jget(set, "sampling"), "argmax"),
                    .out = calloc((size_t)n_all + 1, 4)};
    int32_t eos = (int32_t)get_int(set, "eos_token_id", unused_id(all, n_all));
    for (mr_jval b = mr_jfirst(r.blocks); b.doc; b = mr_jnext(b))
        steps += mr_jcount(mr_jget(b, "steps"));
    mr_generate_opts o;
    mr_generate_defaults(&o);
    o.max_new = get_int(set, "max_new_tokens", 0);
    o.steps = get_int(set, "max_denoising_steps", 0);
    o.stability_threshold = get_int(set, "stability_threshold", -1);
    get_num(set, "t_min", &o.t_min);
    get_num(set, "t_max", &o.t_max);
    get_num(set, "entropy_bound", &o.entropy_bound);
    get_num(set, "confidence_threshold", &o.confidence_threshold);
    o.temperature = r.argmax ? 0 : 1;
    o.draws = give_draws;
    o.on_canvas = hear_canvas;
    o.on_ids = hear_canvas_ids;
    o.ctx = &r;
    mr_engine *e = open_engine(base, -1, &eos, 1);
    mr_session *session = NULL;
    mr_result result;
    if (e && !mr_session_new(&session, e)) {
        mr_status st = mr_generate(session, prompt, (size_t)n_prompt, &o, &result);
        CHECK(!st, "generate: %s", mr_error_text());
        CHECK(r.steps == steps && result.steps == steps, "%lld steps, %lld expected",
              (long long)r.steps, (long long)steps);
        /* behind an end id the reference pads its last canvas */
        int64_t n = n_all - n_prompt;
        while (n > r.n && all[n_prompt + n - 1] == 0 && r.n > 0 && r.out[r.n - 1] == eos)
            n--;
        check_ids(r.out, r.n, all + n_prompt, n, "canvases");
    }
    mr_session_free(session);
    mr_engine_close(e);
    free(prompt);
    free(all);
    free(r.out);
}

static void check_canvas(const setup *base, mr_jval c, const char *dir, bool quick, bool bits)
{
    char path[1100];
    doc d;
    check_canvas_logits(base, c, dir, bits && !quick);
    snprintf(path, sizeof path, "%s/trace.json", dir);
    if (quick)
        return;
    bool read = doc_open(&d, path);
    CHECK(read && mr_jcount(mr_json_root(d.json)) > 0, "%s: %s", path, mr_error_text());
    if (read)
        for (mr_jval r = mr_jfirst(mr_json_root(d.json)); r.doc; r = mr_jnext(r))
            check_canvas_run(base, r);
    doc_close(&d);
}

/* ---- a case ---- */

/* The model of a case: its folder, or the .gguf file in it. */
static void model_path(const char *dir, char *out, size_t size)
{
    DIR *d = opendir(dir);
    snprintf(out, size, "%s", dir);
    for (struct dirent *f; d && (f = readdir(d));) {
        size_t n = strlen(f->d_name);
        if (n > 5 && strcmp(f->d_name + n - 5, ".gguf") == 0)
            snprintf(out, size, "%s/%s", dir, f->d_name);
    }
    if (d)
        closedir(d);
}

static void check_runs(setup s, const char *dir, mr_jval c)
{
    for (mr_jval r = mr_jfirst(mr_jget(c, "runs")); r.doc; r = mr_jnext(r)) {
        mr_buf scratch = {0};
        mr_str file;
        char path[1100];
        feed_of f;
        read_feed(&f, r, dir);
        s.block = get_int(r, "block_length", s.block);
        if (!mr_jstr(mr_jget(r, "logits"), &scratch, &file)) {
            snprintf(path, sizeof path, "%s/%.*s", dir, (int)file.len, file.data);
            check_logits(&s, &f, path);
        }
        mr_buf_free(&scratch);
        free_feed(&f);
    }
}

static void check_case(const char *root, const char *name, const char *cpu, bool quick)
{
    char dir[512], path[1100], model[1100];
    doc d;
    feed_of f;
    case_name = name;
    snprintf(dir, sizeof dir, "%s/%s", root, name);
    snprintf(path, sizeof path, "%s/case.json", dir);
    if (!doc_open(&d, path)) {
        CHECK(false, "cannot read %s", path);
        doc_close(&d);
        return;
    }
    model_path(dir, model, sizeof model);
    mr_jval c = mr_json_root(d.json);
    read_feed(&f, c, dir);
    setup s = {.dir = model,
               .precision = "exact",
               .cpu = cpu,
               .threads = 2,
               .block = get_int(c, "block_length", 0)};
    snprintf(path, sizeof path, "%s/logits.npy", dir);
    bool canvas = mr_jhas(mr_jget(c, "canvas"));
    if (canvas)
        check_canvas(&s, c, dir, quick, !cpu);
    else
        check_logits(&s, &f, path);
    if (!quick && !canvas) {
        check_runs(s, dir, c);
        check_greedy(&s, c, f.ids);
        snprintf(path, sizeof path, "%s/trace.json", dir);
        check_trace(&s, path);
    }
    if (!canvas && !cpu)
        check_bits(&s, &f, quick ? NATIVE : 0);
    free_feed(&f);
    doc_close(&d);
}

static int is_case(const struct dirent *d)
{
    return d->d_name[0] != '.' && strcmp(d->d_name, "stories") != 0 &&
           strcmp(d->d_name, "README.md") != 0;
}

int main(int argc, char **argv)
{
    const char *cpu = NULL, *root = "tests/vectors";
    bool quick = false;
    int named = 0;
    const bool emulated = emulate_bf16();
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--cpu") == 0 && i + 1 < argc) {
            cpu = argv[++i];
        } else if (strcmp(argv[i], "--dir") == 0 && i + 1 < argc) {
            root = argv[++i];
        } else if (strcmp(argv[i], "--quick") == 0) {
            quick = true;
        } else {
            named++;
            check_case(root, argv[i], cpu, quick);
        }
    }
    slow = emulated;
    if (!named) {
        struct dirent **list;
        int n = scandir(root, &list, is_case, alphasort);
        CHECK(n > 0, "no vectors in %s", root);
        for (int i = 0; i < n; i++) {
            check_case(root, list[i]->d_name, cpu, quick);
            free(list[i]);
        }
        if (n >= 0)
            free(list);
    }
    printf("test_vectors: %d passed, %d failed\n", passed, failed);
    return failed != 0;
}
