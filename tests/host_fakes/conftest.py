"""The pack's host side against fakes of a newer host; they leave again with the last test."""

from __future__ import annotations

import importlib
import sys
from types import SimpleNamespace

import pytest

from . import fake_host

_OURS = ("live", "live_run", "live_state", "modes", "patching", "repatch", "targets")


@pytest.fixture(scope="session")
def pack():
    """The modules of lora_core.host that touch a model, on top of the fakes."""
    before = {name: module for name, module in sys.modules.items() if _touched(name)}
    for name in before:
        del sys.modules[name]
    sys.modules.update(fake_host.modules())
    yield SimpleNamespace(
        **{name: importlib.import_module(f"lora_core.host.{name}") for name in _OURS}
    )
    for name in [name for name in sys.modules if _touched(name)]:
        del sys.modules[name]
    sys.modules.update(before)


def _touched(name: str) -> bool:
    return name == "comfy" or name.startswith(("comfy.", "lora_core.host"))
