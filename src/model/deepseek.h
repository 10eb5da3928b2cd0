/* What the files of the DeepSeek line share: deepseek.c (config, graph) and deepseek_gguf.c. */
#ifndef MR_MODEL_DEEPSEEK_H
#define MR_MODEL_DEEPSEEK_H

#include "model/family.h"

/* What the two classes of the line do not share: how experts are scored, and defaults. */
typedef struct deepseek_line {
    const char *score, *method, *experts_too; /* another name of n_routed_experts */
    bool v3;
    int64_t max_positions, heads, inter, dense_layers, experts, moe_inter, shared;
    mr_cfg_route route;
    double scale;
} deepseek_line;

typedef struct deepseek {
    mr_model_info info;
    const deepseek_line *line;
    int64_t inter, moe_inter, shared, heads, dense_layers, experts;
    int64_t sparse_every; /* of the layers behind the dense ones */
    int64_t q_lora, kv_lora, nope, rope_dim, v_dim;
    mr_cfg_route route;
    double eps, scale, routed_scale, all_dim; /* the latter: YaRN's mscale_all_dim; 0: none */
    mr_act act;
    bool tied, bias, mlp_bias, norm_topk;
    mr_rope_spec rope;
} deepseek;

int64_t mr_deepseek_number(const void *cfg, char letter);
mr_err mr_deepseek_gguf_meta(const void *cfg, mr_jval o, const mr_gguf_put *p);
mr_err mr_deepseek_gguf_config(const mr_weights *w, mr_buf *json);
extern const mr_name_row mr_deepseek_names[];

#endif
