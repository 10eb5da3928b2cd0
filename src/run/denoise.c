/* One forward of a canvas: the second graph's plan over rows that are never kept.
 *
 * The canvas stands at the positions after the committed ones, and one span holds all of it.  Its
 * keys and values are written to the session's caches, where this pass reads them with the prefix's;
 * no commit follows, so that the next advance overwrites them. */
#include <string.h>

#include "run/session.h"

static mr_err check_canvas(const mr_session *s, const int32_t *canvas)
{
    const mr_engine_info *i = &s->engine->info;
    if (!i->canvas)
        return mr_fail(MR_EUSAGE, "%s has no canvas", i->model_type);
    if (i->canvas > mr_session_capacity(s->engine) - s->length)
        return mr_fail(MR_ELIMIT,
                       "a canvas of %lld ids after %lld does not fit the context of %lld",
                       (long long)i->canvas, (long long)s->length, (long long)i->context);
    for (int64_t k = 0; k < i->canvas; k++)
        if (canvas[k] < 0 || canvas[k] >= i->vocab)
            return mr_fail(MR_EFORMAT, "id %d (number %lld) is not in the vocabulary 0..%lld",
                           canvas[k], (long long)k, (long long)i->vocab - 1);
    return mr_session_check_floor(s, s->length);
}

static void fill_tables(const mr_session *s, const int32_t *canvas)
{
    const mr_tables *t = &s->engine->tables;
    int64_t n = s->engine->info.canvas;
    for (int64_t i = 0; i < n; i++) {
        t->ids[i] = canvas[i];
        t->pos[i] = (int32_t)(s->length + i);
        t->slot[i] = 0;
        t->out[i] = (int32_t)i;
        t->span[i][0] = (int32_t)s->length;
        t->span[i][1] = (int32_t)(s->length + n);
    }
    t->kv[0] = s->kv;
    t->kv_len[0] = s->length + n;
}

static mr_err run(mr_session *s, const float *probs, float *logits)
{
    mr_engine *e = s->engine;
    mr_lane *l = &e->canvas;
    const mr_tables *t = &e->tables;
    const void *const given[MR_INPUTS] = {t->ids, t->pos, t->out, NULL, t->span, probs};
    const void *inputs[MR_INPUTS] = {0};
    for (int k = 0; k < MR_INPUTS; k++)
        if (l->in[k] >= 0)
            inputs[l->in[k]] = given[k];
    int64_t n = e->info.canvas;
    mr_run r = {.rows = n,
                .outs = n,
                .pos = t->pos,
                .slot = t->slot,
                .kv = t->kv,
                .kv_len = t->kv_len,
                .inputs = inputs,
                .weights = l->weights,
                .arena = e->activations};
    MR_TRY(e->backend->v->run(e->backend, l->plan, &r, 0, l->plan->n_steps));
    e->counts.runs++;
    e->counts.rows += (uint64_t)n;
    e->counts.outs += (uint64_t)n;
    e->counts.weight_bytes += mr_work_of(e, l->plan, n, n).bytes;
    memcpy(logits, e->backend->v->output(e->backend, l->plan, &r, l->logits),
           (size_t)(n * e->info.vocab) * sizeof *logits);
    return MR_OK;
}

mr_status mr_denoise(mr_session *s, const int32_t *canvas, const float *probs, float *logits)
{
    MR_TRY(check_canvas(s, canvas));
    MR_TRY(mr_session_reserve(s, s->length + s->engine->info.canvas));
    MR_TRY(mr_activations_reserve(s->engine));
    mr_session_settle(s, s->length);
    fill_tables(s, canvas);
    mr_session_written(s, s->length + s->engine->info.canvas);
    return (mr_status)run(s, probs, logits);
}
