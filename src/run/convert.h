/* What the two forms of convert share (convert.c: MLX safetensors, convert_gguf.c: GGUF). */
#ifndef MR_RUN_CONVERT_H
#define MR_RUN_CONVERT_H

#include "run/engine.h"

/* Called for each row of a tensor, in order, as f32; the row may be written over. */
typedef mr_err mr_row_fn(void *ctx, int64_t row, float *x);
/* Rows [0, total) of a bound recipe over the model's weights; from(ctx, row), unless NULL, says which
 * row of the recipe stands at `row`.  minus_one: the recipe gives 1 + w. */
mr_err mr_convert_rows(mr_model *m, const mr_recipe *r, bool minus_one,
                       int64_t (*from)(const void *ctx, int64_t row), mr_row_fn *fn, void *ctx);
/* Refuses what `to` cannot hold, naming the tensor: numbers beyond f16 where it has them, and, in
 * quantised formats, those that are not finite. */
mr_err mr_convert_check(const char *name, int64_t row, const float *x, int64_t k, mr_dtype to);
/* k numbers as F32, F16 or BF16; bytes written. */
size_t mr_convert_narrow(const float *x, int64_t k, mr_dtype to, uint8_t *out);

mr_err mr_convert_gguf(mr_model *m, const char *path, const mr_convert_opts *o);

#endif
