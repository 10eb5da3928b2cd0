/* The thread pool: one atomic ticket, bounded spinning, futexes.
 *
 * The ticket is the number of tasks not yet taken.  A thread takes one by lowering it from n to
 * n - 1 and only then reads what to run; as the run cannot end before that task is done, what it
 * reads belongs to the run the task belongs to.  So a thread that saw the ticket in one run and
 * lowers it in the next has taken a task of the next, in full order: nothing goes stale, and no
 * generation is needed.
 *
 * Which task a ticket stands for is settled apart: tasks are shared out evenly, in order, and a thread
 * takes the next one of its own share, or, when that is empty, of the next thread's that is not.  As
 * no more threads look for tasks than there are tasks left, and shares only empty, one look at each
 * finds one.  A share's counter carries the number of the run, so that nobody has to reset it.
 *
 * A thread that finds no task spins, then sleeps on `epoch`, which every run raises.  Against lost
 * wakes both sides write first and read then, in sequentially consistent order: the sleeper raises
 * `sleepers` and looks at the ticket again; the caller sets the ticket, raises `epoch` and looks at
 * `sleepers`.  The caller waits likewise on `pending`, which the last thread to finish brings to 0.
 *
 * A thread that spins asks for what it was told it will read (mr_pool_tell).  What was told lies there twice:
 * the caller writes one while threads read the other, and the next run turns to it.
 *
 * With more threads than CPUs spinning only takes time from those that work: nobody spins, and no
 * more threads are woken than there are CPUs.
 */
#include "base/pool.h"

#include <assert.h>
#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/cpu.h"
#include "base/mem.h"

enum {
    TASK_BITS = 24,
    THREADS_MAX = 1024,
    SPIN_NS = 200000,
    PAUSES = 16,
    ASK_BYTES = 512,
    STACK_BYTES = 2 << 20
};

typedef struct worker {
    mr_pool *pool;
    pthread_t thread;
    int index;     /* 0, the caller, .. threads - 1 */
    uint32_t turn; /* of the ahead that it asks for, */
    size_t asked;  /* so many bytes of it */
} worker;

/* The tasks of one thread: run << TASK_BITS | next task.  An older run: none is taken yet. */
typedef struct share {
    _Alignas(64) _Atomic uint64_t next;
} share;

/* A worker's mr_ahead.  A mixed reading asks for what is not needed, no more. */
typedef struct ahead {
    _Alignas(64) _Atomic(const char *) from[2];
    _Atomic size_t bytes;
} ahead;

struct mr_pool {
    /* Each line below is written by other threads than the next. */
    _Alignas(64) _Atomic uint32_t ticket;  /* tasks not yet taken */
    _Alignas(64) _Atomic uint32_t pending; /* tasks not yet done */
    _Atomic uint32_t caller_sleeps;
    _Alignas(64) _Atomic uint32_t epoch; /* raised by each run */
    _Atomic uint32_t sleepers;
    _Alignas(64) mr_task fn; /* the run: written only while there is no task */
    void *ctx;
    int n_tasks;
    uint64_t run;
    share *shares;
    ahead *aheads;         /* [2][threads]: turns take one and the other */
    _Atomic uint32_t turn; /* raised by the run that follows mr_pool_tell */
    bool told;
    int threads;
    int wake_max;
    bool spin;
    atomic_bool stop, busy;
    worker *workers;
};

static void futex_wait(_Atomic uint32_t *word, uint32_t value)
{
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
}

static void futex_wake(_Atomic uint32_t *word, int threads)
{
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, threads, NULL, NULL, 0);
}

static inline void cpu_pause(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* Asks for some more of what the worker will read; false if that is all asked for. */
static bool ask_ahead(worker *w)
{
    mr_pool *p = w->pool;
    uint32_t turn = atomic_load_explicit(&p->turn, memory_order_acquire);
    const ahead *a = &p->aheads[(turn & 1) * (uint32_t)p->threads + (uint32_t)w->index];
    if (w->turn != turn) {
        w->turn = turn;
        w->asked = 0;
    }
    if (w->asked >= atomic_load_explicit(&a->bytes, memory_order_relaxed))
        return false;
    for (int i = 0; i < 2; i++) {
        const char *from = atomic_load_explicit(&a->from[i], memory_order_relaxed);
        for (size_t k = 0; from && k < ASK_BYTES; k += 64)
            __builtin_prefetch(from + w->asked + k, 0, 2);
    }
    w->asked += ASK_BYTES;
    return true;
}

/* True as soon as (*word != 0) == nonzero; false after SPIN_NS.  By the clock, because a pause is
 * ten times longer on some CPUs than on others. */
static bool spin_until(worker *w, _Atomic uint32_t *word, bool nonzero)
{
    const mr_pool *p = w->pool;
    int64_t until = 0;
    do {
        for (int i = 0; i < PAUSES; i++) {
            if ((atomic_load_explicit(word, memory_order_acquire) != 0) == nonzero)
                return true;
            if (!ask_ahead(w))
                cpu_pause();
        }
        if (!p->spin)
            return false;
        int64_t now = now_ns();
        until = until ? until : now + SPIN_NS;
        if (now >= until)
            return false;
    } while (true);
}

/* The next task of thread w's share, or -1. */
static int take(mr_pool *p, int w)
{
    const uint64_t n = (uint64_t)p->n_tasks, t = (uint64_t)p->threads;
    const uint64_t first = n * (uint64_t)w / t, end = n * ((uint64_t)w + 1) / t;
    _Atomic uint64_t *next = &p->shares[w].next;
    uint64_t now = atomic_load_explicit(next, memory_order_relaxed), task;
    do {
        task = now >> TASK_BITS == p->run ? now & ((1u << TASK_BITS) - 1) : first;
        if (task == end)
            return -1;
    } while (!atomic_compare_exchange_weak_explicit(next, &now, p->run << TASK_BITS | (task + 1),
                                                    memory_order_relaxed, memory_order_relaxed));
    return (int)task;
}

/* The task of a ticket that thread `index` has. */
static int find_task(mr_pool *p, int index)
{
    int task = take(p, index);
    for (int w = index + 1; task < 0; w++) {
        assert(w < index + p->threads && "a ticket without a task");
        task = take(p, w % p->threads);
    }
    return task;
}

/* Runs tasks until none is left to take. */
static void work(mr_pool *p, int index)
{
    uint32_t done = 0;
    uint32_t left = atomic_load_explicit(&p->ticket, memory_order_relaxed);
    while (left > 0) {
        if (!atomic_compare_exchange_weak_explicit(&p->ticket, &left, left - 1,
                                                   memory_order_acquire, memory_order_relaxed))
            continue;
        p->fn(p->ctx, find_task(p, index), index);
        done++;
        left = atomic_load_explicit(&p->ticket, memory_order_relaxed);
    }
    if (done > 0 && atomic_fetch_sub(&p->pending, done) == done &&
        atomic_load(&p->caller_sleeps) != 0)
        futex_wake(&p->pending, 1);
}

static void sleep_for_work(mr_pool *p)
{
    atomic_fetch_add(&p->sleepers, 1);
    uint32_t epoch = atomic_load(&p->epoch);
    if (atomic_load(&p->ticket) == 0 && !atomic_load(&p->stop))
        futex_wait(&p->epoch, epoch);
    atomic_fetch_sub(&p->sleepers, 1);
}

static void *worker_main(void *arg)
{
    worker *w = arg;
    mr_pool *p = w->pool;
    while (!atomic_load_explicit(&p->stop, memory_order_relaxed)) {
        if (!spin_until(w, &p->ticket, true))
            sleep_for_work(p);
        work(p, w->index);
    }
    return NULL;
}

/* Workers take no signals: those are for the threads of the program. */
static int start(worker *w)
{
    sigset_t all, old;
    pthread_attr_t attr;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int failed = pthread_attr_init(&attr);
    if (!failed) {
        pthread_attr_setstacksize(&attr, STACK_BYTES);
        failed = pthread_create(&w->thread, &attr, worker_main, w);
        pthread_attr_destroy(&attr);
    }
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return failed;
}

mr_err mr_pool_new(mr_pool **out, int threads)
{
    *out = NULL;
    if (threads < 1 || threads > THREADS_MAX)
        return mr_fail(MR_EUSAGE, "%d threads: not in 1..%d", threads, THREADS_MAX);
    mr_pool *p = mr_zalloc(MR_MEM_OTHER, sizeof *p);
    if (!p)
        return MR_ENOMEM;
    p->threads = 1; /* as many as run; mr_pool_free joins those */
    p->workers = mr_zalloc(MR_MEM_OTHER, (size_t)threads * sizeof *p->workers);
    p->shares = mr_zalloc(MR_MEM_OTHER, (size_t)threads * sizeof *p->shares);
    p->aheads = mr_zalloc(MR_MEM_OTHER, 2 * (size_t)threads * sizeof *p->aheads);
    if (!p->workers || !p->shares || !p->aheads) {
        mr_pool_free(p);
        return MR_ENOMEM;
    }
    int cpus = mr_cpu_count();
    p->spin = threads <= cpus;
    p->workers[0] = (worker){.pool = p};
    p->wake_max = (threads < cpus ? threads : cpus) - 1;
    p->wake_max = p->wake_max > 0 ? p->wake_max : 1;
    for (int i = 1; i < threads; i++) {
        p->workers[i] = (worker){.pool = p, .index = i};
        int failed = start(&p->workers[i]);
        if (failed) {
            mr_pool_free(p);
            return mr_fail(MR_ELIMIT, "cannot start thread %d of %d: %s", i + 1, threads,
                           failed == EAGAIN ? "too many threads or too little memory" : "refused");
        }
        p->threads++;
    }
    *out = p;
    return MR_OK;
}

void mr_pool_free(mr_pool *p)
{
    if (!p)
        return;
    atomic_store(&p->stop, true);
    atomic_fetch_add(&p->epoch, 1);
    futex_wake(&p->epoch, THREADS_MAX);
    for (int i = 1; i < p->threads; i++)
        pthread_join(p->workers[i].thread, NULL);
    mr_free(p->workers);
    mr_free(p->shares);
    mr_free(p->aheads);
    mr_free(p);
}

int mr_pool_threads(const mr_pool *p)
{
    return p->threads;
}

void mr_pool_tell(mr_pool *p, int w, const mr_ahead *told)
{
    uint32_t next = atomic_load_explicit(&p->turn, memory_order_relaxed) + 1;
    ahead *a = &p->aheads[(next & 1) * (uint32_t)p->threads + (uint32_t)w];
    assert(w < p->threads);
    for (int i = 0; i < 2; i++)
        atomic_store_explicit(&a->from[i], (const char *)told->from[i], memory_order_relaxed);
    atomic_store_explicit(&a->bytes, told->bytes, memory_order_relaxed);
    p->told = true;
}

mr_ahead mr_pool_ahead(const mr_pool *p, int w)
{
    uint32_t turn = atomic_load_explicit(&p->turn, memory_order_relaxed);
    const ahead *a = &p->aheads[(turn & 1) * (uint32_t)p->threads + (uint32_t)w];
    mr_ahead told = {.bytes = atomic_load_explicit(&a->bytes, memory_order_relaxed)};
    for (int i = 0; i < 2; i++)
        told.from[i] = atomic_load_explicit(&a->from[i], memory_order_relaxed);
    return told;
}

static void wait_for_all(mr_pool *p)
{
    if (spin_until(&p->workers[0], &p->pending, false))
        return;
    atomic_store(&p->caller_sleeps, 1);
    for (uint32_t left; (left = atomic_load(&p->pending)) != 0;)
        futex_wait(&p->pending, left);
    atomic_store(&p->caller_sleeps, 0);
}

void mr_pool_run(mr_pool *p, int n_tasks, mr_task fn, void *ctx)
{
    if (n_tasks <= 0)
        return;
    bool busy = atomic_exchange_explicit(&p->busy, true, memory_order_relaxed);
    assert(!busy && "one mr_pool_run at a time");
    (void)busy;
    assert(n_tasks < 1 << TASK_BITS);
    if (p->told)
        atomic_fetch_add_explicit(&p->turn, 1, memory_order_release);
    p->told = false;
    if (p->threads == 1 || n_tasks == 1) {
        for (int i = 0; i < n_tasks; i++)
            fn(ctx, i, 0);
    } else {
        p->fn = fn;
        p->ctx = ctx;
        p->n_tasks = n_tasks;
        p->run++;
        atomic_store_explicit(&p->pending, (uint32_t)n_tasks, memory_order_relaxed);
        atomic_store(&p->ticket, (uint32_t)n_tasks);
        atomic_fetch_add(&p->epoch, 1);
        if (atomic_load(&p->sleepers) != 0)
            futex_wake(&p->epoch, n_tasks - 1 < p->wake_max ? n_tasks - 1 : p->wake_max);
        work(p, 0);
        wait_for_all(p);
    }
    atomic_store_explicit(&p->busy, false, memory_order_relaxed);
}
