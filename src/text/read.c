/* Small readers over base/json.h. */
#include "text/read.h"

#include <stdio.h>
#include <string.h>

#include "base/mem.h"

mr_err mr_read_kind(mr_jval section, char kind[MR_KIND_MAX])
{
    mr_buf scratch = {0};
    mr_str s;
    if (mr_jtype(section) != MR_JOBJECT)
        return mr_jfail(section, "must be an object");
    mr_jval type = mr_jget(section, "type");
    if (!mr_jhas(type))
        return mr_jfail(section, "has no \"type\"");
    mr_err err = mr_jstr(type, &scratch, &s);
    if (err == MR_OK && (s.len == 0 || s.len >= MR_KIND_MAX))
        err = mr_jfail(type, "is no known type");
    if (err == MR_OK) {
        memcpy(kind, s.data, s.len);
        kind[s.len] = 0;
    }
    mr_buf_free(&scratch);
    return err;
}

mr_err mr_read_unknown(mr_jval section, const char *what, const char *kind)
{
    return mr_fail(MR_EUNSUPPORTED, "%s: \"%s\": a %s of type \"%s\" is not supported",
                   mr_json_file(section.doc), mr_jpath(section), what, kind);
}

mr_err mr_read_text(mr_jval object, const char *key, char **out, size_t *len)
{
    mr_buf scratch = {0};
    mr_str s;
    *out = NULL;
    mr_jval v = mr_jget(object, key);
    if (!mr_jhas(v))
        return mr_jfail(object, "has no \"%s\"", key);
    mr_err err = mr_jstr(v, &scratch, &s);
    if (err == MR_OK) {
        *out = mr_alloc(MR_MEM_TOKENIZER, s.len + 1);
        err = *out ? MR_OK : MR_ENOMEM;
    }
    if (err == MR_OK) {
        memcpy(*out, s.data, s.len);
        (*out)[s.len] = 0;
        *len = s.len;
    }
    mr_buf_free(&scratch);
    return err;
}

mr_err mr_read_flag(mr_jval object, const char *key, bool absent, bool *out)
{
    mr_jval v = mr_jget(object, key);
    *out = absent;
    return mr_jhas(v) ? mr_jbool(v, out) : MR_OK;
}

mr_err mr_read_pattern(mr_jval object, mr_pattern *out)
{
    mr_jval pattern = mr_jget(object, "pattern");
    memset(out, 0, sizeof *out);
    if (mr_jtype(pattern) != MR_JOBJECT)
        return mr_jfail(object, "must have a \"pattern\" of String or Regex");
    if (mr_jcount(pattern) != 1)
        return mr_jfail(pattern, "must hold one of String and Regex");
    if (mr_jhas(mr_jget(pattern, "String")))
        return mr_read_text(pattern, "String", &out->literal, &out->len);
    char *text, what[256];
    size_t len;
    MR_TRY(mr_read_text(pattern, "Regex", &text, &len));
    snprintf(what, sizeof what, "%s: \"%s\"", mr_json_file(pattern.doc), mr_jpath(pattern));
    mr_err err = mr_regex_new(&out->regex, what, text, len);
    mr_free(text);
    return err;
}

mr_err mr_read_char(mr_jval object, const char *key, char **out, size_t *len)
{
    uint32_t cp;
    MR_TRY(mr_read_text(object, key, out, len));
    if (*len > 0 && (size_t)mr_utf8_decode(*out, *len, &cp) == *len)
        return MR_OK;
    mr_free(*out);
    *out = NULL;
    return mr_jfail(mr_jget(object, key), "must be one character");
}

static int base64_value(char c)
{
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26;
    if (c >= '0' && c <= '9')
        return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

size_t mr_base64_decode(const char *s, size_t len, char *out)
{
    size_t n = 0, pad = 0;
    if (len == 0 || len % 4)
        return 0;
    while (pad < 2 && s[len - 1 - pad] == '=')
        pad++;
    for (size_t i = 0; i < len; i += 4) {
        uint32_t word = 0;
        for (size_t j = 0; j < 4; j++) {
            int d = i + j < len - pad ? base64_value(s[i + j]) : 0;
            if (d < 0)
                return 0;
            word = word << 6 | (uint32_t)d;
        }
        for (int j = 0; j < 3; j++)
            out[n++] = (char)(word >> (16 - 8 * j));
    }
    return n - pad;
}
