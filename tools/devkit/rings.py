"""The rings of tests, each in a process of its own, and one count over all of them."""

from __future__ import annotations

import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.devkit.browser import find_browser
from tools.devkit.console import run_through, say
from tools.devkit.environment import ROOT, Environment, child_variables, sharing_variables

RINGS = ("core", "nodes", "host", "web")
# Rings with a pytest.ini in their folder, which they are run from; the others use pyproject.toml.
_OWN_SETTINGS = ("host", "web")
# The folders of a ring, where they are not one of its own name.
_FOLDERS = {"nodes": ("nodes", "host_fakes")}
# What --full sets: the counts that are sampled otherwise.
_FULL_COUNTS = {
    "LOOM_FULL": "1",
    "LOOM_FUZZ_COUNT": "2000",
    "LOOM_GRAPH_COUNT": "500",
    "LOOM_KILLS": "20",
}


@dataclass(frozen=True)
class Outcome:
    """What one process of a ring counted. `sound` is whether it ended well and tested anything."""

    name: str
    passed: int
    failed: int
    skipped: int
    sound: bool
    seconds: float


def run_rings(environment: Environment, rings: Sequence[str], full: bool) -> bool:
    """Run the rings one after another, print a summary; whether all is well."""
    outcomes = []
    for ring in rings:
        if ring == "core":
            outcomes += _lint(environment)
        outcomes.append(_pytest(environment, ring, full))
    say("")
    for outcome in outcomes:
        say(f"{_verdict(outcome):4} {outcome.name:12} {_counts(outcome)}")
    passed = sum(outcome.passed for outcome in outcomes)
    failed = sum(outcome.failed for outcome in outcomes)
    say(f"{passed} passed, {failed} failed")
    return all(outcome.sound for outcome in outcomes)


def _verdict(outcome: Outcome) -> str:
    return "ok" if outcome.sound else "FAIL"


def _counts(outcome: Outcome) -> str:
    skipped = f", {outcome.skipped} skipped" if outcome.skipped else ""
    return f"{outcome.passed} passed, {outcome.failed} failed{skipped} ({outcome.seconds:.0f} s)"


def _lint(environment: Environment) -> list[Outcome]:
    """The checks of style and types, each of which counts as one test of the ring core."""
    python = str(environment.python)
    return [
        _check("ruff", [python, "-m", "ruff", "check", "."], environment),
        _check("pyright", [python, "-m", "pyright", "--pythonpath", python], environment),
    ]


def _check(name: str, command: Sequence[str], environment: Environment) -> Outcome:
    say(f"\n== {name}")
    started = time.monotonic()
    status = run_through(command, ROOT, child_variables(environment))
    well = status == 0
    return Outcome(name, int(well), int(not well), 0, well, time.monotonic() - started)


def _pytest(environment: Environment, ring: str, full: bool) -> Outcome:
    say(f"\n== {ring}")
    report = environment.home / "reports" / f"{ring}.xml"
    report.parent.mkdir(parents=True, exist_ok=True)
    report.unlink(missing_ok=True)
    command = [str(environment.python), "-m", "pytest", "-q", f"--junitxml={report}"]
    folders = [ROOT / "tests" / name for name in _FOLDERS.get(ring, (ring,))]
    if ring in _OWN_SETTINGS:
        where = folders[0]
    else:
        where = ROOT
        command += map(str, folders)
    started = time.monotonic()
    status = run_through(command, where, _variables(environment, full))
    return read_report(ring, report, status, time.monotonic() - started)


def _variables(environment: Environment, full: bool) -> dict[str, str]:
    variables = sharing_variables(environment)
    browser = find_browser()
    if browser is not None:
        variables["CHROME_PATH"] = str(browser)
    if full:
        variables |= _FULL_COUNTS
    return variables


def read_report(ring: str, report: Path, status: int, seconds: float) -> Outcome:
    """Count by pytest's own report. A ring that wrote none, or ran no test, failed once."""
    counts = dict.fromkeys(("tests", "failures", "errors", "skipped"), 0)
    if report.is_file():
        for suite in ElementTree.parse(report).iter("testsuite"):
            for key in counts:
                counts[key] += int(suite.get(key, 0))
    failed = counts["failures"] + counts["errors"]
    passed = max(0, counts["tests"] - failed - counts["skipped"])
    sound = status == 0 and passed > 0 and failed == 0
    if not sound and failed == 0:
        failed = 1
        say(f"The ring {ring} ended with status {status} after {passed} passed tests.")
    return Outcome(ring, passed, failed, counts["skipped"], sound, seconds)


def run_tool(environment: Environment, script: Path, arguments: Sequence[str]) -> int:
    """Run a script of tools/ in the environment, as `sys.path` of the host wants it; its status.

    ComfyUI's tree comes first and the project last: both have a module named `nodes`.
    """
    # Plain Python would put the script's own folder first, and ours is named like nothing else.
    start = (
        "import runpy, sys; tree, root, *sys.argv = sys.argv[1:]; "
        "sys.path[0] = tree; sys.path.append(root); "
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    tree, root = str(environment.tree), str(ROOT)
    command = [str(environment.python), "-c", start, tree, root, str(script), *arguments]
    return run_through(command, Path.cwd(), child_variables(environment))
