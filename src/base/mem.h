/* Memory: every byte of the library passes through here, under an account.
 *
 * Why:     the budget promise needs one place that knows what is held and by whom; tests need one
 *          place where an allocation can be made to fail.
 * Use:     float *p = mr_alloc(MR_MEM_WEIGHTS, n * sizeof *p);
 *          if (!p) return MR_ENOMEM;   the message is set
 *          mr_free(p);   arenas for what shares a lifetime.
 * Owns:    the caller owns each block until mr_free / mr_arena_free.
 * Threads: all functions are thread-safe; one arena belongs to one thread at a time.
 * Fails:   NULL with the message set ("out of memory: N bytes for weights").
 * Rules:   1. Sizes from files are checked (mr_mul_size) before they come here.
 *          2. Blocks are 64-byte aligned. Contents are undefined unless zeroed by name.
 */
#ifndef MR_BASE_MEM_H
#define MR_BASE_MEM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

typedef enum mr_mem {
    MR_MEM_WEIGHTS,   /* packed weights */
    MR_MEM_KV,        /* KV cache blocks */
    MR_MEM_ARENA,     /* activations of plans */
    MR_MEM_TOKENIZER, /* vocabularies, merges */
    MR_MEM_COMPILE,   /* graphs, plans, configs, JSON */
    MR_MEM_OTHER,     /* everything else */
    MR_MEM_COUNT
} mr_mem;

const char *mr_mem_name(mr_mem account);

void *mr_alloc(mr_mem account, size_t bytes); /* bytes 0 gives a valid block */
void *mr_zalloc(mr_mem account, size_t bytes);
/* Zeroed, in huge pages together with others: for what stays and is read in streams.  Not for
 * mr_realloc. */
void *mr_zalloc_streamed(mr_mem account, size_t bytes);
void *mr_realloc(mr_mem account, void *p, size_t bytes); /* on failure p stays valid */
void mr_free(void *p);                                   /* NULL is fine */

/* Bytes held now, and the most ever held at once; MR_MEM_COUNT: of all accounts together. */
size_t mr_mem_held(mr_mem account);
size_t mr_mem_peak(mr_mem account);
/* Allocations made by the process so far (steady decoding makes none). */
uint64_t mr_mem_allocations(void);
/* For tests: the n-th allocation from now (1 = next) fails once; 0 turns it off. */
void mr_mem_fail_after(uint64_t n);

/* a*b and a+b into *out; false on overflow. */
bool mr_mul_size(size_t a, size_t b, size_t *out);
bool mr_add_size(size_t a, size_t b, size_t *out);

/* An arena: many blocks, one lifetime. */
typedef struct mr_arena mr_arena;
mr_err mr_arena_new(mr_arena **out, mr_mem account);
void mr_arena_free(mr_arena *a); /* NULL is fine */
/* 16-byte aligned, zeroed. NULL on failure (message set). */
void *mr_arena_alloc(mr_arena *a, size_t bytes);
char *mr_arena_strdup(mr_arena *a, const char *s);
char *mr_arena_strndup(mr_arena *a, const char *s, size_t len);
char *mr_arena_printf(mr_arena *a, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif
