/* A tokenizer told as a GGUF vocabulary and read back gives the same ids; what such a vocabulary
 * cannot say is refused. */
#include "text/vocab_export.h"

#include <unistd.h>

#include "text_help.h"

static mr_tokenizer *tokenizer_of(const char *name, mr_buf *path)
{
    /* data/NAME.json holds the tokenizer under "tokenizer"; the reader wants a file of its own */
    stored s;
    mr_tokenizer *t;
    mr_out o;
    char file[] = "/tmp/mr-export-XXXXXX";
    int fd = mkstemp(file);
    assert_true(fd >= 0);
    close(fd);
    mr_buf_clear(path);
    mr_buf_printf(path, DATA "%s.json", name);
    s = load(path->data);
    mr_str raw = mr_jraw(mr_jget(s.root, "tokenizer"));
    assert_true(raw.len > 0);
    assert_int_equal(mr_out_open(&o, file), MR_OK);
    mr_out_write(&o, raw.data, raw.len);
    assert_int_equal(mr_out_commit(&o), MR_OK);
    if (mr_tokenizer_open(&t, file))
        fail_msg("%s: %s", name, mr_error());
    unlink(file);
    unload(&s);
    return t;
}

static void encode(const mr_tokenizer *t, const mr_buf *line, mr_ids *ids)
{
    ids->n = 0;
    assert_int_equal(mr_tokenize(t, line->data ? line->data : "", line->len, MR_TOK_SPECIAL, ids),
                     MR_OK);
}

static void round_trip(const char *name, const char *pre)
{
    mr_buf path = {0}, line = {0};
    mr_ids want = {0}, got = {0};
    mr_vocab_copy c;
    mr_tokenizer *t = tokenizer_of(name, &path), *back;
    int32_t n = mr_tokenizer_size(t) + 3;
    if (mr_vocab_of(t, n, &c))
        fail_msg("%s: %s", name, mr_error());
    assert_int_equal(c.v.n_tokens, n);
    if (pre)
        assert_string_equal(c.v.pre, pre);
    c.v.file = "m.gguf";
    if (mr_tokenizer_from_vocab(&back, &c.v))
        fail_msg("%s: %s", name, mr_error());
    stored lines = load(DATA "lines.json");
    for (mr_jval v = mr_jfirst(lines.root); v.doc; v = mr_jnext(v)) {
        copy_string(v, &line);
        encode(t, &line, &want);
        encode(back, &line, &got);
        check_ids(name, (mr_str){line.data, line.len}, &want, &got);
    }
    unload(&lines);
    mr_vocab_copy_free(&c);
    mr_tokenizer_close(t);
    mr_tokenizer_close(back);
    mr_buf_free(&path);
    mr_buf_free(&line);
    mr_ids_free(&want);
    mr_ids_free(&got);
}

static void byte_level(void **state)
{
    (void)state;
    size_t before = memory_held();
    round_trip("qwen", "qwen2");
    round_trip("llama3", "llama-bpe");
    round_trip("deepseek", "deepseek-v3");
    round_trip("bailing", "bailingmoe");
    assert_int_equal(memory_held(), before);
}

static void pieces(void **state)
{
    (void)state;
    round_trip("gemma", NULL);
    round_trip("llama2", NULL);
}

static void refused(void **state)
{
    (void)state;
    static const char *const names[] = {"nfkc", "metaspace", "words", "splits", "gpt2"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        mr_buf path = {0};
        mr_vocab_copy c;
        mr_tokenizer *t = tokenizer_of(names[i], &path);
        size_t before = memory_held();
        assert_int_equal(mr_vocab_of(t, 0, &c), MR_EUNSUPPORTED);
        assert_non_null(strstr(mr_error(), "GGUF"));
        assert_int_equal(memory_held(), before);
        mr_tokenizer_close(t);
        mr_buf_free(&path);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(byte_level),
        cmocka_unit_test(pieces),
        cmocka_unit_test(refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
