/* The backends that the op suite runs on.  To add one: a line in the list. */
#ifndef MR_TESTS_OP_BACKENDS_H
#define MR_TESTS_OP_BACKENDS_H

#include "compile/harness.h"

typedef struct backend_row {
    const char *name;
    mr_err (*open)(mr_backend **out, const mr_backend_opts *o);
    mr_backend_opts opts;
    int tolerance; /* column of a case's `tol`: 0 sums in double, 1 in float */
} backend_row;

static const backend_row backend_rows[] = {
    {"ref", mr_backend_ref, {1, MR_ISA_C, MR_EXACT}, 0},
    {"cpu c", mr_backend_cpu, {1, MR_ISA_C, MR_EXACT}, 1},
    {"cpu c 3 threads", mr_backend_cpu, {3, MR_ISA_C, MR_EXACT}, 1},
    {"cpu avx2", mr_backend_cpu, {2, MR_ISA_AVX2, MR_EXACT}, 1},
    {"cpu avx512", mr_backend_cpu, {1, MR_ISA_AVX512, MR_EXACT}, 1},
    {"cpu amx", mr_backend_cpu, {2, MR_ISA_AMX, MR_EXACT}, 1},
    {"cpu neon", mr_backend_cpu, {2, MR_ISA_NEON, MR_EXACT}, 1},
};
enum { BACKENDS = sizeof backend_rows / sizeof *backend_rows };

/* NULL where this machine cannot run it. */
static inline mr_backend *open_row(const backend_row *r)
{
    mr_backend *b = NULL;
    if (!mr_isa_have(r->opts.isa))
        return NULL;
    OK(r->open(&b, &r->opts));
    return b;
}

#endif
