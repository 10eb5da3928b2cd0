/* Facts of a model as GGUF metadata: the other way round than gguf_config.c. */
#include <math.h>
#include <stdio.h>

#include "model/family.h"

enum { KEY = 128 };

static const char *full(const mr_gguf_put *p, const char *key, char out[KEY])
{
    snprintf(out, KEY, "%s.%s", p->arch, key);
    return out;
}

void mr_gguf_put_int(const mr_gguf_put *p, const char *key, int64_t v)
{
    char name[KEY];
    mr_gguf_writer_u32(p->w, full(p, key, name), (uint32_t)v);
}

void mr_gguf_put_num(const mr_gguf_put *p, const char *key, double v)
{
    char name[KEY];
    mr_gguf_writer_f32(p->w, full(p, key, name), (float)v);
}

void mr_gguf_put_str(const mr_gguf_put *p, const char *key, const char *v)
{
    char name[KEY];
    mr_gguf_writer_str(p->w, full(p, key, name), v);
}

void mr_gguf_put_bool(const mr_gguf_put *p, const char *key, bool v)
{
    char name[KEY];
    mr_gguf_writer_bool(p->w, full(p, key, name), v);
}

void mr_gguf_put_bools(const mr_gguf_put *p, const char *key, const bool *v, int64_t n)
{
    char name[KEY];
    mr_gguf_writer_bools(p->w, full(p, key, name), (uint64_t)n);
    for (int64_t i = 0; i < n; i++)
        mr_gguf_writer_add_bool(p->w, v[i]);
}

void mr_gguf_put_ints(const mr_gguf_put *p, const char *key, const int64_t *v, int64_t n)
{
    char name[KEY];
    mr_gguf_writer_ints(p->w, full(p, key, name), (uint64_t)n);
    for (int64_t i = 0; i < n; i++)
        mr_gguf_writer_add_int(p->w, (int32_t)v[i]);
}

void mr_gguf_put_layers(const mr_gguf_put *p, const char *key, const int64_t *v, int64_t n)
{
    int64_t same = 1;
    while (same < n && v[same] == v[0])
        same++;
    if (same == n)
        mr_gguf_put_int(p, key, v[0]);
    else
        mr_gguf_put_ints(p, key, v, n);
}

mr_err mr_gguf_put_rope(const mr_gguf_put *p, const mr_rope_spec *r, double said, mr_jval at)
{
    mr_gguf_put_num(p, "rope.freq_base", r->theta);
    if (r->kind != MR_ROPE_LINEAR && r->kind != MR_ROPE_YARN) /* a tensor says the others */
        return MR_OK;
    mr_gguf_put_str(p, "rope.scaling.type", r->kind == MR_ROPE_LINEAR ? "linear" : "yarn");
    mr_gguf_put_num(p, "rope.scaling.factor", r->factor);
    if (r->kind == MR_ROPE_LINEAR)
        return MR_OK;
    if (fabs(r->mscale - said) > 1e-6 * said || !r->truncate)
        return mr_cfg_refuse(at, "GGUF cannot say an attention factor of %g or untruncated bounds",
                             r->mscale);
    mr_gguf_put_int(p, "rope.scaling.original_context_length", (int64_t)r->orig);
    mr_gguf_put_num(p, "rope.scaling.yarn_beta_fast", r->beta_fast);
    mr_gguf_put_num(p, "rope.scaling.yarn_beta_slow", r->beta_slow);
    return MR_OK;
}
