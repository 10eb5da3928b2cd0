/* Packed weights as numbers: one line or unit as f32, and panels for many rows.
 *
 * Part of matmul_lanes.h, which says what the including file gives.  A weight is fma(s, q, b), see
 * docs/numerics.md, "Weights as f32"; the row and tile kernels on f32 use the same functions, so a
 * panel holds the very numbers they would make.
 */

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
