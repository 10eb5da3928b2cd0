/* Packing of weights whose groups run along outputs: what matmul_core.h draws for ACROSS.
 *
 * Such a weight is the transpose of stored rows (MLA meets its keys so): a block of the file is
 * `block` outputs at one k.  tensor/codes.c takes it apart; its codes go to the lanes of those outputs,
 * each run's scale and bias, as numbers, to the column they hold for.
 */
#include "backend/cpu/matmul_core.h"

#include <string.h>

enum { K_UNIT = 8 };

/* Up to 4 bits as they are, others and what a table makes of codes as bytes. */
void mr_across_layout(mr_fmt fmt, mr_layout *out)
{
    mr_code_form f;
    if (!mr_code_form_of(&f, fmt.dtype, fmt.bits, fmt.group, fmt.scale_dtype)) {
        *out = (mr_layout){.kind = MR_PACK_ACROSS_E4M3,
                           .k_unit = K_UNIT,
                           .scale_dtype = fmt.scale_dtype,
                           .form = {.block = fmt.group, .run = fmt.group, .bits = 8}};
        return;
    }
    *out = (mr_layout){.kind = MR_PACK_ACROSS,
                       .k_unit = K_UNIT,
                       .zero = mr_codes_zero(&f),
                       .scale_dtype = f.scale,
                       .bias = f.bias,
                       .form = f};
    out->form.bits = f.bits <= 4 && !f.table ? 4 : 8;
}

/* Where code (k, lane) is, and how far up in the byte; its unit's numbers are at *sides. */
static uint8_t *code_at(const mr_matrix *m, const mr_place *at, int64_t k, int *shift,
                        float **scale, float **bias)
{
    const mr_layout *l = &m->layout;
    const int in = (int)(k % K_UNIT), groups = mr_across_groups(l, at->nv);
    const int line = l->form.bits == 4 ? 0 : in / 4;
    uint8_t *unit = at->unit0 + (size_t)(k / K_UNIT) * at->unit;
    float *sides = (float *)(void *)(unit + mr_layout_lines(l, at->nv));
    *scale = sides + in * groups + at->v * groups / at->nv;
    *bias = *scale + K_UNIT * groups;
    *shift = l->form.bits == 4 && in >= 4 ? 4 : 0;
    return unit + (line * at->nv + at->v) * 64 + 4 * at->lane + in % 4;
}

/* Codes and numbers of `lanes` outputs, from number `from` of stored row `row` on: q as it is packed. */
static void read_codes(const mr_matrix *m, const mr_code_form *f, const mr_rows *stored,
                       int64_t row, int64_t from, int lanes, uint8_t *q, float *s, float *b)
{
    const mr_layout *l = &m->layout;
    mr_codes c;
    *b = 0.0f;
    if (l->kind == MR_PACK_ACROSS_E4M3) {
        memcpy(q, (const uint8_t *)stored->data + row * stored->k + from, (size_t)lanes);
        const size_t size = (size_t)mr_dtype_block_bytes(l->scale_dtype);
        const int64_t groups = stored->k / stored->group;
        *s = mr_number_load(l->scale_dtype,
                            (const uint8_t *)stored->scales +
                                (size_t)(row * groups + from / stored->group) * size);
        return;
    }
    const int in = (int)(from % f->block);
    mr_codes_read(f, stored, row, from / f->block, &c);
    for (int i = 0; i < lanes; i++)
        q[i] = f->table ? (uint8_t)(mr_code_tables[f->table][c.q[in + i]] + l->zero) : c.q[in + i];
    mr_codes_run(f, &c, in / f->run, s, b);
    if (!l->bias)
        *b = *s * (float)-l->zero;
}

void mr_across_fill(const mr_matrix *m, const mr_place *at, const mr_rows *rows, int64_t row,
                    int lanes)
{
    const mr_rows stored = mr_rows_stored(rows);
    const int64_t o = rows->first + row, first = o / rows->across * rows->k,
                  from = o % rows->across;
    mr_code_form f = {0};
    mr_code_form_of(&f, rows->dtype, rows->bits, rows->group, rows->scale_dtype);
    for (int64_t k = 0; k < m->k; k++) {
        uint8_t q[16];
        float s, b, *scale, *bias;
        int shift;
        read_codes(m, &f, &stored, first + k, from, lanes, q, &s, &b);
        uint8_t *to = code_at(m, at, k, &shift, &scale, &bias);
        for (int i = 0; i < lanes; i++)
            to[4 * i] |= (uint8_t)(q[i] << shift);
        /* shared by the lane blocks of a group, which may be packed by several threads */
        if (at->lane == 0 && at->v * mr_across_groups(&m->layout, at->nv) % at->nv == 0) {
            *scale = s;
            *bias = b;
        }
    }
}

/* The roundings of mr_dequant_row. */
void mr_across_row(const mr_matrix *m, const mr_place *at, float *dst)
{
    const mr_layout *l = &m->layout;
    for (int64_t k = 0; k < m->k; k++) {
        float *s, *b;
        int shift;
        const uint8_t *from = code_at(m, at, k, &shift, &s, &b);
        int q = *from >> shift & ((1 << l->form.bits) - 1);
        if (l->kind == MR_PACK_ACROSS_E4M3) {
            dst[k] = mr_e4m3_to_f32((uint8_t)q) * *s;
            continue;
        }
        float product = *s * (float)(q - l->zero);
        dst[k] = l->bias ? product + *b : product;
    }
}
