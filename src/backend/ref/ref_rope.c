/* Rope: frequencies of every kind, the table of a run's positions, and the rotation. */
#include "backend/ref/ref.h"

#include <math.h>
#include <string.h>

static const double two_pi = 6.28318530717958647692;

static double llama3(const mr_node *n, double f)
{
    double low = mr_attr_f(n, "low"), high = mr_attr_f(n, "high"), orig = mr_attr_f(n, "orig"),
           factor = mr_attr_f(n, "factor"), wavelength = two_pi / f;
    if (wavelength < orig / high)
        return f;
    if (wavelength > orig / low)
        return f / factor;
    double t = (orig / wavelength - low) / (high - low);
    return f * ((1 - t) / factor + t);
}

/* The pair that turns `turns` times within the original context. */
static double yarn_pair(const mr_node *n, double turns)
{
    return (double)mr_attr_i(n, "dim") * log(mr_attr_f(n, "orig") / (two_pi * turns)) /
           (2 * log(mr_attr_f(n, "theta")));
}

static double yarn(const mr_node *n, double f, int64_t i)
{
    double low = yarn_pair(n, mr_attr_f(n, "beta_fast")),
           high = yarn_pair(n, mr_attr_f(n, "beta_slow"));
    if (mr_attr_i(n, "truncate")) {
        low = floor(low);
        high = ceil(high);
    }
    low = fmax(low, 0);
    high = fmin(high, (double)(mr_attr_i(n, "dim") - 1));
    if (low == high)
        high += 0.001;
    double ramp = fmin(fmax(((double)i - low) / (high - low), 0), 1);
    return f / mr_attr_f(n, "factor") * ramp + f * (1 - ramp);
}

static double frequency(const mr_node *n, int64_t i)
{
    const char *kind = mr_attr_s(n, "kind");
    double f = pow(mr_attr_f(n, "theta"), -2.0 * (double)i / (double)mr_attr_i(n, "dim"));
    if (!strcmp(kind, "linear"))
        return f / mr_attr_f(n, "factor");
    if (!strcmp(kind, "llama3"))
        return llama3(n, f);
    if (!strcmp(kind, "proportional"))
        return i < mr_attr_i(n, "angles") ? f / mr_attr_f(n, "factor") : 0;
    return !strcmp(kind, "yarn") ? yarn(n, f, i) : f;
}

/* Frequency and angle are f32 by definition: at position 10000 their rounding is seen in the
 * cosine. */
mr_err mr_ref_ROPE_TABLE(const mr_ref_step *s)
{
    const mr_ref_array *pos = mr_ref_in(s, "pos"), *y = &s->out[0];
    const mr_weight *factors = mr_ref_in(s, "factors")->w;
    double mscale = mr_attr_f(s->node, "mscale");
    int64_t half = (mr_attr_i(s->node, "dim") + 1) / 2;
    for (int64_t i = 0; i < half; i++) {
        double f = frequency(s->node, i);
        float rounded = (float)(factors ? f / factors->data[i] : f);
        for (int64_t r = 0; r < y->rows; r++) {
            float angle = (float)*mr_ref_ints(pos, r) * rounded;
            mr_ref_row(y, r, 0)[i] = (float)(cos(angle) * mscale);
            mr_ref_row(y, r, 0)[half + i] = (float)(sin(angle) * mscale);
        }
    }
    return MR_OK;
}

mr_err mr_ref_ROPE(const mr_ref_step *s)
{
    const mr_ref_array *x = mr_ref_in(s, "x"), *table = mr_ref_in(s, "table"), *y = &s->out[0];
    int64_t start = mr_attr_i(s->node, "start"), half = table->width / 2;
    bool interleaved = mr_attr_i(s->node, "interleaved");
    for (int64_t r = 0; r < y->rows; r++)
        for (int64_t h = 0; h < y->heads; h++) {
            const float *from = mr_ref_row(x, r, h), *t = mr_ref_row(table, r, 0);
            float *to = mr_ref_row(y, r, h);
            memcpy(to, from, (size_t)y->width * sizeof(float));
            for (int64_t i = 0; i < half; i++) {
                int64_t a = start + (interleaved ? 2 * i : i), b = interleaved ? a + 1 : a + half;
                to[a] = (float)((double)from[a] * t[i] - (double)from[b] * t[half + i]);
                to[b] = (float)((double)from[b] * t[i] + (double)from[a] * t[half + i]);
            }
        }
    return MR_OK;
}
