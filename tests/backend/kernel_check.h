/* The kernel checker: what tests of CPU kernels share.
 *
 * Why:    every kernel of every ISA must equal the C one bit by bit, stay inside its buffers, and
 *         give the same bits for any number of threads and rows.  No test library, so that the same
 *         file builds for an emulated machine.
 * Use:    int main(int argc, char **argv) { ck_begin(argc, argv); ...; return ck_end("kernels"); }
 *         CK(cond, "what %d", i) counts a failure and goes on.
 *         float *x = ck_floats(n): n floats that end at a page nobody may touch (ck_free_all).
 *         ck_fill(x, n, CK_PLAIN or CK_WILD): seeded by --seed N; CK_WILD has infinities, NaN,
 *         denormals, zeros of both signs and huge values among plain ones.
 *         ck_same(a, b, n): equal bits, or both NaN (which NaN is no promise).
 *         for (int i = 0; i < ck_isas(isa); i++) ...: the ISAs of this machine, C first.
 *         ck_small (--small): fewer cases, for emulated machines.
 *         if (ck_bench) ... ck_now() ...: --bench asks for timings from the same lines.
 */
#ifndef MR_TESTS_BACKEND_KERNEL_CHECK_H
#define MR_TESTS_BACKEND_KERNEL_CHECK_H

#include <math.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "base/cpu.h"

enum { CK_MAX_BLOCKS = 4096 };
typedef enum ck_kind { CK_PLAIN, CK_WILD } ck_kind;

static uint64_t ck_seed = 1;
static bool ck_bench, ck_small;
static int ck_failures, ck_checks, ck_blocks;
static struct {
    void *at;
    size_t bytes;
} ck_block[CK_MAX_BLOCKS];

static inline void ck_begin(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--bench")) {
            ck_bench = true;
        } else if (!strcmp(argv[i], "--small")) {
            ck_small = true;
        } else if (!strcmp(argv[i], "--seed") && i + 1 < argc) {
            ck_seed = strtoull(argv[++i], NULL, 10);
        } else if (!ck_bench || argv[i][0] == '-') { /* what --bench is to time may follow it */
            fprintf(stderr, "%s: unknown argument '%s'\n", argv[0], argv[i]);
            exit(2);
        }
    }
}

static inline int ck_end(const char *name)
{
    printf("%s: %d checks, %d failed (seed %llu)\n", name, ck_checks, ck_failures,
           (unsigned long long)ck_seed);
    return ck_failures || !ck_checks;
}

static inline bool __attribute__((format(printf, 3, 4)))
ck_check(bool ok, int line, const char *fmt, ...)
{
    ck_checks++;
    if (ok)
        return true;
    if (ck_failures++ < 50) {
        va_list ap;
        va_start(ap, fmt);
        printf("line %d: ", line);
        vprintf(fmt, ap);
        printf("\n");
        va_end(ap);
    }
    return false;
}
#define CK(cond, ...) ck_check(cond, __LINE__, __VA_ARGS__)

/* ---- random numbers ---- */

static inline uint64_t ck_next(uint64_t *s)
{
    uint64_t z = *s += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static uint64_t ck_state = 0;

static inline uint64_t ck_random(void)
{
    if (!ck_state)
        ck_state = ck_seed * 0x2545f4914f6cdd1du + 1;
    return ck_next(&ck_state);
}

static inline int64_t ck_below(int64_t n)
{
    return (int64_t)(ck_random() % (uint64_t)n);
}

/* About normal, deviation 1. */
static inline float ck_normal(void)
{
    float sum = 0;
    for (int i = 0; i < 12; i++)
        sum += (float)(ck_random() >> 40) * 0x1p-24f;
    return sum - 6.0f;
}

static inline float ck_wild(void)
{
    static const float odd[] = {0.0f,     -0.0f,    INFINITY,  -INFINITY, NAN,    1e-40f,
                                -3e-45f,  3.4e38f,  -3.4e38f,  1e-30f,    88.72f, -87.34f,
                                -103.97f, 0x1p-24f, 0x1p-126f, 0.625f,    10.0f,  65504.0f};
    if (ck_below(4))
        return ck_normal();
    if (ck_below(2))
        return odd[ck_below((int64_t)(sizeof odd / sizeof *odd))];
    uint32_t u = (uint32_t)ck_random();
    float f;
    memcpy(&f, &u, 4);
    return f;
}

static inline void ck_fill(float *x, int64_t n, ck_kind kind)
{
    for (int64_t i = 0; i < n; i++)
        x[i] = kind == CK_WILD ? ck_wild() : ck_normal();
}

/* ---- memory ---- */

/* `bytes` that start after one untouchable page and end before another (up to `align` early). */
static inline void *ck_guard(size_t bytes, size_t align)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), body = (bytes + page - 1) / page * page;
    char *p = mmap(NULL, body + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED || ck_blocks == CK_MAX_BLOCKS ||
        (body && mprotect(p + page, body, PROT_READ | PROT_WRITE))) {
        printf("cannot allocate %zu bytes\n", bytes);
        exit(2);
    }
    ck_block[ck_blocks].at = p;
    ck_block[ck_blocks++].bytes = body + 2 * page;
    memset(p + page, 0xa5, body);
    return p + page + (body - bytes) / align * align;
}

static inline float *ck_floats(int64_t n)
{
    return ck_guard((size_t)n * sizeof(float), sizeof(float));
}

static inline void ck_free_all(void)
{
    while (ck_blocks > 0) {
        ck_blocks--;
        munmap(ck_block[ck_blocks].at, ck_block[ck_blocks].bytes);
    }
}

/* ---- comparing ---- */

static inline bool ck_same(const float *a, const float *b, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        if (memcmp(&a[i], &b[i], sizeof *a) && !(a[i] != a[i] && b[i] != b[i]))
            return false;
    return true;
}

/* |y - ref| in units of the last place of a float near ref. */
static inline double ck_ulp(float y, double ref)
{
    float r = (float)ref;
    if (y == r || (y != y && ref != ref))
        return 0;
    if (y != y || ref != ref || isinf(y) || isinf(r))
        return INFINITY;
    int e;
    frexp(ref, &e);
    return fabs(y - ref) / ldexp(1, e - 24 < -149 ? -149 : e - 24);
}

/* Largest |a - b| / (1 + |b|). */
static inline double ck_apart(const float *a, const float *b, int64_t n)
{
    double worst = 0;
    for (int64_t i = 0; i < n; i++) {
        double d = fabs((double)a[i] - b[i]) / (1 + fabs((double)b[i]));
        worst = d > worst || d != d ? d : worst;
    }
    return worst;
}

/* ---- machines and time ---- */

static inline int ck_isas(mr_isa out[MR_ISA_COUNT])
{
    int n = 0;
    for (int i = 0; i < MR_ISA_COUNT; i++)
        if (mr_isa_have((mr_isa)i))
            out[n++] = (mr_isa)i;
    return n;
}

/* Seconds of this thread on a CPU: other load on the machine counts little. */
static inline double ck_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

#endif
