/* millrace run: continue a prompt, as text or ids. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "app.h"
#include "base/file.h"

/* Which flags were given: some belong to one kind of model only. */
typedef struct given {
    bool temperature, top_k, top_p, min_p, repeat, block, decoder, steps, threshold, minimal, early,
        editing, post, transfer, max_steps, low, alpha, gamma, decay, t_min, t_max, entropy,
        stability, confidence, draws, trace, mask, eos;
} given;

typedef struct job {
    app_engine engine;
    const char *prompt, *file, *ids_list, *messages, *trace_file, *eos_list, *decoder, *draws_file;
    const char *load, *save; /* states */
    int64_t n, top_k, seed, steps, minimal_topk, mask_id, post, transfer, max_steps, stability;
    double temperature, top_p, min_p, repeat, threshold, editing, low, alpha, gamma, decay;
    double t_min, t_max, entropy, confidence;
    app_list stop, bias;
    bool print_ids, json, stats, chat, early_stop;
    given has;
    /* while running */
    mr_engine *e;
    app_ids ids;
    mr_buf out_ids, text, trace;
    mr_buf new_ids; /* int32_t: those of out_ids */
    app_draws draws;
    int64_t n_out, trace_block;
    bool progress;
    mr_logit_bias logit_bias[64];
} job;

/* ---- what generation calls back ---- */

static int on_ids(void *ctx, const int32_t *ids, size_t n)
{
    job *j = ctx;
    for (size_t i = 0; i < n; i++)
        mr_buf_printf(&j->out_ids, "%s%d", j->n_out++ ? ", " : "", ids[i]);
    if (j->save)
        mr_buf_add(&j->new_ids, (const char *)ids, n * sizeof *ids);
    return app_interrupted();
}

static int on_text(void *ctx, const char *text, size_t len)
{
    job *j = ctx;
    if (j->json) {
        mr_buf_add(&j->text, text, len);
        return app_interrupted();
    }
    return !app_write(text, len) || app_interrupted();
}

static int on_step(void *ctx, int64_t start, const int32_t *block, int64_t n)
{
    job *j = ctx;
    if (start != j->trace_block)
        mr_buf_printf(&j->trace, "%s{\"start\": %lld, \"steps\": [",
                      j->trace_block < 0 ? "" : "]}, ", (long long)start);
    mr_buf_puts(&j->trace, start == j->trace_block ? ", {\"ids\": " : "{\"ids\": ");
    app_json_ids(&j->trace, block, (size_t)n);
    mr_buf_putc(&j->trace, '}');
    j->trace_block = start;
    return app_interrupted();
}

static int on_canvas(void *ctx, const mr_canvas_step *s)
{
    job *j = ctx;
    if (s->step == 0 && j->trace_block >= 0)
        mr_buf_puts(&j->trace, "]}, ");
    app_canvas_step(&j->trace, s);
    j->trace_block = s->start;
    return app_interrupted();
}

static mr_status draws(void *ctx, int64_t block, int64_t step, int32_t *ids, double *u)
{
    return app_draws_give(&((const job *)ctx)->draws, block, step, ids, u);
}

static int on_prompt(void *ctx, int64_t done, int64_t total)
{
    job *j = ctx;
    if ((done < total || j->progress) && isatty(STDERR_FILENO)) {
        j->progress = true;
        fprintf(stderr, "\rprompt %lld of %lld%s", (long long)done, (long long)total,
                done < total ? "" : "\n");
    }
    return app_interrupted();
}

/* ---- preparing ---- */

static mr_status parse_bias(job *j)
{
    for (int i = 0; i < j->bias.n; i++) {
        char *end;
        long id = strtol(j->bias.item[i], &end, 10);
        char *value = end + 1;
        if (end == j->bias.item[i] || *end != '=' || id < 0 || id > INT32_MAX)
            return (mr_status)mr_fail(MR_EUSAGE, "--logit-bias: \"%s\" is not ID=VALUE",
                                      j->bias.item[i]);
        double v = strtod(value, &end);
        if (end == value || *end || isnan(v))
            return (mr_status)mr_fail(MR_EUSAGE, "--logit-bias: \"%s\" is not ID=VALUE",
                                      j->bias.item[i]);
        j->logit_bias[i] = (mr_logit_bias){(int32_t)id, (float)v};
    }
    return MR_STATUS_OK;
}

/* A flag that cannot apply to this kind of model is refused. */
static mr_status check_kind(const job *j, const mr_engine_info *i)
{
    const struct {
        bool given, diffusion;
        const char *flag;
    } only[] = {
        {j->has.block, true, "--block-length"},
        {j->has.decoder, true, "--decoder"},
        {j->has.steps, true, "--steps"},
        {j->has.threshold, true, "--threshold"},
        {j->has.minimal, true, "--minimal-topk"},
        {j->has.early, true, "--eos-early-stop"},
        {j->has.editing, true, "--editing-threshold"},
        {j->has.post, true, "--max-post-steps"},
        {j->has.transfer, true, "--num-to-transfer"},
        {j->has.max_steps, true, "--max-steps-per-block"},
        {j->has.low, true, "--low-threshold"},
        {j->has.alpha, true, "--credit-alpha"},
        {j->has.gamma, true, "--credit-gamma"},
        {j->has.decay, true, "--credit-decay"},
        {j->has.t_min, true, "--t-min"},
        {j->has.t_max, true, "--t-max"},
        {j->has.entropy, true, "--entropy-bound"},
        {j->has.stability, true, "--stability-threshold"},
        {j->has.confidence, true, "--confidence-threshold"},
        {j->has.draws, true, "--draws"},
        {j->has.trace, true, "--trace"},
        {j->has.mask, true, "--mask-id"},
        {j->has.repeat, false, "--repeat-penalty"},
    };
    for (size_t k = 0; k < sizeof only / sizeof *only; k++)
        if (only[k].given && only[k].diffusion != i->diffusion)
            return (mr_status)mr_fail(MR_EUSAGE, "%s does not apply: %s is %s", only[k].flag,
                                      i->model_type,
                                      i->diffusion ? "a diffusion model" : "autoregressive");
    if (j->draws_file && !i->canvas)
        return (mr_status)mr_fail(MR_EUSAGE, "--draws does not apply: %s has no canvas",
                                  i->model_type);
    if (j->draws_file && j->draws.canvas != i->canvas)
        return (mr_status)mr_fail(MR_EUSAGE, "--draws: canvases of %lld ids, the model's have %lld",
                                  (long long)j->draws.canvas, (long long)i->canvas);
    if (i->canvas && (j->has.block || j->has.mask))
        return (mr_status)mr_fail(MR_EUSAGE, "%s does not apply: %s has canvases and no mask",
                                  j->has.block ? "--block-length" : "--mask-id", i->model_type);
    return MR_STATUS_OK;
}

/* Takes the prompt's text, which stays the caller's. */
static mr_status encode_prompt(job *j, const char *text, size_t len)
{
    mr_tokenizer *t;
    char *chat = NULL;
    mr_status s = mr_engine_text(j->e, &t);
    if (!s && j->messages)
        s = mr_chat_messages(t, text, len, &chat, &len);
    else if (!s && j->chat)
        s = mr_chat(t, text, len, &chat, &len);
    if (!s)
        s = mr_encode(t, chat ? chat : text, len, !chat && !j->load ? MR_ENCODE_SPECIAL : 0,
                      &j->ids.id, &j->ids.n);
    mr_memory_free(chat);
    if (!s && j->ids.n == 0)
        s = (mr_status)mr_fail(MR_EFORMAT, "the prompt is empty: it has no ids");
    return s;
}

/* Flags, then the model's own sampling defaults where it samples at all, then argmax.  A decoder
 * named by hand does not take the model's defaults, which are for its own. */
static void sampling(const job *j, const mr_engine_info *i, mr_generate_opts *o)
{
    bool model = i->do_sample && !j->has.temperature && !j->has.decoder;
    o->temperature = j->has.temperature                   ? j->temperature
                     : j->draws_file && j->draws.samples  ? 1
                     : !model                             ? 0
                     : i->canvas || isnan(i->temperature) ? 1
                                                          : i->temperature;
    model &= !i->canvas; /* whose schedule is all there is to shape a draw */
    o->top_k = j->has.top_k ? j->top_k : model && !isnan(i->top_k) ? (int64_t)i->top_k : 0;
    o->top_p = j->has.top_p ? j->top_p : model && !isnan(i->top_p) ? i->top_p : 1;
    o->min_p = j->min_p;
    o->repeat_penalty = j->has.repeat ? j->repeat
                        : model && !i->diffusion && !isnan(i->repetition_penalty)
                            ? i->repetition_penalty
                            : 1;
    o->seed = (uint64_t)j->seed;
}

static void fill_opts(job *j, const mr_engine_info *i, mr_generate_opts *o)
{
    mr_generate_defaults(o);
    sampling(j, i, o);
    o->max_new = j->n;
    o->stop = j->stop.item;
    o->n_stop = j->stop.n;
    o->bias = j->logit_bias;
    o->n_bias = j->bias.n;
    o->steps = j->steps;
    o->threshold = j->threshold;
    o->minimal_topk = j->minimal_topk;
    o->eos_early_stop = j->early_stop;
    o->decoder = j->decoder;
    o->editing_threshold = j->editing;
    o->max_post_steps = j->post;
    o->num_to_transfer = j->transfer;
    o->max_steps_per_block = j->max_steps;
    o->low_threshold = j->low;
    o->credit_alpha = j->alpha;
    o->credit_gamma = j->gamma;
    o->credit_decay = j->decay;
    o->on_prompt = on_prompt;
    o->on_ids = on_ids;
    o->on_text = j->print_ids ? NULL : on_text;
    o->t_min = j->t_min;
    o->t_max = j->t_max;
    o->entropy_bound = j->entropy;
    o->stability_threshold = j->stability;
    o->confidence_threshold = j->confidence;
    o->draws = j->draws_file ? draws : NULL;
    o->on_step = j->trace_file && !i->canvas ? on_step : NULL;
    o->on_canvas = j->trace_file && i->canvas ? on_canvas : NULL;
    o->ctx = j;
}

/* ---- reporting ---- */

static void stats_json(const job *j, const mr_result *r, mr_buf *b)
{
    const mr_engine_info *i = mr_engine_facts(j->e);
    mr_counts c = mr_engine_counts(j->e);
    mr_buf_printf(
        b,
        "{\"prompt_tokens\": %lld, \"generated_tokens\": %lld, \"steps\": %lld, \"load_s\": %.3f, "
        "\"prefill_s\": %.6f, "
        "\"decode_s\": %.6f, \"plans\": %llu, \"runs\": %llu, \"rows\": %llu, \"kv_bytes\": %llu, "
        "\"weight_bytes_read\": %llu, \"weight_bytes\": %llu, \"arena_bytes\": %llu, \"threads\": "
        "%d, "
        "\"cpu\": \"%s\", \"precision\": \"%s\"}",
        (long long)r->prompt, (long long)r->generated, (long long)r->steps,
        1e-9 * (double)i->load_ns, r->prefill_s, r->decode_s, (unsigned long long)c.plans,
        (unsigned long long)c.runs, (unsigned long long)c.rows, (unsigned long long)c.kv_peak_bytes,
        (unsigned long long)c.weight_bytes, (unsigned long long)i->weight_bytes,
        (unsigned long long)i->arena_bytes, i->threads, i->cpu, i->precision);
}

static double per_second(int64_t n, double s)
{
    return s > 0 ? (double)n / s : 0;
}

static void print_stats(const job *j, const mr_result *r)
{
    const mr_engine_info *i = mr_engine_facts(j->e);
    mr_counts c = mr_engine_counts(j->e);
    /* the first token comes out of the prefill; diffusion leaves the prompt's last, partial block
     * to the denoising */
    int64_t decoded = i->diffusion || !r->generated ? r->generated : r->generated - 1;
    int64_t fed = i->diffusion ? r->prompt / i->block_length * i->block_length : r->prompt;
    fprintf(stderr, "load     %.3f s, %d threads, %s, %s\n", 1e-9 * (double)i->load_ns, i->threads,
            i->cpu, i->precision);
    fprintf(stderr, "prefill  %lld tokens in %.3f s: %.1f tok/s\n", (long long)fed, r->prefill_s,
            per_second(fed, r->prefill_s));
    fprintf(stderr, "decode   %lld tokens in %.3f s: %.1f tok/s", (long long)decoded, r->decode_s,
            per_second(decoded, r->decode_s));
    if (i->diffusion)
        fprintf(stderr, ", %lld denoising steps", (long long)r->steps);
    fprintf(stderr, "\nplans    %llu compiled, %llu runs, %llu rows forwarded\n",
            (unsigned long long)c.plans, (unsigned long long)c.runs, (unsigned long long)c.rows);
    fprintf(stderr,
            "memory   weights %llu, KV %llu, activations %llu bytes; weight bytes read %llu\n",
            (unsigned long long)i->weight_bytes, (unsigned long long)c.kv_peak_bytes,
            (unsigned long long)i->arena_bytes, (unsigned long long)c.weight_bytes);
}

static mr_status write_trace(job *j)
{
    mr_out o;
    if (j->trace_block >= 0)
        mr_buf_puts(&j->trace, "]}");
    mr_buf_puts(&j->trace, "]}\n");
    MR_TRY(mr_buf_check(&j->trace));
    MR_TRY(mr_out_open(&o, j->trace_file));
    mr_out_write(&o, j->trace.data, j->trace.len);
    return (mr_status)mr_out_commit(&o);
}

static void print_result(job *j, const mr_result *r)
{
    if (j->json) {
        mr_buf b = {0};
        mr_buf_puts(&b, "{");
        if (!j->print_ids) {
            mr_buf_puts(&b, "\"text\": ");
            mr_buf_json(&b, j->text.data ? j->text.data : "", j->text.len);
            mr_buf_puts(&b, ", ");
        }
        mr_buf_printf(&b, "\"ids\": [%s], \"finish_reason\": \"%s\", \"stats\": ",
                      j->out_ids.data ? j->out_ids.data : "", r->finish_reason);
        stats_json(j, r, &b);
        mr_buf_puts(&b, "}\n");
        app_write(b.data, b.len);
        mr_buf_free(&b);
    } else if (j->print_ids) {
        app_write("[", 1);
        app_write(j->out_ids.data ? j->out_ids.data : "", j->out_ids.len);
        app_write("]\n", 2);
    } else {
        app_write("\n", 1);
    }
    if (strcmp(r->finish_reason, "length") == 0 && (j->n < 0 || r->generated < j->n))
        fprintf(stderr, "finish_reason: length (the context of %lld is full)\n",
                (long long)mr_engine_facts(j->e)->context);
    if (j->stats)
        print_stats(j, r);
}

/* ---- the command ---- */

static mr_status parse_lists(job *j, mr_engine_opts *o, app_ids *eos)
{
    MR_TRY(parse_bias(j));
    if (j->ids_list)
        MR_TRY(app_ids_list("--ids", j->ids_list, &j->ids));
    if (j->eos_list)
        MR_TRY(app_ids_list("--eos-id", j->eos_list, eos));
    o->eos = eos->id;
    o->n_eos = (int)eos->n;
    o->has_mask_id = j->has.mask;
    o->mask_id = (int32_t)j->mask_id;
    return MR_STATUS_OK;
}

/* ---- states ---- */

/* The prompt goes on from the state's tokens. */
static mr_status load_state(job *j, mr_session *s)
{
    MR_TRY(mr_state_load(s, j->load));
    size_t n = (size_t)mr_session_length(s), all = n + j->ids.n;
    if (!all)
        return (mr_status)mr_fail(MR_EFORMAT, "%s: holds no tokens, and there is no prompt",
                                  j->load);
    int32_t *ids = mr_alloc(MR_MEM_OTHER, all * sizeof *ids);
    if (!ids)
        return MR_STATUS_MEMORY;
    memcpy(ids, mr_session_ids(s), n * sizeof *ids);
    if (j->ids.n)
        memcpy(ids + n, j->ids.id, j->ids.n * sizeof *ids);
    mr_memory_free(j->ids.id);
    j->ids.id = ids;
    j->ids.n = all;
    return MR_STATUS_OK;
}

/* The state holds the prompt and all that was generated; of a model that fills blocks, whole blocks. */
static mr_status save_state(job *j, mr_session *s)
{
    const mr_engine_info *i = mr_engine_facts(j->e);
    MR_TRY(mr_buf_check(&j->new_ids));
    MR_TRY(mr_buf_check(&j->out_ids));
    size_t n = j->ids.n + (size_t)j->n_out;
    int32_t *ids = mr_alloc(MR_MEM_OTHER, n * sizeof *ids);
    if (!ids)
        return MR_STATUS_MEMORY;
    memcpy(ids, j->ids.id, j->ids.n * sizeof *ids);
    if (j->n_out)
        memcpy(ids + j->ids.n, j->new_ids.data, j->new_ids.len);
    int64_t block = i->diffusion && !i->canvas ? i->block_length : 1;
    int64_t end = (int64_t)n / block * block, length = mr_session_length(s);
    mr_status st = MR_STATUS_OK;
    if (length > end)
        st = mr_truncate(s, end);
    else if (length < end)
        st = mr_advance(s, ids + length, end - length, MR_WANT_NONE, NULL, 0, NULL);
    if (!st && length < end)
        st = mr_commit(s, end - length);
    mr_memory_free(ids);
    return st ? st : mr_state_save(s, j->save);
}

static int finish(job *j, mr_session *session, mr_status s, const mr_result *r)
{
    bool cut = s == MR_STATUS_CANCELLED;
    if (!s || cut)
        s = (mr_status)mr_buf_check(&j->out_ids);
    if (!s)
        s = (mr_status)mr_buf_check(&j->text);
    if (s)
        return app_failed(s);
    print_result(j, r);
    if (j->trace_file && !cut && (s = write_trace(j)))
        return app_failed(s);
    if (j->save && (s = save_state(j, session)))
        return app_failed(s);
    return app_out_end(app_interrupted());
}

/* Before the weights are read: do the flags apply to this model? */
static mr_status accept_model(void *ctx, const mr_engine_info *facts)
{
    job *j = ctx;
    mr_generate_opts g;
    MR_TRY(check_kind(j, facts));
    fill_opts(j, facts, &g);
    return mr_generate_check(facts, &g);
}

/* What can be read without the model is read before it. */
static mr_status prepare(job *j, const char *model, mr_session **s)
{
    mr_engine_opts o = {.accept = accept_model, .ctx = j};
    app_ids eos = {0};
    char *text = NULL;
    size_t len = 0;
    mr_status st = parse_lists(j, &o, &eos);
    if (!st && !j->ids_list && (!j->load || j->prompt || j->file || j->messages))
        st = app_read_text(j->prompt, j->messages ? j->messages : j->file, &text, &len);
    if (!st && j->draws_file)
        st = app_draws_read(&j->draws, j->draws_file, &j->ids);
    if (!st)
        st = app_engine_open(&j->engine, model, &o, &j->e);
    if (!st && text)
        st = encode_prompt(j, text, len);
    if (!st)
        st = mr_session_new(s, j->e);
    if (!st && j->load)
        st = load_state(j, *s);
    app_ids_free(&eos);
    mr_memory_free(text);
    return st;
}

static int run_job(job *j, const char *model)
{
    mr_session *s = NULL;
    mr_generate_opts g;
    mr_result r = {.finish_reason = "stop"};
    mr_status st = prepare(j, model, &s);
    int code;
    if (st) {
        code = app_failed(st);
    } else {
        fill_opts(j, mr_engine_facts(j->e), &g);
        app_catch_interrupt();
        st = mr_generate(s, j->ids.id, j->ids.n, &g, &r);
        code = finish(j, s, st, &r);
    }
    mr_session_free(s);
    mr_engine_close(j->e);
    return code;
}

int cmd_run(int argc, char **argv)
{
    job j = {.n = -1, .top_p = 1, .repeat = 1, .trace_block = -1, .threshold = -1};
    j.editing = j.low = j.alpha = j.gamma = j.decay = -1;
    j.t_min = j.t_max = j.entropy = j.confidence = -1;
    j.post = j.stability = -1;
    const char *model;
    const app_opt opts[] = {
        {"--prompt", "-p", APP_STR, &j.prompt, 0, 0, "TEXT", "the prompt, as it is", NULL},
        {"--file", "-f", APP_STR, &j.file, 0, 0, "FILE",
         "the prompt from a file (- for stdin, also read when piped)", NULL},
        {"--ids", NULL, APP_STR, &j.ids_list, 0, 0, "LIST", "the prompt as ids: 1,2,3", NULL},
        {"--chat", NULL, APP_FLAG, &j.chat, 0, 0, NULL,
         "the prompt is one user turn of the model's chat template", NULL},
        {"--messages", NULL, APP_STR, &j.messages, 0, 0, "F.json",
         "the prompt is a conversation for the model's chat template", NULL},
        {"--n", "-n", APP_INT, &j.n, 0, 1 << 30, "N",
         "new tokens at most (default: until an end id or the context's end)", NULL},
        {"--temperature", NULL, APP_NUM, &j.temperature, 0, 1e6, "T",
         "0: argmax (default: the model's, else 0)", &j.has.temperature},
        {"--top-k", NULL, APP_INT, &j.top_k, 0, 1 << 30, "K", "keep the K likeliest (0: all)",
         &j.has.top_k},
        {"--top-p", NULL, APP_NUM, &j.top_p, 1e-9, 1, "P",
         "keep the likeliest that hold P of the probability", &j.has.top_p},
        {"--min-p", NULL, APP_NUM, &j.min_p, 0, 1, "P",
         "keep what has at least P of the best's probability", &j.has.min_p},
        {"--repeat-penalty", NULL, APP_NUM, &j.repeat, 1e-3, 1e6, "R",
         "divide logits of ids that were there before", &j.has.repeat},
        {"--seed", NULL, APP_INT, &j.seed, 0, 9e18, "S", "of the sampler (default 0)", NULL},
        {"--stop", NULL, APP_LIST, &j.stop, 0, 0, "STR", "end before this text; may be given again",
         NULL},
        {"--logit-bias", NULL, APP_LIST, &j.bias, 0, 0, "ID=X",
         "add X to the logit of ID; may be given again", NULL},
        {"--ctx", NULL, APP_INT, &j.engine.context, 1, 1 << 30, "N",
         "context length (default: the model's, at most 8192)", NULL},
        {"--load-state", NULL, APP_STR, &j.load, 0, 0, "F",
         "go on from a saved state: a prompt, if any, follows its tokens", NULL},
        {"--save-state", NULL, APP_STR, &j.save, 0, 0, "F",
         "save prompt and continuation to go on from (diffusion: up to the last whole block)",
         NULL},
        {"--print-ids", NULL, APP_FLAG, &j.print_ids, 0, 0, NULL,
         "print the generated ids as a JSON array, no text", NULL},
        {"--json", NULL, APP_FLAG, &j.json, 0, 0, NULL, "one JSON document at the end", NULL},
        {"--stats", NULL, APP_FLAG, &j.stats, 0, 0, NULL, "speed and counts on stderr", NULL},
        {"--block-length", NULL, APP_INT, &j.engine.block_length, 1, 4096, "B",
         "diffusion: block length", &j.has.block},
        {"--decoder", NULL, APP_STR, &j.decoder, 0, 0, "NAME",
         "diffusion: llada2.0, llada2.1, llada2.2, dinfer-threshold, dinfer-credit or "
         "dinfer-hierarchy (default: the model's)",
         &j.has.decoder},
        {"--steps", NULL, APP_INT, &j.steps, 1, 1 << 20, "N",
         "2.0, 2.2: denoising steps a block (default 32; a canvas: the model's, 48)", &j.has.steps},
        {"--threshold", NULL, APP_NUM, &j.threshold, 0, 1e6, "T",
         "diffusion: write above this probability (default 2.0, 2.1: 0.95, 2.2: 0.5, dinfer: 0.9)",
         &j.has.threshold},
        {"--minimal-topk", NULL, APP_INT, &j.minimal_topk, 1, 1 << 20, "K",
         "2.0: bounds steps by new tokens / K (default 1)", &j.has.minimal},
        {"--eos-early-stop", NULL, APP_FLAG, &j.early_stop, 0, 0, NULL,
         "2.0, 2.1: stop once the text before an end id stands (2.1: at the block's end)",
         &j.has.early},
        {"--editing-threshold", NULL, APP_NUM, &j.editing, 0, 1e6, "T",
         "2.1, 2.2: replace ids above this probability (default 0.9, 2.2: 0; 1: never)",
         &j.has.editing},
        {"--max-post-steps", NULL, APP_INT, &j.post, 0, 1 << 20, "N",
         "2.1, 2.2: forwards of a block after its last mask (default 16)", &j.has.post},
        {"--num-to-transfer", NULL, APP_INT, &j.transfer, 1, 1 << 20, "K",
         "2.1: masks written in a step at least (default 1)", &j.has.transfer},
        {"--max-steps-per-block", NULL, APP_INT, &j.max_steps, 1, 1 << 20, "N",
         "2.1, 2.2: forwards of a block (default 1000)", &j.has.max_steps},
        {"--low-threshold", NULL, APP_NUM, &j.low, 0, 1e6, "T",
         "dinfer-hierarchy: what the best of a run of masks must be above (default 0.4)",
         &j.has.low},
        {"--credit-alpha", NULL, APP_NUM, &j.alpha, 0, 1e6, "A",
         "dinfer-credit: weight of credit in a logit (default 0.7)", &j.has.alpha},
        {"--credit-gamma", NULL, APP_NUM, &j.gamma, 0, 1e6, "G",
         "dinfer-credit: a step earns probability^G (default 0.2)", &j.has.gamma},
        {"--credit-decay", NULL, APP_NUM, &j.decay, 0, 1, "D",
         "dinfer-credit: what is left of credit after a step (default 0.8)", &j.has.decay},
        {"--t-min", NULL, APP_NUM, &j.t_min, 1e-6, 1e6, "T",
         "canvases: temperature that the last step comes near (default the model's, 0.4)",
         &j.has.t_min},
        {"--t-max", NULL, APP_NUM, &j.t_max, 1e-6, 1e6, "T",
         "canvases: temperature of the first step (default the model's, 0.8)", &j.has.t_max},
        {"--entropy-bound", NULL, APP_NUM, &j.entropy, 0, 1e12, "H",
         "canvases: accept the surest up to this sum of entropies (default the model's, 0.1)",
         &j.has.entropy},
        {"--stability-threshold", NULL, APP_INT, &j.stability, 0, 1000, "N",
         "canvases: equal steps before one may end (default the model's, 1)", &j.has.stability},
        {"--confidence-threshold", NULL, APP_NUM, &j.confidence, 0, 1e6, "H",
         "canvases: end below this mean entropy (default the model's, 0.005)", &j.has.confidence},
        {"--draws", NULL, APP_STR, &j.draws_file, 0, 0, "F.json",
         "canvases: random draws of a trace instead of the seed's", &j.has.draws},
        {"--trace", NULL, APP_STR, &j.trace_file, 0, 0, "F.json",
         "diffusion: the block's ids after every step", &j.has.trace},
        {"--mask-id", NULL, APP_INT, &j.mask_id, 0, INT32_MAX, "N",
         "diffusion: mask id (default: the model's)", &j.has.mask},
        {"--eos-id", NULL, APP_STR, &j.eos_list, 0, 0, "LIST", "end ids (default: the model's)",
         &j.has.eos},
        APP_ENGINE_OPTS(j.engine),
        {0},
    };
    int code = app_parse(app_command("run"), opts, argc, argv, &model, 1);
    if (code >= 0)
        return code;
    if (!!j.prompt + !!j.file + !!j.ids_list + !!j.messages > 1)
        return app_usage("run", "-p, -f, --ids and --messages exclude each other");
    if (j.messages && j.chat)
        return app_usage("run", "--chat and --messages exclude each other");
    if (j.draws_file && j.load)
        return app_usage("run", "--draws and --load-state exclude each other");
    if (j.draws_file && !j.ids_list)
        return app_usage("run", "--draws needs --ids");
    if (j.chat && j.ids_list)
        return app_usage("run", "--chat needs text, not --ids");
    mr_buf_puts(&j.trace, "{\"blocks\": [");
    code = run_job(&j, model);
    app_ids_free(&j.ids);
    app_draws_free(&j.draws);
    mr_buf_free(&j.out_ids);
    mr_buf_free(&j.new_ids);
    mr_buf_free(&j.text);
    mr_buf_free(&j.trace);
    return code;
}
