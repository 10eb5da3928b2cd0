/* What a template can call: methods of strings, dicts and lists, and the global functions.
 *
 * Methods that change their object are refused, as the sandbox does.
 */
#include <string.h>
#include <time.h>

#include "text/template.h"
#include "text/unicode.h"

/* ---- strings ----------------------------------------------------------------------------- */

mr_err mr_tpl_strip(mr_tpl *e, mr_tval s, const mr_tval *chars, bool left, bool right, mr_tval *out)
{
    const mr_tstr *t = s.u.s;
    size_t from = 0, to = t->len;
    if (chars && chars->kind != MR_T_STR && chars->kind != MR_T_NONE)
        return mr_tpl_fail(e, MR_EFORMAT, "strip arg must be None or str");
    if (chars && chars->kind == MR_T_NONE)
        chars = NULL;
    MR_TRY(mr_tpl_pay(e, t->len));
    for (int side = 0; side < 2; side++) {
        while (from < to && (side ? right : left)) {
            size_t at = from, end = to;
            if (side)
                for (at = to - 1; at > from && ((unsigned char)t->data[at] & 0xC0) == 0x80;)
                    at--;
            uint32_t cp;
            int n = mr_utf8_decode(t->data + at, end - at, &cp);
            if (n <= 0)
                break;
            if (chars)
                MR_TRY(mr_tpl_pay(e, chars->u.s->len));
            if (chars ? !memmem(chars->u.s->data, chars->u.s->len, t->data + at, (size_t)n)
                      : !mr_tpl_space(cp))
                break;
            if (side)
                to = at;
            else
                from += (size_t)n;
        }
    }
    return mr_tpl_borrow(e, t->data + from, to - from, out);
}

mr_err mr_tpl_replace(mr_tpl *e, mr_tval s, mr_tval from, mr_tval to, int64_t count, mr_tval *out)
{
    const mr_tstr *t = s.u.s, *f = from.u.s;
    mr_buf b = {0};
    size_t at = 0;
    if (from.kind != MR_T_STR || to.kind != MR_T_STR)
        return mr_tpl_fail(e, MR_EFORMAT, "replace() needs strings");
    MR_TRY(mr_tpl_pay(e, t->len));
    for (; count != 0 && at <= t->len; count--) {
        const char *hit =
            f->len ? memmem(t->data + at, t->len - at, f->data, f->len) : t->data + at;
        size_t n = hit ? (size_t)(hit - t->data) - at : 0;
        if (!hit)
            break;
        mr_err err = b.len > MR_TPL_OUTPUT ? mr_tpl_fail(e, MR_ELIMIT, "replace() gives too much")
                                           : mr_tpl_pay(e, n + to.u.s->len);
        if (err) {
            mr_buf_free(&b);
            return err;
        }
        mr_buf_add(&b, t->data + at, n);
        mr_buf_add(&b, to.u.s->data, to.u.s->len);
        at += n + f->len;
        if (!f->len) { /* an empty one stands before every character, and at the end */
            if (at == t->len)
                break;
            do
                mr_buf_putc(&b, t->data[at++]);
            while (at < t->len && ((unsigned char)t->data[at] & 0xC0) == 0x80);
        }
    }
    mr_buf_add(&b, t->data + at, t->len - at);
    return mr_tpl_take(e, &b, out);
}

static bool starts_word(mr_tcase how, const char *s, size_t at, bool *in_word)
{
    unsigned char c = (unsigned char)s[at];
    bool letter = (c | 32) >= 'a' ? (c | 32) <= 'z' || c >= 0x80 : false, first;
    if (how == MR_CAPITALIZE)
        return at == 0;
    if (how == MR_TITLE) { /* Python's: after what is no letter */
        first = letter && !*in_word;
        *in_word = letter;
        return first;
    }
    bool gap = strchr(" \t\n\r\f\v-({[<", c) != NULL; /* jinja2's filter */
    first = !gap && !*in_word;
    *in_word = !gap;
    return first;
}

mr_err mr_tpl_case(mr_tpl *e, mr_tval s, mr_tcase how, mr_tval *out)
{
    const mr_tstr *t = s.u.s;
    mr_buf b = {0};
    mr_err err = mr_tpl_pay(e, t->len * 4); /* slow */
    bool in_word = false;
    if (err == MR_OK && (how == MR_UPPER || how == MR_LOWER)) {
        err = how == MR_UPPER ? mr_utf8_upper(t->data, t->len, false, &b)
                              : mr_utf8_lower(t->data, t->len, &b);
    } else {
        for (size_t i = 0; err == MR_OK && i < t->len;) {
            uint32_t cp;
            int n = mr_utf8_decode(t->data + i, t->len - i, &cp);
            size_t k = n > 0 ? (size_t)n : 1;
            err = starts_word(how, t->data, i, &in_word)
                      ? mr_utf8_upper(t->data + i, k, how != MR_TITLE_WORDS, &b)
                      : mr_utf8_lower(t->data + i, k, &b);
            i += k;
        }
    }
    return mr_tpl_give(e, err, &b, out);
}

mr_err mr_tpl_lines(mr_tpl *e, mr_tval s, bool keep, mr_tval *out)
{
    const mr_tstr *t = s.u.s;
    MR_TRY(mr_tpl_seq(e, MR_LIST, 0, out));
    for (size_t i = 0; i < t->len;) {
        size_t end = i, next;
        uint32_t cp = 0;
        int n = 1;
        while (end < t->len) {
            n = mr_utf8_decode(t->data + end, t->len - end, &cp);
            if (n <= 0 || (cp >= 10 && cp <= 13) || (cp >= 0x1C && cp <= 0x1E) || cp == 0x85 ||
                cp == 0x2028 || cp == 0x2029)
                break;
            end += (size_t)n;
        }
        next = end < t->len ? end + (size_t)(n > 0 ? n : 1) : end;
        if (end + 1 < t->len && t->data[end] == '\r' && t->data[end + 1] == '\n')
            next++;
        mr_tval line;
        MR_TRY(mr_tpl_borrow(e, t->data + i, (keep ? next : end) - i, &line));
        MR_TRY(mr_tpl_push(e, *out, line));
        i = next;
    }
    return MR_OK;
}

typedef mr_err method_fn(mr_tpl *e, mr_tval self, const mr_targs *a, int how, mr_tval *out);

static mr_err m_strip(mr_tpl *e, mr_tval self, const mr_targs *a, int how, mr_tval *out)
{
    return mr_tpl_strip(e, self, a->n ? &a->v[0] : NULL, how != 1, how != 0, out);
}

static mr_err m_case(mr_tpl *e, mr_tval self, const mr_targs *a, int how, mr_tval *out)
{
    (void)a;
    return mr_tpl_case(e, self, (mr_tcase)how, out);
}

static mr_err m_replace(mr_tpl *e, mr_tval self, const mr_targs *a, int how, mr_tval *out)
{
    int64_t count = -1;
    (void)how;
    if (a->n > 2 && !mr_tpl_integer(a->v[2], &count))
        return mr_tpl_fail(e, MR_EFORMAT, "replace() needs a number");
    return mr_tpl_replace(e, self, a->v[0], a->v[1], count, out);
}

/* startswith (0) and endswith (1), of one or a tuple; removeprefix (2), removesuffix (3). */
static mr_err m_edge(mr_tpl *e, mr_tval self, const mr_targs *a, int how, mr_tval *out)
{
    const mr_tstr *s = self.u.s;
    bool tuple = how < 2 && a->v[0].kind == MR_T_SEQ && a->v[0].u.seq->kind == MR_TUPLE;
    size_t n = tuple ? a->v[0].u.seq->n : 1, len = 0;
    bool hit = false;
    for (size_t i = 0; i < n && !hit; i++) {
        mr_tval v = tuple ? a->v[0].u.seq->v[i] : a->v[0];
        if (v.kind != MR_T_STR)
            return mr_tpl_fail(e, MR_EFORMAT, "startswith() and its like need strings, not %s",
                               mr_tpl_type(v));
        len = v.u.s->len;
        MR_TRY(mr_tpl_pay(e, len));
        hit =
            len <= s->len && memcmp(s->data + (how & 1 ? s->len - len : 0), v.u.s->data, len) == 0;
    }
    *out = how < 2 ? mr_tpl_bool(hit) : self;
    if (how >= 2 && hit)
        return mr_tpl_borrow(e, s->data + (how == 2 ? len : 0), s->len - len, out);
    return MR_OK;
}

/* Searching from the end compares at every place. */
static mr_err pay_find_last(mr_tpl *e, size_t len, size_t what)
{
    size_t cost = 0;
    if (what <= len && !mr_mul_size(len - what + 1, what, &cost))
        cost = SIZE_MAX / 2;
    return mr_tpl_pay(e, cost + len);
}

static const char *find_last(const mr_tstr *s, size_t end, const mr_tstr *what)
{
    for (size_t i = end - what->len + 1; what->len <= end && i-- > 0;)
        if (memcmp(s->data + i, what->data, what->len) == 0)
            return s->data + i;
    return NULL;
}

/* find (0), rfind (1), index (2), count (3). */
static mr_err m_find(mr_tpl *e, mr_tval self, const mr_targs *a, int how, mr_tval *out)
{
    const mr_tstr *s = self.u.s, *w = a->v[0].u.s;
    if (a->v[0].kind != MR_T_STR)
        return mr_tpl_fail(e, MR_EFORMAT, "find() and its like need a string");
    MR_TRY(how == 1 ? pay_find_last(e, s->len, w->len) : mr_tpl_pay(e, s->len));
    if (how == 3) {
        int64_t n = w->len ? 0 : (int64_t)s->chars + 1;
        const char *p = s->data, *end = s->data + s->len;
        while (w->len && (p = memmem(p, (size_t)(end - p), w->data, w->len)) != NULL) {
            n++;
            p += w->len;
        }
        *out = mr_tpl_int(n);
        return MR_OK;
    }
    const char *hit = how == 1 ? find_last(s, s->len, w)
                      : w->len ? memmem(s->data, s->len, w->data, w->len)
                               : s->data;
    int64_t at = hit ? 0 : -1;
    for (const char *p = s->data; hit && p < hit; p++)
        at += ((unsigned char)*p & 0xC0) != 0x80;
    *out = mr_tpl_int(at);
    return hit || how != 2 ? MR_OK : mr_tpl_fail(e, MR_EFORMAT, "substring not found");
}

static mr_err split_space(mr_tpl *e, mr_tval self, int64_t max, mr_tval list)
{
    const mr_tstr *s = self.u.s;
    size_t at = 0, from;
    uint32_t cp;
    for (;;) {
        int n;
        mr_tval part;
        while (at < s->len && (n = mr_utf8_decode(s->data + at, s->len - at, &cp)) > 0 &&
               mr_tpl_space(cp))
            at += (size_t)n;
        if (at >= s->len)
            return MR_OK;
        from = at;
        if (max-- == 0) {
            MR_TRY(mr_tpl_borrow(e, s->data + from, s->len - from, &part));
            MR_TRY(mr_tpl_strip(e, part, NULL, false, true, &part));
            return mr_tpl_push(e, list, part);
        }
        while (at < s->len && (n = mr_utf8_decode(s->data + at, s->len - at, &cp)) > 0 &&
               !mr_tpl_space(cp))
            at += (size_t)n;
        MR_TRY(mr_tpl_borrow(e, s->data + from, at - from, &part));
        MR_TRY(mr_tpl_push(e, list, part));
    }
}

/* split (0), rsplit (1). */
static mr_err m_split(mr_tpl *e, mr_tval self, const mr_targs *a, int how, mr_tval *out)
{
    const mr_tstr *s = self.u.s;
    mr_tval sep = mr_tpl_none(), limit, part;
    int64_t max = -1;
    size_t at = 0, end = s->len;
    mr_tpl_arg(a, 0, "sep", &sep);
    if (mr_tpl_arg(a, 1, "maxsplit", &limit) && !mr_tpl_integer(limit, &max))
        return mr_tpl_fail(e, MR_EFORMAT, "split() needs a number");
    MR_TRY(mr_tpl_seq(e, MR_LIST, 0, out));
    MR_TRY(mr_tpl_pay(e, s->len));
    if (sep.kind == MR_T_NONE && (how == 0 || max < 0))
        return split_space(e, self, max, *out);
    if (sep.kind != MR_T_STR || sep.u.s->len == 0)
        return mr_tpl_fail(e, MR_EFORMAT, "split() needs a separator that is a string");
    const mr_tstr *w = sep.u.s;
    const char *hit;
    while (max-- != 0) {
        if (how)
            MR_TRY(pay_find_last(e, end, w->len));
        hit = how ? find_last(s, end, w) : memmem(s->data + at, s->len - at, w->data, w->len);
        if (!hit)
            break;
        size_t p = (size_t)(hit - s->data);
        MR_TRY(mr_tpl_borrow(e, s->data + (how ? p + w->len : at), how ? end - p - w->len : p - at,
                             &part));
        MR_TRY(mr_tpl_push(e, *out, part));
        at = how ? 0 : p + w->len;
        end = how ? p : end;
    }
    MR_TRY(mr_tpl_borrow(e, s->data + at, end - at, &part));
    MR_TRY(mr_tpl_push(e, *out, part));
    mr_tseq *q = out->u.seq;
    for (size_t i = 0; how && i < q->n / 2; i++) {
        mr_tval v = q->v[i];
        q->v[i] = q->v[q->n - 1 - i];
        q->v[q->n - 1 - i] = v;
    }
    return MR_OK;
}

static mr_err m_lines(mr_tpl *e, mr_tval self, const mr_targs *a, int how, mr_tval *out)
{
    mr_tval keep = mr_tpl_bool(false);
    (void)how;
    mr_tpl_arg(a, 0, "keepends", &keep);
    return mr_tpl_lines(e, self, mr_tpl_truth(keep), out);
}

static mr_err m_join(mr_tpl *e, mr_tval self, const mr_targs *a, int how, mr_tval *out)
{
    mr_tseq *items;
    mr_buf b = {0};
    mr_err err = MR_OK;
    (void)how;
    MR_TRY(mr_tpl_iterate(e, a->v[0], &items));
    for (size_t i = 0; err == MR_OK && i < items->n; i++) {
        if (i)
            err = mr_tpl_print(e, self, &b);
        if (err == MR_OK)
            err = items->v[i].kind == MR_T_STR
                      ? mr_tpl_print(e, items->v[i], &b)
                      : mr_tpl_fail(e, MR_EFORMAT, "join() of a '%s'", mr_tpl_type(items->v[i]));
    }
    return mr_tpl_give(e, err, &b, out);
}

/* isdigit (0), isalpha (1), isalnum (2), isspace (3), isupper (4), islower (5), of ASCII. */
static mr_err m_class(mr_tpl *e, mr_tval self, const mr_targs *a, int how, mr_tval *out)
{
    const mr_tstr *s = self.u.s;
    bool all = s->len > 0, cased = false;
    (void)a;
    MR_TRY(mr_tpl_pay(e, s->len));
    for (size_t i = 0; i < s->len && all; i++) {
        unsigned char c = (unsigned char)s->data[i];
        if (c >= 0x80)
            return mr_tpl_fail(e, MR_EUNSUPPORTED, "is...() of characters beyond ASCII");
        bool digit = c >= '0' && c <= '9', upper = c >= 'A' && c <= 'Z',
             lower = c >= 'a' && c <= 'z';
        bool letter = upper || lower;
        cased |= how == 4 ? upper : lower;
        all = how == 0   ? digit
              : how == 1 ? letter
              : how == 2 ? letter || digit
              : how == 3 ? mr_tpl_space(c)
              : how == 4 ? !lower
                         : !upper;
    }
    *out = mr_tpl_bool(all && (how < 4 || cased));
    return MR_OK;
}

mr_err mr_tpl_is_case(mr_tpl *e, mr_tval s, bool upper, bool *out)
{
    mr_tval v;
    MR_TRY(m_class(e, s, NULL, upper ? 4 : 5, &v));
    *out = mr_tpl_truth(v);
    return MR_OK;
}

/* {} {0} {name}, without formats. */
static mr_err format_field(mr_tpl *e, const mr_tstr *f, size_t from, size_t to, size_t *next,
                           const mr_targs *a, mr_buf *b)
{
    size_t at = 0, i = from;
    mr_tval v;
    while (i < to && f->data[i] >= '0' && f->data[i] <= '9' && at < 1000)
        at = at * 10 + (size_t)(f->data[i++] - '0');
    bool placed = i == to && from < to; /* then no other goes without its number, and back */
    if (placed ? *next > 0 && *next < SIZE_MAX : from == to && *next == SIZE_MAX)
        return mr_tpl_fail(e, MR_EFORMAT, "format() with and without numbers");
    if (placed)
        *next = SIZE_MAX;
    else if (from == to)
        at = (*next)++;
    const mr_tstr *name = i == to ? NULL : mr_tpl_intern(e, f->data + from, to - from);
    if (i != to &&
        (!name || memchr(name->data, ':', name->len) || memchr(name->data, '!', name->len)))
        return mr_tpl_fail(e, MR_EUNSUPPORTED, "format() with more than names and places");
    if (!mr_tpl_arg(a, name ? SIZE_MAX : at, name ? name->data : NULL, &v))
        return mr_tpl_fail(e, MR_EFORMAT, "format() lacks an argument");
    return mr_tpl_print(e, v, b);
}

static mr_err m_format(mr_tpl *e, mr_tval self, const mr_targs *a, int how, mr_tval *out)
{
    const mr_tstr *f = self.u.s;
    mr_buf b = {0};
    size_t next = 0;
    mr_err err = mr_tpl_pay(e, f->len);
    (void)how;
    for (size_t i = 0; err == MR_OK && i < f->len; i++) {
        char c = f->data[i];
        if ((c == '{' || c == '}') && i + 1 < f->len && f->data[i + 1] == c) {
            mr_buf_putc(&b, c);
            i++;
        } else if (c == '{') {
            const char *end = memchr(f->data + i, '}', f->len - i);
            err = end ? format_field(e, f, i + 1, (size_t)(end - f->data), &next, a, &b)
                      : mr_tpl_fail(e, MR_EFORMAT, "format(): a '{' without '}'");
            i = end ? (size_t)(end - f->data) : i;
        } else if (c == '}') {
            err = mr_tpl_fail(e, MR_EFORMAT, "format(): a '}' without '{'");
        } else {
            mr_buf_putc(&b, c);
        }
    }
    return mr_tpl_give(e, err, &b, out);
}

/* ---- dicts and sequences ----------------------------------------------------------------- */

static mr_err m_get(mr_tpl *e, mr_tval self, const mr_targs *a, int how, mr_tval *out)
{
    mr_tval *found;
    (void)how;
    MR_TRY(mr_tpl_find(e, self.u.d, a->v[0], &found));
    *out = found ? *found : a->n > 1 ? a->v[1] : mr_tpl_none();
    return MR_OK;
}

mr_err mr_tpl_pairs(mr_tpl *e, const mr_tdict *d, mr_tseq_kind kind, mr_tval *out)
{
    MR_TRY(mr_tpl_seq(e, kind, d->n, out));
    for (size_t i = 0; i < d->n; i++) {
        mr_tval pair;
        MR_TRY(mr_tpl_seq(e, MR_TUPLE, 2, &pair));
        MR_TRY(mr_tpl_push(e, pair, d->v[i].key));
        MR_TRY(mr_tpl_push(e, pair, d->v[i].value));
        MR_TRY(mr_tpl_push(e, *out, pair));
    }
    return MR_OK;
}

/* items (0), keys (1), values (2). */
static mr_err m_view(mr_tpl *e, mr_tval self, const mr_targs *a, int how, mr_tval *out)
{
    const mr_tdict *d = self.u.d;
    (void)a;
    if (how == 0)
        return mr_tpl_pairs(e, d, MR_VIEW, out);
    MR_TRY(mr_tpl_seq(e, MR_VIEW, d->n, out));
    for (size_t i = 0; i < d->n; i++)
        MR_TRY(mr_tpl_push(e, *out, how == 1 ? d->v[i].key : d->v[i].value));
    return MR_OK;
}

static mr_err m_copy(mr_tpl *e, mr_tval self, const mr_targs *a, int how, mr_tval *out)
{
    (void)e, (void)a, (void)how;
    *out = self; /* values do not change */
    return MR_OK;
}

/* index (0), count (1). */
static mr_err m_among(mr_tpl *e, mr_tval self, const mr_targs *a, int how, mr_tval *out)
{
    int64_t n = 0;
    for (size_t i = 0; i < self.u.seq->n; i++) {
        bool same;
        MR_TRY(mr_tpl_equal(e, self.u.seq->v[i], a->v[0], &same));
        if (same && how == 0) {
            *out = mr_tpl_int((int64_t)i);
            return MR_OK;
        }
        n += same;
    }
    *out = mr_tpl_int(n);
    return how ? MR_OK : mr_tpl_fail(e, MR_EFORMAT, "index(): the value is not in the list");
}

static const char *const split_names[] = {"sep", "maxsplit", NULL};
static const char *const lines_names[] = {"keepends", NULL};
static const struct method {
    mr_tkind kind;
    const char *name;
    method_fn *run; /* NULL: it changes its object */
    int how;
    size_t min, max;
    const char *const *names;
} methods[] = {
    {MR_T_STR, "strip", m_strip, 2, 0, 1, NULL},
    {MR_T_STR, "lstrip", m_strip, 0, 0, 1, NULL},
    {MR_T_STR, "rstrip", m_strip, 1, 0, 1, NULL},
    {MR_T_STR, "upper", m_case, MR_UPPER, 0, 0, NULL},
    {MR_T_STR, "lower", m_case, MR_LOWER, 0, 0, NULL},
    {MR_T_STR, "capitalize", m_case, MR_CAPITALIZE, 0, 0, NULL},
    {MR_T_STR, "title", m_case, MR_TITLE, 0, 0, NULL},
    {MR_T_STR, "replace", m_replace, 0, 2, 3, NULL},
    {MR_T_STR, "startswith", m_edge, 0, 1, 1, NULL},
    {MR_T_STR, "endswith", m_edge, 1, 1, 1, NULL},
    {MR_T_STR, "removeprefix", m_edge, 2, 1, 1, NULL},
    {MR_T_STR, "removesuffix", m_edge, 3, 1, 1, NULL},
    {MR_T_STR, "find", m_find, 0, 1, 1, NULL},
    {MR_T_STR, "rfind", m_find, 1, 1, 1, NULL},
    {MR_T_STR, "index", m_find, 2, 1, 1, NULL},
    {MR_T_STR, "count", m_find, 3, 1, 1, NULL},
    {MR_T_STR, "split", m_split, 0, 0, 2, split_names},
    {MR_T_STR, "rsplit", m_split, 1, 0, 2, split_names},
    {MR_T_STR, "splitlines", m_lines, 0, 0, 1, lines_names},
    {MR_T_STR, "join", m_join, 0, 1, 1, NULL},
    {MR_T_STR, "format", m_format, 0, 0, SIZE_MAX, NULL},
    {MR_T_STR, "isdigit", m_class, 0, 0, 0, NULL},
    {MR_T_STR, "isalpha", m_class, 1, 0, 0, NULL},
    {MR_T_STR, "isalnum", m_class, 2, 0, 0, NULL},
    {MR_T_STR, "isspace", m_class, 3, 0, 0, NULL},
    {MR_T_STR, "isupper", m_class, 4, 0, 0, NULL},
    {MR_T_STR, "islower", m_class, 5, 0, 0, NULL},
    {MR_T_DICT, "get", m_get, 0, 1, 2, NULL},
    {MR_T_DICT, "items", m_view, 0, 0, 0, NULL},
    {MR_T_DICT, "keys", m_view, 1, 0, 0, NULL},
    {MR_T_DICT, "values", m_view, 2, 0, 0, NULL},
    {MR_T_DICT, "copy", m_copy, 0, 0, 0, NULL},
    {MR_T_DICT, "pop", NULL, 0, 0, 0, NULL},
    {MR_T_DICT, "update", NULL, 0, 0, 0, NULL},
    {MR_T_DICT, "setdefault", NULL, 0, 0, 0, NULL},
    {MR_T_DICT, "clear", NULL, 0, 0, 0, NULL},
    {MR_T_SEQ, "index", m_among, 0, 1, 1, NULL},
    {MR_T_SEQ, "count", m_among, 1, 1, 1, NULL},
    {MR_T_SEQ, "copy", m_copy, 0, 0, 0, NULL},
    {MR_T_SEQ, "append", NULL, 0, 0, 0, NULL},
    {MR_T_SEQ, "extend", NULL, 0, 0, 0, NULL},
    {MR_T_SEQ, "insert", NULL, 0, 0, 0, NULL},
    {MR_T_SEQ, "pop", NULL, 0, 0, 0, NULL},
    {MR_T_SEQ, "remove", NULL, 0, 0, 0, NULL},
    {MR_T_SEQ, "reverse", NULL, 0, 0, 0, NULL},
    {MR_T_SEQ, "sort", NULL, 0, 0, 0, NULL},
};

static const struct method *find_method(mr_tval self, const mr_tstr *name)
{
    for (size_t i = 0; i < sizeof methods / sizeof *methods; i++)
        if (methods[i].kind == self.kind && methods[i].name[0] == name->data[0] &&
            strcmp(methods[i].name, name->data) == 0)
            return &methods[i];
    return NULL;
}

bool mr_tpl_has_method(mr_tval self, const mr_tstr *name)
{
    if (self.kind == MR_T_SEQ && self.u.seq->kind > MR_TUPLE)
        return false;
    return find_method(self, name) != NULL;
}

mr_err mr_tpl_method(mr_tpl *e, mr_tval self, const mr_tstr *name, const mr_targs *a, mr_tval *out)
{
    const struct method *m = find_method(self, name);
    if (!m->run)
        return mr_tpl_fail(e, MR_EFORMAT, "%s.%s() would change its object, which is not allowed",
                           mr_tpl_type(self), m->name);
    if (m->run != m_format)
        MR_TRY(mr_tpl_args_check(e, a, m->name, m->min, m->max, m->names));
    return m->run(e, self, a, m->how, out);
}

/* ---- functions --------------------------------------------------------------------------- */

static mr_err make_range(mr_tpl *e, const mr_targs *a, mr_tval *out)
{
    int64_t v[3] = {0, 0, 1};
    MR_TRY(mr_tpl_args_check(e, a, "range", 1, 3, NULL));
    for (size_t i = 0; i < a->n; i++)
        if (!mr_tpl_integer(a->v[i], &v[a->n == 1 ? 1 : i]))
            return mr_tpl_fail(e, MR_EFORMAT, "range() needs integers");
    if (v[2] == 0)
        return mr_tpl_fail(e, MR_EFORMAT, "range() needs a step");
    MR_TRY(mr_tpl_seq(e, MR_RANGE, 0, out));
    for (int64_t i = v[0]; v[2] > 0 ? i < v[1] : i > v[1];) {
        if (out->u.seq->n >= 100000) /* the sandbox's limit */
            return mr_tpl_fail(e, MR_ELIMIT, "range() of more than 100000");
        MR_TRY(mr_tpl_push(e, *out, mr_tpl_int(i)));
        if (__builtin_add_overflow(i, v[2], &i))
            break;
    }
    return MR_OK;
}

static mr_err make_dict(mr_tpl *e, const mr_targs *a, mr_tval *out)
{
    size_t placed = a->n - a->n_named;
    MR_TRY(mr_tpl_dict(e, 0, out));
    if (placed > 1 || (placed && a->v[0].kind != MR_T_DICT))
        return mr_tpl_fail(e, MR_EUNSUPPORTED, "dict() of anything but a dict and names");
    for (size_t i = 0; placed && i < a->v[0].u.d->n; i++)
        MR_TRY(mr_tpl_put(e, out->u.d, a->v[0].u.d->v[i].key, a->v[0].u.d->v[i].value));
    for (size_t i = 0; i < a->n_named; i++)
        MR_TRY(mr_tpl_put(e, out->u.d, (mr_tval){.kind = MR_T_STR, .u.s = a->name[i]},
                          a->v[placed + i]));
    return MR_OK;
}

static mr_err make_namespace(mr_tpl *e, const mr_targs *a, mr_tval *out)
{
    MR_TRY(make_dict(e, a, out));
    out->kind = MR_T_NAMESPACE;
    return MR_OK;
}

static mr_err raise_exception(mr_tpl *e, const mr_targs *a, mr_tval *out)
{
    MR_TRY(mr_tpl_args_check(e, a, "raise_exception", 1, 1, (const char *[]){"message", NULL}));
    MR_TRY(mr_tpl_text(e, a->v[0], out));
    const mr_tstr *s = out->u.s;
    return mr_tpl_fail(e, MR_EFORMAT, "%.*s", (int)(s->len < 300 ? s->len : 300), s->data);
}

static mr_err now(mr_tpl *e, const mr_targs *a, mr_tval *out)
{
    char text[256];
    struct tm tm;
    time_t t = time(NULL);
    MR_TRY(mr_tpl_args_check(e, a, "strftime_now", 1, 1, NULL));
    if (a->v[0].kind != MR_T_STR || a->v[0].u.s->len > 64)
        return mr_tpl_fail(e, MR_EFORMAT, "strftime_now() needs a short string");
    mr_tval z;
    MR_TRY(mr_tpl_str(e, a->v[0].u.s->data, a->v[0].u.s->len, &z)); /* with a NUL behind it */
    size_t n = localtime_r(&t, &tm) ? strftime(text, sizeof text, z.u.s->data, &tm) : 0;
    return mr_tpl_str(e, text, mr_utf8_check(text, n), out);
}

static const struct function {
    const char *name;
    mr_err (*run)(mr_tpl *e, const mr_targs *a, mr_tval *out);
} functions[] = {{"raise_exception", raise_exception},
                 {"strftime_now", now},
                 {"range", make_range},
                 {"dict", make_dict},
                 {"namespace", make_namespace}};

static const struct function *find_function(const mr_tstr *name)
{
    for (size_t i = 0; i < sizeof functions / sizeof *functions; i++)
        if (strcmp(functions[i].name, name->data) == 0)
            return &functions[i];
    return NULL;
}

bool mr_tpl_has_global(const mr_tstr *name)
{
    return find_function(name) != NULL;
}

mr_err mr_tpl_global(mr_tpl *e, const mr_tstr *name, const mr_targs *a, mr_tval *out)
{
    return find_function(name)->run(e, a, out);
}
