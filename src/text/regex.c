/* PCRE2 (8-bit, UTF, UCP, JIT where there is one) behind mr_regex.
 *
 * Limits: a match may take a million steps plus some per byte of text (a greedy run that backs off
 * once needs one step per character), so that a pattern that backtracks without end is an error,
 * not a hang. JIT has its own stack; when its first 32 KiB are not enough a larger one is made, and
 * when that is not enough the interpreter, which uses the heap, gives the same answer.
 */
#include "text/regex.h"

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

enum { PATTERN_MAX = 1 << 16, STEPS_BASE = 1000000, STEPS_PER_BYTE = 16 };
enum { JIT_STACK_START = 1 << 16, JIT_STACK_MAX = 1 << 24, HEAP_LIMIT_KIB = 1 << 18 };

struct mr_regex {
    pcre2_code *code;
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

static mr_err compile(mr_regex *re, const char *what, const mr_buf *text)
{
    re->general = pcre2_general_context_create(take, give, NULL);
    if (!re->general)
        return MR_ENOMEM;
    pcre2_compile_context *cc = pcre2_compile_context_create(re->general);
    if (!cc)
        return MR_ENOMEM;
    pcre2_set_newline(cc, PCRE2_NEWLINE_LF);
    pcre2_set_parens_nest_limit(cc, 100);
    int code = 0;
    PCRE2_SIZE offset = 0;
    uint32_t options = PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C;
    re->code = pcre2_compile((PCRE2_SPTR)text->data, text->len, options, &code, &offset, cc);
    pcre2_compile_context_free(cc);
    if (!re->code) {
        char reason[160];
        pcre2_get_error_message(code, (PCRE2_UCHAR *)reason, sizeof reason);
        if (code == PCRE2_ERROR_HEAP_FAILED)
            return MR_ENOMEM;
        return mr_fail(MR_EFORMAT, "%s: the regular expression is not accepted: %s", what, reason);
    }
    int rc = pcre2_jit_compile(re->code, PCRE2_JIT_COMPLETE);
    if (rc == PCRE2_ERROR_NOMEMORY)
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
        err = compile(re, what, &text);
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
    pcre2_code_free(re->code);
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
    pcre2_jit_stack_free(sc->stack);
    memset(sc, 0, sizeof *sc);
}

static mr_err scan_init(const mr_regex *re, mr_scan *sc)
{
    if (!sc->data)
        sc->data = pcre2_match_data_create(1, re->general);
    if (!sc->context)
        sc->context = pcre2_match_context_create(re->general);
    return sc->data && sc->context ? MR_OK : MR_ENOMEM;
}

static int match(const mr_regex *re, mr_scan *sc, const char *s, size_t len, size_t from,
                 uint32_t options)
{
    return pcre2_match(re->code, (PCRE2_SPTR)s, len, from, options | PCRE2_NO_UTF_CHECK, sc->data,
                       sc->context);
}

mr_err mr_regex_find(const mr_regex *re, mr_scan *sc, const char *s, size_t len, size_t from,
                     size_t *start, size_t *end, bool *found)
{
    MR_TRY(scan_init(re, sc));
    size_t steps = STEPS_BASE + STEPS_PER_BYTE * len;
    pcre2_set_match_limit(sc->context, steps > UINT32_MAX ? UINT32_MAX : (uint32_t)steps);
    pcre2_set_heap_limit(sc->context, HEAP_LIMIT_KIB);
    int rc = match(re, sc, s, len, from, 0);
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT && !sc->stack) {
        sc->stack = pcre2_jit_stack_create(JIT_STACK_START, JIT_STACK_MAX, re->general);
        if (!sc->stack)
            return mr_fail(MR_ENOMEM, "out of memory: stack of a regular expression");
        pcre2_jit_stack_assign(sc->context, NULL, sc->stack);
        rc = match(re, sc, s, len, from, 0);
    }
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT)
        rc = match(re, sc, s, len, from, PCRE2_NO_JIT);
    *found = rc >= 0;
    if (rc == PCRE2_ERROR_NOMATCH)
        return MR_OK;
    if (rc == PCRE2_ERROR_NOMEMORY)
        return MR_ENOMEM;
    if (rc == PCRE2_ERROR_MATCHLIMIT || rc == PCRE2_ERROR_DEPTHLIMIT || rc == PCRE2_ERROR_HEAPLIMIT)
        return mr_fail(MR_ELIMIT, "the pre-tokeniser's regular expression takes too many steps on "
                                  "this text");
    if (rc < 0)
        return mr_fail(MR_EFORMAT, "matching a regular expression fails with code %d", rc);
    const PCRE2_SIZE *ov = pcre2_get_ovector_pointer(sc->data);
    *start = ov[0];
    *end = ov[1];
    /* \K or a look-behind assertion could place a match before `from` or turn it round */
    if (*start < from || *end < *start)
        return mr_fail(MR_EUNSUPPORTED, "a regular expression that matches backwards");
    return MR_OK;
}

#endif
