#!/usr/bin/env python3
"""What a reader of the demo models must reproduce, from the saved weights, in f32, eager attention.

    demo_goldens.py [model...]            expected/MODEL.json and expected/MODEL.npy
    demo_goldens.py --samples MODEL       prints text drawn at temperature 0.8

MODEL.json:  weights_sha256, and
  perplexity   rows of ids (bos first); nll: mean in nats over every id but the first of each row.
               llada2: rows of `clean` ids, `masked` positions; each block is decoded once, its masked
               positions replaced by the mask id, the blocks before it clean; nll over those positions
  logits       ids; row i of MODEL.npy is the output at position i (llada2: some ids are the mask)
  greedy       prompt, ids, output (60 ids), text, margin: the least top-2 distance on the way
  diffusion    llada2 instead of greedy: the record of generate_20 in vectors_llada2.py, and its text

transformers computes gemma3 and deepseek-v3, llada2_torch.py computes llada2.
"""

import glob, hashlib, json, math, os, sys

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer

import llada2_torch
from demo_nets import BLOCK, BOS, EOS, MASK
from train_demo_models import HERE, Data, chapters
from vectors_common import greedy, margin
from vectors_llada2 import generate_20

ROOT = os.path.join(HERE, "../models")
PROMPTS = ["Once upon a time there was a", "“Where are you going?” said the", "The old man looked at the",
           "It was a cold winter morning, and", "Dorothy opened the door and", "“I wonder,” said Alice, “",
           "In the middle of the garden there was", "The King and the Queen", "A Fox and a Crow",
           "“Come along,” said the Rat, “", "They ran down the hill to", "Mary looked up and saw",
           "At last the ship came to", "The little girl was", "“Please,” said the boy, “", "That night"]


def load(name):
    folder = os.path.join(ROOT, name)
    if name.startswith("llada2"):
        return llada2_torch.load(folder)
    net = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager")
    return net.eval()


def nll(logits, ids):
    return torch.nn.functional.cross_entropy(logits, ids, reduction="none").double()


@torch.no_grad()
def causal(net, tok, stream):
    rows = torch.tensor([[BOS, *stream[i * 250:i * 250 + 250]] for i in range(8)])
    per = [nll(net(input_ids=r[None], use_cache=False).logits[0, :-1], r[1:]).mean().item() for r in rows]
    mean = sum(per) / len(per)
    runs = []
    for prompt in PROMPTS:
        ids = tok.encode(prompt).ids
        out, least = greedy(net, ids, 60)
        runs.append(dict(prompt=prompt, ids=ids, output=out, margin=least, text=tok.decode(out)))
    runs.sort(key=lambda r: -r["margin"])
    first = rows[0, :64]
    return {
        "perplexity": dict(ids=rows.tolist(), predicted=rows[:, 1:].numel(), nll=mean, nll_of_row=per,
                           perplexity=math.exp(mean)),
        "logits": dict(ids=first.tolist()),
        "greedy": [r for r in runs if EOS not in r["output"]][:2],
    }, net(input_ids=first[None], use_cache=False).logits[0]


@torch.no_grad()
def diffusion(net, tok, stream):
    rows = torch.tensor([[BOS, *stream[i * 255:i * 255 + 255]] for i in range(8)])
    gen = torch.Generator().manual_seed(11)
    hit = torch.rand(rows.shape, generator=gen) < 0.5
    hit[:, 0] = False
    per = []
    for r, h in zip(rows, hit):
        for start in range(0, 256, BLOCK):
            end = start + BLOCK
            ids = torch.cat([r[:start], r[start:end].masked_fill(h[start:end], MASK)])
            per.append(nll(net(ids, BLOCK)[start:], r[start:end])[h[start:end]])
    mean = torch.cat(per).mean().item()
    first = torch.cat([rows[0, :BLOCK], rows[0, BLOCK:64].masked_fill(hit[0, BLOCK:64], MASK)])
    runs = []
    for prompt in PROMPTS:
        run = generate_20(net, tok.encode(prompt).ids, MASK, [EOS], BLOCK, 64, 32, 0.95)
        runs.append(dict(run, text=tok.decode(run["final"]), prompt_text=prompt))
        print(f"{run['margin']:.6f} {run['router_margin']:.2e} {prompt!r} -> {runs[-1]['text']!r}", flush=True)
    runs.sort(key=lambda r: -min(r["margin"], 100 * r["router_margin"]))
    return {
        "perplexity": dict(block_length=BLOCK, mask_id=MASK, clean=rows.tolist(),
                           masked=[h.nonzero().flatten().tolist() for h in hit],
                           predicted=int(hit.sum()), nll=mean, perplexity=math.exp(mean)),
        "logits": dict(ids=first.tolist(), block_length=BLOCK),
        "diffusion": runs[:2],
    }, net(first, BLOCK)


@torch.no_grad()
def samples(name, net, tok, temperature=0.8, top_p=0.95, n=120):
    torch.manual_seed(3)
    for prompt in PROMPTS[:4]:
        ids = tok.encode(prompt).ids
        if name.startswith("llada2"):
            ids = sample_blocks(net, ids, n, temperature)
        else:
            out = net.generate(torch.tensor([ids]), max_new_tokens=n, do_sample=True, top_k=0,
                               temperature=temperature, top_p=top_p)
            ids = out[0].tolist()
        print("---", tok.decode(ids), flush=True)


def sample_blocks(net, prompt, n, temperature):
    """One token a step: drawn at the masked position whose draw is the most likely."""
    x = torch.full((-(-(len(prompt) + n) // BLOCK) * BLOCK,), MASK)
    x[:len(prompt)] = torch.tensor(prompt)
    for end in range(len(prompt) // BLOCK * BLOCK + BLOCK, len(x) + 1, BLOCK):
        while (x[end - BLOCK:end] == MASK).any():
            p = (net(x[:end], BLOCK)[-BLOCK:] / temperature).index_fill(1, torch.tensor([MASK]), -1e9).softmax(-1)
            token = p.multinomial(1)
            sure = p.gather(1, token)[:, 0].masked_fill(x[end - BLOCK:end] != MASK, -1)
            x[end - BLOCK + sure.argmax()] = token[sure.argmax()]
    return x.tolist()


def main():
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    names = [a for a in sys.argv[1:] if a[0] != "-"] or sorted(
        os.path.basename(os.path.dirname(p)) for p in glob.glob(ROOT + "/*/model.safetensors"))
    os.makedirs(os.path.join(ROOT, "../tests/vectors/stories"), exist_ok=True)
    for name in names:
        folder = os.path.join(ROOT, name)
        net, tok = load(name), Tokenizer.from_file(os.path.join(folder, "tokenizer.json"))
        if "--samples" in sys.argv:
            samples(name, net, tok)
            continue
        books = [chapters(p) for p in sorted(glob.glob(os.path.join("corpus", "*.txt")))]
        held = Data(books, os.path.join(folder, "tokenizer.json")).val
        stream = [t for c in held[1::len(held) // 6] for t in c[1:1 + 400]]     # pieces of several books
        body, logits = (diffusion if name.startswith("llada2") else causal)(net, tok, stream)
        with open(os.path.join(folder, "model.safetensors"), "rb") as f:
            digest = hashlib.sha256(f.read()).hexdigest()
        np.save(os.path.join(ROOT, "../tests/vectors/stories", name + ".npy"), logits.float().numpy())
        body["logits"].update(file=name + ".npy", least_margin=min(margin(r) for r in logits))
        body = dict(model=name, weights_sha256=digest, torch=torch.__version__.split("+")[0],
                    transformers=transformers.__version__, **body)
        with open(os.path.join(ROOT, "../tests/vectors/stories", name + ".json"), "w") as f:
            json.dump(body, f, ensure_ascii=False)
            f.write("\n")
        print(f"{name}: nll {body['perplexity']['nll']:.4f} perplexity {body['perplexity']['perplexity']:.2f}")
        for r in body.get("greedy", []):
            print(f"  margin {r['margin']:.4f} {r['prompt']!r} -> {r['text']!r}")


if __name__ == "__main__":
    main()
