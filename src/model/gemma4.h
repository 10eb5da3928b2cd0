/* Gemma 4's config as its readers give it to its builder.
 *
 * Why:    the family is three files: keys of config.json, metadata of GGUF, and the graph.
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

typedef struct gemma4 {
    mr_model_info info;
    int64_t inter, heads, window, first_shared, ple, ple_vocab, experts, top_k, expert_inter;
    double eps, softcap;
    mr_op act;
    bool tied, bias, k_eq_v, double_wide, vision;
    bool *global; /* per layer */
    layer_kind kind[2];
    int32_t pad, media[3]; /* ids of media, read as pad; -1: none */
} gemma4;

/* Ids of image, video and audio in the published files. */
extern const int32_t mr_gemma4_media[3];

mr_err mr_gemma4_config(mr_jval root, const mr_model_opts *opts, mr_arena *a, void **cfg,
                        mr_model_info *info);
mr_err mr_gemma4_gguf_config(const mr_weights *w, mr_buf *json);

#endif
