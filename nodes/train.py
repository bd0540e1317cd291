"""A LoRA trained inside the graph."""

from __future__ import annotations

from typing import Any

from ..lora_core.host.job_follow import JobWish, job_stamp
from ..lora_core.host.paths import lora_names
from ..lora_core.host.saving import check_order
from ..lora_core.host.training import NEW, TrainOrder, train_lora
from ..lora_core.train.branches import FAMILIES
from ..lora_core.train.choosing import PARTS
from ..lora_core.train.job import RUNS
from ..lora_core.train.objective import LOSSES, TIMESTEPS, WEIGHTINGS, Objective
from ..lora_core.train.optimizers import OPTIMIZERS
from ..lora_core.train.settings import SCHEDULES, SampleWish, TrainSettings
from . import _spec

_PATTERN = (
    "Instead of parts: a regular expression; each layer in whose path it is found is trained."
)
_RANKS = (
    "A rank of their own for some layers: lines such as 'attn2 = 32' or 'ff = 8 / 4' (rank / alpha); the pattern is a "
    "regular expression found in the layer's path, the last line that fits counts, rank 0 leaves the layer out."
)
_BLOCKS = "Which of the chosen layers learn, in the language of Loom Blocks: '*=0, OUT*=1' or '*.ff=0'. Empty: all."
_TIMESTEPS = "How noise levels are drawn. auto: uniform for SD models, the model's own shift for flow models."


def _number(
    kind: str,
    default: float,
    low: float,
    high: float,
    step: float,
    tooltip: str,
    expert: bool = True,
) -> Any:
    options = {"default": default, "min": low, "max": high, "step": step, "tooltip": tooltip}
    return (kind, options | ({"advanced": True} if expert else {}))


def _what_inputs() -> dict[str, Any]:
    """What is learned and how it is asked for: appended after the first inputs of Loom Train Settings."""
    number = _number
    return {
        "family": _spec.choice(FAMILIES, "LoRA: small and read everywhere. DoRA: nearer to full training, slower. LoHa, LoKr: other shapes of change, slower.", True),
        "kron_block": number("INT", 8, 0, 256, 1, "LoKr alone: size of its smaller matrix at most. 0: as square as can be."),
        "ranks": ("STRING", {"default": "", "multiline": True, "tooltip": _RANKS, "advanced": True}),
        "blocks": ("STRING", {"default": "", "multiline": True, "tooltip": _BLOCKS, "advanced": True}),
        "text_rate": number("FLOAT", 0.0, 0.0, 10.0, 0.05, "Train the text encoders too, at this share of the learning rate: 0.1 to 0.5. 0: leave them alone."),
        "logit_mean": number("FLOAT", 0.0, -5.0, 5.0, 0.05, "Middle of logit-normal timesteps: above 0 trains noisy steps more."),
        "logit_spread": number("FLOAT", 1.0, 0.01, 10.0, 0.05, "Spread of logit-normal timesteps."),
        "weighting": _spec.choice(WEIGHTINGS, "How losses of different noise levels weigh. auto: min-SNR for eps models (SD1.5, SDXL), none for v and flow models.", True),
        "loss": _spec.choice(LOSSES, "huber takes outliers less seriously than square.", True),
        "huber": number("FLOAT", 0.1, 0.0001, 10.0, 0.01, "Where the huber loss turns from square to straight."),
        "guidance": number("FLOAT", 1.0, 0.0, 100.0, 0.1, "What a model with a guidance input is told while it learns (Flux dev: 1)."),
    }  # fmt: skip


_DEFAULT = TrainSettings()


def _switch(default: bool, tooltip: str) -> Any:
    return ("BOOLEAN", {"default": default, "tooltip": tooltip, "advanced": True})


# How it runs, when it stops, and what is seen of it meanwhile.
_LOOP = {
    "optimizer": _spec.choice(OPTIMIZERS, "How weights follow their gradients. Prodigy finds its own rate: set learning_rate to 1.", True),
    "plus_ratio": _number("FLOAT", _DEFAULT.plus_ratio, 0.01, 1000.0, 0.5, "LoRA+: how much faster the up matrices learn. 1: alike; 4 to 16 learns sooner."),
    "preserve": _number("FLOAT", _DEFAULT.preserve, 0.0, 0.9, 0.05, "Share of the showings that teach to leave other prompts as they are. It needs no pictures. 0: off.", False),
    "keep_best": _switch(_DEFAULT.keep_best, "Give the weights of the lowest validation loss where the last ones are clearly worse."),
    "patience": _number("INT", _DEFAULT.patience, 0, 1000, 1, "Stop after so many measurements on held-out pictures without a lower loss. 0: never."),
    "checkpointing": _switch(_DEFAULT.checkpointing, "Compute each block again in backward: a third slower, far less memory."),
    "compile": _switch(_DEFAULT.compile, "Let torch compile each block: minutes at first, faster steps after. It needs a compiler."),
    "sample_every": _number("INT", 0, -1, 1_000_000, 1, "Steps between sample pictures. 0: a quarter of all; -1: none."),
    "sample_prompts": ("STRING", {"default": "", "multiline": True, "dynamicPrompts": False, "advanced": True, "tooltip": "One prompt a line for the sample pictures. Empty: a caption with and without the trigger."}),
    "sample_steps": _number("INT", 20, 1, 1000, 1, "Steps of the sampler for sample pictures."),
    "sample_cfg": _number("FLOAT", 0.0, 0.0, 100.0, 0.5, "CFG of sample pictures. 0: 4, or 1 for models with guidance of their own."),
}  # fmt: skip


class LoomTrainSettings:
    DESCRIPTION = (
        "How long, how fast and what Loom Train learns. The defaults suit a first LoRA of 10 to 30 pictures; without "
        "this node Loom Train uses them."
    )
    CATEGORY = _spec.CATEGORY
    SEARCH_ALIASES = ["train lora settings", "learning rate", "optimizer", "rank", "loom"]
    RETURN_TYPES = ("LOOM_TRAIN_SETTINGS",)
    RETURN_NAMES = ("settings",)
    OUTPUT_TOOLTIPS = ("Settings, for Loom Train.",)
    FUNCTION = "make"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        number = _number
        return {
            "required": {
                "steps": number("INT", 1500, 1, 1_000_000, 1, "Steps of the optimizer. 1000 to 2000 for 10 to 30 pictures.", False),
                "learning_rate": number("FLOAT", 0.0, 0.0, 1.0, 1e-6, "The highest learning rate. 0: what suits the model, 0.0001 for SDXL, Flux and larger; the report says it.", False),
                "rank": number("INT", 16, 1, 1024, 1, "Size of the LoRA: 8 to 16 for a character or thing, 16 to 32 for a style.", False),
                "alpha": number("FLOAT", 0.0, 0.0, 4096.0, 0.5, "The LoRA acts with alpha / rank. 0: the same as rank.", False),
                "batch_size": number("INT", 1, 1, 256, 1, "Pictures at once. More is steadier and needs more memory.", False),
                "parts": (list(PARTS), {"default": _DEFAULT.parts, "tooltip": "attention: what prompts steer, in the smallest file. With convolutions: also outlines, strokes and textures of UNets."}),
                "train_seed": number("INT", 0, 0, 2**53 - 1, 1, "Decides all draws: the same seed gives the same LoRA.", False),
            },
            "optional": {
                "pattern": ("STRING", {"default": "", "tooltip": _PATTERN, "advanced": True}),
                "schedule": _spec.choice(SCHEDULES, "How the rate falls after the warm-up.", True),
                "warmup": number("FLOAT", 0.05, 0.0, 1.0, 0.01, "Share of the steps in which the rate rises."),
                "accumulate": number("INT", 1, 1, 1024, 1, "Batches a step: a larger batch in the memory of a small one."),
                "timesteps": _spec.choice(TIMESTEPS, _TIMESTEPS, True),
                "shift": number("FLOAT", 0.0, 0.0, 100.0, 0.01, "Timestep shift: above 1 trains noisy steps more. 0: the model's own."),
                "timestep_low": number("FLOAT", 0.0, 0.0, 1.0, 0.01, "Trained noise levels begin here: 0 is a clean picture."),
                "timestep_high": number("FLOAT", 1.0, 0.0, 1.0, 0.01, "Trained noise levels end here: 1 is pure noise."),
                "min_snr": number("FLOAT", 5.0, 0.0, 100.0, 0.5, "Gamma of min-SNR weighting of eps and v models. 0: off."),
                "noise_offset": number("FLOAT", 0.0, 0.0, 1.0, 0.005, "Brightness noise, only where the base had it (SDXL: 0.0357)."),
                "ema": number("FLOAT", 0.99, 0.0, 0.9999, 0.001, "Decay of the moving average that is saved. 0: the last step itself."),
                "weight_decay": number("FLOAT", 0.01, 0.0, 1.0, 0.001, "AdamW's pull towards zero."),
                "clip": number("FLOAT", 1.0, 0.0, 1000.0, 0.1, "Highest norm of a step's gradient. 0: no limit."),
                "validate_every": number("INT", 0, 0, 1_000_000, 1, "Steps between measurements on held-out pictures. 0: a tenth of all."),
                "save_every": number("INT", 0, 0, 1_000_000, 1, "Steps between saved states, to go on from. 0: a tenth of all."),
                "keep": number("INT", 2, 1, 100, 1, "How many saved states are kept."),
                **_what_inputs(),
                **_LOOP,
            },
        }  # fmt: skip

    def make(
        self,
        learning_rate: float,
        rank: int,
        alpha: float,
        timesteps: str = TIMESTEPS[0],
        shift: float = 0.0,
        timestep_low: float = 0.0,
        timestep_high: float = 1.0,
        min_snr: float = 5.0,
        noise_offset: float = 0.0,
        train_seed: int = 0,
        logit_mean: float = 0.0,
        logit_spread: float = 1.0,
        weighting: str = WEIGHTINGS[0],
        loss: str = LOSSES[0],
        huber: float = 0.1,
        guidance: float = 1.0,
        sample_every: int = 0,
        sample_prompts: str = "",
        sample_steps: int = 20,
        sample_cfg: float = 0.0,
        **others: Any,
    ) -> tuple[TrainSettings]:
        objective = Objective(
            timesteps,
            shift,
            timestep_low,
            timestep_high,
            min_snr,
            noise_offset,
            mean=logit_mean,
            spread=logit_spread,
            weighting=weighting,
            loss=loss,
            huber=huber,
            guidance=guidance,
        )
        settings = TrainSettings(
            rate=learning_rate,
            rank=rank,
            alpha=alpha or float(rank),
            objective=objective,
            samples=SampleWish(sample_every, sample_prompts, sample_steps, sample_cfg),
            seed=train_seed,
            **others,
        )
        return (settings,)


class LoomTrain:
    DESCRIPTION = (
        "Trains a LoRA on the model of the graph and hands it on in the same run. The state is saved as it goes: after "
        "an interrupt or a crash the next run goes on where it was, and a finished training is given back at once."
    )
    CATEGORY = _spec.CATEGORY
    SEARCH_ALIASES = ["train lora", "lora training", "fine-tune", "dreambooth", "kohya", "loom"]
    RETURN_TYPES = ("LORA_MODEL", "STRING", "IMAGE", "STRING", "IMAGE")
    RETURN_NAMES = ("LORA_MODEL", "report", "loss chart", "lora_name", "samples")
    OUTPUT_TOOLTIPS = (
        "The trained LoRA, for Loom Stack or Loom Save.",
        "What was trained, how the loss went, and what was saved.",
        "The loss of each step, its running mean, and the validation loss.",
        "The new file's name as the LoRA list shows it.",
        "Pictures at fixed seeds while it trained: without the LoRA, and with it as it grew.",
    )
    FUNCTION = "train"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        again = "Train again although this very training is finished."
        return {
            "required": {
                "model": ("MODEL", {"tooltip": "What to train on; LoRAs may be on it. It is not changed."}),
                "clip": ("CLIP", {"tooltip": "Encodes the captions; trained too where text_rate in the settings is above 0."}),
                "vae": ("VAE", {"tooltip": "Encodes the pictures."}),
                "dataset": ("LOOM_DATASET", {"tooltip": "Pictures and captions, from Loom Dataset."}),
                "filename": ("STRING", {"default": "loom/my_lora", "tooltip": "Name of the file in output/loras; / makes subfolders. A taken name gets a number."}),
            },
            "optional": {
                "settings": ("LOOM_TRAIN_SETTINGS", {"tooltip": "From Loom Train Settings; without it the defaults."}),
                "continue_from": _spec.choice([NEW, *lora_names()], "A LoRA to go on training, of any naming."),
                "resume": ("BOOLEAN", {"default": True, "tooltip": "Go on from the saved state of an interrupted run of the same training."}),
                "retrain": ("BOOLEAN", {"default": False, "tooltip": again}),
                "run": _spec.choice(RUNS, "here: in this graph. write a job: a folder that torchrun trains on one or many GPUs; the report says how. watch the job: wait for it.", True),
                "job_folder": ("STRING", {"default": "", "tooltip": "Of a job: its folder in output/loom_jobs. Empty: named as the file.", "advanced": True}),
            },
            "hidden": {"unique_id": "UNIQUE_ID", "prompt": "PROMPT"},
        }  # fmt: skip

    @classmethod
    def VALIDATE_INPUTS(
        cls, filename: str | None, continue_from: str | None = None, job_folder: str | None = ""
    ) -> Any:
        wanted = None if continue_from == NEW else continue_from
        return _spec.verdict(
            lambda: (check_order(filename, wanted), check_order(job_folder or None, None))
        )

    @classmethod
    def IS_CHANGED(
        cls,
        run: str | None = None,
        job_folder: str | None = "",
        filename: str | None = None,
        **_: Any,
    ) -> str:
        return job_stamp(run, job_folder, filename)

    def train(
        self,
        model: Any,
        clip: Any,
        vae: Any,
        dataset: Any,
        filename: str,
        settings: TrainSettings | None = None,
        continue_from: str = NEW,
        resume: bool = True,
        retrain: bool = False,
        run: str = RUNS[0],
        job_folder: str = "",
        unique_id: str | None = None,
        prompt: Any = None,
    ) -> dict[str, Any]:
        asked, job = settings or TrainSettings(), JobWish(run, job_folder, prompt)
        order = TrainOrder(asked, filename, continue_from, resume, retrain, unique_id, job)
        made = train_lora(model, clip, vae, dataset, order)
        outputs = (made.tensors, made.report, made.chart, made.name, made.samples)
        return _spec.shown(made.report, *outputs, train=[made.curve])


NODE_CLASS_MAPPINGS = {"LoomTrainSettings": LoomTrainSettings, "LoomTrain": LoomTrain}
NODE_DISPLAY_NAME_MAPPINGS = {
    "LoomTrainSettings": "Loom Train Settings",
    "LoomTrain": "Loom Train",
}
