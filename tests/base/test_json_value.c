/* Values of a JSON document: each accessor on each type, paths, and messages that name file and
 * key, also where the value is absent. */
#include <locale.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/json.h"
#include "base/mem.h"

static const char text[] =
    "{\"n\": null, \"t\": true, \"f\": false, \"i\": 64, \"x\": -1.5e1, \"s\": \"64\","
    " \"a\": [10, [], [20, {\"deep\": [1, 2, 3]}], \"z\"], \"o\": {\"k\": {\"l\": 1}, \"m\": {}},"
    " \"e\\u0073c\\\"\": \"x\\ty\\u00e9\\ud83d\\ude00\\u0000!\", \"last\": 0}";

static mr_json *doc;
static mr_jval root;

static int open_doc(void **state)
{
    (void)state;
    if (mr_json_parse(&doc, "config.json", text, sizeof text - 1) != MR_OK)
        return -1;
    root = mr_json_root(doc);
    return 0;
}

static int close_doc(void **state)
{
    (void)state;
    mr_json_free(doc);
    return 0;
}

/* Runs `call`, which must fail with MR_EFORMAT and the message. */
#define FAILS(call, message)                                                                       \
    do {                                                                                           \
        assert_int_equal((call), MR_EFORMAT);                                                      \
        assert_string_equal(mr_error(), (message));                                                \
    } while (0)

static void test_types(void **state)
{
    (void)state;
    static const struct {
        const char *key;
        mr_jtype_t type;
        int has;
        uint32_t count;
        const char *raw;
    } rows[] = {
        {"n", MR_JNULL, 0, 0, "null"},
        {"t", MR_JTRUE, 1, 0, "true"},
        {"f", MR_JFALSE, 1, 0, "false"},
        {"i", MR_JNUMBER, 1, 0, "64"},
        {"x", MR_JNUMBER, 1, 0, "-1.5e1"},
        {"s", MR_JSTRING, 1, 0, "\"64\""},
        {"a", MR_JARRAY, 1, 4, "[10, [], [20, {\"deep\": [1, 2, 3]}], \"z\"]"},
        {"o", MR_JOBJECT, 1, 2, "{\"k\": {\"l\": 1}, \"m\": {}}"},
        {"last", MR_JNUMBER, 1, 0, "0"},
        {"none", MR_JABSENT, 0, 0, ""},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        mr_jval v = mr_jget(root, rows[i].key);
        assert_int_equal(mr_jtype(v), rows[i].type);
        assert_int_equal(mr_jhas(v), rows[i].has);
        assert_int_equal(mr_jcount(v), rows[i].count);
        assert_true(mr_str_is(mr_jraw(v), rows[i].raw));
    }
    assert_int_equal(mr_jtype(root), MR_JOBJECT);
    assert_int_equal(mr_jcount(root), 10);
    assert_true(mr_str_is(mr_jraw(root), text));
    assert_int_equal(mr_jtype((mr_jval){0}), MR_JABSENT);
}

static void test_get(void **state)
{
    (void)state;
    assert_true(mr_jis(mr_jget(root, "s"), "64"));
    assert_true(mr_jhas(mr_jget(root, "esc\""))); /* its key is written with escapes */
    assert_false(mr_jhas(mr_jget(root, "esc")));
    assert_false(mr_jhas(mr_jget(root, "esc\"x")));
    assert_false(mr_jhas(mr_jget(root, "e\\u0073c\\\""))); /* nor is the raw text the key */
    assert_false(mr_jhas(mr_jget(root, "")));
    assert_false(mr_jhas(mr_jget(root, "las")));
    assert_false(mr_jhas(mr_jget(root, "last\": 0")));
    assert_false(mr_jhas(mr_jget(root, "deep"))); /* only direct members */
    assert_false(mr_jhas(mr_jget(mr_jget(root, "a"), "deep")));
    assert_false(mr_jhas(mr_jget(mr_jget(root, "s"), "64")));
    assert_false(mr_jhas(mr_jget((mr_jval){0}, "x")));
    assert_int_equal(mr_jcount(mr_jget(mr_jget(root, "o"), "k")), 1);
}

static void test_children(void **state)
{
    (void)state;
    static const char *const keys[] = {"n", "t", "f", "i", "x", "s", "a", "o", "esc\"", "last"};
    mr_buf scratch = {0};
    size_t i = 0;
    for (mr_jval c = mr_jfirst(root); c.doc; c = mr_jnext(c), i++) {
        mr_str key;
        assert_int_equal(mr_jkey(c, &scratch, &key), MR_OK);
        assert_true(mr_str_is(key, keys[i]));
    }
    assert_int_equal(i, 10);
    static const char *const raws[] = {"10", "[]", "[20, {\"deep\": [1, 2, 3]}]", "\"z\""};
    i = 0;
    for (mr_jval c = mr_jfirst(mr_jget(root, "a")); c.doc; c = mr_jnext(c), i++)
        assert_true(mr_str_is(mr_jraw(c), raws[i]));
    assert_int_equal(i, 4);
    assert_null(mr_jfirst(mr_jget(root, "i")).doc);
    assert_null(mr_jfirst(mr_jget(mr_jget(root, "o"), "m")).doc);
    assert_null(mr_jfirst((mr_jval){0}).doc);
    assert_null(mr_jnext((mr_jval){0}).doc);
    assert_null(mr_jnext(root).doc);
    mr_str key;
    FAILS(mr_jkey(root, &scratch, &key), "config.json: is not a member of an object");
    FAILS(mr_jkey(mr_jfirst(mr_jget(root, "a")), &scratch, &key),
          "config.json: \"a[0]\" is not a member of an object");
    FAILS(mr_jkey((mr_jval){0}, &scratch, &key), "a JSON value is not a member of an object");
    mr_buf_free(&scratch);
}

static void test_str(void **state)
{
    (void)state;
    mr_buf scratch = {0};
    mr_str s;
    assert_int_equal(mr_jstr(mr_jget(root, "s"), &scratch, &s), MR_OK);
    assert_true(mr_str_is(s, "64"));
    assert_ptr_equal(s.data, strstr(text, "\"64\"") + 1); /* borrowed */
    assert_int_equal(mr_jstr(mr_jget(root, "esc\""), &scratch, &s), MR_OK);
    static const char decoded[] = "x\ty\xc3\xa9\xf0\x9f\x98\x80\0!";
    assert_int_equal(s.len, sizeof decoded - 1);
    assert_memory_equal(s.data, decoded, s.len);
    assert_false(mr_jis(mr_jget(root, "esc\""), "x\ty\xc3\xa9\xf0\x9f\x98\x80"));
    assert_false(mr_jis(mr_jget(root, "i"), "64"));
    assert_false(mr_jis((mr_jval){0}, ""));
    mr_buf_free(&scratch);
    mr_mem_fail_after(1);
    assert_int_equal(mr_jstr(mr_jget(root, "esc\""), &scratch, &s), MR_ENOMEM);
    mr_mem_fail_after(0);
    mr_buf_free(&scratch);
    FAILS(mr_jstr(mr_jget(root, "i"), &scratch, &s),
          "config.json: \"i\": a string is needed, not a number (64)");
    FAILS(mr_jstr(mr_jget(root, "n"), &scratch, &s),
          "config.json: \"n\": a string is needed, not null");
    assert_null(s.data);
}

static mr_err parse_one(const char *json, mr_json **one)
{
    return mr_json_parse(one, "f", json, strlen(json));
}

static void test_escapes(void **state)
{
    (void)state;
    static const struct {
        const char *json, *decoded;
    } rows[] = {
        {"\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"", "\"\\/\b\f\n\r\t"},
        {"\"\\u0041\\u00E9\\u20ac\\uFFFF\\ud800\\udc00\\uDBFF\\uDFFF\"",
         "A\xc3\xa9\xe2\x82\xac\xef\xbf\xbf\xf0\x90\x80\x80\xf4\x8f\xbf\xbf"},
        {"\"a\\u004Ab\"", "aJb"},
        {"\"\\ufeff\"", "\xef\xbb\xbf"},
        {"\"\"", ""},
    };
    mr_buf scratch = {0};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        mr_json *one;
        mr_str s;
        assert_int_equal(parse_one(rows[i].json, &one), MR_OK);
        assert_int_equal(mr_jstr(mr_json_root(one), &scratch, &s), MR_OK);
        assert_true(mr_str_is(s, rows[i].decoded));
        assert_true(mr_jis(mr_json_root(one), rows[i].decoded));
        assert_false(mr_jis(mr_json_root(one), "A"));
        mr_json_free(one);
    }
    mr_buf_free(&scratch);
}

static void test_int(void **state)
{
    (void)state;
    int64_t n;
    assert_int_equal(mr_jint(mr_jget(root, "i"), 1, 64, &n), MR_OK);
    assert_int_equal(n, 64);
    FAILS(mr_jint(mr_jget(root, "i"), 1, 63, &n), "config.json: \"i\": 64 is not in 1..63");
    FAILS(mr_jint(mr_jget(root, "i"), 65, 99, &n), "config.json: \"i\": 64 is not in 65..99");
    assert_int_equal(n, 0);
    FAILS(mr_jint(mr_jget(root, "x"), 1, 63, &n),
          "config.json: \"x\": an integer is needed, not -1.5e1");
    FAILS(mr_jint(mr_jget(root, "s"), 1, 63, &n),
          "config.json: \"s\": a number is needed, not a string (\"64\")");
    FAILS(mr_jint(mr_jget(root, "n"), 1, 63, &n),
          "config.json: \"n\": a number is needed, not null");
    FAILS(mr_jint(mr_jget(root, "t"), 1, 63, &n),
          "config.json: \"t\": a number is needed, not true");
    FAILS(mr_jint(mr_jget(root, "a"), 1, 63, &n),
          "config.json: \"a\": a number is needed, not an array");
    FAILS(mr_jint(mr_jget(root, "o"), 1, 63, &n),
          "config.json: \"o\": a number is needed, not an object");
    FAILS(mr_jint(root, 1, 63, &n), "config.json: a number is needed, not an object");
}

static void test_int_edges(void **state)
{
    (void)state;
    static const struct {
        const char *json, *message; /* NULL: fits */
        int64_t value;
    } rows[] = {
        {"9223372036854775807", NULL, INT64_MAX},
        {"-9223372036854775808", NULL, INT64_MIN},
        {"-0", NULL, 0},
        {"9223372036854775808",
         "f: 9223372036854775808 is not in "
         "-9223372036854775808..9223372036854775807",
         0},
        {"-9223372036854775809",
         "f: -9223372036854775809 is not in "
         "-9223372036854775808..9223372036854775807",
         0},
        {"1e3", "f: an integer is needed, not 1e3", 0},
        {"1.0", "f: an integer is needed, not 1.0", 0},
        {"99999999999999999999999999999999999999999999999999e1",
         "f: an integer is needed, not 99999999999999999999999999999999999999999999...", 0},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        mr_json *one;
        int64_t n;
        assert_int_equal(parse_one(rows[i].json, &one), MR_OK);
        if (rows[i].message)
            FAILS(mr_jint(mr_json_root(one), INT64_MIN, INT64_MAX, &n), rows[i].message);
        else
            assert_int_equal(mr_jint(mr_json_root(one), INT64_MIN, INT64_MAX, &n), MR_OK);
        assert_int_equal(n, rows[i].value);
        mr_json_free(one);
    }
}

static void test_num(void **state)
{
    (void)state;
    static const struct {
        const char *json;
        double value;
    } rows[] = {
        {"0", 0},
        {"-0.0", -0.0},
        {"1e-05", 1e-05},
        {"1E22", 1e22},
        {"10000.0", 1e4},
        {"1.7976931348623157e308", 0x1.fffffffffffffp1023},
        {"4.9e-324", 0x1p-1074},
        {"1e-400", 0},
        {"2.2250738585072011e-308", 0x0.fffffffffffffp-1022},
        {"9007199254740993", 0x1p53},
        {"0.1", 0x1.999999999999ap-4},
        /* halfway but for a digit far behind: must round up */
        {"1.00000000000000011102230246251565404236316680908203125000000000000000000000000000001",
         0x1.0000000000001p0},
    };
    /* A locale with a decimal comma, where there is one, must make no difference. */
    setlocale(LC_ALL, "de_DE.UTF-8");
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        mr_json *one;
        double x;
        assert_int_equal(parse_one(rows[i].json, &one), MR_OK);
        assert_int_equal(mr_jnum(mr_json_root(one), &x), MR_OK);
        assert_memory_equal(&x, &rows[i].value, sizeof x);
        mr_json_free(one);
    }
    setlocale(LC_ALL, "C");
    double x;
    assert_int_equal(mr_jnum(mr_jget(root, "x"), &x), MR_OK);
    assert_true(x == -15.0);
    mr_json *one;
    assert_int_equal(parse_one("{\"big\":-1e309}", &one), MR_OK);
    FAILS(mr_jnum(mr_jget(mr_json_root(one), "big"), &x), "f: \"big\": -1e309 is too large");
    mr_json_free(one);
    FAILS(mr_jnum(mr_jget(root, "s"), &x),
          "config.json: \"s\": a number is needed, not a string (\"64\")");
    assert_true(x == 0);
}

static void test_num_of_many_digits(void **state)
{
    (void)state;
    mr_buf b = {0};
    mr_buf_puts(&b, "0.");
    for (int i = 0; i < 100000; i++)
        mr_buf_putc(&b, '3');
    mr_json *one;
    double x;
    assert_int_equal(mr_json_parse(&one, "f", b.data, b.len), MR_OK);
    assert_int_equal(mr_jnum(mr_json_root(one), &x), MR_OK);
    assert_true(x == 1.0 / 3.0);
    mr_mem_fail_after(1);
    assert_int_equal(mr_jnum(mr_json_root(one), &x), MR_ENOMEM);
    mr_mem_fail_after(0);
    mr_json_free(one);
    mr_buf_free(&b);
}

static void test_bool(void **state)
{
    (void)state;
    bool b = false;
    assert_int_equal(mr_jbool(mr_jget(root, "t"), &b), MR_OK);
    assert_true(b);
    assert_int_equal(mr_jbool(mr_jget(root, "f"), &b), MR_OK);
    assert_false(b);
    FAILS(mr_jbool(mr_jget(root, "i"), &b),
          "config.json: \"i\": true or false is needed, not a number (64)");
    FAILS(mr_jbool(mr_jget(root, "no"), &b), "config.json: \"no\" is missing");
}

/* ---- absent values, paths, messages ---------------------------------------------------------- */

static void test_absent_values_name_their_key(void **state)
{
    (void)state;
    int64_t n;
    double x;
    mr_str s;
    mr_buf scratch = {0};
    mr_jval a = mr_jget(root, "hidden_size"), b = mr_jget(mr_jget(root, "o"), "k2");
    FAILS(mr_jint(a, 1, 2, &n), "config.json: \"hidden_size\" is missing");
    FAILS(mr_jnum(b, &x), "config.json: \"o.k2\" is missing");
    FAILS(mr_jstr(mr_jget(a, "factor"), &scratch, &s), "config.json: \"hidden_size\" is missing");
    FAILS(mr_jint(mr_jget(mr_jget(root, "i"), "sub"), 1, 2, &n),
          "config.json: \"i.sub\" is missing");
    FAILS(mr_jint((mr_jval){0}, 1, 2, &n), "a JSON value is missing");
    FAILS(mr_jfail(a, "must be %d", 3), "config.json: \"hidden_size\": must be 3");
    FAILS(mr_jfail((mr_jval){0}, "must be %d", 3), "a JSON value: must be 3");
    assert_string_equal(mr_jpath(b), "o.k2");
    assert_string_equal(mr_jpath((mr_jval){0}), "");
    for (int i = 0; i < 16; i++)
        mr_jget(root, "others"); /* only the last few are remembered */
    FAILS(mr_jint(a, 1, 2, &n), "a JSON value is missing");
    mr_json *one;
    assert_int_equal(parse_one("{}", &one), MR_OK);
    a = mr_jget(mr_json_root(one), "gone");
    FAILS(mr_jint(a, 1, 2, &n), "f: \"gone\" is missing");
    mr_json_free(one);
    FAILS(mr_jint(a, 1, 2, &n), "a JSON value is missing");
}

static void test_paths(void **state)
{
    (void)state;
    mr_jval a = mr_jget(root, "a");
    mr_jval third = mr_jnext(mr_jnext(mr_jfirst(a)));
    mr_jval deep = mr_jget(mr_jnext(mr_jfirst(third)), "deep");
    assert_string_equal(mr_jpath(root), "");
    assert_string_equal(mr_jpath(a), "a");
    assert_string_equal(mr_jpath(third), "a[2]");
    assert_string_equal(mr_jpath(mr_jnext(third)), "a[3]");
    assert_string_equal(mr_jpath(mr_jnext(mr_jnext(mr_jfirst(deep)))), "a[2][1].deep[2]");
    assert_string_equal(mr_jpath(mr_jget(root, "esc\"")), "e\\u0073c\\\"");
    assert_string_equal(mr_jpath(mr_jget(mr_jget(mr_jget(root, "o"), "k"), "l")), "o.k.l");
    FAILS(mr_jfail(deep, "needs %s", "4 numbers"),
          "config.json: \"a[2][1].deep\": needs 4 numbers");
    FAILS(mr_jfail(root, "has no layers"), "config.json: has no layers");
}

static void test_long_paths_and_values_are_cut(void **state)
{
    (void)state;
    mr_buf b = {0};
    for (int i = 0; i < 60; i++)
        mr_buf_printf(&b, "{\"key%02d\":", i);
    mr_buf_puts(&b, "\"");
    for (int i = 0; i < 30; i++)
        mr_buf_puts(&b, "\xe2\x82\xac");
    mr_buf_puts(&b, "\"");
    for (int i = 0; i < 60; i++)
        mr_buf_putc(&b, '}');
    mr_json *one;
    assert_int_equal(mr_json_parse(&one, "f", b.data, b.len), MR_OK);
    mr_jval v = mr_json_root(one);
    while (mr_jtype(v) == MR_JOBJECT)
        v = mr_jfirst(v);
    const char *path = mr_jpath(v);
    assert_int_equal(strncmp(path, "key00.key01.", 12), 0);
    assert_string_equal(path + strlen(path) - 8, "key41...");
    int64_t n;
    assert_int_equal(mr_jint(v, 0, 1, &n), MR_EFORMAT);
    assert_non_null(strstr(mr_error(), "\xe2\x82\xac...)"));
    assert_int_equal(mr_utf8_check(mr_error(), strlen(mr_error())), strlen(mr_error()));
    mr_json_free(one);
    mr_buf_clear(&b);
    mr_buf_puts(&b, "{\"");
    for (int i = 0; i < 400; i++)
        mr_buf_putc(&b, 'k');
    mr_buf_puts(&b, "\":[null]}");
    assert_int_equal(mr_json_parse(&one, "f", b.data, b.len), MR_OK);
    v = mr_jfirst(mr_jfirst(mr_json_root(one)));
    FAILS(mr_jint(v, 0, 1, &n), "f: \"...\": a number is needed, not null");
    mr_json_free(one);
    mr_buf_free(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_types),
        cmocka_unit_test(test_get),
        cmocka_unit_test(test_children),
        cmocka_unit_test(test_str),
        cmocka_unit_test(test_escapes),
        cmocka_unit_test(test_int),
        cmocka_unit_test(test_int_edges),
        cmocka_unit_test(test_num),
        cmocka_unit_test(test_num_of_many_digits),
        cmocka_unit_test(test_bool),
        cmocka_unit_test(test_absent_values_name_their_key),
        cmocka_unit_test(test_paths),
        cmocka_unit_test(test_long_paths_and_values_are_cut),
    };
    return cmocka_run_group_tests_name("base/json: values", tests, open_doc, close_doc);
}
