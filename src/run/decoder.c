/* Decoders: which there are, which settings each takes, and what they share. */
#include "run/decoder.h"

#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

static const mr_decoder_kind *const kinds[] = {
    &mr_decoder_llada20,          &mr_decoder_llada21,       &mr_decoder_llada22,
    &mr_decoder_dinfer_threshold, &mr_decoder_dinfer_credit, &mr_decoder_dinfer_hierarchy,
    &mr_decoder_canvas,
};
enum { N_KINDS = sizeof kinds / sizeof *kinds };

/* ---- settings ---- */

typedef enum form { INT, NUM, FLAG } form;

/* A setting is given when it is above `unset`. */
static const struct {
    const char *name;
    form form;
    size_t at;
    double unset, min, max;
} settings[MR_SETTINGS] = {
#define AT(field) offsetof(mr_generate_opts, field)
    [MR_SET_STEPS] = {"steps", INT, AT(steps), 0, 1, 1 << 20},
    [MR_SET_THRESHOLD] = {"threshold", NUM, AT(threshold), -1e-300, 0, 1e6},
    [MR_SET_MINIMAL_TOPK] = {"minimal_topk", INT, AT(minimal_topk), 0, 1, 1 << 20},
    [MR_SET_EARLY_STOP] = {"eos_early_stop", FLAG, AT(eos_early_stop), 0, 0, 1},
    [MR_SET_EDITING] = {"editing_threshold", NUM, AT(editing_threshold), -1e-300, 0, 1e6},
    [MR_SET_POST_STEPS] = {"max_post_steps", INT, AT(max_post_steps), -1, 0, 1 << 20},
    [MR_SET_TRANSFER] = {"num_to_transfer", INT, AT(num_to_transfer), 0, 1, 1 << 20},
    [MR_SET_MAX_STEPS] = {"max_steps_per_block", INT, AT(max_steps_per_block), 0, 1, 1 << 20},
    [MR_SET_LOW] = {"low_threshold", NUM, AT(low_threshold), -1e-300, 0, 1e6},
    [MR_SET_ALPHA] = {"credit_alpha", NUM, AT(credit_alpha), -1e-300, 0, 1e6},
    [MR_SET_GAMMA] = {"credit_gamma", NUM, AT(credit_gamma), -1e-300, 0, 1e6},
    [MR_SET_DECAY] = {"credit_decay", NUM, AT(credit_decay), -1e-300, 0, 1},
    [MR_SET_T_MIN] = {"t_min", NUM, AT(t_min), -1e-300, 1e-6, 1e6},
    [MR_SET_T_MAX] = {"t_max", NUM, AT(t_max), -1e-300, 1e-6, 1e6},
    [MR_SET_ENTROPY] = {"entropy_bound", NUM, AT(entropy_bound), -1e-300, 0, 1e12},
    [MR_SET_STABILITY] = {"stability_threshold", INT, AT(stability_threshold), -1, 0, 1000},
    [MR_SET_CONFIDENCE] = {"confidence_threshold", NUM, AT(confidence_threshold), -1e-300, 0, 1e6},
#undef AT
};

static double value_of(const mr_generate_opts *o, mr_setting s)
{
    const char *at = (const char *)o + settings[s].at;
    switch (settings[s].form) {
    case INT: {
        int64_t i;
        memcpy(&i, at, sizeof i);
        return (double)i;
    }
    case NUM: {
        double x;
        memcpy(&x, at, sizeof x);
        return x;
    }
    case FLAG:
        return *(const bool *)at;
    }
    return 0;
}

static bool given(const mr_generate_opts *o, mr_setting s)
{
    return !(value_of(o, s) <= settings[s].unset); /* a NaN is given, and refused */
}

const char *mr_decoder_given(const mr_generate_opts *o)
{
    for (int s = 0; s < MR_SETTINGS; s++)
        if (given(o, (mr_setting)s))
            return settings[s].name;
    return o->decoder ? "decoder" : NULL;
}

static bool takes(const mr_decoder_kind *k, mr_setting s)
{
    for (int i = 0; i < k->n_takes; i++)
        if (k->takes[i].setting == s)
            return true;
    return false;
}

/* The setting is no setting of this decoder: says of which it is. */
static mr_err refuse(const mr_decoder_kind *k, mr_setting s)
{
    char list[160] = "";
    size_t n = 0;
    for (int i = 0; i < N_KINDS; i++)
        if (takes(kinds[i], s))
            n += (size_t)snprintf(list + n, sizeof list - n, "%s%s", n ? ", " : "", kinds[i]->name);
    return mr_fail(MR_EUSAGE, "%s does not apply to the decoder %s (but to %s)", settings[s].name,
                   k->name, list);
}

static mr_err find_kind(const mr_engine_info *info, const mr_generate_opts *o,
                        const mr_decoder_kind **kind)
{
    const char *name = o->decoder ? o->decoder : info->decoder;
    for (int i = 0; i < N_KINDS; i++) {
        if (strcmp(kinds[i]->name, name) == 0) {
            *kind = kinds[i];
            return MR_OK;
        }
    }
    return mr_fail(MR_EUSAGE,
                   "decoder \"%.40s\" is unknown (llada2.0, llada2.1, llada2.2, dinfer-threshold, "
                   "dinfer-credit, dinfer-hierarchy, canvas)",
                   name);
}

/* What generation_config.json says of canvases. */
static void take_models_own(const mr_engine_info *i, double set[MR_SETTINGS])
{
    const struct {
        mr_setting setting;
        double value;
    } own[] = {{MR_SET_STEPS, i->max_denoising_steps},
               {MR_SET_T_MIN, i->t_min},
               {MR_SET_T_MAX, i->t_max},
               {MR_SET_ENTROPY, i->entropy_bound},
               {MR_SET_STABILITY, i->stability_threshold},
               {MR_SET_CONFIDENCE, i->confidence_threshold}};
    for (size_t k = 0; k < sizeof own / sizeof *own; k++)
        if (!isnan(own[k].value))
            set[own[k].setting] = own[k].value;
}

/* A canvas's temperature is a schedule: what shapes a single draw has no place in it. */
static mr_err check_canvas_sampling(const mr_generate_opts *o, const double set[MR_SETTINGS])
{
    if (set[MR_SET_T_MIN] > set[MR_SET_T_MAX])
        return mr_fail(MR_EUSAGE, "t_min %g is above t_max %g", set[MR_SET_T_MIN],
                       set[MR_SET_T_MAX]);
    if (o->temperature != 0 && o->temperature != 1)
        return mr_fail(MR_EUSAGE,
                       "temperature: %g is neither 0 nor 1: canvases have t_min and t_max",
                       o->temperature);
    if (o->top_k > 0 || o->top_p < 1 || o->min_p > 0)
        return mr_fail(MR_EUSAGE, "top_k, top_p and min_p do not apply to canvases");
    return MR_OK;
}

mr_err mr_decoder_check(const mr_engine_info *info, const mr_generate_opts *o,
                        const mr_decoder_kind **kind, double set[MR_SETTINGS])
{
    MR_TRY(find_kind(info, o, kind));
    const mr_decoder_kind *k = *kind;
    if (k->canvas != (info->canvas > 0))
        return mr_fail(MR_EUSAGE, "the decoder %s does not apply: %s %s", k->name, info->model_type,
                       info->canvas ? "denoises canvases" : "has no canvas");
    for (int i = 0; i < k->n_takes; i++)
        set[k->takes[i].setting] = k->takes[i].value;
    if (k->canvas)
        take_models_own(info, set);
    for (int s = 0; s < MR_SETTINGS; s++) {
        bool own = takes(k, (mr_setting)s);
        if (given(o, (mr_setting)s) && !own)
            return refuse(k, (mr_setting)s);
        if (!own)
            continue;
        if (given(o, (mr_setting)s))
            set[s] = value_of(o, (mr_setting)s);
        if (!(set[s] >= settings[s].min && set[s] <= settings[s].max))
            return mr_fail(MR_EUSAGE, "%s: %g is not in %g..%g", settings[s].name, set[s],
                           settings[s].min, settings[s].max);
    }
    if (o->temperature > 0 && !k->samples)
        return mr_fail(MR_EUSAGE,
                       "a temperature does not apply: the decoder %s takes the best "
                       "token",
                       k->name);
    if (o->repeat_penalty != 1)
        return mr_fail(MR_EUSAGE, "a repetition penalty does not apply: %s is a diffusion model",
                       info->model_type);
    if (k->canvas)
        MR_TRY(check_canvas_sampling(o, set));
    if (k->edits && (info->delete_id < 0 || info->split_id < 0))
        return mr_fail(MR_EUSAGE,
                       "the decoder %s needs delete_token_id and split_token_id, which "
                       "the model's config lacks",
                       k->name);
    return MR_OK;
}

/* ---- open ---- */

static mr_err check_id(const mr_engine_info *i, const char *what, int32_t id, const char *flag)
{
    if (id >= 0 && id < i->vocab)
        return MR_OK;
    return mr_fail(MR_EFORMAT, "%s: %s id %d is not in the vocabulary 0..%lld%s", i->path, what, id,
                   (long long)i->vocab - 1, flag);
}

static mr_err check_ids(const mr_decoder *d)
{
    const mr_engine_info *i = d->info;
    if (!d->kind->canvas)
        MR_TRY(check_id(i, "mask", i->mask_id, " (--mask-id)"));
    for (int k = 0; k < i->n_eos; k++)
        MR_TRY(check_id(i, "end", i->eos[k], " (--eos-id)"));
    if (!d->kind->edits)
        return MR_OK;
    MR_TRY(check_id(i, "delete", i->delete_id, ""));
    return check_id(i, "split", i->split_id, "");
}

static mr_err open_decoder(mr_decoder *d, const mr_generate_opts *o, int64_t max_new)
{
    size_t n = (size_t)d->info->block_length;
    MR_TRY(mr_decoder_check(d->info, o, &d->kind, d->set));
    MR_TRY(check_ids(d));
    MR_TRY(mr_arena_new(&d->arena, MR_MEM_OTHER));
    d->row = mr_arena_alloc(d->arena, n * sizeof *d->row);
    d->tok = mr_arena_alloc(d->arena, n * sizeof *d->tok);
    d->p = mr_arena_alloc(d->arena, n * sizeof *d->p);
    d->masked = mr_arena_alloc(d->arena, n);
    d->take = mr_arena_alloc(d->arena, n);
    if (!d->row || !d->tok || !d->p || !d->masked || !d->take)
        return MR_ENOMEM;
    d->greedy = o->temperature == 0;
    MR_TRY(mr_sampler_new(&d->sampler, d->info->vocab, o, true));
    return d->kind->open ? d->kind->open(d, max_new) : MR_OK;
}

mr_err mr_decoder_open(mr_decoder **out, const mr_engine_info *info, const mr_generate_opts *o,
                       int64_t max_new)
{
    *out = NULL;
    mr_decoder *d = mr_zalloc(MR_MEM_OTHER, sizeof *d);
    if (!d)
        return MR_ENOMEM;
    d->info = info;
    mr_err err = open_decoder(d, o, max_new);
    if (err) {
        mr_decoder_close(d);
        return err;
    }
    *out = d;
    return MR_OK;
}

void mr_decoder_close(mr_decoder *d)
{
    if (!d)
        return;
    if (d->kind && d->kind->close)
        d->kind->close(d);
    mr_sampler_free(d->sampler);
    mr_arena_free(d->arena);
    mr_free(d);
}

/* ---- what decoders share ---- */

static bool is_eos(const mr_engine_info *info, int32_t id)
{
    for (int k = 0; k < info->n_eos; k++)
        if (info->eos[k] == id)
            return true;
    return false;
}

int64_t mr_block_eos(const mr_decoder *d, const mr_block *b, int64_t from, int64_t to)
{
    for (int64_t i = from; i < to; i++)
        if (is_eos(d->info, b->all[i]))
            return i;
    return -1;
}

bool mr_block_resolved(const mr_decoder *d, const mr_block *b, int64_t from, int64_t to)
{
    for (int64_t i = from; i < to; i++)
        if (b->all[i] == d->info->mask_id)
            return false;
    return true;
}

int64_t mr_decoder_masked(mr_decoder *d, const mr_block *b)
{
    int64_t n = 0;
    for (int64_t i = 0; i < b->size; i++)
        n += d->masked[i] = mr_block_ids(b)[i] == d->info->mask_id;
    return n;
}

void mr_decoder_ask_masked(mr_decoder *d, const mr_block *b)
{
    d->n_rows = 0;
    for (int64_t i = 0; i < b->size; i++)
        if (d->masked[i])
            d->row[d->n_rows++] = (int32_t)i;
}

void mr_decoder_predict(mr_decoder *d, const mr_block *b, const float *logits)
{
    for (int64_t k = 0; k < d->n_rows; k++) {
        int32_t i = d->row[k];
        mr_pick p = mr_sample(d->sampler, logits + k * d->info->vocab, NULL, 0,
                              (uint64_t)(b->start + i), (uint64_t)d->step);
        d->tok[i] = p.id;
        d->p[i] = (float)p.p;
    }
}

int64_t mr_choose_above(const float *p, const bool *at, int64_t n, float limit, bool *out)
{
    int64_t chosen = 0;
    for (int64_t i = 0; i < n; i++)
        chosen += out[i] = at[i] && p[i] > limit;
    return chosen;
}

void mr_choose_top(const float *p, const bool *at, int64_t n, int64_t k, bool *out)
{
    memset(out, 0, (size_t)n);
    for (; k > 0; k--) {
        int64_t best = -1;
        for (int64_t i = 0; i < n; i++)
            if (at[i] && !out[i] && (best < 0 || p[i] > p[best]))
                best = i;
        if (best < 0)
            return;
        out[best] = true;
    }
}

int64_t mr_decoder_write(mr_decoder *d, mr_block *b, const bool *chosen)
{
    int32_t *ids = mr_block_ids(b);
    int64_t changed = 0;
    for (int64_t i = 0; i < b->size; i++) {
        if (!chosen[i])
            continue;
        changed += ids[i] != d->tok[i];
        ids[i] = d->tok[i];
    }
    return changed;
}
