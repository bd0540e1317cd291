"""The weights of a stack's rows, each with its block: what interference and balance go through."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from ..adapters import Adapter, AdapterFile, Difference
from ..files.naming import is_text_encoder
from ..merge.families import unmergeable
from ..merge.layer import weight_of
from ..merge.merge import block_strengths_of
from ..merge.pairing import Group, pair
from ..merge.plan import Rows
from ..merge.weight import Weight
from ..resolve import find_target
from ..stack.blockpresets import BUILT_IN, Preset
from ..stack.blocktable import BlockTable, block_table
from ..targets import TargetMap
from .energy import block_name


@dataclass(frozen=True)
class Grouped:
    """rows: what could be measured of the rows, which keep their places. groups: the weights that they have.

    table: None without a model and a text encoder. presets: what names in block strengths mean. left_out: what has no update of its own, in words.
    """

    rows: Rows
    groups: tuple[Group, ...]
    table: BlockTable | None
    left_out: tuple[str, ...]
    model: TargetMap | None
    clip: TargetMap | None
    presets: Mapping[str, Preset] = field(default_factory=lambda: BUILT_IN)

    def __len__(self) -> int:
        return len(self.groups)

    def weights(self) -> Iterator[tuple[Group, str, Weight | None]]:
        """(group, block, what the rows say about it: None where none acts), one at a time in memory."""
        for group in self.groups:
            yield group, self.block_of(group), weight_of(self.rows, group, 0)

    def key_of(self, group: Group) -> str | None:
        """The model's name of the weight."""
        targets = self.clip if is_text_encoder(group.name) else self.model
        found = None if targets is None else find_target(group.name, group.kind, targets)
        return None if found is None else found.key

    def block_of(self, group: Group) -> str:
        """The model's block; without one, the numbered block in the name."""
        if self.table is None:
            return block_name(group.name)
        place = self.table.places.get(self.key_of(group) or "")
        return "OTHER" if place is None else place.block

    def ordered(self, blocks: Mapping[str, object]) -> tuple[str, ...]:
        """Blocks in the order of the model, or as they came."""
        if self.table is None:
            return tuple(blocks)
        order = [*self.table.blocks, "OTHER"]
        return tuple(sorted(blocks, key=order.index))


def grouped(
    rows: Rows,
    model: TargetMap | None,
    clip: TargetMap | None,
    presets: Mapping[str, Preset] = BUILT_IN,
) -> Grouped:
    """Pair the rows' low-rank weights. Raises MergeError and StackError where a row's block strengths do not fit."""
    measured, left_out = _measurable(rows)
    files = [file for _, file in measured]
    pairing = pair(files, model, clip, block_strengths_of(measured, model, clip, presets))
    table = block_table(model, clip) if model is not None or clip is not None else None
    groups = tuple(group for group in pairing.groups if not group.is_plain or _wide(group))
    return Grouped(measured, groups, table, left_out, model, clip, presets)


def _wide(group: Group) -> bool:
    """Whether all that it has are whole differences of a matrix."""
    adapters = [member.adapter for member in group.members]
    return all(isinstance(each, Difference) and _is_matrix(each) for each in adapters)


def _measurable(rows: Rows) -> tuple[Rows, tuple[str, ...]]:
    """The rows without what has no update of its own, and what that is."""
    kept, left_out = [], []
    for row, file in rows:
        modules: dict[str, Adapter] = {}
        for name, adapter in file.modules.items():
            if (reason := unmergeable(adapter)) is None:
                modules[name] = adapter
            else:
                left_out.append(f"{row.name}: {name}: {reason}")
        differences = {}
        for key, item in file.differences.items():
            if _is_matrix(item):
                differences[key] = item
            else:
                kind = "it replaces the weight" if item.replaces else "a norm or bias"
                left_out.append(f"{row.name}: {key[0]}: {kind}")
        label, metadata = file.label, file.metadata
        kept.append((row, AdapterFile(label, modules, (), metadata, differences)))
    return kept, tuple(left_out)


def _is_matrix(item: Difference) -> bool:
    return item.part == "weight" and item.tensor.dim() >= 2 and not item.replaces
