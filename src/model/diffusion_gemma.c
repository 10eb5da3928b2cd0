/* DiffusionGemma: block diffusion on Gemma 4's mixture of experts.
 *
 * One set of weights, two graphs.  The encoder is Gemma 4's text model: causal, it writes keys and
 * values; the model has no use for its logits.  The canvas pass (the reference's "decoder") runs
 * over C ids that all see each other and the last positions before them, and reads what the encoder
 * wrote.  It takes the probabilities of the step before, whose mixture of embeddings goes through an
 * MLP of its own and is added to the ids' embeddings; the sum is normed, also in the first step,
 * where nothing is added.
 *
 * The passes share every tensor but layer_scalar and biases, of which both copies are stored.  Files
 * hold the shared ones under the decoder's name, under the encoder's, or under both; the decoder's
 * are taken.  Untied embeddings untie the passes, too: then each has its own. */
#include <math.h>

#include "model/gemma4.h"

#define DECODER "model.decoder"
#define ENCODER "model.encoder.language_model"

/* ---- config ---- */

static mr_err config(mr_jval root, const mr_model_opts *opts, mr_arena *a, void **cfg,
                     mr_model_info *info)
{
    mr_jval o = mr_jget(root, "text_config"), both;
    gemma4 *c = mr_arena_alloc(a, sizeof *c);
    (void)opts;
    if (!c)
        return MR_ENOMEM;
    if (mr_jtype(o) != MR_JOBJECT)
        return mr_jfail(o, o.doc ? "an object is needed" : "is missing");
    info->diffusion = true;
    info->decoder = "canvas";
    info->block_length = 1; /* the encoder goes id by id */
    MR_TRY(mr_cfg_int_or(root, "canvas_length", 256, 1, 1 << 14, &info->canvas));
    MR_TRY(mr_cfg_id(o, "pad_token_id", 0, &info->pad));
    MR_TRY(mr_gemma4_facts(root, o, 131072, c, info));
    if (!mr_jget(o, "final_logit_softcapping").doc)
        c->softcap = 30;
    c->k_eq_v = true;
    c->media[0] = c->media[1] = c->media[2] = -1;
    MR_TRY(mr_gemma4_shape(o, a, 512, c));
    MR_TRY(mr_gemma4_experts(o, c));
    both = mr_jget(o, "use_bidirectional_attention");
    c->vision = mr_jhas(both) && mr_jis(both, "vision");
    if (!c->vision)
        MR_TRY(mr_cfg_causal(o));
    info->images = c->vision;
    *cfg = c;
    return MR_OK;
}

/* ---- graphs ---- */

/* Where a pass finds its weights. */
typedef struct names {
    const char *root, *layers, *own;
} names;

static names names_of(const gemma4 *c, bool canvas)
{
    if (c->tied)
        return (names){"model", "model.layers", canvas ? DECODER ".layers" : ENCODER ".layers"};
    if (canvas)
        return (names){DECODER, DECODER ".layers", DECODER ".layers"};
    return (names){ENCODER, ENCODER ".layers", ENCODER ".layers"};
}

static double embed_scale(const gemma4 *c)
{
    return (double)sqrtf((float)c->info.hidden);
}

static mr_val layers(mr_flow *f, const gemma4 *shared, mr_val x, bool canvas)
{
    names n = names_of(shared, canvas);
    gemma4 c = *shared;
    c.pass = canvas ? GEMMA4_CANVAS : GEMMA4_ENCODER;
    c.layers = n.layers;
    c.own = n.own;
    for (int i = 0; i < c.info.layers && !mr_flow_failed(f); i++)
        x = mr_gemma4_layer(f, &c, x, i);
    mr_head_spec head = {.norm_name = mr_flow_name(f, "%s.norm.weight", n.root),
                         .norm = {.eps = c.eps},
                         .head_name = "lm_head.weight",
                         .embed_name = mr_flow_name(f, "%s.embed_tokens.weight", n.root),
                         .tied = c.tied,
                         .vocab = c.info.vocab,
                         .softcap = c.softcap};
    return mr_flow_head(f, x, &head);
}

static mr_val build(mr_flow *f, const void *cfg)
{
    const gemma4 *c = cfg;
    const char *table = mr_flow_name(f, "%s.embed_tokens.weight", names_of(c, false).root);
    mr_val x = mr_flow_lookup(f, mr_flow_ids(f), table, c->info.vocab, c->info.hidden,
                              embed_scale(c), true);
    return layers(f, c, x, false);
}

/* The canvas's embeddings with those that the step before thought of. */
static mr_val condition(mr_flow *f, const gemma4 *c)
{
    const char *p = DECODER ".self_conditioning", *root = names_of(c, true).root;
    const char *table = mr_flow_name(f, "%s.embed_tokens.weight", root);
    mr_mlp_spec mlp = {.prefix = p, .width = c->inter, .fn = c->act};
    const mr_norm_spec norm = {.eps = c->eps};
    mr_val x = mr_flow_embed(f, table, c->info.vocab, c->info.hidden, embed_scale(c));
    mr_val z = mr_flow_mix(f, table, c->info.vocab, c->info.hidden, embed_scale(c));
    z = mr_flow_norm(f, z, mr_flow_name(f, "%s.pre_norm.weight", p), norm);
    return mr_flow_norm(f, mr_flow_add(f, x, mr_flow_mlp(f, z, &mlp)), NULL, norm);
}

static mr_val build_canvas(mr_flow *f, const void *cfg)
{
    return layers(f, cfg, condition(f, cfg), true);
}

/* Shared tensors stored twice, and the vision tower. */
static const char *const skip[] = {ENCODER ".*",
                                   "model.encoder.vision_tower.*",
                                   "model.encoder.embed_vision.*",
                                   "*.rotary_emb.*",
                                   "lm_head.weight",
                                   NULL};

const mr_family mr_family_diffusion_gemma = {
    .name = "diffusion_gemma",
    .model_types = (const char *const[]){"diffusion_gemma", NULL},
    .archs = (const char *const[]){NULL},
    .prefixes = (const char *const[]){DECODER ".", ENCODER ".", "model.", NULL},
    .skip = skip,
    .config = config,
    .build = build,
    .build_canvas = build_canvas,
};
