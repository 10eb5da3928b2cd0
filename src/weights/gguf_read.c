/* GGUF files: loading the header, and typed access to its metadata.
 *
 * Values are decoded when asked for, from the raw bytes that stay in memory; the parser has
 * checked that every value lies inside them.
 */
#include "weights/parse.h"

#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { FIRST_READ = 1 << 20 };

mr_err mr_gguf_load(mr_gguf **out, const mr_file *f, int index, mr_wtable *t)
{
    uint64_t len = f->size < FIRST_READ ? f->size : FIRST_READ, want = 0;
    size_t first = t ? t->n : 0;
    for (;;) {
        uint8_t *bytes = mr_alloc(MR_MEM_COMPILE, (size_t)len);
        if (!bytes)
            return MR_ENOMEM;
        mr_err e = mr_file_pread(f, 0, bytes, (size_t)len);
        if (e == MR_OK)
            e = mr_gguf_parse(out, f->path, index, bytes, (size_t)len, f->size, t, &want);
        if (e == MR_OK) {
            /* The tensor table behind the metadata is no longer needed. */
            uint8_t *kept = mr_realloc(MR_MEM_COMPILE, bytes, (*out)->len);
            (*out)->bytes = (*out)->owned = kept ? kept : bytes;
            return MR_OK;
        }
        mr_free(bytes);
        if (!want)
            return e;
        if (t)
            t->n = first;
        if (want > MR_GGUF_HEADER_MAX)
            return mr_fail(MR_EFORMAT, "%s: metadata and tensor table exceed %" PRIu64 " bytes",
                           f->path, MR_GGUF_HEADER_MAX);
        len = 4 * len > want ? 4 * len : want;
        if (len > MR_GGUF_HEADER_MAX)
            len = MR_GGUF_HEADER_MAX;
        if (len > f->size)
            len = f->size;
    }
}

void mr_gguf_close(mr_gguf *g)
{
    if (!g)
        return;
    mr_free(g->path);
    mr_free(g->owned);
    mr_free(g->kv);
    mr_free(g->by_key);
    mr_arena_free(g->keys);
    mr_free(g);
}

int mr_gguf_type_bytes(int type)
{
    static const uint8_t bytes[MR_RAW_COUNT] = {1, 1, 2, 2, 4, 4, 4, 1, 8, 0, 8, 8, 8};
    assert(type >= 0 && type < MR_RAW_COUNT);
    return bytes[type];
}

typedef struct key_search {
    const mr_gguf *g;
    const char *key;
} key_search;

static int by_key(const void *search, const void *index)
{
    const key_search *s = search;
    return strcmp(s->key, s->g->kv[*(const uint32_t *)index].key);
}

static const mr_gguf_kv *find(const mr_gguf *g, const char *key)
{
    key_search s = {g, key};
    const uint32_t *index = bsearch(&s, g->by_key, g->n_kv, sizeof *g->by_key, by_key);
    return index ? &g->kv[*index] : NULL;
}

static mr_gguf_type kind_of(int type)
{
    switch (type) {
    case MR_RAW_F32:
    case MR_RAW_F64:
        return MR_GGUF_FLOAT;
    case MR_RAW_STRING:
        return MR_GGUF_STRING;
    case MR_RAW_ARRAY:
        return MR_GGUF_ARRAY;
    default:
        return MR_GGUF_INT;
    }
}

mr_gguf_type mr_gguf_kind(const mr_gguf *g, const char *key)
{
    const mr_gguf_kv *kv = find(g, key);
    return kv ? kind_of(kv->type) : MR_GGUF_ABSENT;
}

/* An integer or boolean; false for a u64 beyond int64. */
static bool decode_int(int type, const uint8_t *p, int64_t *out)
{
    uint64_t v = mr_load_le(p, mr_gguf_type_bytes(type));
    switch (type) {
    case MR_RAW_I8:
        *out = (int8_t)v;
        return true;
    case MR_RAW_I16:
        *out = (int16_t)v;
        return true;
    case MR_RAW_I32:
        *out = (int32_t)v;
        return true;
    case MR_RAW_U64:
        *out = (int64_t)(v & INT64_MAX);
        return v <= INT64_MAX;
    default:
        *out = (int64_t)v;
        return true;
    }
}

static bool decode_num(int type, const uint8_t *p, double *out)
{
    uint64_t v = mr_load_le(p, mr_gguf_type_bytes(type));
    uint32_t narrow = (uint32_t)v;
    float f;
    int64_t i;
    switch (type) {
    case MR_RAW_F32:
        memcpy(&f, &narrow, sizeof f);
        *out = f;
        return true;
    case MR_RAW_F64:
        memcpy(out, &v, sizeof *out);
        return true;
    default:
        if (!decode_int(type, p, &i))
            return false;
        *out = (double)i;
        return true;
    }
}

static mr_err key_fail(const mr_gguf *g, const char *key, const char *what)
{
    return mr_fail(MR_EFORMAT, "%s: key \"%." MR_WNAME_SHOWN "s\" %s", g->path, key, what);
}

/* The key's value if it is of kind a or b. */
static mr_err get(const mr_gguf *g, const char *key, mr_gguf_type a, mr_gguf_type b,
                  const mr_gguf_kv **out)
{
    static const char *const is_not[] = {
        [MR_GGUF_INT] = "is not an integer",
        [MR_GGUF_FLOAT] = "is not a number",
        [MR_GGUF_STRING] = "is not a string",
        [MR_GGUF_ARRAY] = "is not an array",
    };
    *out = find(g, key);
    if (!*out)
        return key_fail(g, key, "is missing");
    mr_gguf_type kind = kind_of((*out)->type);
    return kind == a || kind == b ? MR_OK : key_fail(g, key, is_not[b]);
}

mr_err mr_gguf_int(const mr_gguf *g, const char *key, int64_t *out)
{
    const mr_gguf_kv *kv;
    MR_TRY(get(g, key, MR_GGUF_INT, MR_GGUF_INT, &kv));
    if (!decode_int(kv->type, g->bytes + kv->at, out))
        return key_fail(g, key, "is an integer beyond 2^63-1");
    return MR_OK;
}

mr_err mr_gguf_num(const mr_gguf *g, const char *key, double *out)
{
    const mr_gguf_kv *kv;
    MR_TRY(get(g, key, MR_GGUF_INT, MR_GGUF_FLOAT, &kv));
    if (!decode_num(kv->type, g->bytes + kv->at, out))
        return key_fail(g, key, "is an integer beyond 2^63-1");
    if (!isfinite(*out))
        return key_fail(g, key, "is not finite");
    return MR_OK;
}

mr_err mr_gguf_str(const mr_gguf *g, const char *key, mr_str *out)
{
    const mr_gguf_kv *kv;
    MR_TRY(get(g, key, MR_GGUF_STRING, MR_GGUF_STRING, &kv));
    *out = (mr_str){(const char *)g->bytes + kv->at + 8, kv->bytes - 8};
    return MR_OK;
}

mr_err mr_gguf_arr(const mr_gguf *g, const char *key, mr_gguf_array *out)
{
    const mr_gguf_kv *kv;
    MR_TRY(get(g, key, MR_GGUF_ARRAY, MR_GGUF_ARRAY, &kv));
    const uint8_t *at = g->bytes + kv->at;
    *out = (mr_gguf_array){.elem = kind_of(kv->elem_type),
                           .count = kv->count,
                           .at = at,
                           .end = at + kv->bytes,
                           .raw_type = kv->elem_type,
                           .file = g->path,
                           .key = kv->key};
    return MR_OK;
}

static mr_err elem_fail(const mr_gguf_array *a, const char *what)
{
    return mr_fail(MR_EFORMAT, "%s: key \"%." MR_WNAME_SHOWN "s\": element %" PRIu64 " %s", a->file,
                   a->key, a->next, what);
}

/* Where the next number is; moves on. */
static const uint8_t *next_number(mr_gguf_array *a)
{
    const uint8_t *p = a->at;
    int bytes = mr_gguf_type_bytes(a->raw_type);
    assert(a->next < a->count && a->end - p >= bytes);
    a->at += bytes;
    a->next++;
    return p;
}

mr_err mr_gguf_arr_str(mr_gguf_array *a, mr_str *out)
{
    if (a->elem != MR_GGUF_STRING)
        return elem_fail(a, "is not a string");
    assert(a->next < a->count && a->end - a->at >= 8);
    uint64_t len = mr_load_le(a->at, 8);
    assert(len <= (uint64_t)(a->end - a->at) - 8);
    *out = (mr_str){(const char *)a->at + 8, (size_t)len};
    a->at += 8 + len;
    a->next++;
    return MR_OK;
}

mr_err mr_gguf_arr_int(mr_gguf_array *a, int64_t *out)
{
    if (a->elem != MR_GGUF_INT)
        return elem_fail(a, "is not an integer");
    if (!decode_int(a->raw_type, a->at, out))
        return elem_fail(a, "is an integer beyond 2^63-1");
    next_number(a);
    return MR_OK;
}

mr_err mr_gguf_arr_num(mr_gguf_array *a, double *out)
{
    if (a->elem != MR_GGUF_INT && a->elem != MR_GGUF_FLOAT)
        return elem_fail(a, "is not a number");
    if (!decode_num(a->raw_type, a->at, out))
        return elem_fail(a, "is an integer beyond 2^63-1");
    next_number(a);
    return MR_OK;
}

int mr_gguf_keys(const mr_gguf *g)
{
    return (int)g->n_kv;
}

const char *mr_gguf_key(const mr_gguf *g, int i)
{
    assert(i >= 0 && (size_t)i < g->n_kv);
    return g->kv[i].key;
}

const char *mr_gguf_path(const mr_gguf *g)
{
    return g->path;
}
