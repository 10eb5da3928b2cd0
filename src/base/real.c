/* exp, log, pow, sin, cos in double.
 *
 * Each reduces its argument with fma against a constant split in parts and then runs one Horner chain of fma: a fixed order of
 * correctly rounded operations, so the bits cannot differ between machines.  Coefficients are Taylor's: on the
 * reduced ranges the first omitted term is below 2^-56 of the result. */
#include "base/real.h"

#include <math.h>
#include <stdint.h>
#include <string.h>

static const double ln2_hi = 0x1.62e42fefa39efp-1, ln2_lo = 0x1.abc9e3b39803fp-56;
static const double pio2_hi = 0x1.921fb54442d18p+0, pio2_mid = 0x1.1a62633145c07p-54,
                    pio2_lo = -0x1.f1976b7ed8fbcp-110;

/* p[0] + x p[1] + x^2 p[2] ... */
static double horner(const double *p, int n, double x)
{
    double y = p[n - 1];
    for (int i = n - 2; i >= 0; i--)
        y = fma(y, x, p[i]);
    return y;
}

double mr_exp(double x)
{
    static const double inv_fact[] = {
        1.0,          1.0,           1.0 / 2,       1.0 / 6,        1.0 / 24,        1.0 / 120,        1.0 / 720,
        1.0 / 5040,   1.0 / 40320,   1.0 / 362880,  1.0 / 3628800,  1.0 / 39916800,  1.0 / 479001600,
        1.0 / 6227020800.0};
    if (isnan(x))
        return x;
    if (x > 709.782712893384)
        return INFINITY;
    if (x < -745.1332191019411)
        return 0;
    double k = rint(x * 0x1.71547652b82fep+0);
    double r = fma(-k, ln2_hi, x);
    r = fma(-k, ln2_lo, r);
    return ldexp(horner(inv_fact, 14, r), (int)k);
}

double mr_log(double x)
{
    static const double odd[] = {1.0,      1.0 / 3,  1.0 / 5,  1.0 / 7,  1.0 / 9,  1.0 / 11,
                                 1.0 / 13, 1.0 / 15, 1.0 / 17, 1.0 / 19, 1.0 / 21, 1.0 / 23};
    if (isnan(x) || x == INFINITY)
        return x;
    if (x <= 0)
        return x == 0 ? -INFINITY : NAN;
    double scale = 0;
    if (x < 0x1p-1022) {
        x *= 0x1p54;
        scale = -54;
    }
    uint64_t u;
    memcpy(&u, &x, sizeof u);
    int64_t e = (int64_t)(u >> 52) - 1023;
    u = (u & 0xfffffffffffffull) | 0x3ff0000000000000ull;
    double m;
    memcpy(&m, &u, sizeof m);
    if (m > 0x1.6a09e667f3bcdp+0) { /* sqrt 2: m in [0.707, 1.414] */
        m *= 0.5;
        e++;
    }
    double f = (m - 1) / (m + 1), s = f * f, k = (double)e + scale;
    double series = 2 * f * horner(odd, 12, s);
    return fma(k, ln2_hi, fma(k, ln2_lo, series));
}

double mr_pow(double x, double y)
{
    return y == 0 ? 1 : mr_exp(y * mr_log(x));
}

/* x = q pi/2 + r, |r| <= pi/4 (a little more near the edges). */
static double reduce(double x, int *q)
{
    double k = rint(x * 0x1.45f306dc9c883p-1);
    double r = fma(-k, pio2_hi, x);
    r = fma(-k, pio2_mid, r);
    r = fma(-k, pio2_lo, r);
    *q = (int)((int64_t)k & 3);
    return r;
}

static double sin_small(double r)
{
    static const double c[] = {1.0,
                               -1.0 / 6,
                               1.0 / 120,
                               -1.0 / 5040,
                               1.0 / 362880,
                               -1.0 / 39916800,
                               1.0 / 6227020800.0,
                               -1.0 / 1307674368000.0,
                               1.0 / 355687428096000.0};
    return r * horner(c, 9, r * r);
}

static double cos_small(double r)
{
    static const double c[] = {1.0,
                               -1.0 / 2,
                               1.0 / 24,
                               -1.0 / 720,
                               1.0 / 40320,
                               -1.0 / 3628800,
                               1.0 / 479001600,
                               -1.0 / 87178291200.0,
                               1.0 / 20922789888000.0,
                               -1.0 / 6402373705728000.0};
    return horner(c, 10, r * r);
}

static double circular(double x, int shift)
{
    if (!(fabs(x) <= 0x1p31))
        return NAN;
    int q;
    double r = reduce(x, &q);
    q = (q + shift) & 3;
    double y = q & 1 ? cos_small(r) : sin_small(r);
    return q & 2 ? -y : y;
}

double mr_sin(double x)
{
    return circular(x, 0);
}

double mr_cos(double x)
{
    return circular(x, 1);
}
