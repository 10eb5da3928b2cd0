/* Row kernels over 16 lanes: template of vec_*.c (see vec.h, lanes.h).
 *
 * A row is walked in whole vectors and one partial vector; lanes past the end are loaded as zero
 * and never stored.  Sums over a row use one accumulator of 16 lanes (lane i takes elements i,
 * i+16, ...) and the fixed tree, so no result depends on the width of the registers. */
#include "backend/cpu/math_lanes.h"
#include "backend/cpu/vec.h"

#include <math.h>

enum { ACCUMULATE_ROWS = 4 };

/* Runs BODY(n) with i at each vector; n is a constant 16 but in the last, partial one. */
#define EACH_VECTOR(len, BODY)                                                                     \
    do {                                                                                           \
        int64_t i = 0;                                                                             \
        for (; i + 16 <= (len); i += 16)                                                           \
            BODY(16);                                                                              \
        if (i < (len))                                                                             \
            BODY((int)((len)-i));                                                                  \
    } while (0)

LANES_INLINE v16f load(const float *p, int n)
{
    return n == 16 ? v16f_load(p) : v16f_loadn(p, n);
}

LANES_INLINE void store(float *p, v16f a, int n)
{
    if (n == 16)
        v16f_store(p, a);
    else
        v16f_storen(p, a, n);
}

static void add(float *y, const float *a, const float *b, int64_t len)
{
#define BODY(n) store(y + i, v16f_add(load(a + i, n), load(b + i, n)), n)
    EACH_VECTOR(len, BODY);
#undef BODY
}

static void mul(float *y, const float *a, const float *b, int64_t len)
{
#define BODY(n) store(y + i, v16f_mul(load(a + i, n), load(b + i, n)), n)
    EACH_VECTOR(len, BODY);
#undef BODY
}

static void map(mr_op fn, float p, float *y, const float *x, int64_t len)
{
    v16f param = v16f_set1(p);
#define SCALE(n) store(y + i, v16f_mul(load(x + i, n), param), n)
#define SOFTCAP(n) store(y + i, v16f_softcap(load(x + i, n), param), n)
#define SILU(n) store(y + i, v16f_silu(load(x + i, n)), n)
#define GELU_TANH(n) store(y + i, v16f_gelu_tanh(load(x + i, n)), n)
#define GELU(n) store(y + i, v16f_gelu(load(x + i, n)), n)
#define RELU(n) store(y + i, v16f_max(v16f_zero(), load(x + i, n)), n) /* NaN stays */
#define SIGMOID(n) store(y + i, v16f_sigmoid(load(x + i, n)), n)
    switch (fn) {
    case MR_OP_SCALE:
        EACH_VECTOR(len, SCALE);
        break;
    case MR_OP_SOFTCAP:
        EACH_VECTOR(len, SOFTCAP);
        break;
    case MR_OP_SILU:
        EACH_VECTOR(len, SILU);
        break;
    case MR_OP_GELU_TANH:
        EACH_VECTOR(len, GELU_TANH);
        break;
    case MR_OP_GELU:
        EACH_VECTOR(len, GELU);
        break;
    case MR_OP_RELU:
        EACH_VECTOR(len, RELU);
        break;
    default:
        EACH_VECTOR(len, SIGMOID);
        break;
    }
}

static void rmsnorm(float *y, const float *x, const float *w, float eps, float offset, int64_t len)
{
    v16f sum = v16f_zero(), off = v16f_set1(offset);
#define SQUARE(n)                                                                                  \
    do {                                                                                           \
        v16f v = load(x + i, n);                                                                   \
        sum = v16f_fma(v, v, sum);                                                                 \
    } while (0)
    EACH_VECTOR(len, SQUARE);
    float mean = v16f_reduce_add(sum) / (float)len;
    v16f inv = v16f_set1(1.0f / sqrtf(mean + eps));
#define NORM(n)                                                                                    \
    store(y + i, v16f_mul(v16f_mul(load(x + i, n), inv), v16f_add(load(w + i, n), off)), n)
#define PLAIN(n) store(y + i, v16f_mul(load(x + i, n), inv), n)
    if (w)
        EACH_VECTOR(len, NORM);
    else
        EACH_VECTOR(len, PLAIN);
}

static void l2norm(float *y, const float *x, float eps, float scale, int64_t len)
{
    v16f sum = v16f_zero(), by = v16f_set1(scale);
    EACH_VECTOR(len, SQUARE);
    v16f inv = v16f_set1(1.0f / sqrtf(v16f_reduce_add(sum) + eps));
#define UNIT(n) store(y + i, v16f_mul(v16f_mul(load(x + i, n), inv), by), n)
    EACH_VECTOR(len, UNIT);
}

/* Pairs (i, i + half): y1 = fma(x1, c, -(x2 s)), y2 = fma(x2, c, x1 s). */
static void rope_halves(float *y, const float *x, const float *table, int64_t half)
{
    const float *cs = table, *sn = table + half;
#define TURN(n)                                                                                    \
    do {                                                                                           \
        v16f c = load(cs + i, n), s = load(sn + i, n);                                             \
        v16f a = load(x + i, n), b = load(x + half + i, n);                                        \
        store(y + i, v16f_fma(a, c, v16f_neg(v16f_mul(b, s))), n);                                 \
        store(y + half + i, v16f_fma(b, c, v16f_mul(a, s)), n);                                    \
    } while (0)
    EACH_VECTOR(half, TURN);
}

static void rope(float *y, const float *x, const float *table, int64_t dim, bool interleaved)
{
    int64_t half = dim / 2;
    if (!interleaved) {
        rope_halves(y, x, table, half);
        return;
    }
    for (int64_t i = 0; i < half; i++) { /* pairs (2i, 2i+1), the same two formulas */
        float c = table[i], s = table[half + i], a = x[2 * i], b = x[2 * i + 1];
        float as = a * s, bs = b * s;
        y[2 * i] = fmaf(a, c, -bs);
        y[2 * i + 1] = fmaf(b, c, as);
    }
}

static void combine(float *y, const float *x, int64_t ldj, const float *w, int64_t k, int64_t len)
{
#define SUM(n)                                                                                     \
    do {                                                                                           \
        v16f s = v16f_zero();                                                                      \
        for (int64_t j = 0; j < k; j++)                                                            \
            s = v16f_fma(v16f_set1(w[j]), load(x + j * ldj + i, n), s);                            \
        store(y + i, s, n);                                                                        \
    } while (0)
    EACH_VECTOR(len, SUM);
}

/* Four rows share what is read of x: 32 columns of it, while those are near.  Of fewer rows the last
 * is done again, with the same result. */
LANES_INLINE void accumulate_rows(float *y, int64_t ldy, const float *w, int64_t ldw, int64_t rows,
                                  const float *x, int64_t ldx, int64_t k)
{
    enum { N = ACCUMULATE_ROWS };
    v16f left[N], right[N];
    float *at[N];
    const float *p[N];
#pragma GCC unroll 4
    for (int r = 0; r < N; r++) {
        int64_t row = r < rows ? r : rows - 1;
        at[r] = y + row * ldy;
        p[r] = w + row * ldw;
        left[r] = v16f_load(at[r]);
        right[r] = v16f_load(at[r] + 16);
    }
    for (int64_t j = 0; j < k; j++) {
        v16f a = v16f_load(x + j * ldx), b = v16f_load(x + j * ldx + 16);
#pragma GCC unroll 4
        for (int r = 0; r < N; r++) {
            left[r] = v16f_fma(v16f_set1(p[r][j]), a, left[r]);
            right[r] = v16f_fma(v16f_set1(p[r][j]), b, right[r]);
        }
    }
#pragma GCC unroll 4
    for (int r = 0; r < N; r++) {
        v16f_store(at[r], left[r]);
        v16f_store(at[r] + 16, right[r]);
    }
}

static void accumulate(float *y, int64_t ldy, const float *w, int64_t ldw, int64_t rows,
                       const float *x, int64_t ldx, int64_t k, int64_t len)
{
    for (; len >= 32; len -= 32, y += 32, x += 32)
        for (int64_t r = 0; r < rows; r += ACCUMULATE_ROWS)
            accumulate_rows(y + r * ldy, ldy, w + r * ldw, ldw, rows - r, x, ldx, k);
    for (int64_t r = 0; r < rows; r++) {
        float *sum = y + r * ldy;
#define MORE(n)                                                                                    \
    do {                                                                                           \
        v16f s = load(sum + i, n);                                                                 \
        for (int64_t j = 0; j < k; j++)                                                            \
            s = v16f_fma(v16f_set1(w[r * ldw + j]), load(x + j * ldx + i, n), s);                  \
        store(sum + i, s, n);                                                                      \
    } while (0)
        EACH_VECTOR(len, MORE);
#undef MORE
    }
}

/* e^(x - max) / sum; the sum in 16 lanes and the tree. */
static void softmax(float *y, const float *x, int64_t len)
{
    v16f top = v16f_set1(-INFINITY), low = top, sum = v16f_zero();
#define MAX(n) top = v16f_max(v16f_keep(load(x + i, n), n, low), top)
    EACH_VECTOR(len, MAX);
    v16f m = v16f_set1(v16f_reduce_max(top));
#define EXP(n)                                                                                     \
    do {                                                                                           \
        v16f e = v16f_exp(v16f_sub(load(x + i, n), m));                                            \
        sum = v16f_add(sum, v16f_keep(e, n, v16f_zero()));                                         \
        store(y + i, e, n);                                                                        \
    } while (0)
    EACH_VECTOR(len, EXP);
    v16f all = v16f_set1(v16f_reduce_add(sum));
#define DIVIDE(n) store(y + i, v16f_div(load(y + i, n), all), n)
    EACH_VECTOR(len, DIVIDE);
}

static void to_bf16(uint16_t *y, const float *x, int64_t len)
{
    int64_t i = 0;
    for (; i + 16 <= len; i += 16)
        v16f_store_bf16(y + i, v16f_load(x + i));
    if (i < len) {
        uint16_t t[16];
        v16f_store_bf16(t, v16f_loadn(x + i, (int)(len - i)));
        memcpy(y + i, t, (size_t)(len - i) * 2);
    }
}

const mr_vec_kernels LANES_FN(mr_vec) = {add,  mul,     map,        rmsnorm, l2norm,
                                         rope, combine, accumulate, softmax, to_bf16};
