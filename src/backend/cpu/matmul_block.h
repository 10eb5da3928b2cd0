/* One column of a job's matrices and one block of rows: which of the two kernel shapes takes it.
 *
 * Why:     few rows read the packed form directly.  More rows first turn a block of k of one column
 *          into a panel that stays in the L2 cache (bytes for int8 products of 4-bit weights, f32 for
 *          float products) and run register tiles over it.  Both continue the same chain per output, so
 *          the bits do not depend on which was taken.
 * Owns:    nothing; sums and panel lie in the worker's mr_block_bytes of job->memory, or, of up to
 *          MR_BLOCK_FEW rows, where the caller has them.
 */
#ifndef MR_BACKEND_CPU_MATMUL_BLOCK_H
#define MR_BACKEND_CPU_MATMUL_BLOCK_H

#include "backend/cpu/matmul_job.h"

enum {
    MR_BLOCK_FEW = 4,    /* so many rows need no memory of the worker */
    MR_BLOCK_ROWS = 258, /* rows that meet one panel; they and their sums stay in the L2 cache */
};

typedef struct mr_block {
    const mr_job *job;
    int rows, vectors; /* of y; of x: job->parts for each */
    const uint8_t
        *x[MR_BLOCK_ROWS]; /* floats, or prepared rows: the first parts, then the second ... */
    float *y[MR_BLOCK_ROWS];
    float by[MR_BLOCK_ROWS]; /* what a vector's sums are multiplied by: D, or 1 */
    float *sums[2];          /* zero between columns */
    uint8_t *panel;
    uint8_t *arranged;     /* the vectors by sixteens (mr_sixteen_kernels), or NULL */
    const uint8_t *end[2]; /* of what the thread reads of these matrices, column after column, */
    mr_ahead then;         /* and what it reads after that */
} mr_block;

/* Rows of a block, at most, in whole tiles. */
int64_t mr_block_most(const mr_mm *mm, const mr_layout *l, int64_t k);
int64_t mr_block_tile(const mr_mm *mm, const mr_layout *l); /* rows of the largest tiles */
/* Memory of a worker for products of so many rows with one matrix: sums of both factors, the block's vectors
 * by sixteens, then the panel, which ends it. */
size_t mr_block_bytes(const mr_mm *mm, const mr_layout *l, int64_t rows, int64_t k);
/* Takes sums and panel of blocks of at most so many vectors from the worker's memory, if the job has any. */
void mr_block_memory(mr_block *b, int worker, int64_t vectors);
/* Vectors by sixteens stay with a worker from task to task: those of block `row0` of matrix e are made
 * unless they are there.  Forget: before a job runs. */
void mr_block_arrange(mr_block *b, int worker, int64_t e, int64_t row0);
void mr_block_forget(const mr_job *job);
/* All rows of the block. */
void mr_block_column(const mr_block *b, int64_t e, int64_t column);
/* One row, n columns at once: both of a gated pair, or one or two of w[0]. */
void mr_block_row(const mr_block *b, int64_t e, const int64_t *columns, int n);

#endif
