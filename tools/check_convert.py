"""Converts every vector model to every form, and reads each back.

    check_convert.py [--millrace build/millrace] [--models tests/vectors] [--only NAME ...] [--quant Q ...] [--peer DIR]

For each model and form: `millrace convert`, then
  floats      `logits --precision exact` of what was written has the same bytes as of the model (f32, or as it is)
  integers    the same bytes as what they give when converted again, to f32
  numbers     the numbers in the file, as the gguf package or the plain reading of MLX's form below makes them, are
              exactly those of that f32 file
  peer        (--peer DIR, as tools/build_peer.sh fills it) llama.cpp loads a GGUF file and runs it; also small models
              with the count of layers that it knows a published one by (PUBLISHED)
Prints a line per kind of pair: models, those the same, refused, and how far off the model's own logits the median
is (mean |a - b| / mean |b|); --reasons adds who refused what.  Ends with 1 if something differs; what the
peer does not load is named, and is no failure.
"""
import argparse
import collections
import json
import os
import re
import subprocess
import sys
import tempfile

import gguf
import numpy as np
import torch
from safetensors.torch import load_file

FORMS = {"safetensors": (None, "f32", "f16", "bf16", "q2", "q3", "q4", "q5", "q6", "q8"),
         "gguf": (None, "f32", "f16", "bf16", "q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q2_k", "q3_k", "q4_k", "q5_k", "q6_k")}
S, F = "sliding_attention", "full_attention"
PUBLISHED = {"dsv2-lite": dict(num_hidden_layers=27), "moonlight": dict(num_hidden_layers=27),
             "gemma4-e2b": dict(num_hidden_layers=35, num_kv_shared_layers=20, layer_types=[S, S, S, S, F] * 7)}
IDS = "3,1,4,1,5,9,2,6,5,3,5,8,9,7,9,3"


class Refused(Exception):
    pass


def run(binary, *args):
    r = subprocess.run([binary, *args], capture_output=True, text=True, timeout=120)
    if r.returncode in (1, 2):
        said = r.stderr.strip().splitlines()[-1].replace("millrace: ", "")
        raise Refused(re.sub(r"^\S*/|\d+", lambda m: "" if "/" in m[0] else "N", said)[:150])
    if r.returncode:
        raise SystemExit(f"millrace {' '.join(args)}: exit {r.returncode}: {r.stderr[-500:]}")


def models(folder, only):
    """(name, path, kind) of what can be read."""
    for name in sorted(os.listdir(folder)):
        path = os.path.join(folder, name)
        if only and name not in only or not os.path.isdir(path):
            continue
        files = sorted(os.listdir(path))
        parts = [f for f in files if f.endswith(".gguf")]
        if parts:
            yield name, os.path.join(path, parts[0]), "gguf"
        elif "config.json" in files and "model.safetensors" in files:
            with open(os.path.join(path, "config.json")) as f:
                yield name, path, "mlx" if "quantization" in json.load(f) else "hf"


class Checker:
    def __init__(self, binary, work):
        self.binary, self.work = binary, work

    def at(self, name):
        return os.path.join(self.work, name)

    def logits(self, path, extra):
        out = self.at("out.npy")
        run(self.binary, "logits", path, "--ids", IDS, "--precision", "exact", "--threads", "1", "--out", out, *extra)
        return np.load(out)

    def convert(self, path, form, quant, name):
        out = self.at(name + (".gguf" if form == "gguf" else ""))
        group = ["--group", "32"] if form == "safetensors" and quant and quant[0] == "q" else []
        run(self.binary, "convert", path, out, "--force", "--format", form, *(["--quant", quant] if quant else []), *group)
        return out

    def pair(self, made, own, extra, form, quant):
        """What of the converted model differs, or None; how far it is from `own`."""
        got = self.logits(made, extra)
        off = float(np.abs(got - own).mean() / np.abs(own).mean())
        if quant in (None, "f32"):
            return (None if got.tobytes() == own.tobytes() else "logits of the model"), off
        wide = self.convert(made, form, "f32", "wide")
        if self.logits(wide, extra).tobytes() != got.tobytes():
            return "logits of its f32", off
        read = read_gguf if form == "gguf" else read_mlx
        a, b = read(made), read(wide)
        bad = [k for k in a if k not in b or not np.array_equal(a[k].reshape(b[k].shape), b[k])]
        return (f"numbers of {bad[0]}" if bad or a.keys() != b.keys() else None), off


def read_gguf(path):
    return {t.name: gguf.quants.dequantize(t.data, t.tensor_type) for t in gguf.GGUFReader(path).tensors}


def read_mlx(folder):
    """Affine integers: a little-endian stream of `bits`, times the group's scale, plus its bias."""
    tensors = load_file(os.path.join(folder, "model.safetensors"))
    with open(os.path.join(folder, "config.json")) as f:
        how = json.load(f).get("quantization")
    out = {}
    for name, t in tensors.items():
        stem = name[:-len(".weight")]
        if stem + ".scales" in tensors and t.dtype in (torch.uint32, torch.int32):
            stream = np.unpackbits(t.view(torch.uint8).numpy(), axis=-1, bitorder="little")
            q = stream.reshape(*stream.shape[:-1], -1, how["bits"]) @ (1 << np.arange(how["bits"]))
            scale, bias = (np.repeat(tensors[stem + end].float().numpy(), how["group_size"], -1)
                           for end in (".scales", ".biases"))
            out[name] = (q.astype(np.float32) * scale + bias).astype(np.float32)
        elif not name.endswith((".scales", ".biases")):
            out[name] = t.float().numpy()
    return out


def peer_loads(folder, path):
    """What llama.cpp says against the file, or None."""
    bench = os.path.join(folder, "bin", "llama-bench")
    r = subprocess.run([bench, "-m", path, "-p", "8", "-n", "1", "-r", "1", "-t", "1", "-v"], capture_output=True,
                       text=True, timeout=120)
    if r.returncode == 0:
        return None
    said = [line for line in (r.stderr + r.stdout).splitlines() if "error" in line.lower()]
    return (said or [f"exit {r.returncode}"])[0][-150:]


def published(args, checker):
    for name, change in PUBLISHED.items():
        with open(os.path.join(args.models, name, "config.json")) as f:
            config = json.load(f)
        config.get("text_config", config).update(change)
        with open(checker.at("config.json"), "w") as f:
            json.dump(config, f)
        run(args.millrace, "synth", f.name, checker.at("published"), "--force")
        os.remove(checker.at("published/tokenizer.json"))
        against = peer_loads(args.peer, checker.convert(checker.at("published"), "gguf", None, "made"))
        print(f"{name} with {change['num_hidden_layers']} layers: the peer {'does not run: ' + against if against else 'runs'}")


class Line:
    """One kind of pair."""

    def __init__(self):
        self.count = collections.Counter()
        self.off, self.reasons, self.unread = [], collections.defaultdict(list), []

    def text(self, what, peer):
        c = self.count
        out = f"{what:28} {sum(c.values())} models: {c['same']} the same, {c['refused']} refused, {c['differ']} differ"
        if self.off:
            out += f"; off by {np.median(self.off):.1e}"
        if peer:
            out += f"; the peer runs {c['same'] - len(self.unread)}" + (f", not {' '.join(self.unread)}" if self.unread else "")
        return out


def check(args, work):
    lines, checker = {}, Checker(args.millrace, work)
    for name, path, kind in models(args.models, args.only):
        with open(os.path.join(args.models, name, "case.json")) as f:
            canvas = json.load(f).get("canvas")
        extra = []
        if canvas:
            with open(checker.at("canvas.json"), "w") as f:
                json.dump(canvas, f)
            extra = ["--canvas-file", f.name]
        own = checker.logits(path, extra)
        for form, quants in FORMS.items():
            for quant in quants:
                if args.quant and str(quant) not in args.quant:
                    continue
                line = lines.setdefault((kind, form, quant), Line())
                try:
                    made = checker.convert(path, form, quant, "made")
                except Refused as e:
                    line.count["refused"] += 1
                    line.reasons[str(e)].append(name)
                    continue
                try:
                    bad, off = checker.pair(made, own, extra, form, quant)
                    line.off.append(off)
                except Refused as e:
                    bad = str(e)
                line.count["differ" if bad else "same"] += 1
                if bad:
                    print(f"DIFFERS {name} to {form} {quant}: {bad}", flush=True)
                against = peer_loads(args.peer, made) if args.peer and form == "gguf" and not bad else None
                if against:
                    line.unread.append(name)
                    line.reasons["the peer: " + against].append(name)
    if args.peer:
        published(args, checker)
    for (kind, form, quant), line in sorted(lines.items(), key=str):
        print(line.text(f"{kind} to {form} {quant or 'as it is'}:", args.peer and form == "gguf"))
        for why, names in line.reasons.items() if args.reasons else ():
            print(f"    {' '.join(names)}: {why}")
    return sum(line.count["differ"] for line in lines.values())


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--millrace", default="build/millrace")
    ap.add_argument("--models", default="tests/vectors", help="a folder of folders of models")
    ap.add_argument("--only", nargs="*", help="names in it")
    ap.add_argument("--quant", nargs="*", help="None, f32, q4, q4_k, ... (default: all)")
    ap.add_argument("--peer", metavar="DIR", help="where tools/build_peer.sh built llama.cpp")
    ap.add_argument("--reasons", action="store_true", help="print what was refused")
    args = ap.parse_args()
    with tempfile.TemporaryDirectory() as work:
        return 1 if check(args, work) else 0


if __name__ == "__main__":
    sys.exit(main())
