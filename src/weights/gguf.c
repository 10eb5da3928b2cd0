/* GGUF versions 2 and 3, little-endian: metadata, tensor table, then aligned data.
 *
 * The header's length is stated nowhere, so the parser runs over the bytes at hand and, when they
 * end before the file does, says how many it wants (MR_ELIMIT and *want); the loader reads at
 * least four times as much each time and parses again, so the whole is parsed about 1.3 times.
 * A count or length is compared with what is left of the file before anything is done with it, and
 * arrays of rows grow as rows are met, so no stated number sizes an allocation.
 */
#include "weights/parse.h"

#include <inttypes.h>
#include <string.h>

/* The most keys and tensors of a file; real ones have some 60 and 2,000.  Sorting stays short. */
enum { KV_MAX = 1 << 16, TENSORS_MAX = 1 << 21 };
enum { KEY_MAX = 65535, KV_LEAST = 8 + 1 + 4 + 1, TENSOR_LEAST = 8 + 1 + 4 + 4 + 8 };

/* The types ggml has had, so that a refusal can name what is in the file. */
static const struct {
    int id;
    const char *name;
    mr_dtype dtype; /* MR_DTYPE_COUNT: not read by this build */
} ggml_types[] = {
    {0, "F32", MR_F32},
    {1, "F16", MR_F16},
    {2, "Q4_0", MR_Q4_0},
    {3, "Q4_1", MR_Q4_1},
    {4, "Q4_2", MR_DTYPE_COUNT},
    {5, "Q4_3", MR_DTYPE_COUNT},
    {6, "Q5_0", MR_Q5_0},
    {7, "Q5_1", MR_Q5_1},
    {8, "Q8_0", MR_Q8_0},
    {9, "Q8_1", MR_DTYPE_COUNT},
    {10, "Q2_K", MR_Q2_K},
    {11, "Q3_K", MR_Q3_K},
    {12, "Q4_K", MR_Q4_K},
    {13, "Q5_K", MR_Q5_K},
    {14, "Q6_K", MR_Q6_K},
    {15, "Q8_K", MR_DTYPE_COUNT},
    {16, "IQ2_XXS", MR_DTYPE_COUNT},
    {17, "IQ2_XS", MR_DTYPE_COUNT},
    {18, "IQ3_XXS", MR_DTYPE_COUNT},
    {19, "IQ1_S", MR_DTYPE_COUNT},
    {20, "IQ4_NL", MR_IQ4_NL},
    {21, "IQ3_S", MR_DTYPE_COUNT},
    {22, "IQ2_S", MR_DTYPE_COUNT},
    {23, "IQ4_XS", MR_IQ4_XS},
    {24, "I8", MR_DTYPE_COUNT},
    {25, "I16", MR_DTYPE_COUNT},
    {26, "I32", MR_DTYPE_COUNT},
    {27, "I64", MR_DTYPE_COUNT},
    {28, "F64", MR_DTYPE_COUNT},
    {29, "IQ1_M", MR_DTYPE_COUNT},
    {30, "BF16", MR_BF16},
    {31, "Q4_0_4_4", MR_DTYPE_COUNT},
    {32, "Q4_0_4_8", MR_DTYPE_COUNT},
    {33, "Q4_0_8_8", MR_DTYPE_COUNT},
    {34, "TQ1_0", MR_DTYPE_COUNT},
    {35, "TQ2_0", MR_DTYPE_COUNT},
    {36, "IQ4_NL_4_4", MR_DTYPE_COUNT},
    {37, "IQ4_NL_4_8", MR_DTYPE_COUNT},
    {38, "IQ4_NL_8_8", MR_DTYPE_COUNT},
    {39, "MXFP4", MR_MXFP4},
    {40, "NVFP4", MR_NVFP4},
    {41, "Q1_0", MR_DTYPE_COUNT},
};

typedef struct cursor {
    const char *file;
    const uint8_t *bytes;
    size_t len, pos; /* len: bytes at hand */
    uint64_t file_size, want;
} cursor;

/* The next n bytes are at hand; `what` completes "file ends inside ...". */
static mr_err need(cursor *c, uint64_t n, const char *what)
{
    if (n > c->file_size - c->pos)
        return mr_fail(MR_EFORMAT, "%s: file ends inside %s", c->file, what);
    if (n <= c->len - c->pos)
        return MR_OK;
    c->want = c->pos + n;
    return mr_fail(MR_ELIMIT, "%s: header goes on", c->file);
}

static mr_err take(cursor *c, int bytes, const char *what, uint64_t *out)
{
    MR_TRY(need(c, (uint64_t)bytes, what));
    *out = mr_load_le(c->bytes + c->pos, bytes);
    c->pos += (size_t)bytes;
    return MR_OK;
}

static mr_err take_str(cursor *c, const char *what, mr_str *out)
{
    uint64_t len;
    MR_TRY(take(c, 8, what, &len));
    MR_TRY(need(c, len, what));
    *out = (mr_str){(const char *)c->bytes + c->pos, (size_t)len};
    c->pos += (size_t)len;
    return MR_OK;
}

/* Checks a run of `count` booleans, which may be 0 or 1 only. */
static mr_err check_bools(const cursor *c, uint64_t count, const char *key)
{
    for (uint64_t i = 0; i < count; i++)
        if (c->bytes[c->pos + i] > 1)
            return mr_fail(MR_EFORMAT, "%s: key \"%." MR_WNAME_SHOWN "s\": boolean of value %d",
                           c->file, key, c->bytes[c->pos + i]);
    return MR_OK;
}

static mr_err skip_values(cursor *c, int type, uint64_t count, const char *key)
{
    uint64_t bytes;
    if (__builtin_mul_overflow(count, (uint64_t)mr_gguf_type_bytes(type), &bytes) ||
        bytes > c->file_size - c->pos)
        return mr_fail(MR_EFORMAT, "%s: key \"%." MR_WNAME_SHOWN "s\": file ends inside its value",
                       c->file, key);
    if (type == MR_RAW_STRING) {
        mr_str s;
        for (uint64_t i = 0; i < count; i++)
            MR_TRY(take_str(c, "a string of the metadata", &s));
        return MR_OK;
    }
    MR_TRY(need(c, bytes, "the metadata"));
    if (type == MR_RAW_BOOL)
        MR_TRY(check_bools(c, count, key));
    c->pos += (size_t)bytes;
    return MR_OK;
}

static mr_err take_type(cursor *c, const char *key, const char *what, int *out)
{
    uint64_t type;
    MR_TRY(take(c, 4, "the metadata", &type));
    if (type >= MR_RAW_COUNT)
        return mr_fail(MR_EFORMAT, "%s: key \"%." MR_WNAME_SHOWN "s\": unknown %s type %" PRIu64,
                       c->file, key, what, type);
    *out = (int)type;
    return MR_OK;
}

static mr_err take_kv(cursor *c, mr_gguf *g)
{
    mr_str key;
    MR_TRY(take_str(c, "a metadata key", &key));
    if (key.len > KEY_MAX)
        return mr_fail(MR_EFORMAT, "%s: a metadata key of %zu bytes; at most %d are allowed",
                       c->file, key.len, KEY_MAX);
    MR_TRY(mr_wname_check(c->file, "metadata key", key));
    void *array = g->kv;
    mr_err e = mr_wgrow(&array, g->n_kv, &g->cap_kv, sizeof *g->kv);
    g->kv = array;
    MR_TRY(e);
    mr_gguf_kv *kv = &g->kv[g->n_kv];
    *kv = (mr_gguf_kv){.key = mr_arena_strndup(g->keys, key.data, key.len), .count = 1};
    if (!kv->key)
        return MR_ENOMEM;
    MR_TRY(take_type(c, kv->key, "value", &kv->type));
    int type = kv->type;
    if (type == MR_RAW_ARRAY) {
        MR_TRY(take_type(c, kv->key, "array element", &kv->elem_type));
        MR_TRY(take(c, 8, "the metadata", &kv->count));
        type = kv->elem_type;
        if (type == MR_RAW_ARRAY)
            return mr_fail(MR_EFORMAT,
                           "%s: key \"%." MR_WNAME_SHOWN "s\": arrays of arrays are "
                           "not allowed",
                           c->file, kv->key);
    }
    kv->at = c->pos;
    MR_TRY(skip_values(c, type, kv->count, kv->key));
    kv->bytes = c->pos - kv->at;
    g->n_kv++;
    return MR_OK;
}

static int by_key(const void *a, const void *b)
{
    return strcmp(((const mr_gguf_kv *)a)->key, ((const mr_gguf_kv *)b)->key);
}

static mr_err index_keys(mr_gguf *g)
{
    mr_gguf_kv **order = mr_alloc(MR_MEM_COMPILE, g->n_kv * sizeof *order);
    g->by_key = mr_alloc(MR_MEM_COMPILE, g->n_kv * sizeof *g->by_key);
    if (!order || !g->by_key) {
        mr_free(order);
        return MR_ENOMEM;
    }
    for (size_t i = 0; i < g->n_kv; i++)
        order[i] = &g->kv[i];
    mr_err e = mr_wsort((void **)order, g->n_kv, by_key);
    for (size_t i = 0; i < g->n_kv && e == MR_OK; i++) {
        g->by_key[i] = (uint32_t)(order[i] - g->kv);
        if (i && !by_key(order[i - 1], order[i]))
            e = mr_fail(MR_EFORMAT, "%s: key \"%." MR_WNAME_SHOWN "s\" appears twice", g->path,
                        order[i]->key);
    }
    mr_free(order);
    return e;
}

static mr_err take_head(cursor *c, uint64_t *n_tensors, uint64_t *n_kv)
{
    uint64_t version;
    MR_TRY(need(c, 24, "the GGUF header"));
    if (memcmp(c->bytes, "GGUF", 4))
        return mr_fail(MR_EFORMAT, "%s: does not begin with \"GGUF\"", c->file);
    c->pos = 4;
    MR_TRY(take(c, 4, "the GGUF header", &version));
    if (version == 0x02000000 || version == 0x03000000)
        return mr_fail(MR_EUNSUPPORTED, "%s: big-endian GGUF is not supported", c->file);
    if (version != 2 && version != 3)
        return mr_fail(MR_EUNSUPPORTED,
                       "%s: GGUF version %" PRIu64 " is not supported (2 and 3 are)", c->file,
                       version);
    MR_TRY(take(c, 8, "the GGUF header", n_tensors));
    MR_TRY(take(c, 8, "the GGUF header", n_kv));
    uint64_t left = c->file_size - c->pos;
    if (*n_kv > left / KV_LEAST)
        return mr_fail(MR_EFORMAT, "%s: %" PRIu64 " metadata keys do not fit in the file", c->file,
                       *n_kv);
    if (*n_tensors > left / TENSOR_LEAST)
        return mr_fail(MR_EFORMAT, "%s: %" PRIu64 " tensors do not fit in the file", c->file,
                       *n_tensors);
    if (*n_kv > KV_MAX || *n_tensors > TENSORS_MAX)
        return mr_fail(MR_EFORMAT,
                       "%s: %" PRIu64 " metadata keys and %" PRIu64
                       " tensors; at most %d and %d are allowed",
                       c->file, *n_kv, *n_tensors, KV_MAX, TENSORS_MAX);
    return MR_OK;
}

static mr_err tensor_fail(const cursor *c, const mr_winfo *t, const char *what)
{
    return mr_fail(MR_EFORMAT, "%s: tensor \"%." MR_WNAME_SHOWN "s\": %s", c->file, t->name, what);
}

int mr_gguf_type_id(mr_dtype t)
{
    for (size_t i = 0; t != MR_DTYPE_COUNT && i < sizeof ggml_types / sizeof *ggml_types; i++)
        if (ggml_types[i].dtype == t)
            return ggml_types[i].id;
    return -1;
}

static mr_err set_type(const cursor *c, uint64_t id, mr_winfo *t)
{
    for (size_t i = 0; i < sizeof ggml_types / sizeof *ggml_types; i++) {
        if ((uint64_t)ggml_types[i].id != id)
            continue;
        t->dtype = ggml_types[i].dtype;
        if (t->dtype != MR_DTYPE_COUNT)
            return MR_OK;
        return mr_fail(MR_EUNSUPPORTED,
                       "%s: tensor \"%." MR_WNAME_SHOWN "s\": type %s (%d) is not supported",
                       c->file, t->name, ggml_types[i].name, ggml_types[i].id);
    }
    return mr_fail(MR_EFORMAT, "%s: tensor \"%." MR_WNAME_SHOWN "s\": unknown type %" PRIu64,
                   c->file, t->name, id);
}

/* Bytes of the tensor from its shape; rank 0 is one number. */
static mr_err set_bytes(const cursor *c, mr_winfo *t)
{
    int64_t numbers = 1, k = t->rank ? t->dim[t->rank - 1] : 1;
    int block = mr_dtype_block(t->dtype);
    for (int i = 0; i < t->rank; i++)
        if (__builtin_mul_overflow(numbers, t->dim[i], &numbers))
            return tensor_fail(c, t, "the product of its sizes overflows");
    if (k % block)
        return mr_fail(MR_EFORMAT,
                       "%s: tensor \"%." MR_WNAME_SHOWN "s\": rows of %" PRId64
                       " are not whole blocks of %d",
                       c->file, t->name, k, block);
    int64_t bytes;
    if (__builtin_mul_overflow(numbers / block, (int64_t)mr_dtype_block_bytes(t->dtype), &bytes))
        return tensor_fail(c, t, "its size in bytes overflows");
    t->bytes = t->data.bytes = (uint64_t)bytes;
    return MR_OK;
}

static mr_err take_tensor(cursor *c, int index, uint64_t alignment, mr_wtable *table)
{
    static const char what[] = "the tensor table";
    mr_str name;
    mr_winfo *t;
    uint64_t rank, type;
    MR_TRY(take_str(c, what, &name));
    if (name.len > KEY_MAX)
        return mr_fail(MR_EFORMAT, "%s: a tensor name of %zu bytes; at most %d are allowed",
                       c->file, name.len, KEY_MAX);
    MR_TRY(mr_wtable_add(table, c->file, name, &t));
    MR_TRY(take(c, 4, what, &rank));
    if (rank > 4)
        return mr_fail(MR_EFORMAT,
                       "%s: tensor \"%." MR_WNAME_SHOWN "s\": %" PRIu64
                       " dimensions; at most 4 are allowed",
                       c->file, t->name, rank);
    t->rank = (int)rank;
    for (int i = t->rank - 1; i >= 0; i--) {
        uint64_t dim;
        MR_TRY(take(c, 8, what, &dim));
        if (!dim || dim > INT64_MAX)
            return tensor_fail(c, t, "a dimension is not positive");
        t->dim[i] = (int64_t)dim;
    }
    MR_TRY(take(c, 4, what, &type));
    MR_TRY(take(c, 8, what, &t->data.offset));
    MR_TRY(set_type(c, type, t));
    MR_TRY(set_bytes(c, t));
    if (t->data.offset % alignment)
        return mr_fail(MR_EFORMAT,
                       "%s: tensor \"%." MR_WNAME_SHOWN "s\": offset %" PRIu64
                       " is not a multiple of the alignment %" PRIu64,
                       c->file, t->name, t->data.offset, alignment);
    t->data.file = index;
    return MR_OK;
}

static int by_offset(const void *a, const void *b)
{
    uint64_t x = ((const mr_winfo *)a)->data.offset, y = ((const mr_winfo *)b)->data.offset;
    return x < y ? -1 : x > y;
}

/* Offsets relative to the data become offsets in the file; all must be inside and apart. */
static mr_err place_tensors(const cursor *c, uint64_t alignment, mr_wtable *t, size_t first)
{
    size_t n = t->n - first;
    uint64_t start = (c->pos + alignment - 1) & ~(alignment - 1);
    mr_winfo **rows = mr_alloc(MR_MEM_COMPILE, n * sizeof *rows);
    if (!rows)
        return MR_ENOMEM;
    mr_err e = MR_OK;
    for (size_t i = 0; i < n && e == MR_OK; i++) {
        mr_winfo *row = rows[i] = &t->at[first + i];
        uint64_t end;
        if (start > c->file_size ||
            __builtin_add_overflow(row->data.offset, row->data.bytes, &end) ||
            end > c->file_size - start)
            e = mr_fail(MR_EFORMAT,
                        "%s: tensor \"%." MR_WNAME_SHOWN "s\": %" PRIu64 " bytes at offset %" PRIu64
                        " do not fit in the file",
                        c->file, row->name, row->data.bytes, row->data.offset);
        row->data.offset += start;
    }
    if (e == MR_OK)
        e = mr_wsort((void **)rows, n, by_offset);
    for (size_t i = 1; i < n && e == MR_OK; i++)
        if (rows[i]->data.offset - rows[i - 1]->data.offset < rows[i - 1]->data.bytes)
            e = mr_fail(MR_EFORMAT,
                        "%s: tensors \"%." MR_WNAME_SHOWN "s\" and \"%." MR_WNAME_SHOWN
                        "s\" overlap",
                        c->file, rows[i - 1]->name, rows[i]->name);
    mr_free(rows);
    return e;
}

static mr_err read_alignment(const mr_gguf *g, uint64_t *out)
{
    static const char key[] = "general.alignment";
    int64_t v;
    *out = 32;
    if (mr_gguf_kind(g, key) == MR_GGUF_ABSENT)
        return MR_OK;
    MR_TRY(mr_gguf_int(g, key, &v));
    if (v < 1 || v > 1 << 30 || (v & (v - 1)))
        return mr_fail(MR_EFORMAT, "%s: key \"%s\": %" PRId64 " is not a power of two up to 2^30",
                       g->path, key, v);
    *out = (uint64_t)v;
    return MR_OK;
}

static mr_err take_tensors(cursor *c, const mr_gguf *g, int index, uint64_t n, mr_wtable *t)
{
    uint64_t alignment;
    size_t first = t->n;
    MR_TRY(read_alignment(g, &alignment));
    for (uint64_t i = 0; i < n; i++)
        MR_TRY(take_tensor(c, index, alignment, t));
    return place_tensors(c, alignment, t, first);
}

static mr_err parse(cursor *c, mr_gguf *g, int index, mr_wtable *t)
{
    uint64_t n_tensors = 0, n_kv = 0;
    size_t len = strlen(c->file) + 1;
    MR_TRY(mr_arena_new(&g->keys, MR_MEM_COMPILE));
    g->path = mr_alloc(MR_MEM_COMPILE, len);
    if (!g->path)
        return MR_ENOMEM;
    memcpy(g->path, c->file, len);
    MR_TRY(take_head(c, &n_tensors, &n_kv));
    for (uint64_t i = 0; i < n_kv; i++)
        MR_TRY(take_kv(c, g));
    g->len = c->pos;
    MR_TRY(index_keys(g));
    return t ? take_tensors(c, g, index, n_tensors, t) : MR_OK;
}

mr_err mr_gguf_parse(mr_gguf **out, const char *file, int index, const uint8_t *bytes, size_t len,
                     uint64_t file_size, mr_wtable *t, uint64_t *want)
{
    cursor c = {.file = file, .bytes = bytes, .len = len, .file_size = file_size};
    *out = NULL;
    *want = 0;
    mr_gguf *g = mr_zalloc(MR_MEM_COMPILE, sizeof *g);
    if (!g)
        return MR_ENOMEM;
    g->bytes = bytes;
    mr_err e = parse(&c, g, index, t);
    if (e != MR_OK) {
        *want = c.want;
        mr_gguf_close(g);
        return e;
    }
    *out = g;
    return MR_OK;
}
