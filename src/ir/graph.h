/* The graph: ops over values, SSA, symbolic sizes.
 *
 * Why:    a model is data: it prints, parses, is checked and transformed before anything runs.
 * Use:    mr_graph *g; MR_TRY(mr_graph_new(&g, "llama"));
 *         int in[2] = {ids, table}; mr_attr at[1] = {{.f = 1.0}};
 *         int y; MR_TRY(mr_graph_add(g, MR_OP_EMBED, in, 2, at, &y));   results are y, y+1, ...
 * Owns:   the graph owns all of itself (one arena); strings given to it are copied.
 * Threads: a graph under construction belongs to one thread; a finished one may be read by many.
 * Fails:  mr_graph_add runs the op's shape rule: MR_EFORMAT naming op, operand and dims.
 * Rules:  1. Nodes are in order: a node's operands are results of earlier nodes.
 *         2. A value is defined once. Caches are SSA too: append takes a cache and gives its
 *            successor.
 *         3. Passes build a new graph (mr_graph_add again), so every shape is re-derived.
 */
#ifndef MR_IR_GRAPH_H
#define MR_IR_GRAPH_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/mem.h"
#include "base/str.h"
#include "tensor/tensor.h"

enum { MR_MAX_RANK = 3, MR_MAX_IN = 6, MR_MAX_OUT = 2, MR_MAX_ATTR = 12, MR_NONE = -1 };

typedef enum mr_op {
#define PRIM(id, name, in, out, attrs, doc) MR_OP_##id,
#define FUSED(id, name, in, out, attrs, doc) MR_OP_##id,
#include "ir/ops.def"
#undef PRIM
#undef FUSED
    MR_OP_COUNT
} mr_op;

/* A size: n, or n * symbol. */
typedef enum mr_sym {
    MR_SYM_NONE,
    MR_SYM_ROWS,
    MR_SYM_OUT,
    MR_SYM_BATCH,
    MR_SYM_SEQ,
    MR_SYM_PAST,
    MR_SYM_USER
} mr_sym;
typedef struct mr_dim {
    int64_t n;
    int sym; /* mr_sym, or MR_SYM_USER + i for the graph's i-th own symbol */
} mr_dim;

typedef enum mr_vtype { MR_V_F32, MR_V_I32, MR_V_WEIGHT, MR_V_CACHE } mr_vtype;

/* Storage format of a weight as the file has it. */
typedef struct mr_fmt {
    mr_dtype dtype;
    int bits, group;      /* grouped formats */
    mr_dtype scale_dtype; /* grouped formats */
    bool across;          /* quantised: blocks and groups run along outputs instead of inputs */
} mr_fmt;
/* "bf16", "q4_1", "affine4/64/bf16", "fp8/128/f32", "q8_0/across"; into a caller's buffer of >= 32
 * bytes. */
const char *mr_fmt_name(mr_fmt f, char *buf);
bool mr_fmt_parse(const char *s, mr_fmt *out);
bool mr_fmt_equal(mr_fmt a, mr_fmt b);
/* What rows of k in a format are, transposed: floats as they are, quantised ones across; f32 where the
 * last group of a row is cut short, and of those that are across already. */
mr_fmt mr_fmt_transposed(mr_fmt f, int64_t k);

typedef struct mr_value {
    mr_vtype type;
    int rank;
    mr_dim dim[MR_MAX_RANK];
    mr_fmt fmt;       /* weights */
    int node, result; /* who defines it */
    const char *name; /* or NULL */
} mr_value;

typedef union mr_attr {
    int64_t i;
    double f;
    const char *s;
} mr_attr;

typedef struct mr_node {
    mr_op op;
    int n_in, n_out;
    int in[MR_MAX_IN]; /* value ids; MR_NONE for an absent optional operand, which n_in counts */
    int out[MR_MAX_OUT];
    mr_attr attr[MR_MAX_ATTR]; /* in the order of ops.def */
} mr_node;

typedef struct mr_graph mr_graph;

mr_err mr_graph_new(mr_graph **out, const char *name);
void mr_graph_free(mr_graph *g);
const char *mr_graph_name(const mr_graph *g);
int mr_graph_nodes(const mr_graph *g);
const mr_node *mr_graph_node(const mr_graph *g, int i);
int mr_graph_values(const mr_graph *g);
const mr_value *mr_graph_value(const mr_graph *g, int v);

/* Adds a node; *first = its first result (results are consecutive).  n_in may leave out trailing
 * optional operands.  attr holds one entry per attribute of the op, or NULL when it has none.
 * Leaves with no operands to derive a shape from (input, weight) go through the next two; an
 * input's value gets the input's name. */
mr_err mr_graph_add(mr_graph *g, mr_op op, const int *in, int n_in, const mr_attr *attr,
                    int *first);
mr_err mr_graph_input(mr_graph *g, const char *name, mr_vtype type, int rank, const mr_dim *dim,
                      int *out);
mr_err mr_graph_weight(mr_graph *g, const char *recipe, mr_fmt fmt, int rank, const mr_dim *dim,
                       int *out);
/* Adds a copy of a node of another graph, leaves too, with its values' names; map[v] = the value
 * that v has become in `to`. */
mr_err mr_graph_copy_node(mr_graph *to, const mr_graph *from, int node, const int *map, int *first);
/* Unique names only: a taken one gets a suffix; characters outside [A-Za-z0-9_.] become '_', and
 * digits only gets a 'v' before them. */
void mr_graph_name_value(mr_graph *g, int v, const char *name);
mr_err mr_graph_output(mr_graph *g, int v, const char *name);
int mr_graph_outputs(const mr_graph *g);
int mr_graph_output_value(const mr_graph *g, int i);
const char *mr_graph_output_name(const mr_graph *g, int i);
/* Finds or makes; built-in names too.  MR_NONE: over 64 symbols, a name that is not a word of at
 * most 31 letters, digits and '_', or no memory. */
int mr_graph_symbol(mr_graph *g, const char *name);
const char *mr_graph_symbol_name(const mr_graph *g, int sym);

/* The cache node behind a cache value, through the chain of appends; NULL for other values. */
const mr_node *mr_graph_cache(const mr_graph *g, int value);

/* What ops.def says of an op. */
typedef struct mr_attr_info {
    char name[16];
    char kind; /* i f s */
    bool required;
    mr_attr def;
} mr_attr_info;
typedef struct mr_op_info {
    const char *name, *doc;
    bool fused;
    int n_in, n_required; /* n_required: operands up to the last that is not optional */
    int n_out, n_attr;
    char in_name[MR_MAX_IN][12], out_name[MR_MAX_OUT][12];
    bool in_optional[MR_MAX_IN];
    mr_attr_info attr[MR_MAX_ATTR];
} mr_op_info;
const mr_op_info *mr_op_get(mr_op op);
mr_op mr_op_find(const char *name, size_t len); /* MR_OP_COUNT if none */

/* Attributes by name; an unknown name is a bug (assert). */
int64_t mr_attr_i(const mr_node *n, const char *name);
double mr_attr_f(const mr_node *n, const char *name);
const char *mr_attr_s(const mr_node *n, const char *name);
int mr_attr_index(mr_op op, const char *name);
int mr_operand_index(mr_op op, const char *name);
/* The value of a named operand; MR_NONE if absent. */
int mr_operand(const mr_node *n, const char *name);

/* A view op gives its operand's memory under other strides and makes no step. */
bool mr_op_is_view(mr_op op); /* slice, heads */
bool mr_op_is_leaf(mr_op op); /* input, weight, cache, state */
/* Writes a cache or a state. */
bool mr_op_has_effect(mr_op op);
/* An op with an effect or a leaf is never merged by CSE. */
bool mr_op_is_pure(mr_op op);

/* Whole-graph checks (also in release builds): order, operand counts and types, shapes re-derived,
 * names unique, an output or an append exists, each cache value goes into at most one append and
 * is read by nobody after it.  Message: "graph NAME: node 12: linear: ...". */
mr_err mr_graph_verify(const mr_graph *g);

/* A copy of g where every fused op is replaced by its expansion. */
mr_err mr_graph_expand(const mr_graph *g, mr_graph **out);

/* Text (docs/ir.md): prints every attribute, parses back to an equal graph (print, parse, print
 * gives equal text). */
mr_err mr_graph_print(const mr_graph *g, mr_buf *out);
mr_err mr_graph_parse(mr_graph **out, const char *file, const char *text, size_t len);
mr_err mr_graph_dot(const mr_graph *g, mr_buf *out);
mr_err mr_graph_json(const mr_graph *g, mr_buf *out);
/* A picture by our own simple layered layout, leaves left out. */
mr_err mr_graph_svg(const mr_graph *g, mr_buf *out);

bool mr_dim_equal(mr_dim a, mr_dim b);
/* A dim when rows and outs are bound; -1 for another symbol. */
int64_t mr_dim_bind(mr_dim d, int64_t rows, int64_t outs);

#endif
