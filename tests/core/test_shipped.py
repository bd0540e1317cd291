"""What the registry's zip and a clone hold for a user: run-time files only, and nothing that its scanner stops at."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tools.devkit.shipped import ignored, listed_files

ROOT = Path(__file__).resolve().parents[2]
# Kept by the host, by people, or by the registry; everything else must be code, page or example.
TOP_FILES = {
    "__init__.py", "pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "train_worker.py",
}  # fmt: skip
TOP_FOLDERS = {"lora_core", "nodes", "web", "locales", "example_workflows", "subgraphs"}
KINDS = {".py", ".js", ".mjs", ".css", ".md", ".json", ".jpg", ".png", ".svg", ".toml", ""}
# The registry's scanner takes these, anywhere in a file, for network use, for code from data, or for other processes.
SCANNED = (
    ".connect(", ".bind(", ".send(", "urllib", "requests.", "import socket", "http.client", "aiohttp", "eval(", "exec(",
    "subprocess", "os.system", "pickle", "rm -rf", "__import__(", "base64", "marshal",
)  # fmt: skip
MOST_BYTES = 6 << 20


@pytest.fixture(scope="module")
def shipped() -> list[Path]:
    """The simulated zip, as paths from its root."""
    return sorted(path for path in listed_files() if not ignored(path))


def test_only_run_time_files_are_shipped(shipped):
    assert {path.parts[0] for path in shipped if len(path.parts) > 1} <= TOP_FOLDERS
    assert {path.name for path in shipped if len(path.parts) == 1} <= TOP_FILES
    assert {path.suffix.lower() for path in shipped} <= KINDS
    assert sum((ROOT / path).stat().st_size for path in shipped) < MOST_BYTES


def test_everything_that_the_pack_needs_is_shipped(shipped):
    there = {path.as_posix() for path in shipped}
    assert {"__init__.py", "pyproject.toml", "README.md", "LICENSE", "train_worker.py"} <= there
    sources = [*ROOT.glob("lora_core/**/*.py"), *ROOT.glob("nodes/*.py"), *ROOT.glob("web/**/*")]
    needed = {path.relative_to(ROOT).as_posix() for path in sources if path.is_file()}
    assert {name for name in needed if "__pycache__" not in name} <= there


def test_what_is_shipped_links_to_nothing_that_is_not(shipped):
    """Links and pictures of the help pages, which the page serves from web/docs."""
    for path in shipped:
        if path.suffix != ".md" or path.parts[0] != "web":
            continue
        for target in re.findall(r"\]\(([^)\s]+)\)", (ROOT / path).read_text("utf-8")):
            assert not target.startswith("http"), f"{path} links to {target}"
            assert (
                (ROOT / path)
                .parent.joinpath(target)
                .resolve()
                .is_relative_to(ROOT / "web" / "docs")
            ), f"{path}: {target} is not served"
            assert (ROOT / path).parent.joinpath(target).is_file(), f"{path} links to {target}"


@pytest.mark.parametrize("kind", [".py", ".js"])
def test_the_scanner_finds_no_network_no_process_and_no_code_from_data(shipped, kind):
    for path in shipped:
        if path.suffix == kind:
            text = (ROOT / path).read_text("utf-8")
            found = [word for word in SCANNED if word in text]
            assert not found, f"{path}: {found}"


def test_the_simulated_zip_imports_by_itself(shipped, tmp_path):
    """lora_core without a host, from nothing but what is shipped; nothing of tests, tools or docs is reached for."""
    for path in shipped:
        if path.suffix == ".py":
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_bytes((ROOT / path).read_bytes())
    modules = sorted(
        ".".join(path.with_suffix("").parts)
        for path in shipped
        if path.suffix == ".py"
        and path.parts[:2] != ("lora_core", "host")
        and path.parts[0] == "lora_core"
    )
    code = (
        f"import importlib\nfor name in {modules!r}: importlib.import_module(name)\nprint('well')"
    )
    command = [
        sys.executable,
        "-I",
        "-c",
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{code}",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "well\n"), done.stderr


def test_the_security_rules_find_nothing(shipped):
    """ruff's S rules, which are bandit's, on what is shipped.

    S311: seeded numbers draw block vectors, no secrets. S101: asserts tell the type checker what a line before decided.
    """
    files = [str(path) for path in shipped if path.suffix == ".py"]
    rules = ["--isolated", "--no-cache", "--select", "S", "--ignore", "S101,S311"]
    command = [sys.executable, "-m", "ruff", "check", *rules, *files]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
