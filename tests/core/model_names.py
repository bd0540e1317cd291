"""Weight names of SD1.5, SDXL and Flux as the models have them, at small widths: written out, not asked of any model."""

from __future__ import annotations

from lora_core.targets import Target, TargetMap

WIDTH = 4
CONTEXT = 6

# Which blocks have attention, as published: (level of blocks with a transformer) of input, middle and output.
SD15_ATTENTION = ({1, 2, 4, 5, 7, 8}, {3, 4, 5, 6, 7, 8, 9, 10, 11}, 12)
SDXL_ATTENTION = ({4, 5, 7, 8}, {0, 1, 2, 3, 4, 5}, 9)
_DOWN = {12: {3, 6, 9}, 9: {3, 6}}


def _residual(path: str) -> dict[str, tuple[int, ...]]:
    return {
        f"{path}.in_layers.0.weight": (WIDTH,),
        f"{path}.in_layers.2.weight": (WIDTH, WIDTH, 3, 3),
        f"{path}.emb_layers.1.weight": (WIDTH, WIDTH),
        f"{path}.out_layers.3.weight": (WIDTH, WIDTH, 3, 3),
    }


def _transformer(path: str) -> dict[str, tuple[int, ...]]:
    inner = f"{path}.transformer_blocks.0"
    shapes = {f"{path}.proj_in.weight": (WIDTH, WIDTH), f"{path}.proj_out.weight": (WIDTH, WIDTH)}
    for attention, context in (("attn1", WIDTH), ("attn2", CONTEXT)):
        shapes |= {
            f"{inner}.{attention}.to_q.weight": (WIDTH, WIDTH),
            f"{inner}.{attention}.to_k.weight": (WIDTH, context),
            f"{inner}.{attention}.to_v.weight": (WIDTH, context),
            f"{inner}.{attention}.to_out.0.weight": (WIDTH, WIDTH),
        }
    return shapes | {
        f"{inner}.ff.net.0.proj.weight": (8 * WIDTH, WIDTH),
        f"{inner}.ff.net.2.weight": (WIDTH, 4 * WIDTH),
        f"{inner}.norm1.weight": (WIDTH,),
    }


def unet(attention: tuple[set[int], set[int], int]) -> TargetMap:
    """A UNet with kohya's names for all matrices and convolutions."""
    inputs, outputs, count = attention
    shapes: dict[str, tuple[int, ...]] = {"time_embed.0.weight": (WIDTH, WIDTH)}
    shapes["input_blocks.0.0.weight"] = (WIDTH, WIDTH, 3, 3)
    for index in range(1, count):
        path = f"input_blocks.{index}"
        if index in _DOWN[count]:
            shapes[f"{path}.0.op.weight"] = (WIDTH, WIDTH, 3, 3)
            continue
        shapes |= _residual(f"{path}.0")
        if index in inputs:
            shapes |= _transformer(f"{path}.1")
    shapes |= _residual("middle_block.0") | _transformer("middle_block.1")
    shapes |= _residual("middle_block.2")
    for index in range(count):
        shapes |= _residual(f"output_blocks.{index}.0")
        if index in outputs:
            shapes |= _transformer(f"output_blocks.{index}.1")
    shapes["out.2.weight"] = (WIDTH, WIDTH, 3, 3)
    return _mapped(shapes)


def flux() -> TargetMap:
    """Flux with kohya's names, and diffusers' for the slices of its fused weights."""
    shapes: dict[str, tuple[int, ...]] = {
        "img_in.weight": (WIDTH, WIDTH),
        "txt_in.weight": (WIDTH, WIDTH),
        "final_layer.linear.weight": (WIDTH, WIDTH),
    }
    slices = {}
    for index in range(19):
        for stream, names in (("img", "to_{}"), ("txt", "add_{}_proj")):
            path = f"double_blocks.{index}.{stream}"
            shapes |= {
                f"{path}_mod.lin.weight": (6 * WIDTH, WIDTH),
                f"{path}_attn.qkv.weight": (3 * WIDTH, WIDTH),
                f"{path}_attn.qkv.bias": (3 * WIDTH,),
                f"{path}_attn.norm.query_norm.scale": (WIDTH,),
                f"{path}_attn.proj.weight": (WIDTH, WIDTH),
                f"{path}_mlp.0.weight": (4 * WIDTH, WIDTH),
                f"{path}_mlp.2.weight": (WIDTH, 4 * WIDTH),
            }
            for place, role in enumerate("qkv"):
                name = f"transformer.transformer_blocks.{index}.attn.{names.format(role)}"
                key = f"diffusion_model.{path}_attn.qkv.weight"
                slices[name] = Target(key, (0, place * WIDTH, WIDTH))
    for index in range(38):
        path = f"single_blocks.{index}"
        shapes |= {
            f"{path}.linear1.weight": (7 * WIDTH, WIDTH),
            f"{path}.linear2.weight": (WIDTH, 5 * WIDTH),
            f"{path}.modulation.lin.weight": (3 * WIDTH, WIDTH),
        }
        key = f"diffusion_model.{path}.linear1.weight"
        for place, role in enumerate(("attn.to_q", "attn.to_k", "attn.to_v")):
            name = f"transformer.single_transformer_blocks.{index}.{role}"
            slices[name] = Target(key, (0, place * WIDTH, WIDTH))
        name = f"transformer.single_transformer_blocks.{index}.proj_mlp"
        slices[name] = Target(key, (0, 3 * WIDTH, 4 * WIDTH))
    plain = _mapped(shapes)
    return TargetMap({**plain.names, **slices}, plain.shapes)


def clip_l(layers: int = 12) -> TargetMap:
    """CLIP-L as the host names it."""
    shapes: dict[str, tuple[int, ...]] = {}
    for index in range(layers):
        path = f"clip_l.transformer.text_model.encoder.layers.{index}"
        for role in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes[f"{path}.self_attn.{role}.weight"] = (WIDTH, WIDTH)
        shapes |= {f"{path}.mlp.fc1.weight": (WIDTH, WIDTH), f"{path}.layer_norm1.weight": (WIDTH,)}
    shapes["clip_l.transformer.text_model.embeddings.token_embedding.weight"] = (9, WIDTH)
    names = {
        "lora_te_"
        + key.removeprefix("clip_l.transformer.").removesuffix(".weight").replace(".", "_"): Target(
            key
        )
        for key in shapes
        if ".weight" in key
    }
    return TargetMap(names, shapes)


def _mapped(shapes: dict[str, tuple[int, ...]]) -> TargetMap:
    names = {
        "lora_unet_" + key.removesuffix(".weight").replace(".", "_"): Target(
            f"diffusion_model.{key}"
        )
        for key in shapes
        if key.endswith(".weight")
    }
    return TargetMap(names, {f"diffusion_model.{key}": shape for key, shape in shapes.items()})


SD15, SDXL, FLUX, CLIP_L = unet(SD15_ATTENTION), unet(SDXL_ATTENTION), flux(), clip_l()
