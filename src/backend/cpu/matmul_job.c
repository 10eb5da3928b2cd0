/* Running a job: its columns and blocks of rows as tasks of the pool, and what each thread reads next. */
#include "backend/cpu/matmul_block.h"

#include <string.h>

enum {
    TASKS_PER_THREAD = 4, /* at least, and with many rows, where a column takes long: */
    LONG_TASKS_PER_THREAD = 16,
    STREAMS = 2 /* columns that one row of a plain product reads side by side */
};

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
static void block_rows(const schedule *s, int64_t e, int64_t row0, mr_block *b)
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
static void run_row(const mr_block *b, int64_t e, int64_t base, const stretch *own, int64_t item,
                    int64_t count)
{
    int64_t columns[2], end = base + mr_matrix_columns(b->job->w[0]);
    int64_t first = own->first > base ? own->first : base;
    int64_t half = ((own->end < end ? own->end : end) - first + 1) / 2;
    int n = 0;
    for (int64_t i = item - first; i < item - first + count; i++) {
        if (b->job->w[1]) {
            mr_block_row(b, e, (int64_t[]){first + i - base}, 2);
            continue;
        }
        columns[n++] = first - base + i / 2 + (i % 2 ? half : 0);
        if (n == 2 || i + 1 == item - first + count) {
            mr_block_row(b, e, columns, n);
            n = 0;
        }
    }
}

/* What is read first of n columns of matrix e, from `first` on; one: by one row, in two runs. */
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
                       int worker, mr_block *b)
{
    const mr_job *job = s->job;
    const int64_t after = base + s->columns, end = own->end < after ? own->end : after;
    const int64_t first = own->first > base ? own->first : base, half = (end - first + 1) / 2;
    const bool runs = !job->w[1] && b->rows == 1;
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
                     rows_of(job, e) == 1);
}

static void run_items(void *ctx, int task, int worker)
{
    const schedule *s = ctx;
    const stretch home = stretch_of(s->items, mr_pool_threads(s->job->mm->pool), task / s->parts),
                  run = task_of(s, task, &home);
    int64_t item = run.first, base = 0, e = 0;
    float few[2][MR_BLOCK_FEW * MR_TILE_OUT] = {{0}};
    mr_block b = {.job = s->job, .sums = {few[0], few[1]}};
    mr_block_memory(&b, worker, s->block_rows * s->job->parts);
    while (item < run.end) {
        int64_t here = blocks_of(s, e) * s->columns;
        if (item >= base + here) {
            base += here;
            e++;
            continue;
        }
        int64_t row_block = (item - base) / s->columns, column = (item - base) % s->columns;
        block_rows(s, e, row_block * s->block_rows, &b);
        mr_block_arrange(&b, worker, e, row_block * s->block_rows);
        int64_t left = s->columns - column < run.end - item ? s->columns - column : run.end - item;
        look_ahead(s, &home, e, (row_block + 1) * s->columns == here, base + row_block * s->columns,
                   worker, &b);
        if (b.rows == 1)
            run_row(&b, e, base + row_block * s->columns, &home, item, left);
        else
            for (int64_t i = 0; i < left; i++)
                mr_block_column(&b, e, column + i);
        item += left;
    }
}

/* Rows of each of `blocks` equal blocks, in whole tiles. */
static int64_t even_rows(int64_t rows, int64_t blocks, int64_t tile)
{
    int64_t each = (rows + blocks - 1) / blocks;
    return blocks == 1 ? rows : (each + tile - 1) / tile * tile;
}

static schedule schedule_of(const mr_job *job)
{
    const mr_layout *l = &job->w[0]->layout;
    const int64_t threads = mr_pool_threads(job->mm->pool), tile = mr_block_tile(job->mm, l);
    int64_t largest = 0;
    schedule s = {.job = job,
                  .columns = mr_matrix_columns(job->w[0]),
                  .block_rows = mr_block_most(job->mm, l, job->w[0]->k)};
    for (int64_t e = 0; e < job->w[0]->e; e++)
        largest = rows_of(job, e) > largest ? rows_of(job, e) : largest;
    if (largest > 0)
        s.block_rows = even_rows(largest, (largest + s.block_rows - 1) / s.block_rows, tile);
    do {
        s.items = 0;
        for (int64_t e = 0; e < job->w[0]->e; e++)
            s.items += blocks_of(&s, e) * s.columns;
        if (threads == 1 || s.items >= threads * TASKS_PER_THREAD || s.block_rows <= 32)
            break;
        s.block_rows = even_rows(s.block_rows, 2, tile);
    } while (true);
    return s;
}

void mr_job_run(const mr_job *job)
{
    int threads = mr_pool_threads(job->mm->pool);
    schedule s = schedule_of(job);
    if (s.items == 0)
        return;
    cut_tasks(&s, threads, s.block_rows * job->parts <= MR_BLOCK_FEW);
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
                       apart && rows_of(&job, e) == 1);
        }
        mr_pool_tell(job.mm->pool, t, &a);
    }
}
