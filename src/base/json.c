/* The JSON parser: one pass over the text, one node for each value, no recursion.
 *
 * Containers that are open stand on a stack of fixed depth.  A node is complete when its container
 * closes: only then are its subtree's end, its count and its last child known.  The text is not
 * changed and nothing is decoded; strings and numbers are only checked.
 */
#include "base/json.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/json_doc.h"
#include "base/mem.h"

enum { DEPTH_MAX = 128, NODES_MAX = 0x7fffffff /* see `after` */ };

typedef struct frame {
    uint32_t node, last, count;
} frame;

typedef struct parser {
    const char *text, *p, *end, *file;
    mr_json_node *nodes;
    size_t count, cap;
    int depth;
    frame stack[DEPTH_MAX];
} parser;

/* ---- messages -------------------------------------------------------------------------------- */

static mr_err bad(const parser *s, const char *at, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

static mr_err bad(const parser *s, const char *at, const char *fmt, ...)
{
    size_t line = 1;
    for (const char *p = s->text; (p = memchr(p, '\n', (size_t)(at - p))) != NULL; p++)
        line++;
    char what[160];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(what, sizeof what, fmt, ap);
    va_end(ap);
    return mr_fail(MR_EFORMAT, "%s:%zu: %s", s->file, line, what);
}

static mr_err needed(const parser *s, const char *what)
{
    if (s->p == s->end)
        return bad(s, s->p, "%s is needed, but the text ends", what);
    unsigned char c = (unsigned char)*s->p;
    if (c > 0x20 && c < 0x7f)
        return bad(s, s->p, "%s is needed, not '%c'", what, c);
    return bad(s, s->p, "%s is needed, not byte 0x%02x", what, c);
}

/* ---- scalars --------------------------------------------------------------------------------- */

/* Files are often indented by long runs of spaces. */
static void skip_space(parser *s)
{
    const char *p = s->p;
    for (;;) {
        while (s->end - p >= 8 && memcmp(p, "        ", 8) == 0)
            p += 8;
        if (p == s->end || (*p != ' ' && *p != '\n' && *p != '\t' && *p != '\r'))
            break;
        p++;
    }
    s->p = p;
}

static bool is_digit(const parser *s)
{
    return s->p < s->end && *s->p >= '0' && *s->p <= '9';
}

static mr_err skip_digits(parser *s, const char *where)
{
    if (!is_digit(s))
        return needed(s, where);
    while (is_digit(s))
        s->p++;
    return MR_OK;
}

static bool here(const parser *s, const char *word)
{
    size_t n = strlen(word);
    return (size_t)(s->end - s->p) >= n && memcmp(s->p, word, n) == 0;
}

static mr_err scan_number(parser *s)
{
    if (here(s, "-Infinity"))
        return bad(s, s->p, "-Infinity is not JSON");
    if (*s->p == '-')
        s->p++;
    if (here(s, "0")) {
        s->p++;
        if (is_digit(s))
            return bad(s, s->p, "a number begins with a superfluous zero");
    } else {
        MR_TRY(skip_digits(s, "a digit"));
    }
    if (here(s, ".")) {
        s->p++;
        MR_TRY(skip_digits(s, "a digit after the decimal point"));
    }
    if (here(s, "e") || here(s, "E")) {
        s->p++;
        if (here(s, "+") || here(s, "-"))
            s->p++;
        MR_TRY(skip_digits(s, "a digit of the exponent"));
    }
    return MR_OK;
}

static mr_err scan_word(parser *s)
{
    static const char *const words[] = {"null", "true", "false"};
    for (int i = 0; i < 3; i++) {
        if (here(s, words[i])) {
            s->p += strlen(words[i]);
            return MR_OK;
        }
    }
    if (here(s, "NaN") || here(s, "Infinity"))
        return bad(s, s->p, "%s is not JSON", *s->p == 'N' ? "NaN" : "Infinity");
    return needed(s, "a value");
}

/* Four hexadecimal digits at `at`, or -1. */
static int hex_unit(const parser *s, const char *at)
{
    int n = 0;
    if (s->end - at < 4)
        return -1;
    for (int i = 0; i < 4; i++) {
        char c = at[i];
        int digit = c >= '0' && c <= '9'   ? c - '0'
                    : c >= 'a' && c <= 'f' ? c - 'a' + 10
                    : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                           : -1;
        if (digit < 0)
            return -1;
        n = n << 4 | digit;
    }
    return n;
}

/* s->p is at a backslash. */
static mr_err scan_escape(parser *s)
{
    const char *at = s->p;
    if (s->end - at < 2)
        return bad(s, at, "a string does not end");
    if (at[1] != 'u') {
        if (at[1] == '\0' || !strchr("\"\\/bfnrt", at[1]))
            return bad(s, at, "an escape that JSON does not have");
        s->p += 2;
        return MR_OK;
    }
    int unit = hex_unit(s, at + 2);
    if (unit < 0)
        return bad(s, at, "\\u is not followed by four hexadecimal digits");
    s->p += 6;
    if (unit < 0xd800 || unit > 0xdfff)
        return MR_OK;
    int low = unit < 0xdc00 && here(s, "\\u") ? hex_unit(s, s->p + 2) : -1;
    if (low < 0xdc00 || low > 0xdfff)
        return bad(s, at, "an unpaired surrogate (\\u%04x)", (unsigned)unit);
    s->p += 6;
    return MR_OK;
}

/* A word of eight bytes of which none ends, escapes, is below 0x20 or above 0x7f.  Each test is
 * the usual one for a zero byte: exact for "is there one", which is all that is asked. */
static bool all_plain(const char *p)
{
    const uint64_t ones = 0x0101010101010101u, tops = 0x8080808080808080u;
    uint64_t w;
    memcpy(&w, p, 8);
    uint64_t quote = w ^ ones * '"', slash = w ^ ones * '\\';
    uint64_t hit =
        ((w - ones * 0x20) & ~w) | ((quote - ones) & ~quote) | ((slash - ones) & ~slash) | w;
    return (hit & tops) == 0;
}

/* s->p is at the opening quote; leaves it past the closing one. */
static mr_err scan_string(parser *s)
{
    const char *open = s->p++;
    for (;;) {
        while (s->end - s->p >= 8 && all_plain(s->p))
            s->p += 8;
        if (s->p == s->end)
            return bad(s, open, "a string does not end");
        unsigned char c = (unsigned char)*s->p;
        if (c == '"') {
            s->p++;
            return MR_OK;
        }
        if (c == '\\') {
            MR_TRY(scan_escape(s));
        } else if (c < 0x20) {
            return bad(s, s->p, "a control character (0x%02x) in a string", c);
        } else if (c < 0x80) {
            s->p++;
        } else {
            uint32_t cp;
            int n = mr_utf8_decode(s->p, (size_t)(s->end - s->p), &cp);
            if (n == 0)
                return bad(s, s->p, "invalid UTF-8 (byte 0x%02x)", c);
            s->p += n;
        }
    }
}

/* ---- structure ------------------------------------------------------------------------------- */

/* Nodes are at most half the characters, so their number is bounded by what was given. */
static mr_err add_node(parser *s, uint32_t key)
{
    if (s->count == s->cap) {
        size_t cap = s->cap + s->cap / 2;
        cap = cap < NODES_MAX ? cap : NODES_MAX;
        if (s->count == cap)
            return bad(s, s->p, "more than %d values", NODES_MAX);
        mr_json_node *nodes = mr_realloc(MR_MEM_COMPILE, s->nodes, cap * sizeof *nodes);
        if (!nodes)
            return MR_ENOMEM;
        s->nodes = nodes;
        s->cap = cap;
    }
    uint32_t index = (uint32_t)s->count++;
    s->nodes[index] = (mr_json_node){
        .start = (uint32_t)(s->p - s->text), .key = key, .after = index + 1, .last = 0};
    if (s->depth > 0) {
        frame *f = &s->stack[s->depth - 1];
        f->last = index;
        f->count++;
    }
    return MR_OK;
}

static bool in_object(const parser *s)
{
    return s->depth > 0 && s->text[s->nodes[s->stack[s->depth - 1].node].start] == '{';
}

/* s->p is at the bracket that closes the innermost container. */
static mr_err close_container(parser *s)
{
    bool object = in_object(s);
    frame f = s->stack[--s->depth];
    mr_json_node *n = &s->nodes[f.node];
    n->after = (uint32_t)s->count & 0x7fffffff;
    n->end_or_count = f.count;
    if (f.count > 0)
        s->nodes[f.last].last = 1;
    s->p++;
    if (!object || f.count < 2)
        return MR_OK;
    uint32_t twice;
    MR_TRY(mr_json_find_twice(s->text, s->nodes, f.node, f.count, &twice));
    if (!twice)
        return MR_OK;
    uint32_t at = s->nodes[twice].key;
    uint32_t len = mr_json_string_end(s->text, at) - at;
    return bad(s, s->text + at, "duplicate key %.*s", len > 100 ? 100 : (int)len, s->text + at);
}

/* A scalar whole, or the opening of a container; *opened if children follow. */
static mr_err begin_value(parser *s, uint32_t key, bool *opened)
{
    *opened = false;
    skip_space(s);
    if (s->p == s->end)
        return needed(s, "a value");
    char c = *s->p;
    if (c == '{' || c == '[') {
        if (s->depth == DEPTH_MAX)
            return bad(s, s->p, "nested deeper than %d", DEPTH_MAX);
        MR_TRY(add_node(s, key));
        s->stack[s->depth++] = (frame){.node = (uint32_t)(s->count - 1)};
        s->p++;
        skip_space(s);
        if (here(s, c == '{' ? "}" : "]"))
            return close_container(s);
        *opened = true;
        return MR_OK;
    }
    MR_TRY(add_node(s, key));
    if (c == '"')
        MR_TRY(scan_string(s));
    else if (c == '-' || (c >= '0' && c <= '9'))
        MR_TRY(scan_number(s));
    else
        MR_TRY(scan_word(s));
    s->nodes[s->count - 1].end_or_count = (uint32_t)(s->p - s->text);
    return MR_OK;
}

/* Before a child: in an object its key and the colon. */
static mr_err begin_child(parser *s, uint32_t *key)
{
    *key = 0;
    if (!in_object(s))
        return MR_OK;
    skip_space(s);
    if (!here(s, "\""))
        return needed(s, "a key");
    *key = (uint32_t)(s->p - s->text);
    MR_TRY(scan_string(s));
    skip_space(s);
    if (!here(s, ":"))
        return needed(s, "':'");
    s->p++;
    return MR_OK;
}

/* After a value: closes what closes here.  *more if a sibling follows, at any level. */
static mr_err end_value(parser *s, bool *more)
{
    *more = false;
    while (s->depth > 0) {
        bool object = in_object(s);
        skip_space(s);
        if (here(s, ",")) {
            s->p++;
            *more = true;
            return MR_OK;
        }
        if (!here(s, object ? "}" : "]"))
            return needed(s, object ? "',' or '}'" : "',' or ']'");
        MR_TRY(close_container(s));
    }
    return MR_OK;
}

static mr_err parse_text(parser *s)
{
    if (here(s, "\xef\xbb\xbf"))
        return bad(s, s->p, "the text begins with a byte order mark");
    uint32_t key = 0;
    for (bool more = true; more;) {
        bool opened;
        MR_TRY(begin_value(s, key, &opened));
        if (!opened)
            MR_TRY(end_value(s, &more));
        if (more)
            MR_TRY(begin_child(s, &key));
    }
    s->nodes[0].last = 1;
    skip_space(s);
    if (s->p != s->end)
        return needed(s, "the end of the text");
    return MR_OK;
}

mr_err mr_json_parse(mr_json **out, const char *file, const char *text, size_t len)
{
    *out = NULL;
    if (len > UINT32_MAX)
        return mr_fail(MR_EFORMAT, "%s: JSON of %zu bytes: 4 GiB or more", file, len);
    if (len == 0)
        text = ""; /* it may be NULL */
    size_t name = strlen(file) + 1;
    mr_json *doc = mr_alloc(MR_MEM_COMPILE, sizeof *doc + name);
    if (!doc)
        return MR_ENOMEM;
    parser s = {.text = text, .p = text, .end = text + len, .file = file};
    s.cap = len / 16 + 16; /* a tokenizer's file has about one value in 16 bytes */
    s.nodes = mr_alloc(MR_MEM_COMPILE, s.cap * sizeof *s.nodes);
    mr_err err = s.nodes ? parse_text(&s) : MR_ENOMEM;
    if (err != MR_OK) {
        mr_free(s.nodes);
        mr_free(doc);
        return err;
    }
    if (s.cap - s.count > s.count / 8) {
        mr_json_node *fit = mr_realloc(MR_MEM_COMPILE, s.nodes, s.count * sizeof *fit);
        s.nodes = fit ? fit : s.nodes; /* to hold more than is needed is no error */
    }
    *doc = (mr_json){.text = text, .len = len, .nodes = s.nodes, .count = (uint32_t)s.count};
    memcpy(doc->file, file, name);
    *out = doc;
    return MR_OK;
}
