/* KV caches: tables of blocks, allocated as a session grows: those of 64 positions of all caches in one
 * piece, which so is large enough for huge pages. */
#include "backend/cpu/cpu_kv.h"

#include <string.h>

static int64_t blocks_of(int64_t positions)
{
    return (positions + MR_TILE - 1) / MR_TILE;
}

/* Sizes of a cache for sessions of max_len positions; false if they overflow. */
static bool describe(const mr_cache_desc *d, bool bf16, int64_t max_len, int64_t max_advance,
                     mr_kv_cache *c)
{
    *c = (mr_kv_cache){.heads = d->heads, .dk = d->dk, .dv = d->dv};
    if (d->state)
        return mr_mul_size((size_t)d->heads * (size_t)d->dk,
                           ((size_t)d->dv + 15) / 16 * 16 * sizeof(float), &c->block_bytes);
    c->slots = blocks_of(max_len);
    if (d->window) {
        int64_t ring = blocks_of(d->window + max_advance) + 1;
        if (ring < c->slots)
            c->slots = c->ring = ring;
    }
    size_t columns = (size_t)d->dk + ((size_t)d->dv + 31) / 32 * 32;
    return mr_mul_size(columns, MR_TILE * (bf16 ? 2 : 4), &c->head_bytes) &&
           mr_mul_size(c->head_bytes, (size_t)d->heads, &c->block_bytes);
}

static bool is_bf16(const mr_backend *b)
{
    return b->opts.precision != MR_EXACT;
}

mr_err mr_cpu_kv_new(mr_backend *b, const mr_cache_desc *caches, int n, int64_t max_len,
                     int64_t max_advance, mr_kv **out)
{
    if (max_len < 1 || max_len > INT32_MAX || max_advance < 1 || max_advance > INT32_MAX)
        return mr_fail(MR_EUSAGE, "a session of %lld positions, %lld at a time, is out of range",
                       (long long)max_len, (long long)max_advance);
    mr_kv *kv = mr_zalloc(MR_MEM_KV, sizeof *kv);
    if (!kv)
        return MR_ENOMEM;
    *kv = (mr_kv){.bf16 = is_bf16(b), .max_len = max_len, .max_advance = max_advance};
    kv->bytes = sizeof *kv + (size_t)n * sizeof *kv->cache;
    kv->cache = mr_zalloc(MR_MEM_KV, (size_t)n * sizeof *kv->cache);
    if (!kv->cache) {
        mr_free(kv);
        return MR_ENOMEM;
    }
    for (; kv->n < n; kv->n++) {
        mr_kv_cache *c = &kv->cache[kv->n];
        size_t table = 0;
        mr_err e = MR_OK;
        if (!describe(&caches[kv->n], kv->bf16, max_len, max_advance, c) ||
            !mr_mul_size((size_t)c->slots, sizeof *c->block, &table))
            e = mr_fail(MR_ELIMIT, "cache \"%s\" is too large", caches[kv->n].name);
        else if (!(c->block = mr_zalloc(MR_MEM_KV, table)))
            e = MR_ENOMEM;
        if (e != MR_OK) {
            mr_cpu_kv_free(b, kv);
            return e;
        }
        kv->bytes += table;
    }
    *out = kv;
    return MR_OK;
}

static mr_err make_state(mr_kv *kv, mr_kv_cache *c)
{
    for (int i = 0; i < 2; i++) {
        if (c->state[i])
            continue;
        c->state[i] = mr_zalloc(MR_MEM_KV, c->block_bytes);
        if (!c->state[i])
            return MR_ENOMEM;
        kv->bytes += c->block_bytes;
    }
    return MR_OK;
}

void mr_cpu_kv_settle(mr_backend *b, mr_kv *kv, bool commit)
{
    (void)b;
    if (kv->open && commit)
        kv->committed = !kv->committed;
    kv->open = false;
}

/* Block b of all caches that have one, in one piece; the first of them holds its address. */
static mr_err make_blocks(mr_kv *kv, int64_t b)
{
    size_t bytes = 0;
    for (int i = 0; i < kv->n; i++)
        if (b < kv->cache[i].slots && !mr_add_size(bytes, kv->cache[i].block_bytes, &bytes))
            return mr_fail(MR_ELIMIT, "64 positions of the caches are too large");
    char *p = bytes ? mr_zalloc_streamed(MR_MEM_KV, bytes) : NULL;
    if (bytes && !p)
        return MR_ENOMEM;
    for (int i = 0; i < kv->n; i++) {
        mr_kv_cache *c = &kv->cache[i];
        if (b >= c->slots)
            continue;
        c->block[c->held++] = p;
        p += c->block_bytes;
    }
    kv->bytes += bytes;
    return MR_OK;
}

mr_err mr_cpu_kv_reserve(mr_backend *b, mr_kv *kv, int64_t len)
{
    (void)b;
    if (len > kv->max_len)
        return mr_fail(MR_ELIMIT, "the session holds %lld positions, %lld are asked for",
                       (long long)kv->max_len, (long long)len);
    for (int i = 0; i < kv->n; i++)
        if (!kv->cache[i].slots)
            MR_TRY(make_state(kv, &kv->cache[i]));
    for (; kv->blocks < blocks_of(len); kv->blocks++)
        MR_TRY(make_blocks(kv, kv->blocks));
    if (len > kv->len)
        kv->len = len;
    return MR_OK;
}

size_t mr_cpu_kv_bytes(const mr_backend *b, const mr_kv *kv)
{
    (void)b;
    return kv->bytes;
}

size_t mr_cpu_kv_need(const mr_backend *b, const mr_cache_desc *caches, int n, int64_t len,
                      int64_t max_advance)
{
    size_t all = sizeof(mr_kv) + (size_t)n * sizeof(mr_kv_cache);
    for (int i = 0; i < n; i++) {
        mr_kv_cache c;
        size_t bytes;
        if (!describe(&caches[i], is_bf16(b), len, max_advance, &c) ||
            !mr_add_size(c.block_bytes, sizeof *c.block, &bytes) ||
            !mr_mul_size(bytes, caches[i].state ? 2 : (size_t)c.slots, &bytes) ||
            !mr_add_size(all, bytes, &all))
            return SIZE_MAX;
    }
    return all;
}

void mr_cpu_kv_free(mr_backend *b, mr_kv *kv)
{
    (void)b;
    if (!kv)
        return;
    for (int64_t at = 0; at < kv->blocks; at++)
        for (int i = 0; i < kv->n; i++)
            if (at < kv->cache[i].held) {
                mr_free(kv->cache[i].block[at]);
                break;
            }
    for (int i = 0; i < kv->n; i++) {
        mr_free(kv->cache[i].block);
        mr_free(kv->cache[i].state[0]);
        mr_free(kv->cache[i].state[1]);
    }
    mr_free(kv->cache);
    mr_free(kv);
}

/* ---- snapshots ---- */

size_t mr_cpu_kv_row_bytes(const mr_backend *b, const mr_kv *kv, int cache)
{
    (void)b;
    const mr_kv_cache *c = &kv->cache[cache];
    return c->slots ? (size_t)c->heads * (size_t)(c->dk + c->dv) * (kv->bf16 ? 2 : 4)
                    : c->block_bytes;
}

/* One row between its places in a block and `row`: keys of all heads, then values. */
static void move_row(const mr_kv *kv, const mr_kv_cache *c, int64_t pos, uint8_t *row, bool put)
{
    size_t e = kv->bf16 ? 2 : 4, lane = (size_t)(pos % MR_TILE), dk = (size_t)c->dk;
    size_t dv = (size_t)c->dv, width = dk + dv;
    uint8_t *head = mr_kv_block(c, pos / MR_TILE), *values = row + (size_t)c->heads * dk * e;
    for (size_t h = 0; h < (size_t)c->heads; h++, head += c->head_bytes)
        for (size_t i = 0; i < width; i++) {
            size_t v = i - dk, line = lane / 32 * dk + i, in_line = lane % 32;
            uint8_t *to = row + (h * dk + i) * e;
            if (i >= dk) {
                line = 2 * dk + v / 32 * MR_TILE + lane;
                in_line = v % 32;
                to = values + (h * dv + v) * e;
            }
            uint8_t *at = head + (line * 32 + (size_t)mr_kv_place(kv->bf16, (int)in_line)) * e;
            memcpy(put ? at : to, put ? to : at, e);
        }
}

void mr_cpu_kv_get(const mr_backend *b, const mr_kv *kv, int cache, int64_t pos, int64_t n,
                   void *rows)
{
    const mr_kv_cache *c = &kv->cache[cache];
    size_t bytes = mr_cpu_kv_row_bytes(b, kv, cache);
    if (!c->slots)
        memcpy(rows, c->state[kv->committed], bytes);
    for (int64_t i = 0; c->slots && i < n; i++)
        move_row(kv, c, pos + i, (uint8_t *)rows + (size_t)i * bytes, false);
}

void mr_cpu_kv_put(mr_backend *b, mr_kv *kv, int cache, int64_t pos, int64_t n, const void *rows)
{
    mr_kv_cache *c = &kv->cache[cache];
    size_t bytes = mr_cpu_kv_row_bytes(b, kv, cache);
    if (!c->slots)
        memcpy(c->state[kv->committed], rows, bytes);
    for (int64_t i = 0; c->slots && i < n; i++)
        move_row(kv, c, pos + i, (uint8_t *)(uintptr_t)rows + (size_t)i * bytes, true);
}
