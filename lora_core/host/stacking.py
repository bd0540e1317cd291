"""The whole way of a stack in one call: names -> files -> patches -> model. What the nodes call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from ..account import Account
from ..adapters import AdapterFile
from ..files.facts import LoraFacts, gather
from ..files.parse import parse_state_dict
from ..files.reader import file_stamp, read_adapter
from ..files.sidecars import sidecar_facts
from ..resolve import resolve
from ..stack.interop import StackList
from ..stack.rows import LoraStack, StackRow
from ..stack.words import joined_words, stack_facts
from ..targets import TargetMap
from .patching import apply_patches
from .paths import find_lora, keep_in_loras
from .targets import clip_targets, model_targets


@dataclass(frozen=True)
class Applied:
    """A stack on a model. model, clip: patched clones, or what came in where nothing was to be patched.

    account: None where neither MODEL nor CLIP is connected, so that nothing was matched.
    trigger_words, facts: of the active rows, as text.
    """

    model: Any
    clip: Any
    account: Account | None
    trigger_words: str
    facts: str = ""


def in_memory_row(tensors: Mapping[str, torch.Tensor], model: float, clip: float) -> StackRow:
    """A row for a LORA_MODEL socket. Raises LoraError.

    It is kept as a file too, because the rows of an outgoing LORA_STACK are names. The tensors are copied to the CPU:
    the node that made them may go on training them.
    """
    owned = {key: tensor.detach().cpu().clone() for key, tensor in tensors.items()}
    adapter = parse_state_dict(owned, "the LORA_MODEL input")
    name = keep_in_loras(owned)
    return StackRow(name, model, clip, adapter=replace(adapter, label=name))


def outgoing(stack: LoraStack) -> StackList:
    """The stack for a LORA_STACK socket: every name as the host lists it. Raises LoraFileError."""
    return StackList(stack, [find_lora(row.name)[0] for row in stack.rows])


def apply_stack(stack: LoraStack, model: Any, clip: Any, matching: str = "auto") -> Applied:
    """Put every active row onto MODEL and CLIP. Raises LoraError; then nothing is applied.

    None stands for a socket that is not connected. With neither, the files are read for their words only.
    """
    loaded = [(row, load_row(row)) for row in stack.active.rows]
    known = [(row, row_facts(row, adapter)) for row, adapter in loaded]
    words, facts = joined_words(known), stack_facts(known)
    if model is None and clip is None:
        return Applied(None, None, None, words, facts)
    resolved, account = resolve(loaded, *_target_maps(model, clip), matching)
    new_model, new_clip = apply_patches(model, clip, resolved)
    return Applied(new_model, new_clip, account, words, facts)


def load_row(row: StackRow) -> AdapterFile:
    """The LoRA of a row: the one it carries, or its file. Raises LoraError."""
    if row.adapter is not None:
        return row.adapter
    name, path = find_lora(row.name)
    return read_adapter(path, name)


def row_facts(row: StackRow, adapter: AdapterFile) -> LoraFacts:
    """What the file and its sidecars say of a row's LoRA; of one in memory only its own metadata speaks."""
    path = None if row.adapter is not None else find_lora(row.name)[1]
    return gather(adapter.metadata, path)


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
    """Changes when any file of the stack is replaced; what a node's IS_CHANGED returns. Raises LoraError.

    It changes with the sidecars' trigger words too, but not with anything else in a sidecar: an info page that another
    pack opened must not make a graph run again.
    """
    paths = [find_lora(row.name)[1] for row in stack.rows if row.adapter is None]
    words = [[word.value for word in sidecar_facts(path).words] for path in paths]
    return repr([file_stamp(path)[1:] for path in paths] + [named for named in words if named])


def check_names(stack: LoraStack) -> None:
    """Raises LoraFileError at the first row whose file is not there, so that a graph fails before it runs."""
    for row in stack.rows:
        if row.adapter is None:
            find_lora(row.name)
