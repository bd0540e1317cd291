"""The ring host: a real ComfyUI, as a server of its own and as a library in this process."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import pytest
import torch

from tools.devkit.base_directory import standard_base
from tools.devkit.environment import ROOT, located
from tools.devkit.host_client import HostClient
from tools.devkit.host_process import running_host

ENVIRONMENT = located()


def _order_imports() -> None:
    """ComfyUI's tree first and the project last.

    Both have a module named `nodes`; here it is ComfyUI's, as it is in a running host.
    """
    others = [path for path in sys.path if Path(path or ".").resolve() != ROOT]
    sys.path[:] = [str(ENVIRONMENT.tree), *others, str(ROOT)]


def _prepare_library(base: str) -> None:
    """For tests that use ComfyUI as a library: the server's device, and `base` for its folders.

    Both have to be said before any other of its modules is imported.
    """
    from comfy.cli_args import args

    args.base_directory = base
    args.cpu = not getattr(torch, "accelerator", torch.cuda).is_available()


_LIBRARY_BASE = tempfile.TemporaryDirectory(prefix="loom-host-tests-")
_order_imports()
_prepare_library(_LIBRARY_BASE.name)


@pytest.fixture(scope="session")
def host(tmp_path_factory):
    """A running ComfyUI with the pack, the toy pack, the toy models and the toy workflows."""
    base = standard_base(tmp_path_factory.mktemp("host"))
    with running_host(ENVIRONMENT, base) as running:
        yield running


@pytest.fixture
def as_in_the_host():
    """Without gradients, as nodes run; nothing stays loaded for the next test."""
    import comfy.model_management

    with torch.inference_mode():
        yield
    comfy.model_management.unload_all_models()


@pytest.fixture(scope="module")
def one_thread():
    """The same sums in the same order, whatever runs beside and in other processes."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def client(host):
    return HostClient(host.url)
