/* Which of the joins a config asks for, and what they share.
 *
 * A join walks the sorted table, finds the rows that belong together by their names, makes one of
 * them the module's tensor and marks the others as taken; dropping and sorting anew come last, when
 * no look-up needs the order.
 */
#include "weights/parse.h"

#include <string.h>

mr_err mr_wmisfit(const mr_weights *w, const mr_winfo *t, const char *what)
{
    return mr_fail(MR_EFORMAT, "%s: tensor \"%." MR_WNAME_SHOWN "s\": %s",
                   mr_weights_file(w, t->data.file), t->name, what);
}

bool mr_wsuffix(const char *name, const char *suffix)
{
    size_t len = strlen(name), tail = strlen(suffix);
    return len > tail && !strcmp(name + len - tail, suffix);
}

mr_err mr_wbeside(const mr_weights *w, const mr_winfo *t, size_t cut, const char *suffix,
                  mr_buf *scratch, mr_winfo **out)
{
    mr_buf_clear(scratch);
    mr_buf_add(scratch, t->name, strlen(t->name) - cut);
    mr_buf_puts(scratch, suffix);
    MR_TRY(mr_buf_check(scratch));
    *out = mr_wtable_find(&w->table, scratch->data);
    return MR_OK;
}

static void drop_taken(mr_wtable *t)
{
    size_t kept = 0;
    for (size_t i = 0; i < t->n; i++)
        if (t->at[i].rank != MR_WTAKEN)
            t->at[kept++] = t->at[i];
    t->n = kept;
}

mr_err mr_quant_join(mr_weights *w, mr_jval q)
{
    if (mr_jhas(q) && mr_jtype(q) != MR_JOBJECT)
        return mr_jfail(q, "is not an object");
    mr_jval method = mr_jget(q, "quant_method");
    if (mr_jis(method, "fp8"))
        MR_TRY(mr_fp8_join(w, q));
    else if (mr_jis(method, "compressed-tensors"))
        MR_TRY(mr_packed_join(w, q));
    else
        MR_TRY(mr_mlx_join(w, mr_jhas(q) ? q : (mr_jval){0}));
    drop_taken(&w->table);
    return mr_weights_sort(w);
}

/* ---- GGUF ---- */

/* Gemma 4's gain of each expert stands under a name that others have for NVFP4's scale; it is the
 * router's to apply, and what is multiplied is the same. */
static bool is_gain(const mr_weights *w, const char *name)
{
    mr_str arch;
    return mr_wsuffix(name, ".ffn_down_exps.weight") &&
           mr_gguf_kind(w->gguf, "general.architecture") == MR_GGUF_STRING &&
           mr_gguf_str(w->gguf, "general.architecture", &arch) == MR_OK &&
           mr_str_is(arch, "gemma4");
}

static mr_err join_scale(const mr_weights *w, mr_winfo *t, mr_winfo *scale)
{
    uint64_t matrices = 1;
    for (int i = 0; i < t->rank - 2; i++)
        matrices *= (uint64_t)t->dim[i];
    if (t->rank < 2 || scale->dtype != MR_F32 || scale->rank > 1 ||
        (scale->bytes != sizeof(float) && scale->bytes / sizeof(float) != matrices))
        return mr_wmisfit(w, scale, "is not one f32 per matrix");
    t->wide.dtype = t->dtype;
    t->dtype = MR_F32;
    t->scales = scale->data;
    t->bytes += scale->bytes;
    scale->rank = MR_WTAKEN;
    return MR_OK;
}

/* NVFP4 from other formats has X.scale, a number (or one per expert) that products are multiplied by,
 * and X.input_scale for activations of 4 bits, which are floats here. */
mr_err mr_gguf_join(mr_weights *w)
{
    mr_buf scratch = {0};
    mr_err e = MR_OK;
    bool any = false;
    for (size_t i = 0; i < w->table.n && e == MR_OK; i++) {
        mr_winfo *t = &w->table.at[i], *scale, *input;
        if (t->dtype != MR_NVFP4 || !mr_wsuffix(t->name, ".weight"))
            continue;
        e = mr_wbeside(w, t, strlen("weight"), "scale", &scratch, &scale);
        if (e == MR_OK)
            e = mr_wbeside(w, t, strlen("weight"), "input_scale", &scratch, &input);
        if (e == MR_OK && scale && !is_gain(w, t->name))
            e = join_scale(w, t, scale);
        if (e == MR_OK && input)
            input->rank = MR_WTAKEN;
        any |= e == MR_OK && (scale || input);
    }
    mr_buf_free(&scratch);
    MR_TRY(e);
    if (any)
        drop_taken(&w->table);
    return any ? mr_weights_sort(w) : MR_OK;
}
