/* The int8 tile for many rows and two runs per group on AVX-512: up to 3 rows x 64 outputs.
 *
 * Why:    the sums of both runs are needed apart, so 24 sums are 3 rows.  Done per group, 16 outputs
 *         and row: 8 dots, two conversions, a product and two FMAs (mins: three more); for a slot,
 *         if there is one, a dot, a conversion and an FMA.  E4M3 scales: 9 dots, and a sum for each run: shift, conversion, FMA.
 * How:    a unit of the panel: its bytes, and its small integers as floats, all within the L1
 *         cache; then all rows over it.
 * Use:    subs_many_rows has tile_i8's parameters and returns how many rows it has done.
 * Bits:   those of subs_group in matmul_i8_lanes.h.
 */
#include "backend/cpu/matmul_core.h"

enum { SUBS_GROUPS = 8, SUBS_STEPS = 7 };

/* Of one group: both sub-scales, the same times 128 for the slot, mins.  E4M3: the scales alone. */
typedef struct run_scales {
    float s[2][MR_TILE_OUT], slot[2][MR_TILE_OUT], m[2][MR_TILE_OUT];
} run_scales;

/* Of a unit: d and the negated min's scale, times 2^e. */
typedef struct run_steps {
    float d[SUBS_STEPS][MR_TILE_OUT], less[SUBS_STEPS][MR_TILE_OUT];
} run_steps;

/* zmm 0..11 first sums (row r: 4r..4r+3), 12..23 second sums, 24..31 weights, scales, outputs, and
 * what belongs to a row.
 * Operands: %[x0]..%[x2] rows, %[at] of the group's record in them (r 0, p 4, e 8, start 12,
 * start_hi 16, values 20, the slot's start 52), %[w] weights (256 bytes a quad), %[s] run_scales,
 * %[d] run_steps.
 * SUBSn(X, q) is X(q, row, its first sums, its second sums) for each row; q is a quad or a block.
 */
/* clang-format off */
#define SUBS1(X, q) X(q, 0, 0, 1, 2, 3, 12, 13, 14, 15)
#define SUBS2(X, q) SUBS1(X, q) X(q, 1, 4, 5, 6, 7, 16, 17, 18, 19)
#define SUBS3(X, q) SUBS2(X, q) X(q, 2, 8, 9, 10, 11, 20, 21, 22, 23)

#define SUBS_SET(from, r, a) "vpbroadcastd " #from "(%[x" #r "],%[at]), %%zmm" #a "\n\t"
#define SUBS_COPY(a, b) "vmovdqa64 %%zmm" #a ", %%zmm" #b "\n\t"
#define SUBS_ZERO(a) "vpxord %%zmm" #a ", %%zmm" #a ", %%zmm" #a "\n\t"
#define SUBS_FROM_START(q, r, a0, a1, a2, a3, b0, b1, b2, b3)                                      \
    SUBS_SET(12, r, a0) SUBS_COPY(a0, a1) SUBS_COPY(a0, a2) SUBS_COPY(a0, a3)                      \
    SUBS_SET(16, r, b0) SUBS_COPY(b0, b1) SUBS_COPY(b0, b2) SUBS_COPY(b0, b3)
#define SUBS_FROM_ZERO(q, r, a0, a1, a2, a3, b0, b1, b2, b3)                                       \
    SUBS_ZERO(a0) SUBS_ZERO(a1) SUBS_ZERO(a2) SUBS_ZERO(a3)                                        \
    SUBS_ZERO(b0) SUBS_ZERO(b1) SUBS_ZERO(b2) SUBS_ZERO(b3)

#define SUBS_DOT(x, w, a) "vpdpbusd %%zmm" #x ", %%zmm" #w ", %%zmm" #a "\n\t"
#define SUBS_LOAD(q, v, w) "vmovdqu64 256*(" #q ")+64*" #v "(%[w]), %%zmm" #w "\n\t"
#define SUBS_LOADS(q)                                                                              \
    SUBS_LOAD(q, 0, 24) SUBS_LOAD(q, 1, 25) SUBS_LOAD(q, 2, 26) SUBS_LOAD(q, 3, 27)
#define SUBS_FIRST(q, r, a0, a1, a2, a3, b0, b1, b2, b3)                                           \
    "vpbroadcastd 20+4*(" #q ")(%[x" #r "],%[at]), %%zmm28\n\t"                                    \
    SUBS_DOT(28, 24, a0) SUBS_DOT(28, 25, a1) SUBS_DOT(28, 26, a2) SUBS_DOT(28, 27, a3)
#define SUBS_SECOND(q, r, a0, a1, a2, a3, b0, b1, b2, b3)                                          \
    "vpbroadcastd 20+4*(" #q ")(%[x" #r "],%[at]), %%zmm29\n\t"                                    \
    SUBS_DOT(29, 24, b0) SUBS_DOT(29, 25, b1) SUBS_DOT(29, 26, b2) SUBS_DOT(29, 27, b3)
#define SUBS_QUAD(rows, q) SUBS_LOADS(q) rows(SUBS_FIRST, q) SUBS_LOADS(q+4) rows(SUBS_SECOND, q+4)
#define SUBS_QUADS(rows) SUBS_QUAD(rows, 0) SUBS_QUAD(rows, 1) SUBS_QUAD(rows, 2) SUBS_QUAD(rows, 3)

/* first = sub0 * first + sub1 * second; the subs are in 24..31. */
#define SUBS_FLOAT(a) "vcvtdq2ps %%zmm" #a ", %%zmm" #a "\n\t"
#define SUBS_SUBS                                                                                  \
    "vmovups (%[s]), %%zmm24\n\tvmovups 64(%[s]), %%zmm25\n\tvmovups 128(%[s]), %%zmm26\n\t"       \
    "vmovups 192(%[s]), %%zmm27\n\tvmovups 256(%[s]), %%zmm28\n\tvmovups 320(%[s]), %%zmm29\n\t"   \
    "vmovups 384(%[s]), %%zmm30\n\tvmovups 448(%[s]), %%zmm31\n\t"
#define SUBS_MEET(s0, s1, a, b)                                                                    \
    SUBS_FLOAT(a) SUBS_FLOAT(b) "vmulps %%zmm" #s1 ", %%zmm" #b ", %%zmm" #b "\n\t"                \
    "vfmadd132ps %%zmm" #s0 ", %%zmm" #b ", %%zmm" #a "\n\t"
#define SUBS_BOTH(q, r, a0, a1, a2, a3, b0, b1, b2, b3)                                            \
    SUBS_SUBS SUBS_MEET(24, 28, a0, b0) SUBS_MEET(25, 29, a1, b1) SUBS_MEET(26, 30, a2, b2)        \
    SUBS_MEET(27, 31, a3, b3)
/* first += 128 * sub * slot, if there is one; %[u] is the sub's place. */
#define SUBS_SLOT(v, w, b)                                                                         \
    "vmovdqu64 64*" #v "(%[w],%[t]), %%zmm" #w "\n\t" SUBS_DOT(28, w, b)
#define SUBS_ADD(v, a, b)                                                                          \
    SUBS_FLOAT(b) "vfmadd231ps 512+64*" #v "(%[s],%[u]), %%zmm" #b ", %%zmm" #a "\n\t"
#define SUBS_PLACE(r)                                                                              \
    "movl 4(%[x" #r "],%[at]), %k[t]\n\tmov %k[t], %k[u]\n\tshl $8, %[t]\n\tshr $2, %[u]\n\t"      \
    "shl $8, %[u]\n\t"
#define SUBS_IF_SLOT(r)                                                                            \
    "movl (%[x" #r "],%[at]), %k[t]\n\ttest %k[t], %k[t]\n\tjz 2f\n\t"
#define SUBS_SLOTS(q, r, a0, a1, a2, a3, b0, b1, b2, b3)                                           \
    SUBS_IF_SLOT(r) SUBS_PLACE(r) SUBS_SET(0, r, 28) SUBS_SET(52, r, b0)                           \
    SUBS_COPY(b0, b1) SUBS_COPY(b0, b2) SUBS_COPY(b0, b3)                                          \
    SUBS_SLOT(0, 24, b0) SUBS_SLOT(1, 25, b1) SUBS_SLOT(2, 26, b2) SUBS_SLOT(3, 27, b3)            \
    SUBS_ADD(0, a0, b0) SUBS_ADD(1, a1, b1) SUBS_ADD(2, a2, b2) SUBS_ADD(3, a3, b3) "2:\n\t"

#define SUBS_Y(r, v, y) "vmovups 256*" #r "+64*" #v "(%[out]), %%zmm" #y "\n\t"
#define SUBS_KEEP(r, v, y) "vmovups %%zmm" #y ", 256*" #r "+64*" #v "(%[out])\n\t"
#define SUBS_D(v, a, y) "vfmadd231ps 64*" #v "(%[d],%[t]), %%zmm" #a ", %%zmm" #y "\n\t"
#define SUBS_E(r) "movl 8(%[x" #r "],%[at]), %k[t]\n\tshl $8, %[t]\n\t"
#define SUBS_OUT(q, r, a0, a1, a2, a3, b0, b1, b2, b3)                                             \
    SUBS_E(r) SUBS_Y(r, 0, 24) SUBS_Y(r, 1, 25) SUBS_Y(r, 2, 26) SUBS_Y(r, 3, 27)                  \
    SUBS_D(0, a0, 24) SUBS_D(1, a1, 25) SUBS_D(2, a2, 26) SUBS_D(3, a3, 27)                        \
    SUBS_KEEP(r, 0, 24) SUBS_KEEP(r, 1, 25) SUBS_KEEP(r, 2, 26) SUBS_KEEP(r, 3, 27)
/* First the mins: 28 29 are the sums of both halves. */
#define SUBS_LESS(v, m, y)                                                                         \
    "vmulps 1280+64*" #v "(%[s]), %%zmm29, %%zmm" #m "\n\t"                                        \
    "vfmadd231ps 1024+64*" #v "(%[s]), %%zmm28, %%zmm" #m "\n\t"                                   \
    "vfmadd231ps 1792+64*" #v "(%[d],%[t]), %%zmm" #m ", %%zmm" #y "\n\t"
#define SUBS_OUT_MINS(q, r, a0, a1, a2, a3, b0, b1, b2, b3)                                        \
    SUBS_E(r) "vcvtdq2ps 12(%[x" #r "],%[at])%{1to16%}, %%zmm28\n\t"                               \
    "vcvtdq2ps 16(%[x" #r "],%[at])%{1to16%}, %%zmm29\n\t"                                         \
    SUBS_Y(r, 0, 24) SUBS_Y(r, 1, 25) SUBS_Y(r, 2, 26) SUBS_Y(r, 3, 27)                            \
    SUBS_LESS(0, 30, 24) SUBS_LESS(1, 31, 25) SUBS_LESS(2, 30, 26) SUBS_LESS(3, 31, 27)            \
    SUBS_D(0, a0, 24) SUBS_D(1, a1, 25) SUBS_D(2, a2, 26) SUBS_D(3, a3, 27)                        \
    SUBS_KEEP(r, 0, 24) SUBS_KEEP(r, 1, 25) SUBS_KEEP(r, 2, 26) SUBS_KEEP(r, 3, 27)

/* E4M3: k1 says that the slot is in the first half, k2 that it is not. */
#define SUBS_WHOLE(r, v, w, a, b)                                                                  \
    SUBS_COPY(29, 28) "vmovdqu64 64*" #v "(%[w],%[t]), %%zmm" #w "\n\t"                            \
    "vpdpbusd (%[x" #r "],%[at])%{1to16%}, %%zmm" #w ", %%zmm28\n\tvpslld $7, %%zmm28, %%zmm28\n\t"\
    "vpaddd %%zmm28, %%zmm" #a ", %%zmm" #a "%{%%k1%}\n\t"                                         \
    "vpaddd %%zmm28, %%zmm" #b ", %%zmm" #b "%{%%k2%}\n\t"                                         \
    "vpsllvd %%zmm31, %%zmm" #a ", %%zmm" #a "\n\tvpsllvd %%zmm31, %%zmm" #b ", %%zmm" #b "\n\t"   \
    SUBS_FLOAT(a) SUBS_FLOAT(b) SUBS_Y(r, v, 30)                                                   \
    "vfmadd231ps 64*" #v "(%[s]), %%zmm" #a ", %%zmm30\n\t"                                        \
    "vfmadd231ps 256+64*" #v "(%[s]), %%zmm" #b ", %%zmm30\n\t" SUBS_KEEP(r, v, 30)
#define SUBS_OUT_E4M3(q, r, a0, a1, a2, a3, b0, b1, b2, b3)                                        \
    "movl 4(%[x" #r "],%[at]), %k[t]\n\tcmp $4, %k[t]\n\tsbb %k[u], %k[u]\n\t"                     \
    "kmovw %k[u], %%k1\n\tknotw %%k1, %%k2\n\tshl $8, %[t]\n\t"                                    \
    SUBS_SET(8, r, 31) SUBS_SET(52, r, 29)                                                         \
    SUBS_WHOLE(r, 0, 24, a0, b0) SUBS_WHOLE(r, 1, 25, a1, b1) SUBS_WHOLE(r, 2, 26, a2, b2)         \
    SUBS_WHOLE(r, 3, 27, a3, b3)
/* Row by row, so that there is work between the slots' branches, which nothing foresees. */
#define SUBS_WITH(out, ...) SUBS_BOTH(__VA_ARGS__) SUBS_SLOTS(__VA_ARGS__) out(__VA_ARGS__)
#define SUBS_TO_PLAIN(...) SUBS_WITH(SUBS_OUT, __VA_ARGS__)
#define SUBS_TO_MINS(...) SUBS_WITH(SUBS_OUT_MINS, __VA_ARGS__)
#define SUBS_NEXT                                                                                  \
    "add $56, %[at]\n\tadd $2048, %[w]\n\tadd $1536, %[s]\n\tdecq %[n]\n\tjnz 1b"
/* clang-format on */

typedef void subs_fn(const uint8_t *w, const run_scales *s, const run_steps *d, int64_t n,
                     const uint8_t *const *x, size_t at, float *out);

/* n groups of a unit. */
#define SUBS_TILE(name, rows, n_rows, from, to)                                                    \
    static __attribute__((noinline)) void name(const uint8_t *w, const run_scales *s,              \
                                               const run_steps *d, int64_t n,                      \
                                               const uint8_t *const *x, size_t at, float *out)     \
    {                                                                                              \
        size_t t, u;                                                                               \
        const uint8_t *row[3];                                                                     \
        for (int r = 0; r < 3; r++)                                                                \
            row[r] = x[r < (n_rows) ? r : 0];                                                      \
        __asm__ volatile(                                                                          \
            ".p2align 5\n1:\n\t" rows(from, 0) SUBS_QUADS(rows) rows(to, 0) SUBS_NEXT              \
            : [w] "+r"(w), [s] "+r"(s), [at] "+r"(at), [n] "+m"(n), [t] "=&r"(t), [u] "=&r"(u)     \
            : [x0] "r"(row[0]), [x1] "r"(row[1]), [x2] "r"(row[2]), [d] "r"(d), [out] "r"(out)     \
            : CLOBBERS, "xmm31", "k1", "k2");                                                      \
    }
#define SUBS_TILES(name, from, to)                                                                 \
    SUBS_TILE(name##_1, SUBS1, 1, from, to)                                                        \
    SUBS_TILE(name##_2, SUBS2, 2, from, to)                                                        \
    SUBS_TILE(name##_3, SUBS3, 3, from, to)
SUBS_TILES(subs_plain, SUBS_FROM_START, SUBS_TO_PLAIN)
SUBS_TILES(subs_mins, SUBS_FROM_ZERO, SUBS_TO_MINS)
SUBS_TILES(subs_e4m3, SUBS_FROM_START, SUBS_OUT_E4M3)

/* A unit's sides as numbers. */
static void subs_widen(const mr_layout *l, const uint8_t *after, run_scales *to, run_steps *steps)
{
    const int runs = l->k_unit / 16;
    const float *e4m3 = (const float *)(const void *)after;
    const int8_t *subs = (const int8_t *)after, *mins = subs + runs * MR_TILE_OUT;
    for (int j = 0; j < runs; j++)
        for (int o = 0; o < MR_TILE_OUT; o += 16) {
            run_scales *at = &to[j / 2];
            if (l->form.scale == MR_F8_E4M3) {
                v16f_store(at->s[j % 2] + o, v16f_load(e4m3 + j * MR_TILE_OUT + o));
                continue;
            }
            v16f s = v16f_from_i(v16i_load_i8(subs + j * MR_TILE_OUT + o));
            v16f_store(at->s[j % 2] + o, s);
            v16f_store(at->slot[j % 2] + o, v16f_mul(s, v16f_set1(128.0f)));
            if (l->bias)
                v16f_store(at->m[j % 2] + o, v16f_from_i(v16i_load_i8(mins + j * MR_TILE_OUT + o)));
        }
    const float *d = (const float *)(const void *)(subs + runs * MR_TILE_OUT * (l->bias ? 2 : 1));
    for (int o = 0; o < MR_TILE_OUT && l->form.scale != MR_F8_E4M3; o += 16)
        for (int e = 0; e < SUBS_STEPS; e++) {
            v16f by = v16f_set1((float)(1 << e));
            v16f_store(steps->d[e] + o, v16f_mul(v16f_load(d + o), by));
            if (l->bias)
                v16f_store(steps->less[e] + o, v16f_mul(v16f_load(d + MR_TILE_OUT + o), by));
        }
}

/* Of up to 3 rows. */
static subs_fn *subs_tile(const mr_layout *l, int rows)
{
    static subs_fn *const fns[3][3] = {{subs_plain_1, subs_plain_2, subs_plain_3},
                                       {subs_mins_1, subs_mins_2, subs_mins_3},
                                       {subs_e4m3_1, subs_e4m3_2, subs_e4m3_3}};
    return fns[l->form.scale == MR_F8_E4M3 ? 2 : l->bias][rows - 1];
}

static int subs_many_rows(const mr_column *c, int64_t units, const mr_qform *f,
                          const uint8_t *const *x, int rows, float *out)
{
    run_scales scales[SUBS_GROUPS] __attribute__((aligned(64)));
    run_steps steps __attribute__((aligned(64)));
    const mr_layout *l = c->layout;
    const int groups = l->k_unit / 32;
    if (c->nv != 4)
        return 0;
    for (int64_t u = 0; u < units; u++) {
        const uint8_t *unit = c->data + (size_t)u * c->unit;
        const size_t share = c->ask_bytes / (size_t)units;
        size_t asked = 0;
        subs_widen(l, unit + c->lines, scales, &steps);
        for (int r = 0, now; r < rows; r += now) {
            now = rows - r < 3 ? rows - r : 3;
            for (; asked < share * (size_t)(r + now) / (size_t)rows; asked += 64)
                __builtin_prefetch(c->ask + (size_t)u * share + asked, 0, 2);
            subs_tile(l, now)(unit, scales, &steps, groups, x + r, (size_t)(u * groups) * f->step,
                              out + r * MR_TILE_OUT);
        }
    }
    return rows;
}

static int subs_codes(const mr_column *c, int64_t units, const mr_qform *f, const uint8_t *const *x,
                      int rows, float *out);

/* tile_i8's first rows, whatever the kind. */
static int first_rows(const mr_column *c, int64_t units, const mr_qform *f, const uint8_t *const *x,
                      int rows, int slots, float *out)
{
    if (c->layout->kind == MR_PACK_SUBS)
        return subs_many_rows(c, units, f, x, rows, out);
    if (c->layout->kind == MR_PACK_CODES && subs_codes(c, units, f, x, rows, out) > 0)
        return rows;
    const int few = few_rows_i8(c, units, f, x, rows, slots, out);
    return few > 0 ? few : many_rows(c, units, f, x, rows, out);
}
