"""The rings of tests, each in a process of its own, two at a time, and one count over all of them."""

from __future__ import annotations

import os
import subprocess
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tools.devkit.browser import find_browser
from tools.devkit.console import run_through, running_beside, say
from tools.devkit.environment import ROOT, Environment, child_variables, sharing_variables

RINGS = ("core", "nodes", "host", "web")
# Rings with a pytest.ini in their folder, which they are run from; the others use pyproject.toml.
_OWN_SETTINGS = ("host", "web")
# The folders of a ring, where they are not one of its own name.
_FOLDERS = {"nodes": ("nodes", "host_fakes")}
# The ring that runs beside the others.
_BESIDE = "web"
_NEWS_SECONDS = 30.0
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
    """Run the rings, print a summary; whether all is well.

    One after another, but for the ring that waits for a browser most of its time: where there are other rings and
    more than one core, it runs beside them.
    """
    several = len(rings) > 1 and (os.cpu_count() or 1) > 1
    aside = _Run(environment, _BESIDE, full, shared=True) if several and _BESIDE in rings else None
    with _beside(aside) as process:
        outcomes = []
        for ring in rings:
            if aside is not None and ring == aside.ring:
                continue
            if ring == "core":
                outcomes += _lint(environment)
            outcomes.append(_pytest(_Run(environment, ring, full, shared=aside is not None)))
        if aside is not None and process is not None:
            outcomes.append(_awaited(aside, process))
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


@dataclass(frozen=True)
class _Run:
    """One process of a ring. shared: another ring runs beside it, so that it computes on one core."""

    environment: Environment
    ring: str
    full: bool
    shared: bool

    @property
    def report(self) -> Path:
        return self.environment.home / "reports" / f"{self.ring}.xml"

    @property
    def log(self) -> Path:
        return self.environment.home / "reports" / f"{self.ring}.log"

    @property
    def folder(self) -> Path:
        return ROOT / "tests" / self.ring if self.ring in _OWN_SETTINGS else ROOT

    def command(self) -> list[str]:
        """pytest's command line; an old report is taken away."""
        self.report.parent.mkdir(parents=True, exist_ok=True)
        self.report.unlink(missing_ok=True)
        command = [str(self.environment.python), "-m", "pytest", "-q"]
        command.append(f"--junitxml={self.report}")
        if self.ring not in _OWN_SETTINGS:
            names = _FOLDERS.get(self.ring, (self.ring,))
            command += [str(ROOT / "tests" / name) for name in names]
        return command

    def variables(self) -> dict[str, str]:
        variables = sharing_variables(self.environment)
        browser = find_browser()
        if browser is not None:
            variables["CHROME_PATH"] = str(browser)
        if self.shared:
            variables.setdefault("OMP_NUM_THREADS", "1")
        if self.full:
            variables |= _FULL_COUNTS
        return variables


def _pytest(run: _Run) -> Outcome:
    say(f"\n== {run.ring}")
    started = time.monotonic()
    status = run_through(run.command(), run.folder, run.variables())
    return read_report(run.ring, run.report, status, time.monotonic() - started)


@contextmanager
def _beside(run: _Run | None) -> Iterator[subprocess.Popen[bytes] | None]:
    if run is None:
        yield None
        return
    say(f"The ring {run.ring} runs beside the others; its output: {run.log}")
    with running_beside(run.command(), run.folder, run.variables(), run.log) as process:
        yield process


def _awaited(run: _Run, process: subprocess.Popen[bytes]) -> Outcome:
    """Wait for the ring that runs beside the others, then show what it said."""
    say(f"\n== {run.ring}")
    started = time.monotonic()
    while process.poll() is None:
        try:
            process.wait(_NEWS_SECONDS)
        except subprocess.TimeoutExpired:
            say(f"      ... {time.monotonic() - started:.0f} s")
    say(run.log.read_text("utf-8", errors="replace"))
    return read_report(run.ring, run.report, process.returncode)


def read_report(ring: str, report: Path, status: int, seconds: float | None = None) -> Outcome:
    """Count by pytest's own report. A ring that wrote none, or ran no test, failed once.

    seconds: what the ring took, where that is not what its report says.
    """
    counts = dict.fromkeys(("tests", "failures", "errors", "skipped"), 0)
    took = 0.0
    if report.is_file():
        for suite in ElementTree.parse(report).iter("testsuite"):
            for key in counts:
                counts[key] += int(suite.get(key, 0))
            took += float(suite.get("time", 0))
    failed = counts["failures"] + counts["errors"]
    passed = max(0, counts["tests"] - failed - counts["skipped"])
    sound = status == 0 and passed > 0 and failed == 0
    if not sound and failed == 0:
        failed = 1
        say(f"The ring {ring} ended with status {status} after {passed} passed tests.")
    return Outcome(
        ring, passed, failed, counts["skipped"], sound, took if seconds is None else seconds
    )


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
