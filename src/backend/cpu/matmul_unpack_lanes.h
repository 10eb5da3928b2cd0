/* Packed weights as numbers: one line or unit as f32, and panels for many rows.
 *
 * Part of matmul_lanes.h, which says what the including file gives.  A weight is fma(s, q, b), see
 * docs/numerics.md, "Weights as f32"; the row and tile kernels on f32 use the same functions, so a
 * panel holds the very numbers they would make.
 */

/* ---- weights as f32 ----------------------------------------------------------------------- */

/* Whether a weight is rounded twice: scales of 16 bits, and those made of a 16-bit scale and a small
 * integer, make s*q exact, so that one FMA rounds as product and sum do. */
INLINE bool two_roundings(const mr_layout *l)
{
    return l->scale_dtype == MR_F32 && l->bias && l->kind != MR_PACK_SUBS;
}

/* SUBS: scale and bias of run j. */
INLINE void subs_scales(const mr_column *c, const uint8_t *after, int v, int j, v16f *s, v16f *b)
{
    const mr_layout *l = c->layout;
    size_t o = 16 * (size_t)v, outputs = 16 * (size_t)c->nv;
    size_t runs = (size_t)(l->k_unit / 16), at = (size_t)j * outputs + o;
    *b = v16f_zero();
    if (l->form.scale == MR_F8_E4M3) {
        *s = v16f_load((const float *)(const void *)after + at);
    } else {
        const int8_t *subs = (const int8_t *)after + at;
        const float *d =
            (const float *)(const void *)(after + runs * outputs * (l->bias ? 2 : 1)) + o;
        *s = v16f_mul(v16f_load(d), v16f_from_i(v16i_load_i8(subs)));
        if (l->bias)
            *b = v16f_mul(v16f_load(d + outputs), v16f_from_i(v16i_load_i8(subs + runs * outputs)));
    }
}

/* Scales and biases of lane block v of a unit, in SUBS of run j.  b makes up for zero: zero*s is
 * exact, so fma(s, q, -s*zero) rounds once, as s*(q - zero) does. */
INLINE void unit_scales(const mr_column *c, const uint8_t *after, int v, int j, v16f *s, v16f *b)
{
    const mr_layout *l = c->layout;
    size_t size = number_size(l->scale_dtype), o = 16 * (size_t)v, outputs = 16 * (size_t)c->nv;
    if (l->kind == MR_PACK_SUBS) {
        subs_scales(c, after, v, j, s, b);
    } else {
        *s = load_numbers(after + o * size, l->scale_dtype);
        if (l->bias)
            *b = load_numbers(after + (outputs + o) * size, l->scale_dtype);
    }
    if (!l->bias)
        *b = v16f_mul(*s, v16f_set1((float)-l->zero));
}

/* Byte or nibble `shift` bits up in each lane, as a weight. */
INLINE v16f weight_at(v16i line, int shift, int mask, v16f s, v16f b, bool twice)
{
    v16f q = v16f_from_i(v16i_and(v16i_shr(line, shift), v16i_set1(mask)));
    return twice ? v16f_add(v16f_mul(s, q), b) : v16f_fma(s, q, b);
}

/* The four weights k..k+3 of quad i (within a unit) and lane block v. */
INLINE void quad_weights(const uint8_t *unit, bool u4, int nv, int i, int v, v16f s, v16f b,
                         bool twice, v16f w[4])
{
    int line = u4 ? i / 2 : i, up = u4 && (i & 1) ? 4 : 0;
    v16i bytes = load_line(unit + (size_t)(line * nv + v) * 64);
    foreach (j, 4)
        w[j] = weight_at(bytes, 8 * j + up, u4 ? 15 : 255, s, b, twice);
}

/* ---- panels ------------------------------------------------------------------------------- */

INLINE void unpack_unit(const mr_column *c, const uint8_t *unit, bool u4, bool twice, float *panel)
{
    const uint8_t *after = unit + c->lines;
    int quads = c->layout->k_unit / 4, run = c->layout->kind == MR_PACK_SUBS ? 4 : quads;
    for (int v = 0; v < c->nv; v++) {
        v16f s = v16f_zero(), b = s, w[4];
        for (int i = 0; i < quads; i++) {
            if (i % run == 0)
                unit_scales(c, after, v, i / 4, &s, &b);
            quad_weights(unit, u4, c->nv, i, v, s, b, twice, w);
            foreach (j, 4)
                v16f_store(panel + ((4 * i + j) * c->nv + v) * 16, w[j]);
        }
    }
}

/* The scales of an E4M3 unit's lane block. */
INLINE v16f e4m3_scales(const mr_column *c, const uint8_t *unit, int v)
{
    const uint8_t *after = unit + c->lines;
    if (c->layout->scale_dtype == MR_F32)
        return load_numbers(after + 64 * v, MR_F32);
    v16i e = v16i_load_u8(after + 16 * v);
    return v16f_bits(v16i_select(v16i_gt(e, v16i_zero()), v16i_shl(e, 23), v16i_set1(0x00400000)));
}

/* Weight j of a line of E4M3. */
INLINE v16f e4m3_weight(v16i line, int j, v16f s)
{
    return v16f_mul(from_e4m3(v16i_shr(line, 8 * j), 0x1p120f), s);
}

static void unpack_e4m3(const mr_column *c, int64_t k1, float *panel)
{
    const int k_unit = c->layout->k_unit;
    for (int64_t k0 = 0; k0 < k1; k0 += k_unit) {
        const uint8_t *unit = c->data + (size_t)(k0 / k_unit) * c->unit;
        int left = k1 - k0 < k_unit ? (int)(k1 - k0) : k_unit;
        for (int v = 0; v < c->nv; v++) {
            v16f s = e4m3_scales(c, unit, v);
            for (int i = 0; i < left; i++)
                v16f_store(
                    panel + ((k0 + i) * c->nv + v) * 16,
                    e4m3_weight(load_line(unit + (size_t)(i / 4 * c->nv + v) * 64), i % 4, s));
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

static void unpack_across(const mr_column *c, int64_t k, float *panel);

static void unpack_f32(const mr_column *c, int64_t k, float *panel)
{
    bool u4 = c->layout->kind == MR_PACK_U4, twice = two_roundings(c->layout);
    const uint8_t *unit = c->data;
    if (c->layout->kind == MR_PACK_CODES) {
        codes_unpack_f32(c, k, panel);
        return;
    }
    if (c->layout->kind == MR_PACK_E4M3) {
        unpack_e4m3(c, k, panel);
        return;
    }
    if (mr_layout_across(c->layout)) {
        unpack_across(c, k, panel);
        return;
    }
    if (!mr_layout_quantised(c->layout)) {
        unpack_floats(c, k, panel);
        return;
    }
    for (int64_t i = 0; i < k;
         i += c->layout->k_unit, unit += c->unit, panel += c->layout->k_unit * 16 * c->nv) {
        if (u4 && twice)
            unpack_unit(c, unit, true, true, panel);
        else if (u4)
            unpack_unit(c, unit, true, false, panel);
        else if (twice)
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

static void unpack_bytes(const mr_column *c, int64_t units, uint8_t *panel)
{
    if (c->layout->kind == MR_PACK_CODES)
        unpack_codes(c, units, panel);
    else
        unpack_u4(c, units, panel);
}
