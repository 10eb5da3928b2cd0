/* Reading config.json: numbers, switches, activations, ids, rope.
 *
 * An absent key takes the reference class's default where it has one that real files rely on, and
 * is an error naming the key where it has not.  Values that would change the maths in a way no
 * block does are refused by name, never read past. */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "model/family.h"

/* ---- plain values ---- */

mr_err mr_cfg_int(mr_jval o, const char *key, int64_t min, int64_t max, int64_t *out)
{
    return mr_jint(mr_jget(o, key), min, max, out);
}

mr_err mr_cfg_int_or(mr_jval o, const char *key, int64_t def, int64_t min, int64_t max,
                     int64_t *out)
{
    mr_jval v = mr_jget(o, key);
    *out = def;
    return mr_jhas(v) ? mr_jint(v, min, max, out) : MR_OK;
}

static mr_err in_range(mr_jval v, double x, double min, double max)
{
    if (x >= min && x <= max)
        return MR_OK;
    mr_str raw = mr_jraw(v);
    return mr_jfail(v, "%.*s is not in %g..%g", raw.len > 40 ? 40 : (int)raw.len, raw.data, min,
                    max);
}

mr_err mr_cfg_num(mr_jval o, const char *key, double min, double max, double *out)
{
    mr_jval v = mr_jget(o, key);
    MR_TRY(mr_jnum(v, out));
    return in_range(v, *out, min, max);
}

mr_err mr_cfg_num_in(mr_jval o, const char *key, double def, double min, double max, double *out)
{
    mr_jval v = mr_jget(o, key);
    *out = def;
    return mr_jhas(v) ? mr_cfg_num(o, key, min, max, out) : MR_OK;
}

mr_err mr_cfg_bool(mr_jval o, const char *key, bool *out)
{
    return mr_jbool(mr_jget(o, key), out);
}

mr_err mr_cfg_bool_or(mr_jval o, const char *key, bool def, bool *out)
{
    mr_jval v = mr_jget(o, key);
    *out = def;
    return mr_jhas(v) ? mr_jbool(v, out) : MR_OK;
}

mr_err mr_cfg_refuse(mr_jval v, const char *fmt, ...)
{
    char what[MR_ERR_MAX];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(what, sizeof what, fmt, ap);
    va_end(ap);
    mr_jfail(v, "%s", what);
    return MR_EUNSUPPORTED;
}

mr_err mr_cfg_off(mr_jval o, const char *key)
{
    mr_jval v = mr_jget(o, key);
    if (!mr_jhas(v) || mr_jtype(v) == MR_JFALSE)
        return MR_OK;
    mr_str raw = mr_jraw(v);
    return mr_cfg_refuse(v, "%.*s is not supported", raw.len > 40 ? 40 : (int)raw.len, raw.data);
}

mr_err mr_cfg_causal(mr_jval o)
{
    mr_jval v = mr_jget(o, "use_bidirectional_attention");
    if (!mr_jhas(v) || mr_jtype(v) == MR_JFALSE)
        return MR_OK;
    mr_str raw = mr_jraw(v);
    return mr_cfg_refuse(v, "%.*s: rows of text that see later ones make embeddings, not text",
                         raw.len > 40 ? 40 : (int)raw.len, raw.data);
}

/* A string that must be one of a few; shown in the refusal. */
static mr_err refuse_name(mr_jval v, const char *what)
{
    mr_str raw = mr_jraw(v);
    return mr_cfg_refuse(v, "%s %.*s is not supported", what, raw.len > 60 ? 60 : (int)raw.len,
                         raw.data);
}

mr_err mr_cfg_act(mr_jval o, const char *key, const char *def, mr_act *out)
{
    static const struct {
        const char *name;
        mr_act act;
    } known[] = {{"silu", MR_ACT_SILU},
                 {"swish", MR_ACT_SILU},
                 {"gelu", MR_ACT_GELU},
                 {"gelu_python", MR_ACT_GELU},
                 {"gelu_pytorch_tanh", MR_ACT_GELU_TANH},
                 {"gelu_python_tanh", MR_ACT_GELU_TANH},
                 {"gelu_new", MR_ACT_GELU_TANH},
                 {"gelu_fast", MR_ACT_GELU_TANH},
                 {"gelu_accurate", MR_ACT_GELU_TANH},
                 {"quick_gelu", MR_ACT_QUICK_GELU},
                 {"relu", MR_ACT_RELU},
                 {"relu2", MR_ACT_RELU2},
                 {"sigmoid", MR_ACT_SIGMOID},
                 {"tanh", MR_ACT_TANH},
                 {"linear", MR_ACT_LINEAR}};
    mr_jval v = mr_jget(o, key);
    mr_buf scratch = {0};
    mr_str s;
    if (mr_jhas(v)) {
        mr_err e = mr_jstr(v, &scratch, &s);
        mr_buf_free(&scratch);
        MR_TRY(e);
    }
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (mr_jhas(v) ? mr_jis(v, known[i].name) : !strcmp(def, known[i].name)) {
            *out = known[i].act;
            return MR_OK;
        }
    return refuse_name(v, "activation");
}

mr_err mr_cfg_id(mr_jval o, const char *key, int32_t def, int32_t *out)
{
    int64_t id;
    MR_TRY(mr_cfg_int_or(o, key, def, 0, INT32_MAX, &id));
    *out = (int32_t)id;
    return MR_OK;
}

mr_err mr_cfg_eos(mr_jval o, mr_model_info *info)
{
    enum { MAX = (int)(sizeof info->eos / sizeof *info->eos) };
    mr_jval v = mr_jget(o, "eos_token_id");
    int64_t id;
    info->n_eos = 0;
    if (!mr_jhas(v))
        return MR_OK;
    if (mr_jtype(v) != MR_JARRAY) {
        MR_TRY(mr_jint(v, 0, INT32_MAX, &id));
        info->eos[info->n_eos++] = (int32_t)id;
        return MR_OK;
    }
    if (mr_jcount(v) > MAX)
        return mr_jfail(v, "more than %d ids", MAX);
    for (mr_jval c = mr_jfirst(v); c.doc; c = mr_jnext(c)) {
        MR_TRY(mr_jint(c, 0, INT32_MAX, &id));
        info->eos[info->n_eos++] = (int32_t)id;
    }
    return MR_OK;
}

mr_err mr_cfg_common(mr_jval o, int64_t default_max_positions, mr_model_info *info)
{
    MR_TRY(mr_cfg_int(o, "vocab_size", 1, MR_CFG_VOCAB, &info->vocab));
    MR_TRY(mr_cfg_int(o, "hidden_size", 1, MR_CFG_HIDDEN, &info->hidden));
    MR_TRY(mr_cfg_int(o, "num_hidden_layers", 1, MR_CFG_LAYERS, &info->layers));
    MR_TRY(mr_cfg_int_or(o, "max_position_embeddings", default_max_positions, 1, INT32_MAX,
                         &info->max_positions));
    MR_TRY(mr_cfg_id(o, "bos_token_id", -1, &info->bos));
    return mr_cfg_eos(o, info);
}

static mr_err listed_types(mr_jval list, int64_t layers, bool *global)
{
    int64_t i = 0;
    if (mr_jtype(list) != MR_JARRAY)
        return mr_jfail(list, "a list is needed");
    if (mr_jcount(list) != layers)
        return mr_jfail(list, "%u types for %lld layers", mr_jcount(list), (long long)layers);
    for (mr_jval t = mr_jfirst(list); t.doc; t = mr_jnext(t), i++) {
        global[i] = mr_jis(t, "full_attention");
        if (!global[i] && !mr_jis(t, "sliding_attention"))
            return mr_cfg_refuse(t, "is neither sliding_attention nor full_attention");
    }
    return MR_OK;
}

mr_err mr_cfg_layer_types(mr_jval o, int64_t pattern, int64_t layers, bool *global)
{
    mr_jval list = mr_jget(o, "layer_types");
    if (mr_jhas(list))
        return listed_types(list, layers, global);
    for (int64_t i = 0; i < layers; i++)
        global[i] = (i + 1) % pattern == 0;
    return MR_OK;
}

mr_err mr_cfg_window(mr_jval o, int64_t def, int64_t *out)
{
    mr_jval window = mr_jget(o, "sliding_window");
    if (mr_jtype(window) == MR_JNULL)
        return mr_jfail(window, "a number is needed, not null");
    return mr_cfg_int_or(o, "sliding_window", def, 1, INT32_MAX, out);
}

mr_err mr_cfg_sparse_layers(mr_jval o, int64_t layers, bool *sparse)
{
    mr_jval list = mr_jget(o, "mlp_only_layers");
    int64_t step, i;
    MR_TRY(mr_cfg_int_or(o, "decoder_sparse_step", 1, 1, INT32_MAX, &step));
    for (i = 0; i < layers; i++)
        sparse[i] = (i + 1) % step == 0;
    if (!mr_jhas(list))
        return MR_OK;
    if (mr_jtype(list) != MR_JARRAY)
        return mr_jfail(list, "a list is needed");
    for (mr_jval v = mr_jfirst(list); v.doc; v = mr_jnext(v)) {
        MR_TRY(mr_jint(v, INT32_MIN, INT32_MAX, &i));
        if (i >= 0 && i < layers)
            sparse[i] = false;
    }
    return MR_OK;
}

mr_err mr_cfg_heads(mr_jval o, int64_t hidden, mr_cfg_head def, mr_cfg_head *out)
{
    mr_jval heads = mr_jget(o, "num_attention_heads"), kv = mr_jget(o, "num_key_value_heads");
    *out = def;
    if (mr_jhas(heads) || !def.heads)
        MR_TRY(mr_jint(heads, 1, MR_CFG_HEADS, &out->heads));
    if (!def.kv_heads || kv.doc)
        MR_TRY(
            mr_cfg_int_or(o, "num_key_value_heads", out->heads, 1, MR_CFG_HEADS, &out->kv_heads));
    if (out->heads % out->kv_heads)
        return mr_jfail(kv, "%lld does not divide %lld heads", (long long)out->kv_heads,
                        (long long)out->heads);
    if (!def.head_dim && !mr_jhas(mr_jget(o, "head_dim")) && hidden % out->heads)
        return mr_jfail(heads, "%lld does not divide hidden_size %lld, and there is no head_dim",
                        (long long)out->heads, (long long)hidden);
    return mr_cfg_int_or(o, "head_dim", def.head_dim ? def.head_dim : hidden / out->heads, 1,
                         MR_CFG_HEAD_DIM, &out->head_dim);
}

mr_err mr_cfg_router(mr_jval o, int64_t experts, bool group_max, mr_cfg_route def,
                     mr_cfg_route *out)
{
    mr_jval g = mr_jget(o, "n_group"), t = mr_jget(o, "topk_group"),
            k = mr_jget(o, "num_experts_per_tok");
    *out = def;
    /* null is no default here: a reader that took it for one would choose other experts than one
     * that took it for "no groups" */
    if (g.doc || !def.groups)
        MR_TRY(mr_jint(g, 1, experts, &out->groups));
    int64_t size = experts / out->groups, least = out->groups > 1 && !group_max ? 2 : 1;
    if (experts % out->groups || size < least)
        return mr_jfail(g, "%lld experts do not fall into %lld groups of %lld or more",
                        (long long)experts, (long long)out->groups, (long long)least);
    if (t.doc || !def.keep)
        MR_TRY(mr_jint(t, 1, out->groups, &out->keep));
    if (out->keep > out->groups)
        return mr_jfail(t, "%lld of %lld groups", (long long)out->keep, (long long)out->groups);
    int64_t reach = size * out->keep;
    if (k.doc || !def.k)
        MR_TRY(mr_jint(k, 1, group_max ? experts : reach, &out->k));
    if (group_max && out->k > reach)
        out->k = reach; /* others weigh nothing there */
    if (out->k > reach)
        return mr_jfail(k, "%lld of %lld experts", (long long)out->k, (long long)reach);
    return MR_OK;
}

/* ---- rope ---- */

/* The natural logarithm from +, *, / alone, so that it is the same on every machine: x = m 2^e with
 * m near 1, ln m = 2 atanh((m-1)/(m+1)) by its series, whose terms fall by at least 0.0295. */
static double natural_log(double x)
{
    const double ln2 = 0.69314718055994530942;
    int e = 0;
    for (; x > 1.4142135623730951; x /= 2)
        e++;
    for (; x < 0.70710678118654757; x *= 2)
        e--;
    double t = (x - 1) / (x + 1), t2 = t * t, sum = 0;
    for (int i = 25; i >= 1; i -= 2)
        sum = sum * t2 + 1.0 / i;
    return 2 * t * sum + e * ln2;
}

double mr_yarn_mscale(double factor, double by)
{
    return factor <= 1 ? 1 : 0.1 * by * natural_log(factor) + 1;
}

/* Where the keys of one rope are: in a, else in b. */
typedef struct rope_keys {
    mr_jval a, b;
} rope_keys;

static mr_jval rope_key(const rope_keys *k, const char *key)
{
    mr_jval v = k->a.doc ? mr_jget(k->a, key) : (mr_jval){0};
    return mr_jhas(v) || !k->b.doc ? v : mr_jget(k->b, key);
}

static const double huge = 1e18;

static mr_err rope_num(const rope_keys *k, const char *key, const double *def, double min,
                       double *out)
{
    mr_jval v = rope_key(k, key);
    if (!mr_jhas(v) && def) {
        *out = *def;
        return MR_OK;
    }
    MR_TRY(mr_jnum(v, out));
    return in_range(v, *out, min, huge);
}

/* dynamic: as long as no position goes beyond max_position_embeddings, no scaling; from there on the
 * reference's frequencies depend on how many ids go through the model at once (*dynamic). */
static mr_err rope_kind(const rope_keys *k, mr_rope_kind *kind, bool *dynamic)
{
    static const struct {
        const char *name;
        mr_rope_kind kind;
    } known[] = {{"default", MR_ROPE_NONE},
                 {"dynamic", MR_ROPE_NONE},
                 {"linear", MR_ROPE_LINEAR},
                 {"llama3", MR_ROPE_LLAMA3},
                 {"yarn", MR_ROPE_YARN}};
    mr_jval v = rope_key(k, "rope_type");
    if (!mr_jhas(v))
        v = rope_key(k, "type");
    *kind = MR_ROPE_NONE;
    *dynamic = mr_jis(v, "dynamic");
    if (!mr_jhas(v)) {
        mr_jval factor = rope_key(k, "factor");
        return mr_jhas(factor) ? mr_jfail(factor, "is given without a rope_type") : MR_OK;
    }
    if (mr_jtype(v) != MR_JSTRING)
        return mr_jfail(v, "a string is needed");
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (mr_jis(v, known[i].name)) {
            *kind = known[i].kind;
            return MR_OK;
        }
    return refuse_name(v, "rope type");
}

/* The length the model was trained for before scaling. */
static mr_err rope_orig(mr_jval o, const rope_keys *k, int64_t max_positions, double *out)
{
    mr_jval own = mr_jget(o, "original_max_position_embeddings"), v = own;
    if (!mr_jhas(v))
        v = rope_key(k, "original_max_position_embeddings");
    *out = (double)max_positions;
    if (!mr_jhas(v))
        return MR_OK;
    int64_t n;
    MR_TRY(mr_jint(v, 1, INT32_MAX, &n));
    *out = (double)n;
    return MR_OK;
}

static mr_err read_yarn(const rope_keys *k, mr_rope_spec *r, double all_dim)
{
    const double fast = 32, slow = 1, zero = 0;
    double mscale;
    MR_TRY(rope_num(k, "beta_fast", &fast, 0, &r->beta_fast));
    MR_TRY(rope_num(k, "beta_slow", &slow, 0, &r->beta_slow));
    r->beta_fast = r->beta_fast == 0 ? fast : r->beta_fast; /* 0 means absent to the reference */
    r->beta_slow = r->beta_slow == 0 ? slow : r->beta_slow;
    MR_TRY(rope_num(k, "mscale", &zero, 0, &mscale));
    double natural = mr_yarn_mscale(r->factor, 1);
    if (mscale != 0 && all_dim != 0)
        natural = mr_yarn_mscale(r->factor, mscale) / mr_yarn_mscale(r->factor, all_dim);
    MR_TRY(rope_num(k, "attention_factor", &natural, 1e-6, &r->mscale));
    if (r->theta <= 1)
        return mr_jfail(rope_key(k, "factor"), "yarn needs a rope_theta above 1, not %g", r->theta);
    return MR_OK;
}

static mr_err is_object(mr_jval v)
{
    return !mr_jhas(v) || mr_jtype(v) == MR_JOBJECT ? MR_OK : mr_jfail(v, "an object is needed");
}

mr_err mr_cfg_rope_object(mr_jval o, mr_jval a, mr_jval b, double theta, mr_model_info *info,
                          mr_rope_spec *out, double *mscale_all_dim)
{
    const double tiny = 1e-9, zero = 0, least = 1.0 / 256; /* which angles stay in range */
    MR_TRY(is_object(a));
    MR_TRY(is_object(b));
    rope_keys k = {mr_jhas(a) ? a : b, b};
    double all_dim = 0;
    bool dynamic;
    *out = (mr_rope_spec){.mscale = 1, .factor = 1, .truncate = true};
    MR_TRY(rope_kind(&k, &out->kind, &dynamic));
    if (dynamic) {
        info->most = info->max_positions;
        MR_TRY(rope_num(&k, "factor", NULL, least, &out->factor));
    }
    MR_TRY(rope_num(&k, "rope_theta", &theta, 1, &out->theta));
    if (out->kind == MR_ROPE_LLAMA3 || out->kind == MR_ROPE_YARN)
        MR_TRY(rope_orig(o, &k, info->max_positions, &out->orig));
    if (out->kind != MR_ROPE_NONE) {
        /* yarn's may be null, then the lengths say it */
        double ratio = out->kind == MR_ROPE_YARN ? (double)info->max_positions / out->orig : 0;
        bool null = ratio > 0 && mr_jtype(rope_key(&k, "factor")) == MR_JNULL;
        MR_TRY(rope_num(&k, "factor", null ? &ratio : NULL, least, &out->factor));
        if (out->factor < least)
            return mr_jfail(rope_key(&k, "factor"), "is null, and the lengths give %g", ratio);
        MR_TRY(rope_num(&k, "mscale_all_dim", &zero, 0, &all_dim));
    }
    if (out->kind == MR_ROPE_LLAMA3) {
        MR_TRY(rope_num(&k, "low_freq_factor", NULL, tiny, &out->low));
        MR_TRY(rope_num(&k, "high_freq_factor", NULL, tiny, &out->high));
        if (out->high <= out->low)
            return mr_jfail(rope_key(&k, "high_freq_factor"), "%g is not above low_freq_factor %g",
                            out->high, out->low);
    }
    if (out->kind == MR_ROPE_YARN)
        MR_TRY(read_yarn(&k, out, all_dim));
    if (mscale_all_dim)
        *mscale_all_dim = all_dim;
    return MR_OK;
}

/* yarn's bounds, whole numbers or not.  The reference looks for the key in the config's one object of
 * rope keys, so that it has no effect within an object for layers of one type. */
static mr_err rope_truncate(mr_jval params, mr_rope_spec *out)
{
    bool null = mr_jtype(mr_jget(params, "truncate")) == MR_JNULL; /* false to the reference */
    return mr_cfg_bool_or(params, "truncate", !null, &out->truncate);
}

/* The reference reads rope_scaling and, if there is none, rope_parameters.  A file with both is
 * taken only if they say the same. */
mr_err mr_cfg_rope(mr_jval o, double default_theta, mr_model_info *info, mr_rope_spec *out,
                   double *mscale_all_dim)
{
    mr_jval scaling = mr_jget(o, "rope_scaling"), params = mr_jget(o, "rope_parameters"),
            none = {0};
    double theta;
    MR_TRY(is_object(scaling));
    MR_TRY(is_object(params));
    MR_TRY(mr_cfg_num_in(o, "rope_theta", default_theta, 1, huge, &theta));
    bool both = mr_jcount(scaling) && mr_jcount(params);
    mr_jval first = mr_jcount(scaling) ? scaling : params;
    MR_TRY(mr_cfg_rope_object(o, first, none, theta, info, out, mscale_all_dim));
    MR_TRY(rope_truncate(first, out));
    if (both) {
        mr_rope_spec other;
        double all_dim;
        MR_TRY(mr_cfg_rope_object(o, params, none, theta, info, &other, &all_dim));
        MR_TRY(rope_truncate(params, &other));
        if (other.kind != out->kind || other.theta != out->theta || other.factor != out->factor ||
            other.orig != out->orig || other.low != out->low || other.high != out->high ||
            other.beta_fast != out->beta_fast || other.beta_slow != out->beta_slow ||
            other.mscale != out->mscale || other.truncate != out->truncate ||
            (mscale_all_dim && *mscale_all_dim != all_dim))
            return mr_jfail(params, "contradicts \"rope_scaling\"");
    }
    return MR_OK;
}

mr_err mr_cfg_partial(mr_jval o, double def, double *out)
{
    static const char *const in[] = {"rope_scaling", "rope_parameters"};
    const char *key = "partial_rotary_factor";
    for (int i = 0; i < 2; i++) {
        mr_jval rope = mr_jget(o, in[i]);
        MR_TRY(is_object(rope));
        if (mr_jhas(rope) && mr_jhas(mr_jget(rope, key)))
            return mr_cfg_num(rope, key, 0, 1, out);
    }
    return mr_cfg_num_in(o, key, def, 0, 1, out);
}

mr_err mr_cfg_whole_heads(mr_jval o, const mr_rope_spec *r)
{
    double partial;
    MR_TRY(mr_cfg_partial(o, 1, &partial));
    if (partial == 1 || r->kind == MR_ROPE_NONE)
        return MR_OK;
    mr_jval params = mr_jget(o, "rope_parameters");
    mr_jval at = mr_jget(params, "partial_rotary_factor");
    return mr_cfg_refuse(at.doc ? at : mr_jget(o, "partial_rotary_factor"),
                         "this family rotates whole heads");
}

mr_err mr_cfg_rope_part(mr_jval o, double def, int64_t head_dim, mr_model_info *info,
                        mr_rope_spec *out)
{
    double partial;
    MR_TRY(mr_cfg_rope(o, 1e4, info, out, NULL));
    MR_TRY(mr_cfg_partial(o, def, &partial));
    out->dim = (int64_t)((double)head_dim * partial);
    bool odd = out->dim % 2;
    if (out->dim < 1 || out->dim + odd > head_dim || (odd && out->kind == MR_ROPE_YARN))
        return mr_jfail(mr_jget(o, "head_dim"), "%g of %lld does not give pairs to rotate", partial,
                        (long long)head_dim);
    return MR_OK;
}

mr_err mr_cfg_rope_whole(mr_jval o, int64_t dim, mr_model_info *info, mr_rope_spec *out,
                         double *mscale_all_dim)
{
    MR_TRY(mr_cfg_rope(o, 1e4, info, out, mscale_all_dim));
    if (dim % 2)
        return mr_jfail(mr_jget(o, "head_dim"), "%lld is odd", (long long)dim);
    out->dim = dim;
    return mr_cfg_whole_heads(o, out);
}
