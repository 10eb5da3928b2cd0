/* The int8 tile for 4 to 8 rows on AVX-512: all of them x 32 outputs, in assembly.
 *
 * Why:    weights come from memory, are unpacked in registers and must then serve all rows; dots
 *         and what stands beside them take both ports that do 512-bit arithmetic, so that nothing
 *         may be spilt or done twice.
 * How:    a block of k at a time: its scales as f32, then group by group both halves of the column,
 *         so that weights are read almost in order.  More rows are taken in equal parts, each over
 *         the block while it is in the L1 cache; nibbles are unpacked by the first of them, which
 *         keeps the bytes for the slots and for those after it.  Lines are asked for in the order
 *         they lie in, whichever half of the column is at work: first those a block or two ahead,
 *         its scales too, which are wanted before its weights; by a second tile those that come later.
 *         Sums that stay within 2^22 (of nibbles, of Q5_K, and of even rows) begin with the bits of a float
 *         whose last bit is worth 2^e: one subtraction then takes the place of shift and conversion.
 *         Their slots come last, by a product with 128; of other sums they come first, and of what
 *         zero asks for a 128th with them, through one shift.  Groups without a slot's high parts
 *         (half of them, or more) leave that out.
 * Use:    few_rows_i8 has tile_i8's parameters and returns how many rows it has done: all or none.
 * Bits:   the order of docs/numerics.md: fma(b, A, y), fma(s, I << e, y).
 */
#include "backend/cpu/matmul_core.h"

enum {
    EIGHT = 8,
    EIGHT_LEAST = 5,
    EIGHT_FEWEST = 4, /* rows of one tile */
    EIGHT_MOST = 32,
    EIGHT_K = 128, /* of a block, or one unit */
    EIGHT_MOST_K = 256,
    EIGHT_GROUPS = EIGHT_MOST_K / 32,
    /* Bytes from weights to those wanted in the L1 cache, and from there to those in the L2. */
    EIGHT_NEAR = 4096,
    EIGHT_FAR = 7680
};

/* Of one group and half a column. */
typedef struct eight_side {
    _Alignas(64) float s[32];
    float b[32]; /* biases; where none are stored, the floats by e that sums begin with */
    const uint8_t *w;
    uint8_t *bytes;     /* nibbles unpacked: 128 for each quad */
    int64_t out, at;    /* bytes to the next side's outputs, and to its group's records */
    const uint8_t *ask; /* from here on, in the order of memory */
} eight_side;

/* zmm 0..15 sums (row r: 2r, 2r+1), 16..19 weights of two quads (then scales and biases), 20..23 of
 * rows in turn, 24 25 outputs, 26..28 constants, 29 30 slots.
 * Operands: %[x0]..%[x7] rows, %[at] of the group's record in them (r 0, p 4, e 8, start 12, a and
 * less 16, values 20, then the start as a float's bits), %[s] the side (b 128, w 256, bytes 264, out
 * 272, at 280, ask 288), %[a] what to ask for, %[b] its bytes, to be written; of bytes what to ask for.
 * EIGHTn(X) is X(row, its two sums, 20..23, four more) for each row. */
/* clang-format off */
#define EIGHT4(X)                                                                                  \
    X(0, 0, 1, 20, 16, 17, 18, 19) X(1, 2, 3, 21, 24, 25, 29, 30)                                  \
    X(2, 4, 5, 22, 16, 17, 18, 19) X(3, 6, 7, 23, 24, 25, 29, 30)
#define EIGHT5(X) EIGHT4(X) X(4, 8, 9, 20, 16, 17, 18, 19)
#define EIGHT6(X) EIGHT5(X) X(5, 10, 11, 21, 24, 25, 29, 30)
#define EIGHT7(X) EIGHT6(X) X(6, 12, 13, 22, 16, 17, 18, 19)
#define EIGHT8(X) EIGHT7(X) X(7, 14, 15, 23, 24, 25, 29, 30)

/* What sums begin with. */
#define EIGHT_ZERO(r, a) "vpxord %%zmm" #a ", %%zmm" #a ", %%zmm" #a "\n\t"
#define EIGHT_LESS(r, a) "vpbroadcastd 16(%[x" #r "],%[at]), %%zmm" #a "\n\t"
/* What follows, up to 2:, is for groups that have a slot; t becomes its quad. */
#define EIGHT_IF_SLOT(r)                                                                           \
    "movl (%[x" #r "],%[at]), %k[t]\n\ttest %k[t], %k[t]\n\tjz 2f\n\t"                             \
    "movl 4(%[x" #r "],%[at]), %k[t]\n\t"
#define EIGHT_SLOT_FIRST(start, r, a0, a1, b, l0, l1)                                              \
    "vpbroadcastd 12(%[x" #r "],%[at]), %%zmm" #a0 "\n\t"                                          \
    "vpbroadcastd 12(%[x" #r "],%[at]), %%zmm" #a1 "\n\t"                                          \
    EIGHT_IF_SLOT(r) "shl $8, %k[t]\n\t"                                                           \
    "vmovdqu64 (%[w],%[t]), %%zmm" #l0 "\n\tvmovdqu64 64(%[w],%[t]), %%zmm" #l1 "\n\t"             \
    "vpbroadcastd (%[x" #r "],%[at]), %%zmm" #b "\n\t" start(r, a0) start(r, a1)                   \
    "vpdpbusd %%zmm" #b ", %%zmm" #l0 ", %%zmm" #a0 "\n\t"                                         \
    "vpdpbusd %%zmm" #b ", %%zmm" #l1 ", %%zmm" #a1 "\n\t"                                         \
    "vpslld $7, %%zmm" #a0 ", %%zmm" #a0 "\n\tvpslld $7, %%zmm" #a1 ", %%zmm" #a1 "\n\t2:\n\t"
#define EIGHT_ZERO_SLOT(r, a0, a1, b, l0, l1, m0, m1)                                              \
    EIGHT_SLOT_FIRST(EIGHT_ZERO, r, a0, a1, b, l0, l1)
#define EIGHT_LESS_SLOT(r, a0, a1, b, l0, l1, m0, m1)                                              \
    EIGHT_SLOT_FIRST(EIGHT_LESS, r, a0, a1, b, l0, l1)
#define EIGHT_FLOAT(r, a0, a1, b, l0, l1, m0, m1)                                                  \
    "vpbroadcastd 20(%[x" #r "],%[at]), %%zmm" #a0 "\n\t"                                          \
    "vpbroadcastd 20(%[x" #r "],%[at]), %%zmm" #a1 "\n\t"
#define EIGHT_FROM_FLOAT(rows)                                                                     \
    "add %[group], %[at]\n\t" rows(EIGHT_FLOAT) "sub %[group], %[at]\n\t"
#define EIGHT_FROM_ZERO(rows) rows(EIGHT_ZERO_SLOT)
#define EIGHT_FROM_LESS(rows) rows(EIGHT_LESS_SLOT)

/* Weights of two quads, and their dots: step `eight_i` of four. */
#define EIGHT_ASK_FOR(o) "prefetcht0 " o "(%[a])\n\tprefetcht1 %c[far]+" o "(%[a])\n\t"
#define EIGHT_ASK_SIDES EIGHT_ASK_FOR("0") EIGHT_ASK_FOR("64")
#define EIGHT_LOAD(at, w) "vmovdqu64 " at "(%[w]), %%zmm" #w "\n\t"
#define EIGHT_KEEP(at, w) "vmovdqa64 %%zmm" #w ", " at "(%[b])\n\t"
#define EIGHT_AT(o) "256*eight_i+" #o
#define EIGHT_AT_U8(o) "512*eight_i+" #o
#define EIGHT_U4                                                                                   \
    EIGHT_LOAD(EIGHT_AT(0), 18) EIGHT_LOAD(EIGHT_AT(64), 19)                                       \
    "vpandd %%zmm26, %%zmm18, %%zmm16\n\tvpandd %%zmm26, %%zmm19, %%zmm17\n\t"                     \
    "vgf2p8affineqb $0, %%zmm27, %%zmm18, %%zmm18\n\t"                                             \
    "vgf2p8affineqb $0, %%zmm27, %%zmm19, %%zmm19\n\t"                                             \
    EIGHT_KEEP(EIGHT_AT(0), 16) EIGHT_KEEP(EIGHT_AT(64), 17)                                       \
    EIGHT_KEEP(EIGHT_AT(128), 18) EIGHT_KEEP(EIGHT_AT(192), 19)                                    \
    EIGHT_ASK_FOR("128*eight_i") EIGHT_ASK_FOR("128*eight_i+64")
#define EIGHT_U8                                                                                   \
    EIGHT_LOAD(EIGHT_AT_U8(0), 16) EIGHT_LOAD(EIGHT_AT_U8(64), 17)                                 \
    EIGHT_LOAD(EIGHT_AT_U8(256), 18) EIGHT_LOAD(EIGHT_AT_U8(320), 19)                              \
    EIGHT_ASK_FOR("256*eight_i") EIGHT_ASK_FOR("256*eight_i+64")                                   \
    EIGHT_ASK_FOR("256*eight_i+128") EIGHT_ASK_FOR("256*eight_i+192")
#define EIGHT_BYTES                                                                                \
    EIGHT_LOAD(EIGHT_AT(0), 16) EIGHT_LOAD(EIGHT_AT(64), 17)                                       \
    EIGHT_LOAD(EIGHT_AT(128), 18) EIGHT_LOAD(EIGHT_AT(192), 19)                                    \
    "prefetcht1 " EIGHT_AT(0) "(%[b])\n\t"
/* Of a group of Q5_K, whose bytes are made before; its halves are 11 lines with their sides. */
#define EIGHT_BYTES_ASK                                                                            \
    EIGHT_LOAD(EIGHT_AT(0), 16) EIGHT_LOAD(EIGHT_AT(64), 17)                                       \
    EIGHT_LOAD(EIGHT_AT(128), 18) EIGHT_LOAD(EIGHT_AT(192), 19)                                    \
    EIGHT_ASK_FOR("192*eight_i") EIGHT_ASK_FOR("192*eight_i+64") EIGHT_ASK_FOR("192*eight_i+128")
#define EIGHT_DOTS(at, w0, w1, r, a0, a1, b)                                                       \
    "vpbroadcastd 8*eight_i+" #at "(%[x" #r "],%[at]), %%zmm" #b "\n\t"                            \
    "vpdpbusd %%zmm" #b ", %%zmm" #w0 ", %%zmm" #a0 "\n\t"                                         \
    "vpdpbusd %%zmm" #b ", %%zmm" #w1 ", %%zmm" #a1 "\n\t"
#define EIGHT_FIRST(r, a0, a1, b, l0, l1, m0, m1) EIGHT_DOTS(20, 16, 17, r, a0, a1, b)
#define EIGHT_SECOND(r, a0, a1, b, l0, l1, m0, m1) EIGHT_DOTS(24, 18, 19, r, a0, a1, b)

/* Slots, then sums as floats. */
#define EIGHT_SLOT_LAST(r, a0, a1, b, l0, l1, m0, m1)                                              \
    EIGHT_IF_SLOT(r) "shl $7, %k[t]\n\tadd 264(%[w]), %[t]\n\t"                                    \
    "vpbroadcastd (%[x" #r "],%[at]), %%zmm" #b "\n\t" EIGHT_ZERO(r, m0) EIGHT_ZERO(r, m1)         \
    "vmovdqa64 (%[t]), %%zmm" #l0 "\n\tvmovdqa64 64(%[t]), %%zmm" #l1 "\n\t"                       \
    "vpdpbusd %%zmm" #b ", %%zmm" #l0 ", %%zmm" #m0 "\n\t"                                         \
    "vpdpbusd %%zmm" #b ", %%zmm" #l1 ", %%zmm" #m1 "\n\t"                                         \
    "vpdpwssd %%zmm28, %%zmm" #m0 ", %%zmm" #a0 "\n\t"                                             \
    "vpdpwssd %%zmm28, %%zmm" #m1 ", %%zmm" #a1 "\n\t2:\n\t"
#define EIGHT_TO_SHIFT(r, a0, a1, b, l0, l1, m0, m1)                                               \
    "vpbroadcastd 8(%[x" #r "],%[at]), %%zmm" #b "\n\t"                                            \
    "vpsllvd %%zmm" #b ", %%zmm" #a0 ", %%zmm" #a0 "\n\t"                                          \
    "vpsllvd %%zmm" #b ", %%zmm" #a1 ", %%zmm" #a1 "\n\t"                                          \
    "vcvtdq2ps %%zmm" #a0 ", %%zmm" #a0 "\n\tvcvtdq2ps %%zmm" #a1 ", %%zmm" #a1 "\n\t"
#define EIGHT_TO_FLOAT(r, a0, a1, b, l0, l1, m0, m1)                                               \
    "movl 8(%[x" #r "],%[at]), %k[t]\n\t"                                                          \
    "vsubps 128(%[w],%[t],4)%{1to16%}, %%zmm" #a0 ", %%zmm" #a0 "\n\t"                             \
    "vsubps 128(%[w],%[t],4)%{1to16%}, %%zmm" #a1 ", %%zmm" #a1 "\n\t"
#define EIGHT_TO_FLOAT_BIAS(r, a0, a1, b, l0, l1, m0, m1) /* the start itself */          \
    "vsubps 20(%[x" #r "],%[at])%{1to16%}, %%zmm" #a0 ", %%zmm" #a0 "\n\t"                         \
    "vsubps 20(%[x" #r "],%[at])%{1to16%}, %%zmm" #a1 ", %%zmm" #a1 "\n\t"
#define EIGHT_SLOTS(rows) rows(EIGHT_SLOT_LAST)
#define EIGHT_NO_SLOTS(rows)
#define EIGHT_SHIFTS(rows) rows(EIGHT_TO_SHIFT)
#define EIGHT_FLOATS(rows) rows(EIGHT_TO_FLOAT)
#define EIGHT_FLOATS_BIAS(rows)                                                                    \
    "add %[group], %[at]\n\t" rows(EIGHT_TO_FLOAT_BIAS) "sub %[group], %[at]\n\t"

#define EIGHT_SCALES                                                                               \
    "vmovups (%[w]), %%zmm16\n\tvmovups 64(%[w]), %%zmm17\n\t"                                     \
    "vmovups 128(%[w]), %%zmm18\n\tvmovups 192(%[w]), %%zmm19\n\t"
#define EIGHT_BIAS(r, b)                                                                           \
    "vbroadcastss 16(%[x" #r "],%[at]), %%zmm" #b "\n\t"                                           \
    "vfmadd231ps %%zmm" #b ", %%zmm18, %%zmm24\n\tvfmadd231ps %%zmm" #b ", %%zmm19, %%zmm25\n\t"
#define EIGHT_NO_BIAS(r, b)
#define EIGHT_OUT(r, a0, a1, b, bias)                                                              \
    "vmovups 256*" #r "(%[out]), %%zmm24\n\tvmovups 256*" #r "+64(%[out]), %%zmm25\n\t"            \
    bias(r, b)                                                                                     \
    "vfmadd231ps %%zmm16, %%zmm" #a0 ", %%zmm24\n\tvfmadd231ps %%zmm17, %%zmm" #a1 ", %%zmm25\n\t" \
    "vmovups %%zmm24, 256*" #r "(%[out])\n\tvmovups %%zmm25, 256*" #r "+64(%[out])\n\t"
#define EIGHT_OUT_BIAS(r, a0, a1, b, l0, l1, m0, m1) EIGHT_OUT(r, a0, a1, b, EIGHT_BIAS)
#define EIGHT_OUT_PLAIN(r, a0, a1, b, l0, l1, m0, m1) EIGHT_OUT(r, a0, a1, b, EIGHT_NO_BIAS)

typedef void eight_fn(const eight_side *s, int64_t n, size_t group, const uint8_t *const *x,
                      size_t at, float *out, size_t ask);

/* n sides; k of a group.  `from` is where they have their weights, `b_from` what %[b] starts at. */
#define EIGHT_TILE(name, rows, n_rows, begin, from, b_from, load, step, sides, slots, floats, to)  \
    static __attribute__((noinline)) void name(const eight_side *s, int64_t n, size_t group,       \
                                               const uint8_t *const *x, size_t at, float *out,     \
                                               size_t ask)                                         \
    {                                                                                              \
        const uint8_t *w, *b, *a, *row[EIGHT];                                                     \
        size_t t, runs = group / 32;                                                               \
        for (int r = 0; r < EIGHT; r++)                                                            \
            row[r] = x[r < (n_rows) ? r : 0];                                                      \
        __asm__ volatile(                                                                          \
            "movl $0x0f0f0f0f, %k[t]\n\tvpbroadcastd %k[t], %%zmm26\n\t"                           \
            "movabsq $0x1020408000000000, %[t]\n\tvpbroadcastq %[t], %%zmm27\n\t"                  \
            "movl $128, %k[t]\n\tvpbroadcastd %k[t], %%zmm28\n\t"                                  \
            ".p2align 6\n1:\n\tmovq %[s], %[t]\n\t"                                                \
            "movq " #from "(%[t]), %[w]\n\tmovq " #b_from "(%[t]), %[b]\n\t"                       \
            "movq 288(%[t]), %[a]\n\tadd %[ask], %[b]\n\t" begin(rows)                             \
            "movq %[runs], %[t]\n\t2:\n\t.set eight_i, 0\n\t.rept 4\n\t"                           \
            load rows(EIGHT_FIRST) rows(EIGHT_SECOND) ".set eight_i, eight_i+1\n\t.endr\n\t"       \
            "add $" #step ", %[w]\n\tadd $1024, %[b]\n\tadd $" #step "/2, %[a]\n\t"                \
            "add $32, %[at]\n\tdec %[t]\n\tjnz 2b\n\tsub %[group], %[at]\n\t" sides                \
            "movq %[s], %[w]\n\t" slots(rows) floats(rows) EIGHT_SCALES rows(to)                   \
            "add 272(%[w]), %[out]\n\tadd 280(%[w]), %[at]\n\t"                                    \
            "addq %[side], %[s]\n\tdecq %[n]\n\tjnz 1b\n\t"                                        \
            : [w] "=&r"(w), [s] "+m"(s), [at] "+r"(at), [out] "+r"(out), [n] "+m"(n),              \
              [t] "=&r"(t), [b] "=&r"(b), [a] "=&r"(a)                                             \
            : [x0] "r"(row[0]), [x1] "r"(row[1]), [x2] "r"(row[2]), [x3] "r"(row[3]),              \
              [x4] "r"(row[4]), [x5] "r"(row[5]), [x6] "r"(row[6]), [x7] "r"(row[7]),              \
              [runs] "m"(runs), [group] "m"(group), [ask] "m"(ask),                                \
              [side] "i"(sizeof(eight_side)), [far] "i"(EIGHT_FAR)                                 \
            : CLOBBERS);                                                                           \
    }
/* clang-format on */
/* from, b_from, load, step and sides. */
#define EIGHT_OF_U4 256, 264, EIGHT_U4, 1024, EIGHT_ASK_SIDES
#define EIGHT_OF_U8 256, 264, EIGHT_U8, 2048, EIGHT_ASK_SIDES
#define EIGHT_OF_BYTES 264, 256, EIGHT_BYTES, 1024, ""
#define EIGHT_OF_Q5 264, 256, EIGHT_BYTES_ASK, 1024, ""
#define EIGHT_TILES(name, ...)                                                                     \
    EIGHT_TILE(name##_4, EIGHT4, 4, __VA_ARGS__)                                                   \
    EIGHT_TILE(name##_5, EIGHT5, 5, __VA_ARGS__)                                                   \
    EIGHT_TILE(name##_6, EIGHT6, 6, __VA_ARGS__)                                                   \
    EIGHT_TILE(name##_7, EIGHT7, 7, __VA_ARGS__)                                                   \
    EIGHT_TILE(name##_8, EIGHT8, 8, __VA_ARGS__)
EIGHT_TILES(eight_u4, EIGHT_FROM_FLOAT, EIGHT_OF_U4, EIGHT_SLOTS, EIGHT_FLOATS, EIGHT_OUT_PLAIN)
EIGHT_TILES(eight_u4_bias, EIGHT_FROM_FLOAT, EIGHT_OF_U4, EIGHT_SLOTS, EIGHT_FLOATS_BIAS,
            EIGHT_OUT_BIAS)
EIGHT_TILES(eight_bytes, EIGHT_FROM_FLOAT, EIGHT_OF_BYTES, EIGHT_SLOTS, EIGHT_FLOATS,
            EIGHT_OUT_PLAIN)
EIGHT_TILES(eight_bytes_bias, EIGHT_FROM_FLOAT, EIGHT_OF_BYTES, EIGHT_SLOTS, EIGHT_FLOATS_BIAS,
            EIGHT_OUT_BIAS)
EIGHT_TILES(eight_q5_bias, EIGHT_FROM_FLOAT, EIGHT_OF_Q5, EIGHT_SLOTS, EIGHT_FLOATS_BIAS,
            EIGHT_OUT_BIAS)
EIGHT_TILES(eight_bytes_even, EIGHT_FROM_FLOAT, EIGHT_OF_BYTES, EIGHT_NO_SLOTS, EIGHT_FLOATS,
            EIGHT_OUT_PLAIN)
EIGHT_TILES(eight_bytes_even_bias, EIGHT_FROM_FLOAT, EIGHT_OF_BYTES, EIGHT_NO_SLOTS,
            EIGHT_FLOATS_BIAS, EIGHT_OUT_BIAS)
EIGHT_TILES(eight_u8, EIGHT_FROM_LESS, EIGHT_OF_U8, EIGHT_NO_SLOTS, EIGHT_SHIFTS, EIGHT_OUT_PLAIN)
EIGHT_TILES(eight_u8_bias, EIGHT_FROM_ZERO, EIGHT_OF_U8, EIGHT_NO_SLOTS, EIGHT_SHIFTS,
            EIGHT_OUT_BIAS)
EIGHT_TILES(eight_u8_even, EIGHT_FROM_FLOAT, EIGHT_OF_U8, EIGHT_NO_SLOTS, EIGHT_FLOATS,
            EIGHT_OUT_PLAIN)
EIGHT_TILES(eight_u8_even_bias, EIGHT_FROM_FLOAT, EIGHT_OF_U8, EIGHT_NO_SLOTS, EIGHT_FLOATS_BIAS,
            EIGHT_OUT_BIAS)

/* `unpacked`: by an earlier tile. */
static eight_fn *eight_of(const mr_layout *l, bool unpacked, bool even, int rows)
{
#define SHAPES(name)                                                                               \
    {                                                                                              \
        {name##_4, name##_5, name##_6, name##_7, name##_8},                                        \
        {                                                                                          \
            name##_bias_4, name##_bias_5, name##_bias_6, name##_bias_7, name##_bias_8              \
        }                                                                                          \
    }
    static eight_fn *const fns[][2][5] = {SHAPES(eight_u8), SHAPES(eight_u8_even), SHAPES(eight_u4),
                                          SHAPES(eight_bytes), SHAPES(eight_bytes_even)};
#undef SHAPES
    static eight_fn *const q5[5] = {eight_q5_bias_4, eight_q5_bias_5, eight_q5_bias_6,
                                    eight_q5_bias_7, eight_q5_bias_8};
    if (mr_layout_q5_k(l) && !unpacked)
        return q5[rows - EIGHT_FEWEST];
    const int kind = l->kind == MR_PACK_U8 ? even : !unpacked ? 2 : 3 + even;
    return fns[kind][l->bias][rows - EIGHT_FEWEST];
}

/* Scales of a group, halves of whose outputs are two sides; `after` is where its unit has them. */
LANES_INLINE void eight_scales(const uint8_t *after, mr_dtype type, bool bias, eight_side sides[2])
{
    const size_t size = type == MR_F32 ? 4 : 2;
    LANES_UNROLL
    for (int v = 0; v < 4; v++) {
        const uint8_t *from = after + 16 * size * (size_t)v;
        v16f_store(sides[v / 2].s + v % 2 * 16, load_numbers(from, type));
        if (bias)
            v16f_store(sides[v / 2].b + v % 2 * 16, load_numbers(from + 64 * size, type));
    }
}

/* Each side of group g asks for its share of a unit. */
static inline void eight_asks(const mr_column *c, const uint8_t *unit, int g, int per_unit,
                              eight_side sides[2])
{
    const size_t share = c->unit / (size_t)(2 * per_unit);
    sides[0].ask = unit + EIGHT_NEAR + 2 * (size_t)g * share;
    sides[1].ask = sides[0].ask + share;
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
            eight_asks(c, unit, g, per_unit, sides[0]);
            eight_scales(unit + lines, type, bias, sides[0]);
        }
    }
}

static inline void code_scales(const uint8_t *unit, int j, int v, v16f *s, v16f *b);

static void eight_bytes_of(const mr_column *c, const uint8_t *unit, int g, eight_side sides[2]);

/* The same of Q4_K, whose lines are those of U4, and of Q5_K, whose bytes are made here for all tiles. */
static void eight_codes(const mr_column *c, const uint8_t *unit, int n, int per_unit,
                        eight_side (*sides)[2])
{
    const bool q5_k = mr_layout_q5_k(c->layout);
    for (int i = 0; i < n; i++, unit += c->unit)
        for (int g = 0; g < per_unit; g++, sides++) {
            sides[0][0].w = unit + c->unit - c->lines + c->lines / (size_t)per_unit * (size_t)g;
            sides[0][1].w = sides[0][0].w + 128;
            eight_asks(c, unit, g, per_unit, sides[0]);
            if (q5_k)
                eight_bytes_of(c, unit, g, sides[0]);
            for (int v = 0; v < 4; v++) {
                v16f s, b;
                code_scales(unit, g, v, &s, &b);
                v16f_store(sides[0][v / 2].s + v % 2 * 16, s);
                v16f_store(sides[0][v / 2].b + v % 2 * 16, b);
            }
        }
}

static void eight_block(const mr_column *c, const uint8_t *unit, int n, int per_unit,
                        eight_side (*sides)[2])
{
    const mr_dtype type = c->layout->scale_dtype;
    if (c->layout->kind == MR_PACK_CODES)
        eight_codes(c, unit, n, per_unit, sides);
    else if (type == MR_BF16 && c->layout->bias)
        eight_sides(c, unit, n, per_unit, MR_BF16, true, sides);
    else if (type == MR_F16 && c->layout->bias)
        eight_sides(c, unit, n, per_unit, MR_F16, true, sides);
    else if (type == MR_F16)
        eight_sides(c, unit, n, per_unit, MR_F16, false, sides);
    else
        eight_sides(c, unit, n, per_unit, type, c->layout->bias, sides);
}

static int few_rows_i8(const mr_column *c, int64_t units, const mr_qform *f,
                       const uint8_t *const *x, int rows, int slots, float *out)
{
    eight_side sides[EIGHT_GROUPS][2];
    _Alignas(64) uint8_t bytes[EIGHT_MOST_K * MR_TILE_OUT];
    const mr_layout *l = c->layout;
    const bool u4 = l->kind == MR_PACK_U4 || mr_layout_q4_k(l), q5_k = mr_layout_q5_k(l);
    if ((!u4 && !q5_k && l->kind != MR_PACK_U8) || c->nv != 4 || rows < EIGHT_LEAST ||
        rows > EIGHT_MOST || (!l->bias && l->zero != (u4 ? 8 : 128)))
        return 0;
    /* Tiles of even rows, where there are enough: the others may take some of them. */
    slots = slots < EIGHT_FEWEST ? EIGHT_FEWEST : slots;
    slots = rows - slots < EIGHT_FEWEST ? rows : slots;
    const bool shared = q5_k || slots < rows || rows > EIGHT;
    const int per_unit = l->k_unit / f->group,
              block = l->k_unit < EIGHT_K ? EIGHT_K / l->k_unit : 1;
    for (int i = 0; i < 2 * EIGHT_GROUPS; i++) {
        eight_side *side = &sides[i / 2][i % 2];
        for (int e = 0; e < STEPS && !l->bias; e++)
            side->b[e] = MR_QROW_FLOAT * (float)(1 << e);
        side->bytes =
            bytes + (shared ? i * f->group * 32 % (int)sizeof bytes : i % 2 * f->group * 32);
        side->out = i % 2 ? -128 : 128;
        side->at = i % 2 ? (int64_t)f->step : 0;
    }
    for (int64_t u = 0; u < units; u += block) {
        const int n = (int)(units - u < block ? units - u : block);
        const size_t at = (size_t)(u * per_unit) * f->step;
        eight_block(c, c->data + (size_t)u * c->unit, n, per_unit, sides);
        size_t ask = 0; /* of tiles after the first: a line of two each, of blocks to come */
        for (int r = 0, now; r < rows; r += now) {
            const bool even = r >= slots;
            const int left = (even ? rows : slots) - r, tiles = (left + EIGHT - 1) / EIGHT;
            now = (left + tiles - 1) / tiles;
            eight_of(l, r > 0, even, now)(sides[0], 2 * n * per_unit, (size_t)f->group, x + r, at,
                                          out + r * MR_TILE_OUT, ask);
            ask = ask ? ask ^ 64 : EIGHT_NEAR + EIGHT_FAR + (size_t)n * c->unit;
        }
    }
    return rows;
}
