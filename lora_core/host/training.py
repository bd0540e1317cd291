"""What LoomTrain calls: MODEL, CLIP, VAE and a dataset -> a LoRA in memory and as a file. Jobs that are never lost."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import comfy.model_management
import folder_paths
import torch

from ..errors import TrainError
from ..train import adapters
from ..train.cache import DiskStore
from ..train.dataset import Dataset
from ..train.export import lora_of
from ..train.job import HERE
from ..train.loop import TrainBatch
from ..train.preserve import preserving_texts, shown_at
from ..train.samples import Plan
from ..train.settings import TrainSettings
from ..train.state import load_latest
from ..train.suited import suited
from .job_follow import JobWish, follow_job
from .progress import progress_of
from .targets import clip_targets, model_targets
from .training_branches import Branches, attached, branches_of
from .training_data import (
    Encoders,
    batch_of,
    clip_fingerprint,
    encode_all,
    fingerprint,
    validation_batches,
)
from .training_key import job_key
from .training_model import noise_levels, ready, refuse_compiled
from .training_results import Job, Trained, finished, keep_result
from .training_run import Parts, load_whole, run_to_end
from .training_samples import Sampler, prompts_of, said_by, shown_by
from .watching import Teller, watched

NEW = "[a new LoRA]"
_CACHE_BYTES = 4 << 30


@dataclass(frozen=True, eq=False)
class TrainOrder:
    """What to train besides the sockets. name: of the file, as Loom Save takes it. existing: a LoRA to go on from, or NEW.

    resume: go on from the state of an interrupted run. retrain: train although this very job is finished.
    node: id of the node that the page is told the progress of. job: whether, and where, it is left to other processes.
    """

    settings: TrainSettings
    name: str
    existing: str = NEW
    resume: bool = True
    retrain: bool = False
    node: str | None = None
    job: JobWish = field(default_factory=JobWish)


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
    existing = None if order.existing == NEW else order.existing
    refuse_compiled(model)
    settings = _suited(model, order.settings, dataset.settings.trigger)
    order = replace(order, settings=settings)
    key = job_key(model, encoders, plan, settings, existing)
    folder = Path(folder_paths.get_system_user_directory("lora_loom")) / "training" / key[:32]
    base = model_targets(model).base
    job = Job(key, folder, plan, settings, order.name, base, prompts_of(plan, settings))
    if order.job.run != HERE:
        return follow_job(model, encoders, job, order, partial(new_branches, model, clip, order))
    done = None if order.retrain else finished(job)
    return _train(model, encoders, job, order) if done is None else done


def _suited(model: Any, settings: TrainSettings, trigger: str) -> TrainSettings:
    network = model.model.diffusion_model
    layers = adapters.chosen_layers(network, settings.parts, settings.pattern)
    kind = noise_levels(model.model.model_sampling).kind
    return suited(settings, layers, trigger, kind)


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
    return Encoders(
        vae,
        clip,
        model.model.process_latent_in,
        model.load_device,
        DiskStore(user / "training_cache", _CACHE_BYTES),
        fingerprint(vae.first_stage_model),
        clip_fingerprint(clip),
        text_learns,
    )


def _train(model: Any, encoders: Encoders, job: Job, order: TrainOrder) -> Trained:
    settings, plan, vae = job.settings, job.plan, encoders.vae
    clip = encoders.clip
    learning = clip if settings.text_rate else None
    encode_all(plan, encoders, progress_of(len(plan.sample_images)))
    batches = _batches(job, encoders)
    with ExitStack() as within:
        curve = within.enter_context(watched(order.node, settings.steps))
        within.enter_context(torch.inference_mode(False))
        within.enter_context(torch.enable_grad())
        branches = new_branches(model, clip, order)
        state = load_latest(job.folder, job.key) if order.resume else None
        trial = batches((state.step if state else 0) * settings.accumulate)
        shape = tuple(batches(0).latents[:1].shape)
        sampler = Sampler(
            model, settings, job.prompts, shape, job.samples, lambda: attached(model, clip, branches),
            adapters.parameters_of(branches.all), said_by(clip), shown_by(vae, job.samples),
        )  # fmt: skip
        parts = Parts(
            model, learning, branches, settings, batches, trial, validation_batches(plan, encoders),
            len(plan.dataset.training), plan.steps_per_epoch, job.folder, job.key, state, sampler,
            stop=lambda: curve.stopping, load=lambda: load_whole(model, learning),
        )  # fmt: skip
        told, said = run_to_end(parts, curve, Teller(order.node, curve))
    names, words = model_targets(model), clip_targets(clip)
    tensors = lora_of(branches.model, told.weights, names, branches.text, words)
    return keep_result(job, tensors, curve, told, [said, *told.notes])


def new_branches(model: Any, clip: Any, order: TrainOrder) -> Branches:
    """What the order asks to train, before step 1; the model is opened for it and left as it was."""
    learning = clip if order.settings.text_rate else None
    existing = None if order.existing == NEW else order.existing
    load_whole(model, learning)
    with ready(model, learning, order.settings):
        return branches_of(model, clip, order.settings, existing)


def _batches(job: Job, encoders: Encoders) -> Callable[[int], TrainBatch]:
    """The batch of a micro-step; some of its samples ask for what the model answered before, see train.preserve."""
    plan, settings = job.plan, job.settings
    texts = preserving_texts(plan, settings)
    for text in texts:
        batch_of(plan, (replace(plan.sample(0, 0), caption=text),), encoders)

    def batch(number: int) -> TrainBatch:
        samples, preserved = shown_at(plan, settings, texts, number)
        made = batch_of(plan, samples, encoders)
        return replace(made, preserved=preserved) if texts else made

    return batch
