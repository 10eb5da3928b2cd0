/* What a job's activations become before its products run: int8 rows, in parts or not, rows of bf16, or
 * the floats as they are.
 */
#include "backend/cpu/matmul_block.h"

#include <assert.h>

#include "backend/cpu/vec.h"

const mr_mm_kernels *mr_mm_kernels_for(mr_isa isa)
{
    switch (isa) {
#if defined(__x86_64__)
    case MR_ISA_AVX2:
        return &mr_mm_kernels_avx2;
    case MR_ISA_AVX512:
    case MR_ISA_AMX:
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

const mr_sixteen_kernels *mr_sixteen_for(mr_isa isa)
{
#if defined(__x86_64__)
    return isa == MR_ISA_AMX ? &mr_sixteen_amx : NULL;
#else
    (void)isa;
    return NULL;
#endif
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
    size_t bytes = mr_block_bytes(mm, l, rows, k) * threads;
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

/* ---- preparing ----------------------------------------------------------------------------- */

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
    job->memory_bytes = mr_block_bytes(mm, l, job->together, k);
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
    mr_block_forget(job);
}
