/* Inside of weights/: the table every format fills, and the parsers over plain buffers.
 *
 * Why:    the three formats differ only in how they fill one table of mr_winfo; parsers work on
 *         buffers so that fuzzing and truncation tests need no files.
 * Owns:   a table owns its rows and their names; parsers borrow the bytes they are given.
 * Fails:  MR_EFORMAT naming file, tensor (or key) and reason.
 * Rules:  1. Tables grow as rows are met, never by a count that a file states.
 *         2. A name that reached the table is valid UTF-8 without control characters, so it can be
 *            printed; messages cut it at MR_WNAME_SHOWN bytes to keep the reason in sight.
 *         3. data.offset counts from the start of the file.
 */
#ifndef MR_WEIGHTS_PARSE_H
#define MR_WEIGHTS_PARSE_H

#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "tensor/codes.h"
#include "weights/weights.h"

#define MR_WNAME_SHOWN "160"
#define MR_ST_HEADER_MAX UINT64_C(100000000)
#define MR_GGUF_HEADER_MAX (UINT64_C(1) << 28) /* metadata and tensor table of a GGUF file */

typedef struct mr_wtable {
    mr_winfo *at;
    size_t n, cap;
    mr_arena *names;
} mr_wtable;

struct mr_weights {
    mr_file *files;
    int n_files, cap_files;
    mr_wtable table; /* sorted by name once open */
    mr_gguf *gguf;
};

/* ---- table.c ---- */
/* Appends a zeroed row with a copy of `name`; `file` names the culprit if the name is unfit. */
mr_err mr_wtable_add(mr_wtable *t, const char *file, mr_str name, mr_winfo **out);
/* Sorts by name; *twice is a row whose name another has too, or NULL. */
mr_err mr_wtable_sort(mr_wtable *t, const mr_winfo **twice);
void mr_wtable_free(mr_wtable *t);
mr_winfo *mr_wtable_find(const mr_wtable *t, const char *name); /* sorted tables only */
/* MR_EFORMAT unless name is non-empty valid UTF-8 without control characters. */
mr_err mr_wname_check(const char *file, const char *what, mr_str name);
/* Stable merge sort of pointers (libc's may allocate behind our back or go quadratic). */
typedef int (*mr_worder)(const void *a, const void *b);
mr_err mr_wsort(void **p, size_t n, mr_worder order);
/* Room for one more in an array of `size`-byte elements; grows by half. */
mr_err mr_wgrow(void **array, size_t n, size_t *cap, size_t size);

/* ---- safetensors.c ---- */
/* Length of the JSON header, checked against the limit and the file. */
mr_err mr_safetensors_header_len(const char *file, const uint8_t first[8], uint64_t file_size,
                                 size_t *len);
/* Adds every tensor of a header; data_bytes is what follows it in the file. */
mr_err mr_safetensors_parse_header(const char *file, int index, const char *header, size_t len,
                                   uint64_t data_bytes, mr_wtable *t);
mr_err mr_safetensors_add(mr_weights *w, const char *path);
/* The format's name for t ("BF16"), or NULL if it has none. */
const char *mr_safetensors_dtype_name(mr_dtype t);

/* ---- shards.c ---- */
/* Opens what an index names and checks that index and files agree; leaves the table sorted. */
mr_err mr_shards_add(mr_weights *w, const char *dir, const char *index_path);

/* ---- quant_config.c ---- */
/* Joins what quantised modules store apart into one row each, as the config says; the table is
 * sorted, before and after. */
mr_err mr_quant_join(mr_weights *w, mr_jval quantization);
/* The same for a GGUF file's NVFP4. */
mr_err mr_gguf_join(mr_weights *w);
/* "FILE: tensor "NAME": what". */
mr_err mr_wmisfit(const mr_weights *w, const mr_winfo *t, const char *what);
/* The row whose name is that of t with its last `cut` bytes replaced by `suffix`, or NULL. */
mr_err mr_wbeside(const mr_weights *w, const mr_winfo *t, size_t cut, const char *suffix,
                  mr_buf *scratch, mr_winfo **out);
bool mr_wsuffix(const char *name, const char *suffix); /* and more before it */
enum { MR_WTAKEN = -1 }; /* rank of a row that another took over; dropped by mr_quant_join */

/* ---- mlx.c ---- */
/* Joins X.weight, X.scales, X.biases of a sorted table into one grouped row; without a
 * quantization refuses what looks quantised. */
mr_err mr_mlx_join(mr_weights *w, mr_jval quantization);

/* ---- fp8.c, packed.c ---- */
mr_err mr_fp8_join(mr_weights *w, mr_jval quantization);
/* The same for all X.weight of F8_E4M3 with scales; block {0,0}: per matrix or per row. */
mr_err mr_fp8_join_all(mr_weights *w, const int64_t block[2]);
mr_err mr_packed_join(mr_weights *w, mr_jval quantization);

/* ---- wide.c ---- */
/* Rows of a tensor with t->wide, as f32. */
mr_err mr_wide_read(const mr_weights *w, const mr_winfo *t, int64_t row0, int64_t rows, float *out);
/* The row of scales that serves row r: matrices of [.., n, k] begin a block each. */
int64_t mr_weights_scale_row(const mr_winfo *t, int64_t r);

/* ---- gguf.c, gguf_read.c, gguf_split.c ---- */
/* STEM-00002-of-00005.gguf; false for other names. */
typedef struct mr_gguf_part {
    size_t stem; /* bytes before "-00002" */
    int number, count;
} mr_gguf_part;
bool mr_gguf_part_of(const char *name, mr_gguf_part *out);
/* The path of part `number`, beside `path`. */
mr_err mr_gguf_part_path(const char *path, const mr_gguf_part *p, int number, mr_buf *out);

/* Value types as numbered in the file. */
enum {
    MR_RAW_U8,
    MR_RAW_I8,
    MR_RAW_U16,
    MR_RAW_I16,
    MR_RAW_U32,
    MR_RAW_I32,
    MR_RAW_F32,
    MR_RAW_BOOL,
    MR_RAW_STRING,
    MR_RAW_ARRAY,
    MR_RAW_U64,
    MR_RAW_I64,
    MR_RAW_F64,
    MR_RAW_COUNT
};
/* Bytes of a value; the least for a string (its length), 0 for an array. */
int mr_gguf_type_bytes(int type);

static inline uint64_t mr_load_le(const uint8_t *p, int bytes)
{
    uint64_t v = 0;
    while (bytes--)
        v = v << 8 | p[bytes];
    return v;
}

typedef struct mr_gguf_kv {
    const char *key;
    int type, elem_type; /* as in the file; elem_type for arrays */
    uint64_t count;      /* arrays */
    size_t at, bytes;    /* of the value (an array's elements) in the metadata */
} mr_gguf_kv;

struct mr_gguf {
    char *path;
    uint8_t *owned;       /* what mr_gguf_close frees; NULL when bytes are borrowed */
    const uint8_t *bytes; /* the file from its start to the end of the metadata */
    size_t len;
    mr_gguf_kv *kv;
    size_t n_kv, cap_kv;
    uint32_t *by_key; /* kv in key order */
    mr_arena *keys;
};

/* Parses the first `len` bytes of a file of file_size bytes.  If those are too few, MR_ELIMIT with
 * *want > len: call again with more.  t NULL: metadata only.  Tensors get file index `index`. */
mr_err mr_gguf_parse(mr_gguf **out, const char *file, int index, const uint8_t *bytes, size_t len,
                     uint64_t file_size, mr_wtable *t, uint64_t *want);
mr_err mr_gguf_add(mr_weights *w, const char *path);
/* Reads as much of `f` as its metadata (and tensor table if t) needs, and parses it. */
mr_err mr_gguf_load(mr_gguf **out, const mr_file *f, int index, mr_wtable *t);

/* ---- weights.c ---- */
mr_err mr_weights_add_file(mr_weights *w, const char *path, int *index);
mr_err mr_weights_sort(mr_weights *w); /* and refuse duplicates */

/* GGUF's number of a tensor type; -1: it has none. */
int mr_gguf_type_id(mr_dtype t);

#endif
