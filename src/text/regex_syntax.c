/* Rewrites an Oniguruma pattern to the PCRE2 pattern that matches the same.
 *
 * What differs, and what becomes of it:
 *   \s \w \d \h \b \v, [:names:]  spelled out with Oniguruma's sets: PCRE2's \s has U+180E, its \w
 *                                 lacks marks, its \h and \v are white space
 *   [a&&[^b]] and nested sets     (?:(?=[a])[^b]), as PCRE2 10.42 knows neither
 *   \p{Han}                       \p{sc:Han}, as PCRE2 means the script extensions
 *   (?m) {,n} \uHHHH              (?s) {0,n} \x{HHHH}
 *   x{n,m}+ and x{n}?             refused: possessive and lazy only in PCRE2
 * ^ and $ are line anchors in both (PCRE2_MULTILINE).  What is not known here is refused by name,
 * so that no pattern silently means something else.
 */
#include <ctype.h>
#include <string.h>
#include <strings.h>

#include "text/regex.h"
#include "text/unicode_versions.h"

#define SPACE_SET                                                                                  \
    "\\x{9}-\\x{d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}"    \
    "\\x{205f}\\x{3000}"
#define HEX_SET "0-9a-fA-F"
/* Numbers that Oniguruma's \w has outside brackets, and not inside. */
#define WORD_OUTSIDE "\\x{b2}\\x{b3}\\x{b9}\\x{bc}-\\x{be}"

enum { SET_DEPTH_MAX = 16, NAME_MAX_LEN = 48 };

typedef struct rewriter {
    const char *what, *begin, *p, *end;
} rewriter;

static mr_err refuse(const rewriter *r, const char *form, const char *at)
{
    size_t offset = (size_t)(at - r->begin);
    return mr_fail(MR_EUNSUPPORTED, "%s: regular expression: %s at byte %zu is not supported",
                   r->what, form, offset);
}

static mr_err broken(const rewriter *r, const char *why)
{
    return mr_fail(MR_EFORMAT, "%s: regular expression: %s", r->what, why);
}

/* ---- named sets -------------------------------------------------------------------------- */

/* What each name holds: words, each a category, +PROPERTY as PCRE2 spells it, or =TEXT of a
 * bracket. Properties lack what is newer than PCRE2's Unicode; the category beside them brings it.
 */
static const struct {
    const char *name, *holds;
} sets[] = {
    {"alpha", "+Alphabetic L"},
    {"alphabetic", "+Alphabetic L"},
    {"alnum", "+Alphabetic L Nd"},
    {"blank", "Zs =\\x{9}"},
    {"cntrl", "Cc"},
    {"digit", "Nd"},
    {"lower", "+Lowercase Ll"},
    {"lowercase", "+Lowercase Ll"},
    {"upper", "+Uppercase Lu"},
    {"uppercase", "+Uppercase Lu"},
    {"punct", "P"},
    {"space", "=" SPACE_SET},
    {"whitespace", "=" SPACE_SET},
    {"word", "+Alphabetic L M Nd Nl Pc"},
    {"xdigit", "=" HEX_SET},
    {"ideographic", "+Ideographic"},
    {"emoji", "+Emoji"},
    {"extendedpictographic", "+Extended_Pictographic"},
    {"letter", "L"},
    {"uppercaseletter", "Lu"},
    {"lowercaseletter", "Ll"},
    {"titlecaseletter", "Lt"},
    {"modifierletter", "Lm"},
    {"otherletter", "Lo"},
    {"mark", "M"},
    {"nonspacingmark", "Mn"},
    {"spacingmark", "Mc"},
    {"enclosingmark", "Me"},
    {"number", "N"},
    {"decimalnumber", "Nd"},
    {"letternumber", "Nl"},
    {"othernumber", "No"},
    {"punctuation", "P"},
    {"connectorpunctuation", "Pc"},
    {"dashpunctuation", "Pd"},
    {"openpunctuation", "Ps"},
    {"closepunctuation", "Pe"},
    {"initialpunctuation", "Pi"},
    {"finalpunctuation", "Pf"},
    {"otherpunctuation", "Po"},
    {"symbol", "S"},
    {"mathsymbol", "Sm"},
    {"currencysymbol", "Sc"},
    {"modifiersymbol", "Sk"},
    {"othersymbol", "So"},
    {"separator", "Z"},
    {"spaceseparator", "Zs"},
    {"lineseparator", "Zl"},
    {"paragraphseparator", "Zp"},
    {"other", "C"},
    {"control", "Cc"},
    {"format", "Cf"},
};

static void add_category(const char *name, size_t len, mr_buf *set)
{
    char category[3] = {(char)toupper((unsigned char)name[0]), 0, 0};
    if (len > 1)
        category[1] = name[1];
    mr_buf_printf(set, "\\p{%s}", category);
    mr_newer_set(category, set);
}

static void add_words(const char *holds, mr_buf *set)
{
    while (*holds) {
        size_t n = strcspn(holds, " ");
        if (*holds == '=')
            mr_buf_add(set, holds + 1, n - 1);
        else if (*holds == '+')
            mr_buf_printf(set, "\\p{%.*s}", (int)n - 1, holds + 1);
        else
            add_category(holds, n, set);
        holds += n;
        holds += *holds == ' ';
    }
}

/* Appends the inside of a bracket for a name of the table; false: not in it. */
static bool add_set(const char *name, mr_buf *set)
{
    for (size_t i = 0; i < sizeof sets / sizeof *sets; i++)
        if (strcmp(sets[i].name, name) == 0) {
            add_words(sets[i].holds, set);
            return true;
        }
    return false;
}

/* One of Unicode's one- and two-letter general categories. */
static bool is_category(const char *name)
{
    static const char list[] =
        " c cc cf cn co cs l ll lm lo lt lu m mc me mn n nd nl no p pc pd pe pf"
        " pi po ps s sc sk sm so z zl zp zs ";
    char key[5] = {' ', name[0], 0, 0, 0};
    size_t n = strlen(name);
    if (n == 0 || n > 2)
        return false;
    memcpy(key + 1, name, n);
    key[n + 1] = ' ';
    return strstr(list, key) != NULL;
}

/* The inside of a bracket for a property's name, as written (raw) and folded. */
static void named_set(const char *raw, const char *folded, mr_buf *set)
{
    if (is_category(folded)) {
        add_category(folded, strlen(folded), set);
        return;
    }
    if (add_set(folded, set))
        return;
    mr_buf_printf(set, "\\p{sc:%s}", raw); /* a script, or PCRE2 says that it knows none such */
    if (strcmp(folded, "han") == 0)
        mr_newer_han_set(set);
}

/* Reads {name}, {^name} or one letter after \p or \P. */
static mr_err property(rewriter *r, bool *negative, mr_buf *set)
{
    char raw[NAME_MAX_LEN + 1], folded[NAME_MAX_LEN + 1];
    size_t n = 0, f = 0;
    const char *at = r->p;
    if (r->p >= r->end || *r->p != '{')
        return refuse(r, "\\p without {name}", at);
    r->p++;
    if (r->p < r->end && *r->p == '^') {
        *negative = !*negative;
        r->p++;
    }
    while (r->p < r->end && *r->p != '}') {
        unsigned char c = (unsigned char)*r->p++;
        if (n == NAME_MAX_LEN || !(isalnum(c) || c == '_' || c == ' ' || c == '-'))
            return refuse(r, "this property's name", at);
        raw[n++] = (char)c;
        if (isalnum(c))
            folded[f++] = (char)tolower(c);
    }
    if (r->p >= r->end)
        return broken(r, "\\p{ without }");
    r->p++;
    raw[n] = folded[f] = 0;
    named_set(raw, folded, set);
    return MR_OK;
}

/* ---- escapes ----------------------------------------------------------------------------- */

/* \xHH, \x{H...}, \uHHHH at r->p (after the letter); as \x{...}. */
static mr_err code_point(rewriter *r, char letter, mr_buf *out)
{
    const char *at = r->p;
    unsigned long cp = 0;
    size_t digits = 0, want = letter == 'u' ? 4 : 2;
    bool braces = letter == 'x' && r->p < r->end && *r->p == '{';
    if (braces) {
        r->p++;
        want = 6;
    }
    while (r->p < r->end && digits < want && isxdigit((unsigned char)*r->p)) {
        char c = (char)tolower((unsigned char)*r->p++);
        cp = cp * 16 + (unsigned long)(c <= '9' ? c - '0' : c - 'a' + 10);
        digits++;
    }
    if (digits == 0 || (letter == 'u' && digits != 4))
        return refuse(r, "a code point without digits", at);
    if (braces && (r->p >= r->end || *r->p++ != '}'))
        return broken(r, "\\x{ without }");
    if (letter == 'x' && !braces && cp >= 0x80)
        return refuse(r, "a raw byte \\xHH", at);
    mr_buf_printf(out, "\\x{%lx}", cp);
    return MR_OK;
}

/* A set written as an escape (\s, \P{L}, ...).  *is_set false: not one; r->p is then unmoved. */
static mr_err set_escape(rewriter *r, mr_buf *set, bool *negative, bool *is_set)
{
    char c = r->p[1];
    const char *name = NULL;
    *is_set = true;
    *negative = isupper((unsigned char)c) != 0;
    switch (tolower((unsigned char)c)) {
    case 's':
        name = "space";
        break;
    case 'w':
        name = "word";
        break;
    case 'd':
        name = "digit";
        break;
    case 'h':
        name = "xdigit";
        break;
    case 'p':
        r->p += 2;
        return property(r, negative, set);
    default:
        *is_set = false;
        return MR_OK;
    }
    r->p += 2;
    add_set(name, set);
    return MR_OK;
}

/* An escape that stands for one character, in brackets or out; r->p at the backslash. */
static mr_err char_escape(rewriter *r, mr_buf *out, bool *known)
{
    char c = r->p[1];
    *known = true;
    if (c == 'x' || c == 'u') {
        r->p += 2;
        return code_point(r, c, out);
    }
    if (c == 'v') {
        mr_buf_puts(out, "\\x{b}");
    } else if (strchr("nrtfae", c)) {
        mr_buf_add(out, r->p, 2);
    } else if ((unsigned char)c >= 0x80) {
        mr_buf_putc(out, c); /* an escaped letter beyond ASCII is itself; its other bytes follow */
    } else if (!isalnum((unsigned char)c)) {
        mr_buf_add(out, r->p, 2);
    } else {
        *known = false;
        return MR_OK;
    }
    r->p += 2;
    return MR_OK;
}

/* The escape at..end is \w or \p{Word}. */
static bool is_word(const char *at, const char *end)
{
    if (at[1] == 'w' || at[1] == 'W')
        return true;
    return (end - at == 8 && strncasecmp(at + 2, "{word}", 6) == 0) ||
           (end - at == 9 && strncasecmp(at + 2, "{^word}", 7) == 0);
}

/* \b and \B with Oniguruma's \w. */
static void boundary(bool inside, mr_buf *out)
{
    mr_buf set = {0};
    add_set("word", &set);
    mr_buf_puts(&set, WORD_OUTSIDE);
    const char *w = set.data ? set.data : "";
    out->failed |= set.failed;
    mr_buf_puts(out, inside ? "(?!" : "(?:");
    mr_buf_printf(out, "(?:(?<=[%s])(?![%s])|(?<![%s])(?=[%s])))", w, w, w, w);
    mr_buf_free(&set);
}

static mr_err escape(rewriter *r, mr_buf *out)
{
    const char *at = r->p;
    if (r->end - r->p < 2 || r->p[1] == 0)
        return broken(r, "it ends in a backslash");
    bool is_set, negative, known;
    mr_buf set = {0};
    mr_err err = set_escape(r, &set, &negative, &is_set);
    if (err == MR_OK && is_set && is_word(at, r->p))
        mr_buf_puts(&set, WORD_OUTSIDE);
    if (err == MR_OK)
        err = mr_buf_check(&set);
    if (err == MR_OK && is_set)
        mr_buf_printf(out, "[%s%s]", negative ? "^" : "", set.data ? set.data : "");
    mr_buf_free(&set);
    if (err || is_set)
        return err;
    MR_TRY(char_escape(r, out, &known));
    if (known)
        return MR_OK;
    char c = r->p[1];
    r->p += 2;
    if (c == 'b' || c == 'B')
        boundary(c == 'B', out);
    else if (strchr("AzZGR123456789", c))
        mr_buf_add(out, at, 2);
    else {
        char form[4] = {'\\', c, 0, 0};
        return refuse(r, form, at);
    }
    return MR_OK;
}

/* ---- bracketed sets ---------------------------------------------------------------------- */

/* One side of &&: what fits inside a plain bracket, and sets that do not (alternatives). */
typedef struct term {
    mr_buf items, others;
} term;

static void term_free(term *t)
{
    mr_buf_free(&t->items);
    mr_buf_free(&t->others);
}

/* A failed buffer makes the one it goes into fail: no set may lose a part on the way. */
static void term_other(term *t, const mr_buf *expr)
{
    t->others.failed |= expr->failed;
    if (t->others.len)
        mr_buf_putc(&t->others, '|');
    mr_buf_add(&t->others, expr->data, expr->len);
}

static void term_without(term *t, const mr_buf *set)
{
    t->others.failed |= set->failed;
    if (t->others.len)
        mr_buf_putc(&t->others, '|');
    mr_buf_puts(&t->others, "[^");
    mr_buf_add(&t->others, set->data, set->len);
    mr_buf_putc(&t->others, ']');
}

static void term_items(term *t, const mr_buf *items)
{
    t->items.failed |= items->failed;
    mr_buf_add(&t->items, items->data, items->len);
}

static mr_err term_close(const rewriter *r, const term *t, mr_buf *expr)
{
    MR_TRY(mr_buf_check(&t->items));
    MR_TRY(mr_buf_check(&t->others));
    if (t->items.len == 0 && t->others.len == 0)
        return broken(r, "an empty set");
    if (t->others.len == 0)
        mr_buf_printf(expr, "[%s]", t->items.data);
    else if (t->items.len == 0)
        mr_buf_printf(expr, "(?:%s)", t->others.data);
    else
        mr_buf_printf(expr, "(?:[%s]|%s)", t->items.data, t->others.data);
    return MR_OK;
}

typedef struct set_parse {
    term now;       /* the side being read */
    mr_buf left;    /* look-aheads for the sides before it */
    bool sides;     /* there was a && */
    bool after_set; /* the item before is a set, so a '-' after it is a hyphen */
} set_parse;

static mr_err parse_set(rewriter *r, int depth, mr_buf *expr, mr_buf *items, bool *plain);

static mr_err posix_bracket(rewriter *r, term *t)
{
    const char *at = r->p, *close = memmem(at, (size_t)(r->end - at), ":]", 2);
    char name[NAME_MAX_LEN + 1];
    if (r->end - r->p < 4)
        return broken(r, "[ without ]");
    bool negative = r->p[2] == '^';
    const char *from = r->p + (negative ? 3 : 2);
    if (!close || close <= from || close - from > NAME_MAX_LEN)
        return refuse(r, "[: without a name and :]", at);
    memcpy(name, from, (size_t)(close - from));
    name[close - from] = 0;
    mr_buf set = {0};
    bool known = add_set(name, &set);
    if (known && strcmp(name, "punct") == 0)
        add_category("s", 1, &set); /* in brackets, and only there, it has the symbols too */
    if (known && negative)
        term_without(t, &set);
    else if (known)
        term_items(t, &set);
    mr_buf_free(&set);
    r->p = close + 2;
    if (known)
        return MR_OK;
    return refuse(r, "this POSIX bracket", at);
}

static mr_err nested_set(rewriter *r, int depth, term *t)
{
    if (r->end - r->p > 1 && r->p[1] == ':')
        return posix_bracket(r, t);
    mr_buf expr = {0}, items = {0};
    bool plain = false;
    r->p++;
    mr_err err = parse_set(r, depth + 1, &expr, &items, &plain);
    if (err == MR_OK && plain)
        term_items(t, &items);
    else if (err == MR_OK)
        term_other(t, &expr);
    mr_buf_free(&expr);
    mr_buf_free(&items);
    return err;
}

static mr_err set_item_escape(rewriter *r, set_parse *sp)
{
    const char *at = r->p;
    if (r->end - r->p < 2 || r->p[1] == 0)
        return broken(r, "it ends in a backslash");
    mr_buf set = {0};
    bool negative, is_set, known;
    mr_err err = set_escape(r, &set, &negative, &is_set);
    if (err == MR_OK)
        err = mr_buf_check(&set);
    if (err == MR_OK && is_set && negative)
        term_without(&sp->now, &set);
    else if (err == MR_OK && is_set)
        term_items(&sp->now, &set);
    mr_buf_free(&set);
    sp->after_set = is_set;
    if (err || is_set)
        return err;
    if (r->p[1] == 'b') { /* in brackets it is the backspace */
        mr_buf_puts(&sp->now.items, "\\x{8}");
        r->p += 2;
        return MR_OK;
    }
    MR_TRY(char_escape(r, &sp->now.items, &known));
    if (!known) {
        char form[4] = {'\\', r->p[1], 0, 0};
        return refuse(r, form, at);
    }
    return MR_OK;
}

static bool starts_set(const rewriter *r, const char *p)
{
    if (p < r->end && *p == '[')
        return true;
    return r->end - p > 1 && *p == '\\' && p[1] != 0 && strchr("sSwWdDhHpP", p[1]);
}

/* One item of a set, not ']' and not "&&". */
static mr_err set_item(rewriter *r, int depth, set_parse *sp, bool first)
{
    char c = *r->p;
    if (c == '\\')
        return set_item_escape(r, sp);
    if (c == '[') {
        sp->after_set = true;
        return nested_set(r, depth, &sp->now);
    }
    bool hyphen = c == '-' && (first || sp->after_set || starts_set(r, r->p + 1) ||
                               (r->end - r->p > 1 && r->p[1] == ']'));
    if (hyphen || c == '^' || c == ']')
        mr_buf_putc(&sp->now.items, '\\');
    mr_buf_putc(&sp->now.items, c);
    sp->after_set = false;
    r->p++;
    return MR_OK;
}

static mr_err set_body(rewriter *r, int depth, set_parse *sp)
{
    for (bool first = true;; first = false) {
        if (r->p >= r->end)
            return broken(r, "[ without ]");
        if (*r->p == ']' && !first) {
            r->p++;
            return MR_OK;
        }
        if (r->end - r->p > 1 && r->p[0] == '&' && r->p[1] == '&') {
            mr_buf_puts(&sp->left, "(?=");
            MR_TRY(term_close(r, &sp->now, &sp->left));
            mr_buf_putc(&sp->left, ')');
            mr_buf_clear(&sp->now.items);
            mr_buf_clear(&sp->now.others);
            sp->sides = true;
            sp->after_set = false;
            r->p += 2;
            continue;
        }
        MR_TRY(set_item(r, depth, sp, first));
    }
}

/* r->p after '['.  *plain: *items holds it all, and it may stand inside another bracket. */
static mr_err parse_set(rewriter *r, int depth, mr_buf *expr, mr_buf *items, bool *plain)
{
    if (depth > SET_DEPTH_MAX)
        return refuse(r, "so deep a nesting of sets", r->p);
    bool negative = r->p < r->end && *r->p == '^';
    if (negative)
        r->p++;
    set_parse sp = {0};
    mr_buf side = {0};
    mr_err err = set_body(r, depth, &sp);
    if (err == MR_OK)
        err = term_close(r, &sp.now, &side);
    if (err == MR_OK)
        err = mr_buf_check(&side);
    if (err == MR_OK)
        err = mr_buf_check(&sp.left);
    if (err == MR_OK) {
        bool simple = !sp.sides && sp.now.others.len == 0;
        *plain = simple && !negative;
        mr_buf_add(items, sp.now.items.data, sp.now.items.len);
        if (simple)
            mr_buf_printf(expr, "[%s%s]", negative ? "^" : "", sp.now.items.data);
        else
            mr_buf_printf(expr, negative ? "(?:(?!%s%s)(?s:.))" : "(?:%s%s)",
                          sp.left.data ? sp.left.data : "", side.data);
        err = mr_buf_check(expr);
    }
    term_free(&sp.now);
    mr_buf_free(&sp.left);
    mr_buf_free(&side);
    return err;
}

/* ---- groups and repeats ------------------------------------------------------------------ */

static mr_err group(rewriter *r, mr_buf *out)
{
    const char *at = r->p;
    if (r->end - r->p > 1 && r->p[1] == '*')
        return refuse(r, "(*", at);
    if (r->end - r->p < 3 || r->p[1] != '?') {
        mr_buf_putc(out, *r->p++);
        return MR_OK;
    }
    if (r->p[2] == '#') {
        while (r->p < r->end && *r->p != ')')
            r->p++;
        if (r->p >= r->end)
            return broken(r, "(?# without )");
        r->p++;
        return MR_OK;
    }
    if (strchr(":=!><", r->p[2]) && r->p[2] != 0) {
        mr_buf_add(out, r->p, 3);
        r->p += 3;
        return MR_OK;
    }
    mr_buf_puts(out, "(?");
    r->p += 2;
    while (r->p < r->end && *r->p != ')' && *r->p != ':') {
        if (*r->p != 'i' && *r->p != 'm' && *r->p != '-')
            return refuse(r, "this form of (?", at);
        mr_buf_putc(out, *r->p == 'm' ? 's' : *r->p);
        r->p++;
    }
    if (r->p >= r->end)
        return broken(r, "( without )");
    if (*r->p == ')' && at != r->begin) /* Oniguruma's reaches over |, PCRE2's does not */
        return refuse(r, "an option inside the pattern", at);
    mr_buf_putc(out, *r->p++);
    return MR_OK;
}

static mr_err repeat(rewriter *r, mr_buf *out)
{
    const char *at = r->p, *p = r->p + 1, *low = p, *high = NULL;
    while (p < r->end && isdigit((unsigned char)*p))
        p++;
    size_t low_len = (size_t)(p - low), high_len = 0;
    bool comma = p < r->end && *p == ',';
    if (comma) {
        high = ++p;
        while (p < r->end && isdigit((unsigned char)*p))
            p++;
        high_len = (size_t)(p - high);
    }
    if (p >= r->end || *p != '}' || low_len + high_len == 0) {
        mr_buf_puts(out, "\\{");
        r->p++;
        return MR_OK;
    }
    p++;
    if (p < r->end && (*p == '+' || (*p == '?' && !comma)))
        return refuse(r, *p == '+' ? "{n,m}+" : "{n}?", at);
    if (low_len == 0)
        mr_buf_printf(out, "{0,%.*s}", (int)high_len, high);
    else
        mr_buf_add(out, at, (size_t)(p - at));
    r->p = p;
    return MR_OK;
}

mr_err mr_regex_rewrite(const char *what, const char *pattern, size_t len, mr_buf *out)
{
    rewriter r = {what, pattern, pattern, pattern + len};
    if (mr_utf8_check(pattern, len) != len)
        return broken(&r, "it is not UTF-8");
    if (memchr(pattern, 0, len))
        return refuse(&r, "a NUL", pattern);
    while (r.p < r.end) {
        switch (*r.p) {
        case '\\':
            MR_TRY(escape(&r, out));
            break;
        case '[': {
            mr_buf items = {0};
            bool plain;
            r.p++;
            mr_err err = parse_set(&r, 0, out, &items, &plain);
            mr_buf_free(&items);
            MR_TRY(err);
            break;
        }
        case '(':
            MR_TRY(group(&r, out));
            break;
        case '{':
            MR_TRY(repeat(&r, out));
            break;
        default:
            mr_buf_putc(out, *r.p++);
        }
    }
    if (out->len == 0)
        mr_buf_puts(out, "(?:)");
    return mr_buf_check(out);
}
