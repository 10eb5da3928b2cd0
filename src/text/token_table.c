/* Open addressing with linear probing at a load of at most three quarters. */
#include "text/token_table.h"

#include <assert.h>
#include <string.h>

#include "base/mem.h"

uint64_t mr_text_hash(const char *s, size_t len)
{
    uint64_t h = 0x9E3779B97F4A7C15u ^ len, w;
    while (len >= 8) {
        memcpy(&w, s, 8);
        h = (h ^ w) * 0xFF51AFD7ED558CCDu;
        h ^= h >> 32;
        s += 8;
        len -= 8;
    }
    w = 0;
    memcpy(&w, s, len);
    h = (h ^ w) * 0xC4CEB9FE1A85EC53u;
    return h ^ (h >> 29);
}

mr_err mr_table_init(mr_table *t, size_t ids, size_t indexed, size_t bytes)
{
    memset(t, 0, sizeof *t);
    assert(ids <= (size_t)MR_TOKEN_ID_MAX + 1);
    if (bytes > INT32_MAX)
        return mr_fail(MR_ELIMIT, "a vocabulary of %zu bytes is too large", bytes);
    size_t slots = 16;
    while (slots < indexed + indexed / 3)
        slots *= 2;
    t->pool = mr_alloc(MR_MEM_TOKENIZER, bytes);
    t->text = mr_alloc(MR_MEM_TOKENIZER, ids * sizeof *t->text);
    t->slot = mr_alloc(MR_MEM_TOKENIZER, slots * sizeof *t->slot);
    if (!t->pool || !t->text || !t->slot)
        return MR_ENOMEM; /* the owner frees */
    t->pool_cap = bytes;
    t->n = (int32_t)ids;
    t->mask = (uint32_t)slots - 1;
    memset(t->text, 0xFF, ids * sizeof *t->text);
    memset(t->slot, 0xFF, slots * sizeof *t->slot);
    return MR_OK;
}

void mr_table_free(mr_table *t)
{
    mr_free(t->pool);
    mr_free(t->text);
    mr_free(t->slot);
    memset(t, 0, sizeof *t);
}

bool mr_table_has(const mr_table *t, int32_t id)
{
    return id >= 0 && id < t->n && t->text[id].off != UINT32_MAX;
}

mr_str mr_table_text(const mr_table *t, int32_t id)
{
    if (!mr_table_has(t, id))
        return (mr_str){"", 0};
    return (mr_str){t->pool + t->text[id].off, t->text[id].len};
}

void mr_table_put(mr_table *t, int32_t id, const char *text, size_t len)
{
    assert(id >= 0 && id < t->n && len <= t->pool_cap - t->pool_len);
    memcpy(t->pool + t->pool_len, text, len);
    t->text[id] = (mr_token_text){(uint32_t)t->pool_len, (uint32_t)len & 0x7FFFFFFFu, 0};
    t->pool_len += len;
}

static bool same(const mr_table *t, int32_t id, const char *text, size_t len)
{
    return t->text[id].len == len && memcmp(t->pool + t->text[id].off, text, len) == 0;
}

bool mr_table_index(mr_table *t, int32_t id, bool replace)
{
    mr_str s = mr_table_text(t, id);
    uint32_t i = (uint32_t)mr_text_hash(s.data, s.len) & t->mask;
    while (t->slot[i] >= 0) {
        if (same(t, t->slot[i], s.data, s.len)) {
            if (replace)
                t->slot[i] = id;
            return false;
        }
        i = (i + 1) & t->mask;
    }
    t->slot[i] = id;
    return true;
}

void mr_table_hide(mr_table *t, int32_t id)
{
    t->text[id].hidden = 1;
}

int32_t mr_table_find(const mr_table *t, const char *text, size_t len)
{
    int32_t id = mr_table_find_any(t, text, len);
    return id >= 0 && t->text[id].hidden ? -1 : id;
}

int32_t mr_table_find_any(const mr_table *t, const char *text, size_t len)
{
    if (!t->slot)
        return -1;
    uint32_t i = (uint32_t)mr_text_hash(text, len) & t->mask;
    while (t->slot[i] >= 0) {
        if (same(t, t->slot[i], text, len))
            return t->slot[i];
        i = (i + 1) & t->mask;
    }
    return -1;
}
