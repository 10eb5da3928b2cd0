/* Blocks: functions that add parts of a model to a graph.
 *
 * Why:    a family is a page of calls in the order of its forward pass; what all families share is here, once.
 * Use:    mr_flow *f; MR_TRY(mr_flow_new(&f, "llama", &source));
 *         mr_val x = mr_flow_embed(f, "model.embed_tokens.weight", vocab, hidden, 1.0);
 *         ... MR_TRY(mr_flow_finish(f, logits, &graph));
 * Owns:   the flow owns its graph until finish hands it over.
 * Fails:  sticky: the first failure is kept, later calls do nothing and give MR_NO_VAL; finish reports it.
 * Rules:  1. Weights are asked for by their canonical name (the published Hugging Face name) and expected shape; the
 *            source says where they are, in which format, and what must be undone (a recipe).
 *         2. Facts of a layer (mask, head_dim, KV heads, rope, scale) are arguments of the layer's block.
 *         3. Blocks emit primitive ops only; fusion is the compiler's.
 */
#ifndef MR_FLOW_BLOCKS_H
#define MR_FLOW_BLOCKS_H

#include "ir/graph.h"

typedef struct mr_flow mr_flow;
typedef int mr_val; /* a graph value */
enum { MR_NO_VAL = -1 };

/* Where weights come from. */
typedef struct mr_found {
    char recipe[1024]; /* "" : not there (the block decides whether that is an error) */
    mr_fmt fmt;
    bool plus_one; /* a norm weight that holds 1 + w already */
    bool neg_exp;  /* a decay that holds -exp(w) already */
} mr_found;
typedef struct mr_source {
    void *ctx;
    /* Looks for the weight `name` (canonical; "{0..255}" ranges allowed) of shape dim (rank 1..3).  A tensor that is there with
     * another shape is an error naming it and both shapes. required: absence is an error too. */
    mr_err (*find)(void *ctx, const char *name, int rank, const int64_t *dim, bool required,
                   mr_found *out);
    /* Whether weight a is nothing but a copy of b, or absent.  May be NULL: never looked at. */
    mr_err (*same)(void *ctx, const char *a, const char *b, bool *out);
} mr_source;

mr_err mr_flow_new(mr_flow **out, const char *name, const mr_source *source);
void mr_flow_free(mr_flow *f);
mr_err mr_flow_finish(mr_flow *f, mr_val logits,
                      mr_graph **out); /* frees f; the output is named "logits" */
mr_err mr_flow_fail(mr_flow *f, mr_err code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
bool mr_flow_failed(const mr_flow *f);
mr_graph *mr_flow_graph(mr_flow *f); /* for what no block covers */
const char *mr_flow_name(mr_flow *f, const char *fmt, ...)
    __attribute__((format(printf, 2, 3))); /* lives with f */

/* ---- values ---- */
mr_val mr_flow_ids(mr_flow *f);      /* i32 [ROWS], made once */
mr_val mr_flow_pos(mr_flow *f);      /* i32 [ROWS] */
mr_val mr_flow_out_rows(mr_flow *f); /* i32 [OUT] */
mr_val mr_flow_span(mr_flow *f);     /* i32 [ROWS,2], NULL in runs without images */
/* The ids as the model reads them: those of media (-1: none) are `to`. */
mr_val mr_flow_alias(mr_flow *f, mr_val ids, int32_t to, const int32_t media[3]);
mr_val mr_flow_weight(mr_flow *f, const char *name, int rank, const int64_t *dim); /* required */
mr_val mr_flow_weight_try(mr_flow *f, const char *name, int rank,
                          const int64_t *dim); /* MR_NO_VAL if absent */
/* Any op by hand: attributes in the order of ops.def, NULL if it has none. */
mr_val mr_flow_op(mr_flow *f, mr_op op, const mr_val *in, int n_in, const mr_attr *attr);

/* Activations: silu and gelu are fused with the products they follow, the others are ops of their own. */
typedef enum mr_act {
    MR_ACT_SILU,
    MR_ACT_GELU,
    MR_ACT_GELU_TANH,
    MR_ACT_QUICK_GELU, /* x sigmoid(1.702 x) */
    MR_ACT_RELU,
    MR_ACT_RELU2, /* its square */
    MR_ACT_SIGMOID,
    MR_ACT_TANH,
    MR_ACT_LINEAR /* none */
} mr_act;

/* ---- small blocks ---- */
mr_val mr_flow_embed(mr_flow *f, const char *name, int64_t vocab, int64_t hidden, double scale);
/* The mixture of the table's rows by the run's probs (an input [R, vocab], which may be NULL: 0). */
mr_val mr_flow_mix(mr_flow *f, const char *name, int64_t vocab, int64_t width, double scale);
/* The same by other ids; with given, a run may give the rows instead (input "embeds"). */
mr_val mr_flow_lookup(mr_flow *f, mr_val ids, const char *name, int64_t vocab, int64_t width,
                      double scale, bool given);
typedef struct mr_norm_spec {
    double eps, offset; /* offset 1: Gemma's (1 + w) */
} mr_norm_spec;
mr_val mr_flow_norm(mr_flow *f, mr_val x, const char *name,
                    mr_norm_spec n); /* w has the width of x's last axis; name NULL: no w */
/* y = x W^T (+ b): PREFIX.weight [n_out, width of x], PREFIX.bias if bias */
mr_val mr_flow_linear(mr_flow *f, mr_val x, const char *prefix, int64_t n_out, bool bias);
mr_val mr_flow_add(mr_flow *f, mr_val a, mr_val b);
mr_val mr_flow_mul(mr_flow *f, mr_val a, mr_val b);
mr_val mr_flow_scale(mr_flow *f, mr_val x, double by);
mr_val mr_flow_scale_weight(mr_flow *f, mr_val x, const char *name); /* times a stored number [1] */
mr_val mr_flow_wanted(mr_flow *f, mr_val x); /* the rows whose output is wanted   [OUT,N] */
mr_val mr_flow_act(mr_flow *f, mr_val x, mr_act fn);
mr_val mr_flow_heads(mr_flow *f, mr_val x, int64_t n); /* [R, n*D] -> [R, n, D]; 0 flattens */
mr_val mr_flow_slice(mr_flow *f, mr_val x, int64_t start, int64_t len);
mr_val mr_flow_concat(mr_flow *f, mr_val a, mr_val b);

/* ---- rope ---- */
typedef enum mr_rope_kind {
    MR_ROPE_NONE,
    MR_ROPE_LINEAR,
    MR_ROPE_LLAMA3,
    MR_ROPE_YARN,
    MR_ROPE_PROPORTIONAL
} mr_rope_kind;
typedef struct mr_rope_spec {
    double theta;
    int64_t dim; /* rotated width; odd: the last turns with the number after it */
    mr_rope_kind kind;
    double factor, low, high,
        orig;       /* linear, proportional: factor; llama3: all; yarn: factor, orig */
    int64_t angles; /* proportional: pairs that turn */
    double beta_fast, beta_slow, mscale; /* yarn; mscale multiplies cos and sin (1 = none) */
    bool truncate;
    bool interleaved; /* pairs (2i, 2i+1) */
    const char *
        factors; /* canonical name of stored frequency divisors, used if the file has them, or NULL */
} mr_rope_spec;
mr_val mr_flow_rope_table(mr_flow *f,
                          const mr_rope_spec *r); /* equal specs give equal tables (CSE) */

/* ---- attention ---- */
typedef enum mr_mask {
    MR_MASK_CAUSAL,
    MR_MASK_WINDOW,
    MR_MASK_BLOCK,
    MR_MASK_FULL,
    MR_MASK_CANVAS /* the row's span, and before it window - 1 positions (window 0: all) */
} mr_mask;
typedef struct mr_attention_spec {
    int layer;                   /* names the cache */
    const char *prefix;          /* "model.layers.3.self_attn" */
    const char *q, *k, *v, *o;   /* names under prefix, default q_proj k_proj v_proj o_proj */
    const char *qkv;             /* one fused matrix, rows q|k|v, instead of q, k, v */
    const char *q_norm, *k_norm; /* per-head norms before rope, or NULL */
    mr_norm_spec norm;
    int64_t heads, kv_heads, head_dim;
    bool qkv_bias, o_bias;
    const char *bias_prefix;  /* in place of prefix in the names of biases, or NULL */
    const mr_rope_spec *rope; /* NULL: none; dim may be less than head_dim */
    mr_mask mask;
    int64_t window, block;
    int span; /* rows of one image see each other: attention's attribute */
    double scale, softcap;
    bool
        gated; /* q_proj holds, per head, the query and then a gate: the result times sigmoid(gate) */
    bool v_from_k; /* values are the keys' projection, before norm and rope */
    bool v_norm;   /* values are normed, without a weight */
    bool shared;   /* only queries of its own: keys and values are those of layer `source` */
    int source;
    bool wanted; /* shared: x holds the wanted rows alone (mr_flow_wanted) */
} mr_attention_spec;
mr_val mr_flow_attention(mr_flow *f, mr_val x,
                         const mr_attention_spec *s); /* with the output projection */

/* Multi-head latent attention, always absorbed. */
typedef struct mr_mla_spec {
    int layer;
    const char *prefix;
    int64_t heads, q_lora /* 0: none */, kv_lora, nope, rope_dim, v_dim;
    bool bias;         /* attention_bias: on q_a_proj, kv_a_proj_with_mqa and o_proj */
    double latent_eps; /* 1e-6 */
    const mr_rope_spec *rope;
    double scale;
} mr_mla_spec;
mr_val mr_flow_mla(mr_flow *f, mr_val x, const mr_mla_spec *s);

/* Gated delta net: a causal convolution over q|k|v, then the gated delta rule, a norm and a gate of its own. */
typedef struct mr_delta_net_spec {
    int layer;
    const char *prefix; /* "model.layers.3.linear_attn" */
    int64_t k_heads, v_heads, dk, dv, width /* of the convolution */;
    double eps; /* of the norm after the rule */
    mr_act act; /* after the convolution */
} mr_delta_net_spec;
mr_val mr_flow_delta_net(mr_flow *f, mr_val x, const mr_delta_net_spec *s);

/* ---- feed-forward ---- */
typedef struct mr_mlp_spec {
    const char *prefix; /* "model.layers.3.mlp": PREFIX.gate_proj, up_proj, down_proj */
    int64_t width;
    mr_act fn;
    bool bias;
} mr_mlp_spec;
mr_val mr_flow_mlp(mr_flow *f, mr_val x, const mr_mlp_spec *s);

typedef struct mr_moe_spec {
    const char *prefix;      /* "model.layers.3.mlp" */
    const char *router;      /* PREFIX.gate.weight [E, hidden] */
    const char *router_bias; /* PREFIX.gate.e_score_correction_bias [E] or NULL */
    const char *router_gain; /* PREFIX.router.per_expert_scale [E]: times the weights; or NULL */
    int64_t experts, top_k, groups, keep, width;
    int64_t block, capacity; /* experts that the rows of a block of positions share; 0: any */
    const char *score;       /* "sigmoid", "softmax" */
    bool group_max; /* a group counts by its largest score, not the sum of its two largest */
    bool norm;
    double norm_eps, scale;
    mr_act fn;
    int64_t shared_width; /* 0: no shared expert */
    const char *shared;   /* "shared_experts" */
    bool shared_bias;
    const char *shared_gate; /* PREFIX.shared_expert_gate.weight [1, hidden], or NULL */
} mr_moe_spec;
mr_val mr_flow_moe(mr_flow *f, mr_val x, const mr_moe_spec *s);
/* Its parts: the ids (the weights are the value after them), and the chosen experts' weighted sum. */
mr_val mr_flow_route(mr_flow *f, mr_val x, const mr_moe_spec *s);
mr_val mr_flow_experts(mr_flow *f, mr_val x, mr_val ids, const mr_moe_spec *s);

/* Gathers the wanted rows, final norm, head, final cap (0: none).  A tied head reads the embedding; if the file holds a
 * head_name all the same and it is no copy of the embedding, it is used, as the reference does. */
typedef struct mr_head_spec {
    const char *norm_name; /* NULL: model.norm.weight */
    mr_norm_spec norm;
    const char *head_name, *embed_name; /* NULL: lm_head.weight, model.embed_tokens.weight */
    bool tied;
    bool bias; /* head_name ends in .weight, its bias in .bias */
    int64_t vocab;
    double softcap;
    bool act_f32; /* autoregressive families: the head's activations stay f32 */
    bool wanted;  /* x holds the wanted rows alone */
} mr_head_spec;
mr_val mr_flow_head(mr_flow *f, mr_val x, const mr_head_spec *s);

#endif
