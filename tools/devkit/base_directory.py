"""The folder that a host works in: packs, models, workflows and settings, linked or copied in."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from tools.devkit.environment import ROOT, child_variables, located

PACK_FOLDER = "lora-loom"
TOY_PACK_FOLDER = "loom_toy_pack"
TOY_MODEL = ROOT / "tools" / "toy_model"
TOY_WORKFLOWS = ROOT / "tests" / "workflows"

# Without the first setting a Templates dialog covers the graph when the page opens.
SETTINGS: Mapping[str, object] = {"Comfy.TutorialCompleted": True}

_FOLDERS = (
    "custom_nodes",
    "input",
    "models/checkpoints",
    "models/loras",
    "output",
    "temp",
    "user/default/workflows",
)


def prepare_base(
    base: Path,
    packs: Mapping[str, Path],
    settings: Mapping[str, object] = SETTINGS,
) -> Path:
    """Make the folders of a host, link `packs` (folder name -> folder) and write its settings.

    May be called again on the same folder; existing links are renewed, other content stays.
    """
    for folder in _FOLDERS:
        (base / folder).mkdir(parents=True, exist_ok=True)
    for name, folder in packs.items():
        _link(folder, base / "custom_nodes" / name)
    settings_file = base / "user" / "default" / "comfy.settings.json"
    settings_file.write_text(json.dumps(dict(settings), indent=2), encoding="utf-8")
    return base


def standard_base(base: Path, settings: Mapping[str, object] = SETTINGS) -> Path:
    """`prepare_base` with this pack, the toy pack, the toy models and workflows, and the pictures that they train on."""
    packs = {PACK_FOLDER: ROOT, TOY_PACK_FOLDER: ROOT / "tools" / "toy_pack"}
    prepare_base(base, packs, settings)
    _link_all(TOY_MODEL, base / "models" / "checkpoints")
    _link_all(TOY_MODEL / "loras", base / "models" / "loras")
    for file in sorted(TOY_WORKFLOWS.glob("*.json")):
        shutil.copyfile(file, base / "user" / "default" / "workflows" / file.name)
    _draw_pictures(base / "input")
    return base


def _draw_pictures(inputs: Path) -> None:
    """By the environment's interpreter: the one that runs dev.py may have nothing to draw with."""
    environment = located()
    command = [str(environment.python), "-m", "tools.toy_datasets", str(inputs.resolve())]
    subprocess.run(command, cwd=ROOT, env=child_variables(environment), check=True)


def _link_all(source: Path, folder: Path) -> None:
    """Link every safetensors file of `source`, and drop links to files that are gone."""
    for link in folder.iterdir():
        if link.is_symlink() and not link.exists():
            link.unlink()
    for file in sorted(source.glob("*.safetensors")):
        _link(file, folder / file.name)


def _link(target: Path, link: Path) -> None:
    if link.is_symlink():
        link.unlink()
    link.symlink_to(target, target_is_directory=target.is_dir())
