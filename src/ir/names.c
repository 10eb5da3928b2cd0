/* A map from names to numbers: open addressing, linear probing, at most half full.  The hash starts
 * from the map's address, so a file cannot be made to collide in it; nothing is ever listed in hash
 * order. */
#include "ir/names.h"

#include <string.h>

void mr_names_init(mr_names *m, mr_arena *arena)
{
    memset(m, 0, sizeof *m);
    m->arena = arena;
    m->seed = (uint64_t)(uintptr_t)arena * 0x9E3779B97F4A7C15u;
}

static uint64_t hash(const mr_names *m, const char *key, size_t len)
{
    uint64_t h = m->seed ^ len;
    for (size_t i = 0; i < len; i++) {
        h = (h ^ (unsigned char)key[i]) * 0xD6E8FEB86659FD93u;
        h ^= h >> 29;
    }
    return h;
}

static mr_name_slot *probe(const mr_names *m, const char *key, size_t len)
{
    size_t i = (size_t)hash(m, key, len) & (m->cap - 1);
    while (m->slot[i].key && (strncmp(m->slot[i].key, key, len) != 0 || m->slot[i].key[len]))
        i = (i + 1) & (m->cap - 1);
    return &m->slot[i];
}

mr_name_slot *mr_names_find(const mr_names *m, const char *key, size_t len)
{
    if (!m->cap)
        return NULL;
    mr_name_slot *s = probe(m, key, len);
    return s->key ? s : NULL;
}

static mr_err grow(mr_names *m)
{
    mr_names bigger = *m;
    bigger.cap = m->cap ? 2 * m->cap : 64;
    bigger.slot = mr_arena_alloc(m->arena, bigger.cap * sizeof *bigger.slot);
    if (!bigger.slot)
        return MR_ENOMEM;
    for (size_t i = 0; i < m->cap; i++)
        if (m->slot[i].key)
            *probe(&bigger, m->slot[i].key, strlen(m->slot[i].key)) = m->slot[i];
    *m = bigger;
    return MR_OK;
}

mr_err mr_names_put(mr_names *m, const char *key, int value)
{
    if (2 * (m->used + 1) > m->cap)
        MR_TRY(grow(m));
    mr_name_slot *s = probe(m, key, strlen(key));
    if (!s->key) {
        s->key = key;
        s->next = 2;
        m->used++;
    }
    s->value = value;
    return MR_OK;
}
