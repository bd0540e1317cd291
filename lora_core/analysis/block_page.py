"""What the page's block editor is told: which blocks there are, vectors and presets, energies. Plain data for JSON.

Blocks are told in one line of names: "BASE TE:CLIPL IN00-IN11 M00 OUT00-OUT11". A run of numbers is a range; "TE:" marks a
text encoder, which has one slider for all its layers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..stack.blockpresets import Preset
from ..stack.blockselect import listed
from ..stack.blocktable import BlockTable
from ..stack.blockvectors import KINDS, LAYOUTS
from .energy import Energies

# Encoders that a family's models have; a run tells the real ones apart (CLIPL, T5XXL).
_ENCODERS = "TE:TE"
_GROUPS_OF_ENCODERS = ("TE", "CLIP", "T5", "BASE")


def editor_tables(presets: Mapping[str, Preset]) -> dict[str, Any]:
    """What the editor knows before the first run.

    families: a name -> its blocks in one line. layouts: model -> the names that its vectors stand for.
    presets: name -> text.
    """
    families: dict[str, str] = {}
    for kind, layouts in LAYOUTS.items():
        for layout in layouts:
            blocks = [name for name in layout.names if _prefix(name) in KINDS[kind]]
            if any("." in name for name in layout.names) or set(map(_prefix, blocks)) != set(
                KINDS[kind]
            ):
                continue  # leaves a kind of block out, or counts one block several times (M00.0)
            edges = [name for name in ("IN", "OUT") if name in layout.names]
            told = ["BASE", _ENCODERS, *edges[:1], _spans(blocks), *edges[1:]]
            families.setdefault(f"{kind}, {len(blocks)} blocks", " ".join(told))
    return {
        "families": families,
        "layouts": {
            kind: [" ".join(layout.names) for layout in found] for kind, found in LAYOUTS.items()
        },
        "presets": {name: preset.text for name, preset in presets.items()},
    }


def _prefix(name: str) -> str:
    """IN of IN04, nothing for a name without a number."""
    match = re.fullmatch(r"([A-Z]+)\d+", name)
    return match[1] if match else ""


def block_names(table: BlockTable) -> str:
    """The blocks of a model, in its order, in one line."""
    encoders = [name for name in table.groups if name not in _GROUPS_OF_ENCODERS]
    edges = [name for name in ("IN", "OUT", "OTHER") if name in table.weights]
    first, last = edges[:1] if edges[:1] == ["IN"] else [], [e for e in edges if e != "IN"]
    numbered = _spans(table.numbered())
    told = ["BASE", *(f"TE:{name}" for name in encoders), *first, numbered, *last]
    return " ".join(name for name in told if name)


def energy_shares(found: Energies, table: BlockTable) -> dict[str, float]:
    """Slider's name -> its share of one LoRA's energy, 0 to 1; only the blocks that the LoRA has."""
    total = found.total or 1.0
    encoder = {
        block: name
        for name, blocks in table.groups.items()
        if name not in _GROUPS_OF_ENCODERS
        for block in blocks
    }
    shares: dict[str, float] = {}
    for each in found.blocks:
        name = encoder.get(each.block, each.block)
        shares[name] = shares.get(name, 0.0) + each.energy / total
    return {name: float(f"{share:.4g}") for name, share in shares.items()}


def _spans(blocks: Sequence[str]) -> str:
    return listed(blocks).replace(", ", " ")
