/* Opening a model: which files, which family, config, facts; building its graph; tensors left over.
 *
 * A directory with safetensors is read by its config.json; a GGUF file (or a directory that holds
 * one and no safetensors) by its metadata, which its family turns into a config text.  Any other
 * file is a config alone: every weight then counts as there, in bf16, under its canonical name. */
#include <ctype.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "model/model_internal.h"

#define F(name) extern const mr_family mr_family_##name;
#include "model/families.def"
#undef F

static const mr_family *const families[] = {
#define F(name) &mr_family_##name,
#include "model/families.def"
#undef F
};
enum { FAMILIES = sizeof families / sizeof *families, CONFIG_MAX = 16 << 20 };

/* ---- family ---- */

static void list_known(mr_buf *b, bool archs)
{
    for (int i = 0; i < FAMILIES; i++)
        for (const char *const *p = archs ? families[i]->archs : families[i]->model_types; *p; p++)
            mr_buf_printf(b, "%s%s", b->len ? ", " : "", *p);
}

static mr_err unknown_family(const char *file, const char *key, mr_str name, bool archs)
{
    mr_buf known = {0};
    list_known(&known, archs);
    mr_fail(MR_EUNSUPPORTED, "%s: \"%s\": \"%.*s\" is not supported (known: %s)", file, key,
            name.len > 60 ? 60 : (int)name.len, name.data, known.data ? known.data : "");
    mr_buf_free(&known);
    return MR_EUNSUPPORTED;
}

static const mr_family *family_of(mr_str name, bool archs)
{
    for (int i = 0; i < FAMILIES; i++)
        for (const char *const *p = archs ? families[i]->archs : families[i]->model_types; *p; p++)
            if (mr_str_is(name, *p))
                return families[i];
    return NULL;
}

static mr_err choose_family(mr_model *m)
{
    mr_buf scratch = {0};
    mr_jval v = mr_jget(mr_json_root(m->doc), "model_type");
    mr_str name;
    mr_err e = mr_jstr(v, &scratch, &name);
    if (e == MR_OK && !(m->info.model_type = mr_arena_strndup(m->arena, name.data, name.len)))
        e = MR_ENOMEM;
    if (e == MR_OK && !(m->family = family_of(name, false)))
        e = unknown_family(mr_json_file(m->doc), "model_type", name, false);
    mr_buf_free(&scratch);
    return e;
}

/* ---- quantisation ---- */

/* Methods and modes by name; what each asks for is checked where the files are read. */
static mr_err check_quantization(mr_jval q)
{
    static const char *const methods[] = {"affine", "fp8", "compressed-tensors"};
    static const char *const modes[] = {"affine", "mxfp4", "mxfp8", "nvfp4"};
    if (!mr_jhas(q))
        return MR_OK;
    if (mr_jtype(q) != MR_JOBJECT)
        return mr_jfail(q, "an object is needed");
    mr_jval method = mr_jget(q, "quant_method"), mode = mr_jget(q, "mode");
    bool known = !mr_jhas(method);
    for (size_t i = 0; i < sizeof methods / sizeof *methods; i++)
        known |= mr_jis(method, methods[i]);
    mr_str raw = mr_jraw(method);
    if (!known)
        return mr_cfg_refuse(method, "quantisation %.*s is not supported",
                             raw.len > 60 ? 60 : (int)raw.len, raw.data);
    if (mr_jhas(method) && !mr_jis(method, "affine"))
        return MR_OK;
    known = !mr_jhas(mode);
    for (size_t i = 0; i < sizeof modes / sizeof *modes; i++)
        known |= mr_jis(mode, modes[i]);
    raw = mr_jraw(mode);
    if (!known)
        return mr_cfg_refuse(mode, "quantisation mode %.*s is not supported",
                             raw.len > 60 ? 60 : (int)raw.len, raw.data);
    if (mr_jhas(mr_jget(q, "load_in_4bit")) || mr_jhas(mr_jget(q, "load_in_8bit")))
        return mr_cfg_refuse(q, "quantisation \"bitsandbytes\" is not supported");
    if (!mr_jhas(mr_jget(q, "bits")) || !mr_jhas(mr_jget(q, "group_size")))
        return mr_cfg_refuse(q, "neither a quant_method nor bits and group_size");
    return MR_OK;
}

/* MLX writes "quantization" and the same again as "quantization_config"; others only the latter,
 * with a method's name. */
static mr_err find_quantization(mr_model *m, mr_jval *out)
{
    mr_jval root = mr_json_root(m->doc), at[] = {root, mr_jget(root, "text_config")};
    *out = (mr_jval){0};
    for (int i = 1; i >= 0; i--) {
        if (mr_jtype(at[i]) != MR_JOBJECT)
            continue;
        mr_jval a = mr_jget(at[i], "quantization"), b = mr_jget(at[i], "quantization_config");
        MR_TRY(check_quantization(a));
        MR_TRY(check_quantization(b));
        if (mr_jhas(a) || mr_jhas(b))
            *out = mr_jhas(a) ? a : b;
    }
    return MR_OK;
}

/* ---- opening ---- */

static bool ends_in(const char *s, const char *tail)
{
    size_t n = strlen(s), k = strlen(tail);
    return n >= k && !strcmp(s + n - k, tail);
}

static mr_err read_config(mr_model *m, const mr_model_opts *o)
{
    mr_jval root = mr_json_root(m->doc);
    if (mr_jtype(root) != MR_JOBJECT)
        return mr_jfail(root, "an object is needed");
    MR_TRY(choose_family(m));
    m->info.family = m->family->name;
    m->info.bos = m->info.delete_id = m->info.split_id = -1;
    MR_TRY(m->family->config(root, o, m->arena, &m->cfg, &m->info));
    if (o->block_length && !m->info.diffusion)
        return mr_fail(MR_EUSAGE, "a block length is for diffusion models, %s (%s) is none",
                       m->path, m->info.model_type);
    return MR_OK;
}

/* As MLX keeps it; others have [C,1,K]. */
static bool is_turned_convolution(const mr_winfo *t)
{
    return t->rank == 3 && t->dim[1] > 1 && t->dim[2] == 1 && ends_in(t->name, ".conv1d.weight");
}

static mr_err own_weights(mr_model *m)
{
    size_t n = (size_t)mr_weights_count(m->weights);
    m->used = mr_zalloc(MR_MEM_COMPILE, n * sizeof *m->used);
    if (!m->used)
        return MR_ENOMEM;
    for (size_t i = 0; i < n; i++)
        m->one_plus |= is_turned_convolution(mr_weights_at(m->weights, (int)i));
    if (mr_weights_files(m->weights) == 1)
        m->base = mr_weights_file(m->weights, 0);
    return MR_OK;
}

static mr_err open_config(mr_model *m, const char *path)
{
    size_t len;
    MR_TRY(mr_file_read_all(path, CONFIG_MAX, MR_MEM_COMPILE, &m->text, &len));
    return mr_json_parse(&m->doc, path, m->text, len);
}

static mr_err open_gguf(mr_model *m, const mr_model_opts *o)
{
    static const char key[] = "general.architecture";
    mr_buf json = {0};
    mr_str arch;
    MR_TRY(mr_weights_open(&m->weights, m->path, (mr_jval){0}));
    const mr_gguf *g = mr_weights_gguf(m->weights);
    if (!g)
        return mr_fail(MR_EFORMAT, "%s: neither config.json nor a GGUF file", m->path);
    MR_TRY(own_weights(m));
    m->gguf = true;
    MR_TRY(mr_gguf_str(g, key, &arch));
    const mr_family *f = family_of(arch, true);
    if (!f)
        return unknown_family(mr_gguf_path(g), key, arch, true);
    mr_err e = f->gguf_config(m->weights, &json);
    m->text = json.data;
    MR_TRY(e);
    MR_TRY(mr_json_parse(&m->doc, mr_gguf_path(g), m->text, json.len));
    MR_TRY(read_config(m, o));
    mr_jval root = mr_json_root(m->doc);
    MR_TRY(mr_cfg_int(root, "num_attention_heads", 1, MR_CFG_HEADS, &m->heads));
    return mr_cfg_int_or(root, "num_key_value_heads", m->heads, 1, MR_CFG_HEADS, &m->kv_heads);
}

static mr_err open_dir(mr_model *m, const char *config, const mr_model_opts *o)
{
    mr_jval quantization;
    MR_TRY(open_config(m, config));
    MR_TRY(find_quantization(m, &quantization));
    MR_TRY(read_config(m, o));
    MR_TRY(mr_weights_open(&m->weights, m->path, quantization));
    return own_weights(m);
}

static mr_err open_alone(mr_model *m, const mr_model_opts *o)
{
    mr_jval quantization;
    MR_TRY(find_quantization(m, &quantization));
    return read_config(m, o);
}

static mr_err open_path(mr_model *m, const mr_model_opts *o)
{
    const char *index = mr_arena_printf(m->arena, "%s/model.safetensors.index.json", m->path);
    const char *single = mr_arena_printf(m->arena, "%s/model.safetensors", m->path);
    const char *config = mr_arena_printf(m->arena, "%s/config.json", m->path);
    if (!index || !single || !config)
        return MR_ENOMEM;
    if (mr_file_exists(m->path) == 2) {
        bool hf = mr_file_exists(index) == 1 || mr_file_exists(single) == 1;
        return hf ? open_dir(m, config, o) : open_gguf(m, o);
    }
    if (ends_in(m->path, ".gguf"))
        return open_gguf(m, o);
    if (ends_in(m->path, ".safetensors"))
        return mr_fail(MR_EUSAGE, "%s: give the directory that holds it and its config.json",
                       m->path);
    MR_TRY(open_config(m, m->path));
    return open_alone(m, o);
}

static mr_err new_model(mr_model **out, const char *path)
{
    *out = NULL;
    mr_model *m = mr_zalloc(MR_MEM_COMPILE, sizeof *m);
    if (!m)
        return MR_ENOMEM;
    mr_err e = mr_arena_new(&m->arena, MR_MEM_COMPILE);
    if (e == MR_OK && !(m->path = m->base = mr_arena_strdup(m->arena, path)))
        e = MR_ENOMEM;
    if (e != MR_OK) {
        mr_model_close(m);
        return e;
    }
    *out = m;
    return MR_OK;
}

static mr_err opened(mr_model **out, mr_model *m, mr_err e)
{
    if (e != MR_OK)
        mr_model_close(m);
    else
        *out = m;
    return e;
}

static const mr_model_opts *options(const mr_model_opts *o)
{
    static const mr_model_opts none;
    return o ? o : &none;
}

mr_err mr_model_open(mr_model **out, const char *path, const mr_model_opts *o)
{
    mr_model *m;
    *out = NULL;
    MR_TRY(new_model(&m, path));
    return opened(out, m, open_path(m, options(o)));
}

static mr_err parse_text(mr_model *m, const char *text, size_t len, const mr_model_opts *o)
{
    m->text = mr_alloc(MR_MEM_COMPILE, len + 1);
    if (!m->text)
        return MR_ENOMEM;
    memcpy(m->text, text, len);
    m->text[len] = '\0';
    MR_TRY(mr_json_parse(&m->doc, m->path, m->text, len));
    return open_alone(m, o);
}

mr_err mr_model_open_text(mr_model **out, const char *file, const char *text, size_t len,
                          const mr_model_opts *o)
{
    mr_model *m;
    *out = NULL;
    MR_TRY(new_model(&m, file));
    return opened(out, m, parse_text(m, text, len, options(o)));
}

void mr_model_close(mr_model *m)
{
    if (!m)
        return;
    mr_weights_close(m->weights);
    mr_json_free(m->doc);
    mr_free(m->text);
    mr_free(m->used);
    mr_free(m->asked);
    mr_graph_free(m->canvas);
    mr_arena_free(m->asked_arena);
    mr_arena_free(m->arena);
    mr_free(m);
}

/* ---- facts ---- */

const mr_model_info *mr_model_facts(const mr_model *m)
{
    return &m->info;
}

const mr_family *mr_model_family(const mr_model *m)
{
    return m->family;
}

const mr_weights *mr_model_weights(const mr_model *m)
{
    return m->weights;
}

mr_jval mr_model_config(const mr_model *m)
{
    return mr_json_root(m->doc);
}

const char *mr_model_path(const mr_model *m)
{
    return m->path;
}

mr_err mr_model_gguf_meta(const mr_model *m, const mr_gguf_put *p, bool *done)
{
    mr_jval root = mr_json_root(m->doc), text = mr_jget(root, "text_config");
    *done = m->family->gguf_meta != NULL;
    return *done ? m->family->gguf_meta(m->cfg, mr_jtype(text) == MR_JOBJECT ? text : root, p)
                 : MR_OK;
}

const mr_rope_spec *mr_model_gguf_rope(const mr_model *m)
{
    return m->family->gguf_rope ? m->family->gguf_rope(m->cfg) : NULL;
}

int mr_model_asked(const mr_model *m)
{
    return m->n_asked;
}

const mr_asked *mr_model_asked_at(const mr_model *m, int i)
{
    return &m->asked[i];
}

/* ---- building ---- */

static mr_err run_build(mr_model *m, mr_val (*build)(mr_flow *f, const void *cfg), mr_graph **out)
{
    mr_source source = {.ctx = m, .find = mr_model_find, .same = mr_model_same};
    mr_flow *f;
    MR_TRY(mr_flow_new(&f, m->family->name, &source));
    mr_err e = mr_flow_finish(f, build(f, m->cfg), out);
    /* what the graph itself refuses does not name the file */
    size_t len = strlen(m->family->name);
    bool named = strncmp(mr_error(), m->family->name, len) != 0 || mr_error()[len] != ':';
    return e == MR_OK || named ? e : mr_fail_in(e, "%s", m->path);
}

mr_err mr_model_build(mr_model *m, mr_graph **out)
{
    *out = NULL;
    mr_arena_free(m->asked_arena);
    m->asked_arena = NULL;
    m->n_asked = 0;
    MR_TRY(mr_arena_new(&m->asked_arena, MR_MEM_COMPILE));
    mr_names_init(&m->asked_names, m->asked_arena);
    if (m->weights)
        memset(m->used, 0, (size_t)mr_weights_count(m->weights) * sizeof *m->used);
    mr_graph_free(m->canvas);
    m->canvas = NULL;
    MR_TRY(run_build(m, m->family->build, out));
    mr_err e = m->family->build_canvas ? run_build(m, m->family->build_canvas, &m->canvas) : MR_OK;
    if (e != MR_OK) {
        mr_graph_free(*out);
        *out = NULL;
    }
    return e;
}

mr_graph *mr_model_take_canvas(mr_model *m)
{
    mr_graph *g = m->canvas;
    m->canvas = NULL;
    return g;
}

/* ---- tensors left over ---- */

/* A number at *s that is at least `least`; moves *s past it. */
static bool skipped_layer(const char **s, int64_t least)
{
    int64_t n = 0;
    const char *p = *s;
    for (; isdigit((unsigned char)*p); p++)
        n = n < INT32_MAX ? n * 10 + (*p - '0') : n;
    bool any = p != *s;
    *s = p;
    return any && n >= least;
}

/* Only the last * is tried again: with patterns of one or two, that finds every match. */
static bool match_skip(const char *pattern, const char *name, int64_t layers)
{
    const char *star = NULL, *from = NULL;
    for (;;) {
        if (*pattern == '*') {
            star = ++pattern;
            from = name;
        } else if (!strncmp(pattern, "{L}", 3) && skipped_layer(&name, layers)) {
            pattern += 3;
        } else if (*pattern && *pattern == *name) {
            pattern++;
            name++;
        } else if (!*pattern && !*name) {
            return true;
        } else if (star && *from) {
            name = ++from;
            pattern = star;
        } else {
            return false;
        }
    }
}

static bool is_skipped(const mr_model *m, const char *name)
{
    for (const char *const *p = m->family->skip; *p; p++)
        if (match_skip(*p, name, m->info.layers))
            return true;
    return false;
}

/* What the reference writes for a part of no width, such as zero shared experts. */
static bool has_no_elements(const mr_winfo *t)
{
    for (int i = 0; i < t->rank; i++)
        if (t->dim[i] == 0)
            return true;
    return false;
}

mr_err mr_model_check_unused(const mr_model *m)
{
    const mr_winfo *first = NULL;
    int n = 0;
    for (int i = 0; m->weights && i < mr_weights_count(m->weights); i++) {
        const mr_winfo *t = mr_weights_at(m->weights, i);
        if (m->used[i] || is_skipped(m, t->name) || has_no_elements(t))
            continue;
        first = first ? first : t;
        n++;
    }
    if (!first)
        return MR_OK;
    const char *file = mr_weights_file(m->weights, first->data.file);
    if (n == 1)
        return mr_fail(MR_EFORMAT, "%s: tensor \"%.200s\" is not used by a %s model of this config",
                       file, first->name, m->family->name);
    return mr_fail(MR_EFORMAT,
                   "%s: tensor \"%.200s\" is not used by a %s model of this config, nor are %d "
                   "others",
                   file, first->name, m->family->name, n - 1);
}

mr_err mr_model_skipped(const mr_model *m, mr_err (*fn)(void *ctx, const mr_winfo *t), void *ctx)
{
    for (int i = 0; m->weights && i < mr_weights_count(m->weights); i++) {
        const mr_winfo *t = mr_weights_at(m->weights, i);
        if (!m->used[i] && is_skipped(m, t->name))
            MR_TRY(fn(ctx, t));
    }
    return MR_OK;
}

/* ---- rows for recipes ---- */

mr_err mr_model_lookup(void *ctx, const char *name, mr_stored *out)
{
    const mr_model *m = ctx;
    int at = m->weights ? mr_model_tensor(m, name) : -1;
    if (at < 0)
        return mr_fail(MR_EFORMAT, "%s: tensor \"%.200s\" is missing", m->base, name);
    const mr_winfo *t = mr_weights_at(m->weights, at);
    mr_fmt fmt = {
        .dtype = t->dtype, .bits = t->bits, .group = t->group, .scale_dtype = t->scale_dtype};
    *out = (mr_stored){.handle = t, .fmt = fmt, .rows = mr_weights_rows(t), .matrix = t->rank > 1};
    out->k = t->rank ? t->dim[t->rank - 1] : 1;
    return MR_OK;
}

mr_err mr_model_read(void *ctx, const mr_stored *t, int64_t row0, int64_t n, void *buf,
                     mr_rows *out)
{
    const mr_model *m = ctx;
    return mr_weights_read(m->weights, t->handle, row0, n, buf, out);
}
