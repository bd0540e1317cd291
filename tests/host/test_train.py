"""Training on the toy model with the host's own classes: it learns, leaves MODEL as it was, and is never lost."""

from __future__ import annotations

import hashlib
import random
from dataclasses import replace
from pathlib import Path

import comfy.model_management
import comfy.sd
import comfy.utils
import folder_paths
import numpy as np
import pytest
import torch
from small_models import small_model

from lora_core.errors import TrainError
from lora_core.files.reader import read_adapter
from lora_core.host import training
from lora_core.host.paths import find_lora
from lora_core.host.stacking import apply_stack
from lora_core.host.training import NEW, TrainOrder, train_lora
from lora_core.host.training_branches import branches_of
from lora_core.host.training_data import Encoders, batch_of, clip_fingerprint
from lora_core.host.training_key import acts_beside
from lora_core.host.training_model import noise_levels, ready
from lora_core.stack.rows import LoraStack, StackRow
from lora_core.train import adapters
from lora_core.train.batch import read_batch
from lora_core.train.cache import RamStore
from lora_core.train.dataset import Dataset, DatasetSettings
from lora_core.train.loop import batch_loss
from lora_core.train.samples import Plan
from lora_core.train.settings import SampleWish, TrainSettings
from lora_core.train.state import states_in
from tools.devkit.base_directory import TOY_MODEL
from tools.toy_pictures import CHARACTER_SHAPE, GROUNDS, Picture, draw, placed_at_random

SETTINGS = TrainSettings(
    steps=12, rate=2e-3, batch_size=2, rank=4, alpha=4.0, save_every=4, validate_every=6,
    samples=SampleWish(-1), preserve=0.0,
)  # fmt: skip


@pytest.fixture(scope="module")
def toy():
    """MODEL, CLIP and VAE of the toy checkpoint, loaded as in a graph: under inference mode."""
    import tools.toy_pack  # noqa: F401 - registers the toy with the host

    output = Path(folder_paths.get_output_directory()) / "loras"
    folder_paths.add_model_folder_path("loras", str(output))
    with torch.inference_mode():
        found = comfy.sd.load_checkpoint_guess_config(str(TOY_MODEL / "loom_toy.safetensors"))
    yield found[:3]
    comfy.model_management.unload_all_models()


@pytest.fixture(scope="module")
def rings():
    """Twelve drawn pictures of 64 pixels with captions."""
    pictures = []
    for seed in range(12):
        ground = list(GROUNDS)[seed % len(GROUNDS)]
        one = placed_at_random(Picture(None, CHARACTER_SHAPE, ground), random.Random(seed))
        pictures.append(np.asarray(draw(one, 64).convert("RGB"), dtype=np.float32) / 255)
    captions = "\n".join(f"a ring on {list(GROUNDS)[n % len(GROUNDS)]}" for n in range(12))
    found = read_batch(torch.from_numpy(np.stack(pictures)), captions)
    return Dataset(found.images, DatasetSettings(trigger="zwx", resolution=64))


@pytest.fixture(autouse=True)
def own_user_folder(tmp_path, monkeypatch):
    """Each test has its own jobs and cache."""
    monkeypatch.setattr(folder_paths, "get_system_user_directory", lambda name: str(tmp_path))


def trained(toy, rings, name, settings=SETTINGS, **order):
    with torch.inference_mode():
        model, clip, vae = toy
        return train_lora(model, clip, vae, rings, TrainOrder(settings, name, **order))


def digest(module: torch.nn.Module) -> str:
    """sha256 of all names and bytes of a module's state."""
    found = hashlib.sha256()
    for key, tensor in module.state_dict().items():
        found.update(
            key.encode() + tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes()
        )
    return found.hexdigest()


def traces(model) -> list[object]:
    """What a training could leave behind besides numbers."""
    inner = model.model
    hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in inner.modules())
    wants = any(p.requires_grad for p in inner.parameters())
    is_inference = [p.is_inference() for p in inner.parameters()]
    flag = getattr(comfy.model_management, "in_training", False)
    own = "calculate_denoised" in vars(inner.model_sampling)
    return [
        hooks,
        wants,
        is_inference,
        flag,
        own,
        model.patches_uuid,
        torch.get_rng_state().tolist(),
    ]


def validation(report: str) -> tuple[float, float]:
    (line,) = [line for line in report.splitlines() if "validation " in line and " -> " in line]
    before, after = line.split("validation ")[1].split(" -> ")
    return float(before), float(after)


def same_bytes(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_it_learns_leaves_the_model_as_it_was_and_runs_only_once(toy, rings):
    model = toy[0]
    comfy.model_management.load_models_gpu([model])
    before, trace = digest(model.model), traces(model)
    settings = replace(SETTINGS, steps=40, validate_every=5)
    made = trained(toy, rings, "toy/once", settings)
    assert digest(model.model) == before
    assert traces(model) == trace
    first, last = validation(made.report)
    assert last < 0.97 * first, made.report
    assert made.name == "toy/once.safetensors"
    assert made.chart.shape[0] == 1
    again = trained(toy, rings, "toy/once", settings)
    assert "was finished before" in again.report
    assert (again.name, same_bytes(again.tensors, made.tensors)) == (made.name, True)


def one_batch(toy, rings):
    """The first batch with two captions, encoded under inference mode as the host would."""
    model, clip, vae = toy
    encoders = Encoders(
        vae,
        clip,
        model.model.process_latent_in,
        model.load_device,
        RamStore(1 << 26),
        "vae",
        "clip",
    )
    plan = Plan(rings, 2)
    batches = (plan.batch_at(number) for number in range(20))
    mixed = next(b for b in batches if len({sample.caption for sample in b.samples}) == 2)
    return batch_of(plan, mixed.samples, encoders)


def filled_branches(model):
    network = model.model.diffusion_model
    made = adapters.new_branches(adapters.chosen_layers(network, adapters.PARTS[1]), 3, 2.0, 1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for branch in made:
            branch.up.copy_(torch.randn(branch.up.shape, generator=generator) * 0.02)
    return made


def test_gradients_of_one_step_are_those_of_the_merged_weight(toy, rings):
    model = toy[0]
    levels = noise_levels(model.model.model_sampling)
    comfy.model_management.load_models_gpu([model])
    network = model.model.diffusion_model
    with ready(model) as predict:
        batch, branches = one_batch(toy, rings), filled_branches(model)
        parameters = adapters.parameters_of(branches)
        with adapters.attached(network, branches):
            loss = batch_loss(predict, batch, levels, SETTINGS).mean()
            ours = torch.autograd.grad(loss, parameters)
        weights = dict(network.named_parameters())
        merged = {}
        for branch in branches:
            key = f"{branch.path}.weight"
            delta = branch.scale * branch.up.flatten(1) @ branch.down.flatten(1)
            merged[key] = weights[key] + delta.reshape(weights[key].shape)
        with torch.nn.utils.stateless._reparametrize_module(network, merged):
            other = batch_loss(predict, batch, levels, SETTINGS).mean()
            theirs = torch.autograd.grad(other, parameters)
    assert float(loss.detach()) == pytest.approx(float(other.detach()), rel=1e-5)
    for mine, plain in zip(ours, theirs, strict=True):
        assert float((mine - plain).norm()) <= 1e-3 * float(plain.norm()) + 1e-9


def test_weights_loaded_outside_inference_mode_get_no_gradients_and_ask_for_them_again_afterwards(
    toy,
):
    with torch.inference_mode(False):
        file = str(TOY_MODEL / "loom_toy.safetensors")
        model = comfy.sd.load_checkpoint_guess_config(file, False, False)[0]
        comfy.model_management.load_models_gpu([model])
    network = model.model.diffusion_model
    for parameter in network.parameters():
        parameter.requires_grad_(True)
    with ready(model) as predict:
        branches = filled_branches(model)
        with adapters.attached(network, branches):
            said = {"cross_attn": torch.zeros(1, 77, 64)}
            predict(torch.ones(1, 4, 8, 8), torch.tensor([1.0]), (said,)).sum().backward()
        assert all(branch.up.grad is not None for branch in branches)
        assert not any(parameter.requires_grad for parameter in network.parameters())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_a_batch_of_two_is_the_mean_of_two_batches_of_one(toy, rings):
    model = toy[0]
    levels = noise_levels(model.model.model_sampling)
    comfy.model_management.load_models_gpu([model])
    with ready(model) as predict:
        both = one_batch(toy, rings)
        assert not torch.equal(
            both.conditioning[0]["cross_attn"], both.conditioning[1]["cross_attn"]
        )
        together = batch_loss(predict, both, levels, SETTINGS)
        for place in range(2):
            alone = replace(
                both,
                latents=both.latents[place : place + 1],
                conditioning=both.conditioning[place : place + 1],
                weights=both.weights[place : place + 1],
                keys=both.keys[place : place + 1],
            )
            one = batch_loss(predict, alone, levels, SETTINGS)
            assert float(one[0].detach()) == pytest.approx(
                float(together[place].detach()), rel=1e-4
            )


def test_the_saved_file_in_cores_loader_gives_what_training_saw(toy, rings):
    model, clip, _ = toy
    made = trained(toy, rings, "toy/seen")
    path = folder_paths.get_full_path("loras", made.name)
    assert path is not None
    with torch.inference_mode():
        file = comfy.utils.load_torch_file(path)
        loaded, _ = comfy.sd.load_lora_for_models(model, clip, file, 1.0, 1.0)
        comfy.model_management.load_models_gpu([model])
    network = model.model.diffusion_model
    sigmas = torch.tensor([0.5, 5.0])
    with ready(model) as predict:
        batch = one_batch(toy, rings)
        branches = branches_of(model, clip, SETTINGS, made.name).all
        assert any(branch.up.abs().max() > 0 for branch in branches)
        with adapters.attached(network, branches), torch.no_grad():
            seen = predict(batch.latents, sigmas, batch.conditioning)
        with torch.no_grad():
            base = predict(batch.latents, sigmas, batch.conditioning)
    with torch.inference_mode():
        comfy.model_management.load_models_gpu([loaded])
    with ready(loaded) as predict, torch.no_grad():
        given = predict(batch.latents, sigmas, batch.conditioning)
    assert float((given - seen).abs().max()) < 1e-4
    assert float((seen - base).abs().max()) > 1e-2
    with torch.inference_mode():
        comfy.model_management.load_models_gpu([model])


class Interrupted(Exception):
    """What stands for the host's interrupt."""


def test_a_resumed_run_ends_with_the_same_bytes(toy, rings, tmp_path, monkeypatch):
    whole = trained(toy, rings, "toy/whole")
    real, asked = training.batch_of, []

    def stopping(plan, samples, encoders):
        asked.append(samples)
        if len(asked) == 9:  # two before the first step: what a step takes, and its shape
            raise Interrupted
        return real(plan, samples, encoders)

    before = digest(toy[0].model)
    with monkeypatch.context() as patched:
        patched.setattr(training, "batch_of", stopping)
        with pytest.raises(Interrupted):
            trained(toy, rings, "toy/parts", retrain=True)
    assert digest(toy[0].model) == before
    (folder,) = (tmp_path / "training").iterdir()
    assert states_in(folder)[0].stem == "step-00000006"
    parts = trained(toy, rings, "toy/parts", retrain=True)
    assert "resumed at step 6" in parts.report
    assert same_bytes(parts.tensors, whole.tensors)


def test_going_on_from_a_lora_starts_from_its_weights(toy, rings):
    made = trained(toy, rings, "toy/first")
    further = trained(
        toy, rings, "toy/second", replace(SETTINGS, steps=1, rate=1e-9), existing=made.name
    )
    assert further.tensors.keys() == made.tensors.keys()
    for key, tensor in made.tensors.items():
        assert torch.allclose(tensor, further.tensors[key], atol=1e-6), key


def test_the_file_says_how_it_was_made(toy, rings):
    import safetensors

    made = trained(toy, rings, "toy/told", existing=NEW)
    path = folder_paths.get_full_path("loras", made.name)
    assert path is not None
    with safetensors.safe_open(path, "pt") as file:
        said = file.metadata()
    assert said["modelspec.architecture"] == "stable-diffusion-v1/lora"
    assert (said["modelspec.trigger_phrase"], said["ss_network_dim"]) == ("zwx", "4")
    assert said["ss_max_train_steps"] == "12"
    assert "ss_min_snr_gamma" not in said, (
        "the toy is a v model, whose loss is not weighed by itself"
    )


def test_a_pattern_without_layers_fails_before_the_first_step(toy, rings):
    with pytest.raises(TrainError, match="No layer of the model is chosen"):
        trained(toy, rings, "toy/none", replace(SETTINGS, pattern="nothing"))


@pytest.mark.parametrize("family", ["SD1.5", "SDXL", "Flux"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_backward_works_on_the_family(family, dtype):
    with torch.inference_mode():
        model = small_model(family, dtype)
        comfy.model_management.load_models_gpu([model])
    channels, width, pooled = {"SD1.5": (4, 768, 0), "SDXL": (4, 2048, 1280), "Flux": (16, 64, 32)}[
        family
    ]
    said = {"cross_attn": torch.ones(1, 5, width) * 0.1, "width": 128, "height": 128}
    if pooled:
        said["pooled_output"] = torch.ones(1, pooled) * 0.1
    with ready(model) as predict:
        network = model.model.diffusion_model
        branches = adapters.new_branches(adapters.chosen_layers(network), 2, 2.0, 0)
        noisy = torch.randn(2, channels, 16, 16, generator=torch.Generator().manual_seed(0))
        with adapters.attached(network, branches):
            predict(noisy, torch.tensor([0.3, 0.8]), (said, said)).square().mean().backward()
    gradients = [branch.up.grad for branch in branches]
    moved = [gradient for gradient in gradients if gradient is not None and gradient.norm() > 0]
    assert None not in gradients
    assert len(moved) > 0.8 * len(branches)


def test_what_acts_beside_the_weights_is_part_of_a_trainings_name(toy, rings):
    """A noise table changed by a node, a wrapper: another training, which is not given back for this one."""
    from comfy.patcher_extension import WrappersMP

    from lora_core.host.training import _encoders
    from lora_core.host.training_key import job_key

    model, clip, vae = toy

    def key(patched):
        with torch.inference_mode():
            comfy.model_management.load_models_gpu([patched])
            encoders = _encoders(patched, clip, vae, False)
            return job_key(patched, encoders, Plan(rings, 2), SETTINGS, None)

    def louder(executor, *arguments, **named):
        return executor(*arguments, **named) * 1.01

    plain = key(model)
    assert key(model) == plain
    wrapped = model.clone()
    wrapped.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "louder", louder)
    assert key(wrapped) != plain
    assert key(wrapped) == key(wrapped)
    assert key(model) == plain


def test_what_the_host_leaves_unset_in_a_clip_is_no_part_of_a_trainings_name(toy):
    """SD1.5's files have no text projection: it is whatever the memory held, at each start something else."""
    network = toy[1].cond_stage_model
    weights = dict(network.named_parameters())
    before = clip_fingerprint(toy[1])
    for name, counts in (
        ("clip_l.transformer.text_projection.weight", False),
        ("clip_l.transformer.text_model.final_layer_norm.weight", True),
    ):
        kept = weights[name].detach().clone()
        with torch.inference_mode():
            weights[name].copy_(torch.full_like(kept, 0.5))
            found = clip_fingerprint(toy[1])
            weights[name].copy_(kept)
        assert (found != before) == counts, name
    assert clip_fingerprint(toy[1]) == before


def test_a_baked_stack_acts_by_its_weights_and_a_live_one_beside_them(toy, rings):
    """What a baked one writes in time for a sampling needs no answer of the model to be told from another."""
    made = trained(toy, rings, "toy/carried")
    adapter = read_adapter(find_lora(made.name)[1], made.name)
    rows = LoraStack((StackRow(made.name, 1.0, 1.0, adapter=adapter),))
    for mode, beside in (("baked", False), ("auto", False), ("live", True)):
        with torch.inference_mode():
            carrying = apply_stack(rows, toy[0], toy[1], mode=mode).model
        assert acts_beside(carrying) == beside, mode
