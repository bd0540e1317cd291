"""bench step: what live mode adds to a step, against its matrix products alone and against core's bypass loader.

Every adapted layer is called with inputs and outputs of the shapes of a real step, its own computation replaced by its
output, with the side paths on and off; the difference is what they add. `products`: the same factors multiplied in the
same order with nothing else; ratio = products / live, 0.67 means 1.5 times the products. `bypass`: the first LoRA through
the host's bypass loader (ComfyUI 0.30 and newer; name such a tree in COMFYUI_PATH). `step`: the whole call of the model
with live mode, against without (--whole). A case is `<live> <dtype> N=<n> r<rank> <model> <rival>`.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from tools.bench_stack import load, our_side
from tools.benching import BenchRow, interleaved, median_row, publish, seconds, told
from tools.models_for_benches import (  # first: it says the device before the host is imported
    DTYPES,
    MODELS,
    is_adapted,
    one_step,
    random_loras,
    random_model,
)

# isort: split
import comfy.model_management
import comfy.sd
import comfy.utils
import folder_paths

Call = tuple[str, Any, torch.Tensor, torch.Tensor]


def recorded(model: Any, name: str) -> list[Call]:
    """(weight name, layer, input, output) of every call of an adapted layer in one step; memory of one of each shape."""
    load(model)
    state = {key: tuple(value.shape) for key, value in model.model.state_dict().items()}
    keys = [key for key, shape in state.items() if is_adapted(key, shape, MODELS[name].adapted)]
    pool: dict[Any, torch.Tensor] = {}
    calls: list[Call] = []

    def kept(tensor: torch.Tensor, use: str) -> torch.Tensor:
        return pool.setdefault(
            (use, tensor.shape, tensor.dtype), torch.zeros_like(tensor).normal_()
        )

    def note(key: str) -> Callable[..., None]:
        return lambda layer, given, out: calls.append(
            (key, layer, kept(given[0], "in"), kept(out, "out"))
        )

    hooks = [
        comfy.utils.get_attr(model.model, key.removesuffix(".weight")).register_forward_hook(
            note(key)
        )
        for key in keys
    ]
    one_step(model, name)()
    for hook in hooks:
        hook.remove()
    return calls


@contextmanager
def answered(calls: list[Call]) -> Iterator[None]:
    """While it lasts each layer's own computation is a constant output."""
    layers = {id(layer): (layer, out) for _, layer, _, out in calls}
    for layer, out in layers.values():
        layer.forward = lambda *_, out=out, **__: out
    try:
        yield
    finally:
        for layer, _ in layers.values():
            layer.__dict__.pop("forward", None)


def added(patched: Any, calls: list[Call]) -> Callable[[], float]:
    """What measures the seconds that a patched MODEL's injections add to the calls of one step."""

    def run() -> None:
        for _, layer, x, _ in calls:
            layer(x)

    def measured() -> float:
        with answered(calls):
            without = seconds(run)
            patched.inject_model()
            try:
                return seconds(run) - without
            finally:
                patched.eject_model()

    measured()
    return measured


def products(patched: Any, calls: list[Call]) -> Callable[[], float]:
    """What measures the two products of each call, factors joined for all LoRAs, added into the outputs."""
    (stack,) = (
        cell.cell_contents for cell in _cells(patched) if hasattr(cell.cell_contents, "bank")
    )
    layers = {layer.key: layer for layer in stack.bank.layers}
    work = []
    for key, module, x, out in calls:
        factors = stack.bank.factors(layers[key], out.device, out.dtype)
        up = torch.cat([part.up for part in factors.ups], dim=1)
        work.append((module, x, out, factors.down, up))

    def run() -> None:
        for module, x, out, down, up in work:
            if x.dim() == down.dim() == 4:
                hidden = module._conv_forward(x, down, None).flatten(2)
                torch.baddbmm(out.flatten(2), up.expand(out.shape[0], *up.shape), hidden)
            else:
                hidden = torch.mm(x.reshape(-1, x.shape[-1]), down.t())
                out.view(-1, out.shape[-1]).addmm_(hidden, up.t())

    run()
    return lambda: seconds(run)


def _cells(patched: Any) -> tuple[Any, ...]:
    (injections,) = patched.injections.values()
    return injections[0].inject.__closure__


def bench_case(
    case: str, model: Any, names: list[str], calls: list[Call], rounds: int
) -> list[BenchRow]:
    live = our_side(model, names, "live").nodes(0.01)
    rivals = {"products": products(live, calls)}
    bypass = getattr(comfy.sd, "load_bypass_lora_for_models", None)
    if bypass is not None and len(names) == 1:
        path = folder_paths.get_full_path_or_raise("loras", names[0])
        patched, _ = bypass(model, None, comfy.utils.load_torch_file(path), 0.01, 0.0)
        rivals["bypass"] = added(patched, calls)
    ours = added(live, calls)
    return [
        median_row(f"live {case} {name}", *interleaved(ours, rival, rounds))
        for name, rival in rivals.items()
    ]


def whole_step(case: str, model: Any, name: str, names: list[str], rounds: int) -> BenchRow:
    """A step of the model with the side paths on, against without."""
    step, live = one_step(model, name), our_side(model, names, "live").nodes(0.01)

    def with_live() -> float:
        live.inject_model()
        try:
            return seconds(step)
        finally:
            live.eject_model()

    with_live()
    return median_row(f"live {case} step", *interleaved(with_live, lambda: seconds(step), rounds))


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="bench step", description=__doc__.splitlines()[0] if __doc__ else None
    )
    parser.add_argument("--json", help="write the table to this file")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each side per case")
    parser.add_argument("--counts", type=int, nargs="*", default=[1, 4, 8], help="LoRAs")
    parser.add_argument("--ranks", type=int, nargs="*", default=[16, 32, 128])
    parser.add_argument("--dtypes", nargs="*", default=["fp32"], choices=list(DTYPES))
    parser.add_argument("--models", nargs="*", default=["sd15", "flux"], choices=list(MODELS))
    parser.add_argument("--whole", action="store_true", help="time whole steps of the model too")
    options = parser.parse_args()
    rows: list[BenchRow] = []
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        folder_paths.add_model_folder_path("loras", folder)
        for name in options.models:
            for dtype in options.dtypes:
                model = random_model(name, DTYPES[dtype])
                calls = recorded(model, name)
                for rank in options.ranks:
                    names = random_loras(model, name, Path(folder), max(options.counts), rank)
                    for count in options.counts:
                        case = f"{dtype} N={count} r{rank} {name}"
                        print(f"step {case} ...", flush=True)
                        rows += told(bench_case(case, model, names[:count], calls, options.rounds))
                        if options.whole:
                            rows.append(
                                whole_step(case, model, name, names[:count], options.rounds)
                            )
                comfy.model_management.unload_all_models()
                del model, calls
    publish("step", rows, options.json)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
