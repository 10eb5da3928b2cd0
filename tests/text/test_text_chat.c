/* Chat templates: ChatML is rendered as the template would, another is refused and named. */
#include "text_help.h"
#include "text/tokenizer_parts.h"

#define HEAD                                                                                       \
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"         \
    "{{ '<|im_start|>system\nYou are \\'kind\\'.<|im_end|>\n' }}{% endif %}"
#define MESSAGE                                                                                    \
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% "    \
    "endfor %}"
#define ASSISTANT "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
#define QWEN                                                                                       \
    "{%- for message in messages %}\n    {{- \"<|im_start|>\" + message.role + \"\\n\" + content " \
    "+ '<|im_end|>' + "                                                                            \
    "'\\n' }}\n{%- endfor %}\n{%- if add_generation_prompt %}\n    {{- "                           \
    "'<|im_start|>assistant\\n' }}\n"
#define THINK                                                                                      \
    "    {%- if enable_thinking is defined and enable_thinking is false %}\n"                      \
    "        {{- '<think>\\n\\n</think>\\n\\n' }}\n    {%- endif %}\n{%- endif %}"

static mr_err render(const char *chat_template, const char *user, mr_buf *out)
{
    static const char json[] = "{\"model\":{\"vocab\":{\"a\":0},\"merges\":[]}}";
    mr_tokenizer_source s = {.file = "t.json", .text = json, .len = sizeof json - 1};
    mr_tokenizer *t;
    s.chat_template = chat_template;
    s.chat_template_len = chat_template ? strlen(chat_template) : 0;
    assert_int_equal(mr_tokenizer_parse(&t, &s), MR_OK);
    if (chat_template)
        assert_string_equal(mr_tokenizer_template(t), chat_template);
    mr_err err = mr_chat_render(t, user, strlen(user), out);
    mr_tokenizer_close(t);
    return err;
}

static void known(void **state)
{
    (void)state;
    static const struct {
        const char *source, *want;
    } cases[] = {
        {HEAD MESSAGE ASSISTANT,
         "<|im_start|>system\nYou are 'kind'.<|im_end|>\n<|im_start|>user\nHi 'you'<|im_end|>\n"
         "<|im_start|>assistant\n"},
        {"{% for message in messages %}" MESSAGE ASSISTANT,
         "<|im_start|>user\nHi 'you'<|im_end|>\n<|im_start|>assistant\n"},
        {"{{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}" QWEN THINK,
         "<|im_start|>user\nHi 'you'<|im_end|>\n<|im_start|>assistant\n"},
        {QWEN THINK, "<|im_start|>user\nHi 'you'<|im_end|>\n<|im_start|>assistant\n"},
        {QWEN "{%- endif %}\n", "<|im_start|>user\nHi 'you'<|im_end|>\n<|im_start|>assistant\n"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        mr_buf out = {0};
        if (render(cases[i].source, "Hi 'you'", &out))
            fail_msg("%s", mr_error());
        assert_string_equal(out.data, cases[i].want);
        mr_buf_free(&out);
    }
}

static void refused(void **state)
{
    (void)state;
    static const struct {
        const char *source, *message;
    } cases[] = {
        {NULL, "no chat template"},
        {"{{ bos_token }}[INST] {{ messages[0]['content'] }} [/INST] and more text",
         "\"{{ bos_token }}[INST] {{ messages[0]['co..."},
        {"{% for m in messages %}<|im_start|>{{ m.role }}<|im_end|>{% endfor %}",
         "a form of its own"},
        {"{% for message in messages %}" MESSAGE, "opens the assistant's turn"},
        {"{% for message in messages %}" MESSAGE
         "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}",
         "opens the assistant's turn"},
        {QWEN "    {{- '<think>\\n' }}\n{%- endif %}", "opens the assistant's turn"},
        {QWEN "{%- endif %}\nDone", "opens the assistant's turn"},
        {"{{ bos_token }}{% for message in messages %}" MESSAGE ASSISTANT, "prints bos_token"},
        {"{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + "
         "message['content'] | trim + '<|im_end|>' + '\n'}}"
         "{% endfor %}" ASSISTANT,
         "a form of its own"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        mr_buf out = {0};
        assert_int_equal(render(cases[i].source, "Hi", &out), MR_EUNSUPPORTED);
        if (!strstr(mr_error(), cases[i].message) || strchr(mr_error(), '\n'))
            fail_msg("%s", mr_error());
        assert_int_equal(out.len, 0);
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
