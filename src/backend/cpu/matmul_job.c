/* Running a set of products: which columns, in which tasks, by which of the two kernel shapes.
 *
 * Few rows read the packed form directly.  More rows first turn a block of k of one column into a
 * panel that stays in the L2 cache (bytes for int8 products of 4-bit weights, f32 for float
 * products) and run register tiles over it.  Both continue the same chain per output, so the bits
 * do not depend on which was taken.
 */
#include "backend/cpu/matmul_job.h"

#include <assert.h>
#include <string.h>

#include "backend/cpu/vec.h"

enum {
    FEW_ROWS = 4,     /* so many need no memory of the worker */
    BLOCK_ROWS = 258, /* rows that meet one panel; they and their sums stay in the L2 cache */
    TILE_ROWS = 6,    /* of the largest tiles */
    PANEL_K = 512,    /* of an f32 panel; a multiple of every k_unit */
    PANEL_BYTES = 160 * 1024, /* 64 outputs: 512 k of f32, or 2048 k of bytes and their scales */
    TASKS_PER_THREAD = 4,     /* at least, and with many rows, where a column takes long: */
    LONG_TASKS_PER_THREAD = 16,
    STREAMS = 2 /* columns that one row of a plain product reads side by side */
};

const mr_mm_kernels *mr_mm_kernels_for(mr_isa isa)
{
    switch (isa) {
#if defined(__x86_64__)
    case MR_ISA_AVX2:
        return &mr_mm_kernels_avx2;
    case MR_ISA_AVX512:
        return &mr_mm_kernels_avx512;
#endif
#if defined(__aarch64__)
    case MR_ISA_NEON:
        return &mr_mm_kernels_neon;
#endif
    default:
        assert(isa == MR_ISA_C);
        return &mr_mm_kernels_c;
    }
}

/* An odd number of cache lines: rows of a tile then lie in different sets. */
static size_t odd_lines(size_t bytes)
{
    return ((bytes + 63) / 64 | 1) * 64;
}

mr_qform mr_qform_of(const mr_mm_kernels *kernels, const mr_layout *l, int64_t k)
{
    mr_qform f = {.k = k, .group = l->act_group, .start_by = -l->zero};
    mr_layout bytes = mr_layout_bytes(l);
    if (bytes.kind == MR_PACK_U8) {
        f.start_by += kernels->u8_offset;
        f.wide = kernels->wide_u8;
    }
    f.halves = bytes.kind == MR_PACK_SUBS;
    if (f.halves && l->bias)
        f.start_by = 1;
    f.less = !l->bias && !f.halves;
    f.step = sizeof(mr_qgroup) + (size_t)f.group * (f.wide ? 2 : 1) + sizeof(int32_t);
    f.stride = odd_lines(MR_QROW_HEADER + (size_t)(k / f.group) * f.step);
    return f;
}

bool mr_job_bf16(const mr_mm *mm, const mr_layout *l)
{
    return mm->bf16_dots && mm->precision == MR_NATIVE && !mm->act_f32 && l->kind == MR_PACK_BF16 &&
           mr_mm_kernels_for(mm->isa)->tile_bf16;
}

int mr_job_parts(const mr_mm *mm, const mr_layout *l)
{
    if (!mr_layout_quantised(l) || mm->precision == MR_EXACT)
        return 0;
    return mm->act_f32 ? MR_ACT_PARTS : 1;
}

static size_t round_line(size_t bytes)
{
    return (bytes + 63) & ~(size_t)63;
}

/* Sums of both factors, then the panel. */
static size_t worker_bytes(int64_t rows)
{
    int64_t block = rows < BLOCK_ROWS ? rows : BLOCK_ROWS;
    if (rows <= FEW_ROWS)
        return 0;
    return 2 * (size_t)block * MR_TILE_OUT * sizeof(float) + PANEL_BYTES;
}

static size_t bf16_stride(int64_t k)
{
    return odd_lines((size_t)(k + k % 2) * sizeof(uint16_t));
}

/* Of a worker, for what a part left over. */
static size_t rest_bytes(int64_t k)
{
    return round_line((size_t)k * sizeof(float));
}

size_t mr_job_scratch(const mr_mm *mm, const mr_layout *l, int64_t vectors, int64_t rows, int64_t k)
{
    const size_t threads = (size_t)mr_pool_threads(mm->pool);
    const int parts = mr_job_parts(mm, l);
    size_t bytes = worker_bytes(parts > 1 ? rows * parts : rows) * threads;
    if (parts > 0)
        bytes += mr_qform_of(mr_mm_kernels_for(mm->isa), l, k).stride * (size_t)(vectors * parts);
    else if (mr_job_bf16(mm, l))
        bytes += bf16_stride(k) * (size_t)vectors;
    if (parts > 1)
        bytes += rest_bytes(k) * threads;
    return bytes;
}

bool mr_job_same_form(const mr_mm *mm, const mr_matrix *a, const mr_matrix *b)
{
    const mr_mm_kernels *kernels = mr_mm_kernels_for(mm->isa);
    int parts = mr_job_parts(mm, &a->layout);
    if (parts != mr_job_parts(mm, &b->layout) || a->k != b->k || a->n != b->n ||
        mr_job_bf16(mm, &a->layout) != mr_job_bf16(mm, &b->layout))
        return false;
    if (parts == 0)
        return true;
    mr_qform fa = mr_qform_of(kernels, &a->layout, a->k),
             fb = mr_qform_of(kernels, &b->layout, b->k);
    return fa.group == fb.group && fa.start_by == fb.start_by && fa.halves == fb.halves &&
           fa.less == fb.less && fa.wide == fb.wide;
}

/* ---- activations -------------------------------------------------------------------------- */

typedef struct prepare_task {
    const mr_job *job;
    uint8_t *to, *rests;   /* a rest per worker */
    int64_t vectors, each; /* vectors per task */
} prepare_task;

static int64_t job_vectors(const mr_job *job)
{
    return job->x_choice ? job->rows * job->choices : job->rows;
}

static void quantise_parts(const mr_job *job, const float *x, float *rest, uint8_t *to)
{
    const mr_qform *form = &job->form;
    mr_qform even = *form;
    even.even = true;
    job->kernels->quantise(x, form, to);
    for (int part = 1; part < job->parts; part++, to += job->stride) {
        job->kernels->residue(part == 1 ? x : rest, form, to, rest);
        job->kernels->quantise(rest, &even, to + job->stride);
    }
}

static void round_to_bf16(const mr_job *job, const float *x, uint16_t *to)
{
    const int64_t k = job->w[0]->k;
    mr_vec(job->mm->isa)->to_bf16(to, x, k);
    if (k % 2)
        to[k] = 0;
}

static void prepare_some(void *ctx, int task, int worker)
{
    const prepare_task *t = ctx;
    const mr_job *job = t->job;
    for (int64_t i = task * t->each; i < (task + 1) * t->each && i < t->vectors; i++) {
        int64_t r = job->x_choice ? i / job->choices : i, j = job->x_choice ? i % job->choices : 0;
        const float *x = job->x + r * job->x_row + j * job->x_choice;
        uint8_t *to = t->to + (size_t)(i * job->parts) * job->stride;
        if (job->form.k)
            quantise_parts(
                job, x, (float *)(void *)(t->rests + (size_t)worker * rest_bytes(job->form.k)), to);
        else
            round_to_bf16(job, x, (uint16_t *)(void *)to);
    }
}

void mr_job_prepare(mr_job *job)
{
    const mr_mm *mm = job->mm;
    uint8_t *at = job->scratch;
    const mr_layout *l = &job->w[0]->layout;
    const int64_t k = job->w[0]->k, threads = mr_pool_threads(mm->pool);
    const int parts = mr_job_parts(mm, l);
    job->kernels = mr_mm_kernels_for(mm->isa);
    job->form = parts ? mr_qform_of(job->kernels, l, k) : (mr_qform){0};
    job->parts = parts ? parts : 1;
    job->memory_bytes = worker_bytes(job->together * job->parts);
    job->prepared = NULL;
    if (parts || mr_job_bf16(mm, l)) {
        int64_t vectors = job_vectors(job);
        prepare_task t = {job, at, NULL, vectors, (vectors + threads * 2 - 1) / (threads * 2)};
        job->stride = parts ? job->form.stride : bf16_stride(k);
        job->prepared = at;
        at += job->stride * (size_t)(vectors * job->parts);
        t.rests = at;
        if (job->parts > 1)
            at += rest_bytes(k) * (size_t)threads;
        if (vectors > 1)
            mr_pool_run(mm->pool, (int)((vectors + t.each - 1) / t.each), prepare_some, &t);
        else if (vectors == 1)
            prepare_some(&t, 0, 0);
    }
    job->memory = at;
}

/* ---- one column, one block of rows -------------------------------------------------------- */

typedef struct block {
    const mr_job *job;
    int rows, vectors; /* of y; of x: job->parts for each */
    const uint8_t
        *x[BLOCK_ROWS]; /* floats, or prepared rows: the first parts, then the second ... */
    float *y[BLOCK_ROWS];
    float by[BLOCK_ROWS]; /* what a vector's sums are multiplied by: D, or 1 */
    float *sums[2];       /* zero between columns */
    uint8_t *panel;
    const uint8_t *end[2]; /* of what the thread reads of these matrices, column after column, */
    mr_ahead then;         /* and what it reads after that */
} block;

/* Column `column` of the i-th matrix (or, of a plain product, of the i-th run of columns).  Its last lines
 * ask for what comes then; if nothing is known, for themselves. */
static mr_column next_column(const block *b, int i, int64_t e, int64_t column, int64_t *first)
{
    const mr_job *job = b->job;
    mr_column c = mr_matrix_column(job->w[job->w[1] ? i : 0], e, column, first);
    const uint8_t *then = b->then.from[i];
    c.end = b->end[i];
    c.jump = then ? (uintptr_t)then - (uintptr_t)c.end : -c.far;
    return c;
}

static void sums_f32(const block *b, const mr_column *c, int64_t k, float *sums)
{
    const mr_mm_kernels *kernels = b->job->kernels;
    const float *x[BLOCK_ROWS];
    mr_column part = *c;
    static const mr_layout panel_layout = {.kind = MR_PACK_F32, .k_unit = 1};
    size_t line = 16 * sizeof(float) * (size_t)c->nv;
    mr_column panel = {
        .layout = &panel_layout, .data = b->panel, .unit = line, .lines = line, .nv = c->nv};
    for (int r = 0; r < b->rows; r++)
        x[r] = (const float *)(const void *)b->x[r];
    bool few = c->nv == 4 && mr_pack_few(c->layout->kind);
    if (b->rows <= (few ? kernels->few_f32 : kernels->direct_f32) ||
        c->layout->kind == MR_PACK_F32) {
        kernels->tile_f32(c, k, x, b->rows, sums);
        return;
    }
    for (int64_t k0 = 0; k0 < k; k0 += PANEL_K) {
        int64_t len = k - k0 < PANEL_K ? k - k0 : PANEL_K;
        kernels->unpack_f32(&part, len, (float *)(void *)b->panel);
        part.data += (size_t)(len / c->layout->k_unit) * c->unit;
        panel.ask = part.data;
        panel.ask_bytes = (size_t)((len + c->layout->k_unit - 1) / c->layout->k_unit) * c->unit;
        kernels->tile_f32(&panel, len, x, b->rows, sums);
        for (int r = 0; r < b->rows; r++)
            x[r] += len;
    }
}

static void sums_bf16(const block *b, const mr_column *c, int64_t k, float *sums)
{
    const int32_t *x[BLOCK_ROWS];
    for (int r = 0; r < b->rows; r++)
        x[r] = (const int32_t *)(const void *)b->x[r];
    b->job->kernels->tile_bf16(c, (k + 1) / 2, x, b->rows, sums);
}

static void sums_i8(const block *b, const mr_column *c, int64_t units, float *sums)
{
    const mr_job *job = b->job;
    const uint8_t *x[BLOCK_ROWS];
    mr_layout bytes = mr_layout_bytes(c->layout);
    mr_column part = *c, panel = {.layout = &bytes,
                                  .data = b->panel,
                                  .unit = mr_layout_unit(&bytes, c->nv),
                                  .lines = mr_layout_lines(&bytes, c->nv),
                                  .nv = c->nv};
    int64_t each = c->layout->k_unit / bytes.k_unit,
            most = PANEL_BYTES / (int64_t)panel.unit / each;
    for (int r = 0; r < b->vectors; r++)
        x[r] = b->x[r] + MR_QROW_HEADER;
    if (b->vectors <= job->kernels->direct_u4 || bytes.kind == c->layout->kind ||
        (c->layout->kind == MR_PACK_U4 && c->nv == 4 && job->kernels->takes_u4)) {
        job->kernels->tile_i8(c, units, &job->form, x, b->vectors, b->rows, sums);
        return;
    }
    for (int64_t u = 0; u < units; u += most) {
        int64_t len = units - u < most ? units - u : most;
        job->kernels->unpack_bytes(&part, len, b->panel);
        part.data += (size_t)len * c->unit;
        panel.ask = part.data;
        panel.ask_bytes = (size_t)len * c->unit;
        job->kernels->tile_i8(&panel, len * each, &job->form, x, b->vectors, b->rows, sums);
        for (int r = 0; r < b->vectors; r++)
            x[r] += (size_t)(len * (c->layout->k_unit / job->form.group)) * job->form.step;
    }
}

/* From the sums of the first rows of the block, which become zero, to y. */
static void finish_rows(const block *b, float *const *sums, int rows, int64_t first, int n)
{
    const mr_job *job = b->job;
    mr_finish f = {.fn = job->fn,
                   .rows = rows,
                   .parts = job->parts,
                   .n = n,
                   .first = first,
                   .sums = {sums[0], job->w[1] ? sums[1] : NULL},
                   .by = b->by,
                   .y = b->y};
    for (int i = 0; i < 2; i++)
        f.bias[i] = job->bias[i] ? job->bias[i] + first : NULL;
    job->kernels->finish(&f);
}

static void run_column(const block *b, int64_t e, int64_t column)
{
    const mr_job *job = b->job;
    int64_t first = 0;
    int n = 0;
    for (int i = 0; i < 2 && job->w[i]; i++) {
        const mr_matrix *m = job->w[i];
        mr_column c = next_column(b, i, e, column, &first);
        n = (int)(m->n - first < 16 * c.nv ? m->n - first : 16 * c.nv);
        if (job->form.k)
            sums_i8(b, &c, m->units, b->sums[i]);
        else if (job->prepared)
            sums_bf16(b, &c, m->k, b->sums[i]);
        else
            sums_f32(b, &c, m->k, b->sums[i]);
    }
    finish_rows(b, b->sums, b->rows, first, n);
}

/* One row, n columns at once: both of a gated pair, or one or two of w[0]. */
static void row_columns(const block *b, int64_t e, const int64_t *columns, int n)
{
    const mr_job *job = b->job;
    const mr_matrix *m = job->w[0];
    int64_t first[2];
    mr_column c[2];
    bool pair = job->w[1] != NULL;
    for (int i = 0; i < n; i++)
        c[i] = next_column(b, i, e, columns[pair ? 0 : i], &first[i]);
    if (job->form.k)
        job->kernels->row_i8(c, n, m->units, &job->form, b->x[0] + MR_QROW_HEADER, b->sums);
    else if (job->prepared)
        for (int i = 0; i < n; i++)
            sums_bf16(b, &c[i], m->k, b->sums[i]);
    else
        job->kernels->row_f32(c, n, m->k, (const float *)(const void *)b->x[0], b->sums);
    for (int i = 0; i < (pair ? 1 : n); i++) {
        int64_t left = m->n - first[i], wide = 16 * c[i].nv;
        finish_rows(b, b->sums + i, 1, first[i], (int)(left < wide ? left : wide));
    }
}

/* ---- tasks -------------------------------------------------------------------------------- */

/* Items are numbered by matrix, block of rows, column, and dealt to the threads as one stretch each.
 * A task is the next part of a stretch: half of what is left of it, between two bounds.  So threads
 * start anew seldom, and yet end together. */
typedef struct schedule {
    const mr_job *job;
    int64_t columns, block_rows, items;
    int64_t least, most; /* items of a task */
    int parts;           /* tasks of a stretch */
} schedule;

static int64_t rows_of(const mr_job *job, int64_t e)
{
    return job->first ? job->first[e + 1] - job->first[e] : job->rows;
}

/* (Of many experts few are chosen: those that are not cost no division.) */
static int64_t blocks_of(const schedule *s, int64_t e)
{
    int64_t rows = rows_of(s->job, e);
    return rows == 0 ? 0 : (rows + s->block_rows - 1) / s->block_rows;
}

/* Rows row0.. of matrix e. */
static void block_rows(const schedule *s, int64_t e, int64_t row0, block *b)
{
    const mr_job *job = s->job;
    int64_t left = rows_of(job, e) - row0;
    b->rows = (int)(left < s->block_rows ? left : s->block_rows);
    b->vectors = b->rows * job->parts;
    for (int i = 0; i < b->rows; i++) {
        int64_t r = row0 + i, j = e;
        if (job->pairs) {
            int32_t pair = job->pairs[job->first[e] + r];
            r = pair / job->choices;
            j = pair % job->choices;
        }
        b->y[i] = job->y + r * job->y_row + j * job->y_choice;
        if (!job->prepared)
            b->x[i] = (const uint8_t *)(job->x + r * job->x_row + j * job->x_choice);
        for (int part = 0; job->prepared && part < job->parts; part++) {
            int64_t vector = (job->x_choice ? r * job->choices + j : r) * job->parts + part;
            b->x[part * b->rows + i] = job->prepared + (size_t)vector * job->stride;
        }
        for (int part = 0; part < job->parts; part++) {
            const int v = part * b->rows + i;
            b->by[v] = 1.0f;
            if (job->form.k)
                memcpy(&b->by[v], b->x[v], sizeof b->by[v]);
        }
    }
}

typedef struct stretch {
    int64_t first, end;
} stretch;

/* Items of the thread that a task is meant for (base/pool.h). */
static stretch stretch_of(int64_t items, int64_t threads, int64_t owner)
{
    return (stretch){items * owner / threads, items * (owner + 1) / threads};
}

static int64_t part_items(const schedule *s, int64_t left)
{
    int64_t n = left / 2 < s->most ? left / 2 : s->most;
    n = (n + s->least - 1) / s->least * s->least;
    n = n > s->least ? n : s->least;
    return n < left ? n : left;
}

/* The last part is all that is left: a stretch that has an item less may need more parts. */
static stretch task_of(const schedule *s, int task, const stretch *own)
{
    int part = task % s->parts;
    stretch t = {own->first, own->first};
    for (int i = 0; i <= part; i++)
        t = (stretch){t.end, t.end + part_items(s, own->end - t.end)};
    if (part == s->parts - 1)
        t.end = own->end;
    return t;
}

static void cut_tasks(schedule *s, int64_t threads, bool few)
{
    int64_t left = (s->items + threads - 1) / threads;
    s->least = threads == 1 ? left : few && !s->job->w[1] ? STREAMS : 1;
    s->most = left / (few ? TASKS_PER_THREAD : LONG_TASKS_PER_THREAD);
    for (s->parts = 0; left > 0; s->parts++)
        left -= part_items(s, left);
}

/* One row: items item..item+count-1, of a matrix whose columns are the items base... Of a plain
 * product the columns of a thread's stretch are two runs that are read side by side, the i-th item
 * being of the first if i is even. */
static void run_row(const block *b, int64_t e, int64_t base, const stretch *own, int64_t item,
                    int64_t count)
{
    int64_t columns[2], end = base + mr_matrix_columns(b->job->w[0]);
    int64_t first = own->first > base ? own->first : base;
    int64_t half = ((own->end < end ? own->end : end) - first + 1) / 2;
    int n = 0;
    for (int64_t i = item - first; i < item - first + count; i++) {
        if (b->job->w[1]) {
            row_columns(b, e, (int64_t[]){first + i - base}, 2);
            continue;
        }
        columns[n++] = first - base + i / 2 + (i % 2 ? half : 0);
        if (n == 2 || i + 1 == item - first + count) {
            row_columns(b, e, columns, n);
            n = 0;
        }
    }
}

/* What is read first of n columns of matrix e, from `first` on; one: by one prepared row, in two runs. */
static mr_ahead begins(const mr_matrix *w, const mr_matrix *pair, int64_t e, int64_t first,
                       int64_t n, bool one)
{
    enum { AHEAD_BYTES = 128 * 1024 };
    int64_t output;
    mr_column c = mr_matrix_column(w, e, first, &output);
    mr_ahead a = {.from = {c.data}};
    if (pair) {
        a.from[1] = mr_matrix_column(pair, e, first, &output).data;
    } else if (one && n > 1) {
        n = (n + 1) / 2;
        a.from[1] = mr_matrix_column(w, e, first + n, &output).data;
    }
    size_t bytes = (size_t)n * (size_t)w->units * c.unit;
    a.bytes = bytes < AHEAD_BYTES ? bytes : AHEAD_BYTES;
    return a;
}

static const uint8_t *column_end(const mr_matrix *w, int64_t e, int64_t column)
{
    int64_t first;
    mr_column c = mr_matrix_column(w, e, column, &first);
    return c.data + (size_t)w->units * c.unit;
}

/* Of a block, the last one of matrix e or not, whose items begin at `base`: where the runs of columns end
 * that the thread reads, and what it reads after them, of the block that follows or as the pool was told. */
static void look_ahead(const schedule *s, const stretch *own, int64_t e, bool last, int64_t base,
                       int worker, block *b)
{
    const mr_job *job = s->job;
    const int64_t after = base + s->columns, end = own->end < after ? own->end : after;
    const int64_t first = own->first > base ? own->first : base, half = (end - first + 1) / 2;
    const bool runs = !job->w[1] && b->vectors == 1;
    b->end[0] = column_end(job->w[0], e, (runs ? first + half : end) - 1 - base);
    if (job->w[1] || runs)
        b->end[1] = column_end(job->w[job->w[1] ? 1 : 0], e, end - 1 - base);
    if (own->end <= after) {
        b->then = mr_pool_ahead(job->mm->pool, worker);
        return;
    }
    for (e += last; blocks_of(s, e) == 0;)
        e++;
    int64_t left = own->end - after;
    b->then = begins(job->w[0], job->w[1], e, 0, left < s->columns ? left : s->columns,
                     rows_of(job, e) * job->parts == 1);
}

static void run_items(void *ctx, int task, int worker)
{
    const schedule *s = ctx;
    const stretch home = stretch_of(s->items, mr_pool_threads(s->job->mm->pool), task / s->parts),
                  run = task_of(s, task, &home);
    int64_t item = run.first, base = 0, e = 0;
    float few[2][FEW_ROWS * MR_TILE_OUT] = {{0}};
    block b = {.job = s->job, .sums = {few[0], few[1]}};
    if (s->job->memory_bytes) {
        uint8_t *own = s->job->memory + (size_t)worker * s->job->memory_bytes;
        b.sums[0] = (float *)(void *)own;
        const int64_t sums = s->block_rows * s->job->parts * MR_TILE_OUT;
        b.sums[1] = b.sums[0] + sums;
        b.panel = own + s->job->memory_bytes - PANEL_BYTES;
        memset(own, 0, 2 * (size_t)sums * sizeof(float));
    }
    while (item < run.end) {
        int64_t here = blocks_of(s, e) * s->columns;
        if (item >= base + here) {
            base += here;
            e++;
            continue;
        }
        int64_t row_block = (item - base) / s->columns, column = (item - base) % s->columns;
        block_rows(s, e, row_block * s->block_rows, &b);
        int64_t left = s->columns - column < run.end - item ? s->columns - column : run.end - item;
        look_ahead(s, &home, e, (row_block + 1) * s->columns == here, base + row_block * s->columns,
                   worker, &b);
        if (b.vectors == 1)
            run_row(&b, e, base + row_block * s->columns, &home, item, left);
        else
            for (int64_t i = 0; i < left; i++)
                run_column(&b, e, column + i);
        item += left;
    }
}

/* Rows of each of `blocks` equal blocks, in whole tiles. */
static int64_t even_rows(int64_t rows, int64_t blocks)
{
    int64_t each = (rows + blocks - 1) / blocks;
    return blocks == 1 ? rows : (each + TILE_ROWS - 1) / TILE_ROWS * TILE_ROWS;
}

static schedule schedule_of(const mr_job *job)
{
    int64_t threads = mr_pool_threads(job->mm->pool), largest = 0;
    schedule s = {.job = job,
                  .columns = mr_matrix_columns(job->w[0]),
                  .block_rows = BLOCK_ROWS / job->parts / TILE_ROWS * TILE_ROWS};
    for (int64_t e = 0; e < job->w[0]->e; e++)
        largest = rows_of(job, e) > largest ? rows_of(job, e) : largest;
    if (largest > 0)
        s.block_rows = even_rows(largest, (largest + s.block_rows - 1) / s.block_rows);
    do {
        s.items = 0;
        for (int64_t e = 0; e < job->w[0]->e; e++)
            s.items += blocks_of(&s, e) * s.columns;
        if (threads == 1 || s.items >= threads * TASKS_PER_THREAD || s.block_rows <= 32)
            break;
        s.block_rows = even_rows(s.block_rows, 2);
    } while (true);
    return s;
}

void mr_job_run(const mr_job *job)
{
    int threads = mr_pool_threads(job->mm->pool);
    schedule s = schedule_of(job);
    if (s.items == 0)
        return;
    cut_tasks(&s, threads, s.block_rows * job->parts <= FEW_ROWS);
    mr_pool_run(job->mm->pool, threads * s.parts, run_items, &s);
}

/* The columns of heads lie one after the other, and are short: taken together, not in two runs each. */
void mr_job_tell(const mr_job *told)
{
    const int threads = mr_pool_threads(told->mm->pool);
    mr_job job = *told;
    job.parts = mr_job_parts(job.mm, &job.w[0]->layout);
    job.parts = job.parts > 0 ? job.parts : 1;
    const schedule s = schedule_of(&job);
    for (int t = 0; t < threads; t++) {
        const stretch own = stretch_of(s.items, threads, t);
        int64_t base = 0, e = 0, n = own.end - own.first;
        mr_ahead a = {.bytes = 0};
        for (; n > 0 && base + blocks_of(&s, e) * s.columns <= own.first; e++)
            base += blocks_of(&s, e) * s.columns;
        if (n > 0) {
            const int64_t column = (own.first - base) % s.columns, left = s.columns - column;
            const bool apart = job.pairs || job.w[0]->e == 1;
            a = begins(job.w[0], job.w[1], e, column, apart && left < n ? left : n,
                       apart && rows_of(&job, e) * job.parts == 1);
        }
        mr_pool_tell(job.mm->pool, t, &a);
    }
}
