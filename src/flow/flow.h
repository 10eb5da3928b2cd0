/* The inside of a flow, for the files of this folder.
 *
 * Why:    blocks are spread over files by subject and share the sticky error and the weights asked
 *         for so far.
 * Rules:  1. Every function is safe on a failed flow and on MR_NO_VAL operands of one.
 *         2. A weight asked for twice (a tied head) is one value of the graph.
 */
#ifndef MR_FLOW_FLOW_H
#define MR_FLOW_FLOW_H

#include "flow/blocks.h"
#include "ir/names.h"

enum { MR_FLOW_ROPES = 8 };

typedef struct mr_flow_entry {
    mr_val v;
    bool plus_one; /* holds 1 + w */
} mr_flow_entry;

struct mr_flow {
    mr_graph *graph;
    mr_arena *arena;
    mr_source source;
    const char *name;
    mr_err err;
    char message[MR_ERR_MAX];
    mr_names names;         /* weight name -> entry */
    mr_flow_entry *entries; /* grown by mr_realloc */
    int n, cap;
    mr_names caches; /* name -> cache value after its append */
    mr_val ids, pos, out_rows, span;
    struct {
        mr_rope_spec spec;
        mr_val table;
    } ropes[MR_FLOW_ROPES]; /* the last distinct ones */
    int n_ropes;
};

/* Keeps the first failure with this thread's message. */
void mr_flow_keep(mr_flow *f, mr_err e);
/* Looks a weight up in the source; false: absent, or failed. */
bool mr_flow_find(mr_flow *f, const char *name, int rank, const int64_t *dim, bool required,
                  mr_found *out);
/* The value of recipe text, remembered under `key`. */
mr_val mr_flow_recipe(mr_flow *f, const char *key, const mr_found *found, int rank,
                      const int64_t *dim);
/* Gives v a readable name; keeps v. */
mr_val mr_flow_named(mr_flow *f, mr_val v, const char *name);
/* mr_flow_linear with the bias's whole name, or NULL, and the act attribute of ops.def. */
mr_val mr_flow_linear_act(mr_flow *f, mr_val x, const char *prefix, int64_t n_out, const char *bias,
                          const char *act);
int64_t mr_flow_width(mr_flow *f, mr_val x); /* of the last axis; 0 on a failed flow */

#endif
