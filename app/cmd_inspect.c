/* millrace inspect: config, family, tensors, bytes by dtype, tokenizer, memory. */
#include "app.h"

int cmd_inspect(int argc, char **argv)
{
    int64_t context = 0;
    bool json = false;
    const char *model;
    const app_opt opts[] = {
        {"--ctx", NULL, APP_INT, &context, 1, 1 << 30, "N", "context length to count memory for",
         NULL},
        {"--json", NULL, APP_FLAG, &json, 0, 0, NULL, "one JSON document", NULL},
        {0},
    };
    int code = app_parse(app_command("inspect"), opts, argc, argv, &model, 1);
    if (code >= 0)
        return code;
    char *text;
    size_t len;
    mr_status st = mr_inspect(model, context, json, &text, &len);
    if (st)
        return app_failed(st);
    app_write(text, len);
    mr_memory_free(text);
    return app_out_end(APP_OK);
}
