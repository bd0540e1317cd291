"""Where the interpreter and the ComfyUI tree are that demo, tests and benchmarks use."""

from __future__ import annotations

import functools
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tools.devkit import pins

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Environment:
    """An interpreter with torch, a ComfyUI tree, and the folder for all that is built.

    `own_python` and `own_tree` say which of the two dev.py builds itself; the other was named
    by LOOM_PYTHON or COMFYUI_PATH and is never changed.
    """

    home: Path
    python: Path
    tree: Path
    own_python: bool
    own_tree: bool

    def frontend_root(self, version: str) -> Path:
        """The folder of a web page version installed beside the host's own."""
        return self.frontend_folder(version) / "comfyui_frontend_package" / "static"

    def frontend_folder(self, version: str) -> Path:
        return self.home / "frontends" / version

    @property
    def screenshots(self) -> Path:
        return Path(os.environ.get("LOOM_SHOTS") or self.home / "screenshots")


def located(variables: Mapping[str, str] = os.environ) -> Environment:
    """The environment that LOOM_HOME, LOOM_PYTHON and COMFYUI_PATH describe; builds nothing."""
    home = _absolute(variables.get("LOOM_HOME") or str(ROOT / ".loom"))
    python, tree = variables.get("LOOM_PYTHON"), variables.get("COMFYUI_PATH")
    return Environment(
        home=home,
        python=_absolute(python) if python else venv_python(home / "venv"),
        tree=_absolute(tree) if tree else home / f"comfyui-{pins.COMFYUI}",
        own_python=not python,
        own_tree=not tree,
    )


def venv_python(venv: Path) -> Path:
    return venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def _absolute(path: str) -> Path:
    # Not resolve(): a venv's interpreter is a link, and behind the link lies another site-packages.
    return Path(os.path.abspath(os.path.expanduser(path)))


def child_variables(environment: Environment) -> dict[str, str]:
    """The variables for a process that works in the environment.

    They name the environment, so that `located()` finds the same one in the child.
    """
    return {
        **os.environ,
        "LOOM_HOME": str(environment.home),
        "LOOM_PYTHON": str(environment.python),
        "COMFYUI_PATH": str(environment.tree),
        "HF_HUB_OFFLINE": "1",
        "PYTHONUNBUFFERED": "1",
        "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1",
    }


def sharing_variables(environment: Environment) -> dict[str, str]:
    """The same for a host and the tests beside it, which share few cores: waiting threads sleep.

    Not for what is measured: a ComfyUI of one's own lets them spin for a moment.
    """
    return {**child_variables(environment), "OMP_WAIT_POLICY": "PASSIVE"}


@functools.cache
def has_accelerator(python: Path) -> bool:
    """Whether the interpreter's torch sees a GPU or the like; asks it once, which takes seconds."""
    question = "import torch; print(getattr(torch, 'accelerator', torch.cuda).is_available())"
    answer = subprocess.run(
        [str(python), "-c", question], capture_output=True, text=True, check=True
    )
    return answer.stdout.strip().endswith("True")
