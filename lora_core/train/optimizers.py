"""Optimizers by name: torch's own, one of ours, and those of packages where they are installed."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from ..errors import TrainError

if TYPE_CHECKING:
    from .settings import TrainSettings

Group = dict[str, Any]
_BETAS = (0.9, 0.99)


class ScheduleFree(torch.optim.Optimizer):
    """AdamW without a schedule (Defazio et al. 2024, algorithm 1): the parameters are y, what is to be saved is x.

    It needs a constant rate after its warm-up; x is the mean that a falling rate stands for in others.
    """

    def __init__(
        self,
        groups: Sequence[Group],
        lr: float,
        weight_decay: float,
        beta: float = 0.9,
        beta2: float = 0.99,
        eps: float = 1e-8,
    ) -> None:
        said = {"lr": lr, "weight_decay": weight_decay, "beta": beta, "beta2": beta2, "eps": eps}
        super().__init__(groups, said)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move(parameter, parameter.grad, group)

    def _move(self, y: torch.Tensor, gradient: torch.Tensor, group: Group) -> None:
        kept = self.state[y]
        if not kept:
            kept |= {"z": y.clone(), "x": y.clone(), "square": torch.zeros_like(y)}
            kept |= {"step": torch.zeros(()), "weight": torch.zeros(())}
        kept["step"] += 1
        rate = group["lr"]
        kept["square"].mul_(group["beta2"]).addcmul_(gradient, gradient, value=1 - group["beta2"])
        whole = 1 - group["beta2"] ** float(kept["step"])
        size = (kept["square"] / whole).sqrt_().add_(group["eps"])
        kept["z"].addcdiv_(gradient, size, value=-rate).sub_(y, alpha=rate * group["weight_decay"])
        weight = rate * rate
        kept["weight"] += weight
        share = weight / float(kept["weight"]) if weight else 0.0
        kept["x"].lerp_(kept["z"], share)
        y.copy_(kept["z"]).lerp_(kept["x"], group["beta"])


def _adamw(groups: Sequence[Group], settings: TrainSettings) -> list[torch.optim.Optimizer]:
    return [
        torch.optim.AdamW(
            groups, lr=settings.rate, betas=_BETAS, weight_decay=settings.weight_decay, fused=True
        )
    ]


def _adafactor(groups: Sequence[Group], settings: TrainSettings) -> list[torch.optim.Optimizer]:
    made = _of_torch("Adafactor")
    return [made(groups, lr=settings.rate, weight_decay=settings.weight_decay)]


def _muon(groups: Sequence[Group], settings: TrainSettings) -> list[torch.optim.Optimizer]:
    """Muon for matrices at AdamW's size of a step (Liu et al. 2025), AdamW for kernels and vectors."""
    made = _of_torch("Muon")
    parts: dict[bool, list[Group]] = {True: [], False: []}
    for group in groups:
        for flat in parts:
            some = [p for p in group["params"] if (p.ndim == 2) is flat]
            if some:
                parts[flat].append({**group, "params": some})
    found: list[torch.optim.Optimizer] = []
    if parts[True]:
        decay = settings.weight_decay
        adjust = "match_rms_adamw"
        found.append(made(parts[True], lr=settings.rate, weight_decay=decay, adjust_lr_fn=adjust))
    return found + (_adamw(parts[False], settings) if parts[False] else [])


def _schedule_free(groups: Sequence[Group], settings: TrainSettings) -> list[torch.optim.Optimizer]:
    return [ScheduleFree(groups, settings.rate, settings.weight_decay)]


def _prodigy(groups: Sequence[Group], settings: TrainSettings) -> list[torch.optim.Optimizer]:
    made = _of_package("prodigyopt", "Prodigy", "Prodigy")
    return [
        made(
            groups, lr=settings.rate, weight_decay=settings.weight_decay, safeguard_warmup=True,
            use_bias_correction=True,
        )
    ]  # fmt: skip


def _eight_bit(groups: Sequence[Group], settings: TrainSettings) -> list[torch.optim.Optimizer]:
    made = _of_package("bitsandbytes", "optim.AdamW8bit", "AdamW 8-bit")
    return [made(groups, lr=settings.rate, betas=_BETAS, weight_decay=settings.weight_decay)]


Make = Callable[[Sequence[Group], "TrainSettings"], list[torch.optim.Optimizer]]
# Name -> how it is made; most make one optimizer, those that cannot take every shape two.
OPTIMIZERS: dict[str, Make] = {
    "AdamW": _adamw,
    "Adafactor": _adafactor,
    "Muon": _muon,
    "schedule-free AdamW": _schedule_free,
    "Prodigy": _prodigy,
    "AdamW 8-bit": _eight_bit,
}


def make_optimizers(
    parameters: Sequence[torch.nn.Parameter], rates: Sequence[float], settings: TrainSettings
) -> list[torch.optim.Optimizer]:
    """rates: of each parameter, its share of the settings' rate; empty for 1. One group for each share.

    Raises TrainError where the optimizer's package, or this torch's own, is missing.
    """
    each = list(rates) or [1.0] * len(parameters)
    groups: dict[float, Group] = {}
    for parameter, share in zip(parameters, each, strict=True):
        fresh: Group = {"params": [], "lr": settings.rate * share, "share": share}
        groups.setdefault(share, fresh)["params"].append(parameter)
    return OPTIMIZERS[settings.optimizer](list(groups.values()), settings)


def _of_torch(name: str) -> Any:
    found = getattr(torch.optim, name, None)
    if found is None:
        raise TrainError(
            f"The optimizer {name} is not in torch {torch.__version__}. Choose AdamW, or a newer torch."
        )
    return found


def _of_package(package: str, path: str, name: str) -> Any:
    if importlib.util.find_spec(package) is None:
        raise TrainError(
            f"The optimizer {name} needs the package {package}, which is not installed. Install it into ComfyUI's "
            "Python, or choose another optimizer."
        )
    found: Any = importlib.import_module(package)
    for part in path.split("."):
        found = getattr(found, part)
    return found
