"""How much the swept rows of a stack add to the weights, at their strengths and block strengths."""

from __future__ import annotations

from collections.abc import Callable

from ..adapters import AdapterFile
from ..analysis.energy import energies
from ..resolve import matches_of
from ..rowblocks import row_blocks
from ..stack.rows import LoraStack, StackRow
from .axes import Scene


def energy_meter(scene: Scene, row: int) -> Callable[[LoraStack], float | None]:
    """A measure of stacks: the energy of the row of this number times its strength squared, for 0 the sum of all rows.

    Rows are taken as independent. None where a row has a kind without a measure (DoRA, OFT, ...). What was measured once is kept.
    """
    wanted = row
    known: dict[tuple[int, str], tuple[AdapterFile, dict[str, float] | None]] = {}

    def of_row(row: StackRow, adapter: AdapterFile) -> dict[str, float] | None:
        key = (id(adapter), row.blocks)
        if key not in known:
            known[key] = (adapter, _by_part(row, adapter, scene))
        return known[key][1]

    def measure(stack: LoraStack) -> float | None:
        total = 0.0
        for number, row in enumerate(stack.rows, start=1):
            if not row.active or wanted not in (0, number):
                continue
            parts = None if row.adapter is None else of_row(row, row.adapter)
            if parts is None:
                return None
            total += row.model**2 * parts["model"] + row.clip**2 * parts["clip"]
        return total

    return measure


def _by_part(row: StackRow, adapter: AdapterFile, scene: Scene) -> dict[str, float] | None:
    """What the row's block strengths leave of its energy, on MODEL and on CLIP."""
    strengths = row_blocks(row, scene.table, scene.presets)
    matches = matches_of(adapter, scene.model, scene.clip)
    found = {}
    for part in ("model", "clip"):
        here = ((match.target, match.adapter) for match in matches if match.part == part)
        measured = energies(here, scene.table, strengths)
        if measured.unmeasured:
            return None
        found[part] = measured.left
    return found
