/* Sampling.
 *
 * Candidates are (id, logit) pairs; filters shorten the list.  Weights are
 * exp((logit - best) / temperature), so that no temperature above 0 overflows.  top_p pops a heap of
 * probabilities, so its cost follows the tokens kept and not the vocabulary.  All arithmetic that
 * reaches a choice is double and our own exp (docs/numerics.md), in ascending id order, so that a
 * sample is the same on every machine. */
#include "run/sample.h"

#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "base/real.h"
#include "base/rng.h"

typedef struct cand {
    double p; /* weight: the best has 1 */
    float score;
    int32_t id;
} cand;

struct mr_sampler {
    mr_generate_opts o;
    int64_t vocab;
    float *work;
    cand *list;
    uint8_t *seen;
    bool confident;
};

static mr_err check_opts(const mr_generate_opts *o, int64_t vocab)
{
    if (!(o->temperature >= 0 && o->temperature <= 1e6))
        return mr_fail(MR_EUSAGE, "temperature: %g is not in 0..1e6", o->temperature);
    if (o->top_k < 0)
        return mr_fail(MR_EUSAGE, "top_k: %lld is negative", (long long)o->top_k);
    if (!(o->top_p > 0 && o->top_p <= 1))
        return mr_fail(MR_EUSAGE, "top_p: %g is not in (0, 1]", o->top_p);
    if (!(o->min_p >= 0 && o->min_p <= 1))
        return mr_fail(MR_EUSAGE, "min_p: %g is not in 0..1", o->min_p);
    if (!(o->repeat_penalty > 0 && o->repeat_penalty <= 1e6))
        return mr_fail(MR_EUSAGE, "repeat_penalty: %g is not in (0, 1e6]", o->repeat_penalty);
    for (int i = 0; i < o->n_bias; i++)
        if (o->bias[i].id < 0 || o->bias[i].id >= vocab)
            return mr_fail(MR_EUSAGE, "logit bias: id %d is not in 0..%lld", o->bias[i].id,
                           (long long)vocab - 1);
    return MR_OK;
}

mr_err mr_sampler_new(mr_sampler **out, int64_t vocab, const mr_generate_opts *o, bool confident)
{
    *out = NULL;
    MR_TRY(check_opts(o, vocab));
    mr_sampler *s = mr_zalloc(MR_MEM_OTHER, sizeof *s);
    if (!s)
        return MR_ENOMEM;
    s->o = *o;
    s->vocab = vocab;
    s->confident = confident;
    s->work = mr_alloc(MR_MEM_OTHER, (size_t)vocab * sizeof *s->work);
    s->list = mr_alloc(MR_MEM_OTHER, (size_t)vocab * sizeof *s->list);
    s->seen = mr_zalloc(MR_MEM_OTHER, (size_t)vocab);
    if (!s->work || !s->list || !s->seen) {
        mr_sampler_free(s);
        return MR_ENOMEM;
    }
    *out = s;
    return MR_OK;
}

void mr_sampler_free(mr_sampler *s)
{
    if (!s)
        return;
    mr_free(s->work);
    mr_free(s->list);
    mr_free(s->seen);
    mr_free(s);
}

/* ---- bias and penalty ---- */

void mr_sample_bias(const mr_sampler *s, float *logits)
{
    for (int i = 0; i < s->o.n_bias; i++)
        logits[s->o.bias[i].id] += s->o.bias[i].bias;
}

static void adjust(mr_sampler *s, const int32_t *history, int64_t n)
{
    mr_sample_bias(s, s->work);
    if (s->o.repeat_penalty == 1)
        return;
    float p = (float)s->o.repeat_penalty;
    for (int64_t i = 0; i < n; i++) {
        float *l = &s->work[history[i]];
        if (!s->seen[history[i]])
            *l = *l > 0 ? *l / p : *l * p;
        s->seen[history[i]] = 1;
    }
    for (int64_t i = 0; i < n; i++)
        s->seen[history[i]] = 0;
}

int32_t mr_sample_best_id(const float *l, int64_t n)
{
    int64_t best = 0;
    for (int64_t i = 1; i < n; i++)
        if (l[i] > l[best] || (isnan(l[best]) && !isnan(l[i])))
            best = i;
    return (int32_t)best;
}

mr_pick mr_sample_best(const float *logits, int64_t n)
{
    int32_t id = mr_sample_best_id(logits, n);
    double top = logits[id], sum = 0;
    for (int64_t i = 0; i < n; i++)
        if (!isnan(logits[i]))
            sum += mr_exp((double)logits[i] - top);
    return (mr_pick){id, isfinite(top) && sum > 0 ? 1 / sum : 0};
}

/* ---- filters ---- */

/* Better first: higher score, then lower id. */
static int before(const cand *a, const cand *b)
{
    return a->score > b->score || (a->score == b->score && a->id < b->id);
}

static void sift(cand *h, int64_t i, int64_t n)
{
    for (;;) {
        int64_t c = 2 * i + 1;
        if (c >= n)
            return;
        if (c + 1 < n && before(&h[c + 1], &h[c]))
            c++;
        if (!before(&h[c], &h[i]))
            return;
        cand t = h[i];
        h[i] = h[c];
        h[c] = t;
        i = c;
    }
}

static void heapify(cand *h, int64_t n)
{
    for (int64_t i = n / 2 - 1; i >= 0; i--)
        sift(h, i, n);
}

/* Moves the best of the heap h[0..n) to h[n-1]. */
static void pop(cand *h, int64_t n)
{
    cand t = h[0];
    h[0] = h[n - 1];
    h[n - 1] = t;
    sift(h, 0, n - 1);
}

/* The kept candidates end up at list[0..return). */
static int64_t keep_tail(cand *list, int64_t n, int64_t kept)
{
    memmove(list, list + n - kept, (size_t)kept * sizeof *list);
    return kept;
}

static int64_t top_k(cand *list, int64_t n, int64_t k)
{
    if (k == 0 || k >= n)
        return n;
    heapify(list, n);
    int64_t kept = 0;
    while (kept < n && (kept < k || list[0].score == list[n - kept].score)) {
        pop(list, n - kept);
        kept++;
    }
    return keep_tail(list, n, kept);
}

static double weigh(cand *list, int64_t n, double temperature)
{
    double top = -INFINITY, sum = 0;
    for (int64_t i = 0; i < n; i++)
        top = list[i].score > top ? list[i].score : top;
    for (int64_t i = 0; i < n; i++) {
        list[i].p = list[i].score == top ? 1 : mr_exp(((double)list[i].score - top) / temperature);
        sum += list[i].p;
    }
    return sum;
}

static int64_t top_p(cand *list, int64_t n, double p, double sum)
{
    if (p >= 1)
        return n;
    heapify(list, n);
    double mass = 0;
    int64_t kept = 0;
    while (kept < n && (kept == 0 || mass < p * sum)) {
        mass += list[0].p;
        pop(list, n - kept);
        kept++;
    }
    return keep_tail(list, n, kept);
}

static int64_t min_p(cand *list, int64_t n, double p)
{
    int64_t kept = 0;
    if (p <= 0)
        return n;
    for (int64_t i = 0; i < n; i++)
        if (list[i].p >= p) /* the best has weight 1 */
            list[kept++] = list[i];
    return kept;
}

/* ---- the draw ---- */

/* Inverse of the cumulative weights, in the list's order: ascending ids where no filter reordered
 * it, else ascending probability as the heap left it.  Either order is a function of the logits
 * alone. */
static mr_pick draw_from(mr_sampler *s, int64_t n, uint64_t position, uint64_t draw)
{
    double sum = 0, mass = 0;
    for (int64_t i = 0; i < n; i++)
        sum += s->list[i].p;
    double u = mr_uniform(s->o.seed, position, draw) * sum;
    for (int64_t i = 0; i < n - 1; i++) {
        mass += s->list[i].p;
        if (u < mass)
            return (mr_pick){s->list[i].id, s->list[i].p / sum};
    }
    return (mr_pick){s->list[n - 1].id, s->list[n - 1].p / sum};
}

mr_pick mr_sample(mr_sampler *s, const float *logits, const int32_t *history, int64_t n_history,
                  uint64_t position, uint64_t draw)
{
    memcpy(s->work, logits, (size_t)s->vocab * sizeof *logits);
    adjust(s, history, n_history);
    if (s->o.temperature == 0)
        return s->confident ? mr_sample_best(s->work, s->vocab)
                            : (mr_pick){mr_sample_best_id(s->work, s->vocab), 1};
    int64_t n = 0;
    for (int64_t i = 0; i < s->vocab; i++) {
        if (s->work[i] > -INFINITY) /* and no NaN */
            s->list[n++] = (cand){0, s->work[i], (int32_t)i};
    }
    if (n == 0)
        return (mr_pick){mr_sample_best_id(s->work, s->vocab), 0};
    n = top_k(s->list, n, s->o.top_k);
    double sum = weigh(s->list, n, s->o.temperature);
    n = top_p(s->list, n, s->o.top_p, sum);
    n = min_p(s->list, n, s->o.min_p);
    return draw_from(s, n, position, draw);
}
