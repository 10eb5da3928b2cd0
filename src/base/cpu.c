/* CPU features by cpuid (x86) or the kernel's word (Arm).
 *
 * The instruction being there is not enough: the system must save the wide registers too, which
 * xgetbv tells.  The answer is found once and kept as bits.
 */
#include "base/cpu.h"

#include <sched.h>
#include <stdatomic.h>
#include <stddef.h>
#include <string.h>

#include "base/limits.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#elif defined(__aarch64__)
#include <sys/auxv.h>
#endif

/* Below them one bit for each mr_isa. */
enum { FOUND = 1u << 31, BF16 = 1u << 30 };

#if defined(__x86_64__)
static unsigned bit(unsigned word, int n)
{
    return word >> n & 1u;
}

/* Linux saves the tiles of a process only once it has asked for them; for all its threads. */
static bool may_use_tiles(void)
{
#if defined(__linux__) && defined(SYS_arch_prctl)
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };
    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
#else
    return false;
#endif
}

static unsigned probe(void)
{
    unsigned a, b, c, d, found = 1u << MR_ISA_C;
    if (!__get_cpuid(1, &a, &b, &c, &d))
        return found;
    unsigned fma = bit(c, 12), osxsave = bit(c, 27), avx = bit(c, 28), f16c = bit(c, 29);
    if (!osxsave || !avx)
        return found;
    unsigned xcr0, high;
    __asm__ volatile("xgetbv" : "=a"(xcr0), "=d"(high) : "c"(0));
    bool saves_ymm = (xcr0 & 0x06) == 0x06, saves_zmm = (xcr0 & 0xe6) == 0xe6;
    if (!saves_ymm || !__get_cpuid_count(7, 0, &a, &b, &c, &d))
        return found;
    unsigned leaves = a, amx_bf16 = bit(d, 22), amx_tile = bit(d, 24), amx_int8 = bit(d, 25);
    if (!bit(b, 5) || !fma || !f16c)
        return found;
    found |= 1u << MR_ISA_AVX2;
    unsigned f = bit(b, 16), dq = bit(b, 17), bw = bit(b, 30), vl = bit(b, 31);
    unsigned vbmi = bit(c, 1), gfni = bit(c, 8), vnni = bit(c, 11);
    if (!saves_zmm || !(f & dq & bw & vl & vbmi & gfni & vnni))
        return found;
    found |= 1u << MR_ISA_AVX512;
    if (amx_tile && amx_int8 && amx_bf16 && (xcr0 >> 17 & 3u) == 3u && may_use_tiles())
        found |= 1u << MR_ISA_AMX;
    /* The cores that have AMX do vdpbf16ps every other cycle, and two FMAs each cycle. */
    if (!amx_bf16 && leaves >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d) && bit(a, 5))
        found |= BF16;
    return found;
}
#elif defined(__aarch64__)
static unsigned probe(void)
{
    const unsigned long asimd = 1ul << 1, asimd_dp = 1ul << 20; /* HWCAP_ASIMD, HWCAP_ASIMDDP */
    const unsigned long bf16 = 1ul << 14;                       /* HWCAP2_BF16 */
    unsigned long have = getauxval(AT_HWCAP);
    unsigned found = 1u << MR_ISA_C;
    if ((have & asimd) && (have & asimd_dp))
        found |= 1u << MR_ISA_NEON | (getauxval(AT_HWCAP2) & bf16 ? BF16 : 0u);
    return found;
}
#else
static unsigned probe(void)
{
    return 1u << MR_ISA_C;
}
#endif

static atomic_uint kept;

/* Two threads may probe at once; both find the same. */
static unsigned features(void)
{
    unsigned found = atomic_load_explicit(&kept, memory_order_relaxed);
    if (!found) {
        found = probe() | FOUND;
        atomic_store_explicit(&kept, found, memory_order_relaxed);
    }
    return found;
}

const char *mr_isa_name(mr_isa isa)
{
    static const char *const names[MR_ISA_COUNT] = {"c", "avx2", "avx512", "amx", "neon"};
    return (unsigned)isa < MR_ISA_COUNT ? names[isa] : "unknown";
}

bool mr_isa_have(mr_isa isa)
{
    return (unsigned)isa < MR_ISA_COUNT && (features() >> isa & 1u);
}

bool mr_isa_has_bf16(mr_isa isa)
{
    return (isa == MR_ISA_AVX512 || isa == MR_ISA_NEON) && mr_isa_have(isa) &&
           (features() & BF16) != 0;
}

void mr_isa_assume_bf16(void)
{
    atomic_store_explicit(&kept, features() | BF16, memory_order_relaxed);
}

mr_err mr_isa_pick(const char *name, mr_isa *out)
{
    if (!name) {
        static const mr_isa best[] = {MR_ISA_AMX, MR_ISA_AVX512, MR_ISA_AVX2, MR_ISA_NEON,
                                      MR_ISA_C};
        const mr_isa *p = best;
        while (!mr_isa_have(*p))
            p++;
        *out = *p;
        return MR_OK;
    }
    for (int i = 0; i < MR_ISA_COUNT; i++) {
        if (strcmp(name, mr_isa_name((mr_isa)i)) != 0)
            continue;
        if (!mr_isa_have((mr_isa)i))
            return mr_fail(MR_EUSAGE, "CPU level \"%s\": this CPU or build does not have it", name);
        *out = (mr_isa)i;
        return MR_OK;
    }
    return mr_fail(MR_EUSAGE, "CPU level \"%s\" is not one of c, avx2, avx512, amx, neon", name);
}

/* A mask larger than the kernel's is needed; 64 Ki CPUs are past any kernel's. */
static int affinity_count(void)
{
    static const int cpus_max = 1 << 16;
    for (int cpus = 1024; cpus <= cpus_max; cpus *= 4) {
        unsigned long mask[(1 << 16) / (8 * sizeof(unsigned long))];
        size_t size = (size_t)cpus / 8;
        memset(mask, 0, size);
        if (sched_getaffinity(0, size, (cpu_set_t *)mask) != 0)
            continue;
        int n = 0;
        for (size_t i = 0; i < size / sizeof *mask; i++)
            n += __builtin_popcountl(mask[i]);
        return n;
    }
    return 1;
}

int mr_cpu_count(void)
{
    int n = affinity_count(), quota = mr_limits_cpus("");
    n = quota > 0 && quota < n ? quota : n;
    return n > 0 ? n : 1;
}

unsigned long long mr_memory_available(void)
{
    return mr_limits_memory("");
}
