/* The tiles on floats over wide columns, on AVX-512: 6 rows x 64 outputs, in assembly.
 *
 * Why:    a compiler makes every broadcast an operand in memory: 28 loads for 24 FMAs, more than
 *         the load ports give.  A register per row needs 10.
 * Use:    F32_PANEL of matmul_f32_lanes.h: a panel, k FMAs a sum.  BF16_TILE of matmul_bf16_lanes.h:
 *         pairs as packed, k dots of two (not every CPU with AVX-512 has them).
 * Bits:   f32: y = fma(w[k], x[k], y), k ascending.
 */
#include "backend/cpu/matmul_core.h"

/* Each k asks for its share of what comes next.  `op` multiplies and adds.
 * zmm 0..23 sums (row r: 4r..4r+3), 24..27 weights, 28 29 of rows in turn. */
/* clang-format off */
#define F32_ROWS6(X, q, op)                                                                        \
    X(q, op, 0, 0, 1, 2, 3, 28) X(q, op, 1, 4, 5, 6, 7, 29) X(q, op, 2, 8, 9, 10, 11, 28)                      \
    X(q, op, 3, 12, 13, 14, 15, 29) X(q, op, 4, 16, 17, 18, 19, 28) X(q, op, 5, 20, 21, 22, 23, 29)
#define F32_LOAD(q, op, r, a0, a1, a2, a3, b)                                                          \
    "vmovups 256*" #r "(%[out]), %%zmm" #a0 "\n\tvmovups 256*" #r "+64(%[out]), %%zmm" #a1 "\n\t"  \
    "vmovups 256*" #r "+128(%[out]), %%zmm" #a2 "\n\t"                                             \
    "vmovups 256*" #r "+192(%[out]), %%zmm" #a3 "\n\t"
#define F32_STORE(q, op, r, a0, a1, a2, a3, b)                                                         \
    "vmovups %%zmm" #a0 ", 256*" #r "(%[out])\n\tvmovups %%zmm" #a1 ", 256*" #r "+64(%[out])\n\t"  \
    "vmovups %%zmm" #a2 ", 256*" #r "+128(%[out])\n\t"                                             \
    "vmovups %%zmm" #a3 ", 256*" #r "+192(%[out])\n\t"
#define F32_FMA(op, b, w, a) op " %%zmm" #b ", %%zmm" #w ", %%zmm" #a "\n\t"
#define F32_FMAS(q, op, r, a0, a1, a2, a3, b)                                                          \
    "vbroadcastss 4*" #q "(%[x" #r "],%[at],4), %%zmm" #b "\n\t"                                   \
    F32_FMA(op, b, 24, a0) F32_FMA(op, b, 25, a1) F32_FMA(op, b, 26, a2) F32_FMA(op, b, 27, a3)
#define F32_STEP(q, op)                                                                                \
    "prefetcht1 (%[ask])\n\tadd %[ask_by], %[ask]\n\t"                                            \
    "vmovups 256*" #q "(%[w]), %%zmm24\n\tvmovups 256*" #q "+64(%[w]), %%zmm25\n\t"                \
    "vmovups 256*" #q "+128(%[w]), %%zmm26\n\tvmovups 256*" #q "+192(%[w]), %%zmm27\n\t"           \
    F32_ROWS6(F32_FMAS, q, op)

#define F32_TILE(name, op)                                                                         \
    static __attribute__((noinline)) void name(const uint8_t *w, int64_t k, const float *const *x, \
                                               float *out, const uint8_t *ask, size_t ask_by)      \
    {                                                                                              \
        int64_t at = 0, fours = k - k % 4;                                                         \
        __asm__ volatile(                                                                          \
            F32_ROWS6(F32_LOAD, 0, op) "cmp %[fours], %[at]\n\tje 2f\n\t.p2align 5\n1:\n\t"        \
            F32_STEP(0, op) F32_STEP(1, op) F32_STEP(2, op) F32_STEP(3, op)                        \
            "add $1024, %[w]\n\tadd $4, %[at]\n\tcmp %[fours], %[at]\n\tjne 1b\n\t"                \
            "2:\n\tcmp %[k], %[at]\n\tje 4f\n3:\n\t" F32_STEP(0, op)                              \
            "add $256, %[w]\n\tinc %[at]\n\tcmp %[k], %[at]\n\tjne 3b\n"                           \
            "4:\n\t" F32_ROWS6(F32_STORE, 0, op)                                                   \
            : [w] "+r"(w), [at] "+r"(at), [ask] "+r"(ask)                                          \
            : [x0] "r"(x[0]), [x1] "r"(x[1]), [x2] "r"(x[2]), [x3] "r"(x[3]), [x4] "r"(x[4]),      \
              [x5] "r"(x[5]), [k] "r"(k), [fours] "r"(fours), [out] "r"(out), [ask_by] "r"(ask_by) \
            : CLOBBERS);                                                                           \
    }
/* clang-format on */
F32_TILE(f32_panel, "vfmadd231ps")
F32_TILE(bf16_tile, "vdpbf16ps")
#define F32_PANEL f32_panel
#define BF16_TILE bf16_tile
