/* SentencePiece's normaliser: a map of characters (nmt_nfkc and its like), and white space.
 *
 * Why:    SentencePiece models carry it as a compiled trie; tokenizer.json takes the trie along as
 *         "Precompiled", where it is applied grapheme by grapheme instead.
 * Use:    mr_charsmap m = {0}; MR_TRY(mr_charsmap_read(&m, file, blob, len)); m.prefix = ...;
 *         mr_charsmap_run(&m, s, len, &out);
 * Owns:   the map owns a copy of the trie, of its texts and of the protected texts.
 * Threads: immutable once read and sealed.
 * Fails:  MR_EFORMAT for a map that ends early; a look-up never leaves the trie, whatever it holds.
 */
#ifndef MR_TEXT_CHARSMAP_H
#define MR_TEXT_CHARSMAP_H

#include "text/added.h"

typedef struct mr_charsmap {
    uint32_t *unit; /* a double-array trie; NULL: every character stands for itself */
    size_t n_units;
    char *text; /* the results, each ended by NUL */
    size_t text_len;
    mr_added kept; /* texts that stand for themselves (user-defined symbols) */
    bool graphemes, prefix, suffix, trim, mark;
    /* graphemes: as tokenizer.json applies it, nothing else is done.
     * prefix, suffix: a space in front, or behind; trim: runs of spaces become one, none at the
     * ends; mark: spaces become U+2581. */
} mr_charsmap;

mr_err mr_charsmap_read(mr_charsmap *m, const char *file, const char *blob, size_t len);
void mr_charsmap_free(mr_charsmap *m);
/* Appends the normalised text; s is valid UTF-8. */
mr_err mr_charsmap_run(const mr_charsmap *m, const char *s, size_t len, mr_buf *out);

#endif
