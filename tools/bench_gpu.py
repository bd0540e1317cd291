"""bench gpu: live mode and strength changes on a real GPU; checks first, figures after. Needs no network.

COMFYUI_PATH and LOOM_PYTHON name a ComfyUI and its interpreter. --dynamic switches the host's dynamic memory on as its own
main.py does (ComfyUI 0.30 with comfy-aimdo) and checks that it is active; without it the static patcher is used. Checks,
each of which ends the run with status 1 where it fails:
  the patcher is of the asked kind
  live and baked agree, and both differ from the model without LoRAs
  50 strength changes and back: the first bits, memory where it was, nothing loaded anew (live)
  the fast re-patch gives the bits of a fresh load and keeps the addresses (static patcher)
Figures: a strength change to ready, live and baked, against core's chain of loaders; the writing of the weights alone
against 4 bytes a parameter at the memory bandwidth that a copy reaches here (`--counts`, default 8, rank 32, bf16).
"""

from __future__ import annotations

import sys

DYNAMIC = "--dynamic" in sys.argv
if DYNAMIC:  # before torch, as the host's own start does
    import comfy_aimdo.control  # pyright: ignore[reportMissingImports]

    comfy_aimdo.control.init()

import argparse  # noqa: E402
import importlib  # noqa: E402
import random  # noqa: E402
import tempfile  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import torch  # noqa: E402

from tools.bench_reweight import bench_case, prepared  # noqa: E402
from tools.bench_stack import core_side, load, our_side  # noqa: E402
from tools.benching import BenchRow, median_row, publish, seconds  # noqa: E402
from tools.models_for_benches import DTYPES, MODELS, one_step, random_loras, random_model  # noqa: E402

# isort: split
import comfy.model_management  # noqa: E402
import comfy.model_patcher  # noqa: E402
import folder_paths  # noqa: E402

CHANGES = 50


class CheckFailed(Exception):
    """A check of this script did not hold."""


def check(holds: bool, what: str) -> None:
    if not holds:
        raise CheckFailed(what)
    print(f"ok    {what}", flush=True)


def enable_dynamic() -> None:
    """As the host's main.py: devices announced, the dynamic class for every model from now on."""
    devices = list(comfy.model_management.get_all_torch_devices())
    try:
        working = comfy_aimdo.control.init_devices((device.index, 0) for device in devices)
    except TypeError:  # before 0.4.10 it takes plain numbers
        working = comfy_aimdo.control.init_devices(device.index for device in devices)
    check(bool(working), "comfy-aimdo works on this machine")
    host: Any = comfy.model_patcher
    host.CoreModelPatcher = host.ModelPatcherDynamic
    newer: Any = importlib.import_module("comfy.memory_management")
    newer.aimdo_enabled = True


def output(patched: Any, model: Any, name: str) -> torch.Tensor:
    prepared(patched)
    patched.pre_run()
    try:
        return one_step(model, name)().float().cpu()
    finally:
        patched.cleanup()


def distance(first: torch.Tensor, second: torch.Tensor) -> float:
    return float((first.double() - second.double()).norm() / second.double().norm())


def check_modes(model: Any, name: str, names: list[str]) -> None:
    live, baked = (our_side(model, names, mode).nodes(0.7) for mode in ("live", "baked"))
    plain, on_live, on_baked = (output(each, model, name) for each in (model, live, baked))
    apart, change = distance(on_live, on_baked), distance(plain, on_baked)
    check(bool(torch.isfinite(on_live).all()), "the output is finite")
    check(apart < change / 3, f"live is baked: {apart:.2e} apart, the LoRAs change {change:.2e}")


def check_changes(model: Any, name: str, names: list[str]) -> None:
    """In live mode, with a model that is loaded already."""
    side, draw = our_side(model, names, "live"), random.Random(5)
    first = output(side.nodes(0.7), model, name)
    loaded = model.model.current_weight_patches_uuid
    prepared(side.nodes(0.3))
    before = torch.cuda.memory_allocated()
    for _ in range(CHANGES):
        output(side.nodes(draw.uniform(-1.0, 1.0)), model, name)
    check(model.model.current_weight_patches_uuid == loaded, "live changes load nothing anew")
    again = output(side.nodes(0.7), model, name)
    check(torch.equal(first, again), f"{CHANGES} live changes and back give the first bits")
    grown = torch.cuda.memory_allocated() - before
    check(grown <= 1 << 20, f"{CHANGES} live changes leave memory where it was ({grown} bytes)")


def check_repatch(model: Any, names: list[str]) -> None:
    def state() -> dict[str, torch.Tensor]:
        return {key: weight.clone() for key, weight in model.model.state_dict().items()}

    side = our_side(model, names, "baked")
    weak, strong = side.nodes(0.3), side.nodes(0.9)
    load(model)
    load(strong)
    fresh = state()
    load(model)
    load(weak)
    places = [weight.data_ptr() for weight in model.model.state_dict().values()]
    prepared(strong)
    now = [weight.data_ptr() for weight in model.model.state_dict().values()]
    check(now == places, "a baked change keeps the addresses of the weights")
    changed = model.model.state_dict()
    same = all(torch.equal(changed[key], weight) for key, weight in fresh.items())
    check(same, "a baked change gives the bits of a fresh load")
    del fresh
    load(model)


def patch_limit(case: str, model: Any, names: list[str], rounds: int) -> BenchRow:
    """Seconds of writing all touched weights, against reading and writing them once at the speed of a copy."""
    side = our_side(model, names, "baked")
    step = iter(0.5 + 0.001 * number for number in range(10_000))
    prepared(side.nodes(next(step)))
    prepared(side.nodes(next(step)))  # the pristine copies are on the device from here

    def written() -> float:
        patched = side.nodes(next(step))
        return seconds(lambda: prepared(patched))

    taken = [written() for _ in range(rounds)]
    state = model.model.state_dict()
    touched = sum(state[key].numel() for key in side.nodes(0.5).patches)
    source = torch.empty(1 << 28, dtype=torch.bfloat16, device=model.load_device)
    target = torch.empty_like(source)
    copies = [seconds(lambda: target.copy_(source)) for _ in range(10)][2:]
    rate = 4 * source.numel() / sorted(copies)[len(copies) // 2]
    print(f"      {touched / 1e6:.0f} M parameters touched, a copy moves {rate / 1e9:.0f} GB/s")
    return median_row(f"patch {case} limit", taken, [4 * touched / rate])


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="bench gpu", description=__doc__.splitlines()[0] if __doc__ else None
    )
    parser.add_argument("--json", help="write the table to this file")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each side per case")
    parser.add_argument("--dynamic", action="store_true", help="with the host's dynamic memory")
    parser.add_argument("--counts", type=int, nargs="*", default=[8], help="LoRAs")
    parser.add_argument("--models", nargs="*", default=["sdxl"], choices=list(MODELS))
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("There is no GPU here; bench gpu measures and checks only on one.")
        return 2
    rows: list[BenchRow] = []
    try:
        with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
            folder_paths.add_model_folder_path("loras", folder)
            if options.dynamic:
                enable_dynamic()
            for name in options.models:
                rows += _model(name, Path(folder), options)
    except CheckFailed as error:
        print(f"FAIL  {error}")
        return 1
    publish("gpu", rows, options.json)
    return 0


def _model(name: str, folder: Path, options: argparse.Namespace) -> list[BenchRow]:
    model = random_model(name, DTYPES["bf16"])
    dynamic = bool(getattr(model, "is_dynamic", lambda: False)())
    check(dynamic == options.dynamic, f"the {'dynamic' if dynamic else 'static'} patcher is active")
    every = random_loras(model, name, folder, max(options.counts), 32)
    check_modes(model, name, every)
    check_changes(model, name, every)
    if not dynamic:
        check_repatch(model, every)
    rows = []
    for count in options.counts:
        names, case = every[:count], f"bf16 N={count} r32 {name}"
        sides = {mode: our_side(model, names, mode) for mode in ("live", "baked")}
        rows += bench_case(case, sides, core_side(model, names), options.rounds)
        if not dynamic:
            rows.append(patch_limit(case, model, names, options.rounds))
    comfy.model_management.unload_all_models()
    return rows


if __name__ == "__main__":
    raise SystemExit(main())
