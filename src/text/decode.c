/* A chain of steps, each taking tokens (or fragments of the one fused token) and passing them on.
 *
 * ByteFallback cannot know whether a run of byte tokens is text before the run ends: the package
 * makes a run that is not UTF-8 as a whole into one U+FFFD per byte.  So the run is held. ByteLevel
 * holds at most three bytes.
 */
#include "text/decode.h"

#include <assert.h>
#include <string.h>

#include "base/mem.h"
#include "text/byte_level.h"
#include "text/normalize.h"
#include "text/read.h"

enum { STEPS_MAX = 64 };
static const char replacement[] = "\xEF\xBF\xBD";

mr_err mr_decoder_step(mr_decoder *d, mr_dec_kind kind, mr_dec_step **out)
{
    if (d->n == STEPS_MAX)
        return mr_fail(MR_EUNSUPPORTED, "a decoder of more than %d steps", STEPS_MAX);
    MR_TRY(mr_grow((void **)&d->v, &d->cap, d->n + 1, sizeof *d->v));
    mr_dec_step *s = &d->v[d->n++];
    memset(s, 0, sizeof *s);
    s->kind = kind;
    if (d->n > 1) {
        const mr_dec_step *before = s - 1;
        s->fused =
            before->fused || before->kind == MR_DEC_FUSE || before->kind == MR_DEC_BYTE_LEVEL;
    }
    *out = s;
    return MR_OK;
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

mr_err mr_decoder_literal(mr_dec_step *s, const char *literal, const char *content)
{
    MR_TRY(copy(literal, &s->pattern.literal, &s->pattern.len));
    return copy(content, &s->content, &s->content_len);
}

void mr_decoder_free(mr_decoder *d)
{
    for (size_t i = 0; i < d->n; i++) {
        mr_pattern_free(&d->v[i].pattern);
        mr_free(d->v[i].content);
    }
    mr_free(d->v);
    memset(d, 0, sizeof *d);
}

/* ---- reading ----------------------------------------------------------------------------- */

static mr_err read_count(mr_jval v, const char *key, size_t *out)
{
    int64_t n;
    if (!mr_jhas(mr_jget(v, key)))
        return mr_jfail(v, "has no \"%s\"", key);
    MR_TRY(mr_jint(mr_jget(v, key), 0, 1 << 20, &n));
    *out = (size_t)n;
    return MR_OK;
}

static mr_err read_strip(mr_decoder *d, mr_jval v)
{
    mr_dec_step *s;
    MR_TRY(mr_decoder_step(d, MR_DEC_STRIP, &s));
    MR_TRY(mr_read_char(v, "content", &s->pattern.literal, &s->pattern.len));
    MR_TRY(read_count(v, "start", &s->start));
    return read_count(v, "stop", &s->stop);
}

static mr_err read_metaspace(mr_decoder *d, mr_jval v)
{
    mr_dec_step *s;
    bool add;
    MR_TRY(mr_decoder_step(d, MR_DEC_METASPACE, &s));
    MR_TRY(mr_read_char(v, "replacement", &s->pattern.literal, &s->pattern.len));
    MR_TRY(mr_read_flag(v, "add_prefix_space", true, &add));
    s->drop_first = add && !mr_jis(mr_jget(v, "prepend_scheme"), "never");
    return MR_OK;
}

static mr_err read_replace(mr_decoder *d, mr_jval v)
{
    mr_dec_step *s;
    MR_TRY(mr_decoder_step(d, MR_DEC_REPLACE, &s));
    MR_TRY(mr_read_pattern(v, &s->pattern));
    return mr_read_text(v, "content", &s->content, &s->content_len);
}

static mr_err read_steps(mr_decoder *d, mr_jval v);

static mr_err read_sequence(mr_decoder *d, mr_jval v)
{
    mr_jval list = mr_jget(v, "decoders");
    if (mr_jtype(list) != MR_JARRAY)
        return mr_jfail(v, "must have a list \"decoders\"");
    for (mr_jval c = mr_jfirst(list); c.doc; c = mr_jnext(c))
        MR_TRY(read_steps(d, c));
    return MR_OK;
}

static mr_err read_steps(mr_decoder *d, mr_jval v)
{
    char kind[MR_KIND_MAX];
    mr_dec_step *s;
    MR_TRY(mr_read_kind(v, kind));
    if (strcmp(kind, "Sequence") == 0)
        return read_sequence(d, v);
    if (strcmp(kind, "Replace") == 0)
        return read_replace(d, v);
    if (strcmp(kind, "Strip") == 0)
        return read_strip(d, v);
    if (strcmp(kind, "Metaspace") == 0)
        return read_metaspace(d, v);
    if (strcmp(kind, "ByteFallback") == 0)
        return mr_decoder_step(d, MR_DEC_BYTE_FALLBACK, &s);
    if (strcmp(kind, "Fuse") == 0)
        return mr_decoder_step(d, MR_DEC_FUSE, &s);
    if (strcmp(kind, "ByteLevel") == 0)
        return mr_decoder_step(d, MR_DEC_BYTE_LEVEL, &s);
    return mr_read_unknown(v, "decoder", kind);
}

mr_err mr_decoder_read(mr_decoder *d, mr_jval section)
{
    mr_dec_step *s;
    if (!mr_jhas(section))
        return mr_decoder_step(d, MR_DEC_JOIN, &s);
    return read_steps(d, section);
}

/* ---- running ----------------------------------------------------------------------------- */

mr_err mr_decoding_init(mr_decoding *r, const mr_decoder *d)
{
    memset(r, 0, sizeof *r);
    r->d = d;
    r->state = mr_zalloc(MR_MEM_OTHER, (d->n + 1) * sizeof *r->state);
    return r->state ? MR_OK : MR_ENOMEM;
}

void mr_decoding_free(mr_decoding *r)
{
    for (size_t i = 0; r->state && i < r->d->n; i++) {
        mr_buf_free(&r->state[i].hold);
        mr_buf_free(&r->state[i].made);
    }
    mr_free(r->state);
    mr_scan_free(&r->scan);
    mr_runs_free(&r->runs);
    memset(r, 0, sizeof *r);
}

static mr_err take(mr_decoding *r, size_t i, const char *s, size_t len, mr_buf *out);

static mr_err hold(mr_dec_state *st, const char *s, size_t len)
{
    mr_buf_add(&st->hold, s, len);
    return mr_buf_check(&st->hold);
}

/* Bytes a valid sequence with this first byte has, 0 if none starts so. */
static size_t sequence_len(unsigned char b)
{
    if (b < 0x80)
        return 1;
    return b >= 0xC2 && b <= 0xDF ? 2 : (b & 0xF0) == 0xE0 ? 3 : b >= 0xF0 && b <= 0xF4 ? 4 : 0;
}

static bool second_ok(unsigned char first, unsigned char b)
{
    unsigned char lo = first == 0xE0 ? 0xA0 : first == 0xF0 ? 0x90 : 0x80;
    unsigned char hi = first == 0xED ? 0x9F : first == 0xF4 ? 0x8F : 0xBF;
    return b >= lo && b <= hi;
}

/* Moves whole characters from held bytes to `made`; what cannot begin or go on as a character
 * becomes U+FFFD, one for each longest start of a character; an unfinished character at the end
 * stays (or, at the end of all, becomes U+FFFD). */
static void drain_bytes(mr_dec_state *st, bool end)
{
    const unsigned char *p = (const unsigned char *)st->hold.data;
    size_t n = st->hold.len, i = 0;
    while (i < n) {
        size_t want = sequence_len(p[i]), have = 1;
        while (have < want && i + have < n &&
               (have == 1 ? second_ok(p[i], p[i + 1]) : (p[i + have] & 0xC0) == 0x80))
            have++;
        if (have < want && i + have == n && !end)
            break;
        if (have == want)
            mr_buf_add(&st->made, p + i, want);
        else
            mr_buf_puts(&st->made, replacement);
        i += have;
    }
    size_t rest = n - i;
    char tail[4];
    assert(rest < sizeof tail);
    if (rest)
        memcpy(tail, p + i, rest);
    mr_buf_clear(&st->hold);
    if (rest)
        mr_buf_add(&st->hold, tail, rest);
}

/* A token's bytes: through the map if all its characters are in it, else as they are. */
static void unmap_bytes(mr_dec_state *st, const char *s, size_t len)
{
    size_t mark = st->hold.len;
    for (size_t i = 0; i < len;) {
        uint32_t cp = 0;
        int k = mr_utf8_decode(s + i, len - i, &cp);
        int b = k > 0 ? mr_byte_level_byte(cp) : -1;
        if (b < 0) {
            if (!st->hold.failed)
                st->hold.len = mark;
            mr_buf_add(&st->hold, s, len);
            return;
        }
        mr_buf_putc(&st->hold, (char)b);
        i += (size_t)k;
    }
}

static mr_err pass_made(mr_decoding *r, size_t i, mr_buf *out)
{
    mr_dec_state *st = &r->state[i];
    MR_TRY(mr_buf_check(&st->made));
    MR_TRY(mr_buf_check(&st->hold));
    MR_TRY(take(r, i + 1, st->made.data ? st->made.data : "", st->made.len, out));
    mr_buf_clear(&st->made);
    return MR_OK;
}

static mr_err replace_token(mr_decoding *r, size_t i, const char *s, size_t len, mr_buf *out)
{
    const mr_dec_step *step = &r->d->v[i];
    MR_TRY(mr_replace(&step->pattern, &r->scan, &r->runs, s, len, step->content, step->content_len,
                      &r->state[i].made));
    return pass_made(r, i, out);
}

static mr_err end_byte_run(mr_decoding *r, size_t i, mr_buf *out)
{
    mr_dec_state *st = &r->state[i];
    size_t n = st->hold.len;
    if (n == 0)
        return MR_OK;
    if (mr_utf8_check(st->hold.data, n) == n) {
        MR_TRY(take(r, i + 1, st->hold.data, n, out));
    } else if (r->d->v[i].each) {
        uint32_t cp;
        for (size_t k = 0, len; k < n; k += len) {
            int valid = mr_utf8_decode(st->hold.data + k, n - k, &cp);
            len = valid > 0 ? (size_t)valid : 1;
            MR_TRY(take(r, i + 1, valid > 0 ? st->hold.data + k : replacement, valid > 0 ? len : 3,
                        out));
        }
    } else {
        for (size_t k = 0; k < n; k++)
            MR_TRY(take(r, i + 1, replacement, 3, out));
    }
    mr_buf_clear(&st->hold);
    return MR_OK;
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c = (char)(c | 32);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* <0xHH>; the package's number reader also takes a plus sign for the first digit. */
static int byte_token(const char *s, size_t len)
{
    if (len != 6 || memcmp(s, "<0x", 3) != 0 || s[5] != '>')
        return -1;
    int high = s[3] == '+' ? 0 : hex_digit(s[3]), low = hex_digit(s[4]);
    return high < 0 || low < 0 ? -1 : high * 16 + low;
}

static mr_err take_byte_fallback(mr_decoding *r, size_t i, const char *s, size_t len, mr_buf *out)
{
    int b = byte_token(s, len);
    if (b >= 0) {
        char c = (char)b;
        return hold(&r->state[i], &c, 1);
    }
    MR_TRY(end_byte_run(r, i, out));
    return take(r, i + 1, s, len, out);
}

/* Both ends of one token. */
static mr_err strip_token(mr_decoding *r, size_t i, const char *s, size_t len, mr_buf *out)
{
    const mr_dec_step *step = &r->d->v[i];
    const mr_pattern *c = &step->pattern;
    for (size_t k = 0; k < step->start && len >= c->len && memcmp(s, c->literal, c->len) == 0;
         k++) {
        s += c->len;
        len -= c->len;
    }
    for (size_t k = 0;
         k < step->stop && len >= c->len && memcmp(s + len - c->len, c->literal, c->len) == 0; k++)
        len -= c->len;
    return take(r, i + 1, s, len, out);
}

/* Fragments of one token: only its start can be stripped on the way. */
static mr_err strip_fused(mr_decoding *r, size_t i, const char *s, size_t len, mr_buf *out)
{
    const mr_dec_step *step = &r->d->v[i];
    const mr_pattern *c = &step->pattern;
    mr_dec_state *st = &r->state[i];
    if (step->stop)
        return hold(st, s, len);
    while (!st->inside && len > 0) {
        if (st->dropped == step->start || len < c->len || memcmp(s, c->literal, c->len) != 0) {
            st->inside = true;
            break;
        }
        s += c->len;
        len -= c->len;
        st->dropped++;
    }
    return take(r, i + 1, s, len, out);
}

static mr_err take_metaspace(mr_decoding *r, size_t i, const char *s, size_t len, mr_buf *out)
{
    const mr_dec_step *step = &r->d->v[i];
    mr_dec_state *st = &r->state[i];
    bool first = st->tokens == 0;
    if (!step->fused)
        st->tokens++;
    for (size_t k = 0; k < len;) {
        if (len - k >= step->pattern.len &&
            memcmp(s + k, step->pattern.literal, step->pattern.len) == 0) {
            if (!(first && step->drop_first))
                mr_buf_putc(&st->made, ' ');
            k += step->pattern.len;
        } else {
            mr_buf_putc(&st->made, s[k++]);
        }
    }
    return pass_made(r, i, out);
}

static mr_err take_piece(mr_decoding *r, size_t i, const char *s, size_t len, mr_buf *out)
{
    const mr_dec_step *step = &r->d->v[i];
    const mr_pattern *mark = &step->pattern;
    mr_dec_state *st = &r->state[i];
    if (!st->inside && step->drop_first && len >= mark->len &&
        memcmp(s, mark->literal, mark->len) == 0) {
        s += mark->len;
        len -= mark->len;
        st->inside = !step->drop_all;
    }
    st->inside |= len > 0;
    MR_TRY(mr_replace(mark, &r->scan, &r->runs, s, len, " ", 1, &st->made));
    return pass_made(r, i, out);
}

/* Step i gets a token, or a fragment of the fused one; step d->n is the output. */
static mr_err take(mr_decoding *r, size_t i, const char *s, size_t len, mr_buf *out)
{
    if (i == r->d->n) {
        mr_buf_add(out, s, len);
        return mr_buf_check(out);
    }
    const mr_dec_step *step = &r->d->v[i];
    mr_dec_state *st = &r->state[i];
    switch (step->kind) {
    case MR_DEC_REPLACE:
        return step->fused ? hold(st, s, len) : replace_token(r, i, s, len, out);
    case MR_DEC_BYTE_FALLBACK:
        return step->fused ? hold(st, s, len) : take_byte_fallback(r, i, s, len, out);
    case MR_DEC_FUSE:
        return take(r, i + 1, s, len, out);
    case MR_DEC_STRIP:
        return step->fused ? strip_fused(r, i, s, len, out) : strip_token(r, i, s, len, out);
    case MR_DEC_BYTE_LEVEL:
        if (step->fused)
            return hold(st, s, len);
        unmap_bytes(st, s, len);
        drain_bytes(st, false);
        return pass_made(r, i, out);
    case MR_DEC_METASPACE:
        return take_metaspace(r, i, s, len, out);
    case MR_DEC_PIECES:
        return take_piece(r, i, s, len, out);
    case MR_DEC_JOIN:
        if (st->tokens++)
            MR_TRY(take(r, i + 1, " ", 1, out));
        return take(r, i + 1, s, len, out);
    }
    return MR_OK;
}

/* What step i held becomes certain. */
static mr_err finish(mr_decoding *r, size_t i, mr_buf *out)
{
    const mr_dec_step *step = &r->d->v[i];
    mr_dec_state *st = &r->state[i];
    const char *held = st->hold.data ? st->hold.data : "";
    switch (step->kind) {
    case MR_DEC_REPLACE:
        return st->hold.len ? replace_token(r, i, held, st->hold.len, out) : MR_OK;
    case MR_DEC_STRIP:
        return st->hold.len ? strip_token(r, i, held, st->hold.len, out) : MR_OK;
    case MR_DEC_BYTE_FALLBACK:
        if (step->fused && st->hold.len) {
            int b = byte_token(held, st->hold.len);
            if (b < 0)
                return take(r, i + 1, held, st->hold.len, out);
            mr_buf_clear(&st->hold);
            mr_buf_putc(&st->hold, (char)b);
            MR_TRY(mr_buf_check(&st->hold));
        }
        return end_byte_run(r, i, out);
    case MR_DEC_BYTE_LEVEL:
        if (step->fused && st->hold.len) {
            mr_buf token = st->hold;
            memset(&st->hold, 0, sizeof st->hold);
            unmap_bytes(st, token.data, token.len);
            mr_buf_free(&token);
        }
        drain_bytes(st, true);
        return pass_made(r, i, out);
    case MR_DEC_FUSE:
    case MR_DEC_METASPACE:
    case MR_DEC_PIECES:
    case MR_DEC_JOIN:
        break;
    }
    return MR_OK;
}

mr_err mr_decoding_push(mr_decoding *r, const char *s, size_t len, mr_buf *out)
{
    r->scan.until = 0; /* a stream may last */
    return take(r, 0, s, len, out);
}

mr_err mr_decoding_end(mr_decoding *r, mr_buf *out)
{
    r->scan.until = 0;
    for (size_t i = 0; i < r->d->n; i++)
        MR_TRY(finish(r, i, out));
    return MR_OK;
}
