/* The f32 tile over a panel on AVX-512: 6 rows x 64 outputs, in assembly.
 *
 * Why:    a compiler makes every broadcast an operand in memory: 28 loads for 24 FMAs, more than
 *         the load ports give.  A register per row needs 10.
 * Use:    F32_PANEL of matmul_f32_lanes.h: a wide column of F32, TILE_F32_ROWS rows.
 * Bits:   y = fma(w[k], x[k], y), k ascending.
 */
#include "backend/cpu/matmul_core.h"

/* Each k asks for its share of what will be unpacked next.
 * zmm 0..23 sums (row r: 4r..4r+3), 24..27 weights, 28 29 of rows in turn. */
/* clang-format off */
#define F32_ROWS6(X, q)                                                                            \
    X(q, 0, 0, 1, 2, 3, 28) X(q, 1, 4, 5, 6, 7, 29) X(q, 2, 8, 9, 10, 11, 28)                      \
    X(q, 3, 12, 13, 14, 15, 29) X(q, 4, 16, 17, 18, 19, 28) X(q, 5, 20, 21, 22, 23, 29)
#define F32_LOAD(q, r, a0, a1, a2, a3, b)                                                          \
    "vmovups 256*" #r "(%[out]), %%zmm" #a0 "\n\tvmovups 256*" #r "+64(%[out]), %%zmm" #a1 "\n\t"  \
    "vmovups 256*" #r "+128(%[out]), %%zmm" #a2 "\n\t"                                             \
    "vmovups 256*" #r "+192(%[out]), %%zmm" #a3 "\n\t"
#define F32_STORE(q, r, a0, a1, a2, a3, b)                                                         \
    "vmovups %%zmm" #a0 ", 256*" #r "(%[out])\n\tvmovups %%zmm" #a1 ", 256*" #r "+64(%[out])\n\t"  \
    "vmovups %%zmm" #a2 ", 256*" #r "+128(%[out])\n\t"                                             \
    "vmovups %%zmm" #a3 ", 256*" #r "+192(%[out])\n\t"
#define F32_FMA(b, w, a) "vfmadd231ps %%zmm" #b ", %%zmm" #w ", %%zmm" #a "\n\t"
#define F32_FMAS(q, r, a0, a1, a2, a3, b)                                                          \
    "vbroadcastss 4*" #q "(%[x" #r "],%[at],4), %%zmm" #b "\n\t"                                   \
    F32_FMA(b, 24, a0) F32_FMA(b, 25, a1) F32_FMA(b, 26, a2) F32_FMA(b, 27, a3)
#define F32_STEP(q)                                                                                \
    "prefetcht1 (%[ask])\n\tadd %[ask_by], %[ask]\n\t"                                            \
    "vmovups 256*" #q "(%[w]), %%zmm24\n\tvmovups 256*" #q "+64(%[w]), %%zmm25\n\t"                \
    "vmovups 256*" #q "+128(%[w]), %%zmm26\n\tvmovups 256*" #q "+192(%[w]), %%zmm27\n\t"           \
    F32_ROWS6(F32_FMAS, q)
/* clang-format on */

#define F32_PANEL f32_panel_avx512
static __attribute__((noinline)) void f32_panel_avx512(const uint8_t *w, int64_t k,
                                                       const float *const *x, float *out,
                                                       const uint8_t *ask, size_t ask_by)
{
    int64_t at = 0, fours = k - k % 4;
    __asm__ volatile(
        F32_ROWS6(F32_LOAD,
                  0) "cmp %[fours], %[at]\n\tje 2f\n\t"
                     ".p2align 5\n1:\n\t" F32_STEP(0) F32_STEP(1) F32_STEP(2) F32_STEP(
                         3) "add $1024, %[w]\n\tadd $4, %[at]\n\tcmp %[fours], %[at]\n\tjne 1b\n\t"
                            "2:\n\tcmp %[k], %[at]\n\tje 4f\n"
                            "3:\n\t" F32_STEP(
                                0) "add $256, %[w]\n\tinc %[at]\n\tcmp %[k], %[at]\n\tjne 3b\n"
                                   "4:\n\t" F32_ROWS6(F32_STORE, 0)
        : [w] "+r"(w), [at] "+r"(at), [ask] "+r"(ask)
        : [x0] "r"(x[0]), [x1] "r"(x[1]), [x2] "r"(x[2]), [x3] "r"(x[3]), [x4] "r"(x[4]),
          [x5] "r"(x[5]), [k] "r"(k), [fours] "r"(fours), [out] "r"(out), [ask_by] "r"(ask_by)
        : CLOBBERS);
}
