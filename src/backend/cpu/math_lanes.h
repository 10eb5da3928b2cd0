/* exp, tanh, erf and the activations made of them, over 16 lanes.
 *
 * Each is one written sequence of f32 operations (docs/numerics.md), so the bits are equal on every
 * ISA.  Polynomials are weighted minimax fits of our own, coefficients rounded to f32.
 * Errors (test_kernels measures them): exp below 1 ulp, tanh and erf below 2 ulp.
 *
 * Include after a lanes_*.h. */
#ifndef MR_BACKEND_CPU_MATH_LANES_H
#define MR_BACKEND_CPU_MATH_LANES_H

/* Functions of up to 4 values are written step by step over all of them: one chain alone waits for
 * its own results. */
#define EACH LANES_UNROLL for (int i = 0; i < of; i++)

/* p = c[0]; p = fma(p, x, c[1]) and so on. */
LANES_INLINE void polynomial_each(v16f *p, const v16f *x, int of, const float *c, int n)
{
    EACH p[i] = v16f_set1(c[0]);
    LANES_UNROLL for (int d = 1; d < n; d++) EACH p[i] = v16f_fma(p[i], x[i], v16f_set1(c[d]));
}

/* e^x of each: x = n ln2 + r with |r| <= ln2/2, e^r = 1 + (r + r^2 q(r)), times 2^n, rounded once.
 * NaN stays; none is below -104 or above 89. */
LANES_INLINE void exp_within_each(v16f *x, int of)
{
    static const float c[] = {0x1.a1b5ccp-13f, 0x1.6d974cp-10f, 0x1.11107ep-7f,
                              0x1.555480p-5f,  0x1.555556p-3f,  0.5f};
    v16f n[4], r[4], q[4];
    EACH n[i] = v16f_mul(x[i], v16f_set1(0x1.715476p+0f));
    EACH n[i] = v16f_rint(n[i]);
    EACH r[i] = v16f_fnma(n[i], v16f_set1(0x1.62e430p-1f), x[i]);
    EACH r[i] = v16f_fnma(n[i], v16f_set1(-0x1.05c610p-29f), r[i]);
    polynomial_each(q, r, of, c, 6);
    EACH x[i] = v16f_mul(r[i], r[i]);
    EACH x[i] = v16f_fma(q[i], x[i], r[i]);
    EACH x[i] = v16f_add(x[i], v16f_set1(1.0f));
    EACH x[i] = v16f_ldexp(x[i], n[i]);
}

/* -inf and below -104 give 0; none is above 89. */
LANES_INLINE void exp_each(v16f *x, int of)
{
    EACH x[i] = v16f_max(v16f_set1(-104.0f), x[i]);
    exp_within_each(x, of);
}

/* +inf above 88.73. */
LANES_INLINE void exp_any_each(v16f *x, int of)
{
    EACH x[i] = v16f_min(v16f_set1(89.0f), x[i]);
    exp_each(x, of);
}

/* m, which is positive, zero or of the sign of s, with the sign of s. */
static inline v16f v16f_to_sign(v16f m, v16f s)
{
    v16i sign = v16i_and(v16i_bits(s), v16i_set1((int32_t)0x80000000));
    return v16f_bits(v16i_or(v16i_bits(m), sign));
}

/* |x| < 0.625: x + x^3 p(x^2); else 1 - 2 / (e^(2|x|) + 1) with the sign of x. */
LANES_INLINE void tanh_each(v16f *x, int of)
{
    static const float c[] = {0x1.163b6cp-9f,  -0x1.0b43cep-7f, 0x1.636962p-6f,
                              -0x1.b9eba8p-5f, 0x1.111058p-3f,  -0x1.555554p-2f};
    v16f z[4], small[4];
    EACH z[i] = v16f_mul(x[i], x[i]);
    polynomial_each(small, z, of, c, 6);
    EACH small[i] = v16f_mul(small[i], z[i]);
    EACH small[i] = v16f_fma(small[i], x[i], x[i]);
    EACH z[i] = v16f_abs(x[i]);
    EACH z[i] = v16f_min(v16f_set1(89.0f), v16f_add(z[i], z[i]));
    exp_within_each(z, of);
    EACH z[i] = v16f_add(z[i], v16f_set1(1.0f));
    EACH z[i] = v16f_div(v16f_set1(2.0f), z[i]);
    EACH z[i] = v16f_sub(v16f_set1(1.0f), z[i]);
    EACH z[i] = v16f_select(v16f_lt(v16f_abs(x[i]), v16f_set1(0.625f)), small[i], z[i]);
    EACH x[i] = v16f_to_sign(z[i], x[i]);
}

/* |x| < 0.9296875: x + x p(x^2); else 1 - e^q(|x|), q fitted to log erfc on [0.9, 4]; 1 beyond. */
LANES_INLINE void erf_each(v16f *x, int of)
{
    static const float c[] = {0x1.5d47b6p-14f, -0x1.aa6a2ap-11f, 0x1.54cde6p-8f, -0x1.b80f50p-6f,
                              0x1.ce2e14p-4f,  -0x1.812744p-2f,  0x1.06eba8p-3f};
    static const float d[] = {-0x1.5d723cp-16f, 0x1.c45954p-12f, -0x1.106262p-8f, 0x1.9aebbap-6f,
                              -0x1.bb454cp-4f,  -0x1.444d1ep-1f, -0x1.212626p+0f, 0x1.62d94ep-13f};
    v16f z[4], small[4], q[4];
    EACH z[i] = v16f_mul(x[i], x[i]);
    polynomial_each(small, z, of, c, 7);
    EACH small[i] = v16f_fma(small[i], x[i], x[i]);
    EACH z[i] = v16f_min(v16f_set1(4.0f), v16f_abs(x[i]));
    polynomial_each(q, z, of, d, 8);
    exp_any_each(q, of);
    EACH q[i] = v16f_sub(v16f_set1(1.0f), q[i]);
    EACH q[i] = v16f_select(v16f_lt(v16f_abs(x[i]), v16f_set1(0.9296875f)), small[i], q[i]);
    EACH x[i] = v16f_to_sign(q[i], x[i]);
}

LANES_INLINE void silu_each(v16f *x, int of)
{
    v16f e[4];
    EACH e[i] = v16f_neg(x[i]);
    exp_any_each(e, of);
    EACH e[i] = v16f_add(v16f_set1(1.0f), e[i]);
    EACH x[i] = v16f_div(x[i], e[i]);
}

/* (x/2) (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), x^3 as (x x) x. */
LANES_INLINE void gelu_tanh_each(v16f *x, int of)
{
    v16f t[4];
    EACH t[i] = v16f_mul(v16f_mul(x[i], x[i]), x[i]);
    EACH t[i] = v16f_fma(v16f_set1(0.044715f), t[i], x[i]);
    EACH t[i] = v16f_mul(v16f_set1(0x1.988454p-1f), t[i]);
    tanh_each(t, of);
    EACH x[i] = v16f_mul(v16f_mul(v16f_set1(0.5f), x[i]), v16f_add(v16f_set1(1.0f), t[i]));
}

/* (x/2) (1 + erf(x / sqrt 2)). */
LANES_INLINE void gelu_each(v16f *x, int of)
{
    v16f t[4];
    EACH t[i] = v16f_mul(x[i], v16f_set1(0x1.6a09e6p-1f));
    erf_each(t, of);
    EACH x[i] = v16f_mul(v16f_mul(v16f_set1(0.5f), x[i]), v16f_add(v16f_set1(1.0f), t[i]));
}

#define MATH_ONE(name)                                                                             \
    static inline v16f v16f_##name(v16f x)                                                         \
    {                                                                                              \
        name##_each(&x, 1);                                                                        \
        return x;                                                                                  \
    }
MATH_ONE(tanh)
MATH_ONE(erf)
MATH_ONE(silu)
MATH_ONE(gelu_tanh)
MATH_ONE(gelu)
#undef MATH_ONE

static inline v16f v16f_exp(v16f x)
{
    exp_any_each(&x, 1);
    return x;
}

static inline v16f v16f_sigmoid(v16f x)
{
    return v16f_div(v16f_set1(1.0f), v16f_add(v16f_set1(1.0f), v16f_exp(v16f_neg(x))));
}

/* cap tanh(x / cap). */
static inline v16f v16f_softcap(v16f x, v16f cap)
{
    return v16f_mul(cap, v16f_tanh(v16f_div(x, cap)));
}

#undef EACH

#endif
