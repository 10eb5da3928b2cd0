/* Decoders of block diffusion: which ids a block takes after each forward.
 *
 * Why:    every published decoder is one loop (forward the open block, write some ids, until the
 *         block stands) with rules of its own.  The loop, the cache and the output are diffusion.c;
 *         a decoder sees the logits of the rows it asked for and writes ids.
 * Use:    mr_decoder *d; MR_TRY(mr_decoder_open(&d, facts, opts, max_new));
 *         d->kind->enter(d, &b);
 *         while (d->kind->next(d, &b) == MR_GO_ON) {
 *             ... forward b, logits of rows d->row[0..n_rows) ...
 *             MR_TRY(d->kind->decide(d, &b, logits, &verdict));
 *             if (verdict != MR_GO_ON) break; }
 *         if (d->kind->ends(d, &b)) ... no further block
 * Owns:   all arrays are the decoder's; the block's ids are the caller's.
 * Threads: a decoder belongs to one thread.
 * Rules:  1. A decoder is a pure function of logits, block, seed and its own earlier steps in the
 *            block: it knows no session.
 *         2. Ties go to the lower id, and among positions to the lower one.
 *         3. Every loop ends: where the reference has no end (the mask its own best token), a step
 *            that can change nothing more ends the block, masks and all.
 *         4. A mask that the prompt's tail holds is denoised like any other by the decoders that do
 *            so in the reference (2.0, 2.1, dInfer); other ids of the prompt never change.
 */
#ifndef MR_RUN_DECODER_H
#define MR_RUN_DECODER_H

#include "base/mem.h"
#include "run/sample.h"

/* The settings, in the order of the table in decoder.c. */
typedef enum mr_setting {
    MR_SET_STEPS,
    MR_SET_THRESHOLD,
    MR_SET_MINIMAL_TOPK,
    MR_SET_EARLY_STOP,
    MR_SET_EDITING,
    MR_SET_POST_STEPS,
    MR_SET_TRANSFER,
    MR_SET_MAX_STEPS,
    MR_SET_LOW,
    MR_SET_ALPHA,
    MR_SET_GAMMA,
    MR_SET_DECAY,
    MR_SET_T_MIN,
    MR_SET_T_MAX,
    MR_SET_ENTROPY,
    MR_SET_STABILITY,
    MR_SET_CONFIDENCE,
    MR_SETTINGS
} mr_setting;

typedef enum mr_verdict { MR_GO_ON, MR_BLOCK_DONE, MR_ALL_DONE } mr_verdict;

/* The open block within the timeline. */
typedef struct mr_block {
    int32_t *all;   /* every id so far; the block is all[start..start+size) */
    int64_t prompt; /* positions below are the prompt's */
    int64_t start, size;
} mr_block;

typedef struct mr_decoder mr_decoder;

typedef struct mr_default {
    mr_setting setting;
    double value;
} mr_default;

typedef struct mr_decoder_kind {
    const char *name;
    mr_default takes[8]; /* settings it has, with their defaults; the rest are refused */
    int n_takes;
    bool samples;   /* temperatures above 0 */
    bool edits;     /* needs delete and split ids */
    bool fills_end; /* what follows the block that ends it is the end id */
    bool canvas;    /* of models with canvases: canvas.c has the loop, and nothing follows here */
    mr_err (*open)(mr_decoder *d, int64_t max_new); /* may be NULL, as close */
    void (*close)(mr_decoder *d);                   /* after a failed open, too */
    void (*enter)(mr_decoder *d, const mr_block *b);
    /* Before a forward: the rows it needs logits of (none: a forward for its K and V alone), or
     * MR_BLOCK_DONE. */
    mr_verdict (*next)(mr_decoder *d, const mr_block *b);
    /* logits: of the asked rows, in order; may be overwritten. */
    mr_err (*decide)(mr_decoder *d, mr_block *b, float *logits, mr_verdict *verdict);
    bool (*ends)(const mr_decoder *d, const mr_block *b);
} mr_decoder_kind;

extern const mr_decoder_kind mr_decoder_llada20, mr_decoder_llada21, mr_decoder_llada22,
    mr_decoder_dinfer_threshold, mr_decoder_dinfer_credit, mr_decoder_dinfer_hierarchy,
    mr_decoder_canvas;

struct mr_decoder {
    const mr_decoder_kind *kind;
    const mr_engine_info *info;
    double set[MR_SETTINGS];
    bool greedy; /* temperature 0 */
    mr_sampler *sampler;
    mr_arena *arena;
    int64_t step; /* forwards of this block so far */
    int32_t *row; /* rows asked for, ascending */
    int64_t n_rows;
    /* by row of the block */
    int32_t *tok;
    float *p;
    bool *masked, *take;
    void *own; /* the kind's, in the arena */
};

/* Refuses what the model's decoder does not take.  Ids outside the vocabulary are MR_EFORMAT. */
mr_err mr_decoder_open(mr_decoder **out, const mr_engine_info *info, const mr_generate_opts *o,
                       int64_t max_new);
void mr_decoder_close(mr_decoder *d);
/* The decoder that o names, else the model's; its settings checked. */
mr_err mr_decoder_check(const mr_engine_info *info, const mr_generate_opts *o,
                        const mr_decoder_kind **kind, double set[MR_SETTINGS]);
/* The first diffusion setting that o gives; NULL: none. */
const char *mr_decoder_given(const mr_generate_opts *o);

/* ---- what decoders share ---- */

static inline int32_t *mr_block_ids(const mr_block *b)
{
    return b->all + b->start;
}
/* Position of the first end id in [from, to) of the timeline; -1. */
int64_t mr_block_eos(const mr_decoder *d, const mr_block *b, int64_t from, int64_t to);
/* Whether no id in [from, to) is the mask. */
bool mr_block_resolved(const mr_decoder *d, const mr_block *b, int64_t from, int64_t to);
/* Notes the masked rows; gives how many. */
int64_t mr_decoder_masked(mr_decoder *d, const mr_block *b);
/* Asks for the masked rows. */
void mr_decoder_ask_masked(mr_decoder *d, const mr_block *b);
/* tok and p of each asked row, by the sampler. */
void mr_decoder_predict(mr_decoder *d, const mr_block *b, const float *logits);
/* out: the rows of `at` with p above the limit; gives how many. */
int64_t mr_choose_above(const float *p, const bool *at, int64_t n, float limit, bool *out);
/* out: the k rows of `at` with the largest p. */
void mr_choose_top(const float *p, const bool *at, int64_t n, int64_t k, bool *out);
/* Writes tok at the chosen rows; gives how many ids changed. */
int64_t mr_decoder_write(mr_decoder *d, mr_block *b, const bool *chosen);

#endif
