/* Characters that are newer, or older, than what PCRE2 and utf8proc know.
 *
 * Why:    ids must equal the package's on every text, so the classes must be those of the
 *         package's Unicode.
 * Use:    mr_newer_set("L", &set) appends \x{..}-\x{..} ranges to the inside of a bracket.
 * Threads: no state.
 */
#ifndef MR_TEXT_UNICODE_VERSIONS_H
#define MR_TEXT_UNICODE_VERSIONS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/str.h"

/* Two-letter category of a character assigned after Unicode 14, NULL for others. */
const char *mr_newer_category(uint32_t cp);
/* The same as ranges: of a category of one or two letters; of the script Han. */
void mr_newer_set(const char *category, mr_buf *set);
void mr_newer_han_set(mr_buf *set);
/* A mark that utf8proc does not know: it belongs to the character before it. */
bool mr_cp_is_newer_mark(uint32_t cp);
/* Normal forms leave it as it is and where it is. */
bool mr_cp_is_unnormalized(uint32_t cp);
/* Category P now, but not for the package's Punctuation. */
bool mr_cp_is_late_punctuation(uint32_t cp);

#endif
