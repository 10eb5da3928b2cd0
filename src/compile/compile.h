/* The compiler: graph -> passes -> plan.
 *
 * Use:    mr_graph *fused; MR_TRY(mr_passes_run(g, backend, &opts, &fused, &report));
 *         mr_plan *p; MR_TRY(mr_plan_compile(&p, fused, backend, "decode", row_cap, out_cap));
 * Owns:   a plan borrows its graph, which must outlive it; mr_plan_free frees the plan only.
 * Fails:  an op that the backend does not support: MR_EUNSUPPORTED with op, attribute, backend.
 * Rules:  1. A pass is graph -> graph with the same meaning; mr_graph_verify runs after each.
 *         2. A pass fires only where backend->supports says yes to what it would make.
 *         3. Each pass can be left out by name; on cpu the bytes of the result stay the same.
 *         4. Fusion lives here and nowhere else.
 *         5. A graph that comes with fused ops which the backend lacks (an edited one, on ref) is
 *            expanded before the first pass, and the report says so; mr_plan_compile refuses it.
 */
#ifndef MR_COMPILE_COMPILE_H
#define MR_COMPILE_COMPILE_H

#include "backend/backend.h"

enum { MR_MAX_PASSES = 32 };

/* passes, in order: see the table in compile.c */
typedef struct mr_pass {
    const char *name, *what;
    mr_err (*run)(const mr_graph *in, mr_backend *b, mr_buf *report, int *changes, mr_graph **out);
} mr_pass;
extern const mr_pass *const mr_passes[]; /* NULL-terminated */

typedef struct mr_pass_opts {
    const char *off[MR_MAX_PASSES]; /* names of passes to leave out */
    int n_off;
    bool verify; /* after each pass (always on the final graph) */
} mr_pass_opts;

/* MR_EUSAGE naming an unknown pass and listing the known ones. */
mr_err mr_passes_check(const mr_pass_opts *o);
/* report may be NULL; gets one line per thing done and nearly done ("qkv: layer 3: formats differ
 * (q4_1, q6_k)"). */
mr_err mr_passes_run(const mr_graph *g, mr_backend *b, const mr_pass_opts *o, mr_graph **out,
                     mr_buf *report);

mr_err mr_plan_compile(mr_plan **out, const mr_graph *g, mr_backend *b, const char *name,
                       int64_t row_cap, int64_t out_cap);
void mr_plan_free(mr_plan *p);

/* What will run: steps in order with kernel, operands and offsets; dot; svg (memory over steps as a
 * picture); json. */
mr_err mr_plan_print(const mr_plan *p, mr_buf *out);
mr_err mr_plan_dot(const mr_plan *p, mr_buf *out);
mr_err mr_plan_svg(const mr_plan *p, mr_buf *out);
mr_err mr_plan_json(const mr_plan *p, mr_buf *out);
/* The dispatch report: a line per kind of step with count, kernel and ISA. */
mr_err mr_plan_report(const mr_plan *p, mr_buf *out);

#endif
