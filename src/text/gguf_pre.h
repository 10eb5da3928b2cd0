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

#include "text/pretok.h"

enum { MR_GGUF_SPLITS = 6 };
/* Among the splits.  BYTES: here bytes become characters, so that splits behind see characters of
 * bytes (Falcon's digits: the byte B2 is the character U+00B2 and so a digit); elsewhere they do so
 * last.  PUNCT: runs of what the package takes for punctuation. */
#define MR_GGUF_BYTES "bytes"
#define MR_GGUF_PUNCT "punctuation"

typedef struct mr_gguf_pre {
    const char *name;
    bool ignore_merges, add_bos, nfc;
    const char *split[MR_GGUF_SPLITS]; /* isolating splits, one after the other; NULL ends */
} mr_gguf_pre;

/* Appends its splits and the byte step. */
mr_err mr_gguf_pre_steps(const mr_gguf_pre *pre, mr_pretok *out);
const mr_gguf_pre *mr_gguf_pre_find(const char *name);
/* The i-th; NULL past the last. */
const mr_gguf_pre *mr_gguf_pre_at(int i);

#endif
