/* A text in pieces: what the pre-tokeniser cuts and the model then reads, piece by piece.
 *
 * Use:    mr_pieces p = {0}; mr_buf_add(&p.text, ...); MR_TRY(mr_pieces_push(&p, off, len,
 *         first)); ...
 * Owns:   the list owns its text; pieces are offsets into it.
 * Fails:  by memory only. A text is below 1 GiB (mr_tokenize checks), so offsets are 32-bit.
 */
#ifndef MR_TEXT_PIECES_H
#define MR_TEXT_PIECES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/str.h"
#include "text/regex.h"

typedef struct mr_piece {
    uint32_t off;
    uint32_t len : 31;
    uint32_t first : 1; /* starts where the whole input starts (Metaspace asks) */
} mr_piece;

typedef struct mr_pieces {
    mr_buf text;
    mr_piece *v;
    size_t n, cap;
} mr_pieces;

void mr_pieces_clear(mr_pieces *p);
void mr_pieces_free(mr_pieces *p);
/* Empty pieces are dropped, as the package does. */
mr_err mr_pieces_push(mr_pieces *p, size_t off, size_t len, bool first);

/* A pattern of Split and Replace: a literal text or a regular expression. */
typedef struct mr_pattern {
    char *literal;
    size_t len;
    mr_regex *regex; /* NULL: the literal */
} mr_pattern;
void mr_pattern_free(mr_pattern *p);

/* The text covered by runs that match and runs between them. */
typedef struct mr_run {
    uint32_t start, end;
    bool match;
} mr_run;
typedef struct mr_runs {
    mr_run *v;
    size_t n, cap;
} mr_runs;
void mr_runs_free(mr_runs *r);
mr_err mr_runs_push(mr_runs *r, size_t start, size_t end, bool match);
/* Clears *out and fills it; runs cover the text in order; a match may be empty. */
mr_err mr_pattern_runs(const mr_pattern *p, mr_scan *sc, const char *s, size_t len, mr_runs *out);

/* Grows an array of `cap` items of `size` bytes to hold `need`; shared by the lists of this folder.
 */
mr_err mr_grow(void **v, size_t *cap, size_t need, size_t size);

#endif
