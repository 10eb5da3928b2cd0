/* Giving out ids and text. */
#include "run/emit.h"

#include <string.h>

bool mr_is_eos(const mr_engine *e, int32_t id)
{
    for (int i = 0; i < e->info.n_eos; i++)
        if (e->info.eos[i] == id)
            return true;
    return false;
}

mr_err mr_emit_open(mr_emit *m, mr_engine *e, const mr_generate_opts *o)
{
    *m = (mr_emit){.engine = e, .o = o};
    for (int i = 0; i < o->n_stop; i++)
        if (!*o->stop[i])
            return mr_fail(MR_EUSAGE, "a stop string is empty");
    if (!o->on_text && !o->n_stop)
        return MR_OK;
    mr_tokenizer *t;
    MR_TRY((mr_err)mr_engine_text(e, &t));
    return mr_detok_new(&m->detok, t, true);
}

void mr_emit_close(mr_emit *m)
{
    mr_detok_free(m->detok);
    mr_buf_free(&m->fresh);
    mr_buf_free(&m->held);
}

static void give_text(mr_emit *m, size_t len)
{
    if (!len)
        return;
    if (m->o->on_text)
        m->asked |= m->o->on_text(m->o->ctx, m->held.data, len) != 0;
    memmove(m->held.data, m->held.data + len, m->held.len - len);
    m->held.len -= len;
}

/* Length of the text before the first stop string, or -1. */
static int64_t find_stop(const mr_emit *m)
{
    int64_t first = -1;
    for (int i = 0; i < m->o->n_stop; i++) {
        const char *at = memmem(m->held.data, m->held.len, m->o->stop[i], strlen(m->o->stop[i]));
        if (at && (first < 0 || at - m->held.data < first))
            first = at - m->held.data;
    }
    return first;
}

/* Longest end of the held text that some stop string begins with. */
static size_t may_become_stop(const mr_emit *m)
{
    size_t longest = 0;
    for (int i = 0; i < m->o->n_stop; i++) {
        size_t n = strlen(m->o->stop[i]) - 1;
        for (n = n < m->held.len ? n : m->held.len; n > longest; n--)
            if (memcmp(m->held.data + m->held.len - n, m->o->stop[i], n) == 0)
                longest = n;
    }
    return longest;
}

static mr_err take_text(mr_emit *m)
{
    mr_buf_add(&m->held, m->fresh.data, m->fresh.len);
    mr_buf_clear(&m->fresh);
    MR_TRY(mr_buf_check(&m->held));
    if (!m->held.len)
        return MR_OK;
    int64_t stop = find_stop(m);
    if (stop >= 0) {
        m->stopped = m->cut = true;
        give_text(m, (size_t)stop);
        mr_buf_clear(&m->held);
        return MR_OK;
    }
    give_text(m, m->held.len - may_become_stop(m));
    return MR_OK;
}

mr_err mr_emit_ids(mr_emit *m, const int32_t *ids, int64_t n)
{
    for (int64_t i = 0; i < n && !m->stopped; i++) {
        m->given++;
        if (m->o->on_ids)
            m->asked |= m->o->on_ids(m->o->ctx, ids + i, 1) != 0;
        if (mr_is_eos(m->engine, ids[i])) {
            m->stopped = true;
        } else if (m->detok) {
            MR_TRY(mr_detok_push(m->detok, ids[i], &m->fresh));
            MR_TRY(take_text(m));
        }
        if (m->asked)
            return mr_emit_cancelled();
    }
    return MR_OK;
}

mr_err mr_emit_cancelled(void)
{
    return mr_fail(MR_ECANCEL, "stopped by the caller");
}

mr_err mr_emit_finish(mr_emit *m)
{
    if (!m->detok || m->cut)
        return MR_OK;
    MR_TRY(mr_detok_flush(m->detok, &m->fresh));
    MR_TRY(take_text(m));
    give_text(m, m->held.len);
    return MR_OK;
}
