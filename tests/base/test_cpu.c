/* The CPU's levels, and the limits of control groups read from made-up trees. */
#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/cpu.h"
#include "base/limits.h"

/* ---- levels ---- */

/* The kernel lists what CPU and system together can do; a level is had if all its flags are. */
static bool listed(const char *const flags[], size_t n)
{
    static char text[65536];
    FILE *f = fopen("/proc/cpuinfo", "r");
    assert_non_null(f);
    size_t len = fread(text, 1, sizeof text - 1, f);
    fclose(f);
    text[len] = '\0';
    for (char *p = text; *p; p++)
        if (*p == '\n' || *p == '\t')
            *p = ' ';
    for (size_t i = 0; i < n; i++) {
        char word[32];
        snprintf(word, sizeof word, " %s ", flags[i]);
        if (!strstr(text, word))
            return false;
    }
    return true;
}

static void test_levels_agree_with_the_kernel(void **state)
{
    (void)state;
    static const char *const avx2[] = {"avx2", "fma", "f16c"};
    static const char *const avx512[] = {"avx512f",    "avx512bw",    "avx512dq", "avx512vl",
                                         "avx512vbmi", "avx512_vnni", "gfni",     "avx2",
                                         "fma",        "f16c"};
    static const char *const bf16[] = {"avx512_bf16", "avx512f"}, *const amx[] = {"amx_bf16"},
                             *const tiles[] = {"amx_tile", "amx_int8", "amx_bf16"};
    static const char *const neon[] = {"asimd", "asimddp"}, *const arm_bf16[] = {"bf16"};
    bool x86 = false, arm = false;
#if defined(__x86_64__)
    x86 = true;
#elif defined(__aarch64__)
    arm = true;
#endif
    assert_true(mr_isa_have(MR_ISA_C));
    assert_int_equal(mr_isa_have(MR_ISA_AVX2), x86 && listed(avx2, 3));
    assert_int_equal(mr_isa_have(MR_ISA_AVX512), x86 && listed(avx512, 10));
    /* the system may refuse a process its tiles */
    assert_true(!mr_isa_have(MR_ISA_AMX) || (mr_isa_have(MR_ISA_AVX512) && listed(tiles, 3)));
    assert_int_equal(mr_isa_has_bf16(MR_ISA_AVX512), x86 && listed(bf16, 2) && !listed(amx, 1));
    assert_int_equal(mr_isa_have(MR_ISA_NEON), arm && listed(neon, 2));
    assert_int_equal(mr_isa_has_bf16(MR_ISA_NEON), arm && listed(arm_bf16, 1));
    assert_false(mr_isa_has_bf16(MR_ISA_C) || mr_isa_has_bf16(MR_ISA_AVX2) ||
                 mr_isa_has_bf16(MR_ISA_AMX));
    assert_false(mr_isa_have(MR_ISA_COUNT));
}

static void test_pick(void **state)
{
    (void)state;
    mr_isa isa = MR_ISA_COUNT, best;
    assert_int_equal(mr_isa_pick(NULL, &best), MR_OK);
    for (int i = 0; i < MR_ISA_COUNT; i++) {
        const char *name = mr_isa_name((mr_isa)i);
        mr_err err = mr_isa_pick(name, &isa);
        assert_int_equal(err, mr_isa_have((mr_isa)i) ? MR_OK : MR_EUSAGE);
        if (err == MR_OK)
            assert_int_equal(isa, i);
        else
            assert_non_null(strstr(mr_error(), name));
        if (mr_isa_have((mr_isa)i) && i != MR_ISA_NEON)
            assert_true(best >= (mr_isa)i);
    }
    assert_true(mr_isa_have(best));
    assert_int_equal(mr_isa_pick("sse9", &isa), MR_EUSAGE);
    assert_string_equal(mr_error(), "CPU level \"sse9\" is not one of c, avx2, avx512, amx, neon");
    assert_string_equal(mr_isa_name(MR_ISA_COUNT), "unknown");
}

static void test_counts_are_sane(void **state)
{
    (void)state;
    assert_in_range(mr_cpu_count(), 1, sysconf(_SC_NPROCESSORS_CONF));
    unsigned long long total =
        (unsigned long long)sysconf(_SC_PHYS_PAGES) * (unsigned long long)sysconf(_SC_PAGESIZE);
    assert_true(mr_memory_available() > 0 && mr_memory_available() <= total);
}

/* ---- control groups ---- */

static char root[64];

static int make_root(void **state)
{
    (void)state;
    strcpy(root, "/tmp/mr-test-cpu-XXXXXX");
    return mkdtemp(root) ? 0 : -1;
}

static int remove_root(void **state)
{
    (void)state;
    char command[96];
    snprintf(command, sizeof command, "rm -rf %s", root);
    return system(command);
}

static void put(const char *path, const char *text)
{
    char command[512], full[256];
    snprintf(full, sizeof full, "%s/%s", root, path);
    snprintf(command, sizeof command, "mkdir -p $(dirname %s)", full);
    assert_int_equal(system(command), 0);
    FILE *f = fopen(full, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static void test_no_groups(void **state)
{
    (void)state;
    assert_true(mr_limits_memory(root) == ULLONG_MAX);
    assert_int_equal(mr_limits_cpus(root), 0);
    put("proc/meminfo", "MemTotal:       9000 kB\nMemFree:  1 kB\nMemAvailable:   5000 kB\n");
    assert_int_equal(mr_limits_memory(root), 5000 * 1024);
    put("proc/self/cgroup", "0::/\n");
    assert_int_equal(mr_limits_memory(root), 5000 * 1024);
    assert_int_equal(mr_limits_cpus(root), 0);
    put("proc/self/cgroup", "nonsense\n1:x\n\n");
    assert_int_equal(mr_limits_memory(root), 5000 * 1024);
}

static void test_version_2(void **state)
{
    (void)state;
    put("proc/meminfo", "MemAvailable:   5000 kB\n");
    put("proc/self/cgroup", "0::/a/b\n");
    put("sys/fs/cgroup/a/b/memory.max", "max\n");
    put("sys/fs/cgroup/a/b/memory.current", "1000\n");
    put("sys/fs/cgroup/a/b/cpu.max", "max 100000\n");
    assert_int_equal(mr_limits_memory(root), 5000 * 1024);
    assert_int_equal(mr_limits_cpus(root), 0);
    /* A limit above counts; inactive file pages do not, the active ones do. */
    put("sys/fs/cgroup/a/memory.max", "1000000\n");
    put("sys/fs/cgroup/a/memory.current", "700000\n");
    put("sys/fs/cgroup/a/cpu.max", "250000 100000\n");
    assert_int_equal(mr_limits_memory(root), 300000);
    put("sys/fs/cgroup/a/memory.stat", "anon 5\nactive_file 9\ninactive_file 200000\nx 1\n");
    assert_int_equal(mr_limits_memory(root), 500000);
    assert_int_equal(mr_limits_cpus(root), 3);
    put("sys/fs/cgroup/a/b/cpu.max", "100000 100000\n");
    assert_int_equal(mr_limits_cpus(root), 1);
    put("sys/fs/cgroup/a/b/cpu.max", "1000 100000\n");
    assert_int_equal(mr_limits_cpus(root), 1);
    put("sys/fs/cgroup/a/b/cpu.max", "1000\n");
    assert_int_equal(mr_limits_cpus(root), 3);
    put("sys/fs/cgroup/a/memory.current", "2000000\n"); /* over the limit: nothing left */
    assert_int_equal(mr_limits_memory(root), 0);
    put("sys/fs/cgroup/a/memory.current", "100\n"); /* more dropped than used */
    assert_int_equal(mr_limits_memory(root), 1000000);
}

/* In a container the path may not exist below the mount, or lead outside: the mount itself counts.
 */
static void test_container(void **state)
{
    (void)state;
    put("sys/fs/cgroup/memory.max", "4096\n");
    put("sys/fs/cgroup/memory.current", "96\n");
    put("proc/self/cgroup", "0::/docker/0123abcd\n");
    assert_int_equal(mr_limits_memory(root), 4000);
    put("proc/self/cgroup", "0::/../other\n");
    assert_int_equal(mr_limits_memory(root), 4000);
}

static void test_version_1(void **state)
{
    (void)state;
    put("proc/self/cgroup", "12:cpuset:/c\n4:cpu,cpuacct:/c\n3:memory:/c\n0::/\n");
    put("sys/fs/cgroup/memory/c/memory.limit_in_bytes", "9000\n");
    put("sys/fs/cgroup/memory/c/memory.usage_in_bytes", "5000\n");
    put("sys/fs/cgroup/memory/c/memory.stat", "inactive_file 1\ntotal_inactive_file 2000\n");
    put("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
    put("sys/fs/cgroup/memory/memory.usage_in_bytes", "7000\n");
    assert_int_equal(mr_limits_memory(root), 6000);
    put("sys/fs/cgroup/cpu,cpuacct/c/cpu.cfs_quota_us", "-1\n");
    put("sys/fs/cgroup/cpu,cpuacct/c/cpu.cfs_period_us", "100000\n");
    assert_int_equal(mr_limits_cpus(root), 0);
    put("sys/fs/cgroup/cpu,cpuacct/c/cpu.cfs_quota_us", "150000\n");
    assert_int_equal(mr_limits_cpus(root), 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_levels_agree_with_the_kernel),
        cmocka_unit_test(test_pick),
        cmocka_unit_test(test_counts_are_sane),
        cmocka_unit_test_setup_teardown(test_no_groups, make_root, remove_root),
        cmocka_unit_test_setup_teardown(test_version_2, make_root, remove_root),
        cmocka_unit_test_setup_teardown(test_container, make_root, remove_root),
        cmocka_unit_test_setup_teardown(test_version_1, make_root, remove_root),
    };
    return cmocka_run_group_tests_name("base/cpu, base/limits", tests, NULL, NULL);
}
