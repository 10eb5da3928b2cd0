/* Sessions: making them, commit, truncate.  What moves them on is in advance.c. */
#include "run/session.h"

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
    int64_t cap = mr_session_capacity(e);
    s->ids = mr_alloc(MR_MEM_KV, (size_t)cap * sizeof *s->ids);
    if (!s->ids)
        return MR_ENOMEM;
    s->plain = INT64_MAX;
    for (int i = 0; i < p->n_caches; i++) {
        s->sliding |= p->caches[i].window > 0;
        s->recurrent |= p->caches[i].state;
    }
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
    mr_free(s);
}

int64_t mr_session_length(const mr_session *s)
{
    return s->length;
}

mr_err mr_session_check_floor(const mr_session *s, int64_t length)
{
    if (length >= s->floor || length == 0)
        return MR_OK;
    return mr_fail(
        MR_ELIMIT,
        "cannot go on from position %lld: sliding layers have let go of what it needs (from %lld)",
        (long long)length, (long long)s->floor);
}

static void settle_state(mr_session *s, bool commit)
{
    if (s->recurrent)
        s->engine->backend->v->kv_settle(s->engine->backend, s->kv, commit);
}

void mr_session_settle(mr_session *s, int64_t length)
{
    settle_state(s, false);
    s->length = length;
    s->open = 0;
    if (length == 0) /* nothing lies before: the ring is written afresh */
        s->floor = s->written = 0;
    if (length <= s->plain)
        s->plain = INT64_MAX;
}

/* Brings a recurrent state to `length` rows: those from `from` on are run again. */
static mr_err replay_state(mr_session *s, int64_t from, int64_t length)
{
    if (!s->recurrent)
        return MR_OK;
    settle_state(s, false);
    if (length > s->plain)
        return mr_fail(
            MR_EUNSUPPORTED,
            "cannot go back to position %lld: rows fed as embeddings would have to be fed "
            "again",
            (long long)length);
    mr_err err = from < length ? mr_session_replay(s, from, length) : MR_OK;
    settle_state(s, err == MR_OK);
    return err;
}

mr_status mr_commit(mr_session *s, int64_t k)
{
    if (k < 0 || k > s->open)
        return mr_fail(MR_EUSAGE, "commit of %lld rows; %lld are open", (long long)k,
                       (long long)s->open);
    MR_TRY(mr_session_check_floor(s, s->length + k));
    mr_err err = MR_OK;
    if (k == s->open)
        settle_state(s, true);
    else if (k)
        err = replay_state(s, s->length, s->length + k);
    mr_session_settle(s, err ? s->length : s->length + k);
    return (mr_status)err;
}

mr_status mr_truncate(mr_session *s, int64_t length)
{
    if (length < 0 || length > s->length)
        return mr_fail(MR_EUSAGE, "cannot truncate to %lld: the session holds %lld positions",
                       (long long)length, (long long)s->length);
    MR_TRY(mr_session_check_floor(s, length));
    if (length < s->length)
        MR_TRY(replay_state(s, 0, length));
    mr_session_settle(s, length);
    return MR_OK;
}

void mr_session_sync(mr_session *s, const int32_t *ids, int64_t n)
{
    int64_t same = 0, block = s->engine->info.diffusion ? s->engine->info.block_length : 1;
    int64_t most = s->length < s->plain ? s->length : s->plain;
    while (same < most && same < n && s->ids[same] == ids[same])
        same++;
    if (same == n && block == 1 && !s->engine->info.canvas)
        same = n - 1; /* the last id's logits are wanted again */
    same = same / block * block;
    if (s->recurrent && same < s->length)
        same = 0; /* its caller feeds what is not kept, so nothing is run again here */
    mr_session_settle(s, same < s->floor ? 0
                                         : same); /* where what is needed is gone: from the start */
}
