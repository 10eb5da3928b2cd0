/* The attention op: rows -> the range of positions that each sees -> segments of one session ->
 * tasks of at most mr_att_pairs pairs of one KV head.
 *
 * Where tasks are enough for the threads, each runs whole.  Where they are few (a decode step of
 * few KV heads), each becomes a chain of bands of positions, and a wave of bands, as many as there is
 * room for, is shared by all threads: first they make the scores of panels of keys, where whoever ends
 * a band turns its scores into weights; then the sums of panels of columns, band after band.  Neither
 * cut changes a bit. */
#include "backend/cpu/cpu_backend.h"

#include <assert.h>
#include <stdatomic.h>
#include <string.h>

/* Products of a query and a key worth handing to another thread. */
enum { SPLIT_WORK = 100000 };

static size_t up64(size_t n)
{
    return (n + 63) / 64 * 64;
}

size_t mr_att_part_bytes(int n)
{
    return up64(((size_t)n * MR_ATT_ROW + 4 * (size_t)mr_up16(n)) * sizeof(float));
}

size_t mr_att_total_bytes(int n, int dv)
{
    return up64((2 * (size_t)mr_up16(n) + (size_t)n * (size_t)mr_up32(dv)) * sizeof(float));
}

size_t mr_attend_scratch(int dk, int dv)
{
    int pairs = mr_att_pairs(dk, dv);
    size_t floats = ((size_t)pairs + MR_ATT_PANEL) * (size_t)mr_att_width(dk) + MR_ATT_SPARE +
                    MR_ATT_PANEL * MR_ATT_BAND + (size_t)mr_att_sums(dv);
    return MR_ATT_TASK_BYTES + up64(floats * sizeof(float)) + mr_att_part_bytes(pairs) +
           mr_att_total_bytes(pairs, dv);
}

const mr_attention_kernels *mr_attention(mr_isa isa, bool dots)
{
    switch (isa) {
#if defined(__x86_64__)
    case MR_ISA_AVX2:
        return &mr_attention_avx2;
    case MR_ISA_AVX512:
        return &mr_attention_avx512;
    case MR_ISA_AMX:
        return dots ? &mr_attention_amx : &mr_attention_avx512;
#elif defined(__aarch64__)
    case MR_ISA_NEON:
        return &mr_attention_neon;
#endif
    default:
        assert(isa == MR_ISA_C);
        (void)dots;
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
    int64_t first, last; /* the bands; none: nothing is seen */
    int64_t lo, hi;      /* what any pair sees */
    mr_att_total total;
} chain;

/* A band of the wave. */
typedef struct item {
    const chain *c;
    int64_t band;
    int first, panels; /* of keys, of the band's 8 */
    atomic_int left;   /* panels without scores */
    mr_att_part part;
} item;

typedef struct work {
    const mr_cpu_call *c;
    const mr_attention_kernels *kernels;
    mr_view q, y;
    const mr_range *range; /* of each row */
    const segment *seg;
    int64_t n_seg, tasks, keys; /* keys: of all rows */
    int cache, heads, group;
    char *own; /* scratch of thread 0 */
    /* of chains */
    chain *chains;
    item *wave; /* n of them, of chains first_chain .. last_chain; room: at most */
    int64_t n, room, first_chain, last_chain;
    int64_t panels, columns; /* of the wave's keys; of a chain's values, in panels */
    int shares;              /* of the run that is shared out */
} work;

/* ---- scratch: segments, ranges, chains, a wave; the threads'; totals of chains, parts of a wave ---- */

enum {
    MAX_WAVE = 64,
    LARGE_WAVE = 4 /* items per thread, if they are of the largest tasks */
};

static size_t rows_bytes(int64_t rows)
{
    return up64((size_t)rows * (sizeof(segment) + sizeof(mr_range)));
}

static size_t chains_bytes(int threads)
{
    return up64(2 * (size_t)threads * sizeof(chain));
}

static size_t front_bytes(int64_t rows, int threads)
{
    return rows_bytes(rows) + chains_bytes(threads) + up64(MAX_WAVE * sizeof(item));
}

/* Chains are fewer than 2 per thread. */
size_t mr_attention_scratch(int threads, int64_t rows, int group, int dk, int dv)
{
    int64_t pairs = rows * group, most = mr_att_pairs(dk, dv);
    int n = (int)(pairs < most ? pairs : most);
    size_t shared = 2 * mr_att_total_bytes(n, dv) + LARGE_WAVE * mr_att_part_bytes(n);
    return front_bytes(rows, threads) + (size_t)threads * mr_attend_scratch(dk, dv) +
           (threads > 1 ? (size_t)threads * shared : 0);
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
                      .dots = prep->att.dots,
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
    w->kernels->all(&a, own_scratch(w, worker));
}

/* ---- chains ---- */

/* One stretch for each thread: more would break what they read into pieces. */
static int shares_of(const work *w, int64_t units)
{
    return (int)(units < w->c->cpu->threads ? units : w->c->cpu->threads);
}

/* The scores of a share of the wave's panels. */
static void run_scores(void *ctx, int share, int worker)
{
    const work *w = ctx;
    const mr_attention_kernels *k = w->kernels;
    char *own = own_scratch(w, worker);
    int64_t at = w->panels * share / w->shares, end = w->panels * (share + 1) / w->shares;
    /* Values come next, of the columns that the pool will give to the thread (base/pool.h). */
    int likely = (int)(w->columns * worker / w->c->cpu->threads) * MR_ATT_PANEL;
    for (item *i = w->wave; at < end; at -= i->panels, end -= i->panels, i++) {
        if (at >= i->panels)
            continue;
        int first = (int)at, n = (end < i->panels ? (int)end : i->panels) - first;
        k->scores(&i->c->a, i->band, i->first + first, i->first + first + n,
                  end > i->panels ? -1 : likely, &i->part, own);
        if (atomic_fetch_sub(&i->left, n) == n)
            k->weights(&i->c->a, i->band, &i->part, own);
        at += n;
    }
}

/* A share of the columns of all chains that have bands in the wave. */
static void run_sums(void *ctx, int share, int worker)
{
    const work *w = ctx;
    const mr_attention_kernels *k = w->kernels;
    int64_t all = w->columns * (w->last_chain - w->first_chain + 1);
    int64_t at = all * share / w->shares, end = all * (share + 1) / w->shares;
    for (int64_t n; at < end; at += n) {
        const chain *c = &w->chains[w->first_chain + at / w->columns];
        int64_t d = at % w->columns;
        n = end - at < w->columns - d ? end - at : w->columns - d;
        for (item *i = w->wave; i < w->wave + w->n; i++)
            if (i->c == c)
                k->sums(&c->a, i->band, (int)d * MR_ATT_PANEL, (int)(d + n) * MR_ATT_PANEL,
                        &c->total, &i->part, own_scratch(w, worker));
    }
}

/* What the pairs of a chain see. */
static void find_bands(const work *w, chain *c)
{
    c->lo = INT64_MAX;
    c->hi = 0;
    for (int64_t r = c->a.pair0 / w->group; r <= (c->a.pair0 + c->a.n - 1) / w->group; r++) {
        mr_range v = c->a.range[r];
        if (v.lo >= v.hi)
            continue;
        c->lo = v.lo < c->lo ? v.lo : c->lo;
        c->hi = v.hi > c->hi ? v.hi : c->hi;
    }
    if (c->hi == 0)
        c->lo = 0;
    c->first = c->lo / MR_ATT_BAND;
    c->last = (c->hi + MR_ATT_BAND - 1) / MR_ATT_BAND - 1;
}

/* Zeros for the pairs that see nothing: no band will write them. */
static void clear_blind(const chain *c)
{
    const mr_attend *a = &c->a;
    for (int64_t p = a->pair0; p < a->pair0 + a->n; p++) {
        mr_range v = a->range[p / a->group];
        if (v.lo >= v.hi)
            memset(a->y + p / a->group * a->y_row +
                       (a->kv_head * a->group + p % a->group) * a->y_head,
                   0, (size_t)a->dv * sizeof(float));
    }
}

/* Makes the tasks chains, with their totals from `memory` on, and parts up to `end`. */
static void make_chains(work *w, char *memory, const char *end)
{
    int most = 0;
    for (int64_t i = 0; i < w->tasks; i++) {
        chain *c = &w->chains[i];
        describe(w, i, &c->a);
        find_bands(w, c);
        most = c->a.n > most ? c->a.n : most;
    }
    size_t total = mr_att_total_bytes(most, w->c->prep->att.dv), part = mr_att_part_bytes(most);
    for (int64_t i = 0; i < w->tasks; i++, memory += total)
        w->chains[i].total = mr_att_total_at(memory, most);
    w->room = (end - memory) / (int64_t)part;
    w->room = w->room < MAX_WAVE ? w->room : MAX_WAVE;
    for (int64_t i = 0; i < w->room; i++)
        w->wave[i].part = mr_att_part_at(memory + (size_t)i * part, most);
}

/* The next items from band `band` of chain `from` on. */
static void fill_wave(work *w, int64_t from, int64_t band)
{
    w->n = w->panels = 0;
    w->first_chain = from;
    for (int64_t c = from; c < w->tasks && w->n < w->room; c++) {
        const chain *ch = &w->chains[c];
        for (int64_t b = c == from ? band : ch->first; b <= ch->last && w->n < w->room; b++) {
            item *i = &w->wave[w->n++];
            int64_t base = b * MR_ATT_BAND, lo = ch->lo > base ? ch->lo - base : 0;
            int64_t hi = ch->hi - base < MR_ATT_BAND ? ch->hi - base : MR_ATT_BAND;
            i->c = ch;
            i->band = b;
            i->first = (int)(lo / MR_ATT_PANEL);
            i->panels = (int)((hi + MR_ATT_PANEL - 1) / MR_ATT_PANEL) - i->first;
            atomic_store_explicit(&i->left, i->panels, memory_order_relaxed);
            w->panels += i->panels;
            w->last_chain = c;
        }
    }
}

static void run_chains(work *w)
{
    const mr_cpu *cpu = w->c->cpu;
    for (int64_t i = 0; i < w->tasks; i++)
        clear_blind(&w->chains[i]);
    for (int t = 0; t < cpu->threads; t++)
        mr_att_forget(own_scratch(w, t));
    int64_t from = 0, band = w->chains[0].first;
    for (fill_wave(w, from, band); w->n > 0; fill_wave(w, from, band)) {
        w->shares = shares_of(w, w->panels);
        mr_pool_run(cpu->pool, w->shares, run_scores, w);
        for (item *i = w->wave; i < w->wave + w->n; i++)
            w->kernels->join(&i->c->a, i->band, &i->c->total, &i->part, w->own);
        w->shares = shares_of(w, w->columns * (w->last_chain - w->first_chain + 1));
        mr_pool_run(cpu->pool, w->shares, run_sums, w);
        from = w->last_chain;
        band = w->wave[w->n - 1].band + 1;
    }
}

mr_err mr_run_attention(const mr_cpu_call *c)
{
    int threads = c->cpu->threads;
    work w = {.c = c,
              .kernels = mr_attention(c->cpu->base.opts.isa, c->prep->att.dots),
              .q = mr_cpu_in(c, 0),
              .y = mr_cpu_out(c, 0)};
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
        w.wave = (item *)((char *)w.chains + chains_bytes(threads));
        w.columns = mr_up32(c->prep->att.dv) / MR_ATT_PANEL;
        make_chains(&w, own_scratch(&w, threads), c->scratch + c->step->scratch_bytes);
        run_chains(&w);
        return MR_OK;
    }
    mr_pool_run(c->cpu->pool, (int)w.tasks, run_task, &w);
    return MR_OK;
}
