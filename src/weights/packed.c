/* Quantised safetensors as other makers than MLX write them.
 *
 * fp8 (DeepSeek, Qwen): X is F8_E4M3 and X_scale_inv has one float per 128 x 128 block; despite its name
 * it is multiplied.  Blocks at the right and lower edge may be cut short.
 *
 * compressed-tensors, format "pack-quantized": X.weight_packed holds words of 32 bits with the low
 * code first, codes are q - 2^(bits-1); X.weight_scale has one number per group; X.weight_shape says
 * [out, in].  The module is X.weight to the rest.  Which modules are packed (targets, ignore) is
 * seen from the names alone; bits and group must be those of one of the config's groups.
 */
#include "weights/parse.h"

#include <inttypes.h>
#include <string.h>

enum { FP8_BLOCK = 128, GROUPS_MAX = 16 };

/* ---- fp8 ---- */

static mr_err check_fp8(mr_jval q)
{
    mr_jval fmt = mr_jget(q, "fmt"), scheme = mr_jget(q, "activation_scheme"),
            block = mr_jget(q, "weight_block_size");
    if (mr_jhas(fmt) && !mr_jis(fmt, "e4m3"))
        return mr_jfail(fmt, "only e4m3 is supported");
    if (mr_jhas(scheme) && !mr_jis(scheme, "dynamic"))
        return mr_jfail(scheme, "only dynamic activation scales are supported");
    if (mr_jtype(block) != MR_JARRAY || mr_jcount(block) != 2)
        return mr_jfail(q, "has no weight_block_size of two numbers");
    for (mr_jval c = mr_jfirst(block); c.doc; c = mr_jnext(c)) {
        int64_t n;
        MR_TRY(mr_jint(c, 1, INT32_MAX, &n));
        if (n != FP8_BLOCK)
            return mr_jfail(c, "only blocks of %d are supported", FP8_BLOCK);
    }
    return MR_OK;
}

static int64_t blocks(int64_t n)
{
    return n / FP8_BLOCK + (n % FP8_BLOCK != 0);
}

static mr_err join_fp8(const mr_weights *w, mr_winfo *scale, mr_winfo *t)
{
    if (!t)
        return mr_wmisfit(w, scale, "has no matrix beside it");
    if (t->dtype != MR_F8_E4M3 || t->rank < 2)
        return mr_wmisfit(w, t, "has a _scale_inv but is not an f8_e4m3 matrix");
    if (scale->dtype != MR_F32 && scale->dtype != MR_F16 && scale->dtype != MR_BF16)
        return mr_wmisfit(w, scale, "is not f32, f16 or bf16");
    int last = t->rank - 1;
    bool fits = scale->rank == t->rank && scale->dim[last] == blocks(t->dim[last]) &&
                scale->dim[last - 1] == blocks(t->dim[last - 1]);
    for (int i = 0; fits && i < last - 1; i++)
        fits = scale->dim[i] == t->dim[i];
    if (!fits)
        return mr_wmisfit(w, t, "its _scale_inv has not one number per 128 x 128 block");
    t->dtype = MR_FP;
    t->bits = 8;
    t->group = FP8_BLOCK;
    t->scale_dtype = MR_F32;
    t->block_rows = FP8_BLOCK;
    t->block_scale = scale->dtype;
    t->scales = scale->data;
    t->bytes += scale->bytes;
    scale->rank = MR_WTAKEN;
    return MR_OK;
}

mr_err mr_fp8_join(mr_weights *w, mr_jval q)
{
    static const char suffix[] = "_scale_inv";
    mr_buf scratch = {0};
    mr_err e = check_fp8(q);
    for (size_t i = 0; i < w->table.n && e == MR_OK; i++) {
        mr_winfo *scale = &w->table.at[i], *weight;
        if (!mr_wsuffix(scale->name, suffix))
            continue;
        e = mr_wbeside(w, scale, sizeof suffix - 1, "", &scratch, &weight);
        if (e == MR_OK)
            e = join_fp8(w, scale, weight);
    }
    mr_buf_free(&scratch);
    return e;
}

/* ---- compressed-tensors ---- */

typedef struct packing {
    int64_t bits, group;
} packing;

typedef struct packings {
    packing at[GROUPS_MAX];
    int n;
} packings;

static mr_err must_be(mr_jval o, const char *key, const char *value)
{
    mr_jval v = mr_jget(o, key);
    mr_str raw = mr_jraw(v);
    if (mr_jis(v, value))
        return MR_OK;
    if (!v.doc)
        return mr_jfail(o, "has no %s", key);
    mr_jfail(v, "%.*s is not supported, only \"%s\" is", raw.len > 40 ? 40 : (int)raw.len, raw.data,
             value);
    return MR_EUNSUPPORTED;
}

static mr_err must_be_off(mr_jval o, const char *key)
{
    mr_jval v = mr_jget(o, key);
    if (!mr_jhas(v) || mr_jtype(v) == MR_JFALSE)
        return MR_OK;
    mr_jfail(v, "is not supported");
    return MR_EUNSUPPORTED;
}

static mr_err read_packing(mr_jval group, packings *all)
{
    mr_jval w = mr_jget(group, "weights"), symmetric = mr_jget(w, "symmetric");
    packing *p = &all->at[all->n];
    if (mr_jtype(w) != MR_JOBJECT)
        return mr_jfail(group, "has no object \"weights\"");
    if (all->n == GROUPS_MAX)
        return mr_jfail(group, "is one group too many; at most %d are allowed", GROUPS_MAX);
    MR_TRY(must_be_off(group, "input_activations"));
    MR_TRY(must_be_off(group, "output_activations"));
    MR_TRY(must_be_off(w, "actorder"));
    MR_TRY(must_be(w, "type", "int"));
    MR_TRY(must_be(w, "strategy", "group"));
    if (mr_jtype(symmetric) != MR_JTRUE) {
        mr_jfail(w, "zero points are not supported: symmetric must be true");
        return MR_EUNSUPPORTED;
    }
    mr_jval bits = mr_jget(w, "num_bits"), size = mr_jget(w, "group_size");
    if (!bits.doc || !size.doc)
        return mr_jfail(w, "has no %s", bits.doc ? "group_size" : "num_bits");
    MR_TRY(mr_jint(bits, 1, 32, &p->bits));
    MR_TRY(mr_jint(size, -1, 1 << 20, &p->group));
    if (!mr_group_known(MR_INT, (int)p->bits, (int)p->group, MR_BF16)) {
        mr_jfail(w, "%" PRId64 " bits in groups of %" PRId64 " are not supported", p->bits,
                 p->group);
        return MR_EUNSUPPORTED;
    }
    all->n++;
    return MR_OK;
}

static mr_err read_packings(mr_jval q, packings *all)
{
    mr_jval groups = mr_jget(q, "config_groups");
    MR_TRY(must_be(q, "format", "pack-quantized"));
    if (mr_jtype(groups) != MR_JOBJECT)
        return mr_jfail(q, "has no object \"config_groups\"");
    MR_TRY(must_be_off(q, "kv_cache_scheme"));
    for (mr_jval c = mr_jfirst(groups); c.doc; c = mr_jnext(c))
        MR_TRY(read_packing(c, all));
    return MR_OK;
}

/* [out, in] as the file says it, in i32 or i64. */
static mr_err read_shape(const mr_weights *w, const mr_winfo *shape, int64_t out[2])
{
    uint8_t bytes[16];
    int size = mr_dtype_block_bytes(shape->dtype);
    if ((shape->dtype != MR_I32 && shape->dtype != MR_I64) || shape->rank != 1 ||
        shape->dim[0] != 2)
        return mr_wmisfit(w, shape, "is not two integers");
    MR_TRY(
        mr_file_pread(&w->files[shape->data.file], shape->data.offset, bytes, (size_t)(2 * size)));
    for (int i = 0; i < 2; i++)
        out[i] = (int64_t)mr_load_le(bytes + i * size, size);
    return MR_OK;
}

static mr_err join_packed(const mr_weights *w, mr_winfo *t, mr_winfo *scale, mr_winfo *shape,
                          const packings *all)
{
    int64_t dim[2] = {0};
    if (!scale || !shape)
        return mr_wmisfit(w, t, scale ? "has no .weight_shape" : "has no .weight_scale");
    if (t->dtype != MR_I32 || t->rank != 2)
        return mr_wmisfit(w, t, "is not an i32 matrix");
    if ((scale->dtype != MR_BF16 && scale->dtype != MR_F16 && scale->dtype != MR_F32) ||
        scale->rank != 2)
        return mr_wmisfit(w, scale, "is not a matrix of f32, f16 or bf16");
    MR_TRY(read_shape(w, shape, dim));
    for (int i = 0; i < all->n; i++) {
        const packing *p = &all->at[i];
        /* dim[1] is no greater than the words' elements, so nothing here overflows */
        if (dim[0] != t->dim[0] || dim[0] != scale->dim[0] || dim[1] % p->group ||
            dim[1] / p->group != scale->dim[1] || t->dim[1] > INT64_MAX / 32 ||
            t->dim[1] * 32 / p->bits != dim[1])
            continue;
        t->dtype = MR_INT;
        t->bits = (int)p->bits;
        t->group = (int)p->group;
        t->scale_dtype = scale->dtype;
        t->dim[1] = dim[1];
        t->scales = scale->data;
        t->bytes += scale->bytes + shape->bytes;
        scale->rank = shape->rank = MR_WTAKEN;
        return MR_OK;
    }
    return mr_fail(MR_EFORMAT,
                   "%s: tensor \"%." MR_WNAME_SHOWN "s\": [%" PRId64 ",%" PRId64
                   "] words and [%" PRId64 ",%" PRId64 "] scales for [%" PRId64 ",%" PRId64
                   "] fit no group of the config",
                   mr_weights_file(w, t->data.file), t->name, t->dim[0], t->dim[1], scale->dim[0],
                   scale->dim[1], dim[0], dim[1]);
}

mr_err mr_packed_join(mr_weights *w, mr_jval q)
{
    static const char suffix[] = ".weight_packed";
    const size_t cut = strlen("_packed");
    mr_wtable *table = &w->table;
    packings all = {.n = 0};
    mr_buf scratch = {0};
    mr_err e = read_packings(q, &all);
    for (size_t i = 0; i < table->n && e == MR_OK; i++) {
        mr_winfo *t = &table->at[i], *scale, *shape;
        if (!mr_wsuffix(t->name, suffix))
            continue;
        e = mr_wbeside(w, t, cut, "_scale", &scratch, &scale);
        if (e == MR_OK)
            e = mr_wbeside(w, t, cut, "_shape", &scratch, &shape);
        if (e == MR_OK)
            e = join_packed(w, t, scale, shape, &all);
    }
    mr_buf_free(&scratch);
    /* names change last: look-ups need the table in order */
    for (size_t i = 0; i < table->n && e == MR_OK; i++) {
        mr_winfo *t = &table->at[i];
        if (!mr_wsuffix(t->name, suffix))
            continue;
        t->name = mr_arena_strndup(table->names, t->name, strlen(t->name) - cut);
        if (!t->name)
            e = MR_ENOMEM;
    }
    return e;
}
