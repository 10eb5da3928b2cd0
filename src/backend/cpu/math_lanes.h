/* exp, tanh, erf and the activations made of them, over 16 lanes.
 *
 * Each is one written sequence of f32 operations (docs/numerics.md), so the bits are equal on every
 * ISA.  Polynomials are weighted minimax fits of our own, coefficients rounded to f32.
 * Errors (test_kernels measures them): exp below 1 ulp, tanh and erf below 2 ulp.
 *
 * Include after a lanes_*.h. */
#ifndef MR_BACKEND_CPU_MATH_LANES_H
#define MR_BACKEND_CPU_MATH_LANES_H

/* e^x of each: x = n ln2 + r with |r| <= ln2/2, e^r = 1 + (r + r^2 q(r)), times 2^n, rounded once.
 * -inf and below -104 give 0, NaN stays; none is above 89.  Step by step over `of`, as one chain
 * alone waits for its own results. */
LANES_INLINE void exp_each(v16f *x, int of)
{
    static const float c[] = {0x1.6d974cp-10f, 0x1.11107ep-7f, 0x1.555480p-5f, 0x1.555556p-3f,
                              0.5f};
    v16f n[4], r[4], q[4];
    LANES_UNROLL for (int i = 0; i < of; i++) x[i] = v16f_max(v16f_set1(-104.0f), x[i]);
    LANES_UNROLL for (int i = 0; i < of; i++) n[i] = v16f_mul(x[i], v16f_set1(0x1.715476p+0f));
    LANES_UNROLL for (int i = 0; i < of; i++) n[i] = v16f_rint(n[i]);
    LANES_UNROLL for (int i = 0; i < of; i++) r[i] =
        v16f_fnma(n[i], v16f_set1(0x1.62e430p-1f), x[i]);
    LANES_UNROLL for (int i = 0; i < of; i++) r[i] =
        v16f_fnma(n[i], v16f_set1(-0x1.05c610p-29f), r[i]);
    LANES_UNROLL for (int i = 0; i < of; i++) q[i] = v16f_set1(0x1.a1b5ccp-13f);
    LANES_UNROLL for (int d = 0; d < 5; d++) LANES_UNROLL for (int i = 0; i < of; i++) q[i] =
        v16f_fma(q[i], r[i], v16f_set1(c[d]));
    LANES_UNROLL for (int i = 0; i < of; i++) x[i] = v16f_mul(r[i], r[i]);
    LANES_UNROLL for (int i = 0; i < of; i++) x[i] = v16f_fma(q[i], x[i], r[i]);
    LANES_UNROLL for (int i = 0; i < of; i++) x[i] = v16f_add(x[i], v16f_set1(1.0f));
    LANES_UNROLL for (int i = 0; i < of; i++) x[i] = v16f_ldexp(x[i], n[i]);
}

/* e^x, +inf above 88.73. */
LANES_INLINE v16f v16f_exp(v16f x)
{
    x = v16f_min(v16f_set1(89.0f), x);
    exp_each(&x, 1);
    return x;
}

/* Magnitude of m with the sign of s. */
static inline v16f v16f_copysign(v16f m, v16f s)
{
    v16i sign = v16i_and(v16i_bits(s), v16i_set1((int32_t)0x80000000));
    return v16f_bits(v16i_or(v16i_bits(v16f_abs(m)), sign));
}

/* |x| < 0.625: x + x^3 p(x^2); else 1 - 2 / (e^(2|x|) + 1) with the sign of x. */
static inline v16f v16f_tanh(v16f x)
{
    v16f a = v16f_abs(x), z = v16f_mul(x, x);
    v16f p = v16f_set1(0x1.163b6cp-9f);
    p = v16f_fma(p, z, v16f_set1(-0x1.0b43cep-7f));
    p = v16f_fma(p, z, v16f_set1(0x1.636962p-6f));
    p = v16f_fma(p, z, v16f_set1(-0x1.b9eba8p-5f));
    p = v16f_fma(p, z, v16f_set1(0x1.111058p-3f));
    p = v16f_fma(p, z, v16f_set1(-0x1.555554p-2f));
    v16f small = v16f_fma(v16f_mul(p, z), x, x);
    v16f one = v16f_set1(1.0f), e = v16f_exp(v16f_add(a, a));
    v16f big = v16f_sub(one, v16f_div(v16f_set1(2.0f), v16f_add(e, one)));
    return v16f_copysign(v16f_select(v16f_lt(a, v16f_set1(0.625f)), small, big), x);
}

/* |x| < 0.9296875: x + x p(x^2); else 1 - e^q(|x|), q fitted to log erfc on [0.9, 4]; 1 beyond. */
static inline v16f v16f_erf(v16f x)
{
    v16f a = v16f_abs(x), z = v16f_mul(x, x);
    v16f p = v16f_set1(0x1.5d47b6p-14f);
    p = v16f_fma(p, z, v16f_set1(-0x1.aa6a2ap-11f));
    p = v16f_fma(p, z, v16f_set1(0x1.54cde6p-8f));
    p = v16f_fma(p, z, v16f_set1(-0x1.b80f50p-6f));
    p = v16f_fma(p, z, v16f_set1(0x1.ce2e14p-4f));
    p = v16f_fma(p, z, v16f_set1(-0x1.812744p-2f));
    p = v16f_fma(p, z, v16f_set1(0x1.06eba8p-3f));
    v16f small = v16f_fma(p, x, x);
    v16f t = v16f_min(v16f_set1(4.0f), a);
    v16f q = v16f_set1(-0x1.5d723cp-16f);
    q = v16f_fma(q, t, v16f_set1(0x1.c45954p-12f));
    q = v16f_fma(q, t, v16f_set1(-0x1.106262p-8f));
    q = v16f_fma(q, t, v16f_set1(0x1.9aebbap-6f));
    q = v16f_fma(q, t, v16f_set1(-0x1.bb454cp-4f));
    q = v16f_fma(q, t, v16f_set1(-0x1.444d1ep-1f));
    q = v16f_fma(q, t, v16f_set1(-0x1.212626p+0f));
    q = v16f_fma(q, t, v16f_set1(0x1.62d94ep-13f));
    v16f big = v16f_sub(v16f_set1(1.0f), v16f_exp(q));
    return v16f_copysign(v16f_select(v16f_lt(a, v16f_set1(0.9296875f)), small, big), x);
}

static inline v16f v16f_sigmoid(v16f x)
{
    v16f one = v16f_set1(1.0f);
    return v16f_div(one, v16f_add(one, v16f_exp(v16f_neg(x))));
}

static inline v16f v16f_silu(v16f x)
{
    return v16f_div(x, v16f_add(v16f_set1(1.0f), v16f_exp(v16f_neg(x))));
}

/* (x/2) (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), x^3 as (x x) x. */
static inline v16f v16f_gelu_tanh(v16f x)
{
    v16f x3 = v16f_mul(v16f_mul(x, x), x);
    v16f u = v16f_fma(v16f_set1(0.044715f), x3, x);
    v16f t = v16f_tanh(v16f_mul(v16f_set1(0x1.988454p-1f), u));
    return v16f_mul(v16f_mul(v16f_set1(0.5f), x), v16f_add(v16f_set1(1.0f), t));
}

/* (x/2) (1 + erf(x / sqrt 2)). */
static inline v16f v16f_gelu(v16f x)
{
    v16f t = v16f_erf(v16f_mul(x, v16f_set1(0x1.6a09e6p-1f)));
    return v16f_mul(v16f_mul(v16f_set1(0.5f), x), v16f_add(v16f_set1(1.0f), t));
}

/* cap tanh(x / cap). */
static inline v16f v16f_softcap(v16f x, v16f cap)
{
    return v16f_mul(cap, v16f_tanh(v16f_div(x, cap)));
}

#endif
