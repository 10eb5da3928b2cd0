/* generation_config.json: end ids and sampling defaults.
 *
 * The file is optional.  What it says is reported in the engine's facts; the program applies
 * sampling defaults only when asked to sample as the model's makers do, so that plain runs stay
 * argmax and repeatable. */
#include <math.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "run/engine.h"

static mr_err read_eos(mr_jval v, mr_engine_info *info)
{
    int64_t id;
    info->n_eos = 0;
    if (!mr_jhas(v))
        return MR_OK;
    if (mr_jtype(v) != MR_JARRAY) {
        MR_TRY(mr_jint(v, 0, INT32_MAX, &id));
        info->eos[info->n_eos++] = (int32_t)id;
        return MR_OK;
    }
    if (mr_jcount(v) > sizeof info->eos / sizeof *info->eos)
        return mr_jfail(v, "%u end ids are more than %zu", mr_jcount(v),
                        sizeof info->eos / sizeof *info->eos);
    for (mr_jval c = mr_jfirst(v); c.doc; c = mr_jnext(c)) {
        MR_TRY(mr_jint(c, 0, INT32_MAX, &id));
        info->eos[info->n_eos++] = (int32_t)id;
    }
    return MR_OK;
}

static mr_err read_num(mr_jval root, const char *key, double *out)
{
    mr_jval v = mr_jget(root, key);
    return mr_jhas(v) ? mr_jnum(v, out) : MR_OK;
}

/* What is out of range counts only where the model samples at all: makers leave zeros in files of
 * models that do not. */
static mr_err check_sampling(mr_jval root, const mr_engine_info *i)
{
    const struct {
        const char *key;
        double value, min, max;
    } range[] = {{"temperature", i->temperature, 0, 1e6},
                 {"top_p", i->top_p, 1e-9, 1},
                 {"top_k", i->top_k, 0, 1 << 30},
                 {"repetition_penalty", i->repetition_penalty, 1e-3, 1e6}};
    for (size_t k = 0; k < sizeof range / sizeof *range; k++)
        if (range[k].value < range[k].min || range[k].value > range[k].max)
            return mr_jfail(mr_jget(root, range[k].key), "%g is not in %g..%g", range[k].value,
                            range[k].min, range[k].max);
    return MR_OK;
}

static mr_err read_canvas(mr_jval root, mr_engine_info *info)
{
    mr_jval sampler = mr_jget(root, "sampler_config");
    MR_TRY(read_num(root, "max_denoising_steps", &info->max_denoising_steps));
    MR_TRY(read_num(root, "t_min", &info->t_min));
    MR_TRY(read_num(root, "t_max", &info->t_max));
    MR_TRY(read_num(root, "stability_threshold", &info->stability_threshold));
    MR_TRY(read_num(root, "confidence_threshold", &info->confidence_threshold));
    if (!mr_jhas(sampler))
        return MR_OK;
    if (mr_jtype(sampler) != MR_JOBJECT)
        return mr_jfail(sampler, "an object is needed");
    return read_num(sampler, "entropy_bound", &info->entropy_bound);
}

static mr_err read_all(mr_jval root, mr_engine_info *info)
{
    if (mr_jtype(root) != MR_JOBJECT)
        return mr_jfail(root, "an object is needed");
    MR_TRY(read_eos(mr_jget(root, "eos_token_id"), info));
    MR_TRY(read_num(root, "temperature", &info->temperature));
    MR_TRY(read_num(root, "top_p", &info->top_p));
    MR_TRY(read_num(root, "top_k", &info->top_k));
    MR_TRY(read_num(root, "repetition_penalty", &info->repetition_penalty));
    if (info->canvas)
        MR_TRY(read_canvas(root, info));
    mr_jval s = mr_jget(root, "do_sample");
    if (mr_jhas(s))
        MR_TRY(mr_jbool(s, &info->do_sample));
    return info->do_sample ? check_sampling(root, info) : MR_OK;
}

mr_err mr_defaults_read(const char *dir, mr_engine_info *info)
{
    if (mr_file_exists(dir) != 2)
        return MR_OK;
    mr_buf path = {0};
    mr_buf_printf(&path, "%s/generation_config.json", dir);
    mr_err err = mr_buf_check(&path);
    char *text = NULL;
    size_t len;
    mr_json *doc = NULL;
    if (!err && mr_file_exists(path.data) == 1) {
        err = mr_file_read_all(path.data, 1 << 20, MR_MEM_COMPILE, &text, &len);
        if (!err)
            err = mr_json_parse(&doc, path.data, text, len);
        if (!err)
            err = read_all(mr_json_root(doc), info);
    }
    mr_json_free(doc);
    mr_free(text);
    mr_buf_free(&path);
    return err;
}
