"""Reads mutated files one after another and prints one line of JSON a file. Run by test_fuzz.py in a process of its own."""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import traceback
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch

from lora_core.errors import LoraError
from lora_core.files import reader
from lora_core.files.cache import BoundedCache
from lora_core.report import inspect_report
from tests.core.fuzzing import mutated, samples


def attempt(path: Path) -> str:
    """ "loaded", "refused: ..." or "wrong: ..."."""
    try:
        adapter = reader.read_adapter(path, path.name)
        inspect_report(adapter)
    except LoraError as error:
        named = path.name in str(error)
        return (
            f"refused: {str(error)[:300]}"
            if named
            else f"wrong: it does not name the file: {error}"
        )
    except Exception:  # this is what the test looks for
        return f"wrong: {traceback.format_exc()[-1500:]}"
    return compare(path, [t for m in adapter.modules.values() for t in m.tensors])


def compare(path: Path, used: list[torch.Tensor]) -> str:
    """Whether what was read is what another reader finds in the file, and no number in use is none."""
    ours, _ = reader.read_tensors(path, path.name)
    try:
        theirs = safetensors.torch.load(path.read_bytes())
    except Exception as error:
        return f"wrong: the safetensors library refuses it: {error}"
    if ours.keys() != theirs.keys():
        return "wrong: other tensor names than the safetensors library finds"
    for name, tensor in ours.items():
        other = theirs[name]
        same = tensor.dtype == other.dtype and tensor.shape == other.shape
        if not same or bytes_of(tensor) != bytes_of(other):
            return f"wrong: {name} differs from what the safetensors library reads"
    if not all(bool(torch.isfinite(tensor.float()).all()) for tensor in used):
        return "wrong: a weight in use is not finite"
    return "loaded"


def bytes_of(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def say(line: Mapping[str, object]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def peak() -> int:
    """The most memory that this process has had, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def main(seed: int, first: int, last: int) -> None:
    torch.set_num_threads(1)
    reader._cache = BoundedCache(0)
    wholes = samples(seed)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fuzzed.safetensors"
        for whole in wholes:
            path.write_bytes(whole)
            outcome = attempt(path)
            say({"mutation": "none", "outcome": outcome, "size": 0, "grown": 0})
        for index in range(first, last):
            name, data = mutated(seed, index, wholes)
            path.write_bytes(data)
            size, before = len(data), peak()
            del data
            outcome = attempt(path)
            line = {"mutation": name, "outcome": outcome, "size": size, "grown": peak() - before}
            say({"index": index} | line)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:4]))
