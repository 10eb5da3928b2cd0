/* Fuzz target: any bytes as a tokenizer file, of a kind by their first byte (tokenizer.json,
 * tokenizer.model, tiktoken.model); if it opens, some hard texts through it and back.
 *
 * What must hold beside not crashing: an error has one line; ids are inside the vocabulary;
 * decoding token by token gives what decoding at once gives, in whole characters; nothing is
 * held at the end.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "text/tokenizer_parts.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define REQUIRE(condition)                                                                         \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "fuzz_tokenizer: line %d: %s\n", __LINE__, #condition);                \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

static const char *texts[] = {
    "",
    "ab aab  ba\n\n",
    "Hello, world! It's 12345 o'clock.\t<s>x</s> <x> ",
    "  na\xC3\xAFve caf\x65\xCC\x81 \xEF\xAC\x81 \xE2\x96\x81\xE2\x96\x81 \xC2\x85\xE1\xA0\x8E ",
    "\xE4\xBD\xA0\xE5\xA5\xBD \xF0\x9F\x98\x80\xE2\x80\x8D\xF0\x9F\x91\xA9 "
    "aaaaaaaaaaaaaaaaaaaaaaaa",
};

static void require_message(void)
{
    REQUIRE(mr_error()[0] != 0);
    REQUIRE(strchr(mr_error(), '\n') == NULL);
}

static void decode(const mr_tokenizer *t, const mr_ids *ids, bool skip)
{
    mr_buf whole = {0}, stream = {0};
    mr_detok *d;
    mr_err err = mr_detokenize(t, ids->id, ids->n, skip, &whole);
    REQUIRE(mr_detok_new(&d, t, skip) == MR_OK);
    for (size_t i = 0; err == MR_OK && i < ids->n; i++) {
        size_t at = stream.len;
        REQUIRE(mr_detok_push(d, ids->id[i], &stream) == MR_OK);
        if (stream.len > at)
            REQUIRE(mr_utf8_check(stream.data + at, stream.len - at) == stream.len - at);
    }
    if (err == MR_OK) {
        REQUIRE(mr_detok_flush(d, &stream) == MR_OK);
        REQUIRE(whole.len == stream.len);
        REQUIRE(whole.len == 0 || memcmp(whole.data, stream.data, whole.len) == 0);
    } else {
        require_message();
    }
    mr_detok_free(d);
    mr_buf_free(&whole);
    mr_buf_free(&stream);
}

static void use(const mr_tokenizer *t)
{
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        mr_ids ids = {0};
        if (mr_tokenize(t, texts[i], strlen(texts[i]), i & 1 ? MR_TOK_SPECIAL : 0, &ids))
            require_message();
        for (size_t k = 0; k < ids.n; k++)
            REQUIRE(ids.id[k] >= 0 && ids.id[k] < mr_tokenizer_size(t));
        decode(t, &ids, i & 1);
        mr_ids_free(&ids);
    }
    mr_ids all = {0};
    for (int32_t id = 0; id < mr_tokenizer_size(t) && id < 300; id++)
        REQUIRE(mr_ids_push(&all, id) == MR_OK);
    decode(t, &all, false);
    mr_ids_free(&all);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *copy = mr_alloc(MR_MEM_OTHER, size); /* exactly its size: a read past the end is seen */
    if (size)
        memcpy(copy, data, size);
    mr_tokenizer_source s = {.file = "fuzz", .text = copy, .len = size};
    mr_tokenizer *t;
    mr_err err = size && data[0] == '\n'  ? mr_sentencepiece_parse(&t, &s)
                 : size && data[0] == '{' ? mr_tokenizer_parse(&t, &s)
                                          : mr_tiktoken_parse(&t, &s);
    if (err == MR_OK)
        use(t);
    else
        require_message();
    mr_tokenizer_close(t);
    mr_free(copy);
    for (int a = 0; a < MR_MEM_COUNT; a++)
        REQUIRE(mr_mem_held((mr_mem)a) == 0);
    return 0;
}
