/* The template's tokens.
 *
 * Text outside tags is one token; white space around tags is dealt with here: `-` at a tag's
 * inside takes all of it, else the blanks before a block or comment that starts its line go, and
 * the line feed behind one; `+` keeps both.  A print tag ({{) keeps what `-` does not take.
 */
#include <stdlib.h>
#include <string.h>

#include "text/template.h"

void mr_tlex_start(mr_tlex *x, mr_tpl *e, const char *s, size_t len)
{
    *x = (mr_tlex){.e = e, .s = s, .len = len, .line = 1, .mode = MR_TK_DATA, .line_start = true};
}

/* Counts lines up to here, for messages. */
static void mark_line(mr_tlex *x)
{
    for (; x->counted < x->at; x->counted++)
        x->line += x->s[x->counted] == '\n';
    x->e->line = x->line;
}

static bool at_text(const mr_tlex *x, size_t at, const char *z)
{
    size_t n = strlen(z);
    return at + n <= x->len && memcmp(x->s + at, z, n) == 0;
}

static size_t skip_space(const mr_tlex *x, size_t at)
{
    uint32_t cp;
    int n;
    while (at < x->len && (n = mr_utf8_decode(x->s + at, x->len - at, &cp)) > 0 && mr_tpl_space(cp))
        at += (size_t)n;
    return at;
}

/* Where the white space before `end` begins, not before `start`. */
static size_t back_space(const mr_tlex *x, size_t start, size_t end)
{
    while (end > start) {
        size_t at = end - 1;
        uint32_t cp;
        while (at > start && ((unsigned char)x->s[at] & 0xC0) == 0x80)
            at--;
        if (mr_utf8_decode(x->s + at, end - at, &cp) <= 0 || !mr_tpl_space(cp))
            break;
        end = at;
    }
    return end;
}

/* The end of a tag that closes with `close` at x->at, and what it takes along; false: none here. */
static bool take_close(mr_tlex *x, const char *close, bool trim)
{
    size_t at = x->at;
    char sign = at < x->len ? x->s[at] : 0;
    if ((sign == '-' || (sign == '+' && trim)) && at_text(x, at + 1, close))
        at++;
    else if (at_text(x, at, close))
        sign = 0;
    else
        return false;
    at += 2;
    if (sign == '-')
        at = skip_space(x, at);
    else if (sign == 0 && trim && at < x->len && x->s[at] == '\n')
        at++;
    x->line_start = x->s[at - 1] == '\n';
    x->at = at;
    return true;
}

/* Where text that runs to `end` stops, given the tag that follows. */
static size_t text_end(const mr_tlex *x, size_t start, size_t end, char sign, bool block)
{
    if (sign == '-')
        return back_space(x, start, end);
    if (sign == '+' || !block)
        return end;
    size_t line = end;
    while (line > start && x->s[line - 1] != '\n')
        line--;
    if (line == start && !x->line_start)
        return end;
    return back_space(x, line, end) == line ? line : end;
}

/* {% raw %}: true if that stands at x->at (behind "{%" and its sign). */
static bool take_raw(mr_tlex *x, const char *word)
{
    size_t back = x->at;
    x->at = skip_space(x, x->at);
    if (at_text(x, x->at, word)) {
        x->at = skip_space(x, x->at + strlen(word));
        bool raw = word[0] == 'r';
        bool trim = !raw;
        bool line_start = x->line_start;
        if (take_close(x, "%}", trim))
            return true;
        x->line_start = line_start;
    }
    x->at = back;
    return false;
}

static mr_err text_token(mr_tlex *x, size_t start, size_t end, mr_ttoken *out)
{
    out->type = MR_TK_DATA;
    out->line = x->line;
    return mr_tpl_borrow(x->e, x->s + start, end - start, &out->value);
}

static mr_err raw_text(mr_tlex *x, mr_ttoken *out)
{
    size_t start = x->at;
    for (size_t i = start; i + 1 < x->len; i++) {
        if (x->s[i] != '{' || x->s[i + 1] != '%')
            continue;
        char sign = i + 2 < x->len ? x->s[i + 2] : 0;
        bool line_start = x->line_start, after;
        x->at = i + 2 + (sign == '-' || sign == '+');
        if (!take_raw(x, "endraw"))
            continue;
        after = x->line_start;
        x->line_start = line_start;
        size_t end = text_end(x, start, i, sign, true);
        x->line_start = after;
        return text_token(x, start, end, out);
    }
    return mr_tpl_fail(x->e, MR_EFORMAT, "raw has no endraw");
}

static mr_err comment(mr_tlex *x)
{
    for (; x->at < x->len; x->at++)
        if (take_close(x, "#}", true))
            return MR_OK;
    return mr_tpl_fail(x->e, MR_EFORMAT, "a comment has no end");
}

/* Text up to the next tag, and the tag's begin queued behind it; type END: neither was there. */
static mr_err lex_data(mr_tlex *x, mr_ttoken *out)
{
    while (x->at < x->len) {
        size_t start = x->at, i = start;
        while (i < x->len &&
               !(x->s[i] == '{' && i + 1 < x->len && strchr("{%#", x->s[i + 1]) && x->s[i + 1]))
            i++;
        if (i == x->len) {
            x->at = i;
            return text_token(x, start, i, out);
        }
        char kind = x->s[i + 1], sign = i + 2 < x->len ? x->s[i + 2] : 0;
        size_t end = text_end(x, start, i, sign, kind != '{');
        x->at = i + 2 + (sign == '-' || sign == '+');
        mark_line(x);
        x->line_start = false;
        if (kind == '#') {
            MR_TRY(comment(x));
        } else if (kind == '%' && take_raw(x, "raw")) {
            MR_TRY(raw_text(x, &x->queued));
            x->has_queued = true;
        } else {
            x->mode = kind == '%' ? MR_TK_BLOCK_BEGIN : MR_TK_PRINT_BEGIN;
            x->brackets = 0;
            x->queued = (mr_ttoken){.type = x->mode, .line = x->line};
            x->has_queued = true;
        }
        if (end > start)
            return text_token(x, start, end, out);
        if (x->has_queued) {
            *out = x->queued;
            x->has_queued = false;
            return MR_OK;
        }
    }
    *out = (mr_ttoken){.type = MR_TK_END, .line = x->line};
    return MR_OK;
}

/* ---- inside tags ------------------------------------------------------------------------- */

static int digit_of(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 32;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : 99;
}

static size_t digits(const mr_tlex *x, size_t at, int base)
{
    size_t from = at;
    while (at < x->len &&
           (digit_of(x->s[at]) < base || (x->s[at] == '_' && at > from && x->s[at - 1] != '_' &&
                                          at + 1 < x->len && digit_of(x->s[at + 1]) < base)))
        at++;
    return at;
}

static mr_err lex_integer(mr_tlex *x, size_t from, size_t end, int base, mr_ttoken *out)
{
    int64_t v = 0;
    for (size_t i = from; i < end; i++) {
        if (x->s[i] == '_')
            continue;
        if (__builtin_mul_overflow(v, base, &v) || __builtin_add_overflow(v, digit_of(x->s[i]), &v))
            return mr_tpl_fail(x->e, MR_EUNSUPPORTED, "an integer of more than 63 bits");
    }
    out->value = mr_tpl_int(v);
    x->at = end;
    return MR_OK;
}

static mr_err lex_number(mr_tlex *x, mr_ttoken *out)
{
    size_t start = x->at, end;
    out->type = MR_TK_NUMBER;
    if (x->s[start] == '0' && start + 2 < x->len) {
        int c = x->s[start + 1] | 32;
        int base = c == 'x' ? 16 : c == 'o' ? 8 : c == 'b' ? 2 : 0;
        if (base && (end = digits(x, start + 2, base)) > start + 2)
            return lex_integer(x, start + 2, end, base, out);
    }
    end = digits(x, start, 10);
    size_t whole = end, more;
    if (end < x->len && x->s[end] == '.' && (more = digits(x, end + 1, 10)) > end + 1)
        end = more;
    if (end < x->len && (x->s[end] | 32) == 'e') {
        size_t e = end + 1;
        e += e < x->len && (x->s[e] == '+' || x->s[e] == '-');
        more = digits(x, e, 10);
        end = more > e ? more : end;
    }
    if (end == whole)
        return lex_integer(x, start, end, 10, out);
    mr_buf b = {0};
    for (size_t i = start; i < end; i++)
        if (x->s[i] != '_')
            mr_buf_putc(&b, x->s[i]);
    mr_err err = mr_buf_check(&b);
    if (err == MR_OK)
        out->value = mr_tpl_float(strtod(b.data, NULL));
    mr_buf_free(&b);
    x->at = end;
    return err;
}

/* One escape at s[at] (behind the backslash); returns where it ends. */
static size_t unescape(const mr_tlex *x, size_t at, size_t end, mr_buf *b)
{
    static const char from[] = "ntr\\'\"abfv", to[] = "\n\t\r\\'\"\a\b\f\v";
    char c = x->s[at];
    const char *known = c ? strchr(from, c) : NULL;
    size_t want = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0, i = at + 1;
    uint32_t cp = 0;
    char utf8[4];
    if (c == '\n')
        return at + 1;
    if (known) {
        mr_buf_putc(b, to[known - from]);
        return at + 1;
    }
    if (c >= '0' && c <= '7') {
        for (i = at; i < end && i < at + 3 && digit_of(x->s[i]) < 8; i++)
            cp = cp * 8 + (uint32_t)digit_of(x->s[i]);
    } else if (want) {
        for (; i < end && i < at + 1 + want && digit_of(x->s[i]) < 16; i++)
            cp = cp * 16 + (uint32_t)digit_of(x->s[i]);
        want = i == at + 1 + want && cp < 0x110000 && (cp < 0xD800 || cp > 0xDFFF);
    }
    if (!want && !(c >= '0' && c <= '7')) {
        mr_buf_putc(b, '\\');
        return at;
    }
    mr_buf_add(b, utf8, (size_t)mr_utf8_encode(cp, utf8));
    return i;
}

static mr_err lex_string(mr_tlex *x, mr_ttoken *out)
{
    char quote = x->s[x->at];
    size_t start = x->at + 1, end = start;
    bool escapes = false;
    while (end < x->len && x->s[end] != quote) {
        escapes |= x->s[end] == '\\';
        end += x->s[end] == '\\' ? 2 : 1;
    }
    if (end >= x->len)
        return mr_tpl_fail(x->e, MR_EFORMAT, "a string has no end");
    out->type = MR_TK_STRING;
    x->at = end + 1;
    if (!escapes)
        return mr_tpl_borrow(x->e, x->s + start, end - start, &out->value);
    mr_buf b = {0};
    for (size_t i = start; i < end;) {
        if (x->s[i] == '\\') {
            i = unescape(x, i + 1, end, &b);
        } else {
            mr_buf_putc(&b, x->s[i++]);
        }
    }
    return mr_tpl_take(x->e, &b, &out->value);
}

static bool name_byte(char c, bool first)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' ||
           (unsigned char)c >= 0x80 || (!first && c >= '0' && c <= '9');
}

static mr_err lex_operator(mr_tlex *x, mr_ttoken *out)
{
    static const struct {
        const char *z;
        int op;
    } two[] = {{"==", MR_OP_EQ}, {"!=", MR_OP_NE},    {"<=", MR_OP_LE},
               {">=", MR_OP_GE}, {"//", MR_OP_FLOOR}, {"**", MR_OP_POW}};
    char c = x->s[x->at];
    out->type = MR_TK_OP;
    for (size_t i = 0; i < sizeof two / sizeof *two; i++) {
        if (at_text(x, x->at, two[i].z)) {
            out->op = two[i].op;
            x->at += 2;
            return MR_OK;
        }
    }
    if (c == 0 || !strchr("+-*/%~[](){}<>=.:|,;", c))
        return mr_tpl_fail(x->e, MR_EFORMAT, "unexpected character '%c'",
                           c >= ' ' && c < 127 ? c : '?');
    x->brackets += strchr("([{", c) ? 1 : strchr(")]}", c) ? -1 : 0;
    out->op = c;
    x->at++;
    return MR_OK;
}

static mr_err lex_code(mr_tlex *x, mr_ttoken *out)
{
    x->at = skip_space(x, x->at);
    mark_line(x);
    *out = (mr_ttoken){.line = x->line};
    if (x->at >= x->len)
        return mr_tpl_fail(x->e, MR_EFORMAT, "a tag has no end");
    if (x->brackets <= 0) {
        bool block = x->mode == MR_TK_BLOCK_BEGIN;
        if (take_close(x, block ? "%}" : "}}", block)) {
            out->type = block ? MR_TK_BLOCK_END : MR_TK_PRINT_END;
            x->mode = MR_TK_DATA;
            return MR_OK;
        }
    }
    char c = x->s[x->at];
    if (c >= '0' && c <= '9')
        return lex_number(x, out);
    if (c == '\'' || c == '"')
        return lex_string(x, out);
    if (!name_byte(c, true))
        return lex_operator(x, out);
    size_t end = x->at;
    while (end < x->len && name_byte(x->s[end], false))
        end++;
    out->type = MR_TK_NAME;
    out->name = mr_tpl_intern(x->e, x->s + x->at, end - x->at);
    x->at = end;
    return out->name ? MR_OK : MR_ENOMEM;
}

mr_err mr_tlex_next(mr_tlex *x, mr_ttoken *out)
{
    if (x->has_queued) {
        *out = x->queued;
        x->has_queued = false;
        return MR_OK;
    }
    if (x->mode != MR_TK_DATA)
        return lex_code(x, out);
    *out = (mr_ttoken){.line = x->line};
    return lex_data(x, out);
}
