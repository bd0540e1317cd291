"""Starts and stops a real ComfyUI server.

environment = located()
base = standard_base(Path("somewhere"))
with running_host(environment, base) as host:
    client = HostClient(host.url)
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tools.devkit.environment import Environment, has_accelerator, sharing_variables

START_LIMIT = 180.0  # seconds; a first start on a busy machine was measured at 42
STOP_LIMIT = 10.0  # seconds; a quiet host needs 3 to 5
LOG_TAIL = 4000  # characters of the log that a failure shows


class HostFailed(RuntimeError):
    """The host did not start; the message ends with the tail of its log."""


@dataclass(frozen=True)
class Host:
    """A server that answers. `base` is its folder: output, user and so on lie below it."""

    url: str
    port: int
    base: Path
    log_path: Path
    process: subprocess.Popen[bytes]

    def log(self) -> str:
        return self.log_path.read_text(encoding="utf-8", errors="replace")


@contextmanager
def running_host(
    environment: Environment,
    base: Path,
    *,
    port: int | None = None,
    front_end_root: Path | None = None,
    extra_arguments: Sequence[str] = (),
    start_limit: float = START_LIMIT,
) -> Iterator[Host]:
    """A host on `base` (see base_directory), stopped at the end.

    `port` None takes a free one. Raises HostFailed if the host ends or stays silent for
    `start_limit` seconds, or if `port` is taken.
    """
    chosen = free_port() if port is None else port
    if port is not None and not port_is_free(port):
        raise HostFailed(f"port {port} is taken by another program; choose another with --port")
    log_path = base / "host.log"
    command = host_command(environment, base, chosen, front_end_root, extra_arguments)
    with log_path.open("wb") as log:
        # Its own session, so that Ctrl-C reaches this process first, which then stops the host.
        process = subprocess.Popen(
            command,
            cwd=environment.tree,
            env=sharing_variables(environment),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        host = Host(f"http://127.0.0.1:{chosen}", chosen, base, log_path, process)
        try:
            _wait_until_ready(host, start_limit)
            yield host
        finally:
            _stop(process)


def host_command(
    environment: Environment,
    base: Path,
    port: int,
    front_end_root: Path | None = None,
    extra_arguments: Sequence[str] = (),
) -> list[str]:
    command = [str(environment.python), "main.py", "--port", str(port)]
    command += ["--base-directory", str(base.resolve())]
    # By default the database lies in the host's tree, which may be shared or read-only.
    command += ["--database-url", "sqlite:///:memory:"]
    command += ["--disable-auto-launch", "--disable-api-nodes"]
    if not has_accelerator(environment.python):
        command.append("--cpu")
    if front_end_root is not None:
        command += ["--front-end-root", str(front_end_root)]
    return command + list(extra_arguments)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def port_is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(2)
        return probe.connect_ex(("127.0.0.1", port)) != 0


def _wait_until_ready(host: Host, limit: float) -> None:
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        status = host.process.poll()
        if status is not None:
            raise HostFailed(f"ComfyUI ended with status {status} while starting.\n{_tail(host)}")
        if _answers(host.url):
            return
        time.sleep(0.2)
    raise HostFailed(f"ComfyUI gave no answer within {limit:.0f} s.\n{_tail(host)}")


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/system_stats", timeout=5) as answer:
            return answer.status == 200
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


def _tail(host: Host) -> str:
    return f"The end of {host.log_path}:\n{host.log()[-LOG_TAIL:]}"


def _stop(process: subprocess.Popen[bytes]) -> None:
    polite = signal.SIGTERM if os.name == "nt" else signal.SIGINT
    for request in (polite, signal.SIGTERM):
        if process.poll() is not None:
            return
        process.send_signal(request)
        try:
            process.wait(STOP_LIMIT)
            return
        except subprocess.TimeoutExpired:
            continue
    process.kill()
    process.wait()
