"""Pictures and captions through the graph's VAE and CLIP, once: the batches of a training."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import comfy.sd1_clip
import comfy.sdxl_clip
import torch

from ..errors import TrainError
from ..train.cache import Store, latent_key, once, text_key
from ..train.captions import taught_caption
from ..train.counters import number_of
from ..train.loop import TrainBatch
from ..train.pieces import own_part
from ..train.pixels import bucket_pixels, bucket_weight
from ..train.samples import Plan, Sample

# Elements of each weight that a fingerprint looks at: enough that no two models are alike, and quick for large ones.
_LOOKED_AT = 512
# SD1.5's and SDXL's CLIP-L has no text projection in its files, and nothing of what it would give is used. The host makes
# room for one and leaves there what the memory held: other numbers at each start.
_WITHOUT_PROJECTION = (comfy.sd1_clip.SD1ClipModel, comfy.sdxl_clip.SDXLClipModel)
_PROJECTION = "clip_l.transformer.text_projection."


@dataclass(frozen=True, eq=False)
class Encoders:
    """The graph's VAE and CLIP, how the model wants its latents, and where what they made is kept.

    vae_id, clip_id: fingerprints of their weights and settings. text_learns: the text encoders are trained, so that
    captions are encoded anew at every step, by predict.
    """

    vae: Any
    clip: Any
    process_in: Callable[[torch.Tensor], torch.Tensor]
    device: torch.device
    store: Store
    vae_id: str
    clip_id: str
    text_learns: bool = False


def clip_fingerprint(clip: Any) -> str:
    """The fingerprint of what a CLIP says: its weights but for those that no file has, its layer and its tokenizers."""
    inner = clip.cond_stage_model
    unused = _PROJECTION if isinstance(inner, _WITHOUT_PROJECTION) else None
    return fingerprint(inner, clip.layer_idx, clip.tokenizer_options, unused=unused)


def fingerprint(module: torch.nn.Module, *facts: object, unused: str | None = None) -> str:
    """sha256 of names, shapes, dtypes and a sample of the numbers of a module's state, and of further facts.

    Patches that the host puts on as it computes, and not into the weights (low memory, dynamic memory), count too.
    unused: weights whose names begin so are left out.
    """
    digest = hashlib.sha256(repr(facts).encode())
    for name, tensor in module.state_dict().items():
        if unused is not None and name.startswith(unused):
            continue
        digest.update(name.encode())
        _tell(tensor, digest)
    for name, layer in module.named_modules():
        for patch in _patches_at_use(layer):
            digest.update(f" {name} {patch.key}".encode())
            _tell(patch.patches.get(patch.key), digest)
    return digest.hexdigest()


def _patches_at_use(layer: Any) -> Iterator[Any]:
    """What of a layer's functions is the host's patch of a weight: it has a key and patches."""
    for part in ("weight", "bias"):
        found = [*(getattr(layer, f"{part}_function", None) or ())]
        found.append(getattr(layer, f"{part}_lowvram_function", None))
        yield from (each for each in found if hasattr(each, "patches") and hasattr(each, "key"))


def _tell(value: Any, digest: Any) -> None:
    """A patch as it lies in the host's lists: tensors within tuples and adapters, numbers, names."""
    if isinstance(value, torch.Tensor):
        digest.update(f" {tuple(value.shape)} {value.dtype};".encode())
        flat = own_part(value.detach()).reshape(-1)
        some = flat[:: max(1, flat.numel() // _LOOKED_AT)].contiguous().cpu()
        digest.update(some.view(torch.uint8).numpy().tobytes())
    elif isinstance(value, tuple | list):
        digest.update(f"[{len(value)}".encode())
        for each in value:
            _tell(each, digest)
    elif isinstance(value, str | int | float | None):
        digest.update(repr(value).encode())
    else:
        digest.update(type(value).__name__.encode())
        _tell(getattr(value, "weights", None), digest)


def batch_of(plan: Plan, samples: tuple[Sample, ...], encoders: Encoders) -> TrainBatch:
    """A batch on the model's device; what VAE and CLIP made comes from the store where it is there already."""
    latents = torch.stack([latent_of(plan, sample, encoders) for sample in samples])
    masks = masks_of(plan, samples, latents)
    return TrainBatch(
        latents.to(encoders.device),
        tuple(_conditioning(plan, sample, encoders) for sample in samples),
        torch.tensor([sample.weight for sample in samples]),
        tuple((sample.number, sample.epoch) for sample in samples),
        None if masks is None else masks.to(encoders.device),
    )


def validation_batches(plan: Plan, encoders: Encoders) -> list[TrainBatch]:
    """The held-out pictures, one a batch."""
    return [batch_of(plan, (sample,), encoders) for sample in validation_samples(plan)]


def validation_samples(plan: Plan) -> list[Sample]:
    """The held-out pictures, centred and with their whole caption."""
    whole = plan.dataset.with_settings(dropout=0.0, shuffle=False).settings
    found = []
    for place, index in enumerate(plan.dataset.validation):
        image = plan.dataset.images[index]
        caption = taught_caption(image, whole, place, 0)
        found.append(Sample(-1 - place, index, 0, 0.5, False, caption, 1.0))
    return found


def encode_all(plan: Plan, encoders: Encoders, advance: Callable[[int], None]) -> None:
    """Fill the store with every picture and its first caption, so that the encoders are done before training begins."""
    samples = [plan.sample(number, 0) for number in range(len(plan.sample_images))]
    for done, sample in enumerate(samples, 1):
        latent_of(plan, sample, encoders)
        _conditioning(plan, sample, encoders)
        advance(done)


def latent_of(plan: Plan, sample: Sample, encoders: Encoders) -> torch.Tensor:
    """(channels, ...) float32 in the model's own scale, on the CPU."""
    image, placement = plan.dataset.images[sample.image], plan.placements[sample.image]
    key = latent_key(image, placement, sample.place, sample.mirrored, encoders.vae_id)

    def encode() -> Mapping[str, torch.Tensor]:
        pixels = bucket_pixels(image, placement, sample.place, sample.mirrored)[None]
        # Some VAEs draw from their distribution: by the key, and the host's own random state stays as it is.
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(number_of("vae", key))
            return {"samples": encoders.vae.encode(pixels)}

    latent = _ordinary(once(encoders.store, key, encode)["samples"]).float()
    if not bool(torch.isfinite(latent).all()):
        raise TrainError(
            f"{image.name}: the VAE made NaN of it. Run the VAE in float32 (--fp32-vae)."
        )
    return encoders.process_in(latent)[0]


def _conditioning(plan: Plan, sample: Sample, encoders: Encoders) -> dict[str, Any]:
    """The text's tensors under the host's names, or its words where the encoders learn; and SDXL's sizes."""
    if encoders.text_learns:
        return {"caption": sample.caption} | sizes_of(plan, sample)
    known = text_of(sample.caption, encoders)
    said: dict[str, Any] = {name: value.to(encoders.device) for name, value in known.items()}
    said["cross_attn"] = said.pop("cond")
    return said | sizes_of(plan, sample)


def text_of(caption: str, encoders: Encoders) -> dict[str, torch.Tensor]:
    """What the CLIP makes of a caption, by the host's names, on the CPU. Raises TrainError: see encoded_text."""

    def encode() -> Mapping[str, torch.Tensor]:
        with torch.no_grad():
            return encoded_text(encoders.clip, caption)

    known = once(encoders.store, text_key(caption, encoders.clip_id), encode)
    return {name: _ordinary(value) for name, value in known.items()}


def encoded_text(clip: Any, caption: str) -> dict[str, torch.Tensor]:
    """What the CLIP makes of a caption, by the host's names. Raises TrainError where that is more than tensors."""
    made = clip.encode_from_tokens(clip.tokenize(caption), return_pooled=True, return_dict=True)
    named = {name: value for name, value in made.items() if value is not None}
    odd = [name for name, value in named.items() if not isinstance(value, torch.Tensor)]
    if odd:
        raise TrainError(
            f"The text encoder gives {', '.join(odd)} besides tensors, which training cannot keep. "
            "Remove hooks and schedules from CLIP."
        )
    return named


def sizes_of(plan: Plan, sample: Sample) -> dict[str, int]:
    """What SDXL is told of a picture: its size before all, where its cut begins in the resized picture, the bucket."""
    placement = plan.placements[sample.image]
    (width, height), (wide, high) = placement.resized, placement.bucket
    left, top = (round(edge * placement.scale) for edge in placement.box(sample.place)[:2])
    size = plan.dataset.images[sample.image].measures.size
    return {
        "width": size[0],
        "height": size[1],
        "crop_w": max(0, width - wide - left) if sample.mirrored else left,
        "crop_h": min(top, height - high),
        "target_width": wide,
        "target_height": high,
    }


def masks_of(plan: Plan, samples: tuple[Sample, ...], latents: torch.Tensor) -> torch.Tensor | None:
    """(batch, 1, ...) of the latents' height and width; None where no sample has one."""
    settings, made = plan.dataset.settings, []
    for sample in samples:
        image, placement = plan.dataset.images[sample.image], plan.placements[sample.image]
        made.append(bucket_weight(image, placement, settings, sample.place, sample.mirrored))
    if all(mask is None for mask in made):
        return None
    height, width = latents.shape[-2:]
    whole = torch.ones(height, width)
    areas = [whole if m is None else _shrunk(m, height, width) for m in made]
    ones = [1] * (latents.ndim - 4)
    return torch.stack(areas).view(len(areas), 1, *ones, height, width)


def _shrunk(mask: torch.Tensor, height: int, width: int) -> torch.Tensor:
    return torch.nn.functional.interpolate(mask[None, None], size=(height, width), mode="area")[
        0, 0
    ]


def _ordinary(tensor: torch.Tensor) -> torch.Tensor:
    """Backward cannot save what was made under inference mode; a copy outside it, it can."""
    return tensor.clone() if tensor.is_inference() else tensor
