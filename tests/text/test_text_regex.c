/* Patterns written for Oniguruma match what Oniguruma matches (data/regex.json holds its
 * non-empty matches); what cannot be carried over is refused by name. */
#include "text_help.h"
#include "text/pieces.h"

static void check_text(const char *name, const mr_pattern *p, mr_jval text, mr_jval want)
{
    mr_buf s = {0}, w = {0};
    mr_scan scan = {0};
    mr_runs runs = {0};
    copy_string(text, &s);
    mr_jval next = mr_jfirst(want);
    if (s.len && mr_pattern_runs(p, &scan, s.data, s.len, &runs))
        fail_msg("%s: %s", name, mr_error());
    for (size_t i = 0; i < runs.n; i++) {
        mr_run r = runs.v[i];
        if (!r.match || r.start == r.end)
            continue;
        if (!next.doc)
            fail_msg("%s: one match too many: \"%.*s\"", name, (int)(r.end - r.start),
                     s.data + r.start);
        copy_string(next, &w);
        if (w.len != r.end - r.start || memcmp(w.data, s.data + r.start, w.len) != 0)
            fail_msg("%s: matches \"%.*s\", not \"%s\"", name, (int)(r.end - r.start),
                     s.data + r.start, w.data);
        next = mr_jnext(next);
    }
    if (next.doc)
        fail_msg("%s: a match is missing in \"%s\"", name, s.data);
    mr_buf_free(&s);
    mr_buf_free(&w);
    mr_scan_free(&scan);
    mr_runs_free(&runs);
}

static void matches(void **state)
{
    (void)state;
    stored data = load(DATA "regex.json");
    mr_jval texts = mr_jget(data.root, "texts");
    int n = 0;
    for (mr_jval c = mr_jfirst(mr_jget(data.root, "patterns")); c.doc; c = mr_jnext(c), n++) {
        mr_pattern p = {0};
        mr_buf text = {0};
        copy_string(mr_jfirst(c), &text);
        if (mr_regex_new(&p.regex, "t", text.data ? text.data : "", text.len))
            fail_msg("%s", mr_error());
        mr_jval want = mr_jfirst(mr_jnext(mr_jfirst(c)));
        for (mr_jval t = mr_jfirst(texts); t.doc; t = mr_jnext(t)) {
            check_text(text.data ? text.data : "(empty)", &p, t, want);
            want = mr_jnext(want);
        }
        mr_pattern_free(&p);
        mr_buf_free(&text);
    }
    assert_true(n >= 60);
    unload(&data);
}

static void refused(void **state)
{
    (void)state;
    static const struct {
        const char *pattern;
        mr_err code;
        const char *message;
    } bad[] = {
        {"a{1,2}+", MR_EUNSUPPORTED, "{n,m}+ at byte 1"},
        {"a{2}?", MR_EUNSUPPORTED, "{n}? at byte 1"},
        {"a(?i)b", MR_EUNSUPPORTED, "an option inside the pattern"},
        {"(?x: a )", MR_EUNSUPPORTED, "this form of (?"},
        {"(*FAIL)", MR_EUNSUPPORTED, "(*"},
        {"\\y", MR_EUNSUPPORTED, "\\y at byte 0"},
        {"\\K", MR_EUNSUPPORTED, "\\K"},
        {"[\\y]", MR_EUNSUPPORTED, "\\y at byte 1"},
        {"\\xff", MR_EUNSUPPORTED, "a raw byte"},
        {"\\pL", MR_EUNSUPPORTED, "\\p without {name}"},
        {"\\p{", MR_EFORMAT, "\\p{ without }"},
        {"\\p{NoSuchScript}", MR_EFORMAT, "not accepted"},
        {"[[:odd:]]", MR_EUNSUPPORTED, "POSIX"},
        {"[a", MR_EFORMAT, "[ without ]"},
        {"[a&&]", MR_EFORMAT, "an empty set"},
        {"a\\", MR_EFORMAT, "backslash"},
        {"(a", MR_EFORMAT, "not accepted"},
        {"*", MR_EFORMAT, "not accepted"},
        {"\xff", MR_EFORMAT, "not UTF-8"},
        {"[[[[[[[[[[[[[[[[[[[[a]]]]]]]]]]]]]]]]]]]]", MR_EUNSUPPORTED, "nesting"},
        {"((((((a{999}){999}){999}){999}){999}){999})", MR_EFORMAT, "not accepted"},
    };
    size_t before = memory_held();
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        mr_regex *re;
        mr_err err = mr_regex_new(&re, "t.json", bad[i].pattern, strlen(bad[i].pattern));
        if (err != bad[i].code || re || !strstr(mr_error(), bad[i].message) ||
            strncmp(mr_error(), "t.json: ", 8) != 0)
            fail_msg("%s: error %d \"%s\"", bad[i].pattern, (int)err, err ? mr_error() : "");
    }
    char *large = calloc(1, 70000);
    mr_regex *re;
    memset(large, 'a', 69999);
    assert_int_equal(mr_regex_new(&re, "t", large, 69999), MR_EUNSUPPORTED);
    free(large);
    assert_int_equal(memory_held(), before);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(matches),
        cmocka_unit_test(refused),
    };
    return RUN_TESTS(tests);
}
