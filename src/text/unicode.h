/* What the pipeline needs to know about characters: classes, normal forms, lower case.
 *
 * Why:    the classes must be those of the `tokenizers` package (Unicode's White_Space and the
 *         regex classes of its two regex engines), not those of any C library.
 * Use:    if (mr_cp_is_space(cp)) ...; MR_TRY(mr_utf8_form(MR_NFC, s, len, &out));
 * Threads: no state.
 * Fails:  only by memory. Input must be valid UTF-8. Without utf8proc (MR_NO_TEXT) the forms and
 *         classes cannot be had: a tokenizer cannot be opened in such a build, so they are never
 *         asked for.
 */
#ifndef MR_TEXT_UNICODE_H
#define MR_TEXT_UNICODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/str.h"

bool mr_cp_is_space(uint32_t cp);     /* White_Space: U+0085 is one, U+180E is not */
bool mr_cp_is_numeric(uint32_t cp);   /* Nd, Nl, No */
bool mr_cp_is_punct(uint32_t cp);     /* ASCII punctuation and symbols, and category P */
bool mr_cp_is_word(uint32_t cp);      /* \w: Alphabetic, M, Nd, Pc, Join_Control */
bool mr_cp_is_printable(uint32_t cp); /* Python's str.isprintable: all but C, Z; and the space */

/* Bytes of white space at the start and at the end of a text. */
size_t mr_space_prefix(const char *s, size_t len);
size_t mr_space_suffix(const char *s, size_t len);
/* The last character of a non-empty text; *start gets its offset. */
uint32_t mr_utf8_last(const char *s, size_t len, size_t *start);
/* Bytes of the first character of a non-empty text. */
size_t mr_utf8_length(const char *s, size_t len);

/* Bytes of the first grapheme cluster of a non-empty text. */
size_t mr_utf8_grapheme(const char *s, size_t len);

typedef enum mr_form { MR_NFC, MR_NFD, MR_NFKC, MR_NFKD } mr_form;
/* Appends the normal form. */
mr_err mr_utf8_form(mr_form form, const char *s, size_t len, mr_buf *out);
/* Appends the lower case, character by character (no context: final sigma stays sigma). */
mr_err mr_utf8_lower(const char *s, size_t len, mr_buf *out);
/* Appends the upper case, character by character; of title, its title case. */
mr_err mr_utf8_upper(const char *s, size_t len, bool title, mr_buf *out);

#endif
