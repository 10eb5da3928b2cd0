/* The texts of all tokens, by id and by text.
 *
 * Why:    a vocabulary has up to some 300,000 tokens: one pool of bytes, eight bytes per id and
 *         an open-addressing hash of ids keep it at a few megabytes.
 * Use:    mr_table_init(&t, n_ids, bytes); mr_table_put(&t, id, text, len); mr_table_index(&t,
 *         id); id = mr_table_find(&t, text, len);
 * Owns:   the table owns its arrays (account MR_MEM_TOKENIZER); texts are copied.
 * Threads: immutable once filled.
 * Rules:  1. The model finds its own tokens only: added ones are hidden from mr_table_find.
 *         2. Room for ids and bytes is given at init; put asserts it.
 */
#ifndef MR_TEXT_TOKEN_TABLE_H
#define MR_TEXT_TOKEN_TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/str.h"

/* Ids above this are refused: no model has 16 million rows. */
enum { MR_TOKEN_ID_MAX = (1 << 24) - 1 };

typedef struct mr_token_text {
    uint32_t off; /* UINT32_MAX: no token has this id */
    uint32_t len : 31;
    uint32_t hidden : 1;
} mr_token_text;

typedef struct mr_table {
    char *pool;
    size_t pool_len, pool_cap;
    mr_token_text *text;
    int32_t n;     /* largest id + 1 */
    int32_t *slot; /* id or -1 */
    uint32_t mask;
} mr_table;

mr_err mr_table_init(mr_table *t, size_t ids, size_t indexed, size_t bytes);
void mr_table_free(mr_table *t);
bool mr_table_has(const mr_table *t, int32_t id);
mr_str mr_table_text(const mr_table *t, int32_t id); /* empty if none */
void mr_table_put(mr_table *t, int32_t id, const char *text, size_t len);
/* Makes the id findable by its text.  false: another id has this text (then it keeps it, or with
 * `replace` loses it). */
bool mr_table_index(mr_table *t, int32_t id, bool replace);
void mr_table_hide(mr_table *t, int32_t id);
int32_t mr_table_find(const mr_table *t, const char *text, size_t len);     /* -1: none */
int32_t mr_table_find_any(const mr_table *t, const char *text, size_t len); /* hidden ones too */

uint64_t mr_text_hash(const char *s, size_t len);

#endif
