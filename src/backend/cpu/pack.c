/* Packing: rows of a file's format into columns of 16 and 64 outputs.
 *
 * Once per weight, at load, by all threads: a task reads some rows and packs them.  16 rows that
 * share their lines go together, unit by unit: each row gives its dword of every line, and whole
 * lines are written, so that memory sees neither scattered stores nor a line twice.  (What pack_codes.c
 * and pack_across.c pack is scattered.)
 */
#include "backend/cpu/matmul_core.h"

#include <assert.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

enum {
    PACK_ROWS = 1024,       /* rows of a task at most, */
    PACK_BYTES = 256 << 10, /* halved until they are so small; 64 at least */
    PACK_LINES = 32,        /* of a unit: 128 bytes of k, or 256 nibbles */
    FAR_BYTES = 3072        /* about so far ahead few rows ask for weights */
};

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
    if (!mr_dtype_is_weight(fmt.dtype, fmt.bits) ||
        (mr_dtype_is_grouped(fmt.dtype) &&
         !mr_group_known(fmt.dtype, fmt.bits, fmt.group, fmt.scale_dtype)))
        return mr_fail(MR_EUNSUPPORTED, "cpu: weights of format %s are not done",
                       mr_fmt_name(fmt, name));
    if (fmt.across) {
        mr_across_layout(fmt, out);
        return MR_OK;
    }
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
    case MR_PACK_ACROSS:
        return outputs * (size_t)(l->k_unit * l->form.bits) / 8;
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
    else if (mr_layout_across(l))
        bytes += 2 * sizeof(float) * (size_t)(l->k_unit * mr_across_groups(l, nv));
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
        /* Codes are asked for in the order of their lines, others where a unit's are read. */
        const size_t by = m->layout.kind == MR_PACK_CODES ? 64 : m->unit[wide];
        m->far[wide] = (FAR_BYTES + by - 1) / by * by;
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
    if (mr_layout_across(&m->layout) && n % m->layout.form.run)
        return mr_fail(MR_EFORMAT, "cpu: %s weights have %lld outputs, not a multiple of %d",
                       mr_fmt_name(fmt, name), (long long)n, m->layout.form.run);
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
    m->data = mr_zalloc_streamed(MR_MEM_WEIGHTS, d.matrix * (size_t)e);
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
    return (mr_column){.layout = &m->layout,
                       .data = p,
                       .unit = m->unit[wide],
                       .lines = m->lines[wide],
                       .nv = wide ? 4 : 1,
                       .far = m->far[wide]};
}

mr_place mr_matrix_place(const mr_matrix *m, int64_t e, int64_t o)
{
    int64_t first, c = o / 64 < m->wide ? o / 64 : m->wide + (o - m->wide * 64) / 16;
    mr_column col = mr_matrix_column(m, e, c, &first);
    int at = (int)(o - first);
    return (mr_place){(uint8_t *)m->data + (col.data - m->data), col.unit, col.nv, at / 16,
                      at % 16};
}

/* ---- one row of 16: the dwords it has in each line ---- */

/* k..k+7, two to a byte in order, as k+j low and k+4+j high in byte j. */
static uint32_t pair_fours(uint32_t q)
{
    uint32_t low = q & 0xffff, high = q >> 16;
    low = (low | low << 8) & 0x00ff00ff;
    high = (high | high << 8) & 0x00ff00ff;
    return ((low | low << 4) & 0x0f0f0f0f) | ((high | high << 4) & 0x0f0f0f0f) << 4;
}

static uint32_t dword(const uint8_t *p)
{
    uint32_t u;
    memcpy(&u, p, 4);
    return u;
}

/* One unit of a row, with its scale and bias where they are. */
typedef struct unit_parts {
    uint32_t lines[PACK_LINES];
    const uint8_t *scale, *bias;
} unit_parts;

/* Block formats of GGUF: 32 weights, elements 0..15 low and 16..31 high. */
static void ggml_parts(const uint8_t *p, mr_dtype t, unit_parts *u)
{
    const uint8_t *q = p + (t == MR_Q4_1 ? 4 : 2);
    u->scale = p;
    u->bias = p + 2;
    for (int i = 0; i < 8 && t == MR_Q8_0; i++)
        u->lines[i] = dword(q + 4 * i) ^ 0x80808080;
    for (int i = 0; i < 2 && t != MR_Q8_0; i++) {
        uint32_t a = dword(q + 8 * i), b = dword(q + 8 * i + 4);
        u->lines[i] = (a & 0x0f0f0f0f) | (b & 0x0f0f0f0f) << 4;
        u->lines[i + 2] = (a >> 4 & 0x0f0f0f0f) | (b & 0xf0f0f0f0);
    }
}

static void grouped_parts(const mr_rows *r, const uint8_t *row, int64_t at, int64_t unit,
                          unit_parts *u)
{
    size_t size = (size_t)mr_dtype_block_bytes(r->scale_dtype), place = (size_t)at * size;
    const uint8_t *p = row + (size_t)unit * (size_t)r->group * (size_t)r->bits / 8;
    u->scale = (const uint8_t *)r->scales + place;
    u->bias = r->biases ? (const uint8_t *)r->biases + place : NULL;
    if (r->bits == 8)
        memcpy(u->lines, p, (size_t)r->group);
    else
        for (int i = 0; i < r->group / 8; i++)
            u->lines[i] = pair_fours(dword(p + 4 * i));
}

/* ---- up to 16 rows of one lane block ---- */

/* Block: [line][lane]; whole lines are written at once. */
static void put_lines(uint8_t *dst, size_t stride, uint32_t block[][16], int lines, int lane,
                      int lanes)
{
    for (int i = 0; i < lines; i++)
        memcpy(dst + (size_t)i * stride + 4 * (size_t)lane, block[i] + lane, 4 * (size_t)lanes);
}

static void fill_units(const mr_matrix *m, const mr_place *at, const mr_rows *rows, int64_t row,
                       int lanes)
{
    const mr_layout *l = &m->layout;
    const size_t bytes = mr_row_bytes(rows->dtype, rows->bits, rows->k), ss = scale_size(l);
    const size_t outputs = 16 * (size_t)at->nv, o = 16 * (size_t)at->v + (size_t)at->lane;
    const int lines = l->k_unit / (l->kind == MR_PACK_U4 ? 8 : 4);
    const bool grouped = mr_dtype_is_grouped(rows->dtype);
    uint32_t block[PACK_LINES][16];
    unit_parts u;
    for (int64_t unit = 0; unit < m->units; unit++) {
        uint8_t *dst = at->unit0 + (size_t)unit * at->unit;
        uint8_t *after = dst + mr_layout_lines(l, at->nv);
        for (int i = 0; i < lanes; i++) {
            const uint8_t *p = (const uint8_t *)rows->data + (size_t)(row + i) * bytes;
            if (grouped)
                grouped_parts(rows, p, (row + i) * m->units + unit, unit, &u);
            else
                ggml_parts(p + (size_t)(unit * mr_dtype_block_bytes(rows->dtype)), rows->dtype, &u);
            for (int j = 0; j < lines; j++)
                block[j][at->lane + i] = u.lines[j];
            memcpy(after + (o + (size_t)i) * ss, u.scale, ss);
            if (l->bias)
                memcpy(after + (outputs + o + (size_t)i) * ss, u.bias, ss);
        }
        put_lines(dst + 64 * (size_t)at->v, 64 * (size_t)at->nv, block, lines, at->lane, lanes);
    }
}

/* Floats: a dword is an F32, or a pair of BF16 (an odd k leaves half of the last one 0). */
static void fill_floats(const mr_matrix *m, const mr_place *at, const mr_rows *rows, int64_t row,
                        int lanes)
{
    const size_t bytes = mr_row_bytes(rows->dtype, rows->bits, rows->k);
    const uint8_t *first = (const uint8_t *)rows->data + (size_t)row * bytes;
    uint32_t block[PACK_LINES][16];
    for (int64_t unit = 0; unit < m->units; unit += PACK_LINES) {
        int64_t left = m->units - unit;
        int lines = (int)(left < PACK_LINES ? left : PACK_LINES);
        for (int i = 0; i < lanes; i++) {
            const size_t from = 4 * (size_t)unit;
            uint32_t words[PACK_LINES] = {0};
            size_t size = 4 * (size_t)lines;
            memcpy(words, first + (size_t)i * bytes + from,
                   bytes - from < size ? bytes - from : size);
            for (int j = 0; j < lines; j++)
                block[j][at->lane + i] = words[j];
        }
        put_lines(at->unit0 + (size_t)unit * at->unit + 64 * (size_t)at->v, at->unit, block, lines,
                  at->lane, lanes);
    }
}

static void fill_halves(const mr_matrix *m, const mr_place *at, const mr_rows *rows, int64_t row,
                        int lanes)
{
    const size_t o = 16 * (size_t)at->v + (size_t)at->lane;
    const uint8_t *from = (const uint8_t *)rows->data + 2 * (size_t)(row * m->k);
    for (int64_t k = 0; k < m->k; k++) {
        uint8_t *to = at->unit0 + (size_t)k * at->unit + 2 * o;
        for (int i = 0; i < lanes; i++)
            memcpy(to + 2 * i, from + 2 * (i * m->k + k), 2);
    }
}

void mr_matrix_fill(mr_matrix *m, int64_t row0, const mr_rows *rows)
{
    assert(rows->dtype == m->fmt.dtype && rows->k == m->k && row0 >= 0 &&
           row0 + rows->n <= m->e * m->n);
    for (int64_t i = 0, lanes; i < rows->n; i += lanes) {
        int64_t o = (row0 + i) % m->n, left = rows->n - i;
        mr_place at = mr_matrix_place(m, (row0 + i) / m->n, o);
        lanes = 16 - at.lane;
        lanes = lanes < left ? lanes : left;
        lanes = lanes < m->n - o ? lanes : m->n - o;
        if (rows->across) {
            left = rows->across - (rows->first + i) % rows->across; /* of the run */
            lanes = lanes < left ? lanes : left;
        }
        switch (m->layout.kind) {
        case MR_PACK_CODES:
        case MR_PACK_E4M3:
            mr_codes_fill(m, &at, rows, i, (int)lanes);
            break;
        case MR_PACK_ACROSS:
        case MR_PACK_ACROSS_E4M3:
            mr_across_fill(m, &at, rows, i, (int)lanes);
            break;
        case MR_PACK_F16:
            fill_halves(m, &at, rows, i, (int)lanes);
            break;
        case MR_PACK_F32:
        case MR_PACK_BF16:
            fill_floats(m, &at, rows, i, (int)lanes);
            break;
        default:
            fill_units(m, &at, rows, i, (int)lanes);
            break;
        }
    }
}

/* ---- a whole matrix ---- */

typedef struct pack_task {
    mr_matrix *m;
    const mr_recipe *recipe;
    mr_reader_fn read;
    void *ctx;
    int64_t total, each; /* rows, and how many a task packs */
    atomic_bool failed;
    mr_err err; /* of the first task that failed; messages belong to threads, so it is kept too */
    char message[MR_ERR_MAX];
} pack_task;

static mr_err pack_rows(const pack_task *t, int64_t task)
{
    mr_recipe_scratch scratch = {0};
    mr_rows rows;
    int64_t row = task * t->each, left = t->total - row;
    mr_err err = mr_recipe_rows(t->recipe, row, left < t->each ? left : t->each, t->read, t->ctx,
                                &scratch, &rows);
    if (err == MR_OK)
        mr_matrix_fill(t->m, row, &rows);
    mr_recipe_scratch_free(&scratch);
    return err;
}

static void pack_some(void *ctx, int task, int worker)
{
    pack_task *t = ctx;
    (void)worker;
    if (atomic_load(&t->failed))
        return;
    mr_err err = pack_rows(t, task);
    if (err == MR_OK || atomic_exchange(&t->failed, true))
        return;
    t->err = err;
    snprintf(t->message, sizeof t->message, "%s", mr_error());
}

mr_err mr_matrix_pack(mr_matrix **out, const mr_recipe *r, int64_t e, int64_t n, int64_t k,
                      mr_pool *pool, mr_reader_fn read, void *ctx)
{
    mr_fmt fmt = mr_recipe_fmt(r);
    mr_matrix *m;
    *out = NULL;
    assert(mr_recipe_total(r) == e * n && mr_recipe_k(r) == k);
    MR_TRY(mr_matrix_new(&m, fmt, e, n, k));
    pack_task t = {
        .m = m, .recipe = r, .read = read, .ctx = ctx, .total = e * n, .each = PACK_ROWS};
    while (t.each > 64 && (size_t)t.each * mr_row_bytes(fmt.dtype, fmt.bits, k) > PACK_BYTES)
        t.each /= 2;
    mr_pool_run(pool, (int)((t.total + t.each - 1) / t.each), pack_some, &t);
    if (atomic_load(&t.failed)) {
        mr_matrix_free(m);
        return mr_fail(t.err, "%s", t.message);
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
    case MR_PACK_ACROSS:
    case MR_PACK_ACROSS_E4M3:
        mr_across_row(m, &at, dst);
        break;
    default:
        for (int64_t u = 0; u < m->units; u++)
            unit_row(&m->layout, &at, at.unit0 + (size_t)u * at.unit, dst + u * m->layout.k_unit);
        break;
    }
}
