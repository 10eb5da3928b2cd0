/* Graphs for other programs: Graphviz dot and JSON. */
#include "ir/graph_internal.h"

#include <string.h>

/* ---- dot ---- */

static void dot_text(mr_buf *out, const char *s)
{
    for (; *s; s++) {
        if (*s == '"' || *s == '\\')
            mr_buf_putc(out, '\\');
        mr_buf_putc(out, (unsigned char)*s < 0x20 ? ' ' : *s);
    }
}

static void dot_node(const mr_graph *g, int i, mr_buf *out)
{
    const mr_node *n = mr_graph_node(g, i);
    const mr_op_info *o = mr_op_get(n->op);
    char type[MR_TYPE_TEXT];
    mr_buf attrs = {0};
    mr_buf_printf(out, "  n%d [shape=%s label=\"%s", i, mr_op_is_leaf(n->op) ? "plaintext" : "box",
                  o->name);
    for (int a = 0; a < o->n_attr; a++) {
        mr_buf_clear(&attrs);
        mr_attr_text(&o->attr[a], n->attr[a], &attrs);
        if (attrs.data) {
            mr_buf_printf(out, "\\n%s ", o->attr[a].name);
            dot_text(out, attrs.data);
        }
        out->failed |= attrs.failed;
    }
    for (int r = 0; r < n->n_out; r++)
        mr_buf_printf(out, "\\n%s", mr_type_text(g, mr_graph_value(g, n->out[r]), type));
    mr_buf_puts(out, "\"];\n");
    for (int k = 0; k < n->n_in; k++)
        if (n->in[k] != MR_NONE)
            mr_buf_printf(out, "  n%d -> n%d [label=\"%s\"];\n", mr_graph_value(g, n->in[k])->node,
                          i, o->in_name[k]);
    mr_buf_free(&attrs);
}

mr_err mr_graph_dot(const mr_graph *g, mr_buf *out)
{
    MR_TRY(mr_graph_sound(g));
    mr_buf_puts(out, "digraph \"");
    dot_text(out, g->name);
    mr_buf_puts(out, "\" {\n  node [fontname=\"sans-serif\" fontsize=10];\n");
    for (int i = 0; i < g->n_nodes; i++)
        dot_node(g, i, out);
    for (int i = 0; i < g->n_outputs; i++) {
        mr_buf_printf(out, "  o%d [shape=ellipse label=\"", i);
        dot_text(out, g->output[i].name);
        mr_buf_printf(out, "\"];\n  n%d -> o%d;\n", mr_graph_value(g, g->output[i].value)->node, i);
    }
    mr_buf_puts(out, "}\n");
    return mr_buf_check(out);
}

/* ---- JSON ---- */

static void json_string(mr_buf *out, const char *s)
{
    mr_buf_json(out, s, strlen(s));
}

static void json_result(const mr_graph *g, int v, mr_buf *out)
{
    static const char *const types[] = {"f32", "i32", "weight", "cache"};
    const mr_value *x = mr_graph_value(g, v);
    char text[64];
    mr_buf_printf(out, "{\"value\":%d,\"type\":\"%s\"", v, types[x->type]);
    if (x->name) {
        mr_buf_puts(out, ",\"name\":");
        json_string(out, x->name);
    }
    if (x->type == MR_V_WEIGHT)
        mr_buf_printf(out, ",\"format\":\"%s\"", mr_fmt_name(x->fmt, text));
    mr_buf_puts(out, ",\"shape\":[");
    for (int i = 0; i < x->rank; i++) {
        mr_dim_text(g, x->dim[i], text, sizeof text);
        mr_buf_printf(out, x->dim[i].sym == MR_SYM_NONE ? "%s%s" : "%s\"%s\"", i ? "," : "", text);
    }
    mr_buf_puts(out, "]}");
}

static void json_node(const mr_graph *g, const mr_node *n, mr_buf *out)
{
    const mr_op_info *o = mr_op_get(n->op);
    mr_buf_printf(out, "{\"op\":\"%s\",\"in\":{", o->name);
    const char *comma = "";
    for (int k = 0; k < n->n_in; k++)
        if (n->in[k] != MR_NONE) {
            mr_buf_printf(out, "%s\"%s\":%d", comma, o->in_name[k], n->in[k]);
            comma = ",";
        }
    mr_buf_puts(out, "},\"attr\":{");
    for (int a = 0; a < o->n_attr; a++) {
        mr_buf_printf(out, "%s\"%s\":", a ? "," : "", o->attr[a].name);
        mr_attr_text(&o->attr[a], n->attr[a], out);
    }
    mr_buf_puts(out, "},\"out\":[");
    for (int r = 0; r < n->n_out; r++) {
        mr_buf_puts(out, r ? "," : "");
        json_result(g, n->out[r], out);
    }
    mr_buf_puts(out, "]}");
}

mr_err mr_graph_json(const mr_graph *g, mr_buf *out)
{
    MR_TRY(mr_graph_sound(g));
    mr_buf_puts(out, "{\"graph\":");
    json_string(out, g->name);
    mr_buf_puts(out, ",\"nodes\":[");
    for (int i = 0; i < g->n_nodes; i++) {
        mr_buf_puts(out, i ? ",\n" : "\n");
        json_node(g, g->node[i], out);
    }
    mr_buf_puts(out, "],\n\"outputs\":[");
    for (int i = 0; i < g->n_outputs; i++) {
        mr_buf_printf(out, "%s{\"value\":%d,\"name\":", i ? "," : "", g->output[i].value);
        json_string(out, g->output[i].name);
        mr_buf_putc(out, '}');
    }
    mr_buf_puts(out, "]}\n");
    return mr_buf_check(out);
}
