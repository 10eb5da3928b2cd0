/* What this core can do at this moment: the limits that benches divide by.
 *
 * Why:    clocks and neighbours change; a figure means something only beside a peak of the same run.
 * Use:    bench_peak(isa, int8): operations per second of one thread, independent dots or FMAs in
 *         registers; 0 where there is no such loop.  read_all(p, bytes): reads memory as fast as one
 *         thread can; time it.
 */
#ifndef MR_TESTS_BACKEND_BENCH_PEAK_H
#define MR_TESTS_BACKEND_BENCH_PEAK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <time.h>

#include "base/cpu.h"

/* CPU time of this thread. */
static inline double bench_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

#if defined(__x86_64__)
#include <immintrin.h>

/* A loop of independent instructions on named registers: `ops` per turn.  Their contents do not
 * matter, as long as no denormal or NaN is among them, so all start as zero. */
#define PEAK(name, isa, ops, zero, body, ...)                                                      \
    __attribute__((target(isa))) static inline double name(void)                                   \
    {                                                                                              \
        double start = bench_seconds();                                                            \
        long turns = 1000000;                                                                      \
        __asm__ volatile(zero "1:\n\t" body "dec %0\n\tjnz 1b"                                     \
                         : "+r"(turns)                                                             \
                         :                                                                         \
                         : "cc", __VA_ARGS__);                                                     \
        return 1e6 * (ops) / (bench_seconds() - start);                                            \
    }
#define EACH12(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11)
#define CLOBBER                                                                                    \
    "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10",       \
        "xmm11", "xmm12", "xmm13", "xmm14", "xmm15"
#define ZERO(i) "vpxor %%xmm" #i ", %%xmm" #i ", %%xmm" #i "\n\t"
#define ALL_ZERO EACH12(ZERO) ZERO(12) ZERO(13) ZERO(14) ZERO(15)
#define DOT(i) "vpdpbusd %%zmm13, %%zmm12, %%zmm" #i "\n\t"
#define FMA(i) "vfmadd231ps %%zmm13, %%zmm12, %%zmm" #i "\n\t"
#define FMA2(i) "vfmadd231ps %%ymm13, %%ymm12, %%ymm" #i "\n\t"
/* AVX2 has no dot: multiply bytes in pairs, widen, add. */
#define DOT2(i)                                                                                    \
    "vpmaddubsw %%ymm13, %%ymm12, %%ymm14\n\tvpmaddwd %%ymm13, %%ymm14, %%ymm15\n\t"               \
    "vpaddd %%ymm15, %%ymm" #i ", %%ymm" #i "\n\t"
PEAK(peak_int8_avx512, "avx512f,avx512vnni", 12 * 128, ALL_ZERO, EACH12(DOT), CLOBBER)
PEAK(peak_f32_avx512, "avx512f", 12 * 32, ALL_ZERO, EACH12(FMA), CLOBBER)
PEAK(peak_int8_avx2, "avx2", 12 * 64, ALL_ZERO, EACH12(DOT2), CLOBBER)
PEAK(peak_f32_avx2, "avx2,fma", 12 * 16, ALL_ZERO, EACH12(FMA2), CLOBBER)

/* Two streams (the halves), each read 256 bytes at a time and fetched ahead. */
__attribute__((target("avx2"))) static inline void read_all(const uint8_t *p, size_t bytes)
{
    __m256i s[4] = {_mm256_setzero_si256(), _mm256_setzero_si256(), _mm256_setzero_si256(),
                    _mm256_setzero_si256()};
    size_t half = bytes / 512 * 256;
    for (size_t i = 0; i < half; i += 256)
        for (int stream = 0; stream < 2; stream++) {
            const uint8_t *q = p + (size_t)stream * half + i;
            for (int j = 0; j < 4; j++)
                _mm_prefetch((const char *)q + 4096 + 64 * j, _MM_HINT_T0);
            for (int j = 0; j < 8; j++)
                s[j % 4] = _mm256_add_epi64(
                    s[j % 4], _mm256_loadu_si256((const __m256i *)(const void *)(q + 32 * j)));
        }
    __asm__ volatile("" : : "x"(s[0]), "x"(s[1]), "x"(s[2]), "x"(s[3]));
}

static inline double bench_peak(mr_isa isa, bool int8)
{
    double best = 0.0;
    for (int i = 0; i < 5; i++) {
        double v = isa == MR_ISA_AVX512 ? (int8 ? peak_int8_avx512() : peak_f32_avx512())
                   : isa == MR_ISA_AVX2 ? (int8 ? peak_int8_avx2() : peak_f32_avx2())
                                        : 0.0;
        best = v > best ? v : best;
    }
    return best;
}
#else
static inline double bench_peak(mr_isa isa, bool int8)
{
    (void)isa;
    (void)int8;
    return 0.0;
}

static inline void read_all(const uint8_t *p, size_t bytes)
{
    uint64_t s = 0, v;
    for (size_t i = 0; i + 8 <= bytes; i += 8) {
        memcpy(&v, p + i, 8);
        s += v;
    }
    __asm__ volatile("" : : "r"(s));
}
#endif

#endif
