/* Codes in planes: unpacked to byte panels, unit by unit.
 *
 * Part of matmul_lanes.h.  All formats but those of 4 and 8 plain bits come this way, with few rows
 * too: the bytes of one unit stay in the L1 cache between unpacking and the products, and then one
 * set of byte kernels serves every width.  Panels of runs of 32 and more carry each run's scale (and
 * bias) as numbers; with two runs per 32 k (SUBS) the integer sub-scales stay beside the bytes.
 */

enum {
    CODES_ROWS = 8,         /* rows that read a column through a buffer of one unit */
    CODES_PANEL = 20 * 1024 /* a unit of 64 outputs: bytes, and sides of 4 KiB at most */
};

/* Values of the tables, plus 128 and 12. */
static const uint8_t codes_iq4[16] = {1,   24,  45,  63,  79,  93,  106, 118,
                                      129, 141, 153, 166, 181, 197, 217, 241};
static const uint8_t codes_e2m1[16] = {12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0};
/* The values themselves. */
static const float codes_iq4_floats[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                           1,    13,   25,  38,  53,  69,  89,  113};
static const float codes_e2m1_floats[16] = {0, 1,  2,  3,  4,  6,  8,  12,
                                            0, -1, -2, -3, -4, -6, -8, -12};

/* The planes of one block of 32 k, and bytes from line to line of one lane block. */
typedef struct codes_at {
    const uint8_t *fours, *pairs, *ones;
    size_t row;
} codes_at;

INLINE codes_at codes_block(const uint8_t *lines, int nv, int bits, size_t b)
{
    const size_t row = 64 * (size_t)nv;
    const uint8_t *at = lines + row * (size_t)bits * b;
    return (codes_at){at, at + (bits > 3 ? 4 * row : 0), at + row * (size_t)(bits - 1), row};
}

/* Quad i of lane block v as bytes. */
INLINE v16i codes_quad(const codes_at *at, int v, int i, int bits, const uint8_t *table)
{
    const size_t own = 64 * (size_t)v;
    v16i q = v16i_zero();
    if (bits >= 4)
        q = v16i_field(load_line(at->fours + at->row * (size_t)(i / 2) + own), i % 2 * 4, 4, 0);
    if (bits == 2 || bits == 3 || bits == 6)
        q = v16i_or(q, v16i_field(load_line(at->pairs + at->row * (size_t)(i / 4) + own), i % 4 * 2,
                                  2, bits == 6 ? 4 : 0));
    if (bits & 1)
        q = v16i_or(q, v16i_field(load_line(at->ones + own), i, 1, bits - 1));
    return table ? v16i_lookup(table, q) : q;
}

/* The 8 lines of block g of a unit. */
INLINE void codes_lines(const mr_column *c, const uint8_t *unit, int g, int bits,
                        const uint8_t *table, uint8_t *to)
{
    const codes_at from = codes_block(unit + c->unit - c->lines, c->nv, bits, (size_t)g);
    for (int v = 0; v < c->nv; v++)
        foreach (i, 8)
            v16i_store((int32_t *)(void *)(to + from.row * (size_t)i + 64 * (size_t)v),
                       codes_quad(&from, v, i, bits, table));
}

/* E4M3 in the low byte of each lane, times `by` 2^-120, which is exact. */
INLINE v16f from_e4m3(v16i q, float by)
{
    v16i sign = v16i_shl(v16i_and(q, v16i_set1(0x80)), 24);
    v16i rest = v16i_shl(v16i_and(q, v16i_set1(0x7f)), 20);
    return v16f_mul(v16f_bits(v16i_or(sign, rest)), v16f_set1(by));
}

/* Half of a scale in E4M3: subnormals by their integer, as denormal floats are slow to multiply. */
INLINE v16f half_e4m3(v16i q)
{
    v16i rest = v16i_and(q, v16i_set1(0x7f)), sign = v16i_shl(v16i_sub(q, rest), 24);
    v16f normal = v16f_bits(v16i_add(v16i_shl(rest, 20), v16i_set1(119 << 23)));
    v16f small = v16f_mul(v16f_from_i(rest), v16f_set1(0x1p-10f));
    normal = v16f_select(v16i_gt(v16i_set1(8), rest), small, normal);
    return v16f_bits(v16i_or(v16i_bits(normal), sign));
}

/* Sides of the panel units of a packed unit: numbers as they are, or made of sub-scales. */
static void codes_sides(const mr_column *c, const uint8_t *unit, const mr_column *panel,
                        uint8_t *to)
{
    const mr_layout *l = c->layout;
    size_t outputs = 16 * (size_t)c->nv, size = number_size(l->scale_dtype);
    int runs = l->k_unit / panel->layout->k_unit;
    to += panel->lines;
    if (!l->form.sub && l->scale_dtype != MR_F8_E8M0) {
        memcpy(to, unit, outputs * size * (l->bias ? 2 : 1));
        return;
    }
    for (int j = 0; j < runs; j++, to += panel->unit)
        for (int v = 0; v < c->nv; v++) {
            float *at = (float *)(void *)to + 16 * v;
            v16f scale, bias;
            code_run_scales(l, c->nv, unit, j, v, &scale, &bias);
            v16f_store(at, scale);
            if (l->bias)
                v16f_store(at + outputs, bias);
        }
}

/* Sides of a SUBS unit. */
static void codes_subs(const mr_column *c, const uint8_t *unit, uint8_t *to)
{
    const mr_code_form *f = &c->layout->form;
    size_t outputs = 16 * (size_t)c->nv;
    int runs = f->block / f->run;
    for (int v = 0; v < c->nv; v++) {
        size_t o = 16 * (size_t)v;
        if (f->scale == MR_F8_E4M3) {
            for (int j = 0; j < runs; j++)
                v16f_store((float *)(void *)to + (size_t)j * outputs + o,
                           half_e4m3(v16i_load_u8(unit + (size_t)j * outputs + o)));
            continue;
        }
        const bool bytes = f->bits == 6;
        const uint8_t *own = code_own(bytes, unit, v);
        v16f super, less;
        code_supers(f->bits, bytes, f->bias, c->nv, unit, v, &super, &less);
        int8_t *sub = (int8_t *)to + o, *min = sub + (size_t)runs * outputs;
        float *d = (float *)(void *)(to + (size_t)runs * outputs * (f->bias ? 2 : 1)) + o;
        for (int j = 0; j < runs; j++, sub += outputs, min += outputs) {
            v16i n = code_number(f->bits, bytes, own, outputs, j);
            v16i_store_i8(sub, f->bits == 3 ? v16i_sub(n, v16i_set1(32)) : n);
            if (f->bias)
                v16i_store_i8(min, code_number(f->bits, bytes, own, outputs, j + 16));
        }
        v16f_store(d, super);
        if (f->bias)
            v16f_store(d + outputs, less);
    }
}

/* The same by the column's width and table. */
static void unpack_codes_block(const mr_column *c, const uint8_t *unit, int g, uint8_t *to)
{
    switch (c->layout->form.bits) {
    case 2:
        codes_lines(c, unit, g, 2, NULL, to);
        break;
    case 3:
        codes_lines(c, unit, g, 3, NULL, to);
        break;
    case 5:
        codes_lines(c, unit, g, 5, NULL, to);
        break;
    case 6:
        codes_lines(c, unit, g, 6, NULL, to);
        break;
    default:
        if (c->layout->form.table == MR_TABLE_IQ4)
            codes_lines(c, unit, g, 4, codes_iq4, to);
        else if (c->layout->form.table == MR_TABLE_E2M1)
            codes_lines(c, unit, g, 4, codes_e2m1, to);
        else
            codes_lines(c, unit, g, 4, NULL, to);
        break;
    }
}

/* One packed unit to its panel units. */
static void unpack_unit_codes(const mr_column *c, const uint8_t *unit, const mr_column *panel,
                              uint8_t *to)
{
    const int groups = panel->layout->k_unit / 32;
    for (int g = 0; g < c->layout->k_unit / 32; g++)
        unpack_codes_block(c, unit, g,
                           to + (size_t)(g / groups) * panel->unit +
                               (size_t)(g % groups) * 512 * (size_t)c->nv);
    if (panel->layout->kind == MR_PACK_SUBS)
        codes_subs(c, unit, to + panel->lines);
    else
        codes_sides(c, unit, panel, to);
}

INLINE mr_column panel_column(const mr_column *c, const mr_layout *bytes, const uint8_t *data)
{
    return (mr_column){.layout = bytes,
                       .data = data,
                       .unit = mr_layout_unit(bytes, c->nv),
                       .lines = mr_layout_lines(bytes, c->nv),
                       .nv = c->nv};
}

static void unpack_codes(const mr_column *c, int64_t units, uint8_t *panel)
{
    mr_layout bytes = mr_layout_bytes(c->layout);
    mr_column to = panel_column(c, &bytes, panel);
    size_t step = to.unit * (size_t)(c->layout->k_unit / bytes.k_unit);
    for (int64_t u = 0; u < units; u++)
        unpack_unit_codes(c, c->data + (size_t)u * c->unit, &to, panel + (size_t)u * step);
}

/* ---- f32 panels through a buffer of one unit ---- */

static void unpack_f32(const mr_column *c, int64_t k, float *panel);

static void codes_unpack_f32(const mr_column *c, int64_t k, float *panel)
{
    _Alignas(64) uint8_t buffer[CODES_PANEL];
    mr_layout bytes = mr_layout_bytes(c->layout);
    mr_column to = panel_column(c, &bytes, buffer);
    for (int64_t u = 0; u < k / c->layout->k_unit; u++) {
        unpack_unit_codes(c, c->data + (size_t)u * c->unit, &to, buffer);
        unpack_f32(&to, c->layout->k_unit, panel + u * c->layout->k_unit * 16 * c->nv);
    }
}
