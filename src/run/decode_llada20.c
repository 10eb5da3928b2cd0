/* LLaDA2.0's decoder: no id is ever written twice.
 *
 * Source: inclusionAI/LLaDA2.0 `generate`, with temperature 0 meaning argmax.  Step s of a block
 * takes every masked position above the threshold or, where those are fewer than the step's share
 * B/steps of the block, the most confident ones.  A position whose best token is the mask stays
 * masked, and may be chosen again at every step until the steps are used up: such a block ends with
 * masks in it, as the reference's does. */
#include "run/decoder.h"

static mr_err open20(mr_decoder *d, int64_t max_new)
{
    int64_t most = max_new / (int64_t)d->set[MR_SET_MINIMAL_TOPK];
    if (d->set[MR_SET_STEPS] > (double)most)
        d->set[MR_SET_STEPS] = (double)most;
    if (max_new > 0 && most < 1)
        return mr_fail(MR_EUSAGE, "minimal_topk %lld leaves no step for %lld new tokens",
                       (long long)d->set[MR_SET_MINIMAL_TOPK], (long long)max_new);
    return MR_OK;
}

static void enter(mr_decoder *d, const mr_block *b)
{
    (void)b;
    d->step = 0;
}

static mr_verdict next(mr_decoder *d, const mr_block *b)
{
    if ((double)d->step >= d->set[MR_SET_STEPS] || mr_decoder_masked(d, b) == 0)
        return MR_BLOCK_DONE;
    mr_decoder_ask_masked(d, b);
    return MR_GO_ON;
}

static bool takes_eos(const mr_decoder *d, const mr_block *b)
{
    for (int64_t i = 0; i < b->size; i++)
        if (d->take[i] && mr_block_eos(d, b, b->start + i, b->start + i + 1) >= 0)
            return true;
    return false;
}

static mr_err decide(mr_decoder *d, mr_block *b, float *logits, mr_verdict *verdict)
{
    int64_t steps = (int64_t)d->set[MR_SET_STEPS],
            share = b->size / steps + (d->step < b->size % steps), end = b->start + b->size;
    mr_decoder_predict(d, b, logits);
    if (mr_choose_above(d->p, d->masked, b->size, (float)d->set[MR_SET_THRESHOLD], d->take) < share)
        mr_choose_top(d->p, d->masked, b->size, share, d->take);
    mr_decoder_write(d, b, d->take);
    d->step++;
    *verdict = MR_GO_ON;
    if (d->set[MR_SET_EARLY_STOP] != 0 && takes_eos(d, b) &&
        mr_block_resolved(d, b, b->prompt, mr_block_eos(d, b, b->prompt, end)))
        *verdict = MR_ALL_DONE;
    return MR_OK;
}

static bool ends(const mr_decoder *d, const mr_block *b)
{
    return mr_block_eos(d, b, b->prompt, b->start + b->size) >= 0;
}

const mr_decoder_kind mr_decoder_llada20 = {
    .name = "llada2.0",
    .takes = {{MR_SET_STEPS, 32},
              {MR_SET_THRESHOLD, 0.95},
              {MR_SET_MINIMAL_TOPK, 1},
              {MR_SET_EARLY_STOP, 0}},
    .n_takes = 4,
    .samples = true,
    .open = open20,
    .enter = enter,
    .next = next,
    .decide = decide,
    .ends = ends,
};
