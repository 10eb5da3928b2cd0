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

/* Four streams (the quarters), each 256 bytes at a time, fetched ahead: what one core of the kinds
 * seen reads fastest. */
enum { PEAK_STREAMS = 4, PEAK_UNIT = 256, PEAK_AHEAD = 4096 };

#endif
