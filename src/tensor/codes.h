/* Quantised blocks as plain integers.
 *
 * Why:     reading a block is unpicking bits, whatever is then done with them: dequantising and
 *          packing both start here, so each format's bits are drawn in one place.
 * Values:  a block has block/run runs; value i of run j is  S_j * c + B_j  with c = table[q] or
 *          q - zero, rounded after the product and after the sum, and
 *            S_j = scale (* sub[j]),  B_j = bias or -bias*min[j] (0 if the form has none)
 *          Products with sub and min are exact: scales have 11 bits there, subs at most 8.
 *          In forms with a table of E2M1, which holds doubled values, the scale is halved.
 * Use:     if (mr_code_form_of(&f, dtype, bits, group, scale_dtype)) mr_codes_read(&f, r, row, b, &c);
 * Threads: no state.
 */
#ifndef MR_TENSOR_CODES_H
#define MR_TENSOR_CODES_H

#include "tensor/tensor.h"

enum { MR_CODE_BLOCK = 256, MR_CODE_RUNS = 16 };

typedef enum mr_code_table { MR_TABLE_NONE, MR_TABLE_IQ4, MR_TABLE_E2M1 } mr_code_table;
extern const int8_t mr_code_tables[3][16]; /* [0] is not used */

typedef struct mr_code_form {
    int block, run; /* values per block, and per run: block if there is one */
    int bits;       /* of a code: 2 3 4 5 6 8 */
    int zero;       /* subtracted from codes; 0 with a bias or a table */
    mr_code_table table;
    mr_dtype scale; /* F32 F16 BF16 F8_E8M0; F8_E4M3: one per run, in sub */
    bool sub;       /* integer sub-scales, one per run */
    bool bias;      /* and a min per run, if `sub` */
} mr_code_form;

typedef struct mr_codes {
    uint8_t q[MR_CODE_BLOCK];
    uint8_t scale[4], bias[4]; /* numbers as stored, of the form's scale type */
    int8_t sub[MR_CODE_RUNS];  /* E4M3: bytes as stored */
    uint8_t min[MR_CODE_RUNS];
} mr_codes;

/* False: floats, and FP of 8 bits, whose elements are floats too. */
bool mr_code_form_of(mr_code_form *f, mr_dtype t, int bits, int group, mr_dtype scale_dtype);
/* Block `block` of a row of r. */
void mr_codes_read(const mr_code_form *f, const mr_rows *r, int64_t row, int64_t block,
                   mr_codes *out);
/* S and B of run j. */
void mr_codes_run(const mr_code_form *f, const mr_codes *c, int j, float *s, float *b);
/* A block's values, rounded as above. */
void mr_codes_values(const mr_code_form *f, const mr_codes *c, float *dst);
/* A number of type t (F32 F16 BF16 F8_E8M0 F8_E4M3) at any address. */
float mr_number_load(mr_dtype t, const void *p);

#endif
