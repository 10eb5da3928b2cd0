/* Text to token ids and back.
 *
 * Why:    one engine for byte-level BPE (GPT-2 style, regex pre-tokenisers), Gemma-style BPE with
 *         byte fallback and SentencePiece vocabularies, read from tokenizer.json or from a
 *         vocabulary in GGUF.
 * Use:    mr_tokenizer *t; MR_TRY(mr_tokenizer_open(&t, "dir")); mr_ids ids = {0};
 *         MR_TRY(mr_tokenize(t, text, len, MR_TOK_SPECIAL, &ids)); ... mr_ids_free(&ids);
 * Owns:   the tokenizer owns its tables (account MR_MEM_TOKENIZER) and borrows nothing.
 * Threads: immutable after open; encoding allocates its own scratch, so any number of threads may
 *         encode.
 * Fails:  MR_EFORMAT naming file, key and reason; MR_EUNSUPPORTED naming the unknown model,
 *         normaliser, pre-tokeniser or decoder type; MR_EFORMAT for input that is not UTF-8
 *         (offset given).
 * Source: the behaviour of the `tokenizers` package; ids must be equal.
 */
#ifndef MR_TEXT_TOKENIZER_H
#define MR_TEXT_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/str.h"

typedef struct mr_tokenizer mr_tokenizer;

typedef struct mr_ids {
    int32_t *id;
    size_t n, cap;
} mr_ids;
mr_err mr_ids_push(mr_ids *ids, int32_t id);
void mr_ids_free(mr_ids *ids);

enum {
    MR_TOK_SPECIAL = 1, /* add bos/eos as the tokenizer says */
    MR_TOK_PLAIN = 2    /* special tokens written out in the text are text */
};

/* dir: a folder with tokenizer.json (or else tokenizer.model, SentencePiece's, or tiktoken.model)
 * and, if there, tokenizer_config.json (bos_token, eos_token, add_bos_token, add_eos_token,
 * chat_template) and chat_template.jinja; or the path of such a tokenizer file itself, which is then
 * read alone.  add_bos_token: true adds bos where
 * tokenizer.json does not; false removes nothing. */
mr_err mr_tokenizer_open(mr_tokenizer **out, const char *dir);

/* A vocabulary as GGUF metadata holds it.  Everything is copied. */
typedef struct mr_vocab {
    const char *file;  /* for messages */
    const char *model; /* tokenizer.ggml.model: "gpt2", "llama", "gemma4"; or "tiktoken",
                          "unigram" */
    const char *pre;   /* tokenizer.ggml.pre or NULL */
    int32_t n_tokens;
    const mr_str *tokens;
    const float *scores;  /* or NULL */
    const int32_t *types; /* or NULL: 1 normal 2 unknown 3 control 4 user-defined 5 unused 6 byte */
    int32_t n_merges;
    const mr_str *merges;                   /* "left right" */
    int32_t bos, eos, unk;                  /* -1: none */
    int add_bos, add_eos, add_space_prefix; /* -1: not said (model's default) */
    bool sentencepiece; /* user-defined tokens are found where spaces are marked already, and
                                decoding is that library's */
    struct mr_charsmap
        *map;         /* or NULL: how a text is normalised; emptied, its content is taken over */
    bool strip_after; /* special tokens take the white space behind them along */
    const char *chat_template; /* or NULL */
} mr_vocab;
mr_err mr_tokenizer_from_vocab(mr_tokenizer **out, const mr_vocab *v);
void mr_tokenizer_close(mr_tokenizer *t);

/* Number of ids (largest id + 1). */
int32_t mr_tokenizer_size(const mr_tokenizer *t);
/* Id of a whole token or added token by its text; -1 if none. */
int32_t mr_tokenizer_id(const mr_tokenizer *t, const char *text, size_t len);
bool mr_tokenizer_is_special(const mr_tokenizer *t, int32_t id);
int32_t mr_tokenizer_bos(const mr_tokenizer *t); /* -1: none */
int32_t mr_tokenizer_eos(const mr_tokenizer *t);
const char *mr_tokenizer_template(const mr_tokenizer *t); /* chat template source or NULL */
const char *mr_tokenizer_kind(const mr_tokenizer *t);     /* for inspect: "byte-level BPE", ... */

/* Appends the ids of text to *ids. */
mr_err mr_tokenize(const mr_tokenizer *t, const char *text, size_t len, unsigned flags,
                   mr_ids *ids);

/* All at once: appends the text of ids (special tokens kept unless skip_special); invalid UTF-8
 * becomes U+FFFD as the `tokenizers` package gives it.  An id outside the vocabulary is an error
 * with the number. */
mr_err mr_detokenize(const mr_tokenizer *t, const int32_t *ids, size_t n, bool skip_special,
                     mr_buf *out);

/* As a stream: each push appends whatever is certain; half a character is held back. */
typedef struct mr_detok mr_detok;
mr_err mr_detok_new(mr_detok **out, const mr_tokenizer *t, bool skip_special);
void mr_detok_free(mr_detok *d);
mr_err mr_detok_push(mr_detok *d, int32_t id, mr_buf *out);
mr_err mr_detok_flush(mr_detok *d, mr_buf *out);

/* A conversation through the model's chat template (a Jinja2 program).  json: an object with
 * "messages" and, as the template wants, "tools", "add_generation_prompt" (true if absent) and other
 * variables; or the array of messages alone. */
mr_err mr_chat_messages_render(const mr_tokenizer *t, const char *json, size_t len, mr_buf *out);
/* One user turn, up to the assistant's. */
mr_err mr_chat_render(const mr_tokenizer *t, const char *user, size_t len, mr_buf *out);

#endif
