/* Ids and texts equal those of the `tokenizers` package, for stored pairs.
 *
 * Each file data/NAME.json holds a small tokenizer (every kind of part in some of them), or
 * names a real one that is only there once fetched, and for the lines of data/lines.json and
 * some of its own: the ids; the decoding where it is not the line; and cuts out of id lists with
 * their decodings, special tokens kept and skipped.
 */
#include "text_help.h"
#include "text/tokenizer_parts.h"

typedef struct pairs {
    const char *name;
    mr_tokenizer *t;
    stored lines, data;
    mr_ids prefix, suffix, want, got;
    mr_buf line, text, stream, expected;
} pairs;

static void check_text(pairs *p, const char *what, const mr_buf *want, const mr_buf *got)
{
    if (want->len != got->len ||
        memcmp(want->data ? want->data : "", got->data ? got->data : "", want->len))
        fail_msg("%s: %s \"%.*s\" gives \"%.*s\", not \"%.*s\"", p->name, what, (int)p->line.len,
                 p->line.data, (int)got->len, got->data, (int)want->len, want->data);
}

/* All at once and as a stream; every step of the stream ends with a whole character. */
static void check_decoding(pairs *p, const mr_ids *ids, bool skip, const mr_buf *want)
{
    mr_detok *d;
    mr_buf_clear(&p->text);
    mr_buf_clear(&p->stream);
    assert_int_equal(mr_detokenize(p->t, ids->id, ids->n, skip, &p->text), MR_OK);
    check_text(p, "decoding of", want, &p->text);
    assert_int_equal(mr_detok_new(&d, p->t, skip), MR_OK);
    for (size_t i = 0; i <= ids->n; i++) {
        size_t at = p->stream.len;
        if (i < ids->n)
            assert_int_equal(mr_detok_push(d, ids->id[i], &p->stream), MR_OK);
        else
            assert_int_equal(mr_detok_flush(d, &p->stream), MR_OK);
        size_t more = p->stream.len - at;
        if (more)
            assert_int_equal(mr_utf8_check(p->stream.data + at, more), more);
    }
    mr_detok_free(d);
    check_text(p, "stream of", want, &p->stream);
}

static void check_line(pairs *p, mr_jval ids, mr_jval decoded)
{
    mr_str line = {p->line.data ? p->line.data : "", p->line.len};
    read_ids(ids, &p->want);
    p->got.n = 0;
    if (mr_tokenize(p->t, line.data, line.len, 0, &p->got))
        fail_msg("%s: %s", p->name, mr_error());
    check_ids(p->name, line, &p->want, &p->got);
    if (decoded.doc)
        copy_string(decoded, &p->expected);
    check_decoding(p, &p->got, false, decoded.doc ? &p->expected : &p->line);
    p->got.n = 0;
    assert_int_equal(mr_tokenize(p->t, line.data, line.len, MR_TOK_SPECIAL, &p->got), MR_OK);
    assert_int_equal(p->got.n, p->prefix.n + p->want.n + p->suffix.n);
    for (size_t i = 0; i < p->got.n; i++) {
        size_t k = i - p->prefix.n;
        int32_t id = i < p->prefix.n ? p->prefix.id[i]
                     : k < p->want.n ? p->want.id[k]
                                     : p->suffix.id[k - p->want.n];
        assert_int_equal(p->got.id[i], id);
    }
}

static void check_lines(pairs *p)
{
    mr_jval ids = mr_jfirst(mr_jget(p->data.root, "ids"));
    mr_jval list[2] = {p->lines.root, mr_jget(p->data.root, "lines")};
    size_t n = 0;
    for (int k = 0; k < 2; k++)
        for (mr_jval c = mr_jfirst(list[k]); c.doc; c = mr_jnext(c), n++) {
            char key[24];
            snprintf(key, sizeof key, "%zu", n);
            copy_string(c, &p->line);
            assert_non_null(ids.doc);
            check_line(p, ids, mr_jget(mr_jget(p->data.root, "decoded"), key));
            ids = mr_jnext(ids);
        }
    assert_null(ids.doc);
    assert_true(n >= 300);
}

static void check_pieces(pairs *p)
{
    mr_jval kept = mr_jfirst(mr_jget(p->data.root, "kept"));
    mr_jval skipped = mr_jfirst(mr_jget(p->data.root, "skipped"));
    size_t n = 0;
    mr_buf_clear(&p->line);
    mr_buf_puts(&p->line, "(ids)");
    for (mr_jval c = mr_jfirst(mr_jget(p->data.root, "pieces")); c.doc; c = mr_jnext(c), n++) {
        read_ids(c, &p->want);
        copy_string(kept, &p->expected);
        check_decoding(p, &p->want, false, &p->expected);
        copy_string(skipped, &p->expected);
        check_decoding(p, &p->want, true, &p->expected);
        kept = mr_jnext(kept);
        skipped = mr_jnext(skipped);
    }
    assert_true(n >= 100);
}

static void run(pairs *p)
{
    read_ids(mr_jget(p->data.root, "prefix"), &p->prefix);
    read_ids(mr_jget(p->data.root, "suffix"), &p->suffix);
    check_lines(p);
    check_pieces(p);
}

static void finish(pairs *p)
{
    mr_tokenizer_close(p->t);
    unload(&p->lines);
    unload(&p->data);
    mr_ids_free(&p->prefix);
    mr_ids_free(&p->suffix);
    mr_ids_free(&p->want);
    mr_ids_free(&p->got);
    mr_buf_free(&p->line);
    mr_buf_free(&p->text);
    mr_buf_free(&p->stream);
    mr_buf_free(&p->expected);
}

static void start(pairs *p, const char *file)
{
    char path[128];
    snprintf(path, sizeof path, DATA "%s.json", file);
    p->lines = load(DATA "lines.json");
    p->data = load(path);
}

static void small(void **state)
{
    pairs p = {.name = *state};
    size_t before = memory_held();
    start(&p, p.name);
    mr_str text = mr_jraw(mr_jget(p.data.root, "tokenizer"));
    mr_tokenizer_source s = {.file = p.name, .text = text.data, .len = text.len};
    if (mr_tokenizer_parse(&p.t, &s))
        fail_msg("%s", mr_error());
    run(&p);
    finish(&p);
    assert_int_equal(memory_held(), before);
}

static void stories(void **state)
{
    (void)state;
    pairs p = {.name = "stories"};
    start(&p, "stories");
    if (mr_tokenizer_open(&p.t, "models/gemma3-stories"))
        fail_msg("%s", mr_error());
    assert_int_equal(mr_tokenizer_size(p.t), 4096);
    assert_int_equal(mr_tokenizer_bos(p.t), 2);
    assert_int_equal(mr_tokenizer_eos(p.t), 1);
    assert_true(mr_tokenizer_is_special(p.t, 2));
    assert_false(mr_tokenizer_is_special(p.t, 300));
    assert_int_equal(mr_tokenizer_id(p.t, "<|bos|>", 7), 2);
    assert_int_equal(mr_tokenizer_id(p.t, "no such token", 13), -1);
    assert_string_equal(mr_tokenizer_kind(p.t), "byte-level BPE");
    assert_null(mr_tokenizer_template(p.t));
    run(&p);
    finish(&p);
}

/* Real vocabularies are not in the repository: fetched once, they lie in a cache. */
static void real(void **state)
{
    pairs p = {.name = *state};
    char dir[512], file[64];
    const char *cache = getenv("MILLRACE_CACHE"), *home = getenv("HOME");
    if (cache)
        snprintf(dir, sizeof dir, "%s/tokenizers/%s", cache, p.name);
    else
        snprintf(dir, sizeof dir, "%s/.cache/millrace/tokenizers/%s", home ? home : "", p.name);
    if (mr_file_exists(dir) != 2) {
        printf("skipped: %s not fetched\n", p.name);
        skip();
    }
    snprintf(file, sizeof file, "real-%s", p.name);
    start(&p, file);
    if (mr_tokenizer_open(&p.t, dir))
        fail_msg("%s", mr_error());
    run(&p);
    finish(&p);
}

#define SMALL(name)                                                                                \
    {                                                                                              \
        name, small, NULL, NULL, (void *)(uintptr_t)name                                           \
    }
#define REAL(name)                                                                                 \
    {                                                                                              \
        name, real, NULL, NULL, (void *)(uintptr_t)name                                            \
    }

int main(void)
{
    const struct CMUnitTest tests[] = {
        SMALL("gemma"),   SMALL("llama3"),  SMALL("deepseek"),
        SMALL("qwen"),    SMALL("llama2"),  SMALL("metaspace"),
        SMALL("nfkc"),    SMALL("splits"),  SMALL("words"),
        SMALL("kimi"),    SMALL("gpt2"),    SMALL("bytenorm"),
        SMALL("bailing"), SMALL("unigram"), cmocka_unit_test(stories),
        REAL("gemma3"),   REAL("qwen3"),    REAL("deepseek_v3"),
        REAL("llama3"),   REAL("gptoss"),
    };
    return RUN_TESTS(tests);
}
