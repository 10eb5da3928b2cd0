/* Pre-tokenisers: where a text is cut into words.
 *
 * Use:    mr_pretok p = {0}; MR_TRY(mr_pretok_read(&p, value)); MR_TRY(mr_pretok_run(&p, &scan,
 *         &pieces));
 * Owns:   the list owns its patterns (mr_pretok_free).
 * Threads: immutable once read.
 * Fails:  MR_EUNSUPPORTED naming an unknown type; MR_ELIMIT when a pattern takes too many steps.
 * Extend: most types are a few of the primitive steps below; add a reader in pretok.c.
 */
#ifndef MR_TEXT_PRETOK_H
#define MR_TEXT_PRETOK_H

#include "base/json.h"
#include "text/pieces.h"

typedef enum mr_pretok_kind {
    MR_PRE_SPLIT,  /* at matches of a pattern */
    MR_PRE_CLASS,  /* at characters of a class */
    MR_PRE_WORDS,  /* into runs of \w and runs of neither \w nor white space */
    MR_PRE_PREFIX, /* a space before each piece that does not start with one */
    MR_PRE_META,   /* spaces become a mark, which may be put in front */
    MR_PRE_BYTES   /* bytes become characters (byte_level.h) */
} mr_pretok_kind;

typedef enum mr_behavior {
    MR_REMOVED,
    MR_ISOLATED,
    MR_MERGED_PREVIOUS,
    MR_MERGED_NEXT,
    MR_CONTIGUOUS
} mr_behavior;

typedef enum mr_prepend { MR_PREPEND_NEVER, MR_PREPEND_FIRST, MR_PREPEND_ALWAYS } mr_prepend;

typedef struct mr_pretok_step {
    mr_pretok_kind kind;
    mr_behavior behavior;
    bool invert;
    mr_pattern pattern;         /* SPLIT; of META the mark (literal) */
    bool (*in_class)(uint32_t); /* CLASS */
    mr_prepend prepend;         /* META */
} mr_pretok_step;

typedef struct mr_pretok {
    mr_pretok_step *v;
    size_t n, cap;
} mr_pretok;

/* Appends the steps of a section; absent or null adds none. */
mr_err mr_pretok_read(mr_pretok *p, mr_jval section);
/* Appends an isolating split at a regular expression, at runs of punctuation, and the byte step. */
mr_err mr_pretok_regex(mr_pretok *p, const char *what, const char *regex);
mr_err mr_pretok_punct(mr_pretok *p);
mr_err mr_pretok_bytes(mr_pretok *p);
void mr_pretok_free(mr_pretok *p);

/* Cuts every piece further, in place. */
mr_err mr_pretok_run(const mr_pretok *p, mr_scan *sc, mr_pieces *pieces);

#endif
