/* LLaDA2.2's joint decoder: fills masks, edits, deletes positions and splits them.
 *
 * Source: the released checkpoint's block decoder, in FluxServe's deterministic form.  A forward
 * gives each free row its best token with the mask's logit removed.  As many of the block's own
 * masks ("original": there when the block was entered) as its schedule says are filled, and one more
 * for each mask that edits brought; surer tokens replace ids that stand.  Then two control ids take
 * effect from left to right: delete drops its position, split puts a mask before the id that stood
 * there; the block is cut or padded with masks to its length.
 *
 * A block ends when a forward of a mask-free block changes nothing.  After max_post_steps forwards
 * without an original mask left, or at max_steps_per_block, one last step fills everything, control
 * ids give way to the best plain token, and one forward for the final K and V follows.
 *
 * The state a step is about to leave may have been left before: then up to five times the least
 * confident of the changed positions takes its best token, or its second best if it has that. */
#include <math.h>
#include <string.h>

#include "run/decoder.h"

enum { ESCAPES = 5 };

typedef struct own {
    int64_t n_orig, post;
    bool done; /* only the forward for K and V is left */
    bool *orig, *edit, *changed, *kind;
    int32_t *fresh;  /* the ids that this step writes, control ids among them */
    int32_t *edited; /* after deletes and splits */
    int32_t *first;  /* best token of each row */
    int32_t *seen;   /* [n_seen, size]: grown by mr_realloc, owned by the arena's decoder */
    int64_t n_seen, cap_seen;
} own;

static mr_err open22(mr_decoder *d, int64_t max_new)
{
    (void)max_new;
    size_t n = (size_t)d->info->block_length;
    own *o = d->own = mr_arena_alloc(d->arena, sizeof *o);
    if (!o)
        return MR_ENOMEM;
    o->orig = mr_arena_alloc(d->arena, n);
    o->edit = mr_arena_alloc(d->arena, n);
    o->changed = mr_arena_alloc(d->arena, n);
    o->kind = mr_arena_alloc(d->arena, n);
    o->fresh = mr_arena_alloc(d->arena, n * sizeof *o->fresh);
    o->edited = mr_arena_alloc(d->arena, n * sizeof *o->edited);
    o->first = mr_arena_alloc(d->arena, n * sizeof *o->first);
    bool all = o->orig && o->edit && o->changed && o->kind && o->fresh && o->edited && o->first;
    return all ? MR_OK : MR_ENOMEM;
}

static void close22(mr_decoder *d)
{
    if (d->own)
        mr_free(((own *)d->own)->seen);
}

static void enter(mr_decoder *d, const mr_block *b)
{
    own *o = d->own;
    o->n_orig = mr_decoder_masked(d, b);
    memcpy(o->orig, d->masked, (size_t)b->size);
    d->step = o->post = o->n_seen = 0;
    o->done = false;
}

static mr_verdict next(mr_decoder *d, const mr_block *b)
{
    own *o = d->own;
    d->n_rows = 0;
    for (int64_t i = 0; i < b->size; i++)
        if (!o->done && b->start + i >= b->prompt)
            d->row[d->n_rows++] = (int32_t)i;
    return MR_GO_ON;
}

/* ---- one step ---- */

static void predict(mr_decoder *d, const mr_block *b, float *logits)
{
    own *o = d->own;
    int64_t vocab = d->info->vocab;
    for (int64_t k = 0; k < d->n_rows; k++) {
        float *l = logits + k * vocab;
        int32_t i = d->row[k];
        mr_sample_bias(d->sampler, l);
        l[d->info->mask_id] = -INFINITY;
        mr_pick best = mr_sample_best(l, vocab);
        d->tok[i] = o->first[i] = best.id;
        d->p[i] = (float)best.p;
    }
    (void)b;
}

/* Which masks are filled, and which ids edited; true if this is the block's last step. */
static bool choose(mr_decoder *d, const mr_block *b)
{
    own *o = d->own;
    int64_t steps = (int64_t)d->set[MR_SET_STEPS], max_post = (int64_t)d->set[MR_SET_POST_STEPS];
    int64_t left = 0, kept = 0, brought = 0;
    for (int64_t i = 0; i < b->size; i++) {
        d->masked[i] = d->masked[i] && b->start + i >= b->prompt;
        left += d->masked[i] && o->orig[i];
        brought += d->masked[i] && !o->orig[i];
    }
    o->post = left ? 0 : o->post + 1;
    memcpy(d->take, d->masked, (size_t)b->size);
    if (d->step < steps) {
        int64_t need = o->n_orig / steps + (d->step < o->n_orig % steps) + brought;
        if (mr_choose_above(d->p, d->masked, b->size, (float)d->set[MR_SET_THRESHOLD], d->take) <
            need)
            mr_choose_top(d->p, d->masked, b->size, need, d->take);
    }
    for (int64_t i = 0; i < b->size; i++) {
        kept += d->masked[i] && o->orig[i] && !d->take[i];
        o->edit[i] = b->start + i >= b->prompt && !d->masked[i] &&
                     d->p[i] > (float)d->set[MR_SET_EDITING] && d->tok[i] != mr_block_ids(b)[i];
    }
    bool last = max_post ? o->post >= max_post : left > 0 && kept == 0;
    return last || (double)d->step >= d->set[MR_SET_MAX_STEPS] - 1;
}

/* The last step fills every mask, and with plain tokens alone. */
static void settle(mr_decoder *d, const mr_block *b, float *logits)
{
    own *o = d->own;
    memcpy(d->take, d->masked, (size_t)b->size);
    for (int64_t k = 0; k < d->n_rows; k++) {
        int32_t i = d->row[k], *tok = &d->tok[i];
        float *l = logits + k * d->info->vocab;
        if (!(d->take[i] || o->edit[i]) ||
            (*tok != d->info->delete_id && *tok != d->info->split_id))
            continue;
        l[d->info->delete_id] = l[d->info->split_id] = -INFINITY;
        *tok = mr_sample_best(l, d->info->vocab).id;
    }
}

/* ---- cycles ---- */

static bool seen_before(const own *o, int64_t size)
{
    for (int64_t k = 0; k < o->n_seen; k++)
        if (memcmp(o->seen + k * size, o->fresh, (size_t)size * sizeof *o->fresh) == 0)
            return true;
    return false;
}

static mr_err note_seen(own *o, int64_t size)
{
    if (o->n_seen == o->cap_seen) {
        int64_t cap = o->cap_seen ? 2 * o->cap_seen : 64;
        int32_t *seen = mr_realloc(MR_MEM_OTHER, o->seen, (size_t)(cap * size) * sizeof *seen);
        if (!seen)
            return MR_ENOMEM;
        o->seen = seen;
        o->cap_seen = cap;
    }
    memcpy(o->seen + o->n_seen++ * size, o->fresh, (size_t)size * sizeof *o->fresh);
    return MR_OK;
}

/* Index among the asked rows of the least confident row that this step changes; -1 if none. */
static int64_t least_changed(const mr_decoder *d, const mr_block *b)
{
    const own *o = d->own;
    int64_t least = -1;
    for (int64_t k = 0; k < d->n_rows; k++) {
        int32_t i = d->row[k];
        if (o->fresh[i] != mr_block_ids(b)[i] && (least < 0 || d->p[i] < d->p[d->row[least]]))
            least = k;
    }
    return least;
}

static void escape(mr_decoder *d, const mr_block *b, float *logits)
{
    own *o = d->own;
    for (int times = 0; times < ESCAPES && seen_before(o, b->size); times++) {
        int64_t k = least_changed(d, b);
        if (k < 0)
            return;
        int32_t i = d->row[k], best = o->first[i];
        float *l = logits + k * d->info->vocab, keep = l[best];
        l[best] = -INFINITY;
        o->fresh[i] = o->fresh[i] == best ? mr_sample_best(l, d->info->vocab).id : best;
        l[best] = keep;
    }
}

/* ---- delete and split ---- */

static void put(own *o, int64_t size, int64_t *n, int32_t id, bool orig)
{
    if (*n == size)
        return;
    o->edited[*n] = id;
    o->kind[*n] = orig;
    ++*n;
}

/* Carries the control ids out; true if the block is what it was. */
static bool apply(mr_decoder *d, mr_block *b)
{
    own *o = d->own;
    int32_t *ids = mr_block_ids(b), mask = d->info->mask_id;
    int64_t n = 0;
    for (int64_t i = 0; i < b->size; i++) {
        bool free = b->start + i >= b->prompt;
        if (free && o->fresh[i] == d->info->delete_id)
            continue;
        bool split = free && o->fresh[i] == d->info->split_id;
        if (split)
            put(o, b->size, &n, mask, false);
        put(o, b->size, &n, split ? ids[i] : o->fresh[i], o->orig[i] && (split || free));
    }
    while (n < b->size)
        put(o, b->size, &n, mask, false);
    bool same = memcmp(ids, o->edited, (size_t)b->size * sizeof *ids) == 0;
    memcpy(ids, o->edited, (size_t)b->size * sizeof *ids);
    memcpy(o->orig, o->kind, (size_t)b->size);
    return same;
}

static mr_err decide(mr_decoder *d, mr_block *b, float *logits, mr_verdict *verdict)
{
    own *o = d->own;
    *verdict = MR_BLOCK_DONE;
    if (o->done)
        return MR_OK;
    int64_t masks = mr_decoder_masked(d, b);
    predict(d, b, logits);
    bool last = choose(d, b);
    if (last)
        settle(d, b, logits);
    for (int64_t i = 0; i < b->size; i++)
        o->fresh[i] = d->take[i] || o->edit[i] ? d->tok[i] : mr_block_ids(b)[i];
    if (!last)
        escape(d, b, logits);
    MR_TRY(note_seen(o, b->size));
    bool same = apply(d, b);
    d->step++;
    o->done = last;
    if (masks > 0 || !same)
        *verdict = MR_GO_ON;
    return MR_OK;
}

static bool ends(const mr_decoder *d, const mr_block *b)
{
    return mr_block_eos(d, b, b->prompt, b->start + b->size) >= 0;
}

const mr_decoder_kind mr_decoder_llada22 = {
    .name = "llada2.2",
    .takes = {{MR_SET_STEPS, 32},
              {MR_SET_THRESHOLD, 0.5},
              {MR_SET_EDITING, 0},
              {MR_SET_POST_STEPS, 16},
              {MR_SET_MAX_STEPS, 1000}},
    .n_takes = 5,
    .edits = true,
    .open = open22,
    .close = close22,
    .enter = enter,
    .next = next,
    .decide = decide,
    .ends = ends,
};
