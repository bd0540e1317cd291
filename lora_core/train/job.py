"""A training as a folder: what to do in job.json, what to learn from in safetensors. Nothing of pictures or encoders.

Written once, read by every rank. job.json is written last, so that half a job is none; it names every other file with
its sha256.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from ..errors import TrainError
from ..files.writer import write_bytes
from .adapters import Branch, state_dict_of
from .branches import branch_of
from .objective import Objective
from .settings import SampleWish, TrainSettings

# What Loom Train does: train in the graph, write what other processes train, wait for them.
HERE, WRITE, WATCH = "here", "write a job", "watch the job"
RUNS = (HERE, WRITE, WATCH)
# Raised when the meaning of a job changes: jobs of another format are not run.
FORMAT = 1
JOB, START, STOP = "job.json", "start.safetensors", "stop"
# Bytes of one file of pieces, about.
_SHARD = 512 << 20
_CHUNK = 8 << 20

Pieces = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Shard:
    """A file beside job.json."""

    name: str
    sha256: str
    size: int


@dataclass(frozen=True)
class BaseFile:
    """The frozen model. folder, name: as the host lists it. dtype: of its weights in memory, by torch's name.

    fast: the host's fast products of 8 bits. weights, sampling: what a loaded model must come to; see host.job_base.
    """

    folder: str
    name: str
    sha256: str
    size: int
    dtype: str
    fast: bool
    weights: str
    sampling: str


@dataclass(frozen=True)
class Layer:
    """One that learns. factors: the endings of its tensors, in their order."""

    path: str
    alpha: float
    rate: float
    factors: tuple[str, ...]


@dataclass(frozen=True)
class TrainJob:
    """key: as the graph names the very same training. title: of the file. metadata: of it, but for how the run went.

    pictures, steps_per_epoch: of the data. prompts: of sample pictures; samples: the folder that they go to. pack: the
    version that wrote it.
    """

    key: str
    title: str
    settings: TrainSettings
    base: BaseFile
    layers: tuple[Layer, ...]
    pictures: int
    steps_per_epoch: int
    prompts: tuple[str, ...]
    samples: str
    metadata: Mapping[str, str]
    shards: tuple[Shard, ...]
    pack: str


def layers_of(branches: Sequence[Branch]) -> tuple[Layer, ...]:
    return tuple(Layer(b.path, b.alpha, b.rate, tuple(b.factors)) for b in branches)


def write_start(branches: Sequence[Branch], folder: Path) -> Shard:
    """What the branches are before step 1. Raises LoraFileError, SaveError."""
    named = {key: value for key, value in state_dict_of(branches).items()}
    return _written(named, folder / START)


def read_start(job: TrainJob, folder: Path, device: Any) -> list[Branch]:
    """The branches before step 1, in their order."""
    tensors = safetensors.torch.load_file(folder / START)
    made = []
    for layer in job.layers:
        factors = {ending: tensors[f"{layer.path}.{ending}"] for ending in layer.factors}
        made.append(branch_of(layer.path, factors, layer.alpha, device, layer.rate))
    return made


def write_pieces(entries: Iterable[tuple[str, Pieces]], folder: Path) -> list[Shard]:
    """Named groups of tensors, as name/tensor, into as many files as they need; at most one of them is in memory."""
    shards: list[Shard] = []
    held: dict[str, torch.Tensor] = {}

    def flush() -> None:
        if held:
            shards.append(_written(held, folder / f"data-{len(shards) + 1:05d}.safetensors"))
            held.clear()

    for name, pieces in entries:
        held |= {f"{name}/{part}": value for part, value in pieces.items()}
        if sum(value.nbytes for value in held.values()) >= _SHARD:
            flush()
    flush()
    return shards


def write_job(job: TrainJob, folder: Path) -> None:
    """job.json, when all that it names is there. Raises LoraFileError, SaveError."""
    text = json.dumps({"format": FORMAT, **asdict(job)}, indent=1, sort_keys=True)
    write_bytes(text.encode(), folder / JOB)


def read_job(folder: Path) -> TrainJob:
    """Raises TrainError where there is none, or one of another version."""
    path = folder / JOB
    try:
        said = json.loads(path.read_text("utf-8"))
        found = said.pop("format")
        if found != FORMAT:
            raise TrainError(
                f"{path.name} in '{folder.name}' has the format {found}, this pack runs {FORMAT}. Use the pack's version "
                f"{said.get('pack')}, or write the job anew."
            )
        return _job_of(said)
    except FileNotFoundError as error:
        raise TrainError(
            f"'{folder}' holds no {JOB}. Let Loom Train write a job, and name that folder; a job whose writing was "
            "interrupted has none."
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TrainError(
            f"{path.name} in '{folder.name}' cannot be read ({type(error).__name__}: {error}). Write the job anew with "
            "this version of the pack."
        ) from error


def check_files(job: TrainJob, folder: Path) -> None:
    """Every file of the job is there, whole and as it was written. Raises TrainError that names each that is not."""
    bad = [said for shard in job.shards if (said := _fault(shard, folder))]
    if bad:
        raise TrainError(
            f"The job in '{folder.name}' is not whole: {'; '.join(bad)}. Copy the folder again, or delete it and let "
            "Loom Train write it anew."
        )


def sha256_of(path: Path) -> str:
    """Of a file, however large."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _fault(shard: Shard, folder: Path) -> str:
    """What is wrong with a file, in words; "" for nothing."""
    path = folder / shard.name
    if not path.is_file():
        return f"{shard.name} is missing"
    size = path.stat().st_size
    if size != shard.size:
        return f"{shard.name} has {size} bytes instead of {shard.size}"
    found = sha256_of(path)
    if found != shard.sha256:
        return f"{shard.name} was changed (sha256 {found[:12]} instead of {shard.sha256[:12]})"
    return ""


def _written(tensors: Pieces, path: Path) -> Shard:
    data = safetensors.torch.save({name: value.contiguous() for name, value in tensors.items()})
    write_bytes(data, path)
    return Shard(path.name, hashlib.sha256(data).hexdigest(), len(data))


def _job_of(said: dict[str, Any]) -> TrainJob:
    settings = said["settings"]
    made = TrainSettings(
        **settings
        | {
            "samples": SampleWish(**settings["samples"]),
            "objective": Objective(**settings["objective"]),
        }
    )
    layers = tuple(
        Layer(each["path"], each["alpha"], each["rate"], tuple(each["factors"]))
        for each in said["layers"]
    )
    shards = tuple(Shard(**each) for each in said["shards"])
    return TrainJob(
        **said
        | {"settings": made, "base": BaseFile(**said["base"]), "layers": layers}
        | {"shards": shards, "prompts": tuple(said["prompts"])}
    )
