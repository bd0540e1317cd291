"""bench sweep: a sweep over strengths of one row of a stack, all points made ready, against as many core reload chains.

Ready means: the nodes have run (files are read already) and the host's preparation for sampling is done, point after point,
so that the next thing would be the first step. Ours is Loom Stack and Loom Sweep once and then every point of the list;
core is the chain of N LoraLoader nodes run again and loaded at every strength. A case is `<live|baked> <dtype> N=<n>`.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tools.bench_reweight import prepared
from tools.bench_stack import DTYPES, RANK, core_side, load_pack
from tools.benching import BenchRow, interleaved, median_row, publish, seconds, told
from tools.models_for_benches import MODELS, random_loras, random_model

# isort: split
import comfy.model_management
import folder_paths

POINTS = 11


def our_sweep(model: Any, names: list[str], mode: str) -> Callable[[], None]:
    """Run the nodes, then make every point of the list ready in turn; all points are held, as the host holds a list."""
    nodes = load_pack().NODE_CLASS_MAPPINGS
    stack, sweep = nodes["LoomStack"](), nodes["LoomSweep"]()
    rows = ", ".join(f'{{"lora": "{name}", "model": 0.8}}' for name in names)
    x = {"x": "strength", "x_row": 1, "x_from": 0.0, "x_to": 1.0, "x_step": 0.1, "x_values": ""}
    y = {name.replace("x", "y"): value for name, value in x.items()} | {"y": "none"}

    def run() -> None:
        lora_stack = stack.stack(f"[{rows}]")["result"][2]
        models = sweep.sweep(model, lora_stack, **x, **y, mode=mode)["result"][0]
        assert len(models) == POINTS
        for each in models:
            prepared(each)

    return run


def core_chains(model: Any, names: list[str]) -> Callable[[], None]:
    """The chain's nodes run again and the model loaded, once for each strength."""
    side = core_side(model, names)

    def run() -> None:
        kept = None
        for step in range(POINTS):
            # The model before is held until the new one is ready, as the host's cache of outputs does.
            patched = side.nodes(round(0.1 * step, 1))
            prepared(patched)
            kept = patched
        del kept

    return run


def bench_case(case: str, model: Any, names: list[str], rounds: int) -> list[BenchRow]:
    """Live and baked, each in turns with core; every side runs once before anything is timed."""
    core = core_chains(model, names)
    core()
    rows = []
    for mode in ("live", "baked"):
        ours = our_sweep(model, names, mode)
        ours()
        times = interleaved(lambda run=ours: seconds(run), lambda: seconds(core), rounds)
        rows.append(median_row(f"{mode} {case}", *times))
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="bench sweep", description=__doc__.splitlines()[0] if __doc__ else None
    )
    parser.add_argument("--json", help="write the table to this file")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each side per case")
    parser.add_argument("--counts", type=int, nargs="*", default=[4], help="LoRAs in the stack")
    parser.add_argument("--dtypes", nargs="*", default=list(DTYPES), choices=list(DTYPES))
    parser.add_argument("--model", default="sd15", choices=list(MODELS))
    options = parser.parse_args()
    rows: list[BenchRow] = []
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        folder_paths.add_model_folder_path("loras", folder)
        for dtype in options.dtypes:
            model = random_model(options.model, DTYPES[dtype])
            names = random_loras(model, options.model, Path(folder), max(options.counts), RANK)
            for count in options.counts:
                case = f"{dtype} N={count}" + ("" if options.model == "sd15" else " tiny")
                print(f"sweep {case} ...", flush=True)
                rows += told(bench_case(case, model, names[:count], options.rounds))
            comfy.model_management.unload_all_models()
            del model
    publish("sweep", rows, options.json)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
