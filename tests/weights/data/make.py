"""Makes the fixtures in this folder (needs numpy, gguf; run here).

mlx/    MLX affine safetensors: 4 and 8 bits, groups 32, 64 and 128, scales bf16, f16 and f32
gguf/   one tensor of each type that is read, and a key of each kind
Each has expected.f32: all tensors in name order, rows of f32, dequantised by numpy (mlx: float32
scale*q, then + bias) or by the gguf package.
"""
import json, os, struct
import numpy as np
import gguf
from gguf.quants import dequantize, quantize

rng = np.random.default_rng(7)


def bf16(x):
    u = x.astype(np.float32).view(np.uint32).astype(np.uint64)
    return (((u + 0x7FFF + ((u >> 16) & 1)) >> 16).astype(np.uint16))


def widen(kind, raw):
    if kind == "BF16":
        return (raw.astype(np.uint32) << 16).view(np.float32)
    return raw.astype(np.float32)


def affine(shape, bits, group, kind):
    """Random codes with random scales and biases; some scales are negative, as MLX makes them."""
    q = rng.integers(0, 1 << bits, size=shape, dtype=np.uint8)
    groups = shape[:-1] + (shape[-1] // group,)
    s = (rng.standard_normal(groups) / (1 << bits)).astype(np.float32)
    b = rng.standard_normal(groups).astype(np.float32)
    store = {"BF16": bf16, "F16": lambda x: x.astype(np.float16), "F32": lambda x: x}[kind]
    s, b = store(s), store(b)
    code = q if bits == 8 else q[..., 0::2] | (q[..., 1::2] << 4)
    parts = q.reshape(groups + (group,)).astype(np.float32)
    w = parts * widen(kind, s)[..., None]
    w = w + widen(kind, b)[..., None]
    assert w.dtype == np.float32
    return code, s, b, w.reshape(shape)


def save_safetensors(path, tensors):
    head, blobs, at = {"__metadata__": {"format": "mlx"}}, [], 0
    for name, (dtype, shape, raw) in tensors.items():
        head[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(raw)]}
        blobs.append(raw)
        at += len(raw)
    text = json.dumps(head).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + b"".join(blobs))


def make_mlx():
    os.makedirs("mlx", exist_ok=True)
    plan = {  # module: shape, bits, group, kind
        "a": ((3, 128), 4, 32, "BF16"),
        "b.deep": ((2, 128), 4, 64, "F16"),
        "c": ((3, 96), 8, 32, "F32"),
        "d": ((1, 256), 8, 64, "BF16"),
        "experts": ((2, 3, 64), 4, 64, "BF16"),
        "wide": ((2, 256), 4, 128, "BF16"),
    }
    tensors, expected = {}, {}
    for module, (shape, bits, group, kind) in plan.items():
        code, s, b, w = affine(shape, bits, group, kind)
        words = list(shape[:-1]) + [shape[-1] * bits // 32]
        tensors[module + ".weight"] = ("U32", words, code.tobytes())
        tensors[module + ".scales"] = (kind, list(s.shape), s.tobytes())
        tensors[module + ".biases"] = (kind, list(b.shape), b.tobytes())
        expected[module + ".weight"] = w
    norm = bf16(rng.standard_normal(5))
    tensors["norm.weight"] = ("BF16", [5], norm.tobytes())
    expected["norm.weight"] = widen("BF16", norm)
    save_safetensors("mlx/model.safetensors", tensors)
    with open("mlx/model.safetensors.index.json", "w") as f:
        json.dump({"metadata": {"total_size": 1},
                   "weight_map": {n: "model.safetensors" for n in tensors}}, f)
    q = {"group_size": 64, "bits": 4, "mode": "affine", "unused": False}
    for module, (_, bits, group, _) in plan.items():
        if (bits, group) != (4, 64):
            q[module] = {"group_size": group, "bits": bits}
    q["wide"]["mode"] = "affine"
    with open("mlx/config.json", "w") as f:
        json.dump({"quantization": q}, f)
    with open("mlx/expected.f32", "wb") as f:
        for name in sorted(expected):
            f.write(expected[name].tobytes())


def make_gguf():
    os.makedirs("gguf", exist_ok=True)
    T = gguf.GGMLQuantizationType
    w = gguf.GGUFWriter("gguf/model.gguf", "tiny")
    w.add_key_value("t.u8", 200, gguf.GGUFValueType.UINT8)
    w.add_key_value("t.i8", -100, gguf.GGUFValueType.INT8)
    w.add_key_value("t.u16", 60000, gguf.GGUFValueType.UINT16)
    w.add_key_value("t.i16", -30000, gguf.GGUFValueType.INT16)
    w.add_key_value("t.u32", 4000000000, gguf.GGUFValueType.UINT32)
    w.add_key_value("t.i32", -2000000000, gguf.GGUFValueType.INT32)
    w.add_key_value("t.u64", 1 << 40, gguf.GGUFValueType.UINT64)
    w.add_key_value("t.u64.large", (1 << 64) - 1, gguf.GGUFValueType.UINT64)
    w.add_key_value("t.i64", -(1 << 40), gguf.GGUFValueType.INT64)
    w.add_float32("t.f32", 0.1)
    w.add_key_value("t.f64", 0.1, gguf.GGUFValueType.FLOAT64)
    w.add_bool("t.true", True)
    w.add_bool("t.false", False)
    w.add_string("t.str", "gr\u00fc\u00df dich")
    w.add_array("t.words", ["", "a", "\u2581b"])
    w.add_array("t.ints", [1, -2, 3])
    w.add_array("t.floats", [0.5, -1.25])
    expected = {}
    shapes = {T.F32: (2, 5), T.F16: (3, 7), T.BF16: (2, 3, 9), T.Q4_0: (3, 96), T.Q4_1: (2, 2, 64),
              T.Q8_0: (2, 64), T.Q6_K: (2, 512)}
    for kind, shape in shapes.items():
        name = f"{kind.name.lower()}.weight"
        x = rng.standard_normal(shape).astype(np.float32)
        if kind == T.Q6_K:  # the package does not quantise it: random blocks with finite scales
            raw = rng.integers(0, 256, size=(shape[0], shape[1] // 256, 210), dtype=np.uint8)
            d = (rng.standard_normal(raw.shape[:2]) / 1000).astype(np.float16)
            raw[..., 208:] = d[..., None].view(np.uint8)
            raw = raw.reshape(shape[0], -1)
        else:
            raw = quantize(x, kind)
        expected[name] = dequantize(raw, kind).astype(np.float32)
        if kind in (T.F32, T.F16):
            w.add_tensor(name, raw)
        else:
            w.add_tensor(name, raw, raw_dtype=kind)
    w.add_tensor("one", np.array([3.5], dtype=np.float32))
    expected["one"] = np.array([3.5], dtype=np.float32)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    with open("gguf/expected.f32", "wb") as f:
        for name in sorted(expected):
            f.write(expected[name].tobytes())


make_mlx()
make_gguf()
