/* The table of formats, and conversions of 16-bit floats in plain integer arithmetic.
 *
 * Conversions use no hardware instruction, so that every CPU gives the same bits and subnormals
 * never depend on the FPU's mode.
 */
#include "tensor/tensor.h"

#include <assert.h>

static const struct {
    const char *name;
    int elems, bytes;
} dtypes[MR_DTYPE_COUNT] = {
#define D(id, name, elems, bytes) [MR_##id] = {name, elems, bytes},
#include "tensor/dtypes.def"
#undef D
};

const char *mr_dtype_name(mr_dtype t)
{
    assert((unsigned)t < MR_DTYPE_COUNT);
    return dtypes[t].name;
}

int mr_dtype_block(mr_dtype t)
{
    assert((unsigned)t < MR_DTYPE_COUNT);
    return dtypes[t].elems;
}

int mr_dtype_block_bytes(mr_dtype t)
{
    assert((unsigned)t < MR_DTYPE_COUNT);
    return dtypes[t].bytes;
}

bool mr_dtype_is_grouped(mr_dtype t)
{
    return mr_dtype_block(t) == 0;
}

bool mr_dtype_is_weight(mr_dtype t, int bits)
{
    switch (t) {
    case MR_F32:
    case MR_F16:
    case MR_BF16:
        return true;
    case MR_AFFINE:
        return bits >= 2 && bits <= 8 && bits != 7;
    case MR_INT:
    case MR_FP:
        return bits == 4 || bits == 8;
    default:
        return mr_dtype_block(t) > 1;
    }
}

bool mr_dtype_is_quantised(mr_dtype t)
{
    return mr_dtype_block(t) != 1;
}

bool mr_group_known(mr_dtype t, int bits, int group, mr_dtype scale_dtype)
{
    assert(mr_dtype_is_grouped(t));
    if (!mr_dtype_is_weight(t, bits))
        return false;
    if (t != MR_FP)
        return (group == 32 || group == 64 || group == 128) &&
               (scale_dtype == MR_F32 || scale_dtype == MR_F16 || scale_dtype == MR_BF16);
    if (bits == 4)
        return (group == 32 && scale_dtype == MR_F8_E8M0) ||
               (group == 16 && scale_dtype == MR_F8_E4M3);
    return (group == 32 && scale_dtype == MR_F8_E8M0) || (group == 128 && scale_dtype == MR_F32);
}

int64_t mr_row_unit(mr_dtype t, int bits, int group)
{
    if (!mr_dtype_is_grouped(t))
        return mr_dtype_block(t);
    return t == MR_FP && bits == 8 ? 1 : group < 32 ? 32 : group;
}

size_t mr_row_bytes(mr_dtype t, int bits, int64_t k)
{
    assert(k >= 0);
    if (mr_dtype_is_grouped(t)) {
        assert(bits >= 1 && bits <= 8);
        return k % 8 * bits % 8 ? 0 : (size_t)(k / 8) * (size_t)bits + (size_t)(k % 8 * bits / 8);
    }
    int block = mr_dtype_block(t);
    return k % block ? 0 : (size_t)(k / block) * (size_t)mr_dtype_block_bytes(t);
}

size_t mr_row_scale_bytes(mr_dtype t, int group, mr_dtype scale_dtype, int64_t k)
{
    if (!mr_dtype_is_grouped(t))
        return 0;
    assert(k >= 0 && group > 0);
    return (size_t)(k / group + (k % group != 0)) * (size_t)mr_dtype_block_bytes(scale_dtype);
}

typedef union bits32 {
    uint32_t u;
    float f;
} bits32;

float mr_f16_to_f32(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000) << 16;
    uint32_t exponent = (h >> 10) & 31, fraction = h & 0x3ff;
    bits32 v;
    if (exponent == 31) {
        v.u = sign | 0x7f800000 | fraction << 13;
    } else if (exponent) {
        v.u = sign | (exponent + 112) << 23 | fraction << 13;
    } else if (!fraction) {
        v.u = sign;
    } else {
        /* Subnormal: shift the leading one up to the hidden bit. */
        uint32_t e = 113;
        while (!(fraction & 0x400)) {
            fraction <<= 1;
            e--;
        }
        v.u = sign | e << 23 | (fraction & 0x3ff) << 13;
    }
    return v.f;
}

uint16_t mr_f32_to_f16(float f)
{
    bits32 v = {.f = f};
    uint32_t sign = v.u >> 16 & 0x8000, u = v.u & 0x7fffffff;
    if (u > 0x7f800000)
        return (uint16_t)(sign | 0x7e00 | (u >> 13 & 0x3ff));
    if (u >= 0x47800000) /* 65536 and above */
        return (uint16_t)(sign | 0x7c00);
    if (u >= 0x38800000) {
        /* Normal: rebias, then round; a carry runs into the exponent and, at the top, to Inf. */
        u -= 112u << 23;
        return (uint16_t)(sign | (u + 0xfff + (u >> 13 & 1)) >> 13);
    }
    if (u < 0x33000000) /* below half of the least subnormal */
        return (uint16_t)sign;
    /* Subnormal: the result counts units of 2^-24. */
    uint32_t shift = 126 - (u >> 23), fraction = (u & 0x7fffff) | 0x800000;
    uint32_t q = fraction >> shift, rest = fraction & ((1u << shift) - 1), half = 1u << (shift - 1);
    if (rest > half || (rest == half && (q & 1)))
        q++;
    return (uint16_t)(sign | q);
}

uint16_t mr_f32_to_bf16(float f)
{
    bits32 v = {.f = f};
    if ((v.u & 0x7fffffff) > 0x7f800000)
        return (uint16_t)(v.u >> 16 | 0x40); /* quiet: the payload's top bits may all be gone */
    return (uint16_t)((v.u + 0x7fff + (v.u >> 16 & 1)) >> 16);
}

float mr_e4m3_to_f32(uint8_t v)
{
    bits32 b = {.u = (uint32_t)(v & 0x80) << 24};
    uint32_t exponent = v >> 3 & 15, fraction = v & 7;
    if ((v & 0x7f) == 0x7f)
        b.u |= 0x7fc00000;
    else if (exponent)
        b.u |= (exponent + 120) << 23 | fraction << 20;
    else
        return v & 0x80 ? -0x1p-9f * (float)fraction : 0x1p-9f * (float)fraction;
    return b.f;
}

float mr_e8m0_to_f32(uint8_t v)
{
    bits32 b = {.u = v == 255 ? 0x7fc00000 : v ? (uint32_t)v << 23 : 0x00400000};
    return b.f;
}
