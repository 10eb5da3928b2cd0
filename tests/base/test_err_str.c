/* Errors and text: messages stay one clean line; buffers, UTF-8 and JSON quoting. */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "base/err.h"
#include "base/mem.h"
#include "base/str.h"

/* ---- err.h ---- */

static void test_fail_sets_message(void **state)
{
    (void)state;
    assert_int_equal(mr_fail(MR_EFORMAT, "%s: key \"%s\"", "a.json", "k"), MR_EFORMAT);
    assert_string_equal(mr_error(), "a.json: key \"k\"");
    assert_int_equal(mr_fail_in(MR_ELIMIT, "layer %d", 3), MR_ELIMIT);
    assert_string_equal(mr_error(), "layer 3: a.json: key \"k\"");
    mr_fail(MR_EIO, "again: %s", mr_error()); /* the message as its own argument */
    assert_string_equal(mr_error(), "again: layer 3: a.json: key \"k\"");
}

static void test_fail_errno_names_path(void **state)
{
    (void)state;
    errno = ENOENT;
    assert_int_equal(mr_fail_errno("open", "x/y"), MR_EIO);
    assert_string_equal(mr_error(), "x/y: cannot open: No such file or directory");
}

static void test_message_is_one_clean_line(void **state)
{
    (void)state;
    mr_fail(MR_EFORMAT, "%s", "a\nb\x1b[31m\xff\xc3\xa9\xe2\x80\xa8\xc2\x9b.");
    assert_string_equal(mr_error(), "a?b?[31m?\xc3\xa9??.");
    char text[900];
    for (size_t lead = 0; lead < 3; lead++) {
        memset(text, 'x', lead);
        for (size_t i = lead; i + 3 < sizeof text; i += 3)
            memcpy(text + i, "\xe2\x82\xac", 4);
        mr_fail(MR_EFORMAT, "%s", text);
        size_t len = strlen(mr_error());
        assert_in_range(len, MR_ERR_MAX - 4, MR_ERR_MAX - 1);
        assert_int_equal(mr_utf8_check(mr_error(), len), len);
        assert_int_equal((len - lead) % 3, 0);
        mr_fail_in(MR_EFORMAT, "%s", text);
        len = strlen(mr_error());
        assert_int_equal(mr_utf8_check(mr_error(), len), len);
    }
}

static void *other_thread(void *arg)
{
    *(int *)arg = mr_error()[0] == '\0';
    mr_fail(MR_EIO, "theirs");
    return NULL;
}

static void test_message_belongs_to_thread(void **state)
{
    (void)state;
    int was_empty = 0;
    pthread_t t;
    mr_fail(MR_EIO, "mine");
    assert_int_equal(pthread_create(&t, NULL, other_thread, &was_empty), 0);
    pthread_join(t, NULL);
    assert_true(was_empty);
    assert_string_equal(mr_error(), "mine");
}

static mr_err tries(mr_err e, int *reached)
{
    MR_TRY(e);
    *reached = 1;
    return MR_OK;
}

static void test_try_returns_early(void **state)
{
    (void)state;
    int reached = 0;
    assert_int_equal(tries(MR_ECANCEL, &reached), MR_ECANCEL);
    assert_false(reached);
    assert_int_equal(tries(MR_OK, &reached), MR_OK);
    assert_true(reached);
}

/* ---- buffers ---- */

static void test_buffer_grows(void **state)
{
    (void)state;
    size_t before = mr_mem_held(MR_MEM_COUNT);
    mr_buf b = {0};
    mr_buf_puts(&b, "");
    assert_string_equal(b.data, "");
    for (int i = 0; i < 1000; i++)
        mr_buf_printf(&b, "%03d,", i);
    mr_buf_putc(&b, '!');
    mr_buf_add(&b, "a\0b", 3);
    assert_int_equal(b.len, 4004);
    assert_memory_equal(b.data + 3996, "999,!a\0b", 9);
    assert_int_equal(mr_buf_check(&b), MR_OK);
    size_t cap = b.cap;
    mr_buf_clear(&b);
    assert_string_equal(b.data, "");
    assert_int_equal(b.cap, cap);
    mr_buf_free(&b);
    assert_null(b.data);
    assert_int_equal(mr_mem_held(MR_MEM_COUNT), before);
}

static void test_buffer_failure_sticks(void **state)
{
    (void)state;
    mr_buf b = {0};
    mr_buf_puts(&b, "kept");
    mr_mem_fail_after(1);
    mr_buf_printf(&b, "%500d", 1);
    mr_mem_fail_after(0);
    assert_true(b.failed);
    mr_buf_puts(&b, "x");
    mr_buf_putc(&b, 'x');
    mr_buf_printf(&b, "x");
    assert_string_equal(b.data, "kept");
    assert_int_equal(mr_buf_check(&b), MR_ENOMEM);
    assert_string_equal(mr_error(), "out of memory: a text buffer after 4 bytes");
    mr_buf_clear(&b);
    mr_buf_puts(&b, "new");
    assert_int_equal(mr_buf_check(&b), MR_OK);
    assert_string_equal(b.data, "new");
    mr_buf_add(&b, NULL, SIZE_MAX); /* the size overflows before the pointer is used */
    assert_true(b.failed);
    mr_buf_free(&b);
}

static void test_buffer_json(void **state)
{
    (void)state;
    mr_buf b = {0};
    const char in[] = "a\"\\/\b\f\n\r\t\x01\x1f\x7f\xc3\xa9\xff\xf0\x9f\x98\x80\xed\xa0\x80\0z";
    mr_buf_json(&b, in, sizeof in - 1);
    const char fffd[] = "\xef\xbf\xbd";
    char expected[128];
    snprintf(
        expected, sizeof expected,
        "\"a\\\"\\\\/\\b\\f\\n\\r\\t\\u0001\\u001f\x7f\xc3\xa9%s\xf0\x9f\x98\x80%s%s%s\\u0000z\"",
        fffd, fffd, fffd, fffd);
    assert_string_equal(b.data, expected);
    mr_buf_clear(&b);
    mr_buf_json(&b, "", 0);
    assert_string_equal(b.data, "\"\"");
    mr_buf_free(&b);
}

static void test_str_is(void **state)
{
    (void)state;
    assert_true(mr_str_is((mr_str){"abc", 2}, "ab"));
    assert_false(mr_str_is((mr_str){"abc", 3}, "ab"));
    assert_false(mr_str_is((mr_str){"ac", 2}, "ab"));
    assert_true(mr_str_is((mr_str){NULL, 0}, ""));
}

/* ---- UTF-8 ---- */

static void test_utf8_every_scalar(void **state)
{
    (void)state;
    for (uint32_t cp = 0; cp <= 0x10ffff; cp++) {
        if (cp >= 0xd800 && cp < 0xe000)
            continue;
        char c[4];
        uint32_t back = ~cp;
        int n = mr_utf8_encode(cp, c);
        if (mr_utf8_decode(c, (size_t)n, &back) != n || back != cp)
            fail_msg("U+%04X is not its own round trip", (unsigned)cp);
        if (n > 1 && mr_utf8_decode(c, (size_t)n - 1, &back) != 0)
            fail_msg("U+%04X cut short is accepted", (unsigned)cp);
    }
}

/* Of all sequences of two bytes, and of lead and second byte with good tails, exactly those of
 * Unicode's table 3-7 are accepted. */
static void test_utf8_table(void **state)
{
    (void)state;
    uint32_t cp;
    for (unsigned a = 0x80; a < 0x100; a++) {
        for (unsigned b = 0; b < 0x100; b++) {
            char s[4] = {(char)a, (char)b, (char)0x80, (char)0xbf};
            bool tail = b >= 0x80 && b < 0xc0;
            int want = a >= 0xc2 && a <= 0xdf ? (tail ? 2 : 0)
                       : a == 0xe0            ? (b >= 0xa0 && tail ? 3 : 0)
                       : a == 0xed            ? (b >= 0x80 && b < 0xa0 ? 3 : 0)
                       : a > 0xe0 && a < 0xf0 ? (tail ? 3 : 0)
                       : a == 0xf0            ? (b >= 0x90 && tail ? 4 : 0)
                       : a > 0xf0 && a < 0xf4 ? (tail ? 4 : 0)
                       : a == 0xf4            ? (b >= 0x80 && b < 0x90 ? 4 : 0)
                                              : 0;
            assert_int_equal(mr_utf8_decode(s, 4, &cp), want);
        }
    }
    assert_int_equal(mr_utf8_decode("\xe2\x82", 2, &cp), 0);
    assert_int_equal(mr_utf8_decode("\xe2\x82x", 3, &cp), 0);
    assert_int_equal(mr_utf8_decode("\xf0\x9f\x98x", 4, &cp), 0);
    assert_int_equal(mr_utf8_decode("\xf0\x9fx\x80", 4, &cp), 0);
    assert_int_equal(mr_utf8_decode("", 0, &cp), 0);
}

static void test_utf8_check_finds_place(void **state)
{
    (void)state;
    char text[64];
    for (size_t at = 0; at < 40; at++) {
        memset(text, 'a', sizeof text);
        assert_int_equal(mr_utf8_check(text, 40), 40);
        text[at] = (char)0xff;
        assert_int_equal(mr_utf8_check(text, 40), at);
        memcpy(text + at, "\xc3\xa9", 2);
        assert_int_equal(mr_utf8_check(text, 42), 42);
        assert_int_equal(mr_utf8_check(text, at + 1), at);
    }
    assert_int_equal(mr_utf8_check(text, 0), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fail_sets_message),
        cmocka_unit_test(test_fail_errno_names_path),
        cmocka_unit_test(test_message_is_one_clean_line),
        cmocka_unit_test(test_message_belongs_to_thread),
        cmocka_unit_test(test_try_returns_early),
        cmocka_unit_test(test_buffer_grows),
        cmocka_unit_test(test_buffer_failure_sticks),
        cmocka_unit_test(test_buffer_json),
        cmocka_unit_test(test_str_is),
        cmocka_unit_test(test_utf8_every_scalar),
        cmocka_unit_test(test_utf8_table),
        cmocka_unit_test(test_utf8_check_finds_place),
    };
    return cmocka_run_group_tests_name("base/err, base/str", tests, NULL, NULL);
}
