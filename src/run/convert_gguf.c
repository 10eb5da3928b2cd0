/* mr_convert's other form: one GGUF file.
 *
 * Tensor names come from the family's table of GGUF names, and what that table says undoes the file's
 * form when it is read is done here: rows of q and k for interleaved pairs, 1 + w in norms, the
 * latent's matrix in two.  Vectors and routers are f32, as other programs expect. */
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "run/convert.h"
#include "run/gguf_meta.h"
#include "tensor/block_quantise.h"
#include "text/vocab_export.h"

enum { NAME = 512 };

typedef struct tensor {
    const char *name;
    const char *canonical;
    mr_recipe *recipe, *second; /* the latter: whose rows lie between the first's */
    int64_t each;               /* so many of each in turn */
    mr_dtype type;
    int rank;
    int64_t dim[MR_MAX_RANK], rows, k;
    int64_t heads;        /* rows of so many heads are put in GGUF's order; 0: as they are */
    bool minus_one, plus; /* the recipe gives 1 + w; the file shall hold it */
} tensor;

typedef struct convert {
    const mr_convert_opts *o;
    mr_model *model;
    const char *path, *arch;
    mr_arena *arena;
    mr_gguf_writer *w;
    tensor *list;
    int n;
    mr_dtype as; /* of matrices; MR_DTYPE_COUNT: floats as they are */
    float *factors;
    int64_t n_factors;
    uint64_t done, total;
    const tensor *now; /* being written */
    mr_pool *pool;
} convert;

/* ---- which tensors ----------------------------------------------------------------------- */

static mr_err note(const convert *c, const tensor *t, mr_dtype kept)
{
    mr_buf line = {0};
    if (!c->o->note)
        return MR_OK;
    mr_buf_printf(&line, "%s becomes %s: %lld is no multiple of %d", t->name, mr_dtype_name(kept),
                  (long long)t->k, mr_dtype_block(c->as));
    mr_err err = mr_buf_check(&line);
    if (!err)
        c->o->note(c->o->ctx, line.data);
    mr_buf_free(&line);
    return err;
}

/* What other programs want in f32. */
static bool is_plain(const tensor *t)
{
    return t->rank == 1 || mr_ends_with(t->name, "ffn_gate_inp.weight") ||
           mr_ends_with(t->name, "ffn_gate_inp_shexp.weight") ||
           mr_ends_with(t->name, "ssm_conv1d.weight");
}

static mr_err choose_type(const convert *c, tensor *t)
{
    mr_dtype stored = mr_recipe_fmt(t->recipe).dtype;
    bool plain = is_plain(t);
    if (t->second && stored != mr_recipe_fmt(t->second).dtype)
        stored = mr_dtype_is_quantised(stored) ? stored : MR_F32;
    t->type = plain ? MR_F32 : c->as == MR_DTYPE_COUNT ? stored : c->as;
    if (mr_dtype_is_quantised(stored) && !plain && c->as == MR_DTYPE_COUNT)
        return mr_fail(MR_EUSAGE, "%s: \"%s\" is %s: --quant must say what it becomes",
                       mr_model_path(c->model), t->canonical, mr_dtype_name(stored));
    if (t->k % mr_dtype_block(t->type) == 0)
        return MR_OK;
    t->type = mr_convert_fitting(t->type, t->k);
    return note(c, t, t->type);
}

static mr_err bind(const convert *c, const char *recipe, mr_recipe **out)
{
    MR_TRY(mr_recipe_parse(out, recipe, c->arena));
    return mr_recipe_bind(*out, mr_model_lookup, c->model);
}

static mr_err add(convert *c, const char *name, const mr_asked *a, const char *recipe, int rank,
                  const int64_t *dim, tensor **out)
{
    tensor *t = &c->list[c->n++];
    *t = (tensor){.name = mr_arena_strdup(c->arena, name), .canonical = a->name, .rank = rank};
    if (!t->name)
        return MR_ENOMEM;
    memcpy(t->dim, dim, (size_t)rank * sizeof *dim);
    MR_TRY(bind(c, recipe, &t->recipe));
    t->rows = mr_recipe_total(t->recipe);
    t->k = mr_recipe_k(t->recipe);
    *out = t;
    return MR_OK;
}

/* A convolution [C,1,K] is [C,K] there. */
static int without_ones(int rank, const int64_t *dim, int64_t out[MR_MAX_RANK])
{
    int n = 0;
    for (int i = 0; i < rank; i++)
        if (i == 0 || i == rank - 1 || dim[i] != 1)
            out[n++] = dim[i];
    return n;
}

static mr_err add_one(convert *c, const char *name, const mr_asked *a, const char *modifiers)
{
    tensor *t;
    int64_t dim[MR_MAX_RANK], heads;
    const char *recipe = a->recipe;
    bool plus = modifiers && strcmp(modifiers, MR_ONE_PLUS_W) == 0,
         roped = modifiers && strncmp(modifiers, ":unrope", 7) == 0;
    int rank = without_ones(a->rank, a->dim, dim);
    if (modifiers && !plus && !roped)
        MR_TRY(mr_convert_form(c->model, a, modifiers, c->arena, &recipe));
    MR_TRY(add(c, name, a, recipe, rank, dim, &t));
    t->plus = plus && !a->plus_one;
    t->minus_one = !plus && a->plus_one;
    if (roped) {
        mr_jval o = mr_model_config(c->model);
        MR_TRY(mr_cfg_int(o, "num_attention_heads", 1, MR_CFG_HEADS, &heads));
        if (strchr(modifiers, '%')[1] == 'k')
            MR_TRY(mr_cfg_int_or(o, "num_key_value_heads", heads, 1, MR_CFG_HEADS, &heads));
        t->heads = heads;
    }
    return choose_type(c, t);
}

/* Two weights whose rows lie in one tensor in turn; it is added with the first. */
static mr_err add_shared(convert *c, const char *name, const mr_asked *a, int64_t each)
{
    tensor *t;
    int64_t dim[MR_MAX_RANK];
    const mr_asked *b = NULL;
    for (int i = 0; !b && i < mr_model_asked(c->model); i++) {
        char there[NAME];
        mr_convert_part part;
        const mr_asked *x = mr_model_asked_at(c->model, i);
        const mr_name_row *row = mr_model_gguf_name(c->model, x->name, there);
        if (!row || strcmp(there, name) != 0)
            continue;
        MR_TRY(mr_convert_share(c->model, x, row->modifiers, &part));
        b = part.second && part.rows == each ? x : NULL;
    }
    if (!b)
        return mr_fail(MR_EUNSUPPORTED, "convert: \"%s\" has nothing beside it", a->name);
    memcpy(dim, a->dim, sizeof dim);
    dim[a->rank - 2] *= 2;
    MR_TRY(add(c, name, a, a->recipe, a->rank, dim, &t));
    MR_TRY(bind(c, b->recipe, &t->second));
    t->rows *= 2;
    t->each = each;
    return choose_type(c, t);
}

/* kv_b's rows are [keys | values] per head; the file has the keys turned, so that queries meet them. */
static mr_err add_latent(convert *c, const char *name, const mr_asked *a)
{
    int64_t heads = mr_model_number(c->model, 'h'), nope = mr_model_number(c->model, 'n'),
            v = mr_model_number(c->model, 'v'), latent = a->dim[1];
    int block;
    char k_b[64], v_b[64];
    tensor *t;
    if (sscanf(name, "blk.%d.", &block) != 1)
        return mr_fail(MR_EFORMAT, "\"%s\" is in no layer", name);
    snprintf(k_b, sizeof k_b, "blk.%d.attn_k_b.weight", block);
    snprintf(v_b, sizeof v_b, "blk.%d.attn_v_b.weight", block);
    const char *keys = mr_arena_printf(c->arena, "%s :rows(%lld,0,%lld) :t(%lld)", a->recipe,
                                       (long long)(nope + v), (long long)nope, (long long)nope),
               *values = mr_arena_printf(c->arena, "%s :rows(%lld,%lld,%lld)", a->recipe,
                                         (long long)(nope + v), (long long)nope, (long long)v);
    if (!keys || !values)
        return MR_ENOMEM;
    MR_TRY(add(c, k_b, a, keys, 3, (int64_t[]){heads, latent, nope}, &t));
    MR_TRY(choose_type(c, t));
    MR_TRY(add(c, v_b, a, values, 3, (int64_t[]){heads, v, latent}, &t));
    return choose_type(c, t);
}

static mr_err add_asked(convert *c, const mr_asked *a)
{
    char name[NAME];
    mr_convert_part part;
    const mr_name_row *row = mr_model_gguf_name(c->model, a->name, name);
    if (!row)
        return mr_fail(MR_EUNSUPPORTED, "convert: \"%s\" has no name in GGUF files", a->name);
    if (mr_ends_with(name, "attn_kv_b.weight"))
        return add_latent(c, name, a);
    MR_TRY(mr_convert_share(c->model, a, row->modifiers, &part));
    if (!part.rows)
        return add_one(c, name, a, row->modifiers);
    return part.second ? MR_OK : add_shared(c, name, a, part.rows);
}

static mr_err list_tensors(convert *c)
{
    int n = mr_model_asked(c->model);
    c->list = mr_zalloc(MR_MEM_OTHER, 2 * (size_t)n * sizeof *c->list);
    if (!c->list)
        return MR_ENOMEM;
    for (int i = 0; i < n; i++)
        MR_TRY(add_asked(c, mr_model_asked_at(c->model, i)));
    return mr_gguf_rope_factors(c->model, &c->factors, &c->n_factors);
}

/* ---- writing ----------------------------------------------------------------------------- */

static size_t row_bytes(const tensor *t)
{
    return (size_t)(t->k / mr_dtype_block(t->type)) * (size_t)mr_dtype_block_bytes(t->type);
}

static mr_err declare(convert *c)
{
    if (c->n_factors)
        MR_TRY(mr_gguf_writer_declare(c->w, "rope_freqs.weight", MR_F32, 1, &c->n_factors));
    for (int i = 0; i < c->n; i++) {
        const tensor *t = &c->list[i];
        MR_TRY(mr_gguf_writer_declare(c->w, t->name, t->type, t->rank, t->dim));
        c->total += row_bytes(t) * (uint64_t)t->rows;
    }
    return mr_gguf_writer_begin(c->w);
}

/* GGUF's number 2i + j of a head of d is number j*d/2 + i. */
static int64_t roped(int64_t i, int64_t d)
{
    return i - i % d + i % 2 * (d / 2) + i % d / 2;
}

static mr_row_at roped_row(const void *ctx, int64_t row)
{
    const tensor *t = ((const convert *)ctx)->now;
    return (mr_row_at){0, t->rank == 1 ? row : roped(row, t->rows / t->heads), 1};
}

static mr_row_at shared_row(const void *ctx, int64_t row)
{
    const tensor *t = ((const convert *)ctx)->now;
    int64_t turn = row / t->each, in = row % t->each;
    return (mr_row_at){(int)(turn % 2), turn / 2 * t->each + in, t->each - in};
}

static void write_row(const void *ctx, int64_t row, float *x, uint8_t *out)
{
    const tensor *t = ((const convert *)ctx)->now;
    (void)row;
    if (t->heads && t->rank == 1) { /* is f32: there is room in out */
        float *y = memcpy(out, x, (size_t)t->k * sizeof *x);
        for (int64_t i = 0; i < t->k; i++)
            x[i] = y[roped(i, t->k / t->heads)];
    }
    mr_convert_narrow(x, t->k, t->type, out);
}

static mr_err put_rows(void *ctx, const void *rows, size_t bytes)
{
    convert *c = ctx;
    MR_TRY(mr_gguf_writer_data(c->w, rows, bytes));
    c->done += bytes;
    if (c->o->progress && c->o->progress(c->o->ctx, c->done, c->total))
        return mr_fail(MR_ECANCEL, "stopped by the caller");
    return MR_OK;
}

static mr_err write_tensor(convert *c, const tensor *t)
{
    mr_row_source s = {.part = {t->recipe, t->second},
                       .rows = t->rows,
                       .minus_one = t->minus_one,
                       .plus_one = t->plus,
                       .from = t->heads    ? roped_row
                               : t->second ? shared_row
                                           : NULL};
    mr_row_form form = {.name = t->canonical,
                        .to = t->type,
                        .bytes = row_bytes(t),
                        .write = write_row,
                        .put = put_rows,
                        .ctx = c};
    c->now = t;
    return mr_convert_rows(c->model, &s, &form, c->pool);
}

static void drop_id(int32_t *id, int32_t n)
{
    *id = *id < n ? *id : -1;
}

/* Some tokenizers have tokens for parts of a model that this one lacks: no rows, no tokens. */
static void cut_vocab(const convert *c, mr_vocab *v)
{
    int32_t rows = (int32_t)mr_model_facts(c->model)->vocab;
    char line[96];
    if (v->n_tokens <= rows)
        return;
    snprintf(line, sizeof line, "tokens %d to %d are left out: the model has %d", rows,
             v->n_tokens - 1, rows);
    if (c->o->note)
        c->o->note(c->o->ctx, line);
    v->n_tokens = rows;
    drop_id(&v->bos, rows);
    drop_id(&v->eos, rows);
    drop_id(&v->unk, rows);
}

/* The tokenizer of the model's folder; without one the file has none and says so. */
static mr_err write_vocab(convert *c)
{
    mr_tokenizer *t;
    mr_vocab_copy v;
    bool any;
    MR_TRY(mr_text_there(c->model, &any));
    if (!any) {
        if (c->o->note)
            c->o->note(c->o->ctx, "the file gets no tokenizer: the model has none");
        mr_gguf_writer_str(c->w, "tokenizer.ggml.model", MR_GGUF_NO_TOKENIZER);
        return MR_OK;
    }
    MR_TRY(mr_tokenizer_open(&t, mr_model_path(c->model)));
    mr_err err = mr_vocab_of(t, (int32_t)mr_model_facts(c->model)->vocab, &v);
    if (err) {
        err = mr_fail_in(err, "%s", mr_model_path(c->model));
    } else {
        const mr_model_info *info = mr_model_facts(c->model);
        cut_vocab(c, &v.v);
        if (v.v.eos < 0 && info->n_eos)
            v.v.eos = info->eos[0];
        if (v.v.bos < 0)
            v.v.bos = info->bos;
        mr_gguf_meta_vocab(c->w, &v.v);
        mr_vocab_copy_free(&v);
    }
    mr_tokenizer_close(t);
    return err;
}

static mr_err write_file(convert *c)
{
    mr_err err = mr_gguf_writer_open(&c->w, c->path);
    if (err)
        return err;
    err = mr_gguf_meta(c->w, c->model, c->arch);
    if (!err && c->as != MR_DTYPE_COUNT)
        mr_convert_gguf_said(c->w, c->as);
    if (!err)
        err = write_vocab(c);
    if (!err)
        err = declare(c);
    if (!err && c->n_factors)
        err = mr_gguf_writer_data(c->w, c->factors, (size_t)c->n_factors * sizeof *c->factors);
    for (int i = 0; !err && i < c->n; i++)
        err = write_tensor(c, &c->list[i]);
    if (!err)
        return mr_gguf_writer_commit(c->w);
    mr_gguf_writer_abort(c->w);
    return err;
}

/* ---- types ------------------------------------------------------------------------------- */

mr_err mr_convert_gguf_type(const mr_convert_opts *o, mr_dtype *out)
{
    *out = MR_DTYPE_COUNT;
    if (o->group)
        return mr_fail(MR_EUSAGE, "group: GGUF's types have groups of their own");
    return o->quant ? mr_block_parse(o->quant, out) : MR_OK;
}

/* What general.file_type calls a file of mostly such tensors. */
void mr_convert_gguf_said(mr_gguf_writer *w, mr_dtype type)
{
    static const struct {
        mr_dtype type;
        uint32_t file;
    } known[] = {{MR_F32, 0},   {MR_F16, 1},   {MR_BF16, 32}, {MR_Q4_0, 2},  {MR_Q4_1, 3},
                 {MR_Q5_0, 8},  {MR_Q5_1, 9},  {MR_Q8_0, 7},  {MR_Q2_K, 10}, {MR_Q3_K, 12},
                 {MR_Q4_K, 15}, {MR_Q5_K, 17}, {MR_Q6_K, 18}};
    int i = 0;
    while (known[i].type != type)
        i++;
    mr_gguf_writer_u32(w, "general.file_type", known[i].file);
    if (mr_dtype_is_quantised(type))
        mr_gguf_writer_u32(w, "general.quantization_version", 2);
}

/* ---- the whole --------------------------------------------------------------------------- */

/* A file by another name than .gguf has one for as long as it is read. */
static mr_err read_back(const convert *c)
{
    const char *name = c->path;
    if (!mr_ends_with(name, ".gguf")) {
        name = mr_arena_printf(c->arena, "%s.check.gguf", name);
        if (!name)
            return MR_ENOMEM;
        if (rename(c->path, name) != 0)
            return mr_fail(MR_EIO, "%s: cannot rename to %s", c->path, name);
    }
    mr_err err = mr_convert_same(c->model, name);
    if (err)
        remove(name);
    else if (name != c->path && rename(name, c->path) != 0)
        err = mr_fail(MR_EIO, "%s: cannot rename to %s", name, c->path);
    return err;
}

mr_err mr_convert_gguf(mr_model *m, const char *path, const mr_convert_opts *o, mr_pool *pool)
{
    convert c = {.o = o, .model = m, .path = path, .pool = pool};
    mr_err err = mr_convert_gguf_type(o, &c.as);
    if (!err)
        err = mr_gguf_arch(m, &c.arch);
    if (!err)
        err = mr_arena_new(&c.arena, MR_MEM_OTHER);
    if (!err)
        err = list_tensors(&c);
    if (!err)
        err = write_file(&c);
    if (!err && mr_file_exists(path) == 1) /* not where it was piped to */
        err = read_back(&c);
    mr_free(c.factors);
    mr_free(c.list);
    mr_arena_free(c.arena);
    return err;
}
