/* The attention op: rows -> the range of positions that each sees -> segments of one session ->
 * tasks of at most mr_att_pairs pairs of one KV head.
 *
 * Where tasks are enough for the threads, each runs whole.  Where they are few (a decode step of
 * few KV heads), each becomes a chain of bands of positions that any thread may take, a wave of them
 * at a time, as far as there is room for their parts; the parts are then merged in ascending order.
 * Neither cut changes a bit. */
#include "backend/cpu/cpu_backend.h"

#include <assert.h>

/* Products of a query and a key worth handing to another thread. */
enum { SPLIT_WORK = 100000 };

static size_t up64(size_t n)
{
    return (n + 63) / 64 * 64;
}

size_t mr_att_part_bytes(int n, int dv)
{
    size_t n16 = ((size_t)n + 15) / 16 * 16;
    return up64((2 * n16 + (size_t)n * (size_t)mr_up32(dv)) * sizeof(float));
}

size_t mr_attend_scratch(int dk, int dv)
{
    size_t pairs = (size_t)mr_att_pairs(dk, dv), n16 = (pairs + 15) / 16 * 16;
    size_t floats = (pairs + 32) * ((size_t)dk + MR_ATT_BAND) + 16 * (size_t)mr_up32(dv) + 4 * n16;
    floats += 16 * 16; /* behind the queries */
    return up64(MR_ATT_TASK_BYTES + floats * sizeof(float) + mr_att_part_bytes((int)pairs, dv));
}

const mr_attention_kernels *mr_attention(mr_isa isa)
{
    switch (isa) {
#if defined(__x86_64__)
    case MR_ISA_AVX2:
        return &mr_attention_avx2;
    case MR_ISA_AVX512:
        return &mr_attention_avx512;
#elif defined(__aarch64__)
    case MR_ISA_NEON:
        return &mr_attention_neon;
#endif
    default:
        assert(isa == MR_ISA_C);
        return &mr_attention_c;
    }
}

/* Consecutive rows of one session whose ranges do not fall. */
typedef struct segment {
    int64_t row, rows;
    int64_t task0;  /* its first task */
    int32_t blocks; /* tasks per KV head */
    int32_t slot;
} segment;

/* A task cut into bands. */
typedef struct chain {
    mr_attend a;
    int64_t item0, first, last; /* the bands, as items item0 .. */
    mr_att_part total;
} chain;

typedef struct work {
    const mr_cpu_call *c;
    mr_view q, y;
    const mr_range *range; /* of each row */
    const segment *seg;
    int64_t n_seg, tasks, keys; /* keys: of all rows */
    int cache, heads, group;
    char *own; /* scratch of thread 0 */
    /* of chains */
    chain *chains;
    int64_t items, done, wave; /* the wave is items done .. done + wave - 1 */
    char *parts;               /* of the wave, part_bytes each */
    size_t part_bytes;
    int most; /* pairs of a task */
} work;

/* ---- scratch: segments, ranges, chains; the threads'; totals and parts of chains ---- */

enum { PARTS = 4 }; /* per thread, of the largest tasks */

static size_t rows_bytes(int64_t rows)
{
    return up64((size_t)rows * (sizeof(segment) + sizeof(mr_range)));
}

static size_t front_bytes(int64_t rows, int threads)
{
    return rows_bytes(rows) + up64(2 * (size_t)threads * sizeof(chain));
}

/* The part of the largest task of a plan; chains are fewer than 2 per thread. */
static size_t largest_part(int64_t rows, int group, int dk, int dv)
{
    int64_t pairs = rows * group, most = mr_att_pairs(dk, dv);
    return mr_att_part_bytes((int)(pairs < most ? pairs : most), dv);
}

size_t mr_attention_scratch(int threads, int64_t rows, int group, int dk, int dv)
{
    size_t parts =
        threads > 1 ? (2 + PARTS) * (size_t)threads * largest_part(rows, group, dk, dv) : 0;
    return front_bytes(rows, threads) + (size_t)threads * mr_attend_scratch(dk, dv) + parts;
}

/* ---- ranges and segments ---- */

/* What a mask lets the row at `pos` see of the kv_len positions that are there; image: the
 * positions of the image it belongs to, or NULL. */
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

/* Finds each row's range, the segments and the number of tasks. */
static void cut(work *w, segment *seg, mr_range *range)
{
    enum { POS = 2, SPAN, ROWS };
    int64_t most = mr_att_pairs(w->q.dim, w->c->prep->att.dv);
    const mr_cpu_call *c = w->c;
    const int32_t *pos = mr_cpu_ints(c, POS), *rows = NULL, *span = NULL;
    if (mr_cpu_given(c, SPAN))
        span = mr_cpu_ints(c, SPAN);
    if (c->step->in[ROWS].where != MR_AT_NONE)
        rows = mr_cpu_ints(c, ROWS);
    for (int64_t r = 0, e; r < w->q.rows; r = e) {
        int32_t slot = c->run->slot[rows ? rows[r] : r];
        for (e = r; e < w->q.rows; e++) {
            int64_t row = rows ? rows[e] : e;
            if (c->run->slot[row] != slot)
                break;
            range[e] =
                visible(c->prep, pos[row], span ? span + 2 * row : NULL, c->run->kv_len[slot]);
            if (e > r && (range[e].lo < range[e - 1].lo || range[e].hi < range[e - 1].hi))
                break; /* wanted rows may come in any order */
            w->keys += range[e].lo < range[e].hi ? range[e].hi - range[e].lo : 0;
        }
        int64_t pairs = (e - r) * w->group, blocks = (pairs + most - 1) / most;
        seg[w->n_seg++] = (segment){r, e - r, w->tasks, (int32_t)blocks, slot};
        w->tasks += blocks * w->heads;
    }
}

/* ---- tasks ---- */

static void describe(const work *w, int64_t task, mr_attend *at)
{
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
    int64_t pairs = s->rows * w->group, units = (pairs + MR_ATT_UNIT - 1) / MR_ATT_UNIT;
    int64_t first = units * block / s->blocks * MR_ATT_UNIT;
    int64_t last = units * (block + 1) / s->blocks * MR_ATT_UNIT;
    last = last < pairs ? last : pairs;
    const mr_kv *kv = w->c->run->kv[s->slot];
    *at = (mr_attend){.cache = &kv->cache[w->cache],
                      .bf16 = kv->bf16,
                      .kv_head = (int)head,
                      .group = w->group,
                      .dk = (int)w->q.dim,
                      .dv = prep->att.dv,
                      .scale = prep->att.scale,
                      .softcap = prep->att.softcap,
                      .pair0 = first,
                      .n = (int)(last - first),
                      .range = w->range + s->row,
                      .q = w->q.p + s->row * w->q.row,
                      .q_row = w->q.row,
                      .q_head = w->q.head,
                      .y = w->y.p + s->row * w->y.row,
                      .y_row = w->y.row,
                      .y_head = w->y.head};
}

static char *own_scratch(const work *w, int worker)
{
    return w->own + (size_t)worker * mr_attend_scratch((int)w->q.dim, w->c->prep->att.dv);
}

/* Tasks as they are dealt to the threads, which take theirs in order (base/pool.h): as long ones come
 * first, there and back, so that all have about as much to do and end with short ones. */
static int64_t dealt(int64_t task, int64_t n, int64_t threads)
{
    int64_t w = ((task + 1) * threads - 1) / n, first = n * w / threads, each = n / threads;
    int64_t turn = task - first;
    if (turn < each)
        return turn * threads + (turn % 2 ? threads - 1 - w : w);
    return each * threads + first - w * each; /* of the threads that have one more */
}

static void run_task(void *ctx, int task, int worker)
{
    const work *w = ctx;
    mr_attend a;
    describe(w, dealt(task, w->tasks, w->c->cpu->threads), &a);
    w->c->cpu->attention->all(&a, own_scratch(w, worker));
}

/* ---- chains ---- */

/* The chain of an item; there are few. */
static const chain *chain_of(const work *w, int64_t item)
{
    const chain *c = w->chains;
    while (item > c->item0 + c->last - c->first)
        c++;
    return c;
}

static mr_att_part part_of(const work *w, int64_t item)
{
    return mr_att_part_at(w->parts + (size_t)(item - w->done) * w->part_bytes, w->most);
}

static void run_item(void *ctx, int task, int worker)
{
    const work *w = ctx;
    int64_t item = w->done + task;
    const chain *c = chain_of(w, item);
    mr_att_part part = part_of(w, item);
    w->c->cpu->attention->band(&c->a, c->first + item - c->item0, &part, own_scratch(w, worker));
}

/* The wave's bands of chain `task`, and the end of it if that is reached. */
static void run_merge(void *ctx, int task, int worker)
{
    (void)worker;
    const work *w = ctx;
    const mr_attention_kernels *k = w->c->cpu->attention;
    const chain *c = &w->chains[task];
    int64_t end = c->item0 + c->last - c->first + 1, stop = w->done + w->wave;
    for (int64_t i = c->item0 > w->done ? c->item0 : w->done; i < end && i < stop; i++) {
        mr_att_part part = part_of(w, i);
        k->merge(&c->a, c->first + i - c->item0, &c->total, &part);
    }
    if (end > c->item0 && end > w->done && end <= stop)
        k->finish(&c->a, &c->total);
}

/* Makes the tasks chains, with their totals from `memory` on. */
static void make_chains(work *w, char *memory)
{
    for (int64_t i = 0; i < w->tasks; i++) {
        chain *c = &w->chains[i];
        describe(w, i, &c->a);
        w->most = c->a.n > w->most ? c->a.n : w->most;
        c->item0 = w->items;
        c->first = INT64_MAX;
        c->last = -1;
        for (int64_t r = c->a.pair0 / w->group; r <= (c->a.pair0 + c->a.n - 1) / w->group; r++) {
            int64_t f, e;
            mr_att_bands(c->a.range[r], &f, &e);
            c->first = f <= e && f < c->first ? f : c->first;
            c->last = f <= e && e > c->last ? e : c->last;
        }
        if (c->last < 0)
            c->first = 0; /* no item: nothing is seen */
        w->items += c->last - c->first + 1;
    }
    w->part_bytes = mr_att_part_bytes(w->most, w->c->prep->att.dv);
    for (int64_t i = 0; i < w->tasks; i++) {
        chain *c = &w->chains[i];
        c->total = mr_att_part_at(memory + (size_t)i * w->part_bytes, w->most);
        for (int p = 0; p < c->a.n; p++)
            c->total.l[p] = 0;
    }
    w->parts = memory + (size_t)w->tasks * w->part_bytes;
}

static void run_chains(work *w, const char *end)
{
    mr_pool *pool = w->c->cpu->pool;
    int64_t room = (end - w->parts) / (int64_t)w->part_bytes;
    for (int64_t i = 0; i < w->tasks; i++)
        if (w->chains[i].last < 0)
            w->c->cpu->attention->finish(&w->chains[i].a, &w->chains[i].total);
    for (w->done = 0; w->done < w->items; w->done += w->wave) {
        w->wave = w->items - w->done < room ? w->items - w->done : room;
        mr_pool_run(pool, (int)w->wave, run_item, w);
        mr_pool_run(pool, (int)w->tasks, run_merge, w);
    }
}

mr_err mr_run_attention(const mr_cpu_call *c)
{
    int threads = c->cpu->threads;
    work w = {.c = c, .q = mr_cpu_in(c, 0), .y = mr_cpu_out(c, 0)};
    w.cache = c->step->in[1].index;
    w.heads = c->plan->caches[w.cache].heads;
    w.group = (int)(w.q.heads / w.heads);
    segment *seg = (segment *)c->scratch;
    mr_range *range = (mr_range *)(seg + w.q.rows);
    w.seg = seg;
    w.range = range;
    w.own = c->scratch + front_bytes(w.q.rows, threads);
    cut(&w, seg, range);
    if (w.tasks > INT32_MAX)
        return mr_fail(MR_ELIMIT, "attention: %lld rows are too many", (long long)w.q.rows);
    if (threads == 1 || w.keys * w.q.heads * (w.q.dim + c->prep->att.dv) < SPLIT_WORK) {
        for (int i = 0; i < w.tasks; i++)
            run_task(&w, i, 0);
        return MR_OK;
    }
    if (w.tasks < 2 * threads) {
        w.chains = (chain *)(c->scratch + rows_bytes(w.q.rows));
        make_chains(&w, own_scratch(&w, threads));
        if (w.items > w.tasks) {
            run_chains(&w, c->scratch + c->step->scratch_bytes);
            return MR_OK;
        }
    }
    mr_pool_run(c->cpu->pool, (int)w.tasks, run_task, &w);
    return MR_OK;
}
