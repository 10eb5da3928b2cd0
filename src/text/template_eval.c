/* Running a template: statements write, expressions give values.
 *
 * A name is looked for in its scope and outwards; loops, macros, with and captured blocks have a
 * scope of their own, if has none.  A macro sees the scope it was defined in.
 */
#include <string.h>

#include "text/template.h"

static mr_err eval(mr_tpl *e, const mr_tnode *n, mr_tval *out);
static mr_err exec(mr_tpl *e, const mr_tnode *n);

/* ---- names ------------------------------------------------------------------------------- */

static mr_tval *binding(mr_tscope *s, const mr_tstr *name, size_t *seen)
{
    for (mr_tbinding *b = s->first; b; b = b->next, ++*seen)
        if (b->name == name)
            return &b->value;
    return NULL;
}

static mr_err lookup(mr_tpl *e, const mr_tstr *name, mr_tval *out)
{
    size_t seen = 0;
    mr_tval *found = NULL;
    for (mr_tscope *s = e->scope; s && !found; s = s->up, seen++)
        found = binding(s, name, &seen);
    if (found)
        *out = *found;
    else if (mr_tpl_has_global(name))
        *out = (mr_tval){.kind = MR_T_GLOBAL, .u.s = name};
    else
        *out = mr_tpl_undef(name);
    return mr_tpl_pay(e, seen);
}

static mr_err bind(mr_tpl *e, const mr_tstr *name, mr_tval v)
{
    size_t seen = 0;
    mr_tval *old = binding(e->scope, name, &seen);
    MR_TRY(mr_tpl_pay(e, seen));
    if (old) {
        *old = v;
        return MR_OK;
    }
    mr_tbinding *b = mr_tpl_alloc(e, sizeof *b);
    if (!b)
        return MR_ENOMEM;
    *b = (mr_tbinding){.name = name, .value = v, .next = e->scope->first};
    e->scope->first = b;
    return MR_OK;
}

static mr_err push_scope(mr_tpl *e, mr_tscope *up)
{
    mr_tscope *s = mr_tpl_alloc(e, sizeof *s);
    if (!s)
        return MR_ENOMEM;
    s->up = up;
    e->scope = s;
    return MR_OK;
}

static mr_err assign(mr_tpl *e, const mr_tnode *t, mr_tval v)
{
    if (t->type == MR_N_NAME)
        return bind(e, t->name, v);
    if (t->type == MR_N_ATTR) {
        mr_tval space, key = {.kind = MR_T_STR, .u.s = t->name};
        MR_TRY(lookup(e, t->a->name, &space));
        if (space.kind != MR_T_NAMESPACE)
            return mr_tpl_fail(e, MR_EFORMAT, "%.60s is no namespace: its attributes cannot be set",
                               t->a->name->data);
        return mr_tpl_put(e, space.u.d, key, v);
    }
    mr_tseq *items;
    size_t i = 0;
    const mr_tnode *k = t->kids;
    MR_TRY(mr_tpl_iterate(e, v, &items));
    for (; k && i < items->n; k = k->next, i++)
        MR_TRY(assign(e, k, items->v[i]));
    if (k || i < items->n)
        return mr_tpl_fail(e, MR_EFORMAT,
                           "%zu values to unpack, which are not as many as the names", items->n);
    return MR_OK;
}

/* ---- attributes and items ---------------------------------------------------------------- */

static mr_err undefined(mr_tpl *e, mr_tval v)
{
    int n = !v.u.s ? 7 : v.u.s->len < 80 ? (int)v.u.s->len : 80;
    return mr_tpl_fail(e, MR_EFORMAT, "'%.*s' is undefined", n, v.u.s ? v.u.s->data : "a value");
}

static mr_tval loop_attr(const mr_tloop *l, const mr_tstr *name)
{
    const char *z = name->data;
    int64_t i = (int64_t)l->at, n = (int64_t)l->n;
    const struct {
        const char *z;
        mr_tval v;
    } all[] = {
        {"index", mr_tpl_int(i + 1)},
        {"index0", mr_tpl_int(i)},
        {"first", mr_tpl_bool(i == 0)},
        {"last", mr_tpl_bool(i + 1 == n)},
        {"length", mr_tpl_int(n)},
        {"revindex", mr_tpl_int(n - i)},
        {"revindex0", mr_tpl_int(n - i - 1)},
        {"depth", mr_tpl_int(1)},
        {"depth0", mr_tpl_int(0)},
        {"previtem", i > 0 ? l->v[i - 1] : mr_tpl_undef(name)},
        {"nextitem", i + 1 < n ? l->v[i + 1] : mr_tpl_undef(name)},
    };
    for (size_t k = 0; k < sizeof all / sizeof *all; k++)
        if (strcmp(z, all[k].z) == 0)
            return all[k].v;
    return mr_tpl_undef(name);
}

mr_err mr_tpl_attr(mr_tpl *e, mr_tval v, const mr_tstr *name, mr_tval *out)
{
    *out = mr_tpl_undef(name);
    if (v.kind == MR_T_UNDEF)
        return undefined(e, v);
    if (v.kind == MR_T_LOOP) {
        *out = loop_attr(v.u.loop, name);
    } else if (mr_tpl_has_method(v, name)) {
        mr_tmethod *m = mr_tpl_alloc(e, sizeof *m);
        if (!m)
            return MR_ENOMEM;
        *m = (mr_tmethod){v, name};
        *out = (mr_tval){.kind = MR_T_METHOD, .u.method = m};
    } else if (v.kind == MR_T_DICT || v.kind == MR_T_NAMESPACE) {
        mr_tval *found, key = {.kind = MR_T_STR, .u.s = name};
        MR_TRY(mr_tpl_find(e, v.u.d, key, &found));
        if (found)
            *out = *found;
    }
    return MR_OK;
}

mr_err mr_tpl_item(mr_tpl *e, mr_tval v, mr_tval key, mr_tval *out)
{
    int64_t i;
    bool is_index = mr_tpl_integer(key, &i);
    *out = mr_tpl_undef(key.kind == MR_T_STR ? key.u.s : NULL);
    if (v.kind == MR_T_UNDEF)
        return undefined(e, v);
    if (v.kind == MR_T_DICT || v.kind == MR_T_NAMESPACE) {
        mr_tval *found;
        if (key.kind == MR_T_DICT || key.kind == MR_T_SEQ)
            return MR_OK;
        MR_TRY(mr_tpl_find(e, v.u.d, key, &found));
        if (found) {
            *out = *found;
            return MR_OK;
        }
    } else if (is_index && v.kind == MR_T_SEQ) {
        const mr_tseq *s = v.u.seq;
        i += i < 0 ? (int64_t)s->n : 0;
        if (i >= 0 && i < (int64_t)s->n && s->kind <= MR_RANGE)
            *out = s->v[i];
        return MR_OK;
    } else if (is_index && v.kind == MR_T_STR) {
        const mr_tstr *s = v.u.s;
        i += i < 0 ? (int64_t)s->chars : 0;
        if (i < 0 || i >= (int64_t)s->chars)
            return MR_OK;
        MR_TRY(mr_tpl_pay(e, s->chars == s->len ? 0 : s->len));
        size_t at = mr_tpl_offset(s, (size_t)i), end = at + 1;
        while (end < s->len && ((unsigned char)s->data[end] & 0xC0) == 0x80)
            end++;
        return mr_tpl_borrow(e, s->data + at, end - at, out);
    }
    if (key.kind != MR_T_STR)
        return MR_OK;
    const mr_tstr *name = mr_tpl_intern(e, key.u.s->data, key.u.s->len);
    return name ? mr_tpl_attr(e, v, name, out) : MR_ENOMEM;
}

/* Python's slice: where it starts, and how many. */
static size_t slice_range(size_t len, const mr_tval part[3], int64_t *from, int64_t step)
{
    int64_t n = (int64_t)len, at[2];
    for (int k = 0; k < 2; k++) {
        int64_t low = step < 0 ? -1 : 0, high = step < 0 ? n - 1 : n;
        if (!mr_tpl_integer(part[k], &at[k])) {
            at[k] = (k == 0) == (step > 0) ? low : high;
            continue;
        }
        if (at[k] < 0)
            at[k] += n;
        at[k] = at[k] < low ? low : at[k] > high ? high : at[k];
    }
    *from = at[0];
    int64_t span = step > 0 ? at[1] - at[0] : at[0] - at[1];
    uint64_t width = step > 0 ? (uint64_t)step : 0 - (uint64_t)step;
    return span <= 0 ? 0 : (size_t)(((uint64_t)span - 1) / width + 1);
}

static mr_err slice_text(mr_tpl *e, const mr_tstr *s, int64_t from, int64_t step, size_t count,
                         mr_tval *out)
{
    if (step == 1 || count == 0) {
        size_t start = count ? mr_tpl_offset(s, (size_t)from) : 0;
        size_t end = count ? mr_tpl_offset(s, (size_t)from + count) : 0;
        return mr_tpl_borrow(e, s->data + start, end - start, out);
    }
    mr_tval whole = {.kind = MR_T_STR, .u.s = s};
    mr_tseq *c;
    mr_buf b = {0};
    MR_TRY(mr_tpl_iterate(e, whole, &c));
    for (size_t i = 0; i < count; i++) {
        const mr_tstr *one = c->v[from + (int64_t)i * step].u.s;
        mr_buf_add(&b, one->data, one->len);
    }
    return mr_tpl_take(e, &b, out);
}

static mr_err slice(mr_tpl *e, const mr_tnode *n, mr_tval v, mr_tval *out)
{
    mr_tval part[3];
    int64_t step = 1, from, unused;
    const mr_tnode *k = n->kids;
    bool plain = true;
    for (int i = 0; i < 3; i++, k = k->next) {
        MR_TRY(eval(e, k, &part[i]));
        plain &= part[i].kind == MR_T_NONE || mr_tpl_integer(part[i], &unused);
    }
    if (v.kind == MR_T_UNDEF)
        return undefined(e, v);
    *out = mr_tpl_undef(NULL);
    bool seq = v.kind == MR_T_SEQ && v.u.seq->kind <= MR_RANGE;
    if (!plain || (!seq && v.kind != MR_T_STR))
        return MR_OK;
    if (mr_tpl_integer(part[2], &unused))
        step = unused;
    if (step == 0)
        return mr_tpl_fail(e, MR_EFORMAT, "slice step cannot be zero");
    size_t count = slice_range(seq ? v.u.seq->n : v.u.s->chars, part, &from, step);
    if (!seq) {
        MR_TRY(mr_tpl_pay(e, v.u.s->len / 4));
        return slice_text(e, v.u.s, from, step, count, out);
    }
    MR_TRY(mr_tpl_seq(e, v.u.seq->kind, count, out));
    for (size_t i = 0; i < count; i++)
        MR_TRY(mr_tpl_push(e, *out, v.u.seq->v[from + (int64_t)i * step]));
    return MR_OK;
}

/* ---- calls ------------------------------------------------------------------------------- */

static mr_err arguments(mr_tpl *e, const mr_tnode *first, mr_targs *out)
{
    size_t n = 0;
    *out = (mr_targs){0};
    for (const mr_tnode *k = first; k; k = k->next)
        n++;
    if (n == 0)
        return MR_OK;
    out->v = mr_tpl_alloc(e, n * sizeof *out->v);
    out->name = mr_tpl_alloc(e, n * sizeof *out->name);
    if (!out->v || !out->name)
        return MR_ENOMEM;
    for (const mr_tnode *k = first; k; k = k->next) {
        bool named = k->type == MR_N_KEYWORD;
        MR_TRY(eval(e, named ? k->a : k, &out->v[out->n++]));
        if (named)
            out->name[out->n_named++] = k->name;
    }
    return MR_OK;
}

/* Runs statements into a string. */
static mr_err capture(mr_tpl *e, const mr_tnode *body, mr_tval *out)
{
    mr_buf b = {0}, *outer = e->out;
    e->out = &b;
    mr_err err = exec(e, body);
    e->out = outer;
    return mr_tpl_give(e, err, &b, out);
}

static mr_err call_macro(mr_tpl *e, const mr_tmacro *m, const mr_targs *a, mr_tval *out)
{
    size_t at = 0, used = 0;
    mr_tscope *outer = e->scope;
    MR_TRY(push_scope(e, m->scope));
    for (const mr_tnode *p = m->node->args; p; p = p->next, at++) {
        mr_tval v = mr_tpl_undef(p->name);
        if (mr_tpl_arg(a, at, p->name->data, &v))
            used++;
        else if (p->a)
            MR_TRY(eval(e, p->a, &v));
        MR_TRY(bind(e, p->name, v));
    }
    if (used < a->n)
        return mr_tpl_fail(e, MR_EFORMAT, "macro '%.60s' takes not these %zu arguments",
                           m->node->name->data, a->n);
    MR_TRY(capture(e, m->node->kids, out));
    e->scope = outer;
    return MR_OK;
}

static mr_err call(mr_tpl *e, const mr_tnode *n, mr_tval *out)
{
    mr_tval f;
    mr_targs a;
    MR_TRY(eval(e, n->a, &f));
    MR_TRY(arguments(e, n->args, &a));
    e->line = n->line;
    switch (f.kind) {
    case MR_T_UNDEF:
        return undefined(e, f);
    case MR_T_MACRO:
        return call_macro(e, f.u.macro, &a, out);
    case MR_T_GLOBAL:
        return mr_tpl_global(e, f.u.s, &a, out);
    case MR_T_METHOD:
        return mr_tpl_method(e, f.u.method->self, f.u.method->name, &a, out);
    default:
        return mr_tpl_fail(e, MR_EFORMAT, "'%s' object is not callable", mr_tpl_type(f));
    }
}

/* ---- operators --------------------------------------------------------------------------- */

mr_err mr_tpl_contains(mr_tpl *e, mr_tval in, mr_tval v, bool *out)
{
    *out = false;
    if (in.kind == MR_T_STR) {
        if (v.kind != MR_T_STR)
            return mr_tpl_fail(e, MR_EFORMAT, "'in <string>' requires a string, not %s",
                               mr_tpl_type(v));
        MR_TRY(mr_tpl_pay(e, in.u.s->len));
        *out =
            v.u.s->len == 0 || memmem(in.u.s->data, in.u.s->len, v.u.s->data, v.u.s->len) != NULL;
        return MR_OK;
    }
    if (in.kind == MR_T_DICT) {
        mr_tval *found;
        MR_TRY(mr_tpl_find(e, in.u.d, v, &found));
        *out = found != NULL;
        return MR_OK;
    }
    mr_tseq *items;
    MR_TRY(mr_tpl_iterate(e, in, &items));
    for (size_t i = 0; i < items->n && !*out; i++)
        MR_TRY(mr_tpl_equal(e, items->v[i], v, out));
    return MR_OK;
}

static mr_err compare(mr_tpl *e, int op, mr_tval a, mr_tval b, bool *out)
{
    int order;
    if (op == MR_OP_EQ || op == MR_OP_NE) {
        MR_TRY(mr_tpl_equal(e, a, b, out));
        *out ^= op == MR_OP_NE;
        return MR_OK;
    }
    if (op == MR_OP_IN || op == MR_OP_NOT_IN) {
        MR_TRY(mr_tpl_contains(e, b, a, out));
        *out ^= op == MR_OP_NOT_IN;
        return MR_OK;
    }
    if (a.kind == MR_T_UNDEF || b.kind == MR_T_UNDEF)
        return undefined(e, a.kind == MR_T_UNDEF ? a : b);
    MR_TRY(mr_tpl_order(e, a, b, &order));
    *out = op == '<'        ? order == -1
           : op == '>'      ? order == 1
           : op == MR_OP_LE ? order <= 0
                            : order == 0 || order == 1;
    return MR_OK;
}

static mr_err comparison(mr_tpl *e, const mr_tnode *n, mr_tval *out)
{
    mr_tval left, right;
    bool yes = true;
    MR_TRY(eval(e, n->a, &left));
    for (const mr_tnode *k = n->kids; k && yes; k = k->next) {
        MR_TRY(eval(e, k->a, &right));
        MR_TRY(compare(e, k->op, left, right, &yes));
        left = right;
    }
    *out = mr_tpl_bool(yes);
    return MR_OK;
}

static mr_err unary(mr_tpl *e, const mr_tnode *n, mr_tval *out)
{
    mr_tval v;
    int64_t i;
    MR_TRY(eval(e, n->a, &v));
    if (n->op == MR_OP_NOT)
        *out = mr_tpl_bool(!mr_tpl_truth(v));
    else if (v.kind == MR_T_UNDEF)
        return undefined(e, v);
    else if (v.kind == MR_T_FLOAT)
        *out = mr_tpl_float(n->op == '-' ? -v.u.f : v.u.f);
    else if (mr_tpl_integer(v, &i) && i != INT64_MIN)
        *out = mr_tpl_int(n->op == '-' ? -i : i);
    else
        return mr_tpl_fail(e, MR_EFORMAT, "a sign before '%s'", mr_tpl_type(v));
    return MR_OK;
}

static mr_err binary(mr_tpl *e, const mr_tnode *n, mr_tval *out)
{
    mr_tval b;
    MR_TRY(eval(e, n->a, out));
    if (n->op == MR_OP_AND || n->op == MR_OP_OR)
        return mr_tpl_truth(*out) == (n->op == MR_OP_OR) ? MR_OK : eval(e, n->b, out);
    MR_TRY(eval(e, n->b, &b));
    if (out->kind == MR_T_UNDEF || b.kind == MR_T_UNDEF)
        return undefined(e, b.kind == MR_T_UNDEF ? b : *out);
    return mr_tpl_binary(e, n->op, *out, b, out);
}

/* No text is held while the parts are found, which may be concatenations themselves. */
static mr_err concat(mr_tpl *e, const mr_tnode *n, mr_tval *out)
{
    mr_targs part;
    mr_buf b = {0};
    mr_err err = MR_OK;
    MR_TRY(arguments(e, n->kids, &part));
    for (size_t i = 0; err == MR_OK && i < part.n; i++)
        err = mr_tpl_print(e, part.v[i], &b);
    return mr_tpl_give(e, err, &b, out);
}

/* ---- expressions ------------------------------------------------------------------------- */

static mr_err literal(mr_tpl *e, const mr_tnode *n, mr_tval *out)
{
    MR_TRY(n->type == MR_N_DICT ? mr_tpl_dict(e, 0, out)
                                : mr_tpl_seq(e, n->type == MR_N_LIST ? MR_LIST : MR_TUPLE, 0, out));
    for (const mr_tnode *k = n->kids; k; k = k->next) {
        mr_tval v, key;
        MR_TRY(eval(e, n->type == MR_N_DICT ? k->a : k, &v));
        if (n->type != MR_N_DICT) {
            MR_TRY(mr_tpl_push(e, *out, v));
            continue;
        }
        key = v;
        MR_TRY(eval(e, k->b, &v));
        MR_TRY(mr_tpl_put(e, out->u.d, key, v));
    }
    return MR_OK;
}

static mr_err apply(mr_tpl *e, const mr_tnode *n, mr_tval *out)
{
    mr_tval v;
    mr_targs a;
    bool yes;
    MR_TRY(eval(e, n->a, &v));
    MR_TRY(arguments(e, n->args, &a));
    e->line = n->line;
    if (n->type == MR_N_FILTER)
        return mr_tpl_filter(e, n->name, v, &a, out);
    MR_TRY(mr_tpl_test(e, n->name, v, &a, &yes));
    *out = mr_tpl_bool(yes != n->negated);
    return MR_OK;
}

static mr_err eval_node(mr_tpl *e, const mr_tnode *n, mr_tval *out)
{
    mr_tval v, key;
    switch (n->type) {
    case MR_N_CONST:
        *out = n->value;
        return MR_OK;
    case MR_N_NAME:
        return lookup(e, n->name, out);
    case MR_N_ATTR:
        MR_TRY(eval(e, n->a, &v));
        e->line = n->line;
        return mr_tpl_attr(e, v, n->name, out);
    case MR_N_ITEM:
        MR_TRY(eval(e, n->a, &v));
        MR_TRY(eval(e, n->b, &key));
        e->line = n->line;
        return mr_tpl_item(e, v, key, out);
    case MR_N_SLICE:
        MR_TRY(eval(e, n->a, &v));
        return slice(e, n, v, out);
    case MR_N_CALL:
        return call(e, n, out);
    case MR_N_FILTER:
    case MR_N_TEST:
        return apply(e, n, out);
    case MR_N_UNARY:
        return unary(e, n, out);
    case MR_N_BINARY:
        return binary(e, n, out);
    case MR_N_COMPARE:
        return comparison(e, n, out);
    case MR_N_CONCAT:
        return concat(e, n, out);
    case MR_N_COND:
        MR_TRY(eval(e, n->b, &v));
        if (mr_tpl_truth(v))
            return eval(e, n->a, out);
        *out = mr_tpl_undef(NULL);
        return n->c ? eval(e, n->c, out) : MR_OK;
    case MR_N_BODY:
        *out = e->body;
        return MR_OK;
    default:
        return literal(e, n, out);
    }
}

static mr_err eval(mr_tpl *e, const mr_tnode *n, mr_tval *out)
{
    MR_TRY(mr_tpl_enter(e));
    e->line = n->line;
    MR_TRY(eval_node(e, n, out));
    e->depth--;
    return MR_OK;
}

/* ---- statements -------------------------------------------------------------------------- */

static mr_err write(mr_tpl *e, mr_tval v)
{
    size_t before = e->out->len;
    MR_TRY(mr_tpl_print(e, v, e->out));
    e->written += e->out->len - before;
    if (e->written > MR_TPL_OUTPUT)
        return mr_tpl_fail(e, MR_ELIMIT, "more than %d MiB of text", MR_TPL_OUTPUT >> 20);
    return mr_buf_check(e->out);
}

static mr_err run_if(mr_tpl *e, const mr_tnode *n)
{
    for (const mr_tnode *k = n->kids; k; k = k->next) {
        mr_tval v = mr_tpl_bool(true);
        if (k->a)
            MR_TRY(eval(e, k->a, &v));
        if (mr_tpl_truth(v))
            return exec(e, k->kids);
    }
    return MR_OK;
}

/* The items that the loop's own `if` lets through. */
static mr_err chosen(mr_tpl *e, const mr_tnode *n, mr_tseq **items)
{
    mr_tval kept, yes;
    mr_tscope *outer = e->scope;
    MR_TRY(mr_tpl_seq(e, MR_LIST, 0, &kept));
    MR_TRY(push_scope(e, outer));
    for (size_t i = 0; i < (*items)->n; i++) {
        MR_TRY(assign(e, n->a, (*items)->v[i]));
        MR_TRY(eval(e, n->c, &yes));
        if (mr_tpl_truth(yes))
            MR_TRY(mr_tpl_push(e, kept, (*items)->v[i]));
    }
    e->scope = outer;
    *items = kept.u.seq;
    return MR_OK;
}

static mr_err run_for(mr_tpl *e, const mr_tnode *n)
{
    mr_tval v;
    mr_tseq *items;
    mr_tscope *outer = e->scope;
    const mr_tstr *name = mr_tpl_intern(e, "loop", 4);
    MR_TRY(eval(e, n->b, &v));
    MR_TRY(mr_tpl_iterate(e, v, &items));
    if (n->c)
        MR_TRY(chosen(e, n, &items));
    mr_tloop *l = mr_tpl_alloc(e, sizeof *l);
    if (!l || !name)
        return MR_ENOMEM;
    *l = (mr_tloop){.v = items->v, .n = items->n};
    for (; l->at < l->n && e->jump != MR_J_BREAK; l->at++) {
        e->jump = MR_J_NONE;
        MR_TRY(mr_tpl_pay(e, 0));
        MR_TRY(push_scope(e, outer));
        MR_TRY(bind(e, name, (mr_tval){.kind = MR_T_LOOP, .u.loop = l}));
        MR_TRY(assign(e, n->a, l->v[l->at]));
        MR_TRY(exec(e, n->kids));
    }
    e->jump = MR_J_NONE;
    e->scope = outer;
    if (l->n || !n->orelse)
        return MR_OK;
    MR_TRY(push_scope(e, outer));
    MR_TRY(exec(e, n->orelse));
    e->scope = outer;
    return MR_OK;
}

/* A set or filter block: its text, through its filters. */
static mr_err run_captured(mr_tpl *e, const mr_tnode *n)
{
    mr_tscope *outer = e->scope;
    mr_tval held = e->body, v;
    MR_TRY(push_scope(e, outer));
    MR_TRY(capture(e, n->kids, &v));
    e->scope = outer;
    e->body = v;
    MR_TRY(eval(e, n->b, &v));
    e->body = held;
    return n->type == MR_N_SETBLOCK ? assign(e, n->a, v) : write(e, v);
}

static mr_err run_with(mr_tpl *e, const mr_tnode *n)
{
    mr_tscope *outer = e->scope, *inner;
    MR_TRY(push_scope(e, outer));
    inner = e->scope;
    for (const mr_tnode *k = n->args; k; k = k->next) {
        mr_tval v;
        e->scope = outer;
        MR_TRY(eval(e, k->b, &v));
        e->scope = inner;
        MR_TRY(assign(e, k->a, v));
    }
    MR_TRY(exec(e, n->kids));
    e->scope = outer;
    return MR_OK;
}

static mr_err run_macro(mr_tpl *e, const mr_tnode *n)
{
    mr_tmacro *m = mr_tpl_alloc(e, sizeof *m);
    if (!m)
        return MR_ENOMEM;
    *m = (mr_tmacro){n, e->scope};
    return bind(e, n->name, (mr_tval){.kind = MR_T_MACRO, .u.macro = m});
}

static mr_err run(mr_tpl *e, const mr_tnode *n)
{
    mr_tval v;
    switch (n->type) {
    case MR_N_TEXT:
        return write(e, n->value);
    case MR_N_PRINT:
        MR_TRY(eval(e, n->a, &v));
        return write(e, v);
    case MR_N_IF:
        return run_if(e, n);
    case MR_N_FOR:
        return run_for(e, n);
    case MR_N_SET:
        MR_TRY(eval(e, n->b, &v));
        return assign(e, n->a, v);
    case MR_N_SETBLOCK:
    case MR_N_FILTERED:
        return run_captured(e, n);
    case MR_N_WITH:
        return run_with(e, n);
    case MR_N_MACRO:
        return run_macro(e, n);
    default:
        e->jump = n->type == MR_N_BREAK ? MR_J_BREAK : MR_J_CONTINUE;
        return MR_OK;
    }
}

/* A list of statements, until a jump. */
static mr_err exec(mr_tpl *e, const mr_tnode *n)
{
    MR_TRY(mr_tpl_enter(e));
    for (; n && e->jump == MR_J_NONE; n = n->next) {
        e->line = n->line;
        MR_TRY(mr_tpl_pay(e, 0));
        MR_TRY(run(e, n));
    }
    e->depth--;
    return MR_OK;
}

/* ---- an environment ---------------------------------------------------------------------- */

mr_err mr_tpl_new(mr_tpl **out)
{
    mr_arena *arena;
    *out = NULL;
    MR_TRY(mr_arena_new(&arena, MR_MEM_TOKENIZER));
    mr_tpl *e = mr_arena_alloc(arena, sizeof *e);
    if (!e) {
        mr_arena_free(arena);
        return MR_ENOMEM;
    }
    e->arena = arena;
    e->steps = MR_TPL_STEPS;
    *out = e;
    return MR_OK;
}

void mr_tpl_free(mr_tpl *e)
{
    if (e)
        mr_arena_free(e->arena);
}

mr_err mr_tpl_set(mr_tpl *e, const char *name, size_t len, mr_tval v)
{
    const mr_tstr *symbol = mr_tpl_intern(e, name, len);
    if (!symbol)
        return MR_ENOMEM;
    if (!e->scope)
        MR_TRY(push_scope(e, NULL));
    return bind(e, symbol, v);
}

mr_err mr_tpl_render(mr_tpl *e, const char *source, size_t len, mr_buf *out)
{
    mr_tnode *program;
    MR_TRY(mr_tpl_parse(e, source, len, &program));
    MR_TRY(push_scope(e, e->scope));
    e->depth = 0;
    e->out = out;
    return exec(e, program);
}
