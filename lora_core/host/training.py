"""What LoomTrain calls: MODEL, CLIP, VAE and a dataset -> a LoRA in memory and as a file. Jobs that are never lost."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.model_management
import folder_paths
import safetensors.torch
import torch

from ..analysis.draw import as_images
from ..errors import LoraFileError, TrainError
from ..files.reader import read_tensors
from ..files.writer import write_bytes
from ..train import adapters
from ..train.cache import DiskStore
from ..train.chart import loss_chart, running_mean
from ..train.dataset import Dataset
from ..train.export import Outcome, lora_of, metadata_of
from ..train.loop import StepReport, train
from ..train.samples import Plan
from ..train.settings import TrainSettings
from ..train.state import load_latest, save_state, states_in
from .paths import find_lora
from .progress import progress_of
from .saving import NO_FILE, NUMBER, SaveOrder, save_lora
from .targets import clip_targets, model_targets
from .training_branches import attached, branches_of
from .training_data import Encoders, batch_of, encode_all, fingerprint, validation_batches
from .training_model import noise_levels, ready

NEW = "[a new LoRA]"
# Raised when the same inputs would give another LoRA than before.
_FORMAT = 1
_CACHE_BYTES = 4 << 30


@dataclass(frozen=True, eq=False)
class TrainOrder:
    """What to train besides the sockets. name: of the file, as Loom Save takes it. existing: a LoRA to go on from, or NEW.

    resume: go on from the state of an interrupted run. retrain: train although this very job is finished.
    """

    settings: TrainSettings
    name: str
    existing: str = NEW
    resume: bool = True
    retrain: bool = False


@dataclass(frozen=True, eq=False)
class Trained:
    """tensors: for the LORA_MODEL socket. chart: (1, height, width, 3). name: as the loras list shows it."""

    tensors: dict[str, torch.Tensor]
    report: str
    chart: torch.Tensor
    name: str


@dataclass(frozen=True, eq=False)
class _Job:
    """One training: all that decides its outcome is in the key. folder: where its states and its result are kept."""

    key: str
    folder: Path
    plan: Plan
    order: TrainOrder
    base: str | None


def train_lora(model: Any, clip: Any, vae: Any, dataset: Dataset, order: TrainOrder) -> Trained:
    """Train on the graph's model, or give back at once what this very job gave before. MODEL stays as it is to the bit.

    The user's interrupt saves the state and goes on upwards. Raises LoraError before the first step where the inputs
    cannot be trained on.
    """
    _check(model, clip, vae, dataset)
    plan = Plan(dataset, order.settings.batch_size)
    clip.load_model()
    encoders = _encoders(model, clip, vae, bool(order.settings.text_rate))
    comfy.model_management.load_models_gpu([model])
    key = _key(fingerprint(model.model.diffusion_model), encoders, dataset, order)
    folder = Path(folder_paths.get_system_user_directory("lora_loom")) / "training" / key[:32]
    job = _Job(key, folder, plan, order, model_targets(model).base)
    done = None if order.retrain else _finished(job)
    return _train(model, encoders, job) if done is None else done


def _check(model: Any, clip: Any, vae: Any, dataset: Any) -> None:
    if not isinstance(dataset, Dataset):
        raise TrainError("dataset must come from Loom Dataset.")
    missing = [n for n, v in (("MODEL", model), ("CLIP", clip), ("VAE", vae)) if v is None]
    if missing:
        raise TrainError(
            f"Loom Train needs {', '.join(missing)}: connect the checkpoint loader's outputs."
        )


def _encoders(model: Any, clip: Any, vae: Any, text_learns: bool) -> Encoders:
    user = Path(folder_paths.get_system_user_directory("lora_loom"))
    clip_id = fingerprint(clip.cond_stage_model, clip.layer_idx, clip.tokenizer_options)
    return Encoders(
        vae,
        clip,
        model.model.process_latent_in,
        model.load_device,
        DiskStore(user / "training_cache", _CACHE_BYTES),
        fingerprint(vae.first_stage_model),
        clip_id,
        text_learns,
    )


def _key(model_id: str, encoders: Encoders, dataset: Dataset, order: TrainOrder) -> str:
    existing = ""
    if order.existing != NEW:
        existing = _sha256(find_lora(order.existing)[1])
    parts = (_FORMAT, model_id, encoders.vae_id, encoders.clip_id, dataset.fingerprint, existing)
    return hashlib.sha256(repr((*parts, order.settings)).encode()).hexdigest()


def _train(model: Any, encoders: Encoders, job: _Job) -> Trained:
    settings, plan = job.order.settings, job.plan
    levels = noise_levels(model.model.model_sampling)
    encode_all(plan, encoders, progress_of(len(plan.sample_images)))
    # Loading goes on in the host's own mode: it changes weights in place, which ordinary mode refuses.
    both = [model, encoders.clip.patcher] if settings.text_rate else [model]
    comfy.model_management.load_models_gpu(both)
    with ready(model, encoders.clip if settings.text_rate else None, settings) as predict:
        existing = None if job.order.existing == NEW else job.order.existing
        branches = branches_of(model, encoders.clip, settings, existing)
        state = load_latest(job.folder, job.key) if job.order.resume else None
        with attached(model, encoders.clip, branches):
            steps = train(
                predict,
                lambda number: batch_of(plan, plan.batch_at(number).samples, encoders),
                adapters.parameters_of(branches.all),
                levels,
                settings,
                validation_batches(plan, encoders),
                state,
                lambda kept: save_state(kept, job.folder, job.key, settings.keep),
                rates=adapters.rates_of(branches.all),
            )
            with closing(steps):
                reports, notes = _followed(steps, settings, state.facts if state else {})
    first = state.step if state else 0
    said = [_beginning(branches.all, model, plan, settings, first), *notes]
    names, words = model_targets(model), clip_targets(encoders.clip)
    made = lora_of(branches.model, reports.weights or (), names, branches.text, words)
    return _kept(job, made, reports, said)


@dataclass
class _Followed:
    """What the reports told. losses: from the very first step, also of the part before a resume."""

    losses: list[float]
    validation: list[tuple[int, float]]
    weights: tuple[torch.Tensor, ...] | None = None


def _followed(
    steps: Iterator[StepReport], settings: TrainSettings, before: Any
) -> tuple[_Followed, list[str]]:
    """Run to the end with the node's bar moving; a chart of the loss is its preview about twenty times."""
    told = _Followed(
        list(before.get("losses", ())), [tuple(v) for v in before.get("validation", ())]
    )
    notes: list[str] = []
    advance = progress_of(settings.steps)
    for report in steps:
        if report.note:
            notes.append(report.note)
            del told.losses[report.step :]
            told.validation = [each for each in told.validation if each[0] <= report.step]
        if report.weights is not None:
            told.weights = report.weights
            break
        if report.note:
            continue
        told.losses.append(report.loss)
        if report.validation is not None:
            told.validation.append((report.step, report.validation))
        show = report.step % max(1, settings.steps // 20) == 0
        chart = loss_chart(told.losses, told.validation, settings.steps) if show else None
        advance(report.step, chart)
    return told, notes


def _beginning(
    branches: list[adapters.Branch], model: Any, plan: Plan, settings: TrainSettings, first: int
) -> str:
    count = sum(p.numel() for p in adapters.parameters_of(branches))
    base = sum(p.numel() for p in model.model.diffusion_model.parameters())
    epochs = settings.steps * settings.accumulate / plan.steps_per_epoch
    went_on = f", resumed at step {first}" if first else ""
    return (
        f"{len(branches)} layers, {count:,} trainable parameters ({100 * count / base:.2f} % of the base), "
        f"{4 * count / 1e6:.1f} MB; {settings.steps} steps, {epochs:.1f} epochs of "
        f"{len(plan.dataset.training)} pictures{went_on}"
    )


def _kept(job: _Job, tensors: dict[str, torch.Tensor], told: _Followed, said: list[str]) -> Trained:
    """The result into the job's folder, so that the same job need never run again, and as a file into the loras."""
    settings = job.order.settings
    facts = {
        "losses": told.losses,
        "validation": told.validation,
        "said": said,
        "steps": len(told.losses),
    }
    data = safetensors.torch.save(tensors, {"loom_result": json.dumps(facts)})
    write_bytes(data, job.folder / "result.safetensors")
    # Only now: until the result is safe the states are what a kill leaves. Training again begins without them.
    for path in states_in(job.folder):
        path.unlink(missing_ok=True)
    return _given(job, tensors, facts, settings, "")


def _finished(job: _Job) -> Trained | None:
    """What this job gave before; None where it has not been finished."""
    path = job.folder / "result.safetensors"
    if not path.is_file():
        return None
    tensors, metadata = read_tensors(path, "the finished training")
    facts = json.loads(metadata["loom_result"])
    again = "This very training (same model, pictures, settings and seed) was finished before: its LoRA, at once."
    return _given(job, dict(tensors), facts, job.order.settings, again)


def _given(
    job: _Job, tensors: dict[str, torch.Tensor], facts: Any, settings: TrainSettings, first: str
) -> Trained:
    validation = [(step, value) for step, value in facts["validation"]]
    mean = running_mean(facts["losses"])[-1]
    last = validation[-1][1] if validation else None
    name, saved = _listed(job, tensors, Outcome(facts["steps"], mean, last))
    lines = [
        *([first] if first else []),
        *facts["said"],
        f"loss {mean:.4f}"
        + (f", validation {validation[0][1]:.4f} -> {last:.4f}" if last is not None else ""),
        saved,
    ]
    chart = as_images([loss_chart(facts["losses"], validation, settings.steps)])
    return Trained(tensors, "\n".join(lines), chart, name)


def _listed(job: _Job, tensors: dict[str, torch.Tensor], outcome: Outcome) -> tuple[str, str]:
    """The file in the loras list: the one written before where it is still there, else a new one."""
    note = job.folder / "file.json"
    result = _sha256(job.folder / "result.safetensors")
    if note.is_file():
        known = json.loads(note.read_text("utf-8"))
        try:
            _, path = find_lora(known["name"])
        except LoraFileError:
            path = None
        if path and (known["result"], known["sha256"]) == (result, _sha256(path)):
            return known["name"], f"the file is {known['name']}"
    title = job.order.name.replace("\\", "/").split("/")[-1]
    metadata = metadata_of(job.plan, job.order.settings, outcome, job.base, title)
    order = SaveOrder(job.order.name, if_exists=NUMBER, edits=json.dumps(metadata))
    written = save_lora(tensors, NO_FILE, order)
    digest = _sha256(find_lora(written.name)[1])
    told = {"name": written.name, "sha256": digest, "result": result}
    write_bytes(json.dumps(told).encode(), note)
    return written.name, written.report


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
