/* One row, or few, against codes in planes: weights stream from memory, bits become bytes in registers.
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
    CODES_FEW = FEW_CODES,                  /* rows that are read without a buffer */
    CODES_HALVES_NV = TILE_NV == 1 ? 1 : 2, /* lane blocks of few rows, with two sums for each */
    CODES_NEAR = 16 * 1024,                 /* bytes of units that few rows after few rows read */
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

/* Where slots find the bytes of their quads: as they were unpacked, but those of 4 bits in their lines. */
typedef struct codes_quads {
    _Alignas(64) uint8_t at[16][CODES_ROW];
    const uint8_t *fours; /* of the group */
} codes_quads;

INLINE v16i codes_quad_again(codes_form f, const codes_quads *q, int p, int v)
{
    if (f.bits != 4)
        return load_line(q->at[p] + 64 * v);
    v16i c = v16i_shr(load_line(q->fours + CODES_ROW * (size_t)(p / 2) + 64 * v), p % 2 * 4);
    c = v16i_and(c, v16i_set1(0x0f0f0f0f));
    return f.table ? v16i_lookup(f.table, c) : c;
}

/* A unit of a column; `ask` is how far its asking got, which goes line after line, evenly over the groups. */
typedef struct codes_stream {
    const uint8_t *lines, *ask;
    size_t far;
    codes_unit side;
} codes_stream;

INLINE void codes_ask(const codes_stream *s, size_t from, size_t to)
{
    for (size_t i = from; i < to; i++)
        row_ask(s->ask + 64 * i, s->far);
}

/* Quad i of a block for all rows, lane blocks v0.. ; x are the block's values. */
INLINE void codes_dots(const codes_at *at, const uint8_t *const *x, size_t values, codes_form f,
                       int i, int rows, int v0, int nv, v16i acc[CODES_FEW][CODES_NV],
                       uint8_t (*quads)[CODES_ROW])
{
    v16i w[CODES_NV];
    foreach (v, nv) {
        w[v] = codes_quad(at, v0 + v, i, f.bits, f.table);
        if (f.bits != 4)
            v16i_store((int32_t *)(void *)(quads[i] + 64 * (v0 + v)), w[v]);
    }
    foreach (r, rows) {
        if (f.u8) {
            x8 own = x_u8(x[r] + values + (U8_WIDE ? 8 : 4) * i);
            foreach (v, nv)
                acc[r][v] = dot_u8(acc[r][v], w_u8(w[v]), own);
        } else {
            x4 own = x_u4(x[r] + values + 4 * i);
            foreach (v, nv)
                acc[r][v] = dot_u4(acc[r][v], w[v], own);
        }
    }
}

/* What a group's record says, for all lane blocks. */
typedef struct codes_record {
    v16m first;         /* the slot is in the first half */
    v16f step, sums[2]; /* 2^e; SUBMIN16: the sums of the halves */
    v16i slot;          /* where its sum starts */
    int p, r;
} codes_record;

INLINE codes_record codes_record_of(codes_form f, const uint8_t *x)
{
    static const float powers[7] = {1, 2, 4, 8, 16, 32, 64};
    codes_record r = {.p = RECORD(x, p), .r = RECORD(x, r)};
    r.first = record_first(x);
    r.step = v16f_set1(powers[RECORD(x, e)]);
    r.sums[0] = v16f_from_i(v16i_set1(RECORD(x, start)));
    r.sums[1] = v16f_from_i(v16i_set1(RECORD(x, u.start_hi)));
    r.slot = f.kind >= CODES_SUB16 ? v16i_set1(record_slot(x)) : v16i_zero();
    return r;
}

/* Where the sums of the values start. */
INLINE void codes_start(codes_form f, const uint8_t *x, int nv, v16i low[CODES_NV],
                        v16i high[CODES_NV])
{
    const bool starts = f.kind != CODES_SUBMIN16, halves = f.kind >= CODES_SUB16;
    foreach (v, nv) {
        low[v] = starts ? v16i_set1(RECORD(x, start)) : v16i_zero();
        high[v] = starts && halves ? v16i_set1(RECORD(x, u.start_hi)) : v16i_zero();
    }
}

/* r's start and the products of the slot's high parts. */
INLINE v16i codes_slot(v16i q, codes_form f, const codes_record *r)
{
    return f.u8 ? dot_u8(r->slot, w_u8(q), slot_u8(r->r)) : dot_u4(r->slot, q, slot_u4(r->r));
}

/* The slot's sum is below 2^15 unless bytes are. */
INLINE v16i codes_with_slot(codes_form f, v16i sum, v16i slot)
{
    return f.u8 ? v16i_add(sum, v16i_shl(slot, 7)) : add_slot(sum, slot);
}

/* y after a group whose runs are 32 k or more. */
INLINE v16f codes_scaled(codes_form f, const mr_layout *l, v16f s, v16f b, const uint8_t *record,
                         v16i sum, v16f y)
{
    if (f.kind == CODES_SUBMIN || (f.kind == CODES_FLAT && l->bias))
        y = v16f_fma(b, v16f_set1(record_a(record)), y);
    return v16f_fma(s, v16f_from_i(shift_up(sum, RECORD(record, e))), y);
}

/* The same with two runs of 16 k, of which these are the small integers. */
INLINE v16f codes_scaled_16(codes_form f, const codes_unit *u, int v, const v16f sub[2],
                            const v16f min[2], const codes_record *r, v16i low, v16i high,
                            bool slotted, v16i slot, v16f y)
{
    v16f sum = v16f_fma(sub[0], v16f_from_i(low), v16f_mul(sub[1], v16f_from_i(high)));
    if (f.kind == CODES_SUBMIN16)
        y = v16f_fma(v16f_mul(u->less[v], r->step),
                     v16f_fma(min[0], r->sums[0], v16f_mul(min[1], r->sums[1])), y);
    if (slotted)
        sum = subs_sum(sub[0], low, sub[1], high, r->first, slot);
    return v16f_fma(v16f_mul(u->d[v], r->step), sum, y);
}

/* Scales that are no integers. */
INLINE v16f codes_scaled_e4m3(const v16f s[2], const codes_record *r, const uint8_t *record,
                              v16i low, v16i high, v16i slot, v16f y)
{
    const int e = RECORD(record, e);
    slots_apart(r->first, v16i_shl(slot, 7), &low, &high);
    y = v16f_fma(s[0], v16f_from_i(shift_up(low, e)), y);
    return v16f_fma(s[1], v16f_from_i(shift_up(high, e)), y);
}

/* y of lane block v0 + v of all rows, after the sums of group g; the first `slots` have one. */
INLINE void codes_group_scale(codes_form f, const mr_layout *l, const codes_unit *u, size_t g,
                              const uint8_t *const *x, int rows, int slots, int v0, int v,
                              v16i low[CODES_FEW][CODES_NV], v16i high[CODES_FEW][CODES_NV],
                              const codes_quads *quads, v16f y[CODES_FEW][CODES_NV])
{
    const bool halves = f.kind >= CODES_SUB16;
    const int at = v0 + v;
    v16f s[2] = {v16f_zero(), v16f_zero()}, b[2] = {s[0], s[0]};
    for (int h = 0; h < (halves ? 2 : 1); h++) {
        if (f.kind == CODES_SUB16 || f.kind == CODES_SUBMIN16)
            s[h] = codes_sub(f, u, 2 * g, (size_t)h, (size_t)at);
        else
            codes_run(f, l, u, halves ? 2 * g : g, (size_t)h, at, &s[h], &b[h]);
        if (f.kind == CODES_SUBMIN16)
            b[h] = codes_min(f, u, 2 * g, (size_t)h, (size_t)at);
    }
    foreach (r, rows) {
        const codes_record record = codes_record_of(f, x[r]);
        const bool slotted = r < slots;
        v16i slot = v16i_zero(), sum = low[r][v];
        if (slotted)
            slot = codes_slot(codes_quad_again(f, quads, record.p, at), f, &record);
        if (halves && f.kind != CODES_E4M3) {
            y[r][at] =
                codes_scaled_16(f, u, at, s, b, &record, sum, high[r][v], slotted, slot, y[r][at]);
        } else if (halves) {
            y[r][at] = codes_scaled_e4m3(s, &record, x[r], sum, high[r][v], slot, y[r][at]);
        } else {
            if (slotted)
                sum = codes_with_slot(f, sum, slot);
            y[r][at] = codes_scaled(f, l, s[0], b[0], x[r], sum, y[r][at]);
        }
    }
}

/* One activation group of so many streams in turn, lane blocks v0..; g counts groups within the unit, x[r]
 * are its records. */
INLINE void codes_group(codes_form f, const mr_layout *l, const codes_stream *in, int streams,
                        size_t g, int group, const uint8_t *const *x, int rows, int slots, int v0,
                        int nv, v16f y[][CODES_FEW][CODES_NV])
{
    const size_t blocks = (size_t)group / 32;
    v16i low[2][CODES_FEW][CODES_NV], high[2][CODES_FEW][CODES_NV];
    codes_quads quads[2];
    foreach (s, streams) {
        quads[s].fours = codes_block(in[s].lines, CODES_NV, f.bits, g * blocks).fours;
        foreach (r, rows)
            codes_start(f, x[r], nv, low[s][r], high[s][r]);
    }
    for (size_t b = 0; b < blocks; b++) {
        const size_t values = sizeof(mr_qgroup) + 32 * b * (f.u8 && U8_WIDE ? 2 : 1),
                     lines = (CODES_NV * b + (size_t)v0) * (size_t)f.bits;
        codes_at at[2];
        foreach (s, streams)
            at[s] = codes_block(in[s].lines, CODES_NV, f.bits, g * blocks + b);
        foreach (i, 8)
            foreach (s, streams) {
                codes_ask(in + s, lines + (size_t)(nv * f.bits * i / 8),
                          lines + (size_t)(nv * f.bits * (i + 1) / 8));
                codes_dots(&at[s], x, values, f, i, rows, v0, nv,
                           f.kind >= CODES_SUB16 && i >= 4 ? high[s] : low[s], quads[s].at + 8 * b);
            }
    }
    foreach (s, streams)
        foreach (v, nv)
            codes_group_scale(f, l, &in[s].side, g, x, rows, slots, v0, v, low[s], high[s],
                              &quads[s], y[s]);
}

/* One row of one or two columns, or 2 to CODES_FEW rows of one; out[s] are a column's. */
INLINE void codes_rows_i8(codes_form f, const mr_column *c, int streams, int rows, int slots,
                          int64_t units, const mr_qform *q, const uint8_t *const *rows_at,
                          float *const *out)
{
    _Alignas(64) uint8_t numbers[2][CODES_NUMBERS];
    v16f y[2][CODES_FEW][CODES_NV];
    codes_stream in[2];
    const uint8_t *x[CODES_FEW];
    const mr_column own = *c;
    const int group = f.kind == CODES_FLAT ? q->group : 32,
              nv = f.kind >= CODES_SUB16 ? CODES_HALVES_NV : TILE_NV; /* of few rows */
    const size_t groups = (size_t)(own.layout->k_unit / group), step = q->step,
                 sides = own.unit - own.lines, lines = own.lines / 64 / groups;
    foreach (r, rows)
        x[r] = rows_at[r];
    foreach (s, streams) {
        in[s].ask = c[s].data;
        foreach (r, rows)
            foreach (v, CODES_NV)
                y[s][r][v] = v16f_load(out[s] + r * MR_TILE_OUT + 16 * v);
    }
    for (int64_t n = 0; n < units; n++) {
        foreach (s, streams) {
            in[s].side = codes_unit_of(f, in[s].ask, numbers[s]);
            in[s].lines = in[s].ask + sides;
        }
        for (size_t g = 0; g < groups; g++) {
            foreach (s, streams)
                in[s].far = mr_column_far(c + s, in[s].ask);
            if (rows == 1)
                codes_group(f, own.layout, in, streams, g, group, x, 1, slots, 0, CODES_NV, y);
            else
                foreach (s, streams)
                    for (int v = 0; v < CODES_NV; v += nv)
                        codes_group(f, own.layout, in + s, 1, g, group, x, rows, slots, v, nv,
                                    y + s);
            foreach (r, rows)
                x[r] += step;
            const size_t share = lines + sides / 64 * (g + 1) / groups - sides / 64 * g / groups;
            foreach (s, streams) {
                codes_ask(in + s, lines, share);
                in[s].ask += 64 * share;
            }
        }
    }
    foreach (s, streams)
        foreach (r, rows)
            foreach (v, CODES_NV)
                v16f_store(out[s] + r * MR_TILE_OUT + 16 * v, y[s][r][v]);
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
    const size_t blocks = (size_t)c->layout->k_unit / 32;
    const mr_layout *l = c->layout;
    const uint8_t *unit = c->data;
    v16f y[CODES_NV], s[CODES_NV], b[CODES_NV];
    foreach (v, CODES_NV)
        y[v] = v16f_load(out + 16 * v);
    for (int64_t k = 0; k < k1; k += l->k_unit, unit += c->unit) {
        codes_stream in = {unit + c->unit - c->lines, unit, 0, codes_unit_of(f, unit, numbers)};
        for (size_t g = 0; g < blocks; g++, x += 32) {
            const size_t share = c->unit / 64 * (g + 1) / blocks - c->unit / 64 * g / blocks;
            codes_at at = codes_block(in.lines, CODES_NV, f.bits, g);
            in.far = mr_column_far(c, in.ask);
            codes_ask(&in, 0, share);
            in.ask += 64 * share;
            if (!nibbles)
                foreach (i, 8)
                    foreach (v, CODES_NV)
                        v16i_store((int32_t *)(void *)(bytes + CODES_ROW * i + 64 * v),
                                   codes_quad(&at, v, i, f.bits, f.table));
            foreach (h, runs) {
                foreach (v, CODES_NV) {
                    codes_run(f, l, &in.side, (size_t)runs * g, (size_t)h, v, &s[v], &b[v]);
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

typedef void codes_i8_fn(const mr_column *c, int64_t units, const mr_qform *f,
                         const uint8_t *const *x, int slots, float *const *out);
typedef void codes_f32_fn(const mr_column *c, int64_t k, const float *x, float *out);

typedef struct codes_fns {
    codes_i8_fn *one, *two, *parts; /* a row of one column, of two; its parts, of two */
    codes_i8_fn *few[2];            /* 3 and 4 rows of one */
    codes_f32_fn *f32;
} codes_fns;

#define CODES_I8(name, streams, rows, ...)                                                         \
    static __attribute__((noinline)) void name(const mr_column *c, int64_t units,                  \
                                               const mr_qform *f, const uint8_t *const *x,         \
                                               int slots, float *const *out)                       \
    {                                                                                              \
        codes_rows_i8((codes_form){__VA_ARGS__}, c, streams, rows, rows == 1 ? 1 : slots, units,   \
                      f, x, out);                                                                  \
    }
#if ROW_STREAMS > 1
#define CODES_TWO(name, ...)                                                                       \
    CODES_I8(codes_two_##name, 2, 1, __VA_ARGS__)                                                  \
    CODES_I8(codes_parts_##name, 2, MR_ACT_PARTS, __VA_ARGS__)
#define FN_TWO(name) codes_two_##name, codes_parts_##name
#else
#define CODES_TWO(name, ...)
#define FN_TWO(name) NULL, NULL
#endif
#if FEW_CODES > 1
#define CODES_MORE(name, ...)                                                                      \
    CODES_I8(codes_3_##name, 1, 3, __VA_ARGS__) CODES_I8(codes_4_##name, 1, 4, __VA_ARGS__)
#define FN_MORE(name) codes_3_##name, codes_4_##name
#else
#define CODES_MORE(name, ...)
#define FN_MORE(name) NULL, NULL
#endif
#define CODES_FNS(name, ...)                                                                       \
    CODES_I8(codes_1_##name, 1, 1, __VA_ARGS__)                                                    \
    CODES_TWO(name, __VA_ARGS__)                                                                   \
    CODES_MORE(name, __VA_ARGS__)                                                                  \
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
        codes_1_##name, FN_TWO(name), {FN_MORE(name)}, codes_f32_##name                            \
    }
    static const codes_fns flat[] = {FNS(2), FNS(3), {0}, FNS(5), FNS(6)};
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
                    int rows, int slots, float *out);

/* Up to CODES_FEW rows of a wide column; two as three. */
static void codes_few_i8(const mr_column *c, int64_t units, const mr_qform *f,
                         const uint8_t *const *x, int rows, int slots, float *out)
{
    const codes_fns *fns = codes_fns_of(c->layout);
    if (rows == 2) {
        float sums[3 * MR_TILE_OUT] = {0}, *to = sums;
        const uint8_t *at[3] = {x[0], x[1], x[0]};
        memcpy(sums, out, 2 * MR_TILE_OUT * sizeof *out);
        fns->few[0](c, units, f, at, slots, &to);
        memcpy(out, sums, 2 * MR_TILE_OUT * sizeof *out);
        return;
    }
    (rows == 1 ? fns->one : fns->few[rows == 4])(c, units, f, x, slots, &out);
}

/* More rows of a wide column: over units that stay in the L1 cache. */
static void codes_fews_i8(const mr_column *c, int64_t units, const mr_qform *f,
                          const uint8_t *const *x, int rows, int slots, float *out)
{
    const size_t step = f->step * (size_t)(c->layout->k_unit / f->group);
    const int64_t each = c->unit < CODES_NEAR ? CODES_NEAR / (int64_t)c->unit : 1;
    mr_column part = *c;
    for (int64_t u = 0; u < units; u += each, part.data += (size_t)each * c->unit)
        for (int r = 0, n; r < rows; r += n) {
            const uint8_t *at[CODES_FEW];
            const int left = rows - r;
            n = left == 6 ? 3 : left < CODES_FEW ? left : CODES_FEW; /* two cost as much as three */
            for (int i = 0; i < n; i++)
                at[i] = x[r + i] + (size_t)u * step;
            codes_few_i8(&part, units - u < each ? units - u : each, f, at, n,
                         slots > r ? slots - r : 0, out + r * MR_TILE_OUT);
        }
}

/* Any rows of a column of codes: few directly, more through a buffer of one unit. */
static void codes_tile_i8(const mr_column *c, int64_t units, const mr_qform *f,
                          const uint8_t *const *x, int rows, int slots, float *out)
{
    _Alignas(64) uint8_t buffer[CODES_PANEL];
    mr_layout bytes = mr_layout_bytes(c->layout);
    mr_column panel = panel_column(c, &bytes, buffer);
    const uint8_t *at[CODES_ROWS];
    if (rows <= CODES_FEW && c->nv == CODES_NV) {
        codes_few_i8(c, units, f, x, rows, slots, out);
        return;
    }
    if (I8_MANY_ROWS(c, units, f, x, rows, slots, out))
        return;
    if (CODES_FEW > 1 && c->nv == CODES_NV && bytes.kind != MR_PACK_SUBS) {
        codes_fews_i8(c, units, f, x, rows, slots, out);
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
                const uint8_t *ask = unit + (size_t)p * share;
                for (size_t i = 0; parts > 1 && i < share; i += 64)
                    row_ask(ask + i, mr_column_far(c, ask)); /* few can be under way at a time */
                for (int r = 0; r < n; r++)
                    at[r] = x[r0 + r] + ((size_t)u * (size_t)parts + (size_t)p) * step;
                panel.data = buffer + (size_t)p * panel.unit;
                for (int r = 0, now; r < n; r += now) {
                    now = n - r < each ? n - r : each;
                    tile_i8(&panel, 1, f, at + r, now, now, out + (r0 + r) * MR_TILE_OUT);
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
