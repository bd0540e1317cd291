"""A dataset in words: what will be trained on, what is doubtful, and every caption as it is taught."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from .captions import plain_caption
from .checks import Finding
from .dataset import LEAST_FOR_VALIDATION, Dataset
from .samples import Plan


def dataset_report(plan: Plan, found: Sequence[Finding]) -> str:
    """The whole report as text, one fact a line."""
    dataset = plan.dataset
    lines = [
        _numbers(plan),
        _validation(dataset),
        _buckets(plan),
        *([_captions(dataset)] if dataset.settings.trigger.strip() else []),
        *(f"note: {note}" for note in dataset.notes),
        f"checks: {_heading(found)}",
        *(f"* {finding.text()}" for finding in found),
        "captions as they are taught (edit one in the captions widget as 'file name: caption'):",
        *(
            f"{image.name}: {plain_caption(image, dataset.settings)}{_asides(dataset, index)}"
            for index, image in enumerate(dataset.images)
        ),
    ]
    return "\n".join(lines)


def _numbers(plan: Plan) -> str:
    dataset = plan.dataset
    concept = len(dataset.training) + len(dataset.validation)
    parts = [f"{concept} pictures", f"{len(plan.sample_images)} samples an epoch"]
    if dataset.regularisation:
        parts.insert(1, f"{len(dataset.regularisation)} regularisation pictures")
    masked = sum(
        image.mask is not None or image.measures.has_alpha
        for image in dataset.images
        if dataset.settings.masks != "off"
    )
    if masked:
        parts.append(f"{masked} with a mask on the loss")
    return ", ".join(parts)


def _validation(dataset: Dataset) -> str:
    if dataset.validation:
        names = ", ".join(dataset.images[i].name for i in dataset.validation)
        return f"held out for validation: {names}"
    if dataset.settings.validation:
        return f"held out for validation: none; with {LEAST_FOR_VALIDATION} different pictures or more, some are"
    return "held out for validation: none"


def _buckets(plan: Plan) -> str:
    counts = Counter(placement.bucket for placement in plan.placements)
    listed = ", ".join(f"{w} x {h} ({count})" for (w, h), count in sorted(counts.items()))
    return f"buckets, with their pictures: {listed}"


def _captions(dataset: Dataset) -> str:
    return f"trigger: {dataset.settings.trigger.strip()}, template: {dataset.settings.template}"


def _heading(found: Sequence[Finding]) -> str:
    if not found:
        return "nothing doubtful"
    return f"{len(found)} finding{'s' if len(found) > 1 else ''}"


def _asides(dataset: Dataset, index: int) -> str:
    image = dataset.images[index]
    asides = []
    if image.repeats > 1:
        asides.append(f"{image.repeats} repeats")
    if image.regularisation:
        asides.append("regularisation")
    if index in dataset.held_out:
        asides.append("held out")
    return f" [{', '.join(asides)}]" if asides else ""
