"""The order and the encoded data of a job: which showing at which step, and each rank's share of every batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import torch

from .job import Shard, TrainJob
from .loop import TrainBatch
from .ranks import Ranks

# What SDXL is told of a picture, in the order of the table.
SIZES = ("width", "height", "crop_w", "crop_h", "target_width", "target_height")
ORDER = "order"


@dataclass(frozen=True)
class Showing:
    """One sample: the places of its picture and its text among the job's, and the counters that it is drawn by."""

    picture: int
    text: int
    number: int
    epoch: int
    preserved: bool
    weight: float


@dataclass(frozen=True, eq=False)
class Order:
    """Every showing of a run, in its order, and where each micro-step begins.

    rows: (samples, 5) whole numbers as Showing has them. weights: (samples,). first: (micro-steps + 1,) into rows.
    held: (pictures, 5) of those held out. sizes: (variants of pictures, 6), as SIZES.
    """

    rows: torch.Tensor
    weights: torch.Tensor
    first: torch.Tensor
    held: torch.Tensor
    sizes: torch.Tensor

    def tensors(self) -> dict[str, torch.Tensor]:
        return {name: getattr(self, name) for name in ("rows", "weights", "first", "held", "sizes")}


def order_of(
    batches: Sequence[Sequence[Showing]],
    held: Sequence[Showing],
    sizes: Sequence[Sequence[int]],
) -> Order:
    """batches: of each micro-step."""
    first = [0]
    for batch in batches:
        first.append(first[-1] + len(batch))
    every = [showing for batch in batches for showing in batch]
    return Order(
        _table(every),
        torch.tensor([each.weight for each in every], dtype=torch.float32),
        torch.tensor(first),
        _table(held),
        torch.tensor([list(each) for each in sizes]).reshape(len(sizes), len(SIZES)),
    )


def _table(showings: Sequence[Showing]) -> torch.Tensor:
    rows = [(s.picture, s.text, s.number, s.epoch, int(s.preserved)) for s in showings]
    return torch.tensor(rows, dtype=torch.int64).reshape(len(rows), 5)


class JobData:
    """The pieces of a job, read from its files when they are asked for, on the device that trains."""

    def __init__(self, job: TrainJob, folder: Path, device: Any) -> None:
        self._device = device
        self._files = [_opened(folder / shard.name) for shard in job.shards if _is_data(shard)]
        self._parts: dict[str, dict[str, int]] = {}
        for place, file in enumerate(self._files):
            for key in file.keys():  # noqa: SIM118 - no mapping
                name, _, part = key.rpartition("/")
                self._parts.setdefault(name, {})[part] = place
        self.order = Order(**self.pieces(ORDER))

    def pieces(self, name: str) -> dict[str, torch.Tensor]:
        """A group of tensors by its name, on the CPU; empty where there is none."""
        parts = self._parts.get(name, {})
        return {p: self._files[place].get_tensor(f"{name}/{p}") for p, place in parts.items()}

    def names(self, start: str) -> list[str]:
        """Of the groups whose name begins so."""
        return [name for name in self._parts if name.startswith(start)]

    def text(self, name: str) -> dict[str, Any]:
        """A conditioning, under the host's names of it."""
        said = {part: value.to(self._device) for part, value in self.pieces(name).items()}
        said["cross_attn"] = said.pop("cond")
        return said

    def batch(self, step: int, ranks: Ranks) -> TrainBatch | None:
        """A rank's share of the batch of a micro-step, by the samples' numbers over the whole run; None without one.

        In step, every rank gets as many samples: one that has fewer shows another's again, with no weight.
        """
        first, last = (int(each) for each in self.order.first[step : step + 2])
        mine = list(ranks.share(first, last))
        weights = [float(self.order.weights[row]) for row in mine]
        if ranks.in_step:
            missing = -(-(last - first) // ranks.world) - len(mine)
            mine, weights = mine + [first] * missing, weights + [0.0] * missing
        if not mine:
            return None
        asked = ranks.in_step and bool(self.order.rows[first:last, 4].any())
        return self._batch(self.order.rows[mine], weights, last - first, asked)

    def one(self, step: int) -> TrainBatch:
        """The first sample of a micro-step."""
        row = int(self.order.first[step])
        return self._batch(self.order.rows[row : row + 1], [1.0], 1, False)

    def held_out(self) -> list[TrainBatch]:
        """The pictures for validation, one a batch."""
        held = self.order.held
        return [self._batch(held[n : n + 1], [1.0], 1, False) for n in range(len(held))]

    def _batch(
        self, rows: torch.Tensor, weights: Sequence[float], of: int, compared: bool
    ) -> TrainBatch:
        shown = [[int(value) for value in row] for row in rows]
        pictures = [self.pieces(f"picture/{picture}") for picture, *_ in shown]
        latents = torch.stack([each["latent"] for each in pictures])
        masks = None
        if any("mask" in each for each in pictures):
            whole = torch.ones_like(latents[0, :1])
            masks = torch.stack([each.get("mask", whole) for each in pictures]).to(self._device)
        preserved = tuple(bool(row[4]) for row in shown)
        return TrainBatch(
            latents.to(self._device),
            tuple(self.text(f"text/{row[1]}") | self._sizes(row[0]) for row in shown),
            torch.tensor(weights),
            tuple((row[2], row[3]) for row in shown),
            masks,
            preserved if any(preserved) else (),
            of,
            compared,
        )

    def _sizes(self, picture: int) -> dict[str, int]:
        return dict(zip(SIZES, self.order.sizes[picture].tolist(), strict=True))


def _is_data(shard: Shard) -> bool:
    return shard.name.startswith("data-")


def _opened(path: Path) -> Any:
    # Never closed: the tensors are read from it as long as the training runs.
    return safetensors.safe_open(path, framework="pt", device="cpu")
