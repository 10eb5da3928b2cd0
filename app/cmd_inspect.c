/* millrace inspect: config, family, tensors, bytes by dtype, tokenizer, memory; or blocks of a GGUF
 * type as numbers. */
#include <string.h>

#include "app.h"
#include "base/mem.h"

enum { BLOCKS_MAX = 1 << 30 };

static mr_status write_values(const char *path, const float *values, int64_t n)
{
    mr_out o;
    MR_TRY(mr_out_open(&o, path));
    mr_status st = app_npy_head(&o, 0, n);
    if (!st)
        st = (mr_status)mr_out_write(&o, values, (size_t)n * sizeof *values);
    if (!st)
        return (mr_status)mr_out_commit(&o);
    mr_out_abort(&o);
    return st;
}

static mr_status dequantise(const char *type, const char *in, const char *out)
{
    char *blocks;
    size_t len;
    float *values;
    int64_t n;
    MR_TRY(mr_file_read_all(in, BLOCKS_MAX, MR_MEM_OTHER, &blocks, &len));
    mr_status st = mr_dequantise(type, blocks, len, &values, &n);
    mr_free(blocks);
    MR_TRY(st);
    st = write_values(out, values, n);
    mr_memory_free(values);
    return st;
}

/* Whether blocks are wanted: then the arguments are files, not a model. */
static bool wants_blocks(int argc, char **argv)
{
    static const char name[] = "--dequantise";
    for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++)
        if (!strncmp(argv[i], name, sizeof name - 1))
            return true;
    return false;
}

int cmd_inspect(int argc, char **argv)
{
    int64_t context = 0;
    bool json = false, blocks = wants_blocks(argc, argv);
    const char *arg[2], *type = NULL;
    const app_opt opts[] = {
        {"--ctx", NULL, APP_INT, &context, 1, 1 << 30, "N", "context length to count memory for",
         NULL},
        {"--json", NULL, APP_FLAG, &json, 0, 0, NULL, "one JSON document", NULL},
        {"--dequantise", NULL, APP_STR, &type, 0, 0, "TYPE",
         "IN.bin OUT.npy: blocks of a GGUF type as float32", NULL},
        {0},
    };
    app_cmd cmd = *app_command("inspect");
    if (blocks)
        cmd.args = "--dequantise TYPE IN.bin OUT.npy";
    int code = app_parse(&cmd, opts, argc, argv, arg, blocks ? 2 : 1);
    if (code >= 0)
        return code;
    if (blocks && (context || json))
        return app_usage("inspect", "--dequantise goes with neither --ctx nor --json");
    char *text;
    size_t len;
    mr_status st =
        blocks ? dequantise(type, arg[0], arg[1]) : mr_inspect(arg[0], context, json, &text, &len);
    if (st)
        return app_failed(st);
    if (blocks)
        return APP_OK;
    app_write(text, len);
    mr_memory_free(text);
    return app_out_end(APP_OK);
}
