"""The training that runs in this process, as the page sees it: its curve, its events, and the wish to stop it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import server

from ..train.curve import Curve, rounded

EVENT = "loom.train"
# Seconds between two events that tell nothing but another step.
_APART = 0.25
# Curves of nodes that are kept for a page that is loaded later.
_KEPT = 16

# The curves of this process by node id, the newest last; the host runs one node at a time.
_curves: dict[str, Curve] = {}


@contextmanager
def watched(node: str | None, steps: int) -> Iterator[Curve]:
    """The curve of a training for as long as it runs, told to the page under the node's id; None: no node."""
    curve = Curve(steps)
    name = node or ""
    _curves.pop(name, None)
    _curves[name] = curve
    for old in list(_curves)[:-_KEPT]:
        del _curves[old]
    try:
        yield curve
    finally:
        curve.running = False
        _send(name, {"step": len(curve.losses), "steps": steps, "running": False})


def ask_to_stop(node: str | None = None) -> bool:
    """Let the running training end after its step and keep what it has; whether there is one (of that node)."""
    asked = [c for name, c in _curves.items() if c.running and node in (None, name)]
    for curve in asked:
        curve.stopping = True
    return bool(asked)


def curves() -> dict[str, dict[str, Any]]:
    """Node id -> its training so far, of this process."""
    return {name: curve.told() for name, curve in list(_curves.items())}


class Teller:
    """Sends an event for a step; steps without anything else to say are told a few times a second."""

    def __init__(self, node: str | None, curve: Curve) -> None:
        self._node, self._curve = node or "", curve
        self._begun, self._first, self._last = time.monotonic(), len(curve.losses), 0.0

    def step(self, loss: float, validation: float | None, **more: Any) -> None:
        """more: what else there is to say, as web/docs/LoomTrain.md has it."""
        now, curve = time.monotonic(), self._curve
        done = len(curve.losses)
        if done > self._first:
            each = (now - self._begun) / (done - self._first)
            curve.seconds_left = round(each * (curve.steps - done), 1)
        if validation is None and not more and now - self._last < _APART and done < curve.steps:
            return
        self._last = now
        said = {"step": done, "steps": curve.steps, "loss": rounded(loss)}
        said["validation"] = None if validation is None else rounded(validation)
        _send(self._node, {**said, "seconds_left": curve.seconds_left, "running": True, **more})


def _send(node: str, said: Mapping[str, Any]) -> None:
    running = getattr(server.PromptServer, "instance", None)
    if running is not None:
        running.send_sync(EVENT, {"node": node, **said})
