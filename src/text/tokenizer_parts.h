/* The tokenizer's own fields, for the files that fill it.
 *
 * Why:    tokenizer.json and plain vocabularies (GGUF, SentencePiece, tiktoken) fill the same parts;
 *         nobody outside src/text sees them.
 * Use:    mr_tokenizer_alloc, fill, mr_tokenizer_seal; on failure mr_tokenizer_close.
 * Rules:  1. Every id below model.table.n has a flag byte.
 *         2. prefix and suffix are what MR_TOK_SPECIAL adds around a text.
 */
#ifndef MR_TEXT_TOKENIZER_PARTS_H
#define MR_TEXT_TOKENIZER_PARTS_H

#include "text/added.h"
#include "text/bpe.h"
#include "text/decode.h"
#include "text/normalize.h"
#include "text/pretok.h"
#include "text/tokenizer.h"
#include "text/unigram.h"

enum { MR_TOKEN_ADDED = 1, MR_TOKEN_SPECIAL = 2, MR_TOKEN_CHANGED = 4 };

struct mr_tokenizer {
    mr_bpe model;
    mr_unigram unigram; /* with nodes: reads texts in the place of `model` and its merges */
    mr_added added;
    mr_norm norm;
    mr_pretok pre;
    mr_decoder decoder;
    mr_scan
        opening; /* of added tokens; one for all, so that its time is limited; empty when sealed */
    uint8_t *flags; /* per id */
    mr_ids prefix, suffix;
    int32_t bos, eos; /* -1: none */
    char *chat_template;
    const char *kind;
    bool show_unk; /* decoding gives U+2047 for the unknown token */
};

mr_err mr_tokenizer_alloc(mr_tokenizer **out);
/* After the table is filled: flag bytes for every id. */
mr_err mr_tokenizer_flags(mr_tokenizer *t);
/* Adds a token that is found whole; its text must be in the table.  The normaliser must be read
 * before. */
mr_err mr_tokenizer_add(mr_tokenizer *t, mr_added_token token, const char *file);
/* Last: searching structures. */
mr_err mr_tokenizer_seal(mr_tokenizer *t, const char *file);

/* A tokenizer from the content of its file and, unless NULL, of a tokenizer_config.json and a
 * chat_template.jinja.  `file` and `config_file` are for messages.  The texts are not kept. */
typedef struct mr_tokenizer_source {
    const char *file, *text;
    size_t len;
    const char *config_file, *config;
    size_t config_len;
    const char *chat_template;
    size_t chat_template_len;
} mr_tokenizer_source;
/* By the kind of file. */
mr_err mr_tokenizer_parse(mr_tokenizer **out, const mr_tokenizer_source *s); /* tokenizer.json */
mr_err mr_sentencepiece_parse(mr_tokenizer **out, const mr_tokenizer_source *s);
mr_err mr_tiktoken_parse(mr_tokenizer **out, const mr_tokenizer_source *s);

/* tokenizer_config.json (tokenizer_config.c). */
mr_err mr_tokenizer_config(mr_tokenizer *t, const mr_tokenizer_source *s);
/* A flag of it: 1, 0, or -1 if it says nothing. */
mr_err mr_tokenizer_config_flag(const mr_tokenizer_source *s, const char *key, int *out);
mr_err mr_tokenizer_set_template(mr_tokenizer *t, const char *text, size_t len);

#endif
