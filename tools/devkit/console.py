"""What a person sees while dev.py works, and commands that tell how far they are."""

from __future__ import annotations

import queue
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

QUIET_SECONDS = 10.0  # a command that says nothing for so long gets a line with its elapsed time
LOG_TAIL_LINES = 15
END_SECONDS = 30.0  # that an interrupted command gets to stop its host


class SetupError(RuntimeError):
    """The set-up cannot go on; the message tells a person what to do."""


class CommandFailed(SetupError):
    """A command of the set-up failed; `output` is all that it wrote."""

    def __init__(self, command: Sequence[str], status: int, output: str, log_path: Path) -> None:
        self.status = status
        self.output = output
        tail = "\n".join("    " + line for line in output.splitlines()[-LOG_TAIL_LINES:])
        super().__init__(
            f"this command ended with status {status}:\n    {shlex.join(command)}\n"
            f"its last lines (all of them are in {log_path}):\n{tail}"
        )


def say(text: str) -> None:
    print(text, flush=True)


def run_told(
    command: Sequence[str],
    log_path: Path,
    worth_telling: Callable[[str], bool],
    variables: Mapping[str, str] | None = None,
) -> str:
    """Run a command and return its output, which also goes to `log_path`.

    Prints the lines that are `worth_telling`, and the elapsed time when nothing else happens.
    Raises CommandFailed.
    """
    log_path.parent.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    process = subprocess.Popen(
        command,
        env=None if variables is None else dict(variables),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    lines: list[str] = []
    try:
        for line in _lines_or_silence(process):
            if line is None:
                say(f"      ... {time.monotonic() - started:.0f} s")
                continue
            lines.append(line)
            if worth_telling(line):
                say(f"      {line.strip()[:110]}")
    finally:
        if process.poll() is None:
            process.terminate()
        status = process.wait()
        log_path.write_text("".join(lines), encoding="utf-8")
    if status != 0:
        raise CommandFailed(command, status, "".join(lines), log_path)
    return "".join(lines)


def run_through(command: Sequence[str], folder: Path, variables: Mapping[str, str]) -> int:
    """Run a command that talks to the person itself; its status.

    When this program is interrupted, the command is given the time to end by itself, since it
    may have a host to stop.
    """
    with _interrupts_heard():
        process = subprocess.Popen(command, cwd=folder, env=dict(variables))
    try:
        return process.wait()
    except SystemExit:
        process.send_signal(signal.SIGINT)
        raise
    finally:
        # After Ctrl-C in a terminal the command has had the signal too; a second one would only
        # disturb it.
        try:
            process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def running_beside(
    command: Sequence[str], folder: Path, variables: Mapping[str, str], log_path: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """A command that runs beside others, its output in `log_path`; interrupted if it outlives the block."""
    log_path.parent.mkdir(parents=True, exist_ok=True)
    with log_path.open("wb") as log, _interrupts_heard():
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=dict(variables),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        try:
            process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def _interrupts_heard() -> Iterator[None]:
    """What is started within hears interrupts, even where this program does not.

    A shell lets what it starts in the background ignore them, and that is handed on to every child.
    """
    ignored = signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    if ignored:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        if ignored:
            signal.signal(signal.SIGINT, signal.SIG_IGN)


def _lines_or_silence(process: subprocess.Popen[str]):
    """The output lines of a process as they come; None after each QUIET_SECONDS without one."""
    lines: queue.Queue[str | None] = queue.Queue()
    stream = process.stdout
    assert stream is not None

    def read() -> None:
        for line in stream:
            lines.put(line)
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    while True:
        try:
            line = lines.get(timeout=QUIET_SECONDS)
        except queue.Empty:
            yield None
            continue
        if line is None:
            process.wait()
            return
        yield line
