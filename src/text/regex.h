/* Regular expressions of tokenizer files: Oniguruma's syntax, matched by PCRE2.
 *
 * Why:    the package's patterns are written for Oniguruma (or Rust's fancy-regex); both classes
 *         (\s, \w, \h, scripts) and syntax (&&, nested sets, (?m)) differ from PCRE2's, so a
 *         pattern is rewritten first.
 * Use:    mr_regex *re; MR_TRY(mr_regex_new(&re, "tokenizer.json: ...Regex", pattern, len));
 *         mr_scan sc = {0}; MR_TRY(mr_regex_find(re, &sc, s, n, from, &a, &b, &found)); ...
 *         mr_scan_free(&sc);
 * Owns:   a regex is owned by whoever made it.
 * Threads: a regex is immutable; an mr_scan (match scratch) belongs to one call at a time.
 * Fails:  MR_EUNSUPPORTED for syntax that means something else in PCRE2 and is not rewritten;
 *         MR_EFORMAT for a pattern PCRE2 refuses; MR_ELIMIT when a match takes more steps than
 *         the limit, or all searches of a scan more than two seconds and three microseconds a byte.
 */
#ifndef MR_TEXT_REGEX_H
#define MR_TEXT_REGEX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/str.h"

typedef struct mr_regex mr_regex;

typedef struct mr_scan {
    void *data, *context; /* made on first use */
    size_t bytes;         /* of all the text to be searched, if known */
    uint64_t until;       /* when searching has taken too long; 0: from the next search */
    unsigned calls;
} mr_scan;
void mr_scan_free(mr_scan *sc);

/* `what` names the place for messages. */
mr_err mr_regex_new(mr_regex **out, const char *what, const char *pattern, size_t len);
void mr_regex_free(mr_regex *re);            /* NULL is fine */
mr_str mr_regex_pattern(const mr_regex *re); /* as it was given */

/* The leftmost match at or after `from` (a character boundary) in valid UTF-8 text. */
mr_err mr_regex_find(const mr_regex *re, mr_scan *sc, const char *s, size_t len, size_t from,
                     size_t *start, size_t *end, bool *found);

/* Appends PCRE2's form of an Oniguruma pattern (regex_syntax.c; here for tests). */
mr_err mr_regex_rewrite(const char *what, const char *pattern, size_t len, mr_buf *out);

#endif
