/* The JSON parser: what it accepts, every reason to refuse with its line, failed allocations, and
 * time and memory on large and hostile texts. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <cmocka.h>

#include "base/json.h"
#include "base/mem.h"

/* In a block of exactly its size, so that the address sanitizer sees a read past the end. */
static mr_err parse(mr_json **doc, const char *text, size_t len, char **copy)
{
    *copy = mr_alloc(MR_MEM_OTHER, len);
    memcpy(*copy, text, len);
    return mr_json_parse(doc, "t.json", *copy, len);
}

static void accepts(const char *text, size_t len)
{
    mr_json *doc;
    char *copy;
    if (parse(&doc, text, len, &copy) != MR_OK)
        fail_msg("%.*s: %s", (int)len, text, mr_error());
    assert_string_equal(mr_json_file(doc), "t.json");
    mr_json_free(doc);
    mr_free(copy);
}

static void refuses(const char *text, size_t len, const char *message)
{
    mr_json *doc;
    char *copy;
    size_t held = mr_mem_held(MR_MEM_COUNT);
    mr_err err = parse(&doc, text, len, &copy);
    if (err != MR_EFORMAT || doc)
        fail_msg("%.*s: gave %d, not MR_EFORMAT", (int)len, text, (int)err);
    assert_string_equal(mr_error(), message);
    mr_free(copy);
    assert_int_equal(mr_mem_held(MR_MEM_COUNT), held);
}

static void test_accepts(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "0",
        "-0",
        "7",
        "-12",
        "1.5",
        "1e5",
        "1E+05",
        "1e-5",
        "-0.0e0",
        "123456789012345678901234",
        "1e999",
        "null",
        "true",
        "false",
        "\"\"",
        "\"abcdefghijklmnop\"",
        "[]",
        "{}",
        "[[]]",
        "[{}]",
        "{\"\":{}}",
        " \t\r\n[ 1 , 2 ]\n",
        "{ \"a\" : 1 , \"b\" : [ ] }",
        "[1,[2,[3,{\"a\":[4]}],5],6]",
        "\"\\\"\\\\\\/\\b\\f\\n\\r\\t\\u00e9\\uD83D\\uDe00\"",
        "\"\\u0000\"",
        "\"\x7f\xc2\x80\xdf\xbf\xe0\xa0\x80\xef\xbf\xbf\xf0\x90\x80\x80\xf4\x8f\xbf\xbf\"",
        "\"\xef\xbb\xbf\"",
        "{\"a\":1,\"A\":2,\"\":3,\" \":4}",
        "                                                1                       ",
        "{\"a\":{\"a\":{\"a\":1}},\"b\":[{\"a\":1},{\"a\":2}]}",
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        accepts(texts[i], strlen(texts[i]));
}

#define END "is needed, but the text ends"

static void test_refuses(void **state)
{
    (void)state;
    static const struct {
        const char *text, *message;
    } rows[] = {
        /* values */
        {"", "t.json:1: a value " END},
        {" \n\n ", "t.json:3: a value " END},
        {"\n#", "t.json:2: a value is needed, not '#'"},
        {"\x01", "t.json:1: a value is needed, not byte 0x01"},
        {"\xc3\xa9", "t.json:1: a value is needed, not byte 0xc3"},
        {"\xef\xbb\xbf{}", "t.json:1: the text begins with a byte order mark"},
        {"nul", "t.json:1: a value is needed, not 'n'"},
        {"tru", "t.json:1: a value is needed, not 't'"},
        {"True", "t.json:1: a value is needed, not 'T'"},
        {"nullx", "t.json:1: the end of the text is needed, not 'x'"},
        {"NaN", "t.json:1: NaN is not JSON"},
        {"[Infinity]", "t.json:1: Infinity is not JSON"},
        {"[1,\n-Infinity]", "t.json:2: -Infinity is not JSON"},
        {"'a'", "t.json:1: a value is needed, not '''"},
        /* numbers */
        {"-", "t.json:1: a digit " END},
        {"-a", "t.json:1: a digit is needed, not 'a'"},
        {"+1", "t.json:1: a value is needed, not '+'"},
        {".5", "t.json:1: a value is needed, not '.'"},
        {"01", "t.json:1: a number begins with a superfluous zero"},
        {"-00", "t.json:1: a number begins with a superfluous zero"},
        {"1.", "t.json:1: a digit after the decimal point " END},
        {"[1.]", "t.json:1: a digit after the decimal point is needed, not ']'"},
        {"1e", "t.json:1: a digit of the exponent " END},
        {"1E+", "t.json:1: a digit of the exponent " END},
        {"1e-x", "t.json:1: a digit of the exponent is needed, not 'x'"},
        {"0x10", "t.json:1: the end of the text is needed, not 'x'"},
        {"1_000", "t.json:1: the end of the text is needed, not '_'"},
        /* strings */
        {"\"abc", "t.json:1: a string does not end"},
        {"\"abcdefghijklmnopqrstuvw", "t.json:1: a string does not end"},
        {"\"abc\\", "t.json:1: a string does not end"},
        {"\"abc\\\"", "t.json:1: a string does not end"},
        {"\n[\"a\n\"]", "t.json:2: a control character (0x0a) in a string"},
        {"\"abcdefghi\tj\"", "t.json:1: a control character (0x09) in a string"},
        {"\"\\x41\"", "t.json:1: an escape that JSON does not have"},
        {"\"\\'\"", "t.json:1: an escape that JSON does not have"},
        {"\"\\u12\"", "t.json:1: \\u is not followed by four hexadecimal digits"},
        {"\"\\u12", "t.json:1: \\u is not followed by four hexadecimal digits"},
        {"\"\\u12g4\"", "t.json:1: \\u is not followed by four hexadecimal digits"},
        {"\"\\ud800\"", "t.json:1: an unpaired surrogate (\\ud800)"},
        {"\"\\uDC00\"", "t.json:1: an unpaired surrogate (\\udc00)"},
        {"\"\\ud800\\ud800\"", "t.json:1: an unpaired surrogate (\\ud800)"},
        {"\"\\ud800\\u0041\"", "t.json:1: an unpaired surrogate (\\ud800)"},
        {"\"\\ud800\\u\"", "t.json:1: an unpaired surrogate (\\ud800)"},
        {"\"\\udbff\\ue000\"", "t.json:1: an unpaired surrogate (\\udbff)"},
        {"\"\xff\"", "t.json:1: invalid UTF-8 (byte 0xff)"},
        {"\"abcdefghijk\x80\"", "t.json:1: invalid UTF-8 (byte 0x80)"},
        {"\"\xc0\x80\"", "t.json:1: invalid UTF-8 (byte 0xc0)"},
        {"\"\xed\xa0\x80\"", "t.json:1: invalid UTF-8 (byte 0xed)"},
        {"\"\xf4\x90\x80\x80\"", "t.json:1: invalid UTF-8 (byte 0xf4)"},
        {"\"\xe2\x82", "t.json:1: invalid UTF-8 (byte 0xe2)"},
        {"{\"\xff\":1}", "t.json:1: invalid UTF-8 (byte 0xff)"},
        /* arrays */
        {"[", "t.json:1: a value " END},
        {"[1", "t.json:1: ',' or ']' " END},
        {"[1,", "t.json:1: a value " END},
        {"[1,]", "t.json:1: a value is needed, not ']'"},
        {"[,1]", "t.json:1: a value is needed, not ','"},
        {"[1 2]", "t.json:1: ',' or ']' is needed, not '2'"},
        {"[1}", "t.json:1: ',' or ']' is needed, not '}'"},
        {"[}", "t.json:1: a value is needed, not '}'"},
        {"]", "t.json:1: a value is needed, not ']'"},
        {"[1]]", "t.json:1: the end of the text is needed, not ']'"},
        {"[1],", "t.json:1: the end of the text is needed, not ','"},
        {"1 2", "t.json:1: the end of the text is needed, not '2'"},
        {"[1 // one\n]", "t.json:1: ',' or ']' is needed, not '/'"},
        /* objects */
        {"{", "t.json:1: a key " END},
        {"{1:2}", "t.json:1: a key is needed, not '1'"},
        {"{a:2}", "t.json:1: a key is needed, not 'a'"},
        {"{\"a\"", "t.json:1: ':' " END},
        {"{\"a\" 1}", "t.json:1: ':' is needed, not '1'"},
        {"{\"a\":", "t.json:1: a value " END},
        {"{\"a\":}", "t.json:1: a value is needed, not '}'"},
        {"{\"a\":1", "t.json:1: ',' or '}' " END},
        {"{\"a\":1]", "t.json:1: ',' or '}' is needed, not ']'"},
        {"{\"a\":1,}", "t.json:1: a key is needed, not '}'"},
        {"{\"a\":1,,\"b\":2}", "t.json:1: a key is needed, not ','"},
        {"{,}", "t.json:1: a key is needed, not ','"},
        /* duplicate keys; more than eight members go another way */
        {"{\"a\":1,\n\"b\":2,\n\"a\":3}", "t.json:3: duplicate key \"a\""},
        {"{\"a\":1,\"\\u0061\":3}", "t.json:1: duplicate key \"\\u0061\""},
        {"{\"\\ud83d\\ude00\":1,\"\xf0\x9f\x98\x80\":[{}]}",
         "t.json:1: duplicate key \"\xf0\x9f\x98\x80\""},
        {"[{\"\":{\"x\":1},\"\":{\"x\":1}}]", "t.json:1: duplicate key \"\""},
        {"{\"1\":1,\"2\":[2,3],\"3\":1,\"4\":1,\"5\":{\"1\":1},\"6\":1,\"7\":1,\"8\":1,\n\"9\":1,"
         "\"\\u0037\":1,\"2\":1}",
         "t.json:2: duplicate key \"\\u0037\""},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        refuses(rows[i].text, strlen(rows[i].text), rows[i].message);
    refuses("1\0", 2, "t.json:1: the end of the text is needed, not byte 0x00");
    refuses("\"a\0b\"", 5, "t.json:1: a control character (0x00) in a string");
    refuses("\"a\\\0b\"", 6, "t.json:1: an escape that JSON does not have");
}

/* Each proper prefix of a text that ends in a bracket is refused, without a read past its end. */
static void test_refuses_every_prefix(void **state)
{
    (void)state;
    static const char text[] = "{\"a\\u0041\\ud83d\\ude00\xc3\xa9\":[1.5e+3,null,true,false,{}],"
                               "\"bbbbbbbbbbbbbbbb\":{\"c\":-0}}";
    accepts(text, sizeof text - 1);
    for (size_t len = 0; len < sizeof text - 1; len++) {
        mr_json *doc;
        char *copy;
        assert_int_equal(parse(&doc, text, len, &copy), MR_EFORMAT);
        mr_free(copy);
    }
}

static void test_depth(void **state)
{
    (void)state;
    char text[700];
    for (int depth = 127; depth <= 129; depth++) {
        for (int kind = 0; kind < 2; kind++) {
            size_t len = 0;
            for (int i = 0; i < depth; i++)
                len += (size_t)sprintf(text + len, kind && i + 1 < depth ? "{\"\":" : "[");
            for (int i = depth; i-- > 0;)
                text[len++] = kind && i + 1 < depth ? '}' : ']';
            if (len >= sizeof text)
                fail_msg("too long");
            if (depth <= 128)
                accepts(text, len);
            else
                refuses(text, len, "t.json:1: nested deeper than 128");
        }
    }
}

static void test_too_large(void **state)
{
    (void)state;
    mr_json *doc;
    assert_int_equal(mr_json_parse(&doc, "t.json", "1", (size_t)1 << 32), MR_EFORMAT);
    assert_string_equal(mr_error(), "t.json: JSON of 4294967296 bytes: 4 GiB or more");
    assert_int_equal(mr_json_parse(&doc, "t.json", NULL, 0), MR_EFORMAT);
}

/* The n-th allocation fails, for n = 1, 2, ... until none is left to fail. */
static void test_failed_allocations(void **state)
{
    (void)state;
    mr_buf b = {0};
    mr_buf_puts(&b, "[");
    for (int i = 0; i < 40; i++)
        mr_buf_puts(&b,
                    "{\"a\":1,\"b\":1,\"c\":1,\"d\":1,\"e\":1,\"f\":1,\"g\":1,\"h\":1,\"i\":[]},");
    mr_buf_puts(&b, "1]");
    size_t held = mr_mem_held(MR_MEM_COUNT);
    mr_err err = MR_ENOMEM;
    uint64_t n = 0;
    while (err != MR_OK) {
        mr_json *doc;
        mr_mem_fail_after(++n);
        err = mr_json_parse(&doc, "t.json", b.data, b.len);
        mr_mem_fail_after(0);
        if (err != MR_OK) {
            assert_int_equal(err, MR_ENOMEM);
            assert_null(doc);
            assert_non_null(strstr(mr_error(), "out of memory"));
        }
        mr_json_free(doc);
        assert_int_equal(mr_mem_held(MR_MEM_COUNT), held);
    }
    assert_true(n > 45); /* document, nodes and their growth, a table for each object */
    mr_buf_free(&b);
}

/* To fail only in fitting the nodes to size is no failure. */
static void test_failed_fit(void **state)
{
    (void)state;
    mr_json *doc;
    mr_mem_fail_after(3);
    assert_int_equal(mr_json_parse(&doc, "t.json", "[1,2]", 5), MR_OK);
    mr_mem_fail_after(0);
    assert_int_equal(mr_jcount(mr_json_root(doc)), 2);
    mr_json_free(doc);
}

/* ---- large and hostile ----------------------------------------------------------------------- */

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* Parses within `limit` seconds of CPU (sanitizers are slower by far, so it is a wide one). */
static mr_err timed_parse(const mr_buf *b, double limit)
{
    mr_json *doc;
    double start = seconds();
    mr_err err = mr_json_parse(&doc, "t.json", b->data, b->len);
    double took = seconds() - start;
    if (took > limit)
        fail_msg("%zu bytes took %.2f s", b->len, took);
    mr_json_free(doc);
    return err;
}

static void test_many_keys(void **state)
{
    (void)state;
    enum { N = 260000 };
    mr_buf b = {0};
    size_t held = mr_mem_held(MR_MEM_COMPILE);
    for (int twice = 0; twice < 2; twice++) {
        mr_buf_clear(&b);
        mr_buf_puts(&b, "{\n");
        for (int i = 0; i < N; i++)
            mr_buf_printf(&b, "\"token %d\": %d,\n", i, i);
        mr_buf_printf(&b, "\"%s\": 1}", twice ? "token\\u0020\\u00312345" : "other");
        mr_err err = timed_parse(&b, 3.0);
        assert_int_equal(err, twice ? MR_EFORMAT : MR_OK);
        if (twice)
            assert_string_equal(mr_error(),
                                "t.json:260002: duplicate key \"token\\u0020\\u00312345\"");
    }
    assert_int_equal(mr_mem_held(MR_MEM_COMPILE), held);
    mr_buf_free(&b);
}

static void fill(mr_buf *b, const char *open, const char *piece, size_t times, const char *end)
{
    mr_buf_clear(b);
    mr_buf_puts(b, open);
    for (size_t i = 0; i < times; i++)
        mr_buf_puts(b, piece);
    mr_buf_puts(b, end);
    assert_int_equal(mr_buf_check(b), MR_OK);
}

static void test_hostile_shapes(void **state)
{
    (void)state;
    mr_buf b = {0};
    fill(&b, "", "[", 4000000, "");
    assert_int_equal(timed_parse(&b, 3.0), MR_EFORMAT);
    fill(&b, "", " \n", 4000000, "");
    assert_int_equal(timed_parse(&b, 3.0), MR_EFORMAT);
    fill(&b, "[", "1,", 2000000, "1]");
    assert_int_equal(timed_parse(&b, 3.0), MR_OK);
    fill(&b, "[", "{},", 1000000, "[]]");
    assert_int_equal(timed_parse(&b, 3.0), MR_OK);
    fill(&b, "[", "{\"\\u0061\":0,\"b\":1},", 200000, "[]]");
    assert_int_equal(timed_parse(&b, 3.0), MR_OK);
    fill(&b, "\"", "\\u0000", 1000000, "\"");
    assert_int_equal(timed_parse(&b, 3.0), MR_OK);
    fill(&b, "1", "0", 8000000, "");
    assert_int_equal(timed_parse(&b, 3.0), MR_OK);
    /* keys that share all but their last characters */
    fill(&b, "{\"0\":0", "", 0, "");
    for (int i = 0; i < 4000; i++)
        mr_buf_printf(&b, ",\"%01000d\":0", i);
    mr_buf_putc(&b, '}');
    assert_int_equal(timed_parse(&b, 3.0), MR_OK);
    mr_buf_free(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_accepts),
        cmocka_unit_test(test_refuses),
        cmocka_unit_test(test_refuses_every_prefix),
        cmocka_unit_test(test_depth),
        cmocka_unit_test(test_too_large),
        cmocka_unit_test(test_failed_allocations),
        cmocka_unit_test(test_failed_fit),
        cmocka_unit_test(test_many_keys),
        cmocka_unit_test(test_hostile_shapes),
    };
    return cmocka_run_group_tests_name("base/json: parser", tests, NULL, NULL);
}
