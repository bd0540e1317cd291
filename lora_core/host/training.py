"""What LoomTrain calls: MODEL, CLIP, VAE and a dataset -> a LoRA in memory and as a file. Jobs that are never lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import comfy.model_management
import folder_paths
import torch

from ..errors import TrainError
from ..train import adapters
from ..train.blocks import wrapped_blocks
from ..train.branches import UP
from ..train.cache import DiskStore
from ..train.captions import plain_caption
from ..train.dataset import Dataset
from ..train.estimate import Estimate, in_words, measured
from ..train.export import lora_of
from ..train.log import training_log
from ..train.loop import Predict, TrainBatch, train
from ..train.preserve import other_texts, text_for
from ..train.samples import Plan, Sample
from ..train.settings import TrainSettings
from ..train.state import load_latest, save_state
from ..train.suited import suited
from .progress import progress_of
from .targets import clip_targets, model_targets
from .training_branches import Branches, attached, branches_of
from .training_data import Encoders, batch_of, encode_all, fingerprint, validation_batches
from .training_follow import Listeners, followed
from .training_key import job_key
from .training_model import noise_levels, ready, refuse_compiled
from .training_results import Job, Trained, finished, keep_result
from .training_room import opened
from .training_samples import Sampler, prompts_of
from .watching import Teller, watched

NEW = "[a new LoRA]"
_CACHE_BYTES = 4 << 30
_OUT_OF_MEMORY = (
    "Out of memory after step {step}; the state is saved. Switch checkpointing on in Loom Train Settings (the run then goes "
    "on from its state), or lower batch_size, rank or the dataset's resolution and train anew."
)


@dataclass(frozen=True, eq=False)
class TrainOrder:
    """What to train besides the sockets. name: of the file, as Loom Save takes it. existing: a LoRA to go on from, or NEW.

    resume: go on from the state of an interrupted run. retrain: train although this very job is finished.
    node: id of the node that the page is told the progress of.
    """

    settings: TrainSettings
    name: str
    existing: str = NEW
    resume: bool = True
    retrain: bool = False
    node: str | None = None


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
    key = job_key(model, encoders, plan, settings, existing)
    folder = Path(folder_paths.get_system_user_directory("lora_loom")) / "training" / key[:32]
    base = model_targets(model).base
    job = Job(key, folder, plan, settings, order.name, base, prompts_of(plan, settings))
    done = None if order.retrain else finished(job)
    return _train(model, encoders, job, order) if done is None else done


def _suited(model: Any, settings: TrainSettings, trigger: str) -> TrainSettings:
    network = model.model.diffusion_model
    layers = adapters.chosen_layers(network, settings.parts, settings.pattern)
    return suited(settings, layers, trigger)


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


def _train(model: Any, encoders: Encoders, job: Job, order: TrainOrder) -> Trained:
    settings, plan = job.settings, job.plan
    clip = encoders.clip
    levels = noise_levels(model.model.model_sampling)
    encode_all(plan, encoders, progress_of(len(plan.sample_images)))
    batches = _batches(job, encoders)
    with ExitStack() as within:
        curve = within.enter_context(watched(order.node, settings.steps))
        within.enter_context(torch.inference_mode(False))
        within.enter_context(torch.enable_grad())
        existing = None if order.existing == NEW else order.existing
        with _opened(model, clip, settings):
            branches = branches_of(model, clip, settings, existing)
        parameters = adapters.parameters_of(branches.all)
        state = load_latest(job.folder, job.key) if order.resume else None
        first = state.step if state else 0
        curve.begin_with(state.facts if state else {})
        room = within.enter_context(opened(lambda: _acting(model, clip, branches, settings)))
        shape = batches(0).latents[:1].shape
        estimate = measured(
            room.predict,
            batches(first * settings.accumulate),
            levels,
            settings,
            parameters,
            model.model.diffusion_model,
        )
        said = _beginning(branches.all, model, plan, settings, first, estimate)
        teller = Teller(order.node, curve)
        teller.say(said)
        steps = train(
            room.predict,
            batches,
            parameters,
            levels,
            settings,
            validation_batches(plan, encoders),
            state,
            lambda kept: save_state(kept, job.folder, job.key, settings.keep),
            rates=_rates(branches.all, settings.plus_ratio),
            stop=lambda: curve.stopping,
        )
        within.enter_context(closing(steps))
        note = within.enter_context(training_log(job.folder, first))
        sampler = Sampler(
            model, clip, encoders.vae, settings, job.prompts, tuple(shape), job.samples,
            lambda: attached(model, clip, branches), parameters,
        )  # fmt: skip
        try:
            told = followed(steps, Listeners(curve, teller, note, sampler, room))
        except comfy.model_management.OOM_EXCEPTION as error:
            raise TrainError(_OUT_OF_MEMORY.format(step=len(curve.losses))) from error
    names, words = model_targets(model), clip_targets(clip)
    tensors = lora_of(branches.model, told.weights, names, branches.text, words)
    return keep_result(job, tensors, curve, told, [said, *told.notes])


def _batches(job: Job, encoders: Encoders) -> Callable[[int], TrainBatch]:
    """The batch of a micro-step; some of its samples ask for what the model answered before, see train.preserve."""
    plan, settings = job.plan, job.settings
    images, trigger = plan.dataset.images, plan.dataset.settings.trigger
    captions = [images[index].caption for index in plan.dataset.training]
    texts = other_texts(captions, trigger, settings.seed) if settings.preserve else ()

    def other(sample: Sample) -> str | None:
        """A dropped caption too: without words the model is to stay what it was."""
        if not sample.caption and plain_caption(images[sample.image], plan.dataset.settings):
            return ""
        return text_for(settings.preserve, texts, settings.seed, sample.number, sample.epoch)

    for text in texts:
        batch_of(plan, (replace(plan.sample(0, 0), caption=text),), encoders)

    def batch(number: int) -> TrainBatch:
        samples = plan.batch_at(number).samples
        if not texts:
            return batch_of(plan, samples, encoders)
        said = [None if images[s.image].regularisation else other(s) for s in samples]
        pairs = zip(samples, said, strict=True)
        shown = tuple(s if text is None else replace(s, caption=text) for s, text in pairs)
        made = batch_of(plan, shown, encoders)
        return replace(made, preserved=tuple(text is not None for text in said))

    return batch


@contextmanager
def _acting(
    model: Any, clip: Any, branches: Branches, settings: TrainSettings
) -> Iterator[Predict]:
    """Model and CLIP with gradients and with the branches on them, within the block."""
    with (
        _opened(model, clip, settings) as predict,
        attached(model, clip, branches),
        wrapped_blocks(model.model.diffusion_model, settings.checkpointing, settings.compile),
    ):
        yield predict


@contextmanager
def _opened(model: Any, clip: Any, settings: TrainSettings) -> Iterator[Predict]:
    """Model and, where it learns, CLIP loaded and with gradients, within the block."""
    learning = clip if settings.text_rate else None
    # Loading goes on in the host's own mode: it changes weights in place, which ordinary mode refuses.
    with torch.inference_mode():
        loaded = [model] if learning is None else [model, clip.patcher]
        comfy.model_management.load_models_gpu(loaded)
    with ready(model, learning, settings) as predict:
        yield predict


def _rates(branches: Sequence[adapters.Branch], plus_ratio: float) -> list[float]:
    """Each branch's own; by LoRA+ the up matrices learn faster than the down ones."""
    return [
        branch.rate * (plus_ratio if name == UP else 1.0)
        for branch in branches
        for name in branch.factors
    ]


def _beginning(
    branches: list[adapters.Branch],
    model: Any,
    plan: Plan,
    settings: TrainSettings,
    first: int,
    estimate: Estimate,
) -> str:
    parameters = adapters.parameters_of(branches)
    count = sum(p.numel() for p in parameters)
    base = sum(p.numel() for p in model.model.diffusion_model.parameters())
    epochs = settings.steps * settings.accumulate / plan.steps_per_epoch
    others = f"{settings.preserve:.0%}" if settings.preserve else "none"
    went_on = f", resumed at step {first}" if first else ""
    return (
        f"{len(branches)} layers, {count:,} trainable parameters ({100 * count / base:.2f} % of the base), "
        f"{4 * count / 1e6:.1f} MB; {settings.steps} steps at a rate of {settings.rate:.2g}, {epochs:.1f} epochs of "
        f"{len(plan.dataset.training)} pictures{went_on}, {others} of the showings to preserve other prompts; "
        + in_words(estimate, settings, settings.steps - first, parameters)
    )
