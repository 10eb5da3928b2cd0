/* Attention blocks.
 *
 * Keys are rotated as a whole right before they are appended, so that the compiler can join the
 * two.  Multi-head latent attention is always absorbed: with kv_b's rows per head [Wk | Wv],
 *     score = q_nope . (Wk lat) = (Wk^T q_nope) . lat      and     out = Wv (sum p lat),
 * so the cache holds one latent and one rotated key part per position, shared by all heads, and the
 * values are the first kv_lora numbers of the keys. */
#include "flow/flow.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

static mr_val rope(mr_flow *f, mr_val x, mr_val table, int64_t start, bool interleaved)
{
    mr_attr attr[] = {{.i = start}, {.i = interleaved}};
    return mr_flow_op(f, MR_OP_ROPE, (mr_val[]){x, table}, 2, attr);
}

/* cache + append, remembered for layers that share it; dv 0: values are the first numbers of the
 * keys. */
static mr_val keep(mr_flow *f, int layer, mr_val k, mr_val v, int64_t heads, int64_t dk, int64_t dv,
                   int64_t window)
{
    const char *name = mr_flow_name(f, "layers.%d", layer);
    mr_attr attr[] = {{.s = name}, {.i = heads}, {.i = dk}, {.i = dv}, {.i = window}};
    mr_val c = mr_flow_op(f, MR_OP_CACHE, NULL, 0, attr);
    c = mr_flow_op(f, MR_OP_APPEND, (mr_val[]){c, k, v, mr_flow_pos(f)}, 4, NULL);
    if (f->err == MR_OK)
        mr_flow_keep(f, mr_names_put(&f->caches, name, c));
    return c;
}

static mr_val cache_of(mr_flow *f, int layer)
{
    const char *name = mr_flow_name(f, "layers.%d", layer);
    mr_name_slot *slot = mr_names_find(&f->caches, name, strlen(name));
    assert(slot || f->err != MR_OK); /* a family's layers come in order */
    return slot ? slot->value : MR_NO_VAL;
}

static const char *mask_name(mr_mask m)
{
    static const char *const name[] = {"causal", "window", "block", "full", "canvas"};
    return name[m];
}

/* A canvas of a layer without window sees all before it. */
static bool windowed(const mr_attention_spec *s)
{
    return s->mask == MR_MASK_WINDOW || s->mask == MR_MASK_CANVAS;
}

static mr_val attend(mr_flow *f, mr_val q, mr_val cache, const mr_attention_spec *s, int64_t dv)
{
    mr_attr attr[] = {{.s = mask_name(s->mask)},
                      {.i = windowed(s) ? s->window : 0},
                      {.i = s->mask == MR_MASK_BLOCK ? s->block : 0},
                      {.f = s->scale},
                      {.f = s->softcap},
                      {.i = dv},
                      {.i = s->span}};
    mr_val in[] = {q, cache, mr_flow_pos(f), s->span ? mr_flow_span(f) : MR_NONE,
                   s->wanted ? mr_flow_out_rows(f) : MR_NONE};
    return mr_flow_op(f, MR_OP_ATTENTION, in, s->wanted ? 5 : s->span ? 4 : 3, attr);
}

static const char *under(mr_flow *f, const char *prefix, const char *name)
{
    return mr_flow_name(f, "%s.%s", prefix, name);
}

typedef struct qkv {
    mr_val q, k, v; /* [R, heads, head_dim]; shared: q alone */
    mr_val gate;    /* of a gated attention */
} qkv;

/* x times the matrix of that name, or of the usual one. */
static mr_val product(mr_flow *f, mr_val x, const mr_attention_spec *s, const char *name,
                      const char *usual, int64_t n_out, bool bias)
{
    const char *b = NULL, *p = s->bias_prefix ? s->bias_prefix : s->prefix;
    name = name ? name : usual;
    if (bias)
        b = mr_flow_name(f, "%s.%s.bias", p, name);
    return mr_flow_linear_act(f, x, under(f, s->prefix, name), n_out, b, "auto");
}

static qkv project(mr_flow *f, mr_val x, const mr_attention_spec *s)
{
    int64_t nq = s->heads * s->head_dim * (s->gated ? 2 : 1), nk = s->kv_heads * s->head_dim;
    qkv y;
    if (s->qkv) {
        mr_val all = product(f, x, s, s->qkv, NULL, nq + 2 * nk, s->qkv_bias);
        y.q = mr_flow_slice(f, all, 0, nq);
        y.k = mr_flow_slice(f, all, nq, nk);
        y.v = mr_flow_slice(f, all, nq + nk, nk);
    } else {
        y.q = product(f, x, s, s->q, "q_proj", nq, s->qkv_bias);
        if (s->shared)
            return (qkv){.q = mr_flow_heads(f, y.q, s->heads), .k = MR_NO_VAL, .v = MR_NO_VAL};
        y.k = product(f, x, s, s->k, "k_proj", nk, s->qkv_bias);
        y.v = y.k;
        if (!s->v_from_k)
            y.v = product(f, x, s, s->v, "v_proj", nk, s->qkv_bias);
    }
    y.q = mr_flow_heads(f, y.q, s->heads);
    if (s->gated) {
        y.gate = mr_flow_slice(f, y.q, s->head_dim, s->head_dim);
        y.q = mr_flow_slice(f, y.q, 0, s->head_dim);
    }
    y.k = mr_flow_heads(f, y.k, s->kv_heads);
    y.v = mr_flow_heads(f, y.v, s->kv_heads);
    return y;
}

/* The queries of a layer that reads another one's cache, ready for it. */
static mr_val shared_queries(mr_flow *f, mr_val q, const mr_attention_spec *s)
{
    if (s->q_norm)
        q = mr_flow_norm(f, q, mr_flow_name(f, "%s.%s.weight", s->prefix, s->q_norm), s->norm);
    if (!s->rope)
        return q;
    mr_val table = mr_flow_rope_table(f, s->rope);
    return rope(f, q, s->wanted ? mr_flow_wanted(f, table) : table, 0, s->rope->interleaved);
}

/* Norms and turns the parts; gives the cache that holds keys and values. */
static mr_val store(mr_flow *f, qkv *y, const mr_attention_spec *s)
{
    int64_t d = s->head_dim, window = windowed(s) ? s->window : 0;
    const char *p = s->prefix;
    if (s->q_norm)
        y->q = mr_flow_norm(f, y->q, mr_flow_name(f, "%s.%s.weight", p, s->q_norm), s->norm);
    if (s->k_norm)
        y->k = mr_flow_norm(f, y->k, mr_flow_name(f, "%s.%s.weight", p, s->k_norm), s->norm);
    if (s->v_norm)
        y->v = mr_flow_norm(f, y->v, NULL, (mr_norm_spec){.eps = s->norm.eps});
    if (s->rope) {
        mr_val table = mr_flow_rope_table(f, s->rope);
        y->q = rope(f, y->q, table, 0, s->rope->interleaved);
        y->k = rope(f, y->k, table, 0, s->rope->interleaved);
    }
    return keep(f, s->layer, y->k, y->v, s->kv_heads, d, d, window);
}

mr_val mr_flow_attention(mr_flow *f, mr_val x, const mr_attention_spec *s)
{
    int64_t d = s->head_dim, n = mr_flow_width(f, x);
    mr_val cache;
    assert((s->shared || !s->wanted) && !(s->gated && (s->shared || s->qkv)));
    qkv y = project(f, x, s);
    if (s->shared) {
        y.q = shared_queries(f, y.q, s);
        cache = cache_of(f, s->source);
    } else {
        cache = store(f, &y, s);
    }
    mr_val o = attend(f, y.q, cache, s, d);
    if (s->gated)
        o = mr_flow_mul(f, o, mr_flow_op(f, MR_OP_SIGMOID, &y.gate, 1, NULL));
    return product(f, mr_flow_heads(f, o, 0), s, s->o, "o_proj", n, s->o_bias);
}

/* ---- multi-head latent attention ---- */

typedef struct absorbed {
    mr_val k, v; /* [H, kv_lora, nope], [H, v_dim, kv_lora] */
} absorbed;

/* Some files hold the two halves of kv_b, K transposed; from others they are cut by a recipe. */
static absorbed split_kv(mr_flow *f, const mr_mla_spec *s)
{
    const char *kname = mr_flow_name(f, "%s.embed_q.weight", s->prefix);
    const char *vname = mr_flow_name(f, "%s.unembed_out.weight", s->prefix);
    int64_t kdim[3] = {s->heads, s->kv_lora, s->nope}, vdim[3] = {s->heads, s->v_dim, s->kv_lora};
    int64_t per_head = s->nope + s->v_dim;
    mr_found k, v;
    absorbed y;
    if (mr_flow_find(f, kname, 3, kdim, false, &k)) {
        y.k = mr_flow_recipe(f, kname, &k, 3, kdim);
        y.v = mr_flow_weight(f, vname, 3, vdim);
        return y;
    }
    const char *name = mr_flow_name(f, "%s.kv_b_proj.weight", s->prefix);
    if (!mr_flow_find(f, name, 2, (int64_t[]){s->heads * per_head, s->kv_lora}, true, &v))
        return (absorbed){MR_NO_VAL, MR_NO_VAL};
    assert(!strchr(v.recipe, ' ')); /* one whole tensor */
    k = v;
    size_t len = strlen(v.recipe), room = sizeof v.recipe - len;
    int a = snprintf(k.recipe + len, room, " :rows(%lld,0,%lld) :t(%lld)", (long long)per_head,
                     (long long)s->nope, (long long)s->nope);
    int b = snprintf(v.recipe + len, room, " :rows(%lld,%lld,%lld)", (long long)per_head,
                     (long long)s->nope, (long long)s->v_dim);
    if (a < 0 || b < 0 || (size_t)a >= room || (size_t)b >= room) {
        mr_flow_fail(f, MR_ELIMIT, "%s: the name \"%.60s...\" is too long", f->name, name);
        return (absorbed){MR_NO_VAL, MR_NO_VAL};
    }
    k.fmt = mr_fmt_transposed(v.fmt, s->kv_lora);
    y.k = mr_flow_recipe(f, kname, &k, 3, kdim);
    y.v = mr_flow_recipe(f, vname, &v, 3, vdim);
    return y;
}

/* [R, H, nope + rope_dim] */
static mr_val queries(mr_flow *f, mr_val x, const mr_mla_spec *s, mr_norm_spec norm)
{
    int64_t n = s->heads * (s->nope + s->rope_dim);
    if (!s->q_lora)
        return mr_flow_heads(f, mr_flow_linear(f, x, under(f, s->prefix, "q_proj"), n, false),
                             s->heads);
    mr_val a = mr_flow_linear(f, x, under(f, s->prefix, "q_a_proj"), s->q_lora, s->bias);
    a = mr_flow_norm(f, a, under(f, s->prefix, "q_a_layernorm.weight"), norm);
    mr_val q = mr_flow_linear(f, a, under(f, s->prefix, "q_b_proj"), n, false);
    return mr_flow_heads(f, q, s->heads);
}

static mr_val linear_heads(mr_flow *f, mr_val x, mr_val w)
{
    mr_attr attr = {.s = "auto"};
    return mr_flow_op(f, MR_OP_LINEAR_HEADS, (mr_val[]){x, w}, 2, &attr);
}

mr_val mr_flow_mla(mr_flow *f, mr_val x, const mr_mla_spec *s)
{
    mr_norm_spec norm = {.eps = s->latent_eps};
    int64_t n = mr_flow_width(f, x), lora = s->kv_lora, dk = lora + s->rope_dim;
    mr_val table = mr_flow_rope_table(f, s->rope);
    mr_val q = queries(f, x, s, norm);
    mr_val c = mr_flow_linear(f, x, under(f, s->prefix, "kv_a_proj_with_mqa"), dk, s->bias);
    mr_val lat = mr_flow_norm(f, mr_flow_slice(f, c, 0, lora),
                              under(f, s->prefix, "kv_a_layernorm.weight"), norm);
    absorbed w = split_kv(f, s);

    mr_val k = mr_flow_heads(f, mr_flow_concat(f, lat, mr_flow_slice(f, c, lora, s->rope_dim)), 1);
    k = rope(f, k, table, lora, s->rope->interleaved);
    mr_val cache = keep(f, s->layer, k, MR_NONE, 1, dk, 0, 0);

    mr_val nope = linear_heads(f, mr_flow_slice(f, q, 0, s->nope), w.k);
    q = mr_flow_concat(f, nope, mr_flow_slice(f, q, s->nope, s->rope_dim));
    q = rope(f, q, table, lora, s->rope->interleaved);

    mr_attention_spec a = {.mask = MR_MASK_CAUSAL, .scale = s->scale};
    mr_val z = attend(f, q, cache, &a, lora);
    mr_val o = mr_flow_heads(f, linear_heads(f, z, w.v), 0);
    return mr_flow_linear(f, o, under(f, s->prefix, "o_proj"), n, s->bias);
}
