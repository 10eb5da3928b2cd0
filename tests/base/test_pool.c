/* The pool: every task exactly once, on a valid worker, for any number of threads and tasks; runs
 * in quick succession with changing functions; sleeping in between. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/mem.h"
#include "base/pool.h"

enum { TASKS_MAX = 300 };

typedef struct run {
    int threads;
    int serial;          /* plain, so that the thread sanitizer sees a stale run */
    int done[TASKS_MAX]; /* plain: each is written by one task */
    atomic_int bad;
    int per_worker[64];
} run;

static void count(void *ctx, int task, int worker)
{
    run *r = ctx;
    if (task < 0 || task >= TASKS_MAX || worker < 0 || worker >= r->threads) {
        atomic_fetch_add(&r->bad, 1);
        return;
    }
    r->done[task] += r->serial;
    r->per_worker[worker]++;
}

static void count_negative(void *ctx, int task, int worker)
{
    run *r = ctx;
    count(ctx, task, worker);
    r->done[task] -= 2 * r->serial;
}

/* What waiting threads ask for need not be there. */
static void tell_nothing_there(mr_pool *p, int worker, int i)
{
    static char some[1 << 16];
    mr_pool_tell(p, worker,
                 &(mr_ahead){.from = {some + worker, i % 2 ? NULL : (void *)(uintptr_t)i},
                             .bytes = (size_t)i * 100});
}

static void check_runs(int threads, int runs)
{
    static run a, b;
    mr_pool *p;
    assert_int_equal(mr_pool_new(&p, threads), MR_OK);
    assert_int_equal(mr_pool_threads(p), threads);
    for (int i = 1; i <= runs; i++) {
        run *r = i % 2 ? &a : &b; /* a late worker would write to the other */
        int n = i % 7 ? i % 7 : i % TASKS_MAX;
        memset(r, 0, sizeof *r);
        r->threads = threads;
        r->serial = i;
        bool negative = i % 3 == 0;
        for (int w = 0; i % 5 == 0 && w < threads; w++)
            tell_nothing_there(p, w, i);
        mr_pool_run(p, n, negative ? count_negative : count, r);
        for (int t = 0; t < TASKS_MAX; t++)
            if (r->done[t] != (t < n ? (negative ? -i : i) : 0))
                fail_msg("%d threads, run %d of %d tasks: task %d gave %d", threads, i, n, t,
                         r->done[t]);
        int sum = 0;
        for (int w = 0; w < 64; w++)
            sum += r->per_worker[w];
        assert_int_equal(sum, n);
        assert_int_equal(r->bad, 0);
    }
    mr_pool_free(p);
}

static void test_one(void **state)
{
    (void)state;
    check_runs(1, 2000);
}

static void test_two(void **state)
{
    (void)state;
    check_runs(2, 20000);
}

static void test_four(void **state)
{
    (void)state;
    check_runs(4, 20000);
}

static void test_sixty_four(void **state)
{
    (void)state;
    check_runs(64, 5000);
}

static void nap(void *ctx, int task, int worker)
{
    (void)worker;
    struct timespec t = {.tv_nsec = task % 3 * 300000};
    nanosleep(&t, NULL);
    ((int *)ctx)[task]++;
}

/* Pauses longer than the spinning time: workers and caller must sleep, and be woken. */
static void test_sleeping(void **state)
{
    (void)state;
    static const int threads[] = {2, 8};
    for (int i = 0; i < 2; i++) {
        mr_pool *p;
        assert_int_equal(mr_pool_new(&p, threads[i]), MR_OK);
        for (int round = 0; round < 100; round++) {
            int done[12] = {0};
            mr_pool_run(p, 12, nap, done);
            for (int t = 0; t < 12; t++)
                assert_int_equal(done[t], 1);
            struct timespec pause = {.tv_nsec = round % 4 * 100000};
            nanosleep(&pause, NULL);
        }
        mr_pool_free(p);
    }
}

static void meet(void *ctx, int task, int worker)
{
    (void)task;
    atomic_int *here = ctx;
    (void)worker;
    atomic_fetch_add(here, 1);
    for (int i = 0; atomic_load(here) < 4 && i < 20000; i++) {
        struct timespec t = {.tv_nsec = 100000};
        nanosleep(&t, NULL);
    }
}

/* Tasks that wait for each other end only if each gets a thread of its own.  (A pool owes this only
 * up to the number of CPUs, so two of them are enough.) */
static void test_threads_really_run(void **state)
{
    (void)state;
    mr_pool *p;
    assert_int_equal(mr_pool_new(&p, 2), MR_OK);
    for (int round = 0; round < 50; round++) {
        atomic_int here = 2;
        mr_pool_run(p, 2, meet, &here);
        assert_int_equal(here, 4);
    }
    mr_pool_free(p);
}

typedef struct log {
    int taken[8][TASKS_MAX], n[8];
} log;

static void note(void *ctx, int task, int worker)
{
    log *l = ctx;
    l->taken[worker][l->n[worker]++] = task;
}

/* A worker's own stretch comes first and in ascending order; then, ascending too, each of the others. */
static void test_own_tasks_first(void **state)
{
    (void)state;
    static const int threads[] = {2, 3, 8}, tasks[] = {2, 3, 8, 17, 64, 299};
    static log l;
    for (int i = 0; i < 18 * 50; i++) {
        mr_pool *p;
        int many = threads[i % 3], n = tasks[i / 3 % 6];
        memset(&l, 0, sizeof l);
        assert_int_equal(mr_pool_new(&p, many), MR_OK);
        mr_pool_run(p, n, note, &l);
        for (int w = 0; w < many; w++)
            for (int j = 0, ahead = 0, last = -1; j < l.n[w]; j++) {
                int task = l.taken[w][j], owner = 0;
                while (task >= n * (owner + 1) / many)
                    owner++;
                int distance = (owner - w + many) % many;
                assert_true(distance > ahead || (distance == ahead && task > last));
                ahead = distance;
                last = task;
            }
        mr_pool_free(p);
    }
}

static void test_no_tasks(void **state)
{
    (void)state;
    mr_pool *p;
    assert_int_equal(mr_pool_new(&p, 2), MR_OK);
    mr_pool_run(p, 0, NULL, NULL);
    mr_pool_run(p, -1, NULL, NULL);
    mr_pool_free(p);
    mr_pool_free(NULL);
}

static void test_new_fails(void **state)
{
    (void)state;
    size_t held = mr_mem_held(MR_MEM_COUNT);
    mr_pool *p;
    assert_int_equal(mr_pool_new(&p, 0), MR_EUSAGE);
    assert_string_equal(mr_error(), "0 threads: not in 1..1024");
    assert_int_equal(mr_pool_new(&p, 1025), MR_EUSAGE);
    for (uint64_t n = 1; n <= 2; n++) {
        mr_mem_fail_after(n);
        assert_int_equal(mr_pool_new(&p, 4), MR_ENOMEM);
        assert_null(p);
    }
    mr_mem_fail_after(0);
    assert_int_equal(mr_mem_held(MR_MEM_COUNT), held);
}

/* Too little address space for 1024 stacks: refused, with all that was started ended.  In a child,
 * because the limit stays; the sanitizers need the space themselves. */
static void test_too_many_threads(void **state)
{
    (void)state;
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    skip();
#endif
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        struct rlimit space = {.rlim_cur = 256 << 20, .rlim_max = 256 << 20};
        size_t held = mr_mem_held(MR_MEM_COUNT);
        mr_pool *p;
        int good = setrlimit(RLIMIT_AS, &space) == 0 && mr_pool_new(&p, 1024) == MR_ELIMIT && !p &&
                   strncmp(mr_error(), "cannot start thread ", 20) == 0 &&
                   mr_mem_held(MR_MEM_COUNT) == held;
        _exit(good ? 0 : 1);
    }
    int status = -1;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
}

static void test_new_and_free(void **state)
{
    (void)state;
    size_t held = mr_mem_held(MR_MEM_COUNT);
    for (int i = 0; i < 200; i++) {
        mr_pool *p;
        assert_int_equal(mr_pool_new(&p, 1 + i % 6), MR_OK);
        int done[12] = {0};
        if (i % 2)
            mr_pool_run(p, 12, nap, done);
        mr_pool_free(p);
    }
    assert_int_equal(mr_mem_held(MR_MEM_COUNT), held);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one),
        cmocka_unit_test(test_two),
        cmocka_unit_test(test_four),
        cmocka_unit_test(test_sixty_four),
        cmocka_unit_test(test_sleeping),
        cmocka_unit_test(test_threads_really_run),
        cmocka_unit_test(test_own_tasks_first),
        cmocka_unit_test(test_no_tasks),
        cmocka_unit_test(test_new_fails),
        cmocka_unit_test(test_too_many_threads),
        cmocka_unit_test(test_new_and_free),
    };
    return cmocka_run_group_tests_name("base/pool", tests, NULL, NULL);
}
