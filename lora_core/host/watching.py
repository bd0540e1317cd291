"""The training that runs in this process, as the page sees it: its curve, its events, and the wish to stop it."""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ..train.curve import Curve, rounded

log = logging.getLogger(__name__)

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
    asked = [c for name, c in list(_curves.items()) if c.running and node in (None, name)]
    for curve in asked:
        curve.stopping = True
    return bool(asked)


def curves() -> dict[str, dict[str, Any]]:
    """Node id -> its training so far, of this process."""
    return {name: curve.told() for name, curve in list(_curves.items())}


class Teller:
    """Sends the events of a training; steps that are nothing but another step are told a few times a second."""

    def __init__(self, node: str | None, curve: Curve) -> None:
        self._node, self._curve = node or "", curve
        self._begun = self._last = time.monotonic()
        self._first = len(curve.losses)

    def step(self, loss: float, validation: float | None) -> None:
        """After the curve has the step."""
        now, curve, done = time.monotonic(), self._curve, len(self._curve.losses)
        if done > self._first:
            each = (now - self._begun) / (done - self._first)
            curve.seconds_left = round(each * (curve.steps - done), 1)
        if validation is None and now - self._last < _APART and done < curve.steps:
            return
        self._last = now
        # What is no number is no JSON either, and the page would read nothing of the event.
        finite = None if validation is None or not math.isfinite(validation) else validation
        found = None if finite is None else rounded(finite)
        self._tell({"loss": rounded(loss), "validation": found})

    def say(self, note: str) -> None:
        """Something in words, for the page and the host's log."""
        log.info("LoRA Loom: %s", note)
        self._curve.note = note
        self._tell({"note": note})

    def show(self, sample: Mapping[str, Any]) -> None:
        """A sample picture."""
        self._tell({"sample": dict(sample)})

    def _tell(self, more: Mapping[str, Any]) -> None:
        curve = self._curve
        last = rounded(curve.losses[-1]) if curve.losses else None
        said = {"step": len(curve.losses), "steps": curve.steps, "loss": last, "validation": None}
        _send(self._node, {**said, "seconds_left": curve.seconds_left, "running": True, **more})


def _send(node: str, said: Mapping[str, Any]) -> None:
    # Where the host is a library, nobody has imported its server, and nobody listens.
    host = sys.modules.get("server")
    running = getattr(getattr(host, "PromptServer", None), "instance", None)
    if running is not None:
        running.send_sync(EVENT, {"node": node, **said})
