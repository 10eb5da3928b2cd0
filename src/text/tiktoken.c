/* tiktoken.model: a line per token, its bytes in base64 and its rank, which is its id.
 *
 * The file says neither how text is cut nor which tokens are special.  Of the models known here
 * Kimi's have such a file: their pattern is used (files with as many ranks as others' well-known ones
 * are refused, as their text is cut otherwise), and after the ranks come 256 special tokens, named
 * in tokenizer_config.json's added_tokens_decoder or else <|reserved_token_ID|>.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "base/mem.h"
#include "text/byte_level.h"
#include "text/pieces.h"
#include "text/read.h"
#include "text/tokenizer_parts.h"

enum { TYPE_NORMAL = 1, TYPE_CONTROL = 3, RESERVED = 256, LINE_MAX_BYTES = 4096 };

typedef struct token {
    uint32_t off, len;
} token;

typedef struct reader {
    const mr_tokenizer_source *source;
    mr_buf texts; /* byte-level characters, one token after the other */
    token *v;
    size_t n, cap; /* v[id]; len 0: not seen */
} reader;

static mr_err line_fail(const reader *r, size_t line, const char *why)
{
    return mr_fail(MR_EFORMAT, "%s: line %zu: %s", r->source->file, line, why);
}

static mr_err put(reader *r, int64_t id, const char *bytes, size_t len)
{
    if (id >= (int64_t)r->n) {
        MR_TRY(mr_grow((void **)&r->v, &r->cap, (size_t)id + 1, sizeof *r->v));
        memset(r->v + r->n, 0, ((size_t)id + 1 - r->n) * sizeof *r->v);
        r->n = (size_t)id + 1;
    }
    size_t at = r->texts.len;
    mr_byte_level_encode(bytes, len, &r->texts);
    MR_TRY(mr_buf_check(&r->texts));
    if (r->texts.len > INT32_MAX)
        return mr_fail(MR_ELIMIT, "%s: the vocabulary is too large", r->source->file);
    r->v[id] = (token){(uint32_t)at, (uint32_t)(r->texts.len - at)};
    return MR_OK;
}

static mr_err read_line(reader *r, size_t line, const char *s, size_t len, size_t lines)
{
    char bytes[LINE_MAX_BYTES];
    const char *space = memchr(s, ' ', len);
    int64_t rank = 0;
    if (len >= sizeof bytes)
        return line_fail(r, line, "is too long");
    size_t n = space ? mr_base64_decode(s, (size_t)(space - s), bytes) : 0;
    if (n == 0)
        return line_fail(r, line, "is not a token in base64 and its rank");
    const char *digit = space + 1, *end = s + len;
    if (digit == end || end - digit > 9)
        return line_fail(r, line, "has no rank");
    for (; digit < end; digit++) {
        if (*digit < '0' || *digit > '9')
            return line_fail(r, line, "has no rank");
        rank = 10 * rank + (*digit - '0');
    }
    if (rank >= (int64_t)lines)
        return line_fail(r, line, "its rank is beyond the number of tokens");
    if ((size_t)rank < r->n && r->v[rank].len)
        return line_fail(r, line, "two tokens have this rank");
    return put(r, rank, bytes, n);
}

static mr_err check_known(const reader *r)
{
    static const struct {
        size_t ranks;
        const char *whose;
    } others[] = {{50256, "GPT-2's"},
                  {100256, "cl100k_base's"},
                  {128000, "Llama 3's"},
                  {199998, "o200k_base's"},
                  {200000, "Llama 4's"}};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (r->n == others[i].ranks)
            return mr_fail(
                MR_EUNSUPPORTED,
                "%s: %zu tokens are %s, and only Kimi's pattern is known for such files; "
                "a tokenizer.json is needed",
                r->source->file, r->n, others[i].whose);
    return MR_OK;
}

static mr_err read_ranks(reader *r)
{
    const char *s = r->source->text, *end = s + r->source->len;
    size_t lines = 0, line = 0;
    for (const char *p = s; p < end; p++)
        lines += *p == '\n';
    lines += s < end && end[-1] != '\n';
    while (s < end) {
        const char *stop = memchr(s, '\n', (size_t)(end - s));
        if (!stop)
            stop = end;
        size_t len = (size_t)(stop - s);
        len -= len && s[len - 1] == '\r';
        MR_TRY(read_line(r, ++line, s, len, lines));
        s = stop + 1;
    }
    return r->n ? check_known(r) : mr_fail(MR_EFORMAT, "%s: holds no tokens", r->source->file);
}

/* The name the config gives to id, or the default. */
static mr_err special_name(mr_jval decoder, int64_t id, char fallback[40], mr_buf *scratch,
                           mr_str *out)
{
    char key[24];
    snprintf(key, sizeof key, "%" PRId64, id);
    mr_jval v = mr_jget(decoder, key);
    snprintf(fallback, 40, "<|reserved_token_%" PRId64 "|>", id);
    *out = (mr_str){fallback, strlen(fallback)};
    if (!mr_jhas(v))
        return MR_OK;
    v = mr_jget(v, "content");
    if (!mr_jhas(v))
        return mr_jfail(decoder, "\"%s\" has no \"content\"", key);
    MR_TRY(mr_jstr(v, scratch, out));
    return out->len ? MR_OK : mr_jfail(v, "is empty");
}

static mr_err add_specials(reader *r, const mr_json *doc)
{
    mr_buf scratch = {0};
    mr_jval decoder = {0};
    mr_err err = MR_OK;
    if (doc)
        decoder = mr_jget(mr_json_root(doc), "added_tokens_decoder");
    int64_t first = (int64_t)r->n;
    for (int64_t id = first; !err && id < first + RESERVED; id++) {
        char fallback[40];
        mr_str name;
        err = special_name(decoder, id, fallback, &scratch, &name);
        if (err)
            break;
        size_t at = r->texts.len;
        mr_buf_add(&r->texts, name.data, name.len);
        err = mr_buf_check(&r->texts);
        if (!err)
            err = mr_grow((void **)&r->v, &r->cap, r->n + 1, sizeof *r->v);
        if (!err)
            r->v[r->n++] = (token){(uint32_t)at, (uint32_t)name.len};
    }
    mr_buf_free(&scratch);
    return err;
}

static mr_err make(const reader *r, size_t ranks, mr_tokenizer **out)
{
    mr_str *tokens = mr_alloc(MR_MEM_OTHER, r->n * sizeof *tokens);
    int32_t *types = mr_alloc(MR_MEM_OTHER, r->n * sizeof *types);
    mr_err err = tokens && types ? MR_OK : MR_ENOMEM;
    for (size_t i = 0; !err && i < r->n; i++) {
        tokens[i] = (mr_str){r->texts.data + r->v[i].off, r->v[i].len};
        types[i] = i < ranks ? TYPE_NORMAL : TYPE_CONTROL;
        if (tokens[i].len == 0)
            err = mr_fail(MR_EFORMAT, "%s: no token has the rank %zu", r->source->file, i);
    }
    mr_vocab v = {.file = r->source->file,
                  .model = "tiktoken",
                  .pre = "kimi-k2",
                  .n_tokens = (int32_t)r->n,
                  .tokens = tokens,
                  .types = types,
                  .n_merges = -1,
                  .bos = -1,
                  .eos = -1,
                  .unk = -1,
                  .add_bos = -1,
                  .add_eos = -1,
                  .add_space_prefix = -1};
    if (!err)
        err = mr_tokenizer_from_vocab(out, &v);
    mr_free(tokens);
    mr_free(types);
    return err;
}

static mr_err read_all(reader *r, mr_tokenizer **out)
{
    mr_json *doc = NULL;
    MR_TRY(read_ranks(r));
    size_t ranks = r->n;
    mr_err err = MR_OK;
    if (r->source->config)
        err = mr_json_parse(&doc, r->source->config_file, r->source->config, r->source->config_len);
    if (!err)
        err = add_specials(r, doc);
    mr_json_free(doc);
    return err ? err : make(r, ranks, out);
}

mr_err mr_tiktoken_parse(mr_tokenizer **out, const mr_tokenizer_source *s)
{
    reader r = {.source = s};
    *out = NULL;
    mr_err err = read_all(&r, out);
    mr_buf_free(&r.texts);
    mr_free(r.v);
    if (!err)
        err = mr_tokenizer_config(*out, s);
    if (err) {
        mr_tokenizer_close(*out);
        *out = NULL;
    }
    return err;
}
