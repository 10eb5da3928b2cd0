/* What this machine can do at most: bytes read, products of int8, f32 and bf16, with one thread and all.
 *
 * Why:     a kernel's figure means something only as a share of what the same cores do at the same
 *          hour; so every bench measures these beside its own.
 * Use:     mr_peaks p; MR_TRY(mr_cpu_peaks(isa, pool, &p));   about a second
 *          loops alone: mr_peak_loops_of(isa)->int8(turns)
 * Limits:  read: sums over memory well beyond the caches, in several streams a thread, fetched ahead.
 *          int8, f32 and bf16: independent dots, tile products or FMAs in registers, a multiply-add
 *          counted as two operations.  The C kernels have no such loops: 0.
 * Threads: like a run of the backend that owns the pool.
 */
#ifndef MR_BACKEND_CPU_PEAKS_H
#define MR_BACKEND_CPU_PEAKS_H

#include <stddef.h>

#include "backend/backend.h"
#include "base/pool.h"

typedef struct mr_peak_loops {
    void (*read[2])(const char *p, size_t bytes); /* the faster counts; the second may be NULL */
    /* Run their loop so many times; operations per turn beside them. NULL: none. */
    void (*int8)(long turns);
    void (*f32)(long turns);
    void (*bf16)(long turns); /* only if mr_isa_has_bf16, or of AMX */
    int int8_ops, f32_ops, bf16_ops;
} mr_peak_loops;

const mr_peak_loops *mr_peak_loops_of(mr_isa isa);
extern const mr_peak_loops mr_peak_c;
extern const mr_peak_loops mr_peak_avx2;
extern const mr_peak_loops mr_peak_avx512;
extern const mr_peak_loops mr_peak_amx;
extern const mr_peak_loops mr_peak_neon;

mr_err mr_cpu_peaks(mr_isa isa, mr_pool *pool, mr_peaks *out);

#endif
