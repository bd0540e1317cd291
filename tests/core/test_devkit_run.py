"""What dev.py says and does around the set-up: messages, locks, processes, counts."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tools.devkit import browser, host_process
from tools.devkit.console import SetupError, running_beside
from tools.devkit.environment import ROOT, Environment
from tools.devkit.exclusive import only_one
from tools.devkit.pip_runs import run_pip
from tools.devkit.rings import read_report


class TestMessages:
    def test_a_failed_download_says_what_failed_and_what_to_do(self, tmp_path):
        nothing = ["download", "--no-index", "--find-links", str(tmp_path), "no-such-package==1"]
        with pytest.raises(SetupError) as failure:
            run_pip(Path(sys.executable), tmp_path / "pip.log", "the package", *nothing)
        message = str(failure.value)
        assert message.startswith("the package could not be installed")
        assert "pip download --no-index" in message
        assert str(tmp_path / "pip.log") in message
        assert "Check the network" in message
        assert "no-such-package" in (tmp_path / "pip.log").read_text()

    def test_a_wrong_chrome_path_is_named(self, tmp_path, monkeypatch):
        monkeypatch.setenv("CHROME_PATH", str(tmp_path / "chrome"))
        with pytest.raises(SetupError, match="CHROME_PATH is .*no such file"):
            browser.find_browser()

    def test_without_apt_the_message_says_what_to_install(self, tmp_path, monkeypatch):
        monkeypatch.delenv("CHROME_PATH", raising=False)
        monkeypatch.setenv("PATH", str(tmp_path))
        with pytest.raises(SetupError, match="Install one"):
            browser.ensure_browser(tmp_path)


def test_two_set_ups_do_not_run_at_once(tmp_path, capsys):
    entered = threading.Event()

    def second():
        with only_one(tmp_path / "lock"):
            entered.set()

    with only_one(tmp_path / "lock"):
        thread = threading.Thread(target=second)
        thread.start()
        assert not entered.wait(0.3)
    assert entered.wait(10)
    thread.join()
    assert "Another set-up" in capsys.readouterr().out


class TestBeside:
    """A ring that runs beside others."""

    def test_what_it_says_is_kept_and_its_status_is_its_own(self, tmp_path):
        program = "print('found'); raise SystemExit(3)"
        command, log = [sys.executable, "-c", program], tmp_path / "logs" / "ring.log"
        with running_beside(command, tmp_path, os.environ, log) as process:
            assert process.wait(30) == 3
        assert log.read_text() == "found\n"

    def test_it_is_interrupted_when_the_others_end_early(self, tmp_path):
        program = (
            "import time\n"
            "try:\n"
            "    print('ready', flush=True); time.sleep(60)\n"
            "except KeyboardInterrupt:\n"
            "    print('host stopped')\n"
        )
        command, log = [sys.executable, "-c", program], tmp_path / "ring.log"
        with running_beside(command, tmp_path, os.environ, log) as process:
            while "ready" not in log.read_text():
                assert process.poll() is None
        assert process.returncode == 0
        assert log.read_text() == "ready\nhost stopped\n"


class TestHostProcess:
    @pytest.fixture
    def start(self, tmp_path, monkeypatch):
        """A function that starts a stand-in for ComfyUI's main.py."""
        monkeypatch.setattr(host_process, "has_accelerator", lambda python: False)
        monkeypatch.setattr(host_process, "STOP_LIMIT", 0.5)

        def start(program: str, **options):
            (tmp_path / "main.py").write_text(program)
            environment = Environment(tmp_path, Path(sys.executable), tmp_path, False, False)
            return host_process.running_host(environment, tmp_path, **options)

        return start

    def test_a_host_that_ends_is_reported_with_its_log(self, start):
        program = "import sys; print('no such module: x'); sys.exit(3)"
        with (
            pytest.raises(host_process.HostFailed, match=r"(?s)status 3.*no such module: x"),
            start(program),
        ):
            pass

    def test_a_silent_host_is_reported_and_stopped_though_it_resists(self, start):
        program = (
            "import signal, time\n"
            "for number in (signal.SIGINT, signal.SIGTERM): signal.signal(number, signal.SIG_IGN)\n"
            "time.sleep(60)\n"
        )
        with (
            pytest.raises(host_process.HostFailed, match="no answer within 1 s"),
            start(program, start_limit=1),
        ):
            pass

    def test_a_taken_port_is_named(self, start):
        with (
            socket.create_server(("127.0.0.1", 0)) as other,
            pytest.raises(host_process.HostFailed, match="is taken"),
            start("", port=other.getsockname()[1]),
        ):
            pass


class TestReport:
    def test_a_ring_beside_others_took_what_its_report_says(self, tmp_path):
        report = self.write(tmp_path / "r.xml", tests=2, failures=0, errors=0, skipped=0, time=12.5)
        assert read_report("web", report, 0).seconds == 12.5

    def write(self, path: Path, **counts: float) -> Path:
        attributes = " ".join(f'{key}="{value}"' for key, value in counts.items())
        path.write_text(f"<testsuites><testsuite {attributes}/></testsuites>")
        return path

    def test_passed_failed_and_skipped_are_counted(self, tmp_path):
        report = self.write(tmp_path / "r.xml", tests=10, failures=2, errors=1, skipped=3)
        outcome = read_report("core", report, 1, 0.0)
        assert (outcome.passed, outcome.failed, outcome.skipped) == (4, 3, 3)
        assert not outcome.sound

    def test_a_good_ring_is_sound(self, tmp_path):
        report = self.write(tmp_path / "r.xml", tests=2, failures=0, errors=0, skipped=0)
        assert read_report("core", report, 0, 0.0).sound

    @pytest.mark.parametrize("status", [0, 5])
    def test_a_ring_without_a_test_fails(self, tmp_path, status):
        report = self.write(tmp_path / "r.xml", tests=1, failures=0, errors=0, skipped=1)
        outcome = read_report("core", report, status, 0.0)
        assert not outcome.sound
        assert outcome.failed == 1

    def test_a_ring_that_crashed_fails(self, tmp_path):
        outcome = read_report("core", tmp_path / "none.xml", -11, 0.0)
        assert not outcome.sound
        assert outcome.failed == 1


def test_dev_py_without_a_command_prints_help():
    ran = subprocess.run([sys.executable, "dev.py"], cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 2
    for word in ("setup", "demo", "serve", "test", "bench", "COMFYUI_PATH", "LOOM_PYTHON"):
        assert word in ran.stdout


@pytest.mark.parametrize("ignored", [False, True], ids=["in a terminal", "in the background"])
def test_an_interrupted_command_may_clean_up(tmp_path, ignored):
    program = (
        "import sys, time\n"
        "try:\n"
        "    print('started', flush=True); time.sleep(60)\n"
        "except KeyboardInterrupt:\n"
        f"    open({str(tmp_path / 'cleaned')!r}, 'w').close(); sys.exit(0)\n"
    )
    outer = (
        "import os, signal, sys; from pathlib import Path\n"
        "from tools.devkit.console import run_through\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))\n"
        f"signal.signal(signal.SIGINT, signal.{'SIG_IGN' if ignored else 'default_int_handler'})\n"
        f"run_through([sys.executable, '-c', {program!r}], Path.cwd(), os.environ)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", outer], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    process.terminate()
    assert process.wait(30) == 143
    assert (tmp_path / "cleaned").exists()
