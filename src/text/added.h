/* Added tokens: texts that are found whole before anything else looks at the input.
 *
 * Why:    <bos>, <|im_start|> and their like are tokens wherever they stand; some are found in
 *         the raw text, some (`normalized`) only in the normalised one.
 * Use:    mr_added_add(&a, &token); ... mr_added_seal(&a, file); mr_added_find(&a, MR_ADDED_RAW,
 *         s, len, &spans);
 * Owns:   the set owns the patterns' bytes.
 * Threads: immutable once sealed.
 * Fails:  MR_EFORMAT for two tokens with one pattern.
 * Rules:  1. Leftmost match, then the longest; then single_word, lstrip and rstrip, in the
 *            package's order.
 *         2. A pattern is at most MR_ADDED_MAX bytes, which bounds the search.
 */
#ifndef MR_TEXT_ADDED_H
#define MR_TEXT_ADDED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/str.h"

enum { MR_ADDED_MAX = 1024 };
typedef enum mr_added_when { MR_ADDED_RAW, MR_ADDED_NORMALIZED } mr_added_when;

typedef struct mr_added_token {
    int32_t id;
    bool single_word, lstrip, rstrip, special;
    mr_added_when when;
    bool changed; /* the normaliser changes the text: decoding gives the pattern, as the package
                     does */
    uint32_t off, len; /* the pattern, in the set's pool */
} mr_added_token;

typedef struct mr_added {
    mr_added_token *v;
    size_t n, cap;
    mr_buf pool;
    uint32_t *sorted[2]; /* indices by pattern, for raw and for normalised text */
    size_t n_sorted[2];
    uint32_t first[2][257]; /* start in sorted of the patterns with this first byte */
} mr_added;

void mr_added_free(mr_added *a);
/* Takes the flags from `token`, copies the pattern. */
mr_err mr_added_add(mr_added *a, mr_added_token token, const char *pattern, size_t len);
mr_err mr_added_seal(mr_added *a, const char *file);

/* The longest pattern that the text starts with, or NULL. */
const mr_added_token *mr_added_longest(const mr_added *a, mr_added_when when, const char *s,
                                       size_t len);

/* The text cut at tokens.  Spans follow the text's order; after rstrip they may overlap. */
typedef struct mr_span {
    size_t start, end;
    int32_t id; /* -1: text */
} mr_span;
typedef struct mr_spans {
    mr_span *v;
    size_t n, cap;
} mr_spans;
void mr_spans_free(mr_spans *s);
/* plain: special tokens are text; none is looked for inside them. */
mr_err mr_added_find(const mr_added *a, mr_added_when when, bool plain, const char *s, size_t len,
                     mr_spans *out);

#endif
