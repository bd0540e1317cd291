"""Write locales/en/nodeDefs.json: the words of every node as the nodes declare them, for who translates them.

.loom/venv/bin/python -m tools.make_locales     (the interpreter that dev.py made; asks a running host)

The other languages hold what was translated; what they lack the page shows in English.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tools.devkit.base_directory import PACK_FOLDER, standard_base
from tools.devkit.environment import ROOT, located
from tools.devkit.host_client import HostClient
from tools.devkit.host_process import running_host

ENGLISH = ROOT / "locales" / "en" / "nodeDefs.json"


def escaped(text: str) -> str:
    """A text for the page's messages, in which these signs mean something."""
    return "".join(f"{{'{sign}'}}" if sign in "{}@|" else sign for sign in text)


def _shown_as_it_is(text: str) -> bool:
    """Whether a tooltip has none of these signs. Newer pages show tooltips without reading them as messages, escapes and
    all, so one with such signs is left out: then the page shows what the node itself says.
    """
    return text == escaped(text)


def words(info: Mapping[str, Any]) -> dict[str, Any]:
    """One node's words as the page looks for them. info: of the node, as the host's /object_info has it."""
    inputs = {
        name: {"tooltip": spec[1]["tooltip"]}
        for section in ("required", "optional")
        for name, spec in info["input"].get(section, {}).items()
        if _shown_as_it_is(spec[1]["tooltip"])
    }
    outputs = {
        str(place): {"name": escaped(name), "tooltip": escaped(tooltip)}
        for place, (name, tooltip) in enumerate(
            zip(info["output_name"], info["output_tooltips"], strict=True)
        )
    }
    said = {"display_name": info["display_name"], "description": escaped(info["description"])}
    return {**said, "inputs": inputs, "outputs": outputs}


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="loom-locales-") as folder:
        base = standard_base(Path(folder) / "host")
        with running_host(located(), base) as host:
            known = HostClient(host.url).object_info()
    ours = {
        name: words(info)
        for name, info in known.items()
        if info["python_module"] == f"custom_nodes.{PACK_FOLDER}"
    }
    ENGLISH.parent.mkdir(parents=True, exist_ok=True)
    ENGLISH.write_text(json.dumps(ours, ensure_ascii=False, indent=2) + "\n", "utf-8")
    print(f"{ENGLISH.relative_to(ROOT)}: {len(ours)} nodes")


if __name__ == "__main__":
    main()
