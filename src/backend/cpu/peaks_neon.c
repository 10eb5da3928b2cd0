/* Peak loops with NEON and its dot products. */
#include <arm_neon.h>

#include "backend/cpu/peaks.h"

/* Sixteen independent sums: more than latency times width of the cores there are. */
#define EACH16(X)                                                                                  \
    X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14) X(15)
#define ZERO(i) "movi v" #i ".4s, #0\n\t"
#define DOT(i) "sdot v" #i ".4s, v16.16b, v17.16b\n\t"
#define FMA(i) "fmla v" #i ".4s, v16.4s, v17.4s\n\t"
#define BF16(i) "bfdot v" #i ".4s, v16.8h, v17.8h\n\t"
#define PEAK_LOOP(name, body)                                                                      \
    static void name(long turns)                                                                   \
    {                                                                                              \
        __asm__ volatile(EACH16(ZERO) ZERO(16) ZERO(17) "1:\n\t" body "subs %0, %0, #1\n\tb.ne 1b" \
                         : "+r"(turns)                                                             \
                         :                                                                         \
                         : "cc", "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v8", "v9",       \
                           "v10", "v11", "v12", "v13", "v14", "v15", "v16", "v17");                \
    }
PEAK_LOOP(int8, EACH16(DOT))
PEAK_LOOP(f32, EACH16(FMA))
PEAK_LOOP(bf16, ".arch_extension bf16\n\t" EACH16(BF16))

static void read_all(const char *p, size_t bytes)
{
    uint8x16_t s[4] = {vdupq_n_u8(0), vdupq_n_u8(0), vdupq_n_u8(0), vdupq_n_u8(0)};
    size_t part = bytes / 4;
    for (size_t i = 0; i + 64 <= part; i += 64)
        for (size_t stream = 0; stream < 4; stream++) {
            const uint8_t *q = (const uint8_t *)p + stream * part + i;
            __builtin_prefetch(q + 4096);
            for (int j = 0; j < 4; j++)
                s[j] = vaddq_u8(s[j], vld1q_u8(q + 16 * j));
        }
    __asm__ volatile("" : : "w"(s[0]), "w"(s[1]), "w"(s[2]), "w"(s[3]));
}

const mr_peak_loops mr_peak_neon = {{read_all}, int8, f32, bf16, 16 * 32, 16 * 8, 16 * 16};
