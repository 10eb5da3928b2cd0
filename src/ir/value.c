/* Dims, formats and types as text, and numbers that read back exactly whatever the process's locale
 * is. */
#include "ir/graph_internal.h"

#include <locale.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static locale_t c_locale;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void make_locale(void)
{
    c_locale = newlocale(LC_ALL_MASK, "C", (locale_t)0); /* glibc's "C" is static: it cannot fail */
}

const char *mr_float_text(double f, char *buf)
{
    pthread_once(&once, make_locale);
    locale_t old = uselocale(c_locale);
    bool whole = fabs(f) < 1e15 && f == floor(f); /* 10000, not 1e+04 */
    if (whole)
        snprintf(buf, 32, "%.0f", f);
    for (int digits = 1; !whole && digits <= 17; digits++) {
        snprintf(buf, 32, "%.*g", digits, f);
        if (strtod(buf, NULL) == f)
            break;
    }
    uselocale(old);
    return buf;
}

bool mr_float_read(const char *s, double *out)
{
    pthread_once(&once, make_locale);
    char *end;
    double f = strtod_l(s, &end, c_locale);
    if (end == s || *end || !isfinite(f))
        return false;
    *out = f;
    return true;
}

bool mr_dim_equal(mr_dim a, mr_dim b)
{
    return a.n == b.n && a.sym == b.sym;
}

int64_t mr_dim_bind(mr_dim d, int64_t rows, int64_t outs)
{
    switch (d.sym) {
    case MR_SYM_NONE:
        return d.n;
    case MR_SYM_ROWS:
        return d.n * rows;
    case MR_SYM_OUT:
        return d.n * outs;
    default:
        return -1;
    }
}

static const char across[] = "/across";

const char *mr_fmt_name(mr_fmt f, char *buf)
{
    const char *tail = f.across ? across : "";
    if (mr_dtype_is_grouped(f.dtype))
        snprintf(buf, 32, "%s%d/%d/%s%s", mr_dtype_name(f.dtype), f.bits, f.group,
                 mr_dtype_name(f.scale_dtype), tail);
    else
        snprintf(buf, 32, "%s%s", mr_dtype_name(f.dtype), tail);
    return buf;
}

static bool dtype_find(const char *name, mr_dtype *out)
{
    for (int i = 0; i < MR_DTYPE_COUNT; i++)
        if (!strcmp(mr_dtype_name((mr_dtype)i), name)) {
            *out = (mr_dtype)i;
            return true;
        }
    return false;
}

bool mr_fmt_parse(const char *s, mr_fmt *out)
{
    char kind[16], scale[16], name[32], base[32];
    mr_fmt f = {0};
    size_t n = strlen(s), tail = sizeof across - 1;
    if (n >= sizeof base)
        return false;
    f.across = n > tail && !strcmp(s + n - tail, across);
    snprintf(base, sizeof base, "%.*s", (int)(f.across ? n - tail : n), s);
    if (!strchr(base, '/')) {
        if (!dtype_find(base, &f.dtype) || mr_dtype_is_grouped(f.dtype))
            return false;
    } else if (sscanf(base, "%15[a-z]%1d/%3d/%15[a-z0-9_]", kind, &f.bits, &f.group, scale) != 4 ||
               !dtype_find(kind, &f.dtype) || !mr_dtype_is_grouped(f.dtype) ||
               !dtype_find(scale, &f.scale_dtype) ||
               !mr_group_known(f.dtype, f.bits, f.group, f.scale_dtype) ||
               strcmp(mr_fmt_name(f, name), s) != 0) {
        return false;
    }
    if (f.across && !mr_dtype_is_quantised(f.dtype))
        return false;
    *out = f;
    return true;
}

bool mr_fmt_equal(mr_fmt a, mr_fmt b)
{
    return a.dtype == b.dtype && a.across == b.across &&
           (!mr_dtype_is_grouped(a.dtype) ||
            (a.bits == b.bits && a.group == b.group && a.scale_dtype == b.scale_dtype));
}

mr_fmt mr_fmt_transposed(mr_fmt f, int64_t k)
{
    if (f.across || (mr_dtype_is_grouped(f.dtype) && k % f.group))
        return (mr_fmt){.dtype = MR_F32};
    f.across = mr_dtype_is_quantised(f.dtype);
    return f;
}

int mr_dim_text(const mr_graph *g, mr_dim d, char *buf, size_t cap)
{
    if (d.sym == MR_SYM_NONE)
        return snprintf(buf, cap, "%lld", (long long)d.n);
    if (d.n == 1)
        return snprintf(buf, cap, "%s", mr_graph_symbol_name(g, d.sym));
    return snprintf(buf, cap, "%lld*%s", (long long)d.n, mr_graph_symbol_name(g, d.sym));
}

const char *mr_type_text(const mr_graph *g, const mr_value *v, char *buf)
{
    static const char *const types[] = {"f32", "i32", "weight", "cache"};
    char fmt[32];
    int n = snprintf(buf, MR_TYPE_TEXT, "%s", types[v->type]);
    if (v->type == MR_V_WEIGHT)
        n += snprintf(buf + n, MR_TYPE_TEXT - (size_t)n, "<%s>", mr_fmt_name(v->fmt, fmt));
    for (int i = 0; i < v->rank; i++) {
        buf[n++] = i ? ',' : '[';
        n += mr_dim_text(g, v->dim[i], buf + n, MR_TYPE_TEXT - (size_t)n);
    }
    if (v->rank)
        strcpy(buf + n, "]");
    return buf;
}

const char *mr_value_id(const mr_graph *g, int v, char *buf)
{
    const mr_value *x = mr_graph_value(g, v);
    if (x->name)
        return x->name;
    snprintf(buf, 24, "%d", v);
    return buf;
}
