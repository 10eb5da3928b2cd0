/* See matmul_block.h: sums of a column by one shape or the other, and what becomes of them. */
#include "backend/cpu/matmul_block.h"

#include <string.h>

enum {
    PANEL_K = 512,            /* of an f32 panel; a multiple of every k_unit */
    TILE_ROWS = 6,            /* of the largest tiles, but for those of sixteen rows, */
    LEAST_SIXTEEN = 17,       /* which so many vectors are worth, */
    LEAST_PANEL = 32,         /* or where a panel comes first */
    PANEL_BYTES = 160 * 1024, /* 64 outputs: 512 k of f32, or 2048 k of bytes and their scales */
};

/* What a worker's arranged vectors are of. */
typedef struct arranged_of {
    int64_t e, row0, pad[6];
} arranged_of;

/* By sixteens, if the ISA has such kernels for these columns. */
static const mr_sixteen_kernels *sixteen_of(const mr_mm *mm, const mr_layout *l)
{
    const mr_sixteen_kernels *s = mr_sixteen_for(mm->isa);
    const mr_layout bytes = mr_layout_bytes(l);
    return s && mr_job_parts(mm, l) > 0 && s->takes(&bytes, 4) ? s : NULL;
}

int64_t mr_block_tile(const mr_mm *mm, const mr_layout *l)
{
    return sixteen_of(mm, l) ? MR_SIXTEEN : TILE_ROWS;
}

/* All columns meet a block, so its rows, prepared or arranged, are to stay in the L2 cache, unless so few would
 * be left that unpacking each column for them costs more. */
int64_t mr_block_most(const mr_mm *mm, const mr_layout *l, int64_t k)
{
    enum { CACHE_BYTES = 1 << 20, SIXTEENS_BYTES = 3 << 19, LEAST_ROWS = 48 };
    const int64_t parts = mr_job_parts(mm, l), tile = mr_block_tile(mm, l);
    int64_t rows = MR_BLOCK_ROWS / (parts > 1 ? parts : 1);
    if (parts > 0) {
        const mr_qform form = mr_qform_of(mr_mm_kernels_for(mm->isa), l, k);
        const mr_sixteen_kernels *sixteen = sixteen_of(mm, l);
        const size_t row = sixteen ? sixteen->bytes(&form) / MR_SIXTEEN : form.stride;
        const int64_t fit = (sixteen ? SIXTEENS_BYTES : CACHE_BYTES) / ((int64_t)row * parts);
        const int64_t most = fit > LEAST_ROWS ? fit : LEAST_ROWS;
        rows = rows < most ? rows : most;
    }
    return rows / tile * tile;
}

static int64_t sixteens(int64_t vectors)
{
    return (vectors + MR_SIXTEEN - 1) / MR_SIXTEEN;
}

size_t mr_block_bytes(const mr_mm *mm, const mr_layout *l, int64_t rows, int64_t k)
{
    const mr_sixteen_kernels *sixteen = sixteen_of(mm, l);
    const int64_t parts = mr_job_parts(mm, l);
    int64_t vectors = rows * (parts > 1 ? parts : 1);
    if (vectors <= MR_BLOCK_FEW)
        return 0;
    vectors = vectors < MR_BLOCK_ROWS ? vectors : MR_BLOCK_ROWS;
    if (!sixteen)
        return 2 * (size_t)vectors * MR_TILE_OUT * sizeof(float) + PANEL_BYTES;
    const mr_qform form = mr_qform_of(mr_mm_kernels_for(mm->isa), l, k);
    const int64_t most = mr_block_most(mm, l, k) * parts;
    const size_t n = (size_t)sixteens(vectors < most ? vectors : most);
    return 2 * n * MR_SIXTEEN * MR_TILE_OUT * sizeof(float) + sizeof(arranged_of) +
           n * sixteen->bytes(&form) + PANEL_BYTES;
}

void mr_block_memory(mr_block *b, int worker, int64_t vectors)
{
    const mr_job *job = b->job;
    if (job->memory_bytes == 0)
        return;
    uint8_t *own = job->memory + (size_t)worker * job->memory_bytes;
    if (sixteen_of(job->mm, &job->w[0]->layout))
        vectors = sixteens(vectors) * MR_SIXTEEN;
    const int64_t sums = vectors * MR_TILE_OUT;
    b->sums[0] = (float *)(void *)own;
    b->sums[1] = b->sums[0] + sums;
    b->panel = own + job->memory_bytes - PANEL_BYTES;
    memset(own, 0, 2 * (size_t)sums * sizeof(float));
}

/* Column `column` of the i-th matrix (or, of a plain product, of the i-th run of columns).  Its last lines
 * ask for what comes then; if nothing is known, for themselves. */
static mr_column next_column(const mr_block *b, int i, int64_t e, int64_t column, int64_t *first)
{
    const mr_job *job = b->job;
    mr_column c = mr_matrix_column(job->w[job->w[1] ? i : 0], e, column, first);
    const uint8_t *then = b->then.from[i];
    c.end = b->end[i];
    c.jump = then ? (uintptr_t)then - (uintptr_t)c.end : -c.far;
    return c;
}

static void sums_f32(const mr_block *b, const mr_column *c, int64_t k, float *sums)
{
    const mr_mm_kernels *kernels = b->job->kernels;
    const float *x[MR_BLOCK_ROWS];
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

static void sums_bf16(const mr_block *b, const mr_column *c, int64_t k, float *sums)
{
    const int32_t *x[MR_BLOCK_ROWS];
    for (int r = 0; r < b->rows; r++)
        x[r] = (const int32_t *)(const void *)b->x[r];
    const mr_sixteen_kernels *s = mr_sixteen_for(b->job->mm->isa);
    (s ? s->tile_bf16 : b->job->kernels->tile_bf16)(c, (k + 1) / 2, x, b->rows, sums);
}

static arranged_of *arranged_by(const mr_job *job, int worker)
{
    return (arranged_of *)(void *)(job->memory + (size_t)(worker + 1) * job->memory_bytes -
                                   PANEL_BYTES - sizeof(arranged_of));
}

void mr_block_forget(const mr_job *job)
{
    const int threads = mr_pool_threads(job->mm->pool);
    if (job->memory_bytes > 0 && sixteen_of(job->mm, &job->w[0]->layout))
        for (int i = 0; i < threads; i++)
            arranged_by(job, i)->e = -1;
}

void mr_block_arrange(mr_block *b, int worker, int64_t e, int64_t row0)
{
    const mr_job *job = b->job;
    const mr_layout *l = &job->w[0]->layout;
    const mr_sixteen_kernels *s = sixteen_of(job->mm, l);
    b->arranged = NULL;
    if (!s || b->vectors < (s->takes(l, 4) ? LEAST_SIXTEEN : LEAST_PANEL))
        return;
    arranged_of *of = arranged_by(job, worker);
    b->arranged = (uint8_t *)(b->sums[1] + (b->sums[1] - b->sums[0]));
    if (of->e == e && of->row0 == row0)
        return;
    const uint8_t *x[MR_SIXTEEN];
    for (int v = 0; v < b->vectors; v += MR_SIXTEEN) {
        const int n = b->vectors - v < MR_SIXTEEN ? b->vectors - v : MR_SIXTEEN;
        for (int i = 0; i < n; i++)
            x[i] = b->x[v + i] + MR_QROW_HEADER;
        s->arrange(&job->form, x, n, b->arranged + (size_t)(v / MR_SIXTEEN) * s->bytes(&job->form));
    }
    *of = (arranged_of){.e = e, .row0 = row0};
}

static bool by_sixteens(const mr_block *b, const mr_column *c)
{
    return b->arranged && mr_sixteen_for(b->job->mm->isa)->takes(c->layout, c->nv);
}

/* x[r]: the record of group `group`. */
static void tile_i8(const mr_block *b, const mr_column *c, int64_t units, int64_t group,
                    const uint8_t *const *x, float *sums)
{
    const mr_job *job = b->job;
    if (by_sixteens(b, c))
        mr_sixteen_for(job->mm->isa)
            ->tile(c, units, &job->form, b->arranged, group, b->vectors, sums);
    else
        job->kernels->tile_i8(c, units, &job->form, x, b->vectors, b->rows, sums);
}

static void sums_i8(const mr_block *b, const mr_column *c, int64_t units, float *sums)
{
    const mr_job *job = b->job;
    const uint8_t *x[MR_BLOCK_ROWS];
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
    const bool direct = c->nv == 4 && mr_layout_direct(c->layout);
    if (by_sixteens(b, c) ||
        b->vectors <= (direct ? job->kernels->direct_codes : job->kernels->direct_i8) ||
        bytes.kind == c->layout->kind ||
        (c->layout->kind == MR_PACK_U4 && c->nv == 4 && job->kernels->takes_u4)) {
        tile_i8(b, c, units, 0, x, sums);
        return;
    }
    const int64_t groups = c->layout->k_unit / job->form.group;
    for (int64_t u = 0; u < units; u += most) {
        int64_t len = units - u < most ? units - u : most;
        job->kernels->unpack_bytes(&part, len, b->panel);
        part.data += (size_t)len * c->unit;
        panel.ask = part.data;
        panel.ask_bytes = (size_t)len * c->unit;
        tile_i8(b, &panel, len * each, u * groups, x, sums);
        for (int r = 0; r < b->vectors; r++)
            x[r] += (size_t)(len * groups) * job->form.step;
    }
}

/* From the sums of the first rows of the block, which become zero, to y. */
static void finish_rows(const mr_block *b, float *const *sums, int rows, int64_t first, int n)
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

void mr_block_column(const mr_block *b, int64_t e, int64_t column)
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

void mr_block_row(const mr_block *b, int64_t e, const int64_t *columns, int n)
{
    const mr_job *job = b->job;
    const mr_matrix *m = job->w[0];
    int64_t first[2];
    mr_column c[2];
    const uint8_t *x[MR_ACT_PARTS];
    const bool pair = job->w[1] != NULL;
    const int64_t units[2] = {m->units, pair ? job->w[1]->units : m->units};
    for (int i = 0; i < job->parts; i++)
        x[i] = b->x[i] + MR_QROW_HEADER;
    for (int i = 0; i < n; i++)
        c[i] = next_column(b, i, e, columns[pair ? 0 : i], &first[i]);
    if (job->form.k && units[0] == units[1])
        job->kernels->row_i8(c, n, units[0], &job->form, x, job->parts, b->sums);
    else if (job->form.k)
        for (int i = 0; i < n; i++)
            job->kernels->row_i8(&c[i], 1, units[i], &job->form, x, job->parts, b->sums + i);
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
