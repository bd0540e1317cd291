"""A merged file is the stack it came from: in core's own loader, weight by weight and in the picture."""

from __future__ import annotations

import copy
import io
import json

import comfy.model_management
import comfy.sd
import numpy as np
import pytest
import torch
from graphs import CHARACTER, STYLE, only, pixels, twin, with_rows
from PIL import Image

from lora_core.errors import MergeError
from lora_core.files.dtypes import DTYPES
from lora_core.files.parse import parse_state_dict
from lora_core.files.reader import read_adapter
from lora_core.files.schemes import SCHEMES
from lora_core.host.merging import merge_stack
from lora_core.host.saving import IF_EXISTS
from lora_core.host.stacking import apply_stack
from lora_core.host.targets import clip_targets, model_targets
from lora_core.merge.plan import Plan
from lora_core.stack.rows import LoraStack, StackRow
from tools.devkit.base_directory import TOY_MODEL
from tools.devkit.host_client import PromptFailed
from tools.family_tensors import MAKERS, Draw, named
from tools.toy_reader import read

ROWS = [
    {"lora": STYLE, "model": 0.8, "role": "style"},
    {"lora": CHARACTER, "model": 0.9, "role": "character"},
]
KEPT_AS_IT_IS = {"naming": SCHEMES[0], "dtype": next(iter(DTYPES)), "if_exists": IF_EXISTS[0]}
KEEP = {"keep": "all", "rank": 8, "energy": 0.95, "ratio": 20.0, "size_mb": 0.1, "dtype": "fp32"}


def merging(client, method: str = "concat", rows=ROWS, size: int = 128, steps: int = 4, **settings):
    """The toy workflow with its rows merged first, and only the merged LoRA on the model. Keys: merge, rows."""
    prompt = with_rows(twin(client, "style_and_character", steps, size), [])
    prompt["rows"] = {"class_type": "LoomStack", "inputs": {"rows": json.dumps(rows)}}
    prompt["merge"] = {
        "class_type": "LoomMerge",
        "inputs": {"method": method, "lora_stack": ["rows", 2], **KEEP, **settings},
    }
    prompt["chart"] = {"class_type": "PreviewImage", "inputs": {"images": ["merge", 2]}}
    applied = next(node for key, node in prompt.items() if _is_applying(key, node))
    applied["inputs"]["lora_model"] = ["merge", 0]
    return prompt


def _is_applying(key: str, node) -> bool:
    return node["class_type"] == "LoomStack" and key != "rows"


def without_chart(prompt):
    """The prompt with one picture only, the sampled one."""
    return {key: node for key, node in prompt.items() if key != "chart"}


@pytest.mark.parametrize("method", ["concat", "svd"])
def test_the_merged_lora_gives_the_picture_of_the_stack_in_our_loader_and_in_cores(
    method, client, host
):
    """Exact methods, with nothing cut."""
    stacked = pixels(client, with_rows(twin(client, "style_and_character"), ROWS)).astype(int)
    merged = without_chart(merging(client, method))
    folder = host.base / "output" / "loras" / "loom"
    ours = pixels(client, merged)
    # A sum in another order, amplified by four steps: two grey levels of 255 are far below what is seen.
    assert np.abs(ours - stacked).max() <= 2
    # Files are named by their content: what both methods write the same is one file.
    kept = max(folder.glob("*.safetensors"), key=lambda path: path.stat().st_mtime)
    core = copy.deepcopy(merged)
    stack_id = next(key for key, node in core.items() if _is_applying(key, node))
    inputs = core[stack_id]["inputs"]
    core[stack_id] = {
        "class_type": "LoraLoader",
        "inputs": {
            "model": inputs["model"],
            "clip": inputs["clip"],
            "lora_name": f"loom/{kept.name}",
            "strength_model": 1.0,
            "strength_clip": 1.0,
        },
    }
    del core["merge"], core["rows"]
    assert np.abs(pixels(client, core) - stacked).max() <= 2


def test_the_merged_picture_still_shows_the_style(client):
    shown = []
    for seed in (1, 2, 3):
        prompt = without_chart(merging(client, size=256, steps=20))
        only(prompt, "KSampler")["inputs"]["seed"] = seed
        shown.append(read(Image.fromarray(pixels(client, prompt))).style)
    assert sum(shown) >= 2


def test_the_report_and_the_chart_come_out(client):
    prompt = merging(client, "svd", keep="energy", energy=0.9)
    finished = client.run(prompt)
    (report,) = finished.outputs["merge"]["text"]
    assert report.startswith("merge: svd, energy 0.9, float32")
    assert f"row 1: {STYLE} (model 0.8, clip 0.8, style)" in report
    (view,) = finished.outputs["chart"]["images"]
    chart = Image.open(io.BytesIO(client.fetch_image(view)))
    assert chart.width == 768


@pytest.mark.parametrize("method", ["knots_ties", "orthogonal", "dare_ties"])
def test_other_methods_run_in_a_graph(method, client):
    assert pixels(client, without_chart(merging(client, method))).std() > 1


def test_a_resized_lora_gives_nearly_the_same_picture(client):
    base = with_rows(twin(client, "style_and_character"), [])
    resized = copy.deepcopy(base)
    resized["resize"] = {
        "class_type": "LoomResize",
        "inputs": {"lora_name": STYLE, **KEEP, "keep": "energy", "energy": 0.995},
    }
    stack = only(resized, "LoomStack")["inputs"]
    stack |= {"lora_model": ["resize", 0], "lora_model_strength": 0.8, "lora_clip_strength": 0.8}
    full = pixels(client, with_rows(copy.deepcopy(base), [ROWS[0]])).astype(int)
    away, change = (np.abs(pixels(client, p) - full).mean() for p in (resized, base))
    assert away < 0.25 * change


def test_nothing_to_merge_is_said_on_the_node(client):
    prompt = merging(client, rows=[])
    with pytest.raises(PromptFailed, match="Nothing to merge: connect a LORA_STACK"):
        client.run(prompt)


def test_a_merge_that_fails_leaves_no_file_and_no_half_of_one(client, host):
    prompt = merging(client, "slerp", rows=[ROWS[0]] * 3)
    prompt["save"] = {
        "class_type": "LoomSave",
        "inputs": {"filename": "merged", **KEPT_AS_IT_IS, "lora_model": ["merge", 0]},
    }
    before = {path for path in (host.base / "output").rglob("*") if path.is_file()}
    with pytest.raises(PromptFailed, match="slerp blends two rows; 3 have") as failure:
        client.run(prompt)
    assert failure.value.node_type == "LoomMerge"
    assert {path for path in (host.base / "output").rglob("*") if path.is_file()} == before


@pytest.fixture(scope="module")
def toy():
    """MODEL and CLIP of the toy checkpoint."""
    import tools.toy_pack  # noqa: F401 - registers the toy with the host

    with torch.inference_mode():
        model, clip, *_ = comfy.sd.load_checkpoint_guess_config(
            str(TOY_MODEL / "loom_toy.safetensors"), output_vae=False
        )
    yield model, clip
    comfy.model_management.unload_all_models()


def toy_stack() -> LoraStack:
    return LoraStack(
        tuple(
            StackRow(row["lora"], row["model"], -0.5 * row["model"], adapter=_file(row["lora"]))
            for row in ROWS
        )
    )


def _file(name: str):
    return read_adapter(TOY_MODEL / "loras" / name, name)


def weights(patcher) -> dict[str, torch.Tensor]:
    comfy.model_management.load_models_gpu([patcher], force_full_load=True)
    state = patcher.model.state_dict()
    # The toy's text projection is in no checkpoint: its numbers are whatever the memory held, NaN among them.
    return {
        key: weight.detach().cpu().double()
        for key, weight in state.items()
        if not key.endswith("text_projection.weight")
    }


def assert_alike(applied, core, toy, floor: float) -> None:
    """Core's MODEL and CLIP have the weights of our stack's, to one rounding of what core adds; some are changed."""
    model, clip = toy
    for ours, theirs, base in (
        (applied.model, core[0], model),
        (applied.clip.patcher, core[1].patcher, clip.patcher),
    ):
        before, expected, found = weights(base), weights(ours), weights(theirs)
        changed = [key for key in before if not torch.equal(before[key], expected[key])]
        assert len(changed) >= 4
        for key in before:
            allowed = 2**-10 * expected[key].abs() + floor
            assert bool(((found[key] - expected[key]).abs() <= allowed).all()), key


@pytest.mark.parametrize("connected", [False, True])
def test_core_puts_the_merged_tensors_on_as_our_stack_puts_the_rows(connected, toy):
    model, clip = toy
    with torch.inference_mode():
        applied = apply_stack(toy_stack(), model, clip)
        sockets = {"model": model, "clip": clip} if connected else {}
        answer = merge_stack(toy_stack(), (), Plan("concat"), "fp32", **sockets)
        core = comfy.sd.load_lora_for_models(model, clip, answer.lora_model, 1.0, 1.0)
        assert_alike(applied, core, toy, 2e-7)


@pytest.mark.parametrize("kind", ["dora_output", "oft", "boft", "glora", "ia3_output"])
def test_a_row_that_depends_on_the_weight_is_merged_on_the_connected_models(kind, toy):
    """After the character, as the stack has it: core puts the merged LoRA on as our stack puts the rows."""
    model, clip = toy
    character = _file(CHARACTER)
    tensors = {}
    for number, targets in enumerate((model_targets(model), clip_targets(clip))):
        in_clip = bool(number)
        names = [name for name in character.modules if name.startswith("lora_te") == in_clip][:4]
        for place, name in enumerate(names):
            target = targets.find(name)
            assert target is not None
            shape = targets.shapes[target.key]
            tensors |= named(name, MAKERS[kind](shape, Draw(10 * number + place)))
    odd = parse_state_dict(tensors, "odd")
    rows = LoraStack(
        (StackRow(CHARACTER, 0.8, 0.8, adapter=character), StackRow("odd", 0.3, 0.3, adapter=odd))
    )
    with pytest.raises(MergeError, match="Connect the MODEL"):
        merge_stack(rows, (), Plan("concat"), "fp32")
    with torch.inference_mode():
        applied = apply_stack(rows, model, clip)
        answer = merge_stack(rows, (), Plan("concat"), "fp32", "", model, clip)
        core = comfy.sd.load_lora_for_models(model, clip, answer.lora_model, 1.0, 1.0)
        assert_alike(applied, core, toy, 1e-6)
