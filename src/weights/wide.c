/* Tensors that come as f32 though the file has fewer bits: forms that no format of tensor/ is.
 *
 * Two kinds.  Blocks of GGUF that are times one more number per matrix (NVFP4's ".scale"): a row is
 * dequantised, then each value multiplied and rounded.  And codes with a scale per block of any size,
 * with zero points or not: value = (code - zero) * scale, the difference exact, the product rounded.
 */
#include "weights/parse.h"

#include <assert.h>

/* What of the file a stretch of rows needs, read whole. */
typedef struct stretch {
    const mr_weights *w;
    const mr_winfo *t;
    int64_t n, k;          /* of a matrix */
    int64_t row0, columns; /* first row; scales of a row */
    int64_t scale0, word0; /* first row of scales, and of packed zero points */
    uint8_t *data, *scales, *zeros;
} stretch;

static int64_t blocks(int64_t n, int64_t block)
{
    return n / block + (n % block != 0);
}

int64_t mr_weights_scale_row(const mr_winfo *t, int64_t r)
{
    int64_t n = t->dim[t->rank - 2];
    return r / n * blocks(n, t->block_rows) + r % n / t->block_rows;
}

static mr_err fetch(const mr_weights *w, const mr_wpart *part, int64_t first, int64_t count,
                    size_t size, uint8_t **out)
{
    uint64_t skip = (uint64_t)first * size, bytes = (uint64_t)count * size;
    assert(skip + bytes <= part->bytes);
    *out = mr_alloc(MR_MEM_OTHER, (size_t)bytes);
    if (!*out)
        return MR_ENOMEM;
    return mr_file_pread(&w->files[part->file], part->offset + skip, *out, (size_t)bytes);
}

/* ---- blocks times a number ---- */

static mr_err read_blocks(stretch *s, int64_t rows, float *out)
{
    size_t size = mr_row_bytes(s->t->wide.dtype, 0, s->k);
    int64_t per = s->t->scales.bytes == sizeof(float) ? INT64_MAX : s->n; /* rows of a number */
    MR_TRY(fetch(s->w, &s->t->data, s->row0, rows, size, &s->data));
    MR_TRY(fetch(s->w, &s->t->scales, 0, (int64_t)(s->t->scales.bytes / sizeof(float)),
                 sizeof(float), &s->scales));
    mr_rows in = {.dtype = s->t->wide.dtype, .n = rows, .k = s->k, .data = s->data};
    for (int64_t i = 0; i < rows; i++, out += s->k) {
        float by = mr_number_load(MR_F32, s->scales + (s->row0 + i) / per * 4);
        mr_dequant_row(&in, i, out);
        for (int64_t j = 0; j < s->k; j++)
            out[j] *= by;
    }
    return MR_OK;
}

/* ---- codes ---- */

/* Number i of a stream of `bits` bits. */
static int bits_at(const uint8_t *p, int64_t i, int bits)
{
    int64_t at = i * bits;
    int v = p[at / 8] >> at % 8;
    if (at % 8 + bits > 8)
        v |= p[at / 8 + 1] << (8 - at % 8);
    return v & ((1 << bits) - 1);
}

/* Words of 32 bits along the rows of the scales, a column each; or bytes that lie as the scales do. */
static int zero_of(const stretch *s, int64_t row, int64_t column)
{
    int bits = s->t->wide.bits, v = 0;
    if (!s->zeros)
        return 0;
    if (s->t->wide.zero == MR_I8)
        return (int8_t)s->zeros[(row - s->scale0) * s->columns + column];
    for (int i = 0; i < bits; i++) {
        int64_t at = row * bits + i, word = at / 32 - s->word0;
        const uint8_t *p = s->zeros + (word * s->columns + column) * 4 + at % 32 / 8;
        v |= (*p >> at % 8 & 1) << i;
    }
    return v - (1 << (bits - 1));
}

static float code_of(const mr_wide *f, const uint8_t *row, int64_t i)
{
    switch (f->dtype) {
    case MR_F8_E4M3:
        return mr_e4m3_to_f32(row[i]);
    case MR_I8:
        return (float)(int8_t)row[i];
    case MR_FP:
        return 0.5f * (float)mr_code_tables[MR_TABLE_E2M1][bits_at(row, i, 4)];
    default:
        return (float)(bits_at(row, i, f->bits) - (1 << (f->bits - 1)));
    }
}

static void row_of_codes(const stretch *s, const uint8_t *row, int64_t r, float *out)
{
    const mr_winfo *t = s->t;
    size_t size = (size_t)mr_dtype_block_bytes(t->block_scale);
    int64_t at = mr_weights_scale_row(t, r);
    for (int64_t c = 0; c < s->columns; c++) {
        int64_t end = s->k - c * t->block_cols < t->block_cols ? s->k : (c + 1) * t->block_cols;
        float scale = mr_number_load(
            t->block_scale, s->scales + (size_t)((at - s->scale0) * s->columns + c) * size);
        float zero = (float)zero_of(s, at, c);
        for (int64_t i = c * t->block_cols; i < end; i++)
            out[i] = (code_of(&t->wide, row, i) - zero) * scale;
    }
}

static mr_err read_codes(stretch *s, int64_t rows, float *out)
{
    const mr_winfo *t = s->t;
    size_t size = (size_t)s->columns * (size_t)mr_dtype_block_bytes(t->block_scale);
    s->scale0 = mr_weights_scale_row(t, s->row0);
    int64_t n = mr_weights_scale_row(t, s->row0 + rows - 1) - s->scale0 + 1;
    MR_TRY(fetch(s->w, &t->data, s->row0, rows, (size_t)t->wide.stride, &s->data));
    MR_TRY(fetch(s->w, &t->scales, s->scale0, n, size, &s->scales));
    if (t->biases.file >= 0 && t->wide.zero == MR_I8) {
        MR_TRY(fetch(s->w, &t->biases, s->scale0, n, (size_t)s->columns, &s->zeros));
    } else if (t->biases.file >= 0) {
        s->word0 = s->scale0 * t->wide.bits / 32;
        MR_TRY(fetch(s->w, &t->biases, s->word0,
                     blocks((s->scale0 + n) * t->wide.bits, 32) - s->word0, (size_t)s->columns * 4,
                     &s->zeros));
    }
    for (int64_t i = 0; i < rows; i++, out += s->k)
        row_of_codes(s, s->data + (size_t)i * (size_t)t->wide.stride, s->row0 + i, out);
    return MR_OK;
}

static mr_err check_finite(const mr_weights *w, const mr_winfo *t, const float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        if (x[i] != x[i])
            return mr_wmisfit(w, t, "holds NaN");
    return MR_OK;
}

mr_err mr_wide_read(const mr_weights *w, const mr_winfo *t, int64_t row0, int64_t rows, float *out)
{
    stretch s = {.w = w, .t = t, .row0 = row0, .n = t->dim[t->rank - 2], .k = t->dim[t->rank - 1]};
    if (!rows || !s.k)
        return MR_OK;
    s.columns = t->block_cols ? blocks(s.k, t->block_cols) : 1;
    mr_err e = t->wide.dtype == MR_NVFP4 ? read_blocks(&s, rows, out) : read_codes(&s, rows, out);
    if (e == MR_OK)
        e = check_finite(w, t, out, rows * s.k);
    mr_free(s.data);
    mr_free(s.scales);
    mr_free(s.zeros);
    return e;
}
