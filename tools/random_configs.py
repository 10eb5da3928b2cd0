"""Random configs of every family, in every form that their keys have been published in.

    FAMILIES[name](Draw(random.Random(seed))) -> Drawn

Sizes are small and odd on purpose: one head, one expert, widths of 1, 17 or 33, windows shorter than the
prompt, one layer, vocabularies that are no multiple of anything.  Keys are left out at random, so that the
defaults of the reference's classes count, and are written in old and new forms.  What the reference itself
refuses is drawn, too: check_models.py counts it.
"""
import dataclasses

import vectors_gemma as vg
import vectors_moe as vm

S, F = "sliding_attention", "full_attention"
ACTS = ("silu", "silu", "gelu", "gelu_pytorch_tanh", "gelu_new", "relu", "quick_gelu", "relu2", "tanh",
        "sigmoid", "linear", "gelu_fast", "swish")
ROPES = ("default", "linear", "yarn", "llama3", "dynamic")
GEMMA4 = tuple((key, fn) for key, fn in vg.rules_of(4) if fn)


@dataclasses.dataclass
class Drawn:
    config: dict
    rules: tuple = ()
    model: str = None          # class of the reference, where AutoModelForCausalLM has none
    rename: object = None      # names of tensors in the file
    outer_tie: bool = False    # the outer config's tie_word_embeddings counts
    load_as: str = None        # model_type by which the reference knows it
    float32: tuple = ()        # kept in float32 whatever the file's type


class Draw:
    def __init__(self, random):
        self.random = random

    def one(self, *values):
        return self.random.choice(values)

    def often(self, p):
        return self.random.random() < p

    def divisor(self, n):
        return self.one(*[k for k in range(1, n + 1) if n % k == 0])

    def drop(self, config, p, *keys):
        for key in keys:
            if key in config and self.often(p):
                del config[key]

    def layers(self, n, *kinds):
        return [self.one(*kinds) for _ in range(n)]

    def rope(self, *kinds):
        """A rope_scaling of one of these kinds, or None."""
        kind = self.one(*kinds)
        if kind == "default":
            return self.one(None, None, {"rope_type": "default"})
        c = {self.one("type", "rope_type"): kind, "factor": self.one(1.0, 2.0, 3.7, 8, 40.0, 1)}
        if kind == "llama3":
            c.update(low_freq_factor=self.one(1.0, 1, 0.5), high_freq_factor=self.one(4.0, 2, 8),
                     original_max_position_embeddings=self.one(16, 32, 64, 100))
        if kind == "yarn":
            c["original_max_position_embeddings"] = self.one(16, 32, 64, 100)
            for key, values in (("attention_factor", (0.9, 1.3)), ("mscale", (0.5, 1.0, 1, 0)),
                                ("mscale_all_dim", (0.7, 1.0, 1, 0)), ("beta_fast", (16, 32.0, 64)),
                                ("beta_slow", (1, 2, 0.5)), ("truncate", (True, False))):
                if self.often(.35):
                    c[key] = self.one(*values)
            self.drop(c, .1, "original_max_position_embeddings")
            if self.often(.1):
                c["factor"] = None
        return c

    def new_form(self, config):
        """At times rope_parameters instead of, or beside, rope_scaling, rope_theta and the rotary part."""
        if self.often(.4):
            rope = dict(config.pop("rope_scaling", None) or {"rope_type": "default"})
            rope["rope_type"] = rope.pop("type", rope.get("rope_type"))
            for key, p in (("rope_theta", .8), ("partial_rotary_factor", .6)):
                if key in config and self.often(p):
                    rope[key] = config.pop(key)
            config["rope_parameters"] = rope
        elif self.often(.15) and config.get("rope_scaling"):
            config["rope_parameters"] = {**config["rope_scaling"], "rope_theta": config.get("rope_theta", 1e4)}
        return config

    def experts(self, *counts):
        n = self.one(*counts)
        return n, self.one(*[k for k in (1, 2, 4, 7, 16) if k <= n])


# ---------------------------------------------------------------- Llama, Qwen3

def even_heads(config):
    """Without head_dim it is hidden_size / heads, which rope needs even."""
    if config.get("head_dim") is None and config["hidden_size"] // config["num_attention_heads"] % 2:
        config["head_dim"] = 6
    return config


def llama(d):
    heads = d.one(1, 2, 3, 4, 5, 6, 8)
    c = vm.llama(
        num_attention_heads=heads, num_key_value_heads=d.one(d.divisor(heads), None),
        hidden_size=heads * d.one(4, 6, 8, 10, 16, 24), head_dim=d.one(None, 2, 8, 12, 16, 20, 40, 64),
        intermediate_size=d.one(1, 17, 32, 96, 130), num_hidden_layers=d.one(1, 1, 2, 3),
        vocab_size=d.one(50, 101, 257, 321), attention_bias=d.often(.5), mlp_bias=d.often(.5),
        tie_word_embeddings=d.often(.5), rms_norm_eps=d.one(1e-5, 1e-6, 1e-3),
        rope_theta=d.one(500.0, 10000, 1e6, 500000.0), rope_scaling=d.rope(*ROPES), hidden_act=d.one(*ACTS),
        max_position_embeddings=d.one(16, 50, 512, 2048), eos_token_id=d.one(1, [1, 3], None),
        bos_token_id=d.one(1, None))
    d.drop(c, .25, "num_key_value_heads", "head_dim", "rms_norm_eps", "attention_bias", "mlp_bias",
           "tie_word_embeddings", "rope_theta", "rope_scaling", "hidden_act", "max_position_embeddings",
           "eos_token_id", "bos_token_id", "architectures", "pretraining_tp")
    return Drawn(d.new_form(even_heads(c)))


def qwen3_sizes(d, layers):
    heads = d.one(1, 2, 3, 4, 6)
    return dict(
        num_attention_heads=heads, num_key_value_heads=d.divisor(heads), hidden_size=heads * d.one(6, 8, 10, 20),
        head_dim=d.one(2, 8, 16, 20, 64), intermediate_size=d.one(1, 17, 32, 96), num_hidden_layers=layers,
        vocab_size=d.one(50, 129, 320), attention_bias=d.often(.5), tie_word_embeddings=d.often(.5),
        rms_norm_eps=d.one(1e-5, 1e-6, 1e-3), rope_theta=d.one(500.0, 10000, 1e6), rope_scaling=d.rope(*ROPES),
        hidden_act=d.one(*ACTS), use_sliding_window=d.often(.5), sliding_window=d.one(None, 1, 3, 16, 500),
        max_window_layers=d.one(0, 1, 2, 28), max_position_embeddings=d.one(40, 512))


QWEN3_MAY_LACK = ("attention_bias", "tie_word_embeddings", "rms_norm_eps", "rope_theta", "rope_scaling", "hidden_act",
                  "use_sliding_window", "sliding_window", "max_window_layers", "max_position_embeddings")


def qwen3(d):
    layers = d.one(1, 2, 3, 4)
    c = vm.qwen3(**qwen3_sizes(d, layers))
    if d.often(.3):
        c["layer_types"] = d.layers(layers, S, F)
    d.drop(c, .25, *QWEN3_MAY_LACK)
    return Drawn(d.new_form(c))


def qwen3_moe(d):
    layers, (experts, chosen) = d.one(1, 2, 3, 4), d.experts(1, 2, 4, 7, 16)
    c = vm.qwen3_moe(**qwen3_sizes(d, layers), num_experts=experts, num_experts_per_tok=chosen,
                     moe_intermediate_size=d.one(1, 5, 16), norm_topk_prob=d.often(.5),
                     decoder_sparse_step=d.one(1, 1, 2, 3), mlp_only_layers=d.one([], [0], [1, 2], [7], None))
    if d.often(.15):
        c["layer_types"] = d.layers(layers, S, F)
    if d.often(.2):
        c["num_local_experts"] = c.pop("num_experts")
    d.drop(c, .25, *QWEN3_MAY_LACK, "norm_topk_prob", "decoder_sparse_step", "mlp_only_layers", "head_dim")
    return Drawn(d.new_form(even_heads(c)), vm.ROUTER)


def hybrid_sizes(d, heads):
    key_heads = d.one(1, 2, 3)
    return dict(
        num_attention_heads=heads, num_key_value_heads=d.divisor(heads), head_dim=d.one(8, 16, 20, 32),
        linear_num_key_heads=key_heads, linear_num_value_heads=key_heads * d.one(1, 2, 3),
        linear_key_head_dim=d.one(1, 4, 8, 20), linear_value_head_dim=d.one(1, 4, 8, 20),
        linear_conv_kernel_dim=d.one(1, 2, 4, 7), hidden_act=d.one(*ACTS), attention_bias=d.often(.5),
        tie_word_embeddings=d.often(.5), rms_norm_eps=d.one(1e-5, 1e-6), vocab_size=d.one(50, 129, 320),
        max_position_embeddings=d.one(40, 512))


def qwen3_next(d):
    layers, (experts, chosen) = d.one(1, 2, 3, 4, 5), d.experts(1, 2, 7, 12)
    c = vm.qwen3_next(
        num_hidden_layers=layers, num_experts=experts, num_experts_per_tok=chosen,
        moe_intermediate_size=d.one(1, 5, 16), shared_expert_intermediate_size=d.one(1, 7, 16),
        norm_topk_prob=d.often(.5), decoder_sparse_step=d.one(1, 1, 2), mlp_only_layers=d.one([], [0], [1, 2], None),
        full_attention_interval=d.one(1, 2, 3, 4, 7), partial_rotary_factor=d.one(0.25, 0.5, 1.0, 0.3),
        rope_theta=d.one(500.0, 1e6), rope_scaling=d.rope(*ROPES), **hybrid_sizes(d, d.one(1, 2, 3, 4)))
    if d.often(.3):
        c["layer_types"] = d.layers(layers, "linear_attention", F)
    d.drop(c, .25, "attention_bias", "tie_word_embeddings", "rms_norm_eps", "rope_theta", "rope_scaling", "hidden_act",
           "norm_topk_prob", "decoder_sparse_step", "mlp_only_layers", "max_position_embeddings",
           "full_attention_interval", "partial_rotary_factor", "linear_conv_kernel_dim")
    return Drawn(d.new_form(c), vm.HYBRID)


def qwen3_5(d, moe=False):
    layers, (experts, chosen) = d.one(1, 2, 3, 4, 5), d.experts(1, 2, 7, 12)
    outer = vm.qwen3_5(moe, num_hidden_layers=layers)
    c = outer["text_config"]
    c.update(hybrid_sizes(d, d.one(1, 2, 3, 4)), full_attention_interval=d.one(1, 2, 3, 4))
    if moe:
        c.update(num_experts=experts, num_experts_per_tok=chosen, moe_intermediate_size=d.one(1, 5, 16),
                 shared_expert_intermediate_size=d.one(1, 7, 16))
    del c["layer_types"]
    if d.often(.4):
        c["layer_types"] = d.layers(layers, "linear_attention", F)
    rope = c["rope_parameters"]
    rope.update(partial_rotary_factor=d.one(0.25, 0.5, 1.0, 0.3), rope_theta=d.one(500.0, 1e6))
    if d.often(.3):
        rope.update(d.rope(*ROPES[1:]))
        rope["rope_type"] = rope.pop("type", rope["rope_type"])
    d.drop(rope, .3, "partial_rotary_factor", "rope_theta")
    if d.often(.2):
        c["partial_rotary_factor"] = d.one(0.5, 1.0)
    if d.often(.2):
        c["rope_theta"] = 1000.0
    d.drop(c, .1, "rope_parameters")
    d.drop(c, .25, "attention_bias", "tie_word_embeddings", "rms_norm_eps", "hidden_act", "max_position_embeddings",
           "full_attention_interval", "linear_conv_kernel_dim")
    if d.often(.5):
        c["model_type"] = outer["model_type"] + "_text"
        return Drawn(c, vm.HYBRID)
    outer["tie_word_embeddings"] = d.often(.5)
    d.drop(outer, .3, "tie_word_embeddings")
    return Drawn(outer, vm.HYBRID, rename=vm.multimodal, outer_tie=True)


# ---------------------------------------------------------------- DeepSeek, Kimi

def mla_sizes(d, line):
    """`line` 2 or 3: what V2's class cannot do is not drawn for it."""
    groups, per = d.one(1, 2, 3, 4), d.one(1, 2, 3, 4) if line == 2 else d.one(2, 3, 4)
    kept = d.one(*range(1, groups + 1))
    return dict(
        num_attention_heads=d.one(1, 2, 3, 4), hidden_size=d.one(24, 36, 48) if line == 2 else d.one(24, 33, 40),
        n_routed_experts=groups * per, n_group=groups, topk_group=kept,
        num_experts_per_tok=d.one(*range(1, per * kept + 1)), q_lora_rank=d.one(None, 8, 17),
        kv_lora_rank=d.one(2, 8, 34, 64) if line == 2 else d.one(1, 8, 33, 64),
        qk_nope_head_dim=d.one(2, 8, 16, 30) if line == 2 else d.one(1, 8, 16, 31), qk_rope_head_dim=d.one(2, 4, 8, 16),
        v_head_dim=d.one(1, 4, 8, 17), intermediate_size=d.one(1, 17, 32), moe_intermediate_size=d.one(1, 5, 16),
        num_hidden_layers=d.one(1, 2, 3), first_k_dense_replace=d.one(0, 1, 2, 3, 9), n_shared_experts=d.one(1, 2, 3),
        norm_topk_prob=d.often(.5), routed_scaling_factor=d.one(1.0, 2.5, 0.3, 16.0), attention_bias=d.often(.5),
        tie_word_embeddings=d.often(.5), vocab_size=d.one(50, 129, 320), rms_norm_eps=d.one(1e-6, 1e-5),
        hidden_act=d.one(*ACTS), moe_layer_freq=d.one(1, 1, 2, 3), max_position_embeddings=d.one(40, 512),
        rope_theta=d.one(100.0, 10000, 50000.0))


MLA_MAY_LACK = ("first_k_dense_replace", "n_shared_experts", "norm_topk_prob", "routed_scaling_factor",
                "attention_bias", "tie_word_embeddings", "rms_norm_eps", "hidden_act", "moe_layer_freq", "rope_theta",
                "rope_scaling", "max_position_embeddings", "num_key_value_heads", "scoring_func", "topk_method")


def deepseek_v2(d):
    c = vm.deepseek_v2(**mla_sizes(d, 2), topk_method=d.one("greedy", "group_limited_greedy"), mlp_bias=d.often(.5))
    c["rope_scaling"] = d.rope("yarn", *ROPES)
    d.drop(c, .12, *MLA_MAY_LACK, "mlp_bias")
    return Drawn(d.new_form(c), vm.DEEPSEEK)


def deepseek_v3(d, kind=vm.deepseek_v3):
    c = kind(**mla_sizes(d, 3), rope_interleave=d.one(True, True, False))
    c["rope_scaling"] = d.rope("yarn", *ROPES)
    d.drop(c, .12, *MLA_MAY_LACK, "n_group", "topk_group", "rope_interleave")
    if d.often(.2):
        c["num_local_experts"] = c.pop("n_routed_experts")
    return Drawn(d.new_form(c), vm.DEEPSEEK, float32=d.one((), ("e_score",)), load_as="deepseek_v3")


def kimi(d):
    drawn = deepseek_v3(d, vm.kimi_k2)
    if d.often(.5):
        outer = vm.kimi_k25()
        outer.update(text_config=drawn.config)
        drawn.config, drawn.rename = outer, vm.kimi_multimodal
    return drawn


# ---------------------------------------------------------------- Gemma

def gemma(d):
    heads = d.one(1, 2, 3, 4)
    c = dict(model_type="gemma", architectures=["GemmaForCausalLM"], vocab_size=d.one(120, 257),
             hidden_size=heads * d.one(8, 12, 16), intermediate_size=d.one(17, 48), num_hidden_layers=d.one(1, 2, 3),
             num_attention_heads=heads, num_key_value_heads=d.divisor(heads), head_dim=d.one(2, 8, 16, 20, 64),
             hidden_act=d.one(*ACTS), max_position_embeddings=d.one(40, 512), rms_norm_eps=d.one(1e-6, 1e-4),
             tie_word_embeddings=d.one(True, True, False), attention_bias=d.often(.5),
             rope_theta=d.one(100.0, 10000.0), rope_scaling=d.rope(*ROPES),
             use_bidirectional_attention=d.one(None, False), pad_token_id=0)
    d.drop(c, .25, "hidden_act", "max_position_embeddings", "rms_norm_eps", "tie_word_embeddings", "attention_bias",
           "rope_theta", "rope_scaling", "use_bidirectional_attention")
    if d.often(.2):
        c["hidden_activation"] = d.one("gelu", "relu", None)
    return Drawn(d.new_form(c), vm.GEMMA)


def gemma2(d):
    drawn = gemma(d)
    c = drawn.config
    layers = d.one(1, 2, 3, 4)
    c.pop("hidden_act", None)
    c.update(model_type="gemma2", architectures=["Gemma2ForCausalLM"], num_hidden_layers=layers,
             hidden_activation=d.one(*ACTS), query_pre_attn_scalar=d.one(8, 24, 256, 100),
             sliding_window=d.one(1, 2, 7, 16, 64, 4096), final_logit_softcapping=d.one(None, 5.0, 30.0),
             attn_logit_softcapping=d.one(None, 3.0, 50.0))
    if d.often(.4):
        c["layer_types"] = d.layers(layers, S, F)
    d.drop(c, .25, "query_pre_attn_scalar", "sliding_window", "final_logit_softcapping", "attn_logit_softcapping",
           "hidden_activation")
    return drawn


def gemma3_ropes(d, c):
    """The new form: one rope for each type of layer; at times with old keys left beside it."""
    full = dict(c.pop("rope_scaling") or {"rope_type": "default"})
    slides = dict(d.rope("default", "default", "linear", "yarn") or {"rope_type": "default"})
    for rope, key in ((full, "rope_theta"), (slides, "rope_local_base_freq")):
        rope["rope_type"] = rope.pop("type", rope.get("rope_type"))
        theta = c.pop(key)
        if d.often(.7):
            rope["rope_theta"] = theta
        if d.often(.15):
            c[key] = theta
    c["rope_parameters"] = {F: full, S: slides}
    d.drop(c["rope_parameters"], .05, F, S)
    if d.often(.15):
        c["rope_scaling"] = {"rope_type": "linear", "factor": 4.0}


def language_first(name):
    if name == "lm_head.weight":
        return "language_model.lm_head.weight"
    for part in ("language_model.", "vision_tower", "multi_modal"):
        if name.startswith("model." + part):
            return name.replace("model." + part, part + ("model." if part == "language_model." else ""), 1)
    return name


def gemma3(d):
    heads, layers = d.one(1, 2, 3, 4), d.one(1, 2, 3, 5)
    c = vm.gemma3(
        num_attention_heads=heads, num_key_value_heads=d.divisor(heads), hidden_size=heads * d.one(8, 12, 16),
        head_dim=d.one(2, 8, 16, 20, 64), intermediate_size=d.one(17, 48), num_hidden_layers=layers,
        vocab_size=d.one(120, 257, 320), attention_bias=d.often(.5), tie_word_embeddings=d.one(True, True, False),
        rms_norm_eps=d.one(1e-5, 1e-6), rope_theta=d.one(500.0, 10000, 1e6),
        rope_local_base_freq=d.one(100, 10000, 1000.0), sliding_window=d.one(1, 2, 7, 16, 31, 100, 4096),
        query_pre_attn_scalar=d.one(8, 16, 100, 256), final_logit_softcapping=d.one(None, None, 5.0),
        attn_logit_softcapping=d.one(None, 5.0), rope_scaling=d.rope("linear", *ROPES),
        hidden_activation=d.one(*ACTS), max_position_embeddings=d.one(40, 512, 131072),
        sliding_window_pattern=d.one(1, 2, 3, 6))
    if d.often(.5):
        del c["sliding_window_pattern"]
        if d.often(.7):
            c["layer_types"] = d.layers(layers, S, F)
    if d.often(.5):
        gemma3_ropes(d, c)
    d.drop(c, .2, "attention_bias", "tie_word_embeddings", "rms_norm_eps", "rope_theta", "rope_local_base_freq",
           "rope_scaling", "sliding_window", "query_pre_attn_scalar", "final_logit_softcapping",
           "attn_logit_softcapping", "hidden_activation", "max_position_embeddings", "cache_implementation")
    if d.often(.7):
        return Drawn(c, vm.GEMMA)
    for key in ("architectures", "torch_dtype", "transformers_version"):
        c.pop(key)
    d.drop(c, .5, "model_type")
    outer = dict(architectures=["Gemma3ForConditionalGeneration"], image_token_index=110, boi_token_index=111,
                 eoi_token_index=112, mm_tokens_per_image=4, model_type="gemma3", text_config=c,
                 vision_config=dict(vg.SIGLIP))
    if "tie_word_embeddings" in c and d.often(.5):
        outer["tie_word_embeddings"] = c.pop("tie_word_embeddings")
    return Drawn(outer, vm.GEMMA, model="Gemma3ForConditionalGeneration", rename=d.one(None, language_first))


def gemma4(d):
    heads, layers, vocab = d.one(1, 2, 3, 4, 6), d.one(1, 2, 3, 4, 6), d.one(120, 257)
    unified = d.often(.3)
    c = dict(
        model_type="gemma4_unified_text" if unified else "gemma4_text", vocab_size=vocab,
        hidden_size=d.one(16, 24, 36), intermediate_size=d.one(17, 32, 48), num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=d.divisor(heads), head_dim=d.one(4, 8, 16, 20),
        global_head_dim=d.one(4, 8, 16, 32, 24), num_global_key_value_heads=d.one(None, d.divisor(heads)),
        attention_k_eq_v=d.often(.5), hidden_activation=d.one(*ACTS), rms_norm_eps=d.one(1e-6, 1e-4),
        sliding_window=d.one(1, 2, 5, 16, 512), layer_types=d.layers(layers, S, S, F),
        final_logit_softcapping=d.one(None, 5.0, 30.0), attention_bias=d.often(.5),
        tie_word_embeddings=d.one(True, True, False), num_kv_shared_layers=min(d.one(0, 0, 1, 2), layers - 1),
        use_double_wide_mlp=d.often(.5), max_position_embeddings=d.one(40, 512), pad_token_id=d.one(0, 3),
        use_bidirectional_attention=d.one(None, "vision"))
    if not unified:
        c.update(hidden_size_per_layer_input=d.one(0, 0, 4, 12), vocab_size_per_layer_input=d.one(vocab, vocab + 9),
                 enable_moe_block=d.often(.5), num_experts=d.one(4, 7, 8), top_k_experts=d.one(1, 2, 4),
                 moe_intermediate_size=d.one(5, 16))
    if d.often(.5):
        c["rope_parameters"] = {
            F: d.one(dict(rope_type="default", rope_theta=1000.0), dict(rope_type="linear", factor=4.0, rope_theta=1e5),
                     dict(rope_type="yarn", factor=4.0, rope_theta=1e5, original_max_position_embeddings=16),
                     dict(rope_type="proportional", partial_rotary_factor=d.one(0.25, 0.5, 1.0, 0.1),
                          rope_theta=d.one(1e6, 1000.0), factor=d.one(1.0, 8.0))),
            S: d.one(dict(rope_type="default", rope_theta=100.0), dict(rope_type="linear", factor=2.0, rope_theta=1e4),
                     dict(rope_type="proportional", partial_rotary_factor=0.5, rope_theta=1e3))}
    d.drop(c, .15, "num_global_key_value_heads", "attention_k_eq_v", "hidden_activation", "rms_norm_eps",
           "sliding_window", "layer_types", "final_logit_softcapping", "attention_bias", "tie_word_embeddings",
           "num_kv_shared_layers", "use_double_wide_mlp", "enable_moe_block", "use_bidirectional_attention",
           "max_position_embeddings")
    return Drawn(c, GEMMA4)


# ---------------------------------------------------------------- diffusion, images

def llada2(d):
    """Arguments of vectors_llada2.tiny, whose reference is llada2_torch.py."""
    experts, chosen = d.experts(4, 16, 32)
    groups = d.divisor(experts) if experts < 32 else d.one(1, 4, 8)
    kept = d.one(*[k for k in range(1, groups + 1) if k * (experts // groups) >= chosen])
    heads = d.one(1, 2, 3, 4)
    c = dict(vocab_size=d.one(300, 303, 331), hidden_size=d.one(24, 33, 64), intermediate_size=d.one(17, 96),
             moe_intermediate_size=d.one(1, 7, 16), num_hidden_layers=d.one(1, 2, 3), num_attention_heads=heads,
             num_key_value_heads=d.divisor(heads), head_dim=d.one(8, 16, 20), num_experts=experts,
             num_experts_per_tok=chosen, n_group=groups, topk_group=kept, num_shared_experts=d.one(None, 1, 2),
             first_k_dense_replace=d.one(0, 1, 2), routed_scaling_factor=d.one(1.0, 2.5),
             partial_rotary_factor=d.one(0.5, 1.0), rope_theta=d.one(6e5, 3e6, 1000.0), rms_norm_eps=d.one(1e-6, 1e-5),
             use_bias=d.often(.3), use_qkv_bias=d.often(.3), use_qk_norm=d.often(.7),
             tie_word_embeddings=d.often(.3), shift=d.one(-0.1, -2.0))
    if d.often(.3) and experts >= 8:
        c.update(expert_capacity=d.one(*range(chosen, experts + 1)), block_size=8)
    return Drawn(c)


def diffusion_gemma(d):
    """Arguments of vectors_diffusion_gemma.config_of."""
    heads, layers, (experts, chosen) = d.one(2, 3, 4), d.one(1, 2, 3, 4), d.experts(3, 6, 10)
    c = dict(vocab_size=d.one(272, 300, 261), hidden_size=heads * d.one(12, 16), intermediate_size=d.one(17, 40),
             num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=d.divisor(heads),
             head_dim=d.one(8, 16), global_head_dim=d.one(16, 32), num_global_key_value_heads=d.one(1, None),
             num_experts=experts, top_k_experts=chosen, moe_intermediate_size=d.one(5, 20),
             sliding_window=d.one(2, 3, 5, 8, 64),  # of 1 its cache keeps all: keys[-1 + 1:]
             attention_bias=d.often(.5), layer_types=d.layers(layers, S, F),
             use_bidirectional_attention=d.one(None, "vision"), tie_word_embeddings=d.one(True, True, False))
    if d.often(.3):
        c["final_logit_softcapping"] = d.one(12.0, 5.0)
    return Drawn(c)


def images(d):
    """Gemma 3, Gemma 4 or Gemma 4 unified with images: the text config, and which."""
    kind, heads, layers, vocab = d.one(3, 4, 5), d.one(1, 2, 4), d.one(1, 2, 3, 5), d.one(120, 257)
    c = dict(vocab_size=vocab, hidden_size=heads * d.one(12, 16), intermediate_size=d.one(17, 40),
             num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=d.divisor(heads),
             head_dim=d.one(8, 16), sliding_window=d.one(1, 2, 5, 13, 64), attention_bias=d.often(.5),
             layer_types=d.layers(layers, S, S, F))
    if kind == 3:
        c.update(query_pre_attn_scalar=16, rope_parameters={
            F: dict(rope_type="linear", factor=8.0, rope_theta=1e6), S: dict(rope_type="default", rope_theta=1e4)})
    else:
        c.update(global_head_dim=d.one(8, 32), num_global_key_value_heads=d.one(None, 1),
                 attention_k_eq_v=d.often(.5), use_bidirectional_attention=d.one("vision", "vision", None))
    if kind == 4:
        c.update(hidden_size_per_layer_input=d.one(0, 8), vocab_size_per_layer_input=vocab,
                 enable_moe_block=d.often(.5), num_experts=6, top_k_experts=2, moe_intermediate_size=8)
    return Drawn(dict(kind=kind, text=c))


FAMILIES = {
    "llama": llama, "qwen3": qwen3, "qwen3_moe": qwen3_moe, "qwen3_next": qwen3_next, "qwen3_5": qwen3_5,
    "qwen3_5_moe": lambda d: qwen3_5(d, True), "deepseek_v2": deepseek_v2, "deepseek_v3": deepseek_v3, "kimi": kimi,
    "gemma": gemma, "gemma2": gemma2, "gemma3": gemma3, "gemma4": gemma4, "images": images, "llada2": llada2,
    "diffusion_gemma": diffusion_gemma,
}
