/* From a tokenizer back to the plain vocabulary of GGUF metadata.
 *
 * Why:    a GGUF file carries its tokenizer in its metadata; `convert` writes it from whatever the
 *         model had.
 * Use:    mr_vocab_copy c; MR_TRY(mr_vocab_of(t, rows, &c)); ... c.v ... mr_vocab_copy_free(&c);
 * Owns:   the copy owns its arrays; c.v points into it and into the tokenizer.
 * Fails:  MR_EUNSUPPORTED where a vocabulary cannot say what the tokenizer does.
 */
#ifndef MR_TEXT_VOCAB_EXPORT_H
#define MR_TEXT_VOCAB_EXPORT_H

#include "text/tokenizer.h"

typedef struct mr_vocab_copy {
    mr_vocab v; /* file is NULL */
    mr_str *tokens, *merges;
    float *scores;
    int32_t *types;
    mr_buf text, merge_text;
} mr_vocab_copy;

/* With at least n tokens: ids that the tokenizer lacks become unused ones. */
mr_err mr_vocab_of(const mr_tokenizer *t, int32_t n, mr_vocab_copy *out);
void mr_vocab_copy_free(mr_vocab_copy *c);

#endif
