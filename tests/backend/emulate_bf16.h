/* vdpbf16ps for CPUs with AVX-512 that lack it, so that kernels which use it are checked there too.
 *
 * Why:    the kernels' own machine code runs; only this one instruction, refused by the CPU, is done here.
 * Use:    bool slow = emulate_bf16();   once; from then on it works on all threads, and mr_isa_has_bf16 says
 *         so.  True if the CPU refuses it: then each takes up to ten microseconds.
 * Limits: 512 bits, registers only, no mask: the form that the kernels use.  Anything else that the CPU
 *         refuses ends the test as it would without this.
 */
#ifndef MR_TESTS_BACKEND_EMULATE_BF16_H
#define MR_TESTS_BACKEND_EMULATE_BF16_H

#include <stdbool.h>

#include "base/cpu.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <math.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

static volatile sig_atomic_t emulate_count;

/* Where the saved state has the parts of zmm registers: bytes 16.. and 32.. of the first 16, the others. */
static size_t emulate_at[3];

static void emulate_zmm(char *state, int n, char *reg, bool store)
{
    char *parts[3] = {state + 160 + 16 * n, state + emulate_at[0] + 16 * (size_t)n,
                      state + emulate_at[1] + 32 * (size_t)n};
    size_t sizes[3] = {16, 16, 32};
    if (n >= 16) {
        parts[0] = state + emulate_at[2] + 64 * (size_t)(n - 16);
        sizes[0] = 64;
        sizes[1] = sizes[2] = 0;
    }
    for (int i = 0; i < 3; reg += sizes[i++])
        memcpy(store ? parts[i] : reg, store ? reg : parts[i], sizes[i]);
}

static float emulate_half(uint32_t pair, int high)
{
    uint32_t bits = high ? pair & 0xffff0000u : pair << 16;
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static void emulate_refused(int signal_number, siginfo_t *info, void *context)
{
    ucontext_t *u = context;
    const uint8_t *p = (const uint8_t *)u->uc_mcontext.gregs[REG_RIP];
    char *state = (char *)u->uc_mcontext.fpregs;
    (void)info;
    emulate_count = 1;
    /* EVEX.512.F3.0F38.W0 52 /r, registers, no mask */
    if (p[0] != 0x62 || (p[1] & 0x0f) != 2 || (p[2] & 0x87) != 0x06 || (p[3] & 0xf7) != 0x40 ||
        p[4] != 0x52 || p[5] < 0xc0) {
        signal(signal_number, SIG_DFL);
        return;
    }
    int to = (p[5] >> 3 & 7) + (p[1] & 0x80 ? 0 : 8) + (p[1] & 0x10 ? 0 : 16),
        a = (~p[2] >> 3 & 15) + (p[3] & 0x08 ? 0 : 16),
        b = (p[5] & 7) + (p[1] & 0x20 ? 0 : 8) + (p[1] & 0x40 ? 0 : 16);
    uint32_t x[16], y[16];
    float sum[16];
    emulate_zmm(state, to, (char *)sum, false);
    emulate_zmm(state, a, (char *)x, false);
    emulate_zmm(state, b, (char *)y, false);
    for (int i = 0; i < 16; i++)
        for (int high = 1; high >= 0; high--)
            sum[i] = fmaf(emulate_half(x[i], high), emulate_half(y[i], high), sum[i]);
    emulate_zmm(state, to, (char *)sum, true);
    u->uc_mcontext.gregs[REG_RIP] += 6;
}

static inline bool emulate_bf16(void)
{
    static const unsigned parts[3] = {2, 6, 7};
    unsigned size, at, c, d;
    struct sigaction act;
    if (!mr_isa_have(MR_ISA_AVX512) || mr_isa_has_bf16(MR_ISA_AVX512))
        return false;
    memset(&act, 0, sizeof act);
    act.sa_sigaction = emulate_refused;
    act.sa_flags = SA_SIGINFO;
    for (int i = 0; i < 3; i++) {
        if (!__get_cpuid_count(0xd, parts[i], &size, &at, &c, &d) || !size)
            abort();
        emulate_at[i] = at;
    }
    if (sigaction(SIGILL, &act, NULL))
        abort();
    mr_isa_assume_bf16();
    __asm__ volatile("vdpbf16ps %%zmm0, %%zmm0, %%zmm0" : : : "xmm0");
    return emulate_count;
}
#else
static inline bool emulate_bf16(void)
{
    return false;
}
#endif

#endif
