"""Builds the environment of demo, tests and benchmarks, and repairs it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tools.devkit import distributions, host_tree, pins
from tools.devkit.browser import apt_install, ensure_browser
from tools.devkit.console import SetupError, run_told, say
from tools.devkit.environment import Environment
from tools.devkit.exclusive import only_one
from tools.devkit.pip_runs import run_pip, write_requirements
from tools.devkit.steps import Step, StillBroken, ensure

_SHIM_SOURCE = Path(__file__).with_name("torchvision_operators.py")
_SHIM_PTH = "zz_torchvision_operators.pth"


def provide(environment: Environment, *, tests: bool = False, page: bool = False) -> None:
    """Make the environment whole: for running the host, with `tests` for the test rings too,
    with `page` also for those of the web page.

    Raises SetupError with a message for a person.
    """
    say(f"Environment in {environment.home}")
    _check_what_is_named(environment, tests)
    with only_one(environment.home / "setup.lock"):
        try:
            for step in _steps(environment, tests, page):
                ensure(step, environment.home / "stamps")
        except StillBroken as fault:
            raise SetupError(
                f"{fault}\nRemove the folder {environment.home} and run the same command again."
            ) from None
        if page:
            ensure_browser(environment.home / "logs")


def has_newer_page(environment: Environment) -> bool:
    """Whether the newer web page can be tested: it takes pip, which named things rule out."""
    page = environment.frontend_root(pins.NEWER_FRONTEND)
    return environment.own_python or environment.own_tree or page.is_dir()


def _steps(environment: Environment, tests: bool, page: bool) -> list[Step]:
    steps = []
    if environment.own_python:
        site = _Site(environment)
        steps += [site.interpreter(), site.torch(), site.packages("host packages")]
        steps.append(site.torchvision_operators())
        if tests:
            steps.append(site.packages("test packages"))
    if environment.own_tree:
        steps.append(_comfyui(environment))
    if page and (environment.own_python or environment.own_tree):
        steps.append(_newer_page(environment))
    return steps


_PACKAGES = {"host packages": pins.HOST_PACKAGES, "test packages": pins.TEST_PACKAGES}


class _Site:
    """The steps that fill the venv of an environment."""

    def __init__(self, environment: Environment) -> None:
        self.home = environment.home
        self.python = environment.python
        self.venv = environment.home / "venv"

    @property
    def folder(self) -> Path:
        """site-packages. Its name holds the Python version, so it is known once the venv is."""
        if os.name == "nt":
            return self.venv / "Lib" / "site-packages"
        return next(self.venv.glob("lib/python3*/site-packages"), self.venv / "none")

    def interpreter(self) -> Step:
        return Step("interpreter", "venv 1", self._make_venv, self._venv_faults)

    def _make_venv(self) -> dict[str, str]:
        log_path = self.home / "logs" / "interpreter.log"
        if not self._starts():
            shutil.rmtree(self.venv, ignore_errors=True)
            base = _base_python(self.home / "logs")
            say(f"      a new virtual environment from {base}")
            run_told([base, "-m", "venv", str(self.venv)], log_path, lambda line: False)
        distributions.sweep(self.folder)
        if "pip" not in distributions.installed(self.folder):
            run_told([str(self.python), "-m", "ensurepip"], log_path, lambda line: False)
        return distributions.with_dependencies(self.folder, ["pip"])

    def _venv_faults(self, inventory: dict[str, str]) -> list[str]:
        return self._missing(inventory) if self._starts() else ["it does not start"]

    def _starts(self) -> bool:
        question = "import sys; sys.exit(sys.version_info < " + repr(pins.OLDEST_PYTHON) + ")"
        try:
            return subprocess.run([str(self.python), "-c", question]).returncode == 0
        except OSError:
            return False

    def torch(self) -> Step:
        return Step("torch", pins.TORCH, self._install_torch, self._missing)

    def _install_torch(self) -> dict[str, str]:
        distributions.sweep(self.folder)
        # Alone and first. pip takes the build that its configured index offers for this machine:
        # CUDA in general on Linux, a CPU build where one is configured. A CUDA build runs without
        # a GPU too, it is only larger; LOOM_TORCH_INDEX names an index of smaller ones.
        arguments = [pins.TORCH, "-c", str(self._requirements("host packages"))]
        index = os.environ.get("LOOM_TORCH_INDEX")
        if index:
            arguments += ["--extra-index-url", index]
        gpu = "found" if _nvidia_gpu() else "none found"
        say(f"      {pins.TORCH} (200 MB to 3 GB, minutes; NVIDIA GPU: {gpu})")
        self._pip("torch", *arguments)
        return distributions.with_dependencies(self.folder, ["torch"])

    def packages(self, name: str) -> Step:
        return Step(name, _PACKAGES[name], lambda: self._install_packages(name), self._missing)

    def _install_packages(self, name: str) -> dict[str, str]:
        distributions.sweep(self.folder)
        say(f"      {len(_PACKAGES[name])} packages")
        self._pip(name, "--no-deps", "-r", str(self._requirements(name)))
        names = {distributions.requirement_name(item) for item in _PACKAGES[name]}
        present = distributions.installed(self.folder)
        return {key: version for key, (version, _) in present.items() if key in names}

    def _requirements(self, name: str) -> Path:
        path = self.home / "logs" / f"{name.replace(' ', '-')}.txt"
        return write_requirements(path, _PACKAGES[name])

    def _pip(self, what: str, *arguments: str) -> None:
        log_path = self.home / "logs" / f"{what.replace(' ', '-')}.log"
        run_pip(self.python, log_path, what, "install", "--only-binary", ":all:", *arguments)

    def _missing(self, inventory: dict[str, str]) -> list[str]:
        return distributions.missing(self.folder, inventory)

    def torchvision_operators(self) -> Step:
        source = _SHIM_SOURCE.read_text(encoding="utf-8")
        files = {_SHIM_SOURCE.name: source, _SHIM_PTH: f"import {_SHIM_SOURCE.stem}\n"}

        def make() -> list[str]:
            for name, text in files.items():
                (self.folder / name).write_text(text, encoding="utf-8")
            return sorted(files)

        def faults(_: Any) -> list[str]:
            return [name for name, text in files.items() if _text(self.folder / name) != text]

        return Step("torchvision operators", files, make, faults)


def _comfyui(environment: Environment) -> Step:
    home, tree = environment.home, environment.tree
    # What pip may be asked to download with: the venv's interpreter, or the named one.
    return Step(
        f"ComfyUI {pins.COMFYUI}",
        [pins.COMFYUI_WHEEL_SHA256, sorted(pins.COMFYUI_WHEEL_LEAVE_OUT)],
        lambda: host_tree.make_tree(environment.python, home, tree),
        lambda inventory: host_tree.tree_faults(tree, inventory),
    )


def _newer_page(environment: Environment) -> Step:
    folder = environment.frontend_folder(pins.NEWER_FRONTEND)
    package = f"comfyui-frontend-package=={pins.NEWER_FRONTEND}"
    part = folder.with_name(folder.name + ".part")

    def make() -> dict[str, str]:
        shutil.rmtree(part, ignore_errors=True)
        log_path = environment.home / "logs" / "web-page.log"
        arguments = ("install", "--no-deps", "--target", str(part), package)
        run_pip(environment.python, log_path, package, *arguments)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(part, folder)
        return {name: version for name, (version, _) in distributions.installed(folder).items()}

    def faults(inventory: dict[str, str]) -> list[str]:
        return distributions.missing(folder, inventory)

    return Step(f"web page {pins.NEWER_FRONTEND}", package, make, faults)


def _base_python(logs: Path) -> str:
    """An interpreter to make the venv from: this one, else a newer one on the search path."""
    candidates = [sys.executable]
    if sys.version_info < pins.OLDEST_PYTHON:
        names = [f"python3.{minor}" for minor in range(pins.OLDEST_PYTHON[1], 15)]
        candidates = [found for name in names if (found := shutil.which(name)) and _runs(found)]
    if not candidates:
        version = ".".join(map(str, pins.OLDEST_PYTHON))
        raise SetupError(
            f"The test environment needs Python {version} or newer: its pinned packages do (the "
            f"pack itself runs on 3.10). Install it, or run dev.py with it, or set LOOM_PYTHON to "
            "an interpreter that already has torch and ComfyUI's packages."
        )
    base = candidates[0]
    if subprocess.run([base, "-c", "import ensurepip"], capture_output=True).returncode:
        minor = subprocess.run(
            [base, "-c", "import sys; print('python%d.%d-venv' % sys.version_info[:2])"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        package = minor.stdout.strip()
        say(f"      {base} cannot make virtual environments; installing {package}")
        advice = f"Install the package {package} (or a complete Python) and run dev.py again."
        apt_install(package, logs / "venv-package.log", advice)
    return base


def _runs(program: str) -> bool:
    # A name on the search path may be a version manager's, for a version that it does not have.
    return subprocess.run([program, "-c", "pass"], capture_output=True).returncode == 0


def _nvidia_gpu() -> bool:
    program = shutil.which("nvidia-smi")
    if program is None:
        return False
    return subprocess.run([program, "-L"], capture_output=True).returncode == 0


def _text(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.is_file() else None


def _check_what_is_named(environment: Environment, tests: bool) -> None:
    """Raise SetupError where COMFYUI_PATH or LOOM_PYTHON name something unfit."""
    if not environment.own_tree:
        if not (environment.tree / "main.py").is_file():
            raise SetupError(f"COMFYUI_PATH is {environment.tree}, but no main.py is in it.")
        say(f"  ComfyUI: {environment.tree} (COMFYUI_PATH), used as it is")
    if not environment.own_python:
        wanted = pins.HOST_MODULES + (pins.TEST_MODULES if tests else ())
        lacking = _lacking_modules(environment.python, wanted)
        if lacking:
            raise SetupError(
                f"LOOM_PYTHON is {environment.python}, which lacks: {', '.join(lacking)}.\n"
                "dev.py installs nothing into an interpreter of yours: install them there (the "
                "proven versions are in tools/devkit/pins.py), or unset LOOM_PYTHON."
            )
        say(f"  interpreter: {environment.python} (LOOM_PYTHON), used as it is")


def _lacking_modules(python: Path, modules: Sequence[str]) -> list[str]:
    question = (
        "import sys, importlib.util as u; print(*[m for m in sys.argv[1:] if not u.find_spec(m)])"
    )
    try:
        ran = subprocess.run(
            [str(python), "-c", question, *modules], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError) as error:
        raise SetupError(f"LOOM_PYTHON is {python}, which does not run: {error}") from None
    return ran.stdout.split()
