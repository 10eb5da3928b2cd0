/* The flow: sticky error, inputs, and weights by canonical name.
 *
 * A weight is looked up at most once: its graph value is kept under its name, so that a head tied
 * to the embedding is the same value and the compiler sees one weight with two uses. */
#include "flow/flow.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

mr_err mr_flow_new(mr_flow **out, const char *name, const mr_source *source)
{
    *out = NULL;
    mr_flow *f = mr_zalloc(MR_MEM_COMPILE, sizeof *f);
    if (!f)
        return MR_ENOMEM;
    f->source = *source;
    f->ids = f->pos = f->out_rows = f->span = MR_NO_VAL;
    mr_err e = mr_arena_new(&f->arena, MR_MEM_COMPILE);
    if (e == MR_OK && !(f->name = mr_arena_strdup(f->arena, name)))
        e = MR_ENOMEM;
    if (e == MR_OK)
        e = mr_graph_new(&f->graph, name);
    if (e != MR_OK) {
        mr_flow_free(f);
        return e;
    }
    mr_names_init(&f->names, f->arena);
    mr_names_init(&f->caches, f->arena);
    *out = f;
    return MR_OK;
}

void mr_flow_free(mr_flow *f)
{
    if (!f)
        return;
    mr_graph_free(f->graph);
    mr_arena_free(f->arena);
    mr_free(f->entries);
    mr_free(f);
}

mr_err mr_flow_finish(mr_flow *f, mr_val logits, mr_graph **out)
{
    *out = NULL;
    if (f->err == MR_OK)
        mr_flow_keep(f, mr_graph_output(f->graph, logits, "logits"));
    if (f->err == MR_OK)
        mr_flow_keep(f, mr_graph_verify(f->graph));
    mr_err e = f->err;
    if (e == MR_OK) {
        *out = f->graph;
        f->graph = NULL;
    } else {
        mr_fail(e, "%s", f->message);
    }
    mr_flow_free(f);
    return e;
}

/* ---- the sticky error ---- */

void mr_flow_keep(mr_flow *f, mr_err e)
{
    if (e == MR_OK || f->err != MR_OK)
        return;
    f->err = e;
    snprintf(f->message, sizeof f->message, "%s", mr_error());
}

mr_err mr_flow_fail(mr_flow *f, mr_err code, const char *fmt, ...)
{
    char text[MR_ERR_MAX];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    if (f->err == MR_OK)
        mr_flow_keep(f, mr_fail(code, "%s", text));
    return f->err;
}

bool mr_flow_failed(const mr_flow *f)
{
    return f->err != MR_OK;
}

mr_graph *mr_flow_graph(mr_flow *f)
{
    return f->graph;
}

const char *mr_flow_name(mr_flow *f, const char *fmt, ...)
{
    char text[1024];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    if (n < 0 || (size_t)n >= sizeof text) {
        mr_flow_fail(f, MR_ELIMIT, "%s: the name \"%.60s...\" is too long", f->name, text);
        return "";
    }
    const char *copy = mr_arena_strdup(f->arena, text);
    if (!copy)
        mr_flow_keep(f, MR_ENOMEM);
    return copy ? copy : "";
}

/* ---- values ---- */

static mr_val input(mr_flow *f, mr_val *slot, const char *name, mr_sym sym, int rank)
{
    if (*slot == MR_NO_VAL && f->err == MR_OK) {
        mr_dim dim[2] = {{.n = 1, .sym = sym}, {.n = 2}};
        mr_flow_keep(f, mr_graph_input(f->graph, name, MR_V_I32, rank, dim, slot));
    }
    return f->err == MR_OK ? *slot : MR_NO_VAL;
}

mr_val mr_flow_ids(mr_flow *f)
{
    return input(f, &f->ids, "ids", MR_SYM_ROWS, 1);
}

mr_val mr_flow_pos(mr_flow *f)
{
    return input(f, &f->pos, "pos", MR_SYM_ROWS, 1);
}

mr_val mr_flow_out_rows(mr_flow *f)
{
    return input(f, &f->out_rows, "out_rows", MR_SYM_OUT, 1);
}

mr_val mr_flow_span(mr_flow *f)
{
    return input(f, &f->span, "span", MR_SYM_ROWS, 2);
}

mr_val mr_flow_op(mr_flow *f, mr_op op, const mr_val *in, int n_in, const mr_attr *attr)
{
    mr_val first = MR_NO_VAL;
    if (f->err != MR_OK)
        return MR_NO_VAL;
    mr_err e = mr_graph_add(f->graph, op, in, n_in, attr, &first);
    if (e != MR_OK) {
        mr_flow_keep(f, mr_fail_in(e, "%s", f->name));
        return MR_NO_VAL;
    }
    return first;
}

mr_val mr_flow_named(mr_flow *f, mr_val v, const char *name)
{
    if (v != MR_NO_VAL && f->err == MR_OK)
        mr_graph_name_value(f->graph, v, name);
    return v;
}

int64_t mr_flow_width(mr_flow *f, mr_val x)
{
    if (f->err != MR_OK || x == MR_NO_VAL)
        return 0;
    const mr_value *v = mr_graph_value(f->graph, x);
    return v->rank ? v->dim[v->rank - 1].n : 0;
}

/* ---- weights ---- */

bool mr_flow_find(mr_flow *f, const char *name, int rank, const int64_t *dim, bool required,
                  mr_found *out)
{
    out->recipe[0] = '\0';
    out->plus_one = out->neg_exp = false;
    if (f->err != MR_OK)
        return false;
    mr_err e = f->source.find(f->source.ctx, name, rank, dim, required, out);
    mr_flow_keep(f, e);
    assert(e != MR_OK || !required || out->recipe[0]);
    return e == MR_OK && out->recipe[0];
}

static mr_flow_entry *known(mr_flow *f, const char *name)
{
    mr_name_slot *slot = mr_names_find(&f->names, name, strlen(name));
    return slot ? &f->entries[slot->value] : NULL;
}

static mr_err remember(mr_flow *f, const char *name, mr_flow_entry entry)
{
    if (f->n == f->cap) {
        int cap = f->cap ? 2 * f->cap : 64;
        void *p = mr_realloc(MR_MEM_COMPILE, f->entries, (size_t)cap * sizeof *f->entries);
        if (!p)
            return MR_ENOMEM;
        f->entries = p;
        f->cap = cap;
    }
    const char *key = mr_arena_strdup(f->arena, name);
    if (!key)
        return MR_ENOMEM;
    f->entries[f->n] = entry;
    return mr_names_put(&f->names, key, f->n++);
}

mr_val mr_flow_recipe(mr_flow *f, const char *key, const mr_found *found, int rank,
                      const int64_t *dim)
{
    mr_dim d[MR_MAX_RANK] = {{0}};
    mr_val v = MR_NO_VAL;
    for (int i = 0; i < rank; i++)
        d[i].n = dim[i];
    if (f->err != MR_OK)
        return MR_NO_VAL;
    mr_err e = mr_graph_weight(f->graph, found->recipe, found->fmt, rank, d, &v);
    if (e == MR_OK)
        e = remember(f, key, (mr_flow_entry){.v = v, .plus_one = found->plus_one});
    else
        e = mr_fail_in(e, "%s", f->name);
    mr_flow_keep(f, e);
    return e == MR_OK ? v : MR_NO_VAL;
}

static mr_val weight(mr_flow *f, const char *name, int rank, const int64_t *dim, bool required)
{
    mr_found found;
    assert(rank >= 1 && rank <= MR_MAX_RANK);
    if (f->err != MR_OK)
        return MR_NO_VAL;
    mr_flow_entry *e = known(f, name);
    if (e)
        return e->v;
    if (!mr_flow_find(f, name, rank, dim, required, &found))
        return MR_NO_VAL;
    return mr_flow_recipe(f, name, &found, rank, dim);
}

mr_val mr_flow_weight(mr_flow *f, const char *name, int rank, const int64_t *dim)
{
    return weight(f, name, rank, dim, true);
}

mr_val mr_flow_weight_try(mr_flow *f, const char *name, int rank, const int64_t *dim)
{
    return weight(f, name, rank, dim, false);
}

mr_val mr_flow_norm(mr_flow *f, mr_val x, const char *name, mr_norm_spec n)
{
    int64_t width = mr_flow_width(f, x);
    mr_val w = name ? mr_flow_weight(f, name, 1, &width) : MR_NONE;
    if (f->err != MR_OK)
        return MR_NO_VAL;
    double offset = n.offset;
    if (name && known(f, name)->plus_one) {
        assert(n.offset == 1); /* only a norm of 1 + w can be stored summed up */
        offset = 0;
    }
    mr_attr attr[] = {{.f = n.eps}, {.f = offset}};
    return mr_flow_op(f, MR_OP_RMSNORM, (mr_val[]){x, w}, 2, attr);
}
