"""The host's MODEL made ready for gradients, and put back to the bit: what a training step asks of it.

What stands in the way of backward and how it is cured: weights loaded under inference mode (an alias of the same
memory is an ordinary tensor), operators without a formula (the host's own in_training flag), attention that splits by
free memory (pinned to torch's), norms whose input is changed in place
afterwards (a copy of it).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import comfy.ldm.modules.attention
import comfy.model_management
import comfy.model_sampling
import comfy.samplers
import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from torch import autocast

from ..errors import TrainError
from ..train.loop import Predict
from ..train.objective import NoiseLevels
from ..train.settings import TrainSettings
from .training_data import encoded_text

# What the text encoder and the picture's size say of one sample: names of the host's conditioning -> values.
Conditioning = Mapping[str, Any]
# Networks that add to no norm's input afterwards: their norms need no copies.
_WITHOUT_CHANGES_IN_PLACE = (UNetModel,)
# Noise levels that a family without a table of its own is given.
_LEVELS = 1000
_SIXTEEN_BITS = (torch.float16, torch.bfloat16)


def noise_levels(model_sampling: Any) -> NoiseLevels:
    """What the host's model_sampling says: eps, v and flow by their closed forms, all others by the host's own."""
    host = comfy.model_sampling
    if isinstance(model_sampling, host.CONST):
        return NoiseLevels("flow", torch.empty(0), _shift_of(model_sampling))
    sigmas = _table(model_sampling)
    answers = type(model_sampling).calculate_denoised
    if getattr(model_sampling, "sigma_data", 1.0) == 1.0:
        if answers is host.EPS.calculate_denoised:
            return NoiseLevels("eps", sigmas)
        if answers is host.V_PREDICTION.calculate_denoised:
            return NoiseLevels("v", sigmas)
    return NoiseLevels("own", sigmas, own=_HostsOwn(model_sampling))


def _table(model_sampling: Any) -> torch.Tensor:
    """Its noise levels from little to much, on the CPU."""
    table = getattr(model_sampling, "sigmas", None)
    if isinstance(table, torch.Tensor):
        return table.detach().cpu().float().clone()
    shares = [(place + 0.5) / _LEVELS for place in range(_LEVELS)]
    return torch.tensor([float(model_sampling.percent_to_sigma(1 - share)) for share in shares])


class _HostsOwn:
    """A family's noising and its answer, from the two functions by which the host samples it.

    Every family's picture is a(sigma) * noisy + b(sigma) * answer; a and b are what the host makes of one and nought.
    """

    def __init__(self, model_sampling: Any) -> None:
        self._scale = model_sampling.noise_scaling
        self._picture = model_sampling.calculate_denoised

    def noised(
        self, latents: torch.Tensor, noise: torch.Tensor, sigmas: torch.Tensor
    ) -> torch.Tensor:
        return self._scale(sigmas, noise.clone(), latents)

    def target(
        self, latents: torch.Tensor, noise: torch.Tensor, sigmas: torch.Tensor
    ) -> torch.Tensor:
        noisy, one = self.noised(latents, noise, sigmas), torch.ones_like(latents)
        of_noisy = self._picture(sigmas, torch.zeros_like(one), one)
        of_answer = self._picture(sigmas, one, torch.zeros_like(one))
        return (latents - of_noisy * noisy) / of_answer


def _shift_of(model_sampling: Any) -> float:
    """The shift of a flow model's own sampling: what its middle timestep becomes, whatever form it is written in."""
    middle = float(model_sampling.percent_to_sigma(0.5))
    return middle / (1 - middle) if 0 < middle < 1 else 1.0


def refuse_compiled(model: Any) -> None:
    """Raises TrainError where compiled modules stand in the loaded MODEL's network in place of its own: their layers
    have other paths, and what they compiled has no branches. Core's node compiles apart, as it samples; that may stay.
    """
    odd = [name for name, module in model.model.named_modules() if hasattr(module, "_orig_mod")]
    if odd:
        raise TrainError(
            f"The MODEL is compiled ({len(odd)} of its modules, such as {odd[0]}). Connect the MODEL from before the node "
            "that compiles it; Loom Train Settings has a switch that compiles while it trains."
        )


@contextmanager
def ready(model: Any, clip: Any = None, settings: TrainSettings | None = None) -> Iterator[Predict]:
    """predict of a loaded MODEL with gradients through it, within the block only.

    predict(noisy, sigmas, conditioning): conditioning is one Conditioning a sample. It answers in float32 and raises
    what the host raises when the user interrupts. clip: a loaded CLIP, where its text encoders are trained; a
    conditioning that has a caption instead of what was made of it is then encoded with gradients.
    """
    inner = model.model
    with ExitStack() as undo:
        undo.enter_context(torch.inference_mode(False))
        undo.enter_context(torch.enable_grad())
        undo.enter_context(_in_training())
        undo.enter_context(ordinary_tensors(inner))
        undo.enter_context(frozen(inner))
        if clip is not None:
            undo.enter_context(ordinary_tensors(clip.cond_stage_model))
            undo.enter_context(frozen(clip.cond_stage_model))
            undo.enter_context(_copying_norms(clip.cond_stage_model))
        undo.enter_context(_raw_answers(inner.model_sampling))
        if not isinstance(inner.diffusion_model, _WITHOUT_CHANGES_IN_PLACE):
            undo.enter_context(_copying_norms(inner.diffusion_model))
        model.pre_run()
        undo.callback(model.cleanup)
        guidance = (settings or TrainSettings()).objective.guidance
        yield _predict_of(model, None if clip is None else _resident(clip), guidance)


def _resident(clip: Any) -> Any:
    """A CLIP that encodes without asking the host to load it: it is loaded, and loading changes weights in place."""
    found = clip.clone()
    found.load_model = lambda *_, **__: found.patcher
    return found


@contextmanager
def ordinary_tensors(module: torch.nn.Module) -> Iterator[None]:
    """Inference tensors among the module's weights replaced by ordinary ones of the same memory, within the block."""
    kept: list[tuple[dict[str, Any], str, Any]] = []
    for each in module.modules():
        for held in (each._parameters, each._buffers):
            kept += [
                (held, name, value)
                for name, value in held.items()
                if value is not None and value.is_inference()
            ]
    try:
        for held, name, value in kept:
            alias = torch.empty(0, dtype=value.dtype, device=value.device).set_(
                value.untyped_storage(), value.storage_offset(), value.size(), value.stride()
            )
            is_parameter = isinstance(value, torch.nn.Parameter)
            held[name] = torch.nn.Parameter(alias, requires_grad=False) if is_parameter else alias
        yield
    finally:
        for held, name, value in kept:
            held[name] = value


@contextmanager
def frozen(module: torch.nn.Module) -> Iterator[None]:
    """No gradients of the module's own weights, within the block: what was loaded outside inference mode asks for them."""
    asking = [parameter for parameter in module.parameters() if parameter.requires_grad]
    try:
        for parameter in asking:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in asking:
            parameter.requires_grad_(True)


@contextmanager
def _in_training() -> Iterator[None]:
    """The flag by which newer hosts choose operators that have a backward."""
    management = comfy.model_management
    if not hasattr(management, "in_training"):
        yield
        return
    before = management.in_training
    management.in_training = True
    try:
        yield
    finally:
        management.in_training = before


@contextmanager
def _raw_answers(model_sampling: Any) -> Iterator[None]:
    """apply_model gives what the network answers, in place of the picture that the host makes of it."""
    model_sampling.__dict__["calculate_denoised"] = lambda sigma, answer, noisy: answer
    try:
        yield
    finally:
        del model_sampling.__dict__["calculate_denoised"]


def _copied(_: torch.nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(x.clone() if isinstance(x, torch.Tensor) else x for x in inputs)


@contextmanager
def _copying_norms(network: torch.nn.Module) -> Iterator[None]:
    """Norms keep their input for backward; some families add to that very tensor afterwards, in place."""
    handles = [
        module.register_forward_pre_hook(_copied)
        for module in network.modules()
        if "Norm" in type(module).__name__ and not list(module.children())
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _pinned(_: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
    return comfy.ldm.modules.attention.attention_pytorch(*args, **kwargs)


def _predict_of(model: Any, clip: Any, guidance: float) -> Predict:
    inner = model.model
    options = dict(model.model_options.get("transformer_options", {}))
    options["optimized_attention_override"] = _pinned
    computes = inner.manual_cast_dtype or inner.get_dtype()

    def predict(
        noisy: torch.Tensor, sigmas: torch.Tensor, conditioning: Sequence[Conditioning]
    ) -> torch.Tensor:
        comfy.model_management.throw_exception_if_processing_interrupted()
        told = [{"guidance": guidance, **_encoded(clip, said)} for said in conditioning]
        conds = [_model_conds(inner, noisy[i : i + 1], said) for i, said in enumerate(told)]
        answers: list[torch.Tensor] = [noisy] * len(conds)
        for group in _alike(conds):
            joined = comfy.samplers.cond_cat([conds[i] for i in group])
            own = {**options, "cond_or_uncond": [0], "sigmas": sigmas[group]}
            with _autocast(noisy.device.type, computes):
                found = inner.apply_model(
                    noisy[group], sigmas[group], transformer_options=own, **joined
                )
            for place, i in enumerate(group):
                answers[i] = found[place]
        return torch.stack(answers).float()

    return predict


def _encoded(clip: Any, said: Conditioning) -> Conditioning:
    """The conditioning with its caption encoded, where it has one."""
    if "caption" not in said:
        return said
    made = encoded_text(clip, said["caption"])
    made["cross_attn"] = made.pop("cond")
    return {name: value for name, value in said.items() if name != "caption"} | made


def _autocast(device: str, computes: torch.dtype) -> Any:
    """bfloat16 where the model computes in 16 bits: gradients of half precision would vanish without a scale."""
    if computes not in _SIXTEEN_BITS:
        return contextlib.nullcontext()
    return autocast(device, dtype=torch.bfloat16)


def _model_conds(inner: Any, noisy: torch.Tensor, said: Conditioning) -> dict[str, Any]:
    """What the family makes of one sample's conditioning, as the host's sampler has it made."""
    sizes = {"width": noisy.shape[-1] * 8, "height": noisy.shape[-2] * 8}
    made = inner.extra_conds(
        **{**sizes, **said}, noise=noisy, device=noisy.device, prompt_type="positive"
    )
    return {name: cond.process_cond(batch_size=1, area=None) for name, cond in made.items()}


def _alike(conds: Sequence[dict[str, Any]]) -> list[list[int]]:
    """Indices of samples that can go through the network together; texts of unlike length often cannot."""
    groups: list[list[int]] = []
    equal: Callable[[Any, Any], bool] = comfy.samplers.cond_equal_size
    for index, cond in enumerate(conds):
        group = next((g for g in groups if equal(conds[g[0]], cond)), None)
        if group is None:
            groups.append([index])
        else:
            group.append(index)
    return groups
