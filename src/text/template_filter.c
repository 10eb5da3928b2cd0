/* Filters and tests, by name. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "text/template.h"

typedef mr_err filter_fn(mr_tpl *e, mr_tval v, const mr_targs *a, int how, mr_tval *out);

static bool flag(const mr_targs *a, size_t at, const char *name)
{
    mr_tval v;
    return mr_tpl_arg(a, at, name, &v) && mr_tpl_truth(v);
}

static mr_err need_text(mr_tpl *e, mr_tval v, const char *what)
{
    return v.kind == MR_T_STR
               ? MR_OK
               : mr_tpl_fail(e, MR_EFORMAT, "%s: a string is needed, not %s", what, mr_tpl_type(v));
}

/* "a.b.0" of a value; a number is an index. */
static mr_err attribute(mr_tpl *e, mr_tval v, mr_tval path, mr_tval *out)
{
    int64_t i;
    if (mr_tpl_integer(path, &i))
        return mr_tpl_item(e, v, path, out);
    MR_TRY(need_text(e, path, "attribute"));
    const mr_tstr *p = path.u.s;
    *out = v;
    for (size_t at = 0, end; at <= p->len; at = end + 1) {
        mr_tval key;
        bool number = false;
        for (end = at; end < p->len && p->data[end] != '.'; end++)
            number = p->data[end] >= '0' && p->data[end] <= '9' && (number || end == at);
        MR_TRY(mr_tpl_str(e, p->data + at, end - at, &key));
        if (number)
            key = mr_tpl_int(strtoll(key.u.s->data, NULL, 10));
        MR_TRY(mr_tpl_item(e, *out, key, out));
    }
    return MR_OK;
}

/* ---- of text ----------------------------------------------------------------------------- */

static mr_err f_case(mr_tpl *e, mr_tval v, const mr_targs *a, int how, mr_tval *out)
{
    (void)a;
    MR_TRY(mr_tpl_text(e, v, &v));
    return mr_tpl_case(e, v, (mr_tcase)how, out);
}

static mr_err f_trim(mr_tpl *e, mr_tval v, const mr_targs *a, int how, mr_tval *out)
{
    mr_tval chars;
    (void)how;
    MR_TRY(mr_tpl_text(e, v, &v));
    return mr_tpl_strip(e, v, mr_tpl_arg(a, 0, "chars", &chars) ? &chars : NULL, true, true, out);
}

static mr_err f_string(mr_tpl *e, mr_tval v, const mr_targs *a, int how, mr_tval *out)
{
    (void)a, (void)how;
    return mr_tpl_text(e, v, out);
}

static mr_err f_safe(mr_tpl *e, mr_tval v, const mr_targs *a, int how, mr_tval *out)
{
    (void)a, (void)how;
    MR_TRY(mr_tpl_text(e, v, &v));
    MR_TRY(mr_tpl_borrow(e, v.u.s->data, v.u.s->len, out));
    ((mr_tstr *)out->u.s)->safe = true;
    return MR_OK;
}

static mr_err f_replace(mr_tpl *e, mr_tval v, const mr_targs *a, int how, mr_tval *out)
{
    mr_tval from, to, n;
    int64_t count = -1;
    (void)how;
    MR_TRY(mr_tpl_text(e, v, &v));
    if (!mr_tpl_arg(a, 0, "old", &from) || !mr_tpl_arg(a, 1, "new", &to))
        return mr_tpl_fail(e, MR_EFORMAT, "replace needs two strings");
    MR_TRY(mr_tpl_text(e, from, &from));
    MR_TRY(mr_tpl_text(e, to, &to));
    if (mr_tpl_arg(a, 2, "count", &n) && !mr_tpl_integer(n, &count))
        count = -1;
    return mr_tpl_replace(e, v, from, to, count, out);
}

static mr_err f_indent(mr_tpl *e, mr_tval v, const mr_targs *a, int how, mr_tval *out)
{
    mr_tval width = mr_tpl_int(4), lines;
    mr_buf b = {0}, pad = {0};
    int64_t n;
    bool blank = flag(a, 2, "blank"), first = flag(a, 1, "first");
    mr_err err = MR_OK;
    (void)how;
    MR_TRY(mr_tpl_text(e, v, &v));
    MR_TRY(mr_tpl_lines(e, v, false, &lines));
    mr_tpl_arg(a, 0, "width", &width);
    if (width.kind == MR_T_STR)
        mr_buf_add(&pad, width.u.s->data, width.u.s->len);
    else if (mr_tpl_integer(width, &n) && n <= 256)
        mr_buf_printf(&pad, "%*s", n > 0 ? (int)n : 0, "");
    else
        return mr_tpl_fail(e, MR_EFORMAT, "indent needs a small number or a string");
    mr_tseq *s = lines.u.seq;
    bool ends = v.u.s->len && v.u.s->data[v.u.s->len - 1] == '\n';
    size_t count = s->n + (s->n == 0 || ends);
    for (size_t i = 0; err == MR_OK && i < count; i++) {
        const mr_tstr *line = i < s->n ? s->v[i].u.s : NULL;
        if (i)
            mr_buf_putc(&b, '\n');
        if (i == 0 ? first : blank || (line && line->len))
            mr_buf_add(&b, pad.data, pad.len);
        if (line)
            mr_buf_add(&b, line->data, line->len);
        err = b.len > MR_TPL_OUTPUT ? mr_tpl_fail(e, MR_ELIMIT, "indent gives too much")
                                    : mr_tpl_pay(e, pad.len);
    }
    mr_buf_free(&pad);
    return mr_tpl_give(e, err, &b, out);
}

static mr_err f_join(mr_tpl *e, mr_tval v, const mr_targs *a, int how, mr_tval *out)
{
    mr_tval gap, path;
    mr_tseq *items;
    mr_buf b = {0};
    mr_err err = MR_OK;
    (void)how;
    bool gaps = mr_tpl_arg(a, 0, "d", &gap), attr = mr_tpl_arg(a, 1, "attribute", &path);
    MR_TRY(mr_tpl_iterate(e, v, &items));
    for (size_t i = 0; err == MR_OK && i < items->n; i++) {
        mr_tval one = items->v[i];
        if (i && gaps)
            err = mr_tpl_print(e, gap, &b);
        if (err == MR_OK && attr)
            err = attribute(e, one, path, &one);
        if (err == MR_OK)
            err = mr_tpl_print(e, one, &b);
    }
    return mr_tpl_give(e, err, &b, out);
}

/* ---- of numbers -------------------------------------------------------------------------- */

/* int (0), float (1): what cannot be read is the default. */
static mr_err f_number(mr_tpl *e, mr_tval v, const mr_targs *a, int how, mr_tval *out)
{
    double f;
    int64_t i;
    mr_tval other = how ? mr_tpl_float(0) : mr_tpl_int(0);
    mr_tpl_arg(a, 0, "default", &other);
    if (v.kind == MR_T_UNDEF)
        return mr_tpl_fail(e, MR_EFORMAT, "a number from what is undefined");
    *out = other;
    if (v.kind == MR_T_STR) {
        mr_tval t;
        char *end;
        MR_TRY(mr_tpl_strip(e, v, NULL, true, true, &t));
        MR_TRY(mr_tpl_str(e, t.u.s->data, t.u.s->len, &t)); /* with a NUL behind it */
        const char *z = t.u.s->data;
        if (!*z || strpbrk(z, "xXpP(_") || strlen(z) != t.u.s->len)
            return MR_OK;
        long long n = strtoll(z, &end, 10);
        if (!*end && how == 0 && n != INT64_MAX && n != INT64_MIN) {
            *out = mr_tpl_int(n);
            return MR_OK;
        }
        f = strtod(z, &end);
        if (*end)
            return MR_OK;
    } else if (mr_tpl_integer(v, &i) && how == 0) {
        *out = mr_tpl_int(i);
        return MR_OK;
    } else if (!mr_tpl_number(v, &f)) {
        return MR_OK;
    }
    if (how)
        *out = mr_tpl_float(f);
    else if (fabs(f) < 9e18)
        *out = mr_tpl_int((int64_t)f);
    return MR_OK;
}

static mr_err f_abs(mr_tpl *e, mr_tval v, const mr_targs *a, int how, mr_tval *out)
{
    int64_t i;
    (void)a, (void)how;
    if (mr_tpl_integer(v, &i) && i != INT64_MIN)
        *out = mr_tpl_int(i < 0 ? -i : i);
    else if (v.kind == MR_T_FLOAT)
        *out = mr_tpl_float(fabs(v.u.f));
    else
        return mr_tpl_fail(e, MR_EFORMAT, "abs of '%s'", mr_tpl_type(v));
    return MR_OK;
}

static mr_err f_round(mr_tpl *e, mr_tval v, const mr_targs *a, int how, mr_tval *out)
{
    double f;
    int64_t digits = 0;
    mr_tval x;
    char text[400];
    (void)how;
    if (mr_tpl_arg(a, 0, "precision", &x) && (!mr_tpl_integer(x, &digits) || llabs(digits) > 15))
        return mr_tpl_fail(e, MR_EUNSUPPORTED, "round to this precision");
    if (!mr_tpl_number(v, &f))
        return mr_tpl_fail(e, MR_EFORMAT, "round of '%s'", mr_tpl_type(v));
    bool common = !mr_tpl_arg(a, 1, "method", &x) || mr_tpl_is(x, "common");
    *out = v;
    if (common && v.kind != MR_T_FLOAT && digits >= 0) {
        *out = mr_tpl_int(v.kind == MR_T_BOOL ? v.u.b : v.u.i);
        return MR_OK;
    } else if (common && digits >= 0) { /* Python rounds the decimal form */
        snprintf(text, sizeof text, "%.*f", (int)digits, f);
        *out = mr_tpl_float(strtod(text, NULL));
    } else if (common || mr_tpl_is(x, "ceil") || mr_tpl_is(x, "floor")) {
        double p = pow(10, (double)digits);
        *out = mr_tpl_float((common                 ? rint(f * p)
                             : mr_tpl_is(x, "ceil") ? ceil(f * p)
                                                    : floor(f * p)) /
                            p);
    } else {
        return mr_tpl_fail(e, MR_EFORMAT, "round: method must be common, ceil or floor");
    }
    if (common && v.kind != MR_T_FLOAT)
        *out = mr_tpl_int((int64_t)out->u.f);
    return MR_OK;
}

/* ---- of sequences ------------------------------------------------------------------------ */

static mr_err f_length(mr_tpl *e, mr_tval v, const mr_targs *a, int how, mr_tval *out)
{
    (void)a, (void)how;
    if (v.kind == MR_T_UNDEF)
        *out = mr_tpl_int(0);
    else if (v.kind == MR_T_STR)
        *out = mr_tpl_int((int64_t)v.u.s->chars);
    else if (v.kind == MR_T_DICT)
        *out = mr_tpl_int((int64_t)v.u.d->n);
    else if (v.kind == MR_T_SEQ && v.u.seq->kind != MR_GENERATOR)
        *out = mr_tpl_int((int64_t)v.u.seq->n);
    else
        return mr_tpl_fail(e, MR_EFORMAT, "object of type '%s' has no length", mr_tpl_type(v));
    return MR_OK;
}

static mr_err f_list(mr_tpl *e, mr_tval v, const mr_targs *a, int how, mr_tval *out)
{
    mr_tseq *items;
    (void)a, (void)how;
    MR_TRY(mr_tpl_iterate(e, v, &items));
    MR_TRY(mr_tpl_seq(e, MR_LIST, 0, out));
    out->u.seq->v = items->v;
    out->u.seq->n = items->n; /* cap 0: a push would copy */
    return MR_OK;
}

/* first (0), last (1). */
static mr_err f_end(mr_tpl *e, mr_tval v, const mr_targs *a, int how, mr_tval *out)
{
    mr_tseq *items;
    (void)a;
    if (how && v.kind == MR_T_SEQ && v.u.seq->kind == MR_GENERATOR)
        return mr_tpl_fail(e, MR_EFORMAT, "last of a generator");
    MR_TRY(mr_tpl_iterate(e, v, &items));
    *out = items->n ? items->v[how ? items->n - 1 : 0] : mr_tpl_undef(NULL);
    return MR_OK;
}

static mr_err f_reverse(mr_tpl *e, mr_tval v, const mr_targs *a, int how, mr_tval *out)
{
    mr_tseq *items;
    mr_tval r;
    mr_buf b = {0};
    (void)a, (void)how;
    MR_TRY(mr_tpl_iterate(e, v, &items));
    MR_TRY(mr_tpl_seq(e, MR_GENERATOR, items->n, &r));
    for (size_t i = items->n; i-- > 0;)
        MR_TRY(mr_tpl_push(e, r, items->v[i]));
    *out = r;
    if (v.kind != MR_T_STR)
        return MR_OK;
    for (size_t i = 0; i < r.u.seq->n; i++)
        mr_buf_add(&b, r.u.seq->v[i].u.s->data, r.u.seq->v[i].u.s->len);
    return mr_tpl_take(e, &b, out);
}

static mr_err f_items(mr_tpl *e, mr_tval v, const mr_targs *a, int how, mr_tval *out)
{
    (void)a, (void)how;
    if (v.kind == MR_T_UNDEF)
        return mr_tpl_seq(e, MR_GENERATOR, 0, out);
    if (v.kind != MR_T_DICT)
        return mr_tpl_fail(e, MR_EFORMAT, "items: can only get item pairs from a mapping");
    return mr_tpl_pairs(e, v.u.d, MR_GENERATOR, out);
}

/* What a value is sorted by. */
static mr_err sort_key(mr_tpl *e, mr_tval v, const mr_tval *path, bool cased, mr_tval *out)
{
    *out = v;
    if (path)
        MR_TRY(attribute(e, v, *path, out));
    return !cased && out->kind == MR_T_STR ? mr_tpl_case(e, *out, MR_LOWER, out) : MR_OK;
}

/* Merges the sorted halves of pairs (key, value); stable, also in reverse. */
static mr_err merge_sort(mr_tpl *e, mr_tpair *p, mr_tpair *tmp, size_t n, bool reverse)
{
    size_t half = n / 2, i = 0, k = half;
    if (n < 2)
        return MR_OK;
    MR_TRY(merge_sort(e, p, tmp, half, reverse));
    MR_TRY(merge_sort(e, p + half, tmp, n - half, reverse));
    for (size_t at = 0; at < n; at++) {
        int order = 0;
        if (i < half && k < n)
            MR_TRY(mr_tpl_order(e, p[i].key, p[k].key, &order));
        bool right = i == half || (k < n && order == (reverse ? -1 : 1));
        tmp[at] = right ? p[k++] : p[i++];
    }
    memcpy(p, tmp, n * sizeof *p);
    return MR_OK;
}

mr_err mr_tpl_sorted(mr_tpl *e, const mr_tseq *items, const mr_tval *path, bool cased, bool reverse,
                     mr_tval *out)
{
    mr_tpair *p = mr_tpl_alloc(e, (items->n + 1) * 2 * sizeof *p);
    if (!p)
        return MR_ENOMEM;
    for (size_t i = 0; i < items->n; i++) {
        p[i].value = items->v[i];
        MR_TRY(sort_key(e, items->v[i], path, cased, &p[i].key));
        if (p[i].key.kind == MR_T_UNDEF && items->n > 1)
            return mr_tpl_fail(e, MR_EFORMAT, "sorting by what is undefined");
    }
    MR_TRY(merge_sort(e, p, p + items->n, items->n, reverse));
    MR_TRY(mr_tpl_seq(e, MR_LIST, items->n, out));
    for (size_t i = 0; i < items->n; i++)
        MR_TRY(mr_tpl_push(e, *out, p[i].value));
    return MR_OK;
}

static mr_err f_sort(mr_tpl *e, mr_tval v, const mr_targs *a, int how, mr_tval *out)
{
    mr_tval path;
    mr_tseq *items;
    (void)how;
    bool by = mr_tpl_arg(a, 2, "attribute", &path);
    MR_TRY(mr_tpl_iterate(e, v, &items));
    return mr_tpl_sorted(e, items, by ? &path : NULL, flag(a, 1, "case_sensitive"),
                         flag(a, 0, "reverse"), out);
}

static mr_err f_dictsort(mr_tpl *e, mr_tval v, const mr_targs *a, int how, mr_tval *out)
{
    mr_tval by, place = mr_tpl_int(0);
    (void)how;
    if (v.kind != MR_T_DICT)
        return mr_tpl_fail(e, MR_EFORMAT, "dictsort of '%s'", mr_tpl_type(v));
    if (mr_tpl_arg(a, 1, "by", &by) && mr_tpl_is(by, "value"))
        place = mr_tpl_int(1);
    MR_TRY(mr_tpl_pairs(e, v.u.d, MR_LIST, out));
    return mr_tpl_sorted(e, out->u.seq, &place, flag(a, 0, "case_sensitive"), flag(a, 2, "reverse"),
                         out);
}

static mr_err f_unique(mr_tpl *e, mr_tval v, const mr_targs *a, int how, mr_tval *out)
{
    mr_tval path, seen;
    mr_tseq *items;
    (void)how;
    bool by = mr_tpl_arg(a, 1, "attribute", &path), cased = flag(a, 0, "case_sensitive");
    MR_TRY(mr_tpl_iterate(e, v, &items));
    MR_TRY(mr_tpl_dict(e, 0, &seen));
    MR_TRY(mr_tpl_seq(e, MR_GENERATOR, 0, out));
    for (size_t i = 0; i < items->n; i++) {
        mr_tval key, *old;
        MR_TRY(sort_key(e, items->v[i], by ? &path : NULL, cased, &key));
        MR_TRY(mr_tpl_find(e, seen.u.d, key, &old));
        if (old)
            continue;
        MR_TRY(mr_tpl_put(e, seen.u.d, key, key));
        MR_TRY(mr_tpl_push(e, *out, items->v[i]));
    }
    return MR_OK;
}

/* min (-1), max (1). */
static mr_err f_most(mr_tpl *e, mr_tval v, const mr_targs *a, int how, mr_tval *out)
{
    mr_tval path, best = mr_tpl_none(), key;
    mr_tseq *items;
    bool by = mr_tpl_arg(a, 1, "attribute", &path), cased = flag(a, 0, "case_sensitive");
    MR_TRY(mr_tpl_iterate(e, v, &items));
    *out = mr_tpl_undef(NULL);
    for (size_t i = 0; i < items->n; i++) {
        int order = how;
        MR_TRY(sort_key(e, items->v[i], by ? &path : NULL, cased, &key));
        if (i)
            MR_TRY(mr_tpl_order(e, key, best, &order));
        if (order == how) {
            best = key;
            *out = items->v[i];
        }
    }
    return MR_OK;
}

static mr_err f_sum(mr_tpl *e, mr_tval v, const mr_targs *a, int how, mr_tval *out)
{
    mr_tval path, total = mr_tpl_int(0), one;
    mr_tseq *items;
    (void)how;
    bool by = mr_tpl_arg(a, 0, "attribute", &path) && path.kind != MR_T_NONE;
    mr_tpl_arg(a, 1, "start", &total);
    MR_TRY(mr_tpl_iterate(e, v, &items));
    for (size_t i = 0; i < items->n; i++) {
        one = items->v[i];
        if (by)
            MR_TRY(attribute(e, one, path, &one));
        MR_TRY(mr_tpl_binary(e, '+', total, one, &total));
    }
    *out = total;
    return MR_OK;
}

/* The arguments behind the first `skip`. */
static mr_targs rest(const mr_targs *a, size_t skip)
{
    mr_targs r = *a;
    r.v += skip;
    r.n -= skip;
    return r;
}

static mr_err f_map(mr_tpl *e, mr_tval v, const mr_targs *a, int how, mr_tval *out)
{
    mr_tval what, other;
    mr_tseq *items;
    (void)how;
    bool by = mr_tpl_arg(a, SIZE_MAX, "attribute", &what);
    bool has_other = by && mr_tpl_arg(a, SIZE_MAX, "default", &other);
    if (!by && (!mr_tpl_arg(a, 0, NULL, &what) || what.kind != MR_T_STR))
        return mr_tpl_fail(e, MR_EFORMAT, "map needs an attribute or a filter");
    const mr_tstr *name = by ? NULL : mr_tpl_intern(e, what.u.s->data, what.u.s->len);
    if (!by && !name)
        return MR_ENOMEM;
    if (!mr_tpl_truth(v)) /* None too gives nothing */
        return mr_tpl_seq(e, MR_GENERATOR, 0, out);
    MR_TRY(mr_tpl_iterate(e, v, &items));
    MR_TRY(mr_tpl_seq(e, MR_GENERATOR, items->n, out));
    for (size_t i = 0; i < items->n; i++) {
        mr_tval one;
        mr_targs behind = by ? (mr_targs){0} : rest(a, 1);
        MR_TRY(by ? attribute(e, items->v[i], what, &one)
                  : mr_tpl_filter(e, name, items->v[i], &behind, &one));
        if (has_other && one.kind == MR_T_UNDEF)
            one = other;
        MR_TRY(mr_tpl_push(e, *out, one));
    }
    return MR_OK;
}

enum { BY_ATTR = 1, REJECT = 2 };

static mr_err f_select(mr_tpl *e, mr_tval v, const mr_targs *a, int how, mr_tval *out)
{
    mr_tval path, test;
    mr_tseq *items;
    size_t skip = how & BY_ATTR ? 1 : 0;
    const mr_tstr *name = NULL;
    if (skip && !mr_tpl_arg(a, 0, NULL, &path))
        return mr_tpl_fail(e, MR_EFORMAT, "selectattr and rejectattr need an attribute");
    if (mr_tpl_arg(a, skip, NULL, &test)) {
        MR_TRY(need_text(e, test, "a test's name"));
        name = mr_tpl_intern(e, test.u.s->data, test.u.s->len);
        if (!name)
            return MR_ENOMEM;
    }
    mr_targs behind = name ? rest(a, skip + 1) : (mr_targs){0};
    if (!mr_tpl_truth(v))
        return mr_tpl_seq(e, MR_GENERATOR, 0, out);
    MR_TRY(mr_tpl_iterate(e, v, &items));
    MR_TRY(mr_tpl_seq(e, MR_GENERATOR, 0, out));
    for (size_t i = 0; i < items->n; i++) {
        mr_tval one = items->v[i];
        bool yes;
        if (skip)
            MR_TRY(attribute(e, one, path, &one));
        yes = mr_tpl_truth(one);
        if (name)
            MR_TRY(mr_tpl_test(e, name, one, &behind, &yes));
        if (yes != ((how & REJECT) != 0))
            MR_TRY(mr_tpl_push(e, *out, items->v[i]));
    }
    return MR_OK;
}

/* ---- of anything ------------------------------------------------------------------------- */

static mr_err f_default(mr_tpl *e, mr_tval v, const mr_targs *a, int how, mr_tval *out)
{
    (void)how;
    bool missing = v.kind == MR_T_UNDEF || (flag(a, 1, "boolean") && !mr_tpl_truth(v));
    *out = v;
    if (missing && !mr_tpl_arg(a, 0, "default_value", out))
        return mr_tpl_str(e, "", 0, out);
    return MR_OK;
}

static mr_err f_tojson(mr_tpl *e, mr_tval v, const mr_targs *a, int how, mr_tval *out)
{
    (void)how;
    return mr_tpl_tojson(e, v, a, out);
}

static const char *const
    n_trim[] = {"chars", NULL},
    *const n_join[] = {"d", "attribute", NULL}, *const n_replace[] = {"old", "new", "count", NULL},
    *const n_indent[] = {"width", "first", "blank", NULL},
    *const n_default[] = {"default_value", "boolean", NULL}, *const n_number[] = {"default", NULL},
    *const n_round[] = {"precision", "method", NULL},
    *const n_sort[] = {"reverse", "case_sensitive", "attribute", NULL},
    *const n_dictsort[] = {"case_sensitive", "by", "reverse", NULL},
    *const n_most[] = {"case_sensitive", "attribute", NULL},
    *const n_sum[] = {"attribute", "start", NULL}, *const n_map[] = {"attribute", "default", NULL},
    *const n_json[] = {"ensure_ascii", "indent", "separators", "sort_keys", NULL};

static const struct {
    const char *name;
    filter_fn *run;
    int how;
    size_t max;
    const char *const *names;
} filters[] = {
    {"tojson", f_tojson, 0, 4, n_json},
    {"trim", f_trim, 0, 1, n_trim},
    {"length", f_length, 0, 0, NULL},
    {"count", f_length, 0, 0, NULL},
    {"string", f_string, 0, 0, NULL},
    {"safe", f_safe, 0, 0, NULL},
    {"default", f_default, 0, 2, n_default},
    {"d", f_default, 0, 2, n_default},
    {"upper", f_case, MR_UPPER, 0, NULL},
    {"lower", f_case, MR_LOWER, 0, NULL},
    {"capitalize", f_case, MR_CAPITALIZE, 0, NULL},
    {"title", f_case, MR_TITLE_WORDS, 0, NULL},
    {"replace", f_replace, 0, 3, n_replace},
    {"indent", f_indent, 0, 3, n_indent},
    {"join", f_join, 0, 2, n_join},
    {"int", f_number, 0, 1, n_number},
    {"float", f_number, 1, 1, n_number},
    {"abs", f_abs, 0, 0, NULL},
    {"round", f_round, 0, 2, n_round},
    {"list", f_list, 0, 0, NULL},
    {"first", f_end, 0, 0, NULL},
    {"last", f_end, 1, 0, NULL},
    {"reverse", f_reverse, 0, 0, NULL},
    {"items", f_items, 0, 0, NULL},
    {"sort", f_sort, 0, 3, n_sort},
    {"dictsort", f_dictsort, 0, 3, n_dictsort},
    {"unique", f_unique, 0, 2, n_most},
    {"min", f_most, -1, 2, n_most},
    {"max", f_most, 1, 2, n_most},
    {"sum", f_sum, 0, 2, n_sum},
    {"map", f_map, 0, SIZE_MAX, n_map},
    {"select", f_select, 0, SIZE_MAX, NULL},
    {"reject", f_select, REJECT, SIZE_MAX, NULL},
    {"selectattr", f_select, BY_ATTR, SIZE_MAX, NULL},
    {"rejectattr", f_select, BY_ATTR | REJECT, SIZE_MAX, NULL},
};

mr_err mr_tpl_filter(mr_tpl *e, const mr_tstr *name, mr_tval v, const mr_targs *a, mr_tval *out)
{
    MR_TRY(mr_tpl_enter(e));
    for (size_t i = 0; i < sizeof filters / sizeof *filters; i++) {
        if (strcmp(filters[i].name, name->data) != 0)
            continue;
        bool placed =
            filters[i].run == f_map && a->n_named < a->n; /* then a filter's, of no name */
        MR_TRY(mr_tpl_args_check(e, a, name->data, 0, filters[i].max,
                                 placed ? NULL : filters[i].names));
        MR_TRY(filters[i].run(e, v, a, filters[i].how, out));
        e->depth--;
        return MR_OK;
    }
    return mr_tpl_fail(e, MR_EUNSUPPORTED, "the filter \"%.60s\" is not known here", name->data);
}

/* ---- tests ------------------------------------------------------------------------------- */

enum test_kind {
    T_DEFINED,
    T_UNDEFINED,
    T_NONE,
    T_STRING,
    T_MAPPING,
    T_ITERABLE,
    T_SEQUENCE,
    T_NUMBER,
    T_INTEGER,
    T_FLOAT,
    T_BOOLEAN,
    T_TRUE,
    T_FALSE,
    T_CALLABLE,
    T_ODD,
    T_EVEN,
    T_LOWER,
    T_UPPER,
    T_TWO, /* from here on with an argument */
    T_EQ = T_TWO,
    T_NE,
    T_LT,
    T_LE,
    T_GT,
    T_GE,
    T_IN,
    T_SAME,
    T_DIVISIBLE
};

static const struct {
    const char *name;
    enum test_kind kind;
} tests[] = {
    {"defined", T_DEFINED},
    {"undefined", T_UNDEFINED},
    {"none", T_NONE},
    {"string", T_STRING},
    {"mapping", T_MAPPING},
    {"iterable", T_ITERABLE},
    {"sequence", T_SEQUENCE},
    {"number", T_NUMBER},
    {"integer", T_INTEGER},
    {"float", T_FLOAT},
    {"boolean", T_BOOLEAN},
    {"true", T_TRUE},
    {"false", T_FALSE},
    {"callable", T_CALLABLE},
    {"odd", T_ODD},
    {"even", T_EVEN},
    {"lower", T_LOWER},
    {"upper", T_UPPER},
    {"eq", T_EQ},
    {"equalto", T_EQ},
    {"ne", T_NE},
    {"lt", T_LT},
    {"lessthan", T_LT},
    {"le", T_LE},
    {"gt", T_GT},
    {"greaterthan", T_GT},
    {"ge", T_GE},
    {"in", T_IN},
    {"sameas", T_SAME},
    {"divisibleby", T_DIVISIBLE},
};

static bool of_kind(enum test_kind t, mr_tval v)
{
    bool seq = v.kind == MR_T_SEQ;
    switch (t) {
    case T_DEFINED:
        return v.kind != MR_T_UNDEF;
    case T_UNDEFINED:
        return v.kind == MR_T_UNDEF;
    case T_NONE:
        return v.kind == MR_T_NONE;
    case T_STRING:
        return v.kind == MR_T_STR;
    case T_MAPPING:
        return v.kind == MR_T_DICT;
    case T_ITERABLE:
        return seq || v.kind == MR_T_STR || v.kind == MR_T_DICT || v.kind == MR_T_UNDEF ||
               v.kind == MR_T_LOOP;
    case T_SEQUENCE:
        return (seq && v.u.seq->kind <= MR_RANGE) || v.kind == MR_T_STR || v.kind == MR_T_DICT ||
               v.kind == MR_T_UNDEF;
    case T_NUMBER:
        return v.kind == MR_T_INT || v.kind == MR_T_FLOAT || v.kind == MR_T_BOOL;
    case T_INTEGER:
        return v.kind == MR_T_INT;
    case T_FLOAT:
        return v.kind == MR_T_FLOAT;
    case T_BOOLEAN:
        return v.kind == MR_T_BOOL;
    case T_TRUE:
        return v.kind == MR_T_BOOL && v.u.b;
    case T_FALSE:
        return v.kind == MR_T_BOOL && !v.u.b;
    default: /* T_CALLABLE */
        return v.kind == MR_T_MACRO || v.kind == MR_T_GLOBAL || v.kind == MR_T_METHOD ||
               v.kind == MR_T_UNDEF;
    }
}

/* odd, even, divisibleby. */
static mr_err remainder_test(mr_tpl *e, mr_tval v, int64_t by, bool odd, bool *out)
{
    int64_t i;
    if (!mr_tpl_integer(v, &i) || by == 0)
        return mr_tpl_fail(e, MR_EFORMAT, "a test for integers, of '%s'", mr_tpl_type(v));
    *out = (by == -1 || i % by == 0) != odd;
    return MR_OK;
}

static mr_err two(mr_tpl *e, enum test_kind t, mr_tval v, mr_tval arg, bool *out)
{
    int order = 0;
    int64_t by = 0;
    if (t == T_IN)
        return mr_tpl_contains(e, arg, v, out);
    if (t == T_DIVISIBLE) {
        mr_tpl_integer(arg, &by);
        return remainder_test(e, v, by, false, out);
    }
    if (t == T_EQ || t == T_NE || t == T_SAME) {
        MR_TRY(mr_tpl_equal(e, v, arg, out));
        *out = t == T_SAME ? *out && v.kind == arg.kind : *out != (t == T_NE);
        return MR_OK;
    }
    MR_TRY(mr_tpl_order(e, v, arg, &order));
    *out = t == T_LT   ? order == -1
           : t == T_LE ? order <= 0
           : t == T_GT ? order == 1
                       : order == 0 || order == 1;
    return MR_OK;
}

mr_err mr_tpl_test(mr_tpl *e, const mr_tstr *name, mr_tval v, const mr_targs *a, bool *out)
{
    for (size_t i = 0; i < sizeof tests / sizeof *tests; i++) {
        enum test_kind t = tests[i].kind;
        if (strcmp(tests[i].name, name->data) != 0)
            continue;
        MR_TRY(mr_tpl_args_check(e, a, name->data, t >= T_TWO, t >= T_TWO, NULL));
        if (t >= T_TWO)
            return two(e, t, v, a->v[0], out);
        if (t == T_ODD || t == T_EVEN)
            return remainder_test(e, v, 2, t == T_ODD, out);
        if (t == T_LOWER || t == T_UPPER) {
            MR_TRY(mr_tpl_text(e, v, &v));
            return mr_tpl_is_case(e, v, t == T_UPPER, out);
        }
        *out = of_kind(t, v);
        return MR_OK;
    }
    return mr_tpl_fail(e, MR_EUNSUPPORTED, "the test \"%.60s\" is not known here", name->data);
}
