/* Products on int8 activations: the general tile, for any rows and every quantised kind.
 *
 * Part of matmul_lanes.h.  Per group: the slot, << 7, the start, the quads; then the scales
 * (docs/numerics.md, "int8 activations").
 */

INLINE int32_t load_i32(const uint8_t *p)
{
    int32_t v;
    memcpy(&v, p, 4);
    return v;
}

#define RECORD(row, field) load_i32((row) + offsetof(mr_qgroup, field))

INLINE float record_a(const uint8_t *row)
{
    float a;
    memcpy(&a, row + offsetof(mr_qgroup, u.a), 4);
    return a;
}

/* SUBS: whether the slot is in the first half, and where its sum starts. */
INLINE v16m record_first(const uint8_t *row)
{
    return v16m_first(RECORD(row, p) < 4 ? 16 : 0);
}

INLINE int32_t record_slot(const uint8_t *row)
{
    return load_i32(row + sizeof(mr_qgroup) + 32);
}

#ifndef DOTS_U4
INLINE v16i dots_u4(v16i acc, v16i w0, x4 x0, v16i w1, x4 x1)
{
    return dot_u4(dot_u4(acc, w0, x0), w1, x1);
}
#endif

#ifndef ADD_SLOT
/* sum + 128*slot; of the slot 16 bits with the sign. */
INLINE v16i add_slot(v16i sum, v16i slot)
{
    return v16i_add(sum, v16i_shl(slot, 7));
}
#endif

/* The start of every sum: the slot's high parts times 128, and what the values' sum makes up for.
 * The first `slots` rows have one. */
INLINE void group_slots(const uint8_t *lines, int stride, int v0, const uint8_t *const *x,
                        size_t at, int rows, int slots, int nv, mr_pack_kind kind,
                        v16i acc[MAX_ROWS][MAX_NV])
{
    const bool u4 = kind == MR_PACK_U4;
    foreach (r, rows - slots)
        foreach (v, nv)
            acc[slots + r][v] = v16i_set1(RECORD(x[slots + r] + at, start));
    foreach (r, slots) {
        const uint8_t *record = x[r] + at;
        const unsigned p = (unsigned)RECORD(record, p);
        const uint8_t *line = lines + ((size_t)(u4 ? p / 2 : p) * (size_t)stride + (size_t)v0) * 64;
        v16i start = v16i_set1(RECORD(record, start));
        foreach (v, nv) {
            v16i w = load_line(line + 64 * v), slot = v16i_zero();
            if (u4)
                w = v16i_and(v16i_shr(w, (int)(p % 2 * 4)), v16i_set1(0x0f0f0f0f));
            slot = kind == MR_PACK_U8 ? dot_u8(slot, w_u8(w), slot_u8(RECORD(record, r)))
                                      : dot_u4(slot, w, slot_u4(RECORD(record, r)));
            acc[r][v] = v16i_add(v16i_shl(slot, 7), start);
        }
    }
}

/* Panels are in a cache. */
INLINE bool from_memory(mr_pack_kind kind)
{
    return kind == MR_PACK_U4 || kind == MR_PACK_U8;
}

/* Then every quad; x[r] + at are the group's values.  Weights of all lane blocks first: what a row gives
 * is then needed for no longer than it takes, so the sums find room in the registers. */
INLINE void group_dots(const uint8_t *lines, size_t far, int stride, int v0, int quads,
                       const uint8_t *const *x, size_t at, int rows, int nv, mr_pack_kind kind,
                       v16i acc[MAX_ROWS][MAX_NV])
{
    const uint8_t *line = lines + (size_t)v0 * 64;
    const bool ask = from_memory(kind), u4 = kind == MR_PACK_U4;
    const size_t next = (size_t)stride * 64;
    if (kind == MR_PACK_U8) {
        for (int i = 0; i < quads; i++, at += U8_WIDE ? 8 : 4, line += next) {
            w8 w[MAX_NV];
            foreach (v, nv) {
                w[v] = w_u8(load_line(line + 64 * v));
                if (ask)
                    row_ask(line + 64 * v, far);
            }
            foreach (r, rows) {
                x8 quad = x_u8(x[r] + at);
                foreach (v, nv)
                    acc[r][v] = dot_u8(acc[r][v], w[v], quad);
            }
        }
        return;
    }
    for (int i = 0; i < quads; i += 2, at += 8, line += u4 ? next : 2 * next) {
        v16i low[MAX_NV], high[MAX_NV];
        foreach (v, nv) {
            low[v] = load_line(line + 64 * v);
            if (u4) {
                high[v] = v16i_field(low[v], 4, 4, 0);
                low[v] = v16i_field(low[v], 0, 4, 0);
            } else {
                high[v] = load_line(line + next + 64 * v);
            }
            if (ask)
                row_ask(line + 64 * v, far);
        }
        foreach (r, rows) {
            x4 first = x_u4(x[r] + at), second = x_u4(x[r] + at + 4);
            foreach (v, nv)
                acc[r][v] = dots_u4(acc[r][v], low[v], first, high[v], second);
        }
    }
}

/* y = fma(b, A, y), then y = fma(s, I << e, y). */
INLINE void group_scale(const uint8_t *after, mr_dtype type, bool bias, int stride, int v0,
                        const uint8_t *const *x, size_t at, int rows, int nv,
                        v16i acc[MAX_ROWS][MAX_NV], float *out)
{
    size_t size = number_size(type), outputs = 16 * (size_t)stride;
    foreach (v, nv) {
        size_t o = 16 * (size_t)(v0 + v);
        v16f s = load_numbers(after + o * size, type), b = v16f_zero();
        if (bias)
            b = load_numbers(after + (outputs + o) * size, type);
        foreach (r, rows) {
            float *to = out + r * MR_TILE_OUT + o;
            v16f y = v16f_load(to);
            if (bias)
                y = v16f_fma(b, v16f_set1(record_a(x[r] + at)), y);
            y = v16f_fma(s, v16f_from_i(shift_up(acc[r][v], RECORD(x[r] + at, e))), y);
            v16f_store(to, y);
        }
    }
}

/* What the loops need is copied to locals first: stores to `out` might alias it. */
INLINE void i8_column(const mr_column *c, int64_t units, const mr_qform *f,
                      const uint8_t *const *rows_at, int rows, int slots, int nv, int stride,
                      mr_pack_kind kind, float *out)
{
    v16i acc[MAX_ROWS][MAX_NV];
    const uint8_t *x[MAX_ROWS], *unit = c->data;
    const mr_dtype type = c->layout->scale_dtype;
    const bool bias = c->layout->bias;
    const int quads = f->group / 4, per_unit = c->layout->k_unit / f->group;
    const size_t lines = c->lines, next = c->unit, group = lines / (size_t)per_unit, step = f->step;
    size_t at = 0;
    foreach (r, rows)
        x[r] = rows_at[r];
    for (int64_t u = 0; u < units; u++, unit += next) {
        const size_t far = mr_column_far(c, unit);
        if (from_memory(kind))
            for (size_t i = lines; i < next; i += 64)
                row_ask(unit + i, far);
        for (int g = 0; g < per_unit; g++, at += step)
            for (int v = 0; v < stride; v += nv) {
                const uint8_t *first = unit + (size_t)g * group;
                group_slots(first, stride, v, x, at, rows, slots, nv, kind, acc);
                group_dots(first, far, stride, v, quads, x, at + sizeof(mr_qgroup), rows, nv, kind,
                           acc);
                if (bias)
                    group_scale(unit + lines, type, true, stride, v, x, at, rows, nv, acc, out);
                else
                    group_scale(unit + lines, type, false, stride, v, x, at, rows, nv, acc, out);
            }
    }
}

/* The slot's sum to that of its half. */
INLINE void slots_apart(v16m first, v16i slot, v16i *low, v16i *high)
{
    *low = v16i_select(first, v16i_add(*low, slot), *low);
    *high = v16i_select(first, *high, v16i_add(*high, slot));
}

/* (float)(sub0*I0 + sub1*I1).  low and high are the sums of n, below 2^16.01; the products with
 * sub-scales of 8 bits and their sum are below 2^24, so exact as floats.  The FMA that adds the slot
 * then rounds as the conversion of the integer would. */
INLINE v16f subs_sum(v16f sub0, v16i low, v16f sub1, v16i high, v16m first, v16i slot)
{
    v16f sum = v16f_fma(sub0, v16f_from_i(low), v16f_mul(sub1, v16f_from_i(high)));
    v16f by = v16f_mul(v16f_select(first, sub0, sub1), v16f_set1(128.0f));
    return v16f_fma(by, v16f_from_i(slot), sum);
}

/* (float)(m0*S0 + m1*S1), below 2^21. */
INLINE v16f subs_mins(v16f min0, v16f min1, const uint8_t *record)
{
    v16f s0 = v16f_set1((float)RECORD(record, start)),
         s1 = v16f_set1((float)RECORD(record, u.start_hi));
    return v16f_fma(min0, s0, v16f_mul(min1, s1));
}

/* SUBS: two runs per group, so two sums, and the slot's.  Integer sub-scales: I << 6 need not fit an
 * int32, so the power of two goes to d, which has room (exact: same bits); mins alike, before it,
 * over the sums of v.  E4M3 scales are no integers: one step for each half. */
INLINE void subs_group(const mr_column *c, const uint8_t *unit, int g, int v,
                       const uint8_t *const *x, size_t at, int rows, bool mins, bool floats,
                       float *out)
{
    size_t outputs = 16 * (size_t)c->nv, o = 16 * (size_t)v;
    const uint8_t *group = unit + (size_t)g * 8 * 4 * outputs, *after = unit + c->lines;
    v16i low[MAX_ROWS], high[MAX_ROWS], slot[MAX_ROWS];
    foreach (r, rows) {
        const uint8_t *record = x[r] + at;
        v16i w = load_line(group + (size_t)(RECORD(record, p) * c->nv + v) * 64);
        slot[r] = dot_u4(v16i_set1(record_slot(record)), w, slot_u4(RECORD(record, r)));
        low[r] = mins ? v16i_zero() : v16i_set1(RECORD(record, start));
        high[r] = mins ? v16i_zero() : v16i_set1(RECORD(record, u.start_hi));
    }
    foreach (i, 4) {
        v16i a = load_line(group + (size_t)(i * c->nv + v) * 64);
        v16i b = load_line(group + (size_t)((i + 4) * c->nv + v) * 64);
        foreach (r, rows) {
            const uint8_t *values = x[r] + at + sizeof(mr_qgroup) + 4 * i;
            low[r] = dot_u4(low[r], a, x_u4(values));
            high[r] = dot_u4(high[r], b, x_u4(values + 16));
        }
    }
    if (floats) {
        const float *s = (const float *)(const void *)after + (size_t)(2 * g) * outputs + o;
        v16f s0 = v16f_load(s), s1 = v16f_load(s + outputs);
        foreach (r, rows) {
            float *to = out + r * MR_TILE_OUT + o;
            int e = RECORD(x[r] + at, e);
            v16i a = low[r], b = high[r];
            slots_apart(record_first(x[r] + at), v16i_shl(slot[r], 7), &a, &b);
            v16f y = v16f_fma(s0, v16f_from_i(shift_up(a, e)), v16f_load(to));
            v16f_store(to, v16f_fma(s1, v16f_from_i(shift_up(b, e)), y));
        }
        return;
    }
    size_t runs = (size_t)(c->layout->k_unit / 16);
    const int8_t *subs = (const int8_t *)after + (size_t)(2 * g) * outputs + o;
    const int8_t *min = subs + runs * outputs;
    const float *d = (const float *)(const void *)(after + runs * outputs * (mins ? 2 : 1)) + o;
    v16f sub0 = v16f_from_i(v16i_load_i8(subs)), sub1 = v16f_from_i(v16i_load_i8(subs + outputs));
    foreach (r, rows) {
        const uint8_t *record = x[r] + at;
        float *to = out + r * MR_TILE_OUT + o;
        v16f y = v16f_load(to), step = v16f_set1((float)(1 << RECORD(record, e)));
        if (mins) {
            v16f min0 = v16f_from_i(v16i_load_i8(min)),
                 min1 = v16f_from_i(v16i_load_i8(min + outputs));
            y = v16f_fma(v16f_mul(v16f_load(d + outputs), step), subs_mins(min0, min1, record), y);
        }
        v16f sum = subs_sum(sub0, low[r], sub1, high[r], record_first(record), slot[r]);
        v16f_store(to, v16f_fma(v16f_mul(v16f_load(d), step), sum, y));
    }
}

INLINE void subs_column(const mr_column *c, int64_t units, const mr_qform *f,
                        const uint8_t *const *x, int rows, bool mins, bool floats, float *out)
{
    size_t at = 0;
    for (int64_t u = 0; u < units; u++)
        for (int g = 0; g < c->layout->k_unit / 32; g++, at += f->step)
            for (int v = 0; v < c->nv; v++)
                subs_group(c, c->data + (size_t)u * c->unit, g, v, x, at, rows, mins, floats, out);
}

#include "backend/cpu/matmul_codes_row_lanes.h"

typedef void i8_fn(const mr_column *c, int64_t units, const mr_qform *f, const uint8_t *const *x,
                   float *out);

#define I8_ROWS(name, rows, slots, kind)                                                           \
    static __attribute__((noinline)) void name(                                                    \
        const mr_column *c, int64_t units, const mr_qform *f, const uint8_t *const *x, float *out) \
    {                                                                                              \
        if (TILE_NV == 1)                                                                          \
            i8_column(c, units, f, x, rows, slots, 1, c->nv, kind, out);                           \
        else if (c->nv == 1)                                                                       \
            i8_column(c, units, f, x, rows, slots, 1, 1, kind, out);                               \
        else                                                                                       \
            i8_column(c, units, f, x, rows, slots, TILE_NV, 4, kind, out);                         \
    }
I8_ROWS(u8_rows1, 1, 1, MR_PACK_U8)
I8_ROWS(u8_rows2, 2, 2, MR_PACK_U8)
I8_ROWS(u8_rows3, 3, 3, MR_PACK_U8)
I8_ROWS(u8_rows4, 4, 4, MR_PACK_U8)
I8_ROWS(u8_parts, MR_ACT_PARTS, 1, MR_PACK_U8)
I8_ROWS(u4_rows1, 1, 1, MR_PACK_U4)
I8_ROWS(u4_rows2, 2, 2, MR_PACK_U4)
I8_ROWS(u4_rows3, 3, 3, MR_PACK_U4)
I8_ROWS(u4_rows4, 4, 4, MR_PACK_U4)
I8_ROWS(u4_parts, MR_ACT_PARTS, 1, MR_PACK_U4)
I8_ROWS(bytes_rows1, 1, 1, MR_PACK_U4_BYTES)
I8_ROWS(bytes_rows2, 2, 2, MR_PACK_U4_BYTES)
I8_ROWS(bytes_rows3, 3, 3, MR_PACK_U4_BYTES)
I8_ROWS(bytes_rows4, 4, 4, MR_PACK_U4_BYTES)
I8_ROWS(bytes_parts, MR_ACT_PARTS, 1, MR_PACK_U4_BYTES)

#define SUBS_ROWS(name, rows)                                                                      \
    static __attribute__((noinline)) void name(                                                    \
        const mr_column *c, int64_t units, const mr_qform *f, const uint8_t *const *x, float *out) \
    {                                                                                              \
        if (c->layout->form.scale == MR_F8_E4M3)                                                   \
            subs_column(c, units, f, x, rows, false, true, out);                                   \
        else if (c->layout->bias)                                                                  \
            subs_column(c, units, f, x, rows, true, false, out);                                   \
        else                                                                                       \
            subs_column(c, units, f, x, rows, false, false, out);                                  \
    }
SUBS_ROWS(subs_rows1, 1)
SUBS_ROWS(subs_rows2, 2)
SUBS_ROWS(subs_rows3, 3)
SUBS_ROWS(subs_rows4, 4)

static void tile_i8(const mr_column *c, int64_t units, const mr_qform *f, const uint8_t *const *x,
                    int rows, int slots, float *out)
{
    static i8_fn *const fns[4][4] = {{u4_rows1, u4_rows2, u4_rows3, u4_rows4},
                                     {u8_rows1, u8_rows2, u8_rows3, u8_rows4},
                                     {bytes_rows1, bytes_rows2, bytes_rows3, bytes_rows4},
                                     {subs_rows1, subs_rows2, subs_rows3, subs_rows4}};
    if (c->layout->kind == MR_PACK_CODES) {
        codes_tile_i8(c, units, f, x, rows, slots, out);
        return;
    }
    static i8_fn *const parts[4] = {u4_parts, u8_parts, bytes_parts}; /* of one row's */
    const int kind = c->layout->kind - MR_PACK_U4;
    i8_fn *const *fn = fns[kind];
    int r = I8_MANY_ROWS(c, units, f, x, rows, slots, out);
    for (; r + 4 <= rows; r += 4)
        fn[3](c, units, f, x + r, out + r * MR_TILE_OUT);
    if (r == 0 && rows == MR_ACT_PARTS && slots == 1 && parts[kind])
        parts[kind](c, units, f, x, out);
    else if (r < rows)
        fn[rows - r - 1](c, units, f, x + r, out + r * MR_TILE_OUT);
}
