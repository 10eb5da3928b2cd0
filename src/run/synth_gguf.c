/* mr_synth's other form: one GGUF file of a config's shape, for the architectures that other
 * programs read too, so that both run the very same bits.
 *
 * Tensor names come from the family's own table; the metadata is the config's keys under GGUF's
 * names.  Matrices have the asked type; what GGUF files keep in f32 (vectors, routers) is f32.
 * Quantised blocks are random codes under scales that give the wanted spread. */
#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "run/gguf_meta.h"
#include "run/model_dir.h"
#include "run/synth.h"
#include "tensor/block_quantise.h"

enum { CHUNK = 1 << 16, NAME = 512 };

typedef struct tensor {
    const char *name;
    mr_dtype type;
    int rank;
    int64_t dim[MR_MAX_RANK];
    uint64_t bytes;
} tensor;

typedef struct synth {
    const mr_synth_opts *o;
    mr_model *model;
    mr_jval config;
    const char *arch;
    mr_dtype type;
    mr_arena *arena;
    mr_gguf_writer *w;
    tensor *list;
    int n;
    uint64_t done, total;
} synth;

/* ---- metadata ---- */

static void put_vocabulary(const synth *s)
{
    uint64_t vocab = (uint64_t)mr_model_facts(s->model)->vocab;
    int moved = 0;
    char z[24];
    mr_gguf_writer_str(s->w, "tokenizer.ggml.model", "gpt2");
    mr_gguf_writer_str(s->w, "tokenizer.ggml.pre", "gpt-2");
    mr_gguf_writer_strings(s->w, "tokenizer.ggml.tokens", vocab);
    for (uint64_t i = 0; i < vocab; i++) {
        mr_synth_token((int64_t)i, &moved, z);
        mr_gguf_writer_add_str(s->w, z, strlen(z));
    }
    mr_gguf_writer_ints(s->w, "tokenizer.ggml.token_type", vocab);
    for (uint64_t i = 0; i < vocab; i++)
        mr_gguf_writer_add_int(s->w, 1); /* normal */
    mr_gguf_writer_strings(s->w, "tokenizer.ggml.merges", 0);
    mr_gguf_writer_u32(s->w, "tokenizer.ggml.bos_token_id", 0);
    mr_gguf_writer_u32(s->w, "tokenizer.ggml.eos_token_id", 1);
    mr_gguf_writer_bool(s->w, "tokenizer.ggml.add_bos_token", false);
}

static mr_err put_metadata(const synth *s)
{
    mr_gguf_writer_str(s->w, "general.name", "synth");
    MR_TRY(mr_gguf_meta(s->w, s->model, s->arch));
    put_vocabulary(s);
    return MR_OK;
}

/* ---- tensors ---- */

static mr_err add(synth *s, const char *name, mr_dtype type, int rank, const int64_t *dim)
{
    tensor *t = &s->list[s->n++];
    *t = (tensor){.name = mr_arena_strdup(s->arena, name), .type = type, .rank = rank};
    if (!t->name)
        return MR_ENOMEM;
    memcpy(t->dim, dim, (size_t)rank * sizeof *dim);
    uint64_t blocks = 1;
    for (int i = 0; i < rank; i++)
        blocks *= (uint64_t)dim[i];
    t->bytes = blocks / (uint64_t)mr_dtype_block(type) * (uint64_t)mr_dtype_block_bytes(type);
    s->total += t->bytes;
    return mr_gguf_writer_declare(s->w, t->name, type, rank, dim);
}

/* The latent's matrix goes in two: keys turned, so that queries meet it, and values. */
static mr_err add_latent(synth *s, const char *name, const int64_t *dim)
{
    int64_t heads = mr_model_number(s->model, 'h'), nope = mr_model_number(s->model, 'n'),
            v = mr_model_number(s->model, 'v');
    int block;
    if (sscanf(name, "blk.%d.", &block) != 1)
        return mr_fail(MR_EFORMAT, "\"%s\" is in no layer", name);
    const char *k_b = mr_arena_printf(s->arena, "blk.%d.attn_k_b.weight", block),
               *v_b = mr_arena_printf(s->arena, "blk.%d.attn_v_b.weight", block);
    if (!k_b || !v_b)
        return MR_ENOMEM;
    MR_TRY(add(s, k_b, s->type, 3, (int64_t[]){heads, dim[1], nope}));
    return add(s, v_b, s->type, 3, (int64_t[]){heads, v, dim[1]});
}

/* Forms that are as random as what they are made of. */
static bool keeps_shape(const char *modifiers)
{
    return strcmp(modifiers, MR_ONE_PLUS_W) == 0 || strncmp(modifiers, ":un", 3) == 0;
}

static mr_err add_asked(synth *s, const mr_asked *a)
{
    char name[NAME];
    const mr_name_row *row = mr_model_gguf_name(s->model, a->name, name);
    if (!row)
        return mr_fail(MR_EUNSUPPORTED, "\"%s\" has no name in GGUF files", a->name);
    if (row->modifiers && !keeps_shape(row->modifiers))
        return mr_fail(MR_EUNSUPPORTED,
                       "\"%s\" has another form in GGUF files: synth makes safetensors of it, "
                       "which convert takes",
                       a->name);
    if (mr_ends_with(name, "attn_kv_b.weight"))
        return add_latent(s, name, a->dim);
    bool plain = a->rank == 1 || mr_ends_with(name, "ffn_gate_inp.weight");
    return add(s, name, plain ? MR_F32 : s->type, a->rank, a->dim);
}

static mr_err declare(synth *s)
{
    int n = mr_model_asked(s->model);
    s->list = mr_arena_alloc(s->arena, 2 * (size_t)n * sizeof *s->list);
    if (!s->list)
        return MR_ENOMEM;
    for (int i = 0; i < n; i++)
        if (!mr_synth_seen_before(s->model, i))
            MR_TRY(add_asked(s, mr_model_asked_at(s->model, i)));
    return MR_OK;
}

/* ---- writing ---- */

static mr_err put(synth *s, const void *bytes, size_t n)
{
    MR_TRY(mr_gguf_writer_data(s->w, bytes, n));
    s->done += n;
    if (s->o->progress && s->o->progress(s->o->ctx, s->done, s->total))
        return mr_fail(MR_ECANCEL, "stopped by the caller");
    return MR_OK;
}

static mr_err write_floats(synth *s, int index, uint8_t *buf)
{
    const tensor *t = &s->list[index];
    size_t size = (size_t)mr_dtype_block_bytes(t->type);
    int64_t n = (int64_t)(t->bytes / size);
    for (int64_t at = 0; at < n;) {
        size_t used = 0;
        for (; at < n && used < CHUNK; at++, used += size) {
            float v = mr_synth_number(s->o->seed, index, at, t->name, t->rank, t->dim[t->rank - 1]);
            uint16_t h = t->type == MR_F16 ? mr_f32_to_f16(v) : mr_f32_to_bf16(v);
            memcpy(buf + used, t->type == MR_F32 ? (void *)&v : (void *)&h, size);
        }
        MR_TRY(put(s, buf, used));
    }
    return MR_OK;
}

/* Where a block has its scale d and its least value m, both f16, and what they must be for random
 * codes and sub-scales to have mean 0 and deviation 1. */
typedef struct spread {
    mr_dtype type;
    int d_at, m_at; /* m_at -1: it has none */
    float d, m;
} spread;

static const spread spreads[] = {
    {MR_Q4_0, 0, -1, 1 / 4.6f, 0},
    {MR_Q4_1, 0, 2, 1 / 4.6f, -7.5f / 4.6f},
    {MR_Q5_0, 0, -1, 1 / 9.2f, 0},
    {MR_Q5_1, 0, 2, 1 / 9.2f, -15.5f / 9.2f},
    {MR_Q8_0, 0, -1, 1 / 73.9f, 0},
    {MR_Q2_K, 80, 82, 1 / 13.9f, 1.5f / 13.9f},
    {MR_Q3_K, 108, -1, 1 / 43.3f, 0},
    {MR_Q4_K, 0, 2, 1 / 258.0f, 7.5f / 258.0f},
    {MR_Q5_K, 0, 2, 1 / 527.0f, 15.5f / 527.0f},
    {MR_Q6_K, 208, -1, 1 / 1366.0f, 0},
};

static const spread *spread_of(mr_dtype t)
{
    size_t i = 0;
    while (spreads[i].type != t)
        assert(++i < sizeof spreads / sizeof *spreads);
    return &spreads[i];
}

static void put_f16(uint8_t *at, float v)
{
    uint16_t h = mr_f32_to_f16(v);
    memcpy(at, &h, 2);
}

/* A byte of random codes varies the scale by a quarter. */
static void set_scales(const tensor *t, const spread *s, uint8_t *block)
{
    float scale = 0.75f + 0.5f / 255 * (float)block[4];
    scale /= sqrtf((float)t->dim[t->rank - 1]);
    put_f16(block + s->d_at, s->d * scale);
    if (s->m_at >= 0)
        put_f16(block + s->m_at, s->m * scale);
}

static mr_err write_blocks(synth *s, int index, uint8_t *buf)
{
    const tensor *t = &s->list[index];
    size_t size = (size_t)mr_dtype_block_bytes(t->type);
    uint64_t whole = CHUNK / (16 * size) * (16 * size);
    const spread *form = spread_of(t->type);
    for (uint64_t at = 0; at < t->bytes;) {
        uint64_t n = t->bytes - at < whole ? t->bytes - at : whole;
        mr_synth_bytes(s->o->seed, index, at, n, buf);
        for (uint64_t i = 0; i < n; i += size)
            set_scales(t, form, buf + i);
        MR_TRY(put(s, buf, (size_t)n));
        at += n;
    }
    return MR_OK;
}

static mr_err write_file(synth *s, const char *path)
{
    uint8_t *buf = mr_alloc(MR_MEM_OTHER, CHUNK + 16);
    mr_err err = buf ? mr_gguf_writer_open(&s->w, path) : MR_ENOMEM;
    if (!err)
        err = put_metadata(s);
    if (!err)
        err = declare(s);
    if (!err)
        err = mr_gguf_writer_begin(s->w);
    for (int i = 0; !err && i < s->n; i++)
        err =
            mr_dtype_block(s->list[i].type) > 1 ? write_blocks(s, i, buf) : write_floats(s, i, buf);
    if (!err)
        err = mr_gguf_writer_commit(s->w);
    else
        mr_gguf_writer_abort(s->w);
    mr_free(buf);
    return err;
}

/* ---- the whole ---- */

/* What needs a tensor beside the config's own is left to convert. */
static mr_err check_family(synth *s)
{
    float *factors;
    int64_t n;
    MR_TRY(mr_gguf_arch(s->model, &s->arch));
    MR_TRY(mr_gguf_rope_factors(s->model, &factors, &n));
    mr_free(factors);
    if (n)
        return mr_fail(MR_EUNSUPPORTED,
                       "%s: GGUF files have rope_freqs.weight: synth makes safetensors of it, "
                       "which convert takes",
                       mr_model_path(s->model));
    if (mr_jhas(mr_jget(s->config, "text_config")))
        return mr_jfail(mr_jget(s->config, "text_config"), "give the text model's config itself");
    return MR_OK;
}

static mr_err run(synth *s, const char *config, const char *path)
{
    mr_graph *g = NULL;
    MR_TRY(mr_block_parse(s->o->quant, &s->type));
    MR_TRY(mr_arena_new(&s->arena, MR_MEM_OTHER));
    MR_TRY(mr_model_open(&s->model, config, &(mr_model_opts){0}));
    if (mr_model_weights(s->model))
        return mr_fail(MR_EUSAGE, "%s: a config.json is needed, not a model", config);
    s->config = mr_model_config(s->model);
    MR_TRY(check_family(s));
    MR_TRY(mr_model_build(s->model, &g));
    mr_graph_free(g);
    MR_TRY(mr_file_unused(path, s->o->force));
    return write_file(s, path);
}

mr_err mr_synth_gguf(const char *config, const char *path, const mr_synth_opts *o)
{
    synth s = {.o = o};
    mr_err err = run(&s, config, path);
    mr_model_close(s.model);
    mr_arena_free(s.arena);
    return err;
}
