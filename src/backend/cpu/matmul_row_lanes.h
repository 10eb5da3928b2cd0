/* One row of activations: weights stream from memory and are read once.
 *
 * Part of matmul_lanes.h.  Two columns at a time, 256 bytes of each in turn, are two streams for the
 * memory system.  Sums and outputs of both streams stay in
 * registers where there are 32.
 * On int8 activations the slot comes last in a group: its line has arrived by then, and int32 sums
 * are exact in any order.
 */

enum { ROW_NV = 4 };

/* One group of one stream: all quads; x are the values, high those of upper nibbles. */
INLINE void row_step_u4(const uint8_t *lines, size_t far, x4 low, x4 high, v16i acc[ROW_NV])
{
    const v16i m = v16i_set1(0x0f0f0f0f);
    foreach (v, ROW_NV) {
        const uint8_t *p = lines + 64 * v;
        row_ask(p, far);
        v16i both = load_line(p);
        acc[v] = dot_u4(acc[v], v16i_and(both, m), low);
        acc[v] = dot_u4(acc[v], v16i_and(v16i_shr(both, 4), m), high);
    }
}

INLINE void row_step_u8(const uint8_t *lines, size_t far, x8 x, v16i acc[ROW_NV])
{
    foreach (v, ROW_NV) {
        const uint8_t *p = lines + 64 * v;
        row_ask(p, far);
        acc[v] = dot_u8(acc[v], w_u8(load_line(p)), x);
    }
}

/* The slot's product, << 7, for every lane block; p and r are the record's. */
INLINE v16i row_slot(const uint8_t *lines, int v, bool u4, const uint8_t *record)
{
    int p = RECORD(record, p), r = RECORD(record, r);
    v16i line = load_line(lines + 256 * (size_t)(u4 ? p / 2 : p) + 64 * (size_t)v);
    if (!u4)
        return v16i_shl(dot_u8(v16i_zero(), w_u8(line), slot_u8(r)), 7);
    line = v16i_and(v16i_shr(line, p % 2 * 4), v16i_set1(0x0f0f0f0f));
    return v16i_shl(dot_u4(v16i_zero(), line, slot_u4(r)), 7);
}

/* y of one stream after a group: fma(b, A, y), then fma(s, I << e, y).  Rows that are even have no slot. */
INLINE void row_scale(const uint8_t *lines, const uint8_t *after, const uint8_t *record, bool u4,
                      bool even, mr_dtype type, bool bias, v16i acc[ROW_NV], v16f y[ROW_NV])
{
    const size_t size = number_size(type);
    foreach (v, ROW_NV) {
        const uint8_t *at = after + 16 * size * (size_t)v;
        v16i sum = even ? acc[v] : v16i_add(acc[v], row_slot(lines, v, u4, record));
        if (bias)
            y[v] = v16f_fma(load_numbers(at + 64 * size, type), v16f_set1(record_a(record)), y[v]);
        sum = shift_up(sum, RECORD(record, e));
        y[v] = v16f_fma(load_numbers(at, type), v16f_from_i(sum), y[v]);
    }
}

INLINE void row_i8_streams(const mr_column *c, int streams, int64_t units, const mr_qform *f,
                           const uint8_t *x, bool u4, mr_dtype type, bool bias, float *const *out)
{
    v16i acc[2][ROW_NV];
    v16f y[2][ROW_NV];
    const uint8_t *unit[2];
    const int quads = f->group / 4, per_unit = c->layout->k_unit / f->group;
    const size_t lines = c->lines, next = c->unit, group = lines / (size_t)per_unit, step = f->step;
    size_t far[2];
    foreach (s, streams) {
        unit[s] = c[s].data;
        foreach (v, ROW_NV)
            y[s][v] = v16f_load(out[s] + 16 * v);
    }
    for (int64_t u = 0; u < units; u++) {
        foreach (s, streams)
            far[s] = mr_column_far(c + s, unit[s]);
        for (int g = 0; g < per_unit; g++, x += step) {
            const uint8_t *values = x + sizeof(mr_qgroup);
            const size_t first = (size_t)g * group;
            foreach (s, streams)
                foreach (v, ROW_NV)
                    acc[s][v] = v16i_set1(RECORD(x, start));
            for (size_t i = 0; i < (size_t)quads; i += u4 ? 2 : 1) {
                const size_t at = first + 256 * (u4 ? i / 2 : i);
                if (u4) {
                    x4 low = x_u4(values + 4 * i), high = x_u4(values + 4 * i + 4);
                    foreach (s, streams)
                        row_step_u4(unit[s] + at, far[s], low, high, acc[s]);
                } else {
                    x8 quad = x_u8(values + (U8_WIDE ? 8 : 4) * i);
                    foreach (s, streams)
                        row_step_u8(unit[s] + at, far[s], quad, acc[s]);
                }
            }
            foreach (s, streams)
                row_scale(unit[s] + first, unit[s] + lines, x, u4, false, type, bias, acc[s], y[s]);
        }
        foreach (s, streams) {
            for (size_t i = lines; i < next; i += 64)
                row_ask(unit[s] + i, far[s]);
            unit[s] += next;
        }
    }
    foreach (s, streams)
        foreach (v, ROW_NV)
            v16f_store(out[s] + 16 * v, y[s][v]);
}

#if ROW_STREAMS > 1
/* The parts of one row (MR_ACT_PARTS) and two streams: the same, with outputs in memory, and quads that come
 * with the dots, so that sums find room in the registers.  Parts two and three have no slot. */
INLINE void row_i8_parts(const mr_column *c, int64_t units, const mr_qform *f,
                         const uint8_t *const *rows, bool u4, mr_dtype type, bool bias,
                         float *const *out)
{
    v16i acc[2][MR_ACT_PARTS][ROW_NV];
    const uint8_t *unit[2] = {c[0].data, c[1].data}, *x[MR_ACT_PARTS];
    const int quads = f->group / 4, per_unit = c->layout->k_unit / f->group;
    const size_t lines = c->lines, next = c->unit, group = lines / (size_t)per_unit, step = f->step;
    size_t far[2];
    foreach (p, MR_ACT_PARTS)
        x[p] = rows[p];
    for (int64_t u = 0; u < units; u++) {
        foreach (s, 2)
            far[s] = mr_column_far(c + s, unit[s]);
        for (int g = 0; g < per_unit; g++) {
            const size_t first = (size_t)g * group;
            foreach (s, 2)
                foreach (p, MR_ACT_PARTS)
                    foreach (v, ROW_NV)
                        acc[s][p][v] = v16i_set1(RECORD(x[p], start));
            for (size_t i = 0; i < (size_t)quads; i += u4 ? 2 : 1) {
                const size_t at = first + 256 * (u4 ? i / 2 : i), quad = sizeof(mr_qgroup) + 4 * i;
                foreach (s, 2)
                    foreach (v, ROW_NV) {
                        const uint8_t *line = unit[s] + at + 64 * v;
                        v16i w = load_line(line), low = u4 ? v16i_field(w, 0, 4, 0) : w;
                        row_ask(line, far[s]);
                        foreach (p, MR_ACT_PARTS)
                            acc[s][p][v] = dot_at(acc[s][p][v], low, x[p] + quad);
                        if (!u4)
                            continue;
                        w = v16i_field(w, 4, 4, 0);
                        foreach (p, MR_ACT_PARTS)
                            acc[s][p][v] = dot_at(acc[s][p][v], w, x[p] + quad + 4);
                    }
            }
            foreach (s, 2)
                foreach (p, MR_ACT_PARTS) {
                    v16f y[ROW_NV];
                    foreach (v, ROW_NV)
                        y[v] = v16f_load(out[s] + p * MR_TILE_OUT + 16 * v);
                    row_scale(unit[s] + first, unit[s] + lines, x[p], u4, p > 0, type, bias,
                              acc[s][p], y);
                    foreach (v, ROW_NV)
                        v16f_store(out[s] + p * MR_TILE_OUT + 16 * v, y[v]);
                }
            foreach (p, MR_ACT_PARTS)
                x[p] += step;
        }
        foreach (s, 2) {
            for (size_t i = lines; i < next; i += 64)
                row_ask(unit[s] + i, far[s]);
            unit[s] += next;
        }
    }
}
#endif

typedef void row_i8_fn(const mr_column *c, int64_t units, const mr_qform *f,
                       const uint8_t *const *x, float *const *out);

#define ROW_I8(name, streams, u4, type, bias)                                                      \
    static __attribute__((noinline)) void name(const mr_column *c, int64_t units,                  \
                                               const mr_qform *f, const uint8_t *const *x,         \
                                               float *const *out)                                  \
    {                                                                                              \
        row_i8_streams(c, streams, units, f, *x, u4, type, bias, out);                             \
    }
#if ROW_STREAMS > 1
#define ROW_I8_PARTS(name, u4, type, bias)                                                         \
    static __attribute__((noinline)) void name(const mr_column *c, int64_t units,                  \
                                               const mr_qform *f, const uint8_t *const *x,         \
                                               float *const *out)                                  \
    {                                                                                              \
        row_i8_parts(c, units, f, x, u4, type, bias, out);                                         \
    }
#define FN_PARTS(name) name
#else
#define ROW_I8_PARTS(name, u4, type, bias)
#define FN_PARTS(name) NULL
#endif
#define ROW_I8_ALL(type, t)                                                                        \
    ROW_I8(row_u8_1_##t, 1, false, type, false)                                                    \
    ROW_I8(row_u8_1_##t##_bias, 1, false, type, true)                                              \
    ROW_I8(row_u8_2_##t, ROW_STREAMS, false, type, false)                                          \
    ROW_I8(row_u8_2_##t##_bias, ROW_STREAMS, false, type, true)                                    \
    ROW_I8(row_u4_1_##t, 1, true, type, false)                                                     \
    ROW_I8(row_u4_1_##t##_bias, 1, true, type, true)                                               \
    ROW_I8(row_u4_2_##t, ROW_STREAMS, true, type, false)                                           \
    ROW_I8(row_u4_2_##t##_bias, ROW_STREAMS, true, type, true)                                     \
    ROW_I8_PARTS(row_u8_parts_##t, false, type, false)                                             \
    ROW_I8_PARTS(row_u8_parts_##t##_bias, false, type, true)                                       \
    ROW_I8_PARTS(row_u4_parts_##t, true, type, false)                                              \
    ROW_I8_PARTS(row_u4_parts_##t##_bias, true, type, true)
#define ROW_I8_TABLE(t)                                                                            \
    {                                                                                              \
        {{row_u8_1_##t, row_u8_1_##t##_bias},                                                      \
         {row_u8_2_##t, row_u8_2_##t##_bias},                                                      \
         {FN_PARTS(row_u8_parts_##t), FN_PARTS(row_u8_parts_##t##_bias)}},                         \
        {                                                                                          \
            {row_u4_1_##t, row_u4_1_##t##_bias}, {row_u4_2_##t, row_u4_2_##t##_bias},              \
            {                                                                                      \
                FN_PARTS(row_u4_parts_##t), FN_PARTS(row_u4_parts_##t##_bias)                      \
            }                                                                                      \
        }                                                                                          \
    }
ROW_I8_ALL(MR_BF16, bf16)
ROW_I8_ALL(MR_F16, f16)
ROW_I8_ALL(MR_F32, f32)

/* Both columns can be streams of one call. */
static bool row_alike(const mr_column *a, const mr_column *b)
{
    const mr_layout *l = a->layout, *m = b->layout;
    return a->nv == b->nv && l->kind == m->kind && l->k_unit == m->k_unit &&
           l->scale_dtype == m->scale_dtype && l->bias == m->bias && l->zero == m->zero &&
           l->form.bits == m->form.bits && l->form.table == m->form.table &&
           l->form.run == m->form.run;
}

static void row_i8(const mr_column *c, int n, int64_t units, const mr_qform *f,
                   const uint8_t *const *x, int parts, float *const *out)
{
    static row_i8_fn *const fns[3][2][3][2] = {ROW_I8_TABLE(bf16), ROW_I8_TABLE(f16),
                                               ROW_I8_TABLE(f32)};
    const mr_layout *l = c->layout;
    bool u4 = l->kind == MR_PACK_U4;
    if (n > 1 && (ROW_STREAMS < 2 || !row_alike(c, c + 1))) {
        row_i8(c, 1, units, f, x, parts, out);
        row_i8(c + 1, 1, units, f, x, parts, out + 1);
        return;
    }
    if (c->nv == ROW_NV && l->kind == MR_PACK_CODES && (parts == 1 || n > 1)) {
        const codes_fns *of = codes_fns_of(l);
        (n == 1 ? of->one : parts == 1 ? of->two : of->parts)(c, units, f, x, 1, out);
        return;
    }
    if (c->nv != ROW_NV || (!u4 && l->kind != MR_PACK_U8) || n < (parts > 1 ? 2 : 1)) {
        for (int s = 0; s < n; s++)
            tile_i8(c + s, units, f, x, parts, 1, out[s]);
        return;
    }
    int type = l->scale_dtype == MR_BF16 ? 0 : l->scale_dtype == MR_F16 ? 1 : 2;
    fns[type][u4][parts > 1 ? 2 : n - 1][l->bias](c, units, f, x, out);
}

/* ---- f32 activations ---------------------------------------------------------------------- */

/* Float kinds: weights of one k (BF16: of a pair, unless k1 cuts it). */
INLINE void row_floats(const mr_column *c, int streams, int64_t k1, const float *x,
                       mr_pack_kind kind, float *const *out)
{
    v16f y[2][ROW_NV];
    const uint8_t *p[2];
    const size_t unit = c->unit, line = kind == MR_PACK_F16 ? 32 : 64;
    int64_t k = 0;
    foreach (s, streams) {
        p[s] = c[s].data;
        foreach (v, ROW_NV)
            y[s][v] = v16f_load(out[s] + 16 * v);
    }
    for (; k + (kind == MR_PACK_BF16) < k1; k += kind == MR_PACK_BF16 ? 2 : 1) {
        v16f x0 = v16f_set1(x[k]), x1 = kind == MR_PACK_BF16 ? v16f_set1(x[k + 1]) : x0;
        foreach (s, streams) {
            const size_t far = mr_column_far(c + s, p[s]);
            foreach (v, ROW_NV) {
                const uint8_t *at = p[s] + line * (size_t)v;
                if (kind != MR_PACK_F16 || v % 2 == 0)
                    row_ask(at, far);
                if (kind == MR_PACK_BF16) {
                    v16i pair = load_line(at);
                    y[s][v] = v16f_fma(v16f_bits(v16i_shl(pair, 16)), x0, y[s][v]);
                    pair = v16i_and(pair, v16i_set1((int32_t)0xffff0000));
                    y[s][v] = v16f_fma(v16f_bits(pair), x1, y[s][v]);
                } else {
                    mr_dtype t = kind == MR_PACK_F16 ? MR_F16 : MR_F32;
                    y[s][v] = v16f_fma(load_numbers(at, t), x0, y[s][v]);
                }
            }
            p[s] += unit;
        }
    }
    if (kind == MR_PACK_BF16 && k < k1)
        foreach (s, streams)
            foreach (v, ROW_NV) {
                v16f w = v16f_bits(v16i_shl(load_line(p[s] + line * (size_t)v), 16));
                y[s][v] = v16f_fma(w, v16f_set1(x[k]), y[s][v]);
            }
    foreach (s, streams)
        foreach (v, ROW_NV)
            v16f_store(out[s] + 16 * v, y[s][v]);
}

typedef void row_floats_fn(const mr_column *c, int64_t k, const float *x, float *const *out);

#define ROW_FLOATS(name, streams, kind)                                                            \
    static __attribute__((noinline)) void name(const mr_column *c, int64_t k, const float *x,      \
                                               float *const *out)                                  \
    {                                                                                              \
        row_floats(c, streams, k, x, kind, out);                                                   \
    }
ROW_FLOATS(row_f32_1, 1, MR_PACK_F32)
ROW_FLOATS(row_f32_2, ROW_STREAMS, MR_PACK_F32)
ROW_FLOATS(row_f16_1, 1, MR_PACK_F16)
ROW_FLOATS(row_f16_2, ROW_STREAMS, MR_PACK_F16)
ROW_FLOATS(row_bf16_1, 1, MR_PACK_BF16)
ROW_FLOATS(row_bf16_2, ROW_STREAMS, MR_PACK_BF16)

#ifdef FEW_ROWS_F32
static void row_numbers(const mr_column *c, int64_t k, const float *x, float *out)
{
    FEW_ROWS_F32(c, k, &x, 1, out);
}
#else
/* U4 and U8, `each` k to a line: FMAs bound it, so one stream. */
INLINE void numbers_row(const mr_column *c, int64_t k1, const float *x,
                        v16f number(const uint8_t *line, int j), int each, bool twice, float *out)
{
    v16f y[ROW_NV], scale[ROW_NV], bias[ROW_NV];
    const int lines = c->layout->k_unit / each;
    foreach (v, ROW_NV)
        y[v] = v16f_load(out + 16 * v);
    const uint8_t *unit = c->data;
    for (int64_t k = 0; k < k1; k += each * lines, unit += c->unit) {
        foreach (v, ROW_NV)
            unit_scales(c, unit + c->lines, v, 0, &scale[v], &bias[v]);
        const size_t far = mr_column_far(c, unit);
        for (size_t i = c->lines; i < c->unit; i += 64)
            row_ask(unit + i, far);
        for (int i = 0; i < lines; i++, x += each) {
            const uint8_t *line = unit + 256 * (size_t)i;
            foreach (v, ROW_NV)
                row_ask(line + 64 * v, far);
            foreach (v, ROW_NV)
                foreach (j, each) {
                    v16f q = number(line + 64 * v, j);
                    v16f w = twice ? v16f_add(v16f_mul(scale[v], q), bias[v])
                                   : v16f_fma(scale[v], q, bias[v]);
                    y[v] = v16f_fma(w, v16f_set1(x[j]), y[v]);
                }
        }
    }
    foreach (v, ROW_NV)
        v16f_store(out + 16 * v, y[v]);
}

typedef void row_numbers_fn(const mr_column *c, int64_t k, const float *x, float *out);

#define ROW_NUMBERS(name, number, each, twice)                                                     \
    static __attribute__((noinline)) void name(const mr_column *c, int64_t k, const float *x,      \
                                               float *out)                                         \
    {                                                                                              \
        numbers_row(c, k, x, number, each, twice, out);                                            \
    }
ROW_NUMBERS(row_u8, number_u8, 4, false)
ROW_NUMBERS(row_u8_twice, number_u8, 4, true)
ROW_NUMBERS(row_u4, number_u4, 8, false)
ROW_NUMBERS(row_u4_twice, number_u4, 8, true)

static void row_numbers(const mr_column *c, int64_t k, const float *x, float *out)
{
    static row_numbers_fn *const fns[2][2] = {{row_u8, row_u8_twice}, {row_u4, row_u4_twice}};
    fns[c->layout->kind == MR_PACK_U4][two_roundings(c->layout)](c, k, x, out);
}
#endif

static void row_f32(const mr_column *c, int n, int64_t k, const float *x, float *const *out)
{
    static row_floats_fn *const floats[3][2] = {
        {row_f32_1, row_f32_2}, {row_f16_1, row_f16_2}, {row_bf16_1, row_bf16_2}};
    mr_pack_kind kind = c->layout->kind;
    bool quantised = kind == MR_PACK_U4 || kind == MR_PACK_U8;
    if (n > 1 && (ROW_STREAMS < 2 || quantised || !row_alike(c, c + 1))) {
        row_f32(c, 1, k, x, out);
        row_f32(c + 1, 1, k, x, out + 1);
        return;
    }
    if (c->nv == ROW_NV && kind <= MR_PACK_BF16)
        floats[kind][n - 1](c, k, x, out);
    else if (c->nv == ROW_NV && quantised)
        row_numbers(c, k, x, out[0]);
    else
        for (int s = 0; s < n; s++)
            tile_f32(c + s, k, &x, 1, out[s]);
}
