/* Gemma 4's config as its readers give it to its builder, and its layers.
 *
 * Why:    the family is three files: keys of config.json, metadata of GGUF, and the graph; and
 *         DiffusionGemma is built of the same layers (diffusion_gemma.c).
 * Owns:   nothing; all lies in the model's arena.
 */
#ifndef MR_MODEL_GEMMA4_H
#define MR_MODEL_GEMMA4_H

#include "model/family.h"

/* Facts of the layers of one type: [0] sliding, [1] global. */
typedef struct layer_kind {
    int64_t head_dim, kv_heads;
    mr_rope_spec rope; /* dim 0: no rotation */
    bool used;
} layer_kind;

/* Who sees whom. */
typedef enum gemma4_pass {
    GEMMA4_TEXT,    /* causal; an image's rows see each other in sliding layers */
    GEMMA4_ENCODER, /* causal; an image's rows see each other */
    GEMMA4_CANVAS   /* rows of one span, and what lies before it */
} gemma4_pass;

typedef struct gemma4 {
    mr_model_info info;
    int64_t inter, heads, window, first_shared, ple, ple_vocab, experts, top_k, expert_inter;
    double eps, softcap;
    mr_act act;
    bool tied, bias, k_eq_v, double_wide, vision;
    bool *global; /* per layer */
    layer_kind kind[2];
    int32_t pad, media[3]; /* ids of media, read as pad; -1: none */
    gemma4_pass pass;
    /* where layers are ("model.layers"), and what two passes do not share: layer_scalar, biases */
    const char *layers, *own;
} gemma4;

/* Ids of image, video and audio in the published files. */
extern const int32_t mr_gemma4_media[3];

mr_err mr_gemma4_config(mr_jval root, const mr_model_opts *opts, mr_arena *a, void **cfg,
                        mr_model_info *info);
/* vocab_size and the like, of the text config o inside root, into the facts and c. */
mr_err mr_gemma4_facts(mr_jval root, mr_jval o, int64_t def_positions, gemma4 *c,
                       mr_model_info *info);
/* Layer types, window, heads and ropes; facts and k_eq_v are there already. */
mr_err mr_gemma4_shape(mr_jval o, mr_arena *a, int64_t def_window, gemma4 *c);
/* num_experts, top_k_experts, moe_intermediate_size. */
mr_err mr_gemma4_experts(mr_jval o, gemma4 *c);
/* Layer i without per-layer embeddings. */
mr_val mr_gemma4_layer(mr_flow *f, const gemma4 *c, mr_val x, int i);
mr_err mr_gemma4_gguf_config(const mr_weights *w, mr_buf *json);
mr_err mr_gemma4_gguf_meta(const void *cfg, mr_jval o, const mr_gguf_put *p);
/* Of global layers, if it is the kind that GGUF files have. */
const mr_rope_spec *mr_gemma4_gguf_rope(const void *cfg);

#endif
