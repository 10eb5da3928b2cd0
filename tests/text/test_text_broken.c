/* Wrong tokenizer.json and tokenizer_config.json: each is refused with a message that names file
 * and key, and nothing is held afterwards. */
#include "text_help.h"
#include "text/tokenizer_parts.h"

#define VOCAB "\"vocab\":{\"a\":0,\"b\":1,\"ab\":2,\"<unk>\":3}"
#define MODEL "\"model\":{\"type\":\"BPE\"," VOCAB ",\"merges\":[\"a b\"]}"
#define WITH(parts) "{" parts "," MODEL "}"
#define OF_MODEL(parts) "{\"model\":{" parts "}}"
#define ADDED(token) WITH("\"added_tokens\":[" token "]")
#define SPLIT(pattern)                                                                             \
    "\"pre_tokenizer\":{\"type\":\"Split\",\"behavior\":\"Isolated\",\"invert\":false,"            \
    "\"pattern\":" pattern "}"

static const struct {
    const char *text;
    mr_err code;
    const char *message;
} cases[] = {
    {"", MR_EFORMAT, "t.json"},
    {"[]", MR_EFORMAT, "must hold an object"},
    {"{\"version\":\"1.0\"}", MR_EFORMAT, "must have an object \"model\""},
    {"{\"version\":\"2.0\"," MODEL "}", MR_EUNSUPPORTED, "\"version\""},
    {"{\"model\":[]}", MR_EFORMAT, "\"model\""},
    {OF_MODEL("\"type\":\"WordLevel\",\"vocab\":{}"), MR_EUNSUPPORTED, "\"WordLevel\""},
    {OF_MODEL("\"type\":\"WordPiece\",\"vocab\":{}"), MR_EUNSUPPORTED, "\"WordPiece\""},
    {OF_MODEL("\"type\":\"Unigram\",\"vocab\":[]"), MR_EFORMAT, "is empty"},
    {OF_MODEL("\"type\":\"Unigram\",\"vocab\":{}"), MR_EFORMAT, "must have a list"},
    {OF_MODEL("\"type\":\"Unigram\",\"vocab\":[[\"a\"]]"), MR_EFORMAT, "a text and its score"},
    {OF_MODEL("\"type\":\"Unigram\",\"unk_id\":1,\"vocab\":[[\"a\",0]]"), MR_EFORMAT, "unk_id"},
    {OF_MODEL("\"type\":\"WordPiece\"," VOCAB), MR_EUNSUPPORTED, "\"WordPiece\""},
    {OF_MODEL("\"type\":\"BPE\",\"merges\":[]"), MR_EFORMAT, "\"vocab\""},
    {OF_MODEL("\"type\":\"BPE\",\"vocab\":[],\"merges\":[]"), MR_EFORMAT, "\"vocab\""},
    {OF_MODEL("\"type\":\"BPE\",\"vocab\":{},\"merges\":[]"), MR_EFORMAT, "is empty"},
    {OF_MODEL("\"type\":\"BPE\"," VOCAB), MR_EFORMAT, "\"merges\""},
    {OF_MODEL(VOCAB ",\"merges\":{}"), MR_EFORMAT, "\"merges\""},
    {OF_MODEL("\"vocab\":{\"a\":0,\"b\":0},\"merges\":[]"), MR_EFORMAT, "two tokens have the id 0"},
    {OF_MODEL("\"vocab\":{\"a\":0,\"a\":1},\"merges\":[]"), MR_EFORMAT, "t.json"},
    {OF_MODEL("\"vocab\":{\"a\":-1},\"merges\":[]"), MR_EFORMAT, "model.vocab"},
    {OF_MODEL("\"vocab\":{\"a\":16777216},\"merges\":[]"), MR_EFORMAT, "model.vocab"},
    {OF_MODEL("\"vocab\":{\"a\":1000000},\"merges\":[]"), MR_EFORMAT, "too sparse"},
    {OF_MODEL("\"vocab\":{\"a\":\"0\"},\"merges\":[]"), MR_EFORMAT, "model.vocab"},
    {OF_MODEL("\"vocab\":{\"a\":1.5},\"merges\":[]"), MR_EFORMAT, "model.vocab"},
    {OF_MODEL(VOCAB ",\"merges\":[\"a c\"]"), MR_EFORMAT, "model.merges[0]"},
    {OF_MODEL(VOCAB ",\"merges\":[\"b a\"]"), MR_EFORMAT, "its result \"ba\""},
    {OF_MODEL(VOCAB ",\"merges\":[\"a b c\"]"), MR_EFORMAT, "more than 2 parts"},
    {OF_MODEL(VOCAB ",\"merges\":[\"ab\"]"), MR_EFORMAT, "1 part"},
    {OF_MODEL(VOCAB ",\"merges\":[[\"a\",\"b\",\"a\"]]"), MR_EFORMAT, "3 parts"},
    {OF_MODEL(VOCAB ",\"merges\":[[\"a\",\"b\"],\"a b\"]"), MR_EFORMAT, "model.merges[1]"},
    {OF_MODEL(VOCAB ",\"merges\":[7]"), MR_EFORMAT, "model.merges[0]"},
    {OF_MODEL(VOCAB ",\"merges\":[[\"a\",1]]"), MR_EFORMAT, "model.merges[0]"},
    {OF_MODEL(VOCAB ",\"merges\":[],\"dropout\":0.1"), MR_EUNSUPPORTED, "model.dropout"},
    {OF_MODEL(VOCAB ",\"merges\":[],\"dropout\":\"no\""), MR_EFORMAT, "model.dropout"},
    {OF_MODEL(VOCAB ",\"merges\":[],\"end_of_word_suffix\":\"</w>\""), MR_EUNSUPPORTED,
     "model.end_of_word_suffix"},
    {OF_MODEL(VOCAB ",\"merges\":[],\"continuing_subword_prefix\":\"##\""), MR_EUNSUPPORTED,
     "model.continuing_subword_prefix"},
    {OF_MODEL(VOCAB ",\"merges\":[],\"byte_fallback\":1"), MR_EFORMAT, "model.byte_fallback"},
    {OF_MODEL(VOCAB ",\"merges\":[],\"unk_token\":3"), MR_EFORMAT, "model.unk_token"},
    {WITH("\"truncation\":{\"max_length\":8}"), MR_EUNSUPPORTED, "\"truncation\""},
    {WITH("\"padding\":{}"), MR_EUNSUPPORTED, "\"padding\""},
    {WITH("\"normalizer\":{\"type\":\"Precompiled\"}"), MR_EFORMAT, "precompiled_charsmap"},
    {WITH("\"normalizer\":{\"type\":\"Precompiled\",\"precompiled_charsmap\":\"AAAA\"}"),
     MR_EFORMAT, "character map ends early"},
    {WITH("\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Nmt\"}]}"),
     MR_EUNSUPPORTED, "\"normalizer.normalizers[0]\""},
    {WITH("\"normalizer\":{}"), MR_EFORMAT, "has no \"type\""},
    {WITH("\"normalizer\":\"NFC\""), MR_EFORMAT, "\"normalizer\""},
    {WITH("\"normalizer\":{\"type\":\"Replace\",\"pattern\":{\"String\":\"x\"}}"), MR_EFORMAT,
     "\"content\""},
    {WITH("\"normalizer\":{\"type\":\"Strip\",\"strip_left\":true}"), MR_EFORMAT, "strip_right"},
    {WITH("\"pre_tokenizer\":{\"type\":\"UnicodeScripts\"}"), MR_EUNSUPPORTED,
     "pre_tokenizer of type \"UnicodeScripts\""},
    {WITH("\"pre_tokenizer\":{\"type\":\"Digits\"}"), MR_EFORMAT, "individual_digits"},
    {WITH(SPLIT("{\"Regex\":\"(\"}")), MR_EFORMAT, "regular expression"},
    {WITH(SPLIT("{\"Regex\":\"\\\\y\"}")), MR_EUNSUPPORTED, "\\y at byte 0"},
    {WITH(SPLIT("{\"Glob\":\"*\"}")), MR_EFORMAT, "\"Regex\""},
    {WITH(SPLIT("\"x\"")), MR_EFORMAT, "\"pattern\""},
    {WITH("\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"String\":\"x\"},\"invert\":false,"
          "\"behavior\":\"Odd\"}"),
     MR_EFORMAT, "behaviour"},
    {WITH("\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"xy\"}"), MR_EFORMAT,
     "one character"},
    {WITH("\"decoder\":{\"type\":\"WordPiece\"}"), MR_EUNSUPPORTED,
     "decoder of type \"WordPiece\""},
    {WITH("\"decoder\":{\"type\":\"Strip\",\"content\":\" \",\"start\":-1,\"stop\":0}"), MR_EFORMAT,
     "decoder.start"},
    {WITH("\"post_processor\":{\"type\":\"Odd\"}"), MR_EUNSUPPORTED,
     "post_processor of type \"Odd\""},
    {WITH("\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{"
          "\"id\":\"x\"}}],"
          "\"special_tokens\":{}}"),
     MR_EFORMAT, "is not among special_tokens"},
    {WITH("\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[],\"special_tokens\":{}"
          "}"),
     MR_EFORMAT, "has no Sequence"},
    {WITH("\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{"
          "\"id\":\"x\"}}],"
          "\"special_tokens\":{\"x\":{\"ids\":[9]}}}"),
     MR_EFORMAT, "ids[0]"},
    {ADDED("7"), MR_EFORMAT, "added_tokens[0]"},
    {ADDED("{\"id\":4}"), MR_EFORMAT, "\"content\""},
    {ADDED("{\"id\":4,\"content\":\"\"}"), MR_EFORMAT, "is empty"},
    {ADDED("{\"id\":2,\"content\":\"<x>\"}"), MR_EFORMAT, "two tokens have the id 2"},
    {ADDED("{\"id\":9,\"content\":\"<x>\"}"), MR_EFORMAT, "the next free one is 4"},
    {ADDED("{\"id\":4,\"content\":\"ab\"}"), MR_EFORMAT, "has the id 2"},
    {ADDED("{\"id\":4,\"content\":\"x\"},{\"id\":4,\"content\":\"x\"}"), MR_EFORMAT, "twice"},
    {ADDED("{\"id\":4,\"content\":\"x\",\"special\":1}"), MR_EFORMAT, "special"},
    {ADDED("{\"id\":-4,\"content\":\"x\"}"), MR_EFORMAT, "added_tokens[0].id"},
    {"{\"added_tokens\":{}," MODEL "}", MR_EFORMAT, "must be a list"},
    {"{\"normalizer\":{\"type\":\"Lowercase\"},\"added_tokens\":[{\"id\":4,\"content\":\"X\","
     "\"normalized\":true},"
     "{\"id\":5,\"content\":\"x\",\"normalized\":true}]," MODEL "}",
     MR_EFORMAT, "the same text"},
    {"{\"model\":{" VOCAB ",\"merges\":[\"\xff b\"]}}", MR_EFORMAT, "UTF-8"},
    {"{\"model\":{" VOCAB ",\"merges\":[\"a b\"]}", MR_EFORMAT, "t.json"},
};

static void refuse(const mr_tokenizer_source *s, mr_err code, const char *message)
{
    mr_tokenizer *t = NULL;
    mr_err err = mr_tokenizer_parse(&t, s);
    if (err != code || t || !strstr(mr_error(), message) || strncmp(mr_error(), "t", 1) != 0 ||
        strchr(mr_error(), '\n'))
        fail_msg("%s: error %d \"%s\", not %d \"%s\"", s->config ? s->config : s->text, (int)err,
                 err ? mr_error() : "", (int)code, message);
}

static void tokenizer_json(void **state)
{
    (void)state;
    size_t before = memory_held();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        mr_tokenizer_source s = {
            .file = "t.json", .text = cases[i].text, .len = strlen(cases[i].text)};
        refuse(&s, cases[i].code, cases[i].message);
        assert_int_equal(memory_held(), before);
    }
}

#define PLAIN "{" MODEL "}"

static const struct {
    const char *text;
    mr_err code;
    const char *message;
} configs[] = {
    {"[]", MR_EFORMAT, "must hold an object"},
    {"{", MR_EFORMAT, "tc.json"},
    {"{\"add_bos_token\":true}", MR_EFORMAT, "\"bos_token\" names no token"},
    {"{\"add_bos_token\":true,\"bos_token\":\"<s>\"}", MR_EFORMAT, "\"bos_token\" names no token"},
    {"{\"add_eos_token\":true,\"eos_token\":null}", MR_EFORMAT, "\"eos_token\" names no token"},
    {"{\"add_bos_token\":\"yes\"}", MR_EFORMAT, "add_bos_token"},
    {"{\"bos_token\":7}", MR_EFORMAT, "bos_token"},
    {"{\"chat_template\":7}", MR_EFORMAT, "chat_template"},
    {"{\"chat_template\":[{\"name\":\"default\"}]}", MR_EFORMAT, "chat_template[0]"},
};

static void tokenizer_config(void **state)
{
    (void)state;
    size_t before = memory_held();
    for (size_t i = 0; i < sizeof configs / sizeof *configs; i++) {
        mr_tokenizer_source s = {.file = "t.json", .text = PLAIN, .len = sizeof PLAIN - 1};
        s.config_file = "tc.json";
        s.config = configs[i].text;
        s.config_len = strlen(s.config);
        refuse(&s, configs[i].code, configs[i].message);
        assert_int_equal(memory_held(), before);
    }
}

/* bos and eos by the config: added once, whoever asks; false takes nothing away. */
static void ends(void **state)
{
    (void)state;
    static const struct {
        const char *post, *config;
        int n;
        int32_t ids[4], bos, eos;
    } good[] = {
        {"null", "{}", 1, {2}, -1, -1},
        {"null", "{\"add_bos_token\":true,\"bos_token\":\"a\"}", 2, {0, 2}, 0, -1},
        {"null", "{\"add_eos_token\":true,\"eos_token\":{\"content\":\"b\"}}", 2, {2, 1}, -1, 1},
        {"{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"a\"}},{"
         "\"Sequence\":{\"id\":\"A\"}}],"
         "\"special_tokens\":{\"a\":{\"ids\":[0]}}}",
         "{\"add_bos_token\":true,\"bos_token\":\"a\",\"eos_token\":\"b\"}",
         2,
         {0, 2},
         0,
         1},
        {"{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"a\"}},{"
         "\"Sequence\":{\"id\":\"A\"}}],"
         "\"special_tokens\":{\"a\":{\"ids\":[0]}}}",
         "{\"add_bos_token\":false}",
         2,
         {0, 2},
         0,
         -1},
    };
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        mr_buf json = {0};
        mr_tokenizer *t;
        mr_ids ids = {0};
        mr_buf_printf(&json, "{\"post_processor\":%s," MODEL "}", good[i].post);
        mr_tokenizer_source s = {.file = "t.json", .text = json.data, .len = json.len};
        s.config_file = "tc.json";
        s.config = good[i].config;
        s.config_len = strlen(s.config);
        if (mr_tokenizer_parse(&t, &s))
            fail_msg("%s", mr_error());
        assert_int_equal(mr_tokenize(t, "ab", 2, MR_TOK_SPECIAL, &ids), MR_OK);
        assert_int_equal(ids.n, good[i].n);
        assert_memory_equal(ids.id, good[i].ids, ids.n * sizeof *ids.id);
        assert_int_equal(mr_tokenizer_bos(t), good[i].bos);
        assert_int_equal(mr_tokenizer_eos(t), good[i].eos);
        mr_ids_free(&ids);
        mr_buf_free(&json);
        mr_tokenizer_close(t);
    }
}

static void files(void **state)
{
    (void)state;
    mr_tokenizer *t;
    assert_int_equal(mr_tokenizer_open(&t, "tests/text"), MR_EIO);
    assert_non_null(strstr(mr_error(), "tests/text: has no tokenizer.json"));
    assert_int_equal(mr_tokenizer_open(&t, "no-such-folder"), MR_EIO);
    assert_int_equal(mr_tokenizer_open(&t, DATA "models/tekken.json"), MR_EUNSUPPORTED);
    assert_non_null(strstr(mr_error(), "tekken.json: is a Tekken file"));
    assert_int_equal(mr_tokenizer_open(&t, DATA "lines.json"), MR_EFORMAT);
    assert_null(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tokenizer_json),
        cmocka_unit_test(tokenizer_config),
        cmocka_unit_test(ends),
        cmocka_unit_test(files),
    };
    return RUN_TESTS(tests);
}
