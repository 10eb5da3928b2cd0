/* Backends and plans.
 *
 * Why:    a plan is what runs: a flat list of steps with memory offsets, made once by compile/ and never changed.
 *         A backend runs ranges of its steps on one kind of device, and owns all memory that the steps touch.
 * Use:    mr_backend *b; MR_TRY(mr_backend_cpu(&b, &(mr_backend_opts){.threads = 2, ...}));
 *         weights: b->v->weight_load for each; plan by mr_plan_compile (compile/compile.h);
 *         kv: b->v->kv_new per session; run: b->v->run(b, plan, &run, 0, plan->n_steps)
 * Owns:   weights, KV and arenas belong to the backend that made them; only it dereferences them.
 * Threads: load and run from one thread at a time per backend.
 * Rules:  1. What a backend does not implement it refuses in `supports`, naming op, attribute and itself.
 *         2. Steps run in order; a step reads and writes only the operands it names.
 *         3. Bits depend on no count of rows, threads or ISA (docs/numerics.md).
 */
#ifndef MR_BACKEND_BACKEND_H
#define MR_BACKEND_BACKEND_H

#include "base/cpu.h"
#include "base/mem.h"
#include "ir/graph.h"
#include "ir/recipe.h"

typedef enum mr_precision { MR_EXACT, MR_FAST, MR_NATIVE } mr_precision;
const char *mr_precision_name(mr_precision p); /* backend/plan.c */

typedef struct mr_backend mr_backend;
typedef struct mr_weight mr_weight; /* a packed weight; each backend has its own */
typedef struct mr_kv mr_kv;         /* one session's caches; each backend has its own */

/* ---- plans ---- */

typedef enum mr_where { MR_AT_NONE, MR_AT_ARENA, MR_AT_INPUT, MR_AT_WEIGHT, MR_AT_CACHE } mr_where;

/* One operand of a step. Last axis stride is 1; stride[0] steps rows, stride[1] heads (rank 3), in elements of 4
 * bytes.  Sizes: rows are bound at run time (dim[0].sym), the others are numbers. */
typedef struct mr_operand_ref {
    mr_where where;
    mr_vtype type;
    int rank;
    mr_dim dim[MR_MAX_RANK];
    int64_t stride[MR_MAX_RANK];
    int64_t offset; /* ARENA: bytes from the arena's start */
    int index;      /* INPUT: plan->inputs; WEIGHT: plan->weights; CACHE: plan->caches */
} mr_operand_ref;

/* What a step's products are made of. */
typedef enum mr_arith { MR_ARITH_F32, MR_ARITH_INT8, MR_ARITH_BF16 } mr_arith;

typedef struct mr_step {
    mr_op op;
    const mr_node *node; /* attributes; lives in plan->graph */
    int n_in, n_out;
    mr_operand_ref in[MR_MAX_IN], out[MR_MAX_OUT];
    int64_t scratch_offset, scratch_bytes; /* in the arena; asked of the backend by step_scratch */
    const char *kernel; /* for reports: what will run it, e.g. "linear q4 avx512" */
    mr_arith arith;
    const void *prep; /* the backend's own, made by step_plan in plan->memory, or NULL */
} mr_step;

/* A cache of the graph. window 0: keeps all positions.  Or a recurrent state of heads x dk x dv numbers. */
typedef struct mr_cache_desc {
    const char *name;
    int heads, dk, dv, window;
    bool state;
} mr_cache_desc;

typedef struct mr_plan {
    const mr_graph *graph; /* the graph it was made from, borrowed */
    const char *name;      /* "decode", "prefill" */
    mr_precision precision;
    int64_t row_cap, out_cap; /* largest rows and wanted rows of one run */
    mr_step *steps;
    int n_steps;
    int64_t arena_bytes;
    const char **inputs; /* names of named inputs */
    int n_inputs;
    int *weights; /* graph value of each weight; handles are given at run by mr_run.weights */
    int n_weights;
    mr_cache_desc *caches;
    int n_caches;
    mr_operand_ref *outputs;
    const char **output_names;
    int n_outputs;
    mr_arena *memory; /* owns the plan */
} mr_plan;

/* What a step did, added up over runs. */
typedef struct mr_step_trace {
    uint64_t ns;
    uint64_t experts; /* that its rows chose, each once a run; other steps: 0 */
} mr_step_trace;

/* One run of a plan.  Rows are flat: each has a session slot and an absolute position.  Rows of one slot are at
 * consecutive positions, in order. */
typedef struct mr_run {
    int64_t rows, outs;
    const int32_t *pos, *slot; /* [rows] */
    mr_kv *const *kv;          /* [slots] */
    const int64_t
        *kv_len; /* [slots]: positions 0..kv_len-1 exist once this run's appends are done */
    const void *const
        *inputs; /* [plan->n_inputs]: i32 or f32 arrays; "ids" "pos" "out_rows" among them */
    mr_weight *const *weights; /* [plan->n_weights] */
    void *arena;               /* arena_alloc(plan->arena_bytes) */
    mr_step_trace *trace;      /* [plan->n_steps]: added to (cpu); NULL: it is not taken */
} mr_run;

/* What the machine does at most (per second), with one thread and with all of the backend's. 0: not
 * known. */
typedef struct mr_peak {
    double one, all;
} mr_peak;
typedef struct mr_peaks {
    mr_peak read;            /* bytes, over memory well beyond the caches */
    mr_peak int8, f32, bf16; /* operations, a multiply-add being two */
} mr_peaks;

/* ---- the backend itself ---- */

typedef struct mr_backend_opts {
    int threads;            /* 1..1024 */
    mr_isa isa;             /* cpu backend */
    mr_precision precision; /* what weights are packed for and KV is stored as */
} mr_backend_opts;

/* Work on units [first, last); worker: 0 to threads - 1, each at one stretch at a time. */
typedef void (*mr_stretch_fn)(const void *ctx, int64_t first, int64_t last, int worker);

typedef struct mr_backend_vtable {
    const char *name;
    void (*close)(mr_backend *b);

    /* MR_OK, or MR_EUNSUPPORTED naming op, attribute and backend. */
    mr_err (*supports)(const mr_backend *b, const mr_graph *g, const mr_node *n);

    /* Weights.  use: how the graph's consumers read it (one handle serves all of them). */
    mr_err (*weight_bytes)(const mr_backend *b, const mr_graph *g, int value, size_t *bytes);
    mr_err (*weight_load)(mr_backend *b, const mr_graph *g, int value, const mr_recipe *r,
                          mr_reader_fn read, void *ctx, mr_weight **out);
    void (*weight_free)(mr_backend *b, mr_weight *w);

    /* Extra arena bytes a step needs at the plan's caps, and the name of the kernel that will run it. */
    mr_err (*step_plan)(const mr_backend *b, const mr_plan *p,
                        mr_step *s); /* sets scratch_bytes and kernel */

    void *(*arena_alloc)(mr_backend *b, size_t bytes);
    void (*arena_free)(mr_backend *b, void *p);

    /* KV in blocks of 64 absolute positions. */
    mr_err (*kv_new)(mr_backend *b, const mr_cache_desc *caches, int n, int64_t max_len,
                     int64_t max_advance,
                     mr_kv **out); /* allocates no blocks yet; rings hold window + max_advance */
    mr_err (*kv_reserve)(mr_backend *b, mr_kv *kv, int64_t len); /* blocks for positions 0..len-1 */
    size_t (*kv_bytes)(const mr_backend *b, const mr_kv *kv);    /* held now */
    /* What a session of len positions will hold, without making it. */
    size_t (*kv_need)(const mr_backend *b, const mr_cache_desc *caches, int n, int64_t len,
                      int64_t max_advance);
    void (*kv_free)(mr_backend *b, mr_kv *kv);
    /* Recurrent states.  A run that begins at position 0 starts from zeros; else from the open state, which the runs
     * since the last settling have left, or if there were none from the committed one.  It leaves the open state.
     * Settling commits the open state or drops it. */
    void (*kv_settle)(mr_backend *b, mr_kv *kv, bool commit);

    /* For snapshots: rows of committed positions in a form of their own: keys, then values, head by head, elements
     * as they are stored.  A state is one row.  kv_put: the positions are reserved; a state is then committed. */
    size_t (*kv_row_bytes)(const mr_backend *b, const mr_kv *kv, int cache);
    void (*kv_get)(const mr_backend *b, const mr_kv *kv, int cache, int64_t pos, int64_t n,
                   void *rows);
    void (*kv_put)(mr_backend *b, mr_kv *kv, int cache, int64_t pos, int64_t n, const void *rows);

    /* Steps [first, last) of the plan. */
    mr_err (*run)(mr_backend *b, const mr_plan *p, const mr_run *r, int first, int last);
    /* Calls fn over stretches of 0..units-1 on the backend's threads, for work on what came out. */
    void (*split)(mr_backend *b, int64_t units, mr_stretch_fn fn, const void *ctx);
    /* Measured now; takes about a second. */
    mr_err (*peaks)(mr_backend *b, mr_peaks *out);
    /* The address of an output after run (host memory on cpu and ref). */
    const float *(*output)(mr_backend *b, const mr_plan *p, const mr_run *r, int output);
} mr_backend_vtable;

struct mr_backend {
    const mr_backend_vtable *v;
    mr_backend_opts opts;
};

mr_err mr_backend_cpu(mr_backend **out, const mr_backend_opts *o);
mr_err mr_backend_ref(mr_backend **out,
                      const mr_backend_opts *o); /* slow, plain, exact only: defines every op */

#endif
