"""Named block strengths: both packs' built-in presets, starting points from the literature, and preset files.

A preset is text of the block language (blocks.py) with the reading it was written for and where it comes from.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import StackError


@dataclass(frozen=True)
class Preset:
    """text: in the block language. dialect: "inspire", "hako" or "auto". layout: the only one it is for, or "".

    source: who published it, for people.
    """

    text: str
    dialect: str = "auto"
    source: str = ""
    layout: str = ""


def _runs(text: str) -> str:
    """ "1*4 0*13" -> "1,1,1,1,0,..." """
    values = []
    for run in text.split():
        value, _, count = run.partition("*")
        values += [value] * int(count or 1)
    return ",".join(values)


# ltdrdata/ComfyUI-Inspire-Pack, resources/lbw-preset.txt: names and values.
_INSPIRE = {
    "SD-NONE": "0*17",
    "SD-ALL": "1*17",
    "SD-INS": "1*4 0*13",
    "SD-IND": "1 0*3 1*3 0*10",
    "SD-INALL": "1*7 0*10",
    "SD-MIDD": "1 0*3 1*8 0*5",
    "SD-MIDD0.2": "1 0*5 0.2 0.4*2 0.2 0*7",
    "SD-MIDD0.8": "1 0*4 0.5 0.8*2 0.4 0*8",
    "SD-MOUT": "1 0*5 1*8 0.5 0*2",
    "SD-OUTD": "1 0*7 1*4 0*5",
    "SD-OUTS": "1 0*11 1*5",
    "SD-OUTALL": "1 0*7 1*9",
    "SD-ROUT": "1*8 R*9",
    "SD-AOUT": "A 1*11 A*5",
    "SD-AB": "A B*11 A*5",
    "SD-ALL0.5": "0.5*17",
    "SD-LyC-NONE": "0*27",
    "SD-LyC-ALL": "1*27",
    "SD-LyC-INALL": "1*12 0*15",
    "SD-LyC-MIDALL": "1 0*11 1*3 0*12",
    "SD-LyC-OUTALL": "1 0*14 1*12",
    "SDXL-NONE": "0*12",
    "SDXL-ALL": "1*12",
    "SDXL-INALL": "1*5 0*7",
    "SDXL-MIDALL": "1 0*4 1 0*6",
    "SDXL-OUTALL": "1 0*5 1*6",
    "SDXL-LyC-NONE": "0*21",
    "SDXL-LyC-ALL": "1*21",
    "SDXL-LyC-INALL": "1*9 0*12",
    "SDXL-LyC-MIDALL": "1 0*8 1*3 0*9",
    "SDXL-LyC-OUTALL": "1 0*11 1*9",
    "FLUX-DBL-ALL": "1*20",
    "FLUX-DBL-FRONT7": "1*8 0*12",
    "FLUX-DBL-MID6": "1 0*7 1*6 0*6",
    "FLUX-DBL-TAIL6": "1 0*13 1*6",
    "FLUX-SINGLE-ALL": "1 0*19 1*38",
    "FLUX-SINGLE-1to10": "1 0*19 1*10 0*28",
    "FLUX-SINGLE-11to20": "1 0*29 1*10 0*18",
    "FLUX-SINGLE-21to30": "1 0*39 1*10 0*8",
    "FLUX-SINGLE-31to37": "1 0*49 1*8",
    "FLUX-ALL": "1*58",
}

# The same pack's example of a file of one's own (lbw-preset.custom.txt.example). Its SD-LyCOBODY0.5 has 25 values,
# which no reading has, so it is left out; the 26-value ones count the middle block once, as hako does.
_INSPIRE_EXAMPLE = {
    "SD-BODY": "1*8 0*3 1*6",
    "SD-BODY0.5": "1*6 0.2 1 0.2 0*2 0.8 1*5",
    "SD-FACE": "1 0*7 1*3 0*6",
    "SD-FACE0.5": "1 0*7 0.8 1*2 0.2 0*5",
    "SD-FACE0.2": "1 0*7 0.2 0.6 0.8 0.2 0*5",
    "SD-HAND": "1 0 1*2 0.2 0*12",
    "SD-CLOTHING": "1*5 0 0.2 0 0.8 1*2 0.2 0*5",
    "SD-POSE": "1 0*5 0.2 1*3 0*7",
    "SD-PALETTE": "1 0*10 0.8 1*5",
    "SD-KEEPCHAR": "1*5 0*3 1*7 0*2",
    "SD-KEEPBG": "1*6 0.2 1 0.2 0*2 0.8 1*3 0*2",
    "SD-REDUCEFIT": "1 0*7 1*9",
}
_LYCO_EXAMPLE = {
    "SD-LyCOBODY": "1*13 0*5 1*8",
    "SD-LyCOFACE": "1 0*13 1*7 0*5",
    "SD-LyCOFACE0.5": "1 0*13 0.2 0.5 0.8 1*3 0.2 0*5",
    "SD-LyCOCLOTH": "1*8 0 0.2*3 0*4 0.5 0.8 1*2 0.2 0*5",
    "SD-LyCOPOSE": "1 0*8 0.2 1*9 0*7",
    "SD-LyCOKEEPBG": "1*9 0.2 0.4 0.8 1*2 0.8 0.4 0.2*2 0*2 0.8 1*3 0*2",
    "SD-LyCOPALETTE": "1 0*19 0.8 1*5",
}

# hako-mikan/sd-webui-lora-block-weight: names and values.
_HAKO = {
    "NONE": "0*17",
    "ALL": "1*17",
    "INS": "1*4 0*13",
    "IND": "1 0*3 1*3 0*10",
    "INALL": "1*7 0*10",
    "MIDD": "1 0*3 1*8 0*5",
    "OUTD": "1 0*7 1*4 0*5",
    "OUTS": "1 0*11 1*5",
    "OUTALL": "1 0*7 1*9",
    "ALL0.5": "0.5*17",
    "FLUXALL": "1*61",
}
_HAKO_ELEMENTS = {
    "ATTNDEEPON": "IN05-OUT05:attn:1",
    "ATTNDEEPOFF": "IN05-OUT05:attn:0",
    "PROJDEEPOFF": "IN05-OUT05:proj:0",
}

# Where to begin, from what is published. Text encoders are left as they are: none of these works trains them.
STARTING_POINTS: dict[str, Preset] = {
    "SDXL keep content (B-LoRA)": Preset(
        "*=0; TE=1; OUT00=1",
        source="Frenkel et al. 2024, B-LoRA: up_blocks.0.attentions.0 holds the content",
        layout="SDXL",
    ),
    "SDXL keep style (B-LoRA)": Preset(
        "*=0; TE=1; OUT01=1",
        source="Frenkel et al. 2024, B-LoRA: up_blocks.0.attentions.1 holds the style",
        layout="SDXL",
    ),
    "SDXL keep composition (InstantStyle)": Preset(
        "*=0; TE=1; IN08=1",
        source="Wang et al. 2024, InstantStyle: down_blocks.2.attentions.1 captures the spatial layout "
        "(found with an image adapter, not with LoRAs)",
        layout="SDXL",
    ),
    "SD1.5 keep shape (P+)": Preset(
        "*=0; TE=1; IN07=1; IN08=1; M00=1; OUT03-OUT05=1",
        source="Voynov et al. 2023, P+: the coarse layers decide the shape (found with prompts a layer; "
        "the border between coarse and fine is chosen here)",
        layout="SD1.5",
    ),
    "SD1.5 keep style (P+)": Preset(
        "*=1; IN07=0; IN08=0; M00=0; OUT03-OUT05=0",
        source="Voynov et al. 2023, P+: the fine layers decide colour and texture (found with prompts a "
        "layer; the border between coarse and fine is chosen here)",
        layout="SD1.5",
    ),
    "SD1.5 keep face (Inspire example)": Preset(
        _runs(_INSPIRE_EXAMPLE["SD-FACE"]),
        "inspire",
        "SD-FACE of the Inspire Pack's example presets: from practice, not from a paper",
        "SD1.5",
    ),
    "Flux keep likeness (single 7 12 16 20)": Preset(
        "*=0; TE=1; S07=1; S12=1; S16=1; S20=1",
        source="ostris' flux-dev-lora-trainer, layers_to_optimize_regex, after The Last Ben 2024: training these "
        "alone keeps a likeness (from practice, not from a paper)",
        layout="Flux",
    ),
}

_PACK = "ltdrdata/ComfyUI-Inspire-Pack"
_LBW = "hako-mikan/sd-webui-lora-block-weight"
BUILT_IN: dict[str, Preset] = {
    **STARTING_POINTS,
    **{name: Preset(_runs(runs), "inspire", _PACK) for name, runs in _INSPIRE.items()},
    **{
        name: Preset(_runs(runs), "inspire", f"{_PACK}, example")
        for name, runs in _INSPIRE_EXAMPLE.items()
    },
    **{
        name: Preset(_runs(runs), "hako", f"{_PACK}, example")
        for name, runs in _LYCO_EXAMPLE.items()
    },
    **{name: Preset(_runs(runs), "hako", _LBW) for name, runs in _HAKO.items()},
    **{name: Preset(text, "hako", _LBW) for name, text in _HAKO_ELEMENTS.items()},
}

_VECTOR_LINE = re.compile(r"^([^:#@,]+):\s*([^:,]+(?:,[^:,]+){5,})$")
_ELEMENT_LINE = re.compile(r"^(?:([^:#@,]+):)?([^:,]*:[^:,]*:[^:,]*)$")


def parse_preset_file(text: str, source: str, dialect: str = "auto") -> dict[str, Preset]:
    """The presets of a file of either pack: "NAME:v,v,v" lines, and hako's elements "NAME:BLOCKS:ELEMENTS:RATIO".

    Lines that begin with "@" (plans for X/Y plots) or "#", and lines of neither form, are comments, as both packs
    read them. An element line without a name goes on with the preset above it, up to an empty line.
    """
    found: dict[str, Preset] = {}
    current: str | None = None
    for line in (raw.strip() for raw in text.splitlines()):
        if not line:
            current = None
        elif line.startswith(("#", "@")):
            continue
        elif match := _VECTOR_LINE.match(line):
            found[match[1].strip()] = Preset(match[2], dialect, source)
            current = None
        elif match := _ELEMENT_LINE.match(line):
            current = match[1].strip() if match[1] else current
            if current is not None:
                before = f"{found[current].text}\n" if not match[1] else ""
                found[current] = Preset(before + match[2], "hako", source)
    return found


def read_preset_files(paths: Iterable[Path]) -> dict[str, Preset]:
    """The presets of several files; later files win. Raises StackError for a file that is no text.

    The reading is known by the file's name: lbw-preset* is the Inspire Pack's, lbwpresets and elempresets are hako's.
    """
    found: dict[str, Preset] = {}
    for path in paths:
        try:
            text = path.read_text("utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise StackError(
                f"The preset file {path.name} cannot be read: {error}. Save it as UTF-8 text, or take it away."
            ) from error
        name = path.name.lower()
        hako = name.startswith(("lbwpreset", "elempreset"))
        dialect = "hako" if hako else "inspire" if name.startswith("lbw-preset") else "auto"
        found |= parse_preset_file(text, path.name, dialect)
    return found


def known_presets(own: Mapping[str, Preset] | None = None) -> dict[str, Preset]:
    """The built-in presets and a user's own; a name of one's own wins."""
    return BUILT_IN | dict(own or {})
