/* Sessions: advance, commit, truncate.
 *
 * An advance is cut into pieces that fit a plan: few rows run on the decode plan, many on the
 * prefill plan.  Both give the same bits, so where the cuts fall is invisible (tests/run checks
 * it). */
#include "run/session.h"

#include <string.h>

int64_t mr_session_capacity(const mr_engine *e)
{
    int64_t c = e->info.context;
    if (e->info.diffusion)
        c = (c + e->info.block_length - 1) / e->info.block_length * e->info.block_length;
    return c;
}

static mr_err make_session(mr_session *s)
{
    const mr_engine *e = s->engine;
    const mr_plan *p = e->prefill.plan;
    size_t rows = (size_t)p->row_cap;
    int64_t cap = mr_session_capacity(e);
    s->ids = mr_alloc(MR_MEM_KV, (size_t)cap * sizeof *s->ids);
    s->pos = mr_alloc(MR_MEM_OTHER, rows * sizeof *s->pos);
    s->slot = mr_zalloc(MR_MEM_OTHER, rows * sizeof *s->slot);
    s->out = mr_alloc(MR_MEM_OTHER, rows * sizeof *s->out);
    if (!s->ids || !s->pos || !s->slot || !s->out)
        return MR_ENOMEM;
    for (int i = 0; i < p->n_caches; i++)
        s->sliding |= p->caches[i].window > 0;
    return e->backend->v->kv_new(e->backend, p->caches, p->n_caches, cap, p->row_cap, &s->kv);
}

mr_status mr_session_new(mr_session **out, mr_engine *e)
{
    *out = NULL;
    mr_session *s = mr_zalloc(MR_MEM_OTHER, sizeof *s);
    if (!s)
        return MR_ENOMEM;
    s->engine = e;
    mr_err err = make_session(s);
    if (err) {
        mr_session_free(s);
        return (mr_status)err;
    }
    *out = s;
    return MR_OK;
}

void mr_session_free(mr_session *s)
{
    if (!s)
        return;
    s->engine->counts.kv_bytes -= s->kv_bytes;
    if (s->kv)
        s->engine->backend->v->kv_free(s->engine->backend, s->kv);
    mr_free(s->ids);
    mr_free(s->pos);
    mr_free(s->slot);
    mr_free(s->out);
    mr_free(s);
}

int64_t mr_session_length(const mr_session *s)
{
    return s->length;
}

/* ---- one piece ---- */

static mr_err reserve(mr_session *s, int64_t len)
{
    mr_engine *e = s->engine;
    MR_TRY(e->backend->v->kv_reserve(e->backend, s->kv, len));
    uint64_t held = e->backend->v->kv_bytes(e->backend, s->kv);
    e->counts.kv_bytes += held - s->kv_bytes;
    s->kv_bytes = held;
    if (e->counts.kv_bytes > e->counts.kv_peak_bytes)
        e->counts.kv_peak_bytes = e->counts.kv_bytes;
    return MR_OK;
}

/* The ring forgets as it is written to, whether or not the rows are ever committed. */
static void note_written(mr_session *s, int64_t end)
{
    if (end > s->written)
        s->written = end;
    int64_t floor = s->written - s->engine->prefill.plan->row_cap;
    if (s->sliding && floor > s->floor)
        s->floor = floor;
}

/* Runs rows ids[0..rows) at position `at`; `outs` row indices are in s->out. */
static mr_err run_piece(mr_session *s, int64_t at, const int32_t *ids, int64_t rows, int64_t outs,
                        float *logits)
{
    mr_engine *e = s->engine;
    mr_lane *l = rows <= e->decode.plan->row_cap && outs <= e->decode.plan->out_cap ? &e->decode
                                                                                    : &e->prefill;
    if (!l->arena) {
        l->arena = e->backend->v->arena_alloc(e->backend, (size_t)l->plan->arena_bytes);
        if (!l->arena)
            return MR_ENOMEM;
    }
    MR_TRY(reserve(s, at + rows));
    for (int64_t i = 0; i < rows; i++)
        s->pos[i] = (int32_t)(at + i);
    const void *inputs[3] = {0};
    if (l->in_ids >= 0)
        inputs[l->in_ids] = ids;
    if (l->in_pos >= 0)
        inputs[l->in_pos] = s->pos;
    if (l->in_out_rows >= 0)
        inputs[l->in_out_rows] = s->out;
    int64_t len = at + rows;
    mr_run r = {.rows = rows,
                .outs = outs,
                .pos = s->pos,
                .slot = s->slot,
                .kv = &s->kv,
                .kv_len = &len,
                .inputs = inputs,
                .weights = l->weights,
                .arena = l->arena};
    note_written(s, at + rows); /* a run that fails half way has overwritten as much */
    MR_TRY(e->backend->v->run(e->backend, l->plan, &r, 0, l->plan->n_steps));
    e->counts.runs++;
    e->counts.rows += (uint64_t)rows;
    e->counts.outs += (uint64_t)outs;
    e->counts.weight_bytes += mr_work_of(e, l->plan, rows, outs).bytes;
    if (outs)
        memcpy(logits, e->backend->v->output(e->backend, l->plan, &r, l->logits),
               (size_t)(outs * e->info.vocab) * sizeof *logits);
    return MR_OK;
}

/* ---- advance ---- */

static mr_err check_ids(const mr_session *s, const int32_t *ids, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        if (ids[i] < 0 || ids[i] >= s->engine->info.vocab)
            return mr_fail(MR_EFORMAT, "id %d (number %lld) is not in the vocabulary 0..%lld",
                           ids[i], (long long)i, (long long)s->engine->info.vocab - 1);
    return MR_OK;
}

static mr_err check_floor(const mr_session *s, int64_t length)
{
    if (length >= s->floor || length == 0)
        return MR_OK;
    return mr_fail(
        MR_ELIMIT,
        "cannot go on from position %lld: sliding layers have let go of what it needs (from %lld)",
        (long long)length, (long long)s->floor);
}

/* Cuts the session to `length` committed rows; check_floor has said yes. */
static void settle(mr_session *s, int64_t length)
{
    s->length = length;
    s->open = 0;
    if (length == 0) /* nothing lies before: the ring is written afresh */
        s->floor = s->written = 0;
}

static mr_err check_wanted(int64_t n, mr_want want, const int32_t *rows, int64_t n_want,
                           const float *logits)
{
    if (want < MR_WANT_NONE || want > MR_WANT_LIST)
        return mr_fail(MR_EUSAGE, "wanted rows: %d is no mr_want", (int)want);
    if (!logits && (want == MR_WANT_LIST ? n_want > 0 : want != MR_WANT_NONE))
        return mr_fail(MR_EUSAGE, "rows are wanted, and there is no place for their logits");
    if (want == MR_WANT_LIST)
        for (int64_t k = 0; k < n_want; k++)
            if (rows[k] < 0 || rows[k] >= n || (k && rows[k] <= rows[k - 1]))
                return mr_fail(MR_EUSAGE, "wanted rows must ascend within 0..%lld",
                               (long long)n - 1);
    return MR_OK;
}

static mr_err check_advance(const mr_session *s, const int32_t *ids, int64_t n)
{
    const mr_engine_info *i = &s->engine->info;
    if (n < 1)
        return mr_fail(MR_EUSAGE, "no ids to feed");
    if (n > mr_session_capacity(s->engine) - s->length)
        return mr_fail(MR_ELIMIT, "%lld ids after %lld do not fit the context of %lld",
                       (long long)n, (long long)s->length, (long long)i->context);
    if (i->diffusion && s->length % i->block_length != 0)
        return mr_fail(
            MR_EUSAGE,
            "a diffusion session advances from whole blocks of %lld, not from position %lld",
            (long long)i->block_length, (long long)s->length);
    MR_TRY(check_floor(s, s->length));
    return check_ids(s, ids, n);
}

/* Where the next piece ends: as many rows as fit both caps.  Diffusion cuts at block ends only,
 * since a block's rows see each other. */
static int64_t piece_end(const mr_session *s, int64_t from, int64_t n, mr_want want)
{
    const mr_plan *p = s->engine->prefill.plan;
    int64_t cap = p->row_cap;
    if ((want == MR_WANT_ALL || want == MR_WANT_LIST) && p->out_cap < cap)
        cap = p->out_cap;
    int64_t b = s->engine->info.block_length;
    if (s->engine->info.diffusion && cap > b)
        cap = cap / b * b;
    return from + cap < n ? from + cap : n;
}

/* Fills s->out with the wanted rows among [from, to); gives how many, and moves *next along
 * want_rows. */
static int64_t wanted_in(mr_session *s, int64_t from, int64_t to, int64_t n, mr_want want,
                         const int32_t *rows, int64_t n_want, int64_t *next)
{
    int64_t outs = 0;
    if (want == MR_WANT_LAST && to == n)
        s->out[outs++] = (int32_t)(n - 1 - from);
    if (want == MR_WANT_ALL)
        for (int64_t i = from; i < to; i++)
            s->out[outs++] = (int32_t)(i - from);
    if (want == MR_WANT_LIST)
        for (; *next < n_want && rows[*next] < to; ++*next)
            s->out[outs++] = (int32_t)(rows[*next] - from);
    return outs;
}

mr_status mr_advance(mr_session *s, const int32_t *ids, int64_t n, mr_want want,
                     const int32_t *want_rows, int64_t n_want, float *logits)
{
    MR_TRY(check_wanted(n, want, want_rows, n_want, logits));
    MR_TRY(check_advance(s, ids, n));
    settle(s, s->length);
    memmove(s->ids + s->length, ids, (size_t)n * sizeof *ids);
    int64_t next = 0;
    for (int64_t from = 0; from < n;) {
        int64_t to = piece_end(s, from, n, want);
        int64_t outs = wanted_in(s, from, to, n, want, want_rows, n_want, &next);
        MR_TRY(run_piece(s, s->length + from, s->ids + s->length + from, to - from, outs, logits));
        logits = logits ? logits + outs * s->engine->info.vocab : NULL;
        from = to;
    }
    s->open = n;
    return MR_OK;
}

mr_status mr_commit(mr_session *s, int64_t k)
{
    if (k < 0 || k > s->open)
        return mr_fail(MR_EUSAGE, "commit of %lld rows; %lld are open", (long long)k,
                       (long long)s->open);
    MR_TRY(check_floor(s, s->length + k));
    settle(s, s->length + k);
    return MR_OK;
}

mr_status mr_truncate(mr_session *s, int64_t length)
{
    if (length < 0 || length > s->length)
        return mr_fail(MR_EUSAGE, "cannot truncate to %lld: the session holds %lld positions",
                       (long long)length, (long long)s->length);
    MR_TRY(check_floor(s, length));
    settle(s, length);
    return MR_OK;
}

void mr_session_sync(mr_session *s, const int32_t *ids, int64_t n)
{
    int64_t same = 0, block = s->engine->info.diffusion ? s->engine->info.block_length : 1;
    while (same < s->length && same < n && s->ids[same] == ids[same])
        same++;
    if (same == n && block == 1)
        same = n - 1; /* the last id's logits are wanted again */
    same = same / block * block;
    settle(s, same < s->floor ? 0 : same); /* where what is needed is gone: from the start */
}
