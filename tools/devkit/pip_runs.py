"""pip, as the set-up calls it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from tools.devkit.console import CommandFailed, SetupError, run_told

_TOLD = ("Installing collected packages", "ERROR")
_NETWORK_SIGNS = (
    "connection broken",
    "connectionerror",
    "failed to establish",
    "max retries exceeded",
    "name resolution",
    "no matching distribution",
    "timed out",
)


def run_pip(python: Path, log_path: Path, what: str, *arguments: str) -> None:
    """Run `python -m pip` with `arguments`. Raises SetupError that says what could not be had."""
    command = [str(python), "-m", "pip", *arguments, "--progress-bar", "off", "--no-input"]
    variables = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    try:
        run_told(command, log_path, _worth_telling, variables)
    except CommandFailed as failure:
        raise SetupError(f"{what} could not be installed: {failure}\n{_advice(failure)}") from None


def _worth_telling(line: str) -> bool:
    line = line.strip()
    large = line.startswith("Downloading ") and line.endswith((" MB)", " GB)"))
    return large or line.startswith(_TOLD)


def write_requirements(path: Path, requirements: Sequence[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(requirements) + "\n", encoding="utf-8")
    return path


def _advice(failure: CommandFailed) -> str:
    output = failure.output.lower()
    if "no space left" in output:
        return "The disk is full: make room, or set LOOM_HOME to a folder on another disk."
    if any(sign in output for sign in _NETWORK_SIGNS):
        return (
            "It looks like the download failed. Check the network (behind a proxy set "
            "HTTPS_PROXY; for a package mirror set PIP_INDEX_URL), then run the same command "
            "again: what is already there is kept."
        )
    return "Run the same command again once that is mended: what is already there is kept."
