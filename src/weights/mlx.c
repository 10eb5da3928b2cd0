/* MLX quantisation: X.weight (u32 words), X.scales and, if affine, X.biases become one tensor.
 *
 * Modes: affine, and mxfp4, mxfp8, nvfp4, whose scales are bytes.  A module is quantised exactly if X.scales exists.  Its bits and group come from config.json's
 * "quantization" {group_size, bits, mode} or from an override under the module's path, and must
 * agree with the shapes: a file and a config that differ are refused, not reconciled.  An override
 * without "mode" is affine even when the default is not (that is how MLX writes them).
 */
#include "weights/parse.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

typedef struct spec {
    int64_t bits, group;
    mr_jval mode; /* absent: affine */
} spec;

typedef struct override {
    const char *module;
    mr_jval value;
} override;

typedef struct quantization {
    mr_jval root;
    spec usual; /* the root's own, read when first needed (bits 0: not yet) */
    override *at;
    override **order; /* by module */
    size_t n;
    mr_arena *names;
} quantization;

static int by_module(const void *a, const void *b)
{
    return strcmp(((const override *)a)->module, ((const override *)b)->module);
}

static bool is_setting(mr_str key)
{
    return mr_str_is(key, "group_size") || mr_str_is(key, "bits") || mr_str_is(key, "mode");
}

/* Collects the overrides, sorted: modules are looked up by the thousand. */
static mr_err read_overrides(quantization *q, mr_buf *scratch)
{
    size_t count = mr_jcount(q->root);
    MR_TRY(mr_arena_new(&q->names, MR_MEM_COMPILE));
    q->at = mr_alloc(MR_MEM_COMPILE, count * sizeof *q->at);
    q->order = mr_alloc(MR_MEM_COMPILE, count * sizeof *q->order);
    if (!q->at || !q->order)
        return MR_ENOMEM;
    for (mr_jval c = mr_jfirst(q->root); c.doc; c = mr_jnext(c)) {
        mr_str key;
        MR_TRY(mr_jkey(c, scratch, &key));
        if (is_setting(key))
            continue;
        mr_jtype_t type = mr_jtype(c);
        if (type != MR_JOBJECT && type != MR_JFALSE && type != MR_JTRUE)
            return mr_jfail(c, "is neither a known setting nor a module's override");
        override *o = &q->at[q->n];
        o->module = mr_arena_strndup(q->names, key.data, key.len);
        if (!o->module)
            return MR_ENOMEM;
        o->value = c;
        q->order[q->n++] = o;
    }
    return mr_wsort((void **)q->order, q->n, by_module);
}

static int module_against(const void *module, const void *slot)
{
    return strcmp(module, (*(override *const *)slot)->module);
}

static mr_jval find_override(const quantization *q, const char *module)
{
    override **o = q->n ? bsearch(module, q->order, q->n, sizeof *q->order, module_against) : NULL;
    return o ? (*o)->value : (mr_jval){0};
}

static mr_err read_spec(mr_jval from, bool strict, spec *s)
{
    mr_buf scratch = {0};
    mr_err e = MR_OK;
    for (mr_jval c = mr_jfirst(from); strict && c.doc && e == MR_OK; c = mr_jnext(c)) {
        mr_str key;
        e = mr_jkey(c, &scratch, &key);
        if (e == MR_OK && !is_setting(key))
            e = mr_jfail(c, "unknown setting");
    }
    mr_buf_free(&scratch);
    MR_TRY(e);
    s->mode = mr_jget(from, "mode");
    if (s->mode.doc && mr_jtype(s->mode) != MR_JSTRING)
        return mr_jfail(s->mode, "is not a string");
    mr_jval bits = mr_jget(from, "bits"), group = mr_jget(from, "group_size");
    if (!bits.doc || !group.doc)
        return mr_jfail(from, "has no %s", bits.doc ? "group_size" : "bits");
    MR_TRY(mr_jint(bits, 1, 64, &s->bits));
    return mr_jint(group, 1, 1 << 20, &s->group);
}

static mr_err find_spec(quantization *q, const char *module, spec *s)
{
    mr_jval o = find_override(q, module);
    if (mr_jtype(o) == MR_JFALSE)
        return mr_jfail(o, "is false, but the file holds \"%." MR_WNAME_SHOWN "s.scales\"", module);
    if (mr_jtype(o) == MR_JOBJECT)
        return read_spec(o, true, s);
    if (!q->usual.bits)
        MR_TRY(read_spec(q->root, false, &q->usual));
    *s = q->usual;
    return MR_OK;
}

/* What the modes other than affine stand for. */
static const struct mode {
    const char *name;
    int bits, group;
    mr_dtype scale;
} modes[] = {
    {"mxfp4", 4, 32, MR_F8_E8M0}, {"mxfp8", 8, 32, MR_F8_E8M0}, {"nvfp4", 4, 16, MR_F8_E4M3}};

/* The mode of s; NULL in *out if it is affine. */
static mr_err find_mode(const mr_weights *w, const mr_winfo *t, const spec *s,
                        const struct mode **out)
{
    *out = NULL;
    if (!s->mode.doc || mr_jis(s->mode, "affine"))
        return MR_OK;
    for (size_t i = 0; i < sizeof modes / sizeof *modes; i++)
        if (mr_jis(s->mode, modes[i].name))
            *out = &modes[i];
    mr_str raw = mr_jraw(s->mode);
    if (!*out)
        return mr_fail(
            MR_EUNSUPPORTED,
            "%s: tensor \"%." MR_WNAME_SHOWN "s\": quantization mode %.*s is not supported",
            mr_weights_file(w, t->data.file), t->name, raw.len > 40 ? 40 : (int)raw.len, raw.data);
    if (s->bits != (*out)->bits || s->group != (*out)->group)
        return mr_fail(MR_EFORMAT,
                       "%s: tensor \"%." MR_WNAME_SHOWN "s\": mode %s has %d bits in groups of %d, "
                       "the config says %" PRId64 " in %" PRId64,
                       mr_weights_file(w, t->data.file), t->name, (*out)->name, (*out)->bits,
                       (*out)->group, s->bits, s->group);
    return MR_OK;
}

static mr_err check_affine(const mr_weights *w, const mr_winfo *t, const spec *s)
{
    if (!mr_dtype_is_weight(MR_AFFINE, (int)s->bits))
        return mr_fail(MR_EFORMAT,
                       "%s: tensor \"%." MR_WNAME_SHOWN "s\": no affine format has %" PRId64
                       " bits",
                       mr_weights_file(w, t->data.file), t->name, s->bits);
    if (!mr_group_known(MR_AFFINE, (int)s->bits, (int)s->group, MR_BF16))
        return mr_fail(MR_EFORMAT,
                       "%s: tensor \"%." MR_WNAME_SHOWN "s\": group size %" PRId64
                       " is not 32, 64 or 128",
                       mr_weights_file(w, t->data.file), t->name, s->group);
    return MR_OK;
}

static bool same_but_last(const mr_winfo *a, const mr_winfo *b)
{
    return a->rank == b->rank && !memcmp(a->dim, b->dim, (size_t)(a->rank - 1) * sizeof *a->dim);
}

/* Dtypes of the parts, and that scales and biases are alike. */
static mr_err check_parts(const mr_weights *w, const mr_winfo *t, const mr_winfo *scales,
                          const mr_winfo *biases, bool affine)
{
    if (affine && !biases)
        return mr_wmisfit(w, t, "has .scales but no .biases");
    if (!affine && biases)
        return mr_wmisfit(w, t, "has .biases, which its mode does not have");
    if (t->dtype != MR_U32 || t->rank < 2)
        return mr_wmisfit(w, t, "has .scales but is not a u32 matrix");
    if (affine && scales->dtype != MR_F32 && scales->dtype != MR_F16 && scales->dtype != MR_BF16)
        return mr_wmisfit(w, t, "its .scales are not f32, f16 or bf16");
    if (!affine && scales->dtype != MR_U8)
        return mr_wmisfit(w, t, "its .scales are not u8");
    if (!same_but_last(t, scales))
        return mr_wmisfit(w, t, "its shape does not fit that of its .scales");
    int last = t->rank - 1;
    if (affine && (scales->dtype != biases->dtype || !same_but_last(scales, biases) ||
                   scales->dim[last] != biases->dim[last]))
        return mr_wmisfit(w, t, "its .scales and .biases differ in dtype or shape");
    return MR_OK;
}

static mr_err join(const mr_weights *w, mr_winfo *t, const mr_winfo *scales, const mr_winfo *biases,
                   const spec *s)
{
    const struct mode *mode;
    MR_TRY(find_mode(w, t, s, &mode));
    if (!mode)
        MR_TRY(check_affine(w, t, s));
    MR_TRY(check_parts(w, t, scales, biases, !mode));
    int last = t->rank - 1;
    int64_t word_bits, covered, groups = scales->dim[last];
    if (__builtin_mul_overflow(t->dim[last], (int64_t)32, &word_bits) ||
        __builtin_mul_overflow(groups, s->group * s->bits, &covered) || word_bits != covered)
        return mr_fail(
            MR_EFORMAT,
            "%s: tensor \"%." MR_WNAME_SHOWN "s\": rows of %" PRId64 " words and %" PRId64
            " scales are not %" PRId64 " bits in groups of %" PRId64,
            mr_weights_file(w, t->data.file), t->name, t->dim[last], groups, s->bits, s->group);
    int64_t k = groups * s->group;
    if (mode && k % mr_row_unit(MR_FP, mode->bits, mode->group)) { /* an odd number of 16 */
        t->wide = (mr_wide){.dtype = MR_FP, .bits = mode->bits, .stride = t->dim[last] * 4};
        t->block_cols = mode->group;
        t->block_scale = mode->scale;
        t->dtype = MR_F32;
        t->dim[last] = k;
        t->scales = scales->data;
        t->bytes += scales->bytes;
        return MR_OK;
    }
    t->dtype = mode ? MR_FP : MR_AFFINE;
    t->bits = (int)s->bits;
    t->group = (int)s->group;
    t->scale_dtype = mode ? mode->scale : scales->dtype;
    t->dim[last] = k;
    t->scales = scales->data;
    t->bytes += scales->bytes;
    if (biases) {
        t->biases = biases->data;
        t->bytes += biases->bytes;
    }
    return MR_OK;
}

static mr_err join_one(mr_weights *w, quantization *q, mr_winfo *scales, mr_buf *name)
{
    static const char suffix[] = ".scales";
    mr_winfo *weight, *biases;
    spec s = {0};
    MR_TRY(mr_wbeside(w, scales, sizeof suffix - 1, ".weight", name, &weight));
    MR_TRY(mr_wbeside(w, scales, sizeof suffix - 1, ".biases", name, &biases));
    if (!q->root.doc) {
        if (weight && weight->dtype == MR_U32)
            return mr_wmisfit(w, weight, "is quantised, but config.json has no \"quantization\"");
        return MR_OK;
    }
    if (!weight)
        return mr_wmisfit(w, scales, "has no .weight beside it");
    name->data[name->len - (sizeof ".biases" - 1)] = 0;
    MR_TRY(find_spec(q, name->data, &s));
    MR_TRY(join(w, weight, scales, biases, &s));
    scales->rank = MR_WTAKEN;
    if (biases)
        biases->rank = MR_WTAKEN;
    return MR_OK;
}

static mr_err join_all(mr_weights *w, quantization *q, mr_buf *scratch)
{
    mr_wtable *t = &w->table;
    if (q->root.doc)
        MR_TRY(read_overrides(q, scratch));
    for (size_t i = 0; i < t->n; i++)
        if (mr_wsuffix(t->at[i].name, ".scales"))
            MR_TRY(join_one(w, q, &t->at[i], scratch));
    return MR_OK;
}

mr_err mr_mlx_join(mr_weights *w, mr_jval root)
{
    quantization q = {.root = root};
    mr_buf scratch = {0};
    mr_err e = join_all(w, &q, &scratch);
    mr_buf_free(&scratch);
    mr_free(q.at);
    mr_free(q.order);
    mr_arena_free(q.names);
    return e;
}
