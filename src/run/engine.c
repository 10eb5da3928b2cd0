/* Opening an engine: model -> graph -> passes -> plans -> memory check -> packed weights. */
#include "run/engine.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/file.h"

enum {
    KV_BLOCK = 64,
    MAX_CONTEXT = 1 << 30,
    MAX_SESSIONS = 1 << 20,
    MAX_EOS = sizeof((mr_engine_info *)0)->eos / sizeof(int32_t)
};

mr_err mr_precision_parse(const char *name, mr_precision *out)
{
    for (int p = MR_EXACT; p <= MR_NATIVE; p++) {
        if (strcmp(name, mr_precision_name((mr_precision)p)) == 0) {
            *out = (mr_precision)p;
            return MR_OK;
        }
    }
    return mr_fail(MR_EUSAGE, "precision \"%s\" is unknown (exact, fast, native)", name);
}

mr_err mr_engine_backend(const mr_engine_opts *o, mr_backend **out)
{
    mr_backend_opts b = {.threads = o->threads ? o->threads : mr_cpu_count()};
    if (b.threads < 1 || b.threads > 1024)
        return mr_fail(MR_EUSAGE, "threads: %d is not in 1..1024", b.threads);
    MR_TRY(mr_precision_parse(o->precision ? o->precision : "fast", &b.precision));
    MR_TRY(mr_isa_pick(o->cpu, &b.isa));
    return mr_backend_cpu(out, &b);
}

mr_err mr_engine_pass_opts(const mr_engine_opts *o, mr_pass_opts *out)
{
    *out = (mr_pass_opts){0};
    if (o->n_passes_off > MR_MAX_PASSES)
        return mr_fail(MR_EUSAGE, "%d passes to leave out; there are not so many", o->n_passes_off);
    for (int i = 0; i < o->n_passes_off; i++)
        out->off[out->n_off++] = o->passes_off[i];
    return mr_passes_check(out);
}

static int64_t max64(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

static int64_t min64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

int64_t mr_engine_out_cap(const mr_model_info *m, int64_t rows)
{
    int64_t cap = max64(MR_DECODE_ROWS, ((int64_t)24 << 20) / (4 * m->vocab));
    return min64(rows, m->diffusion ? max64(cap, m->block_length) : cap);
}

int64_t mr_engine_decode_rows(const mr_model_info *m)
{
    return m->diffusion ? m->block_length : MR_DECODE_ROWS;
}

int64_t mr_engine_context(const mr_model_info *m, const mr_engine_opts *o)
{
    return o->context ? o->context : min64(m->max_positions, MR_DEFAULT_CONTEXT);
}

int64_t mr_engine_prefill_rows(const mr_plan *decode, int64_t asked, int64_t context)
{
    int64_t rows = min64(asked ? asked : MR_DEFAULT_CHUNK, context);
    bool sliding = false;
    for (int i = 0; i < decode->n_caches; i++)
        sliding |= decode->caches[i].window > 0;
    if (sliding && rows >= 2 * KV_BLOCK)
        rows -= KV_BLOCK;
    return max64(rows, decode->row_cap);
}

/* ---- memory ---- */

mr_err mr_need_count(mr_need *n, mr_backend *b, const mr_graph *g, const mr_plan *decode,
                     const mr_plan *prefill, int64_t context, int64_t chunk, int64_t sessions)
{
    *n = (mr_need){.available = mr_memory_available()};
    for (int i = 0; i < decode->n_weights; i++) {
        size_t bytes;
        MR_TRY(b->v->weight_bytes(b, g, decode->weights[i], &bytes));
        n->weights += bytes;
    }
    n->arenas = (uint64_t)max64(decode->arena_bytes, prefill->arena_bytes);
    n->sessions = sessions ? sessions : 1;
    size_t kv = b->v->kv_need(b, decode->caches, decode->n_caches, context, chunk);
    if (!mr_mul_size(kv, (size_t)n->sessions, &kv) || kv > INT64_MAX / 2)
        kv = INT64_MAX / 2; /* more than there is, and sums do not overflow */
    n->kv = kv;
    return MR_OK;
}

mr_err mr_need_check(const mr_need *n, const char *path, int64_t context)
{
    const double mib = 1024.0 * 1024.0;
    uint64_t all = n->weights + n->arenas + n->kv;
    if (all <= n->available)
        return MR_OK;
    char of[64] = "";
    if (n->sessions > 1)
        snprintf(of, sizeof of, "%lld sessions of ", (long long)n->sessions);
    return mr_fail(
        MR_ELIMIT,
        "%s: needs %.1f MiB and %.1f MiB are available: weights %.1f, KV of %s%lld positions %.1f, "
        "activations %.1f",
        path, (double)all / mib, (double)n->available / mib, (double)n->weights / mib, of,
        (long long)context, (double)n->kv / mib, (double)n->arenas / mib);
}

/* ---- graph ---- */

static mr_err read_graph(const char *file, mr_graph **out)
{
    char *text;
    size_t len;
    MR_TRY(mr_file_read_all(file, (uint64_t)256 << 20, MR_MEM_COMPILE, &text, &len));
    mr_err err = mr_graph_parse(out, file, text, len);
    mr_free(text);
    return err;
}

/* An edited graph must still speak of this model: its logits have the model's vocabulary. */
static mr_err check_logits(const mr_graph *g, const char *file, int64_t vocab)
{
    for (int i = 0; i < mr_graph_outputs(g); i++) {
        if (strcmp(mr_graph_output_name(g, i), "logits") != 0)
            continue;
        const mr_value *v = mr_graph_value(g, mr_graph_output_value(g, i));
        if (v->type == MR_V_F32 && v->rank == 2 && v->dim[0].sym == MR_SYM_OUT &&
            v->dim[1].n == vocab && v->dim[1].sym == MR_SYM_NONE)
            return MR_OK;
        return mr_fail(MR_EFORMAT, "%s: output \"logits\" is not f32[OUT,%lld]", file,
                       (long long)vocab);
    }
    return mr_fail(MR_EFORMAT, "%s: no output named \"logits\"", file);
}

static mr_err make_graph(mr_engine *e, const mr_engine_opts *o)
{
    mr_pass_opts passes;
    mr_graph *built = NULL, *edited = NULL, *canvas = NULL;
    MR_TRY(mr_engine_pass_opts(o, &passes));
    MR_TRY(mr_model_build(e->model, &built));
    canvas = mr_model_take_canvas(e->model);
    mr_err err = mr_model_check_unused(e->model);
    const mr_graph *source = built;
    if (!err && o->graph_file) {
        err = read_graph(o->graph_file, &edited);
        if (!err)
            err = check_logits(edited, o->graph_file, e->info.vocab);
        source = edited;
    }
    if (!err)
        err = mr_graph_fingerprint(source, &e->fingerprint_graph);
    if (!err)
        err = mr_passes_run(source, e->backend, &passes, &e->graph, NULL);
    if (!err && canvas)
        err = mr_passes_run(canvas, e->backend, &passes, &e->canvas_graph, NULL);
    mr_graph_free(built);
    mr_graph_free(canvas);
    mr_graph_free(edited);
    return err;
}

/* ---- plans ---- */

static const mr_value *input_value(const mr_graph *g, const char *name)
{
    for (int i = 0; i < mr_graph_nodes(g); i++) {
        const mr_node *n = mr_graph_node(g, i);
        if (n->op == MR_OP_INPUT && strcmp(mr_attr_s(n, "name"), name) == 0)
            return mr_graph_value(g, n->out[0]);
    }
    return NULL;
}

/* What a run gives under a name must be what the graph takes: an edited graph may say otherwise. */
static mr_err find_input(const mr_engine *e, mr_lane *l, int index)
{
    static const struct {
        const char *name;
        mr_vtype type;
        int sym, width; /* width 0: rank 1; -1: the model's hidden size; -2: its vocabulary */
    } known[MR_INPUTS] = {[MR_IN_IDS] = {"ids", MR_V_I32, MR_SYM_ROWS, 0},
                          [MR_IN_POS] = {"pos", MR_V_I32, MR_SYM_ROWS, 0},
                          [MR_IN_OUT_ROWS] = {"out_rows", MR_V_I32, MR_SYM_OUT, 0},
                          [MR_IN_EMBEDS] = {"embeds", MR_V_F32, MR_SYM_ROWS, -1},
                          [MR_IN_SPAN] = {"span", MR_V_I32, MR_SYM_ROWS, 2},
                          [MR_IN_PROBS] = {"probs", MR_V_F32, MR_SYM_ROWS, -2}};
    const char *name = l->plan->inputs[index];
    int k = 0;
    while (k < MR_INPUTS && strcmp(name, known[k].name) != 0)
        k++;
    if (k == MR_INPUTS)
        return mr_fail(MR_EUNSUPPORTED,
                       "graph input \"%s\" is none of ids, pos, out_rows, embeds, span, probs",
                       name);
    const mr_value *v = input_value(l->plan->graph, name);
    int64_t width = known[k].width == -1   ? e->info.hidden
                    : known[k].width == -2 ? e->info.vocab
                                           : known[k].width;
    if (v->type != known[k].type || v->rank != (width ? 2 : 1) || v->dim[0].sym != known[k].sym ||
        (width && (v->dim[1].sym != MR_SYM_NONE || v->dim[1].n != width)))
        return mr_fail(MR_EFORMAT, "graph input \"%s\" has another type or shape than a run gives",
                       name);
    l->in[k] = index;
    return MR_OK;
}

static mr_err find_inputs(const mr_engine *e, mr_lane *l)
{
    for (int k = 0; k < MR_INPUTS; k++)
        l->in[k] = -1;
    for (int i = 0; i < l->plan->n_inputs; i++)
        MR_TRY(find_input(e, l, i));
    l->logits = -1;
    for (int i = 0; i < l->plan->n_outputs; i++)
        if (strcmp(l->plan->output_names[i], "logits") == 0)
            l->logits = i;
    return l->logits >= 0 ? MR_OK : mr_fail(MR_EFORMAT, "the graph has no output named \"logits\"");
}

static mr_err make_lane(mr_engine *e, mr_lane *l, const mr_graph *g, const char *name, int64_t rows)
{
    int64_t outs = g == e->canvas_graph ? rows : mr_engine_out_cap(mr_model_facts(e->model), rows);
    MR_TRY(mr_plan_compile(&l->plan, g, e->backend, name, rows, outs));
    e->counts.plans++;
    return find_inputs(e, l);
}

static mr_err make_tables(mr_engine *e)
{
    mr_tables *t = &e->tables;
    size_t n = (size_t)e->prefill.plan->row_cap;
    t->ids = mr_arena_alloc(e->arena, n * sizeof *t->ids);
    t->pos = mr_arena_alloc(e->arena, n * sizeof *t->pos);
    t->slot = mr_arena_alloc(e->arena, n * sizeof *t->slot);
    t->out = mr_arena_alloc(e->arena, n * sizeof *t->out);
    t->span = mr_arena_alloc(e->arena, n * sizeof *t->span);
    t->to = mr_arena_alloc(e->arena, n * sizeof *t->to);
    t->kv = mr_arena_alloc(e->arena, n * sizeof *t->kv);
    t->kv_len = mr_arena_alloc(e->arena, n * sizeof *t->kv_len);
    bool ok = t->ids && t->pos && t->slot && t->out && t->span && t->to && t->kv && t->kv_len;
    return ok ? MR_OK : MR_ENOMEM;
}

/* Its caches are the first graph's, by number. */
static mr_err make_canvas_lane(mr_engine *e)
{
    const mr_plan *a = e->decode.plan, *b;
    MR_TRY(make_lane(e, &e->canvas, e->canvas_graph, "canvas", e->info.canvas));
    b = e->canvas.plan;
    bool same = a->n_caches == b->n_caches;
    for (int i = 0; same && i < a->n_caches; i++)
        same = strcmp(a->caches[i].name, b->caches[i].name) == 0 &&
               a->caches[i].heads == b->caches[i].heads && a->caches[i].dk == b->caches[i].dk &&
               a->caches[i].dv == b->caches[i].dv && a->caches[i].window == b->caches[i].window;
    return same ? MR_OK
                : mr_fail(MR_EUNSUPPORTED, "%s: the two graphs have other caches", e->info.path);
}

static mr_err make_plans(mr_engine *e, int64_t chunk)
{
    int64_t rows = mr_engine_decode_rows(mr_model_facts(e->model));
    MR_TRY(make_lane(e, &e->decode, e->graph, "decode", rows));
    rows = mr_engine_prefill_rows(e->decode.plan, chunk, e->info.context);
    rows = max64(rows, e->info.canvas); /* the ring must hold a canvas behind the window */
    MR_TRY(make_lane(e, &e->prefill, e->graph, "prefill", rows));
    if (e->canvas_graph)
        MR_TRY(make_canvas_lane(e));
    e->info.plans = (int)e->counts.plans;
    int64_t most = max64(e->decode.plan->arena_bytes, e->prefill.plan->arena_bytes);
    if (e->canvas_graph)
        most = max64(most, e->canvas.plan->arena_bytes);
    e->info.arena_bytes = (uint64_t)most;
    return make_tables(e);
}

/* ---- weights ---- */

static const char *recipe_of(const mr_graph *g, int value)
{
    return mr_attr_s(mr_graph_node(g, mr_graph_value(g, value)->node), "recipe");
}

/* One place for a weight: by the values of a graph. */
typedef struct shelf {
    const mr_graph *graph;
    mr_weight **weights;
    uint64_t *bytes;
} shelf;

static mr_err load_weight(mr_engine *e, const shelf *s, int value)
{
    mr_arena *scratch;
    MR_TRY(mr_arena_new(&scratch, MR_MEM_COMPILE));
    mr_recipe *r;
    mr_err err = mr_recipe_parse(&r, recipe_of(s->graph, value), scratch);
    if (!err)
        err = mr_recipe_bind(r, mr_model_lookup, e->model);
    if (!err)
        err = e->backend->v->weight_load(e->backend, s->graph, value, r, mr_model_read, e->model,
                                         &s->weights[value]);
    mr_arena_free(scratch);
    return err;
}

/* The value of the first graph's plan that is this weight of the canvas graph; -1: none is. */
static int same_weight(const mr_engine *e, int value)
{
    const mr_plan *p = e->decode.plan;
    for (int i = 0; i < p->n_weights; i++)
        if (strcmp(recipe_of(e->graph, p->weights[i]), recipe_of(e->canvas_graph, value)) == 0)
            return p->weights[i];
    return -1;
}

static mr_err bind_lane(mr_engine *e, mr_lane *l, const shelf *s)
{
    l->weights = mr_arena_alloc(e->arena, sizeof *l->weights * (size_t)(l->plan->n_weights + 1));
    if (!l->weights)
        return MR_ENOMEM;
    for (int i = 0; i < l->plan->n_weights; i++) {
        int v = l->plan->weights[i], same = s->graph == e->graph ? -1 : same_weight(e, v);
        if (!s->weights[v] && same < 0)
            MR_TRY(load_weight(e, s, v));
        size_t bytes;
        MR_TRY(e->backend->v->weight_bytes(e->backend, s->graph, v, &bytes));
        if (!s->bytes[v] && same < 0)
            e->info.weight_bytes += bytes;
        s->bytes[v] = bytes;
        l->weights[i] = same < 0 ? s->weights[v] : e->weights[same];
    }
    return MR_OK;
}

static mr_err make_shelf(mr_engine *e, const mr_graph *g, shelf *s)
{
    size_t n = (size_t)mr_graph_values(g) + 1;
    s->graph = g;
    s->weights = mr_arena_alloc(e->arena, n * sizeof *s->weights);
    s->bytes = mr_arena_alloc(e->arena, n * sizeof *s->bytes);
    return s->weights && s->bytes ? MR_OK : MR_ENOMEM;
}

static mr_err load_weights(mr_engine *e)
{
    shelf s;
    MR_TRY(make_shelf(e, e->graph, &s));
    e->weights = s.weights;
    e->weight_bytes = s.bytes;
    MR_TRY(bind_lane(e, &e->decode, &s));
    MR_TRY(bind_lane(e, &e->prefill, &s));
    if (!e->canvas_graph)
        return MR_OK;
    MR_TRY(make_shelf(e, e->canvas_graph, &s));
    e->canvas_weights = s.weights;
    e->canvas_bytes = s.bytes;
    return bind_lane(e, &e->canvas, &s);
}

/* What the canvas plan takes besides. */
static mr_err add_canvas_need(const mr_engine *e, mr_need *n)
{
    const mr_plan *p = e->canvas.plan;
    if (!p)
        return MR_OK;
    for (int i = 0; i < p->n_weights; i++) {
        size_t bytes;
        if (same_weight(e, p->weights[i]) >= 0)
            continue;
        MR_TRY(e->backend->v->weight_bytes(e->backend, e->canvas_graph, p->weights[i], &bytes));
        n->weights += bytes;
    }
    n->arenas = (uint64_t)max64((int64_t)n->arenas, p->arena_bytes);
    return MR_OK;
}

/* ---- facts ---- */

static mr_err add_eos(mr_engine_info *info, int32_t id)
{
    for (int i = 0; i < info->n_eos; i++)
        if (info->eos[i] == id)
            return MR_OK;
    if (info->n_eos == MAX_EOS)
        return mr_fail(MR_EUSAGE, "more than %d end ids", MAX_EOS);
    info->eos[info->n_eos++] = id;
    return MR_OK;
}

/* What the tokenizer ends a text with, for models that do not say it themselves.  One of a kind that is
 * not read here, or by a build without text, says nothing: ids can be run all the same. */
static mr_err tokenizer_eos(mr_engine *e)
{
    mr_tokenizer *t;
    bool there;
    MR_TRY(mr_text_there(e->model, &there));
    if (!there)
        return MR_OK;
    mr_err err = (mr_err)mr_engine_text(e, &t);
    if (err)
        return err == MR_EUNSUPPORTED ? MR_OK : err;
    return mr_tokenizer_eos(t) < 0 ? MR_OK : add_eos(&e->info, mr_tokenizer_eos(t));
}

/* Those given by the caller, else those of config.json and generation_config.json together, else
 * the tokenizer's. */
static mr_err take_eos(mr_engine *e, const mr_model_info *m, const mr_engine_opts *o)
{
    mr_engine_info *i = &e->info;
    if (o->n_eos > 0)
        i->n_eos = 0;
    for (int k = 0; k < o->n_eos; k++) {
        if (o->eos[k] < 0)
            return mr_fail(MR_EUSAGE, "end id %d is negative", o->eos[k]);
        MR_TRY(add_eos(i, o->eos[k]));
    }
    for (int k = 0; k < m->n_eos && o->n_eos <= 0; k++)
        MR_TRY(add_eos(i, m->eos[k]));
    return i->n_eos ? MR_OK : tokenizer_eos(e);
}

static mr_err check_opts(const mr_engine_opts *o, const mr_model_info *m, const char *path)
{
    if ((o->has_mask_id || o->block_length) && !m->diffusion)
        return mr_fail(MR_EUSAGE,
                       "%s is not a diffusion model: a mask id or block length does not apply",
                       path);
    if (o->context < 0 || o->context > MAX_CONTEXT)
        return mr_fail(MR_EUSAGE, "context: %lld is not in 1..%d", (long long)o->context,
                       MAX_CONTEXT);
    if (m->most && o->context > m->most)
        return mr_fail(MR_ELIMIT,
                       "%s: a context of %lld: the model's rope is \"dynamic\", which from %lld "
                       "positions on depends on how a text is cut; that is not supported",
                       path, (long long)o->context, (long long)m->most);
    if (o->chunk < 0 || o->block_length < 0)
        return mr_fail(MR_EUSAGE, "chunk and block_length are not negative");
    if (o->sessions < 0 || o->sessions > MAX_SESSIONS)
        return mr_fail(MR_EUSAGE, "sessions: %lld is not in 1..%d", (long long)o->sessions,
                       MAX_SESSIONS);
    return MR_OK;
}

static mr_err take_facts(mr_engine *e, const char *path, const mr_engine_opts *o)
{
    const mr_model_info *m = mr_model_facts(e->model);
    mr_engine_info *i = &e->info;
    i->family = m->family;
    i->model_type = m->model_type;
    i->path = mr_arena_strdup(e->arena, path);
    if (!i->path)
        return MR_ENOMEM;
    i->cpu = mr_isa_name(e->backend->opts.isa);
    i->precision = mr_precision_name(e->backend->opts.precision);
    i->threads = e->backend->opts.threads;
    i->vocab = m->vocab;
    i->hidden = m->hidden;
    i->layers = m->layers;
    i->max_positions = m->max_positions;
    i->diffusion = m->diffusion;
    i->block_length = m->block_length;
    i->decoder = m->decoder;
    i->mask_id = o->has_mask_id ? o->mask_id : m->mask_id;
    i->delete_id = m->delete_id;
    i->split_id = m->split_id;
    i->canvas = m->canvas;
    i->pad = m->pad;
    i->bos = m->bos;
    i->temperature = i->top_p = i->top_k = i->repetition_penalty = NAN;
    i->max_denoising_steps = i->t_min = i->t_max = i->entropy_bound = NAN;
    i->stability_threshold = i->confidence_threshold = NAN;
    MR_TRY(mr_defaults_read(path, i));
    MR_TRY(take_eos(e, m, o));
    i->context = mr_engine_context(m, o);
    return MR_OK;
}

static mr_err open_engine(mr_engine *e, const char *path, const mr_engine_opts *o)
{
    uint64_t start = mr_clock_ns();
    MR_TRY(mr_arena_new(&e->arena, MR_MEM_OTHER));
    MR_TRY(mr_engine_backend(o, &e->backend));
    mr_model_opts mo = {.block_length = o->block_length};
    MR_TRY(mr_model_open(&e->model, path, &mo));
    if (!mr_model_weights(e->model))
        return mr_fail(MR_EUSAGE,
                       "%s: a model directory or a .gguf file is needed, not a config alone", path);
    MR_TRY(check_opts(o, mr_model_facts(e->model), path));
    MR_TRY(take_facts(e, path, o));
    if (o->accept)
        MR_TRY((mr_err)o->accept(o->ctx, &e->info));
    MR_TRY(make_graph(e, o));
    MR_TRY(make_plans(e, o->chunk));
    mr_need need;
    MR_TRY(mr_need_count(&need, e->backend, e->graph, e->decode.plan, e->prefill.plan,
                         e->info.context, e->prefill.plan->row_cap, o->sessions));
    MR_TRY(add_canvas_need(e, &need));
    MR_TRY(mr_need_check(&need, path, e->info.context));
    MR_TRY(load_weights(e));
    e->info.load_ns = mr_clock_ns() - start;
    return MR_OK;
}

mr_status mr_engine_open(mr_engine **out, const char *model, const mr_engine_opts *o)
{
    *out = NULL;
    mr_engine *e = mr_zalloc(MR_MEM_OTHER, sizeof *e);
    if (!e)
        return MR_ENOMEM;
    mr_err err = open_engine(e, model, o);
    if (err) {
        mr_engine_close(e);
        return (mr_status)err;
    }
    *out = e;
    return MR_OK;
}

static void free_weights(mr_engine *e, const mr_graph *g, mr_weight **weights)
{
    for (int v = 0; weights && v < mr_graph_values(g); v++)
        if (weights[v])
            e->backend->v->weight_free(e->backend, weights[v]);
}

void mr_engine_close(mr_engine *e)
{
    if (!e)
        return;
    mr_profile_stop(e);
    if (e->activations)
        e->backend->v->arena_free(e->backend, e->activations);
    mr_plan_free(e->decode.plan);
    mr_plan_free(e->prefill.plan);
    mr_plan_free(e->canvas.plan);
    free_weights(e, e->graph, e->weights);
    free_weights(e, e->canvas_graph, e->canvas_weights);
    mr_graph_free(e->graph);
    mr_graph_free(e->canvas_graph);
    mr_model_close(e->model);
    if (e->text)
        mr_tokenizer_close(e->text);
    if (e->backend)
        e->backend->v->close(e->backend);
    mr_arena_free(e->arena);
    mr_free(e);
}

const mr_engine_info *mr_engine_facts(const mr_engine *e)
{
    return &e->info;
}

mr_counts mr_engine_counts(const mr_engine *e)
{
    return e->counts;
}

const char *mr_error_text(void)
{
    return mr_error();
}

const char *mr_version(void)
{
    return MR_VERSION;
}

void mr_memory_free(void *p)
{
    mr_free(p);
}
