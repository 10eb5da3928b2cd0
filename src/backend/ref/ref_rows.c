/* Ops over rows: embeddings, linears, norms, element by element, views. */
#include "backend/ref/ref.h"

#include <assert.h>
#include <math.h>
#include <string.h>

/* ---- leaves: the plan gives them a place, no step ---- */

#define LEAF(id)                                                                                   \
    mr_err mr_ref_##id(const mr_ref_step *s)                                                       \
    {                                                                                              \
        (void)s;                                                                                   \
        assert(!"a leaf is no step");                                                              \
        return mr_fail(MR_EUNSUPPORTED, "a leaf is no step");                                      \
    }
LEAF(INPUT)
LEAF(WEIGHT)
LEAF(CACHE)
LEAF(STATE)

/* ---- gathering ---- */

mr_err mr_ref_ALIAS(const mr_ref_step *s)
{
    const mr_ref_array *ids = &s->in[0], *y = &s->out[0];
    const int64_t a = mr_attr_i(s->node, "a"), b = mr_attr_i(s->node, "b"),
                  c = mr_attr_i(s->node, "c");
    for (int64_t r = 0; r < y->rows; r++) {
        int32_t id = *mr_ref_ints(ids, r);
        bool other = id >= 0 && (id == a || id == b || id == c);
        y->i[r * y->row_stride] = other ? (int32_t)mr_attr_i(s->node, "to") : id;
    }
    return MR_OK;
}

mr_err mr_ref_EMBED(const mr_ref_step *s)
{
    const mr_ref_array *ids = &s->in[0], *embeds = &s->in[2], *y = &s->out[0];
    const mr_weight *table = s->in[1].w;
    if (embeds->there && embeds->f) {
        for (int64_t r = 0; r < y->rows; r++)
            memcpy(mr_ref_row(y, r, 0), mr_ref_row(embeds, r, 0), (size_t)y->width * sizeof(float));
        return MR_OK;
    }
    float scale = (float)mr_attr_f(s->node, "scale");
    for (int64_t r = 0; r < y->rows; r++) {
        int32_t id = *mr_ref_ints(ids, r);
        if (id < 0 || id >= table->rows)
            return mr_fail(MR_EUSAGE, "id %d of row %lld is not in 0..%lld", (int)id, (long long)r,
                           (long long)table->rows - 1);
        for (int64_t i = 0; i < y->width; i++)
            mr_ref_row(y, r, 0)[i] = table->data[id * table->k + i] * scale;
    }
    return MR_OK;
}

mr_err mr_ref_MIX(const mr_ref_step *s)
{
    const mr_ref_array *probs = &s->in[0], *y = &s->out[0];
    const mr_weight *table = s->in[1].w;
    for (int64_t r = 0; r < y->rows; r++)
        for (int64_t i = 0; i < y->width; i++) {
            double sum = 0;
            for (int64_t v = 0; probs->f && v < table->rows; v++)
                sum += (double)mr_ref_row(probs, r, 0)[v] * table->data[v * table->k + i];
            mr_ref_row(y, r, 0)[i] = (float)(sum * mr_attr_f(s->node, "scale"));
        }
    return MR_OK;
}

mr_err mr_ref_GATHER(const mr_ref_step *s)
{
    const mr_ref_array *x = &s->in[0], *rows = &s->in[1], *y = &s->out[0];
    for (int64_t r = 0; r < y->rows; r++) {
        int32_t from = *mr_ref_ints(rows, r);
        if (from < 0 || from >= x->rows)
            return mr_fail(MR_EUSAGE, "row %d is not in 0..%lld", (int)from,
                           (long long)x->rows - 1);
        memcpy(mr_ref_row(y, r, 0), mr_ref_row(x, from, 0), (size_t)y->width * sizeof(float));
    }
    return MR_OK;
}

/* ---- linears ---- */

static double dot(const float *a, const float *b, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += (double)a[i] * b[i];
    return sum;
}

mr_err mr_ref_LINEAR(const mr_ref_step *s)
{
    const mr_ref_array *x = &s->in[0], *y = &s->out[0];
    const mr_weight *w = s->in[1].w, *b = s->in[2].w;
    for (int64_t r = 0; r < y->rows; r++)
        for (int64_t n = 0; n < y->width; n++) {
            double sum = dot(mr_ref_row(x, r, 0), w->data + n * w->k, w->k);
            mr_ref_row(y, r, 0)[n] = (float)(b ? sum + b->data[n] : sum);
        }
    return MR_OK;
}

mr_err mr_ref_LINEAR_HEADS(const mr_ref_step *s)
{
    const mr_ref_array *x = &s->in[0], *y = &s->out[0];
    const mr_weight *w = s->in[1].w;
    for (int64_t r = 0; r < y->rows; r++)
        for (int64_t h = 0; h < y->heads; h++)
            for (int64_t n = 0; n < y->width; n++)
                mr_ref_row(y, r, h)[n] =
                    (float)dot(mr_ref_row(x, r, h), w->data + (h * y->width + n) * w->k, w->k);
    return MR_OK;
}

/* w + offset is rounded to f32 by definition: a weight prepared with :plus1 is the same. */
mr_err mr_ref_RMSNORM(const mr_ref_step *s)
{
    const mr_ref_array *x = &s->in[0], *y = &s->out[0];
    const mr_weight *w = s->in[1].w;
    double eps = mr_attr_f(s->node, "eps");
    float offset = (float)mr_attr_f(s->node, "offset");
    for (int64_t r = 0; r < y->rows; r++)
        for (int64_t h = 0; h < y->heads; h++) {
            const float *from = mr_ref_row(x, r, h);
            double inverse = 1 / sqrt(dot(from, from, x->width) / (double)x->width + eps);
            for (int64_t i = 0; i < y->width; i++)
                mr_ref_row(y, r, h)[i] =
                    (float)(from[i] * inverse * (w ? w->data[i] + offset : 1.0f));
        }
    return MR_OK;
}

/* ---- element by element ---- */

typedef double (*pair_fn)(double a, double b);
typedef double (*single_fn)(double x, double parameter);

static mr_err pairs(const mr_ref_step *s, pair_fn f)
{
    const mr_ref_array *a = &s->in[0], *b = &s->in[1], *y = &s->out[0];
    for (int64_t r = 0; r < y->rows; r++)
        for (int64_t h = 0; h < y->heads; h++)
            for (int64_t i = 0; i < y->width; i++)
                mr_ref_row(y, r, h)[i] = (float)f(mr_ref_row(a, r, h)[i], mr_ref_row(b, r, h)[i]);
    return MR_OK;
}

static mr_err each(const mr_ref_step *s, single_fn f, double parameter)
{
    const mr_ref_array *x = &s->in[0], *y = &s->out[0];
    for (int64_t r = 0; r < y->rows; r++)
        for (int64_t h = 0; h < y->heads; h++)
            for (int64_t i = 0; i < y->width; i++)
                mr_ref_row(y, r, h)[i] = (float)f(mr_ref_row(x, r, h)[i], parameter);
    return MR_OK;
}

static double add(double a, double b)
{
    return a + b;
}

static double mul(double a, double b)
{
    return a * b;
}

static double softcap(double x, double cap)
{
    return cap * tanh(x / cap);
}

static double silu(double x, double unused)
{
    (void)unused;
    return x / (1 + exp(-x));
}

static double gelu_tanh(double x, double unused)
{
    (void)unused;
    return x / 2 * (1 + tanh(0.79788456080286535588 * (x + 0.044715 * x * x * x)));
}

static double gelu(double x, double unused)
{
    (void)unused;
    return x / 2 * (1 + erf(x * 0.70710678118654752440));
}

static double sigmoid(double x, double unused)
{
    (void)unused;
    return 1 / (1 + exp(-x));
}

static double relu(double x, double unused)
{
    (void)unused;
    return 0 > x ? 0 : x;
}

mr_err mr_ref_ADD(const mr_ref_step *s)
{
    return pairs(s, add);
}

mr_err mr_ref_MUL(const mr_ref_step *s)
{
    return pairs(s, mul);
}

mr_err mr_ref_SCALE(const mr_ref_step *s)
{
    return each(s, mul, s->in[1].w ? s->in[1].w->data[0] : (float)mr_attr_f(s->node, "by"));
}

mr_err mr_ref_SOFTCAP(const mr_ref_step *s)
{
    return each(s, softcap, mr_attr_f(s->node, "cap"));
}

mr_err mr_ref_SILU(const mr_ref_step *s)
{
    return each(s, silu, 0);
}

mr_err mr_ref_GELU_TANH(const mr_ref_step *s)
{
    return each(s, gelu_tanh, 0);
}

mr_err mr_ref_GELU(const mr_ref_step *s)
{
    return each(s, gelu, 0);
}

mr_err mr_ref_SIGMOID(const mr_ref_step *s)
{
    return each(s, sigmoid, 0);
}

mr_err mr_ref_RELU(const mr_ref_step *s)
{
    return each(s, relu, 0);
}

/* ---- views and concat ---- */

/* Plans fold slice and heads into strides; as steps they would be these copies. */
mr_err mr_ref_SLICE(const mr_ref_step *s)
{
    const mr_ref_array *x = &s->in[0], *y = &s->out[0];
    int64_t start = mr_attr_i(s->node, "start");
    for (int64_t r = 0; r < y->rows; r++)
        for (int64_t h = 0; h < y->heads; h++)
            memcpy(mr_ref_row(y, r, h), mr_ref_row(x, r, h) + start,
                   (size_t)y->width * sizeof(float));
    return MR_OK;
}

mr_err mr_ref_HEADS(const mr_ref_step *s)
{
    const mr_ref_array *x = &s->in[0], *y = &s->out[0];
    for (int64_t r = 0; r < y->rows; r++)
        for (int64_t i = 0; i < x->heads * x->width; i++)
            mr_ref_row(y, r, i / y->width)[i % y->width] =
                mr_ref_row(x, r, i / x->width)[i % x->width];
    return MR_OK;
}

mr_err mr_ref_CONCAT(const mr_ref_step *s)
{
    const mr_ref_array *a = &s->in[0], *b = &s->in[1], *y = &s->out[0];
    for (int64_t r = 0; r < y->rows; r++)
        for (int64_t h = 0; h < y->heads; h++) {
            float *to = mr_ref_row(y, r, h);
            memcpy(to, mr_ref_row(a, r, a->heads == 1 ? 0 : h), (size_t)a->width * sizeof(float));
            memcpy(to + a->width, mr_ref_row(b, r, b->heads == 1 ? 0 : h),
                   (size_t)b->width * sizeof(float));
        }
    return MR_OK;
}
