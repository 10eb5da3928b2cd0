"""Random models of every family against their reference.

    check_models.py [--millrace build/millrace] [--family gemma3 ...] [--count 50] [--seed 7] [--keep DIR] [--reasons]

Draws a config (random_configs.py) and weights, saves them under the published names in a random float type,
and compares `millrace logits --precision exact` with transformers (LLaDA2: llada2_torch.py) in float32, eager:
the whole prompt within 1e-4 * (1 + |ref|), chunks of 7 and single steps with the same bytes as the whole.  A model
is left out of the comparison when its router is near a tie, or when the reference's own float32 is as far from
its float64 as we are from it.

Prints a line per failure, with the seed that draws it alone (--seed N --count 1) and its config, and a
line per family; --reasons also prints what was refused, by whom and how often.  Ends with 1 after any failure.
"""
import argparse
import collections
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile

import numpy as np
import torch
import transformers
from safetensors.torch import save_file

import llada2_torch
import vectors_diffusion_gemma as vd
import vectors_gemma as vg
import vectors_llada2 as vl
import vectors_moe as vm
from check_vectors import LIMIT
from random_configs import FAMILIES, Draw
from vectors_common import ids_of, randomise

TIE = 1e-5                      # least gap between experts that rounding cannot close
TYPES = (torch.float32, torch.bfloat16, torch.float16)
LENGTHS = (1, 2, 5, 17, 33, 64, 65, 70, 96)
RULES = ((".bias", lambda name, t, gen: 0.3 * torch.randn(t.shape, generator=gen)), ("layer_scalar", vg.scalar))


class Case:
    """A model in a folder, and the logits of some ids: `reference(model)` computes them."""

    def __init__(self, model, ids, reference, args=(), margin=lambda: float("inf"), wide=True):
        self.model, self.ids, self.reference, self.args = model, ids, reference, list(args)
        self.margin, self.wide = margin, wide

    @torch.no_grad()
    def logits(self, wide=False):
        model = self.model.double() if wide else self.model
        return self.reference(model).numpy()


def write_json(folder, name, value):
    path = os.path.join(folder, name)
    with open(path, "w") as f:
        json.dump(value, f)
    return path


# ---------------------------------------------------------------- one case of each kind

def new_model(folder, drawn):
    if drawn.model:
        config = transformers.AutoConfig.from_pretrained(folder)
        return getattr(transformers, drawn.model)._from_config(config, attn_implementation="eager", dtype=torch.float32)
    config = vm.text_config(drawn.config, drawn.load_as)
    if drawn.outer_tie:
        config.tie_word_embeddings = transformers.AutoConfig.from_pretrained(folder).tie_word_embeddings
    return vm.new_model(config)


def text_case(d, drawn, seed, folder):
    write_json(folder, "config.json", drawn.config)
    model, dtype = vm.eager_experts(new_model(folder, drawn).eval()), d.one(*TYPES)
    exact = tuple((key, vm._uniform(-0.6, 0.6)) for key in drawn.float32)
    randomise(model, seed, torch.float32 if exact else dtype, exact + tuple(drawn.rules) + RULES)
    text = model.config.get_text_config()
    n = d.one(*LENGTHS)
    if "dynamic" in json.dumps(drawn.config):       # beyond its positions this rope depends on the chunks
        n = min(n, text.max_position_embeddings)
    ids = ids_of(n, text.vocab_size - (20 if drawn.model else 0), seed + 7, low=0)
    state = {k: t.detach().clone() for k, t in model.state_dict().items()
             if not (k == "lm_head.weight" and model.config.tie_word_embeddings)}
    tensors = vm.hub_tensors(state, d.often(.15), drawn.rename)
    save_file({k: (t if exact else t.to(dtype)).contiguous().clone() for k, t in tensors.items()},
              os.path.join(folder, "model.safetensors"), metadata={"format": "pt"})
    router = vm.RoutingMargin(model)
    return Case(model, ids, lambda m: m(input_ids=torch.tensor([ids]), use_cache=False).logits[0],
                margin=lambda: router.least)


def llada2_case(d, drawn, seed, folder):
    net, block = vl.tiny(seed, **drawn.config), d.one(1, 4, 8, 8, 16, 32)
    c = net.config
    if c.expert_capacity:
        block = 8
    llada2_torch.save(net, folder)
    n = d.one(*LENGTHS)
    if c.expert_capacity:                           # blocks of rows are routed together: whole ones
        n = -(-n // 8) * 8
    ids = ids_of(n, c.vocab_size, seed + 7, low=0)
    return Case(net, ids, lambda m: m(torch.tensor(ids), block), ["--block-length", str(block)],
                lambda: vl.router_margin(net), wide=False)


def canvas_case(d, drawn, seed, folder):
    c, length = drawn.config, d.one(1, 2, 5, 8, 12, 16)
    more = {} if c["tie_word_embeddings"] else {"tie_word_embeddings": False}
    edit = d.one(None, vg.gemma4_hub(c["global_head_dim"], c["num_global_key_value_heads"]))
    case = vd.diffusion_case("", "", vd.config_of(c, length, **more), seed, 0, [], edit=edit, embed_gain=4.0)
    vg.build(case).to(torch.bfloat16).save_pretrained(folder)
    vg.rewrite(case, folder)
    model = vm.eager_experts(vg.load(case, folder))
    ids = ids_of(d.one(1, 2, 9, 21, 40), c["vocab_size"] - 16, seed + 7)
    canvas = ids_of(length, c["vocab_size"], seed + 8, low=0)
    router = vg.RouterMargin(model)
    return Case(model, ids, lambda m: m(input_ids=torch.tensor([ids]), decoder_input_ids=torch.tensor([canvas])).logits[0],
                ["--canvas-file", write_json(folder, "canvas.json", canvas)], lambda: router.least)


def some_spans(d, n):
    spans, at = [], 0
    while d.often(.75) or not spans:
        at += d.one(0, 0, 1, 2, 5, 11)
        length = d.one(1, 2, 4, 7, 16, 30)
        if at + length > n:
            break
        spans.append((at, at + length))
        at += length
    return spans


def image_case(d, drawn, seed, folder):
    kind, text = drawn.config["kind"], drawn.config["text"]
    name, make = {3: ("Gemma3", vg.gemma3_vl), 4: ("Gemma4", vg.gemma4_vl), 5: ("Gemma4Unified", vg.gemma4_unified)}[kind]
    config = make(text)()
    model = getattr(transformers, name + "ForConditionalGeneration")._from_config(
        config, attn_implementation="eager", dtype=torch.float32)
    vm.eager_experts(vg.draw(model.eval(), seed, vg.rules_of(min(kind, 4))))
    model.save_pretrained(folder)
    n = d.one(1, 7, 20, 33, 66, 90)
    spans, kinds = some_spans(d, n), torch.zeros(1, n, dtype=torch.long)
    for a, b in spans:
        kinds[0, a:b] = 1
    image = getattr(config, "image_token_id", None) or config.image_token_index
    ids = torch.where(kinds == 1, image, torch.tensor([ids_of(n, text["vocab_size"] - 16, seed + 7)]))
    with torch.no_grad():
        embeds = model.get_input_embeddings()(torch.where(kinds == 1, 0, ids)).clone()
    gen = torch.Generator().manual_seed(seed)
    embeds[0, kinds[0] == 1] = 1.7 * torch.randn(int(kinds.sum()), embeds.shape[-1], generator=gen)
    path = os.path.join(folder, "embeds.npy")
    np.save(path, embeds[0].numpy())
    args = ["--embeds", path]
    if spans:
        args += ["--image-spans", ",".join(f"{a}-{b}" for a, b in spans)]
    router = vg.RouterMargin(model)
    return Case(model, ids[0].tolist(),
                lambda m: vg.run_vision(m, embeds.to(next(m.parameters()).dtype), ids, kinds), args,
                lambda: router.least)


KINDS = {"llada2": llada2_case, "diffusion_gemma": canvas_case, "images": image_case}


# ---------------------------------------------------------------- comparing

class Failure(Exception):
    pass


class Refused(Exception):
    pass


def measure(a, ref):
    """Largest |a-b| / (1 + |ref|), where both are numbers at the same places."""
    if a.shape != ref.shape or not np.array_equal(np.isfinite(a), np.isfinite(ref)):
        return float("inf")
    return float(np.nanmax(np.abs(a - ref) / (1 + np.abs(ref)), initial=0))


def millrace(binary, folder, case, *more):
    out = os.path.join(folder, "out.npy")
    ids = write_json(folder, "ids.json", case.ids)
    r = subprocess.run([binary, "logits", folder, "--precision", "exact", "--threads", "1", "--ids-file", ids, "--out", out,
                        *case.args, *more], capture_output=True, text=True, timeout=120)
    if r.returncode in (1, 2):
        raise Refused(r.stderr.strip().replace(folder, ""))
    if r.returncode:
        raise Failure(f"exit {r.returncode}: {r.stderr.strip()[-300:]}")
    return np.load(out)


def reason(text):
    return re.sub(r"\d+", "N", str(text).splitlines()[0] if str(text) else "")[:120]


def check(binary, family, seed, folder):
    """(outcome, error, reason); raises Failure."""
    d = Draw(random.Random(f"{family} {seed}"))
    drawn = FAMILIES[family](d)
    try:
        case = KINDS.get(family, text_case)(d, drawn, seed, folder)
        ref = case.logits()
    except Exception as e:      # whatever the reference says of such a config
        return "not by the reference", 0, f"{type(e).__name__}: {e}"
    try:
        got = millrace(binary, folder, case)
    except Refused as e:
        return "refused", 0, str(e)
    np.save(os.path.join(folder, "logits.npy"), ref)
    for chunk in () if family == "diffusion_gemma" else ("7", "1"):
        if millrace(binary, folder, case, "--chunk", chunk).tobytes() != got.tobytes():
            raise Failure(f"chunks of {chunk} differ from the whole")
    error = measure(got, ref)
    if error <= LIMIT:
        return "equal", error, ""
    if case.margin() < TIE:
        return "near a tie", error, ""
    noise = measure(ref, case.logits(wide=True)) if case.wide else 0
    if noise > error / 5:
        return "reference is as far off", error, f"{error:.1e}, itself {noise:.1e} of float64"
    raise Failure(f"off by {error:.2e} (the reference itself {noise:.1e}, experts {case.margin():.1e} apart)")


def check_family(args, family, work):
    counts, reasons, worst, failed = collections.Counter(), collections.Counter(), 0, 0
    for seed in range(args.seed, args.seed + args.count):
        folder = os.path.join(work, family)
        shutil.rmtree(folder, ignore_errors=True)
        os.makedirs(folder)
        try:
            outcome, error, why = check(args.millrace, family, seed, folder)
            counts[outcome] += 1
            reasons.update([(outcome, reason(why))] if why else [])
            worst = max(worst, error if outcome == "equal" else 0)
        except (Failure, Refused, subprocess.TimeoutExpired) as e:
            failed += 1
            with open(os.path.join(folder, "config.json")) as f:
                print(f"FAILED {family} --seed {seed}: {e}\n    {json.dumps(json.load(f))}", flush=True)
            if args.keep:
                shutil.copytree(folder, os.path.join(args.keep, f"{family}-{seed}"), dirs_exist_ok=True)
    told = ", ".join(f"{n} {what}" for what, n in counts.most_common())
    print(f"{family:16} {args.count} drawn: {failed} failed, {told}; largest error {worst:.1e}", flush=True)
    if args.reasons:
        for (what, why), n in reasons.most_common():
            print(f"    {n:4} {what}: {why}")
    return failed


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--millrace", default="build/millrace")
    ap.add_argument("--family", nargs="*", choices=sorted(FAMILIES), default=list(FAMILIES), metavar="NAME",
                    help="of " + ", ".join(FAMILIES) + " (default: all)")
    ap.add_argument("--count", type=int, default=20)
    ap.add_argument("--seed", type=int, default=1)
    ap.add_argument("--keep", help="a folder that failing cases are copied to")
    ap.add_argument("--reasons", action="store_true", help="print what was refused")
    args = ap.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as work:
        failed = sum([check_family(args, family, work) for family in args.family])
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
