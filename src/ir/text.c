/* The text form of a graph (docs/ir.md): printing, and a parser by descent that never recurses.
 * Declared shapes are not believed: the op's rule derives them, and the declared type must agree.
 */
#include "ir/graph_internal.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- printing ---- */

static void print_id(const mr_graph *g, int v, mr_buf *out)
{
    char id[24];
    if (v == MR_NONE)
        mr_buf_putc(out, '_');
    else
        mr_buf_printf(out, "%%%s", mr_value_id(g, v, id));
}

void mr_attr_text(const mr_attr_info *a, mr_attr value, mr_buf *out)
{
    char number[32];
    if (a->kind == 's')
        mr_buf_json(out, value.s, strlen(value.s));
    else if (a->kind == 'i')
        mr_buf_printf(out, "%lld", (long long)value.i);
    else
        mr_buf_puts(out, mr_float_text(value.f, number));
}

static void print_node(const mr_graph *g, const mr_node *n, mr_buf *out)
{
    const mr_op_info *o = mr_op_get(n->op);
    char type[MR_TYPE_TEXT];
    for (int i = 0; i < n->n_out; i++) {
        mr_buf_puts(out, i ? ", " : "  ");
        print_id(g, n->out[i], out);
        mr_buf_printf(out, ": %s", mr_type_text(g, mr_graph_value(g, n->out[i]), type));
    }
    mr_buf_printf(out, " = %s", o->name);
    for (int i = 0; i < n->n_in; i++) {
        mr_buf_puts(out, i ? ", " : "(");
        print_id(g, n->in[i], out);
    }
    if (n->n_in)
        mr_buf_putc(out, ')');
    for (int i = 0; i < o->n_attr; i++) {
        mr_buf_printf(out, " %s=", o->attr[i].name);
        mr_attr_text(&o->attr[i], n->attr[i], out);
    }
    mr_buf_putc(out, '\n');
}

mr_err mr_graph_print(const mr_graph *g, mr_buf *out)
{
    MR_TRY(mr_graph_sound(g));
    mr_buf_puts(out, "graph ");
    mr_buf_json(out, g->name, strlen(g->name));
    mr_buf_puts(out, " {\n");
    for (int i = 0; i < g->n_nodes; i++)
        print_node(g, g->node[i], out);
    for (int i = 0; i < g->n_outputs; i++) {
        mr_buf_puts(out, "  output ");
        print_id(g, g->output[i].value, out);
        mr_buf_puts(out, " as ");
        mr_buf_json(out, g->output[i].name, strlen(g->output[i].name));
        mr_buf_putc(out, '\n');
    }
    mr_buf_puts(out, "}\n");
    return mr_buf_check(out);
}

/* ---- reading: words ---- */

enum { MAX_TEXT = 1 << 24 };

typedef struct parser {
    const char *file, *text, *p, *end;
    mr_graph *g;
    mr_arena *arena; /* what only the parser needs */
    mr_names ids;    /* identifiers of the text */
} parser;

/* "FILE:LINE:COLUMN: ..." for the place `at` */
static mr_err __attribute__((format(printf, 3, 4)))
fail_at(const parser *p, const char *at, const char *fmt, ...)
{
    char what[MR_ERR_MAX];
    int line = 1;
    const char *start = p->text;
    for (const char *s = p->text; s < at; s++)
        if (*s == '\n') {
            line++;
            start = s + 1;
        }
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(what, sizeof what, fmt, ap);
    va_end(ap);
    return mr_fail(MR_EFORMAT, "%.200s:%d:%d: %s", p->file, line, (int)(at - start) + 1, what);
}

/* An error of the graph gets the place before it. */
static mr_err fail_here(const parser *p, const char *at, mr_err e)
{
    char what[MR_ERR_MAX];
    if (e != MR_EFORMAT)
        return e;
    snprintf(what, sizeof what, "%s", mr_error());
    return fail_at(p, at, "%s", what);
}

static void skip(parser *p)
{
    for (; p->p < p->end; p->p++)
        if (*p->p == '#') {
            while (p->p + 1 < p->end && p->p[1] != '\n')
                p->p++;
        } else if (!strchr(" \t\r\n", *p->p)) {
            return;
        }
}

/* The next character after blanks, NUL at the end (the text holds no NUL). */
static char peek(parser *p)
{
    skip(p);
    return p->p < p->end ? *p->p : 0;
}

static bool accept(parser *p, char c)
{
    if (peek(p) != c)
        return false;
    p->p++;
    return true;
}

static mr_err expect(parser *p, char c)
{
    return accept(p, c) ? MR_OK : fail_at(p, p->p, "'%c' expected", c);
}

/* A run of name characters; `what` for the message. */
static mr_err word(parser *p, const char *what, const char **out)
{
    skip(p);
    const char *s = p->p;
    while (p->p < p->end && mr_name_char(*p->p))
        p->p++;
    size_t n = (size_t)(p->p - s);
    if (n == 0)
        return fail_at(p, s, "%s expected", what);
    if (n > MR_MAX_NAME)
        return fail_at(p, s, "%s of over %d bytes", what, MR_MAX_NAME);
    *out = mr_arena_strndup(p->arena, s, n);
    return *out ? MR_OK : MR_ENOMEM;
}

static mr_err keyword(parser *p, const char *name)
{
    const char *w;
    skip(p);
    const char *at = p->p;
    MR_TRY(word(p, name, &w));
    return strcmp(w, name) ? fail_at(p, at, "%s expected", name) : MR_OK;
}

/* \uXXXX at p (behind the 'u'); the code unit, or -1 */
static long hex4(const char *p, const char *end)
{
    long unit = 0;
    if (end - p < 4)
        return -1;
    for (int i = 0; i < 4; i++) {
        const char *digits = "0123456789abcdef", c = p[i];
        const char *d = c ? strchr(digits, c >= 'A' && c <= 'F' ? c + 32 : c) : NULL;
        if (!d)
            return -1;
        unit = 16 * unit + (d - digits);
    }
    return unit;
}

/* The escape at p->p (behind the backslash) into *dst. */
static mr_err escape(parser *p, char **dst)
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    const char *at = p->p - 1;
    char c = p->p < p->end ? *p->p++ : 0;
    const char *simple = c ? strchr(from, c) : NULL;
    if (simple) {
        *(*dst)++ = to[simple - from];
        return MR_OK;
    }
    long unit = c == 'u' ? hex4(p->p, p->end) : -1;
    if (unit <= 0)
        return fail_at(p, at, "bad escape in string");
    p->p += 4;
    if (unit >= 0xD800 && unit < 0xE000) {
        bool pair = unit < 0xDC00 && p->end - p->p >= 6 && p->p[0] == '\\' && p->p[1] == 'u';
        long low = pair ? hex4(p->p + 2, p->end) : -1;
        if (low < 0xDC00 || low >= 0xE000)
            return fail_at(p, at, "unpaired surrogate in string");
        p->p += 6;
        unit = 0x10000 + ((unit - 0xD800) << 10) + (low - 0xDC00);
    }
    *dst += mr_utf8_encode((uint32_t)unit, *dst);
    return MR_OK;
}

static mr_err string(parser *p, const char **out)
{
    MR_TRY(expect(p, '"'));
    const char *at = p->p - 1, *close = p->p;
    while (close < p->end && *close != '"')
        close += *close == '\\' && close + 1 < p->end ? 2 : 1;
    if (close >= p->end)
        return fail_at(p, at, "string without an end");
    /* no escape is shorter than what it stands for */
    char *s = mr_arena_alloc(p->arena, (size_t)(close - p->p) + 1), *dst = s;
    if (!s)
        return MR_ENOMEM;
    while (p->p < close) {
        unsigned char c = (unsigned char)*p->p++;
        if (c < 0x20)
            return fail_at(p, p->p - 1, "control character in string");
        if (c == '\\')
            MR_TRY(escape(p, &dst));
        else
            *dst++ = (char)c;
    }
    p->p = close + 1;
    *out = s;
    return MR_OK;
}

/* The characters of a number, at most 63, into buf. */
static void number_text(parser *p, char *buf)
{
    size_t n = 0;
    skip(p);
    while (p->p < p->end && n < 63 && strchr("0123456789+-.eE", *p->p))
        buf[n++] = *p->p++;
    buf[n] = 0;
}

static mr_err integer(parser *p, int64_t *out)
{
    char buf[64], *end;
    skip(p);
    const char *at = p->p;
    number_text(p, buf);
    errno = 0;
    long long i = strtoll(buf, &end, 10);
    if (end == buf || *end)
        return fail_at(p, at, "integer expected");
    if (errno)
        return fail_at(p, at, "integer out of range");
    *out = i;
    return MR_OK;
}

/* ---- reading: types ---- */

static mr_err dim(parser *p, mr_dim *d)
{
    *d = (mr_dim){.n = 1};
    char c = peek(p);
    const char *at = p->p, *name;
    if (c >= '0' && c <= '9') {
        MR_TRY(integer(p, &d->n));
        if (!accept(p, '*'))
            return MR_OK;
        skip(p);
        at = p->p;
    }
    MR_TRY(word(p, "size", &name));
    d->sym = mr_graph_symbol(p->g, name);
    if (d->sym == MR_NONE && !p->g->failed)
        return fail_at(p, at, "bad symbol %.40s, or over %d symbols", name, MR_MAX_SYMBOLS);
    return mr_graph_sound(p->g);
}

static mr_err format(parser *p, mr_fmt *out)
{
    char name[32];
    size_t n = 0;
    MR_TRY(expect(p, '<'));
    const char *at = p->p;
    while (p->p < p->end && n < sizeof name - 1 && *p->p != '>')
        name[n++] = *p->p++;
    name[n] = 0;
    if (!mr_fmt_parse(name, out))
        return fail_at(p, at, "unknown format %s", name);
    return expect(p, '>');
}

static mr_err type(parser *p, mr_value *v)
{
    const char *name;
    skip(p);
    const char *at = p->p;
    MR_TRY(word(p, "type", &name));
    memset(v, 0, sizeof *v);
    if (!strcmp(name, "cache")) {
        v->type = MR_V_CACHE;
        return MR_OK;
    }
    if (!strcmp(name, "weight")) {
        v->type = MR_V_WEIGHT;
        MR_TRY(format(p, &v->fmt));
    } else if (!strcmp(name, "i32")) {
        v->type = MR_V_I32;
    } else if (strcmp(name, "f32")) {
        return fail_at(p, at, "type %.40s is none of f32, i32, weight, cache", name);
    }
    MR_TRY(expect(p, '['));
    do {
        if (v->rank == MR_MAX_RANK)
            return fail_at(p, p->p, "over %d axes", MR_MAX_RANK);
        MR_TRY(dim(p, &v->dim[v->rank++]));
    } while (accept(p, ','));
    return expect(p, ']');
}

/* ---- reading: statements ---- */

typedef struct result {
    const char *at, *name;
    bool typed;
    mr_value type;
} result;

typedef struct statement {
    const char *at;
    mr_op op;
    const mr_op_info *info;
    result result[MR_MAX_OUT];
    int n_out, in[MR_MAX_IN], n_in;
    mr_attr attr[MR_MAX_ATTR];
} statement;

static mr_err results(parser *p, statement *s)
{
    do {
        if (s->n_out == MR_MAX_OUT)
            return fail_at(p, p->p, "over %d results", MR_MAX_OUT);
        result *r = &s->result[s->n_out++];
        MR_TRY(expect(p, '%'));
        r->at = p->p - 1;
        MR_TRY(word(p, "name", &r->name));
        for (int i = 0; i < s->n_out - 1; i++)
            if (!strcmp(s->result[i].name, r->name))
                return fail_at(p, r->at, "%%%s is defined twice", r->name);
        if (mr_names_find(&p->ids, r->name, strlen(r->name)))
            return fail_at(p, r->at, "%%%s is defined twice", r->name);
        r->typed = accept(p, ':');
        if (r->typed)
            MR_TRY(type(p, &r->type));
    } while (accept(p, ','));
    return expect(p, '=');
}

static mr_err value(parser *p, int *out)
{
    const char *name;
    MR_TRY(expect(p, '%'));
    const char *at = p->p - 1;
    MR_TRY(word(p, "name", &name));
    const mr_name_slot *s = mr_names_find(&p->ids, name, strlen(name));
    if (!s)
        return fail_at(p, at, "%%%s is not defined before this", name);
    *out = s->value;
    return MR_OK;
}

static mr_err operands(parser *p, statement *s)
{
    if (!accept(p, '('))
        return MR_OK;
    do {
        if (s->n_in == MR_MAX_IN)
            return fail_at(p, p->p, "over %d operands", MR_MAX_IN);
        s->in[s->n_in] = MR_NONE;
        if (!accept(p, '_'))
            MR_TRY(value(p, &s->in[s->n_in]));
        s->n_in++;
    } while (accept(p, ','));
    return expect(p, ')');
}

static mr_err attr_value(parser *p, const mr_attr_info *a, mr_attr *out)
{
    char buf[64];
    if (a->kind == 's')
        return string(p, &out->s);
    if (a->kind == 'i')
        return integer(p, &out->i);
    skip(p);
    const char *at = p->p;
    number_text(p, buf);
    return mr_float_read(buf, &out->f) ? MR_OK : fail_at(p, at, "number expected");
}

static mr_err attrs(parser *p, statement *s)
{
    bool given[MR_MAX_ATTR] = {false};
    const mr_op_info *o = s->info;
    for (;;) {
        const char *name;
        char c = peek(p);
        const char *at = p->p;
        if (!mr_name_char(c))
            break;
        MR_TRY(word(p, "attribute", &name));
        if (peek(p) != '=') { /* the next statement's first word */
            p->p = at;
            break;
        }
        p->p++;
        int i = 0;
        while (i < o->n_attr && strcmp(o->attr[i].name, name))
            i++;
        if (i == o->n_attr)
            return fail_at(p, at, "%s has no attribute %.40s", o->name, name);
        if (given[i])
            return fail_at(p, at, "attribute %s is given twice", name);
        given[i] = true;
        MR_TRY(attr_value(p, &o->attr[i], &s->attr[i]));
    }
    for (int i = 0; i < o->n_attr; i++) {
        if (!given[i] && o->attr[i].required)
            return fail_at(p, s->at, "%s needs attribute %s", o->name, o->attr[i].name);
        if (!given[i])
            s->attr[i] = o->attr[i].def;
    }
    return MR_OK;
}

static bool agrees(const mr_value *a, const mr_value *b)
{
    bool same = a->type == b->type && a->rank == b->rank;
    for (int i = 0; same && i < a->rank; i++)
        same = mr_dim_equal(a->dim[i], b->dim[i]);
    return same && (a->type != MR_V_WEIGHT || mr_fmt_equal(a->fmt, b->fmt));
}

/* Gives value v the identifier, and the name unless it is a number. */
static mr_err define(parser *p, const result *r, int v)
{
    const mr_value *x = mr_graph_value(p->g, v);
    char declared[MR_TYPE_TEXT], derived[MR_TYPE_TEXT];
    if (r->typed && !agrees(&r->type, x))
        return fail_at(p, r->at, "%%%.40s is declared %s, it is %s", r->name,
                       mr_type_text(p->g, &r->type, declared), mr_type_text(p->g, x, derived));
    if (r->name[strspn(r->name, "0123456789")])
        mr_graph_name_value(p->g, v, r->name);
    return mr_names_put(&p->ids, r->name, v);
}

static mr_err node(parser *p)
{
    statement s = {0};
    const char *name;
    MR_TRY(results(p, &s));
    skip(p);
    s.at = p->p;
    MR_TRY(word(p, "op", &name));
    s.op = mr_op_find(name, strlen(name));
    if (s.op == MR_OP_COUNT)
        return fail_at(p, s.at, "unknown op %.40s", name);
    s.info = mr_op_get(s.op);
    if (s.n_out != s.info->n_out)
        return fail_at(p, s.at, "%s gives %d results", name, s.info->n_out);
    MR_TRY(operands(p, &s));
    MR_TRY(attrs(p, &s));
    bool leaf = s.op == MR_OP_INPUT || s.op == MR_OP_WEIGHT;
    if (leaf && !s.result[0].typed)
        return fail_at(p, s.result[0].at, "%s needs a type", name);
    int first;
    mr_err e =
        mr_graph_add_any(p->g, s.op, s.in, s.n_in, s.attr, leaf ? &s.result[0].type : NULL, &first);
    if (e != MR_OK)
        return fail_here(p, s.at, e);
    for (int i = 0; i < s.n_out; i++)
        MR_TRY(define(p, &s.result[i], first + i));
    return mr_graph_sound(p->g);
}

static mr_err output(parser *p)
{
    int v;
    const char *name, *at = p->p;
    MR_TRY(keyword(p, "output"));
    MR_TRY(value(p, &v));
    MR_TRY(keyword(p, "as"));
    MR_TRY(string(p, &name));
    return fail_here(p, at, mr_graph_output(p->g, v, name));
}

static mr_err body(parser *p)
{
    const char *name;
    size_t bad = mr_utf8_check(p->text, (size_t)(p->end - p->text));
    const char *nul = memchr(p->text, 0, (size_t)(p->end - p->text));
    if (bad < (size_t)(p->end - p->text) || nul)
        return fail_at(p, nul ? nul : p->text + bad, "not UTF-8 text");
    MR_TRY(keyword(p, "graph"));
    MR_TRY(string(p, &name));
    MR_TRY(mr_graph_new(&p->g, name));
    MR_TRY(expect(p, '{'));
    while (!accept(p, '}')) {
        if (peek(p) == '%')
            MR_TRY(node(p));
        else if (peek(p) == 'o')
            MR_TRY(output(p));
        else
            return fail_at(p, p->p, "a statement or '}' expected");
    }
    if (peek(p))
        return fail_at(p, p->p, "text after the graph");
    mr_err e = mr_graph_verify(p->g);
    return e == MR_OK ? MR_OK : mr_fail_in(e, "%.200s", p->file);
}

mr_err mr_graph_parse(mr_graph **out, const char *file, const char *text, size_t len)
{
    if (len > MAX_TEXT)
        return mr_fail(MR_ELIMIT, "%.200s: a graph's text has at most %d bytes, this has %zu", file,
                       MAX_TEXT, len);
    parser p = {.file = file, .text = text, .p = text, .end = text + len};
    MR_TRY(mr_arena_new(&p.arena, MR_MEM_COMPILE));
    mr_names_init(&p.ids, p.arena);
    mr_err e = body(&p);
    mr_arena_free(p.arena);
    if (e != MR_OK)
        mr_graph_free(p.g);
    else
        *out = p.g;
    return e;
}
