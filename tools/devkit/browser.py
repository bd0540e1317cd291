"""Chromium for the tests of the web page."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from tools.devkit.console import CommandFailed, SetupError, run_told, say

_PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_ADVICE = (
    "The tests of the web page need Chromium or Chrome. Install one (Debian: apt-get install "
    "chromium), or set CHROME_PATH to its program file, and run the same command again."
)


def find_browser() -> Path | None:
    """The browser that CHROME_PATH names, else the first one on the search path.

    Raises SetupError if CHROME_PATH names something that is not there.
    """
    named = os.environ.get("CHROME_PATH")
    if named:
        if not Path(named).is_file():
            raise SetupError(f"CHROME_PATH is {named}, but there is no such file.\n{_ADVICE}")
        return Path(named)
    found = (shutil.which(program) for program in _PROGRAMS)
    return next((Path(program) for program in found if program), None)


def ensure_browser(logs: Path) -> Path:
    """The browser, installed from Debian's package if need be. Raises SetupError."""
    browser = find_browser()
    if browser is not None:
        say(f"  browser: ready ({browser})")
        return browser
    say("  browser: not there yet; installing the chromium package (about 300 MB)")
    apt_install("chromium", logs / "browser.log", _ADVICE)
    browser = find_browser()
    if browser is None:
        raise SetupError(f"apt-get installed chromium, but no program of it is found.\n{_ADVICE}")
    return browser


def apt_install(package: str, log_path: Path, advice: str) -> None:
    """Install a Debian package. Raises SetupError with `advice` where that is not possible."""
    if not can_apt():
        raise SetupError(advice)
    variables = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    install = ["apt-get", "install", "-y", package]
    try:
        run_told(["apt-get", "update"], log_path, lambda line: line.startswith("E:"), variables)
        run_told(install, log_path, lambda line: line.startswith(("Need to get", "E:")), variables)
    except CommandFailed as failure:
        raise SetupError(f"{package} could not be installed: {failure}\n{advice}") from None


def can_apt() -> bool:
    return hasattr(os, "geteuid") and os.geteuid() == 0 and shutil.which("apt-get") is not None
