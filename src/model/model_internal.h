/* The inside of a model, shared by model.c (open, facts, unused tensors) and resolve.c (names).
 *
 * Rules:  1. `used` is set by resolving and reset by each build.
 *         2. `asked` holds each canonical name once, in the order of the build.
 */
#ifndef MR_MODEL_MODEL_INTERNAL_H
#define MR_MODEL_MODEL_INTERNAL_H

#include "ir/names.h"
#include "model/family.h"

struct mr_model {
    mr_arena *arena;
    const char *path; /* as given */
    const char *base; /* what messages name for a missing tensor */
    char *text;       /* of the config; mr_alloc */
    mr_json *doc;
    const mr_family *family;
    mr_model_info info;
    void *cfg;
    mr_weights *weights; /* NULL: config only */
    bool gguf;
    bool one_plus; /* MLX made it: zero-centred norms hold 1 + w, convolutions are [C,K,1] */
    int64_t heads, kv_heads; /* GGUF: for modifiers */
    bool *used;              /* per tensor */
    mr_graph *canvas;        /* of the last build, until it is taken */
    mr_arena *asked_arena;   /* remade by each build */
    mr_names asked_names;
    mr_asked *asked;
    int n_asked, cap_asked;
};

/* mr_source.find and mr_source.same; ctx is the model. */
mr_err mr_model_find(void *ctx, const char *name, int rank, const int64_t *dim, bool required,
                     mr_found *out);
mr_err mr_model_same(void *ctx, const char *a, const char *b, bool *out);
/* Index of a tensor by its name in the file; -1: not there. */
int mr_model_tensor(const mr_model *m, const char *name);

#endif
