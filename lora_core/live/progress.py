"""Which step a model call belongs to, and the strengths of that step."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..stack.schedule import Schedule

# Samplers hand on sigmas that went through other dtypes and back.
_SLACK = 1e-5


def step_of(sigma: torch.Tensor, sigmas: torch.Tensor) -> torch.Tensor:
    """The step whose part of the way a call lies on: a whole number tensor on sigma's device, with no wait for it.

    sigma: () the noise level of the call; sigmas: (steps + 1,) falling, as the sampler runs through them. A second
    evaluation at the end of a step (heun) lies on the next step's level and takes that step's strengths.
    """
    reached = (sigmas.to(sigma) * (1 + _SLACK) >= sigma).sum() - 1
    return reached.clamp(0, max(sigmas.shape[0] - 2, 0))


def strength_table(
    own: Sequence[float], schedules: Sequence[Schedule | None], steps: int
) -> torch.Tensor:
    """(steps, rows) float32: each row's strength in each step."""
    return torch.tensor(
        [
            [
                strength if schedule is None else schedule.strength(strength, step, steps)
                for strength, schedule in zip(own, schedules, strict=True)
            ]
            for step in range(max(steps, 1))
        ],
        dtype=torch.float32,
    )


def acting(regions: Sequence[Sequence[str]], here: Sequence[str]) -> torch.Tensor:
    """(rows,) float32: 1 for the rows that act on a conditioning, 0 for the others.

    regions: for each row the regions that it is kept to, empty for a row that acts everywhere; here: the regions of
    the conditioning.
    """
    return torch.tensor([float(not own or bool(set(own) & set(here))) for own in regions])
