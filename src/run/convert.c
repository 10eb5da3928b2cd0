/* mr_convert: a model's weights written again, as MLX safetensors (convert_gguf.c, convert_requant.c: as
 * GGUF).
 *
 * The family says, as it does for a run, which tensors make up the model and how each is made from
 * the files (a recipe); rows come through the recipe, so any format that runs can be converted, and
 * row orders and offsets that a file format brings are undone on the way.  convert_mlx.c says which
 * tensors MLX's programs want.  A GGUF file's metadata becomes config.json and tokenizer.json.  What a family skips (image towers, draft layers) is not written.
 *
 * Rows stream from file to file.  Only a tensor's scales and biases are held until its integers are
 * out, since safetensors has them as tensors of their own.  The weights come last under their final
 * name: a directory that lacks config.json is not a model. */
#include <string.h>

#include "base/cpu.h"
#include "base/file.h"
#include "run/convert.h"
#include "run/gguf_meta.h"
#include "run/model_dir.h"
#include "tensor/affine.h"
#include "text/tokenizer_write.h"

enum { COMPANION_MAX = 1 << 28 };

typedef struct tensor {
    const mr_mlx_tensor *of;
    mr_recipe *part[2];
    int64_t rows, k;
    mr_dtype plain; /* type of an unquantised one */
    bool quantised;
} tensor;

typedef struct convert {
    const mr_convert_opts *o;
    const char *path;
    mr_model_dir dir;
    mr_model *model;
    mr_pool *pool;
    mr_arena *arena;
    tensor *list;
    int n, bits;
    mr_dtype as; /* of all floats; MR_DTYPE_COUNT: each as it is */
    uint64_t done, total;
    mr_buf weight_map;
} convert;

/* ---- which tensors ----------------------------------------------------------------------- */

/* MLX quantises linear layers and embeddings; a router stays as it is. */
static bool is_matrix(const mr_mlx_tensor *t)
{
    return t->rank >= 2 && mr_ends_with(t->name, ".weight") &&
           !mr_ends_with(t->name, "mlp.gate.weight") &&
           !mr_ends_with(t->name, "router.proj.weight") && !strstr(t->name, "conv1d");
}

static mr_err note(const convert *c, const tensor *t)
{
    mr_buf line = {0};
    if (!c->o->note)
        return MR_OK;
    mr_buf_printf(&line, "%s stays unquantised: %lld is no multiple of %d", t->of->name,
                  (long long)t->k, c->o->group);
    mr_err err = mr_buf_check(&line);
    if (!err)
        c->o->note(c->o->ctx, line.data);
    mr_buf_free(&line);
    return err;
}

static mr_err bind(convert *c, const char *recipe, mr_recipe **out)
{
    MR_TRY(mr_recipe_parse(out, recipe, c->arena));
    return mr_recipe_bind(*out, mr_model_lookup, c->model);
}

static mr_err add_tensor(convert *c, const mr_mlx_tensor *of)
{
    tensor *t = &c->list[c->n++];
    const mr_asked *a = of->asked;
    mr_recipe *stored;
    *t = (tensor){.of = of};
    for (int i = 0; i < of->parts; i++)
        MR_TRY(bind(c, of->recipe[i], &t->part[i]));
    for (int i = 0; i < of->parts; i++)
        t->rows += mr_recipe_total(t->part[i]);
    t->k = mr_recipe_k(t->part[0]);
    MR_TRY(bind(c, of->stored_as, &stored));
    mr_fmt fmt = mr_recipe_fmt(stored);
    bool stored_float = !mr_dtype_is_quantised(fmt.dtype);
    t->quantised = c->bits && is_matrix(of) && t->k % c->o->group == 0;
    if (c->bits && is_matrix(of) && !t->quantised)
        MR_TRY(note(c, t));
    if (!t->quantised && !stored_float && !c->bits && c->as == MR_DTYPE_COUNT)
        return mr_fail(MR_EUSAGE, "%s: \"%s\" is %s: --quant must say what it becomes", c->path,
                       a->name, mr_dtype_name(fmt.dtype));
    t->plain = stored_float && a->plus_one == of->one_plus && !a->neg_exp ? fmt.dtype : MR_F32;
    if (c->as != MR_DTYPE_COUNT && of->rank >= 2)
        t->plain = c->as;
    return MR_OK;
}

static mr_err list_tensors(convert *c)
{
    mr_mlx_tensor *of;
    int n;
    MR_TRY(mr_mlx_tensors(c->model, c->arena, &of, &n));
    c->list = mr_zalloc(MR_MEM_OTHER, (size_t)n * sizeof *c->list);
    if (!c->list)
        return MR_ENOMEM;
    for (int i = 0; i < n; i++)
        MR_TRY(add_tensor(c, &of[i]));
    return MR_OK;
}

/* ---- declaring --------------------------------------------------------------------------- */

static mr_err declare_one(convert *c, mr_st_writer *w, const char *name, mr_dtype t, int rank,
                          const int64_t *dim)
{
    uint64_t bytes = (uint64_t)mr_dtype_block_bytes(t);
    for (int i = 0; i < rank; i++)
        bytes *= (uint64_t)dim[i];
    c->total += bytes;
    if (!name)
        return MR_ENOMEM;
    mr_buf_puts(&c->weight_map, c->weight_map.len ? ",\n    " : "    ");
    mr_buf_json(&c->weight_map, name, strlen(name));
    mr_buf_puts(&c->weight_map, ": \"model.safetensors\"");
    return mr_st_writer_declare(w, name, t, rank, dim);
}

static mr_err declare(convert *c, mr_st_writer *w, const tensor *t)
{
    const char *name = t->of->name;
    int64_t dim[MR_MAX_RANK];
    int rank = t->of->rank;
    memcpy(dim, t->of->dim, sizeof dim);
    if (!t->quantised)
        return declare_one(c, w, name, t->plain, rank, dim);
    int stem = (int)(strlen(name) - strlen(".weight"));
    dim[rank - 1] = t->k * c->bits / 32;
    MR_TRY(declare_one(c, w, name, MR_U32, rank, dim));
    dim[rank - 1] = t->k / c->o->group;
    const char *scales = mr_arena_printf(c->arena, "%.*s.scales", stem, name),
               *biases = mr_arena_printf(c->arena, "%.*s.biases", stem, name);
    MR_TRY(declare_one(c, w, scales, MR_BF16, rank, dim));
    return declare_one(c, w, biases, MR_BF16, rank, dim);
}

/* ---- writing ----------------------------------------------------------------------------- */

static mr_err put(convert *c, mr_st_writer *w, const void *bytes, size_t n)
{
    MR_TRY(mr_st_writer_data(w, bytes, n));
    c->done += n;
    if (c->o->progress && c->o->progress(c->o->ctx, c->done, c->total))
        return mr_fail(MR_ECANCEL, "stopped by the caller");
    return MR_OK;
}

/* Where the rows of one tensor go. */
typedef struct sink {
    convert *c;
    mr_st_writer *w;
    const tensor *t;
    uint16_t *scales, *biases; /* of the whole tensor */
} sink;

static mr_row_at row_of(const void *ctx, int64_t row)
{
    return mr_mlx_row(((const sink *)ctx)->t->of, row);
}

static void write_row(const void *ctx, int64_t row, float *x, uint8_t *out)
{
    const sink *s = ctx;
    const tensor *t = s->t;
    int group = s->c->o->group;
    int64_t at = t->quantised ? row * (t->k / group) : 0;
    if (t->quantised)
        mr_affine_quantise(x, t->k, s->c->bits, group, out, s->scales + at, s->biases + at);
    else
        mr_convert_narrow(x, t->k, t->plain, out);
}

static mr_err put_rows(void *ctx, const void *rows, size_t bytes)
{
    const sink *s = ctx;
    return put(s->c, s->w, rows, bytes);
}

static mr_err write_tensor(convert *c, mr_st_writer *w, const tensor *t)
{
    size_t side = t->quantised ? (size_t)(t->rows * (t->k / c->o->group)) * 2 : 0;
    sink s = {.c = c,
              .w = w,
              .t = t,
              .scales = mr_alloc(MR_MEM_OTHER, side),
              .biases = mr_alloc(MR_MEM_OTHER, side)};
    bool have = !side || (s.scales && s.biases);
    mr_row_source from = {.part = {t->part[0], t->part[1]},
                          .rows = t->rows,
                          .minus_one = t->of->asked->plus_one && !t->of->one_plus,
                          .plus_one = t->of->one_plus && !t->of->asked->plus_one,
                          .neg_exp = t->of->asked->neg_exp,
                          .from = t->of->segments ? row_of : NULL};
    mr_row_form form = {.name = t->of->asked->name,
                        .to = t->quantised ? MR_AFFINE : t->plain,
                        .bytes = t->quantised
                                     ? (size_t)(t->k * c->bits / 8)
                                     : (size_t)t->k * (size_t)mr_dtype_block_bytes(t->plain),
                        .write = write_row,
                        .put = put_rows,
                        .ctx = &s};
    mr_err err = have ? mr_convert_rows(c->model, &from, &form, c->pool) : MR_ENOMEM;
    if (!err && side)
        err = put(c, w, s.scales, side);
    if (!err && side)
        err = put(c, w, s.biases, side);
    mr_free(s.scales);
    mr_free(s.biases);
    return err;
}

static mr_err write_weights(convert *c)
{
    mr_buf path = {0};
    mr_st_writer *w = NULL;
    mr_err err = mr_dir_file(&c->dir, "model.safetensors", &path);
    if (!err)
        err = mr_st_writer_open(&w, path.data, "mlx");
    for (int i = 0; !err && i < c->n; i++)
        err = declare(c, w, &c->list[i]);
    if (!err)
        err = mr_st_writer_begin(w);
    for (int i = 0; !err && i < c->n; i++)
        err = write_tensor(c, w, &c->list[i]);
    if (!err)
        err = mr_st_writer_commit(w);
    else if (w)
        mr_st_writer_abort(w);
    mr_buf_free(&path);
    return err;
}

/* ---- the small files --------------------------------------------------------------------- */

static mr_err write_index(convert *c)
{
    mr_buf b = {0};
    mr_buf_printf(&b, "{\n  \"metadata\": {\"total_size\": %llu},\n  \"weight_map\": {\n",
                  (unsigned long long)c->total);
    mr_buf_add(&b, c->weight_map.data, c->weight_map.len);
    mr_buf_puts(&b, "\n  }\n}\n");
    mr_err err = mr_buf_check(&b);
    if (!err)
        err = mr_dir_write(&c->dir, "model.safetensors.index.json", b.data, b.len);
    mr_buf_free(&b);
    return err;
}

static mr_err write_config(convert *c)
{
    mr_buf b = {0};
    mr_err err = mr_mlx_config(c->model, c->bits, c->o->group, &b);
    if (!err)
        err = mr_dir_write(&c->dir, "config.json", b.data, b.len);
    mr_buf_free(&b);
    return err;
}

static mr_err copy_companion(convert *c, const char *name)
{
    mr_buf from = {0};
    char *text = NULL;
    size_t len;
    mr_buf_printf(&from, "%s/%s", c->path, name);
    mr_err err = mr_buf_check(&from);
    if (!err && mr_file_exists(from.data) == 1) {
        err = mr_file_read_all(from.data, COMPANION_MAX, MR_MEM_OTHER, &text, &len);
        if (!err)
            err = mr_dir_write(&c->dir, name, text, len);
        mr_free(text);
    }
    mr_buf_free(&from);
    return err;
}

/* The tokenizer in a GGUF file's metadata, if there is one. */
static mr_err write_tokenizer(convert *c)
{
    mr_tokenizer *t;
    mr_buf b = {0};
    const mr_gguf *g = mr_weights_gguf(mr_model_weights(c->model));
    if (!mr_gguf_has_vocab(g)) {
        if (c->o->note)
            c->o->note(c->o->ctx, "no tokenizer is written: the model has none");
        return MR_OK;
    }
    MR_TRY((mr_err)mr_text_open(&t, mr_gguf_path(g)));
    mr_err err = mr_tokenizer_write(t, &b);
    if (!err)
        err = mr_dir_write(&c->dir, "tokenizer.json", b.data, b.len);
    mr_buf_clear(&b);
    if (!err)
        err = mr_tokenizer_write_config(t, &b);
    if (!err)
        err = mr_dir_write(&c->dir, "tokenizer_config.json", b.data, b.len);
    mr_buf_free(&b);
    mr_text_close(t);
    return err;
}

static mr_err copy_companions(convert *c)
{
    if (mr_weights_gguf(mr_model_weights(c->model)))
        return write_tokenizer(c);
    for (int i = 0; mr_model_companions[i]; i++)
        MR_TRY(copy_companion(c, mr_model_companions[i]));
    return MR_OK;
}

/* ---- the whole --------------------------------------------------------------------------- */

static mr_err check_opts(convert *c)
{
    const char *q = c->o->quant;
    c->as = MR_DTYPE_COUNT;
    if (!q)
        return MR_OK;
    if (q[0] == 'q' && q[1] >= '2' && q[1] <= '8' && !q[2])
        c->bits = q[1] - '0';
    c->as = !strcmp(q, "f32")    ? MR_F32
            : !strcmp(q, "f16")  ? MR_F16
            : !strcmp(q, "bf16") ? MR_BF16
                                 : MR_DTYPE_COUNT;
    if (c->as == MR_DTYPE_COUNT && !mr_affine_known(c->bits, 64))
        return mr_fail(MR_EUSAGE, "quant \"%s\" is unknown (f32, f16, bf16, q2 to q6, q8)", q);
    if (c->bits && !mr_affine_known(c->bits, c->o->group))
        return mr_fail(MR_EUSAGE, "group: %d is none of 32, 64, 128", c->o->group);
    return MR_OK;
}

static mr_err write_directory(convert *c, const char *path)
{
    MR_TRY(check_opts(c));
    MR_TRY(list_tensors(c));
    MR_TRY(mr_dir_open(&c->dir, path, c->path, c->o->force));
    mr_err err = write_weights(c);
    if (!err)
        err = copy_companions(c);
    if (!err)
        err = write_index(c);
    if (!err)
        err = write_config(c);
    if (err)
        mr_dir_remove(&c->dir);
    return err;
}

static mr_err run(convert *c, const char *out)
{
    mr_model_opts mo = {0};
    mr_graph *g = NULL;
    bool gguf = strcmp(c->o->format, "gguf") == 0;
    if (c->o->threads < 0 || c->o->threads > 1024)
        return mr_fail(MR_EUSAGE, "threads: %d is not in 1..1024", c->o->threads);
    if (!gguf && strcmp(c->o->format, "safetensors") != 0)
        return mr_fail(MR_EUSAGE, "format \"%s\" is unknown (safetensors, gguf)", c->o->format);
    MR_TRY(mr_arena_new(&c->arena, MR_MEM_OTHER));
    MR_TRY(mr_model_open(&c->model, c->path, &mo));
    if (!mr_model_weights(c->model))
        return mr_fail(MR_EUSAGE, "%s: a model is needed, not a config.json", c->path);
    MR_TRY(mr_model_build(c->model, &g));
    mr_graph_free(g);
    MR_TRY(mr_model_check_unused(c->model));
    MR_TRY(mr_pool_new(&c->pool, c->o->threads ? c->o->threads : mr_cpu_count()));
    if (!gguf)
        return write_directory(c, out);
    MR_TRY(mr_file_unused(out, c->o->force));
    return mr_weights_gguf(mr_model_weights(c->model))
               ? mr_convert_requant(c->model, out, c->o, c->pool)
               : mr_convert_gguf(c->model, out, c->o, c->pool);
}

mr_status mr_convert(const char *model, const char *out, const mr_convert_opts *o)
{
    mr_convert_opts full = *o;
    full.format = o->format ? o->format : "safetensors";
    if (strcmp(full.format, "gguf") != 0 && !full.group)
        full.group = 64;
    convert c = {.o = &full, .path = model};
    mr_err err = run(&c, out);
    mr_buf_free(&c.weight_map);
    mr_free(c.list);
    mr_model_close(c.model);
    mr_pool_free(c.pool);
    mr_arena_free(c.arena);
    return (mr_status)err;
}
