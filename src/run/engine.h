/* The engine: a model compiled on a backend, immutable once open.
 *
 * Why:    everything sessions share: packed weights, plans, facts, the backend and its threads.
 * Owns:   model, graph, plans, weight handles, backend.  A session borrows all of it.
 * Rules:  1. Two plans, "decode" and "prefill", of one fused graph: the same steps and the same
 *            bits, other row caps.  Models with canvases have a third, of a second graph.
 *         2. Nothing is packed before the memory check has passed.
 *         3. Counters are the only thing that changes after open.
 */
#ifndef MR_RUN_ENGINE_H
#define MR_RUN_ENGINE_H

#include "backend/backend.h"
#include "compile/compile.h"
#include "millrace.h"
#include "model/family.h"
#include "text/tokenizer.h"

enum { MR_DEFAULT_CONTEXT = 8192, MR_DEFAULT_CHUNK = 512, MR_DECODE_ROWS = 16 };

/* Named inputs of a graph.  A run gives the first three always; embeds (f32 [R,hidden], in place of
 * the embedding's rows), span (i32 [R,2]: the positions [start, end) of a row's image or canvas, 0 0:
 * none) and probs (f32 [R,vocab]: a canvas's step before) are NULL where there are none. */
enum mr_input {
    MR_IN_IDS,
    MR_IN_POS,
    MR_IN_OUT_ROWS,
    MR_IN_EMBEDS,
    MR_IN_SPAN,
    MR_IN_PROBS,
    MR_INPUTS
};

/* What a step has done since the profile was started. */
typedef struct mr_step_sum {
    uint64_t calls, bytes, macs, experts;
} mr_step_sum;

/* A plan with what it runs on. */
typedef struct mr_lane {
    mr_plan *plan;
    mr_weight **weights;  /* in the plan's order */
    int logits;           /* which output */
    int in[MR_INPUTS];    /* which input; -1 if the graph lacks it */
    mr_step_trace *trace; /* by step, while a profile is taken; else NULL */
    mr_step_sum *sums;
} mr_lane;

/* Row tables of one run, of the prefill plan's row cap. */
typedef struct mr_tables {
    int32_t *ids, *pos, *slot, *out;
    int32_t (*span)[2];
    float **to;      /* where the logits of out[i] go */
    mr_kv **kv;      /* by slot */
    int64_t *kv_len; /* by slot */
} mr_tables;

struct mr_engine {
    mr_engine_info info;
    mr_model *model;
    mr_backend *backend;
    mr_graph *graph;        /* fused */
    mr_weight **weights;    /* by graph value; NULL for others */
    uint64_t *weight_bytes; /* by graph value */
    mr_lane decode, prefill;
    /* Models with canvases: a second graph on the same weights, and its plan. */
    mr_graph *canvas_graph;
    mr_weight **canvas_weights; /* by its values; own: not of the first graph too */
    uint64_t *canvas_bytes;
    mr_lane canvas;
    void
        *activations; /* of whichever plan runs: as large as the largest wants; made at first use */
    mr_tables tables;
    mr_tokenizer *text;
    mr_counts counts;
    /* Of the graph as it was before the passes, and of the weights (0: not yet taken): state.c */
    uint64_t fingerprint_graph, fingerprint_weights;
    mr_arena *arena;
};

/* Packed bytes of all weights, arenas, and KV for `context` positions of each session, for the
 * memory check and inspect. */
typedef struct mr_need {
    uint64_t weights, arenas, kv, available;
    int64_t sessions;
} mr_need;
mr_err mr_need_count(mr_need *n, mr_backend *b, const mr_graph *g, const mr_plan *decode,
                     const mr_plan *prefill, int64_t context, int64_t chunk, int64_t sessions);
mr_err mr_need_check(const mr_need *n, const char *path, int64_t context);

mr_err mr_graph_fingerprint(const mr_graph *g, uint64_t *out); /* state.c */

/* Shared by engine, view and inspect. */
mr_err mr_precision_parse(const char *name, mr_precision *out);
mr_err mr_engine_backend(const mr_engine_opts *o,
                         mr_backend **out); /* threads, isa, precision checked */
mr_err mr_engine_pass_opts(const mr_engine_opts *o, mr_pass_opts *out);
/* Caps of decode and prefill.  Rows whose logits one run gives: as many as take 24 MiB (more would be the
 * largest part of the activations, and idle in decoding), but those of a batch, and always a
 * whole diffusion block, since its rows see each other. */
int64_t mr_engine_out_cap(const mr_model_info *m, int64_t rows);
int64_t mr_engine_decode_rows(const mr_model_info *m);
/* Whether the model has a tokenizer, readable or not (engine_text.c). */
mr_err mr_text_there(const mr_model *m, bool *out);
int64_t mr_engine_context(const mr_model_info *m, const mr_engine_opts *o);
/* asked, 0: 512; at least the decode plan's rows, at most the context.  Sliding layers: 64 less, so
 * that a ring takes window + asked positions, whatever their alignment. */
int64_t mr_engine_prefill_rows(const mr_plan *decode, int64_t asked, int64_t context);

/* generation_config.json: end ids and sampling defaults (run/defaults.c). */
mr_err mr_defaults_read(const char *dir, mr_engine_info *info);

#endif
