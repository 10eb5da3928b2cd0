/* One row against codes in planes: weights stream from memory, bits become bytes in registers.
 *
 * Part of matmul_lanes.h, for wide columns.  A step is a block of 32 k: quad i of it has its low four
 * bits in nibbles of line i/2, a pair of bits in line i/4, a single one in the one line of the block
 * (matmul_core.h).  Each width and each kind of scale is a function of its own; the formulas are
 * those of matmul_i8_lanes.h and matmul_f32_lanes.h.  Sub-scales of a unit become bytes once, in
 * the L1 cache, since they lie as bits across words.
 * Two runs in a group (SUB16) are combined as floats, exactly: with the slot's high parts left out
 * each half's sum is at most 16*32*127, times a sub-scale of 8 bits and added below 2^24; then one
 * FMA adds the slot, rounding where the conversion of the whole integer would.
 */

enum {
    CODES_NV = 4,
    CODES_ROW = 64 * CODES_NV,
    CODES_NUMBERS = 8 * CODES_ROW + 64, /* 32 bytes per output, and what number_u8 may read */
    CODES_BYTES = 8 * CODES_ROW + 64    /* a block of 32 k */
};

typedef enum codes_scale {
    CODES_FLAT,   /* a number per run of 32 k or more, and a bias if the layout has them */
    CODES_E8M0,   /* a byte per 32 k */
    CODES_SUB,    /* sub-scales of 32 k */
    CODES_SUBMIN, /* and mins */
    CODES_SUB16,  /* sub-scales of 16 k */
    CODES_SUBMIN16,
    CODES_E4M3 /* a byte per 16 k */
} codes_scale;

/* What tells one form from another; constant in every function. */
typedef struct codes_form {
    int bits;
    const uint8_t *table;
    const float *floats; /* its values */
    bool u8;
    codes_scale kind;
} codes_form;

INLINE void codes_ask(const codes_at *at, int bits)
{
    foreach (v, CODES_NV) {
        foreach (i, 4)
            if (bits >= 4)
                row_ask(at->fours + CODES_ROW * i + 64 * v);
        foreach (i, 2)
            if (bits == 2 || bits == 3 || bits == 6)
                row_ask(at->pairs + CODES_ROW * i + 64 * v);
        if (bits & 1)
            row_ask(at->ones + 64 * v);
    }
}

/* ---- scales of a unit --------------------------------------------------------------------- */

/* d and the negated min's scale of the lane blocks of a unit; its small integers as lines of U8. */
typedef struct codes_unit {
    v16f d[CODES_NV], less[CODES_NV];
    const uint8_t *sides, *numbers;
} codes_unit;

/* Bits across words (matmul_core.h) to bytes: line i/4 has number i in byte i%4 of an output. */
INLINE void codes_spread(int bits, const uint8_t *sides, uint8_t *to)
{
    const int lines = bits == 2 ? 8 : 4;
    foreach (v, CODES_NV) {
        const uint8_t *own = sides + 64 * v;
        foreach (t, lines) {
            v16i q = v16i_shr(load_line(own + CODES_ROW * (t / 2)), t % 2 * 4);
            q = v16i_and(q, v16i_set1(0x0f0f0f0f));
            if (bits != 2) {
                v16i high = load_line(own + 2 * CODES_ROW);
                high = t < 2 ? v16i_shl(high, 4 - 2 * t) : v16i_shr(high, 2 * t - 4);
                q = v16i_or(q, v16i_and(high, v16i_set1(0x30303030)));
            }
            v16i_store((int32_t *)(void *)(to + CODES_ROW * t + 64 * v), q);
        }
    }
}

INLINE codes_unit codes_unit_of(codes_form f, const uint8_t *sides, uint8_t *numbers)
{
    codes_unit u = {.sides = sides, .numbers = numbers};
    const bool bytes = f.bits == 6 || f.table,
               mins = f.kind == CODES_SUBMIN || f.kind == CODES_SUBMIN16;
    if (f.kind < CODES_SUB || f.kind == CODES_E4M3)
        return u;
    foreach (v, CODES_NV)
        code_supers(f.bits, bytes, mins, CODES_NV, sides, v, &u.d[v], &u.less[v]);
    if (!bytes)
        codes_spread(f.bits, sides, numbers);
    return u;
}

/* Small integers of runs j, j+1 .. of lane block v: sub-scale j + i, i below what divides j. */
INLINE v16f codes_sub(codes_form f, const codes_unit *u, size_t j, size_t i, size_t v)
{
    if (f.bits == 6 || f.table)
        return v16f_from_i(
            v16i_load_i8((const int8_t *)u->sides + 16 * CODES_NV * (j + i) + 16 * v));
    v16f n = number_u8(u->numbers + CODES_ROW * (j / 4) + j % 4 + 64 * v + i, 0);
    return f.bits == 3 ? v16f_sub(n, v16f_set1(32.0f)) : n;
}

/* Min j + i: they come after 8 sub-scales, or 16. */
INLINE v16f codes_min(codes_form f, const codes_unit *u, size_t j, size_t i, size_t v)
{
    return codes_sub(f, u, (f.kind == CODES_SUBMIN ? 8 : 16) + j, i, v);
}

/* Scale and bias of run j + i; without a bias *b is 0. */
INLINE void codes_run(codes_form f, const mr_layout *l, const codes_unit *u, size_t j, size_t i,
                      int v, v16f *s, v16f *b)
{
    const size_t outputs = 16 * CODES_NV, o = 16 * (size_t)v;
    *b = v16f_zero();
    if (f.kind == CODES_FLAT) {
        const size_t size = number_size(l->scale_dtype);
        *s = load_numbers(u->sides + o * size, l->scale_dtype);
        if (l->bias)
            *b = load_numbers(u->sides + (outputs + o) * size, l->scale_dtype);
    } else if (f.kind == CODES_E8M0) {
        *s = half_e8m0(v16i_load_u8(u->sides + o));
    } else if (f.kind == CODES_E4M3) {
        *s = half_e4m3(v16i_load_u8(u->sides + (j + i) * outputs + o));
    } else {
        *s = v16f_mul(u->d[v], codes_sub(f, u, j, i, (size_t)v));
        if (f.kind == CODES_SUBMIN || f.kind == CODES_SUBMIN16)
            *b = v16f_mul(u->less[v], codes_min(f, u, j, i, (size_t)v));
    }
}

/* ---- int8 activations --------------------------------------------------------------------- */

/* The eight quads of a block: the first four into low, the others into high. */
INLINE void codes_dots(const codes_at *at, const uint8_t *values, codes_form f, v16i *low,
                       v16i *high)
{
    foreach (i, 8) {
        v16i *acc = i < 4 ? low : high;
        if (f.u8) {
            x8 x = x_u8(values + (U8_WIDE ? 8 : 4) * i);
            foreach (v, CODES_NV)
                acc[v] = dot_u8(acc[v], w_u8(codes_quad(at, v, i, f.bits, f.table, true)), x);
        } else {
            x4 x = x_u4(values + 4 * i);
            foreach (v, CODES_NV)
                acc[v] = dot_u4(acc[v], codes_quad(at, v, i, f.bits, f.table, true), x);
        }
    }
}

/* `from` and the products of the slot's high parts; quad i of the block `at`. */
INLINE v16i codes_slot(const codes_at *at, int v, int i, codes_form f, int r, v16i from)
{
    v16i q = codes_quad(at, v, i, f.bits, f.table, false);
    return f.u8 ? dot_u8(from, w_u8(q), slot_u8(r)) : dot_u4(from, q, slot_u4(r));
}

/* What a group's record says, for all lane blocks. */
typedef struct codes_record {
    v16m first;           /* the slot is in the first half */
    v16f step, sums[2];   /* 2^e; SUBMIN16: the sums of the halves */
    v16i low, high, slot; /* where sums start */
    int p, r;
} codes_record;

INLINE codes_record codes_record_of(codes_form f, const uint8_t *x)
{
    static const float powers[7] = {1, 2, 4, 8, 16, 32, 64};
    const bool halves = f.kind >= CODES_SUB16, starts = f.kind != CODES_SUBMIN16;
    codes_record r = {.p = RECORD(x, p), .r = RECORD(x, r)};
    v16i low = v16i_set1(RECORD(x, start)), high = v16i_set1(RECORD(x, u.start_hi));
    r.first = record_first(x);
    r.step = v16f_set1(powers[RECORD(x, e)]);
    r.sums[0] = v16f_from_i(low);
    r.sums[1] = v16f_from_i(high);
    r.low = starts ? low : v16i_zero();
    r.high = starts && halves ? high : v16i_zero();
    r.slot = halves ? v16i_set1(record_slot(x)) : v16i_zero();
    return r;
}

/* y after a group whose runs are 32 k or more. */
INLINE v16f codes_scaled(codes_form f, const mr_layout *l, const codes_unit *u, size_t j, int v,
                         const uint8_t *record, v16i sum, v16f y)
{
    v16f s, b;
    codes_run(f, l, u, j, 0, v, &s, &b);
    if (f.kind == CODES_SUBMIN || (f.kind == CODES_FLAT && l->bias))
        y = v16f_fma(b, v16f_set1(record_a(record)), y);
    return v16f_fma(s, v16f_from_i(shift_up(sum, RECORD(record, e))), y);
}

/* The same with two runs of 16 k; j is the first. */
INLINE v16f codes_scaled_16(codes_form f, const codes_unit *u, size_t j, int v,
                            const codes_record *r, v16i low, v16i high, v16i slot, v16f y)
{
    v16f sub0 = codes_sub(f, u, j, 0, (size_t)v), sub1 = codes_sub(f, u, j, 1, (size_t)v);
    if (f.kind == CODES_SUBMIN16) {
        v16f min0 = codes_min(f, u, j, 0, (size_t)v), min1 = codes_min(f, u, j, 1, (size_t)v);
        y = v16f_fma(v16f_mul(u->less[v], r->step),
                     v16f_fma(min0, r->sums[0], v16f_mul(min1, r->sums[1])), y);
    }
    return v16f_fma(v16f_mul(u->d[v], r->step), subs_sum(sub0, low, sub1, high, r->first, slot), y);
}

/* Scales that are no integers. */
INLINE v16f codes_scaled_e4m3(codes_form f, const mr_layout *l, const codes_unit *u, size_t j,
                              int v, const codes_record *r, const uint8_t *record, v16i low,
                              v16i high, v16i slot, v16f y)
{
    const int e = RECORD(record, e);
    v16f s0, s1, b;
    slots_apart(r->first, v16i_shl(slot, 7), &low, &high);
    codes_run(f, l, u, j, 0, v, &s0, &b);
    codes_run(f, l, u, j, 1, v, &s1, &b);
    y = v16f_fma(s0, v16f_from_i(shift_up(low, e)), y);
    return v16f_fma(s1, v16f_from_i(shift_up(high, e)), y);
}

/* One activation group; g counts them within the unit. */
INLINE void codes_group(codes_form f, const mr_column *c, const codes_unit *u, const uint8_t *unit,
                        size_t g, int group, const uint8_t *x, const codes_record *r,
                        v16f y[CODES_NV])
{
    const bool halves = f.kind >= CODES_SUB16;
    const size_t k_unit = (size_t)c->layout->k_unit, blocks = (size_t)group / 32;
    const uint8_t *values = x + sizeof(mr_qgroup);
    v16i low[CODES_NV], high[CODES_NV];
    foreach (v, CODES_NV) {
        low[v] = r->low;
        high[v] = r->high;
    }
    for (size_t b = 0; b < blocks; b++) {
        codes_at at = codes_block(unit, k_unit, CODES_NV, f.bits, g * blocks + b);
        codes_ask(&at, f.bits);
        codes_dots(&at, values + 32 * b * (f.u8 && U8_WIDE ? 2 : 1), f, low, halves ? high : low);
    }
    const size_t in = group == 32 ? 0 : (size_t)r->p / 8;
    codes_at at = codes_block(unit, k_unit, CODES_NV, f.bits, g * blocks + in);
    foreach (v, CODES_NV) {
        v16i slot = codes_slot(&at, v, r->p % 8, f, r->r, r->slot);
        if (!halves)
            y[v] =
                codes_scaled(f, c->layout, u, g, v, x, v16i_add(low[v], v16i_shl(slot, 7)), y[v]);
        else if (f.kind == CODES_E4M3)
            y[v] = codes_scaled_e4m3(f, c->layout, u, 2 * g, v, r, x, low[v], high[v], slot, y[v]);
        else
            y[v] = codes_scaled_16(f, u, 2 * g, v, r, low[v], high[v], slot, y[v]);
    }
}

INLINE void codes_row_i8(codes_form f, const mr_column *c, int streams, int64_t units,
                         const mr_qform *q, const uint8_t *x, float *const *out)
{
    _Alignas(64) uint8_t numbers[2][CODES_NUMBERS];
    v16f y[2][CODES_NV];
    codes_unit side[2];
    const uint8_t *unit[2];
    const int group = f.kind == CODES_FLAT ? q->group : 32;
    const size_t groups = (size_t)(c->layout->k_unit / group), step = q->step, next = c->unit;
    const mr_column own = *c;
    foreach (s, streams) {
        unit[s] = c[s].data;
        foreach (v, CODES_NV)
            y[s][v] = v16f_load(out[s] + 16 * v);
    }
    for (int64_t n = 0; n < units; n++) {
        foreach (s, streams) {
            for (size_t i = own.lines; i < next; i += 64)
                row_ask(unit[s] + i);
            side[s] = codes_unit_of(f, unit[s] + own.lines, numbers[s]);
        }
        for (size_t g = 0; g < groups; g++, x += step) {
            const codes_record r = codes_record_of(f, x);
            foreach (s, streams)
                codes_group(f, &own, &side[s], unit[s], g, group, x, &r, y[s]);
        }
        foreach (s, streams)
            unit[s] += next;
    }
    foreach (s, streams)
        foreach (v, CODES_NV)
            v16f_store(out[s] + 16 * v, y[s][v]);
}

/* ---- f32 activations ---------------------------------------------------------------------- */

/* Quads from..to of a block: the chain goes on.  `lines` are U8's, or U4's if `nibbles`. */
INLINE void codes_chain(codes_form f, const uint8_t *lines, bool nibbles, bool near, int from,
                        int to, const float *x, bool twice, const v16f s[CODES_NV],
                        const v16f b[CODES_NV], v16f y[CODES_NV])
{
    const int each = nibbles ? 8 : 4;
    for (int i = from; i < to; i += each / 4) {
        const uint8_t *line = lines + CODES_ROW * (nibbles ? i / 2 : i);
        foreach (j, each) {
            v16f xk = v16f_set1(x[4 * i + j]);
            foreach (v, CODES_NV) {
                v16f n = nibbles ? NUMBER_NIBBLE(line + 64 * v, j, f.floats)
                         : near  ? NUMBER_NEAR(line + 64 * v, j)
                                 : NUMBER_BYTE(f.bits, line + 64 * v, j);
                v16f w = twice ? v16f_add(v16f_mul(s[v], n), b[v]) : v16f_fma(s[v], n, b[v]);
                y[v] = v16f_fma(w, xk, y[v]);
            }
        }
    }
}

INLINE void codes_row_f32(codes_form f, const mr_column *c, int64_t k1, const float *x, bool twice,
                          float *out)
{
    _Alignas(64) uint8_t numbers[CODES_NUMBERS], room[64 + CODES_BYTES];
    uint8_t *bytes = room + 64;
    const bool nibbles = f.bits == 4 && (!f.table || NIBBLE_TABLES);
    const bool near = f.bits == 6 && f.kind == CODES_SUB16;
    const int runs = f.kind >= CODES_SUB16 ? 2 : 1; /* of a block */
    /* (What is added to numbers costs no rounding: Q6_K's scales are short.) */
    const float zero =
        f.floats && nibbles ? 0.0f : (float)-c->layout->zero - (near ? NUMBER_MORE : 0.0f);
    const size_t k_unit = (size_t)c->layout->k_unit, blocks = k_unit / 32;
    const mr_layout *l = c->layout;
    const uint8_t *unit = c->data;
    v16f y[CODES_NV], s[CODES_NV], b[CODES_NV];
    foreach (v, CODES_NV)
        y[v] = v16f_load(out + 16 * v);
    for (int64_t k = 0; k < k1; k += l->k_unit, unit += c->unit) {
        codes_unit u = codes_unit_of(f, unit + c->lines, numbers);
        for (size_t i = c->lines; i < c->unit; i += 64)
            row_ask(unit + i);
        for (size_t g = 0; g < blocks; g++, x += 32) {
            codes_at at = codes_block(unit, k_unit, CODES_NV, f.bits, g);
            codes_ask(&at, f.bits);
            if (!nibbles)
                foreach (i, 8)
                    foreach (v, CODES_NV)
                        v16i_store((int32_t *)(void *)(bytes + CODES_ROW * i + 64 * v),
                                   codes_quad(&at, v, i, f.bits, f.table, true));
            foreach (h, runs) {
                foreach (v, CODES_NV) {
                    codes_run(f, l, &u, (size_t)runs * g, (size_t)h, v, &s[v], &b[v]);
                    if (!l->bias)
                        b[v] = v16f_mul(s[v], v16f_set1(zero));
                }
                codes_chain(f, nibbles ? at.fours : bytes, nibbles, near, 4 * h,
                            h + 1 == runs ? 8 : 4, x, twice, s, b, y);
            }
        }
    }
    foreach (v, CODES_NV)
        v16f_store(out + 16 * v, y[v]);
}

/* ---- the forms ---------------------------------------------------------------------------- */

typedef void codes_i8_fn(const mr_column *c, int n, int64_t units, const mr_qform *f,
                         const uint8_t *x, float *const *out);
typedef void codes_f32_fn(const mr_column *c, int64_t k, const float *x, float *out);

typedef struct codes_fns {
    codes_i8_fn *i8;
    codes_f32_fn *f32;
} codes_fns;

#define CODES_FNS(name, ...)                                                                       \
    static __attribute__((noinline)) void codes_i8_1_##name(                                       \
        const mr_column *c, int64_t units, const mr_qform *f, const uint8_t *x, float *const *out) \
    {                                                                                              \
        codes_row_i8((codes_form){__VA_ARGS__}, c, 1, units, f, x, out);                           \
    }                                                                                              \
    static __attribute__((noinline)) void codes_i8_2_##name(                                       \
        const mr_column *c, int64_t units, const mr_qform *f, const uint8_t *x, float *const *out) \
    {                                                                                              \
        codes_row_i8((codes_form){__VA_ARGS__}, c, ROW_STREAMS, units, f, x, out);                 \
    }                                                                                              \
    static void codes_i8_##name(const mr_column *c, int n, int64_t units, const mr_qform *f,       \
                                const uint8_t *x, float *const *out)                               \
    {                                                                                              \
        (n == 1 ? codes_i8_1_##name : codes_i8_2_##name)(c, units, f, x, out);                     \
    }                                                                                              \
    static void codes_f32_##name(const mr_column *c, int64_t k, const float *x, float *out)        \
    {                                                                                              \
        const codes_form form = {__VA_ARGS__};                                                     \
        if (form.kind == CODES_FLAT && two_roundings(c->layout))                                   \
            codes_row_f32(form, c, k, x, true, out);                                               \
        else                                                                                       \
            codes_row_f32(form, c, k, x, false, out);                                              \
    }
CODES_FNS(2, 2, NULL, NULL, false, CODES_FLAT)
CODES_FNS(3, 3, NULL, NULL, false, CODES_FLAT)
CODES_FNS(5, 5, NULL, NULL, false, CODES_FLAT)
CODES_FNS(6, 6, NULL, NULL, false, CODES_FLAT)
CODES_FNS(iq4_nl, 4, codes_iq4, codes_iq4_floats, true, CODES_FLAT)
CODES_FNS(mxfp4, 4, codes_e2m1, codes_e2m1_floats, false, CODES_E8M0)
CODES_FNS(q4_k, 4, NULL, NULL, false, CODES_SUBMIN)
CODES_FNS(q5_k, 5, NULL, NULL, false, CODES_SUBMIN)
CODES_FNS(iq4_xs, 4, codes_iq4, codes_iq4_floats, true, CODES_SUB)
CODES_FNS(q2_k, 2, NULL, NULL, false, CODES_SUBMIN16)
CODES_FNS(q3_k, 3, NULL, NULL, false, CODES_SUB16)
CODES_FNS(q6_k, 6, NULL, NULL, false, CODES_SUB16)
CODES_FNS(nvfp4, 4, codes_e2m1, codes_e2m1_floats, false, CODES_E4M3)

/* The functions for a wide column of codes. */
static const codes_fns *codes_fns_of(const mr_layout *l)
{
#define FNS(name)                                                                                  \
    {                                                                                              \
        codes_i8_##name, codes_f32_##name                                                          \
    }
    static const codes_fns flat[] = {FNS(2), FNS(3), {NULL, NULL}, FNS(5), FNS(6)};
    static const codes_fns subs[] = {FNS(q2_k), FNS(q3_k), FNS(q4_k), FNS(q5_k), FNS(q6_k)};
    static const codes_fns iq4[] = {FNS(iq4_nl), FNS(iq4_xs)}, e2m1[] = {FNS(mxfp4), FNS(nvfp4)};
#undef FNS
    const mr_code_form *f = &l->form;
    if (f->table == MR_TABLE_IQ4)
        return &iq4[f->sub];
    if (f->table == MR_TABLE_E2M1)
        return &e2m1[f->run == 16];
    return &(f->sub ? subs : flat)[f->bits - 2];
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
        codes_fns_of(c->layout)->i8(c, 1, units, f, x[0], &out);
        return;
    }
    const int parts = c->layout->k_unit / bytes.k_unit;
    /* Of plain bytes tiles of more rows make a panel of their own. */
    const int each = bytes.kind == MR_PACK_SUBS ? CODES_ROWS : 4;
    const size_t step = f->step * (size_t)(bytes.k_unit / f->group),
                 share = c->unit / (size_t)parts;
    for (int r0 = 0; r0 < rows; r0 += CODES_ROWS) {
        int n = rows - r0 < CODES_ROWS ? rows - r0 : CODES_ROWS;
        for (int64_t u = 0; u < units; u++) {
            const uint8_t *unit = c->data + (size_t)u * c->unit;
            unpack_unit_codes(c, unit, &panel, buffer);
            for (int p = 0; p < parts; p++) {
                for (size_t i = 0; parts > 1 && i < share;
                     i += 64) /* not all at once: few can be under way */
                    row_ask(unit + (size_t)p * share + i);
                for (int r = 0; r < n; r++)
                    at[r] = x[r0 + r] + ((size_t)u * (size_t)parts + (size_t)p) * step;
                panel.data = buffer + (size_t)p * panel.unit;
                for (int r = 0, now; r < n; r += now) {
                    now = n - r < each ? n - r : each;
                    tile_i8(&panel, 1, f, at + r, now, out + (r0 + r) * MR_TILE_OUT);
                }
            }
            panel.data = buffer;
        }
    }
}

static void codes_tile_f32(const mr_column *c, int64_t k, const float *const *x, int rows,
                           float *out)
{
    _Alignas(64) uint8_t buffer[CODES_PANEL];
    mr_layout bytes = mr_layout_bytes(c->layout);
    mr_column panel = panel_column(c, &bytes, buffer);
    const float *at[CODES_ROWS];
    if (rows == 1 && c->nv == CODES_NV) {
        codes_fns_of(c->layout)->f32(c, k, x[0], out);
        return;
    }
    for (int r0 = 0; r0 < rows; r0 += CODES_ROWS) {
        int n = rows - r0 < CODES_ROWS ? rows - r0 : CODES_ROWS;
        for (int64_t u = 0; u < k / c->layout->k_unit; u++) {
            unpack_unit_codes(c, c->data + (size_t)u * c->unit, &panel, buffer);
            for (int r = 0; r < n; r++)
                at[r] = x[r0 + r] + u * c->layout->k_unit;
            tile_f32(&panel, c->layout->k_unit, at, n, out + r0 * MR_TILE_OUT);
        }
    }
}
