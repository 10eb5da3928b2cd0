/* GPT-2's map of bytes to printable characters, in which byte-level vocabularies are written.
 *
 * Use:    mr_byte_level_encode(s, len, &out); int b = mr_byte_level_byte(cp);
 * Threads: no state.
 */
#ifndef MR_TEXT_BYTE_LEVEL_H
#define MR_TEXT_BYTE_LEVEL_H

#include <stddef.h>
#include <stdint.h>

#include "base/str.h"

/* Appends each byte's character. */
void mr_byte_level_encode(const char *s, size_t len, mr_buf *out);
/* The byte a character stands for, -1 if none. */
int mr_byte_level_byte(uint32_t cp);

#endif
