/* Inside the CPU backend: what its files share.
 *
 * Why:     step_plan decodes a step's attributes once into an mr_cpu_step; run then only follows
 *          pointers. No strings, no look-ups and no allocation while a plan runs. Files:
 *          cpu_backend.c vtable, weights cpu_plan.c support, attributes -> mr_cpu_step, scratch
 *          cpu_rows.c row ops cpu_moe.c products, routing cpu_rope.c frequencies, tables, rotation,
 *          appending cpu_attention.c attention
 * Threads: a step splits its rows, heads or outputs over the pool; never a sum.
 */
#ifndef MR_BACKEND_CPU_CPU_BACKEND_H
#define MR_BACKEND_CPU_CPU_BACKEND_H

#include "backend/cpu/attention.h"
#include "backend/cpu/cpu_kv.h"
#include "backend/cpu/matmul.h"
#include "backend/cpu/vec.h"

typedef struct mr_cpu {
    mr_backend base; /* first: an mr_backend * is an mr_cpu * */
    mr_pool *pool;
    int threads;
    const mr_vec_kernels *vec;
    const mr_attention_kernels *attention;
} mr_cpu;

/* One handle per weight: a packed matrix (rank 2, 3) or plain floats (rank 1). */
struct mr_weight {
    mr_matrix *matrix;
    float *vector;
};

typedef struct mr_cpu_call mr_cpu_call;
typedef mr_err (*mr_cpu_fn)(const mr_cpu_call *c);

typedef enum mr_mask {
    MR_MASK_CAUSAL,
    MR_MASK_WINDOW,
    MR_MASK_BLOCK,
    MR_MASK_FULL,
    MR_MASK_CANVAS
} mr_mask;

/* A step's attributes, decoded. */
typedef struct mr_cpu_step {
    mr_cpu_fn run;
    mr_op op, fn;      /* fn: activation of gated_linear and moe */
    mr_mm mm;          /* products */
    float p;           /* scale: by, softcap: cap, embed: scale */
    float eps, offset; /* norms */
    struct {
        int64_t start;
        bool interleaved;
    } rope;
    struct {
        float mscale;
        int64_t half;
        const float *freq; /* [half] */
    } table;
    struct {
        int32_t to, id[3];
    } alias;
    struct {
        mr_mask mask;
        int64_t width; /* of the window or the block */
        int image;     /* attribute span */
        int dv;
        bool dots; /* of pairs of bf16 */
        float scale, softcap;
    } att;
    struct {
        int64_t k, groups, keep, block, capacity;
        bool sigmoid, norm, group_two;
        float eps, scale;
    } route;
} mr_cpu_step;

/* A step being run. */
struct mr_cpu_call {
    const mr_cpu *cpu;
    const mr_plan *plan;
    const mr_run *run;
    const mr_step *step;
    const mr_cpu_step *prep;
    char *scratch;
};

/* A float operand as rows x heads x dim. */
typedef struct mr_view {
    float *p;
    int64_t rows, heads, dim;
    int64_t row, head; /* strides in floats */
} mr_view;

mr_view mr_cpu_view(const mr_cpu_call *c, const mr_operand_ref *r);
static inline mr_view mr_cpu_in(const mr_cpu_call *c, int i)
{
    return mr_cpu_view(c, &c->step->in[i]);
}
static inline mr_view mr_cpu_out(const mr_cpu_call *c, int i)
{
    return mr_cpu_view(c, &c->step->out[i]);
}
const int32_t *mr_cpu_ints(const mr_cpu_call *c, int i);
/* Whether operand i, an input that may be NULL, is there. */
bool mr_cpu_given(const mr_cpu_call *c, int i);
/* Of operand i: its floats (a vector weight), its matrix; NULL if it is absent. */
const float *mr_cpu_vector(const mr_cpu_call *c, int i);
const mr_matrix *mr_cpu_matrix(const mr_cpu_call *c, int i);

/* Calls fn(ctx, first, last, worker) over stretches of 0..units-1: on this thread alone if the
 * whole is little work (`cost`: float operations per unit, roughly). */
void mr_cpu_split(const mr_cpu *cpu, int64_t units, int64_t cost, mr_stretch_fn fn,
                  const void *ctx);

/* Tells the pool what the product behind this step (an mr_cpu_call) begins with. */
void mr_cpu_tell_next(const void *call);

/* cpu_plan.c */
mr_err mr_cpu_supports(const mr_backend *b, const mr_graph *g, const mr_node *n);
mr_err mr_cpu_step_plan(const mr_backend *b, const mr_plan *p, mr_step *s);
mr_cpu_fn mr_cpu_runner(mr_op op); /* NULL: not an op that runs */

/* cpu_rows.c */
mr_err mr_run_alias(const mr_cpu_call *c);
mr_err mr_run_embed(const mr_cpu_call *c);
mr_err mr_run_mix(const mr_cpu_call *c);
mr_err mr_run_gather(const mr_cpu_call *c);
mr_err mr_run_pairwise(const mr_cpu_call *c);
mr_err mr_run_map(const mr_cpu_call *c);
mr_err mr_run_rmsnorm(const mr_cpu_call *c);
mr_err mr_run_add_rmsnorm(const mr_cpu_call *c);
mr_err mr_run_concat(const mr_cpu_call *c);

/* cpu_recurrent.c */
mr_err mr_run_conv1d(const mr_cpu_call *c);
mr_err mr_run_decay(const mr_cpu_call *c);
mr_err mr_run_delta_rule(const mr_cpu_call *c);
size_t mr_recurrent_scratch(int64_t rows); /* conv1d, delta_rule */

/* cpu_moe.c */
mr_err mr_run_linear(const mr_cpu_call *c);
mr_err mr_run_gated_linear(const mr_cpu_call *c);
mr_err mr_run_linear_heads(const mr_cpu_call *c);
mr_err mr_run_expert_linear(const mr_cpu_call *c);
mr_err mr_run_moe(const mr_cpu_call *c);
mr_err mr_run_route(const mr_cpu_call *c);
mr_err mr_run_combine(const mr_cpu_call *c);
size_t mr_route_scratch(int64_t experts); /* per thread */
size_t mr_mix_scratch(int threads, int64_t rows, int64_t width);

/* cpu_rope.c */
void mr_rope_frequencies(const mr_node *n, float *freq); /* of a rope_table node: [half] */
mr_err mr_run_rope_table(const mr_cpu_call *c);
mr_err mr_run_rope(const mr_cpu_call *c);
mr_err mr_run_append(const mr_cpu_call *c); /* and rope_append */
size_t mr_append_scratch(int64_t dk);       /* per thread, rope_append */

/* cpu_attention.c */
mr_err mr_run_attention(const mr_cpu_call *c);
size_t mr_attention_scratch(int threads, int64_t rows, int group, int dk, int dv);

#endif
