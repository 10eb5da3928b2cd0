/* What generation gives out: ids, and text with stop strings cut.
 *
 * Why:    both kinds of generation (one by one, block by block) hand their ids to one place that
 *         calls the caller back, detokenises whole characters and watches for stop strings.
 * Rules:  1. An end id is given as an id and never as text.
 *         2. Text that may yet become a stop string is held back; a stop string, and what its last
 *            token says beyond it, is never given out.
 *         3. A callback that asks to stop still gets the other half of the same id: text and ids
 *            agree after a cancellation.
 */
#ifndef MR_RUN_EMIT_H
#define MR_RUN_EMIT_H

#include "run/engine.h"

typedef struct mr_emit {
    mr_engine *engine;
    const mr_generate_opts *o;
    mr_detok *detok; /* NULL: no text wanted */
    mr_buf fresh, held;
    int64_t given; /* ids */
    bool stopped;  /* an end id or a stop string */
    bool cut;      /* a stop string: no more text */
    bool asked;    /* a callback asked to stop */
} mr_emit;

mr_err mr_emit_open(mr_emit *m, mr_engine *e, const mr_generate_opts *o);
mr_err mr_emit_ids(mr_emit *m, const int32_t *ids,
                   int64_t n);     /* stops inside at an end id or stop string */
mr_err mr_emit_finish(mr_emit *m); /* gives what was held back */
mr_err mr_emit_cancelled(void);    /* the error for it */
void mr_emit_close(mr_emit *m);
bool mr_is_eos(const mr_engine *e, int32_t id);

#endif
