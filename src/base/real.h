/* Elementary functions in double, one definition for every CPU.
 *
 * Why:     rope tables and samplers need log, pow, sin and cos whose bits do not depend on the C
 *          library. Compiled once, without contraction, from +, -, *, /, sqrt, fma, rint and ldexp
 *          only.
 * Use:     double s, c;
 *          mr_sincos(x, &s, &c);
 * Fails:   never: NaN propagates; log of a negative and sin of what has no reduction give NaN.
 * Bits:    errors are a few units in the 53rd place: right to 0.5000001 ulp once rounded to f32.
 */
#ifndef MR_BASE_REAL_H
#define MR_BASE_REAL_H

double mr_exp(double x);
double mr_log(double x);
double mr_log1p(double x);
double mr_pow(double base, double exponent); /* base >= 0 */
/* |x| up to 2^40; NaN beyond. */
void mr_sincos(double x, double *s, double *c);

#endif
