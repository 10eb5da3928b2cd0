/* Speeds of mr_linear, from the calls that the checker makes, beside peak loops of the same
 * process.
 *
 * Why:    figures mean something only as shares of what this core does at this moment.
 * Use:    test_matmul --bench [all | format [rows]], --bench-experts [format]; one thread, CPU time, the best of several runs.
 */
#ifndef MR_TESTS_BACKEND_BENCH_MATMUL_H
#define MR_TESTS_BACKEND_BENCH_MATMUL_H

#include "backend/cpu/matmul_core.h"
#include "bench_peak.h"
#include "matmul_cases.h"

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
            mr_mm mm = {pool, (mr_isa)isa, (mr_precision)p, false, false};
            void *scratch = mr_alloc(MR_MEM_OTHER, mr_matmul_scratch(&mm, fmt, rows, k));
            double t = bench_call(&mm, m, x, rows, y, scratch, isa == MR_ISA_C ? 0.0 : 0.3);
            double ops = 2.0 * (double)n * (double)k * (double)rows / t,
                   bytes = (double)m->matrix / t;
            double peak = bench_peak((mr_isa)isa, p == MR_FAST ? MR_ARITH_INT8 : MR_ARITH_F32);
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

/* Grouped experts, each with so many rows: all 16 of 2048 x 1024, two chosen by each row. */
static inline void bench_experts(mr_pool *pool, const char *only)
{
    enum { EXPERTS = 16, TOP = 2, N = 1024, K = 2048, TURNS = 9 };
    mr_fmt fmt = {MR_AFFINE, 4, 64, MR_BF16, false};
    checker_rng rng = {7};
    char name[32];
    if (only && !mr_fmt_parse(only, &fmt))
        exit(2);
    weights w = weights_new(fmt, (int64_t)EXPERTS * N, K, &rng);
    mr_matrix *m;
    if (mr_matrix_new(&m, fmt, EXPERTS, N, K) != MR_OK)
        exit(1);
    mr_matrix_fill(m, 0, &w.rows);
    for (int64_t each = 32; each <= 128; each *= 2) {
        int64_t rows = each * EXPERTS / TOP;
        float *x = malloc(4 * (size_t)(rows * K)), *y = malloc(4 * (size_t)(rows * TOP * N));
        int32_t *ids = malloc(sizeof *ids * (size_t)(rows * TOP));
        for (int64_t r = 0; r < rows; r++)
            fill_activations(x + r * K, K, 10, &rng);
        for (int64_t i = 0; i < rows * TOP; i++)
            ids[i] = (int32_t)(i % EXPERTS);
        for (int isa = MR_ISA_C + 1; isa < MR_ISA_COUNT; isa++) {
            if (!mr_isa_have((mr_isa)isa))
                continue;
            mr_mm mm = {pool, (mr_isa)isa, MR_FAST, false, false};
            void *scratch = mr_alloc(MR_MEM_OTHER,
                                     mr_expert_scratch(&mm, fmt, EXPERTS, N, K, rows, TOP, false));
            double best = 1e9;
            for (int turn = 0; turn < TURNS; turn++) {
                double start = checker_seconds();
                mr_expert_linear(&mm, m, x, K, 0, false, ids, rows, TOP, y, scratch);
                double t = checker_seconds() - start;
                best = t < best ? t : best;
            }
            double ops = 2.0 * N * K * (double)(rows * TOP) / best;
            double peak = bench_peak((mr_isa)isa, mr_matmul_arith(&mm, fmt));
            printf(
                "%-16s %d experts of %dx%d, %3d rows each  %-18s %8.1f GOP/s (%3.0f%% of peak)\n",
                mr_fmt_name(fmt, name), EXPERTS, N, K, (int)each, mr_matmul_kernel(&mm, fmt),
                ops * 1e-9, peak > 0.0 ? 100.0 * ops / peak : 0.0);
            fflush(stdout);
            mr_free(scratch);
        }
        free(x);
        free(y);
        free(ids);
    }
    mr_matrix_free(m);
    weights_free(&w);
}

/* formats and rows: "all" or one. */
static inline void bench_matmul(mr_pool *pool, const char *only, const char *only_rows)
{
    static const mr_fmt fmts[] = {
        {MR_AFFINE, 8, 64, MR_BF16, false}, {MR_AFFINE, 4, 64, MR_BF16, false},
        {MR_Q8_0, 0, 0, MR_F32, false},     {MR_Q4_0, 0, 0, MR_F32, false},
        {MR_Q4_1, 0, 0, MR_F32, false},     {MR_Q6_K, 0, 0, MR_F32, false},
        {MR_BF16, 0, 0, MR_F32, false},     {MR_F16, 0, 0, MR_F32, false},
        {MR_F32, 0, 0, MR_F32, false}};
    static const int64_t shapes[][3] = {
        {2048, 2048, 1}, {2048, 2048, 64}, {3072, 2048, 512}, {32768, 2048, 1}};
    checker_rng rng = {3};
    mr_fmt one;
    bool all = !only || !strcmp(only, "all");
    if (!all && !mr_fmt_parse(only, &one))
        exit(2);
    for (size_t i = 0; i < (all ? sizeof fmts / sizeof fmts[0] : 1); i++)
        for (size_t s = 0; s < sizeof shapes / sizeof shapes[0]; s++)
            if (!only_rows || atoi(only_rows) == shapes[s][2])
                bench_matrix(pool, all ? fmts[i] : one, shapes[s][0], shapes[s][1], shapes[s][2],
                             &rng);
}

#endif
