"""What the pack answers over HTTP; the host answers each under /api too. ROUTES is all there is."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from typing import Any

from . import training_routes

Handler = Callable[[Any], Awaitable[Any]]
ROUTES: dict[tuple[str, str], Handler] = {**training_routes.ROUTES}


def add_routes() -> None:
    """Put ROUTES into the running server; without a server (in a script, in a test) there is nothing to do."""
    server = getattr(sys.modules.get("server"), "PromptServer", None)
    instance = getattr(server, "instance", None)
    if instance is None:
        return
    for (method, path), handler in ROUTES.items():
        instance.routes.route(method, path)(handler)
