/* Elementary functions in double: range reduction by exact constants split in parts (Cody and
 * Waite) with fma, then Taylor or atanh series long enough for the last bit.  Every step is a
 * correctly rounded operation, so the results are the same on every CPU. */
#include "base/real.h"

#include <math.h>
#include <stdint.h>
#include <string.h>

static uint64_t bits_of(double x)
{
    uint64_t u;
    memcpy(&u, &x, 8);
    return u;
}

static double of_bits(uint64_t u)
{
    double x;
    memcpy(&x, &u, 8);
    return x;
}

/* A CPU's own fma rounds as the library's does, without a call for each. */
#if defined(__x86_64__) && defined(__ELF__) && !defined(__clang__) /* whose callers miss the name */
#define WITH_FMA __attribute__((target_clones("fma", "default")))
#else
#define WITH_FMA
#endif

WITH_FMA double mr_exp(double x)
{
    /* 1/k! for k = 13 .. 2 */
    static const double c[] = {1.0 / 6227020800.0, 1.0 / 479001600.0, 1.0 / 39916800.0,
                               1.0 / 3628800.0,    1.0 / 362880.0,    1.0 / 40320.0,
                               1.0 / 5040.0,       1.0 / 720.0,       1.0 / 120.0,
                               1.0 / 24.0,         1.0 / 6.0,         0.5};
    if (x != x)
        return x;
    if (x > 710.0)
        return INFINITY;
    if (x < -746.0)
        return 0.0;
    double n = rint(x * 0x1.71547652b82fep+0);
    double r = fma(-n, 0x1.62e42fefa39efp-1, x);
    r = fma(-n, 0x1.abc9e3b39803fp-56, r);
    double q = c[0];
    for (int i = 1; i < 12; i++)
        q = fma(q, r, c[i]);
    double y = 1.0 + fma(q, r * r, r);
    if (n > -1000 && n < 1000) /* a normal number: exact */
        return y * of_bits((uint64_t)((int)n + 1023) << 52);
    return ldexp(y, (int)n);
}

/* log((1+s)/(1-s)) = 2s + 2s^3 (1/3 + s^2/5 + ...), |s| <= 0.172. */
static double log_series(double s)
{
    double z = s * s, q = 1.0 / 25.0;
    for (int k = 23; k >= 3; k -= 2)
        q = fma(q, z, 1.0 / k);
    double t = s + s;
    return fma(t * z, q, t);
}

double mr_log(double x)
{
    if (x != x || x == INFINITY)
        return x;
    if (x <= 0)
        return x == 0 ? -INFINITY : (x - x) / 0.0;
    int e = 0;
    if (x < 0x1p-1022) {
        x *= 0x1p54;
        e = -54;
    }
    uint64_t u = bits_of(x);
    e += (int)(u >> 52) - 1023;
    double m = of_bits((u & 0xfffffffffffffu) | 0x3ff0000000000000u);
    if (m > 0x1.6a09e667f3bcdp+0) {
        m *= 0.5;
        e++;
    }
    double y = log_series((m - 1.0) / (m + 1.0));
    return fma(e, 0x1.62e42fefa39efp-1, fma(e, 0x1.abc9e3b39803fp-56, y));
}

double mr_log1p(double x)
{
    if (fabs(x) < 0.25)
        return log_series(x / (2.0 + x));
    if (!(x > -1.0) || x == INFINITY)
        return mr_log(1.0 + x);
    double u = 1.0 + x;
    double lost = x > 1.0 ? 1.0 - (u - x) : x - (u - 1.0); /* what 1 + x rounded away */
    return mr_log(u) + lost / u;
}

/* The exponent times log2(base) is carried in two doubles, so that large results keep their bits.
 */
double mr_pow(double base, double exponent)
{
    if (exponent == 0 || base == 1.0)
        return 1.0;
    if (base == 0)
        return exponent > 0 ? 0.0 : INFINITY;
    double l = mr_log(base), hi = exponent * l, lo = fma(exponent, l, -hi);
    double y = mr_exp(hi);
    return y > 0 && y < INFINITY ? fma(y, lo, y) : y;
}

/* sin r and cos r for |r| <= pi/4. */
static double sin_series(double r)
{
    double z = r * r, q = -1.0 / 121645100408832000.0;
    q = fma(q, z, 1.0 / 355687428096000.0);
    q = fma(q, z, -1.0 / 1307674368000.0);
    q = fma(q, z, 1.0 / 6227020800.0);
    q = fma(q, z, -1.0 / 39916800.0);
    q = fma(q, z, 1.0 / 362880.0);
    q = fma(q, z, -1.0 / 5040.0);
    q = fma(q, z, 1.0 / 120.0);
    q = fma(q, z, -1.0 / 6.0);
    return fma(q * z, r, r);
}

static double cos_series(double r)
{
    double z = r * r, q = 1.0 / 6402373705728000.0 * -1.0;
    q = fma(q, z, 1.0 / 20922789888000.0);
    q = fma(q, z, -1.0 / 87178291200.0);
    q = fma(q, z, 1.0 / 479001600.0);
    q = fma(q, z, -1.0 / 3628800.0);
    q = fma(q, z, 1.0 / 40320.0);
    q = fma(q, z, -1.0 / 720.0);
    q = fma(q, z, 1.0 / 24.0);
    q = fma(q, z, -0.5);
    return fma(q, z, 1.0);
}

void mr_sincos(double x, double *s, double *c)
{
    if (!(fabs(x) <= 0x1p40)) {
        *s = *c = NAN;
        return;
    }
    double n = rint(x * 0x1.45f306dc9c883p-1); /* 2/pi */
    double r = fma(-n, 0x1.921fb54442d18p+0, x);
    r = fma(-n, 0x1.1a62633145c07p-54, r);
    double a = sin_series(r), b = cos_series(r);
    switch ((int64_t)n & 3) {
    case 0:
        *s = a, *c = b;
        break;
    case 1:
        *s = b, *c = -a;
        break;
    case 2:
        *s = -a, *c = -b;
        break;
    default:
        *s = -b, *c = a;
        break;
    }
}
