/* SentencePiece's tokenizer.model and tiktoken.model: ids equal those of their own packages
 * (tools/tokenizer_models.py made the files and the pairs); what is broken or unknown is refused by
 * name. */
#include "text_help.h"
#include "text/tokenizer_parts.h"

#define MODELS DATA "models/"

static void check_model(mr_jval root, const char *name, const char *path)
{
    mr_tokenizer *t;
    mr_ids want = {0}, got = {0};
    mr_buf line = {0}, text = {0};
    mr_jval ids = mr_jfirst(mr_jget(mr_jget(root, "ids"), name));
    mr_jval texts = mr_jfirst(mr_jget(mr_jget(root, "texts"), name));
    size_t n = 0;
    if (mr_tokenizer_open(&t, path))
        fail_msg("%s", mr_error());
    for (mr_jval c = mr_jfirst(mr_jget(root, "lines")); c.doc; c = mr_jnext(c), n++) {
        copy_string(c, &line);
        read_ids(ids, &want);
        got.n = 0;
        assert_int_equal(mr_tokenize(t, line.data ? line.data : "", line.len, 0, &got), MR_OK);
        check_ids(name, (mr_str){line.data, line.len}, &want, &got);
        mr_buf_clear(&text);
        assert_int_equal(mr_detokenize(t, got.id, got.n, texts.doc != NULL, &text), MR_OK);
        if (texts.doc)
            copy_string(texts, &line);
        if (text.len != line.len || (line.len && memcmp(text.data, line.data, line.len)))
            fail_msg("%s: \"%.*s\" decodes to \"%.*s\"", name, (int)line.len, line.data,
                     (int)text.len, text.data);
        texts = mr_jnext(texts);
        ids = mr_jnext(ids);
    }
    assert_null(ids.doc);
    assert_true(n >= 200);
    mr_buf_free(&line);
    mr_buf_free(&text);
    mr_ids_free(&want);
    mr_ids_free(&got);
    mr_tokenizer_close(t);
}

static void pairs(void **state)
{
    (void)state;
    size_t before = memory_held();
    stored s = load(MODELS "pairs.json");
    check_model(s.root, "spm-llama", MODELS "spm-llama.model");
    check_model(s.root, "spm-gemma", MODELS "spm-gemma.model");
    check_model(s.root, "spm-plain", MODELS "spm-plain.model");
    check_model(s.root, "spm-unigram", MODELS "spm-unigram.model");
    check_model(s.root, "spm-map", MODELS "spm-map.model");
    check_model(s.root, "tiktoken", MODELS "tiktoken");
    unload(&s);
    assert_int_equal(memory_held(), before);
}

/* Who adds bos, and what the config beside a model may say about it. */
static void ends(void **state)
{
    (void)state;
    mr_tokenizer_source s = {.file = "m/tokenizer.model", .config_file = "m/tokenizer_config.json"};
    char *text;
    mr_tokenizer *t;
    mr_ids got = {0};
    assert_int_equal(
        mr_file_read_all(MODELS "spm-llama.model", 1 << 20, MR_MEM_OTHER, &text, &s.len), MR_OK);
    s.text = text;
    static const char *configs[] = {NULL, "{\"add_bos_token\": false}",
                                    "{\"add_bos_token\": true, \"bos_token\": \"<s>\"}"};
    static const int first[] = {1, -1, 1};
    for (int i = 0; i < 3; i++) {
        s.config = configs[i];
        s.config_len = configs[i] ? strlen(configs[i]) : 0;
        assert_int_equal(mr_sentencepiece_parse(&t, &s), MR_OK);
        got.n = 0;
        assert_int_equal(mr_tokenize(t, "a", 1, MR_TOK_SPECIAL, &got), MR_OK);
        assert_true(got.n >= 1 && (first[i] < 0 ? got.id[0] != 1 : got.id[0] == first[i]));
        assert_int_equal(mr_tokenizer_bos(t), 1);
        mr_tokenizer_close(t);
    }
    assert_int_equal(mr_tokenizer_open(&t, MODELS "tiktoken"), MR_OK);
    got.n = 0;
    assert_int_equal(mr_tokenize(t, "[BOS]<|reserved_token_700|>", 27, MR_TOK_SPECIAL, &got),
                     MR_OK);
    assert_int_equal(got.n, 2);
    assert_int_equal(got.id[0], mr_tokenizer_bos(t));
    assert_int_equal(got.id[1], 700);
    mr_tokenizer_close(t);
    mr_ids_free(&got);
    mr_free(text);
}

typedef mr_err parse_fn(mr_tokenizer **out, const mr_tokenizer_source *s);

static void refuse(parse_fn *parse, const char *text, size_t len, mr_err code, const char *message)
{
    mr_tokenizer_source s = {.file = "f.model", .text = text, .len = len};
    mr_tokenizer *t = NULL;
    size_t before = memory_held();
    assert_int_equal(parse(&t, &s), code);
    assert_null(t);
    if (!strstr(mr_error(), message) || !strstr(mr_error(), "f.model"))
        fail_msg("\"%s\" is not in \"%s\"", message, mr_error());
    assert_int_equal(memory_held(), before);
}

static void refuse_file(const char *path, const char *message)
{
    mr_tokenizer *t;
    assert_int_equal(mr_tokenizer_open(&t, path), MR_EUNSUPPORTED);
    if (!strstr(mr_error(), message))
        fail_msg("\"%s\" is not in \"%s\"", message, mr_error());
}

#define REFUSE(parse, text, code, message) refuse(parse, text, sizeof(text) - 1, code, message)

static void broken_sentencepiece(void **state)
{
    (void)state;
    REFUSE(mr_sentencepiece_parse, "", MR_EFORMAT, "holds no pieces");
    REFUSE(mr_sentencepiece_parse,
           "\x0a\x05"
           "\x0a\x01",
           MR_EFORMAT, "passes the end");
    REFUSE(mr_sentencepiece_parse, "\x0a", MR_EFORMAT, "ends within a number");
    REFUSE(mr_sentencepiece_parse, "\x0a\x02\x15\x00", MR_EFORMAT, "ends within a number");
    REFUSE(mr_sentencepiece_parse, "\x0f", MR_EFORMAT, "is no SentencePiece model");
    REFUSE(mr_sentencepiece_parse, "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", MR_EFORMAT,
           "more than 64 bits");
    REFUSE(mr_sentencepiece_parse,
           "\x0a\x05\x0a\x01"
           "a\x18\x09",
           MR_EFORMAT, "unknown type");
    /* one piece, then the trainer and the normaliser */
#define PIECE                                                                                      \
    "\x0a\x03\x0a\x01"                                                                             \
    "a"
#define BPE "\x12\x02\x18\x02"
    REFUSE(mr_sentencepiece_parse,
           PIECE BPE "\x1a\x03\x12\x01"
                     "m",
           MR_EFORMAT, "character map ends early");
    REFUSE(mr_sentencepiece_parse,
           PIECE BPE "\x1a\x0a\x12\x08"
                     "\xff\xff\xff\xff....",
           MR_EFORMAT, "character map ends early");
    refuse_file(MODELS "spm-word.model", "type word");
}

static void broken_tiktoken(void **state)
{
    (void)state;
    REFUSE(mr_tiktoken_parse, "", MR_EFORMAT, "holds no tokens");
    REFUSE(mr_tiktoken_parse, "YQ== 0\nYg==\n", MR_EFORMAT, "line 2: is not a token");
    REFUSE(mr_tiktoken_parse, "YQ= 0\n", MR_EFORMAT, "line 1: is not a token");
    REFUSE(mr_tiktoken_parse, "Y?== 0\n", MR_EFORMAT, "line 1: is not a token");
    REFUSE(mr_tiktoken_parse, "YQ== x\n", MR_EFORMAT, "has no rank");
    REFUSE(mr_tiktoken_parse, "YQ== \n", MR_EFORMAT, "has no rank");
    REFUSE(mr_tiktoken_parse, "YQ== 0\nYg== 0\n", MR_EFORMAT, "two tokens have this rank");
    REFUSE(mr_tiktoken_parse, "YQ== 0\nYg== 2\n", MR_EFORMAT, "beyond the number of tokens");
    char *line = mr_alloc(MR_MEM_OTHER, 8192);
    memset(line, 'A', 8192);
    refuse(mr_tiktoken_parse, line, 8192, MR_EFORMAT, "is too long");
    mr_free(line);
    mr_buf other = {0}; /* as many as GPT-2's */
    for (int i = 0; i < 50256; i++)
        mr_buf_printf(&other, "YQ== %d\n", i);
    refuse(mr_tiktoken_parse, other.data, other.len, MR_EUNSUPPORTED, "50256 tokens are GPT-2's");
    mr_buf_free(&other);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pairs),
        cmocka_unit_test(ends),
        cmocka_unit_test(broken_sentencepiece),
        cmocka_unit_test(broken_tiktoken),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
