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
#include "ir/recipe.h"
#include "weights/weights.h"

/* Facts that the run needs, whatever the family. */
typedef struct mr_model_info {
    const char *family;     /* "llama" */
    const char *model_type; /* as written in the config */
    int64_t vocab, hidden, layers, max_positions;
    int64_t most; /* positions that the rope holds for; 0: any */
    bool diffusion;
    int64_t block_length;        /* diffusion: default block */
    const char *decoder;         /* diffusion: its own (run/decoder.h) */
    int32_t mask_id;             /* diffusion; published default when absent */
    int32_t delete_id, split_id; /* diffusion; -1: none */
    int64_t canvas;  /* diffusion by canvases of so many ids (then block_length is 1); else 0 */
    int32_t pad;     /* canvases: what follows an end id */
    int32_t eos[16]; /* of config.json (ints or list); diffusion: published default when absent */
    int n_eos;
    int32_t bos; /* -1 */
    bool images; /* image spans may be given, also where they change no mask */
} mr_model_info;

typedef struct mr_model_opts {
    int64_t block_length; /* 0: default; diffusion only, else MR_EUSAGE */
} mr_model_opts;

typedef struct mr_model mr_model;

/* A row of a name table: canonical pattern -> GGUF pattern; {L} is a layer number, {E} all experts of a layer.
 * Several rows may have one canonical name: the first whose tensor is there is taken. */
typedef struct mr_name_row {
    const char *canonical, *gguf;
    const char *
        modifiers; /* what undoes the file's form, or NULL: recipe modifiers, in which %q stands for the query
                              heads and %k for the KV heads, other letters for what the family's `number` says; or
                              MR_ONE_PLUS_W.  Where they begin with "=", they are the whole recipe, and = stands for
                              the tensor's name. */
} mr_name_row;
#define MR_ONE_PLUS_W "1+w" /* the file holds 1 + w where others hold w */
#define MR_NEG_EXP "-exp"   /* the file holds -exp(w) where others hold w; modifiers may follow */
/* The file's tensor has twice the rows: gate above up in each matrix (ffn_gate_up_exps). */
#define MR_FIRST_HALF "first half"
#define MR_SECOND_HALF "second half"

/* Where a family's metadata goes: keys are under the architecture's name (model/gguf_put.c). */
typedef struct mr_gguf_put {
    mr_gguf_writer *w;
    const char *arch;
} mr_gguf_put;

typedef struct mr_family {
    const char *name;
    const char *const *model_types; /* NULL-terminated */
    const char *const *archs;       /* GGUF general.architecture, NULL-terminated */
    const char *const
        *prefixes; /* alternatives that stand for the leading "model." of canonical names */
    const mr_name_row *names; /* GGUF names that are not those of most (resolve.c); NULL: none */
    const mr_name_row
        *forms; /* the same for files with published names that hold a weight as part of
                                 another tensor; NULL: none */
    int64_t (*number)(const void *cfg, char letter); /* for modifiers; NULL: none */
    const char *const
        *skip; /* patterns of tensors that are known and not used: * is any text, {L} a layer number
                                that the config does not count */
    /* GGUF metadata -> config.json text of this family. */
    mr_err (*gguf_config)(const mr_weights *w, mr_buf *json);
    /* The same back: what a file says of `cfg` beyond what all do; o is the text part of the config.
     * NULL: run/gguf_meta.c has tables. */
    mr_err (*gguf_meta)(const void *cfg, mr_jval o, const mr_gguf_put *p);
    /* The rope whose pairs' divisors stand in rope_freqs.weight; NULL, also from it: none. */
    const mr_rope_spec *(*gguf_rope)(const void *cfg);
    /* Reads the config into the family's own struct (in the arena) and the common facts. */
    mr_err (*config)(mr_jval root, const mr_model_opts *o, mr_arena *a, void **cfg,
                     mr_model_info *info);
    /* Emits the whole graph and returns its logits value. */
    mr_val (*build)(mr_flow *f, const void *cfg);
    /* The same for the second graph, of a model with canvases: caches as in the first, in the same
     * order; inputs span and probs. */
    mr_val (*build_canvas)(mr_flow *f, const void *cfg);
} mr_family;

/* path: model directory, .gguf file, or a config.json (no weights: shapes only, format bf16). */
mr_err mr_model_open(mr_model **out, const char *path, const mr_model_opts *o);
/* From the text of a config.json (copied), shapes only; `file` is for messages. */
mr_err mr_model_open_text(mr_model **out, const char *file, const char *text, size_t len,
                          const mr_model_opts *o);
void mr_model_close(mr_model *m);
const mr_model_info *mr_model_facts(const mr_model *m);
const mr_family *mr_model_family(const mr_model *m);
const mr_weights *mr_model_weights(const mr_model *m); /* NULL: config only */
mr_jval mr_model_config(const mr_model *m); /* root of the config (of the made one for GGUF) */
const char *mr_model_path(const mr_model *m);
mr_err mr_model_build(mr_model *m, mr_graph **out);
/* The canvas graph of the last build, now the caller's; NULL: the family has none. */
mr_graph *mr_model_take_canvas(mr_model *m);

/* After build: tensors not used; skipped by pattern is fine, else MR_EFORMAT naming the first and the count. */
mr_err mr_model_check_unused(const mr_model *m);
/* Skipped tensors for inspect: fn is called for each. */
mr_err mr_model_skipped(const mr_model *m, mr_err (*fn)(void *ctx, const mr_winfo *t), void *ctx);
/* Every (canonical name, shape) the build asked for, in order: what synth and convert write. */
typedef struct mr_asked {
    const char *name;
    int rank;
    int64_t dim[MR_MAX_RANK];
    const char *recipe; /* how the files' tensors make it */
    bool plus_one;      /* and that it then holds 1 + w, */
    bool neg_exp;       /* or -exp(w) */
} mr_asked;
int mr_model_asked(const mr_model *m);
const mr_asked *mr_model_asked_at(const mr_model *m, int i);

/* The first name that a canonical one has in GGUF files of the model's family, and its row; NULL: none. */
const mr_name_row *mr_model_gguf_name(const mr_model *m, const char *canonical, char out[512]);

/* What a letter of modifiers stands for in this model. */
int64_t mr_model_number(const mr_model *m, char letter);
/* Modifiers of a name table with their numbers filled in. */
mr_err mr_model_modifiers(const mr_model *m, const char *modifiers, mr_buf *out);
/* The family's own metadata, if it writes it: false without an error. */
mr_err mr_model_gguf_meta(const mr_model *m, const mr_gguf_put *p, bool *done);
const mr_rope_spec *mr_model_gguf_rope(const mr_model *m);

/* Recipe lookup and reading over the model's weights (ctx = mr_model *), for mr_recipe_bind and weight_load. */
mr_err mr_model_lookup(void *ctx, const char *name, mr_stored *out);
mr_err mr_model_read(void *ctx, const mr_stored *t, int64_t row0, int64_t n, void *buf,
                     mr_rows *out);

/* ---- config reading shared by families (model/config.c): defaults or required, errors name file and key ---- */
mr_err mr_cfg_int(mr_jval o, const char *key, int64_t min, int64_t max,
                  int64_t *out); /* required */
mr_err mr_cfg_int_or(mr_jval o, const char *key, int64_t def, int64_t min, int64_t max,
                     int64_t *out); /* absent or null: def */
mr_err mr_cfg_num(mr_jval o, const char *key, double min, double max, double *out); /* required */
mr_err mr_cfg_num_in(mr_jval o, const char *key, double def, double min, double max,
                     double *out);                         /* absent or null: def */
mr_err mr_cfg_bool(mr_jval o, const char *key, bool *out); /* required */
mr_err mr_cfg_bool_or(mr_jval o, const char *key, bool def, bool *out);
mr_err mr_cfg_act(mr_jval o, const char *key, const char *def,
                  mr_act *out); /* names of activations; unknown: refused */
/* Ids of config.json: an int, a list or null. */
mr_err mr_cfg_id(mr_jval o, const char *key, int32_t def, int32_t *out);
mr_err mr_cfg_eos(mr_jval o, mr_model_info *info);
/* MR_EUNSUPPORTED "FILE: "PATH": ..." */
mr_err mr_cfg_refuse(mr_jval v, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Refuses `key` unless it is absent, null or false: a switch that this family does not have. */
mr_err mr_cfg_off(mr_jval o, const char *key);
/* Refuses a use_bidirectional_attention under which text rows see later ones (embedding models). */
mr_err mr_cfg_causal(mr_jval o);
/* rope_theta / rope_scaling / rope_parameters, old and new, into a spec (dim, interleaved set by the caller).
 * mscale_all_dim (may be NULL): that key of a scaled rope, else 0. */
mr_err mr_cfg_rope(mr_jval o, double default_theta, mr_model_info *info, mr_rope_spec *out,
                   double *mscale_all_dim);
/* One rope object by hand: keys are read from a, then from b (either may be absent); o holds
 * original_max_position_embeddings where that is no key of them. */
mr_err mr_cfg_rope_object(mr_jval o, mr_jval a, mr_jval b, double theta, mr_model_info *info,
                          mr_rope_spec *out, double *mscale_all_dim);
/* partial_rotary_factor of the rope's object or of o; def if absent. */
mr_err mr_cfg_partial(mr_jval o, double def, double *out);
/* For families whose reference reads that key in scaled ropes alone, and cannot run them with a part of a head. */
mr_err mr_cfg_whole_heads(mr_jval o, const mr_rope_spec *r);
/* mr_cfg_rope for heads so wide: dim is what partial_rotary_factor says of head_dim (absent: def). */
mr_err mr_cfg_rope_part(mr_jval o, double def, int64_t head_dim, mr_model_info *info,
                        mr_rope_spec *out);
/* The same for a family that rotates whole heads, or another width that is no part of them. */
mr_err mr_cfg_rope_whole(mr_jval o, int64_t dim, mr_model_info *info, mr_rope_spec *out,
                         double *mscale_all_dim);
/* 0.1 * by * ln(factor) + 1, and 1 for factors up to 1: yarn's attention factor. */
double mr_yarn_mscale(double factor, double by);
/* Of rope type llama3: what the i-th of n frequencies is divided by (rope_rule.c). */
double mr_llama3_divisor(const mr_rope_spec *r, int64_t i, int64_t n);
/* The rule of r->theta (factor, low, high, orig are set) whose divisors these are; false: there is none. */
bool mr_llama3_find(mr_rope_spec *r, const float *divisors, int64_t n);

/* Sizes and counts that all decoders have. */
enum {
    MR_CFG_VOCAB = 1 << 26,
    MR_CFG_WIDTH = 1 << 22,
    MR_CFG_HIDDEN = 1 << 20,
    MR_CFG_LAYERS = 1 << 10,
    MR_CFG_HEADS = 1 << 14,
    MR_CFG_HEAD_DIM = 1 << 12,
    MR_CFG_EXPERTS = 1 << 14
};
/* vocab_size, hidden_size, num_hidden_layers (required), max_position_embeddings, eos, bos into the facts. */
mr_err mr_cfg_common(mr_jval o, int64_t default_max_positions, mr_model_info *info);
/* Per layer whether it sees everything: layer_types ("full_attention", "sliding_attention") or, without it, every
 * pattern-th layer. */
mr_err mr_cfg_layer_types(mr_jval o, int64_t pattern, int64_t layers, bool *global);
mr_err mr_cfg_window(mr_jval o, int64_t def, int64_t *out); /* sliding_window; null: refused */
/* Per layer whether it holds experts: every decoder_sparse_step-th that is not in mlp_only_layers. */
mr_err mr_cfg_sparse_layers(mr_jval o, int64_t layers, bool *sparse);
/* Heads as the attention blocks take them, and as defaults of a class; of those 0 means for heads: the
 * key is required; kv_heads: as many as heads; head_dim: hidden_size / heads. */
typedef struct mr_cfg_head {
    int64_t heads, kv_heads, head_dim;
} mr_cfg_head;
/* num_attention_heads, num_key_value_heads (null: as many), head_dim */
mr_err mr_cfg_heads(mr_jval o, int64_t hidden, mr_cfg_head def, mr_cfg_head *out);
/* num_experts_per_tok, n_group, topk_group of a router over `experts`; the defaults' 0: required.
 * group_max: as in mr_moe_spec. */
typedef struct mr_cfg_route {
    int64_t k, groups, keep;
} mr_cfg_route;
mr_err mr_cfg_router(mr_jval o, int64_t experts, bool group_max, mr_cfg_route def,
                     mr_cfg_route *out);

/* ---- GGUF metadata -> config text (model/gguf_config.c) ---- */
typedef struct mr_gguf_row {
    const char *key,
        *gguf; /* "hidden_size", "embedding_length" (under the architecture's name); NULL: the family
                               writes the key itself */
    char kind; /* i integer, n number, b true or false */
} mr_gguf_row;
typedef struct mr_gguf_config {
    const mr_weights *w;
    const mr_gguf *g;
    const char *arch;
    mr_buf *json;
    mr_err err; /* sticky */
    bool first;
} mr_gguf_config;
/* Opens the object and writes model_type, what all architectures share, and the rows (NULL: none) that the file has. */
void mr_gguf_config_begin(mr_gguf_config *c, const mr_weights *w, const char *arch,
                          const char *model_type, const mr_gguf_row *rows, mr_buf *json);
void mr_gguf_config_raw(mr_gguf_config *c, const char *key, const char *value); /* value is JSON */
void mr_gguf_config_int(mr_gguf_config *c, const char *key, int64_t v);
void mr_gguf_config_num(mr_gguf_config *c, const char *key, double v);
void mr_gguf_config_open(mr_gguf_config *c, const char *key); /* an object; close ends it */
void mr_gguf_config_close(mr_gguf_config *c);
mr_err mr_gguf_config_end(mr_gguf_config *c);
/* ARCH.KEY of the metadata: false if absent; a wrong type sticks. A list of equal integers is one. */
bool mr_gguf_config_get_int(mr_gguf_config *c, const char *key, int64_t *out);
bool mr_gguf_config_get_num(mr_gguf_config *c, const char *key, double *out);
/* ARCH.KEY for each of n layers, or one number for all: false if absent. */
bool mr_gguf_config_get_ints(mr_gguf_config *c, const char *key, int64_t n, int64_t *out);
/* layer_types by the list ARCH.KEY, whose true means `other`: so many layers; 0: no list.
 * full[MR_CFG_LAYERS], which may be NULL: which have full attention. */
int64_t mr_gguf_config_layer_types(mr_gguf_config *c, const char *key, const char *other,
                                   bool *full);
/* The pairs' divisors, rope_freqs.weight, into out[MR_CFG_HEAD_DIM]: how many; 0: none. */
int64_t mr_gguf_config_rope_freqs(mr_gguf_config *c, float *out);
/* The rows that the file has. */
void mr_gguf_config_rows(mr_gguf_config *c, const mr_gguf_row *rows);
/* MR_EUNSUPPORTED naming the file and ARCH.KEY. */
void mr_gguf_config_refuse(mr_gguf_config *c, const char *key, const char *why);
/* query_pre_attn_scalar, which the file lacks: the head's width, but hidden / heads for the one published size that is
 * told by its count of layers. */
void mr_gguf_config_query_scalar(mr_gguf_config *c, int64_t layers_of_other);
/* ARCH.rope.scaling.* of type none, linear or yarn (attention factor by its default) as rope_scaling. */
extern const mr_gguf_row mr_gguf_rope_scaling[]; /* its numbers */
void mr_gguf_config_rope_scaling(mr_gguf_config *c);
/* ARCH.attention.value_length, if there, is key_length. */
void mr_gguf_config_one_head_dim(mr_gguf_config *c);
/* ARCH.rope.scaling.*: its type ("none" if absent) into type[32]. */
void mr_gguf_config_rope_type(mr_gguf_config *c, char type[32]);

/* ---- facts -> GGUF metadata (model/gguf_put.c) ---- */
void mr_gguf_put_int(const mr_gguf_put *p, const char *key, int64_t v);
void mr_gguf_put_num(const mr_gguf_put *p, const char *key, double v);
void mr_gguf_put_str(const mr_gguf_put *p, const char *key, const char *v);
void mr_gguf_put_bool(const mr_gguf_put *p, const char *key, bool v);
/* Lists of n. */
void mr_gguf_put_bools(const mr_gguf_put *p, const char *key, const bool *v, int64_t n);
void mr_gguf_put_ints(const mr_gguf_put *p, const char *key, const int64_t *v, int64_t n);
/* What mr_gguf_config_get_ints reads: one number if all are the same. */
void mr_gguf_put_layers(const mr_gguf_put *p, const char *key, const int64_t *v, int64_t n);
/* rope.freq_base and rope.scaling.*; `said` is the attention factor that readers take yarn to have.
 * `at` names the culprit where GGUF has no keys for it. */
mr_err mr_gguf_put_rope(const mr_gguf_put *p, const mr_rope_spec *r, double said, mr_jval at);

#endif
