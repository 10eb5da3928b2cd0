/* One row against codes in planes: weights stream from memory, bits become bytes in registers.
 *
 * Part of matmul_lanes.h, for wide columns.  A step is a block of 32 k: quad i of it has its low four
 * bits in nibbles of line i/2, a pair of bits in line i/4, a single one in the one line of the block
 * (matmul_core.h).  Each width and each kind of scale is a function of its own; the formula is the
 * one of matmul_i8_lanes.h.
 */

enum { CODES_AHEAD = 4096, CODES_NV = 4, CODES_ROW = 64 * CODES_NV };

typedef enum codes_scale {
    CODES_FLAT,   /* a number per run of 32 k or more, and a bias if the layout has them */
    CODES_E8M0,   /* a byte per 32 k */
    CODES_SUB,    /* sub-scales of 32 k */
    CODES_SUBMIN, /* and mins */
    CODES_SUB16,  /* sub-scales of 16 k */
    CODES_SUBMIN16,
    CODES_E4M3 /* a byte per 16 k */
} codes_scale;

/* The planes of one block of 32 k. */
typedef struct codes_at {
    const uint8_t *fours, *pairs, *ones;
} codes_at;

INLINE codes_at codes_block(const uint8_t *unit, size_t k_unit, int bits, size_t b)
{
    const size_t outputs = 16 * CODES_NV;
    return (codes_at){unit + 4 * CODES_ROW * b,
                      unit + (bits > 3 ? outputs * k_unit / 2 : 0) + 2 * CODES_ROW * b,
                      unit + outputs * k_unit * (size_t)(bits - 1) / 8 + CODES_ROW * b};
}

/* Quad i of lane block v as bytes. */
INLINE v16i codes_quad(const codes_at *at, int v, int i, int bits, const uint8_t *table)
{
    v16i q = v16i_zero();
    if (bits >= 4) {
        q = v16i_shr(load_line(at->fours + CODES_ROW * (size_t)(i / 2) + 64 * (size_t)v),
                     i % 2 * 4);
        q = v16i_and(q, v16i_set1(0x0f0f0f0f));
    }
    if (bits == 2 || bits == 3 || bits == 6) {
        v16i pair = load_line(at->pairs + CODES_ROW * (size_t)(i / 4) + 64 * (size_t)v);
        pair = v16i_and(v16i_shr(pair, i % 4 * 2), v16i_set1(0x03030303));
        q = bits == 6 ? v16i_or(q, v16i_shl(pair, 4)) : pair;
    }
    if (bits & 1) {
        v16i one = v16i_shr(load_line(at->ones + 64 * (size_t)v), i);
        q = v16i_or(q, v16i_shl(v16i_and(one, v16i_set1(0x01010101)), bits - 1));
    }
    return table ? v16i_lookup(table, q) : q;
}

INLINE void codes_ask(const codes_at *at, int bits)
{
    foreach (v, CODES_NV) {
        foreach (i, 4)
            if (bits >= 4)
                __builtin_prefetch(at->fours + CODES_AHEAD + CODES_ROW * i + 64 * v);
        foreach (i, 2)
            if (bits == 2 || bits == 3 || bits == 6)
                __builtin_prefetch(at->pairs + CODES_AHEAD + CODES_ROW * i + 64 * v);
        if (bits & 1)
            __builtin_prefetch(at->ones + CODES_AHEAD + 64 * v);
    }
}

/* The eight quads of a block: the first four into low, the others into high. */
INLINE void codes_dots(const codes_at *at, const uint8_t *values, int bits, const uint8_t *table,
                       bool u8, v16i *low, v16i *high)
{
    foreach (i, 8) {
        v16i *acc = i < 4 ? low : high;
        if (u8) {
            x8 x = x_u8(values + (U8_WIDE ? 8 : 4) * i);
            foreach (v, CODES_NV)
                acc[v] = dot_u8(acc[v], w_u8(codes_quad(at, v, i, bits, table)), x);
        } else {
            x4 x = x_u4(values + 4 * i);
            foreach (v, CODES_NV)
                acc[v] = dot_u4(acc[v], codes_quad(at, v, i, bits, table), x);
        }
    }
}

/* The slot's product, << 7. */
INLINE v16i codes_slot(const uint8_t *unit, size_t k_unit, size_t b, int v, int bits,
                       const uint8_t *table, bool u8, const uint8_t *record)
{
    unsigned p = (unsigned)RECORD(record, p);
    int r = RECORD(record, r);
    codes_at at = codes_block(unit, k_unit, bits, b + p / 8);
    v16i q = codes_quad(&at, v, (int)(p % 8), bits, table);
    return v16i_shl(
        u8 ? dot_u8(v16i_zero(), w_u8(q), slot_u8(r)) : dot_u4(v16i_zero(), q, slot_u4(r)), 7);
}

/* d and the negated min's scale of the lane blocks of a unit. */
typedef struct codes_supers {
    v16f d[CODES_NV], less[CODES_NV];
} codes_supers;

/* y of lane block v after a group whose runs are 32 k or more. */
INLINE v16f codes_scaled(const mr_column *c, const uint8_t *unit, int j, int v,
                         const uint8_t *record, int bits, bool bytes, codes_scale kind,
                         const codes_supers *supers, v16i sum, v16f y)
{
    const uint8_t *sides = unit + c->lines;
    const size_t outputs = 16 * CODES_NV, o = 16 * (size_t)v;
    v16f s, b;
    if (kind == CODES_FLAT) {
        mr_dtype type = c->layout->scale_dtype;
        size_t size = number_size(type);
        s = load_numbers(sides + o * size, type);
        if (c->layout->bias) {
            b = load_numbers(sides + (outputs + o) * size, type);
            y = v16f_fma(b, v16f_set1(record_a(record)), y);
        }
    } else if (kind == CODES_E8M0) {
        s = half_e8m0(v16i_load_u8(sides + o));
    } else {
        sub_scales(bits, bytes, kind == CODES_SUBMIN, CODES_NV, sides, j, v, supers->d[v],
                   supers->less[v], &s, &b);
        if (kind == CODES_SUBMIN)
            y = v16f_fma(b, v16f_set1(record_a(record)), y);
    }
    return v16f_fma(s, v16f_from_i(shift_up(sum, RECORD(record, e))), y);
}

/* The same with two runs of 16 k; j is the first. */
INLINE v16f codes_scaled_16(const mr_column *c, const uint8_t *unit, int j, int v,
                            const uint8_t *record, int bits, codes_scale kind,
                            const codes_supers *supers, v16i low, v16i high, v16f y)
{
    const bool bytes = bits == 6;
    const uint8_t *sides = unit + c->lines;
    const size_t outputs = 16 * CODES_NV, o = 16 * (size_t)v;
    if (kind == CODES_E4M3) {
        int e = RECORD(record, e);
        v16i b0 = v16i_load_u8(sides + (size_t)j * outputs + o);
        v16i b1 = v16i_load_u8(sides + (size_t)(j + 1) * outputs + o);
        y = v16f_fma(from_e4m3(b0, 0x1p119f), v16f_from_i(shift_up(low, e)), y);
        return v16f_fma(from_e4m3(b1, 0x1p119f), v16f_from_i(shift_up(high, e)), y);
    }
    const uint8_t *own = code_own(bytes, sides, v);
    v16f step = v16f_set1((float)(1 << RECORD(record, e)));
    v16i sub0 = code_number(bits, bytes, own, outputs, j),
         sub1 = code_number(bits, bytes, own, outputs, j + 1);
    if (bits == 3) {
        sub0 = v16i_sub(sub0, v16i_set1(32));
        sub1 = v16i_sub(sub1, v16i_set1(32));
    }
    if (kind == CODES_SUBMIN16) {
        v16i a0 = v16i_set1(RECORD(record, start)), a1 = v16i_set1(RECORD(record, u.start_hi));
        v16i sum = v16i_add(v16i_mul(code_number(bits, bytes, own, outputs, j + 16), a0),
                            v16i_mul(code_number(bits, bytes, own, outputs, j + 17), a1));
        y = v16f_fma(v16f_mul(supers->less[v], step), v16f_from_i(sum), y);
    }
    v16i sum = v16i_add(v16i_mul(sub0, low), v16i_mul(sub1, high));
    return v16f_fma(v16f_mul(supers->d[v], step), v16f_from_i(sum), y);
}

/* One activation group; g counts them within the unit. */
INLINE void codes_group(const mr_column *c, const uint8_t *unit, size_t g, int group,
                        const uint8_t *x, int bits, const uint8_t *table, bool u8, codes_scale kind,
                        const codes_supers *supers, v16f y[CODES_NV])
{
    const bool halves = kind >= CODES_SUB16;
    const size_t k_unit = (size_t)c->layout->k_unit, blocks = (size_t)group / 32;
    const uint8_t *values = x + sizeof(mr_qgroup);
    v16i low[CODES_NV], high[CODES_NV];
    foreach (v, CODES_NV) {
        bool starts = kind != CODES_SUBMIN16;
        low[v] = starts ? v16i_set1(RECORD(x, start)) : v16i_zero();
        high[v] = starts && halves ? v16i_set1(RECORD(x, u.start_hi)) : v16i_zero();
    }
    for (size_t b = 0; b < blocks; b++) {
        codes_at at = codes_block(unit, k_unit, bits, g * blocks + b);
        codes_ask(&at, bits);
        codes_dots(&at, values + 32 * b * (u8 && U8_WIDE ? 2 : 1), bits, table, u8, low,
                   halves ? high : low);
    }
    bool first = RECORD(x, p) < 4;
    foreach (v, CODES_NV) {
        v16i slot = codes_slot(unit, k_unit, g * blocks, v, bits, table, u8, x);
        if (!halves) {
            y[v] = codes_scaled(c, unit, (int)g, v, x, bits, table != NULL, kind, supers,
                                v16i_add(low[v], slot), y[v]);
            continue;
        }
        low[v] = first ? v16i_add(low[v], slot) : low[v];
        high[v] = first ? high[v] : v16i_add(high[v], slot);
        y[v] =
            codes_scaled_16(c, unit, 2 * (int)g, v, x, bits, kind, supers, low[v], high[v], y[v]);
    }
}

INLINE void codes_row(const mr_column *c, int64_t units, const mr_qform *f, const uint8_t *x,
                      int bits, const uint8_t *table, bool u8, codes_scale kind, float *out)
{
    v16f y[CODES_NV];
    const int group = kind == CODES_FLAT ? f->group : 32;
    const size_t groups = (size_t)(c->layout->k_unit / group), step = f->step, next = c->unit;
    const mr_column own = *c;
    const uint8_t *unit = c->data;
    foreach (v, CODES_NV)
        y[v] = v16f_load(out + 16 * v);
    for (int64_t u = 0; u < units; u++, unit += next) {
        for (size_t i = own.lines; i < next; i += 64)
            __builtin_prefetch(unit + CODES_AHEAD + i);
        codes_supers supers;
        const bool mins = kind == CODES_SUBMIN || kind == CODES_SUBMIN16;
        if (kind >= CODES_SUB && kind != CODES_E4M3)
            foreach (v, CODES_NV)
                code_supers(bits, bits == 6 || table, mins, CODES_NV, unit + own.lines, v,
                            &supers.d[v], &supers.less[v]);
        for (size_t g = 0; g < groups; g++, x += step)
            codes_group(&own, unit, g, group, x, bits, table, u8, kind, &supers, y);
    }
    foreach (v, CODES_NV)
        v16f_store(out + 16 * v, y[v]);
}

typedef void codes_row_fn(const mr_column *c, int64_t units, const mr_qform *f, const uint8_t *x,
                          float *out);

#define CODES_ROW_FN(name, bits, table, u8, kind)                                                  \
    static __attribute__((noinline)) void name(const mr_column *c, int64_t units,                  \
                                               const mr_qform *f, const uint8_t *x, float *out)    \
    {                                                                                              \
        codes_row(c, units, f, x, bits, table, u8, kind, out);                                     \
    }
CODES_ROW_FN(codes_row_2, 2, NULL, false, CODES_FLAT)
CODES_ROW_FN(codes_row_3, 3, NULL, false, CODES_FLAT)
CODES_ROW_FN(codes_row_5, 5, NULL, false, CODES_FLAT)
CODES_ROW_FN(codes_row_6, 6, NULL, false, CODES_FLAT)
CODES_ROW_FN(codes_row_iq4_nl, 4, codes_iq4, true, CODES_FLAT)
CODES_ROW_FN(codes_row_mxfp4, 4, codes_e2m1, false, CODES_E8M0)
CODES_ROW_FN(codes_row_q4_k, 4, NULL, false, CODES_SUBMIN)
CODES_ROW_FN(codes_row_q5_k, 5, NULL, false, CODES_SUBMIN)
CODES_ROW_FN(codes_row_iq4_xs, 4, codes_iq4, true, CODES_SUB)
CODES_ROW_FN(codes_row_q2_k, 2, NULL, false, CODES_SUBMIN16)
CODES_ROW_FN(codes_row_q3_k, 3, NULL, false, CODES_SUB16)
CODES_ROW_FN(codes_row_q6_k, 6, NULL, false, CODES_SUB16)
CODES_ROW_FN(codes_row_nvfp4, 4, codes_e2m1, false, CODES_E4M3)

/* The function for a wide column of codes. */
static codes_row_fn *codes_row_of(const mr_layout *l)
{
    static codes_row_fn *const flat[] = {codes_row_2, codes_row_3, NULL, codes_row_5, codes_row_6};
    static codes_row_fn *const subs[] = {codes_row_q2_k, codes_row_q3_k, codes_row_q4_k,
                                         codes_row_q5_k, codes_row_q6_k};
    const mr_code_form *f = &l->form;
    if (f->table == MR_TABLE_IQ4)
        return f->sub ? codes_row_iq4_xs : codes_row_iq4_nl;
    if (f->table == MR_TABLE_E2M1)
        return f->run == 16 ? codes_row_nvfp4 : codes_row_mxfp4;
    return (f->sub ? subs : flat)[f->bits - 2];
}

static void tile_i8(const mr_column *c, int64_t units, const mr_qform *f, const uint8_t *const *x,
                    int rows, float *out);

/* Any rows of a column of codes: one directly, more through a buffer of one unit. */
static void codes_tile_i8(const mr_column *c, int64_t units, const mr_qform *f,
                          const uint8_t *const *x, int rows, float *out)
{
    _Alignas(64) uint8_t buffer[CODES_PANEL];
    mr_layout bytes = mr_layout_bytes(c->layout);
    mr_column panel = panel_column(c, &bytes, buffer);
    const uint8_t *at[CODES_ROWS];
    if (rows == 1 && c->nv == CODES_NV) {
        codes_row_of(c->layout)(c, units, f, x[0], out);
        return;
    }
    size_t step = f->step * (size_t)(c->layout->k_unit / f->group);
    for (int r0 = 0; r0 < rows; r0 += CODES_ROWS) {
        int n = rows - r0 < CODES_ROWS ? rows - r0 : CODES_ROWS;
        for (int64_t u = 0; u < units; u++) {
            unpack_unit_codes(c, c->data + (size_t)u * c->unit, &panel, buffer);
            for (int r = 0; r < n; r++)
                at[r] = x[r0 + r] + (size_t)u * step;
            tile_i8(&panel, c->layout->k_unit / bytes.k_unit, f, at, n, out + r0 * MR_TILE_OUT);
        }
    }
}
