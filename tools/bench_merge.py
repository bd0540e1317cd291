"""bench merge: merging in factor space against a full SVD of the dense sum, as file tools do it, on CPU.

Cases `<method> <n>xr<rank> <out>x<in>` for one layer (resize and interference too), `<method> <n>xr<rank> sdxl` or
`flux` for all linear layers of a model's shapes. LoRAs are synthetic, fp16, with falling singular values. Ours writes the
certificate too; the rival of an element-wise method decomposes that method's own dense result.
  s       seconds. A slow rival (3072 x 3072 and the like) has one turn. That of a whole model is measured once a shape
          and multiplied by how often the shape occurs; shapes larger than --largest numbers are scaled up from the
          largest that was measured, by out * in * min(out, in)
  error   error of the merged layer to the exact sum; both should be the optimum of the rank
  MiB     peak memory of the whole merge beside the input files and the result
After the table: what is asked of the merge, and whether it is kept. All of it takes about 6 minutes on 2 quiet cores.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterator, Mapping

import torch

from lora_core.adapters import AdapterFile, LowRank
from lora_core.algebra.factorspace import Factors, concat, distance, energy
from lora_core.analysis.interference import interference
from lora_core.merge.families import row_factors
from lora_core.merge.layer import merge_layer, weight_of
from lora_core.merge.merge import merge, resize
from lora_core.merge.pairing import Group, pair
from lora_core.merge.plan import Plan
from lora_core.merge.ranks import RankRule
from lora_core.merge.weight import RowBlocks
from lora_core.stack.rows import StackRow
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

Shape = tuple[int, int]

# (out, in) -> how many linear layers of it: 70 transformer blocks and 11 pairs of projections.
SDXL: dict[Shape, int] = {
    (640, 640): 70,
    (640, 2048): 20,
    (5120, 640): 10,
    (640, 2560): 10,
    (1280, 1280): 372,
    (1280, 2048): 120,
    (10240, 1280): 60,
    (1280, 5120): 60,
}
# 19 double and 38 single blocks.
FLUX: dict[Shape, int] = {
    (9216, 3072): 38,
    (3072, 3072): 38,
    (12288, 3072): 38,
    (3072, 12288): 38,
    (21504, 3072): 38,
    (3072, 15360): 38,
}
MODELS: dict[str, Mapping[Shape, int]] = {"sdxl": SDXL, "flux": FLUX}
SINGLE = ("640x640", "1280x1280", "1280x5120", "3072x3072")
STRENGTHS = (0.8, -0.6, 0.7, 0.5)
# A full SVD of more than so many steps (out * in * min) takes many seconds.
SLOW = 1280 * 5120 * 1280 - 1
# Case -> (what it is held to, the least ratio or the most of ours).
ASKED = {
    "svd 2xr64 1280x1280": ("ratio", 20.0),
    "svd 2xr64 3072x3072": ("ratio", 100.0),
    "svd 2xr64 sdxl": ("ours", 30.0),
    "svd 2xr64 flux": ("ours", 45.0),
    "memory svd 2xr64 sdxl": ("ours", 300e6 / 2**20),
    "memory svd 2xr64 flux": ("ours", 300e6 / 2**20),
}


def layer(shape: Shape, rank: int, generator: torch.Generator) -> LowRank:
    """One layer with singular values that fall about as 1 / sqrt(i), in half precision."""
    out, inner = shape
    falling = torch.arange(1, rank + 1).float() ** -0.5
    up = torch.randn(out, rank, generator=generator) * falling * 0.03
    down = torch.randn(rank, inner, generator=generator) * 0.03
    return LowRank(up.half(), down.half(), alpha=rank / 2)


def rows_of(
    shapes: Mapping[Shape, int], count: int, rank: int
) -> list[tuple[StackRow, AdapterFile]]:
    rows = []
    for number in range(count):
        generator = torch.Generator().manual_seed(number)
        modules = {
            f"lora_unet_layer_{out}_{inner}_{index}": layer((out, inner), rank, generator)
            for (out, inner), often in shapes.items()
            for index in range(often)
        }
        name = f"lora {number}"
        rows.append((StackRow(name, STRENGTHS[number]), AdapterFile(name, modules)))
    return rows


def full_svd(dense: torch.Tensor, rank: int) -> Factors:
    """The economy SVD of a dense matrix, cut to the rank: what merge scripts do."""
    u, s, vh = torch.linalg.svd(dense, full_matrices=False)
    root = s[:rank].sqrt()
    return Factors(u[:, :rank] * root, root[:, None] * vh[:rank])


def dense_sum(rows: list[tuple[StackRow, AdapterFile]], name: str) -> torch.Tensor:
    terms = [row_factors(file.modules[name]) for _, file in rows]
    dense = torch.zeros(terms[0].shape)
    for (row, _), term in zip(rows, terms, strict=True):
        dense += row.model * term.delta
    return dense


def dense_method(
    rows: list[tuple[StackRow, AdapterFile]], group: Group, plan: Plan
) -> torch.Tensor:
    """The matrix that the rival decomposes: of an element-wise method its own whole result, else the sum."""
    if not plan.how.element_wise:
        return dense_sum(rows, group.name)
    weight = weight_of(rows, group, plan.seed)
    assert weight is not None
    result = plan.how.run(weight, plan.parameters)
    assert isinstance(result, RowBlocks)
    return torch.cat([block for _, block in result])


def turns(
    case: str, shape: Shape, ours: Callable[[], None], rival: Callable[[], None], rounds: int
) -> BenchRow:
    """Seconds of both sides in turns: one turn where the rival is slow, `rounds` otherwise."""
    if shape[0] * shape[1] * min(shape) > SLOW:
        rounds = 1

    def ours_often() -> float:
        return statistics.median(seconds(ours) for _ in range(3))

    return median_row(case, *interleaved(ours_often, lambda: seconds(rival), rounds))


def bench_layer(method: str, shape: Shape, count: int, rank: int, rounds: int) -> list[BenchRow]:
    rows = rows_of({shape: 1}, count, rank)
    plan = Plan(method, RankRule("rank", rank))
    (group,) = pair([file for _, file in rows]).groups
    case = f"{method} {count}xr{rank} {shape[0]}x{shape[1]}"
    made: dict[str, Factors] = {}

    def ours() -> None:
        adapter = merge_layer(rows, group, plan, torch.float32).adapter
        assert adapter is not None
        made["ours"] = row_factors(adapter)

    def rival() -> None:
        made["rival"] = full_svd(dense_method(rows, group, plan), rank)

    found = [turns(case, shape, ours, rival, rounds)]
    if method == "svd":
        exact = concat(
            [row_factors(file.modules[group.name]) for _, file in rows],
            [row.model for row, _ in rows],
        )
        size = energy(exact) ** 0.5
        errors = [distance(exact, made[side]) / size for side in ("ours", "rival")]
        found.append(BenchRow(f"error {case}", "share", *errors))
    return found


def bench_model(method: str, model: str, count: int, rank: int, largest: int) -> list[BenchRow]:
    shapes = MODELS[model]
    rows = rows_of(shapes, count, rank)
    plan = Plan(method, RankRule("rank", rank))
    rival = sum(full_svd_seconds(shapes, count, rank, largest).values())
    before = reset_peak()
    kept: list[AdapterFile] = []
    taken = seconds(lambda: kept.append(merge(rows, plan).file))
    extra = (peak() - before - kept[0].nbytes) / 2**20
    case = f"{method} {count}xr{rank} {model}"
    dense = max(out * inner for out, inner in shapes) * 4 * 2 / 2**20
    return [
        BenchRow(case, "s", taken, rival),
        # A dense sum and its U or V of the largest layer, at the least.
        BenchRow(f"memory {case}", "MiB", max(extra, 1.0), dense),
    ]


def bench_resize(shape: Shape, rank: int, rounds: int) -> list[BenchRow]:
    """One layer to half its rank; the rival forms the delta and decomposes it."""
    (_, file), *_ = rows = rows_of({shape: 1}, 1, rank)
    (name,) = file.modules
    rule = RankRule("rank", rank // 2)

    def ours() -> None:
        resize(file, rule)

    def rival() -> None:
        full_svd(dense_sum(rows, name), rank // 2)

    return [turns(f"resize 1xr{rank} {shape[0]}x{shape[1]}", shape, ours, rival, rounds)]


def bench_interference(shape: Shape, rank: int, rounds: int) -> list[BenchRow]:
    """Two rows of one layer; the rival forms both deltas and takes their subspaces from a full SVD each."""
    rows = rows_of({shape: 1}, 2, rank)
    (name,) = rows[0][1].modules

    def ours() -> None:
        interference(rows)

    def rival() -> None:
        deltas = [row.model * row_factors(file.modules[name]).delta for row, file in rows]
        bases = [torch.linalg.svd(delta, full_matrices=False) for delta in deltas]
        for one, (u, _, vh) in zip(deltas, reversed(bases), strict=True):
            part = u[:, :rank].T @ one
            _ = part.square().sum(), (one @ vh[:rank].T).square().sum(), (part @ vh[:rank].T).norm()
        _ = (deltas[0] * deltas[1]).sum(), (deltas[0] * deltas[1] < 0).sum()

    return [turns(f"interference 2xr{rank} {shape[0]}x{shape[1]}", shape, ours, rival, rounds)]


def bench_whole(what: str, model: str, rank: int, largest: int) -> list[BenchRow]:
    """Resize of one LoRA of a model's shapes, or interference of two; the rival is a full SVD of each row's layers."""
    shapes = MODELS[model]
    count = 1 if what == "resize" else 2
    rows = rows_of(shapes, count, rank)
    rival = count * sum(full_svd_seconds(shapes, 1, rank, largest).values())
    run = {
        "resize": lambda: resize(rows[0][1], RankRule("rank", rank // 2)),
        "interference": lambda: interference(rows),
    }[what]
    return [BenchRow(f"{what} {count}xr{rank} {model}", "s", seconds(run), rival)]


# What a full SVD of a shape took in this process: it depends on nothing else.
_TAKEN: dict[Shape, float] = {}


def full_svd_seconds(
    shapes: Mapping[Shape, int], count: int, rank: int, largest: int
) -> dict[Shape, float]:
    """Seconds of the rival for all layers of each shape."""
    found: dict[Shape, float] = {}
    per_step = 0.0
    for shape in sorted(shapes, key=lambda shape: shape[0] * shape[1]):
        steps = shape[0] * shape[1] * min(shape)
        if shape[0] * shape[1] <= largest:
            if shape not in _TAKEN:
                rows = rows_of({shape: 1}, count, rank)
                (name,) = rows[0][1].modules
                _TAKEN[shape] = seconds(lambda r=rows, n=name: full_svd(dense_sum(r, n), rank))
                print(f"  full SVD {shape[0]}x{shape[1]}: {_TAKEN[shape]:.2f} s", flush=True)
            once = _TAKEN[shape]
            per_step = once / steps
        else:
            once = per_step * steps
            print(f"  full SVD {shape[0]}x{shape[1]}: {once:.0f} s, scaled", flush=True)
        found[shape] = once * shapes[shape]
    return found


def say_what_is_asked(rows: list[BenchRow]) -> None:
    for row in rows:
        if row.case not in ASKED:
            continue
        of, bound = ASKED[row.case]
        found = row.ratio if of == "ratio" else row.ours
        kept = found >= bound if of == "ratio" else found <= bound
        said = f"{found:.4g}x, at least {bound:.4g}x" if of == "ratio" else ""
        said = said or f"{found:.4g} {row.unit}, at most {bound:.4g} {row.unit}"
        print(f"asked: {row.case}: {said}: {'kept' if kept else 'NOT KEPT'}")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="bench merge", description=__doc__.splitlines()[0] if __doc__ else None
    )
    parser.add_argument("--json", help="write the table to this file")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each side per layer")
    parser.add_argument("--models", nargs="*", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--shapes", nargs="*", default=SINGLE, help="single layers, out x in")
    parser.add_argument("--stacks", nargs="*", default=["2xr64", "4xr32"], help="for example 2xr64")
    parser.add_argument("--methods", nargs="*", default=["svd", "knots_ties", "ties"])
    parser.add_argument(
        "--ranks", nargs="*", type=int, default=[64], help="of resize, interference"
    )
    parser.add_argument("--largest", type=int, default=3072 * 3072, help="numbers of a full SVD")
    options = parser.parse_args()
    with torch.inference_mode():
        rows = [*bench_merges(options), *bench_the_rest(options)]
    publish("merge", rows, options.json)
    say_what_is_asked(rows)
    return 0


def bench_merges(options: argparse.Namespace) -> Iterator[BenchRow]:
    """Single layers and whole models. Only svd goes up to the slowest shapes: the rival's SVD is the same one."""
    for stack in options.stacks:
        count, rank = map(int, stack.split("xr"))
        for method in options.methods:
            for shape in map(shape_of, options.shapes):
                if method != "svd" and shape[0] * shape[1] * min(shape) > SLOW + 1:
                    continue
                print(f"{method} {stack} {shape[0]}x{shape[1]} ...", flush=True)
                yield from told(bench_layer(method, shape, count, rank, options.rounds))
        for model in options.models:
            print(f"svd {stack} {model} ...", flush=True)
            yield from told(bench_model("svd", model, count, rank, options.largest))


def bench_the_rest(options: argparse.Namespace) -> Iterator[BenchRow]:
    for rank in options.ranks:
        for shape in map(shape_of, options.shapes):
            print(f"resize and interference r{rank} {shape[0]}x{shape[1]} ...", flush=True)
            yield from told(bench_resize(shape, rank, options.rounds))
            yield from told(bench_interference(shape, rank, options.rounds))
        for model in options.models:
            for what in ("resize", "interference"):
                print(f"{what} r{rank} {model} ...", flush=True)
                yield from told(bench_whole(what, model, rank, options.largest))


def shape_of(text: str) -> Shape:
    out, inner = map(int, text.split("x"))
    return out, inner


if __name__ == "__main__":
    raise SystemExit(main())
