"""What changes from step to step: parameters, optimizers, averages, the best so far. All of it goes into a state."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from ..errors import TrainError
from .optimizers import ScheduleFree, make_optimizers
from .settings import TrainSettings, rate_at
from .state import RunState

_PLAIN = (bool, int, float, str)


@dataclass
class Run:
    """parameters: what learns. average: their moving mean, empty without one. first: what they were before step 1.

    best: the weights of the lowest validation loss, empty before the first. factor: of the rate, halved by a rollback.
    """

    parameters: list[torch.nn.Parameter]
    optimizers: list[torch.optim.Optimizer]
    average: list[torch.Tensor]
    first: list[torch.Tensor]
    best: list[torch.Tensor] = field(default_factory=list)
    step: int = 0
    factor: float = 1.0
    losses: list[float] = field(default_factory=list)
    validation: list[tuple[int, float]] = field(default_factory=list)
    updating: bool = False

    def state(self) -> RunState:
        """An owned copy of everything, on the CPU."""
        named = {"parameter": self.parameters, "average": self.average, "best": self.best}
        tensors = {f"{kind}.{i}": t for kind, some in named.items() for i, t in enumerate(some)}
        plain: dict[str, Any] = {}
        for place, optimizer in enumerate(self.optimizers):
            for i, kept in optimizer.state_dict()["state"].items():
                for name, value in kept.items():
                    is_tensor = isinstance(value, torch.Tensor)
                    (tensors if is_tensor else plain)[f"optimizer.{place}.{i}.{name}"] = value
        owned = {name: t.detach().cpu().clone() for name, t in tensors.items()}
        facts = {"factor": self.factor, "losses": list(self.losses), "plain": plain}
        facts |= {"validation": list(self.validation), "groups": self._groups()}
        return RunState(self.step, owned, facts)

    @torch.no_grad()
    def restore(self, state: RunState) -> None:
        """Raises TrainError where the state is of other parameters."""
        kept: dict[int, dict[int, dict[str, Any]]] = {}
        self.best = (
            [p.detach().clone() for p in self.parameters] if "best.0" in state.tensors else []
        )
        into: Mapping[str, Sequence[torch.Tensor]]
        into = {"parameter": self.parameters, "average": self.average, "best": self.best}
        for name, value in (*state.tensors.items(), *state.facts["plain"].items()):
            kind, number, *rest = name.split(".", 3)
            if kind == "optimizer":
                owned = value.clone() if isinstance(value, torch.Tensor) else value
                kept.setdefault(int(number), {}).setdefault(int(rest[0]), {})[rest[1]] = owned
                continue
            if int(number) >= len(into[kind]) or into[kind][int(number)].shape != value.shape:
                raise TrainError(
                    "The saved state is of other layers or another rank than this run."
                )
            into[kind][int(number)].copy_(value)
        for place, optimizer in enumerate(self.optimizers):
            groups = optimizer.state_dict()["param_groups"]
            for group, said in zip(groups, state.facts["groups"][place], strict=True):
                group |= said
            optimizer.load_state_dict({"state": kept.get(place, {}), "param_groups": groups})
        self.step, self.factor = state.step, state.facts["factor"]
        self.losses = list(state.facts["losses"])
        self.validation = [(step, value) for step, value in state.facts["validation"]]

    def _groups(self) -> list[list[dict[str, Any]]]:
        """What optimizers keep beside their tensors; Prodigy's estimate of the rate, for one."""
        return [
            [
                {name: value for name, value in group.items() if isinstance(value, _PLAIN)}
                for group in optimizer.state_dict()["param_groups"]
            ]
            for optimizer in self.optimizers
        ]

    def kept(self) -> list[torch.Tensor]:
        """The weights that would be saved now: the average, schedule-free's mean, or the parameters themselves."""
        if self.average:
            return self.average
        means = {
            p: kept["x"]
            for optimizer in self.optimizers
            if isinstance(optimizer, ScheduleFree)
            for p, kept in optimizer.state.items()
        }
        return [means.get(p, p.detach()) for p in self.parameters]

    @torch.no_grad()
    def update(self, settings: TrainSettings, loss: float) -> float:
        """One step of the optimizers and the average; returns the rate."""
        rate = rate_at(settings, self.step) * self.factor
        self.updating = True
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * group["share"]
            optimizer.step()
        # The first steps weigh less than the decay says, or the average would stay near its beginning.
        decay = min(settings.ema, (1 + self.step) / (10 + self.step))
        for smooth, parameter in zip(self.average, self.parameters, strict=False):
            smooth.lerp_(parameter, 1 - decay)
        self.losses.append(loss)
        self.step += 1
        self.updating = False
        return rate


def begin(
    parameters: Sequence[torch.nn.Parameter],
    rates: Sequence[float],
    settings: TrainSettings,
    state: RunState | None,
) -> Run:
    """A run at its first step, or where the state left it. Raises TrainError."""
    first = [p.detach().clone() for p in parameters]
    # Schedule-free has a mean of its own.
    averaged = settings.ema and settings.optimizer != "schedule-free AdamW"
    average = [p.detach().clone() for p in parameters] if averaged else []
    run = Run(list(parameters), make_optimizers(parameters, rates, settings), average, first)
    if state is not None:
        run.restore(state)
    return run


@contextmanager
def holding(
    parameters: Sequence[torch.nn.Parameter], values: Sequence[torch.Tensor]
) -> Iterator[None]:
    """The parameters with other values, within the block only."""
    with torch.no_grad():
        kept = [p.detach().clone() for p in parameters]
        try:
            _put(parameters, values)
            yield
        finally:
            _put(parameters, kept)


@torch.no_grad()
def _put(parameters: Sequence[torch.nn.Parameter], values: Sequence[torch.Tensor]) -> None:
    for parameter, value in zip(parameters, values, strict=True):
        parameter.copy_(value)
