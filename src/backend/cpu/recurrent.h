/* Kernels of recurrent layers: the causal convolution and the gated delta rule.
 *
 * Why:    their state is read and written once per row, so all rows of a session go through a stretch
 *         of it while that stretch is in the first-level cache.
 * Use:    const mr_recurrent_kernels *k = mr_recurrent(isa);
 *         k->conv1d(&c, first, last)   channels [first, last), first a multiple of 16
 *         k->delta_rule(&d)            one tile of one head
 * Layout: a state of heads x dk x dv has dv rounded up to 16, zeros beyond.  A convolution's is
 *         [dk][dv16], oldest row first.  A delta rule's head is cut into tiles of MR_RECURRENT_TILE
 *         columns (the last one may be narrower), each [dk][width].
 * Bits:   every column has an order of its own (docs/numerics.md): nothing depends on tiles, rows or
 *         threads.
 * Rules:  1. `from` is NULL for zeros, or another state than `to`, or the same.
 */
#ifndef MR_BACKEND_CPU_RECURRENT_H
#define MR_BACKEND_CPU_RECURRENT_H

#include <stdint.h>

#include "base/cpu.h"

enum { MR_RECURRENT_TILE = 64 };

/* y[t] = sum over j of w[j] x[t-K+1+j] */
typedef struct mr_conv {
    int64_t width, channels,
        ld;         /* K; C; C rounded up to 16: floats from row to row of w and state */
    const float *w; /* [K][ld] */
    int64_t rows;
    const float *x;
    int64_t x_row;
    float *y;
    int64_t y_row;
    const float *from; /* [K-1][ld] */
    float *to;
} mr_conv;

/* One tile of one head, all rows of a session.  Strides in floats from row to row. */
typedef struct mr_delta {
    int64_t dk, width, n; /* width: a multiple of 16; n of its columns are used */
    int64_t rows;
    const float *q, *k, *v, *decay, *beta;
    int64_t q_row, k_row, v_row, decay_row, beta_row;
    float *y;
    int64_t y_row;
    const float *from; /* [dk][width] */
    float *to;
} mr_delta;

typedef struct mr_recurrent_kernels {
    void (*conv1d)(const mr_conv *c, int64_t first, int64_t last);
    void (*delta_rule)(const mr_delta *d);
} mr_recurrent_kernels;

const mr_recurrent_kernels *mr_recurrent(mr_isa isa);

extern const mr_recurrent_kernels mr_recurrent_c, mr_recurrent_avx2, mr_recurrent_avx512,
    mr_recurrent_neon;

#endif
