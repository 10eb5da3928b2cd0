/* Blocks of 32, each by itself.
 *
 * Symmetric formats put the number of the largest magnitude on the most negative code, which is one
 * further from zero than the most positive; the others span from least to largest.  Codes are cut,
 * not rounded, after adding a half. */
#include "tensor/block_quantise.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

enum { BLOCK = 32, HALF = 16 };

bool mr_block_quantisable(mr_dtype t)
{
    return t == MR_Q4_0 || t == MR_Q4_1 || t == MR_Q5_0 || t == MR_Q5_1 || t == MR_Q8_0 ||
           mr_super_quantisable(t);
}

mr_err mr_block_parse(const char *name, mr_dtype *out)
{
    char list[160];
    size_t n = 0;
    if (strcmp(name, "q4") == 0 || strcmp(name, "q8") == 0) {
        *out = name[1] == '4' ? MR_Q4_0 : MR_Q8_0;
        return MR_OK;
    }
    for (int i = 0; i < MR_DTYPE_COUNT; i++) {
        mr_dtype t = (mr_dtype)i;
        if (t != MR_F32 && t != MR_F16 && t != MR_BF16 && !mr_block_quantisable(t))
            continue;
        if (strcmp(name, mr_dtype_name(t)) == 0) {
            *out = t;
            return MR_OK;
        }
        n += (size_t)snprintf(list + n, sizeof list - n, "%s%s", n ? ", " : "", mr_dtype_name(t));
        assert(n < sizeof list);
    }
    return mr_fail(MR_EUSAGE, "quant \"%s\" is unknown for GGUF (%s)", name, list);
}

static uint8_t *put_f16(uint8_t *out, float v)
{
    uint16_t h = mr_f32_to_f16(v);
    memcpy(out, &h, 2);
    return out + 2;
}

/* Codes as nibbles j | j + 16; of 5 bits, with the fifth ones in a word before them. */
static void put_codes(const uint8_t code[BLOCK], bool five, uint8_t *out)
{
    uint32_t high = 0;
    for (int j = 0; j < BLOCK; j++)
        high |= (uint32_t)(code[j] >> 4 & 1) << j;
    if (five) {
        memcpy(out, &high, 4);
        out += 4;
    }
    for (int j = 0; j < HALF; j++)
        out[j] = (uint8_t)((code[j] & 15) | (code[j + HALF] & 15) << 4);
}

static void symmetric(const float *x, int levels, uint8_t *out)
{
    uint8_t code[BLOCK];
    float most = 0, at = 0;
    for (int j = 0; j < BLOCK; j++)
        if (fabsf(x[j]) > most) {
            most = fabsf(x[j]);
            at = x[j];
        }
    float d = at / (float)-(levels / 2), by = d != 0 ? 1 / d : 0;
    for (int j = 0; j < BLOCK; j++) {
        int c = (int8_t)(x[j] * by + ((float)(levels / 2) + 0.5f));
        code[j] = (uint8_t)(c < levels - 1 ? c : levels - 1);
    }
    put_codes(code, levels == 32, put_f16(out, d));
}

static void with_minimum(const float *x, int levels, uint8_t *out)
{
    uint8_t code[BLOCK];
    float low = x[0], high = x[0];
    for (int j = 1; j < BLOCK; j++) {
        low = x[j] < low ? x[j] : low;
        high = x[j] > high ? x[j] : high;
    }
    float d = (high - low) / (float)(levels - 1), by = d != 0 ? 1 / d : 0;
    for (int j = 0; j < BLOCK; j++) {
        int c = (int)((x[j] - low) * by + 0.5f);
        code[j] = (uint8_t)(c < levels - 1 ? c : levels - 1);
    }
    put_codes(code, levels == 32, put_f16(put_f16(out, d), low));
}

static void bytes(const float *x, uint8_t *out)
{
    float most = 0;
    for (int j = 0; j < BLOCK; j++)
        most = fabsf(x[j]) > most ? fabsf(x[j]) : most;
    float d = most / 127, by = d != 0 ? 1 / d : 0;
    out = put_f16(out, d);
    for (int j = 0; j < BLOCK; j++) {
        float v = x[j] * by; /* halves away from zero, as roundf */
        out[j] = (uint8_t)(int8_t)(v < 0 ? -floorf(0.5f - v) : floorf(v + 0.5f));
    }
}

void mr_block_quantise(mr_dtype t, const float *x, int64_t k, uint8_t *out)
{
    int block = mr_dtype_block(t);
    assert(mr_block_quantisable(t) && k % block == 0);
    for (int64_t i = 0; i < k; i += block, x += block, out += mr_dtype_block_bytes(t)) {
        if (block > BLOCK)
            mr_super_quantise(t, x, out);
        else if (t == MR_Q8_0)
            bytes(x, out);
        else if (t == MR_Q4_0 || t == MR_Q5_0)
            symmetric(x, t == MR_Q4_0 ? 16 : 32, out);
        else
            with_minimum(x, t == MR_Q4_1 ? 16 : 32, out);
    }
}
