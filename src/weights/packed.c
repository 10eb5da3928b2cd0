/* compressed-tensors: quantised safetensors of that package.
 *
 * "pack-quantized": X.weight_packed holds words of 32 bits with the low code first, codes are
 * q - 2^(bits-1); X.weight_scale has one number per group, row or matrix; X.weight_shape says [out, in];
 * X.weight_zero_point, where there is one, is subtracted from codes and packed along the rows.  The
 * module is X.weight to the rest.  "naive-quantized", "int-quantized" and "float-quantized": X.weight
 * is I8 or F8_E4M3 itself.
 *
 * Which modules are quantised (targets, ignore) is seen from the names alone; bits and group must be
 * those of one of the config's groups.  Whether activations are quantised too is not asked where weights
 * are 8 bits: here they are floats.
 */
#include "weights/parse.h"

#include <inttypes.h>
#include <string.h>

enum { GROUPS_MAX = 16 };

typedef struct packing {
    int64_t bits, group; /* 0: a row; -1: a matrix */
    bool symmetric;
} packing;

typedef struct packings {
    packing at[GROUPS_MAX];
    int n;
    int64_t block[2]; /* of floats of 8 bits; 0: per row or matrix */
} packings;

static mr_err one_of(mr_jval o, const char *key, const char *const *values, int *at)
{
    mr_jval v = mr_jget(o, key);
    mr_str raw = mr_jraw(v);
    for (*at = 0; values[*at]; (*at)++)
        if (mr_jis(v, values[*at]))
            return MR_OK;
    if (!v.doc)
        return mr_jfail(o, "has no %s", key);
    mr_jfail(v, "%.*s is not supported", raw.len > 40 ? 40 : (int)raw.len, raw.data);
    return MR_EUNSUPPORTED;
}

static mr_err must_be_off(mr_jval o, const char *key)
{
    mr_jval v = mr_jget(o, key);
    bool empty = (mr_jtype(v) == MR_JOBJECT || mr_jtype(v) == MR_JARRAY) && !mr_jcount(v);
    if (!mr_jhas(v) || mr_jtype(v) == MR_JFALSE || empty)
        return MR_OK;
    mr_jfail(v, "is not supported");
    return MR_EUNSUPPORTED;
}

static const char *const formats[] = {"pack-quantized",  "int-quantized",   "float-quantized",
                                      "naive-quantized", "mixed-precision", NULL};

/* Columns in an order of importance need a table of theirs, but for an order that was undone. */
static mr_err check_order(mr_jval w)
{
    mr_jval order = mr_jget(w, "actorder");
    return mr_jis(order, "weight") || mr_jis(order, "static") ? MR_OK : must_be_off(w, "actorder");
}

static mr_err read_float(mr_jval w, int strategy, packings *all)
{
    int64_t bits;
    mr_jval size = mr_jget(w, "num_bits"), block = mr_jget(w, "block_structure");
    int i = 0;
    if (!size.doc)
        return mr_jfail(w, "has no num_bits");
    MR_TRY(mr_jint(size, 1, 32, &bits));
    if (bits != 8 || strategy == 0) {
        mr_jfail(w, "floats of %" PRId64 " bits%s are not supported", bits,
                 strategy ? "" : " in groups");
        return MR_EUNSUPPORTED;
    }
    if (strategy != 3)
        return MR_OK;
    if (mr_jtype(block) != MR_JARRAY || mr_jcount(block) != 2)
        return mr_jfail(w, "has no block_structure of two numbers");
    for (mr_jval c = mr_jfirst(block); c.doc; c = mr_jnext(c))
        MR_TRY(mr_jint(c, 1, INT32_MAX, &all->block[i++]));
    return MR_OK;
}

static mr_err read_packing(mr_jval group, packings *all)
{
    static const char *const types[] = {"int", "float", NULL};
    static const char *const strategies[] = {"group", "channel", "tensor", "block", NULL};
    int type, strategy, format;
    mr_jval w = mr_jget(group, "weights");
    packing *p = &all->at[all->n];
    if (mr_jtype(w) != MR_JOBJECT)
        return mr_jfail(group, "has no object \"weights\"");
    if (all->n == GROUPS_MAX)
        return mr_jfail(group, "is one group too many; at most %d are allowed", GROUPS_MAX);
    if (mr_jhas(mr_jget(group, "format")))
        MR_TRY(one_of(group, "format", formats, &format));
    MR_TRY(must_be_off(group, "output_activations"));
    MR_TRY(one_of(w, "type", types, &type));
    MR_TRY(one_of(w, "strategy", strategies, &strategy));
    MR_TRY(check_order(w));
    if (type == 1)
        return read_float(w, strategy, all);
    mr_jval bits = mr_jget(w, "num_bits"), size = mr_jget(w, "group_size");
    if (!bits.doc || (!strategy && !size.doc))
        return mr_jfail(w, "has no %s", bits.doc ? "group_size" : "num_bits");
    MR_TRY(mr_jint(bits, 1, 32, &p->bits));
    if (p->bits < 8)
        MR_TRY(must_be_off(group, "input_activations"));
    p->group = strategy == 1 ? 0 : -1;
    if (!strategy)
        MR_TRY(mr_jint(size, -1, 1 << 20, &p->group));
    if (p->bits < 2 || p->bits > 8 || strategy == 3 || (!strategy && p->group < 1)) {
        mr_jfail(w, "%" PRId64 " bits in %ss of %" PRId64 " are not supported", p->bits,
                 strategies[strategy], p->group);
        return MR_EUNSUPPORTED;
    }
    mr_jval symmetric = mr_jget(w, "symmetric");
    p->symmetric = !mr_jhas(symmetric) || mr_jtype(symmetric) == MR_JTRUE;
    all->n++;
    return MR_OK;
}

static mr_err read_packings(mr_jval q, packings *all)
{
    int format;
    mr_jval groups = mr_jget(q, "config_groups"), sparse = mr_jget(q, "sparsity_config");
    MR_TRY(one_of(q, "format", formats, &format));
    if (mr_jtype(groups) != MR_JOBJECT)
        return mr_jfail(q, "has no object \"config_groups\"");
    MR_TRY(must_be_off(q, "kv_cache_scheme"));
    MR_TRY(must_be_off(q, "transform_config"));
    if (!mr_jis(mr_jget(sparse, "format"), "dense"))
        MR_TRY(must_be_off(q, "sparsity_config"));
    for (mr_jval c = mr_jfirst(groups); c.doc; c = mr_jnext(c))
        MR_TRY(read_packing(c, all));
    return MR_OK;
}

/* ---- one module ---- */

typedef struct module {
    mr_winfo *codes, *scale, *shape, *zero; /* the last two may be NULL */
    int64_t dim[2];
} module;

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

/* Scales (and zero points) for so many columns each, of all rows or of each. */
static bool scales_fit(const module *m, const packing *p, int64_t group)
{
    const mr_winfo *s = m->scale, *z = m->zero;
    int64_t rows = p->group < 0 ? 1 : m->dim[0], columns = m->dim[1] / group;
    int last = s->rank - 1;
    bool fits = p->group < 0 ? s->bytes == (uint64_t)mr_dtype_block_bytes(s->dtype)
                             : s->rank == 2 && s->dim[0] == rows && s->dim[last] == columns;
    if (!fits || !z)
        return fits;
    if (z->dtype == MR_I8)
        return z->bytes == (uint64_t)(rows * columns);
    /* rows and columns are those of tensors in the file: no product overflows */
    return z->dtype == MR_I32 && z->rank == 2 && p->group >= 0 && z->dim[1] == columns &&
           z->dim[0] == rows / 32 * p->bits + (rows % 32 * p->bits + 31) / 32;
}

static void make(module *m, const packing *p, int64_t group)
{
    mr_winfo *t = m->codes;
    int bits = (int)p->bits;
    bool whole = t->dtype == MR_I32 && t->dim[1] * 32 == m->dim[1] * bits;
    t->scales = m->scale->data;
    t->bytes += m->scale->bytes + (m->shape ? m->shape->bytes : 0);
    if (whole && !m->zero && p->group > 0 &&
        mr_group_known(MR_INT, bits, (int)group, m->scale->dtype)) {
        t->dtype = MR_INT;
        t->bits = bits;
        t->group = (int)group;
        t->scale_dtype = m->scale->dtype;
    } else {
        t->wide = (mr_wide){.dtype = t->dtype == MR_I8 ? MR_I8 : MR_INT,
                            .bits = bits,
                            .stride = t->dtype == MR_I8 ? t->dim[1] : t->dim[1] * 4};
        t->dtype = MR_F32;
        t->block_rows = p->group < 0 ? m->dim[0] : 1;
        t->block_cols = group;
        t->block_scale = m->scale->dtype;
        if (m->zero) {
            t->wide.zero = m->zero->dtype;
            t->biases = m->zero->data;
            t->bytes += m->zero->bytes;
        }
    }
    t->dim[0] = m->dim[0];
    t->dim[1] = m->dim[1];
    m->scale->rank = MR_WTAKEN;
    if (m->shape)
        m->shape->rank = MR_WTAKEN;
    if (m->zero)
        m->zero->rank = MR_WTAKEN;
}

static mr_err misfit(const mr_weights *w, const module *m)
{
    const mr_winfo *t = m->codes, *s = m->scale;
    return mr_fail(MR_EFORMAT,
                   "%s: tensor \"%." MR_WNAME_SHOWN "s\": [%" PRId64 ",%" PRId64
                   "] codes%s and [%" PRId64 ",%" PRId64 "] scales for [%" PRId64 ",%" PRId64
                   "] fit no group of the config",
                   mr_weights_file(w, t->data.file), t->name, t->dim[0], t->dim[1],
                   m->zero ? " with zero points" : "", s->rank > 0 ? s->dim[0] : 1,
                   s->rank > 1 ? s->dim[1] : 1, m->dim[0], m->dim[1]);
}

/* Makes codes, scales and zero points the module's tensor, by the first of the config's groups that fits. */
static mr_err join(const mr_weights *w, module *m, const packings *all)
{
    const mr_winfo *t = m->codes;
    if ((m->scale->dtype != MR_BF16 && m->scale->dtype != MR_F16 && m->scale->dtype != MR_F32) ||
        m->scale->rank > 2)
        return mr_wmisfit(w, m->scale, "is not a matrix of f32, f16 or bf16");
    for (int i = 0; i < all->n; i++) {
        const packing *p = &all->at[i];
        int64_t group = p->group > 0 ? p->group : m->dim[1];
        if (t->dim[0] != m->dim[0] || m->dim[0] < 1 || m->dim[1] < 1 || m->dim[1] % group ||
            p->symmetric == (m->zero != NULL) || t->dim[1] > INT64_MAX / 64)
            continue;
        /* dim[1] is no greater than the words' codes, so nothing here overflows */
        bool words = t->dtype == MR_I8 ? p->bits == 8 && t->dim[1] == m->dim[1]
                                       : m->dim[1] <= t->dim[1] * 32 / p->bits &&
                                             t->dim[1] == (m->dim[1] * p->bits + 31) / 32;
        if (!words || !scales_fit(m, p, group))
            continue;
        make(m, p, group);
        return MR_OK;
    }
    return misfit(w, m);
}

static mr_err join_packed(mr_weights *w, mr_winfo *t, mr_buf *scratch, const packings *all)
{
    const size_t cut = strlen("_packed");
    module m = {.codes = t};
    MR_TRY(mr_wbeside(w, t, cut, "_scale", scratch, &m.scale));
    MR_TRY(mr_wbeside(w, t, cut, "_shape", scratch, &m.shape));
    MR_TRY(mr_wbeside(w, t, cut, "_zero_point", scratch, &m.zero));
    if (!m.scale || !m.shape)
        return mr_wmisfit(w, t, m.scale ? "has no .weight_shape" : "has no .weight_scale");
    if (t->dtype != MR_I32 || t->rank != 2)
        return mr_wmisfit(w, t, "is not an i32 matrix");
    MR_TRY(read_shape(w, m.shape, m.dim));
    return join(w, &m, all);
}

/* X.weight of I8, found by its scales. */
static mr_err join_bytes(mr_weights *w, mr_winfo *scale, mr_buf *scratch, const packings *all)
{
    const size_t cut = strlen("_scale");
    module m = {.scale = scale};
    MR_TRY(mr_wbeside(w, scale, cut, "", scratch, &m.codes));
    if (!m.codes || m.codes->dtype != MR_I8)
        return MR_OK;
    MR_TRY(mr_wbeside(w, scale, cut, "_zero_point", scratch, &m.zero));
    if (m.codes->rank != 2)
        return mr_wmisfit(w, m.codes, "is not a matrix");
    memcpy(m.dim, m.codes->dim, sizeof m.dim);
    return join(w, &m, all);
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
        mr_winfo *t = &table->at[i];
        if (mr_wsuffix(t->name, suffix))
            e = join_packed(w, t, &scratch, &all);
        else if (mr_wsuffix(t->name, ".weight_scale"))
            e = join_bytes(w, t, &scratch, &all);
    }
    mr_buf_free(&scratch);
    if (e == MR_OK)
        e = mr_fp8_join_all(w, all.block);
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
