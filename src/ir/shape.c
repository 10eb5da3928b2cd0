/* Shape rules.  Each reads as a list of demands; the first that fails gives a message that ends
 * with all operands' types, so the demand itself can be said in few words. */
#include "ir/shape.h"
#include "ir/graph_internal.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

mr_shape_fn mr_shape_rule(mr_op op)
{
    static const mr_shape_fn rule[MR_OP_COUNT] = {
#define PRIM(id, name, in, out, attrs, doc) mr_shape_##id,
#define FUSED(id, name, in, out, attrs, doc) mr_shape_##id,
#include "ir/ops.def"
#undef PRIM
#undef FUSED
    };
    return rule[op];
}

/* ---- demands ---- */

/* "OP: WHAT (x f32[ROWS,64], w weight<f32>[32,60])" */
static mr_err __attribute__((format(printf, 2, 3))) refuse(const mr_shape *s, const char *fmt, ...)
{
    char what[MR_ERR_MAX], list[MR_ERR_MAX] = "", type[MR_TYPE_TEXT];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(what, sizeof what, fmt, ap);
    va_end(ap);
    size_t n = 0;
    for (int i = 0; i < s->info->n_in && n < sizeof list - 1; i++)
        if (s->x[i])
            n += (size_t)snprintf(list + n, sizeof list - n, "%s%s %s", n ? ", " : " (",
                                  s->info->in_name[i], mr_type_text(s->g, s->x[i], type));
    if (s->op == MR_OP_INPUT || s->op == MR_OP_WEIGHT)
        snprintf(list, sizeof list, " \"%.200s\"", s->attr[0].s);
    else if (n && n < sizeof list - 1)
        strcpy(list + n, ")");
    return mr_fail(MR_EFORMAT, "%s: %s%s", s->info->name, what, list);
}

static int64_t attr_i(const mr_shape *s, const char *name)
{
    return s->attr[mr_attr_index(s->op, name)].i;
}

static double attr_f(const mr_shape *s, const char *name)
{
    return s->attr[mr_attr_index(s->op, name)].f;
}

static const char *attr_s(const mr_shape *s, const char *name)
{
    return s->attr[mr_attr_index(s->op, name)].s;
}

static mr_err int_range(const mr_shape *s, const char *name, int64_t low, int64_t high)
{
    int64_t i = attr_i(s, name);
    if (i < low || i > high)
        return refuse(s, "%s %lld is not in %lld..%lld", name, (long long)i, (long long)low,
                      (long long)high);
    return MR_OK;
}

static mr_err positive(const mr_shape *s, const char *name)
{
    double f = attr_f(s, name);
    return f > 0 ? MR_OK : refuse(s, "%s %g is not above 0", name, f);
}

static mr_err not_negative(const mr_shape *s, const char *name)
{
    double f = attr_f(s, name);
    return f >= 0 ? MR_OK : refuse(s, "%s %g is below 0", name, f);
}

/* The attribute is one of the words of a list "a b c". */
static mr_err one_of(const mr_shape *s, const char *name, const char *list)
{
    const char *word = attr_s(s, name);
    size_t len = strlen(word);
    for (const char *p = list; len && *p; p += strcspn(p, " "), p += *p == ' ')
        if (!strncmp(p, word, len) && (p[len] == ' ' || p[len] == 0))
            return MR_OK;
    return refuse(s, "%s \"%.40s\" is none of: %s", name, word, list);
}

static mr_err need_type(const mr_shape *s, int i, mr_vtype type, const char *what, int low,
                        int high)
{
    const mr_value *x = s->x[i];
    if (x->type != type)
        return refuse(s, "%s is not %s", s->info->in_name[i], what);
    if (x->rank < low || x->rank > high)
        return refuse(s, "%s has rank %d", s->info->in_name[i], x->rank);
    return MR_OK;
}

static mr_err need_f32(const mr_shape *s, int i, int low, int high)
{
    return need_type(s, i, MR_V_F32, "f32", low, high);
}

static mr_err need_i32(const mr_shape *s, int i, int rank)
{
    return need_type(s, i, MR_V_I32, "i32", rank, rank);
}

static mr_err need_weight(const mr_shape *s, int i, int rank)
{
    return need_type(s, i, MR_V_WEIGHT, "a weight", rank, rank);
}

static mr_dim last(const mr_value *x)
{
    return x->dim[x->rank - 1];
}

static mr_err same_dim(const mr_shape *s, int a, int i, int b, int j)
{
    if (mr_dim_equal(s->x[a]->dim[i], s->x[b]->dim[j]))
        return MR_OK;
    return refuse(s, "axis %d of %s and axis %d of %s differ", i, s->info->in_name[a], j,
                  s->info->in_name[b]);
}

static mr_err same_rows(const mr_shape *s, int a, int b)
{
    return same_dim(s, a, 0, b, 0);
}

static mr_err same_shape(const mr_shape *s, int a, int b)
{
    if (s->x[a]->rank != s->x[b]->rank)
        return refuse(s, "%s and %s differ in rank", s->info->in_name[a], s->info->in_name[b]);
    for (int i = 0; i < s->x[a]->rank; i++)
        MR_TRY(same_dim(s, a, i, b, i));
    return MR_OK;
}

/* Operand i, if present, is a weight of n plain floats. */
static mr_err need_vector(const mr_shape *s, int i, mr_dim n)
{
    const mr_value *x = s->x[i];
    if (!x)
        return MR_OK;
    MR_TRY(need_weight(s, i, 1));
    if (x->fmt.dtype != MR_F32 && x->fmt.dtype != MR_F16 && x->fmt.dtype != MR_BF16)
        return refuse(s, "%s is not f32, f16 or bf16", s->info->in_name[i]);
    if (!mr_dim_equal(x->dim[0], n))
        return refuse(s, "%s has not %lld elements", s->info->in_name[i], (long long)n.n);
    return MR_OK;
}

/* ---- results ---- */

static mr_err give(mr_shape *s, int i, mr_vtype type, int rank, mr_dim a, mr_dim b, mr_dim c)
{
    const mr_dim dim[3] = {a, b, c};
    mr_value *y = &s->y[i];
    *y = (mr_value){.type = type, .rank = rank};
    int64_t n = 1;
    for (int d = 0; d < rank; d++) {
        y->dim[d] = dim[d];
        if (dim[d].n > MR_MAX_DIM || dim[d].n > MR_MAX_ELEMENTS / n)
            return refuse(s, "the result is too large");
        n *= dim[d].n;
    }
    return MR_OK;
}

static mr_err give_flat(mr_shape *s, mr_dim rows, mr_dim n)
{
    return give(s, 0, MR_V_F32, 2, rows, n, (mr_dim){0});
}

static mr_err give_heads(mr_shape *s, mr_dim rows, mr_dim h, mr_dim d)
{
    return give(s, 0, MR_V_F32, 3, rows, h, d);
}

static mr_err give_same(mr_shape *s, int i, int x)
{
    return give(s, i, MR_V_F32, s->x[x]->rank, s->x[x]->dim[0], s->x[x]->dim[1], s->x[x]->dim[2]);
}

/* x as it is, with another last axis. */
static mr_err give_last(mr_shape *s, int64_t n)
{
    mr_dim d[3] = {s->x[0]->dim[0], s->x[0]->dim[1], s->x[0]->dim[2]};
    d[s->x[0]->rank - 1] = (mr_dim){.n = n};
    return give(s, 0, MR_V_F32, s->x[0]->rank, d[0], d[1], d[2]);
}

/* ---- leaves ---- */

/* Dims of a declared type: the first may be symbolic where `rows` says so, the others are numbers.
 */
static mr_err declared_dims(mr_shape *s, bool rows)
{
    int64_t n = 1;
    for (int i = 0; i < s->y[0].rank; i++) {
        mr_dim d = s->y[0].dim[i];
        if (d.sym < 0 || d.sym >= MR_SYM_USER + s->g->n_symbols)
            return refuse(s, "axis %d has no valid symbol", i);
        if (d.sym != MR_SYM_NONE && (i > 0 || !rows))
            return refuse(s, "axis %d is not a number", i);
        if (d.n < 1 || d.n > MR_MAX_DIM || d.n > MR_MAX_ELEMENTS / n)
            return refuse(s, "axis %d is out of range: %lld", i, (long long)d.n);
        n *= d.n;
    }
    return MR_OK;
}

mr_err mr_shape_INPUT(mr_shape *s)
{
    const mr_value *y = &s->y[0];
    if (y->type != MR_V_F32 && y->type != MR_V_I32)
        return refuse(s, "is neither f32 nor i32");
    if (y->rank < 1 || y->rank > (y->type == MR_V_F32 ? 3 : 2))
        return refuse(s, "has rank %d", y->rank);
    if (!s->attr[0].s[0])
        return refuse(s, "has no name");
    return declared_dims(s, true);
}

mr_err mr_shape_WEIGHT(mr_shape *s)
{
    const mr_value *y = &s->y[0];
    char fmt[32];
    if (y->type != MR_V_WEIGHT)
        return refuse(s, "is not of type weight");
    if (y->rank < 1)
        return refuse(s, "has rank 0");
    MR_TRY(declared_dims(s, false));
    if (!mr_dtype_is_weight(y->fmt.dtype, y->fmt.bits))
        return refuse(s, "format %s is not one of weights", mr_fmt_name(y->fmt, fmt));
    mr_fmt f = y->fmt;
    if (f.across && y->rank < 2)
        return refuse(s, "a vector has no format %s", mr_fmt_name(f, fmt));
    int64_t k = f.across ? y->dim[y->rank - 2].n : last(y).n;
    bool known =
        !mr_dtype_is_grouped(f.dtype) || mr_group_known(f.dtype, f.bits, f.group, f.scale_dtype);
    if (!known || k % mr_row_unit(f.dtype, f.bits, f.group) ||
        (f.across && mr_dtype_is_grouped(f.dtype) && k % f.group))
        return refuse(s, "a %s of %lld is not whole blocks of %s", f.across ? "column" : "row",
                      (long long)k, mr_fmt_name(f, fmt));
    return MR_OK;
}

mr_err mr_shape_CACHE(mr_shape *s)
{
    MR_TRY(int_range(s, "heads", 1, 1 << 16));
    MR_TRY(int_range(s, "dk", 1, 1 << 16));
    MR_TRY(int_range(s, "dv", 0, 1 << 16));
    MR_TRY(int_range(s, "window", 0, INT32_MAX));
    if (!attr_s(s, "name")[0])
        return refuse(s, "has no name");
    s->y[0] = (mr_value){.type = MR_V_CACHE};
    return MR_OK;
}

mr_err mr_shape_STATE(mr_shape *s)
{
    MR_TRY(int_range(s, "heads", 1, 1 << 16));
    MR_TRY(int_range(s, "dk", 1, 1 << 16));
    MR_TRY(int_range(s, "dv", 1, 1 << 24));
    if (!attr_s(s, "name")[0])
        return refuse(s, "has no name");
    s->y[0] = (mr_value){.type = MR_V_CACHE};
    return MR_OK;
}

/* ---- rows ---- */

mr_err mr_shape_ALIAS(mr_shape *s)
{
    static const char *const ids[] = {"a", "b", "c"};
    MR_TRY(need_i32(s, 0, 1));
    MR_TRY(int_range(s, "to", 0, INT32_MAX));
    for (int i = 0; i < 3; i++)
        MR_TRY(int_range(s, ids[i], -1, INT32_MAX));
    return give(s, 0, MR_V_I32, 1, s->x[0]->dim[0], (mr_dim){0}, (mr_dim){0});
}

/* An operand that a run may leave out must be an input: nothing else can be NULL. */
static mr_err need_input(const mr_shape *s, int i)
{
    if (mr_graph_node(s->g, s->x[i]->node)->op != MR_OP_INPUT)
        return refuse(s, "%s is not an input", s->info->in_name[i]);
    return MR_OK;
}

mr_err mr_shape_MIX(mr_shape *s)
{
    MR_TRY(need_f32(s, 0, 2, 2));
    MR_TRY(need_input(s, 0));
    MR_TRY(need_weight(s, 1, 2));
    MR_TRY(same_dim(s, 0, 1, 1, 0));
    return give_flat(s, s->x[0]->dim[0], s->x[1]->dim[1]);
}

mr_err mr_shape_EMBED(mr_shape *s)
{
    enum { EMBEDS = 2 };
    MR_TRY(need_i32(s, 0, 1));
    MR_TRY(need_weight(s, 1, 2));
    if (s->x[EMBEDS]) {
        MR_TRY(need_f32(s, EMBEDS, 2, 2));
        MR_TRY(need_input(s, EMBEDS));
        MR_TRY(same_rows(s, EMBEDS, 0));
        MR_TRY(same_dim(s, EMBEDS, 1, 1, 1));
    }
    return give_flat(s, s->x[0]->dim[0], s->x[1]->dim[1]);
}

mr_err mr_shape_GATHER(mr_shape *s)
{
    MR_TRY(need_f32(s, 0, 2, 2));
    MR_TRY(need_i32(s, 1, 1));
    return give_flat(s, s->x[1]->dim[0], s->x[0]->dim[1]);
}

mr_err mr_shape_LINEAR(mr_shape *s)
{
    MR_TRY(one_of(s, "act", "auto f32"));
    MR_TRY(need_f32(s, 0, 2, 2));
    MR_TRY(need_weight(s, 1, 2));
    MR_TRY(same_dim(s, 0, 1, 1, 1));
    MR_TRY(need_vector(s, 2, s->x[1]->dim[0]));
    return give_flat(s, s->x[0]->dim[0], s->x[1]->dim[0]);
}

mr_err mr_shape_LINEAR_HEADS(mr_shape *s)
{
    MR_TRY(one_of(s, "act", "auto f32"));
    MR_TRY(need_f32(s, 0, 3, 3));
    MR_TRY(need_weight(s, 1, 3));
    MR_TRY(same_dim(s, 0, 1, 1, 0));
    MR_TRY(same_dim(s, 0, 2, 1, 2));
    return give_heads(s, s->x[0]->dim[0], s->x[0]->dim[1], s->x[1]->dim[1]);
}

mr_err mr_shape_RMSNORM(mr_shape *s)
{
    MR_TRY(not_negative(s, "eps"));
    MR_TRY(need_f32(s, 0, 2, 3));
    MR_TRY(need_vector(s, 1, last(s->x[0])));
    if (!s->x[1] && attr_f(s, "offset") != 0)
        return refuse(s, "an offset without w");
    return give_same(s, 0, 0);
}

static mr_err pairwise(mr_shape *s)
{
    MR_TRY(need_f32(s, 0, 2, 3));
    MR_TRY(need_f32(s, 1, 2, 3));
    MR_TRY(same_shape(s, 0, 1));
    return give_same(s, 0, 0);
}

mr_err mr_shape_ADD(mr_shape *s)
{
    return pairwise(s);
}

mr_err mr_shape_MUL(mr_shape *s)
{
    return pairwise(s);
}

static mr_err elementwise(mr_shape *s)
{
    MR_TRY(need_f32(s, 0, 2, 3));
    return give_same(s, 0, 0);
}

mr_err mr_shape_SCALE(mr_shape *s)
{
    MR_TRY(need_vector(s, 1, (mr_dim){.n = 1}));
    if (s->x[1] && attr_f(s, "by") != 1)
        return refuse(s, "by %g beside w", attr_f(s, "by"));
    return elementwise(s);
}

mr_err mr_shape_SOFTCAP(mr_shape *s)
{
    MR_TRY(positive(s, "cap"));
    return elementwise(s);
}

mr_err mr_shape_SILU(mr_shape *s)
{
    return elementwise(s);
}

mr_err mr_shape_GELU_TANH(mr_shape *s)
{
    return elementwise(s);
}

mr_err mr_shape_GELU(mr_shape *s)
{
    return elementwise(s);
}

mr_err mr_shape_SIGMOID(mr_shape *s)
{
    return elementwise(s);
}

mr_err mr_shape_RELU(mr_shape *s)
{
    return elementwise(s);
}

/* ---- views ---- */

/* A slice of several heads leaves gaps between them, so it cannot be seen as flat rows. */
static bool has_gaps(const mr_shape *s)
{
    return s->g->value[s->in[0]]->gaps;
}

mr_err mr_shape_SLICE(mr_shape *s)
{
    MR_TRY(need_f32(s, 0, 2, 3));
    int64_t n = last(s->x[0]).n;
    MR_TRY(int_range(s, "start", 0, n - 1));
    MR_TRY(int_range(s, "len", 1, n - attr_i(s, "start")));
    s->gaps = has_gaps(s) || (s->x[0]->rank == 3 && s->x[0]->dim[1].n > 1 && attr_i(s, "len") < n);
    return give_last(s, attr_i(s, "len"));
}

mr_err mr_shape_HEADS(mr_shape *s)
{
    const mr_value *x = s->x[0];
    int64_t n = attr_i(s, "n");
    MR_TRY(int_range(s, "n", 0, 1 << 16));
    MR_TRY(need_f32(s, 0, n ? 2 : 3, n ? 2 : 3));
    if (!n) {
        if (has_gaps(s))
            return refuse(s, "x is a slice of heads, which do not lie next to each other");
        return give_flat(s, x->dim[0], (mr_dim){.n = x->dim[1].n * x->dim[2].n});
    }
    if (x->dim[1].n % n)
        return refuse(s, "x does not fall into %lld heads", (long long)n);
    return give_heads(s, x->dim[0], (mr_dim){.n = n}, (mr_dim){.n = x->dim[1].n / n});
}

mr_err mr_shape_CONCAT(mr_shape *s)
{
    const mr_value *a = s->x[0], *b = s->x[1];
    MR_TRY(need_f32(s, 0, 2, 3));
    MR_TRY(need_f32(s, 1, a->rank, a->rank));
    MR_TRY(same_rows(s, 0, 1));
    mr_dim sum = {.n = last(a).n + last(b).n};
    if (a->rank == 2)
        return give_flat(s, a->dim[0], sum);
    if (a->dim[1].n != 1 && b->dim[1].n != 1)
        MR_TRY(same_dim(s, 0, 1, 1, 1));
    return give_heads(s, a->dim[0], a->dim[1].n == 1 ? b->dim[1] : a->dim[1], sum);
}

/* ---- positions and attention ---- */

mr_err mr_shape_ROPE_TABLE(mr_shape *s)
{
    const char *kind = attr_s(s, "kind");
    int64_t dim = attr_i(s, "dim"), half = (dim + 1) / 2;
    MR_TRY(int_range(s, "dim", 1, 1 << 16));
    MR_TRY(int_range(s, "truncate", 0, 1));
    MR_TRY(one_of(s, "kind", "none linear llama3 yarn proportional"));
    MR_TRY(positive(s, "theta"));
    MR_TRY(positive(s, "factor"));
    MR_TRY(positive(s, "mscale"));
    if (dim % 2 && (!strcmp(kind, "yarn") || !strcmp(kind, "proportional")))
        return refuse(s, "dim %lld is odd", (long long)dim);
    bool part = !strcmp(kind, "proportional");
    MR_TRY(int_range(s, "angles", part, part ? half : 0));
    if (!strcmp(kind, "llama3")) {
        MR_TRY(positive(s, "orig"));
        MR_TRY(positive(s, "low"));
        if (attr_f(s, "high") <= attr_f(s, "low"))
            return refuse(s, "high %g is not above low %g", attr_f(s, "high"), attr_f(s, "low"));
    }
    if (!strcmp(kind, "yarn")) {
        MR_TRY(positive(s, "orig"));
        MR_TRY(positive(s, "beta_fast"));
        MR_TRY(positive(s, "beta_slow"));
        if (attr_f(s, "theta") <= 1)
            return refuse(s, "theta %g is not above 1, as yarn needs", attr_f(s, "theta"));
    }
    MR_TRY(need_i32(s, 0, 1));
    MR_TRY(need_vector(s, 1, (mr_dim){.n = half}));
    return give_flat(s, s->x[0]->dim[0], (mr_dim){.n = 2 * half});
}

/* x and the table of rope and rope_append */
static mr_err rotation(const mr_shape *s, int x, int table)
{
    MR_TRY(need_f32(s, x, 2, 3));
    MR_TRY(need_f32(s, table, 2, 2));
    MR_TRY(same_rows(s, x, table));
    MR_TRY(int_range(s, "interleaved", 0, 1));
    int64_t dim = s->x[table]->dim[1].n, n = last(s->x[x]).n;
    if (dim % 2)
        return refuse(s, "%s has an odd width", s->info->in_name[table]);
    if (dim > n)
        return refuse(s, "%s is wider than %s", s->info->in_name[table], s->info->in_name[x]);
    return int_range(s, "start", 0, n - dim);
}

mr_err mr_shape_ROPE(mr_shape *s)
{
    MR_TRY(rotation(s, 0, 1));
    return give_same(s, 0, 0);
}

/* The cache node behind operand i. */
static mr_err need_cache(const mr_shape *s, int i, const mr_node **out)
{
    MR_TRY(need_type(s, i, MR_V_CACHE, "a cache", 0, 0));
    *out = mr_graph_cache(s->g, s->in[i]);
    assert(*out);
    if ((*out)->op != MR_OP_CACHE)
        return refuse(s, "%s is a state, not a cache of keys and values", s->info->in_name[i]);
    return MR_OK;
}

/* Result 1 is the successor of the state that operand i is; it must have these sizes. */
static mr_err give_state(mr_shape *s, int i, int64_t heads, int64_t dk, int64_t dv)
{
    MR_TRY(need_type(s, i, MR_V_CACHE, "a state", 0, 0));
    const mr_node *n = mr_graph_cache(s->g, s->in[i]);
    assert(n);
    if (n->op != MR_OP_STATE)
        return refuse(s, "%s is a cache of keys and values, not a state", s->info->in_name[i]);
    if (mr_attr_i(n, "heads") != heads || mr_attr_i(n, "dk") != dk || mr_attr_i(n, "dv") != dv)
        return refuse(s, "state \"%.40s\" is not [%lld,%lld,%lld]", mr_attr_s(n, "name"),
                      (long long)heads, (long long)dk, (long long)dv);
    s->y[1] = (mr_value){.type = MR_V_CACHE};
    s->cache = mr_graph_value(s->g, n->out[0])->node;
    return MR_OK;
}

/* Rows [R, heads, d] as the cache keeps them. */
static mr_err cache_rows(const mr_shape *s, int i, const mr_node *cache, const char *d)
{
    MR_TRY(need_f32(s, i, 3, 3));
    if (s->x[i]->dim[1].n != mr_attr_i(cache, "heads") || s->x[i]->dim[2].n != mr_attr_i(cache, d))
        return refuse(s, "%s is not [R,%lld,%lld] as cache \"%.40s\" has heads and %s",
                      s->info->in_name[i], (long long)mr_attr_i(cache, "heads"),
                      (long long)mr_attr_i(cache, d), mr_attr_s(cache, "name"), d);
    return MR_OK;
}

static mr_err append(mr_shape *s)
{
    int k = mr_operand_index(s->op, "k"), v = mr_operand_index(s->op, "v"),
        pos = mr_operand_index(s->op, "pos");
    const mr_node *cache;
    MR_TRY(need_cache(s, 0, &cache));
    MR_TRY(cache_rows(s, k, cache, "dk"));
    MR_TRY(need_i32(s, pos, 1));
    MR_TRY(same_rows(s, k, pos));
    if (!s->x[v] != (mr_attr_i(cache, "dv") == 0))
        return refuse(s,
                      s->x[v] ? "v given to cache \"%.40s\" of dv 0"
                              : "v is absent, cache \"%.40s\" has a dv",
                      mr_attr_s(cache, "name"));
    if (s->x[v]) {
        MR_TRY(cache_rows(s, v, cache, "dv"));
        MR_TRY(same_rows(s, k, v));
    }
    s->y[0] = (mr_value){.type = MR_V_CACHE};
    s->cache = mr_graph_value(s->g, cache->out[0])->node;
    return MR_OK;
}

mr_err mr_shape_APPEND(mr_shape *s)
{
    return append(s);
}

/* window is given with mask window and block with mask block, and only there. */
static mr_err attention_mask(const mr_shape *s, const mr_node *cache)
{
    const char *mask = attr_s(s, "mask");
    bool window = !strcmp(mask, "window"), block = !strcmp(mask, "block"),
         canvas = !strcmp(mask, "canvas");
    MR_TRY(one_of(s, "mask", "causal window block full canvas"));
    MR_TRY(int_range(s, "window", window, window || canvas ? INT32_MAX : 0));
    MR_TRY(int_range(s, "block", block, block ? INT32_MAX : 0));
    int64_t ring = mr_attr_i(cache, "window");
    if (ring && (!attr_i(s, "window") || attr_i(s, "window") > ring))
        return refuse(s, "mask %s %lld sees more than cache \"%.40s\" keeps, %lld", mask,
                      (long long)attr_i(s, "window"), mr_attr_s(cache, "name"), (long long)ring);
    return MR_OK;
}

/* Which rows of the run q has, and the image that each row of the run belongs to. */
static mr_err attention_rows(const mr_shape *s)
{
    enum { Q, POS = 2, SPAN, ROWS };
    const char *mask = attr_s(s, "mask");
    bool ahead = !strcmp(mask, "causal") || !strcmp(mask, "window"),
         canvas = !strcmp(mask, "canvas");
    MR_TRY(need_i32(s, POS, 1));
    if (canvas)
        MR_TRY(int_range(s, "span", 2, s->x[SPAN] ? 2 : 1));
    else
        MR_TRY(int_range(s, "span", s->x[SPAN] ? 1 : 0, s->x[SPAN] && ahead ? 2 : 0));
    if (s->x[SPAN]) {
        MR_TRY(need_i32(s, SPAN, 2));
        MR_TRY(need_input(s, SPAN));
        MR_TRY(same_rows(s, SPAN, POS));
        if (s->x[SPAN]->dim[1].n != 2)
            return refuse(s, "span is not [R,2]");
    }
    if (!s->x[ROWS])
        return same_rows(s, Q, POS);
    MR_TRY(need_i32(s, ROWS, 1));
    if (s->x[POS]->dim[0].sym != MR_SYM_ROWS || s->x[POS]->dim[0].n != 1)
        return refuse(s, "pos is not of all rows");
    return same_rows(s, Q, ROWS);
}

mr_err mr_shape_ATTENTION(mr_shape *s)
{
    const mr_node *cache;
    MR_TRY(need_f32(s, 0, 3, 3));
    MR_TRY(need_cache(s, 1, &cache));
    MR_TRY(attention_mask(s, cache));
    MR_TRY(attention_rows(s));
    MR_TRY(not_negative(s, "softcap"));
    int64_t heads = mr_attr_i(cache, "heads"), dk = mr_attr_i(cache, "dk"),
            dv = mr_attr_i(cache, "dv");
    if (s->x[0]->dim[2].n != dk)
        return refuse(s, "q's last axis is not dk %lld of cache \"%.40s\"", (long long)dk,
                      mr_attr_s(cache, "name"));
    if (s->x[0]->dim[1].n % heads)
        return refuse(s, "q's heads are no multiple of the %lld of cache \"%.40s\"",
                      (long long)heads, mr_attr_s(cache, "name"));
    if (dv)
        MR_TRY(int_range(s, "dv", dv, dv));
    else
        MR_TRY(int_range(s, "dv", 1, dk));
    return give_heads(s, s->x[0]->dim[0], s->x[0]->dim[1], (mr_dim){.n = attr_i(s, "dv")});
}

/* ---- recurrent layers ---- */

mr_err mr_shape_L2NORM(mr_shape *s)
{
    MR_TRY(not_negative(s, "eps"));
    return elementwise(s);
}

mr_err mr_shape_CONV1D(mr_shape *s)
{
    MR_TRY(need_f32(s, 0, 2, 2));
    MR_TRY(need_weight(s, 1, 2));
    MR_TRY(same_dim(s, 0, 1, 1, 0));
    int64_t width = s->x[1]->dim[1].n;
    MR_TRY(give_state(s, 2, 1, width > 1 ? width - 1 : 1, s->x[0]->dim[1].n));
    return give_same(s, 0, 0);
}

mr_err mr_shape_DECAY(mr_shape *s)
{
    MR_TRY(need_f32(s, 0, 2, 2));
    MR_TRY(need_vector(s, 1, s->x[0]->dim[1]));
    MR_TRY(need_vector(s, 2, s->x[0]->dim[1]));
    return give_same(s, 0, 0);
}

mr_err mr_shape_DELTA_RULE(mr_shape *s)
{
    enum { Q, K, V, DECAY, BETA, STATE };
    MR_TRY(need_f32(s, Q, 3, 3));
    MR_TRY(need_f32(s, K, 3, 3));
    MR_TRY(need_f32(s, V, 3, 3));
    MR_TRY(need_f32(s, DECAY, 2, 2));
    MR_TRY(need_f32(s, BETA, 2, 2));
    MR_TRY(same_shape(s, Q, K));
    MR_TRY(same_rows(s, Q, V));
    MR_TRY(same_rows(s, V, DECAY));
    MR_TRY(same_dim(s, V, 1, DECAY, 1));
    MR_TRY(same_shape(s, DECAY, BETA));
    if (s->x[V]->dim[1].n % s->x[Q]->dim[1].n)
        return refuse(s, "the heads of v are no multiple of those of q");
    MR_TRY(give_state(s, STATE, s->x[V]->dim[1].n, s->x[Q]->dim[2].n, s->x[V]->dim[2].n));
    return give_same(s, 0, V);
}

/* ---- mixture of experts ---- */

mr_err mr_shape_ROUTE(mr_shape *s)
{
    MR_TRY(need_f32(s, 0, 2, 2));
    mr_dim rows = s->x[0]->dim[0], experts = s->x[0]->dim[1];
    MR_TRY(need_vector(s, 1, experts));
    MR_TRY(need_vector(s, 2, experts));
    MR_TRY(one_of(s, "score", "sigmoid softmax"));
    MR_TRY(int_range(s, "norm", 0, 1));
    MR_TRY(not_negative(s, "eps"));
    int64_t groups = attr_i(s, "groups");
    MR_TRY(int_range(s, "groups", 1, experts.n));
    if (experts.n % groups)
        return refuse(s, "%lld experts do not fall into %lld groups", (long long)experts.n,
                      (long long)groups);
    MR_TRY(int_range(s, "group_sum", 1, 2));
    if (groups > 1 && experts.n / groups < attr_i(s, "group_sum"))
        return refuse(s, "groups of one expert have no two largest");
    MR_TRY(int_range(s, "keep", 1, groups));
    MR_TRY(int_range(s, "k", 1, experts.n / groups * attr_i(s, "keep")));
    MR_TRY(int_range(s, "block", 0, INT32_MAX));
    if ((attr_i(s, "block") > 0) != (s->x[3] != NULL))
        return refuse(s, "block needs pos, and pos block");
    if (attr_i(s, "block") == 0) {
        MR_TRY(int_range(s, "capacity", 0, 0));
    } else {
        MR_TRY(need_i32(s, 3, 1));
        MR_TRY(same_rows(s, 0, 3));
        MR_TRY(int_range(s, "groups", 1, 1));
        MR_TRY(int_range(s, "capacity", attr_i(s, "k"), experts.n));
    }
    mr_dim k = {.n = attr_i(s, "k")};
    MR_TRY(give(s, 0, MR_V_I32, 2, rows, k, (mr_dim){0}));
    return give(s, 1, MR_V_F32, 2, rows, k, (mr_dim){0});
}

mr_err mr_shape_EXPERT_LINEAR(mr_shape *s)
{
    const mr_value *x = s->x[0];
    MR_TRY(one_of(s, "act", "auto f32"));
    MR_TRY(need_f32(s, 0, 2, 3));
    MR_TRY(need_weight(s, 1, 3));
    MR_TRY(need_i32(s, 2, 2));
    MR_TRY(same_rows(s, 0, 2));
    if (x->rank == 3)
        MR_TRY(same_dim(s, 0, 1, 2, 1));
    MR_TRY(same_dim(s, 0, x->rank - 1, 1, 2));
    return give_heads(s, x->dim[0], s->x[2]->dim[1], s->x[1]->dim[1]);
}

mr_err mr_shape_COMBINE(mr_shape *s)
{
    MR_TRY(need_f32(s, 0, 3, 3));
    MR_TRY(need_f32(s, 1, 2, 2));
    MR_TRY(same_rows(s, 0, 1));
    MR_TRY(same_dim(s, 0, 1, 1, 1));
    return give_flat(s, s->x[0]->dim[0], s->x[0]->dim[2]);
}

/* ---- fused ---- */

mr_err mr_shape_ADD_RMSNORM(mr_shape *s)
{
    MR_TRY(not_negative(s, "eps"));
    MR_TRY(pairwise(s));
    MR_TRY(need_vector(s, 2, last(s->x[0])));
    return give_same(s, 1, 0);
}

mr_err mr_shape_GATED_LINEAR(mr_shape *s)
{
    MR_TRY(one_of(s, "fn", "silu gelu_tanh gelu"));
    MR_TRY(one_of(s, "act", "auto f32"));
    MR_TRY(need_f32(s, 0, 2, 2));
    MR_TRY(need_weight(s, 1, 2));
    MR_TRY(need_weight(s, 2, 2));
    MR_TRY(same_dim(s, 0, 1, 1, 1));
    MR_TRY(same_shape(s, 1, 2));
    MR_TRY(need_vector(s, 3, s->x[1]->dim[0]));
    MR_TRY(need_vector(s, 4, s->x[1]->dim[0]));
    return give_flat(s, s->x[0]->dim[0], s->x[1]->dim[0]);
}

mr_err mr_shape_ROPE_APPEND(mr_shape *s)
{
    MR_TRY(append(s));
    return rotation(s, 1, 3);
}

mr_err mr_shape_MOE(mr_shape *s)
{
    enum { X, IDS, WEIGHTS, WG, WU, WD };
    MR_TRY(one_of(s, "fn", "silu gelu_tanh gelu"));
    MR_TRY(one_of(s, "act", "auto f32"));
    MR_TRY(need_f32(s, X, 2, 2));
    MR_TRY(need_i32(s, IDS, 2));
    MR_TRY(need_f32(s, WEIGHTS, 2, 2));
    MR_TRY(same_rows(s, X, IDS));
    MR_TRY(same_shape(s, IDS, WEIGHTS));
    for (int i = WG; i <= WD; i++)
        MR_TRY(need_weight(s, i, 3));
    MR_TRY(same_dim(s, X, 1, WG, 2));
    MR_TRY(same_shape(s, WG, WU));
    MR_TRY(same_dim(s, WG, 0, WD, 0));
    MR_TRY(same_dim(s, WG, 1, WD, 2));
    return give_flat(s, s->x[X]->dim[0], s->x[WD]->dim[1]);
}
