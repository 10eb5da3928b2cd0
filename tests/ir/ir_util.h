/* Shared by the tests of ir/: graphs from text, and checks of messages. */
#ifndef MR_TESTS_IR_UTIL_H
#define MR_TESTS_IR_UTIL_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "ir/graph.h"

static inline mr_graph *parse_ok(const char *text)
{
    mr_graph *g = NULL;
    mr_err e = mr_graph_parse(&g, "t", text, strlen(text));
    if (e != MR_OK)
        fail_msg("%s\nin:\n%s", mr_error(), text);
    return g;
}

static inline void expect_error(mr_err got, mr_err want, const char *message)
{
    if (got != want || !strstr(mr_error(), message))
        fail_msg("error %d \"%s\", not %d with \"%s\"", got, got ? mr_error() : "", want, message);
}

static inline void parse_bad(const char *text, const char *message)
{
    mr_graph *g = NULL;
    mr_err e = mr_graph_parse(&g, "t", text, strlen(text));
    if (e == MR_OK)
        fail_msg("accepted, \"%s\" expected, in:\n%s", message, text);
    expect_error(e, MR_EFORMAT, message);
    assert_null(g);
}

/* The text of a graph; free with mr_buf_free. */
static inline mr_buf text_of(const mr_graph *g)
{
    mr_buf b = {0};
    assert_int_equal(mr_graph_print(g, &b), MR_OK);
    return b;
}

/* A graph with every op once or more. */
#define EVERY_OP                                                                                   \
    "graph \"every \\\"op\\\" \\u00e9\" {\n"                                                       \
    "  %ids: i32[ROWS] = input name=\"ids\"\n"                                                     \
    "  %pos: i32[ROWS] = input name=\"pos\"\n"                                                     \
    "  %rows: i32[OUT] = input name=\"out_rows\"\n"                                                \
    "  %span: i32[ROWS,2] = input name=\"span\"\n"                                                 \
    "  %table: weight<affine4/64/bf16>[100,64] = weight recipe=\"embed.weight\"\n"                 \
    "  %n: weight<bf16>[64] = weight recipe=\"norm.weight :plus1\"\n"                              \
    "  %w: weight<q4_1>[64,64] = weight recipe=\"w\"\n"                                            \
    "  %b: weight<f16>[64] = weight recipe=\"b\"\n"                                                \
    "  %wh: weight<f32>[4,8,16] = weight recipe=\"wh\"\n"                                          \
    "  %we: weight<q8_0>[8,32,64] = weight recipe=\"experts.{0..7}.up\"\n"                         \
    "  %wd: weight<q8_0>[8,64,32] = weight recipe=\"experts.{0..7}.down\"\n"                       \
    "  %wr: weight<f32>[8,64] = weight recipe=\"router\"\n"                                        \
    "  %rb: weight<f32>[8] = weight recipe=\"router.bias\"\n"                                      \
    "  %ff: weight<f32>[8] = weight recipe=\"rope_freqs\"\n"                                       \
    "  %c0: cache = cache name=\"0\" heads=2 dk=16 dv=16 window=128\n"                             \
    "  %c1: cache = cache name=\"1\" heads=1 dk=24 dv=0\n"                                         \
    "  %al = alias(%ids) to=3 a=7 b=9\n"                                                           \
    "  %x = embed(%al, %table) scale=8\n"                                                          \
    "  %probs: f32[ROWS,100] = input name=\"probs\"\n"                                             \
    "  %mix = mix(%probs, %table) scale=2\n"                                                       \
    "  %t = rope_table(%pos, %ff) theta=500000 dim=16 kind=\"llama3\" factor=8 orig=8192\n"        \
    "  %t2 = rope_table(%pos) theta=10000 dim=8 kind=\"yarn\" factor=40 orig=4096 mscale=1.3\n"    \
    "  %h0 = rmsnorm(%x, %n) eps=1e-05 offset=1\n"                                                 \
    "  %q0 = linear(%h0, %w, %b)\n"                                                                \
    "  %q1 = heads(%q0) n=4\n"                                                                     \
    "  %q = rope(%q1, %t)\n"                                                                       \
    "  %k0 = slice(%q0) start=32 len=32\n"                                                         \
    "  %k = heads(%k0) n=2\n"                                                                      \
    "  %c0b = rope_append(%c0, %k, %k, %t, %pos)\n"                                                \
    "  %a = attention(%q, %c0b, %pos) mask=\"window\" window=128 scale=0.25 dv=16 softcap=50\n"    \
    "  %af = heads(%a) n=0\n"                                                                      \
    "  %lh = linear_heads(%q, %wh) act=\"f32\"\n"                                                  \
    "  %k1 = slice(%q0) start=0 len=16\n"                                                          \
    "  %k2 = heads(%k1) n=1\n"                                                                     \
    "  %cc = concat(%lh, %k2)\n"                                                                   \
    "  %kk = slice(%q0) start=8 len=24\n"                                                          \
    "  %kh = heads(%kk) n=1\n"                                                                     \
    "  %kr = rope(%kh, %t2) start=16 interleaved=1\n"                                              \
    "  %c1b = append(%c1, %kr, _, %pos)\n"                                                         \
    "  %lat = attention(%cc, %c1b, %pos, %span) mask=\"causal\" scale=0.1 dv=16 span=1\n"          \
    "  %s, %y = add_rmsnorm(%x, %af, %n) eps=1e-06\n"                                              \
    "  %lo = linear(%y, %wr) act=\"f32\"\n"                                                        \
    "  %e, %ew = route(%lo, %rb) k=2 score=\"sigmoid\" groups=4 keep=2 scale=2.5\n"                \
    "  %el = expert_linear(%y, %we, %e)\n"                                                         \
    "  %es = silu(%el)\n"                                                                          \
    "  %ed = expert_linear(%es, %wd, %e)\n"                                                        \
    "  %ec = combine(%ed, %ew)\n"                                                                  \
    "  %mo = moe(%y, %e, %ew, %we, %we, %wd) fn=\"gelu_tanh\"\n"                                   \
    "  %gl = gated_linear(%y, %w, %w, %b) fn=\"silu\"\n"                                           \
    "  %wc: weight<bf16>[64,4] = weight recipe=\"conv\"\n"                                         \
    "  %w4: weight<f32>[4] = weight recipe=\"A_log :negexp\"\n"                                    \
    "  %s0 = state name=\"conv\" heads=1 dk=3 dv=64\n"                                             \
    "  %s1 = state name=\"delta\" heads=4 dk=8 dv=16\n"                                            \
    "  %cv, %s0b = conv1d(%x, %wc, %s0)\n"                                                         \
    "  %u0 = slice(%cv) start=0 len=16\n"                                                          \
    "  %u1 = heads(%u0) n=2\n"                                                                     \
    "  %u = l2norm(%u1) eps=1e-06 scale=0.5\n"                                                     \
    "  %vv = heads(%cv) n=4\n"                                                                     \
    "  %g0 = slice(%cv) start=0 len=4\n"                                                           \
    "  %dc = decay(%g0, %w4, %w4)\n"                                                               \
    "  %rl = relu(%g0)\n"                                                                          \
    "  %be = sigmoid(%rl)\n"                                                                       \
    "  %dr, %s1b = delta_rule(%u, %u, %vv, %dc, %be, %s1)\n"                                       \
    "  %1 = add(%ec, %mo)\n"                                                                       \
    "  %2 = mul(%1, %gl)\n"                                                                        \
    "  %3 = scale(%2) by=0.1\n"                                                                    \
    "  %4 = softcap(%3) cap=30\n"                                                                  \
    "  %5 = gelu_tanh(%4)\n"                                                                       \
    "  %6 = gelu(%5)\n"                                                                            \
    "  %7 = sigmoid(%6)\n"                                                                         \
    "  %8 = gather(%7, %rows)\n"                                                                   \
    "  output %8 as \"logits\"\n"                                                                  \
    "  output %lat as \"hidden\"\n"                                                                \
    "}\n"

#endif
