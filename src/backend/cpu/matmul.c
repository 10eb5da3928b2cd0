/* The products a plan asks for, as jobs: plain, gated and per head. */
#include "backend/cpu/matmul.h"

#include <assert.h>

#include "backend/cpu/matmul_job.h"

size_t mr_matmul_scratch(const mr_mm *mm, mr_fmt fmt, int64_t rows, int64_t k)
{
    mr_layout l;
    mr_err err = mr_layout_of(fmt, &l);
    assert(err == MR_OK);
    return err == MR_OK ? mr_job_scratch(mm, &l, rows, rows, k) : 0;
}

mr_arith mr_matmul_arith(const mr_mm *mm, mr_fmt fmt)
{
    mr_layout l;
    if (mr_layout_of(fmt, &l) != MR_OK)
        return MR_ARITH_F32;
    return mr_job_bf16(mm, &l)         ? MR_ARITH_BF16
           : mr_job_parts(mm, &l) == 1 ? MR_ARITH_INT8
                                       : MR_ARITH_F32;
}

const char *mr_matmul_kernel(const mr_mm *mm, mr_fmt fmt)
{
#define ISAS(text, tail)                                                                           \
    {                                                                                              \
        text " c" tail, text " avx2" tail, text " avx512" tail, text " amx" tail,                  \
            text " neon" tail                                                                      \
    }
    static const char *const floats[4][MR_ISA_COUNT] = {ISAS("f32 f32", ""), ISAS("f32 f16", ""),
                                                        ISAS("f32 bf16", ""), ISAS("f32 fp8", "")};
    static const char *const bf16[MR_ISA_COUNT] = ISAS("bf16 bf16", "");
    static const char *const no_dots[MR_ISA_COUNT] = ISAS("f32 bf16", MR_NO_DOTS);
#define CODES(how)                                                                                 \
    {                                                                                              \
        ISAS(how " q2", ""), ISAS(how " q3", ""), ISAS(how " q4", ""), ISAS(how " q5", ""),        \
            ISAS(how " q6", ""), {NULL}, ISAS(how " q8", "")                                       \
    }
    /* on f32 activations, on int8, on those in parts; by bits of a code, from 2 */
    static const char *const codes[3][7][MR_ISA_COUNT] = {CODES("f32"), CODES("int8"),
                                                          CODES("3 int8")};
#undef CODES
#undef ISAS
    mr_layout l;
    if (mr_layout_of(fmt, &l) != MR_OK)
        return "none";
    if (l.kind == MR_PACK_ACROSS_E4M3)
        l.kind = MR_PACK_E4M3;
    if (mr_job_bf16(mm, &l))
        return bf16[mm->isa];
    if (l.kind == MR_PACK_BF16 && mm->precision == MR_NATIVE && !mm->act_f32)
        return no_dots[mm->isa];
    if (l.kind <= MR_PACK_E4M3)
        return floats[l.kind - MR_PACK_F32][mm->isa];
    bool bits_told = l.kind == MR_PACK_CODES || l.kind == MR_PACK_ACROSS;
    int bits = bits_told ? l.form.bits : l.kind == MR_PACK_U4 ? 4 : 8;
    int parts = mr_job_parts(mm, &l);
    return codes[parts > 1 ? 2 : parts][bits - 2][mm->isa];
}

static mr_job job_of(const mr_mm *mm, const mr_matrix *w, const float *bias, const float *x,
                     int64_t ldx, int64_t rows, float *y, int64_t ldy, void *scratch)
{
    return (mr_job){.mm = mm,
                    .w = {w, NULL},
                    .bias = {bias, NULL},
                    .fn = MR_OP_LINEAR,
                    .x = x,
                    .x_row = ldx,
                    .y = y,
                    .y_row = ldy,
                    .rows = rows,
                    .choices = w->e,
                    .together = rows,
                    .scratch = scratch};
}

void mr_linear(const mr_mm *mm, const mr_matrix *w, const float *bias, const float *x, int64_t ldx,
               int64_t rows, float *y, int64_t ldy, void *scratch)
{
    mr_job job = job_of(mm, w, bias, x, ldx, rows, y, ldy, scratch);
    assert(w->e == 1);
    mr_job_prepare(&job);
    mr_job_run(&job);
}

/* Both factors read the same prepared rows, or u goes to y first and is read back. */
void mr_gated_linear(const mr_mm *mm, const mr_matrix *wg, const mr_matrix *wu, const float *bg,
                     const float *bu, mr_op fn, const float *x, int64_t ldx, int64_t rows, float *y,
                     int64_t ldy, void *scratch)
{
    mr_job job = job_of(mm, wg, bg, x, ldx, rows, y, ldy, scratch);
    assert(wg->e == 1 && wu->e == 1 && wg->n == wu->n && wg->k == wu->k);
    job.fn = fn;
    if (mr_job_same_form(mm, wg, wu)) {
        job.w[1] = wu;
        job.bias[1] = bu;
    } else {
        mr_linear(mm, wu, bu, x, ldx, rows, y, ldy, scratch);
    }
    mr_job_prepare(&job);
    mr_job_run(&job);
}

void mr_linear_heads(const mr_mm *mm, const mr_matrix *w, const float *x, int64_t ldx_row,
                     int64_t ldx_head, int64_t rows, float *y, int64_t ldy_row, int64_t ldy_head,
                     void *scratch)
{
    mr_job job = job_of(mm, w, NULL, x, ldx_row, rows, y, ldy_row, scratch);
    job.x_choice = ldx_head;
    job.y_choice = ldy_head;
    mr_job_prepare(&job);
    mr_job_run(&job);
}
