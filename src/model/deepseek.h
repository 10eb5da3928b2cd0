/* What the files of the DeepSeek line share: deepseek.c (config, graph) and deepseek_gguf.c. */
#ifndef MR_MODEL_DEEPSEEK_H
#define MR_MODEL_DEEPSEEK_H

#include "model/family.h"

mr_err mr_deepseek_gguf_config(const mr_weights *w, mr_buf *json);
extern const mr_name_row mr_deepseek_names[];

#endif
