/* The bits of every quantised block.
 *
 * One function per format family takes a block apart; all else is shared.  Values of K-quants lie
 * in halves of 128: value v has its low bits in byte 32*(...) + v%32 of the half's bytes, at a shift
 * that grows with v/32, and a high bit or pair in a plane of its own.
 */
#include "tensor/codes.h"

#include <assert.h>
#include <string.h>

const int8_t mr_code_tables[3][16] = {
    [MR_TABLE_IQ4] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113},
    [MR_TABLE_E2M1] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12},
};

static bool grouped_form(mr_code_form *f, mr_dtype t, int bits, int group, mr_dtype scale_dtype)
{
    if (t == MR_FP && bits == 8)
        return false;
    *f = (mr_code_form){.block = (int)mr_row_unit(t, bits, group),
                        .run = group,
                        .bits = bits,
                        .zero = t == MR_INT ? 1 << (bits - 1) : 0,
                        .table = t == MR_FP ? MR_TABLE_E2M1 : MR_TABLE_NONE,
                        .scale = scale_dtype,
                        .bias = t == MR_AFFINE};
    return true;
}

bool mr_code_form_of(mr_code_form *f, mr_dtype t, int bits, int group, mr_dtype scale_dtype)
{
    static const mr_code_form forms[MR_DTYPE_COUNT] = {
        [MR_Q4_0] = {32, 32, 4, 8, MR_TABLE_NONE, MR_F16, false, false},
        [MR_Q4_1] = {32, 32, 4, 0, MR_TABLE_NONE, MR_F16, false, true},
        [MR_Q5_0] = {32, 32, 5, 16, MR_TABLE_NONE, MR_F16, false, false},
        [MR_Q5_1] = {32, 32, 5, 0, MR_TABLE_NONE, MR_F16, false, true},
        [MR_Q8_0] = {32, 32, 8, 128, MR_TABLE_NONE, MR_F16, false, false},
        [MR_Q2_K] = {256, 16, 2, 0, MR_TABLE_NONE, MR_F16, true, true},
        [MR_Q3_K] = {256, 16, 3, 4, MR_TABLE_NONE, MR_F16, true, false},
        [MR_Q4_K] = {256, 32, 4, 0, MR_TABLE_NONE, MR_F16, true, true},
        [MR_Q5_K] = {256, 32, 5, 0, MR_TABLE_NONE, MR_F16, true, true},
        [MR_Q6_K] = {256, 16, 6, 32, MR_TABLE_NONE, MR_F16, true, false},
        [MR_IQ4_NL] = {32, 32, 4, 0, MR_TABLE_IQ4, MR_F16, false, false},
        [MR_IQ4_XS] = {256, 32, 4, 0, MR_TABLE_IQ4, MR_F16, true, false},
        [MR_MXFP4] = {32, 32, 4, 0, MR_TABLE_E2M1, MR_F8_E8M0, false, false},
        [MR_NVFP4] = {64, 16, 4, 0, MR_TABLE_E2M1, MR_F8_E4M3, false, false},
    };
    assert(mr_dtype_is_weight(t, bits));
    if (mr_dtype_is_grouped(t))
        return grouped_form(f, t, bits, group, scale_dtype);
    *f = forms[t];
    return f->block != 0;
}

/* ---- eight values at once ---- */

#define EACH(byte) ((byte)*0x0101010101010101u)

static uint64_t load8(const uint8_t *p)
{
    uint64_t u;
    memcpy(&u, p, 8);
    return u;
}

static void store8(uint8_t *p, uint64_t u)
{
    memcpy(p, &u, 8);
}

/* `mask` of each of eight bytes, `shift` bits up. */
static uint64_t fields(const uint8_t *p, int shift, unsigned mask)
{
    return load8(p) >> shift & EACH((uint64_t)mask);
}

/* Eight bits as bytes of 0 and 1. */
static uint64_t single_bits(uint8_t bits)
{
    uint64_t own = EACH((uint64_t)bits) & 0x8040201008040201u;
    return (own + EACH((uint64_t)0x7f)) >> 7 & EACH((uint64_t)1);
}

/* ---- blocks of 32 and 64 ---- */

/* 2*half values of `half` bytes: low nibbles first. */
static void nibbles(const uint8_t *p, int half, uint8_t *q)
{
    for (int j = 0; j < half; j += 8) {
        store8(q + j, fields(p + j, 0, 15));
        store8(q + j + half, fields(p + j, 4, 15));
    }
}

/* d, (m), (32 fifth bits), nibbles. */
static void block_32(const mr_code_form *f, const uint8_t *p, mr_codes *c)
{
    memcpy(c->scale, p, 2);
    p += 2;
    if (f->bias) {
        memcpy(c->bias, p, 2);
        p += 2;
    }
    if (f->bits == 8) {
        for (int j = 0; j < 32; j++)
            c->q[j] = p[j] ^ 0x80;
        return;
    }
    const uint8_t *fifth = p;
    if (f->bits == 5)
        p += 4;
    nibbles(p, 16, c->q);
    for (int j = 0; f->bits == 5 && j < 32; j += 8)
        store8(c->q + j, load8(c->q + j) | single_bits(fifth[j / 8]) << 4);
}

/* Four E4M3 scales, of which ggml takes 0x7f for 0 and ignores the sign; 16 values each. */
static void block_nvfp4(const uint8_t *p, mr_codes *c)
{
    for (int j = 0; j < 4; j++) {
        c->sub[j] = (int8_t)(p[j] == 0x7f ? 0 : p[j] & 0x7f);
        nibbles(p + 4 + 8 * j, 8, c->q + 16 * j);
    }
}

/* ---- blocks of 256 ---- */

/* Eight 6-bit scales and mins in 12 bytes. */
static void scales_45k(const uint8_t *b, mr_codes *c)
{
    for (int j = 0; j < 8; j++) {
        if (j < 4) {
            c->sub[j] = (int8_t)(b[j] & 63);
            c->min[j] = b[j + 4] & 63;
        } else {
            c->sub[j] = (int8_t)((b[j + 4] & 15) | b[j - 4] >> 6 << 4);
            c->min[j] = (uint8_t)(b[j + 4] >> 4 | b[j] >> 6 << 4);
        }
    }
}

/* Two low bits of values v..v+7. */
static uint64_t pairs_of(const uint8_t *qs, int v)
{
    return fields(qs + v / 128 * 32 + v % 32, v / 32 % 4 * 2, 3);
}

static void block_q2_k(const uint8_t *p, mr_codes *c)
{
    for (int j = 0; j < 16; j++) {
        c->sub[j] = (int8_t)(p[j] & 15);
        c->min[j] = p[j] >> 4;
    }
    for (int v = 0; v < 256; v += 8)
        store8(c->q + v, pairs_of(p + 16, v));
    memcpy(c->scale, p + 80, 2);
    memcpy(c->bias, p + 82, 2);
}

static void block_q3_k(const uint8_t *p, mr_codes *c)
{
    const uint8_t *s = p + 96;
    for (int v = 0; v < 256; v += 8)
        store8(c->q + v, pairs_of(p + 32, v) | fields(p + v % 32, v / 32, 1) << 2);
    for (int j = 0; j < 16; j++) {
        int low = j < 8 ? s[j] & 15 : s[j - 8] >> 4, high = s[8 + j % 4] >> j / 4 * 2 & 3;
        c->sub[j] = (int8_t)((low | high << 4) - 32);
    }
    memcpy(c->scale, p + 108, 2);
}

/* Q4_K and Q5_K. */
static void block_45k(const mr_code_form *f, const uint8_t *p, mr_codes *c)
{
    const uint8_t *fifth = p + 16, *qs = f->bits == 5 ? p + 48 : p + 16;
    memcpy(c->scale, p, 2);
    memcpy(c->bias, p + 2, 2);
    scales_45k(p + 4, c);
    for (int v = 0; v < 256; v += 64)
        nibbles(qs + v / 2, 32, c->q + v);
    for (int v = 0; f->bits == 5 && v < 256; v += 8)
        store8(c->q + v, load8(c->q + v) | fields(fifth + v % 32, v / 32, 1) << 4);
}

static void block_q6_k(const uint8_t *p, mr_codes *c)
{
    for (int v = 0; v < 256; v += 8) {
        int half = v / 128, s = v / 32 % 4, l = v % 32;
        uint64_t low = fields(p + 64 * half + 32 * (s & 1) + l, s < 2 ? 0 : 4, 15);
        store8(c->q + v, low | fields(p + 128 + 32 * half + l, 2 * s, 3) << 4);
    }
    memcpy(c->sub, p + 192, 16);
    memcpy(c->scale, p + 208, 2);
}

static void block_iq4_xs(const uint8_t *p, mr_codes *c)
{
    int highs = p[2] | p[3] << 8;
    memcpy(c->scale, p, 2);
    for (int j = 0; j < 8; j++) {
        int low = p[4 + j / 2] >> j % 2 * 4 & 15, high = highs >> 2 * j & 3;
        c->sub[j] = (int8_t)((low | high << 4) - 32);
        nibbles(p + 8 + 16 * j, 16, c->q + 32 * j);
    }
}

/* ---- grouped formats ---- */

/* n codes of `bits` bits from the start of a bit stream; eight take whole bytes. */
static void stream(const uint8_t *p, int bits, int n, uint8_t *q)
{
    for (int i = 0; i < n; i += 8, p += bits) {
        uint64_t held = 0;
        memcpy(&held, p, (size_t)bits);
        for (int j = 0; j < 8; j++)
            q[i + j] = (uint8_t)(held >> bits * j & ((1u << bits) - 1));
    }
}

static void block_grouped(const mr_code_form *f, const mr_rows *r, int64_t row, int64_t block,
                          mr_codes *c)
{
    size_t size = (size_t)mr_dtype_block_bytes(r->scale_dtype), runs = (size_t)(f->block / f->run);
    size_t at = (size_t)row * mr_row_scale_bytes(r->dtype, r->group, r->scale_dtype, r->k) +
                (size_t)block * runs * size;
    const uint8_t *p =
        (const uint8_t *)r->data + (size_t)row * mr_row_bytes(r->dtype, r->bits, r->k);
    stream(p + (size_t)block * (size_t)(f->block * f->bits / 8), f->bits, f->block, c->q);
    if (f->scale == MR_F8_E4M3)
        memcpy(c->sub, (const uint8_t *)r->scales + at, runs);
    else
        memcpy(c->scale, (const uint8_t *)r->scales + at, size);
    if (f->bias)
        memcpy(c->bias, (const uint8_t *)r->biases + at, size);
}

void mr_codes_read(const mr_code_form *f, const mr_rows *r, int64_t row, int64_t block, mr_codes *c)
{
    if (mr_dtype_is_grouped(r->dtype)) {
        block_grouped(f, r, row, block, c);
        return;
    }
    const uint8_t *p = (const uint8_t *)r->data +
                       (size_t)row * mr_row_bytes(r->dtype, r->bits, r->k) +
                       (size_t)block * (size_t)mr_dtype_block_bytes(r->dtype);
    switch (r->dtype) {
    case MR_Q2_K:
        block_q2_k(p, c);
        break;
    case MR_Q3_K:
        block_q3_k(p, c);
        break;
    case MR_Q4_K:
    case MR_Q5_K:
        block_45k(f, p, c);
        break;
    case MR_Q6_K:
        block_q6_k(p, c);
        break;
    case MR_IQ4_XS:
        block_iq4_xs(p, c);
        break;
    case MR_MXFP4:
        c->scale[0] = p[0];
        nibbles(p + 1, 16, c->q);
        break;
    case MR_NVFP4:
        block_nvfp4(p, c);
        break;
    default:
        block_32(f, p, c);
        break;
    }
}

/* ---- values ---- */

float mr_number_load(mr_dtype t, const void *at)
{
    const uint8_t *p = at;
    float v;
    switch (t) {
    case MR_F16:
        return mr_f16_to_f32((uint16_t)(p[0] | p[1] << 8));
    case MR_BF16:
        return mr_bf16_to_f32((uint16_t)(p[0] | p[1] << 8));
    case MR_F8_E8M0:
        return mr_e8m0_to_f32(*p);
    case MR_F8_E4M3:
        return mr_e4m3_to_f32(*p);
    default:
        assert(t == MR_F32);
        memcpy(&v, p, sizeof v);
        return v;
    }
}

/* Half of 2^(e-127), as ggml has it: 255 is a number too. */
static float half_e8m0(uint8_t e)
{
    return e ? mr_e8m0_to_f32((uint8_t)(e - 1)) : 0x1p-128f;
}

void mr_codes_run(const mr_code_form *f, const mr_codes *c, int j, float *s, float *b)
{
    *b = 0;
    if (f->scale == MR_F8_E4M3) {
        *s = 0.5f * mr_e4m3_to_f32((uint8_t)c->sub[j]);
        return;
    }
    if (f->scale == MR_F8_E8M0) {
        *s = half_e8m0(c->scale[0]);
        return;
    }
    *s = mr_number_load(f->scale, c->scale);
    if (f->bias)
        *b = mr_number_load(f->scale, c->bias);
    if (f->sub) {
        *s *= (float)c->sub[j];
        *b *= -(float)c->min[j];
    }
}

void mr_codes_values(const mr_code_form *f, const mr_codes *c, float *dst)
{
    for (int i = 0; i < f->block; i += f->run) {
        float s, b;
        mr_codes_run(f, c, i / f->run, &s, &b);
        for (int j = i; j < i + f->run; j++) {
            int q = f->table ? mr_code_tables[f->table][c->q[j]] : c->q[j] - f->zero;
            float product = s * (float)q;
            dst[j] = f->bias ? product + b : product;
        }
    }
}
