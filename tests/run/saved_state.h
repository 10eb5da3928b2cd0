/* Sessions fed and their states taken, as a test sees them: every failure ends it. */
#ifndef MR_TESTS_SAVED_STATE_H
#define MR_TESTS_SAVED_STATE_H

#include "run/session.h"
#include "run/state.h"
#include "run_test.h"

typedef struct saved {
    uint8_t *data;
    uint64_t bytes;
} saved;

/* The caller frees data. */
static inline saved take_state(const mr_session *s)
{
    saved k;
    assert_ok(mr_state_bytes(s, &k.bytes));
    k.data = malloc(k.bytes);
    assert_ok(mr_state_write(s, k.data, k.bytes));
    return k;
}

static inline void feed(mr_session *s, const int32_t *ids, int64_t n)
{
    assert_ok(mr_advance(s, ids, n, MR_WANT_NONE, NULL, 0, NULL));
    assert_ok(mr_commit(s, n));
}

#endif
