/* Random graphs that look like models: layers of norms, attention of all kinds, gated MLPs and
 * experts, with biases, formats, shared and dead values thrown in.  The text follows from the seed
 * alone. */
#ifndef MR_TESTS_COMPILE_RANDOM_GRAPH_H
#define MR_TESTS_COMPILE_RANDOM_GRAPH_H

#include "harness.h"

typedef struct dice {
    uint64_t seed, drawn;
} dice;

static inline int roll(dice *d, int n)
{
    return (int)(n * mr_uniform(d->seed, 0, d->drawn++));
}

static inline const char *one_of(dice *d, const char *const *words, int n)
{
    return words[roll(d, n)];
}

/* A weight of n rows of 32. */
static inline void random_weight(dice *d, mr_buf *b, const char *name, int layer, int n)
{
    static const char *const formats[] = {"f32", "f32", "bf16", "f16", "q8_0", "q4_0", "q4_1"};
    const char *f = one_of(d, formats, 7);
    mr_buf_printf(b, "%%%s%d: weight<%s>[%d,32] = weight recipe=\"%s%d@%dx32@%s\"\n", name, layer,
                  f, n, name, layer, n, f);
}

/* %NAMEy = linear(x) of n rows, perhaps with a bias. */
static inline void random_linear(dice *d, mr_buf *b, const char *y, const char *x, int layer, int n)
{
    char w[16];
    snprintf(w, sizeof w, "w_%s", y);
    random_weight(d, b, w, layer, n);
    if (roll(d, 2)) {
        mr_buf_printf(b, "%%b_%s%d: weight<f32>[%d] = weight recipe=\"b_%s%d@1x%d\"\n", y, layer, n,
                      y, layer, n);
        mr_buf_printf(b, "%%%s%d = linear(%%%s%d, %%%s%d, %%b_%s%d)\n", y, layer, x, layer, w,
                      layer, y, layer);
    } else {
        mr_buf_printf(b, "%%%s%d = linear(%%%s%d, %%%s%d)\n", y, layer, x, layer, w, layer);
    }
}

static inline void random_norm(dice *d, mr_buf *b, const char *y, const char *x, int layer,
                               int width)
{
    int kind = roll(d, 4);
    if (kind == 0) {
        mr_buf_printf(b, "%%%s%d = rmsnorm(%%%s%d) eps=1e-5\n", y, layer, x, layer);
        return;
    }
    mr_buf_printf(b, "%%n_%s%d: weight<%s>[%d] = weight recipe=\"n_%s%d@1x%d@%s\"\n", y, layer,
                  kind == 1 ? "bf16" : "f32", width, y, layer, width, kind == 1 ? "bf16" : "f32");
    mr_buf_printf(b, "%%%s%d = rmsnorm(%%%s%d, %%n_%s%d) eps=1e-5 offset=%d\n", y, layer, x, layer,
                  y, layer, roll(d, 2));
}

/* %o from %h: q, k, v; norms of heads, rope of all kinds, every mask; or one latent head for all.
 */
static inline void random_attention(dice *d, mr_buf *b, int l)
{
    static const char *const masks[] = {"\"causal\"", "\"window\" window=3", "\"block\" block=4",
                                        "\"full\""};
    bool latent = roll(d, 4) == 0;
    random_linear(d, b, "q", "h", l, 32);
    random_linear(d, b, "k", "h", l, 16);
    random_linear(d, b, "v", "h", l, 16);
    mr_buf_printf(b, "%%qh%d = heads(%%q%d) n=%d\n", l, l, latent ? 2 : 4);
    mr_buf_printf(b, "%%kh%d = heads(%%k%d) n=%d\n%%vh%d = heads(%%v%d) n=2\n", l, l,
                  latent ? 1 : 2, l, l);
    const char *k = "kh", *q = "qh";
    int dk = latent ? 16 : 8;
    if (roll(d, 2)) {
        random_norm(d, b, "qn", q, l, dk);
        random_norm(d, b, "kn", k, l, dk);
        q = "qn";
        k = "kn";
    }
    if (roll(d, 4)) {
        int interleaved = roll(d, 2), start = latent ? 8 : 0;
        mr_buf_printf(b, "%%t%d = rope_table(%%pos) theta=10000 dim=8 kind=\"linear\" factor=%d\n",
                      l, 1 + roll(d, 2));
        mr_buf_printf(b, "%%qr%d = rope(%%%s%d, %%t%d) start=%d interleaved=%d\n", l, q, l, l,
                      start, interleaved);
        mr_buf_printf(b, "%%kr%d = rope(%%%s%d, %%t%d) start=%d interleaved=%d\n", l, k, l, l,
                      start, interleaved);
        q = "qr";
        k = "kr";
    }
    mr_buf_printf(b, "%%c%d: cache = cache name=\"%d\" heads=%d dk=%d dv=%d\n", l, l,
                  latent ? 1 : 2, dk, latent ? 0 : 8);
    mr_buf_printf(b,
                  latent ? "%%a%d = append(%%c%d, %%%s%d, _, %%pos)\n"
                         : "%%a%d = append(%%c%d, %%%s%d, %%vh%d, %%pos)\n",
                  l, l, k, l, l);
    mr_buf_printf(b, "%%y%d = attention(%%%s%d, %%a%d, %%pos) mask=%s scale=0.3 dv=%d softcap=%d\n",
                  l, q, l, l, one_of(d, masks, 4), latent ? 16 : 8, 20 * roll(d, 2));
    mr_buf_printf(b, "%%f%d = heads(%%y%d) n=0\n", l, l);
    random_linear(d, b, "o", "f", l, 32);
}

static const char *const gate_functions[] = {"silu", "gelu_tanh", "gelu", "sigmoid"};

static inline void random_mlp(dice *d, mr_buf *b, int l)
{
    random_linear(d, b, "g", "i", l, 32);
    random_linear(d, b, "u", "i", l, 32);
    mr_buf_printf(b, "%%ga%d = %s(%%g%d)\n", l, one_of(d, gate_functions, 4), l);
    mr_buf_printf(b, roll(d, 2) ? "%%m%d = mul(%%ga%d, %%u%d)\n" : "%%m%d = mul(%%u%d, %%ga%d)\n",
                  l, l, l);
    random_linear(d, b, "e", "m", l, 32);
    if (roll(d, 6) == 0)
        mr_buf_printf(b, "output %%u%d as \"up%d\"\n", l, l);
}

static inline void random_moe(dice *d, mr_buf *b, int l)
{
    mr_buf_printf(b, "%%wr%d: weight<f32>[4,32] = weight recipe=\"wr%d@4x32\"\n", l, l);
    mr_buf_printf(b, "%%lo%d = linear(%%i%d, %%wr%d) act=\"f32\"\n", l, l, l);
    mr_buf_printf(b, "%%id%d, %%we%d = route(%%lo%d) k=2 score=\"%s\" norm=%d\n", l, l, l,
                  roll(d, 2) ? "softmax" : "sigmoid", roll(d, 2));
    for (int i = 0; i < 3; i++)
        mr_buf_printf(
            b, "%%x%d_%d: weight<bf16>[4,32,32] = weight recipe=\"x%d.%d.{0..3}@32x32@bf16\"\n", i,
            l, i, l);
    mr_buf_printf(b, "%%eg%d = expert_linear(%%i%d, %%x0_%d, %%id%d)\n", l, l, l, l);
    mr_buf_printf(b, "%%eu%d = expert_linear(%%i%d, %%x1_%d, %%id%d)\n", l, l, l, l);
    mr_buf_printf(b, "%%ef%d = %s(%%eg%d)\n%%em%d = mul(%%ef%d, %%eu%d)\n", l,
                  one_of(d, gate_functions, 4), l, l, l, l);
    mr_buf_printf(b, "%%ed%d = expert_linear(%%em%d, %%x2_%d, %%id%d)\n", l, l, l, l);
    mr_buf_printf(b, "%%e%d = combine(%%ed%d, %%we%d)\n", l, l, l);
}

static inline void random_layer(dice *d, mr_buf *b, int l)
{
    random_norm(d, b, "h", "x", l, 32);
    random_attention(d, b, l);
    mr_buf_printf(b, "%%s%d = add(%%x%d, %%o%d)\n", l, l, l);
    if (roll(d, 3) == 0)
        mr_buf_printf(b, "%%dead%d = silu(%%s%d)\n", l, l);
    random_norm(d, b, "i", "s", l, 32);
    if (roll(d, 3))
        random_mlp(d, b, l);
    else
        random_moe(d, b, l);
    mr_buf_printf(b, "%%z%d = add(%%s%d, %%e%d)\n", l, l, l);
    mr_buf_printf(b, "%%x%d = scale(%%z%d) by=%s\n", l + 1, l, roll(d, 2) ? "1" : "0.5");
    if (roll(d, 4) == 0)
        mr_buf_printf(b, "%%part%d = slice(%%z%d) start=8 len=16 output %%part%d as \"tap%d\"\n", l,
                      l, l, l);
}

static inline mr_graph *random_graph(uint64_t seed)
{
    dice d = {.seed = seed};
    mr_buf b = {0};
    int layers = 1 + roll(&d, 4);
    mr_buf_printf(&b, "graph \"random %d\" {\n%%ids: i32[ROWS] = input name=\"ids\"\n", (int)seed);
    mr_buf_puts(&b,
                "%pos: i32[ROWS] = input name=\"pos\"\n%rows: i32[OUT] = input name=\"out_rows\"\n"
                "%table: weight<f32>[10,32] = weight recipe=\"table@10x32\"\n%x0 = embed(%ids, "
                "%table) scale=4\n");
    for (int l = 0; l < layers; l++)
        random_layer(&d, &b, l);
    mr_buf_printf(&b, "%%last%d = gather(%%x%d, %%rows)\n", layers, layers);
    random_norm(&d, &b, "final", "last", layers, 32);
    mr_buf_printf(
        &b, "%%logits = linear(%%final%d, %%table) act=\"f32\"\noutput %%logits as \"logits\"\n}\n",
        layers);
    OK(mr_buf_check(&b));
    mr_graph *g = graph_of_text("random", b.data);
    mr_buf_free(&b);
    return g;
}

/* All outputs of three runs over two sessions, 5, 2 and 1 rows; free with free(). */
static inline float *random_results(mr_backend *b, const mr_graph *g, int *n)
{
    static const int32_t ids[8] = {3, 1, 4, 1, 5, 9, 2, 6}, pos[8] = {0, 1, 2, 0, 1, 3, 4, 2},
                         slot[8] = {0, 0, 0, 1, 1, 0, 0, 1}, rows[2] = {0, 1};
    static const int count[3] = {5, 2, 1}, outs[3] = {2, 1, 1};
    float *all = malloc(1 << 16);
    machine m;
    machine_open(&m, b, g, 5, 2, NULL);
    *n = 0;
    for (int i = 0, from = 0; i < 3; from += count[i++]) {
        named in[] = {{"ids", ids + from}, {"pos", pos + from}, {"out_rows", rows}};
        OK(machine_try(&m, count[i], outs[i], pos + from, slot + from, in, 3));
        for (int k = 0; k < m.plan->n_outputs; k++) {
            int64_t size;
            const float *y = machine_output(&m, k, &size);
            memcpy(all + *n, y, (size_t)size * sizeof *y);
            *n += (int)size;
        }
    }
    machine_close(&m);
    return all;
}

#endif
