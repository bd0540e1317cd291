"""Module names in other schemes: what kohya, diffusers and ComfyUI call the same weight.

With a model the host's key map decides: every name of a weight that is known stands in it. Without one only what is
pure spelling can be said: dots for underscores in one direction, and the layers of the CLIP text encoders.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ..targets import Target, TargetMap
from .naming import candidate_names, is_text_encoder

KEEP, KOHYA, PEFT, COMFY = "keep", "kohya", "diffusers / PEFT", "ComfyUI"
SCHEMES = (KEEP, KOHYA, PEFT, COMFY)

# kohya's scripts name the first two families as diffusers does and all later ones as the original weights.
_KOHYA_AS_DIFFUSERS = {"SD1.5", "SD2"}
_PREFIXES = {
    KOHYA: ("lora_unet_", "lora_te"),
    PEFT: ("unet.", "transformer.", "text_encoder"),
    COMFY: ("diffusion_model.", "text_encoders."),
}
_CLIP_LAYER = re.compile(
    r"^(?:lora_te(?P<index>\d?)_|text_encoders\.clip_(?P<letter>[lg])\.transformer\.)"
    r"text_model[._]encoder[._]layers[._](?P<layer>\d+)[._]"
    r"(?P<block>self_attn|mlp)[._](?P<last>[qkv]_proj|out_proj|fc[12])$"
)


@dataclass(frozen=True)
class Place:
    """Where a module's tensors go: the new name, and which rows of the weight the name speaks of.

    rows: (start, length) among the rows of the module, None for all of them.
    rearranged: the rows have another order there; the target's own function says which.
    """

    name: str
    rows: tuple[int, int] | None = None
    rearranged: Target | None = None


@dataclass(frozen=True)
class Names:
    """The names of one scheme. model, clip: None where there is no such model to ask.

    paired: whether the LoRA has a second text encoder, which numbers the first.
    spoken: part ("model" or "clip") -> weight or slice -> its name in the scheme.
    """

    scheme: str
    model: TargetMap | None
    clip: TargetMap | None
    paired: bool
    spoken: Mapping[str, Mapping[Target, str]] = field(default_factory=dict)

    @classmethod
    def of(
        cls, scheme: str, modules: Iterable[str], model: TargetMap | None, clip: TargetMap | None
    ) -> Names:
        paired = any(
            re.match(r"lora_te2_|text_encoder_2\.|text_encoders\.clip_g", m) for m in modules
        )
        spoken = {
            part: _spoken(scheme, targets)
            for part, targets in (("model", model), ("clip", clip))
            if targets is not None
        }
        return cls(scheme, model, clip, paired, spoken)

    def target(self, module: str) -> Target | None:
        """The weight that a module of any scheme speaks of; None without a model that has it."""
        targets = self.clip if is_text_encoder(module) else self.model
        if targets is None:
            return None
        found = (targets.find(name) for name in candidate_names(module))
        return next((t for t in found if t is not None and targets.shape_of(t) is not None), None)

    def places(self, module: str) -> tuple[Place, ...]:
        """Where the module goes in this scheme; several where one weight has names only for its slices; else ()."""
        target = self.target(module)
        if target is None:
            name = _textual(self.scheme, module, self.paired)
            return () if name is None else (Place(name),)
        if self.scheme != PEFT and module.startswith(_PREFIXES[self.scheme]):
            return (Place(module),)
        spoken = self.spoken["clip" if is_text_encoder(module) else "model"]
        if target in spoken:
            return (Place(spoken[target]),)
        for other, name in spoken.items():
            if (other.key, other.offset) == (target.key, target.offset):
                return (Place(name, rearranged=target if target.function else other),)
        return _slices(target, spoken, self.model if not is_text_encoder(module) else self.clip)

    def whole(self, target: Target) -> str | None:
        """The name of the whole weight that a slice belongs to, where this scheme has one."""
        for spoken in self.spoken.values():
            if (name := spoken.get(Target(target.key))) is not None:
                return name
        return None


def _slices(
    target: Target, spoken: Mapping[Target, str], targets: TargetMap | None
) -> tuple[Place, ...]:
    """The named slices of a whole weight where together they are all of its rows."""
    shape = targets.shape_of(target) if targets is not None else None
    if target.offset is not None or target.function is not None or shape is None:
        return ()
    parts = sorted(
        (other.offset[1], other.offset[2], name)
        for other, name in spoken.items()
        if other.key == target.key and other.offset and other.offset[0] == 0 and not other.function
    )
    end = 0
    for start, length, _ in parts:
        if start != end:
            return ()
        end += length
    if end != shape[0]:
        return ()
    return tuple(Place(name, (start, length)) for start, length, name in parts)


def _spoken(scheme: str, targets: TargetMap) -> dict[Target, str]:
    """Target -> its best name in the scheme."""
    ranked: dict[Target, tuple[int, str]] = {}
    for name, target in targets.names.items():
        rank = _rank(scheme, name, target, targets)
        if rank is not None and (target not in ranked or rank < ranked[target][0]):
            ranked[target] = (rank, name)
    if scheme == PEFT and not ranked and targets.names.keys() & _native(targets):
        # No diffusers names: trainers write PEFT files of these models under the original names, which all read.
        return _spoken(COMFY, targets)
    finish = modern if scheme == PEFT else str
    return {target: finish(name) for target, (_, name) in ranked.items()}


def _native(targets: TargetMap) -> set[str]:
    return {
        key.removesuffix(".weight") for key in targets.shapes if key.startswith("diffusion_model.")
    }


def _rank(scheme: str, name: str, target: Target, targets: TargetMap) -> int | None:
    """How well a name of the host's map serves the scheme, smaller is better; None where it is not of the scheme."""
    if not name.startswith(_PREFIXES[scheme]):
        return None
    bare = target.key.removesuffix(".weight")
    if scheme == COMFY:
        return 0 if name in (bare, f"text_encoders.{bare}") else None
    if scheme == PEFT:
        return None if name.startswith("text_encoders.") else 0
    if name.startswith("lora_te"):
        return _rank_text_encoder(name, bare, targets)
    native = name == "lora_unet_" + bare.removeprefix("diffusion_model.").replace(".", "_")
    return int(native == (targets.base in _KOHYA_AS_DIFFUSERS))


def _rank_text_encoder(name: str, bare: str, targets: TargetMap) -> int:
    """kohya writes lora_te_ for one text encoder, lora_te1_ and lora_te2_ for two, lora_te3_ for T5."""
    if bare.startswith("t5"):
        return int(not name.startswith("lora_te3_"))
    several = any(other.startswith(("lora_te2_", "lora_te3_")) for other in targets.names)
    return int(name.startswith("lora_te_") == several)


def modern(name: str) -> str:
    """Today's diffusers spelling of a module that old versions wrapped in attention processors."""
    name = name.replace(".processor.to_", ".to_")
    return f"{name}.0" if name.endswith(".to_out") else name


def _textual(scheme: str, module: str, paired: bool) -> str | None:
    """The name by spelling alone, None where only the model could tell."""
    bare = module.removeprefix("base_model.model.")
    layer = _CLIP_LAYER.match(bare)
    if scheme == COMFY:
        return bare if bare.startswith(_PREFIXES[COMFY]) else None
    if scheme == PEFT:
        if layer:
            second = "_2" if layer["index"] == "2" or layer["letter"] == "g" else ""
            names = f"{layer['layer']}.{layer['block']}.{layer['last']}"
            known = layer["index"] in (None, "", "1", "2")
            return f"text_encoder{second}.text_model.encoder.layers.{names}" if known else None
        ours = bare.startswith(_PREFIXES[PEFT]) and not bare.startswith("text_encoders.")
        return modern(bare) if ours else None
    if bare.startswith(_PREFIXES[KOHYA]):
        return bare
    first = "lora_te1_" if paired else "lora_te_"
    for prefix, said in (
        ("unet.", "lora_unet_"),
        ("diffusion_model.", "lora_unet_"),
        ("text_encoder.", first),
        ("text_encoder_2.", "lora_te2_"),
        ("text_encoders.clip_l.transformer.", first),
        ("text_encoders.clip_g.transformer.", "lora_te2_"),
    ):
        if bare.startswith(prefix):
            return said + modern(bare).removeprefix(prefix).replace(".", "_")
    return None
