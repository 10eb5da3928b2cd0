/* A clock that never goes back.  Threads: any. */
#ifndef MR_BASE_CLOCK_H
#define MR_BASE_CLOCK_H

#include <stdint.h>
#include <time.h>

static inline uint64_t mr_clock_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static inline double mr_clock_seconds(void)
{
    return 1e-9 * (double)mr_clock_ns();
}

#endif
