"""packed_weights.py OUTDIR

Weights that the compressed-tensors package packs, beside what it unpacks them to, FP8 weights beside
transformers' dequantisation, MLX's nvfp4 beside its own, and GGUF's NVFP4 with the numbers that its blocks
are times, beside gguf-py's: a directory per config, with model.safetensors (tensor "want.X": float32
values of X.weight) and config.json (its quantization_config alone), or model.gguf.  Scales are float32
when unpacked, so that no product is rounded to fewer bits.
Needs: pip install compressed-tensors mlx mlx-cpu gguf.
"""

import json
import os
import sys

import gguf
import mlx.core as mx
import numpy as np
import torch
from compressed_tensors.compressors.naive_quantized import NaiveQuantizationCompressor as Naive
from compressed_tensors.compressors.pack_quantized import PackedQuantizationCompressor as Packed
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from safetensors.torch import save_file
from transformers.integrations.finegrained_fp8 import _dequantize_fp8_weight

g = torch.Generator().manual_seed(5)


def scales_of(w, args, n, k):
    """Scales and zero points of the shape that a strategy has; random, since only unpacking is tested."""
    groups = {"group": lambda: (n, k // args.group_size), "channel": lambda: (n, 1), "tensor": lambda: (1,),
              "block": lambda: (-(-n // args.block_structure[0]), -(-k // args.block_structure[1]))}
    shape = groups[getattr(args.strategy, "value", args.strategy)]()
    scale = torch.rand(shape, generator=g) * 0.1 + 0.02
    half = 2 ** (args.num_bits - 1)
    zero = None if args.symmetric else torch.randint(-half, half, shape, generator=g).to(torch.int8)
    return scale, zero


def module(out, name, compressor, n, k, dtype=torch.float32, **kw):
    args = QuantizationArgs(**kw)
    scheme = QuantizationScheme(targets=["Linear"], weights=args)
    w = torch.randn(n, k, generator=g)
    scale, zero = scales_of(w, args, n, k)
    state = {"weight": w, "weight_scale": scale}
    if zero is not None:
        state["weight_zero_point"] = zero
    packed = compressor.compress(state, scheme)
    packed["weight_scale"] = packed["weight_scale"].to(dtype)
    whole = {**packed, "weight_scale": packed["weight_scale"].float()}
    out["want." + name] = compressor.decompress(whole, scheme)["weight"].float()
    for key, t in packed.items():
        out[f"{name}.{key}"] = t.contiguous()
    return {"targets": ["Linear"], "weights": json.loads(args.model_dump_json())}


def write(root, name, tensors, config):
    folder = os.path.join(root, name)
    os.makedirs(folder, exist_ok=True)
    save_file({k: v.contiguous() for k, v in tensors.items()}, os.path.join(folder, "model.safetensors"))
    with open(os.path.join(folder, "config.json"), "w") as f:
        json.dump(config, f, indent=1)
        f.write("\n")


def compressed(root, name, form, modules):
    tensors, groups = {}, {}
    for i, (compressor, n, k, dtype, kw) in enumerate(modules):
        groups[f"group_{i}"] = module(tensors, f"m{i}", compressor, n, k, dtype, **kw)
    write(root, name, tensors, {"quant_method": "compressed-tensors", "format": form, "config_groups": groups,
                                "ignore": ["lm_head"], "kv_cache_scheme": None, "sparsity_config": {},
                                "transform_config": {}, "quantization_status": "compressed"})


def ints():
    f32, bf16, f16 = torch.float32, torch.bfloat16, torch.float16
    group = lambda bits, size, sym: dict(num_bits=bits, strategy="group", group_size=size, symmetric=sym)
    return [(Packed, 5, 64, bf16, group(4, 32, True)),
            (Packed, 13, 128, f32, group(4, 32, False)),
            (Packed, 37, 48, f16, group(4, 16, True)),
            (Packed, 37, 48, f32, group(4, 24, False)),
            (Packed, 6, 160, bf16, group(8, 32, True)),
            (Packed, 35, 40, bf16, group(8, 8, False)),
            (Packed, 3, 96, f32, group(3, 32, True)),
            (Packed, 33, 96, f32, group(5, 48, False)),
            (Packed, 4, 33, f32, dict(num_bits=4, strategy="channel", symmetric=True)),
            (Packed, 34, 50, f32, dict(num_bits=4, strategy="channel", symmetric=False)),
            (Packed, 4, 56, f32, dict(num_bits=6, strategy="tensor", symmetric=True)),
            (Packed, 4, 256, f32, {**group(4, 128, True), "actorder": "weight"})]


def whole_bytes():
    f32, bf16 = torch.float32, torch.bfloat16
    return [(Naive, 5, 40, bf16, dict(num_bits=8, strategy="channel", symmetric=True)),
            (Naive, 6, 40, f32, dict(num_bits=8, strategy="channel", symmetric=False)),
            (Naive, 7, 24, f32, dict(num_bits=8, strategy="tensor", symmetric=True)),
            (Naive, 7, 64, f32, dict(num_bits=8, strategy="group", group_size=16, symmetric=True))]


def floats(strategy, **kw):
    return [(Naive, n, k, dtype, dict(num_bits=8, type="float", strategy=strategy, symmetric=True, **kw))
            for n, k, dtype in ((5, 40, torch.float32), (130 if kw else 9, 140, torch.bfloat16))]


def fp8(root, name, block, shape, scheme="dynamic"):
    n, k = 35, 140
    w = torch.randn(n, k, generator=g).clamp(-400, 400).to(torch.float8_e4m3fn)
    s = torch.rand(shape, generator=g) * 0.1 + 0.02
    out = {"m.weight": w, "m.weight_scale_inv": s}
    if scheme == "static":
        out["m.activation_scale"] = torch.tensor(0.5)
    if block or s.numel() == 1:
        out["want.m"] = _dequantize_fp8_weight(w, s, block, torch.float32)
    else:
        out["want.m"] = w.float() * s
    write(root, name, out, {"quant_method": "fp8", "activation_scheme": scheme, "weight_block_size": block,
                            "modules_to_not_convert": ["lm_head"]})


def mlx(root):
    mx.random.seed(3)
    tensors = {}
    for name, shape in (("a", (4, 48)), ("b", (2, 3, 16)), ("c", (3, 64)), ("d", (2, 112))):
        mode = dict(group_size=16, bits=4, mode="nvfp4")
        w, scales = mx.quantize(mx.random.normal(shape) * 2, **mode)
        tensors.update({name + ".weight": w, name + ".scales": scales,
                        "want." + name: mx.dequantize(w, scales, **mode, dtype=mx.float32)})
    folder = os.path.join(root, "mlx-nvfp4")
    os.makedirs(folder, exist_ok=True)
    mx.save_safetensors(os.path.join(folder, "model.safetensors"), tensors)
    with open(os.path.join(folder, "config.json"), "w") as f:
        json.dump({"group_size": 16, "bits": 4, "mode": "nvfp4"}, f)


def nvfp4(root, name, arch):
    """X.weight is NVFP4; products with it are times X.scale: a number, or one per expert."""
    rng = np.random.default_rng(9)
    folder = os.path.join(root, name)
    os.makedirs(folder, exist_ok=True)
    out = gguf.GGUFWriter(os.path.join(folder, "model.gguf"), arch)
    for stem, shape, scales in (("blk.0.attn_q", (5, 128), [0.37]), ("blk.0.ffn_up_exps", (3, 4, 64), [3.1, 0.02, 1.7]),
                                ("blk.0.ffn_gate_exps", (2, 3, 64), [0.6]), ("blk.0.attn_k", (3, 64), None),
                                ("blk.0.ffn_down_exps", (2, 2, 64), [2.5, 0.3])):
        rows = int(np.prod(shape[:-1]))
        data = rng.integers(0, 256, (rows, shape[-1] // 64, 36), dtype=np.uint8)
        data[..., :4] = rng.integers(1, 127, data[..., :4].shape)
        data = data.reshape(*shape[:-1], -1)
        value = gguf.quants.dequantize(data, gguf.GGMLQuantizationType.NVFP4).astype(np.float32).reshape(shape)
        out.add_tensor(stem + ".weight", data, raw_dtype=gguf.GGMLQuantizationType.NVFP4)
        if scales is not None:
            scales = np.array(scales, np.float32)
            out.add_tensor(stem + ".scale", scales)
            if arch != "gemma4" or "down" not in stem:
                value = value * (scales.reshape(-1, 1, 1) if len(shape) == 3 else scales)
            out.add_tensor(stem + ".input_scale", np.ones(1, np.float32))
        out.add_tensor("want." + stem, value)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


def main(root):
    mlx(root)
    nvfp4(root, "gguf-nvfp4", "llama")
    nvfp4(root, "gguf-nvfp4-gains", "gemma4")
    compressed(root, "ints", "pack-quantized", ints())
    compressed(root, "bytes", "int-quantized", whole_bytes())
    compressed(root, "mixed", "mixed-precision", ints()[:2] + whole_bytes()[:1] + floats("channel"))
    compressed(root, "floats-tensor", "float-quantized", floats("tensor"))
    compressed(root, "floats-channel", "float-quantized", floats("channel"))
    compressed(root, "floats-block", "float-quantized", floats("block", block_structure=[128, 128]))
    compressed(root, "floats-small-block", "naive-quantized", floats("block", block_structure=[16, 24]))
    fp8(root, "fp8-tensor", None, (), "static")
    fp8(root, "fp8-row", None, (35, 1))
    fp8(root, "fp8-16x64", [16, 64], (3, 3))
    fp8(root, "fp8-32x128", [32, 128], (2, 2))
    fp8(root, "fp8-1x256", [1, 256], (35, 1))


main(sys.argv[1])
