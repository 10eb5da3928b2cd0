/* A map from names to numbers.
 *
 * Why:    value names must be unique and text is parsed by name; both need a lookup that stays
 *         fast on hostile input.
 * Use:    mr_names m; mr_names_init(&m, arena);
 *         MR_TRY(mr_names_put(&m, "x", 3)); mr_names_find(&m, "x", 1)->value is 3
 * Owns:   nothing; the table and the caller's keys live in an arena.
 * Threads: belongs to one thread while it grows.
 * Fails:  MR_ENOMEM.
 */
#ifndef MR_IR_NAMES_H
#define MR_IR_NAMES_H

#include "base/err.h"
#include "base/mem.h"

typedef struct mr_name_slot {
    const char *key; /* NULL: free */
    int value, next; /* next: the suffix to try when the name is asked for again */
} mr_name_slot;

typedef struct mr_names {
    mr_arena *arena;
    mr_name_slot *slot;
    size_t cap, used;
    uint64_t seed;
} mr_names;

void mr_names_init(mr_names *m, mr_arena *arena);
/* The slot of a name, or NULL; valid until the next put. */
mr_name_slot *mr_names_find(const mr_names *m, const char *key, size_t len);
/* Sets the number of a name; key must live as long as the arena. */
mr_err mr_names_put(mr_names *m, const char *key, int value);

#endif
