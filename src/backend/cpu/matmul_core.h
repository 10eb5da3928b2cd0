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
 *           Q6    256         as U8, q in 0..63
 *
 *         After the lines of a quantised unit: one scale per output in the file's type, then (bias)
 *         one bias per output.  Q6: 16 sub-scales (int8, [16][outputs]), then one f16 per output.
 *         A unit is padded to 64 bytes.  w = s*q + b, or s*(q - zero) where no bias is stored.
 * Rows:   a row of activations for int8 products is a header (D), one record per group, and the
 *         values n; see quantise_lanes.h.
 * Use:    drivers ask mr_mm_kernels_for(isa) and call its functions per column.
 * Threads: everything here is read-only once packed.
 */
#ifndef MR_BACKEND_CPU_MATMUL_CORE_H
#define MR_BACKEND_CPU_MATMUL_CORE_H

#include "backend/cpu/matmul.h"

typedef enum mr_pack_kind {
    MR_PACK_F32,
    MR_PACK_F16,
    MR_PACK_BF16,
    MR_PACK_U4,
    MR_PACK_U8,
    MR_PACK_Q6,
    MR_PACK_U4_BYTES /* only in panels: U4 unpacked, the lines of U8 */
} mr_pack_kind;

typedef struct mr_layout {
    mr_pack_kind kind;
    int k_unit;           /* k per unit */
    int act_group;        /* activation group of int8 products: 32 or 64; 0 for float kinds */
    int zero;             /* subtracted from q when no bias is stored: 0, 8, 32, 128 */
    mr_dtype scale_dtype; /* F32 F16 BF16 */
    bool bias;            /* biases are stored */
} mr_layout;

/* MR_EUNSUPPORTED names the format. */
mr_err mr_layout_of(mr_fmt fmt, mr_layout *out);
/* The layout of a U4 column unpacked to bytes: the same but U4_BYTES. */
mr_layout mr_layout_bytes(const mr_layout *l);
static inline bool mr_layout_quantised(const mr_layout *l)
{
    return l->act_group != 0;
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
        matrix; /* bytes: unit (and its lines) of a narrow and a wide column, one matrix */
    uint8_t *data;
};

/* An empty (zero) matrix, to be filled by rows in any order: rows->n rows from row0 on, counted
 * over all e*n.  The kernel checker packs this way, a recipe does below it. */
mr_err mr_matrix_new(mr_matrix **out, mr_fmt fmt, int64_t e, int64_t n, int64_t k);
void mr_matrix_fill(mr_matrix *m, int64_t row0, const mr_rows *rows);

typedef struct mr_column {
    const mr_layout *layout;
    const uint8_t *data;
    size_t unit, lines; /* bytes of a unit, and of its lines */
    int nv;             /* 16*nv outputs */
} mr_column;

static inline int64_t mr_matrix_columns(const mr_matrix *m)
{
    return m->wide + m->narrow;
}
/* Column c of matrix e; *first is its first output. */
mr_column mr_matrix_column(const mr_matrix *m, int64_t e, int64_t c, int64_t *first);

/* ---- activations for int8 products ----
 *
 * A prepared row: 64 bytes of header (float D), then per group a record and the values n. */

typedef struct mr_qgroup {
    int32_t r;     /* four int8: the high parts of the slot */
    int32_t p;     /* the slot: a quad of this group */
    int32_t e;     /* the group's step is D * 2^e */
    int32_t start; /* start_by * sum of v; Q6: of the first 16 */
    union {
        float a;          /* (float)(sum of v << e) */
        int32_t start_hi; /* Q6: of the last 16 */
    } u;
} mr_qgroup;

enum { MR_QROW_HEADER = 64, MR_TILE_OUT = 64, MR_NAN_BITS = 0x7fc00000 };

/* How rows of k are prepared: what `quantise` is told. */
typedef struct mr_qform {
    int64_t k;
    int group;     /* 32 or 64 */
    int start_by;  /* what the kernels leave out: (byte offset of the ISA) - zero */
    bool halves;   /* Q6: a start for each half of a group */
    bool wide;     /* values as int16 in the order v0 v2 v1 v3 (AVX2, 8 bits) */
    size_t step;   /* bytes from group to group */
    size_t stride; /* bytes from row to row */
} mr_qform;

/* ---- kernels of one ISA ---- */

/* Rows come as pointers: to floats, or to prepared rows.  out is [rows][MR_TILE_OUT], to which the
 * chain of every output is continued: zero it first, then give ascending ranges of k. */
typedef struct mr_mm_kernels {
    mr_isa isa;
    int u8_offset; /* what its dots subtract from bytes (128 where both sides are signed) */
    bool wide_u8;  /* wants mr_qform.wide for U8 */
    int direct_f32,
        direct_u4; /* up to so many rows straight from the packed form; more: by panel */
    void (*quantise)(const float *x, const mr_qform *f, uint8_t *row);
    /* Any kind; the first k (whole units; BF16 also half a one at the end of a row) of c->data. */
    void (*tile_f32)(const mr_column *c, int64_t k, const float *const *x, int rows, float *out);
    /* The first k as f32 [k][16*nv]. */
    void (*unpack_f32)(const mr_column *c, int64_t k, float *panel);
    /* Quantised kinds; the first `units` of c->data; rows[r] points at the record of the first
     * group. */
    void (*tile_i8)(const mr_column *c, int64_t units, const mr_qform *f,
                    const uint8_t *const *rows, int n, float *out);
    /* The first `units` of a U4 column as U4_BYTES units. */
    void (*unpack_u4)(const mr_column *c, int64_t units, uint8_t *panel);
    /* y[0..n) = acc*by (+ bias), NaN made canonical. */
    void (*finish)(const float *acc, float by, const float *bias, int n, float *y);
} mr_mm_kernels;

extern const mr_mm_kernels mr_mm_kernels_c, mr_mm_kernels_avx2, mr_mm_kernels_avx512,
    mr_mm_kernels_neon;
const mr_mm_kernels *mr_mm_kernels_for(mr_isa isa);

mr_qform mr_qform_of(const mr_mm_kernels *kernels, const mr_layout *l, int64_t k);

#endif
