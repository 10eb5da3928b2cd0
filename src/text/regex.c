/* PCRE2 (8-bit, UTF, UCP, JIT where there is one) behind mr_regex.
 *
 * Limits: PCRE2 counts steps, but anew at every place where a match could start, and not every
 * character that a step passes; so steps alone do not bound the time.  Every pattern is compiled
 * twice.  The fast form (JIT, a small stack, few steps, the fewer the longer the text) answers
 * nearly always.  Where it meets a limit, the slow form does: the interpreter, which may take a
 * million steps plus some per byte (a greedy run that backs off needs one per character) and calls
 * back before every item, where the clock is looked at.  Starts are tried in windows, with a look at
 * the clock between.  Real patterns stay below a hundredth of the time allowed.
 */
#include "text/regex.h"

#include "base/clock.h"
#include "base/mem.h"

#ifdef MR_NO_TEXT

mr_err mr_regex_new(mr_regex **out, const char *what, const char *pattern, size_t len)
{
    (void)out, (void)pattern, (void)len;
    return mr_fail(MR_EUNSUPPORTED, "%s: this build has no PCRE2", what);
}

void mr_regex_free(mr_regex *re)
{
    (void)re;
}

mr_str mr_regex_pattern(const mr_regex *re)
{
    (void)re;
    return (mr_str){"", 0};
}

void mr_scan_free(mr_scan *sc)
{
    (void)sc;
}

mr_err mr_regex_find(const mr_regex *re, mr_scan *sc, const char *s, size_t len, size_t from,
                     size_t *start, size_t *end, bool *found)
{
    (void)re, (void)sc, (void)s, (void)len, (void)from, (void)start, (void)end, (void)found;
    return mr_fail(MR_EUNSUPPORTED, "this build has no PCRE2");
}

#else

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <string.h>

enum { PATTERN_MAX = 1 << 16, HEAP_LIMIT_KIB = 1 << 18 };
enum { STEPS_BASE = 1000000, STEPS_PER_BYTE = 16 }; /* slow */
enum { FAST_WORK = 100000000, FAST_STEPS_MIN = 64, FAST_STEPS_MAX = 20000 };
enum { WINDOW = 16, CALLS_PER_LOOK = 32 };
enum { TIME_BASE_NS = 2000000000, TIME_PER_BYTE_NS = 3000, WINDOW_NS = 10000000 };
enum { TOO_LATE = -1000 }; /* beyond PCRE2's own codes */

struct mr_regex {
    pcre2_code *fast, *slow;
    pcre2_general_context *general;
    char *pattern; /* as given */
    size_t len;
};

static void *take(PCRE2_SIZE bytes, void *account)
{
    (void)account;
    return mr_alloc(MR_MEM_TOKENIZER, bytes);
}

static void give(void *p, void *account)
{
    (void)account;
    mr_free(p);
}

static mr_err compile(pcre2_code **out, pcre2_compile_context *cc, const char *what,
                      const mr_buf *text, uint32_t option)
{
    int code = 0;
    PCRE2_SIZE offset = 0;
    uint32_t options = PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C |
                       PCRE2_USE_OFFSET_LIMIT | option;
    *out = pcre2_compile((PCRE2_SPTR)text->data, text->len, options, &code, &offset, cc);
    if (*out)
        return MR_OK;
    char reason[160];
    pcre2_get_error_message(code, (PCRE2_UCHAR *)reason, sizeof reason);
    if (code == PCRE2_ERROR_HEAP_FAILED)
        return MR_ENOMEM;
    return mr_fail(MR_EFORMAT, "%s: the regular expression is not accepted: %s", what, reason);
}

static mr_err compile_both(mr_regex *re, const char *what, const mr_buf *text)
{
    re->general = pcre2_general_context_create(take, give, NULL);
    if (!re->general)
        return MR_ENOMEM;
    pcre2_compile_context *cc = pcre2_compile_context_create(re->general);
    if (!cc)
        return MR_ENOMEM;
    pcre2_set_newline(cc, PCRE2_NEWLINE_LF);
    pcre2_set_parens_nest_limit(cc, 100);
    mr_err err = compile(&re->fast, cc, what, text, 0);
    if (!err)
        err = compile(&re->slow, cc, what, text, PCRE2_AUTO_CALLOUT);
    pcre2_compile_context_free(cc);
    MR_TRY(err);
    if (pcre2_jit_compile(re->fast, PCRE2_JIT_COMPLETE) == PCRE2_ERROR_NOMEMORY)
        return mr_fail(MR_ENOMEM, "out of memory: %s", what);
    return MR_OK; /* any other refusal of JIT leaves the interpreter */
}

static mr_err keep(mr_regex *re, const char *pattern, size_t len)
{
    re->pattern = mr_alloc(MR_MEM_TOKENIZER, len + 1);
    if (!re->pattern)
        return MR_ENOMEM;
    memcpy(re->pattern, pattern, len);
    re->len = len;
    return MR_OK;
}

mr_err mr_regex_new(mr_regex **out, const char *what, const char *pattern, size_t len)
{
    *out = NULL;
    if (len > PATTERN_MAX)
        return mr_fail(MR_EUNSUPPORTED, "%s: a regular expression of %zu bytes (at most %d)", what,
                       len, PATTERN_MAX);
    mr_buf text = {0};
    mr_regex *re = NULL;
    mr_err err = mr_regex_rewrite(what, pattern, len, &text);
    if (err == MR_OK) {
        re = mr_zalloc(MR_MEM_TOKENIZER, sizeof *re);
        err = re ? keep(re, pattern, len) : MR_ENOMEM;
    }
    if (err == MR_OK)
        err = compile_both(re, what, &text);
    mr_buf_free(&text);
    if (err) {
        mr_regex_free(re);
        return err;
    }
    *out = re;
    return MR_OK;
}

void mr_regex_free(mr_regex *re)
{
    if (!re)
        return;
    pcre2_code_free(re->fast);
    pcre2_code_free(re->slow);
    pcre2_general_context_free(re->general);
    mr_free(re->pattern);
    mr_free(re);
}

mr_str mr_regex_pattern(const mr_regex *re)
{
    return (mr_str){re->pattern, re->len};
}

void mr_scan_free(mr_scan *sc)
{
    pcre2_match_data_free(sc->data);
    pcre2_match_context_free(sc->context);
    memset(sc, 0, sizeof *sc);
}

/* Looks at the clock now and then: 0, or TOO_LATE. */
static int look(pcre2_callout_block *block, void *scan)
{
    (void)block;
    mr_scan *sc = scan;
    if (++sc->calls % CALLS_PER_LOOK)
        return 0;
    return mr_clock_ns() < sc->until ? 0 : TOO_LATE;
}

static mr_err scan_init(const mr_regex *re, mr_scan *sc, size_t len)
{
    if (!sc->data)
        sc->data = pcre2_match_data_create(1, re->general);
    if (!sc->context)
        sc->context = pcre2_match_context_create(re->general);
    if (!sc->data || !sc->context)
        return MR_ENOMEM;
    pcre2_set_heap_limit(sc->context, HEAP_LIMIT_KIB);
    pcre2_set_callout(sc->context, look, sc);
    if (!sc->until)
        sc->until = mr_clock_ns() + TIME_BASE_NS +
                    (uint64_t)TIME_PER_BYTE_NS * (sc->bytes ? sc->bytes : len);
    return MR_OK;
}

static int match(const pcre2_code *code, mr_scan *sc, const char *s, size_t len, size_t from,
                 size_t steps)
{
    pcre2_set_match_limit(sc->context, steps > UINT32_MAX ? UINT32_MAX : (uint32_t)steps);
    return pcre2_match(code, (PCRE2_SPTR)s, len, from, PCRE2_NO_UTF_CHECK, sc->data, sc->context);
}

static bool is_limit(int rc)
{
    return rc == PCRE2_ERROR_MATCHLIMIT || rc == PCRE2_ERROR_DEPTHLIMIT ||
           rc == PCRE2_ERROR_HEAPLIMIT || rc == PCRE2_ERROR_JIT_STACKLIMIT;
}

/* A match that starts in [from, last]. */
static mr_err find_within(const mr_regex *re, mr_scan *sc, const char *s, size_t len, size_t from,
                          size_t last, int *rc)
{
    size_t steps = FAST_WORK / (len + 1);
    steps = steps < FAST_STEPS_MIN   ? FAST_STEPS_MIN
            : steps > FAST_STEPS_MAX ? FAST_STEPS_MAX
                                     : steps;
    pcre2_set_offset_limit(sc->context, last);
    *rc = match(re->fast, sc, s, len, from, steps);
    if (is_limit(*rc))
        *rc = match(re->slow, sc, s, len, from, STEPS_BASE + STEPS_PER_BYTE * len);
    if (*rc >= 0 || *rc == PCRE2_ERROR_NOMATCH)
        return MR_OK;
    if (*rc == PCRE2_ERROR_NOMEMORY)
        return MR_ENOMEM;
    if (*rc == TOO_LATE || is_limit(*rc))
        return mr_fail(MR_ELIMIT, "the tokenizer's regular expression takes too %s on this text",
                       *rc == TOO_LATE ? "long" : "many steps");
    return mr_fail(MR_EFORMAT, "matching a regular expression fails with code %d", *rc);
}

/* As find_within, with no last start. */
static mr_err find_from(const mr_regex *re, mr_scan *sc, const char *s, size_t len, size_t from,
                        int *rc)
{
    uint64_t before = 0;
    for (size_t at = from, window = WINDOW;;) {
        size_t last = len - at > window ? at + window : len;
        MR_TRY(find_within(re, sc, s, len, at, last, rc));
        if ((*rc >= 0 || last == len) && ++sc->calls % CALLS_PER_LOOK)
            return MR_OK;
        uint64_t now = mr_clock_ns();
        if (now >= sc->until)
            return mr_fail(MR_ELIMIT, "the tokenizer's regular expression takes too long on this "
                                      "text");
        if (*rc >= 0 || last == len)
            return MR_OK;
        at = last + 1;
        while (at < len && ((unsigned char)s[at] & 0xC0) == 0x80)
            at++;
        window = now - before < WINDOW_NS ? window * 2 : window / 2;
        before = now;
    }
}

mr_err mr_regex_find(const mr_regex *re, mr_scan *sc, const char *s, size_t len, size_t from,
                     size_t *start, size_t *end, bool *found)
{
    int rc;
    MR_TRY(scan_init(re, sc, len));
    MR_TRY(find_from(re, sc, s, len, from, &rc));
    *found = rc >= 0;
    if (!*found)
        return MR_OK;
    const PCRE2_SIZE *ov = pcre2_get_ovector_pointer(sc->data);
    *start = ov[0];
    *end = ov[1];
    /* \K or a look-behind assertion could place a match before `from` or turn it round */
    if (*start < from || *end < *start)
        return mr_fail(MR_EUNSUPPORTED, "a regular expression that matches backwards");
    return MR_OK;
}

#endif
