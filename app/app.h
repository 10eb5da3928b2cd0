/* What the subcommands share: options, output, input, exit codes.
 *
 * Exit codes: 0 done, 1 failed, 2 wrong usage, 128 + number of the signal that ended it.
 * Rules:  1. Results on stdout, everything else on stderr; no escapes, no progress unless stderr is
 *            a terminal.
 *         2. A flag that is not known is said before a missing argument is.
 *         3. A failed command leaves no output file.
 */
#ifndef MILLRACE_APP_H
#define MILLRACE_APP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/file.h"
#include "base/str.h"
#include "millrace.h"

enum { APP_OK = 0, APP_FAILED = 1, APP_USAGE = 2, APP_SIGNAL = 128 };

/* ---- options: one table a command ---- */

typedef enum app_kind { APP_FLAG, APP_INT, APP_NUM, APP_STR, APP_LIST } app_kind;
typedef struct app_opt {
    const char *name;  /* "--threads" */
    const char *alias; /* "-t" or NULL */
    app_kind kind;
    void *dest;      /* bool, int64_t, double, const char *, app_list */
    double min, max; /* numbers */
    const char *arg, *help;
    bool *given; /* set when it was; may be NULL */
} app_opt;
typedef struct app_list {
    const char *item[64];
    int n;
} app_list;

typedef struct app_cmd {
    const char *name, *args, *what;    /* "run", "MODEL", one line */
    int (*run)(int argc, char **argv); /* argv[0] is the command's name */
} app_cmd;
extern const app_cmd app_commands[];

/* Parses argv[1..]; positional arguments to pos (as many as n_pos, all required).  Returns -1 to go
 * on, else the exit code (help was printed, or the usage was wrong and said). */
int app_parse(const app_cmd *cmd, const app_opt *opts, int argc, char **argv, const char **pos,
              int n_pos);
const app_cmd *app_command(const char *name);
int app_usage(const char *cmd, const char *fmt, ...)
    __attribute__((format(printf, 2, 3))); /* says it; APP_USAGE */

/* ---- failing ---- */

/* Says the library's message; 2 for a usage error, else 1. */
int app_failed(mr_status s);

/* ---- output ---- */

/* To stdout, unbuffered. False once stdout is closed or failed; app_out_end gives the exit code for
 * that (0 for a closed pipe). */
bool app_write(const char *bytes, size_t len);
int app_out_end(int code);
/* JSON array of ids. */
void app_json_ids(mr_buf *b, const int32_t *ids, size_t n);
/* The header of a float32 .npy of rows x cols, or of one dimension if rows is 0 (app/npy.c). */
mr_status app_npy_head(mr_out *o, int64_t rows, int64_t cols);

/* ---- input ---- */

/* Whole text of --prompt/-f/stdin: exactly one source. */
mr_status app_read_text(const char *prompt, const char *file, char **text, size_t *len);
mr_status app_read_file(const char *file, char **text, size_t *len);
/* "1,2,3" and files holding a JSON array (of arrays: rows). */
typedef struct app_ids {
    int32_t *id;
    size_t n;
    size_t *row; /* ends of rows */
    size_t n_rows;
} app_ids;
mr_status app_ids_list(const char *flag, const char *list, app_ids *out);
mr_status app_ids_file(const char *file, bool rows, app_ids *out);
void app_ids_free(app_ids *ids);
/* A float32 .npy of exactly rows x cols; mr_free. */
mr_status app_npy_read(const char *file, int64_t rows, int64_t cols, float **out);
/* "5-12,30-37", half-open, ascending within 0-n; those that touch are one.  mr_free. */
typedef struct app_spans {
    mr_span *span;
    int64_t n, longest;
} app_spans;
mr_status app_spans_list(const char *flag, const char *list, int64_t n, app_spans *out);

/* ---- canvases (app/canvas_io.c) ---- */

/* Draws recorded in a trace: a run, or a list of runs of which that of this prompt is taken. */
typedef struct app_draws {
    char *text;
    struct mr_json *json;
    int32_t *ids; /* per block: its canvas, then each step's replacements */
    double *u;
    int64_t blocks, canvas;
    int64_t *first; /* [blocks + 1]: each block's place in ids and u, in canvases */
    bool samples;   /* u was recorded */
} app_draws;
mr_status app_draws_read(app_draws *d, const char *file, const app_ids *prompt);
void app_draws_free(app_draws *d);
/* For mr_generate_opts.draws. */
mr_status app_draws_give(const app_draws *d, int64_t block, int64_t step, int32_t *ids, double *u);
/* A step as a trace's JSON object; the block is opened before its first one. */
void app_canvas_step(mr_buf *b, const mr_canvas_step *s);
/* Rows of logits / temperature become probabilities. */
void app_soften(float *logits, int64_t rows, int64_t vocab, double temperature);

/* ---- engine ---- */

/* --threads --precision --ctx --no-pass and MILLRACE_CPU, common to all that run a model. */
typedef struct app_engine {
    int64_t threads, context, block_length;
    const char *precision;
    app_list passes_off;
} app_engine;
/* Rows of an option table for them: APP_ENGINE_OPTS(variable). */
#define APP_ENGINE_OPTS(e)                                                                           \
    {"--threads", "-t", APP_INT, &(e).threads,                                                       \
     1,           1024, "T",     "compute threads (default: the CPUs available)",                    \
     NULL},                                                                                          \
        {"--precision", NULL, APP_STR, &(e).precision, 0, 0, "P", "exact, fast (default) or native", \
         NULL},                                                                                      \
    {                                                                                                \
        "--no-pass", NULL, APP_LIST, &(e).passes_off, 0, 0, "NAME", "leave a compiler pass out",     \
            NULL                                                                                     \
    }
mr_status app_engine_open(const app_engine *a, const char *model, mr_engine_opts *o,
                          mr_engine **out);
/* Fills o from a; the arrays stay a's. */
void app_engine_opts(const app_engine *a, mr_engine_opts *o);

/* ---- interrupts ---- */

/* SIGINT, SIGTERM and SIGHUP from now on set the flag; a second one ends at once, and unfinished
 * files go with it. */
void app_catch_interrupt(void);
int app_interrupted(void); /* the exit code for it; 0: not */
/* Progress for long writes: per cent on a terminal; ctx is an int that starts at -1.  Non-zero once
 * interrupted. */
int app_percent(void *ctx, uint64_t done, uint64_t total);

int cmd_run(int argc, char **argv);
int cmd_logits(int argc, char **argv);
int cmd_tokenize(int argc, char **argv);
int cmd_graph(int argc, char **argv);
int cmd_inspect(int argc, char **argv);
int cmd_synth(int argc, char **argv);
int cmd_convert(int argc, char **argv);
int cmd_bench(int argc, char **argv);
int cmd_perplexity(int argc, char **argv);

#endif
