/* K-quants: super-blocks of 256, whose runs of 16 or 32 have small integer scales under one f16.
 *
 * Signed formats hold d*sub*q; the others d*sub*q - dmin*min.  For each run the scale (and least
 * value) that loses least is searched: codes for a few slightly larger and smaller scales, and for
 * each the best scale to those codes by least squares.  Errors weigh by 1 + |x|/rms: large weights
 * count more.  Then the runs' scales are rounded to the super-block's, that is fitted once more to
 * what came of it, and the codes are taken for what will be read back. */
#include "tensor/block_quantise.h"

#include <assert.h>
#include <math.h>
#include <string.h>

enum { SUPER = 256, RUNS = 16, TRIES = 10 };

typedef struct form {
    int run, levels; /* codes 0..levels */
    int zero;        /* the code of 0 in signed formats; 0: they have least values instead */
    int sub_low, sub_high;
} form;

typedef struct super {
    const float *x;
    float weight[SUPER];
    double scale[RUNS], least[RUNS]; /* as searched: scale*q - least */
    float d, dmin;                   /* as stored */
    int sub[RUNS], min[RUNS];
    uint8_t q[SUPER];
} super;

static double clamp(double v, double low, double high)
{
    return v < low ? low : v > high ? high : v;
}

static bool get_form(mr_dtype t, form *f)
{
    switch (t) {
    case MR_Q2_K:
        *f = (form){16, 3, 0, 0, 15};
        return true;
    case MR_Q3_K:
        *f = (form){16, 7, 4, -32, 31};
        return true;
    case MR_Q4_K:
        *f = (form){32, 15, 0, 0, 63};
        return true;
    case MR_Q5_K:
        *f = (form){32, 31, 0, 0, 63};
        return true;
    case MR_Q6_K:
        *f = (form){16, 63, 32, -128, 127};
        return true;
    default:
        return false;
    }
}

bool mr_super_quantisable(mr_dtype t)
{
    form f;
    return get_form(t, &f);
}

/* ---- the search, run by run ---- */

static void weigh(super *s)
{
    double sum = 0;
    for (int i = 0; i < SUPER; i++)
        sum += (double)s->x[i] * s->x[i];
    float rms = (float)sqrt(sum / SUPER);
    for (int i = 0; i < SUPER; i++)
        s->weight[i] = rms > 0 ? 1 + fabsf(s->x[i]) / rms : 1;
}

/* The extreme value gets a code near the one that reaches furthest, -zero. */
static double fit_signed(const form *f, const float *x, const float *w)
{
    float top = 0;
    for (int i = 0; i < f->run; i++)
        top = fabsf(x[i]) > fabsf(top) ? x[i] : top;
    double best = 0, gain = 0;
    for (int try = -TRIES; top != 0 && try <= TRIES; try++) {
        double inv = (-f->zero + 0.1 * try) / top, xq = 0, qq = 0;
        for (int i = 0; i < f->run; i++) {
            double q = clamp(rint(x[i] * inv), -f->zero, f->levels - f->zero);
            xq += w[i] * x[i] * q;
            qq += w[i] * q * q;
        }
        if (qq > 0 && xq * xq > gain * qq) {
            gain = xq * xq / qq;
            best = xq / qq;
        }
    }
    return best;
}

/* Least squares of scale*q + base to x, base <= 0; gives the error. */
static double solve(const form *f, const float *x, const float *w, const double *q, double *scale,
                    double *base)
{
    double sw = 0, sq = 0, sqq = 0, sx = 0, sxq = 0, err = 0;
    for (int i = 0; i < f->run; i++) {
        sw += w[i];
        sq += w[i] * q[i];
        sqq += w[i] * q[i] * q[i];
        sx += w[i] * x[i];
        sxq += w[i] * x[i] * q[i];
    }
    double det = sw * sqq - sq * sq;
    *scale = det > 0 ? (sw * sxq - sx * sq) / det : 0;
    *base = det > 0 ? (sqq * sx - sq * sxq) / det : sx / sw;
    if (*base > 0) {
        *base = 0;
        *scale = sqq > 0 ? sxq / sqq : 0;
    }
    for (int i = 0; i < f->run; i++) {
        double e = x[i] - *scale * q[i] - *base;
        err += w[i] * e * e;
    }
    return err;
}

static void fit_least(const form *f, const float *x, const float *w, double *scale, double *least)
{
    double low = 0, high = x[0], best = INFINITY, q[32];
    for (int i = 0; i < f->run; i++) {
        low = x[i] < low ? x[i] : low;
        high = x[i] > high ? x[i] : high;
    }
    *scale = *least = 0;
    for (int try = -TRIES; try <= TRIES; try++) {
        double inv = high > low ? (f->levels + 0.1 * try) / (high - low) : 0, s, base;
        for (int i = 0; i < f->run; i++)
            q[i] = clamp(rint((x[i] - low) * inv), 0, f->levels);
        double err = solve(f, x, w, q, &s, &base);
        if (err < best && s >= 0) {
            best = err;
            *scale = s;
            *least = -base;
        }
    }
}

/* ---- the super-block ---- */

static float as_f16(double v)
{
    return mr_f16_to_f32(mr_f32_to_f16((float)v));
}

/* Sub-scales under `d`; the furthest-reaching one of signed formats is the most negative. */
static void round_scales(const form *f, super *s)
{
    int runs = SUPER / f->run;
    double top = 0, least = 0;
    for (int j = 0; j < runs; j++) {
        top = fabs(s->scale[j]) > fabs(top) ? s->scale[j] : top;
        least = s->least[j] > least ? s->least[j] : least;
    }
    s->d = as_f16(f->zero ? top / f->sub_low : top / f->sub_high);
    s->dmin = as_f16(least / f->sub_high);
    for (int j = 0; j < runs; j++) {
        s->sub[j] = s->d != 0 ? (int)clamp(rint(s->scale[j] / s->d), f->sub_low, f->sub_high) : 0;
        s->min[j] = s->dmin != 0 ? (int)clamp(rint(s->least[j] / s->dmin), 0, f->sub_high) : 0;
    }
}

/* The codes for the scales as they will be read; gives the error. */
static double take_codes(const form *f, super *s)
{
    double err = 0;
    for (int i = 0; i < SUPER; i++) {
        int j = i / f->run;
        double scale = (double)s->d * s->sub[j], least = (double)s->dmin * s->min[j], q = 0;
        if (scale != 0)
            q = clamp(rint((s->x[i] + least) / scale), -f->zero, f->levels - f->zero);
        s->q[i] = (uint8_t)(q + f->zero);
        double e = s->x[i] - (scale * q - least);
        err += s->weight[i] * e * e;
    }
    return err;
}

/* Fits d and dmin to the codes, and keeps that if it is better. */
static void refine(const form *f, super *s, double before)
{
    double aa = 0, ab = 0, bb = 0, ax = 0, bx = 0;
    for (int i = 0; i < SUPER; i++) {
        int j = i / f->run;
        double w = s->weight[i], a = (double)s->sub[j] * (s->q[i] - f->zero), b = -s->min[j];
        aa += w * a * a;
        ab += w * a * b;
        bb += w * b * b;
        ax += w * a * s->x[i];
        bx += w * b * s->x[i];
    }
    super old = *s;
    double det = aa * bb - ab * ab;
    if (det > 0) {
        s->d = as_f16((ax * bb - bx * ab) / det);
        s->dmin = as_f16((aa * bx - ab * ax) / det);
    } else if (aa > 0) {
        s->d = as_f16(ax / aa);
    }
    if (s->dmin < 0 || (!f->zero && s->d < 0) || take_codes(f, s) > before)
        *s = old;
}

/* ---- bytes ---- */

static uint8_t *put_f16(uint8_t *p, float v)
{
    uint16_t h = mr_f32_to_f16(v);
    memcpy(p, &h, 2);
    return p + 2;
}

/* Two low bits of each code. */
static void put_pairs(const uint8_t *q, uint8_t *p)
{
    for (int v = 0; v < SUPER; v++)
        p[v / 128 * 32 + v % 32] |= (uint8_t)((q[v] & 3) << v / 32 % 4 * 2);
}

static void put_q2_k(const super *s, uint8_t *p)
{
    for (int j = 0; j < 16; j++)
        p[j] = (uint8_t)(s->sub[j] | s->min[j] << 4);
    put_pairs(s->q, p + 16);
    put_f16(put_f16(p + 80, s->d), s->dmin);
}

static void put_q3_k(const super *s, uint8_t *p)
{
    for (int v = 0; v < SUPER; v++)
        p[v % 32] |= (uint8_t)(s->q[v] >> 2 << v / 32);
    put_pairs(s->q, p + 32);
    for (int j = 0; j < 16; j++) {
        int u = s->sub[j] + 32;
        p[96 + j % 8] |= (uint8_t)((u & 15) << j / 8 * 4);
        p[104 + j % 4] |= (uint8_t)(u >> 4 << j / 4 * 2);
    }
    put_f16(p + 108, s->d);
}

static void put_q45_k(const super *s, bool five, uint8_t *p)
{
    uint8_t *b = put_f16(put_f16(p, s->d), s->dmin), *qs = p + (five ? 48 : 16);
    for (int j = 0; j < 4; j++) {
        b[j] = (uint8_t)(s->sub[j] | s->sub[j + 4] >> 4 << 6);
        b[j + 4] = (uint8_t)(s->min[j] | s->min[j + 4] >> 4 << 6);
        b[j + 8] = (uint8_t)((s->sub[j + 4] & 15) | (s->min[j + 4] & 15) << 4);
    }
    for (int v = 0; v < SUPER; v++) {
        qs[v / 64 * 32 + v % 32] |= (uint8_t)((s->q[v] & 15) << v / 32 % 2 * 4);
        if (five)
            p[16 + v % 32] |= (uint8_t)(s->q[v] >> 4 << v / 32);
    }
}

static void put_q6_k(const super *s, uint8_t *p)
{
    for (int v = 0; v < SUPER; v++) {
        int half = v / 128, part = v / 32 % 4, at = v % 32;
        p[64 * half + 32 * (part & 1) + at] |= (uint8_t)((s->q[v] & 15) << (part < 2 ? 0 : 4));
        p[128 + 32 * half + at] |= (uint8_t)(s->q[v] >> 4 << 2 * part);
    }
    for (int j = 0; j < 16; j++)
        p[192 + j] = (uint8_t)(int8_t)s->sub[j];
    put_f16(p + 208, s->d);
}

void mr_super_quantise(mr_dtype t, const float *x, uint8_t *out)
{
    form f;
    super s = {.x = x};
    bool known = get_form(t, &f);
    assert(known);
    (void)known;
    weigh(&s);
    for (int i = 0; i < SUPER; i += f.run) {
        int j = i / f.run;
        if (f.zero)
            s.scale[j] = fit_signed(&f, x + i, s.weight + i);
        else
            fit_least(&f, x + i, s.weight + i, &s.scale[j], &s.least[j]);
    }
    round_scales(&f, &s);
    refine(&f, &s, take_codes(&f, &s));
    memset(out, 0, (size_t)mr_dtype_block_bytes(t));
    switch (t) {
    case MR_Q2_K:
        put_q2_k(&s, out);
        break;
    case MR_Q3_K:
        put_q3_k(&s, out);
        break;
    case MR_Q6_K:
        put_q6_k(&s, out);
        break;
    default:
        put_q45_k(&s, t == MR_Q5_K, out);
        break;
    }
}
