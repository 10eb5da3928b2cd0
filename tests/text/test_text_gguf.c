/* Vocabularies as GGUF holds them: ids equal those of the tokenizer that the vocabulary was made
 * from; wrong vocabularies are refused by name. */
#include "text_help.h"

typedef struct vocab {
    mr_vocab v;
    mr_str *tokens, *merges;
    float *scores;
    int32_t *types;
    mr_buf *texts; /* what the strings point to */
    size_t n_texts;
    mr_buf model, pre;
} vocab;

static mr_str *strings(vocab *o, mr_jval list, int32_t *n)
{
    *n = (int32_t)mr_jcount(list);
    mr_str *out = calloc((size_t)*n + 1, sizeof *out);
    mr_str *at = out;
    for (mr_jval c = mr_jfirst(list); c.doc; c = mr_jnext(c)) {
        mr_buf *b = &o->texts[o->n_texts++];
        copy_string(c, b);
        *at++ = (mr_str){b->data ? b->data : "", b->len};
    }
    return out;
}

static int flag(mr_jval v)
{
    bool b;
    if (!mr_jhas(v))
        return -1;
    assert_int_equal(mr_jbool(v, &b), MR_OK);
    return b;
}

static int32_t number(mr_jval v)
{
    int64_t n;
    assert_int_equal(mr_jint(v, -1, 1 << 24, &n), MR_OK);
    return (int32_t)n;
}

static void read_vocab(vocab *o, mr_jval j)
{
    memset(o, 0, sizeof *o);
    mr_jval tokens = mr_jget(j, "tokens"), merges = mr_jget(j, "merges");
    o->texts = calloc(mr_jcount(tokens) + mr_jcount(merges) + 1, sizeof *o->texts);
    o->tokens = strings(o, tokens, &o->v.n_tokens);
    o->merges = strings(o, merges, &o->v.n_merges);
    size_t n = (size_t)o->v.n_tokens, i = 0;
    o->types = calloc(n, sizeof *o->types);
    for (mr_jval c = mr_jfirst(mr_jget(j, "types")); c.doc; c = mr_jnext(c))
        o->types[i++] = number(c);
    if (mr_jhas(mr_jget(j, "scores"))) {
        o->scores = calloc(n, sizeof *o->scores);
        i = 0;
        for (mr_jval c = mr_jfirst(mr_jget(j, "scores")); c.doc; c = mr_jnext(c)) {
            double x;
            assert_int_equal(mr_jnum(c, &x), MR_OK);
            o->scores[i++] = (float)x;
        }
    }
    copy_string(mr_jget(j, "model"), &o->model);
    if (mr_jhas(mr_jget(j, "pre")))
        copy_string(mr_jget(j, "pre"), &o->pre);
    o->v.file = "m.gguf";
    o->v.model = o->model.data;
    o->v.pre = o->pre.data;
    o->v.tokens = o->tokens;
    o->v.merges = o->merges;
    o->v.scores = o->scores;
    o->v.types = o->types;
    o->v.bos = number(mr_jget(j, "bos"));
    o->v.eos = number(mr_jget(j, "eos"));
    o->v.unk = number(mr_jget(j, "unk"));
    o->v.add_bos = flag(mr_jget(j, "add_bos_token"));
    o->v.add_eos = flag(mr_jget(j, "add_eos_token"));
    o->v.add_space_prefix = flag(mr_jget(j, "add_space_prefix"));
}

static void free_vocab(vocab *o)
{
    for (size_t i = 0; i < o->n_texts; i++)
        mr_buf_free(&o->texts[i]);
    free(o->texts);
    free(o->tokens);
    free(o->merges);
    free(o->scores);
    free(o->types);
    mr_buf_free(&o->model);
    mr_buf_free(&o->pre);
}

static void check(const char *name, const mr_tokenizer *t, mr_jval text, mr_jval ids)
{
    mr_buf line = {0};
    mr_ids want = {0}, got = {0};
    copy_string(text, &line);
    read_ids(ids, &want);
    if (mr_tokenize(t, line.data ? line.data : "", line.len, 0, &got))
        fail_msg("%s: %s", name, mr_error());
    check_ids(name, (mr_str){line.data, line.len}, &want, &got);
    mr_buf_free(&line);
    mr_ids_free(&want);
    mr_ids_free(&got);
}

static void check_case(mr_jval c, mr_jval lines)
{
    vocab o;
    mr_tokenizer *t;
    mr_buf name = {0};
    copy_string(mr_jget(c, "name"), &name);
    read_vocab(&o, mr_jget(c, "vocab"));
    if (mr_tokenizer_from_vocab(&t, &o.v))
        fail_msg("%s: %s", name.data, mr_error());
    assert_int_equal(mr_tokenizer_size(t), o.v.n_tokens);
    for (mr_jval p = mr_jfirst(mr_jget(c, "texts")); p.doc; p = mr_jnext(p)) {
        mr_jval text = mr_jfirst(p);
        check(name.data, t, text, mr_jnext(text));
    }
    mr_jval ids = mr_jfirst(mr_jget(c, "ids"));
    int32_t step = ids.doc ? number(mr_jget(c, "step")) : 1, n = 0;
    for (mr_jval l = mr_jfirst(lines); ids.doc; l = mr_jnext(l), n++)
        if (n % step == 0) {
            check(name.data, t, l, ids);
            ids = mr_jnext(ids);
        }
    mr_tokenizer_close(t);
    free_vocab(&o);
    mr_buf_free(&name);
}

static void stored_cases(void **state)
{
    (void)state;
    stored lines = load(DATA "lines.json"), data = load(DATA "gguf.json");
    int n = 0;
    for (mr_jval c = mr_jfirst(data.root); c.doc; c = mr_jnext(c), n++)
        check_case(c, lines.root);
    assert_int_equal(n, 14);
    unload(&lines);
    unload(&data);
}

/* ---- by hand ----------------------------------------------------------------------------- */

#define S(z) ((mr_str){z, sizeof z - 1})

/* "a" and "b" merge in byte-level BPE; bos is 3. */
static const mr_str tiny[] = {{"a", 1}, {"b", 1}, {"ab", 2}, {"<s>", 3}, {"</s>", 4}};
static const int32_t tiny_types[] = {1, 1, 1, 3, 3};
static const float tiny_scores[] = {0, 0, -1, 0, 0};
static const mr_str tiny_merges[] = {{"a b", 3}};

static mr_vocab tiny_vocab(const char *model)
{
    mr_vocab v = {
        .file = "m.gguf", .model = model, .n_tokens = 5, .tokens = tiny, .types = tiny_types};
    v.scores = tiny_scores;
    v.n_merges = 1;
    v.merges = tiny_merges;
    v.bos = 3;
    v.eos = 4;
    v.unk = -1;
    v.add_bos = v.add_eos = v.add_space_prefix = -1;
    return v;
}

static void expect(const mr_vocab *v, const char *text, int n, const int32_t *ids)
{
    mr_tokenizer *t;
    mr_ids got = {0};
    if (mr_tokenizer_from_vocab(&t, v))
        fail_msg("%s", mr_error());
    assert_int_equal(mr_tokenize(t, text, strlen(text), MR_TOK_SPECIAL, &got), MR_OK);
    assert_int_equal(got.n, n);
    assert_memory_equal(got.id, ids, (size_t)n * sizeof *ids);
    mr_ids_free(&got);
    mr_tokenizer_close(t);
}

/* Who adds bos when the file does not say: SentencePiece does, byte-level BPE only for Llama 3. */
static void ends(void **state)
{
    (void)state;
    mr_vocab v = tiny_vocab("gpt2");
    expect(&v, "ab</s>a", 3, (int32_t[]){2, 4, 0});
    v.strip_after = true;
    expect(&v, "ab</s> \na", 3, (int32_t[]){2, 4, 0});
    v.strip_after = false;
    v.pre = "llama-bpe";
    expect(&v, "ab", 2, (int32_t[]){3, 2});
    v.add_bos = 0;
    v.add_eos = 1;
    expect(&v, "aab", 3, (int32_t[]){0, 2, 4});
    v = tiny_vocab("llama");
    v.add_space_prefix = 0;
    expect(&v, "aab", 3, (int32_t[]){3, 0, 2});
    v = tiny_vocab("gemma4");
    expect(&v, "aab", 3, (int32_t[]){3, 0, 2});
    expect(&v, "a\nb", 3, (int32_t[]){3, 0, 1}); /* no line feed, no bytes, no unknown */
}

static void refuse(const mr_vocab *v, mr_err code, const char *message)
{
    mr_tokenizer *t;
    assert_int_equal(mr_tokenizer_from_vocab(&t, v), code);
    assert_null(t);
    if (!strstr(mr_error(), message))
        fail_msg("\"%s\" is not in \"%s\"", message, mr_error());
}

static void broken(void **state)
{
    (void)state;
    size_t before = memory_held();
    mr_vocab v = tiny_vocab("bert");
    refuse(&v, MR_EUNSUPPORTED, "m.gguf: tokenizer.ggml.model \"bert\"");
    v = tiny_vocab("gpt2");
    v.pre = "no-such";
    refuse(&v, MR_EUNSUPPORTED, "tokenizer.ggml.pre \"no-such\"");
    v = tiny_vocab("gpt2");
    v.merges = (mr_str[]){{"a c", 3}};
    refuse(&v, MR_EFORMAT, "tokenizer.ggml.merges[0]");
    v.merges = (mr_str[]){{"ab", 2}};
    refuse(&v, MR_EFORMAT, "is not two parts");
    v = tiny_vocab("gpt2");
    v.bos = 5;
    refuse(&v, MR_EFORMAT, "bos_token_id 5 is outside");
    v = tiny_vocab("gpt2");
    v.n_tokens = 0;
    refuse(&v, MR_EFORMAT, "tokenizer.ggml.tokens");
    v = tiny_vocab("gpt2");
    v.tokens = (mr_str[]){{"\xFF", 1}, S("b"), S("ab"), S("x"), S("y")};
    refuse(&v, MR_EFORMAT, "tokens[0] is not UTF-8");
    v = tiny_vocab("llama");
    v.scores = NULL;
    refuse(&v, MR_EFORMAT, "tokenizer.ggml.scores is missing");
    v = tiny_vocab("llama");
    v.bos = -1;
    v.add_bos = 1;
    refuse(&v, MR_EFORMAT, "add_bos_token without");
    assert_int_equal(memory_held(), before);
}

static void every_pre(void **state)
{
    (void)state;
    static const char *names[] = {"default",        "gpt-2",
                                  "smollm",         "starcoder",
                                  "falcon",         "mpt",
                                  "refact",         "command-r",
                                  "llama-bpe",      "llama-v3",
                                  "llama3",         "glm4",
                                  "qwen2",          "qwen35",
                                  "deepseek-v3",    "deepseek-llm",
                                  "deepseek-coder", "bailingmoe",
                                  "bailingmoe2",    "llada-moe",
                                  "gpt-4o",         "kimi-k2",
                                  "llama4",         "tekken",
                                  "pixtral",        "falcon3",
                                  "lfm2",           "glm5",
                                  "chatglm-bpe",    "smaug-bpe",
                                  "dbrx",           "stablelm2",
                                  "phi-2",          "olmo",
                                  "exaone4",        "codeshell",
                                  "minerva-7b",     "deepseek-r1-qwen",
                                  "hunyuan-dense",  "joyai-llm",
                                  "kanana2"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        mr_vocab v = tiny_vocab("gpt2");
        v.pre = names[i];
        v.add_bos = 0;
        expect(&v, "abab", 2, (int32_t[]){2, 2});
    }
}

/* Falcon cuts at digits where bytes are characters already: C2 BD, which is U+00BD, has a byte that
 * is a digit then. */
static void digits_of_bytes(void **state)
{
    (void)state;
    static const mr_str tokens[] = {
        {"\xC3\x82", 2}, {"\xC2\xBD", 2}, {"\xC3\x82\xC2\xBD", 4}, {"<s>", 3}, {"</s>", 4}};
    static const mr_str merges[] = {{"\xC3\x82 \xC2\xBD", 5}};
    mr_vocab v = tiny_vocab("gpt2");
    v.tokens = tokens;
    v.merges = merges;
    v.pre = "gpt-2";
    expect(&v, "\xC2\xBD", 1, (int32_t[]){2});
    v.pre = "falcon";
    expect(&v, "\xC2\xBD", 2, (int32_t[]){0, 1});
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(stored_cases), cmocka_unit_test(digits_of_bytes), cmocka_unit_test(ends),
        cmocka_unit_test(broken),       cmocka_unit_test(every_pre),
    };
    return RUN_TESTS(tests);
}
