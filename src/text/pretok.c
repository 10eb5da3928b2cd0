/* Each step makes a new list from the old one.  Steps that only cut keep the text and hand it on;
 * the others write a new text.
 */
#include "text/pretok.h"

#include <assert.h>
#include <string.h>

#include "base/mem.h"
#include "text/byte_level.h"
#include "text/read.h"
#include "text/unicode.h"

static const char gpt2_words[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

enum { STEPS_MAX = 64, GROWTH_MAX = 64, GROWTH_BASE = 1 << 20 };

static mr_err add_step(mr_pretok *p, mr_pretok_kind kind, mr_behavior behavior,
                       mr_pretok_step **out)
{
    if (p->n == STEPS_MAX)
        return mr_fail(MR_EUNSUPPORTED, "a pre-tokeniser of more than %d steps", STEPS_MAX);
    MR_TRY(mr_grow((void **)&p->v, &p->cap, p->n + 1, sizeof *p->v));
    *out = &p->v[p->n++];
    memset(*out, 0, sizeof **out);
    (*out)->kind = kind;
    (*out)->behavior = behavior;
    return MR_OK;
}

void mr_pretok_free(mr_pretok *p)
{
    for (size_t i = 0; i < p->n; i++)
        mr_pattern_free(&p->v[i].pattern);
    mr_free(p->v);
    memset(p, 0, sizeof *p);
}

mr_err mr_pretok_regex(mr_pretok *p, const char *what, const char *regex)
{
    mr_pretok_step *s;
    MR_TRY(add_step(p, MR_PRE_SPLIT, MR_ISOLATED, &s));
    return mr_regex_new(&s->pattern.regex, what, regex, strlen(regex));
}

mr_err mr_pretok_bytes(mr_pretok *p)
{
    mr_pretok_step *s;
    return add_step(p, MR_PRE_BYTES, MR_ISOLATED, &s);
}

/* ---- reading ----------------------------------------------------------------------------- */

static mr_err read_behavior(mr_jval v, mr_behavior *out)
{
    static const char *names[] = {"Removed", "Isolated", "MergedWithPrevious", "MergedWithNext",
                                  "Contiguous"};
    mr_jval b = mr_jget(v, "behavior");
    for (int i = 0; i < 5; i++)
        if (mr_jis(b, names[i])) {
            *out = (mr_behavior)i;
            return MR_OK;
        }
    if (!mr_jhas(b))
        return mr_jfail(v, "has no \"behavior\"");
    return mr_jfail(b, "is no known behaviour");
}

static mr_err read_split(mr_pretok *p, mr_jval v)
{
    mr_pretok_step *s;
    MR_TRY(add_step(p, MR_PRE_SPLIT, MR_ISOLATED, &s));
    MR_TRY(read_behavior(v, &s->behavior));
    if (!mr_jhas(mr_jget(v, "invert")))
        return mr_jfail(v, "has no \"invert\"");
    MR_TRY(mr_read_flag(v, "invert", false, &s->invert));
    return mr_read_pattern(v, &s->pattern);
}

static mr_err read_byte_level(mr_pretok *p, mr_jval v)
{
    bool prefix, words;
    mr_pretok_step *s;
    if (!mr_jhas(mr_jget(v, "add_prefix_space")))
        return mr_jfail(v, "has no \"add_prefix_space\"");
    MR_TRY(mr_read_flag(v, "add_prefix_space", true, &prefix));
    MR_TRY(mr_read_flag(v, "use_regex", true, &words));
    if (prefix)
        MR_TRY(add_step(p, MR_PRE_PREFIX, MR_ISOLATED, &s));
    if (words)
        MR_TRY(mr_pretok_regex(p, mr_json_file(v.doc), gpt2_words));
    return mr_pretok_bytes(p);
}

static mr_err read_class(mr_pretok *p, bool (*in_class)(uint32_t), mr_behavior behavior)
{
    mr_pretok_step *s = NULL;
    MR_TRY(add_step(p, MR_PRE_CLASS, behavior, &s));
    s->in_class = in_class;
    return MR_OK;
}

mr_err mr_pretok_punct(mr_pretok *p)
{
    return read_class(p, mr_cp_is_punct, MR_CONTIGUOUS);
}

static mr_err read_digits(mr_pretok *p, mr_jval v)
{
    bool each;
    if (!mr_jhas(mr_jget(v, "individual_digits")))
        return mr_jfail(v, "has no \"individual_digits\"");
    MR_TRY(mr_read_flag(v, "individual_digits", false, &each));
    return read_class(p, mr_cp_is_numeric, each ? MR_ISOLATED : MR_CONTIGUOUS);
}

static mr_err read_punctuation(mr_pretok *p, mr_jval v)
{
    mr_behavior behavior = MR_ISOLATED;
    if (mr_jhas(mr_jget(v, "behavior")))
        MR_TRY(read_behavior(v, &behavior));
    return read_class(p, mr_cp_is_punct, behavior);
}

/* prepend_scheme, or the older add_prefix_space, or both if they agree. */
static mr_err read_prepend(mr_jval v, mr_prepend *out)
{
    static const char *names[] = {"never", "first", "always"};
    mr_jval scheme = mr_jget(v, "prepend_scheme");
    bool add;
    *out = MR_PREPEND_ALWAYS;
    if (mr_jhas(scheme)) {
        int i = 0;
        while (i < 3 && !mr_jis(scheme, names[i]))
            i++;
        if (i == 3)
            return mr_jfail(scheme, "is none of never, first, always");
        *out = (mr_prepend)i;
    }
    MR_TRY(mr_read_flag(v, "add_prefix_space", true, &add));
    if (add)
        return MR_OK;
    if (*out != MR_PREPEND_NEVER && mr_jhas(scheme))
        return mr_jfail(v, "add_prefix_space does not match prepend_scheme");
    *out = MR_PREPEND_NEVER;
    return MR_OK;
}

static mr_err read_metaspace(mr_pretok *p, mr_jval v)
{
    mr_pretok_step *s;
    bool split;
    MR_TRY(add_step(p, MR_PRE_META, MR_ISOLATED, &s));
    MR_TRY(mr_read_char(v, "replacement", &s->pattern.literal, &s->pattern.len));
    MR_TRY(read_prepend(v, &s->prepend));
    MR_TRY(mr_read_flag(v, "split", true, &split));
    if (!split)
        return MR_OK;
    MR_TRY(add_step(p, MR_PRE_SPLIT, MR_MERGED_NEXT, &s));
    return mr_read_char(v, "replacement", &s->pattern.literal, &s->pattern.len);
}

static mr_err read_sequence(mr_pretok *p, mr_jval v)
{
    mr_jval list = mr_jget(v, "pretokenizers");
    if (mr_jtype(list) != MR_JARRAY)
        return mr_jfail(v, "must have a list \"pretokenizers\"");
    for (mr_jval c = mr_jfirst(list); c.doc; c = mr_jnext(c)) {
        if (!mr_jhas(c))
            return mr_jfail(c, "must be an object");
        MR_TRY(mr_pretok_read(p, c));
    }
    return MR_OK;
}

mr_err mr_pretok_read(mr_pretok *p, mr_jval section)
{
    char kind[MR_KIND_MAX];
    mr_pretok_step *s;
    if (!mr_jhas(section))
        return MR_OK;
    MR_TRY(mr_read_kind(section, kind));
    if (strcmp(kind, "Sequence") == 0)
        return read_sequence(p, section);
    if (strcmp(kind, "Split") == 0)
        return read_split(p, section);
    if (strcmp(kind, "ByteLevel") == 0)
        return read_byte_level(p, section);
    if (strcmp(kind, "Digits") == 0)
        return read_digits(p, section);
    if (strcmp(kind, "Punctuation") == 0)
        return read_punctuation(p, section);
    if (strcmp(kind, "Metaspace") == 0)
        return read_metaspace(p, section);
    if (strcmp(kind, "WhitespaceSplit") == 0)
        return read_class(p, mr_cp_is_space, MR_REMOVED);
    if (strcmp(kind, "Whitespace") == 0)
        return add_step(p, MR_PRE_WORDS, MR_REMOVED, &s);
    return mr_read_unknown(section, "pre_tokenizer", kind);
}

/* ---- running ----------------------------------------------------------------------------- */

/* Runs of one character that is in the class, and runs between. */
static mr_err class_runs(bool (*in_class)(uint32_t), const char *s, size_t len, mr_runs *out)
{
    size_t prev = 0;
    out->n = 0;
    for (size_t i = 0; i < len;) {
        uint32_t cp;
        size_t k = (size_t)mr_utf8_decode(s + i, len - i, &cp);
        assert(k > 0);
        if (in_class(cp)) {
            if (prev < i)
                MR_TRY(mr_runs_push(out, prev, i, false));
            MR_TRY(mr_runs_push(out, i, i + k, true));
            prev = i + k;
        }
        i += k;
    }
    return prev < len ? mr_runs_push(out, prev, len, false) : MR_OK;
}

/* 0 white space, 1 \w, 2 neither: maximal runs of 1 and of 2 match. */
static int word_class(uint32_t cp)
{
    return mr_cp_is_space(cp) ? 0 : mr_cp_is_word(cp) ? 1 : 2;
}

static mr_err word_runs(const char *s, size_t len, mr_runs *out)
{
    size_t start = 0;
    int now = -1;
    out->n = 0;
    for (size_t i = 0; i < len;) {
        uint32_t cp;
        size_t k = (size_t)mr_utf8_decode(s + i, len - i, &cp);
        assert(k > 0);
        int c = word_class(cp);
        if (c != now && now >= 0) {
            MR_TRY(mr_runs_push(out, start, i, now == 0));
            start = i;
        }
        now = c;
        i += k;
    }
    return len ? mr_runs_push(out, start, len, now == 0) : MR_OK;
}

/* Joins runs as the behaviour says, in place. */
static void join_runs(mr_runs *r, mr_behavior behavior)
{
    size_t n = 0;
    bool previous = false;
    if (behavior == MR_MERGED_NEXT) {
        n = r->n;
        for (size_t i = r->n; i-- > 0;) {
            mr_run x = r->v[i];
            if (x.match && !previous && n < r->n)
                r->v[n].start = x.start;
            else
                r->v[--n] = x;
            previous = x.match;
        }
        memmove(r->v, r->v + n, (r->n - n) * sizeof *r->v);
        r->n -= n;
        return;
    }
    for (size_t i = 0; i < r->n; i++) {
        mr_run x = r->v[i];
        bool join = behavior == MR_CONTIGUOUS ? x.match == previous : x.match && !previous;
        if (join && n > 0)
            r->v[n - 1].end = x.end;
        else
            r->v[n++] = x;
        previous = x.match;
    }
    r->n = n;
}

static mr_err step_runs(const mr_pretok_step *step, mr_scan *sc, const char *s, size_t len,
                        mr_runs *runs)
{
    if (step->kind == MR_PRE_CLASS)
        MR_TRY(class_runs(step->in_class, s, len, runs));
    else if (step->kind == MR_PRE_WORDS)
        MR_TRY(word_runs(s, len, runs));
    else
        MR_TRY(mr_pattern_runs(&step->pattern, sc, s, len, runs));
    for (size_t i = 0; step->invert && i < runs->n; i++)
        runs->v[i].match = !runs->v[i].match;
    if (step->behavior != MR_REMOVED && step->behavior != MR_ISOLATED)
        join_runs(runs, step->behavior);
    return MR_OK;
}

static mr_err cut(const mr_pretok_step *step, mr_scan *sc, mr_pieces *from, mr_pieces *to)
{
    mr_runs runs = {0};
    mr_err err = MR_OK;
    for (size_t i = 0; err == MR_OK && i < from->n; i++) {
        mr_piece p = from->v[i];
        err = step_runs(step, sc, from->text.data + p.off, p.len, &runs);
        for (size_t j = 0; err == MR_OK && j < runs.n; j++) {
            mr_run r = runs.v[j];
            if (step->behavior == MR_REMOVED && r.match)
                continue;
            err = mr_pieces_push(to, p.off + r.start, r.end - r.start, p.first && r.start == 0);
        }
    }
    mr_runs_free(&runs);
    mr_buf text = to->text;
    to->text = from->text;
    from->text = text;
    return err;
}

static void mark_spaces(const mr_pretok_step *step, const char *s, size_t len, bool first,
                        mr_buf *out)
{
    const mr_pattern *mark = &step->pattern;
    bool has =
        len > 0 && (s[0] == ' ' || (len >= mark->len && memcmp(s, mark->literal, mark->len) == 0));
    if (!has &&
        (step->prepend == MR_PREPEND_ALWAYS || (step->prepend == MR_PREPEND_FIRST && first)))
        mr_buf_add(out, mark->literal, mark->len);
    for (size_t i = 0; i < len; i++) {
        if (s[i] == ' ')
            mr_buf_add(out, mark->literal, mark->len);
        else
            mr_buf_putc(out, s[i]);
    }
}

static mr_err rewrite(const mr_pretok_step *step, const mr_pieces *from, mr_pieces *to)
{
    for (size_t i = 0; i < from->n; i++) {
        mr_piece p = from->v[i];
        const char *s = from->text.data + p.off;
        size_t start = to->text.len;
        if (step->kind == MR_PRE_BYTES) {
            mr_byte_level_encode(s, p.len, &to->text);
        } else if (step->kind == MR_PRE_META) {
            mark_spaces(step, s, p.len, p.first, &to->text);
        } else {
            if (s[0] != ' ')
                mr_buf_putc(&to->text, ' ');
            mr_buf_add(&to->text, s, p.len);
        }
        if (to->text.len > INT32_MAX)
            return mr_fail(MR_ELIMIT, "the text is too long");
        MR_TRY(mr_pieces_push(to, start, to->text.len - start, p.first));
    }
    return mr_buf_check(&to->text);
}

mr_err mr_pretok_run(const mr_pretok *p, mr_scan *sc, mr_pieces *pieces)
{
    mr_pieces other = {0};
    mr_err err = MR_OK;
    size_t limit = GROWTH_MAX * pieces->text.len + GROWTH_BASE;
    for (size_t i = 0; err == MR_OK && i < p->n && pieces->n; i++) {
        const mr_pretok_step *step = &p->v[i];
        mr_pieces_clear(&other);
        if (step->kind == MR_PRE_SPLIT || step->kind == MR_PRE_CLASS || step->kind == MR_PRE_WORDS)
            err = cut(step, sc, pieces, &other);
        else
            err = rewrite(step, pieces, &other);
        mr_pieces swap = *pieces;
        *pieces = other;
        other = swap;
        if (err == MR_OK && pieces->text.len > limit)
            err = mr_fail(MR_ELIMIT, "the pre-tokeniser makes the text too long");
    }
    mr_pieces_free(&other);
    return err;
}
