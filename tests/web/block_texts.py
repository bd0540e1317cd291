"""Texts of the block language for each model, and what Python reads in them."""

from __future__ import annotations

from lora_core.analysis.block_page import block_names
from lora_core.stack.blockstrengths import block_strengths
from lora_core.stack.blocktable import BlockTable, block_table
from tests.core.model_names import CLIP_L, FLUX, SD15, SDXL

TABLES = {
    "SD1.5": block_table(SD15, CLIP_L),
    "SDXL": block_table(SDXL, CLIP_L),
    "Flux": block_table(FLUX),
}
TEXTS = {
    "SD1.5": [
        "",
        "IN04=0.5",
        "in4=0.5, OUT*=0.25 # a remark",
        "*=0; IN01-IN05=0.3\nM00=-1.5",
        "BASE=0.2\nTE=0.7; CLIPL=0.1",
        "SD-MIDD",
        "sd-outd, M00=.5",
        "1,0,0,0,1,1,1,1,1,1,1,1,0,0,0,0,0",
        "LBW=BASE:1,0,0,0,1,1,1,1,1,1,1,1,0,0,0,0,\n0;",
        "SD-LyC-MIDALL",
        "SD1.5 keep shape (P+)",
        '{"IN04": 0.5, "OUT*": 0}',
        "A=0.5\nB=2\nSD-AB",
        "NONE\nIN11?=0.4",
        "1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,0.5,1,1,1",
    ],
    "SDXL": ["SDXL-MIDALL", "SDXL keep style (B-LoRA)", "IN00-IN08=0.5, OUT08=2", "*=0.5"],
    "Flux": [
        "FLUX-ALL",
        "FLUX-SINGLE-11to20",
        "%default=0,double1-5=0.8,single38=1",
        "D*=0; S00-S09=0.5; IN=0.1; OUT=0.2",
        "FLUXALL",
    ],
}


def by_python(text: str, table: BlockTable) -> dict[str, float]:
    """Slider -> strength, of those whose weights all have one."""
    strengths = block_strengths(text, table)
    names = block_names(table).replace("TE:", "").split()
    spread = [block for block in table.blocks if block not in table.groups["TE"]]
    spread += [name for name in names if name in table.groups and name != "BASE"]
    found = {}
    for name in spread:
        blocks = table.groups.get(name, (name,)) if name != "BASE" else ("BASE",)
        low, high = zip(*(strengths.of_block(block) for block in blocks), strict=True)
        if min(low) == max(high):
            found[name] = low[0]
    return found
