/* Runs small graphs on the CPU backend: what tests of ops share.
 *
 * Use:    case_graph *t = ...; build t->g by mr_graph_*; case_open(&t, isa, threads, precision,
 * caps) case_bind(&t, "q", data)   for each input but pos case_run(&t, rows, outs)   then
 * case_output(&t, 0)
 */
#ifndef MR_TESTS_BACKEND_PLAN_RUN_H
#define MR_TESTS_BACKEND_PLAN_RUN_H

#include "backend/backend.h"
#include "kernel_check.h"
#include "compile/compile.h"

enum { CASE_INPUTS = 16, CASE_SLOTS = 4 };

typedef struct test_case {
    mr_backend *b;
    mr_plan *plan;
    const void *inputs[CASE_INPUTS];
    mr_weight *weights[CASE_INPUTS];
    mr_kv *kv[CASE_SLOTS];
    int64_t kv_len[CASE_SLOTS];
    void *arena;
} test_case;

/* A test that cannot go on. */
static inline void must(mr_err e, const char *what)
{
    if (e == MR_OK)
        return;
    printf("%s: %s\n", what, mr_error());
    exit(2);
}

static inline void case_open(test_case *t, const mr_graph *g, mr_isa isa, int threads,
                             mr_precision precision, int64_t rows)
{
    mr_backend_opts o = {.threads = threads, .isa = isa, .precision = precision};
    memset(t, 0, sizeof *t);
    must(mr_backend_cpu(&t->b, &o), "open");
    must(mr_plan_compile(&t->plan, g, t->b, "test", rows, rows), "compile");
    /* Every byte the arena has is poisoned, and no more may be touched. */
    t->arena = ck_guard((size_t)t->plan->arena_bytes, 64);
}

static inline void case_close(test_case *t)
{
    for (int i = 0; i < CASE_SLOTS; i++)
        t->b->v->kv_free(t->b, t->kv[i]);
    for (int i = 0; i < CASE_INPUTS; i++)
        t->b->v->weight_free(t->b, t->weights[i]);
    mr_plan_free(t->plan);
    t->b->v->close(t->b);
}

static inline void case_bind(test_case *t, const char *name, const void *data)
{
    for (int i = 0; i < t->plan->n_inputs; i++)
        if (!strcmp(t->plan->inputs[i], name))
            t->inputs[i] = data;
}

static inline mr_err case_run(test_case *t, int64_t rows, int64_t outs, const int32_t *pos,
                              const int32_t *slot)
{
    static const int32_t none[1 << 12];
    mr_run r = {.rows = rows,
                .outs = outs,
                .pos = pos,
                .slot = slot ? slot : none,
                .kv = t->kv,
                .kv_len = t->kv_len,
                .inputs = t->inputs,
                .weights = t->weights,
                .arena = t->arena};
    return t->b->v->run(t->b, t->plan, &r, 0, t->plan->n_steps);
}

static inline const float *case_output(test_case *t, int i)
{
    mr_run r = {.inputs = t->inputs, .arena = t->arena};
    return t->b->v->output(t->b, t->plan, &r, i);
}

static inline mr_dim rows_dim(void)
{
    return (mr_dim){1, MR_SYM_ROWS};
}

static inline mr_dim dim_of(int64_t n)
{
    return (mr_dim){n, MR_SYM_NONE};
}

#endif
