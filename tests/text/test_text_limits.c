/* Long runs take no long time, bad input is an error with its place, and every failed allocation
 * is an error that leaves nothing behind. */
#include <time.h>

#include "text_help.h"
#include "text/tokenizer_parts.h"

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static mr_tokenizer *open_small(const char *name)
{
    char path[128];
    snprintf(path, sizeof path, DATA "%s.json", name);
    stored data = load(path);
    mr_str text = mr_jraw(mr_jget(data.root, "tokenizer"));
    mr_tokenizer_source s = {.file = name, .text = text.data, .len = text.len};
    mr_tokenizer *t;
    if (mr_tokenizer_parse(&t, &s))
        fail_msg("%s", mr_error());
    unload(&data);
    return t;
}

/* 100,000 equal characters, for the pre-tokenisers that make one word of them and those that do
 * not. */
static void long_runs(void **state)
{
    (void)state;
    static const char *names[] = {"gemma", "llama2", "llama3",  "deepseek",
                                  "qwen",  "kimi",   "bailing", "words"};
    static const char *units[] = {"a", " ",        "\n",           "1",  "\xC3\xA9",
                                  "'", "\xCC\x81", "\xE4\xBD\xA0", "a ", "\xF0\x9F\x98\x80"};
    enum { N = 100000 };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        mr_tokenizer *t = open_small(names[i]);
        for (size_t u = 0; u < sizeof units / sizeof *units; u++) {
            mr_buf text = {0}, back = {0};
            mr_ids ids = {0};
            for (int k = 0; k < N; k++)
                mr_buf_puts(&text, units[u]);
            double from = seconds();
            if (mr_tokenize(t, text.data, text.len, 0, &ids))
                fail_msg("%s: %s", names[i], mr_error());
            assert_int_equal(mr_detokenize(t, ids.id, ids.n, false, &back), MR_OK);
            double took = seconds() - from;
            if (took > 5)
                fail_msg("%s: %d times \"%s\" takes %.1f s", names[i], N, units[u], took);
            mr_buf_free(&text);
            mr_buf_free(&back);
            mr_ids_free(&ids);
        }
        mr_tokenizer_close(t);
    }
}

/* Two kinds of marks in turn, in the wrong order: ordering them is not quadratic either. */
static void marks(void **state)
{
    (void)state;
    mr_tokenizer *t = open_small("qwen");
    mr_buf text = {0};
    mr_ids ids = {0};
    for (int k = 0; k < 100000; k++)
        mr_buf_puts(&text, k % 2 ? "\xCC\xA1" : "\xCC\x81");
    double from = seconds();
    assert_int_equal(mr_tokenize(t, text.data, text.len, 0, &ids), MR_OK);
    assert_true(seconds() - from < LONGEST);
    mr_buf_free(&text);
    mr_ids_free(&ids);
    mr_tokenizer_close(t);
}

static void bad_input(void **state)
{
    (void)state;
    mr_tokenizer *t = open_small("gemma");
    mr_ids ids = {0};
    mr_buf out = {0};
    assert_int_equal(mr_tokenize(t, "ab\xFF", 3, 0, &ids), MR_EFORMAT);
    assert_string_equal(mr_error(), "the text is not UTF-8 at byte 2");
    assert_int_equal(mr_tokenize(t, "\xED\xA0\x80", 3, 0, &ids), MR_EFORMAT);
    assert_int_equal(mr_tokenize(t, "a\0b", 3, 0, &ids), MR_OK); /* NUL is a character */
    assert_true(ids.n >= 3);
    int32_t high = mr_tokenizer_size(t), low = -1;
    assert_int_equal(mr_detokenize(t, &high, 1, false, &out), MR_EFORMAT);
    assert_non_null(strstr(mr_error(), "token id 904 is outside the vocabulary of 904"));
    assert_int_equal(mr_detokenize(t, &low, 1, false, &out), MR_EFORMAT);
    assert_int_equal(mr_tokenize(t, NULL, 0, 0, &ids), MR_OK);
    assert_int_equal(mr_tokenize(t, "x", (size_t)1 << 40, 0, &ids), MR_ELIMIT);
    mr_ids_free(&ids);
    mr_buf_free(&out);
    mr_tokenizer_close(t);
}

/* A pattern that backtracks without end is an error, not a hang. */
static void endless_pattern(void **state)
{
    (void)state;
    static const char json[] =
        "{\"pre_tokenizer\":{\"type\":\"Split\",\"behavior\":\"Isolated\",\"invert\":false,"
        "\"pattern\":"
        "{\"Regex\":\"(a|aa)+[bc]\"}},\"model\":{\"vocab\":{\"a\":0},\"merges\":[]}}";
    mr_tokenizer_source s = {.file = "t.json", .text = json, .len = sizeof json - 1};
    mr_tokenizer *t;
    mr_ids ids = {0};
    char text[64];
    memset(text, 'a', sizeof text);
    assert_int_equal(mr_tokenizer_parse(&t, &s), MR_OK);
    double from = seconds();
    assert_int_equal(mr_tokenize(t, text, sizeof text, 0, &ids), MR_ELIMIT);
    assert_true(seconds() - from < LONGEST);
    mr_ids_free(&ids);
    mr_tokenizer_close(t);
}

/* What a file asks for on a text of n times a; in no more than LONGEST whatever comes of it. */
static void hostile(const char *sections, size_t n, mr_err want, const char *message)
{
    mr_buf json = {0};
    mr_buf_printf(&json, "{%s,\"model\":{\"vocab\":{\"a\":0},\"merges\":[]}}", sections);
    mr_tokenizer_source s = {.file = "t.json", .text = json.data, .len = json.len};
    mr_tokenizer *t = NULL;
    mr_ids ids = {0};
    char *text = malloc(n + 1);
    memset(text, 'a', n);
    double from = seconds();
    mr_err err = mr_tokenizer_parse(&t, &s);
    if (!err)
        err = mr_tokenize(t, text, n, 0, &ids);
    assert_int_equal(err, want);
    if (err && !strstr(mr_error(), message))
        fail_msg("%s", mr_error());
    assert_true(seconds() - from < LONGEST);
    free(text);
    mr_ids_free(&ids);
    mr_buf_free(&json);
    mr_tokenizer_close(t);
}

#define SPLIT(regex)                                                                               \
    "\"pre_tokenizer\":{\"type\":\"Split\",\"behavior\":\"Isolated\",\"invert\":false,"            \
    "\"pattern\":{\"Regex\":\"" regex "\"}}"
#define GROW "{\"type\":\"Replace\",\"pattern\":{\"String\":\"a\"},\"content\":\"aaaaaaaaaa\"}"

static void hostile_files(void **state)
{
    (void)state;
    hostile(SPLIT("a*a*[bc]"), 200000, MR_ELIMIT, "too long");          /* quadratic at one start */
    hostile(SPLIT("(?=(a+))\\\\1[bc]"), 200000, MR_ELIMIT, "too long"); /* at all together */
    hostile(SPLIT("(?:a|aa)+[bc]"), 200000, MR_ELIMIT, "too many steps");
    hostile(SPLIT("[^a]*a{1,3}(?![bc])"), 200000, MR_OK, "");
    hostile("\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[" GROW "," GROW "," GROW
            "," GROW "]}",
            100000, MR_ELIMIT, "too long");
    mr_buf many = {0};
    mr_buf_puts(&many, "\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFC\"}");
    for (int i = 0; i < 64; i++)
        mr_buf_puts(&many, ",{\"type\":\"NFC\"}");
    mr_buf_puts(&many, "]}");
    hostile(many.data, 1, MR_EUNSUPPORTED, "more than 64 steps");
    mr_buf_clear(&many);
    mr_buf_puts(&many, "\"added_tokens\":[{\"id\":1,\"content\":\"");
    for (int i = 0; i < 1000; i++)
        mr_buf_putc(&many, 'a');
    mr_buf_puts(&many, "b\",\"normalized\":false}]");
    hostile(many.data, 500000, MR_OK, "");
    mr_buf_free(&many);
}

/* Opens, encodes, decodes; the first error, if any. */
static mr_err use(mr_str json, const char *file, const char *text, mr_ids *ids)
{
    mr_tokenizer_source s = {.file = file, .text = json.data, .len = json.len};
    mr_tokenizer *t = NULL;
    mr_buf out = {0};
    mr_err err = mr_tokenizer_parse(&t, &s);
    if (err == MR_OK)
        err = mr_tokenize(t, text, strlen(text), MR_TOK_SPECIAL, ids);
    if (err == MR_OK)
        err = mr_detokenize(t, ids->id, ids->n, false, &out);
    mr_tokenizer_close(t);
    mr_buf_free(&out);
    return err;
}

static void failed_allocations(void **state)
{
    (void)state;
    static const char *names[] = {"gemma",   "kimi",  "metaspace", "nfkc",
                                  "bailing", "words", "unigram"};
    static const char text[] =
        "Hello, <l> w\xC3\xB6rld 123 \xEF\xAC\x81 <bos>\n\n \xF0\x9F\x98\x80 caf\x65\xCC\x81's";
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char path[128];
        snprintf(path, sizeof path, DATA "%s.json", names[i]);
        stored data = load(path);
        mr_str json = mr_jraw(mr_jget(data.root, "tokenizer"));
        mr_ids want = {0};
        assert_int_equal(use(json, names[i], text, &want), MR_OK);
        size_t before = memory_held();
        uint64_t n = 1, failed = 0;
        for (;; n++) {
            uint64_t made = mr_mem_allocations();
            mr_mem_fail_after(n);
            mr_ids got = {0};
            mr_err err = use(json, names[i], text, &got);
            mr_mem_fail_after(0);
            if (err == MR_OK) /* some failures do no harm (giving back unused memory) */
                check_ids(names[i], (mr_str){text, sizeof text - 1}, &want, &got);
            mr_ids_free(&got);
            assert_int_equal(memory_held(), before);
            if (mr_mem_allocations() - made < n) /* none was left to fail */
                break;
            failed += err != MR_OK;
            if (err != MR_OK && err != MR_ENOMEM)
                fail_msg("%s: allocation %d: %s", names[i], (int)n, mr_error());
        }
        assert_true(failed >= 50);
        mr_ids_free(&want);
        unload(&data);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(long_runs),     cmocka_unit_test(marks),
        cmocka_unit_test(bad_input),     cmocka_unit_test(endless_pattern),
        cmocka_unit_test(hostile_files), cmocka_unit_test(failed_allocations),
    };
    return RUN_TESTS(tests);
}
