"""A sweep's points on MODEL and CLIP: files read once, names matched once, the pristine weights shared by all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..account import Account
from ..errors import SweepError
from ..resolve import PartPatches, ResolvedPatches, resolve
from ..stack.interop import read_lora_stack
from ..stack.rows import LoraStack
from ..sweep.axes import Scene, Step
from ..sweep.energy import energy_meter
from ..sweep.points import AXES, Point, Sweep, plan_sweep, point_of, stack_of
from ..sweep.values import AxisOrder
from .modes import apply_in_mode
from .patching import apply_patches
from .presets import presets_for
from .progress import progress_of
from .stacking import identify, open_rows
from .targets import clip_targets, model_targets


@dataclass(frozen=True)
class Swept:
    """models, clips: one for each point, line by line; points that need the same one share it. clips: None without CLIP.

    report: of the first point in full, then what of the others differs.
    """

    models: list[Any]
    clips: list[Any] | None
    sweep: Sweep
    report: str


def sweep_stack(
    model: Any,
    clip: Any,
    lora_stack: Any,
    x: AxisOrder,
    y: AxisOrder,
    matching: str = "auto",
    mode: str = "auto",
) -> Swept:
    """Put every point's stack onto a clone of MODEL (and CLIP). Raises LoraError; then there is nothing.

    matching, mode: as apply_stack has them, so that a point is what Loom Stack gives at its strengths.
    """
    stack = read_lora_stack(lora_stack)
    if not stack.rows:
        raise SweepError("There is nothing to sweep: the LORA_STACK has no rows.")
    opened = open_rows(stack.rows)
    hashes = {item.name: item.hashes.sha256 for item in identify(opened)}
    carried = tuple(replace(item.row, adapter=item.adapter) for item in opened)
    points: list[Point] = []
    scene = Scene(
        LoraStack(carried, stack.notes),
        model_targets(model),
        None if clip is None else clip_targets(clip),
        presets_for(stack),
        lambda: advance(len(points)),
    )
    across, down, steps = plan_sweep(x, y, scene)
    advance = progress_of(len(steps))
    patched, accounts = _Patched(model, clip), []
    energy = _energy_of_swept(x, y, scene, steps)
    for index, pair in enumerate(steps):
        point_stack = stack_of(pair, scene.stack)
        accounts.append(patched.add(point_stack, scene, matching, mode))
        points.append(point_of(index, len(across.labels), pair, scene.stack, energy(point_stack)))
        advance(index + 1)
    sweep = Sweep(across, down, tuple(points), hashes)
    found = [f"{item.row.name}: {note}" for item in opened for note in item.notes]
    report = "\n".join([*found, _report(sweep, accounts)])
    return Swept(patched.models, patched.clips, sweep, report)


def _energy_of_swept(
    x: AxisOrder, y: AxisOrder, scene: Scene, steps: Sequence[tuple[Step, Step]]
) -> Callable[[LoraStack], float | None]:
    """A measure of the rows that the axis with a reference changes; of nothing where there is none."""
    for order, compared in zip((x, y), zip(*steps, strict=True), strict=True):
        if any(step.reference for step in compared):
            return energy_meter(scene, order.row if AXES[order.kind].of_row else 0)
    return lambda _: None


class _Patched:
    """The clones made so far. What was resolved to the same patches is the same clone, so that the host loads it once."""

    def __init__(self, model: Any, clip: Any) -> None:
        self.model, self.clip = model, clip
        self.models: list[Any] = []
        self.clips: list[Any] | None = None if clip is None else []
        # The resolved patches are kept beside the clones, because the keys are made of their ids.
        self._made: dict[Any, tuple[Any, Any, tuple[str, ...], tuple[str, ...]]] = {}

    def add(self, stack: LoraStack, scene: Scene, matching: str, mode: str) -> Account:
        rows = stack.active.rows
        loaded = [(row, row.adapter) for row in rows if row.adapter is not None]
        resolved, account = resolve(loaded, scene.model, scene.clip, matching, scene.presets)
        how, alerts = self._model(resolved, rows, mode)
        if self.clips is not None:
            self.clips.append(self._clip(resolved))
        return Account(account.rows, stack.notes, how, alerts)

    def _model(self, resolved: ResolvedPatches, rows: Sequence[Any], mode: str) -> Any:
        live = tuple((row.model, row.schedule, row.regions) for row in rows)
        key = ("model", live, _content(resolved.model))
        if key not in self._made:
            done = apply_in_mode(
                self.model, None, replace(resolved, clip=PartPatches()), rows, mode
            )
            self._made[key] = (done.model, resolved, done.how, done.alerts)
        made, _, how, alerts = self._made[key]
        self.models.append(made)
        return how, alerts

    def _clip(self, resolved: ResolvedPatches) -> Any:
        key = ("clip", _content(resolved.clip))
        if key not in self._made:
            _, patched = apply_patches(None, self.clip, resolved)
            self._made[key] = (patched, resolved, (), ())
        return self._made[key][0]


def _content(patches: PartPatches) -> tuple[Any, ...]:
    """The same for patches that do the same to a model."""
    return tuple(
        (target, tuple((id(term.adapter), term.row, term.strength, term.factor) for term in terms))
        for target, terms in patches.terms.items()
    )


def _report(sweep: Sweep, accounts: Sequence[Account]) -> str:
    """What is swept, the first point's account, and the warnings that came up later."""
    titles = " against ".join(axis.title for axis in (sweep.x, sweep.y) if axis.title)
    lines = [f"{len(sweep.points)} points: {titles}"]
    for axis in (sweep.x, sweep.y):
        if axis.title:
            lines.append(f"  {axis.title}: {', '.join(axis.labels)}")
    fullest = max(accounts, key=lambda account: len(account.rows))
    lines.append(fullest.report())
    said = set(fullest.warnings)
    for point, account in zip(sweep.points, accounts, strict=True):
        new = [warning for warning in account.warnings if warning not in said]
        said |= set(new)
        lines += [f"at {point.label}: {warning}" for warning in new]
    return "\n".join(lines)
