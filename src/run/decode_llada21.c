/* LLaDA2.1's decoder: it may also write over ids that stand.
 *
 * Source: inclusionAI/LLaDA2.1 `generate`.  While masks remain, those above the threshold are
 * written, or the num_to_transfer most confident; beside them every id that is not the prompt's and
 * that a surer token (above editing_threshold) contradicts is replaced.  Once no mask is left at
 * most max_post_steps further forwards may edit; one that finds nothing to edit ends the block, and
 * leaves the K and V of the final ids behind.
 *
 * The reference has no end while the mask is its own best token.  Here, at temperature 0, a step
 * that changes nothing ends the block, since all later ones would be the same; a longer cycle (an
 * edit may write the mask) and sampling end at max_steps_per_block.
 *
 * Without eos_early_stop later blocks are denoised although an end id stands, as in the reference;
 * what is given out ends at the end id all the same. */
#include <string.h>

#include "run/decoder.h"

typedef struct own {
    int64_t post;     /* forwards without a mask */
    int64_t n_masked; /* before this forward */
    bool *edit;
} own;

static mr_err open21(mr_decoder *d, int64_t max_new)
{
    (void)max_new;
    own *o = d->own = mr_arena_alloc(d->arena, sizeof *o);
    if (!o)
        return MR_ENOMEM;
    o->edit = mr_arena_alloc(d->arena, (size_t)d->info->block_length);
    return o->edit ? MR_OK : MR_ENOMEM;
}

static void enter(mr_decoder *d, const mr_block *b)
{
    own *o = d->own;
    (void)b;
    d->step = 0;
    o->post = 0;
}

/* No probability is above 1: where nothing can be edited, only masked rows matter. */
static mr_verdict next(mr_decoder *d, const mr_block *b)
{
    own *o = d->own;
    bool edits = d->set[MR_SET_EDITING] < 1;
    if ((double)d->step >= d->set[MR_SET_MAX_STEPS])
        return MR_BLOCK_DONE;
    o->n_masked = mr_decoder_masked(d, b);
    o->post += o->n_masked == 0;
    if ((double)o->post > d->set[MR_SET_POST_STEPS])
        return MR_BLOCK_DONE;
    d->n_rows = 0;
    for (int64_t i = 0; i < b->size; i++)
        if (d->masked[i] || (edits && b->start + i >= b->prompt))
            d->row[d->n_rows++] = (int32_t)i;
    return MR_GO_ON;
}

static mr_err decide(mr_decoder *d, mr_block *b, float *logits, mr_verdict *verdict)
{
    own *o = d->own;
    const int32_t *ids = mr_block_ids(b);
    int64_t transfer = (int64_t)d->set[MR_SET_TRANSFER], edits = 0;
    mr_decoder_predict(d, b, logits);
    if (mr_choose_above(d->p, d->masked, b->size, (float)d->set[MR_SET_THRESHOLD], d->take) <
        transfer)
        mr_choose_top(d->p, d->masked, b->size, transfer, d->take);
    memset(o->edit, 0, (size_t)b->size);
    for (int64_t k = 0; k < d->n_rows; k++) {
        int32_t i = d->row[k];
        o->edit[i] =
            !d->masked[i] && d->p[i] > (float)d->set[MR_SET_EDITING] && d->tok[i] != ids[i];
        edits += o->edit[i];
    }
    int64_t changed = mr_decoder_write(d, b, d->take);
    changed += mr_decoder_write(d, b, o->edit);
    d->step++;
    bool stuck = d->greedy && changed == 0;
    *verdict = (o->n_masked == 0 && edits == 0) || stuck ? MR_BLOCK_DONE : MR_GO_ON;
    return MR_OK;
}

static bool ends(const mr_decoder *d, const mr_block *b)
{
    int64_t end = b->start + b->size;
    return d->set[MR_SET_EARLY_STOP] != 0 && mr_block_resolved(d, b, b->prompt, end) &&
           mr_block_eos(d, b, b->prompt, end) >= 0;
}

const mr_decoder_kind mr_decoder_llada21 = {
    .name = "llada2.1",
    .takes = {{MR_SET_THRESHOLD, 0.95},
              {MR_SET_EDITING, 0.9},
              {MR_SET_POST_STEPS, 16},
              {MR_SET_TRANSFER, 1},
              {MR_SET_MAX_STEPS, 1000},
              {MR_SET_EARLY_STOP, 0}},
    .n_takes = 6,
    .samples = true,
    .open = open21,
    .enter = enter,
    .next = next,
    .decide = decide,
    .ends = ends,
};
