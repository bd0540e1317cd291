"""What a user gets: the files that `comfy node publish` zips."""

from __future__ import annotations

import fnmatch
import subprocess
from pathlib import Path

from tools.devkit.environment import ROOT


def listed_files() -> list[Path]:
    """Files as `comfy node publish` finds them: what git tracks, or where there is no git, what lies here."""
    if (ROOT / ".git").exists():
        command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
        out = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout
        names = [name for name in out.decode().split("\0") if name]
        return [Path(name) for name in names if (ROOT / name).is_file()]
    hidden = {".git", ".loom", "__pycache__", ".pytest_cache", ".ruff_cache"}
    found = (path.relative_to(ROOT) for path in ROOT.rglob("*") if path.is_file())
    return [path for path in found if not hidden & set(path.parts)]


def ignored(path: Path) -> bool:
    """By the lines of .comfyignore, which are folders (name/) and files."""
    lines = (ROOT / ".comfyignore").read_text("utf-8").splitlines()
    for line in filter(None, (line.partition("#")[0].strip() for line in lines)):
        if line.endswith("/") and path.as_posix().startswith(line):
            return True
        if fnmatch.fnmatch(path.as_posix(), line):
            return True
    return False
