"""The blocks of a network, each computed again in backward, or compiled by torch, for as long as it is trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

Forward = Callable[..., Any]


def blocks_of(network: torch.nn.Module) -> dict[str, torch.nn.Module]:
    """Path -> block: the elements of the outermost ModuleLists; of a Sequential among them, its own parts.

    A host may call the parts of a Sequential one by one, never it itself.
    """
    found: dict[str, torch.nn.Module] = {}

    def look(path: str, module: torch.nn.Module, inside: bool) -> None:
        for name, child in module.named_children():
            here = f"{path}.{name}" if path else name
            if isinstance(child, torch.nn.ModuleList | torch.nn.Sequential):
                look(here, child, inside or isinstance(child, torch.nn.ModuleList))
            elif inside and any(True for _ in child.parameters()):
                found[here] = child
            elif not inside:
                look(here, child, inside)

    look("", network, False)
    return found


@contextmanager
def wrapped_blocks(
    network: torch.nn.Module, again: bool = False, compiled: bool = False
) -> Iterator[None]:
    """again: keep of each block its inputs alone. compiled: let torch compile it. Within the block of code only."""
    chosen = blocks_of(network) if again or compiled else {}
    before = {path: block.__dict__.get("forward") for path, block in chosen.items()}
    try:
        for block in chosen.values():
            forward: Forward = block.forward
            if compiled:
                forward = torch.compile(forward)
            block.__dict__["forward"] = _again(forward) if again else forward
        yield
    finally:
        for path, block in chosen.items():
            block.__dict__.pop("forward", None)
            if before[path] is not None:
                block.__dict__["forward"] = before[path]


def _again(forward: Forward) -> Forward:
    def run(*inputs: Any, **named: Any) -> Any:
        # A host tells its blocks where they are in a dict that it changes as it goes on: the second time must be told
        # what the first was.
        inputs = tuple(dict(each) if isinstance(each, dict) else each for each in inputs)
        named = {k: dict(each) if isinstance(each, dict) else each for k, each in named.items()}
        if not torch.is_grad_enabled():
            return forward(*inputs, **named)
        return checkpoint(forward, *inputs, use_reentrant=False, preserve_rng_state=False, **named)

    return run
