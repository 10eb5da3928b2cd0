/* The table of tensors that every reader fills.
 *
 * Rows are appended in file order, then sorted once by name (merge sort over pointers, then one
 * gather) for binary search.  A sorted file costs n comparisons per level and no worse.
 */
#include "weights/parse.h"

#include <stdlib.h>
#include <string.h>

mr_err mr_wgrow(void **array, size_t n, size_t *cap, size_t size)
{
    if (n < *cap)
        return MR_OK;
    size_t more, bytes;
    if (!mr_add_size(*cap, *cap / 2 + 16, &more) || !mr_mul_size(more, size, &bytes))
        return mr_fail(MR_ELIMIT, "a table of %zu entries is too large", n);
    void *p = mr_realloc(MR_MEM_COMPILE, *array, bytes);
    if (!p)
        return MR_ENOMEM;
    *array = p;
    *cap = more;
    return MR_OK;
}

mr_err mr_wname_check(const char *file, const char *what, mr_str name)
{
    if (!name.len)
        return mr_fail(MR_EFORMAT, "%s: a %s is empty", file, what);
    if (mr_utf8_check(name.data, name.len) != name.len)
        return mr_fail(MR_EFORMAT, "%s: a %s is not valid UTF-8", file, what);
    for (size_t i = 0; i < name.len; i++) {
        unsigned char c = (unsigned char)name.data[i];
        if (c < 0x20 || c == 0x7f)
            return mr_fail(MR_EFORMAT, "%s: a %s holds the control character 0x%02x", file, what,
                           c);
    }
    return MR_OK;
}

mr_err mr_wtable_add(mr_wtable *t, const char *file, mr_str name, mr_winfo **out)
{
    MR_TRY(mr_wname_check(file, "tensor name", name));
    void *at = t->at;
    mr_err e = mr_wgrow(&at, t->n, &t->cap, sizeof *t->at);
    t->at = at;
    MR_TRY(e);
    if (!t->names)
        MR_TRY(mr_arena_new(&t->names, MR_MEM_COMPILE));
    const char *copy = mr_arena_strndup(t->names, name.data, name.len);
    if (!copy)
        return MR_ENOMEM;
    mr_winfo *row = &t->at[t->n++];
    *row = (mr_winfo){
        .name = copy, .block_rows = 1, .data.file = -1, .scales.file = -1, .biases.file = -1};
    *out = row;
    return MR_OK;
}

void mr_wtable_free(mr_wtable *t)
{
    mr_free(t->at);
    mr_arena_free(t->names);
    *t = (mr_wtable){0};
}

static void merge(void **to, void **from, size_t a, size_t mid, size_t end, mr_worder order)
{
    size_t left = a, right = mid;
    if (right >= end || order(from[mid - 1], from[mid]) <= 0) {
        memcpy(to + a, from + a, (end - a) * sizeof *to);
        return;
    }
    for (size_t i = a; i < end; i++) {
        bool take_left = left < mid && (right >= end || order(from[left], from[right]) <= 0);
        to[i] = from[take_left ? left++ : right++];
    }
}

mr_err mr_wsort(void **p, size_t n, mr_worder order)
{
    if (n < 2)
        return MR_OK;
    void **scratch = mr_alloc(MR_MEM_COMPILE, n * sizeof *p);
    if (!scratch)
        return MR_ENOMEM;
    void **from = p, **to = scratch;
    for (size_t width = 1; width < n; width *= 2) {
        for (size_t a = 0; a < n; a += 2 * width) {
            size_t mid = n - a < width ? n : a + width;
            size_t end = n - a < 2 * width ? n : a + 2 * width;
            merge(to, from, a, mid, end, order);
        }
        void **swap = from;
        from = to;
        to = swap;
    }
    if (from != p)
        memcpy(p, from, n * sizeof *p);
    mr_free(scratch);
    return MR_OK;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const mr_winfo *)a)->name, ((const mr_winfo *)b)->name);
}

mr_err mr_wtable_sort(mr_wtable *t, const mr_winfo **twice)
{
    *twice = NULL;
    if (t->n < 2)
        return MR_OK;
    mr_winfo *sorted = mr_alloc(MR_MEM_COMPILE, t->n * sizeof *sorted);
    mr_winfo **rows = mr_alloc(MR_MEM_COMPILE, t->n * sizeof *rows);
    mr_err e = sorted && rows ? MR_OK : MR_ENOMEM;
    if (e == MR_OK) {
        for (size_t i = 0; i < t->n; i++)
            rows[i] = &t->at[i];
        e = mr_wsort((void **)rows, t->n, by_name);
    }
    if (e != MR_OK) {
        mr_free(sorted);
        mr_free(rows);
        return e;
    }
    for (size_t i = 0; i < t->n; i++) {
        sorted[i] = *rows[i];
        if (i && !strcmp(sorted[i - 1].name, sorted[i].name) && !*twice)
            *twice = &sorted[i];
    }
    mr_free(rows);
    mr_free(t->at);
    t->at = sorted;
    t->cap = t->n;
    return MR_OK;
}

static int name_against_row(const void *name, const void *row)
{
    return strcmp(name, ((const mr_winfo *)row)->name);
}

mr_winfo *mr_wtable_find(const mr_wtable *t, const char *name)
{
    return t->n ? bsearch(name, t->at, t->n, sizeof *t->at, name_against_row) : NULL;
}
