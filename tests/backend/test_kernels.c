/* Row kernels of the CPU backend: the C form against the math it means, every ISA against C by
 * bits, at odd sizes, with extreme values, between guard pages. */
#include "kernel_check.h"

#include "backend/cpu/lanes_c.h"
#include "backend/cpu/math_lanes.h"
#include "base/real.h"
#include "backend/cpu/vec.h"
#include "tensor/tensor.h"

/* ---- math in C lanes against double ---- */

typedef struct function {
    const char *name;
    v16f (*lanes)(v16f);
    double (*exact)(double);
    double ulp;   /* largest error allowed */
    double small; /* absolute error that is always fine: where the result cancels */
} function;

static double sigmoid(double x)
{
    return 1 / (1 + exp(-x));
}

static double silu(double x)
{
    return x / (1 + exp(-x));
}

static double gelu(double x)
{
    return x / 2 * (1 + erf(x / sqrt(2)));
}

static double gelu_tanh(double x)
{
    return x / 2 * (1 + tanh(sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
}

static const function functions[] = {
    {"exp", v16f_exp, exp, 1.0, 0},
    {"tanh", v16f_tanh, tanh, 1.4, 0},
    {"erf", v16f_erf, erf, 1.3, 0},
    {"sigmoid", v16f_sigmoid, sigmoid, 3.0, 1e-38},
    {"silu", v16f_silu, silu, 4.0, 1e-36},
    {"gelu", v16f_gelu, gelu, 8.0, 2e-7},
    {"gelu_tanh", v16f_gelu_tanh, gelu_tanh, 8.0, 3e-7},
};

/* `step` apart in bit patterns, so that every exponent is met. */
static void check_function(const function *f, uint32_t step)
{
    double worst = 0;
    float at = 0;
    for (uint64_t u = ck_seed % step; u < 1ull << 32; u += 16ull * step) {
        float x[16], y[16];
        for (uint64_t i = 0; i < 16; i++) {
            uint32_t b = (uint32_t)(u + i * step);
            memcpy(&x[i], &b, 4);
        }
        v16f_store(y, f->lanes(v16f_load(x)));
        for (int i = 0; i < 16; i++) {
            double ref = f->exact(x[i]);
            if (ref != ref && x[i] == x[i])
                continue; /* -inf * 0 */
            double e = ck_ulp(y[i], ref);
            if (e > worst && !(fabs(y[i] - ref) <= f->small)) {
                worst = e;
                at = x[i];
            }
        }
    }
    CK(worst <= f->ulp, "%s: %g ulp at %a (%g allowed)", f->name, worst, (double)at, f->ulp);
}

static float first_lane(v16f (*f)(v16f), float x)
{
    float y[16];
    v16f_store(y, f(v16f_set1(x)));
    return y[0];
}

static void check_corners(void)
{
    CK(first_lane(v16f_exp, -INFINITY) == 0, "exp(-inf) is not 0");
    CK(first_lane(v16f_exp, INFINITY) == INFINITY, "exp(inf) is not inf");
    CK(first_lane(v16f_exp, 88.72284f) == INFINITY, "exp(88.72284) is not inf");
    CK(first_lane(v16f_exp, 88.72283f) < INFINITY, "exp(88.72283) is inf");
    CK(first_lane(v16f_exp, -103.0f) == 0x1p-149f, "exp(-103) is not the least denormal");
    CK(first_lane(v16f_exp, 0) == 1, "exp(0) is not 1");
    CK(first_lane(v16f_tanh, INFINITY) == 1 && first_lane(v16f_tanh, -INFINITY) == -1, "tanh(inf)");
    CK(signbit(first_lane(v16f_tanh, -0.0f)), "tanh(-0) is not -0");
    CK(first_lane(v16f_erf, -10) == -1, "erf(-10) is not -1");
}

static void check_double(void)
{
    double worst[6] = {0};
    for (int i = 0; i < 400000; i++) {
        double u = (double)(ck_random() >> 11) * 0x1p-53, x = (u - 0.5) * exp(u * 14), s, c, e[6];
        mr_sincos(x, &s, &c);
        e[0] = fabs(s - sin(x)) / fabs(sin(x));
        e[1] = fabs(c - cos(x)) / fabs(cos(x));
        x = (u - 0.5) * 1400;
        e[2] = fabs(mr_exp(x) / exp(x) - 1);
        x = exp((u - 0.5) * 200);
        e[3] = fabs(mr_log(x) - log(x)) / fabs(log(x));
        x = u * 4 - 0.9999;
        e[4] = fabs(mr_log1p(x) - log1p(x)) / fabs(log1p(x));
        e[5] = fabs(mr_pow(1e6 * u + 2, 1 - 2 * u) / pow(1e6 * u + 2, 1 - 2 * u) - 1);
        for (int k = 0; k < 6; k++)
            worst[k] = e[k] > worst[k] ? e[k] : worst[k];
    }
    static const char *const names[] = {"sin", "cos", "exp", "log", "log1p", "pow"};
    for (int k = 0; k < 6; k++)
        CK(worst[k] < 2e-15, "double %s: relative error %g", names[k], worst[k]);
    double s, c;
    mr_sincos(0x1p41, &s, &c);
    CK(s != s && c != c, "sin beyond 2^40 is not NaN");
    CK(mr_log(0) == -INFINITY && mr_log(-1) != mr_log(-1), "log(0), log(-1)");
    CK(mr_exp(-800) == 0 && mr_exp(800) == INFINITY, "exp(-800), exp(800)");
    CK(mr_log1p(-1) == -INFINITY && mr_log1p(INFINITY) == INFINITY, "log1p(-1), log1p(inf)");
}

/* ---- kernels: each ISA against C ---- */

static const int64_t sizes[] = {1, 2, 15, 16, 17, 31, 33, 64, 100, 1000};
enum { SIZES = sizeof sizes / sizeof *sizes, MAX = 1000 };

static const mr_op maps[] = {MR_OP_SCALE, MR_OP_SOFTCAP, MR_OP_SILU, MR_OP_GELU_TANH,
                             MR_OP_GELU,  MR_OP_SIGMOID, MR_OP_RELU};

static void check_elementwise(mr_isa isa, int64_t n, ck_kind kind)
{
    const mr_vec_kernels *v = mr_vec(isa), *c = mr_vec(MR_ISA_C);
    float *a = ck_floats(n), *b = ck_floats(n), *y = ck_floats(n), *z = ck_floats(n);
    ck_fill(a, n, kind);
    ck_fill(b, n, kind);
    v->add(y, a, b, n);
    c->add(z, a, b, n);
    CK(ck_same(y, z, n), "add %s n %d", mr_isa_name(isa), (int)n);
    v->mul(y, a, b, n);
    c->mul(z, a, b, n);
    CK(ck_same(y, z, n), "mul %s n %d", mr_isa_name(isa), (int)n);
    for (size_t i = 0; i < sizeof maps / sizeof *maps; i++) {
        v->map(maps[i], 3.7f, y, a, n);
        c->map(maps[i], 3.7f, z, a, n);
        CK(ck_same(y, z, n), "map %d %s n %d", (int)maps[i], mr_isa_name(isa), (int)n);
    }
    v->softmax(y, a, n);
    c->softmax(z, a, n);
    CK(ck_same(y, z, n), "softmax %s n %d", mr_isa_name(isa), (int)n);
    for (int w = 0; w < 2; w++) {
        v->rmsnorm(y, a, w ? b : NULL, 1e-6f, 0.5f, n);
        c->rmsnorm(z, a, w ? b : NULL, 1e-6f, 0.5f, n);
        CK(ck_same(y, z, n), "rmsnorm %s n %d w %d", mr_isa_name(isa), (int)n, w);
    }
    v->l2norm(y, a, 1e-6f, 0.25f, n);
    c->l2norm(z, a, 1e-6f, 0.25f, n);
    CK(ck_same(y, z, n), "l2norm %s n %d", mr_isa_name(isa), (int)n);
    uint16_t *h = ck_guard((size_t)n * 2, 2), *g = ck_guard((size_t)n * 2, 2);
    v->to_bf16(h, a, n);
    for (int64_t i = 0; i < n; i++)
        g[i] = mr_f32_to_bf16(a[i]);
    bool same = true;
    for (int64_t i = 0; i < n; i++)
        same &= h[i] == g[i] || (a[i] != a[i] && mr_bf16_to_f32(h[i]) != mr_bf16_to_f32(h[i]));
    CK(same, "to_bf16 %s n %d", mr_isa_name(isa), (int)n);
    ck_free_all();
}

static void check_rope_combine(mr_isa isa, int64_t n, ck_kind kind)
{
    const mr_vec_kernels *v = mr_vec(isa), *c = mr_vec(MR_ISA_C);
    float *x = ck_floats(2 * n), *t = ck_floats(2 * n), *y = ck_floats(2 * n),
          *z = ck_floats(2 * n);
    ck_fill(x, 2 * n, kind);
    ck_fill(t, 2 * n, kind);
    for (int inter = 0; inter < 2; inter++) {
        v->rope(y, x, t, 2 * n, inter);
        c->rope(z, x, t, 2 * n, inter);
        CK(ck_same(y, z, 2 * n), "rope %s n %d %d", mr_isa_name(isa), (int)n, inter);
        bool right = true;
        for (int64_t i = 0; i < n && kind == CK_PLAIN; i++) {
            int64_t p = inter ? 2 * i : i, q = inter ? 2 * i + 1 : i + n;
            right &= fabs(y[p] - ((double)x[p] * t[i] - (double)x[q] * t[n + i])) < 1e-5;
            right &= fabs(y[q] - ((double)x[q] * t[i] + (double)x[p] * t[n + i])) < 1e-5;
        }
        CK(right, "rope %s n %d %d is wrong", mr_isa_name(isa), (int)n, inter);
    }
    enum { K = 7 };
    float *many = ck_floats(K * (n + 3)), w[K];
    ck_fill(many, K * (n + 3), kind);
    ck_fill(w, K, kind);
    v->combine(y, many, n + 3, w, K, n);
    c->combine(z, many, n + 3, w, K, n);
    CK(ck_same(y, z, n), "combine %s n %d", mr_isa_name(isa), (int)n);
    /* of several rows and in two parts, each sum is the same chain */
    enum { ROWS = 6 };
    float *sums = ck_floats(ROWS * (n + 1)), rows[ROWS * K];
    ck_fill(rows, ROWS * K, kind);
    memset(sums, 0, (size_t)(ROWS * (n + 1)) * sizeof *sums);
    v->accumulate(sums, n + 1, rows, K, ROWS, many, n + 3, 2, n);
    v->accumulate(sums, n + 1, rows + 2, K, ROWS, many + 2 * (n + 3), n + 3, K - 2, n);
    for (int r = 0; r < ROWS; r++) {
        c->combine(z, many, n + 3, rows + r * K, K, n);
        CK(ck_same(sums + r * (n + 1), z, n), "accumulate %s n %d row %d", mr_isa_name(isa), (int)n,
           r);
    }
    ck_free_all();
}

/* The C kernels against double. */
static void check_meaning(int64_t n)
{
    const mr_vec_kernels *c = mr_vec(MR_ISA_C);
    float *x = ck_floats(n), *w = ck_floats(n), *y = ck_floats(n);
    double square = 0, sum = 0, top = -INFINITY, worst = 0, e;
    ck_fill(x, n, CK_PLAIN);
    ck_fill(w, n, CK_PLAIN);
    for (int64_t i = 0; i < n; i++) {
        square += (double)x[i] * x[i];
        top = x[i] > top ? x[i] : top;
    }
    for (int64_t i = 0; i < n; i++)
        sum += exp(x[i] - top);
    c->rmsnorm(y, x, w, 1e-5f, 1.0f, n);
    for (int64_t i = 0; i < n; i++) {
        e = fabs(y[i] - x[i] / sqrt(square / (double)n + 1e-5f) * (w[i] + 1.0));
        worst = e > worst ? e : worst;
    }
    c->softmax(y, x, n);
    for (int64_t i = 0; i < n; i++) {
        e = fabs(y[i] - exp(x[i] - top) / sum);
        worst = e > worst ? e : worst;
    }
    CK(worst < 3e-6, "rmsnorm or softmax of %d is %g off", (int)n, worst);
    ck_free_all();
}

/* ---- timings ---- */

static void time_kernel(const char *name, mr_isa isa, double bytes, double seconds, int reps)
{
    printf("%-12s %-7s %8.2f us  %7.2f GB/s\n", name, mr_isa_name(isa), 1e6 * seconds / reps,
           1e-9 * bytes * reps / seconds);
}

#define TIME(name, bytes, call)                                                                    \
    do {                                                                                           \
        int reps = 0;                                                                              \
        double t0 = ck_now(), dt;                                                                  \
        do {                                                                                       \
            call;                                                                                  \
            reps++;                                                                                \
        } while ((dt = ck_now() - t0) < 0.1);                                                      \
        time_kernel(name, isa, bytes, dt, reps);                                                   \
    } while (0)

static void bench(mr_isa isa)
{
    enum { N = 4096 };
    const mr_vec_kernels *v = mr_vec(isa);
    float *a = ck_floats(N), *b = ck_floats(N), *y = ck_floats(N);
    ck_fill(a, N, CK_PLAIN);
    ck_fill(b, N, CK_PLAIN);
    TIME("add", 12.0 * N, v->add(y, a, b, N));
    TIME("rmsnorm", 12.0 * N, v->rmsnorm(y, a, b, 1e-6f, 0, N));
    TIME("silu", 8.0 * N, v->map(MR_OP_SILU, 0, y, a, N));
    TIME("gelu_tanh", 8.0 * N, v->map(MR_OP_GELU_TANH, 0, y, a, N));
    TIME("gelu", 8.0 * N, v->map(MR_OP_GELU, 0, y, a, N));
    TIME("softmax", 8.0 * N, v->softmax(y, a, N));
    TIME("rope", 12.0 * N, v->rope(y, a, b, N, false));
    TIME("rope pairs", 12.0 * N, v->rope(y, a, b, N, true));
    ck_free_all();
}

int main(int argc, char **argv)
{
    ck_begin(argc, argv);
    mr_isa isa[MR_ISA_COUNT];
    int isas = ck_isas(isa);
    if (ck_bench) {
        for (int i = 0; i < isas; i++)
            bench(isa[i]);
        return 0;
    }
    for (size_t i = 0; i < sizeof functions / sizeof *functions; i++)
        check_function(&functions[i], ck_small ? 50021 : 2003);
    check_corners();
    check_double();
    for (int s = 0; s < SIZES; s++) {
        check_meaning(sizes[s]);
        for (int i = 0; i < isas; i++)
            for (int round = 0; round < (ck_small ? 3 : 12); round++) {
                check_elementwise(isa[i], sizes[s], round ? CK_WILD : CK_PLAIN);
                check_rope_combine(isa[i], sizes[s], round ? CK_WILD : CK_PLAIN);
            }
    }
    return ck_end("kernels");
}
