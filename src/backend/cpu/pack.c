/* Packing: rows of a file's format into columns of 16 and 64 outputs.
 *
 * Every format first becomes, per row and unit of k, plain integers q (one byte each), scales and
 * biases; one routine then scatters them into the lines that matmul_core.h draws.  Packing runs
 * once per weight at load, so it is written to be read; it is bound by the scattered byte stores.
 */
#include "backend/cpu/matmul_core.h"

#include <assert.h>
#include <string.h>

enum { PACK_ROWS = 256 }; /* rows asked of a recipe at once */

/* MLX affine and symmetric integers of 4 and 8 bits; the other widths are CODES. */
static mr_layout layout_grouped(mr_fmt fmt)
{
    return (mr_layout){.kind = fmt.bits == 4 ? MR_PACK_U4 : MR_PACK_U8,
                       .k_unit = fmt.group,
                       .act_group = fmt.group == 32 ? 32 : 64,
                       .zero = fmt.dtype == MR_INT ? 1 << (fmt.bits - 1) : 0,
                       .scale_dtype = fmt.scale_dtype,
                       .bias = fmt.dtype == MR_AFFINE};
}

mr_err mr_layout_of(mr_fmt fmt, mr_layout *out)
{
    char name[32];
    switch (fmt.dtype) {
    case MR_F32:
        *out = (mr_layout){.kind = MR_PACK_F32, .k_unit = 1};
        return MR_OK;
    case MR_F16:
        *out = (mr_layout){.kind = MR_PACK_F16, .k_unit = 1};
        return MR_OK;
    case MR_BF16:
        *out = (mr_layout){.kind = MR_PACK_BF16, .k_unit = 2};
        return MR_OK;
    case MR_Q4_0:
        *out = (mr_layout){MR_PACK_U4, 32, 32, 8, MR_F16, false, {0}};
        return MR_OK;
    case MR_Q4_1:
        *out = (mr_layout){MR_PACK_U4, 32, 32, 0, MR_F16, true, {0}};
        return MR_OK;
    case MR_Q8_0:
        *out = (mr_layout){MR_PACK_U8, 32, 32, 128, MR_F16, false, {0}};
        return MR_OK;
    default:
        break;
    }
    if (!mr_dtype_is_weight(fmt.dtype, fmt.bits) ||
        (mr_dtype_is_grouped(fmt.dtype) &&
         !mr_group_known(fmt.dtype, fmt.bits, fmt.group, fmt.scale_dtype)))
        return mr_fail(MR_EUNSUPPORTED, "cpu: weights of format %s are not done",
                       mr_fmt_name(fmt, name));
    if ((fmt.dtype == MR_AFFINE || fmt.dtype == MR_INT) && (fmt.bits == 4 || fmt.bits == 8)) {
        *out = layout_grouped(fmt);
        return MR_OK;
    }
    return mr_codes_layout(fmt, out);
}

static size_t scale_size(const mr_layout *l)
{
    return l->scale_dtype == MR_F32 ? 4 : 2;
}

size_t mr_layout_lines(const mr_layout *l, int nv)
{
    size_t outputs = 16 * (size_t)nv;
    switch (l->kind) {
    case MR_PACK_F16:
        return outputs * 2;
    case MR_PACK_F32:
    case MR_PACK_BF16:
        return outputs * 4;
    case MR_PACK_U4:
        return outputs * (size_t)l->k_unit / 2;
    case MR_PACK_CODES:
        return mr_codes_lines(l, nv);
    default:
        return outputs * (size_t)l->k_unit;
    }
}

size_t mr_layout_unit(const mr_layout *l, int nv)
{
    size_t outputs = 16 * (size_t)nv, bytes = mr_layout_lines(l, nv);
    if (l->kind < MR_PACK_E4M3)
        return bytes;
    if (l->kind == MR_PACK_E4M3 || l->kind == MR_PACK_CODES || l->kind == MR_PACK_SUBS)
        bytes += mr_codes_sides(l, nv);
    else
        bytes += outputs * scale_size(l) * (l->bias ? 2 : 1);
    return (bytes + 63) & ~(size_t)63;
}

/* Fills everything but data; false if a size overflows. */
static bool matrix_sizes(mr_matrix *m)
{
    int64_t blocks = m->n / 16 + (m->n % 16 != 0);
    m->wide = blocks / 4;
    m->narrow = blocks % 4;
    m->units = m->k / m->layout.k_unit + (m->k % m->layout.k_unit != 0);
    for (int wide = 0; wide < 2; wide++) {
        m->unit[wide] = mr_layout_unit(&m->layout, wide ? 4 : 1);
        m->lines[wide] = mr_layout_lines(&m->layout, wide ? 4 : 1);
    }
    size_t broad, narrow, all;
    return mr_mul_size(m->unit[1], (size_t)m->units, &broad) &&
           mr_mul_size(broad, (size_t)m->wide, &broad) &&
           mr_mul_size(m->unit[0], (size_t)m->units, &narrow) &&
           mr_mul_size(narrow, (size_t)m->narrow, &narrow) &&
           mr_add_size(broad, narrow, &m->matrix) &&
           mr_add_size(m->matrix, (64 - m->matrix % 64) % 64, &m->matrix) &&
           mr_mul_size(m->matrix, (size_t)m->e, &all) && mr_add_size(all, sizeof *m, &all);
}

static mr_err matrix_describe(mr_matrix *m, mr_fmt fmt, int64_t e, int64_t n, int64_t k)
{
    char name[32];
    *m = (mr_matrix){.fmt = fmt, .e = e, .n = n, .k = k};
    MR_TRY(mr_layout_of(fmt, &m->layout));
    if (e < 1 || n < 1 || k < 1 || n > INT32_MAX || k > INT32_MAX / 8)
        return mr_fail(MR_ELIMIT, "cpu: a weight of %lld x %lld x %lld is out of range",
                       (long long)e, (long long)n, (long long)k);
    if (mr_layout_quantised(&m->layout) && k % m->layout.k_unit)
        return mr_fail(MR_EFORMAT, "cpu: %s weights have %lld inputs, not a multiple of %d",
                       mr_fmt_name(fmt, name), (long long)k, m->layout.k_unit);
    if (!matrix_sizes(m))
        return mr_fail(MR_ELIMIT,
                       "cpu: a weight of %lld x %lld x %lld does not fit the address space",
                       (long long)e, (long long)n, (long long)k);
    return MR_OK;
}

mr_err mr_matrix_bytes(mr_fmt fmt, int64_t e, int64_t n, int64_t k, size_t *bytes)
{
    mr_matrix m;
    MR_TRY(matrix_describe(&m, fmt, e, n, k));
    *bytes = sizeof m + m.matrix * (size_t)e;
    return MR_OK;
}

mr_err mr_matrix_new(mr_matrix **out, mr_fmt fmt, int64_t e, int64_t n, int64_t k)
{
    mr_matrix d, *m;
    *out = NULL;
    MR_TRY(matrix_describe(&d, fmt, e, n, k));
    m = mr_alloc(MR_MEM_WEIGHTS, sizeof *m);
    if (!m)
        return MR_ENOMEM;
    *m = d;
    m->data = mr_zalloc(MR_MEM_WEIGHTS, d.matrix * (size_t)e);
    if (!m->data) {
        mr_free(m);
        return MR_ENOMEM;
    }
    *out = m;
    return MR_OK;
}

void mr_matrix_free(mr_matrix *m)
{
    if (m)
        mr_free(m->data);
    mr_free(m);
}

int64_t mr_matrix_n(const mr_matrix *m)
{
    return m->n;
}

int64_t mr_matrix_k(const mr_matrix *m)
{
    return m->k;
}

bool mr_matrix_int8(const mr_matrix *m, mr_precision p, bool act_f32)
{
    return mr_layout_quantised(&m->layout) && p != MR_EXACT && !act_f32;
}

mr_column mr_matrix_column(const mr_matrix *m, int64_t e, int64_t c, int64_t *first)
{
    bool wide = c < m->wide;
    int64_t narrow = wide ? 0 : c - m->wide, full = wide ? c : m->wide;
    const uint8_t *p = m->data + (size_t)e * m->matrix;
    assert(e >= 0 && e < m->e && c >= 0 && c < mr_matrix_columns(m));
    p += (size_t)(full * m->units) * m->unit[1] + (size_t)(narrow * m->units) * m->unit[0];
    *first = full * 64 + narrow * 16;
    return (mr_column){&m->layout, p, m->unit[wide], m->lines[wide], wide ? 4 : 1};
}

mr_place mr_matrix_place(const mr_matrix *m, int64_t e, int64_t o)
{
    int64_t first, c = o / 64 < m->wide ? o / 64 : m->wide + (o - m->wide * 64) / 16;
    mr_column col = mr_matrix_column(m, e, c, &first);
    int at = (int)(o - first);
    return (mr_place){(uint8_t *)m->data + (col.data - m->data), col.unit, col.nv, at / 16,
                      at % 16};
}

/* ---- one unit of one row, as plain numbers ---- */

typedef struct plain_unit {
    uint8_t q[128];
    uint8_t scale[4], bias[4]; /* bytes of the file's type */
} plain_unit;

static void plain_q4(const uint8_t *p, const uint8_t *nibbles, bool bias, plain_unit *u)
{
    memcpy(u->scale, p, 2);
    if (bias)
        memcpy(u->bias, p + 2, 2);
    for (int j = 0; j < 16; j++) {
        u->q[j] = nibbles[j] & 15;
        u->q[j + 16] = nibbles[j] >> 4;
    }
}

static void plain_q8_0(const uint8_t *p, plain_unit *u)
{
    memcpy(u->scale, p, 2);
    for (int j = 0; j < 32; j++)
        u->q[j] = p[2 + j] ^ 0x80;
}

static void plain_grouped(const mr_rows *r, int64_t row, int64_t unit, plain_unit *u)
{
    size_t size = (size_t)mr_dtype_block_bytes(r->scale_dtype);
    size_t at = (size_t)(row * (r->k / r->group) + unit) * size;
    memcpy(u->scale, (const uint8_t *)r->scales + at, size);
    if (r->biases)
        memcpy(u->bias, (const uint8_t *)r->biases + at, size);
    const uint8_t *p =
        (const uint8_t *)r->data + (size_t)row * mr_row_bytes(r->dtype, r->bits, r->k);
    p += (size_t)unit * (size_t)r->group * (size_t)r->bits / 8;
    for (int i = 0; i < r->group; i++)
        u->q[i] = r->bits == 8 ? p[i] : (uint8_t)(p[i / 2] >> (i & 1 ? 4 : 0) & 15);
}

static void plain_of(const mr_rows *r, int64_t row, int64_t unit, plain_unit *u)
{
    const uint8_t *p = (const uint8_t *)r->data +
                       (size_t)row * mr_row_bytes(r->dtype, r->bits, r->k) +
                       (size_t)unit * (size_t)mr_dtype_block_bytes(r->dtype);
    switch (r->dtype) {
    case MR_Q4_0:
        plain_q4(p, p + 2, false, u);
        break;
    case MR_Q4_1:
        plain_q4(p, p + 4, true, u);
        break;
    case MR_Q8_0:
        plain_q8_0(p, u);
        break;
    default:
        plain_grouped(r, row, unit, u);
        break;
    }
}

/* ---- scattering ---- */

static void scatter_unit(const mr_layout *l, const mr_place *at, uint8_t *dst, const plain_unit *u)
{
    size_t ss = scale_size(l), outputs = 16 * (size_t)at->nv,
           o = 16 * (size_t)at->v + (size_t)at->lane;
    uint8_t *after = dst + mr_layout_lines(l, at->nv);
    if (l->kind == MR_PACK_U4) {
        for (int i = 0; i < l->k_unit; i += 8)
            for (int j = 0; j < 4; j++)
                dst[(i / 8 * at->nv + at->v) * 64 + 4 * at->lane + j] =
                    (uint8_t)(u->q[i + j] | u->q[i + 4 + j] << 4);
    } else {
        for (int i = 0; i < l->k_unit; i += 4)
            memcpy(dst + (i / 4 * at->nv + at->v) * 64 + 4 * at->lane, u->q + i, 4);
    }
    memcpy(after + o * ss, u->scale, ss);
    if (l->bias)
        memcpy(after + (outputs + o) * ss, u->bias, ss);
}

static void fill_float(const mr_matrix *m, const mr_place *at, const uint8_t *row)
{
    size_t o = 16 * (size_t)at->v + (size_t)at->lane;
    for (int64_t k = 0; k < m->k; k++) {
        if (m->layout.kind == MR_PACK_F32)
            memcpy(at->unit0 + (size_t)k * at->unit + 4 * o, row + 4 * k, 4);
        else if (m->layout.kind == MR_PACK_F16)
            memcpy(at->unit0 + (size_t)k * at->unit + 2 * o, row + 2 * k, 2);
        else
            memcpy(at->unit0 + (size_t)(k / 2) * at->unit + 4 * o + 2 * (size_t)(k & 1),
                   row + 2 * k, 2);
    }
}

void mr_matrix_fill(mr_matrix *m, int64_t row0, const mr_rows *rows)
{
    size_t bytes = mr_row_bytes(rows->dtype, rows->bits, rows->k);
    plain_unit u;
    assert(rows->dtype == m->fmt.dtype && rows->k == m->k && row0 >= 0 &&
           row0 + rows->n <= m->e * m->n);
    for (int64_t i = 0; i < rows->n; i++) {
        mr_place at = mr_matrix_place(m, (row0 + i) / m->n, (row0 + i) % m->n);
        if (m->layout.kind == MR_PACK_CODES || m->layout.kind == MR_PACK_E4M3) {
            mr_codes_fill(m, &at, rows, i);
            continue;
        }
        if (!mr_layout_quantised(&m->layout)) {
            fill_float(m, &at, (const uint8_t *)rows->data + (size_t)i * bytes);
            continue;
        }
        for (int64_t unit = 0; unit < m->units; unit++) {
            plain_of(rows, i, unit, &u);
            scatter_unit(&m->layout, &at, at.unit0 + (size_t)unit * at.unit, &u);
        }
    }
}

mr_err mr_matrix_pack(mr_matrix **out, const mr_recipe *r, int64_t e, int64_t n, int64_t k,
                      mr_reader_fn read, void *ctx)
{
    mr_recipe_scratch scratch = {0};
    mr_matrix *m;
    mr_err err = MR_OK;
    *out = NULL;
    assert(mr_recipe_total(r) == e * n && mr_recipe_k(r) == k);
    MR_TRY(mr_matrix_new(&m, mr_recipe_fmt(r), e, n, k));
    for (int64_t row = 0, total = e * n; row < total && err == MR_OK; row += PACK_ROWS) {
        mr_rows rows;
        int64_t count = total - row < PACK_ROWS ? total - row : PACK_ROWS;
        err = mr_recipe_rows(r, row, count, read, ctx, &scratch, &rows);
        if (err == MR_OK)
            mr_matrix_fill(m, row, &rows);
    }
    mr_recipe_scratch_free(&scratch);
    if (err != MR_OK) {
        mr_matrix_free(m);
        return err;
    }
    *out = m;
    return MR_OK;
}

/* ---- reading a row back ---- */

static float number(mr_dtype t, const uint8_t *p)
{
    float f;
    uint16_t h;
    if (t == MR_F32) {
        memcpy(&f, p, 4);
        return f;
    }
    memcpy(&h, p, 2);
    return t == MR_F16 ? mr_f16_to_f32(h) : mr_bf16_to_f32(h);
}

static int plain_q(const mr_layout *l, const mr_place *at, const uint8_t *unit, int i)
{
    if (l->kind == MR_PACK_U4)
        return unit[(i / 8 * at->nv + at->v) * 64 + 4 * at->lane + i % 4] >> (i & 4) & 15;
    return unit[(i / 4 * at->nv + at->v) * 64 + 4 * at->lane + i % 4];
}

/* The roundings of mr_dequant_row. */
static void unit_row(const mr_layout *l, const mr_place *at, const uint8_t *unit, float *dst)
{
    size_t ss = scale_size(l), outputs = 16 * (size_t)at->nv,
           o = 16 * (size_t)at->v + (size_t)at->lane;
    const uint8_t *after = unit + mr_layout_lines(l, at->nv);
    float s = number(l->scale_dtype, after + o * ss);
    float b = l->bias ? number(l->scale_dtype, after + (outputs + o) * ss) : 0.0f;
    for (int i = 0; i < l->k_unit; i++) {
        float t = s * (float)(plain_q(l, at, unit, i) - l->zero);
        dst[i] = l->bias ? t + b : t;
    }
}

void mr_matrix_row(const mr_matrix *m, int64_t e, int64_t row, float *dst)
{
    mr_place at = mr_matrix_place(m, e, row);
    size_t o = 16 * (size_t)at.v + (size_t)at.lane;
    switch (m->layout.kind) {
    case MR_PACK_F32:
    case MR_PACK_F16:
        for (int64_t k = 0; k < m->k; k++)
            dst[k] = number(m->fmt.dtype, at.unit0 + (size_t)k * at.unit +
                                              o * (m->layout.kind == MR_PACK_F32 ? 4 : 2));
        break;
    case MR_PACK_BF16:
        for (int64_t k = 0; k < m->k; k++)
            dst[k] =
                number(MR_BF16, at.unit0 + (size_t)(k / 2) * at.unit + 4 * o + 2 * (size_t)(k & 1));
        break;
    case MR_PACK_E4M3:
    case MR_PACK_CODES:
        mr_codes_row(m, &at, dst);
        break;
    default:
        for (int64_t u = 0; u < m->units; u++)
            unit_row(&m->layout, &at, at.unit0 + (size_t)u * at.unit, dst + u * m->layout.k_unit);
        break;
    }
}
