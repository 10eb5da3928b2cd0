/* What the files of the Qwen hybrids share: qwen3_next.c (config, graph) and qwen3_next_files.c. */
#ifndef MR_MODEL_QWEN3_NEXT_H
#define MR_MODEL_QWEN3_NEXT_H

#include "model/family.h"

typedef struct hybrid {
    mr_model_info info;
    int64_t inter;
    mr_cfg_head head;
    int64_t k_heads, v_heads, dk, dv, width;
    int64_t experts, top_k, moe_inter, shared;
    double eps;
    mr_act act;
    bool tied, bias, norm_topk;
    bool *sparse, *full; /* per layer: holds experts; is attention */
    mr_rope_spec rope;
} hybrid;

int64_t mr_qwen3_next_number(const void *cfg, char letter);
mr_err mr_qwen3_next_gguf_config(const mr_weights *w, mr_buf *json);
mr_err mr_qwen3_next_gguf_meta(const void *cfg, mr_jval o, const mr_gguf_put *p);
extern const mr_name_row mr_qwen3_next_forms[], mr_qwen3_next_names[], mr_qwen3_5_names[];

#endif
