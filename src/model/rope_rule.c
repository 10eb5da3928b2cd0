/* rope type llama3 and the divisors that GGUF files keep in its place.
 *
 * Frequencies of wavelengths below orig / high stay, those above orig / low are divided by factor, those
 * between by something between.  A file holds the divisors, rounded to f32; rounding again after dividing
 * by them would not give the bits of the rule, so the rule is found again. */
#include <math.h>

#include "model/family.h"

static const double two_pi = 2 * 3.14159265358979323846;

double mr_llama3_divisor(const mr_rope_spec *r, int64_t i, int64_t n)
{
    double wave = two_pi * pow(r->theta, (double)i / (double)n);
    double t = (r->orig / wave - r->low) / (r->high - r->low);
    t = t < 0 ? 0 : t > 1 ? 1 : t;
    return 1 / ((1 - t) / r->factor + t);
}

static bool explains(const mr_rope_spec *r, const float *f, int64_t n)
{
    if (!(r->factor > 0 && r->low > 0 && r->high > r->low && r->orig > 0))
        return false;
    for (int64_t i = 0; i < n; i++)
        if (!(fabs(mr_llama3_divisor(r, i, n) - f[i]) <= 4e-6 * f[i]))
            return false;
    return true;
}

/* orig and high for low = 1 (all three have one scale) from the divisors between the ends: there
 * t = (orig / wave - low) / (high - low) is a line in 1 / wave. */
static bool fit_line(mr_rope_spec *r, const float *f, int64_t n)
{
    double x0 = 0, t0 = 0, x1 = 0, t1 = 0;
    int between = 0;
    for (int64_t i = 0; i < n; i++) {
        double t = (1 / f[i] - 1 / r->factor) / (1 - 1 / r->factor);
        double x = 1 / (two_pi * pow(r->theta, (double)i / (double)n));
        if (!(t > 1e-5 && t < 1 - 1e-5))
            continue;
        x0 = between ? x0 : x;
        t0 = between ? t0 : t;
        x1 = x;
        t1 = t;
        between++;
    }
    r->low = 1;
    if (between == 1) { /* the published ratio of high and low */
        r->high = 4;
        r->orig = (t0 * 3 + 1) / x0;
    }
    if (between < 2)
        return between == 1;
    double slope = (t0 - t1) / (x0 - x1), offset = t0 - slope * x0;
    r->high = 1 - 1 / offset;
    r->orig = slope * (r->high - 1);
    return true;
}

/* Round numbers only: a config has no others. */
bool mr_llama3_find(mr_rope_spec *r, const float *f, int64_t n)
{
    r->factor = 0;
    for (int64_t i = 0; i < n; i++)
        r->factor = f[i] > r->factor ? f[i] : r->factor;
    if (fit_line(r, f, n)) {
        const mr_rope_spec fit = *r;
        for (int low = 1; low <= 8; low++) {
            r->low = low;
            r->high = round(2 * low * fit.high) / 2;
            r->orig = round(low * fit.orig);
            if (explains(r, f, n))
                return true;
        }
        return false;
    }
    r->low = 1;
    r->high = 4;
    for (r->orig = 1; r->orig < 1e9; r->orig *= 2) /* none is between: any that parts them */
        if (explains(r, f, n))
            return true;
    return false;
}
