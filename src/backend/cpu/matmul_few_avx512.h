/* Few rows on AVX-512: of f32 against weights of 4, 8 and 16 bits, and of int8 against codes with two runs in a
 * group (subs_codes).
 *
 * Why:    two ports do all 512-bit arithmetic.  Per weight and 16 outputs the contract wants an FMA
 *         for the weight and one per row; what makes a float of a code must cost next to nothing
 *         beside them, and be done once for all rows.
 * How:    4 bits: a lookup of 16 floats takes the low 4 bits of a lane as they are, so a line is
 *         wanted once as it is and once shifted by 4, each loaded from four bytes.  Both copies go
 *         through a ring in the L1 cache, three steps of 8 k ahead: loads that straddle lines are
 *         free there, and a late line from memory holds nothing up.  8 bits: loads under a mask are
 *         free, so each byte comes as the lowest of its lane, and is converted.  16 bits: as they come.
 *         Sums stay in registers: up to 4 rows x 64 outputs, or 8 x 32, twice.
 *         Of codes a group at a time becomes bytes and meets all rows, so that memory is read all the
 *         time.
 * Use:    FEW_ROWS_F32 of matmul_f32_lanes.h: wide columns of U4, U8, BF16 and F16, any rows.
 * Bits:   w = fma(s, q, b), or rounded twice; y = fma(w, x, y), k ascending.
 */

enum { RING = 4, RING_AHEAD = RING - 1, RING_LINE = 64, RING_COPY = 256, FEW_MOST = 8 };

typedef struct u4_ring {
    _Alignas(64) uint8_t step[RING][2 * RING_COPY + RING_LINE]; /* a load may pass the end */
} u4_ring;

/* `step` counts steps of 8 k. */
INLINE void ring_fill(u4_ring *ring, int64_t step, const uint8_t *lines, size_t far, int nv)
{
    uint8_t *to = ring->step[step % RING];
    foreach (v, nv) {
        row_ask(lines + 64 * v, far);
        v16i line = load_line(lines + 64 * v);
        v16i_store((int32_t *)(void *)(to + 64 * v), line);
        v16i_store((int32_t *)(void *)(to + RING_COPY + 64 * v), v16i_shr(line, 4));
    }
}

INLINE v16f u4_float(const uint8_t *at)
{
    return (v16f){_mm512_permutexvar_ps(_mm512_loadu_si512(at), _mm512_loadu_ps(small_numbers))};
}

typedef struct few {
    v16f y[FEW_MOST][4], s[4], b[4];
} few;

/* Weights of one k for all rows. */
INLINE void few_step(few *f, const v16f w[4], const float *const *x, int64_t k, int rows, int nv)
{
    foreach (r, rows) {
        v16f xk = v16f_set1(x[r][k]);
        foreach (v, nv)
            f->y[r][v] = v16f_fma(w[v], xk, f->y[r][v]);
    }
}

/* Codes of lane blocks v0.. of a column. */
INLINE void few_codes(few *f, const mr_column *c, int v0, int64_t k1, const float *const *x,
                      int rows, int nv, bool u4, bool twice)
{
    const int steps = c->layout->k_unit / (u4 ? 8 : 4), to = u4 ? 8 : 4;
    const size_t sides = c->unit - c->lines;
    const uint8_t *unit = c->data + 64 * v0;
    int64_t filled = 0, all = k1 / 8;
    u4_ring ring;
    for (; u4 && filled < RING_AHEAD; filled++)
        ring_fill(&ring, filled, unit + RING_COPY * filled, mr_column_far(c, c->data), nv);
    for (int64_t k = 0; k < k1; unit += c->unit) {
        const size_t far = mr_column_far(c, unit), far_next = mr_column_far(c, unit + c->unit);
        foreach (v, nv)
            unit_scales(c, unit - 64 * v0 + c->lines, v0 + v, 0, &f->s[v], &f->b[v]);
        for (size_t i = 0; v0 == 0 && i < sides; i += 64)
            row_ask(unit + c->lines + i, far);
        for (int i = 0; i < steps; i++, k += to) {
            const uint8_t *line = unit + RING_COPY * i, *from = line;
            if (u4) {
                const uint8_t *ahead = line + RING_COPY * RING_AHEAD;
                const bool own = i + RING_AHEAD < steps;
                if (filled < all)
                    ring_fill(&ring, filled, ahead + (own ? 0 : sides), own ? far : far_next, nv);
                filled++;
                from = ring.step[k / 8 % RING];
            } else {
                foreach (v, nv)
                    row_ask(line + 64 * v, far);
            }
            foreach (j, to) {
                v16f w[4];
                foreach (v, nv) {
                    v16f q = u4 ? u4_float(from + j / 4 * RING_COPY + 64 * v + j % 4)
                                : number_u8(from + 64 * v, j);
                    w[v] = twice ? v16f_add(v16f_mul(f->s[v], q), f->b[v])
                                 : v16f_fma(f->s[v], q, f->b[v]);
                }
                few_step(f, w, x, k + j, rows, nv);
            }
        }
    }
}

/* Floats of lane blocks v0.. of a column. */
INLINE void few_floats(few *f, const mr_column *c, int v0, int64_t k1, const float *const *x,
                       int rows, int nv, bool bf16)
{
    const uint8_t *at = c->data + (bf16 ? 64 : 32) * v0;
    for (int64_t k = 0; k < k1; k += bf16 ? 2 : 1, at += c->unit) {
        v16f w[4], second[4];
        const size_t far = mr_column_far(c, at);
        foreach (v, nv) {
            if (bf16) {
                v16i pair = load_line(at + 64 * v);
                row_ask(at + 64 * v, far);
                w[v] = v16f_bits(v16i_shl(pair, 16));
                second[v] = v16f_bits(v16i_and(pair, v16i_set1((int32_t)0xffff0000)));
            } else {
                if (v % 2 == 0)
                    row_ask(at + 32 * v, far);
                w[v] = load_numbers(at + 32 * v, MR_F16);
            }
        }
        few_step(f, w, x, k, rows, nv);
        if (bf16 && k + 1 < k1)
            few_step(f, second, x, k + 1, rows, nv);
    }
}

/* Lane blocks v0.. of a column; the first `stored` of the rows are wanted. */
INLINE void few_blocks(const mr_column *c, int v0, int64_t k, const float *const *rows_at, int rows,
                       int stored, int nv, mr_pack_kind kind, bool twice, float *out)
{
    const float *x[FEW_MOST];
    few f;
    foreach (r, rows) {
        x[r] = rows_at[r < stored ? r : 0];
        foreach (v, nv)
            f.y[r][v] = v16f_load(out + (r < stored ? r : 0) * MR_TILE_OUT + 16 * (v0 + v));
    }
    if (kind == MR_PACK_BF16 || kind == MR_PACK_F16)
        few_floats(&f, c, v0, k, x, rows, nv, kind == MR_PACK_BF16);
    else
        few_codes(&f, c, v0, k, x, rows, nv, kind == MR_PACK_U4, twice);
    foreach (r, rows)
        if (r < stored)
            foreach (v, nv)
                v16f_store(out + r * MR_TILE_OUT + 16 * (v0 + v), f.y[r][v]);
}

typedef void few_fn(const mr_column *c, int64_t k, const float *const *x, int stored, float *out);

#define FEW(name, rows, nv, kind)                                                                  \
    static __attribute__((noinline)) void name(const mr_column *c, int64_t k,                      \
                                               const float *const *x, int stored, float *out)      \
    {                                                                                              \
        bool twice = two_roundings(c->layout);                                                     \
        for (int v = 0; v < 4; v += nv)                                                            \
            if (twice)                                                                             \
                few_blocks(c, v, k, x, rows, stored, nv, kind, true, out);                         \
            else                                                                                   \
                few_blocks(c, v, k, x, rows, stored, nv, kind, false, out);                        \
    }
#define FEWS(name, kind)                                                                           \
    FEW(name##_1, 1, 4, kind)                                                                      \
    FEW(name##_2, 2, 4, kind)                                                                      \
    FEW(name##_4, 4, 4, kind)                                                                      \
    FEW(name##_6, 6, 2, kind)                                                                      \
    FEW(name##_8, 8, 2, kind)
FEWS(few_u4, MR_PACK_U4)
FEWS(few_u8, MR_PACK_U8)
FEWS(few_bf16, MR_PACK_BF16)
FEWS(few_f16, MR_PACK_F16)

/* All rows of a wide column of those kinds, up to FEW_MOST at once. */
static void few_rows_f32(const mr_column *c, int64_t k, const float *const *x, int rows, float *out)
{
#define SHAPES(name)                                                                               \
    {                                                                                              \
        name##_1, name##_2, name##_4, name##_6, name##_8                                           \
    }
    static few_fn *const fns[][5] = {[MR_PACK_F16] = SHAPES(few_f16),
                                     [MR_PACK_BF16] = SHAPES(few_bf16),
                                     [MR_PACK_U4] = SHAPES(few_u4),
                                     [MR_PACK_U8] = SHAPES(few_u8)};
#undef SHAPES
    for (int r = 0; r < rows; r += FEW_MOST) {
        int n = rows - r < FEW_MOST ? rows - r : FEW_MOST;
        int shape = n == 1 ? 0 : (n + 1) / 2;
        fns[c->layout->kind][shape](c, k, x + r, n, out + r * MR_TILE_OUT);
    }
}

/* All rows of a column of codes, or none. */
static int subs_codes(const mr_column *c, int64_t units, const mr_qform *f, const uint8_t *const *x,
                      int rows, float *out)
{
    run_scales scales[SUBS_GROUPS] __attribute__((aligned(64)));
    run_steps steps __attribute__((aligned(64)));
    _Alignas(64) uint8_t block[32 * MR_TILE_OUT], sides[CODES_PANEL - 256 * MR_TILE_OUT];
    const mr_layout bytes = mr_layout_bytes(c->layout);
    const int groups = bytes.k_unit / 32;
    const size_t share = c->unit / (size_t)groups;
    if (bytes.kind != MR_PACK_SUBS || c->nv != 4)
        return 0;
    for (int64_t u = 0; u < units; u++) {
        const uint8_t *unit = c->data + (size_t)u * c->unit;
        codes_subs(c, unit, sides);
        subs_widen(&bytes, sides, scales, &steps);
        for (int g = 0; g < groups; g++) {
            const uint8_t *ask = unit + (size_t)g * share;
            const size_t far = mr_column_far(c, ask);
            unpack_codes_block(c, unit, g, block);
            for (size_t at = 0; at < share; at += 64)
                row_ask(ask + at, far);
            for (int r = 0, now; r < rows; r += now) {
                now = rows - r < 3 ? rows - r : 3;
                subs_tile(&bytes, now)(block, &scales[g], &steps, 1, x + r,
                                       (size_t)(u * groups + g) * f->step, out + r * MR_TILE_OUT);
            }
        }
    }
    return rows;
}

/* Group g of Q5_K for tiles of eight: bytes of both halves of the column. */
static void eight_bytes_of(const mr_column *c, const uint8_t *unit, int g, eight_side sides[2])
{
    const codes_at from = codes_block(unit + c->unit - c->lines, 4, 5, (size_t)g);
    for (int v = 0; v < 4; v++)
        foreach (i, 8)
            v16i_store((int32_t *)(void *)(sides[v / 2].bytes + 128 * i + v % 2 * 64),
                       codes_quad(&from, v, i, 5, NULL));
}
