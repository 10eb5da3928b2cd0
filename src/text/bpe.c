/* Merging by a heap over a linked list: n log n in the length of the word, since a word may be a
 * whole text (Gemma splits nowhere).
 *
 * A heap entry names a place, a rank and the token it would make; an entry is stale when its place
 * was merged away or when the pair standing there now makes another token, and is then dropped.
 * Equal ranks merge from the left.
 */
#include "text/bpe.h"

#include <assert.h>
#include <string.h>

#include "base/mem.h"
#include "text/pieces.h"

static uint32_t pair_hash(int32_t left, int32_t right)
{
    uint64_t h = ((uint64_t)(uint32_t)left << 32 | (uint32_t)right) * 0x9E3779B97F4A7C15u;
    return (uint32_t)((h ^ (h >> 29)) * 0xBF58476D1CE4E5B9u >> 32);
}

mr_err mr_bpe_reserve(mr_bpe *m, size_t merges)
{
    assert(!m->merge);
    size_t slots = 16, bytes;
    if (merges > (1u << 28) || !mr_mul_size(merges, sizeof *m->merge, &bytes))
        return mr_fail(MR_ELIMIT, "%zu merges are too many", merges);
    while (slots < merges + merges / 2)
        slots *= 2;
    m->merge = mr_alloc(MR_MEM_TOKENIZER, bytes);
    m->slot = mr_zalloc(MR_MEM_TOKENIZER, slots * sizeof *m->slot);
    if (!m->merge || !m->slot)
        return MR_ENOMEM; /* the owner frees */
    m->cap_merges = (uint32_t)merges;
    m->mask = (uint32_t)slots - 1;
    return MR_OK;
}

static uint32_t *pair_slot(const mr_bpe *m, int32_t left, int32_t right)
{
    uint32_t i = pair_hash(left, right) & m->mask;
    while (m->slot[i]) {
        const mr_merge *g = &m->merge[m->slot[i] - 1];
        if (g->left == left && g->right == right)
            break;
        i = (i + 1) & m->mask;
    }
    return &m->slot[i];
}

static const mr_merge *find_merge(const mr_bpe *m, int32_t left, int32_t right)
{
    uint32_t i = *pair_slot(m, left, right);
    return i ? &m->merge[i - 1] : NULL;
}

void mr_bpe_merge(mr_bpe *m, int32_t left, int32_t right, int32_t id, uint32_t rank)
{
    uint32_t *slot = pair_slot(m, left, right);
    if (!*slot) {
        assert(m->n_merges < m->cap_merges);
        *slot = ++m->n_merges;
    }
    m->merge[*slot - 1] = (mr_merge){left, right, id, rank};
}

void mr_bpe_seal(mr_bpe *m)
{
    static const char hex[] = "0123456789ABCDEF";
    for (int b = 0; b < 256; b++) {
        char name[] = {'<', '0', 'x', hex[b >> 4], hex[b & 15], '>'};
        m->byte_id[b] = m->byte_fallback ? mr_table_find(&m->table, name, sizeof name) : -1;
    }
    for (uint32_t cp = 0; cp < MR_LOW_CHARS; cp++) {
        char text[4];
        int n = mr_utf8_encode(cp, text);
        m->low_id[cp] = mr_table_find(&m->table, text, (size_t)n);
    }
}

void mr_bpe_free(mr_bpe *m)
{
    mr_table_free(&m->table);
    mr_free(m->merge);
    mr_free(m->slot);
    memset(m, 0, sizeof *m);
}

void mr_bpe_work_free(mr_bpe_work *w)
{
    mr_free(w->symbol);
    mr_free(w->heap);
    memset(w, 0, sizeof *w);
}

/* ---- the heap ---------------------------------------------------------------------------- */

static void sift_down(mr_bpe_pair *h, size_t n, size_t i)
{
    mr_bpe_pair x = h[i];
    for (;;) {
        size_t c = 2 * i + 1;
        if (c >= n)
            break;
        if (c + 1 < n && h[c + 1].key < h[c].key)
            c++;
        if (x.key <= h[c].key)
            break;
        h[i] = h[c];
        i = c;
    }
    h[i] = x;
}

static mr_err heap_push(mr_bpe_work *w, uint32_t rank, int32_t pos, int32_t id)
{
    MR_TRY(mr_grow((void **)&w->heap, &w->heap_cap, w->heap_n + 1, sizeof *w->heap));
    mr_bpe_pair x = {(uint64_t)rank << 32 | (uint32_t)pos, id};
    size_t i = w->heap_n++;
    while (i > 0 && x.key < w->heap[(i - 1) / 2].key) {
        w->heap[i] = w->heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    w->heap[i] = x;
    return MR_OK;
}

static mr_bpe_pair heap_pop(mr_bpe_work *w)
{
    mr_bpe_pair top = w->heap[0];
    w->heap[0] = w->heap[--w->heap_n];
    if (w->heap_n)
        sift_down(w->heap, w->heap_n, 0);
    return top;
}

/* ---- a word ------------------------------------------------------------------------------ */

static mr_err add_symbol(mr_bpe_work *w, int32_t id)
{
    MR_TRY(mr_grow((void **)&w->symbol, &w->cap, w->n + 1, sizeof *w->symbol));
    w->symbol[w->n] = (mr_bpe_symbol){id, (int32_t)w->n - 1, (int32_t)w->n + 1};
    w->n++;
    return MR_OK;
}

static int32_t char_id(const mr_bpe *m, uint32_t cp, const char *s, size_t len)
{
    return cp < MR_LOW_CHARS ? m->low_id[cp] : mr_table_find(&m->table, s, len);
}

/* All bytes of an unknown character as byte tokens, or none of them. */
static mr_err add_bytes(const mr_bpe *m, mr_bpe_work *w, const char *s, size_t len, bool *done)
{
    *done = false;
    for (size_t i = 0; i < len; i++)
        if (m->byte_id[(unsigned char)s[i]] < 0)
            return MR_OK;
    for (size_t i = 0; i < len; i++)
        MR_TRY(add_symbol(w, m->byte_id[(unsigned char)s[i]]));
    *done = true;
    return MR_OK;
}

/* An unk is held back until the next known character, so that a run of them can fuse; byte tokens
 * do not end a run (the package's order, odd as it is). */
static mr_err split_chars(const mr_bpe *m, mr_bpe_work *w, const char *s, size_t len)
{
    bool held = false;
    w->n = 0;
    for (size_t i = 0; i < len;) {
        uint32_t cp;
        size_t k = (size_t)mr_utf8_decode(s + i, len - i, &cp);
        assert(k > 0);
        int32_t id = char_id(m, cp, s + i, k);
        i += k;
        if (id >= 0) {
            if (held)
                MR_TRY(add_symbol(w, m->unk));
            held = false;
            MR_TRY(add_symbol(w, id));
            continue;
        }
        bool done = false;
        if (m->byte_fallback)
            MR_TRY(add_bytes(m, w, s + i - k, k, &done));
        if (done || m->unk == MR_UNK_NONE)
            continue;
        if (m->unk == MR_UNK_MISSING)
            return mr_fail(MR_EFORMAT, "U+%04X is not in the vocabulary, nor is model.unk_token",
                           (unsigned)cp);
        if (held && !m->fuse_unk)
            MR_TRY(add_symbol(w, m->unk));
        held = true;
    }
    if (held)
        MR_TRY(add_symbol(w, m->unk));
    if (w->n)
        w->symbol[w->n - 1].next = -1;
    return MR_OK;
}

static mr_err first_pairs(const mr_bpe *m, mr_bpe_work *w)
{
    w->heap_n = 0;
    for (size_t i = 0; i + 1 < w->n; i++) {
        const mr_merge *g = find_merge(m, w->symbol[i].id, w->symbol[i + 1].id);
        if (!g)
            continue;
        MR_TRY(mr_grow((void **)&w->heap, &w->heap_cap, w->heap_n + 1, sizeof *w->heap));
        w->heap[w->heap_n++] = (mr_bpe_pair){(uint64_t)g->rank << 32 | (uint32_t)i, g->id};
    }
    for (size_t i = w->heap_n / 2; i-- > 0;)
        sift_down(w->heap, w->heap_n, i);
    return MR_OK;
}

static mr_err push_pair(const mr_bpe *m, mr_bpe_work *w, int32_t left, int32_t right)
{
    const mr_merge *g = find_merge(m, w->symbol[left].id, w->symbol[right].id);
    return g ? heap_push(w, g->rank, left, g->id) : MR_OK;
}

static mr_err merge_all(const mr_bpe *m, mr_bpe_work *w)
{
    MR_TRY(first_pairs(m, w));
    while (w->heap_n) {
        mr_bpe_pair top = heap_pop(w);
        int32_t at = (int32_t)(uint32_t)top.key;
        mr_bpe_symbol *left = &w->symbol[at];
        if (left->id < 0 || left->next < 0)
            continue;
        mr_bpe_symbol *right = &w->symbol[left->next];
        const mr_merge *g = find_merge(m, left->id, right->id);
        if (!g || g->id != top.id)
            continue;
        left->id = top.id;
        left->next = right->next;
        right->id = -1;
        if (left->next >= 0)
            w->symbol[left->next].prev = at;
        if (left->prev >= 0)
            MR_TRY(push_pair(m, w, left->prev, at));
        if (left->next >= 0)
            MR_TRY(push_pair(m, w, at, left->next));
    }
    return MR_OK;
}

mr_err mr_bpe_word(const mr_bpe *m, mr_bpe_work *w, const char *s, size_t len, mr_ids *ids)
{
    if (m->ignore_merges) {
        int32_t id = mr_table_find(&m->table, s, len);
        if (id >= 0)
            return mr_ids_push(ids, id);
    }
    MR_TRY(split_chars(m, w, s, len));
    if (m->n_merges && w->n > 1)
        MR_TRY(merge_all(m, w));
    for (int32_t i = w->n ? 0 : -1; i >= 0; i = w->symbol[i].next)
        MR_TRY(mr_ids_push(ids, w->symbol[i].id));
    return MR_OK;
}
