/* mr_synth: a valid model directory of a config's shape with random weights, written as a stream.
 *
 * The family builds its graph from the config alone and so says which tensors it wants; each is
 * then written in canonical names.  q4 and q8 are MLX affine triplets: random integers with scales
 * that give the wanted spread, so nothing is quantised and nothing large is held.  Numbers are a
 * pure function of (seed, tensor, element). */
#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/rng.h"
#include "run/model_dir.h"
#include "run/synth.h"

typedef struct tensor {
    const char *name; /* one tensor of the file: ranges expanded */
    int rank;
    int64_t dim[MR_MAX_RANK];
    bool quantised;
} tensor;

typedef struct synth {
    const mr_synth_opts *o;
    const char *config_path;
    mr_model_dir dir;
    mr_model *model;
    mr_arena *arena;
    tensor *list;
    int n, cap, bits;
    uint64_t done, total;
} synth;

enum { CHUNK = 1 << 16 };

/* ---- which tensors ---- */

static mr_err add_tensor(synth *s, const char *name, int rank, const int64_t *dim)
{
    if (s->n == s->cap) {
        int cap = s->cap ? 2 * s->cap : 256;
        tensor *list = mr_realloc(MR_MEM_OTHER, s->list, (size_t)cap * sizeof *list);
        if (!list)
            return MR_ENOMEM;
        s->list = list;
        s->cap = cap;
    }
    tensor *t = &s->list[s->n++];
    *t = (tensor){.name = mr_arena_strdup(s->arena, name), .rank = rank};
    if (!t->name)
        return MR_ENOMEM;
    memcpy(t->dim, dim, (size_t)rank * sizeof *dim);
    return MR_OK;
}

/* "a.{0..7}.b" [8,n,k] is eight tensors [n,k]. */
static mr_err add_asked(synth *s, const mr_asked *a)
{
    const char *open = strchr(a->name, '{');
    if (!open)
        return add_tensor(s, a->name, a->rank, a->dim);
    int from, to, used;
    if (sscanf(open, "{%d..%d}%n", &from, &to, &used) != 2)
        return mr_fail(MR_EFORMAT, "tensor name \"%s\" has a malformed range", a->name);
    for (int i = from; i <= to; i++) {
        const char *name =
            mr_arena_printf(s->arena, "%.*s%d%s", (int)(open - a->name), a->name, i, open + used);
        if (!name)
            return MR_ENOMEM;
        MR_TRY(add_tensor(s, name, a->rank - 1, a->dim + 1));
    }
    return MR_OK;
}

bool mr_synth_seen_before(const mr_model *m, int i)
{
    for (int k = 0; k < i; k++)
        if (strcmp(mr_model_asked_at(m, k)->name, mr_model_asked_at(m, i)->name) == 0)
            return true;
    return false;
}

/* MLX quantises linear layers and embeddings; a router stays as it is. */
static bool is_matrix(const tensor *t)
{
    return t->rank == 2 && mr_ends_with(t->name, ".weight") &&
           !mr_ends_with(t->name, "mlp.gate.weight");
}

static void mark(synth *s, tensor *t)
{
    t->quantised = s->bits && is_matrix(t) && t->dim[1] % s->o->group == 0;
    if (!s->bits || !is_matrix(t) || t->quantised || !s->o->note)
        return;
    mr_buf line = {0};
    mr_buf_printf(&line, "%s [%lld, %lld] stays unquantised: %lld is no multiple of %d", t->name,
                  (long long)t->dim[0], (long long)t->dim[1], (long long)t->dim[1], s->o->group);
    if (!mr_buf_check(&line))
        s->o->note(s->o->ctx, line.data);
    mr_buf_free(&line);
}

static mr_err list_tensors(synth *s)
{
    for (int i = 0; i < mr_model_asked(s->model); i++)
        if (!mr_synth_seen_before(s->model, i))
            MR_TRY(add_asked(s, mr_model_asked_at(s->model, i)));
    for (int i = 0; i < s->n; i++)
        mark(s, &s->list[i]);
    return MR_OK;
}

/* ---- declaring ---- */

static const char *stem(synth *s, const tensor *t, const char *end)
{
    return mr_arena_printf(s->arena, "%.*s%s", (int)(strlen(t->name) - strlen(".weight")), t->name,
                           end);
}

static mr_dtype plain_type(const synth *s)
{
    return strcmp(s->o->quant, "f32") == 0 ? MR_F32 : MR_BF16;
}

static mr_err declare_one(synth *s, mr_st_writer *w, const char *name, mr_dtype t, int rank,
                          const int64_t *dim)
{
    uint64_t bytes = (uint64_t)mr_dtype_block_bytes(t);
    for (int i = 0; i < rank; i++)
        bytes *= (uint64_t)dim[i];
    s->total += bytes;
    return name ? mr_st_writer_declare(w, name, t, rank, dim) : MR_ENOMEM;
}

static mr_err declare(synth *s, mr_st_writer *w, const tensor *t)
{
    if (!t->quantised)
        return declare_one(s, w, t->name, plain_type(s), t->rank, t->dim);
    int64_t q[2] = {t->dim[0], t->dim[1] * s->bits / 32},
            g[2] = {t->dim[0], t->dim[1] / s->o->group};
    MR_TRY(declare_one(s, w, t->name, MR_U32, 2, q));
    MR_TRY(declare_one(s, w, stem(s, t, ".scales"), MR_BF16, 2, g));
    return declare_one(s, w, stem(s, t, ".biases"), MR_BF16, 2, g);
}

/* ---- writing ---- */

static mr_err put(synth *s, mr_st_writer *w, const void *bytes, size_t n)
{
    MR_TRY(mr_st_writer_data(w, bytes, n));
    s->done += n;
    if (s->o->progress && s->o->progress(s->o->ctx, s->done, s->total))
        return mr_fail(MR_ECANCEL, "stopped by the caller");
    return MR_OK;
}

/* Roughly normal: the sum of four uniforms, from one Philox call. */
static float gauss(const uint32_t r[4])
{
    double sum = 0;
    for (int i = 0; i < 4; i++)
        sum += (double)r[i] * 0x1p-32;
    return (float)((sum - 2) * 1.7320508075688772);
}

/* Spread that keeps activations near 1: norms around 1, biases small, matrices by fan-in. */
float mr_synth_number(uint64_t seed, int index, int64_t at, const char *name, int rank, int64_t k)
{
    uint32_t r[4];
    mr_philox(seed, (uint64_t)at, (uint64_t)index * 4, r);
    float g = gauss(r);
    if (rank >= 2)
        return g / sqrtf((float)k);
    return mr_ends_with(name, "norm.weight") ? 1 + 0.1f * g : 0.1f * g;
}

static mr_err write_plain(synth *s, mr_st_writer *w, const tensor *t, int index, uint8_t *buf)
{
    bool f32 = plain_type(s) == MR_F32;
    int64_t n = 1;
    for (int i = 0; i < t->rank; i++)
        n *= t->dim[i];
    for (int64_t at = 0; at < n;) {
        size_t used = 0;
        for (; at < n && used < CHUNK; at++) {
            float v = mr_synth_number(s->o->seed, index, at, t->name, t->rank, t->dim[t->rank - 1]);
            uint16_t h = mr_f32_to_bf16(v);
            memcpy(buf + used, f32 ? (void *)&v : (void *)&h, f32 ? 4 : 2);
            used += f32 ? 4 : 2;
        }
        MR_TRY(put(s, w, buf, used));
    }
    return MR_OK;
}

void mr_synth_bytes(uint64_t seed, int index, uint64_t at, uint64_t n, uint8_t *out)
{
    for (uint64_t i = 0; i < n; i += 16) {
        uint32_t r[4];
        mr_philox(seed, (at + i) / 16, (uint64_t)index * 4 + 1, r);
        memcpy(out + i, r, 16);
    }
}

static mr_err write_random_bytes(synth *s, mr_st_writer *w, uint64_t n, int index, uint8_t *buf)
{
    for (uint64_t at = 0; at < n;) {
        uint64_t used = n - at < CHUNK ? n - at : CHUNK;
        mr_synth_bytes(s->o->seed, index, at, used, buf);
        MR_TRY(put(s, w, buf, used));
        at += used;
    }
    return MR_OK;
}

/* Scales vary by a quarter; the bias centres the integers: w = scale * (q - middle). */
static mr_err write_scales(synth *s, mr_st_writer *w, const tensor *t, int index, bool biases,
                           uint8_t *buf)
{
    int64_t n = t->dim[0] * (t->dim[1] / s->o->group);
    float levels = (float)((1 << s->bits) - 1),
          unit = sqrtf(12.0f) / levels / sqrtf((float)t->dim[1]);
    for (int64_t at = 0; at < n;) {
        size_t used = 0;
        for (; at < n && used < CHUNK; at++, used += 2) {
            uint32_t r[4];
            mr_philox(s->o->seed, (uint64_t)at, (uint64_t)index * 4 + 2, r);
            float scale = unit * (0.75f + 0.5f * (float)r[0] * 0x1p-32f);
            uint16_t h = mr_f32_to_bf16(biases ? -scale * levels * 0.5f : scale);
            memcpy(buf + used, &h, 2);
        }
        MR_TRY(put(s, w, buf, used));
    }
    return MR_OK;
}

static mr_err write_tensor(synth *s, mr_st_writer *w, int index, uint8_t *buf)
{
    const tensor *t = &s->list[index];
    if (!t->quantised)
        return write_plain(s, w, t, index, buf);
    MR_TRY(write_random_bytes(s, w, (uint64_t)(t->dim[0] * t->dim[1]) * (uint64_t)s->bits / 8,
                              index, buf));
    MR_TRY(write_scales(s, w, t, index, false, buf));
    return write_scales(s, w, t, index, true, buf);
}

static mr_err write_weights(synth *s)
{
    mr_buf path = {0};
    mr_st_writer *w = NULL;
    mr_err err = mr_dir_file(&s->dir, "model.safetensors", &path);
    uint8_t *buf = err ? NULL : mr_alloc(MR_MEM_OTHER, CHUNK + 16);
    if (!err && !buf)
        err = MR_ENOMEM;
    if (!err)
        err = mr_st_writer_open(&w, path.data, s->bits ? "mlx" : "pt");
    for (int i = 0; !err && i < s->n; i++)
        err = declare(s, w, &s->list[i]);
    if (!err)
        err = mr_st_writer_begin(w);
    for (int i = 0; !err && i < s->n; i++)
        err = write_tensor(s, w, i, buf);
    if (!err)
        err = mr_st_writer_commit(w);
    else if (w)
        mr_st_writer_abort(w);
    mr_free(buf);
    mr_buf_free(&path);
    return err;
}

/* ---- the small files ---- */

/* The given config, with the quantisation it now has. */
static mr_err write_config(synth *s)
{
    char *text;
    size_t len;
    mr_buf out = {0};
    MR_TRY(mr_file_read_all(s->config_path, 1 << 24, MR_MEM_COMPILE, &text, &len));
    while (len && isspace((unsigned char)text[len - 1]))
        len--;
    len -= len > 0; /* the closing brace */
    while (len && isspace((unsigned char)text[len - 1]))
        len--;
    mr_buf_add(&out, text, len);
    if (s->bits)
        mr_buf_printf(
            &out, ",\n  \"quantization\": {\"group_size\": %d, \"bits\": %d, \"mode\": \"affine\"}",
            s->o->group, s->bits);
    mr_buf_puts(&out, "\n}\n");
    mr_err err = mr_buf_check(&out);
    if (!err)
        err = mr_dir_write(&s->dir, "config.json", out.data, out.len);
    mr_buf_free(&out);
    mr_free(text);
    return err;
}

void mr_synth_token(int64_t i, int *moved, char out[24])
{
    if (i < 256) {
        bool self = (i >= 33 && i <= 126) || (i >= 161 && i <= 172) || (i >= 174);
        out[mr_utf8_encode(self ? (uint32_t)i : 256u + (uint32_t)(*moved)++, out)] = 0;
    } else {
        snprintf(out, 24, "<%lld>", (long long)i);
    }
}

/* Byte-level BPE without merges: the 256 bytes in GPT-2's alphabet, then names for the rest. */
static mr_err write_tokenizer(synth *s)
{
    int64_t vocab = mr_model_facts(s->model)->vocab;
    mr_buf b = {0};
    mr_buf_puts(
        &b,
        "{\"version\": \"1.0\", \"truncation\": null, \"padding\": null, \"added_tokens\": [], "
        "\"normalizer\": null, \"pre_tokenizer\": {\"type\": \"ByteLevel\", \"add_prefix_space\": "
        "false, "
        "\"trim_offsets\": true, \"use_regex\": false}, \"post_processor\": null, "
        "\"decoder\": {\"type\": \"ByteLevel\", \"add_prefix_space\": true, \"trim_offsets\": "
        "true, "
        "\"use_regex\": true}, \"model\": {\"type\": \"BPE\", \"dropout\": null, \"unk_token\": "
        "null, "
        "\"continuing_subword_prefix\": null, \"end_of_word_suffix\": null, \"fuse_unk\": false, "
        "\"byte_fallback\": false, \"vocab\": {");
    int moved = 0;
    for (int64_t i = 0; i < vocab; i++) {
        char z[24];
        mr_synth_token(i, &moved, z);
        mr_buf_puts(&b, i ? ", " : "");
        mr_buf_json(&b, z, strlen(z));
        mr_buf_printf(&b, ": %lld", (long long)i);
    }
    mr_buf_puts(&b, "}, \"merges\": []}}\n");
    mr_err err = mr_buf_check(&b);
    if (!err)
        err = mr_dir_write(&s->dir, "tokenizer.json", b.data, b.len);
    mr_buf_free(&b);
    return err;
}

static mr_err check_opts(synth *s)
{
    const char *q = s->o->quant;
    s->bits = strcmp(q, "q4") == 0 ? 4 : strcmp(q, "q8") == 0 ? 8 : 0;
    if (!s->bits && strcmp(q, "f32") != 0 && strcmp(q, "bf16") != 0)
        return mr_fail(MR_EUSAGE, "quant \"%s\" is unknown (f32, bf16, q8, q4)", q);
    if (s->o->group != 32 && s->o->group != 64 && s->o->group != 128)
        return mr_fail(MR_EUSAGE, "group: %d is none of 32, 64, 128", s->o->group);
    return MR_OK;
}

/* All three files or, after an error, none of them. */
static mr_err write_all(synth *s, const char *outdir)
{
    MR_TRY(mr_dir_open(&s->dir, outdir, s->config_path, s->o->force));
    mr_err err = write_weights(s);
    if (!err)
        err = write_tokenizer(s);
    if (!err)
        err = write_config(s);
    if (err)
        mr_dir_remove(&s->dir);
    return err;
}

static mr_err run(synth *s, const char *outdir)
{
    mr_model_opts mo = {0};
    mr_graph *g = NULL;
    MR_TRY(check_opts(s));
    MR_TRY(mr_arena_new(&s->arena, MR_MEM_OTHER));
    MR_TRY(mr_model_open(&s->model, s->config_path, &mo));
    if (mr_model_weights(s->model))
        return mr_fail(MR_EUSAGE, "%s: a config.json is needed, not a model", s->config_path);
    mr_jval quantised = mr_jget(mr_model_config(s->model), "quantization");
    if (mr_jhas(quantised))
        return mr_jfail(quantised, "synth decides the quantisation; leave this key out");
    MR_TRY(mr_model_build(s->model, &g));
    mr_graph_free(g);
    MR_TRY(list_tensors(s));
    return write_all(s, outdir);
}

mr_status mr_synth(const char *config, const char *outdir, const mr_synth_opts *o)
{
    mr_synth_opts full = *o;
    full.quant = o->quant ? o->quant : "bf16";
    full.group = o->group ? o->group : 64;
    full.format = o->format ? o->format : "safetensors";
    if (strcmp(full.format, "gguf") == 0)
        return (mr_status)mr_synth_gguf(config, outdir, &full);
    if (strcmp(full.format, "safetensors") != 0)
        return (mr_status)mr_fail(MR_EUSAGE, "format \"%s\" is unknown (safetensors, gguf)",
                                  full.format);
    synth s = {.o = &full, .config_path = config};
    mr_err err = run(&s, outdir);
    mr_free(s.list);
    mr_model_close(s.model);
    mr_arena_free(s.arena);
    return (mr_status)err;
}
