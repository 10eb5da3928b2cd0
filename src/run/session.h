/* A session: one timeline of tokens and its KV cache.
 *
 * States: length committed positions; open rows [length, length + open) that an advance wrote and
 *         commit has not yet settled.
 * Rules:  1. advance rolls open rows back first: advance, roll back, advance equals advance.
 *         2. Rows of a run never exceed a plan's row cap; wanted rows never its out cap.
 *         3. A ring (sliding layers) keeps the window plus the largest piece behind the furthest
 *            position written, so what lies below `floor` cannot be gone on from; position 0 always
 *            can, since nothing lies before it.
 *         4. Once blocks are reserved, advancing allocates nothing.
 *         5. A recurrent state cannot go back: what is cut off is run again, from the committed state or
 *            from the start.  The form is row by row, so the bits are the same.
 *         6. A refused call changes nothing; after a failed one the committed rows still stand.
 */
#ifndef MR_RUN_SESSION_H
#define MR_RUN_SESSION_H

#include "run/engine.h"

struct mr_session {
    mr_engine *engine;
    mr_kv *kv;
    int64_t length, open, floor, written;
    int64_t plain; /* rows below it are what their ids say: fed without embeds and spans */
    int32_t *ids;  /* [context]: committed and open */
    bool sliding, recurrent;
    uint64_t kv_bytes;
};

/* KV for positions below len; memory for a run's activations; rows below `end` are about to be written, whether
 * or not they are ever committed (advance.c). */
mr_err mr_session_reserve(mr_session *s, int64_t len);
mr_err mr_activations_reserve(mr_engine *e);
void mr_session_written(mr_session *s, int64_t end);
/* Cuts the session to `length` committed rows; a recurrent state keeps what it had committed. */
void mr_session_settle(mr_session *s, int64_t length);
/* Runs rows [from, to) of the session's own ids again, without logits: leaves a recurrent state after them open. */
mr_err mr_session_replay(mr_session *s, int64_t from, int64_t to);
/* MR_ELIMIT where a ring has let go of what position `length` needs. */
mr_err mr_session_check_floor(const mr_session *s, int64_t length);
/* Positions a session can hold: the context, for diffusion rounded up to whole blocks. */
int64_t mr_session_capacity(const mr_engine *e);
/* Rolls back and keeps the longest committed prefix equal to ids[0..n): what is left to feed begins
 * at ids + length, and is at least one id where a model goes id by id. */
void mr_session_sync(mr_session *s, const int32_t *ids, int64_t n);

/* Weight bytes that a run of `rows` rows with `outs` wanted rows reads, and its multiply-adds
 * (run/count.c). */
typedef struct mr_work {
    uint64_t bytes, macs;
} mr_work;
mr_work mr_step_work(const mr_engine *e, const mr_plan *p, const mr_step *s, int64_t rows,
                     int64_t outs, int64_t chosen); /* attention's: none */
mr_work mr_work_of(const mr_engine *e, const mr_plan *p, int64_t rows, int64_t outs);
/* Adds a run to the profile. */
void mr_profile_add(const mr_engine *e, mr_lane *l, const mr_run *r, const int32_t *out_rows);

#endif
