"""Trains a job that Loom Train wrote, on one GPU or many:

    torchrun --nproc-per-node 8 PATH/train_worker.py JOB_FOLDER --comfyui PATH_OF_COMFYUI

Without torchrun it is one process. See docs/torchrun.md in the pack's repository.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import logging
import os
import signal
import sys
import traceback
from pathlib import Path
from types import TracebackType

PACK = Path(__file__).resolve().parent


def main(arguments: list[str]) -> int:
    options = _parser().parse_args(arguments)
    host = _host(options.comfyui)
    if host is None:
        sys.stderr.write("Where is ComfyUI? Name its folder with --comfyui or COMFYUI_PATH.\n")
        raise SystemExit(2)
    _order_imports(host)
    name = f"rank {os.environ.get('RANK', '0')} of {os.environ.get('WORLD_SIZE', '1')}"
    logging.basicConfig(level=logging.WARNING, format=f"[{name}] %(message)s", stream=sys.stdout)
    logging.getLogger("lora_core").setLevel(logging.INFO)
    sys.excepthook = lambda kind, error, trace: _say_whose(name, kind, error, trace)
    # torchrun ends the others when one rank is lost, and all when it is asked to: states are saved on the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    _choose_device()
    _load_packs(options.custom_node)
    ranks, jobs, errors = (
        importlib.import_module(f"lora_core.{part}")
        for part in ("train.ranks", "host.job_run", "errors")
    )
    device = importlib.import_module("comfy.model_management").get_torch_device()
    try:
        with ranks.joined(device) as together:
            work = jobs.Work(options.job.resolve(), options.model, options.shard)
            path = jobs.run_job(work, together)
    except errors.LoraError as error:
        sys.stderr.write(f"[{name}] {error}\n")
        return 1
    if path is not None:
        sys.stdout.write(f"{path}\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="train_worker.py", description="Trains a job of Loom Train."
    )
    parser.add_argument("job", type=Path, help="the job's folder")
    parser.add_argument("--comfyui", type=Path, help="ComfyUI's folder (default: COMFYUI_PATH)")
    parser.add_argument("--model", type=Path, help="the model's file, where ComfyUI lists none")
    parser.add_argument(
        "--shard", action="store_true", help="the frozen model in pieces over the GPUs"
    )
    parser.add_argument(
        "--custom-node",
        type=Path,
        action="append",
        default=[],
        metavar="FOLDER",
        help="a custom node that ComfyUI needs to load the model; may be given again",
    )
    return parser


def _host(named: Path | None) -> Path | None:
    """ComfyUI's folder: as it is named, or the one whose custom_nodes this pack lies in."""
    around = Path(sys.argv[0]).absolute().parents[2:3]
    asked = [named, os.environ.get("COMFYUI_PATH"), *around]
    found = [Path(each) for each in asked if each]
    return next((path.resolve() for path in found if (path / "comfy").is_dir()), None)


def _order_imports(host: Path) -> None:
    """ComfyUI's tree first and the pack last: both have a module named `nodes`, which must be ComfyUI's."""
    others = [path for path in sys.path if Path(path or ".").resolve() not in (PACK, host)]
    sys.path[:] = [str(host), *others, str(PACK)]


def _choose_device() -> None:
    """The GPU of this rank, or the CPU where there is none. Before any other module of the host is imported."""
    torch = importlib.import_module("torch")
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    elif not getattr(torch, "accelerator", torch.cuda).is_available():
        importlib.import_module("comfy.cli_args").args.cpu = True


def _load_packs(folders: list[Path]) -> None:
    """By the host's own loader."""
    for folder in folders:
        nodes = importlib.import_module("nodes")
        if not asyncio.run(nodes.load_custom_node(str(folder.resolve()))):
            raise SystemExit(f"ComfyUI could not load the custom node {folder}.")


def _say_whose(
    name: str, kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """An error that nobody expected, with the rank that it happened on."""
    lines = traceback.format_exception(kind, error, trace)
    sys.stderr.write(f"[{name}] failed:\n{''.join(lines)}")


if __name__ == "__main__":
    ended = main(sys.argv[1:])
    importlib.import_module("lora_core.train.ranks").leave(ended)
