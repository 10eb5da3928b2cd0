/* Tasks of attention: the kernels of attention.h, made of scores, weights and values.  Part of the template of
 * attention_*.c. */

/* ---- tasks ---- */

static void scores(const mr_attend *a, int64_t number, int first, int end, int likely,
                   const mr_att_part *part, void *scratch)
{
    task *t = begin(a, scratch);
    piece w;
    t->part = *part;
    if (meet(t, number, &w))
        some_scores(t, &w, w.base / MR_ATT_PANEL + first, w.base / MR_ATT_PANEL + end, likely);
}

static void weights_of(const mr_attend *a, int64_t number, const mr_att_part *part, void *scratch)
{
    task *t = begin(a, scratch);
    piece w;
    t->part = *part;
    if (meet(t, number, &w))
        band_weights(t, &w);
}

static void join(const mr_attend *a, int64_t number, const mr_att_total *total,
                 const mr_att_part *part, void *scratch)
{
    join_sums(begin(a, scratch), number * MR_ATT_BAND, total, part);
}

static void sums(const mr_attend *a, int64_t number, int d, int end, const mr_att_total *total,
                 const mr_att_part *part, void *scratch)
{
    task *t = begin(a, scratch);
    piece w;
    t->part = *part;
    t->total = *total;
    if (!meet(t, number, &w))
        return;
    bool more = w.t1 * MR_TILE < t->hi[a->n - 1];
    upcoming after = value_panel(a, more ? w.t1 : w.t1 - 1, d);
    after.n = more && a->cache->dv;
    some_values(t, &w, d, end, &after);
}

static void all(const mr_attend *a, void *scratch)
{
    mr_att_forget(scratch);
    task *t = begin(a, scratch);
    int64_t from = INT64_MAX, to = -1;
    for (int p = 0; p < a->n; p++) {
        int64_t f, e;
        mr_att_bands((mr_range){t->lo[p], t->hi[p]}, &f, &e);
        if (f > e) {
            memset(result(a, p), 0, (size_t)a->dv * sizeof(float));
            continue;
        }
        from = f < from ? f : from;
        to = e > to ? e : to;
    }
    for (int64_t number = from; number <= to; number++) {
        piece w;
        if (!meet(t, number, &w))
            continue;
        some_scores(t, &w, w.i0, w.i1, 0);
        band_weights(t, &w);
        join_sums(t, w.base, &t->total, &t->part);
        upcoming after = key_panel(a, number < to ? 2 * w.t1 : w.i1 - 1);
        after.n = number < to;
        some_values(t, &w, 0, mr_up32(a->dv), &after);
    }
}

const mr_attention_kernels LANES_FN(mr_attention) = {all,  scores, weights_of, join,
                                                     sums, keys,   values};
