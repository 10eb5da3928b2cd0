/* Product kernels over 16 lanes, for every ISA.
 *
 * A tile is ROWS x 16*NV outputs; its sums stay in registers.  Loops over rows and lane blocks have
 * constant bounds after inlining and are unrolled by pragma: gcc keeps an accumulator array in
 * registers only then, and only if its size is a literal.
 *
 * The including file gives, besides lanes_ISA.h:
 *   TILE_NV, TILE_F32_ROWS            widest tile in lane blocks; rows of the f32 panel tile (1..6)
 *   I8_MANY_ROWS(c, units, f, x, rows, out)   a faster tile_i8 for the first rows; how many it did
 *   x8 x_u8(p), x4 x_u4(p)            a quad of values at p, as the ISA's dots want it
 *   x8 slot_u8(r), x4 slot_u4(r)      the same from four int8 in an int32
 *   w8 w_u8(line)                     a line of 16 outputs x 4 bytes
 *   dot_u8(acc, w8, x8)               acc + sum over the quad, exact
 *   dot_u4(acc, line, x4)             the same for bytes 0..63
 *   shift_up(a, n)                    lanes << n, n not a constant
 *   LANES_ISA, U8_OFFSET, U8_WIDE, DIRECT_F32, DIRECT_U4: see mr_mm_kernels
 */
#include "backend/cpu/matmul_core.h"

#include "backend/cpu/quantise_lanes.h"

#define INLINE static inline __attribute__((always_inline))
/* Named as clang-format knows it. */
#define foreach(i, n) _Pragma("GCC unroll 8") for (int i = 0; i < (n); i++)

/* With one or two rows weights come from memory: each line asks for the one so many bytes on (past
 * the end of a matrix that does nothing). */
enum { MAX_ROWS = 6, MAX_NV = 4, FETCH_AHEAD = 9216 };

/* 16 numbers of the file's type. */
INLINE v16f load_numbers(const uint8_t *p, mr_dtype t)
{
    if (t == MR_BF16)
        return v16f_load_bf16((const uint16_t *)(const void *)p);
    if (t == MR_F16)
        return v16f_load_f16((const uint16_t *)(const void *)p);
    return v16f_load((const float *)(const void *)p);
}

INLINE v16i load_line(const uint8_t *p)
{
    return v16i_load((const int32_t *)(const void *)p);
}

INLINE size_t number_size(mr_dtype t)
{
    return t == MR_F32 ? 4 : 2;
}

/* ---- weights as f32 ----------------------------------------------------------------------- */

/* Scales and biases of lane block v of a unit.  Q6: of sub-group `sub`. b makes up for zero: the
 * products are exact, so fma(s, q, -s*zero) rounds once, as s*(q - zero) does. */
INLINE void unit_scales(const mr_column *c, const uint8_t *after, int v, int sub, v16f *s, v16f *b)
{
    const mr_layout *l = c->layout;
    size_t size = number_size(l->scale_dtype), o = 16 * (size_t)v, outputs = 16 * (size_t)c->nv;
    if (l->kind == MR_PACK_Q6) {
        const int8_t *subs = (const int8_t *)after + (size_t)sub * outputs + o;
        *s = v16f_mul(load_numbers(after + 16 * outputs + o * 2, MR_F16),
                      v16f_from_i(v16i_load_i8(subs)));
    } else {
        *s = load_numbers(after + o * size, l->scale_dtype);
    }
    if (l->bias)
        *b = load_numbers(after + (outputs + o) * size, l->scale_dtype);
    else
        *b = v16f_mul(*s, v16f_set1((float)-l->zero));
}

/* Byte or nibble `shift` bits up in each lane, as a weight.  Scales of 16 bits make s*q exact, so
 * one FMA rounds as product and sum do; with f32 scales the product is rounded first. */
INLINE v16f weight_at(v16i line, int shift, int mask, v16f s, v16f b, bool f32_scale)
{
    v16f q = v16f_from_i(v16i_and(v16i_shr(line, shift), v16i_set1(mask)));
    return f32_scale ? v16f_add(v16f_mul(s, q), b) : v16f_fma(s, q, b);
}

/* The four weights k..k+3 of quad i (within a unit) and lane block v. */
INLINE void quad_weights(const uint8_t *unit, bool u4, int nv, int i, int v, v16f s, v16f b,
                         bool f32_scale, v16f w[4])
{
    int line = u4 ? i / 2 : i, up = u4 && (i & 1) ? 4 : 0;
    v16i bytes = load_line(unit + (size_t)(line * nv + v) * 64);
    foreach (j, 4)
        w[j] = weight_at(bytes, 8 * j + up, u4 ? 15 : 255, s, b, f32_scale);
}

/* ---- f32 tiles ---------------------------------------------------------------------------- */

/* One unit of a quantised kind, lane blocks v0.. of the column. */
INLINE void f32_unit(const mr_column *c, const uint8_t *unit, int v0, const float *const *x,
                     int64_t k, int rows, int nv, bool u4, bool f32_scale, float *out)
{
    v16f acc[MAX_ROWS][MAX_NV], s[MAX_NV], b[MAX_NV];
    const uint8_t *after = unit + c->lines;
    int run = c->layout->kind == MR_PACK_Q6 ? 4 : c->layout->k_unit / 4,
        quads = c->layout->k_unit / 4;
    foreach (r, rows)
        foreach (v, nv)
            acc[r][v] = v16f_load(out + r * MR_TILE_OUT + 16 * (v0 + v));
    for (int i0 = 0; i0 < quads; i0 += run) {
        foreach (v, nv)
            unit_scales(c, after, v0 + v, i0 / 4, &s[v], &b[v]);
        for (int i = i0; i < i0 + run; i++) {
            foreach (v, nv) {
                v16f w[4];
                quad_weights(unit, u4, c->nv, i, v0 + v, s[v], b[v], f32_scale, w);
                foreach (r, rows)
                    foreach (j, 4)
                        acc[r][v] = v16f_fma(w[j], v16f_set1(x[r][k + 4 * i + j]), acc[r][v]);
            }
        }
    }
    foreach (r, rows)
        foreach (v, nv)
            v16f_store(out + r * MR_TILE_OUT + 16 * (v0 + v), acc[r][v]);
}

INLINE void f32_quantised(const mr_column *c, int64_t k1, const float *const *x, int rows, int nv,
                          bool u4, bool f32_scale, float *out)
{
    const uint8_t *unit = c->data;
    for (int64_t k = 0; k < k1; k += c->layout->k_unit, unit += c->unit)
        for (int v = 0; v < c->nv; v += nv)
            f32_unit(c, unit, v, x, k, rows, nv, u4, f32_scale, out);
}

/* Float kinds: the weights of one k, or of a pair for BF16. */
INLINE void f32_floats(const mr_column *c, int v0, int64_t k1, const float *const *x, int rows,
                       int nv, mr_pack_kind kind, float *out)
{
    v16f acc[MAX_ROWS][MAX_NV];
    const uint8_t *p = c->data + 16 * (size_t)v0 * (kind == MR_PACK_F16 ? 2 : 4);
    int64_t k = 0;
    foreach (r, rows)
        foreach (v, nv)
            acc[r][v] = v16f_load(out + r * MR_TILE_OUT + 16 * (v0 + v));
    for (; kind != MR_PACK_BF16 && k < k1; k++, p += c->unit) {
        foreach (v, nv) {
            v16f w = kind == MR_PACK_F32 ? load_numbers(p + 64 * v, MR_F32)
                                         : load_numbers(p + 32 * v, MR_F16);
            foreach (r, rows)
                acc[r][v] = v16f_fma(w, v16f_set1(x[r][k]), acc[r][v]);
        }
    }
    for (; k + 1 < k1; k += 2, p += c->unit) {
        foreach (v, nv) {
            v16i pair = load_line(p + 64 * v);
            v16f w0 = v16f_bits(v16i_shl(pair, 16)),
                 w1 = v16f_bits(v16i_and(pair, v16i_set1((int32_t)0xffff0000)));
            foreach (r, rows)
                acc[r][v] = v16f_fma(w0, v16f_set1(x[r][k]), acc[r][v]);
            foreach (r, rows)
                acc[r][v] = v16f_fma(w1, v16f_set1(x[r][k + 1]), acc[r][v]);
        }
    }
    if (k < k1) /* BF16, odd k: half a pair */
        foreach (v, nv) {
            v16f w = v16f_bits(v16i_shl(load_line(p + 64 * v), 16));
            foreach (r, rows)
                acc[r][v] = v16f_fma(w, v16f_set1(x[r][k]), acc[r][v]);
        }
    foreach (r, rows)
        foreach (v, nv)
            v16f_store(out + r * MR_TILE_OUT + 16 * (v0 + v), acc[r][v]);
}

/* A tile of constant rows; the wide column is walked nv lane blocks at a time. */
INLINE void f32_rows(const mr_column *c, int64_t k, const float *const *x, int rows, int nv,
                     float *out)
{
    bool f32_scale = c->layout->scale_dtype == MR_F32;
    switch (c->layout->kind) {
    case MR_PACK_F32:
        for (int v = 0; v < c->nv; v += nv)
            f32_floats(c, v, k, x, rows, nv, MR_PACK_F32, out);
        break;
    case MR_PACK_F16:
        for (int v = 0; v < c->nv; v += nv)
            f32_floats(c, v, k, x, rows, nv, MR_PACK_F16, out);
        break;
    case MR_PACK_BF16:
        for (int v = 0; v < c->nv; v += nv)
            f32_floats(c, v, k, x, rows, nv, MR_PACK_BF16, out);
        break;
    case MR_PACK_U4:
        if (f32_scale)
            f32_quantised(c, k, x, rows, nv, true, true, out);
        else
            f32_quantised(c, k, x, rows, nv, true, false, out);
        break;
    default:
        if (f32_scale)
            f32_quantised(c, k, x, rows, nv, false, true, out);
        else
            f32_quantised(c, k, x, rows, nv, false, false, out);
        break;
    }
}

/* Rows of one panel tile: NV lane blocks, and 1 for the narrow columns. */
#define F32_ROWS(name, rows)                                                                       \
    static __attribute__((noinline)) void name(const mr_column *c, int64_t k,                      \
                                               const float *const *x, float *out)                  \
    {                                                                                              \
        if (c->nv == 1)                                                                            \
            f32_rows(c, k, x, rows, 1, out);                                                       \
        else                                                                                       \
            f32_rows(c, k, x, rows, TILE_NV, out);                                                 \
    }
F32_ROWS(f32_rows1, 1)
F32_ROWS(f32_rows2, 2)
F32_ROWS(f32_rows4, 4)

static __attribute__((noinline)) void f32_panel_rows(const mr_column *c, int64_t k,
                                                     const float *const *x, float *out)
{
    if (c->nv == 1)
        f32_floats(c, 0, k, x, TILE_F32_ROWS, 1, MR_PACK_F32, out);
    else
        for (int v = 0; v < c->nv; v += TILE_NV)
            f32_floats(c, v, k, x, TILE_F32_ROWS, TILE_NV, MR_PACK_F32, out);
}

static void tile_f32(const mr_column *c, int64_t k, const float *const *x, int rows, float *out)
{
    int r = 0;
    if (c->layout->kind == MR_PACK_F32)
        for (; r + TILE_F32_ROWS <= rows; r += TILE_F32_ROWS)
            f32_panel_rows(c, k, x + r, out + r * MR_TILE_OUT);
    for (; r + 4 <= rows; r += 4)
        f32_rows4(c, k, x + r, out + r * MR_TILE_OUT);
    for (; r + 2 <= rows; r += 2)
        f32_rows2(c, k, x + r, out + r * MR_TILE_OUT);
    if (r < rows)
        f32_rows1(c, k, x + r, out + r * MR_TILE_OUT);
}

/* ---- panels ------------------------------------------------------------------------------- */

INLINE void unpack_unit(const mr_column *c, const uint8_t *unit, bool u4, bool f32_scale,
                        float *panel)
{
    const uint8_t *after = unit + c->lines;
    int quads = c->layout->k_unit / 4, run = c->layout->kind == MR_PACK_Q6 ? 4 : quads;
    for (int v = 0; v < c->nv; v++) {
        v16f s = v16f_zero(), b = s, w[4];
        for (int i = 0; i < quads; i++) {
            if (i % run == 0)
                unit_scales(c, after, v, i / 4, &s, &b);
            quad_weights(unit, u4, c->nv, i, v, s, b, f32_scale, w);
            foreach (j, 4)
                v16f_store(panel + ((4 * i + j) * c->nv + v) * 16, w[j]);
        }
    }
}

static void unpack_floats(const mr_column *c, int64_t k1, float *panel)
{
    const uint8_t *p = c->data;
    for (int64_t k = 0; k < k1; k += c->layout->k_unit, p += c->unit) {
        for (int v = 0; v < c->nv; v++) {
            float *to = panel + (k * c->nv + v) * 16;
            if (c->layout->kind == MR_PACK_BF16) {
                v16i pair = load_line(p + 64 * v);
                v16f_store(to, v16f_bits(v16i_shl(pair, 16)));
                if (k + 1 < k1)
                    v16f_store(to + 16 * c->nv,
                               v16f_bits(v16i_and(pair, v16i_set1((int32_t)0xffff0000))));
            } else {
                v16f_store(to, load_numbers(p + 32 * v, MR_F16));
            }
        }
    }
}

static void unpack_f32(const mr_column *c, int64_t k, float *panel)
{
    bool u4 = c->layout->kind == MR_PACK_U4, f32_scale = c->layout->scale_dtype == MR_F32;
    const uint8_t *unit = c->data;
    if (!mr_layout_quantised(c->layout)) {
        unpack_floats(c, k, panel);
        return;
    }
    for (int64_t i = 0; i < k;
         i += c->layout->k_unit, unit += c->unit, panel += c->layout->k_unit * 16 * c->nv) {
        if (u4 && f32_scale)
            unpack_unit(c, unit, true, true, panel);
        else if (u4)
            unpack_unit(c, unit, true, false, panel);
        else if (f32_scale)
            unpack_unit(c, unit, false, true, panel);
        else
            unpack_unit(c, unit, false, false, panel);
    }
}

static void unpack_u4(const mr_column *c, int64_t units, uint8_t *panel)
{
    mr_layout to = mr_layout_bytes(c->layout);
    size_t lines = c->lines, row = 64 * (size_t)c->nv;
    size_t unit = mr_layout_unit(&to, c->nv);
    v16i low = v16i_set1(0x0f0f0f0f);
    for (int64_t u = 0; u < units; u++, panel += unit) {
        const uint8_t *from = c->data + (size_t)u * c->unit;
        for (size_t i = 0; i < lines; i += 64) {
            v16i line = load_line(from + i);
            uint8_t *pair = panel + i / row * 2 * row + i % row;
            v16i_store((int32_t *)(void *)pair, v16i_and(line, low));
            v16i_store((int32_t *)(void *)(pair + row), v16i_and(v16i_shr(line, 4), low));
        }
        memcpy(panel + 2 * lines, from + lines, c->unit - lines);
    }
}

/* ---- int8 tiles --------------------------------------------------------------------------- */

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

/* Line of quad i, as bytes. */
INLINE v16i quad_line(const uint8_t *lines, mr_pack_kind kind, int nv, int v, int i)
{
    if (kind != MR_PACK_U4)
        return load_line(lines + (size_t)(i * nv + v) * 64);
    v16i line = load_line(lines + (size_t)(i / 2 * nv + v) * 64);
    return v16i_and(v16i_shr(line, i % 2 * 4), v16i_set1(0x0f0f0f0f));
}

/* The start of every sum: the slot's high parts times 128, and what the values' sum makes up for.
 */
INLINE void group_slots(const uint8_t *lines, int stride, int v0, const uint8_t *const *x,
                        size_t at, int rows, int nv, mr_pack_kind kind, v16i acc[MAX_ROWS][MAX_NV])
{
    foreach (r, rows) {
        const uint8_t *record = x[r] + at;
        int p = RECORD(record, p);
        v16i start = v16i_set1(RECORD(record, start));
        foreach (v, nv) {
            v16i line = quad_line(lines, kind, stride, v0 + v, p), zero = v16i_zero();
            v16i slot = kind == MR_PACK_U8 ? dot_u8(zero, w_u8(line), slot_u8(RECORD(record, r)))
                                           : dot_u4(zero, line, slot_u4(RECORD(record, r)));
            acc[r][v] = v16i_add(v16i_shl(slot, 7), start);
        }
    }
}

/* Then every quad; x[r] + at are the group's values. */
INLINE void group_dots(const uint8_t *lines, int stride, int v0, int quads, const uint8_t *const *x,
                       size_t at, int rows, int nv, mr_pack_kind kind, v16i acc[MAX_ROWS][MAX_NV])
{
    const uint8_t *line = lines + (size_t)v0 * 64;
    size_t next = (size_t)stride * 64;
    if (kind == MR_PACK_U4) {
        for (int i = 0; i < quads; i += 2, at += 8, line += next) {
            foreach (v, nv) {
                v16i both = load_line(line + 64 * v), m = v16i_set1(0x0f0f0f0f);
                if (rows <= 2)
                    __builtin_prefetch(line + 64 * v + FETCH_AHEAD);
                v16i low = v16i_and(both, m), high = v16i_and(v16i_shr(both, 4), m);
                foreach (r, rows)
                    acc[r][v] = dot_u4(acc[r][v], low, x_u4(x[r] + at));
                foreach (r, rows)
                    acc[r][v] = dot_u4(acc[r][v], high, x_u4(x[r] + at + 4));
            }
        }
    } else if (kind == MR_PACK_U4_BYTES) {
        for (int i = 0; i < quads; i++, at += 4, line += next) {
            foreach (v, nv) {
                v16i w = load_line(line + 64 * v);
                foreach (r, rows)
                    acc[r][v] = dot_u4(acc[r][v], w, x_u4(x[r] + at));
            }
        }
    } else {
        for (int i = 0; i < quads; i++, at += U8_WIDE ? 8 : 4, line += next) {
            foreach (v, nv) {
                w8 w = w_u8(load_line(line + 64 * v));
                if (rows <= 2)
                    __builtin_prefetch(line + 64 * v + FETCH_AHEAD);
                foreach (r, rows)
                    acc[r][v] = dot_u8(acc[r][v], w, x_u8(x[r] + at));
            }
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
                      const uint8_t *const *rows_at, int rows, int nv, int stride,
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
        if (rows <= 2)
            for (size_t i = lines; i < next; i += 64)
                __builtin_prefetch(unit + FETCH_AHEAD + i);
        for (int g = 0; g < per_unit; g++, at += step)
            for (int v = 0; v < stride; v += nv) {
                const uint8_t *first = unit + (size_t)g * group;
                group_slots(first, stride, v, x, at, rows, nv, kind, acc);
                group_dots(first, stride, v, quads, x, at + sizeof(mr_qgroup), rows, nv, kind, acc);
                if (bias)
                    group_scale(unit + lines, type, true, stride, v, x, at, rows, nv, acc, out);
                else
                    group_scale(unit + lines, type, false, stride, v, x, at, rows, nv, acc, out);
            }
    }
}

/* Q6: I = sc0*I0 + sc1*I1 with the slot's product under the sub-scale of its half; |I| < 2^29, but
 * I << 6 need not fit, so the power of two goes to d, which has room (exact: same bits). */
INLINE void q6_group(const mr_column *c, const uint8_t *unit, int g, int v, const uint8_t *const *x,
                     size_t at, int rows, float *out)
{
    size_t lines = c->lines, outputs = 16 * (size_t)c->nv, o = 16 * (size_t)v;
    const uint8_t *group = unit + (size_t)g * 8 * 4 * outputs;
    const int8_t *subs = (const int8_t *)unit + lines + (size_t)(2 * g) * outputs + o;
    v16f d = load_numbers(unit + lines + 16 * outputs + o * 2, MR_F16);
    v16i sc0 = v16i_load_i8(subs), sc1 = v16i_load_i8(subs + outputs), low[MAX_ROWS],
         high[MAX_ROWS];
    foreach (r, rows) {
        const uint8_t *record = x[r] + at;
        int p = RECORD(record, p);
        v16i w = load_line(group + (size_t)(p * c->nv + v) * 64);
        v16i slot = v16i_shl(dot_u4(v16i_zero(), w, slot_u4(RECORD(record, r))), 7);
        low[r] = v16i_add(v16i_set1(RECORD(record, start)), p < 4 ? slot : v16i_zero());
        high[r] = v16i_add(v16i_set1(RECORD(record, u.start_hi)), p < 4 ? v16i_zero() : slot);
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
    foreach (r, rows) {
        float *to = out + r * MR_TILE_OUT + o;
        v16f scale = v16f_mul(d, v16f_set1((float)(1 << RECORD(x[r] + at, e))));
        v16i sum = v16i_add(v16i_mul(sc0, low[r]), v16i_mul(sc1, high[r]));
        v16f_store(to, v16f_fma(scale, v16f_from_i(sum), v16f_load(to)));
    }
}

INLINE void q6_column(const mr_column *c, int64_t units, const mr_qform *f, const uint8_t *const *x,
                      int rows, float *out)
{
    size_t at = 0;
    for (int64_t u = 0; u < units; u++)
        for (int g = 0; g < 8; g++, at += f->step)
            for (int v = 0; v < c->nv; v++)
                q6_group(c, c->data + (size_t)u * c->unit, g, v, x, at, rows, out);
}

typedef void i8_fn(const mr_column *c, int64_t units, const mr_qform *f, const uint8_t *const *x,
                   float *out);

#define I8_ROWS(name, rows, kind)                                                                  \
    static __attribute__((noinline)) void name(                                                    \
        const mr_column *c, int64_t units, const mr_qform *f, const uint8_t *const *x, float *out) \
    {                                                                                              \
        if (c->nv == 1)                                                                            \
            i8_column(c, units, f, x, rows, 1, 1, kind, out);                                      \
        else                                                                                       \
            i8_column(c, units, f, x, rows, TILE_NV, 4, kind, out);                                \
    }
I8_ROWS(u8_rows1, 1, MR_PACK_U8)
I8_ROWS(u8_rows2, 2, MR_PACK_U8)
I8_ROWS(u8_rows4, 4, MR_PACK_U8)
I8_ROWS(u4_rows1, 1, MR_PACK_U4)
I8_ROWS(u4_rows2, 2, MR_PACK_U4)
I8_ROWS(u4_rows4, 4, MR_PACK_U4)
I8_ROWS(bytes_rows1, 1, MR_PACK_U4_BYTES)
I8_ROWS(bytes_rows2, 2, MR_PACK_U4_BYTES)
I8_ROWS(bytes_rows4, 4, MR_PACK_U4_BYTES)

#define Q6_ROWS(name, rows)                                                                        \
    static __attribute__((noinline)) void name(                                                    \
        const mr_column *c, int64_t units, const mr_qform *f, const uint8_t *const *x, float *out) \
    {                                                                                              \
        q6_column(c, units, f, x, rows, out);                                                      \
    }
Q6_ROWS(q6_rows1, 1)
Q6_ROWS(q6_rows2, 2)
Q6_ROWS(q6_rows4, 4)

static void tile_i8(const mr_column *c, int64_t units, const mr_qform *f, const uint8_t *const *x,
                    int rows, float *out)
{
    static i8_fn *const fns[4][3] = {{u4_rows1, u4_rows2, u4_rows4},
                                     {u8_rows1, u8_rows2, u8_rows4},
                                     {q6_rows1, q6_rows2, q6_rows4},
                                     {bytes_rows1, bytes_rows2, bytes_rows4}};
    i8_fn *const *fn = fns[c->layout->kind - MR_PACK_U4];
    int r = I8_MANY_ROWS(c, units, f, x, rows, out);
    for (; r + 4 <= rows; r += 4)
        fn[2](c, units, f, x + r, out + r * MR_TILE_OUT);
    for (; r + 2 <= rows; r += 2)
        fn[1](c, units, f, x + r, out + r * MR_TILE_OUT);
    if (r < rows)
        fn[0](c, units, f, x + r, out + r * MR_TILE_OUT);
}

/* ---- after the sums ----------------------------------------------------------------------- */

/* NaN differs between ISAs in sign and payload; outputs carry one. */
INLINE v16f one_nan(v16f a)
{
    return v16f_select(v16f_eq(a, a), a, v16f_bits(v16i_set1(MR_NAN_BITS)));
}

static void finish(const float *acc, float by, const float *bias, int n, float *y)
{
    for (int i = 0; i < n; i += 16) {
        v16f t = v16f_mul(v16f_load(acc + i), v16f_set1(by));
        if (bias)
            t = v16f_add(t, v16f_loadn(bias + i, n - i));
        v16f_storen(y + i, one_nan(t), n - i);
    }
}

const mr_mm_kernels LANES_FN(mr_mm_kernels) = {
    .isa = LANES_ISA,
    .u8_offset = U8_OFFSET,
    .wide_u8 = U8_WIDE,
    .direct_f32 = DIRECT_F32,
    .direct_u4 = DIRECT_U4,
    .quantise = quantise,
    .tile_f32 = tile_f32,
    .unpack_f32 = unpack_f32,
    .tile_i8 = tile_i8,
    .unpack_u4 = unpack_u4,
    .finish = finish,
};
