/* Tokenizers for the run: from a folder, a tokenizer.json, or the vocabulary in a GGUF file.
 *
 * Here GGUF metadata (weights/) becomes a vocabulary (text/); neither knows the other. */
#include <string.h>

#include "base/file.h"
#include "run/engine.h"
#include "run/gguf_meta.h"
#include "weights/weights.h"

typedef struct vocab {
    mr_vocab v;
    mr_str *tokens, *merges;
    float *scores;
    int32_t *types;
    char *model, *pre, *chat;
} vocab;

static void vocab_free(vocab *b)
{
    mr_free(b->tokens);
    mr_free(b->merges);
    mr_free(b->scores);
    mr_free(b->types);
    mr_free(b->model);
    mr_free(b->pre);
    mr_free(b->chat);
}

static mr_err get_z(const mr_gguf *g, const char *key, bool required, char **out)
{
    mr_str s;
    *out = NULL;
    if (!required && mr_gguf_kind(g, key) == MR_GGUF_ABSENT)
        return MR_OK;
    MR_TRY(mr_gguf_str(g, key, &s));
    *out = mr_alloc(MR_MEM_TOKENIZER, s.len + 1);
    if (!*out)
        return MR_ENOMEM;
    memcpy(*out, s.data, s.len);
    (*out)[s.len] = 0;
    return MR_OK;
}

static mr_err get_strings(const mr_gguf *g, const char *key, mr_str **out, int32_t *n)
{
    mr_gguf_array a;
    MR_TRY(mr_gguf_arr(g, key, &a));
    if (a.elem != MR_GGUF_STRING || a.count > INT32_MAX)
        return mr_fail(MR_EFORMAT, "%s: \"%s\" is not an array of strings", mr_gguf_path(g), key);
    *n = (int32_t)a.count;
    *out = mr_alloc(MR_MEM_TOKENIZER, (size_t)(a.count + 1) * sizeof **out);
    if (!*out)
        return MR_ENOMEM;
    for (uint64_t i = 0; i < a.count; i++)
        MR_TRY(mr_gguf_arr_str(&a, &(*out)[i]));
    return MR_OK;
}

/* An array as long as the tokens, or absent. */
static mr_err get_numbers(const mr_gguf *g, const char *key, int32_t n, float **f, int32_t **i)
{
    mr_gguf_array a;
    if (mr_gguf_kind(g, key) == MR_GGUF_ABSENT)
        return MR_OK;
    MR_TRY(mr_gguf_arr(g, key, &a));
    if (a.count != (uint64_t)n)
        return mr_fail(MR_EFORMAT, "%s: \"%s\" has %llu entries for %d tokens", mr_gguf_path(g),
                       key, (unsigned long long)a.count, n);
    void *p = mr_alloc(MR_MEM_TOKENIZER, ((size_t)n + 1) * 4);
    if (!p)
        return MR_ENOMEM;
    if (f)
        *f = p;
    else
        *i = p;
    for (int32_t k = 0; k < n; k++) {
        double d = 0;
        int64_t v = 0;
        MR_TRY(f ? mr_gguf_arr_num(&a, &d) : mr_gguf_arr_int(&a, &v));
        if (f)
            (*f)[k] = (float)d;
        else
            (*i)[k] = (int32_t)v;
    }
    return MR_OK;
}

static mr_err get_id(const mr_gguf *g, const char *key, int32_t n, int32_t *out)
{
    int64_t v;
    *out = -1;
    if (mr_gguf_kind(g, key) == MR_GGUF_ABSENT)
        return MR_OK;
    MR_TRY(mr_gguf_int(g, key, &v));
    if (v < 0 || v >= n)
        return mr_fail(MR_EFORMAT, "%s: \"%s\": %lld is not in 0..%d", mr_gguf_path(g), key,
                       (long long)v, n - 1);
    *out = (int32_t)v;
    return MR_OK;
}

static mr_err get_flag(const mr_gguf *g, const char *key, int *out)
{
    int64_t v;
    *out = -1;
    if (mr_gguf_kind(g, key) == MR_GGUF_ABSENT)
        return MR_OK;
    MR_TRY(mr_gguf_int(g, key, &v));
    *out = v != 0;
    return MR_OK;
}

/* The format cannot say that special tokens take white space along; the models that need it are told
 * by their name, as elsewhere. */
static mr_err is_phi3(const mr_gguf *g, bool *out)
{
    char *name = NULL;
    MR_TRY(get_z(g, "general.name", false, &name));
    *out = name && (strcasestr(name, "phi-3") || strcasestr(name, "phi3"));
    mr_free(name);
    return MR_OK;
}

static mr_err fill(const mr_gguf *g, vocab *b)
{
    mr_vocab *v = &b->v;
    v->file = mr_gguf_path(g);
    if (!mr_gguf_has_vocab(g))
        return mr_fail(MR_EFORMAT, "%s: holds no tokenizer (\"tokenizer.ggml.model\")", v->file);
    MR_TRY(get_z(g, "tokenizer.ggml.model", true, &b->model));
    MR_TRY(get_z(g, "tokenizer.ggml.pre", false, &b->pre));
    MR_TRY(get_z(g, "tokenizer.chat_template", false, &b->chat));
    MR_TRY(get_strings(g, "tokenizer.ggml.tokens", &b->tokens, &v->n_tokens));
    if (mr_gguf_kind(g, "tokenizer.ggml.merges") != MR_GGUF_ABSENT)
        MR_TRY(get_strings(g, "tokenizer.ggml.merges", &b->merges, &v->n_merges));
    MR_TRY(get_numbers(g, "tokenizer.ggml.scores", v->n_tokens, &b->scores, NULL));
    MR_TRY(get_numbers(g, "tokenizer.ggml.token_type", v->n_tokens, NULL, &b->types));
    MR_TRY(get_id(g, "tokenizer.ggml.bos_token_id", v->n_tokens, &v->bos));
    MR_TRY(get_id(g, "tokenizer.ggml.eos_token_id", v->n_tokens, &v->eos));
    MR_TRY(get_id(g, "tokenizer.ggml.unknown_token_id", v->n_tokens, &v->unk));
    MR_TRY(get_flag(g, "tokenizer.ggml.add_bos_token", &v->add_bos));
    MR_TRY(get_flag(g, "tokenizer.ggml.add_eos_token", &v->add_eos));
    MR_TRY(get_flag(g, "tokenizer.ggml.add_space_prefix", &v->add_space_prefix));
    MR_TRY(is_phi3(g, &v->strip_after));
    v->model = b->model;
    v->pre = b->pre;
    v->chat_template = b->chat;
    v->tokens = b->tokens;
    v->merges = b->merges;
    v->scores = b->scores;
    v->types = b->types;
    return MR_OK;
}

static mr_err from_gguf(mr_tokenizer **out, const mr_gguf *g)
{
    vocab b = {0};
    mr_err err = fill(g, &b);
    if (!err)
        err = mr_tokenizer_from_vocab(out, &b.v);
    vocab_free(&b);
    return err;
}

/* A tokenizer file, else the vocabulary of the folder's GGUF model. */
static mr_err open_folder(mr_tokenizer **out, const char *dir)
{
    mr_buf path = {0};
    mr_buf_printf(&path, "%s/tokenizer.json", dir);
    mr_err err = mr_buf_check(&path);
    bool json = !err && mr_file_exists(path.data) == 1;
    mr_buf_free(&path);
    MR_TRY(err);
    mr_weights *w = NULL;
    if (json || mr_weights_open(&w, dir, (mr_jval){0}) != MR_OK || !mr_weights_gguf(w))
        err = mr_tokenizer_open(out, dir); /* which says what is missing */
    else
        err = from_gguf(out, mr_weights_gguf(w));
    mr_weights_close(w);
    return err;
}

mr_status mr_text_open(mr_tokenizer **out, const char *model)
{
    *out = NULL;
    if (mr_file_exists(model) == 2)
        return (mr_status)open_folder(out, model);
    if (!mr_ends_with(model, ".gguf"))
        return (mr_status)mr_tokenizer_open(out, model);
    mr_gguf *g;
    MR_TRY(mr_gguf_open(&g, model));
    mr_err err = from_gguf(out, g);
    mr_gguf_close(g);
    return (mr_status)err;
}

void mr_text_close(mr_tokenizer *t)
{
    if (t)
        mr_tokenizer_close(t);
}

mr_err mr_text_there(const mr_model *m, bool *out)
{
    static const char *const names[] = {"tokenizer.json", "tokenizer.model", "tiktoken.model"};
    const mr_gguf *g = mr_weights_gguf(mr_model_weights(m));
    mr_buf path = {0};
    mr_err err = MR_OK;
    *out = g && mr_gguf_has_vocab(g);
    for (size_t i = 0; !g && !err && i < sizeof names / sizeof *names && !*out; i++) {
        mr_buf_clear(&path);
        mr_buf_printf(&path, "%s/%s", mr_model_path(m), names[i]);
        err = mr_buf_check(&path);
        *out = !err && mr_file_exists(path.data) != 0;
    }
    mr_buf_free(&path);
    return err;
}

/* A folder may hold a GGUF model: then its own vocabulary counts. */
mr_status mr_engine_text(mr_engine *e, mr_tokenizer **out)
{
    if (!e->text) {
        const mr_gguf *g = mr_weights_gguf(mr_model_weights(e->model));
        MR_TRY(g ? from_gguf(&e->text, g) : mr_tokenizer_open(&e->text, e->info.path));
    }
    *out = e->text;
    return MR_OK;
}

mr_status mr_encode(const mr_tokenizer *t, const char *text, size_t len, int flags, int32_t **ids,
                    size_t *n)
{
    mr_ids got = {0};
    *ids = NULL;
    *n = 0;
    unsigned how = (flags & MR_ENCODE_SPECIAL ? MR_TOK_SPECIAL : 0) |
                   (flags & MR_ENCODE_PLAIN ? MR_TOK_PLAIN : 0);
    mr_err err = mr_tokenize(t, text, len, how, &got);
    if (err) {
        mr_ids_free(&got);
        return (mr_status)err;
    }
    *ids = got.id;
    *n = got.n;
    return MR_OK;
}

static mr_status give_buf(mr_err err, mr_buf *b, char **text, size_t *len)
{
    if (!err)
        mr_buf_puts(b, "");
    if (!err)
        err = mr_buf_check(b);
    if (err) {
        mr_buf_free(b);
        *text = NULL;
        return (mr_status)err;
    }
    *text = b->data;
    *len = b->len;
    return MR_OK;
}

mr_status mr_decode(const mr_tokenizer *t, const int32_t *ids, size_t n, bool skip_special,
                    char **text, size_t *len)
{
    mr_buf b = {0};
    mr_err err = mr_detokenize(t, ids, n, skip_special, &b);
    return give_buf(err, &b, text, len);
}

mr_status mr_chat(const mr_tokenizer *t, const char *user, size_t len, char **text, size_t *out_len)
{
    mr_buf b = {0};
    mr_err err = mr_chat_render(t, user, len, &b);
    return give_buf(err, &b, text, out_len);
}

mr_status mr_chat_messages(const mr_tokenizer *t, const char *json, size_t len, char **text,
                           size_t *out_len)
{
    mr_buf b = {0};
    mr_err err = mr_chat_messages_render(t, json, len, &b);
    return give_buf(err, &b, text, out_len);
}
