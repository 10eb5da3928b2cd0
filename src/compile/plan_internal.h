/* The plan's inside, for the files of compile/ only. */
#ifndef MR_COMPILE_PLAN_INTERNAL_H
#define MR_COMPILE_PLAN_INTERNAL_H

#include "compile/compile.h"

enum {
    MR_MAX_STEPS =
        1 << 14, /* placing memory takes quadratic time; the largest models have some thousand */
    MR_ARENA_ALIGN = 64,
};

/* A run of arena bytes, live from the step `first` that writes it to the step `last` that reads it
 * last, both included. */
typedef struct mr_buffer {
    int64_t bytes, offset;
    int first, last;
} mr_buffer;

/* Gives every buffer an offset such that no two that are live at one time overlap; *total = the
 * arena's size, never more than all sizes together.  bytes must be multiples of MR_ARENA_ALIGN.
 * MR_ELIMIT if the sum overflows. */
mr_err mr_memory_place(mr_buffer *b, int n, int64_t *total);

/* Elements of an operand at the plan's caps; -1 if a size cannot be bound. */
int64_t mr_plan_elements(const mr_plan *p, const mr_operand_ref *r);

/* What the plan's steps say of its arena: one buffer per result and per scratch, in order of steps.
 */
typedef struct mr_plan_buffer {
    mr_buffer at;
    int step, result; /* result MR_NONE: the step's scratch */
} mr_plan_buffer;
mr_err mr_plan_buffers(const mr_plan *p, mr_arena *arena, mr_plan_buffer **out, int *n);

/* The shortest text that reads back as f, with a '.', whatever the process's locale; buf holds 32
 * bytes. */
const char *mr_plan_float(double f, char *buf);
/* "name=value" for every attribute of a node that differs from ops.def's default, separated by
 * blanks. */
void mr_plan_attrs(const mr_node *n, mr_buf *out);
/* "[ROWS,4,16]" */
void mr_plan_dims(const mr_plan *p, const mr_operand_ref *r, mr_buf *out);

#endif
