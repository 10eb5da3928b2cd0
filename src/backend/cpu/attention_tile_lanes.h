/* Register tiles of attention, and the form of KV tiles: part of the template of attention_*.c.
 *
 * Scores and values are both products of a few rows with panels of 32 columns whose lines lie one
 * after the other: keys [2 panels][dk][32 positions], values [dv/32 panels][64 positions][32].
 * Elements i and 16 + i of a line of bf16 are the low and the high half of its word i, so a shift
 * and a mask widen it.  Few groups of rows take a tile's lines in place; more take panels one by
 * one, widened once and in the first-level cache: 32 positions of keys, 32 columns of a band's
 * values.
 *
 * Lines taken in place come from memory: each asks for the one at its place in what is read next to
 * come to the L2 cache, which can have many under way, and for the one NEAR bytes on to come to L1,
 * which can not.
 *
 * Every score is one FMA chain along d, every value one along the positions: which rows and columns
 * share a register tile changes no bit. */
#include "backend/cpu/attention.h"

/* Accumulators as the registers allow; many rows, as each row costs a broadcast that comes free,
 * each column a line. */
enum {
    TILE_COLS = LANES_TILE_COLS > 1 ? 2 : 1,
    TILE_ROWS = LANES_TILE_ROWS * LANES_TILE_COLS / TILE_COLS,
    TILE_ACC = TILE_ROWS * TILE_COLS,
    NEAR = 2048,
    FEW_GROUPS = 2
};

/* Vectors of columns beside `rows` rows. */
#define COLS_OF(rows) ((rows)*4 <= TILE_ACC ? 4 : (rows)*2 <= TILE_ACC ? 2 : 1)

#define TILE_UNROLL _Pragma("GCC unroll 16")

/* Half `part` of the 32 elements at index i. */
LANES_INLINE v16f load_half(const void *p, int64_t i, int part, bool bf16)
{
    if (!bf16)
        return v16f_load((const float *)p + i + 16 * part);
    v16i w = v16i_load((const int32_t *)(const void *)((const uint16_t *)p + i));
    return v16f_bits(part ? v16i_and(w, v16i_set1((int32_t)0xffff0000)) : v16i_shl(w, 16));
}

/* Line `at` of a panel of so many bytes. */
LANES_INLINE void ask_line(const char *p, const char *next, int64_t at, int64_t bytes)
{
    __builtin_prefetch(next + at, 0, 2);
    at += NEAR;
    __builtin_prefetch(at < bytes ? p + at : next + (at - bytes));
}

/* S = q . K of `rows` interleaved queries with vectors c0 .. c0+cols-1 of positions; k: the panel
 * of c0, which is even or the only one.  ahead: what is read next. */
LANES_INLINE void scores_cols(int rows, int cols, int c0, const float *q, const void *k, int64_t dk,
                              bool bf16, float *s, const char *ahead)
{
    v16f acc[TILE_ROWS][4];
    TILE_UNROLL for (int r = 0; r < rows; r++) TILE_UNROLL for (int c = 0; c < cols; c++)
        acc[r][c] = v16f_zero();
    for (int64_t d = 0; d < dk; d++) {
        v16f key[4];
        TILE_UNROLL for (int c = 0; c < cols; c++)
        {
            int64_t line = (c0 % 2 + c) / 2 * dk + d;
            key[c] = load_half(k, line * 32, (c0 + c) % 2, bf16);
            if (bf16 && (c0 + c) % 2 == 0)
                ask_line((const char *)k + (c0 % 2 + c) / 2 * dk * 64,
                         ahead + (c0 % 2 + c) / 2 * dk * 64, d * 64, dk * 64);
        }
        TILE_UNROLL for (int r = 0; r < rows; r++)
        {
            v16f x = v16f_set1(q[d * rows + r]);
            TILE_UNROLL for (int c = 0; c < cols; c++) acc[r][c] = v16f_fma(x, key[c], acc[r][c]);
        }
    }
    TILE_UNROLL for (int r = 0; r < rows; r++) TILE_UNROLL for (int c = 0; c < cols; c++)
        v16f_store(s + r * MR_ATT_BAND + 16 * (c0 + c), acc[r][c]);
}

/* Of `panels` panels one after the other, 1 or 2. */
LANES_INLINE void scores_panels(int rows, int panels, const float *q, const void *k, int64_t dk,
                                bool bf16, float *s, const char *ahead)
{
    const int64_t panel = dk * 32 * (bf16 ? 2 : 4);
    if (COLS_OF(rows) == 4 && panels == 2) {
        scores_cols(rows, 4, 0, q, k, dk, bf16, s, ahead);
        return;
    }
    const char *p = k;
    for (int i = 0; i < panels; i++, p += panel, ahead += dk * 64, s += 32) {
        if (COLS_OF(rows) >= 2) {
            scores_cols(rows, 2, 0, q, p, dk, bf16, s, ahead);
        } else {
            scores_cols(rows, 1, 0, q, p, dk, bf16, s, ahead);
            scores_cols(rows, 1, 1, q, p, dk, bf16, s, ahead);
        }
    }
}

/* Columns of panel v, from half `part` on: y += P V over positions [from, to), or y = P V if it is
 * fresh. */
LANES_INLINE void values_cols(int rows, int cols, int part, const float *s, int from, int to,
                              const void *v, bool bf16, float *y, int64_t ldy, bool fresh,
                              const char *ahead)
{
    v16f acc[TILE_ROWS][4];
    TILE_UNROLL for (int r = 0; r < rows; r++) TILE_UNROLL for (int c = 0; c < cols; c++)
        acc[r][c] = fresh ? v16f_zero() : v16f_load(y + r * ldy + 16 * c);
    for (int64_t j = from; j < to; j++) {
        v16f val[4];
        TILE_UNROLL for (int c = 0; c < cols; c++)
        {
            int64_t line = c / 2 * MR_TILE + j;
            val[c] = load_half(v, line * 32, (part + c) % 2, bf16);
            if (bf16 && (part + c) % 2 == 0)
                ask_line((const char *)v + c / 2 * MR_TILE * 64, ahead + c / 2 * MR_TILE * 64,
                         j * 64, MR_TILE * 64);
        }
        TILE_UNROLL for (int r = 0; r < rows; r++)
        {
            v16f x = v16f_set1(s[r * MR_ATT_BAND + j]);
            TILE_UNROLL for (int c = 0; c < cols; c++) acc[r][c] = v16f_fma(x, val[c], acc[r][c]);
        }
    }
    TILE_UNROLL for (int r = 0; r < rows; r++) TILE_UNROLL for (int c = 0; c < cols; c++)
        v16f_store(y + r * ldy + 16 * c, acc[r][c]);
}

/* One panel. */
LANES_INLINE void values_panel(int rows, const float *s, int from, int to, const void *v, bool bf16,
                               float *y, int64_t ldy, bool fresh, const char *ahead)
{
    if (COLS_OF(rows) >= 2) {
        values_cols(rows, 2, 0, s, from, to, v, bf16, y, ldy, fresh, ahead);
    } else {
        values_cols(rows, 1, 0, s, from, to, v, bf16, y, ldy, fresh, ahead);
        values_cols(rows, 1, 1, s, from, to, v, bf16, y + 16, ldy, fresh, ahead);
    }
}

/* ldy columns of a tile: whole panels. */
LANES_INLINE void values_tile(int rows, const float *s, int from, int to, const void *v, bool bf16,
                              float *y, int64_t ldy, const char *ahead)
{
    const int64_t size = bf16 ? 2 : 4, panel = MR_TILE * 32 * size;
    const char *p = v;
    int64_t d = 0;
    if (COLS_OF(rows) == 4)
        for (; d + 64 <= ldy; d += 64, p += 2 * panel, ahead += 2 * MR_TILE * 64)
            values_cols(rows, 4, 0, s, from, to, p, bf16, y + d, ldy, false, ahead);
    for (; d < ldy; d += 32, p += panel, ahead += MR_TILE * 64)
        values_panel(rows, s, from, to, p, bf16, y + d, ldy, false, ahead);
}

/* CALL(rows) with a constant; a case beyond the tile is never reached, and is clipped so that it
 * compiles to the largest one. */
#define CLIP(n) ((n) < TILE_ROWS ? (n) : TILE_ROWS)
#define CASE(n, CALL)                                                                              \
    case n:                                                                                        \
        CALL(CLIP(n));                                                                             \
        break;
#define WITH_ROWS(rows, CALL)                                                                      \
    switch (rows) {                                                                                \
        CASE(1, CALL)                                                                              \
        CASE(2, CALL)                                                                              \
        CASE(3, CALL)                                                                              \
        CASE(4, CALL)                                                                              \
        CASE(5, CALL)                                                                              \
        CASE(6, CALL)                                                                              \
        CASE(7, CALL)                                                                              \
        CASE(8, CALL)                                                                              \
        CASE(9, CALL)                                                                              \
        CASE(10, CALL)                                                                             \
        CASE(11, CALL)                                                                             \
        CASE(12, CALL)                                                                             \
    }

/* Panels in place. */
static void tile_scores(int rows, int panels, const float *q, const void *k, bool bf16, int64_t dk,
                        float *s, const char *ahead)
{
    if (bf16) {
#define CALL(n) scores_panels(n, panels, q, k, dk, true, s, ahead)
        WITH_ROWS(rows, CALL)
#undef CALL
    } else {
#define CALL(n) scores_panels(n, panels, q, k, dk, false, s, ahead)
        WITH_ROWS(rows, CALL)
#undef CALL
    }
}

static void tile_values(int rows, const float *s, int from, int to, const void *v, bool bf16,
                        float *y, int64_t ldy, const char *ahead)
{
    if (bf16) {
#define CALL(n) values_tile(n, s, from, to, v, true, y, ldy, ahead)
        WITH_ROWS(rows, CALL)
#undef CALL
    } else {
#define CALL(n) values_tile(n, s, from, to, v, false, y, ldy, ahead)
        WITH_ROWS(rows, CALL)
#undef CALL
    }
}

/* A panel of floats. */
static void panel_scores(int rows, const float *q, const float *k, int64_t dk, float *s)
{
#define CALL(n) scores_panels(n, 1, q, k, dk, false, s, NULL)
    WITH_ROWS(rows, CALL)
#undef CALL
}

static void panel_values(int rows, const float *s, int from, int to, const float *v, float *y,
                         int64_t ldy, bool fresh)
{
#define CALL(n) values_panel(n, s, from, to, v, false, y, ldy, fresh, NULL)
    WITH_ROWS(rows, CALL)
#undef CALL
}

/* ---- copies of panels ---- */

static void widen(float *y, const void *x, int64_t lines)
{
    for (int64_t i = 0; i < 32 * lines; i += 32) {
        v16f_store(y + i, load_half(x, i, 0, true));
        v16f_store(y + i + 16, load_half(x, i, 1, true));
    }
}

/* Columns d0 .. d0+31 of the first dv of each key of a tile as values.  A word of bf16 is moved
 * whole and split at the end. */
static void values_of_keys(float *y, const void *k, bool bf16, int64_t dk, int64_t dv, int64_t d0)
{
    const float *words = k;
    int parts = bf16 ? 1 : 2;
    float t[16 * 16];
    for (int64_t d = d0; d < d0 + 32 && d < dv; d += 16) {
        int n = dv - d < 16 ? (int)(dv - d) : 16;
        if (n < 16)
            memset(t, 0, sizeof t);
        for (int half = 0; half < 2 * parts; half++) {
            int j0 = 32 / parts * half;
            const float *x = words + (half / parts * dk + d) * 16 * parts + half % parts * 16;
            v16f_transpose(t, 16, x, 16 * parts, n);
            for (int j = 0; j < 16; j++) {
                float *to = y + (j0 + j) * 32 + d % 32;
                if (bf16) {
                    v16i w = v16i_load((const int32_t *)(const void *)(t + 16 * j));
                    v16f_store(to, v16f_bits(v16i_shl(w, 16)));
                    v16f_store(to + 16 * 32,
                               v16f_bits(v16i_and(w, v16i_set1((int32_t)0xffff0000))));
                } else {
                    v16f_store(to, v16f_load(t + 16 * j));
                }
            }
        }
    }
}

/* ---- writing ---- */

static inline v16i words_of(v16f low, v16f high)
{
    return v16i_or(v16i_to_bf16(low), v16i_shl(v16i_to_bf16(high), 16));
}

/* A whole panel: squares of 16 rows, turned. */
static void whole_panel(void *y, bool bf16, const float *k, int64_t ldk, int64_t dk)
{
    float low[16 * 16], high[16 * 16];
    for (int64_t d = 0; d + 16 <= dk; d += 16) {
        v16f_transpose(low, 16, k + d, ldk, 16);
        v16f_transpose(high, 16, k + 16 * ldk + d, ldk, 16);
        for (int64_t i = 0; i < 16; i++) {
            v16f a = v16f_load(low + 16 * i), b = v16f_load(high + 16 * i);
            if (bf16) {
                v16i_store((int32_t *)y + (d + i) * 16, words_of(a, b));
            } else {
                v16f_store((float *)y + (d + i) * 32, a);
                v16f_store((float *)y + (d + i) * 32 + 16, b);
            }
        }
    }
}

static void keys(void *y, bool bf16, int lane, int n, const float *k, int64_t ldk, int dk)
{
    int64_t from = 0;
    if (n == 32) {
        whole_panel(y, bf16, k, ldk, dk);
        from = dk / 16 * 16;
    }
    for (int r = 0; r < n; r++) {
        int at = mr_kv_place(bf16, lane + r);
        for (int64_t d = from; d < dk; d += 16) {
            int m = dk - d < 16 ? (int)(dk - d) : 16;
            v16f x = v16f_loadn(k + r * ldk + d, m);
            if (bf16) {
                uint16_t t[16], *to = (uint16_t *)y + d * 32 + at;
                v16f_store_bf16(t, x);
                for (int i = 0; i < m; i++)
                    to[32 * i] = t[i];
            } else {
                float *to = (float *)y + d * 32 + at;
                for (int i = 0; i < m; i++)
                    to[32 * i] = k[r * ldk + d + i];
            }
        }
    }
}

static void values(void *y, bool bf16, const float *v, int dv)
{
    for (int d = 0; d < dv; d += 32) {
        int64_t at = (int64_t)d * MR_TILE;
        v16f low = v16f_loadn(v + d, dv - d), high = v16f_loadn(v + d + 16, dv - d - 16);
        if (bf16) {
            v16i_store((int32_t *)y + at / 2, words_of(low, high));
        } else {
            v16f_store((float *)y + at, low);
            v16f_store((float *)y + at + 16, high);
        }
    }
}
