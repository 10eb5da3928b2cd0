/* millrace convert: a model's weights written again in another format. */
#include <stdio.h>

#include "app.h"

static void note(void *ctx, const char *line)
{
    (void)ctx;
    fprintf(stderr, "%s\n", line);
}

int cmd_convert(int argc, char **argv)
{
    int64_t group = 0, threads = 0;
    int shown = -1;
    const char *pos[2];
    mr_convert_opts o = {.note = note, .progress = app_percent, .ctx = &shown};
    const app_opt opts[] = {
        {"--format", NULL, APP_STR, &o.format, 0, 0, "F",
         "safetensors (default: a directory, as MLX has it) or gguf (a file)", NULL},
        {"--quant", NULL, APP_STR, &o.quant, 0, 0, "Q",
         "f32 f16 bf16; safetensors: q2 q3 q4 q5 q6 q8; gguf: q4 q8 or a type such as q4_k "
         "(default: floats as "
         "they are)",
         NULL},
        {"--group", NULL, APP_INT, &group, 1, 1024, "G",
         "group of affine integers: 32, 64 (default) or 128", NULL},
        {"--threads", "-t", APP_INT, &threads, 1, 1024, "T",
         "threads (default: the CPUs available)", NULL},
        {"--force", NULL, APP_FLAG, &o.force, 0, 0, NULL,
         "replace what is there: the file, or the model in the directory", NULL},
        {0},
    };
    int code = app_parse(app_command("convert"), opts, argc, argv, pos, 2);
    if (code >= 0)
        return code;
    o.group = (int)group;
    o.threads = (int)threads;
    app_catch_interrupt();
    mr_status st = mr_convert(pos[0], pos[1], &o);
    code = st ? app_failed(st) : APP_OK;
    return st == MR_STATUS_CANCELLED ? app_interrupted() : code;
}
