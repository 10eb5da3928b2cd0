/* From canonical names to tensors of the files.
 *
 * Canonical is the name in the published Hugging Face file.  A model's files may use it as it is,
 * under another root (families list them), with all experts of a layer stacked in one tensor as MLX
 * saves them or fused as transformers does, or GGUF's names by the family's table, with a modifier
 * that undoes GGUF's row order.
 * The first alternative that is there is taken; its shape must be the one asked for. */
#include <assert.h>
#include <ctype.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/model_internal.h"

enum { NAME_MAX = 512, SHOWN = 200 };

/* "{a..b}" in a name. */
typedef struct range {
    const char *open, *close; /* at the braces */
    long first, last;
} range;

static bool find_range(const char *name, range *r)
{
    r->open = strchr(name, '{');
    if (!r->open)
        return false;
    int used = 0;
    if (sscanf(r->open, "{%ld..%ld}%n", &r->first, &r->last, &used) != 2 || !used)
        return false;
    r->close = r->open + used - 1;
    return true;
}

static int64_t expand(const char *name, const range *r, long i, char out[NAME_MAX])
{
    return snprintf(out, NAME_MAX, "%.*s%ld%s", (int)(r->open - name), name, i, r->close + 1);
}

int mr_model_tensor(const mr_model *m, const char *name)
{
    int low = 0, high = mr_weights_count(m->weights) - 1;
    while (low <= high) {
        int mid = low + (high - low) / 2, c = strcmp(name, mr_weights_at(m->weights, mid)->name);
        if (!c)
            return mid;
        if (c < 0)
            high = mid - 1;
        else
            low = mid + 1;
    }
    return -1;
}

/* ---- checks ---- */

static void shape_text(char out[80], int rank, const int64_t *dim)
{
    size_t n = (size_t)snprintf(out, 80, "[");
    for (int i = 0; i < rank && n < 79; i++)
        n += (size_t)snprintf(out + n, 80 - n, "%s%" PRId64, i ? "," : "", dim[i]);
    if (n < 79)
        snprintf(out + n, 80 - n, "]");
}

static const char *file_of(const mr_model *m, const mr_winfo *t)
{
    return mr_weights_file(m->weights, t->data.file);
}

static mr_fmt format_of(const mr_winfo *t)
{
    return (mr_fmt){
        .dtype = t->dtype, .bits = t->bits, .group = t->group, .scale_dtype = t->scale_dtype};
}

static mr_err check_tensor(const mr_model *m, const mr_winfo *t, int rank, const int64_t *dim)
{
    bool same = t->rank == rank;
    for (int i = 0; same && i < rank; i++)
        same = t->dim[i] == dim[i];
    if (!same) {
        char got[80], want[80];
        shape_text(got, t->rank, t->dim);
        shape_text(want, rank, dim);
        return mr_fail(MR_EFORMAT, "%s: tensor \"%.*s\" is %s, the config asks for %s",
                       file_of(m, t), SHOWN, t->name, got, want);
    }
    bool plain = t->dtype == MR_F32 || t->dtype == MR_F16 || t->dtype == MR_BF16;
    if (rank == 1 ? !plain : !mr_dtype_is_weight(t->dtype, t->bits)) {
        char fmt[32];
        return mr_fail(MR_EUNSUPPORTED, "%s: tensor \"%.*s\": format %s is not supported%s",
                       file_of(m, t), SHOWN, t->name, mr_fmt_name(format_of(t), fmt),
                       rank == 1 ? " for a vector" : "");
    }
    return MR_OK;
}

/* ---- one alternative ---- */

/* One tensor per expert: all of them, of one shape and format. */
static mr_err take_range(mr_model *m, const char *name, const range *r, int rank,
                         const int64_t *dim, mr_found *out)
{
    char one[NAME_MAX];
    for (long i = r->first; i <= r->last; i++) {
        if (expand(name, r, i, one) >= NAME_MAX)
            return MR_OK;
        int at = mr_model_tensor(m, one);
        if (at < 0 && i == r->first)
            return MR_OK;
        if (at < 0)
            return mr_fail(MR_EFORMAT, "%s: tensor \"%.*s\" is missing", m->base, SHOWN, one);
        const mr_winfo *t = mr_weights_at(m->weights, at);
        MR_TRY(check_tensor(m, t, rank - 1, dim + 1));
        if (i == r->first)
            out->fmt = format_of(t);
        else if (!mr_fmt_equal(out->fmt, format_of(t)))
            return mr_fail(MR_EUNSUPPORTED,
                           "%s: tensor \"%.*s\" is of another format than expert %ld's",
                           file_of(m, t), SHOWN, t->name, r->first);
        m->used[at] = true;
    }
    snprintf(out->recipe, sizeof out->recipe, "%s", name);
    return MR_OK;
}

/* MLX keeps a convolution [C,1,K] as [C,K,1]. */
static bool is_turned_convolution(const mr_winfo *t, int rank, const int64_t *dim)
{
    return rank == 3 && t->rank == 3 && dim[1] == 1 && dim[2] > 1 && t->dim[2] == 1 &&
           t->dim[0] == dim[0] && t->dim[1] == dim[2];
}

/* Fills *out if the name is there. */
static mr_err take(mr_model *m, const char *name, int rank, const int64_t *dim, mr_found *out)
{
    range r;
    if (find_range(name, &r))
        return take_range(m, name, &r, rank, dim, out);
    int at = mr_model_tensor(m, name);
    if (at < 0)
        return MR_OK;
    const mr_winfo *t = mr_weights_at(m->weights, at);
    bool turned = is_turned_convolution(t, rank, dim);
    if (!turned)
        MR_TRY(check_tensor(m, t, rank, dim));
    m->used[at] = true;
    out->fmt = turned ? mr_fmt_transposed(format_of(t), t->dim[2]) : format_of(t);
    snprintf(out->recipe, sizeof out->recipe, turned ? "%s :t(%" PRId64 ")" : "%s", t->name,
             rank == 3 ? dim[2] : 0);
    return MR_OK;
}

/* Half of the rows of each matrix of a tensor that holds gate above up: the first or the second. */
static mr_err take_half(mr_model *m, const char *name, int rank, const int64_t *dim, bool second,
                        mr_found *out)
{
    int64_t both[MR_MAX_RANK], rows = dim[rank - 2];
    memcpy(both, dim, (size_t)rank * sizeof *dim);
    both[rank - 2] = 2 * rows;
    MR_TRY(take(m, name, rank, both, out));
    size_t n = strlen(out->recipe);
    if (n)
        snprintf(out->recipe + n, sizeof out->recipe - n,
                 " :rows(%" PRId64 ",%" PRId64 ",%" PRId64 ")", 2 * rows, second ? rows : 0, rows);
    return MR_OK;
}

/* Experts saved whole, as transformers keeps them: ".experts.gate_up_proj", ".experts.down_proj". */
static mr_err take_fused(mr_model *m, const char *stem, int len, const char *tail, int rank,
                         const int64_t *dim, mr_found *out)
{
    char fused[NAME_MAX];
    bool gate = !strcmp(tail, ".gate_proj.weight"), up = !strcmp(tail, ".up_proj.weight");
    if (!gate && !up && strcmp(tail, ".down_proj.weight") != 0)
        return MR_OK;
    int n = snprintf(fused, sizeof fused, "%.*s.experts.%s", len, stem,
                     gate || up ? "gate_up_proj" : "down_proj");
    if (n >= NAME_MAX)
        return MR_OK;
    return gate || up ? take_half(m, fused, rank, dim, up, out) : take(m, fused, rank, dim, out);
}

/* The name, then with ".experts.{a..b}." as MLX has them stacked, then as fused experts. */
static mr_err take_forms(mr_model *m, const char *name, int rank, const int64_t *dim, mr_found *out)
{
    static const char experts[] = ".experts.{";
    static const char *const stacks[] = {".switch_mlp", ".experts.switch_glu"};
    char stacked[NAME_MAX];
    MR_TRY(take(m, name, rank, dim, out));
    const char *at = strstr(name, experts);
    range r;
    if (out->recipe[0] || !at || !find_range(name, &r))
        return MR_OK;
    int stem = (int)(at - name);
    for (int i = 0; i < 2 && !out->recipe[0]; i++) {
        int n = snprintf(stacked, sizeof stacked, "%.*s%s%s", stem, name, stacks[i], r.close + 1);
        if (n < NAME_MAX)
            MR_TRY(take(m, stacked, rank, dim, out));
    }
    return out->recipe[0] ? MR_OK : take_fused(m, name, stem, r.close + 1, rank, dim, out);
}

/* ---- alternatives ---- */

/* Matches a pattern with {L} (digits) and {E} (a range) against a name. */
static bool match_row(const char *pattern, const char *name, const char **layer, int *digits)
{
    *layer = "";
    *digits = 0;
    while (*pattern) {
        if (!strncmp(pattern, "{L}", 3)) {
            *layer = name;
            while (isdigit((unsigned char)*name))
                name++;
            *digits = (int)(name - *layer);
            if (!*digits)
                return false;
            pattern += 3;
        } else if (!strncmp(pattern, "{E}", 3)) {
            const char *close = *name == '{' ? strchr(name, '}') : NULL;
            if (!close)
                return false;
            name = close + 1;
            pattern += 3;
        } else if (*pattern++ != *name++) {
            return false;
        }
    }
    return !*name;
}

/* The i-th row of a table for a canonical name, and what it says is there; NULL if there are no more. */
static const mr_name_row *table_row(const mr_name_row *table, const char *name, int i,
                                    char out[NAME_MAX])
{
    for (const mr_name_row *r = table; r && r->canonical; r++) {
        const char *layer;
        int digits;
        if (!match_row(r->canonical, name, &layer, &digits) || i-- > 0)
            continue;
        const char *slot = strstr(r->gguf, "{L}");
        if (slot)
            snprintf(out, NAME_MAX, "%.*s%.*s%s", (int)(slot - r->gguf), r->gguf, digits, layer,
                     slot + 3);
        else
            snprintf(out, NAME_MAX, "%s", r->gguf);
        return r;
    }
    return NULL;
}

#define BLOCK(hf, gguf)                                                                            \
    {                                                                                              \
        "model.layers.{L}." hf ".weight", "blk.{L}." gguf ".weight", NULL                          \
    }
#define BIAS(hf, gguf)                                                                             \
    {                                                                                              \
        "model.layers.{L}." hf ".bias", "blk.{L}." gguf ".bias", NULL                              \
    }
/* What GGUF calls the parts that most architectures have. */
static const mr_name_row gguf_names[] = {{"model.embed_tokens.weight", "token_embd.weight", NULL},
                                         {"model.norm.weight", "output_norm.weight", NULL},
                                         {"lm_head.weight", "output.weight", NULL},
                                         BLOCK("input_layernorm", "attn_norm"),
                                         BLOCK("post_attention_layernorm", "ffn_norm"),
                                         BLOCK("self_attn.q_proj", "attn_q"),
                                         BLOCK("self_attn.k_proj", "attn_k"),
                                         BLOCK("self_attn.v_proj", "attn_v"),
                                         BLOCK("self_attn.o_proj", "attn_output"),
                                         BIAS("self_attn.q_proj", "attn_q"),
                                         BIAS("self_attn.k_proj", "attn_k"),
                                         BIAS("self_attn.v_proj", "attn_v"),
                                         BIAS("self_attn.o_proj", "attn_output"),
                                         BLOCK("self_attn.q_norm", "attn_q_norm"),
                                         BLOCK("self_attn.k_norm", "attn_k_norm"),
                                         BLOCK("mlp.gate_proj", "ffn_gate"),
                                         BLOCK("mlp.up_proj", "ffn_up"),
                                         BLOCK("mlp.down_proj", "ffn_down"),
                                         BIAS("mlp.gate_proj", "ffn_gate"),
                                         BIAS("mlp.up_proj", "ffn_up"),
                                         BIAS("mlp.down_proj", "ffn_down"),
                                         BLOCK("mlp.gate", "ffn_gate_inp"),
                                         BLOCK("mlp.experts.{E}.gate_proj", "ffn_gate_exps"),
                                         BLOCK("mlp.experts.{E}.up_proj", "ffn_up_exps"),
                                         BLOCK("mlp.experts.{E}.down_proj", "ffn_down_exps"),
                                         {0}};

/* Rows of the family stand instead of those. */
static const mr_name_row *gguf_name(const mr_model *m, const char *name, int i, char out[NAME_MAX])
{
    bool own = table_row(m->family->names, name, 0, out);
    return table_row(own ? m->family->names : gguf_names, name, i, out);
}

const mr_name_row *mr_model_gguf_name(const mr_model *m, const char *canonical, char out[512])
{
    return gguf_name(m, canonical, 0, out);
}

/* The i-th name that a canonical one may have in the files; false: no more.  Names under "model."
 * have the family's roots in its place; others ("lm_head.weight") stand beside that root. */
static bool alternative(const mr_model *m, const char *name, int i, char out[NAME_MAX])
{
    static const char model[] = "model.";
    const size_t len = sizeof model - 1;
    if (m->gguf)
        return gguf_name(m, name, i, out) != NULL;
    bool inside = !strncmp(name, model, len);
    snprintf(out, NAME_MAX, "%s", name);
    if (!inside && i-- == 0)
        return true;
    for (const char *const *p = m->family->prefixes; *p; p++) {
        size_t root = strlen(*p);
        if (!inside && (root < len || strcmp(*p + root - len, model) != 0))
            continue;
        if (i-- > 0)
            continue;
        int n = snprintf(out, NAME_MAX, "%.*s%s", (int)(inside ? root : root - len), *p,
                         inside ? name + len : name);
        return n < NAME_MAX;
    }
    return false;
}

int64_t mr_model_number(const mr_model *m, char letter)
{
    if (m->gguf && (letter == 'q' || letter == 'k'))
        return letter == 'q' ? m->heads : m->kv_heads;
    assert(m->family->number);
    return m->family->number(m->cfg, letter);
}

mr_err mr_model_modifiers(const mr_model *m, const char *modifiers, mr_buf *out)
{
    for (const char *p = modifiers; *p; p++) {
        if (*p == '%')
            mr_buf_printf(out, "%" PRId64, mr_model_number(m, *++p));
        else
            mr_buf_putc(out, *p);
    }
    return mr_buf_check(out);
}

/* Writes modifiers with their numbers filled in, = for `name`, to the end of the recipe. */
static mr_err add_modifiers(const mr_model *m, const char *modifiers, const char *name,
                            mr_found *out)
{
    size_t n = strlen(out->recipe), room = sizeof out->recipe;
    mr_buf text = {0};
    mr_err e = mr_model_modifiers(m, modifiers, &text);
    for (size_t i = 0; e == MR_OK && i < text.len; i++) {
        if (n + strlen(name) + 1 >= room)
            e = mr_fail(MR_ELIMIT, "%s: the name \"%.60s...\" is too long", m->base, name);
        else if (text.data[i] == '=')
            n += (size_t)snprintf(out->recipe + n, room - n, "%s", name);
        else
            out->recipe[n++] = text.data[i];
        out->recipe[n] = '\0';
    }
    mr_buf_free(&text);
    return e;
}

/* What the recipe gives: its format, and whether it is of the shape asked for. */
static mr_err check_recipe(mr_model *m, int rank, const int64_t *dim, mr_found *out)
{
    mr_arena *arena;
    mr_recipe *r;
    int64_t rows = 1, k = dim[rank - 1];
    for (int i = 0; i < rank - 1; i++)
        rows *= dim[i];
    MR_TRY(mr_arena_new(&arena, MR_MEM_COMPILE));
    mr_err e = mr_recipe_parse(&r, out->recipe, arena);
    if (e == MR_OK)
        e = mr_recipe_bind(r, mr_model_lookup, m);
    if (e == MR_OK && (mr_recipe_total(r) != rows || mr_recipe_k(r) != k))
        e = mr_fail(MR_EFORMAT,
                    "%s: \"%.*s\" gives %lld rows of %lld, the config asks for %lld of %lld",
                    m->base, SHOWN, out->recipe, (long long)mr_recipe_total(r),
                    (long long)mr_recipe_k(r), (long long)rows, (long long)k);
    if (e == MR_OK)
        out->fmt = mr_recipe_fmt(r);
    mr_arena_free(arena);
    return e;
}

/* A tensor that holds the weight in another form, which the modifiers undo. */
static mr_err take_form(mr_model *m, const char *name, const char *modifiers, int rank,
                        const int64_t *dim, mr_found *out)
{
    int at = mr_model_tensor(m, name);
    if (at < 0)
        return MR_OK;
    m->used[at] = true;
    MR_TRY(add_modifiers(m, modifiers, name, out));
    mr_err e = check_recipe(m, rank, dim, out);
    if (e != MR_EFORMAT)
        return e;
    const mr_winfo *t = mr_weights_at(m->weights, at);
    char got[80];
    shape_text(got, t->rank, t->dim);
    return mr_fail(e, "%s: tensor \"%.*s\" is %s, the config's sizes do not make up that",
                   file_of(m, t), SHOWN, t->name, got);
}

static mr_err take_row(mr_model *m, const char *actual, const char *modifiers, int rank,
                       const int64_t *dim, mr_found *out)
{
    bool first = !strcmp(modifiers, MR_FIRST_HALF), second = !strcmp(modifiers, MR_SECOND_HALF);
    if (first || second)
        return take_half(m, actual, rank, dim, second, out);
    if (*modifiers == '=')
        return take_form(m, actual, modifiers, rank, dim, out);
    MR_TRY(take(m, actual, rank, dim, out));
    if (!out->recipe[0])
        return MR_OK;
    out->plus_one = !strcmp(modifiers, MR_ONE_PLUS_W);
    if (!strncmp(modifiers, MR_NEG_EXP, sizeof MR_NEG_EXP - 1)) {
        out->neg_exp = true;
        modifiers += sizeof MR_NEG_EXP - 1;
    }
    if (out->plus_one || !*modifiers)
        return MR_OK;
    strcat(out->recipe, " ");
    MR_TRY(add_modifiers(m, modifiers, actual, out));
    return check_recipe(m, rank, dim, out);
}

static mr_err take_gguf(mr_model *m, const char *name, int rank, const int64_t *dim, mr_found *out)
{
    char actual[NAME_MAX];
    const mr_name_row *row;
    for (int i = 0; !out->recipe[0] && (row = gguf_name(m, name, i, actual)); i++)
        MR_TRY(take_row(m, actual, row->modifiers ? row->modifiers : "", rank, dim, out));
    return MR_OK;
}

static mr_err take_any(mr_model *m, const char *name, int rank, const int64_t *dim, mr_found *out)
{
    char actual[NAME_MAX], form[NAME_MAX];
    const mr_name_row *row;
    if (m->gguf)
        return take_gguf(m, name, rank, dim, out);
    for (int i = 0; !out->recipe[0] && alternative(m, name, i, actual); i++)
        MR_TRY(take_forms(m, actual, rank, dim, out));
    for (int k = 0; !out->recipe[0] && (row = table_row(m->family->forms, name, k, form)); k++)
        for (int i = 0; !out->recipe[0] && alternative(m, form, i, actual); i++)
            MR_TRY(take_form(m, actual, row->modifiers, rank, dim, out));
    if (m->one_plus && (row = gguf_name(m, name, 0, form)) && row->modifiers)
        out->plus_one = !strcmp(row->modifiers, MR_ONE_PLUS_W);
    return MR_OK;
}

/* ---- the source ---- */

static mr_err record(mr_model *m, const char *name, int rank, const int64_t *dim,
                     const mr_found *found)
{
    if (mr_names_find(&m->asked_names, name, strlen(name)))
        return MR_OK;
    if (m->n_asked == m->cap_asked) {
        int cap = m->cap_asked ? 2 * m->cap_asked : 64;
        void *p = mr_realloc(MR_MEM_COMPILE, m->asked, (size_t)cap * sizeof *m->asked);
        if (!p)
            return MR_ENOMEM;
        m->asked = p;
        m->cap_asked = cap;
    }
    mr_asked *a = &m->asked[m->n_asked];
    *a = (mr_asked){.name = mr_arena_strdup(m->asked_arena, name),
                    .rank = rank,
                    .recipe = mr_arena_strdup(m->asked_arena, found->recipe),
                    .plus_one = found->plus_one,
                    .neg_exp = found->neg_exp};
    if (!a->name || !a->recipe)
        return MR_ENOMEM;
    memcpy(a->dim, dim, (size_t)rank * sizeof *dim);
    return mr_names_put(&m->asked_names, a->name, m->n_asked++);
}

static mr_err missing(const mr_model *m, const char *name)
{
    char actual[NAME_MAX];
    if (m->gguf && gguf_name(m, name, 0, actual))
        return mr_fail(MR_EFORMAT, "%s: tensor \"%.*s\" is missing", m->base, SHOWN, actual);
    return mr_fail(MR_EFORMAT, "%s: tensor \"%.*s\" is missing", m->base, SHOWN, name);
}

mr_err mr_model_find(void *ctx, const char *name, int rank, const int64_t *dim, bool required,
                     mr_found *out)
{
    mr_model *m = ctx;
    out->recipe[0] = '\0';
    out->plus_one = out->neg_exp = false;
    if (strlen(name) >= NAME_MAX - 64)
        return mr_fail(MR_ELIMIT, "%s: the name \"%.60s...\" is too long", m->base, name);
    if (!m->weights) {
        if (!required)
            return MR_OK;
        out->fmt = (mr_fmt){.dtype = MR_BF16};
        snprintf(out->recipe, sizeof out->recipe, "%s", name);
    } else {
        MR_TRY(take_any(m, name, rank, dim, out));
    }
    if (out->recipe[0])
        return record(m, name, rank, dim, out);
    return required ? missing(m, name) : MR_OK;
}

/* ---- a head beside a tied embedding ---- */

static const mr_winfo *locate(const mr_model *m, const char *name)
{
    char actual[NAME_MAX];
    int at = -1;
    for (int i = 0; at < 0 && alternative(m, name, i, actual); i++)
        at = mr_model_tensor(m, actual);
    return at < 0 ? NULL : mr_weights_at(m->weights, at);
}

static mr_err same_rows(const mr_model *m, const mr_winfo *a, const mr_winfo *b, bool *same)
{
    enum { CHUNK = 1 << 20 };
    int64_t rows = mr_weights_rows(a), step = 1;
    while (step < rows && mr_weights_rows_bytes(a, step * 2) <= CHUNK)
        step *= 2;
    size_t bytes = mr_weights_rows_bytes(a, step);
    void *x = mr_zalloc(MR_MEM_COMPILE, bytes), *y = mr_zalloc(MR_MEM_COMPILE, bytes);
    mr_err e = x && y ? MR_OK : MR_ENOMEM;
    for (int64_t row = 0; e == MR_OK && *same && row < rows; row += step) {
        int64_t n = rows - row < step ? rows - row : step;
        mr_rows got;
        e = mr_weights_read(m->weights, a, row, n, x, &got);
        if (e == MR_OK)
            e = mr_weights_read(m->weights, b, row, n, y, &got);
        *same = e == MR_OK && !memcmp(x, y, mr_weights_rows_bytes(a, n));
    }
    mr_free(x);
    mr_free(y);
    return e;
}

mr_err mr_model_same(void *ctx, const char *a, const char *b, bool *out)
{
    const mr_model *m = ctx;
    *out = true;
    if (!m->weights)
        return MR_OK;
    const mr_winfo *x = locate(m, a), *y = locate(m, b);
    if (!x || !y)
        return MR_OK;
    *out = x->rank == y->rank && mr_fmt_equal(format_of(x), format_of(y)) &&
           !memcmp(x->dim, y->dim, (size_t)x->rank * sizeof *x->dim);
    return *out ? same_rows(m, x, y, out) : MR_OK;
}
