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

bool mr_dtype_is_weight(mr_dtype t, int bits)
{
    switch (t) {
    case MR_F32:
    case MR_F16:
    case MR_BF16:
    case MR_Q4_0:
    case MR_Q4_1:
    case MR_Q8_0:
    case MR_Q6_K:
        return true;
    case MR_AFFINE:
        return bits == 4 || bits == 8;
    default:
        return false;
    }
}

bool mr_dtype_is_quantised(mr_dtype t)
{
    return mr_dtype_block(t) != 1;
}

size_t mr_row_bytes(mr_dtype t, int bits, int64_t k)
{
    assert(k >= 0);
    if (t == MR_AFFINE) {
        /* Every affine group is a multiple of 32, and 32 values of any width are whole words. */
        assert(bits >= 1 && bits <= 8);
        return k % 32 ? 0 : (size_t)(k / 32) * 4 * (size_t)bits;
    }
    int block = mr_dtype_block(t);
    return k % block ? 0 : (size_t)(k / block) * (size_t)mr_dtype_block_bytes(t);
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
