#!/usr/bin/env python3
"""Writes a checkpoint of DeepSeek-V3's architecture with random weights, stored as DeepSeek stores
them: FP8 matrices with scales of 128 x 128 blocks, the rest in bf16. For timing how long one takes
to load; what it says is noise.

usage: tools/make_fp8_checkpoint.py CONFIG_FOLDER OUT_FOLDER [--layers N]

CONFIG_FOLDER has a config.json, as bench/models/deepseek-v3-4-layers. Needs the standard library
alone; the size of DeepSeek-V3's first two layers with its embeddings is 16 GB.
"""

import argparse
import json
import pathlib
import random
import struct

SHARD_BYTES = 4 << 30
BLOCK = 128


def fp8(name: str, rows: int, columns: int):
    scales = (-(-rows // BLOCK), -(-columns // BLOCK))
    return [(name, "F8_E4M3", (rows, columns)), (name + "_scale_inv", "F32", scales)]


def bf16(name: str, *shape: int):
    return [(name, "BF16", shape)]


def mlp(prefix: str, hidden: int, width: int):
    return (
        fp8(prefix + "gate_proj.weight", width, hidden)
        + fp8(prefix + "up_proj.weight", width, hidden)
        + fp8(prefix + "down_proj.weight", hidden, width)
    )


def attention(prefix: str, c: dict):
    heads, rope, nope = c["num_attention_heads"], c["qk_rope_head_dim"], c["qk_nope_head_dim"]
    hidden, q_rank, kv_rank = c["hidden_size"], c["q_lora_rank"], c["kv_lora_rank"]
    return (
        fp8(prefix + "q_a_proj.weight", q_rank, hidden)
        + bf16(prefix + "q_a_layernorm.weight", q_rank)
        + fp8(prefix + "q_b_proj.weight", heads * (nope + rope), q_rank)
        + fp8(prefix + "kv_a_proj_with_mqa.weight", kv_rank + rope, hidden)
        + bf16(prefix + "kv_a_layernorm.weight", kv_rank)
        + fp8(prefix + "kv_b_proj.weight", heads * (nope + c["v_head_dim"]), kv_rank)
        + fp8(prefix + "o_proj.weight", hidden, heads * c["v_head_dim"])
    )


def layer(index: int, c: dict):
    prefix = f"model.layers.{index}."
    hidden = c["hidden_size"]
    tensors = attention(prefix + "self_attn.", c)
    tensors += bf16(prefix + "input_layernorm.weight", hidden)
    tensors += bf16(prefix + "post_attention_layernorm.weight", hidden)
    if index < c["first_k_dense_replace"]:
        return tensors + mlp(prefix + "mlp.", hidden, c["intermediate_size"])
    width = c["moe_intermediate_size"]
    tensors += bf16(prefix + "mlp.gate.weight", c["n_routed_experts"], hidden)
    tensors += [(prefix + "mlp.gate.e_score_correction_bias", "F32", (c["n_routed_experts"],))]
    for expert in range(c["n_routed_experts"]):
        tensors += mlp(f"{prefix}mlp.experts.{expert}.", hidden, width)
    return tensors + mlp(prefix + "mlp.shared_experts.", hidden, c["n_shared_experts"] * width)


def size_of(tensor) -> int:
    _, dtype, shape = tensor
    size = {"F8_E4M3": 1, "BF16": 2, "F32": 4}[dtype]
    for extent in shape:
        size *= extent
    return size


# 16 MB of each type that are written again and again: small numbers, none of them NaN or infinite.
def noise(rng: random.Random) -> dict:
    bytes_ = rng.randbytes(16 << 20)
    tame = bytes_.translate(bytes((b & 0x80) | (b & 0x3F) for b in range(256)))
    bf16s = bytearray(bytes_)
    bf16s[1::2] = bytes_[1::2].translate(bytes((b & 0x80) | 0x3C for b in range(256)))
    floats = struct.pack("<f", 0.01) * (4 << 20)
    return {"F8_E4M3": tame, "BF16": bytes(bf16s), "F32": floats}


def write_shard(path: pathlib.Path, tensors: list, sources: dict) -> None:
    header, offset = {}, 0
    for name, dtype, shape in tensors:
        size = size_of((name, dtype, shape))
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for tensor in tensors:
            source, left = memoryview(sources[tensor[1]]), size_of(tensor)
            while left > 0:
                left -= file.write(source[: min(left, len(source))])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("config", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--layers", type=int)
    flags = parser.parse_args()
    config = json.loads((flags.config / "config.json").read_text())
    if flags.layers is not None:
        config["num_hidden_layers"] = flags.layers
    tensors = bf16("model.embed_tokens.weight", config["vocab_size"], config["hidden_size"])
    for index in range(config["num_hidden_layers"]):
        tensors += layer(index, config)
    tensors += bf16("model.norm.weight", config["hidden_size"])
    tensors += bf16("lm_head.weight", config["vocab_size"], config["hidden_size"])

    shards = [[]]
    for tensor in tensors:
        if shards[-1] and sum(map(size_of, shards[-1])) + size_of(tensor) > SHARD_BYTES:
            shards.append([])
        shards[-1].append(tensor)
    flags.out.mkdir(parents=True, exist_ok=True)
    sources, places = noise(random.Random(0)), {}
    for i, shard in enumerate(shards):
        name = f"model-{i + 1:05}-of-{len(shards):05}.safetensors"
        write_shard(flags.out / name, shard, sources)
        places |= {tensor[0]: name for tensor in shard}
    index = {"metadata": {"total_size": sum(map(size_of, tensors))}, "weight_map": places}
    (flags.out / "model.safetensors.index.json").write_text(json.dumps(index))
    (flags.out / "config.json").write_text(json.dumps(config, indent=2))


if __name__ == "__main__":
    main()
