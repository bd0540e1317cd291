"""What every benchmark needs: the machine in words, interleaved timing, a table and a JSON."""

from __future__ import annotations

import ctypes
import gc
import json
import platform
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch


@dataclass(frozen=True)
class BenchRow:
    """One case. ratio = rival / ours: for time, memory and error, above 1 is better for us."""

    case: str
    unit: str
    ours: float
    rival: float

    @property
    def ratio(self) -> float:
        return self.rival / self.ours


def interleaved(
    ours: Callable[[], float], rival: Callable[[], float], rounds: int
) -> tuple[list[float], list[float]]:
    """What two measurements give, taken in turns that change order, so that a slow moment hits both."""
    taken: tuple[list[float], list[float]] = ([], [])
    for turn in range(rounds):
        order = ((ours, taken[0]), (rival, taken[1]))
        for measure, values in order if turn % 2 == 0 else order[::-1]:
            values.append(measure())
    return taken


def seconds(run: Callable[[], object]) -> float:
    """Wall seconds of one call, with the accelerator's work finished."""
    _synchronize()
    start = time.perf_counter()
    run()
    _synchronize()
    return time.perf_counter() - start


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def reset_peak() -> int:
    """Bytes in use now, on the accelerator where there is one; `peak` counts from here. Linux only."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    return reset_resident_peak()


def peak() -> int:
    """The most bytes in use since `reset_peak`."""
    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else resident_peak()


def reset_resident_peak() -> int:
    """Bytes of memory that the process has now; `resident_peak` counts from here."""
    # Freed memory that the allocator keeps would hide a later peak.
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def resident_peak() -> int:
    return _status("VmHWM")


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def median_row(
    case: str, ours: Iterable[float], rival: Iterable[float], unit: str = "s"
) -> BenchRow:
    return BenchRow(case, unit, statistics.median(ours), statistics.median(rival))


def machine() -> str:
    """CPU and accelerator model, threads and torch, without any name of the computer."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text("utf-8", "replace").splitlines()
        cpu = next(
            (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), cpu
        )
    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "no GPU"
    return f"{cpu}, {torch.get_num_threads()} threads, {gpu}, torch {torch.__version__}"


def told(rows: list[BenchRow]) -> list[BenchRow]:
    """The rows, printed as soon as they are known: a long bench that is cut off has said what it found."""
    for row in rows:
        print(_line(row, 0), flush=True)
    return rows


def _line(row: BenchRow, width: int) -> str:
    figures = f"{row.ours:10.4g}  {row.rival:10.4g}  {row.ratio:6.2f}x  {row.unit}"
    return f"{row.case:<{width}}  {figures}"


def publish(bench: str, rows: list[BenchRow], path: str | None) -> None:
    """Print the table; write the JSON where asked."""
    width = max(len(row.case) for row in rows)
    print(f"\n{bench} on {machine()}; ratio = rival / ours, above 1 is better")
    print(f"{'case':<{width}}  {'ours':>10}  {'rival':>10}  {'ratio':>7}  unit")
    for row in rows:
        print(_line(row, width))
    if path:
        document = {
            "bench": bench,
            "machine": machine(),
            "rows": [asdict(row) | {"ratio": row.ratio} for row in rows],
        }
        Path(path).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
