/* Append and attention over caches that hold every position. */
#include "backend/ref/ref.h"

#include <math.h>
#include <string.h>

/* The cache of row r's session; its position is checked against what is reserved. */
static mr_err row_cache(const mr_ref_step *s, const mr_ref_array *c, int64_t r, int64_t pos,
                        mr_ref_cache **out)
{
    mr_kv *kv = s->run->kv[s->run->slot[r]];
    if (pos < 0 || pos >= kv->len)
        return mr_fail(MR_EUSAGE,
                       "position %lld of row %lld is not in 0..%lld, which the session holds",
                       (long long)pos, (long long)r, (long long)kv->len - 1);
    *out = &kv->cache[c->cache];
    return MR_OK;
}

mr_err mr_ref_APPEND(const mr_ref_step *s)
{
    const mr_ref_array *k = mr_ref_in(s, "k"), *v = mr_ref_in(s, "v"), *pos = mr_ref_in(s, "pos");
    for (int64_t r = 0; r < k->rows; r++) {
        mr_ref_cache *c;
        int64_t p = *mr_ref_ints(pos, r);
        MR_TRY(row_cache(s, mr_ref_in(s, "c"), r, p, &c));
        for (int64_t h = 0; h < c->heads; h++) {
            memcpy(c->k + (p * c->heads + h) * c->dk, mr_ref_row(k, r, h),
                   (size_t)c->dk * sizeof(float));
            if (v->there)
                memcpy(c->v + (p * c->heads + h) * c->dv, mr_ref_row(v, r, h),
                       (size_t)c->dv * sizeof(float));
        }
    }
    return MR_OK;
}

typedef struct mask {
    const char *kind;
    int64_t window, block, span;
} mask;

/* Whether the query at position q, of the image [span[0], span[1]), sees the key at position k. */
static bool sees(const mask *m, int64_t q, const int32_t *span, int64_t k)
{
    bool same = span && k >= span[0] && k < span[1];
    if (!strcmp(m->kind, "full"))
        return true;
    if (!strcmp(m->kind, "canvas"))
        return same || (span && k < span[0] && (!m->window || k > span[0] - m->window));
    if (!strcmp(m->kind, "block"))
        return k / m->block <= q / m->block;
    if (m->span == 2 && same)
        return true;
    if (!strcmp(m->kind, "window") && k <= q - m->window)
        return false;
    return k <= q || same;
}

typedef struct head {
    const mr_ref_cache *c;
    int64_t kv_head, len, dv;
    double scale, cap;
} head;

static double score(const head *h, const float *q, int64_t pos)
{
    const float *k = h->c->k + (pos * h->c->heads + h->kv_head) * h->c->dk;
    double sum = 0;
    for (int64_t i = 0; i < h->c->dk; i++)
        sum += (double)q[i] * k[i];
    sum *= h->scale;
    return h->cap > 0 ? h->cap * tanh(sum / h->cap) : sum;
}

/* Two walks: the largest score, then the weighted sum.  A query that sees nothing gives zeros. */
static void attend(const head *h, const mask *m, int64_t q_pos, const int32_t *span, const float *q,
                   double *sum, float *y)
{
    double most = -INFINITY, weights = 0;
    const float *values = h->c->dv ? h->c->v : h->c->k;
    int64_t width = h->c->dv ? h->c->dv : h->c->dk;
    for (int64_t j = 0; j < h->len; j++)
        if (sees(m, q_pos, span, j))
            most = fmax(most, score(h, q, j));
    memset(sum, 0, (size_t)h->dv * sizeof *sum);
    for (int64_t j = 0; j < h->len; j++) {
        if (!sees(m, q_pos, span, j))
            continue;
        double e = exp(score(h, q, j) - most);
        const float *v = values + (j * h->c->heads + h->kv_head) * width;
        weights += e;
        for (int64_t i = 0; i < h->dv; i++)
            sum[i] += e * v[i];
    }
    for (int64_t i = 0; i < h->dv; i++)
        y[i] = weights > 0 || isnan(weights) ? (float)(sum[i] / weights) : 0;
}

mr_err mr_ref_ATTENTION(const mr_ref_step *s)
{
    const mr_ref_array *q = mr_ref_in(s, "q"), *pos = mr_ref_in(s, "pos"), *y = &s->out[0],
                       *spans = mr_ref_in(s, "span"), *rows = mr_ref_in(s, "rows");
    mask m = {mr_attr_s(s->node, "mask"), mr_attr_i(s->node, "window"), mr_attr_i(s->node, "block"),
              mr_attr_i(s->node, "span")};
    double *sum = mr_alloc(MR_MEM_ARENA, (size_t)y->width * sizeof *sum);
    mr_err err = sum ? MR_OK : MR_ENOMEM;
    for (int64_t r = 0; err == MR_OK && r < y->rows; r++) {
        mr_ref_cache *c;
        int64_t row = rows->there ? *mr_ref_ints(rows, r) : r;
        if (row < 0 || row >= pos->rows) {
            err = mr_fail(MR_EUSAGE, "row %lld is not in 0..%lld", (long long)row,
                          (long long)pos->rows - 1);
            break;
        }
        int64_t p = *mr_ref_ints(pos, row);
        const int32_t *span = spans->there && spans->i ? mr_ref_ints(spans, row) : NULL;
        err = row_cache(s, mr_ref_in(s, "c"), row, p, &c);
        for (int64_t j = 0; err == MR_OK && j < y->heads; j++) {
            head h = {.c = c,
                      .kv_head = j / (y->heads / c->heads),
                      .len = s->run->kv_len[s->run->slot[row]],
                      .dv = y->width,
                      .scale = mr_attr_f(s->node, "scale"),
                      .cap = mr_attr_f(s->node, "softcap")};
            attend(&h, &m, p, span, mr_ref_row(q, r, j), sum, mr_ref_row(y, r, j));
        }
    }
    mr_free(sum);
    return err;
}
