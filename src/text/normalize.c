/* One pass per step between two buffers. */
#include "text/normalize.h"

#include <string.h>

#include "base/mem.h"
#include "text/byte_level.h"
#include "text/read.h"

/* Hostile files: a chain of steps, each of which makes the text longer. */
enum { STEPS_MAX = 64, GROWTH_MAX = 64, GROWTH_BASE = 1 << 20 };

static mr_err add_step(mr_norm *n, mr_norm_kind kind, mr_norm_step **out)
{
    if (n->n == STEPS_MAX)
        return mr_fail(MR_EUNSUPPORTED, "a normaliser of more than %d steps", STEPS_MAX);
    MR_TRY(mr_grow((void **)&n->v, &n->cap, n->n + 1, sizeof *n->v));
    *out = &n->v[n->n++];
    memset(*out, 0, sizeof **out);
    (*out)->kind = kind;
    return MR_OK;
}

void mr_norm_free(mr_norm *n)
{
    for (size_t i = 0; i < n->n; i++) {
        mr_pattern_free(&n->v[i].pattern);
        mr_free(n->v[i].content);
        if (n->v[i].map)
            mr_charsmap_free(n->v[i].map);
        mr_free(n->v[i].map);
    }
    mr_free(n->v);
    memset(n, 0, sizeof *n);
}

static mr_err copy(const char *text, char **out, size_t *len)
{
    *len = strlen(text);
    *out = mr_alloc(MR_MEM_TOKENIZER, *len + 1);
    if (!*out)
        return MR_ENOMEM;
    memcpy(*out, text, *len + 1);
    return MR_OK;
}

mr_err mr_norm_prepend(mr_norm *n, const char *text)
{
    mr_norm_step *s;
    MR_TRY(add_step(n, MR_NORM_PREPEND, &s));
    return copy(text, &s->content, &s->content_len);
}

mr_err mr_norm_replace(mr_norm *n, const char *from, const char *to)
{
    mr_norm_step *s;
    MR_TRY(add_step(n, MR_NORM_REPLACE, &s));
    MR_TRY(copy(from, &s->pattern.literal, &s->pattern.len));
    return copy(to, &s->content, &s->content_len);
}

mr_err mr_norm_map(mr_norm *n, mr_charsmap *map)
{
    mr_norm_step *s = NULL;
    mr_err err = add_step(n, MR_NORM_MAP, &s);
    if (err) {
        mr_charsmap_free(map);
        mr_free(map);
        return err;
    }
    s->map = map;
    return MR_OK;
}

static mr_err read_precompiled(mr_norm *n, mr_jval v)
{
    char *text;
    size_t len;
    MR_TRY(mr_read_text(v, "precompiled_charsmap", &text, &len));
    size_t bytes = mr_base64_decode(text, len, text);
    mr_charsmap *map = mr_zalloc(MR_MEM_TOKENIZER, sizeof *map);
    mr_err err = map ? mr_charsmap_read(map, mr_json_file(v.doc), text, bytes) : MR_ENOMEM;
    mr_free(text);
    if (map)
        map->graphemes = true;
    if (!err)
        return mr_norm_map(n, map);
    if (map)
        mr_charsmap_free(map);
    mr_free(map);
    return err;
}

static mr_err read_simple(mr_norm *n, mr_norm_kind kind, mr_form form)
{
    mr_norm_step *s;
    MR_TRY(add_step(n, kind, &s));
    s->form = form;
    return MR_OK;
}

static mr_err read_strip(mr_norm *n, mr_jval v)
{
    mr_norm_step *s;
    MR_TRY(add_step(n, MR_NORM_STRIP, &s));
    if (!mr_jhas(mr_jget(v, "strip_left")) || !mr_jhas(mr_jget(v, "strip_right")))
        return mr_jfail(v, "must have \"strip_left\" and \"strip_right\"");
    MR_TRY(mr_read_flag(v, "strip_left", false, &s->left));
    return mr_read_flag(v, "strip_right", false, &s->right);
}

static mr_err read_replace(mr_norm *n, mr_jval v)
{
    mr_norm_step *s;
    MR_TRY(add_step(n, MR_NORM_REPLACE, &s));
    MR_TRY(mr_read_pattern(v, &s->pattern));
    return mr_read_text(v, "content", &s->content, &s->content_len);
}

static mr_err read_prepend(mr_norm *n, mr_jval v)
{
    mr_norm_step *s;
    MR_TRY(add_step(n, MR_NORM_PREPEND, &s));
    return mr_read_text(v, "prepend", &s->content, &s->content_len);
}

static mr_err read_sequence(mr_norm *n, mr_jval v)
{
    mr_jval list = mr_jget(v, "normalizers");
    if (mr_jtype(list) != MR_JARRAY)
        return mr_jfail(v, "must have a list \"normalizers\"");
    for (mr_jval c = mr_jfirst(list); c.doc; c = mr_jnext(c)) {
        if (!mr_jhas(c))
            return mr_jfail(c, "must be an object");
        MR_TRY(mr_norm_read(n, c));
    }
    return MR_OK;
}

mr_err mr_norm_read(mr_norm *n, mr_jval section)
{
    static const char *forms[] = {"NFC", "NFD", "NFKC", "NFKD"};
    char kind[MR_KIND_MAX];
    if (!mr_jhas(section))
        return MR_OK;
    MR_TRY(mr_read_kind(section, kind));
    for (int f = 0; f < 4; f++)
        if (strcmp(kind, forms[f]) == 0)
            return read_simple(n, MR_NORM_FORM, (mr_form)f);
    if (strcmp(kind, "Lowercase") == 0)
        return read_simple(n, MR_NORM_LOWER, MR_NFC);
    if (strcmp(kind, "ByteLevel") == 0)
        return read_simple(n, MR_NORM_BYTES, MR_NFC);
    if (strcmp(kind, "Strip") == 0)
        return read_strip(n, section);
    if (strcmp(kind, "Precompiled") == 0)
        return read_precompiled(n, section);
    if (strcmp(kind, "Replace") == 0)
        return read_replace(n, section);
    if (strcmp(kind, "Prepend") == 0)
        return read_prepend(n, section);
    if (strcmp(kind, "Sequence") == 0)
        return read_sequence(n, section);
    return mr_read_unknown(section, "normalizer", kind);
}

/* ---- running ----------------------------------------------------------------------------- */

mr_err mr_replace(const mr_pattern *p, mr_scan *sc, mr_runs *runs, const char *s, size_t len,
                  const char *content, size_t content_len, mr_buf *out)
{
    if (len == 0)
        return MR_OK;
    MR_TRY(mr_pattern_runs(p, sc, s, len, runs));
    for (size_t i = 0; i < runs->n; i++) {
        const mr_run *r = &runs->v[i];
        if (r->match)
            mr_buf_add(out, content, content_len);
        else
            mr_buf_add(out, s + r->start, r->end - r->start);
        if (out->len > GROWTH_MAX * len + GROWTH_BASE)
            return mr_fail(MR_ELIMIT, "replacing makes the text too long");
    }
    return mr_buf_check(out);
}

/* The first character is gone when a match there leaves nothing or took more than that character.
 */
static bool cuts_head(const mr_norm_step *step, const mr_runs *runs, const char *s, size_t len)
{
    if (len == 0 || runs->n == 0 || !runs->v[0].match || runs->v[0].end == 0)
        return false;
    uint32_t cp;
    return step->content_len == 0 || runs->v[0].end != (uint32_t)mr_utf8_decode(s, len, &cp);
}

static mr_err run_step(const mr_norm_step *step, mr_scan *sc, const mr_buf *in, mr_buf *out,
                       bool *cut)
{
    const char *s = in->data;
    size_t len = in->len, head = 0, tail = 0;
    mr_runs runs = {0};
    mr_err err = MR_OK;
    switch (step->kind) {
    case MR_NORM_FORM:
        return mr_utf8_form(step->form, s, len, out);
    case MR_NORM_LOWER:
        return mr_utf8_lower(s, len, out);
    case MR_NORM_BYTES:
        mr_byte_level_encode(s, len, out);
        break;
    case MR_NORM_MAP:
        return mr_charsmap_run(step->map, s, len, out);
    case MR_NORM_PREPEND:
        if (len)
            mr_buf_add(out, step->content, step->content_len);
        mr_buf_add(out, s, len);
        break;
    case MR_NORM_STRIP:
        head = step->left ? mr_space_prefix(s, len) : 0;
        tail = step->right ? mr_space_suffix(s + head, len - head) : 0;
        *cut |= head > 0;
        mr_buf_add(out, s + head, len - head - tail);
        break;
    case MR_NORM_REPLACE:
        err = mr_replace(&step->pattern, sc, &runs, s, len, step->content, step->content_len, out);
        *cut |= cuts_head(step, &runs, s, len);
        mr_runs_free(&runs);
        break;
    }
    return err ? err : mr_buf_check(out);
}

mr_err mr_norm_run(const mr_norm *n, mr_scan *sc, const char *s, size_t len, mr_buf *out, bool *cut)
{
    mr_buf other = {0};
    mr_err err = MR_OK;
    *cut = false;
    mr_buf_clear(out);
    mr_buf_add(out, s, len);
    for (size_t i = 0; err == MR_OK && i < n->n; i++) {
        err = mr_buf_check(out);
        if (err || out->len == 0) /* every step leaves nothing as nothing */
            break;
        mr_buf_clear(&other);
        err = run_step(&n->v[i], sc, out, &other, cut);
        if (err == MR_OK && other.len > GROWTH_MAX * len + GROWTH_BASE)
            err = mr_fail(MR_ELIMIT, "the normaliser makes the text too long");
        mr_buf swap = *out;
        *out = other;
        other = swap;
    }
    mr_buf_free(&other);
    return err ? err : mr_buf_check(out);
}
