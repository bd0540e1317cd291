"""bench reweight: one strength of a stack changes, how long until the model is ready: live and baked against core's chain.

Ready means: all nodes of the side run again (files are read already) and the host's preparation for sampling is done, so
that the next thing would be the first step. Core is N LoraLoader nodes in a chain. A case is
`<live|baked> <dtype> N=<n> r<rank> <model>`; core's figure in a row was taken in turns with ours.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from tools.bench_stack import Side, core_side, load, our_side
from tools.benching import BenchRow, interleaved, median_row, publish, seconds, told
from tools.models_for_benches import (  # first: it says the device before the host is imported
    DTYPES,
    MODELS,
    random_loras,
    random_model,
)

# isort: split
import comfy.model_management
import folder_paths
from comfy.patcher_extension import WrapperExecutor, WrappersMP


def prepared(model: Any) -> None:
    """What the host does before the first step: a pack's wrappers around the loading of the model."""
    wrappers = model.get_all_wrappers(WrappersMP.PREPARE_SAMPLING)
    executor = WrapperExecutor.new_executor(lambda model, *_, **__: load(model), wrappers)
    executor.execute(model, (1, 4, 8, 8), {})


def change(side: Side, strengths: Iterator[float]) -> float:
    """Seconds of a change, from the side's own model loaded at the strength before."""
    kept = side.nodes(next(strengths))
    prepared(kept)

    def again() -> None:
        # The new model is held until it is ready, as the host's cache of outputs does.
        prepared(side.nodes(next(strengths)))

    return seconds(again)


def bench_case(name: str, sides: dict[str, Side], core: Side, rounds: int) -> list[BenchRow]:
    """name: the case after its mode. Every side runs once before anything is timed."""
    strengths = iter(0.5 + 0.001 * step for step in range(100_000))
    rows = []
    for mode, side in sides.items():
        for each in (side, core):
            change(each, strengths)
        times = interleaved(
            lambda side=side: change(side, strengths), lambda: change(core, strengths), rounds
        )
        rows.append(median_row(f"{mode} {name}", *times))
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="bench reweight", description=__doc__.splitlines()[0] if __doc__ else None
    )
    parser.add_argument("--json", help="write the table to this file")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each side per case")
    parser.add_argument("--counts", type=int, nargs="*", default=[1, 4, 8], help="LoRAs")
    parser.add_argument("--ranks", type=int, nargs="*", default=[16, 32, 128])
    parser.add_argument("--dtypes", nargs="*", default=["fp16", "fp32"], choices=list(DTYPES))
    parser.add_argument("--models", nargs="*", default=["sd15"], choices=list(MODELS))
    options = parser.parse_args()
    rows: list[BenchRow] = []
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        folder_paths.add_model_folder_path("loras", folder)
        for name in options.models:
            for dtype in options.dtypes:
                model = random_model(name, DTYPES[dtype])
                for rank in options.ranks:
                    names = random_loras(model, name, Path(folder), max(options.counts), rank)
                    for count in options.counts:
                        case = f"{dtype} N={count} r{rank} {name}"
                        print(f"reweight {case} ...", flush=True)
                        rows += told(_both(case, model, names[:count], options.rounds))
                comfy.model_management.unload_all_models()
                del model
    publish("reweight", rows, options.json)
    return 0


def _both(case: str, model: Any, names: list[str], rounds: int) -> list[BenchRow]:
    sides = {mode: our_side(model, names, mode) for mode in ("live", "baked")}
    return bench_case(case, sides, core_side(model, names), rounds)


if __name__ == "__main__":
    raise SystemExit(main())
