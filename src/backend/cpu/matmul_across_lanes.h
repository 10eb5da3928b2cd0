/* Weights whose groups run along outputs, on f32: tiles and panels.
 *
 * Part of matmul_lanes.h.  A scale serves lanes instead of k, so it comes as a broadcast.  Where it serves
 * more than 16 lanes and four bits are looked up, the lookup is of the 16 weights themselves.
 */

enum { ACROSS_K = 8 }; /* of a unit */

/* How weights are made; literals after inlining. */
typedef struct across_how {
    int bits;   /* 4, 8; 0: E4M3 */
    bool twice; /* rounded twice */
    int each;   /* so many lane blocks of the tile have one scale */
} across_how;

/* Weights k+j of a unit, of lane blocks v0..; of a column with so many groups, block v in v >> up. */
INLINE void across_weights(const mr_column *c, const uint8_t *unit, int v0, int nv, int groups,
                           int up, int j, across_how how, v16f w[MAX_NV])
{
    static const float numbers[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    const bool tables = NIBBLE_TABLES && how.each > 1 && how.bits == 4 && !how.twice;
    const uint8_t *lines = unit + 64 * ((how.bits == 4 ? 0 : j / 4 * c->nv) + v0);
    const float *sides = (const float *)(const void *)(unit + c->lines) + j * groups;
    v16f s = v16f_zero(), b = s, q;
    float table[16];
    foreach (v, nv) {
        const uint8_t *line = lines + 64 * v;
        if (v % how.each == 0) {
            const float *own = sides + ((v0 + v) >> up);
            s = v16f_set1(own[0]);
            b = v16f_set1(own[ACROSS_K * groups]);
            if (tables)
                v16f_store(table, v16f_fma(s, v16f_load(numbers), b));
        }
        if (tables) {
            w[v] = NUMBER_NIBBLE(line, j, table);
        } else if (how.bits == 0) {
            w[v] = e4m3_weight(load_line(line), j % 4, s);
        } else {
            q = how.bits == 4 ? NUMBER_NIBBLE(line, j, NULL) : number_u8(line, j % 4);
            w[v] = how.twice ? v16f_add(v16f_mul(s, q), b) : v16f_fma(s, q, b);
        }
    }
}

/* The first k1 of lane blocks v0.., against `rows` rows; 0: as f32 to a panel of the column. */
INLINE void across_tile(const mr_column *c, int v0, int64_t k1, const float *const *x, int rows,
                        int nv, across_how how, float *out)
{
    v16f acc[MAX_ROWS][MAX_NV], w[MAX_NV];
    const uint8_t *unit = c->data;
    const int groups = mr_across_groups(c->layout, c->nv), up = groups == c->nv       ? 0
                                                                : groups * 2 == c->nv ? 1
                                                                                      : 2;
    foreach (r, rows)
        foreach (v, nv)
            acc[r][v] = v16f_load(out + r * MR_TILE_OUT + 16 * (v0 + v));
    for (int64_t k = 0; k < k1; k += ACROSS_K, unit += c->unit) {
        for (size_t i = 0; rows && v0 == 0 && i < c->unit; i += 64)
            row_ask(unit + i, mr_column_far(c, unit));
        foreach (j, ACROSS_K) {
            if (k + j >= k1)
                continue;
            across_weights(c, unit, v0, nv, groups, up, j, how, w);
            foreach (r, rows)
                foreach (v, nv)
                    acc[r][v] = v16f_fma(w[v], v16f_set1(x[r][k + j]), acc[r][v]);
            if (rows == 0)
                foreach (v, nv)
                    v16f_store(out + ((k + j) * c->nv + v0 + v) * 16, w[v]);
        }
    }
    foreach (r, rows)
        foreach (v, nv)
            v16f_store(out + r * MR_TILE_OUT + 16 * (v0 + v), acc[r][v]);
}

INLINE void across_column(const mr_column *c, int v, int64_t k, const float *const *x, int rows,
                          int nv, float *out)
{
    const mr_layout *l = c->layout;
    const bool twice = two_roundings(l);
    const int bits = l->kind == MR_PACK_ACROSS_E4M3 ? 0 : l->form.bits, each = l->form.run / 16;
#define ACROSS(...) across_tile(c, v, k, x, rows, nv, (across_how){__VA_ARGS__}, out)
    if (bits == 0)
        each < nv ? ACROSS(0, false, 1) : ACROSS(0, false, nv);
    else if (twice)
        bits == 4 ? ACROSS(4, true, 1) : ACROSS(8, true, 1);
    else if (bits == 8)
        each < nv ? ACROSS(8, false, 1) : ACROSS(8, false, nv);
    else if (each < nv)
        each == 2 ? ACROSS(4, false, 2) : ACROSS(4, false, 1);
    else
        ACROSS(4, false, nv);
#undef ACROSS
}

static void unpack_across(const mr_column *c, int64_t k, float *panel)
{
    if (TILE_NV > 1 && c->nv == TILE_NV)
        across_column(c, 0, k, NULL, 0, TILE_NV, panel);
    else
        for (int v = 0; v < c->nv; v++)
            across_column(c, v, k, NULL, 0, 1, panel);
}
