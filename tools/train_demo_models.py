#!/usr/bin/env python3
"""Trains the three demo models of Millrace: gemma3, deepseek-v3 and llada2, a few million weights each.

    train_demo_models.py tokenizer                      # once: byte-level BPE, 4096 entries
    train_demo_models.py gemma3 --minutes 50            # and deepseek-v3, llada2

Training is limited by wall clock: the learning rate follows the share of the time used, so --minutes
always ends in a finished schedule.  The best weights so far are exported at every evaluation, and the
full state is kept in --work, so a run cut short is usable and a run started again goes on.

The models are in demo_nets.py; demo_goldens.py then writes what a reader of them must reproduce.
"""

import argparse, glob, json, math, os, random, re, shutil, tempfile, time

import torch
from safetensors.torch import save_file
from torch import nn

from demo_nets import BLOCK, BOS, CONFIGS, EOS, MASK, PAD, Model, Moe

HERE = os.path.dirname(os.path.abspath(__file__))
SPECIAL = ["<|pad|>", "<|eos|>", "<|bos|>", "<|mask|>", "<|user|>", "<|assistant|>"]
SPLIT = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
         r"|\s*[\r\n]+|\s+(?!\S)|\s+")


# ---- tokenizer and data -----------------------------------------------------------------------

def chapters(path):
    """The chapters of a book: runs of heading-like paragraphs start one."""
    out, heading = [], False
    for par in re.split(r"\n\s*\n", open(path, encoding="utf-8").read().strip()):
        is_heading = re.fullmatch(r"[A-Z0-9][^.?!,:;—“”]{0,60}", par.strip()) is not None
        if not out or (is_heading and not heading):
            out.append([])
        out[-1].append(par.strip())
        heading = is_heading
    return ["\n\n".join(c) + "\n" for c in out if sum(map(len, c)) > 200]


def train_tokenizer(books, folder):
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(SPLIT), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tok.decoder = decoders.ByteLevel()
    tok.train_from_iterator((c for b in books for c in b), trainers.BpeTrainer(
        vocab_size=CONFIGS["gemma3"]["vocab_size"], special_tokens=SPECIAL, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    tok.post_processor = processors.TemplateProcessing(
        single="<|bos|> $A", pair="<|bos|> $A $B", special_tokens=[("<|bos|>", BOS)])
    os.makedirs(folder, exist_ok=True)
    tok.save(os.path.join(folder, "tokenizer.json"), pretty=False)


class Data:
    """Token stream of the training chapters, cut anew each epoch; the held-out chapters apart."""

    def __init__(self, books, tokenizer, seed=1):
        from tokenizers import Tokenizer
        tok = Tokenizer.from_file(tokenizer)
        rng = random.Random(0)
        self.train, self.val = [], []                   # a list of books, each a list of chapters
        for book in books:
            ids = [[BOS, *e.ids, EOS] for e in tok.encode_batch(book, add_special_tokens=False)]
            held = {i for i in range(len(ids)) if rng.random() < 0.024}
            self.val += [ids[i] for i in sorted(held)]
            self.train.append([c for i, c in enumerate(ids) if i not in held])
        self.breaks = {i for t, i in tok.get_vocab().items() if t.endswith("ĊĊ") or i == EOS}
        self.rng, self.queue, self.epoch = random.Random(seed), [], 0

    def cut(self, stream, size, start=0):
        """Rows [bos, tokens...] of `size`, contiguous; each starts a paragraph where one is near."""
        at = [i + 1 for i, t in enumerate(stream) if t in self.breaks]
        rows, k = [], 0
        while start + size < len(stream):
            first = start + (stream[start] == BOS)
            rows.append([BOS, *stream[first:first + size - 1]])
            end = first + size - 1
            while k + 1 < len(at) and at[k + 1] <= end:
                k += 1
            start = at[k] if k < len(at) and end - size // 4 < at[k] <= end else end
        return rows

    def batch(self, rows, size):
        while len(self.queue) < rows or len(self.queue[0]) != size:
            books = [b[:] for b in self.train]
            self.rng.shuffle(books)
            stream = [t for b in books for c in b for t in c]
            self.queue = self.cut(stream, size, self.rng.randrange(size))
            self.rng.shuffle(self.queue)
            self.epoch += 1
        out, self.queue = self.queue[:rows], self.queue[rows:]
        return torch.tensor(out)


# ---- optimiser --------------------------------------------------------------------------------

def orthogonal(g):
    """Newton-Schulz towards the nearest (semi-)orthogonal matrix, over the last two axes."""
    x = g.bfloat16()
    flip = x.size(-2) > x.size(-1)
    x = x.mT if flip else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        a = x @ x.mT
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return (x.mT if flip else x).float()


class Muon(torch.optim.Optimizer):
    def __init__(self, params, lr, momentum=0.95, decay=0.0):
        super().__init__(params, dict(lr=lr, momentum=momentum, decay=decay))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                m = self.state[p].setdefault("m", torch.zeros_like(p))
                m.lerp_(p.grad, 1 - group["momentum"])
                u = orthogonal(p.grad.lerp(m, group["momentum"]))
                p.mul_(1 - group["lr"] * group["decay"])
                p.add_(u, alpha=-group["lr"] * max(1.0, p.shape[-2] / p.shape[-1]) ** 0.5)


# ---- training ---------------------------------------------------------------------------------

def export(model, folder, tokenizer):
    """The checkpoint as its family publishes it: bf16, one tensor per expert, f32 selection bias."""
    state = {}
    for name, t in model.state_dict().items():
        name = name.replace("._orig_mod", "")
        parts = re.fullmatch(r"(.*\.experts)\.(\w+_proj)", name)
        if parts:
            for e in range(len(t)):
                state[f"{parts[1]}.{e}.{parts[2]}.weight"] = t[e].bfloat16().contiguous()
        else:
            t = t.bfloat16().contiguous()
            state[name] = t.float() if name.endswith("bias") else t
    os.makedirs(folder, exist_ok=True)
    temp = os.path.join(folder, "model.tmp")
    save_file(state, temp, {"format": "pt"})
    os.chmod(temp, 0o644)
    os.replace(temp, os.path.join(folder, "model.safetensors"))
    shutil.copy(tokenizer, os.path.join(folder, "tokenizer.json"))
    c = model.c
    ids = dict(bos_token_id=BOS, eos_token_id=EOS, pad_token_id=PAD)
    files = {
        "config.json": c,
        "generation_config.json": dict(ids, do_sample=True, temperature=0.8, top_p=0.95),
        "tokenizer_config.json": dict(
            tokenizer_class="PreTrainedTokenizerFast", add_bos_token=True, add_eos_token=False,
            bos_token="<|bos|>", eos_token="<|eos|>", pad_token="<|pad|>", mask_token="<|mask|>",
            model_max_length=c["max_position_embeddings"], clean_up_tokenization_spaces=False,
            added_tokens_decoder={str(i): dict(content=s, lstrip=False, normalized=False, rstrip=False,
                                               single_word=False, special=True) for i, s in enumerate(SPECIAL)})}
    if model.kind == "llada2":
        files["generation_config.json"] = dict(ids, mask_token_id=MASK, block_length=BLOCK, steps=BLOCK,
                                               threshold=0.95, temperature=0.0)
    for name, body in files.items():
        with open(os.path.join(folder, name), "w") as f:
            json.dump(dict(sorted(body.items())), f, indent=2)
            f.write("\n")


@torch.no_grad()
def evaluate(model, rows, per=16):
    model.eval()
    gen, total = torch.Generator().manual_seed(7), 0.0
    with torch.autocast("cpu", torch.bfloat16), torch.compiler.set_stance("force_eager"):
        for i in range(0, len(rows), per):
            total += model(rows[i:i + per], gen).item()
    model.train()
    return total / math.ceil(len(rows) / per)


def train(kind, args, books):
    torch.manual_seed(1)
    tokenizer = os.path.join(args.work, "tokenizer.json")
    data = Data(books, tokenizer)
    val = torch.tensor(data.cut([t for c in data.val for t in c], 256))
    val = val[torch.linspace(0, len(val) - 1, min(len(val), 40)).long()]
    model = Model(kind, not args.no_compile)
    def vector_like(name, p):
        return p.dim() < 2 or "embed" in name or "gate.weight" in name
    matrices = [p for n, p in model.named_parameters() if not vector_like(n, p)]
    rest = [p for n, p in model.named_parameters() if vector_like(n, p)]
    muon = Muon(matrices, args.lr, decay=args.decay)
    adam = torch.optim.AdamW(rest, args.lr / 5, betas=(0.9, 0.95), weight_decay=0.0)
    moes = [m for m in model.modules() if isinstance(m, Moe)]
    saved, step, used, tokens, best = os.path.join(args.work, kind + ".pt"), 0, 0.0, 0, math.inf
    if os.path.exists(saved):
        s = torch.load(saved)
        model.load_state_dict(s["model"]), muon.load_state_dict(s["muon"]), adam.load_state_dict(s["adam"])
        step, used, tokens, best = s["step"], s["used"], s["tokens"], s["best"]
        data.rng.seed(step)
    print(f"{kind}: {sum(p.numel() for p in model.parameters())} weights, validation {tuple(val.shape)}, "
          f"training tokens {sum(len(c) for b in data.train for c in b)}", flush=True)
    began, mark, limit = time.time() - used, (time.time(), tokens), args.minutes * 60
    running, loads = [], []
    last_eval = last_save = time.time()
    model.train()
    while True:
        used = time.time() - began
        share = used / limit
        rate = min(1.0, (step + 1) / 50, max(0.0, (1 - share) / 0.6))   # warm-up, flat, linear to zero
        muon.param_groups[0]["lr"], adam.param_groups[0]["lr"] = args.lr * rate, args.lr / 5 * rate
        if share < 1:
            size = 512 if share > 0.85 and kind != "llada2" else 256   # the last part on longer rows
            model.block = 1 if share < 0.4 else 4 if share < 0.5 else BLOCK      # llada2: causal first
            ids = data.batch(args.tokens // size, size)
            with torch.autocast("cpu", torch.bfloat16):
                loss = model(ids)
            loss.backward()
            nn.utils.clip_grad_norm_(rest, 1.0)
            muon.step(), adam.step()
            model.zero_grad(set_to_none=True)
            loads = [(m.load.max() / m.load.mean()).item() for m in moes]
            for m in moes:
                m.balance(0.01 * max(rate, 0.05))
            step, tokens = step + 1, tokens + ids.numel()
            running.append(loss.item())
        now = time.time()
        if share >= 1 or now - last_eval > args.every:
            loss = evaluate(model, val)
            better, last_eval = loss < best, time.time()
            print(f"{used / 60:6.1f} min step {step} epoch {data.epoch} tokens {tokens / 1e6:.2f}M "
                  f"train {sum(running) / max(1, len(running)):.3f} val {loss:.4f}{'*' if better else ' '} "
                  f"{(tokens - mark[1]) / (now - mark[0]):.0f} tok/s load {max(loads, default=0):.2f}", flush=True)
            mark, running = (time.time(), tokens), []
            if better:
                best = loss
                export(model, os.path.join(args.out, kind + "-stories"), tokenizer)
        if share >= 1 or now - last_save > 180:
            last_save = now
            torch.save(dict(model=model.state_dict(), muon=muon.state_dict(), adam=adam.state_dict(),
                            step=step, used=used, tokens=tokens, best=best), saved + ".tmp")
            os.replace(saved + ".tmp", saved)
        if share >= 1:
            return print(f"done: {step} steps, {tokens} tokens, best validation loss {best:.4f}", flush=True)


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("what", choices=["tokenizer", *CONFIGS])
    ap.add_argument("--corpus", default="corpus")
    ap.add_argument("--out", default=os.path.join(HERE, "../models"))
    ap.add_argument("--work", default=os.path.join(tempfile.gettempdir(), "millrace-train"))
    ap.add_argument("--minutes", type=float, default=50)
    ap.add_argument("--threads", type=int, default=1)
    ap.add_argument("--tokens", type=int, default=6144, help="per step")
    ap.add_argument("--lr", type=float, default=0.02)
    ap.add_argument("--decay", type=float, default=0.1)
    ap.add_argument("--every", type=float, default=240, help="seconds between evaluations")
    ap.add_argument("--no-compile", action="store_true")
    args = ap.parse_args()
    torch.set_num_threads(args.threads)
    books = [chapters(p) for p in sorted(glob.glob(os.path.join(args.corpus, "*.txt")))]
    if args.what == "tokenizer":
        return train_tokenizer(books, args.work)
    train(args.what, args, books)


if __name__ == "__main__":
    main()
