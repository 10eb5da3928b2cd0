/* The trie is Darts-clone's: a unit holds a label (8 bits and the sign bit, which a value has), an
 * offset to its children (22 bits, scaled by 256 if bit 9 is set) and whether a value hangs below
 * (bit 8).  The child of a byte stands at the node's offset xor the byte.
 */
#include "text/charsmap.h"

#include <string.h>

#include "base/mem.h"
#include "text/unicode.h"

enum { GRAPHEME_MAX = 6, GROWTH_MAX = 64, GROWTH_BASE = 1 << 20 };

static const char space_mark[] = "\xE2\x96\x81"; /* U+2581 */

static uint32_t get32(const char *p)
{
    const unsigned char *b = (const unsigned char *)p;
    return b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
}

mr_err mr_charsmap_read(mr_charsmap *m, const char *file, const char *blob, size_t len)
{
    uint32_t bytes = len >= 4 ? get32(blob) : 0;
    if (len < 8 || bytes > len - 4 || bytes < 4 || bytes % 4)
        return mr_fail(MR_EFORMAT, "%s: the normaliser's character map ends early", file);
    m->n_units = bytes / 4;
    m->unit = mr_alloc(MR_MEM_TOKENIZER, bytes);
    m->text_len = len - 4 - bytes;
    m->text = mr_alloc(MR_MEM_TOKENIZER, m->text_len + 1);
    if (!m->unit || !m->text)
        return MR_ENOMEM; /* the owner frees */
    for (size_t i = 0; i < m->n_units; i++)
        m->unit[i] = get32(blob + 4 + 4 * i);
    memcpy(m->text, blob + 4 + bytes, m->text_len);
    m->text[m->text_len] = 0;
    return MR_OK;
}

void mr_charsmap_free(mr_charsmap *m)
{
    mr_free(m->unit);
    mr_free(m->text);
    mr_added_free(&m->kept);
    memset(m, 0, sizeof *m);
}

static uint32_t offset_of(uint32_t unit)
{
    return (unit >> 10) << ((unit & (1u << 9)) >> 6);
}

/* The longest key (or the shortest) that s starts with: its length and its result; 0: none. */
static size_t look_up(const mr_charsmap *m, const char *s, size_t len, bool shortest,
                      const char **result)
{
    size_t found = 0, at;
    if (!m->unit)
        return 0;
    at = offset_of(m->unit[0]);
    for (size_t i = 0; i < len; i++) {
        unsigned char b = (unsigned char)s[i];
        at ^= b;
        if (at >= m->n_units || (m->unit[at] & 0x800000FFu) != b)
            break;
        uint32_t unit = m->unit[at];
        at ^= offset_of(unit);
        if (!(unit >> 8 & 1))
            continue;
        if (at >= m->n_units || (m->unit[at] & 0x7FFFFFFFu) > m->text_len)
            break;
        *result = m->text + (m->unit[at] & 0x7FFFFFFFu);
        found = i + 1;
        if (shortest)
            break;
    }
    return found;
}

/* What the start of s becomes; returns the bytes it takes of s. */
static size_t next_part(const mr_charsmap *m, const char *s, size_t len, mr_str *out)
{
    const char *result = NULL;
    const mr_added_token *kept =
        m->kept.n ? mr_added_longest(&m->kept, MR_ADDED_RAW, s, len) : NULL;
    size_t n = kept ? 0 : look_up(m, s, len, false, &result);
    if (n) {
        *out = (mr_str){result, strlen(result)};
        return n;
    }
    n = kept ? kept->len : mr_utf8_length(s, len);
    *out = (mr_str){s, n};
    return n;
}

static void add_marked(const mr_charsmap *m, mr_str part, mr_buf *out)
{
    for (size_t i = 0; i < part.len; i++) {
        if (part.data[i] == ' ' && m->mark)
            mr_buf_puts(out, space_mark);
        else
            mr_buf_putc(out, part.data[i]);
    }
}

static bool ends_with(const mr_buf *b, size_t from, const char *end)
{
    size_t n = strlen(end);
    return b->len - from >= n && memcmp(b->data + b->len - n, end, n) == 0;
}

/* A hostile map may hold long results. */
static mr_err check_growth(const mr_buf *out, size_t start, size_t len)
{
    if (out->len - start > GROWTH_MAX * len + GROWTH_BASE)
        return mr_fail(MR_ELIMIT, "the normaliser makes the text too long");
    return mr_buf_check(out);
}

static mr_err run_spaces(const mr_charsmap *m, const char *s, size_t len, mr_buf *out)
{
    const mr_str space = {" ", 1};
    size_t start = out->len, at = 0;
    mr_str part = {0};
    while (m->trim && at < len) {
        size_t n = next_part(m, s + at, len - at, &part);
        if (part.len != 1 || part.data[0] != ' ')
            break;
        at += n;
    }
    if (at == len)
        return MR_OK;
    if (m->prefix && !m->suffix)
        add_marked(m, space, out);
    for (bool after_space = m->trim; at < len;) {
        at += next_part(m, s + at, len - at, &part);
        while (after_space && part.len && part.data[0] == ' ') {
            part.data++;
            part.len--;
        }
        add_marked(m, part, out);
        MR_TRY(check_growth(out, start, len));
        if (part.len)
            after_space = part.data[part.len - 1] == ' ';
        after_space &= m->trim;
    }
    MR_TRY(mr_buf_check(out));
    const char *end = m->mark ? space_mark : " ";
    while (m->trim && ends_with(out, start, end))
        out->len -= strlen(end);
    if (m->prefix && m->suffix)
        add_marked(m, space, out);
    return mr_buf_check(out);
}

/* As the package does it: a whole grapheme, if short, becomes the result of the shortest key it
 * starts with; else character by character. */
static mr_err run_graphemes(const mr_charsmap *m, const char *s, size_t len, mr_buf *out)
{
    size_t start = out->len;
    for (size_t at = 0, n; at < len; at += n) {
        const char *result = NULL;
        MR_TRY(check_growth(out, start, len));
        n = mr_utf8_grapheme(s + at, len - at);
        if (n < GRAPHEME_MAX && look_up(m, s + at, n, true, &result)) {
            mr_buf_puts(out, result);
            continue;
        }
        for (size_t i = 0, k; i < n; i += k) {
            k = mr_utf8_length(s + at + i, n - i);
            if (look_up(m, s + at + i, k, true, &result))
                mr_buf_puts(out, result);
            else
                mr_buf_add(out, s + at + i, k);
        }
    }
    return mr_buf_check(out);
}

mr_err mr_charsmap_run(const mr_charsmap *m, const char *s, size_t len, mr_buf *out)
{
    return m->graphemes ? run_graphemes(m, s, len, out) : run_spaces(m, s, len, out);
}
