"""The layout's rules, checked on the sources: who may import whom, what is never used."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HOST_MODULES = {
    "comfy",
    "comfy_api",
    "comfy_execution",
    "comfy_extras",
    "comfyui_version",
    "execution",
    "folder_paths",
    "nodes",
    "server",
}
ALLOWED_THIRD_PARTY = {"torch", "safetensors", "numpy", "PIL"}
SHIPPED = sorted(
    [
        ROOT / "__init__.py",
        ROOT / "train_worker.py",
        *ROOT.glob("nodes/**/*.py"),
        *ROOT.glob("lora_core/**/*.py"),
    ]
)
IDS = [str(path.relative_to(ROOT)) for path in SHIPPED]


def absolute_imports(path: Path) -> set[str]:
    """Top-level names of every absolute import in a file, wherever it stands."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add((node.module or "").split(".")[0])
    return names


def relative_imports(path: Path) -> set[str]:
    """Modules that a file of ours imports from ours, as dotted paths from the root."""
    here = path.relative_to(ROOT).with_suffix("").parts
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level > 0:
            package = here[: -node.level]
            found.add(".".join([*package, *(node.module or "").split(".")]).strip("."))
            found |= {
                ".".join([*package, *filter(None, [node.module]), alias.name])
                for alias in node.names
            }
    return found


@pytest.mark.parametrize("path", SHIPPED, ids=IDS)
def test_only_lora_core_host_imports_the_host(path):
    if path.is_relative_to(ROOT / "lora_core" / "host"):
        return
    assert not absolute_imports(path) & HOST_MODULES


@pytest.mark.parametrize("path", SHIPPED, ids=IDS)
def test_shipped_code_needs_nothing_that_comfyui_does_not_bring(path):
    import sys

    allowed = set(sys.stdlib_module_names) | ALLOWED_THIRD_PARTY
    if path.is_relative_to(ROOT / "lora_core" / "host"):
        allowed |= HOST_MODULES | {"aiohttp"}
    assert absolute_imports(path) <= allowed


def test_the_core_never_reaches_up_to_the_host_side_or_the_nodes():
    for path in ROOT.glob("lora_core/**/*.py"):
        imported = relative_imports(path)
        assert not any(name.startswith("nodes") for name in imported), path
        if not path.is_relative_to(ROOT / "lora_core" / "host"):
            assert not any(name.startswith("lora_core.host") for name in imported), path


def test_nodes_are_shells_without_torch():
    for path in ROOT.glob("nodes/*.py"):
        assert "torch" not in absolute_imports(path), path


@pytest.mark.parametrize("path", SHIPPED, ids=IDS)
def test_sources_are_ascii_and_short(path):
    text = path.read_text("utf-8")
    assert text.isascii()
    assert text.count("\n") <= 300


@pytest.mark.parametrize("path", sorted(ROOT.glob("web/**/*.js")), ids=lambda path: path.name)
def test_page_scripts_keep_to_what_the_registry_and_the_pages_allow(path):
    """The registry's scanner takes these substrings for network calls; other host modules than two are in flux."""
    text = path.read_text("utf-8")
    assert text.isascii()
    assert not any(
        word in text
        for word in (".connect(", ".bind(", ".send(", "eval(", "innerHTML", "http:", "https:")
    )
    imported = re.findall(r'^(?:import|export)\b[^;"]*"([^"]+)";', text, re.MULTILINE)
    ours = {f"./{script.name}" for script in ROOT.glob("web/*.js")}
    assert set(imported) <= {"../../scripts/app.js", "../../scripts/api.js"} | ours


@pytest.mark.parametrize("path", SHIPPED, ids=IDS)
def test_no_code_is_run_from_data(path):
    tree = ast.parse(path.read_text("utf-8"))
    called = {
        node.func.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert not called & {"eval", "exec", "compile", "__import__"}
    assert not absolute_imports(path) & {"pickle", "subprocess", "socket", "urllib", "requests"}
