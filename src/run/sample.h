/* Sampling: logits -> id, knowing no family.
 *
 * Use:    mr_sampler *s; MR_TRY(mr_sampler_new(&s, vocab, opts));
 *         mr_pick p = mr_sample(s, logits, history, n_history, position, draw);
 * Threads: a sampler belongs to one thread.
 * Rules:  1. Order: logit bias, repetition penalty, temperature, top_k (ties with the k-th stay),
 *            top_p (the token that crosses it stays), min_p, draw.  Temperature 0: argmax after
 *            bias and penalty.
 *         2. The draw is a pure function of (seed, position, draw): no state is carried from one
 *            sample to the next.
 *         3. Ties go to the lower id.  A NaN logit is never chosen; all NaN gives id 0.
 */
#ifndef MR_RUN_SAMPLE_H
#define MR_RUN_SAMPLE_H

#include "base/err.h"
#include "millrace.h"

typedef struct mr_sampler mr_sampler;
typedef struct mr_pick {
    int32_t id;
    double p; /* its probability among what was left to choose from (argmax: among all) */
} mr_pick;

/* confident: argmax, too, gives its probability, which takes an exp per id; else p is 1.
 * MR_EUSAGE: an option is out of range. */
mr_err mr_sampler_new(mr_sampler **out, int64_t vocab, const mr_generate_opts *o, bool confident);
void mr_sampler_free(mr_sampler *s);
mr_pick mr_sample(mr_sampler *s, const float *logits, const int32_t *history, int64_t n_history,
                  uint64_t position, uint64_t draw);
/* Adds the logit biases in place, for callers that choose by themselves. */
void mr_sample_bias(const mr_sampler *s, float *logits);
int32_t mr_sample_best_id(const float *logits, int64_t n);
/* The best of n logits and its probability among all. */
mr_pick mr_sample_best(const float *logits, int64_t n);

#endif
