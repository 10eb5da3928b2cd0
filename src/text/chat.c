/* Conversations through a model's chat template: its variables, from JSON and from the tokenizer.
 *
 * The variables are those of the `transformers` package: messages, tools, documents,
 * add_generation_prompt, the special tokens by name, and whatever else the caller's object holds.
 */
#include <string.h>

#include "base/json.h"
#include "base/mem.h"
#include "text/template.h"
#include "text/tokenizer.h"

/* bos_token and eos_token, as their texts. */
static mr_err set_token(mr_tpl *e, const mr_tokenizer *t, const char *name, int32_t id)
{
    mr_buf b = {0};
    mr_tval v;
    if (id < 0)
        return MR_OK;
    mr_err err = mr_detokenize(t, &id, 1, false, &b);
    if (err) {
        mr_buf_free(&b);
        return err;
    }
    MR_TRY(mr_tpl_take(e, &b, &v));
    return mr_tpl_set(e, name, strlen(name), v);
}

/* What there is without the caller's object. */
static mr_err set_defaults(mr_tpl *e, const mr_tokenizer *t)
{
    MR_TRY(mr_tpl_set(e, "tools", 5, mr_tpl_none()));
    MR_TRY(mr_tpl_set(e, "documents", 9, mr_tpl_none()));
    MR_TRY(mr_tpl_set(e, "add_generation_prompt", 21, mr_tpl_bool(true)));
    MR_TRY(set_token(e, t, "bos_token", mr_tokenizer_bos(t)));
    return set_token(e, t, "eos_token", mr_tokenizer_eos(t));
}

static mr_err check_messages(mr_jval v)
{
    if (mr_jtype(v) != MR_JARRAY)
        return mr_jfail(v, "messages must be an array");
    for (mr_jval c = mr_jfirst(v); c.doc; c = mr_jnext(c))
        if (mr_jtype(c) != MR_JOBJECT)
            return mr_jfail(c, "a message must be an object");
    return MR_OK;
}

/* An object of variables, or the array of messages alone. */
static mr_err set_variables(mr_tpl *e, mr_jval root)
{
    mr_tval v;
    if (mr_jtype(root) == MR_JARRAY) {
        MR_TRY(check_messages(root));
        MR_TRY(mr_tpl_from_json(e, root, &v));
        return mr_tpl_set(e, "messages", 8, v);
    }
    if (mr_jtype(root) != MR_JOBJECT || !mr_jhas(mr_jget(root, "messages")))
        return mr_jfail(root, "must be an array of messages, or an object with \"messages\"");
    MR_TRY(check_messages(mr_jget(root, "messages")));
    mr_buf scratch = {0};
    mr_err err = MR_OK;
    for (mr_jval c = mr_jfirst(root); err == MR_OK && c.doc; c = mr_jnext(c)) {
        mr_str key;
        err = mr_tpl_from_json(e, c, &v);
        if (err == MR_OK)
            err = mr_jkey(c, &scratch, &key);
        if (err == MR_OK)
            err = mr_tpl_set(e, key.data, key.len, v);
    }
    mr_buf_free(&scratch);
    return err;
}

static mr_err render(mr_tpl *e, const mr_tokenizer *t, const char *json, size_t len, mr_buf *out)
{
    const char *source = mr_tokenizer_template(t);
    mr_json *doc;
    if (!source)
        return mr_fail(MR_EUNSUPPORTED, "the model has no chat template");
    MR_TRY(set_defaults(e, t));
    MR_TRY(mr_json_parse(&doc, "messages", json, len));
    mr_err err = set_variables(e, mr_json_root(doc));
    mr_json_free(doc);
    MR_TRY(err);
    return mr_tpl_render(e, source, strlen(source), out);
}

mr_err mr_chat_messages_render(const mr_tokenizer *t, const char *json, size_t len, mr_buf *out)
{
    mr_tpl *e;
    MR_TRY(mr_tpl_new(&e));
    mr_err err = render(e, t, json, len, out);
    mr_tpl_free(e);
    return err;
}

mr_err mr_chat_render(const mr_tokenizer *t, const char *user, size_t len, mr_buf *out)
{
    mr_buf b = {0};
    size_t valid = mr_utf8_check(user, len);
    if (valid != len)
        return mr_fail(MR_EFORMAT, "the text is not UTF-8 at byte %zu", valid);
    mr_buf_puts(&b, "[{\"role\": \"user\", \"content\": ");
    mr_buf_json(&b, user, len);
    mr_buf_puts(&b, "}]");
    mr_err err = mr_buf_check(&b);
    if (err == MR_OK)
        err = mr_chat_messages_render(t, b.data, b.len, out);
    mr_buf_free(&b);
    return err;
}
