/* A small checker for kernels: counts, messages, random numbers, buffers that end at a guard page.
 *
 * Why:    these tests also run under emulation, where no test framework is installed.
 * Use:    CHECK(cond, "format", ...) counts and reports; return checker_result() from main.
 *         float *y = checker_guarded(bytes): touching the byte after the last one is a fault.
 * Fails:  a failing CHECK prints its place and message; the first 20 are printed.
 */
#ifndef MR_TESTS_BACKEND_CHECKER_H
#define MR_TESTS_BACKEND_CHECKER_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

static long checker_checks, checker_failures;

#define CHECK(cond, ...)                                                                           \
    do {                                                                                           \
        checker_checks++;                                                                          \
        if (!(cond) && checker_failures++ < 20) {                                                  \
            fprintf(stderr, "%s:%d: %s: ", __FILE__, __LINE__, #cond);                             \
            fprintf(stderr, __VA_ARGS__);                                                          \
            fputc('\n', stderr);                                                                   \
        }                                                                                          \
    } while (0)

static inline int checker_result(const char *what)
{
    printf("%s: %ld checks, %ld failed\n", what, checker_checks, checker_failures);
    return checker_failures || !checker_checks;
}

/* splitmix64: the same numbers everywhere. */
typedef struct checker_rng {
    uint64_t state;
} checker_rng;

static inline uint64_t checker_next(checker_rng *r)
{
    uint64_t z = r->state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* -1 .. 1, most often near 0. */
static inline float checker_float(checker_rng *r)
{
    float a = (float)(checker_next(r) >> 40) * 0x1p-23f - 1.0f;
    float b = (float)(checker_next(r) >> 40) * 0x1p-24f;
    return a * b;
}

/* `bytes` bytes whose end is the end of a page that an unreadable page follows. */
static inline void *checker_guarded(size_t bytes)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), all = (bytes + page - 1) / page * page;
    uint8_t *p = mmap(NULL, all + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED || mprotect(p + all, page, PROT_NONE)) {
        perror("checker_guarded");
        exit(1);
    }
    return p + all - bytes;
}

static inline void checker_unguard(void *q, size_t bytes)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), all = (bytes + page - 1) / page * page;
    munmap((uint8_t *)q + bytes - all, all + page);
}

/* CPU time of this thread: other load on the machine counts little. */
static inline double checker_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

#endif
