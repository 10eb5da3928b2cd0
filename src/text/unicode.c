/* Character classes and normal forms over utf8proc's tables.
 *
 * Canonical ordering is done here by a stable counting sort: utf8proc's own is quadratic in a run
 * of combining marks, and a run may be as long as the text.
 */
#include "text/unicode.h"

#include <assert.h>
#include <string.h>

#include "base/mem.h"
#include "text/unicode_versions.h"

#ifndef MR_NO_TEXT
#include <utf8proc.h>
#endif

bool mr_cp_is_space(uint32_t cp)
{
    if (cp < 0x80)
        return cp == ' ' || (cp >= 9 && cp <= 13);
    return cp == 0x85 || cp == 0xA0 || cp == 0x1680 || (cp >= 0x2000 && cp <= 0x200A) ||
           cp == 0x2028 || cp == 0x2029 || cp == 0x202F || cp == 0x205F || cp == 0x3000;
}

size_t mr_space_prefix(const char *s, size_t len)
{
    size_t i = 0;
    while (i < len) {
        uint32_t cp;
        int n = mr_utf8_decode(s + i, len - i, &cp);
        if (n == 0 || !mr_cp_is_space(cp))
            break;
        i += (size_t)n;
    }
    return i;
}

uint32_t mr_utf8_last(const char *s, size_t len, size_t *start)
{
    assert(len > 0);
    size_t i = len - 1;
    while (i > 0 && ((unsigned char)s[i] & 0xC0) == 0x80)
        i--;
    uint32_t cp = 0;
    mr_utf8_decode(s + i, len - i, &cp);
    *start = i;
    return cp;
}

size_t mr_utf8_length(const char *s, size_t len)
{
    size_t n = 1;
    while (n < len && ((unsigned char)s[n] & 0xC0) == 0x80)
        n++;
    return n;
}

size_t mr_space_suffix(const char *s, size_t len)
{
    size_t end = len;
    while (end > 0) {
        size_t start;
        if (!mr_cp_is_space(mr_utf8_last(s, end, &start)))
            break;
        end = start;
    }
    return len - end;
}

#ifdef MR_NO_TEXT

bool mr_cp_is_numeric(uint32_t cp)
{
    return cp >= '0' && cp <= '9';
}

bool mr_cp_is_punct(uint32_t cp)
{
    return cp < 0x80 && cp > ' ' && strchr("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~", (int)cp);
}

bool mr_cp_is_word(uint32_t cp)
{
    return cp == '_' || mr_cp_is_numeric(cp) || ((cp | 32) >= 'a' && (cp | 32) <= 'z');
}

mr_err mr_utf8_form(mr_form form, const char *s, size_t len, mr_buf *out)
{
    (void)form, (void)s, (void)len, (void)out;
    return mr_fail(MR_EUNSUPPORTED, "this build has no utf8proc: no normal forms");
}

mr_err mr_utf8_lower(const char *s, size_t len, mr_buf *out)
{
    (void)s, (void)len, (void)out;
    return mr_fail(MR_EUNSUPPORTED, "this build has no utf8proc: no lower case");
}

mr_err mr_utf8_upper(const char *s, size_t len, bool title, mr_buf *out)
{
    (void)s, (void)len, (void)title, (void)out;
    return mr_fail(MR_EUNSUPPORTED, "this build has no utf8proc: no upper case");
}

bool mr_cp_is_printable(uint32_t cp)
{
    return cp >= ' ' && cp < 0x7F;
}

size_t mr_utf8_grapheme(const char *s, size_t len)
{
    (void)s;
    return len;
}

#else

bool mr_cp_is_numeric(uint32_t cp)
{
    if (cp < 0x80)
        return cp >= '0' && cp <= '9';
    const char *newer = mr_newer_category(cp);
    if (newer)
        return newer[0] == 'N';
    utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)cp);
    return c == UTF8PROC_CATEGORY_ND || c == UTF8PROC_CATEGORY_NL || c == UTF8PROC_CATEGORY_NO;
}

bool mr_cp_is_punct(uint32_t cp)
{
    if (cp < 0x80)
        return cp > ' ' && cp < 0x7F && !mr_cp_is_numeric(cp) &&
               !((cp | 32) >= 'a' && (cp | 32) <= 'z');
    if (cp == 0x166D || cp == 0x111C9) /* were punctuation once */
        return true;
    utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)cp);
    return c >= UTF8PROC_CATEGORY_PC && c <= UTF8PROC_CATEGORY_PO &&
           !mr_cp_is_late_punctuation(cp) && !mr_newer_category(cp);
}

/* Alphabetic is L, Nl and Other_Alphabetic; of the latter only the circled and squared letters are
 * not in M, which \w has anyway. */
bool mr_cp_is_word(uint32_t cp)
{
    const char *newer = mr_newer_category(cp);
    if (newer)
        return newer[0] == 'L' || newer[0] == 'M' || (newer[0] == 'N' && newer[1] != 'o');
    switch (utf8proc_category((utf8proc_int32_t)cp)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
        return true;
    default:
        return cp == 0x200C || cp == 0x200D || (cp >= 0x24B6 && cp <= 0x24E9) ||
               (cp >= 0x1F130 && cp <= 0x1F149) || (cp >= 0x1F150 && cp <= 0x1F169) ||
               (cp >= 0x1F170 && cp <= 0x1F189);
    }
}

static unsigned combining_class(utf8proc_int32_t cp)
{
    if (mr_cp_is_unnormalized((uint32_t)cp))
        return 0;
    return utf8proc_get_property(cp)->combining_class & 255;
}

/* Stable sort by combining class of a run without starters. */
static mr_err order_run(utf8proc_int32_t *cp, size_t n)
{
    size_t at[257] = {0};
    utf8proc_int32_t stack[64];
    utf8proc_int32_t *tmp = stack;
    if (n > sizeof stack / sizeof *stack) {
        tmp = mr_alloc(MR_MEM_OTHER, n * sizeof *tmp);
        if (!tmp)
            return MR_ENOMEM;
    }
    for (size_t i = 0; i < n; i++)
        at[combining_class(cp[i]) + 1]++;
    for (int c = 1; c < 257; c++)
        at[c] += at[c - 1];
    for (size_t i = 0; i < n; i++)
        tmp[at[combining_class(cp[i])]++] = cp[i];
    memcpy(cp, tmp, n * sizeof *tmp);
    if (tmp != stack)
        mr_free(tmp);
    return MR_OK;
}

static mr_err order_marks(utf8proc_int32_t *cp, size_t n)
{
    size_t start = 0;
    for (size_t i = 0; i <= n; i++) {
        if (i < n && combining_class(cp[i]) != 0)
            continue;
        if (i - start > 1)
            MR_TRY(order_run(cp + start, i - start));
        start = i + 1;
    }
    return MR_OK;
}

/* One character decomposes into at most 18 (U+FDFA). */
enum { DECOMP_MAX = 32 };

static mr_err decompose(const char *s, size_t len, int options, utf8proc_int32_t **cps, size_t *n)
{
    size_t cap = len + DECOMP_MAX, used = 0, bytes;
    utf8proc_int32_t *v = NULL;
    if (!mr_mul_size(cap, sizeof *v, &bytes))
        return mr_fail(MR_ELIMIT, "a text of %zu bytes is too long to normalise", len);
    v = mr_alloc(MR_MEM_OTHER, bytes);
    if (!v)
        return MR_ENOMEM;
    for (size_t i = 0; i < len;) {
        uint32_t cp;
        int k = mr_utf8_decode(s + i, len - i, &cp);
        assert(k > 0);
        i += (size_t)k;
        if (cap - used < DECOMP_MAX) {
            cap += cap / 2;
            utf8proc_int32_t *grown = mr_realloc(MR_MEM_OTHER, v, cap * sizeof *v);
            if (!grown) {
                mr_free(v);
                return MR_ENOMEM;
            }
            v = grown;
        }
        if (mr_cp_is_unnormalized(cp)) {
            v[used++] = (utf8proc_int32_t)cp;
            continue;
        }
        int last = 0;
        utf8proc_ssize_t got = utf8proc_decompose_char((utf8proc_int32_t)cp, v + used, DECOMP_MAX,
                                                       (utf8proc_option_t)options, &last);
        assert(got >= 0 && got <= DECOMP_MAX);
        used += (size_t)got;
    }
    *cps = v;
    *n = used;
    return MR_OK;
}

/* Composes in place, between characters that take no part in it; the new length. */
static size_t compose(utf8proc_int32_t *cp, size_t n, int options)
{
    size_t used = 0;
    for (size_t i = 0; i < n;) {
        size_t end = i;
        while (end < n && !mr_cp_is_unnormalized((uint32_t)cp[end]))
            end++;
        utf8proc_ssize_t got = utf8proc_normalize_utf32(cp + i, (utf8proc_ssize_t)(end - i),
                                                        (utf8proc_option_t)options);
        assert(got >= 0);
        memmove(cp + used, cp + i, (size_t)got * sizeof *cp);
        used += (size_t)got;
        if (end < n)
            cp[used++] = cp[end++];
        i = end;
    }
    return used;
}

static mr_err form_part(mr_form form, const char *s, size_t len, mr_buf *out)
{
    int options = UTF8PROC_STABLE;
    options |= form == MR_NFC || form == MR_NFKC ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE;
    if (form == MR_NFKC || form == MR_NFKD)
        options |= UTF8PROC_COMPAT;
    utf8proc_int32_t *cp = NULL;
    size_t n = 0;
    MR_TRY(decompose(s, len, options, &cp, &n));
    mr_err err = order_marks(cp, n);
    if (err == MR_OK && (options & UTF8PROC_COMPOSE))
        n = compose(cp, n, options);
    for (size_t i = 0; err == MR_OK && i < n; i++) {
        char b[4];
        mr_buf_add(out, b, (size_t)mr_utf8_encode((uint32_t)cp[i], b));
    }
    mr_free(cp);
    return err ? err : mr_buf_check(out);
}

/* An ASCII character is the same in every form and composes with nothing before it; so only runs of
 * other characters count, each with the one ASCII character in front. */
mr_err mr_utf8_form(mr_form form, const char *s, size_t len, mr_buf *out)
{
    for (size_t at = 0; at < len;) {
        size_t other = at, end;
        while (other < len && (unsigned char)s[other] < 0x80)
            other++;
        if (other < len && other > at)
            other--;
        mr_buf_add(out, s + at, other - at);
        end = other + (other < len);
        while (end < len && (unsigned char)s[end] >= 0x80)
            end++;
        if (end > other)
            MR_TRY(form_part(form, s + other, end - other, out));
        at = end;
    }
    return mr_buf_check(out);
}

mr_err mr_utf8_lower(const char *s, size_t len, mr_buf *out)
{
    for (size_t i = 0; i < len;) {
        uint32_t cp;
        int k = mr_utf8_decode(s + i, len - i, &cp);
        assert(k > 0);
        i += (size_t)k;
        char b[4];
        if (cp == 0x130) /* the one letter whose lower case is two characters */
            mr_buf_puts(out, "i\xCC\x87");
        else
            mr_buf_add(out, b,
                       (size_t)mr_utf8_encode((uint32_t)utf8proc_tolower((utf8proc_int32_t)cp), b));
    }
    return mr_buf_check(out);
}

mr_err mr_utf8_upper(const char *s, size_t len, bool title, mr_buf *out)
{
    for (size_t i = 0; i < len;) {
        uint32_t cp;
        int k = mr_utf8_decode(s + i, len - i, &cp);
        assert(k > 0);
        i += (size_t)k;
        utf8proc_int32_t c = (utf8proc_int32_t)cp;
        char b[4];
        if (cp == 0xDF) /* the one common letter whose upper case is two characters */
            mr_buf_puts(out, title ? "Ss" : "SS");
        else
            mr_buf_add(out, b,
                       (size_t)mr_utf8_encode(
                           (uint32_t)(title ? utf8proc_totitle(c) : utf8proc_toupper(c)), b));
    }
    return mr_buf_check(out);
}

bool mr_cp_is_printable(uint32_t cp)
{
    if (cp < 0x7F)
        return cp >= ' ';
    const char *newer = mr_newer_category(cp);
    if (newer)
        return newer[0] != 'C' && newer[0] != 'Z';
    utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)cp);
    return c != UTF8PROC_CATEGORY_CN && c < UTF8PROC_CATEGORY_ZS;
}

size_t mr_utf8_grapheme(const char *s, size_t len)
{
    utf8proc_int32_t state = 0;
    uint32_t before, cp;
    size_t at = (size_t)mr_utf8_decode(s, len, &before);
    while (at < len) {
        int k = mr_utf8_decode(s + at, len - at, &cp);
        assert(k > 0);
        if (mr_cp_is_newer_mark(cp))
            cp = 0x300; /* as another mark */
        if (utf8proc_grapheme_break_stateful((utf8proc_int32_t)before, (utf8proc_int32_t)cp,
                                             &state))
            break;
        before = cp;
        at += (size_t)k;
    }
    return at;
}

#endif
