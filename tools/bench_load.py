"""bench load: preparing a stack of eight SDXL LoRAs of 170 MB against read() of the same bytes, and against core.

All files lie in the system's cache. The values are known to be finite (as the index says of a file seen before), except
in the case "first sight". Cases:
  prepare      eight files read and parsed, against eight times read()
  first sight  the same with the search for NaN and infinity
  onto model   read, parsed and matched with an SDXL UNet, against core's load_torch_file and load_lora, which map
               the files and leave the reading to the moment when the weights are patched
  and read     the same, with core's tensors read as well
  memory       most memory while the stack is prepared, against the size of the files
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from comfy.cli_args import args as host_args

host_args.cpu = not torch.cuda.is_available()

import comfy.lora  # noqa: E402
import comfy.lora_convert  # noqa: E402
import comfy.model_patcher  # noqa: E402
import comfy.supported_models  # noqa: E402
import comfy.utils  # noqa: E402
import safetensors.torch  # noqa: E402

from lora_core.files import reader  # noqa: E402
from lora_core.files.cache import BoundedCache  # noqa: E402
from lora_core.host.targets import model_targets  # noqa: E402
from lora_core.resolve import resolve  # noqa: E402
from lora_core.stack.rows import StackRow  # noqa: E402
from tools.benching import (  # noqa: E402
    BenchRow,
    interleaved,
    median_row,
    publish,
    reset_resident_peak,
    resident_peak,
    seconds,
)
from tools.unet_settings import SDXL_UNET  # noqa: E402

RANK = 32


def make_model() -> Any:
    """The SDXL UNet without memory: only its names and shapes are asked for."""
    config = comfy.supported_models.SDXL(dict(SDXL_UNET))
    config.set_inference_dtype(torch.float16, None)
    meta = torch.device("meta")
    inner = config.get_model({}, device=meta)
    return comfy.model_patcher.ModelPatcher(inner, load_device=meta, offload_device=meta)


def write_loras(model: Any, folder: Path, count: int) -> list[Path]:
    """LoRAs of rank 32 in kohya naming for the transformer layers of SDXL, as its trainers make them."""
    paths = []
    for index in range(count):
        generator = torch.Generator().manual_seed(index)
        tensors = {}
        for key, tensor in model.model.state_dict().items():
            if "transformer_blocks" not in key or not key.endswith(".weight") or tensor.dim() < 2:
                continue
            name = "lora_unet_" + key[len("diffusion_model.") : -len(".weight")].replace(".", "_")
            out, inner = tensor.shape
            for part, shape in (("up", (out, RANK)), ("down", (RANK, inner))):
                values = torch.randn(shape, generator=generator, dtype=torch.float32) * 0.02
                tensors[f"{name}.lora_{part}.weight"] = values.half()
            tensors[f"{name}.alpha"] = torch.tensor(16.0).half()
        paths.append(folder / f"lora_{index}.safetensors")
        safetensors.torch.save_file(tensors, paths[-1], {"ss_network_dim": str(RANK)})
    return paths


def read_bytes(paths: list[Path]) -> list[bytes]:
    """read() without Python's buffer, which would only make it slower."""
    contents = []
    for path in paths:
        with path.open("rb", buffering=0) as file:
            contents.append(file.read())
    return contents


def prepare(paths: list[Path], checked: bool) -> list[Any]:
    reader._cache = BoundedCache(0)
    return reader.read_adapters([(path, path.name, checked) for path in paths])


def onto_model(model: Any, paths: list[Path]) -> Any:
    rows = [
        (StackRow(path.name, 0.8, 0.8), adapter)
        for path, adapter in zip(paths, prepare(paths, checked=True), strict=True)
    ]
    return resolve(rows, model_targets(model), None)


def onto_core(model: Any, paths: list[Path], touch: bool) -> list[Any]:
    """What LoraLoader does before it patches; touch: read what a mapped file has only promised."""
    loaded = []
    for path in paths:
        tensors = comfy.utils.load_torch_file(str(path), safe_load=True)
        if touch:
            tensors = {key: tensor.clone() for key, tensor in tensors.items()}
        key_map = comfy.lora.model_lora_keys_unet(model.model, {})
        loaded.append(comfy.lora.load_lora(comfy.lora_convert.convert_lora(tensors), key_map))
    return loaded


def timed(run: Callable[[], Any]) -> float:
    """Seconds of a call without the time to free what it made."""
    kept: list[Any] = []
    return seconds(lambda: kept.append(run()))


def memory(run: Callable[[], Any]) -> float:
    """The most MiB in use above what was there before."""
    before = reset_resident_peak()
    kept = run()
    grown = (resident_peak() - before) / 2**20
    del kept
    return grown


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="bench load", description=__doc__.splitlines()[0] if __doc__ else None
    )
    parser.add_argument("--json", help="write the table to this file")
    parser.add_argument("--rounds", type=int, default=9, help="turns of each side per case")
    parser.add_argument("--files", type=int, default=8, help="LoRAs in the stack")
    options = parser.parse_args()
    model = make_model()
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        paths = write_loras(model, Path(folder), options.files)
        size = sum(path.stat().st_size for path in paths)
        print(f"{len(paths)} files of {size / len(paths) / 1e6:.0f} MB", flush=True)
        cases: tuple[tuple[str, Callable[[], Any], Callable[[], Any]], ...] = (
            ("prepare", lambda: prepare(paths, True), lambda: read_bytes(paths)),
            ("first sight", lambda: prepare(paths, False), lambda: read_bytes(paths)),
            (
                "onto model",
                lambda: onto_model(model, paths),
                lambda: onto_core(model, paths, touch=False),
            ),
            (
                "and read",
                lambda: onto_model(model, paths),
                lambda: onto_core(model, paths, touch=True),
            ),
        )
        rows = []
        for name, ours, rival in cases:
            print(f"load {name} ...", flush=True)
            ours()
            rival()
            times = interleaved(lambda o=ours: timed(o), lambda r=rival: timed(r), options.rounds)
            rows.append(median_row(f"{name} N={len(paths)}", *times))
        taken = memory(lambda: prepare(paths, True))
        rows.append(BenchRow(f"memory N={len(paths)}", "MiB", taken, size / 2**20))
    publish("load", rows, options.json)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
