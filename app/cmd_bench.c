/* millrace bench: prefill and decode speed, load, packing and warm-up excluded. */
#include "bench.h"

int cmd_bench(int argc, char **argv)
{
    bench *b = mr_zalloc(MR_MEM_OTHER, sizeof *b);
    const char *model;
    if (!b)
        return app_failed(MR_STATUS_MEMORY);
    b->p = 512;
    b->n = 64;
    b->r = 5;
    b->batch = 1;
    const app_opt opts[] = {
        {"--prefill", "-p", APP_INT, &b->p, 0, 1 << 20, "N",
         "ids to prefill (default 512; 0: none)", NULL},
        {"--n", "-n", APP_INT, &b->n, 0, 1 << 20, "N",
         "ids to decode, by each stream (default 64; 0: none)", NULL},
        {"--repeat", "-r", APP_INT, &b->r, 1, BENCH_MAX_RUNS, "R",
         "measured runs of each (default 5)", NULL},
        {"--batch", "-b", APP_INT, &b->batch, 1, BENCH_MAX_BATCH, "S",
         "streams that decode together (default 1)", NULL},
        {"--depth", "-d", APP_INT, &b->depth, 0, 1 << 20, "D",
         "positions of context before the first decoded id (default 0)", NULL},
        {"--profile", NULL, APP_FLAG, &b->profile, 0, 0, NULL,
         "the machine's limits, and time and share of the limit per kind of step", NULL},
        {"--json", NULL, APP_FLAG, &b->json, 0, 0, NULL, "one JSON document", NULL},
        {"--block-length", NULL, APP_INT, &b->engine.block_length, 1, 4096, "B",
         "diffusion: block length", NULL},
        APP_ENGINE_OPTS(b->engine),
        {0},
    };
    int code = app_parse(app_command("bench"), opts, argc, argv, &model, 1);
    if (code < 0) {
        mr_status s = bench_open(b, model);
        if (!s)
            s = bench_measure(b);
        code = s ? app_failed(s) : bench_report(b);
    }
    bench_close(b);
    mr_free(b);
    return code;
}
