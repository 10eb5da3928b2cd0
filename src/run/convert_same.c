/* Whether a written GGUF file is the model that it was written from.
 *
 * The metadata says less than a config does, and readers infer the rest: activations, how neighbours are
 * rotated, what is divided by a sum.  So the file is read back and what is built of it is compared, op by
 * op.  Weights are not: their numbers are where the graph says, in another form. */
#include "run/convert.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static bool is_leaf(mr_op op)
{
    return op == MR_OP_WEIGHT || op == MR_OP_INPUT;
}

/* The first node from i on that is no leaf. */
static int next(const mr_graph *g, int i)
{
    while (i < mr_graph_nodes(g) && is_leaf(mr_graph_node(g, i)->op))
        i++;
    return i;
}

/* Metadata has f32. */
static bool close_to(double a, double b)
{
    return a == b || fabs(a - b) <= 1e-6 * fabs(a);
}

static bool same_attr(char kind, const mr_attr *a, const mr_attr *b)
{
    return kind == 'i'   ? a->i == b->i
           : kind == 'f' ? close_to(a->f, b->f)
                         : strcmp(a->s, b->s) == 0;
}

/* A file says Llama 3's frequencies by their quotients, which are a weight. */
static bool said_by_factors(const mr_node *a, const mr_node *b)
{
    return a->op == MR_OP_ROPE_TABLE && strcmp(mr_attr_s(a, "kind"), "llama3") == 0 &&
           strcmp(mr_attr_s(b, "kind"), "none") == 0 && b->n_in > 1 && b->in[1] != MR_NONE;
}

/* And 1 + w by weights that hold it. */
static bool said_by_weights(const mr_node *a, const mr_node *b, const char *attr)
{
    return said_by_factors(a, b) ||
           (strcmp(attr, "offset") == 0 && mr_attr_f(a, attr) == 1 && mr_attr_f(b, attr) == 0);
}

static void show(char kind, const mr_attr *a, char out[64])
{
    if (kind == 'i')
        snprintf(out, 64, "%lld", (long long)a->i);
    else if (kind == 'f')
        snprintf(out, 64, "%g", a->f);
    else
        snprintf(out, 64, "%s", a->s);
}

static mr_err same_node(const char *path, const mr_node *a, const mr_node *b)
{
    const mr_op_info *info = mr_op_get(a->op);
    if (a->op != b->op)
        return mr_fail(MR_EUNSUPPORTED,
                       "%s: the model has %s, which GGUF cannot say: read back, it has %s", path,
                       info->name, mr_op_get(b->op)->name);
    for (int i = 0; i < info->n_attr; i++) {
        char was[64], is[64];
        if (same_attr(info->attr[i].kind, &a->attr[i], &b->attr[i]) ||
            said_by_weights(a, b, info->attr[i].name))
            continue;
        show(info->attr[i].kind, &a->attr[i], was);
        show(info->attr[i].kind, &b->attr[i], is);
        return mr_fail(
            MR_EUNSUPPORTED,
            "%s: the model has %s with %s %s, which GGUF cannot say: read back, it is %s", path,
            info->name, info->attr[i].name, was, is);
    }
    return MR_OK;
}

static mr_err same_graph(const char *path, const mr_graph *a, const mr_graph *b)
{
    int i = next(a, 0), k = next(b, 0);
    for (; i < mr_graph_nodes(a) && k < mr_graph_nodes(b); i = next(a, i + 1), k = next(b, k + 1))
        MR_TRY(same_node(path, mr_graph_node(a, i), mr_graph_node(b, k)));
    if (i < mr_graph_nodes(a) || k < mr_graph_nodes(b))
        return mr_fail(MR_EUNSUPPORTED, "%s: GGUF cannot say this model: read back, it is another",
                       path);
    return MR_OK;
}

mr_err mr_convert_same(mr_model *m, const char *path)
{
    mr_model *back;
    mr_graph *was = NULL, *is = NULL;
    MR_TRY(mr_model_open(&back, path, NULL));
    mr_err e = mr_model_build(back, &is);
    if (e == MR_OK)
        e = mr_model_check_unused(back);
    if (e == MR_EFORMAT)
        e = mr_fail_in(MR_EUNSUPPORTED, "GGUF cannot say this model; read back");
    if (e == MR_OK)
        e = mr_model_build(m, &was);
    if (e == MR_OK)
        e = same_graph(path, was, is);
    mr_graph_free(was);
    mr_graph_free(is);
    mr_model_close(back);
    return e;
}
