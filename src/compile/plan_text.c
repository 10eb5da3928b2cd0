/* A plan as text and as JSON: everything that is run, nothing that is not.  Both are the same bytes
 * on every machine for the same graph, backend and caps, so that they can be compared. */
#include "compile/plan_internal.h"

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *mr_plan_float(double f, char *buf)
{
    bool whole = fabs(f) < 1e15 && f == floor(f); /* 10000, not 1e+04 */
    if (whole)
        snprintf(buf, 32, "%.0f", f);
    for (int digits = 1; !whole && digits <= 17; digits++) {
        snprintf(buf, 32, "%.*g", digits, f);
        if (strtod(buf, NULL) == f) /* same locale both ways */
            break;
    }
    for (char *p = buf; *p; p++)
        if (!isalnum((unsigned char)*p) && *p != '-' && *p != '+')
            *p = '.';
    return buf;
}

static bool is_default(const mr_attr_info *a, mr_attr x)
{
    if (a->required)
        return false;
    if (a->kind == 's')
        return !strcmp(a->def.s, x.s);
    return a->kind == 'i' ? a->def.i == x.i : a->def.f == x.f;
}

void mr_plan_attrs(const mr_node *n, mr_buf *out)
{
    const mr_op_info *o = mr_op_get(n->op);
    char number[32];
    for (int i = 0; i < o->n_attr; i++) {
        const mr_attr_info *a = &o->attr[i];
        if (is_default(a, n->attr[i]))
            continue;
        mr_buf_printf(out, " %s=", a->name);
        if (a->kind == 's')
            mr_buf_puts(out, n->attr[i].s);
        else if (a->kind == 'i')
            mr_buf_printf(out, "%lld", (long long)n->attr[i].i);
        else
            mr_buf_puts(out, mr_plan_float(n->attr[i].f, number));
    }
}

static void dim(const mr_plan *p, mr_dim d, mr_buf *out)
{
    if (d.sym == MR_SYM_NONE || d.n != 1)
        mr_buf_printf(out, "%lld", (long long)d.n);
    if (d.sym != MR_SYM_NONE)
        mr_buf_printf(out, "%s%s", d.n != 1 ? "*" : "", mr_graph_symbol_name(p->graph, d.sym));
}

void mr_plan_dims(const mr_plan *p, const mr_operand_ref *r, mr_buf *out)
{
    for (int i = 0; i < r->rank; i++) {
        mr_buf_putc(out, i ? ',' : '[');
        dim(p, r->dim[i], out);
    }
    if (r->rank)
        mr_buf_putc(out, ']');
}

static const char *where_name(mr_where w)
{
    static const char *const names[] = {"_", "arena", "input", "weight", "cache"};
    return names[w];
}

/* "arena+128[ROWS,4,16]:64,16", "input0[ROWS]", "weight3[64,32]", "cache0", "_" */
static void operand(const mr_plan *p, const mr_operand_ref *r, mr_buf *out)
{
    mr_buf_puts(out, where_name(r->where));
    if (r->where == MR_AT_ARENA)
        mr_buf_printf(out, "+%lld", (long long)r->offset);
    else if (r->where != MR_AT_NONE)
        mr_buf_printf(out, "%d", r->index);
    mr_plan_dims(p, r, out);
    if (r->where != MR_AT_ARENA && r->where != MR_AT_INPUT)
        return;
    for (int i = 0; i + 1 < r->rank; i++)
        mr_buf_printf(out, "%c%lld", i ? ',' : ':', (long long)r->stride[i]);
}

static void print_step(const mr_plan *p, int i, mr_buf *out)
{
    const mr_step *s = &p->steps[i];
    mr_buf_printf(out, "step %d %s", i, mr_op_get(s->op)->name);
    mr_plan_attrs(s->node, out);
    for (int k = 0; k < s->n_in; k++) {
        mr_buf_puts(out, k ? ", " : " (");
        operand(p, &s->in[k], out);
    }
    mr_buf_puts(out, ") ->");
    for (int k = 0; k < s->n_out; k++) {
        mr_buf_puts(out, k ? ", " : " ");
        operand(p, &s->out[k], out);
    }
    if (s->scratch_bytes > 0)
        mr_buf_printf(out, " scratch+%lld:%lld", (long long)s->scratch_offset,
                      (long long)s->scratch_bytes);
    mr_buf_printf(out, " \"%s\"\n", s->kernel ? s->kernel : "");
}

mr_err mr_plan_print(const mr_plan *p, mr_buf *out)
{
    mr_buf_printf(out, "plan %s of %s: %s, %lld rows, %lld wanted, %d steps, arena %lld bytes\n",
                  p->name, mr_graph_name(p->graph), mr_precision_name(p->precision),
                  (long long)p->row_cap, (long long)p->out_cap, p->n_steps,
                  (long long)p->arena_bytes);
    for (int i = 0; i < p->n_inputs; i++)
        mr_buf_printf(out, "input %d %s\n", i, p->inputs[i]);
    for (int i = 0; i < p->n_weights; i++) {
        const mr_value *w = mr_graph_value(p->graph, p->weights[i]);
        char fmt[32];
        mr_buf_printf(out, "weight %d %s \"%s\"\n", i, mr_fmt_name(w->fmt, fmt),
                      mr_attr_s(mr_graph_node(p->graph, w->node), "recipe"));
    }
    for (int i = 0; i < p->n_caches; i++) {
        const mr_cache_desc *c = &p->caches[i];
        mr_buf_printf(out, "%s %d %s heads=%d dk=%d dv=%d", c->state ? "state" : "cache", i,
                      c->name, c->heads, c->dk, c->dv);
        if (c->state)
            mr_buf_putc(out, '\n');
        else
            mr_buf_printf(out, " window=%d\n", c->window);
    }
    for (int i = 0; i < p->n_steps; i++)
        print_step(p, i, out);
    for (int i = 0; i < p->n_outputs; i++) {
        mr_buf_printf(out, "output %s ", p->output_names[i]);
        operand(p, &p->outputs[i], out);
        mr_buf_putc(out, '\n');
    }
    return mr_buf_check(out);
}

/* ---- JSON ---- */

static void text(mr_buf *out, const char *key, const char *s)
{
    mr_buf_printf(out, "\"%s\": ", key);
    mr_buf_json(out, s, strlen(s));
}

static void json_operand(const mr_plan *p, const mr_operand_ref *r, mr_buf *out)
{
    if (r->where == MR_AT_NONE) {
        mr_buf_puts(out, "null");
        return;
    }
    mr_buf_printf(out, "{\"where\": \"%s\"", where_name(r->where));
    if (r->where == MR_AT_ARENA)
        mr_buf_printf(out, ", \"offset\": %lld", (long long)r->offset);
    else
        mr_buf_printf(out, ", \"index\": %d", r->index);
    mr_buf_puts(out, ", \"dims\": [");
    for (int i = 0; i < r->rank; i++) {
        mr_buf_puts(out, i ? ", " : "");
        if (r->dim[i].sym == MR_SYM_NONE) {
            mr_buf_printf(out, "%lld", (long long)r->dim[i].n);
        } else {
            mr_buf_putc(out, '"');
            dim(p, r->dim[i], out);
            mr_buf_putc(out, '"');
        }
    }
    mr_buf_puts(out, "], \"strides\": [");
    for (int i = 0; i < r->rank; i++)
        mr_buf_printf(out, "%s%lld", i ? ", " : "", (long long)r->stride[i]);
    mr_buf_puts(out, "]}");
}

static void json_attrs(const mr_node *n, mr_buf *out)
{
    const mr_op_info *o = mr_op_get(n->op);
    char number[32];
    for (int i = 0; i < o->n_attr; i++) {
        mr_buf_puts(out, i ? ", " : "");
        if (o->attr[i].kind == 's')
            text(out, o->attr[i].name, n->attr[i].s);
        else if (o->attr[i].kind == 'i')
            mr_buf_printf(out, "\"%s\": %lld", o->attr[i].name, (long long)n->attr[i].i);
        else
            mr_buf_printf(out, "\"%s\": %s", o->attr[i].name, mr_plan_float(n->attr[i].f, number));
    }
}

static void json_operands(const mr_plan *p, const char *key, const mr_operand_ref *r, int n,
                          mr_buf *out)
{
    mr_buf_printf(out, ", \"%s\": [", key);
    for (int i = 0; i < n; i++) {
        mr_buf_puts(out, i ? ", " : "");
        json_operand(p, &r[i], out);
    }
    mr_buf_putc(out, ']');
}

static void json_step(const mr_plan *p, const mr_step *s, mr_buf *out)
{
    mr_buf_printf(out, "{\"op\": \"%s\", ", mr_op_get(s->op)->name);
    text(out, "kernel", s->kernel ? s->kernel : "");
    mr_buf_puts(out, ", \"attributes\": {");
    json_attrs(s->node, out);
    mr_buf_putc(out, '}');
    json_operands(p, "in", s->in, s->n_in, out);
    json_operands(p, "out", s->out, s->n_out, out);
    if (s->scratch_bytes > 0)
        mr_buf_printf(out, ", \"scratch\": {\"offset\": %lld, \"bytes\": %lld}",
                      (long long)s->scratch_offset, (long long)s->scratch_bytes);
    mr_buf_putc(out, '}');
}

static void json_weights(const mr_plan *p, mr_buf *out)
{
    mr_buf_puts(out, ",\n\"weights\": [");
    for (int i = 0; i < p->n_weights; i++) {
        const mr_value *w = mr_graph_value(p->graph, p->weights[i]);
        char fmt[32];
        mr_buf_printf(out, "%s\n{\"format\": \"%s\", ", i ? "," : "", mr_fmt_name(w->fmt, fmt));
        text(out, "recipe", mr_attr_s(mr_graph_node(p->graph, w->node), "recipe"));
        mr_buf_puts(out, ", \"dims\": [");
        for (int k = 0; k < w->rank; k++)
            mr_buf_printf(out, "%s%lld", k ? ", " : "", (long long)w->dim[k].n);
        mr_buf_puts(out, "]}");
    }
    mr_buf_puts(out, "],\n\"caches\": [");
    for (int i = 0; i < p->n_caches; i++) {
        const mr_cache_desc *c = &p->caches[i];
        mr_buf_printf(out, "%s\n{", i ? "," : "");
        text(out, "name", c->name);
        mr_buf_printf(out,
                      ", \"heads\": %d, \"dk\": %d, \"dv\": %d, \"window\": %d, \"state\": %s}",
                      c->heads, c->dk, c->dv, c->window, c->state ? "true" : "false");
    }
    mr_buf_putc(out, ']');
}

mr_err mr_plan_json(const mr_plan *p, mr_buf *out)
{
    mr_buf_putc(out, '{');
    text(out, "plan", p->name);
    mr_buf_puts(out, ", ");
    text(out, "graph", mr_graph_name(p->graph));
    mr_buf_printf(
        out, ", \"precision\": \"%s\", \"rows\": %lld, \"wanted\": %lld, \"arena_bytes\": %lld",
        mr_precision_name(p->precision), (long long)p->row_cap, (long long)p->out_cap,
        (long long)p->arena_bytes);
    mr_buf_puts(out, ",\n\"inputs\": [");
    for (int i = 0; i < p->n_inputs; i++) {
        mr_buf_puts(out, i ? ", " : "");
        mr_buf_json(out, p->inputs[i], strlen(p->inputs[i]));
    }
    mr_buf_putc(out, ']');
    json_weights(p, out);
    mr_buf_puts(out, ",\n\"steps\": [");
    for (int i = 0; i < p->n_steps; i++) {
        mr_buf_puts(out, i ? ",\n" : "\n");
        json_step(p, &p->steps[i], out);
    }
    mr_buf_puts(out, "],\n\"outputs\": [");
    for (int i = 0; i < p->n_outputs; i++) {
        mr_buf_printf(out, "%s\n{", i ? "," : "");
        text(out, "name", p->output_names[i]);
        mr_buf_puts(out, ", \"at\": ");
        json_operand(p, &p->outputs[i], out);
        mr_buf_putc(out, '}');
    }
    mr_buf_puts(out, "]}\n");
    return mr_buf_check(out);
}
