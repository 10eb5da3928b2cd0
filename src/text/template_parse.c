/* The template's grammar: tokens to nodes, as jinja2's parser reads them.
 *
 * Operators climb by precedence; filters, tests and calls bind to the unary operand before them,
 * as in jinja2.  Names of filters and tests are looked up when they are used.
 */
#include <string.h>

#include "text/template.h"

typedef struct parser {
    mr_tpl *e;
    mr_tlex lex;
    mr_ttoken cur, next;
    int loops, macros; /* around the present place */
} parser;

enum { P_OR = 1, P_AND, P_NOT, P_COMPARE, P_SUM, P_CONCAT, P_PRODUCT, P_POWER, P_UNARY };

static mr_err expression(parser *p, bool with_if, mr_tnode **out);
static mr_err climb(parser *p, int min, mr_tnode **out);
static mr_err body(parser *p, const char *const *ends, mr_tnode **out);

/* ---- tokens ------------------------------------------------------------------------------ */

static mr_err advance(parser *p)
{
    p->cur = p->next;
    return mr_tlex_next(&p->lex, &p->next);
}

static bool is_op(const parser *p, int op)
{
    return p->cur.type == MR_TK_OP && p->cur.op == op;
}

static bool is_word(const mr_ttoken *t, const char *z)
{
    return t->type == MR_TK_NAME && strlen(z) == t->name->len &&
           memcmp(z, t->name->data, t->name->len) == 0;
}

static mr_err unexpected(parser *p, const char *want)
{
    char op[2] = {(char)p->cur.op, 0};
    const mr_ttoken *t = &p->cur;
    p->e->line = t->line;
    if (t->type == MR_TK_NAME)
        return mr_tpl_fail(p->e, MR_EFORMAT, "expected %s before \"%.60s\"", want, t->name->data);
    return mr_tpl_fail(p->e, MR_EFORMAT, "expected %s before %s", want,
                       t->type == MR_TK_OP && t->op < 256                         ? op
                       : t->type == MR_TK_OP                                      ? "an operator"
                       : t->type == MR_TK_BLOCK_END || t->type == MR_TK_PRINT_END ? "the tag's end"
                       : t->type == MR_TK_END ? "the template's end"
                                              : "a value");
}

static mr_err expect_op(parser *p, int op, const char *want)
{
    return is_op(p, op) ? advance(p) : unexpected(p, want);
}

static mr_err expect_type(parser *p, mr_ttoken_type type, const char *want)
{
    return p->cur.type == type ? advance(p) : unexpected(p, want);
}

static mr_err expect_word(parser *p, const char *z)
{
    return is_word(&p->cur, z) ? advance(p) : unexpected(p, z);
}

static mr_err node(parser *p, mr_tnode_type type, mr_tnode **out)
{
    mr_tnode *n = mr_tpl_alloc(p->e, sizeof *n);
    if (!n)
        return MR_ENOMEM;
    n->type = type;
    n->line = p->cur.line;
    *out = n;
    return MR_OK;
}

/* ---- expressions ------------------------------------------------------------------------- */

/* Values between brackets: up to `close`, which is taken along. */
static mr_err items(parser *p, int close, bool pairs, mr_tnode **out)
{
    while (!is_op(p, close)) {
        MR_TRY(expression(p, true, out));
        if (pairs) {
            mr_tnode *pair;
            MR_TRY(node(p, MR_N_PAIR, &pair));
            pair->a = *out;
            MR_TRY(expect_op(p, ':', "':'"));
            MR_TRY(expression(p, true, &pair->b));
            *out = pair;
        }
        out = &(*out)->next;
        if (!is_op(p, close))
            MR_TRY(expect_op(p, ',', "',' or a closing bracket"));
    }
    return advance(p);
}

static bool tuple_ends(const parser *p)
{
    return p->cur.type == MR_TK_BLOCK_END || p->cur.type == MR_TK_PRINT_END || is_op(p, ')') ||
           is_op(p, '=') || is_op(p, ']') || is_word(&p->cur, "in") || is_word(&p->cur, "if");
}

/* One expression, or several with commas: a tuple. */
static mr_err tuple(parser *p, bool with_if, mr_tnode **out)
{
    mr_tnode *first, *t, **at;
    MR_TRY(expression(p, with_if, &first));
    *out = first;
    if (!is_op(p, ','))
        return MR_OK;
    MR_TRY(node(p, MR_N_TUPLE, &t));
    *out = t;
    t->kids = first;
    at = &first->next;
    while (is_op(p, ',')) {
        MR_TRY(advance(p));
        if (tuple_ends(p))
            break;
        MR_TRY(expression(p, with_if, at));
        at = &(*at)->next;
    }
    return MR_OK;
}

static mr_err constant(parser *p, mr_tval v, mr_tnode **out)
{
    MR_TRY(node(p, MR_N_CONST, out));
    (*out)->value = v;
    return MR_OK;
}

static mr_err name(parser *p, mr_tnode **out)
{
    static const char *const words[] = {"true", "True", "false", "False", "none", "None"};
    for (int i = 0; i < 6; i++) {
        if (is_word(&p->cur, words[i])) {
            MR_TRY(constant(p, i < 4 ? mr_tpl_bool(i < 2) : mr_tpl_none(), out));
            return advance(p);
        }
    }
    bool call =
        is_word(&p->cur, "varargs") || is_word(&p->cur, "kwargs") || is_word(&p->cur, "caller");
    if (p->macros && call)
        return mr_tpl_fail(p->e, MR_EUNSUPPORTED, "varargs, kwargs and caller of macros");
    MR_TRY(node(p, MR_N_NAME, out));
    (*out)->name = p->cur.name;
    return advance(p);
}

static mr_err strings(parser *p, mr_tnode **out)
{
    MR_TRY(constant(p, p->cur.value, out));
    MR_TRY(advance(p));
    while (p->cur.type == MR_TK_STRING) { /* side by side they are one */
        MR_TRY(mr_tpl_binary(p->e, '+', (*out)->value, p->cur.value, &(*out)->value));
        MR_TRY(advance(p));
    }
    return MR_OK;
}

static mr_err primary(parser *p, mr_tnode **out)
{
    if (p->cur.type == MR_TK_NAME)
        return name(p, out);
    if (p->cur.type == MR_TK_STRING)
        return strings(p, out);
    if (p->cur.type == MR_TK_NUMBER) {
        MR_TRY(constant(p, p->cur.value, out));
        return advance(p);
    }
    if (is_op(p, '(')) {
        MR_TRY(advance(p));
        if (is_op(p, ')')) {
            MR_TRY(node(p, MR_N_TUPLE, out));
            return advance(p);
        }
        MR_TRY(tuple(p, true, out));
        return expect_op(p, ')', "')'");
    }
    if (is_op(p, '[') || is_op(p, '{')) {
        bool list = is_op(p, '[');
        MR_TRY(node(p, list ? MR_N_LIST : MR_N_DICT, out));
        MR_TRY(advance(p));
        return items(p, list ? ']' : '}', !list, &(*out)->kids);
    }
    return unexpected(p, "a value");
}

/* (arguments), the bracket being here. */
static mr_err arguments(parser *p, mr_tnode **out)
{
    bool named = false;
    MR_TRY(advance(p));
    while (!is_op(p, ')')) {
        if (is_op(p, '*') || is_op(p, MR_OP_POW)) {
            p->e->line = p->cur.line;
            return mr_tpl_fail(p->e, MR_EUNSUPPORTED, "calls with * or ** arguments");
        }
        if (p->cur.type == MR_TK_NAME && p->next.type == MR_TK_OP && p->next.op == '=') {
            MR_TRY(node(p, MR_N_KEYWORD, out));
            (*out)->name = p->cur.name;
            MR_TRY(advance(p));
            MR_TRY(advance(p));
            MR_TRY(expression(p, true, &(*out)->a));
            named = true;
        } else if (named) {
            return unexpected(p, "a named argument");
        } else {
            MR_TRY(expression(p, true, out));
        }
        out = &(*out)->next;
        if (!is_op(p, ')'))
            MR_TRY(expect_op(p, ',', "',' or ')'"));
    }
    return advance(p);
}

/* [index], [from:to:step]; behind the bracket. */
static mr_err subscript(parser *p, mr_tnode *of, mr_tnode **out)
{
    mr_tnode *n, *parts[3] = {NULL, NULL, NULL};
    int i = 0;
    MR_TRY(node(p, MR_N_ITEM, &n));
    n->a = of;
    if (!is_op(p, ':'))
        MR_TRY(tuple(p, true, &parts[0]));
    while (is_op(p, ':') && i < 2) {
        n->type = MR_N_SLICE;
        i++;
        MR_TRY(advance(p));
        if (!is_op(p, ':') && !is_op(p, ']'))
            MR_TRY(expression(p, true, &parts[i]));
    }
    n->b = parts[0];
    if (n->type == MR_N_SLICE) {
        mr_tnode **at = &n->kids;
        for (i = 0; i < 3; i++, at = &(*at)->next) {
            if (!parts[i])
                MR_TRY(constant(p, mr_tpl_none(), &parts[i]));
            *at = parts[i];
        }
    }
    *out = n;
    return expect_op(p, ']', "']'");
}

static mr_err postfix(parser *p, mr_tnode **at)
{
    for (;;) {
        mr_tnode *n;
        if (is_op(p, '.')) {
            MR_TRY(advance(p));
            bool number = p->cur.type == MR_TK_NUMBER && p->cur.value.kind == MR_T_INT;
            MR_TRY(node(p, number ? MR_N_ITEM : MR_N_ATTR, &n));
            n->a = *at;
            if (number)
                MR_TRY(constant(p, p->cur.value, &n->b));
            n->name = p->cur.name;
            MR_TRY(number ? advance(p) : expect_type(p, MR_TK_NAME, "a name"));
        } else if (is_op(p, '[')) {
            MR_TRY(advance(p));
            MR_TRY(subscript(p, *at, &n));
        } else if (is_op(p, '(')) {
            MR_TRY(node(p, MR_N_CALL, &n));
            n->a = *at;
            MR_TRY(arguments(p, &n->args));
        } else {
            return MR_OK;
        }
        *at = n;
    }
}

static mr_err filter(parser *p, mr_tnode **at)
{
    mr_tnode *n;
    MR_TRY(node(p, MR_N_FILTER, &n));
    n->a = *at;
    n->name = p->cur.name;
    MR_TRY(expect_type(p, MR_TK_NAME, "a filter's name"));
    if (is_op(p, '('))
        MR_TRY(arguments(p, &n->args));
    *at = n;
    return MR_OK;
}

/* A test's one argument may stand without brackets. */
static bool starts_argument(const parser *p)
{
    if (p->cur.type == MR_TK_NAME)
        return !is_word(&p->cur, "else") && !is_word(&p->cur, "or") && !is_word(&p->cur, "and") &&
               !is_word(&p->cur, "is");
    return p->cur.type == MR_TK_STRING || p->cur.type == MR_TK_NUMBER || is_op(p, '[') ||
           is_op(p, '{');
}

static mr_err test(parser *p, mr_tnode **at)
{
    mr_tnode *n;
    MR_TRY(node(p, MR_N_TEST, &n));
    n->a = *at;
    if (is_word(&p->cur, "not")) {
        n->negated = true;
        MR_TRY(advance(p));
    }
    n->name = p->cur.name;
    MR_TRY(expect_type(p, MR_TK_NAME, "a test's name"));
    *at = n;
    if (is_op(p, '('))
        return arguments(p, &n->args);
    if (!starts_argument(p) || is_word(&p->cur, "if") || is_word(&p->cur, "in") ||
        is_word(&p->cur, "not"))
        return MR_OK;
    MR_TRY(primary(p, &n->args));
    return postfix(p, &n->args);
}

static mr_err unary(parser *p, bool with_filter, mr_tnode **out)
{
    MR_TRY(mr_tpl_enter(p->e));
    if (is_op(p, '-') || is_op(p, '+')) {
        MR_TRY(node(p, MR_N_UNARY, out));
        (*out)->op = p->cur.op;
        MR_TRY(advance(p));
        MR_TRY(unary(p, false, &(*out)->a));
    } else {
        MR_TRY(primary(p, out));
    }
    MR_TRY(postfix(p, out));
    while (with_filter) {
        if (is_op(p, '|')) {
            MR_TRY(advance(p));
            MR_TRY(filter(p, out));
        } else if (is_word(&p->cur, "is")) {
            MR_TRY(advance(p));
            MR_TRY(test(p, out));
        } else if (is_op(p, '(')) {
            MR_TRY(postfix(p, out));
        } else {
            break;
        }
    }
    p->e->depth--;
    return MR_OK;
}

/* The operator here and its precedence, 0 if none. */
static int operator_here(const parser *p, int *op)
{
    const mr_ttoken *t = &p->cur;
    *op = t->op;
    if (t->type == MR_TK_NAME) {
        static const struct {
            const char *z;
            int op, prec;
        } words[] = {
            {"or", MR_OP_OR, P_OR}, {"and", MR_OP_AND, P_AND}, {"in", MR_OP_IN, P_COMPARE}};
        for (int i = 0; i < 3; i++)
            if (is_word(t, words[i].z)) {
                *op = words[i].op;
                return words[i].prec;
            }
        *op = MR_OP_NOT_IN;
        return is_word(t, "not") && is_word(&p->next, "in") ? P_COMPARE : 0;
    }
    if (t->type != MR_TK_OP)
        return 0;
    switch (t->op) {
    case MR_OP_EQ:
    case MR_OP_NE:
    case MR_OP_LE:
    case MR_OP_GE:
    case '<':
    case '>':
        return P_COMPARE;
    case '+':
    case '-':
        return P_SUM;
    case '~':
        return P_CONCAT;
    case '*':
    case '/':
    case '%':
    case MR_OP_FLOOR:
        return P_PRODUCT;
    case MR_OP_POW:
        return P_POWER;
    default:
        return 0;
    }
}

/* Comparisons and concatenations take all that follow of their kind into one node. */
static mr_err chain(parser *p, int prec, mr_tnode **at)
{
    mr_tnode *n, **end;
    int op;
    MR_TRY(node(p, prec == P_COMPARE ? MR_N_COMPARE : MR_N_CONCAT, &n));
    if (prec == P_COMPARE) {
        n->a = *at;
        end = &n->kids;
    } else {
        n->kids = *at;
        end = &n->kids->next;
    }
    while (operator_here(p, &op) == prec) {
        MR_TRY(advance(p));
        if (op == MR_OP_NOT_IN)
            MR_TRY(advance(p));
        mr_tnode *part;
        MR_TRY(node(p, MR_N_PAIR, &part)); /* its own node: an operand's op is taken */
        part->op = op;
        MR_TRY(climb(p, prec + 1, &part->a));
        *end = prec == P_COMPARE ? part : part->a;
        end = &(*end)->next;
    }
    *at = n;
    return MR_OK;
}

static mr_err climb(parser *p, int min, mr_tnode **out)
{
    int prec, op;
    if (min <= P_NOT && is_word(&p->cur, "not") && !is_word(&p->next, "in")) {
        MR_TRY(mr_tpl_enter(p->e));
        MR_TRY(node(p, MR_N_UNARY, out));
        (*out)->op = MR_OP_NOT;
        MR_TRY(advance(p));
        MR_TRY(climb(p, P_NOT, &(*out)->a));
        p->e->depth--;
    } else {
        MR_TRY(unary(p, true, out));
    }
    while ((prec = operator_here(p, &op)) >= min && prec) {
        if (prec == P_COMPARE || prec == P_CONCAT) {
            MR_TRY(chain(p, prec, out));
            continue;
        }
        mr_tnode *n;
        MR_TRY(node(p, MR_N_BINARY, &n));
        n->op = op;
        n->a = *out;
        MR_TRY(advance(p));
        MR_TRY(climb(p, prec + 1, &n->b));
        *out = n;
    }
    return MR_OK;
}

static mr_err expression(parser *p, bool with_if, mr_tnode **out)
{
    MR_TRY(climb(p, P_OR, out));
    while (with_if && is_word(&p->cur, "if")) {
        mr_tnode *n;
        MR_TRY(node(p, MR_N_COND, &n));
        n->a = *out;
        MR_TRY(advance(p));
        MR_TRY(climb(p, P_OR, &n->b));
        *out = n;
        if (is_word(&p->cur, "else")) {
            MR_TRY(mr_tpl_enter(p->e));
            MR_TRY(advance(p));
            MR_TRY(expression(p, true, &n->c));
            p->e->depth--;
        }
    }
    return MR_OK;
}

/* ---- statements -------------------------------------------------------------------------- */

static mr_err end_tag(parser *p)
{
    return expect_type(p, MR_TK_BLOCK_END, "the tag's end");
}

static mr_err target(parser *p, mr_tnode **out);

/* A name, name.attribute, or targets in brackets. */
static mr_err target_part(parser *p, mr_tnode **out)
{
    mr_tnode *n;
    if (is_op(p, '(')) {
        MR_TRY(mr_tpl_enter(p->e));
        MR_TRY(advance(p));
        MR_TRY(target(p, out));
        p->e->depth--;
        return expect_op(p, ')', "')'");
    }
    MR_TRY(node(p, MR_N_NAME, &n));
    n->name = p->cur.name;
    MR_TRY(expect_type(p, MR_TK_NAME, "a name to assign to"));
    if (is_op(p, '.')) {
        MR_TRY(advance(p));
        n->type = MR_N_ATTR;
        MR_TRY(node(p, MR_N_NAME, &n->a));
        n->a->name = n->name;
        n->name = p->cur.name;
        MR_TRY(expect_type(p, MR_TK_NAME, "a name"));
    }
    *out = n;
    return MR_OK;
}

/* What a for or set assigns to: one, or several with commas. */
static mr_err target(parser *p, mr_tnode **out)
{
    mr_tnode *t = NULL, **at = out;
    for (;;) {
        mr_tnode *n;
        MR_TRY(target_part(p, &n));
        *at = n;
        at = &n->next;
        if (!is_op(p, ','))
            break;
        if (!t) {
            MR_TRY(node(p, MR_N_TUPLE, &t));
            t->kids = *out;
            *out = t;
        }
        MR_TRY(advance(p));
        if (tuple_ends(p))
            break;
    }
    return MR_OK;
}

static mr_err parse_if(parser *p, mr_tnode *n)
{
    static const char *const ends[] = {"elif", "else", "endif", NULL};
    mr_tnode **at = &n->kids;
    bool more = true, last = false;
    while (more) {
        MR_TRY(node(p, MR_N_BRANCH, at));
        if (!last)
            MR_TRY(tuple(p, false, &(*at)->a));
        MR_TRY(end_tag(p));
        MR_TRY(body(p, last ? ends + 2 : ends, &(*at)->kids));
        at = &(*at)->next;
        last = is_word(&p->cur, "else");
        more = !is_word(&p->cur, "endif");
        MR_TRY(advance(p));
    }
    return MR_OK;
}

static mr_err parse_for(parser *p, mr_tnode *n)
{
    static const char *const ends[] = {"else", "endfor", NULL};
    MR_TRY(target(p, &n->a));
    MR_TRY(expect_word(p, "in"));
    MR_TRY(tuple(p, false, &n->b));
    if (is_word(&p->cur, "if")) {
        MR_TRY(advance(p));
        MR_TRY(expression(p, true, &n->c));
    }
    if (is_word(&p->cur, "recursive"))
        return mr_tpl_fail(p->e, MR_EUNSUPPORTED, "recursive loops");
    MR_TRY(end_tag(p));
    p->loops++;
    MR_TRY(body(p, ends, &n->kids));
    p->loops--;
    if (is_word(&p->cur, "else")) {
        MR_TRY(advance(p));
        MR_TRY(end_tag(p));
        MR_TRY(body(p, ends + 1, &n->orelse));
    }
    return advance(p);
}

/* Filters around what a block captures. */
static mr_err filters(parser *p, mr_tnode **out)
{
    MR_TRY(node(p, MR_N_BODY, out));
    while (is_op(p, '|')) {
        MR_TRY(advance(p));
        MR_TRY(filter(p, out));
    }
    return MR_OK;
}

static mr_err parse_set(parser *p, mr_tnode *n)
{
    static const char *const ends[] = {"endset", NULL};
    MR_TRY(target(p, &n->a));
    if (is_op(p, '=')) {
        MR_TRY(advance(p));
        return tuple(p, true, &n->b);
    }
    n->type = MR_N_SETBLOCK;
    MR_TRY(filters(p, &n->b));
    MR_TRY(end_tag(p));
    MR_TRY(body(p, ends, &n->kids));
    return advance(p);
}

static mr_err parse_macro(parser *p, mr_tnode *n)
{
    static const char *const ends[] = {"endmacro", NULL};
    mr_tnode **at = &n->args;
    n->name = p->cur.name;
    MR_TRY(expect_type(p, MR_TK_NAME, "a macro's name"));
    MR_TRY(expect_op(p, '(', "'('"));
    while (!is_op(p, ')')) {
        MR_TRY(node(p, MR_N_KEYWORD, at));
        (*at)->name = p->cur.name;
        MR_TRY(expect_type(p, MR_TK_NAME, "a parameter's name"));
        if (is_op(p, '=')) {
            MR_TRY(advance(p));
            MR_TRY(expression(p, true, &(*at)->a));
        }
        at = &(*at)->next;
        if (!is_op(p, ')'))
            MR_TRY(expect_op(p, ',', "',' or ')'"));
    }
    MR_TRY(advance(p));
    MR_TRY(end_tag(p));
    int loops = p->loops;
    p->loops = 0;
    p->macros++;
    MR_TRY(body(p, ends, &n->kids));
    p->macros--;
    p->loops = loops;
    return advance(p);
}

static mr_err parse_with(parser *p, mr_tnode *n)
{
    static const char *const ends[] = {"endwith", NULL};
    mr_tnode **at = &n->args;
    while (p->cur.type != MR_TK_BLOCK_END) {
        MR_TRY(node(p, MR_N_SET, at));
        MR_TRY(target(p, &(*at)->a));
        MR_TRY(expect_op(p, '=', "'='"));
        MR_TRY(expression(p, true, &(*at)->b));
        at = &(*at)->next;
        if (p->cur.type != MR_TK_BLOCK_END)
            MR_TRY(expect_op(p, ',', "','"));
    }
    MR_TRY(end_tag(p));
    MR_TRY(body(p, ends, &n->kids));
    return advance(p);
}

static mr_err parse_generation(parser *p, mr_tnode *n)
{
    static const char *const ends[] = {"endgeneration", NULL};
    MR_TRY(end_tag(p));
    MR_TRY(body(p, ends, &n->kids));
    return advance(p);
}

static mr_err parse_filtered(parser *p, mr_tnode *n)
{
    static const char *const ends[] = {"endfilter", NULL};
    MR_TRY(node(p, MR_N_BODY, &n->b));
    MR_TRY(filter(p, &n->b));
    while (is_op(p, '|')) {
        MR_TRY(advance(p));
        MR_TRY(filter(p, &n->b));
    }
    MR_TRY(end_tag(p));
    MR_TRY(body(p, ends, &n->kids));
    return advance(p);
}

static mr_err parse_jump(parser *p, mr_tnode *n)
{
    if (p->loops)
        return MR_OK;
    return mr_tpl_fail(p->e, MR_EFORMAT, "%s outside a loop",
                       n->type == MR_N_BREAK ? "break" : "continue");
}

static mr_err statement(parser *p, mr_tnode **out)
{
    static const struct {
        const char *word;
        mr_tnode_type type;
        mr_err (*read)(parser *p, mr_tnode *n);
    } kinds[] = {
        {"if", MR_N_IF, parse_if},
        {"for", MR_N_FOR, parse_for},
        {"set", MR_N_SET, parse_set},
        {"macro", MR_N_MACRO, parse_macro},
        {"break", MR_N_BREAK, parse_jump},
        {"continue", MR_N_CONTINUE, parse_jump},
        {"with", MR_N_WITH, parse_with},
        {"generation", MR_N_WITH, parse_generation},
        {"filter", MR_N_FILTERED, parse_filtered},
    };
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        if (!is_word(&p->cur, kinds[i].word))
            continue;
        MR_TRY(node(p, kinds[i].type, out));
        MR_TRY(advance(p));
        p->e->line = (*out)->line;
        MR_TRY(mr_tpl_enter(p->e));
        MR_TRY(kinds[i].read(p, *out));
        p->e->depth--;
        return end_tag(p);
    }
    p->e->line = p->cur.line;
    if (p->cur.type == MR_TK_NAME)
        return mr_tpl_fail(p->e, MR_EUNSUPPORTED, "the tag \"%.60s\" is not known here",
                           p->cur.name->data);
    return unexpected(p, "a tag's name");
}

/* Statements up to one of `ends`, which stays; without ends up to the template's end. */
static mr_err body(parser *p, const char *const *ends, mr_tnode **out)
{
    for (;;) {
        if (p->cur.type == MR_TK_END) {
            if (!ends)
                return MR_OK;
            p->e->line = p->cur.line;
            return mr_tpl_fail(p->e, MR_EFORMAT, "the template ends before %s",
                               ends[1] ? ends[2] ? ends[2] : ends[1] : ends[0]);
        }
        if (p->cur.type == MR_TK_DATA) {
            MR_TRY(node(p, MR_N_TEXT, out));
            (*out)->value = p->cur.value;
            MR_TRY(advance(p));
        } else if (p->cur.type == MR_TK_PRINT_BEGIN) {
            MR_TRY(node(p, MR_N_PRINT, out));
            MR_TRY(advance(p));
            MR_TRY(tuple(p, true, &(*out)->a));
            MR_TRY(expect_type(p, MR_TK_PRINT_END, "the tag's end"));
        } else {
            MR_TRY(advance(p));
            for (int i = 0; ends && ends[i]; i++)
                if (is_word(&p->cur, ends[i]))
                    return MR_OK;
            MR_TRY(statement(p, out));
        }
        out = &(*out)->next;
    }
}

mr_err mr_tpl_parse(mr_tpl *e, const char *source, size_t len, mr_tnode **out)
{
    parser p = {.e = e};
    char *text = mr_tpl_alloc(e, len + 1);
    size_t n = 0;
    if (!text)
        return MR_ENOMEM;
    for (size_t i = 0; i < len; i++) { /* one kind of line end */
        if (source[i] == '\r' && i + 1 < len && source[i + 1] == '\n')
            continue;
        text[n++] = source[i] == '\r' ? '\n' : source[i];
    }
    if (n && text[n - 1] == '\n') /* the last is dropped */
        n--;
    *out = NULL;
    mr_tlex_start(&p.lex, e, text, n);
    MR_TRY(advance(&p));
    MR_TRY(advance(&p));
    return body(&p, NULL, out);
}
