"""Which error messages no test reaches.

python -m coverage run --source=lora_core -m pytest tests/core tests/nodes    (and the other rings, with --append)
python -m coverage json -o coverage.json
python tools/unreached_errors.py coverage.json

Lists every `raise` of a LoraError in lora_core whose line was never run, and every file below --least percent of lines.
The package coverage is needed for the first two commands only; nothing else here needs it.
"""

from __future__ import annotations

import argparse
import ast
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
ERRORS = ROOT / "lora_core" / "errors.py"


@dataclass(frozen=True)
class Raise:
    """One place that raises a LoraError. text: its message as the source has it."""

    path: Path
    line: int
    error: str
    text: str


def error_names() -> set[str]:
    """The classes of lora_core/errors.py."""
    tree = ast.parse(ERRORS.read_text("utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.ClassDef)}


def raises_in(path: Path, errors: set[str]) -> Iterator[Raise]:
    """Every statement `raise SomeLoraError(...)` of a file."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if not isinstance(node, ast.Raise) or not isinstance(node.exc, ast.Call):
            continue
        name = ast.unparse(node.exc.func).rpartition(".")[2]
        if name in errors:
            said = " ".join(ast.unparse(argument) for argument in node.exc.args)
            yield Raise(path, node.lineno, name, said)


def unreached(report: dict[str, Any], host: bool) -> list[Raise]:
    """The raises that were not run, by a report of `coverage json`. host: of lora_core/host too."""
    files = {(ROOT / name).resolve(): facts for name, facts in report["files"].items()}
    found = []
    for path in sorted(ROOT.glob("lora_core/**/*.py")):
        if not host and path.is_relative_to(ROOT / "lora_core" / "host"):
            continue
        run = set(files.get(path, {}).get("executed_lines", ()))
        found += [each for each in raises_in(path, error_names()) if each.line not in run]
    return found


def below(report: dict[str, Any], least: float, host: bool) -> list[tuple[str, float, list[int]]]:
    """(file, percent of lines, lines that were not run) of every file below `least` percent."""
    rows = [
        (name, facts["summary"]["percent_covered"], facts["missing_lines"])
        for name, facts in report["files"].items()
        if host or not name.startswith("lora_core/host/")
    ]
    return sorted((row for row in rows if row[1] < least), key=lambda row: row[1])


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("report", type=Path, help="what `coverage json` wrote")
    parser.add_argument(
        "--least", type=float, default=95.0, help="percent of lines (default: %(default)s)"
    )
    parser.add_argument(
        "--host", action="store_true", help="lora_core/host too (the ring host was run)"
    )
    options = parser.parse_args()
    report = json.loads(options.report.read_text("utf-8"))
    missing = unreached(report, options.host)
    for each in missing:
        print(f"{each.path.relative_to(ROOT)}:{each.line}: {each.error}({each.text[:150]})")
    low = below(report, options.least, options.host)
    for name, percent, lines in low:
        print(f"{name}: {percent:.1f} %, not run: {', '.join(map(str, lines[:40]))}")
    print(f"{len(missing)} messages not reached, {len(low)} files below {options.least:g} %")
    return 1 if missing or low else 0


if __name__ == "__main__":
    sys.exit(main())
