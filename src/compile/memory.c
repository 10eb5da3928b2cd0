/* Where each result lies in the arena.
 *
 * Buffers are placed in some order, each at the lowest offset where it meets no buffer that is already
 * placed and live at the same time.  Largest first leaves the small ones to fill the holes, and on
 * chains of layers, which models are, the result mostly is the peak of what is live at once: none can be
 * smaller.  Where it is not, other orders are tried, and the best counts.  A buffer always rests on
 * the floor or on another one, so the total never exceeds the sum of all sizes. */
#include "compile/plan_internal.h"

#include <stdlib.h>
#include <string.h>

/* Orders: by size, by how long they live, by both; each also with those of the peak first. */
enum { ORDERS = 6 };

typedef struct entry {
    mr_buffer *b;
    bool peak;
    double weight;
    int index; /* breaks ties, so that the layout is the same everywhere */
} entry;

static double weight(const mr_buffer *b, int order)
{
    const double steps = b->last - b->first + 1, bytes = (double)b->bytes;
    return order / 2 == 0 ? bytes : order / 2 == 1 ? steps : bytes * steps;
}

static int heavier_first(const void *pa, const void *pb)
{
    const entry *a = pa, *b = pb;
    if (a->peak != b->peak)
        return a->peak ? -1 : 1;
    if (a->weight != b->weight)
        return a->weight < b->weight ? 1 : -1;
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

/* The most bytes that are live at once, and when first. */
static int64_t live_peak(const mr_buffer *b, int n, int *when)
{
    int64_t most = 0;
    for (int i = 0; i < n; i++) {
        int64_t live = 0;
        for (int j = 0; j < n; j++)
            if (b[j].first <= b[i].first && b[i].first <= b[j].last)
                live += b[j].bytes;
        if (live > most || (live == most && b[i].first < *when)) {
            most = live;
            *when = b[i].first;
        }
    }
    return most;
}

/* What the arena then takes; `when` is the step of the peak. */
static int64_t place(mr_buffer *b, int n, int order, int when, entry *by, mr_buffer **placed)
{
    int64_t total = 0;
    for (int i = 0; i < n; i++)
        by[i] = (entry){b + i, order % 2 && b[i].first <= when && when <= b[i].last,
                        weight(b + i, order), i};
    qsort(by, (size_t)n, sizeof *by, heavier_first);
    for (int i = 0; i < n; i++) {
        mr_buffer *x = by[i].b;
        x->offset = lowest_hole(placed, i, x);
        insert(placed, i, x);
        if (x->offset + x->bytes > total)
            total = x->offset + x->bytes;
    }
    return total;
}

mr_err mr_memory_place(mr_buffer *b, int n, int64_t *total)
{
    *total = 0;
    MR_TRY(check_sum(b, n));
    entry *by = mr_alloc(MR_MEM_COMPILE, (size_t)n * sizeof *by);
    mr_buffer **placed = mr_alloc(MR_MEM_COMPILE, (size_t)n * sizeof *placed);
    if (!by || !placed) {
        mr_free(by);
        mr_free(placed);
        return MR_ENOMEM;
    }
    int when = 0, best = 0, last = 0;
    const int64_t peak = live_peak(b, n, &when);
    int64_t least = INT64_MAX;
    for (int order = 0; order < ORDERS && least > peak; order++) {
        const int64_t takes = place(b, n, order, when, by, placed);
        last = order;
        if (takes < least) {
            least = takes;
            best = order;
        }
    }
    if (best != last)
        place(b, n, best, when, by, placed);
    *total = least;
    mr_free(by);
    mr_free(placed);
    return MR_OK;
}
