/* One set of products: what mr_linear, heads and experts have in common.
 *
 * Why:     a linear, a linear per head and a linear per expert differ only in which rows meet which
 *          matrix. A job names rows as (row, choice) and runs all columns of all its matrices.
 * Use:     fill a job, mr_job_prepare it (activations as int8 or bf16, in scratch), mr_job_run it. Rows:
 *          matrix e takes rows r = 0..rows-1 at choice e (heads;
 *          a plain linear is one head), or, with pairs, those of pairs[first[e] .. first[e+1]),
 *          each r * choices + j.
 * Threads: splits (matrix, block of rows, column) over the pool; never k.
 */
#ifndef MR_BACKEND_CPU_MATMUL_JOB_H
#define MR_BACKEND_CPU_MATMUL_JOB_H

#include "backend/cpu/matmul_core.h"

typedef struct mr_job {
    const mr_mm *mm;
    const mr_matrix *w[2]; /* fn LINEAR: y = x w0 + b0; else y = fn(x w0 + b0) * u with */
    const float *bias[2];  /* u = x w1 + b1, or what y held if w1 is NULL.  Biases may be NULL */
    mr_op fn;
    const float *x;          /* x + r*x_row + j*x_choice, in floats */
    int64_t x_row, x_choice; /* x_choice 0: all choices of a row share its activations */
    float *y;
    int64_t y_row, y_choice;
    int64_t rows, choices;
    int64_t together;             /* most rows that meet one matrix */
    const int32_t *pairs, *first; /* or NULL */
    void *scratch;
    /* made by mr_job_prepare */
    const mr_mm_kernels *kernels;
    mr_qform form; /* k 0: runs on floats, or bf16 */
    int parts;     /* prepared rows of one row of x: 1, or MR_ACT_PARTS of f32 activations */
    const uint8_t *prepared; /* NULL: floats */
    size_t stride;           /* bytes from one prepared row to the next */
    uint8_t *memory;         /* per worker */
    size_t memory_bytes;
} mr_job;

/* Whether it runs on rows of bf16: `native`, where the CPU has their dots. */
bool mr_job_bf16(const mr_mm *mm, const mr_layout *l);
/* Rows prepared for int8 that one row of activations becomes; 0: it runs on floats or bf16.  (f32 activations: kernels on
 * floats are bound by arithmetic, and three int8 products cost less.) */
int mr_job_parts(const mr_mm *mm, const mr_layout *l);
/* Scratch of a job on `vectors` distinct rows of activations, at most `rows` of which meet one
 * matrix. */
size_t mr_job_scratch(const mr_mm *mm, const mr_layout *l, int64_t vectors, int64_t rows,
                      int64_t k);
void mr_job_prepare(mr_job *job);
void mr_job_run(const mr_job *job);
/* Both matrices of a gated product read activations of one form. */
bool mr_job_same_form(const mr_mm *mm, const mr_matrix *a, const mr_matrix *b);

/* Tells the pool which columns of a coming job, which need not be prepared, each thread reads first. */
void mr_job_tell(const mr_job *job);

#endif
