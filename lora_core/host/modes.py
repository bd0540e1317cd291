"""A resolved stack onto MODEL and CLIP in the mode that fits, with the words that say which and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..live.mode import choose
from ..live.plan import LivePlan, plan
from ..resolve import PartPatches, ResolvedPatches
from ..stack.rows import StackRow
from .live import apply_live, traits_of, why_not_live
from .live_state import live_row
from .patching import apply_patches
from .targets import model_targets


@dataclass(frozen=True)
class Done:
    """model, clip: patched clones or what came in. how, alerts: as in Account."""

    model: Any
    clip: Any
    how: tuple[str, ...] = ()
    alerts: tuple[str, ...] = ()


def apply_in_mode(
    model: Any, clip: Any, resolved: ResolvedPatches, rows: Sequence[StackRow], mode: str
) -> Done:
    """Apply the patches that `rows` were resolved to. Raises PatchError, and StackError for an unknown mode.

    What cannot run live is baked, in the same call; a CLIP is always baked.
    """
    if model is None:
        return Done(*apply_patches(model, clip, resolved))
    scheduled = [row.name for row in rows if row.schedule and row.model != 0]
    regional = [row.name for row in rows if row.regions and row.model != 0]
    choice = choose(mode, scheduled, traits_of(model), regional)
    if not resolved.model.terms:
        return Done(*apply_patches(model, clip, resolved))
    if not choice.live:
        how = f"MODEL: baked into the weights ({choice.why})"
        alerts = [f"{name}: its schedule has no effect, the mode is baked" for name in scheduled]
        alerts += [f"{name}: its region has no effect, the mode is baked" for name in regional]
        return Done(*apply_patches(model, clip, resolved), (how,), tuple(alerts))
    found = plan(resolved.model, why_not_live(model))
    new_model, new_clip = apply_patches(model, clip, replace(resolved, model=found.baked))
    if found.layers:
        new_model = apply_live(new_model, found, model_targets(model), [live_row(r) for r in rows])
    return Done(new_model, new_clip, _how(found, choice.why), _left_out(found, rows))


def _how(found: LivePlan, why: str) -> tuple[str, ...]:
    """Which mode, and every weight that is baked all the same, by reason."""
    lines = [f"MODEL: live, {len(found.layers)} layers ({why})"]
    by_reason: dict[str, list[str]] = {}
    for key, reason in found.reasons.items():
        by_reason.setdefault(reason, []).append(key)
    lines += [
        f"  baked all the same, because {reason}: {len(keys)} ({', '.join(sorted(keys))})"
        for reason, keys in by_reason.items()
    ]
    return tuple(lines)


def _left_out(found: LivePlan, rows: Sequence[StackRow]) -> tuple[str, ...]:
    """The rows with a schedule or a region that have something in the weights, where strengths stay as they are."""
    counts = _terms_by_row(found.baked)
    said = []
    for number, row in enumerate(rows):
        count = counts.get(number)
        if count and row.schedule:
            said.append(
                f"{row.name}: {count} of its weights cannot follow the schedule and stay at {row.model:g}"
            )
        if count and row.regions:
            said.append(f"{row.name}: {count} of its weights act everywhere, not in its region")
    return tuple(said)


def _terms_by_row(patches: PartPatches) -> dict[int, int]:
    counts: dict[int, int] = {}
    for terms in patches.terms.values():
        for term in terms:
            counts[term.row] = counts.get(term.row, 0) + 1
    return counts
