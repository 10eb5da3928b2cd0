/* Operators between two values, as Python has them: numbers, texts and sequences.
 *
 * Integers are of 64 bits; what would need more is an error.
 */
#include <math.h>
#include <string.h>

#include "text/template.h"

static mr_err join_seqs(mr_tpl *e, mr_tval a, mr_tval b, mr_tval *out)
{
    mr_tval v;
    MR_TRY(mr_tpl_seq(e, a.u.seq->kind, a.u.seq->n + b.u.seq->n, &v));
    for (size_t i = 0; i < a.u.seq->n; i++)
        MR_TRY(mr_tpl_push(e, v, a.u.seq->v[i]));
    for (size_t i = 0; i < b.u.seq->n; i++)
        MR_TRY(mr_tpl_push(e, v, b.u.seq->v[i]));
    *out = v;
    return MR_OK;
}

static mr_err repeat(mr_tpl *e, mr_tval v, int64_t times, mr_tval *out)
{
    size_t len = v.kind == MR_T_STR ? v.u.s->len : v.u.seq->n, all;
    times = times < 0 || len == 0 ? 0 : times;
    if (!mr_mul_size(len, (size_t)times, &all) || all > MR_TPL_OUTPUT)
        return mr_tpl_fail(e, MR_ELIMIT, "a repetition of %lld times", (long long)times);
    MR_TRY(mr_tpl_pay(e, all));
    if (v.kind == MR_T_STR) {
        mr_buf b = {0};
        for (int64_t i = 0; i < times; i++)
            mr_buf_add(&b, v.u.s->data, len);
        return mr_tpl_take(e, &b, out);
    }
    MR_TRY(mr_tpl_seq(e, v.u.seq->kind, all, out));
    for (size_t i = 0; i < all; i++)
        MR_TRY(mr_tpl_push(e, *out, v.u.seq->v[i % len]));
    return MR_OK;
}

static bool int_power(int64_t a, int64_t n, int64_t *out)
{
    *out = 1;
    for (;;) {
        if ((n & 1) && __builtin_mul_overflow(*out, a, out))
            return false;
        n >>= 1;
        if (n == 0)
            return true;
        if (__builtin_mul_overflow(a, a, &a))
            return false;
    }
}

static mr_err whole(mr_tpl *e, int op, int64_t a, int64_t b, mr_tval *out)
{
    int64_t r = 0;
    bool fits = true;
    if ((op == MR_OP_FLOOR || op == '%') && b == 0)
        return mr_tpl_fail(e, MR_EFORMAT, "division by zero");
    switch (op) {
    case '+':
        fits = !__builtin_add_overflow(a, b, &r);
        break;
    case '-':
        fits = !__builtin_sub_overflow(a, b, &r);
        break;
    case '*':
        fits = !__builtin_mul_overflow(a, b, &r);
        break;
    case MR_OP_POW:
        fits = int_power(a, b, &r);
        break;
    case MR_OP_FLOOR:
        fits = a != INT64_MIN || b != -1;
        if (fits)
            r = a / b - (a % b != 0 && (a < 0) != (b < 0));
        break;
    default:
        r = b == -1 ? 0 : a % b + ((a % b != 0 && (a < 0) != (b < 0)) ? b : 0);
        break;
    }
    *out = mr_tpl_int(r);
    return fits ? MR_OK : mr_tpl_fail(e, MR_EUNSUPPORTED, "an integer of more than 63 bits");
}

static mr_err real(mr_tpl *e, int op, double a, double b, mr_tval *out)
{
    double r;
    if (b == 0 && (op == '/' || op == MR_OP_FLOOR || op == '%'))
        return mr_tpl_fail(e, MR_EFORMAT, "division by zero");
    switch (op) {
    case '+':
        r = a + b;
        break;
    case '-':
        r = a - b;
        break;
    case '*':
        r = a * b;
        break;
    case '/':
        r = a / b;
        break;
    case MR_OP_FLOOR:
        r = floor(a / b);
        break;
    case MR_OP_POW:
        r = pow(a, b);
        break;
    default:
        r = fmod(a, b);
        if (r != 0 && (r < 0) != (b < 0))
            r += b;
        break;
    }
    *out = mr_tpl_float(r);
    return MR_OK;
}

static mr_err escape(mr_tpl *e, mr_tval v, mr_tval *out)
{
    static const char marks[] = "&<>'\"";
    static const char *const forms[] = {"&amp;", "&lt;", "&gt;", "&#39;", "&#34;"};
    mr_buf b = {0};
    if (v.u.s->len > MR_TPL_OUTPUT / 5)
        return mr_tpl_fail(e, MR_ELIMIT, "too much text to escape");
    for (size_t i = 0; i < v.u.s->len; i++) {
        char c = v.u.s->data[i];
        const char *mark = c ? strchr(marks, c) : NULL;
        if (mark)
            mr_buf_puts(&b, forms[mark - marks]);
        else
            mr_buf_putc(&b, c);
    }
    return mr_tpl_take(e, &b, out);
}

/* Where one is markup (the filter safe), the other is escaped and the whole is markup. */
static mr_err join_texts(mr_tpl *e, mr_tval a, mr_tval b, mr_tval *out)
{
    bool safe = a.u.s->safe || b.u.s->safe;
    MR_TRY(mr_tpl_pay(e, a.u.s->len + b.u.s->len));
    if (safe && !a.u.s->safe)
        MR_TRY(escape(e, a, &a));
    else if (safe && !b.u.s->safe)
        MR_TRY(escape(e, b, &b));
    size_t n = a.u.s->len, m = b.u.s->len;
    char *s = mr_tpl_alloc(e, n + m + 1);
    if (!s)
        return MR_ENOMEM;
    memcpy(s, a.u.s->data, n);
    memcpy(s + n, b.u.s->data, m);
    MR_TRY(mr_tpl_borrow(e, s, n + m, out));
    ((mr_tstr *)out->u.s)->safe = safe;
    return MR_OK;
}

mr_err mr_tpl_binary(mr_tpl *e, int op, mr_tval a, mr_tval b, mr_tval *out)
{
    int64_t i, k;
    double x, y;
    bool a_whole = mr_tpl_integer(a, &i), b_whole = mr_tpl_integer(b, &k);
    if (a_whole && b_whole && op != '/' && !(op == MR_OP_POW && k < 0))
        return whole(e, op, i, k, out);
    if (mr_tpl_number(a, &x) && mr_tpl_number(b, &y))
        return real(e, op, x, y, out);
    if (op == '+' && a.kind == MR_T_STR && b.kind == MR_T_STR)
        return join_texts(e, a, b, out);
    bool a_seq = a.kind == MR_T_SEQ && a.u.seq->kind <= MR_TUPLE;
    bool b_seq = b.kind == MR_T_SEQ && b.u.seq->kind <= MR_TUPLE;
    if (op == '+' && a_seq && b_seq && a.u.seq->kind == b.u.seq->kind)
        return join_seqs(e, a, b, out);
    if (op == '*' && b_whole && (a_seq || a.kind == MR_T_STR))
        return repeat(e, a, k, out);
    if (op == '*' && a_whole && (b_seq || b.kind == MR_T_STR))
        return repeat(e, b, i, out);
    if (op == '%' && a.kind == MR_T_STR)
        return mr_tpl_fail(e, MR_EUNSUPPORTED, "formatting with %%");
    return mr_tpl_fail(e, MR_EFORMAT, "'%s' and '%s' do not go with %s", mr_tpl_type(a),
                       mr_tpl_type(b),
                       op == '+'   ? "+"
                       : op == '-' ? "-"
                       : op == '*' ? "*"
                       : op == '/' ? "/"
                                   : "this operator");
}
