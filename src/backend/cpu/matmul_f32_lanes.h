/* Products on f32 activations: one FMA chain per output.
 *
 * Part of matmul_lanes.h.  A tile is ROWS x 16*NV outputs; its sums stay in registers.
 */

/* One unit of a quantised kind, lane blocks v0.. of the column. */
INLINE void f32_unit(const mr_column *c, const uint8_t *unit, int v0, const float *const *x,
                     int64_t k, int rows, int nv, bool u4, bool twice, float *out)
{
    v16f acc[MAX_ROWS][MAX_NV], s[MAX_NV], b[MAX_NV];
    const uint8_t *after = unit + c->lines;
    int run = c->layout->kind == MR_PACK_SUBS ? 4 : c->layout->k_unit / 4,
        quads = c->layout->k_unit / 4;
    foreach (r, rows)
        foreach (v, nv)
            acc[r][v] = v16f_load(out + r * MR_TILE_OUT + 16 * (v0 + v));
    for (int i0 = 0; i0 < quads; i0 += run) {
        foreach (v, nv)
            unit_scales(c, after, v0 + v, i0 / 4, &s[v], &b[v]);
        for (int i = i0; i < i0 + run; i++) {
            foreach (v, nv) {
                v16f w[4];
                quad_weights(unit, u4, c->nv, i, v0 + v, s[v], b[v], twice, w);
                foreach (r, rows)
                    foreach (j, 4)
                        acc[r][v] = v16f_fma(w[j], v16f_set1(x[r][k + 4 * i + j]), acc[r][v]);
            }
        }
    }
    foreach (r, rows)
        foreach (v, nv)
            v16f_store(out + r * MR_TILE_OUT + 16 * (v0 + v), acc[r][v]);
}

INLINE void f32_quantised(const mr_column *c, int64_t k1, const float *const *x, int rows, int nv,
                          bool u4, bool twice, float *out)
{
    const uint8_t *unit = c->data;
    for (int64_t k = 0; k < k1; k += c->layout->k_unit, unit += c->unit)
        for (int v = 0; v < c->nv; v += nv)
            f32_unit(c, unit, v, x, k, rows, nv, u4, twice, out);
}

/* Float kinds: the weights of one k, or of a pair for BF16. */
INLINE void f32_floats(const mr_column *c, int v0, int64_t k1, const float *const *x, int rows,
                       int nv, mr_pack_kind kind, float *out)
{
    v16f acc[MAX_ROWS][MAX_NV];
    const uint8_t *p = c->data + 16 * (size_t)v0 * (kind == MR_PACK_F16 ? 2 : 4);
    int64_t k = 0;
    foreach (r, rows)
        foreach (v, nv)
            acc[r][v] = v16f_load(out + r * MR_TILE_OUT + 16 * (v0 + v));
    for (; kind != MR_PACK_BF16 && k < k1; k++, p += c->unit) {
        foreach (v, nv) {
            v16f w = kind == MR_PACK_F32 ? load_numbers(p + 64 * v, MR_F32)
                                         : load_numbers(p + 32 * v, MR_F16);
            foreach (r, rows)
                acc[r][v] = v16f_fma(w, v16f_set1(x[r][k]), acc[r][v]);
        }
    }
    for (; k + 1 < k1; k += 2, p += c->unit) {
        foreach (v, nv) {
            v16i pair = load_line(p + 64 * v);
            v16f w0 = v16f_bits(v16i_shl(pair, 16)),
                 w1 = v16f_bits(v16i_and(pair, v16i_set1((int32_t)0xffff0000)));
            foreach (r, rows)
                acc[r][v] = v16f_fma(w0, v16f_set1(x[r][k]), acc[r][v]);
            foreach (r, rows)
                acc[r][v] = v16f_fma(w1, v16f_set1(x[r][k + 1]), acc[r][v]);
        }
    }
    if (k < k1) /* BF16, odd k: half a pair */
        foreach (v, nv) {
            v16f w = v16f_bits(v16i_shl(load_line(p + 64 * v), 16));
            foreach (r, rows)
                acc[r][v] = v16f_fma(w, v16f_set1(x[r][k]), acc[r][v]);
        }
    foreach (r, rows)
        foreach (v, nv)
            v16f_store(out + r * MR_TILE_OUT + 16 * (v0 + v), acc[r][v]);
}

/* E4M3, a last unit cut short. */
INLINE void f32_e4m3(const mr_column *c, int v0, int64_t k1, const float *const *x, int rows,
                     int nv, float *out)
{
    v16f acc[MAX_ROWS][MAX_NV], s[MAX_NV];
    const int k_unit = c->layout->k_unit;
    const uint8_t *unit = c->data;
    foreach (r, rows)
        foreach (v, nv)
            acc[r][v] = v16f_load(out + r * MR_TILE_OUT + 16 * (v0 + v));
    for (int64_t k0 = 0; k0 < k1; k0 += k_unit, unit += c->unit) {
        int64_t left = k1 - k0 < k_unit ? k1 - k0 : k_unit;
        foreach (v, nv)
            s[v] = e4m3_scales(c, unit, v0 + v);
        for (int64_t i = 0; i < left; i++)
            foreach (v, nv) {
                const uint8_t *line = unit + (size_t)(i / 4 * c->nv + v0 + v) * 64;
                v16f w = e4m3_weight(load_line(line), (int)(i % 4), s[v]);
                foreach (r, rows)
                    acc[r][v] = v16f_fma(w, v16f_set1(x[r][k0 + i]), acc[r][v]);
            }
    }
    foreach (r, rows)
        foreach (v, nv)
            v16f_store(out + r * MR_TILE_OUT + 16 * (v0 + v), acc[r][v]);
}

/* A tile of constant rows; the wide column is walked nv lane blocks at a time. */
INLINE void f32_rows(const mr_column *c, int64_t k, const float *const *x, int rows, int nv,
                     float *out)
{
    bool twice = two_roundings(c->layout);
    switch (c->layout->kind) {
    case MR_PACK_F32:
        for (int v = 0; v < c->nv; v += nv)
            f32_floats(c, v, k, x, rows, nv, MR_PACK_F32, out);
        break;
    case MR_PACK_F16:
        for (int v = 0; v < c->nv; v += nv)
            f32_floats(c, v, k, x, rows, nv, MR_PACK_F16, out);
        break;
    case MR_PACK_BF16:
        for (int v = 0; v < c->nv; v += nv)
            f32_floats(c, v, k, x, rows, nv, MR_PACK_BF16, out);
        break;
    case MR_PACK_E4M3:
        for (int v = 0; v < c->nv; v += nv)
            f32_e4m3(c, v, k, x, rows, nv, out);
        break;
    case MR_PACK_ACROSS:
    case MR_PACK_ACROSS_E4M3:
        for (int v = 0; v < c->nv; v += nv)
            across_column(c, v, k, x, rows, nv, out);
        break;
    case MR_PACK_U4:
        if (twice)
            f32_quantised(c, k, x, rows, nv, true, true, out);
        else
            f32_quantised(c, k, x, rows, nv, true, false, out);
        break;
    default:
        if (twice)
            f32_quantised(c, k, x, rows, nv, false, true, out);
        else
            f32_quantised(c, k, x, rows, nv, false, false, out);
        break;
    }
}

/* Rows of one panel tile: NV lane blocks, and 1 for the narrow columns. */
#define F32_ROWS(name, rows)                                                                       \
    static __attribute__((noinline)) void name(const mr_column *c, int64_t k,                      \
                                               const float *const *x, float *out)                  \
    {                                                                                              \
        if (TILE_NV == 1 || c->nv == 1)                                                            \
            f32_rows(c, k, x, rows, 1, out);                                                       \
        else                                                                                       \
            f32_rows(c, k, x, rows, TILE_NV, out);                                                 \
    }
F32_ROWS(f32_rows1, 1)
F32_ROWS(f32_rows2, 2)
F32_ROWS(f32_rows4, 4)

/* Rows r.. of a panel's `rows`, as many as the largest tiles have. */
static __attribute__((noinline)) void
f32_panel_rows(const mr_column *c, int64_t k, const float *const *x, int r, int rows, float *out)
{
    x += r;
    out += r * MR_TILE_OUT;
#ifdef F32_PANEL
    if (c->nv == 4) {
        size_t share = c->ask_bytes / (size_t)rows;
        F32_PANEL(c->data, k, x, out, c->ask_bytes ? c->ask + (size_t)r * share : c->data,
                  TILE_F32_ROWS * share / (size_t)k);
        return;
    }
#else
    (void)rows;
#endif
    if (TILE_NV > 1 && c->nv == 1)
        f32_floats(c, 0, k, x, TILE_F32_ROWS, 1, MR_PACK_F32, out);
    else
        for (int v = 0; v < c->nv; v += TILE_NV)
            f32_floats(c, v, k, x, TILE_F32_ROWS, TILE_NV, MR_PACK_F32, out);
}

static void codes_tile_f32(const mr_column *c, int64_t k, const float *const *x, int rows,
                           float *out);

#ifdef FEW_ROWS_F32
static void FEW_ROWS_F32(const mr_column *c, int64_t k, const float *const *x, int rows,
                         float *out);
#endif

static void tile_f32(const mr_column *c, int64_t k, const float *const *x, int rows, float *out)
{
    int r = 0;
    if (c->layout->kind == MR_PACK_CODES) {
        codes_tile_f32(c, k, x, rows, out);
        return;
    }
#ifdef FEW_ROWS_F32
    if (c->nv == 4 && mr_pack_few(c->layout->kind) &&
        (rows > 4 || c->layout->kind == MR_PACK_U4 || c->layout->kind == MR_PACK_U8)) {
        FEW_ROWS_F32(c, k, x, rows, out);
        return;
    }
#endif
    if (c->layout->kind == MR_PACK_F32)
        for (; r + TILE_F32_ROWS <= rows; r += TILE_F32_ROWS)
            f32_panel_rows(c, k, x, r, rows, out);
    for (; r + 4 <= rows; r += 4)
        f32_rows4(c, k, x + r, out + r * MR_TILE_OUT);
    for (; r + 2 <= rows; r += 2)
        f32_rows2(c, k, x + r, out + r * MR_TILE_OUT);
    if (r < rows)
        f32_rows1(c, k, x + r, out + r * MR_TILE_OUT);
}
