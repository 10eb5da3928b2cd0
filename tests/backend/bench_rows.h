/* Speeds of few rows over weights that no cache holds, beside a loop that only reads them.
 *
 * Why:    one row is bound by memory; what counts is the share of what a plain read loop gets from
 *         the same bytes, in turn, in the same minute.
 * Use:    test_matmul --bench-rows [format or all [rows or first-last [isa]]]; medians, of 1 thread
 *         by its CPU time, of 2 by the wall clock.
 */
#ifndef MR_TESTS_BACKEND_BENCH_ROWS_H
#define MR_TESTS_BACKEND_BENCH_ROWS_H

#include "bench_matmul.h"

enum { ROWS_BYTES = 1 << 30, ROWS_TURNS = 7 };

/* Of one thread its CPU time, of two the wall's. */
static inline double bench_clock(int several)
{
    struct timespec t;
    if (!several)
        return checker_seconds();
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

typedef struct reading {
    const uint8_t *p;
    size_t each;
} reading;

static inline void read_share(void *ctx, int task, int worker)
{
    const reading *r = ctx;
    (void)worker;
    read_all(r->p + (size_t)task * r->each, r->each);
}

static int by_size(const void *a, const void *b)
{
    const double *x = a, *y = b;
    return (*x > *y) - (*x < *y);
}

/* Of these weights the same 1,024 rows again and again. */
static inline mr_matrix *rows_matrix(mr_fmt fmt, int64_t k, checker_rng *rng)
{
    mr_matrix *m;
    weights w = weights_new(fmt, 1024, k, rng);
    size_t bytes;
    if (mr_matrix_bytes(fmt, 1, 1024, k, &bytes) != MR_OK)
        exit(1);
    int64_t times = ROWS_BYTES / (int64_t)bytes;
    if (mr_matrix_new(&m, fmt, 1, 1024 * times, k) != MR_OK)
        exit(1);
    for (int64_t i = 0; i < times; i++)
        mr_matrix_fill(m, 1024 * i, &w.rows);
    weights_free(&w);
    return m;
}

static inline void bench_rows_of(mr_pool *const pools[2], const mr_matrix *m, const mr_mm *how,
                                 int64_t rows)
{
    char name[32];
    mr_mm mm = *how;
    double t[2][2][ROWS_TURNS];
    checker_rng rng = {5};
    float *x = malloc(4 * (size_t)(rows * m->k)), *y = malloc(4 * (size_t)(rows * m->n));
    for (int64_t r = 0; r < rows; r++)
        fill_activations(x + r * m->k, m->k, 10, &rng);
    mm.pool = pools[1];
    void *scratch = mr_alloc(MR_MEM_OTHER, mr_matmul_scratch(&mm, m->fmt, rows, m->k));
    for (int turn = -1; turn < ROWS_TURNS; turn++)
        for (int i = 0; i < 2; i++) {
            reading read = {m->data, m->matrix / (size_t)(i + 1) / 512 * 512};
            double start = bench_clock(i);
            mr_pool_run(pools[i], i + 1, read_share, &read);
            double half = bench_clock(i);
            mm.pool = pools[i];
            mr_linear(&mm, m, NULL, x, m->k, rows, y, m->n, scratch);
            if (turn >= 0) {
                t[i][0][turn] = half - start;
                t[i][1][turn] = bench_clock(i) - half;
            }
        }
    printf("%-16s k %-5d %d rows %-18s", mr_fmt_name(m->fmt, name), (int)m->k, (int)rows,
           mr_matmul_kernel(&mm, m->fmt));
    for (int i = 0; i < 2; i++) {
        for (int j = 0; j < 2; j++)
            qsort(t[i][j], ROWS_TURNS, sizeof(double), by_size);
        double read = t[i][0][ROWS_TURNS / 2], ours = t[i][1][ROWS_TURNS / 2];
        printf("  %d: %5.1f of %5.1f GB/s (%3.0f%%; best %3.0f%%)", i + 1,
               (double)m->matrix / ours * 1e-9, (double)m->matrix / read * 1e-9,
               100.0 * read / ours, 100.0 * t[i][0][0] / t[i][1][0]);
    }
    printf(" %6.1f GOP/s\n", 2.0 * (double)(m->n * m->k * rows) / t[0][1][ROWS_TURNS / 2] * 1e-9);
    fflush(stdout);
    mr_free(scratch);
    free(x);
    free(y);
}

static inline void bench_rows(mr_pool *const pools[2], const char *only, const char *only_rows,
                              const char *only_isa)
{
    static const mr_fmt fmts[] = {
        {MR_AFFINE, 4, 64, MR_BF16, false}, {MR_AFFINE, 4, 32, MR_F16, false},
        {MR_Q4_0, 0, 0, MR_F32, false},     {MR_Q4_1, 0, 0, MR_F32, false},
        {MR_AFFINE, 8, 64, MR_BF16, false}, {MR_Q8_0, 0, 0, MR_F32, false},
        {MR_Q2_K, 0, 0, MR_F32, false},     {MR_Q3_K, 0, 0, MR_F32, false},
        {MR_Q4_K, 0, 0, MR_F32, false},     {MR_Q5_K, 0, 0, MR_F32, false},
        {MR_Q6_K, 0, 0, MR_F32, false},     {MR_IQ4_XS, 0, 0, MR_F32, false},
        {MR_BF16, 0, 0, MR_F32, false},     {MR_F16, 0, 0, MR_F32, false},
        {MR_F32, 0, 0, MR_F32, false}};
    checker_rng rng = {3};
    mr_fmt one;
    bool all = !only || !strcmp(only, "all");
    const char *to = only_rows ? strchr(only_rows, '-') : NULL;
    const int first = only_rows ? atoi(only_rows) : 1, last = to ? atoi(to + 1) : first;
    if (!all && !mr_fmt_parse(only, &one))
        exit(2);
    for (size_t i = 0; i < (all ? sizeof fmts / sizeof fmts[0] : 1); i++) {
        mr_fmt fmt = all ? fmts[i] : one;
        int64_t block = mr_dtype_block(fmt.dtype);
        mr_matrix *m = rows_matrix(fmt,
                                   fmt.dtype == MR_Q4_1 ? 576
                                   : block == 256       ? 2048
                                                        : 1152,
                                   &rng);
        for (int isa = MR_ISA_C + 1; isa < MR_ISA_COUNT; isa++)
            for (int way = 0; way < (format_group(fmt) ? 3 : 1); way++)
                for (int rows = first; rows <= last && mr_isa_have((mr_isa)isa); rows++) {
                    mr_mm mm = {NULL, (mr_isa)isa, way ? MR_FAST : MR_EXACT, way == 2, false};
                    if (only_isa && strcmp(only_isa, mr_isa_name((mr_isa)isa)))
                        continue;
                    bench_rows_of(pools, m, &mm, rows);
                }
        mr_matrix_free(m);
    }
}

#endif
