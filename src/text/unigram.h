/* Unigram model: of all ways to cut a text into pieces the one whose scores have the highest sum.
 *
 * Why:    SentencePiece's other model (T5, ALBERT, XLM-R); tokenizer.json's "Unigram".
 * Use:    mr_unigram u = {0}; mr_unigram_init(&u, tokens, bytes); mr_unigram_put(&u, s, len, id,
 *         score)...; u.unk = ...; MR_TRY(mr_unigram_word(&u, &m, &work, s, len, &ids));
 * Owns:   the model owns its trie (account MR_MEM_TOKENIZER).
 * Threads: immutable once filled; a work belongs to one call.
 * Fails:  MR_EFORMAT when an unknown character needs an unk token that there is not;
 *         MR_EUNSUPPORTED for pieces longer than 512 bytes, which bounds the search.
 * Rules:  1. Of equal sums the piece that starts first wins, and a piece before unk.  Sums are doubles,
 *            as those of the tokenizers and the sentencepiece (0.2.3) packages.
 */
#ifndef MR_TEXT_UNIGRAM_H
#define MR_TEXT_UNIGRAM_H

#include "text/bpe.h"

typedef struct mr_unigram {
    uint32_t *key, *child; /* a hash of (parent << 8 | byte); child 0: free */
    uint32_t mask, nodes, cap;
    int32_t *id; /* per node: -1: no piece ends here */
    double *score;
    double unk; /* score of an unknown character */
} mr_unigram;

mr_err mr_unigram_init(mr_unigram *u, size_t bytes); /* of all pieces, at most */
mr_err mr_unigram_put(mr_unigram *u, const char *s, size_t len, int32_t id, double score);
void mr_unigram_free(mr_unigram *u);

typedef struct mr_unigram_step {
    double score;
    int32_t id;
    uint32_t start; /* UINT32_MAX: not reached */
} mr_unigram_step;
typedef struct mr_unigram_work {
    mr_unigram_step *v;
    size_t cap;
} mr_unigram_work;
void mr_unigram_work_free(mr_unigram_work *w);

/* Appends the ids of one text.  m: the texts, the byte tokens and unk. */
mr_err mr_unigram_word(const mr_unigram *u, const mr_bpe *m, mr_unigram_work *w, const char *s,
                       size_t len, mr_ids *ids);

#endif
