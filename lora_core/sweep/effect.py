"""How much each point of a sweep changes the picture and the latent, beside the energy that it takes or brings."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch

from ..errors import SweepError
from .points import Point, Sweep


@dataclass(frozen=True)
class Effect:
    """One step against its reference, as means over the lines and the pictures of a batch.

    picture: root mean square difference of the colours, 0 to 1 of their range. latent: norm of the difference over the
    norm of the reference's latent, None without latents. energy: share of the swept rows' energy by which the two
    differ, None where it was not measured.
    """

    label: str
    picture: float
    latent: float | None = None
    energy: float | None = None


@dataclass(frozen=True)
class Effects:
    """title: what was swept. against: the reference's label. steps: in the order of the sweep."""

    title: str
    against: str
    steps: tuple[Effect, ...]


def as_points(tensors: Sequence[torch.Tensor], sweep: Sweep, what: str) -> list[torch.Tensor]:
    """One (batch, ...) tensor for each point; a single batch of as many is taken apart. Raises SweepError."""
    count = len(sweep.points)
    if len(tensors) == 1 and count > 1 and tensors[0].shape[0] == count:
        return list(tensors[0].split(1))
    if len(tensors) != count:
        raise SweepError(
            f"The sweep has {count} points, and {len(tensors)} {what} came. Connect what was made from the outputs of "
            "this very Loom Sweep, one for each point."
        )
    return list(tensors)


def effects(
    sweep: Sweep, images: Sequence[torch.Tensor], latents: Sequence[torch.Tensor] | None = None
) -> Effects:
    """images: (batch, height, width, 3) of 0 to 1 for each point; latents: (batch, channels, ...) for each, or None.

    Raises SweepError: the sweep has nothing to compare with, or the pictures are not those of its points.
    """
    pictures = as_points(images, sweep, "pictures")
    hidden = None if latents is None else as_points(latents, sweep, "latents")
    place = {id(point): number for number, point in enumerate(sweep.points)}
    # By place and not by label: two LoRAs of one short name are two steps.
    found: dict[tuple[int, str], list[tuple[Point, Point]]] = {}
    for point in sweep.points:
        reference = sweep.reference_of(point)
        if reference is not None and reference is not point and not point.reference:
            across = point.col != reference.col
            step = (point.col, point.x) if across else (point.row, point.y)
            found.setdefault(step, []).append((point, reference))
    if not found:
        raise SweepError(
            "This sweep has no point to compare the others with. Sweep 'blocks: leave one out', 'blocks: only one', or "
            "the same of rows."
        )
    whole = max((point.energy or 0.0 for point in sweep.points), default=0.0)

    def measured(label: str, pairs: list[tuple[Point, Point]]) -> Effect:
        at = [(place[id(point)], place[id(reference)]) for point, reference in pairs]
        shares = [_energy(point, reference, whole) for point, reference in pairs]
        known = [share for share in shares if share is not None]
        return Effect(
            label,
            _mean([_difference(pictures[a], pictures[b]) for a, b in at]),
            None if hidden is None else _mean([_relative(hidden[a], hidden[b]) for a, b in at]),
            _mean(known) if len(known) == len(shares) else None,
        )

    first = next(iter(found.values()))[0]
    by_x = first[0].col != first[1].col
    return Effects(
        (sweep.x if by_x else sweep.y).title,
        first[1].x if by_x else first[1].y,
        tuple(measured(label, pairs) for (_, label), pairs in found.items()),
    )


def _difference(picture: torch.Tensor, reference: torch.Tensor) -> float:
    """Mean over the batch of each picture's root mean square difference."""
    _check_shapes(picture, reference)
    squares = (_wide(picture) - _wide(reference)).square().flatten(1)
    return float(squares.mean(dim=1).sqrt().mean())


def _relative(latent: torch.Tensor, reference: torch.Tensor) -> float:
    _check_shapes(latent, reference)
    change = (_wide(latent) - _wide(reference)).flatten(1).norm(dim=1)
    return float((change / _wide(reference).flatten(1).norm(dim=1).clamp_min(1e-12)).mean())


def _wide(tensor: torch.Tensor) -> torch.Tensor:
    """In float64 on the CPU, because not every device has it."""
    return tensor.cpu().double()


def _check_shapes(one: torch.Tensor, other: torch.Tensor) -> None:
    if one.shape != other.shape:
        raise SweepError(
            f"Pictures of different sizes cannot be compared: {tuple(one.shape)} and {tuple(other.shape)}. "
            "Give all points one size and one batch."
        )


def _energy(point: Point, reference: Point, whole: float) -> float | None:
    if point.energy is None or reference.energy is None or whole == 0:
        return None
    return abs(point.energy - reference.energy) / whole


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def effect_table(found: Effects) -> str:
    """A line a step: what changes, the strongest first."""
    width = max(len(step.label) for step in found.steps)
    head = (
        f"{found.title}; against '{found.against}'\n  {'':<{width}}   picture    latent    energy"
    )
    rows = [
        f"  {s.label:<{width}}  {_percent(s.picture)}  {_percent(s.latent)}  {_percent(s.energy)}"
        for s in sorted(found.steps, key=lambda step: -step.picture)
    ]
    return "\n".join([head, *rows])


def effect_json(found: Effects) -> str:
    return json.dumps({"version": 1} | asdict(found), indent=1) + "\n"


def _percent(share: float | None) -> str:
    return f"{'-':>8}" if share is None else f"{100 * share:6.2f} %"
