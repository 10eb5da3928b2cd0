/* The attention op: rows -> the range of positions that each sees -> segments of one session ->
 * tasks of at most MR_ATT_PAIRS pairs of one KV head.  Every KV tile is read once per task; how
 * pairs are cut into tasks changes no bit. */
#include "backend/cpu/cpu_backend.h"

#include <assert.h>

size_t mr_attend_scratch(int dk, int dv)
{
    size_t tiles = ((size_t)dk + ((size_t)dv + 15) / 16 * 16) * MR_TILE * sizeof(float);
    return (MR_ATT_STATE + tiles + 63) / 64 * 64;
}

mr_attend_fn mr_attend_kernel(mr_isa isa)
{
    switch (isa) {
#if defined(__x86_64__)
    case MR_ISA_AVX2:
        return mr_attend_avx2;
    case MR_ISA_AVX512:
        return mr_attend_avx512;
#elif defined(__aarch64__)
    case MR_ISA_NEON:
        return mr_attend_neon;
#endif
    default:
        assert(isa == MR_ISA_C);
        return mr_attend_c;
    }
}

/* Consecutive rows of one session. */
typedef struct segment {
    int64_t row, rows;
    int64_t task0;  /* its first task */
    int32_t blocks; /* tasks per KV head */
    int32_t slot;
} segment;

typedef struct work {
    const mr_cpu_call *c;
    mr_view q, y;
    const mr_range *range; /* of each row */
    const segment *seg;
    int64_t n_seg;
    int cache, heads, group;
    char *own; /* scratch of thread 0 */
} work;

/* The segments, then the ranges. */
size_t mr_attention_rows(int64_t rows)
{
    return ((size_t)rows * (sizeof(segment) + sizeof(mr_range)) + 63) / 64 * 64;
}

/* What a mask lets the row at `pos` see of the kv_len positions that are there; image: the positions
 * of the image it belongs to, or NULL. */
static mr_range visible(const mr_cpu_step *p, int64_t pos, const int32_t *image, int64_t kv_len)
{
    int64_t lo = 0, hi = kv_len, width = p->att.width;
    if (p->att.mask == MR_MASK_CAUSAL || p->att.mask == MR_MASK_WINDOW)
        hi = pos + 1;
    if (p->att.mask == MR_MASK_BLOCK)
        hi = (pos / width + 1) * width;
    if (p->att.mask == MR_MASK_WINDOW && pos + 1 > width)
        lo = pos + 1 - width;
    if (p->att.mask == MR_MASK_CANVAS) { /* a run without spans sees nothing */
        hi = image ? image[1] : 0;
        lo = image && width && image[0] + 1 > width ? image[0] + 1 - width : 0;
        return (mr_range){(int32_t)lo, (int32_t)(hi < kv_len ? hi : kv_len)};
    }
    if (image && image[1] > hi)
        hi = image[1];
    if (image && image[1] > image[0] && image[0] < lo && p->att.image == 2)
        lo = image[0];
    return (mr_range){(int32_t)lo, (int32_t)(hi < kv_len ? hi : kv_len)};
}

/* Tasks per KV head: enough for every thread, few enough that tiles are not read too often. */
static int64_t blocks_for(const work *w, int64_t pairs)
{
    int threads = w->c->cpu->threads;
    int64_t least = (pairs + MR_ATT_PAIRS - 1) / MR_ATT_PAIRS;
    int64_t wish = threads > 1 ? (2 * threads + w->heads - 1) / w->heads : 1;
    int64_t most = (pairs + 1) / 2;
    wish = wish < most ? wish : most;
    return wish > least ? wish : least;
}

static void run_task(void *ctx, int task, int worker)
{
    const work *w = ctx;
    const mr_run *run = w->c->run;
    const mr_cpu_step *prep = w->c->prep;
    int64_t a = 0, b = w->n_seg; /* the last segment with task0 <= task */
    while (b - a > 1) {
        int64_t mid = (a + b) / 2;
        if (w->seg[mid].task0 <= task)
            a = mid;
        else
            b = mid;
    }
    const segment *s = &w->seg[a];
    /* Later rows see more keys: the long tasks of a segment come first. */
    int64_t i = task - s->task0, head = i % w->heads, block = s->blocks - 1 - i / w->heads;
    int64_t pairs = s->rows * w->group;
    int64_t first = pairs * block / s->blocks, last = pairs * (block + 1) / s->blocks;
    const mr_kv *kv = run->kv[s->slot];
    mr_attend at = {.cache = &kv->cache[w->cache],
                    .bf16 = kv->bf16,
                    .kv_head = (int)head,
                    .group = w->group,
                    .dk = (int)w->q.dim,
                    .dv = prep->att.dv,
                    .scale = prep->att.scale,
                    .softcap = prep->att.softcap,
                    .range = w->range + s->row,
                    .q = w->q.p + s->row * w->q.row,
                    .q_row = w->q.row,
                    .q_head = w->q.head,
                    .y = w->y.p + s->row * w->y.row,
                    .y_row = w->y.row,
                    .y_head = w->y.head};
    w->c->cpu->attend(&at, first, (int)(last - first),
                      w->own + (size_t)worker * prep->att.per_thread);
}

/* Finds each row's range and the segments; gives the number of tasks. */
static int64_t cut(work *w, segment *seg, mr_range *range)
{
    enum { POS = 2, SPAN, ROWS };
    const mr_cpu_call *c = w->c;
    const int32_t *pos = mr_cpu_ints(c, POS), *rows = NULL, *span = NULL;
    if (mr_cpu_given(c, SPAN))
        span = mr_cpu_ints(c, SPAN);
    if (c->step->in[ROWS].where != MR_AT_NONE)
        rows = mr_cpu_ints(c, ROWS);
    int64_t tasks = 0;
    for (int64_t r = 0, e; r < w->q.rows; r = e) {
        int32_t slot = c->run->slot[rows ? rows[r] : r];
        for (e = r; e < w->q.rows; e++) {
            int64_t row = rows ? rows[e] : e;
            if (c->run->slot[row] != slot)
                break;
            range[e] =
                visible(c->prep, pos[row], span ? span + 2 * row : NULL, c->run->kv_len[slot]);
        }
        int64_t blocks = blocks_for(w, (e - r) * w->group);
        seg[w->n_seg++] = (segment){r, e - r, tasks, (int32_t)blocks, slot};
        tasks += blocks * w->heads;
    }
    return tasks;
}

mr_err mr_run_attention(const mr_cpu_call *c)
{
    work w = {.c = c, .q = mr_cpu_in(c, 0), .y = mr_cpu_out(c, 0)};
    w.cache = c->step->in[1].index;
    w.heads = c->plan->caches[w.cache].heads;
    w.group = (int)(w.q.heads / w.heads);
    w.own = c->scratch + mr_attention_rows(w.q.rows);
    segment *seg = (segment *)c->scratch;
    mr_range *range = (mr_range *)(seg + w.q.rows);
    int64_t tasks = cut(&w, seg, range);
    if (tasks > INT32_MAX)
        return mr_fail(MR_ELIMIT, "attention: %lld rows are too many", (long long)w.q.rows);
    if (!tasks)
        return MR_OK;
    w.seg = seg;
    w.range = range;
    mr_pool_run(c->cpu->pool, (int)tasks, run_task, &w);
    return MR_OK;
}
