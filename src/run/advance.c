/* Advancing sessions: rows of all feeds, packed into pieces that fit a plan.
 *
 * A piece takes rows feed by feed until a cap is reached, so that streams of one row each share a
 * run, and a long prompt is cut.  Few rows run on the decode plan, many on the prefill plan.  Both
 * give the same bits, and a row's bits depend on its own session alone, so where the cuts fall and
 * who shares a piece is invisible (tests/run checks it).  What must not be cut is a unit: a
 * diffusion block and an image's span, whose rows see each other.  Rows given as embeddings have a
 * piece to themselves, since a run takes either ids or embeddings. */
#include "run/session.h"

#include <string.h>

/* ---- what is refused ---- */

static mr_err check_ids(const mr_feed *f)
{
    int64_t vocab = f->session->engine->info.vocab;
    for (int64_t i = 0; i < f->n; i++)
        if (f->ids[i] < 0 || f->ids[i] >= vocab)
            return mr_fail(MR_EFORMAT, "id %d (number %lld) is not in the vocabulary 0..%lld",
                           f->ids[i], (long long)i, (long long)vocab - 1);
    return MR_OK;
}

static mr_err check_wanted(const mr_feed *f)
{
    const mr_engine_info *i = &f->session->engine->info;
    if (f->want < MR_WANT_NONE || f->want > MR_WANT_LIST)
        return mr_fail(MR_EUSAGE, "wanted rows: %d is no mr_want", (int)f->want);
    if (i->canvas && f->want != MR_WANT_NONE)
        return mr_fail(MR_EUSAGE, "%s gives logits of canvases alone (mr_denoise)", i->model_type);
    if (!f->logits && (f->want == MR_WANT_LIST ? f->n_want > 0 : f->want != MR_WANT_NONE))
        return mr_fail(MR_EUSAGE, "rows are wanted, and there is no place for their logits");
    for (int64_t k = 0; f->want == MR_WANT_LIST && k < f->n_want; k++) {
        int64_t row = f->want_rows[k];
        if (row < 0 || row >= f->n || (k && row <= f->want_rows[k - 1]))
            return mr_fail(MR_EUSAGE, "wanted rows must ascend within 0..%lld",
                           (long long)f->n - 1);
    }
    return MR_OK;
}

static mr_err check_input(const mr_engine *e, enum mr_input input, const char *name)
{
    if (e->decode.in[input] >= 0)
        return MR_OK;
    return mr_fail(MR_EUNSUPPORTED, "%s takes no %s: its graph has no input of that name",
                   e->info.model_type, name);
}

static mr_err check_spans(const mr_feed *f)
{
    const mr_engine *e = f->session->engine;
    int64_t end = 0;
    if (f->n_spans > 0 && !mr_model_facts(e->model)->images)
        MR_TRY(check_input(e, MR_IN_SPAN, "span"));
    for (int64_t k = 0; k < f->n_spans; k++) {
        mr_span s = f->spans[k];
        if (s.begin < end || s.end <= s.begin || s.end > f->n)
            return mr_fail(MR_EUSAGE, "span %lld-%lld: spans must ascend within 0-%lld, none empty",
                           (long long)s.begin, (long long)s.end, (long long)f->n);
        if (s.end - s.begin > e->prefill.plan->row_cap)
            return mr_fail(MR_ELIMIT,
                           "span %lld-%lld: %lld rows that see each other are more than a chunk of "
                           "%lld",
                           (long long)s.begin, (long long)s.end, (long long)(s.end - s.begin),
                           (long long)e->prefill.plan->row_cap);
        end = s.end;
    }
    return MR_OK;
}

static mr_err check_feed(const mr_feed *f)
{
    const mr_session *s = f->session;
    const mr_engine_info *i = &s->engine->info;
    MR_TRY(check_wanted(f));
    if (f->n < 1)
        return mr_fail(MR_EUSAGE, "no ids to feed");
    if (f->n > mr_session_capacity(s->engine) - s->length)
        return mr_fail(MR_ELIMIT, "%lld ids after %lld do not fit the context of %lld",
                       (long long)f->n, (long long)s->length, (long long)i->context);
    if (i->diffusion && s->length % i->block_length != 0)
        return mr_fail(
            MR_EUSAGE,
            "a diffusion session advances from whole blocks of %lld, not from position %lld",
            (long long)i->block_length, (long long)s->length);
    MR_TRY(mr_session_check_floor(s, s->length));
    if (f->embeds)
        MR_TRY(check_input(s->engine, MR_IN_EMBEDS, "embeds"));
    MR_TRY(check_spans(f));
    return check_ids(f);
}

static mr_err check_feeds(const mr_feed *feeds, int n)
{
    if (n < 1)
        return mr_fail(MR_EUSAGE, "no session to advance");
    for (int i = 0; i < n; i++) {
        if (feeds[i].session->engine != feeds[0].session->engine)
            return mr_fail(MR_EUSAGE, "feed %d is of a session of another engine", i);
        for (int k = 0; k < i; k++)
            if (feeds[k].session == feeds[i].session)
                return mr_fail(MR_EUSAGE, "feeds %d and %d are of the same session", k, i);
        mr_err err = check_feed(&feeds[i]);
        if (err)
            return n > 1 ? mr_fail_in(err, "feed %d", i) : err;
    }
    return MR_OK;
}

/* ---- memory ---- */

mr_err mr_session_reserve(mr_session *s, int64_t len)
{
    mr_engine *e = s->engine;
    mr_err err = e->backend->v->kv_reserve(e->backend, s->kv, len);
    uint64_t held = e->backend->v->kv_bytes(e->backend, s->kv); /* also what a failed one got */
    e->counts.kv_bytes += held - s->kv_bytes;
    s->kv_bytes = held;
    if (e->counts.kv_bytes > e->counts.kv_peak_bytes)
        e->counts.kv_peak_bytes = e->counts.kv_bytes;
    return err;
}

mr_err mr_activations_reserve(mr_engine *e)
{
    if (!e->activations)
        e->activations = e->backend->v->arena_alloc(e->backend, (size_t)e->info.arena_bytes);
    return e->activations ? MR_OK : MR_ENOMEM;
}

/* ---- a piece ---- */

typedef struct piece {
    mr_engine *e;
    int64_t rows, outs, slots;
    bool spans;
    const float *embeds;
} piece;

/* How far a feed has come. */
typedef struct cursor {
    const mr_feed *f;
    int64_t from;  /* rows done */
    int64_t want;  /* of want_rows */
    int64_t span;  /* of spans */
    float *logits; /* where the next wanted row's go */
} cursor;

static int64_t min64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* Where the unit that begins at row `at` ends; `span`: the first one that is not behind it. */
static int64_t unit_end(const mr_feed *f, int64_t at, int64_t span)
{
    const mr_engine_info *i = &f->session->engine->info;
    if (span < f->n_spans && at == f->spans[span].begin)
        return f->spans[span].end;
    return i->diffusion ? min64(at + i->block_length, f->n) : at + 1;
}

static int64_t wanted_in(const mr_feed *f, int64_t from, int64_t to, int64_t want)
{
    int64_t n = 0;
    if (f->want == MR_WANT_LAST)
        return to == f->n;
    if (f->want == MR_WANT_ALL)
        return to - from;
    if (f->want == MR_WANT_LIST)
        while (want + n < f->n_want && f->want_rows[want + n] < to)
            n++;
    return n;
}

/* Adds rows [c->from, to), a unit, to the tables. */
static void add_unit(piece *p, cursor *c, int64_t to)
{
    mr_tables *t = &p->e->tables;
    const mr_feed *f = c->f;
    const mr_session *s = f->session;
    bool spans = c->span < f->n_spans && c->from == f->spans[c->span].begin;
    for (int64_t i = c->from; i < to; i++) {
        int64_t r = p->rows + i - c->from;
        t->ids[r] = s->ids[s->length + i];
        t->pos[r] = (int32_t)(s->length + i);
        t->slot[r] = (int32_t)p->slots - 1;
        t->span[r][0] = spans ? (int32_t)(s->length + c->from) : 0;
        t->span[r][1] = spans ? (int32_t)(s->length + to) : 0;
        bool listed = f->want == MR_WANT_LIST && c->want < f->n_want && f->want_rows[c->want] == i;
        c->want += listed;
        if (listed || f->want == MR_WANT_ALL || (f->want == MR_WANT_LAST && i == f->n - 1)) {
            t->to[p->outs] = c->logits;
            t->out[p->outs++] = (int32_t)r;
            c->logits += p->e->info.vocab;
        }
    }
    p->rows += to - c->from;
    p->spans |= spans;
    c->span += spans;
    c->from = to;
}

/* As many units of the feed as fit.  One alone may want more rows than a run gives logits for. */
static void fill(piece *p, cursor *c)
{
    const mr_feed *f = c->f;
    const mr_plan *plan = p->e->prefill.plan;
    mr_tables *t = &p->e->tables;
    int64_t before = p->rows;
    if (p->rows && (p->embeds || f->embeds))
        return;
    t->kv[p->slots] = f->session->kv;
    p->slots++;
    while (c->from < f->n) {
        int64_t to = unit_end(f, c->from, c->span), outs = wanted_in(f, c->from, to, c->want);
        bool fits = p->rows + to - c->from <= plan->row_cap && p->outs + outs <= plan->out_cap;
        if (p->rows && !fits)
            break;
        if (f->embeds && !p->rows)
            p->embeds = f->embeds + c->from * p->e->info.hidden;
        add_unit(p, c, to);
    }
    t->kv_len[p->slots - 1] = f->session->length + c->from;
    p->slots -= p->rows == before;
}

/* The ring forgets as it is written to, whether or not the rows are ever committed. */
void mr_session_written(mr_session *s, int64_t end)
{
    if (end > s->written)
        s->written = end;
    int64_t floor = s->written - s->engine->prefill.plan->row_cap;
    if (s->sliding && floor > s->floor)
        s->floor = floor;
}

/* A row of logits to the caller: each thread what lies in its own cache, as it made it. */
typedef struct copy {
    float *to;
    const float *from;
    int64_t n;
} copy;

enum { COPY_UNIT = 16384 };

static void copy_units(const void *ctx, int64_t first, int64_t last, int worker)
{
    const copy *c = ctx;
    int64_t at = first * COPY_UNIT, end = min64(last * COPY_UNIT, c->n);
    (void)worker;
    memcpy(c->to + at, c->from + at, (size_t)(end - at) * sizeof *c->to);
}

/* Runs the piece for wanted rows [first, first + outs). */
static mr_err run_wanted(const piece *p, mr_lane *l, int64_t first, int64_t outs)
{
    mr_engine *e = p->e;
    const mr_tables *t = &e->tables;
    const void *const given[MR_INPUTS] = {t->ids, t->pos, t->out + first, p->embeds,
                                          p->spans ? t->span : NULL};
    const void *inputs[MR_INPUTS] = {0};
    for (int k = 0; k < MR_INPUTS; k++)
        if (l->in[k] >= 0)
            inputs[l->in[k]] = given[k];
    mr_run r = {.rows = p->rows,
                .outs = outs,
                .pos = t->pos,
                .slot = t->slot,
                .kv = t->kv,
                .kv_len = t->kv_len,
                .inputs = inputs,
                .weights = l->weights,
                .arena = e->activations,
                .trace = l->trace};
    MR_TRY(e->backend->v->run(e->backend, l->plan, &r, 0, l->plan->n_steps));
    if (l->trace)
        mr_profile_add(e, l, &r, t->out + first);
    e->counts.runs++;
    e->counts.rows += (uint64_t)p->rows;
    e->counts.outs += (uint64_t)outs;
    e->counts.weight_bytes += mr_work_of(e, l->plan, p->rows, outs).bytes;
    if (!outs)
        return MR_OK;
    const float *logits = e->backend->v->output(e->backend, l->plan, &r, l->logits);
    for (int64_t i = 0; i < outs; i++) {
        copy c = {t->to[first + i], logits + i * e->info.vocab, e->info.vocab};
        e->backend->v->split(e->backend, (c.n + COPY_UNIT - 1) / COPY_UNIT, copy_units, &c);
    }
    return MR_OK;
}

static mr_err run_piece(const piece *p)
{
    const mr_plan *d = p->e->decode.plan;
    mr_lane *l = p->rows <= d->row_cap && p->outs <= d->out_cap ? &p->e->decode : &p->e->prefill;
    MR_TRY(mr_activations_reserve(p->e));
    int64_t done = 0;
    do { /* a second time only for a span of which more rows are wanted than fit: the same again */
        int64_t outs = min64(p->outs - done, l->plan->out_cap);
        MR_TRY(run_wanted(p, l, done, outs));
        done += outs;
    } while (done < p->outs);
    return MR_OK;
}

/* ---- advance ---- */

static mr_err run_all(mr_engine *e, const mr_feed *feeds, int n)
{
    cursor c = {.f = feeds, .logits = feeds->logits};
    for (int i = 0; i < n;) {
        piece p = {.e = e};
        while (i < n) {
            fill(&p, &c);
            mr_session_written(c.f->session, c.f->session->length + c.from);
            if (c.from < c.f->n)
                break;
            if (++i < n)
                c = (cursor){.f = feeds + i, .logits = feeds[i].logits};
        }
        MR_TRY(run_piece(&p));
    }
    return MR_OK;
}

mr_err mr_session_replay(mr_session *s, int64_t from, int64_t to)
{
    int64_t length = s->length;
    mr_feed f = {.session = s, .ids = s->ids + from, .n = to - from, .want = MR_WANT_NONE};
    s->length = from; /* the feed's rows follow it */
    mr_err err = run_all(s->engine, &f, 1);
    s->length = length;
    return err;
}

mr_status mr_advance_many(const mr_feed *feeds, int n)
{
    MR_TRY(check_feeds(feeds, n));
    mr_engine *e = feeds[0].session->engine;
    for (int i = 0; i < n; i++)
        MR_TRY(mr_session_reserve(feeds[i].session, feeds[i].session->length + feeds[i].n));
    for (int i = 0; i < n; i++) {
        mr_session *s = feeds[i].session;
        mr_session_settle(s, s->length);
        memmove(s->ids + s->length, feeds[i].ids, (size_t)feeds[i].n * sizeof *s->ids);
        if ((feeds[i].embeds || feeds[i].n_spans > 0) && s->length < s->plain)
            s->plain = s->length;
    }
    MR_TRY(run_all(e, feeds, n));
    for (int i = 0; i < n; i++)
        feeds[i].session->open = feeds[i].n;
    return MR_OK;
}

mr_status mr_advance(mr_session *s, const int32_t *ids, int64_t n, mr_want want,
                     const int32_t *want_rows, int64_t n_want, float *logits)
{
    mr_feed f = {.session = s,
                 .ids = ids,
                 .n = n,
                 .want = want,
                 .want_rows = want_rows,
                 .n_want = n_want,
                 .logits = logits};
    return mr_advance_many(&f, 1);
}
