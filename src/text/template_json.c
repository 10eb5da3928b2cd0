/* Calls' arguments, and tojson: json.dumps as chat templates call it. */
#include <math.h>
#include <string.h>

#include "text/template.h"

bool mr_tpl_arg(const mr_targs *a, size_t at, const char *name, mr_tval *out)
{
    size_t placed = a->n - a->n_named;
    if (at < placed) {
        *out = a->v[at];
        return true;
    }
    for (size_t i = 0; name && i < a->n_named; i++) {
        const mr_tstr *s = a->name[i];
        if (s->len == strlen(name) && memcmp(s->data, name, s->len) == 0) {
            *out = a->v[placed + i];
            return true;
        }
    }
    return false;
}

mr_err mr_tpl_args_check(const mr_tpl *e, const mr_targs *a, const char *what, size_t min,
                         size_t max, const char *const *names)
{
    if (a->n < min || a->n - a->n_named > max)
        return mr_tpl_fail(e, MR_EFORMAT, "%.80s takes %zu to %zu arguments, not %zu", what, min,
                           max, a->n);
    for (size_t i = 0; i < a->n_named; i++) {
        size_t k = 0;
        while (names && names[k] && strcmp(names[k], a->name[i]->data) != 0)
            k++;
        if (!names || !names[k])
            return mr_tpl_fail(e, MR_EFORMAT, "%.80s has no argument \"%.60s\"", what,
                               a->name[i]->data);
    }
    return MR_OK;
}

typedef struct dump {
    mr_tpl *e;
    mr_buf *out;
    const char *indent; /* NULL: all in one line */
    size_t indent_len;
    const mr_tstr *comma, *colon;
    bool ascii, sort;
} dump;

static void put_string(const dump *d, const mr_tstr *s)
{
    static const char plain[] = "\"\\\n\r\t\b\f", short_form[] = "\"\\nrtbf";
    mr_buf_putc(d->out, '"');
    for (size_t i = 0; i < s->len;) {
        unsigned char c = (unsigned char)s->data[i];
        const char *known = c ? strchr(plain, c) : NULL;
        uint32_t cp = c;
        int n = c < 0x80 ? 1 : mr_utf8_decode(s->data + i, s->len - i, &cp);
        if (n <= 0)
            break;
        if (known)
            mr_buf_printf(d->out, "\\%c", short_form[known - plain]);
        else if (cp > 0xFFFF && d->ascii)
            mr_buf_printf(d->out, "\\u%04x\\u%04x", 0xD800 + ((unsigned)cp - 0x10000) / 0x400,
                          0xDC00 + (unsigned)cp % 0x400);
        else if (cp < 0x20 || (cp >= 0x7F && d->ascii && cp != 0x7F))
            mr_buf_printf(d->out, "\\u%04x", (unsigned)cp);
        else
            mr_buf_add(d->out, s->data + i, (size_t)n);
        i += (size_t)n;
    }
    mr_buf_putc(d->out, '"');
}

static void new_line(const dump *d, int nest)
{
    if (!d->indent)
        return;
    mr_buf_putc(d->out, '\n');
    for (int i = 0; i < nest; i++)
        mr_buf_add(d->out, d->indent, d->indent_len);
}

static mr_err put(const dump *d, mr_tval v, int nest);

static mr_err put_key(const dump *d, mr_tval key)
{
    bool quote = key.kind != MR_T_STR;
    if (key.kind > MR_T_STR || key.kind == MR_T_UNDEF)
        return mr_tpl_fail(d->e, MR_EFORMAT, "tojson: a key is of type %s", mr_tpl_type(key));
    if (quote)
        mr_buf_putc(d->out, '"');
    MR_TRY(put(d, key, 0));
    if (quote)
        mr_buf_putc(d->out, '"');
    return MR_OK;
}

static mr_err put_dict(const dump *d, const mr_tdict *v, int nest)
{
    mr_tval list, key = mr_tpl_int(0);
    if (v->n == 0) {
        mr_buf_puts(d->out, "{}");
        return MR_OK;
    }
    MR_TRY(mr_tpl_pairs(d->e, v, MR_LIST, &list));
    if (d->sort)
        MR_TRY(mr_tpl_sorted(d->e, list.u.seq, &key, true, false, &list));
    mr_buf_putc(d->out, '{');
    for (size_t i = 0; i < v->n; i++) {
        const mr_tval *pair = list.u.seq->v[i].u.seq->v;
        if (i)
            mr_buf_add(d->out, d->comma->data, d->comma->len);
        new_line(d, nest + 1);
        MR_TRY(put_key(d, pair[0]));
        mr_buf_add(d->out, d->colon->data, d->colon->len);
        MR_TRY(put(d, pair[1], nest + 1));
    }
    new_line(d, nest);
    mr_buf_putc(d->out, '}');
    return MR_OK;
}

static mr_err put_list(const dump *d, const mr_tseq *v, int nest)
{
    mr_buf_putc(d->out, '[');
    for (size_t i = 0; i < v->n; i++) {
        if (i)
            mr_buf_add(d->out, d->comma->data, d->comma->len);
        new_line(d, nest + 1);
        MR_TRY(put(d, v->v[i], nest + 1));
    }
    if (v->n)
        new_line(d, nest);
    mr_buf_putc(d->out, ']');
    return MR_OK;
}

static mr_err put(const dump *d, mr_tval v, int nest)
{
    MR_TRY(mr_tpl_pay(d->e, v.kind == MR_T_STR ? v.u.s->len * 8 : d->indent_len * (size_t)nest));
    if (nest > MR_TPL_NEST || d->out->len > MR_TPL_OUTPUT)
        return mr_tpl_fail(d->e, MR_ELIMIT, "tojson: a value too large");
    switch (v.kind) {
    case MR_T_NONE:
        mr_buf_puts(d->out, "null");
        return MR_OK;
    case MR_T_BOOL:
        mr_buf_puts(d->out, v.u.b ? "true" : "false");
        return MR_OK;
    case MR_T_FLOAT:
        if (isnan(v.u.f) || isinf(v.u.f)) {
            mr_buf_puts(d->out, isnan(v.u.f) ? "NaN" : v.u.f < 0 ? "-Infinity" : "Infinity");
            return MR_OK;
        }
        return mr_tpl_repr(d->e, v, 0, d->out);
    case MR_T_INT:
        return mr_tpl_repr(d->e, v, 0, d->out);
    case MR_T_STR:
        put_string(d, v.u.s);
        return MR_OK;
    case MR_T_DICT:
        return put_dict(d, v.u.d, nest);
    case MR_T_SEQ:
        if (v.u.seq->kind == MR_LIST || v.u.seq->kind == MR_TUPLE)
            return put_list(d, v.u.seq, nest);
        break;
    default:
        break;
    }
    return mr_tpl_fail(d->e, MR_EFORMAT, "tojson: object of type %s is not JSON serializable",
                       mr_tpl_type(v));
}

/* indent: a number of spaces or a string. */
static mr_err read_indent(dump *d, mr_tval v, mr_buf *spaces)
{
    int64_t n;
    if (v.kind == MR_T_STR) {
        d->indent = v.u.s->data;
        d->indent_len = v.u.s->len;
    } else if (mr_tpl_integer(v, &n)) {
        if (n > 256)
            return mr_tpl_fail(d->e, MR_ELIMIT, "tojson: an indent of more than 256");
        mr_buf_printf(spaces, "%*s", n > 0 ? (int)n : 0, "");
        MR_TRY(mr_buf_check(spaces));
        d->indent = spaces->data ? spaces->data : "";
        d->indent_len = spaces->len;
    } else if (v.kind != MR_T_NONE) {
        return mr_tpl_fail(d->e, MR_EFORMAT, "tojson: indent is of type %s", mr_tpl_type(v));
    }
    return MR_OK;
}

mr_err mr_tpl_tojson(mr_tpl *e, mr_tval v, const mr_targs *a, mr_tval *out)
{
    static const mr_tstr comma = {.data = ", ", .len = 2}, bare = {.data = ",", .len = 1},
                         colon = {.data = ": ", .len = 2};
    mr_buf b = {0}, spaces = {0};
    dump d = {.e = e, .out = &b, .comma = &comma, .colon = &colon};
    mr_tval x;
    mr_err err = MR_OK;
    d.ascii = mr_tpl_arg(a, 0, "ensure_ascii", &x) && mr_tpl_truth(x);
    d.sort = mr_tpl_arg(a, 3, "sort_keys", &x) && mr_tpl_truth(x);
    if (mr_tpl_arg(a, 1, "indent", &x))
        err = read_indent(&d, x, &spaces);
    if (d.indent)
        d.comma = &bare;
    if (err == MR_OK && mr_tpl_arg(a, 2, "separators", &x) && x.kind != MR_T_NONE) {
        bool two = x.kind == MR_T_SEQ && x.u.seq->n == 2 && x.u.seq->v[0].kind == MR_T_STR &&
                   x.u.seq->v[1].kind == MR_T_STR;
        if (two) {
            d.comma = x.u.seq->v[0].u.s;
            d.colon = x.u.seq->v[1].u.s;
        } else {
            err = mr_tpl_fail(e, MR_EFORMAT, "tojson: separators must be two strings");
        }
    }
    if (err == MR_OK)
        err = put(&d, v, 0);
    mr_buf_free(&spaces);
    return mr_tpl_give(e, err, &b, out);
}
