/* Random weights in every format, and the written formulas done the plain way.
 *
 * Why:    the kernels are judged by code that shares nothing with them: weights are decoded here
 * from the file's bytes, sums are scalar loops over one output. Use:    weights w =
 * weights_new(fmt, rows, k, &rng); w.rows feeds mr_matrix_fill; expected_* judge.
 */
#ifndef MR_TESTS_BACKEND_MATMUL_CASES_H
#define MR_TESTS_BACKEND_MATMUL_CASES_H

#include <math.h>

#include "checker.h"
#include "ir/graph.h"

enum { NAN_BITS = 0x7fc00000 };

static const mr_fmt all_formats[] = {
    {MR_F32, 0, 0, MR_F32},       {MR_F16, 0, 0, MR_F32},      {MR_BF16, 0, 0, MR_F32},
    {MR_Q8_0, 0, 0, MR_F32},      {MR_Q4_0, 0, 0, MR_F32},     {MR_Q4_1, 0, 0, MR_F32},
    {MR_Q6_K, 0, 0, MR_F32},      {MR_AFFINE, 4, 32, MR_F16},  {MR_AFFINE, 4, 64, MR_BF16},
    {MR_AFFINE, 4, 128, MR_F32},  {MR_AFFINE, 8, 32, MR_BF16}, {MR_AFFINE, 8, 64, MR_F16},
    {MR_AFFINE, 8, 128, MR_BF16}, {MR_AFFINE, 4, 32, MR_F32},  {MR_AFFINE, 4, 64, MR_F16},
    {MR_AFFINE, 4, 128, MR_BF16}, {MR_AFFINE, 8, 32, MR_F32},  {MR_AFFINE, 8, 64, MR_F32},
    {MR_AFFINE, 8, 128, MR_F16},  {MR_AFFINE, 4, 32, MR_BF16}, {MR_AFFINE, 4, 64, MR_F32},
    {MR_AFFINE, 4, 128, MR_F16},  {MR_AFFINE, 8, 32, MR_F16},  {MR_AFFINE, 8, 64, MR_BF16},
    {MR_AFFINE, 8, 128, MR_F32},
};
enum { N_FORMATS = sizeof all_formats / sizeof all_formats[0] };

typedef struct weights {
    mr_fmt fmt;
    mr_rows rows;
    uint8_t *data, *scales, *biases;
} weights;

static inline uint16_t random_f16(checker_rng *r)
{
    uint64_t u = checker_next(r);
    return (uint16_t)((u & 0x83ff) | (7 + (u >> 20) % 4) << 10); /* +-2^-8 .. 2^-4 */
}

static inline void random_number(checker_rng *r, mr_dtype t, uint8_t *p)
{
    uint16_t h = random_f16(r);
    float f = mr_f16_to_f32(h) * (1.0f + (float)(checker_next(r) & 1023) * 0x1p-20f);
    if (t == MR_F32)
        memcpy(p, &f, 4);
    else if (t == MR_BF16)
        h = mr_f32_to_bf16(f);
    if (t != MR_F32)
        memcpy(p, &h, 2);
}

/* Weights per scale along k; 0 for float formats. */
static inline int format_group(mr_fmt f)
{
    if (f.dtype == MR_AFFINE)
        return f.group;
    return mr_dtype_is_quantised(f.dtype) ? mr_dtype_block(f.dtype) : 0;
}

static inline weights weights_new(mr_fmt fmt, int64_t n, int64_t k, checker_rng *r)
{
    weights w = {.fmt = fmt};
    size_t row = mr_row_bytes(fmt.dtype, fmt.bits, k), bytes = row * (size_t)n;
    w.data = malloc(bytes);
    for (size_t i = 0; i < bytes; i++)
        w.data[i] = (uint8_t)(checker_next(r) >> 32);
    w.rows = (mr_rows){.dtype = fmt.dtype,
                       .bits = fmt.bits,
                       .group = fmt.group,
                       .scale_dtype = fmt.scale_dtype,
                       .n = n,
                       .k = k,
                       .data = w.data};
    if (fmt.dtype == MR_F32 || fmt.dtype == MR_F16 || fmt.dtype == MR_BF16) {
        size_t size = fmt.dtype == MR_F32 ? 4 : 2;
        for (size_t i = 0; i < bytes; i += size)
            random_number(r, fmt.dtype, w.data + i);
    } else if (fmt.dtype == MR_AFFINE) {
        size_t size = fmt.scale_dtype == MR_F32 ? 4 : 2, count = (size_t)(n * (k / fmt.group));
        w.rows.scales = w.scales = malloc(count * size);
        w.rows.biases = w.biases = malloc(count * size);
        for (size_t i = 0; i < count; i++) {
            random_number(r, fmt.scale_dtype, w.scales + i * size);
            random_number(r, fmt.scale_dtype, w.biases + i * size);
        }
    } else {
        size_t block = (size_t)mr_dtype_block_bytes(fmt.dtype);
        for (size_t i = 0; i < bytes; i += block) {
            uint16_t d = random_f16(r), m = random_f16(r);
            memcpy(w.data + i + (fmt.dtype == MR_Q6_K ? 208 : 0), &d, 2);
            if (fmt.dtype == MR_Q4_1)
                memcpy(w.data + i + 2, &m, 2);
        }
    }
    return w;
}

static inline void weights_free(weights *w)
{
    free(w->data);
    free(w->scales);
    free(w->biases);
}

/* One quantised weight as numbers: w = s*q + b, or s*(q - zero), or s*sub*(q - zero). */
typedef struct number {
    int q, zero, sub;
    float s, b;
    bool bias;
} number;

static inline float float_at(mr_dtype t, const uint8_t *p)
{
    float f;
    uint16_t h;
    memcpy(&f, p, t == MR_F32 ? 4 : 2);
    memcpy(&h, p, 2);
    return t == MR_F32 ? f : t == MR_F16 ? mr_f16_to_f32(h) : mr_bf16_to_f32(h);
}

static inline number weight_number(const weights *w, int64_t row, int64_t i)
{
    const uint8_t *p = w->data + (size_t)row * mr_row_bytes(w->fmt.dtype, w->fmt.bits, w->rows.k);
    if (w->fmt.dtype == MR_AFFINE) {
        size_t size = w->fmt.scale_dtype == MR_F32 ? 4 : 2;
        size_t at = (size_t)(row * (w->rows.k / w->fmt.group) + i / w->fmt.group) * size;
        return (number){.q = w->fmt.bits == 8 ? p[i] : p[i / 2] >> i % 2 * 4 & 15,
                        .sub = 1,
                        .bias = true,
                        .s = float_at(w->fmt.scale_dtype, w->scales + at),
                        .b = float_at(w->fmt.scale_dtype, w->biases + at)};
    }
    p += i / mr_dtype_block(w->fmt.dtype) * mr_dtype_block_bytes(w->fmt.dtype);
    int j = (int)(i % mr_dtype_block(w->fmt.dtype)), up = j / 16 * 4;
    switch (w->fmt.dtype) {
    case MR_Q4_0:
        return (number){
            .q = p[2 + j % 16] >> up & 15, .zero = 8, .sub = 1, .s = float_at(MR_F16, p)};
    case MR_Q4_1:
        return (number){.q = p[4 + j % 16] >> up & 15,
                        .sub = 1,
                        .s = float_at(MR_F16, p),
                        .bias = true,
                        .b = float_at(MR_F16, p + 2)};
    case MR_Q8_0:
        return (number){.q = (int8_t)p[2 + j], .sub = 1, .s = float_at(MR_F16, p)};
    default: { /* Q6_K */
        int half = j / 128, part = j % 128 / 32, l = j % 32;
        int low = p[64 * half + part % 2 * 32 + l] >> part / 2 * 4 & 15,
            high = p[128 + 32 * half + l] >> 2 * part & 3;
        return (number){.q = low + 16 * high,
                        .zero = 32,
                        .sub = (int8_t)p[192 + j / 16],
                        .s = float_at(MR_F16, p + 208)};
    }
    }
}

/* ---- the int8 formula, one row of activations ---- */

typedef struct plain_group {
    int e;
    float a;
    int v[64];
} plain_group;

static inline bool row_finite(const float *x, int64_t k)
{
    for (int64_t i = 0; i < k; i++)
        if (!isfinite(x[i]))
            return false;
    return true;
}

/* Steps 1 to 3; returns D. */
static inline float plain_quantise(const float *x, int64_t k, int group, plain_group *out)
{
    float largest = 0.0f, *d = malloc(sizeof *d * (size_t)(k / group));
    int *slot = malloc(sizeof *slot * (size_t)(k / group));
    for (int64_t g = 0; g < k / group; g++) {
        float a = -1.0f, c = 0.0f;
        for (int i = 0; i < group / 4; i++) {
            float m = 0.0f;
            for (int j = 0; j < 4; j++)
                m = fmaxf(m, fabsf(x[g * group + 4 * i + j]));
            if (m > a) {
                c = a < 0.0f ? 0.0f : a;
                a = m;
                slot[g] = i;
            } else if (m > c) {
                c = m;
            }
        }
        d[g] = fmaxf(c * (1.0f / 127.0f), a * (1.0f / 16319.0f));
        largest = fmaxf(largest, d[g]);
    }
    float D = largest * (1.0f / 64.0f);
    if (D < 0x1p-126f)
        D = 0.0f;
    float inverse = D == 0.0f ? 0.0f : 1.0f / D;
    for (int64_t g = 0; g < k / group; g++) {
        int e = 0, sum = 0;
        while (e < 6 && !(ldexpf(1.0f, e) >= d[g] * inverse))
            e++;
        float step = ldexpf(D, e), inv = step == 0.0f ? 0.0f : 1.0f / step;
        for (int i = 0; i < group; i++) {
            int limit = i / 4 == slot[g] ? 16319 : 127, v = (int)lrintf(x[g * group + i] * inv);
            v = v > limit ? limit : v < -limit ? -limit : v;
            out[g].v[i] = v;
            sum += v;
        }
        out[g].e = e;
        out[g].a = (float)(sum * (1 << e));
    }
    free(d);
    free(slot);
    return D;
}

/* Steps 4 and 5 for one output. */
static inline float plain_int8(const weights *w, int64_t row, float D, const plain_group *groups,
                               int group, bool finite)
{
    float y = 0.0f, nan;
    uint32_t u = NAN_BITS;
    memcpy(&nan, &u, 4);
    if (!finite)
        return nan;
    for (int64_t g = 0; g < w->rows.k / group; g++) {
        int64_t sum = 0;
        number n = {0};
        for (int i = 0; i < group; i++) {
            n = weight_number(w, row, g * group + i);
            sum += (int64_t)n.sub * (n.q - n.zero) * groups[g].v[i];
        }
        if (n.bias)
            y = fmaf(n.b, groups[g].a, y);
        y = fmaf(n.s, (float)(sum * (1 << groups[g].e)), y);
    }
    y = D * y;
    return y == y ? y : nan;
}

/* ---- activations ---- */

/* Row r of a set that has every nasty kind among its first ten. */
static inline void fill_activations(float *x, int64_t k, int64_t r, checker_rng *rng)
{
    for (int64_t i = 0; i < k; i++)
        x[i] = checker_float(rng) * 4.0f;
    for (int64_t i = 0; i < k; i++) {
        switch (r) {
        case 1:
            x[i] = 0.0f;
            break;
        case 2:
            x[i] *= 0x1p-140f;
            break;
        case 3:
            x[i] *= i % 37 == 5 ? 1e6f : 1.0f;
            break;
        case 4:
            x[i] = i / 32 % 3 == 1 ? 0.0f : x[i];
            break;
        case 5:
            x[i] = i % 2 ? -127.0f : 127.0f;
            break;
        case 6:
            x[i] = i == k / 2 ? INFINITY : x[i];
            break;
        case 7:
            x[i] = i == k - 1 ? -NAN : x[i];
            break;
        case 8:
            x[i] *= 1e37f;
            break;
        case 9:
            x[i] *= i / 64 % 2 ? 0x1p-60f : 0x1p-112f;
            break;
        default:
            break;
        }
    }
}

#endif
