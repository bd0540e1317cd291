"""A LoRA -> a file in a loras folder: what LoomSave calls."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import folder_paths
import torch

from ..account import describe
from ..errors import SaveError
from ..files.convert import convert
from ..files.dtypes import DTYPES, cast
from ..files.filenames import MOST_BYTES, is_short
from ..files.metadata_edit import PEFT_SETTINGS, edited
from ..files.parse import parse_state_dict
from ..files.reader import read_tensors
from ..files.schemes import KEEP
from ..files.writer import taken, write_lora
from ..folding import fold
from ..rowblocks import row_blocks
from ..stack.blockstrengths import BlockStrengths
from ..stack.blocktable import block_table
from ..stack.interop import read_lora_stack
from ..stack.rows import LoraStack, StackRow
from ..targets import TargetMap
from .finding import find_row
from .paths import find_lora, shelf
from .presets import presets_for
from .targets import clip_targets, model_targets

NO_FILE = "[the LORA_MODEL input]"
FOLDERS = ("output/loras", "models/loras")
REFUSE, NUMBER, OVERWRITE = "refuse", "add a number", "overwrite"
IF_EXISTS = (REFUSE, NUMBER, OVERWRITE)
# What of a row went into the file, for whoever opens it later.
FOLDED_FIELD = "loom_strengths"

_MOST_NUMBERS = 10_000
_NO_NAME = re.compile(
    r'[<>:"|?*\x00-\x1f]|[. ]$|^ |^(?:con|prn|aux|nul|com\d|lpt\d)(?:\.|$)', re.IGNORECASE
)


@dataclass(frozen=True)
class SaveOrder:
    """What to write and how. name: of the file within the folder, with subfolders, without extension.

    scheme: of files.schemes.SCHEMES. dtype: of files.dtypes.DTYPES. folder: of FOLDERS. if_exists: of IF_EXISTS.
    edits, title, words: see files.metadata_edit.edited.
    """

    name: str
    scheme: str = KEEP
    dtype: str = KEEP
    folder: str = FOLDERS[0]
    if_exists: str = REFUSE
    edits: str = ""
    title: str = ""
    words: str = ""


@dataclass(frozen=True)
class Saved:
    """name: as the loras list shows it. report: what was written, in words. tensors: the LoRA that was given."""

    name: str
    report: str
    tensors: Mapping[str, torch.Tensor]


def save_lora(
    lora_model: Mapping[str, torch.Tensor] | None,
    lora_name: str,
    order: SaveOrder,
    model: Any = None,
    clip: Any = None,
    row: StackRow | None = None,
) -> Saved:
    """Write a LORA_MODEL, a file of the loras list, or a row of a stack, as a new file. Raises LoraError; then there is none.

    row: its strengths and block strengths go into the file, which gives the same result at strength 1.
    """
    tensors, metadata, label = _source(lora_model, lora_name, row)
    given, folding = tensors, ()
    on_model = None if model is None else model_targets(model)
    on_clip = None if clip is None else clip_targets(clip)
    owned = {key: tensor.detach().cpu() for key, tensor in tensors.items()}
    adapter = parse_state_dict(owned, label, metadata)
    if row is not None:
        folded = fold(owned, adapter, row, _blocks_of(row, on_model, on_clip), on_model, on_clip)
        given = owned = dict(folded.tensors)
        folding = folded.notes
        metadata = metadata | {FOLDED_FIELD: _said(row)}
        adapter = parse_state_dict(owned, label, metadata)
    path, listed = _place(order)
    converted = convert(owned, adapter, order.scheme, on_model, on_clip)
    final, rounding = cast(converted.tensors, DTYPES[order.dtype], label, converted.dtypes)
    if order.scheme != KEEP:
        metadata = {key: value for key, value in metadata.items() if key != PEFT_SETTINGS}
    metadata = edited(metadata, order.edits, order.title, order.words)
    written = write_lora(final, metadata, path, replace=order.if_exists == OVERWRITE)
    lines = [
        f"saved as {listed} in {order.folder}: {path.stat().st_size / 1e6:.2f} MB, {len(final)} tensors, "
        f"naming {order.scheme}, dtype {order.dtype}",
        f"from {label}: {describe(adapter)}",
        *folding,
        *converted.notes,
        f"rounding: at most {rounding:.1e} of a matrix" if rounding else "values: not rounded",
        f"AutoV3 {written['sshs_model_hash'][:12]}; read back and compared",
    ]
    return Saved(listed, "\n".join(lines), given)


def check_order(name: str | None, lora_name: str | None) -> None:
    """Raises SaveError or LoraFileError for what can be known before the graph runs; None is not known yet."""
    if name is not None:
        name_parts(name)
    if lora_name is not None and lora_name != NO_FILE:
        find_lora(lora_name)


def row_to_save(lora_stack: Any, number: int) -> StackRow | None:
    """The row of a LORA_STACK by its number (1 is the first), None where no stack is connected. Raises SaveError."""
    if lora_stack is None:
        return None
    rows = read_lora_stack(lora_stack).rows
    if not 1 <= number <= len(rows):
        raise SaveError(
            f"Row {number} is not there: the LORA_STACK has {len(rows)} rows. A file holds one of them; 1 is the first."
        )
    return rows[number - 1]


def _blocks_of(
    row: StackRow, model: TargetMap | None, clip: TargetMap | None
) -> BlockStrengths | None:
    """Raises SaveError where the row has block strengths and no model says which weights a block has; StackError."""
    if row.schedule:
        raise SaveError(
            f"'{row.name}' has a schedule, and a file has one strength for all steps. Take the schedule off the row."
        )
    if row.blocks.strip() and model is None:
        raise SaveError(
            f"'{row.name}' has block strengths, and only a model tells which weights a block has. Connect MODEL (and CLIP)."
        )
    return row_blocks(row, block_table(model, clip), presets_for(LoraStack((row,))))


def _said(row: StackRow) -> str:
    return json.dumps({"model": row.model, "clip": row.clip, "blocks": row.blocks})


def _source(
    lora_model: Mapping[str, torch.Tensor] | None, lora_name: str, row: StackRow | None
) -> tuple[Mapping[str, torch.Tensor], dict[str, str], str]:
    """Tensors, metadata, and what messages call them. Raises SaveError where there is not exactly one."""
    given = {
        "a LORA_MODEL": lora_model is not None,
        "a file of the list": lora_name != NO_FILE,
        "a row of a LORA_STACK": row is not None,
    }
    if sum(given.values()) != 1:
        found = [name for name, there in given.items() if there]
        said = (
            "both are given"
            if len(found) == 2
            else "all are given"
            if found
            else "neither is given"
        )
        raise SaveError(
            f"Loom Save writes {' or '.join(found or given)}, and {said}. Connect lora_model or lora_stack and set "
            f"lora_name to {NO_FILE}, or choose a file and connect neither."
        )
    if row is not None:
        found_file = find_row(row)
        return *read_tensors(found_file.path, found_file.name), found_file.name
    if lora_model is not None:
        return lora_model, {}, "the LORA_MODEL input"
    name, path = find_lora(lora_name)
    return *read_tensors(path, name), name


def _place(order: SaveOrder) -> tuple[Path, str]:
    """The file to write and its name in the list. Raises SaveError where the name is taken or hidden."""
    folder = _folder(order.folder)
    *subfolders, stem = name_parts(order.name)
    path = folder.joinpath(*subfolders, f"{stem}.safetensors")
    if not path.resolve().is_relative_to(folder.resolve()):
        raise SaveError(
            f"'{order.name}' leads out of {order.folder} through a link. Choose another subfolder."
        )
    if order.if_exists == NUMBER:
        numbered = (path.with_name(f"{stem}_{n}.safetensors") for n in range(2, _MOST_NUMBERS))
        path = next((p for p in (path, *numbered) if not p.exists()), path)
        if path.exists():
            raise taken(path)
    listed = str(path.relative_to(folder))
    _check_not_hidden(listed, path)
    return path, listed


def _check_not_hidden(listed: str, path: Path) -> None:
    """Two loras folders may hold the same name; loaders open the first."""
    found = shelf().path_of(listed)
    if found is not None and found.resolve() != path.resolve():
        raise SaveError(
            f"Another loras folder has a {listed} already, and every loader would open that one. Choose another name."
        )


def _folder(which: str) -> Path:
    if which == FOLDERS[0]:
        return Path(folder_paths.get_output_directory()) / "loras"
    return Path(folder_paths.get_folder_paths("loras")[0])


def name_parts(name: str) -> list[str]:
    """The subfolders of a loras folder and the file's stem, valid on every system. Raises SaveError."""
    bare = name.strip().replace("\\", "/")
    bare = bare[: -len(".safetensors")] if bare.lower().endswith(".safetensors") else bare
    parts = bare.split("/")
    bad = next((part for part in parts if part in ("", ".", "..") or _NO_NAME.search(part)), None)
    if bad is None and not is_short(bare):
        bad = f"more than {MOST_BYTES} bytes, or no valid text"
    if bad is not None:
        raise SaveError(
            f"{name[:300]!r} cannot be a file name in the loras folder ({bad!r:.300}). "
            "Use letters, digits, spaces, - and _, and / for subfolders."
        )
    return parts
