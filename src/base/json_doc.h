/* The inside of a JSON document: shared by json.c (parser), json_text.c (strings), json_value.c.
 *
 * Why:    a node says where in the text a value stands; all else is read from the text, which the
 *         parser has checked once.
 * Rules:  1. Nodes are in the order of the text, so a container's first child is the next node and
 *            its subtree ends where `after` says.
 *         2. Offsets fit 32 bits because a text of 4 GiB is refused; node numbers fit 31 because
 *            each node but the last takes two characters.
 *         3. Functions given an offset of a string trust that the parser has accepted it.
 */
#ifndef MR_BASE_JSON_DOC_H
#define MR_BASE_JSON_DOC_H

#include "base/json.h"

typedef struct mr_json_node {
    uint32_t start;        /* offset of the first character */
    uint32_t key;          /* offset of the key's opening quote; 0: not a member */
    uint32_t after : 31;   /* the node after this subtree */
    uint32_t last : 1;     /* no sibling follows */
    uint32_t end_or_count; /* scalars: offset past the end; containers: children */
} mr_json_node;
_Static_assert(sizeof(mr_json_node) == 16, "what the header promises");

struct mr_json {
    const char *text;
    size_t len;
    mr_json_node *nodes;
    uint32_t count;
    char file[];
};

/* Offset past the closing quote of the string whose opening quote is at `at`. */
uint32_t mr_json_string_end(const char *text, uint32_t at);
/* One decoded character (or one byte of it) from *p on, into out; 0 at the closing quote. */
int mr_json_unescape(const char **p, char out[4]);
/* The string at `at` decodes to the `len` bytes of z. */
bool mr_json_string_is(const char *text, uint32_t at, const char *z, size_t len);
/* Both decode to the same bytes. */
bool mr_json_string_same(const char *text, uint32_t a, uint32_t b);
/* A member of `object` (of `count` members) whose key occurred before: its node in *twice, else 0.
 * Time is linear in the keys' text for any keys: they cannot be chosen to collide. */
mr_err mr_json_find_twice(const char *text, const mr_json_node *nodes, uint32_t object,
                          uint32_t count, uint32_t *twice);

#endif
