/* Chat templates: snippets give what jinja2 gave (data/templates.json, tools/chat_templates.py);
 * what it refuses is refused; hostile ones end in time. */
#include <time.h>

#include "text/template.h"
#include "text_help.h"

static mr_err render(mr_jval variables, const char *source, size_t len, mr_buf *out)
{
    mr_tpl *e;
    mr_buf scratch = {0};
    assert_int_equal(mr_tpl_new(&e), MR_OK);
    for (mr_jval c = mr_jfirst(variables); c.doc; c = mr_jnext(c)) {
        mr_tval v;
        mr_str key;
        assert_int_equal(mr_tpl_from_json(e, c, &v), MR_OK);
        assert_int_equal(mr_jkey(c, &scratch, &key), MR_OK);
        assert_int_equal(mr_tpl_set(e, key.data, key.len, v), MR_OK);
    }
    mr_err err = mr_tpl_render(e, source, len, out);
    mr_tpl_free(e);
    mr_buf_free(&scratch);
    return err;
}

static void pairs(void **state)
{
    (void)state;
    stored s = load(DATA "templates.json");
    mr_jval variables = mr_jget(s.root, "variables"), all = mr_jget(s.root, "pairs");
    uint32_t n = 0;
    for (mr_jval c = mr_jfirst(all); c.doc; c = mr_jnext(c), n++) {
        mr_buf a = {0}, b = {0}, out = {0};
        mr_str source, want;
        assert_int_equal(mr_jstr(mr_jget(c, "template"), &a, &source), MR_OK);
        mr_err err = render(variables, source.data, source.len, &out);
        if (mr_jhas(mr_jget(c, "text"))) {
            assert_int_equal(mr_jstr(mr_jget(c, "text"), &b, &want), MR_OK);
            if (err)
                fail_msg("%.*s: %s", (int)source.len, source.data, mr_error());
            if (out.len != want.len || (out.len && memcmp(out.data, want.data, out.len)))
                fail_msg("%.*s\ngives %.*s\nnot   %.*s", (int)source.len, source.data, (int)out.len,
                         out.data, (int)want.len, want.data);
        } else if (!err || strncmp(mr_error(), "chat template, line ", 20) != 0) {
            fail_msg("%.*s: is not refused", (int)source.len, source.data);
        }
        mr_buf_free(&a);
        mr_buf_free(&b);
        mr_buf_free(&out);
    }
    assert_true(n >= 40);
    unload(&s);
}

static void messages(void **state)
{
    (void)state;
    static const struct {
        const char *source;
        mr_err code;
        const char *message;
    } cases[] = {
        {"a\nb {{ raise_exception('no\nroles') }}", MR_EFORMAT, "chat template, line 2: no roles"},
        {"\n\n{{ x|nofilter }}", MR_EUNSUPPORTED, "line 3: the filter \"nofilter\""},
        {"{% include 'x' %}", MR_EUNSUPPORTED, "the tag \"include\""},
        {"{{ x.y }}", MR_EFORMAT, "'x' is undefined"},
        {"{{ x is odder }}", MR_EUNSUPPORTED, "the test \"odder\""},
        {"{% if x %}\n{{ f( }}", MR_EFORMAT, "line 2: expected"},
        {"{% if x %}\n", MR_EFORMAT, "ends before endif"},
        {"{{ f(*x) }}", MR_EUNSUPPORTED, "* or **"},
        {"{% macro f() %}{{ varargs }}{% endmacro %}", MR_EUNSUPPORTED, "varargs"},
        {"{{ 'é'.isalpha() }}", MR_EUNSUPPORTED, "beyond ASCII"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        mr_buf out = {0};
        mr_err err = render((mr_jval){0}, cases[i].source, strlen(cases[i].source), &out);
        if (err != cases[i].code || !strstr(mr_error(), cases[i].message) ||
            strchr(mr_error(), '\n'))
            fail_msg("%s: %d %s", cases[i].source, (int)err, mr_error());
        mr_buf_free(&out);
    }
}

static void refuse_in_time(const char *source, size_t len)
{
    mr_buf out = {0};
    struct timespec from, to;
    clock_gettime(CLOCK_MONOTONIC, &from);
    mr_err err = render((mr_jval){0}, source, len, &out);
    clock_gettime(CLOCK_MONOTONIC, &to);
    bool limit = err == MR_ELIMIT || err == MR_ENOMEM; /* whichever is met first */
    if (!limit || to.tv_sec - from.tv_sec >= LONGEST)
        fail_msg("%.80s: %d in %ld s: %s", source, (int)err, (long)(to.tv_sec - from.tv_sec),
                 err ? mr_error() : "");
    mr_buf_free(&out);
}

static void hostile(void **state)
{
    (void)state;
    static const char *const cases[] = {
        "{% for i in range(99999) %}{% for k in range(99999) %}{% endfor %}{% endfor %}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% set n = namespace(s='xxxxxxxxxxxxxxxx') %}{% for i in range(99) %}"
        "{% set n.s = n.s + n.s %}{% endfor %}",
        "{% for i in range(99999) %}{{ 'x' * 9999 }}{% endfor %}",
        "{{ 'x' * 999999999999 }}",
        "{% set n = namespace(a=[1]) %}{% for i in range(99) %}{% set n.a = [n.a, n.a] %}"
        "{% endfor %}{{ n.a }}",
        "{% set n = namespace(a=[1]) %}{% for i in range(9999) %}{% set n.a = [n.a] %}"
        "{% endfor %}{{ n.a == [n.a] }}",
        "{{ range(10 ** 9) }}",
        "{{ ('a' * 4000000).rfind('a' * 2000000 + 'b') }}",
        "{% set s = 'ab' * 9999999 %}{% for i in range(9999) %}{{ s[i] ~ s.find('c') }}"
        "{% endfor %}",
        "{% set s = range(99999) | list %}{% for i in range(99999) %}{% set x = s | sum %}{% "
        "endfor %}",
        "{% set s = range(1, 99999) | list %}{% for i in range(99999) %}"
        "{% set x = s | reject | list %}{% endfor %}",
        "{% set s = 'a' * 999999 %}{% for i in range(99999) %}{% set x = {}[s] %}{% endfor %}",
        "{% set b = 'x' * 60000000 %}{{ b ~ (b ~ (b ~ (b ~ (b ~ (b ~ (b ~ (b ~ b))))))) }}",
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        refuse_in_time(cases[i], strlen(cases[i]));
    mr_buf raw = {0};
    mr_buf_puts(&raw, "{% raw %}");
    for (int k = 0; k < 1000000; k++)
        mr_buf_puts(&raw, "{%");
    mr_buf out = {0};
    assert_int_equal(render((mr_jval){0}, raw.data, raw.len, &out), MR_EFORMAT);
    mr_buf_free(&out);
    mr_buf_free(&raw);
    static const char *const deep[] = {"(", "[", "-", "not ", "{{", "{% if 1 %}", "1 if 1 else "};
    for (size_t i = 0; i < sizeof deep / sizeof *deep; i++) {
        mr_buf b = {0};
        mr_buf_puts(&b, "{{ ");
        for (int k = 0; k < 100000; k++)
            mr_buf_puts(&b, deep[i]);
        refuse_in_time(i == 5 ? b.data + 3 : b.data, i == 5 ? b.len - 3 : b.len);
        mr_buf_free(&b);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pairs),
        cmocka_unit_test(messages),
        cmocka_unit_test(hostile),
    };
    return RUN_TESTS(tests);
}
