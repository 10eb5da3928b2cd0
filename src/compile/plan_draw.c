/* A plan as pictures: its steps as a dot graph, and its arena over time as SVG.
 *
 * Both are drawn from the steps alone, as they will run: who wrote the bytes that a step reads is
 * found by looking at offsets, not by what the planner meant. */
#include "compile/plan_internal.h"

#include <stdlib.h>
#include <string.h>

static mr_buffer span(const mr_plan *p, const mr_operand_ref *r, int step)
{
    return (mr_buffer){
        .offset = r->offset, .bytes = mr_plan_elements(p, r) * 4, .first = step, .last = step};
}

/* The latest buffer that holds the byte at `offset`, or -1. */
static int holder(const mr_plan_buffer *b, int n, int64_t offset)
{
    for (int i = n - 1; i >= 0; i--)
        if (b[i].result != MR_NONE && offset >= b[i].at.offset &&
            offset < b[i].at.offset + b[i].at.bytes)
            return i;
    return -1;
}

static void read_until(mr_plan_buffer *b, int n, const mr_operand_ref *r, int step)
{
    int i = r->where == MR_AT_ARENA ? holder(b, n, r->offset) : -1;
    if (i >= 0)
        b[i].at.last = step;
}

mr_err mr_plan_buffers(const mr_plan *p, mr_arena *arena, mr_plan_buffer **out, int *n_out)
{
    mr_plan_buffer *b = mr_arena_alloc(arena, (size_t)p->n_steps * (MR_MAX_OUT + 1) * sizeof *b);
    int n = 0;
    if (!b)
        return MR_ENOMEM;
    for (int i = 0; i < p->n_steps; i++) {
        const mr_step *s = &p->steps[i];
        for (int k = 0; k < s->n_in; k++)
            read_until(b, n, &s->in[k], i);
        for (int k = 0; k < s->n_out; k++)
            if (s->out[k].where == MR_AT_ARENA)
                b[n++] = (mr_plan_buffer){.at = span(p, &s->out[k], i), .step = i, .result = k};
        if (s->scratch_bytes > 0)
            b[n++] = (mr_plan_buffer){.at = {.offset = s->scratch_offset,
                                             .bytes = s->scratch_bytes,
                                             .first = i,
                                             .last = i},
                                      .step = i,
                                      .result = MR_NONE};
    }
    for (int i = 0; i < p->n_outputs; i++)
        read_until(b, n, &p->outputs[i], p->n_steps);
    *out = b;
    *n_out = n;
    return MR_OK;
}

/* ---- dot ---- */

static void dot_edges(const mr_plan *p, const mr_plan_buffer *b, int n, int i, int *cache_writer,
                      mr_buf *out)
{
    const mr_step *s = &p->steps[i];
    for (int k = 0; k < s->n_in; k++) {
        const mr_operand_ref *r = &s->in[k];
        int from = -1;
        if (r->where == MR_AT_ARENA) {
            int at = holder(b, n, r->offset);
            from = at < 0 ? -1 : b[at].step;
        } else if (r->where == MR_AT_CACHE) {
            from = cache_writer[r->index];
        } else if (r->where == MR_AT_INPUT) {
            mr_buf_printf(out, "  i%d -> s%d;\n", r->index, i);
        }
        if (from >= 0)
            mr_buf_printf(out, "  s%d -> s%d;\n", from, i);
    }
    for (int k = 0; k < s->n_out; k++)
        if (s->out[k].where == MR_AT_CACHE)
            cache_writer[s->out[k].index] = i;
}

static void dot_all(const mr_plan *p, const mr_plan_buffer *b, int n, int *cache_writer,
                    mr_buf *out)
{
    mr_buf_puts(out, "digraph plan {\n  node [shape=box, fontname=\"monospace\"];\n");
    for (int i = 0; i < p->n_inputs; i++) {
        mr_buf_printf(out, "  i%d [shape=ellipse, label=", i);
        mr_buf_json(out, p->inputs[i], strlen(p->inputs[i]));
        mr_buf_puts(out, "];\n");
    }
    int written = 0;
    for (int i = 0; i < p->n_steps; i++) {
        mr_buf_printf(out, "  s%d [label=\"%d %s\"];\n", i, i, mr_op_get(p->steps[i].op)->name);
        dot_edges(p, b, written, i, cache_writer, out);
        while (written < n && b[written].step <= i)
            written++;
    }
    mr_buf_puts(out, "}\n");
}

mr_err mr_plan_dot(const mr_plan *p, mr_buf *out)
{
    mr_arena *arena;
    mr_plan_buffer *b;
    int n;
    MR_TRY(mr_arena_new(&arena, MR_MEM_COMPILE));
    mr_err err = mr_plan_buffers(p, arena, &b, &n);
    int *writer = mr_arena_alloc(arena, ((size_t)p->n_caches + 1) * sizeof *writer);
    if (err == MR_OK && !writer)
        err = MR_ENOMEM;
    if (err == MR_OK) {
        for (int i = 0; i < p->n_caches; i++)
            writer[i] = -1;
        dot_all(p, b, n, writer, out);
        err = mr_buf_check(out);
    }
    mr_arena_free(arena);
    return err;
}

/* ---- svg ---- */

enum { PLOT_WIDTH = 1100, PLOT_HEIGHT = 480, MARGIN = 60 };

static int scaled(int64_t v, int64_t of, int to)
{
    return of > 0 ? (int)((double)v / (double)of * to) : 0;
}

/* One rectangle per buffer: from left to right the steps, upwards the arena. */
static void svg_buffer(const mr_plan *p, const mr_plan_buffer *b, mr_buf *out)
{
    const mr_step *s = &p->steps[b->step];
    int x = MARGIN + scaled(b->at.first, p->n_steps + 1, PLOT_WIDTH);
    int w = MARGIN + scaled(b->at.last + 1, p->n_steps + 1, PLOT_WIDTH) - x;
    int top =
        MARGIN + PLOT_HEIGHT - scaled(b->at.offset + b->at.bytes, p->arena_bytes, PLOT_HEIGHT);
    int bottom = MARGIN + PLOT_HEIGHT - scaled(b->at.offset, p->arena_bytes, PLOT_HEIGHT);
    int hue = (int)s->op * 47 % 360;
    mr_buf_printf(out,
                  "<rect x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\" fill=\"hsl(%d,%d%%,70%%)\" "
                  "stroke=\"#444\" "
                  "stroke-width=\"0.5\"><title>step %d %s%s: %lld bytes at %lld, until step "
                  "%d</title></rect>\n",
                  x, top, w > 0 ? w : 1, bottom > top ? bottom - top : 1, hue,
                  b->result == MR_NONE ? 0 : 60, b->step, mr_op_get(s->op)->name,
                  b->result == MR_NONE ? " (scratch)" : "", (long long)b->at.bytes,
                  (long long)b->at.offset, b->at.last);
}

static void svg_frame(const mr_plan *p, mr_buf *out)
{
    mr_buf_printf(out,
                  "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" "
                  "font-family=\"sans-serif\" "
                  "font-size=\"12\">\n<rect width=\"100%%\" height=\"100%%\" fill=\"white\"/>\n",
                  PLOT_WIDTH + 2 * MARGIN, PLOT_HEIGHT + 2 * MARGIN);
    mr_buf_printf(
        out,
        "<text x=\"%d\" y=\"%d\">memory of plan %s: %d steps from left to right, %lld bytes upwards"
        "</text>\n",
        MARGIN, MARGIN / 2, p->name, p->n_steps, (long long)p->arena_bytes);
    mr_buf_printf(
        out,
        "<rect x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\" fill=\"#f4f4f4\" stroke=\"#444\"/>\n",
        MARGIN, MARGIN, PLOT_WIDTH, PLOT_HEIGHT);
}

mr_err mr_plan_svg(const mr_plan *p, mr_buf *out)
{
    mr_arena *arena;
    mr_plan_buffer *b;
    int n;
    MR_TRY(mr_arena_new(&arena, MR_MEM_COMPILE));
    mr_err err = mr_plan_buffers(p, arena, &b, &n);
    if (err == MR_OK) {
        svg_frame(p, out);
        for (int i = 0; i < n; i++)
            svg_buffer(p, &b[i], out);
        mr_buf_puts(out, "</svg>\n");
        err = mr_buf_check(out);
    }
    mr_arena_free(arena);
    return err;
}
