/* Accounted memory, huge pages and arenas.
 *
 * A block is malloc'ed with room for a 32-byte header and alignment: [raw .. header | block].  The
 * header holds size and account, so mr_free needs no argument.  Plain malloc/realloc underneath
 * (not aligned_alloc) lets glibc grow large blocks by mremap, without a copy or a second block.
 * Accounts count the bytes asked for; headers add at most 96 bytes a block.
 */
#include "base/mem.h"

#include <assert.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { ALIGN = 64, OVERHEAD = 96 };

typedef struct slab slab;
typedef struct header {
    size_t bytes;
    size_t shift; /* of the block from what malloc gave */
    uint32_t account, magic;
    slab *slab; /* NULL: malloc gave it */
} header;

static const uint32_t magic_live = 0x6d72616c, magic_dead = 0x64656164;

/* The last row is the sum of all accounts. */
static atomic_size_t held[MR_MEM_COUNT + 1], peak[MR_MEM_COUNT + 1];
static _Atomic uint64_t allocations, fail_after;

const char *mr_mem_name(mr_mem account)
{
    static const char *const names[MR_MEM_COUNT + 1] = {"weights", "kv",    "arena", "tokenizer",
                                                        "compile", "other", "all"};
    assert((unsigned)account <= MR_MEM_COUNT);
    return names[account];
}

static void charge(uint32_t account, size_t bytes)
{
    uint32_t rows[2] = {account, MR_MEM_COUNT};
    for (int i = 0; i < 2; i++) {
        size_t now = atomic_fetch_add(&held[rows[i]], bytes) + bytes;
        size_t top = atomic_load(&peak[rows[i]]);
        while (now > top && !atomic_compare_exchange_weak(&peak[rows[i]], &top, now))
            continue;
    }
}

static void discharge(uint32_t account, size_t bytes)
{
    atomic_fetch_sub(&held[account], bytes);
    atomic_fetch_sub(&held[MR_MEM_COUNT], bytes);
}

/* Counts an allocation; true if a test wants this one to fail. */
static bool injected(void)
{
    atomic_fetch_add_explicit(&allocations, 1, memory_order_relaxed);
    uint64_t n = atomic_load_explicit(&fail_after, memory_order_relaxed);
    while (n > 0)
        if (atomic_compare_exchange_weak(&fail_after, &n, n - 1))
            return n == 1;
    return false;
}

static void *refuse(mr_mem account, size_t bytes)
{
    mr_fail(MR_ENOMEM, "out of memory: %zu bytes for %s", bytes, mr_mem_name(account));
    return NULL;
}

static header *header_of(void *p)
{
    header *h = (header *)((char *)p - sizeof(header));
    assert(h->magic == magic_live && "not a block of mr_alloc, or freed twice");
    return h;
}

static void *place(void *raw)
{
    uintptr_t at = ((uintptr_t)raw + sizeof(header) + ALIGN - 1) & ~(uintptr_t)(ALIGN - 1);
    return (char *)raw + (at - (uintptr_t)raw);
}

static void *finish(void *raw, mr_mem account, size_t bytes)
{
    void *p = place(raw);
    header *h = (header *)((char *)p - sizeof(header));
    *h = (header){.bytes = bytes,
                  .shift = (size_t)((char *)p - (char *)raw),
                  .account = account,
                  .magic = magic_live};
    charge(account, bytes);
    return p;
}

/* ---- huge pages ----------------------------------------------------------------------------------
 * Matrices of a model are often smaller than a few huge pages, and an allocation of its own for each
 * would put most of their bytes into small ones.  So they are taken one after the other from slabs
 * that are huge pages throughout, where the system leaves that to us (a refusal only makes reading
 * slower).  A slab is never used twice: its bytes are fresh and zero.  What no block touches takes no
 * memory, and a freed block's own pages are given back at once.
 */
struct slab {
    size_t used, size;
    size_t live; /* blocks in it */
};

static const size_t HUGE_PAGE = (size_t)2 << 20, SLAB_BYTES = (size_t)64 << 20,
                    SLAB_LEAST = (size_t)128 << 10;
static pthread_mutex_t slab_lock = PTHREAD_MUTEX_INITIALIZER;
static slab *slab_open;

static size_t page_size(void)
{
    return (size_t)sysconf(_SC_PAGESIZE);
}

/* Starts at a huge page; the pages after the last whole huge one are small. */
static slab *slab_new(size_t bytes)
{
    size_t size, room, page = page_size();
    if (!mr_add_size(bytes, 2 * ALIGN + page - 1, &size) ||
        !mr_add_size(size &= ~(page - 1), HUGE_PAGE, &room))
        return NULL;
    char *p = mmap(NULL, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        return NULL;
    size_t ahead = (HUGE_PAGE - (uintptr_t)p % HUGE_PAGE) % HUGE_PAGE;
    if (ahead)
        munmap(p, ahead);
    munmap(p + ahead + size, HUGE_PAGE - ahead);
    slab *s = (slab *)(void *)(p + ahead);
    madvise(s, size, MADV_HUGEPAGE);
    *s = (slab){.used = ALIGN, .size = size};
    return s;
}

/* Room for a header and a block, which come ALIGN bytes after what it returns. */
static char *slab_take(size_t bytes, slab **from)
{
    size_t total;
    if (!mr_add_size(bytes, 2 * ALIGN - 1, &total))
        return NULL;
    total &= ~(size_t)(ALIGN - 1);
    pthread_mutex_lock(&slab_lock);
    slab *s = slab_open;
    if (!s || total > s->size - s->used) {
        bool own = total > SLAB_BYTES / 4;
        s = slab_new(own ? total : SLAB_BYTES);
        if (s && !own)
            slab_open = s;
    }
    char *p = s ? (char *)s + s->used : NULL;
    if (s) {
        s->used += total;
        s->live++;
    }
    pthread_mutex_unlock(&slab_lock);
    *from = s;
    return p;
}

static void slab_give(slab *s, char *p, size_t bytes)
{
    pthread_mutex_lock(&slab_lock);
    if (--s->live == 0) {
        slab_open = s == slab_open ? NULL : slab_open;
        munmap(s, s->size);
    } else {
        const uintptr_t page = page_size();
        uintptr_t from = ((uintptr_t)p + page - 1) & ~(page - 1);
        uintptr_t end = ((uintptr_t)p + bytes) & ~(page - 1);
        if (from < end) {
            /* First out of the huge page's range, lest the system's collecting fills it again. */
            madvise((void *)from, end - from, MADV_NOHUGEPAGE);
            madvise((void *)from, end - from, MADV_DONTNEED);
        }
    }
    pthread_mutex_unlock(&slab_lock);
}

void *mr_zalloc_streamed(mr_mem account, size_t bytes)
{
    if (bytes < SLAB_LEAST)
        return mr_zalloc(account, bytes);
    slab *from = NULL;
    char *raw = injected() ? NULL : slab_take(bytes, &from);
    if (!raw)
        return refuse(account, bytes);
    void *p = finish(raw, account, bytes);
    header_of(p)->slab = from;
    return p;
}

/* ---- blocks -------------------------------------------------------------------------------------- */

void *mr_alloc(mr_mem account, size_t bytes)
{
    assert((unsigned)account < MR_MEM_COUNT);
    size_t total;
    if (injected() || !mr_add_size(bytes, OVERHEAD, &total))
        return refuse(account, bytes);
    void *raw = malloc(total);
    return raw ? finish(raw, account, bytes) : refuse(account, bytes);
}

void *mr_zalloc(mr_mem account, size_t bytes)
{
    assert((unsigned)account < MR_MEM_COUNT);
    size_t total;
    if (injected() || !mr_add_size(bytes, OVERHEAD, &total))
        return refuse(account, bytes);
    /* calloc knows fresh pages to be zero and does not touch them. */
    void *raw = calloc(1, total);
    return raw ? finish(raw, account, bytes) : refuse(account, bytes);
}

void *mr_realloc(mr_mem account, void *p, size_t bytes)
{
    if (!p)
        return mr_alloc(account, bytes);
    assert((unsigned)account < MR_MEM_COUNT);
    header old = *header_of(p);
    assert(!old.slab && "a streamed block does not grow");
    size_t total;
    if (injected() || !mr_add_size(bytes, OVERHEAD, &total))
        return refuse(account, bytes);
    char *raw = realloc((char *)p - old.shift, total);
    if (!raw)
        return refuse(account, bytes);
    /* The new place may be aligned differently; the bytes moved with the old shift. */
    char *now = place(raw);
    if (now != raw + old.shift)
        memmove(now, raw + old.shift, old.bytes < bytes ? old.bytes : bytes);
    discharge(old.account, old.bytes);
    return finish(raw, account, bytes);
}

void mr_free(void *p)
{
    if (!p)
        return;
    header *h = header_of(p);
    h->magic = magic_dead;
    discharge(h->account, h->bytes);
    if (h->slab)
        slab_give(h->slab, p, h->bytes);
    else
        free((char *)p - h->shift);
}

size_t mr_mem_held(mr_mem account)
{
    assert((unsigned)account <= MR_MEM_COUNT);
    return atomic_load(&held[account]);
}

size_t mr_mem_peak(mr_mem account)
{
    assert((unsigned)account <= MR_MEM_COUNT);
    return atomic_load(&peak[account]);
}

uint64_t mr_mem_allocations(void)
{
    return atomic_load(&allocations);
}

void mr_mem_fail_after(uint64_t n)
{
    atomic_store(&fail_after, n);
}

bool mr_mul_size(size_t a, size_t b, size_t *out)
{
    return !__builtin_mul_overflow(a, b, out);
}

bool mr_add_size(size_t a, size_t b, size_t *out)
{
    return !__builtin_add_overflow(a, b, out);
}

/* ---- arenas ----------------------------------------------------------------------------------
 * A list of chunks, the newest first; a block is taken from the head chunk by moving a mark.
 * Chunks come zeroed and are never used twice.  They double from 64 KiB to 4 MiB; a block that
 * would waste more than a quarter of a chunk gets one to itself, behind the head.
 */
typedef struct chunk {
    struct chunk *next;
    size_t used, size; /* of the bytes after this struct */
} chunk;

enum { CHUNK_HEAD = 64, CHUNK_FIRST = 64 << 10, CHUNK_LAST = 4 << 20 };
_Static_assert(sizeof(chunk) <= CHUNK_HEAD, "the chunk's head fits its place");

struct mr_arena {
    mr_mem account;
    chunk *head;
    size_t next_size;
};

mr_err mr_arena_new(mr_arena **out, mr_mem account)
{
    *out = NULL;
    mr_arena *a = mr_alloc(account, sizeof *a);
    if (!a)
        return MR_ENOMEM;
    *a = (mr_arena){.account = account, .next_size = CHUNK_FIRST};
    *out = a;
    return MR_OK;
}

void mr_arena_free(mr_arena *a)
{
    if (!a)
        return;
    for (chunk *c = a->head, *next; c; c = next) {
        next = c->next;
        mr_free(c);
    }
    mr_free(a);
}

static chunk *chunk_new(mr_arena *a, size_t size)
{
    size_t total;
    if (!mr_add_size(size, CHUNK_HEAD, &total))
        return refuse(a->account, size);
    chunk *c = mr_zalloc(a->account, total);
    if (c)
        c->size = size;
    return c;
}

static void *chunk_take(chunk *c, size_t bytes)
{
    char *p = (char *)c + CHUNK_HEAD + c->used;
    c->used += bytes;
    return p;
}

void *mr_arena_alloc(mr_arena *a, size_t bytes)
{
    size_t size;
    if (!mr_add_size(bytes ? bytes : 1, 15, &size))
        return refuse(a->account, bytes);
    size &= ~(size_t)15;
    chunk *c = a->head;
    if (c && size <= c->size - c->used)
        return chunk_take(c, size);
    if (c && size > a->next_size / 4) {
        chunk *own = chunk_new(a, size);
        if (!own)
            return NULL;
        own->next = c->next;
        c->next = own;
        return chunk_take(own, size);
    }
    c = chunk_new(a, size > a->next_size - CHUNK_HEAD ? size : a->next_size - CHUNK_HEAD);
    if (!c)
        return NULL;
    c->next = a->head;
    a->head = c;
    if (a->next_size < CHUNK_LAST)
        a->next_size *= 2;
    return chunk_take(c, size);
}

char *mr_arena_strndup(mr_arena *a, const char *s, size_t len)
{
    size_t size;
    if (!mr_add_size(len, 1, &size))
        return refuse(a->account, len);
    char *p = mr_arena_alloc(a, size);
    if (p && len)
        memcpy(p, s, len);
    return p;
}

char *mr_arena_strdup(mr_arena *a, const char *s)
{
    return mr_arena_strndup(a, s, strlen(s));
}

char *mr_arena_printf(mr_arena *a, const char *fmt, ...)
{
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, fmt, ap);
    char *p = n < 0 ? refuse(a->account, 0) : mr_arena_alloc(a, (size_t)n + 1);
    if (p)
        vsnprintf(p, (size_t)n + 1, fmt, again);
    va_end(again);
    va_end(ap);
    return p;
}
