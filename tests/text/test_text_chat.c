/* Conversations through a chat template: which template counts, its variables, and bad input. */
#include "text_help.h"
#include "text/tokenizer_parts.h"

#define QWEN                                                                                       \
    "{%- for message in messages %}\n    {{- \"<|im_start|>\" + message.role + \"\\n\" + "         \
    "message.content + '<|im_end|>\\n' }}\n{%- endfor %}\n{%- if add_generation_prompt %}\n    "   \
    "{{- "                                                                                         \
    "'<|im_start|>assistant\\n' }}\n{%- endif %}\n"

/* A whole conversation, or one turn of a user (not JSON). */
static mr_err render(const char *chat_template, const char *text, mr_buf *out)
{
    static const char json[] =
        "{\"model\":{\"vocab\":{\"a\":0,\"<s>\":1,\"</s>\":2},\"merges\":[]}}";
    static const char config[] = "{\"bos_token\":\"<s>\",\"eos_token\":{\"content\":\"</s>\"}}";
    mr_tokenizer_source s = {.file = "t.json", .text = json, .len = sizeof json - 1};
    mr_tokenizer *t;
    s.config_file = "tc.json";
    s.config = config;
    s.config_len = sizeof config - 1;
    s.chat_template = chat_template;
    s.chat_template_len = chat_template ? strlen(chat_template) : 0;
    assert_int_equal(mr_tokenizer_parse(&t, &s), MR_OK);
    if (chat_template)
        assert_string_equal(mr_tokenizer_template(t), chat_template);
    mr_err err = strchr("[{", text[0]) ? mr_chat_messages_render(t, text, strlen(text), out)
                                       : mr_chat_render(t, text, strlen(text), out);
    mr_tokenizer_close(t);
    return err;
}

static void known(void **state)
{
    (void)state;
    static const struct {
        const char *source, *text, *want;
    } cases[] = {
        {QWEN, "Hi 'you' \"\n\t\\",
         "<|im_start|>user\nHi 'you' \"\n\t\\<|im_end|>\n<|im_start|>assistant\n"},
        {QWEN, "[{\"role\":\"system\",\"content\":\"S\"},{\"role\":\"user\",\"content\":\"U\"}]",
         "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU<|im_end|>\n"
         "<|im_start|>assistant\n"},
        {QWEN,
         "{\"messages\":[{\"role\":\"user\",\"content\":\"U\"}],\"add_generation_prompt\":false}",
         "<|im_start|>user\nU<|im_end|>\n"},
        {"{{ bos_token }}[INST] {{ messages[0]['content'] }} [/INST]{{ eos_token }}", "Hi",
         "<s>[INST] Hi [/INST]</s>"},
        {"{{ tools }} {{ documents is none }} {{ enable_thinking is defined }}", "Hi",
         "None True False"},
        {"{{ tools[0].x }} {{ enable_thinking }}",
         "{\"messages\":[],\"tools\":[{\"x\":1}],\"enable_thinking\":false}", "1 False"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        mr_buf out = {0};
        if (render(cases[i].source, cases[i].text, &out))
            fail_msg("%s", mr_error());
        assert_string_equal(out.data, cases[i].want);
        mr_buf_free(&out);
    }
}

static void refused(void **state)
{
    (void)state;
    static const struct {
        const char *source, *text;
        mr_err code;
        const char *message;
    } cases[] = {
        {NULL, "Hi", MR_EUNSUPPORTED, "no chat template"},
        {QWEN, "{\"tools\":[]}", MR_EFORMAT, "\"messages\""},
        {QWEN, "{\"messages\":{}}", MR_EFORMAT, "must be an array"},
        {QWEN, "[\"Hi\"]", MR_EFORMAT, "must be an object"},
        {QWEN, "[{\"role\":", MR_EFORMAT, "messages"},
        {QWEN, "H\xFF", MR_EFORMAT, "UTF-8 at byte 1"},
        {"{{ raise_exception('Only users') }}", "Hi", MR_EFORMAT, "line 1: Only users"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        mr_buf out = {0};
        assert_int_equal(render(cases[i].source, cases[i].text, &out), cases[i].code);
        if (!strstr(mr_error(), cases[i].message) || strchr(mr_error(), '\n'))
            fail_msg("%s", mr_error());
        mr_buf_free(&out);
    }
}

/* tokenizer_config.json may hold one template or several by name; a file of its own wins. */
static void sources(void **state)
{
    (void)state;
    static const char json[] = "{\"model\":{\"vocab\":{\"a\":0},\"merges\":[]}}";
    static const struct {
        const char *config, *jinja, *want;
    } cases[] = {
        {"{\"chat_template\":\"one\"}", NULL, "one"},
        {"{\"chat_template\":[{\"name\":\"tool_use\",\"template\":\"x\"},{\"name\":\"default\","
         "\"template\":\"y\"}]}",
         NULL, "y"},
        {"{\"chat_template\":[{\"name\":\"other\",\"template\":\"x\"}]}", NULL, "x"},
        {"{\"chat_template\":[{\"name\":\"p\",\"template\":\"x\"},{\"name\":\"q\",\"template\":"
         "\"y\"}]}",
         NULL, NULL},
        {"{\"chat_template\":\"one\"}", "file", "file"},
        {"{\"chat_template\":null}", NULL, NULL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        mr_tokenizer_source s = {.file = "t.json", .text = json, .len = sizeof json - 1};
        mr_tokenizer *t;
        s.config_file = "tc.json";
        s.config = cases[i].config;
        s.config_len = strlen(s.config);
        s.chat_template = cases[i].jinja;
        s.chat_template_len = s.chat_template ? strlen(s.chat_template) : 0;
        if (mr_tokenizer_parse(&t, &s))
            fail_msg("%s", mr_error());
        if (cases[i].want)
            assert_string_equal(mr_tokenizer_template(t), cases[i].want);
        else
            assert_null(mr_tokenizer_template(t));
        mr_tokenizer_close(t);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(known),
        cmocka_unit_test(refused),
        cmocka_unit_test(sources),
    };
    return RUN_TESTS(tests);
}
