"""A planted conflict on the toy: the style with a part added that writes against the character's own directions.

    python -m tools.toy_conflict FILE

writes it. The careless pair is no good for this: its two LoRAs show neither style nor character even alone. Here each
shows what it should alone, and the sum of the two loses the character, which is what a person sees who stacks a style
that was trained on every layer on a character.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from tools.devkit.base_directory import TOY_MODEL

STYLE = TOY_MODEL / "loras" / "loom_toy_style.safetensors"
CHARACTER = TOY_MODEL / "loras" / "loom_toy_character.safetensors"
NAME = "loom_toy_style_conflict.safetensors"
# How strong the planted part is beside the character's own delta, and how far it is turned inside the same directions.
AGAINST, TURNED, SEED = 0.6, 0.3, 41


def planted(
    style: Mapping[str, torch.Tensor], character: Mapping[str, torch.Tensor], seed: int = SEED
) -> dict[str, torch.Tensor]:
    """The style's tensors, and beside them for each UNet layer of the character

    -AGAINST * up (I + TURNED * noise) down: the character's own input and output directions, turned among each other.
    """
    generator = torch.Generator().manual_seed(seed)
    tensors = dict(style)
    for key, up in character.items():
        name, _, part = key.partition(".")
        if part != "lora_up.weight" or not name.startswith("lora_unet_"):
            continue
        down, alpha = character[f"{name}.lora_down.weight"], character[f"{name}.alpha"]
        rank = down.shape[0]
        noise = torch.randn(rank, rank, generator=generator) / math.sqrt(rank)
        turned = up.float().flatten(1) @ (torch.eye(rank) + TURNED * noise)
        against = (-AGAINST * float(alpha) / rank * turned).reshape(up.shape)
        ups, downs = [against], [down.float()]
        if key in style:
            own = style[f"{name}.lora_down.weight"]
            ups.append(style[key].float() * (float(style[f"{name}.alpha"]) / own.shape[0]))
            downs.append(own.float())
        tensors[key] = torch.cat(ups, dim=1).to(up.dtype)
        tensors[f"{name}.lora_down.weight"] = torch.cat(downs).to(down.dtype)
        tensors[f"{name}.alpha"] = torch.tensor(float(sum(each.shape[0] for each in downs)))
    return tensors


def write(file: Path) -> Path:
    """Write the style with the planted conflict."""
    metadata = {
        "ss_base_model_version": "sd_v1",
        "modelspec.title": "Toy style with a planted conflict",
        "modelspec.trigger_phrase": "ohwx",
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(planted(load_file(str(STYLE)), load_file(str(CHARACTER))), str(file), metadata)
    return file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path, help="where to write")
    print(write(parser.parse_args().file))


if __name__ == "__main__":
    main()
