"""smollm_goldens.py MODEL.gguf TEXT: what transformers says of SmolLM2-135M-Instruct's own weights.

The tensors are dequantised by gguf-py, taken back to transformers' layout (llama.cpp permutes q and k),
and run in float32, eager.  The text is Alice's Adventures in Wonderland, from "Alice was beginning" on,
tokenised by the `tokenizers` package from the vocabulary in the file.  Written: tests/run/smollm.json
(ids of 1024 tokens, their mean nll, a greedy continuation with its least top-2 margin, which logits
rows are stored) and tests/run/smollm.npy (those rows).
"""

import json
import math
import os
import sys

import numpy as np
import torch
import transformers
from gguf import GGUFReader
from gguf.quants import dequantize
from tokenizers import Tokenizer, models, pre_tokenizers

OUT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "tests", "run")
ROWS = [0, 127, 255]
NAMES = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
         "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
         "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
         "ffn_down": "mlp.down_proj"}


def field(reader, key):
    return reader.fields[key].contents()


def unpermuted(w, heads):
    half = w.shape[0] // heads // 2
    return w.reshape(heads, half, 2, -1).swapaxes(1, 2).reshape(w.shape)


def state(reader, heads, kv_heads):
    out = {}
    for t in reader.tensors:
        w = np.array(dequantize(t.data, t.tensor_type), dtype=np.float32)
        parts = t.name.split(".")
        if parts[0] == "blk":
            if parts[2] in ("attn_q", "attn_k"):
                w = unpermuted(w, heads if parts[2] == "attn_q" else kv_heads)
            name = f"model.layers.{parts[1]}.{NAMES[parts[2]]}.weight"
        else:
            name = {"token_embd": "model.embed_tokens.weight", "output_norm": "model.norm.weight"}[parts[0]]
        out[name] = torch.from_numpy(w)
    out["lm_head.weight"] = out["model.embed_tokens.weight"]
    return out


def load(reader):
    get = lambda key: field(reader, "llama." + key)
    config = transformers.LlamaConfig(
        vocab_size=get("vocab_size"), hidden_size=get("embedding_length"), num_hidden_layers=get("block_count"),
        intermediate_size=get("feed_forward_length"), num_attention_heads=get("attention.head_count"),
        num_key_value_heads=get("attention.head_count_kv"), max_position_embeddings=get("context_length"),
        rms_norm_eps=get("attention.layer_norm_rms_epsilon"), tie_word_embeddings=True,
        rope_parameters=dict(rope_type="default", rope_theta=get("rope.freq_base")), attn_implementation="eager")
    net = transformers.LlamaForCausalLM(config).float().eval()
    missing, extra = net.load_state_dict(
        state(reader, config.num_attention_heads, config.num_key_value_heads), strict=False)
    assert not extra and all("inv_freq" in m for m in missing), (missing, extra)
    return net


def encode(reader, text):
    tokens = field(reader, "tokenizer.ggml.tokens")
    merges = [tuple(m.split(" ")) for m in field(reader, "tokenizer.ggml.merges")]
    tok = Tokenizer(models.BPE({t: i for i, t in enumerate(tokens)}, merges))
    tok.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    return tok.encode(text).ids


@torch.no_grad()
def greedy(net, prompt, n):
    ids, least, past = torch.tensor([prompt]), math.inf, None
    out = []
    for _ in range(n):
        r = net(input_ids=ids, past_key_values=past, use_cache=True)
        past = r.past_key_values
        top = r.logits[0, -1].topk(2)
        least = min(least, (top.values[0] - top.values[1]).item())
        out.append(top.indices[0].item())
        ids = torch.tensor([[out[-1]]])
    return out, least


@torch.no_grad()
def main():
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    reader = GGUFReader(sys.argv[1])
    with open(sys.argv[2], encoding="utf-8") as f:
        text = f.read()
    net, ids = load(reader), encode(reader, text[text.index("Alice was beginning"):][:8000])[:1024]
    logits = net(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
    nll = torch.nn.functional.cross_entropy(logits[:-1].double(), torch.tensor(ids[1:])).item()
    out, least = greedy(net, ids[:64], 32)
    np.save(os.path.join(OUT, "smollm.npy"), logits[ROWS].numpy())
    body = dict(torch=torch.__version__.split("+")[0], transformers=transformers.__version__, ids=ids, rows=ROWS,
                nll=nll, greedy=dict(prompt_len=64, ids=out, margin=least))
    with open(os.path.join(OUT, "smollm.json"), "w") as f:
        json.dump(body, f)
        f.write("\n")
    print(f"nll {nll:.6f}, perplexity {math.exp(nll):.3f}, greedy margin {least:.4f}")


if __name__ == "__main__":
    main()
