"""A training of the graph as a job: everything is encoded once and written, then VAE and text encoder are done."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from ..errors import TrainError
from ..train.export import metadata_before
from ..train.job import TrainJob, layers_of, write_job, write_pieces, write_start
from ..train.job_data import ORDER, SIZES, Showing, order_of
from ..train.preserve import preserving_texts, shown_at
from ..train.samples import Plan, Sample
from ..train.settings import TrainSettings
from .job_base import Prompt, base_of, changed_weights, pack_version
from .progress import progress_of
from .training_branches import Branches
from .training_data import (
    Encoders,
    encoded_text,
    latent_of,
    masks_of,
    sizes_of,
    text_of,
    validation_samples,
)
from .training_results import Job

Pieces = dict[str, torch.Tensor]


@dataclass
class _Places:
    """Where variants of pictures and captions are among the job's pieces: each is kept once."""

    pictures: dict[tuple[int, float, bool], Sample] = field(default_factory=dict)
    texts: dict[str, int] = field(default_factory=dict)
    numbers: dict[tuple[int, float, bool], int] = field(default_factory=dict)

    def showing(self, sample: Sample, preserved: bool) -> Showing:
        variant = (sample.image, sample.place, sample.mirrored)
        self.pictures.setdefault(variant, sample)
        return Showing(
            self.numbers.setdefault(variant, len(self.numbers)),
            self.texts.setdefault(sample.caption, len(self.texts)),
            sample.number,
            sample.epoch,
            preserved,
            sample.weight,
        )


def check_job(settings: TrainSettings) -> None:
    """Raises TrainError for what a job cannot do."""
    if settings.text_rate:
        raise TrainError(
            "A job runs without text encoders, and text_rate asks to train them. Set text_rate to 0, or train here."
        )


def write_training(
    model: Any,
    encoders: Encoders,
    job: Job,
    branches: Callable[[], Branches],
    prompt: Prompt | None,
    node: str | None,
) -> Path:
    """Write the job into its folder; returns the model's file. Raises LoraError; then there is no job.

    MODEL is loaded. branches: makes what learns, before step 1.
    """
    base, path = base_of(model, prompt, node)
    weights = changed_weights(model)
    plan, settings = job.plan, job.settings
    texts, places = preserving_texts(plan, settings), _Places()
    batches = []
    for number in range(settings.steps * settings.accumulate):
        shown = shown_at(plan, settings, texts, number)
        batches.append([places.showing(*each) for each in zip(*shown, strict=True)])
    held = [places.showing(sample, False) for sample in validation_samples(plan)]
    table = [
        [sizes_of(plan, sample)[name] for name in SIZES] for sample in places.pictures.values()
    ]
    order = order_of(batches, held, table)
    entries = _entries(plan, encoders, job, places, weights)
    written = write_pieces(chain([(ORDER, order.tensors())], entries), job.folder)
    made = branches().all
    title = job.name.replace("\\", "/").split("/")[-1]
    write_job(
        TrainJob(
            job.key, title, settings, base, layers_of(made), len(plan.dataset.training), plan.steps_per_epoch,
            job.prompts, job.samples.name, metadata_before(plan, settings, job.base, title),
            (*written, write_start(made, job.folder)), pack_version(),
        ),
        job.folder,
    )  # fmt: skip
    return path


def _entries(
    plan: Plan, encoders: Encoders, job: Job, places: _Places, weights: Pieces
) -> Iterator[tuple[str, Pieces]]:
    """Every piece by its name, encoded when it is asked for, under the node's bar."""
    prompts = [*job.prompts, ""] if job.prompts else []
    total = len(places.pictures) + len(places.texts) + len(prompts)
    advance, done = progress_of(total), 0
    for place, sample in enumerate(places.pictures.values()):
        latent = latent_of(plan, sample, encoders).detach().cpu()
        mask = masks_of(plan, (sample,), latent[None])
        yield f"picture/{place}", {"latent": latent} | ({} if mask is None else {"mask": mask[0]})
        advance(done := done + 1)
    for caption, place in places.texts.items():
        yield f"text/{place}", text_of(caption, encoders)
        advance(done := done + 1)
    for place, prompt in enumerate(prompts):
        with torch.no_grad():
            said = encoded_text(encoders.clip, prompt)
        yield (
            f"prompt/{place}",
            {name: value.detach().cpu().clone() for name, value in said.items()},
        )
        advance(done := done + 1)
    for name, value in weights.items():
        yield name, {"value": value}
