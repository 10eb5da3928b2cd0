/* FP8 matrices: X is F8_E4M3, and the numbers beside it, despite the name of X_scale_inv, are multiplied.
 *
 * One number per block of the config's weight_block_size (128 x 128: DeepSeek, Qwen; blocks at the right
 * and lower edge may be cut short); without such a key one per matrix or one per row, seen by their
 * count.  What they are called: X_scale_inv, or X_scale as others write it.  Scales of activations are
 * not used: activations are floats here.
 */
#include "weights/parse.h"

#include <string.h>

enum { GROUP = 128 }; /* columns to a scale where matrices stay in 8 bits */

static mr_err read_block(mr_jval q, int64_t block[2])
{
    int i = 0;
    mr_jval list = mr_jget(q, "weight_block_size");
    block[0] = block[1] = 0;
    if (!mr_jhas(list))
        return MR_OK;
    if (mr_jtype(list) != MR_JARRAY || mr_jcount(list) != 2)
        return mr_jfail(list, "two numbers are needed");
    for (mr_jval c = mr_jfirst(list); c.doc; c = mr_jnext(c))
        MR_TRY(mr_jint(c, 1, INT32_MAX, &block[i++]));
    return MR_OK;
}

static mr_err check_fp8(mr_jval q, int64_t block[2])
{
    mr_jval fmt = mr_jget(q, "fmt"), scheme = mr_jget(q, "activation_scheme"),
            experts = mr_jget(q, "expert_dtype");
    if (mr_jhas(fmt) && !mr_jis(fmt, "e4m3"))
        return mr_jfail(fmt, "only e4m3 is supported");
    if (mr_jhas(scheme) && !mr_jis(scheme, "dynamic") && !mr_jis(scheme, "static"))
        return mr_jfail(scheme, "is neither dynamic nor static");
    if (mr_jhas(experts) && !mr_jis(experts, "fp8")) {
        mr_jfail(experts, "only fp8 is supported");
        return MR_EUNSUPPORTED;
    }
    return read_block(q, block);
}

static int64_t blocks(int64_t n, int64_t block)
{
    return n / block + (n % block != 0);
}

/* The blocks that the scales are for; false: they are not so many. */
static bool find_blocks(const mr_winfo *t, const mr_winfo *s, const int64_t said[2], mr_winfo *out)
{
    int last = t->rank - 1;
    int64_t n = t->dim[last - 1], k = t->dim[last], matrices = 1, numbers = 1;
    for (int i = 0; i < last - 1; i++)
        matrices *= t->dim[i];
    for (int i = 0; i < s->rank; i++)
        numbers *= s->dim[i];
    out->block_rows = said[0];
    out->block_cols = said[1];
    if (said[0]) {
        bool fits = s->rank == t->rank && s->dim[last] == blocks(k, said[1]) &&
                    s->dim[last - 1] == blocks(n, said[0]);
        for (int i = 0; fits && i < last - 1; i++)
            fits = s->dim[i] == t->dim[i];
        return fits;
    }
    out->block_rows = numbers == matrices ? n : 1;
    out->block_cols = k;
    return numbers == matrices || numbers == matrices * n;
}

static mr_err join(const mr_weights *w, mr_winfo *scale, mr_winfo *t, const int64_t said[2])
{
    if (t->dtype != MR_F8_E4M3 || t->rank < 2)
        return mr_wmisfit(w, t, "has scales but is not an f8_e4m3 matrix");
    if (scale->dtype != MR_F32 && scale->dtype != MR_F16 && scale->dtype != MR_BF16 &&
        scale->dtype != MR_F8_E8M0)
        return mr_wmisfit(w, scale, "is not f32, f16, bf16 or f8_e8m0");
    int64_t k = t->dim[t->rank - 1];
    for (int i = 0; i < t->rank; i++)
        if (!t->dim[i])
            return mr_wmisfit(w, t, "has scales but no numbers");
    if (!find_blocks(t, scale, said, t))
        return mr_wmisfit(w, t,
                          said[0] ? "its scales are not one per block of the config"
                                  : "its scales are neither one per matrix nor one per row");
    t->block_scale = scale->dtype;
    t->scales = scale->data;
    t->bytes += scale->bytes;
    scale->rank = MR_WTAKEN;
    if (t->block_cols % GROUP && t->block_cols < k) {
        t->wide = (mr_wide){.dtype = MR_F8_E4M3, .bits = 8, .stride = k};
        t->dtype = MR_F32;
        return MR_OK;
    }
    t->dtype = MR_FP;
    t->bits = 8;
    t->group = GROUP;
    t->scale_dtype = MR_F32;
    return MR_OK;
}

mr_err mr_fp8_join_all(mr_weights *w, const int64_t block[2])
{
    static const char *const suffix[] = {"_scale_inv", "_scale"};
    static const char *const unused[] = {"activation_scale", ".input_scale"};
    mr_buf scratch = {0};
    mr_err e = MR_OK;
    for (size_t i = 0; i < w->table.n && e == MR_OK; i++) {
        mr_winfo *scale = &w->table.at[i], *weight = NULL;
        bool inverse = mr_wsuffix(scale->name, suffix[0]);
        if (mr_wsuffix(scale->name, unused[0]) || mr_wsuffix(scale->name, unused[1])) {
            scale->rank = MR_WTAKEN;
            continue;
        }
        if (!inverse && !mr_wsuffix(scale->name, suffix[1]))
            continue;
        e = mr_wbeside(w, scale, strlen(suffix[!inverse]), "", &scratch, &weight);
        if (e == MR_OK && inverse && !weight)
            e = mr_wmisfit(w, scale, "has no matrix beside it");
        else if (e == MR_OK && weight && (inverse || weight->dtype == MR_F8_E4M3))
            e = join(w, scale, weight, block);
    }
    mr_buf_free(&scratch);
    return e;
}

mr_err mr_fp8_join(mr_weights *w, mr_jval q)
{
    int64_t block[2];
    MR_TRY(check_fp8(q, block));
    return mr_fp8_join_all(w, block);
}
