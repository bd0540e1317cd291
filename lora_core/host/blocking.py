"""Block strengths onto a stack, with what they leave of each LoRA on a connected model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from ..analysis.block_page import block_names, energy_shares
from ..analysis.draw import as_images, energy_chart, message
from ..analysis.energy import block_line, energies, energy_table
from ..resolve import matches_of
from ..rowblocks import row_blocks
from ..stack.blockpresets import Preset
from ..stack.blockrows import widgets_text, with_blocks
from ..stack.blocktable import BlockTable, block_table
from ..stack.interop import StackList, read_lora_stack
from ..stack.rows import StackRow
from ..targets import TargetMap
from .presets import block_presets
from .stacking import load_row, outgoing
from .targets import clip_targets, model_targets

_OTHER_PACKS = "The strengths of blocks travel beside the list: Loom nodes read them, other packs apply the rows without them."


@dataclass(frozen=True)
class Blocked:
    """stack: for the LORA_STACK socket. images: (rows, height, width, 3) float32, a chart for each row.

    page: what the page's editor is told: nothing without a MODEL, else one item with the model's block names and each
    row's share of energy by name.
    """

    stack: StackList
    report: str
    images: torch.Tensor
    page: list[dict[str, Any]]


def block_stack(
    lora_stack: Any,
    blocks: str,
    row: int,
    dialect: str,
    preset: str,
    seed: int,
    model: Any = None,
    clip: Any = None,
) -> Blocked:
    """Put block strengths onto rows of a LORA_STACK. Raises LoraError.

    With a MODEL (or CLIP) connected the text is checked on its blocks, and the energy that is left is measured and
    drawn; without, only the form of the text is.
    """
    presets = block_presets()
    text = widgets_text(blocks, dialect, preset, seed, presets)
    stack = with_blocks(read_lora_stack(lora_stack), text, row)
    rows = [each for number, each in enumerate(stack.rows, start=1) if row in (0, number)]
    page: list[dict[str, Any]] = []
    if model is None and clip is None:
        said = ["Connect MODEL to see which blocks are touched and what energy is left."]
        said += [f"{each.name}: {each.blocks or 'no block strengths'}" for each in rows]
        pictures = [message("Connect MODEL to Loom Blocks\nto see the energy of each block.")]
    else:
        on_model = None if model is None else model_targets(model)
        on_clip = None if clip is None else clip_targets(clip)
        table = block_table(on_model, on_clip)
        shown = [_measured(each, on_model, on_clip, table, presets) for each in rows]
        said = [report for report, _, _ in shown]
        pictures = [picture for _, picture, _ in shown] or [message("The stack has no rows.")]
        if model is not None:
            page = [{"blocks": block_names(table), "rows": [told for _, _, told in shown]}]
    if any(each.blocks for each in stack.rows):
        said.append(_OTHER_PACKS)
    return Blocked(outgoing(stack), "\n".join(said), as_images(pictures), page)


def _measured(
    row: StackRow,
    model: TargetMap | None,
    clip: TargetMap | None,
    table: BlockTable,
    presets: dict[str, Preset],
) -> tuple[str, Image.Image, dict[str, Any]]:
    """Report and chart of one row, and what the page is told of it."""
    adapter = load_row(row)
    strengths = row_blocks(row, table, presets)
    found = energies(
        ((m.target, m.adapter) for m in matches_of(adapter, model, clip)), table, strengths
    )
    lines = [
        f"{row.name}: {'no block strengths' if strengths is None else block_line(found, strengths)}"
    ]
    if strengths is not None:
        lines += [f"  {reading}" for reading in strengths.readings]
    told = {"name": row.name, "share": energy_shares(found, table)}
    return "\n".join([*lines, energy_table(found)]), energy_chart(found, row.name), told
