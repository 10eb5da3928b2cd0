/* The int8 tile for 4 to 8 rows on AVX-512: all of them x 32 outputs, in assembly.
 *
 * Why:    weights come from memory, are unpacked in registers and must then serve all rows; dots
 *         and what stands beside them take both ports that do 512-bit arithmetic, so that nothing
 *         may be spilt or done twice.
 * How:    a block of k at a time: its scales as f32, then group by group both halves of the column,
 *         so that weights are read almost in order.  More rows are taken in equal parts, each over
 *         the block while it is in the L1 cache.  Lines are asked for from further on than a block
 *         reaches, as its scales are wanted first.
 *         A slot's nibbles are put into the upper half of their bytes, so that 3 is left of the
 *         shift by 7, and -8 times the values' sum, which zero asks for, goes through it too (with
 *         U8: -128 times, and all of the shift).
 * Use:    few_rows_i8 has tile_i8's parameters and returns how many rows it has done: all or none.
 * Bits:   the order of docs/numerics.md: fma(b, A, y), fma(s, I << e, y).
 */
#include "backend/cpu/matmul_core.h"

enum { EIGHT = 8, EIGHT_LEAST = 5, EIGHT_MOST = 32, EIGHT_K = 512, EIGHT_GROUPS = EIGHT_K / 32 };

/* Of one group and half a column. */
typedef struct eight_side {
    _Alignas(64) float s[32];
    float b[32];
    const uint8_t *w;
    uint64_t upper[2]; /* matrices that put nibbles of even, odd quads into the upper half */
    int64_t out, at;   /* bytes to the next side's outputs, and to its group's records */
} eight_side;

/* zmm 0..15 sums (row r: 2r, 2r+1), 16..19 weights of two quads (then scales and biases), 20..23 of
 * rows in turn, 24 25 outputs, 26 27 what unpacks.
 * Operands: %[x0]..%[x7] rows, %[at] of the group's record in them (r 0, p 4, e 8, start 12, a and
 * less 16, values 20), %[s] the side (b 128, w 256, upper 264, out 280, at 288).
 * EIGHTn(X) is X(row, its two sums, 20..23, two more and another) for each row. */
/* clang-format off */
#define EIGHT4(X)                                                                                  \
    X(0, 0, 1, 20, 16, 17, 18) X(1, 2, 3, 21, 19, 24, 25)                                          \
    X(2, 4, 5, 22, 16, 17, 18) X(3, 6, 7, 23, 19, 24, 25)
#define EIGHT5(X) EIGHT4(X) X(4, 8, 9, 20, 16, 17, 18)
#define EIGHT6(X) EIGHT5(X) X(5, 10, 11, 21, 19, 24, 25)
#define EIGHT7(X) EIGHT6(X) X(6, 12, 13, 22, 16, 17, 18)
#define EIGHT8(X) EIGHT7(X) X(7, 14, 15, 23, 19, 24, 25)

#define EIGHT_ZERO(r, a) "vpxord %%zmm" #a ", %%zmm" #a ", %%zmm" #a "\n\t"
#define EIGHT_LESS(r, a) "vpbroadcastd 16(%[x" #r "],%[at]), %%zmm" #a "\n\t"
#define EIGHT_SLOT_U4(start, r, a0, a1, b, l0, l1, m)                                              \
    "movl 4(%[x" #r "],%[at]), %k[t]\n\tand $1, %k[t]\n\t"                                         \
    "vpbroadcastq 264(%[s],%[t],8), %%zmm" #m "\n\t"                                              \
    "movl 4(%[x" #r "],%[at]), %k[t]\n\tand $-2, %k[t]\n\tshl $7, %k[t]\n\t"                       \
    "vmovdqu64 (%[w],%[t]), %%zmm" #l0 "\n\tvmovdqu64 64(%[w],%[t]), %%zmm" #l1 "\n\t"            \
    "vgf2p8affineqb $0, %%zmm" #m ", %%zmm" #l0 ", %%zmm" #l0 "\n\t"                              \
    "vgf2p8affineqb $0, %%zmm" #m ", %%zmm" #l1 ", %%zmm" #l1 "\n\t"                              \
    EIGHT_SLOT_SUMS(3, start, r, a0, a1, b, l0, l1)
#define EIGHT_SLOT_U8(start, r, a0, a1, b, l0, l1, m)                                              \
    "movl 4(%[x" #r "],%[at]), %k[t]\n\tshl $8, %k[t]\n\t"                                         \
    "vmovdqu64 (%[w],%[t]), %%zmm" #l0 "\n\tvmovdqu64 64(%[w],%[t]), %%zmm" #l1 "\n\t"            \
    EIGHT_SLOT_SUMS(7, start, r, a0, a1, b, l0, l1)
#define EIGHT_SLOT_SUMS(up, start, r, a0, a1, b, l0, l1)                                           \
    "vpbroadcastd (%[x" #r "],%[at]), %%zmm" #b "\n\t" start(r, a0) start(r, a1)                   \
    "vpdpbusd %%zmm" #b ", %%zmm" #l0 ", %%zmm" #a0 "\n\t"                                        \
    "vpdpbusd %%zmm" #b ", %%zmm" #l1 ", %%zmm" #a1 "\n\t"                                        \
    "vpslld $" #up ", %%zmm" #a0 ", %%zmm" #a0 "\n\t"                                             \
    "vpslld $" #up ", %%zmm" #a1 ", %%zmm" #a1 "\n\t"
#define EIGHT_ZERO_U4(r, a0, a1, b, l0, l1, m) EIGHT_SLOT_U4(EIGHT_ZERO, r, a0, a1, b, l0, l1, m)
#define EIGHT_LESS_U4(r, a0, a1, b, l0, l1, m) EIGHT_SLOT_U4(EIGHT_LESS, r, a0, a1, b, l0, l1, m)
#define EIGHT_ZERO_U8(r, a0, a1, b, l0, l1, m) EIGHT_SLOT_U8(EIGHT_ZERO, r, a0, a1, b, l0, l1, m)
#define EIGHT_LESS_U8(r, a0, a1, b, l0, l1, m) EIGHT_SLOT_U8(EIGHT_LESS, r, a0, a1, b, l0, l1, m)
#define EIGHT_ASK_FOR(o)                                                                           \
    "prefetcht1 32768+" #o "(%[w])\n\tprefetcht0 4096+" #o "(%[w])\n\t"
#define EIGHT_U4                                                                                   \
    "vmovdqu64 (%[w]), %%zmm18\n\tvmovdqu64 64(%[w]), %%zmm19\n\t"                                 \
    "vpandd %%zmm26, %%zmm18, %%zmm16\n\tvpandd %%zmm26, %%zmm19, %%zmm17\n\t"                     \
    "vgf2p8affineqb $0, %%zmm27, %%zmm18, %%zmm18\n\t"                                             \
    "vgf2p8affineqb $0, %%zmm27, %%zmm19, %%zmm19\n\t"                                             \
    EIGHT_ASK_FOR(0) EIGHT_ASK_FOR(64) "add $256, %[w]\n\t"
#define EIGHT_U8                                                                                   \
    "vmovdqu64 (%[w]), %%zmm16\n\tvmovdqu64 64(%[w]), %%zmm17\n\t"                                 \
    "vmovdqu64 256(%[w]), %%zmm18\n\tvmovdqu64 320(%[w]), %%zmm19\n\t"                             \
    EIGHT_ASK_FOR(0) EIGHT_ASK_FOR(64) EIGHT_ASK_FOR(256) EIGHT_ASK_FOR(320) "add $512, %[w]\n\t"
#define EIGHT_DOTS(at, w0, w1, r, a0, a1, b)                                                       \
    "vpbroadcastd " #at "(%[x" #r "],%[at]), %%zmm" #b "\n\t"                                      \
    "vpdpbusd %%zmm" #b ", %%zmm" #w0 ", %%zmm" #a0 "\n\t"                                         \
    "vpdpbusd %%zmm" #b ", %%zmm" #w1 ", %%zmm" #a1 "\n\t"
#define EIGHT_FIRST(r, a0, a1, b, l0, l1, m) EIGHT_DOTS(20, 16, 17, r, a0, a1, b)
#define EIGHT_SECOND(r, a0, a1, b, l0, l1, m) EIGHT_DOTS(24, 18, 19, r, a0, a1, b)
#define EIGHT_SCALES                                                                               \
    "vmovups (%[s]), %%zmm16\n\tvmovups 64(%[s]), %%zmm17\n\t"                                     \
    "vmovups 128(%[s]), %%zmm18\n\tvmovups 192(%[s]), %%zmm19\n\t"
#define EIGHT_BIAS(r, b)                                                                           \
    "vbroadcastss 16(%[x" #r "],%[at]), %%zmm" #b "\n\t"                                           \
    "vfmadd231ps %%zmm" #b ", %%zmm18, %%zmm24\n\tvfmadd231ps %%zmm" #b ", %%zmm19, %%zmm25\n\t"
#define EIGHT_NO_BIAS(r, b)
#define EIGHT_OUT(r, a0, a1, b, bias)                                                              \
    "vpbroadcastd 8(%[x" #r "],%[at]), %%zmm" #b "\n\t"                                            \
    "vpsllvd %%zmm" #b ", %%zmm" #a0 ", %%zmm" #a0 "\n\t"                                          \
    "vpsllvd %%zmm" #b ", %%zmm" #a1 ", %%zmm" #a1 "\n\t"                                          \
    "vmovups 256*" #r "(%[out]), %%zmm24\n\tvmovups 256*" #r "+64(%[out]), %%zmm25\n\t"            \
    "vcvtdq2ps %%zmm" #a0 ", %%zmm" #a0 "\n\tvcvtdq2ps %%zmm" #a1 ", %%zmm" #a1 "\n\t"             \
    bias(r, b)                                                                                     \
    "vfmadd231ps %%zmm16, %%zmm" #a0 ", %%zmm24\n\tvfmadd231ps %%zmm17, %%zmm" #a1 ", %%zmm25\n\t" \
    "vmovups %%zmm24, 256*" #r "(%[out])\n\tvmovups %%zmm25, 256*" #r "+64(%[out])\n\t"
#define EIGHT_OUT_BIAS(r, a0, a1, b, l0, l1, m) EIGHT_OUT(r, a0, a1, b, EIGHT_BIAS)
#define EIGHT_OUT_PLAIN(r, a0, a1, b, l0, l1, m) EIGHT_OUT(r, a0, a1, b, EIGHT_NO_BIAS)

typedef void eight_fn(const eight_side *s, int64_t n, size_t group, const uint8_t *const *x,
                      size_t at, float *out);

/* n sides; k of a group. */
#define EIGHT_TILE(name, rows, n_rows, load, from, to)                                             \
    static __attribute__((noinline)) void name(const eight_side *s, int64_t n, size_t group,       \
                                               const uint8_t *const *x, size_t at, float *out)     \
    {                                                                                              \
        const uint8_t *w, *row[EIGHT];                                                             \
        size_t t, runs = group / 32;                                                               \
        for (int r = 0; r < EIGHT; r++)                                                            \
            row[r] = x[r < (n_rows) ? r : 0];                                                      \
        __asm__ volatile(                                                                          \
            "movl $0x0f0f0f0f, %k[t]\n\tvpbroadcastd %k[t], %%zmm26\n\t"                           \
            "movabsq $0x1020408000000000, %[t]\n\tvpbroadcastq %[t], %%zmm27\n\t"                  \
            ".p2align 6\n1:\n\tmovq 256(%[s]), %[w]\n\t"                                         \
            rows(from) "movq %[runs], %[t]\n\t2:\n\t.rept 4\n\t"                                  \
            load rows(EIGHT_FIRST) rows(EIGHT_SECOND) "add $8, %[at]\n\t"                          \
            ".endr\n\tdec %[t]\n\tjnz 2b\n\tsub %[group], %[at]\n\t"                             \
            EIGHT_ASK_FOR(0) EIGHT_ASK_FOR(64)                                                     \
            EIGHT_SCALES rows(to)                                                                  \
            "add 280(%[s]), %[out]\n\tadd 288(%[s]), %[at]\n\t"                                   \
            "add %[side], %[s]\n\tdecq %[n]\n\tjnz 1b\n\t"                                        \
            : [w] "=&r"(w), [s] "+r"(s), [at] "+r"(at), [out] "+r"(out), [n] "+m"(n), [t] "=&r"(t) \
            : [x0] "r"(row[0]), [x1] "r"(row[1]), [x2] "r"(row[2]), [x3] "r"(row[3]),              \
              [x4] "r"(row[4]), [x5] "r"(row[5]), [x6] "r"(row[6]), [x7] "r"(row[7]),              \
              [runs] "m"(runs), [group] "m"(group), [side] "i"(sizeof(eight_side))               \
            : "cc", "memory", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7",      \
              "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15", "xmm16",       \
              "xmm17", "xmm18", "xmm19", "xmm20", "xmm21", "xmm22", "xmm23", "xmm24", "xmm25",     \
              "xmm26", "xmm27");                                                                   \
    }
/* clang-format on */
#define EIGHT_TILES(name, load, from, to)                                                          \
    EIGHT_TILE(name##_4, EIGHT4, 4, load, from, to)                                                \
    EIGHT_TILE(name##_5, EIGHT5, 5, load, from, to)                                                \
    EIGHT_TILE(name##_6, EIGHT6, 6, load, from, to)                                                \
    EIGHT_TILE(name##_7, EIGHT7, 7, load, from, to)                                                \
    EIGHT_TILE(name##_8, EIGHT8, 8, load, from, to)
EIGHT_TILES(eight_u4, EIGHT_U4, EIGHT_LESS_U4, EIGHT_OUT_PLAIN)
EIGHT_TILES(eight_u4_bias, EIGHT_U4, EIGHT_ZERO_U4, EIGHT_OUT_BIAS)
EIGHT_TILES(eight_u8, EIGHT_U8, EIGHT_LESS_U8, EIGHT_OUT_PLAIN)
EIGHT_TILES(eight_u8_bias, EIGHT_U8, EIGHT_ZERO_U8, EIGHT_OUT_BIAS)

static eight_fn *eight_of(const mr_layout *l, int rows)
{
#define SHAPES(name)                                                                               \
    {                                                                                              \
        name##_4, name##_5, name##_6, name##_7, name##_8                                           \
    }
    static eight_fn *const fns[2][2][5] = {{SHAPES(eight_u8), SHAPES(eight_u8_bias)},
                                           {SHAPES(eight_u4), SHAPES(eight_u4_bias)}};
#undef SHAPES
    return fns[l->kind == MR_PACK_U4][l->bias][rows - 4];
}

/* Scales of a group, halves of whose outputs are two sides; `after` is where its unit has them. */
LANES_INLINE void eight_scales(const uint8_t *after, mr_dtype type, bool bias, eight_side sides[2])
{
    const size_t size = type == MR_F32 ? 4 : 2;
    LANES_UNROLL
    for (int v = 0; v < 4; v++) {
        const uint8_t *from = after + 16 * size * (size_t)v;
        v16f_store(sides[v / 2].s + v % 2 * 16, scale_numbers(from, type));
        if (bias)
            v16f_store(sides[v / 2].b + v % 2 * 16, scale_numbers(from + 64 * size, type));
    }
}

/* The sides of n units from `unit` on. */
LANES_INLINE void eight_sides(const mr_column *c, const uint8_t *unit, int n, int per_unit,
                              mr_dtype type, bool bias, eight_side (*sides)[2])
{
    const size_t group = c->lines / (size_t)per_unit, lines = c->lines, bytes = c->unit;
    for (int i = 0; i < n; i++, unit += bytes) {
        for (int g = 0; g < per_unit; g++, sides++) {
            sides[0][0].w = unit + (size_t)g * group;
            sides[0][1].w = sides[0][0].w + 128;
            eight_scales(unit + lines, type, bias, sides[0]);
        }
    }
}

static void eight_block(const mr_column *c, const uint8_t *unit, int n, int per_unit,
                        eight_side (*sides)[2])
{
    const mr_dtype type = c->layout->scale_dtype;
    if (type == MR_BF16 && c->layout->bias)
        eight_sides(c, unit, n, per_unit, MR_BF16, true, sides);
    else if (type == MR_F16 && c->layout->bias)
        eight_sides(c, unit, n, per_unit, MR_F16, true, sides);
    else if (type == MR_F16)
        eight_sides(c, unit, n, per_unit, MR_F16, false, sides);
    else
        eight_sides(c, unit, n, per_unit, type, c->layout->bias, sides);
}

static int few_rows_i8(const mr_column *c, int64_t units, const mr_qform *f,
                       const uint8_t *const *x, int rows, float *out)
{
    eight_side sides[EIGHT_GROUPS][2];
    const mr_layout *l = c->layout;
    const bool u4 = l->kind == MR_PACK_U4;
    const int per_unit = l->k_unit / f->group, block = EIGHT_K / l->k_unit;
    const int parts = (rows + EIGHT - 1) / EIGHT;
    if ((!u4 && l->kind != MR_PACK_U8) || c->nv != 4 || rows < EIGHT_LEAST || rows > EIGHT_MOST ||
        (!l->bias && l->zero != (u4 ? 8 : 128)))
        return 0;
    for (int i = 0; i < 2 * EIGHT_GROUPS; i++) {
        eight_side *side = &sides[i / 2][i % 2];
        side->upper[0] = 0x01020408;
        side->upper[1] = 0x10204080;
        side->out = i % 2 ? -128 : 128;
        side->at = i % 2 ? (int64_t)f->step : 0;
    }
    for (int64_t u = 0; u < units; u += block) {
        const int n = (int)(units - u < block ? units - u : block);
        const size_t at = (size_t)(u * per_unit) * f->step;
        eight_block(c, c->data + (size_t)u * c->unit, n, per_unit, sides);
        for (int i = 0, r = 0, now; i < parts; i++, r += now) {
            now = (rows - r + parts - i - 1) / (parts - i);
            eight_of(l, now)(sides[0], 2 * n * per_unit, (size_t)f->group, x + r, at,
                             out + r * MR_TILE_OUT);
        }
    }
    return rows;
}
