/* Products of bf16 with bf16 (`native`) by AMX: pairs of weights as they are packed, no panel.
 *
 * Any number of rows, so that each output is one chain of tile products of 32 k, whatever the rows: of one
 * row a tile product takes less than its weights take from memory.  (Yet tiles read memory more slowly
 * than vectors do: decoding gets 30 of 33 GB/s.)
 */
#include <string.h>

#include "backend/cpu/matmul_core.h"
#include "backend/cpu/tiles_amx.h"

/* Pairs of k at a time, whose weights stay in the L1 cache while more than sixteen rows meet them; and of a
 * product. */
enum { BLOCK_PAIRS = 128, TILE_PAIRS = 16 };

/* 0..3 sums of `rows` rows by 16 outputs; 4 pairs of the rows; 5..7 of weights. */
static void configure(int rows)
{
    tile_config c = {.palette = 1};
    for (int t = 0; t < 8; t++)
        TILE_SHAPE(c, t, t < 5 ? rows : TILE_PAIRS, 64);
    tile_configure(&c);
}

/* A tile's share of what comes next in memory: 16 lines of the next product to the L1 cache, and those `far`
 * behind them (mr_column) to L2, in their order. */
static void ask(const mr_column *c, const uint8_t *next)
{
    const size_t far = mr_column_far(c, next);
    for (size_t i = 0; i < 16 * 64; i += 64)
        __asm__ volatile("prefetcht1 (%0,%1)\n\tprefetcht0 (%0)" : : "r"(next + i), "r"(far));
}

#define WEIGHTS(v, t)                                                                              \
    if (ahead)                                                                                     \
        ask(c, at + TILE_PAIRS * line + 64 * TILE_PAIRS * (v));                                    \
    TILE_LOAD(t, at + 64 * (v), line);                                                             \
    TILE_DOTS(bf16ps, v, 4, t)

/* A block of k, whole products, of up to 16 rows that lie `stride` bytes apart. */
static void some_rows(const mr_column *c, const uint8_t *at, int64_t pairs, const uint8_t *rows,
                      size_t stride, bool ahead, float *out)
{
    const size_t line = c->unit, to = MR_TILE_OUT * sizeof(float);
    const bool wide = c->nv == 4;
    TILE_LOAD(0, out, to);
    if (wide) {
        TILE_LOAD(1, out + 16, to);
        TILE_LOAD(2, out + 32, to);
        TILE_LOAD(3, out + 48, to);
    }
    for (; pairs > 0; pairs -= TILE_PAIRS, at += TILE_PAIRS * line, rows += TILE_PAIRS * 4) {
        TILE_LOAD(4, rows, stride);
        WEIGHTS(0, 5);
        if (wide) {
            WEIGHTS(1, 6);
            WEIGHTS(2, 7);
            WEIGHTS(3, 5);
        }
    }
    TILE_STORE(0, out, to);
    if (wide) {
        TILE_STORE(1, out + 16, to);
        TILE_STORE(2, out + 32, to);
        TILE_STORE(3, out + 48, to);
    }
}

/* Rows that do not lie evenly, or whose last product is a part of one, are copied, and zeros fill them up. */
static void sixteen_rows(const mr_column *c, const uint8_t *at, int64_t pairs,
                         const int32_t *const *x, int n, bool ahead, float *out)
{
    int32_t copy[MR_SIXTEEN][BLOCK_PAIRS] __attribute__((aligned(64)));
    const ptrdiff_t stride = n > 1 ? (const char *)x[1] - (const char *)x[0] : 64;
    bool even = pairs % TILE_PAIRS == 0;
    for (int r = 1; r < n; r++)
        even = even && (const char *)x[r] - (const char *)x[r - 1] == stride;
    if (even) {
        some_rows(c, at, pairs, (const uint8_t *)x[0], (size_t)stride, ahead, out);
        return;
    }
    for (int64_t from = 0, some; from < pairs; from += some) {
        some = pairs - from < BLOCK_PAIRS ? pairs - from : BLOCK_PAIRS;
        const int64_t whole = (some + TILE_PAIRS - 1) / TILE_PAIRS * TILE_PAIRS;
        for (int r = 0; r < n; r++) {
            memcpy(copy[r], x[r] + from, (size_t)some * sizeof(int32_t));
            memset(copy[r] + some, 0, (size_t)(whole - some) * sizeof(int32_t));
        }
        some_rows(c, at + (size_t)from * c->unit, whole, (const uint8_t *)copy, sizeof copy[0],
                  ahead, out);
    }
}

/* All rows and a block of k; the last rows are as many as there are.  *shape is how many tiles are configured
 * for. */
static void block_pairs(const mr_column *c, const uint8_t *weights, int64_t at, int64_t pairs,
                        const int32_t *const *x, int rows, bool ahead, int *shape, float *out)
{
    for (int r = 0, n; r < rows; r += n) {
        const int32_t *some[MR_SIXTEEN];
        n = rows - r < MR_SIXTEEN ? rows - r : MR_SIXTEEN;
        if (n != *shape)
            configure(*shape = n);
        for (int i = 0; i < n; i++)
            some[i] = x[r + i] + at;
        sixteen_rows(c, weights, pairs, some, n, ahead && r == 0, out + r * MR_TILE_OUT);
    }
}

void mr_tile_bf16_amx(const mr_column *c, int64_t pairs, const int32_t *const *x, int rows,
                      float *out)
{
    const int64_t whole = pairs / TILE_PAIRS * TILE_PAIRS, last = pairs - whole,
                  block = rows > MR_SIXTEEN ? BLOCK_PAIRS : whole;
    int shape = 0;
    for (int64_t at = 0, n; at < whole; at += n) {
        n = whole - at < block ? whole - at : block;
        block_pairs(c, c->data + (size_t)at * c->unit, at, n, x, rows, true, &shape, out);
    }
    if (last > 0) {
        uint8_t weights[TILE_PAIRS * 4 * MR_TILE_OUT] __attribute__((aligned(64))) = {0};
        memcpy(weights, c->data + (size_t)whole * c->unit, (size_t)last * c->unit);
        block_pairs(c, weights, whole, last, x, rows, false, &shape, out);
    }
    tile_release();
}
