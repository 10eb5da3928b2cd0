/* What this CPU can do, found once.
 *
 * Use:    mr_isa isa; MR_TRY(mr_isa_pick(NULL, &isa));   or a name: "c", "avx2", "avx512", "amx", "neon"
 * Fails:  MR_EUSAGE: unknown name, or the CPU lacks it.
 * Rules:  mr_isa_pick is the only place that chooses; kernels are given an isa.
 */
#ifndef MR_BASE_CPU_H
#define MR_BASE_CPU_H

#include <stdbool.h>

#include "base/err.h"

typedef enum mr_isa {
    MR_ISA_C,
    MR_ISA_AVX2,
    MR_ISA_AVX512,
    MR_ISA_AMX, /* AVX-512, and tiles for products of many rows */
    MR_ISA_NEON,
    MR_ISA_COUNT
} mr_isa;

const char *mr_isa_name(mr_isa isa);
bool mr_isa_have(mr_isa isa);                      /* built in and this CPU (and OS) runs it.
                                                      avx2: AVX2 FMA F16C; avx512: F BW DQ VL VBMI
                                                      GFNI VNNI; amx: avx512 and AMX-INT8 BF16 */
mr_err mr_isa_pick(const char *name, mr_isa *out); /* NULL: the best */
bool mr_isa_has_bf16(mr_isa isa); /* and dots of bf16 pairs faster than FMAs: vdpbf16ps, bfdot */
void mr_isa_assume_bf16(void);    /* from now on it has: for tests that emulate them */
int mr_cpu_count(void);           /* CPUs this process may run on (affinity and cgroup quota) */
/* Bytes this process may still take: MemAvailable, and the cgroup's limit less its use. */
unsigned long long mr_memory_available(void);

#endif
