/* Measuring the machine's limits: each loop several times, in turn, the median taken. */
#include "backend/cpu/peaks.h"

#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/mem.h"

enum { ROUNDS = 7, TURNS = 300000, TASKS_PER_THREAD = 4 };
static const size_t PIECE = (size_t)8 << 20, LEAST = (size_t)256 << 20, MOST = (size_t)1 << 30;

const mr_peak_loops *mr_peak_loops_of(mr_isa isa)
{
    switch (isa) {
#if defined(__x86_64__)
    case MR_ISA_AVX2:
        return &mr_peak_avx2;
    case MR_ISA_AVX512:
        return &mr_peak_avx512;
    case MR_ISA_AMX:
        return &mr_peak_amx;
#elif defined(__aarch64__)
    case MR_ISA_NEON:
        return &mr_peak_neon;
#endif
    default:
        assert(isa == MR_ISA_C);
        return &mr_peak_c;
    }
}

/* One measurement: tasks of one kind, on one thread or all. */
typedef struct job {
    void (*read)(const char *p, size_t bytes);
    void (*turn)(long turns);
    const char *memory;
} job;

static void run_task(void *ctx, int task, int worker)
{
    const job *j = ctx;
    (void)worker;
    if (j->read)
        j->read(j->memory + (size_t)task * PIECE, PIECE);
    else
        j->turn(TURNS);
}

/* Seconds of `tasks` tasks. */
static double timed(const job *j, mr_pool *pool, int tasks)
{
    double start = mr_clock_seconds();
    if (pool)
        mr_pool_run(pool, tasks, run_task, (void *)(uintptr_t)j);
    for (int i = 0; !pool && i < tasks; i++)
        run_task((void *)(uintptr_t)j, i, 0);
    return mr_clock_seconds() - start;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *v)
{
    qsort(v, ROUNDS, sizeof *v, by_value);
    return v[ROUNDS / 2];
}

/* `work`: bytes or operations of one task. */
static mr_peak measure(const job *j, mr_pool *pool, double work, int tasks)
{
    double one[ROUNDS], all[ROUNDS];
    int alone = j->read ? tasks / 2 : TASKS_PER_THREAD; /* the slower of the two is kept short */
    for (int r = 0; r < ROUNDS; r++) {
        one[r] = work * alone / timed(j, NULL, alone);
        all[r] = work * tasks / timed(j, pool, tasks);
    }
    return (mr_peak){median(one), median(all)};
}

/* Twice the last cache, so that little of it survives a pass. */
static size_t read_bytes(void)
{
    long cache = sysconf(_SC_LEVEL3_CACHE_SIZE);
    size_t bytes = cache > 0 ? 2 * (size_t)cache : 0;
    bytes = bytes < LEAST ? LEAST : bytes > MOST ? MOST : bytes;
    return bytes / PIECE * PIECE;
}

mr_err mr_cpu_peaks(mr_isa isa, mr_pool *pool, mr_peaks *out)
{
    const mr_peak_loops *l = mr_peak_loops_of(isa);
    int tasks = TASKS_PER_THREAD * mr_pool_threads(pool);
    size_t bytes = read_bytes(), page = (size_t)2 << 20;
    char *memory = mr_alloc(MR_MEM_OTHER, bytes + page);
    if (!memory)
        return MR_ENOMEM;
    char *start = memory + (page - (uintptr_t)memory % page);
    madvise(start, bytes, MADV_HUGEPAGE); /* without it the figure is merely lower */
    memset(start, 1, bytes);
    *out = (mr_peaks){0};
    for (int i = 0; i < 2 && l->read[i]; i++) {
        job read = {.read = l->read[i], .memory = start};
        mr_peak peak = measure(&read, pool, (double)PIECE, (int)(bytes / PIECE));
        out->read.one = peak.one > out->read.one ? peak.one : out->read.one;
        out->read.all = peak.all > out->read.all ? peak.all : out->read.all;
    }
    mr_free(memory);
    job int8 = {.turn = l->int8}, f32 = {.turn = l->f32}, bf16 = {.turn = l->bf16};
    if (l->int8)
        out->int8 = measure(&int8, pool, (double)TURNS * l->int8_ops, tasks);
    if (l->f32)
        out->f32 = measure(&f32, pool, (double)TURNS * l->f32_ops, tasks);
    if (l->bf16 && (mr_isa_has_bf16(isa) || isa == MR_ISA_AMX))
        out->bf16 = measure(&bf16, pool, (double)TURNS * l->bf16_ops, tasks);
    return MR_OK;
}
