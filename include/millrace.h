/* Millrace: compile and run language models.
 *
 * Why:    one library for autoregressive and block-diffusion models, from safetensors, MLX and GGUF
 *         files, with output bits that depend on model, tokens, seed and precision alone.
 * Use:    mr_engine *e;
 *         mr_engine_opts o = {0};
 *         mr_engine_open(&e, "models/gemma3-stories", &o);
 *         mr_session *s;
 *         mr_session_new(&s, e);
 *         mr_generate(s, ids, n, &opts, &result);
 *         or by hand:
 *         mr_advance(s, ids, n, MR_WANT_LAST, NULL, 0, logits);
 *         mr_commit(s, n);
 * Owns:   mr_X_open / mr_X_new is undone by mr_X_close / mr_X_free.  A session borrows its engine.
 *         Arrays that a function gives to the caller are undone by mr_memory_free.
 * Threads: an engine is immutable after open, but its sessions share its compute threads: one call
 *         into an engine's sessions at a time.  Different engines are independent.  A tokenizer may
 *         be used by any number of threads.
 * Fails:  every fallible function returns 0 or an error code, and leaves one line for
 *         mr_error_text() in the calling thread.  Nothing here prints, exits or reads the
 *         environment.
 * Units:  sizes in bytes, times in seconds, positions and counts in tokens, logits as float32.
 */
#ifndef MILLRACE_H
#define MILLRACE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define MR_API __attribute__((visibility("default")))

/* The numbers are those of mr_err in the library. */
typedef int mr_status;
enum {
    MR_STATUS_OK,
    MR_STATUS_USAGE,       /* an option is out of range or does not apply to this model */
    MR_STATUS_FORMAT,      /* a file's content is wrong */
    MR_STATUS_IO,          /* the system refused a read or write */
    MR_STATUS_MEMORY,      /* an allocation failed */
    MR_STATUS_UNSUPPORTED, /* valid input that this build does not do */
    MR_STATUS_LIMIT,       /* it does not fit: memory, context */
    MR_STATUS_CANCELLED    /* a callback asked to stop */
};
MR_API const char *mr_error_text(void);
MR_API const char *mr_version(void);
MR_API void mr_memory_free(void *p);

/* ---- engine: a loaded, compiled model ---- */

typedef struct mr_engine mr_engine;
struct mr_engine_info;

typedef struct mr_engine_opts {
    int threads;           /* 0: the CPUs this process may use; 1..1024 */
    const char *cpu;       /* NULL: the best; "c" "avx2" "avx512" "amx" "neon" */
    const char *precision; /* NULL: "fast"; "exact" "fast" "native" */
    int64_t context;       /* largest number of positions; 0: min(the model's, 8192) */
    int64_t chunk;         /* rows fed at once at most; 0: 512 */
    int64_t sessions;      /* whose full KV must fit the memory check; 0: 1 */
    int64_t block_length;  /* diffusion; 0: the model's */
    int32_t mask_id;       /* diffusion; counts if has_mask_id, else the model's */
    bool has_mask_id;
    const int32_t *eos; /* replaces the model's end ids when n_eos > 0 */
    int n_eos;
    const char *const *passes_off; /* compiler passes to leave out */
    int n_passes_off;
    const char *graph_file; /* run this text graph on the model's weights instead of the family's */
    /* Called once the model is known and before its weights are read; not MR_STATUS_OK: opening ends
     * with it.  May be NULL. */
    mr_status (*accept)(void *ctx, const struct mr_engine_info *facts);
    void *ctx;
} mr_engine_opts;

typedef struct mr_engine_info {
    const char *family, *model_type, *cpu, *precision, *path;
    int threads;
    int64_t vocab, hidden, layers, context, max_positions;
    bool diffusion;
    int64_t block_length;
    const char *decoder; /* diffusion: the model's own decoder */
    int32_t mask_id, bos;
    int32_t delete_id, split_id; /* diffusion with editing of positions (LLaDA2.2); -1: none */
    /* Diffusion by canvases (then block_length is 1): ids of one, and what follows an end id; 0 ids
     * for other models.  Defaults of generation_config.json; NAN where it says nothing. */
    int64_t canvas;
    int32_t pad;
    double max_denoising_steps, t_min, t_max, entropy_bound, stability_threshold,
        confidence_threshold;
    int32_t eos[32]; /* of config.json and generation_config.json, else of the tokenizer */
    int n_eos;
    /* generation_config.json's sampling defaults; NAN where it says nothing */
    double temperature, top_p, top_k, repetition_penalty;
    bool do_sample;
    uint64_t weight_bytes, arena_bytes, load_ns;
    int plans; /* compiled: 2, with canvases 3 */
    int passes_applied;
} mr_engine_info;

/* model: a directory or a .gguf file. Refuses, with the itemised need, what does not fit the memory
 * available. */
MR_API mr_status mr_engine_open(mr_engine **out, const char *model, const mr_engine_opts *o);
MR_API void mr_engine_close(mr_engine *e);
MR_API const mr_engine_info *mr_engine_facts(const mr_engine *e);
/* Bytes one decoded token reads of the weights, and multiply-adds it does. */
MR_API uint64_t mr_engine_bytes_per_token(const mr_engine *e);
MR_API uint64_t mr_engine_macs_per_token(const mr_engine *e);

/* Deterministic counts since the engine was opened. */
typedef struct mr_counts {
    uint64_t runs, rows, outs; /* plan runs, rows forwarded, rows whose logits were computed */
    uint64_t weight_bytes; /* read by those runs (experts: at most rows * top_k of them per layer
                              and run) */
    uint64_t kv_bytes, kv_peak_bytes; /* held by sessions now, and the most at once */
    uint64_t plans;
} mr_counts;
MR_API mr_counts mr_engine_counts(const mr_engine *e);

/* What the machine does at most, measured now on the engine's threads and with its instruction set:
 * with one thread, and with all.  0: not known.  Takes about a second, and up to 1 GiB. */
typedef struct mr_limit {
    double one, all;
} mr_limit;
typedef struct mr_limits {
    mr_limit read;            /* bytes per second, of memory well beyond the caches */
    mr_limit int8, f32, bf16; /* operations per second; a multiply-add is two */
} mr_limits;
MR_API mr_status mr_engine_limits(mr_engine *e, mr_limits *out);

/* Where time goes: a row per plan and kernel, longest first. */
typedef struct mr_profile_row {
    const char *plan, *kernel; /* the engine's */
    uint64_t calls;
    double seconds;
    uint64_t bytes;                       /* of weights and KV (experts: those chosen) */
    uint64_t int8_ops, f32_ops, bf16_ops; /* of products and attention */
} mr_profile_row;
/* Takes each step's time from now on, from zero; a microsecond or so a hundred steps. */
MR_API mr_status mr_profile_start(mr_engine *e);
MR_API void mr_profile_stop(mr_engine *e);
MR_API mr_status mr_profile_rows(const mr_engine *e, mr_profile_row **rows, int *n);

/* ---- session: one timeline ---- */

typedef struct mr_session mr_session;
MR_API mr_status mr_session_new(mr_session **out, mr_engine *e);
MR_API void mr_session_free(mr_session *s);
MR_API int64_t mr_session_length(const mr_session *s); /* committed positions */

typedef enum mr_want { MR_WANT_NONE, MR_WANT_LAST, MR_WANT_ALL, MR_WANT_LIST } mr_want;

typedef struct mr_span {
    int64_t begin, end; /* half-open */
} mr_span;

/* What one session is fed: n ids at positions length.. (open rows of an earlier call are rolled back
 * first).  Logits of the wanted rows go to logits [wanted, vocab] in order; want_rows are indices
 * into ids.  Row i's logits say what follows ids[i] (diffusion: what stands at that position; there
 * length must be a whole number of blocks). */
typedef struct mr_feed {
    mr_session *session;
    const int32_t *ids;
    int64_t n;
    /* [n, hidden] or NULL: the rows as they leave the embedding, after its scale.  The ids are
     * needed all the same.  Refused where the model's graph takes none. */
    const float *embeds;
    /* Rows of one image each, in rows of this feed: ascending, apart from each other.  One must fit
     * the engine's chunk, since it is never cut.  Refused where the model's graph takes none. */
    const mr_span *spans;
    int64_t n_spans;
    mr_want want;
    const int32_t *want_rows; /* MR_WANT_LIST: ascending */
    int64_t n_want;
    float *logits;
} mr_feed;

/* Feeds distinct sessions of one engine, their rows together in as few runs as the engine's chunk
 * allows: weights are read once for all.  A session's bits do not depend on the others.
 * A call that is refused (the arguments, the context, memory) changes nothing.  Should a run itself
 * fail, no session has moved: all stand at their committed positions, without open rows. */
MR_API mr_status mr_advance_many(const mr_feed *feeds, int n);
/* The same for one session, ids alone. */
MR_API mr_status mr_advance(mr_session *s, const int32_t *ids, int64_t n, mr_want want,
                            const int32_t *want_rows, int64_t n_want, float *logits);
/* Logits [canvas, vocab] of a canvas at positions length.. of a model with canvases, given what the
 * step before thought of each position (probs [canvas, vocab]; NULL: there was none).  Nothing stays:
 * open rows are rolled back, the canvas's own keys and values too. */
MR_API mr_status mr_denoise(mr_session *s, const int32_t *canvas, const float *probs,
                            float *logits);
/* Keeps the first k of the open rows (0 <= k <= n); the others are as if they had never been. Where
 * layers slide, advance and commit refuse to go on from a position that the window has let go of:
 * that takes more open rows at once than the engine's chunk. */
MR_API mr_status mr_commit(mr_session *s, int64_t k);
/* Drops committed positions from `length` on; refused like a commit. 0 is always possible. */
MR_API mr_status mr_truncate(mr_session *s, int64_t length);

/* The committed tokens, mr_session_length of them; valid until the session is next called. */
MR_API const int32_t *mr_session_ids(const mr_session *s);

/* ---- saved states ---- */

/* A session's committed tokens and all that the model keeps of them: going on from a saved state
 * gives the bits of never having stopped, on any machine and with any threads, chunk and context.
 * The model and its precision must be the same; another's state is refused.  A file is written
 * beside its name and renamed. */
MR_API mr_status mr_state_save(const mr_session *s, const char *path);
/* Replaces what the session holds.  A refused call changes nothing (a file that is cut short,
 * damaged, of another model or too long); should reading then fail, the session is empty. */
MR_API mr_status mr_state_load(mr_session *s, const char *path);
/* The same in memory of the caller's. */
MR_API mr_status mr_state_bytes(const mr_session *s, uint64_t *bytes);
MR_API mr_status mr_state_write(const mr_session *s, void *buffer, uint64_t bytes);
MR_API mr_status mr_state_read(mr_session *s, const void *buffer, uint64_t bytes);

/* ---- generation ---- */

typedef struct mr_logit_bias {
    int32_t id;
    float bias;
} mr_logit_bias;

/* A denoising step of a canvas of n ids. */
typedef struct mr_canvas_step {
    int64_t start, step, n; /* the canvas's first position; steps of this canvas before */
    double temperature, mean_entropy;
    const int32_t *canvas, *next; /* before and after the step */
    const int32_t *sampled, *best, *noise;
    const double *u, *entropy; /* u: the samples' draws, NULL at temperature 0; entropy in nats */
    const bool *accepted;
    bool stop;
} mr_canvas_step;

typedef struct mr_generate_opts {
    int64_t max_new;       /* negative: until an end id or the context's end */
    double temperature;    /* 0: argmax */
    int64_t top_k;         /* 0: off */
    double top_p;          /* 1: off */
    double min_p;          /* 0: off */
    double repeat_penalty; /* 1: off */
    uint64_t seed;
    const char *const *stop; /* strings; needs text */
    int n_stop;
    const mr_logit_bias *bias;
    int n_bias;
    /* Diffusion.  What is left as mr_generate_defaults sets it is the decoder's default; a setting
     * that the decoder does not have is refused. */
    const char *decoder; /* NULL: the model's; llada2.0 llada2.1 llada2.2 dinfer-threshold
                             dinfer-credit dinfer-hierarchy */
    int64_t steps;       /* a block: 2.0, 2.2 (32) */
    double threshold;    /* write what is more probable: 2.0, 2.1 (0.95), 2.2 (0.5), dInfer (0.9) */
    int64_t minimal_topk;        /* steps are at most max_new / it: 2.0 (1) */
    bool eos_early_stop;         /* 2.0: inside a block; 2.1: after the block with an end id */
    double editing_threshold;    /* replace ids by surer ones: 2.1 (0.9), 2.2 (0) */
    int64_t max_post_steps;      /* forwards after the last mask: 2.1, 2.2 (16) */
    int64_t num_to_transfer;     /* masks written at least, a step: 2.1 (1) */
    int64_t max_steps_per_block; /* 2.1, 2.2 (1000) */
    double low_threshold;        /* of the best of a run of masks: hierarchy (0.4) */
    double credit_alpha, credit_gamma, credit_decay; /* credit (0.7, 0.2, 0.8) */
    /* Canvases (DiffusionGemma); steps: 48.  temperature 0 takes the best token, 1 a sample; how
     * wild, the schedule t_min..t_max says.  Canvases are whole, so max_new is rounded up. */
    double t_min, t_max;         /* 0.4, 0.8 */
    double entropy_bound;        /* accept the surest up to this sum of entropies (0.1) */
    int64_t stability_threshold; /* so many equal steps, negative: default (1), and ... */
    double confidence_threshold; /* ... a mean entropy below it end a canvas (0.005) */
    /* Recorded draws instead of those of the seed: the canvas of a block (step -1; u is NULL), else
     * the step's replacement ids and samples' uniforms.  May be NULL; u may stay untouched at
     * temperature 0. */
    mr_status (*draws)(void *ctx, int64_t block, int64_t step, int32_t *ids, double *u);
    /* Any may be NULL.  A non-zero return stops with MR_STATUS_CANCELLED; what was held back of the
     * ids given so far is still given as text.
     * on_prompt: positions of the prompt fed so far.  on_ids, on_text: each piece as it is certain;
     * text comes in whole characters, and asking for it loads the tokenizer.  on_step: diffusion,
     * after each denoising step. */
    int (*on_prompt)(void *ctx, int64_t done, int64_t total);
    int (*on_ids)(void *ctx, const int32_t *ids, size_t n);
    int (*on_text)(void *ctx, const char *text, size_t len);
    int (*on_step)(void *ctx, int64_t block_start, const int32_t *block, int64_t n);
    int (*on_canvas)(void *ctx, const struct mr_canvas_step *step); /* likewise, with canvases */
    void *ctx;
} mr_generate_opts;
MR_API void mr_generate_defaults(mr_generate_opts *o);
/* Whether these settings apply to a model of these facts, as mr_generate would say. */
MR_API mr_status mr_generate_check(const mr_engine_info *facts, const mr_generate_opts *o);

typedef struct mr_result {
    /* "stop": an end id or stop string; "length": max_new or the context's end; "cancelled" */
    const char *finish_reason;
    int64_t prompt, generated; /* tokens */
    int64_t steps;             /* diffusion: denoising steps */
    double prefill_s, decode_s;
} mr_result;

/* Continues ids (a whole prompt: the session keeps what it shares with what it holds).  An id
 * outside the vocabulary is refused with its number. */
MR_API mr_status mr_generate(mr_session *s, const int32_t *ids, size_t n, const mr_generate_opts *o,
                             mr_result *r);

/* ---- text ---- */

typedef struct mr_tokenizer mr_tokenizer;
/* model: a directory with tokenizer.json, a tokenizer.json, or a .gguf file (its vocabulary
 * suffices). */
MR_API mr_status mr_text_open(mr_tokenizer **out, const char *model);
MR_API void mr_text_close(mr_tokenizer *t);
/* The engine's own, loaded at the first call. */
MR_API mr_status mr_engine_text(mr_engine *e, mr_tokenizer **out);
/* flags: MR_ENCODE_SPECIAL adds the ids that the model wants around a text; by MR_ENCODE_PLAIN special
 * tokens written out in the text are text, for what users may not steer. */
enum { MR_ENCODE_SPECIAL = 1, MR_ENCODE_PLAIN = 2 };
MR_API mr_status mr_encode(const mr_tokenizer *t, const char *text, size_t len, int flags,
                           int32_t **ids, size_t *n);
MR_API mr_status mr_decode(const mr_tokenizer *t, const int32_t *ids, size_t n, bool skip_special,
                           char **text, size_t *len);
/* One user turn through the model's chat template, ready for mr_encode without flags. */
MR_API mr_status mr_chat(const mr_tokenizer *t, const char *user, size_t len, char **text,
                         size_t *out_len);
/* A conversation likewise.  json: {"messages": [...]} with, as the template wants, "tools",
 * "add_generation_prompt" (true if absent) and other variables; or the array of messages alone. */
MR_API mr_status mr_chat_messages(const mr_tokenizer *t, const char *json, size_t len, char **text,
                                  size_t *out_len);

/* ---- looking at models ---- */

typedef struct mr_view_opts {
    const char *plan;   /* "decode" (default), "prefill", "canvas" */
    const char *stage;  /* "built", "fused" (default), "plan" */
    const char *format; /* "text" (default), "dot", "svg", "json" */
    bool report;        /* fusion and dispatch reports instead of the graph */
    mr_engine_opts engine;
} mr_view_opts;
/* model: also a config.json, without weights. */
MR_API mr_status mr_view(const char *model, const mr_view_opts *o, char **text, size_t *len);
/* Config, family, tensors, bytes by dtype, skipped tensors, tokenizer, memory for a context length.
 */
MR_API mr_status mr_inspect(const char *model, int64_t context, bool json, char **text,
                            size_t *len);
/* Whole blocks of a GGUF type ("q4_k") as numbers; mr_memory_free. */
MR_API mr_status mr_dequantise(const char *type, const void *blocks, size_t len, float **values,
                               int64_t *n);

typedef struct mr_synth_opts {
    const char *format; /* "safetensors" (default) or "gguf" */
    /* "f32" "bf16" (default), "q8" "q4" (MLX affine); GGUF: as mr_convert */
    const char *quant;
    int group; /* 32 64 (default) 128 */
    uint64_t seed;
    bool force; /* replace the file, or a directory's model; else what is there is refused */
    /* bytes; non-zero stops, as MR_STATUS_CANCELLED, and leaves nothing; may be NULL */
    int (*progress)(void *ctx, uint64_t done, uint64_t total);
    void (*note)(void *ctx, const char *line); /* a matrix that stays unquantised; may be NULL */
    void *ctx;
} mr_synth_opts;
/* A valid model of a config's shape with random weights and a dummy tokenizer: a directory, or a
 * GGUF file (families llama, gemma3 and deepseek). */
MR_API mr_status mr_synth(const char *config, const char *out, const mr_synth_opts *o);

typedef struct mr_convert_opts {
    const char *format; /* "safetensors" (default, MLX's form) or "gguf" */
    /* "f32" "f16" "bf16"; safetensors: "q2" "q3" "q4" "q5" "q6" "q8" (affine); GGUF: "q4" or "q4_0",
     * "q4_1" "q5_0" "q5_1", "q8" or "q8_0", "q2_k" "q3_k" "q4_k" "q5_k" "q6_k" (rows that do not fill
     * blocks of 256: of 32, with a note).  NULL: floats stay as they are, and a quantised tensor is
     * MR_STATUS_USAGE, unless it goes from GGUF to GGUF. */
    const char *quant;
    int group;   /* of affine integers: 32 64 (default) 128 */
    int threads; /* 0: the CPUs available; the bytes do not depend on it */
    /* as mr_synth_opts */
    bool force;
    int (*progress)(void *ctx, uint64_t done, uint64_t total);
    void (*note)(void *ctx, const char *line);
    void *ctx;
} mr_convert_opts;
/* Writes a model's text part with its config and tokenizer: as a directory `out`, which must not
 * exist or be empty unless forced, or as a GGUF file `out` (not of model
 * types llada2_moe and diffusion_gemma, which have no form there).  After an error nothing of it is left. */
MR_API mr_status mr_convert(const char *model, const char *out, const mr_convert_opts *o);

#ifdef __cplusplus
}
#endif
#endif
