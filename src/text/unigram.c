/* A trie by hash, and the best path over the text's bytes from left to right (Viterbi).
 *
 * A run of unknown characters becomes one unk, or its bytes where there are byte tokens.
 */
#include "text/unigram.h"

#include <assert.h>
#include <string.h>

#include "base/mem.h"
#include "text/pieces.h"
#include "text/unicode.h"

enum { PIECE_MAX = 512, NODES_MAX = (1 << 24) - 1 };

mr_err mr_unigram_init(mr_unigram *u, size_t bytes)
{
    size_t slots = 16;
    if (bytes >= NODES_MAX)
        return mr_fail(MR_ELIMIT, "a vocabulary of %zu bytes is too large", bytes);
    while (slots < bytes + bytes / 2)
        slots *= 2;
    u->cap = (uint32_t)bytes + 1;
    u->mask = (uint32_t)slots - 1;
    u->key = mr_alloc(MR_MEM_TOKENIZER, slots * sizeof *u->key);
    u->child = mr_zalloc(MR_MEM_TOKENIZER, slots * sizeof *u->child);
    u->id = mr_alloc(MR_MEM_TOKENIZER, u->cap * sizeof *u->id);
    u->score = mr_alloc(MR_MEM_TOKENIZER, u->cap * sizeof *u->score);
    if (!u->key || !u->child || !u->id || !u->score)
        return MR_ENOMEM; /* the owner frees */
    u->id[0] = -1;
    u->nodes = 1;
    return MR_OK;
}

void mr_unigram_free(mr_unigram *u)
{
    mr_free(u->key);
    mr_free(u->child);
    mr_free(u->id);
    mr_free(u->score);
    memset(u, 0, sizeof *u);
}

void mr_unigram_work_free(mr_unigram_work *w)
{
    mr_free(w->v);
    memset(w, 0, sizeof *w);
}

/* The slot of a step down, or the free one where it would be. */
static uint32_t slot_of(const mr_unigram *u, uint32_t parent, unsigned char byte)
{
    uint32_t key = parent << 8 | byte;
    uint64_t h = key * 0x9E3779B97F4A7C15u;
    uint32_t i = (uint32_t)(h >> 32) & u->mask;
    while (u->child[i] && u->key[i] != key)
        i = (i + 1) & u->mask;
    return i;
}

mr_err mr_unigram_put(mr_unigram *u, const char *s, size_t len, int32_t id, double score)
{
    uint32_t at = 0;
    if (len > PIECE_MAX)
        return mr_fail(MR_EUNSUPPORTED, "token %d has %zu bytes (at most %d)", id, len, PIECE_MAX);
    if (len == 0)
        return MR_OK;
    for (size_t i = 0; i < len; i++) {
        uint32_t slot = slot_of(u, at, (unsigned char)s[i]);
        if (!u->child[slot]) {
            assert(u->nodes < u->cap);
            u->key[slot] = at << 8 | (unsigned char)s[i];
            u->id[u->nodes] = -1;
            u->child[slot] = u->nodes++;
        }
        at = u->child[slot];
    }
    u->id[at] = id;
    u->score[at] = score;
    return MR_OK;
}

static void offer(mr_unigram_step *to, double sum, int32_t id, size_t start)
{
    if (to->start == UINT32_MAX || sum > to->score)
        *to = (mr_unigram_step){sum, id, (uint32_t)start};
}

/* All pieces that start here. */
static void step(const mr_unigram *u, int32_t unk, mr_unigram_step *v, const char *s, size_t len,
                 size_t start, size_t one)
{
    double here = v[start].score;
    uint32_t at = 0;
    bool known = false;
    for (size_t i = start; i < len; i++) {
        at = u->child[slot_of(u, at, (unsigned char)s[i])];
        if (!at)
            break;
        if (u->id[at] < 0)
            continue;
        offer(&v[i + 1], here + u->score[at], u->id[at], start);
        known |= i + 1 == start + one;
    }
    if (!known)
        offer(&v[start + one], here + u->unk, unk, start);
}

/* Links the path from its end to its start the other way: start is then the next end. */
static void turn(mr_unigram_step *v, size_t len)
{
    uint32_t end = (uint32_t)len, next = UINT32_MAX;
    while (end > 0) {
        uint32_t start = v[end].start;
        v[end].start = next;
        next = end;
        end = start;
    }
    v[0].start = next;
}

static mr_err put_unknown(const mr_bpe *m, const char *s, size_t len, mr_ids *ids)
{
    int32_t id = mr_table_find(&m->table, s, len); /* unk's own text, written out */
    if (id >= 0)
        return mr_ids_push(ids, id);
    bool bytes = m->byte_fallback;
    for (size_t i = 0; bytes && i < len; i++)
        bytes = m->byte_id[(unsigned char)s[i]] >= 0;
    for (size_t i = 0; bytes && i < len; i++)
        MR_TRY(mr_ids_push(ids, m->byte_id[(unsigned char)s[i]]));
    if (bytes)
        return MR_OK;
    if (m->unk < 0)
        return mr_fail(MR_EFORMAT, "a character is not in the vocabulary, nor is there an unknown "
                                   "token");
    return mr_ids_push(ids, m->unk);
}

mr_err mr_unigram_word(const mr_unigram *u, const mr_bpe *m, mr_unigram_work *w, const char *s,
                       size_t len, mr_ids *ids)
{
    int32_t unk = m->unk < 0 ? -1 : m->unk;
    MR_TRY(mr_grow((void **)&w->v, &w->cap, len + 1, sizeof *w->v));
    mr_unigram_step *v = w->v;
    for (size_t i = 0; i <= len; i++)
        v[i] = (mr_unigram_step){0, -1, UINT32_MAX};
    for (size_t i = 0, one; i < len; i += one) {
        one = mr_utf8_length(s + i, len - i);
        step(u, unk, v, s, len, i, one);
    }
    turn(v, len);
    for (size_t at = 0; at < len;) {
        size_t end = v[at].start, from = at;
        int32_t id = v[end].id;
        if (id != unk) {
            MR_TRY(mr_ids_push(ids, id));
            at = end;
            continue;
        }
        for (at = end; at < len && v[v[at].start].id == unk;)
            at = v[at].start;
        MR_TRY(put_unknown(m, s + from, at - from, ids));
    }
    return MR_OK;
}
