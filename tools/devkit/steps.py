"""Steps of a set-up: each is made once, checked each time, and made again when it is broken."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.devkit.console import say


class StillBroken(RuntimeError):
    """A step was made, and its own check still finds it broken."""


@dataclass(frozen=True)
class Step:
    """One thing to make.

    `recipe` is all that decides what is made, as JSON values: another recipe makes it anew.
    `make` builds it and returns its inventory (JSON values), which is kept in the stamp;
    `faults` compares the inventory with what is there and names what is missing or changed.
    """

    name: str
    recipe: Any
    make: Callable[[], Any]
    faults: Callable[[Any], list[str]]


def ensure(step: Step, stamps: Path) -> bool:
    """Make the step unless it is there and whole; whether anything had to be done.

    Raises what `make` raises, and StillBroken. No stamp is left behind then.
    """
    stamp = stamps / f"{step.name.replace(' ', '-')}.json"
    reason = _reason_to_make(step, stamp)
    if reason is None:
        say(f"  {step.name}: ready")
        return False
    say(f"  {step.name}: {reason}")
    started = time.monotonic()
    stamp.unlink(missing_ok=True)
    inventory = step.make()
    faults = step.faults(inventory)
    if faults:
        raise StillBroken(f"{step.name} was made, but is not whole: {_listed(faults)}")
    seals = {"recipe": fingerprint(step.recipe), "seal": fingerprint(inventory)}
    _write_stamp(stamp, {**seals, "inventory": inventory})
    say(f"  {step.name}: done in {time.monotonic() - started:.0f} s")
    return True


def fingerprint(recipe: Any) -> str:
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()


def _reason_to_make(step: Step, stamp: Path) -> str | None:
    recipe = inventory = None
    try:
        kept = json.loads(stamp.read_text(encoding="utf-8"))
        recipe, inventory = kept["recipe"], kept["inventory"]
        intact = kept["seal"] == fingerprint(inventory)
    except FileNotFoundError:
        return "not there yet, or not finished"
    except (OSError, ValueError, KeyError, TypeError):
        intact = False
    if not intact:
        return "its stamp is unreadable; checking and completing it"
    if recipe != fingerprint(step.recipe):
        return "its recipe has changed"
    faults = step.faults(inventory)
    return f"broken ({_listed(faults)}); repairing" if faults else None


def _listed(faults: list[str]) -> str:
    more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
    return ", ".join(faults[:3]) + more


def _write_stamp(stamp: Path, content: Any) -> None:
    stamp.parent.mkdir(parents=True, exist_ok=True)
    part = stamp.with_suffix(".part")
    part.write_text(json.dumps(content, indent=1), encoding="utf-8")
    os.replace(part, stamp)
