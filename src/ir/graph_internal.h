/* The graph's inside, for the files of ir/ only.
 *
 * Why:    construction, verifier, text and drawing share one representation; others see graph.h.
 * Owns:   everything lies in the graph's arena; nodes and values never move.
 * Rules:  1. Only graph.c writes to it.
 */
#ifndef MR_IR_GRAPH_INTERNAL_H
#define MR_IR_GRAPH_INTERNAL_H

#include "ir/graph.h"
#include "ir/names.h"
#include "ir/shape.h"

enum {
    MR_MAX_NODES = 1 << 20,
    MR_MAX_SYMBOLS = 64,
    MR_MAX_SYMBOL_NAME = 31,
    MR_MAX_NAME = 200,  /* bytes of a value's name */
    MR_TYPE_TEXT = 256, /* longest type, "weight<affine4/64/bf16>[..,..,..]" */
};
#define MR_MAX_DIM ((int64_t)1 << 40)
#define MR_MAX_ELEMENTS ((int64_t)1 << 48)

typedef struct graph_value {
    mr_value v;
    int cache; /* a cache value: the node of its cache; else MR_NONE */
    bool gaps; /* heads that do not lie next to each other (shape.h) */
} graph_value;

typedef struct graph_output {
    int value;
    const char *name;
} graph_output;

struct mr_graph {
    mr_arena *arena;
    const char *name;
    mr_node **node;
    graph_value **value;
    graph_output *output;
    int n_nodes, cap_nodes, n_values, cap_values, n_outputs, cap_outputs;
    const char *symbol[MR_MAX_SYMBOLS];
    int n_symbols;
    mr_names names;
    bool failed; /* an allocation failed where no error could be returned; later calls report it */
};

/* mr_graph_add for any op; `declared` is the type of a leaf, else NULL. */
mr_err mr_graph_add_any(mr_graph *g, mr_op op, const int *in, int n_in, const mr_attr *attr,
                        const mr_value *declared, int *first);
/* Runs the shape rule of a node that is, or will be, number `node`, and may use values below
 * `limit`; the results' types are in s->y. */
mr_err mr_graph_derive(const mr_graph *g, int node, int limit, mr_op op, const int *in, int n_in,
                       const mr_attr *attr, const mr_value *declared, mr_shape *s);
bool mr_name_char(char c); /* [A-Za-z0-9_.] */
/* MR_ENOMEM if `failed`. */
mr_err mr_graph_sound(const mr_graph *g);

/* "f32[ROWS,576]", "weight<q4_1>[576,576]", "cache"; buf holds MR_TYPE_TEXT bytes. */
const char *mr_type_text(const mr_graph *g, const mr_value *v, char *buf);
/* "ROWS", "4*ROWS", "576" */
int mr_dim_text(const mr_graph *g, mr_dim d, char *buf, size_t cap);
void mr_attr_text(const mr_attr_info *a, mr_attr value, mr_buf *out);
/* The shortest text that reads back as f, in the C locale. */
const char *mr_float_text(double f, char *buf /* 32 */);
/* Finite numbers only. */
bool mr_float_read(const char *s, double *out);
/* "%ids" or "%12" into buf of 24 bytes, or the name itself, without '%'. */
const char *mr_value_id(const mr_graph *g, int v, char *buf);

#endif
