/* A picture of a graph by a layered layout.
 *
 * A node's layer is the longest path to it from the leaves, which are left out.  Within a layer
 * nodes are ordered by the mean place of their operands, from top to bottom in one sweep.  An edge
 * to the next layer is a straight line; longer ones share one vertical lane per value beside the
 * boxes, so that no line runs through a box. */
#include "ir/graph_internal.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_BOXES = 8192, BOX_W = 230, BOX_H = 52, GAP_X = 26, GAP_Y = 44, LANE = 10, MARGIN = 20 };

typedef struct box {
    int node, layer, slot; /* slot: place within the layer */
    double mean;           /* of its operands' places, in pixels */
    int x, y;              /* top left corner */
} box;

typedef struct lane_use {
    int value, from, to, lane; /* layers [from, to] */
} lane_use;

typedef struct picture {
    const mr_graph *g;
    mr_arena *arena;
    box *box;
    int n_box;
    int *box_of;   /* node -> box, or -1 */
    int *by_layer; /* boxes in order of layer and slot */
    int *start;    /* first of each layer in by_layer; n_layers + 1 entries */
    int n_layers, widest;
    lane_use *use;
    int n_use, n_lanes;
} picture;

/* The box that makes a value, or NULL for leaves and absent operands. */
static box *maker(const picture *p, int value)
{
    int b = value == MR_NONE ? -1 : p->box_of[mr_graph_value(p->g, value)->node];
    return b < 0 ? NULL : &p->box[b];
}

/* ---- layout ---- */

static void *array(picture *p, size_t n, size_t size)
{
    return mr_arena_alloc(p->arena,
                          (n + 1) * size); /* n is at most MAX_BOXES, or the graph's own */
}

static mr_err make_boxes(picture *p)
{
    const mr_graph *g = p->g;
    p->box_of = array(p, (size_t)g->n_nodes, sizeof *p->box_of);
    for (int i = 0; p->box_of && i < g->n_nodes; i++)
        p->box_of[i] = mr_op_is_leaf(g->node[i]->op) ? -1 : p->n_box++;
    if (p->n_box > MAX_BOXES)
        return mr_fail(MR_ELIMIT, "graph %.200s: %d nodes, a picture holds %d", g->name, p->n_box,
                       MAX_BOXES);
    p->box = array(p, (size_t)p->n_box, sizeof *p->box);
    p->by_layer = array(p, (size_t)p->n_box, sizeof *p->by_layer);
    p->start = array(p, (size_t)p->n_box + 1, sizeof *p->start);
    p->use = array(p, 2 * (size_t)p->n_box, sizeof *p->use);
    if (!p->box_of || !p->box || !p->by_layer || !p->start || !p->use)
        return MR_ENOMEM;
    for (int i = 0; i < g->n_nodes; i++) {
        if (p->box_of[i] < 0)
            continue;
        box *b = &p->box[p->box_of[i]];
        b->node = i;
        for (int k = 0; k < g->node[i]->n_in; k++) {
            const box *from = maker(p, g->node[i]->in[k]);
            if (from && from->layer >= b->layer)
                b->layer = from->layer + 1;
        }
        if (b->layer >= p->n_layers)
            p->n_layers = b->layer + 1;
    }
    return MR_OK;
}

/* by_layer and start, by counting. */
static void fill_layers(picture *p)
{
    for (int i = 0; i < p->n_box; i++)
        p->start[p->box[i].layer + 1]++;
    for (int l = 0; l < p->n_layers; l++) {
        if (p->start[l + 1] > p->widest)
            p->widest = p->start[l + 1];
        p->start[l + 1] += p->start[l];
    }
    for (int i = p->n_box - 1; i >= 0; i--)
        p->by_layer[--p->start[p->box[i].layer + 1]] = i;
    for (int l = 0; l < p->n_layers; l++) /* each entry now is the start of its own layer */
        p->start[l] = p->start[l + 1];
    p->start[p->n_layers] = p->n_box;
}

typedef struct sort_key {
    double mean;
    int box;
} sort_key;

static int by_mean(const void *a, const void *b)
{
    const sort_key *x = a, *y = b;
    if (x->mean != y->mean)
        return x->mean < y->mean ? -1 : 1;
    return x->box - y->box;
}

static int layer_width(int n)
{
    return n * (BOX_W + GAP_X) - GAP_X;
}

static void place_layer(picture *p, int layer, sort_key *key)
{
    int first = p->start[layer], n = p->start[layer + 1] - first;
    for (int i = 0; i < n; i++) {
        const box *b = &p->box[p->by_layer[first + i]];
        const mr_node *node = p->g->node[b->node];
        double sum = 0;
        int count = 0;
        for (int k = 0; k < node->n_in; k++) {
            const box *from = maker(p, node->in[k]);
            if (from) {
                sum += from->x;
                count++;
            }
        }
        key[i] = (sort_key){count ? sum / count : 0, p->by_layer[first + i]};
    }
    qsort(key, (size_t)n, sizeof *key, by_mean);
    int left = MARGIN + (layer_width(p->widest) - layer_width(n)) / 2;
    for (int i = 0; i < n; i++) {
        box *b = &p->box[key[i].box];
        p->by_layer[first + i] = key[i].box;
        b->slot = i;
        b->x = left + i * (BOX_W + GAP_X);
        b->y = MARGIN + 24 + layer * (BOX_H + GAP_Y);
    }
}

/* Values used beyond the next layer get the first lane that is free over their whole way. */
static mr_err make_lanes(picture *p)
{
    const mr_graph *g = p->g;
    int *last = array(p, (size_t)g->n_values, sizeof *last);
    int *busy = array(p, 2 * (size_t)p->n_box, sizeof *busy); /* per lane: layer it is used to */
    if (!last || !busy)
        return MR_ENOMEM;
    for (int i = 0; i < p->n_box; i++) {
        const mr_node *n = g->node[p->box[i].node];
        for (int k = 0; k < n->n_in; k++)
            if (maker(p, n->in[k]) && p->box[i].layer > last[n->in[k]])
                last[n->in[k]] = p->box[i].layer;
    }
    for (int i = 0; i < p->n_box; i++) { /* in order of layers, so that lanes are freed in order */
        const box *b = &p->box[p->by_layer[i]];
        const mr_node *n = g->node[b->node];
        for (int r = 0; r < n->n_out; r++) {
            int v = n->out[r], lane = 0;
            if (last[v] <= b->layer + 1)
                continue;
            while (lane < p->n_lanes && busy[lane] >= b->layer)
                lane++;
            if (lane == p->n_lanes)
                p->n_lanes++;
            busy[lane] = last[v];
            p->use[p->n_use++] = (lane_use){v, b->layer, last[v], lane};
        }
    }
    return MR_OK;
}

/* ---- drawing ---- */

/* At most `max` characters, markup escaped, controls as blanks. */
static void svg_text(mr_buf *out, const char *s, int max)
{
    size_t len = strlen(s);
    for (int n = 0; len > 0; n++) {
        uint32_t cp;
        int bytes = mr_utf8_decode(s, len, &cp);
        if (n == max) {
            mr_buf_puts(out, "...");
            return;
        }
        if (bytes == 0 || cp < 0x20)
            mr_buf_putc(out, ' ');
        else if (cp == '&')
            mr_buf_puts(out, "&amp;");
        else if (cp == '<')
            mr_buf_puts(out, "&lt;");
        else if (cp == '>')
            mr_buf_puts(out, "&gt;");
        else
            mr_buf_add(out, s, (size_t)bytes);
        s += bytes ? bytes : 1;
        len -= (size_t)(bytes ? bytes : 1);
    }
}

static void text_line(mr_buf *out, const box *b, int line, const char *style, const char *s)
{
    mr_buf_printf(out, "<text x=\"%d\" y=\"%d\"%s>", b->x + 8, b->y + 15 + 15 * line, style);
    svg_text(out, s, 36);
    mr_buf_puts(out, "</text>\n");
}

static bool is_default(const mr_attr_info *a, mr_attr x)
{
    if (a->required)
        return false;
    if (a->kind == 's')
        return !strcmp(a->def.s, x.s);
    return a->kind == 'i' ? a->def.i == x.i : a->def.f == x.f;
}

static void draw_box(const picture *p, const box *b, mr_buf *line, mr_buf *out)
{
    const mr_graph *g = p->g;
    const mr_node *n = g->node[b->node];
    const mr_op_info *o = mr_op_get(n->op);
    char type[MR_TYPE_TEXT], id[24];
    mr_buf_printf(out,
                  "<rect x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\" rx=\"4\" fill=\"%s\" "
                  "stroke=\"#555\"/>\n",
                  b->x, b->y, BOX_W, BOX_H, o->fused ? "#e4edf7" : "#f7f7f2");
    mr_buf_clear(line);
    mr_buf_printf(line, "%s  %%%s", o->name, mr_value_id(g, n->out[0], id));
    text_line(out, b, 0, " font-weight=\"bold\"", line->data ? line->data : "");
    mr_buf_clear(line);
    for (int i = 0; i < o->n_attr; i++)
        if (!is_default(&o->attr[i], n->attr[i])) {
            mr_buf_printf(line, "%s%s=", line->len ? " " : "", o->attr[i].name);
            mr_attr_text(&o->attr[i], n->attr[i], line);
        }
    text_line(out, b, 1, "", line->data ? line->data : "");
    mr_buf_clear(line);
    for (int r = 0; r < n->n_out; r++)
        mr_buf_printf(line, "%s%s", r ? ", " : "",
                      mr_type_text(g, mr_graph_value(g, n->out[r]), type));
    text_line(out, b, 2, " fill=\"#666\"", line->data ? line->data : "");
}

/* Where operand k enters the top of a box, and result r leaves its bottom. */
static int port(const box *b, int i, int n)
{
    return b->x + BOX_W * (i + 1) / (n + 1);
}

static void draw_line(mr_buf *out, int x0, int y0, int x1, int y1)
{
    mr_buf_printf(out, "<path d=\"M%d %dL%d %d\"/>\n", x0, y0, x1, y1);
}

static void draw_edges(const picture *p, const int *lane_of, mr_buf *out)
{
    int right = MARGIN + layer_width(p->widest) + LANE;
    for (int i = 0; i < p->n_box; i++) {
        const box *b = &p->box[i];
        const mr_node *n = p->g->node[b->node];
        for (int k = 0; k < n->n_in; k++) {
            const box *from = maker(p, n->in[k]);
            if (!from)
                continue;
            const mr_node *source = p->g->node[from->node];
            int x1 = port(b, k, n->n_in);
            int x0 = port(from, mr_graph_value(p->g, n->in[k])->result, source->n_out);
            if (b->layer == from->layer + 1) {
                draw_line(out, x0, from->y + BOX_H, x1, b->y);
                continue;
            }
            /* off the lane, above the box; lanes turn at heights of their own */
            int lane = lane_of[n->in[k]], x = right + lane * LANE;
            int y = b->y - 6 - 3 * (lane % 10);
            mr_buf_printf(out, "<path d=\"M%d %dH%dV%d\"/>\n", x, y, x1, b->y);
        }
    }
    for (int i = 0; i < p->n_use; i++) {
        const lane_use *u = &p->use[i];
        const box *from = maker(p, u->value);
        const mr_value *v = mr_graph_value(p->g, u->value);
        int x0 = port(from, v->result, p->g->node[from->node]->n_out);
        int x = right + u->lane * LANE, y0 = from->y + BOX_H;
        int end = MARGIN + 24 + u->to * (BOX_H + GAP_Y) - 6 - 3 * (u->lane % 10);
        mr_buf_printf(out, "<path d=\"M%d %dV%dH%dV%d\"/>\n", x0, y0, y0 + 5 + 3 * (u->lane % 10),
                      x, end);
    }
}

static mr_err draw(picture *p, mr_buf *line, mr_buf *out)
{
    int *lane_of = array(p, (size_t)p->g->n_values, sizeof *lane_of);
    if (!lane_of)
        return MR_ENOMEM;
    for (int i = 0; i < p->n_use; i++)
        lane_of[p->use[i].value] = p->use[i].lane;
    int width = 2 * MARGIN + (p->widest ? layer_width(p->widest) : 0) + (p->n_lanes + 1) * LANE;
    int height = 2 * MARGIN + 24 + p->n_layers * (BOX_H + GAP_Y);
    mr_buf_printf(out,
                  "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" "
                  "font-family=\"sans-serif\" font-size=\"11\">\n"
                  "<rect width=\"100%%\" height=\"100%%\" fill=\"#fff\"/>\n",
                  width, height);
    mr_buf_printf(out, "<text x=\"%d\" y=\"%d\" font-size=\"14\">", MARGIN, MARGIN + 8);
    svg_text(out, p->g->name, 60);
    mr_buf_puts(out, "</text>\n<g fill=\"none\" stroke=\"#888\">\n");
    draw_edges(p, lane_of, out);
    mr_buf_puts(out, "</g>\n");
    for (int i = 0; i < p->n_box; i++)
        draw_box(p, &p->box[i], line, out);
    for (int i = 0; i < p->g->n_outputs; i++) {
        const box *b = maker(p, p->g->output[i].value);
        if (!b)
            continue;
        mr_buf_printf(out, "<text x=\"%d\" y=\"%d\" fill=\"#a33\">", b->x + 8, b->y + BOX_H + 13);
        svg_text(out, p->g->output[i].name, 36);
        mr_buf_puts(out, "</text>\n");
    }
    mr_buf_puts(out, "</svg>\n");
    MR_TRY(mr_buf_check(line));
    return mr_buf_check(out);
}

static mr_err layout_and_draw(picture *p, mr_buf *out)
{
    MR_TRY(make_boxes(p));
    fill_layers(p);
    sort_key *key = array(p, (size_t)p->n_box, sizeof *key);
    if (!key)
        return MR_ENOMEM;
    for (int l = 0; l < p->n_layers; l++)
        place_layer(p, l, key);
    MR_TRY(make_lanes(p));
    mr_buf line = {0};
    mr_err e = draw(p, &line, out);
    mr_buf_free(&line);
    return e;
}

mr_err mr_graph_svg(const mr_graph *g, mr_buf *out)
{
    picture p = {.g = g};
    MR_TRY(mr_graph_sound(g));
    MR_TRY(mr_arena_new(&p.arena, MR_MEM_COMPILE));
    mr_err e = layout_and_draw(&p, out);
    mr_arena_free(p.arena);
    return e;
}
