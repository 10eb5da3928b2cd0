/* millrace graph: the graph at a stage of the compiler, or its reports. */
#include "app.h"

int cmd_graph(int argc, char **argv)
{
    app_engine engine = {0};
    mr_view_opts v = {0};
    const char *model;
    const app_opt opts[] = {
        {"--plan", NULL, APP_STR, &v.plan, 0, 0, "NAME",
         "decode (default), prefill; canvas, for models with canvases", NULL},
        {"--stage", NULL, APP_STR, &v.stage, 0, 0, "NAME", "built, fused (default) or plan", NULL},
        {"--format", NULL, APP_STR, &v.format, 0, 0, "NAME", "text (default), dot, svg or json",
         NULL},
        {"--report", NULL, APP_FLAG, &v.report, 0, 0, NULL,
         "what the passes did, and the kernel of each step", NULL},
        {"--block-length", NULL, APP_INT, &engine.block_length, 1, 4096, "B",
         "diffusion: block length", NULL},
        APP_ENGINE_OPTS(engine),
        {0},
    };
    int code = app_parse(app_command("graph"), opts, argc, argv, &model, 1);
    if (code >= 0)
        return code;
    char *text;
    size_t len;
    app_engine_opts(&engine, &v.engine);
    mr_status st = mr_view(model, &v, &text, &len);
    if (st)
        return app_failed(st);
    app_write(text, len);
    mr_memory_free(text);
    return app_out_end(APP_OK);
}
