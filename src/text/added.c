/* The patterns of a set are sorted; a search narrows the range that agrees with the text byte by
 * byte, so it costs at most the length of the longest pattern per position, and one table look-up
 * where none begins.
 */
#include "text/added.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "text/pieces.h"
#include "text/unicode.h"

void mr_added_free(mr_added *a)
{
    mr_free(a->v);
    mr_buf_free(&a->pool);
    mr_free(a->sorted[0]);
    mr_free(a->sorted[1]);
    memset(a, 0, sizeof *a);
}

void mr_spans_free(mr_spans *s)
{
    mr_free(s->v);
    memset(s, 0, sizeof *s);
}

mr_err mr_added_add(mr_added *a, mr_added_token token, const char *pattern, size_t len)
{
    MR_TRY(mr_grow((void **)&a->v, &a->cap, a->n + 1, sizeof *a->v));
    token.off = (uint32_t)a->pool.len;
    token.len = (uint32_t)len;
    mr_buf_add(&a->pool, pattern, len);
    MR_TRY(mr_buf_check(&a->pool));
    a->v[a->n++] = token;
    return MR_OK;
}

/* ---- sorting ----------------------------------------------------------------------------- */

static int compare(const mr_added *a, uint32_t x, uint32_t y)
{
    const mr_added_token *t = &a->v[x], *u = &a->v[y];
    size_t n = t->len < u->len ? t->len : u->len;
    int c = memcmp(a->pool.data + t->off, a->pool.data + u->off, n);
    return c ? c : (t->len > u->len) - (t->len < u->len);
}

/* Merge sort: qsort has no argument for the pool, and qsort_r is not everywhere. */
static void sort(const mr_added *a, uint32_t *v, uint32_t *tmp, size_t n)
{
    if (n < 2)
        return;
    size_t half = n / 2, i = 0, j = half, k = 0;
    sort(a, v, tmp, half);
    sort(a, v + half, tmp, n - half);
    while (i < half && j < n)
        tmp[k++] = compare(a, v[j], v[i]) < 0 ? v[j++] : v[i++];
    while (i < half)
        tmp[k++] = v[i++];
    while (j < n)
        tmp[k++] = v[j++];
    memcpy(v, tmp, n * sizeof *v);
}

static unsigned char byte_at(const mr_added *a, uint32_t index, size_t depth)
{
    return (unsigned char)a->pool.data[a->v[index].off + depth];
}

static mr_err seal_one(mr_added *a, mr_added_when when, uint32_t *tmp, const char *file)
{
    size_t n = 0;
    uint32_t *v = mr_alloc(MR_MEM_TOKENIZER, (a->n + 1) * sizeof *v);
    if (!v)
        return MR_ENOMEM;
    a->sorted[when] = v;
    for (size_t i = 0; i < a->n; i++)
        if (a->v[i].when == when)
            v[n++] = (uint32_t)i;
    a->n_sorted[when] = n;
    sort(a, v, tmp, n);
    for (size_t i = 0; i + 1 < n; i++)
        if (compare(a, v[i], v[i + 1]) == 0)
            return mr_fail(
                MR_EFORMAT, "%s: added_tokens: ids %d and %d have the same text \"%.*s\"", file,
                a->v[v[i]].id, a->v[v[i + 1]].id, a->v[v[i]].len < 40 ? (int)a->v[v[i]].len : 40,
                a->pool.data + a->v[v[i]].off);
    size_t at = 0;
    for (unsigned b = 0; b < 257; b++) {
        while (at < n && b < 256 && byte_at(a, v[at], 0) < b)
            at++;
        a->first[when][b] = (uint32_t)(b < 256 ? at : n);
    }
    return MR_OK;
}

mr_err mr_added_seal(mr_added *a, const char *file)
{
    uint32_t *tmp = mr_alloc(MR_MEM_OTHER, (a->n + 1) * sizeof *tmp);
    if (!tmp)
        return MR_ENOMEM;
    mr_err err = seal_one(a, MR_ADDED_RAW, tmp, file);
    if (err == MR_OK)
        err = seal_one(a, MR_ADDED_NORMALIZED, tmp, file);
    mr_free(tmp);
    return err;
}

/* ---- finding ----------------------------------------------------------------------------- */

/* First index in [lo, hi) whose byte at depth is >= b (patterns there are all longer than depth).
 */
static size_t lower(const mr_added *a, const uint32_t *v, size_t lo, size_t hi, size_t depth,
                    unsigned b)
{
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if (byte_at(a, v[mid], depth) < b)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

const mr_added_token *mr_added_longest(const mr_added *a, mr_added_when when, const char *s,
                                       size_t len)
{
    const uint32_t *v = a->sorted[when];
    const mr_added_token *best = NULL;
    unsigned b = (unsigned char)s[0];
    size_t lo = a->first[when][b], hi = a->first[when][b + 1], depth = 1;
    while (lo < hi) {
        if (a->v[v[lo]].len == depth) /* sorted: the one that ends here comes first */
            best = &a->v[v[lo++]];
        if (depth == len)
            break;
        b = (unsigned char)s[depth];
        if (lo < hi && byte_at(a, v[lo], depth) == b && byte_at(a, v[hi - 1], depth) == b) {
            depth++; /* all agree */
            continue;
        }
        lo = lower(a, v, lo, hi, depth, b);
        hi = lower(a, v, lo, hi, depth, b + 1);
        depth++;
    }
    return best;
}

static bool stands_alone(const char *s, size_t len, size_t start, size_t end)
{
    uint32_t cp = 0;
    size_t at;
    if (start > 0 && mr_cp_is_word(mr_utf8_last(s, start, &at)))
        return false;
    return end == len || mr_utf8_decode(s + end, len - end, &cp) == 0 || !mr_cp_is_word(cp);
}

static mr_err push(mr_spans *out, size_t start, size_t end, int32_t id)
{
    MR_TRY(mr_grow((void **)&out->v, &out->cap, out->n + 1, sizeof *out->v));
    out->v[out->n++] = (mr_span){start, end, id};
    return MR_OK;
}

mr_err mr_added_find(const mr_added *a, mr_added_when when, bool plain, const char *s, size_t len,
                     mr_spans *out)
{
    size_t covered = 0;
    out->n = 0;
    for (size_t i = 0; a->n_sorted[when] && i < len;) {
        const mr_added_token *t = mr_added_longest(a, when, s + i, len - i);
        if (!t) {
            i++;
            continue;
        }
        size_t start = i, end = i + t->len;
        i = end; /* the search goes on here whatever the flags make of this match */
        if ((plain && t->special) || (t->single_word && !stands_alone(s, len, start, end)))
            continue;
        if (t->lstrip) {
            start -= mr_space_suffix(s, start);
            start = start > covered ? start : covered;
        }
        if (t->rstrip)
            end += mr_space_prefix(s + end, len - end);
        if (covered < start)
            MR_TRY(push(out, covered, start, -1));
        MR_TRY(push(out, start, end, t->id));
        covered = end;
    }
    return covered != len ? push(out, covered, len, -1) : MR_OK;
}
