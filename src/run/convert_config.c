/* config.json as MLX's programs read it.
 *
 * The model's own text is copied but for its quantisation.  Keys that those programs need where the
 * reference has a default, or look for in another place or spelling, are added where they are missing;
 * the text models of a multi-modal class, which some of them know as a whole only, are put inside it. */
#include <assert.h>
#include <string.h>

#include "run/convert.h"
#include "run/gguf_meta.h"

typedef struct writing {
    const mr_model *m;
    mr_buf *out;
    mr_jval o; /* the text part */
    const char *type;
    int members; /* of the object that is being written */
    const char *stated[8];
    int n_stated; /* members of the text part that were lacking */
} writing;

static bool is_text_of_qwen(const char *type)
{
    return strcmp(type, "qwen3_5_text") == 0 || strcmp(type, "qwen3_5_moe_text") == 0;
}

static bool has_text_config(const mr_model *m)
{
    return mr_jtype(mr_jget(mr_model_config(m), "text_config")) == MR_JOBJECT;
}

/* Whether the text model is inside another. */
static bool is_nested(const mr_model *m)
{
    return has_text_config(m) || is_text_of_qwen(mr_model_facts(m)->model_type);
}

/* MLX has no other name for what its programs do not know. */
const char *mr_mlx_root(const mr_model *m)
{
    static const char root[] = "language_model.";
    const char *const *p = mr_model_family(m)->prefixes;
    while (*p && strncmp(*p, root, sizeof root - 1) != 0)
        p++;
    return *p && is_nested(m) ? root : "";
}

/* ---- members ---- */

static void key(writing *w, const char *name, size_t len)
{
    mr_buf_puts(w->out, w->members++ ? ",\n  " : "\n  ");
    mr_buf_json(w->out, name, len);
    mr_buf_puts(w->out, ": ");
}

/* Begins a member of the text part that is missing there, or null, which is then not copied. */
static bool lacks(writing *w, const char *name)
{
    if (mr_jhas(mr_jget(w->o, name)))
        return false;
    assert(w->n_stated < (int)(sizeof w->stated / sizeof *w->stated));
    w->stated[w->n_stated++] = name;
    key(w, name, strlen(name));
    return true;
}

static bool is_stated(const writing *w, mr_str name)
{
    for (int i = 0; i < w->n_stated; i++)
        if (mr_str_is(name, w->stated[i]))
            return true;
    return false;
}

static void zero(writing *w, const char *name)
{
    if (lacks(w, name))
        mr_buf_puts(w->out, "0");
}

/* ---- keys of the text part ---- */

static mr_err gemma3_keys(writing *w)
{
    bool global[MR_CFG_LAYERS], regular;
    int64_t pattern, layers = mr_model_facts(w->m)->layers;
    mr_rope_spec full, local;
    MR_TRY(mr_gemma3_ropes(w->o, mr_model_facts(w->m), &full, &local));
    if (lacks(w, "rope_theta"))
        mr_buf_printf(w->out, "%.17g", full.theta);
    if (lacks(w, "rope_local_base_freq"))
        mr_buf_printf(w->out, "%.17g", local.theta);
    if (full.kind == MR_ROPE_LINEAR) {
        key(w, "rope_scaling", strlen("rope_scaling"));
        mr_buf_printf(w->out, "{\"rope_type\": \"linear\", \"factor\": %.17g}", full.factor);
    }
    MR_TRY(mr_cfg_int_or(w->o, "sliding_window_pattern", 6, 1, INT32_MAX, &pattern));
    MR_TRY(mr_cfg_layer_types(w->o, pattern, layers, global));
    int64_t period = mr_pattern_period(global, layers, &regular);
    if (regular && lacks(w, "sliding_window_pattern"))
        mr_buf_printf(w->out, "%lld", (long long)period);
    return MR_OK;
}

static mr_err qwen3_5_keys(writing *w)
{
    double theta, partial;
    if (!lacks(w, "rope_parameters"))
        return MR_OK;
    MR_TRY(mr_cfg_num_in(w->o, "rope_theta", 1e4, 1e-9, 1e18, &theta));
    MR_TRY(mr_cfg_partial(w->o, 0.25, &partial));
    mr_buf_printf(w->out,
                  "{\"rope_type\": \"default\", \"rope_theta\": %.17g, "
                  "\"partial_rotary_factor\": %.17g}",
                  theta, partial);
    return MR_OK;
}

static mr_err text_keys(writing *w)
{
    if (strncmp(w->type, "gemma3", 6) == 0)
        return gemma3_keys(w);
    if (strncmp(w->type, "qwen3_5", 7) == 0)
        return qwen3_5_keys(w);
    if (strncmp(w->type, "gemma4", 6) == 0) {
        zero(w, "hidden_size_per_layer_input");
        zero(w, "num_kv_shared_layers");
    }
    if (strcmp(w->type, "qwen3_moe") == 0 || strcmp(w->type, "qwen3_next") == 0) {
        if (lacks(w, "decoder_sparse_step"))
            mr_buf_puts(w->out, "1");
        if (lacks(w, "mlp_only_layers"))
            mr_buf_puts(w->out, "[]");
    }
    if (strcmp(w->type, "qwen3_next") == 0 && lacks(w, "norm_topk_prob"))
        mr_buf_puts(w->out, "true");
    return MR_OK;
}

/* ---- objects ---- */

static bool is_quantisation(mr_str name)
{
    return mr_str_is(name, "quantization") || mr_str_is(name, "quantization_config");
}

static mr_err copy_members(writing *w, mr_jval object, mr_buf *scratch, bool root);

/* The text part; the brace is closed. */
static mr_err put_text(writing *w, mr_jval object)
{
    mr_buf scratch = {0};
    int outside = w->members;
    mr_buf_putc(w->out, '{');
    w->members = 0;
    mr_err err = text_keys(w);
    if (!err)
        err = copy_members(w, object, &scratch, false);
    mr_buf_putc(w->out, '}');
    w->members = outside;
    mr_buf_free(&scratch);
    return err;
}

static mr_err copy_members(writing *w, mr_jval object, mr_buf *scratch, bool root)
{
    mr_str name;
    bool gemma3 = strncmp(w->type, "gemma3", 6) == 0;
    for (mr_jval v = mr_jfirst(object); v.doc; v = mr_jnext(v)) {
        MR_TRY(mr_jkey(v, scratch, &name));
        if (is_quantisation(name) || (gemma3 && mr_str_is(name, "rope_scaling")))
            continue; /* the latter counts in one of its forms only: gemma3_keys */
        if (mr_jtype(v) == MR_JNULL && is_stated(w, name))
            continue;
        key(w, name.data, name.len);
        mr_str raw = mr_jraw(v);
        if (root && mr_str_is(name, "text_config") && mr_jtype(v) == MR_JOBJECT)
            MR_TRY(put_text(w, v));
        else
            mr_buf_add(w->out, raw.data, raw.len);
    }
    return MR_OK;
}

/* The text model as the whole one of its class. */
static mr_err put_wrapped(writing *w)
{
    bool tied;
    MR_TRY(mr_cfg_bool_or(w->o, "tie_word_embeddings", false, &tied));
    key(w, "model_type", strlen("model_type"));
    mr_buf_json(w->out, w->type, strlen(w->type) - strlen("_text"));
    key(w, "tie_word_embeddings", strlen("tie_word_embeddings"));
    mr_buf_puts(w->out, tied ? "true" : "false");
    key(w, "text_config", strlen("text_config"));
    return put_text(w, w->o);
}

mr_err mr_mlx_config(const mr_model *m, int bits, int group, mr_buf *out)
{
    static const char *const keys[] = {"quantization", "quantization_config"};
    mr_buf scratch = {0};
    mr_jval root = mr_model_config(m);
    bool nested = has_text_config(m);
    writing w = {.m = m,
                 .out = out,
                 .o = nested ? mr_jget(root, "text_config") : root,
                 .type = mr_model_facts(m)->model_type};
    mr_buf_putc(out, '{');
    mr_err err = is_nested(m) ? MR_OK : text_keys(&w);
    if (!err)
        err = is_text_of_qwen(w.type) ? put_wrapped(&w) : copy_members(&w, root, &scratch, true);
    if (is_nested(m) && (!nested || !mr_jhas(mr_jget(root, "vocab_size"))))
        mr_buf_printf(out, ",\n  \"vocab_size\": %lld", (long long)mr_model_facts(m)->vocab);
    for (int i = 0; bits && i < 2; i++)
        mr_buf_printf(out, ",\n  \"%s\": {\"group_size\": %d, \"bits\": %d, \"mode\": \"affine\"}",
                      keys[i], group, bits);
    mr_buf_puts(out, "\n}\n");
    mr_buf_free(&scratch);
    return err ? err : mr_buf_check(out);
}
