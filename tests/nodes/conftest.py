"""The node classes without a host: lora_core.host is replaced by fakes that remember what they were given."""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
LISTED = ["style.safetensors", "dir/character.safetensors"]


@dataclass(frozen=True)
class Stop:
    """What stands for the host's execution blocker."""

    message: str


def _package(name: str, path: Path) -> types.ModuleType:
    module = types.ModuleType(name)
    module.__path__ = [str(path)]  # what makes a module a package
    return module


def _fake_datasets(errors: types.ModuleType, made: list[Any]) -> dict[str, Any]:
    """Of lora_core.host.datasets: one folder, "set"; what a dataset was asked for is remembered."""

    def check_folders(*folders: str | None) -> None:
        for folder in folders:
            if folder not in (None, "", "set"):
                raise errors.DatasetError(f"There is no folder '{folder}'.")

    def make_dataset(*asked: Any) -> Any:
        made.append(asked)
        return types.SimpleNamespace(dataset="dataset", report="12 pictures", sheet="sheet")

    return {
        "check_folders": check_folders,
        "folders_stamp": lambda *folders: repr(folders),
        "make_dataset": make_dataset,
        "typed_here": lambda prompt, node, name: isinstance(prompt[node]["inputs"].get(name), str),
    }


def _fake_merging(merged: list[Any]) -> dict[str, Any]:
    """Merge and resize that remember what they were asked and answer something recognisable."""

    def remember(*asked: Any) -> Any:
        merged.append(asked)
        return types.SimpleNamespace(
            lora_model={"x": 1}, report="well", chart="a chart", certificate="{}"
        )

    return {"merge_stack": remember, "resize_one": remember, "Answer": types.SimpleNamespace}


def _fake_analysis(asked_for: list[Any]) -> dict[str, dict[str, Any]]:
    """Interference, balance and extraction that remember what they were asked."""

    def measure_stack(*asked: Any) -> Any:
        asked_for.append(asked)
        document = {"version": 1}
        return types.SimpleNamespace(
            report="said", heat_map="drawn", figures="{}", document=document
        )

    def balance_stack(*asked: Any) -> Any:
        asked_for.append(asked)
        return types.SimpleNamespace(stack=list(asked[0]), report="said", images="drawn")

    def extract_difference(*asked: Any) -> Any:
        asked_for.append(asked)
        return types.SimpleNamespace(
            lora_model={"x": 1}, report="well", chart="a chart", certificate="{}"
        )

    return {
        "interfering": {"Feeding": lambda *values: values, "measure_stack": measure_stack},
        "balancing": {"BalanceOrder": lambda *values: values, "balance_stack": balance_stack},
        "extracting": {
            "NO_MODEL_FILE": "[the MODEL inputs]",
            "Pair": lambda *values: values,
            "extract_difference": extract_difference,
            "model_files": lambda: ["checkpoints/tuned.safetensors"],
            "model_files_stamp": lambda *names: repr(names),
        },
    }


def _fake_host(
    applied: list[Any], made: list[Any], merged: list[Any]
) -> dict[str, types.ModuleType]:
    base = "lora_loom.lora_core"
    errors, account, lock, identity = (
        importlib.import_module(f"{base}.{name}")
        for name in ("errors", "account", "stack.lock", "files.identity")
    )

    def find_lora(name: str, sha256: str | None = None) -> tuple[str, Path]:
        if name not in LISTED and sha256 is None:
            raise errors.LoraFileError(f"LoRA '{name}' not found in the loras folders.")
        return name, Path("/loras") / name

    def apply_stack(
        stack: Any, model: Any, clip: Any, matching: str = "auto", mode: str = "auto"
    ) -> Any:
        applied.append((stack, model, clip, matching, *([mode] if mode != "auto" else [])))
        return types.SimpleNamespace(
            model=model and f"patched {model}",
            clip=clip and f"patched {clip}",
            account=account.Account() if model or clip else None,
            opened=(),
            trigger_words="ohwx",
            identities=tuple(
                lock.Identified(
                    row, f"found/{row.name}", identity.FileHashes("a" * 64, "b" * 12), None
                )
                for row in stack.rows
                if row.adapter is None
            ),
            notes=tuple(f"{row.name}: a note" for row in stack.rows if row.sha256),
            facts="title: Rain",
        )

    def check_order(name: str | None, lora_name: str | None) -> None:
        if lora_name is not None and not lora_name.startswith("["):
            find_lora(lora_name)
        if name is not None and ".." in name:
            raise errors.SaveError(f"'{name}' cannot be a file name")

    def save_lora(
        lora_model: Any, lora_name: str, order: Any, model: Any, clip: Any, row: Any = None
    ) -> Any:
        applied.append((lora_model, lora_name, order, model, clip, *([row] if row else [])))
        return types.SimpleNamespace(name="loom/x.safetensors", report="saved", tensors=lora_model)

    def block_stack(lora_stack: Any, blocks: str, row: int, *rest: Any) -> Any:
        applied.append((lora_stack, blocks, row, *rest))
        return types.SimpleNamespace(
            stack=list(lora_stack), report="said", images="drawn", page=[{"blocks": "IN00"}]
        )

    def train_lora(*asked: Any) -> Any:
        made.append(asked)
        return types.SimpleNamespace(
            tensors={"x": 1},
            report="60 steps",
            chart="chart",
            name="loom/x.safetensors",
            samples="samples",
            curve={"step": 60},
        )

    def schedule_stack(lora_stack: Any, schedule: str, row: int, *rest: Any) -> Any:
        applied.append((lora_stack, schedule, row, *rest))
        return types.SimpleNamespace(stack=list(lora_stack), report="said", images="drawn")

    def region_stack(lora_stack: Any, positive: Any, row: int, negative: Any, *rest: Any) -> Any:
        applied.append((lora_stack, positive, row, negative, *rest))
        return types.SimpleNamespace(
            stack=list(lora_stack), positive=["positive"], negative=negative, report="said"
        )

    def sweep_stack(*asked: Any) -> Any:
        applied.append(asked)
        points = [types.SimpleNamespace(label=label) for label in ("0", "0.5")]
        sweep = types.SimpleNamespace(points=points)
        clips = None if asked[1] is None else ["clip 0", "clip 1"]
        return types.SimpleNamespace(
            models=["model 0", "model 1"], clips=clips, sweep=sweep, report="2 points"
        )

    def save_sheets(*asked: Any) -> Any:
        applied.append(asked)
        return types.SimpleNamespace(ui={"images": ["a sheet"]}, sheets="sheets", record="{}")

    def show_effects(*asked: Any) -> Any:
        applied.append(asked)
        return types.SimpleNamespace(chart="chart", report="D05 matters", record="{}")

    interop = importlib.import_module(f"{base}.stack.interop")
    fakes = {
        "regioning": {"region_stack": region_stack},
        "sweeping": {"sweep_stack": sweep_stack},
        "contact": {"save_sheets": save_sheets, "show_effects": show_effects},
        "blocking": {"block_stack": block_stack},
        "datasets": _fake_datasets(errors, made),
        "messages": {"stop_with": Stop},
        "scheduling": {"schedule_stack": schedule_stack},
        "presets": {
            "preset_names": lambda: ["none", "SD-MIDD"],
            "editor_data": lambda: {"families": {"a model": "IN00"}},
            "preset_stamp": lambda preset, blocks="": f"what {preset} says{blocks}",
        },
        "paths": {"find_lora": find_lora, "lora_names": lambda: list(LISTED)},
        "stacking": {
            "apply_stack": apply_stack,
            "check_names": lambda stack: [find_lora(row.name, row.sha256) for row in stack.rows],
            "stack_stamp": lambda stack: repr([(row.name, row.sha256) for row in stack.rows]),
            "outgoing": lambda stack, opened=(): interop.StackList(
                stack, [row.name for row in stack.rows]
            ),
            "in_memory_row": lambda tensors, model, clip: importlib.import_module(
                f"{base}.stack.rows"
            ).StackRow(f"memory of {len(tensors)}", model, clip),
        },
        "training": {
            "NEW": "[a new LoRA]",
            "TrainOrder": lambda *values: values,
            "train_lora": train_lora,
        },
        "job_follow": {
            "JobWish": lambda *values: values,
            "job_stamp": lambda run, folder, name: f"{run} {folder or name}",
        },
        "saving": {
            "NO_FILE": "[the LORA_MODEL input]",
            "FOLDERS": ("output/loras", "models/loras"),
            "IF_EXISTS": ("refuse", "add a number", "overwrite"),
            "SaveOrder": lambda *values: values,
            "check_order": check_order,
            "save_lora": save_lora,
            "row_to_save": lambda stack, row: None if stack is None else stack[row - 1],
        },
        "inspecting": {
            "STACK_INPUT": "[the LORA_STACK input]",
            "inspect_stack": lambda stack, model, clip: types.SimpleNamespace(
                report=f"all of {', '.join(row.name for row in stack.rows)}",
                words="ohwx",
                chart="drawn",
                needs="needs",
                hashes="hashes",
                hash_list="list",
            ),
        },
        "indexing": {
            "index_loras": lambda folder: f"indexed {folder}",
            "index_stamp": lambda folder: f"files of {folder}",
        },
        "merging": _fake_merging(merged),
        **_fake_analysis(applied),
    }
    modules = {f"{base}.host": _package(f"{base}.host", ROOT / "nowhere")}
    for name, members in fakes.items():
        modules[f"{base}.host.{name}"] = module = types.ModuleType(f"{base}.host.{name}")
        module.__dict__.update(members)
    return modules


@dataclass(frozen=True)
class Pack:
    """The mappings, the stacks that were applied, the datasets that were made, the calls that merge or resize."""

    nodes: dict[str, type]
    titles: dict[str, str]
    applied: list[Any]
    made: list[Any]
    merged: list[Any]


@pytest.fixture
def pack(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pack]:
    """The node classes over a fake host, gone again after the test."""
    before = set(sys.modules)
    applied: list[Any] = []
    made: list[Any] = []
    merged: list[Any] = []
    monkeypatch.setitem(sys.modules, "lora_loom", _package("lora_loom", ROOT))
    for name, module in _fake_host(applied, made, merged).items():
        monkeypatch.setitem(sys.modules, name, module)
    loaded = importlib.import_module("lora_loom.nodes")
    yield Pack(loaded.NODE_CLASS_MAPPINGS, loaded.NODE_DISPLAY_NAME_MAPPINGS, applied, made, merged)
    for name in set(sys.modules) - before:
        if name.startswith("lora_loom"):
            del sys.modules[name]
