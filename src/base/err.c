/* Error messages: one fixed buffer per thread.
 *
 * Text of a message may come from hostile files, so what is stored is always one line of valid
 * UTF-8: control characters and invalid bytes become '?', and a cut never splits a character.
 */
#include "base/err.h"

#include <assert.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/str.h"

static _Thread_local char message[MR_ERR_MAX];

/* Copies `from` into the message, cleaned. */
static void store(const char *from)
{
    size_t len = strlen(from), out = 0;
    for (size_t i = 0; i < len;) {
        uint32_t cp;
        int n = mr_utf8_decode(from + i, len - i, &cp);
        bool bad = n == 0 || cp < 0x20 || (cp >= 0x7f && cp < 0xa0) || cp == 0x2028 || cp == 0x2029;
        size_t width = bad ? 1 : (size_t)n;
        if (out + width >= sizeof message)
            break;
        if (bad)
            message[out] = '?';
        else
            memcpy(message + out, from + i, width);
        out += width;
        i += n ? (size_t)n : 1;
    }
    message[out] = '\0';
}

/* The text is formatted aside first, because an argument may be mr_error() itself. */
mr_err mr_fail(mr_err code, const char *fmt, ...)
{
    assert(code != MR_OK);
    char text[MR_ERR_MAX + 4]; /* so that a character cut here is past the end of the message */
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    store(text);
    return code;
}

mr_err mr_fail_in(mr_err code, const char *fmt, ...)
{
    char text[2 * MR_ERR_MAX + 2];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(text, MR_ERR_MAX, fmt, ap);
    va_end(ap);
    size_t used = n < 0 ? 0 : (size_t)n < MR_ERR_MAX ? (size_t)n : MR_ERR_MAX - 1;
    snprintf(text + used, sizeof text - used, ": %s", message);
    store(text);
    return code;
}

const char *mr_error(void)
{
    return message;
}

mr_err mr_fail_errno(const char *what, const char *path)
{
    char reason[128];
    /* The GNU form: returns the text, which need not be in the buffer. */
    const char *text = strerror_r(errno, reason, sizeof reason);
    return mr_fail(MR_EIO, "%s: cannot %s: %s", path, what, text);
}
