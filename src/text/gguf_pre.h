/* The pre-tokenisers that GGUF files name in tokenizer.ggml.pre.
 *
 * Why:    such a file holds the name only; the patterns are those of each model's own
 *         tokenizer.json.
 * Use:    const mr_gguf_pre *p = mr_gguf_pre_find(name); NULL: not known
 * Extend: a row in gguf_pre.c.
 */
#ifndef MR_TEXT_GGUF_PRE_H
#define MR_TEXT_GGUF_PRE_H

#include <stdbool.h>

enum { MR_GGUF_SPLITS = 6 };

typedef struct mr_gguf_pre {
    const char *name;
    bool ignore_merges, add_bos, nfc;
    const char *split[MR_GGUF_SPLITS]; /* isolating splits, one after the other; NULL ends */
} mr_gguf_pre;

const mr_gguf_pre *mr_gguf_pre_find(const char *name);
/* The i-th; NULL past the last. */
const mr_gguf_pre *mr_gguf_pre_at(int i);

#endif
