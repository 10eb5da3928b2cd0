/* Speeds of mr_linear, from the calls that the checker makes, beside peak loops of the same
 * process.
 *
 * Why:    figures mean something only as shares of what this core does at this moment.
 * Use:    test_matmul --bench [format [rows]]; one thread, CPU time, the best of several runs.
 * Peaks:  int8 and f32: independent dots or FMAs in registers; read: sums over the packed bytes.
 */
#ifndef MR_TESTS_BACKEND_BENCH_MATMUL_H
#define MR_TESTS_BACKEND_BENCH_MATMUL_H

#include "backend/cpu/matmul_core.h"
#include "matmul_cases.h"

#if defined(__x86_64__)
#include <immintrin.h>

/* A loop of independent instructions on named registers: `ops` per turn.  Their contents do not
 * matter, as long as no denormal or NaN is among them, so all start as zero. */
#define PEAK(name, isa, ops, zero, body, ...)                                                      \
    __attribute__((target(isa))) static inline double name(void)                                   \
    {                                                                                              \
        double start = checker_seconds();                                                          \
        long turns = 1000000;                                                                      \
        __asm__ volatile(zero "1:\n\t" body "dec %0\n\tjnz 1b"                                     \
                         : "+r"(turns)                                                             \
                         :                                                                         \
                         : "cc", __VA_ARGS__);                                                     \
        return 1e6 * (ops) / (checker_seconds() - start);                                          \
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

/* Best seconds of one call; `seconds` to spend. */
static inline double bench_call(const mr_mm *mm, const mr_matrix *m, const float *x, int64_t rows,
                                float *y, void *scratch, double seconds)
{
    double best = 1e9, start = checker_seconds(), t0 = start;
    do {
        mr_linear(mm, m, NULL, x, m->k, rows, y, m->n, scratch);
        double t1 = checker_seconds();
        best = t1 - t0 < best ? t1 - t0 : best;
        t0 = t1;
    } while (t0 - start < seconds);
    return best;
}

static inline double bench_read(const mr_matrix *m)
{
    double best = 1e9;
    for (int i = 0; i < 10; i++) {
        double start = checker_seconds();
        read_all(m->data, m->matrix);
        double t = checker_seconds() - start;
        best = t < best ? t : best;
    }
    return (double)m->matrix / best;
}

static inline void bench_matrix(mr_pool *pool, mr_fmt fmt, int64_t n, int64_t k, int64_t rows,
                                checker_rng *rng)
{
    char name[32];
    weights w = weights_new(fmt, n, k, rng);
    mr_matrix *m;
    if (mr_matrix_new(&m, fmt, 1, n, k) != MR_OK)
        exit(1);
    mr_matrix_fill(m, 0, &w.rows);
    float *x = malloc(4 * (size_t)(rows * k)), *y = malloc(4 * (size_t)(rows * n));
    for (int64_t r = 0; r < rows; r++)
        fill_activations(x + r * k, k, 10, rng);
    double read = bench_read(m);
    for (int p = MR_EXACT; p <= (format_group(fmt) ? MR_FAST : MR_EXACT); p++) {
        double plain = 0.0;
        for (int isa = 0; isa < MR_ISA_COUNT; isa++) {
            if (!mr_isa_have((mr_isa)isa) ||
                (isa == MR_ISA_C && n * k * rows > (int64_t)2048 * 2048 * 64))
                continue;
            mr_mm mm = {pool, (mr_isa)isa, (mr_precision)p, false};
            void *scratch = mr_alloc(MR_MEM_OTHER, mr_matmul_scratch(&mm, fmt, rows, k));
            double t = bench_call(&mm, m, x, rows, y, scratch, isa == MR_ISA_C ? 0.0 : 0.3);
            double ops = 2.0 * (double)n * (double)k * (double)rows / t,
                   bytes = (double)m->matrix / t;
            double peak = bench_peak((mr_isa)isa, p == MR_FAST);
            plain = isa == MR_ISA_C ? t : plain;
            printf("%-16s %5dx%-5d %4d rows  %-18s %8.1f GB/s (%3.0f%% of read) %8.1f GOP/s "
                   "(%3.0f%% of peak)  %6.2fx C\n",
                   mr_fmt_name(fmt, name), (int)n, (int)k, (int)rows, mr_matmul_kernel(&mm, fmt),
                   bytes * 1e-9, 100.0 * bytes / read, ops * 1e-9,
                   peak > 0.0 ? 100.0 * ops / peak : 0.0, plain / t);
            fflush(stdout);
            mr_free(scratch);
        }
    }
    free(x);
    free(y);
    mr_matrix_free(m);
    weights_free(&w);
}

/* formats and rows: "all" or one. */
static inline void bench_matmul(mr_pool *pool, const char *only, const char *only_rows)
{
    static const mr_fmt fmts[] = {
        {MR_AFFINE, 8, 64, MR_BF16}, {MR_AFFINE, 4, 64, MR_BF16}, {MR_Q8_0, 0, 0, MR_F32},
        {MR_Q4_0, 0, 0, MR_F32},     {MR_Q4_1, 0, 0, MR_F32},     {MR_Q6_K, 0, 0, MR_F32},
        {MR_BF16, 0, 0, MR_F32},     {MR_F16, 0, 0, MR_F32},      {MR_F32, 0, 0, MR_F32}};
    static const int64_t shapes[][3] = {
        {2048, 2048, 1}, {2048, 2048, 64}, {3072, 2048, 512}, {32768, 2048, 1}};
    checker_rng rng = {3};
    for (size_t i = 0; i < sizeof fmts / sizeof fmts[0]; i++) {
        char name[32];
        mr_fmt_name(fmts[i], name);
        for (size_t s = 0; s < sizeof shapes / sizeof shapes[0]; s++)
            if ((!only || !strcmp(only, "all") || !strcmp(only, name)) &&
                (!only_rows || atoi(only_rows) == shapes[s][2]))
                bench_matrix(pool, fmts[i], shapes[s][0], shapes[s][1], shapes[s][2], &rng);
    }
}

#endif
