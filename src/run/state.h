/* A saved session: its head, as it stands in a file.
 *
 * Why:    the head alone says how long the rest must be, so a file is refused before anything is
 *         allocated or changed for it; it can be read, and fuzzed, without an engine.
 * Layout: little-endian: the head, the tokens (i32), per cache of the graph the rows of positions
 *         [first, length), first = 0 or, in a sliding layer, the window before `floor`; a recurrent
 *         state is one row; at last the CRC-32 of all before.  A row holds a position's keys, then its
 *         values, head by head.
 */
#ifndef MR_RUN_STATE_H
#define MR_RUN_STATE_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

enum { MR_STATE_VERSION = 1, MR_STATE_HEAD = 88, MR_STATE_CRC = 4 };

typedef struct mr_state_head {
    uint32_t version;
    uint32_t precision, element; /* mr_precision; bytes of a KV element */
    uint32_t caches;
    uint64_t graph, weights; /* fingerprints */
    uint64_t vocab, block;   /* diffusion's block length, else 0 */
    uint64_t length, floor;  /* committed positions; the first that can be gone on from */
    uint64_t plain;          /* rows below it are what their ids say */
    uint64_t bytes;          /* of the whole file */
} mr_state_head;

void mr_state_head_write(const mr_state_head *h, uint8_t out[MR_STATE_HEAD]);
/* `size`: of the whole. Checks what can be checked without an engine. */
mr_err mr_state_head_read(mr_state_head *h, const char *file, const uint8_t *in, uint64_t size);

#endif
