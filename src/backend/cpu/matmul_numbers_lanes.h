/* Scales and biases of 16 outputs: numbers of the type that a file has them in (F32, F16 or BF16), and those
 * that codes make of small integers. */
#ifndef MR_BACKEND_CPU_MATMUL_NUMBERS_LANES_H
#define MR_BACKEND_CPU_MATMUL_NUMBERS_LANES_H

#include "backend/cpu/matmul_core.h"

LANES_INLINE v16f load_numbers(const uint8_t *p, mr_dtype t)
{
    if (t == MR_BF16)
        return v16f_load_bf16((const uint16_t *)(const void *)p);
    if (t == MR_F16)
        return v16f_load_f16((const uint16_t *)(const void *)p);
    return v16f_load((const float *)(const void *)p);
}

/* ---- of codes ---- */

/* 2^(e-128): with E2M1 in doubled integers half of the scale. */
LANES_INLINE v16f half_e8m0(v16i e)
{
    v16i normal = v16i_shl(v16i_sub(e, v16i_set1(1)), 23);
    v16i least = v16i_shl(v16i_add(e, v16i_set1(1)), 21);
    return v16f_bits(v16i_select(v16i_gt(e, v16i_set1(1)), normal, least));
}

LANES_INLINE v16i code_word(const uint8_t *p)
{
    return v16i_load((const int32_t *)(const void *)p);
}

/* Small integer i of 16 outputs, see matmul_core.h: bytes, or words of 4 (Q2_K) or 4 + 2 bits. */
LANES_INLINE v16i code_number(int bits, bool bytes, const uint8_t *p, size_t outputs, int i)
{
    if (bytes)
        return v16i_load_i8((const int8_t *)p + (size_t)i * outputs);
    const int at = i % 4 * 8;
    v16i low = v16i_shr(code_word(p + (size_t)(i / 8) * outputs * 4), at + i / 4 % 2 * 4);
    low = v16i_and(low, v16i_set1(15));
    if (bits == 2)
        return low;
    v16i high = v16i_shr(code_word(p + 2 * outputs * 4), at + i / 4 * 2);
    high = v16i_and(high, v16i_set1(3));
    return v16i_or(low, v16i_shl(high, 4));
}

/* Bytes of small integers per output: in front of d and the min's scale. */
LANES_INLINE size_t code_numbers(int bits, bool bytes)
{
    return bytes ? bits == 6 ? 16 : 8 : bits == 2 ? 16 : 12;
}

/* d and the negated min's scale of lane block v, in front of which are the small integers. */
LANES_INLINE void code_supers(int bits, bool bytes, bool mins, int nv, const uint8_t *sides, int v,
                              v16f *d, v16f *less)
{
    size_t outputs = 16 * (size_t)nv;
    const uint8_t *p = sides + code_numbers(bits, bytes) * outputs + 32 * (size_t)v;
    *d = load_numbers(p, MR_F16);
    *less = mins ? v16f_neg(load_numbers(p + 2 * outputs, MR_F16)) : v16f_zero();
}

/* Small integers of lane block v: words are 64 bytes, bytes 16. */
LANES_INLINE const uint8_t *code_own(bool bytes, const uint8_t *sides, int v)
{
    return sides + (bytes ? 16 : 64) * (size_t)v;
}

/* Scale and bias of run j of a block with sub-scales of 32 k: the products are exact. */
LANES_INLINE void sub_scales(int bits, bool bytes, bool mins, int nv, const uint8_t *sides, int j,
                             int v, v16f d, v16f less, v16f *s, v16f *b)
{
    size_t outputs = 16 * (size_t)nv;
    const uint8_t *own = code_own(bytes, sides, v);
    *s = v16f_mul(d, v16f_from_i(code_number(bits, bytes, own, outputs, j)));
    *b = less;
    if (mins)
        *b = v16f_mul(less, v16f_from_i(code_number(bits, bytes, own, outputs, j + 8)));
}

/* Scale and bias of run j and lane block v of a unit with words of small integers and mins. */
LANES_INLINE void code_scales(const uint8_t *unit, int j, int v, v16f *s, v16f *b)
{
    v16f d, less;
    code_supers(4, false, true, 4, unit, v, &d, &less);
    sub_scales(4, false, true, 4, unit, j, v, d, less, s, b);
}

/* Scale and bias of run j and lane block v of any unit of CODES that has one for each run of 32. */
LANES_INLINE void code_run_scales(const mr_layout *l, int nv, const uint8_t *unit, int j, int v,
                                  v16f *s, v16f *b)
{
    const mr_code_form *f = &l->form;
    *b = v16f_zero();
    if (f->sub) {
        v16f d, less;
        code_supers(f->bits, f->table, l->bias, nv, unit, v, &d, &less);
        sub_scales(f->bits, f->table, l->bias, nv, unit, j, v, d, less, s, b);
    } else if (l->scale_dtype == MR_F8_E8M0) {
        *s = half_e8m0(v16i_load_u8(unit + 16 * v));
    } else {
        const size_t line = l->scale_dtype == MR_F32 ? 64 : 32;
        *s = load_numbers(unit + line * (size_t)v, l->scale_dtype);
        if (l->bias)
            *b = load_numbers(unit + line * (size_t)(nv + v), l->scale_dtype);
    }
}

#endif
