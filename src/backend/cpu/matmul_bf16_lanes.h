/* Products of bf16 with bf16 (`native`): pairs of weights as they are packed, no panel.
 *
 * Part of matmul_lanes.h, where the ISA has dots of pairs (LANES_HAS_DOT); whether this CPU has them the caller
 * knows.  One chain per output along k, whatever the rows; what a dot rounds is the CPU's own.
 */

/* Weights of a wide column that stay in the L1 cache while all rows meet them. */
enum { BF16_BLOCK = 128 };

INLINE void bf16_lanes(const mr_column *c, int v0, int64_t at, int64_t pairs,
                       const int32_t *const *x, int rows, int nv, float *out)
{
    v16f acc[MAX_ROWS][MAX_NV];
    const uint8_t *p = c->data + (size_t)at * c->unit + 64 * (size_t)v0;
    foreach (r, rows)
        foreach (v, nv)
            acc[r][v] = v16f_load(out + r * MR_TILE_OUT + 16 * (v0 + v));
    for (int64_t i = at; i < at + pairs; i++, p += c->unit) {
        const size_t far = mr_column_far(c, p);
        foreach (v, nv) {
            v16i w = load_line(p + 64 * v);
            row_ask(p + 64 * v, far);
            foreach (r, rows)
                acc[r][v] = v16f_dot(acc[r][v], w, v16i_set1(x[r][i]));
        }
    }
    foreach (r, rows)
        foreach (v, nv)
            v16f_store(out + r * MR_TILE_OUT + 16 * (v0 + v), acc[r][v]);
}

#define BF16_ROWS(name, rows)                                                                      \
    static __attribute__((noinline)) void name(const mr_column *c, int64_t at, int64_t pairs,      \
                                               const int32_t *const *x, float *out)                \
    {                                                                                              \
        if (TILE_NV == 1 || c->nv == 1)                                                            \
            for (int v = 0; v < c->nv; v++)                                                        \
                bf16_lanes(c, v, at, pairs, x, rows, 1, out);                                      \
        else                                                                                       \
            for (int v = 0; v < c->nv; v += TILE_NV)                                               \
                bf16_lanes(c, v, at, pairs, x, rows, TILE_NV, out);                                \
    }
BF16_ROWS(bf16_rows1, 1)
BF16_ROWS(bf16_rows2, 2)
BF16_ROWS(bf16_rows4, 4)

static void tile_bf16(const mr_column *c, int64_t pairs, const int32_t *const *x, int rows,
                      float *out)
{
    for (int64_t at = 0, n; at < pairs; at += n) {
        int r = 0;
        n = pairs - at < BF16_BLOCK ? pairs - at : BF16_BLOCK;
#ifdef BF16_TILE
        const uint8_t *here = c->data + (size_t)at * c->unit;
        const size_t bytes = (size_t)n * c->unit, share = bytes / (size_t)rows;
        for (; c->nv == 4 && r + 6 <= rows; r += 6) {
            const float *six[6];
            for (int i = 0; i < 6; i++)
                six[i] = (const float *)(const void *)(x[r + i] + at);
            BF16_TILE(here, n, six, out + r * MR_TILE_OUT, here + bytes + (size_t)r * share,
                      6 * share / (size_t)n);
        }
#endif
        for (; r + 4 <= rows; r += 4)
            bf16_rows4(c, at, n, x + r, out + r * MR_TILE_OUT);
        for (; r + 2 <= rows; r += 2)
            bf16_rows2(c, at, n, x + r, out + r * MR_TILE_OUT);
        if (r < rows)
            bf16_rows1(c, at, n, x + r, out + r * MR_TILE_OUT);
    }
}
