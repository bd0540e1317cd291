"""bench stack: N core LoraLoader nodes in a chain against LoomStack + LoomApply, on an SD1.5-size UNet.

Both go through the host's own load path, in one process, turn by turn. Cases, each for fp16 and fp32 and N LoRAs of
rank 32:
  nodes   the nodes run again after a strength change, files already read
  load    the patched model loaded from the unpatched one
  change  a strength change to ready: the nodes again, then the load
  memory  peak resident memory of a change, above the model itself
  error   || patched - exact || against a float64 computation
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tools.benching import (
    BenchRow,
    interleaved,
    median_row,
    peak,
    publish,
    reset_peak,
    seconds,
    told,
)
from tools.models_for_benches import (  # first: it says the device before the host is imported
    ALPHA,
    MODELS,
    is_adapted,
    random_loras,
    random_model,
)

# isort: split
import comfy.model_management
import folder_paths
import safetensors.torch

# By name: a checker that sees our own `nodes` first would look for LoraLoader there.
host_nodes: Any = importlib.import_module("nodes")

RANK = 32
DTYPES = {"fp16": torch.float16, "fp32": torch.float32}


def make_model(dtype: torch.dtype) -> Any:
    """The real SD1.5 UNet (860 M parameters)."""
    return random_model("sd15", dtype)


def write_loras(model: Any, folder: Path, count: int) -> list[str]:
    return random_loras(model, "sd15", folder, count, RANK)


@dataclass(frozen=True)
class Side:
    """One way of stacking. nodes(first strength) -> the patched MODEL."""

    nodes: Callable[[float], Any]

    def ready(self, first: float) -> Any:
        model = self.nodes(first)
        load(model)
        return model


def load(model: Any) -> None:
    comfy.model_management.load_models_gpu([model], force_full_load=True)


def core_side(model: Any, names: list[str]) -> Side:
    loaders = [host_nodes.LoraLoader() for _ in names]

    def run(first: float) -> Any:
        patched = model
        for index, (loader, name) in enumerate(zip(loaders, names, strict=True)):
            strength = first if index == 0 else 0.8
            patched, _ = loader.load_lora(patched, None, name, strength, strength)
        return patched

    return Side(run)


def our_side(model: Any, names: list[str], mode: str = "auto") -> Side:
    pack = load_pack()
    stack, apply = pack.NODE_CLASS_MAPPINGS["LoomStack"](), pack.NODE_CLASS_MAPPINGS["LoomApply"]()

    def run(first: float) -> Any:
        rows = [
            f'{{"lora": "{name}", "model": {first if i == 0 else 0.8}}}'
            for i, name in enumerate(names)
        ]
        lora_stack = stack.stack(f"[{', '.join(rows)}]")["result"][2]
        return apply.apply(model, lora_stack, mode=mode)["result"][0]

    return Side(run)


def load_pack() -> Any:
    """The pack as the host loads it: a package made from its folder."""
    root = Path(__file__).resolve().parent.parent
    if "lora_loom" not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            "lora_loom", root / "__init__.py", submodule_search_locations=[str(root)]
        )
        if spec is None or spec.loader is None:
            raise ImportError(f"{root} holds no pack")
        sys.modules["lora_loom"] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules["lora_loom"]


def bench_case(dtype: str, model: Any, names: list[str], rounds: int) -> list[BenchRow]:
    case = f"{dtype} N={len(names)}"
    ours, core = our_side(model, names), core_side(model, names)
    for side in (ours, core):
        side.ready(0.8)
    strengths = iter(0.5 + 0.001 * step for step in range(10_000))

    def nodes_again(side: Side) -> float:
        return seconds(lambda: side.nodes(next(strengths)))

    def first_load(side: Side) -> float:
        load(model)
        patched = side.nodes(0.8)
        return seconds(lambda: load(patched))

    def change(side: Side) -> float:
        # From its own previous strength: the state before is this side's own patched model.
        kept = side.ready(next(strengths))
        taken = seconds(lambda: side.ready(next(strengths)))
        del kept
        return taken

    rows = []
    for measure, name, turns in (
        (nodes_again, "nodes", 4 * rounds),
        (first_load, "load", rounds),
        (change, "change", rounds),
    ):
        times = interleaved(lambda m=measure: m(ours), lambda m=measure: m(core), turns)
        rows.append(median_row(f"{name} {case}", *times))
    return [*rows, _memory(case, model, ours, core), _error(case, model, ours, core, names)]


def _memory(case: str, model: Any, ours: Side, core: Side) -> BenchRow:
    peaks = []
    for side in (ours, core):
        load(model)
        before = reset_peak()
        side.ready(0.7)
        peaks.append((peak() - before) / 2**20)
    return BenchRow(f"memory {case}", "MiB", max(peaks[0], 1.0), peaks[1])


def _error(case: str, model: Any, ours: Side, core: Side, names: list[str]) -> BenchRow:
    """Frobenius norm of patched - exact over a sample of weights, exact in float64."""
    load(model)
    state = model.model.state_dict()
    files = [
        safetensors.torch.load_file(folder_paths.get_full_path_or_raise("loras", name))
        for name in names
    ]
    keys = [
        k
        for k in state
        if is_adapted(k, tuple(state[k].shape), MODELS["sd15"].adapted) and _has(k, files[0])
    ]
    sample = keys[:: max(1, len(keys) // 24)]
    exact = {key: _exact(key, state[key], files) for key in sample}
    errors = []
    for side in (ours, core):
        patched = side.ready(0.8)
        live = patched.model.state_dict()
        errors.append(
            sum(float((live[k].cpu().double() - exact[k]).square().sum()) for k in sample) ** 0.5
        )
    return BenchRow(f"error {case}", "norm", errors[0], errors[1])


def _name(key: str) -> str:
    return "lora_unet_" + key[len("diffusion_model.") : -len(".weight")].replace(".", "_")


def _has(key: str, tensors: dict[str, torch.Tensor]) -> bool:
    return f"{_name(key)}.lora_up.weight" in tensors


def _exact(key: str, weight: torch.Tensor, files: list[dict[str, torch.Tensor]]) -> torch.Tensor:
    total = weight.detach().cpu().double().clone()
    for tensors in files:
        up = tensors[f"{_name(key)}.lora_up.weight"].double().flatten(1)
        down = tensors[f"{_name(key)}.lora_down.weight"].double().flatten(1)
        total += (0.8 * ALPHA / RANK) * (up @ down).reshape(total.shape)
    return total


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="bench stack", description=__doc__.splitlines()[0] if __doc__ else None
    )
    parser.add_argument("--json", help="write the table to this file")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each side per case")
    parser.add_argument(
        "--counts", type=int, nargs="*", default=[1, 2, 4, 8], help="LoRAs in the stack"
    )
    parser.add_argument("--dtypes", nargs="*", default=list(DTYPES), choices=list(DTYPES))
    options = parser.parse_args()
    rows: list[BenchRow] = []
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        folder_paths.add_model_folder_path("loras", folder)
        for dtype in options.dtypes:
            model = make_model(DTYPES[dtype])
            names = write_loras(model, Path(folder), max(options.counts))
            for count in options.counts:
                print(f"stack {dtype} N={count} ...", flush=True)
                rows += told(bench_case(dtype, model, names[:count], options.rounds))
            comfy.model_management.unload_all_models()
            del model
    publish("stack", rows, options.json)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
