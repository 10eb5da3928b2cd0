/* A tokenizer told as a GGUF vocabulary and read back gives the same ids, also once that is written as a
 * tokenizer.json; what such a vocabulary cannot say is refused. */
#include "text/tokenizer_write.h"
#include "text/vocab_export.h"

#include <unistd.h>

#include "text_help.h"

static mr_tokenizer *tokenizer_of_text(const char *name, mr_str text)
{
    mr_tokenizer *t;
    mr_out o;
    char file[] = "/tmp/mr-export-XXXXXX";
    int fd = mkstemp(file);
    assert_true(fd >= 0);
    close(fd);
    assert_int_equal(mr_out_open(&o, file), MR_OK);
    mr_out_write(&o, text.data, text.len);
    assert_int_equal(mr_out_commit(&o), MR_OK);
    if (mr_tokenizer_open(&t, file))
        fail_msg("%s: %s", name, mr_error());
    unlink(file);
    return t;
}

static mr_tokenizer *tokenizer_of(const char *name, mr_buf *path)
{
    /* data/NAME.json holds the tokenizer under "tokenizer"; the reader wants a file of its own */
    mr_buf_clear(path);
    mr_buf_printf(path, DATA "%s.json", name);
    stored s = load(path->data);
    mr_str raw = mr_jraw(mr_jget(s.root, "tokenizer"));
    assert_true(raw.len > 0);
    mr_tokenizer *t = tokenizer_of_text(name, raw);
    unload(&s);
    return t;
}

/* The tokenizer of a vocabulary, by way of a tokenizer.json. */
static mr_tokenizer *written(const char *name, const mr_tokenizer *from)
{
    mr_buf text = {0};
    if (mr_tokenizer_write(from, &text))
        fail_msg("%s: %s", name, mr_error());
    mr_tokenizer *t = tokenizer_of_text(name, (mr_str){text.data, text.len});
    mr_buf_free(&text);
    assert_int_equal(mr_tokenizer_size(t), mr_tokenizer_size(from));
    for (int32_t id = 0; id < mr_tokenizer_size(t); id++)
        assert_int_equal(mr_tokenizer_is_special(t, id), mr_tokenizer_is_special(from, id));
    return t;
}

static void same_text(const mr_tokenizer *a, const mr_tokenizer *b, const mr_ids *ids)
{
    mr_buf x = {0}, y = {0};
    assert_int_equal(mr_detokenize(a, ids->id, ids->n, false, &x), MR_OK);
    assert_int_equal(mr_detokenize(b, ids->id, ids->n, false, &y), MR_OK);
    assert_int_equal(x.len, y.len);
    assert_memory_equal(x.data ? x.data : "", y.data ? y.data : "", x.len);
    mr_buf_free(&x);
    mr_buf_free(&y);
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
    mr_tokenizer *t = tokenizer_of(name, &path), *back, *json;
    int32_t n = mr_tokenizer_size(t) + 3;
    if (mr_vocab_of(t, n, &c))
        fail_msg("%s: %s", name, mr_error());
    assert_int_equal(c.v.n_tokens, n);
    if (pre)
        assert_string_equal(c.v.pre, pre);
    c.v.file = "m.gguf";
    if (mr_tokenizer_from_vocab(&back, &c.v))
        fail_msg("%s: %s", name, mr_error());
    json = written(name, back);
    stored lines = load(DATA "lines.json");
    for (mr_jval v = mr_jfirst(lines.root); v.doc; v = mr_jnext(v)) {
        copy_string(v, &line);
        encode(t, &line, &want);
        encode(back, &line, &got);
        check_ids(name, (mr_str){line.data, line.len}, &want, &got);
        encode(json, &line, &got);
        check_ids(name, (mr_str){line.data, line.len}, &want, &got);
        same_text(back, json, &got);
    }
    unload(&lines);
    mr_vocab_copy_free(&c);
    mr_tokenizer_close(t);
    mr_tokenizer_close(back);
    mr_tokenizer_close(json);
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
    static const char *const names[] = {"nfkc", "metaspace", "words", "splits", "gpt2", "unigram"};
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
