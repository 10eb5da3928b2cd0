/* Caches of a session: arrays that hold every position, grown 64 positions at a time. */
#include "backend/ref/ref.h"

#include <string.h>

enum { BLOCK = 64 };

static int64_t whole_blocks(int64_t len)
{
    return (len + BLOCK - 1) / BLOCK * BLOCK;
}

void mr_ref_kv_free(mr_backend *b, mr_kv *kv)
{
    (void)b;
    if (!kv)
        return;
    for (int i = 0; kv->cache && i < kv->n; i++) {
        mr_free(kv->cache[i].k);
        mr_free(kv->cache[i].v);
        mr_free(kv->cache[i].state[0]);
        mr_free(kv->cache[i].state[1]);
    }
    mr_free(kv->cache);
    mr_free(kv);
}

static size_t state_numbers(int heads, int dk, int dv)
{
    return (size_t)heads * (size_t)dk * (size_t)dv;
}

static mr_err make_state(mr_ref_cache *c)
{
    for (int i = 0; i < 2; i++) {
        c->state[i] = mr_zalloc(MR_MEM_KV, state_numbers(c->heads, c->dk, c->dv) * sizeof(float));
        if (!c->state[i])
            return MR_ENOMEM;
    }
    return MR_OK;
}

void mr_ref_kv_settle(mr_backend *b, mr_kv *kv, bool commit)
{
    (void)b;
    if (kv->open && commit)
        kv->committed = !kv->committed;
    kv->open = false;
}

mr_err mr_ref_kv_new(mr_backend *b, const mr_cache_desc *caches, int n, int64_t max_len,
                     int64_t max_advance, mr_kv **out)
{
    (void)max_advance; /* sizes rings, of which there are none here */
    mr_kv *kv = mr_zalloc(MR_MEM_KV, sizeof *kv);
    if (!kv)
        return MR_ENOMEM;
    kv->n = n;
    kv->max_len = max_len;
    kv->cache = mr_zalloc(MR_MEM_KV, (size_t)n * sizeof *kv->cache);
    if (!kv->cache) {
        mr_ref_kv_free(b, kv);
        return MR_ENOMEM;
    }
    for (int i = 0; i < n; i++) {
        kv->cache[i].heads = caches[i].heads;
        kv->cache[i].dk = caches[i].dk;
        kv->cache[i].dv = caches[i].dv;
        mr_err e = caches[i].state ? make_state(&kv->cache[i]) : MR_OK;
        if (e != MR_OK) {
            mr_ref_kv_free(b, kv);
            return e;
        }
    }
    *out = kv;
    return MR_OK;
}

static mr_err grow(float **p, int64_t len, int64_t width)
{
    size_t bytes;
    if (!mr_mul_size((size_t)len, (size_t)width * sizeof(float), &bytes))
        return mr_fail(MR_ELIMIT, "a cache of %lld positions does not fit an address space",
                       (long long)len);
    float *now = mr_realloc(MR_MEM_KV, *p, bytes);
    if (!now)
        return MR_ENOMEM;
    *p = now;
    return MR_OK;
}

mr_err mr_ref_kv_reserve(mr_backend *b, mr_kv *kv, int64_t len)
{
    (void)b;
    if (len > kv->max_len)
        return mr_fail(MR_ELIMIT, "the session was made for %lld positions, %lld are needed",
                       (long long)kv->max_len, (long long)len);
    int64_t want = whole_blocks(len);
    if (want <= kv->len)
        return MR_OK;
    for (int i = 0; i < kv->n; i++) {
        mr_ref_cache *c = &kv->cache[i];
        if (c->state[0])
            continue;
        MR_TRY(grow(&c->k, want, (int64_t)c->heads * c->dk));
        if (c->dv)
            MR_TRY(grow(&c->v, want, (int64_t)c->heads * c->dv));
    }
    kv->len = want; /* only when all have grown: a failed reserve can be tried again */
    return MR_OK;
}

size_t mr_ref_kv_bytes(const mr_backend *b, const mr_kv *kv)
{
    (void)b;
    size_t bytes = 0;
    for (int i = 0; i < kv->n; i++) {
        const mr_ref_cache *c = &kv->cache[i];
        if (c->state[0])
            bytes += 2 * state_numbers(c->heads, c->dk, c->dv) * sizeof(float);
        else
            bytes += (size_t)kv->len * (size_t)c->heads * (size_t)(c->dk + c->dv) * sizeof(float);
    }
    return bytes;
}

size_t mr_ref_kv_need(const mr_backend *b, const mr_cache_desc *caches, int n, int64_t len,
                      int64_t max_advance)
{
    (void)b;
    (void)max_advance;
    size_t bytes = 0;
    for (int i = 0; i < n; i++)
        bytes += caches[i].state ? 2 * state_numbers(caches[i].heads, caches[i].dk, caches[i].dv) *
                                       sizeof(float)
                                 : (size_t)whole_blocks(len) * (size_t)caches[i].heads *
                                       (size_t)(caches[i].dk + caches[i].dv) * sizeof(float);
    return bytes;
}

/* ---- snapshots ---- */

size_t mr_ref_kv_row_bytes(const mr_backend *b, const mr_kv *kv, int cache)
{
    (void)b;
    const mr_ref_cache *c = &kv->cache[cache];
    return sizeof(float) * (c->state[0] ? state_numbers(c->heads, c->dk, c->dv)
                                        : (size_t)c->heads * (size_t)(c->dk + c->dv));
}

static void move_row(const mr_ref_cache *c, int64_t pos, float *row, bool put)
{
    size_t k = (size_t)c->heads * (size_t)c->dk, v = (size_t)c->heads * (size_t)c->dv;
    float *keys = c->k + (size_t)pos * k, *values = c->v + (size_t)pos * v;
    memcpy(put ? keys : row, put ? row : keys, k * sizeof(float));
    if (v)
        memcpy(put ? values : row + k, put ? row + k : values, v * sizeof(float));
}

void mr_ref_kv_get(const mr_backend *b, const mr_kv *kv, int cache, int64_t pos, int64_t n,
                   void *rows)
{
    const mr_ref_cache *c = &kv->cache[cache];
    size_t bytes = mr_ref_kv_row_bytes(b, kv, cache);
    if (c->state[0])
        memcpy(rows, c->state[kv->committed], bytes);
    for (int64_t i = 0; !c->state[0] && i < n; i++)
        move_row(c, pos + i, (float *)rows + (size_t)i * (bytes / sizeof(float)), false);
}

void mr_ref_kv_put(mr_backend *b, mr_kv *kv, int cache, int64_t pos, int64_t n, const void *rows)
{
    const mr_ref_cache *c = &kv->cache[cache];
    size_t bytes = mr_ref_kv_row_bytes(b, kv, cache);
    if (c->state[0])
        memcpy(c->state[kv->committed], rows, bytes);
    for (int64_t i = 0; !c->state[0] && i < n; i++)
        move_row(c, pos + i, (float *)(uintptr_t)rows + (size_t)i * (bytes / sizeof(float)), true);
}
