/* Shape rules: what an op accepts and what it gives.
 *
 * Why:    one rule per op serves building, parsing, passes (which build again) and the verifier.
 * Use:    mr_shape s = {g, op, ...operands, attributes...};
 *         MR_TRY(mr_shape_rule(op)(&s));    the results' types are in s.y
 * Threads: pure functions of their argument.
 * Fails:  MR_EFORMAT, as in
 *         "linear: w's last axis is not x's (x f32[ROWS,64], w weight<f32>[32,60])"
 * Rules:  1. Operands have been counted and exist; absent optional ones are NULL.
 *         2. A rule fills type, rank, dim and fmt of every result, and `cache` for a cache.
 *         3. Leaves find their declared type in y.
 */
#ifndef MR_IR_SHAPE_H
#define MR_IR_SHAPE_H

#include "ir/graph.h"

typedef struct mr_shape {
    const mr_graph *g;
    mr_op op;
    const mr_op_info *info;
    int in[MR_MAX_IN];
    const mr_value *x[MR_MAX_IN];
    const mr_attr *attr;
    mr_value y[MR_MAX_OUT];
    int cache; /* the node behind a result that is a cache, or MR_NONE; the caller sets a leaf's */
    bool gaps; /* result 0 is a slice of heads, which do not lie next to each other */
} mr_shape;

typedef mr_err (*mr_shape_fn)(mr_shape *s);
mr_shape_fn mr_shape_rule(mr_op op);

#define PRIM(id, name, in, out, attrs, doc) mr_err mr_shape_##id(mr_shape *s);
#define FUSED(id, name, in, out, attrs, doc) mr_err mr_shape_##id(mr_shape *s);
#include "ir/ops.def"
#undef PRIM
#undef FUSED

#endif
