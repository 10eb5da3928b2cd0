/* millrace perplexity: mean negative log-likelihood per token, in nats.
 *
 * The ids are cut into windows of the context; within a window every id but the first is predicted
 * from those before it.  An ids file may hold rows (an array of arrays): each is a text of its own.
 * --against exact runs both precisions over the same windows and adds the mean KL divergence of
 * this precision from exact, and how often both have the same likeliest id. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "app.h"
#include "base/file.h"

typedef struct job {
    app_engine engine;
    const char *file, *ids_file, *against;
    bool json;
    app_ids ids;
    mr_engine *e, *base;
    float *a, *b; /* logits of a piece: this precision, exact */
    double nll, base_nll, kl;
    int64_t tokens, rows, agree;
} job;

enum { PIECE = 64 };

/* log of the sum of exponentials, in double. */
static double log_sum(const float *l, int64_t n, int64_t *best)
{
    double sum = 0;
    *best = 0;
    for (int64_t i = 1; i < n; i++)
        if (l[i] > l[*best])
            *best = i;
    for (int64_t i = 0; i < n; i++)
        sum += exp((double)l[i] - (double)l[*best]);
    return (double)l[*best] + log(sum);
}

/* One row: logits that predict `next`. */
static void score(job *j, const float *a, const float *b, int64_t vocab, int32_t next)
{
    int64_t best_a, best_b;
    double za = log_sum(a, vocab, &best_a);
    j->nll += za - (double)a[next];
    j->tokens++;
    if (!b)
        return;
    double zb = log_sum(b, vocab, &best_b), kl = 0;
    for (int64_t i = 0; i < vocab; i++) {
        double lb = (double)b[i] - zb;
        kl += exp(lb) * (lb - ((double)a[i] - za));
    }
    j->kl += kl;
    j->base_nll += zb - (double)b[next];
    j->agree += best_a == best_b;
}

static mr_status piece(mr_session *s, const int32_t *ids, int64_t n, float *logits)
{
    MR_TRY(mr_advance(s, ids, n, MR_WANT_ALL, NULL, 0, logits));
    return mr_commit(s, n);
}

static mr_status window(job *j, const int32_t *ids, int64_t n)
{
    mr_session *s = NULL, *t = NULL;
    int64_t vocab = mr_engine_facts(j->e)->vocab;
    mr_status st = mr_session_new(&s, j->e);
    if (!st && j->base)
        st = mr_session_new(&t, j->base);
    for (int64_t at = 0; !st && at < n - 1; at += PIECE) {
        int64_t rows = n - at < PIECE ? n - at : PIECE;
        st = piece(s, ids + at, rows, j->a);
        if (!st && t)
            st = piece(t, ids + at, rows, j->b);
        for (int64_t i = 0; !st && i < rows && at + i + 1 < n; i++)
            score(j, j->a + i * vocab, t ? j->b + i * vocab : NULL, vocab, ids[at + i + 1]);
    }
    mr_session_free(s);
    mr_session_free(t);
    return st;
}

static mr_status check_ids(const job *j)
{
    int64_t vocab = mr_engine_facts(j->e)->vocab;
    for (size_t i = 0; i < j->ids.n; i++)
        if (j->ids.id[i] >= vocab)
            return (mr_status)mr_fail(MR_EFORMAT,
                                      "id %d (number %zu) is not in the vocabulary 0..%lld",
                                      j->ids.id[i], i, (long long)vocab - 1);
    return MR_STATUS_OK;
}

static mr_status all_windows(job *j)
{
    size_t from = 0, ctx = (size_t)mr_engine_facts(j->e)->context;
    MR_TRY(check_ids(j));
    for (size_t r = 0; r < j->ids.n_rows; from = j->ids.row[r++])
        for (size_t at = from; at + 1 < j->ids.row[r]; at += ctx) {
            size_t n = j->ids.row[r] - at < ctx ? j->ids.row[r] - at : ctx;
            MR_TRY(window(j, j->ids.id + at, (int64_t)n));
        }
    if (!j->tokens)
        return (mr_status)mr_fail(MR_EFORMAT, "fewer than two ids: nothing to predict");
    return MR_STATUS_OK;
}

static mr_status read_text(job *j)
{
    char *text;
    size_t len;
    mr_tokenizer *t;
    if (j->ids_file)
        return MR_STATUS_OK; /* read before the engine was opened */
    MR_TRY(app_read_file(j->file, &text, &len));
    mr_status s = mr_engine_text(j->e, &t);
    if (!s)
        s = mr_encode(t, text, len, MR_ENCODE_SPECIAL, &j->ids.id, &j->ids.n);
    mr_memory_free(text);
    if (!s) {
        j->ids.row = mr_alloc(MR_MEM_OTHER, sizeof *j->ids.row);
        if (!j->ids.row)
            return MR_STATUS_MEMORY;
        j->ids.row[0] = j->ids.n;
        j->ids.n_rows = 1;
    }
    return s;
}

static mr_status open_engines(job *j, const char *model)
{
    mr_engine_opts o = {0};
    MR_TRY(app_engine_open(&j->engine, model, &o, &j->e));
    const mr_engine_info *i = mr_engine_facts(j->e);
    if (i->diffusion)
        return (mr_status)mr_fail(MR_EUSAGE, "perplexity does not apply: %s is a diffusion model",
                                  i->model_type);
    if (j->against) {
        app_engine exact = j->engine;
        exact.precision = j->against;
        MR_TRY(app_engine_open(&exact, model, &o, &j->base));
    }
    size_t bytes = (size_t)(PIECE * i->vocab) * sizeof *j->a;
    j->a = mr_alloc(MR_MEM_OTHER, bytes);
    j->b = j->against ? mr_alloc(MR_MEM_OTHER, bytes) : NULL;
    return j->a && (j->b || !j->against) ? MR_STATUS_OK : MR_STATUS_MEMORY;
}

static int report(const job *j)
{
    mr_buf b = {0};
    double n = (double)j->tokens, nll = j->nll / n;
    if (j->json) {
        mr_buf_printf(&b, "{\"tokens\": %lld, \"nll\": %.9g, \"perplexity\": %.9g",
                      (long long)j->tokens, nll, exp(nll));
        if (j->base)
            mr_buf_printf(&b,
                          ", \"against\": \"%s\", \"against_nll\": %.9g, \"mean_kl\": %.9g, "
                          "\"top1_agreement\": %.9g",
                          j->against, j->base_nll / n, j->kl / n, (double)j->agree / n);
        mr_buf_puts(&b, "}\n");
    } else {
        mr_buf_printf(&b, "nll         %.6f nats per token (%lld tokens)\nperplexity  %.4f\n", nll,
                      (long long)j->tokens, exp(nll));
        if (j->base)
            mr_buf_printf(&b, "against     %s: nll %.6f, mean KL %.4g, top-1 agreement %.2f %%\n",
                          j->against, j->base_nll / n, j->kl / n, 100 * (double)j->agree / n);
    }
    app_write(b.data, b.len);
    mr_buf_free(&b);
    return app_out_end(APP_OK);
}

int cmd_perplexity(int argc, char **argv)
{
    job j = {0};
    const char *model;
    const app_opt opts[] = {
        {"--file", "-f", APP_STR, &j.file, 0, 0, "FILE", "a text (- for stdin)", NULL},
        {"--ids-file", NULL, APP_STR, &j.ids_file, 0, 0, "F",
         "a JSON array of ids, or of rows of ids", NULL},
        {"--ctx", NULL, APP_INT, &j.engine.context, 2, 1 << 30, "N",
         "window length (default: the model's, at most 8192)", NULL},
        {"--against", NULL, APP_STR, &j.against, 0, 0, "P",
         "a precision (exact): adds mean KL and top-1 agreement to it", NULL},
        {"--json", NULL, APP_FLAG, &j.json, 0, 0, NULL, "one JSON document", NULL},
        APP_ENGINE_OPTS(j.engine),
        {0},
    };
    int code = app_parse(app_command("perplexity"), opts, argc, argv, &model, 1);
    if (code >= 0)
        return code;
    if (!j.file == !j.ids_file)
        return app_usage("perplexity", "give either -f FILE or --ids-file F");
    mr_status s = j.ids_file ? app_ids_file(j.ids_file, true, &j.ids) : MR_STATUS_OK;
    if (!s)
        s = open_engines(&j, model);
    if (!s)
        s = read_text(&j);
    if (!s)
        s = all_windows(&j);
    code = s ? app_failed(s) : report(&j);
    mr_engine_close(j.e);
    mr_engine_close(j.base);
    mr_free(j.a);
    mr_free(j.b);
    app_ids_free(&j.ids);
    return code;
}
