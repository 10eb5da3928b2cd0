/* Fuzz target: any bytes as the head of a saved state.
 *
 * What must hold beside not crashing: an error has one line; an accepted head says the size it was
 * given and writes back as it was read.  The rest of a state is raw rows behind a checksum, which
 * tests/run/test_state.c damages byte by byte and test_state_walk.c with a checksum that is right.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "run/state_head.c" /* the parsers' library has no run/, which needs kernels */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define REQUIRE(condition)                                                                         \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "fuzz_state: line %d: %s (%s)\n", __LINE__, #condition, mr_error());   \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    mr_state_head h;
    uint8_t back[MR_STATE_HEAD];
    mr_err e = mr_state_head_read(&h, "fuzz", data, size);
    if (e != MR_OK) {
        REQUIRE(e == MR_EFORMAT || e == MR_EUNSUPPORTED);
        REQUIRE(mr_error()[0] && !strchr(mr_error(), '\n'));
        return 0;
    }
    REQUIRE(h.bytes == size && h.floor <= h.length && h.length <= INT32_MAX);
    mr_state_head_write(&h, back);
    REQUIRE(memcmp(back, data, sizeof back) == 0);
    return 0;
}
