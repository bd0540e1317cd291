"""What the example workflows are wired for: published models for three bases, and the bundled toy."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tools import toy_datasets, workflow_train
from tools.workflow_parts import Lesson, Models


def _checkpoint(name: str, folder: str, sha256: str) -> dict[str, Any]:
    """What the page's dialog of missing models is told of a checkpoint. folder: its address without the file's name."""
    return {
        "models": [
            {
                "name": name,
                "url": f"{folder}{name}?download=true",
                "hash": sha256,
                "hash_type": "SHA256",
                "directory": "checkpoints",
            }
        ]
    }


SD15 = Models(
    checkpoint="v1-5-pruned-emaonly-fp16.safetensors",
    checkpoint_source=_checkpoint(
        "v1-5-pruned-emaonly-fp16.safetensors",
        "https://huggingface.co/Comfy-Org/stable-diffusion-v1-5-archive/resolve/main/",
        "e9476a13728cd75d8279f6ec8bad753a66a1957ca375a1464dc63b37db6e3916",
    ),
    style="MoXinV1.safetensors",
    style_source={
        "models": [
            {
                "name": "MoXinV1.safetensors",
                "url": "https://civitai.com/api/download/models/14856"
                "?type=Model&format=SafeTensor&size=full&fp=fp16",
                "directory": "loras",
            }
        ]
    },
    character="blindbox_v1_mix.safetensors",
    style_prompt="shuimobysim, a fox under a pine tree, misty mountains",
    both_prompt="shuimobysim, full body, chibi, a girl with an umbrella on a rainy street",
    negative="low quality, blurry, text, watermark",
    size=512,
    where="The LoRAs are examples for SD1.5: MoXin (ink style) and Blindbox (chibi character). Choose your own.",
    style_lesson=Lesson(
        "my_drawings",
        "ohwx",
        "ohwx illustration of {caption}",
        512,
        "ohwx illustration of a fox under a pine tree",
    ),
    character_lesson=Lesson(
        "my_portraits",
        "sks_leah",
        "sks_leah woman {caption}",
        512,
        "sks_leah woman reading in a train",
    ),
    on_style_lesson=Lesson(
        "my_portraits_and_drawings",
        "sks_leah",
        "{caption}",
        512,
        "sks_leah woman reading in a train",
    ),
    ten_lesson=Lesson(
        "my_ten_pictures", "sks_mug", "sks_mug mug {caption}", 512, "sks_mug mug on a beach"
    ),
    ten_and_style_prompt="shuimobysim, sks_mug mug on a table, misty mountains",
    trained_style=f"{workflow_train.STYLE_FILE}.safetensors",
    trained_character=f"{workflow_train.ON_STYLE_FILE}.safetensors",
    trained_prompt="ohwx illustration of sks_leah on a rainy street",
)

SDXL = replace(
    SD15,
    checkpoint="sd_xl_base_1.0.safetensors",
    checkpoint_source=_checkpoint(
        "sd_xl_base_1.0.safetensors",
        "https://huggingface.co/stabilityai/stable-diffusion-xl-base-1.0/resolve/main/",
        "31e35c80fc4829d14f90153f4c74cd59c90b779f6afe05a74cd6120b893f7e5b",
    ),
    style="pixel-art-xl.safetensors",
    style_source={},
    style_prompt="pixel art, a fox under a pine tree, misty mountains",
    size=1024,
    cfg=6.0,
    style_blocks="OUT01=1",
    where="The LoRA is an example for SDXL: nerijs/pixel-art-xl of Hugging Face. Choose your own.",
)

FLUX = replace(
    SD15,
    checkpoint="flux1-dev-fp8.safetensors",
    checkpoint_source=_checkpoint(
        "flux1-dev-fp8.safetensors",
        "https://huggingface.co/Comfy-Org/flux1-dev/resolve/main/",
        "8e91b68084b53a7fc44ed2a3756d821e355ac1a7b6fe29be760c1db532f3d88a",
    ),
    style="flux_dev_frostinglane_araminta_k.safetensors",
    style_source={},
    style_prompt="a fox under a pine tree, misty mountains, frstingln illustration",
    negative="",
    size=1024,
    cfg=1.0,
    where="The LoRA is an example for Flux: alvdansen/frosting_lane_flux of Hugging Face. Choose your own.",
)

TOY = Models(
    checkpoint="loom_toy.safetensors",
    checkpoint_source={},
    style="loom_toy_style.safetensors",
    style_source={},
    character="loom_toy_character.safetensors",
    style_prompt="ohwx red circle on a dark ground",
    both_prompt="ohwx zwx on a dark ground",
    negative="",
    size=256,
    where="The toy model and its LoRAs are bundled with the sources of LoRA Loom.",
    style_lesson=Lesson(
        toy_datasets.DRAWINGS, "ohwx", "ohwx {caption}", 256, "ohwx red circle on a dark ground"
    ),
    character_lesson=Lesson(
        toy_datasets.PORTRAITS, "zwx", "zwx {caption}", 256, "zwx on a dark ground"
    ),
    on_style_lesson=Lesson(
        toy_datasets.BOTH_MANNERS, "zwx", "{caption}", 256, "zwx on a dark ground"
    ),
    ten_lesson=Lesson(toy_datasets.TEN, "zwx", "zwx {caption}", 256, "zwx on a dark ground"),
    ten_and_style_prompt="ohwx zwx on a dark ground",
    trained_style="loom_toy_style.safetensors",
    trained_character="loom_toy_character.safetensors",
    trained_prompt="ohwx zwx on a dark ground",
    style_blocks="IN05=1\nM00=1\nOUT*=1",
    face_blocks="IN*=1\nM00=1\nOUT00-OUT03=1",
)
