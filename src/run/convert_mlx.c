/* Which tensors MLX's programs want of a model, and how they are made from what the family asked for.
 *
 * Most are the asked ones under another root, with all experts of a layer in one tensor.  Others hold
 * several: the two halves of a latent's matrix (apart for DeepSeek-V3 and its kin, which MLX runs
 * absorbed, one above the other for V2) and Qwen3-Next's inputs of a recurrent layer, which lie key
 * head by key head. */
#include <string.h>

#include "run/convert.h"

typedef struct listing {
    const mr_model *m;
    mr_arena *arena;
    const char *root; /* before every name */
    mr_jval o;        /* the text part of the config */
    bool absorbed, undivided, recurrent;
    mr_mlx_tensor *list;
    int n;
} listing;

/* ---- names ---- */

/* Experts {a..b} of a layer become one tensor, called by where they stand. */
static const char *stacked(const listing *l, const char *name)
{
    static const char experts[] = ".experts.", mlp[] = ".mlp";
    const size_t n = sizeof experts - 1, k = sizeof mlp - 1;
    const char *open = strchr(name, '{'), *close = open ? strchr(open, '}') : NULL;
    if (!open)
        return mr_arena_printf(l->arena, "%s%s", l->root, name);
    if (!close || (size_t)(open - name) < n + k || strncmp(open - n, experts, n) != 0)
        return NULL;
    bool inside = strncmp(open - n - k, mlp, k) == 0;
    return mr_arena_printf(l->arena, "%s%.*s.%s%s", l->root, (int)(open - name - n), name,
                           inside ? "switch_mlp" : "experts.switch_glu", close + 1);
}

/* The name with its end `from` replaced. */
static const char *renamed(const listing *l, const char *name, const char *from, const char *to)
{
    return mr_arena_printf(l->arena, "%s%.*s%s", l->root, (int)(strlen(name) - strlen(from)), name,
                           to);
}

static mr_mlx_tensor *add(listing *l, const mr_asked *a, const char *name)
{
    mr_mlx_tensor *t = &l->list[l->n++];
    *t = (mr_mlx_tensor){.name = name, .asked = a, .rank = a->rank, .parts = 1};
    t->recipe[0] = a->recipe;
    t->stored_as = a->recipe;
    memcpy(t->dim, a->dim, sizeof t->dim);
    return t;
}

static mr_err named(const mr_mlx_tensor *t)
{
    if (t->name)
        return MR_OK;
    return mr_fail(MR_EUNSUPPORTED, "convert: \"%s\" has no name in MLX", t->asked->name);
}

/* The asked tensor that is called as a is but for its end. */
static const mr_asked *beside(const listing *l, const mr_asked *a, const char *from, const char *to)
{
    size_t stem = strlen(a->name) - strlen(from);
    for (int i = 0; i < mr_model_asked(l->m); i++) {
        const mr_asked *b = mr_model_asked_at(l->m, i);
        if (strncmp(b->name, a->name, stem) == 0 && strcmp(b->name + stem, to) == 0)
            return b;
    }
    return NULL;
}

/* ---- the latent's matrix ---- */

static const char keys[] = "embed_q.weight", values[] = "unembed_out.weight",
                  both[] = "kv_b_proj.weight";

/* kv_b's rows are [keys | values] per head; MLX has the keys turned, so that queries meet them. */
static mr_err part_latent(listing *l, const mr_asked *a)
{
    int64_t heads = mr_model_number(l->m, 'h'), nope = mr_model_number(l->m, 'n'),
            v = mr_model_number(l->m, 'v'), latent = a->dim[1];
    mr_mlx_tensor *k = add(l, a, renamed(l, a->name, both, keys));
    k->recipe[0] = mr_arena_printf(l->arena, "%s :rows(%lld,0,%lld) :t(%lld)", a->recipe,
                                   (long long)(nope + v), (long long)nope, (long long)nope);
    k->rank = 3;
    memcpy(k->dim, (int64_t[]){heads, latent, nope}, 3 * sizeof *k->dim);
    mr_mlx_tensor *w = add(l, a, renamed(l, a->name, both, values));
    w->recipe[0] = mr_arena_printf(l->arena, "%s :rows(%lld,%lld,%lld)", a->recipe,
                                   (long long)(nope + v), (long long)nope, (long long)v);
    w->rank = 3;
    memcpy(w->dim, (int64_t[]){heads, v, latent}, 3 * sizeof *w->dim);
    return k->recipe[0] && w->recipe[0] ? MR_OK : MR_ENOMEM;
}

static mr_err join_latent(listing *l, const mr_asked *k)
{
    const mr_asked *v = beside(l, k, keys, values);
    int64_t heads = k->dim[0], latent = k->dim[1], nope = k->dim[2];
    if (!v)
        return mr_fail(MR_EFORMAT, "\"%s\" has no %s beside it", k->name, values);
    mr_mlx_tensor *t = add(l, k, renamed(l, k->name, keys, both));
    t->recipe[0] = mr_arena_printf(l->arena, "%s :t(%lld)", k->recipe, (long long)latent);
    t->recipe[1] = t->stored_as = v->recipe;
    t->parts = 2;
    t->rank = 2;
    t->dim[0] = heads * (nope + v->dim[1]);
    t->dim[1] = latent;
    t->segments = 2;
    t->segment[0] = (mr_mlx_segment){0, 0, nope};
    t->segment[1] = (mr_mlx_segment){1, 0, v->dim[1]};
    return t->recipe[0] ? MR_OK : MR_ENOMEM;
}

/* ---- the inputs of a recurrent layer ---- */

static mr_err join_inputs(listing *l, const mr_asked *a, const char *from, const char *other,
                          const char *to, bool gates)
{
    const mr_asked *b = beside(l, a, from, other);
    int64_t heads = mr_model_number(l->m, 'h'), dk = mr_model_number(l->m, 'd'),
            g = mr_model_number(l->m, 'g'), r = mr_model_number(l->m, 'r');
    if (!b)
        return mr_fail(MR_EFORMAT, "\"%s\" has no %s beside it", a->name, other);
    mr_mlx_tensor *t = add(l, a, renamed(l, a->name, from, to));
    t->recipe[1] = b->recipe;
    t->parts = 2;
    t->dim[0] = a->dim[0] + b->dim[0];
    t->segments = gates ? 2 : 4;
    if (gates) {
        t->segment[0] = (mr_mlx_segment){0, 0, r};
        t->segment[1] = (mr_mlx_segment){1, 0, r};
    } else {
        t->segment[0] = (mr_mlx_segment){0, 0, dk};
        t->segment[1] = (mr_mlx_segment){0, heads * dk, dk};
        t->segment[2] = (mr_mlx_segment){0, 2 * heads * dk, g};
        t->segment[3] = (mr_mlx_segment){1, 0, g};
    }
    return MR_OK;
}

/* MLX turns a convolution [C,1,K] to [C,K,1], which moves no number, and takes files where that is done
 * for files whose norms hold 1 + w. */
static mr_err as_mlx_saves(const listing *l, mr_mlx_tensor *t)
{
    char there[512];
    const mr_name_row *row = mr_model_gguf_name(l->m, t->asked->name, there);
    t->one_plus = row && row->modifiers && strcmp(row->modifiers, MR_ONE_PLUS_W) == 0;
    if (t->rank == 3 && mr_ends_with(t->asked->name, "conv1d.weight")) {
        if (t->dim[2] == 1)
            return mr_fail(
                MR_EUNSUPPORTED,
                "convert: \"%s\" has one tap: MLX's form, which is told by convolutions, "
                "cannot be seen",
                t->asked->name);
        t->dim[1] = t->dim[2];
        t->dim[2] = 1;
    }
    return MR_OK;
}

/* ---- the list ---- */

static mr_err add_one(listing *l, const mr_asked *a)
{
    static const char qkv[] = "in_proj_qkv.weight", z[] = "in_proj_z.weight",
                      b[] = "in_proj_b.weight", gate_a[] = "in_proj_a.weight";
    const char *name = a->name;
    if (strcmp(name, "rope_freqs.weight") == 0)
        return mr_fail(MR_EUNSUPPORTED,
                       "convert: no rope scaling of config.json says the divisors in \"%s\"", name);
    if (l->absorbed && mr_ends_with(name, both))
        return part_latent(l, a);
    if (!l->absorbed && mr_ends_with(name, keys))
        return join_latent(l, a);
    if (!l->absorbed && mr_ends_with(name, values))
        return MR_OK;
    if (l->undivided && mr_ends_with(name, qkv))
        return join_inputs(l, a, qkv, z, "in_proj_qkvz.weight", false);
    if (l->undivided && mr_ends_with(name, b))
        return join_inputs(l, a, b, gate_a, "in_proj_ba.weight", true);
    if (l->undivided && (mr_ends_with(name, z) || mr_ends_with(name, gate_a)))
        return MR_OK;
    mr_mlx_tensor *t = add(l, a, stacked(l, name));
    if (l->recurrent)
        MR_TRY(as_mlx_saves(l, t));
    return named(t);
}

mr_err mr_mlx_tensors(const mr_model *m, mr_arena *arena, mr_mlx_tensor **out, int *n)
{
    const char *type = mr_model_facts(m)->model_type;
    mr_jval root = mr_model_config(m), text = mr_jget(root, "text_config");
    bool nested = mr_jtype(text) == MR_JOBJECT;
    bool next = strcmp(type, "qwen3_next") == 0;
    int asked = mr_model_asked(m);
    listing l = {.m = m,
                 .arena = arena,
                 .root = mr_mlx_root(m),
                 .o = nested ? text : root,
                 .absorbed = strcmp(type, "deepseek_v2") != 0,
                 .undivided = next,
                 .recurrent = next || strncmp(type, "qwen3_5", 7) == 0};
    l.list = mr_arena_alloc(arena, 2 * (size_t)asked * sizeof *l.list);
    if (!l.list)
        return MR_ENOMEM;
    bool told = !l.recurrent; /* by a convolution */
    for (int i = 0; i < asked; i++) {
        MR_TRY(add_one(&l, mr_model_asked_at(m, i)));
        told |= mr_ends_with(mr_model_asked_at(m, i)->name, "conv1d.weight");
    }
    if (!told)
        return mr_fail(MR_EUNSUPPORTED, "convert: no layer has a convolution: MLX's form, which is "
                                        "told by them, cannot be seen");
    *out = l.list;
    *n = l.n;
    return MR_OK;
}

mr_row_at mr_mlx_row(const mr_mlx_tensor *t, int64_t row)
{
    int64_t head = 0;
    for (int i = 0; i < t->segments; i++)
        head += t->segment[i].rows;
    int64_t h = row / head, at = row % head;
    int i = 0;
    while (at >= t->segment[i].rows)
        at -= t->segment[i++].rows;
    const mr_mlx_segment *s = &t->segment[i];
    return (mr_row_at){s->part, s->first + h * s->rows + at, s->rows - at};
}
