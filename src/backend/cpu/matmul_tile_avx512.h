/* The int8 tile for many rows on AVX-512: 6 rows x 32 outputs over all of k, in assembly.
 *
 * Why:    on two ports for 512-bit arithmetic everything beside the dots costs: a compiler's tile
 *         (sums in memory, addresses made anew per row) reaches half of the dots' peak, this one
 *         what the counts of instructions allow.  12 int32 sums, 12 f32 outputs, 2 lines of weights
 *         and 6 broadcasts are 32 registers.
 * Use:    many_rows has tile_i8's parameters and returns how many rows it has done.  Wide columns
 *         of bytes whose weight groups are activation groups; other shapes take the general tile.
 * Bits:   the order of docs/numerics.md: slot, << 7, start, quads; fma(b, A, y), fma(s, I << e, y).
 */
#include "backend/cpu/matmul_core.h"

enum { TILE_ROWS = 6, SCALE_GROUPS = 64 };

/* Scales and biases of some groups as f32: [group][s of 64, b of 64]. */
typedef float tile_scales[2 * MR_TILE_OUT];

static inline v16f scale_numbers(const uint8_t *p, mr_dtype t)
{
    if (t == MR_BF16)
        return v16f_load_bf16((const uint16_t *)(const void *)p);
    if (t == MR_F16)
        return v16f_load_f16((const uint16_t *)(const void *)p);
    return v16f_load((const float *)(const void *)p);
}

static inline void widen_scales(const mr_column *c, const uint8_t *unit, int n, tile_scales *to)
{
    size_t size = c->layout->scale_dtype == MR_F32 ? 4 : 2;
    for (int g = 0; g < n; g++, unit += c->unit)
        for (int i = 0; i < (c->layout->bias ? 8 : 4); i++)
            v16f_store(to[g] + 16 * i, scale_numbers(unit + c->lines + 16 * size * (size_t)i,
                                                     c->layout->scale_dtype));
}

/* zmm 0..11 y, 12..23 sums (row r: 2r and 2r+1), 24 25 weights, 26..31 broadcasts.
 * Operands: %[x0]..%[x5] rows, %[at] into them, %[rec] of the group's record, %[w] weights. */
/* clang-format off */
#define EACH_ROW(X)                                                                                \
    X(0, 0, 1, 12, 13, 26)                                                                         \
    X(1, 2, 3, 14, 15, 27)                                                                         \
    X(2, 4, 5, 16, 17, 28)                                                                         \
    X(3, 6, 7, 18, 19, 29)                                                                         \
    X(4, 8, 9, 20, 21, 30)                                                                         \
    X(5, 10, 11, 22, 23, 31)
/* clang-format on */
#define LOAD_Y(r, y0, y1, a0, a1, b)                                                               \
    "vmovups 256*" #r "(%[out]), %%zmm" #y0 "\n\tvmovups 256*" #r "+64(%[out]), %%zmm" #y1 "\n\t"
#define STORE_Y(r, y0, y1, a0, a1, b)                                                              \
    "vmovups %%zmm" #y0 ", 256*" #r "(%[out])\n\tvmovups %%zmm" #y1 ", 256*" #r "+64(%[out])\n\t"
/* Record: r 0, p 4, e 8, start 12, a 16. A quad is 256 bytes of weights. */
#define SLOT(r, y0, y1, a0, a1, b)                                                                 \
    "movl 4(%[x" #r "],%[rec]), %k[tmp]\n\t"                                                       \
    "vpbroadcastd (%[x" #r "],%[rec]), %%zmm" #b "\n\t"                                            \
    "shl $8, %[tmp]\n\t"                                                                           \
    "vpxord %%zmm" #a0 ", %%zmm" #a0 ", %%zmm" #a0 "\n\t"                                          \
    "vpxord %%zmm" #a1 ", %%zmm" #a1 ", %%zmm" #a1 "\n\t"                                          \
    "vmovdqu64 (%[w],%[tmp]), %%zmm24\n\tvmovdqu64 64(%[w],%[tmp]), %%zmm25\n\t"                   \
    "vpdpbusd %%zmm" #b ", %%zmm24, %%zmm" #a0 "\n\tvpdpbusd %%zmm" #b ", %%zmm25, %%zmm" #a1      \
    "\n\t"                                                                                         \
    "vpslld $7, %%zmm" #a0 ", %%zmm" #a0 "\n\tvpslld $7, %%zmm" #a1 ", %%zmm" #a1 "\n\t"
#define START(r, y0, y1, a0, a1, b)                                                                \
    "vpbroadcastd 12(%[x" #r "],%[rec]), %%zmm" #b "\n\t"                                          \
    "vpaddd %%zmm" #b ", %%zmm" #a0 ", %%zmm" #a0 "\n\tvpaddd %%zmm" #b ", %%zmm" #a1              \
    ", %%zmm" #a1 "\n\t"
#define BROADCAST(q, r, b) "vpbroadcastd 4*" #q "(%[x" #r "],%[at]), %%zmm" #b "\n\t"
#define DOTS(w, a, b, c, d, e, f)                                                                  \
    "vpdpbusd %%zmm26, %%zmm" #w ", %%zmm" #a "\n\tvpdpbusd %%zmm27, %%zmm" #w ", %%zmm" #b "\n\t" \
    "vpdpbusd %%zmm28, %%zmm" #w ", %%zmm" #c "\n\tvpdpbusd %%zmm29, %%zmm" #w ", %%zmm" #d "\n\t" \
    "vpdpbusd %%zmm30, %%zmm" #w ", %%zmm" #e "\n\tvpdpbusd %%zmm31, %%zmm" #w ", %%zmm" #f "\n\t"
/* clang-format off: it does not settle on string pieces between macros */
#define QUAD(q)                                                                                    \
    BROADCAST(q, 0, 26)                                                                            \
    BROADCAST(q, 1, 27)                                                                            \
    BROADCAST(q, 2, 28)                                                                            \
    BROADCAST(q, 3, 29)                                                                            \
    BROADCAST(q, 4, 30)                                                                            \
    BROADCAST(q, 5, 31)                                                                            \
    "vmovdqu64 256*" #q "(%[w]), %%zmm24\n\tvmovdqu64 256*" #q                                     \
    "+64(%[w]), %%zmm25\n\t" DOTS(24, 12, 14, 16, 18, 20, 22) DOTS(25, 13, 15, 17, 19, 21, 23)
/* clang-format on */
#define BIAS(r, y0, y1, a0, a1, b)                                                                 \
    "vbroadcastss 16(%[x" #r "],%[rec]), %%zmm" #b "\n\t"                                          \
    "vfmadd231ps %%zmm" #b ", %%zmm24, %%zmm" #y0 "\n\tvfmadd231ps %%zmm" #b                       \
    ", %%zmm25, %%zmm" #y1 "\n\t"
#define SCALE(r, y0, y1, a0, a1, b)                                                                \
    "vpbroadcastd 8(%[x" #r "],%[rec]), %%zmm" #b "\n\t"                                           \
    "vpsllvd %%zmm" #b ", %%zmm" #a0 ", %%zmm" #a0 "\n\tvpsllvd %%zmm" #b ", %%zmm" #a1            \
    ", %%zmm" #a1 "\n\t"                                                                           \
    "vcvtdq2ps %%zmm" #a0 ", %%zmm" #a0 "\n\tvcvtdq2ps %%zmm" #a1 ", %%zmm" #a1 "\n\t"             \
    "vfmadd231ps %%zmm24, %%zmm" #a0 ", %%zmm" #y0 "\n\tvfmadd231ps %%zmm25, %%zmm" #a1            \
    ", %%zmm" #y1 "\n\t"
#define LOAD_BIAS "vmovups 256(%[s]), %%zmm24\n\tvmovups 256+64(%[s]), %%zmm25\n\t"
#define LOAD_SCALE "vmovups (%[s]), %%zmm24\n\tvmovups 64(%[s]), %%zmm25\n\t"
#define CLOBBERS                                                                                   \
    "cc", "memory", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8",        \
        "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15", "xmm16", "xmm17", "xmm18",   \
        "xmm19", "xmm20", "xmm21", "xmm22", "xmm23", "xmm24", "xmm25", "xmm26", "xmm27", "xmm28",  \
        "xmm29", "xmm30", "xmm31"

/* n groups of `quads` quads (a multiple of 4), `skip` bytes of weights between groups. */
#define TILE(name, start, bias)                                                                    \
    static __attribute__((noinline)) void name(const uint8_t *w, size_t skip, int64_t n,           \
                                               int64_t quads, const tile_scales *s,                \
                                               const uint8_t *const *x, size_t at, float *out)     \
    {                                                                                              \
        size_t rec, tmp;                                                                           \
        __asm__ volatile(                                                                          \
            EACH_ROW(LOAD_Y) "1:\n\tmov %[at], %[rec]\n\t" EACH_ROW(SLOT) start                    \
            "add $20, %[at]\n\tmov %[quads], %[tmp]\n\t"                                           \
            "2:\n\t" QUAD(0) QUAD(1) QUAD(2)                                                       \
                QUAD(3) "add $16, %[at]\n\tadd $1024, %[w]\n\tsub $4, %[tmp]\n\tjg 2b\n\t" bias    \
                    LOAD_SCALE EACH_ROW(SCALE) "add %[skip], %[w]\n\tadd $512, %[s]\n\tdecq "      \
                                               "%[n]\n\tjg 1b\n\t" EACH_ROW(STORE_Y)               \
            : [w] "+r"(w), [s] "+r"(s), [at] "+r"(at), [n] "+m"(n), [rec] "=&r"(rec),              \
              [tmp] "=&r"(tmp)                                                                     \
            : [x0] "r"(x[0]), [x1] "r"(x[1]), [x2] "r"(x[2]), [x3] "r"(x[3]), [x4] "r"(x[4]),      \
              [x5] "r"(x[5]), [skip] "m"(skip), [quads] "m"(quads), [out] "r"(out)                 \
            : CLOBBERS);                                                                           \
    }
TILE(tile_bias, "", LOAD_BIAS EACH_ROW(BIAS))
TILE(tile_start, EACH_ROW(START), "")

static int many_rows(const mr_column *c, int64_t units, const mr_qform *f, const uint8_t *const *x,
                     int rows, float *out)
{
    tile_scales scales[SCALE_GROUPS];
    mr_pack_kind kind = c->layout->kind;
    int done = rows - rows % TILE_ROWS;
    if ((kind != MR_PACK_U8 && kind != MR_PACK_U4_BYTES) || c->nv != 4 ||
        c->layout->k_unit != f->group)
        return 0;
    for (int64_t u = 0; done && u < units; u += SCALE_GROUPS) {
        int n = (int)(units - u < SCALE_GROUPS ? units - u : SCALE_GROUPS);
        const uint8_t *unit = c->data + (size_t)u * c->unit;
        widen_scales(c, unit, n, scales);
        for (int r = 0; r < done; r += TILE_ROWS)
            for (int half = 0; half < 2; half++) {
                const tile_scales *s = (const tile_scales *)(const void *)(scales[0] + 32 * half);
                (c->layout->bias ? tile_bias : tile_start)(
                    unit + 128 * half, c->unit - c->lines, n, f->group / 4, s, x + r,
                    (size_t)u * f->step, out + r * MR_TILE_OUT + 32 * half);
            }
    }
    return done;
}
