/* GGUF metadata as the text of a config.json.
 *
 * A family gives a table of keys; here are what all architectures share and the writing.  Keys that
 * the file lacks are left out, so that the family's one config reader says what is missing.
 * Numbers of the file are 32-bit floats: each is taken for the shortest decimal that gives the same
 * float, which is what the original config.json said. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/family.h"

static void keep(mr_gguf_config *c, mr_err e)
{
    if (c->err == MR_OK)
        c->err = e;
}

static void put_key(mr_gguf_config *c, const char *key)
{
    mr_buf_puts(c->json, c->first ? "" : ", ");
    mr_buf_json(c->json, key, strlen(key));
    mr_buf_puts(c->json, ": ");
    c->first = false;
}

void mr_gguf_config_raw(mr_gguf_config *c, const char *key, const char *value)
{
    put_key(c, key);
    mr_buf_puts(c->json, value);
}

void mr_gguf_config_int(mr_gguf_config *c, const char *key, int64_t v)
{
    put_key(c, key);
    mr_buf_printf(c->json, "%lld", (long long)v);
}

/* The shortest decimal that reads back as x, or as the float x is if `single`. */
static void shortest(double x, bool single, char text[40])
{
    for (int digits = 1; digits <= 17; digits++) {
        snprintf(text, 40, "%.*g", digits, x);
        double back = strtod(text, NULL);
        if (single ? (float)back == (float)x : back == x)
            return;
    }
}

void mr_gguf_config_num(mr_gguf_config *c, const char *key, double v)
{
    char text[40];
    if (!isfinite(v)) {
        keep(c, mr_fail(MR_EFORMAT, "%s: \"%s\" is not a finite number", mr_gguf_path(c->g), key));
        return;
    }
    shortest(v, false, text);
    for (char *p = text; *p; p++) /* a locale may have another decimal point */
        if (!strchr("0123456789+-e", *p))
            *p = '.';
    mr_gguf_config_raw(c, key, text);
}

void mr_gguf_config_open(mr_gguf_config *c, const char *key)
{
    mr_gguf_config_raw(c, key, "{");
    c->first = true;
}

void mr_gguf_config_close(mr_gguf_config *c)
{
    mr_buf_putc(c->json, '}');
    c->first = false;
}

mr_err mr_gguf_config_end(mr_gguf_config *c)
{
    mr_gguf_config_close(c);
    MR_TRY(c->err);
    return mr_buf_check(c->json);
}

/* ---- reading ---- */

static void full_key(const mr_gguf_config *c, const char *key, char out[160])
{
    snprintf(out, 160, "%s.%s", c->arch, key);
}

static mr_err equal_ints(mr_gguf_config *c, const char *key, int64_t *out)
{
    mr_gguf_array a;
    MR_TRY(mr_gguf_arr(c->g, key, &a));
    if (!a.count)
        return mr_fail(MR_EFORMAT, "%s: \"%s\" is an empty list", mr_gguf_path(c->g), key);
    MR_TRY(mr_gguf_arr_int(&a, out));
    for (uint64_t i = 1; i < a.count; i++) {
        int64_t v;
        MR_TRY(mr_gguf_arr_int(&a, &v));
        if (v != *out)
            return mr_fail(MR_EUNSUPPORTED, "%s: \"%s\" differs from layer to layer",
                           mr_gguf_path(c->g), key);
    }
    return MR_OK;
}

bool mr_gguf_config_get_int(mr_gguf_config *c, const char *key, int64_t *out)
{
    char full[160];
    full_key(c, key, full);
    mr_gguf_type t = mr_gguf_kind(c->g, full);
    if (t == MR_GGUF_ABSENT)
        return false;
    mr_err e = t == MR_GGUF_ARRAY ? equal_ints(c, full, out) : mr_gguf_int(c->g, full, out);
    keep(c, e);
    return e == MR_OK;
}

bool mr_gguf_config_get_num(mr_gguf_config *c, const char *key, double *out)
{
    char full[160];
    full_key(c, key, full);
    if (mr_gguf_kind(c->g, full) == MR_GGUF_ABSENT)
        return false;
    mr_err e = mr_gguf_num(c->g, full, out);
    keep(c, e);
    if (e == MR_OK && isfinite(*out) && (double)(float)*out == *out) {
        char text[40];
        shortest(*out, true, text);
        *out = strtod(text, NULL);
    }
    return e == MR_OK;
}

void mr_gguf_config_refuse(mr_gguf_config *c, const char *key, const char *why)
{
    if (c->err == MR_OK)
        keep(c,
             mr_fail(MR_EUNSUPPORTED, "%s: \"%s.%s\": %s", mr_gguf_path(c->g), c->arch, key, why));
}

void mr_gguf_config_rope_type(mr_gguf_config *c, char type[32])
{
    char full[160];
    mr_str s;
    snprintf(type, 32, "none");
    full_key(c, "rope.scaling.type", full);
    if (mr_gguf_kind(c->g, full) == MR_GGUF_ABSENT)
        return;
    mr_err e = mr_gguf_str(c->g, full, &s);
    keep(c, e);
    if (e == MR_OK)
        snprintf(type, 32, "%.*s", s.len > 31 ? 31 : (int)s.len, s.data);
}

void mr_gguf_config_query_scalar(mr_gguf_config *c, int64_t layers_of_other)
{
    int64_t layers = 0, hidden = 0, heads = 0, key = 0;
    mr_gguf_config_get_int(c, "block_count", &layers);
    bool known = mr_gguf_config_get_int(c, "embedding_length", &hidden) &&
                 mr_gguf_config_get_int(c, "attention.head_count", &heads) &&
                 mr_gguf_config_get_int(c, "attention.key_length", &key);
    if (known && heads > 0)
        mr_gguf_config_int(c, "query_pre_attn_scalar",
                           layers == layers_of_other ? hidden / heads : key);
}

const mr_gguf_row mr_gguf_rope_scaling[] = {
    {"factor", "rope.scaling.factor", 'n'},
    {"original_max_position_embeddings", "rope.scaling.original_context_length", 'i'},
    {"beta_fast", "rope.scaling.yarn_beta_fast", 'n'},
    {"beta_slow", "rope.scaling.yarn_beta_slow", 'n'},
    {0}};

void mr_gguf_config_rope_scaling(mr_gguf_config *c)
{
    char type[32];
    double v;
    mr_gguf_config_rope_type(c, type);
    if (!strcmp(type, "none"))
        return;
    if (strcmp(type, "linear") != 0 && strcmp(type, "yarn") != 0) {
        mr_gguf_config_refuse(c, "rope.scaling.type", "only none, linear and yarn are supported");
        return;
    }
    if (mr_gguf_config_get_num(c, "rope.scaling.attn_factor", &v) && v != 1)
        mr_gguf_config_refuse(c, "rope.scaling.attn_factor", "only 1 is supported");
    mr_gguf_config_open(c, "rope_scaling");
    mr_gguf_config_raw(c, "rope_type", !strcmp(type, "yarn") ? "\"yarn\"" : "\"linear\"");
    mr_gguf_config_rows(c, mr_gguf_rope_scaling);
    mr_gguf_config_close(c);
}

void mr_gguf_config_one_head_dim(mr_gguf_config *c)
{
    int64_t key, value;
    if (mr_gguf_config_get_int(c, "attention.key_length", &key) &&
        mr_gguf_config_get_int(c, "attention.value_length", &value) && value != key)
        mr_gguf_config_refuse(c, "attention.value_length", "differs from key_length");
}

static mr_err read_freqs(const mr_weights *w, const mr_winfo *t, float *out)
{
    mr_rows rows;
    if (t->rank != 1 || t->dtype != MR_F32 || t->dim[0] > MR_CFG_HEAD_DIM)
        return mr_fail(MR_EUNSUPPORTED, "%s: tensor \"rope_freqs.weight\" is not f32 of a head",
                       mr_weights_file(w, t->data.file));
    float *raw = mr_alloc(MR_MEM_COMPILE, (size_t)t->dim[0] * sizeof *raw);
    mr_err e = raw ? mr_weights_read(w, t, 0, 1, raw, &rows) : MR_ENOMEM;
    if (e == MR_OK)
        mr_dequant_row(&rows, 0, out);
    mr_free(raw);
    return e;
}

int64_t mr_gguf_config_rope_freqs(mr_gguf_config *c, float *out)
{
    const mr_winfo *t = mr_weights_find(c->w, "rope_freqs.weight");
    if (t)
        keep(c, read_freqs(c->w, t, out));
    return t && c->err == MR_OK ? t->dim[0] : 0;
}

/* ---- facts of each layer ---- */

static mr_err open_list(const mr_gguf_config *c, const char *key, int64_t n, mr_gguf_array *a)
{
    MR_TRY(mr_gguf_arr(c->g, key, a));
    return a->count == (uint64_t)n
               ? MR_OK
               : mr_fail(MR_EFORMAT, "%s: \"%s\" has %llu entries for %lld layers",
                         mr_gguf_path(c->g), key, (unsigned long long)a->count, (long long)n);
}

bool mr_gguf_config_get_ints(mr_gguf_config *c, const char *key, int64_t n, int64_t *out)
{
    char full[160];
    mr_gguf_array a;
    full_key(c, key, full);
    if (mr_gguf_kind(c->g, full) != MR_GGUF_ARRAY) {
        bool there = mr_gguf_config_get_int(c, key, out);
        for (int64_t i = 1; there && i < n; i++)
            out[i] = out[0];
        return there;
    }
    mr_err e = open_list(c, full, n, &a);
    for (int64_t i = 0; e == MR_OK && i < n; i++)
        e = mr_gguf_arr_int(&a, &out[i]);
    keep(c, e);
    return e == MR_OK;
}

int64_t mr_gguf_config_layer_types(mr_gguf_config *c, const char *key, const char *other,
                                   bool *full)
{
    int64_t list[MR_CFG_LAYERS], blocks = 0, extra = 0;
    char name[160];
    full_key(c, key, name);
    if (c->err != MR_OK || mr_gguf_kind(c->g, name) != MR_GGUF_ARRAY)
        return 0;
    mr_gguf_config_get_int(c, "block_count", &blocks);
    mr_gguf_config_get_int(c, "nextn_predict_layers", &extra); /* last in the list */
    if (blocks < 1 || blocks > MR_CFG_LAYERS)
        mr_gguf_config_refuse(c, "block_count", "is absent or out of range");
    if (c->err != MR_OK || !mr_gguf_config_get_ints(c, key, blocks, list))
        return 0;
    mr_gguf_config_raw(c, "layer_types", "[");
    for (int64_t i = 0; i < blocks - extra; i++) {
        mr_buf_printf(c->json, "%s\"%s\"", i ? ", " : "", list[i] ? other : "full_attention");
        if (full)
            full[i] = !list[i];
    }
    mr_buf_putc(c->json, ']');
    return blocks - extra;
}

/* ---- what all share ---- */

static void put_row(mr_gguf_config *c, const mr_gguf_row *r)
{
    int64_t i;
    double n;
    if (r->kind == 'n') {
        if (mr_gguf_config_get_num(c, r->gguf, &n))
            mr_gguf_config_num(c, r->key, n);
    } else if (mr_gguf_config_get_int(c, r->gguf, &i)) {
        if (r->kind == 'b')
            mr_gguf_config_raw(c, r->key, i ? "true" : "false");
        else
            mr_gguf_config_int(c, r->key, i);
    }
}

static bool has_row(const mr_gguf_row *rows, const char *key)
{
    while (rows && rows->key && strcmp(rows->key, key) != 0)
        rows++;
    return rows && rows->key;
}

void mr_gguf_config_rows(mr_gguf_config *c, const mr_gguf_row *rows)
{
    for (const mr_gguf_row *r = rows; r && r->key; r++)
        if (r->gguf)
            put_row(c, r);
}

/* The ids that end a text: of the whole, of a turn, of a message. */
static void put_ids(mr_gguf_config *c)
{
    static const char *const keys[] = {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id",
                                       "tokenizer.ggml.eom_token_id"};
    int64_t id, seen[3];
    int n = 0;
    for (int i = 0; i < 3; i++) {
        if (mr_gguf_kind(c->g, keys[i]) == MR_GGUF_ABSENT)
            continue;
        mr_err e = mr_gguf_int(c->g, keys[i], &id);
        keep(c, e);
        bool twice = e != MR_OK;
        for (int k = 0; k < n; k++)
            twice = twice || seen[k] == id;
        if (twice)
            continue;
        if (!n)
            put_key(c, "eos_token_id");
        mr_buf_printf(c->json, "%s%lld", n ? ", " : "[", (long long)id);
        seen[n++] = id;
    }
    if (n)
        mr_buf_putc(c->json, ']');
    if (mr_gguf_kind(c->g, "tokenizer.ggml.bos_token_id") != MR_GGUF_ABSENT) {
        mr_err e = mr_gguf_int(c->g, "tokenizer.ggml.bos_token_id", &id);
        keep(c, e);
        if (e == MR_OK)
            mr_gguf_config_int(c, "bos_token_id", id);
    }
}

/* Keys of any architecture that would change the maths. */
static void refuse_others(mr_gguf_config *c)
{
    int64_t causal;
    double scale;
    if (mr_gguf_config_get_int(c, "attention.causal", &causal) && !causal)
        mr_gguf_config_refuse(c, "attention.causal", "false is not supported");
    if (mr_gguf_config_get_num(c, "rope.scale_linear", &scale) && scale != 1)
        mr_gguf_config_refuse(c, "rope.scale_linear", "only 1 is supported");
}

/* Not every layer has the parts that others have. */
static bool in_some_layer(const mr_weights *w, const char *what)
{
    char name[64];
    bool found = false;
    for (int i = 0; i < MR_CFG_LAYERS && !found; i++) {
        snprintf(name, sizeof name, "blk.%d.%s", i, what);
        found = mr_weights_find(w, name) != NULL;
    }
    return found;
}

void mr_gguf_config_begin(mr_gguf_config *c, const mr_weights *w, const char *arch,
                          const char *model_type, const mr_gguf_row *rows, mr_buf *json)
{
    static const mr_gguf_row shared[] = {{"hidden_size", "embedding_length", 'i'},
                                         {"intermediate_size", "feed_forward_length", 'i'},
                                         {"num_attention_heads", "attention.head_count", 'i'},
                                         {"num_key_value_heads", "attention.head_count_kv", 'i'},
                                         {"head_dim", "attention.key_length", 'i'},
                                         {"rope_theta", "rope.freq_base", 'n'},
                                         {"rms_norm_eps", "attention.layer_norm_rms_epsilon", 'n'},
                                         {"max_position_embeddings", "context_length", 'i'},
                                         {0}};
    *c = (mr_gguf_config){
        .w = w, .g = mr_weights_gguf(w), .arch = arch, .json = json, .first = true};
    mr_buf_putc(json, '{');
    put_key(c, "model_type");
    mr_buf_json(json, model_type, strlen(model_type));
    for (const mr_gguf_row *r = shared; r->key; r++)
        if (!has_row(rows, r->key))
            put_row(c, r);
    mr_gguf_config_rows(c, rows);
    int64_t blocks, extra = 0;
    if (mr_gguf_config_get_int(c, "block_count", &blocks)) {
        mr_gguf_config_get_int(c, "nextn_predict_layers", &extra); /* counted, but no layers */
        if (extra < 0 || extra > blocks)
            mr_gguf_config_refuse(c, "nextn_predict_layers", "more than there are blocks");
        else
            mr_gguf_config_int(c, "num_hidden_layers", blocks - extra);
    }
    const mr_winfo *embed = mr_weights_find(w, "token_embd.weight");
    if (embed && embed->rank == 2)
        mr_gguf_config_int(c, "vocab_size", embed->dim[0]);
    bool untied = mr_weights_find(w, "output.weight") != NULL;
    mr_gguf_config_raw(c, "tie_word_embeddings", untied ? "false" : "true");
    if (in_some_layer(w, "attn_q.bias"))
        mr_gguf_config_raw(c, "attention_bias", "true");
    if (in_some_layer(w, "ffn_gate.bias"))
        mr_gguf_config_raw(c, "mlp_bias", "true");
    put_ids(c);
    refuse_others(c);
}
