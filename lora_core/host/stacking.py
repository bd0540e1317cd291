"""The whole way of a stack in one call: names -> files -> patches -> model. What the nodes call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from typing import Any

import torch

from ..account import Account
from ..adapters import AdapterFile
from ..errors import LoraFileError
from ..files.bases import base_of
from ..files.facts import LoraFacts, gather_of
from ..files.finding import Found, Undecided
from ..files.identity import real_stamp
from ..files.parse import parse_state_dict
from ..files.reader import FileStamp, read_adapters
from ..files.sidecars import sidecar_facts
from ..resolve import resolve
from ..stack.interop import StackList
from ..stack.lock import Identified
from ..stack.rows import LoraStack, StackRow
from ..stack.words import joined_words, stack_facts
from ..targets import TargetMap
from .finding import find_known, find_row
from .hashing import hashes_of, known_finite
from .modes import apply_in_mode
from .paths import keep_in_loras
from .presets import own_presets_stamp, presets_for
from .targets import clip_targets, model_targets


@dataclass(frozen=True)
class Applied:
    """A stack on a model. model, clip: patched clones, or what came in where nothing was to be patched.

    account: None where neither MODEL nor CLIP is connected, so that nothing was matched.
    opened: the active rows with their LoRAs. identities: those that came from files, and the files.
    notes: what their finding left to say, a line each. trigger_words, facts: of the active rows, as text.
    """

    model: Any
    clip: Any
    account: Account | None
    opened: tuple[OpenRow, ...]
    identities: tuple[Identified, ...] = ()
    notes: tuple[str, ...] = ()

    @cached_property
    def trigger_words(self) -> str:
        return joined_words(self._known)

    @cached_property
    def facts(self) -> str:
        return stack_facts(self._known)

    @cached_property
    def _known(self) -> list[tuple[StackRow, LoraFacts]]:
        """Read only where somebody asks: sidecars are many small files."""
        return [(item.row, facts_of(item)) for item in self.opened]


@dataclass(frozen=True)
class OpenRow:
    """A row with its LoRA. found: its file, None where it came in memory; stamp: of that file when it was read."""

    row: StackRow
    adapter: AdapterFile
    found: Found | None = None
    stamp: FileStamp | None = None

    @property
    def notes(self) -> tuple[str, ...]:
        return () if self.found is None else self.found.notes


def in_memory_row(tensors: Mapping[str, torch.Tensor], model: float, clip: float) -> StackRow:
    """A row for a LORA_MODEL socket. Raises LoraError.

    It is kept as a file too, because the rows of an outgoing LORA_STACK are names. The tensors are copied to the CPU:
    the node that made them may go on training them.
    """
    owned = {key: tensor.detach().cpu().clone() for key, tensor in tensors.items()}
    adapter = parse_state_dict(owned, "the LORA_MODEL input")
    name = keep_in_loras(owned)
    return StackRow(name, model, clip, adapter=replace(adapter, label=name))


def outgoing(stack: LoraStack, opened: Sequence[OpenRow] = ()) -> StackList:
    """The stack for a LORA_STACK socket: every name as the host lists it. Raises LoraFileError.

    opened: those of its rows whose files were found already.
    """
    names = {item.row: item.found.name for item in opened if item.found is not None}
    names |= {row: row.name for row in stack.rows if row.adapter is not None}
    return StackList(stack, (names.get(row) or find_row(row).name for row in stack.rows))


def apply_stack(
    stack: LoraStack, model: Any, clip: Any, matching: str = "auto", mode: str = "auto"
) -> Applied:
    """Put every active row onto MODEL and CLIP. Raises LoraError; then nothing is applied.

    None stands for a socket that is not connected. With neither, the files are read for their words only.
    mode: see live.mode.choose; it is of the MODEL, a CLIP is always baked.
    """
    opened = open_rows(stack.active.rows)
    identities = identify(opened)
    of_rows = (f"{item.row.name}: {note}" for item in opened for note in item.notes)
    notes = (*stack.notes, *of_rows)
    if model is None and clip is None:
        return Applied(None, None, None, tuple(opened), identities, notes)
    loaded = [(item.row, item.adapter) for item in opened]
    resolved, account = resolve(loaded, *_target_maps(model, clip), matching, presets_for(stack))
    rows = zip(account.rows, opened, strict=True)
    done = apply_in_mode(model, clip, resolved, [item.row for item in opened], mode)
    noted = tuple(replace(row, notes=item.notes) for row, item in rows)
    account = Account(noted, stack.notes, done.how, done.alerts)
    return Applied(done.model, done.clip, account, tuple(opened), identities, notes)


def open_rows(rows: Sequence[StackRow]) -> list[OpenRow]:
    """The LoRA of each row, the one it carries or its file, with what there is to say of the finding. Raises LoraError."""
    found = {row: find_row(row) for row in rows if row.adapter is None}
    stamps = {row: real_stamp(file.path) for row, file in found.items()}
    read = read_adapters(
        [(file.path, file.name, known_finite(stamps[row])) for row, file in found.items()]
    )
    adapters = dict(zip(found, read, strict=True))
    return [
        OpenRow(row, row.adapter)
        if row.adapter is not None
        else OpenRow(row, adapters[row], found[row], stamps[row])
        for row in rows
    ]


def open_row(row: StackRow) -> OpenRow:
    """open_rows for one. Raises LoraError."""
    return open_rows((row,))[0]


def identify(opened: Sequence[OpenRow]) -> tuple[Identified, ...]:
    """The identity of every row that came from a file; files that were never hashed are, under one bar.

    Raises LoraFileError where a file was replaced between reading and hashing it.
    """
    files = [
        (item.row, item.found, item.stamp, base_of(item.adapter))
        for item in opened
        if item.found is not None and item.stamp is not None
    ]
    hashes = hashes_of({stamp: base for _, _, stamp, base in files})
    return tuple(
        Identified(row, found.name, hashes[stamp], base, stamp[2])
        for row, found, stamp, base in files
    )


def load_row(row: StackRow) -> AdapterFile:
    """The LoRA of a row: the one it carries, or its file. Raises LoraError."""
    return open_row(row).adapter


def facts_of(item: OpenRow) -> LoraFacts:
    """What the file and its sidecars say of a row's LoRA; of one in memory only its own metadata speaks."""
    return gather_of(item.adapter, None if item.found is None else item.found.path)


def load_named(name: str) -> AdapterFile:
    """The LoRA of a name in the loras list. Raises LoraError."""
    return load_row(StackRow(name))


def account_for(adapter: AdapterFile, model: Any, clip: Any) -> Account | None:
    """What of a LoRA fits the connected MODEL and CLIP, refusing nothing; None where neither is connected."""
    if model is None and clip is None:
        return None
    rows = [(StackRow(adapter.label), adapter)]
    return resolve(rows, *_target_maps(model, clip), matching="partial")[1]


def _target_maps(model: Any, clip: Any) -> tuple[TargetMap | None, TargetMap | None]:
    on_model = None if model is None else model_targets(model)
    return on_model, None if clip is None else clip_targets(clip)


def stack_stamp(stack: LoraStack) -> str:
    """Changes when any row of the stack means another file; what a node's IS_CHANGED returns. Raises LoraError.

    It changes with the user's own block presets that the rows name. It changes with the sidecars' trigger words too, but not with anything else in a sidecar: an info page that another
    pack opened must not make a graph run again. A digest: the host writes it into every picture's metadata, where the
    paths of a person's folders do not belong.
    """
    stamps = [_row_stamp(row) for row in stack.rows if row.adapter is None]
    presets = own_presets_stamp(row.blocks for row in stack.rows)
    return sha256((repr(stamps) + presets).encode()).hexdigest()


def _row_stamp(row: StackRow) -> tuple[FileStamp, list[str]] | None:
    """Of the file that a row means; where only hashing can tell, of the one under its name, None where there is none."""
    answer = find_known(row)
    path = answer.named if isinstance(answer, Undecided) else answer.path
    if path is None:
        return None
    return real_stamp(path), [word.value for word in sidecar_facts(path).words]


def check_names(stack: LoraStack) -> None:
    """Raises LoraFileError that names every row whose file is surely not there, so that a graph fails before it runs.

    Nothing is hashed: a row that only hashing can find passes, and fails when it runs.
    """
    faults = []
    for row in stack.rows:
        try:
            if row.adapter is None:
                find_known(row)
        except LoraFileError as error:
            faults.append(str(error))
    if faults:
        raise LoraFileError("\n".join(dict.fromkeys(faults)))
