/* Block diffusion: the loop that all decoders share.
 *
 * Blocks of B positions counted from 0; the first generated block holds the prompt's tail.
 * Attention is block-causal, so K and V of a finished block never change and are kept exactly: each
 * denoising step forwards the B rows of the open block alone.
 *
 * A block is committed with the K and V of its final ids.  Where the last forward saw them already
 * (it changed nothing, as at the end of an editing decoder's block) they are there.  Else they come
 * for little with the next block's first step: both blocks are forwarded at once, which reads the
 * weights once, and gives the bits that two forwards would.  Nothing is committed for the last
 * block. */
#include <string.h>

#include "run/generate.h"

typedef struct loop {
    mr_task_state *t;
    mr_decoder *d;
    mr_block b;
    int64_t behind;  /* rows of the block before, whose K and V are still to be made */
    bool fresh;      /* the last forward saw the present ids */
    int32_t *before; /* the block's ids at the forward */
    int32_t *wanted;
} loop;

/* One forward of the block, and of the block before while its K and V are wanted. */
static mr_err forward(loop *l)
{
    mr_task_state *t = l->t;
    int64_t n = l->d->n_rows;
    for (int64_t k = 0; k < n; k++)
        l->wanted[k] = (int32_t)(l->behind + l->d->row[k]);
    MR_TRY((mr_err)mr_advance(t->s, t->ids + l->b.start - l->behind, l->behind + l->b.size,
                              n ? MR_WANT_LIST : MR_WANT_NONE, l->wanted, n, t->logits));
    if (l->behind)
        MR_TRY((mr_err)mr_commit(t->s, l->behind));
    l->behind = 0;
    t->steps++;
    return MR_OK;
}

/* Denoises the open block; *done: the decoder needs no further block. */
static mr_err denoise(loop *l, bool *done)
{
    mr_task_state *t = l->t;
    mr_decoder *d = l->d;
    size_t bytes = (size_t)l->b.size * sizeof *l->before;
    mr_verdict verdict = MR_GO_ON;
    l->fresh = false;
    d->kind->enter(d, &l->b);
    while (verdict == MR_GO_ON && d->kind->next(d, &l->b) == MR_GO_ON) {
        bool both = l->behind > 0; /* its commit closed this block's rows */
        MR_TRY(forward(l));
        memcpy(l->before, mr_block_ids(&l->b), bytes);
        MR_TRY(d->kind->decide(d, &l->b, t->logits, &verdict));
        l->fresh = !both && memcmp(l->before, mr_block_ids(&l->b), bytes) == 0;
        if (t->o->on_step && t->o->on_step(t->o->ctx, l->b.start, mr_block_ids(&l->b), l->b.size))
            return mr_emit_cancelled();
    }
    *done = verdict == MR_ALL_DONE || d->kind->ends(d, &l->b);
    return MR_OK;
}

/* Gives out what of the block is within max_new. */
static mr_err give(loop *l, bool done)
{
    mr_task_state *t = l->t;
    int64_t from = l->b.start > t->prompt ? l->b.start : t->prompt, to = l->b.start + l->b.size,
            end = t->prompt + t->max_new;
    if (from < to && from < end)
        MR_TRY(mr_emit_ids(&t->emit, t->ids + from, (to < end ? to : end) - from));
    if (done && l->d->kind->fills_end && to < end)
        return mr_emit_ids(&t->emit, l->d->info->eos, 1);
    return MR_OK;
}

/* Keeps the block's K and V, or leaves them to the next block's first forward. */
static mr_err keep(loop *l)
{
    l->behind = l->fresh ? 0 : l->b.size;
    return l->fresh ? (mr_err)mr_commit(l->t->s, l->b.size) : MR_OK;
}

static mr_err run_blocks(loop *l)
{
    mr_task_state *t = l->t;
    int64_t size = l->d->info->block_length, end = t->prompt + t->max_new,
            whole = t->prompt / size * size;
    double begin = mr_seconds();
    for (int64_t i = t->prompt; i < (end + size - 1) / size * size; i++)
        t->ids[i] = l->d->info->mask_id;
    MR_TRY(mr_prompt_feed(t, whole, false));
    t->prefill_s = mr_seconds() - begin;
    bool done = false;
    for (int64_t at = whole; at < end && !done; at += size) {
        l->b = (mr_block){.all = t->ids, .prompt = t->prompt, .start = at, .size = size};
        MR_TRY(denoise(l, &done));
        MR_TRY(give(l, done));
        /* A decoder may go on past an end id: only a watcher of the steps would see it. */
        done |= t->emit.cut || (t->emit.stopped && !t->o->on_step);
        if (!done && at + size < end)
            MR_TRY(keep(l));
    }
    t->decode_s = mr_seconds() - begin - t->prefill_s;
    return MR_OK;
}

static mr_err open_loop(loop *l)
{
    mr_task_state *t = l->t;
    const mr_engine_info *i = &t->s->engine->info;
    size_t n = (size_t)i->block_length;
    MR_TRY(mr_decoder_open(&l->d, i, t->o, t->max_new));
    l->before = mr_alloc(MR_MEM_OTHER, n * sizeof *l->before);
    l->wanted = mr_alloc(MR_MEM_OTHER, n * sizeof *l->wanted);
    return l->before && l->wanted ? MR_OK : MR_ENOMEM;
}

mr_err mr_diffusion_run(mr_task_state *t)
{
    loop l = {.t = t};
    mr_err err = open_loop(&l);
    if (!err && t->max_new > 0)
        err = run_blocks(&l);
    mr_decoder_close(l.d);
    mr_free(l.before);
    mr_free(l.wanted);
    return err;
}
