#!/usr/bin/env python3
"""Writes tests/op/data/*.txt: small graphs, their inputs, and what PyTorch gives for them in float64.

    python3 tools/op_vectors.py            needs torch, numpy; transformers for a cross-check of rope

A file is a list of cases:

    case NAME
    tol REF CPU            |got - want| <= tol * (1 + |want|), for double and for float sums
    graph ...              the graph's text, up to a line "}"
    weight NAME ROWS K FORMAT DATA
    run ROWS WANTED
    pos I.. / slot I..
    input NAME f|i DATA
    want NAME f|i STRIDE VALUES    every STRIDE-th element of the output, after this run
    end

DATA is "gen SEED COUNT", numbers of a generator that the test has, too, or "is V V ..", of no numbers: NULL.  Floats
are hex.
"""
import math
import os
import numpy as np
import torch
import torch.nn.functional as F

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "tests", "op", "data")
D = torch.float64


def gen(seed, count):
    """Multiples of 1/64 in [-2, 2): exact in every float format, so that ties are ties."""
    x, out = (seed * 2654435761 + 12345) & 0xFFFFFFFF, []
    for _ in range(count):
        x = (x * 1664525 + 1013904223) & 0xFFFFFFFF
        out.append(((x >> 16 & 255) - 128) / 64)
    return out


def hexf(v):
    v = float(np.float32(v))
    if not math.isfinite(v):
        return {math.inf: "inf", -math.inf: "-inf"}.get(v, "nan")
    m, e = v.hex().split("p")
    if "." in m:
        m = m.rstrip("0").rstrip(".")
    return m + "p" + e.lstrip("+")


class Case:
    def __init__(self, file, name, graph, tol=(1e-6, 1e-5)):
        self.file, self.seed = file, 0
        self.lines = [f"case {name}", f"tol {tol[0]:g} {tol[1]:g}", "graph"]
        self.lines += [line.strip() for line in ('graph "%s" {\n' % name + graph.strip() + "\n}").split("\n")]

    def _data(self, shape, values):
        count = int(np.prod(shape))
        if values is None:
            self.seed += 1
            seed = self.seed + 100 * (len(self.file.cases) + 1)
            return f"gen {seed} {count}", torch.tensor(gen(seed, count), dtype=D).reshape(shape)
        t = torch.tensor(np.array(values, dtype=np.float32), dtype=D).reshape(shape)
        return "is " + " ".join(hexf(v) for v in t.flatten().tolist()), t

    def weight(self, name, shape, fmt="f32", values=None):
        text, t = self._data(shape, values)
        rows, k = int(np.prod(shape[:-1])), shape[-1]
        self.lines.append(f"weight {name} {rows} {k} {fmt} {text}")
        return t

    def run(self, rows, outs=0, pos=None, slot=None):
        self.lines.append(f"run {rows} {outs}")
        self.lines.append("pos " + " ".join(str(i) for i in (pos if pos is not None else range(rows))))
        if slot is not None:
            self.lines.append("slot " + " ".join(map(str, slot)))

    def input(self, name, shape, values=None):
        text, t = self._data(shape, values)
        self.lines.append(f"input {name} f {text}")
        return t

    def null(self, name):
        self.lines.append(f"input {name} f is")

    def ints(self, name, values):
        self.lines.append(f"input {name} i is " + " ".join(map(str, values)))
        return torch.tensor(values)

    def want(self, name, t, stride=1):
        flat = t.flatten()[::stride]
        if t.dtype in (torch.int64, torch.int32):
            self.lines.append(f"want {name} i {stride} " + " ".join(str(int(v)) for v in flat))
        else:
            self.lines.append(f"want {name} f {stride} " + " ".join(hexf(v) for v in flat.tolist()))

    def done(self):
        self.file.cases.append("\n".join(self.lines + ["end", ""]))


class File:
    def __init__(self, name):
        self.name, self.cases = name, []

    def case(self, name, graph, **kw):
        return Case(self, name, graph, **kw)

    def write(self):
        with open(os.path.join(HERE, self.name + ".txt"), "w") as f:
            f.write("\n".join(self.cases))


def x_in(n, name="x", rows="ROWS"):
    dims = n if isinstance(n, str) else str(n)
    return f'%{name}: f32[{rows},{dims}] = input name="{name}"\n'


def w_in(name, dims, fmt="f32"):
    return f'%{name}: weight<{fmt}>[{dims}] = weight recipe="{name}"\n'


def rmsnorm(x, w, eps, offset=0):
    y = x / torch.sqrt((x * x).mean(-1, keepdim=True) + eps)
    return y if w is None else y * (w + offset)


# ---- rows ----


def rows(f):
    for fmt, scale in (("f32", 1), ("bf16", 5.656854249492381), ("f16", 0.125)):
        c = f.case(f"embed {fmt} scale {scale:g}", '%ids: i32[ROWS] = input name="ids"\n' + w_in("t", "7,19", fmt)
                   + f'%y = embed(%ids, %t) scale={scale}\noutput %y as "y"')
        t = c.weight("t", (7, 19), fmt)
        c.run(4)
        ids = c.ints("ids", [6, 0, 3, 6])
        c.want("y", t[ids] * scale)
        c.done()

    c = f.case("gather", x_in(5) + '%r: i32[OUT] = input name="out_rows"\n%y = gather(%x, %r)\noutput %y as "y"')
    c.run(4, 3)
    x = c.input("x", (4, 5))
    r = c.ints("out_rows", [3, 0, 3])
    c.want("y", x[r])
    c.done()

    for k, n, rows_, fmt, bias, act in ((1, 1, 1, "f32", 0, "auto"), (3, 17, 2, "f32", 1, "f32"), (64, 33, 5, "bf16", 0, "auto"),
                                        (65, 16, 1, "f16", 1, "auto"), (256, 5, 17, "f32", 0, "f32"), (31, 40, 3, "bf16", 1, "auto")):
        c = f.case(f"linear {n}x{k} {fmt} rows {rows_} bias {bias} act {act}", x_in(k) + w_in("w", f"{n},{k}", fmt)
                   + (w_in("b", n) if bias else "") + f'%y = linear(%x, %w{", %b" if bias else ""}) act="{act}"\noutput %y as "y"',
                   tol=(1e-6, 2e-5))
        w = c.weight("w", (n, k), fmt)
        b = c.weight("b", (1, n)) if bias else None
        c.run(rows_)
        x = c.input("x", (rows_, k))
        c.want("y", F.linear(x, w, b[0] if bias else None), stride=3 if n * rows_ > 90 else 1)
        c.done()

    c = f.case("linear of a slice", x_in(20) + w_in("w", "6,8") + '%s = slice(%x) start=5 len=8\n%y = linear(%s, %w)\noutput %y as "y"')
    w = c.weight("w", (6, 8))
    c.run(3)
    x = c.input("x", (3, 20))
    c.want("y", F.linear(x[:, 5:13], w))
    c.done()

    for h, k, n, fmt in ((1, 8, 3, "f32"), (4, 16, 20, "bf16"), (3, 33, 16, "f32")):
        c = f.case(f"linear_heads {h} heads {n}x{k} {fmt}", x_in(f"{h},{k}") + w_in("w", f"{h},{n},{k}", fmt)
                   + '%y = linear_heads(%x, %w)\noutput %y as "y"', tol=(1e-6, 2e-5))
        w = c.weight("w", (h, n, k), fmt)
        c.run(2)
        x = c.input("x", (2, h, k))
        c.want("y", torch.einsum("rhk,hnk->rhn", x, w))
        c.done()

    for n, dims, has_w, offset, eps in ((1, "1", 1, 0, 1e-5), (16, "16", 1, 1, 1e-6), (37, "37", 0, 0, 1e-5), (24, "3,24", 1, 0, 1e-6),
                                        (256, "256", 1, 0.5, 1e-12)):
        c = f.case(f"rmsnorm [{dims}] weight {has_w} offset {offset}", x_in(dims) + (w_in("w", n, "bf16") if has_w else "")
                   + f'%y = rmsnorm(%x{", %w" if has_w else ""}) eps={eps} offset={offset}\noutput %y as "y"')
        w = c.weight("w", (1, n), "bf16") if has_w else None
        c.run(3)
        shape = (3,) + tuple(int(d) for d in dims.split(","))
        x = c.input("x", shape)
        c.want("y", rmsnorm(x, None if w is None else w[0], eps, offset), stride=7 if n > 100 else 1)
        c.done()

    c = f.case("rmsnorm of zeros and of small numbers", x_in(8) + '%y = rmsnorm(%x) eps=1e-6\noutput %y as "y"')
    c.run(2)
    x = c.input("x", (2, 8), [0] * 8 + [1e-18, -1e-20, 0, 1e-19, 3e-18, 0, 0, 1e-18])
    c.want("y", rmsnorm(x, None, 1e-6))
    c.done()

    edge = [0, -0.0, 1, -1, 0.5, -0.5, 3, -3, 10, -10, 30, -30, 90, -90, 200, -200, 1e-6, -1e-6, 1e-20, 1e4, -1e4]
    for name, attr, fn in (("silu", "", F.silu), ("gelu", "", F.gelu), ("gelu_tanh", "", lambda v: F.gelu(v, approximate="tanh")),
                           ("sigmoid", "", torch.sigmoid), ("scale", "by=0.3", lambda v: v * float(np.float32(0.3))),
                           ("softcap", "cap=30", lambda v: 30 * torch.tanh(v / 30))):
        for dims, shape, values in (("21", (2, 21), edge + [v / 7 for v in edge]), ("3,5", (2, 3, 5), None)):
            c = f.case(f"{name} [{dims}]", x_in(dims) + f'%y = {name}(%x) {attr}\noutput %y as "y"', tol=(1e-6, 4e-6))
            c.run(2)
            c.want("y", fn(c.input("x", shape, values)))
            c.done()

    for name, fn in (("add", torch.add), ("mul", torch.mul)):
        for dims, shape in (("18", (3, 18)), ("2,7", (3, 2, 7))):
            c = f.case(f"{name} [{dims}]", x_in(dims) + x_in(dims, "z") + f'%y = {name}(%x, %z)\noutput %y as "y"')
            c.run(3)
            c.want("y", fn(c.input("x", shape), c.input("z", shape)))
            c.done()

    c = f.case("scale by a weight", x_in(9) + w_in("w", 1, "bf16") + '%y = scale(%x, %w)\noutput %y as "y"')
    w = c.weight("w", (1, 1), "bf16", values=[0.8125])
    c.run(2)
    c.want("y", c.input("x", (2, 9)) * w[0])
    c.done()

    c = f.case("alias", '%ids: i32[ROWS] = input name="ids"\n%a = alias(%ids) to=3 a=9 b=0\n%b = alias(%ids) to=0\n'
               + w_in("t", "7,5") + '%y = embed(%a, %t)\noutput %a as "a"\noutput %b as "b"\noutput %y as "y"')
    t = c.weight("t", (7, 5))
    c.run(5)
    ids = c.ints("ids", [9, 1, 0, 3, 6])
    other = torch.tensor([3, 1, 3, 3, 6])
    c.want("a", other)
    c.want("b", ids)
    c.want("y", t[other])
    c.done()

    for given in (0, 1):
        c = f.case(f"embed that may be given its rows, given {given}", '%ids: i32[ROWS] = input name="ids"\n' + x_in(19, "g")
                   + w_in("t", "7,19") + '%y = embed(%ids, %t, %g) scale=3\noutput %y as "y"')
        t = c.weight("t", (7, 19))
        c.run(3)
        ids = c.ints("ids", [6, 0, 3])
        if not given:
            c.null("g")
        c.want("y", c.input("g", (3, 19)) if given else t[ids] * 3)
        c.done()

    for fmt, given in (("f32", 1), ("bf16", 1), ("f32", 0)):
        c = f.case(f"mix {fmt} given {given}", x_in(130, "p") + w_in("t", "130,84", fmt) + '%y = mix(%p, %t) scale=3\noutput %y as "y"',
                   tol=(1e-6, 2e-5))
        t = c.weight("t", (130, 84), fmt)
        c.run(3)
        if not given:
            c.null("p")
        c.want("y", c.input("p", (3, 130)) @ t * 3 if given else torch.zeros(3, 84), stride=5)
        c.done()

    for dims, shape, values in (("21", (2, 21), edge + [v / 7 for v in edge]), ("3,5", (2, 3, 5), None)):
        c = f.case(f"relu [{dims}]", x_in(dims) + '%y = relu(%x)\noutput %y as "y"', tol=(1e-6, 4e-6))
        c.run(2)
        c.want("y", torch.relu(c.input("x", shape, values)))
        c.done()


def views(f):
    c = f.case("slice and heads", x_in(24) + '%a = slice(%x) start=6 len=12\n%h = heads(%a) n=3\n%s = slice(%h) start=1 len=2\n'
               '%u = scale(%s) by=2\n%z = heads(%u) n=0\n%w = heads(%h) n=0\noutput %z as "z"\noutput %a as "a"\noutput %w as "w"')
    c.run(2)
    x = c.input("x", (2, 24))
    c.want("z", 2 * x[:, 6:18].reshape(2, 3, 4)[:, :, 1:3])
    c.want("a", x[:, 6:18])
    c.want("w", x[:, 6:18])
    c.done()
    for ha, hb in ((3, 3), (1, 3), (3, 1), (1, 1)):
        c = f.case(f"concat heads {ha} and {hb}", x_in(f"{ha},5") + x_in(f"{hb},2", "z") + '%y = concat(%x, %z)\noutput %y as "y"')
        c.run(2)
        h = max(ha, hb)
        a, b = c.input("x", (2, ha, 5)), c.input("z", (2, hb, 2))
        c.want("y", torch.cat([a.expand(2, h, 5), b.expand(2, h, 2)], -1))
        c.done()
    c = f.case("concat flat", x_in(5) + x_in(12, "z") + '%s = slice(%z) start=3 len=7\n%y = concat(%x, %s)\noutput %y as "y"')
    c.run(3)
    a, b = c.input("x", (3, 5)), c.input("z", (3, 12))
    c.want("y", torch.cat([a, b[:, 3:10]], -1))
    c.done()


# ---- rope ----


def frequencies(dim, theta, kind="none", factor=1, low=1, high=4, orig=0, beta_fast=32, beta_slow=1, truncate=1, angles=0, **_):
    f = theta ** (-2 * np.arange(dim // 2, dtype=np.float64) / dim)
    if kind == "linear":
        f = f / factor
    if kind == "proportional":
        f = np.where(np.arange(dim // 2) < angles, f / factor, 0)
    if kind == "llama3":
        wave = 2 * math.pi / f
        t = (orig / wave - low) / (high - low)
        f = np.where(wave < orig / high, f, np.where(wave > orig / low, f / factor, f * ((1 - t) / factor + t)))
    if kind == "yarn":
        at = lambda turns: dim * math.log(orig / (turns * 2 * math.pi)) / (2 * math.log(theta))
        lo, hi = at(beta_fast), at(beta_slow)
        if truncate:
            lo, hi = math.floor(lo), math.ceil(hi)
        lo, hi = max(lo, 0), min(hi, dim - 1)
        hi += 0.001 if lo == hi else 0
        ramp = np.clip((np.arange(dim // 2) - lo) / (hi - lo), 0, 1)
        f = f / factor * ramp + f * (1 - ramp)
    return f


def cross_check(dim, theta, **a):
    """transformers' own frequencies, where it has the kind."""
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
    kind = a.get("kind", "none")
    if kind == "none":
        return
    p = {"rope_type": kind, "rope_theta": theta, "factor": a["factor"], "attention_factor": 1.0}
    if kind == "llama3":
        p.update(low_freq_factor=a["low"], high_freq_factor=a["high"], original_max_position_embeddings=a["orig"])
    if kind == "yarn":
        p.update(beta_fast=a["beta_fast"], beta_slow=a["beta_slow"], original_max_position_embeddings=a["orig"],
                 truncate=bool(a["truncate"]))
    if kind == "proportional":
        p["partial_rotary_factor"] = 2 * a["angles"] / dim
    c = LlamaConfig(hidden_size=dim, num_attention_heads=1, head_dim=dim, rope_parameters=p,
                    max_position_embeddings=int(a.get("orig", 64) * a["factor"]))
    got, _ = ROPE_INIT_FUNCTIONS[kind](c, "cpu")
    np.testing.assert_allclose(got.double().numpy(), frequencies(dim, theta, **a), rtol=3e-6)


def table(f, pos, mscale=1, factors=None):
    f = np.float32(f if factors is None else f / factors)
    angle = (np.float32(pos)[:, None] * f[None, :]).astype(np.float32).astype(np.float64)
    return torch.tensor(np.concatenate([np.cos(angle), np.sin(angle)], 1) * mscale, dtype=D)


def rope(x, t, start=0, interleaved=0):
    half = t.shape[1] // 2
    y, t = x.clone(), t[:, None, :]
    a = np.arange(half) * (2 if interleaved else 1) + start
    b = a + (1 if interleaved else half)
    y[..., a] = x[..., a] * t[..., :half] - x[..., b] * t[..., half:]
    y[..., b] = x[..., b] * t[..., :half] + x[..., a] * t[..., half:]
    return y


# Frequencies are f32 and agree within an ulp or two, so angles do within 2e-7 of themselves: far positions are a
# case of their own, with the tolerance that this leaves.
NEAR, FAR = ([0, 1, 2, 77], (1e-6, 2e-5)), ([4095, 100000], (1e-6, 5e-3))


def ropes(f):
    kinds = (dict(dim=2, theta=10000.0), dict(dim=16, theta=500000.0), dict(dim=32, theta=10000.0, kind="linear", factor=8.0),
             dict(dim=64, theta=500000.0, kind="llama3", factor=8.0, low=1.0, high=4.0, orig=8192),
             dict(dim=64, theta=10000.0, kind="yarn", factor=40.0, orig=4096, beta_fast=32.0, beta_slow=1.0, truncate=1),
             dict(dim=64, theta=50000.0, kind="yarn", factor=32.0, orig=4096, beta_fast=1.0, beta_slow=1.0, truncate=1, mscale=1.25),
             dict(dim=32, theta=10000.0, kind="yarn", factor=4.0, orig=128, beta_fast=32.0, beta_slow=1.0, truncate=0, mscale=1.1386),
             dict(dim=32, theta=1000000.0, kind="proportional", angles=4, factor=1.0),
             dict(dim=16, theta=10000.0, kind="proportional", angles=8, factor=2.5))
    for a in kinds:
        cross_check(**a)
        text = " ".join(f'{k}="{v}"' if k == "kind" else f"{k}={v:g}" for k, v in a.items())
        for pos, tol in (NEAR, FAR):
            c = f.case(f"rope_table {text.replace(chr(34), '')} to {pos[-1]}", '%pos: i32[ROWS] = input name="pos"\n'
                       + f'%y = rope_table(%pos) {text}\noutput %y as "y"', tol=tol)
            c.run(len(pos))
            c.ints("pos", pos)
            c.want("y", table(frequencies(**a), np.array(pos), a.get("mscale", 1)), stride=5 if a["dim"] == 64 else 1)
            c.done()

    pos, tol = NEAR
    c = f.case("rope_table with factors", '%pos: i32[ROWS] = input name="pos"\n' + w_in("f", 8)
               + '%y = rope_table(%pos, %f) theta=10000 dim=16\noutput %y as "y"', tol=tol)
    values = [1, 1, 1.25, 2, 4, 8, 8, 8]
    c.weight("f", (1, 8), values=values)
    c.run(len(pos))
    c.ints("pos", pos)
    c.want("y", table(frequencies(16, 10000.0), np.array(pos), 1, np.array(values)))
    c.done()

    for n, dim, start, inter, heads in ((16, 16, 0, 0, 3), (16, 16, 0, 1, 2), (24, 8, 16, 1, 2), (24, 8, 0, 0, 1), (40, 32, 4, 0, 2), (6, 2, 3, 1, 1)):
        c = f.case(f"rope {dim} of {n} start {start} interleaved {inter}", x_in(f"{heads},{n}") + '%pos: i32[ROWS] = input name="pos"\n'
                   f'%t = rope_table(%pos) theta=10000 dim={dim}\n%y = rope(%x, %t) start={start} interleaved={inter}\noutput %y as "y"', tol=(2e-6, 2e-4))
        c.run(4)
        pos = [0, 3, 50, 999]
        x = c.input("x", (4, heads, n))
        c.ints("pos", pos)
        c.want("y", rope(x, table(frequencies(dim, 10000.0), np.array(pos)), start, inter))
        c.done()


# ---- attention ----


def mask_of(kind, window, block, q, n, spans=(), span=0):
    """spans: the images, [start, end) each; span as the op's attribute."""
    k = np.arange(n)
    q = np.array(q)[:, None]
    if kind == "full":
        return np.ones((len(q), n), bool)
    if kind == "block":
        return k // block <= q // block
    m, near = k <= q, k > q - window if kind == "window" else k >= 0
    same = np.zeros_like(m)
    for a, b in spans:
        same |= (a <= q) & (q < b) & (a <= k) & (k < b)
    if kind == "canvas":
        start = np.array([next(a for a, b in spans if a <= p < b) for p in q[:, 0]])[:, None]
        return same | ((k < start) & (k > start - window if window else k >= 0))
    return m & near if not span else (m | same) & near if span == 1 else (m & near) | same


def attend(q, k, v, scale, cap, mask):
    """q [R,Hq,dk], k [N,H,dk], v [N,H,dv]"""
    g = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(g, 1), v.repeat_interleave(g, 1)
    s = torch.einsum("rhd,nhd->hrn", q, k) * scale
    if cap:
        s = cap * torch.tanh(s / cap)
    s = s.masked_fill(~torch.tensor(mask)[None], -math.inf)
    return torch.einsum("hrn,nhd->rhd", torch.nan_to_num(torch.softmax(s, -1), nan=0.0), v)


def attention(f, name, heads, kv, dk, dv, mask="causal", window=0, block=0, scale=None, cap=0, latent=0, ring=0,
              runs=((0, 5), (0, 3), (0, 1)), stride=1, fused=False):
    """runs: (slot, rows) each; a run may hold several: ((0, 2, 1, 3),) is two rows of slot 0 and three of slot 1."""
    scale = dk ** -0.5 if scale is None else scale
    graph = (x_in(f"{heads},{dk}", "q") + x_in(f"{kv},{dk}", "k") + ("" if latent else x_in(f"{kv},{dv}", "v"))
             + '%pos: i32[ROWS] = input name="pos"\n'
             + f'%c: cache = cache name="c" heads={kv} dk={dk} dv={0 if latent else dv} window={ring}\n')
    v = "_" if latent else "%v"
    if fused:
        graph += f'%t = rope_table(%pos) theta=10000 dim={dk // 2}\n%c1 = rope_append(%c, %k, {v}, %t, %pos) start={dk // 4}\n'
    else:
        graph += f"%c1 = append(%c, %k, {v}, %pos)\n"
    graph += (f'%y = attention(%q, %c1, %pos) mask="{mask}" window={window} block={block} scale={scale!r} softcap={cap} dv={dv}\n'
              'output %y as "y"')
    c = f.case(name, graph, tol=(2e-6, 2e-5))
    held = {}
    for run in runs:
        parts = [(run[i], run[i + 1]) for i in range(0, len(run), 2)]
        pos, slot = [], []
        for s, n in parts:
            start = held[s][0].shape[0] if s in held else 0
            pos += range(start, start + n)
            slot += [s] * n
        rows_ = len(pos)
        c.run(rows_, 0, pos, slot)
        q, k = c.input("q", (rows_, heads, dk)), c.input("k", (rows_, kv, dk))
        value = None if latent else c.input("v", (rows_, kv, dv))
        c.ints("pos", pos)
        if fused:
            k = rope(k, table(frequencies(dk // 2, 10000.0), np.array(pos)), dk // 4)
        value = k[:, :, :dv] if latent else value
        y, at = torch.zeros(rows_, heads, dv, dtype=D), 0
        for s, n in parts:
            old = held.get(s)
            held[s] = [t if old is None else torch.cat([o, t]) for o, t in
                       zip(old or (None, None), (k[at:at + n], value[at:at + n]))]
            m = mask_of(mask, window, block, pos[at:at + n], held[s][0].shape[0])
            y[at:at + n] = attend(q[at:at + n], held[s][0], held[s][1], scale, cap, m)
            at += n
        c.want("y", y, stride)
    c.done()


def attention_spans(f, name, mask, span, spans, window=0, null=0, out=None):
    """One session, a run of 10 rows and one of 12; spans in absolute positions; out: the wanted rows of the second."""
    graph = (x_in("2,8", "q", "OUT" if out else "ROWS") + x_in("1,8", "k") + x_in("1,8", "v") + '%pos: i32[ROWS] = input name="pos"\n'
             '%span: i32[ROWS,2] = input name="span"\n%rows: i32[OUT] = input name="out_rows"\n'
             '%c: cache = cache name="c" heads=1 dk=8 dv=8\n%c1 = append(%c, %k, %v, %pos)\n'
             f'%y = attention(%q, %c1, %pos, {"%span" if span else "_"}, {"%rows" if out else "_"}) mask="{mask}" window={window} scale=0.5 dv=8 '
             f'span={span}\noutput %y as "y"')
    c = f.case(name, graph, tol=(2e-6, 2e-5))
    keys = values = torch.zeros(0, 1, 8, dtype=D)
    for first, last in ((0, 10), (10, 22)):
        pos = list(range(first, last))
        rows_ = out if out and first else pos[:1] if out else list(range(len(pos)))
        c.run(len(pos), len(rows_), pos)
        q, k, v = c.input("q", (len(rows_), 2, 8)), c.input("k", (len(pos), 1, 8)), c.input("v", (len(pos), 1, 8))
        c.ints("pos", pos)
        c.ints("out_rows", rows_)
        if null:
            c.null("span")
        else:
            c.ints("span", [x for p in pos for x in next((s for s in spans if s[0] <= p < s[1]), (0, 0))])
        keys, values = torch.cat([keys, k]), torch.cat([values, v])
        m = mask_of(mask, window, 0, [pos[r] for r in rows_], last, () if null else spans, span)
        c.want("y", attend(q, keys, values, 0.5, 0, m))
    c.done()


def attentions(f):
    attention(f, "causal, one head", 1, 1, 4, 4)
    attention(f, "causal, 4 heads on 2", 4, 2, 8, 6)
    attention(f, "causal, 6 heads on 1, softcap", 6, 1, 16, 16, cap=2)
    attention(f, "causal over 70 positions", 2, 1, 8, 8, runs=((0, 60), (0, 9), (0, 1)), stride=7)
    attention(f, "window 3", 2, 2, 8, 8, "window", window=3)
    attention(f, "window 3, ring", 2, 1, 8, 4, "window", window=3, ring=3, runs=((0, 4), (0, 5), (0, 1), (0, 1)))
    attention(f, "window 100, ring, over 140 positions", 1, 1, 4, 4, "window", window=100, ring=100, runs=((0, 70), (0, 69), (0, 1)), stride=5)
    attention(f, "window 1", 2, 1, 4, 4, "window", window=1)
    attention(f, "window wider than all", 2, 1, 4, 4, "window", window=1000, cap=50)
    attention(f, "block 4", 2, 1, 8, 8, "block", block=4, runs=((0, 4), (0, 4), (0, 8)))
    attention(f, "block 3, cut short", 2, 1, 8, 8, "block", block=3, runs=((0, 5),))
    attention(f, "full", 2, 2, 8, 8, "full", runs=((0, 5), (0, 3)))
    attention(f, "two sessions in one run", 4, 2, 8, 8, runs=((0, 3), (0, 1, 1, 4), (1, 2, 0, 2), (0, 1, 1, 1)))
    attention(f, "two sessions, window", 2, 1, 8, 8, "window", window=2, runs=((1, 3), (0, 1, 1, 4), (1, 2, 0, 2)))
    attention(f, "latent", 4, 1, 24, 16, latent=1, scale=0.2)
    attention(f, "latent, two sessions", 2, 1, 10, 7, latent=1, runs=((0, 2, 1, 3), (0, 1, 1, 1)))
    attention(f, "latent 512 of 576", 2, 1, 576, 512, latent=1, scale=0.05, runs=((0, 3), (0, 1)), stride=31)
    attention(f, "head_dim 256", 2, 1, 256, 256, runs=((0, 3), (0, 1)), stride=13)
    attention(f, "rope_append", 2, 2, 16, 8, fused=True)
    attention(f, "rope_append, latent", 2, 1, 16, 12, fused=True, latent=1)
    spans = ((2, 6), (6, 9), (12, 19))
    attention_spans(f, "images, causal", "causal", 1, spans)
    attention_spans(f, "images, window 3", "window", 1, spans, window=3)
    attention_spans(f, "images, window 3, whole", "window", 2, spans, window=3)
    attention_spans(f, "images, causal, whole", "causal", 2, spans)
    attention_spans(f, "no images", "window", 1, spans, window=3, null=1)
    attention_spans(f, "wanted rows", "causal", 0, (), out=[1, 4, 11])
    attention_spans(f, "wanted rows of images", "window", 1, spans, window=4, out=[0, 3, 9, 10])
    attention_spans(f, "canvas", "canvas", 2, ((0, 10), (10, 22)))
    attention_spans(f, "canvas, window 4", "canvas", 2, ((0, 10), (10, 22)), window=4)


# ---- experts ----


def route(logits, bias, k, score, groups=1, keep=1, norm=1, eps=0.0, scale=1.0):
    s = torch.sigmoid(logits) if score == "sigmoid" else torch.softmax(logits, -1)
    s = s.float().double()  # scores are f32
    pick = s if bias is None else (s.float() + bias.float()).double()
    rows_, e = s.shape
    if groups > 1:
        g = pick.reshape(rows_, groups, e // groups).topk(2, -1).values.sum(-1)
        best = torch.argsort(g, dim=-1, descending=True, stable=True)[:, :keep]
        kept = torch.zeros(rows_, groups, dtype=torch.bool).scatter(1, best, True)
        pick = pick.masked_fill(~kept.repeat_interleave(e // groups, 1), -math.inf)
    ids = torch.argsort(pick, dim=-1, descending=True, stable=True)[:, :k]
    w = s.gather(1, ids)
    if norm:
        w = w / (w.sum(-1, keepdim=True) + eps)
    top = pick.gather(1, torch.argsort(pick, dim=-1, descending=True, stable=True))
    gap = (top[:, :-1] - top[:, 1:]).nan_to_num(1.0)[:, :k]
    assert ((gap == 0) | (gap > 1e-5 * top[:, :gap.shape[1]].abs())).all(), "a choice that hangs on rounding"
    return ids.int(), w * scale


def experts(f):
    cases = (dict(k=2, score="softmax"), dict(k=3, score="softmax", norm=0, scale=16.0), dict(k=4, score="sigmoid", eps=1e-20, scale=2.5),
             dict(k=8, score="sigmoid"), dict(k=2, score="sigmoid", groups=4, keep=2, scale=2.5),
             dict(k=3, score="softmax", groups=2, keep=1, norm=0), dict(k=1, score="softmax"))
    for a in cases:
        for bias in (0, 1):
            text = " ".join(f'{n}="{v}"' if n == "score" else f"{n}={v!r}" for n, v in a.items())
            c = f.case(f"route {text.replace(chr(34), '')} bias {bias}", x_in(8) + (w_in("b", 8) if bias else "")
                       + f'%e, %w = route(%x{", %b" if bias else ""}) {text}\noutput %e as "e"\noutput %w as "w"', tol=(1e-6, 4e-6))
            b = c.weight("b", (1, 8), values=[0.5, -0.25, 0.125, 1, -1, 0, 0.0625, 0.75])[0] if bias else None
            c.run(4)
            ties = [1, 1, 1, 1, 1, 1, 1, 1] + [0, 2, -1, 2, 0, 2, 3, -1]
            x = c.input("x", (4, 8), ties + gen(len(f.cases) + 1, 16))
            e, w = route(x, b, **a)
            c.want("e", e)
            c.want("w", w)
            c.done()

    for name, fmt in (("f32", "f32"), ("bf16", "bf16")):
        c = f.case(f"expert_linear {name}", x_in(12) + '%e: i32[ROWS,2] = input name="e"\n' + w_in("w", "4,9,12", fmt) + w_in("v", "4,5,9", fmt)
                   + '%y = expert_linear(%x, %w, %e)\n%z = expert_linear(%y, %v, %e)\noutput %y as "y"\noutput %z as "z"', tol=(1e-6, 2e-5))
        w, v = c.weight("w", (4, 9, 12), fmt), c.weight("v", (4, 5, 9), fmt)
        c.run(3)
        x = c.input("x", (3, 12))
        e = c.ints("e", [3, 0, 1, 2, 3, 1]).reshape(3, 2)
        y = torch.einsum("rk,rjnk->rjn", x, w[e])
        c.want("y", y)
        c.want("z", torch.einsum("rjk,rjnk->rjn", y, v[e]))
        c.done()

    c = f.case("route, times a gain", x_in(8) + w_in("g", 8)
               + '%e, %w = route(%x, _, %g) k=3 score="softmax" scale=2\noutput %e as "e"\noutput %w as "w"', tol=(1e-6, 4e-6))
    g = c.weight("g", (1, 8), values=[0.5, 1.25, 1, -1, 2, 0, 0.75, 1.5])[0]
    c.run(3)
    e, w = route(c.input("x", (3, 8)), None, 3, "softmax", scale=2.0)
    c.want("e", e)
    c.want("w", w * g[e.long()])
    c.done()

    c = f.case("combine", x_in("3,7") + x_in(3, "w") + '%y = combine(%x, %w)\noutput %y as "y"')
    c.run(2)
    x, w = c.input("x", (2, 3, 7)), c.input("w", (2, 3))
    c.want("y", torch.einsum("rj,rjn->rn", w, x))
    c.done()

    # one pool of experts for each block of positions; the last block is cut short, the other session begins a new one
    for score, cap, k in (("sigmoid", 3, 2), ("softmax", 2, 2), ("sigmoid", 8, 3)):
        c = f.case(f"route block=4 capacity={cap} k={k} score={score}", x_in(8) + w_in("b", 8) + '%pos: i32[ROWS] = input name="pos"\n'
                   + f'%e, %w = route(%x, %b, _, %pos) k={k} score="{score}" block=4 capacity={cap}\noutput %e as "e"\noutput %w as "w"',
                   tol=(1e-6, 4e-6))
        b = c.weight("b", (1, 8), values=[0.5, -0.25, 0.125, 1, -1, 0, 0.0625, 0.75])[0]
        pos = [4, 5, 6, 7, 8, 9, 8, 9, 10, 11, 12]
        c.run(11, pos=pos, slot=[0] * 6 + [1] * 5)
        c.ints("pos", pos)
        x = c.input("x", (11, 8))
        s = (torch.sigmoid(x) if score == "sigmoid" else torch.softmax(x, -1)).float()
        pick = s + b.float()
        for lo, hi in ((0, 4), (4, 6), (6, 10), (10, 11)):
            best = pick[lo:hi].amax(0).argsort(descending=True, stable=True)[:cap]
            pick[lo:hi] = pick[lo:hi].masked_fill(~torch.zeros(8, dtype=torch.bool).scatter(0, best, True), -math.inf)
        ids = torch.argsort(pick, dim=-1, descending=True, stable=True)[:, :k]
        w = s.double().gather(1, ids)
        c.want("e", ids.int())
        c.want("w", w / w.sum(-1, keepdim=True))
        c.done()


# ---- recurrent layers ----


def sessions(c, runs, body):
    """body(session's memory or None, rows) -> (y, memory), for each session of each run; runs as for attention."""
    held, at = {}, {}
    for run in runs:
        parts = [(run[i], run[i + 1]) for i in range(0, len(run), 2)]
        pos, slot = [], []
        for s, n in parts:
            pos += range(at.get(s, 0), at.get(s, 0) + n)
            slot += [s] * n
            at[s] = at.get(s, 0) + n
        c.run(len(pos), 0, pos, slot)
        y, first = [], 0
        inputs = body(None, None, len(pos))
        for s, n in parts:
            part, held[s] = body(held.get(s), [t[first:first + n] for t in inputs], n)
            y.append(part)
            first += n
        c.want("y", torch.cat(y))
    c.done()


SESSIONS = ((0, 5), (0, 1), (0, 2, 1, 4), (1, 1, 0, 1), (0, 3))


def conv1d(f, channels, width, runs=SESSIONS):
    c = f.case(f"conv1d {channels} channels, width {width}", x_in(channels) + w_in("w", f"{channels},{width}")
               + f'%c: cache = state name="c" heads=1 dk={max(width - 1, 1)} dv={channels}\n%y, %c2 = conv1d(%x, %w, %c)\noutput %y as "y"')
    w = c.weight("w", (channels, width))

    def body(past, inputs, n):
        if inputs is None:
            return [c.input("x", (n, channels))]
        past = torch.zeros(width - 1, channels, dtype=D) if past is None else past
        x = torch.cat([past, inputs[0]])
        y = F.conv1d(x.T[None], w[:, None], groups=channels)[0].T
        return y, x[x.shape[0] - width + 1:]
    sessions(c, runs, body)


def delta_rule(f, hk, hv, dk, dv, runs=SESSIONS):
    c = f.case(f"delta_rule {hk} heads of {dk}, {hv} of {dv}", x_in(f"{hk},{dk}", "q") + x_in(f"{hk},{dk}", "k") + x_in(f"{hv},{dv}", "v")
               + x_in(hv, "g") + x_in(hv, "b")
               + f'%s: cache = state name="s" heads={hv} dk={dk} dv={dv}\n%d = sigmoid(%g)\n%e = sigmoid(%b)\n%l = l2norm(%k) eps=1e-6\n'
               + '%y, %s2 = delta_rule(%q, %l, %v, %d, %e, %s)\noutput %y as "y"', tol=(4e-6, 4e-5))

    def body(s, inputs, n):
        if inputs is None:
            return [c.input("q", (n, hk, dk)), c.input("k", (n, hk, dk)), c.input("v", (n, hv, dv)), c.input("g", (n, hv)), c.input("b", (n, hv))]
        q, k, v, g, b = inputs
        k = k / torch.sqrt((k * k).sum(-1, keepdim=True) + 1e-6)
        q, k = (t.repeat_interleave(hv // hk, 1) for t in (q, k))
        s = torch.zeros(hv, dk, dv, dtype=D) if s is None else s
        y = []
        for t in range(n):
            s = s * torch.sigmoid(g[t])[:, None, None]
            u = torch.sigmoid(b[t])[:, None] * (v[t] - torch.einsum("hij,hi->hj", s, k[t]))
            s = s + torch.einsum("hi,hj->hij", k[t], u)
            y.append(torch.einsum("hij,hi->hj", s, q[t]))
        return torch.stack(y), s
    sessions(c, runs, body)


def recurrent(f):
    for channels, width in ((16, 4), (5, 2), (70, 3)):
        conv1d(f, channels, width)
    conv1d(f, 20, 7, ((0, 2), (0, 1), (0, 9), (0, 1)))
    for hk, hv, dk, dv in ((1, 1, 4, 4), (2, 2, 16, 16), (2, 6, 7, 20), (1, 2, 33, 70)):
        delta_rule(f, hk, hv, dk, dv)
    delta_rule(f, 1, 1, 8, 130, ((0, 3), (0, 1)))
    for dims, shape in (("12", (3, 12)), ("2,7", (3, 2, 7)), ("3,40", (2, 3, 40))):
        for eps, scale in ((1e-6, 1), (0.5, 0.25)):
            c = f.case(f"l2norm [{dims}] eps {eps:g} scale {scale:g}", x_in(dims) + f'%y = l2norm(%x) eps={eps} scale={scale}\noutput %y as "y"')
            c.run(shape[0])
            x = c.input("x", shape)
            c.want("y", x / torch.sqrt((x * x).sum(-1, keepdim=True) + eps) * scale)
            c.done()
    for n in (1, 6, 33):
        c = f.case(f"decay {n}", x_in(n) + w_in("w", n) + w_in("b", n) + '%z = scale(%x) by=20\n%y = decay(%z, %w, %b)\noutput %y as "y"')
        w = c.weight("w", (1, n), values=[-0.02 - 0.3 * i for i in range(n)])[0]
        b = c.weight("b", (1, n))[0]
        c.run(4)
        x = c.input("x", (4, n)) * 20
        c.want("y", torch.exp(w * torch.log1p(torch.exp(-(x + b).abs())) + w * (x + b).clamp(min=0)))
        c.done()
    conv1d(f, 18, 1)


ACT = {"silu": F.silu, "gelu": F.gelu, "gelu_tanh": lambda v: F.gelu(v, approximate="tanh")}


def fused(f):
    for fn, act in ACT.items():
        c = f.case(f"moe {fn}", x_in(16) + w_in("wr", "6,16") + '%l = linear(%x, %wr) act="f32"\n%e, %w = route(%l) k=3 score="softmax"\n'
                   + w_in("wg", "6,8,16") + w_in("wu", "6,8,16") + w_in("wd", "6,16,8")
                   + f'%y = moe(%x, %e, %w, %wg, %wu, %wd) fn="{fn}"\noutput %y as "y"', tol=(4e-6, 4e-5))
        wr, wg, wu, wd = (c.weight(n, s) for n, s in (("wr", (6, 16)), ("wg", (6, 8, 16)), ("wu", (6, 8, 16)), ("wd", (6, 16, 8))))
        c.run(5)
        x = c.input("x", (5, 16))
        e, w = route(x @ wr.T, None, 3, "softmax")
        e = e.long()
        h = act(torch.einsum("rk,rjnk->rjn", x, wg[e])) * torch.einsum("rk,rjnk->rjn", x, wu[e])
        c.want("y", torch.einsum("rj,rjn->rn", w, torch.einsum("rjk,rjnk->rjn", h, wd[e])))
        c.done()
        for bias in (0, 1):
            c = f.case(f"gated_linear {fn} bias {bias}", x_in(20) + w_in("wg", "18,20") + w_in("wu", "18,20")
                       + (w_in("bg", 18) + w_in("bu", 18) if bias else "")
                       + f'%y = gated_linear(%x, %wg, %wu{", %bg, %bu" if bias else ""}) fn="{fn}"\noutput %y as "y"', tol=(4e-6, 4e-5))
            wg, wu = c.weight("wg", (18, 20)), c.weight("wu", (18, 20))
            bg, bu = (c.weight("bg", (1, 18))[0], c.weight("bu", (1, 18))[0]) if bias else (None, None)
            c.run(3)
            x = c.input("x", (3, 20))
            c.want("y", act(F.linear(x, wg, bg)) * F.linear(x, wu, bu))
            c.done()
    for dims, shape, n, offset in (("12", (3, 12), 12, 0), ("12", (3, 12), 12, 1), ("2,7", (3, 2, 7), 7, 0)):
        c = f.case(f"add_rmsnorm [{dims}] offset {offset}", x_in(dims) + x_in(dims, "z") + w_in("w", n)
                   + f'%s, %y = add_rmsnorm(%x, %z, %w) eps=1e-5 offset={offset}\noutput %s as "s"\noutput %y as "y"')
        w = c.weight("w", (1, n))[0]
        c.run(3)
        s = c.input("x", shape) + c.input("z", shape)
        c.want("s", s)
        c.want("y", rmsnorm(s, w, 1e-5, offset))
        c.done()


def main():
    os.makedirs(HERE, exist_ok=True)
    for name, fill in (("rows", rows), ("views", views), ("rope", ropes), ("attention", attentions), ("experts", experts), ("recurrent", recurrent),
                       ("fused", fused)):
        f = File(name)
        fill(f)
        f.write()


main()
