/* mr_generate: one verb for both kinds of models.  Autoregressive generation is here; block
 * diffusion in diffusion.c. */
#include "run/generate.h"

#include <string.h>
#include <time.h>

double mr_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

void mr_generate_defaults(mr_generate_opts *o)
{
    *o = (mr_generate_opts){.max_new = -1,
                            .top_p = 1,
                            .repeat_penalty = 1,
                            .threshold = -1,
                            .editing_threshold = -1,
                            .max_post_steps = -1,
                            .low_threshold = -1,
                            .credit_alpha = -1,
                            .credit_gamma = -1,
                            .credit_decay = -1,
                            .t_min = -1,
                            .t_max = -1,
                            .entropy_bound = -1,
                            .stability_threshold = -1,
                            .confidence_threshold = -1};
}

mr_status mr_generate_check(const mr_engine_info *facts, const mr_generate_opts *o)
{
    const mr_decoder_kind *kind;
    double set[MR_SETTINGS];
    if (facts->diffusion)
        return (mr_status)mr_decoder_check(facts, o, &kind, set);
    const char *given = mr_decoder_given(o);
    if (given)
        return (mr_status)mr_fail(MR_EUSAGE, "%s does not apply: %s is autoregressive", given,
                                  facts->model_type);
    return MR_STATUS_OK;
}

/* ids[0..n) to be continued, with room for all that the context holds. */
static mr_err start(mr_task_state *t, mr_session *s, const int32_t *ids, size_t n,
                    const mr_generate_opts *o)
{
    const mr_engine_info *info = &s->engine->info;
    *t = (mr_task_state){.s = s, .o = o, .prompt = (int64_t)n};
    MR_TRY((mr_err)mr_generate_check(info, o));
    if (n == 0)
        return mr_fail(MR_EUSAGE, "the prompt has no ids");
    if ((int64_t)n > info->context)
        return mr_fail(MR_ELIMIT, "a prompt of %zu ids does not fit the context of %lld (--ctx)", n,
                       (long long)info->context);
    for (size_t i = 0; i < n; i++)
        if (ids[i] < 0 || ids[i] >= info->vocab)
            return mr_fail(MR_EFORMAT, "id %d (number %zu) is not in the vocabulary 0..%lld",
                           ids[i], i, (long long)info->vocab - 1);
    int64_t room = info->context - t->prompt;
    t->max_new = o->max_new < 0 || o->max_new > room ? room : o->max_new;
    int64_t rows = info->canvas ? info->canvas : info->diffusion ? info->block_length : 1;
    t->ids = mr_alloc(MR_MEM_OTHER, (size_t)(mr_session_capacity(s->engine) + 1) * sizeof *t->ids);
    t->logits = mr_alloc(MR_MEM_OTHER, (size_t)(rows * info->vocab) * sizeof *t->logits);
    if (!t->ids || !t->logits)
        return MR_ENOMEM;
    memcpy(t->ids, ids, n * sizeof *ids);
    if (!info->diffusion)
        MR_TRY(mr_sampler_new(&t->sampler, info->vocab, o, false));
    return mr_emit_open(&t->emit, s->engine, o);
}

static void finish(mr_task_state *t)
{
    mr_sampler_free(t->sampler);
    mr_emit_close(&t->emit);
    mr_free(t->ids);
    mr_free(t->logits);
}

mr_err mr_prompt_feed(mr_task_state *t, int64_t end, bool logits)
{
    mr_session *s = t->s;
    int64_t block = s->engine->info.diffusion ? s->engine->info.block_length : 1;
    int64_t most = s->engine->prefill.plan->row_cap / block * block;
    mr_session_sync(s, t->ids, end);
    while (s->length < end) {
        int64_t n = end - s->length < most ? end - s->length : most;
        bool last = logits && s->length + n == end;
        MR_TRY((mr_err)mr_advance(s, t->ids + s->length, n, last ? MR_WANT_LAST : MR_WANT_NONE,
                                  NULL, 0, t->logits));
        MR_TRY((mr_err)mr_commit(s, n));
        if (t->o->on_prompt && t->o->on_prompt(t->o->ctx, s->length, end))
            return mr_emit_cancelled();
    }
    return MR_OK;
}

static mr_err one_by_one(mr_task_state *t)
{
    mr_session *s = t->s;
    double begin = mr_seconds();
    int64_t n = t->prompt;
    if (t->max_new == 0)
        return MR_OK;
    MR_TRY(mr_prompt_feed(t, n, true));
    t->prefill_s = mr_seconds() - begin;
    for (;;) {
        t->ids[n] = mr_sample(t->sampler, t->logits, t->ids, n, (uint64_t)n, 0).id;
        MR_TRY(mr_emit_ids(&t->emit, t->ids + n, 1));
        n++;
        if (t->emit.stopped || n - t->prompt == t->max_new)
            break;
        MR_TRY((mr_err)mr_advance(s, t->ids + n - 1, 1, MR_WANT_LAST, NULL, 0, t->logits));
        MR_TRY((mr_err)mr_commit(s, 1));
    }
    t->decode_s = mr_seconds() - begin - t->prefill_s;
    return MR_OK;
}

mr_status mr_generate(mr_session *s, const int32_t *ids, size_t n, const mr_generate_opts *o,
                      mr_result *r)
{
    mr_task_state t;
    mr_err err = start(&t, s, ids, n, o);
    if (!err)
        err = s->engine->info.canvas      ? mr_canvas_run(&t)
              : s->engine->info.diffusion ? mr_diffusion_run(&t)
                                          : one_by_one(&t);
    if (!err || err == MR_ECANCEL) {
        mr_err end = mr_emit_finish(&t.emit);
        err = end ? end : err;
    }
    if (r)
        *r = (mr_result){.finish_reason = err == MR_ECANCEL ? "cancelled"
                                          : t.emit.stopped  ? "stop"
                                                            : "length",
                         .prompt = t.prompt,
                         .generated = t.emit.given,
                         .steps = t.steps,
                         .prefill_s = t.prefill_s,
                         .decode_s = t.decode_s};
    finish(&t);
    return (mr_status)err;
}
