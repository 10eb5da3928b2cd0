/* Lists of pieces and of matches.
 *
 * Matches are found as the package finds them: leftmost, and an empty match right behind the last
 * match is passed over by one character.
 */
#include "text/pieces.h"

#include <string.h>

#include "base/mem.h"

mr_err mr_grow(void **v, size_t *cap, size_t need, size_t size)
{
    if (need <= *cap)
        return MR_OK;
    size_t n = *cap ? *cap * 2 : 16, bytes;
    if (n < need)
        n = need;
    if (!mr_mul_size(n, size, &bytes))
        return mr_fail(MR_ELIMIT, "a list of %zu items is too long", n);
    void *p = mr_realloc(MR_MEM_OTHER, *v, bytes);
    if (!p)
        return MR_ENOMEM;
    *v = p;
    *cap = n;
    return MR_OK;
}

void mr_pieces_clear(mr_pieces *p)
{
    mr_buf_clear(&p->text);
    p->n = 0;
}

void mr_pieces_free(mr_pieces *p)
{
    mr_buf_free(&p->text);
    mr_free(p->v);
    memset(p, 0, sizeof *p);
}

mr_err mr_pieces_push(mr_pieces *p, size_t off, size_t len, bool first)
{
    if (len == 0)
        return MR_OK;
    MR_TRY(mr_grow((void **)&p->v, &p->cap, p->n + 1, sizeof *p->v));
    p->v[p->n++] = (mr_piece){(uint32_t)off, (uint32_t)len & 0x7FFFFFFFu, first};
    return MR_OK;
}

void mr_pattern_free(mr_pattern *p)
{
    mr_free(p->literal);
    mr_regex_free(p->regex);
    memset(p, 0, sizeof *p);
}

void mr_runs_free(mr_runs *r)
{
    mr_free(r->v);
    memset(r, 0, sizeof *r);
}

mr_err mr_runs_push(mr_runs *r, size_t start, size_t end, bool match)
{
    MR_TRY(mr_grow((void **)&r->v, &r->cap, r->n + 1, sizeof *r->v));
    r->v[r->n++] = (mr_run){(uint32_t)start, (uint32_t)end, match};
    return MR_OK;
}

static mr_err find(const mr_pattern *p, mr_scan *sc, const char *s, size_t len, size_t from,
                   size_t *start, size_t *end, bool *found)
{
    if (p->regex)
        return mr_regex_find(p->regex, sc, s, len, from, start, end, found);
    const char *at = p->len ? memmem(s + from, len - from, p->literal, p->len) : s + from;
    *found = at != NULL;
    if (at) {
        *start = (size_t)(at - s);
        *end = *start + p->len;
    }
    return MR_OK;
}

static size_t next_char(const char *s, size_t len, size_t at)
{
    do
        at++;
    while (at < len && ((unsigned char)s[at] & 0xC0) == 0x80);
    return at;
}

mr_err mr_pattern_runs(const mr_pattern *p, mr_scan *sc, const char *s, size_t len, mr_runs *out)
{
    out->n = 0;
    size_t from = 0, prev = 0;
    bool matched = false; /* `prev` is the end of a match */
    while (from <= len) {
        size_t start = 0, end = 0;
        bool found = false;
        MR_TRY(find(p, sc, s, len, from, &start, &end, &found));
        if (!found)
            break;
        if (start == end && matched && end == prev) {
            from = next_char(s, len, from);
            continue;
        }
        if (prev != start)
            MR_TRY(mr_runs_push(out, prev, start, false));
        MR_TRY(mr_runs_push(out, start, end, true));
        from = prev = end;
        matched = true;
    }
    if (prev != len || out->n == 0)
        MR_TRY(mr_runs_push(out, prev, len, false));
    return MR_OK;
}
