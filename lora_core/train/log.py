"""A line of JSON for each step, and TensorBoard's own files where it is installed."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import LoraFileError
from ..files.writer import write_bytes
from .loop import StepReport

NAME = "log.jsonl"
Write = Callable[[StepReport], None]


@contextmanager
def training_log(folder: Path, first: int) -> Iterator[Write]:
    """A function that notes a report. first: the step that the run goes on from; what was noted after it is dropped.

    Raises LoraFileError where the log cannot be written.
    """
    path = folder / NAME
    write_bytes("".join(_lines_until(path, first)).encode(), path)
    with ExitStack() as closing:
        board = _board(folder / "tensorboard", first)
        if board is not None:
            closing.callback(board.close)
        file = closing.enter_context(path.open("a", encoding="utf-8"))

        def note(report: StepReport) -> None:
            try:
                file.write(json.dumps(_said(report)) + "\n")
                file.flush()
            except OSError as error:
                raise LoraFileError(
                    f"{path.name}: writing failed ({error.strerror or error})."
                ) from error
            if board is not None and not report.note:
                _draw(board, report)

        yield note


def _said(report: StepReport) -> dict[str, Any]:
    said = {"step": report.step, "loss": report.loss, "rate": report.rate, "norm": report.norm}
    said |= {"validation": report.validation, "note": report.note}
    return {name: value for name, value in said.items() if value not in (None, "")}


def _lines_until(path: Path, step: int) -> list[str]:
    """The lines of steps up to this one; a line that a kill cut off ends them."""
    if not path.is_file():
        return []
    found: list[str] = []
    for line in path.read_text("utf-8", "replace").splitlines():
        try:
            if json.loads(line)["step"] > step:
                break
        except (ValueError, KeyError, TypeError):
            break
        found.append(line + "\n")
    return found


@dataclass(frozen=True)
class Place:
    """How far a log was read: which file it was, and how many bytes of it."""

    file: int = 0
    read: int = 0


def lines_after(path: Path, place: Place) -> tuple[list[dict[str, Any]], Place, bool]:
    """The whole lines that were written since, how far it is read now, and whether the log was begun anew meanwhile.

    Begun anew (a run that went on from its last state), the lines are all that it has.
    """
    try:
        with path.open("rb") as file:
            stat = os.fstat(file.fileno())
            anew = stat.st_ino != place.file or stat.st_size < place.read
            file.seek(0 if anew else place.read)
            data = file.read()
    except OSError:
        return [], place, False
    whole = data[: data.rfind(b"\n") + 1]
    before = 0 if anew else place.read
    lines = [json.loads(line) for line in whole.decode("utf-8", "replace").splitlines()]
    return lines, Place(stat.st_ino, before + len(whole)), anew


def _board(folder: Path, first: int) -> Any:
    """TensorBoard's writer; None where the package is not there, which nobody needs to be told."""
    if importlib.util.find_spec("tensorboard") is None:
        return None
    made = importlib.import_module("torch.utils.tensorboard")
    return made.SummaryWriter(str(folder), purge_step=first + 1)


def _draw(board: Any, report: StepReport) -> None:
    named = {"loss": report.loss, "rate": report.rate, "gradient norm": report.norm}
    for name, value in named.items():
        board.add_scalar(name, value, report.step)
    if report.validation is not None:
        board.add_scalar("validation", report.validation, report.step)
