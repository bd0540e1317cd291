"""What the layers of a MODEL are really fed with: samples of their inputs, taken while it runs a few sampling steps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import comfy.sample
import torch
from torch.nn import functional

from ..analysis.interference import Inputs

MOST_STEPS = 4
# Inputs kept of each layer: enough for the directions that matter, 256 x 4 x 15360 bytes at the most a layer.
_SAMPLES = 256
_SIDE = 64  # latent pixels, 512 x 512 of a picture


class _Seen:
    """Samples of one layer's inputs over all calls."""

    def __init__(self, calls: int) -> None:
        self._each = max(1, _SAMPLES // max(1, calls))
        self._kept: list[torch.Tensor] = []

    def add(self, rows: torch.Tensor) -> None:
        """rows: (tokens, in * kernel); some of them, evenly spread."""
        room = min(self._each, _SAMPLES - sum(len(each) for each in self._kept))
        if room <= 0 or not len(rows):
            return
        count = min(room, len(rows))
        places = torch.arange(count, device=rows.device) * len(rows) // count
        self._kept.append(rows[places].detach().float().cpu())

    def inputs(self) -> Inputs | None:
        """None where the layer was never fed, or not with finite numbers."""
        if not self._kept:
            return None
        samples = torch.cat(self._kept)
        samples = samples / samples.shape[0] ** 0.5
        gram = (samples @ samples.T).double()
        total, squares = float(gram.diagonal().sum()), float(gram.square().sum())
        if not 0 < squares < float("inf"):
            return None
        return Inputs(samples, total**2 / squares)


def layer_inputs(
    model: Any,
    keys: Iterable[str],
    positive: Any,
    negative: Any,
    latent: dict[str, Any] | None,
    steps: int,
    seed: int,
) -> dict[str, Inputs]:
    """Run `steps` sampling steps from noise and return what the layers of these weights were fed with.

    keys: weight names of the MODEL. latent: a LATENT whose size is sampled; None for 64 x 64. The MODEL is left as it
    was: what listens is taken off again, after an error too.
    """
    modules = {key: module for key in keys if (module := _layer(model.model, key)) is not None}
    image = latent["samples"] if latent is not None else torch.zeros(1, 4, _SIDE, _SIDE)
    image = comfy.sample.fix_empty_latent_channels(model, image)[:1]
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(seed))
    seen = {key: _Seen(2 * steps) for key in modules}
    with _listening(modules, seen):
        comfy.sample.sample(
            model,
            noise,
            steps,
            4.0 if negative is not None else 1.0,
            "euler",
            "normal",
            positive,
            negative if negative is not None else positive,
            torch.zeros_like(image),
            disable_pbar=True,
            seed=seed,
        )
    found = {key: each.inputs() for key, each in seen.items()}
    return {key: each for key, each in found.items() if each is not None}


def _layer(inner: torch.nn.Module, key: str) -> torch.nn.Module | None:
    """The layer whose weight has this name, where it is a linear layer or a convolution."""
    name, _, part = key.rpartition(".")
    try:
        module = inner.get_submodule(name)
    except AttributeError:
        return None
    linear = hasattr(module, "in_features")
    plain = isinstance(module, torch.nn.Conv2d) and module.groups == 1
    return module if part == "weight" and (linear or plain) else None


@contextmanager
def _listening(modules: dict[str, torch.nn.Module], seen: dict[str, _Seen]) -> Iterator[None]:
    handles = [
        module.register_forward_pre_hook(_listener(seen[key])) for key, module in modules.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _listener(seen: _Seen) -> Any:
    def listen(module: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        seen.add(_rows(module, inputs[0]))

    return listen


def _rows(module: Any, x: torch.Tensor) -> torch.Tensor:
    """The inputs as rows: tokens of a linear layer, patches under the kernel of a convolution."""
    if not isinstance(module, torch.nn.Conv2d):
        return x.reshape(-1, x.shape[-1])
    padding = module.padding if isinstance(module.padding, tuple) else 0
    patches = functional.unfold(
        x.float(), module.kernel_size, module.dilation, padding, module.stride
    )
    return patches.transpose(1, 2).reshape(-1, patches.shape[1])
