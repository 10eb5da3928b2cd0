/* Block diffusion: LLaDA2.0's reference generation loop over a session.
 *
 * Source: inclusionAI/LLaDA2.0 `generate`, with temperature 0 meaning argmax.
 *
 * Blocks of B positions counted from 0; the first generated block holds the prompt's tail.
 * Attention is block-causal, so K and V of a finished block never change and are kept exactly: each
 * denoising step forwards the B rows of the open block alone.  A block is committed with the K and
 * V of its final tokens: for free when the last step wrote nothing, else by one more forward, made
 * only when another block follows. */
#include "run/generate.h"

enum { MAX_BLOCK = 4096, DEFAULT_STEPS = 32 };

typedef struct block {
    int64_t start, size; /* positions */
    int64_t n_masked;
    int32_t masked[MAX_BLOCK]; /* rows, ascending */
    int32_t tok[MAX_BLOCK];    /* per masked row */
    float conf[MAX_BLOCK];
    bool chosen[MAX_BLOCK];
    bool fresh; /* the last forward saw the present tokens */
} block;

typedef struct loop {
    mr_task_state *t;
    int64_t steps, minimal_topk;
    float threshold;
    int32_t mask;
    block b;
} loop;

static mr_err check_ids(const mr_engine_info *i)
{
    if (i->mask_id < 0 || i->mask_id >= i->vocab)
        return mr_fail(MR_EFORMAT, "%s: mask id %d is not in the vocabulary 0..%lld (--mask-id)",
                       i->path, i->mask_id, (long long)i->vocab - 1);
    for (int k = 0; k < i->n_eos; k++)
        if (i->eos[k] >= i->vocab)
            return mr_fail(MR_EFORMAT, "%s: end id %d is not in the vocabulary 0..%lld (--eos-id)",
                           i->path, i->eos[k], (long long)i->vocab - 1);
    return MR_OK;
}

static mr_err configure(loop *l)
{
    const mr_generate_opts *o = l->t->o;
    const mr_engine_info *i = &l->t->s->engine->info;
    l->minimal_topk = o->minimal_topk ? o->minimal_topk : 1;
    l->steps = o->steps ? o->steps : DEFAULT_STEPS;
    l->threshold = (float)(o->threshold < 0 ? 0.95 : o->threshold);
    l->mask = i->mask_id;
    if (i->block_length > MAX_BLOCK)
        return mr_fail(MR_EUSAGE, "block_length: %lld is more than %d", (long long)i->block_length,
                       MAX_BLOCK);
    if (l->steps < 1 || l->minimal_topk < 1)
        return mr_fail(MR_EUSAGE, "steps and minimal_topk are at least 1");
    if (o->repeat_penalty != 1)
        return mr_fail(MR_EUSAGE, "a repetition penalty does not apply: %s is a diffusion model",
                       i->model_type);
    if (l->steps > l->t->max_new / l->minimal_topk)
        l->steps = l->t->max_new / l->minimal_topk;
    if (l->steps < 1)
        return mr_fail(MR_EUSAGE, "minimal_topk %lld leaves no step for %lld new tokens",
                       (long long)l->minimal_topk, (long long)l->t->max_new);
    return MR_OK;
}

static void find_masked(loop *l)
{
    block *b = &l->b;
    b->n_masked = 0;
    for (int64_t i = 0; i < b->size; i++)
        if (l->t->ids[b->start + i] == l->mask)
            b->masked[b->n_masked++] = (int32_t)i;
}

/* One forward of the block's rows; a token and its confidence for each masked row. */
static mr_err predict(loop *l, int64_t step)
{
    block *b = &l->b;
    mr_task_state *t = l->t;
    int64_t vocab = t->s->engine->info.vocab;
    MR_TRY((mr_err)mr_advance(t->s, t->ids + b->start, b->size, MR_WANT_LIST, b->masked,
                              b->n_masked, t->logits));
    for (int64_t k = 0; k < b->n_masked; k++) {
        mr_pick p = mr_sample(t->sampler, t->logits + k * vocab, NULL, 0,
                              (uint64_t)(b->start + b->masked[k]), (uint64_t)step);
        b->tok[k] = p.id;
        b->conf[k] = (float)p.p;
    }
    b->fresh = true;
    return MR_OK;
}

/* The reference's rule: all above the threshold, or, if they are fewer than the step's share, the
 * most confident. */
static void choose(loop *l, int64_t step)
{
    block *b = &l->b;
    int64_t share = b->size / l->steps + (step < b->size % l->steps), high = 0;
    for (int64_t k = 0; k < b->n_masked; k++) {
        b->chosen[k] = b->conf[k] > l->threshold;
        high += b->chosen[k];
    }
    if (high >= share)
        return;
    for (int64_t k = 0; k < b->n_masked; k++)
        b->chosen[k] = false;
    for (int64_t left = share < b->n_masked ? share : b->n_masked; left > 0; left--) {
        int64_t best = -1;
        for (int64_t k = 0; k < b->n_masked; k++)
            if (!b->chosen[k] && (best < 0 || b->conf[k] > b->conf[best]))
                best = k;
        b->chosen[best] = true;
    }
}

/* Writes the chosen tokens; true if one of them is an end id. */
static bool write_chosen(loop *l)
{
    block *b = &l->b;
    bool eos = false;
    for (int64_t k = 0; k < b->n_masked; k++) {
        if (!b->chosen[k])
            continue;
        int32_t *at = &l->t->ids[b->start + b->masked[k]];
        b->fresh &= *at == b->tok[k];
        *at = b->tok[k];
        eos |= mr_is_eos(l->t->s->engine, b->tok[k]);
    }
    return eos;
}

/* Position of the first end id at or after the prompt and before `end`; -1 if none. */
static int64_t first_eos(const loop *l, int64_t end)
{
    for (int64_t i = l->t->prompt; i < end; i++)
        if (mr_is_eos(l->t->s->engine, l->t->ids[i]))
            return i;
    return -1;
}

static bool resolved(const loop *l, int64_t end)
{
    for (int64_t i = l->t->prompt; i < end; i++)
        if (l->t->ids[i] == l->mask)
            return false;
    return true;
}

/* Denoises the open block; *done: early stop, everything before the first end id is resolved. */
static mr_err denoise(loop *l, bool *done)
{
    block *b = &l->b;
    mr_task_state *t = l->t;
    for (int64_t step = 0; step < l->steps; step++) {
        find_masked(l);
        if (b->n_masked == 0)
            return MR_OK;
        MR_TRY(predict(l, step));
        t->steps++;
        choose(l, step);
        bool eos = write_chosen(l);
        if (t->o->on_step && t->o->on_step(t->o->ctx, b->start, t->ids + b->start, b->size))
            return mr_emit_cancelled();
        if (eos && t->o->eos_early_stop && resolved(l, first_eos(l, b->start + b->size))) {
            *done = true;
            return MR_OK;
        }
    }
    return MR_OK;
}

/* Keeps the block's K and V, made from its final tokens. */
static mr_err keep(loop *l)
{
    block *b = &l->b;
    if (!b->fresh)
        MR_TRY((mr_err)mr_advance(l->t->s, l->t->ids + b->start, b->size, MR_WANT_NONE, NULL, 0,
                                  NULL));
    return (mr_err)mr_commit(l->t->s, b->size);
}

static mr_err give(loop *l)
{
    mr_task_state *t = l->t;
    int64_t from = l->b.start > t->prompt ? l->b.start : t->prompt, to = l->b.start + l->b.size;
    if (to > t->prompt + t->max_new)
        to = t->prompt + t->max_new;
    return from < to ? mr_emit_ids(&t->emit, t->ids + from, to - from) : MR_OK;
}

static mr_err run_blocks(loop *l)
{
    mr_task_state *t = l->t;
    mr_session *s = t->s;
    int64_t size = s->engine->info.block_length, end = t->prompt + t->max_new,
            whole = t->prompt / size * size;
    double begin = mr_seconds();
    for (int64_t i = t->prompt; i < (end + size - 1) / size * size; i++)
        t->ids[i] = l->mask;
    MR_TRY(mr_prompt_feed(t, whole, false));
    t->prefill_s = mr_seconds() - begin;
    bool done = false;
    for (int64_t at = whole; at < end && !done; at += size) {
        l->b.start = at;
        l->b.size = size;
        l->b.fresh = false;
        MR_TRY(denoise(l, &done));
        done |= first_eos(l, at + size) >= 0;
        MR_TRY(give(l));
        if (!done && at + size < end && !t->emit.stopped)
            MR_TRY(keep(l));
        done |= t->emit.stopped;
    }
    t->decode_s = mr_seconds() - begin - t->prefill_s;
    return MR_OK;
}

mr_err mr_diffusion_run(mr_task_state *t)
{
    MR_TRY(check_ids(&t->s->engine->info));
    if (t->max_new == 0)
        return MR_OK;
    loop *l = mr_zalloc(MR_MEM_OTHER, sizeof *l);
    if (!l)
        return MR_ENOMEM;
    l->t = t;
    mr_err err = configure(l);
    if (!err)
        err = run_blocks(l);
    mr_free(l);
    return err;
}
