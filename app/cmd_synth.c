/* millrace synth: a model of a config's shape with random weights. */
#include <stdio.h>

#include "app.h"

static void note(void *ctx, const char *line)
{
    (void)ctx;
    fprintf(stderr, "%s\n", line);
}

int cmd_synth(int argc, char **argv)
{
    int64_t group = 64, seed = 0;
    int shown = -1;
    const char *pos[2];
    mr_synth_opts o = {.quant = "bf16", .note = note, .ctx = &shown};
    const app_opt opts[] = {
        {"--format", NULL, APP_STR, &o.format, 0, 0, "F",
         "safetensors (default: a directory) or gguf (a file)", NULL},
        {"--quant", NULL, APP_STR, &o.quant, 0, 0, "Q",
         "f32, bf16 (default), q8 or q4 (MLX affine); gguf: also f16 and types such as q4_0, q4_k",
         NULL},
        {"--group", NULL, APP_INT, &group, 1, 1024, "G",
         "quantisation group: 32, 64 (default) or 128", NULL},
        {"--seed", NULL, APP_INT, &seed, 0, 9e18, "S", "of the random weights (default 0)", NULL},
        {"--force", NULL, APP_FLAG, &o.force, 0, 0, NULL,
         "replace what is there: the file, or the model in the directory", NULL},
        {0},
    };
    int code = app_parse(app_command("synth"), opts, argc, argv, pos, 2);
    if (code >= 0)
        return code;
    o.group = (int)group;
    o.seed = (uint64_t)seed;
    o.progress = app_percent;
    app_catch_interrupt();
    mr_status st = mr_synth(pos[0], pos[1], &o);
    code = st ? app_failed(st) : APP_OK;
    return st == MR_STATUS_CANCELLED ? app_interrupted() : code;
}
