/* Weights: name -> read-only tensor in the model's own files.
 *
 * Why:     safetensors (one file or sharded), MLX quantised safetensors and GGUF are one thing to
 *          the rest: a list of named tensors of known format and shape, whose rows can be read.
 * Use:     mr_weights *w;
 *          MR_TRY(mr_weights_open(&w, "dir or file.gguf", quantization));
 *          const mr_winfo *t = mr_weights_find(w, "model.norm.weight");
 *          MR_TRY(mr_weights_read(w, t, row0, rows, buffer, &out));
 * Owns:    everything returned belongs to `w` and dies with it; read buffers belong to the caller.
 * Threads: immutable after open; mr_weights_read may be called from several threads.
 * Fails:   MR_EFORMAT naming file, tensor and reason: header lengths, overlaps, gaps, sizes,
 *          unknown dtypes and types, duplicate names, a shard name with '/' or "..", a shard
 *          missing.
 * Rules:   1. Nothing is read through a mapping: headers are read whole, data by pread.
 *          2. No allocation is sized by a number in the file that was not checked against the
 *             file's size.
 *          3. What a quantised module stores apart (MLX's X.weight, X.scales, X.biases; FP8's X and
 *             X_scale_inv; compressed-tensors' X.weight_packed, X.weight_scale,
 *             X.weight_shape) appears as one tensor "X.weight" of a grouped format with its logical
 *             shape [.., out, in].
 *          4. Elements and scales of 8 bits that are NaN are refused when they are read.
 *          5. What no format says (blocks or groups of other sizes, zero points, blocks times one
 *             more number) comes as F32, dequantised when it is read.
 *          6. GGUF dims are reversed to row-major here: dim[rank-1] is contiguous (ne[0]).
 */
#ifndef MR_WEIGHTS_WEIGHTS_H
#define MR_WEIGHTS_WEIGHTS_H

#include "base/json.h"
#include "tensor/tensor.h"

typedef struct mr_weights mr_weights;

enum { MR_WRANK = 5 };

typedef struct mr_wpart {
    int file; /* index into the model's files; -1: absent */
    uint64_t offset, bytes;
} mr_wpart;

/* How a tensor that comes as F32 is stored, where no format of tensor/ says that. */
typedef struct mr_wide {
    mr_dtype dtype; /* F32: as dtype says.  NVFP4: blocks, times scales; else codes: INT of `bits`,
                       I8, F8_E4M3, FP (E2M1); biases are their zero points */
    int bits;
    mr_dtype zero;  /* of zero points: I8, or I32 for words of codes along the rows */
    int64_t stride; /* bytes of a row of codes */
} mr_wide;

typedef struct mr_winfo {
    const char *name;
    mr_dtype dtype;
    int bits, group;      /* grouped formats */
    mr_dtype scale_dtype; /* grouped formats */
    /* Scales for blocks of a matrix, as FP8 has them: rows that share a row of scales (else 1),
     * columns that share a scale (else 0), and the scales' type in the file (F32 once read). */
    int64_t block_rows, block_cols;
    mr_dtype block_scale;
    mr_wide wide;
    int rank; /* 0 (scalar) .. MR_WRANK */
    int64_t dim[MR_WRANK];
    uint64_t bytes; /* all parts */
    mr_wpart data, scales, biases;
} mr_winfo;

/* path: a directory (model.safetensors.index.json and the files it names, or model.safetensors,
 * else the only *.gguf in it) or a .gguf file; of a GGUF split into files any one.  quantization:
 * config.json's "quantization" (MLX) or "quantization_config" (fp8, compressed-tensors), or absent.
 * GGUF types that mr_dtype_is_weight does not know, big-endian GGUF and safetensors of rank above
 * MR_WRANK are MR_EUNSUPPORTED, by name. */
mr_err mr_weights_open(mr_weights **out, const char *path, mr_jval quantization);
void mr_weights_close(mr_weights *w);

int mr_weights_count(const mr_weights *w);
const mr_winfo *mr_weights_at(const mr_weights *w, int i); /* in name order */
const mr_winfo *mr_weights_find(const mr_weights *w, const char *name);
const char *mr_weights_file(const mr_weights *w, int file); /* its path */
int mr_weights_files(const mr_weights *w);

/* Bytes a buffer needs for `rows` rows of t (rows = all leading dims multiplied; rank 0 and 1: 1
 * row). */
size_t mr_weights_rows_bytes(const mr_winfo *t, int64_t rows);
int64_t mr_weights_rows(const mr_winfo *t);
/* Reads rows [row0, row0+rows) of t into `buffer`; *out describes them there. */
mr_err mr_weights_read(const mr_weights *w, const mr_winfo *t, int64_t row0, int64_t rows,
                       void *buffer, mr_rows *out);

/* GGUF metadata; NULL when the model is not GGUF. */
typedef struct mr_gguf mr_gguf;
const mr_gguf *mr_weights_gguf(const mr_weights *w);

/* Metadata alone (of a split model's first file), without requiring known tensor types (a vocabulary file has no tensors at all).
 */
mr_err mr_gguf_open(mr_gguf **out, const char *path);
void mr_gguf_close(mr_gguf *g); /* not for one from mr_weights_gguf */

typedef enum mr_gguf_type {
    MR_GGUF_ABSENT,
    MR_GGUF_INT,   /* any integer type or bool, as int64 (u64 above 2^63-1 is refused) */
    MR_GGUF_FLOAT, /* f32, f64 */
    MR_GGUF_STRING,
    MR_GGUF_ARRAY
} mr_gguf_type;

mr_gguf_type mr_gguf_kind(const mr_gguf *g, const char *key);
mr_err mr_gguf_int(const mr_gguf *g, const char *key,
                   int64_t *out); /* absent or other type: error */
mr_err mr_gguf_num(const mr_gguf *g, const char *key, double *out); /* int or float */
mr_err mr_gguf_str(const mr_gguf *g, const char *key, mr_str *out);
/* Arrays: element kind and count, then elements in order through a callback-free cursor. */
typedef struct mr_gguf_array {
    mr_gguf_type elem;
    uint64_t count, next;
    const uint8_t *at, *end;
    int raw_type;
    const char *file, *key; /* for messages */
} mr_gguf_array;
mr_err mr_gguf_arr(const mr_gguf *g, const char *key, mr_gguf_array *out);
mr_err mr_gguf_arr_str(mr_gguf_array *a, mr_str *out);
mr_err mr_gguf_arr_int(mr_gguf_array *a, int64_t *out);
mr_err mr_gguf_arr_num(mr_gguf_array *a, double *out);
/* All keys in file order, for inspect. */
int mr_gguf_keys(const mr_gguf *g);
const char *mr_gguf_key(const mr_gguf *g, int i);
const char *mr_gguf_path(const mr_gguf *g);

/* Writing safetensors as a stream: declare all tensors, then write their bytes in the same order.
 */
typedef struct mr_st_writer mr_st_writer;
mr_err mr_st_writer_open(mr_st_writer **out, const char *path,
                         const char *format /* "pt" or "mlx" */);
mr_err mr_st_writer_declare(mr_st_writer *w, const char *name, mr_dtype t, int rank,
                            const int64_t *dim);
mr_err mr_st_writer_begin(mr_st_writer *w); /* writes the header */
mr_err mr_st_writer_data(mr_st_writer *w, const void *bytes, size_t len);
mr_err mr_st_writer_commit(mr_st_writer *w); /* fails if the bytes do not match; frees w */
void mr_st_writer_abort(mr_st_writer *w);

/* Writing GGUF as a stream: metadata and tensors are declared, then the tensors' bytes come in the
 * same order.  Dimensions as elsewhere here, rows last.  An array's items follow its key. */
typedef struct mr_gguf_writer mr_gguf_writer;
mr_err mr_gguf_writer_open(mr_gguf_writer **out, const char *path);
void mr_gguf_writer_str(mr_gguf_writer *w, const char *name, const char *value);
void mr_gguf_writer_u32(mr_gguf_writer *w, const char *name, uint32_t value);
void mr_gguf_writer_f32(mr_gguf_writer *w, const char *name, float value);
void mr_gguf_writer_bool(mr_gguf_writer *w, const char *name, bool value);
void mr_gguf_writer_strings(mr_gguf_writer *w, const char *name, uint64_t count);
void mr_gguf_writer_ints(mr_gguf_writer *w, const char *name, uint64_t count);
void mr_gguf_writer_floats(mr_gguf_writer *w, const char *name, uint64_t count);
void mr_gguf_writer_bools(mr_gguf_writer *w, const char *name, uint64_t count);
void mr_gguf_writer_add_str(mr_gguf_writer *w, const char *s, size_t len);
void mr_gguf_writer_add_int(mr_gguf_writer *w, int32_t v);
void mr_gguf_writer_add_float(mr_gguf_writer *w, float v);
void mr_gguf_writer_add_bool(mr_gguf_writer *w, bool v);
/* The i-th key of another file, as it is. */
void mr_gguf_writer_copy(mr_gguf_writer *w, const mr_gguf *g, int i);
mr_err mr_gguf_writer_declare(mr_gguf_writer *w, const char *name, mr_dtype t, int rank,
                              const int64_t *dim);
mr_err mr_gguf_writer_begin(mr_gguf_writer *w); /* writes metadata and table */
mr_err mr_gguf_writer_data(mr_gguf_writer *w, const void *bytes, size_t len);
mr_err mr_gguf_writer_commit(mr_gguf_writer *w); /* fails if the bytes do not match; frees w */
void mr_gguf_writer_abort(mr_gguf_writer *w);

#endif
