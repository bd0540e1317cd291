"""One set-up at a time in one folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from tools.devkit.console import say

if os.name == "nt":
    import msvcrt

    def _lock(file: IO[str], wait: bool) -> None:
        # LK_LOCK gives up after ten tries, one a second.
        msvcrt.locking(file.fileno(), msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def _lock(file: IO[str], wait: bool) -> None:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)


@contextmanager
def only_one(lock_path: Path) -> Iterator[None]:
    """Hold the lock of `lock_path`, after waiting for whoever holds it.

    The system releases the lock when its holder ends, however that happens.
    """
    lock_path.parent.mkdir(parents=True, exist_ok=True)
    with lock_path.open("a+", encoding="utf-8") as file:
        try:
            _lock(file, wait=False)
        except OSError:
            say(f"Another set-up works in {lock_path.parent}; waiting until it is done ...")
            _lock(file, wait=True)
        yield
