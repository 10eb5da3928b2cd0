/* Shape rules: every op accepted with the shape it should give, every demand refused once.  Cases
 * are lines of text after a common prelude; the op under test defines %y. */
#include "ir_util.h"

static const char prelude[] = "graph \"g\" {\n"
                              "%ids: i32[ROWS] = input name=\"ids\"\n"
                              "%pos: i32[ROWS] = input name=\"pos\"\n"
                              "%po: i32[OUT] = input name=\"po\"\n"
                              "%e: i32[ROWS,2] = input name=\"e\"\n"
                              "%e3: i32[ROWS,3] = input name=\"e3\"\n"
                              "%x: f32[ROWS,64] = input name=\"x\"\n"
                              "%x2: f32[2*ROWS,64] = input name=\"x2\"\n"
                              "%o: f32[OUT,64] = input name=\"o\"\n"
                              "%v: f32[ROWS] = input name=\"v\"\n"
                              "%h: f32[ROWS,4,16] = input name=\"h\"\n"
                              "%h2: f32[ROWS,2,16] = input name=\"h2\"\n"
                              "%h1: f32[ROWS,1,24] = input name=\"h1\"\n"
                              "%ho: f32[OUT,4,16] = input name=\"ho\"\n"
                              "%t: f32[ROWS,16] = input name=\"t\"\n"
                              "%todd: f32[ROWS,15] = input name=\"todd\"\n"
                              "%ew: f32[ROWS,2] = input name=\"ew\"\n"
                              "%ex: f32[ROWS,2,64] = input name=\"ex\"\n"
                              "%lo: f32[ROWS,8] = input name=\"lo\"\n"
                              "%g: f32[ROWS,32] = input name=\"g\"\n"
                              "%n1: weight<bf16>[1] = weight recipe=\"n1\"\n"
                              "%t7: weight<f32>[7,32] = weight recipe=\"t7\"\n"
                              "%w: weight<q4_1>[32,64] = weight recipe=\"w\"\n"
                              "%wb: weight<q4_1>[64,32] = weight recipe=\"wb\"\n"
                              "%wh: weight<f32>[4,8,16] = weight recipe=\"wh\"\n"
                              "%we: weight<f32>[8,32,64] = weight recipe=\"we\"\n"
                              "%wd: weight<f32>[8,64,32] = weight recipe=\"wd\"\n"
                              "%n8: weight<f32>[8] = weight recipe=\"n8\"\n"
                              "%n16: weight<bf16>[16] = weight recipe=\"n16\"\n"
                              "%n32: weight<f16>[32] = weight recipe=\"n32\"\n"
                              "%n64: weight<f32>[64] = weight recipe=\"n64\"\n"
                              "%q64: weight<q8_0>[64] = weight recipe=\"q64\"\n"
                              "%c = cache name=\"c\" heads=2 dk=16 dv=16\n"
                              "%r = cache name=\"r\" heads=2 dk=16 dv=16 window=8\n"
                              "%m = cache name=\"m\" heads=1 dk=24 dv=0\n"
                              "%wc: weight<bf16>[64,4] = weight recipe=\"wc\"\n"
                              "%w1: weight<bf16>[64,1] = weight recipe=\"w1\"\n"
                              "%n4: weight<f32>[4] = weight recipe=\"n4\"\n"
                              "%h3: f32[ROWS,3,16] = input name=\"h3\"\n"
                              "%l4: f32[ROWS,4] = input name=\"l4\"\n"
                              "%sc = state name=\"sc\" heads=1 dk=3 dv=64\n"
                              "%sd = state name=\"sd\" heads=4 dk=16 dv=16\n";

typedef struct shape_case {
    const char *line, *want; /* the type of %y (accepted), or part of the message */
} shape_case;

/* The type that %y gets, as text. */
static void type_of_y(const mr_graph *g, char *buf, size_t cap)
{
    mr_buf b = text_of(g);
    const char *at = strstr(b.data, "%y: ");
    assert_non_null(at);
    snprintf(buf, cap, "%.*s", (int)strcspn(at + 4, " \n"), at + 4);
    char *comma = strchr(buf, ']');
    if (comma)
        comma[1] = 0;
    mr_buf_free(&b);
}

static void accepted(const shape_case *c, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        char text[4096], type[128];
        snprintf(text, sizeof text, "%s%s\noutput %%x as \"x\"}", prelude, c[i].line);
        mr_graph *g = parse_ok(text);
        type_of_y(g, type, sizeof type);
        if (strcmp(type, c[i].want))
            fail_msg("%s gives %s, not %s", c[i].line, type, c[i].want);
        mr_graph_free(g);
    }
}

static void refused(const shape_case *c, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        char text[4096];
        snprintf(text, sizeof text, "%s%s\noutput %%x as \"x\"}", prelude, c[i].line);
        parse_bad(text, c[i].want);
    }
}

#define ACCEPTED(c) accepted(c, sizeof(c) / sizeof *(c))
#define REFUSED(c) refused(c, sizeof(c) / sizeof *(c))

static void leaves(void **state)
{
    (void)state;
    static const shape_case good[] = {
        {"%y: f32[4*ROWS,2,3] = input name=\"a\"", "f32[4*ROWS,2,3]"},
        {"%y: i32[7] = input name=\"a\"", "i32[7]"},
        {"%y: weight<affine8/32/f16>[3,2,64] = weight recipe=\"a\"",
         "weight<affine8/32/f16>[3,2,64]"},
        {"%y: weight<q6_k>[2,512] = weight recipe=\"a\"", "weight<q6_k>[2,512]"},
        {"%y = cache name=\"a\" heads=1 dk=1 dv=0", "cache"},
    };
    static const shape_case bad[] = {
        {"%y: cache = input name=\"a\"", "input: is neither f32 nor i32 \"a\""},
        {"%y: weight<f32>[2] = input name=\"a\"", "input: is neither f32 nor i32"},
        {"%y: i32[1,2,3] = input name=\"a\"", "input: has rank 3"},
        {"%y: f32[1] = input name=\"\"", "input: has no name"},
        {"%y: f32[ROWS,ROWS] = input name=\"a\"", "axis 1 is not a number"},
        {"%y: f32[0] = input name=\"a\"", "axis 0 is out of range: 0"},
        {"%y: f32[1,2000000000000] = input name=\"a\"", "axis 1 is out of range: 2000000000000"},
        {"%y: f32[1,1000000000,1000000000] = input name=\"a\"", "axis 2 is out of range"},
        {"%y: f32[2] = weight recipe=\"a\"", "weight: is not of type weight \"a\""},
        {"%y: cache = weight recipe=\"a\"", "weight: is not of type weight"},
        {"%y: weight<f32>[ROWS] = weight recipe=\"a\"", "axis 0 is not a number"},
        {"%y: weight<i32>[2] = weight recipe=\"a\"", "format i32 is not one of weights"},
        {"%y: weight<q4_0>[2,33] = weight recipe=\"a\"", "a row of 33 is not whole blocks of q4_0"},
        {"%y: weight<affine4/64/f32>[96] = weight recipe=\"a\"", "a row of 96 is not whole blocks"},
        {"%y = cache name=\"a\" heads=0 dk=1 dv=1", "cache: heads 0 is not in 1..65536"},
        {"%y = cache name=\"a\" heads=1 dk=0 dv=1", "cache: dk 0 is not in"},
        {"%y = cache name=\"a\" heads=1 dk=1 dv=-1", "cache: dv -1 is not in"},
        {"%y = cache name=\"a\" heads=1 dk=1 dv=1 window=-1", "cache: window -1 is not in"},
        {"%y = cache name=\"\" heads=1 dk=1 dv=1", "cache: has no name"},
    };
    ACCEPTED(good);
    REFUSED(bad);
}

static void rows(void **state)
{
    (void)state;
    static const shape_case good[] = {
        {"%y = embed(%ids, %w)", "f32[ROWS,64]"},
        {"%y = gather(%x, %po)", "f32[OUT,64]"},
        {"%y = linear(%x, %w)", "f32[ROWS,32]"},
        {"%y = linear(%o, %w, %n32) act=\"f32\"", "f32[OUT,32]"},
        {"%y = linear_heads(%h, %wh)", "f32[ROWS,4,8]"},
        {"%y = rmsnorm(%x) eps=0", "f32[ROWS,64]"},
        {"%y = rmsnorm(%h, %n16) eps=1 offset=1", "f32[ROWS,4,16]"},
        {"%y = add(%x, %x)", "f32[ROWS,64]"},
        {"%y = mul(%h, %h)", "f32[ROWS,4,16]"},
        {"%y = scale(%h) by=-2", "f32[ROWS,4,16]"},
        {"%y = scale(%h, %n1)", "f32[ROWS,4,16]"},
        {"%y = embed(%ids, %t7, %g)", "f32[ROWS,32]"},
        {"%y = mix(%g, %w) scale=8", "f32[ROWS,64]"},
        {"%y = alias(%ids) to=0 c=5", "i32[ROWS]"},
        {"%y = softcap(%x) cap=30", "f32[ROWS,64]"},
        {"%y = silu(%x2)", "f32[2*ROWS,64]"},
        {"%y = gelu_tanh(%h)", "f32[ROWS,4,16]"},
        {"%y = gelu(%x)", "f32[ROWS,64]"},
        {"%y = sigmoid(%x)", "f32[ROWS,64]"},
        {"%y = relu(%x)", "f32[ROWS,64]"},
    };
    static const shape_case bad[] = {
        {"%y = embed(%x, %w)",
         "embed: ids is not i32 (ids f32[ROWS,64], table weight<q4_1>[32,64])"},
        {"%y = mix(%x, %w)", "mix: "},
        {"%y = mix(%h, %w)", "mix: probs has rank 3"},
        {"%y = mix(%g, %we)", "mix: table has rank 3"},
        {"%z = silu(%g) %y = mix(%z, %w)", "mix: probs is not an input"},
        {"%y = embed(%e, %w)", "embed: ids has rank 2"},
        {"%y = embed(%ids, %x)", "embed: table is not a weight"},
        {"%y = embed(%ids, %wh)", "embed: table has rank 3"},
        {"%y = gather(%h, %po)", "gather: x has rank 3"},
        {"%y = gather(%x, %x)", "gather: rows is not i32"},
        {"%y = linear(%x, %w) act=\"bf16\"", "act \"bf16\" is none of: auto f32"},
        {"%y = linear(%x, %w) act=\"\"", "act \"\" is none of: auto f32"},
        {"%y = linear(%x, %w) act=\"f3\"", "act \"f3\" is none of: auto f32"},
        {"%y = linear(%h, %w)", "linear: x has rank 3"},
        {"%y = linear(%ids, %w)", "linear: x is not f32"},
        {"%y = linear(%x, %we)", "linear: w has rank 3"},
        {"%y = linear(%x, %wb)", "linear: axis 1 of x and axis 1 of w differ (x f32[ROWS,64], w "
                                 "weight<q4_1>[64,32])"},
        {"%y = linear(%x, %w, %n64)", "linear: b has not 32 elements"},
        {"%y = linear(%x, %w, %w)", "linear: b has rank 2"},
        {"%y = linear(%x, %w, %x)", "linear: b is not a weight"},
        {"%y = linear_heads(%h, %wh) act=\"x\"", "act \"x\" is none of"},
        {"%y = linear_heads(%x, %wh)", "linear_heads: x has rank 2"},
        {"%y = linear_heads(%h, %w)", "linear_heads: w has rank 2"},
        {"%y = linear_heads(%h2, %wh)", "axis 1 of x and axis 0 of w differ"},
        {"%y = linear_heads(%h, %a) %a = silu(%x)", "%a is not defined"},
        {"%a: weight<f32>[4,8,17] = weight recipe=\"a\" %y = linear_heads(%h, %a)",
         "axis 2 of x and axis 2 of w differ"},
        {"%y = rmsnorm(%x) eps=-1", "rmsnorm: eps -1 is below 0"},
        {"%y = rmsnorm(%v) eps=1", "rmsnorm: x has rank 1"},
        {"%y = rmsnorm(%x, %n16) eps=1", "rmsnorm: w has not 64 elements"},
        {"%y = rmsnorm(%x, %q64) eps=1", "rmsnorm: w is not f32, f16 or bf16"},
        {"%y = rmsnorm(%x) eps=1 offset=1", "rmsnorm: an offset without w"},
        {"%y = add(%x, %h)", "add: a and b differ in rank"},
        {"%y = add(%x, %o)", "add: axis 0 of a and axis 0 of b differ"},
        {"%y = add(%x, %x2)", "add: axis 0 of a and axis 0 of b differ"},
        {"%y = add(%ids, %x)", "add: a is not f32"},
        {"%y = mul(%x, %w)", "mul: b is not f32"},
        {"%y = mul(%h, %h2)", "mul: axis 1 of a and axis 1 of b differ"},
        {"%y = scale(%v) by=1", "scale: x has rank 1"},
        {"%y = scale(%x, %n8)", "scale: w has not 1 elements"},
        {"%y = scale(%x, %n1) by=2", "scale: by 2 beside w"},
        {"%y = embed(%ids, %t7, %x)", "axis 1 of embeds and axis 1 of table differ"},
        {"%a = silu(%g) %y = embed(%ids, %t7, %a)", "embed: embeds is not an input"},
        {"%y = embed(%ids, %t7, %v)", "embed: embeds has rank 1"},
        {"%y = alias(%x) to=0", "alias: ids is not i32"},
        {"%y = alias(%ids) to=-1", "alias: to -1 is not in 0.."},
        {"%y = alias(%ids) to=1 b=-2", "alias: b -2 is not in -1.."},
        {"%y = softcap(%x) cap=0", "softcap: cap 0 is not above 0"},
        {"%y = softcap(%ids) cap=1", "softcap: x is not f32"},
        {"%y = silu(%c)", "silu: x is not f32 (x cache)"},
        {"%y = gelu_tanh(%w)", "gelu_tanh: x is not f32"},
        {"%y = gelu(%ids)", "gelu: x is not f32"},
        {"%y = sigmoid(%ids)", "sigmoid: x is not f32"},
    };
    ACCEPTED(good);
    REFUSED(bad);
}

static void views(void **state)
{
    (void)state;
    static const shape_case good[] = {
        {"%y = slice(%x) start=60 len=4", "f32[ROWS,4]"},
        {"%y = slice(%h) start=0 len=16", "f32[ROWS,4,16]"},
        {"%y = heads(%x) n=4", "f32[ROWS,4,16]"},
        {"%y = heads(%h) n=0", "f32[ROWS,64]"},
        {"%a = slice(%h1) start=4 len=8 %y = heads(%a) n=0", "f32[ROWS,8]"},
        {"%a = slice(%h) start=0 len=16 %y = heads(%a) n=0", "f32[ROWS,64]"},
        {"%a = slice(%h) start=0 len=8 %b = silu(%a) %y = heads(%b) n=0", "f32[ROWS,32]"},
        {"%y = concat(%x, %t)", "f32[ROWS,80]"},
        {"%y = concat(%h, %h)", "f32[ROWS,4,32]"},
        {"%y = concat(%h, %h1)", "f32[ROWS,4,40]"},
        {"%y = concat(%h1, %h2)", "f32[ROWS,2,40]"},
    };
    static const shape_case bad[] = {
        {"%y = slice(%v) start=0 len=1", "slice: x has rank 1"},
        {"%y = slice(%x) start=64 len=1", "slice: start 64 is not in 0..63"},
        {"%y = slice(%x) start=-1 len=1", "slice: start -1 is not in 0..63"},
        {"%y = slice(%x) start=60 len=5", "slice: len 5 is not in 1..4"},
        {"%y = slice(%x) start=60 len=0", "slice: len 0 is not in 1..4"},
        {"%y = heads(%x) n=-1", "heads: n -1 is not in"},
        {"%y = heads(%x) n=0", "heads: x has rank 2"},
        {"%y = heads(%h) n=2", "heads: x has rank 3"},
        {"%y = heads(%x) n=5", "heads: x does not fall into 5 heads"},
        {"%a = slice(%h) start=0 len=8 %y = heads(%a) n=0", "heads: x is a slice of heads"},
        {"%a = slice(%h) start=0 len=8 %b = slice(%a) start=0 len=8 %y = heads(%b) n=0",
         "heads: x is a slice of heads"},
        {"%a: f32[ROWS,2000000,1000000] = input name=\"a\" %y = heads(%a) n=0",
         "the result is too large"},
        {"%y = concat(%ids, %x)", "concat: a is not f32"},
        {"%y = concat(%x, %h)", "concat: b has rank 3"},
        {"%y = concat(%x, %o)", "concat: axis 0 of a and axis 0 of b differ"},
        {"%y = concat(%h, %h2)", "concat: axis 1 of a and axis 1 of b differ"},
        {"%a: f32[2,16777216,8388608] = input name=\"a\" %y = concat(%a, %a)",
         "concat: the result is too large"},
    };
    ACCEPTED(good);
    REFUSED(bad);
}

#define ROPE_LINE "%y = rope_table(%pos) theta=10000 dim=16 "

static void positions(void **state)
{
    (void)state;
    static const shape_case good[] = {
        {ROPE_LINE, "f32[ROWS,16]"},
        {"%y = rope_table(%pos, %n8) theta=0.5 dim=16", "f32[ROWS,16]"},
        {"%y = rope_table(%pos, %n8) theta=0.5 dim=15", "f32[ROWS,16]"},
        {ROPE_LINE "kind=\"linear\" factor=8", "f32[ROWS,16]"},
        {ROPE_LINE "kind=\"llama3\" factor=8 orig=8192", "f32[ROWS,16]"},
        {ROPE_LINE "kind=\"yarn\" factor=8 orig=4096 truncate=0", "f32[ROWS,16]"},
        {"%y = rope(%h, %t)", "f32[ROWS,4,16]"},
        {"%y = rope(%x, %t) start=48 interleaved=1", "f32[ROWS,64]"},
        {"%y = append(%c, %h2, %h2, %pos)", "cache"},
        {"%y = append(%m, %h1, _, %pos)", "cache"},
    };
    static const shape_case bad[] = {
        {"%y = rope_table(%pos) theta=1 dim=0", "dim 0 is not in 1.."},
        {"%y = rope_table(%pos) theta=2 dim=15 kind=\"yarn\" orig=4", "dim 15 is odd"},
        {ROPE_LINE "kind=\"proportional\"", "angles 0 is not in 1..8"},
        {ROPE_LINE "kind=\"proportional\" angles=9", "angles 9 is not in 1..8"},
        {ROPE_LINE "kind=\"linear\" angles=1", "angles 1 is not in 0..0"},
        {"%y = rope_table(%pos) theta=0 dim=16", "theta 0 is not above 0"},
        {ROPE_LINE "kind=\"ntk\"", "kind \"ntk\" is none of: none linear llama3 yarn"},
        {ROPE_LINE "factor=0", "factor 0 is not above 0"},
        {ROPE_LINE "mscale=-1", "mscale -1 is not above 0"},
        {ROPE_LINE "truncate=2", "truncate 2 is not in 0..1"},
        {ROPE_LINE "kind=\"llama3\"", "orig 0 is not above 0"},
        {ROPE_LINE "kind=\"llama3\" orig=1 low=0", "low 0 is not above 0"},
        {ROPE_LINE "kind=\"llama3\" orig=1 low=4", "high 4 is not above low 4"},
        {ROPE_LINE "kind=\"yarn\"", "orig 0 is not above 0"},
        {ROPE_LINE "kind=\"yarn\" orig=1 beta_fast=0", "beta_fast 0 is not above 0"},
        {ROPE_LINE "kind=\"yarn\" orig=1 beta_slow=0", "beta_slow 0 is not above 0"},
        {"%y = rope_table(%pos) theta=1 dim=16 kind=\"yarn\" orig=1", "theta 1 is not above 1"},
        {"%y = rope_table(%x) theta=1 dim=16", "rope_table: pos is not i32"},
        {"%y = rope_table(%pos, %n16) theta=1 dim=16", "rope_table: factors has not 8 elements"},
        {"%y = rope(%ids, %t)", "rope: x is not f32"},
        {"%y = rope(%h, %h)", "rope: table has rank 3"},
        {"%y = rope(%ho, %t)", "rope: axis 0 of x and axis 0 of table differ"},
        {"%y = rope(%h, %t) interleaved=2", "interleaved 2 is not in 0..1"},
        {"%y = rope(%h, %todd)", "rope: table has an odd width"},
        {"%y = rope(%h, %x)", "rope: table is wider than x"},
        {"%y = rope(%h1, %t) start=9", "start 9 is not in 0..8"},
        {"%y = append(%x, %h2, %h2, %pos)", "append: c is not a cache"},
        {"%y = append(%c, %x, %h2, %pos)", "append: k has rank 2"},
        {"%y = append(%c, %h, %h2, %pos)",
         "append: k is not [R,2,16] as cache \"c\" has heads and dk"},
        {"%y = append(%c, %h2, %h, %pos)",
         "append: v is not [R,2,16] as cache \"c\" has heads and dv"},
        {"%y = append(%c, %h2, %h2, %x)", "append: pos is not i32"},
        {"%y = append(%c, %h2, %h2, %po)", "append: axis 0 of k and axis 0 of pos differ"},
        {"%a: f32[OUT,2,16] = input name=\"a\" %y = append(%c, %h2, %a, %pos)",
         "append: axis 0 of k and axis 0 of v differ"},
        {"%y = append(%c, %h2, _, %pos)", "append: v is absent, cache \"c\" has a dv"},
        {"%y = append(%m, %h1, %h1, %pos)", "append: v given to cache \"m\" of dv 0"},
        {"%y = append(%c, %h2, %h2)", "append: 3 operands given, it takes 4 to 4"},
    };
    ACCEPTED(good);
    REFUSED(bad);
}

#define ATTEND "%y = attention(%h, %c, %pos) scale=1 dv=16 "

static void attention(void **state)
{
    (void)state;
    static const shape_case good[] = {
        {ATTEND "mask=\"causal\"", "f32[ROWS,4,16]"},
        {ATTEND "mask=\"full\" softcap=50", "f32[ROWS,4,16]"},
        {ATTEND "mask=\"block\" block=32", "f32[ROWS,4,16]"},
        {ATTEND "mask=\"window\" window=4", "f32[ROWS,4,16]"},
        {"%y = attention(%h, %r, %pos) scale=1 dv=16 mask=\"window\" window=8", "f32[ROWS,4,16]"},
        {"%y = attention(%h1, %m, %pos) scale=1 dv=20 mask=\"causal\"", "f32[ROWS,1,20]"},
        {"%a = append(%c, %h2, %h2, %pos) "
         "%y = attention(%h2, %a, %pos) scale=1 dv=16 mask=\"causal\"",
         "f32[ROWS,2,16]"},
        {"%y = attention(%h, %c, %pos, %e) scale=1 dv=16 span=2 mask=\"causal\"", "f32[ROWS,4,16]"},
        {"%y = attention(%ho, %c, %pos, %e, %po) scale=1 dv=16 span=1 mask=\"window\" window=3",
         "f32[OUT,4,16]"},
        {"%y = attention(%ho, %c, %pos, _, %po) scale=1 dv=16 mask=\"full\"", "f32[OUT,4,16]"},
        {"%y = attention(%h, %c, %pos, %e) scale=1 dv=16 span=2 mask=\"canvas\"", "f32[ROWS,4,16]"},
        {"%y = attention(%h, %r, %pos, %e) scale=1 dv=16 span=2 mask=\"canvas\" window=8",
         "f32[ROWS,4,16]"},
    };
    static const shape_case bad[] = {
        {ATTEND "mask=\"bidirectional\"", "is none of: causal window block full canvas"},
        {ATTEND "mask=\"causal\" window=4", "window 4 is not in 0..0"},
        {ATTEND "mask=\"window\"", "window 0 is not in 1.."},
        {ATTEND "mask=\"window\" window=4 block=4", "block 4 is not in 0..0"},
        {ATTEND "mask=\"block\"", "block 0 is not in 1.."},
        {ATTEND "mask=\"causal\" softcap=-1", "softcap -1 is below 0"},
        {ATTEND "mask=\"causal\" span=1", "span 1 is not in 0..0"},
        {ATTEND "mask=\"canvas\" span=2", "span 2 is not in 2..1"},
        {"%y = attention(%h, %c, %pos, %e) scale=1 dv=16 span=1 mask=\"canvas\"",
         "span 1 is not in 2..2"},
        {"%y = attention(%h, %r, %pos, %e) scale=1 dv=16 span=2 mask=\"canvas\"",
         "sees more than cache"},
        {"%y = attention(%h, %c, %pos, %e) scale=1 dv=16 mask=\"causal\"", "span 0 is not in 1..2"},
        {"%y = attention(%h, %c, %pos, %e) scale=1 dv=16 mask=\"full\" span=1", "is not in 1..0"},
        {"%y = attention(%h, %c, %pos, %e3) scale=1 dv=16 mask=\"causal\" span=1",
         "span is not [R,2]"},
        {"%i, %w2 = route(%lo) k=2 score=\"softmax\" "
         "%y = attention(%h, %c, %pos, %i) scale=1 dv=16 mask=\"causal\" span=1",
         "attention: span is not an input"},
        {"%y = attention(%h, %c, %pos, _, %po) scale=1 dv=16 mask=\"causal\"",
         "axis 0 of q and axis 0 of rows differ"},
        {"%y = attention(%ho, %c, %po, _, %po) scale=1 dv=16 mask=\"causal\"",
         "pos is not of all rows"},
        {"%y = attention(%x, %c, %pos) scale=1 dv=16 mask=\"full\"", "attention: q has rank 2"},
        {"%y = attention(%h, %x, %pos) scale=1 dv=16 mask=\"full\"", "attention: c is not a cache"},
        {"%y = attention(%h, %c, %x) scale=1 dv=16 mask=\"full\"", "attention: pos is not i32"},
        {"%y = attention(%h, %c, %po) scale=1 dv=16 mask=\"full\"",
         "attention: axis 0 of q and axis 0 of pos differ"},
        {"%y = attention(%h, %c, %pos) scale=1 dv=8 mask=\"full\"", "dv 8 is not in 16..16"},
        {"%y = attention(%h1, %m, %pos) scale=1 dv=0 mask=\"full\"", "dv 0 is not in 1..24"},
        {"%y = attention(%h1, %m, %pos) scale=1 dv=25 mask=\"full\"", "dv 25 is not in 1..24"},
        {"%y = attention(%h1, %c, %pos) scale=1 dv=16 mask=\"full\"",
         "q's last axis is not dk 16 of cache \"c\""},
        {"%a: f32[ROWS,3,16] = input name=\"a\" "
         "%y = attention(%a, %c, %pos) scale=1 dv=16 mask=\"full\"",
         "q's heads are no multiple of the 2 of cache \"c\""},
        {"%y = attention(%h, %r, %pos) scale=1 dv=16 mask=\"window\" window=9",
         "mask window 9 sees more than cache \"r\" keeps, 8"},
        {"%y = attention(%h, %r, %pos) scale=1 dv=16 mask=\"causal\"",
         "mask causal 0 sees more than cache \"r\" keeps, 8"},
    };
    ACCEPTED(good);
    REFUSED(bad);
}

static void recurrent(void **state)
{
    (void)state;
    static const shape_case good[] = {
        {"%y = state name=\"a\" heads=1 dk=3 dv=70", "cache"},
        {"%y, %z = conv1d(%x, %wc, %sc)", "f32[ROWS,64]"},
        {"%y = l2norm(%h) eps=1e-6 scale=0.25", "f32[ROWS,4,16]"},
        {"%y = l2norm(%o) eps=0", "f32[OUT,64]"},
        {"%y = decay(%l4, %n4, %n4)", "f32[ROWS,4]"},
        {"%y, %z = delta_rule(%h2, %h2, %h, %l4, %l4, %sd)", "f32[ROWS,4,16]"},
        {"%y, %z = delta_rule(%h, %h, %h, %l4, %l4, %sd)", "f32[ROWS,4,16]"},
    };
    static const shape_case bad[] = {
        {"%y = state name=\"\" heads=1 dk=3 dv=70", "state: has no name"},
        {"%y = state name=\"a\" heads=0 dk=3 dv=70", "state: heads 0 is not in 1..65536"},
        {"%y = state name=\"a\" heads=1 dk=0 dv=70", "state: dk 0 is not in 1..65536"},
        {"%y = state name=\"a\" heads=1 dk=1 dv=0", "state: dv 0 is not in 1..16777216"},
        {"%y = l2norm(%h) eps=-1", "eps -1 is below 0"},
        {"%y = l2norm(%v) eps=1", "l2norm: x has rank 1"},
        {"%y, %z = conv1d(%h, %wc, %sc)", "conv1d: x has rank 3"},
        {"%y, %z = conv1d(%x, %x, %sc)", "conv1d: w is not a weight"},
        {"%y, %z = conv1d(%g, %wc, %sc)", "axis 1 of x and axis 0 of w differ"},
        {"%y, %z = conv1d(%x, %w1, %sc)", "state \"sc\" is not [1,1,64]"},
        {"%y, %z = conv1d(%x, %wc, %sd)", "state \"sd\" is not [1,3,64]"},
        {"%y, %z = conv1d(%x, %wc, %c)", "c is a cache of keys and values, not a state"},
        {"%y, %z = conv1d(%x, %wc, %x)", "c is not a state"},
        {"%y = append(%sd, %h, %h, %pos)", "c is a state, not a cache of keys and values"},
        {"%y = decay(%h, %n4, %n4)", "decay: x has rank 3"},
        {"%y = decay(%l4, %n8, %n4)", "decay: w has not 4 elements"},
        {"%y = decay(%l4, %n4, %n8)", "decay: b has not 4 elements"},
        {"%y, %z = delta_rule(%x, %h, %h, %l4, %l4, %sd)", "delta_rule: q has rank 2"},
        {"%y, %z = delta_rule(%h, %h2, %h, %l4, %l4, %sd)", "axis 1 of q and axis 1 of k differ"},
        {"%y, %z = delta_rule(%h, %h, %ho, %l4, %l4, %sd)", "axis 0 of q and axis 0 of v differ"},
        {"%y, %z = delta_rule(%h, %h, %h, %lo, %l4, %sd)",
         "axis 1 of v and axis 1 of decay differ"},
        {"%y, %z = delta_rule(%h, %h, %h, %l4, %lo, %sd)", "axis 1 of decay and axis 1 of beta"},
        {"%y, %z = delta_rule(%h3, %h3, %h, %l4, %l4, %sd)", "no multiple of those of q"},
        {"%y, %z = delta_rule(%h, %h, %h, %l4, %l4, %sc)", "state \"sc\" is not [4,16,16]"},
    };
    ACCEPTED(good);
    REFUSED(bad);
}

static void experts(void **state)
{
    (void)state;
    static const shape_case good[] = {
        {"%y, %z = route(%lo) k=8 score=\"softmax\"", "i32[ROWS,8]"},
        {"%z, %y = route(%lo, %n8) k=3 score=\"sigmoid\" groups=4 keep=2 norm=0", "f32[ROWS,3]"},
        {"%y, %z = route(%lo, %n8, _, %ids) k=2 score=\"sigmoid\" block=4 capacity=2",
         "i32[ROWS,2]"},
        {"%y, %z = route(%lo, _, _, %ids) k=2 score=\"sigmoid\" block=32 capacity=8",
         "i32[ROWS,2]"},
        {"%y = expert_linear(%x, %we, %e)", "f32[ROWS,2,32]"},
        {"%y = expert_linear(%ex, %we, %e)", "f32[ROWS,2,32]"},
        {"%y = combine(%ex, %ew)", "f32[ROWS,64]"},
    };
    static const shape_case bad[] = {
        {"%y, %z = route(%h) k=1 score=\"softmax\"", "route: logits has rank 3"},
        {"%y, %z = route(%lo, %n16) k=1 score=\"softmax\"", "route: bias has not 8 elements"},
        {"%y, %z = route(%lo) k=1 score=\"relu\"", "score \"relu\" is none of: sigmoid softmax"},
        {"%y, %z = route(%lo) k=1 score=\"softmax\" norm=2", "norm 2 is not in 0..1"},
        {"%y, %z = route(%lo) k=1 score=\"softmax\" eps=-1", "eps -1 is below 0"},
        {"%y, %z = route(%lo) k=1 score=\"softmax\" groups=0", "groups 0 is not in 1..8"},
        {"%y, %z = route(%lo) k=1 score=\"softmax\" groups=3",
         "8 experts do not fall into 3 groups"},
        {"%y, %z = route(%lo) k=1 score=\"softmax\" groups=8", "groups of one expert"},
        {"%y, %z = route(%lo) k=1 score=\"softmax\" group_sum=3", "group_sum 3 is not in 1..2"},
        {"%y, %z = route(%lo) k=1 score=\"softmax\" groups=4 keep=5", "keep 5 is not in 1..4"},
        {"%y, %z = route(%lo) k=3 score=\"softmax\" groups=4 keep=1", "k 3 is not in 1..2"},
        {"%y, %z = route(%lo) k=0 score=\"softmax\"", "k 0 is not in 1..8"},
        {"%y, %z = route(%lo) k=2 score=\"sigmoid\" block=4 capacity=4", "block needs pos"},
        {"%y, %z = route(%lo, _, _, %ids) k=2 score=\"sigmoid\"", "block needs pos"},
        {"%y, %z = route(%lo) k=2 score=\"sigmoid\" capacity=4", "capacity 4 is not in 0..0"},
        {"%y, %z = route(%lo, _, _, %ids) k=2 score=\"sigmoid\" block=4 capacity=1",
         "capacity 1 is not in 2..8"},
        {"%y, %z = route(%lo, _, _, %ids) k=2 score=\"sigmoid\" block=4 capacity=9",
         "capacity 9 is not in 2..8"},
        {"%y, %z = route(%lo, _, _, %e) k=2 score=\"sigmoid\" block=4 capacity=4",
         "pos has rank 2"},
        {"%y, %z = route(%lo, _, _, %ids) k=2 score=\"sigmoid\" block=4 capacity=4 groups=2 keep=1",
         "groups 2 is not in 1..1"},
        {"%y = expert_linear(%x, %we, %e) act=\"x\"", "act \"x\" is none of"},
        {"%y = expert_linear(%v, %we, %e)", "expert_linear: x has rank 1"},
        {"%y = expert_linear(%x, %w, %e)", "expert_linear: w has rank 2"},
        {"%y = expert_linear(%x, %we, %ids)", "expert_linear: ids has rank 1"},
        {"%y = expert_linear(%o, %we, %e)", "axis 0 of x and axis 0 of ids differ"},
        {"%y = expert_linear(%ex, %we, %e3)", "axis 1 of x and axis 1 of ids differ"},
        {"%y = expert_linear(%x, %wd, %e)", "axis 1 of x and axis 2 of w differ"},
        {"%y = expert_linear(%ex, %wd, %e)", "axis 2 of x and axis 2 of w differ"},
        {"%y = combine(%x, %ew)", "combine: x has rank 2"},
        {"%y = combine(%ex, %ex)", "combine: weights has rank 3"},
        {"%y = combine(%ex, %lo)", "combine: axis 1 of x and axis 1 of weights differ"},
        {"%y = combine(%ho, %ew)", "combine: axis 0 of x and axis 0 of weights differ"},
    };
    ACCEPTED(good);
    REFUSED(bad);
}

static void fused(void **state)
{
    (void)state;
    static const shape_case good[] = {
        {"%y, %z = add_rmsnorm(%x, %x, %n64) eps=1", "f32[ROWS,64]"},
        {"%z, %y = add_rmsnorm(%h, %h, %n16) eps=1 offset=1", "f32[ROWS,4,16]"},
        {"%y = gated_linear(%x, %w, %w) fn=\"silu\"", "f32[ROWS,32]"},
        {"%y = gated_linear(%x, %w, %w, _, %n32) fn=\"gelu\" act=\"f32\"", "f32[ROWS,32]"},
        {"%y = rope_append(%c, %h2, %h2, %t, %pos)", "cache"},
        {"%y = rope_append(%m, %h1, _, %t, %pos) start=8 interleaved=1", "cache"},
        {"%y = moe(%x, %e, %ew, %we, %we, %wd) fn=\"gelu_tanh\"", "f32[ROWS,64]"},
    };
    static const shape_case bad[] = {
        {"%y, %z = add_rmsnorm(%x, %x, %n64) eps=-1", "eps -1 is below 0"},
        {"%y, %z = add_rmsnorm(%x, %h, %n64) eps=1", "add_rmsnorm: a and b differ in rank"},
        {"%y, %z = add_rmsnorm(%x, %x, %n16) eps=1", "add_rmsnorm: w has not 64 elements"},
        {"%y = gated_linear(%x, %w, %w) fn=\"relu\"",
         "fn \"relu\" is none of: silu gelu_tanh gelu"},
        {"%y = gated_linear(%x, %w, %w) fn=\"silu\" act=\"x\"", "act \"x\" is none of"},
        {"%y = gated_linear(%h, %w, %w) fn=\"silu\"", "gated_linear: x has rank 3"},
        {"%y = gated_linear(%x, %x, %w) fn=\"silu\"", "gated_linear: wg is not a weight"},
        {"%y = gated_linear(%x, %w, %we) fn=\"silu\"", "gated_linear: wu has rank 3"},
        {"%y = gated_linear(%x, %wb, %wb) fn=\"silu\"", "axis 1 of x and axis 1 of wg differ"},
        {"%y = gated_linear(%x, %w, %wb) fn=\"silu\"", "axis 0 of wg and axis 0 of wu differ"},
        {"%y = gated_linear(%x, %w, %w, %n64) fn=\"silu\"", "gated_linear: bg has not 32 elements"},
        {"%y = gated_linear(%x, %w, %w, _, %n8) fn=\"silu\"", "gated_linear: bu has not 32"},
        {"%y = rope_append(%x, %h2, %h2, %t, %pos)", "rope_append: c is not a cache"},
        {"%y = rope_append(%c, %h2, %h2, %x, %pos)", "rope_append: table is wider than k"},
        {"%y = rope_append(%c, %h2, %h2, %t, %pos) start=1", "start 1 is not in 0..0"},
        {"%y = rope_append(%c, %h2, _, %t, %pos)", "rope_append: v is absent"},
        {"%y = moe(%x, %e, %ew, %we, %we, %wd) fn=\"x\"", "fn \"x\" is none of"},
        {"%y = moe(%x, %e, %ew, %we, %we, %wd) fn=\"silu\" act=\"x\"", "act \"x\" is none of"},
        {"%y = moe(%h, %e, %ew, %we, %we, %wd) fn=\"silu\"", "moe: x has rank 3"},
        {"%y = moe(%x, %ids, %ew, %we, %we, %wd) fn=\"silu\"", "moe: ids has rank 1"},
        {"%y = moe(%x, %e, %e, %we, %we, %wd) fn=\"silu\"", "moe: weights is not f32"},
        {"%y = moe(%o, %e, %ew, %we, %we, %wd) fn=\"silu\"",
         "axis 0 of x and axis 0 of ids differ"},
        {"%y = moe(%x, %e3, %ew, %we, %we, %wd) fn=\"silu\"",
         "axis 1 of ids and axis 1 of weights differ"},
        {"%y = moe(%x, %e, %ew, %w, %we, %wd) fn=\"silu\"", "moe: wg has rank 2"},
        {"%y = moe(%x, %e, %ew, %wd, %we, %wd) fn=\"silu\"", "axis 1 of x and axis 2 of wg differ"},
        {"%y = moe(%x, %e, %ew, %we, %wd, %wd) fn=\"silu\"",
         "axis 1 of wg and axis 1 of wu differ"},
        {"%y = moe(%x, %e, %ew, %we, %we, %wh) fn=\"silu\"",
         "axis 0 of wg and axis 0 of wd differ"},
        {"%y = moe(%x, %e, %ew, %we, %we, %we) fn=\"silu\"",
         "axis 1 of wg and axis 2 of wd differ"},
    };
    ACCEPTED(good);
    REFUSED(bad);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(leaves),    cmocka_unit_test(rows),      cmocka_unit_test(views),
        cmocka_unit_test(positions), cmocka_unit_test(attention), cmocka_unit_test(experts),
        cmocka_unit_test(fused),     cmocka_unit_test(recurrent),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
