/* What this core can do at this moment: the limits that benches divide by.
 *
 * Why:    clocks and neighbours change; a figure means something only beside a peak of the same run.
 * Use:    bench_peak(isa, arith): operations per second of one thread, independent dots or FMAs in
 *         registers; 0 where there is no such loop.  read_all(p, bytes): reads memory as fast as one
 *         thread can; time it.
 */
#ifndef MR_TESTS_BACKEND_BENCH_PEAK_H
#define MR_TESTS_BACKEND_BENCH_PEAK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include "backend/backend.h"
#include "backend/cpu/peaks.h"

/* CPU time of this thread. */
static inline double bench_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static inline double bench_peak(mr_isa isa, mr_arith arith)
{
    const mr_peak_loops *l = mr_peak_loops_of(isa);
    void (*const turns[])(long) = {l->f32, l->int8, l->bf16};
    const int ops[] = {l->f32_ops, l->int8_ops, l->bf16_ops};
    void (*turn)(long) = turns[arith];
    double best = 0.0;
    for (int i = 0; turn && i < 5; i++) {
        double start = bench_seconds();
        turn(1000000);
        double v = 1e6 * ops[arith] / (bench_seconds() - start);
        best = v > best ? v : best;
    }
    return best;
}

static inline void read_all(const uint8_t *p, size_t bytes)
{
    mr_isa best;
    if (mr_isa_pick(NULL, &best) != MR_OK)
        return;
    const mr_peak_loops *loops = mr_peak_loops_of(best);
    loops->read[loops->read[1] ? 1 : 0]((const char *)p, bytes);
}

#endif
