/* Byte-pair encoding: a word's characters become tokens, then the best pair merges until none
 * is left.
 *
 * Why:    one model for tokenizer.json's BPE and for SentencePiece vocabularies (whose scores
 *         become ranks).
 * Use:    mr_bpe m = {0}; m.table filled; mr_bpe_reserve(&m, n); mr_bpe_merge(&m, left, right,
 *         id, rank)...; mr_bpe_seal(&m); mr_bpe_work w = {0}; MR_TRY(mr_bpe_word(&m, &w, s, len,
 *         &ids)); mr_bpe_work_free(&w);
 * Owns:   the model owns its table and merges (account MR_MEM_TOKENIZER).
 * Threads: immutable once sealed; a mr_bpe_work belongs to one call.
 * Fails:  MR_EFORMAT when an unknown character needs an unk token that the vocabulary lacks.
 */
#ifndef MR_TEXT_BPE_H
#define MR_TEXT_BPE_H

#include "text/token_table.h"
#include "text/tokenizer.h"

typedef struct mr_merge {
    int32_t left, right, id;
    uint32_t rank;
} mr_merge;

enum { MR_UNK_NONE = -1, MR_UNK_MISSING = -2 };
enum { MR_LOW_CHARS = 512 }; /* the byte-level alphabet is below */

typedef struct mr_bpe {
    mr_table table;
    mr_merge *merge;
    uint32_t n_merges, cap_merges;
    uint32_t *slot; /* index + 1 of a merge, 0: free */
    uint32_t mask;
    int32_t unk; /* an id, or MR_UNK_NONE: unknown characters vanish, MR_UNK_MISSING: they are an
                    error */
    bool fuse_unk, byte_fallback, ignore_merges;
    int32_t byte_id[256];         /* <0xXX> tokens, -1 if none */
    int32_t low_id[MR_LOW_CHARS]; /* tokens of one low character, -1 if none */
} mr_bpe;

mr_err mr_bpe_reserve(mr_bpe *m, size_t merges); /* at most; before the first mr_bpe_merge */
/* Of two rules for one pair the later counts, as in the package. */
void mr_bpe_merge(mr_bpe *m, int32_t left, int32_t right, int32_t id, uint32_t rank);
/* Fills byte_id (from the table, if byte_fallback) and low_id. */
void mr_bpe_seal(mr_bpe *m);
void mr_bpe_free(mr_bpe *m);

typedef struct mr_bpe_symbol {
    int32_t id; /* -1: merged into its left neighbour */
    int32_t prev, next;
} mr_bpe_symbol;

typedef struct mr_bpe_pair {
    uint64_t key; /* rank, then position: the order of merging */
    int32_t id;
} mr_bpe_pair;

typedef struct mr_bpe_work {
    mr_bpe_symbol *symbol;
    size_t n, cap;
    mr_bpe_pair *heap;
    size_t heap_n, heap_cap;
} mr_bpe_work;
void mr_bpe_work_free(mr_bpe_work *w);

/* Appends the ids of one word. */
mr_err mr_bpe_word(const mr_bpe *m, mr_bpe_work *w, const char *s, size_t len, mr_ids *ids);

#endif
