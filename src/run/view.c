/* mr_view: the graph at every stage, as text, dot, SVG or JSON, and the compiler's reports.
 *
 * Works without weights on a config.json: shapes come from the config, formats are taken as bf16.
 */
#include <string.h>

#include "run/engine.h"

typedef struct view {
    mr_model *model;
    mr_backend *backend;
    mr_graph *built, *fused;
    mr_plan *plan;
    mr_buf report;
} view;

static mr_err one_of(const char *what, const char *value, const char *const *allowed)
{
    for (int i = 0; allowed[i]; i++)
        if (strcmp(value, allowed[i]) == 0)
            return MR_OK;
    return mr_fail(MR_EUSAGE, "%s \"%s\" is unknown", what, value);
}

static mr_err print_graph(const mr_graph *g, const char *format, mr_buf *out)
{
    if (strcmp(format, "dot") == 0)
        return mr_graph_dot(g, out);
    if (strcmp(format, "svg") == 0)
        return mr_graph_svg(g, out);
    if (strcmp(format, "json") == 0)
        return mr_graph_json(g, out);
    return mr_graph_print(g, out);
}

static mr_err print_plan(const mr_plan *p, const char *format, mr_buf *out)
{
    if (strcmp(format, "dot") == 0)
        return mr_plan_dot(p, out);
    if (strcmp(format, "svg") == 0)
        return mr_plan_svg(p, out);
    if (strcmp(format, "json") == 0)
        return mr_plan_json(p, out);
    return mr_plan_print(p, out);
}

static mr_err make_plan(view *v, const mr_view_opts *o, const char *plan)
{
    const mr_model_info *m = mr_model_facts(v->model);
    int64_t rows = mr_engine_decode_rows(m);
    bool prefill = strcmp(plan, "prefill") == 0;
    if (strcmp(plan, "canvas") == 0)
        return mr_plan_compile(&v->plan, v->fused, v->backend, plan, m->canvas, m->canvas);
    MR_TRY(mr_plan_compile(&v->plan, v->fused, v->backend, "decode", rows,
                           mr_engine_out_cap(m, rows)));
    if (!prefill)
        return MR_OK;
    rows = mr_engine_prefill_rows(v->plan, o->engine.chunk, mr_engine_context(m, &o->engine));
    mr_plan_free(v->plan);
    v->plan = NULL;
    return mr_plan_compile(&v->plan, v->fused, v->backend, "prefill", rows,
                           mr_engine_out_cap(m, rows));
}

static mr_err make_view(view *v, const char *path, const mr_view_opts *o, mr_buf *out)
{
    static const char *const plans[] = {"decode", "prefill", "canvas", NULL},
                             *const stages[] = {"built", "fused", "plan", NULL},
                             *const formats[] = {"text", "dot", "svg", "json", NULL};
    const char *plan = o->plan ? o->plan : "decode", *stage = o->stage ? o->stage : "fused";
    const char *format = o->format ? o->format : "text";
    MR_TRY(one_of("plan", plan, plans));
    MR_TRY(one_of("stage", stage, stages));
    MR_TRY(one_of("format", format, formats));
    mr_pass_opts passes;
    MR_TRY(mr_engine_pass_opts(&o->engine, &passes));
    MR_TRY(mr_engine_backend(&o->engine, &v->backend));
    mr_model_opts mo = {.block_length = o->engine.block_length};
    MR_TRY(mr_model_open(&v->model, path, &mo));
    MR_TRY(mr_model_build(v->model, &v->built));
    if (mr_model_weights(v->model))
        MR_TRY(mr_model_check_unused(v->model));
    if (strcmp(plan, "canvas") == 0) {
        mr_graph_free(v->built);
        v->built = mr_model_take_canvas(v->model);
        if (!v->built)
            return mr_fail(MR_EUSAGE, "plan \"canvas\": %s has no canvas",
                           mr_model_facts(v->model)->model_type);
    }
    if (strcmp(stage, "built") == 0 && !o->report)
        return print_graph(v->built, format, out);
    MR_TRY(mr_passes_run(v->built, v->backend, &passes, &v->fused, &v->report));
    if (strcmp(stage, "fused") == 0 && !o->report)
        return print_graph(v->fused, format, out);
    MR_TRY(make_plan(v, o, plan));
    if (!o->report)
        return print_plan(v->plan, format, out);
    mr_buf_add(out, v->report.data, v->report.len);
    return mr_plan_report(v->plan, out);
}

mr_status mr_view(const char *model, const mr_view_opts *o, char **text, size_t *len)
{
    view v = {0};
    mr_buf out = {0};
    *text = NULL;
    mr_err err = make_view(&v, model, o, &out);
    if (!err)
        err = mr_buf_check(&out);
    if (v.plan)
        mr_plan_free(v.plan);
    mr_graph_free(v.fused);
    mr_graph_free(v.built);
    mr_model_close(v.model);
    if (v.backend)
        v.backend->v->close(v.backend);
    mr_buf_free(&v.report);
    if (err) {
        mr_buf_free(&out);
        return (mr_status)err;
    }
    *text = out.data;
    *len = out.len;
    return MR_OK;
}
