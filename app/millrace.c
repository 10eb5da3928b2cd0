/* The program: finds the subcommand and hands over. */
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "app.h"

const app_cmd app_commands[] = {
    {"run", "MODEL", "continue a prompt", cmd_run},
    {"logits", "MODEL", "write the logits of ids as a .npy file", cmd_logits},
    {"perplexity", "MODEL", "mean negative log-likelihood of a text", cmd_perplexity},
    {"tokenize", "MODEL", "text to ids and back", cmd_tokenize},
    {"inspect", "MODEL", "what a model is made of, and the memory it needs", cmd_inspect},
    {"graph", "MODEL", "show the compiled graph (a config.json will do)", cmd_graph},
    {"bench", "MODEL", "measure prefill and decode speed", cmd_bench},
    {"convert", "MODEL OUT", "write a model's weights again in another format", cmd_convert},
    {"synth", "CONFIG OUT", "make a model of a config's shape with random weights", cmd_synth},
    {NULL, NULL, NULL, NULL},
};

static int help(void)
{
    mr_buf b = {0};
    mr_buf_puts(&b, "usage: millrace COMMAND [options]\n\n"
                    "Compiles and runs language models: a directory with config.json and "
                    "safetensors, or a .gguf file.\n\n"
                    "commands:\n");
    for (const app_cmd *c = app_commands; c->name; c++)
        mr_buf_printf(&b, "  %-11s %s\n", c->name, c->what);
    mr_buf_puts(&b,
                "\n  millrace COMMAND --help    a command's options\n"
                "  millrace --version         the version\n\n"
                "environment: MILLRACE_CPU=c|avx2|avx512|amx|neon restricts the instruction set\n"
                "exit codes: 0 done, 1 failed, 2 wrong usage, 128 + N stopped by signal N\n");
    app_write(b.data, b.len);
    mr_buf_free(&b);
    return app_out_end(APP_OK);
}

int main(int argc, char **argv)
{
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN); /* a file that may not grow is an error like others */
    if (argc < 2)
        return app_usage(NULL, "no command");
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 ||
        strcmp(argv[1], "help") == 0)
        return help();
    if (strcmp(argv[1], "--version") == 0) {
        const char *v = mr_version();
        app_write(v, strlen(v));
        app_write("\n", 1);
        return app_out_end(APP_OK);
    }
    const app_cmd *c = app_command(argv[1]);
    if (!c)
        return app_usage(NULL, argv[1][0] == '-' ? "unknown option %s" : "unknown command \"%s\"",
                         argv[1]);
    return c->run(argc - 1, argv + 1);
}
