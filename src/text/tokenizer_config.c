/* Opening a folder: tokenizer.json, or else tokenizer.model (SentencePiece) or tiktoken.model, and
 * beside it tokenizer_config.json and chat_template.jinja.
 *
 * add_bos_token and add_eos_token count where tokenizer.json's own post-processor does not add the
 * token already (DeepSeek's does not, Gemma's does); false takes nothing away that tokenizer.json
 * adds.
 */
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "text/read.h"
#include "text/tokenizer_parts.h"

enum { JSON_MAX = 1 << 28, TEMPLATE_MAX = 1 << 22 };

mr_err mr_tokenizer_set_template(mr_tokenizer *t, const char *text, size_t len)
{
    char *copy = mr_alloc(MR_MEM_TOKENIZER, len + 1);
    if (!copy)
        return MR_ENOMEM;
    memcpy(copy, text, len);
    copy[len] = 0;
    mr_free(t->chat_template);
    t->chat_template = copy;
    return MR_OK;
}

/* A token named by a string or by {"content": ...}: -1 if it is not in the vocabulary; as it was if
 * absent or null. */
static mr_err named_token(const mr_tokenizer *t, mr_jval root, const char *key, mr_buf *scratch,
                          int32_t *id)
{
    mr_jval v = mr_jget(root, key);
    mr_str s;
    if (mr_jtype(v) == MR_JOBJECT)
        v = mr_jget(v, "content");
    if (!mr_jhas(v))
        return MR_OK;
    MR_TRY(mr_jstr(v, scratch, &s));
    *id = mr_tokenizer_id(t, s.data, s.len);
    return MR_OK;
}

/* One side: the token is in `ids` already, or the config asks for it and it is added. */
static mr_err add_token(mr_tokenizer *t, mr_jval root, const char *flag, const char *key,
                        int32_t id, bool front)
{
    mr_ids *ids = front ? &t->prefix : &t->suffix;
    bool want;
    MR_TRY(mr_read_flag(root, flag, false, &want));
    if (!want)
        return MR_OK;
    if (id < 0)
        return mr_jfail(root, "%s is true, but \"%s\" names no token of the vocabulary", flag, key);
    for (size_t i = 0; i < ids->n; i++)
        if (ids->id[i] == id)
            return MR_OK;
    MR_TRY(mr_ids_push(ids, id));
    if (front) {
        memmove(ids->id + 1, ids->id, (ids->n - 1) * sizeof *ids->id);
        ids->id[0] = id;
    }
    return MR_OK;
}

/* A string, or a list of {name, template}: the one named "default", or the only one. */
static mr_err read_template(mr_tokenizer *t, mr_jval v, mr_buf *scratch)
{
    mr_str s;
    if (!mr_jhas(v))
        return MR_OK;
    if (mr_jtype(v) == MR_JARRAY) {
        mr_jval chosen = {0};
        for (mr_jval c = mr_jfirst(v); c.doc; c = mr_jnext(c)) {
            if (mr_jtype(c) != MR_JOBJECT || !mr_jhas(mr_jget(c, "template")))
                return mr_jfail(c, "must have \"name\" and \"template\"");
            if (mr_jis(mr_jget(c, "name"), "default") || mr_jcount(v) == 1)
                chosen = mr_jget(c, "template");
        }
        if (!chosen.doc)
            return MR_OK; /* several, none the default: there is none to use */
        v = chosen;
    }
    MR_TRY(mr_jstr(v, scratch, &s));
    return mr_tokenizer_set_template(t, s.data, s.len);
}

static mr_err read_config(mr_tokenizer *t, mr_jval root, mr_buf *scratch)
{
    if (mr_jtype(root) != MR_JOBJECT)
        return mr_fail(MR_EFORMAT, "%s: must hold an object", mr_json_file(root.doc));
    MR_TRY(named_token(t, root, "bos_token", scratch, &t->bos));
    MR_TRY(named_token(t, root, "eos_token", scratch, &t->eos));
    MR_TRY(add_token(t, root, "add_bos_token", "bos_token", t->bos, true));
    MR_TRY(add_token(t, root, "add_eos_token", "eos_token", t->eos, false));
    return read_template(t, mr_jget(root, "chat_template"), scratch);
}

mr_err mr_tokenizer_config(mr_tokenizer *t, const mr_tokenizer_source *s)
{
    if (s->config) {
        mr_json *doc = NULL;
        mr_buf scratch = {0};
        mr_err err = mr_json_parse(&doc, s->config_file, s->config, s->config_len);
        if (err == MR_OK)
            err = read_config(t, mr_json_root(doc), &scratch);
        mr_json_free(doc);
        mr_buf_free(&scratch);
        MR_TRY(err);
    }
    if (t->bos < 0 && t->prefix.n)
        t->bos = t->prefix.id[0];
    if (t->eos < 0 && t->suffix.n)
        t->eos = t->suffix.id[t->suffix.n - 1];
    return s->chat_template ? mr_tokenizer_set_template(t, s->chat_template, s->chat_template_len)
                            : MR_OK;
}

mr_err mr_tokenizer_config_flag(const mr_tokenizer_source *s, const char *key, int *out)
{
    mr_json *doc = NULL;
    bool on = false;
    *out = -1;
    if (!s->config)
        return MR_OK;
    mr_err err = mr_json_parse(&doc, s->config_file, s->config, s->config_len);
    if (err == MR_OK && mr_jhas(mr_jget(mr_json_root(doc), key))) {
        err = mr_read_flag(mr_json_root(doc), key, false, &on);
        *out = on;
    }
    mr_json_free(doc);
    return err;
}

/* ---- files ------------------------------------------------------------------------------- */

typedef mr_err parse_fn(mr_tokenizer **out, const mr_tokenizer_source *s);

typedef struct folder {
    mr_buf file, config, jinja; /* paths */
    char *text, *config_text, *jinja_text;
    size_t len, config_len, jinja_len;
} folder;

/* The folder's tokenizer file: the first of these that is there. */
static mr_err find_file(folder *f, const char *dir)
{
    static const char *names[] = {"tokenizer.json", "tokenizer.model", "tiktoken.model",
                                  "tekken.json" /* which its reader refuses by name */};
    for (int i = 0; i < 4; i++) {
        mr_buf_clear(&f->file);
        mr_buf_printf(&f->file, "%s/%s", dir, names[i]);
        MR_TRY(mr_buf_check(&f->file));
        if (mr_file_exists(f->file.data) == 1)
            return MR_OK;
    }
    return mr_fail(MR_EIO, "%s: has no tokenizer.json, tokenizer.model or tiktoken.model", dir);
}

static mr_err read_folder(folder *f, const char *path)
{
    bool whole = mr_file_exists(path) == 2;
    if (whole) {
        MR_TRY(find_file(f, path));
        mr_buf_printf(&f->config, "%s/tokenizer_config.json", path);
        mr_buf_printf(&f->jinja, "%s/chat_template.jinja", path);
        MR_TRY(mr_buf_check(&f->config));
        MR_TRY(mr_buf_check(&f->jinja));
    } else {
        mr_buf_puts(&f->file, path);
    }
    MR_TRY(mr_buf_check(&f->file));
    MR_TRY(mr_file_read_all(f->file.data, JSON_MAX, MR_MEM_TOKENIZER, &f->text, &f->len));
    if (whole && mr_file_exists(f->config.data) == 1)
        MR_TRY(mr_file_read_all(f->config.data, JSON_MAX, MR_MEM_TOKENIZER, &f->config_text,
                                &f->config_len));
    if (whole && mr_file_exists(f->jinja.data) == 1) {
        MR_TRY(mr_file_read_all(f->jinja.data, TEMPLATE_MAX, MR_MEM_TOKENIZER, &f->jinja_text,
                                &f->jinja_len));
        size_t valid = mr_utf8_check(f->jinja_text, f->jinja_len);
        if (valid != f->jinja_len)
            return mr_fail(MR_EFORMAT, "%s: is not UTF-8 at byte %zu", f->jinja.data, valid);
    }
    return MR_OK;
}

static bool ends_with(const mr_buf *path, const char *end)
{
    size_t n = strlen(end);
    return path->len >= n && memcmp(path->data + path->len - n, end, n) == 0;
}

/* A protocol buffer whose first field is a message starts with a line feed; a tiktoken file starts
 * with base64, whatever it is called. */
static parse_fn *parser_of(const folder *f)
{
    if (!ends_with(&f->file, ".model"))
        return mr_tokenizer_parse;
    return f->len && f->text[0] == '\n' ? mr_sentencepiece_parse : mr_tiktoken_parse;
}

mr_err mr_tokenizer_open(mr_tokenizer **out, const char *dir)
{
    folder f = {0};
    *out = NULL;
#ifdef MR_NO_TEXT
    return mr_fail(MR_EUNSUPPORTED, "%s: this program was built without PCRE2 and utf8proc", dir);
#endif
    mr_err err = read_folder(&f, dir);
    if (err == MR_OK) {
        mr_tokenizer_source s = {.file = f.file.data, .text = f.text, .len = f.len};
        s.config_file = f.config.data;
        s.config = f.config_text;
        s.config_len = f.config_len;
        s.chat_template = f.jinja_text;
        s.chat_template_len = f.jinja_len;
        err = parser_of(&f)(out, &s);
    }
    mr_buf_free(&f.file);
    mr_buf_free(&f.config);
    mr_buf_free(&f.jinja);
    mr_free(f.text);
    mr_free(f.config_text);
    mr_free(f.jinja_text);
    return err;
}
