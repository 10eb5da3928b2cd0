/* Blocks over a made-up source of weights: what they emit, what they ask for, how they fail. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "flow/blocks.h"

/* Everything is there under its own name in bf16, but what is listed. */
typedef struct store {
    const char *absent[4];
    const char *plus_one;
    bool differs; /* the answer to `same` */
    int finds, sames;
    char last[256];
} store;

static mr_err find(void *ctx, const char *name, int rank, const int64_t *dim, bool required,
                   mr_found *out)
{
    store *s = ctx;
    s->finds++;
    snprintf(s->last, sizeof s->last, "%s", name);
    for (int i = 0; i < rank; i++)
        assert_true(dim[i] > 0);
    for (int i = 0; i < 4 && s->absent[i]; i++)
        if (!strcmp(name, s->absent[i]))
            return required ? mr_fail(MR_EFORMAT, "store: \"%s\" is missing", name) : MR_OK;
    snprintf(out->recipe, sizeof out->recipe, "%s", name);
    out->fmt = (mr_fmt){.dtype = MR_BF16};
    out->plus_one = s->plus_one && !strcmp(name, s->plus_one);
    return MR_OK;
}

static mr_err same(void *ctx, const char *a, const char *b, bool *out)
{
    store *s = ctx;
    assert_string_equal(a, "head.weight");
    assert_string_equal(b, "embed.weight");
    s->sames++;
    *out = !s->differs;
    return MR_OK;
}

static mr_flow *start(store *s)
{
    mr_source source = {.ctx = s, .find = find, .same = same};
    mr_flow *f;
    assert_int_equal(mr_flow_new(&f, "test", &source), MR_OK);
    return f;
}

/* Finishes with y, gathered if it has rows, and gives the text. */
static char *text_of(mr_flow *f, mr_val y)
{
    mr_graph *g;
    mr_buf out = {0};
    if (mr_flow_finish(f, y, &g) != MR_OK)
        fail_msg("%s", mr_error());
    assert_int_equal(mr_graph_print(g, &out), MR_OK);
    mr_graph_free(g);
    return out.data;
}

static void expect(char *got, const char *want)
{
    if (strcmp(got, want) != 0)
        fail_msg("got\n%s\nwanted\n%s", got, want);
    mr_free(got);
}

static void small(void **state)
{
    store s = {.plus_one = "n.weight", .absent = {"none"}};
    (void)state;
    mr_flow *f = start(&s);
    mr_val x = mr_flow_embed(f, "embed.weight", 32, 16, 4);
    x = mr_flow_norm(f, x, "m.weight", (mr_norm_spec){.eps = 1e-6, .offset = 1});
    x = mr_flow_norm(f, x, "n.weight", (mr_norm_spec){.eps = 1e-6, .offset = 1});
    x = mr_flow_norm(f, x, "n.weight", (mr_norm_spec){.eps = 1e-5, .offset = 1});
    x = mr_flow_linear(f, x, "l", 8, true);
    mr_val y = mr_flow_act(f, mr_flow_slice(f, x, 0, 4), MR_ACT_GELU);
    y = mr_flow_mul(f, y, mr_flow_slice(f, x, 4, 4));
    y = mr_flow_add(f, y, mr_flow_heads(f, mr_flow_heads(f, y, 2), 0));
    assert_int_equal(mr_flow_weight_try(f, "none", 1, (int64_t[]){3}), MR_NO_VAL);
    assert_false(mr_flow_failed(f));
    assert_ptr_equal(mr_flow_graph(f), mr_flow_graph(f));
    assert_int_equal(mr_flow_ids(f), mr_flow_ids(f));
    /* embed, m, n (once), l, its bias, none */
    assert_int_equal(s.finds, 6);
    expect(text_of(f, mr_flow_concat(f, y, y)),
           "graph \"test\" {\n"
           "  %ids: i32[ROWS] = input name=\"ids\"\n"
           "  %1: weight<bf16>[32,16] = weight recipe=\"embed.weight\"\n"
           "  %2: f32[ROWS,16] = embed(%ids, %1, _) scale=4\n"
           "  %3: weight<bf16>[16] = weight recipe=\"m.weight\"\n"
           "  %4: f32[ROWS,16] = rmsnorm(%2, %3) eps=1e-06 offset=1\n"
           "  %5: weight<bf16>[16] = weight recipe=\"n.weight\"\n"
           "  %6: f32[ROWS,16] = rmsnorm(%4, %5) eps=1e-06 offset=0\n"
           "  %7: f32[ROWS,16] = rmsnorm(%6, %5) eps=1e-05 offset=0\n"
           "  %8: weight<bf16>[8,16] = weight recipe=\"l.weight\"\n"
           "  %9: weight<bf16>[8] = weight recipe=\"l.bias\"\n"
           "  %l: f32[ROWS,8] = linear(%7, %8, %9) act=\"auto\"\n"
           "  %11: f32[ROWS,4] = slice(%l) start=0 len=4\n"
           "  %12: f32[ROWS,4] = gelu(%11)\n"
           "  %13: f32[ROWS,4] = slice(%l) start=4 len=4\n"
           "  %14: f32[ROWS,4] = mul(%12, %13)\n"
           "  %15: f32[ROWS,2,2] = heads(%14) n=2\n"
           "  %16: f32[ROWS,4] = heads(%15) n=0\n"
           "  %17: f32[ROWS,4] = add(%14, %16)\n"
           "  %18: f32[ROWS,8] = concat(%17, %17)\n"
           "  output %18 as \"logits\"\n"
           "}\n");
}

static const mr_rope_spec plain_rope = {.theta = 1e4, .dim = 4, .factor = 1, .mscale = 1};

static void attention(void **state)
{
    store s = {0};
    mr_attention_spec a = {.layer = 3,
                           .prefix = "a",
                           .qkv = "qkv",
                           .o = "dense",
                           .q_norm = "qn",
                           .k_norm = "kn",
                           .norm = {.eps = 1e-6},
                           .heads = 4,
                           .kv_heads = 2,
                           .head_dim = 8,
                           .rope = &plain_rope,
                           .mask = MR_MASK_WINDOW,
                           .window = 5,
                           .block = 7,
                           .scale = 0.5,
                           .softcap = 9,
                           .o_bias = true};
    (void)state;
    mr_flow *f = start(&s);
    mr_val x = mr_flow_embed(f, "embed.weight", 32, 16, 1);
    expect(
        text_of(f, mr_flow_attention(f, x, &a)),
        "graph \"test\" {\n"
        "  %ids: i32[ROWS] = input name=\"ids\"\n"
        "  %1: weight<bf16>[32,16] = weight recipe=\"embed.weight\"\n"
        "  %2: f32[ROWS,16] = embed(%ids, %1, _) scale=1\n"
        "  %3: weight<bf16>[64,16] = weight recipe=\"a.qkv.weight\"\n"
        "  %a.qkv: f32[ROWS,64] = linear(%2, %3, _) act=\"auto\"\n"
        "  %5: f32[ROWS,32] = slice(%a.qkv) start=0 len=32\n"
        "  %6: f32[ROWS,16] = slice(%a.qkv) start=32 len=16\n"
        "  %7: f32[ROWS,16] = slice(%a.qkv) start=48 len=16\n"
        "  %8: f32[ROWS,4,8] = heads(%5) n=4\n"
        "  %9: f32[ROWS,2,8] = heads(%6) n=2\n"
        "  %10: f32[ROWS,2,8] = heads(%7) n=2\n"
        "  %11: weight<bf16>[8] = weight recipe=\"a.qn.weight\"\n"
        "  %12: f32[ROWS,4,8] = rmsnorm(%8, %11) eps=1e-06 offset=0\n"
        "  %13: weight<bf16>[8] = weight recipe=\"a.kn.weight\"\n"
        "  %14: f32[ROWS,2,8] = rmsnorm(%9, %13) eps=1e-06 offset=0\n"
        "  %pos: i32[ROWS] = input name=\"pos\"\n"
        "  %16: f32[ROWS,4] = rope_table(%pos, _) theta=10000 dim=4 kind=\"none\" factor=1 "
        "low=1 high=4 orig=0 beta_fast=32 beta_slow=1 mscale=1 truncate=1 angles=0\n"
        "  %17: f32[ROWS,4,8] = rope(%12, %16) start=0 interleaved=0\n"
        "  %18: f32[ROWS,2,8] = rope(%14, %16) start=0 interleaved=0\n"
        "  %19: cache = cache name=\"layers.3\" heads=2 dk=8 dv=8 window=5\n"
        "  %20: cache = append(%19, %18, %10, %pos)\n"
        "  %21: f32[ROWS,4,8] = attention(%17, %20, %pos, _, _) mask=\"window\" window=5 block=0 "
        "scale=0.5 softcap=9 dv=8 span=0\n"
        "  %22: f32[ROWS,32] = heads(%21) n=0\n"
        "  %23: weight<bf16>[16,32] = weight recipe=\"a.dense.weight\"\n"
        "  %24: weight<bf16>[16] = weight recipe=\"a.dense.bias\"\n"
        "  %a.dense: f32[ROWS,16] = linear(%22, %23, %24) act=\"auto\"\n"
        "  output %a.dense as \"logits\"\n"
        "}\n");
}

/* A layer with values from its keys; one that reads its cache, for the wanted rows alone. */
static void shared_attention(void **state)
{
    store s = {0};
    mr_rope_spec r = {.theta = 100,
                      .dim = 8,
                      .kind = MR_ROPE_PROPORTIONAL,
                      .factor = 1,
                      .angles = 2,
                      .mscale = 1};
    mr_attention_spec a = {.layer = 3,
                           .prefix = "a",
                           .heads = 2,
                           .kv_heads = 1,
                           .head_dim = 8,
                           .rope = &r,
                           .mask = MR_MASK_WINDOW,
                           .window = 5,
                           .span = 1,
                           .scale = 1,
                           .v_from_k = true,
                           .v_norm = true,
                           .norm = {.eps = 0.5}};
    mr_attention_spec b = a;
    (void)state;
    b.layer = 4;
    b.prefix = "b";
    b.shared = b.wanted = true;
    b.source = 3;
    mr_flow *f = start(&s);
    mr_val x = mr_flow_attention(f, mr_flow_embed(f, "e", 32, 16, 1), &a);
    mr_val y = mr_flow_attention(f, mr_flow_wanted(f, x), &b);
    assert_int_equal(mr_graph_value(mr_flow_graph(f), y)->dim[0].sym, MR_SYM_OUT);
    char *got = text_of(f, y);
    assert_non_null(strstr(got, "  %a.k_proj: f32[ROWS,8] = linear("));
    assert_null(strstr(got, "v_proj"));
    assert_null(strstr(got, "b.k_proj"));
    assert_non_null(strstr(got, " = heads(%a.k_proj) n=1\n"));
    assert_non_null(strstr(got, "  %10: f32[ROWS,1,8] = rmsnorm(%9, _) eps=0.5 offset=0\n"));
    assert_non_null(strstr(got, "kind=\"proportional\" factor=1 low=1 high=4 orig=0 beta_fast=32 "
                                "beta_slow=1 mscale=1 truncate=1 angles=2\n"));
    assert_non_null(strstr(got, "%pos, %span, _) mask=\"window\" window=5 block=0 scale=1 "
                                "softcap=0 dv=8 span=1\n"));
    assert_non_null(strstr(got, "f32[OUT,2,8] = attention("));
    assert_non_null(strstr(got, "%pos, %span, %out_rows) mask=\"window\""));
    assert_ptr_equal(strstr(strstr(got, "= cache ") + 1, "= cache "), NULL);
    mr_free(got);
}

/* Rows that a run may give, ids read as others, stored scales. */
static void given_rows(void **state)
{
    static const int32_t media[3] = {7, -1, 9};
    store s = {0};
    mr_flow *f = start(&s);
    (void)state;
    mr_val ids = mr_flow_alias(f, mr_flow_ids(f), 2, media);
    mr_val x = mr_flow_lookup(f, ids, "e", 32, 16, 4, true);
    x = mr_flow_scale(f, mr_flow_scale_weight(f, x, "s"), 0.5);
    expect(text_of(f, mr_flow_wanted(f, mr_flow_norm(f, x, NULL, (mr_norm_spec){.eps = 1}))),
           "graph \"test\" {\n"
           "  %ids: i32[ROWS] = input name=\"ids\"\n"
           "  %1: i32[ROWS] = alias(%ids) to=2 a=7 b=-1 c=9\n"
           "  %2: weight<bf16>[32,16] = weight recipe=\"e\"\n"
           "  %embeds: f32[ROWS,16] = input name=\"embeds\"\n"
           "  %4: f32[ROWS,16] = embed(%1, %2, %embeds) scale=4\n"
           "  %5: weight<bf16>[1] = weight recipe=\"s\"\n"
           "  %6: f32[ROWS,16] = scale(%4, %5) by=1\n"
           "  %7: f32[ROWS,16] = scale(%6, _) by=0.5\n"
           "  %8: f32[ROWS,16] = rmsnorm(%7, _) eps=1 offset=0\n"
           "  %out_rows: i32[OUT] = input name=\"out_rows\"\n"
           "  %10: f32[OUT,16] = gather(%8, %out_rows)\n"
           "  output %10 as \"logits\"\n"
           "}\n");
}

/* Whatever mask: the attribute of the other masks is 0, and no ring is kept without a window. */
static void masks(void **state)
{
    static const struct {
        mr_mask mask;
        const char *text;
    } cases[] = {{MR_MASK_CAUSAL, "mask=\"causal\" window=0 block=0"},
                 {MR_MASK_BLOCK, "mask=\"block\" window=0 block=7"},
                 {MR_MASK_FULL, "mask=\"full\" window=0 block=0"}};
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        store s = {0};
        mr_attention_spec a = {.prefix = "a",
                               .heads = 2,
                               .kv_heads = 1,
                               .head_dim = 8,
                               .mask = cases[i].mask,
                               .window = 5,
                               .block = 7,
                               .scale = 1};
        mr_flow *f = start(&s);
        char *got = text_of(f, mr_flow_attention(f, mr_flow_embed(f, "e", 32, 16, 1), &a));
        assert_non_null(strstr(got, cases[i].text));
        assert_non_null(strstr(got, "dv=8 window=0"));
        assert_null(strstr(got, "rope"));
        assert_non_null(strstr(got, "a.q_proj.weight"));
        mr_free(got);
    }
}

static char *mla_text(store *s, int64_t q_lora)
{
    mr_mla_spec a = {.prefix = "a",
                     .heads = 2,
                     .q_lora = q_lora,
                     .kv_lora = 12,
                     .nope = 6,
                     .rope_dim = 4,
                     .v_dim = 10,
                     .latent_eps = 1e-6,
                     .rope = &plain_rope,
                     .scale = 0.25,
                     .bias = true};
    mr_flow *f = start(s);
    return text_of(f, mr_flow_mla(f, mr_flow_embed(f, "e", 32, 16, 1), &a));
}

static void latent_attention(void **state)
{
    store halves = {0}, whole = {.absent = {"a.embed_q.weight"}};
    (void)state;
    char *got = mla_text(&halves, 0);
    assert_non_null(strstr(got, "weight<bf16>[2,12,6] = weight recipe=\"a.embed_q.weight\""));
    assert_non_null(strstr(got, "weight<bf16>[2,10,12] = weight recipe=\"a.unembed_out.weight\""));
    assert_non_null(strstr(got, "weight<bf16>[20,16] = weight recipe=\"a.q_proj.weight\""));
    assert_null(strstr(got, "a.q_proj.bias"));
    assert_non_null(strstr(got, "a.kv_a_proj_with_mqa.bias"));
    assert_non_null(strstr(got, "a.o_proj.bias"));
    assert_non_null(strstr(got, "heads=1 dk=16 dv=0 window=0"));
    assert_non_null(strstr(got, "start=12 interleaved=0"));
    mr_free(got);
    got = mla_text(&whole, 8);
    assert_non_null(strstr(got, "weight<bf16>[2,12,6] = weight recipe=\"a.kv_b_proj.weight "
                                ":rows(16,0,6) :t(6)\""));
    assert_non_null(strstr(got, "weight<bf16>[2,10,12] = weight recipe=\"a.kv_b_proj.weight "
                                ":rows(16,6,10)\""));
    assert_non_null(strstr(got, "weight<bf16>[8] = weight recipe=\"a.q_a_proj.bias\""));
    assert_non_null(strstr(got, "a.q_a_layernorm.weight"));
    assert_null(strstr(got, "a.q_b_proj.bias"));
    mr_free(got);
}

static void experts(void **state)
{
    store s = {0};
    mr_moe_spec m = {.prefix = "m",
                     .router = "gate",
                     .router_bias = "gate.bias",
                     .experts = 8,
                     .top_k = 2,
                     .groups = 2,
                     .keep = 1,
                     .width = 6,
                     .score = "sigmoid",
                     .norm = true,
                     .norm_eps = 1e-20,
                     .scale = 2.5,
                     .fn = MR_ACT_SILU,
                     .shared_width = 12,
                     .shared = "shared"};
    (void)state;
    mr_flow *f = start(&s);
    expect(text_of(f, mr_flow_moe(f, mr_flow_embed(f, "e", 32, 16, 1), &m)),
           "graph \"test\" {\n"
           "  %ids: i32[ROWS] = input name=\"ids\"\n"
           "  %1: weight<bf16>[32,16] = weight recipe=\"e\"\n"
           "  %2: f32[ROWS,16] = embed(%ids, %1, _) scale=1\n"
           "  %3: weight<bf16>[8,16] = weight recipe=\"m.gate.weight\"\n"
           "  %m.gate: f32[ROWS,8] = linear(%2, %3, _) act=\"f32\"\n"
           "  %5: weight<bf16>[8] = weight recipe=\"m.gate.bias\"\n"
           "  %6: i32[ROWS,2], %7: f32[ROWS,2] = route(%m.gate, %5, _, _) k=2 "
           "score=\"sigmoid\" "
           "groups=2 keep=1 norm=1 eps=1e-20 scale=2.5 group_sum=2 block=0 capacity=0\n"
           "  %8: weight<bf16>[8,6,16] = weight recipe=\"m.experts.{0..7}.gate_proj.weight\"\n"
           "  %9: weight<bf16>[8,6,16] = weight recipe=\"m.experts.{0..7}.up_proj.weight\"\n"
           "  %10: weight<bf16>[8,16,6] = weight recipe=\"m.experts.{0..7}.down_proj.weight\"\n"
           "  %11: f32[ROWS,2,6] = expert_linear(%2, %8, %6) act=\"auto\"\n"
           "  %12: f32[ROWS,2,6] = expert_linear(%2, %9, %6) act=\"auto\"\n"
           "  %13: f32[ROWS,2,6] = silu(%11)\n"
           "  %14: f32[ROWS,2,6] = mul(%13, %12)\n"
           "  %15: f32[ROWS,2,16] = expert_linear(%14, %10, %6) act=\"auto\"\n"
           "  %16: f32[ROWS,16] = combine(%15, %7)\n"
           "  %17: weight<bf16>[12,16] = weight recipe=\"m.shared.gate_proj.weight\"\n"
           "  %m.shared.gate_proj: f32[ROWS,12] = linear(%2, %17, _) act=\"auto\"\n"
           "  %19: weight<bf16>[12,16] = weight recipe=\"m.shared.up_proj.weight\"\n"
           "  %m.shared.up_proj: f32[ROWS,12] = linear(%2, %19, _) act=\"auto\"\n"
           "  %21: f32[ROWS,12] = silu(%m.shared.gate_proj)\n"
           "  %22: f32[ROWS,12] = mul(%21, %m.shared.up_proj)\n"
           "  %23: weight<bf16>[16,12] = weight recipe=\"m.shared.down_proj.weight\"\n"
           "  %m.shared.down_proj: f32[ROWS,16] = linear(%22, %23, _) act=\"auto\"\n"
           "  %25: f32[ROWS,16] = add(%16, %m.shared.down_proj)\n"
           "  output %25 as \"logits\"\n"
           "}\n");
}

static char *head_text(store *s, mr_head_spec h)
{
    mr_flow *f = start(s);
    h.norm_name = "n.weight";
    h.head_name = "head.weight";
    h.embed_name = "embed.weight";
    h.vocab = 32;
    return text_of(f, mr_flow_head(f, mr_flow_embed(f, "embed.weight", 32, 16, 1), &h));
}

static void heads(void **state)
{
    store s = {0};
    (void)state;
    char *got = head_text(&s, (mr_head_spec){.act_f32 = true, .bias = true, .softcap = 30});
    assert_non_null(strstr(got, "gather(%2, %out_rows)"));
    assert_non_null(strstr(got, "recipe=\"head.weight\""));
    assert_non_null(strstr(got, "recipe=\"head.bias\""));
    assert_non_null(strstr(got, "act=\"f32\""));
    assert_non_null(strstr(got, "softcap(%9) cap=30"));
    assert_int_equal(s.sames, 0);
    mr_free(got);
    got = head_text(&s, (mr_head_spec){.tied = true});
    assert_null(strstr(got, "head.weight"));
    assert_non_null(strstr(got, "linear(%6, %1, _) act=\"auto\""));
    assert_null(strstr(got, "softcap"));
    assert_int_equal(s.sames, 1);
    mr_free(got);
    s.differs = true;
    got = head_text(&s, (mr_head_spec){.tied = true});
    assert_non_null(strstr(got, "recipe=\"head.weight\""));
    mr_free(got);
}

/* Equal tables are one node, whatever their pairs; factors are taken if they are there. */
static void rope_tables(void **state)
{
    store s = {.absent = {"none.weight"}};
    mr_rope_spec r = plain_rope, other = plain_rope;
    (void)state;
    mr_flow *f = start(&s);
    mr_val a = mr_flow_rope_table(f, &r);
    other.interleaved = true;
    assert_int_equal(mr_flow_rope_table(f, &other), a);
    r.factors = "none.weight";
    mr_val b = mr_flow_rope_table(f, &r);
    assert_true(b != a && mr_flow_rope_table(f, &r) == b);
    assert_int_equal(s.finds, 1);
    r.factors = "some.weight";
    mr_val c = mr_flow_rope_table(f, &r);
    assert_true(c != a && c != b);
    /* more kinds than are remembered still work */
    for (int i = 1; i < 20; i++) {
        r = (mr_rope_spec){.theta = 10.0 * i,
                           .dim = 8,
                           .kind = MR_ROPE_LLAMA3,
                           .factor = 8,
                           .low = 1,
                           .high = 4,
                           .orig = 64,
                           .mscale = 1};
        mr_val t = mr_flow_rope_table(f, &r);
        if (i < 5)
            assert_int_equal(mr_flow_rope_table(f, &r), t);
    }
    assert_false(mr_flow_failed(f));
    mr_flow_free(f);
}

/* The first failure is kept; everything after it does nothing. */
static void sticky(void **state)
{
    store s = {.absent = {"l.weight"}};
    mr_graph *g = (mr_graph *)1;
    (void)state;
    mr_flow *f = start(&s);
    mr_val x = mr_flow_embed(f, "embed.weight", 32, 16, 1);
    assert_int_equal(mr_flow_linear(f, x, "l", 8, true), MR_NO_VAL);
    assert_true(mr_flow_failed(f));
    int finds = s.finds;
    mr_attention_spec a = {.prefix = "a",
                           .heads = 2,
                           .kv_heads = 1,
                           .head_dim = 8,
                           .rope = &plain_rope,
                           .q_norm = "q",
                           .scale = 1};
    mr_mla_spec mla = {.prefix = "a",
                       .heads = 2,
                       .kv_lora = 4,
                       .nope = 4,
                       .rope_dim = 4,
                       .v_dim = 4,
                       .rope = &plain_rope};
    mr_moe_spec moe = {.prefix = "m",
                       .router = "gate",
                       .experts = 4,
                       .top_k = 1,
                       .groups = 1,
                       .keep = 1,
                       .width = 4,
                       .score = "softmax",
                       .fn = MR_ACT_SILU,
                       .shared_width = 4,
                       .shared = "s"};
    mr_head_spec head = {.norm_name = "n",
                         .head_name = "head.weight",
                         .vocab = 4,
                         .tied = true,
                         .embed_name = "embed.weight"};
    assert_int_equal(mr_flow_attention(f, x, &a), MR_NO_VAL);
    assert_int_equal(mr_flow_mla(f, x, &mla), MR_NO_VAL);
    assert_int_equal(mr_flow_moe(f, x, &moe), MR_NO_VAL);
    assert_int_equal(mr_flow_head(f, x, &head), MR_NO_VAL);
    assert_int_equal(mr_flow_ids(f), MR_NO_VAL);
    assert_int_equal(mr_flow_fail(f, MR_EUSAGE, "another"), MR_EFORMAT);
    assert_int_equal(s.finds, finds);
    mr_fail(MR_EIO, "unrelated");
    assert_int_equal(mr_flow_finish(f, x, &g), MR_EFORMAT);
    assert_string_equal(mr_error(), "store: \"l.weight\" is missing");
    assert_null(g);
    /* shape rules name the model */
    f = start(&s);
    x = mr_flow_embed(f, "embed.weight", 32, 16, 1);
    mr_flow_heads(f, x, 5);
    assert_int_equal(mr_flow_finish(f, x, &g), MR_EFORMAT);
    assert_non_null(strstr(mr_error(), "test: heads: "));
    f = start(&s);
    assert_int_equal(mr_flow_fail(f, MR_EUNSUPPORTED, "no %s", "such thing"), MR_EUNSUPPORTED);
    assert_int_equal(mr_flow_finish(f, MR_NO_VAL, &g), MR_EUNSUPPORTED);
    assert_string_equal(mr_error(), "no such thing");
}

static void long_names(void **state)
{
    store s = {.absent = {"none"}};
    mr_graph *g;
    char text[1500];
    (void)state;
    memset(text, 'a', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    mr_flow *f = start(&s);
    assert_string_equal(mr_flow_name(f, "%s", text), "");
    assert_int_equal(mr_flow_finish(f, MR_NO_VAL, &g), MR_ELIMIT);
    /* a kv_b name that has no room for the modifiers */
    text[1000] = '\0';
    char absent[1600];
    snprintf(absent, sizeof absent, "%s.embed_q.weight", text);
    s.absent[0] = absent;
    f = start(&s);
    mr_mla_spec mla = {.prefix = text,
                       .heads = 2,
                       .kv_lora = 4,
                       .nope = 4,
                       .rope_dim = 4,
                       .v_dim = 4,
                       .rope = &plain_rope};
    mr_flow_mla(f, mr_flow_embed(f, "e", 32, 16, 1), &mla);
    assert_int_equal(mr_flow_finish(f, MR_NO_VAL, &g), MR_ELIMIT);
    assert_non_null(strstr(mr_error(), "too long"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(small),       cmocka_unit_test(attention),
        cmocka_unit_test(masks),       cmocka_unit_test(latent_attention),
        cmocka_unit_test(experts),     cmocka_unit_test(heads),
        cmocka_unit_test(rope_tables), cmocka_unit_test(sticky),
        cmocka_unit_test(long_names),  cmocka_unit_test(shared_attention),
        cmocka_unit_test(given_rows)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
