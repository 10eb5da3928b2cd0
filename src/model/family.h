/* Families: config -> graph.
 *
 * Why:    adding a model family is one file that exports one mr_family and one line in families.def.
 * Use:    mr_model *m; MR_TRY(mr_model_open(&m, "dir | config.json | file.gguf", &opts));
 *         MR_TRY(mr_model_build(m, &graph));
 * Owns:   the model owns config text, family facts, and the open weights.
 * Threads: built by one thread, then immutable.
 * Fails:  every wrong key names file and key; strictness as in model.c's rules.
 * Rules:  1. GGUF metadata is turned into the family's config keys by a table in the family's file, so that there is one
 *            config reader per family.
 *         2. Every tensor of the files is used by the graph, or matches a skip pattern of its family, or is an error.
 */
#ifndef MR_MODEL_FAMILY_H
#define MR_MODEL_FAMILY_H

#include "base/json.h"
#include "flow/blocks.h"
#include "weights/weights.h"

/* Facts that the run needs, whatever the family. */
typedef struct mr_model_info {
    const char *family;     /* "llama" */
    const char *model_type; /* as written in the config */
    int64_t vocab, hidden, layers, max_positions;
    bool diffusion;
    int64_t block_length;              /* diffusion: default block */
    int32_t mask_id;                   /* diffusion; published default when absent */
    int32_t eos[16];                   /* of config.json (ints or list); diffusion: published default when absent */
    int n_eos;
    int32_t bos; /* -1 */
} mr_model_info;

typedef struct mr_model_opts {
    int64_t block_length; /* 0: default; diffusion only, else MR_EUSAGE */
} mr_model_opts;

typedef struct mr_model mr_model;

/* A row of a name table: canonical pattern -> GGUF pattern; {L} is a layer number.  flags say what to undo. */
typedef struct mr_name_row {
    const char *canonical, *gguf;
    const char *modifiers; /* appended to the recipe; may use %q (query heads), %k (KV heads); or NULL */
} mr_name_row;

typedef struct mr_family {
    const char *name;
    const char *const *model_types; /* NULL-terminated */
    const char *const *archs;       /* GGUF general.architecture, NULL-terminated */
    const char *const *prefixes;    /* alternatives that stand for the leading "model." of canonical names */
    const mr_name_row *names;       /* GGUF names, NULL-terminated */
    const char *const *skip;        /* patterns (with * and {L}) of tensors that are known and not used */
    /* GGUF metadata -> config.json text of this family. */
    mr_err (*gguf_config)(const mr_weights *w, mr_buf *json);
    /* Reads the config into the family's own struct (in the arena) and the common facts. */
    mr_err (*config)(mr_jval root, const mr_model_opts *o, mr_arena *a, void **cfg, mr_model_info *info);
    /* Emits the whole graph and returns its logits value. */
    mr_val (*build)(mr_flow *f, const void *cfg);
} mr_family;

/* path: model directory, .gguf file, or a config.json (no weights: shapes only, format bf16). */
mr_err mr_model_open(mr_model **out, const char *path, const mr_model_opts *o);
void mr_model_close(mr_model *m);
const mr_model_info *mr_model_facts(const mr_model *m);
const mr_family *mr_model_family(const mr_model *m);
const mr_weights *mr_model_weights(const mr_model *m); /* NULL: config only */
mr_jval mr_model_config(const mr_model *m);            /* root of the config (of the made one for GGUF) */
const char *mr_model_path(const mr_model *m);
mr_err mr_model_build(mr_model *m, mr_graph **out);

/* After build: tensors not used; skipped by pattern is fine, else MR_EFORMAT naming the first and the count. */
mr_err mr_model_check_unused(const mr_model *m);
/* Skipped tensors for inspect: fn is called for each. */
mr_err mr_model_skipped(const mr_model *m, mr_err (*fn)(void *ctx, const mr_winfo *t), void *ctx);
/* Every (canonical name, shape) the build asked for, in order: what synth writes. */
typedef struct mr_asked {
    const char *name;
    int rank;
    int64_t dim[MR_MAX_RANK];
} mr_asked;
int mr_model_asked(const mr_model *m);
const mr_asked *mr_model_asked_at(const mr_model *m, int i);

/* Recipe lookup and reading over the model's weights (ctx = mr_model *), for mr_recipe_bind and weight_load. */
mr_err mr_model_lookup(void *ctx, const char *name, mr_stored *out);
mr_err mr_model_read(void *ctx, const mr_stored *t, int64_t row0, int64_t n, void *buf, mr_rows *out);

/* ---- config reading shared by families (model/config.c): defaults or required, errors name file and key ---- */
mr_err mr_cfg_int(mr_jval o, const char *key, int64_t min, int64_t max, int64_t *out);              /* required */
mr_err mr_cfg_int_or(mr_jval o, const char *key, int64_t def, int64_t min, int64_t max, int64_t *out); /* absent or null: def */
mr_err mr_cfg_num_or(mr_jval o, const char *key, double def, double *out);
mr_err mr_cfg_bool_or(mr_jval o, const char *key, bool def, bool *out);
mr_err mr_cfg_act(mr_jval o, const char *key, const char *def, mr_op *out); /* names of activations; unknown: refused */
/* rope_theta / rope_scaling / rope_parameters, old and new, into a spec (dim, interleaved set by the caller). */
mr_err mr_cfg_rope(mr_jval o, double default_theta, int64_t max_positions, mr_rope_spec *out, double *mscale_all_dim);

#endif
