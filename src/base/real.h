/* Elementary functions in double, our own: the same bits on every machine.
 *
 * Why:    of libm only fma, sqrt, floor, rint and ldexp may touch a number that reaches a logit or a sample (libm's others
 *         differ between versions and machines).  These serve tables and sampling; the vector kernels have float forms.
 * Fails:  never; NaN propagates, overflow gives infinity.
 * Source: argument reduction and minimax/Taylor polynomials written for this file; below 1.5 ulp (tests/base/test_real.c).
 */
#ifndef MR_BASE_REAL_H
#define MR_BASE_REAL_H

double mr_exp(double x);
double mr_log(double x);
double mr_pow(double x, double y); /* x > 0 */
double mr_sin(double x);           /* |x| <= 2^31 */
double mr_cos(double x);

#endif
