/* A thread pool for short parallel loops.
 *
 * Why:     a decode step has hundreds of loops of some 20 us each; the pool must start one in about
 *          a microsecond when cores are free and must not collapse when they are busy.
 * Use:     mr_pool_run(pool, n_tasks, fn, ctx): fn(ctx, task, worker) for every task in
 *          0..n_tasks-1, each exactly once, on the calling thread and the workers;
 *          returns when all are done. worker is 0..mr_pool_threads-1 (0 = the caller), for
 *          per-thread scratch.
 * Threads: one mr_pool_run at a time.
 * Rules:   1. Worker w of W takes tasks n*w/W to n*(w+1)/W in ascending order, so that what it reads
 *             is one stretch, then what others have left: a descheduled worker holds back only the
 *             task it has in hand.
 *          2. Waiting spins for a bounded time, then sleeps (futex/condition variable): never a
 *             free-running spin.
 *          3. Results may not depend on which thread ran a task.
 *          4. A thread that waits for work uses the memory that nobody else is using: mr_pool_tell.
 */
#ifndef MR_BASE_POOL_H
#define MR_BASE_POOL_H

#include <stddef.h>

#include "base/err.h"

typedef struct mr_pool mr_pool;
typedef void (*mr_task)(void *ctx, int task, int worker);

mr_err mr_pool_new(mr_pool **out, int threads); /* 1..1024; 1 starts no thread */
void mr_pool_free(mr_pool *p);
int mr_pool_threads(const mr_pool *p);
void mr_pool_run(mr_pool *p, int n_tasks, mr_task fn, void *ctx);

/* What a thread's tasks of a coming run will read first: `bytes` from each place on (NULL: none). */
typedef struct mr_ahead {
    const void *from[2];
    size_t bytes;
} mr_ahead;

/* While they wait, threads ask for this to come to their caches.  Told by the thread that calls mr_pool_run,
 * for each worker; it holds from the next run on.  Nothing is read, so it may be stale or freed. */
void mr_pool_tell(mr_pool *p, int worker, const mr_ahead *a);
/* What holds in this run, for tasks that end to ask for; zeros if nothing was told. */
mr_ahead mr_pool_ahead(const mr_pool *p, int worker);

#endif
