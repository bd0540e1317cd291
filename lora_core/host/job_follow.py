"""A job as the graph sees it: written, waited for, and given back as if it had been trained here."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import folder_paths
import torch

from ..analysis.draw import as_images, message
from ..errors import TrainError
from ..files.writer import write_bytes
from ..train.chart import loss_chart
from ..train.curve import Curve
from ..train.job import HERE, JOB, STOP, WATCH, read_job
from ..train.log import NAME as LOG
from ..train.log import Place, lines_after
from ..train.state import states_in
from .job_write import Prompt, check_job, write_training
from .messages import stop_with
from .progress import progress_of
from .saving import name_parts
from .training_branches import Branches
from .training_data import Encoders
from .training_results import RESULT, Job, Trained, finished
from .training_samples import show_latents
from .watching import Teller, watched

if TYPE_CHECKING:
    from .training import TrainOrder

FOLDER = "loom_jobs"
# Seconds between two looks at what the job has written, and between two words that there is nothing new.
_APART, _SILENT = 0.5, 60.0
_WORKER = Path(__file__).parents[2] / "train_worker.py"


@dataclass(frozen=True)
class JobWish:
    """run: of train.job.RUNS. folder: name of the job's folder in output/loom_jobs; "" for the file's own name.

    prompt: the graph, an API prompt, in which the model's file is looked up.
    """

    run: str = HERE
    folder: str = ""
    prompt: Prompt | None = None


def job_folder(wish: JobWish, name: str) -> Path:
    """Raises SaveError where the name leads elsewhere."""
    parts = name_parts(wish.folder.strip() or name)
    return Path(folder_paths.get_output_directory()).joinpath(FOLDER, *parts)


def job_stamp(run: str | None, folder: str | None, name: str | None) -> str:
    """Changes when a job is written or finished, so that a node that waits for it runs again."""
    if run in (None, HERE) or not (folder or name):
        return ""
    at = job_folder(JobWish(str(run), folder or ""), name or "")
    found = [at / JOB, at / RESULT, at / LOG]
    return repr([path.stat().st_mtime_ns if path.is_file() else 0 for path in found])


def follow_job(
    model: Any,
    encoders: Encoders,
    job: Job,
    order: TrainOrder,
    branches: Callable[[], Branches],
) -> Trained:
    """The LoRA of the job where it is finished; else write it, or wait for it. Raises LoraError.

    job: the training as it would be here. Where it is written and not finished, what reads the outputs is stopped.
    """
    check_job(order.settings)
    folder, here = job_folder(order.job, order.name), job.folder
    listed = folder.relative_to(folder_paths.get_output_directory()).as_posix()
    job = replace(job, folder=folder, place=f"output/{listed}")
    known = read_job(folder) if (folder / JOB).is_file() else None
    if known is not None and known.key != job.key:
        raise TrainError(
            f"{job.place} holds another training (other pictures, model or settings). Choose another "
            "job_folder, or delete that one."
        )
    if order.retrain and order.job.run != WATCH:
        _forget(folder)
    done = _given(job, encoders)
    if done is not None:
        return done
    if order.job.run == WATCH:
        if known is None:
            raise TrainError(f"There is no job in {job.place}: write it first.")
        return _watched(job, encoders, order)
    if known is None:
        write_training(model, encoders, job, branches, order.job.prompt, order.node)
        if order.resume:
            _take_along(here, folder)
    return _waiting(job)


def _given(job: Job, encoders: Encoders) -> Trained | None:
    if not (job.folder / RESULT).is_file():
        return None
    show_latents(encoders.vae, job.samples)
    return finished(job)


def _forget(folder: Path) -> None:
    """What a run left, so that the job begins anew."""
    for path in [folder / RESULT, folder / LOG, *states_in(folder)]:
        path.unlink(missing_ok=True)


def _take_along(here: Path, folder: Path) -> None:
    """The newest state of the same training that was begun in the graph: the job goes on from it."""
    for path in states_in(here)[:1]:
        write_bytes(path.read_bytes(), folder / path.name)


def _waiting(job: Job) -> Trained:
    """What is given where there is no LoRA yet: the way to it, and stops in place of it."""
    curve = Curve(job.settings.steps)
    _read_on(job.folder / LOG, curve, Place())
    begun = (
        f"Step {len(curve.losses)} of {curve.steps} is done."
        if curve.losses
        else "It is not begun."
    )
    said = read_job(job.folder)
    size = sum(shard.size for shard in said.shards)
    batch = job.settings.batch_size * job.settings.accumulate
    report = "\n".join(
        [
            f"a job in {job.place}: {len(said.layers)} layers, {said.settings.steps} steps, {len(said.shards)} files of "
            f"{size / 1e6:.1f} MB. {begun}",
            f"{batch} pictures a step: at most so many processes have something to do.",
            "start it (of several machines: docs/torchrun.md), then run this node again, or watch the job:",
            line_of(job),
        ]
    )
    stop = stop_with(
        f"The training in {job.place} is not finished. Loom Train says how to start it."
    )
    picture = as_images([message("the job is not finished")])
    curve.running = False
    return Trained(stop, report, picture, stop, picture, curve.told())


def line_of(job: Job) -> str:
    """What starts the job on this machine, in one line for a terminal."""
    host = Path(str(folder_paths.__file__)).parent
    base = read_job(job.folder).base
    model = folder_paths.get_full_path(base.folder, base.name)
    count = max(1, torch.cuda.device_count()) if torch.cuda.is_available() else 2
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--max-restarts", "3"]
    words += ["--nproc-per-node", str(count), str(_WORKER), str(job.folder)]
    words += ["--comfyui", str(host), "--model", str(model)]
    return " ".join(f'"{word}"' if " " in word else word for word in words)


def _watched(job: Job, encoders: Encoders, order: TrainOrder) -> Trained:
    """Until the job has a result; its curve, notes and pictures as if it ran here. Raises the host's interrupt."""
    place, told, last = Place(), 0, time.monotonic()
    with watched(order.node, job.settings.steps) as curve:
        teller, advance = Teller(order.node, curve), progress_of(job.settings.steps)
        teller.say(f"waiting for the job in {job.place}")
        while not (job.folder / RESULT).is_file():
            place = _read_on(job.folder / LOG, curve, place, teller)
            for shown in show_latents(encoders.vae, job.samples):
                curve.samples.append(shown)
                teller.show(shown)
            if curve.stopping and not (job.folder / STOP).is_file():
                write_bytes(b"", job.folder / STOP)
            if len(curve.losses) != told:
                told, last = len(curve.losses), time.monotonic()
                advance(told, loss_chart(curve.losses, curve.validation, curve.steps))
            elif time.monotonic() - last > _SILENT:
                last = time.monotonic()
                teller.say(f"nothing new of the job in {job.place}; is it running? {line_of(job)}")
            advance(told)
            time.sleep(_APART)
        _read_on(job.folder / LOG, curve, place, teller)
    found = _given(job, encoders)
    if found is None:
        raise TrainError(f"The result of the job in {job.place} is gone again.")
    return found


def _read_on(path: Path, curve: Curve, place: Place, teller: Teller | None = None) -> Place:
    """Put what the log says since `place` into the curve."""
    lines, place, anew = lines_after(path, place)
    if anew:
        curve.back_to(0)
    for line in lines:
        if line.get("note") and teller:
            teller.say(line["note"])
        if line["step"] <= len(curve.losses):
            # A step is said once more by the last line, and by one that tells of going back.
            if line["step"] < len(curve.losses):
                curve.back_to(line["step"])
            continue
        curve.losses.append(line["loss"])
        if "validation" in line:
            curve.validation.append((line["step"], line["validation"]))
        if teller:
            teller.step(line["loss"], line.get("validation"))
    return place
