/* The int8 tile for many rows on AVX-512: up to 6 rows x 64 outputs, in assembly.
 *
 * Why:    where two ports do all 512-bit arithmetic, everything beside the dots costs.  24 sums
 *         hide the dots' latency (12 do not quite) and make 10 loads serve 24 dots; the outputs
 *         are in memory, since loads and stores are free; 2^e is in the scales.  What is left per
 *         group, 16 outputs and row: the dots, a conversion, an FMA, one more with a bias, and for
 *         a slot, which a quarter to a half of the groups have, a dot and a product by 128 (of bytes
 *         a shift and an addition).  Loads and stores are free only if spread: the end of a group and the
 *         beginning of the next, which are most of them, go row by row with the dots of a quad.
 * How:    a block of k: bytes of the weights (U8 as packed, U4 unpacked) and per group the scales
 *         times 2^0 .. 2^6, all within the L1 cache; then all rows over it, asking meanwhile for the next
 *         block, line by line between the dots: at once the requests would wait for each other.
 * Use:    many_rows has tile_i8's parameters and returns how many rows it has done: all or none.
 * Bits:   the order of docs/numerics.md: fma(b, A, y), fma(s, I << e, y).  s * 2^e is exact and
 *         takes the place of the shift: scaling commutes with the rounding of I to f32.
 */
#include "backend/cpu/matmul_core.h"
#include "backend/cpu/matmul_numbers_lanes.h"

enum { MANY_ROWS = 5, BLOCK_K = 256, BLOCK_GROUPS = BLOCK_K / 32, STEPS = 7 };

/* Of one group: scales by e, biases. */
typedef struct tile_scales {
    float s[STEPS][MR_TILE_OUT], b[MR_TILE_OUT];
} tile_scales;

static inline void widen_scales(const mr_column *c, const uint8_t *after, tile_scales *to)
{
    const mr_dtype type = c->layout->scale_dtype;
    const size_t size = type == MR_F32 ? 4 : 2;
    for (int i = 0; i < 4; i++) {
        v16f s = load_numbers(after + 16 * size * (size_t)i, type);
        LANES_UNROLL for (int e = 0; e < STEPS; e++)
            v16f_store(to->s[e] + 16 * i, v16f_mul(s, v16f_set1((float)(1 << e))));
        if (c->layout->bias)
            v16f_store(to->b + 16 * i, load_numbers(after + 16 * size * (size_t)(i + 4), type));
    }
}

/* Nibbles as bytes, in the order of U8. */
static inline void widen_lines(const uint8_t *from, size_t bytes, uint8_t *to)
{
    v16i low = v16i_set1(0x0f0f0f0f);
    for (size_t i = 0; i < bytes; i += 256, to += 512)
        LANES_UNROLL for (int v = 0; v < 4; v++)
        {
            v16i line = v16i_load((const int32_t *)(const void *)(from + i + 64 * v));
            int32_t *pair = (int32_t *)(void *)to + 16 * v;
            v16i_store(pair, v16i_and(line, low));
            v16i_store(pair + 64, v16i_and(v16i_shr(line, 4), low));
        }
}

/* zmm 0..23 sums (row r: 4r..4r+3), 24..27 weights, 28 29 of rows or outputs in turn, 30 A or a slot's
 * high parts, 31 128.
 * Operands: %[x0]..%[x5] rows, %[at] of the group's record in them (r 0, p 4, e 8, start 12, a 16,
 * values 20), %[w] weights (256 bytes a quad), %[s] scales; where a group ends %[at] and %[s] are the next one's.
 * ROWSn(X, q) is X(q, row, its four sums, 28 or 29) for each row; only DOTS wants a q. */
/* clang-format off */
#define ROWS1(X, q) X(q, 0, 0, 1, 2, 3, 28)
#define ROWS2(X, q) ROWS1(X, q) X(q, 1, 4, 5, 6, 7, 29)
#define ROWS4(X, q) ROWS2(X, q) X(q, 2, 8, 9, 10, 11, 28) X(q, 3, 12, 13, 14, 15, 29)
#define ROWS6(X, q) ROWS4(X, q) X(q, 4, 16, 17, 18, 19, 28) X(q, 5, 20, 21, 22, 23, 29)

#define COPY(a, b) "vmovdqa64 %%zmm" #a ", %%zmm" #b "\n\t"
#define START(q, r, a0, a1, a2, a3, b)                                                             \
    "vpbroadcastd 12(%[x" #r "],%[at]), %%zmm" #a0 "\n\t" COPY(a0, a1) COPY(a0, a2) COPY(a0, a3)
/* Row r's slot, if it has one, which no branch can foresee: each stands between dots of its own, so that
 * there is work at hand while a wrong guess is mended. */
#define SLOT(add, r, a0, a1, a2, a3)                                                               \
    ".if %c[rows] > " #r "\n\tmovl (%[x" #r "],%[at]), %k[t]\n\ttest %k[t], %k[t]\n\tjz 2f\n\t"    \
    "movl 4(%[x" #r "],%[at]), %k[t]\n\tshl $8, %[t]\n\t"                                          \
    "vpbroadcastd (%[x" #r "],%[at]), %%zmm30\n\t"                                                 \
    SLOT_DOT(0, 24, 28) add(28, a0) SLOT_DOT(1, 25, 29) add(29, a1)                                \
    SLOT_DOT(2, 26, 28) add(28, a2) SLOT_DOT(3, 27, 29) add(29, a3) "2:\n\t.endif\n\t"
#define SLOT_DOT(v, w, a)                                                                          \
    "vmovdqu64 64*" #v "(%[w],%[t]), %%zmm" #w "\n\t"                                              \
    "vpxord %%zmm" #a ", %%zmm" #a ", %%zmm" #a "\n\t"                                             \
    "vpdpbusd %%zmm30, %%zmm" #w ", %%zmm" #a "\n\t"
/* Sums of codes up to 63 are numbers of 16 bits. */
#define ADD_CODES(b, a) "vpdpwssd %%zmm31, %%zmm" #b ", %%zmm" #a "\n\t"
#define ADD_BYTES(b, a)                                                                            \
    "vpslld $7, %%zmm" #b ", %%zmm" #b "\n\tvpaddd %%zmm" #b ", %%zmm" #a ", %%zmm" #a "\n\t"
#define SLOT0(add) SLOT(add, 0, 0, 1, 2, 3)
#define SLOT1(add) SLOT(add, 1, 4, 5, 6, 7)
#define SLOT2(add) SLOT(add, 2, 8, 9, 10, 11)
#define SLOT3(add) SLOT(add, 3, 12, 13, 14, 15)
#define SLOT4(add) SLOT(add, 4, 16, 17, 18, 19)
#define SLOT5(add) SLOT(add, 5, 20, 21, 22, 23)

#define DOT(b, w, a) "vpdpbusd %%zmm" #b ", %%zmm" #w ", %%zmm" #a "\n\t"
#define DOTS(q, r, a0, a1, a2, a3, b)                                                              \
    "vpbroadcastd 20+4*" #q "(%[x" #r "],%[at]), %%zmm" #b "\n\t"                                  \
    DOT(b, 24, a0) DOT(b, 25, a1) DOT(b, 26, a2) DOT(b, 27, a3)
#define PART(rows, what, q)                                                                        \
    "prefetcht1 (%[ask])\n\tprefetcht1 64(%[ask])\n\tadd %[ask_by], %[ask]\n\t"                    \
    "vmovdqu64 256*" #q "(%[w]), %%zmm24\n\tvmovdqu64 256*" #q "+64(%[w]), %%zmm25\n\t"            \
    "vmovdqu64 256*" #q "+128(%[w]), %%zmm26\n\tvmovdqu64 256*" #q "+192(%[w]), %%zmm27\n\t"       \
    rows(what, q)
#define QUAD(rows, q) PART(rows, DOTS, q)
/* All quads but the first. */
#define QUADS8(rows, add)                                                                          \
    SLOT0(add) QUAD(rows, 1) SLOT1(add) QUAD(rows, 2) SLOT2(add) QUAD(rows, 3) SLOT3(add)          \
    QUAD(rows, 4) SLOT4(add) QUAD(rows, 5) SLOT5(add) QUAD(rows, 6) QUAD(rows, 7)
#define QUADS16(rows, add)                                                                         \
    QUAD(rows, 1) SLOT0(add) QUAD(rows, 2) QUAD(rows, 3) SLOT1(add) QUAD(rows, 4) QUAD(rows, 5)    \
    SLOT2(add) QUAD(rows, 6) QUAD(rows, 7) SLOT3(add) QUAD(rows, 8) QUAD(rows, 9) SLOT4(add)       \
    QUAD(rows, 10) QUAD(rows, 11) SLOT5(add) QUAD(rows, 12) QUAD(rows, 13) QUAD(rows, 14)          \
    QUAD(rows, 15)

/* Of the group before: sum = s * (float)sum + y, and with a bias first y = b * A + y. */
#define OUT_PLAIN(r, v, a, y)                                                                      \
    "vcvtdq2ps %%zmm" #a ", %%zmm" #a "\n\tvmovups 64*" #v "-2048(%[s],%[t]), %%zmm" #y "\n\t"     \
    "vfmadd213ps 256*" #r "+64*" #v "(%[out]), %%zmm" #y ", %%zmm" #a "\n\t"                       \
    "vmovups %%zmm" #a ", 256*" #r "+64*" #v "(%[out])\n\t"
#define OUT_BIAS(r, v, a, y)                                                                       \
    "vcvtdq2ps %%zmm" #a ", %%zmm" #a "\n\tvmovups 7*256+64*" #v "-2048(%[s]), %%zmm" #y "\n\t"    \
    "vfmadd213ps 256*" #r "+64*" #v "(%[out]), %%zmm30, %%zmm" #y "\n\t"                           \
    "vfmadd132ps 64*" #v "-2048(%[s],%[t]), %%zmm" #y ", %%zmm" #a "\n\t"                          \
    "vmovups %%zmm" #a ", 256*" #r "+64*" #v "(%[out])\n\t"
#define A_PLAIN(r)
#define A_BIAS(r) "vbroadcastss 16-%c[step](%[x" #r "],%[at]), %%zmm30\n\t"
/* The four bytes from 7 on are 256 * e; a shift would wait for the dots' ports. */
#define OUTS(kind, r, a0, a1, a2, a3)                                                              \
    "movl 7-%c[step](%[x" #r "],%[at]), %k[t]\n\t" A_##kind(r)                                     \
    OUT_##kind(r, 0, a0, 28) OUT_##kind(r, 1, a1, 29)                                              \
    OUT_##kind(r, 2, a2, 28) OUT_##kind(r, 3, a3, 29)
#define LAST_PLAIN(q, r, a0, a1, a2, a3, b) OUTS(PLAIN, r, a0, a1, a2, a3)
#define LAST_BIAS(q, r, a0, a1, a2, a3, b) OUTS(BIAS, r, a0, a1, a2, a3)
/* Row by row the end of a group, and the beginning and first quad of the next. */
#define TURN_PLAIN(q, r, a0, a1, a2, a3, b)                                                        \
    OUTS(PLAIN, r, a0, a1, a2, a3) START(q, r, a0, a1, a2, a3, b) DOTS(q, r, a0, a1, a2, a3, b)
#define TURN_BIAS(q, r, a0, a1, a2, a3, b)                                                         \
    OUTS(BIAS, r, a0, a1, a2, a3) START(q, r, a0, a1, a2, a3, b) DOTS(q, r, a0, a1, a2, a3, b)
#define FIRST(q, r, a0, a1, a2, a3, b)                                                             \
    START(q, r, a0, a1, a2, a3, b) DOTS(q, r, a0, a1, a2, a3, b)

#define CLOBBERS                                                                                   \
    "cc", "memory", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8",        \
        "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15", "xmm16", "xmm17", "xmm18",   \
        "xmm19", "xmm20", "xmm21", "xmm22", "xmm23", "xmm24", "xmm25", "xmm26", "xmm27", "xmm28",  \
        "xmm29", "xmm30", "xmm31"

typedef void tile_fn(const uint8_t *w, size_t group, const tile_scales *s, int64_t n,
                     const uint8_t *const *x, size_t at, float *out, const uint8_t *ask,
                     size_t ask_by);

/* n groups of `quads`, whose weights lie `group` bytes apart. */
#define TILE(name, shape, n_rows, quads, add, kind)                                                \
    static __attribute__((noinline)) void name(                                                    \
        const uint8_t *w, size_t group, const tile_scales *s, int64_t n, const uint8_t *const *x,  \
        size_t at, float *out, const uint8_t *ask, size_t ask_by)                                  \
    {                                                                                              \
        static const int32_t by = 128;                                                             \
        size_t t;                                                                                  \
        const uint8_t *row[6];                                                                     \
        for (int r = 0; r < 6; r++)                                                                \
            row[r] = x[r < (n_rows) ? r : 0];                                                      \
        __asm__ volatile(                                                                          \
            "vpbroadcastd %[by], %%zmm31\n\t" PART(shape, FIRST, 0) ".p2align 6\n1:\n\t"           \
            QUADS##quads(shape, add) "add %[step], %[at]\n\tadd %[group], %[w]\n\t"                \
            "add $2048, %[s]\n\tdecq %[n]\n\tjz 3f\n\t"                                            \
            PART(shape, TURN_##kind, 0) "jmp 1b\n3:\n\t" shape(LAST_##kind, 0)                     \
            : [w] "+r"(w), [s] "+r"(s), [at] "+r"(at), [n] "+m"(n), [t] "=&r"(t), [ask] "+r"(ask)  \
            : [x0] "r"(row[0]), [x1] "r"(row[1]), [x2] "r"(row[2]), [x3] "r"(row[3]),              \
              [x4] "r"(row[4]), [x5] "r"(row[5]), [group] "m"(group), [out] "r"(out),              \
              [ask_by] "r"(ask_by), [by] "m"(by), [rows] "i"(n_rows), [step] "i"(4 * (quads) + 24) \
            : CLOBBERS);                                                                           \
    }
/* clang-format on */
#define TILES(name, quads, add, kind)                                                              \
    TILE(name##_1, ROWS1, 1, quads, add, kind)                                                     \
    TILE(name##_2, ROWS2, 2, quads, add, kind)                                                     \
    TILE(name##_4, ROWS4, 4, quads, add, kind)                                                     \
    TILE(name##_6, ROWS6, 6, quads, add, kind)
TILES(codes_32, 8, ADD_CODES, PLAIN)
TILES(codes_64, 16, ADD_CODES, PLAIN)
TILES(codes_bias_32, 8, ADD_CODES, BIAS)
TILES(codes_bias_64, 16, ADD_CODES, BIAS)
TILES(bytes_32, 8, ADD_BYTES, PLAIN)
TILES(bytes_64, 16, ADD_BYTES, PLAIN)
TILES(bytes_bias_32, 8, ADD_BYTES, BIAS)
TILES(bytes_bias_64, 16, ADD_BYTES, BIAS)

static tile_fn *tile_of(const mr_layout *l, const mr_qform *f, int rows)
{
#define SHAPES(name)                                                                               \
    {                                                                                              \
        name##_1, name##_2, name##_4, name##_6                                                     \
    }
    static tile_fn *const fns[2][2][2][4] = {
        {{SHAPES(codes_32), SHAPES(codes_64)}, {SHAPES(codes_bias_32), SHAPES(codes_bias_64)}},
        {{SHAPES(bytes_32), SHAPES(bytes_64)}, {SHAPES(bytes_bias_32), SHAPES(bytes_bias_64)}}};
#undef SHAPES
    return fns[l->kind == MR_PACK_U8][l->bias][f->group == 64][rows / 2];
}

static int many_rows(const mr_column *c, int64_t units, const mr_qform *f, const uint8_t *const *x,
                     int rows, float *out)
{
    tile_scales scales[BLOCK_GROUPS];
    uint8_t bytes[BLOCK_K * MR_TILE_OUT] __attribute__((aligned(64)));
    const mr_layout *l = c->layout;
    const mr_pack_kind kind = l->kind;
    const int per_unit = l->k_unit / f->group, block = BLOCK_K / l->k_unit;
    const size_t group = (size_t)f->group * MR_TILE_OUT;
    const bool as_packed = kind != MR_PACK_U4 && per_unit == 1;
    if ((kind != MR_PACK_U4 && kind != MR_PACK_U8 && kind != MR_PACK_U4_BYTES) || c->nv != 4 ||
        rows < MANY_ROWS)
        return 0;
    for (int64_t u = 0; u < units; u += block) {
        int n = (int)(units - u < block ? units - u : block);
        const uint8_t *unit = c->data + (size_t)u * c->unit;
        size_t at = (size_t)(u * per_unit) * f->step;
        for (int i = 0; i < n; i++) {
            const uint8_t *from = unit + (size_t)i * c->unit;
            uint8_t *to = bytes + (size_t)(i * per_unit) * group;
            for (int g = 0; g < per_unit; g++)
                widen_scales(c, from + c->lines, &scales[i * per_unit + g]);
            if (kind == MR_PACK_U4)
                widen_lines(from, c->lines, to);
            else if (!as_packed)
                memcpy(to, from, c->lines);
        }
        /* the next block, or what lies past the end: no matter */
        const size_t here =
            c->ask_bytes ? c->ask_bytes * (size_t)n / (size_t)units : (size_t)n * c->unit;
        const uint8_t *next =
            c->ask_bytes ? c->ask + c->ask_bytes * (size_t)u / (size_t)units : unit + here;
        const size_t share = here / (size_t)rows + 1;
        const size_t quads = (size_t)n * (size_t)l->k_unit / 4;
        for (int r = 0, now; r < rows; r += now) {
            const int left = rows - r;
            now = left >= 6 && left != 8 ? 6 : left >= 4 ? 4 : left >= 2 ? 2 : 1;
            tile_of(l, f, now)(as_packed ? unit : bytes, as_packed ? c->unit : group, scales,
                               n * per_unit, x + r, at, out + r * MR_TILE_OUT,
                               next + (size_t)r * share, (size_t)now * share / quads + 1);
        }
    }
    return rows;
}
