/* Register tiles of attention: part of the template of attention_*.c.
 *
 * Scores and values are both products of a few rows with panels of 32 columns.  Few groups of rows take
 * a tile's lines in place; more take panels one by one, widened once and in the first-level cache: 32
 * positions of keys, 32 columns of a band's values.  With dots products are of pairs of bf16: queries
 * and keys along d, weights and values along the positions.
 *
 * Lines taken in place come from memory: each asks for the one at its place in what is read next to
 * come to the L2 cache, which can have many under way, and for the one NEAR bytes on to come to L1,
 * which can not.
 *
 * Every score is one chain of FMAs or dots along d, every value one along the positions: which rows
 * and columns share a register tile changes no bit. */

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

/* Lines of queries: words of one d, with dots of two. */
LANES_INLINE int64_t query_lines(int64_t dk, bool dots)
{
    return dots ? (dk + 1) / 2 : dk;
}

/* acc + x y; with dots they are pairs. */
LANES_INLINE v16f multiply(v16f acc, v16f x, v16f y, bool dots)
{
    return dots ? v16f_dot(acc, v16i_bits(x), v16i_bits(y)) : v16f_fma(x, y, acc);
}

/* Line i of a stored panel of so many, with dots i + 1 too. */
LANES_INLINE void ask_lines(const void *panel, const char *next, int64_t i, int64_t lines,
                            bool dots)
{
    const char *p = panel;
    LANES_UNROLL for (int64_t j = 0; j <= dots; j++)
    {
        int64_t at = 64 * (i + j), far = at + NEAR - 64 * lines;
        __builtin_prefetch(next + at, 0, 2);
        __builtin_prefetch(far < 0 ? p + at + NEAR : next + far);
    }
}

/* One word of each row, `stride` apart, times each column's line. */
LANES_INLINE void add_products(int rows, int cols, v16f acc[][4], const float *x, int64_t stride,
                               const v16f *line, bool dots)
{
    LANES_UNROLL for (int r = 0; r < rows; r++)
    {
        v16f word = v16f_set1(x[r * stride]);
        LANES_UNROLL for (int c = 0; c < cols; c++) acc[r][c] =
            multiply(acc[r][c], word, line[c], dots);
    }
}

/* S = q . K of `rows` interleaved queries with vectors c0 .. c0+cols-1 of positions; k: the panel
 * of c0, which is even or the only one.  ahead: what is read next. */
LANES_INLINE void scores_cols(int rows, int cols, int c0, const float *q, const void *k, int64_t dk,
                              bool bf16, bool dots, float *s, const char *ahead)
{
    const int64_t n = query_lines(dk, dots);
    v16f acc[TILE_ROWS][4];
    LANES_UNROLL for (int r = 0; r < rows; r++) LANES_UNROLL for (int c = 0; c < cols; c++)
        acc[r][c] = v16f_zero();
    for (int64_t i = 0; i < n; i++) {
        const int64_t d = bf16 && dots ? 2 * i : i;
        v16f key[4];
        LANES_UNROLL for (int c = 0; c < cols; c++)
        {
            int64_t panel = (c0 % 2 + c) / 2 * dk;
            key[c] = load_half(k, panel + d, (c0 + c) % 2, bf16, dots, d + 1 < dk);
            if (bf16 && (c0 + c) % 2 == 0)
                ask_lines((const char *)k + 64 * panel, ahead + 64 * panel, d, dk, dots);
        }
        add_products(rows, cols, acc, q + i * rows, 1, key, dots);
    }
    LANES_UNROLL for (int r = 0; r < rows; r++) LANES_UNROLL for (int c = 0; c < cols; c++)
        v16f_store(s + r * MR_ATT_ROW + 16 * (c0 + c), acc[r][c]);
}

/* Of `panels` panels one after the other, 1 or 2. */
LANES_INLINE void scores_panels(int rows, int panels, const float *q, const void *k, int64_t dk,
                                bool bf16, bool dots, float *s, const char *ahead)
{
    const int64_t panel = dk * 32 * (bf16 ? 2 : 4);
    if (COLS_OF(rows) == 4 && panels == 2) {
        scores_cols(rows, 4, 0, q, k, dk, bf16, dots, s, ahead);
        return;
    }
    const char *p = k;
    for (int i = 0; i < panels; i++, p += panel, ahead += dk * 64, s += 32) {
        if (COLS_OF(rows) >= 2) {
            scores_cols(rows, 2, 0, q, p, dk, bf16, dots, s, ahead);
        } else {
            scores_cols(rows, 1, 0, q, p, dk, bf16, dots, s, ahead);
            scores_cols(rows, 1, 1, q, p, dk, bf16, dots, s, ahead);
        }
    }
}

/* Columns of panel v, from half `part` on: y += P V over positions [from, to), with dots pairs of
 * them, or y = P V if it is fresh. */
LANES_INLINE void values_cols(int rows, int cols, int part, const float *s, int from, int to,
                              const void *v, bool bf16, bool dots, float *y, int64_t ldy,
                              bool fresh, const char *ahead)
{
    v16f acc[TILE_ROWS][4];
    LANES_UNROLL for (int r = 0; r < rows; r++) LANES_UNROLL for (int c = 0; c < cols; c++)
        acc[r][c] = fresh ? v16f_zero() : v16f_load(y + r * ldy + 16 * c);
    for (int64_t j = from; j < to; j++) {
        const int64_t at = bf16 && dots ? 2 * j : j;
        v16f val[4];
        LANES_UNROLL for (int c = 0; c < cols; c++)
        {
            int64_t panel = c / 2 * MR_TILE;
            val[c] = load_half(v, panel + at, (part + c) % 2, bf16, dots, true);
            if (bf16 && (part + c) % 2 == 0)
                ask_lines((const char *)v + 64 * panel, ahead + 64 * panel, at, MR_TILE, dots);
        }
        add_products(rows, cols, acc, s + j, MR_ATT_ROW, val, dots);
    }
    LANES_UNROLL for (int r = 0; r < rows; r++) LANES_UNROLL for (int c = 0; c < cols; c++)
        v16f_store(y + r * ldy + 16 * c, acc[r][c]);
}

/* One panel. */
LANES_INLINE void values_panel(int rows, const float *s, int from, int to, const void *v, bool bf16,
                               bool dots, float *y, int64_t ldy, bool fresh, const char *ahead)
{
    if (COLS_OF(rows) >= 2) {
        values_cols(rows, 2, 0, s, from, to, v, bf16, dots, y, ldy, fresh, ahead);
    } else {
        values_cols(rows, 1, 0, s, from, to, v, bf16, dots, y, ldy, fresh, ahead);
        values_cols(rows, 1, 1, s, from, to, v, bf16, dots, y + 16, ldy, fresh, ahead);
    }
}

/* ldy columns of a tile: whole panels. */
LANES_INLINE void values_tile(int rows, const float *s, int from, int to, const void *v, bool bf16,
                              bool dots, float *y, int64_t ldy, const char *ahead)
{
    const int64_t size = bf16 ? 2 : 4, panel = MR_TILE * 32 * size;
    const char *p = v;
    int64_t d = 0;
    if (COLS_OF(rows) == 4)
        for (; d + 64 <= ldy; d += 64, p += 2 * panel, ahead += 2 * MR_TILE * 64)
            values_cols(rows, 4, 0, s, from, to, p, bf16, dots, y + d, ldy, false, ahead);
    for (; d < ldy; d += 32, p += panel, ahead += MR_TILE * 64)
        values_panel(rows, s, from, to, p, bf16, dots, y + d, ldy, false, ahead);
}

/* CALL(rows, bf16, dots) with constants; a case beyond the tile is never reached, and is clipped so
 * that it compiles to the largest one. */
#define CLIP(n) ((n) < TILE_ROWS ? (n) : TILE_ROWS)
#define CASE(n, CALL, bf16, dots)                                                                  \
    case n:                                                                                        \
        CALL(CLIP(n), bf16, dots);                                                                 \
        break;
#define WITH_ROWS(rows, CALL, bf16, dots)                                                          \
    switch (rows) {                                                                                \
        CASE(1, CALL, bf16, dots)                                                                  \
        CASE(2, CALL, bf16, dots)                                                                  \
        CASE(3, CALL, bf16, dots)                                                                  \
        CASE(4, CALL, bf16, dots)                                                                  \
        CASE(5, CALL, bf16, dots)                                                                  \
        CASE(6, CALL, bf16, dots)                                                                  \
        CASE(7, CALL, bf16, dots)                                                                  \
        CASE(8, CALL, bf16, dots)                                                                  \
        CASE(9, CALL, bf16, dots)                                                                  \
        CASE(10, CALL, bf16, dots)                                                                 \
        CASE(11, CALL, bf16, dots)                                                                 \
        CASE(12, CALL, bf16, dots)                                                                 \
    }

/* Panels in place. */
static void tile_scores(int rows, int panels, const float *q, const void *k, bool bf16, bool dots,
                        int64_t dk, float *s, const char *ahead)
{
#define CALL(n, bf16, dots) scores_panels(n, panels, q, k, dk, bf16, dots, s, ahead)
    if (LANES_DOT && dots)
        WITH_ROWS(rows, CALL, true, true)
    else if (bf16)
        WITH_ROWS(rows, CALL, true, false)
    else
        WITH_ROWS(rows, CALL, false, false)
#undef CALL
}

static void tile_values(int rows, const float *s, int from, int to, const void *v, bool bf16,
                        bool dots, float *y, int64_t ldy, const char *ahead)
{
#define CALL(n, bf16, dots) values_tile(n, s, from, to, v, bf16, dots, y, ldy, ahead)
    if (LANES_DOT && dots)
        WITH_ROWS(rows, CALL, true, true)
    else if (bf16)
        WITH_ROWS(rows, CALL, true, false)
    else
        WITH_ROWS(rows, CALL, false, false)
#undef CALL
}

/* A panel of floats, with dots of pairs. */
static void panel_scores(int rows, const float *q, const float *k, bool dots, int64_t dk, float *s)
{
#define CALL(n, bf16, dots) scores_panels(n, 1, q, k, dk, bf16, dots, s, NULL)
    if (LANES_DOT && dots)
        WITH_ROWS(rows, CALL, false, true)
    else
        WITH_ROWS(rows, CALL, false, false)
#undef CALL
}

static void panel_values(int rows, const float *s, int from, int to, const float *v, bool dots,
                         float *y, int64_t ldy, bool fresh)
{
#define CALL(n, bf16, dots) values_panel(n, s, from, to, v, bf16, dots, y, ldy, fresh, NULL)
    if (LANES_DOT && dots)
        WITH_ROWS(rows, CALL, false, true)
    else
        WITH_ROWS(rows, CALL, false, false)
#undef CALL
}

/* y += P V of one row and the one position of pair j that bits `half` of its words hold, over ldy
 * columns of a tile, or of a panel of pairs: the weight of the other is 0, its value may be NaN. */
static void half_values(const float *s, int j, int32_t half, const void *v, bool bf16, float *y,
                        int64_t ldy)
{
    v16f x = v16f_set1(s[j]);
    for (int64_t d = 0; d < ldy; d += 16) {
        int64_t line = d / 32 * MR_TILE + (bf16 ? 2 * j : j);
        v16i val = v16i_bits(load_half(v, line, d % 32 / 16, bf16, true, true));
        val = v16i_and(val, v16i_set1(half));
        v16f_store(y + d, multiply(v16f_load(y + d), x, v16f_bits(val), true));
    }
}
