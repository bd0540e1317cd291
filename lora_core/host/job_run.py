"""A rank of a job: loads the frozen model, takes its share of every batch, and ends with the LoRA of them all."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..files.metadata_edit import edited
from ..files.writer import write_lora
from ..train import adapters
from ..train.curve import Curve
from ..train.export import lora_of, with_outcome
from ..train.job import JOB, STOP, TrainJob, check_files, read_job, read_start, sha256_of
from ..train.job_data import JobData
from ..train.loop import Predict, StepReport
from ..train.pieces import in_pieces, mesh_of
from ..train.ranks import Ranks, digest_of
from ..train.state import load_latest
from .job_base import check_base, find_base, load_base, versions
from .targets import model_targets
from .training_branches import Branches, attached
from .training_data import fingerprint
from .training_follow import Followed
from .training_results import RESULT, facts_of, outcome_of, store_result
from .training_run import Parts, load_whole, run_to_end
from .training_samples import Sampler, kept_as_latents
from .watching import Teller, watched

log = logging.getLogger(__name__)

# Lines of progress in a whole run.
_LINES = 100


@dataclass(frozen=True)
class Work:
    """What a rank is told when it is started. model: its file, where it is not found by name. pieces: over the ranks."""

    folder: Path
    model: Path | None = None
    pieces: bool = False


def run_job(work: Work, ranks: Ranks) -> Path | None:
    """Train the job to its end; the LoRA's file on rank 0, None on others and where the job was finished before.

    Raises LoraError on all ranks where one of them cannot begin; the frozen model is never changed.
    """
    with ranks.told():
        job = read_job(work.folder)
    ranks.refuse_unlike({"the job": sha256_of(work.folder / JOB), **versions()})
    if ranks.handed(not ranks.rank and _is_finished(work.folder)):
        log.info("the job is finished: %s", work.folder / RESULT)
        return None
    data, model = _ready(work, job, ranks)
    before = fingerprint(model.model.diffusion_model)
    with watched(None, job.settings.steps) as curve, torch.enable_grad():
        parts = _parts(work, job, data, model, ranks)
        told, said = run_to_end(parts, curve, Teller(None, curve))
    ranks.refuse(
        "" if fingerprint(model.model.diffusion_model) == before else "the frozen model changed"
    )
    if ranks.rank:
        return None
    (work.folder / STOP).unlink(missing_ok=True)
    said = f"{said}; trained by {ranks.world} processes"
    return _kept(work, job, model, parts.branches, told, curve, said)


def _ready(work: Work, job: TrainJob, ranks: Ranks) -> tuple[JobData, Any]:
    """The job's data and the model, checked on all ranks before step 1. Raises LoraError."""
    with ranks.told():
        # Once on each machine: the others read what it has looked at.
        if ranks.local == 0:
            check_files(job, work.folder)
            check_base(job.base, work.model)
    data = JobData(job, work.folder, _device())
    ranks.in_step = work.pieces and ranks.world > 1
    mesh = mesh_of(_device(), ranks.world) if ranks.in_step else None

    def load() -> Any:
        model = load_base(job.base, find_base(job.base, work.model), data)
        if mesh is not None:
            in_pieces(model.model.diffusion_model, mesh)
        return model

    model = ranks.in_turns(load)
    if job.settings.batch_size * job.settings.accumulate < ranks.world and ranks.rank == 0:
        log.warning(
            "%d pictures a step for %d processes: some of them have nothing to do. Raise batch_size or accumulate.",
            job.settings.batch_size * job.settings.accumulate,
            ranks.world,
        )
    return data, model


def _device() -> torch.device:
    import comfy.model_management

    return comfy.model_management.get_torch_device()


def _is_finished(folder: Path) -> bool:
    """Whether it ran to its end; one that was stopped goes on."""
    path = folder / RESULT
    if not path.is_file():
        return False
    import safetensors

    with safetensors.safe_open(path, framework="pt") as file:
        return not json.loads((file.metadata() or {})["loom_result"]).get("stopped")


def _parts(work: Work, job: TrainJob, data: JobData, model: Any, ranks: Ranks) -> Parts:
    settings, folder = job.settings, work.folder
    branches = Branches(tuple(read_start(job, folder, model.load_device)))
    parameters = adapters.parameters_of(branches.all)
    state = None
    with ranks.told():
        if ranks.rank == 0:
            # Of a run before, which is over.
            (folder / STOP).unlink(missing_ok=True)
            state = load_latest(folder, job.key)
    state = ranks.handed(state)
    step = (state.step if state else 0) * settings.accumulate
    trial = data.batch(min(step, len(data.order.first) - 2), ranks) or data.one(step)
    ranks.wish = (folder / STOP).is_file
    return Parts(
        model, None, branches, settings, lambda number: data.batch(number, ranks), trial, data.held_out(),
        job.pictures, job.steps_per_epoch, folder, job.key, state,
        None if ranks.rank or ranks.in_step else _sampler(job, data, model, branches, folder),
        stop=lambda: ranks.stopping,
        load=(lambda: None) if ranks.in_step else (lambda: load_whole(model, None)),
        ranks=ranks,
        around=lambda steps: _seen(steps, ranks, parameters, settings.saving_steps),
        predict=_one_by_one if ranks.in_step else lambda predict: predict,
    )  # fmt: skip


def _sampler(job: TrainJob, data: JobData, model: Any, branches: Branches, folder: Path) -> Sampler:
    """Makes latents of sample pictures; the graph's VAE makes the pictures of them."""
    places = {prompt: place for place, prompt in enumerate([*job.prompts, ""])}
    samples = folder / job.samples

    def say(prompt: str) -> Any:
        said = data.text(f"prompt/{places[prompt]}")
        return [[said.pop("cross_attn"), said]]

    shape = tuple(data.one(0).latents.shape)
    return Sampler(
        model, job.settings, job.prompts, shape, samples, lambda: attached(model, None, branches),
        adapters.parameters_of(branches.all), say, kept_as_latents(samples),
    )  # fmt: skip


def _one_by_one(predict: Predict) -> Predict:
    """Each sample by itself, so that all ranks ask a network in pieces as often; texts of unlike length go apart anyhow."""

    def each(noisy: torch.Tensor, sigmas: torch.Tensor, said: Any) -> torch.Tensor:
        found = [
            predict(noisy[n : n + 1], sigmas[n : n + 1], said[n : n + 1]) for n in range(len(noisy))
        ]
        return torch.cat(found)

    return each


def _seen(
    steps: Iterator[StepReport],
    ranks: Ranks,
    parameters: Sequence[torch.nn.Parameter],
    every: int,
) -> Iterator[StepReport]:
    """The reports, told to the terminal by rank 0; at each saved state all ranks must have the same adapter."""
    for report in steps:
        if report.step % every == 0 or report.is_last:
            ranks.refuse_apart(report.step, digest_of(parameters))
        due = report.step % max(1, report.steps // _LINES) == 0
        if due and not (report.is_last or ranks.rank):
            found = f", validation {report.validation:.4f}" if report.validation else ""
            log.info("step %d of %d: loss %.4f%s", report.step, report.steps, report.loss, found)
        yield report


def _kept(
    work: Work,
    job: TrainJob,
    model: Any,
    branches: Branches,
    told: Followed,
    curve: Curve,
    said: str,
) -> Path:
    """The result for the graph, and the finished file with its metadata beside it."""
    tensors = lora_of(branches.model, told.weights, model_targets(model))
    notes = [said, *told.notes]
    facts = facts_of(curve, told.stopped, notes, job.prompts, job.samples)
    path = work.folder / "lora" / f"{job.title}.safetensors"
    went = with_outcome(job.metadata, job.settings, job.steps_per_epoch, outcome_of(facts))
    write_lora(tensors, edited({}, json.dumps(went)), path, replace=True)
    store_result(work.folder, tensors, facts)
    return path
