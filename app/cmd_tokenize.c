/* millrace tokenize: text to ids and back, one text or many lines. */
#include <string.h>

#include "app.h"
#include "base/json.h"
#include "base/mem.h"

typedef struct job {
    const char *prompt, *file, *ids_list, *lines, *messages;
    bool no_special, plain, decode;
    mr_tokenizer *t;
    mr_buf out;
} job;

static mr_status encode_to(job *j, const char *text, size_t len, int flags)
{
    int32_t *ids;
    size_t n;
    MR_TRY(mr_encode(j->t, text, len, flags, &ids, &n));
    app_json_ids(&j->out, ids, n);
    mr_memory_free(ids);
    return MR_STATUS_OK;
}

static int flags_of(const job *j)
{
    return (j->no_special ? 0 : MR_ENCODE_SPECIAL) | (j->plain ? MR_ENCODE_PLAIN : 0);
}

static mr_status decode_value(job *j, mr_jval array)
{
    app_ids ids = {0};
    char *text;
    size_t len;
    if (mr_jtype(array) != MR_JARRAY)
        return (mr_status)mr_jfail(array, "an array of ids is needed");
    uint32_t n = mr_jcount(array);
    ids.id = mr_alloc(MR_MEM_OTHER, ((size_t)n + 1) * sizeof *ids.id);
    mr_status s = ids.id ? MR_STATUS_OK : MR_STATUS_MEMORY;
    for (mr_jval c = mr_jfirst(array); !s && c.doc; c = mr_jnext(c)) {
        int64_t v;
        s = (mr_status)mr_jint(c, 0, INT32_MAX, &v);
        if (!s)
            ids.id[ids.n++] = (int32_t)v;
    }
    if (!s)
        s = mr_decode(j->t, ids.id, ids.n, j->no_special, &text, &len);
    if (!s) {
        mr_buf_json(&j->out, text, len);
        mr_memory_free(text);
    }
    app_ids_free(&ids);
    return s;
}

static mr_status one_line(job *j, mr_jval v, mr_buf *scratch)
{
    mr_str s;
    if (j->decode)
        return decode_value(j, v);
    MR_TRY(mr_jstr(v, scratch, &s));
    return encode_to(j, s.data, s.len, flags_of(j));
}

static mr_status run_lines(job *j)
{
    char *text;
    size_t len;
    mr_json *doc = NULL;
    mr_buf scratch = {0};
    MR_TRY(app_read_file(j->lines, &text, &len));
    mr_status s = (mr_status)mr_json_parse(&doc, j->lines, text, len);
    mr_jval root = {0};
    if (!s && mr_jtype(root = mr_json_root(doc)) != MR_JARRAY)
        s = (mr_status)mr_fail(MR_EFORMAT, "%s: a JSON array is needed", j->lines);
    mr_buf_putc(&j->out, '[');
    for (mr_jval c = mr_jfirst(root); !s && c.doc; c = mr_jnext(c)) {
        if (j->out.len > 1)
            mr_buf_puts(&j->out, ", ");
        s = one_line(j, c, &scratch);
    }
    mr_buf_putc(&j->out, ']');
    mr_buf_free(&scratch);
    mr_json_free(doc);
    mr_free(text);
    return s;
}

/* The template writes its own special tokens. */
static mr_status encode_messages(job *j)
{
    char *json, *text = NULL;
    size_t n, len;
    MR_TRY(app_read_file(j->messages, &json, &n));
    mr_status s = mr_chat_messages(j->t, json, n, &text, &len);
    if (!s)
        s = encode_to(j, text, len, 0);
    mr_memory_free(text);
    mr_free(json);
    return s;
}

static mr_status run_one(job *j)
{
    char *text;
    size_t len;
    mr_status s;
    if (j->decode) {
        app_ids ids;
        MR_TRY(app_ids_list("--ids", j->ids_list, &ids));
        s = mr_decode(j->t, ids.id, ids.n, j->no_special, &text, &len);
        app_ids_free(&ids);
        if (!s) {
            mr_buf_add(&j->out, text, len);
            mr_memory_free(text);
        }
        return s;
    }
    if (j->messages)
        return encode_messages(j);
    MR_TRY(app_read_text(j->prompt, j->file, &text, &len));
    s = encode_to(j, text, len, flags_of(j));
    mr_free(text);
    return s;
}

int cmd_tokenize(int argc, char **argv)
{
    job j = {0};
    const char *model;
    const app_opt opts[] = {
        {"--prompt", "-p", APP_STR, &j.prompt, 0, 0, "TEXT", "the text", NULL},
        {"--file", "-f", APP_STR, &j.file, 0, 0, "FILE",
         "the text from a file (- for stdin, also read when piped)", NULL},
        {"--messages", NULL, APP_STR, &j.messages, 0, 0, "F.json",
         "a conversation, through the model's chat template", NULL},
        {"--no-special", NULL, APP_FLAG, &j.no_special, 0, 0, NULL,
         "add no special tokens (decoding: leave them out)", NULL},
        {"--no-parse-special", NULL, APP_FLAG, &j.plain, 0, 0, NULL,
         "special tokens written out in the text are text", NULL},
        {"--decode", NULL, APP_FLAG, &j.decode, 0, 0, NULL, "from ids to text", NULL},
        {"--ids", NULL, APP_STR, &j.ids_list, 0, 0, "LIST", "the ids to decode: 1,2,3", NULL},
        {"--lines", NULL, APP_STR, &j.lines, 0, 0, "F.json",
         "many: a JSON array of strings (decoding: of id arrays)", NULL},
        {0},
    };
    int code = app_parse(app_command("tokenize"), opts, argc, argv, &model, 1);
    if (code >= 0)
        return code;
    if (j.decode && !j.lines && !j.ids_list)
        return app_usage("tokenize", "--decode needs --ids LIST or --lines F.json");
    if (!j.decode && j.ids_list)
        return app_usage("tokenize", "--ids goes with --decode");
    if (j.lines && j.ids_list)
        return app_usage("tokenize", "--ids and --lines exclude each other");
    if ((j.lines || j.decode) && (j.prompt || j.file))
        return app_usage("tokenize", "-p and -f do not go with %s",
                         j.lines ? "--lines" : "--decode");
    if (j.messages && (j.prompt || j.file || j.lines || j.decode || j.no_special || j.plain))
        return app_usage("tokenize",
                         "--messages does not go with other input or how special tokens are read");
    if (j.decode && j.plain)
        return app_usage("tokenize", "--no-parse-special does not go with --decode");
    mr_status s = mr_text_open(&j.t, model);
    if (!s)
        s = j.lines ? run_lines(&j) : run_one(&j);
    if (!s)
        mr_buf_putc(&j.out, '\n');
    if (!s)
        s = (mr_status)mr_buf_check(&j.out);
    if (s) {
        code = app_failed(s);
    } else {
        app_write(j.out.data, j.out.len);
        code = app_out_end(APP_OK);
    }
    mr_text_close(j.t);
    mr_buf_free(&j.out);
    return code;
}
