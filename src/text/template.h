/* The chat template engine's inside: what its lexer, parser, values, filters and evaluator share.
 *
 * Why:     a chat template is a program in Jinja2; models bring one each, so the language is read
 *          and not a list of known templates.
 * Use:     mr_tpl_new(&e); mr_tpl_set(e, "messages", v); mr_tpl_render(e, source, len, &out);
 *          mr_tpl_free(e);
 * Owns:    one environment owns all nodes and values of one rendering (one arena).
 * Threads: an environment belongs to one call.
 * Fails:   MR_EFORMAT for what jinja2 would raise, MR_EUNSUPPORTED for what only jinja2 has,
 *          MR_ELIMIT for what runs too long; each with "chat template, line N: ".
 * Rules:   1. Behaviour is that of jinja2's immutable sandbox with trim_blocks, lstrip_blocks and
 *             loop controls, as the `transformers` package sets it.
 *          2. Values never change once they are made, but for a namespace and a spent generator.
 *          3. Every loop over a template's or caller's data is paid for by mr_tpl_pay.
 */
#ifndef MR_TEXT_TEMPLATE_H
#define MR_TEXT_TEMPLATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/json.h"
#include "base/mem.h"
#include "base/str.h"

enum {
    MR_TPL_STEPS = 10000000,   /* of one rendering */
    MR_TPL_OUTPUT = 64 << 20,  /* bytes */
    MR_TPL_MEMORY = 256 << 20, /* bytes */
    MR_TPL_DEPTH = 700,        /* of nested expressions, statements and calls */
    MR_TPL_NEST = 100,         /* of nested data */
    MR_TPL_SYMBOLS = 1024      /* chains of the table of names */
};

/* ---- values ------------------------------------------------------------------------------ */

typedef struct mr_tpl mr_tpl;
typedef struct mr_tnode mr_tnode;
typedef struct mr_tscope mr_tscope;

typedef struct mr_tstr {
    const char *data; /* UTF-8 */
    size_t len, chars;
    struct mr_tstr *chain; /* of interned names */
    bool safe;             /* markup: what is added to it is escaped for HTML */
} mr_tstr;

typedef enum mr_tkind {
    MR_T_UNDEF,
    MR_T_NONE,
    MR_T_BOOL,
    MR_T_INT,
    MR_T_FLOAT,
    MR_T_STR,
    MR_T_SEQ,
    MR_T_DICT,
    MR_T_NAMESPACE,
    MR_T_MACRO,
    MR_T_GLOBAL, /* a function by name */
    MR_T_METHOD,
    MR_T_LOOP
} mr_tkind;

typedef struct mr_tval {
    mr_tkind kind;
    union {
        bool b;
        int64_t i;
        double f;
        const mr_tstr *s; /* UNDEF: what is undefined, or NULL; GLOBAL: its name */
        struct mr_tseq *seq;
        struct mr_tdict *d; /* DICT, NAMESPACE */
        struct mr_tmacro *macro;
        struct mr_tmethod *method;
        struct mr_tloop *loop;
    } u;
} mr_tval;

typedef enum mr_tseq_kind { MR_LIST, MR_TUPLE, MR_RANGE, MR_VIEW, MR_GENERATOR } mr_tseq_kind;

typedef struct mr_tseq {
    mr_tseq_kind kind; /* a generator has no length and is empty once it was gone through */
    mr_tval *v;
    size_t n, cap;
} mr_tseq;

typedef struct mr_tpair {
    mr_tval key, value;
} mr_tpair;
typedef struct mr_tdict {
    mr_tpair *v;
    size_t n, cap;
} mr_tdict;

typedef struct mr_tmacro {
    const mr_tnode *node;
    mr_tscope *scope;
} mr_tmacro;
typedef struct mr_tmethod {
    mr_tval self;
    const mr_tstr *name;
} mr_tmethod;
typedef struct mr_tloop {
    const mr_tval *v;
    size_t n, at;
} mr_tloop;

/* ---- the program ------------------------------------------------------------------------- */

typedef enum mr_tnode_type {
    /* expressions */
    MR_N_CONST,
    MR_N_NAME,
    MR_N_ATTR,    /* a.name */
    MR_N_ITEM,    /* a[b] */
    MR_N_SLICE,   /* a[kids], three of them, absent ones MR_N_CONST None */
    MR_N_CALL,    /* a(kids) */
    MR_N_FILTER,  /* a|name(kids) */
    MR_N_TEST,    /* a is name(kids) */
    MR_N_UNARY,   /* op a */
    MR_N_BINARY,  /* a op b; also and, or */
    MR_N_COMPARE, /* a, then kids with their op */
    MR_N_CONCAT,  /* kids */
    MR_N_COND,    /* a if b else c */
    MR_N_LIST,
    MR_N_TUPLE,
    MR_N_DICT, /* kids: MR_N_PAIR */
    MR_N_PAIR,
    MR_N_KEYWORD, /* name=a */
    MR_N_BODY,    /* what a filter or set block has captured */
    /* statements */
    MR_N_TEXT,
    MR_N_PRINT,
    MR_N_IF,       /* kids: MR_N_BRANCH */
    MR_N_BRANCH,   /* a or NULL; kids */
    MR_N_FOR,      /* a in b if c; kids; orelse */
    MR_N_SET,      /* a = b */
    MR_N_SETBLOCK, /* a; b: filters around MR_N_BODY; kids */
    MR_N_FILTERED, /* b: likewise; kids */
    MR_N_WITH,     /* args: MR_N_SET; kids */
    MR_N_MACRO,    /* name; args: MR_N_KEYWORD, a: default or NULL; kids */
    MR_N_BREAK,
    MR_N_CONTINUE
} mr_tnode_type;

struct mr_tnode {
    mr_tnode_type type;
    int op; /* a token's */
    int line;
    bool negated;
    const mr_tstr *name;
    mr_tval value;
    mr_tnode *a, *b, *c, *kids, *args, *orelse, *next;
};

typedef struct mr_tbinding {
    const mr_tstr *name;
    mr_tval value;
    struct mr_tbinding *next;
} mr_tbinding;
struct mr_tscope {
    mr_tscope *up;
    mr_tbinding *first;
};

typedef enum mr_tjump { MR_J_NONE, MR_J_BREAK, MR_J_CONTINUE } mr_tjump;

struct mr_tpl {
    mr_arena *arena;
    size_t held, written;
    int64_t steps;
    int depth, line;
    mr_tstr *symbol[MR_TPL_SYMBOLS];
    mr_tscope *scope;
    mr_buf *out;
    mr_tval body;
    mr_tjump jump;
};

/* ---- template_value.c: memory, making and printing --------------------------------------- */

mr_err mr_tpl_fail(const mr_tpl *e, mr_err code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
mr_err mr_tpl_pay(mr_tpl *e, size_t items); /* steps for so many bytes or values */
mr_err mr_tpl_enter(mr_tpl *e);             /* one deeper; undone by e->depth-- */
void *mr_tpl_alloc(mr_tpl *e, size_t bytes);
const mr_tstr *mr_tpl_intern(mr_tpl *e, const char *s, size_t len); /* NULL: no memory */

mr_tval mr_tpl_int(int64_t i);
mr_tval mr_tpl_bool(bool b);
mr_tval mr_tpl_float(double f);
mr_tval mr_tpl_none(void);
mr_tval mr_tpl_undef(const mr_tstr *name);
mr_err mr_tpl_str(mr_tpl *e, const char *s, size_t len, mr_tval *out);    /* copied */
mr_err mr_tpl_borrow(mr_tpl *e, const char *s, size_t len, mr_tval *out); /* of the arena */
mr_err mr_tpl_take(mr_tpl *e, mr_buf *b, mr_tval *out); /* copied, and the buffer freed */
/* The same if err is MR_OK; returns err and frees the buffer if not. */
mr_err mr_tpl_give(mr_tpl *e, mr_err err, mr_buf *b, mr_tval *out);
mr_err mr_tpl_seq(mr_tpl *e, mr_tseq_kind kind, size_t cap, mr_tval *out);
mr_err mr_tpl_push(mr_tpl *e, mr_tval seq, mr_tval v);
mr_err mr_tpl_dict(mr_tpl *e, size_t cap, mr_tval *out);
mr_err mr_tpl_put(mr_tpl *e, mr_tdict *d, mr_tval key, mr_tval value);
mr_err mr_tpl_find(mr_tpl *e, const mr_tdict *d, mr_tval key, mr_tval **out); /* NULL: none */
mr_err mr_tpl_from_json(mr_tpl *e, mr_jval v, mr_tval *out);

const char *mr_tpl_type(mr_tval v); /* Python's name of it */
bool mr_tpl_is(mr_tval v, const char *z);
bool mr_tpl_truth(mr_tval v);
mr_err mr_tpl_equal(mr_tpl *e, mr_tval a, mr_tval b, bool *out);
mr_err mr_tpl_order(mr_tpl *e, mr_tval a, mr_tval b, int *out); /* -1, 0, 1; 2: NaN */
/* The values of anything that can be gone through, as a sequence; going through it is paid. */
mr_err mr_tpl_iterate(mr_tpl *e, mr_tval v, mr_tseq **out);
/* str() and repr(), appended. */
mr_err mr_tpl_print(mr_tpl *e, mr_tval v, mr_buf *out);
mr_err mr_tpl_repr(mr_tpl *e, mr_tval v, int nest, mr_buf *out);
mr_err mr_tpl_text(mr_tpl *e, mr_tval v, mr_tval *out); /* str() */
bool mr_tpl_space(uint32_t cp);                         /* Python's str.isspace */
bool mr_tpl_number(mr_tval v, double *f);               /* bool, int, float */
bool mr_tpl_integer(mr_tval v, int64_t *i);             /* bool, int */
size_t mr_tpl_offset(const mr_tstr *s, size_t chars);   /* the byte where a character starts */

/* ---- template_json.c --------------------------------------------------------------------- */

typedef struct mr_targs {
    mr_tval *v;
    size_t n;
    const mr_tstr **name; /* of the last n_named */
    size_t n_named;
} mr_targs;
/* Argument `at`, by place or name: false if it is not given. */
bool mr_tpl_arg(const mr_targs *a, size_t at, const char *name, mr_tval *out);
/* No more than `max` by place, and no names but those of the list (NULL at its end). */
mr_err mr_tpl_args_check(const mr_tpl *e, const mr_targs *a, const char *what, size_t min,
                         size_t max, const char *const *names);
mr_err mr_tpl_tojson(mr_tpl *e, mr_tval v, const mr_targs *a, mr_tval *out);

/* ---- template_lex.c ---------------------------------------------------------------------- */

typedef enum mr_ttoken_type {
    MR_TK_END,
    MR_TK_DATA,
    MR_TK_BLOCK_BEGIN,
    MR_TK_BLOCK_END,
    MR_TK_PRINT_BEGIN,
    MR_TK_PRINT_END,
    MR_TK_NAME,
    MR_TK_STRING,
    MR_TK_NUMBER,
    MR_TK_OP
} mr_ttoken_type;

enum { /* operators of two characters and words; the others are their character */
       MR_OP_EQ = 256,
       MR_OP_NE,
       MR_OP_LE,
       MR_OP_GE,
       MR_OP_FLOOR,
       MR_OP_POW,
       MR_OP_IN,
       MR_OP_NOT_IN,
       MR_OP_AND,
       MR_OP_OR,
       MR_OP_NOT
};

typedef struct mr_ttoken {
    mr_ttoken_type type;
    int op, line;
    const mr_tstr *name; /* NAME */
    mr_tval value;       /* DATA, STRING, NUMBER */
} mr_ttoken;

typedef struct mr_tlex {
    mr_tpl *e;
    const char *s;
    size_t len, at, counted;
    int line, brackets;
    mr_ttoken_type mode; /* DATA, BLOCK_BEGIN or PRINT_BEGIN */
    bool line_start;     /* the last tag took a line feed along */
    mr_ttoken queued;    /* a tag's begin behind its text */
    bool has_queued;
} mr_tlex;
/* Takes a source of the arena, line ends made \n. */
void mr_tlex_start(mr_tlex *x, mr_tpl *e, const char *s, size_t len);
mr_err mr_tlex_next(mr_tlex *x, mr_ttoken *out);

/* ---- template_parse.c, template_call.c, template_filter.c, template_binary.c, template_eval.c - */

mr_err mr_tpl_parse(mr_tpl *e, const char *source, size_t len, mr_tnode **out);

/* A method of a string, dict or sequence: whether there is one, and its call. */
bool mr_tpl_has_method(mr_tval self, const mr_tstr *name);
mr_err mr_tpl_method(mr_tpl *e, mr_tval self, const mr_tstr *name, const mr_targs *a, mr_tval *out);
/* Tuples (key, value). */
mr_err mr_tpl_pairs(mr_tpl *e, const mr_tdict *d, mr_tseq_kind kind, mr_tval *out);
mr_err mr_tpl_is_case(mr_tpl *e, mr_tval s, bool upper, bool *out); /* isupper(), islower() */
/* range, dict, namespace, raise_exception, strftime_now. */
bool mr_tpl_has_global(const mr_tstr *name);
mr_err mr_tpl_global(mr_tpl *e, const mr_tstr *name, const mr_targs *a, mr_tval *out);
mr_err mr_tpl_strip(mr_tpl *e, mr_tval s, const mr_tval *chars, bool left, bool right,
                    mr_tval *out);
mr_err mr_tpl_replace(mr_tpl *e, mr_tval s, mr_tval from, mr_tval to, int64_t count, mr_tval *out);
typedef enum mr_tcase { MR_UPPER, MR_LOWER, MR_CAPITALIZE, MR_TITLE, MR_TITLE_WORDS } mr_tcase;
mr_err mr_tpl_case(mr_tpl *e, mr_tval s, mr_tcase how, mr_tval *out);
mr_err mr_tpl_lines(mr_tpl *e, mr_tval s, bool keep, mr_tval *out);

mr_err mr_tpl_filter(mr_tpl *e, const mr_tstr *name, mr_tval v, const mr_targs *a, mr_tval *out);
/* A list, stable also in reverse; by the attribute `path`, NULL: the value itself. */
mr_err mr_tpl_sorted(mr_tpl *e, const mr_tseq *items, const mr_tval *path, bool cased, bool reverse,
                     mr_tval *out);
mr_err mr_tpl_test(mr_tpl *e, const mr_tstr *name, mr_tval v, const mr_targs *a, bool *out);

mr_err mr_tpl_attr(mr_tpl *e, mr_tval v, const mr_tstr *name, mr_tval *out); /* v.name */
mr_err mr_tpl_item(mr_tpl *e, mr_tval v, mr_tval key, mr_tval *out);         /* v[key] */
mr_err mr_tpl_contains(mr_tpl *e, mr_tval in, mr_tval v, bool *out);
mr_err mr_tpl_binary(mr_tpl *e, int op, mr_tval a, mr_tval b, mr_tval *out);

mr_err mr_tpl_new(mr_tpl **out);
void mr_tpl_free(mr_tpl *e); /* NULL is fine */
mr_err mr_tpl_set(mr_tpl *e, const char *name, size_t len, mr_tval v);
mr_err mr_tpl_render(mr_tpl *e, const char *source, size_t len, mr_buf *out);

#endif
