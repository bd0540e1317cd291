"""The planted conflict before and after LoomBalance and the interference merges: rates over 16 seeds, and docs of them.

    python -m tools.toy_balance --comfyui PATH_OF_COMFYUI --work FOLDER --write

Runs the node's own function and the host's own loaders and sampler; tools/toy_reader.py judges the pictures.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from tools import toy_conflict, toy_host, toy_measure, toy_rates
from tools.devkit.base_directory import TOY_MODEL
from tools.toy_measure import Loaded

DOCS = Path(__file__).resolve().parent.parent / "docs" / "benchmarks.md"
HEADING = "## balance: a planted conflict on the toy, before and after"
PROMPT = toy_rates.BOTH_WORDS.format(ground="dark")
STYLE, CHARACTER = toy_conflict.NAME, toy_conflict.CHARACTER.name
STRENGTHS = {STYLE: 0.8, CHARACTER: 0.9}


@dataclass(frozen=True)
class Case:
    """name: for the table. load: base -> what is sampled."""

    name: str
    load: Callable[[Loaded], Loaded]


def listed(folders: Sequence[Path], output: Path) -> None:
    """Tell the host where the LoRAs lie and where the node may write."""
    import folder_paths

    folder_paths.set_output_directory(str(output))
    (output / "loras").mkdir(parents=True, exist_ok=True)
    for folder in (*folders, output / "loras"):
        folder_paths.add_model_folder_path("loras", str(folder))


def stack_of(*names: str) -> Any:
    """A LORA_STACK of these files at full strength, with their roles."""
    from lora_core.stack.interop import StackList
    from lora_core.stack.rows import LoraStack, StackRow

    roles = {STYLE: "style", CHARACTER: "character"}
    rows = tuple(StackRow(n, STRENGTHS[n], STRENGTHS[n], roles[n]) for n in names)
    return StackList(LoraStack(rows), names)


def applied(base: Loaded, stack: Any) -> Loaded:
    from lora_core.host.stacking import apply_stack
    from lora_core.stack.interop import read_lora_stack

    done = apply_stack(read_lora_stack(stack), base[0], base[1])
    return done.model, done.clip, base[2]


def balanced(base: Loaded, much: float) -> Loaded:
    from lora_core.analysis.protection import Protection
    from lora_core.host.balancing import BalanceOrder, balance_stack

    order = BalanceOrder(protection=Protection(much))
    return applied(base, balance_stack(stack_of(STYLE, CHARACTER), order, base[0], base[1]).stack)


def merged(base: Loaded, method: str) -> Loaded:
    """The pair as one LORA_MODEL, put on by core's own loader function at strength 1."""
    import comfy.sd

    from lora_core.host.merging import merge_stack
    from lora_core.merge.plan import Plan
    from lora_core.stack.interop import read_lora_stack

    stack = read_lora_stack(stack_of(STYLE, CHARACTER))
    tensors = merge_stack(stack, (), Plan(method), "fp16", "", base[0], base[1]).lora_model
    model, clip = comfy.sd.load_lora_for_models(base[0], base[1], tensors, 1.0, 1.0)
    return model, clip, base[2]


CASES = (
    Case("style alone", lambda base: applied(base, stack_of(STYLE))),
    Case("character alone", lambda base: applied(base, stack_of(CHARACTER))),
    Case("stacked at full strength", lambda base: applied(base, stack_of(STYLE, CHARACTER))),
    Case("Loom Balance, protection 50 %", lambda base: balanced(base, 0.5)),
    Case("Loom Balance, protection 100 %", lambda base: balanced(base, 1.0)),
    Case("Loom Merge, knots_ties", lambda base: merged(base, "knots_ties")),
    Case("Loom Merge, orthogonal", lambda base: merged(base, "orthogonal")),
)


def measure(
    base: Loaded, case: Case, seeds: Sequence[int]
) -> tuple[dict[str, float], list[Image.Image]]:
    """Rates of a case, and its pictures."""
    with torch.inference_mode():
        shown = toy_measure.show(case.load(base), [PROMPT] * len(seeds), seeds)
    return toy_rates.rate(shown, "dark"), [one.picture for one in shown]


def section(found: dict[str, dict[str, float]], seeds: Sequence[int]) -> str:
    """The part of the docs."""
    count = len(seeds)
    lines = [
        HEADING,
        "",
        "`python -m tools.toy_balance`: the toy's style with a part planted by tools/toy_conflict.py that writes against the",
        f"character's own directions, at 0.8, and the character at 0.9; prompt `{PROMPT}`, seeds {seeds[0]} to {seeds[-1]}.",
        f"Pictures of {count} in which the reader sees it:",
        "",
        "| case | style | character | both |",
        "|---|---|---|---|",
    ]
    for name, rates in found.items():
        seen = [round(rates[what] * count) for what in ("style", "character", "both")]
        lines.append(f"| {name} | {seen[0]} | {seen[1]} | {seen[2]} |")
    return "\n".join(lines) + "\n"


def replaced(text: str, part: str) -> str:
    """The docs with the section in the place of the old one, or at the end."""
    before, found, after = text.partition(HEADING)
    if not found:
        return f"{text.rstrip()}\n\n{part}"
    _, mark, rest = after.partition("\n## ")
    return before + part + (f"\n## {rest}" if mark else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--comfyui", help="folder of a ComfyUI tree (else COMFYUI_PATH)")
    parser.add_argument("--work", type=Path, default=Path("toy-work"), help="where files are kept")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--write", action="store_true", help="write the figures into the docs")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    toy_host.add_host(options.comfyui)
    work = options.work.resolve()
    toy_conflict.write(work / "loras" / STYLE)
    base = toy_measure.load_base(TOY_MODEL / "loom_toy.safetensors")
    listed([work / "loras", toy_conflict.CHARACTER.parent], work / "output")
    found: dict[str, dict[str, float]] = {}
    pictures: list[Image.Image] = []
    for case in CASES:
        found[case.name], made = measure(base, case, toy_rates.SEEDS)
        pictures += made
        print(case.name, found[case.name], flush=True)
        toy_measure.sheet(pictures, len(toy_rates.SEEDS)).save(work / "balance.png")
    part = section(found, toy_rates.SEEDS)
    print(part)
    if options.write:
        DOCS.write_text(replaced(DOCS.read_text("utf-8"), part), encoding="utf-8")


if __name__ == "__main__":
    main()
