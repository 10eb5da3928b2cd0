/* Rows of stored numbers as f32.
 *
 * The order of the roundings is the one of the formats' reference dequantisers: the scale of a run
 * is made first, its product with a code is rounded to f32, then the bias is added (the build
 * switches contraction off).  What the bits of a block mean is codes.c's affair.
 * Rows come from files at any alignment, so multi-byte numbers are copied out.
 */
#include "tensor/codes.h"

#include <assert.h>
#include <string.h>

static void row_codes(const mr_code_form *f, const mr_rows *r, int64_t row, float *dst)
{
    mr_codes c;
    for (int64_t k = 0; k < r->k; k += f->block) {
        mr_codes_read(f, r, row, k / f->block, &c);
        mr_codes_values(f, &c, dst + k);
    }
}

/* Numbers [first, end) of a row. */
static void row_e4m3(const mr_rows *r, int64_t row, int64_t first, int64_t end, float *dst)
{
    size_t size = (size_t)mr_dtype_block_bytes(r->scale_dtype);
    const uint8_t *p = (const uint8_t *)r->data + row * r->k;
    const uint8_t *scale =
        (const uint8_t *)r->scales +
        (size_t)row * mr_row_scale_bytes(r->dtype, r->group, r->scale_dtype, r->k);
    for (int64_t k = first; k < end; k++)
        *dst++ = mr_e4m3_to_f32(p[k]) *
                 mr_number_load(r->scale_dtype, scale + (size_t)(k / r->group) * size);
}

/* Row `row` of rows with `across`: one number of each stored row. */
static void column(const mr_rows *r, int64_t row, float *dst)
{
    mr_code_form f;
    mr_codes c;
    float values[MR_CODE_BLOCK];
    mr_rows stored = mr_rows_stored(r);
    const int64_t from = (r->first + row) / r->across * r->k, at = (r->first + row) % r->across;
    if (!mr_code_form_of(&f, r->dtype, r->bits, r->group, r->scale_dtype)) {
        for (int64_t k = 0; k < r->k; k++)
            row_e4m3(&stored, from + k, at, at + 1, dst + k);
        return;
    }
    for (int64_t k = 0; k < r->k; k++) {
        mr_codes_read(&f, &stored, from + k, at / f.block, &c);
        mr_codes_values(&f, &c, values);
        dst[k] = values[at % f.block];
    }
}

void mr_dequant_row(const mr_rows *r, int64_t row, float *dst)
{
    mr_code_form form;
    assert(mr_dtype_is_weight(r->dtype, r->bits));
    assert(row >= 0 && row < r->n);
    if (r->across) {
        column(r, row, dst);
        return;
    }
    size_t bytes = mr_row_bytes(r->dtype, r->bits, r->k);
    assert(bytes || !r->k);
    const uint8_t *p = (const uint8_t *)r->data + (size_t)row * bytes;
    if (r->dtype == MR_F32) {
        memcpy(dst, p, bytes);
    } else if (mr_code_form_of(&form, r->dtype, r->bits, r->group, r->scale_dtype)) {
        assert(r->k % form.block == 0);
        row_codes(&form, r, row, dst);
    } else if (mr_dtype_is_grouped(r->dtype)) {
        row_e4m3(r, row, 0, r->k, dst);
    } else {
        for (int64_t i = 0; i < r->k; i++)
            dst[i] = mr_number_load(r->dtype, p + 2 * i);
    }
}
