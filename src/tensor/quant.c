/* Rows of stored numbers as f32.
 *
 * Each format is one function over one row.  The order of the roundings is the one of the format's
 * reference dequantiser: a product is rounded to f32 before anything is added to it (the build
 * switches contraction off), and Q6_K rounds d*scale before it multiplies by the weight.
 * Rows come from files at any alignment, so multi-byte numbers are copied out.
 */
#include "tensor/tensor.h"

#include <assert.h>
#include <string.h>

static uint16_t load_u16(const uint8_t *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}

static float load_f16(const uint8_t *p)
{
    return mr_f16_to_f32(load_u16(p));
}

static float load_float(mr_dtype t, const uint8_t *p)
{
    float f;
    switch (t) {
    case MR_F16:
        return load_f16(p);
    case MR_BF16:
        return mr_bf16_to_f32(load_u16(p));
    default:
        assert(t == MR_F32);
        memcpy(&f, p, sizeof f);
        return f;
    }
}

static void row_q4_0(const uint8_t *p, int64_t k, float *dst)
{
    for (int64_t i = 0; i < k; i += 32, p += 18) {
        float d = load_f16(p);
        for (int j = 0; j < 16; j++) {
            dst[i + j] = d * (float)((p[2 + j] & 15) - 8);
            dst[i + j + 16] = d * (float)((p[2 + j] >> 4) - 8);
        }
    }
}

static void row_q4_1(const uint8_t *p, int64_t k, float *dst)
{
    for (int64_t i = 0; i < k; i += 32, p += 20) {
        float d = load_f16(p), m = load_f16(p + 2);
        for (int j = 0; j < 16; j++) {
            float low = d * (float)(p[4 + j] & 15);
            float high = d * (float)(p[4 + j] >> 4);
            dst[i + j] = low + m;
            dst[i + j + 16] = high + m;
        }
    }
}

static void row_q8_0(const uint8_t *p, int64_t k, float *dst)
{
    for (int64_t i = 0; i < k; i += 32, p += 34) {
        float d = load_f16(p);
        for (int j = 0; j < 32; j++)
            dst[i + j] = d * (float)(int8_t)p[2 + j];
    }
}

/* Block: low nibbles ql[128], high pairs qh[64], int8 scales[16], f16 d.  In each half of 128,
 * value 32*s + l has its low nibble in ql[l + 32*(s&1)] (the upper nibble for s >= 2) and its two
 * high bits in pair s of qh[l]; a scale serves 16 values. */
static void row_q6_k(const uint8_t *p, int64_t k, float *dst)
{
    for (int64_t i = 0; i < k; i += 256, p += 210) {
        float d = load_f16(p + 208);
        for (int v = 0; v < 256; v++) {
            int half = v >> 7, s = v >> 5 & 3, l = v & 31;
            int low = p[64 * half + 32 * (s & 1) + l] >> (s < 2 ? 0 : 4) & 15;
            int high = p[128 + 32 * half + l] >> 2 * s & 3;
            float scale = d * (float)(int8_t)p[192 + (v >> 4)];
            dst[i + v] = scale * (float)((low | high << 4) - 32);
        }
    }
}

static void row_affine(const mr_rows *r, int64_t row, const uint8_t *p, float *dst)
{
    assert(r->group > 0 && r->k % r->group == 0);
    int64_t groups = r->k / r->group;
    size_t size = (size_t)mr_dtype_block_bytes(r->scale_dtype);
    const uint8_t *scales = (const uint8_t *)r->scales + (size_t)(row * groups) * size;
    const uint8_t *biases = (const uint8_t *)r->biases + (size_t)(row * groups) * size;
    for (int64_t g = 0; g < groups; g++) {
        float scale = load_float(r->scale_dtype, scales + (size_t)g * size);
        float bias = load_float(r->scale_dtype, biases + (size_t)g * size);
        for (int64_t i = g * r->group; i < (g + 1) * r->group; i++) {
            int q = r->bits == 8 ? p[i] : p[i / 2] >> (i & 1 ? 4 : 0) & 15;
            float product = scale * (float)q;
            dst[i] = product + bias;
        }
    }
}

void mr_dequant_row(const mr_rows *r, int64_t row, float *dst)
{
    assert(mr_dtype_is_weight(r->dtype, r->bits));
    assert(row >= 0 && row < r->n);
    size_t bytes = mr_row_bytes(r->dtype, r->bits, r->k);
    assert(bytes || !r->k);
    const uint8_t *p = (const uint8_t *)r->data + (size_t)row * bytes;
    switch (r->dtype) {
    case MR_F32:
        memcpy(dst, p, bytes);
        break;
    case MR_F16:
    case MR_BF16:
        for (int64_t i = 0; i < r->k; i++)
            dst[i] = load_float(r->dtype, p + 2 * i);
        break;
    case MR_Q4_0:
        row_q4_0(p, r->k, dst);
        break;
    case MR_Q4_1:
        row_q4_1(p, r->k, dst);
        break;
    case MR_Q8_0:
        row_q8_0(p, r->k, dst);
        break;
    case MR_Q6_K:
        row_q6_k(p, r->k, dst);
        break;
    default:
        row_affine(r, row, p, dst);
        break;
    }
}
