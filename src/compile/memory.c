/* Where each result lies in the arena.
 *
 * Buffers are placed largest first, each at the lowest offset where it meets no buffer that is
 * already placed and live at the same time.  Largest first leaves the small ones to fill the holes;
 * on chains of layers, which models are, the result is the peak of what is live at once in all
 * cases seen.  A buffer always rests on the floor or on another one, so the total never exceeds the
 * sum of all sizes. */
#include "compile/plan_internal.h"

#include <stdlib.h>
#include <string.h>

typedef struct entry {
    mr_buffer *b;
    int index; /* breaks ties, so that the layout is the same everywhere */
} entry;

static int larger_first(const void *pa, const void *pb)
{
    const entry *a = pa, *b = pb;
    if (a->b->bytes != b->b->bytes)
        return a->b->bytes < b->b->bytes ? 1 : -1;
    if (a->b->first != b->b->first)
        return a->b->first < b->b->first ? -1 : 1;
    return a->index < b->index ? -1 : 1;
}

static bool together(const mr_buffer *a, const mr_buffer *b)
{
    return a->first <= b->last && b->first <= a->last;
}

/* `placed` is ordered by offset. */
static int64_t lowest_hole(mr_buffer *const *placed, int n, const mr_buffer *b)
{
    int64_t at = 0;
    for (int i = 0; i < n; i++) {
        if (!together(placed[i], b))
            continue;
        if (placed[i]->offset - at >= b->bytes)
            break;
        if (placed[i]->offset + placed[i]->bytes > at)
            at = placed[i]->offset + placed[i]->bytes;
    }
    return at;
}

static void insert(mr_buffer **placed, int n, mr_buffer *b)
{
    int i = n;
    while (i > 0 && placed[i - 1]->offset > b->offset)
        i--;
    memmove(placed + i + 1, placed + i, (size_t)(n - i) * sizeof *placed);
    placed[i] = b;
}

static mr_err check_sum(const mr_buffer *b, int n)
{
    int64_t sum = 0;
    for (int i = 0; i < n; i++)
        if (__builtin_add_overflow(sum, b[i].bytes, &sum))
            return mr_fail(MR_ELIMIT, "plan: its results do not fit an address space");
    return MR_OK;
}

mr_err mr_memory_place(mr_buffer *b, int n, int64_t *total)
{
    *total = 0;
    MR_TRY(check_sum(b, n));
    entry *order = mr_alloc(MR_MEM_COMPILE, (size_t)n * sizeof *order);
    mr_buffer **placed = mr_alloc(MR_MEM_COMPILE, (size_t)n * sizeof *placed);
    if (!order || !placed) {
        mr_free(order);
        mr_free(placed);
        return MR_ENOMEM;
    }
    for (int i = 0; i < n; i++)
        order[i] = (entry){b + i, i};
    qsort(order, (size_t)n, sizeof *order, larger_first);
    for (int i = 0; i < n; i++) {
        mr_buffer *x = order[i].b;
        x->offset = lowest_hole(placed, i, x);
        insert(placed, i, x);
        if (x->offset + x->bytes > *total)
            *total = x->offset + x->bytes;
    }
    mr_free(order);
    mr_free(placed);
    return MR_OK;
}
