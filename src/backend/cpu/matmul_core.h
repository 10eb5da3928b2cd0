/* What packing, the product kernels and their drivers share.
 *
 * Why:    one packed layout serves both kernel shapes and every ISA; this header draws it.
 * Packed: a matrix is columns of 64 outputs, then at most three of 16 (outputs are padded with
 *         zeros to a multiple of 16).  A column is its units in ascending k, one after the other:
 *
 *           kind  k per unit  lines of 64 bytes, each for 16 outputs o (a column of 64: 4 a row)
 *           F32   1           one float per output
 *           F16   1           one half per output (lines of 32 bytes)
 *           BF16  2           per output the pair (k, k+1)
 *           U4    group       per 8 k: byte 4*o+j = q[k+j] low nibble, q[k+4+j] high nibble
 *           U8    group       per 4 k: byte 4*o+j = q[k+j]
 *           E4M3  group       per 4 k: byte 4*o+j = element k+j
 *           ACROSS      8     as U4 or U8 (form.bits): groups run along outputs
 *           ACROSS_E4M3 8     as E4M3, the same
 *           CODES block       per 32 k planes, one after the other (form.bits 4 5 6 have the first,
 *                             2 3 6 the second, 3 5 the third), of lines of 64 bytes each for 16
 *                             outputs: per 8 k the low 4 bits as U4; per 16 k pairs of bits, byte
 *                             4*o+j has k+j, k+4+j, k+8+j, k+12+j from bit 0 up; per 32 k single
 *                             bits alike
 *
 *         After the lines of a quantised unit, of CODES before them: one scale per output in the
 *         file's type, then (bias) one bias per output.  They are padded to 64 bytes.
 *         w = s*q + b, or s*(q - zero) where no bias is stored.  E4M3 and CODES without sub-scales:
 *         the same; a last unit of E4M3 that is cut short has elements 0.  CODES with sub-scales, all
 *         [..][outputs]:
 *           Q4_K Q5_K Q3_K   words of 4 bytes: low 4 bits of numbers 0..7, of 8..15, high 2 bits of
 *                            all; number i in byte i%4, from bit 0 up; numbers: sub 0..7 then
 *                            min 0..7; sub + 32
 *           Q2_K             the same of 4 bits: sub 0..7, 8..15, min 0..7, 8..15
 *           others           one byte per sub
 *         then d, and the min's scale, in f16 (E4M3 scales: neither).  ACROSS: f32 scales [8 k][groups of
 *         the column, 1 at least], then as many biases (-s*zero where the format has none; E4M3: 0), which
 *         hold for form.run outputs; a last unit that is cut short is zero there.
 * Panels: what many rows read, and few through a buffer: bytes, lines as U8's.
 *           U4_BYTES   codes up to 63; scale and bias as U4's, or f32
 *           SUBS       two runs per 32 k: codes up to 63, then int8 subs [runs][outputs], (bias)
 *                      mins alike, f32 d, (bias) -dmin; E4M3 scales: f32 [runs][outputs] alone
 *         CODES with a table become table[q] + zero: 12 for E2M1; 128, as U8, for IQ4.
 * Rows:   a row of activations for int8 products is a header (D), one record per group, and the
 *         values n; see quantise_lanes.h.
 * Use:    drivers ask mr_mm_kernels_for(isa) and call its functions per column.
 * Threads: everything here is read-only once packed.
 */
#ifndef MR_BACKEND_CPU_MATMUL_CORE_H
#define MR_BACKEND_CPU_MATMUL_CORE_H

#include "backend/cpu/matmul.h"
#include "tensor/codes.h"

typedef enum mr_pack_kind {
    MR_PACK_F32,
    MR_PACK_F16,
    MR_PACK_BF16,
    MR_PACK_E4M3,
    MR_PACK_ACROSS,
    MR_PACK_ACROSS_E4M3,
    MR_PACK_U4,
    MR_PACK_U8,
    MR_PACK_U4_BYTES, /* this and the next only in panels */
    MR_PACK_SUBS,
    MR_PACK_CODES
} mr_pack_kind;

/* Kinds of which few rows may be more: mr_mm_kernels.few_f32. */
static inline bool mr_pack_few(mr_pack_kind kind)
{
    return kind == MR_PACK_U4 || kind == MR_PACK_U8 || kind == MR_PACK_BF16 || kind == MR_PACK_F16;
}

typedef struct mr_layout {
    mr_pack_kind kind;
    int k_unit;           /* k per unit */
    int act_group;        /* activation group of int8 products: 32 or 64; 0 for float kinds */
    int zero;             /* subtracted from q when no bias is stored: 0, 8, 32, 128 ... */
    mr_dtype scale_dtype; /* F32 F16 BF16; E4M3 and CODES also F8_E8M0, CODES F8_E4M3 */
    bool bias;            /* biases (or mins) are stored */
    mr_code_form form;    /* CODES, SUBS and ACROSS */
} mr_layout;

/* MR_EUNSUPPORTED names the format. */
mr_err mr_layout_of(mr_fmt fmt, mr_layout *out);
/* The layout of a U4 or CODES column unpacked to bytes; others are their own. */
mr_layout mr_layout_bytes(const mr_layout *l);
/* pack_codes.c's share: CODES and E4M3; pack_across.c's. */
mr_err mr_codes_layout(mr_fmt fmt, mr_layout *out);
int mr_codes_zero(
    const mr_code_form *f); /* mr_layout.zero: a table's entries are packed as bytes */
size_t mr_codes_lines(const mr_layout *l, int nv);
size_t mr_codes_sides(const mr_layout *l, int nv); /* bytes after the lines */
void mr_across_layout(mr_fmt fmt, mr_layout *out);
/* Meets activations of 8 bits: not the floats, E4M3 among them, and not what is ACROSS. */
static inline bool mr_layout_quantised(const mr_layout *l)
{
    return l->act_group != 0;
}
/* Q4_K: lines of U4, with scales and biases made of small integers. */
static inline bool mr_layout_q4_k(const mr_layout *l)
{
    return l->kind == MR_PACK_CODES && l->form.bits == 4 && l->form.sub && l->bias;
}
static inline bool mr_layout_q5_k(const mr_layout *l)
{
    return l->kind == MR_PACK_CODES && l->form.bits == 5 && l->form.sub && l->bias;
}
/* Codes that more rows take as they lie: Q4_K and Q5_K, and two runs in a group of 32 k, with which
 * unpacking is little beside the products. */
static inline bool mr_layout_direct(const mr_layout *l)
{
    return mr_layout_q4_k(l) || mr_layout_q5_k(l) ||
           (l->kind == MR_PACK_CODES && mr_layout_bytes(l).kind == MR_PACK_SUBS);
}
/* Lines of U4, whatever they stand for, and a scale for each run of 32. */
static inline bool mr_layout_nibbles(const mr_layout *l)
{
    return l->kind == MR_PACK_U4 ||
           (l->kind == MR_PACK_CODES && l->form.bits == 4 && l->form.run == 32);
}
static inline bool mr_layout_across(const mr_layout *l)
{
    return l->kind == MR_PACK_ACROSS || l->kind == MR_PACK_ACROSS_E4M3;
}
/* ACROSS: scales of one k in a column of 16*nv outputs. */
static inline int mr_across_groups(const mr_layout *l, int nv)
{
    return 16 * nv > l->form.run ? 16 * nv / l->form.run : 1;
}
/* Bytes of one unit in a column of 16*nv outputs (nv 1 or 4), and of its lines alone. */
size_t mr_layout_unit(const mr_layout *l, int nv);
size_t mr_layout_lines(const mr_layout *l, int nv);

struct mr_matrix {
    mr_fmt fmt;
    mr_layout layout;
    int64_t e, n, k;
    int64_t wide, narrow; /* columns of 64 and of 16 outputs per matrix */
    int64_t units;        /* per column */
    size_t unit[2], lines[2],
        matrix;    /* bytes: unit (and its lines) of a narrow and a wide column, one matrix */
    size_t far[2]; /* mr_column.far of such columns */
    uint8_t *data;
};

/* An empty (zero) matrix, to be filled by rows in any order: rows->n rows from row0 on, counted
 * over all e*n.  The kernel checker packs this way, a recipe does below it. */
mr_err mr_matrix_new(mr_matrix **out, mr_fmt fmt, int64_t e, int64_t n, int64_t k);
void mr_matrix_fill(mr_matrix *m, int64_t row0, const mr_rows *rows);

/* Where output o of matrix e lies: the first unit of its column, lane block and lane. */
typedef struct mr_place {
    uint8_t *unit0;
    size_t unit;
    int nv, v, lane;
} mr_place;
mr_place mr_matrix_place(const mr_matrix *m, int64_t e, int64_t o);
/* CODES and E4M3: `lanes` rows of `rows` to their places, and a packed row as f32. */
void mr_codes_fill(const mr_matrix *m, const mr_place *at, const mr_rows *rows, int64_t row,
                   int lanes);
void mr_codes_row(const mr_matrix *m, const mr_place *at, float *dst);
/* The same of what is ACROSS; the rows are of one run. */
void mr_across_fill(const mr_matrix *m, const mr_place *at, const mr_rows *rows, int64_t row,
                    int lanes);
void mr_across_row(const mr_matrix *m, const mr_place *at, float *dst);

typedef struct mr_column {
    const mr_layout *layout;
    const uint8_t *data;
    size_t unit, lines; /* bytes of a unit, and of its lines */
    int nv;             /* 16*nv outputs */
    const uint8_t *ask; /* panels: what will be unpacked next, to be asked for meanwhile */
    size_t ask_bytes;   /* or 0 */
    /* Few rows: each line asks for the one `far` bytes on, but where that is at `end` or
     * behind it for the one `jump` further. */
    size_t far, jump;
    const uint8_t *end;
} mr_column;

static inline int64_t mr_matrix_columns(const mr_matrix *m)
{
    return m->wide + m->narrow;
}
/* Column c of matrix e; *first is its first output; end is NULL, jump 0. */
mr_column mr_matrix_column(const mr_matrix *m, int64_t e, int64_t c, int64_t *first);

/* mr_column.far for lines from `at` on, or, where that is past `end`, what leads to what is read next. */
static inline __attribute__((always_inline)) size_t mr_column_far(const mr_column *c,
                                                                  const uint8_t *at)
{
    return c->far + ((uintptr_t)at + c->far < (uintptr_t)c->end ? 0 : c->jump);
}

/* ---- activations for int8 products ----
 *
 * A prepared row: 64 bytes of header (float D), then per group a record and the values n. */

typedef struct mr_qgroup {
    int32_t r;     /* four int8: the high parts of the slot, or 0: none is needed */
    int32_t p;     /* the slot: a quad of this group */
    int32_t e;     /* the group's step is D * 2^e */
    int32_t start; /* start_by * sum of v; SUBS: of the first 16 */
    union {
        float a;          /* (float)(sum of v << e) */
        int32_t less;     /* where no bias is stored: -(sum of v) */
        int32_t start_hi; /* SUBS: of the last 16 */
    } u;
} mr_qgroup;
/* After the values an int32.  SUBS: start_by * sum of r where no mins are stored (both starts are then
 * of the values n alone), else 0.  Others: start + the bits of MR_QROW_FLOAT * 2^e.  A sum I that begins
 * with it is, its bits taken as a float, (MR_QROW_FLOAT + I) * 2^e: exact for I within +-2^22. */

enum { MR_QROW_HEADER = 64, MR_TILE_OUT = 64, MR_NAN_BITS = 0x7fc00000 };
#define MR_QROW_FLOAT 0x1.8p23f

/* f32 activations that meet quantised weights in `fast`: so many prepared rows, each of what those before
 * it left over; all but the first are even. */
enum { MR_ACT_PARTS = 3 };

/* How rows of k are prepared: what `quantise` is told. */
typedef struct mr_qform {
    int64_t k;
    int group;     /* 32 or 64 */
    int start_by;  /* what the kernels leave out: (byte offset of the ISA) - zero; 1 for mins */
    bool halves;   /* SUBS: a start for each half of a group */
    bool less;     /* no bias is stored: u.less instead of u.a */
    bool wide;     /* values as int16 in the order v0 v2 v1 v3 (AVX2, 8 bits) */
    bool even;     /* no slot: p and r are 0 */
    size_t step;   /* bytes from group to group */
    size_t stride; /* bytes from row to row */
} mr_qform;

/* ---- kernels of one ISA ---- */

/* What becomes of a block's sums at one column: y = sums*by (+ bias), NaN made canonical, where sums
 * and by have `rows` rows of the first part, then of the others: y = sum0*by0, then fma(sum1, by1, y) and so on; with a fn
 * other than MR_OP_LINEAR y = fn(that of sums[0]) * that of sums[1], or * y where sums[1] is NULL. */
typedef struct mr_finish {
    mr_op fn;
    int rows, parts, n;   /* n outputs from the column's first on */
    int64_t first;        /* which is this one of y and the biases */
    float *sums[2];       /* [rows*parts][MR_TILE_OUT]; zero afterwards, up to 16s of n */
    const float *by;      /* [rows*parts] */
    const float *bias[2]; /* or NULL */
    float *const *y;
} mr_finish;

/* Rows come as pointers: to floats, or to prepared rows.  out is [rows][MR_TILE_OUT], to which the
 * chain of every output is continued: zero it first, then give ascending ranges of k. */
typedef struct mr_mm_kernels {
    mr_isa isa;
    int u8_offset; /* what its dots subtract from bytes (128 where both sides are signed) */
    bool wide_u8;  /* wants mr_qform.wide for U8 */
    bool takes_u4; /* tile_i8 is as fast on wide columns of U4 as on panels of their bytes */
    /* Up to so many rows straight from the packed form, more by panel: on floats, on floats for wide
     * columns of mr_pack_few, on int8, and of wide columns of mr_layout_direct. */
    int direct_f32, few_f32, direct_i8, direct_codes;
    void (*quantise)(const float *x, const mr_qform *f, uint8_t *row);
    /* rest = x less what `row` holds of it; rest may be x. */
    void (*residue)(const float *x, const mr_qform *f, const uint8_t *row, float *rest);
    /* Any kind; the first k (whole units; BF16 also half a one at the end of a row) of c->data. */
    void (*tile_f32)(const mr_column *c, int64_t k, const float *const *x, int rows, float *out);
    /* BF16 columns and rows of bf16, (k, k+1) an int32; what a half is missing is 0.  NULL: the ISA has
     * no such dots. */
    void (*tile_bf16)(const mr_column *c, int64_t pairs, const int32_t *const *x, int rows,
                      float *out);
    /* The first k as f32 [k][16*nv]. */
    void (*unpack_f32)(const mr_column *c, int64_t k, float *panel);
    /* Quantised kinds; the first `units` of c->data; rows[r] points at the record of the first
     * group; those from `slots` on are even. */
    void (*tile_i8)(const mr_column *c, int64_t units, const mr_qform *f,
                    const uint8_t *const *rows, int n, int slots, float *out);
    /* One row, n = 1 or 2 columns of one matrix, or of two that share activations: out[i] for c[i].  On
     * int8 in so many parts, 1 or MR_ACT_PARTS, whose sums follow each other. */
    void (*row_i8)(const mr_column *c, int n, int64_t units, const mr_qform *f,
                   const uint8_t *const *x, int parts, float *const *out);
    void (*row_f32)(const mr_column *c, int n, int64_t k, const float *x, float *const *out);
    /* The first `units` of a U4 or CODES column as units of mr_layout_bytes. */
    void (*unpack_bytes)(const mr_column *c, int64_t units, uint8_t *panel);
    void (*finish)(const mr_finish *f);
} mr_mm_kernels;

extern const mr_mm_kernels mr_mm_kernels_c, mr_mm_kernels_avx2, mr_mm_kernels_avx512,
    mr_mm_kernels_neon;
const mr_mm_kernels *mr_mm_kernels_for(mr_isa isa);

/* ---- many rows by sixteens ----
 *
 * Of an ISA that has tile products: prepared rows are arranged once for a block, sixteen together,
 * the last with rows of zeros; then all columns meet them. */
enum { MR_SIXTEEN = 16 };

typedef struct mr_sixteen_kernels {
    size_t (*bytes)(const mr_qform *f); /* of sixteen rows; a multiple of 64 */
    void (*arrange)(const mr_qform *f, const uint8_t *const *rows, int n,
                    uint8_t *to);              /* n <= 16 */
    bool (*takes)(const mr_layout *l, int nv); /* such columns, or panels */
    /* As tile_i8 of so many rows, from the given group of theirs on; out has 16 for each sixteen. */
    void (*tile)(const mr_column *c, int64_t units, const mr_qform *f, const uint8_t *arranged,
                 int64_t group, int n, float *out);
    /* As mr_mm_kernels.tile_bf16, which it takes the place of. */
    void (*tile_bf16)(const mr_column *c, int64_t pairs, const int32_t *const *x, int rows,
                      float *out);
} mr_sixteen_kernels;

void mr_tile_bf16_amx(const mr_column *c, int64_t pairs, const int32_t *const *x, int rows,
                      float *out);

extern const mr_sixteen_kernels mr_sixteen_amx;
const mr_sixteen_kernels *mr_sixteen_for(mr_isa isa); /* NULL: it has none */

mr_qform mr_qform_of(const mr_mm_kernels *kernels, const mr_layout *l, int64_t k);

#endif
