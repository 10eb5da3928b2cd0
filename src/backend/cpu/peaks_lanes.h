/* Peak loops of one x86 instruction set: assembly, since what is measured is a chain of named
 * instructions and not what a compiler makes of C.
 *
 * Use:    PEAK_LOOP(name, zero, body, clobbers...): `body` TURNS times on registers that `zero` has
 *         cleared.  Their contents do not matter, as long as no denormal or NaN is among them.
 *         PEAK_EACH12(X): X(0) .. X(11), twelve independent sums: more than latency times width.
 */
#ifndef MR_BACKEND_CPU_PEAKS_LANES_H
#define MR_BACKEND_CPU_PEAKS_LANES_H

#define PEAK_EACH12(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11)
#define PEAK_ZERO(i) "vpxor %%xmm" #i ", %%xmm" #i ", %%xmm" #i "\n\t"
#define PEAK_ALL_ZERO PEAK_EACH12(PEAK_ZERO) PEAK_ZERO(12) PEAK_ZERO(13) PEAK_ZERO(14) PEAK_ZERO(15)
#define PEAK_CLOBBERS                                                                              \
    "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", \
        "xmm11", "xmm12", "xmm13", "xmm14", "xmm15"
#define PEAK_LOOP(name, body)                                                                      \
    static void name(long turns)                                                                   \
    {                                                                                              \
        __asm__ volatile(PEAK_ALL_ZERO "1:\n\t" body "dec %0\n\tjnz 1b"                            \
                         : "+r"(turns)                                                             \
                         :                                                                         \
                         : PEAK_CLOBBERS);                                                         \
    }

/* Reading in streams (equal parts), each PEAK_UNIT bytes at a time, fetched `near` ahead to the L1 cache and,
 * unless 0, `far` ahead to L2.  Of the cores seen some read fastest in the one way, some in the other.
 * The including file has read_streams(p, bytes, streams, near, far), always inlined. */
enum { PEAK_UNIT = 256 };
#define PEAK_READS                                                                                 \
    static void read_one_ask(const char *p, size_t bytes)                                          \
    {                                                                                              \
        read_streams(p, bytes, 4, 4096, 0);                                                        \
    }                                                                                              \
    static void read_two_asks(const char *p, size_t bytes)                                         \
    {                                                                                              \
        read_streams(p, bytes, 2, 2048, 3072);                                                     \
    }
#define PEAK_INLINE static inline __attribute__((always_inline))

#endif
