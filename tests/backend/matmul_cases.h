/* Random weights in every format, and the written formulas done the plain way.
 *
 * Why:    the kernels are judged by code that shares nothing with them: scalar loops over one output
 * on codes as tensor/codes.c (which is judged by stored values) reads them. Use:    weights w =
 * weights_new(fmt, rows, k, &rng); w.rows feeds mr_matrix_fill; expected_* judge.
 */
#ifndef MR_TESTS_BACKEND_MATMUL_CASES_H
#define MR_TESTS_BACKEND_MATMUL_CASES_H

#include <math.h>

#include "checker.h"
#include "ir/graph.h"
#include "tensor/codes.h"

enum { NAN_BITS = 0x7fc00000 };

static const mr_fmt all_formats[] = {
    {MR_F32, 0, 0, MR_F32, false},       {MR_F16, 0, 0, MR_F32, false},
    {MR_BF16, 0, 0, MR_F32, false},      {MR_Q8_0, 0, 0, MR_F32, false},
    {MR_Q4_0, 0, 0, MR_F32, false},      {MR_Q4_1, 0, 0, MR_F32, false},
    {MR_Q6_K, 0, 0, MR_F32, false},      {MR_AFFINE, 4, 32, MR_F16, false},
    {MR_AFFINE, 4, 64, MR_BF16, false},  {MR_AFFINE, 4, 128, MR_F32, false},
    {MR_AFFINE, 8, 32, MR_BF16, false},  {MR_AFFINE, 8, 64, MR_F16, false},
    {MR_AFFINE, 8, 128, MR_BF16, false}, {MR_AFFINE, 4, 32, MR_F32, false},
    {MR_AFFINE, 4, 64, MR_F16, false},   {MR_AFFINE, 4, 128, MR_BF16, false},
    {MR_AFFINE, 8, 32, MR_F32, false},   {MR_AFFINE, 8, 64, MR_F32, false},
    {MR_AFFINE, 8, 128, MR_F16, false},  {MR_AFFINE, 4, 32, MR_BF16, false},
    {MR_AFFINE, 4, 64, MR_F32, false},   {MR_AFFINE, 4, 128, MR_F16, false},
    {MR_AFFINE, 8, 32, MR_F16, false},   {MR_AFFINE, 8, 64, MR_BF16, false},
    {MR_AFFINE, 8, 128, MR_F32, false},  {MR_Q5_0, 0, 0, MR_F32, false},
    {MR_Q5_1, 0, 0, MR_F32, false},      {MR_Q2_K, 0, 0, MR_F32, false},
    {MR_Q3_K, 0, 0, MR_F32, false},      {MR_Q4_K, 0, 0, MR_F32, false},
    {MR_Q5_K, 0, 0, MR_F32, false},      {MR_IQ4_NL, 0, 0, MR_F32, false},
    {MR_IQ4_XS, 0, 0, MR_F32, false},    {MR_MXFP4, 0, 0, MR_F32, false},
    {MR_NVFP4, 0, 0, MR_F32, false},     {MR_AFFINE, 2, 32, MR_BF16, false},
    {MR_AFFINE, 3, 64, MR_F16, false},   {MR_AFFINE, 5, 128, MR_F32, false},
    {MR_AFFINE, 6, 64, MR_BF16, false},  {MR_AFFINE, 3, 32, MR_F32, false},
    {MR_AFFINE, 2, 128, MR_F16, false},  {MR_INT, 4, 32, MR_BF16, false},
    {MR_INT, 4, 128, MR_F32, false},     {MR_INT, 8, 64, MR_F16, false},
    {MR_FP, 4, 32, MR_F8_E8M0, false},   {MR_FP, 4, 16, MR_F8_E4M3, false},
    {MR_FP, 8, 32, MR_F8_E8M0, false},   {MR_FP, 8, 128, MR_F32, false},
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

/* Of any type of scales; bytes about 1 and never NaN. */
static inline void random_number(checker_rng *r, mr_dtype t, uint8_t *p)
{
    uint16_t h = random_f16(r);
    if (t == MR_F8_E8M0 || t == MR_F8_E4M3) {
        *p = (uint8_t)((t == MR_F8_E8M0 ? 119 : 0) + checker_next(r) % 14);
        return;
    }
    float f = mr_f16_to_f32(h) * (1.0f + (float)(checker_next(r) & 1023) * 0x1p-20f);
    if (t == MR_F32)
        memcpy(p, &f, 4);
    else if (t == MR_BF16)
        h = mr_f32_to_bf16(f);
    if (t != MR_F32)
        memcpy(p, &h, 2);
}

/* What k is a multiple of; 0 for floats, E4M3 among them. */
static inline int format_group(mr_fmt f)
{
    if (!mr_dtype_is_quantised(f.dtype) || (f.dtype == MR_FP && f.bits == 8))
        return 0;
    return (int)mr_row_unit(f.dtype, f.bits, f.group);
}

/* Puts plausible f16 scales into a random block, and E8M0 and E4M3 bytes that are no NaN. */
static inline void sound_block(mr_dtype t, uint8_t *p, checker_rng *r)
{
    static const int8_t at[MR_DTYPE_COUNT][2] = {
        [MR_Q2_K] = {80, 82}, [MR_Q3_K] = {108, 108}, [MR_Q4_K] = {0, 2},
        [MR_Q5_K] = {0, 2},   [MR_Q4_1] = {0, 2},     [MR_Q5_1] = {0, 2}};
    if (t == MR_MXFP4 || t == MR_NVFP4) {
        for (int i = 0; i < (t == MR_NVFP4 ? 4 : 1); i++)
            random_number(r, t == MR_NVFP4 ? MR_F8_E4M3 : MR_F8_E8M0, p + i);
        return;
    }
    for (int i = 0; i < 2; i++) {
        uint16_t h = random_f16(r);
        memcpy(t == MR_Q6_K ? p + 208 : p + at[t][i], &h, 2);
    }
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
    } else if (mr_dtype_is_grouped(fmt.dtype)) {
        size_t size = (size_t)mr_dtype_block_bytes(fmt.scale_dtype);
        size_t count =
            (size_t)n * mr_row_scale_bytes(fmt.dtype, fmt.group, fmt.scale_dtype, k) / size;
        w.rows.scales = w.scales = malloc(count * size);
        if (fmt.dtype == MR_AFFINE)
            w.rows.biases = w.biases = malloc(count * size);
        for (size_t i = 0; i < count; i++) {
            random_number(r, fmt.scale_dtype, w.scales + i * size);
            if (w.biases)
                random_number(r, fmt.scale_dtype, w.biases + i * size);
        }
        for (size_t i = 0; fmt.bits == 8 && fmt.dtype == MR_FP && i < bytes; i++)
            w.data[i] = (w.data[i] & 0x7f) == 0x7f ? 0x01 : w.data[i];
    } else {
        size_t block = (size_t)mr_dtype_block_bytes(fmt.dtype);
        for (size_t i = 0; i < bytes; i += block)
            sound_block(fmt.dtype, w.data + i, r);
    }
    return w;
}

/* The same format across: n rows of k, columns of runs `width` wide. */
static inline weights weights_across(mr_fmt fmt, int64_t n, int64_t k, int64_t width,
                                     checker_rng *r)
{
    weights w = weights_new(fmt, n / width * k, width, r);
    w.fmt.across = true;
    w.rows.n = n;
    w.rows.k = k;
    w.rows.across = width;
    return w;
}

static inline void weights_free(weights *w)
{
    free(w->data);
    free(w->scales);
    free(w->biases);
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
static inline float plain_quantise(const float *x, int64_t k, int group, bool even,
                                   plain_group *out)
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
        d[g] = fmaxf((even ? a : c) * (1.0f / 127.0f), a * (1.0f / 16319.0f));
        slot[g] = even ? -1 : slot[g];
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

/* One run within an activation group: the sums of values times codes and of values. */
static inline void run_sums(const mr_code_form *f, const mr_codes *c, int at, int len,
                            const plain_group *g, int from, int64_t *codes, int64_t *values)
{
    *codes = *values = 0;
    for (int i = 0; i < len; i++) {
        int q = c->q[at + i], v = g->v[from + i];
        *codes += (int64_t)v * (f->table ? mr_code_tables[f->table][q] : q - f->zero);
        *values += v;
    }
}

/* Steps 4 and 5 for one activation group of one output. */
static inline float plain_group_step(const mr_code_form *f, const mr_codes *c, int at, int group,
                                     const plain_group *g, float y)
{
    int run = f->run < group ? f->run : group, e = 1 << g->e;
    int64_t sum, values, both = 0, mins = 0;
    float s, b, d = 0.0f, dmin = 0.0f;
    for (int i = 0; i < group; i += run) {
        int j = (at + i) / f->run;
        run_sums(f, c, at + i, run, g, i, &sum, &values);
        if (f->sub && f->run == 16) { /* sub-scales combined in integers */
            both += c->sub[j] * sum;
            mins += c->min[j] * values;
            d = mr_number_load(f->scale, c->scale) * (float)e;
            dmin = f->bias ? -mr_number_load(f->scale, c->bias) * (float)e : 0.0f;
            continue;
        }
        mr_codes_run(f, c, j, &s, &b);
        if (f->bias)
            y = fmaf(b, g->a, y);
        y = fmaf(s, (float)(sum * e), y);
    }
    if (f->sub && f->run == 16) {
        if (f->bias)
            y = fmaf(dmin, (float)mins, y);
        y = fmaf(d, (float)both, y);
    }
    return y;
}

/* The sum of one output, before D. */
static inline float plain_sum(const weights *w, int64_t row, const plain_group *groups, int group)
{
    float y = 0.0f;
    mr_code_form f;
    mr_codes c;
    mr_code_form_of(&f, w->fmt.dtype, w->fmt.bits, w->fmt.group, w->fmt.scale_dtype);
    for (int64_t k = 0; k < w->rows.k; k += group) {
        int at = (int)(k % f.block);
        if (!at)
            mr_codes_read(&f, &w->rows, row, k / f.block, &c);
        y = plain_group_step(&f, &c, at, group, &groups[k / group], y);
    }
    return y;
}

/* One output of a row in `parts` parts: those of groups, `stride` apart, with steps D. */
static inline float plain_int8(const weights *w, int64_t row, const float *D,
                               const plain_group *groups, int64_t stride, int parts, int group,
                               bool finite)
{
    float y = 0.0f, nan;
    uint32_t u = NAN_BITS;
    memcpy(&nan, &u, 4);
    if (!finite)
        return nan;
    for (int p = 0; p < parts; p++) {
        float sum = plain_sum(w, row, groups + p * stride, group);
        y = p ? fmaf(D[p], sum, y) : D[p] * sum;
    }
    return y == y ? y : nan;
}

/* What is left of a row. */
static inline void plain_rest(const plain_group *groups, int group, float D, float *x, int64_t k)
{
    for (int64_t i = 0; i < k; i++) {
        const plain_group *g = &groups[i / group];
        x[i] = fmaf(-(float)g->v[i % group], ldexpf(D, g->e), x[i]);
    }
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
        case 11: /* slots of 127 << 7: few bits, yet large sums */
            x[i] = i % 32 < 4 ? 128.0f : i % 32 == 4 ? 1.0f : x[i] / 8.0f;
            break;
        default:
            break;
        }
    }
}

#endif
