/* What ops.def says, as data.  The rows' strings are taken apart once, at first use; a malformed
 * row is a bug in the table and asserts. */
#include "ir/graph_internal.h"

#include <assert.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *name, *in, *out, *attrs, *doc;
    bool fused;
} rows[MR_OP_COUNT] = {
#define PRIM(id, name, in, out, attrs, doc) {name, in, out, attrs, doc, false},
#define FUSED(id, name, in, out, attrs, doc) {name, in, out, attrs, doc, true},
#include "ir/ops.def"
#undef PRIM
#undef FUSED
};

static mr_op_info table[MR_OP_COUNT];
static char words[512]; /* the string defaults */
static size_t words_used;
static pthread_once_t once = PTHREAD_ONCE_INIT;

/* The next word of *p into dst; false at the end. */
static bool next_word(const char **p, char *dst, size_t cap)
{
    const char *s = *p + strspn(*p, " ");
    size_t n = strcspn(s, " ");
    assert(n < cap);
    memcpy(dst, s, n);
    dst[n] = 0;
    *p = s + n;
    return n != 0;
}

static void parse_attr(mr_attr_info *a, char *word)
{
    char *colon = strchr(word, ':');
    assert(colon && (size_t)(colon - word) < sizeof a->name);
    memcpy(a->name, word, (size_t)(colon - word));
    a->kind = colon[1];
    assert(colon[2] == 0 || colon[2] == '=');
    a->required = colon[2] == 0;
    if (a->required)
        return;
    const char *text = colon + 3;
    if (a->kind == 'i') {
        a->def.i = strtoll(text, NULL, 10);
    } else if (a->kind == 'f') {
        a->def.f = (double)strtoll(text, NULL, 10); /* defaults of the table are whole numbers */
    } else {
        assert(a->kind == 's' && words_used + strlen(text) < sizeof words);
        a->def.s = strcpy(words + words_used, text);
        words_used += strlen(text) + 1;
    }
}

static void parse_row(mr_op_info *o, int id)
{
    char word[64];
    o->name = rows[id].name;
    o->doc = rows[id].doc;
    o->fused = rows[id].fused;
    for (const char *p = rows[id].in; next_word(&p, word, sizeof word); o->n_in++) {
        size_t n = strlen(word);
        bool optional = word[n - 1] == '?';
        assert(o->n_in < MR_MAX_IN && n - optional < sizeof o->in_name[0]);
        memcpy(o->in_name[o->n_in], word, n - optional);
        o->in_optional[o->n_in] = optional;
        if (!optional)
            o->n_required = o->n_in + 1;
    }
    for (const char *p = rows[id].out; next_word(&p, word, sizeof word); o->n_out++) {
        assert(o->n_out < MR_MAX_OUT && strlen(word) < sizeof o->out_name[0]);
        strcpy(o->out_name[o->n_out], word);
    }
    for (const char *p = rows[id].attrs; next_word(&p, word, sizeof word); o->n_attr++) {
        assert(o->n_attr < MR_MAX_ATTR);
        parse_attr(&o->attr[o->n_attr], word);
    }
}

static void parse_table(void)
{
    for (int i = 0; i < MR_OP_COUNT; i++)
        parse_row(&table[i], i);
}

const mr_op_info *mr_op_get(mr_op op)
{
    assert(op < MR_OP_COUNT);
    pthread_once(&once, parse_table);
    return &table[op];
}

mr_op mr_op_find(const char *name, size_t len)
{
    int i = 0;
    while (i < MR_OP_COUNT && (strlen(rows[i].name) != len || memcmp(rows[i].name, name, len)))
        i++;
    return (mr_op)i;
}

int mr_attr_index(mr_op op, const char *name)
{
    const mr_op_info *o = mr_op_get(op);
    int i = 0;
    while (i < o->n_attr && strcmp(o->attr[i].name, name))
        i++;
    assert(i < o->n_attr);
    return i;
}

static const mr_attr *attr(const mr_node *n, const char *name, char kind)
{
    int i = mr_attr_index(n->op, name);
    assert(mr_op_get(n->op)->attr[i].kind == kind);
    (void)kind;
    return &n->attr[i];
}

int64_t mr_attr_i(const mr_node *n, const char *name)
{
    return attr(n, name, 'i')->i;
}

double mr_attr_f(const mr_node *n, const char *name)
{
    return attr(n, name, 'f')->f;
}

const char *mr_attr_s(const mr_node *n, const char *name)
{
    return attr(n, name, 's')->s;
}

int mr_operand_index(mr_op op, const char *name)
{
    const mr_op_info *o = mr_op_get(op);
    int i = 0;
    while (i < o->n_in && strcmp(o->in_name[i], name))
        i++;
    assert(i < o->n_in);
    return i;
}

int mr_operand(const mr_node *n, const char *name)
{
    return n->in[mr_operand_index(n->op, name)];
}

bool mr_op_is_view(mr_op op)
{
    return op == MR_OP_SLICE || op == MR_OP_HEADS;
}

bool mr_op_is_leaf(mr_op op)
{
    return op == MR_OP_INPUT || op == MR_OP_WEIGHT || op == MR_OP_CACHE || op == MR_OP_STATE;
}

bool mr_op_has_effect(mr_op op)
{
    return op == MR_OP_APPEND || op == MR_OP_ROPE_APPEND || op == MR_OP_CONV1D ||
           op == MR_OP_DELTA_RULE;
}

bool mr_op_is_pure(mr_op op)
{
    return !mr_op_is_leaf(op) && !mr_op_has_effect(op);
}
