/* Shared by the tests of compile/ and op/: graphs from files, made-up weights, and running a graph
 * on a backend.
 *
 * Made-up tensors say in their names what they are: "LABEL@ROWSxK" or "LABEL@ROWSxK@FORMAT"; their
 * numbers follow from the name alone, so any recipe over them has a meaning. */
#ifndef MR_TESTS_COMPILE_HARNESS_H
#define MR_TESTS_COMPILE_HARNESS_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/rng.h"
#include "compile/compile.h"

#define OK(expr)                                                                                   \
    do {                                                                                           \
        if ((expr) != MR_OK)                                                                       \
            fail_msg("%s:%d: %s: %s", __FILE__, __LINE__, #expr, mr_error());                      \
    } while (0)

/* ---- graphs ---- */

static inline mr_graph *graph_of_text(const char *name, const char *text)
{
    mr_graph *g = NULL;
    if (mr_graph_parse(&g, name, text, strlen(text)) != MR_OK)
        fail_msg("%s", mr_error());
    return g;
}

static inline char *read_file(const char *path)
{
    char *text;
    size_t len;
    OK(mr_file_read_all(path, 1 << 20, MR_MEM_OTHER, &text, &len));
    return text;
}

static inline mr_graph *graph_of_file(const char *path)
{
    char *text = read_file(path);
    mr_graph *g = graph_of_text(path, text);
    mr_free(text);
    return g;
}

/* ---- made-up tensors ---- */

static inline uint64_t name_seed(const char *name)
{
    uint64_t h = 0xcbf29ce484222325u;
    for (; *name; name++)
        h = (h ^ (unsigned char)*name) * 0x100000001b3u;
    return h;
}

static inline float made_up(const char *name, int64_t row, int64_t i)
{
    return (float)(mr_uniform(name_seed(name), (uint64_t)row, (uint64_t)i) - 0.5);
}

static inline void put16(unsigned char *p, uint16_t x)
{
    memcpy(p, &x, 2);
}

/* Random bytes, then the scales: blocks are valid whatever their other bytes are. */
static inline void made_up_blocks(mr_dtype t, const char *name, int64_t row, int64_t k,
                                  unsigned char *out)
{
    int size = mr_dtype_block_bytes(t);
    for (int64_t b = 0; b < k / mr_dtype_block(t); b++, out += size) {
        uint16_t d = mr_f32_to_f16((t == MR_Q6_K ? 0.0002f : 0.02f) * (1 + made_up(name, row, b)));
        for (int i = 0; i < size; i++)
            out[i] = (unsigned char)(256 * mr_uniform(name_seed(name) + 1, (uint64_t)row,
                                                      (uint64_t)(b * size + i)));
        put16(t == MR_Q6_K ? out + size - 2 : out, d);
        if (t == MR_Q4_1)
            put16(out + 2, mr_f32_to_f16(-0.1f));
    }
}

static inline void put_plain(mr_dtype t, float f, unsigned char *out)
{
    if (t == MR_F32)
        memcpy(out, &f, 4);
    else
        put16(out, t == MR_BF16 ? mr_f32_to_bf16(f) : mr_f32_to_f16(f));
}

/* Affine tensors: all data, all scales, all biases. */
static inline void made_up_affine(const mr_stored *t, int64_t row0, int64_t n, unsigned char *buf,
                                  mr_rows *out)
{
    int64_t data = t->k * t->fmt.bits / 8, groups = t->k / t->fmt.group;
    int size = mr_dtype_block_bytes(t->fmt.scale_dtype);
    unsigned char *scales = buf + n * data, *biases = scales + n * groups * size;
    for (int64_t r = 0; r < n; r++) {
        uint64_t row = (uint64_t)(row0 + r);
        for (int64_t i = 0; i < data; i++)
            buf[r * data + i] =
                (unsigned char)(256 * mr_uniform(name_seed(t->handle) + 1, row, (uint64_t)i));
        for (int64_t i = 0; i < groups; i++) {
            float s = (1 + made_up(t->handle, row0 + r, i)) / (float)(1 << t->fmt.bits);
            put_plain(t->fmt.scale_dtype, s, scales + (r * groups + i) * size);
            put_plain(t->fmt.scale_dtype, -0.5f, biases + (r * groups + i) * size);
        }
    }
    *out = (mr_rows){.dtype = MR_AFFINE,
                     .bits = t->fmt.bits,
                     .group = t->fmt.group,
                     .scale_dtype = t->fmt.scale_dtype,
                     .n = n,
                     .k = t->k,
                     .data = buf,
                     .scales = scales,
                     .biases = biases};
}

static inline void made_up_row(const mr_stored *t, int64_t row, unsigned char *out)
{
    for (int64_t i = 0; i < t->k && !mr_dtype_is_quantised(t->fmt.dtype); i++)
        put_plain(t->fmt.dtype, made_up(t->handle, row, i),
                  out + i * mr_dtype_block_bytes(t->fmt.dtype));
    if (mr_dtype_is_quantised(t->fmt.dtype))
        made_up_blocks(t->fmt.dtype, t->handle, row, t->k, out);
}

typedef struct tensors {
    char names[512][64]; /* handles point here */
    int n;
} tensors;

static inline mr_err made_up_lookup(void *ctx, const char *name, mr_stored *out)
{
    tensors *t = ctx;
    long long rows = 0, k = 0;
    char fmt[32] = "f32";
    const char *at = strchr(name, '@');
    assert_true(at && sscanf(at, "@%lldx%lld@%31s", &rows, &k, fmt) >= 2 && t->n < 512);
    snprintf(t->names[t->n], sizeof t->names[0], "%s", name);
    *out = (mr_stored){.handle = t->names[t->n++], .rows = rows, .k = k};
    assert_true(mr_fmt_parse(fmt, &out->fmt));
    return MR_OK;
}

static inline mr_err made_up_read(void *ctx, const mr_stored *t, int64_t row0, int64_t n, void *buf,
                                  mr_rows *out)
{
    (void)ctx;
    size_t bytes = mr_row_bytes(t->fmt.dtype, t->fmt.bits, t->k);
    if (t->fmt.dtype == MR_AFFINE) {
        made_up_affine(t, row0, n, buf, out);
        return MR_OK;
    }
    for (int64_t i = 0; i < n; i++)
        made_up_row(t, row0 + i, (unsigned char *)buf + (size_t)i * bytes);
    *out = (mr_rows){.dtype = t->fmt.dtype, .n = n, .k = t->k, .data = buf};
    return MR_OK;
}

/* Where weights come from. */
typedef struct source {
    mr_lookup_fn lookup;
    mr_reader_fn read;
    void *ctx;
} source;

/* ---- running ---- */

enum { MAX_SLOTS = 4, MAX_LEN = 512 };

/* A named input of a run. */
typedef struct named {
    const char *name;
    const void *data;
} named;

typedef struct machine {
    mr_backend *b;
    mr_plan *plan;
    mr_weight **w;
    mr_kv *kv[MAX_SLOTS];
    int64_t kv_len[MAX_SLOTS];
    void *arena;
    mr_run run; /* the last one */
    const void *inputs[16];
} machine;

static inline mr_weight *load_weight(mr_backend *b, const mr_graph *g, int value, const source *s)
{
    mr_arena *arena;
    mr_recipe *r;
    mr_weight *w = NULL;
    OK(mr_arena_new(&arena, MR_MEM_COMPILE));
    OK(mr_recipe_parse(&r, mr_attr_s(mr_graph_node(g, mr_graph_value(g, value)->node), "recipe"),
                       arena));
    OK(mr_recipe_bind(r, s->lookup, s->ctx));
    OK(b->v->weight_load(b, g, value, r, s->read, s->ctx, &w));
    mr_arena_free(arena);
    return w;
}

/* src NULL: made-up tensors.  The graph must outlive the machine. */
static inline void machine_open(machine *m, mr_backend *b, const mr_graph *g, int64_t rows,
                                int64_t outs, const source *src)
{
    tensors *t = calloc(1, sizeof *t);
    source made = {made_up_lookup, made_up_read, t};
    *m = (machine){.b = b};
    OK(mr_plan_compile(&m->plan, g, b, "test", rows, outs));
    m->w = calloc((size_t)m->plan->n_weights + 1, sizeof *m->w);
    for (int i = 0; i < m->plan->n_weights; i++)
        m->w[i] = load_weight(b, g, m->plan->weights[i], src ? src : &made);
    for (int i = 0; i < MAX_SLOTS; i++)
        OK(b->v->kv_new(b, m->plan->caches, m->plan->n_caches, MAX_LEN, rows, &m->kv[i]));
    m->arena = b->v->arena_alloc(b, (size_t)m->plan->arena_bytes);
    assert_non_null(m->arena);
    memset(m->arena, 0xff,
           (size_t)m->plan->arena_bytes); /* NaN: reading what no step wrote shows */
    free(t);
}

static inline void machine_close(machine *m)
{
    for (int i = 0; i < m->plan->n_weights; i++)
        m->b->v->weight_free(m->b, m->w[i]);
    for (int i = 0; i < MAX_SLOTS; i++)
        m->b->v->kv_free(m->b, m->kv[i]);
    m->b->v->arena_free(m->b, m->arena);
    free(m->w);
    mr_plan_free(m->plan);
}

static inline const void *input_named(const named *in, int n, const char *name)
{
    for (int i = 0; i < n; i++)
        if (!strcmp(in[i].name, name))
            return in[i].data;
    fail_msg("no data for input %s", name);
    return NULL;
}

/* Runs rows of sessions `slot` at `pos` (slot NULL: all of session 0). */
static inline mr_err machine_try(machine *m, int64_t rows, int64_t outs, const int32_t *pos,
                                 const int32_t *slot, const named *in, int n_in)
{
    static const int32_t zeros[4096];
    assert_true(m->plan->n_inputs <= 16 && rows <= 4096);
    for (int i = 0; i < m->plan->n_inputs; i++)
        m->inputs[i] = input_named(in, n_in, m->plan->inputs[i]);
    for (int64_t r = 0; r < rows; r++) {
        int s = slot ? slot[r] : 0;
        assert_in_range(s, 0, MAX_SLOTS - 1);
        if (pos[r] + 1 > m->kv_len[s])
            m->kv_len[s] = pos[r] + 1;
        MR_TRY(m->b->v->kv_reserve(m->b, m->kv[s], m->kv_len[s]));
    }
    m->run = (mr_run){.rows = rows,
                      .outs = outs,
                      .pos = pos,
                      .slot = slot ? slot : zeros,
                      .kv = m->kv,
                      .kv_len = m->kv_len,
                      .inputs = m->inputs,
                      .weights = m->w,
                      .arena = m->arena};
    return m->b->v->run(m->b, m->plan, &m->run, 0, m->plan->n_steps);
}

static inline const float *machine_output(machine *m, int i, int64_t *n)
{
    *n = 1;
    for (int k = 0; k < m->plan->outputs[i].rank; k++)
        *n *= mr_dim_bind(m->plan->outputs[i].dim[k], m->run.rows, m->run.outs);
    return m->b->v->output(m->b, m->plan, &m->run, i);
}

static inline mr_backend *open_ref(void)
{
    mr_backend *b = NULL;
    OK(mr_backend_ref(&b, &(mr_backend_opts){.threads = 1, .precision = MR_EXACT}));
    return b;
}

/* ---- a backend for passes, which only ask ---- */

typedef struct picky {
    mr_backend base;
    mr_op refused; /* MR_OP_COUNT: everything is fine */
} picky;

static inline mr_err picky_supports(const mr_backend *b, const mr_graph *g, const mr_node *n)
{
    (void)g;
    if (n->op == ((const picky *)b)->refused)
        return mr_fail(MR_EUNSUPPORTED, "%s: backend picky does not like it",
                       mr_op_get(n->op)->name);
    return MR_OK;
}

static inline mr_backend *open_picky(picky *p, mr_op refused)
{
    static const mr_backend_vtable v = {.name = "picky", .supports = picky_supports};
    p->base.v = &v;
    p->refused = refused;
    return &p->base;
}

#endif
