/* Chat templates: ChatML, recognised by its source.
 *
 * A template is a Jinja program; only the one every ChatML model shares is known here.  Its source
 * is first made compact (white space outside strings dropped, one kind of quote, newlines in
 * strings written \n); then these must be in it: the printing of a message
 *     '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n'
 * and, behind the last add_generation_prompt, the printing of '<|im_start|>assistant\n' and of
 * nothing more (but for what stands under `enable_thinking is false`, which is off by default).  A
 * literal system turn
 *     '<|im_start|>system\nTEXT<|im_end|>\n'
 * is the default system message.  Anything else is refused by name.
 */
#include <string.h>

#include "base/mem.h"
#include "text/tokenizer.h"

enum { SHOWN = 40 };

/* ---- compact form ------------------------------------------------------------------------ */

/* Copies a string of the code, quotes included; s at the opening quote.  Returns the bytes read. */
static size_t compact_string(const char *s, mr_buf *out)
{
    char quote = s[0];
    size_t i = 1;
    mr_buf_putc(out, '\'');
    while (s[i] && s[i] != quote) {
        if (s[i] == '\\' && s[i + 1]) {
            mr_buf_add(out, s + i, 2);
            i += 2;
        } else if (s[i] == '\n') {
            mr_buf_puts(out, "\\n");
            i++;
        } else {
            mr_buf_putc(out, s[i++]);
        }
    }
    mr_buf_putc(out, '\'');
    return s[i] ? i + 1 : i;
}

static mr_err compact(const char *s, mr_buf *out)
{
    bool code = false;
    for (size_t i = 0; s[i];) {
        bool open = s[i] == '{' && (s[i + 1] == '{' || s[i + 1] == '%');
        if (!code && open) {
            code = true;
            mr_buf_add(out, s + i, 2);
            i += 2;
            i += s[i] == '-' || s[i] == '+';
        } else if (code && (s[i] == '\'' || s[i] == '"')) {
            i += compact_string(s + i, out);
        } else if (code && (s[i] == '}' || s[i] == '%') && s[i + 1] == '}') {
            if (out->len && out->data[out->len - 1] == '-')
                out->data[--out->len] = 0;
            code = false;
            mr_buf_add(out, s + i, 2);
            i += 2;
        } else {
            if (!code || !strchr(" \t\r\n", s[i]))
                mr_buf_putc(out, s[i]);
            i++;
        }
    }
    return mr_buf_check(out);
}

/* ---- recognition ------------------------------------------------------------------------- */

static mr_err refuse(const char *source, const char *what)
{
    char shown[SHOWN + 1];
    size_t n = 0;
    while (n < SHOWN && source[n]) {
        shown[n] = (unsigned char)source[n] < ' ' ? ' ' : source[n];
        n++;
    }
    while (n > 0 && source[n] && ((unsigned char)source[n] & 0xC0) == 0x80)
        n--; /* no half character */
    shown[n] = 0;
    return mr_fail(MR_EUNSUPPORTED, "only ChatML chat templates are supported: \"%s...\" %s", shown,
                   what);
}

static bool prints_messages(const char *c)
{
    static const char *roles[] = {"message['role']", "message.role"};
    static const char *contents[] = {"message['content']", "message.content", "content"};
    static const char *ends[] = {"+'<|im_end|>'+'\\n'", "+'<|im_end|>\\n'"};
    char form[160];
    for (int i = 0; i < 12; i++) {
        size_t n = 0;
        const char *parts[] = {"'<|im_start|>'+", roles[i % 2], "+'\\n'+", contents[i / 2 % 3],
                               ends[i / 6]};
        for (int k = 0; k < 5; k++) {
            size_t len = strlen(parts[k]);
            memcpy(form + n, parts[k], len);
            n += len;
        }
        form[n] = 0;
        if (strstr(c, form))
            return true;
    }
    return false;
}

static const char *last(const char *c, const char *what)
{
    const char *found = NULL;
    for (const char *p = c; (p = strstr(p, what)) != NULL; p++)
        found = p;
    return found;
}

/* Behind the last add_generation_prompt: the assistant's opening, then nothing that is printed by
 * default. */
static bool opens_assistant(const char *c)
{
    static const char opening[] = "{{'<|im_start|>assistant\\n'}}";
    static const char off[] = "{%ifenable_thinkingisdefinedandenable_thinkingisfalse%}";
    const char *p = last(c, "add_generation_prompt");
    if (!p)
        return false;
    p = strstr(p, "{{");
    if (!p || strncmp(p, opening, sizeof opening - 1) != 0)
        return false;
    p += sizeof opening - 1;
    while (*p) {
        if (strncmp(p, off, sizeof off - 1) == 0) {
            const char *end = strstr(p, "{%endif%}");
            if (!end || (strstr(p, "{%else") && strstr(p, "{%else") < end))
                return false;
            p = end;
            continue;
        }
        if (p[0] == '{' && p[1] == '{')
            return false;
        if (p[0] == '{' &&
            p[1] == '%') { /* other code prints nothing, but its ends must be found */
            p = strstr(p, "%}");
            if (!p)
                return false;
            p += 2;
            continue;
        }
        if (!strchr(" \t\r\n", *p))
            return false; /* plain text behind the opening */
        p++;
    }
    return true;
}

/* Appends the text of a literal, escapes undone. */
static mr_err unescape(const char *s, size_t len, mr_buf *out, const char *source)
{
    for (size_t i = 0; i < len; i++) {
        if (s[i] != '\\') {
            mr_buf_putc(out, s[i]);
            continue;
        }
        i++;
        if (i < len && s[i] == 'n')
            mr_buf_putc(out, '\n');
        else if (i < len && s[i] == 't')
            mr_buf_putc(out, '\t');
        else if (i < len && strchr("'\"\\", s[i]))
            mr_buf_putc(out, s[i]);
        else
            return refuse(source, "has an escape that is not known in its system message");
    }
    return mr_buf_check(out);
}

/* The closing quote of a string whose text starts at s; its end if there is none. */
static const char *string_end(const char *s)
{
    while (*s && *s != '\'')
        s += s[0] == '\\' && s[1] ? 2 : 1;
    return s;
}

/* A default system turn, if the template prints one as a literal. */
static mr_err default_system(const char *c, const char *source, mr_buf *out)
{
    static const char open[] = "{{'<|im_start|>system\\n", close[] = "<|im_end|>\\n";
    const size_t close_len = sizeof close - 1;
    for (const char *p = c; (p = strstr(p, open)) != NULL; p++) {
        const char *text = p + sizeof open - 1, *end = string_end(text);
        size_t len = (size_t)(end - text);
        if (strncmp(end, "'}}", 3) != 0 || len <= close_len ||
            memcmp(end - close_len, close, close_len) != 0)
            continue;
        mr_buf_puts(out, "<|im_start|>system\n");
        MR_TRY(unescape(text, len - close_len, out, source));
        mr_buf_puts(out, "<|im_end|>\n");
        return MR_OK;
    }
    return MR_OK;
}

static mr_err render(const char *source, const char *c, const char *user, size_t len, mr_buf *out)
{
    if (!strstr(c, "<|im_start|>") || !strstr(c, "<|im_end|>"))
        return refuse(source, "has no <|im_start|> and <|im_end|>");
    if (!prints_messages(c))
        return refuse(source, "prints its messages in a form of its own");
    if (!opens_assistant(c))
        return refuse(source, "opens the assistant's turn in a form of its own");
    if (strstr(c, "bos_token"))
        return refuse(source, "prints bos_token");
    MR_TRY(default_system(c, source, out));
    mr_buf_puts(out, "<|im_start|>user\n");
    mr_buf_add(out, user, len);
    mr_buf_puts(out, "<|im_end|>\n<|im_start|>assistant\n");
    return mr_buf_check(out);
}

mr_err mr_chat_render(const mr_tokenizer *t, const char *user, size_t len, mr_buf *out)
{
    const char *source = mr_tokenizer_template(t);
    if (!source)
        return mr_fail(MR_EUNSUPPORTED, "the model has no chat template");
    mr_buf c = {0};
    mr_err err = compact(source, &c);
    if (err == MR_OK)
        err = render(source, c.data ? c.data : "", user, len, out);
    mr_buf_free(&c);
    return err;
}
