/* What one call of mr_generate holds; shared by the two kinds of generation. */
#ifndef MR_RUN_GENERATE_H
#define MR_RUN_GENERATE_H

#include "run/decoder.h"
#include "run/emit.h"
#include "run/sample.h"
#include "run/session.h"

typedef struct mr_task_state {
    mr_session *s;
    const mr_generate_opts *o;
    mr_sampler *sampler; /* one by one; a decoder has its own */
    mr_emit emit;
    int32_t *ids;  /* prompt and what follows; room for the session's capacity */
    float *logits; /* [1, block_length or canvas, vocab] */
    int64_t prompt, max_new, steps;
    double prefill_s, decode_s;
} mr_task_state;

/* Commits ids[0..end), less what the session holds of it; logits: of the last one. */
mr_err mr_prompt_feed(mr_task_state *t, int64_t end, bool logits);
mr_err mr_diffusion_run(mr_task_state *t);
mr_err mr_canvas_run(mr_task_state *t);
double mr_seconds(void);

#endif
