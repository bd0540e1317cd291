"""The MODEL while it is trained: opened for gradients, and given back to the host in between."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch

from ..train.loop import Predict

Open = Callable[[], AbstractContextManager[Predict]]


class Room:
    """Calls `predict` of whatever is open; see `opened`."""

    def __init__(self, open_it: Open) -> None:
        self._open, self._inside = open_it, ExitStack()
        self._predict = self._inside.enter_context(open_it())

    def predict(self, noisy: torch.Tensor, sigmas: torch.Tensor, said: Any) -> torch.Tensor:
        return self._predict(noisy, sigmas, said)

    def close(self) -> None:
        self._inside.close()

    @contextmanager
    def left(self) -> Iterator[None]:
        """The model as the host had it, in the host's own mode, within the block; an error in it leaves it so."""
        self._inside.close()
        with torch.inference_mode():
            yield
        self._predict = self._inside.enter_context(self._open())


@contextmanager
def opened(open_it: Open) -> Iterator[Room]:
    """open_it: a context in which the model can be trained, giving predict; it may be entered again and again."""
    room = Room(open_it)
    try:
        yield room
    finally:
        room.close()
