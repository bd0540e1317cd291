"""Trained branches -> a LoRA in kohya's naming, with what trainers write about it in the metadata."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import torch

from ..files.convert import convert
from ..files.parse import parse_state_dict
from ..files.schemes import KOHYA
from ..targets import TargetMap
from .adapters import Branch, state_dict_of
from .samples import Plan
from .settings import TrainSettings

_PREFIX, _TEXT_PREFIX = "diffusion_model.", "text_encoders."
# The model spec's names of the families that it knows, and sd-scripts' own.
_ARCHITECTURES = {
    "SD1.5": ("stable-diffusion-v1", "sd_v1"),
    "SD2": ("stable-diffusion-v2-768-v", "sd_v2"),
    "SDXL": ("stable-diffusion-xl-v1-base", "sdxl_base_v1-0"),
    "SD3": ("stable-diffusion-3-medium", "sd3_m"),
    "Flux": ("flux-1-dev", "flux1"),
}


@dataclass(frozen=True)
class Outcome:
    """What the metadata tell of a run besides its settings. validation: of the weights that are kept."""

    steps: int
    loss: float
    validation: float | None = None


def lora_of(
    branches: Sequence[Branch],
    weights: Sequence[torch.Tensor],
    targets: TargetMap,
    text: Sequence[Branch] = (),
    clip: TargetMap | None = None,
) -> dict[str, torch.Tensor]:
    """The state dict in kohya's naming, float32 on the CPU. targets, clip: of the MODEL and CLIP that were trained.

    weights: of the branches and then of text, those of the text encoders. Raises LoraKeyError where the host has no
    name for a layer that was trained.
    """
    count = sum(len(branch.factors) for branch in branches)
    tensors = state_dict_of(branches, weights[:count], _PREFIX)
    tensors |= state_dict_of(text, weights[count:], _TEXT_PREFIX)
    adapter = parse_state_dict(tensors, "the trained LoRA")
    return dict(convert(tensors, adapter, KOHYA, targets, clip).tensors)


def metadata_of(
    plan: Plan, settings: TrainSettings, outcome: Outcome, base: str | None, title: str
) -> dict[str, str]:
    """ss_* as sd-scripts writes them, and modelspec.*; the same run gives the same text, so no dates."""
    asked = metadata_before(plan, settings, base, title)
    return with_outcome(asked, settings, plan.steps_per_epoch, outcome)


def with_outcome(
    asked: Mapping[str, str], settings: TrainSettings, steps_per_epoch: int, outcome: Outcome
) -> dict[str, str]:
    """The metadata of before the run, and how it went."""
    went = {
        "ss_steps": str(outcome.steps),
        "ss_epoch": str(-(-outcome.steps * settings.accumulate // steps_per_epoch)),
        "ss_loss": str(outcome.loss),
    }
    if outcome.validation is not None:
        went["ss_validation_loss"] = str(outcome.validation)
    return dict(sorted({**asked, **went}.items()))


def metadata_before(
    plan: Plan, settings: TrainSettings, base: str | None, title: str
) -> dict[str, str]:
    """All of the metadata that is known before step 1."""
    data, wish = plan.dataset.settings, settings.objective
    architecture, version = _ARCHITECTURES.get(
        base or "", ((base or "unknown").lower(), base or "")
    )
    said: Mapping[str, object] = {
        "ss_network_module": "networks.lora" if settings.family == "LoRA" else "lycoris.kohya",
        "ss_network_args": _network_args(settings),
        "ss_network_dim": settings.rank,
        "ss_network_alpha": settings.alpha,
        "ss_base_model_version": version,
        "ss_output_name": title,
        "ss_learning_rate": settings.rate,
        "ss_unet_lr": settings.rate,
        "ss_text_encoder_lr": settings.rate * settings.text_rate,
        "ss_optimizer": settings.optimizer,
        "ss_loraplus_lr_ratio": settings.plus_ratio if settings.plus_ratio != 1 else "",
        "ss_gradient_checkpointing": settings.checkpointing,
        "ss_lr_scheduler": settings.schedule,
        "ss_lr_warmup_steps": round(settings.warmup * settings.steps),
        "ss_max_train_steps": settings.steps,
        "ss_batch_size_per_device": settings.batch_size,
        "ss_gradient_accumulation_steps": settings.accumulate,
        "ss_max_grad_norm": settings.clip,
        "ss_min_snr_gamma": wish.min_snr if wish.weighting == "min-SNR" else "",
        "ss_noise_offset": wish.noise_offset,
        "ss_seed": settings.seed,
        "ss_num_train_images": len(plan.dataset.training),
        "ss_num_reg_images": len(plan.dataset.regularisation),
        "ss_num_validation_images": len(plan.dataset.validation),
        "ss_resolution": f"({data.resolution}, {data.resolution})",
        "ss_caption_dropout_rate": data.dropout,
        "ss_enable_bucket": True,
        "ss_tag_frequency": json.dumps({"training": _tags(plan)}),
        "ss_bucket_info": json.dumps(_buckets(plan)),
        "loom_train_settings": json.dumps(asdict(settings), sort_keys=True),
        "loom_dataset_sha256": plan.dataset.fingerprint,
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": f"{architecture}/lora",
        "modelspec.implementation": "https://github.com/Stability-AI/generative-models",
        "modelspec.title": title,
        "modelspec.trigger_phrase": data.trigger,
        "modelspec.resolution": f"{data.resolution}x{data.resolution}",
    }
    return {key: str(value) for key, value in said.items() if value != ""}


def _network_args(settings: TrainSettings) -> str:
    """What LyCORIS is told of the family; nothing for a LoRA."""
    said = {
        "LoRA": {},
        "DoRA": {"algo": "locon", "dora_wd": "True", "wd_on_output": "False"},
        "LoHa": {"algo": "loha"},
        "LoKr": {"algo": "lokr", "factor": str(settings.kron_block or -1)},
    }[settings.family]
    return json.dumps(said) if said else ""


def _tags(plan: Plan) -> dict[str, int]:
    """How many pictures carry each comma-separated tag."""
    images = plan.dataset.images
    tags = Counter(
        tag.strip()
        for index in plan.dataset.training
        for tag in images[index].caption.split(",")
        if tag.strip()
    )
    return dict(sorted(tags.items()))


def _buckets(plan: Plan) -> dict[str, object]:
    found = {
        str(place): {"resolution": list(bucket), "count": len(numbers)}
        for place, (bucket, numbers) in enumerate(plan.buckets.items())
    }
    return {"buckets": found}
