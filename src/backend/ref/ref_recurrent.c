/* Recurrent layers: the causal convolution, the decay and the gated delta rule, row by row. */
#include "backend/ref/ref.h"

#include <math.h>
#include <string.h>

/* The state that row r moves on: [heads][dk][dv].  At a session's first row of the run it begins as
 * zeros (position 0), as the open state, or as a copy of the committed one. */
static float *row_state(const mr_ref_step *s, int64_t r)
{
    mr_kv *kv = s->run->kv[s->run->slot[r]];
    mr_ref_cache *c = &kv->cache[mr_ref_in(s, "c")->cache];
    float *open = c->state[!kv->committed];
    size_t bytes = (size_t)c->heads * (size_t)c->dk * (size_t)c->dv * sizeof *open;
    if (r && s->run->slot[r] == s->run->slot[r - 1])
        return open;
    if (s->run->pos[r] == 0)
        memset(open, 0, bytes);
    else if (!kv->open)
        memcpy(open, c->state[kv->committed], bytes);
    return open;
}

/* The state is the last K-1 rows, oldest first. */
mr_err mr_ref_CONV1D(const mr_ref_step *s)
{
    const mr_ref_array *x = mr_ref_in(s, "x"), *y = &s->out[0];
    const mr_weight *w = mr_ref_in(s, "w")->w;
    int64_t n = x->width, past = w->k - 1;
    for (int64_t r = 0; r < x->rows; r++) {
        float *last = row_state(s, r);
        const float *now = mr_ref_row(x, r, 0);
        for (int64_t i = 0; i < n; i++) {
            double sum = 0;
            for (int64_t j = 0; j < past; j++)
                sum += (double)w->data[i * w->k + j] * last[j * n + i];
            mr_ref_row(y, r, 0)[i] = (float)(sum + (double)w->data[i * w->k + past] * now[i]);
        }
        if (!past)
            continue;
        memmove(last, last + n, (size_t)((past - 1) * n) * sizeof *last);
        memcpy(last + (past - 1) * n, now, (size_t)n * sizeof *last);
    }
    return MR_OK;
}

mr_err mr_ref_DECAY(const mr_ref_step *s)
{
    const mr_ref_array *x = mr_ref_in(s, "x"), *y = &s->out[0];
    const float *w = mr_ref_in(s, "w")->w->data, *b = mr_ref_in(s, "b")->w->data;
    for (int64_t r = 0; r < x->rows; r++)
        for (int64_t i = 0; i < x->width; i++) {
            double z = mr_ref_row(x, r, 0)[i] + b[i];
            mr_ref_row(y, r, 0)[i] = (float)exp(w[i] * (fmax(z, 0) + log1p(exp(-fabs(z)))));
        }
    return MR_OK;
}

/* One row of one head; state [dk][dv]. */
static void delta_row(float *state, const float *q, const float *k, const float *v, double decay,
                      double beta, int64_t dk, int64_t dv, float *y)
{
    for (int64_t j = 0; j < dv; j++) {
        double seen = 0, out = 0;
        for (int64_t i = 0; i < dk; i++)
            seen += decay * state[i * dv + j] * k[i];
        double u = beta * (v[j] - seen);
        for (int64_t i = 0; i < dk; i++) {
            state[i * dv + j] = (float)(decay * state[i * dv + j] + k[i] * u);
            out += (double)state[i * dv + j] * q[i];
        }
        y[j] = (float)out;
    }
}

mr_err mr_ref_DELTA_RULE(const mr_ref_step *s)
{
    const mr_ref_array *q = mr_ref_in(s, "q"), *k = mr_ref_in(s, "k"), *v = mr_ref_in(s, "v");
    const mr_ref_array *decay = mr_ref_in(s, "decay"), *beta = mr_ref_in(s, "beta");
    const mr_ref_array *y = &s->out[0];
    int64_t dk = q->width, dv = v->width, group = v->heads / q->heads;
    for (int64_t r = 0; r < v->rows; r++) {
        float *state = row_state(s, r);
        for (int64_t h = 0; h < v->heads; h++)
            delta_row(state + h * dk * dv, mr_ref_row(q, r, h / group), mr_ref_row(k, r, h / group),
                      mr_ref_row(v, r, h), mr_ref_row(decay, r, 0)[h], mr_ref_row(beta, r, 0)[h],
                      dk, dv, mr_ref_row(y, r, h));
    }
    return MR_OK;
}

mr_err mr_ref_L2NORM(const mr_ref_step *s)
{
    const mr_ref_array *x = &s->in[0], *y = &s->out[0];
    double eps = mr_attr_f(s->node, "eps"), scale = mr_attr_f(s->node, "scale");
    for (int64_t r = 0; r < x->rows; r++)
        for (int64_t h = 0; h < x->heads; h++) {
            const float *from = mr_ref_row(x, r, h);
            double sum = eps;
            for (int64_t i = 0; i < x->width; i++)
                sum += (double)from[i] * from[i];
            for (int64_t i = 0; i < x->width; i++)
                mr_ref_row(y, r, h)[i] = (float)(from[i] / sqrt(sum) * scale);
        }
    return MR_OK;
}
