/* Rewriting: what the passes share.
 *
 * Why:     every pass reads one graph and builds another; counting uses, carrying values over,
 *          asking the backend and writing the report are the same in all of them.
 * Use:     mr_rewrite rw;
 *          MR_TRY(mr_rewrite_open(&rw, "cse", in, backend, report));
 *          mr_err err = walk(&rw); ... mr_rewrite_copy(&rw, node) ... return mr_rewrite_close(&rw,
 *          err, changes, out); A pass that only fuses gives a match function to mr_rewrite_fuse and
 *          is done.
 * Owns:    open makes the new graph and an arena; close frees the arena and hands over (or frees)
 *          the graph.
 * Threads: one rewrite belongs to one thread.
 * Fails:   as mr_graph_add; a backend's refusal is not an error but a near miss.
 * Rules:   1. Values named in a mr_match and in rewrite calls are those of the old graph, unless
 *             said otherwise.
 *          2. A leaf is carried over when it is first needed, so a fused op may stand before its
 *             weight did.
 *          3. A skipped node's results must have been given a new value, or have no reader left.
 */
#ifndef MR_COMPILE_REWRITE_H
#define MR_COMPILE_REWRITE_H

#include "compile/compile.h"

typedef struct mr_rewrite {
    const char *pass;
    const mr_graph *in;
    mr_backend *backend;
    mr_buf *report;
    mr_graph *out;
    mr_arena *arena;
    int *map;        /* per old value: the new one, or MR_NONE */
    int *uses;       /* per old value: reads by operands and outputs */
    int *user;       /* per old value: the last node that reads it, or MR_NONE */
    bool *is_output; /* per old value */
    bool *skip;      /* per old node: not carried over */
    int changes;
} mr_rewrite;

mr_err mr_rewrite_open(mr_rewrite *rw, const char *pass, const mr_graph *in, mr_backend *b,
                       mr_buf *report);
mr_err mr_rewrite_close(mr_rewrite *rw, mr_err err, int *changes, mr_graph **out);
/* Carries a node over, unless it is skipped or has been already. */
mr_err mr_rewrite_copy(mr_rewrite *rw, int node);
/* Carries over all nodes that are not skipped, in order. */
mr_err mr_rewrite_copy_all(mr_rewrite *rw);
/* The new value of an old one; leaves are carried over on demand.  MR_NONE stays MR_NONE. */
mr_err mr_rewrite_value(mr_rewrite *rw, int v, int *now);
/* The old value v is from now on the new value `now`, which takes its name. */
void mr_rewrite_becomes(mr_rewrite *rw, int v, int now);

/* The node that makes v if it is an `op`, else NULL; v may be MR_NONE. */
const mr_node *mr_rewrite_made_by(const mr_rewrite *rw, int v, mr_op op);
int mr_rewrite_node_of(const mr_rewrite *rw, int v);
/* Read once, by an operand: it may vanish inside a fused op. */
bool mr_rewrite_is_inner(const mr_rewrite *rw, int v);

/* One line of the report: "PASS: ..." */
void mr_rewrite_say(mr_rewrite *rw, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* "%name" or "%12" */
const char *mr_rewrite_name(const mr_rewrite *rw, int v, char buf[256]);

/* A small graph in which the backend can be asked about an op that no graph holds yet. */
mr_err mr_probe_new(mr_graph **out);
/* A value of the same type as the old value v. */
mr_err mr_probe_operand(const mr_rewrite *rw, mr_graph *probe, int v, int *out);
/* Adds the op (operands are the probe's), asks, and frees the probe.  *yes false: mr_error() says
 * why. */
mr_err mr_probe_ask(mr_rewrite *rw, mr_graph *probe, mr_op op, const int *in, const mr_attr *attr,
                    bool *yes);

/* A fused op and what it takes the place of. */
enum { MR_MAX_COVER = 8 };
typedef struct mr_match {
    mr_op op;
    int in[MR_MAX_IN];
    mr_attr attr[MR_MAX_ATTR];
    int becomes[MR_MAX_OUT];          /* old values that its results are */
    int cover[MR_MAX_COVER], n_cover; /* nodes it takes the place of */
    int at;                           /* the one of them where it will stand */
} mr_match;
/* Tries the pattern that ends in `node`.  True if it is there; near misses are reported by the way.
 */
typedef bool (*mr_match_fn)(mr_rewrite *rw, int node, mr_match *m);
/* Fuses every match, first come first served, that the backend supports. */
mr_err mr_rewrite_fuse(const mr_graph *in, mr_backend *b, mr_buf *report, const char *pass,
                       mr_match_fn match, int *changes, mr_graph **out);
/* Whether the backend runs a match's op. */
mr_err mr_match_supported(mr_rewrite *rw, const mr_match *m, bool *yes);

/* The gated pattern that ends in mul `node` (pass_gated_mlp.c); the q|k|v pass leaves its linears
 * alone. quiet: no near misses. */
bool mr_match_gated(mr_rewrite *rw, int node, mr_match *m, bool quiet);

extern const mr_pass mr_pass_norm_offset, mr_pass_qkv, mr_pass_cse, mr_pass_dce,
    mr_pass_residual_norm, mr_pass_gated_mlp, mr_pass_rope_append, mr_pass_moe;

#endif
