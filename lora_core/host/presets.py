"""Block presets: the built-in ones and those of the user's files."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import folder_paths

from ..analysis.block_page import editor_tables
from ..errors import StackError
from ..stack.blockpresets import BUILT_IN, Preset, known_presets, read_preset_files
from ..stack.blockrows import NO_PRESET
from ..stack.rows import LoraStack


def block_presets() -> dict[str, Preset]:
    """Built-in presets and those of the user's files. Raises StackError for a file that is no text."""
    return known_presets(read_preset_files(_preset_files()))


def preset_names() -> list[str]:
    """The names for a choice list. A preset file that cannot be read adds none here: the run names it."""
    return [NO_PRESET, *_readable_presets()]


def editor_data() -> dict[str, Any]:
    """What the page's block editor knows before the first run."""
    return editor_tables(_readable_presets())


def _readable_presets() -> dict[str, Preset]:
    try:
        return block_presets()
    except StackError:
        return BUILT_IN


def preset_stamp(preset: str, blocks: str = "") -> str:
    """Changes when what a preset says changes, the chosen one or one of the user's own that stands in a text."""
    found = block_presets().get(preset)
    chosen = "" if found is None else f"{found.dialect} {found.text}"
    return chosen + own_presets_stamp((blocks,))


def own_presets_stamp(texts: Iterable[str]) -> str:
    """What the user's own presets say whose names may stand in these block strengths; "" for none."""
    folded = "\n".join(filter(str.strip, texts)).casefold()
    if not folded:
        return ""
    said = [
        f"{name}: {preset.dialect} {preset.text}"
        for name, preset in sorted(block_presets().items())
        if BUILT_IN.get(name) != preset and name.casefold() in folded
    ]
    return "\n".join(said)


def _preset_files() -> list[Path]:
    """All text files of <user folder>/lora_loom, and the Inspire Pack's file of own presets where it is installed."""
    own = Path(folder_paths.get_user_directory()) / "lora_loom"
    packs = [Path(folder) for folder in folder_paths.get_folder_paths("custom_nodes")]
    installed = [
        path
        for folder in packs
        for path in folder.glob("*[Ii]nspire*/resources/lbw-preset.custom.txt")
    ]
    return [*sorted(installed), *sorted(own.glob("*.txt"))]


def presets_for(stack: LoraStack) -> dict[str, Preset]:
    """What preset names mean in a stack's rows; the user's files are read only where a row has block strengths."""
    return block_presets() if any(row.blocks.strip() for row in stack.rows) else BUILT_IN
