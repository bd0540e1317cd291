"""Random graphs of our nodes on the toy model: sound ones, and some with a fault that must be told plainly."""

from __future__ import annotations

import json
from random import Random
from typing import Any

from graphs import CHARACTER, STYLE, Prompt

LORAS = (
    STYLE,
    CHARACTER,
    "loom_toy_style_careless.safetensors",
    "loom_toy_character_careless.safetensors",
)
BLOCKS = (
    "",
    "IN*=0",
    "OUT*=0.5\nM00=0",
    "IN03.attn=0.2",
    "SD-MIDD",
    "1,1,1,1,1,1,1,0,0,0,0,0,0,0,0,0,0",
    "IN99=0",
)
SCHEDULES = ("", "0@0,1@0.5", "start=0.25:stop=0.75", "0.5@0,1@1:curve=cosine", "soon")
METHODS = (
    "svd",
    "concat",
    "ties",
    "dare_linear",
    "della",
    "slerp",
    "karcher",
    "knots_ties",
    "orthogonal",
    "zipper",
)


class Drawn:
    """One graph under construction. info: the host's /object_info."""

    def __init__(self, info: dict[str, Any], random: Random) -> None:
        self.info, self.random = info, random
        self.prompt: Prompt = {}

    def add(self, kind: str, **inputs: Any) -> str:
        """A node with these inputs, and the defaults of the others that it requires."""
        required = self.info[kind]["input"].get("required", {})
        values = {}
        for name, spec in required.items():
            options = spec[1] if len(spec) > 1 else {}
            if isinstance(spec[0], list):
                values[name] = options.get("default", spec[0][0])
            elif "default" in options:
                values[name] = options["default"]
        key = str(len(self.prompt) + 1)
        self.prompt[key] = {"class_type": kind, "inputs": values | inputs}
        return key

    def maybe(self, chance: float) -> bool:
        return self.random.random() < chance

    def strength(self) -> float:
        return self.random.choice((-0.5, 0.0, 0.3, 0.8, 1.0, 1.5))

    def row(self) -> dict[str, Any]:
        row: dict[str, Any] = {"lora": self.random.choice(LORAS), "model": self.strength()}
        if self.maybe(0.5):
            row["clip"] = self.strength()
        if self.maybe(0.3):
            row["blocks"] = self.random.choice(BLOCKS)
        if self.maybe(0.3):
            row["schedule"] = self.random.choice(SCHEDULES)
        if self.maybe(0.05):
            row["lora"] = "nowhere.safetensors"
        if self.maybe(0.05):
            row["sha256"] = "0" * 64
        return row


def random_graph(info: dict[str, Any], seed: int) -> Prompt:
    """A checkpoint, LoRAs through some of our nodes, and a small picture. The same for the same seed."""
    drawn = Drawn(info, Random(seed))
    checkpoint = drawn.add("CheckpointLoaderSimple", ckpt_name="loom_toy.safetensors")
    model, clip = _loaded(drawn, checkpoint)
    _picture(drawn, model, clip, checkpoint)
    return drawn.prompt


def _loaded(drawn: Drawn, checkpoint: str) -> tuple[list[Any], list[Any]]:
    """MODEL and CLIP behind LoRAs, by one of the ways that the pack has."""
    model, clip = [checkpoint, 0], [checkpoint, 1]
    if drawn.maybe(0.2):
        one = drawn.add(
            "LoomLoader", model=model, clip=clip, lora_name=drawn.random.choice(LORAS),
            strength_model=drawn.strength(), strength_clip=drawn.strength(),
        )  # fmt: skip
        return [one, 0], [one, 1]
    stack = [_stack(drawn), 2]
    if drawn.maybe(0.2):
        text = f"red <lora:{drawn.random.choice(LORAS).removesuffix('.safetensors')}:{drawn.strength()}>"
        stack = [drawn.add("LoomTags", text=text, lora_stack=stack), 0]
    if drawn.maybe(0.3):
        blocks = drawn.random.choice(BLOCKS)
        stack = [
            drawn.add("LoomBlocks", lora_stack=stack, blocks=blocks, model=model, clip=clip),
            0,
        ]
    if drawn.maybe(0.3):
        schedule = drawn.random.choice(SCHEDULES)
        stack = [drawn.add("LoomSchedule", lora_stack=stack, schedule=schedule), 0]
    if drawn.maybe(0.2):
        drawn.add("LoomInspect", lora_name="[the LORA_STACK input]", lora_stack=stack, model=model)
    mode = drawn.random.choice(("auto", "baked", "live"))
    if drawn.maybe(0.3):
        merged = _merged(drawn, stack, model, clip)
        used = drawn.add("LoomStack", rows="", model=model, clip=clip, lora_model=merged, mode=mode)
    else:
        used = drawn.add("LoomApply", model=model, clip=clip, lora_stack=stack, mode=mode)
    return [used, 0], [used, 1]


def _stack(drawn: Drawn) -> str:
    rows = json.dumps([drawn.row() for _ in range(drawn.random.randint(0, 4))])
    return drawn.add("LoomStack", rows=rows[:-1] if drawn.maybe(0.03) else rows)


def _merged(drawn: Drawn, stack: list[Any], model: list[Any], clip: list[Any]) -> list[Any]:
    keep = drawn.random.choice(("all", "rank", "energy"))
    method = drawn.random.choice(METHODS)
    merged = drawn.add(
        "LoomMerge", lora_stack=stack, model=model, clip=clip, method=method, keep=keep, rank=4
    )
    if drawn.maybe(0.4):
        merged = drawn.add(
            "LoomResize",
            lora_name="[the LORA_MODEL input]",
            lora_model=[merged, 0],
            keep="rank",
            rank=2,
        )
    return [merged, 0]


def _picture(drawn: Drawn, model: list[Any], clip: list[Any], checkpoint: str) -> None:
    positive = drawn.add("CLIPTextEncode", clip=clip, text="ohwx zwx on a dark ground")
    negative = drawn.add("CLIPTextEncode", clip=clip, text="")
    latent = drawn.add("EmptyLatentImage", width=64, height=64, batch_size=1)
    sampled = drawn.add(
        "KSampler", model=model, positive=[positive, 0], negative=[negative, 0], latent_image=[latent, 0],
        steps=drawn.random.randint(1, 5), seed=drawn.random.randint(0, 99),
    )  # fmt: skip
    decoded = drawn.add("VAEDecode", samples=[sampled, 0], vae=[checkpoint, 2])
    drawn.add("PreviewImage", images=[decoded, 0])
