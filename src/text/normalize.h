/* Normalisers: what is done to a text before it is cut.
 *
 * Use:    mr_norm n = {0}; MR_TRY(mr_norm_read(&n, value)); MR_TRY(mr_norm_run(&n, &scan, s, len,
 *         &out, &cut));
 * Owns:   the list owns its patterns and texts (mr_norm_free).
 * Threads: immutable once read.
 * Fails:  MR_EUNSUPPORTED naming an unknown type.
 * Extend: a kind here, a reader and a case in normalize.c.
 */
#ifndef MR_TEXT_NORMALIZE_H
#define MR_TEXT_NORMALIZE_H

#include "base/json.h"
#include "text/charsmap.h"
#include "text/pieces.h"
#include "text/unicode.h"

typedef enum mr_norm_kind {
    MR_NORM_FORM,
    MR_NORM_REPLACE,
    MR_NORM_PREPEND,
    MR_NORM_STRIP,
    MR_NORM_LOWER,
    MR_NORM_BYTES,
    MR_NORM_MAP
} mr_norm_kind;

typedef struct mr_norm_step {
    mr_norm_kind kind;
    mr_form form;
    mr_pattern pattern;
    char *content; /* of Replace and Prepend */
    size_t content_len;
    bool left, right; /* of Strip */
    mr_charsmap *map; /* of MAP, owned */
} mr_norm_step;

typedef struct mr_norm {
    mr_norm_step *v;
    size_t n, cap;
} mr_norm;

/* Appends the steps of a section; absent or null adds none. */
mr_err mr_norm_read(mr_norm *n, mr_jval section);
/* Appends Prepend / Replace of literals (for vocabularies without tokenizer.json). */
mr_err mr_norm_prepend(mr_norm *n, const char *text);
mr_err mr_norm_replace(mr_norm *n, const char *from, const char *to);
/* Appends a map, which the list then owns, also where this fails. */
mr_err mr_norm_map(mr_norm *n, mr_charsmap *map);
void mr_norm_free(mr_norm *n);

/* Clears *out and fills it.  *cut: the text no longer starts with (a form of) its first character.
 */
mr_err mr_norm_run(const mr_norm *n, mr_scan *sc, const char *s, size_t len, mr_buf *out,
                   bool *cut);

/* Appends s with each match replaced (the decoder's Replace is the same). */
mr_err mr_replace(const mr_pattern *p, mr_scan *sc, mr_runs *runs, const char *s, size_t len,
                  const char *content, size_t content_len, mr_buf *out);

#endif
