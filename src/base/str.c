/* Byte strings and UTF-8.
 *
 * Buffers grow by half, at least to 64 bytes.  UTF-8 is decoded by the table of well-formed
 * sequences (Unicode, table 3-7): no overlong forms, no surrogates, nothing above U+10FFFF.
 */
#include "base/str.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"

/* Makes room for `more` bytes and a NUL after them; false (and sticky) if it cannot. */
static bool reserve(mr_buf *b, size_t more)
{
    size_t need;
    if (b->failed)
        return false;
    if (!mr_add_size(b->len, more, &need) || !mr_add_size(need, 1, &need)) {
        mr_fail(MR_ENOMEM, "out of memory: a text buffer of more than the address space");
        b->failed = true;
        return false;
    }
    if (need <= b->cap)
        return true;
    size_t cap = b->cap + b->cap / 2;
    cap = cap < need ? need : cap;
    cap = cap < 64 ? 64 : cap;
    char *data = mr_realloc(MR_MEM_OTHER, b->data, cap);
    if (!data) {
        b->failed = true;
        return false;
    }
    b->data = data;
    b->cap = cap;
    return true;
}

void mr_buf_add(mr_buf *b, const void *bytes, size_t len)
{
    if (!reserve(b, len))
        return;
    if (len)
        memcpy(b->data + b->len, bytes, len);
    b->len += len;
    b->data[b->len] = '\0';
}

void mr_buf_puts(mr_buf *b, const char *s)
{
    mr_buf_add(b, s, strlen(s));
}

void mr_buf_putc(mr_buf *b, char c)
{
    mr_buf_add(b, &c, 1);
}

void mr_buf_printf(mr_buf *b, const char *fmt, ...)
{
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, fmt, ap);
    assert(n >= 0 && "a format that cannot be printed");
    if (reserve(b, (size_t)n)) {
        vsnprintf(b->data + b->len, (size_t)n + 1, fmt, again);
        b->len += (size_t)n;
    }
    va_end(again);
    va_end(ap);
}

static void add_escape(mr_buf *b, unsigned char c)
{
    static const char letters[] = "\"\"\\\\\bb\ff\nn\rr\tt";
    for (const char *p = letters; *p; p += 2) {
        if ((unsigned char)*p == c) {
            char pair[2] = {'\\', p[1]};
            mr_buf_add(b, pair, 2);
            return;
        }
    }
    mr_buf_printf(b, "\\u%04x", (unsigned)c);
}

void mr_buf_json(mr_buf *b, const char *bytes, size_t len)
{
    mr_buf_putc(b, '"');
    size_t from = 0; /* bytes[from..i) are plain and not yet added */
    for (size_t i = 0; i < len;) {
        unsigned char c = (unsigned char)bytes[i];
        uint32_t cp;
        int n = c < 0x80 ? 1 : mr_utf8_decode(bytes + i, len - i, &cp);
        if (n > 0 && c >= 0x20 && c != '"' && c != '\\') {
            i += (size_t)n;
            continue;
        }
        mr_buf_add(b, bytes + from, i - from);
        if (n == 0)
            mr_buf_puts(b, "\xef\xbf\xbd");
        else
            add_escape(b, c);
        from = ++i;
    }
    mr_buf_add(b, bytes + from, len - from);
    mr_buf_putc(b, '"');
}

/* The bytes are dropped, so an earlier failure no longer matters and is forgotten. */
void mr_buf_clear(mr_buf *b)
{
    b->len = 0;
    b->failed = false;
    if (b->data)
        b->data[0] = '\0';
}

void mr_buf_free(mr_buf *b)
{
    mr_free(b->data);
    *b = (mr_buf){0};
}

mr_err mr_buf_check(const mr_buf *b)
{
    if (b->failed)
        return mr_fail(MR_ENOMEM, "out of memory: a text buffer after %zu bytes", b->len);
    return MR_OK;
}

bool mr_ends_with(const char *s, const char *end)
{
    size_t n = strlen(s), m = strlen(end);
    return n >= m && strcmp(s + n - m, end) == 0;
}

bool mr_str_is(mr_str s, const char *z)
{
    size_t len = strlen(z);
    return s.len == len && (len == 0 || memcmp(s.data, z, len) == 0);
}

static bool is_tail(unsigned char c)
{
    return (c & 0xc0) == 0x80;
}

int mr_utf8_decode(const char *p, size_t len, uint32_t *cp)
{
    const unsigned char *s = (const unsigned char *)p;
    if (len == 0)
        return 0;
    if (s[0] < 0x80) {
        *cp = s[0];
        return 1;
    }
    if (s[0] < 0xc2) /* a tail byte, or an overlong form of two */
        return 0;
    if (s[0] < 0xe0) {
        if (len < 2 || !is_tail(s[1]))
            return 0;
        *cp = (s[0] & 0x1fu) << 6 | (s[1] & 0x3fu);
        return 2;
    }
    if (s[0] < 0xf0) {
        if (len < 3 || !is_tail(s[1]) || !is_tail(s[2]))
            return 0;
        uint32_t c = (s[0] & 0x0fu) << 12 | (s[1] & 0x3fu) << 6 | (s[2] & 0x3fu);
        if (c < 0x800 || (c >= 0xd800 && c < 0xe000))
            return 0;
        *cp = c;
        return 3;
    }
    if (s[0] > 0xf4 || len < 4 || !is_tail(s[1]) || !is_tail(s[2]) || !is_tail(s[3]))
        return 0;
    uint32_t c = (s[0] & 0x07u) << 18 | (s[1] & 0x3fu) << 12 | (s[2] & 0x3fu) << 6 | (s[3] & 0x3fu);
    if (c < 0x10000 || c > 0x10ffff)
        return 0;
    *cp = c;
    return 4;
}

int mr_utf8_encode(uint32_t cp, char out[4])
{
    assert(cp <= 0x10ffff && (cp < 0xd800 || cp > 0xdfff));
    if (cp < 0x80) {
        out[0] = (char)cp;
        return 1;
    }
    if (cp < 0x800) {
        out[0] = (char)(0xc0 | cp >> 6);
        out[1] = (char)(0x80 | (cp & 0x3f));
        return 2;
    }
    if (cp < 0x10000) {
        out[0] = (char)(0xe0 | cp >> 12);
        out[1] = (char)(0x80 | (cp >> 6 & 0x3f));
        out[2] = (char)(0x80 | (cp & 0x3f));
        return 3;
    }
    out[0] = (char)(0xf0 | cp >> 18);
    out[1] = (char)(0x80 | (cp >> 12 & 0x3f));
    out[2] = (char)(0x80 | (cp >> 6 & 0x3f));
    out[3] = (char)(0x80 | (cp & 0x3f));
    return 4;
}

size_t mr_utf8_check(const char *p, size_t len)
{
    size_t i = 0;
    while (i < len) {
        uint64_t word;
        /* Eight bytes at a time while all are ASCII. */
        while (len - i >= 8 && (memcpy(&word, p + i, 8), (word & 0x8080808080808080u) == 0))
            i += 8;
        if (i == len)
            break;
        uint32_t cp;
        int n = mr_utf8_decode(p + i, len - i, &cp);
        if (n == 0)
            return i;
        i += (size_t)n;
    }
    return len;
}
