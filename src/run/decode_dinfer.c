/* dInfer's decoders: threshold, credit and hierarchy, at temperature 0.
 *
 * Source: inclusionAI/dInfer.  Each fills masks only, at least one a step:
 * threshold   what is at least as probable as the threshold, or as the best of the step; never the
 *             mask itself.
 * credit      a token that is its row's best again and again earns credit (decaying by credit_decay a
 *             step, plus p^gamma); alpha * ln(1 + credit) is added to its logit before the threshold
 *             rule.
 * hierarchy   the best of each run of masks if it is above low_threshold, all above the threshold,
 *             and the best of all: far-apart positions disturb each other least.
 *
 * The block that holds an end id is the last, even where the end id is the prompt's tail's, and end
 * ids follow it, as in dInfer.  The reference has no end when every best token is the mask; here the
 * block ends when no later step could differ. */
#include <math.h>
#include <string.h>

#include "base/real.h"
#include "run/decoder.h"

typedef struct credit {
    int32_t row, id;
    double value;
} credit;

typedef struct own {
    bool *some;   /* candidates */
    credit *list; /* entries above 0; grown by mr_realloc */
    int64_t n, cap;
    bool only_mask; /* every row's best, before credit, is the mask */
    int64_t idle;   /* steps in a row that wrote nothing */
} own;

/* Credit alone may take long to lift a token above the mask, and with some settings never does. */
enum { MOST_IDLE = 1000 };

static mr_err open_dinfer(mr_decoder *d, int64_t max_new)
{
    (void)max_new;
    own *o = d->own = mr_arena_alloc(d->arena, sizeof *o);
    if (!o)
        return MR_ENOMEM;
    o->some = mr_arena_alloc(d->arena, (size_t)d->info->block_length);
    return o->some ? MR_OK : MR_ENOMEM;
}

static void close_dinfer(mr_decoder *d)
{
    if (d->own)
        mr_free(((own *)d->own)->list);
}

static void enter(mr_decoder *d, const mr_block *b)
{
    own *o = d->own;
    (void)b;
    d->step = o->n = o->idle = 0;
}

static mr_verdict next(mr_decoder *d, const mr_block *b)
{
    if (mr_decoder_masked(d, b) == 0)
        return MR_BLOCK_DONE;
    mr_decoder_ask_masked(d, b);
    return MR_GO_ON;
}

static bool ends(const mr_decoder *d, const mr_block *b)
{
    return mr_block_eos(d, b, b->start, b->start + b->size) >= 0;
}

/* ---- threshold ---- */

static void choose_threshold(mr_decoder *d, const mr_block *b)
{
    own *o = d->own;
    double best = -1, limit = d->set[MR_SET_THRESHOLD];
    for (int64_t i = 0; i < b->size; i++) {
        o->some[i] = d->masked[i] && d->tok[i] != d->info->mask_id;
        if (o->some[i] && (double)d->p[i] > best)
            best = (double)d->p[i];
    }
    if (best >= 0 && best - 1e-5 < limit)
        limit = best - 1e-5;
    for (int64_t i = 0; i < b->size; i++)
        d->take[i] = o->some[i] && d->p[i] >= (float)limit;
}

static mr_err decide_threshold(mr_decoder *d, mr_block *b, float *logits, mr_verdict *verdict)
{
    mr_decoder_predict(d, b, logits);
    choose_threshold(d, b);
    d->step++;
    *verdict = mr_decoder_write(d, b, d->take) ? MR_GO_ON : MR_BLOCK_DONE;
    return MR_OK;
}

/* ---- credit ---- */

static mr_err earn(mr_decoder *d, int32_t row, mr_pick best)
{
    own *o = d->own;
    double more = mr_pow(best.p, d->set[MR_SET_GAMMA]);
    for (int64_t k = 0; k < o->n; k++) {
        if (o->list[k].row == row && o->list[k].id == best.id) {
            o->list[k].value += more;
            return MR_OK;
        }
    }
    if (o->n == o->cap) {
        int64_t cap = o->cap ? 2 * o->cap : 64;
        credit *list = mr_realloc(MR_MEM_OTHER, o->list, (size_t)cap * sizeof *list);
        if (!list)
            return MR_ENOMEM;
        o->list = list;
        o->cap = cap;
    }
    o->list[o->n++] = (credit){row, best.id, more};
    return MR_OK;
}

/* Adds to the asked rows' logits what their tokens have earned; d->tok and d->p become the best
 * after that. */
static mr_err fuse(mr_decoder *d, float *logits)
{
    own *o = d->own;
    int64_t vocab = d->info->vocab;
    for (int64_t k = 0; k < o->n; k++)
        o->list[k].value *= d->set[MR_SET_DECAY];
    o->only_mask = true;
    for (int64_t k = 0; k < d->n_rows; k++) {
        float *l = logits + k * vocab;
        int32_t i = d->row[k];
        mr_sample_bias(d->sampler, l);
        mr_pick best = mr_sample_best(l, vocab);
        o->only_mask &= best.id == d->info->mask_id;
        MR_TRY(earn(d, i, best));
        for (int64_t c = 0; c < o->n; c++)
            if (o->list[c].row == i)
                l[o->list[c].id] += (float)(d->set[MR_SET_ALPHA] * mr_log1p(o->list[c].value));
        best = mr_sample_best(l, vocab);
        d->tok[i] = best.id;
        d->p[i] = (float)best.p;
    }
    return MR_OK;
}

/* Where nothing is written, credit alone changes from step to step: for good only once no row has
 * another best token than the mask. */
static mr_err decide_credit(mr_decoder *d, mr_block *b, float *logits, mr_verdict *verdict)
{
    own *o = d->own;
    MR_TRY(fuse(d, logits));
    choose_threshold(d, b);
    d->step++;
    o->idle = mr_decoder_write(d, b, d->take) ? 0 : o->idle + 1;
    *verdict = o->idle > 0 && (o->only_mask || o->idle == MOST_IDLE) ? MR_BLOCK_DONE : MR_GO_ON;
    return MR_OK;
}

/* ---- hierarchy ---- */

static mr_err decide_hierarchy(mr_decoder *d, mr_block *b, float *logits, mr_verdict *verdict)
{
    float low = (float)d->set[MR_SET_LOW];
    int64_t best = -1;
    mr_decoder_predict(d, b, logits);
    mr_choose_above(d->p, d->masked, b->size, (float)d->set[MR_SET_THRESHOLD], d->take);
    for (int64_t i = 0; i < b->size; i++) {
        int64_t top = i;
        if (!d->masked[i])
            continue;
        for (; i < b->size && d->masked[i]; i++)
            top = d->p[i] > d->p[top] ? i : top;
        d->take[top] |= d->p[top] > low;
        best = best < 0 || d->p[top] > d->p[best] ? top : best;
    }
    if (best >= 0)
        d->take[best] = true;
    d->step++;
    *verdict = mr_decoder_write(d, b, d->take) ? MR_GO_ON : MR_BLOCK_DONE;
    return MR_OK;
}

const mr_decoder_kind mr_decoder_dinfer_threshold = {
    .name = "dinfer-threshold",
    .takes = {{MR_SET_THRESHOLD, 0.9}},
    .n_takes = 1,
    .fills_end = true,
    .open = open_dinfer,
    .close = close_dinfer,
    .enter = enter,
    .next = next,
    .decide = decide_threshold,
    .ends = ends,
};

const mr_decoder_kind mr_decoder_dinfer_credit = {
    .name = "dinfer-credit",
    .takes = {{MR_SET_THRESHOLD, 0.9},
              {MR_SET_ALPHA, 0.7},
              {MR_SET_GAMMA, 0.2},
              {MR_SET_DECAY, 0.8}},
    .n_takes = 4,
    .fills_end = true,
    .open = open_dinfer,
    .close = close_dinfer,
    .enter = enter,
    .next = next,
    .decide = decide_credit,
    .ends = ends,
};

const mr_decoder_kind mr_decoder_dinfer_hierarchy = {
    .name = "dinfer-hierarchy",
    .takes = {{MR_SET_THRESHOLD, 0.9}, {MR_SET_LOW, 0.4}},
    .n_takes = 2,
    .fills_end = true,
    .open = open_dinfer,
    .close = close_dinfer,
    .enter = enter,
    .next = next,
    .decide = decide_hierarchy,
    .ends = ends,
};
