"""What a finished training leaves: its LoRA, file, chart and pictures; and how they are given back at once."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from ..analysis.draw import as_images, message
from ..errors import LoraFileError
from ..files.reader import read_tensors
from ..files.writer import write_bytes
from ..train.chart import loss_chart, running_mean
from ..train.curve import Curve
from ..train.export import Outcome, metadata_of
from ..train.job import sha256_of
from ..train.judging import warning
from ..train.log import NAME as LOG
from ..train.sample_sheet import sample_sheet, strips_in
from ..train.samples import Plan
from ..train.settings import TrainSettings
from ..train.state import states_in
from .paths import find_lora
from .saving import NO_FILE, NUMBER, SaveOrder, save_lora
from .training_follow import Followed

RESULT = "result.safetensors"


@dataclass(frozen=True, eq=False)
class Trained:
    """tensors: for the LORA_MODEL socket. chart, samples: (1, height, width, 3). name: as the loras list shows it.

    curve: what the page shows of it, see web/docs/LoomTrain.md.
    """

    tensors: dict[str, torch.Tensor]
    report: str
    chart: torch.Tensor
    name: str
    samples: torch.Tensor
    curve: dict[str, Any]


@dataclass(frozen=True, eq=False)
class Job:
    """One training: all that decides its outcome is in the key. folder: where its states and its result are kept.

    name: of the file, as Loom Save takes it. prompts: of the sample pictures. place: the folder in words, where it is not
    the user folder's own.
    """

    key: str
    folder: Path
    plan: Plan
    settings: TrainSettings
    name: str
    base: str | None
    prompts: tuple[str, ...] = ()
    place: str = ""

    @property
    def where(self) -> str:
        """The folder, in words."""
        return self.place or f"the user folder's __lora_loom/training/{self.folder.name}"

    @property
    def samples(self) -> Path:
        """Folder of the sample pictures: other prompts or another sampling have another."""
        asked = repr((self.prompts, self.settings.samples.steps, self.settings.samples.cfg))
        return self.folder / f"samples-{hashlib.sha256(asked.encode()).hexdigest()[:12]}"


def keep_result(
    job: Job, tensors: dict[str, torch.Tensor], curve: Curve, told: Followed, said: list[str]
) -> Trained:
    """The result into the job's folder, so that the same job need never run again, and as a file into the loras."""
    facts = facts_of(curve, told.stopped, said, job.prompts, job.samples.name)
    store_result(job.folder, tensors, facts)
    return _given(job, tensors, facts, "")


def facts_of(
    curve: Curve, stopped: bool, said: list[str], prompts: tuple[str, ...], samples: str
) -> dict[str, Any]:
    """What is kept of a run beside its LoRA. samples: name of the folder with the pictures."""
    return {
        "losses": curve.losses,
        "validation": curve.validation,
        "said": said,
        "steps": len(curve.losses),
        "stopped": stopped,
        "prompts": prompts,
        "samples": samples,
    }


def outcome_of(facts: Any) -> Outcome:
    validation = facts["validation"]
    last = validation[-1][1] if validation else None
    return Outcome(facts["steps"], running_mean(facts["losses"])[-1], last)


def store_result(folder: Path, tensors: dict[str, torch.Tensor], facts: dict[str, Any]) -> None:
    """Into the folder of a training. Raises LoraFileError, SaveError."""
    data = safetensors.torch.save(tensors, {"loom_result": json.dumps(facts)})
    write_bytes(data, folder / RESULT)
    # Only now: until the result is safe the states are what a kill leaves. Training again begins without them, unless
    # the person stopped it: then they are what it goes on from.
    if not facts["stopped"]:
        for path in states_in(folder):
            path.unlink(missing_ok=True)


def finished(job: Job) -> Trained | None:
    """What this job gave before; None where it has not been finished."""
    path = job.folder / RESULT
    if not path.is_file():
        return None
    tensors, metadata = read_tensors(path, "the finished training")
    facts = json.loads(metadata["loom_result"])
    again = "This very training (same model, pictures, settings and seed) was finished before: its LoRA, at once."
    if facts.get("stopped"):
        again = (
            f"This very training was stopped by you at step {facts['steps']} of {job.settings.steps}: its LoRA, at once. "
            "To go on from there, switch retrain on."
        )
    return _given(job, dict(tensors), facts, again)


def _given(job: Job, tensors: dict[str, torch.Tensor], facts: Any, first: str) -> Trained:
    steps = job.settings.steps
    curve = Curve(steps, facts["losses"], [(s, v) for s, v in facts["validation"]], running=False)
    validation, outcome = curve.validation, outcome_of(facts)
    mean, last = outcome.loss, outcome.validation
    name, saved = _listed(job, tensors, outcome)
    ends = f", validation {validation[0][1]:.4f} -> {last:.4f}" if last is not None else ""
    lines = [
        first,
        *facts["said"],
        f"loss {mean:.4f}{ends}",
        warning(curve.losses, validation),
        f"every step: {LOG} in {job.where}",
        saved,
    ]
    chart = as_images([loss_chart(curve.losses, validation, steps)])
    report = "\n".join(line for line in lines if line)
    sheet = _sheet(job.folder / facts["samples"], facts["prompts"])
    return Trained(tensors, report, chart, name, sheet, curve.told())


def _sheet(folder: Path, prompts: Any) -> torch.Tensor:
    strips = strips_in(folder)
    if not strips:
        return as_images([message("no sample pictures were asked for")])
    return as_images([sample_sheet(strips, list(prompts))])


def _listed(job: Job, tensors: dict[str, torch.Tensor], outcome: Outcome) -> tuple[str, str]:
    """The file in the loras list: the one written before where it is still there, else a new one."""
    note = job.folder / "file.json"
    result = sha256_of(job.folder / RESULT)
    if note.is_file():
        known = json.loads(note.read_text("utf-8"))
        try:
            _, path = find_lora(known["name"])
        except LoraFileError:
            path = None
        if path and (known["result"], known["sha256"]) == (result, sha256_of(path)):
            return known["name"], f"the file is {known['name']}"
    title = job.name.replace("\\", "/").split("/")[-1]
    metadata = metadata_of(job.plan, job.settings, outcome, job.base, title)
    order = SaveOrder(job.name, if_exists=NUMBER, edits=json.dumps(metadata))
    written = save_lora(tensors, NO_FILE, order)
    digest = sha256_of(find_lora(written.name)[1])
    told = {"name": written.name, "sha256": digest, "result": result}
    write_bytes(json.dumps(told).encode(), note)
    return written.name, written.report
