"""What is installed in a site-packages folder, and whether all of it is still there.

pip believes a package's *.dist-info folder. A pip that was killed, or a file deleted since,
leaves such a folder beside missing files; RECORD, the list that pip writes last, tells.
"""

from __future__ import annotations

import csv
import re
import shutil
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path

from tools.devkit.console import say


def normal(name: str) -> str:
    """A distribution's name as names are compared."""
    return re.sub(r"[-_.]+", "-", name).lower()


def requirement_name(requirement: str) -> str:
    """The name in a requirement: 'Name[extra]>=1; marker' -> 'name'."""
    return normal(re.split(r"[^A-Za-z0-9._-]", requirement.strip(), maxsplit=1)[0])


def installed(site: Path) -> dict[str, tuple[str, Path]]:
    """{name: (version, its dist-info folder)} of all whole distributions in `site`."""
    found = {}
    for folder in site.glob("*.dist-info"):
        if is_whole(folder):
            name, _, version = folder.name.removesuffix(".dist-info").rpartition("-")
            found[normal(name)] = (version, folder)
    return found


def is_whole(folder: Path) -> bool:
    """Whether every file that RECORD in this dist-info folder lists is there, of its size."""
    try:
        with (folder / "RECORD").open(encoding="utf-8", newline="") as file:
            rows = [row for row in csv.reader(file) if len(row) == 3]
    except OSError:
        return False
    return bool(rows) and all(_is_in_place(folder.parent, row) for row in rows)


def _is_in_place(site: Path, row: list[str]) -> bool:
    path, _, size = row
    if path.endswith(".pyc"):  # Made by the interpreter, and anew when missing.
        return True
    try:
        found = (site / path).stat().st_size
    except OSError:
        return False
    return not size or int(size) == found


def missing(site: Path, wanted: Mapping[str, str]) -> list[str]:
    """Which of `wanted` {name: version} are not in `site`, or damaged, or of another version."""
    present = {name: version for name, (version, _) in installed(site).items()}
    return [f"{name} {version}" for name, version in wanted.items() if present.get(name) != version]


def with_dependencies(site: Path, names: Iterable[str]) -> dict[str, str]:
    """{name: version} of `names` and of all that they need, as far as it is installed."""
    present = installed(site)
    found: dict[str, str] = {}
    ahead = [normal(name) for name in names]
    while ahead:
        name = ahead.pop()
        if name in found or name not in present:
            continue
        version, folder = present[name]
        found[name] = version
        for need in metadata.Distribution.at(folder).requires or []:
            if "extra ==" not in need:
                ahead.append(requirement_name(need))
    return found


def sweep(site: Path) -> None:
    """Remove what a killed pip leaves behind, and the record of every damaged distribution.

    pip then installs those distributions again, over the files that are still there.
    """
    for debris in site.glob("~*"):
        shutil.rmtree(debris, ignore_errors=True)
    for folder in site.glob("*.dist-info"):
        if not is_whole(folder):
            say(f"      {folder.name.removesuffix('.dist-info')} is damaged")
            shutil.rmtree(folder)
