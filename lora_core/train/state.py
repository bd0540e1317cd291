"""The whole state of a run on disk: what is needed to go on as if it had never stopped."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from ..errors import TrainError
from ..files.writer import write_bytes

# Raised when the meaning of a state changes: states of another format are not gone on from.
FORMAT = 2
_FIELD = "loom_training_state"
_PATTERN = "step-*.safetensors"


@dataclass(frozen=True, eq=False)
class RunState:
    """A run after `step` optimizer steps.

    tensors: parameters, optimizer and average, by name, on the CPU. facts: plain JSON values: losses, rate factor, ...
    There are no random states: every draw is a function of seed, stream and counter.
    """

    step: int
    tensors: Mapping[str, torch.Tensor]
    facts: Mapping[str, Any] = field(default_factory=dict)


def save_state(state: RunState, folder: Path, job: str, keep: int = 2) -> Path:
    """Write the state beside those before it, synced, in one step; then delete all but the newest `keep`.

    job: names model, data and settings; a state is only ever gone on from by the same job. Raises LoraFileError and
    SaveError (disk full); the states before stay.
    """
    tensors = {name: tensor.contiguous() for name, tensor in state.tensors.items()}
    said = {"format": FORMAT, "job": job, "step": state.step, "facts": dict(state.facts)}
    said["digest"] = _digest(tensors)
    data = safetensors.torch.save(tensors, {_FIELD: json.dumps(said)})
    path = folder / f"step-{state.step:08d}.safetensors"
    write_bytes(data, path)
    for old in states_in(folder)[keep:]:
        old.unlink(missing_ok=True)
    for half in folder.glob(".step-*.tmp"):
        half.unlink(missing_ok=True)
    return path


def states_in(folder: Path) -> list[Path]:
    """The states of a folder, the newest first."""
    return sorted(folder.glob(_PATTERN), reverse=True)


def load_latest(folder: Path, job: str) -> RunState | None:
    """The newest state that is whole; None where there is none. A damaged one is passed over for the one before.

    Raises TrainError where a state belongs to another job: going on would mix two trainings.
    """
    for path in states_in(folder):
        state = _read(path, job)
        if state is not None:
            return state
    return None


def _read(path: Path, job: str) -> RunState | None:
    try:
        with safetensors.safe_open(path, framework="pt", device="cpu") as file:
            said = json.loads((file.metadata() or {})[_FIELD])
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError, KeyError, ValueError):
        return None
    if said.get("format") != FORMAT or said.get("digest") != _digest(tensors):
        return None
    if said["job"] != job:
        raise TrainError(
            f"{path.name} in '{path.parent.name}' was begun with another model, other pictures or other settings. "
            "Set them back to go on, or delete that folder to begin afresh."
        )
    return RunState(said["step"], tensors, said["facts"])


def _digest(tensors: Mapping[str, torch.Tensor]) -> str:
    """sha256 over names, dtypes, shapes and bytes."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
