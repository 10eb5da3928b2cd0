/* Growing byte strings.
 *
 * Use:    mr_buf b = {0}; mr_buf_printf(&b, "%d", 1); ... mr_buf_free(&b);
 * Owns:   the buffer owns .data; it is NUL-terminated after every call (when not NULL).
 * Fails:  sticky: after a failed allocation .failed is set and later calls do nothing;
 *         mr_buf_check reports it once at the end.
 */
#ifndef MR_BASE_STR_H
#define MR_BASE_STR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

typedef struct mr_buf {
    char *data;
    size_t len, cap;
    bool failed;
} mr_buf;

/* A borrowed run of bytes, not NUL-terminated. */
typedef struct mr_str {
    const char *data;
    size_t len;
} mr_str;

void mr_buf_add(mr_buf *b, const void *bytes, size_t len);
void mr_buf_puts(mr_buf *b, const char *s);
void mr_buf_putc(mr_buf *b, char c);
void mr_buf_printf(mr_buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Appends bytes as a JSON string with quotes; each invalid byte becomes U+FFFD. */
void mr_buf_json(mr_buf *b, const char *bytes, size_t len);
void mr_buf_clear(mr_buf *b); /* keeps the memory; forgets a failure */
void mr_buf_free(mr_buf *b);
mr_err mr_buf_check(const mr_buf *b);

bool mr_str_is(mr_str s, const char *z);
bool mr_ends_with(const char *s, const char *end);
/* Length of the valid UTF-8 sequence at p (1..4), 0 if invalid or cut short; *cp gets the code
 * point. */
int mr_utf8_decode(const char *p, size_t len, uint32_t *cp);
/* Writes 1..4 bytes; returns how many. cp must be a scalar value. */
int mr_utf8_encode(uint32_t cp, char out[4]);
/* Offset of the first invalid byte, or len if all is valid UTF-8. */
size_t mr_utf8_check(const char *p, size_t len);

#endif
