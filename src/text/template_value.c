/* The template's values: making, comparing and printing them, as Python does.
 *
 * Strings know their number of characters, so that text that is ASCII is indexed at once.
 */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "text/template.h"
#include "text/unicode.h"

/* ---- errors and costs -------------------------------------------------------------------- */

mr_err mr_tpl_fail(const mr_tpl *e, mr_err code, const char *fmt, ...)
{
    char text[320];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    size_t n = strlen(text), valid = mr_utf8_check(text, n);
    text[valid] = 0; /* what was cut inside a character */
    for (size_t i = 0; i < valid; i++)
        if ((unsigned char)text[i] < ' ')
            text[i] = ' ';
    return mr_fail(code, "chat template, line %d: %s", e->line, text);
}

mr_err mr_tpl_pay(mr_tpl *e, size_t items)
{
    int64_t cost = 1 + (int64_t)(items / 16);
    if (e->steps < cost)
        return mr_tpl_fail(e, MR_ELIMIT, "it takes more than %d steps", MR_TPL_STEPS);
    e->steps -= cost;
    return MR_OK;
}

mr_err mr_tpl_enter(mr_tpl *e)
{
    if (e->depth >= MR_TPL_DEPTH)
        return mr_tpl_fail(e, MR_ELIMIT, "nested more than %d deep", MR_TPL_DEPTH);
    e->depth++;
    return mr_tpl_pay(e, 0);
}

void *mr_tpl_alloc(mr_tpl *e, size_t bytes)
{
    if (bytes > MR_TPL_MEMORY || e->held + bytes + 16 > MR_TPL_MEMORY) {
        mr_tpl_fail(e, MR_ENOMEM, "it takes more than %d MiB of memory", MR_TPL_MEMORY >> 20);
        return NULL;
    }
    e->held += bytes + 16;
    return mr_arena_alloc(e->arena, bytes);
}

/* ---- making ------------------------------------------------------------------------------ */

mr_tval mr_tpl_int(int64_t i)
{
    return (mr_tval){.kind = MR_T_INT, .u.i = i};
}

mr_tval mr_tpl_bool(bool b)
{
    return (mr_tval){.kind = MR_T_BOOL, .u.b = b};
}

mr_tval mr_tpl_float(double f)
{
    return (mr_tval){.kind = MR_T_FLOAT, .u.f = f};
}

mr_tval mr_tpl_none(void)
{
    return (mr_tval){.kind = MR_T_NONE};
}

mr_tval mr_tpl_undef(const mr_tstr *name)
{
    return (mr_tval){.kind = MR_T_UNDEF, .u.s = name};
}

static size_t count_chars(const char *s, size_t len)
{
    size_t n = 0;
    for (size_t i = 0; i < len; i++)
        n += ((unsigned char)s[i] & 0xC0) != 0x80;
    return n;
}

mr_err mr_tpl_borrow(mr_tpl *e, const char *s, size_t len, mr_tval *out)
{
    MR_TRY(mr_tpl_pay(e, len / 8));
    mr_tstr *t = mr_tpl_alloc(e, sizeof *t);
    if (!t)
        return MR_ENOMEM;
    t->data = s;
    t->len = len;
    t->chars = count_chars(s, len);
    *out = (mr_tval){.kind = MR_T_STR, .u.s = t};
    return MR_OK;
}

mr_err mr_tpl_str(mr_tpl *e, const char *s, size_t len, mr_tval *out)
{
    char *copy = mr_tpl_alloc(e, len + 1);
    if (!copy)
        return MR_ENOMEM;
    if (len)
        memcpy(copy, s, len);
    return mr_tpl_borrow(e, copy, len, out);
}

mr_err mr_tpl_take(mr_tpl *e, mr_buf *b, mr_tval *out)
{
    mr_err err = mr_buf_check(b);
    if (err == MR_OK)
        err = mr_tpl_str(e, b->data, b->len, out);
    mr_buf_free(b);
    return err;
}

mr_err mr_tpl_give(mr_tpl *e, mr_err err, mr_buf *b, mr_tval *out)
{
    if (err == MR_OK)
        return mr_tpl_take(e, b, out);
    mr_buf_free(b);
    return err;
}

const mr_tstr *mr_tpl_intern(mr_tpl *e, const char *s, size_t len)
{
    uint32_t h = 2166136261u;
    if (mr_tpl_pay(e, len))
        return NULL;
    for (size_t i = 0; i < len; i++)
        h = (h ^ (unsigned char)s[i]) * 16777619u;
    mr_tstr **at = &e->symbol[(h ^ h >> 15) % MR_TPL_SYMBOLS];
    for (mr_tstr *t = *at; t; t = t->chain)
        if (t->len == len && memcmp(t->data, s, len) == 0)
            return t;
        else if (mr_tpl_pay(e, 0))
            return NULL;
    mr_tval v;
    if (mr_tpl_str(e, s, len, &v))
        return NULL;
    mr_tstr *t = (mr_tstr *)v.u.s;
    t->chain = *at;
    *at = t;
    return t;
}

/* Makes room for one more of `size` bytes. */
static mr_err grow(mr_tpl *e, void **v, size_t n, size_t *cap, size_t size)
{
    if (n < *cap)
        return MR_OK;
    size_t want = *cap < 4 ? 4 : *cap * 2;
    void *more = mr_tpl_alloc(e, want * size);
    if (!more)
        return MR_ENOMEM;
    if (n)
        memcpy(more, *v, n * size);
    *v = more;
    *cap = want;
    return MR_OK;
}

mr_err mr_tpl_seq(mr_tpl *e, mr_tseq_kind kind, size_t cap, mr_tval *out)
{
    if (cap > MR_TPL_MEMORY / sizeof(mr_tval))
        return mr_tpl_fail(e, MR_ELIMIT, "a sequence of %zu values", cap);
    mr_tseq *s = mr_tpl_alloc(e, sizeof *s);
    if (!s)
        return MR_ENOMEM;
    s->kind = kind;
    s->cap = cap;
    if (cap && !(s->v = mr_tpl_alloc(e, cap * sizeof *s->v)))
        return MR_ENOMEM;
    *out = (mr_tval){.kind = MR_T_SEQ, .u.seq = s};
    return MR_OK;
}

mr_err mr_tpl_push(mr_tpl *e, mr_tval seq, mr_tval v)
{
    mr_tseq *s = seq.u.seq;
    MR_TRY(mr_tpl_pay(e, 8));
    MR_TRY(grow(e, (void **)&s->v, s->n, &s->cap, sizeof *s->v));
    s->v[s->n++] = v;
    return MR_OK;
}

mr_err mr_tpl_dict(mr_tpl *e, size_t cap, mr_tval *out)
{
    mr_tdict *d = mr_tpl_alloc(e, sizeof *d);
    if (!d || cap > MR_TPL_MEMORY / sizeof(mr_tpair))
        return MR_ENOMEM;
    d->cap = cap;
    if (cap && !(d->v = mr_tpl_alloc(e, cap * sizeof *d->v)))
        return MR_ENOMEM;
    *out = (mr_tval){.kind = MR_T_DICT, .u.d = d};
    return MR_OK;
}

static bool same_text(const mr_tstr *a, const mr_tstr *b)
{
    return a == b || (a->len == b->len && memcmp(a->data, b->data, a->len) == 0);
}

mr_err mr_tpl_find(mr_tpl *e, const mr_tdict *d, mr_tval key, mr_tval **out)
{
    *out = NULL;
    if (key.kind == MR_T_DICT || (key.kind == MR_T_SEQ && key.u.seq->kind == MR_LIST))
        return mr_tpl_fail(e, MR_EFORMAT, "unhashable type: '%s'", mr_tpl_type(key));
    for (size_t i = 0; i < d->n; i++) {
        bool same = false;
        if (key.kind == MR_T_STR) {
            same = d->v[i].key.kind == MR_T_STR && same_text(d->v[i].key.u.s, key.u.s);
            MR_TRY(i & 15 ? MR_OK : mr_tpl_pay(e, key.u.s->len));
        } else {
            MR_TRY(mr_tpl_equal(e, d->v[i].key, key, &same));
        }
        if (same) {
            *out = &d->v[i].value;
            return MR_OK;
        }
    }
    return MR_OK;
}

mr_err mr_tpl_put(mr_tpl *e, mr_tdict *d, mr_tval key, mr_tval value)
{
    mr_tval *old;
    MR_TRY(mr_tpl_find(e, d, key, &old));
    if (old) {
        *old = value;
        return MR_OK;
    }
    MR_TRY(grow(e, (void **)&d->v, d->n, &d->cap, sizeof *d->v));
    d->v[d->n++] = (mr_tpair){key, value};
    return MR_OK;
}

/* ---- from JSON --------------------------------------------------------------------------- */

static mr_err number_from(mr_jval v, mr_tval *out)
{
    mr_str raw = mr_jraw(v);
    bool whole = true;
    double f;
    for (size_t i = 0; i < raw.len; i++)
        whole &= raw.data[i] != '.' && raw.data[i] != 'e' && raw.data[i] != 'E';
    if (whole) {
        int64_t i;
        MR_TRY(mr_jint(v, INT64_MIN, INT64_MAX, &i));
        *out = mr_tpl_int(i);
        return MR_OK;
    }
    MR_TRY(mr_jnum(v, &f));
    *out = mr_tpl_float(f);
    return MR_OK;
}

static mr_err object_from(mr_tpl *e, mr_jval v, mr_tval *out)
{
    mr_buf scratch = {0};
    mr_err err = mr_tpl_dict(e, mr_jcount(v), out);
    for (mr_jval c = mr_jfirst(v); err == MR_OK && c.doc; c = mr_jnext(c)) {
        mr_str s;
        mr_tval key, value;
        err = mr_jkey(c, &scratch, &s);
        if (err == MR_OK)
            err = mr_tpl_str(e, s.data, s.len, &key);
        if (err == MR_OK)
            err = mr_tpl_from_json(e, c, &value);
        if (err == MR_OK) /* keys differ: the parser has seen to it */
            out->u.d->v[out->u.d->n++] = (mr_tpair){key, value};
    }
    mr_buf_free(&scratch);
    return err;
}

/* Depth is bounded by the JSON parser's. */
mr_err mr_tpl_from_json(mr_tpl *e, mr_jval v, mr_tval *out)
{
    switch (mr_jtype(v)) {
    case MR_JNULL:
        *out = mr_tpl_none();
        return MR_OK;
    case MR_JFALSE:
    case MR_JTRUE:
        *out = mr_tpl_bool(mr_jtype(v) == MR_JTRUE);
        return MR_OK;
    case MR_JNUMBER:
        return number_from(v, out);
    case MR_JSTRING: {
        mr_buf scratch = {0};
        mr_str s;
        mr_err err = mr_jstr(v, &scratch, &s);
        if (err == MR_OK)
            err = mr_tpl_str(e, s.data, s.len, out);
        mr_buf_free(&scratch);
        return err;
    }
    case MR_JARRAY:
        MR_TRY(mr_tpl_seq(e, MR_LIST, mr_jcount(v), out));
        for (mr_jval c = mr_jfirst(v); c.doc; c = mr_jnext(c)) {
            mr_tval item;
            MR_TRY(mr_tpl_from_json(e, c, &item));
            MR_TRY(mr_tpl_push(e, *out, item));
        }
        return MR_OK;
    case MR_JOBJECT:
        return object_from(e, v, out);
    default:
        *out = mr_tpl_undef(NULL);
        return MR_OK;
    }
}

/* ---- questions --------------------------------------------------------------------------- */

const char *mr_tpl_type(mr_tval v)
{
    static const char *const seq[] = {"list", "tuple", "range", "view", "generator"};
    static const char *const names[] = {"Undefined", "NoneType", "bool",       "int",       "float",
                                        "str",       "list",     "dict",       "Namespace", "Macro",
                                        "function",  "method",   "LoopContext"};
    return v.kind == MR_T_SEQ ? seq[v.u.seq->kind] : names[v.kind];
}

bool mr_tpl_is(mr_tval v, const char *z)
{
    return v.kind == MR_T_STR && v.u.s->len == strlen(z) && memcmp(v.u.s->data, z, strlen(z)) == 0;
}

bool mr_tpl_integer(mr_tval v, int64_t *i)
{
    *i = v.kind == MR_T_INT ? v.u.i : v.kind == MR_T_BOOL ? v.u.b : 0;
    return v.kind == MR_T_INT || v.kind == MR_T_BOOL;
}

bool mr_tpl_number(mr_tval v, double *f)
{
    int64_t i;
    bool whole = mr_tpl_integer(v, &i);
    *f = v.kind == MR_T_FLOAT ? v.u.f : (double)i;
    return whole || v.kind == MR_T_FLOAT;
}

bool mr_tpl_truth(mr_tval v)
{
    switch (v.kind) {
    case MR_T_UNDEF:
    case MR_T_NONE:
        return false;
    case MR_T_BOOL:
        return v.u.b;
    case MR_T_INT:
        return v.u.i != 0;
    case MR_T_FLOAT:
        return v.u.f != 0;
    case MR_T_STR:
        return v.u.s->len > 0;
    case MR_T_SEQ:
        return v.u.seq->kind == MR_GENERATOR || v.u.seq->n > 0;
    case MR_T_DICT:
        return v.u.d->n > 0;
    default:
        return true;
    }
}

bool mr_tpl_space(uint32_t cp)
{
    return mr_cp_is_space(cp) || (cp >= 0x1C && cp <= 0x1F);
}

size_t mr_tpl_offset(const mr_tstr *s, size_t chars)
{
    if (s->chars == s->len)
        return chars;
    size_t at = 0;
    for (; at < s->len; at++)
        if (((unsigned char)s->data[at] & 0xC0) != 0x80 && chars-- == 0)
            break;
    return at;
}

static bool plain_seq(mr_tval v)
{
    return v.kind == MR_T_SEQ && (v.u.seq->kind == MR_LIST || v.u.seq->kind == MR_TUPLE);
}

static mr_err equal_dicts(mr_tpl *e, const mr_tdict *a, const mr_tdict *b, bool *out)
{
    *out = a->n == b->n;
    for (size_t i = 0; *out && i < a->n; i++) {
        mr_tval *v;
        MR_TRY(mr_tpl_find(e, b, a->v[i].key, &v));
        *out = v != NULL;
        if (v)
            MR_TRY(mr_tpl_equal(e, a->v[i].value, *v, out));
    }
    return MR_OK;
}

mr_err mr_tpl_equal(mr_tpl *e, mr_tval a, mr_tval b, bool *out)
{
    double x, y;
    MR_TRY(mr_tpl_enter(e));
    *out = false;
    if (mr_tpl_number(a, &x) && mr_tpl_number(b, &y)) {
        int64_t i, k;
        *out = mr_tpl_integer(a, &i) && mr_tpl_integer(b, &k) ? i == k : x == y;
    } else if (a.kind != b.kind) {
        *out = false;
    } else if (a.kind == MR_T_STR) {
        MR_TRY(mr_tpl_pay(e, a.u.s->len / 8));
        *out = same_text(a.u.s, b.u.s);
    } else if (plain_seq(a) && plain_seq(b)) {
        const mr_tseq *p = a.u.seq, *q = b.u.seq;
        *out = p->kind == q->kind && p->n == q->n;
        for (size_t i = 0; *out && i < p->n; i++)
            MR_TRY(mr_tpl_equal(e, p->v[i], q->v[i], out));
    } else if (a.kind == MR_T_DICT) {
        MR_TRY(equal_dicts(e, a.u.d, b.u.d, out));
    } else if (a.kind == MR_T_UNDEF || a.kind == MR_T_NONE) {
        *out = true;
    } else {
        *out = a.u.s == b.u.s; /* the same thing */
    }
    e->depth--;
    return MR_OK;
}

mr_err mr_tpl_order(mr_tpl *e, mr_tval a, mr_tval b, int *out)
{
    double x, y;
    int64_t i, k;
    MR_TRY(mr_tpl_enter(e));
    if (mr_tpl_integer(a, &i) && mr_tpl_integer(b, &k)) {
        *out = (i > k) - (i < k);
    } else if (mr_tpl_number(a, &x) && mr_tpl_number(b, &y)) {
        *out = x != x || y != y ? 2 : (x > y) - (x < y);
    } else if (a.kind == MR_T_STR && b.kind == MR_T_STR) {
        const mr_tstr *s = a.u.s, *t = b.u.s;
        size_t n = s->len < t->len ? s->len : t->len;
        MR_TRY(mr_tpl_pay(e, n / 8));
        int c = n ? memcmp(s->data, t->data, n) : 0;
        *out = c ? (c > 0) - (c < 0) : (s->len > t->len) - (s->len < t->len);
    } else if (plain_seq(a) && plain_seq(b) && a.u.seq->kind == b.u.seq->kind) {
        const mr_tseq *p = a.u.seq, *q = b.u.seq;
        *out = 0;
        for (size_t n = 0; *out == 0 && n < p->n && n < q->n; n++) {
            bool same;
            MR_TRY(mr_tpl_equal(e, p->v[n], q->v[n], &same));
            if (!same)
                MR_TRY(mr_tpl_order(e, p->v[n], q->v[n], out));
        }
        if (*out == 0)
            *out = (p->n > q->n) - (p->n < q->n);
    } else {
        return mr_tpl_fail(e, MR_EFORMAT, "'%s' and '%s' cannot be ordered", mr_tpl_type(a),
                           mr_tpl_type(b));
    }
    e->depth--;
    return MR_OK;
}

/* ---- going through ----------------------------------------------------------------------- */

static mr_err characters(mr_tpl *e, const mr_tstr *s, mr_tval list)
{
    for (size_t i = 0; i < s->len;) {
        uint32_t cp;
        int n = mr_utf8_decode(s->data + i, s->len - i, &cp);
        mr_tval c;
        MR_TRY(mr_tpl_borrow(e, s->data + i, n > 0 ? (size_t)n : 1, &c));
        MR_TRY(mr_tpl_push(e, list, c));
        i += n > 0 ? (size_t)n : 1;
    }
    return MR_OK;
}

mr_err mr_tpl_iterate(mr_tpl *e, mr_tval v, mr_tseq **out)
{
    mr_tval list;
    if (v.kind == MR_T_SEQ && v.u.seq->kind != MR_GENERATOR) {
        *out = v.u.seq;
        return mr_tpl_pay(e, v.u.seq->n * 4);
    }
    MR_TRY(mr_tpl_seq(e, MR_LIST, 0, &list));
    *out = list.u.seq;
    switch (v.kind) {
    case MR_T_SEQ: {
        mr_tseq *g = v.u.seq;
        **out = *g;
        g->v = NULL; /* spent */
        g->n = g->cap = 0;
        return mr_tpl_pay(e, (*out)->n * 4);
    }
    case MR_T_UNDEF:
        return MR_OK;
    case MR_T_STR:
        return characters(e, v.u.s, list);
    case MR_T_DICT:
        for (size_t i = 0; i < v.u.d->n; i++)
            MR_TRY(mr_tpl_push(e, list, v.u.d->v[i].key));
        return MR_OK;
    default:
        return mr_tpl_fail(e, MR_EFORMAT, "'%s' object is not iterable", mr_tpl_type(v));
    }
}

/* ---- printing ---------------------------------------------------------------------------- */

/* Python's repr: the fewest digits that read back as the same number. */
static void print_float(double f, mr_buf *out)
{
    char text[40], digits[24];
    int n = 0, p = 0;
    if (isnan(f) || isinf(f)) {
        mr_buf_puts(out, isnan(f) ? "nan" : f < 0 ? "-inf" : "inf");
        return;
    }
    do
        snprintf(text, sizeof text, "%.*e", p, f);
    while (strtod(text, NULL) != f && ++p < 17);
    char *e = strchr(text, 'e');
    int exp = atoi(e + 1);
    for (char *c = text; c < e; c++)
        if (*c >= '0' && *c <= '9')
            digits[n++] = *c;
    while (n > 1 && digits[n - 1] == '0')
        n--;
    if (signbit(f))
        mr_buf_putc(out, '-');
    if (exp < -4 || exp >= 16) {
        mr_buf_putc(out, digits[0]);
        if (n > 1)
            mr_buf_putc(out, '.');
        mr_buf_add(out, digits + 1, (size_t)(n - 1));
        mr_buf_printf(out, "e%c%02d", exp < 0 ? '-' : '+', abs(exp));
        return;
    }
    if (exp < 0)
        mr_buf_puts(out, "0.");
    for (int i = exp; i < -1; i++)
        mr_buf_putc(out, '0');
    for (int i = 0; i < n || i <= exp; i++) {
        mr_buf_putc(out, i < n ? digits[i] : '0');
        if (i == exp)
            mr_buf_putc(out, '.');
    }
    if (exp >= 0 && n <= exp + 1)
        mr_buf_putc(out, '0');
}

static void repr_text(const mr_tstr *s, mr_buf *out)
{
    bool single = memchr(s->data, '\'', s->len) != NULL;
    char quote = single && !memchr(s->data, '"', s->len) ? '"' : '\'';
    mr_buf_putc(out, quote);
    for (size_t i = 0; i < s->len;) {
        uint32_t cp;
        int n = mr_utf8_decode(s->data + i, s->len - i, &cp);
        if (n <= 0)
            break;
        if (cp == (uint32_t)quote || cp == '\\')
            mr_buf_printf(out, "\\%c", (char)cp);
        else if (cp == '\n' || cp == '\r' || cp == '\t')
            mr_buf_puts(out, cp == '\n' ? "\\n" : cp == '\r' ? "\\r" : "\\t");
        else if (mr_cp_is_printable(cp))
            mr_buf_add(out, s->data + i, (size_t)n);
        else
            mr_buf_printf(out,
                          cp < 0x100     ? "\\x%02x"
                          : cp < 0x10000 ? "\\u%04x"
                                         : "\\U%08x",
                          (unsigned)cp);
        i += (size_t)n;
    }
    mr_buf_putc(out, quote);
}

static mr_err repr_seq(mr_tpl *e, const mr_tseq *s, int nest, mr_buf *out)
{
    bool tuple = s->kind == MR_TUPLE;
    if (s->kind != MR_LIST && !tuple)
        return mr_tpl_fail(e, MR_EUNSUPPORTED, "printing a %s",
                           mr_tpl_type((mr_tval){.kind = MR_T_SEQ, .u.seq = (mr_tseq *)s}));
    mr_buf_putc(out, tuple ? '(' : '[');
    for (size_t i = 0; i < s->n; i++) {
        if (i)
            mr_buf_puts(out, ", ");
        MR_TRY(mr_tpl_repr(e, s->v[i], nest + 1, out));
    }
    mr_buf_puts(out, tuple ? s->n == 1 ? ",)" : ")" : "]");
    return MR_OK;
}

mr_err mr_tpl_repr(mr_tpl *e, mr_tval v, int nest, mr_buf *out)
{
    MR_TRY(mr_tpl_pay(e, v.kind == MR_T_STR ? v.u.s->len * 8 : 0));
    if (nest > MR_TPL_NEST || out->len > MR_TPL_OUTPUT)
        return mr_tpl_fail(e, MR_ELIMIT, "a value too large to print");
    switch (v.kind) {
    case MR_T_UNDEF:
        mr_buf_puts(out, "Undefined");
        return MR_OK;
    case MR_T_NONE:
        mr_buf_puts(out, "None");
        return MR_OK;
    case MR_T_BOOL:
        mr_buf_puts(out, v.u.b ? "True" : "False");
        return MR_OK;
    case MR_T_INT:
        mr_buf_printf(out, "%lld", (long long)v.u.i);
        return MR_OK;
    case MR_T_FLOAT:
        print_float(v.u.f, out);
        return MR_OK;
    case MR_T_STR:
        repr_text(v.u.s, out);
        return MR_OK;
    case MR_T_SEQ:
        return repr_seq(e, v.u.seq, nest, out);
    case MR_T_DICT:
        mr_buf_putc(out, '{');
        for (size_t i = 0; i < v.u.d->n; i++) {
            if (i)
                mr_buf_puts(out, ", ");
            MR_TRY(mr_tpl_repr(e, v.u.d->v[i].key, nest + 1, out));
            mr_buf_puts(out, ": ");
            MR_TRY(mr_tpl_repr(e, v.u.d->v[i].value, nest + 1, out));
        }
        mr_buf_putc(out, '}');
        return MR_OK;
    default:
        return mr_tpl_fail(e, MR_EUNSUPPORTED, "printing a %s", mr_tpl_type(v));
    }
}

mr_err mr_tpl_print(mr_tpl *e, mr_tval v, mr_buf *out)
{
    if (v.kind == MR_T_UNDEF)
        return MR_OK;
    if (v.kind != MR_T_STR)
        return mr_tpl_repr(e, v, 0, out);
    MR_TRY(mr_tpl_pay(e, v.u.s->len / 8));
    if (out->len + v.u.s->len > MR_TPL_OUTPUT)
        return mr_tpl_fail(e, MR_ELIMIT, "more than %d MiB of text", MR_TPL_OUTPUT >> 20);
    mr_buf_add(out, v.u.s->data, v.u.s->len);
    return MR_OK;
}

mr_err mr_tpl_text(mr_tpl *e, mr_tval v, mr_tval *out)
{
    mr_buf b = {0};
    *out = v;
    if (v.kind == MR_T_STR)
        return MR_OK;
    return mr_tpl_give(e, mr_tpl_print(e, v, &b), &b, out);
}
