/* What the forms of convert share (convert.c: MLX safetensors, convert_gguf.c: GGUF,
 * convert_requant.c: GGUF from GGUF). */
#ifndef MR_RUN_CONVERT_H
#define MR_RUN_CONVERT_H

#include "base/pool.h"
#include "run/engine.h"

/* ---- rows of a tensor (convert_rows.c) ---- */

typedef struct mr_row_at {
    int part;
    int64_t row, run; /* and so many that follow it, one after the other */
} mr_row_at;
/* Where rows come from: one recipe, or two with `from` to say which row stands at `row`. */
typedef struct mr_row_source {
    const mr_recipe *part[2]; /* bound, of one k; the second may be NULL */
    int64_t rows;
    bool minus_one, neg_exp;                         /* they give 1 + w, or -exp(w): w is wanted */
    bool plus_one;                                   /* they give w: 1 + w is wanted */
    mr_row_at (*from)(const void *ctx, int64_t row); /* NULL: as they are */
} mr_row_source;
/* What becomes of the rows of a tensor. */
typedef struct mr_row_form {
    const char *name; /* of the tensor, for messages */
    mr_dtype to;      /* which must be able to hold the numbers: mr_convert_check */
    size_t bytes;     /* of a row as it is written */
    /* One row as it is written; x may be written over.  Called for all rows, on any thread. */
    void (*write)(const void *ctx, int64_t row, float *x, uint8_t *out);
    mr_err (*put)(void *ctx, const void *rows, size_t bytes); /* all of them, in order */
    void *ctx;
} mr_row_form;
/* Rows on their way: read as f32 until the batch is full, then made and put by all threads.
 * `s` says what undoes the form they are read in; NULL: nothing. */
typedef struct mr_row_batch {
    mr_pool *pool;
    const mr_row_form *form;
    const mr_row_source *s;
    int64_t k, most, row, n; /* the first row; how many are read */
    float *x;
    uint8_t *out;
    const mr_rows *reading;
    _Atomic int64_t refused; /* the first row that `to` cannot hold */
} mr_row_batch;
/* For so many rows of k in all. */
mr_err mr_row_batch_new(mr_row_batch *b, mr_pool *pool, const mr_row_form *f, int64_t rows,
                        int64_t k);
void mr_row_batch_read(mr_row_batch *b, const mr_rows *rows, int64_t n); /* at most most - b->n */
mr_err mr_row_batch_put(mr_row_batch *b);
void mr_row_batch_free(mr_row_batch *b);
/* All rows of a source, whose `from` gets the form's ctx. */
mr_err mr_convert_rows(mr_model *m, const mr_row_source *s, const mr_row_form *f, mr_pool *pool);
/* Refuses what `to` cannot hold, naming the tensor: numbers beyond f16 where it has them, and, in
 * quantised formats, those that are not finite. */
mr_err mr_convert_check(const char *name, int64_t row, const float *x, int64_t k, mr_dtype to);
/* k numbers as F32, F16 or BF16, or in blocks (mr_block_quantisable); bytes written. */
size_t mr_convert_narrow(const float *x, int64_t k, mr_dtype to, uint8_t *out);

/* ---- MLX (convert_mlx.c, convert_config.c) ---- */

/* Of each head so many rows of a part, whose first head is at `first`. */
typedef struct mr_mlx_segment {
    int part;
    int64_t first, rows;
} mr_mlx_segment;
typedef struct mr_mlx_tensor {
    const char *name; /* with .weight, if it has that */
    const mr_asked *asked;
    const char *recipe[2], *stored_as; /* whose format is the tensor's */
    int parts, rank;
    int64_t dim[MR_MAX_RANK];
    bool one_plus; /* holds 1 + w */
    int segments;  /* 0: rows as they are */
    mr_mlx_segment segment[4];
} mr_mlx_tensor;
/* What MLX's programs want of a built model, in order; the list lies in the arena. */
mr_err mr_mlx_tensors(const mr_model *m, mr_arena *arena, mr_mlx_tensor **out, int *n);
mr_row_at mr_mlx_row(const mr_mlx_tensor *t, int64_t row);
/* What names begin with where the text model is inside another: "language_model.", or nothing. */
const char *mr_mlx_root(const mr_model *m);
/* Appends config.json; bits 0: nothing is quantised. */
mr_err mr_mlx_config(const mr_model *m, int bits, int group, mr_buf *out);

/* ---- GGUF ---- */

/* The recipe of a weight as GGUF files hold it, by what undoes that (convert_form.c). */
mr_err mr_convert_form(const mr_model *m, const mr_asked *a, const char *modifiers, mr_arena *arena,
                       const char **out);
/* Of a tensor that holds two weights' rows in turn: how many of this one at a time (0: no such
 * tensor), and whether they come second. */
typedef struct mr_convert_part {
    int64_t rows;
    bool second;
} mr_convert_part;
mr_err mr_convert_share(const mr_model *m, const mr_asked *a, const char *modifiers,
                        mr_convert_part *out);

mr_err mr_convert_gguf(mr_model *m, const char *path, const mr_convert_opts *o, mr_pool *pool);
/* Refuses a file that, read back, is another model than m (convert_same.c). */
mr_err mr_convert_same(mr_model *m, const char *path);
mr_err mr_convert_requant(const mr_model *m, const char *path, const mr_convert_opts *o,
                          mr_pool *pool);
/* The type that `quant` names; MR_DTYPE_COUNT for NULL: as they are. */
mr_err mr_convert_gguf_type(const mr_convert_opts *o, mr_dtype *out);
/* The type that rows of k get where `to` is asked for: it, or one whose blocks they fill, with no fewer
 * bits. */
mr_dtype mr_convert_fitting(mr_dtype to, int64_t k);
/* general.file_type and what goes with it. */
void mr_convert_gguf_said(mr_gguf_writer *w, mr_dtype type);

#endif
