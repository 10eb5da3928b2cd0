/* Generation by canvases: DiffusionGemma's loop.
 *
 * Source: the model's generate in transformers, with its entropy-bound sampler.  A canvas begins as C
 * random ids.  Each step forwards all of it, divides the logits by the step's temperature, and draws
 * a token for every position; those with the least entropy are accepted, as many as keep the sum of
 * the entropies before them within the bound, and all other positions become random ids again.
 * Nothing accepted is sticky.  The next step is given this one's probabilities.  A canvas ends after
 * `steps`, or as soon as its best tokens are those of the last `stability` steps and the mean entropy
 * is below `confidence`; what it gives is the best tokens of its last step, accepted or not.
 *
 * The best tokens are fed to the causal encoder when another canvas follows.
 *
 * Draws are functions of (seed, position, draw): draw 0 is the first canvas, 2s+1 the sample and
 * 2s+2 the replacement of step s.  Probabilities are f32, everything that decides is double, in
 * ascending id order (docs/numerics.md). */
#include <math.h>
#include <string.h>

#include "base/real.h"
#include "base/rng.h"
#include "run/generate.h"

typedef struct loop {
    mr_task_state *t;
    mr_decoder *d;
    int64_t n, vocab;   /* ids of a canvas */
    int64_t at, block;  /* the canvas's first position, its number */
    int64_t step, same; /* steps that the best tokens have been what they are, before this one */
    int32_t *canvas, *next, *noise, *sampled, *best, *last;
    double *u, *entropy;
    double *weight; /* [threads, vocab] */
    bool *accepted;
    int64_t *order;
    float *probs; /* the logits' place, after a step */
} loop;

/* ---- draws ---- */

static int32_t draw_id(const loop *l, int64_t i, uint64_t draw)
{
    double u = mr_uniform(l->t->o->seed, (uint64_t)(l->at + i), draw);
    int64_t id = (int64_t)(u * (double)l->vocab);
    return (int32_t)(id < l->vocab ? id : l->vocab - 1);
}

static mr_err recorded(loop *l, int64_t step, int32_t *ids, double *u)
{
    MR_TRY((mr_err)l->t->o->draws(l->t->o->ctx, l->block, step, ids, u));
    for (int64_t i = 0; i < l->n; i++)
        if (ids[i] < 0 || ids[i] >= l->vocab)
            return mr_fail(MR_EFORMAT, "drawn id %d is not in the vocabulary 0..%lld", ids[i],
                           (long long)l->vocab - 1);
    return MR_OK;
}

static mr_err draw_canvas(loop *l)
{
    if (l->t->o->draws)
        return recorded(l, -1, l->canvas, NULL);
    for (int64_t i = 0; i < l->n; i++)
        l->canvas[i] = draw_id(l, i, 0);
    return MR_OK;
}

static mr_err draw_step(loop *l)
{
    uint64_t draw = 2 * (uint64_t)l->step + 1;
    if (l->t->o->draws)
        return recorded(l, l->step, l->noise, l->u);
    for (int64_t i = 0; i < l->n; i++) {
        l->u[i] = mr_uniform(l->t->o->seed, (uint64_t)(l->at + i), draw);
        l->noise[i] = draw_id(l, i, draw + 1);
    }
    return MR_OK;
}

/* ---- a step ---- */

static double temperature_of(const loop *l)
{
    double lo = l->d->set[MR_SET_T_MIN], hi = l->d->set[MR_SET_T_MAX],
           steps = l->d->set[MR_SET_STEPS];
    return lo + (hi - lo) * ((steps - (double)l->step) / steps);
}

/* Position i: its logits become probabilities, and give its tokens and entropy.  A row of NaN gives
 * id 0 and no certainty. */
static void read_row(const loop *l, int64_t i, double *weight)
{
    float *y = l->probs + i * l->vocab, temperature = (float)temperature_of(l);
    double sum = 0, moment = 0, mass = 0;
    mr_sample_bias(l->d->sampler, y);
    for (int64_t v = 0; v < l->vocab; v++)
        y[v] = y[v] / temperature;
    int32_t best = l->best[i] = mr_sample_best_id(y, l->vocab);
    double top = (double)y[best];
    for (int64_t v = 0; v < l->vocab; v++) {
        double below = (double)y[v] - top, w = weight[v] = below <= 0 ? mr_exp(below) : 0;
        sum += w;
        moment += w > 0 ? w * below : 0;
    }
    l->entropy[i] = sum > 0 ? mr_log(sum) - moment / sum : INFINITY;
    l->sampled[i] = best;
    bool drawn = l->t->o->temperature == 0 || !(sum > 0);
    for (int64_t v = 0; v < l->vocab; v++) {
        mass += weight[v];
        if (!drawn && mass > l->u[i] * sum) {
            l->sampled[i] = (int32_t)v;
            drawn = true;
        }
        y[v] = sum > 0 ? (float)(weight[v] / sum) : 0;
    }
}

static void read_rows(const void *ctx, int64_t first, int64_t last, int worker)
{
    const loop *l = ctx;
    for (int64_t i = first; i < last; i++)
        read_row(l, i, l->weight + worker * l->vocab);
}

/* The positions by entropy, equal ones as they stand; gives the mean. */
static double sort_positions(loop *l)
{
    double sum = 0;
    for (int64_t i = 0; i < l->n; i++) {
        int64_t k = i;
        for (; k > 0 && l->entropy[l->order[k - 1]] > l->entropy[i]; k--)
            l->order[k] = l->order[k - 1];
        l->order[k] = i;
        sum += l->entropy[i];
    }
    return sum / (double)l->n;
}

static void accept_surest(loop *l)
{
    double before = 0;
    for (int64_t k = 0; k < l->n; k++) {
        int64_t i = l->order[k];
        l->accepted[i] = before <= l->d->set[MR_SET_ENTROPY];
        l->next[i] = l->accepted[i] ? l->sampled[i] : l->noise[i];
        before += l->entropy[i];
    }
}

/* One step; *stop: the canvas needs no further one. */
static mr_err denoise_once(loop *l, bool *stop)
{
    mr_task_state *t = l->t;
    mr_backend *b = t->s->engine->backend;
    MR_TRY((mr_err)mr_denoise(t->s, l->canvas, l->step ? l->probs : NULL, l->probs));
    t->steps++;
    MR_TRY(draw_step(l));
    b->v->split(b, l->n, read_rows, l);
    double mean = sort_positions(l);
    accept_surest(l);
    bool same = l->step && memcmp(l->best, l->last, (size_t)l->n * sizeof *l->best) == 0;
    l->same = same ? l->same + 1 : 0;
    *stop = (double)l->same >= l->d->set[MR_SET_STABILITY] && mean < l->d->set[MR_SET_CONFIDENCE];
    memcpy(l->last, l->best, (size_t)l->n * sizeof *l->best);
    const mr_canvas_step told = {.start = l->at,
                                 .step = l->step,
                                 .n = l->n,
                                 .temperature = temperature_of(l),
                                 .mean_entropy = mean,
                                 .canvas = l->canvas,
                                 .next = l->next,
                                 .sampled = l->sampled,
                                 .best = l->best,
                                 .noise = l->noise,
                                 .u = t->o->temperature == 0 ? NULL : l->u,
                                 .entropy = l->entropy,
                                 .accepted = l->accepted,
                                 .stop = *stop};
    bool asked = t->o->on_step && t->o->on_step(t->o->ctx, l->at, l->next, l->n);
    asked |= t->o->on_canvas && t->o->on_canvas(t->o->ctx, &told);
    memcpy(l->canvas, l->next, (size_t)l->n * sizeof *l->next);
    l->step++;
    return asked ? mr_emit_cancelled() : MR_OK;
}

static mr_err denoise(loop *l)
{
    bool stop = false;
    l->step = l->same = 0;
    MR_TRY(draw_canvas(l));
    while (!stop && (double)l->step < l->d->set[MR_SET_STEPS])
        MR_TRY(denoise_once(l, &stop));
    memcpy(l->t->ids + l->at, l->best, (size_t)l->n * sizeof *l->best);
    return MR_OK;
}

/* ---- canvases ---- */

/* The canvas before is encoded: its keys and values are the causal ones. */
static mr_err encode(loop *l)
{
    MR_TRY((mr_err)mr_advance(l->t->s, l->t->ids + l->at, l->n, MR_WANT_NONE, NULL, 0, NULL));
    return (mr_err)mr_commit(l->t->s, l->n);
}

static mr_err run_canvases(loop *l)
{
    mr_task_state *t = l->t;
    const mr_engine_info *info = &t->s->engine->info;
    int64_t room = (info->context - t->prompt) / l->n,
            wish = t->o->max_new < 0 ? room : (t->o->max_new + l->n - 1) / l->n;
    double begin = mr_seconds();
    if (room < 1)
        return mr_fail(MR_ELIMIT,
                       "a canvas of %lld ids after %lld does not fit the context of %lld (--ctx)",
                       (long long)l->n, (long long)t->prompt, (long long)info->context);
    MR_TRY(mr_prompt_feed(t, t->prompt, false));
    t->prefill_s = mr_seconds() - begin;
    l->at = t->prompt;
    for (l->block = 0; l->block < (wish < room ? wish : room); l->block++) {
        if (l->block) {
            MR_TRY(encode(l));
            l->at += l->n;
        }
        MR_TRY(denoise(l));
        MR_TRY(mr_emit_ids(&t->emit, t->ids + l->at, l->n));
        if (t->emit.stopped)
            break;
    }
    t->decode_s = mr_seconds() - begin - t->prefill_s;
    return MR_OK;
}

static mr_err open_loop(loop *l)
{
    mr_task_state *t = l->t;
    const mr_engine_info *i = &t->s->engine->info;
    MR_TRY(mr_decoder_open(&l->d, i, t->o, t->max_new));
    mr_arena *a = l->d->arena;
    size_t n = (size_t)i->canvas;
    l->n = i->canvas;
    l->vocab = i->vocab;
    l->probs = t->logits;
    int32_t *ids = mr_arena_alloc(a, 6 * n * sizeof *ids);
    l->u = mr_arena_alloc(a, n * sizeof *l->u);
    l->entropy = mr_arena_alloc(a, n * sizeof *l->entropy);
    l->weight = mr_arena_alloc(a, (size_t)(i->threads * i->vocab) * sizeof *l->weight);
    l->accepted = mr_arena_alloc(a, n * sizeof *l->accepted);
    l->order = mr_arena_alloc(a, n * sizeof *l->order);
    if (!ids || !l->u || !l->entropy || !l->weight || !l->accepted || !l->order)
        return MR_ENOMEM;
    l->canvas = ids;
    l->next = ids + n;
    l->noise = ids + 2 * n;
    l->sampled = ids + 3 * n;
    l->best = ids + 4 * n;
    l->last = ids + 5 * n;
    return MR_OK;
}

mr_err mr_canvas_run(mr_task_state *t)
{
    loop l = {.t = t};
    mr_err err = open_loop(&l);
    if (!err && t->o->max_new != 0)
        err = run_canvases(&l);
    mr_decoder_close(l.d);
    return err;
}

const mr_decoder_kind mr_decoder_canvas = {
    .name = "canvas",
    .takes = {{MR_SET_STEPS, 48},
              {MR_SET_T_MIN, 0.4},
              {MR_SET_T_MAX, 0.8},
              {MR_SET_ENTROPY, 0.1},
              {MR_SET_STABILITY, 1},
              {MR_SET_CONFIDENCE, 0.005}},
    .n_takes = 6,
    .samples = true,
    .canvas = true,
};
