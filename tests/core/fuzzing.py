"""Valid LoRA files of several families, and the ways in which a file can be wrong. All seeded."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable
from typing import Any

import safetensors.torch
import torch

from tests.core.lora_tensors import pair

Mutation = Callable[[random.Random, bytes], bytes]


def samples(seed: int) -> list[bytes]:
    """Small whole files: every family, naming and dtype that a LoRA comes in."""
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    unet, te = "lora_unet_mid_block_attentions_0_proj_in", "lora_te_text_model_encoder_layers_0_fc1"
    kohya = pair(unet, generator, alpha=2.0) | pair(te, generator, alpha=1.0)
    peft = pair("unet.a.to_q", generator, names=(".lora_B.weight", ".lora_A.weight"))
    locon = pair("a.conv", generator, kernel=(1, 1)) | {"a.conv.lora_mid.weight": noise(3, 3, 3, 3)}
    dora = pair("a", generator, alpha=2.0) | {"a.dora_scale": noise(6, 1)}
    loha = {f"a.hada_{w}_{s}": noise(*n) for w in ("w1", "w2") for s, n in (("a", (6, 2)), ("b", (2, 5)))}  # fmt: skip
    lokr = {"a.lokr_w1": noise(2, 2), "a.lokr_w2_a": noise(3, 2), "a.lokr_w2_b": noise(2, 3)}
    whole = {
        "a.diff": noise(6, 5),
        "a.diff_b": noise(6),
        "n.w_norm": noise(4),
        "n.b_norm": noise(4),
    }
    oft = {"a.oft_blocks": noise(2, 3, 3), "a.alpha": torch.tensor(1e-3)}
    loras = [
        (kohya, {"ss_tag_frequency": json.dumps({"10_x": {"a": 3}}), "modelspec.title": "Rain"}),
        ({k: t.half() for k, t in kohya.items()}, {}),
        ({k: t.bfloat16() for k, t in peft.items()}, {"lora_adapter_metadata": '{"unet.r": 3}'}),
        (peft | {"unet.b.lora_A.weight": noise(2, 4), "unet.b.lora_B.weight": noise(4, 2).half()}, {}),
        (locon, {"ss_network_args": '{"algo": "locon"}'}),
        (dora, {}),
        (loha, {}),
        (lokr, {}),
        (whole, {}),
        (oft, {}),
    ]  # fmt: skip
    if hasattr(torch, "float8_e4m3fn"):
        loras.append(({k: t.to(torch.float8_e4m3fn) for k, t in peft.items()}, {}))
    return [safetensors.torch.save(tensors, metadata) for tensors, metadata in loras]


def split(raw: bytes) -> tuple[dict[str, Any], bytes]:
    """The header's object and the body of a whole file."""
    end = 8 + int.from_bytes(raw[:8], "little")
    return json.loads(raw[8:end]), raw[end:]


def joined(header: dict[str, Any] | str, body: bytes) -> bytes:
    text = header if isinstance(header, str) else json.dumps(header)
    data = text.encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(data)) + data + body


def _flip(data: bytes, rng: random.Random, low: int, high: int, most: int = 8) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.randint(1, most)):
        changed[rng.randrange(low, max(low + 1, high))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def flipped_anywhere(rng: random.Random, raw: bytes) -> bytes:
    return _flip(raw, rng, 0, len(raw))


def flipped_header(rng: random.Random, raw: bytes) -> bytes:
    return _flip(raw, rng, 8, len(raw) - len(split(raw)[1]), 2)


def flipped_weights(rng: random.Random, raw: bytes) -> bytes:
    return _flip(raw, rng, len(raw) - len(split(raw)[1]), len(raw))


def cut(rng: random.Random, raw: bytes) -> bytes:
    return raw[: rng.randrange(len(raw))]


def longer(rng: random.Random, raw: bytes) -> bytes:
    return raw + rng.randbytes(rng.randint(1, 5000))


def shifted(rng: random.Random, raw: bytes) -> bytes:
    at = rng.randrange(len(raw))
    return raw[:at] + rng.randbytes(rng.randint(1, 9)) + raw[at:]


def noise_only(rng: random.Random, raw: bytes) -> bytes:
    return rng.randbytes(rng.randint(0, 4000))


def lying_length(rng: random.Random, raw: bytes) -> bytes:
    true = int.from_bytes(raw[:8], "little")
    lies = [0, 1, 2**63, 2**64 - 1, len(raw), len(raw) - 8, true - 1, true + 1, rng.getrandbits(34)]
    return struct.pack("<Q", rng.choice(lies)) + raw[8:]


HUGE = (-1, 2**31, 2**53, 2**62, 2**64, 10**30, 10**4000)
NO_COUNTS = (1.5, float("nan"), True, None, "7", [], {}, -0.0, 1e400)


def wrong_offsets(rng: random.Random, raw: bytes) -> bytes:
    header, body = split(raw)
    offsets = rng.choice(_entries(header))["data_offsets"]
    kind = rng.randrange(4)
    if kind == 0:  # onto another tensor
        offsets[:] = rng.choice(_entries(header))["data_offsets"]
    elif kind == 1:
        offsets[rng.randrange(2)] = rng.choice(HUGE + NO_COUNTS)
    elif kind == 2:
        offsets[rng.randrange(2)] += rng.randint(-64, 64)
    else:
        offsets[:] = rng.choice(([], [0], [0, 0, 0], offsets[::-1]))
    return joined(header, body)


def wrong_shape(rng: random.Random, raw: bytes) -> bytes:
    header, body = split(raw)
    shape = rng.choice(_entries(header))["shape"]
    kind = rng.randrange(4)
    if kind == 0 and shape:
        shape[rng.randrange(len(shape))] = rng.choice(HUGE + NO_COUNTS)
    elif kind == 1:
        shape[:] = [rng.choice((0, 2**40, 2**62, 1)) for _ in range(rng.randint(1, 5))]
    elif kind == 2:
        shape[:] = [1] * rng.choice((7, 9, 65, 5000)) + shape
    else:
        rng.shuffle(shape)
        shape += rng.choice(([], [1], [2]))
    return joined(header, body)


def swapped_dtype(rng: random.Random, raw: bytes) -> bytes:
    header, body = split(raw)
    entry = rng.choice(_entries(header))
    if rng.random() < 0.5:  # one of the same size, so that the file stays whole
        same = {"F32": ["I32", "U32"], "F16": ["BF16", "I16", "U16"], "BF16": ["F16"]}
        entry["dtype"] = rng.choice(same.get(entry["dtype"], ["U8", "I8", "F8_E5M2"]))
    else:
        known = ["F64", "BOOL", "C64", "F4", "F8_E8M0", "", "f32", "X" * 10**6, 3, None, ["F32"]]
        entry["dtype"] = rng.choice(known)
    return joined(header, body)


def renamed(rng: random.Random, raw: bytes) -> bytes:
    header, body = split(raw)
    names = [name for name in header if name != "__metadata__"]
    old = rng.choice(names)
    new = rng.choice(
        ("", " ", "x" * 3_000_000, "\ud800", "\x00", "a" * 999 + ".alpha", ".alpha", "\u65e5\u672c.diff",
         old + ".weight", old.rsplit(".", 1)[0] + ".alpha", old.replace("lora_up", "lora_B"), "../../x.diff",
         old.partition(".")[0] + ".dora_scale", "." * 500, old.upper())
    )  # fmt: skip
    return joined({new if name == old else name: said for name, said in header.items()}, body)


def named_twice(rng: random.Random, raw: bytes) -> bytes:
    header, body = split(raw)
    name = rng.choice(list(header))
    again = json.dumps({name: header[rng.choice(list(header))]})
    return joined(json.dumps(header)[:-1] + ", " + again[1:], body)


def broken_entry(rng: random.Random, raw: bytes) -> bytes:
    header, body = split(raw)
    name = rng.choice(list(header))
    kind = rng.randrange(3)
    if kind == 0:
        header[name] = rng.choice((None, [], "F32", 7, {}, [[[]]], {"dtype": "F32"}))
    elif kind == 1 and header[name]:
        header[name].pop(rng.choice(list(header[name])))
    else:
        header[name] = dict(header[name]) | {"more": [1] * rng.choice((1, 1000))}
    return joined(header, body)


def missing_tensor(rng: random.Random, raw: bytes) -> bytes:
    """A whole file that lacks a tensor, as a trainer that was stopped would leave."""
    tensors = safetensors.torch.load(raw)
    tensors.pop(rng.choice(list(tensors)))
    return safetensors.torch.save(tensors)


def hostile_metadata(rng: random.Random, raw: bytes) -> bytes:
    header, body = split(raw)
    deep = "[" * 100_000
    values = (
        "x" * 5_000_000, deep, "{" * 5000, "\x00\x1b[2J\r\n", "\ud800", "\U0001f600" * 1000, None, 7, [], {}, "NaN",
        json.dumps({"a": {"b": "c" * 100_000}}), '{"a": 1e999}', '[1, "a", null, {"b": []}]', "9" * 10_000, "",
    )  # fmt: skip
    fields = ["ss_tag_frequency", "modelspec.trigger_phrase", "modelspec.title", "ss_bucket_info",
              "lora_adapter_metadata", "ss_base_model_version", "ss_network_args", "modelspec.thumbnail",
              "ss_output_name", "sshs_model_hash", "", "\u65e5" * 300]  # fmt: skip
    said = {rng.choice(fields): rng.choice(values) for _ in range(rng.randint(1, 4))}
    header["__metadata__"] = rng.choice((said, said, said, said, None, [], "text", 3))
    return joined(header, body)


def strange_json(rng: random.Random, raw: bytes) -> bytes:
    header, body = split(raw)
    text = json.dumps(header)
    deep = '{"a":' * 50_000
    texts = (
        "", "{}", "[]", "null", "{", text[:-1], " " + text, text + " " * 5000, "\ufeff" + text, text.replace(",", ",,"),
        deep, '{"__metadata__":' + "[" * 200_000, '{"a":' + "9" * 100_000 + "}", "{" + '"a":[],' * 300_000,
        "{" + ",".join(f'"{i}":[]' for i in range(200_000)) + "}", '{"x":"' + '\\"' * 900_000 + '"}',
        text.replace("[", "[" + "0," * 700_000, 1), '{"' + "\\u0041" * 300_000 + '":1}',
    )  # fmt: skip
    return joined(rng.choice(texts), body)


def not_a_number(rng: random.Random, raw: bytes) -> bytes:
    tensors = safetensors.torch.load(raw)
    tensor = tensors[rng.choice(list(tensors))]
    value = rng.choice((float("nan"), float("inf"), float("-inf"), 0.0, 3e38, -1e-40))
    wide = tensor.float().flatten()
    wide[rng.randrange(wide.numel())] = value
    tensor.copy_(wide.reshape(tensor.shape))
    return safetensors.torch.save(tensors)


def resized(rng: random.Random, raw: bytes) -> bytes:
    """A whole file in which one tensor has a shape that does not fit the others."""
    tensors = safetensors.torch.load(raw)
    name = rng.choice(list(tensors))
    shape = [rng.randint(0, 4) for _ in range(rng.randint(0, 5))]
    tensors[name] = torch.ones(shape).to(tensors[name].dtype)
    return safetensors.torch.save(tensors)


MUTATIONS: dict[str, Mutation] = {
    function.__name__: function
    for function in (
        flipped_anywhere, flipped_header, flipped_weights, cut, longer, shifted, noise_only, lying_length,
        wrong_offsets, wrong_shape, swapped_dtype, renamed, named_twice, broken_entry, missing_tensor,
        hostile_metadata, strange_json, not_a_number, resized,
    )
}  # fmt: skip


def mutated(seed: int, index: int, wholes: list[bytes]) -> tuple[str, bytes]:
    """The name of the mutation and the file with this number."""
    rng = random.Random(f"{seed}/{index}")
    names = list(MUTATIONS)
    name = names[index % len(names)]
    return name, MUTATIONS[name](rng, rng.choice(wholes))


def _entries(header: dict[str, Any]) -> list[dict[str, Any]]:
    return [said for name, said in header.items() if name != "__metadata__"]
