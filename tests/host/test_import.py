"""What loading the pack costs a ComfyUI, and what cannot stop it: a process of its own, the host's own loader."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tools.devkit.environment import ROOT, located
from tools.devkit.shipped import ignored, listed_files

SCRIPT = r"""
import asyncio, json, sys, time
from pathlib import Path
tree, pack, base, broken = sys.argv[1:5]
sys.path.insert(0, tree)
from comfy.cli_args import args
args.cpu, args.base_directory = True, base
import utils.extra_config  # first, as main.py does: nodes puts a folder with another utils in front
import comfy_config.config_parser  # what the host's loader itself asks for at the first pack
import folder_paths, nodes, server  # what a running ComfyUI has before it loads packs
before, extras = set(sys.modules), {}

class Broken:
    # Every package that is not there yet fails as a broken library does.
    ours = ("comfy", "torch", "numpy", "PIL", "safetensors", Path(pack).name)
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top in sys.stdlib_module_names or top in before or name.startswith(self.ours) or pack in name:
            return None
        raise OSError(f"{name}: undefined symbol: _ZN3c10")

if broken == "yes":
    sys.meta_path.insert(0, Broken())
started = time.perf_counter()
loaded = asyncio.run(nodes.load_custom_node(pack))
seconds = time.perf_counter() - started
new = sorted(set(sys.modules) - before)
outside = [name for name in new if pack not in name and name.partition(".")[0] not in sys.stdlib_module_names]
ours = sorted(name for name in nodes.NODE_CLASS_MAPPINGS if name.startswith("Loom"))
print(json.dumps({"loaded": loaded, "outside": outside, "nodes": ours, "seconds": seconds}))
"""
# Of the host's packages, the parts that the pack is the first to ask for.
MAY_BE_FIRST = ("torch", "numpy", "PIL", "safetensors", "comfy")


@pytest.fixture(scope="module")
def unzipped(tmp_path_factory) -> Path:
    """The pack as the registry's zip has it."""
    folder = tmp_path_factory.mktemp("zip")
    with zipfile.ZipFile(folder / "pack.zip", "w") as archive:
        for path in listed_files():
            if not ignored(path):
                archive.write(ROOT / path, path)
    with zipfile.ZipFile(folder / "pack.zip") as archive:
        archive.extractall(folder / "custom_nodes" / "lora-loom")
    return folder / "custom_nodes" / "lora-loom"


def load(pack: Path, base: Path, broken: bool) -> dict[str, Any]:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    command = [
        sys.executable,
        "-c",
        SCRIPT,
        str(located().tree),
        str(pack),
        str(base),
        "yes" if broken else "no",
    ]
    done = subprocess.run(
        command, cwd=located().tree, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_the_zip_loads_by_itself_and_brings_no_module_that_the_host_lacks(
    unzipped, tmp_path, record_testsuite_property
):
    answer = load(unzipped, tmp_path, broken=False)
    assert answer["loaded"] is True
    frozen = json.loads((ROOT / "tests" / "nodes" / "frozen_api.json").read_text("utf-8"))
    assert answer["nodes"] == sorted(frozen)
    foreign = [name for name in answer["outside"] if name.partition(".")[0] not in MAY_BE_FIRST]
    assert foreign == []
    assert not [name for name in answer["outside"] if name.startswith("torch.")]
    record_testsuite_property("seconds_to_import", answer["seconds"])


def test_a_broken_package_that_the_pack_does_not_need_stops_nothing(unzipped, tmp_path):
    answer = load(unzipped, tmp_path, broken=True)
    assert answer["loaded"] is True
    assert "LoomStack" in answer["nodes"]
