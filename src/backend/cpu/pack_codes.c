/* Packing of codes in planes and of E4M3: what matmul_core.h draws for CODES and E4M3, and the
 * shapes of the panels they are unpacked to.
 *
 * tensor/codes.c takes a block of the file apart into plain codes, scales and sub-scales; here they
 * are scattered so that 16 outputs lie side by side.  Nothing is re-quantised, and no plane has a
 * bit more than the file.
 */
#include "backend/cpu/matmul_core.h"

#include <assert.h>
#include <string.h>

/* ---- shapes ---- */

int mr_codes_zero(const mr_code_form *f)
{
    return f->table == MR_TABLE_IQ4 ? 128 : f->table == MR_TABLE_E2M1 ? 12 : f->zero;
}

mr_err mr_codes_layout(mr_fmt fmt, mr_layout *out)
{
    mr_code_form f;
    if (!mr_code_form_of(&f, fmt.dtype, fmt.bits, fmt.group, fmt.scale_dtype)) {
        *out =
            (mr_layout){.kind = MR_PACK_E4M3, .k_unit = fmt.group, .scale_dtype = fmt.scale_dtype};
        return MR_OK;
    }
    *out = (mr_layout){.kind = MR_PACK_CODES,
                       .k_unit = f.block,
                       .act_group = f.run < 64 ? 32 : 64,
                       .zero = mr_codes_zero(&f),
                       .scale_dtype = f.scale,
                       .bias = f.bias,
                       .form = f};
    return MR_OK;
}

/* Which planes a width has: 4, 2 and 1 bits. */
static bool has_plane(int bits, int plane)
{
    return bits == 3 ? plane != 4 : (bits & plane) != 0;
}

size_t mr_codes_lines(const mr_layout *l, int nv)
{
    return 16 * (size_t)nv * (size_t)l->k_unit * (size_t)l->form.bits / 8;
}

/* Sub-scales that are a byte each; the others are bits in words. */
static bool subs_are_bytes(const mr_code_form *f)
{
    return f->bits == 6 || f->table;
}

/* Bytes of sub-scales and mins per output. */
static size_t sub_bytes(const mr_code_form *f)
{
    if (!f->sub && f->scale != MR_F8_E4M3)
        return 0;
    return subs_are_bytes(f) ? (size_t)(f->block / f->run) : f->bits == 2 ? 16 : 12;
}

size_t mr_codes_sides(const mr_layout *l, int nv)
{
    const mr_code_form *f = &l->form;
    size_t outputs = 16 * (size_t)nv, number = (size_t)mr_dtype_block_bytes(l->scale_dtype);
    if (l->kind == MR_PACK_E4M3)
        return outputs * number;
    size_t runs = (size_t)(f->block / f->run);
    if (l->kind == MR_PACK_SUBS && f->scale == MR_F8_E4M3)
        return outputs * runs * 4;
    if (l->kind == MR_PACK_SUBS)
        return outputs * (runs + 4) * (l->bias ? 2 : 1);
    if (f->scale == MR_F8_E4M3)
        return outputs * sub_bytes(f);
    return outputs * (sub_bytes(f) + number * (l->bias ? 2 : 1));
}

mr_layout mr_layout_bytes(const mr_layout *l)
{
    mr_layout b = *l;
    if (l->kind == MR_PACK_U4)
        b.kind = MR_PACK_U4_BYTES;
    if (l->kind != MR_PACK_CODES)
        return b;
    b.kind = l->form.run == 16               ? MR_PACK_SUBS
             : l->form.table == MR_TABLE_IQ4 ? MR_PACK_U8
                                             : MR_PACK_U4_BYTES;
    if (b.kind != MR_PACK_SUBS)
        b.k_unit = l->form.run;
    if (l->form.sub || l->scale_dtype == MR_F8_E8M0 || l->scale_dtype == MR_F8_E4M3)
        b.scale_dtype = MR_F32;
    return b;
}

/* ---- codes ---- */

/* A plane of a unit's blocks: its bits, how far up they go, and where the first block has it for an output;
 * bytes from line to line, and from block to block. */
typedef struct plane {
    int bits, up;
    uint8_t *at;
    size_t line, block;
} plane;

static int planes_of(const mr_layout *l, const mr_place *at, uint8_t *unit, plane p[3])
{
    const size_t line = 64 * (size_t)at->nv, block = line * (size_t)l->form.bits;
    uint8_t *own = unit + at->unit - mr_codes_lines(l, at->nv) + 64 * at->v + 4 * at->lane;
    int n = 0, up = 0;
    for (int bits = 4; bits; bits /= 2)
        if (has_plane(l->form.bits, bits)) {
            p[n++] = (plane){bits, up, own, line, block};
            own += line * (size_t)bits;
            up += bits;
        }
    return n;
}

/* Where a plane has its bits of value k: lines hold 8/bits quads. */
static uint8_t *plane_byte(const plane *p, int k)
{
    return p->at + (size_t)(k / 32) * p->block + (size_t)(k % 32 * p->bits / 32) * p->line + k % 4;
}

static int plane_shift(const plane *p, int k)
{
    return k / 4 % (8 / p->bits) * p->bits;
}

/* ---- sub-scales ---- */

/* Number i: in word i/8 of its four low bits, and of the high ones. */
static int low_shift(int i)
{
    return i % 4 * 8 + i / 4 % 2 * 4;
}

static int high_shift(int i)
{
    return i % 4 * 8 + i / 4 * 2;
}

static uint32_t word_of(const uint8_t *p, size_t outputs, size_t o, int word)
{
    uint32_t w;
    memcpy(&w, p + ((size_t)word * outputs + o) * 4, 4);
    return w;
}

/* Number i of the 16 of six bits: subs then mins, or subs + 32. */
static int sixth(const mr_code_form *f, const mr_codes *c, int i)
{
    if (f->run == 16)
        return c->sub[i] + 32;
    return i < 8 ? c->sub[i] : c->min[i - 8];
}

static void put_subs(const mr_code_form *f, const mr_codes *c, uint8_t *p, size_t outputs, size_t o)
{
    size_t bytes = sub_bytes(f);
    int runs = f->block / f->run;
    if (subs_are_bytes(f)) {
        for (int i = 0; i < runs; i++)
            p[(size_t)i * outputs + o] = (uint8_t)c->sub[i];
        return;
    }
    uint32_t words[4] = {0};
    for (int i = 0; i < 16; i++) {
        if (bytes == 16) {
            words[i / 8] |= (uint32_t)c->sub[i] << low_shift(i);
            words[2 + i / 8] |= (uint32_t)c->min[i] << low_shift(i);
        } else {
            uint32_t v = (uint32_t)sixth(f, c, i);
            words[i / 8] |= (v & 15) << low_shift(i);
            words[2] |= v >> 4 << high_shift(i);
        }
    }
    for (size_t i = 0; i < bytes / 4; i++)
        memcpy(p + (i * outputs + o) * 4, &words[i], 4);
}

static void get_subs(const mr_code_form *f, mr_codes *c, const uint8_t *p, size_t outputs, size_t o)
{
    size_t bytes = sub_bytes(f);
    int runs = f->block / f->run;
    if (subs_are_bytes(f)) {
        for (int i = 0; i < runs; i++)
            c->sub[i] = (int8_t)p[(size_t)i * outputs + o];
        return;
    }
    for (int i = 0; i < 16; i++) {
        int shift = low_shift(i), v = (int)(word_of(p, outputs, o, i / 8) >> shift & 15);
        if (bytes == 16) {
            c->sub[i] = (int8_t)v;
            c->min[i] = word_of(p, outputs, o, 2 + i / 8) >> shift & 15;
            continue;
        }
        v |= (int)(word_of(p, outputs, o, 2) >> high_shift(i) & 3) << 4;
        if (f->run == 16)
            c->sub[i] = (int8_t)(v - 32);
        else if (i < 8)
            c->sub[i] = (int8_t)v;
        else
            c->min[i - 8] = (uint8_t)v;
    }
}

/* ---- rows ---- */

/* A line takes a dword of every output: quads of codes, their fields side by side. */
static void fill_plane(const plane *p, int k_unit, const uint8_t *q)
{
    const uint32_t mask = ((1u << p->bits) - 1) * 0x01010101u;
    const int quads = 8 / p->bits;
    for (int k = 0; k < k_unit; k += 4 * quads) {
        uint32_t line = 0, quad;
        for (int i = 0; i < quads; i++) {
            memcpy(&quad, q + k + 4 * i, 4);
            line |= (quad >> p->up & mask) << p->bits * i;
        }
        memcpy(plane_byte(p, k), &line, 4);
    }
}

static void fill_unit(const mr_layout *l, const mr_place *at, uint8_t *unit, const mr_codes *c)
{
    const mr_code_form *f = &l->form;
    size_t outputs = 16 * (size_t)at->nv, o = 16 * (size_t)at->v + (size_t)at->lane,
           size = (size_t)mr_dtype_block_bytes(l->scale_dtype);
    uint8_t *sides = unit;
    plane p[3];
    int n = planes_of(l, at, unit, p);
    for (int j = 0; j < n; j++)
        fill_plane(&p[j], l->k_unit, c->q);
    if (sub_bytes(f))
        put_subs(f, c, sides, outputs, o);
    if (l->scale_dtype == MR_F8_E4M3)
        return;
    sides += outputs * sub_bytes(f);
    memcpy(sides + o * size, c->scale, size);
    if (l->bias)
        memcpy(sides + (outputs + o) * size, c->bias, size);
}

static void read_unit(const mr_layout *l, const mr_place *at, uint8_t *unit, mr_codes *c)
{
    const mr_code_form *f = &l->form;
    size_t outputs = 16 * (size_t)at->nv, o = 16 * (size_t)at->v + (size_t)at->lane,
           size = (size_t)mr_dtype_block_bytes(l->scale_dtype);
    const uint8_t *sides = unit;
    plane p[3];
    int n = planes_of(l, at, unit, p);
    memset(c->q, 0, (size_t)l->k_unit);
    for (int j = 0; j < n; j++)
        for (int k = 0; k < l->k_unit; k++) {
            int bits = *plane_byte(&p[j], k) >> plane_shift(&p[j], k);
            c->q[k] |= (uint8_t)((bits & ((1 << p[j].bits) - 1)) << p[j].up);
        }
    if (sub_bytes(f))
        get_subs(f, c, sides, outputs, o);
    if (l->scale_dtype == MR_F8_E4M3)
        return;
    sides += outputs * sub_bytes(f);
    memcpy(c->scale, sides + o * size, size);
    if (l->bias)
        memcpy(c->bias, sides + (outputs + o) * size, size);
}

static void fill_e4m3(const mr_matrix *m, const mr_place *at, const mr_rows *r, int64_t row)
{
    size_t size = (size_t)mr_dtype_block_bytes(r->scale_dtype),
           o = 16 * (size_t)at->v + (size_t)at->lane;
    const uint8_t *q = (const uint8_t *)r->data + (size_t)(row * r->k);
    const uint8_t *s = (const uint8_t *)r->scales +
                       (size_t)row * mr_row_scale_bytes(r->dtype, r->group, r->scale_dtype, r->k);
    for (int64_t k = 0; k < r->k; k++) {
        int in = (int)(k % m->layout.k_unit);
        uint8_t *unit = at->unit0 + (size_t)(k / m->layout.k_unit) * at->unit;
        unit[(in / 4 * at->nv + at->v) * 64 + 4 * at->lane + in % 4] = q[k];
    }
    for (int64_t u = 0; u < m->units; u++)
        memcpy(at->unit0 + (size_t)u * at->unit + mr_layout_lines(&m->layout, at->nv) + o * size,
               s + (size_t)u * size, size);
}

void mr_codes_fill(const mr_matrix *m, const mr_place *at, const mr_rows *rows, int64_t row,
                   int lanes)
{
    mr_place own = *at;
    mr_codes c;
    if (m->layout.kind == MR_PACK_E4M3) {
        for (int i = 0; i < lanes; i++, own.lane++)
            fill_e4m3(m, &own, rows, row + i);
        return;
    }
    for (int64_t u = 0; u < m->units; u++)
        for (int i = 0; i < lanes; i++) {
            own.lane = at->lane + i;
            mr_codes_read(&m->layout.form, rows, row + i, u, &c);
            fill_unit(&m->layout, &own, at->unit0 + (size_t)u * at->unit, &c);
        }
}

/* The roundings of mr_dequant_row, to which a packed row is a stored one. */
void mr_codes_row(const mr_matrix *m, const mr_place *at, float *dst)
{
    const mr_layout *l = &m->layout;
    const mr_code_form *f = &l->form;
    size_t o = 16 * (size_t)at->v + (size_t)at->lane;
    mr_codes c;
    for (int64_t k = 0; l->kind == MR_PACK_E4M3 && k < m->k; k++) {
        const uint8_t *unit = at->unit0 + (size_t)(k / l->k_unit) * at->unit;
        int in = (int)(k % l->k_unit);
        dst[k] =
            mr_e4m3_to_f32(unit[(in / 4 * at->nv + at->v) * 64 + 4 * at->lane + in % 4]) *
            mr_number_load(l->scale_dtype, unit + mr_layout_lines(l, at->nv) +
                                               o * (size_t)mr_dtype_block_bytes(l->scale_dtype));
    }
    for (int64_t u = 0; l->kind == MR_PACK_CODES && u < m->units; u++) {
        read_unit(l, at, at->unit0 + (size_t)u * at->unit, &c);
        mr_codes_values(f, &c, dst + u * f->block);
    }
}
