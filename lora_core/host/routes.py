"""What the pack answers over HTTP, for its own widgets. ROUTES is all there is; each says what it reads and changes."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from ..errors import LoraFileError
from . import training_routes
from .answers import as_json
from .lorafacts import blocks_fault, lora_facts

log = logging.getLogger(__name__)

Handler = Callable[[Any], Awaitable[Any]]


async def answer_facts(request: Any) -> Any:
    """GET /loom/facts?name=NAME[&blocks=TEXT]: what is known of one file of the loras folders. Changes nothing.

    The name is found as a run finds it, and never leaves the loras folders; the file's header, its sidecars and the
    index are read, nothing is hashed. blocks: checked as block strengths; "blocks_fault" says what is wrong with them.
    """
    name, blocks = request.query.get("name", ""), request.query.get("blocks")
    if not name.strip() or "\0" in name:
        return _refused("Name a LoRA: /loom/facts?name=style.safetensors")
    try:
        facts = await asyncio.to_thread(lora_facts, name)
    except LoraFileError as error:
        return _refused(str(error))
    if blocks is not None:
        facts["blocks_fault"] = await asyncio.to_thread(blocks_fault, blocks)
    return as_json(facts)


def _refused(message: str) -> Any:
    return as_json({"error": message}, 400)


ROUTES: dict[tuple[str, str], Handler] = {
    ("GET", "/loom/facts"): answer_facts,
    **training_routes.ROUTES,
}


def add_routes() -> None:
    """Put ROUTES into the running server, once; without a server (in a script, in a test) there is nothing to do."""
    server = getattr(sys.modules.get("server"), "PromptServer", None)
    instance = getattr(server, "instance", None)
    if instance is None:
        return
    # Static folders stand in the same list, and have no method.
    taken = {
        (getattr(each, "method", None), each.path)
        for each in instance.routes
        if hasattr(each, "path")
    }
    for (method, path), handler in ROUTES.items():
        if (method, path) in taken:
            log.warning("LoRA Loom: %s %s is taken. Is the pack installed twice?", method, path)
        else:
            instance.routes.route(method, path)(handler)
